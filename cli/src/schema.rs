//! `bluegreen schema`: the JSON Schema of the plugin configuration, for editors.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use bluegreen_core::config::Config;

/// Prints the schema.
///
/// # Errors
/// Standard output is closed.
pub fn run() -> Result<ExitCode> {
    std::io::stdout().write_all(printed()?.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The schema as text.
fn printed() -> Result<String> {
    Ok(format!("{:#}\n", Config::schema()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use bluegreen_core::config::Config;
    use jsonschema::Validator;
    use serde_json::{Value, json};

    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    fn validator() -> Validator {
        jsonschema::draft202012::new(&Config::schema()).expect("a JSON Schema")
    }

    /// What the reader says.
    fn read(document: &Value) -> Result<(), String> {
        Config::from_bytes(document.to_string().as_bytes()).map(drop).map_err(|error| error.to_string())
    }

    /// Every plugin configuration in a tree: what has deployments.
    fn configurations(tree: &Value, found: &mut Vec<Value>) {
        match tree {
            Value::Object(members) if members.get("deployments").is_some_and(Value::is_object) => {
                found.push(tree.clone())
            }
            Value::Object(members) => members.values().for_each(|member| configurations(member, found)),
            Value::Array(elements) => elements.iter().for_each(|element| configurations(element, found)),
            _ => {}
        }
    }

    fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                found.extend(files(&entry, ending));
            } else if entry.extension().is_some_and(|known| known == ending) {
                found.push(entry);
            }
        }
        found
    }

    #[test]
    fn the_schema_in_the_docs_is_the_one_that_is_printed() {
        let documented = fs::read_to_string(root().join("docs/schema.json")).expect("docs/schema.json");
        let printed = printed().expect("printed");
        assert!(documented == printed, "run: cargo run -p bluegreen-cli -- schema > docs/schema.json");
    }

    #[test]
    fn every_shipped_configuration_fits_the_schema() {
        let (validator, mut found) = (validator(), Vec::new());
        for file in files(&root().join("envoy"), "yaml") {
            let text = fs::read_to_string(&file).expect("readable");
            // Dashboards and the like may be something else.
            let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap_or_default();
            documents.iter().for_each(|document| configurations(document, &mut found));
        }
        assert!(found.len() >= 13, "{} configurations", found.len());
        for document in found {
            let problems: Vec<String> = validator.iter_errors(&document).map(|error| error.to_string()).collect();
            assert_eq!(problems, Vec::<String>::new(), "{document:#}");
            assert_eq!(read(&document), Ok(()));
        }
    }

    /// A configuration with every field, so that both sides see each of them.
    fn full() -> Value {
        json!({
            "deployments": {"iris": {
                "match": {"path_prefixes": ["/invocations", "/v1/models/iris:predict"], "authority": "*.example.com", "headers": {"x-model": "iris"}},
                "cluster_header": "x-cluster",
                "colours": {
                    "blue": {"cluster": "blue", "version": "1", "also": ["blue-2"], "authority": "blue.example.com:80"},
                    "green": {"cluster": "green", "version": "2"}
                },
                "initial": {"active": "green", "canary_percent": 12.5, "shadow_percent": "0.01", "when_unhealthy": "other"},
                "sticky": {"cookie": {"name": "bg", "max_age": "1h 30m", "secure": true}, "salt": "s"},
                "override": {"header": "x-override", "tokens": [{"name": "t", "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}]},
                "probe": {"path": "/ping?x=1", "host": "localhost:80", "expect_status": 204, "interval": "2s", "timeout": "500ms", "unhealthy_after": 3},
                "smoke_test": {"required": true, "valid_for": "1h", "timeout": "1s", "requests": [{
                    "method": "POST", "path": "/invocations", "host": "[::1]:80", "headers": {"x-a": "b"}, "body": {"a": [1.5]},
                    "expect": {"status": 200, "json": {"pointer": "/predictions/0", "equals": 1, "type": "number", "length": 1}}
                }]},
                "bake": {"for": "10m"},
                "failover": {"after": 3},
                "mlflow": {
                    "cluster": "mlflow", "host": "mlflow:5000", "path_prefix": "/mlflow", "model": "a model", "follow": {"alias": "champion"},
                    "colours": {"blue": {"version": "1"}, "green": {"alias": "green"}}, "poll_interval": "2s", "canary_percent": 5,
                    "enforce": true, "webhook": {"secret_header": "x-secret"}
                },
                "shadow": {"compare": {
                    "sample_percent": "12.5", "max_body": "64KiB", "max_in_flight": 8, "timeout": "5s",
                    "safe": [{"method": "POST", "path_prefix": "/invocations"}], "ignore": ["/id", "/choices/*/index"], "pointer": "/predictions",
                    "tolerance": {"absolute": 0.01, "relative": "0.001"}, "noise_percent": 5, "keep_inputs": false
                }},
                "rollout": {"then": "pause", "steps": [
                    {"shadow_percent": 20, "compared": 500, "max_excess": "0.02", "hold_at_most": "1h"},
                    {"canary_percent": 1, "hold": "1m", "min_requests": 10},
                    {"canary_percent": 50, "no_worse_than": "0.01", "hold_at_most": "1h"}
                ]},
                "guard": {
                    "confidence": "0.995", "warm_up": {"requests": 5, "for": "0s"},
                    "error": {"max_increase": 0.01, "max_rate": "0.2", "after": 50, "count_4xx": true, "count_retries": false},
                    "unanswered": {"after": "auto", "max_increase": 0.1},
                    "slow": {"over": "auto", "of": "first_byte", "max_ratio": 1.5, "max_increase": "0.1"},
                    "disagreement": {"max_excess": 0.02},
                    "on_breach": "observe", "also_after_promote": "10m", "keep_percent": 0.5
                }
            }},
            "routing": {"cluster_header": "x-c", "colour_header": "x-d", "shadow_header": "x-s", "filter_state": true},
            "admin": {"path_prefix": "/bg", "tokens": [{"name": "a", "role": "viewer", "sha256": "9F86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}]},
            "etcd": {"cluster": "etcd", "prefix": "/bluegreen/", "timeout": "1s", "on_unreachable": "serve_last"},
            "config_push": {"enforce": false},
            "runtime": {"cluster": "envoy", "poll_interval": "500ms", "enforce": true},
            "notify": [{
                "cluster": "hooks", "path": "/services/T0/B0", "host": "hooks.example.com", "format": "json",
                "headers": {"authorization": "Bearer x"}, "events": ["change", "breach"], "deployments": ["iris"]
            }]
        })
    }

    /// The same with the other store of record: a configuration has one.
    fn in_kubernetes() -> Value {
        let mut document = full();
        let sections = document.as_object_mut().expect("an object");
        sections.remove("etcd");
        let section =
            json!({"cluster": "kube_apiserver", "namespace": "models", "host": "10.0.0.1:443", "timeout": "1s"});
        sections.insert("kubernetes".to_owned(), section);
        sections.insert("admin".to_owned(), json!({"tokens_secret": "bluegreen-admin-tokens"}));
        document
    }

    #[test]
    fn a_document_with_every_field_is_accepted_by_both() {
        for document in [full(), in_kubernetes()] {
            assert_eq!(read(&document), Ok(()));
            let problems: Vec<String> = validator().iter_errors(&document).map(|error| error.to_string()).collect();
            assert_eq!(problems, Vec::<String>::new());
        }
    }

    /// Add each new field here too: nothing in the schema may be unknown to the document with every field.
    #[test]
    fn the_document_with_every_field_has_every_field() {
        let mut known = Vec::new();
        names(&full(), &mut known);
        names(&in_kubernetes(), &mut known);
        let schema = Config::schema();
        let sections = schema["$defs"].as_object().expect("sections").values().chain([&schema]);
        let missing: Vec<&String> = sections
            .filter_map(|section| section["properties"].as_object())
            .flat_map(|fields| fields.keys())
            .filter(|field| {
                !known.contains(field) && !["open", "path_prefix", "header", "stage"].contains(&field.as_str())
            })
            .collect();
        assert_eq!(missing, Vec::<&String>::new());
    }

    fn names(tree: &Value, found: &mut Vec<String>) {
        match tree {
            Value::Object(members) => {
                for (name, member) in members {
                    found.push(name.clone());
                    names(member, found);
                }
            }
            Value::Array(elements) => elements.iter().for_each(|element| names(element, found)),
            _ => {}
        }
    }

    /// Each field of the full document, with what must not stand there.
    const BAD: &[(&str, &str)] = &[
        ("/deployments/iris/match/path_prefixes/0", r#""invocations""#),
        ("/deployments/iris/match/path_prefixes/0", r#""/v1/.*""#),
        ("/deployments/iris/match/path_prefixes/0", r#""""#),
        ("/deployments/iris/match/authority", r#""a b""#),
        ("/deployments/iris/match/headers", r#"{"X-Model": "a"}"#),
        ("/deployments/iris/match/headers/x-model", "7"),
        ("/deployments/iris/cluster_header", r#""X-Cluster""#),
        ("/deployments/iris/colours/blue/cluster", r#""""#),
        ("/deployments/iris/colours/blue/version", "1"),
        ("/deployments/iris/colours/blue/authority", r#""http://x""#),
        ("/deployments/iris/colours/green", "{}"),
        ("/deployments/iris/colours/red", "{}"),
        ("/deployments/iris/initial/active", r#""red""#),
        ("/deployments/iris/initial/canary_percent", "101"),
        ("/deployments/iris/initial/canary_percent", r#""ten""#),
        ("/deployments/iris/initial/canary", "10"),
        ("/deployments/iris/initial/when_unhealthy", r#""none""#),
        ("/deployments/iris/sticky/cookie/name", r#""a b""#),
        ("/deployments/iris/sticky/cookie/max_age", "3600"),
        ("/deployments/iris/sticky/cookie/max_age", r#""3600""#),
        ("/deployments/iris/sticky/salt", r#""""#),
        ("/deployments/iris/override/header", r#""a:b""#),
        ("/deployments/iris/override/tokens", "[]"),
        ("/deployments/iris/override/tokens/0/sha256", r#""hunter2""#),
        ("/deployments/iris/probe/path", r#""ping""#),
        ("/deployments/iris/probe/expect_status", "99"),
        ("/deployments/iris/probe/interval", r#""2""#),
        ("/deployments/iris/probe/unhealthy_after", "0"),
        ("/deployments/iris/probe/unhealthy_after", "1001"),
        ("/deployments/iris/smoke_test/requests", "[]"),
        ("/deployments/iris/smoke_test/requests/0/method", r#""DELETE""#),
        ("/deployments/iris/smoke_test/requests/0/path", r#""/a b""#),
        ("/deployments/iris/smoke_test/requests/0/expect/json/pointer", r#""predictions""#),
        ("/deployments/iris/smoke_test/requests/0/expect/json/type", r#""list""#),
        ("/deployments/iris/smoke_test/requests/0/expect/json/length", "-1"),
        ("/deployments/iris/bake", "{}"),
        ("/deployments/iris/bake/for", r#""soon""#),
        ("/deployments/iris/failover/after", r#""3""#),
        ("/deployments/iris/mlflow/model", r#""a/b""#),
        ("/deployments/iris/mlflow/follow", r#"{"alias": "a", "stage": "Production"}"#),
        ("/deployments/iris/mlflow/follow", r#"{"stage": "Archived"}"#),
        ("/deployments/iris/mlflow/colours/blue", r#"{"version": 1}"#),
        ("/deployments/iris/mlflow/webhook", r#"{"secret": "x"}"#),
        ("/deployments/iris/rollout/steps", "[]"),
        ("/deployments/iris/shadow", "{}"),
        ("/deployments/iris/shadow/compare/sample_percent", "0"),
        ("/deployments/iris/shadow/compare/max_body", "1000"),
        ("/deployments/iris/shadow/compare/max_body", r#""64 kB""#),
        ("/deployments/iris/shadow/compare/max_in_flight", "65"),
        ("/deployments/iris/shadow/compare/timeout", "5"),
        ("/deployments/iris/shadow/compare/safe", "[]"),
        ("/deployments/iris/shadow/compare/safe/0/method", r#""post""#),
        ("/deployments/iris/shadow/compare/safe/0/path_prefix", r#""invocations""#),
        ("/deployments/iris/shadow/compare/ignore/0", r#""id""#),
        ("/deployments/iris/shadow/compare/pointer", r#""predictions""#),
        ("/deployments/iris/shadow/compare/tolerance/absolute", "-1"),
        ("/deployments/iris/shadow/compare/tolerance/relative", "2"),
        ("/deployments/iris/shadow/compare/noise_percent", "101"),
        ("/deployments/iris/shadow/compare/keep_inputs", r#""yes""#),
        ("/deployments/iris/rollout/steps/0/shadow_percent", "101"),
        ("/deployments/iris/rollout/steps/0/compared", "-1"),
        ("/deployments/iris/rollout/steps/0/max_excess", "0"),
        ("/deployments/iris/guard/disagreement", "{}"),
        ("/deployments/iris/guard/disagreement/max_excess", "2"),
        ("/deployments/iris/rollout/steps/1/canary_percent", "-1"),
        ("/deployments/iris/rollout/steps/1/hold", "60"),
        ("/deployments/iris/rollout/steps/2/no_worse_than", "0"),
        ("/deployments/iris/rollout/steps/2/no_worse_than", "1"),
        ("/deployments/iris/rollout/then", r#""stop""#),
        ("/deployments/iris/guard/confidence", "1"),
        ("/deployments/iris/guard/confidence", r#""high""#),
        ("/deployments/iris/guard/error/max_increase", "2"),
        ("/deployments/iris/guard/error/max_rate", "0"),
        ("/deployments/iris/guard/error/count_4xx", r#""yes""#),
        ("/deployments/iris/guard/slow", "{}"),
        ("/deployments/iris/guard/slow/over", r#""soon""#),
        ("/deployments/iris/guard/slow/max_ratio", "0.5"),
        ("/deployments/iris/guard/on_breach", r#""panic""#),
        ("/deployments/iris/guard/also_after_promote", "null"),
        ("/deployments/iris/guard/keep_percent", "51"),
        ("/deployments/iris/colour", "{}"),
        ("/deployments", "[]"),
        ("/deployments/Iris", "{}"),
        ("/routing/cluster_header", r#""host:""#),
        ("/admin/tokens/0/role", r#""admin""#),
        ("/admin/tokens/0/name", r#""a b""#),
        ("/admin/open", r#""no""#),
        ("/etcd/prefix", r#""/bluegreen""#),
        ("/etcd/endpoints", "[]"),
        ("/etcd", "{}"),
        ("/config_push/enforce", "1"),
        ("/runtime/poll_interval", "1"),
        ("/notify", "{}"),
        ("/notify/0/path", r#""services""#),
        ("/notify/0/format", r#""teams""#),
        ("/notify/0/events", r#"["promote"]"#),
        ("/notify/0/url", r#""x""#),
        ("/deployment", "{}"),
    ];

    /// What only the reader can see: rules between fields, and ranges of what is written as a text.
    const ONLY_THE_READER: &[(&str, &str)] = &[
        ("/deployments", "{}"),
        ("/deployments/iris/colours/green/cluster", r#""blue""#),
        ("/deployments/iris/colours/green/also", r#"["blue"]"#),
        ("/deployments/iris/match/path_prefix", r#""/a""#),
        ("/deployments/iris/match/path_prefixes", "[]"),
        ("/deployments/iris/match/path_prefixes/0", r#""/a/../b""#),
        ("/deployments/iris/initial/canary_percent", "0.001"),
        ("/deployments/iris/initial/canary_percent", r#""101""#),
        ("/deployments/iris/override/header", r#""x-d""#),
        ("/deployments/iris/sticky/header", r#""x-user""#),
        ("/deployments/iris/probe", "null"),
        ("/deployments/iris/probe/timeout", r#""1h""#),
        ("/deployments/iris/probe/interval", r#""0s""#),
        ("/deployments/iris/bake", "null"),
        ("/deployments/iris/mlflow/follow", r#"{"alias": "latest"}"#),
        ("/deployments/iris/mlflow/follow", r#"{"alias": "green"}"#),
        ("/deployments/iris/mlflow/canary_percent", "0"),
        ("/deployments/iris/shadow", "null"),
        ("/deployments/iris/shadow/compare/timeout", r#""2m""#),
        ("/deployments/iris/shadow/compare/max_body", r#""2MiB""#),
        ("/deployments/iris/shadow/compare/safe/0/path_prefix", r#""/a%2Fb""#),
        ("/deployments/iris/shadow/compare/tolerance/relative", r#""1""#),
        ("/deployments/iris/rollout/steps/0/shadow_percent", "0"),
        ("/deployments/iris/rollout/steps/0/max_excess", r#""1""#),
        ("/deployments/iris/rollout/steps/2/canary_percent", "1"),
        ("/deployments/iris/rollout/steps/2", r#"{"canary_percent": 50}"#),
        ("/deployments/iris/guard/confidence", r#""1""#),
        ("/deployments/iris/guard/unanswered/after", r#""3m""#),
        ("/routing/shadow_header", r#""x-d""#),
        ("/admin/path_prefix", r#""/""#),
        ("/admin/open", "true"),
        ("/runtime/poll_interval", r#""100ms""#),
        ("/notify/0/headers/content-type", r#""a""#),
        ("/notify/0/deployments/0", r#""rose""#),
    ];

    /// The full document with one value in another's place.
    fn spoilt(pointer: &str, value: &str) -> Value {
        let mut document = full();
        let value: Value = serde_json::from_str(value).expect("JSON");
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        match document.pointer_mut(parent).expect(pointer) {
            Value::Array(elements) => elements[name.parse::<usize>().expect("a place")] = value,
            Value::Object(members) => drop(members.insert(name.to_owned(), value)),
            other => panic!("{other}"),
        }
        document
    }

    #[test]
    fn what_is_wrong_by_itself_is_refused_by_schema_and_reader() {
        let validator = validator();
        for (pointer, value) in BAD {
            let document = spoilt(pointer, value);
            assert!(read(&document).is_err(), "the reader accepts {pointer} {value}");
            assert!(!validator.is_valid(&document), "the schema accepts {pointer} {value}");
        }
    }

    #[test]
    fn what_only_the_reader_can_see_is_left_to_it() {
        let validator = validator();
        for (pointer, value) in ONLY_THE_READER {
            let document = spoilt(pointer, value);
            assert!(read(&document).is_err(), "the reader accepts {pointer} {value}");
            assert!(validator.is_valid(&document), "the schema refuses {pointer} {value}: move it to the other table");
        }
    }

    /// The schema must never refuse what the reader takes, or an editor shows an error where there is none.
    #[test]
    fn no_text_that_the_reader_takes_is_refused() {
        let validator = validator();
        let texts = [
            "a",
            "A",
            "a-b",
            "a_b",
            "a.b",
            "*.a.b",
            "a.",
            "[::1]",
            "[::1]:8080",
            "10.0.0.1:80",
            "/",
            "/a",
            "/a/",
            "/a:b",
            "/a?b",
            "/a/b/c",
            "//",
            "0",
            "1",
            "12",
            "1.5",
            "-0",
            "007",
            "1e-3",
            "+0.5",
            ".5",
            "0.5",
            "auto",
            "0s",
            "1ms",
            "1.5s",
            "1h30m",
            " 2 m ",
            "3 weeks",
            "1M",
            "5µs",
            "latest",
            "v1",
            "champion",
            "ünïcode",
            "outbound|80|blue|a.b",
            "@x",
            "~",
            "/~0",
            "#",
            "",
        ];
        let mut pointers = Vec::new();
        leaves(&full(), String::new(), &mut pointers);
        let mut taken = 0;
        for pointer in &pointers {
            for text in texts {
                let document = spoilt(pointer, &json!(text).to_string());
                if read(&document).is_ok() {
                    taken += 1;
                    assert!(validator.is_valid(&document), "{pointer} {text:?} is refused");
                }
            }
        }
        assert!(taken > 200, "{taken}");
    }

    fn leaves(tree: &Value, pointer: String, found: &mut Vec<String>) {
        match tree {
            Value::Object(members) => {
                members.iter().for_each(|(name, member)| leaves(member, format!("{pointer}/{name}"), found));
            }
            Value::Array(elements) => {
                elements
                    .iter()
                    .enumerate()
                    .for_each(|(place, element)| leaves(element, format!("{pointer}/{place}"), found));
            }
            _ => found.push(pointer),
        }
    }

    #[test]
    fn people_read_times_and_descriptions_without_links() {
        let schema = Config::schema();
        let timeout = &schema["$defs"]["Probe"]["properties"]["timeout"];
        assert_eq!(timeout["default"], "1s");
        let text = schema.to_string();
        assert!(!text.contains("`](") && !text.contains("\"secs\"") && !text.contains("\"default\":null"));
    }
}
