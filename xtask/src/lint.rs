//! The formatting and the lints, for the host and for wasm32.

use std::process::Command;

use anyhow::Result;
use bluegreen_programs::checkout::is_ci;
use bluegreen_programs::toolchain::WasmToolchain;
use bluegreen_programs::{Checkout, Unavailable, process};

use crate::imports;

/// What runs inside Envoy's VM.
const IN_THE_VM: [&str; 4] = ["--package", "bluegreen", "--package", "bluegreen-core"];

const DENY_WARNINGS: [&str; 3] = ["--", "--deny", "warnings"];

/// All checks, the first failure ends them.
pub fn run(checkout: &Checkout) -> Result<()> {
    format(checkout)?;
    imports::check(checkout)?;
    clippy_for_host(checkout)?;
    clippy_for_wasm(&WasmToolchain::obtain(checkout)?)
}

/// `cargo fmt --check`.
pub fn format(checkout: &Checkout) -> Result<()> {
    require(checkout, "fmt", "rustfmt")?;
    process::show(checkout.cargo("fmt").args(["--all", "--check"]))?;
    // A workspace of its own.
    process::show(checkout.cargo("fmt").args(["--manifest-path", "fuzz/Cargo.toml", "--check"]))
}

/// clippy for everything that this machine runs itself.
pub fn clippy_for_host(checkout: &Checkout) -> Result<()> {
    require(checkout, "clippy", "clippy")?;
    process::show(checkout.cargo("clippy").args(["--workspace", "--all-targets", "--all-features"]).args(DENY_WARNINGS))
}

/// clippy for what runs in the VM, which has code that only wasm32 compiles.
pub fn clippy_for_wasm(toolchain: &WasmToolchain<'_>) -> Result<()> {
    process::show(toolchain.cargo("clippy").args(IN_THE_VM).args(DENY_WARNINGS))
}

/// rustup's minimal profile lacks both tools.
fn require(checkout: &Checkout, subcommand: &str, component: &str) -> Result<()> {
    let works = || process::answer(checkout.cargo(subcommand).arg("--version")).is_ok();
    if works() {
        return Ok(());
    }
    // Its failure shows in the next line.
    if is_ci() && process::answer(Command::new("rustup").args(["component", "add", component])).is_ok() && works() {
        return Ok(());
    }
    Err(Unavailable::error(format!("`cargo {subcommand}` is not installed: run `rustup component add {component}`")))
}
