//! A value of a document as a CEL rule sees it: typed, and cut, by its schema.
//!
//! The types follow `UnstructuredToVal` of `k8s.io/apiserver/pkg/cel/common`. Two things are left out, because no rule
//! that is run here needs them: `format`s whose values are no strings for a rule (refused, see [`Untyped::Format`]),
//! and the comparison of lists as sets or maps (`x-kubernetes-list-type`): here lists are equal when their elements
//! are, in order.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use cel::Value as Cel;
use cel::objects::{Key, Map};
use serde_json::Value;

/// Names that a rule cannot spell as a field.
const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// Why a value cannot be given to a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum Untyped {
    /// A string of a format that a rule gets as something else, as which it is not implemented here.
    Format(String),
    /// A value that is not of its schema's type, or has none that a rule could know.
    Type {
        /// The schema's `type`.
        expected: String,
        /// The value.
        value: Value,
    },
}

// === impl Untyped ===

impl Display for Untyped {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(format) => write!(f, "a rule about a string of format {format:?} is not implemented"),
            Self::Type { expected, value } => write!(f, "{value} is no {expected}"),
        }
    }
}

impl std::error::Error for Untyped {}

/// What `self` is for the rules of `schema`.
pub fn of(schema: &Value, value: &Value) -> Result<Cel, Untyped> {
    let expected = schema["type"].as_str().unwrap_or("int-or-string, nor kept as it is");
    let untyped = || Untyped::Type { expected: expected.to_owned(), value: value.clone() };
    if value.is_null() {
        return if schema["nullable"] == true { Ok(Cel::Null) } else { Err(untyped()) };
    }
    if schema["x-kubernetes-int-or-string"] == true {
        let number = value.as_i64().map(Cel::Int);
        return number.or_else(|| value.as_str().map(text)).ok_or_else(untyped);
    }
    match (schema["type"].as_str(), value) {
        (Some("object"), Value::Object(members)) => {
            let properties = schema["properties"].as_object();
            let others = schema.get("additionalProperties").filter(|others| others.is_object());
            let mut map = HashMap::new();
            for (name, member) in members {
                // What no schema describes is kept, at most; no rule sees it.
                let (name, schema) = match (properties, others) {
                    (Some(properties), _) => (field(name), properties.get(name)),
                    (None, others) => (name.clone(), others),
                };
                if let Some(schema) = schema {
                    map.insert(Key::from(name), of(schema, member)?);
                }
            }
            Ok(Cel::Map(Map { map: Arc::new(map) }))
        }
        (Some("array"), Value::Array(elements)) => {
            let elements: Result<_, _> = elements.iter().map(|element| of(&schema["items"], element)).collect();
            Ok(Cel::List(Arc::new(elements?)))
        }
        (Some("string"), Value::String(string)) => match schema["format"].as_str() {
            Some(format @ ("byte" | "date" | "date-time" | "duration")) => Err(Untyped::Format(format.to_owned())),
            _ => Ok(text(string)),
        },
        (Some("number"), Value::Number(number)) => number.as_f64().map(Cel::Float).ok_or_else(untyped),
        (Some("integer"), Value::Number(number)) => number.as_i64().map(Cel::Int).ok_or_else(untyped),
        (Some("boolean"), Value::Bool(truth)) => Ok(Cel::Bool(*truth)),
        // That it is there is all that a rule can know of a value of any type.
        (None, _) if schema["x-kubernetes-preserve-unknown-fields"] == true => {
            Ok(Cel::Map(Map { map: Arc::default() }))
        }
        _ => Err(untyped()),
    }
}

fn text(text: impl Into<String>) -> Cel {
    Cel::String(Arc::new(text.into()))
}

/// A property's name as rules spell it.
fn field(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    let escaped = name.replace("__", "__underscores__");
    escaped.replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__")
}

#[cfg(test)]
mod tests {
    use anyhow::{Result, ensure};
    use cel::{Context, Env};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_sees_what_the_schema_describes_by_its_type() -> Result<()> {
        let schema = json!({"type": "object", "properties": {
            "a-b.c/d": {"type": "string"},
            "any": {"x-kubernetes-preserve-unknown-fields": true},
            "kept": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "namespace": {"type": "string"},
            "nothing": {"type": "string", "nullable": true},
            "number": {"type": "number"},
            "one_two": {"type": "integer"},
            "one__two": {"type": "integer"},
            "port": {"x-kubernetes-int-or-string": true},
            "ports": {"type": "array", "items": {"x-kubernetes-int-or-string": true}},
            "set": {"type": "boolean"},
        }});
        let document = json!({
            "a-b.c/d": "a", "any": [1], "kept": {"a": 1}, "labels": {"app.kubernetes.io/name": "iris", "in": "it"},
            "namespace": "default", "nothing": null, "number": 1, "one_two": 12, "one__two": 112, "port": "http",
            "ports": [80, "http"], "set": true, "undescribed": 1,
        });
        let env = Arc::new(Env::stdlib());
        let mut context = Context::with_env(Arc::clone(&env));
        context.add_variable_from_value("self", of(&schema, &document)?);
        for rule in [
            "self.a__dash__b__dot__c__slash__d == 'a'",
            "has(self.any) && !has(self.any.a)",
            "has(self.kept) && !has(self.kept.a)",
            "self.labels['app.kubernetes.io/name'] == 'iris' && 'in' in self.labels",
            "self.__namespace__ == 'default'",
            "self.nothing == null",
            "type(self.number) == double",
            "self.one_two == 12 && self.one__underscores__two == 112",
            "self.port == 'http'",
            "self.ports[0] == 80 && self.ports[1] == 'http'",
            "self.set",
            "!has(self.undescribed)",
        ] {
            let result = env.compile(rule)?.execute(&context);
            ensure!(result == Ok(true.into()), "{rule} -> {result:?}");
        }
        Ok(())
    }

    #[test]
    fn what_has_another_type_than_the_schema_says_is_refused() -> Result<()> {
        for (schema, value) in [
            (json!({"type": "string"}), json!(null)),
            (json!({"type": "string"}), json!(1)),
            (json!({"type": "integer"}), json!(1.5)),
            (json!({"type": "object", "properties": {"a": {"type": "boolean"}}}), json!({"a": "true"})),
            (json!({"x-kubernetes-int-or-string": true}), json!(1.5)),
            (json!({}), json!("a")),
        ] {
            let refusal = of(&schema, &value);
            ensure!(matches!(refusal, Err(Untyped::Type { .. })), "{schema} {value} -> {refusal:?}");
        }
        let refusal = of(&json!({"type": "string", "format": "byte"}), &json!("YQ=="));
        ensure!(refusal == Err(Untyped::Format("byte".to_owned())), "{refusal:?}");
        Ok(())
    }
}
