//! The bet when the margin is 0: given how many outcomes of a block were bad, how many fell on the candidate?
//!
//! Let a block have `n` outcomes of the candidate, `m` of the active colour, and `k` bad ones in all, `x` of them the
//! candidate's. If the colours are alike, each choice of `k` among the `n + m` is as likely as any other, so `x` is
//! hypergeometric, `h(x) = C(n, x) C(m, k - x) / C(n + m, k)`, whatever the rate was, however it moved between blocks,
//! and however outcomes depend on each other, as long as that does not depend on the colour: an outage of something
//! that both use makes `k` large, and says nothing about `x`. If the candidate's odds of a bad outcome are `ψ` times
//! the active colour's, `x` is Fisher's noncentral hypergeometric, in proportion to `h(x) ψ^x`. The player of `ψ > 1`
//! bets by the likelihood ratio
//!
//! ```text
//! E(x) = ψ^x / Σ_y h(y) ψ^y
//! ```
//!
//! whose mean is 1 if the colours are alike and below 1 if the candidate is better (the distributions have a monotone
//! likelihood ratio, and `E` grows with `x`). This is the safe logrank test with ties (ter Schure, Pérez-Ortiz, Ly and
//! Grünwald, "The anytime-valid logrank test", 2020, arXiv:2011.06931), with blocks in place of event times; against
//! the unconditional test of [`super::margin`] it gives up next to nothing, and it needs no estimate of a rate.

use super::capital::{ODDS_RATIOS, PLAYERS};
use super::outcomes::Block;

/// In a quarter of a second more requests than this do not fail. A record that another plugin has written may say so.
const MOST: u64 = 20_000;

/// The logarithm of each player's factor for a block.
pub fn ln_factors(block: Block) -> [f64; PLAYERS] {
    let (n, m) = (block.candidate.total, block.active.total);
    let bad = block.candidate.bad.saturating_add(block.active.bad);
    let (fewest, most) = (bad.saturating_sub(m), bad.min(n));
    if fewest >= most || most.saturating_sub(fewest) > MOST {
        // All ways to spread the bad outcomes are one, or so many that it would take too long.
        return [0.0; PLAYERS];
    }
    let mut all = LogSum::default();
    let mut weighted = [LogSum::default(); PLAYERS];
    let ln_odds = ODDS_RATIOS.map(f64::ln);
    // Up to a factor that all have in common: only ratios matter.
    let mut ln_ways = 0.0;
    for x in fewest..=most {
        all.add(ln_ways);
        for (sum, ln_odds) in weighted.iter_mut().zip(ln_odds) {
            sum.add(ln_ways + ln_odds * x as f64);
        }
        let up = bad.saturating_sub(x) as f64 * n.saturating_sub(x) as f64;
        let down = x.saturating_add(1) as f64 * m.saturating_add(x).saturating_add(1).saturating_sub(bad) as f64;
        ln_ways += (up / down).ln();
    }
    let mut factors = [0.0; PLAYERS];
    for ((factor, sum), ln_odds) in factors.iter_mut().zip(weighted).zip(ln_odds) {
        *factor = block.candidate.bad as f64 * ln_odds - (sum.ln() - all.ln());
    }
    factors
}

/// A sum of numbers given by their logarithms.
#[derive(Clone, Copy)]
struct LogSum {
    /// The largest of them.
    largest: f64,
    /// The sum as a multiple of the largest.
    scaled: f64,
}

// === impl LogSum ===

impl LogSum {
    fn add(&mut self, ln: f64) {
        if ln <= self.largest {
            self.scaled += (ln - self.largest).exp();
        } else {
            self.scaled = self.scaled * (self.largest - ln).exp() + 1.0;
            self.largest = ln;
        }
    }

    fn ln(self) -> f64 {
        self.largest + self.scaled.ln()
    }
}

impl Default for LogSum {
    fn default() -> Self {
        Self { largest: f64::NEG_INFINITY, scaled: 0.0 }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::guard::outcomes::Outcomes;

    fn block(n: u64, m: u64, candidate_bad: u64, active_bad: u64) -> Block {
        Block { candidate: Outcomes::new(n, candidate_bad), active: Outcomes::new(m, active_bad) }
    }

    fn choose(n: u64, k: u64) -> f64 {
        (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product()
    }

    #[test]
    fn the_mean_of_each_factor_is_one_if_the_colours_are_alike() {
        for (n, m, bad) in [(1, 9, 1), (3, 22, 4), (10, 10, 20), (10, 10, 7), (40, 5, 30), (2, 100, 60)] {
            let mut means = [0.0; PLAYERS];
            for x in bad - bad.min(m)..=bad.min(n) {
                let probability = choose(n, x) * choose(m, bad - x) / choose(n + m, bad);
                for (mean, ln) in means.iter_mut().zip(ln_factors(block(n, m, x, bad - x))) {
                    *mean += probability * ln.exp();
                }
            }
            assert!(means.iter().all(|mean| (mean - 1.0).abs() < 1e-9), "{n} {m} {bad}: {means:?}");
        }
    }

    #[test]
    fn a_block_in_which_all_or_none_failed_says_nothing() {
        for block in [block(3, 20, 0, 0), block(3, 20, 3, 20), block(0, 20, 0, 5), block(3, 0, 2, 0)] {
            assert_eq!(ln_factors(block), [0.0; PLAYERS], "{block:?}");
        }
    }

    #[test]
    fn bad_outcomes_of_the_candidate_speak_against_it_and_the_active_colours_for_it() {
        assert!(ln_factors(block(3, 20, 1, 0)).iter().all(|ln| *ln > 0.0));
        assert!(ln_factors(block(3, 20, 0, 1)).iter().all(|ln| *ln < 0.0));
    }

    #[test]
    fn a_block_that_would_take_for_ever_says_nothing() {
        let half = u64::MAX / 2;
        assert_eq!(ln_factors(block(half, half, half / 2, half / 2)), [0.0; PLAYERS]);
    }

    #[test]
    fn a_block_of_a_hundred_thousand_has_finite_factors() {
        let factors = ln_factors(block(50_000, 50_000, 9_000, 1_000));
        assert!(factors.iter().all(|ln| ln.is_finite()), "{factors:?}");
    }
}
