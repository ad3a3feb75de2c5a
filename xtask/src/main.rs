//! The project's own tasks, `cargo xtask …`: everything a developer or a machine does with this repository starts here.
//!
//! Read in this order: [`test`] and [`module`] say what is done, [`toolchain`], [`envoy`] and [`wasm_bindgen`] get what
//! it needs onto a fresh machine, [`process`] and [`interrupt`] run children so that none outlives this process.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::bench::BenchOptions;
use crate::checkout::Checkout;
use crate::demo::DemoOptions;
use crate::test::TestOptions;
use crate::toolchain::WasmToolchain;

mod bench;
mod checkout;
mod compose;
mod demo;
mod deny;
mod dist;
mod envoy;
mod etcd;
mod image;
mod imports;
mod interrupt;
mod lint;
mod missing;
mod mlflow;
mod module;
mod packages;
mod prepare;
mod process;
mod progress;
mod python;
mod sbom;
mod test;
mod toolchain;
mod trim;
mod wasm_bindgen;
mod workflows;

/// The tasks of the bluegreen repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build dist/bluegreen.wasm
    Build,
    /// Check the formatting and the lints, for the host and for wasm32
    Lint,
    /// Run every test that this machine can run
    Test(TestOptions),
    /// Switch live traffic between two model versions, told step by step
    Demo {
        /// Run without pauses and fail if any step's result is not the expected one
        #[arg(long)]
        check: bool,
        /// Leave everything running at the end
        #[arg(long)]
        keep: bool,
        /// The tutorial's story with a real MLflow: its registry moves traffic
        #[arg(long)]
        mlflow: bool,
        /// Four Envoys that follow one etcd
        #[arg(long)]
        fleet: bool,
    },
    /// Write dist/image, the module as an OCI image for meshes; no Docker engine needed
    Image,
    /// Write everything that a release has to dist/: module, image, bill of materials, checksums
    Dist,
    /// Measure the filter against what people would use instead
    Bench(BenchOptions),
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    interrupt::install()?;
    let checkout = Checkout::locate()?;
    match task {
        Task::Build => module::build(&checkout, &WasmToolchain::obtain(&checkout)?).map(|_| ExitCode::SUCCESS),
        Task::Lint => lint::run(&checkout).map(|()| ExitCode::SUCCESS),
        Task::Image => dist::image(&checkout).map(|()| ExitCode::SUCCESS),
        Task::Dist => dist::run(&checkout).map(|()| ExitCode::SUCCESS),
        Task::Test(options) => test::run(&checkout, &options),
        Task::Bench(options) => bench::run(&checkout, &options).map(|()| ExitCode::SUCCESS),
        Task::Demo { check, keep, mlflow, fleet } => {
            demo::run(&DemoOptions { check, keep, mlflow, fleet }, &checkout).map(|()| ExitCode::SUCCESS)
        }
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_wheel_without_v8_is_refused_on_the_command_line() {
        let refusal = Arguments::try_parse_from(["xtask", "test", "--envoy", "1.40.0,1.38.3"]).err();
        assert!(refusal.is_some_and(|error| error.to_string().contains("without V8")));
    }
}
