//! How the capital of a test is spread: over how bad the candidate may be, and over when that may have begun.
//!
//! Each of [`ODDS_RATIOS`] is a player with a stake of its own, and the capital is the sum: a mixture of fair games is a
//! fair game. A fault can also begin late (a leak, a step with more load), when the players have long lost their stakes
//! to the healthy time before. So a part of the capital is held back at first and handed out as outcomes come in, so
//! much that the share still held back after `n` outcomes of the candidate is `(WARM / (WARM + n))^SPEED`: a mixture
//! over beginnings, as in "fixed share" (Herbster and Warmuth, "Tracking the best expert", Machine Calibrating 32, 1998)
//! with a rate that falls with time. How much is handed out depends on the number of outcomes, never on what they are,
//! so the game stays fair.

use serde::Serialize;

use crate::json::FromJson;
use crate::metrics::cohorts::Epoch;

/// The candidate's odds of a bad outcome over those that it is allowed, for each player.
pub const ODDS_RATIOS: [f64; PLAYERS] = [1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 4.5, 7.0, 12.0, 25.0, 60.0, 200.0];
/// Each player's share of what is handed out: the most for faults of three to twelve times the rate.
const SHARES: [f64; PLAYERS] = [0.005, 0.005, 0.01, 0.02, 0.04, 0.08, 0.17, 0.27, 0.20, 0.11, 0.06, 0.02, 0.01];
/// How many players there are.
pub const PLAYERS: usize = 13;

/// The part of the first capital that is held back.
const HELD_BACK: f64 = 0.15;
/// Outcomes of the candidate over which what is held back begins to shrink.
const WARM: f64 = 300.0;
/// How fast it shrinks.
const SPEED: f64 = 0.5;
/// So many times its stake a player may win in [`WINDOW`] epochs where a single host may be behind all of it. A host that
/// fails for a few seconds gives many bad outcomes and is one event. Three windows in a row are enough for a fault that lasts.
const MOST_IN_A_WINDOW: f64 = 7.0;
/// With this part of it won, what more can be won is not worth a key, which counts once only.
const NEAR: f64 = 0.5;
/// Five seconds.
pub const WINDOW: u64 = 20;
/// No stake grows beyond this: far above any threshold, far below what a sum of them overflows at.
const MOST: f64 = 1e300;

/// The capital of a test, 1 at the start.
#[derive(Clone, Debug, PartialEq, Serialize, FromJson)]
pub struct Capital {
    held_back: f64,
    stakes: [f64; PLAYERS],
    outcomes: u64,
    /// The window in which winnings are limited, and what the players had at its beginning.
    window: Option<(Epoch, [f64; PLAYERS])>,
}

/// Whether the window that began at `since` is over at `epoch`.
const fn is_past(since: Epoch, epoch: Epoch) -> bool {
    epoch.number() >= since.number().saturating_add(WINDOW)
}

// === impl Capital ===

impl Capital {
    /// The sum of all stakes and of what is held back: the e-value.
    pub fn total(&self) -> f64 {
        self.held_back + self.stakes.iter().sum::<f64>()
    }

    /// Plays a block with `outcomes` of the candidate, in which each player's stake is multiplied by the exponential of
    /// its entry in `ln_factors`. In `limited_at` an epoch no player wins more than seven times the stake in five seconds: less
    /// than a fair game gives is fair too.
    pub fn play(&mut self, outcomes: u64, ln_factors: &[f64; PLAYERS], limited_at: Option<Epoch>) {
        let begun = WARM + self.outcomes as f64;
        self.outcomes = self.outcomes.saturating_add(outcomes);
        let kept = (begun / (WARM + self.outcomes as f64)).powf(SPEED);
        let handed_out = self.held_back * (1.0 - kept);
        self.held_back *= kept;
        for (stake, share) in self.stakes.iter_mut().zip(SHARES) {
            *stake += handed_out * share;
        }
        let most = limited_at.map(|epoch| self.most(epoch, handed_out));
        for (number, (stake, ln_factor)) in self.stakes.iter_mut().zip(ln_factors).enumerate() {
            let before = *stake;
            // In logarithms, since a large block's factor alone can be beyond what a number holds.
            *stake = if before > 0.0 { (before.ln() + ln_factor).exp().min(MOST) } else { 0.0 };
            if let Some(most) = most.and_then(|most| most.get(number).copied()) {
                // What was won without a limit stays.
                *stake = stake.min(most.max(before));
            }
        }
    }

    /// The next winnings begin another window.
    pub fn end_window(&mut self) {
        self.window = None;
    }

    /// Whether little more can be won in the window that `epoch` lies in.
    pub fn is_at_limit(&self, epoch: Epoch) -> bool {
        self.window.is_some_and(|(since, had)| {
            !is_past(since, epoch) && self.total() >= self.held_back + NEAR * MOST_IN_A_WINDOW * had.iter().sum::<f64>()
        })
    }

    /// How much each player may have in the window that `epoch` lies in.
    fn most(&mut self, epoch: Epoch, handed_out: f64) -> [f64; PLAYERS] {
        let stakes = self.stakes;
        match &mut self.window {
            Some((since, had)) if !is_past(*since, epoch) => {
                for (had, share) in had.iter_mut().zip(SHARES) {
                    *had += handed_out * share;
                }
            }
            window => *window = Some((epoch, stakes)),
        }
        self.window.map_or(stakes, |(_, had)| had).map(|had| had * MOST_IN_A_WINDOW)
    }
}

impl Default for Capital {
    fn default() -> Self {
        Self { held_back: HELD_BACK, stakes: SHARES.map(|share| share * (1.0 - HELD_BACK)), outcomes: 0, window: None }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;
    use crate::model::time::Timestamp;

    #[test]
    fn a_capital_is_one_at_the_start_and_as_long_as_nothing_is_won_or_lost() {
        let mut capital = Capital::default();
        for outcomes in [1, 0, 50, 100_000] {
            capital.play(outcomes, &[0.0; PLAYERS], None);
            assert!((capital.total() - 1.0).abs() < 1e-12, "{capital:?}");
        }
    }

    #[test]
    fn players_that_lost_everything_leave_enough_for_a_late_fault() {
        let mut capital = Capital::default();
        for _ in 0..10_000 {
            capital.play(1, &[-1.0; PLAYERS], None);
        }
        assert!(capital.total() > 0.01, "{capital:?}");
        for _ in 0..20 {
            capital.play(1, &[1.0; PLAYERS], None);
        }
        assert!(capital.total() > 100.0, "{capital:?}");
    }

    #[test]
    fn the_largest_factors_stay_finite_and_survive_json() {
        let mut capital = Capital::default();
        capital.play(1, &[1e9; PLAYERS], None);
        let extremes = [1e9, -1e9, 0.0, 1.0, f64::MAX, f64::MIN, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        capital.play(1, &extremes, None);
        assert!(capital.total().is_finite());
        let json = serde_json::to_string(&capital).expect("serialises");
        let read: Capital = json::from_str(&json).expect("parses");
        assert!((read.total() / capital.total() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn in_five_seconds_nobody_wins_more_than_seven_times_the_stake_where_winnings_are_limited() {
        let at = |quarter: u64| Epoch::of(Timestamp::from_millis(250 * quarter));
        let mut capital = Capital::default();
        for quarter in 0..20 {
            capital.play(1, &[1.0; PLAYERS], Some(at(quarter)));
        }
        assert!((4.0..=7.0).contains(&capital.total()), "{capital:?}");
        capital.play(1, &[1e9; PLAYERS], Some(at(20)));
        assert!((24.0..=49.0).contains(&capital.total()), "{capital:?}");
        // And nothing is taken from what was won without a limit.
        let mut free = Capital::default();
        free.play(1, &[0.0; PLAYERS], Some(at(0)));
        free.play(1, &[5.0; PLAYERS], None);
        let before = free.total();
        free.play(0, &[1.0; PLAYERS], Some(at(1)));
        assert!((free.total() / before - 1.0).abs() < 1e-9, "{free:?}");
    }
}
