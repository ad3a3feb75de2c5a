//! The two forms in which Envoy hands a configuration over.
//!
//! A `google.protobuf.StringValue` arrives as its text, which is JSON here: so Istio and Envoy Gateway deliver it. A
//! `google.protobuf.Struct`, as which one writes plain YAML into Envoy's own configuration, arrives as the bytes of that
//! message: Envoy's documentation promises JSON, but 1.36 to 1.40 do not convert it.

use std::borrow::Cow;
use std::collections::BTreeSet;

use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

use crate::json::{self, Json, Text};

/// Why bytes are no document.
#[derive(Debug)]
pub enum NoDocument {
    /// They are in neither form; the error is that of the JSON, which somebody wrote by hand.
    Unreadable(serde_json::Error),
    /// An object of the JSON has a name twice: the path to it, and the name.
    Twice(String, String),
}

/// Reads either form.
///
/// # Errors
/// The bytes are neither, or ambiguous.
pub fn parse(bytes: &[u8]) -> Result<Json<'_>, NoDocument> {
    // JSON first: no JSON object is also a valid message, since its brace would open a group that nothing closes.
    match json::parse(bytes) {
        Ok(document) => match twice(&document) {
            None => Ok(document),
            Some((path, name)) => Err(NoDocument::Twice(path, name)),
        },
        Err(error) => Struct::decode(bytes).map(object).map_err(|_| NoDocument::Unreadable(error)),
    }
}

/// The first name that stands twice in one object, behind the path to it: most readers would take the last one in silence.
fn twice(document: &Json<'_>) -> Option<(String, String)> {
    match document {
        Json::List(elements) => elements.iter().enumerate().find_map(|(place, element)| {
            let (path, name) = twice(element)?;
            Some((below(&format!("[{place}]"), &path), name))
        }),
        Json::Object(members) => {
            let mut names = BTreeSet::new();
            members.iter().find_map(|(name, member)| {
                let name: &str = &name.0;
                if !names.insert(name) {
                    return Some((String::new(), name.to_owned()));
                }
                let (path, twice) = twice(member)?;
                Some((below(name, &path), twice))
            })
        }
        _ => None,
    }
}

fn below(step: &str, path: &str) -> String {
    let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
    format!("{step}{dot}{path}")
}

// === the message ===

fn object<'j>(document: Struct) -> Json<'j> {
    Json::Object(document.fields.into_iter().map(|(name, value)| (Text(Cow::Owned(name)), json(value))).collect())
}

fn json<'j>(value: Value) -> Json<'j> {
    match value.kind {
        Some(Kind::StructValue(document)) => object(document),
        Some(Kind::ListValue(list)) => Json::List(list.values.into_iter().map(json).collect()),
        Some(Kind::StringValue(text)) => Json::Text(Cow::Owned(text)),
        Some(Kind::BoolValue(truth)) => Json::Bool(truth),
        Some(Kind::NumberValue(number)) => self::number(number),
        Some(Kind::NullValue(_)) | None => Json::Null,
    }
}

/// A message's numbers are all doubles: the whole ones are integers again, as they were in the YAML.
fn number<'j>(number: f64) -> Json<'j> {
    let whole = number as i64;
    if whole as f64 == number {
        whole.into()
    } else if number.is_finite() {
        Json::Double(number)
    } else {
        Json::Null
    }
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
        assert_eq!(serde_json::Value::from(&parse(&as_message.encode_to_vec()).expect("a message")), document);
        assert_eq!(serde_json::Value::from(&parse(document.to_string().as_bytes()).expect("JSON")), document);
    }

    #[test]
    fn what_is_neither_is_reported_as_bad_json() {
        for bytes in [&b"{"[..], b"{\"a\": 1} x", b"deployments: {}", b"\xff\xff"] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
