//! The demo: two model versions, one Envoy, live traffic, and the switch between them told step by step.
//!
//! Read [`story`] first: it is what the user sees. [`environment`] starts and stops the processes, [`traffic`] sends and
//! judges the requests that flow all along, [`registry`] is the MLflow of `--mlflow`, [`call`] is a request that is shown
//! as curl and sent, [`narrator`] prints and paces, [`summary`] is the table at the end, [`ports`] looks before all this
//! whether there is room for it. [`fleet`] is the story of `--fleet`.
//!
//! `bluegreen demo`, which has no checkout, tells a shorter story with the same models, traffic, narrator and summary.

mod call;
mod environment;
mod fleet;
pub mod model;
pub mod narrator;
pub mod ports;
mod registry;
mod story;
pub mod summary;
pub mod traffic;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bluegreen_programs::prepared::Prepared;
use bluegreen_programs::{Checkout, etcd, task};
use clap::Parser;

use environment::{Environment, Models};
use fleet::FleetStory;
use narrator::Narrator;
use story::Story;

/// Switch live traffic between two model versions, told step by step
#[derive(Parser)]
#[command(bin_name = "cargo xtask demo")]
struct Options {
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
}

/// What `cargo xtask demo` runs.
pub fn main() -> ExitCode {
    let options = Options::parse();
    task::run(|checkout| {
        if options.fleet {
            tell_fleet(&options, checkout)?
        } else {
            tell(&options, checkout)?
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Tells the story; any step whose result is not the expected one is an error.
fn tell(options: &Options, checkout: &Checkout) -> Result<()> {
    // Before anything is downloaded or built: a port in use is found out in a moment.
    let taken = ports::taken(options.mlflow);
    if !taken.is_empty() {
        bail!("{}; free {} and try again", taken.join(", "), if taken.len() == 1 { "it" } else { "them" });
    }
    let models = if options.mlflow {
        Models::Mlflow(registry::Registry::obtain(checkout)?)
    } else {
        Models::Small(environment::build_model_server(checkout)?)
    };
    let prepared = Prepared::obtain(checkout)?;
    runtime()?.block_on(async {
        let mut environment = Environment::new(checkout, prepared, models)?;
        let mut narrator = Narrator::new(options.check);
        narrator.introduction(&environment.introduction());
        let story = Story::new(&mut environment, &mut narrator)?;
        if options.mlflow {
            story.tell_with_registry().await?
        } else {
            story.tell().await?
        }
        if options.keep { keep(&mut environment, &narrator).await } else { Ok(()) }
    })
}

/// Tells the fleet's story.
fn tell_fleet(options: &Options, checkout: &Checkout) -> Result<()> {
    etcd::obtain()?;
    let prepared = Prepared::obtain(checkout)?;
    runtime()?.block_on(async {
        let mut narrator = Narrator::new(options.check);
        FleetStory::begin(&mut narrator, &prepared).await?.tell(options.keep).await
    })
}

/// More than one thread, so that a slow terminal delays no request of the live traffic.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("cannot start the asynchronous runtime")
}

/// Leaves everything running until a signal ends this process, or until one of the processes ends.
async fn keep(environment: &mut Environment, narrator: &Narrator) -> Result<()> {
    environment.start_model(&model::BLUE).await?;
    narrator.invitation(environment.logs());
    loop {
        environment.ensure_running()?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }
}
