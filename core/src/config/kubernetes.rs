//! The `kubernetes` section: the API server as the store of record.

use std::time::Duration;

use crate::json::FromJson;
use crate::model::name::{ClusterName, HostName, NamespaceName};
use crate::model::time::deserialize_timeout;

/// The `kubernetes` section: each deployment is a `BlueGreen` object of its name, whose `spec` asks for a change and whose
/// `status` holds the state that every Envoy follows.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Kubernetes {
    /// The Envoy cluster of the API server. TLS and the service account's token are its business.
    pub cluster: ClusterName,
    /// Where the objects are.
    pub namespace: NamespaceName,
    /// What the API server is asked for as. Its certificate has to have this name if Envoy checks it by the host.
    #[serde(default = "in_cluster")]
    pub host: HostName,
    /// How long one call may take. A write that meets trouble makes several, all of them within
    /// [`WRITE_WITHIN`](crate::etcd::deadline::WRITE_WITHIN).
    #[serde(default = "one_second", deserialize_with = "deserialize_timeout")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::span"))]
    pub timeout: Duration,
}

fn in_cluster() -> HostName {
    HostName::literal("kubernetes.default.svc")
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;

    fn read(json: &str) -> Result<Kubernetes, String> {
        json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_takes_its_documented_default() {
        let section = read(r#"{"cluster": "kube_apiserver", "namespace": "models"}"#).expect("valid");
        assert_eq!((section.host.as_str(), section.timeout), ("kubernetes.default.svc", Duration::from_secs(1)));
        assert!(HostName::new(section.host.as_str()).is_ok());
        let full = r#"{"cluster": "kube_apiserver", "namespace": "models", "host": "kubernetes.default.svc", "timeout": "1s"}"#;
        assert_eq!(read(full), Ok(section));
    }

    #[test]
    fn a_bad_field_is_refused_with_its_rule() {
        let cases = [
            (r#"{"cluster": "k"}"#, "missing field `namespace`"),
            (r#"{"namespace": "models"}"#, "missing field `cluster`"),
            (r#"{"cluster": "k", "namespace": "Models"}"#, "is not a namespace"),
            (r#"{"cluster": "k", "namespace": "m/../kube-system"}"#, "is not a namespace"),
            (r#"{"cluster": "k", "namespace": "m", "host": "a b"}"#, "is not a host"),
            (r#"{"cluster": "k", "namespace": "m", "timeout": "0s"}"#, "too short"),
            (r#"{"cluster": "k", "namespace": "m", "token": "x"}"#, "unknown field `token`"),
        ];
        for (json, problem) in cases {
            assert!(read(json).is_err_and(|error| error.contains(problem)), "{json}: {problem}");
        }
    }
}
