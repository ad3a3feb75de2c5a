//! Which requests belong to a deployment: authority, path prefix and headers.

use std::collections::BTreeMap;
use std::fmt;

use crate::json::FromJson;
use crate::model::name::{HeaderName, is_host_name};

/// The `match` section: every rule given must hold. Without rules, every request matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct MatchRules {
    /// The path, or its beginning up to a `/` or a `:`.
    pub path_prefix: Option<PathPrefix>,
    /// Several prefixes, of which one must cover the path: in place of `path_prefix`.
    pub path_prefixes: Option<Vec<PathPrefix>>,
    /// The host that the client asked for.
    pub authority: Option<Authority>,
    /// Headers and the exact values that they must have.
    pub headers: BTreeMap<HeaderName, String>,
}

/// A path prefix on segment boundaries: `/a` covers `/a`, `/a/b` and `/a?x`, but not `/ab`. Kept without the trailing `/`.
/// In `match` it covers `/a:predict` too.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromJson)]
#[serde(try_from = "String")]
pub struct PathPrefix(String);

/// What a request of the filter's own asks for: a path, perhaps with a query.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[serde(try_from = "String")]
pub struct RequestPath(String);

/// A host name in lower case without a port: exact, or `*.` and a suffix that covers one label or more. Kept without the
/// dot that ends a fully qualified name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, FromJson)]
#[serde(try_from = "String")]
pub enum Authority {
    /// The whole name.
    Exact(String),
    /// What follows the `*`, with its leading dot: `.example.com`.
    Suffix(String),
}

/// Where a value stands in a JSON document (RFC 6901): empty for the whole document, else each step behind a `/`.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[serde(try_from = "String")]
pub struct JsonPointer(String);

/// Why a text is not a pattern of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// A prefix without its leading slash.
    Relative(String),
    /// A prefix with a query, a fragment, white space, an empty segment, `.` and `..` segments, or a `:` at its end.
    NotPlain(String),
    /// A prefix that looks like a regular expression or a glob.
    Pattern(String),
    /// A JSON pointer without its leading slash, or with a `~` that escapes nothing.
    NotAPointer(String),
    /// A request's path with white space, a fragment, or bytes that must be percent-encoded.
    NotARequestPath(String),
    /// Not a host name.
    NotAHost(String),
}

/// A rule between the fields that is broken: the field, and what is wrong with it.
pub(super) type Broken = (String, String);

// === impl MatchRules ===

impl MatchRules {
    /// The prefixes of which one must cover the path: at least one, which is empty when every path matches.
    pub fn prefixes(&self) -> Vec<&str> {
        let given: Vec<&str> =
            self.path_prefix.iter().chain(self.path_prefixes.iter().flatten()).map(PathPrefix::as_str).collect();
        if given.is_empty() { vec![""] } else { given }
    }

    /// What they ask for, with these prefixes.
    pub(super) fn describe(&self, prefixes: &[&str]) -> String {
        let mut rules = Vec::new();
        if prefixes.iter().any(|prefix| !prefix.is_empty()) {
            rules.push(format!("path_prefix {}", prefixes.join(" or ")));
        }
        match &self.authority {
            Some(Authority::Exact(host)) => rules.push(format!("authority {host}")),
            Some(Authority::Suffix(suffix)) => rules.push(format!("authority *{suffix}")),
            None => {}
        }
        for (name, value) in &self.headers {
            rules.push(format!("header {name}: {value}"));
        }
        if rules.is_empty() { "every request".to_owned() } else { rules.join(", ") }
    }

    /// The rules that span more than one field.
    pub(super) fn check(&self) -> Result<(), Broken> {
        let Some(list) = &self.path_prefixes else { return Ok(()) };
        let broken = |field: String, problem: &str| Err((field, problem.to_owned()));
        if self.path_prefix.is_some() {
            return broken("path_prefixes".to_owned(), "path_prefix is given too: put all prefixes into the list");
        }
        if list.is_empty() {
            return broken("path_prefixes".to_owned(), "the list is empty: leave it out to match every path");
        }
        for (place, prefix) in list.iter().enumerate() {
            if list.iter().take(place).any(|earlier| earlier == prefix) {
                let problem = format!("\"{}/\" is in the list already", prefix.as_str());
                return broken(format!("path_prefixes[{place}]"), &problem);
            }
        }
        Ok(())
    }
}

impl fmt::Display for MatchRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe(&self.prefixes()))
    }
}

// === impl PathPrefix ===

impl PathPrefix {
    /// The prefix without its trailing slash; empty when it covers every path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `path` (without its query) is covered.
    pub fn covers(&self, path: &[u8]) -> bool {
        path.strip_prefix(self.0.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    /// What follows the prefix in `path`, when it is covered.
    pub fn strip<'p>(&self, path: &'p str) -> Option<&'p str> {
        path.strip_prefix(self.0.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    pub(crate) const fn literal(text: String) -> Self {
        Self(text)
    }
}

impl TryFrom<String> for PathPrefix {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        // Taken literally none of these would ever match what was meant.
        if text.bytes().any(|byte| b"*^()[]{}|\\".contains(&byte)) || text.ends_with('$') {
            return Err(PatternError::Pattern(text));
        }
        if !text.starts_with('/') {
            return Err(PatternError::Relative(text));
        }
        let prefix = text.strip_suffix('/').unwrap_or(&text);
        let odd_segment = prefix.split('/').skip(1).any(|segment| matches!(segment, "" | "." | ".."));
        let odd_byte = prefix.bytes().any(|byte| !byte.is_ascii_graphic() || matches!(byte, b'?' | b'#'));
        if odd_segment || odd_byte || prefix.ends_with(':') {
            return Err(PatternError::NotPlain(text));
        }
        Ok(Self(prefix.to_owned()))
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for PathPrefix {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PathPrefix".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        crate::model::schema::text(r"^(/|(/[^*^()\[\]{}|\\?#\s/]+)+/?)$")
    }
}

// === impl RequestPath ===

impl RequestPath {
    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RequestPath {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        if !text.starts_with('/') {
            Err(PatternError::Relative(text))
        } else if text.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'#') {
            Err(PatternError::NotARequestPath(text))
        } else {
            Ok(Self(text))
        }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for RequestPath {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RequestPath".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        crate::model::schema::text(r##"^/[!-"$-~]*$"##)
    }
}

// === impl JsonPointer ===

impl JsonPointer {
    /// The pointer.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for JsonPointer {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        let escapes_nothing = text.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1']));
        if escapes_nothing || !(text.is_empty() || text.starts_with('/')) {
            return Err(PatternError::NotAPointer(text));
        }
        Ok(Self(text))
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for JsonPointer {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "JsonPointer".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        crate::model::schema::text("^(/([^~/]|~[01])*)*$")
    }
}

// === impl Authority ===

impl TryFrom<String> for Authority {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        let lower = text.to_ascii_lowercase();
        let (host, wildcard) = match lower.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (lower.as_str(), false),
        };
        let host = host.strip_suffix('.').filter(|host| !host.ends_with(']')).unwrap_or(host);
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let valid = match bracketed {
            Some(address) => !wildcard && address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => is_host_name(host),
        };
        match (valid, wildcard) {
            (false, _) => Err(PatternError::NotAHost(text)),
            (true, true) => Ok(Self::Suffix(format!(".{host}"))),
            (true, false) => Ok(Self::Exact(host.to_owned())),
        }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Authority {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Authority".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        crate::model::schema::text(r"^((\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?|\[[0-9A-Fa-f:.]+\])$")
    }
}

// === impl PatternError ===

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relative(text) => write!(f, "{text:?} must start with /"),
            Self::NotPlain(text) => {
                write!(
                    f,
                    "{text:?} must be a plain path: no query, no empty segment, no . or .. segment, no : at its end"
                )
            }
            Self::Pattern(text) => write!(
                f,
                "{text:?} looks like a pattern, and prefixes are taken as they are: write the beginning of the path, \
                 such as /v1/models, which covers everything below it"
            ),
            Self::NotAPointer(text) => write!(
                f,
                "{text:?} is not a JSON pointer (RFC 6901): use \"\" for the whole body, or a / before each step, such \
                 as /predictions/0, with ~1 for a / and ~0 for a ~ in a name"
            ),
            Self::NotARequestPath(text) => {
                write!(f, "{text:?} must be a path as a request line has it: no fragment, other bytes percent-encoded")
            }
            Self::NotAHost(text) => {
                write!(f, "{text:?} must be a host name without a port, such as iris.example.com or *.example.com")
            }
        }
    }
}

impl std::error::Error for PatternError {}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn a_prefix_covers_whole_segments_only() {
        let prefix = PathPrefix::try_from("/invocations".to_owned()).expect("valid");
        for (path, covered) in [
            ("/invocations", true),
            ("/invocations/", true),
            ("/invocations/x", true),
            ("/invocationsx", false),
            ("/", false),
            ("", false),
            ("/Invocations", false),
        ] {
            assert_eq!(prefix.covers(path.as_bytes()), covered, "{path}");
            assert_eq!(prefix.strip(path).is_some(), covered, "{path}");
        }
        let root = PathPrefix::try_from("/".to_owned()).expect("valid");
        assert!(root.covers(b"/anything") && root.covers(b""));
    }

    #[test]
    fn a_trailing_slash_means_the_same_prefix() {
        assert_eq!(PathPrefix::try_from("/a/".to_owned()), PathPrefix::try_from("/a".to_owned()));
    }

    #[test]
    fn prefixes_that_no_normalised_path_can_have_are_refused() {
        for text in ["", "a", "/a//b", "/a/../b", "/.", "/a?b", "/a#b", "/a b", "//", "/a:", "/a:/"] {
            assert!(PathPrefix::try_from(text.to_owned()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_prefix_that_looks_like_a_pattern_is_refused_as_one() {
        for text in ["/v1/.*", "^/x", "/models/(iris|rose)", "/v1/*", "/a$", "/[a-z]", "/a\\.b", "/{name}", ".*", "*"] {
            let error = PathPrefix::try_from(text.to_owned()).expect_err(text).to_string();
            assert!(error.contains("looks like a pattern"), "{error}");
        }
        for text in ["/v1.0/a+b", "/$metadata", "/a~b", "/it's", "/v1/models/iris:predict", "/a@b,c;d=e!"] {
            assert!(PathPrefix::try_from(text.to_owned()).is_ok(), "{text}");
        }
    }

    #[test]
    fn json_pointers_are_those_of_rfc_6901() {
        for good in ["", "/", "/predictions/0", "/a~1b/~0", "/a b", "/-", "//"] {
            assert!(JsonPointer::try_from(good.to_owned()).is_ok(), "{good:?}");
        }
        for bad in ["predictions", "predictions/0", "$.predictions", "/a~", "/a~2", "#/a", ".predictions", " /a"] {
            let error = JsonPointer::try_from(bad.to_owned()).expect_err(bad).to_string();
            assert!(error.contains("is not a JSON pointer"), "{error}");
        }
    }

    #[test]
    fn authorities_are_host_names_in_any_case_without_a_port() {
        let parse = |text: &str| Authority::try_from(text.to_owned());
        assert_eq!(parse("Iris.Example.com"), Ok(Authority::Exact("iris.example.com".to_owned())));
        assert_eq!(parse("*.example.com"), Ok(Authority::Suffix(".example.com".to_owned())));
        assert_eq!(parse("[::1]"), Ok(Authority::Exact("[::1]".to_owned())));
        assert_eq!(parse("127.0.0.1"), Ok(Authority::Exact("127.0.0.1".to_owned())));
        assert_eq!(parse("iris.example.com."), Ok(Authority::Exact("iris.example.com".to_owned())));
        assert_eq!(parse("*.example.com."), Ok(Authority::Suffix(".example.com".to_owned())));
        for bad in
            ["", "*", "*.", ".", "*..", "a..", "[::1].", "a:80", "a..b", "a b", "*.*.b", "[::1]:80", "*.[::1]", "a/b"]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
