//! Envoy's runtime as a source: the keys `bluegreen.<deployment>.active` and `bluegreen.<deployment>.canary_percent`, as
//! Envoy's admin interface shows them under `/runtime?format=json`, whichever layer they come from.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::poll::{PollResult, PolledSource};
use crate::change::request::ChangeRequest;
use crate::config::RuntimeSource;
use crate::deployment::{Deployment, DeploymentIndex, Deployments};
use crate::host::http::{HttpReply, HttpRequest};
use crate::json::{self, FromJson};
use crate::model::author::{Author, Source};
use crate::model::colour::Colour;
use crate::model::name::{DeploymentName, Reason};
use crate::model::percent::Percent;
use crate::model::split::Revision;
use crate::model::time::Timestamp;
use crate::state::{Command, Patch};
use crate::store::source_status::{self, Pending, SUPERSEDED, SourceStatus};
use crate::store::{Store, record};

/// Envoy's runtime, asked again and again.
#[derive(Clone, Debug)]
pub struct Runtime {
    section: RuntimeSource,
}

/// A deployment's keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, FromJson)]
struct RuntimeKeys {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    active: Option<Colour>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    canary_percent: Option<Percent>,
}

/// How long Envoy may take to answer for itself.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The most of a bad value that is repeated, in characters.
const LONGEST_VALUE: usize = 40;

// === impl Runtime ===

impl Runtime {
    /// The source as configured.
    pub const fn new(section: RuntimeSource) -> Self {
        Self { section }
    }

    /// What one deployment's keys mean for it.
    fn observe(
        &self,
        index: DeploymentIndex,
        deployment: &Deployment,
        entries: &Value,
        store: &dyn Store,
        now: Timestamp,
        result: &mut PollResult,
    ) {
        let keys = RuntimeKeys::read(entries, &deployment.name);
        let (mut change, mut warning) = (None, None);
        let mut is_news = false;
        let recorded = source_status::record(store, &deployment.name, Source::Runtime, &mut |before| {
            let known = before.clone().unwrap_or_else(|| SourceStatus { at: now, ..SourceStatus::default() });
            (change, warning) = (None, None);
            let after = match &keys {
                Ok(keys) => {
                    let revision = || {
                        let loaded = record::load(store, &deployment.name, deployment.initial, now).ok()?;
                        Some(loaded.state.revision)
                    };
                    let after = keys.after(&known, revision, now)?;
                    change = after.pending.as_ref().map(|pending| self.request_change(index, deployment, pending));
                    after
                }
                Err(problem) => {
                    let error = Some(problem.clone());
                    warning = (known.error != error).then(|| format!("deployment={} {problem}", deployment.name));
                    // What was waited for goes on waiting until it is clear what is meant.
                    SourceStatus { error, ..known }
                }
            };
            is_news = before.as_ref() != Some(&after);
            is_news.then_some(after)
        });
        if recorded || !is_news {
            result.changes.extend(change);
            result.warnings.extend(warning);
        }
    }

    fn request_change(&self, index: DeploymentIndex, deployment: &Deployment, pending: &Pending) -> ChangeRequest {
        let keys = RuntimeKeys::from_value(&pending.value);
        let reason = Reason::new(keys.words(&deployment.name)).unwrap_or_else(|_| Reason::none());
        let patch = Patch { active: keys.active, canary_percent: keys.canary_percent, shadow_percent: None };
        let author = Author::automatic(Source::Runtime, reason);
        ChangeRequest::new(index, Command::Patch(patch), author, Some(pending.on)).enforce(self.section.enforce)
    }

    /// Takes note everywhere that the runtime could not be read. That is worth one warning, however many deployments.
    fn on_error(&self, problem: &str, deployments: &Deployments, store: &dyn Store, now: Timestamp) -> PollResult {
        let mut is_news = false;
        for deployment in deployments.all() {
            source_status::record(store, &deployment.name, Source::Runtime, &mut |before| {
                let known = before.unwrap_or_else(|| SourceStatus { at: now, ..SourceStatus::default() });
                is_news |= known.error.is_none();
                (known.error.as_deref() != Some(problem))
                    .then(|| SourceStatus { error: Some(problem.to_owned()), ..known })
            });
        }
        let warnings = is_news.then(|| problem.to_owned()).into_iter().collect();
        PollResult { warnings, has_failed: true, ..PollResult::default() }
    }
}

impl PolledSource for Runtime {
    fn source(&self) -> Source {
        Source::Runtime
    }

    fn interval(&self) -> Duration {
        self.section.poll_interval
    }

    fn request(&self) -> HttpRequest {
        HttpRequest::new(&self.section.cluster, "envoy-admin", "GET", "/runtime?format=json", TIMEOUT)
    }

    fn on_reply(&self, reply: &HttpReply, deployments: &Deployments, store: &dyn Store, now: Timestamp) -> PollResult {
        let document: Option<Value> = match reply {
            HttpReply::Answered { status: 200, body } => json::from_slice(body).ok(),
            _ => None,
        };
        let Some(entries) = document.as_ref().and_then(|document| document.get("entries")) else {
            let problem = format!(
                "GET /runtime?format=json of cluster '{}' {}; expected Envoy's own admin interface",
                self.section.cluster,
                reply.describe(TIMEOUT),
            );
            return self.on_error(&problem, deployments, store, now);
        };
        let mut result = PollResult::default();
        for (index, deployment) in deployments.all().iter().enumerate() {
            self.observe(index, deployment, entries, store, now, &mut result);
        }
        result
    }
}

// === impl RuntimeKeys ===

impl RuntimeKeys {
    /// Reads a deployment's keys; the error names the key and what it may be.
    fn read(entries: &Value, name: &DeploymentName) -> Result<Self, String> {
        // Envoy shows each value as a string, and one that was taken back not at all.
        let text = |key: &str| {
            let value = entries.get(format!("bluegreen.{name}.{key}"))?.get("final_value")?.as_str()?;
            (!value.is_empty()).then_some(value)
        };
        let refuse = |key: &str, value: &str, allowed: &str| {
            let value: String = value.chars().filter(|letter| !letter.is_control()).take(LONGEST_VALUE).collect();
            format!("runtime key bluegreen.{name}.{key} is {value:?}: it may be {allowed}")
        };
        let active = text("active")
            .map(|value| value.parse().map_err(|_| refuse("active", value, "blue or green")))
            .transpose()?;
        let canary_percent = text("canary_percent")
            .map(|value| {
                let allowed = "a number from 0 to 100 with at most two decimals";
                value.parse().map_err(|_| refuse("canary_percent", value, allowed))
            })
            .transpose()?;
        Ok(Self { active, canary_percent })
    }

    /// The status after this was seen, or `None` when nothing has to be done or kept.
    fn after(
        self,
        known: &SourceStatus,
        revision: impl FnOnce() -> Option<Revision>,
        now: Timestamp,
    ) -> Option<SourceStatus> {
        let before = Self::from_value(&known.value);
        let is_first = known.value.is_null();
        if !is_first && self == before && known.pending.is_none() && known.error.is_none() {
            return None;
        }
        let on = revision()?;
        let fresh = self.diff(before);
        let (waiting, superseded) = match &known.pending {
            Some(pending) if pending.on == on => (Self::from_value(&pending.value), false),
            Some(_) => (Self::default(), true),
            None => (Self::default(), false),
        };
        // What was waited for, as far as it is still said, and what is new.
        let wanted = Self {
            active: fresh.active.or(waiting.active.filter(|active| self.active == Some(*active))),
            canary_percent: fresh
                .canary_percent
                .or(waiting.canary_percent.filter(|share| self.canary_percent == Some(*share))),
        };
        let pending = (wanted != Self::default()).then(|| Pending { on, value: wanted.to_value() });
        let refusal = match (&pending, superseded) {
            // Only a change that is tried again keeps its refusal: another one's is news.
            (Some(_), _) => known.refusal.clone().filter(|_| fresh == Self::default()),
            (None, true) => Some(SUPERSEDED.to_owned()),
            (None, false) => known.refusal.clone().filter(|_| known.pending.is_none()),
        };
        let at = if is_first || self != before { now } else { known.at };
        Some(SourceStatus { value: self.to_value(), at, pending, refusal, error: None })
    }

    /// The keys that differ from those `before`. A key that is gone is no instruction.
    fn diff(self, before: Self) -> Self {
        Self {
            active: self.active.filter(|active| before.active != Some(*active)),
            canary_percent: self.canary_percent.filter(|share| before.canary_percent != Some(*share)),
        }
    }

    /// As `key=value`, for the history.
    fn words(self, name: &DeploymentName) -> String {
        let active = self.active.map(|active| format!("bluegreen.{name}.active={active}"));
        let canary = self.canary_percent.map(|share| format!("bluegreen.{name}.canary_percent={share}"));
        [active, canary].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    fn from_value(value: &Value) -> Self {
        json::from_value(value).unwrap_or_default()
    }

    fn to_value(self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use serde_json::json;

    use super::*;
    use crate::change::request::{Checks, Precondition};
    use crate::config::Config;
    use crate::model::split::Split;
    use crate::store::record::update_state;
    use crate::store::source_status::{ChangeOutcome, acknowledge, read};
    use crate::testing::{MemoryStore, iris, percent};

    /// Keys of `iris` with their values.
    type Keys<'a> = &'a [(&'a str, &'a str)];

    /// Envoy, as its admin interface shows it, and one who asks it.
    struct Asked {
        source: Runtime,
        deployments: Deployments,
        store: MemoryStore,
    }

    impl Asked {
        fn new() -> Self {
            let json = r#"{"deployments": {"iris": {"colours": {
                "blue": {"cluster": "b", "version": "1"}, "green": {"cluster": "g", "version": "2"}}}},
                "runtime": {"cluster": "envoy_admin"}}"#;
            let config = Config::from_bytes(json.as_bytes()).expect("valid");
            let source = Runtime::new(config.runtime.clone().expect("present"));
            Self { source, deployments: Deployments::new(&config), store: MemoryStore::default() }
        }

        fn reply(&mut self, reply: &HttpReply) -> PollResult {
            self.source.on_reply(reply, &self.deployments, &self.store, Timestamp::from_millis(7))
        }

        /// What a poll comes to when the keys of `iris` have these values.
        fn round(&mut self, keys: Keys<'_>) -> PollResult {
            let entry = |(key, value): &(&str, &str)| {
                (format!("bluegreen.iris.{key}"), json!({"layer_values": ["", value], "final_value": value}))
            };
            let entries: serde_json::Map<String, Value> = keys.iter().map(entry).collect();
            let body = json!({"layers": ["static", "admin"], "entries": entries}).to_string().into_bytes();
            self.reply(&HttpReply::Answered { status: 200, body })
        }

        /// The patch that a poll asks for.
        fn wanted(&mut self, keys: Keys<'_>) -> Option<Patch> {
            let mut result = self.round(keys);
            assert!(result.changes.len() < 2 && result.warnings.is_empty(), "{result:?}");
            match result.changes.pop()?.command {
                Command::Patch(patch) => Some(patch),
                other => panic!("{other:?}"),
            }
        }

        fn acknowledge(&self, outcome: &ChangeOutcome) {
            acknowledge(&self.store, &iris(), Source::Runtime, outcome, Timestamp::default());
        }

        fn operate(&self, command: Command) {
            let alice = Author::new(crate::testing::holder("alice"), Source::Admin, Reason::none());
            let now = Timestamp::default();
            update_state(&self.store, &iris(), Split::default(), now, &mut |loaded| {
                loaded.state.after(&command, alice.clone(), now)
            })
            .expect("allowed");
        }

        fn status(&self) -> SourceStatus {
            read(&self.store, &iris(), Source::Runtime).expect("seen")
        }
    }

    fn active(active: Colour) -> Option<Patch> {
        Some(Patch { active: Some(active), ..Patch::default() })
    }

    fn canary(share: &str) -> Option<Patch> {
        Some(Patch { canary_percent: Some(percent(share)), ..Patch::default() })
    }

    #[test]
    fn only_a_value_that_was_not_seen_before_is_wanted_key_by_key() {
        let mut envoy = Asked::new();
        let both = Patch { active: Some(Colour::Green), canary_percent: Some(percent("12.5")), shadow_percent: None };
        let rounds: [(Keys<'_>, Option<Patch>); 9] = [
            (&[], None),
            (&[("canary_percent", "10")], canary("10")),
            (&[("canary_percent", "10.0")], None),
            (&[("canary_percent", "10"), ("active", "green")], active(Colour::Green)),
            (&[("canary_percent", "20"), ("active", "green")], canary("20")),
            // A key that is gone is no instruction, but it comes back as a new one.
            (&[], None),
            (&[("active", "green"), ("canary_percent", "12.5")], Some(both)),
            (&[("active", "green"), ("canary_percent", "12.5")], None),
            (&[("active", "blue"), ("canary_percent", "12.5")], active(Colour::Blue)),
        ];
        for (round, (keys, expected)) in rounds.into_iter().enumerate() {
            assert_eq!(envoy.wanted(keys), expected, "round {round}");
            envoy.acknowledge(&ChangeOutcome::Applied);
        }
        assert_eq!(envoy.status().value, json!({"active": "blue", "canary_percent": 12.5}));
    }

    #[test]
    fn what_was_refused_is_wanted_again_until_the_state_or_the_value_changes() {
        let mut envoy = Asked::new();
        let green: [(&str, &str); 1] = [("active", "green")];
        for _ in 0..3 {
            assert_eq!(envoy.wanted(&green), active(Colour::Green));
            envoy.acknowledge(&ChangeOutcome::Rejected("unhealthy".to_owned()));
        }
        assert_eq!(envoy.status().refusal.as_deref(), Some("unhealthy"));
        // Another key joins what is waited for.
        let both = [("active", "green"), ("canary_percent", "1")];
        let wanted = envoy.wanted(&both).expect("both");
        assert_eq!((wanted.active, wanted.canary_percent), (Some(Colour::Green), Some(percent("1"))));
        // Taken back, it is waited for no longer.
        assert_eq!(envoy.wanted(&both[1..]), canary("1"));
        assert_eq!(envoy.wanted(&[]), None);
        assert_eq!((envoy.status().pending, envoy.status().refusal), (None, None));
        // An operator's change is the later one.
        assert_eq!(envoy.wanted(&green), active(Colour::Green));
        envoy.operate(canary("5").map(Command::Patch).expect("a patch"));
        assert_eq!(envoy.wanted(&green), None);
        assert!(envoy.status().refusal.expect("a note").contains("another change came first"));
        assert_eq!(envoy.wanted(&green), None);
    }

    #[test]
    fn an_old_value_does_not_fight_an_operator() {
        let mut envoy = Asked::new();
        assert_eq!(envoy.wanted(&[("active", "green")]), active(Colour::Green));
        envoy.acknowledge(&ChangeOutcome::Applied);
        envoy.operate(Command::Promote(None));
        envoy.operate(Command::RollBack(None));
        assert_eq!(envoy.wanted(&[("active", "green")]), None);
    }

    #[test]
    fn a_change_names_its_keys_its_source_and_the_revision_that_it_is_for() {
        let mut envoy = Asked::new();
        envoy.operate(Command::Promote(None));
        let result = envoy.round(&[("active", "blue"), ("canary_percent", "33.33")]);
        let request = result.changes.first().expect("one");
        assert_eq!(request.author.reason.as_str(), "bluegreen.iris.active=blue, bluegreen.iris.canary_percent=33.33");
        assert_eq!((request.author.by.as_str(), request.source()), ("runtime", Source::Runtime));
        let at = Precondition::Revisions(vec![Revision::new(1)]);
        assert_eq!((request.checks, &request.precondition), (Checks::Enforce, &at));
    }

    #[test]
    fn a_bad_value_is_warned_of_once_with_its_key_and_stops_the_other_key_too() {
        let share = "a number from 0 to 100 with at most two decimals";
        let cases = [
            ("active", "purple", "\"purple\": it may be blue or green"),
            ("active", "true", "\"true\": it may be blue or green"),
            ("canary_percent", "120", &format!("\"120\": it may be {share}")),
            ("canary_percent", "goo.gle\n{}", &format!("\"goo.gle{{}}\": it may be {share}")),
        ];
        for (key, value, words) in cases {
            let mut envoy = Asked::new();
            let other = if key == "active" { ("canary_percent", "10") } else { ("active", "green") };
            let bad = [(key, value), other];
            let result = envoy.round(&bad);
            assert_eq!(result.changes, [], "{value}");
            assert!(result.warnings.iter().all(|line| line.contains(key) && line.contains(words)), "{result:?}");
            assert_eq!((result.warnings.len(), envoy.round(&bad)), (1, PollResult::default()), "{value}");
            assert!(envoy.status().error.expect("an error").contains(words));
            assert!(envoy.wanted(&bad[1..]).is_some(), "{value}");
            assert_eq!(envoy.status().error, None);
        }
    }

    #[test]
    fn an_envoy_that_cannot_be_asked_is_warned_of_once_and_what_waits_goes_on_waiting() {
        let mut envoy = Asked::new();
        assert!(envoy.wanted(&[("active", "green")]).is_some());
        let answered = |status, body: &str| HttpReply::Answered { status, body: body.as_bytes().to_vec() };
        for (reply, news) in [(answered(503, "no"), 1), (answered(200, "<html>"), 0), (HttpReply::Broken, 0)] {
            let result = envoy.reply(&reply);
            assert_eq!((result.changes.len(), result.warnings.len()), (0, news), "{reply:?}");
        }
        let error = envoy.status().error.expect("an error");
        assert!(error.contains("cluster 'envoy_admin' the connection broke before an answer"), "{error}");
        assert_eq!(envoy.wanted(&[("active", "green")]), active(Colour::Green));
        assert_eq!(envoy.status().error, None);
    }

    #[test]
    fn while_the_store_is_out_of_reach_nothing_is_wanted_and_afterwards_nothing_is_lost() {
        let mut envoy = Asked::new();
        envoy.store.set_reachable(false);
        assert_eq!(envoy.wanted(&[("active", "green")]), None);
        envoy.store.set_reachable(true);
        assert_eq!(envoy.wanted(&[("active", "green")]), active(Colour::Green));
    }
}
