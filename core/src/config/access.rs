//! Who may call the admin API, and where it is found.

use std::fmt;

use serde::Serialize;

use super::pattern::{Broken, PathPrefix};
use super::token_sum::TokenSum;
use crate::json::{FieldError, FromJson, Json};
use crate::model::name::{HolderName, SecretName};

/// The `admin` section.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// The path under which the API answers.
    #[serde(default = "default_prefix", deserialize_with = "deserialize_prefix")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = default_prefix().as_str())))]
    pub path_prefix: PathPrefix,
    /// Who may call it. No one, when empty and not `open`.
    #[serde(default)]
    pub tokens: Vec<Token>,
    /// A Secret of Kubernetes with more of them, in the namespace of the section `kubernetes`. Its keys are `operator`, `viewer`,
    /// `operator.NAME` and `viewer.NAME`, its values the tokens themselves.
    #[serde(default)]
    pub tokens_secret: Option<SecretName>,
    /// Everybody may do everything: a demo on loopback, nothing else.
    #[serde(default)]
    pub open: bool,
}

/// A bearer token, known by its SHA-256 only, so that a configuration dump gives no access away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Who holds it; changes are recorded under this name.
    pub name: HolderName,
    /// What the holder may do.
    pub role: Role,
    /// SHA-256 of the token, 64 hexadecimal digits.
    pub sha256: TokenSum,
}

/// What a token's holder may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read.
    Viewer,
    /// Read and change.
    Operator,
}

/// The longest token that anybody can have, in bytes.
pub const LONGEST_TOKEN: usize = 1_024;

/// The tokens that are published with the demo, with the names that the demo's own files give their holders.
pub const PUBLISHED: [(&str, &str); 2] =
    [("demo-operator", "demo-operator-token"), ("demo-viewer", "demo-viewer-token")];

fn default_prefix() -> PathPrefix {
    PathPrefix::literal("/bluegreen".to_owned())
}

fn deserialize_prefix(json: &Json<'_>) -> Result<PathPrefix, FieldError> {
    let prefix = PathPrefix::from_json(json)?;
    if prefix.as_str().is_empty() {
        return Err(FieldError::new("\"/\" would take everything: use a path such as /bluegreen"));
    }
    Ok(prefix)
}

// === impl Access ===

impl Access {
    /// The rules that span more than one field. `has_kubernetes`: there is a section `kubernetes`.
    pub(super) fn check(&self, has_kubernetes: bool) -> Result<(), Broken> {
        if self.tokens_secret.is_some() {
            let problem = match (self.open, has_kubernetes) {
                (true, _) => "everybody may do everything, with or without a token: leave out open, or the Secret",
                (_, false) => {
                    "the section kubernetes, which says where the Secret is, is missing: add it, or list tokens"
                }
                (false, true) => "",
            };
            if !problem.is_empty() {
                return Err(("tokens_secret".to_owned(), problem.to_owned()));
            }
        }
        if self.open && !self.tokens.is_empty() {
            let problem = "everybody may do everything, with or without a token: leave out open, or the tokens";
            return Err(("open".to_owned(), problem.to_owned()));
        }
        for (place, token) in self.tokens.iter().enumerate() {
            if let Some(other) = self.tokens.iter().take(place).find(|other| other.sha256.is(&token.sha256)) {
                let problem = format!(
                    "it is the token of {} ({}) too: one token has one holder and one role",
                    other.name, other.role
                );
                return Err((format!("tokens[{place}].sha256"), problem));
            }
        }
        Ok(())
    }
}

// === impl Role ===

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
        })
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;

    #[test]
    fn an_empty_section_is_an_api_that_nobody_may_call() {
        let access: Access = json::from_str("{}").expect("valid");
        assert_eq!(access.path_prefix.as_str(), "/bluegreen");
        assert!(access.tokens.is_empty() && !access.open);
    }

    #[test]
    fn a_secret_needs_a_cluster_to_read_it_through_and_may_stand_beside_tokens() {
        let sum = "0".repeat(64);
        let cases = [
            (String::new(), true, None),
            (format!(r#", "tokens": [{{"name": "ci", "role": "operator", "sha256": "{sum}"}}]"#), true, None),
            (String::new(), false, Some("section kubernetes")),
            (r#", "open": true"#.to_owned(), true, Some("leave out open")),
        ];
        for (more, has_kubernetes, problem) in cases {
            let json = format!(r#"{{"tokens_secret": "bluegreen-admin-tokens"{more}}}"#);
            let checked = json::from_str::<Access>(&json).expect("readable").check(has_kubernetes);
            match problem {
                None => assert_eq!(checked, Ok(()), "{json}"),
                Some(words) => {
                    let (field, text) = checked.expect_err(words);
                    assert!(field == "tokens_secret" && text.contains(words), "{json}: {text}");
                }
            }
        }
    }

    #[test]
    fn the_name_of_a_secret_is_one_that_kubernetes_takes() {
        for (name, is_good) in
            [("a", true), ("a.b-c", true), ("A", false), ("a/b", false), ("a..b", false), ("", false)]
        {
            let json = serde_json::json!({"tokens_secret": name});
            assert_eq!(json::from_value::<Access>(&json).is_ok(), is_good, "{name:?}");
        }
    }
}
