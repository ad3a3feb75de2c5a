//! What is said about repeated measurements: the middle one and how far the middle half lies apart.
//!
//! The machine is shared, so there are outliers on the slow side; medians and quartiles do not follow them.

use serde::{Deserialize, Serialize};

/// The middle of some measurements, and the quartiles around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    pub lower_quartile: f64,
    pub upper_quartile: f64,
    pub samples: usize,
}

/// The value below which the share `rank` (0 to 1) of the values lies, interpolated; 0 when there are none.
pub fn quantile(values: &[f64], rank: f64) -> f64 {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let position = rank.clamp(0.0, 1.0) * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64)
}

/// The ratio of two variants in each round, where both were measured a moment apart.
pub fn ratios(of: &[f64], to: &[f64]) -> Vec<f64> {
    of.iter().zip(to).filter(|(_, to)| **to > 0.0).map(|(of, to)| of / to).collect()
}

// === impl Spread ===

impl Spread {
    pub fn of(values: &[f64]) -> Self {
        Self {
            median: quantile(values, 0.5),
            lower_quartile: quantile(values, 0.25),
            upper_quartile: quantile(values, 0.75),
            samples: values.len(),
        }
    }

    /// `95.6 (93.0–97.2)`: the median and the quartiles.
    pub fn show(&self, digits: usize) -> String {
        let Self { median, lower_quartile, upper_quartile, .. } = self;
        format!("{median:.digits$} ({lower_quartile:.digits$}–{upper_quartile:.digits$})")
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_between_its_neighbours() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(&values, 0.5), 2.5);
        assert_eq!(quantile(&values, 0.0), 1.0);
        assert_eq!(quantile(&values, 1.0), 4.0);
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn an_outlier_moves_neither_median_nor_quartiles_far() {
        let spread = Spread::of(&[10.0, 11.0, 12.0, 13.0, 900.0]);
        assert_eq!((spread.median, spread.lower_quartile, spread.upper_quartile), (12.0, 11.0, 13.0));
        assert_eq!(spread.show(1), "12.0 (11.0–13.0)");
    }

    #[test]
    fn ratios_pair_what_was_measured_in_the_same_round() {
        assert_eq!(ratios(&[11.0, 24.0], &[10.0, 20.0]), [1.1, 1.2]);
        assert_eq!(ratios(&[1.0], &[0.0]), [0.0; 0]);
    }
}
