//! The sequential test of one rule: takes evidence as it comes, and says at any time how much speaks against the watched
//! colour.

use serde::{Deserialize, Serialize};

use super::bursts::Bursts;
use super::capital::Capital;
use super::evidence::{Evidence, Test};
use super::keys::{self, Keys};
use super::outcomes::{Block, Outcomes};
use super::{margin, odds};
use crate::metrics::cohorts::Host;
use crate::model::colour::Colour;

/// A test under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SequentialTest {
    capital: Capital,
    keys: Keys,
    bursts: Bursts,
    /// The largest e-value that there ever was.
    peak: f64,
    /// What the watched colour has done worse up to now, and up to the moment of the peak.
    running: Excess,
    at_peak: Excess,
    /// Outcomes that are not played yet, because only one colour has any, and how many of them are not credited.
    pending: Block,
    surplus: u64,
    /// The other colour's recent outcomes before them.
    recent: Recent,
}

/// Bad outcomes of the watched colour beside those that were due: its part of the bad ones of both, by the number of requests
/// or keys, and what it is allowed beyond that.
///
/// Counted since the watched colour last was no worse in sum: rates over the whole canary can say the opposite of the capital,
/// when the share changed while the rate of both did, or when a fault began late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Excess {
    /// Outcomes of the watched colour.
    pub outcomes: u64,
    /// Bad ones.
    pub bad: u64,
    /// How many of them were due.
    pub due: f64,
}

/// A rate that forgets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recent {
    total: f64,
    bad: f64,
}

/// About how many outcomes make up what is recent.
const MEMORY: f64 = 2_000.0;

// === impl SequentialTest ===

impl SequentialTest {
    /// Takes the evidence of an epoch about the `watched` colour, under the margin `delta` (0 or more, below 1). Where keys are
    /// shared out, it has this `share` of them (0 to 1).
    ///
    /// It comes in the order in which the requests began. When it comes, and how it is cut, may depend on how many they
    /// were, and not on what became of them.
    pub fn observe(&mut self, delta: f64, evidence: &Evidence, (watched, share): (Colour, f64)) {
        let asked = evidence.hosts.iter().filter(|(colour, ..)| *colour == watched);
        self.bursts.asked(evidence.epoch, asked.clone().map(|(_, host, _)| *host));
        let bad: Vec<(Host, u64)> = asked.map(|(_, host, bad)| (*host, *bad)).filter(|(_, bad)| *bad > 0).collect();
        self.surplus = self.surplus.saturating_add(self.bursts.surplus(evidence.epoch, &bad));
        // Nobody says which hosts gave slow answers.
        let is_unknown = matches!(evidence.test, Test::Slow(_)) || bad.iter().any(|(host, _)| *host == Host::default());
        let limited_at = (is_unknown || self.bursts.is_single()).then_some(evidence.epoch);

        let units = |colour| *evidence.units.get(colour);
        let block = self.pending.and(Block { active: units(watched.other()), candidate: units(watched) });
        self.observe_keys(delta, evidence, (watched, share));
        if !block.compares() {
            self.pending = block;
            return;
        }
        self.pending = Block::default();
        let surplus = std::mem::take(&mut self.surplus).min(block.candidate.bad);
        let rate = self.recent.rate();
        let ln_factors =
            |block| if delta > 0.0 { margin::ln_factors(block, delta, rate) } else { odds::ln_factors(block) };
        let mut factors = ln_factors(block);
        if surplus > 0 {
            let credited = Outcomes {
                total: block.candidate.total.saturating_sub(surplus),
                bad: block.candidate.bad.saturating_sub(surplus),
            };
            let less = ln_factors(Block { candidate: credited, ..block });
            for (factor, less) in factors.iter_mut().zip(less) {
                // Nothing that is held back may turn a loss into a gain.
                *factor = factor.min(less);
            }
        }
        self.capital.play(block.candidate.total, &factors, limited_at);
        let due = if delta > 0.0 {
            (block.active.share().unwrap_or_default() + delta) * block.candidate.total as f64
        } else {
            let all = block.candidate.and(block.active);
            all.share().unwrap_or_default() * block.candidate.total as f64
        };
        self.weigh(block.candidate, due);
        self.recent.add(block.active);
    }

    /// Plays the first failures of keys.
    fn observe_keys(&mut self, delta: f64, evidence: &Evidence, (watched, share): (Colour, f64)) {
        if evidence.keys.is_empty() {
            return;
        }
        let allowed = self.recent.allowed_odds(delta);
        for (colour, key, host) in &evidence.keys {
            if !self.keys.is_first(*key) {
                continue;
            }
            let is_watched = *colour == watched;
            let mut limited_at = None;
            if is_watched {
                if self.bursts.surplus(evidence.epoch, &[(*host, 1)]) > 0 {
                    continue;
                }
                limited_at = (*host == Host::default() || self.bursts.is_single()).then_some(evidence.epoch);
            }
            self.capital.play(u64::from(is_watched), &keys::ln_factors(is_watched, share, allowed), limited_at);
            let outcomes = if is_watched { Outcomes::new(1, 1) } else { Outcomes::default() };
            self.weigh(outcomes, share * allowed / (1.0 - share + share * allowed));
            if self.keys.is_full() {
                self.keys.begin_era(self.capital.total());
                self.capital = Capital::default();
            }
        }
        self.recent.add(*evidence.all.get(watched.other()));
    }

    /// Takes note of outcomes that were played, of which so many were `due` to be bad.
    fn weigh(&mut self, outcomes: Outcomes, due: f64) {
        self.running.add(outcomes, due);
        if self.now() > self.peak {
            self.peak = self.now();
            self.at_peak = self.running;
        }
    }

    /// How many bad outcomes there were, and how many were due, where the largest e-value comes from.
    pub const fn excess(&self) -> Excess {
        self.at_peak
    }

    /// The e-value as it stands.
    pub fn now(&self) -> f64 {
        self.keys.e_value(self.capital.total())
    }

    /// The largest e-value so far, 1 at least.
    ///
    /// As long as the watched colour is within the margin, the chance that this ever reaches `1/α` is at most `α`.
    pub fn e_value(&self) -> f64 {
        self.peak.max(1.0)
    }
}

// === impl Excess ===

impl Excess {
    fn add(&mut self, outcomes: Outcomes, due: f64) {
        self.outcomes = self.outcomes.saturating_add(outcomes.total);
        self.bad = self.bad.saturating_add(outcomes.bad);
        self.due += due;
        if self.bad as f64 <= self.due {
            *self = Self::default();
        }
    }
}

// === impl Recent ===

impl Recent {
    /// Never 0 and never 1: half an outcome of each kind is imagined before all others.
    pub fn rate(self) -> f64 {
        (self.bad + 0.5) / (self.total + 1.0)
    }

    /// Adds outcomes that are more recent.
    pub fn add(&mut self, outcomes: Outcomes) {
        let kept = (MEMORY / (MEMORY + outcomes.total as f64)).min(1.0);
        self.total = self.total * kept + outcomes.total as f64;
        self.bad = self.bad * kept + outcomes.bad as f64;
    }

    /// The odds ratio that `delta` points more come to at this rate.
    fn allowed_odds(self, delta: f64) -> f64 {
        let odds = |rate: f64| rate / (1.0 - rate);
        if delta > 0.0 { odds((self.rate() + delta).min(0.999_999)) / odds(self.rate()) } else { 1.0 }
    }
}
