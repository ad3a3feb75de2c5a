//! `If-Match`: a write that only happens on the revision that its author saw (RFC 9110, section 13.1.1).

use super::problems::Problem;
use crate::change::request::Precondition;
use crate::model::split::Revision;

/// The precondition that the header states; any revision when it is absent, or `*`. Entity tags that are no revision match
/// none.
///
/// # Errors
/// It is no list of entity tags.
pub fn parse(header: Option<&[u8]>) -> Result<Precondition, Problem> {
    let Some(header) = header else { return Ok(Precondition::Any) };
    let malformed = || Problem::MalformedIfMatch(String::from_utf8_lossy(header).into_owned());
    let text = std::str::from_utf8(header).map_err(|_| malformed())?.trim();
    if text == "*" {
        return Ok(Precondition::Any);
    }
    let mut revisions = Vec::new();
    for tag in text.split(',').map(str::trim) {
        let (weak, quoted) = tag.strip_prefix("W/").map_or((false, tag), |quoted| (true, quoted));
        let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(malformed)?;
        // A weak tag never matches here: the comparison is the strong one.
        if let (false, Ok(number)) = (weak, inner.parse()) {
            revisions.push(Revision::new(number));
        }
    }
    Ok(Precondition::Revisions(revisions))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn only_the_named_revisions_may_be_written_on() {
        let cases = [
            (None, true),
            (Some("*"), true),
            (Some("\"7\""), true),
            (Some("\"6\", \"7\""), true),
            (Some("\"6\""), false),
            (Some("W/\"7\""), false),
            (Some("\"x\""), false),
        ];
        for (header, allowed) in cases {
            let parsed = parse(header.map(str::as_bytes)).expect("well-formed");
            assert_eq!(parsed.allows(Revision::new(7)), allowed, "{header:?}");
        }
    }

    #[test]
    fn what_is_no_entity_tag_is_refused() {
        for header in ["7", "", "\"7", "\"7\",", "\"7\" \"8\" 9"] {
            assert!(parse(Some(header.as_bytes())).is_err(), "{header:?}");
        }
        assert!(parse(Some(b"\xff")).is_err());
    }
}
