//! What the suites share: the toolchain and the test programs, made on first use, and the way tests are run and counted.

use std::cell::OnceCell;
use std::io::{IsTerminal, stdout};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow};
use bluegreen_programs::process::ManagedProcess;
use bluegreen_programs::toolchain::WasmToolchain;
use bluegreen_programs::{Checkout, Unavailable, process};

use crate::module;

use super::programs::{Programs, Tests};
use super::totals::{Tally, Totals};

/// One run of the tests.
pub struct Session<'a> {
    pub checkout: &'a Checkout,
    /// What the names of tests have to contain.
    pub filter: Option<String>,
    /// How long each fuzz target runs.
    pub fuzz_time: Duration,
    /// When it has to be over.
    pub ends: Option<Instant>,
    /// What obtains the control planes meanwhile.
    pub preparing: Option<ManagedProcess>,
    /// The tests of the chosen suites; `None` for those of all suites.
    chosen: Option<Vec<Tests>>,
    programs: OnceCell<Result<Programs>>,
    toolchain: OnceCell<Result<WasmToolchain<'a>>>,
}

// === impl Session ===

impl<'a> Session<'a> {
    pub fn new(
        checkout: &'a Checkout,
        filter: Option<String>,
        chosen: Option<Vec<Tests>>,
        fuzz_time: Duration,
    ) -> Self {
        let (programs, toolchain) = (OnceCell::new(), OnceCell::new());
        Self { checkout, filter, fuzz_time, ends: None, preparing: None, chosen, programs, toolchain }
    }

    /// Fails where less than `longest` minutes are left.
    ///
    /// # Errors
    /// `Unavailable`, with how many are left.
    pub fn ensure_time_for(&self, longest: u64) -> Result<()> {
        let Some(ends) = self.ends else { return Ok(()) };
        let left = ends.saturating_duration_since(Instant::now());
        if left >= Duration::from_secs(60 * longest) {
            return Ok(());
        }
        let left = left.as_secs() / 60;
        Err(Unavailable::error(format!("it may take {longest} min, and {left} are left of those of --within")))
    }

    /// Waits until all is prepared that could be, as long as `longest` minutes are left then.
    ///
    /// # Errors
    /// As [`Self::ensure_time_for`].
    pub fn wait_until_prepared(&self, longest: u64) -> Result<()> {
        let Some(preparing) = &self.preparing else { return Ok(()) };
        while preparing.ended()?.is_none() {
            self.ensure_time_for(longest)?;
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    pub fn toolchain(&self) -> Result<&WasmToolchain<'a>> {
        self.toolchain.get_or_init(|| WasmToolchain::obtain(self.checkout)).as_ref().map_err(repeat)
    }

    /// Builds `dist/bluegreen.wasm`.
    pub fn build_module(&self) -> Result<()> {
        module::build(self.checkout, self.toolchain()?).map(|_| ())
    }

    /// The test programs of the chosen suites, built on first use.
    pub fn programs(&self) -> Result<&Programs> {
        let build = || Programs::build(self.checkout, self.chosen.as_deref());
        self.programs.get_or_init(build).as_ref().map_err(repeat)
    }

    /// Runs test programs, each with what `prepare` adds to its command, and counts their tests.
    pub fn run(&self, tests: &[Tests], prepare: impl Fn(&mut Command)) -> Result<Totals> {
        let mut totals = Totals::default();
        for program in self.programs()?.of(tests) {
            println!("{}", program.title());
            match program.command() {
                Ok(mut command) => {
                    prepare(&mut command);
                    // Rust's own test runner colours its output when asked.
                    let colour = if stdout().is_terminal() { "--color=always" } else { "--color=never" };
                    totals += count(command.arg(colour).args(&self.filter))?;
                }
                Err(error) => {
                    eprintln!("{error:#}");
                    totals.failed += 1;
                }
            }
        }
        Ok(totals)
    }

    /// Runs a `cargo test` and counts what its runners report.
    pub fn count_cargo(&self, cargo: &mut Command) -> Result<Totals> {
        // One test that fails must not keep the following binaries from being counted.
        count(cargo.args(["--no-fail-fast", "--"]).args(&self.filter))
    }
}

/// Runs a command and counts the tests of which it reports.
fn count(command: &mut Command) -> Result<Totals> {
    let mut tally = Tally::default();
    let status = process::stream(command, |output| tally.feed(output))?;
    Ok(tally.finish(status.success()))
}

/// An error that is kept for everybody who asks.
fn repeat(error: &Error) -> Error {
    let text = format!("{error:#}");
    if Unavailable::is(error) { Unavailable::error(text) } else { anyhow!(text) }
}
