//! How the capital of a test is spread: over how bad the candidate may be, and over when that may have begun.
//!
//! Each of [`ODDS_RATIOS`] is a player with a stake of its own, and the capital is the sum: a mixture of fair games is a
//! fair game. A fault can also begin late (a leak, a step with more load), when the players have long lost their stakes
//! to the healthy time before. So a part of the capital is held back at first and handed out as outcomes come in, so
//! much that the share still held back after `n` outcomes of the candidate is `(WARM / (WARM + n))^SPEED`: a mixture
//! over beginnings, as in "fixed share" (Herbster and Warmuth, "Tracking the best expert", Machine Calibrating 32, 1998)
//! with a rate that falls with time. How much is handed out depends on the number of outcomes, never on what they are,
//! so the game stays fair.

use serde::{Deserialize, Serialize};

/// The candidate's odds of a bad outcome over those that it is allowed, for each player.
pub const ODDS_RATIOS: [f64; PLAYERS] = [1.2, 1.5, 2.0, 3.0, 4.5, 7.0, 12.0, 25.0, 60.0, 200.0];
/// Each player's share of what is handed out: the most for faults of three to twelve times the rate.
const SHARES: [f64; PLAYERS] = [0.03, 0.04, 0.08, 0.17, 0.27, 0.20, 0.11, 0.06, 0.03, 0.01];
/// How many players there are.
pub const PLAYERS: usize = 10;

/// The part of the first capital that is held back.
const HELD_BACK: f64 = 0.15;
/// Outcomes of the candidate over which what is held back begins to shrink.
const WARM: f64 = 300.0;
/// How fast it shrinks.
const SPEED: f64 = 0.5;
/// No stake grows beyond this: far above any threshold, far below what a sum of them overflows at.
const MOST: f64 = 1e300;

/// The capital of a test, 1 at the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capital {
    held_back: f64,
    stakes: [f64; PLAYERS],
    outcomes: u64,
}

// === impl Capital ===

impl Capital {
    /// The sum of all stakes and of what is held back: the e-value.
    pub fn total(&self) -> f64 {
        self.held_back + self.stakes.iter().sum::<f64>()
    }

    /// Plays a block with `outcomes` of the candidate, in which each player's stake is multiplied by the exponential of
    /// its entry in `ln_factors`.
    pub fn play(&mut self, outcomes: u64, ln_factors: &[f64; PLAYERS]) {
        let begun = WARM + self.outcomes as f64;
        self.outcomes = self.outcomes.saturating_add(outcomes);
        let kept = (begun / (WARM + self.outcomes as f64)).powf(SPEED);
        let handed_out = self.held_back * (1.0 - kept);
        self.held_back *= kept;
        for ((stake, share), ln_factor) in self.stakes.iter_mut().zip(SHARES).zip(ln_factors) {
            let before = *stake + handed_out * share;
            // In logarithms, since a large block's factor alone can be beyond what a number holds.
            *stake = if before > 0.0 { (before.ln() + ln_factor).exp().min(MOST) } else { 0.0 };
        }
    }
}

impl Default for Capital {
    fn default() -> Self {
        Self { held_back: HELD_BACK, stakes: SHARES.map(|share| share * (1.0 - HELD_BACK)), outcomes: 0 }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn a_capital_is_one_at_the_start_and_as_long_as_nothing_is_won_or_lost() {
        let mut capital = Capital::default();
        for outcomes in [1, 0, 50, 100_000] {
            capital.play(outcomes, &[0.0; PLAYERS]);
            assert!((capital.total() - 1.0).abs() < 1e-12, "{capital:?}");
        }
    }

    #[test]
    fn players_that_lost_everything_leave_enough_for_a_late_fault() {
        let mut capital = Capital::default();
        for _ in 0..10_000 {
            capital.play(1, &[-1.0; PLAYERS]);
        }
        assert!(capital.total() > 0.01, "{capital:?}");
        for _ in 0..20 {
            capital.play(1, &[1.0; PLAYERS]);
        }
        assert!(capital.total() > 100.0, "{capital:?}");
    }

    #[test]
    fn the_largest_factors_stay_finite_and_survive_json() {
        let mut capital = Capital::default();
        capital.play(1, &[1e9; PLAYERS]);
        capital.play(1, &[1e9, -1e9, 0.0, 1.0, f64::MAX, f64::MIN, 0.0, 0.0, 0.0, 0.0]);
        assert!(capital.total().is_finite());
        let json = serde_json::to_string(&capital).expect("serialises");
        let read: Capital = serde_json::from_str(&json).expect("parses");
        assert!((read.total() / capital.total() - 1.0).abs() < 1e-9);
    }
}
