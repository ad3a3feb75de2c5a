//! The interval for a colour's rate that may be looked at any time.

use libm::lgamma;

use super::outcomes::Outcomes;

/// The rates that `outcomes` do not speak against, at the confidence `1 - alpha`: lower and upper end, 0 to 1.
///
/// With `k` bad ones of `n`, these are the rates `p` with
///
/// ```text
/// B(k + ½, n - k + ½) / (B(½, ½) p^k (1 - p)^(n - k)) < 1/α
/// ```
///
/// the left side being the capital of a player against `p` who bets by a beta mixture of all other rates (Robbins,
/// "Statistical methods related to the law of the iterated logarithm", Annals of Mathematical Statistics 41, 1970;
/// Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of
/// Statistics 49, 2021). If the rate stays the same, the chance that the interval ever misses it is at most `alpha`.
pub fn interval(outcomes: Outcomes, alpha: f64) -> (f64, f64) {
    let (n, k) = (outcomes.total as f64, outcomes.bad as f64);
    let ln_beta = |x: f64, y: f64| lgamma(x) + lgamma(y) - lgamma(x + y);
    let ln_mixture = ln_beta(k + 0.5, n - k + 0.5) - ln_beta(0.5, 0.5);
    let plausible = |p: f64| ln_mixture - xlny(k, p) - xlny(n - k, 1.0 - p) < -alpha.ln();
    let seen = outcomes.share().unwrap_or(0.5);
    (boundary(seen, 0.0, plausible), boundary(seen, 1.0, plausible))
}

/// By how much the first rate is above the second: lower and upper end, -1 to 1. Each rate's interval has half of `alpha`.
pub fn difference(first: Outcomes, second: Outcomes, alpha: f64) -> (f64, f64) {
    let ((low, high), (other_low, other_high)) = (interval(first, 0.5 * alpha), interval(second, 0.5 * alpha));
    (low - other_high, high - other_low)
}

/// `x ln y`, 0 when `x` is.
fn xlny(x: f64, y: f64) -> f64 {
    if x > 0.0 { x * y.ln() } else { 0.0 }
}

/// The last plausible rate on the way from `inside` to `end`.
fn boundary(inside: f64, end: f64, plausible: impl Fn(f64) -> bool) -> f64 {
    if plausible(end) {
        return end;
    }
    let (mut inside, mut outside) = (inside, end);
    // Forty halvings: to the twelfth decimal.
    for _ in 0..40 {
        let middle = 0.5 * (inside + outside);
        if plausible(middle) {
            inside = middle;
        } else {
            outside = middle;
        }
    }
    // The far side of the last step, so that rounding never narrows the interval.
    outside
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn without_outcomes_every_rate_is_plausible() {
        assert_eq!(interval(Outcomes::default(), 0.01), (0.0, 1.0));
    }

    #[test]
    fn an_interval_contains_what_was_seen_and_narrows() {
        let mut last = 1.0;
        for n in [10, 100, 1_000, 10_000, 1_000_000] {
            let (low, high) = interval(Outcomes::new(n, n / 10), 0.01);
            assert!(low < 0.1 && 0.1 < high && high - low < last, "{n}: {low} {high}");
            last = high - low;
        }
        assert!(last < 0.003, "{last}");
    }

    #[test]
    fn without_a_bad_outcome_the_lower_end_is_nought_and_with_only_bad_ones_the_upper_end_one() {
        let (low, high) = interval(Outcomes::new(1_000, 0), 0.01);
        assert!(low == 0.0 && (0.005..0.02).contains(&high), "{high}");
        let (low, high) = interval(Outcomes::new(1_000, 1_000), 0.01);
        assert!(high == 1.0 && (0.98..0.995).contains(&low), "{low}");
    }

    #[test]
    fn the_interval_of_a_difference_contains_what_was_seen_and_nought_where_nothing_is_known() {
        let (low, high) = difference(Outcomes::new(10_000, 500), Outcomes::new(10_000, 100), 0.01);
        assert!(low > 0.0 && low < 0.04 && high > 0.04 && high < 0.06, "{low} {high}");
        assert_eq!(difference(Outcomes::default(), Outcomes::default(), 0.01), (-1.0, 1.0));
    }
}
