//! Sending what people are told: to each receiver one after the other, by one instance, and never in the way of a change.
//!
//! A notification is sent at least once: when the answer is lost, or the instance that sends is, it is sent again with the same
//! `idempotency-key`.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::change::context::Context;
use crate::config::{Config, EventKind, Format, Receiver};
use crate::deployment::Deployment;
use crate::fleet::store::PutReply;
use crate::host::http::{HttpReply, HttpRequest};
use crate::host::next_tick;
use crate::json::{self, FromJson};
use crate::model::time::{Moment, Timestamp};
use crate::notification::{self, Waiting};
use crate::setup::{self, SetupProblem};
use crate::store::key::{Key, LeaseRole};
use crate::store::record::ModRevision;

/// What the instance that sends remembers of a receiver.
#[derive(Debug, Default)]
struct Line {
    /// When it may be tried again.
    due: Moment,
    /// How often in a row it was in vain.
    failures: u32,
    /// Whether it is known that nothing is noted about it.
    is_clear: bool,
}

/// What an Envoy of the fleet has told.
#[derive(Debug, Serialize, FromJson)]
struct Told {
    /// A number for the receiver and what it was told.
    about: u64,
    /// The notification.
    by: String,
    at: Timestamp,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Sent,
    /// It may be otherwise later.
    NotNow(String),
    /// It would be the same each time.
    Never(String),
}

/// How long a receiver has to answer: less than a lease, so that nobody else sends the same meanwhile.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// For how long after it happened something is sent again. What is older is tried once.
const GIVE_UP_AFTER: Duration = Duration::from_secs(600);

/// The first pause, which doubles, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How often it is tried to be the one that tells, among others who do.
const CLAIMS: usize = 4;

/// What was told lately in a fleet: so much of it is kept for each deployment.
const MOST_TOLD: usize = 15;

/// From so many failures in a row on it is said that notifications fail.
const TELLING: u32 = 2;

/// The longest answer that is repeated in a note, in bytes.
const LONGEST_DETAIL: usize = 120;

/// Gives each receiver of a configuration its place in the queue, before anything happens.
pub fn announce(context: &Context, config: &Config) {
    let (store, now) = (context.host.store(), context.host.now());
    config.notify.iter().for_each(|receiver| notification::renew(store, receiver.id(), now));
}

/// Sends what is there for a receiver, the one at this place of the configuration, while this instance holds its lease.
pub async fn deliver(context: &Context, place: usize, receiver: &Receiver) {
    let (host, id) = (&*context.host, receiver.id());
    // Two listeners may have the same receiver, whatever their deployments.
    let lease = Key::Lease(0, LeaseRole::Notifier(id)).to_string();
    let is_wanted = |waiting: &Waiting| wants(receiver, waiting);
    let mut line = Line::default();
    loop {
        next_tick(host).await;
        if !context.instance.leads(host.store(), &lease, host.now()) {
            // Who sends instead goes on from the beginning.
            line = Line::default();
            continue;
        }
        notification::renew(host.store(), id, host.now());
        if line.due > host.moment() {
            continue;
        }
        let Some(next) = notification::next(host.store(), id, &is_wanted) else { continue };
        if line.failures == 0 && !is_first_in_fleet(context, receiver, &next).await {
            notification::done(host.store(), id, next.number);
            continue;
        }
        let outcome = outcome(receiver, &host.http(&request(receiver, &next)).await);
        let result = match &outcome {
            Outcome::Sent => Some("sent"),
            Outcome::NotNow(_) if next.age(host.now()) < GIVE_UP_AFTER => None,
            Outcome::NotNow(_) | Outcome::Never(_) => Some("failed"),
        };
        if let Some(result) = result {
            notification::done(host.store(), id, next.number);
            host.count(&notification::metric(result));
        }
        line.take(context, (place, receiver), &next, outcome);
    }
}

/// Whether nobody else in the fleet has told this receiver of the same. Each Envoy has the same configuration and asks the same registry,
/// and so each is refused the same. A change is made by one.
///
/// Without the fleet's store it is told: better twice than not at all.
async fn is_first_in_fleet(context: &Context, receiver: &Receiver, next: &Waiting) -> bool {
    let (Some(fleet), Some((_, deployment))) = (&context.fleet, context.deployments.named(next.text("deployment")))
    else {
        return true;
    };
    if next.text("type") == EventKind::Change.as_str() {
        return true;
    }
    let host = &*context.host;
    let what = ["type", "source", "rule", "reason"].map(|field| next.text(field)).join("\n");
    let about = xxhash_rust::xxh64::xxh64(what.as_bytes(), receiver.id());
    let (mut told, mut last) = (Vec::new(), ModRevision(0));
    for _ in 0..CLAIMS {
        let mine = Told { about, by: next.text("id").to_owned(), at: host.now() };
        let with_mine: Vec<&Told> = told.iter().chain([&mine]).collect();
        let value = serde_json::to_vec(&with_mine).unwrap_or_default();
        let Ok(PutReply::Lost(Some(known))) = fleet.tell(host, &deployment.name, last, value).await else {
            return true;
        };
        last = known.mod_revision;
        told = json::from_slice::<Vec<Told>>(&known.value).unwrap_or_default();
        told.retain(|told| told.at.apart(host.now()) < GIVE_UP_AFTER);
        told.drain(..told.len().saturating_sub(MOST_TOLD));
        if let Some(same) = told.iter().find(|told| told.about == about) {
            return same.by == mine.by;
        }
    }
    true
}

fn wants(receiver: &Receiver, waiting: &Waiting) -> bool {
    let kinds = receiver.events.as_ref();
    let deployments = receiver.deployments.as_ref();
    kinds.is_none_or(|kinds| kinds.iter().any(|kind| kind.as_str() == waiting.text("type")))
        && deployments.is_none_or(|names| names.iter().any(|name| name.as_str() == waiting.text("deployment")))
}

fn request(receiver: &Receiver, next: &Waiting) -> HttpRequest {
    let body = match receiver.format {
        Format::Json => Value::Object(next.body.clone()),
        Format::Slack => json!({"text": escaped(next.text("text"))}),
    };
    let body = serde_json::to_vec(&body).unwrap_or_default();
    let path = receiver.path.reveal();
    let mut request = HttpRequest::new(&receiver.cluster, receiver.host(), "POST", path, ANSWER_WITHIN);
    let own = [
        ("content-type", "application/json".to_owned()),
        ("content-length", body.len().to_string()),
        ("idempotency-key", next.text("id").to_owned()),
    ];
    request.headers.extend(own.map(|(name, value)| (name.to_owned(), value)));
    let given = receiver.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.reveal().to_owned()));
    request.headers.extend(given);
    request.body = Some(body);
    request
}

/// As Slack's markup wants it. With `<` written out nobody is mentioned and nothing is a link: `<!channel>` in a reason stays text.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn outcome(receiver: &Receiver, reply: &HttpReply) -> Outcome {
    let described = |reply: &HttpReply| {
        let mut detail = reply.describe(ANSWER_WITHIN);
        // Some servers repeat the path that they do not know, and that is a secret.
        if receiver.is_told_in(&detail)
            && let HttpReply::Answered { status, .. } = reply
        {
            detail = format!("answered {status}");
        }
        detail.truncate(detail.floor_char_boundary(LONGEST_DETAIL));
        detail
    };
    match reply {
        HttpReply::Answered { status: 200..=299, .. } => Outcome::Sent,
        // Too early, too many, too slow: the receiver's words for "later".
        HttpReply::Answered { status: 408 | 425 | 429 | 500..=599, .. }
        | HttpReply::Broken
        | HttpReply::UnknownCluster(_) => Outcome::NotNow(described(reply)),
        HttpReply::Answered { .. } => Outcome::Never(described(reply)),
    }
}

// === impl Line ===

impl Line {
    /// Takes what became of a request.
    fn take(&mut self, context: &Context, (place, receiver): (usize, &Receiver), next: &Waiting, outcome: Outcome) {
        let moment = context.host.moment();
        // What notes about this receiver begin with.
        let name = format!("notify[{place}] (cluster {}) ", receiver.cluster);
        match outcome {
            Outcome::Sent => {
                if !self.is_clear {
                    context.deployments.all().iter().for_each(|deployment| clear(context, deployment, &name));
                }
                *self = Self { is_clear: true, ..Self::default() };
            }
            Outcome::Never(why) => {
                // The next one may fare better.
                (self.failures, self.due, self.is_clear) = (0, moment, false);
                let rest = "It is not sent again. Look at path, host and headers of the receiver";
                Self::note(context, next, format!("{name}refuses a notification: {why}. {rest}"));
            }
            Outcome::NotNow(why) => {
                let (first, longest) = PAUSES;
                self.due = moment.plus(first.saturating_mul(2_u32.saturating_pow(self.failures)).min(longest));
                self.failures = self.failures.saturating_add(1);
                if self.failures >= TELLING {
                    let rest = "Each is tried for ten minutes. Look at the receiver, and at its cluster in Envoy";
                    Self::note(context, next, format!("{name}does not take notifications: {why}. {rest}"));
                    self.is_clear = false;
                }
            }
        }
    }

    fn note(context: &Context, next: &Waiting, detail: String) {
        if let Some((_, deployment)) = context.deployments.named(next.text("deployment")) {
            setup::note(&*context.host, deployment, SetupProblem::NotificationsFailing, detail);
        }
    }
}

/// Takes back what was noted about a receiver, and nothing of what was noted about others.
fn clear(context: &Context, deployment: &Deployment, name: &str) {
    let noted = setup::noted(context.host.store(), &deployment.name).remove(&SetupProblem::NotificationsFailing);
    if noted.is_some_and(|noted| noted.detail.starts_with(name)) {
        setup::clear(&*context.host, deployment, SetupProblem::NotificationsFailing);
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::rc::Rc;

    use super::*;
    use crate::etcd::model::{Fate, Model};
    use crate::host::Host;
    use crate::model::author::Source;
    use crate::notification::{Event, metric};
    use crate::testing::host::TestHost;

    /// One Envoy, of which each worker has this `notify` section.
    struct Envoy {
        host: Rc<TestHost>,
        workers: Vec<Rc<Context>>,
    }

    impl Envoy {
        fn start(workers: usize, notify: &str) -> Self {
            let host = Rc::new(TestHost::default());
            let mut envoy = Self { host, workers: Vec::new() };
            (0..workers).for_each(|_| envoy.add_worker(notify));
            envoy
        }

        fn add_worker(&mut self, notify: &str) {
            let json = format!(
                r#"{{"deployments": {{"iris": {{"colours": {{"blue": {{"cluster": "b", "version": "1"}},
                    "green": {{"cluster": "g", "version": "2"}}}}}}, "rose": {{"match": {{"path_prefix": "/rose"}},
                    "colours": {{"blue": {{"cluster": "c", "version": "1"}},
                    "green": {{"cluster": "h", "version": "2"}}}}}}}}, "notify": {notify}}}"#
            );
            let config = Config::from_bytes(json.as_bytes()).expect("valid");
            let context = Rc::new(Context::new(Rc::<TestHost>::clone(&self.host), &config, None));
            announce(&context, &config);
            for (place, receiver) in config.notify.into_iter().enumerate() {
                let context = Rc::clone(&context);
                self.host.spawn(Box::pin(async move { deliver(&context, place, &receiver).await }));
            }
            self.workers.push(context);
            self.host.tasks.run();
        }

        fn tell(&self, deployment: &str, why: &str) {
            let (_, deployment) = self.workers[0].deployments.named(deployment).expect("configured");
            notification::tell(&*self.host, deployment, &Event::Refused { source: Source::Mlflow, why });
        }

        fn pass(&self, span: Duration) {
            for _ in 0..span.as_millis() / 250 {
                self.host.pass(Duration::from_millis(250));
                self.host.tick();
            }
        }

        /// The requests under way.
        fn asked(&self) -> Vec<HttpRequest> {
            self.host.http.borrow().iter().map(|(request, _)| request.clone()).collect()
        }

        /// Waits until a request is under way, and answers it. What it said.
        fn answer(&self, reply: HttpReply) -> HttpRequest {
            for _ in 0..(120_000 / 250) {
                if !self.host.http.borrow().is_empty() {
                    break;
                }
                self.pass(Duration::from_millis(250));
            }
            let (request, sender) = self.host.http.borrow_mut().remove(0);
            sender.send(reply).expect("waited for");
            self.host.tasks.run();
            request
        }

        fn notes(&self) -> Vec<String> {
            let deployments = self.workers[0].deployments.all().iter();
            let noted = deployments.filter_map(|deployment| {
                setup::noted(&self.host.store, &deployment.name).remove(&SetupProblem::NotificationsFailing)
            });
            noted.map(|noted| noted.detail).collect()
        }

        fn counted(&self) -> [u64; 3] {
            ["sent", "failed", "dropped"].map(|result| self.host.counter(&metric(result)))
        }
    }

    const HOOK: &str = r#"[{"cluster": "hooks", "path": "/T000/B000"}]"#;
    const SLACK: &str = r#"[{"cluster": "hooks", "path": "/T000/B000", "format": "slack"}]"#;

    fn status(status: u16) -> HttpReply {
        HttpReply::Answered { status, body: b"no_service".to_vec() }
    }

    fn header<'r>(request: &'r HttpRequest, name: &str) -> &'r str {
        request.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    fn body(request: &HttpRequest) -> Value {
        json::from_slice(request.body.as_deref().unwrap_or_default()).expect("JSON")
    }

    fn reason(request: &HttpRequest) -> String {
        body(request)["reason"].as_str().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_post_carries_the_fields_a_key_against_repeats_and_the_receivers_headers() {
        let notify = r#"[{"cluster": "hooks", "path": "/a?b=c", "host": "h.example.com", "headers": {"authorization": "Bearer abc"}}]"#;
        let envoy = Envoy::start(1, notify);
        envoy.tell("iris", "no such alias");
        let request = envoy.answer(status(204));
        let sent = body(&request);
        let head =
            [":method", ":path", ":authority", "content-type", "authorization"].map(|name| header(&request, name));
        assert_eq!(head, ["POST", "/a?b=c", "h.example.com", "application/json", "Bearer abc"]);
        assert_eq!(header(&request, "idempotency-key"), sent["id"].as_str().expect("a text"));
        assert_eq!(header(&request, "content-length"), request.body.as_ref().expect("a body").len().to_string());
        assert_eq!(
            (&sent["type"], &sent["deployment"], &sent["envoy"]),
            (&json!("refused"), &json!("iris"), &json!("edge-1"))
        );
        assert_eq!(envoy.counted(), [1, 0, 0]);
        envoy.pass(Duration::from_secs(60));
        assert_eq!(envoy.asked(), vec![]);
    }

    #[test]
    fn slack_gets_one_sentence_in_which_nobody_is_mentioned() {
        let envoy = Envoy::start(1, SLACK);
        envoy.tell("iris", "<!channel> & <https://evil|click>");
        let request = envoy.answer(status(200));
        let text = "iris: a change by mlflow was refused: &lt;!channel&gt; &amp; &lt;https://evil|click&gt;";
        assert_eq!((body(&request), header(&request, ":authority")), (json!({"text": text}), "hooks.slack.com"));
    }

    #[test]
    fn they_come_in_order_one_at_a_time_and_once_however_many_workers_there_are() {
        let envoy = Envoy::start(4, HOOK);
        ["a", "b", "c"].iter().for_each(|why| envoy.tell("iris", why));
        envoy.pass(Duration::from_secs(3));
        assert_eq!(envoy.asked().len(), 1);
        assert_eq!(["a", "b", "c"].map(|_| reason(&envoy.answer(status(200)))), ["a", "b", "c"]);
        envoy.pass(Duration::from_secs(60));
        assert_eq!((envoy.asked().len(), envoy.counted()), (0, [3, 0, 0]));
    }

    #[test]
    fn what_is_not_taken_is_sent_again_with_the_same_key_after_growing_pauses() {
        let envoy = Envoy::start(2, HOOK);
        envoy.tell("iris", "a");
        let later = [status(500), status(429), HttpReply::Broken, status(503), status(408)];
        let mut keys = Vec::new();
        for (failures, reply) in later.into_iter().enumerate() {
            let request = envoy.answer(reply);
            keys.push(header(&request, "idempotency-key").to_owned());
            let pause = Duration::from_secs(1 << failures);
            envoy.pass(pause.saturating_sub(Duration::from_millis(250)));
            assert_eq!(envoy.asked().len(), 0, "{failures} failures");
            envoy.pass(Duration::from_millis(500));
            assert_eq!(envoy.asked().len(), 1, "{failures} failures");
        }
        assert_eq!(envoy.counted(), [0, 0, 0]);
        keys.push(header(&envoy.answer(status(200)), "idempotency-key").to_owned());
        keys.dedup();
        assert_eq!((keys.len(), envoy.counted()), (1, [1, 0, 0]));
    }

    #[test]
    fn failing_is_noted_at_the_second_time_and_taken_back_once_something_was_taken() {
        let envoy = Envoy::start(1, HOOK);
        envoy.tell("iris", "a");
        envoy.tell("rose", "b");
        envoy.answer(status(503));
        assert_eq!(envoy.notes(), Vec::<String>::new());
        envoy.answer(status(503));
        let note = "notify[0] (cluster hooks) does not take notifications: answered 503: no_service. Each is tried for \
                    ten minutes. Look at the receiver, and at its cluster in Envoy";
        assert_eq!(envoy.notes(), [note]);
        envoy.answer(status(200));
        assert_eq!(envoy.notes(), Vec::<String>::new());
        assert_eq!(reason(&envoy.answer(status(200))), "b");
    }

    #[test]
    fn a_receiver_that_takes_everything_takes_back_nothing_that_is_noted_about_another() {
        let two = r#"[{"cluster": "hooks", "path": "/a"}, {"cluster": "other", "path": "/b"}]"#;
        let envoy = Envoy::start(1, two);
        envoy.tell("iris", "a");
        envoy.pass(Duration::from_millis(250));
        let paths: Vec<String> = envoy.asked().iter().map(|request| header(request, ":path").to_owned()).collect();
        assert_eq!(paths, ["/a", "/b"]);
        envoy.answer(status(404));
        envoy.answer(status(200));
        assert!(envoy.notes()[0].starts_with("notify[0] (cluster hooks) refuses a notification: answered 404"));
    }

    #[test]
    fn a_refusal_for_good_is_not_repeated_and_is_said_without_the_secret() {
        let envoy = Envoy::start(1, HOOK);
        envoy.tell("iris", "a");
        envoy.tell("iris", "b");
        envoy.host.take_log();
        let body = b"Cannot POST /T000/B000".to_vec();
        envoy.answer(HttpReply::Answered { status: 404, body });
        let note = envoy.notes().remove(0);
        assert!(note.contains("refuses a notification: answered 404. It is not sent again"), "{note}");
        let log = envoy.host.take_log();
        assert!(log.len() == 1 && !log[0].contains("B000"), "{log:?}");
        assert_eq!(reason(&envoy.answer(status(410))), "b");
        assert_eq!((envoy.counted(), envoy.host.take_log()), ([0, 2, 0], vec![]));
    }

    #[test]
    fn after_ten_minutes_it_is_given_up_and_what_came_since_is_still_sent() {
        let envoy = Envoy::start(1, HOOK);
        envoy.tell("iris", "old");
        let mut tries = 0;
        while envoy.counted() == [0, 0, 0] {
            envoy.answer(status(503));
            tries += 1;
            if tries == 10 {
                envoy.tell("iris", "new");
            }
        }
        assert_eq!((tries, envoy.counted()), (16, [0, 1, 0]));
        assert_eq!(reason(&envoy.answer(status(200))), "new");
    }

    #[test]
    fn a_receiver_that_hangs_keeps_others_and_the_queue_of_the_next_from_nothing() {
        let two = r#"[{"cluster": "hooks", "path": "/a"}, {"cluster": "other", "path": "/b"}]"#;
        let envoy = Envoy::start(2, two);
        envoy.tell("iris", "a");
        envoy.tell("iris", "b");
        envoy.pass(Duration::from_secs(1));
        let (_, sender) = envoy.host.http.borrow_mut().remove(1);
        sender.send(status(200)).expect("waited for");
        envoy.pass(Duration::from_secs(1));
        let seen: Vec<(String, String)> =
            envoy.asked().iter().map(|request| (header(request, ":path").to_owned(), reason(request))).collect();
        assert_eq!(seen, [("/a".to_owned(), "a".to_owned()), ("/b".to_owned(), "b".to_owned())]);
        assert!(envoy.asked().iter().all(|request| request.timeout == ANSWER_WITHIN));
    }

    #[test]
    fn a_machine_that_fails_in_between_loses_nothing_and_the_next_sends_it_again_with_the_same_key() {
        let mut envoy = Envoy::start(1, HOOK);
        envoy.tell("iris", "a");
        envoy.pass(Duration::from_millis(250));
        let first = envoy.asked().remove(0);
        envoy.host.tasks.clear();
        envoy.host.http.borrow_mut().clear();
        envoy.add_worker(HOOK);
        let again = envoy.answer(status(200));
        assert_eq!(again, first);
        assert_eq!(envoy.counted(), [1, 0, 0]);
    }

    #[test]
    fn a_receiver_gets_only_the_kinds_and_deployments_that_it_asks_for() {
        let some = r#"[{"cluster": "hooks", "path": "/a", "deployments": ["rose"]},
            {"cluster": "hooks", "path": "/b", "events": ["change", "breach"]}]"#;
        let envoy = Envoy::start(1, some);
        envoy.tell("iris", "a");
        envoy.tell("rose", "b");
        let request = envoy.answer(status(200));
        assert_eq!((header(&request, ":path"), reason(&request).as_str()), ("/a", "b"));
        envoy.pass(Duration::from_secs(5));
        assert_eq!(envoy.asked().len(), 0);
    }

    /// Two Envoys of a fleet with the same receiver.
    fn fleet() -> [Envoy; 2] {
        [0, 1].map(|number| {
            let hook = format!(r#"{HOOK}, "etcd": {{"cluster": "etcd"}}"#);
            let envoy = Envoy::start(1, &hook);
            // No two are refused within the same millisecond.
            envoy.host.pass(Duration::from_millis(number));
            envoy
        })
    }

    /// Answers the calls of an Envoy to etcd. How many there were.
    fn ask_etcd(envoy: &Envoy, etcd: &mut Model, fate: Fate) -> usize {
        let mut calls = 0;
        loop {
            let waiting: Vec<_> = envoy.host.grpc.borrow_mut().drain(..).collect();
            if waiting.is_empty() {
                return calls;
            }
            for (request, sender) in waiting {
                calls += 1;
                sender.send(etcd.call(&request, fate)).expect("waited for");
            }
            envoy.host.tasks.run();
        }
    }

    #[test]
    fn in_a_fleet_one_envoy_tells_of_what_each_was_refused_and_tells_it_again_where_it_failed() {
        let (envoys, mut etcd) = (fleet(), Model::default());
        for (why, posts) in [("a", [1, 0]), ("b", [1, 0]), ("a", [0, 0])] {
            for (place, envoy) in envoys.iter().enumerate() {
                envoy.tell("iris", why);
                envoy.pass(Duration::from_millis(250));
                assert!(ask_etcd(envoy, &mut etcd, Fate::Answered) > 0);
                assert_eq!(envoy.asked().len(), posts[place], "{why} of {place}");
            }
            if posts[0] == 1 {
                assert_eq!(reason(&envoys[0].answer(status(503))), why);
                assert_eq!(reason(&envoys[0].answer(status(200))), why);
            }
        }
        // Later it is news again.
        envoys.iter().for_each(|envoy| envoy.host.pass(GIVE_UP_AFTER));
        envoys[1].tell("iris", "a");
        envoys[1].pass(Duration::from_millis(500));
        ask_etcd(&envoys[1], &mut etcd, Fate::Answered);
        assert_eq!(envoys[1].asked().len(), 1);
    }

    #[test]
    fn in_a_fleet_without_etcd_each_envoy_tells() {
        let (envoys, mut etcd) = (fleet(), Model::default());
        for envoy in &envoys {
            envoy.tell("iris", "a");
            envoy.pass(Duration::from_millis(250));
            ask_etcd(envoy, &mut etcd, Fate::RequestLost);
            assert_eq!(envoy.asked().len(), 1);
        }
    }

    #[test]
    fn an_unknown_cluster_is_waited_for() {
        let envoy = Envoy::start(1, HOOK);
        envoy.tell("iris", "a");
        let cluster = || crate::model::name::ClusterName::new("hooks").expect("valid");
        envoy.answer(HttpReply::UnknownCluster(cluster()));
        envoy.answer(HttpReply::UnknownCluster(cluster()));
        assert!(envoy.notes()[0].contains("cluster 'hooks' is not known to this Envoy"), "{:?}", envoy.notes());
        envoy.answer(status(200));
        assert_eq!(envoy.counted(), [1, 0, 0]);
    }
}
