//! The sources, besides the admin API, that say which state a deployment should be in.

use std::time::Duration;

use super::readiness::yes;
use crate::json::{FieldError, FromJson, Json};
use crate::model::name::ClusterName;
use crate::model::time::TICK;
use crate::model::time::deserialize_span;

/// The `config_push` section: what stands between a pushed configuration's `initial` and traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ConfigPush {
    /// Whether the rules about readiness apply, as to an operator. Never to the first `initial` of a deployment.
    pub enforce: bool,
}

/// The `runtime` section: Envoy's runtime keys `bluegreen.<deployment>.active` and `.canary_percent`.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RuntimeSource {
    /// The cluster whose endpoint is Envoy's own admin interface.
    pub cluster: ClusterName,
    /// How often it is asked.
    #[serde(default = "half_a_second", deserialize_with = "deserialize_interval")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::span"))]
    pub poll_interval: Duration,
    /// Whether the rules about readiness apply, as to an operator.
    #[serde(default = "yes")]
    pub enforce: bool,
}

const fn half_a_second() -> Duration {
    Duration::from_millis(500)
}

/// Reads how often a source is asked: not more often than the filter ticks.
pub(super) fn deserialize_interval(json: &Json<'_>) -> Result<Duration, FieldError> {
    let interval = deserialize_span(json)?;
    if interval < TICK {
        let [given, shortest] = [interval, TICK].map(humantime::format_duration);
        return Err(FieldError::new(format!("{given} is too short: at least {shortest}")));
    }
    Ok(interval)
}

// === impl ConfigPush ===

impl Default for ConfigPush {
    fn default() -> Self {
        Self { enforce: true }
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
        let runtime: RuntimeSource = json::from_str(r#"{"cluster": "envoy_admin"}"#).expect("valid");
        assert_eq!((runtime.poll_interval, runtime.enforce), (Duration::from_millis(500), true));
        assert!(json::from_str::<ConfigPush>("{}").expect("valid").enforce);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_reason() {
        let cases = [
            ("{}", "missing field `cluster`"),
            (r#"{"cluster": ""}"#, "is not a cluster name"),
            (r#"{"cluster": "a", "poll_interval": "100ms"}"#, "100ms is too short: at least 250ms"),
            (r#"{"cluster": "a", "poll": "1s"}"#, "unknown field `poll`"),
        ];
        for (json, reason) in cases {
            let error = json::from_str::<RuntimeSource>(json).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
