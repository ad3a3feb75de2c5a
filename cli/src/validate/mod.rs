//! `bluegreen validate`: finds in files what is wrong with a set-up, before an Envoy reads them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

/// What to check.
#[derive(Args)]
pub struct Arguments {
    /// Plugin configurations, whole Envoy files, or manifests: YAML or JSON
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Checks each file.
///
/// # Errors
/// A file that cannot be read.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    bail!("not there yet: {} files", arguments.files.len())
}
