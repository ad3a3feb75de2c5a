//! Whether a cache that many clients share may keep an answer (RFC 9111). What is in such an answer reaches all of them.

/// Whether the values of `cache-control`, joined by commas, mark the answer for shared caches: `public`, or a lifetime,
/// and neither `private` nor `no-store`.
///
/// A lifetime of 0 is no mark: servers send it to turn caching off. `private="name"` is about that header only, and so
/// takes back nothing here.
pub fn is_marked_shareable(cache_control: &[u8]) -> bool {
    let (mut public, mut for_all, mut for_shared) = (false, None, None);
    for directive in cache_control.split(|byte| *byte == b',') {
        let mut parts = directive.splitn(2, |byte| *byte == b'=');
        let name = parts.next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
        let argument = parts.next();
        match (name.as_slice(), argument) {
            (b"no-store", _) | (b"private", None) => return false,
            (b"public", _) => public = true,
            (b"max-age", Some(lifetime)) => for_all = Some(is_some_time(lifetime)),
            // For shared caches it stands above max-age.
            (b"s-maxage", Some(lifetime)) => for_shared = Some(is_some_time(lifetime)),
            _ => {}
        }
    }
    public || for_shared.or(for_all).unwrap_or(false)
}

/// Whether a lifetime, in seconds and perhaps in quotes, is other than 0. What is no number is taken for some time.
fn is_some_time(lifetime: &[u8]) -> bool {
    let digits = lifetime.trim_ascii();
    let digits = digits.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(digits);
    digits.is_empty() || digits.iter().any(|byte| *byte != b'0')
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn public_or_a_lifetime_is_a_mark_that_private_and_no_store_take_back() {
        for (value, marked) in [
            ("", false),
            ("public", true),
            ("Public, Max-Age=60", true),
            ("max-age=60", true),
            (" max-age = 60 ", true),
            ("max-age=\"60\"", true),
            ("s-maxage=60", true),
            ("must-revalidate,s-maxage=60", true),
            ("max-age=60, private", false),
            ("private, max-age=60", false),
            ("public, no-store", false),
            ("PRIVATE", false),
            ("no-cache", false),
            ("no-transform", false),
            ("x-max-age=60", false),
            ("publicly", false),
        ] {
            assert_eq!(is_marked_shareable(value.as_bytes()), marked, "{value}");
        }
    }

    #[test]
    fn a_lifetime_of_zero_is_no_mark_and_that_for_shared_caches_stands_above_the_other() {
        for (value, marked) in [
            ("max-age=0", false),
            ("no-cache, max-age=0, must-revalidate", false),
            ("s-maxage=0, max-age=60", false),
            ("s-maxage=60, max-age=0", true),
            ("public, max-age=0", true),
            ("max-age=soon", true),
            ("max-age=", true),
            ("max-age", false),
        ] {
            assert_eq!(is_marked_shareable(value.as_bytes()), marked, "{value}");
        }
    }

    #[test]
    fn what_is_private_for_one_header_only_is_shared_otherwise() {
        assert!(is_marked_shareable(b"public, private=\"x-user\""));
        assert!(is_marked_shareable(b"max-age=5, private=\"x-user, x-other\""));
        assert!(!is_marked_shareable(b"\xff=\xfe, =, ,"));
    }
}
