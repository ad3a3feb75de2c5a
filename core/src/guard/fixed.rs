//! The bet against a rate that is known: for a candidate that was promoted, and has no other colour beside it.

use super::capital::{ODDS_RATIOS, PLAYERS};
use super::outcomes::Outcomes;

/// The logarithm of each player's factor for outcomes that are bad with at most the rate `allowed` (above 0, below 1)
/// if nothing is wrong: the likelihood ratio of a rate with `ψ` times its odds. The ratio grows with the number of bad
/// outcomes, so its mean is at most 1 for any smaller rate too.
pub fn ln_factors(outcomes: Outcomes, allowed: f64) -> [f64; PLAYERS] {
    if allowed >= 1.0 {
        return [0.0; PLAYERS];
    }
    ODDS_RATIOS.map(|odds| {
        // The likelihood ratio is odds^bad / (1 - allowed + odds * allowed)^total.
        outcomes.bad as f64 * odds.ln() - outcomes.total as f64 * (1.0 - allowed + odds * allowed).ln()
    })
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn the_mean_factor_is_one_at_the_allowed_rate_and_less_below() {
        for allowed in [0.001, 0.05, 0.5] {
            let [bad, good] = [1, 0].map(|bad| ln_factors(Outcomes::new(1, bad), allowed));
            for (bad, good) in bad.iter().zip(good) {
                let mean = |rate: f64| rate * bad.exp() + (1.0 - rate) * good.exp();
                assert!((mean(allowed) - 1.0).abs() < 1e-12 && mean(0.9 * allowed) < 1.0, "{allowed}");
            }
        }
    }
}
