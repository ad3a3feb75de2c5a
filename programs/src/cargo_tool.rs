//! Programs of crates.io, built by cargo once and kept.

use std::path::PathBuf;

use anyhow::Result;

use crate::checkout::Checkout;
use crate::process;
use crate::progress::Progress;
use crate::tool;
use crate::unavailable::Unavailable;

/// The path of `binary` out of the crate `package`.
///
/// # Errors
/// [`Unavailable`] when it cannot be built here; `purpose` says what that keeps from running.
pub fn obtain(checkout: &Checkout, package: &str, version: &str, binary: &str, purpose: &str) -> Result<PathBuf> {
    let name = format!("{package}-{version}");
    tool::once(checkout, &name, &format!("bin/{binary}"), |folder| {
        let progress = Progress::start(format!("Building {binary} {version}, once: this takes a minute or more"));
        // Outside of the installed folder and kept after an interruption: the next attempt continues from there.
        let scratch = checkout.tool(&format!("{name}.build"));
        let install = |lock: Option<&str>| {
            let mut cargo = checkout.cargo("install");
            cargo.args([package, "--bin", binary, "--version", version]).args(lock).arg("--root").arg(folder);
            // Unoptimised it is built in a quarter of the time.
            cargo.arg("--debug").env("CARGO_PROFILE_DEV_DEBUG", "false");
            cargo.env("CARGO_TARGET_DIR", &scratch).env_remove("CARGO_BUILD_TARGET");
            process::quiet(&mut cargo, &progress)
        };
        // A mirror of crates.io that lags behind may lack the newest of the versions that were locked.
        install(Some("--locked")).or_else(|_| install(None)).map_err(|error| {
            Unavailable::error(format!("{purpose} needs {package} {version}, which could not be built: {error:#}"))
        })?;
        // Only space is lost if this fails.
        let _ = std::fs::remove_dir_all(scratch);
        progress.done(&format!("Built {binary} {version}"));
        Ok(())
    })
}
