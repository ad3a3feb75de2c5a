//! The two forms in which Envoy hands a configuration over.
//!
//! A `google.protobuf.StringValue` arrives as its text, which is JSON here: so Istio and Envoy Gateway deliver it. A
//! `google.protobuf.Struct`, as which one writes plain YAML into Envoy's own configuration, arrives as the bytes of that
//! message: Envoy's documentation promises JSON, but 1.36 to 1.40 do not convert it.

use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use serde_json::Number;

/// Reads either form.
///
/// # Errors
/// The bytes are neither; the error is that of the JSON, which somebody wrote by hand.
pub fn parse(bytes: &[u8]) -> Result<serde_json::Value, serde_json::Error> {
    // JSON first: no JSON object is also a valid message, since its brace would open a group that nothing closes.
    serde_json::from_slice(bytes).or_else(|error| match Struct::decode(bytes) {
        Ok(document) => Ok(object(document)),
        Err(_) => Err(error),
    })
}

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
