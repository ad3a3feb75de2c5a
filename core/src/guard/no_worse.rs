//! The bet the other way round: is it shown that the candidate is worse by less than a margin?
//!
//! Non-inferiority, as it is shown of medicines, at any time: the game of [`margin`](super::margin) is played against "the
//! candidate's rate is above the active colour's by `δ` or more", which is the hypothesis "the active colour's rate is at most the
//! candidate's less `δ`": the same with the colours exchanged and a margin below 0. The players believe that both have
//! the same rate, the active colour's recent one, or that the candidate has its own recent one, or half.

use serde::Serialize;

use super::evidence::Evidence;
use super::margin;
use super::outcomes::{Block, Outcomes};
use super::sequential::Recent;
use super::strata::{Piece, Strata};
use crate::json::FromJson;
use crate::model::colour::Colour;
use crate::model::split::Revision;

/// A bet under way, about one step of a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, FromJson)]
pub struct NoWorse {
    /// The margin, above 0 and below 1.
    pub margin: f64,
    /// The state that the requests follow: what was seen at another share says nothing about this one.
    pub revision: Revision,
    stakes: [f64; PLAYERS],
    peak: f64,
    strata: Strata,
    active: Recent,
    candidate: Recent,
}

const PLAYERS: usize = 3;
/// No stake grows beyond this.
const MOST: f64 = 1e300;

// === impl NoWorse ===

impl NoWorse {
    /// One about this margin, for requests that follow this revision.
    pub fn new(margin: f64, revision: Revision) -> Self {
        let stake = 1.0 / PLAYERS as f64;
        let (strata, recent) = (Strata::default(), Recent::default());
        Self { margin, revision, stakes: [stake; PLAYERS], peak: 0.0, strata, active: recent, candidate: recent }
    }

    /// Whether it is about this margin, for requests that follow this revision.
    pub fn is_about(&self, margin: f64, revision: Revision) -> bool {
        self.margin.to_bits() == margin.to_bits() && self.revision == revision
    }

    /// Takes evidence about errors. With stickiness each key counts by its first request.
    pub fn observe(&mut self, evidence: &Evidence, candidate: Colour) {
        let outcomes = |colour: Colour| -> Outcomes { evidence.units.get(colour).and(*evidence.firsts.get(colour)) };
        let block = Block { active: outcomes(candidate.other()), candidate: outcomes(candidate) };
        let piece = Piece { block, ..Piece::default() };
        for piece in self.strata.add(evidence.epoch, evidence.revision, piece).into_iter().flatten() {
            self.play(piece.block);
        }
    }

    fn play(&mut self, block: Block) {
        let (active, own) = (self.active.rate(), self.candidate.rate());
        let exchanged = Block { active: block.candidate, candidate: block.active };
        let beliefs = [(active, active), (own.min(active), active), (0.5 * active, active)];
        for (stake, belief) in self.stakes.iter_mut().zip(beliefs) {
            let ln_factor = margin::ln_factor(exchanged, -self.margin, belief);
            *stake = if *stake > 0.0 { (stake.ln() + ln_factor).exp().min(MOST) } else { 0.0 };
        }
        self.active.add(block.active);
        self.candidate.add(block.candidate);
        self.peak = self.peak.max(self.stakes.iter().sum());
    }

    /// The e-value: if the candidate is worse by the margin or more, the chance that this ever reaches `1/α` is at most `α`.
    pub fn e_value(&self) -> f64 {
        self.peak.max(1.0)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::guard::evidence::{Test, evidence};
    use crate::testing::Chance;

    /// A hundred requests at a time, of which ten are the candidate's; so many of a thousand are bad.
    fn after(active: u64, candidate: u64, rounds: u64) -> NoWorse {
        let mut bet = NoWorse::new(0.01, Revision::ZERO);
        let due = |rate: u64, of: u64, round: u64| (round + 1) * of * rate / 1_000 - round * of * rate / 1_000;
        for round in 0..rounds {
            let blue = Outcomes::new(90, due(active, 90, round));
            let green = Outcomes::new(10, due(candidate, 10, round));
            bet.observe(&evidence(Test::Error, round, blue, green), Colour::Green);
        }
        bet
    }

    #[test]
    fn a_candidate_that_is_alike_is_shown_to_be_and_one_at_the_margin_is_not() {
        assert!(after(10, 10, 250).e_value() >= 100.0);
        assert!(after(10, 0, 250).e_value() >= 100.0);
        assert!(after(10, 20, 20_000).e_value() < 20.0);
        assert!(after(10, 30, 20_000).e_value() < 20.0);
    }

    #[test]
    fn the_mean_of_the_e_value_is_at_most_one_if_the_candidate_is_worse_by_the_margin() {
        let canaries = 3_000;
        let sum: f64 = (0..canaries)
            .map(|canary| {
                let (mut bet, mut chance) = (NoWorse::new(0.05, Revision::ZERO), Chance::new(canary));
                for number in 0..12 {
                    let blue = Outcomes::new(30, chance.count(30, 0.1));
                    let green = Outcomes::new(10, chance.count(10, 0.15));
                    bet.observe(&evidence(Test::Error, number, blue, green), Colour::Green);
                }
                bet.stakes.iter().sum::<f64>()
            })
            .sum();
        assert!((0.5..1.05).contains(&(sum / canaries as f64)), "{}", sum / canaries as f64);
    }
}
