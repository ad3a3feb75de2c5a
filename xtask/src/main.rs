//! The project's own tasks, `cargo xtask …`: everything a developer or a machine does with this repository starts here.
//!
//! Read in this order: [`test`] and [`module`] say what is done. The crate `bluegreen-programs` brings what is needed to a
//! fresh machine, and runs children so that none outlives this
//! process. Demo and benches are crates of their own, which [`forward`] runs.

use std::ffi::OsString;
use std::process::ExitCode;

use bluegreen_programs::task;
use bluegreen_programs::toolchain::WasmToolchain;
use clap::{Parser, Subcommand};

use crate::test::TestOptions;

mod deny;
mod digest;
mod dist;
mod forward;
mod fuzz;
mod image;
mod imports;
mod last_release;
mod lint;
mod module;
mod prepare;
mod program;
mod sbom;
mod test;
mod trim;
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
    /// Obtain the other projects' servers that tests run: built or installed once, and kept in target/tools
    Prepare,
    /// Run every test that this machine can run
    Test(TestOptions),
    /// Switch live traffic between two model versions, told step by step
    #[command(disable_help_flag = true)]
    Demo(Forwarded),
    /// Write dist/image, the module as an OCI image for meshes; no Docker engine needed
    Image,
    /// Write everything that a release has to dist/: module, image, command line, bill of materials, checksums
    Dist,
    /// Measure the filter against what people would use instead
    #[command(disable_help_flag = true)]
    Bench(Forwarded),
    /// Count millions of requests through switches, canaries, shadows and clients that leave
    #[command(disable_help_flag = true)]
    Soak(Forwarded),
    /// Break everything around a fleet, and look for lost writes
    #[command(disable_help_flag = true)]
    Chaos(Forwarded),
}

/// What another program of this workspace is given as it is; `--help` says what it takes.
#[derive(clap::Args)]
struct Forwarded {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

fn main() -> ExitCode {
    let Arguments { task } = Arguments::parse();
    task::run(|checkout| {
        match task {
            Task::Demo(Forwarded { arguments }) => return forward::demo(checkout, &arguments),
            Task::Bench(Forwarded { arguments }) => return forward::bench(checkout, &arguments),
            Task::Soak(Forwarded { arguments }) => return forward::soak(checkout, &arguments),
            Task::Chaos(Forwarded { arguments }) => return forward::chaos(checkout, &arguments),
            Task::Test(options) => return test::run(checkout, &options),
            Task::Build => drop(module::build(checkout, &WasmToolchain::obtain(checkout)?)?),
            Task::Lint => lint::run(checkout)?,
            Task::Prepare => prepare::run(checkout)?,
            Task::Image => dist::image(checkout)?,
            Task::Dist => dist::run(checkout)?,
        }
        Ok(ExitCode::SUCCESS)
    })
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
    fn what_demo_and_bench_are_given_is_passed_on() {
        let task = Arguments::try_parse_from(["xtask", "bench", "--quick", "switch", "--help"]).map(|all| all.task);
        let Ok(Task::Bench(Forwarded { arguments })) = task else { panic!("no bench") };
        assert_eq!(arguments, ["--quick", "switch", "--help"]);
    }

    #[test]
    fn a_wheel_without_v8_is_refused_on_the_command_line() {
        let refusal = Arguments::try_parse_from(["xtask", "test", "--envoy", "1.40.0,1.38.3"]).err();
        assert!(refusal.is_some_and(|error| error.to_string().contains("without V8")));
    }
}
