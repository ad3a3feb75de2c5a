//! The runner that executes wasm32 tests in Node, of the very version the tests are linked with.

use std::path::PathBuf;
use std::process::Command;

use crate::{Checkout, Unavailable, cargo_tool, packages, process};
use anyhow::{Context, Result};

const RUNNER: &str = "wasm-bindgen-test-runner";

/// Node 18, which Debian 12 has, crashes on the functions that wasm-bindgen hands to JavaScript.
const OLDEST_NODE: u32 = 20;

/// The path of the runner, built on first use and kept; Node is there too.
pub fn obtain_runner(checkout: &Checkout) -> Result<PathBuf> {
    require_node()?;
    // `registry+https://…#wasm-bindgen@0.2.130`, as it is locked.
    let package = process::answer(checkout.cargo("pkgid").arg("wasm-bindgen"))?;
    let (_, version) = package.rsplit_once('@').with_context(|| format!("no version in {package}"))?;
    // Unoptimised, as it is built, it spends some seconds more on each run.
    cargo_tool::obtain(checkout, "wasm-bindgen-cli", version, RUNNER, "the wasm32 tests")
}

fn require_node() -> Result<()> {
    let release = || process::answer(Command::new("node").arg("--version")).ok();
    let found = match release() {
        None => packages::install(&["nodejs"], "running wasm32 tests in Node").map(|()| release())?,
        found => found,
    };
    if found.as_deref().is_some_and(is_recent) {
        return Ok(());
    }
    let found = found.unwrap_or_else(|| "none".to_owned());
    Err(Unavailable::error(format!("the wasm32 tests need Node {OLDEST_NODE} or later, and there is {found}")))
}

/// Whether `v20.20.2` is new enough.
fn is_recent(release: &str) -> bool {
    let major = release.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major >= OLDEST_NODE)
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_node_is_told_from_a_recent_one() {
        assert!(is_recent("v20.20.2") && is_recent("v100.0.0"));
        assert!(!is_recent("v18.20.4") && !is_recent("") && !is_recent("node"));
    }
}
