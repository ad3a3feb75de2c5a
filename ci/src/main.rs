//! What machines of continuous integration need that cannot reach everything: see `ci/README.md`.
//!
//! `cargo xtask test` calls this when `CI=true`. It does not ask for itself.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use bluegreen_programs::{Checkout, process};
use clap::{Parser, Subcommand};

mod compose_program;
mod stand_ins;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Stand-ins for the base images that cannot be pulled here
    #[command(subcommand)]
    StandIns(StandIns),
    /// Print the path of version 2 of the compose program, out of a package of Debian
    ComposeProgram,
}

#[derive(Subcommand)]
enum StandIns {
    /// Make those that are needed; dist/bluegreen.wasm has been built
    Make {
        /// The Envoy binary for the one of Envoy's image
        #[arg(long)]
        envoy: PathBuf,
    },
    /// Remove them and what was built from them
    Remove,
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    process::end_all_on_signals()?;
    let checkout = Checkout::locate()?;
    match task {
        Task::StandIns(StandIns::Make { envoy }) => stand_ins::make(&checkout, &envoy),
        Task::StandIns(StandIns::Remove) => stand_ins::remove(&checkout),
        Task::ComposeProgram => {
            println!("{}", compose_program::obtain(&checkout)?.display());
            Ok(())
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
}
