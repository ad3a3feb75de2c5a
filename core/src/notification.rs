//! What people are told about a deployment, and the queue in which it waits to be sent.
//!
//! The queue is one record in shared data: whichever thread makes a change adds to it, one thread sends, and a virtual machine
//! that fails in between loses nothing. Each receiver has a place in it. Without receivers nothing is kept.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::config::EventKind;
use crate::deployment::Deployment;
use crate::host::Host;
use crate::json::{self, FromJson};
use crate::metrics::named::Named;
use crate::model::author::Source;
use crate::model::colour::{Colour, PerColour};
use crate::model::one_line::one_line;
use crate::model::percent::Percent;
use crate::model::split::Revision;
use crate::model::time::{SKEW, Timestamp};
use crate::state::State;
use crate::state::history::{Change, Replacement};
use crate::state::rollout::Phase;
use crate::store::key::Key;
use crate::store::{Store, StoreError, update};
use std::time::Duration;

/// What has happened to a deployment.
#[derive(Clone, Copy, Debug)]
pub enum Event<'e> {
    /// A change made this state.
    Change(&'e State),
    /// A rule of the guard was broken.
    Breach {
        /// The rule.
        rule: &'static str,
        /// The colour that broke it.
        colour: Colour,
        /// The state that it served in.
        revision: Revision,
        /// What was seen.
        what: &'e str,
    },
    /// An automatic change was not made.
    Refused {
        /// Who asked for it.
        source: Source,
        /// Why it was not made.
        why: &'e str,
    },
}

/// A notification in the queue.
#[derive(Clone, Debug, PartialEq, Serialize, FromJson)]
pub struct Waiting {
    /// Its place: the first one is 1.
    pub number: u64,
    /// When it happened.
    pub at: Timestamp,
    /// What is sent as JSON.
    pub body: Map<String, Value>,
}

/// What is kept in shared data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, FromJson)]
struct Queue {
    /// The number of the newest one.
    last: u64,
    /// The oldest first.
    waiting: VecDeque<Waiting>,
    receivers: Vec<Position>,
}

/// How far a receiver has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, FromJson)]
struct Position {
    receiver: u64,
    /// The last one that it got, or was not to get, or that was given up.
    done: u64,
    /// When an instance last asked on its behalf.
    seen: Timestamp,
}

/// So many wait. Of more the oldest are dropped.
pub const MOST_WAITING: usize = 64;

/// The number of the format that [`Waiting::body`] has.
const FORMAT: u64 = 1;

/// The longest text, in bytes.
const LONGEST_TEXT: usize = 600;

/// How often a receiver's sign of life is written.
const RENEWED_EVERY: Duration = Duration::from_secs(5);

/// A receiver without a sign of life for so long is in no configuration any more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// So many receivers have a place at once: those of several listeners.
const MOST_POSITIONS: usize = 32;

/// Puts what has happened into the queue, if there are receivers. It is sent at the next tick of the one that sends.
pub fn tell(host: &dyn Host, deployment: &Deployment, event: &Event<'_>) {
    let store = host.store();
    // Most Envoys have no receiver, and spare the rest.
    let is_heard = store.read(&key()).is_ok_and(|stored| !decode(stored.value).receivers.is_empty());
    if !is_heard {
        return;
    }
    let now = host.now();
    let body = event.body(deployment, &host.node(), now);
    let mut dropped: usize = 0;
    let written = update(store, &key(), &mut |before| {
        let mut queue = decode(before.value);
        dropped = queue.push(now, body.clone());
        queue.encode()
    });
    if written.is_err() {
        host.warn(&format!("bluegreen: deployment={}: a notification is lost: {StoreError}", deployment.name));
    }
    (0..dropped).for_each(|_| host.count(&metric("dropped")));
}

/// Gives a receiver its place in the queue, behind all that is there, or renews it.
pub fn renew(store: &dyn Store, receiver: u64, now: Timestamp) {
    // Without the store there is a next tick.
    let _: Result<bool, StoreError> = update(store, &key(), &mut |before| {
        let mut queue = decode(before.value);
        queue.renew(receiver, now).then(|| queue.encode()).flatten()
    });
}

/// The next one for a receiver. Those before it that it does not want are passed over for good.
pub fn next(store: &dyn Store, receiver: u64, is_wanted: &dyn Fn(&Waiting) -> bool) -> Option<Waiting> {
    let mut found = None;
    let read = update(store, &key(), &mut |before| {
        let mut queue = decode(before.value);
        let done = queue.receivers.iter().find(|position| position.receiver == receiver)?.done;
        let mut rest = queue.waiting.iter().filter(|waiting| waiting.number > done);
        found = rest.find(|waiting| is_wanted(waiting)).cloned();
        let passed = found.as_ref().map_or(queue.last, |next| next.number.saturating_sub(1));
        queue.done(receiver, passed).then(|| queue.encode()).flatten()
    });
    found.filter(|_| read.is_ok())
}

/// A receiver is done with a notification: it was sent, or given up.
pub fn done(store: &dyn Store, receiver: u64, number: u64) {
    // Without the store it will be sent once more.
    let _: Result<bool, StoreError> = update(store, &key(), &mut |before| {
        let mut queue = decode(before.value);
        queue.done(receiver, number).then(|| queue.encode()).flatten()
    });
}

/// The counter of notifications with this result.
pub fn metric(result: &'static str) -> String {
    Named::Notifications(result).to_string()
}

/// By way of a document, as a configuration is read: that code is there anyway. What another plugin wrote there is no queue.
fn decode(value: Option<Vec<u8>>) -> Queue {
    let document: Option<Value> = json::from_slice(&value.unwrap_or_default()).ok();
    document.and_then(|document| json::from_value(&document).ok()).unwrap_or_default()
}

fn key() -> String {
    Key::Notifications.to_string()
}

// === impl Queue ===

impl Queue {
    fn encode(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self).ok()
    }

    /// Adds one. How many are dropped for it, once for each receiver that had not got them.
    fn push(&mut self, at: Timestamp, body: Map<String, Value>) -> usize {
        self.last = self.last.saturating_add(1);
        self.waiting.push_back(Waiting { number: self.last, at, body });
        let mut dropped: usize = 0;
        while self.waiting.len() > MOST_WAITING {
            let Some(oldest) = self.waiting.pop_front() else { break };
            let without = self.receivers.iter().filter(|position| position.done < oldest.number).count();
            dropped = dropped.saturating_add(without);
        }
        dropped
    }

    /// Whether something has changed.
    fn renew(&mut self, receiver: u64, now: Timestamp) -> bool {
        let last = self.last;
        match self.receivers.iter_mut().find(|position| position.receiver == receiver) {
            Some(position) if position.seen.apart(now) < RENEWED_EVERY => return false,
            Some(position) => position.seen = now,
            None => self.receivers.push(Position { receiver, done: last, seen: now }),
        }
        self.receivers.retain(|position| position.seen.apart(now) < FORGOTTEN_AFTER);
        let too_many = self.receivers.len().saturating_sub(MOST_POSITIONS);
        self.receivers.drain(..too_many);
        self.forget();
        true
    }

    /// Whether something has changed.
    fn done(&mut self, receiver: u64, number: u64) -> bool {
        let Some(position) = self.receivers.iter_mut().find(|position| position.receiver == receiver) else {
            return false;
        };
        let is_further = position.done < number;
        position.done = position.done.max(number);
        self.forget();
        is_further
    }

    /// Forgets what all receivers are done with.
    fn forget(&mut self) {
        let done = self.receivers.iter().map(|position| position.done).min().unwrap_or(self.last);
        self.waiting.retain(|waiting| waiting.number > done);
    }
}

// === impl Event ===

impl Event<'_> {
    const fn kind(&self) -> EventKind {
        match self {
            Self::Change(_) => EventKind::Change,
            Self::Breach { .. } => EventKind::Breach,
            Self::Refused { .. } => EventKind::Refused,
        }
    }

    fn body(&self, deployment: &Deployment, node: &str, now: Timestamp) -> Map<String, Value> {
        let mut body = Map::new();
        let mut put = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
        let at = match self {
            Self::Change(state) => {
                let change = state.history.newest();
                if let Some(Ok(Value::Object(fields))) = change.map(serde_json::to_value) {
                    fields.into_iter().for_each(|(name, value)| put(&name, value));
                }
                let versions = PerColour::from_fn(|colour| deployment.identity(state, colour).version.clone());
                put("versions", serde_json::to_value(versions).unwrap_or_default());
                change.map_or(now, |change| change.at)
            }
            Self::Breach { rule, colour, revision, what } => {
                put("rule", (*rule).into());
                put("colour", colour.as_str().into());
                put("revision", revision.get().into());
                put("source", Source::Guard.as_str().into());
                put("reason", shortened(what).into());
                now
            }
            Self::Refused { source, why } => {
                put("source", source.as_str().into());
                put("reason", shortened(why).into());
                now
            }
        };
        put("format", FORMAT.into());
        put("type", self.kind().as_str().into());
        put("deployment", deployment.name.as_str().into());
        put("at", at.to_string().into());
        put("text", shortened(&self.text(deployment)).into());
        if !node.is_empty() {
            put("envoy", shortened(node).into());
        }
        let id = xxhash_rust::xxh64::xxh64(&serde_json::to_vec(&body).unwrap_or_default(), 0);
        body.insert("id".to_owned(), format!("{id:016x}").into());
        body
    }

    /// One sentence for people.
    fn text(&self, deployment: &Deployment) -> String {
        let name = &deployment.name;
        match self {
            Self::Change(state) => match state.history.newest() {
                Some(change) => format!("{name}: {}", sentence(deployment, state, change)),
                None => format!("{name}: changed"),
            },
            Self::Breach { rule, colour, what, .. } => {
                format!("{name}: {colour} broke the guard's rule {rule:?}: {what}")
            }
            Self::Refused { source, why } => {
                format!("{name}: a change by {} was refused: {why}", source.as_str())
            }
        }
    }
}

fn sentence(deployment: &Deployment, state: &State, change: &Change) -> String {
    let Change { revision, author, from, to, rollout, replaced, .. } = change;
    let mut parts = Vec::new();
    if from.active != to.active {
        let version = &deployment.identity(state, to.active).version;
        parts.push(format!("{} (version {version}) is active now, {} was", to.active, from.active));
    }
    let of = |share: Percent| if share == Percent::ZERO { "0 %".to_owned() } else { format!("{share} %") };
    if from.canary_percent != to.canary_percent {
        parts.push(format!("canary {}, was {}", of(to.canary_percent), of(from.canary_percent)));
    }
    if from.shadow_percent != to.shadow_percent {
        parts.push(format!("shadow {}, was {}", of(to.shadow_percent), of(from.shadow_percent)));
    }
    if let Some(Replacement { colour, from, to }) = replaced {
        parts.push(format!("{colour} is version {} now, was {}", to.version, from.version));
    }
    if let Some(phase) = rollout {
        parts.push(format!("rollout {}", Phase::as_str(*phase)));
    }
    let forced = if author.forced { ", forced" } else { "" };
    let reason = author.reason.as_str();
    let colon = if reason.is_empty() { "" } else { ": " };
    format!(
        "{} (revision {revision} by {}, source {}{forced}){colon}{reason}",
        parts.join("; "),
        author.by,
        author.source.as_str()
    )
}

/// In one line that shows all that it says, and not too long.
fn shortened(text: &str) -> String {
    let mut line = one_line(text).into_owned();
    line.truncate(line.floor_char_boundary(LONGEST_TEXT));
    line
}

// === impl Waiting ===

impl Waiting {
    /// A text field of it; empty if it has none.
    pub fn text(&self, field: &str) -> &str {
        self.body.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    /// How long ago it happened. One that lies ahead was noted by a clock that was set back since, and counts as old.
    pub fn age(&self, now: Timestamp) -> Duration {
        if self.at > now.plus(SKEW) { Duration::MAX } else { now.since(self.at) }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::deployment::Deployments;
    use crate::model::author::Author;
    use crate::model::name::Reason;
    use crate::state::{Command, Patch};
    use crate::testing::host::{START, TestHost};
    use crate::testing::{config_of, percent, split};

    const RECEIVER: u64 = 7;

    fn deployments() -> Deployments {
        Deployments::new(&config_of(""))
    }

    fn refused(host: &TestHost, why: &str) {
        let event = Event::Refused { source: Source::Mlflow, why };
        tell(host, &deployments().all()[0], &event);
    }

    fn all(_: &Waiting) -> bool {
        true
    }

    fn reason_of(waiting: Option<Waiting>) -> String {
        waiting.map(|waiting| waiting.text("reason").to_owned()).unwrap_or_default()
    }

    #[test]
    fn nothing_is_kept_while_nobody_receives_anything() {
        let host = TestHost::default();
        refused(&host, "first");
        assert_eq!(host.store.read(&key()).expect("in reach").value, None);
        renew(&host.store, RECEIVER, START);
        assert_eq!(next(&host.store, RECEIVER, &all), None, "it begins with what comes after");
        refused(&host, "second");
        assert_eq!(reason_of(next(&host.store, RECEIVER, &all)), "second");
    }

    #[test]
    fn each_receiver_gets_all_in_order_at_its_own_pace_and_what_all_have_is_forgotten() {
        let host = TestHost::default();
        renew(&host.store, 1, START);
        renew(&host.store, 2, START);
        refused(&host, "a");
        refused(&host, "b");
        let first = next(&host.store, 1, &all).expect("waits");
        assert_eq!(next(&host.store, 1, &all), Some(first.clone()), "until it is done");
        done(&host.store, 1, first.number);
        assert_eq!(reason_of(next(&host.store, 1, &all)), "b");
        assert_eq!(reason_of(next(&host.store, 2, &all)), "a");
        done(&host.store, 1, 2);
        done(&host.store, 2, 2);
        let queue = decode(host.store.read(&key()).expect("in reach").value);
        assert_eq!((queue.waiting.len(), queue.last), (0, 2));
    }

    #[test]
    fn what_a_receiver_does_not_want_is_passed_over_and_takes_no_room() {
        let host = TestHost::default();
        renew(&host.store, RECEIVER, START);
        ["a", "b", "c"].iter().for_each(|why| refused(&host, why));
        let only_b = |waiting: &Waiting| waiting.text("reason") == "b";
        assert_eq!(reason_of(next(&host.store, RECEIVER, &only_b)), "b");
        done(&host.store, RECEIVER, 2);
        assert_eq!(next(&host.store, RECEIVER, &only_b), None);
        assert_eq!(decode(host.store.read(&key()).expect("in reach").value).waiting.len(), 0);
    }

    #[test]
    fn a_full_queue_drops_the_oldest_and_counts_them() {
        let host = TestHost::default();
        renew(&host.store, RECEIVER, START);
        for number in 0..MOST_WAITING + 3 {
            refused(&host, &number.to_string());
        }
        assert_eq!(host.counter(&metric("dropped")), 3);
        assert_eq!(reason_of(next(&host.store, RECEIVER, &all)), "3");
    }

    #[test]
    fn a_receiver_that_is_configured_no_more_is_forgotten_after_ten_minutes() {
        let host = TestHost::default();
        renew(&host.store, 1, START);
        refused(&host, "a");
        renew(&host.store, 2, START.plus(FORGOTTEN_AFTER));
        assert_eq!(next(&host.store, 1, &all), None);
        let queue = decode(host.store.read(&key()).expect("in reach").value);
        assert_eq!((queue.waiting.len(), queue.receivers.len()), (0, 1));
    }

    #[test]
    fn what_another_plugin_writes_there_is_no_queue_and_does_no_harm() {
        let host = TestHost::default();
        for junk in [&b"junk"[..], b"{}", b"{\"last\": -1}", b"[]"] {
            host.store.put(&key(), junk);
            refused(&host, "a");
            assert_eq!(next(&host.store, RECEIVER, &all), None);
            renew(&host.store, RECEIVER, START);
            refused(&host, "b");
            assert_eq!(reason_of(next(&host.store, RECEIVER, &all)), "b");
        }
    }

    fn change(command: &Command, reason: &str) -> Map<String, Value> {
        let deployments = deployments();
        let iris = &deployments.all()[0];
        let alice = Author::new(crate::testing::holder("alice"), Source::Admin, Reason::new(reason).expect("valid"));
        let before = State::initial(split("blue", "0", "0"), START).knowing(&iris.colours);
        let state = before.after(command, alice, START).expect("allowed").expect("a change");
        Event::Change(&state).body(iris, "edge-1", START)
    }

    #[test]
    fn a_change_says_what_who_when_and_why_in_fields_and_in_a_sentence() {
        let body = change(&Command::Promote(None), "v2 \"passed\"");
        let expected = serde_json::json!({
            "format": 1, "type": "change", "deployment": "iris", "revision": 1, "at": START, "envoy": "edge-1",
            "by": "alice", "source": "admin", "reason": "v2 \"passed\"",
            "from": {"active": "blue", "canary_percent": 0, "shadow_percent": 0},
            "to": {"active": "green", "canary_percent": 0, "shadow_percent": 0},
            "versions": {"blue": "1", "green": "2"},
            "text": "iris: green (version 2) is active now, blue was (revision 1 by alice, source admin): v2 \"passed\"",
            "id": body["id"],
        });
        assert_eq!(Value::Object(body.clone()), expected);
        let id = body["id"].as_str().expect("a text");
        assert!(id.len() == 16 && body["id"] != change(&Command::Promote(None), "")["id"], "{id}");
        let patch = Patch { canary_percent: Some(percent("12.5")), shadow_percent: Some(percent("1")), active: None };
        let text = "iris: canary 12.5 %, was 0 %; shadow 1 %, was 0 % (revision 1 by alice, source admin)";
        assert_eq!(change(&Command::Patch(patch), "")["text"], text);
    }

    #[test]
    fn a_breach_and_a_refusal_say_what_was_seen() {
        let deployments = deployments();
        let iris = &deployments.all()[0];
        let revision = Revision::new(3);
        let breach = Event::Breach { rule: "error", colour: Colour::Green, revision, what: "5 of 9 failed" };
        let body = breach.body(iris, "", START);
        let seen = [&body["type"], &body["rule"], &body["colour"], &body["reason"], &body["text"]];
        let text = "iris: green broke the guard's rule \"error\": 5 of 9 failed";
        assert_eq!(seen, ["breach", "error", "green", "5 of 9 failed", text]);
        assert_eq!(body.get("envoy"), None);
        let why = format!("bad\n{}", "x".repeat(2 * LONGEST_TEXT));
        let body = Event::Refused { source: Source::Mlflow, why: &why }.body(iris, "", START);
        let text = body["text"].as_str().expect("a text");
        assert!(text.starts_with("iris: a change by mlflow was refused: bad\\nxx") && text.len() == LONGEST_TEXT);
    }
}
