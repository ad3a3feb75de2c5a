//! What differs between two answers.
//!
//! Every comparison is symmetric. The excess test rests on that: for models alike it makes no difference which answer came
//! from which.

use serde::Serialize;

use super::answer::{Answer, Content, Field, Value, WHOLE};
use crate::config::Tolerance;
use crate::json::FromJson;

/// One field of two answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldPair<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its place among the fields, as they were met.
    pub order: usize,
    /// Its values in both, where it is there.
    pub both: (Option<&'a Field>, Option<&'a Field>),
    /// The first of its values that differs.
    pub differs_at: Option<usize>,
}

/// What a difference between two numbers measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, FromJson)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// The second less the first.
    #[default]
    Difference,
    /// Of two texts: the second's length over the first's, less 1.
    Length,
    /// Of two vectors: 1 less their cosine.
    Cosine,
}

/// The field of the HTTP status. A pointer begins with a `/`.
pub(super) const STATUS: &str = ":status";

/// What counts as one vector's direction in the other is lost to rounding below this.
const NO_LENGTH: f64 = 1e-300;

/// All fields of two answers. Where one of them is no 2xx, or the statuses differ, only the status is compared; where one could
/// not be read, only that.
pub(super) fn compare<'a>(a: &'a Answer, b: &'a Answer, tolerance: &Tolerance) -> Vec<FieldPair<'a>> {
    let pair = |name, differs: bool| FieldPair { name, order: 0, both: (None, None), differs_at: differs.then_some(0) };
    let mut pairs = vec![pair(STATUS, a.status() != b.status())];
    if a.status() != b.status() || !a.is_2xx() {
        return pairs;
    }
    if !(a.is_readable() && b.is_readable()) {
        pairs.push(pair(WHOLE, a.is_readable() != b.is_readable()));
        return pairs;
    }
    let (mut left, mut right) = (a.fields().peekable(), b.fields().peekable());
    loop {
        let (in_a, in_b) = match (left.peek(), right.peek()) {
            (None, None) => return pairs,
            (Some((key, _)), Some((other, _))) if key == other => (left.next(), right.next()),
            (Some((key, _)), Some((other, _))) if key > other => (None, right.next()),
            (None, Some(_)) => (None, right.next()),
            (Some(_), _) => (left.next(), None),
        };
        let both = (in_a.map(|(_, field)| field), in_b.map(|(_, field)| field));
        let Some(field) = both.0.or(both.1) else { return pairs };
        let differs_at = match both {
            (Some(in_a), Some(in_b)) => first_difference((a, in_a), (b, in_b), tolerance),
            _ => Some(0),
        };
        pairs.push(FieldPair { name: &field.name, order: field.order.saturating_add(1), both, differs_at });
    }
}

fn first_difference(a: (&Answer, &Field), b: (&Answer, &Field), tolerance: &Tolerance) -> Option<usize> {
    let (left, right) = (a.1.values(), b.1.values());
    let agree = |(x, y): (&Value, &Value)| x.place == y.place && agrees(&a.0.content(*x), &b.0.content(*y), tolerance);
    let shorter = left.len().min(right.len());
    left.iter().zip(right).position(|both| !agree(both)).or((left.len() != right.len()).then_some(shorter))
}

/// Whether two values agree. Whole numbers are labels more often than measures, so a tolerance relative to their size is not
/// for them.
fn agrees(a: &Content<'_>, b: &Content<'_>, tolerance: &Tolerance) -> bool {
    match (a, b) {
        (Content::Length(_), Content::Length(_)) => true,
        (Content::Whole(a), Content::Whole(b)) => a == b || a.abs_diff(*b) as f64 <= tolerance.absolute,
        (Content::Negative(a), Content::Negative(b)) => a == b || a.abs_diff(*b) as f64 <= tolerance.absolute,
        (Content::Whole(whole), Content::Negative(negative)) | (Content::Negative(negative), Content::Whole(whole)) => {
            *whole as f64 - *negative as f64 <= tolerance.absolute
        }
        (Content::Vector(a), Content::Vector(b)) => {
            a == b
                || cosine_distance(a, b).is_some_and(|distance| distance <= tolerance.absolute.max(tolerance.relative))
        }
        _ => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => tolerance.agrees(a, b),
            _ => a == b,
        },
    }
}

/// How far two values are apart, and what that measures; none if they are no two measures, or not finite.
pub(super) fn distance(a: &Content<'_>, b: &Content<'_>) -> Option<(Measure, f64)> {
    let (measure, distance) = match (a, b) {
        (Content::Vector(a), Content::Vector(b)) => (Measure::Cosine, cosine_distance(a, b)?),
        (Content::Length(a), Content::Length(b)) if a == b => (Measure::Length, 0.0),
        (Content::Length(a), Content::Length(b)) => (Measure::Length, b / a.max(1.0) - 1.0),
        _ => (Measure::Difference, b.as_f64()? - a.as_f64()?),
    };
    distance.is_finite().then_some((measure, distance))
}

/// 1 less the cosine of the angle between two vectors, 0 to 2; none if they have different lengths or one has no direction.
fn cosine_distance(a: &[f64], b: &[f64]) -> Option<f64> {
    // Scaled by the largest part, so that no square overflows.
    let largest = |vector: &[f64]| vector.iter().fold(0.0_f64, |most, part| most.max(part.abs()));
    let (scale_a, scale_b) = (largest(a), largest(b));
    if a.len() != b.len() || !(scale_a.is_finite() && scale_b.is_finite()) || scale_a.min(scale_b) < NO_LENGTH {
        return None;
    }
    let (mut product, mut square_a, mut square_b) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x / scale_a, y / scale_b);
        product += x * y;
        square_a += x * x;
        square_b += y * y;
    }
    let cosine = product / (square_a.sqrt() * square_b.sqrt());
    cosine.is_finite().then(|| (1.0 - cosine).clamp(0.0, 2.0))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::config::Compare;
    use crate::json;

    fn rules(tolerance: &str) -> Compare {
        let safe = r#""safe": [{"method": "POST", "path_prefix": "/"}]"#;
        json::from_str(&format!(r#"{{{safe}, "tolerance": {tolerance}}}"#)).expect("valid rules")
    }

    /// The fields in which two answers differ, by name.
    fn differing(a: (u16, &str), b: (u16, &str), rules: &Compare) -> Vec<String> {
        let read = |(status, body): (u16, &str)| {
            Answer::read_other(status, body.as_bytes(), None, rules).expect("small enough")
        };
        let (a, b) = (read(a), read(b));
        let names = |a: &Answer, b: &Answer| {
            let pairs = compare(a, b, &rules.tolerance);
            let mut names: Vec<String> =
                pairs.iter().filter(|pair| pair.differs_at.is_some()).map(|pair| pair.name.to_owned()).collect();
            names.sort();
            names
        };
        let found = names(&a, &b);
        assert_eq!(found, names(&b, &a), "the order of the two makes a difference");
        found
    }

    #[test]
    fn values_are_compared_exactly_and_numbers_with_tolerance() {
        let cases = [
            ("1", "1.0", true),
            ("1", "true", false),
            ("1", "\"1\"", false),
            ("\"a\"", "\"a\"", true),
            ("\"a\"", "\"A\"", false),
            ("null", "null", true),
            ("null", "0", false),
            ("NaN", "NaN", true),
            ("NaN", "\"NaN\"", false),
            ("Infinity", "-Infinity", false),
            ("0.1", "0.10000000001", true),
            ("0.1", "0.1001", false),
            ("0.0", "1e-300", false),
            // Whole numbers name things: a tolerance that grows with them would take one for another.
            ("48213377", "48213378", false),
            ("48213377.5", "48213378.0", true),
            ("18446744073709551615", "18446744073709551614", false),
            ("-9007199254740993", "-9007199254740992", false),
            ("-1", "1", false),
            ("[1, 2]", "[2, 1]", false),
            ("[1]", "[1, 1]", false),
            ("[]", "[1]", false),
            ("[]", "{}", false),
            ("[[]]", "[]", false),
            ("[[1], [2]]", "[[1, 2]]", false),
            ("{\"x\": 1}", "{\"y\": 1}", false),
        ];
        for (a, b, agree) in cases {
            let [a, b] = [a, b].map(|value| format!(r#"{{"predictions": {value}}}"#));
            assert_eq!(differing((200, &a), (200, &b), &rules("{}")).is_empty(), agree, "{a} {b}");
        }
    }

    #[test]
    fn an_absolute_tolerance_is_for_whole_numbers_too() {
        let rules = rules(r#"{"absolute": 2}"#);
        for (a, b, agree) in
            [("10", "12", true), ("10", "13", false), ("-1", "1", true), ("-1", "2", false), ("-5", "-3", true)]
        {
            assert_eq!(
                differing((200, &format!("[{a}]")), (200, &format!("[{b}]")), &rules).is_empty(),
                agree,
                "{a} {b}"
            );
        }
    }

    #[test]
    fn the_fields_that_differ_are_named() {
        let a = r#"{"outputs": [{"name": "p", "shape": [2], "datatype": "FP32", "data": [0.25, 0.75]},
            {"name": "label", "shape": [1], "datatype": "BYTES", "data": ["x"]}]}"#;
        let b = r#"{"outputs": [{"name": "label", "shape": [1], "datatype": "BYTES", "data": ["y"]},
            {"name": "p", "shape": [2], "datatype": "FP64", "data": [0.25, 0.75]}]}"#;
        let cases = [
            ((200, a), (200, a), vec![]),
            ((200, a), (200, b), vec!["/outputs/label/data", "/outputs/p/datatype"]),
            ((200, a), (201, a), vec![":status"]),
            ((200, a), (400, "x"), vec![":status"]),
            ((400, "x"), (400, "y"), vec![]),
            ((200, a), (200, "<html>"), vec!["/"]),
            ((200, "<html>"), (200, "oops"), vec![]),
        ];
        for (first, second, names) in cases {
            assert_eq!(differing(first, second, &rules("{}")), names);
        }
    }

    #[test]
    fn in_a_chat_the_text_counts_and_its_length_is_only_measured() {
        let chat = |content: &str, arguments: &str| {
            format!(
                r#"{{"choices": [{{"finish_reason": "stop", "message": {{"role": "assistant", "content": "{content}",
                "tool_calls": [{{"function": {{"name": "f", "arguments": "{arguments}"}}}}]}}}}]}}"#
            )
        };
        let same = chat("Hello", r#"{\"a\": 1, \"b\": 2}"#);
        let cases = [
            (chat("Hello", r#"{\"b\": 3, \"a\": 4}"#), vec![]),
            (chat("Howdy!", r#"{\"a\": 1, \"b\": 2}"#), vec!["/choices/*/message/content"]),
            (
                chat("Hello", r#"{\"a\": 1, \"c\": 2}"#),
                vec![
                    "/choices/*/message/tool_calls/*/function/arguments/b",
                    "/choices/*/message/tool_calls/*/function/arguments/c",
                ],
            ),
        ];
        for (other, names) in cases {
            assert_eq!(differing((200, &same), (200, &other), &rules("{}")), names);
        }
    }

    #[test]
    fn vectors_agree_if_they_point_the_same_way() {
        let tolerance = rules(r#"{"absolute": 0.01}"#);
        let cases = [
            ("[1, 2, 3]", "[2, 4, 6]", true),
            ("[1, 0]", "[1, 0.1]", true),
            ("[1, 0]", "[1, 0.2]", false),
            ("[1, 0]", "[-1, 0]", false),
            ("[1, 0]", "[1, 0, 0]", false),
            ("[0, 0]", "[0, 0]", true),
            ("[0, 0]", "[1, 0]", false),
            ("[1e200, 1e200]", "[1e200, 1e200]", true),
            ("[1e200, 0]", "[0, 1e200]", false),
            ("[NaN]", "[1]", false),
            ("[1.0, -2.0]", "\"AACAPwAAAMA=\"", true),
        ];
        for (a, b, agree) in cases {
            let [a, b] = [a, b].map(|vector| format!(r#"{{"data": [{{"embedding": {vector}}}]}}"#));
            assert_eq!(differing((200, &a), (200, &b), &tolerance).is_empty(), agree, "{a} {b}");
        }
    }
}
