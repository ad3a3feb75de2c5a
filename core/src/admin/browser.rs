//! What a web page could have a browser send.
//!
//! A page of any site can have the browser of its visitor send requests to this API. It cannot give them a token, but it
//! needs none where the API is open. Browsers say where a request comes from: `Sec-Fetch-Site` (W3C, Fetch Metadata) and
//! `Origin` (RFC 6454). A page whose own name was made to lead here (DNS rebinding) counts as the same site, and has its name
//! in `Host`.

use super::problems::Problem;
use crate::config::Access;
use crate::model::address::{is_loopback, is_loopback_host};

/// What a request says about where it comes from and where it has arrived. Nothing in it is trusted.
#[derive(Clone, Debug, Default)]
pub struct Provenance {
    /// `:authority`, which is `Host`.
    pub authority: Vec<u8>,
    /// `origin`.
    pub origin: Option<Vec<u8>>,
    /// `sec-fetch-site`.
    pub fetch_site: Option<Vec<u8>>,
    /// The address, with its port, at which it has reached this Envoy, if Envoy says so.
    pub reached_at: Option<String>,
}

// === impl Provenance ===

impl Provenance {
    /// Refuses what a page of another site had sent, and what an open API must not take.
    ///
    /// # Errors
    /// Where it comes from, or where it has arrived.
    pub fn check(&self, access: &Access) -> Result<(), Problem> {
        if let Some(site) = &self.fetch_site
            && !matches!(site.as_slice(), b"same-origin" | b"none")
        {
            return Err(Problem::CrossOrigin(format!("Sec-Fetch-Site: {}", text(site))));
        }
        if let Some(origin) = &self.origin
            && !self.is_own(origin)
        {
            return Err(Problem::CrossOrigin(format!("Origin: {}", text(origin))));
        }
        if !access.open {
            return Ok(());
        }
        match &self.reached_at {
            Some(address) if !is_loopback(address) => return Err(Problem::OpenElsewhere(address.clone())),
            _ => {}
        }
        let host = text(&self.authority);
        if is_loopback_host(&host) { Ok(()) } else { Err(Problem::ForeignHost(host)) }
    }

    /// Whether an origin is the one that the request was sent to.
    fn is_own(&self, origin: &[u8]) -> bool {
        let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(&self.authority))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;

    fn verdict(
        open: bool,
        host: &str,
        origin: Option<&str>,
        site: Option<&str>,
        reached_at: Option<&str>,
    ) -> &'static str {
        let access: Access = json::from_value(&serde_json::json!({"open": open})).expect("valid");
        let bytes = |text: &str| text.as_bytes().to_vec();
        let provenance = Provenance {
            authority: bytes(host),
            origin: origin.map(bytes),
            fetch_site: site.map(bytes),
            reached_at: reached_at.map(str::to_owned),
        };
        provenance.check(&access).map_or_else(|problem| problem.kind().1, |()| "taken")
    }

    #[test]
    fn what_a_page_of_another_site_has_sent_is_refused_on_every_api() {
        let local = Some("127.0.0.1:1");
        for (origin, site, expected) in [
            (None, None, "taken"),
            (None, Some("none"), "taken"),
            (Some("http://localhost:1"), Some("same-origin"), "taken"),
            (Some("https://LOCALHOST:1"), None, "taken"),
            (None, Some("cross-site"), "cross-origin"),
            (None, Some("same-site"), "cross-origin"),
            (None, Some("\u{1}"), "cross-origin"),
            (Some("http://example.com"), None, "cross-origin"),
            (Some("http://localhost:2"), None, "cross-origin"),
            (Some("http://localhost:1.example.com"), None, "cross-origin"),
            (Some("null"), None, "cross-origin"),
            (Some(""), None, "cross-origin"),
        ] {
            for open in [true, false] {
                assert_eq!(verdict(open, "localhost:1", origin, site, local), expected, "{origin:?} {site:?}");
            }
        }
    }

    #[test]
    fn an_open_api_is_this_machines_alone() {
        for (host, reached_at, expected) in [
            ("127.0.0.1:1", Some("127.0.0.1:1"), "taken"),
            ("localhost", Some("[::1]:1"), "taken"),
            ("localhost", Some("/run/envoy.sock"), "taken"),
            ("localhost", None, "taken"),
            ("rebound.example.com", Some("127.0.0.1:1"), "foreign-host"),
            ("", Some("127.0.0.1:1"), "foreign-host"),
            ("localhost", Some("10.0.0.7:1"), "open-elsewhere"),
        ] {
            assert_eq!(verdict(true, host, None, None, reached_at), expected, "{host} {reached_at:?}");
            assert_eq!(verdict(false, host, None, None, reached_at), "taken", "with tokens");
        }
    }
}
