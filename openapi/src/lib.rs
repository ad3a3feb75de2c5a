//! Holds what the admin API answers against its description, `docs/openapi.json`.
//!
//! The tests of the core and the client of the end-to-end tests hand every answer that they get to [`Description::check`].
//! So the description cannot say less than the API does. `core/src/admin/openapi.rs` has the tests of the other direction.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use jsonschema::{Draft, Validator};
use serde_json::{Map, Value, json};

/// The description of the admin API.
pub struct Description {
    document: Value,
    /// By the place of the response in the document.
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

/// A call and its answer.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// The method.
    pub method: &'a str,
    /// The path under the API's prefix, perhaps with a query.
    pub path: &'a str,
    /// The status.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
}

/// What the document says about one method of one path.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    description: &'a Description,
    /// The method, in capitals.
    pub method: &'static str,
    /// The path under the API's prefix, with `{name}` for a deployment.
    pub path: &'a str,
    document: &'a Value,
    shared: &'a Value,
}

/// A parameter of an operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Parameter<'a> {
    /// Its name.
    pub name: &'a str,
    /// `path`, `query` or `header`.
    pub place: &'a str,
    /// A value that fits.
    pub example: Option<&'a Value>,
}

static SHIPPED: LazyLock<Description> = LazyLock::new(|| Description::new(include_str!("../../docs/openapi.json")));

const METHODS: [(&str, &str); 5] =
    [("get", "GET"), ("patch", "PATCH"), ("post", "POST"), ("put", "PUT"), ("delete", "DELETE")];

/// Headers that mean something to a client. Where an answer has one, the document has to say so.
const TOLD: [&str; 6] = ["allow", "etag", "link", "location", "retry-after", "www-authenticate"];

/// So many bytes of a body are shown.
const MOST_SHOWN: usize = 2_000;

/// On every answer of the filter, and on none of Envoy's own.
const MARK: &str = "content-security-policy";

// === impl Description ===

impl Description {
    /// The one of this repository.
    pub fn shipped() -> &'static Self {
        &SHIPPED
    }

    fn new(text: &str) -> Self {
        let document = serde_json::from_str(text).unwrap_or_else(|error| panic!("docs/openapi.json: {error}"));
        Self { document, validators: Mutex::default() }
    }

    /// The whole document.
    pub const fn document(&self) -> &Value {
        &self.document
    }

    /// Every method of every path.
    pub fn operations(&self) -> Vec<Operation<'_>> {
        let mut operations = Vec::new();
        for (path, shared) in members(&self.document["paths"]) {
            for (key, method) in METHODS {
                if let Some(document) = shared.get(key) {
                    operations.push(Operation { description: self, method, path, document, shared });
                }
            }
        }
        operations
    }

    /// Says in which way an answer is not what the document says. An answer that is Envoy's own is not looked at.
    pub fn check(&self, exchange: &Exchange<'_>) -> Result<(), String> {
        if !exchange.headers.iter().any(|(name, _)| *name == MARK) {
            return Ok(());
        }
        self.compare(exchange).map_err(|problem| {
            let Exchange { method, path, status, body, .. } = exchange;
            let body = String::from_utf8_lossy(body.get(..MOST_SHOWN).unwrap_or(body));
            format!("docs/openapi.json does not describe this answer to {method} {path}: {problem}\n{status} {body}")
        })
    }

    fn compare(&self, exchange: &Exchange<'_>) -> Result<(), String> {
        let (place, response) = self.response(exchange)?;
        let documented = |name: &str| members(&response["headers"]).any(|(known, _)| known.eq_ignore_ascii_case(name));
        if let Some((name, _)) = exchange.headers.iter().find(|(name, _)| TOLD.contains(name) && !documented(name)) {
            return Err(format!("it has no header {name} there"));
        }
        for (name, header) in members(&response["headers"]) {
            let is_there = exchange.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
            if self.resolved(header)["required"] == true && !is_there {
                return Err(format!("the header {name} is missing"));
            }
        }
        let content_type = exchange.headers.iter().find(|(name, _)| *name == "content-type").map(|(_, value)| *value);
        let content_type = content_type.unwrap_or_default();
        let Some(content) = response["content"].get(content_type) else {
            return Err(format!("it has no content of type {content_type:?} there"));
        };
        if exchange.method == "HEAD" {
            return Ok(());
        }
        let body: Value = serde_json::from_slice(exchange.body).map_err(|error| format!("it is no JSON: {error}"))?;
        let validator = self.validator(&place, &content["schema"])?;
        let problems = validator.iter_errors(&body).map(|error| format!("{}: {error}", error.instance_path()));
        match problems.collect::<Vec<_>>() {
            problems if problems.is_empty() => Ok(()),
            problems => Err(problems.join("; ")),
        }
    }

    /// What the document says about answers of this status, and where.
    fn response(&self, exchange: &Exchange<'_>) -> Result<(String, &Value), String> {
        let path = exchange.path.split(['?', '#']).next().unwrap_or_default();
        let status = exchange.status.to_string();
        let here = |operation: &&Operation<'_>| is_of(operation.path, path);
        let operations = self.operations();
        let found = operations.iter().filter(here).find(|operation| operation.method == exchange.method);
        if let Some(operation) = found {
            let response = operation.document["responses"].get(&status);
            let response = response.ok_or_else(|| format!("it has no status {status} there"))?;
            return Ok((format!("{} {} {status}", operation.method, operation.path), self.resolved(response)));
        }
        let name = match exchange.status {
            400 => "Malformed",
            401 => "Unauthenticated",
            403 => "Forbidden",
            404 => "NotFound",
            405 if operations.iter().any(|operation| is_of(operation.path, path)) => "MethodNotAllowed",
            429 => "TooManyGuesses",
            _ => return Err("it has no such method or path".to_owned()),
        };
        Ok((name.to_owned(), &self.document["components"]["responses"][name]))
    }

    fn validator(&self, place: &str, schema: &Value) -> Result<Arc<Validator>, String> {
        let mut validators = self.validators.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = validators.get(place) {
            return Ok(Arc::clone(known));
        }
        // References lead into the document, of which the schema is a part.
        let root = json!({"allOf": [schema], "components": self.document["components"]});
        let built = jsonschema::options().with_draft(Draft::Draft202012).should_validate_formats(true).build(&root);
        let built = Arc::new(built.map_err(|error| format!("{place}: {error}"))?);
        validators.insert(place.to_owned(), Arc::clone(&built));
        Ok(built)
    }

    /// What a reference stands for.
    pub fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        let target = value["$ref"].as_str().and_then(|target| target.strip_prefix('#'));
        target.and_then(|target| self.document.pointer(target)).unwrap_or(value)
    }
}

impl std::fmt::Debug for Description {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Description").finish_non_exhaustive()
    }
}

// === impl Operation ===

impl<'a> Operation<'a> {
    /// The name of the operation.
    pub fn id(&self) -> &'a str {
        self.document["operationId"].as_str().unwrap_or_default()
    }

    /// The role that it takes; none where it takes no token.
    pub fn role(&self) -> Option<&'a str> {
        self.document["security"][0]["token"][0].as_str()
    }

    /// In path, query and header.
    pub fn parameters(&self) -> Vec<Parameter<'a>> {
        let listed = [&self.shared["parameters"], &self.document["parameters"]];
        let listed = listed.into_iter().filter_map(Value::as_array).flatten();
        let parameter = |value: &'a Value| {
            let value = self.description.resolved(value);
            let text = |member: &str| value[member].as_str().unwrap_or_default();
            Parameter { name: text("name"), place: text("in"), example: value.get("example") }
        };
        listed.map(parameter).collect()
    }

    /// The names of the members that a JSON body may have.
    pub fn body_members(&self) -> Vec<&'a str> {
        let schema = &self.document["requestBody"]["content"]["application/json"]["schema"];
        members(&self.description.resolved(schema)["properties"]).map(|(name, _)| name.as_str()).collect()
    }

    /// Each status with the types of the problems that it may be, without their common beginning; none for a success.
    pub fn answers(&self) -> Vec<(u32, Vec<&'a str>)> {
        let responses = members(&self.document["responses"]);
        responses
            .map(|(status, response)| {
                (status.parse().unwrap_or_default(), self.description.types(self.description.resolved(response)))
            })
            .collect()
    }
}

impl Description {
    /// The types of the problems that a response may be, without their common beginning.
    pub fn types<'a>(&self, response: &'a Value) -> Vec<&'a str> {
        let schema = &response["content"]["application/problem+json"]["schema"]["allOf"][1];
        let types = schema["properties"]["type"]["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
        types.filter_map(|kind| kind.strip_prefix("urn:bluegreen:problem:")).collect()
    }
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// Whether a path is one of a template.
fn is_of(template: &str, path: &str) -> bool {
    let (mut parts, mut segments) = (template.split('/'), path.split('/'));
    loop {
        match (parts.next(), segments.next()) {
            (None, None) => return true,
            (Some(part), Some(segment)) if part == segment || (part.starts_with('{') && !segment.is_empty()) => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Header = (&'static str, &'static str);

    fn check(status: u16, headers: &[(&str, &str)], body: &str) -> Result<(), String> {
        let headers: Vec<_> = [(MARK, "")].iter().chain(headers).copied().collect();
        let (method, path) = ("GET", "/v1/deployments/iris/history?x");
        Description::shipped().check(&Exchange { method, path, status, headers: &headers, body: body.as_bytes() })
    }

    #[test]
    fn an_answer_that_is_not_described_is_told_apart() {
        let json = ("content-type", "application/json");
        let etag = ("etag", "\"7\"");
        let cases: [(u16, &[Header], &str, &str); 8] = [
            (200, &[json, etag], r#"{"changes": []}"#, ""),
            (200, &[json, etag], r#"{"changes": [], "more": 1}"#, "more"),
            (200, &[json, etag], r#"{"changes": [{}]}"#, "revision"),
            (200, &[json], r#"{"changes": []}"#, "ETag is missing"),
            (200, &[json, etag, ("location", "/")], r#"{"changes": []}"#, "no header location"),
            (200, &[("content-type", "text/html"), etag], "", "text/html"),
            (204, &[], "", "no status 204"),
            (409, &[json], "{}", "no status 409"),
        ];
        for (status, headers, body, expected) in cases {
            let said = check(status, headers, body).err().unwrap_or_default();
            assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{status} {body}: {said}");
        }
    }

    #[test]
    fn what_envoy_answers_by_itself_is_not_looked_at() {
        let exchange = Exchange { method: "GET", path: "/nowhere", status: 502, headers: &[], body: b"" };
        assert_eq!(Description::shipped().check(&exchange), Ok(()));
    }
}
