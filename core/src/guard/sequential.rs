//! The sequential test of one rule: takes outcomes as they come, and says at any time how much speaks against the
//! candidate.

use serde::{Deserialize, Serialize};

use super::capital::Capital;
use super::outcomes::{Block, Outcomes};
use super::{fixed, margin, odds};

/// A test under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SequentialTest {
    capital: Capital,
    /// The largest that the capital ever was: what has been shown stays shown.
    peak: f64,
    /// Outcomes that are not played yet, because only one colour has any.
    pending: Block,
    /// The active colour's recent outcomes before them.
    recent: Recent,
}

/// A rate that forgets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Recent {
    total: f64,
    bad: f64,
}

/// About how many outcomes make up what is recent.
const MEMORY: f64 = 2_000.0;

// === impl SequentialTest ===

impl SequentialTest {
    /// Takes the outcomes since the last call, under the margin `delta` (0 or more, below 1).
    ///
    /// When to call must not depend on what the outcomes are; on their number it may. Within a call's span the share of
    /// the requests that the candidate gets should not change.
    pub fn observe(&mut self, delta: f64, outcomes: Block) {
        let block = self.pending.and(outcomes);
        if !block.compares() {
            self.pending = block;
            return;
        }
        self.pending = Block::default();
        let ln_factors =
            if delta > 0.0 { margin::ln_factors(block, delta, self.recent.rate()) } else { odds::ln_factors(block) };
        self.capital.play(block.candidate.total, &ln_factors);
        self.peak = self.peak.max(self.capital.total());
        self.recent.add(block.active);
    }

    /// Takes the outcomes since the last call of a candidate that is alone, and bad with at most the rate `allowed` if
    /// nothing is wrong.
    pub fn observe_alone(&mut self, allowed: f64, outcomes: Outcomes) {
        self.capital.play(outcomes.total, &fixed::ln_factors(outcomes, allowed));
        self.peak = self.peak.max(self.capital.total());
    }

    /// Leaves out what is not played yet: the share of the requests that the candidate gets has changed.
    pub fn cut(&mut self) {
        self.pending = Block::default();
    }

    /// The e-value: the largest capital so far.
    ///
    /// As long as the candidate is within the margin, the chance that this ever reaches `1/α` is at most `α`.
    pub fn e_value(&self) -> f64 {
        self.peak.max(1.0)
    }
}

// === impl Recent ===

impl Recent {
    /// Never 0 and never 1: half an outcome of each kind is imagined before all others.
    fn rate(self) -> f64 {
        (self.bad + 0.5) / (self.total + 1.0)
    }

    fn add(&mut self, outcomes: Outcomes) {
        let kept = (MEMORY / (MEMORY + outcomes.total as f64)).min(1.0);
        self.total = self.total * kept + outcomes.total as f64;
        self.bad = self.bad * kept + outcomes.bad as f64;
    }
}
