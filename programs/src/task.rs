//! The beginning and the end of every program of this workspace that runs others.

use std::process::ExitCode;

use anyhow::Result;

use crate::checkout::Checkout;
use crate::process;

/// Runs a task in the checkout that it belongs to; an error is printed in one line. A signal ends all that it started, and
/// what the task then says about that is of no interest.
pub fn run(task: impl FnOnce(&Checkout) -> Result<ExitCode>) -> ExitCode {
    let done = process::end_all_on_signals().and_then(|()| task(&Checkout::locate()?));
    process::wait_for_exit_if_ending();
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
