//! The description of this API, as it is served: `docs/openapi.json` without white space, and with the configured prefix.
//!
//! The document is written by hand. Its tests hold it against the routes and the problems, both ways; every other test of the
//! API, in this crate and in a real Envoy, holds an answer against it (`openapi/`).

use super::response::Response;
use crate::config::PathPrefix;

/// What the API answers is described there.
const SOURCE: &[u8] = include_bytes!("../../../docs/openapi.json");

const LENGTH: usize = minified(SOURCE, &mut []);

#[allow(long_running_const_eval, reason = "once for each build, in a fraction of a second")]
static DOCUMENT: [u8; LENGTH] = {
    let mut document = [0; LENGTH];
    minified(SOURCE, &mut document);
    document
};

/// The prefix that the document has in `servers`, as JSON.
const PREFIX: &str = "\"/bluegreen\"";

/// Writes `json` without white space between its parts, as far as there is room. How long all of it is.
#[allow(clippy::arithmetic_side_effects, reason = "the compiler does it, and would fail")]
const fn minified(json: &[u8], mut room: &mut [u8]) -> usize {
    let (mut rest, mut length) = (json, 0);
    let (mut in_text, mut is_escaped) = (false, false);
    while let [byte, after @ ..] = rest {
        rest = after;
        if !in_text && byte.is_ascii_whitespace() {
            continue;
        }
        (in_text, is_escaped) = match (*byte, in_text, is_escaped) {
            (b'"', _, false) => (!in_text, false),
            (b'\\', true, false) => (true, true),
            _ => (in_text, false),
        };
        length += 1;
        if let [first, others @ ..] = room {
            *first = *byte;
            room = others;
        }
    }
    length
}

/// The answer with the description of an API under `prefix`.
pub fn response(prefix: &PathPrefix) -> Response {
    let document = std::str::from_utf8(&DOCUMENT).unwrap_or_default();
    let (before, after) = document.split_once(PREFIX).unwrap_or((document, ""));
    let prefix = serde_json::to_string(prefix.as_str()).unwrap_or_default();
    Response::described([before, &prefix, after, "\n"].concat().into_bytes())
}
