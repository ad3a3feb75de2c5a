//! What the suites share: the toolchain, obtained on first use, and the way a cargo test is run and counted.

use std::cell::OnceCell;
use std::io::{IsTerminal, stdout};
use std::process::Command;

use anyhow::{Error, Result, anyhow};
use bluegreen_programs::{Checkout, Unavailable, process};

use crate::module;
use crate::toolchain::WasmToolchain;

use super::totals::{Tally, Totals};

/// One run of the tests.
pub struct Session<'a> {
    pub checkout: &'a Checkout,
    filter: Option<String>,
    toolchain: OnceCell<Result<WasmToolchain<'a>>>,
}

// === impl Session ===

impl<'a> Session<'a> {
    pub fn new(checkout: &'a Checkout, filter: Option<String>) -> Self {
        Self { checkout, filter, toolchain: OnceCell::new() }
    }

    pub fn toolchain(&self) -> Result<&WasmToolchain<'a>> {
        self.toolchain.get_or_init(|| WasmToolchain::obtain(self.checkout)).as_ref().map_err(repeat)
    }

    /// Builds `dist/bluegreen.wasm`.
    pub fn build_module(&self) -> Result<()> {
        module::build(self.checkout, self.toolchain()?).map(|_| ())
    }

    /// `cargo test` for packages that run on this machine itself.
    pub fn native_tests(&self, packages: &[&str]) -> Command {
        let mut cargo = self.checkout.cargo("test");
        cargo.args(packages.iter().flat_map(|package| ["--package", package]));
        cargo
    }

    /// Runs a `cargo test` and counts what its runners report.
    pub fn count(&self, cargo: &mut Command, arguments_of_runner: &[&str]) -> Result<Totals> {
        // One test that fails must not keep the following binaries from being counted.
        cargo.args(["--no-fail-fast", "--"]).args(arguments_of_runner).args(&self.filter);
        let mut tally = Tally::default();
        let status = process::stream(cargo, |output| tally.feed(output))?;
        Ok(tally.finish(status.success()))
    }

    /// The same for Rust's own test runner, which colours its output when asked.
    pub fn count_native(&self, cargo: &mut Command) -> Result<Totals> {
        let colour = if stdout().is_terminal() { "--color=always" } else { "--color=never" };
        self.count(cargo, &[colour])
    }
}

/// An error that is kept for everybody who asks.
fn repeat(error: &Error) -> Error {
    let text = format!("{error:#}");
    if Unavailable::is(error) { Unavailable::error(text) } else { anyhow!(text) }
}
