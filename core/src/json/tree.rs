//! A JSON value as it was written.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use xxhash_rust::xxh64::xxh64;

/// A value. Texts are borrowed from the bytes where they stand there as they are; the members of an object stand in the
/// order in which they were written, each as often as it was.
#[derive(Clone, Debug, PartialEq)]
pub enum Json<'j> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A whole number, 0 or more.
    Whole(u64),
    /// A whole number below 0.
    Negative(i64),
    /// Any other number.
    Double(f64),
    /// A text.
    Text(Cow<'j, str>),
    /// A list.
    List(Vec<Json<'j>>),
    /// Names and values.
    Object(Vec<(Text<'j>, Json<'j>)>),
}

/// The name of a member.
#[derive(Clone, Debug, PartialEq)]
pub struct Text<'j>(pub Cow<'j, str>);

/// What is read: a name, or any value.
struct Reading;

/// Most lists and objects have no more: their place grows once.
const FEW: usize = 8;

/// Reads bytes.
///
/// # Errors
/// They are no JSON, or nested more than 128 times.
pub fn parse(bytes: &[u8]) -> Result<Json<'_>, serde_json::Error> {
    serde_json::from_slice(bytes)
}

// === impl Json ===

impl<'j> Json<'j> {
    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The number, if it is one.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Whole(number) => Some(*number as f64),
            Self::Negative(number) => Some(*number as f64),
            Self::Double(number) => Some(*number),
            _ => None,
        }
    }

    /// The member with this name, if it is an object that has it.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(known, _)| known.0 == name).map(|(_, value)| value)
    }
}

impl Json<'_> {
    /// A number that stands for the value, in whatever order the members of its objects were written.
    pub fn digest(&self) -> u64 {
        match self {
            Self::Null => 0,
            Self::Bool(truth) => xxh64(&[u8::from(*truth)], 1),
            Self::Whole(number) => xxh64(&number.to_le_bytes(), 2),
            Self::Negative(number) => xxh64(&number.to_le_bytes(), 2),
            Self::Double(number) => xxh64(&number.to_bits().to_le_bytes(), 3),
            Self::Text(text) => xxh64(text.as_bytes(), 4),
            Self::List(elements) => {
                elements.iter().fold(5, |before, element| xxh64(&element.digest().to_le_bytes(), before))
            }
            Self::Object(members) => {
                members.iter().fold(6, |sum, (name, value)| sum.wrapping_add(xxh64(name.0.as_bytes(), value.digest())))
            }
        }
    }
}

impl<'de: 'j, 'j> Deserialize<'de> for Json<'j> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reading)
    }
}

impl<'de: 'j, 'j> Deserialize<'de> for Text<'j> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_str(Reading)? {
            Json::Text(text) => Ok(Self(text)),
            _ => Err(de::Error::custom("a name is no text")),
        }
    }
}

impl<'de> Visitor<'de> for Reading {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(truth))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json<'de>, E> {
        Ok(Json::Whole(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json<'de>, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json<'de>, E> {
        Ok(Json::Double(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json<'de>, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element()? {
            if elements.is_empty() {
                elements.reserve_exact(FEW);
            }
            elements.push(element);
        }
        Ok(Json::List(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            if members.is_empty() {
                members.reserve_exact(FEW);
            }
            members.push(member);
        }
        Ok(Json::Object(members))
    }
}

impl From<i64> for Json<'_> {
    fn from(number: i64) -> Self {
        u64::try_from(number).map_or(Self::Negative(number), Self::Whole)
    }
}

impl<'j> From<&'j Value> for Json<'j> {
    fn from(value: &'j Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(truth) => Self::Bool(*truth),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => Self::Whole(number),
                (None, Some(number)) => Self::Negative(number),
                (None, None) => number.as_f64().map_or(Self::Null, Self::Double),
            },
            Value::String(text) => Self::Text(Cow::Borrowed(text)),
            Value::Array(elements) => Self::List(elements.iter().map(Self::from).collect()),
            Value::Object(members) => Self::Object(
                members.iter().map(|(name, value)| (Text(Cow::Borrowed(name)), Self::from(value))).collect(),
            ),
        }
    }
}

/// Of members with one name the last counts.
impl From<&Json<'_>> for Value {
    fn from(json: &Json<'_>) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(truth) => Self::Bool(*truth),
            Json::Whole(number) => Self::Number((*number).into()),
            Json::Negative(number) => Self::Number((*number).into()),
            Json::Double(number) => Number::from_f64(*number).map_or(Self::Null, Self::Number),
            Json::Text(text) => Self::String(text.clone().into_owned()),
            Json::List(elements) => Self::Array(elements.iter().map(Self::from).collect()),
            Json::Object(members) => {
                // One by one: made at once the map would be sorted, by another 4 KB of code.
                let mut object = Map::new();
                for (name, value) in members {
                    object.insert(name.0.clone().into_owned(), value.into());
                }
                Self::Object(object)
            }
        }
    }
}
