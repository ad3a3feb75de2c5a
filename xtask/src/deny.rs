//! What the project depends on: licences, duplicates, sources, and what the RustSec database knows of them.

use std::process::Command;

use anyhow::Result;
use bluegreen_programs::{Checkout, Progress, Unavailable, cargo_tool, process};

/// The version of cargo-deny.
const VERSION: &str = "0.20.2";

/// Licences, duplicates, sources: all that the crates themselves say.
pub fn check(checkout: &Checkout) -> Result<()> {
    // Of every platform: a build has downloaded those of this one, and a machine that has just built has no others.
    let progress = Progress::start("Fetching the crates of all platforms");
    process::quiet(checkout.cargo("fetch").arg("--locked"), &progress).map_err(|error| {
        Unavailable::error(format!("the crates of all platforms cannot be fetched from here: {error:#}"))
    })?;
    progress.done("Fetched the crates of all platforms");
    process::show(command(checkout)?.args(["--offline", "--workspace", "check", "licenses", "sources"]))?;
    // Two versions of a crate cost bytes in the module, and only time elsewhere: in tests too.
    process::show(command(checkout)?.args(["--offline", "--exclude-dev", "check", "bans"]))
}

/// Known vulnerabilities, by a database that has to be fetched first.
pub fn advisories(checkout: &Checkout) -> Result<()> {
    let progress = Progress::start("Fetching the advisory database");
    process::quiet(command(checkout)?.args(["fetch", "db"]), &progress).map_err(|error| {
        Unavailable::error(format!("the RustSec advisory database cannot be fetched from here: {error:#}"))
    })?;
    progress.done("Fetched the advisory database");
    process::show(command(checkout)?.args(["--workspace", "check", "--disable-fetch", "advisories"]))
}

fn command(checkout: &Checkout) -> Result<Command> {
    let binary = cargo_tool::obtain(checkout, "cargo-deny", VERSION, "cargo-deny", "checking the dependencies")?;
    let mut command = Command::new(binary);
    command.current_dir(checkout.root());
    Ok(command)
}
