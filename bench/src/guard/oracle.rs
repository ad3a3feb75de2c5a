//! How few requests any rule can need that keeps the promise.
//!
//! Who knew both error rates beforehand would bet by their likelihood ratio against the pooled rate, the one under which the
//! two colours are hardest to tell apart. This is the test that grows fastest of all (R. Turner, A. Ly and P. Grünwald, "Generic
//! E-variables for exact sequential k-sample tests that allow for optional stopping", Journal of Statistical Planning and
//! Inference 230, 2024, section 2): with the share `s` the logarithm of its capital grows with each request of the candidate by
//!
//! ```text
//! KL = kl(c, p) + (1 - s) / s · kl(a, p),   p = s·c + (1 - s)·a,   kl(x, p) = x ln(x/p) + (1 - x) ln((1 - x)/(1 - p))
//! ```
//!
//! and by Wald's identity it needs `ln(1/α) / KL` of them on average until it stands at `1/α`.

/// The limit in requests of the candidate, for the error rates of the active colour and of the candidate.
pub fn limit(active: f64, candidate: f64, share: f64, alpha: f64) -> Option<f64> {
    if candidate <= active || !(0.0..1.0).contains(&share) || share == 0.0 {
        return None;
    }
    let pooled = share * candidate + (1.0 - share) * active;
    let growth = divergence(candidate, pooled) + (1.0 - share) / share * divergence(active, pooled);
    Some((1.0 / alpha).ln() / growth)
}

fn divergence(x: f64, p: f64) -> f64 {
    let part = |x: f64, p: f64| if x > 0.0 { x * (x / p).ln() } else { 0.0 };
    part(x, p) + part(1.0 - x, 1.0 - p)
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_those_of_the_statistician() {
        let cases = [(0.01, 0.015, 5_460.0), (0.01, 0.02, 1_547.0), (0.01, 0.03, 470.0), (0.01, 0.05, 155.0)];
        for (active, candidate, expected) in cases {
            let limit = limit(active, candidate, 0.1, 1.0 / 200.0).expect("worse");
            assert!((limit / expected - 1.0).abs() < 0.01, "{active} {candidate}: {limit}");
        }
        assert_eq!(limit(0.01, 0.01, 0.1, 0.01), None);
    }
}
