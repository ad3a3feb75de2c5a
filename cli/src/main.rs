//! `bluegreen`, the command line: sees and moves the traffic between two versions of a model, and checks configurations.
//!
//! Each command is a module with its own arguments. Those that ask Envoys use `api`; [`validate`] and [`schema`] read files
//! with the filter's own reader and ask nobody; [`demo`] brings up all that there is to try.

mod validate;
mod schema;
mod demo;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Blue-green deployment of ML models in Envoy
#[derive(Parser)]
#[command(name = "bluegreen", version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check configurations offline: plugin configurations, whole Envoy files, manifests of meshes
    Validate(validate::Arguments),
    /// Print the JSON Schema of the configuration
    Schema,
    /// Try it: two model servers, an Envoy with the filter, and live traffic
    Demo(demo::Arguments),
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bluegreen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<ExitCode> {
    match options.command {
        Command::Validate(arguments) => validate::run(&arguments),
        Command::Schema => schema::run(),
        Command::Demo(arguments) => demo::run(&arguments),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }
}
