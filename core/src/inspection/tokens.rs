//! The demo's tokens, which everybody knows, where they are not the demo's.

use super::earlier;
use crate::change::context::Context;
use crate::config::{Access, PUBLISHED, Token, TokenSum};
use crate::model::address::is_loopback;
use crate::routing::incoming::Cadence;
use crate::setup::{self, SetupProblem};

/// The published tokens of a listener, which matter once it is reached from another machine.
#[derive(Debug)]
pub struct PublishedTokens {
    access: Access,
    cadence: Cadence,
}

/// Notes a published token that has got into another configuration than the demo's.
pub fn configured(context: &Context, access: &Access) {
    match published(access).find(|(token, holder)| token.name.as_str() != *holder) {
        Some((token, _)) => note(context, token, "this is not the demo's configuration"),
        None => earlier::forget(context, context.deployments.all(), SetupProblem::DemoToken),
    }
}

// === impl PublishedTokens ===

impl PublishedTokens {
    /// Those of a listener; none if it has none.
    pub fn of(access: &Access) -> Option<Self> {
        published(access).next()?;
        Some(Self { access: access.clone(), cadence: Cadence::default() })
    }

    /// Whether it matters at which address the request has come that is there now.
    pub fn wants_address(&self) -> bool {
        self.cadence.takes_next()
    }

    /// Takes up the address at which a request has come.
    pub fn reached_at(&self, context: &Context, address: &str) {
        if let Some((token, _)) = published(&self.access).next().filter(|_| !is_loopback(address)) {
            note(context, token, &format!("the listener can be reached at {address}"));
        }
    }
}

fn note(context: &Context, token: &Token, why: &str) {
    let (name, role) = (&token.name, token.role);
    let detail = format!(
        "admin.tokens has a token that is published with the demo, as {name} ({role}), and {why}: replace it with a token of your own, printf %s \"$TOKEN\" | sha256sum"
    );
    for deployment in context.deployments.all() {
        setup::note(&*context.host, deployment, SetupProblem::DemoToken, detail.clone());
    }
}

fn published(access: &Access) -> impl Iterator<Item = (&Token, &'static str)> {
    let known = PUBLISHED.map(|(holder, token)| (holder, TokenSum::of(token.as_bytes())));
    access.tokens.iter().filter_map(move |token| {
        let (holder, _) = known.iter().find(|(_, sum)| sum.is(&token.sha256))?;
        Some((token, *holder))
    })
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::rc::Rc;
    use std::time::Duration;

    use sha2::{Digest, Sha256};

    use super::*;
    use crate::json;
    use crate::setup::noted;
    use crate::testing::host::TestHost;
    use crate::testing::{config_of, context_of, iris};

    fn access(name: &str, token: &str) -> Access {
        let sum = hex::encode(Sha256::digest(token));
        let json = serde_json::json!({"tokens": [{"name": name, "role": "operator", "sha256": sum}]});
        json::from_value(&json).expect("valid")
    }

    #[test]
    fn a_published_token_under_another_name_is_noted_until_it_is_replaced() {
        let (host, context) = context_of("");
        let detail = || noted(&host.store, &iris()).remove(&SetupProblem::DemoToken).map(|noted| noted.detail);
        configured(&context, &access("demo-operator", "demo-operator-token"));
        assert_eq!(detail(), None);
        configured(&context, &access("alice", "demo-operator-token"));
        assert!(detail().is_some_and(|detail| detail.contains("as alice (operator)")));
        host.pass(Duration::from_secs(2));
        let pushed = Context::new(Rc::<TestHost>::clone(&host), &config_of(""), None);
        configured(&pushed, &access("alice", "a better one"));
        assert_eq!(detail(), None);
    }

    #[test]
    fn the_demos_own_tokens_are_noted_once_the_listener_is_reached_from_elsewhere() {
        for (address, expected) in [
            ("127.0.0.1:10001", false),
            ("127.8.8.8:1", false),
            ("[::1]:10001", false),
            ("[::ffff:127.0.0.1]:1", false),
            ("/run/envoy.sock", false),
            ("10.0.0.7:10001", true),
            ("[2001:db8::1]:10001", true),
            ("0.0.0.0:10001", true),
        ] {
            let (host, context) = context_of("");
            let tokens = PublishedTokens::of(&access("demo-operator", "demo-operator-token")).expect("published");
            assert!(tokens.wants_address());
            tokens.reached_at(&context, address);
            let detail = noted(&host.store, &iris()).remove(&SetupProblem::DemoToken).map(|noted| noted.detail);
            assert_eq!(detail.is_some_and(|detail| detail.contains(address)), expected, "{address}");
            assert!(PublishedTokens::of(&access("alice", "a better one")).is_none());
        }
    }
}
