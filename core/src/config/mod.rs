//! The plugin configuration: what users write, checked as a whole before any of it is used.
//!
//! Whatever is wrong is refused with the path of the field, and Envoy keeps the configuration that it had.

mod document;
mod pattern;
mod token_sum;
mod access;
mod readiness;
mod guard;
mod rollout;
mod shadow;
mod sources;
mod mlflow;
mod etcd;
mod kubernetes;
mod notify;
mod deployment;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use self::access::{Access, LONGEST_TOKEN, PUBLISHED, Role, Token};
pub use self::deployment::{
    CookieSticky, DeploymentConfig, Initial, Override, OverrideToken, Salt, Sticky, StickyKey, WhenUnhealthy,
};
use self::document::NoDocument;
pub use self::etcd::{Etcd, KeyPrefix};
pub use self::guard::{
    DisagreementRule, ErrorRule, Guard, Horizon, LatencyOf, OnBreach, Over, SlowRule, UnansweredRule, WarmUp,
};
pub use self::kubernetes::Kubernetes;
pub use self::mlflow::{Follow, Mlflow, Served, Stage, Webhook};
pub use self::notify::{EventKind, Format, MOST_RECEIVERS, Receiver};
pub use self::pattern::{Authority, JsonPointer, MatchRules, PathPrefix, RequestPath};
pub use self::readiness::{
    Bake, Expectation, Failover, JsonExpectation, JsonType, Method, Probe, SmokeRequest, SmokeTest, StatusCode, Times,
};
pub use self::rollout::{RolloutPlan, RolloutStep, Then};
pub use self::shadow::{Compare, IgnoredField, SafeRequest, Shadow, Tolerance};
pub use self::sources::{ConfigPush, RuntimeSource};
pub use self::token_sum::TokenSum;
use crate::json::{FromJson, Json};
use crate::model::colour::Colour;
use crate::model::name::{DeploymentName, HeaderName};

/// Everything that one listener's plugin configuration says.
#[derive(Clone, Debug, PartialEq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The inference services, by name.
    pub deployments: BTreeMap<DeploymentName, Arc<DeploymentConfig>>,
    /// The headers through which the decision reaches Envoy's deployments.
    #[serde(default)]
    pub routing: Routing,
    /// Who may call the admin API on this listener; absent: the listener has no admin API.
    pub admin: Option<Access>,
    /// The store of record of a fleet; absent: this Envoy stands alone.
    pub etcd: Option<Etcd>,
    /// The store of record of a fleet in Kubernetes; absent: the objects there are not looked at.
    pub kubernetes: Option<Kubernetes>,
    /// How a pushed configuration's `initial` is applied.
    #[serde(default)]
    pub config_push: ConfigPush,
    /// Follows Envoy's runtime; absent: it is not read.
    pub runtime: Option<RuntimeSource>,
    /// Who is told of changes, breaches and refusals.
    #[serde(default)]
    pub notify: Vec<Receiver>,
}

/// The headers that carry the decision. A client's own copies never get past the filter.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Routing {
    /// Names the upstream cluster, for a deployment's `cluster_header`.
    pub cluster_header: HeaderName,
    /// Names the colour, for routes that match a header.
    pub colour_header: HeaderName,
    /// Names the cluster that gets a copy, for `request_mirror_policies[].cluster_header`.
    pub shadow_header: HeaderName,
    /// Whether the decision is put into Envoy's filter state, for access logs and traces.
    pub filter_state: bool,
}

/// What is wrong with a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    path: String,
    problem: String,
}

// === impl Config ===

impl Config {
    /// Reads and checks a configuration in either of the forms in which Envoy hands it over: JSON, or the
    /// `google.protobuf.Struct` that its own configuration was written as.
    ///
    /// # Errors
    /// The first field that is missing, unknown, of the wrong kind, out of range or at odds with another.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ConfigError> {
        let document = document::parse(bytes).map_err(|error| match error {
            NoDocument::Unreadable(error) => ConfigError::at(String::new(), format!("not JSON: {error}")),
            NoDocument::Twice(path, name) => {
                ConfigError::at(path, format!("{name:?} is given twice: only one of the two could count"))
            }
        })?;
        let mut config: Self =
            Self::from_json(&document).map_err(|misfit| ConfigError::at(misfit.path(), misfit.problem()))?;
        if let Some(Json::Object(written)) = document.get("deployments") {
            for (name, written) in written {
                // Nobody else has it yet.
                if let Some(deployment) = config.deployments.get_mut(&*name.0).and_then(Arc::get_mut) {
                    deployment.digest = written.digest();
                    if let (Some(shadow), Some(written)) = (&mut deployment.shadow, written.get("shadow")) {
                        shadow.compare.digest = written.digest();
                    }
                }
            }
        }
        // Of a thousand deployments it is a megabyte, and memory that a virtual machine once had it keeps.
        drop(document);
        config.check()?;
        Ok(config)
    }

    /// The JSON Schema of all this, for editors.
    #[cfg(feature = "schema")]
    pub fn schema() -> serde_json::Value {
        crate::model::schema::of::<Self>("The plugin configuration of bluegreen")
    }

    /// The rules that span more than one field.
    fn check(&self) -> Result<(), ConfigError> {
        if self.deployments.is_empty() {
            let problem = "there is none, so nothing would be routed: name at least one".to_owned();
            return Err(ConfigError::at("deployments".to_owned(), problem));
        }
        self.check_matches()?;
        if self.etcd.is_some() && self.kubernetes.is_some() {
            let problem = "etcd is given too, and only one of the two can hold the state: leave one out".to_owned();
            return Err(ConfigError::at("kubernetes".to_owned(), problem));
        }
        if let Some(Err((field, problem))) = self.admin.as_ref().map(|access| access.check(self.kubernetes.is_some())) {
            return Err(ConfigError::at(format!("admin.{field}"), problem));
        }
        for (name, deployment) in &self.deployments {
            let cluster = &deployment.colours.blue.cluster;
            if *cluster == deployment.colours.green.cluster {
                return Err(ConfigError::at(
                    format!("deployments.{name}.colours.green.cluster"),
                    format!("{:?} is blue's cluster too: two versions need two clusters", cluster.as_str()),
                ));
            }
        }
        for (name, deployment) in &self.deployments {
            let names = |colour: Colour| {
                let identity = deployment.colours.get(colour);
                [&identity.cluster].into_iter().chain(&identity.also)
            };
            for colour in Colour::ALL {
                for (place, also) in deployment.colours.get(colour).also.iter().enumerate() {
                    let given = names(colour).filter(|own| *own == also).count();
                    let others = names(colour.other()).any(|other| other == also);
                    if given > 1 || others {
                        let of = if others { colour.other() } else { colour };
                        return Err(ConfigError::at(
                            format!("deployments.{name}.colours.{colour}.also[{place}]"),
                            format!("{:?} is already named for {of}", also.as_str()),
                        ));
                    }
                }
            }
        }
        for (name, deployment) in &self.deployments {
            if let Err((field, problem)) = deployment.rules.check() {
                return Err(ConfigError::at(format!("deployments.{name}.match.{field}"), problem));
            }
        }
        for (name, deployment) in &self.deployments {
            let needed = [("probe", deployment.probe.is_some()), ("bake", deployment.bake.is_some())];
            if let (Some(_), Some((section, _))) = (&deployment.failover, needed.iter().find(|(_, there)| !there)) {
                return Err(ConfigError::at(
                    format!("deployments.{name}.failover"),
                    format!("goes back to a healthy colour inside its bake window: add a {section} section"),
                ));
            }
        }
        for (name, deployment) in &self.deployments {
            if let Err((field, problem)) = deployment.initial.check(deployment.probe.as_ref()) {
                return Err(ConfigError::at(format!("deployments.{name}.{field}"), problem.to_owned()));
            }
        }
        for (name, deployment) in &self.deployments {
            if let Some(Err((field, problem))) = deployment.mlflow.as_ref().map(|section| section.check()) {
                return Err(ConfigError::at(format!("deployments.{name}.mlflow.{field}"), problem));
            }
        }
        for (name, deployment) in &self.deployments {
            if let Some(field) = deployment.uses_comparison().filter(|_| deployment.shadow.is_none()) {
                return Err(ConfigError::at(
                    format!("deployments.{name}.{field}"),
                    "is about answers that are compared: add shadow: {compare: {safe: [{method: POST, path_prefix: /invocations}]}}"
                        .to_owned(),
                ));
            }
        }
        notify::check(&self.notify, |name| self.deployments.contains_key(name))
            .map_err(|(field, problem)| ConfigError::at(field, problem))?;
        let cluster_headers = self.cluster_headers();
        for (name, deployment) in &self.deployments {
            if let Err((field, problem)) = self.routing.check(deployment, &cluster_headers) {
                return Err(ConfigError::at(format!("deployments.{name}.{field}"), problem));
            }
        }
        let headers = [
            ("colour_header", &self.routing.colour_header, &self.routing.cluster_header),
            ("shadow_header", &self.routing.shadow_header, &self.routing.cluster_header),
            ("shadow_header", &self.routing.shadow_header, &self.routing.colour_header),
        ];
        for (field, header, earlier) in headers {
            if header == earlier {
                return Err(ConfigError::at(
                    format!("routing.{field}"),
                    format!("{:?} already carries another part of the decision", header.as_str()),
                ));
            }
        }
        Ok(())
    }

    /// The headers of this configuration that name an upstream cluster, each once.
    pub fn cluster_headers(&self) -> Vec<&HeaderName> {
        let mut headers = Vec::new();
        for deployment in self.deployments.values() {
            let header = deployment.cluster_header.as_ref().unwrap_or(&self.routing.cluster_header);
            if !headers.contains(&header) {
                headers.push(header);
            }
        }
        headers
    }

    /// No two deployments ask for the very same requests: one of them would never get any.
    fn check_matches(&self) -> Result<(), ConfigError> {
        // A map of JSON, because its code is there anyway.
        let mut known = serde_json::Map::new();
        for (name, deployment) in &self.deployments {
            for prefix in deployment.rules.prefixes() {
                let asks_for = deployment.rules.describe(&[prefix]);
                let earlier = known.insert(asks_for, name.as_str().into());
                let earlier = earlier.as_ref().and_then(serde_json::Value::as_str);
                if let Some(earlier) = earlier.filter(|earlier| *earlier != name.as_str()) {
                    let what = if prefix.is_empty() { "every path".to_owned() } else { format!("the path {prefix}") };
                    let problem = format!(
                        "{earlier} asks for the same requests ({what}, the same authority and headers), and only one of \
                         them would get any: tell them apart by path_prefix, authority or headers"
                    );
                    return Err(ConfigError::at(format!("deployments.{name}.match"), problem));
                }
            }
        }
        Ok(())
    }
}

// === impl Routing ===

impl Default for Routing {
    fn default() -> Self {
        Self {
            cluster_header: HeaderName::literal("x-bluegreen-cluster"),
            colour_header: HeaderName::literal("x-bluegreen-colour"),
            shadow_header: HeaderName::literal("x-bluegreen-shadow"),
            filter_state: false,
        }
    }
}

impl Routing {
    /// Checks that a deployment takes nothing that a filter writes for what a client says: after an internal redirect a
    /// request comes with the headers of its earlier pass, and behind another Envoy with those of that one, which has the
    /// default names if nobody changed them. The error is the field and what is wrong with it.
    fn check(&self, deployment: &DeploymentConfig, cluster_headers: &[&HeaderName]) -> Result<(), (String, String)> {
        if let Some(header) = &deployment.cluster_header
            && [&self.colour_header, &self.shadow_header].contains(&header)
        {
            let problem = format!("{:?} already carries another part of the decision", header.as_str());
            return Err(("cluster_header".to_owned(), problem));
        }
        let by_override = deployment.r#override.as_ref().map(|by| ("override.header".to_owned(), &by.header));
        let by_user = match deployment.sticky.as_ref().map(|sticky| &sticky.key) {
            Some(StickyKey::Header(header)) => Some(("sticky.header".to_owned(), header)),
            Some(StickyKey::Cookie(_)) | None => None,
        };
        let by_match =
            deployment.rules.headers.keys().map(|header| (format!("match.headers.{}", header.as_str()), header));
        let defaults = Self::default();
        let read = by_override.iter().cloned().chain(by_user.clone()).chain(by_match.clone());
        for (field, header) in read {
            if cluster_headers.contains(&header) || [self, &defaults].iter().any(|routing| routing.writes(header)) {
                let text = header.as_str();
                let problem = format!(
                    "{text:?} is a header that filters write themselves: an earlier decision would be taken for a \
                     client's; use another name, such as x-bluegreen-override"
                );
                return Err((field, problem));
            }
        }
        if let Some((field, header)) = by_override
            && let Some((other, _)) = by_user.into_iter().chain(by_match).find(|(_, other)| *other == header)
        {
            let problem =
                format!("{:?} is {other} too: the override header is removed from each request", header.as_str());
            return Err((field, problem));
        }
        Ok(())
    }

    fn writes(&self, header: &HeaderName) -> bool {
        [&self.cluster_header, &self.colour_header, &self.shadow_header].contains(&header)
    }
}

// === impl ConfigError ===

impl ConfigError {
    fn at(path: String, problem: String) -> Self {
        Self { path, problem }
    }

    /// Where: the fields from the outermost in, joined by dots; empty for the document as a whole.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { write!(f, "{}", self.problem) } else { write!(f, "{}: {}", self.path, self.problem) }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::colour::Colour;

    /// The example of the README, with every section.
    pub const FULL: &str = r#"{
        "deployments": {"iris": {
            "match": {"path_prefix": "/invocations", "authority": "iris.example.com", "headers": {"x-model": "iris"}},
            "colours": {"blue": {"cluster": "blue", "version": "1"}, "green": {"cluster": "green", "version": "2"}},
            "initial": {"active": "green", "canary_percent": 12.5, "shadow_percent": 1},
            "sticky": {"cookie": {"name": "bluegreen", "max_age": "3600s", "secure": true}},
            "override": {"header": "x-bluegreen-override"}
        }},
        "routing": {"cluster_header": "x-c", "colour_header": "x-d", "shadow_header": "x-s"},
        "admin": {"path_prefix": "/bg", "open": false, "tokens": [
            {"name": "alice", "role": "operator", "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}]}
    }"#;

    const VIEWER: &str = r#""name": "victor", "role": "viewer", "sha256": "9F86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08""#;

    #[test]
    fn every_section_of_a_full_configuration_is_read() {
        let config = Config::from_bytes(FULL.as_bytes()).expect("valid");
        let iris = config.deployments.values().next().expect("one deployment");
        assert_eq!(iris.initial.active, Colour::Green);
        assert_eq!(iris.initial.canary_percent.hundredths(), 1_250);
        assert_eq!(iris.colours.green.version.as_str(), "2");
        assert!(
            matches!(iris.sticky.as_ref().map(|sticky| &sticky.key), Some(StickyKey::Cookie(cookie)) if cookie.secure && cookie.max_age.as_secs() == 3_600)
        );
        assert_eq!(config.routing.cluster_header.as_str(), "x-c");
        assert_eq!(config.admin.expect("admin").tokens[0].role, Role::Operator);
    }

    #[test]
    fn what_is_left_out_takes_its_documented_default() {
        let json = r#"{"deployments": {"iris": {"colours": {
            "blue": {"cluster": "b", "version": "1"}, "green": {"cluster": "g", "version": "2"}}}}}"#;
        let config = Config::from_bytes(json.as_bytes()).expect("valid");
        assert_eq!(config.routing, Routing::default());
        for header in [&config.routing.cluster_header, &config.routing.colour_header, &config.routing.shadow_header] {
            assert!(HeaderName::new(header.as_str()).is_ok());
        }
        assert_eq!(config.admin, None);
        let iris = &config.deployments["iris"];
        assert_eq!((iris.initial.active, iris.initial.canary_percent.hundredths()), (Colour::Blue, 0));
        assert_eq!((&iris.sticky, &iris.r#override), (&None, &None));
    }

    #[test]
    fn a_bad_field_is_refused_with_its_path_and_its_rule() {
        let cookie = r#"{"cookie": {"name": "bluegreen", "max_age": "3600s", "secure": true}}"#;
        let with_tokens = |tokens: &str| {
            let header = r#""override": {"header": "x-bluegreen-override""#;
            FULL.replace(header, &format!(r#"{header}, "tokens": {tokens}"#))
        };
        let token = r#"{"name": "qa", "sha256": "secret"}"#;
        let with_cluster_header =
            |name: &str| FULL.replace(r#""initial""#, &format!(r#""cluster_header": "{name}", "initial""#));
        let by_header = |name: &str| FULL.replace(cookie, &format!(r#"{{"header": "{name}"}}"#));
        let cases = [
            ("", "missing field `deployments`", ""),
            ("7", "the number 7 is given where an object", ""),
            (&format!("{FULL} x"), "trailing", ""),
            ("{}", "missing field `deployments`", ""),
            (r#"{"deployments": {}}"#, "name at least one", "deployments"),
            (&FULL.replace(r#""open": false"#, r#""open": true"#), "leave out open, or the tokens", "admin.open"),
            (
                &FULL.replace(r#""tokens": ["#, &format!(r#""tokens": [{{{VIEWER}}}, "#)),
                "it is the token of victor (viewer) too",
                "admin.tokens[1].sha256",
            ),
            (
                &FULL.replace(r#""/invocations""#, r#""/v1/.*""#),
                "looks like a pattern",
                "deployments.iris.match.path_prefix",
            ),
            (&FULL.replace("/bg", "^/bg"), "looks like a pattern", "admin.path_prefix"),
            (
                &FULL.replace(r#""version": "1""#, r#""version": "1", "version": "2""#),
                r#""version" is given twice"#,
                "deployments.iris.colours.blue",
            ),
            (&with_cluster_header("x-d"), "already carries", "deployments.iris.cluster_header"),
            (&with_cluster_header("x-s"), "already carries", "deployments.iris.cluster_header"),
            (&with_cluster_header(":authority"), "is not a header name", "deployments.iris.cluster_header"),
            (&with_cluster_header("x-model"), "filters write", "deployments.iris.match.headers.x-model"),
            (&with_cluster_header("x-bluegreen-override"), "filters write", "deployments.iris.override.header"),
            (r#"{"admin": {}, "admin": {}}"#, r#""admin" is given twice"#, ""),
            (
                &FULL.replace(r#""sticky""#, r#""failover": {"after": 5}, "sticky""#),
                "add a probe section",
                "deployments.iris.failover",
            ),
            (&FULL.replace("12.5", "101"), "101 is not between 0 and 100", "deployments.iris.initial.canary_percent"),
            (&FULL.replace("12.5", "0.001"), "more than two decimals", "deployments.iris.initial.canary_percent"),
            (&FULL.replace("12.5", r#""x""#), "not a decimal number", "deployments.iris.initial.canary_percent"),
            (
                &FULL.replace(r#""cluster": "green","#, r#""cluster": "green", "also": ["g2", "blue"],"#),
                "\"blue\" is already named for blue",
                "deployments.iris.colours.green.also[1]",
            ),
            (
                &FULL.replace(r#""cluster": "green","#, r#""cluster": "green", "also": ["green"],"#),
                "\"green\" is already named for green",
                "deployments.iris.colours.green.also[0]",
            ),
            (
                &FULL.replace(r#""active": "green""#, r#""active": "red""#),
                "\"red\" is not known here: use `blue` or `green`",
                "deployments.iris.initial.active",
            ),
            (
                &FULL.replace(r#""active": "green""#, r#""active": "green", "when_unhealthy": "stop""#),
                "\"stop\" is not known here: use `other` or `keep`",
                "deployments.iris.initial.when_unhealthy",
            ),
            (
                &FULL.replace(r#""active": "green""#, r#""active": "green", "when_unhealthy": "other""#),
                "add a probe section",
                "deployments.iris.initial.when_unhealthy",
            ),
            (
                &FULL.replace(r#""/invocations""#, r#""invocations""#),
                "start with /",
                "deployments.iris.match.path_prefix",
            ),
            (
                &FULL.replace(r#""path_prefix": "/invocations""#, r#""path_prefixes": ["/a", "b"]"#),
                "start with /",
                "deployments.iris.match.path_prefixes[1]",
            ),
            (
                &FULL.replace(r#""path_prefix": "/invocations""#, r#""path_prefixes": ["/a", "/b", "/a/"]"#),
                r#""/a/" is in the list already"#,
                "deployments.iris.match.path_prefixes[2]",
            ),
            (
                &FULL.replace(r#""path_prefix": "/invocations""#, r#""path_prefixes": []"#),
                "the list is empty",
                "deployments.iris.match.path_prefixes",
            ),
            (
                &FULL.replace(r#""/invocations""#, r#""/invocations", "path_prefixes": ["/v1"]"#),
                "path_prefix is given too",
                "deployments.iris.match.path_prefixes",
            ),
            (&FULL.replace("iris.example.com", "iris.example.com:80"), "host name", "deployments.iris.match.authority"),
            (
                &FULL.replace(r#""version": "2""#, r#""version": "a b""#),
                "is not a version",
                "deployments.iris.colours.green.version",
            ),
            (
                &FULL.replace(r#""version": "2""#, r#""version": "2", "authority": "http://iris""#),
                "is not a host",
                "deployments.iris.colours.green.authority",
            ),
            (
                &FULL.replace(r#""version": "2""#, r#""version": 2"#),
                "the number 2 is given where a text belongs: write it in quotes, \"2\"",
                "deployments.iris.colours.green.version",
            ),
            (
                &FULL.replace(r#""cluster": "green""#, r#""cluster": "blue""#),
                "two clusters",
                "deployments.iris.colours.green.cluster",
            ),
            (
                &FULL.replace(r#""green": {"cluster""#, r#""red": {"cluster""#),
                "unknown field `red`",
                "deployments.iris.colours",
            ),
            (&FULL.replace(r#""iris": {"#, r#""Iris": {"#), r#""Iris" is not a deployment name"#, "deployments"),
            (&FULL.replace(r#""initial""#, r#""intial""#), "unknown field `intial`", "deployments.iris"),
            (&FULL.replace("3600s", "soon"), "is not a time", "deployments.iris.sticky.cookie.max_age"),
            (&FULL.replace("3600s", "0s"), "too short", "deployments.iris.sticky.cookie.max_age"),
            (&FULL.replace(r#""x-s""#, r#""x-c""#), "already carries", "routing.shadow_header"),
            (&FULL.replace("x-bluegreen-override", "x-d"), "filters write", "deployments.iris.override.header"),
            (&FULL.replace("x-bluegreen-override", "x-c"), "filters write", "deployments.iris.override.header"),
            (&FULL.replace("x-bluegreen-override", "x-s"), "filters write", "deployments.iris.override.header"),
            // What another Envoy writes, whatever this one is configured to.
            (
                &FULL.replace("x-bluegreen-override", "x-bluegreen-colour"),
                "such as x-bluegreen-override",
                "deployments.iris.override.header",
            ),
            (&FULL.replace("x-model", "x-d"), "filters write", "deployments.iris.match.headers.x-d"),
            (
                &FULL.replace("x-model", "x-bluegreen-override"),
                "is match.headers.x-bluegreen-override too",
                "deployments.iris.override.header",
            ),
            (&with_tokens("[]"), "leave tokens out", "deployments.iris.override.tokens"),
            (&with_tokens(&format!("[{token}]")), "64 hexadecimal", "deployments.iris.override.tokens[0].sha256"),
            (
                &with_tokens(r#"[{"name": "qa", "role": "viewer"}]"#),
                "unknown field `role`",
                "deployments.iris.override.tokens[0]",
            ),
            (&FULL.replace(cookie, "{}"), "add header or cookie", "deployments.iris.sticky"),
            (
                &FULL.replace(r#"{"cookie": {"name""#, r#"{"header": "x-user", "cookie": {"name""#),
                "two keys of one user",
                "deployments.iris.sticky",
            ),
            (&FULL.replace(cookie, r#"{"salt": ""}"#), "hides nothing", "deployments.iris.sticky.salt"),
            (&FULL.replace(cookie, r#"{"pepper": "x"}"#), "unknown field `pepper`", "deployments.iris.sticky"),
            (&by_header("x-d"), "filters write", "deployments.iris.sticky.header"),
            (&by_header("x-bluegreen-override"), "is sticky.header too", "deployments.iris.override.header"),
            (&FULL.replace(r#""x-c""#, r#"":path""#), "is not a header name", "routing.cluster_header"),
            (
                &FULL.replace(
                    r#""admin":"#,
                    r#""etcd": {"cluster": "e"}, "kubernetes": {"cluster": "k", "namespace": "m"}, "admin":"#,
                ),
                "etcd is given too",
                "kubernetes",
            ),
            (&FULL.replace("/bg", "/"), "everything", "admin.path_prefix"),
            (
                &FULL.replace("operator", "root"),
                "\"root\" is not known here: use `viewer` or `operator`",
                "admin.tokens[0].role",
            ),
            (&FULL.replace("9f86", "9f8"), "64 hexadecimal digits", "admin.tokens[0].sha256"),
            (&FULL.replace("9f86", "zf86"), "64 hexadecimal digits", "admin.tokens[0].sha256"),
        ];
        for (json, problem, path) in cases {
            let error = Config::from_bytes(json.as_bytes()).expect_err(problem);
            assert!(error.to_string().contains(problem), "{problem}: {error}");
            assert!(error.path().starts_with(path), "{path}: {error}");
        }
    }

    #[test]
    fn two_deployments_that_ask_for_the_same_requests_are_refused() {
        let with = |other: &str| {
            let colours =
                r#""colours": {"blue": {"cluster": "b", "version": "1"}, "green": {"cluster": "g", "version": "2"}}"#;
            let iris =
                r#"{"path_prefixes": ["/invocations", "/v1"], "authority": "a", "headers": {"x-model": "iris"}}"#;
            format!(
                r#"{{"deployments": {{"iris": {{"match": {iris}, {colours}}}, "rose": {{"match": {other}, {colours}}}}}}}"#
            )
        };
        let same = [
            r#"{"path_prefix": "/v1/", "authority": "A.", "headers": {"x-model": "iris"}}"#,
            r#"{"path_prefixes": ["/v2", "/v1"], "authority": "a", "headers": {"x-model": "iris"}}"#,
        ];
        for rules in same {
            let error = Config::from_bytes(with(rules).as_bytes()).expect_err(rules).to_string();
            assert!(
                error.starts_with("deployments.rose.match: iris asks for the same requests (the path /v1,"),
                "{error}"
            );
        }
        let others = [
            "{}",
            r#"{"path_prefix": "/v2", "authority": "a", "headers": {"x-model": "iris"}}"#,
            r#"{"path_prefix": "/v1", "authority": "*.a", "headers": {"x-model": "iris"}}"#,
            r#"{"path_prefix": "/v1", "authority": "a", "headers": {"x-model": "rose"}}"#,
            r#"{"path_prefix": "/v1", "authority": "a"}"#,
        ];
        for rules in others {
            assert!(Config::from_bytes(with(rules).as_bytes()).is_ok(), "{rules}");
        }
    }

    /// Every field there is.
    const EVERY_FIELD: &str = r#"{
        "deployments": {"iris": {
            "match": {"path_prefixes": ["/invocations"], "authority": "iris.example.com", "headers": {"x-model": "iris"}},
            "cluster_header": "x-cluster-iris",
            "colours": {"blue": {"cluster": "blue", "version": "1", "authority": "b"}, "green": {"cluster": "green", "version": "2"}},
            "initial": {"active": "green", "canary_percent": 12.5, "shadow_percent": 1},
            "sticky": {"cookie": {"name": "bluegreen", "max_age": "3600s", "secure": true}, "salt": "s"},
            "override": {"header": "x-want", "tokens": [{"name": "qa", "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}]},
            "probe": {"path": "/ping", "host": "h", "expect_status": 200, "interval": "1s", "timeout": "1s", "unhealthy_after": 3},
            "smoke_test": {"required": true, "valid_for": "1h", "timeout": "1s", "requests": [{"method": "POST", "path": "/",
                "host": "h", "headers": {"a": "b"}, "body": "x", "expect": {"status": 200,
                "json": {"pointer": "/a", "equals": 1, "type": "number", "length": 1}}}]},
            "bake": {"for": "10m"}, "failover": {"after": 5},
            "rollout": {"steps": [{"canary_percent": 1, "hold": "1s", "min_requests": 5}], "then": "pause"},
            "guard": {"confidence": 0.99, "error": {"max_increase": 0.1, "max_rate": 0.2, "after": 50, "count_4xx": true},
                "slow": {"over": "auto", "of": "total", "max_increase": 0.1}, "on_breach": "pause", "also_after_promote": "1h"},
            "mlflow": {"cluster": "m", "host": "h", "path_prefix": "/m", "model": "iris", "follow": {"alias": "a"},
                "colours": {"blue": {"alias": "b"}, "green": {"version": "2"}}, "poll_interval": "1s", "canary_percent": 1,
                "enforce": true, "webhook": {"secret_header": "x-s"}}
        }},
        "routing": {"cluster_header": "x-c", "colour_header": "x-d", "shadow_header": "x-h"},
        "admin": {"path_prefix": "/bg", "open": false, "tokens": [
            {"name": "alice", "role": "operator", "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}]},
        "etcd": {"cluster": "e", "prefix": "/p/", "timeout": "1s"},
        "config_push": {"enforce": true},
        "runtime": {"cluster": "r", "poll_interval": "1s", "enforce": true}
    }"#;

    /// The pointers to all values of a document.
    fn places(value: &serde_json::Value, at: &str, places: &mut Vec<String>) {
        places.push(at.to_owned());
        match value {
            serde_json::Value::Object(members) => {
                members.iter().for_each(|(name, member)| self::places(member, &format!("{at}/{name}"), places));
            }
            serde_json::Value::Array(list) => {
                list.iter().enumerate().for_each(|(n, element)| self::places(element, &format!("{at}/{n}"), places));
            }
            _ => {}
        }
    }

    #[test]
    fn no_message_about_any_field_speaks_rust() {
        let full: serde_json::Value = serde_json::from_str(EVERY_FIELD).expect("JSON");
        Config::from_bytes(EVERY_FIELD.as_bytes()).expect("valid");
        let mut all = Vec::new();
        places(&full, "", &mut all);
        let misfits = ["null", "true", "-7", "70000", "1.5", r#""no such thing""#, "[]", "[1]", "{}", r#"{"odd": 1}"#];
        let rust =
            ["struct", "enum", "variant", "tuple", "unit", "u8", "u16", "u32", "u64", "usize", "f64", "map", "seq"];
        let types = [
            "Config",
            "Sticky",
            "Upstream",
            "PerColour",
            "Guard",
            "Rule",
            "Probe",
            "Test",
            "Mlflow",
            "Access",
            "Token",
        ];
        let mut seen = 0;
        for place in &all {
            for misfit in misfits {
                let mut document = full.clone();
                *document.pointer_mut(place).expect("there") = serde_json::from_str(misfit).expect("JSON");
                let Err(error) = Config::from_bytes(document.to_string().as_bytes()) else { continue };
                seen += 1;
                let text = error.to_string();
                // What was written may have any word in it.
                let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
                let odd = rust.iter().chain(&types).find(|word| words.contains(*word));
                assert_eq!(odd, None, "{place} = {misfit}: {text}");
                assert!(!text.contains("  ") && text.len() < 400, "{place} = {misfit}: {text}");
            }
        }
        assert!(seen > 700, "{seen}");
    }
}
