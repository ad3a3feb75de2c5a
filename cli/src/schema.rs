//! `bluegreen schema`: the JSON Schema of the plugin configuration, for editors.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use bluegreen_core::config::Config;

/// Prints the schema.
///
/// # Errors
/// Standard output is closed.
pub fn run() -> Result<ExitCode> {
    std::io::stdout().write_all(printed()?.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The schema as text.
fn printed() -> Result<String> {
    Ok(format!("{:#}\n", Config::schema()))
}
