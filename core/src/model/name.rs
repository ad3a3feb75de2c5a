//! Names that users choose, checked once where they enter so that nothing later has to distrust them.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use serde::Serialize;

use super::one_line::is_hidden;
use crate::json::FromJson;

/// Why a text cannot be a name of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError {
    text: String,
    rule: &'static str,
}

/// A text that costs nothing to copy: configuration, states and what is remembered of them hold the same names.
#[derive(Clone)]
enum Text {
    Literal(&'static str),
    Shared(Arc<str>),
}

/// Declares a checked text: its docs, its rule in words, the check, and what of it a JSON Schema can say.
macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $rule:literal, $check:expr, $pattern:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, FromJson)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Text);

        impl $name {
            /// Checks `text`.
            ///
            /// # Errors
            /// The text and the rule that it breaks.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                let check: fn(&str) -> bool = $check;
                if check(&text) { Ok(Self(Text::Shared(text.into()))) } else { Err(NameError { text, rule: $rule }) }
            }

            /// A literal of this crate, whose tests hold it against the rule.
            #[allow(dead_code, reason = "not every kind of name has a default")]
            pub(crate) const fn literal(text: &'static str) -> Self {
                Self(Text::Literal(text))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.to_string()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                super::schema::text($pattern)
            }
        }
    )+};
}

names! {
    /// Name of a deployment: a DNS label, so that it fits into a path, a metric and a shared-data key.
    DeploymentName, "is not a deployment name: use 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends", is_dns_label, "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";

    /// Name of a namespace of Kubernetes.
    NamespaceName, "is not a namespace: use 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends", is_dns_label, "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";

    /// Name of a Secret of Kubernetes: a DNS name.
    SecretName, "is not a Secret's name: use 1 to 253 of a-z, 0-9, - and ., with a letter or digit at both ends of each part", |text| text.len() <= 253 && text.split('.').all(is_dns_label), "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$";

    /// Name of an Envoy cluster, such as `blue` or `outbound|8080|blue|iris.default.svc.cluster.local`.
    ClusterName, "is not a cluster name: use 1 to 255 visible ASCII characters", |text| is_visible_ascii(text, 255), "^[!-~]{1,255}$";

    /// Version of the model that a colour serves, as the client is to see it in a header.
    Version, "is not a version: use 1 to 128 visible ASCII characters", |text| is_visible_ascii(text, 128), "^[!-~]{1,128}$";

    /// Name of an HTTP header, in lower case as Envoy keeps it.
    HeaderName, "is not a header name: use lower-case letters, digits and -_ (no pseudo-header such as :path, not host)", is_header_name, "^[a-z0-9_-]{1,128}$";

    /// Name of a cookie (RFC 6265, section 4.1.1: an HTTP token).
    CookieName, "is not a cookie name: use 1 to 64 letters, digits and -_.", is_cookie_name, "^[A-Za-z0-9_.-]{1,64}$";

    /// Who holds an admin token, as history and log name them.
    HolderName, "is not a token holder's name: use 1 to 64 letters, digits and -_.@", is_holder_name, "^[A-Za-z0-9_.@-]{1,64}$";

    /// Name of a registered model in MLflow.
    ModelName, "is not a registered model's name: use 1 to 256 characters without / and : and invisible ones", is_model_name, "^[^/:]{1,256}$";

    /// A pointer of MLflow's to one version of a registered model.
    Alias, "is not an alias: use 1 to 255 letters, digits and -_, but not `latest` nor `v` with a number, which MLflow keeps for itself", is_alias, "^.{1,255}$";

    /// MLflow's number of a registered model's version.
    RegisteredVersion, "is not a registered version: use its number as a text, such as \"2\"", is_registered_version, "^[0-9]{1,20}$";

    /// What stands in the host header of a request, such as `mlflow.example.com` or `localhost:5000`.
    HostName, "is not a host: use a host name or an address, and perhaps a port, such as iris.example.com:8080", is_authority, "^([A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*\\.?|\\[[0-9A-Fa-f:.]+\\])(:[0-9]+)?$";

    /// Why a state was changed: free text that stays on one line of a log.
    Reason, "is not a reason: use at most 200 characters, none of them invisible (control characters, zero-width ones, those that turn the direction of writing)", |text| text.chars().count() <= 200 && !text.contains(is_hidden), "^.{0,200}$";
}

fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_visible_ascii(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A host name, perhaps with its final dot, or an address; IPv6 in brackets. Then perhaps a port.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host_name(host.strip_suffix('.').unwrap_or(host)),
    };
    is_host && port.is_none_or(is_port)
}

/// Labels with dots between them. Underscores are no part of DNS, but of names in containers and in Envoy.
pub(crate) fn is_host_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(allowed);
    text.len() <= 253 && text.split('.').all(is_label)
}

fn is_header_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    (1..=128).contains(&text.len()) && text.bytes().all(allowed) && text != "host"
}

fn is_cookie_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}

fn is_holder_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@');
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}

fn is_model_name(text: &str) -> bool {
    let allowed = |letter: char| !is_hidden(letter) && letter != '/' && letter != ':';
    (1..=256).contains(&text.chars().count()) && text.chars().all(allowed)
}

/// MLflow's own rule, with its reserved words.
fn is_alias(text: &str) -> bool {
    let allowed = |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '_');
    let number = text.strip_prefix(['v', 'V']).is_some_and(is_registered_version);
    let reserved = number || text.eq_ignore_ascii_case("latest");
    (1..=255).contains(&text.chars().count()) && text.chars().all(allowed) && !reserved
}

fn is_registered_version(text: &str) -> bool {
    (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

// === impl NameError ===

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.text, self.rule)
    }
}

impl std::error::Error for NameError {}

// === impl Text ===

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Literal(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Text {}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

// === impl Version ===

impl Version {
    /// A registered version, as clients and operators see it.
    pub fn of(registered: &RegisteredVersion) -> Self {
        Self(registered.0.clone())
    }
}

// === impl Reason ===

impl Reason {
    /// No reason was given.
    pub const fn none() -> Self {
        Self::literal("")
    }

    /// What a part of the filter has to say, as much of it as a reason holds.
    pub fn of(text: &str) -> Self {
        Self(Text::Shared(text.chars().filter(|letter| !is_hidden(*letter)).take(200).collect::<String>().into()))
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn deployment_names_are_dns_labels() {
        for good in ["iris", "a", "0", "a-b", &"x".repeat(63)] {
            assert!(DeploymentName::new(good).is_ok(), "{good:?}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "\u{e9}", &"x".repeat(64)] {
            assert!(DeploymentName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn header_names_are_lower_case_and_never_pseudo_headers() {
        assert!(HeaderName::new("x-user-id").is_ok());
        for bad in ["", ":path", "host", "X-User", "a b", "a\nb", "a:b"] {
            assert!(HeaderName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses_with_or_without_a_port() {
        for good in [
            "localhost",
            "localhost:5000",
            "iris-predictor.ns.svc.cluster.local",
            "Iris.Example.com.:80",
            "model_1",
            "10.0.0.1:8080",
            "[::1]",
            "[fd00::1]:8080",
        ] {
            assert!(HostName::new(good).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            ".",
            ":80",
            "a:",
            "a:+1",
            "a:65536",
            "a:b",
            "a:80:80",
            "::1",
            "[::1",
            "[a]:80",
            "a..b",
            "a/b",
            "http://a",
            "user@a",
            "a b",
            "a\r\nx: y",
            "*.example.com",
            "b\u{fc}cher.example",
            &"x".repeat(64),
        ] {
            assert!(HostName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_that_reach_headers_and_logs_carry_no_line_breaks() {
        assert!(ClusterName::new("outbound|8080|blue|iris.default.svc.cluster.local").is_ok());
        for bad in ["a\nb", "a\rb", "a b", "", "\u{7f}"] {
            assert!(ClusterName::new(bad).is_err(), "{bad:?}");
            assert!(Version::new(bad).is_err(), "{bad:?}");
        }
        assert!(Reason::new("v2 passed \u{2713}").is_ok());
        assert!(Reason::new("").is_ok());
        for bad in ["two\nlines", "\u{202e}desrever", "gr\u{200b}een", "a\u{2028}b", "\u{1b}[2J"] {
            assert!(Reason::new(bad).is_err(), "{bad:?}");
        }
        assert!(Reason::new("x".repeat(200)).is_ok());
        assert!(Reason::new("x".repeat(201)).is_err());
    }

    #[test]
    fn mlflows_names_keep_to_its_own_rules() {
        for good in ["production", "champion-2", "v", "vv1", "late", "\u{e9}"] {
            assert!(Alias::new(good).is_ok(), "{good:?}");
        }
        for bad in ["", "latest", "LATEST", "v1", "V23", "a b", "a.b", "a@b", &"x".repeat(256)] {
            assert!(Alias::new(bad).is_err(), "{bad:?}");
        }
        assert!(ModelName::new("catalog.schema.my model").is_ok());
        for bad in ["", "a/b", "a:b", "a\nb", "a\u{200b}"] {
            assert!(ModelName::new(bad).is_err(), "{bad:?}");
        }
        assert!(RegisteredVersion::new("12").is_ok());
        for bad in ["", "v1", "1.0", "-1", " 1"] {
            assert!(RegisteredVersion::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_the_filter_has_to_say_becomes_one_short_line() {
        assert_eq!(Reason::of("two\nli\u{200b}nes").as_str(), "twolines");
        assert!(Reason::new(Reason::of(&"\u{e9}".repeat(300)).as_str()).is_ok());
    }

    #[test]
    fn a_bad_name_is_quoted_in_its_error() {
        let error = DeploymentName::new("Iris").expect_err("upper case").to_string();
        assert!(error.starts_with("\"Iris\" is not a deployment name"), "{error}");
    }
}
