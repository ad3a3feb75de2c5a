//! Who calls, and what they may do.

use super::problems::Problem;
use crate::config::{Access, LONGEST_TOKEN, Role, Token, TokenSum};
use crate::model::author::{Author, Source};
use crate::model::name::{HolderName, Reason};

/// A caller that was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    name: HolderName,
    role: Option<Role>,
}

// === impl Caller ===

impl Caller {
    /// A caller without a token, who may do nothing that takes a role.
    pub fn anonymous() -> Self {
        Self { name: HolderName::literal("anonymous"), role: None }
    }

    /// Finds the holder of the token in an `authorization` header, among those of the configuration and those of a Secret.
    ///
    /// # Errors
    /// There is no token, or an unknown one.
    pub fn identify(access: &Access, of_secret: &[Token], authorization: Option<&[u8]>) -> Result<Self, Problem> {
        let known = access.tokens.iter().chain(of_secret);
        let holder = authorization.and_then(bearer).and_then(|token| holder(known, token));
        match holder {
            Some(token) => Ok(Self { name: token.name.clone(), role: Some(token.role) }),
            None if access.open => Ok(Self { role: Some(Role::Operator), ..Self::anonymous() }),
            None => Err(Problem::Unauthenticated { presented: authorization.is_some() }),
        }
    }

    /// The caller as the author of a change.
    pub fn author(&self, reason: Reason) -> Author {
        Author::new(self.name.clone(), Source::Admin, reason)
    }

    /// Checks that the caller has at least `role`; `None` asks for nothing.
    ///
    /// # Errors
    /// The role is too low.
    pub fn require(&self, role: Option<Role>) -> Result<(), Problem> {
        match (role, self.role) {
            (None, _) | (Some(Role::Viewer), Some(_)) | (Some(Role::Operator), Some(Role::Operator)) => Ok(()),
            (Some(_), _) => Err(Problem::Forbidden { name: self.name.to_string() }),
        }
    }
}

/// The token of a `Bearer` credential (RFC 6750, section 2.1; the scheme in any case).
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// The holder of `token`. All sums are compared, each in constant time, so that the time taken tells nothing.
fn holder<'a>(tokens: impl Iterator<Item = &'a Token>, token: &[u8]) -> Option<&'a Token> {
    // A sum takes time, which nobody is to waste without a token.
    if token.len() > LONGEST_TOKEN {
        return None;
    }
    let sum = TokenSum::of(token);
    tokens.fold(None, |found, known| if known.sha256.is(&sum) { Some(known) } else { found })
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use sha2::{Digest, Sha256};

    use super::*;
    use crate::json;

    fn access(open: bool) -> Access {
        let sum = |token: &str| hex::encode(Sha256::digest(token));
        let json = serde_json::json!({"open": open, "tokens": [
            {"name": "alice", "role": "operator", "sha256": sum("secret-a")},
            {"name": "victor", "role": "viewer", "sha256": sum("secret-v")},
        ]});
        json::from_value(&json).expect("valid")
    }

    #[test]
    fn a_token_leads_to_its_holder_and_nothing_else_does() {
        let cases: [(&[u8], Option<&str>); 9] = [
            (b"Bearer secret-a", Some("alice")),
            (b"bearer secret-v", Some("victor")),
            (b"Bearer  secret-a ", Some("alice")),
            (b"Bearer secret-x", None),
            (b"Bearer ", None),
            (b"Bearer", None),
            (b"Basic secret-a", None),
            (b"secret-a", None),
            (b"Bearer \xff\xfe", None),
        ];
        for (header, name) in cases {
            let caller = Caller::identify(&access(false), &[], Some(header));
            assert_eq!(caller.ok().as_ref().map(|caller| caller.name.as_str()), name, "{header:?}");
        }
        assert!(Caller::identify(&access(false), &[], None).is_err());
    }

    #[test]
    fn an_open_api_lets_everybody_in_and_still_names_those_it_knows() {
        for (header, name) in
            [(None, "anonymous"), (Some(&b"Bearer secret-x"[..]), "anonymous"), (Some(b"Bearer secret-v"), "victor")]
        {
            assert_eq!(Caller::identify(&access(true), &[], header).expect("open").name.as_str(), name);
        }
    }

    #[test]
    fn a_viewer_reads_and_an_operator_does_both() {
        let caller = |token: &str| {
            Caller::identify(&access(false), &[], Some(format!("Bearer {token}").as_bytes())).expect("known")
        };
        assert!(caller("secret-v").require(Some(Role::Viewer)).is_ok());
        assert!(caller("secret-v").require(Some(Role::Operator)).is_err());
        assert!(caller("secret-a").require(Some(Role::Operator)).is_ok());
        assert!(Caller::anonymous().require(Some(Role::Viewer)).is_err());
        assert!(Caller::anonymous().require(None).is_ok());
    }
}
