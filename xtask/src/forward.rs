//! Runs the demo, the benches and what lasts: this process becomes theirs, so that the terminal and every signal are theirs too.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Context, Result};
use bluegreen_programs::Checkout;

/// `cargo xtask demo`.
pub fn demo(checkout: &Checkout, arguments: &[OsString]) -> Result<ExitCode> {
    become_cargo_run(checkout, "bluegreen-demo", &[], arguments)
}

/// `cargo xtask bench`: optimised, because load and external processor are part of the program that measures. A short
/// run is over long before that is built, unless it is a simulation: that is nothing but computing.
pub fn bench(checkout: &Checkout, arguments: &[OsString]) -> Result<ExitCode> {
    let unoptimised =
        |argument: &OsString| ["--quick", "--within-budget", "--help", "-h"].iter().any(|option| argument == option);
    let simulation = |argument: &OsString| ["guard", "disagreement"].iter().any(|subject| argument == subject);
    let is_short = arguments.iter().any(unoptimised) && !arguments.iter().any(simulation);
    let profile: &[&str] = if is_short { &[] } else { &["--profile", "bench-tools"] };
    become_cargo_run(checkout, "bluegreen-bench", profile, arguments)
}

/// `cargo xtask soak`: optimised like a bench.
pub fn soak(checkout: &Checkout, arguments: &[OsString]) -> Result<ExitCode> {
    bench(checkout, &[&["soak".into()], arguments].concat())
}

/// `cargo xtask chaos`: it waits for what others do, and measures nothing.
pub fn chaos(checkout: &Checkout, arguments: &[OsString]) -> Result<ExitCode> {
    become_cargo_run(checkout, "bluegreen-bench", &[], &[&["chaos".into()], arguments].concat())
}

fn become_cargo_run(checkout: &Checkout, package: &str, options: &[&str], arguments: &[OsString]) -> Result<ExitCode> {
    let mut cargo = checkout.cargo("run");
    cargo.args(["--quiet", "--package", package]).args(options).arg("--").args(arguments);
    // On Unix cargo in turn becomes the program.
    Err(cargo.exec()).context("cannot start cargo")
}
