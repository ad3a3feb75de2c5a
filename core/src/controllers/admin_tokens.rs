//! Keeps the tokens of the admin API as a Secret has them: one instance reads it on behalf of all.

use std::time::Duration;

use crate::change::context::Context;
use crate::host::next_tick;
use crate::kubernetes::secret::{Answer, TokenSecret};
use crate::model::time::Moment;
use crate::setup::{self, SetupProblem};

/// How often it is read. With the way to the API server and a tick a change acts within ten seconds.
const EVERY: Duration = Duration::from_secs(9);

/// How soon it is read again after the API server has not answered; twice as long each time, up to [`EVERY`].
const SOON: Duration = Duration::from_secs(1);

/// So many failures in a row are told: one alone happens when an API server restarts.
const TELLING: u32 = 2;

/// Reads the Secret again and again, while this instance holds the lease under this key.
pub async fn follow(context: &Context, secret: &TokenSecret, lease: &str) {
    let host = &*context.host;
    let mut due = Moment::BEGIN;
    let mut failures: u32 = 0;
    // What was noted last, since this instance leads.
    let mut told: Option<Option<String>> = None;
    loop {
        next_tick(host).await;
        if !context.instance.leads(host.store(), lease, host.now()) {
            (due, failures, told) = (Moment::BEGIN, 0, None);
            continue;
        }
        if due > host.moment() {
            continue;
        }
        let (tokens, problem, is_away) = match secret.read(host).await {
            Answer::Read(tokens, problem) => (Some(tokens), problem, false),
            // Who deletes it means to shut everybody out.
            Answer::Missing(problem) => (Some(Vec::new()), Some(problem), false),
            Answer::Refused(problem) => (None, Some(problem), false),
            Answer::Away(problem) => (None, Some(problem), true),
        };
        let pause = SOON.saturating_mul(2_u32.saturating_pow(failures)).min(EVERY);
        failures = if is_away { failures.saturating_add(1) } else { 0 };
        due = host.moment().plus(if is_away { pause } else { EVERY });
        // A store that is out of reach is tried again with the next answer.
        let _ = tokens.map(|tokens| secret.keep(host.store(), &tokens));
        if (!is_away || failures >= TELLING) && told.as_ref() != Some(&problem) {
            tell(context, problem.as_deref());
            told = Some(problem);
        }
    }
}

/// Notes what is wrong with the Secret, or takes it back.
fn tell(context: &Context, problem: Option<&str>) {
    for deployment in context.deployments.all() {
        match problem {
            Some(problem) => {
                setup::note(&*context.host, deployment, SetupProblem::AdminTokens, problem.to_owned());
            }
            None => setup::clear(&*context.host, deployment, SetupProblem::AdminTokens),
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::rc::Rc;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;

    use super::*;
    use crate::config::Config;
    use crate::host::http::HttpReply;
    use crate::setup::noted;
    use crate::store::key::LeaseRole;
    use crate::store::lease::lease_key;
    use crate::testing::host::TestHost;
    use crate::testing::iris;

    const TICK: Duration = Duration::from_millis(250);

    /// Workers of one Envoy that follow the Secret, and the API server that has it.
    struct Fixture {
        host: Rc<TestHost>,
        secret: TokenSecret,
    }

    impl Fixture {
        fn with_workers(workers: usize) -> Self {
            let json = br#"{"deployments": {"iris": {"colours": {"blue": {"cluster": "blue", "version": "1"},
                "green": {"cluster": "green", "version": "2"}}}},
                "kubernetes": {"cluster": "kube_apiserver", "namespace": "models"},
                "admin": {"tokens_secret": "bluegreen-admin-tokens"}}"#;
            let config = Config::from_bytes(json).expect("valid");
            let (host, secret) = (Rc::new(TestHost::default()), TokenSecret::of(&config).expect("named"));
            for _ in 0..workers {
                let (cx, secret) = (Context::new(Rc::<TestHost>::clone(&host), &config, None), secret.clone());
                let key = lease_key(&config, LeaseRole::SecretReader(secret.number()));
                crate::host::Host::spawn(&*host, Box::pin(async move { follow(&cx, &secret, &key).await }));
            }
            Self { host, secret }
        }

        /// Lets time pass, while the API server answers each question like this. How often it was asked.
        fn pass(&self, span: Duration, reply: &HttpReply) -> usize {
            let mut asked = 0;
            for _ in 0..span.as_millis() / TICK.as_millis() {
                self.host.pass(TICK);
                self.host.tick();
                for (request, sender) in self.host.http.take() {
                    let path =
                        (":path".to_owned(), "/api/v1/namespaces/models/secrets/bluegreen-admin-tokens".to_owned());
                    assert!(
                        request.cluster.as_str() == "kube_apiserver" && request.headers.contains(&path),
                        "{request:?}"
                    );
                    asked += 1;
                    sender.send(reply.clone()).expect("awaited");
                }
                self.host.tick();
            }
            asked
        }

        fn holders(&self) -> Vec<String> {
            self.secret.known(&self.host.store).iter().map(|token| token.name.to_string()).collect()
        }

        fn problem(&self) -> Option<String> {
            noted(&self.host.store, &iris()).remove(&SetupProblem::AdminTokens).map(|noted| noted.detail)
        }
    }

    fn with(keys: &[&str]) -> HttpReply {
        let data: serde_json::Map<String, serde_json::Value> = keys
            .iter()
            .map(|key| ((*key).to_owned(), BASE64.encode(format!("{key}-0123456789abcdef")).into()))
            .collect();
        let body = serde_json::json!({"kind": "Secret", "data": data});
        HttpReply::Answered { status: 200, body: body.to_string().into_bytes() }
    }

    fn status(status: u16, reason: &str) -> HttpReply {
        let body = serde_json::json!({"kind": "Status", "reason": reason, "message": "why"});
        HttpReply::Answered { status, body: body.to_string().into_bytes() }
    }

    const TEN_SECONDS: Duration = Duration::from_secs(10);

    #[test]
    fn one_worker_reads_it_at_once_and_a_change_acts_within_ten_seconds() {
        let fixture = Fixture::with_workers(4);
        assert_eq!(fixture.pass(Duration::from_secs(1), &with(&["operator.alice"])), 1);
        assert_eq!((fixture.holders(), fixture.problem()), (vec!["alice".to_owned()], None));
        assert!(fixture.pass(TEN_SECONDS, &with(&["operator.alice", "viewer.bob"])) <= 2);
        assert_eq!(fixture.holders(), ["alice", "bob"]);
    }

    #[test]
    fn the_last_tokens_stay_while_the_api_server_is_away_and_go_when_it_says_that_there_are_none() {
        let fixture = Fixture::with_workers(1);
        fixture.pass(Duration::from_secs(1), &with(&["operator.alice"]));
        // One failure is told nobody.
        fixture.pass(Duration::from_millis(9_250), &HttpReply::Broken);
        assert_eq!((fixture.holders().len(), fixture.problem()), (1, None));
        for reply in [HttpReply::Broken, status(503, "ServiceUnavailable"), status(403, "Forbidden")] {
            fixture.pass(2 * TEN_SECONDS, &reply);
            assert_eq!(fixture.holders(), ["alice"], "{reply:?}");
            assert!(fixture.problem().is_some(), "{reply:?}");
        }
        fixture.pass(TEN_SECONDS, &status(404, "NotFound"));
        assert!(
            fixture.holders().is_empty()
                && fixture.problem().is_some_and(|detail| detail.contains("there is no Secret"))
        );
        fixture.pass(TEN_SECONDS, &with(&["operator.bob"]));
        assert_eq!((fixture.holders(), fixture.problem()), (vec!["bob".to_owned()], None));
    }

    #[test]
    fn an_api_server_that_is_away_is_asked_less_and_less_often() {
        let fixture = Fixture::with_workers(1);
        let first = fixture.pass(TEN_SECONDS, &HttpReply::Broken);
        let later = fixture.pass(6 * TEN_SECONDS, &HttpReply::Broken);
        assert!((3..=5).contains(&first) && (5..=7).contains(&later), "{first} and {later} times");
        assert_eq!(fixture.host.take_warnings().len(), 1);
    }

    #[test]
    fn a_refused_token_is_worth_one_line_of_the_log() {
        let fixture = Fixture::with_workers(2);
        fixture.pass(3 * TEN_SECONDS, &with(&["operator.alice", "admin"]));
        assert_eq!(fixture.holders(), ["alice"]);
        let warnings = fixture.host.take_warnings();
        assert!(
            warnings.len() == 1 && warnings[0].contains("setup=admin-tokens") && warnings[0].contains("the key admin"),
            "{warnings:?}"
        );
    }
}
