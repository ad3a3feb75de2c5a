//! The CEL rules of a schema (`x-kubernetes-validations`), run as an API server runs them when an object is created.
//!
//! A rule that cannot be compiled or evaluated counts as broken: nothing is passed over, except the rules about a
//! transition (`oldSelf`), of which a creation is none.

pub mod functions;
pub mod values;

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use cel::{Context, Env, ExecutionError, Program};
use serde_json::Value;

use super::structure::{self, Place};

/// What schemas call their rules.
const RULES: &str = "x-kubernetes-validations";

/// Runs rules.
pub struct Rules {
    env: Arc<Env>,
}

// === impl Rules ===

impl Rules {
    /// With the functions that an API server offers, as far as [`functions`] has them.
    pub fn new() -> Result<Self> {
        Ok(Self { env: Arc::new(functions::environment()?) })
    }

    /// The rules that a document breaks, each by its place and message. Its defaults have to be filled in.
    pub fn broken(&self, schema: &Value, document: &Value) -> Vec<String> {
        let mut broken = Vec::new();
        for Place { path, schema, value } in structure::places(schema, document) {
            for rule in of(schema) {
                match self.holds(rule, schema, value) {
                    Ok(true) => {}
                    Ok(false) => broken.push(format!("{path}: {}", message(rule))),
                    Err(error) => broken.push(format!("{path}: {}: {error:#}", rule["rule"])),
                }
            }
        }
        broken
    }

    /// A rule's program; fails when it is no CEL, or calls a function that is not there.
    pub fn compile(&self, rule: &Value) -> Result<Program> {
        let text = rule["rule"].as_str().context("no text")?;
        let program = self.env.compile(text).map_err(|errors| anyhow!("{errors}"))?;
        for function in program.references().functions() {
            // The other names are operators.
            let named = function.starts_with(|letter: char| letter.is_ascii_alphabetic());
            ensure!(!named || self.declares(function)?, "no function {function:?}");
        }
        Ok(program)
    }

    fn holds(&self, rule: &Value, schema: &Value, value: &Value) -> Result<bool> {
        let program = self.compile(rule)?;
        let transition = program.references().has_variable("oldSelf");
        if transition && rule["optionalOldSelf"] != true {
            return Ok(true);
        }
        let mut context = Context::with_env(Arc::clone(&self.env));
        context.add_variable_from_value("self", values::of(schema, value)?);
        match program.execute(&context)? {
            cel::Value::Bool(truth) => Ok(truth),
            other => bail!("neither true nor false but {other:?}"),
        }
    }

    /// Whether there is such a function, or a method: a call without arguments then fails for want of them.
    fn declares(&self, function: &str) -> Result<bool> {
        for call in [format!("{function}()"), format!("dyn(0).{function}()")] {
            let result = self.env.compile(&call)?.execute(&Context::with_env(Arc::clone(&self.env)));
            if !matches!(result, Err(ExecutionError::UndeclaredReference(_))) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The rules of a schema, without those of its members. Beside its own these are the ones in its `allOf`.
pub fn of(schema: &Value) -> Vec<&Value> {
    let own = schema[RULES].as_array().into_iter().flatten();
    let others = schema["allOf"].as_array().into_iter().flatten();
    own.chain(others.flat_map(of)).collect()
}

/// How many rules there are anywhere in a schema, at a place that this module looks at or not.
pub fn count(schema: &Value) -> usize {
    match schema {
        Value::Object(members) => {
            let own = schema[RULES].as_array().map_or(0, Vec::len);
            own + members.values().map(count).sum::<usize>()
        }
        Value::Array(elements) => elements.iter().map(count).sum(),
        _ => 0,
    }
}

fn message(rule: &Value) -> String {
    rule["message"].as_str().map_or_else(|| format!("failed rule: {}", rule["rule"]), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A schema of an object with a text `a`, another `b`, and one rule.
    fn schema(rule: Value) -> Value {
        let text = json!({"type": "string"});
        json!({"type": "object", "properties": {"a": text, "b": text}, RULES: [rule]})
    }

    #[test]
    fn a_broken_rule_is_named_by_its_message_and_its_place() -> Result<()> {
        let one_of = schema(json!({"rule": "has(self.a) != has(self.b)", "message": "one of a and b"}));
        let list = json!({"type": "object", "properties": {"list": {"type": "array", "items": one_of}}});
        let map = json!({"type": "object", "additionalProperties": one_of});
        let both = json!({"a": "", "b": ""});
        for (schema, document, broken) in [
            (&one_of, json!({"a": ""}), vec![]),
            (&one_of, both.clone(), vec![": one of a and b"]),
            (&list, json!({"list": [{"b": ""}, both, {}]}), vec!["/list/1: one of a and b", "/list/2: one of a and b"]),
            (&map, json!({"x": {}}), vec!["/x: one of a and b"]),
            (&json!({"type": "object", "allOf": [one_of]}), json!({}), vec![": one of a and b"]),
            (&schema(json!({"rule": "has(self.a)"})), json!({}), vec![": failed rule: \"has(self.a)\""]),
        ] {
            let found = Rules::new()?.broken(schema, &document);
            ensure!(found == broken, "{document} -> {found:?}");
        }
        Ok(())
    }

    #[test]
    fn a_rule_that_cannot_be_run_is_broken_and_one_about_a_transition_is_not_run() -> Result<()> {
        let optional = json!({"rule": "!oldSelf.hasValue()", "optionalOldSelf": true});
        for (rule, named) in [
            (json!({"rule": "has(self.a"}), "Syntax error"),
            (json!({"rule": "!has(self.a) || isIP(self.a)"}), "no function \"isIP\""),
            (json!({"rule": "self.a == ''"}), "No such key: a"),
            (json!({"rule": "other == ''"}), "Undeclared reference to 'other'"),
            (json!({"rule": "size(self)"}), "neither true nor false"),
            (json!({"message": "no rule"}), "no text"),
            (optional, "Undeclared reference to 'oldSelf'"),
        ] {
            let broken = Rules::new()?.broken(&schema(rule.clone()), &json!({}));
            ensure!(broken.len() == 1 && broken[0].contains(named), "{rule} -> {broken:?}");
        }
        let broken = Rules::new()?.broken(&schema(json!({"rule": "self.a == oldSelf.a"})), &json!({}));
        ensure!(broken.is_empty(), "{broken:?}");
        Ok(())
    }
}
