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
    /// What the candidate has done worse up to now, and up to the moment of the peak.
    #[serde(default)]
    excess: Excess,
    #[serde(default)]
    excess_at_peak: Excess,
    /// Outcomes that are not played yet, because only one colour has any.
    pending: Block,
    /// The active colour's recent outcomes before them.
    recent: Recent,
}

/// The candidate's outcomes since it last was no worse in sum, with as many bad ones as were due: by the active colour's
/// rate in the same blocks, or by the rate that is allowed. Rates over the whole canary can say the opposite of the
/// capital: when the share changed while the rate of both did, or when a fault began late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Excess {
    outcomes: Outcomes,
    due: f64,
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
        self.weigh(block.candidate, block.active.share().unwrap_or_default());
        self.recent.add(block.active);
    }

    /// Takes the outcomes since the last call of a candidate that is alone, and bad with at most the rate `allowed` if
    /// nothing is wrong.
    pub fn observe_alone(&mut self, allowed: f64, outcomes: Outcomes) {
        self.capital.play(outcomes.total, &fixed::ln_factors(outcomes, allowed));
        self.weigh(outcomes, allowed);
    }

    /// Takes note of outcomes that were played, of which a share was `due` to be bad.
    fn weigh(&mut self, outcomes: Outcomes, due: f64) {
        self.excess.add(outcomes, due);
        if self.capital.total() > self.peak {
            self.peak = self.capital.total();
            self.excess_at_peak = self.excess;
        }
    }

    /// The candidate's share of bad outcomes, and the share that was due, where the e-value comes from.
    pub fn shares(&self) -> Option<(f64, f64)> {
        let Excess { outcomes, due } = self.excess_at_peak;
        Some((outcomes.share()?, due / outcomes.total as f64))
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

// === impl Excess ===

impl Excess {
    fn add(&mut self, outcomes: Outcomes, due: f64) {
        self.outcomes = self.outcomes.and(outcomes);
        self.due += due * outcomes.total as f64;
        if self.outcomes.bad as f64 <= self.due {
            *self = Self::default();
        }
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
