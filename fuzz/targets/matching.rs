//! Which deployment takes a request: the index finds what trying one after the other finds. The first section has the
//! `match` sections as a JSON object, each other one a request: authority, path, and headers as `name: value`, a line each.

#![no_main]

use std::collections::BTreeMap;

use bluegreen_core::config::{Authority, Config, MatchRules};
use bluegreen_core::routing::decision::Router;
use bluegreen_core::routing::matching::RequestHeaders;
use bluegreen_fuzz::script::parts;
use bluegreen_fuzz::work::bounded;
use libfuzzer_sys::fuzz_target;

/// A request's headers, the first value of each name.
struct Request(BTreeMap<String, Vec<u8>>);

impl RequestHeaders for Request {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.0.get(name).cloned()
    }

    fn joined(&self, name: &str) -> Option<Vec<u8>> {
        self.header(name)
    }
}

fuzz_target!(|input: &[u8]| {
    let parts = parts(input);
    let Ok(serde_json::Value::Object(sections)) = serde_json::from_slice(parts[0]) else { return };
    let mut deployments = serde_json::Map::new();
    for (place, section) in sections.into_iter().enumerate() {
        // Clusters of its own, and a name of its own: what is tried out is its match.
        let colours = serde_json::json!({
            "blue": {"cluster": format!("blue{place}"), "version": "1"},
            "green": {"cluster": format!("green{place}"), "version": "2"}});
        deployments.insert(section.0, serde_json::json!({"match": section.1, "colours": colours}));
    }
    let document = serde_json::json!({"deployments": deployments}).to_string();
    let Ok(config) = Config::from_bytes(document.as_bytes()) else { return };
    let router = Router::new(&config);
    for part in parts.iter().skip(1) {
        let request = read(part);
        let found = bounded(input, 64 << 10, 64, || router.find(&request).map(|(index, _)| index));
        assert_eq!(found, tried(&config, &request), "{document} {:?}", request.0);
    }
});

fn read(bytes: &[u8]) -> Request {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut headers = BTreeMap::new();
    for name in [":authority", ":path"] {
        headers.insert(name.to_owned(), lines.next().unwrap_or_default().to_vec());
    }
    for line in lines {
        let text = String::from_utf8_lossy(line);
        if let Some((name, value)) = text.split_once(": ") {
            headers.entry(name.to_owned()).or_insert_with(|| value.as_bytes().to_vec());
        }
    }
    Request(headers)
}

/// By the Gateway API's order: exact authority, the longest wildcard, none; the longest path; the most headers; the first.
fn tried(config: &Config, request: &Request) -> Option<usize> {
    let authority = String::from_utf8_lossy(&request.0[":authority"]).to_ascii_lowercase();
    let host = match authority.rfind(']') {
        Some(bracket) => &authority[..=bracket],
        None => authority.split(':').next().unwrap_or_default(),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let path = request.0[":path"].split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
    let mut best: Option<((usize, usize, usize), usize)> = None;
    for (index, rules) in config.deployments.values().map(|deployment| &deployment.rules).enumerate() {
        for prefix in rules.prefixes() {
            let Some(rank) = rank(rules, prefix, host, path, request) else { continue };
            if best.is_none_or(|(known, _)| rank > known) {
                best = Some((rank, index));
            }
        }
    }
    best.map(|(_, index)| index)
}

fn rank(rules: &MatchRules, prefix: &str, host: &str, path: &[u8], request: &Request) -> Option<(usize, usize, usize)> {
    let by_authority = match &rules.authority {
        Some(Authority::Exact(name)) => (name == host).then_some(usize::MAX)?,
        Some(Authority::Suffix(suffix)) => {
            (host.len() > suffix.len() && host.ends_with(suffix.as_str())).then_some(suffix.len())?
        }
        None => 0,
    };
    let rest = path.strip_prefix(prefix.as_bytes())?;
    if !prefix.is_empty() && !matches!(rest.first(), None | Some(b'/' | b':')) {
        return None;
    }
    let all = rules
        .headers
        .iter()
        .all(|(name, value)| request.0.get(name.as_str()).is_some_and(|given| given == value.as_bytes()));
    all.then_some((by_authority, prefix.len(), rules.headers.len()))
}
