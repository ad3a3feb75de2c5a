//! Changes of the active colour under load, held against every single answer.

use std::time::Instant;

use anyhow::{Result, ensure};
use bluegreen_testbed::admin::Deployment;
use bluegreen_testbed::load::Report;
use bluegreen_testbed::{Admin, Load};

use crate::IRIS;

/// A change of the active colour, as its caller saw it.
#[derive(Clone, Debug)]
pub struct Switch {
    /// Just before the call.
    pub asked: Instant,
    /// When its answer had arrived.
    pub answered: Instant,
    /// The active colour since.
    pub colour: String,
}

// === impl Switch ===

impl Switch {
    /// Makes a call that answers with the deployment's new state.
    pub async fn timed(call: impl Future<Output = Result<Deployment>>) -> Result<Self> {
        let asked = Instant::now();
        let state = call.await?;
        Ok(Self { asked, answered: Instant::now(), colour: state.active })
    }

    /// Promotes and rolls back in turn, ten times in all, under this load: nothing fails, and nothing goes to the old
    /// colour after an answer.
    pub async fn back_and_forth(load: Load, admin: &Admin) -> Result<()> {
        let running = load.connections(8).start();
        let mut switches = Vec::new();
        for round in 0..10 {
            running.more(40).await?;
            switches.push(if round % 2 == 0 {
                Self::timed(admin.promote_to(IRIS, "green")).await?
            } else {
                Self::timed(admin.rollback(IRIS)).await?
            });
        }
        running.more(40).await?;
        let report = running.stop().await;
        report.ensure_no_failures()?;
        report.ensure_truthful()?;
        let certain = Self::ensure_all_hold(&switches, &report)?;
        ensure!(certain > 200, "only {certain} requests prove anything");
        Ok(())
    }

    /// Fails unless each request that began after a switch's answer, and ended before the next switch was asked for,
    /// was answered by the colour of that switch. Returns how many requests were so certain.
    pub fn ensure_all_hold(switches: &[Self], report: &Report) -> Result<usize> {
        let mut certain = 0;
        for (index, switch) in switches.iter().enumerate() {
            let next = switches.get(index + 1).map(|next| next.asked);
            for record in &report.records {
                if record.began <= switch.answered || next.is_some_and(|next| record.ended >= next) {
                    continue;
                }
                certain += 1;
                ensure!(
                    record.colour() == Some(&switch.colour),
                    "switch {index}: a request that began {:?} after the answer \"active: {}\" got {:?}",
                    record.began - switch.answered,
                    switch.colour,
                    record.outcome,
                );
            }
        }
        Ok(certain)
    }
}
