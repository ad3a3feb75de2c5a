//! The flowers: what is measured of them, and the 150 on which both versions were fitted and judged.

use anyhow::{Context, Result, ensure};

/// A flower's four measurements in centimetres, in the order of [`FEATURES`].
pub type Flower = [f64; FEATURES.len()];

/// A flower of the data set.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// Its measurements.
    pub flower: Flower,
    /// What it is: 0 is setosa, 1 is versicolor, 2 is virginica.
    pub species: usize,
    /// Whether neither version was fitted on it.
    pub held_out: bool,
}

/// What the models are given, in the data set's own order.
pub const FEATURES: [&str; 4] = ["sepal_length", "sepal_width", "petal_length", "petal_width"];

/// The data set of R. A. Fisher, *The use of multiple measurements in taxonomic problems* (1936), as scikit-learn has it.
/// `fit.py` wrote the file.
const DATA: &str = include_str!("../iris.csv");

/// All 150, in the data set's order.
///
/// # Errors
/// A line of `iris.csv` that is no flower, by its text.
pub fn iris() -> Result<Vec<Observation>> {
    DATA.lines().skip(1).map(|line| Observation::read(line).with_context(|| format!("iris.csv: {line:?}"))).collect()
}

// === impl Observation ===

impl Observation {
    fn read(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.split(',').collect();
        let [measurements @ .., species, part] = fields.as_slice() else { anyhow::bail!("it has too few fields") };
        ensure!(measurements.len() == FEATURES.len(), "it has {} measurements", measurements.len());
        let mut flower = Flower::default();
        for (place, text) in flower.iter_mut().zip(measurements) {
            *place = text.parse().with_context(|| format!("{text:?} is no number"))?;
        }
        let species = species.parse().with_context(|| format!("{species:?} is no species"))?;
        Ok(Self { flower, species, held_out: *part == "held_out" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_set_has_fifty_flowers_of_each_species() {
        let all = iris().unwrap();
        for species in 0..3 {
            assert_eq!(all.iter().filter(|seen| seen.species == species).count(), 50, "species {species}");
        }
    }

    #[test]
    fn a_line_that_is_no_flower_is_refused_with_what_is_wrong_in_it() {
        for (line, wrong) in [
            ("", "too few fields"),
            ("5.1,3.5,1.4,0,fit", "3 measurements"),
            ("5.1,3.5,1.4,wide,0,fit", "\"wide\" is no number"),
            ("5.1,3.5,1.4,0.2,rose,fit", "\"rose\" is no species"),
        ] {
            let refusal = Observation::read(line).unwrap_err().to_string();
            assert!(refusal.contains(wrong), "{line:?}: {refusal}");
        }
    }
}
