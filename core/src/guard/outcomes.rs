//! Outcomes of requests, good or bad, as the tests count them.

use serde::Serialize;

use crate::json::FromJson;
use crate::model::colour::{Colour, PerColour};

/// Outcomes of one colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, FromJson)]
pub struct Outcomes {
    /// All of them.
    pub total: u64,
    /// The bad ones, never more than all.
    pub bad: u64,
}

/// Outcomes of both colours in the same span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, FromJson)]
pub struct Block {
    /// The active colour's.
    pub active: Outcomes,
    /// The candidate's.
    pub candidate: Outcomes,
}

// === impl Outcomes ===

impl Outcomes {
    /// `bad` of `total`; counters that are read one after the other can show more bad ones than all.
    pub const fn new(total: u64, bad: u64) -> Self {
        Self { total, bad: if bad < total { bad } else { total } }
    }

    /// Both together.
    pub const fn and(self, other: Self) -> Self {
        Self { total: self.total.saturating_add(other.total), bad: self.bad.saturating_add(other.bad) }
    }

    /// What was counted since `earlier`.
    pub const fn since(self, earlier: Self) -> Self {
        Self::new(self.total.saturating_sub(earlier.total), self.bad.saturating_sub(earlier.bad))
    }

    /// The good ones.
    pub const fn good(self) -> u64 {
        self.total.saturating_sub(self.bad)
    }

    /// The share of bad ones, 0 to 1; `None` without outcomes.
    pub fn share(self) -> Option<f64> {
        (self.total > 0).then(|| self.bad as f64 / self.total as f64)
    }
}

/// Adds more outcomes of each colour.
pub fn add_each(sums: &mut PerColour<Outcomes>, more: &PerColour<Outcomes>) {
    for colour in Colour::ALL {
        let sum = sums.get_mut(colour);
        *sum = sum.and(*more.get(colour));
    }
}

// === impl Block ===

impl Block {
    /// Both blocks together.
    pub const fn and(self, other: Self) -> Self {
        Self { active: self.active.and(other.active), candidate: self.candidate.and(other.candidate) }
    }

    /// Whether both colours have an outcome, so that there is something to compare.
    pub const fn compares(self) -> bool {
        self.active.total > 0 && self.candidate.total > 0
    }
}
