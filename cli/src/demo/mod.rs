//! `bluegreen demo`: two model servers, an Envoy with the filter and live traffic, without a checkout and without Rust.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

/// How to show it.
#[derive(Args)]
pub struct Arguments {}

/// Shows it.
///
/// # Errors
/// There is no Envoy, or a port is in use.
pub fn run(_: &Arguments) -> Result<ExitCode> {
    bail!("not there yet")
}
