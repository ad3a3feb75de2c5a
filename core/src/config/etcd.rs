//! The `etcd` section: the store of record of a fleet of Envoys.

use std::fmt;
use std::time::Duration;

use crate::json::{FieldError, FromJson, Json};
use crate::model::name::ClusterName;
use crate::model::time::deserialize_timeout;

/// The `etcd` section: every change is a transaction there, and every Envoy follows what is there.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Etcd {
    /// The Envoy cluster of etcd's members. TLS and credentials are its business.
    pub cluster: ClusterName,
    /// What every key begins with; the deployment's name follows.
    #[serde(default)]
    pub prefix: KeyPrefix,
    /// How long one call may take. A write that meets trouble makes several, all of them within
    /// [`WRITE_WITHIN`](crate::etcd::deadline::WRITE_WITHIN).
    #[serde(default = "one_second", deserialize_with = "deserialize_timeout")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::span"))]
    pub timeout: Duration,
    /// Accepted and ignored: while etcd is away each deployment goes on with the last state that this Envoy knows.
    #[serde(default)]
    on_unreachable: Ignored,
}

/// A field that is accepted and not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ignored;

/// What the keys of a fleet begin with.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[serde(try_from = "String")]
pub struct KeyPrefix(String);

/// Why a text is no [`KeyPrefix`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadPrefix(String);

fn one_second() -> Duration {
    Duration::from_secs(1)
}

// === impl Ignored ===

impl FromJson for Ignored {
    fn from_json(_: &Json<'_>) -> Result<Self, FieldError> {
        Ok(Self)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Ignored {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Ignored".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        true.into()
    }
}

// === impl KeyPrefix ===

impl KeyPrefix {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for KeyPrefix {
    fn default() -> Self {
        Self("/bluegreen/".to_owned())
    }
}

impl TryFrom<String> for KeyPrefix {
    type Error = BadPrefix;

    fn try_from(text: String) -> Result<Self, BadPrefix> {
        // With the slash at the end no prefix covers the keys of another one that only begins like it.
        let good = text.len() <= 200 && text.ends_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
        if good { Ok(Self(text)) } else { Err(BadPrefix(text)) }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for KeyPrefix {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "KeyPrefix".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        crate::model::schema::text("^[!-~]{0,199}/$")
    }
}

impl fmt::Display for BadPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a key prefix: use at most 200 visible ASCII characters that end with /", self.0)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;

    fn read(json: &str) -> Result<Etcd, String> {
        json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_takes_its_documented_default() {
        let etcd = read(r#"{"cluster": "etcd"}"#).expect("valid");
        assert_eq!((etcd.prefix.as_str(), etcd.timeout), ("/bluegreen/", Duration::from_secs(1)));
        let full = r#"{"cluster": "etcd", "prefix": "/bluegreen/", "on_unreachable": "serve_last", "timeout": "1s"}"#;
        assert_eq!(read(full), Ok(etcd));
    }

    #[test]
    fn a_bad_field_is_refused_with_its_rule() {
        let cases = [
            (r#"{}"#, "missing field `cluster`"),
            (r#"{"cluster": "e", "prefix": "/bluegreen"}"#, "that end with /"),
            (r#"{"cluster": "e", "prefix": ""}"#, "that end with /"),
            (r#"{"cluster": "e", "prefix": "/a b/"}"#, "visible ASCII"),
            (r#"{"cluster": "e", "timeout": "0s"}"#, "too short"),
            (r#"{"cluster": "e", "timeout": "999us"}"#, "too short: at least 1ms"),
            (r#"{"cluster": "e", "endpoints": []}"#, "unknown field `endpoints`"),
        ];
        for (json, problem) in cases {
            assert!(read(json).is_err_and(|error| error.contains(problem)), "{json}: {problem}");
        }
    }
}
