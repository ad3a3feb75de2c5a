//! What holds for long, and whatever happens around it: [`soak`] counts millions of requests, [`chaos`] breaks everything
//! around a fleet. They measure nothing, so an unoptimised build will do; they pass or fail.

mod chaos;
mod chooser;
mod client;
mod counting;
mod faults;
mod ledger;
mod soak;

use anyhow::{Context, Result};
use bluegreen_programs::Checkout;
use bluegreen_programs::prepared::Prepared;
use clap::Subcommand;

/// What lasts.
#[derive(Subcommand)]
pub enum Endurance {
    /// Count millions of requests, through switches, canaries, shadows and clients that leave, beside the upstreams' own
    /// counts
    Soak(soak::Options),
    /// Break everything around a fleet in an order that a seed gives, with writers at work, and look for lost writes
    Chaos(chaos::Options),
}

// === impl Endurance ===

impl Endurance {
    /// Runs it. An error is a failure of the filter's, or of the machine's.
    pub fn run(&self, checkout: &Checkout) -> Result<()> {
        let prepared = Prepared::obtain(checkout)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.context("cannot start the asynchronous runtime")?;
        match self {
            Self::Soak(options) => runtime.block_on(soak::run(&prepared, options)),
            Self::Chaos(options) => runtime.block_on(chaos::run(&prepared, options)),
        }
    }
}
