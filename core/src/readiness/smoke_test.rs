//! Smoke tests: requests that the candidate must answer as expected before it gets traffic.

use serde::Serialize;
use serde_json::Value;

use crate::config::{Expectation, JsonExpectation, JsonType, SmokeRequest, SmokeTest};
use crate::deployment::Deployment;
use crate::host::http::{HttpReply, HttpRequest};
use crate::json;
use crate::model::identity::Identity;

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SmokeResult {
    method: &'static str,
    path: String,
    /// Whether the answer was as expected.
    pub passed: bool,
    /// The answer's status, if there was one.
    status: Option<u16>,
    /// What was seen, and if it was not what was expected, what was.
    detail: String,
}

// === impl SmokeTest ===

impl SmokeTest {
    /// The request at `place`, to what is tested; `None` behind the last.
    pub fn request(&self, place: usize, deployment: &Deployment, identity: &Identity) -> Option<HttpRequest> {
        let request = self.requests.get(place)?;
        let (cluster, host) = (&identity.cluster, deployment.host(identity, request.host.as_ref()));
        let mut outgoing =
            HttpRequest::new(cluster, host, request.method.as_str(), request.path.as_str(), self.timeout);
        if let Some(body) = &request.body {
            let bytes = match body {
                Value::String(text) => text.clone().into_bytes(),
                json => json.to_string().into_bytes(),
            };
            let is_json = json::parse(&bytes).is_ok();
            if is_json && !request.headers.contains_key("content-type") {
                outgoing.headers.push(("content-type".to_owned(), "application/json".to_owned()));
            }
            outgoing.headers.push(("content-length".to_owned(), bytes.len().to_string()));
            outgoing.body = Some(bytes);
        }
        let own = request.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.clone()));
        outgoing.headers.extend(own);
        Some(outgoing)
    }

    /// What a reply to the request at `place` means.
    pub fn judge(&self, place: usize, reply: &HttpReply) -> Option<SmokeResult> {
        let SmokeRequest { method, path, expect, .. } = self.requests.get(place)?;
        let (status, failure) = match reply {
            HttpReply::Answered { status, body } => (Some(*status), expect.violated_by(*status, body)),
            HttpReply::Broken | HttpReply::UnknownCluster(_) => (None, Some("expected an answer".to_owned())),
        };
        let seen = reply.describe(self.timeout);
        Some(SmokeResult {
            method: method.as_str(),
            path: path.as_str().to_owned(),
            passed: failure.is_none(),
            status,
            detail: failure.map_or_else(|| seen.clone(), |expected| format!("{seen}; {expected}")),
        })
    }
}

// === impl Expectation ===

impl Expectation {
    /// The rule that an answer breaks.
    fn violated_by(&self, status: u16, body: &[u8]) -> Option<String> {
        if status != self.status.get() {
            return Some(format!("expected status {}", self.status.get()));
        }
        let expected = self.json.as_ref()?;
        match json::from_slice::<Value>(body) {
            Ok(document) => expected.violated_by(&document),
            Err(error) => Some(format!("expected a JSON body: {error}")),
        }
    }
}

// === impl JsonExpectation ===

impl JsonExpectation {
    fn violated_by(&self, document: &Value) -> Option<String> {
        let pointer = self.pointer.as_str();
        let Some(value) = document.pointer(pointer) else { return Some(format!("expected a value at {pointer:?}")) };
        let short: String = value.to_string().chars().take(100).collect();
        if let Some(expected) = self.equals.as_ref().filter(|expected| !equal(value, expected)) {
            return Some(format!("expected {expected} at {pointer:?}, found {short}"));
        }
        if let Some(expected) = self.r#type.filter(|expected| *expected != JsonType::of(value)) {
            return Some(format!("expected {} at {pointer:?}, found {short}", expected.as_str()));
        }
        let length = length(value);
        let expected = self.length.filter(|expected| length != Some(*expected))?;
        Some(format!("expected {expected} elements at {pointer:?}, found {short}"))
    }
}

/// Whether `left` was found as `right` was expected, by value: 1 and 1.0 are the same number, as in YAML and in Python.
fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left == right || left.as_f64() == right.as_f64(),
        // Envoy reads 0.5 in its own YAML as a text: it knows whole numbers only.
        (Value::Number(found), Value::String(expected)) => found.as_f64() == expected.parse().ok(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| equal(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(name, value)| right.get(name).is_some_and(|other| equal(value, other)))
        }
        _ => left == right,
    }
}

fn length(value: &Value) -> Option<usize> {
    match value {
        Value::Array(values) => Some(values.len()),
        Value::Object(members) => Some(members.len()),
        Value::String(text) => Some(text.chars().count()),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

// === impl JsonType ===

impl JsonType {
    const fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Boolean,
            Value::Number(_) => Self::Number,
            Value::String(_) => Self::String,
            Value::Array(_) => Self::Array,
            Value::Object(_) => Self::Object,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::colour::Colour;
    use crate::testing::green_has_an_authority;

    fn smoke(request: &str) -> SmokeTest {
        json::from_str(&format!(r#"{{"requests": [{request}]}}"#)).expect("valid")
    }

    fn outcome(expect: &str, status: u16, body: &str) -> (bool, String) {
        let test = smoke(&format!(r#"{{"path": "/invocations", "expect": {expect}}}"#));
        let reply = HttpReply::Answered { status, body: body.as_bytes().to_vec() };
        let outcome = test.judge(0, &reply).expect("one request");
        (outcome.passed, outcome.detail)
    }

    #[test]
    fn an_answer_passes_when_every_rule_holds_and_else_says_which_did_not() {
        let cases = [
            ("{}", 200, "", true, ""),
            ("{}", 500, "boom", false, "answered 500: boom; expected status 200"),
            (r#"{"status": 404}"#, 404, "", true, ""),
            (r#"{"json": {"pointer": "/predictions/0", "equals": 1}}"#, 200, r#"{"predictions": [1]}"#, true, ""),
            (r#"{"json": {"pointer": "/predictions/0", "equals": 1}}"#, 200, r#"{"predictions": [1.0]}"#, true, ""),
            (r#"{"json": {"pointer": "/p", "equals": "0.5"}}"#, 200, r#"{"p": 0.5}"#, true, ""),
            (r#"{"json": {"pointer": "/p", "equals": "0.5"}}"#, 200, r#"{"p": "0.6"}"#, false, "expected"),
            (r#"{"json": {"pointer": "/p", "equals": [1, {"a": 2}]}}"#, 200, r#"{"p": [1.0, {"a": 2.0}]}"#, true, ""),
            (
                r#"{"json": {"pointer": "/predictions/0", "equals": 1}}"#,
                200,
                r#"{"predictions": [2]}"#,
                false,
                "expected 1 at",
            ),
            (
                r#"{"json": {"pointer": "/predictions/1"}}"#,
                200,
                r#"{"predictions": [2]}"#,
                false,
                "expected a value at",
            ),
            (r#"{"json": {"pointer": "", "type": "object", "length": 1}}"#, 200, r#"{"a": 1}"#, true, ""),
            (r#"{"json": {"pointer": "/a", "type": "number"}}"#, 200, r#"{"a": "1"}"#, false, "expected a number"),
            (r#"{"json": {"pointer": "/a", "length": 2}}"#, 200, r#"{"a": [1]}"#, false, "expected 2 elements"),
            (r#"{"json": {"pointer": "/a", "length": 1}}"#, 200, r#"{"a": 1}"#, false, "expected 1 elements"),
            (r#"{"json": {"pointer": "/a"}}"#, 200, "NaN", false, "expected a JSON body"),
        ];
        for (expect, status, body, passed, detail) in cases {
            let seen = outcome(expect, status, body);
            assert_eq!(seen.0, passed, "{expect} {body}: {}", seen.1);
            assert!(seen.1.contains(detail), "{expect} {body}: {}", seen.1);
        }
    }

    #[test]
    fn each_request_has_its_own_host_or_its_colours_or_the_deployments_name() {
        let deployments = green_has_an_authority();
        let test = smoke(r#"{"path": "/a", "host": "iris.example.com"}, {"path": "/b"}"#);
        for (colour, place, host) in [
            (Colour::Green, 0, "iris.example.com"),
            (Colour::Green, 1, "iris-green.example.com"),
            (Colour::Blue, 0, "iris.example.com"),
            (Colour::Blue, 1, "iris"),
        ] {
            let iris = &deployments.all()[0];
            let request = test.request(place, iris, iris.colours.get(colour)).expect("two requests");
            let hosts = request.headers.iter().filter(|(name, _)| name == ":authority");
            assert_eq!(hosts.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), [host]);
        }
    }

    #[test]
    fn a_structured_body_is_sent_as_json_and_a_text_as_it_is() {
        let deployments = green_has_an_authority();
        let sent = |body: &str| {
            let test = smoke(&format!(r#"{{"path": "/invocations", "headers": {{"x-a": "b"}}, "body": {body}}}"#));
            let iris = &deployments.all()[0];
            test.request(0, iris, &iris.colours.green).expect("one request")
        };
        let json = sent(r#"{"inputs": [[1]]}"#);
        assert_eq!(json.body.as_deref(), Some(&br#"{"inputs":[[1]]}"#[..]));
        for header in
            [(":method", "POST"), ("content-type", "application/json"), ("content-length", "16"), ("x-a", "b")]
        {
            assert!(json.headers.contains(&(header.0.to_owned(), header.1.to_owned())), "{header:?}");
        }
        let text = sent(r#""{\"inputs\": [[5.1]]}""#);
        assert_eq!(text.body.as_deref(), Some(&br#"{"inputs": [[5.1]]}"#[..]));
        assert!(text.headers.iter().any(|(name, value)| name == "content-type" && value == "application/json"));
        let csv = sent("\"a,b\"");
        assert_eq!(csv.body.as_deref(), Some(&b"a,b"[..]));
        assert!(!csv.headers.iter().any(|(name, _)| name == "content-type"));
    }
}
