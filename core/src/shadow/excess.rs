//! Whether the candidate disagrees more than the active colour with itself, judged at any time.
//!
//! Let `A1` and `C` be the answers of the active colour and the candidate to a request, and `A2` the active colour's second
//! answer to it. Each compared request is worth
//!
//! ```text
//! X = +1   if C ≠ A1, A2 = A1 and A2 ≠ C
//! X = -1   if C ≠ A1, A2 = C  and A2 ≠ A1
//! X =  0   else
//! ```
//!
//! so that `A2` is needed only where `C ≠ A1`. Where `A2` is missing, or has another status than `A1`, as where a route lets no
//! copy through, the worse is assumed: of two ways to count it each test has the one that speaks against what it shows. Of models alike the three answers are drawn from one law, and `A1` and `C`
//! may be exchanged: then `E[X] = 0` exactly, however noisy the models are. Else `E[X] = P(C ≠ A1) - P(A2 ≠ A1)`, the excess,
//! as far as what equals a third is equal.
//!
//! The test bets against `E[X] ≤ m` (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting",
//! Journal of the Royal Statistical Society B 86, 2024): a player with the stake `λ` multiplies its capital by `1 + λ(X - m)`,
//! a fair game or a losing one if that is true. So its capital ever reaches `1/α` with a chance of at most `α` (Ville's
//! inequality). The capital here is the mean of some players who never change their stakes: then it depends on how many
//! requests were worth +1, -1 and 0 alone, and workers and Envoys add up in any order.

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
    /// The candidate disagreed, and the active colour's second answer is missing. For the test against the candidate it
    /// counts as 0, for the one for it as +1.
    pub unknown: u64,
    /// Of those that would be worth -1, the ones in which the active colour's second answer has another status than its
    /// first. For the test against the candidate they count as -1, for the one for it as +1.
    pub astray: u64,
}

/// Counts of what speaks for a mean above a bound, for one below it, and neither.
#[derive(Clone, Copy)]
struct Game {
    up: u64,
    down: u64,
    zero: u64,
}

/// Each player's stake, as a share of the largest that cannot lose more than everything, and its part of the capital.
const PLAYERS: [(f64, f64); 10] = [
    (0.002, 0.03),
    (0.006, 0.05),
    (0.015, 0.07),
    (0.035, 0.08),
    (0.075, 0.09),
    (0.15, 0.10),
    (0.3, 0.12),
    (0.5, 0.14),
    (0.75, 0.14),
    (0.97, 0.18),
];

/// No evidence is stronger.
const MOST: f64 = 1e300;

/// The bounds that are tried for an interval lie so far inside of -1 and 1.
const EDGE: f64 = 1e-9;

// === impl Excess ===

impl Excess {
    /// All requests that count.
    pub const fn total(&self) -> u64 {
        let known = self.plus.saturating_add(self.minus).saturating_add(self.zero);
        known.saturating_add(self.unknown).saturating_add(self.astray)
    }

    /// What has come since it was `before`.
    #[must_use]
    pub const fn since(&self, before: &Self) -> Self {
        Self {
            plus: self.plus.saturating_sub(before.plus),
            minus: self.minus.saturating_sub(before.minus),
            zero: self.zero.saturating_sub(before.zero),
            unknown: self.unknown.saturating_sub(before.unknown),
            astray: self.astray.saturating_sub(before.astray),
        }
    }

    /// The evidence that the candidate's excess is above `max_excess` (0 or more, below 1): if it is not, the chance that this
    /// ever reaches `1/α` is at most `α`. At most 1e300.
    pub fn disagreement_e_value(&self, max_excess: f64) -> f64 {
        self.above().ln_e_value(max_excess).exp().min(MOST)
    }

    /// The evidence that the candidate's excess is below `max_excess` (above 0, below 1), likewise.
    pub fn agreement_e_value(&self, max_excess: f64) -> f64 {
        self.below().ln_e_value(-max_excess).exp().min(MOST)
    }

    /// The share of the compared requests in which the candidate disagreed beyond the noise, -1 to 1; none before the first.
    pub fn estimate(&self) -> Option<f64> {
        let total = self.total();
        (total > 0).then(|| (self.plus as f64 - self.minus.saturating_add(self.astray) as f64) / total as f64)
    }

    /// Lower and upper end of the interval for the excess, -1 to 1: the chance that it ever misses it is at most `alpha`. It
    /// has the bounds against which neither game, each with half of `alpha`, has won enough.
    pub fn interval(&self, alpha: f64) -> [f64; 2] {
        let enough = (2.0 / alpha).ln();
        [self.above().last_refuted(enough), -self.below().last_refuted(enough)]
    }

    /// Adds what another worker counted.
    pub fn merge(&mut self, other: &Self) {
        self.plus = self.plus.saturating_add(other.plus);
        self.minus = self.minus.saturating_add(other.minus);
        self.zero = self.zero.saturating_add(other.zero);
        self.unknown = self.unknown.saturating_add(other.unknown);
        self.astray = self.astray.saturating_add(other.astray);
    }

    /// What speaks for an excess above a bound.
    const fn above(&self) -> Game {
        let down = self.minus.saturating_add(self.astray);
        Game { up: self.plus, down, zero: self.zero.saturating_add(self.unknown) }
    }

    /// What speaks for an excess below a bound, of which the negative is the bound of the game.
    const fn below(&self) -> Game {
        let down = self.plus.saturating_add(self.unknown).saturating_add(self.astray);
        Game { up: self.minus, down, zero: self.zero }
    }
}

// === impl Game ===

impl Game {
    /// The logarithm of the capital against "the mean is at most `bound`", above -1 and below 1.
    fn ln_e_value(self, bound: f64) -> f64 {
        let bound = bound.clamp(EDGE - 1.0, 1.0 - EDGE);
        let capitals = PLAYERS.map(|(share, part)| {
            // The largest stake is 1/(1 + bound): with it a -1 takes everything.
            let stake = share / (1.0 + bound);
            part.ln()
                + self.up as f64 * (stake * (1.0 - bound)).ln_1p()
                + self.down as f64 * (-share).ln_1p()
                + self.zero as f64 * (-stake * bound).ln_1p()
        });
        // In logarithms: a single capital can be beyond what a number holds.
        let largest = capitals.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        largest + capitals.iter().map(|capital| (capital - largest).exp()).sum::<f64>().ln()
    }

    /// The highest bound against which the capital has reached `enough`, a logarithm; -1 if there is none. A capital falls as
    /// its bound rises.
    fn last_refuted(self, enough: f64) -> f64 {
        let (mut refuted, mut open) = (-1.0, 1.0);
        // Thirty halvings: to the ninth decimal.
        for _ in 0..30 {
            let middle = 0.5 * (refuted + open);
            if self.ln_e_value(middle) >= enough {
                refuted = middle;
            } else {
                open = middle;
            }
        }
        refuted
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const fn counts(plus: u64, minus: u64, zero: u64) -> Excess {
        Excess { plus, minus, zero, unknown: 0, astray: 0 }
    }

    /// Numbers from 0 up to 1.
    fn uniform(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            // SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        }
    }

    #[test]
    fn the_parts_of_the_capital_make_one_whole() {
        assert!((PLAYERS.iter().map(|(_, part)| part).sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(PLAYERS.iter().all(|(stake, _)| (0.0..1.0).contains(stake)));
        for max in [0.0, 0.02, 0.5] {
            let nothing = Excess::default();
            assert!((nothing.disagreement_e_value(max) - 1.0).abs() < 1e-9);
            assert!((nothing.agreement_e_value(max) - 1.0).abs() < 1e-9);
        }
    }

    /// A fair game's capital has a mean of 1 after each round, and a losing one's less: here exactly, over all that can
    /// happen.
    #[test]
    fn if_the_excess_is_what_is_allowed_the_mean_of_the_e_value_is_one() {
        for max in [0.0_f64, 0.02, 0.3] {
            for noise in [0.0, 0.05, 0.3] {
                let (plus, minus) = (noise + max, noise);
                let zero = 1.0 - plus - minus;
                let (mut above, mut below) = (0.0, 0.0);
                for first in 0..3 {
                    for second in 0..3 {
                        let happened = |what| u64::from(first == what) + u64::from(second == what);
                        let chance = [plus, minus, zero][first] * [plus, minus, zero][second];
                        let excess = counts(happened(0), happened(1), happened(2));
                        above += chance * excess.disagreement_e_value(max);
                        below += chance * excess.agreement_e_value(max);
                    }
                }
                assert!((above - 1.0).abs() < 1e-9 && (below - 1.0).abs() < 1e-9, "{max} {noise}: {above} {below}");
            }
        }
    }

    #[test]
    fn noise_that_is_the_same_for_both_is_rarely_taken_for_an_excess() {
        for noise in [0.01, 0.3, 1.0_f64] {
            let mut random = uniform(17);
            let mut alarms = 0;
            for _ in 0..200 {
                let mut excess = Excess::default();
                let alarm = (0..1_000).any(|_| {
                    match random() {
                        drawn if drawn < 0.5 * noise => excess.plus += 1,
                        drawn if drawn < noise => excess.minus += 1,
                        _ => excess.zero += 1,
                    }
                    excess.disagreement_e_value(0.0) >= 100.0
                });
                alarms += u32::from(alarm);
            }
            assert!(alarms <= 6, "{noise}: {alarms} of 200");
        }
    }

    #[test]
    fn an_excess_is_found_and_its_absence_shown() {
        assert!(counts(9, 0, 791).disagreement_e_value(0.0) >= 100.0);
        assert!(counts(9, 0, 791).disagreement_e_value(0.02) < 1.0);
        assert!(counts(60, 20, 920).disagreement_e_value(0.0) >= 100.0);
        assert!(counts(0, 0, 500).agreement_e_value(0.02) >= 100.0);
        assert!(counts(0, 0, 500).agreement_e_value(0.001) < 100.0);
        assert!(counts(100, 100, 9_800).agreement_e_value(0.02) >= 100.0);
        // With nothing allowed nothing below it can be shown by agreement.
        assert!(counts(0, 0, 1_000_000).agreement_e_value(0.0) <= 1.0);
    }

    #[test]
    fn a_second_answer_that_is_missing_never_helps_whom_it_is_asked_for() {
        let unknown = Excess { unknown: 50, zero: 450, ..Excess::default() };
        assert!(unknown.disagreement_e_value(0.0) <= 1.0);
        assert!(unknown.agreement_e_value(0.02) < 1.0);
    }

    #[test]
    fn the_interval_holds_what_was_seen_narrows_and_agrees_with_the_test() {
        assert_eq!(Excess::default().interval(0.01), [-1.0, 1.0]);
        assert_eq!(Excess::default().estimate(), None);
        let mut width = 2.0;
        for n in [10, 100, 1_000, 100_000] {
            let excess = counts(n / 10, n / 20, n - n / 10 - n / 20);
            let ([low, high], estimate) = (excess.interval(0.01), excess.estimate().expect("not empty"));
            assert!(low <= estimate && estimate <= high && high - low < width, "{n}: {low} {estimate} {high}");
            width = high - low;
        }
        assert!(width < 0.02, "{width}");
        for excess in [counts(30, 0, 500), counts(0, 0, 1_000), counts(20, 20, 1_000)] {
            let [low, high] = excess.interval(0.02);
            let near = 1e-6;
            assert!(low <= -1.0 || excess.disagreement_e_value((low + near).max(0.0)) < 100.0);
            assert!(low <= near || excess.disagreement_e_value(low - near) >= 100.0);
            assert!(high >= 1.0 || excess.agreement_e_value(high + near) >= 100.0);
        }
    }

    #[test]
    fn whatever_was_counted_evidence_and_interval_are_numbers() {
        let all = [0, 1, 1_000_000, u64::MAX];
        for plus in all {
            for minus in all {
                for zero in all {
                    let excess = Excess { plus, minus, zero, unknown: minus, astray: plus };
                    for max in [0.0, 1e-9, 0.02, 0.999, 1.0] {
                        let values = [excess.disagreement_e_value(max), excess.agreement_e_value(max)];
                        assert!(
                            values.iter().all(|value| (0.0..=MOST).contains(value)),
                            "{excess:?} {max}: {values:?}"
                        );
                    }
                    let [low, high] = excess.interval(0.01);
                    assert!((-1.0..=1.0).contains(&low) && (-1.0..=1.0).contains(&high), "{excess:?}: {low} {high}");
                }
            }
        }
    }

    #[test]
    fn workers_add_up_in_any_order() {
        let (mut a, b) = (Excess { plus: 1, minus: 2, zero: 3, unknown: 4, astray: 5 }, counts(10, u64::MAX, 30));
        let mut other = b;
        other.merge(&a);
        a.merge(&b);
        assert_eq!(a, other);
        assert_eq!(a, Excess { plus: 11, minus: u64::MAX, zero: 33, unknown: 4, astray: 5 });
    }
}
