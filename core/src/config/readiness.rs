//! What has to be true before a colour gets traffic, and what happens when it stops being true.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::pattern::{JsonPointer, RequestPath};
use crate::json::{FieldError, FromJson, Json};
use crate::model::name::{HeaderName, HostName};
use crate::model::time::{deserialize_span, deserialize_timeout};

/// The `probe` section: is a colour's model server there, and does it say that it is healthy?
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// What is asked for, with GET.
    pub path: RequestPath,
    /// The host that is asked for; absent: the colour's authority, or else the deployment's name.
    pub host: Option<HostName>,
    /// The status that means "well"; absent: any below 500, so that a server without such a path passes when it answers.
    pub expect_status: Option<StatusCode>,
    /// How often both colours are asked.
    #[serde(default = "two_seconds", deserialize_with = "deserialize_span")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::span"))]
    pub interval: Duration,
    /// How long an answer may take.
    #[serde(default = "one_second", deserialize_with = "deserialize_timeout")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::span"))]
    pub timeout: Duration,
    /// How many failures in a row make a colour that was healthy unhealthy. A switch asks once, and that counts.
    #[serde(default = "three")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = three().get())))]
    pub unhealthy_after: Times,
}

/// The `smoke_test` section: requests that the candidate must answer as expected.
#[derive(Clone, Debug, PartialEq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SmokeTest {
    /// The requests, sent one after the other.
    #[serde(deserialize_with = "at_least_one")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub requests: Vec<SmokeRequest>,
    /// Whether the candidate gets traffic only after a pass.
    #[serde(default = "yes")]
    pub required: bool,
    /// How long a pass counts.
    #[serde(default = "one_hour", deserialize_with = "deserialize_span")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::span"))]
    pub valid_for: Duration,
    /// How long each answer may take. A model's first prediction can be slow.
    #[serde(default = "thirty_seconds", deserialize_with = "deserialize_timeout")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::span"))]
    pub timeout: Duration,
}

/// One request of a smoke test.
#[derive(Clone, Debug, PartialEq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SmokeRequest {
    /// The method.
    #[serde(default)]
    pub method: Method,
    /// The path, with its query.
    pub path: RequestPath,
    /// The host that is asked for; absent: the colour's authority, or else the deployment's name.
    pub host: Option<HostName>,
    /// Headers besides those that every request has.
    #[serde(default)]
    pub headers: BTreeMap<HeaderName, String>,
    /// The body: a text as it is, anything else as JSON. Envoy's YAML turns 5.1 into a text, so fractions need a text.
    pub body: Option<Value>,
    /// What the answer must be like.
    #[serde(default)]
    pub expect: Expectation,
}

/// What an answer must be like.
#[derive(Clone, Debug, Default, PartialEq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Expectation {
    /// Its status.
    pub status: StatusCode,
    /// A value in its JSON body.
    pub json: Option<JsonExpectation>,
}

/// What a value in a JSON body must be like: everything that is given must hold.
#[derive(Clone, Debug, PartialEq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct JsonExpectation {
    /// Where the value stands, such as `/predictions/0`; empty for the whole body.
    pub pointer: JsonPointer,
    /// What it equals.
    pub equals: Option<Value>,
    /// Its type.
    pub r#type: Option<JsonType>,
    /// How many elements, members or characters it has.
    pub length: Option<usize>,
}

/// The types of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum JsonType {
    /// `null`
    Null,
    /// `true` or `false`
    Boolean,
    /// A number.
    Number,
    /// A text.
    String,
    /// A list.
    Array,
    /// Names and values.
    Object,
}

/// The methods of a smoke test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// What model servers take predictions by.
    #[default]
    Post,
    /// GET
    Get,
    /// PUT
    Put,
}

/// The `bake` section: how long the former active colour is held ready after a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Bake {
    /// The time from the switch.
    #[serde(deserialize_with = "deserialize_span")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::span"))]
    pub r#for: Duration,
}

/// The `failover` section: an automatic rollback when a freshly promoted colour cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Failover {
    /// How many requests in a row must fail without reaching the colour.
    pub after: Times,
}

/// An HTTP status, 100 to 599; 200 unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromJson)]
#[serde(try_from = "u16")]
pub struct StatusCode(u16);

/// A count of at least one, and at most a thousand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, FromJson)]
#[serde(try_from = "u16")]
pub struct Times(u16);

const fn one_second() -> Duration {
    Duration::from_secs(1)
}

const fn two_seconds() -> Duration {
    Duration::from_secs(2)
}

const fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}

const fn one_hour() -> Duration {
    Duration::from_secs(3_600)
}

const fn three() -> Times {
    Times(3)
}

pub(super) const fn yes() -> bool {
    true
}

fn at_least_one(json: &Json<'_>) -> Result<Vec<SmokeRequest>, FieldError> {
    let requests = Vec::<SmokeRequest>::from_json(json)?;
    if requests.is_empty() { Err(FieldError::new("a smoke test has at least one request")) } else { Ok(requests) }
}

// === impl StatusCode ===

impl StatusCode {
    /// As a number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl Default for StatusCode {
    fn default() -> Self {
        Self(200)
    }
}

impl TryFrom<u16> for StatusCode {
    type Error = String;

    fn try_from(number: u16) -> Result<Self, String> {
        if (100..=599).contains(&number) {
            Ok(Self(number))
        } else {
            Err(format!("{number} is not an HTTP status: use 100 to 599"))
        }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for StatusCode {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StatusCode".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "integer", "minimum": 100, "maximum": 599})
    }
}

// === impl Times ===

impl Times {
    /// As a number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Times {
    type Error = String;

    fn try_from(number: u16) -> Result<Self, String> {
        if (1..=1_000).contains(&number) {
            Ok(Self(number))
        } else {
            Err(format!("{number} is not between 1 and 1000"))
        }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Times {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Times".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "integer", "minimum": 1, "maximum": 1000})
    }
}

// === impl Method ===

impl Method {
    /// As HTTP writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Method::Post => "POST",
            Method::Get => "GET",
            Method::Put => "PUT",
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;

    #[test]
    fn what_is_left_out_takes_its_documented_default() {
        let probe: Probe = json::from_str(r#"{"path": "/ping"}"#).expect("valid");
        assert_eq!((probe.interval, probe.timeout, probe.unhealthy_after), (two_seconds(), one_second(), three()));
        let test: SmokeTest = json::from_str(r#"{"requests": [{"path": "/"}]}"#).expect("valid");
        assert_eq!((test.required, test.valid_for, test.timeout), (true, one_hour(), thirty_seconds()));
        assert_eq!(test.requests[0].method, Method::Post);
        assert_eq!(test.requests[0].expect.status.get(), 200);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_reason() {
        let probe = |json: &str| json::from_str::<Probe>(json).map(drop);
        let smoke = |json: &str| json::from_str::<SmokeTest>(json).map(drop);
        let cases = [
            (probe(r#"{"path": "ping"}"#), "must start with /"),
            (probe(r#"{"path": "/p q"}"#), "request line"),
            (probe(r#"{"path": "/", "expect_status": 99}"#), "99 is not an HTTP status"),
            (probe(r#"{"path": "/", "timeout": "1h"}"#), "too long to wait"),
            (probe(r#"{"path": "/", "timeout": "999us"}"#), "too short: at least 1ms"),
            (probe(r#"{"path": "/", "interval": "0s"}"#), "too short"),
            (probe(r#"{"path": "/", "unhealthy_after": 0}"#), "0 is not between 1 and 1000"),
            (probe(r#"{"path": "/", "host": "http://iris"}"#), "\"http://iris\" is not a host"),
            (smoke(r#"{"requests": [{"path": "/", "host": "iris/v1"}]}"#), "\"iris/v1\" is not a host"),
            (smoke(r#"{"requests": []}"#), "at least one request"),
            (smoke(r#"{"requests": [{"path": "/", "method": "DELETE"}]}"#), "\"DELETE\" is not known here"),
            (smoke(r#"{"requests": [{"path": "/", "expect": {"json": {}}}]}"#), "missing field `pointer`"),
            (
                smoke(r#"{"requests": [{"path": "/", "expect": {"json": {"pointer": "predictions"}}}]}"#),
                "\"predictions\" is not a JSON pointer",
            ),
        ];
        for (result, reason) in cases {
            let error = result.expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
