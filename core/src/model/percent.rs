//! Shares of traffic, exact to one hundredth of a percent.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::json::{self, FieldError, FromJson, Json};

/// A share from 0 to 100 % in steps of 0.01 %, kept as whole hundredths so that 0 is none and 100 is all, exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u16);

/// Why a text or number is not a [`Percent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PercentError {
    /// Not a plain decimal number.
    NotANumber(String),
    /// Below 0 or above 100.
    OutOfRange(String),
    /// More than two decimals.
    TooFine(String),
}

// === impl Percent ===

impl Percent {
    /// No request.
    pub const ZERO: Percent = Percent(0);
    /// Every request.
    pub const ALL: Percent = Percent(10_000);

    /// The share in hundredths of a percent, 0 to 10,000.
    pub const fn hundredths(self) -> u16 {
        self.0
    }

    /// From hundredths of a percent; `None` above 10,000.
    pub const fn from_hundredths(hundredths: u16) -> Option<Self> {
        if hundredths <= Self::ALL.0 { Some(Self(hundredths)) } else { None }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 100, self.0 % 100);
        match (rest, rest % 10) {
            (0, _) => write!(f, "{whole}"),
            (_, 0) => write!(f, "{whole}.{}", rest / 10),
            _ => write!(f, "{whole}.{rest:02}"),
        }
    }
}

impl FromStr for Percent {
    type Err = PercentError;

    /// Reads a plain decimal (`0`, `12.5`, `33.33`), digit by digit: no binary fraction can move a request.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let not_a_number = || PercentError::NotANumber(text.to_owned());
        let (sign, digits) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        if [whole, fraction].iter().any(|part| part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err(not_a_number());
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > 2 {
            return Err(PercentError::TooFine(text.to_owned()));
        }
        let out_of_range = || PercentError::OutOfRange(text.to_owned());
        let whole: u16 = whole.parse().map_err(|_| out_of_range())?;
        let fraction: u16 = format!("{fraction:0<2}").parse().map_err(|_| not_a_number())?;
        let hundredths = whole.checked_mul(100).and_then(|sum| sum.checked_add(fraction)).ok_or_else(out_of_range)?;
        if sign < 0 && hundredths > 0 {
            return Err(out_of_range());
        }
        Self::from_hundredths(hundredths).ok_or_else(out_of_range)
    }
}

impl Serialize for Percent {
    /// A JSON number: `10`, `0.01`, `33.33`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(100) {
            serializer.serialize_u16(self.0 / 100)
        } else {
            serializer.serialize_f64(f64::from(self.0) / 100.0)
        }
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        json::by_serde(deserializer)
    }
}

impl FromJson for Percent {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        let text = match json {
            Json::Whole(number) => number.to_string(),
            Json::Negative(number) => number.to_string(),
            Json::Double(number) => number.to_string(),
            // Envoy reads 12.5 in its own YAML as a text: it knows whole numbers only.
            Json::Text(text) => text.clone().into_owned(),
            _ => return Err(FieldError::other_kind(json, "a number from 0 to 100 with at most two decimals")),
        };
        text.parse().map_err(|error: PercentError| FieldError::new(error.to_string()))
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Percent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"anyOf": [
            {"type": "number", "minimum": 0, "maximum": 100}, {"type": "string", "pattern": "^-?[0-9]+(\\.[0-9]+)?$"}
        ]})
    }
}

// === impl PercentError ===

impl fmt::Display for PercentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotANumber(text) => write!(f, "{text:?} is not a decimal number such as 12.5"),
            Self::OutOfRange(text) => write!(f, "{text} is not between 0 and 100"),
            Self::TooFine(text) => write!(f, "{text} has more than two decimals: the smallest step is 0.01"),
        }
    }
}

impl std::error::Error for PercentError {}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn every_step_of_one_hundredth_survives_text_and_json() {
        for hundredths in 0..=10_000 {
            let percent = Percent::from_hundredths(hundredths).expect("in range");
            assert_eq!(percent.to_string().parse(), Ok(percent));
            let json = serde_json::to_string(&percent).expect("serialises");
            assert_eq!(json::from_str::<Percent>(&json).expect(&json), percent);
        }
    }

    #[test]
    fn what_is_not_a_share_is_refused_with_the_reason() {
        let cases = [
            ("", "not a decimal number"),
            ("-", "not a decimal number"),
            (".5", "not a decimal number"),
            ("5.", "not a decimal number"),
            ("+5", "not a decimal number"),
            ("1e1", "not a decimal number"),
            ("NaN", "not a decimal number"),
            ("10%", "not a decimal number"),
            ("\u{661}", "not a decimal number"),
            ("101", "not between 0 and 100"),
            ("100.01", "not between 0 and 100"),
            ("-1", "not between 0 and 100"),
            ("99999999999999999999", "not between 0 and 100"),
            ("0.001", "more than two decimals"),
            ("0.30000000000000004", "more than two decimals"),
        ];
        for (text, reason) in cases {
            let error = text.parse::<Percent>().expect_err(text).to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
        assert_eq!("10.000".parse(), Ok(Percent(1_000)));
        assert_eq!("-0".parse(), Ok(Percent::ZERO));
    }

    #[test]
    fn json_numbers_of_any_kind_are_read_and_decimals_in_quotes_too() {
        let cases =
            [("10", 1_000), ("10.0", 1_000), ("33.33", 3_333), ("1e1", 1_000), ("0.01", 1), ("\"12.5\"", 1_250)];
        for (json, hundredths) in cases {
            assert_eq!(json::from_str::<Percent>(json).expect(json), Percent(hundredths));
        }
        for json in ["-1", "100.5", "\"ten\"", "\"\"", "null", "1e300", "[10]"] {
            assert!(json::from_str::<Percent>(json).is_err(), "{json}");
        }
    }
}
