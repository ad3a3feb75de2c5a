//! The admin API's tokens in a Secret.
//!
//! Each key is a role, perhaps with a holder: `operator`, `viewer`, `operator.alice`. The tokens themselves stay at the API
//! server: this Envoy's workers share their sums.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use crate::config::{Config, Kubernetes, LONGEST_TOKEN, PUBLISHED, Role, Token, TokenSum};
use crate::host::Host;
use crate::host::http::{HttpReply, HttpRequest};
use crate::json;
use crate::model::name::{HolderName, SecretName};
use crate::model::one_line::is_hidden;
use crate::store::key::Key;
use crate::store::{Store, StoreError, update};

/// A Secret, and where it is.
#[derive(Clone, Debug)]
pub struct TokenSecret {
    api: Kubernetes,
    name: SecretName,
}

/// What came of reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What it has, and what is wrong with the rest.
    Read(Vec<Token>, Option<String>),
    /// There is none, and what to do.
    Missing(String),
    /// The API server refuses to show it, and what to do.
    Refused(String),
    /// The API server did not answer, or not as one does.
    Away(String),
}

/// The shortest token that is taken, in characters.
const SHORTEST: usize = 20;

/// A text with fewer letters than this is typed, not drawn.
const FEWEST_LETTERS: usize = 6;

/// What stands in manifests where a token belongs.
const PLACEHOLDERS: [&str; 6] = ["replace", "changeme", "change-me", "change_me", "placeholder", "your-token"];

/// So many keys are taken: at each call all sums are compared.
const KEYS: usize = 32;

/// The most of what the API server says that is repeated, in characters.
const LONGEST_MESSAGE: usize = 160;

// === impl TokenSecret ===

impl TokenSecret {
    /// The one that a configuration names.
    pub fn of(config: &Config) -> Option<Self> {
        let name = config.admin.as_ref()?.tokens_secret.clone()?;
        Some(Self { api: config.kubernetes.clone()?, name })
    }

    /// A number that stands for it.
    pub fn number(&self) -> u64 {
        let place = format!("{} {} {}", self.api.cluster, self.api.namespace, self.name);
        xxhash_rust::xxh64::xxh64(place.as_bytes(), 0)
    }

    /// The tokens that it was last seen to have; none while the store is out of reach.
    pub fn known(&self, store: &dyn Store) -> Vec<Token> {
        let stored = store.read(&self.key()).ok().and_then(|stored| stored.value).unwrap_or_default();
        json::from_slice(&stored).unwrap_or_default()
    }

    /// Keeps these for all workers of this Envoy.
    ///
    /// # Errors
    /// The store cannot be reached.
    pub fn keep(&self, store: &dyn Store, tokens: &[Token]) -> Result<bool, StoreError> {
        update(store, &self.key(), &mut |before| {
            let after = serde_json::to_vec(tokens).ok()?;
            (before.value.as_ref() != Some(&after)).then_some(after)
        })
    }

    /// Asks the API server for it.
    pub async fn read(&self, host: &dyn Host) -> Answer {
        let Kubernetes { cluster, namespace, host: authority, timeout } = &self.api;
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{}", self.name);
        let mut request = HttpRequest::new(cluster, authority.as_str(), "GET", &path, *timeout);
        request.headers.push(("accept".to_owned(), "application/json".to_owned()));
        self.understand(&host.http(&request).await)
    }

    fn understand(&self, reply: &HttpReply) -> Answer {
        let (namespace, name) = (&self.api.namespace, &self.name);
        let (status, body) = match reply {
            HttpReply::Answered { status, body } => (*status, json::from_slice(body).unwrap_or(Value::Null)),
            HttpReply::Broken | HttpReply::UnknownCluster(_) => (0, Value::Null),
        };
        let text = |field: &str| body.get(field).and_then(Value::as_str).unwrap_or_default();
        let message: String = text("message").chars().filter(|c| !is_hidden(*c)).take(LONGEST_MESSAGE).collect();
        match (status, text("kind"), text("reason")) {
            (200, "Secret", _) => self.examine(&body),
            // Only the API server can say so: another server's 404 takes nobody's token away.
            (404, "Status", "NotFound") => Answer::Missing(format!(
                "there is no Secret {namespace}/{name}, so its tokens let nobody in: kubectl -n {namespace} create secret \
                 generic {name} --from-literal=operator=\"$(openssl rand -hex 32)\""
            )),
            (401, "Status", _) => Answer::Refused(format!(
                "the API server answered 401 for the Secret {namespace}/{name} ({message}): the token of the service account \
                 does not reach it, look at the credential injector of the cluster {}",
                self.api.cluster
            )),
            (403, "Status", _) => Answer::Refused(format!(
                "the filter may not read the Secret {namespace}/{name} ({message}): allow its service account get on secrets \
                 of that name"
            )),
            _ => Answer::Away(format!(
                "the Secret {namespace}/{name} cannot be read ({}): the tokens that were last read go on working",
                reply.describe(self.api.timeout)
            )),
        }
    }

    /// Takes the keys that are as they should be.
    fn examine(&self, secret: &Value) -> Answer {
        let empty = serde_json::Map::new();
        let data = secret.get("data").and_then(Value::as_object).unwrap_or(&empty);
        let read = data.iter().take(KEYS).map(|(key, value)| (key, token(key, value.as_str().unwrap_or_default())));
        let (mut good, mut problems): (Vec<(&str, Token)>, Vec<String>) = (Vec::new(), Vec::new());
        for (key, token) in read {
            match token {
                Ok(token) => good.push((key, token)),
                Err(problem) => problems.push(format!("the key {key} {problem}")),
            }
        }
        if data.len() > KEYS {
            problems.push(format!("it has more than {KEYS} keys, and those after the first {KEYS} are not taken"));
        }
        // Which of the two was meant is unknown: neither is let in.
        let sums: Vec<TokenSum> = good.iter().map(|(_, token)| token.sha256.clone()).collect();
        good.retain(|(key, token)| {
            let is_shared = sums.iter().filter(|sum| sum.is(&token.sha256)).count() > 1;
            if is_shared {
                problems.push(format!(
                    "the key {key} has the token of another key too: one token has one holder and one role"
                ));
            }
            !is_shared
        });
        if data.is_empty() {
            problems.push("it is empty".to_owned());
        }
        let problem = (!problems.is_empty()).then(|| {
            let (namespace, name) = (&self.api.namespace, &self.name);
            format!("Secret {namespace}/{name}: {}. Make each token with: openssl rand -hex 32", problems.join("; "))
        });
        Answer::Read(good.into_iter().map(|(_, token)| token).collect(), problem)
    }

    fn key(&self) -> String {
        Key::AdminTokens(self.number()).to_string()
    }
}

/// The token under a key, or what is wrong with it, which never has the token in it.
fn token(key: &str, value: &str) -> Result<Token, &'static str> {
    let (role, name) = key.split_once('.').unwrap_or((key, key));
    let role = match role {
        "operator" => Role::Operator,
        "viewer" => Role::Viewer,
        _ => return Err("is none of operator, viewer, operator.NAME and viewer.NAME"),
    };
    let name =
        HolderName::new(name).map_err(|_| "names no holder: use 1 to 64 letters, digits and -_. after the dot")?;
    let token = BASE64.decode(value).map_err(|_| "is not base64")?;
    // As a file ends that it was made from.
    let token = token.trim_ascii_end();
    match weakness(token) {
        Some(problem) => Err(problem),
        None => Ok(Token { name, role, sha256: TokenSum::of(token) }),
    }
}

fn weakness(token: &[u8]) -> Option<&'static str> {
    let lower = token.to_ascii_lowercase();
    let has = |word: &&str| lower.windows(word.len()).any(|window| window == word.as_bytes());
    let letters = (0..=u8::MAX).filter(|letter| lower.contains(letter)).count();
    if PUBLISHED.iter().any(|(_, published)| published.as_bytes() == token) {
        Some("has a token that is published with the demo")
    } else if PLACEHOLDERS.iter().any(has) || (token.starts_with(b"<") && token.ends_with(b">")) {
        Some("still has a placeholder")
    } else if !token.iter().all(u8::is_ascii_graphic) {
        Some("has a token with a space or another letter that no header carries")
    } else if token.len() < SHORTEST {
        Some("has a token of fewer than 20 characters")
    } else if token.len() > LONGEST_TOKEN {
        Some("has a token of more than 1024 characters")
    } else if letters < FEWEST_LETTERS {
        Some("has a token that is easy to guess")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::MemoryStore;

    const GOOD: &str = "6f1d0c1be0c24d1c9fd3b0b7a5a4c3d2";

    fn secret() -> TokenSecret {
        let config = br#"{"deployments": {"iris": {"colours": {"blue": {"cluster": "blue", "version": "1"},
            "green": {"cluster": "green", "version": "2"}}}},
            "kubernetes": {"cluster": "kube_apiserver", "namespace": "models"},
            "admin": {"tokens_secret": "bluegreen-admin-tokens"}}"#;
        TokenSecret::of(&Config::from_bytes(config).expect("valid")).expect("named")
    }

    fn answer(status: u16, body: &Value) -> Answer {
        secret().understand(&HttpReply::Answered { status, body: body.to_string().into_bytes() })
    }

    fn with(keys: &[(&str, &str)]) -> Answer {
        let data: serde_json::Map<String, Value> =
            keys.iter().map(|(key, token)| ((*key).to_owned(), BASE64.encode(token).into())).collect();
        answer(200, &serde_json::json!({"kind": "Secret", "apiVersion": "v1", "data": data}))
    }

    #[test]
    fn each_key_is_a_role_and_perhaps_a_holder() {
        let (other, third) = (GOOD.replace('6', "7"), format!("{GOOD}3\n"));
        let Answer::Read(tokens, None) =
            with(&[("operator", GOOD), ("operator.alice", &other), ("viewer.ci_bot", &third)])
        else {
            panic!("all are good")
        };
        let seen: Vec<(&str, Role)> = tokens.iter().map(|token| (token.name.as_str(), token.role)).collect();
        assert_eq!(seen, [("operator", Role::Operator), ("alice", Role::Operator), ("ci_bot", Role::Viewer)]);
        assert!(tokens[0].sha256.is(&TokenSum::of(GOOD.as_bytes())));
        assert!(tokens[2].sha256.is(&TokenSum::of(third.trim_end().as_bytes())), "without the file's last line break");
    }

    #[test]
    fn a_bad_key_is_told_without_its_token_and_keeps_no_other_out() {
        let long = "x1y2z3w4".repeat(200);
        let cases = [
            ("operator.bad", "demo-operator-token", "published"),
            ("operator.bad", "REPLACE_ME_WITH_A_TOKEN_OF_YOUR_OWN", "placeholder"),
            ("operator.bad", "<a token of your own>", "placeholder"),
            ("operator.bad", "short-a1b2c3", "fewer than 20"),
            ("operator.bad", "", "fewer than 20"),
            ("operator.bad", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "easy to guess"),
            ("operator.bad", "two words that are long enough", "no header carries"),
            ("operator.bad", &long, "more than 1024"),
            ("admin", GOOD, "none of operator"),
            ("operator.", GOOD, "names no holder"),
            ("operatorx", GOOD, "none of operator"),
        ];
        let viewer = GOOD.replace('0', "e");
        for (key, value, problem) in cases {
            let Answer::Read(tokens, Some(told)) = with(&[(key, value), ("viewer", &viewer)]) else {
                panic!("{key}: {value}")
            };
            assert!(told.contains(problem) && told.contains(&format!("the key {key} ")), "{told}");
            assert!(value.is_empty() || !told.contains(value), "{told}");
            assert_eq!(tokens.len(), 1, "{key}: {value}");
        }
    }

    #[test]
    fn a_token_under_two_keys_lets_nobody_in() {
        let Answer::Read(tokens, Some(told)) = with(&[("operator", GOOD), ("viewer", GOOD)]) else {
            panic!("it is told")
        };
        assert!(tokens.is_empty() && told.contains("one role"), "{told}");
    }

    #[test]
    fn so_many_keys_are_taken_and_no_more() {
        let keys: Vec<(String, String)> =
            (10..50).map(|number| (format!("viewer.n{number}"), format!("{GOOD}{number}"))).collect();
        let keys: Vec<(&str, &str)> = keys.iter().map(|(key, token)| (key.as_str(), token.as_str())).collect();
        let Answer::Read(tokens, Some(told)) = with(&keys) else { panic!("it is told") };
        assert!(tokens.len() == KEYS && told.contains("more than 32"), "{told}");
    }

    #[test]
    fn an_answer_that_is_no_secret_is_told_in_words_and_only_the_api_server_says_that_there_is_none() {
        let status = |reason: &str| serde_json::json!({"kind": "Status", "reason": reason, "message": "why"});
        let away = |answer| matches!(answer, Answer::Away(_));
        let Answer::Missing(told) = answer(404, &status("NotFound")) else { panic!("missing") };
        assert!(told.contains("kubectl -n models create secret generic bluegreen-admin-tokens"), "{told}");
        for status_code in [401, 403] {
            let Answer::Refused(told) = answer(status_code, &status("Forbidden")) else { panic!("{status_code}") };
            assert!(told.contains("(why)"), "{told}");
        }
        assert!(away(answer(404, &"not found".into())) && away(answer(200, &"fine".into())));
        assert!(away(answer(503, &status("ServiceUnavailable"))) && away(secret().understand(&HttpReply::Broken)));
        let Answer::Read(tokens, Some(told)) = answer(200, &serde_json::json!({"kind": "Secret"})) else {
            panic!("read")
        };
        assert!(tokens.is_empty() && told.contains("empty"), "{told}");
    }

    #[test]
    fn what_is_kept_is_the_sum_and_every_worker_reads_it() {
        let (store, secret) = (MemoryStore::default(), secret());
        assert_eq!(secret.known(&store), []);
        let Answer::Read(tokens, None) = with(&[("operator", GOOD)]) else { panic!("good") };
        assert_eq!(secret.keep(&store, &tokens), Ok(true));
        assert_eq!(secret.keep(&store, &tokens), Ok(false));
        assert_eq!(secret.known(&store), tokens);
        let kept = store.read(&secret.key()).expect("in reach").value.expect("kept");
        assert!(!String::from_utf8(kept).expect("text").contains(GOOD));
    }
}
