//! Schemas of custom resources, checked as an API server checks them: defaults filled in, then the structural OpenAPI
//! schema with unknown fields refused, then its CEL rules.
//!
//! The schemas are the real ones, from the CustomResourceDefinitions in a folder that the environment variable
//! `BLUEGREEN_CRDS` names.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use jsonschema::Validator;
use serde_json::{Map, Value, json};

use super::rules::{self, Rules};
use super::structure;

/// The environment variable that names the folder.
pub const CRDS: &str = "BLUEGREEN_CRDS";

/// The schemas of a folder.
pub struct Schemas {
    /// By `apiVersion` and `kind`.
    schemas: BTreeMap<(String, String), Schema>,
    rules: Rules,
}

/// What one kind has to look like.
struct Schema {
    /// With what every object has.
    structural: Value,
    /// The same as JSON Schema.
    validator: Validator,
}

// === impl Schemas ===

impl Schemas {
    /// The schemas of the folder that `BLUEGREEN_CRDS` names; `None`, with a line that says so, when it names none.
    pub fn from_environment() -> Result<Option<Self>> {
        match env::var_os(CRDS).filter(|folder| !folder.is_empty()) {
            Some(folder) => Self::read(&PathBuf::from(folder)).map(Some),
            None => {
                eprintln!("skipped: set {CRDS} to a folder with the CustomResourceDefinitions to check against");
                Ok(None)
            }
        }
    }

    /// The schemas of every served version of every definition in `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut schemas = BTreeMap::new();
        for entry in fs::read_dir(folder).with_context(|| format!("{CRDS}={}", folder.display()))? {
            let path = entry?.path();
            if !path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
                continue;
            }
            let documents: Vec<Value> = serde_saphyr::from_multiple(&fs::read_to_string(&path)?)
                .map_err(|error| anyhow!("{}: {error}", path.display()))?;
            for definition in documents.iter().filter(|document| document["kind"] == "CustomResourceDefinition") {
                add(definition, &mut schemas).with_context(|| path.display().to_string())?;
            }
        }
        ensure!(!schemas.is_empty(), "{} holds no CustomResourceDefinition", folder.display());
        Ok(Self { schemas, rules: Rules::new()? })
    }

    /// Fails with everything in the schema that a manifest breaks; if it breaks nothing, with every CEL rule.
    pub fn check(&self, manifest: &Value) -> Result<()> {
        let of = |field: &str| manifest[field].as_str().unwrap_or_default().to_owned();
        let kind = (of("apiVersion"), of("kind"));
        let schema = self.schemas.get(&kind).with_context(|| format!("no schema for {kind:?}"))?;
        let name = format!("{} {}", kind.1, manifest["metadata"]["name"]);
        let mut object = manifest.clone();
        structure::fill_in(&schema.structural, &mut object);
        let errors = schema.validator.iter_errors(&object);
        let broken: Vec<String> = errors.map(|error| format!("{}: {error}", error.instance_path())).collect();
        ensure!(broken.is_empty(), "{name} breaks the schema: {broken:#?}");
        let broken = self.rules.broken(&schema.structural, &object);
        ensure!(broken.is_empty(), "{name} breaks rules: {broken:#?}");
        Ok(())
    }

    /// How many CEL rules all schemas have, and why those that do not compile do not.
    pub fn compile(&self) -> (usize, Vec<String>) {
        let mut failures = Vec::new();
        let mut count = 0;
        for ((version, kind), schema) in &self.schemas {
            for rule in structure::parts(&schema.structural).into_iter().flat_map(rules::of) {
                count += 1;
                if let Err(error) = self.rules.compile(rule) {
                    failures.push(format!("{kind} {version}: {}: {error:#}", rule["rule"]));
                }
            }
        }
        (count, failures)
    }
}

/// Adds a definition's versions.
fn add(definition: &Value, schemas: &mut BTreeMap<(String, String), Schema>) -> Result<()> {
    let spec = &definition["spec"];
    let group = spec["group"].as_str().context("no group")?;
    let kind = spec["names"]["kind"].as_str().context("no kind")?;
    for version in spec["versions"].as_array().into_iter().flatten().filter(|version| version["served"] == true) {
        let name = version["name"].as_str().context("no version")?;
        let mut structural = version["schema"]["openAPIV3Schema"].clone();
        structural["properties"]["apiVersion"] = json!({"type": "string"});
        structural["properties"]["kind"] = json!({"type": "string"});
        structural["properties"]["metadata"] = metadata();
        let looked_at: usize = structure::parts(&structural).into_iter().map(|part| rules::of(part).len()).sum();
        let all = rules::count(&structural);
        ensure!(looked_at == all, "{kind} {name}: {} rules at places that are not looked at", all - looked_at);
        // The dialect whose `exclusiveMinimum` is a truth value, as OpenAPI 3.0 has it.
        let validator =
            jsonschema::draft4::options().build(&strict(&structural)).map_err(|error| anyhow!("{kind}: {error}"))?;
        schemas.insert((format!("{group}/{name}"), kind.to_owned()), Schema { structural, validator });
    }
    Ok(())
}

/// What every object may have, as far as manifests in a repository have it.
fn metadata() -> Value {
    let texts = json!({"type": "object", "additionalProperties": {"type": "string"}});
    json!({
        "type": "object",
        "required": ["name"],
        "additionalProperties": false,
        "properties": {
            "name": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"},
            "namespace": {"type": "string"},
            "labels": texts,
            "annotations": texts,
        },
    })
}

/// A structural schema as JSON Schema: what is not described is refused, unless the schema says that it is kept.
fn strict(schema: &Value) -> Value {
    let Value::Object(members) = schema else { return schema.clone() };
    let mut strict = Map::new();
    for (name, member) in members {
        let converted = match name.as_str() {
            "description" => continue,
            "properties" => {
                let fields = member.as_object().into_iter().flatten();
                Value::Object(fields.map(|(field, schema)| (field.clone(), self::strict(schema))).collect())
            }
            "items" | "additionalProperties" => self::strict(member),
            // Inside of allOf, anyOf, oneOf and not a structural schema describes nothing, it only restricts.
            _ => member.clone(),
        };
        strict.insert(name.clone(), converted);
    }
    let open = members.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
    if members.contains_key("properties") && !members.contains_key("additionalProperties") && !open {
        strict.insert("additionalProperties".to_owned(), json!(false));
    }
    if members.get("nullable") == Some(&json!(true))
        && let Some(of_type) = members.get("type")
    {
        strict.insert("type".to_owned(), json!([of_type, "null"]));
    }
    Value::Object(strict)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schemas() -> Result<Schemas> {
        let definition = json!({
            "kind": "CustomResourceDefinition",
            "spec": {
                "group": "example.com",
                "names": {"kind": "Plugin"},
                "versions": [{"name": "v1", "served": true, "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "required": ["spec"],
                    "properties": {"spec": {
                        "type": "object",
                        "required": ["url"],
                        "properties": {
                            "url": {"type": "string", "minLength": 1},
                            "priority": {"type": "integer", "nullable": true},
                            "config": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                            "matches": {"type": "array", "items": {
                                "type": "object",
                                "properties": {"exact": {"type": "string"}, "prefix": {"type": "string"}},
                                "oneOf": [{"required": ["exact"]}, {"required": ["prefix"]}],
                            }},
                        },
                    }},
                }}}],
            },
        });
        let mut schemas = BTreeMap::new();
        add(&definition, &mut schemas)?;
        Ok(Schemas { schemas, rules: Rules::new()? })
    }

    fn plugin(spec: Value) -> Value {
        json!({"apiVersion": "example.com/v1", "kind": "Plugin", "metadata": {"name": "one"}, "spec": spec})
    }

    #[test]
    fn what_the_schema_describes_is_accepted() -> Result<()> {
        let schemas = schemas()?;
        for spec in [
            json!({"url": "a", "priority": null, "labels": {"any": "text"}}),
            json!({"url": "a", "config": {"anything": [1]}, "matches": [{"exact": "a"}, {"prefix": "b"}]}),
        ] {
            schemas.check(&plugin(spec))?;
        }
        Ok(())
    }

    #[test]
    fn what_it_does_not_describe_is_refused_at_any_depth() -> Result<()> {
        let schemas = schemas()?;
        for (spec, named) in [
            (json!({}), "url"),
            (json!({"url": ""}), "/spec/url"),
            (json!({"url": "a", "urll": "b"}), "urll"),
            (json!({"url": "a", "labels": {"any": 1}}), "/spec/labels/any"),
            (json!({"url": "a", "matches": [{"exact": "a", "regex": "b"}]}), "regex"),
            (json!({"url": "a", "matches": [{"exact": "a", "prefix": "b"}]}), "/spec/matches/0"),
        ] {
            let refusal = schemas.check(&plugin(spec.clone())).err().map(|error| error.to_string()).unwrap_or_default();
            ensure!(refusal.contains(named), "{spec} -> {refusal:?}, which does not name {named}");
        }
        let unknown = json!({"apiVersion": "example.com/v2", "kind": "Plugin"});
        ensure!(schemas.check(&unknown).is_err(), "a version without a schema was accepted");
        Ok(())
    }
}
