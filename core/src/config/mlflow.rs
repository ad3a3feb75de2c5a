//! The `mlflow` section: which mark in MLflow's model registry a deployment follows, and what its colours are there.

use std::fmt;
use std::time::Duration;

use super::pattern::{Broken, PathPrefix};
use super::readiness::yes;
use super::sources::deserialize_interval;
use crate::json::FromJson;
use crate::model::colour::{Colour, PerColour};
use crate::model::name::{Alias, ClusterName, HeaderName, HostName, ModelName, RegisteredVersion};
use crate::model::percent::Percent;

/// The `mlflow` section.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Mlflow {
    /// The Envoy cluster of the tracking server.
    pub cluster: ClusterName,
    /// The host header of the requests to it: MLflow refuses hosts that it does not know.
    #[serde(default = "localhost")]
    pub host: HostName,
    /// What precedes `/api` in the tracking server's paths; absent: nothing.
    pub path_prefix: Option<PathPrefix>,
    /// The registered model.
    pub model: ModelName,
    /// The mark that says which version is to be active.
    pub follow: Follow,
    /// Which registered version each colour serves.
    pub colours: PerColour<Served>,
    /// How often the registry is asked.
    #[serde(default = "two_seconds", deserialize_with = "deserialize_interval")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::span"))]
    pub poll_interval: Duration,
    /// The canary that a move of the mark begins, in place of a promote; absent: it promotes.
    pub canary_percent: Option<Percent>,
    /// Whether the registry is held to the rules of readiness, as an operator is.
    #[serde(default = "yes")]
    pub enforce: bool,
    /// Takes MLflow's own deliveries, so that a change need not wait for the next poll; absent: none are taken.
    pub webhook: Option<Webhook>,
}

/// A mark on one version of a registered model.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Follow {
    /// `models:/my-model@production`
    Alias(Alias),
    /// `models:/my-model/Production`; of several versions in it the newest counts, as everywhere in MLflow.
    Stage(Stage),
}

/// A stage that says where a version is to be used. (`None` and `Archived` say that it is not.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Stage {
    /// Production
    Production,
    /// Staging
    Staging,
}

/// How a colour's registered version is known.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Served {
    /// By an alias in the registry.
    Alias(Alias),
    /// By this configuration.
    Version(RegisteredVersion),
}

/// The `webhook` section.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// The request header in which Envoy hands the filter the webhook's secret.
    #[serde(default = "secret_header")]
    pub secret_header: HeaderName,
}

const fn two_seconds() -> Duration {
    Duration::from_secs(2)
}

fn localhost() -> HostName {
    HostName::literal("localhost")
}

fn secret_header() -> HeaderName {
    HeaderName::literal("x-bluegreen-webhook-secret")
}

// === impl Mlflow ===

impl Mlflow {
    /// The rules that span more than one field.
    pub(super) fn check(&self) -> Result<(), Broken> {
        for colour in Colour::ALL {
            if let (Follow::Alias(followed), Served::Alias(alias)) = (&self.follow, self.colours.get(colour))
                && followed == alias
            {
                let alias = alias.as_str();
                let problem =
                    format!("{alias:?} is the alias that is followed: it would name {colour} wherever it is moved");
                return Err((format!("colours.{colour}.alias"), problem));
            }
        }
        if self.colours.blue == self.colours.green {
            let problem = "it is blue's too: two colours serve two versions".to_owned();
            return Err(("colours.green".to_owned(), problem));
        }
        if self.canary_percent == Some(Percent::ZERO) {
            let problem = "0 would never give the candidate traffic: leave it out to promote".to_owned();
            return Err(("canary_percent".to_owned(), problem));
        }
        Ok(())
    }
}

// === impl Follow ===

impl fmt::Display for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Follow::Alias(alias) => write!(f, "alias {alias}"),
            Follow::Stage(stage) => write!(f, "stage {}", stage.as_str()),
        }
    }
}

// === impl Stage ===

impl Stage {
    /// As the registry writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Production => "Production",
            Stage::Staging => "Staging",
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;

    /// A section with every field.
    const FULL: &str = r#"{
        "cluster": "mlflow", "host": "mlflow.example.com", "model": "my-model", "follow": {"alias": "production"},
        "colours": {"blue": {"alias": "blue"}, "green": {"version": "2"}}, "poll_interval": "500ms",
        "canary_percent": 10, "enforce": false, "webhook": {"secret_header": "x-secret"}}"#;

    fn section(json: &str) -> Result<Mlflow, String> {
        let section: Mlflow = json::from_str(json).map_err(|error| error.to_string())?;
        section.check().map_err(|(field, problem)| format!("{field}: {problem}"))?;
        Ok(section)
    }

    #[test]
    fn what_is_left_out_takes_its_documented_default() {
        let full = section(FULL).expect("valid");
        assert_eq!((full.poll_interval, full.enforce), (Duration::from_millis(500), false));
        let small = section(
            r#"{"cluster": "m", "model": "a", "follow": {"stage": "Production"}, "webhook": {},
                "colours": {"blue": {"version": "1"}, "green": {"version": "2"}}}"#,
        )
        .expect("valid");
        assert_eq!((small.poll_interval, small.enforce, small.canary_percent), (two_seconds(), true, None));
        assert_eq!(small.host.as_str(), "localhost");
        assert_eq!(small.webhook.expect("given").secret_header.as_str(), "x-bluegreen-webhook-secret");
        assert_eq!(small.follow.to_string(), "stage Production");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_reason() {
        let cases = [
            (FULL.replace(r#""production"}"#, r#""latest"}"#), "MLflow keeps for itself"),
            (FULL.replace(r#"{"alias": "production"}"#, r#"{"stage": "Archived"}"#), "\"Archived\" is not known here"),
            (
                FULL.replace(r#""blue"}"#, r#""production"}"#),
                "colours.blue.alias: \"production\" is the alias that is followed",
            ),
            (FULL.replace(r#"{"alias": "blue"}"#, r#"{"version": "2"}"#), "colours.green: it is blue's too"),
            (FULL.replace(r#""version": "2""#, r#""version": "two""#), "is not a registered version"),
            (FULL.replace("10", "0"), "leave it out to promote"),
            (FULL.replace("500ms", "100ms"), "100ms is too short"),
            (FULL.replace("my-model", "a/b"), "is not a registered model's name"),
            (FULL.replace("mlflow.example.com", "http://x"), "is not a host"),
            (FULL.replace(r#""model""#, r#""path_prefix": "mlflow", "model""#), r#""mlflow" must start with /"#),
            (FULL.replace(r#""model""#, r#""path_prefix": "/a?b", "model""#), r#""/a?b" must be a plain path"#),
            (FULL.replace("secret_header", "secret"), "unknown field `secret`"),
        ];
        for (json, reason) in cases {
            let error = section(&json).expect_err(reason);
            assert!(error.contains(reason), "{reason}: {error}");
        }
    }
}
