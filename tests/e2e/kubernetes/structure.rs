//! Structural schemas: where in a document which part of a schema applies, and the defaults that fill it in.
//!
//! Structural is what Kubernetes calls a schema whose `properties`, `items` and `additionalProperties` alone say what a
//! document is made of. Below `allOf`, `anyOf`, `oneOf` and `not` it only restricts, so nothing is looked for there.

use serde_json::Value;

/// A value in a document and the schema that describes it.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// Where the value is: a JSON pointer into the document.
    pub path: String,
    /// What describes it.
    pub schema: &'a Value,
    /// The value.
    pub value: &'a Value,
}

/// Every value of a document that the schema describes, parents before their members.
pub fn places<'a>(schema: &'a Value, document: &'a Value) -> Vec<Place<'a>> {
    let mut places = vec![Place { path: String::new(), schema, value: document }];
    let mut next = 0;
    while let Some(Place { path, schema, value }) = places.get(next).cloned() {
        next += 1;
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    if let Some(schema) = of_member(schema, name) {
                        let name = name.replace('~', "~0").replace('/', "~1");
                        places.push(Place { path: format!("{path}/{name}"), schema, value });
                    }
                }
            }
            Value::Array(elements) => {
                if let Some(schema) = schema.get("items") {
                    let element = |(index, value)| Place { path: format!("{path}/{index}"), schema, value };
                    places.extend(elements.iter().enumerate().map(element));
                }
            }
            _ => {}
        }
    }
    places
}

/// A schema and every schema in it that can describe a value.
pub fn parts(schema: &Value) -> Vec<&Value> {
    let mut parts = vec![schema];
    let mut next = 0;
    while let Some(schema) = parts.get(next).copied() {
        next += 1;
        parts.extend(schema["properties"].as_object().into_iter().flat_map(|properties| properties.values()));
        parts.extend(["items", "additionalProperties"].iter().filter_map(|of| schema.get(of)));
    }
    parts
}

/// Puts in every default for a member that is not there, also those within a default.
///
/// A `null` stays what it is. Where none is allowed, an API server would drop it or put the default in its place
/// without a word; in a manifest it is a mistake.
pub fn fill_in(schema: &Value, document: &mut Value) {
    match document {
        Value::Object(members) => {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(default) = property.get("default").filter(|default| !default.is_null()) {
                    members.entry(name).or_insert_with(|| default.clone());
                }
            }
            for (name, value) in members {
                if let Some(schema) = of_member(schema, name) {
                    fill_in(schema, value);
                }
            }
        }
        Value::Array(elements) => {
            for element in elements {
                fill_in(&schema["items"], element);
            }
        }
        _ => {}
    }
}

/// What describes a member of an object; `None` when it is only kept, or unknown.
fn of_member<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    let property = schema.get("properties").and_then(|properties| properties.get(name));
    property.or_else(|| schema.get("additionalProperties").filter(|schema| schema.is_object()))
}

#[cfg(test)]
mod tests {
    use anyhow::{Result, ensure};
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "properties": {
            "kept": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "labels": {"type": "object", "additionalProperties": {"type": "object", "properties": {
                "value": {"type": "string", "default": "none"},
            }}},
            "ports": {"type": "array", "items": {"type": "object", "properties": {
                "protocol": {"type": "string", "default": "TCP"},
            }}},
            "policy": {"type": "object", "default": {"retries": {}}, "properties": {
                "retries": {"type": "object", "properties": {"limit": {"type": "integer", "default": 3}}},
            }},
            "strategy": {"type": "string", "default": null},
        }})
    }

    #[test]
    fn defaults_fill_in_what_is_not_there_also_in_defaults_lists_and_maps() -> Result<()> {
        let policy = json!({"retries": {"limit": 3}});
        for (document, filled_in) in [
            (json!({}), json!({"policy": policy})),
            (json!({"policy": {}}), json!({"policy": {}})),
            (json!({"policy": {"retries": {"limit": 5}}}), json!({"policy": {"retries": {"limit": 5}}})),
            (json!({"policy": null}), json!({"policy": null})),
            (
                json!({"ports": [{}, {"protocol": "UDP"}]}),
                json!({"ports": [{"protocol": "TCP"}, {"protocol": "UDP"}], "policy": policy}),
            ),
            (json!({"labels": {"a": {}}}), json!({"labels": {"a": {"value": "none"}}, "policy": policy})),
            (json!({"kept": {"ports": [{}]}}), json!({"kept": {"ports": [{}]}, "policy": policy})),
        ] {
            let mut document_then = document.clone();
            fill_in(&schema(), &mut document_then);
            ensure!(document_then == filled_in, "{document} -> {document_then}");
        }
        Ok(())
    }

    #[test]
    fn every_described_value_is_a_place_and_nothing_below_one_that_is_only_kept() -> Result<()> {
        let document = json!({"kept": {"a": 1}, "labels": {"x/y": {"value": "z"}}, "ports": [{"protocol": "UDP"}]});
        let schema = schema();
        let mut found: Vec<String> = places(&schema, &document).into_iter().map(|place| place.path).collect();
        found.sort();
        let expected =
            ["", "/kept", "/labels", "/labels/x~1y", "/labels/x~1y/value", "/ports", "/ports/0", "/ports/0/protocol"];
        ensure!(found == expected, "{found:?}");
        ensure!(parts(&schema).len() == 12, "{} parts", parts(&schema).len());
        Ok(())
    }
}
