//! What both formats have in common: named columns, rows of cells, and the sentence that says which cell is wrong.

use super::{BadRequest, refuse};
use crate::flowers::{FEATURES, Flower};

const LONGEST_QUOTE: usize = 40;

/// Where each of the [`FEATURES`] stands in a row.
#[derive(Debug)]
pub(super) struct Columns {
    positions: [usize; FEATURES.len()],
    width: usize,
}

/// One value as it came.
pub(super) trait Cell {
    fn number(&self) -> Option<f64>;
    fn shown(&self) -> String;
}

/// Which feature a column's name means. The data set's own names (`sepal length (cm)`), which a model logged from a
/// data frame has, and those that people type (`sepal_length`, `SepalLength`) mean the same.
pub(super) fn feature(name: &str) -> Option<usize> {
    let normalised = |name: &str| {
        let name = name.trim().to_lowercase();
        name.trim_end_matches("(cm)").chars().filter(|c| c.is_alphanumeric()).collect::<String>()
    };
    let name = normalised(name);
    FEATURES.iter().position(|feature| normalised(feature) == name)
}

/// A cell's number, if it is one that a model can take.
pub(super) fn number(row: usize, feature: usize, cell: &impl Cell) -> Result<f64, BadRequest> {
    match cell.number().filter(|number| number.is_finite()) {
        Some(number) => Ok(number),
        None => refuse(format_args!(
            "row {row}, column {}: {} is not a finite number",
            FEATURES[feature],
            shortened(&cell.shown())
        )),
    }
}

/// `1 value`, `2 values`.
pub(super) fn count(n: usize, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// A client's own text comes back only as far as its sender needs to recognise it.
fn shortened(text: &str) -> String {
    if text.chars().count() <= LONGEST_QUOTE {
        return text.to_owned();
    }
    text.chars().take(LONGEST_QUOTE).chain(['…']).collect()
}

// === impl Columns ===

impl Columns {
    /// For rows without names: exactly the features, in their order.
    pub(super) fn unnamed() -> Self {
        Self { positions: std::array::from_fn(|feature| feature), width: FEATURES.len() }
    }

    /// Columns that no model knows are left alone, as MLflow does; a missing or repeated one is refused.
    pub(super) fn named<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Result<Self, BadRequest> {
        let width = names.len();
        let mut found = [None; FEATURES.len()];
        for (position, name) in names.enumerate() {
            if let Some(feature) = feature(name)
                && found[feature].replace(position).is_some()
            {
                return refuse(format_args!("column {} is there twice", FEATURES[feature]));
            }
        }
        let missing: Vec<&str> = FEATURES.iter().zip(found).filter(|(_, at)| at.is_none()).map(|(f, _)| *f).collect();
        match missing[..] {
            [] => Ok(Self { positions: found.map(Option::unwrap_or_default), width }),
            [column] => refuse(format_args!("column {column} is missing")),
            _ => refuse(format_args!("columns {} are missing", missing.join(", "))),
        }
    }

    pub(super) fn flower(&self, row: usize, cells: &[impl Cell]) -> Result<Flower, BadRequest> {
        if cells.len() != self.width {
            let (has, columns) = (count(cells.len(), "value"), count(self.width, "column"));
            return refuse(format_args!("row {row} has {has} for {columns} ({} are needed)", FEATURES.join(", ")));
        }
        let mut flower = Flower::default();
        for (feature, &position) in self.positions.iter().enumerate() {
            flower[feature] = number(row, feature, &cells[position])?;
        }
        Ok(flower)
    }
}

// === impl Cell ===

impl Cell for serde_json::Value {
    fn number(&self) -> Option<f64> {
        self.as_f64()
    }

    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Cell for &str {
    fn number(&self) -> Option<f64> {
        self.trim().parse().ok()
    }

    fn shown(&self) -> String {
        format!("{self:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal<T: std::fmt::Debug>(result: Result<T, BadRequest>) -> String {
        result.expect_err("it is refused").to_string()
    }

    #[test]
    fn the_data_sets_own_column_names_and_their_usual_spellings_mean_the_same() {
        for name in ["petal length (cm)", "petal_length", "Petal.Length", "PetalLength", "petal-length"] {
            assert_eq!(feature(name), Some(2), "{name}");
        }
        assert_eq!(feature("petal"), None);
    }

    #[test]
    fn named_columns_may_come_in_any_order_and_among_others() {
        let columns =
            Columns::named(["id", "petal_width", "petal_length", "sepal_width", "sepal_length"].into_iter()).unwrap();
        assert_eq!(columns.flower(0, &["x", "4", "3", "2", "1"]), Ok([1.0, 2.0, 3.0, 4.0]));
    }

    #[test]
    fn missing_and_repeated_columns_are_named() {
        let named = |names: &[&str]| refusal(Columns::named(names.iter().copied()));
        assert_eq!(named(&["sepal_length", "sepal_width", "petal_width"]), "column petal_length is missing");
        assert_eq!(named(&["sepal_length", "petal_width"]), "columns sepal_width, petal_length are missing");
        assert_eq!(named(&["sepal_length", "Sepal Length (cm)"]), "column sepal_length is there twice");
    }

    #[test]
    fn a_row_of_the_wrong_width_is_named() {
        assert_eq!(
            refusal(Columns::unnamed().flower(3, &["1", "2"])),
            "row 3 has 2 values for 4 columns (sepal_length, sepal_width, petal_length, petal_width are needed)"
        );
    }

    #[test]
    fn a_cell_that_is_no_finite_number_is_named() {
        let cell = |text: &str| refusal(Columns::unnamed().flower(1, &["5.1", "3.5", text, "0.2"]));
        for text in ["abc", "NaN", "inf", "1e999", ""] {
            assert_eq!(cell(text), format!("row 1, column petal_length: {text:?} is not a finite number"));
        }
    }

    #[test]
    fn a_long_value_is_shortened_in_the_message() {
        let message = refusal(number(0, 0, &"é".repeat(500).as_str()));
        assert!(message.len() < 200, "{message}");
        assert!(message.contains('…'), "{message}");
    }
}
