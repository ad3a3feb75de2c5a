//! Which processors the measured Envoy has, and which are for everybody else.
//!
//! Left to the scheduler, Envoy, its upstream and the load take turns on the same processors and empty each other's
//! caches: that costs each of them more than a filter does, and differently in every round.

use std::thread;

use anyhow::{Context, Result, ensure};

/// The first processor, for what is measured.
pub const MEASURED: &str = "0";

/// All processors but the first, as `taskset` writes them.
///
/// # Errors
/// There is only one.
pub fn others() -> Result<String> {
    let count = thread::available_parallelism().context("how many processors there are")?.get();
    ensure!(count > 1, "measuring takes two processors: one for Envoy, one for the load and the upstream");
    Ok(format!("1-{}", count - 1))
}
