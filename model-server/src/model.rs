//! The two model versions: what they know, and how they decide.
//!
//! The demo is only worth watching if blue and green really differ, so these are two models fitted on the real iris
//! data set by `fit.py` (its head says how to run it; `--check` compares this file with a fresh fit). Both were fitted
//! on 105 flowers; of the other 45, which neither has seen, version 1 gets 42 right and version 2 gets 44.

use std::fmt;

use crate::flowers::{FEATURES, Flower};

/// What they answer: 0 is setosa, 1 is versicolor, 2 is virginica.
const SPECIES: usize = 3;

/// The petal's length only: the first model that a team puts into production.
const VERSION_1: Model = Model {
    weights: [[0.0000, 0.0000, -2.7978, 0.0000], [0.0000, 0.0000, -0.2147, 0.0000], [0.0000, 0.0000, 3.0125, 0.0000]],
    intercepts: [10.0732, 2.8985, -12.9717],
};

/// All four measurements. It differs from version 1 on 5 of the 150 flowers and is right on 4 of those.
const VERSION_2: Model = Model {
    weights: [
        [-0.4795, 0.7806, -2.2924, -0.9185],
        [0.1524, -0.2185, -0.0785, -0.6940],
        [0.3271, -0.5621, 2.3709, 1.6125],
    ],
    intercepts: [9.7784, 3.1134, -12.8918],
};

/// The versions that `--model-version` knows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Version {
    /// Petal length only.
    #[value(name = "1")]
    One,
    /// All four measurements.
    #[value(name = "2")]
    Two,
}

/// A softmax regression. Its probabilities are not served, so the softmax itself, which changes no order, is left out.
struct Model {
    weights: [[f64; FEATURES.len()]; SPECIES],
    intercepts: [f64; SPECIES],
}

// === impl Version ===

impl Version {
    /// The species that this version takes the flower for.
    pub fn predict(self, flower: &Flower) -> usize {
        match self {
            Self::One => VERSION_1.predict(flower),
            Self::Two => VERSION_2.predict(flower),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "1",
            Self::Two => "2",
        })
    }
}

// === impl Model ===

impl Model {
    fn predict(&self, flower: &Flower) -> usize {
        let mut best = (0, f64::NEG_INFINITY);
        for (species, (weights, intercept)) in self.weights.iter().zip(self.intercepts).enumerate() {
            let score = intercept + weights.iter().zip(flower).map(|(weight, value)| weight * value).sum::<f64>();
            // On a tie the first species wins, as in NumPy's argmax.
            if score > best.1 {
                best = (species, score);
            }
        }
        best.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flowers::{Observation, iris};

    fn right(version: Version, observations: &[Observation]) -> usize {
        observations.iter().filter(|seen| version.predict(&seen.flower) == seen.species).count()
    }

    #[test]
    fn each_version_is_as_accurate_as_its_description_says() {
        let (held_out, fitted): (Vec<_>, Vec<_>) = iris().unwrap().into_iter().partition(|seen| seen.held_out);
        assert_eq!((held_out.len(), fitted.len()), (45, 105));
        assert_eq!((right(Version::One, &held_out), right(Version::Two, &held_out)), (42, 44));
        assert_eq!((right(Version::One, &fitted), right(Version::Two, &fitted)), (100, 101));
    }

    #[test]
    fn the_versions_differ_on_exactly_the_five_rows_that_the_fit_reported() {
        let rows: Vec<(usize, usize, usize, usize)> = iris()
            .unwrap()
            .iter()
            .enumerate()
            .map(|(row, seen)| {
                (row, Version::One.predict(&seen.flower), Version::Two.predict(&seen.flower), seen.species)
            })
            .filter(|(_, one, two, _)| one != two)
            .collect();
        assert_eq!(rows, [(119, 2, 1, 2), (121, 1, 2, 2), (123, 1, 2, 2), (126, 1, 2, 2), (127, 1, 2, 2)]);
    }

    #[test]
    fn version_one_looks_at_the_petal_length_only() {
        for petal_length in [1.4, 4.5, 6.0] {
            let at = |rest: f64| Version::One.predict(&[rest, rest, petal_length, rest]);
            assert_eq!(at(0.0), at(100.0));
        }
    }

    #[test]
    fn measurements_that_overflow_still_give_a_species() {
        assert!(Version::Two.predict(&[f64::MAX; 4]) < SPECIES);
        assert!(Version::Two.predict(&[f64::MIN; 4]) < SPECIES);
    }

    #[test]
    fn a_version_is_shown_as_it_is_given_on_the_command_line() {
        assert_eq!((Version::One.to_string(), Version::Two.to_string()), ("1".to_owned(), "2".to_owned()));
    }
}
