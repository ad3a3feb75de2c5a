//! `bluegreen schema`: the JSON Schema of the plugin configuration, for editors.

use std::process::ExitCode;

use anyhow::{Result, bail};

/// Prints the schema.
///
/// # Errors
/// Standard output is closed.
pub fn run() -> Result<ExitCode> {
    bail!("not there yet")
}
