//! The cookie of cookie stickiness: found in a request, or issued with the answer.

use xxhash_rust::xxh64::xxh64;

use super::matching::RequestHeaders;
use crate::config::CookieSticky;
use crate::store::lease::Instance;

/// A fresh key for a browser that had none: 16 hexadecimal digits. It names a bucket and grants nothing, so it need not
/// be secret; it must differ from others, also from those that another worker makes in the same nanosecond.
pub fn fresh_key(unix_nanos: u64, worker: Instance, request: u32) -> String {
    let mut parts = Vec::with_capacity(20);
    parts.extend_from_slice(&unix_nanos.to_be_bytes());
    parts.extend_from_slice(&worker.get().to_be_bytes());
    parts.extend_from_slice(&request.to_be_bytes());
    format!("{:016x}", xxh64(&parts, 0))
}

/// The value of the cookie `name` in a request's `cookie` lines (RFC 6265, section 4.2.1); `None` when absent or empty.
///
/// HTTP/2 clients send a line for each cookie, which Envoy puts together; HTTP/1.1 clients send one line, but proxies on
/// the way pass on several. So the lines after the first are asked for only when the first does not have the cookie.
pub fn find(request: &dyn RequestHeaders, name: &str) -> Option<Vec<u8>> {
    let first = request.header("cookie")?;
    let found = find_in(&first, name, |byte| byte == b';').map(<[u8]>::to_vec);
    found.or_else(|| {
        let all = request.joined("cookie")?;
        // Cookies have no commas (section 4.1.1), so here each comma begins a line.
        find_in(all.get(first.len()..)?, name, |byte| matches!(byte, b';' | b',')).map(<[u8]>::to_vec)
    })
}

fn find_in<'h>(pairs: &'h [u8], name: &str, ends_pair: fn(u8) -> bool) -> Option<&'h [u8]> {
    pairs.split(|byte| ends_pair(*byte)).find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        (!value.is_empty()).then_some(value)
    })
}

/// The `set-cookie` header that issues `key` (RFC 6265, section 4.1).
pub fn issue(cookie: &CookieSticky, key: &str) -> String {
    let secure = if cookie.secure { "; Secure" } else { "" };
    let (name, seconds) = (cookie.name.as_str(), cookie.max_age.as_secs());
    format!("{name}={key}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}")
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;
    use crate::model::time::Timestamp;

    /// The `cookie` lines of a request.
    struct Lines<'l>(&'l [&'l [u8]]);

    impl RequestHeaders for Lines<'_> {
        fn header(&self, name: &str) -> Option<Vec<u8>> {
            assert_eq!(name, "cookie");
            self.0.first().map(|line| line.to_vec())
        }

        fn joined(&self, _name: &str) -> Option<Vec<u8>> {
            (!self.0.is_empty()).then(|| self.0.join(&b','))
        }
    }

    #[test]
    fn the_cookie_is_found_among_others_by_its_exact_name() {
        let cases: [(&[u8], Option<&[u8]>); 11] = [
            (b"bg=1", Some(b"1")),
            (b"a=b; bg=1; c=d", Some(b"1")),
            (b"a=b;bg=1", Some(b"1")),
            (b"bg=1,2", Some(b"1,2")),
            (b"xbg=1", None),
            (b"bgx=1", None),
            (b"BG=1", None),
            (b"bg=", None),
            (b"bg", None),
            (b"", None),
            (b"\xff\xfe; bg=\xff", Some(b"\xff")),
        ];
        for (header, value) in cases {
            assert_eq!(find(&Lines(&[header]), "bg").as_deref(), value, "{header:?}");
        }
    }

    #[test]
    fn the_cookie_is_found_in_any_line_and_the_first_one_that_has_a_value_counts() {
        /// The lines, and the value.
        type Case = (&'static [&'static [u8]], Option<&'static [u8]>);
        let cases: [Case; 7] = [
            (&[], None),
            (&[b"a=1", b"bg=2"], Some(b"2")),
            (&[b"a=1; b=2", b"c=3", b"d=4; bg=5; e=6"], Some(b"5")),
            (&[b"", b"bg=2"], Some(b"2")),
            (&[b"bg=1", b"bg=2"], Some(b"1")),
            (&[b"bg=", b"bg=2", b"bg=3"], Some(b"2")),
            (&[b"a=1", b"xbg=2"], None),
        ];
        for (lines, value) in cases {
            assert_eq!(find(&Lines(lines), "bg").as_deref(), value, "{lines:?}");
        }
    }

    #[test]
    fn an_issued_cookie_is_for_the_whole_site_and_out_of_reach_of_scripts() {
        let mut cookie: CookieSticky = json::from_str(r#"{"name": "bg", "max_age": "1h"}"#).expect("valid");
        assert_eq!(issue(&cookie, "a1"), "bg=a1; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax");
        cookie.secure = true;
        assert!(issue(&cookie, "1").ends_with("; Secure"));
    }

    #[test]
    fn keys_made_in_the_same_nanosecond_differ_by_worker_and_request() {
        let store = crate::testing::MemoryStore::default();
        let workers = [0, 1].map(|_| Instance::register(&store, Timestamp::default()));
        let keys: std::collections::BTreeSet<String> =
            workers.into_iter().flat_map(|worker| (0..100).map(move |request| fresh_key(1, worker, request))).collect();
        assert_eq!(keys.len(), 200);
        assert!(keys.iter().all(|key| key.len() == 16));
    }
}
