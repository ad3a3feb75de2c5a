//! The two forms in which Envoy hands a configuration over.
//!
//! A `google.protobuf.StringValue` arrives as its text, which is JSON here: so Istio and Envoy Gateway deliver it. A
//! `google.protobuf.Struct`, as which one writes plain YAML into Envoy's own configuration, arrives as the bytes of that
//! message: Envoy's documentation promises JSON, but 1.36 to 1.40 do not convert it.

use std::borrow::Cow;
use std::collections::BTreeSet;

use prost::encoding::{WireType, decode_key, decode_varint};

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
        Err(error) => structure(bytes, DEEPEST).ok_or(NoDocument::Unreadable(error)),
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

/// What a field of a message holds.
enum Field<'j> {
    Varint(u64),
    Double(f64),
    Bytes(&'j [u8]),
    /// Of a type that no field of ours has.
    Other,
}

/// So deep may a message be nested, as the generated readers have it.
const DEEPEST: usize = 100;

/// A `google.protobuf.Struct`, its members in the order of their names. Texts are borrowed: a tree of messages takes some
/// kilobytes for each deployment, and memory that a virtual machine once had it keeps.
fn structure(mut rest: &[u8], depth: usize) -> Option<Json<'_>> {
    let mut members: Vec<(Text<'_>, Json<'_>)> = Vec::new();
    while !rest.is_empty() {
        if let (1, Field::Bytes(mut entry)) = field(&mut rest)? {
            let (mut name, mut member) = ("", Json::Null);
            while !entry.is_empty() {
                match field(&mut entry)? {
                    (1, Field::Bytes(text)) => name = std::str::from_utf8(text).ok()?,
                    (2, Field::Bytes(bytes)) => member = value(bytes, depth.checked_sub(1)?)?,
                    _ => {}
                }
            }
            members.push((Text(Cow::Borrowed(name)), member));
        }
    }
    members.sort_by(|(one, _), (other, _)| one.0.cmp(&other.0));
    // Of a name that comes twice the last one counts, as in every message.
    members.dedup_by(|later, earlier| {
        let is_same = later.0 == earlier.0;
        if is_same {
            std::mem::swap(later, earlier);
        }
        is_same
    });
    members.shrink_to_fit();
    Some(Json::Object(members))
}

/// A `google.protobuf.Value`.
fn value(mut rest: &[u8], depth: usize) -> Option<Json<'_>> {
    let mut value = Json::Null;
    while !rest.is_empty() {
        value = match field(&mut rest)? {
            (1, Field::Varint(_)) => Json::Null,
            (2, Field::Double(number)) => self::number(number),
            (3, Field::Bytes(text)) => Json::Text(Cow::Borrowed(std::str::from_utf8(text).ok()?)),
            (4, Field::Varint(truth)) => Json::Bool(truth != 0),
            (5, Field::Bytes(bytes)) => structure(bytes, depth.checked_sub(1)?)?,
            (6, Field::Bytes(bytes)) => list(bytes, depth.checked_sub(1)?)?,
            _ => continue,
        };
    }
    Some(value)
}

/// A `google.protobuf.ListValue`.
fn list(mut rest: &[u8], depth: usize) -> Option<Json<'_>> {
    let mut elements = Vec::new();
    while !rest.is_empty() {
        if let (1, Field::Bytes(element)) = field(&mut rest)? {
            elements.push(value(element, depth.checked_sub(1)?)?);
        }
    }
    Some(Json::List(elements))
}

/// The next field of a message, with its number.
fn field<'j>(rest: &mut &'j [u8]) -> Option<(u32, Field<'j>)> {
    let (number, kind) = decode_key(rest).ok()?;
    let field = match kind {
        WireType::Varint => Field::Varint(decode_varint(rest).ok()?),
        WireType::SixtyFourBit => Field::Double(f64::from_le_bytes(*take(rest, 8)?.first_chunk()?)),
        WireType::LengthDelimited => {
            let length = usize::try_from(decode_varint(rest).ok()?).ok()?;
            Field::Bytes(take(rest, length)?)
        }
        WireType::ThirtyTwoBit => take(rest, 4).map(|_| Field::Other)?,
        WireType::StartGroup | WireType::EndGroup => return None,
    };
    Some((number, field))
}

fn take<'j>(rest: &mut &'j [u8], count: usize) -> Option<&'j [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
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

    use prost::Message;
    use prost_types::value::Kind;
    use prost_types::{Struct, Value};

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
    fn a_message_that_is_cut_off_or_nested_without_end_is_none() {
        let Some(Kind::StructValue(whole)) = message(serde_json::json!({"a": {"b": [1.5, "text"]}})).kind else {
            panic!("an object")
        };
        let whole = whole.encode_to_vec();
        assert!(parse(&whole).is_ok());
        for length in 1..whole.len() {
            assert!(parse(&whole[..length]).is_err(), "{length} of {} bytes", whole.len());
        }
        let mut deep = serde_json::json!({});
        for _ in 0..60 {
            deep = serde_json::json!({ "a": deep });
        }
        let Some(Kind::StructValue(deep)) = message(deep).kind else { panic!("an object") };
        assert!(parse(&deep.encode_to_vec()).is_err());
    }

    #[test]
    fn of_a_name_that_a_message_has_twice_the_last_counts() {
        let of = |number: f64| {
            let value = message(serde_json::json!(number));
            Struct { fields: [("a".to_owned(), value)].into() }.encode_to_vec()
        };
        let document = [of(1.0), of(2.0)].concat();
        assert_eq!(serde_json::Value::from(&parse(&document).expect("a message")), serde_json::json!({"a": 2}));
    }

    #[test]
    fn what_is_neither_is_reported_as_bad_json() {
        for bytes in [&b"{"[..], b"{\"a\": 1} x", b"deployments: {}", b"\xff\xff"] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
