//! Which deployment a request belongs to, found by look-up rather than by trying one deployment after the other.
//!
//! The most specific match wins, by the Gateway API's order of precedence: exact authority, then the longest wildcard,
//! then none; the longest path prefix; the most headers; the first name
//! (<https://gateway-api.sigs.k8s.io/reference/spec/#httprouterule>). The index is built once per configuration; a
//! request then costs a few look-ups per authority level and per length of prefix, however many deployments there are.

use std::collections::BTreeMap;

use crate::config::{Authority, Config, MatchRules};
use crate::deployment::DeploymentIndex;
use crate::model::name::HeaderName;

/// What a decision may ask of a request. Each answer can cost a call to the host, so nothing is asked in vain.
pub trait RequestHeaders {
    /// The first value of a header, or of a pseudo-header such as `:path`.
    fn header(&self, name: &str) -> Option<Vec<u8>>;

    /// All values of a header in their order, joined by commas. It costs more than [`Self::header`].
    fn joined(&self, name: &str) -> Option<Vec<u8>>;
}

/// The index over all `match` sections of a configuration.
#[derive(Debug, Default)]
pub struct Matcher {
    exact: BTreeMap<String, PathTable>,
    wildcards: ByLength<PathTable>,
    any: PathTable,
}

/// The deployments of one authority, by path prefix.
#[derive(Debug, Default)]
struct PathTable(ByLength<HeaderTable>);

/// The deployments of one authority and prefix: groups that ask for the same headers, the most headers first.
#[derive(Debug, Default)]
struct HeaderTable(Vec<HeaderGroup>);

#[derive(Debug)]
struct HeaderGroup {
    names: Vec<HeaderName>,
    /// In the order of the values: most groups have one entry, for which a map is too large.
    by_values: Vec<(Vec<Vec<u8>>, DeploymentIndex)>,
}

/// Values by text, with the lengths that occur: a long request text costs no more look-ups than there are lengths.
#[derive(Debug)]
struct ByLength<T> {
    texts: BTreeMap<Vec<u8>, T>,
    /// Longest first.
    lengths: Vec<usize>,
}

/// A request's headers, each read at most once.
struct ReadOnce<'r> {
    request: &'r dyn RequestHeaders,
    read: Vec<(&'r str, Option<Vec<u8>>)>,
}

// === impl Matcher ===

impl Matcher {
    /// Indexes a configuration's deployments in the order of their names.
    pub fn new(config: &Config) -> Self {
        let mut matcher = Self::default();
        for (index, deployment) in config.deployments.values().enumerate() {
            matcher.insert(&deployment.rules, index);
        }
        matcher
    }

    fn insert(&mut self, rules: &MatchRules, index: DeploymentIndex) {
        let paths = match &rules.authority {
            Some(Authority::Exact(host)) => self.exact.entry(host.clone()).or_default(),
            Some(Authority::Suffix(suffix)) => self.wildcards.entry(suffix.as_bytes()),
            None => &mut self.any,
        };
        for prefix in rules.prefixes() {
            paths.0.entry(prefix.as_bytes()).insert(&rules.headers, index);
        }
    }

    /// The deployment that `request` belongs to.
    pub fn find(&self, request: &dyn RequestHeaders) -> Option<DeploymentIndex> {
        let mut headers = ReadOnce { request, read: Vec::new() };
        if !self.exact.is_empty() || !self.wildcards.is_empty() {
            let host = headers.get(":authority").map(host_of).unwrap_or_default();
            let exact = self.exact.get(&host).and_then(|paths| paths.find(&mut headers));
            if exact.is_some() {
                return exact;
            }
            let wildcards = self
                .wildcards
                .longest_first(|length| host.len().checked_sub(length).and_then(|at| host.as_bytes().get(at..)));
            for (suffix, paths) in wildcards {
                // `*.example.com` stands for at least one label more.
                let found = if host.len() > suffix.len() { paths.find(&mut headers) } else { None };
                if found.is_some() {
                    return found;
                }
            }
        }
        self.any.find(&mut headers)
    }
}

/// An authority's host in lower case, without its port and the dot of a fully qualified name.
fn host_of(authority: &[u8]) -> String {
    let text = String::from_utf8_lossy(authority);
    // The colons of a bracketed IPv6 address are no port.
    let end = match text.rfind(']') {
        Some(bracket) => bracket.saturating_add(1),
        None => text.find(':').unwrap_or(text.len()),
    };
    let host = text.get(..end).unwrap_or_default();
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

// === impl PathTable ===

impl PathTable {
    fn find<'r>(&'r self, headers: &mut ReadOnce<'r>) -> Option<DeploymentIndex> {
        let path = if self.0.needs_text() { headers.get(":path").map(path_of).unwrap_or_default() } else { &[] };
        // KServe and TensorFlow Serving put the verb behind a colon: `/v1/models/iris:predict`.
        // The empty prefix covers every path, also the `*` of an OPTIONS request.
        let on_a_boundary =
            |length: usize| length == 0 || path.get(length).is_none_or(|next| matches!(next, b'/' | b':'));
        let prefixes = self.0.longest_first(|length| path.get(..length).filter(|_| on_a_boundary(length)));
        prefixes.into_iter().find_map(|(_, table)| table.find(headers))
    }
}

/// A `:path` without its query and fragment.
fn path_of(path: &[u8]) -> &[u8] {
    path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default()
}

// === impl HeaderTable ===

impl HeaderTable {
    fn insert(&mut self, rules: &BTreeMap<HeaderName, String>, index: DeploymentIndex) {
        let names: Vec<HeaderName> = rules.keys().cloned().collect();
        let values: Vec<Vec<u8>> = rules.values().map(|value| value.clone().into_bytes()).collect();
        let group = match self.0.iter_mut().position(|group| group.names == names) {
            Some(place) => self.0.get_mut(place),
            None => {
                let place = self.0.partition_point(|group| group.names.len() >= names.len());
                // Of a thousand prefixes nearly all have one group and no more.
                self.0.reserve_exact(1);
                self.0.insert(place, HeaderGroup { names, by_values: Vec::with_capacity(1) });
                self.0.get_mut(place)
            }
        };
        // The same rules twice: the first name wins, and deployments come in the order of their names.
        if let Some(group) = group
            && let Err(place) = group.place(&values)
        {
            group.by_values.insert(place, (values, index));
        }
    }

    fn find<'r>(&'r self, headers: &mut ReadOnce<'r>) -> Option<DeploymentIndex> {
        let mut best: Option<(usize, DeploymentIndex)> = None;
        for group in &self.0 {
            if best.is_some_and(|(names, _)| names > group.names.len()) {
                break;
            }
            if let Some(index) = group.find(headers)
                && best.is_none_or(|(_, earlier)| index < earlier)
            {
                best = Some((group.names.len(), index));
            }
        }
        best.map(|(_, index)| index)
    }
}

impl HeaderGroup {
    fn find<'r>(&'r self, headers: &mut ReadOnce<'r>) -> Option<DeploymentIndex> {
        let mut values = Vec::with_capacity(self.names.len());
        for name in &self.names {
            values.push(headers.get(name.as_str())?.to_vec());
        }
        let place = self.place(&values).ok()?;
        self.by_values.get(place).map(|(_, index)| *index)
    }

    fn place(&self, values: &[Vec<u8>]) -> Result<usize, usize> {
        self.by_values.binary_search_by(|(known, _)| known.as_slice().cmp(values))
    }
}

// === impl ByLength ===

impl<T> Default for ByLength<T> {
    fn default() -> Self {
        Self { texts: BTreeMap::new(), lengths: Vec::new() }
    }
}

impl<T: Default> ByLength<T> {
    fn entry(&mut self, text: &[u8]) -> &mut T {
        if let Err(place) = self.lengths.binary_search_by(|length| text.len().cmp(length)) {
            self.lengths.insert(place, text.len());
        }
        self.texts.entry(text.to_vec()).or_default()
    }
}

impl<T> ByLength<T> {
    fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Whether any text but the empty one is kept.
    fn needs_text(&self) -> bool {
        self.lengths.first().is_some_and(|longest| *longest > 0)
    }

    /// The kept texts among those that `part` cuts out of a request for each length.
    fn longest_first<'t, 'p>(&'t self, part: impl Fn(usize) -> Option<&'p [u8]>) -> Vec<(&'t [u8], &'t T)> {
        let kept = |length: &usize| self.texts.get_key_value(part(*length)?);
        self.lengths.iter().filter_map(kept).map(|(text, value)| (text.as_slice(), value)).collect()
    }
}

// === impl ReadOnce ===

impl<'r> ReadOnce<'r> {
    fn get(&mut self, name: &'r str) -> Option<&[u8]> {
        let place = match self.read.iter().position(|(known, _)| *known == name) {
            Some(place) => place,
            None => {
                self.read.push((name, self.request.header(name)));
                self.read.len().saturating_sub(1)
            }
        };
        self.read.get(place).and_then(|(_, value)| value.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    /// A request that remembers what it was asked for.
    struct Request {
        headers: Vec<(&'static str, Vec<u8>)>,
        asked: RefCell<Vec<String>>,
    }

    impl Request {
        fn new(authority: &str, path: &str, headers: &[(&'static str, &str)]) -> Self {
            let mut all = vec![(":authority", authority.as_bytes().to_vec()), (":path", path.as_bytes().to_vec())];
            all.extend(headers.iter().map(|(name, value)| (*name, value.as_bytes().to_vec())));
            Self { headers: all, asked: RefCell::default() }
        }
    }

    impl RequestHeaders for Request {
        fn header(&self, name: &str) -> Option<Vec<u8>> {
            self.asked.borrow_mut().push(name.to_owned());
            self.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
        }

        fn joined(&self, name: &str) -> Option<Vec<u8>> {
            panic!("no match needs every value of {name}")
        }
    }

    /// Deployments with these names and `match` sections.
    fn config(matches: &[(&str, &str)]) -> Config {
        let entry = |(name, rules): &(&str, &str)| {
            format!(
                r#""{name}": {{"match": {rules}, "colours": {{
                    "blue": {{"cluster": "b", "version": "1"}}, "green": {{"cluster": "g", "version": "2"}}}}}}"#
            )
        };
        let json = format!(r#"{{"deployments": {{{}}}}}"#, matches.iter().map(entry).collect::<Vec<_>>().join(","));
        Config::from_bytes(json.as_bytes()).expect("valid")
    }

    fn found<'c>(config: &'c Config, request: &Request) -> Option<&'c str> {
        let index = Matcher::new(config).find(request)?;
        config.deployments.keys().nth(index).map(crate::model::name::DeploymentName::as_str)
    }

    #[test]
    fn the_most_specific_deployment_wins() {
        let config = config(&[
            ("all", "{}"),
            ("path", r#"{"path_prefix": "/a"}"#),
            ("longer", r#"{"path_prefix": "/a/b"}"#),
            ("exact", r#"{"authority": "iris.example.com"}"#),
            ("wild", r#"{"authority": "*.example.com", "path_prefix": "/a"}"#),
            ("wilder", r#"{"authority": "*.eu.example.com"}"#),
            ("head", r#"{"path_prefix": "/a", "headers": {"x-model": "iris"}}"#),
            ("heads", r#"{"path_prefix": "/a", "headers": {"x-model": "iris", "x-tier": "gold"}}"#),
            ("other-head", r#"{"path_prefix": "/a", "headers": {"x-region": "eu"}}"#),
        ]);
        type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);
        let cases: &[Case] = &[
            ("h", "/", &[], "all"),
            ("h", "/a", &[], "path"),
            ("h", "/a?b/c", &[], "path"),
            ("h", "/ab", &[], "all"),
            ("h", "/a/b/c", &[], "longer"),
            ("h", "/a/bc", &[], "path"),
            ("h", "/a:predict", &[], "path"),
            ("h", "/a/b:explain?c", &[], "longer"),
            ("h", "/ab:predict", &[], "all"),
            ("h", "*", &[], "all"),
            ("h", "", &[], "all"),
            ("iris.example.com", "/a/b", &[], "exact"),
            ("IRIS.example.com:8443", "/a/b", &[], "exact"),
            ("iris.example.com.", "/a/b", &[], "exact"),
            ("iris.example.com.:8443", "/a/b", &[], "exact"),
            ("iris.example.com..", "/a/b", &[], "longer"),
            ("x.example.com.", "/a/b", &[], "wild"),
            (".example.com.", "/a/b", &[], "longer"),
            ("x.example.com", "/a/b", &[], "wild"),
            ("x.y.example.com", "/a", &[], "wild"),
            ("example.com", "/a", &[], "path"),
            ("x.eu.example.com", "/a", &[], "wilder"),
            ("x.example.com", "/z", &[], "all"),
            ("h", "/a", &[("x-model", "iris")], "head"),
            ("h", "/a", &[("x-model", "iris"), ("x-tier", "gold")], "heads"),
            ("h", "/a", &[("x-model", "rose"), ("x-tier", "gold")], "path"),
            ("h", "/a", &[("x-model", "iris"), ("x-region", "eu")], "head"),
            ("h", "/a/b", &[("x-model", "iris")], "longer"),
            ("[::1]:80", "/a", &[], "path"),
        ];
        for (authority, path, headers, expected) in cases {
            let request = Request::new(authority, path, headers);
            assert_eq!(found(&config, &request), Some(*expected), "{authority} {path} {headers:?}");
        }
    }

    #[test]
    fn a_request_that_nobody_wants_has_no_deployment() {
        let config = config(&[("iris", r#"{"path_prefix": "/invocations", "authority": "iris"}"#)]);
        for (authority, path) in [("iris", "/"), ("rose", "/invocations"), ("", ""), ("\u{fffd}", "*")] {
            assert_eq!(found(&config, &Request::new(authority, path, &[])), None);
        }
        let nameless = Request { headers: Vec::new(), asked: RefCell::default() };
        assert_eq!(found(&config, &nameless), None);
    }

    #[test]
    fn a_colon_ends_a_segment_as_a_slash_does() {
        let config = config(&[
            ("explainer", r#"{"path_prefix": "/v1/models/iris:explain"}"#),
            ("iris", r#"{"path_prefix": "/v1/models/iris"}"#),
            ("iris2", r#"{"path_prefix": "/v1/models/iris2"}"#),
        ]);
        for (path, expected) in [
            ("/v1/models/iris", Some("iris")),
            ("/v1/models/iris/versions/2:predict", Some("iris")),
            ("/v1/models/iris:predict", Some("iris")),
            ("/v1/models/iris:predict?a=1", Some("iris")),
            ("/v1/models/iris:explain", Some("explainer")),
            ("/v1/models/iris:explainer", Some("iris")),
            ("/v1/models/iris2:predict", Some("iris2")),
            ("/v1/models/iris3:predict", None),
            ("/v1/models:iris", None),
        ] {
            assert_eq!(found(&config, &Request::new("h", path, &[])), expected, "{path}");
        }
    }

    #[test]
    fn each_of_several_prefixes_competes_with_those_of_other_deployments() {
        let config = config(&[
            ("all", r#"{"path_prefixes": ["/"], "headers": {"x-model": "iris"}}"#),
            ("iris", r#"{"path_prefixes": ["/invocations", "/v1/models/iris"]}"#),
            ("older", r#"{"path_prefixes": ["/v1/models", "/invocations/old", "/v0"]}"#),
        ]);
        for (path, expected) in [
            ("/invocations", Some("iris")),
            ("/v1/models/iris:predict", Some("iris")),
            ("/v1/models/rose", Some("older")),
            ("/invocations/old", Some("older")),
            ("/v0/x", Some("older")),
            ("/v2", None),
        ] {
            assert_eq!(found(&config, &Request::new("h", path, &[])), expected, "{path}");
        }
        assert_eq!(found(&config, &Request::new("h", "/v2", &[("x-model", "iris")])), Some("all"));
    }

    #[test]
    fn of_a_header_that_is_given_twice_the_first_line_counts() {
        let config = config(&[("iris", r#"{"headers": {"x-model": "iris"}}"#), ("rest", "{}")]);
        for (lines, expected) in [(["iris", "rose"], "iris"), (["rose", "iris"], "rest"), (["iris,rose", ""], "rest")] {
            let request = Request::new("h", "/", &lines.map(|value| ("x-model", value)));
            assert_eq!(found(&config, &request), Some(expected), "{lines:?}");
        }
    }

    #[test]
    fn nothing_is_read_that_no_deployment_asks_for() {
        let plain = config(&[("iris", "{}")]);
        let request = Request::new("h", "/a", &[]);
        assert_eq!(found(&plain, &request), Some("iris"));
        assert_eq!(*request.asked.borrow(), Vec::<String>::new());

        let both = config(&[("a", r#"{"headers": {"x": "1"}}"#), ("b", r#"{"headers": {"x": "2"}}"#), ("c", "{}")]);
        let request = Request::new("h", "/a", &[("x", "2")]);
        assert_eq!(found(&both, &request), Some("b"));
        assert_eq!(*request.asked.borrow(), ["x"]);
    }

    #[test]
    fn a_long_path_costs_no_more_than_the_prefixes_configured() {
        let config = config(&[("iris", r#"{"path_prefix": "/a"}"#)]);
        let matcher = Matcher::new(&config);
        assert_eq!(matcher.any.0.lengths, [2]);
        assert_eq!(matcher.find(&Request::new("h", &"/a".repeat(100_000), &[])), Some(0));
    }

    #[test]
    fn a_thousand_deployments_by_header_are_one_read_and_one_look_up() {
        let names: Vec<(String, String)> =
            (0..1_000).map(|n| (format!("d{n}"), format!(r#"{{"headers": {{"x-model": "m{n}"}}}}"#))).collect();
        let config = config(&names.iter().map(|(name, rules)| (name.as_str(), rules.as_str())).collect::<Vec<_>>());
        let request = Request::new("h", "/", &[("x-model", "m777")]);
        assert_eq!(found(&config, &request), Some("d777"));
        assert_eq!(*request.asked.borrow(), ["x-model"]);
    }
}
