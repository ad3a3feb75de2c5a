//! The `notify` section: who is told of changes, breaches and refusals.

use std::collections::BTreeMap;
use std::fmt;

use super::pattern::Broken;
use crate::json::FromJson;
use crate::model::name::{ClusterName, DeploymentName, HeaderName, HostName};

/// One receiver: an HTTP server that gets a POST for each notification.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Receiver {
    /// The Envoy cluster of the server. TLS is its business.
    pub cluster: ClusterName,
    /// Where to post. With Slack it is the secret: it is never logged or shown.
    pub path: HookPath,
    /// The host header; absent: Slack's for Slack, or else `localhost`.
    pub host: Option<HostName>,
    /// How the body is written.
    #[serde(default)]
    pub format: Format,
    /// More headers, such as `authorization`. Their values are never logged or shown.
    #[serde(default)]
    pub headers: BTreeMap<HeaderName, HeaderValue>,
    /// Only these kinds are sent; absent: all.
    pub events: Option<Vec<EventKind>>,
    /// Only what is about these deployments is sent; absent: about all.
    pub deployments: Option<Vec<DeploymentName>>,
}

/// How the body of a notification is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// All that is known, in fields.
    #[default]
    Json,
    /// One sentence, as Slack's incoming webhooks take it.
    Slack,
}

/// What a notification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A change of a deployment's state.
    Change,
    /// A rule of the guard that a colour broke.
    Breach,
    /// An automatic change that was refused.
    Refused,
}

/// The path of a webhook. It may be a secret, so neither an error nor a debugger shows it.
#[derive(Clone, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("pattern" = "^/")))]
#[serde(try_from = "String")]
pub struct HookPath(String);

/// The value of a header. It may be a secret.
#[derive(Clone, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String")]
pub struct HeaderValue(String);

/// Why a text is no path or header value. It does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit(&'static str);

/// How many receivers there may be.
pub const MOST_RECEIVERS: usize = 8;

/// Headers that the filter writes itself.
const OWN_HEADERS: [&str; 4] = ["content-type", "content-length", "user-agent", "idempotency-key"];

/// The rules that span more than one field of the section, or other sections.
pub(super) fn check(receivers: &[Receiver], is_deployment: impl Fn(&DeploymentName) -> bool) -> Result<(), Broken> {
    if receivers.len() > MOST_RECEIVERS {
        let count = receivers.len();
        return Err(("notify".to_owned(), format!("{count} receivers are too many: at most {MOST_RECEIVERS}")));
    }
    for (place, receiver) in receivers.iter().enumerate() {
        let at = |field: &str| format!("notify[{place}].{field}");
        if receivers.iter().take(place).any(|other| other.id() == receiver.id()) {
            let problem = "an earlier receiver has the same cluster and path, and gets the same: each notification would come twice";
            return Err((at("path"), problem.to_owned()));
        }
        if let Some(own) = OWN_HEADERS.iter().find(|own| receiver.headers.keys().any(|name| name.as_str() == **own)) {
            return Err((
                at(&format!("headers.{own}")),
                "the filter writes this header itself: leave it out".to_owned(),
            ));
        }
        if receiver.events.as_ref().is_some_and(Vec::is_empty) {
            return Err((at("events"), "an empty list sends nothing: leave it out to get all".to_owned()));
        }
        let deployments = receiver.deployments.iter().flatten();
        if let Some(unknown) = deployments.into_iter().find(|name| !is_deployment(name)) {
            return Err((
                at("deployments"),
                format!("{:?} is not a deployment of this configuration", unknown.as_str()),
            ));
        }
        if receiver.deployments.as_ref().is_some_and(Vec::is_empty) {
            return Err((at("deployments"), "an empty list sends nothing: leave it out to get all".to_owned()));
        }
    }
    Ok(())
}

// === impl Receiver ===

impl Receiver {
    /// A number that stands for it, also in the next configuration.
    pub fn id(&self) -> u64 {
        let kinds: Vec<&str> = self.events.iter().flatten().map(|kind| kind.as_str()).collect();
        let deployments: Vec<&str> = self.deployments.iter().flatten().map(DeploymentName::as_str).collect();
        let all = [self.cluster.as_str(), &self.path.0, &kinds.join(" "), &deployments.join(" ")].join("\n");
        xxhash_rust::xxh64::xxh64(all.as_bytes(), 0)
    }

    /// The host header of the requests to it.
    pub fn host(&self) -> &str {
        match (&self.host, self.format) {
            (Some(host), _) => host.as_str(),
            (None, Format::Slack) => "hooks.slack.com",
            (None, Format::Json) => "localhost",
        }
    }

    /// Whether a text repeats what nobody may read.
    pub fn is_told_in(&self, text: &str) -> bool {
        let in_path = self.path.0.split(['/', '?', '&', '=']).filter(|part| part.len() >= 4);
        let in_headers = self.headers.values().flat_map(|value| value.0.split(' ')).filter(|part| part.len() >= 4);
        in_path.chain(in_headers).any(|part| text.contains(part))
    }
}

// === impl EventKind ===

impl EventKind {
    /// The name in configuration and notification.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Breach => "breach",
            Self::Refused => "refused",
        }
    }
}

// === impl HookPath ===

impl HookPath {
    /// The text, for the request and nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for HookPath {
    type Error = Unfit;

    fn try_from(text: String) -> Result<Self, Unfit> {
        if text.contains("://") {
            return Err(Unfit(
                "it is a whole URL: give the path alone; the server is the cluster's, and its name is `host`",
            ));
        }
        let good = text.len() <= 2_000 && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if good && text.starts_with('/') {
            Ok(Self(text))
        } else {
            Err(Unfit("it is not a path: begin with /, and use at most 2000 visible ASCII characters without #"))
        }
    }
}

impl fmt::Debug for HookPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

// === impl HeaderValue ===

impl HeaderValue {
    /// The text, for the request and nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for HeaderValue {
    type Error = Unfit;

    fn try_from(text: String) -> Result<Self, Unfit> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if is_plain && (1..=2_000).contains(&text.len()) && text.trim() == text {
            Ok(Self(text))
        } else {
            Err(Unfit(
                "it is not a header's value: use 1 to 2000 visible ASCII characters, with spaces only in between",
            ))
        }
    }
}

impl fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

// === impl Unfit ===

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::config::Config;

    fn read(notify: &str) -> Result<Vec<Receiver>, String> {
        let json = format!(
            r#"{{"deployments": {{"iris": {{"colours": {{"blue": {{"cluster": "b", "version": "1"}},
                "green": {{"cluster": "g", "version": "2"}}}}}}}}, "notify": {notify}}}"#
        );
        Config::from_bytes(json.as_bytes()).map(|config| config.notify).map_err(|error| error.to_string())
    }

    #[test]
    fn a_receiver_needs_a_cluster_and_a_path_and_gets_json_about_everything() {
        let receiver = read(r#"[{"cluster": "hooks", "path": "/T000/B000"}]"#).expect("valid").remove(0);
        assert_eq!((receiver.format, receiver.host()), (Format::Json, "localhost"));
        assert_eq!((&receiver.events, &receiver.deployments), (&None, &None));
        let slack =
            read(r#"[{"cluster": "hooks", "path": "/T000/B000", "format": "slack"}]"#).expect("valid").remove(0);
        assert_eq!(slack.host(), "hooks.slack.com");
        let full = r#"[{"cluster": "hooks", "path": "/a?b=c", "host": "h.example.com:8443", "format": "json",
            "headers": {"authorization": "Bearer abcdef"}, "events": ["breach", "refused"], "deployments": ["iris"]}]"#;
        assert_eq!(read(full).expect("valid").remove(0).host(), "h.example.com:8443");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_field() {
        let nine: Vec<String> = (0..9).map(|n| format!(r#"{{"cluster": "h", "path": "/{n}"}}"#)).collect();
        let nine = format!("[{}]", nine.join(","));
        let cases = [
            (r#"[{"path": "/a"}]"#, "notify[0]: missing field `cluster`"),
            (r#"[{"cluster": "h"}]"#, "notify[0]: missing field `path`"),
            (r#"[{"cluster": "h", "path": "a"}]"#, "notify[0].path: it is not a path: begin with /"),
            (r#"[{"cluster": "h", "path": "https://hooks.slack.com/a"}]"#, "notify[0].path: it is a whole URL"),
            (r#"[{"cluster": "h", "path": "/a", "format": "teams"}]"#, "notify[0].format: \"teams\" is not known here"),
            (
                r#"[{"cluster": "h", "path": "/a", "events": ["changes"]}]"#,
                "notify[0].events[0]: \"changes\" is not known",
            ),
            (r#"[{"cluster": "h", "path": "/a", "events": []}]"#, "notify[0].events: an empty list sends nothing"),
            (r#"[{"cluster": "h", "path": "/a", "deployments": ["rose"]}]"#, "notify[0].deployments: \"rose\" is not"),
            (r#"[{"cluster": "h", "path": "/a", "deployments": []}]"#, "notify[0].deployments: an empty list"),
            (
                r#"[{"cluster": "h", "path": "/a", "headers": {"content-type": "x"}}]"#,
                "notify[0].headers.content-type: ",
            ),
            (
                r#"[{"cluster": "h", "path": "/a", "headers": {"x-a": "b\nc"}}]"#,
                "notify[0].headers.x-a: it is not a header",
            ),
            (
                r#"[{"cluster": "h", "path": "/a"}, {"cluster": "h", "path": "/a"}]"#,
                "notify[1].path: an earlier receiver",
            ),
            (&nine, "notify: 9 receivers are too many: at most 8"),
        ];
        for (json, problem) in cases {
            let error = read(json).expect_err(problem);
            assert!(error.starts_with(problem), "{error}");
        }
    }

    #[test]
    fn no_error_and_no_debugger_shows_a_secret() {
        let error = read(r#"[{"cluster": "h", "path": "T000/SECRET"}]"#).expect_err("relative");
        assert!(!error.contains("SECRET"), "{error}");
        let error = read(r#"[{"cluster": "h", "path": "/a", "headers": {"x-a": "SECRET\u0000"}}]"#).expect_err("bad");
        assert!(!error.contains("SECRET"), "{error}");
        let json = r#"[{"cluster": "h", "path": "/T000/SECRET", "headers": {"authorization": "Bearer SECRET"}}]"#;
        let receiver = read(json).expect("valid").remove(0);
        assert!(!format!("{receiver:?}").contains("SECRET"));
        assert!(receiver.is_told_in("no POST /x/T000/y") && receiver.is_told_in("bad SECRET"));
        assert!(!receiver.is_told_in("no_service"));
    }
}
