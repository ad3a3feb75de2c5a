//! A call's parameters, from the query string and from a JSON body alike.
//!
//! Whatever is ambiguous is refused: a switch of production traffic must not depend on which of two values wins.

use std::fmt;
use std::str::FromStr;

use percent_encoding::percent_decode;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::problems::Problem;
use crate::model::name::Reason;

/// Names and values, each name once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, String)>);

/// The members of a JSON object in their order, doubles included.
struct RawMembers(Vec<(String, serde_json::Value)>);

/// A `%` that does not begin an encoded byte.
#[derive(Debug)]
pub struct BadEncoding;

/// Checks that every `%` is followed by two hexadecimal digits (RFC 3986, section 2.1).
pub fn check_encoding(text: &[u8]) -> Result<(), BadEncoding> {
    let mut parts = text.split(|byte| *byte == b'%');
    parts.next();
    let encoded = |part: &[u8]| part.get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    if parts.all(encoded) { Ok(()) } else { Err(BadEncoding) }
}

// === impl Params ===

impl Params {
    /// Reads a query string (`application/x-www-form-urlencoded`: `+` is a space).
    pub fn from_query(query: &[u8]) -> Result<Self, Problem> {
        let mut params = Self::default();
        for pair in query.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
                Some(at) => (pair.get(..at).unwrap_or_default(), pair.get(at.saturating_add(1)..).unwrap_or_default()),
                None => (pair, &b""[..]),
            };
            params.add(decode(name)?, decode(value)?)?;
        }
        Ok(params)
    }

    /// Adds the members of a JSON body, if there is one.
    pub fn with_body(mut self, body: &[u8]) -> Result<Self, Problem> {
        if body.trim_ascii().is_empty() {
            return Ok(self);
        }
        let RawMembers(members) =
            serde_json::from_slice(body).map_err(|error| Problem::InvalidJson(error.to_string()))?;
        for (name, value) in members {
            let text = match value {
                serde_json::Value::String(text) => text,
                serde_json::Value::Number(number) => number.to_string(),
                serde_json::Value::Bool(truth) => truth.to_string(),
                other => {
                    return Err(Problem::InvalidValue {
                        name,
                        problem: format!("{other} is neither a text, a number nor a truth value"),
                    });
                }
            };
            self.add(name, text)?;
        }
        Ok(self)
    }

    fn add(&mut self, name: String, value: String) -> Result<(), Problem> {
        if self.text(&name).is_some() {
            return Err(Problem::DuplicateParameter(name));
        }
        self.0.push((name, value));
        Ok(())
    }

    /// Refuses every name that is not `known`.
    pub fn only(self, known: &'static [&'static str]) -> Result<Self, Problem> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => Err(Problem::UnknownParameter { name: name.clone(), known }),
            None => Ok(self),
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The value of `name`, if it is given.
    pub fn parsed<T: FromStr<Err: fmt::Display>>(&self, name: &str) -> Result<Option<T>, Problem> {
        let invalid = |error: T::Err| Problem::InvalidValue { name: name.to_owned(), problem: error.to_string() };
        self.text(name).map(|text| text.parse().map_err(invalid)).transpose()
    }

    /// Whether `name` is given and true.
    pub fn is_set(&self, name: &str) -> Result<bool, Problem> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Problem::InvalidValue {
                name: name.to_owned(),
                problem: format!("{other:?} is neither true nor false"),
            }),
        }
    }

    /// The reason that the caller gives, or none.
    pub fn reason(&self) -> Result<Reason, Problem> {
        let invalid = |error: crate::model::name::NameError| Problem::InvalidValue {
            name: "reason".to_owned(),
            problem: error.to_string(),
        };
        self.text("reason").map_or_else(|| Ok(Reason::none()), |text| Reason::new(text).map_err(invalid))
    }
}

fn decode(text: &[u8]) -> Result<String, Problem> {
    let malformed = || Problem::MalformedQuery(String::from_utf8_lossy(text).into_owned());
    check_encoding(text).map_err(|BadEncoding| malformed())?;
    let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_decode(&spaced).decode_utf8().map(std::borrow::Cow::into_owned).map_err(|_| malformed())
}

// === impl RawMembers ===

impl<'de> Deserialize<'de> for RawMembers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = RawMembers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with the call's parameters")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawMembers, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(RawMembers(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}
