//! The two forms in which Envoy hands a configuration over.
//!
//! A `google.protobuf.StringValue` arrives as its text, which is JSON here: so Istio and Envoy Gateway deliver it. A
//! `google.protobuf.Struct`, as which one writes plain YAML into Envoy's own configuration, arrives as the bytes of that
//! message: Envoy's documentation promises JSON, but 1.36 to 1.40 do not convert it.

use std::fmt;

use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Number;

/// Why bytes are no document.
#[derive(Debug)]
pub enum NoDocument {
    /// They are in neither form; the error is that of the JSON, which somebody wrote by hand.
    Unreadable(serde_json::Error),
    /// An object of the JSON has a name twice: the path to it, and the name.
    Twice(String, String),
}

/// A JSON value whose objects still have every name as often as it was written.
enum Written {
    Scalar(serde_json::Value),
    List(Vec<Written>),
    Object(Vec<(String, Written)>),
}

/// Reads either form.
///
/// # Errors
/// The bytes are neither, or ambiguous.
pub fn parse(bytes: &[u8]) -> Result<serde_json::Value, NoDocument> {
    // JSON first: no JSON object is also a valid message, since its brace would open a group that nothing closes.
    match serde_json::from_slice::<Written>(bytes) {
        Ok(written) => written.unambiguous(""),
        Err(error) => Struct::decode(bytes).map(object).map_err(|_| NoDocument::Unreadable(error)),
    }
}

// === impl Written ===

impl Written {
    /// The value, unless a name stands twice in one of its objects: most readers would take the last one in silence.
    fn unambiguous(self, path: &str) -> Result<serde_json::Value, NoDocument> {
        match self {
            Self::Scalar(value) => Ok(value),
            Self::List(elements) => {
                let each = |(place, element): (usize, Self)| element.unambiguous(&format!("{path}[{place}]"));
                elements.into_iter().enumerate().map(each).collect()
            }
            Self::Object(members) => {
                let mut object = serde_json::Map::new();
                for (name, member) in members {
                    if object.contains_key(&name) {
                        return Err(NoDocument::Twice(path.to_owned(), name));
                    }
                    let dot = if path.is_empty() { "" } else { "." };
                    let value = member.unambiguous(&format!("{path}{dot}{name}"))?;
                    object.insert(name, value);
                }
                Ok(object.into())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Written;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Written, E> {
                Ok(Written::Scalar(serde_json::Value::Null))
            }

            fn visit_bool<E: de::Error>(self, truth: bool) -> Result<Written, E> {
                Ok(Written::Scalar(truth.into()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Written, E> {
                Ok(Written::Scalar(number.into()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Written, E> {
                Ok(Written::Scalar(number.into()))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Written, E> {
                Ok(Written::Scalar(number.into()))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Written, E> {
                Ok(Written::Scalar(text.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Written, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    elements.push(element);
                }
                Ok(Written::List(elements))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Written, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Written::Object(members))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

// === the message ===

fn object(document: Struct) -> serde_json::Value {
    document.fields.into_iter().map(|(name, value)| (name, json(value))).collect()
}

fn json(value: Value) -> serde_json::Value {
    match value.kind {
        Some(Kind::StructValue(document)) => object(document),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(json).collect(),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::BoolValue(truth)) => truth.into(),
        Some(Kind::NumberValue(number)) => self::number(number).map_or(serde_json::Value::Null, Into::into),
        Some(Kind::NullValue(_)) | None => serde_json::Value::Null,
    }
}

/// A message's numbers are all doubles: the whole ones are integers again, as they were in the YAML.
fn number(number: f64) -> Option<Number> {
    let whole = number as i64;
    if whole as f64 == number { Some(whole.into()) } else { Number::from_f64(number) }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn message(value: serde_json::Value) -> Value {
        let kind = match value {
            serde_json::Value::Object(members) => Kind::StructValue(Struct {
                fields: members.into_iter().map(|(name, value)| (name, message(value))).collect(),
            }),
            serde_json::Value::Array(values) => {
                Kind::ListValue(prost_types::ListValue { values: values.into_iter().map(message).collect() })
            }
            serde_json::Value::String(text) => Kind::StringValue(text),
            serde_json::Value::Bool(truth) => Kind::BoolValue(truth),
            serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().expect("finite")),
            serde_json::Value::Null => Kind::NullValue(0),
        };
        Value { kind: Some(kind) }
    }

    #[test]
    fn both_forms_of_a_document_read_the_same() {
        let document = serde_json::json!({
            "deployments": {"iris": {"initial": {"canary_percent": 12.5, "shadow_percent": 3}, "list": [true, null, "x"]}},
            "admin": {"open": false},
        });
        let Some(Kind::StructValue(as_message)) = message(document.clone()).kind else { panic!("an object") };
        assert_eq!(parse(&as_message.encode_to_vec()).expect("a message"), document);
        assert_eq!(parse(document.to_string().as_bytes()).expect("JSON"), document);
    }

    #[test]
    fn what_is_neither_is_reported_as_bad_json() {
        for bytes in [&b"{"[..], b"{\"a\": 1} x", b"deployments: {}", b"\xff\xff"] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
