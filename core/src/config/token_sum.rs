//! A token that the configuration knows by its SHA-256 only, so that a configuration dump gives no access away.

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::json::{FieldError, FromJson, Json};

/// The SHA-256 of a token, written as 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSum([u8; 32]);

// === impl TokenSum ===

impl TokenSum {
    /// The sum of a token that somebody presents.
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Whether both are of the same token. The time that it takes tells nothing about either.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Serialize for TokenSum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl FromJson for TokenSum {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        let mut sum = [0; 32];
        // The value is not repeated in the error: it may be the token itself.
        hex::decode_to_slice(json.as_text().unwrap_or_default(), &mut sum).map_err(|_| {
            FieldError::new("the SHA-256 of a token has 64 hexadecimal digits: printf %s TOKEN | sha256sum")
        })?;
        Ok(Self(sum))
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for TokenSum {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TokenSum".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        crate::model::schema::text("^[0-9a-fA-F]{64}$")
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;

    #[test]
    fn a_token_in_place_of_its_sum_is_not_repeated_in_the_error() {
        for (json, token) in [(r#""hunter2""#, "hunter2"), ("123456", "123456")] {
            let error = json::from_str::<TokenSum>(json).expect_err("not a sum").to_string();
            assert!(!error.contains(token) && error.contains("64 hexadecimal"), "{error}");
        }
    }

    #[test]
    fn a_sum_is_that_of_one_token_alone() {
        let json = r#""9F86D081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08""#;
        let known: TokenSum = json::from_str(json).expect("valid");
        assert!(known.is(&TokenSum::of(b"test")));
        assert!(!known.is(&TokenSum::of(b"test ")) && !known.is(&TokenSum::of(b"")));
    }
}
