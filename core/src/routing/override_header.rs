//! What a tester asks for by the override header: a colour, with a token where the deployment wants one.

use crate::config::{Override, OverrideToken, TokenSum};
use crate::model::colour::Colour;

/// The colour that a value of the override header stands for, if the sender may ask.
pub fn colour(by: &Override, value: &[u8]) -> Option<Colour> {
    let Some(tokens) = &by.tokens else { return Colour::from_header(value) };
    let colon = value.iter().position(|byte| *byte == b':')?;
    let (colour, token) = value.split_at_checked(colon)?;
    let colour = Colour::from_header(colour)?;
    is_known(tokens, token.get(1..)?).then_some(colour)
}

/// Whether `token` is one of these. All sums are compared, each in constant time, so that the time taken tells nothing.
fn is_known(tokens: &[OverrideToken], token: &[u8]) -> bool {
    let sum = TokenSum::of(token);
    tokens.iter().fold(false, |found, known| found | known.sha256.is(&sum))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;

    /// The sum of `test`, and one to be filled in.
    const TOKENS: &str = r#"{"header": "x-want", "tokens": [
        {"name": "qa", "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
        {"name": "ci", "sha256": "SUM"}]}"#;

    fn with_tokens() -> Override {
        use sha2::{Digest, Sha256};
        let json = TOKENS.replace("SUM", &hex::encode(Sha256::digest("a:b")));
        json::from_str(&json).expect("valid")
    }

    #[test]
    fn without_tokens_every_client_may_ask() {
        let open: Override = json::from_str(r#"{"header": "x-want"}"#).expect("valid");
        assert_eq!(colour(&open, b"green"), Some(Colour::Green));
        for value in [&b"green:test"[..], b"Green", b"green:", b""] {
            assert_eq!(colour(&open, value), None);
        }
    }

    #[test]
    fn with_tokens_a_wrong_or_missing_one_chooses_nothing() {
        let by = with_tokens();
        let cases: [(&[u8], Option<Colour>); 13] = [
            (b"green:test", Some(Colour::Green)),
            (b"blue:test", Some(Colour::Blue)),
            (b"green:a:b", Some(Colour::Green)),
            (b"green", None),
            (b"green:", None),
            (b"green:Test", None),
            (b"green:test ", None),
            (b"green: test", None),
            (b"green:test,green:test", None),
            (b"test", None),
            (b":test", None),
            (b"red:test", None),
            (b"green:\xff", None),
        ];
        for (value, expected) in cases {
            assert_eq!(colour(&by, value), expected, "{}", value.escape_ascii());
        }
    }
}
