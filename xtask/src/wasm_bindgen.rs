//! The runner that executes wasm32 tests in Node, of the very version the tests are linked with.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use bluegreen_programs::{Checkout, Unavailable, cargo_tool, packages, process};

const RUNNER: &str = "wasm-bindgen-test-runner";

/// Node 18, which Debian 12 has, crashes on the functions that wasm-bindgen hands to JavaScript.
const OLDEST_NODE: u32 = 20;

/// The path of the runner, built on first use and kept; Node is there too.
pub fn obtain_runner(checkout: &Checkout) -> Result<PathBuf> {
    require_node()?;
    let lock_file = checkout.root().join("Cargo.lock");
    let lock = fs::read_to_string(&lock_file).with_context(|| lock_file.display().to_string())?;
    let version = locked_version(&lock, "wasm-bindgen").context("Cargo.lock has no wasm-bindgen")?;
    // Unoptimised, as it is built, it spends some seconds more on each run.
    cargo_tool::obtain(checkout, "wasm-bindgen-cli", version, RUNNER, "the wasm32 tests")
}

fn require_node() -> Result<()> {
    let release = || process::answer(Command::new("node").arg("--version")).ok();
    if release().is_some_and(|release| is_recent(&release)) {
        return Ok(());
    }
    if release().is_none() {
        packages::install(&["nodejs"], "running wasm32 tests in Node")?;
    }
    match release() {
        Some(release) if is_recent(&release) => Ok(()),
        Some(release) => {
            Err(Unavailable::error(format!("the wasm32 tests need Node {OLDEST_NODE} or later, not {release}")))
        }
        None => Err(Unavailable::error(format!("the wasm32 tests need Node {OLDEST_NODE} or later: install nodejs"))),
    }
}

/// Whether `v20.20.2` is new enough.
fn is_recent(release: &str) -> bool {
    let major = release.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major >= OLDEST_NODE)
}

/// The version of `package` in the text of a `Cargo.lock`.
fn locked_version<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    lines.nth(1)?.strip_prefix("version = \"")?.strip_suffix('"')
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = r#"
version = 4

[[package]]
name = "wasm-bindgen-test"
version = "0.3.80"

[[package]]
name = "wasm-bindgen"
version = "0.2.130"
"#;

    #[test]
    fn the_version_is_that_of_the_package_with_exactly_this_name() {
        assert_eq!(locked_version(LOCK, "wasm-bindgen"), Some("0.2.130"));
    }

    #[test]
    fn an_old_node_is_told_from_a_recent_one() {
        assert!(is_recent("v20.20.2") && is_recent("v100.0.0"));
        assert!(!is_recent("v18.20.4") && !is_recent("") && !is_recent("node"));
    }

    #[test]
    fn a_package_that_is_not_locked_has_no_version() {
        assert_eq!(locked_version(LOCK, "wasm"), None);
    }
}
