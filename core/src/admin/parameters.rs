//! A call's parameters, from the query string and from a JSON body alike.
//!
//! Whatever is ambiguous is refused: a switch of production traffic must not depend on which of two values wins.

use std::fmt;
use std::str::FromStr;

use percent_encoding::percent_decode;
use serde_json::Value;

use super::problems::{Problem, beginning};
use crate::json::{self, Json};
use crate::model::name::Reason;

/// Names and values, each name once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, String)>);

/// The most members of a body that are looked at. No call has half as many parameters.
const MOST: usize = 16;

/// The longest value, in bytes. A reason of 200 characters has at most 800.
const LONGEST: usize = 1_024;

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
    /// Reads a query string (`application/x-www-form-urlencoded`: `+` is a space) up to the first name that is not `known`.
    pub fn from_query(query: &[u8], known: &'static [&'static str]) -> Result<Self, Problem> {
        let mut params = Self::default();
        for pair in query.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
                Some(at) => (pair.get(..at).unwrap_or_default(), pair.get(at.saturating_add(1)..).unwrap_or_default()),
                None => (pair, &b""[..]),
            };
            // What is too long to be known is not decoded.
            let name = if name.len() > LONGEST { beginning(name) } else { decode(name)? };
            params.add(name, known, || decode(value))?;
        }
        Ok(params)
    }

    /// Adds the members of a JSON body, if there is one.
    pub fn with_body(mut self, body: &[u8], known: &'static [&'static str]) -> Result<Self, Problem> {
        if body.trim_ascii().is_empty() {
            return Ok(self);
        }
        let members = match json::parse(body).map_err(|error| Problem::InvalidJson(error.to_string()))? {
            Json::Object(members) if members.len() <= MOST => members,
            Json::Object(_) => return Err(Problem::InvalidJson(format!("it has more than {MOST} members"))),
            _ => return Err(Problem::InvalidJson("it is something else".to_owned())),
        };
        for (name, value) in members {
            let (name, value) = (name.0.into_owned(), Value::from(&value));
            let field = name.clone();
            self.add(name, known, || match value {
                Value::String(text) => Ok(text),
                Value::Number(number) => Ok(number.to_string()),
                Value::Bool(truth) => Ok(truth.to_string()),
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    let problem = "it is neither a text, a number nor a truth value".to_owned();
                    Err(Problem::InvalidValue { name: field, problem })
                }
            })?;
        }
        Ok(self)
    }

    /// There are never more parameters than known ones, so that looking for a name stays cheap whatever a client sends.
    fn add(
        &mut self,
        name: String,
        known: &'static [&'static str],
        value: impl FnOnce() -> Result<String, Problem>,
    ) -> Result<(), Problem> {
        if !known.contains(&name.as_str()) {
            return Err(Problem::UnknownParameter { name, known });
        }
        if self.text(&name).is_some() {
            return Err(Problem::DuplicateParameter(name));
        }
        let value = value()?;
        if value.len() > LONGEST {
            return Err(Problem::InvalidValue { name, problem: format!("it is longer than {LONGEST} bytes") });
        }
        self.0.push((name, value));
        Ok(())
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
