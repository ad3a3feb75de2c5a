//! What the project depends on: licences, duplicates, sources, and what the RustSec database knows of them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::checkout::Checkout;
use crate::missing::Missing;
use crate::process;
use crate::progress::Progress;

/// cargo-deny, which is built once and kept.
const VERSION: &str = "0.20.2";

/// Licences, duplicates, sources: all that the crates themselves say.
pub fn check(checkout: &Checkout) -> Result<()> {
    // Of every platform: a build has downloaded those of this one, and a machine that has just built has no others.
    let progress = Progress::start("Fetching the crates of all platforms");
    process::quiet(checkout.cargo("fetch").arg("--locked"), &progress).map_err(|error| {
        Missing::error(format!("the crates of all platforms cannot be fetched from here: {error:#}"))
    })?;
    progress.done("Fetched the crates of all platforms");
    process::show(command(checkout)?.args(["--offline", "--workspace", "check", "licenses", "sources"]))?;
    // Two versions of a crate cost bytes in the module, and only time elsewhere.
    process::show(command(checkout)?.args(["--offline", "check", "bans"]))
}

/// Known vulnerabilities, by a database that has to be fetched first.
pub fn advisories(checkout: &Checkout) -> Result<()> {
    let progress = Progress::start("Fetching the advisory database");
    process::quiet(command(checkout)?.args(["fetch", "db"]), &progress).map_err(|error| {
        Missing::error(format!("the RustSec advisory database cannot be fetched from here: {error:#}"))
    })?;
    progress.done("Fetched the advisory database");
    process::show(command(checkout)?.args(["--workspace", "check", "--disable-fetch", "advisories"]))
}

fn command(checkout: &Checkout) -> Result<Command> {
    let mut command = Command::new(obtain(checkout)?);
    command.current_dir(checkout.root());
    Ok(command)
}

fn obtain(checkout: &Checkout) -> Result<PathBuf> {
    let folder = checkout.tool(&format!("cargo-deny-{VERSION}"));
    let binary = folder.join("bin").join("cargo-deny");
    if binary.is_file() {
        return Ok(binary);
    }
    let progress = Progress::start(format!("Building cargo-deny {VERSION}, once: this takes a minute or more"));
    // Kept beyond an interruption, so that the next attempt goes on from there.
    let scratch = checkout.tool(&format!("cargo-deny-{VERSION}.build"));
    let mut cargo = checkout.cargo("install");
    cargo.args(["cargo-deny", "--version", VERSION, "--locked", "--root"]).arg(&folder);
    // Unoptimised it is built in a quarter of the time.
    cargo.arg("--debug").env("CARGO_PROFILE_DEV_DEBUG", "false");
    cargo.env("CARGO_TARGET_DIR", &scratch).env_remove("CARGO_BUILD_TARGET");
    process::quiet(&mut cargo, &progress)
        .map_err(|error| Missing::error(format!("cargo-deny {VERSION} could not be built: {error:#}")))?;
    // Only space is lost if this fails.
    let _ = std::fs::remove_dir_all(scratch);
    progress.done(&format!("Built cargo-deny {VERSION}"));
    Ok(binary)
}
