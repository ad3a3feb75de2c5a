//! What one worker knows of the requests that no deployment takes.

use std::cell::Cell;

use bluegreen_core::metrics::named::Named;
use bluegreen_core::routing::incoming::Cadence;

use crate::host::{self, MetricId};

/// What one worker knows of them.
#[derive(Default)]
pub struct UnmatchedRequests {
    metric: Cell<Option<MetricId>>,
    /// Which of them are looked at.
    pub cadence: Cadence,
    /// Whether the first was warned of.
    pub is_warned_of: Cell<bool>,
}

// === impl UnmatchedRequests ===

impl UnmatchedRequests {
    /// Counts one.
    pub fn count(&self) {
        if self.metric.get().is_none() {
            self.metric.set(host::define_metric(&Named::UnmatchedRequests.to_string(), false));
        }
        if let Some(metric) = self.metric.get() {
            host::add_to_metric(metric, 1);
        }
    }
}
