//! Cookies, sticky keys and what a tester asks for. The input has the cookie's name, a share in hundredths of a percent, and
//! a key or the override header's value, each in a line; the rest are the `cookie` lines.

#![no_main]

use std::cell::Cell;
use std::sync::LazyLock;

use bluegreen_core::config::{Config, StickyKey};
use bluegreen_core::model::colour::Colour;
use bluegreen_core::model::name::{DeploymentName, Version};
use bluegreen_core::model::percent::Percent;
use bluegreen_core::model::split::Split;
use bluegreen_core::routing::cookie;
use bluegreen_core::routing::decision::{ByOverride, Rotations, Router};
use bluegreen_core::routing::matching::RequestHeaders;
use bluegreen_core::routing::rotation::Seed;
use bluegreen_core::routing::sticky::Buckets;
use bluegreen_core::store::lease::Instance;
use bluegreen_core::testing::MemoryStore;
use bluegreen_core::testing::host::START;
use bluegreen_fuzz::script::split_line;
use bluegreen_fuzz::work::bounded;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

struct Request<'r> {
    cookies: Vec<&'r [u8]>,
    wish: &'r [u8],
    asked: Cell<usize>,
}

impl RequestHeaders for Request<'_> {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.asked.set(self.asked.get() + 1);
        match name {
            "cookie" => self.cookies.first().map(|line| line.to_vec()),
            "x-want" => (!self.wish.is_empty()).then(|| self.wish.to_vec()),
            _ => None,
        }
    }

    fn joined(&self, name: &str) -> Option<Vec<u8>> {
        (name == "cookie").then(|| self.cookies.join(&b','))
    }
}

/// The configuration without the name of the cookie, and with it.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let sum = hex::encode(Sha256::digest("secret"));
    format!(
        r#"{{"deployments": {{"iris": {{"colours": {{
            "blue": {{"cluster": "blue", "version": "1"}}, "green": {{"cluster": "green", "version": "2"}}}},
            "sticky": {{"cookie": {{"name": NAME, "max_age": "1h", "secure": true}}}},
            "override": {{"header": "x-want", "tokens": [{{"name": "qa", "sha256": "{sum}"}}]}}}}}}}}"#
    )
});

fuzz_target!(|input: &[u8]| {
    let (name, rest) = split_line(input);
    let (share, rest) = split_line(rest);
    let (wish, cookies) = split_line(rest);
    let name = serde_json::json!(String::from_utf8_lossy(name)).to_string();
    let Ok(config) = Config::from_bytes(DOCUMENT.replace("NAME", &name).as_bytes()) else { return };
    let Some(StickyKey::Cookie(section)) = config.deployments["iris"].sticky.as_ref().map(|sticky| &sticky.key) else {
        panic!("no cookie");
    };
    let share = std::str::from_utf8(share).ok().and_then(|text| text.parse().ok()).unwrap_or(5_000_u16);
    let share = Percent::from_hundredths(share % 10_001).expect("in range");
    let request = Request { cookies: cookies.split(|byte| *byte == b'\n').collect(), wish, asked: Cell::new(0) };

    let found = bounded(input, 4 << 10, 8, || cookie::find(&request, section.name.as_str()));
    if let Some(found) = &found {
        assert!(!found.is_empty() && !found.contains(&b';'), "{}", found.escape_ascii());
    }
    // What was issued is found, in whatever comes along with it.
    let issued = cookie::issue(section, "00ff");
    assert!(issued.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{issued}");
    let pair = issued.split(';').next().expect("a pair").as_bytes().to_vec();
    let mut lines = vec![pair.as_slice()];
    lines.extend(&request.cookies);
    let with = Request { cookies: lines, wish, asked: Cell::new(0) };
    assert_eq!(cookie::find(&with, section.name.as_str()).as_deref(), Some(&b"00ff"[..]));

    let (iris, store) = (DeploymentName::new("iris").expect("valid"), MemoryStore::default());
    let buckets = Buckets::new(&iris, &Version::new("2").expect("valid"), None);
    let key = found.clone().unwrap_or_default();
    let higher = Percent::from_hundredths(share.hundredths().saturating_add(100).min(10_000)).expect("in range");
    let hash = buckets.hash(&key);
    assert!(!Buckets::choose(hash, share) || Buckets::choose(hash, higher), "a growing share loses nobody");

    let router = Router::new(&config);
    let (_, choice) = router.find(&request).expect("every request");
    let split = Split { canary_percent: share, ..Split::default() };
    let mut rotations = Rotations::new(Seed::new(Instance::register(&store, START), 1, &iris));
    request.asked.set(0);
    let decision = choice.decide(&split, buckets, &mut rotations, &request, || "00ff".to_owned());
    assert!(request.asked.get() <= 6, "each question costs a call to the host");
    let allowed = match wish {
        b"blue:secret" => Some(Colour::Blue),
        b"green:secret" => Some(Colour::Green),
        _ => None,
    };
    assert_eq!(decision.by_override == ByOverride::Chosen, allowed.is_some());
    if let Some(colour) = allowed {
        assert_eq!((decision.colour, decision.shadow, decision.set_cookie), (colour, None, None));
    } else if let Some(key) = found.filter(|_| share > Percent::ZERO && share < Percent::ALL) {
        assert_eq!(decision.colour == Colour::Green, Buckets::choose(buckets.hash(&key), share));
        assert_eq!(decision.set_cookie, None);
    }
});
