//! What machines of continuous integration need that cannot reach everything: see `ci/README.md`.
//!
//! `cargo xtask test` calls this when `CI=true`. It does not ask for itself.

use std::path::PathBuf;
use std::process::ExitCode;

use bluegreen_programs::task;
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
    let Arguments { task } = Arguments::parse();
    task::run(|checkout| {
        match task {
            Task::StandIns(StandIns::Make { envoy }) => stand_ins::make(checkout, &envoy)?,
            Task::StandIns(StandIns::Remove) => stand_ins::remove(checkout)?,
            Task::ComposeProgram => println!("{}", compose_program::obtain(checkout)?.display()),
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
}
