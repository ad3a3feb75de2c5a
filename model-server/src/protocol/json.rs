//! `application/json`: one object with exactly one of the formats' keys.
//!
//! | key | what it holds |
//! | --- | --- |
//! | `instances`, `inputs`, `data` | rows: `[[5.1, 3.5, 1.4, 0.2]]`, or records: `[{"sepal_length": 5.1, …}]` |
//! | `inputs` also | columns: `{"sepal_length": [5.1], …}` |
//! | `dataframe_records` | records only |
//! | `dataframe_split` | `{"columns": ["sepal_length", …], "data": [[5.1, …]]}`; an `index` is left alone |
//!
//! Other keys, such as `params`, are left alone as in MLflow: the models have no parameters.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::table::{Columns, count, feature, number};
use super::{BadRequest, refuse};
use crate::flowers::{FEATURES, Flower};

const FORMATS: [&str; 5] = ["dataframe_split", "dataframe_records", "instances", "inputs", "data"];

pub(super) fn parse(body: &[u8]) -> Result<Vec<Flower>, BadRequest> {
    let object: Map<String, Value> = match serde_json::from_slice(&quote_non_numbers(body)) {
        Ok(Value::Object(object)) => object,
        Ok(other) => return refuse(format_args!("the body is {}; it has to be an object", kind(&other))),
        Err(error) => return refuse(format_args!("the body is not valid JSON: {error}")),
    };
    let given: Vec<(&str, &Value)> = FORMATS.iter().filter_map(|key| Some((*key, object.get(*key)?))).collect();
    let [(key, value)] = given[..] else {
        let keys: Vec<&str> = given.iter().map(|(key, _)| *key).collect();
        let found = if keys.is_empty() { "none of them".to_owned() } else { keys.join(" and ") };
        return refuse(format_args!("the body must have exactly one of {}; it has {found}", FORMATS.join(", ")));
    };
    let flowers = match (key, value) {
        ("dataframe_split", Value::Object(split)) => by_split(split),
        ("dataframe_split", other) => refuse(format_args!("{} instead of an object", kind(other))),
        ("inputs", Value::Object(columns)) => by_column(columns),
        (_, Value::Array(rows)) => {
            let named_only = key == "dataframe_records";
            rows.iter().enumerate().map(|(row, value)| by_row(row, value, named_only)).collect()
        }
        (_, other) => refuse(format_args!("{} instead of an array of rows", kind(other))),
    };
    flowers.map_err(|refusal| refusal.within(key))
}

fn by_row(row: usize, value: &Value, named_only: bool) -> Result<Flower, BadRequest> {
    match value {
        Value::Object(record) => by_record(row, record),
        Value::Array(cells) if !named_only => Columns::unnamed().flower(row, cells),
        other => {
            let wanted = if named_only { "an object" } else { "an array of 4 features or an object" };
            refuse(format_args!("row {row} is {} instead of {wanted}", kind(other)))
        }
    }
}

fn by_record(row: usize, record: &Map<String, Value>) -> Result<Flower, BadRequest> {
    let (names, cells): (Vec<&str>, Vec<Value>) =
        record.iter().map(|(name, cell)| (name.as_str(), cell.clone())).unzip();
    match Columns::named(names.into_iter()) {
        Ok(columns) => columns.flower(row, &cells),
        Err(refusal) => Err(refusal.within(&format!("row {row}"))),
    }
}

fn by_split(split: &Map<String, Value>) -> Result<Vec<Flower>, BadRequest> {
    let columns = match split.get("columns") {
        None => Columns::unnamed(),
        Some(Value::Array(names)) => {
            let names: Option<Vec<&str>> = names.iter().map(Value::as_str).collect();
            match names {
                Some(names) => Columns::named(names.into_iter())?,
                None => return refuse("columns must be an array of strings"),
            }
        }
        Some(other) => {
            return refuse(format_args!("columns is {} instead of an array of strings", kind(other)));
        }
    };
    let Some(Value::Array(rows)) = split.get("data") else {
        return refuse("data, an array of rows, is missing");
    };
    let flower = |(row, value): (usize, &Value)| match value {
        Value::Array(cells) => columns.flower(row, cells),
        other => refuse(format_args!("row {row} is {} instead of an array", kind(other))),
    };
    rows.iter().enumerate().map(flower).collect()
}

/// The columns one after the other: TensorFlow's "column format".
fn by_column(given: &Map<String, Value>) -> Result<Vec<Flower>, BadRequest> {
    Columns::named(given.keys().map(String::as_str).collect::<Vec<_>>().into_iter())?;
    let mut flowers: Option<Vec<Flower>> = None;
    for (name, cells) in given {
        let Some(feature) = feature(name) else { continue };
        let Value::Array(cells) = cells else {
            return refuse(format_args!("column {} is {} instead of an array", FEATURES[feature], kind(cells)));
        };
        let flowers = flowers.get_or_insert_with(|| vec![Flower::default(); cells.len()]);
        if cells.len() != flowers.len() {
            let (has, others) = (count(cells.len(), "value"), flowers.len());
            return refuse(format_args!("column {} has {has}, the columns before it {others}", FEATURES[feature]));
        }
        for (row, (flower, cell)) in flowers.iter_mut().zip(cells).enumerate() {
            flower[feature] = number(row, feature, cell)?;
        }
    }
    Ok(flowers.unwrap_or_default())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Python's clients write `NaN` and `Infinity`, which are not JSON. As strings they pass the parser, and the client
/// learns which row and column holds one instead of that a character is unexpected somewhere in its body.
fn quote_non_numbers(body: &[u8]) -> Cow<'_, [u8]> {
    let mut quoted = Vec::new();
    let (mut copied, mut at, mut in_string) = (0, 0, false);
    while let Some(byte) = body.get(at) {
        let rest = &body[at..];
        let word = ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| rest.starts_with(word.as_bytes()));
        match (byte, word) {
            (b'\\', _) if in_string => at += 1,
            (b'"', _) => in_string = !in_string,
            (_, Some(word)) if !in_string => {
                quoted.extend_from_slice(&body[copied..at]);
                quoted.extend([b"\"", word.as_bytes(), b"\""].concat());
                at += word.len() - 1;
                copied = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(body);
    }
    quoted.extend_from_slice(&body[copied..]);
    Cow::Owned(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: [Flower; 2] = [[5.1, 3.5, 1.4, 0.2], [6.2, 2.8, 4.8, 1.8]];

    fn flowers(body: &str) -> Vec<Flower> {
        parse(body.as_bytes()).unwrap_or_else(|refusal| panic!("{body}: {refusal}"))
    }

    fn refusal(body: &str) -> String {
        parse(body.as_bytes()).expect_err(body).to_string()
    }

    #[test]
    fn rows_are_read_under_each_key_that_takes_them() {
        for key in ["instances", "inputs", "data"] {
            assert_eq!(flowers(&format!(r#"{{"{key}": [[5.1, 3.5, 1.4, 0.2], [6.2, 2.8, 4.8, 1.8]]}}"#)), TWO, "{key}");
        }
    }

    #[test]
    fn records_are_read_under_each_key_that_takes_them() {
        let record =
            r#"{"petal length (cm)": 1.4, "petal_width": 0.2, "sepal_width": 3.5, "sepal_length": 5.1, "id": "x"}"#;
        for key in ["dataframe_records", "instances", "inputs", "data"] {
            assert_eq!(flowers(&format!(r#"{{"{key}": [{record}]}}"#)), TWO[..1], "{key}");
        }
    }

    #[test]
    fn columns_are_read_as_inputs() {
        let body = r#"{"inputs": {"petal_width": [0.2, 1.8], "petal_length": [1.4, 4.8],
                                  "sepal_length": [5.1, 6.2], "sepal_width": [3.5, 2.8]}}"#;
        assert_eq!(flowers(body), TWO);
    }

    #[test]
    fn a_split_data_frame_is_read_with_its_columns_in_any_order_or_without_any() {
        let named = r#"{"dataframe_split": {"columns": ["petal_width", "petal_length", "sepal_width", "sepal_length"],
                                           "index": [0], "data": [[0.2, 1.4, 3.5, 5.1]]}, "params": {}}"#;
        assert_eq!(flowers(named), TWO[..1]);
        assert_eq!(flowers(r#"{"dataframe_split": {"data": [[5.1, 3.5, 1.4, 0.2]]}}"#), TWO[..1]);
    }

    #[test]
    fn exactly_one_format_is_accepted() {
        let formats = "the body must have exactly one of dataframe_split, dataframe_records, instances, inputs, data";
        assert_eq!(refusal("{}"), format!("{formats}; it has none of them"));
        assert_eq!(refusal(r#"{"inputs": [], "data": []}"#), format!("{formats}; it has inputs and data"));
    }

    #[test]
    fn a_body_that_is_no_json_object_is_refused() {
        assert_eq!(refusal("[[5.1]]"), "the body is an array; it has to be an object");
        assert!(refusal("{\"inputs\": [").starts_with("the body is not valid JSON"), "{}", refusal("{\"inputs\": ["));
        assert!(parse(b"\xff").is_err());
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn the_row_and_column_of_a_wrong_value_are_named() {
        let row = |cell: &str| refusal(&format!(r#"{{"inputs": [[5.1, 3.5, 1.4, 0.2], [5.1, {cell}, 1.4, 0.2]]}}"#));
        for cell in [r#""3.5""#, "null", "true", "[3.5]"] {
            assert_eq!(row(cell), format!("inputs: row 1, column sepal_width: {cell} is not a finite number"));
        }
        for cell in ["NaN", "Infinity", "-Infinity"] {
            assert_eq!(row(cell), format!("inputs: row 1, column sepal_width: \"{cell}\" is not a finite number"));
        }
        let column =
            r#"{"inputs": {"petal_width": [1], "petal_length": [NaN], "sepal_length": [1], "sepal_width": [1]}}"#;
        assert_eq!(refusal(column), "inputs: row 0, column petal_length: \"NaN\" is not a finite number");
    }

    #[test]
    fn missing_columns_and_wrong_widths_are_named() {
        assert_eq!(
            refusal(r#"{"dataframe_records": [{"sepal_length": 1, "petal_length": 1}]}"#),
            "dataframe_records: row 0: columns sepal_width, petal_width are missing"
        );
        assert_eq!(
            refusal(r#"{"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2]]}}"#),
            "dataframe_split: columns sepal_length, sepal_width, petal_length, petal_width are missing"
        );
        assert!(refusal(r#"{"inputs": [[1, 2, 3]]}"#).starts_with("inputs: row 0 has 3 values for 4 columns"));
        assert_eq!(
            refusal(
                r#"{"inputs": {"petal_width": [1, 2], "petal_length": [1], "sepal_length": [1], "sepal_width": [1]}}"#
            ),
            "inputs: column petal_width has 2 values, the columns before it 1"
        );
    }

    #[test]
    fn a_row_of_the_wrong_shape_is_named() {
        assert_eq!(
            refusal(r#"{"inputs": [5.1, 3.5, 1.4, 0.2]}"#),
            "inputs: row 0 is a number instead of an array of 4 features or an object"
        );
        assert_eq!(
            refusal(r#"{"dataframe_records": [[5.1, 3.5, 1.4, 0.2]]}"#),
            "dataframe_records: row 0 is an array instead of an object"
        );
        assert_eq!(refusal(r#"{"instances": "x"}"#), "instances: a string instead of an array of rows");
        assert_eq!(refusal(r#"{"dataframe_split": []}"#), "dataframe_split: an array instead of an object");
        assert_eq!(
            refusal(r#"{"dataframe_split": {"data": [1]}}"#),
            "dataframe_split: row 0 is a number instead of an array"
        );
        assert_eq!(refusal(r#"{"dataframe_split": {}}"#), "dataframe_split: data, an array of rows, is missing");
    }

    #[test]
    fn words_inside_strings_stay_as_they_are() {
        let body = br#"{"params": {"NaN \" Infinity": "NaN"}, "inputs": [NaN, -Infinity]}"#;
        let expected = br#"{"params": {"NaN \" Infinity": "NaN"}, "inputs": ["NaN", "-Infinity"]}"#;
        assert_eq!(quote_non_numbers(body).as_ref(), expected);
        assert!(matches!(quote_non_numbers(b"{}"), Cow::Borrowed(_)));
    }
}
