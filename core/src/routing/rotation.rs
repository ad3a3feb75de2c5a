//! Exact rotation: the share of a canary without a coin flip.

use crate::model::percent::Percent;

/// Spreads a share evenly over a run of requests, one of them per worker thread and deployment.
///
/// Every request adds the share to a sum; each time the sum passes a whole request, that request is chosen (Bresenham's
/// line algorithm, in one dimension). Over any run of `n` requests at a constant share `p`, the number chosen differs
/// from `n × p` by less than 1. A change of the share keeps the remainder, so that many small steps lose nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Hundredths of a percent not yet paid out, below one whole request.
    remainder: u16,
}

// === impl Rotation ===

impl Rotation {
    /// Whether the next request is chosen.
    pub fn choose(&mut self, share: Percent) -> bool {
        let whole = Percent::ALL.hundredths();
        // Both terms are at most 10,000.
        let sum = self.remainder.saturating_add(share.hundredths());
        let chosen = sum >= whole;
        self.remainder = if chosen { sum.saturating_sub(whole) } else { sum };
        chosen
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::percent;

    #[test]
    fn nought_is_none_and_a_hundred_is_all_whatever_came_before() {
        for before in ["0.01", "33.33", "99.99"] {
            let mut rotation = Rotation::default();
            for _ in 0..5_000 {
                rotation.choose(percent(before));
            }
            assert!((0..20_000).all(|_| !rotation.choose(Percent::ZERO)));
            assert!((0..20_000).all(|_| rotation.choose(Percent::ALL)));
        }
    }

    #[test]
    fn one_percent_is_every_hundredth_request() {
        let mut rotation = Rotation::default();
        let chosen: Vec<usize> = (1..=400).filter(|_| rotation.choose(percent("1"))).collect();
        assert_eq!(chosen, [100, 200, 300, 400]);
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn every_run_of_requests_is_off_by_less_than_one(share in 0..=10_000_u16, skip in 0..3_000_usize, run in 1..3_000_usize) {
            let share = Percent::from_hundredths(share).expect("in range");
            let mut rotation = Rotation::default();
            for _ in 0..skip {
                rotation.choose(share);
            }
            let chosen = (0..run).filter(|_| rotation.choose(share)).count() as f64;
            let target = run as f64 * f64::from(share.hundredths()) / 10_000.0;
            proptest::prop_assert!((chosen - target).abs() < 1.0, "{chosen} of {run}, target {target}");
        }
    }
}
