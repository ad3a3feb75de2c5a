//! The bet with a margin: is the candidate's rate above the active colour's plus `δ`?
//!
//! The safe test of two Bernoulli streams of Turner, Ly and Grünwald ("Generic E-variables for exact sequential k-sample
//! tests that allow for optional stopping", Journal of Statistical Planning and Inference 230, 2024), with the
//! hypothesis of a margin as Turner and Grünwald have it ("Exact anytime-valid confidence intervals for contingency
//! tables and beyond", Statistics and Probability Letters 198, 2023). For a block with `m` outcomes of the active colour
//! and `n` of the candidate, a player who believes in the rates `(a, c)` bets by the likelihood ratio
//!
//! ```text
//! E = Π p_a(y) / p_θ(y)  ·  Π p_c(y) / p_(θ + δ)(y),      θ = argmin  m KL(a | θ) + n KL(c | θ + δ)
//! ```
//!
//! where `(θ, θ + δ)` is the point of the hypothesis `{c ≤ a + δ}` nearest to the belief. Why the game is fair: for
//! outcomes that are bad with probability `q`, the mean of `p_a(y) / p_θ(y)` is `1 + (q - θ) g` with
//! `g = (a - θ) / (θ (1 - θ))`, so the mean of `E` is at most `exp(m (q_a - θ) g_a + n (q_c - θ - δ) g_c)`, and the
//! exponent is the derivative of a convex function at its minimum, away from which it cannot be positive. The `q` are
//! the block's mean rates: they may move within a block and from block to block.
//!
//! The belief about the active colour is its recent rate before the block; about the candidate, that its odds are
//! `ψ` times those that it is allowed.

use super::capital::{ODDS_RATIOS, PLAYERS};
use super::outcomes::{Block, Outcomes};

/// No rate is taken to be nearer to 0 or to 1 than this.
const NONE: f64 = 1e-12;
/// Newton's steps to the nearest point: they converge quadratically, and what is left is paid for.
const STEPS: usize = 12;

/// The logarithm of each player's factor for a block, with the margin `delta` above 0 and below 1 and the `recent`
/// rate of the active colour, above 0.
pub fn ln_factors(block: Block, delta: f64, recent: f64) -> [f64; PLAYERS] {
    let allowed = recent + delta;
    if !block.compares() || allowed >= 1.0 {
        // Nothing to compare, or the candidate may do whatever it likes.
        return [0.0; PLAYERS];
    }
    ODDS_RATIOS.map(|odds| {
        let feared = odds * allowed / (1.0 - allowed + odds * allowed);
        ln_factor(block, delta, (recent, feared))
    })
}

/// The logarithm of the factor of a player who believes in these rates, of which the second is above the first by more than
/// `delta`, which is above -1 and below 1. All are above 0 and below 1.
pub fn ln_factor(block: Block, delta: f64, (active, candidate): (f64, f64)) -> f64 {
    let (theta, remainder) = nearest(block, active, candidate, delta);
    let of_active = ln_ratio(block.active, active, theta);
    let of_candidate = ln_ratio(block.candidate, candidate, theta + delta);
    // Beside the true minimum the exponent above is at most the derivative there.
    of_active + of_candidate - remainder
}

/// The `theta` of the hypothesis' nearest point, and the size of the derivative that is left there.
fn nearest(block: Block, a: f64, c: f64, delta: f64) -> (f64, f64) {
    let (m, n) = (block.active.total as f64, block.candidate.total as f64);
    let slope = |theta: f64| {
        let tau = theta + delta;
        m * (theta - a) / (theta * (1.0 - theta)) + n * (tau - c) / (tau * (1.0 - tau))
    };
    // The derivative is not positive at `a`, not negative at `c - delta`, and grows in between. With a margin below 0 the
    // hypothesis begins where the candidate's rate is 0.
    let (mut low, mut high) = (a.max(NONE - delta), (c - delta).min(1.0 - NONE));
    let mut theta = (m * low + n * high) / (m + n);
    for _ in 0..STEPS {
        let here = slope(theta);
        if here.abs() < 1e-10 {
            break;
        }
        if here < 0.0 {
            low = theta;
        } else {
            high = theta;
        }
        let tau = theta + delta;
        let curve = m * (a / (theta * theta) + (1.0 - a) / ((1.0 - theta) * (1.0 - theta)))
            + n * (c / (tau * tau) + (1.0 - c) / ((1.0 - tau) * (1.0 - tau)));
        let newton = theta - here / curve;
        theta = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
    }
    (theta, slope(theta).abs())
}

/// The logarithm of the likelihood of the outcomes under the rate `belief` over that under `theta`.
fn ln_ratio(outcomes: Outcomes, belief: f64, theta: f64) -> f64 {
    outcomes.bad as f64 * (belief / theta).ln() + outcomes.good() as f64 * ((1.0 - belief) / (1.0 - theta)).ln()
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn binomial(n: u64, k: u64, p: f64) -> f64 {
        let ways: f64 = (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product();
        ways * p.powi(k as i32) * (1.0 - p).powi((n - k) as i32)
    }

    /// The mean factor of each player for blocks of `m` and `n` outcomes with the true rates `a` and `c`.
    fn means(m: u64, n: u64, a: f64, c: f64, delta: f64, recent: f64) -> [f64; PLAYERS] {
        let mut means = [0.0; PLAYERS];
        for (x, y) in (0..=m).flat_map(|x| (0..=n).map(move |y| (x, y))) {
            let block = Block { active: Outcomes::new(m, x), candidate: Outcomes::new(n, y) };
            for (mean, ln) in means.iter_mut().zip(ln_factors(block, delta, recent)) {
                *mean += binomial(m, x, a) * binomial(n, y, c) * ln.exp();
            }
        }
        means
    }

    #[test]
    fn no_mean_exceeds_one_as_long_as_the_candidate_keeps_the_margin() {
        for (m, n) in [(9, 1), (5, 5), (2, 8)] {
            for delta in [0.005, 0.02, 0.2] {
                for recent in [0.001, 0.3] {
                    for a in [0.0, 0.01, 0.05, 0.3, 0.79] {
                        for worse in [0.0, 0.5, 1.0] {
                            let means = means(m, n, a, a + worse * delta, delta, recent);
                            assert!(means.iter().all(|mean| *mean < 1.0 + 1e-9), "{m} {n} {delta} {recent} {a}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn beyond_the_margin_the_player_who_is_right_wins() {
        // Allowed is 0.1 and the odds are three times those: 0.25.
        let ln_factors = |x, y| {
            let block = Block { active: Outcomes::new(50, x), candidate: Outcomes::new(20, y) };
            super::ln_factors(block, 0.05, 0.05)[6]
        };
        let growth: f64 = (0..=50)
            .flat_map(|x| (0..=20).map(move |y| (x, y)))
            .map(|(x, y)| binomial(50, x, 0.05) * binomial(20, y, 0.25) * ln_factors(x, y))
            .sum();
        assert!(growth > 0.5, "{growth}");
    }

    #[test]
    fn the_nearest_point_is_found() {
        for (m, n) in [(1, 1), (1_000, 1), (1, 1_000), (100_000, 5_000)] {
            let block = Block { active: Outcomes::new(m, 0), candidate: Outcomes::new(n, 0) };
            for (a, c) in [(0.001, 0.05), (0.05, 0.9), (0.3, 0.999)] {
                let (_, remainder) = nearest(block, a, c, 0.02);
                assert!(remainder < 1e-6, "{m} {n} {a} {c}: {remainder}");
            }
        }
    }
}
