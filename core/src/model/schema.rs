//! The JSON Schema of the configuration, for editors. It is derived from the very types that read a configuration; here is
//! what they cannot say by themselves: the patterns and ranges of values that are checked when they are read.
//!
//! A schema may accept what the reader refuses (a rule between two fields, say) and never refuses what the reader accepts.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::Value;

/// A span of time, as `humantime` reads it.
const SPAN: &str = concat!(
    r"^\s*(\d+(\.\d+)?\s*(nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds|second|secs|sec|s|minutes|minute|mins|min|m",
    r"|hours|hour|hrs|hr|h|days|day|d|weeks|week|wks|wk|w|months|month|M|years|year|yrs|yr|y)\s*)+$"
);

/// A number, which Envoy's own YAML hands over as a text when it has decimals.
const NUMBER: &str = "^[-+0-9.eE]+$";

/// A text.
pub fn text(pattern: &str) -> Schema {
    json_schema!({"type": "string", "pattern": pattern})
}

/// A span of time.
pub fn span(_: &mut SchemaGenerator) -> Schema {
    text(SPAN)
}

/// A span of time, or `auto`.
pub fn span_or_auto() -> Schema {
    json_schema!({"anyOf": [{"const": "auto"}, {"type": "string", "pattern": SPAN}]})
}

/// A share of 0 or more and below 1.
pub fn share(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"anyOf": [
        {"type": "number", "minimum": 0, "exclusiveMaximum": 1}, {"type": "string", "pattern": NUMBER}
    ]})
}

/// A share above 0 and below 1.
pub fn positive_share(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"anyOf": [
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, {"type": "string", "pattern": NUMBER}
    ]})
}

/// A number from one to another.
pub fn between(least: f64, most: f64) -> Schema {
    json_schema!({"anyOf": [
        {"type": "number", "minimum": least, "maximum": most}, {"type": "string", "pattern": NUMBER}
    ]})
}

/// Makes the schema of `T` one that people read: times as they are written, and no links into the code.
pub fn of<T: schemars::JsonSchema>(title: &str) -> Value {
    let mut schema = schemars::schema_for!(T).to_value();
    readable(&mut schema);
    if let Some(object) = schema.as_object_mut() {
        object.insert("title".to_owned(), title.into());
    }
    schema
}

fn readable(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            // That it is nothing is said by its absence.
            if members.get("default").is_some_and(Value::is_null) {
                members.remove("default");
            }
            if let Some(default) = members.get_mut("default")
                && let Some(text) = written_span(default)
            {
                *default = text.into();
            }
            if let Some(Value::String(text)) = members.get_mut("description") {
                *text = without_links(text);
            }
            members.values_mut().for_each(readable);
        }
        Value::Array(elements) => elements.iter_mut().for_each(readable),
        _ => {}
    }
}

/// A span as serde writes it, as people write it.
fn written_span(value: &Value) -> Option<String> {
    let [seconds, nanos] = ["secs", "nanos"].map(|field| value.get(field).and_then(Value::as_u64));
    let span = std::time::Duration::new(seconds?, u32::try_from(nanos?).ok()?);
    Some(humantime::format_duration(span).to_string())
}

/// The text of rustdoc on one line, with its links' texts alone.
fn without_links(text: &str) -> String {
    let mut rest = text;
    let mut plain = String::new();
    while let Some((before, after)) = rest.split_once("[`") {
        plain.push_str(before);
        let Some((name, behind)) = after.split_once("`]") else {
            plain.push_str("[`");
            rest = after;
            continue;
        };
        plain.extend(["`", name, "`"]);
        let target = behind.strip_prefix('(').and_then(|target| target.split_once(')'));
        rest = target.map_or(behind, |(_, behind)| behind);
    }
    plain.push_str(rest);
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}
