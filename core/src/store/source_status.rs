//! What a source was last seen to say about a deployment, and what became of it.
//!
//! It is kept in the store, beside the state: only a value that was not seen before acts, and that must hold across a
//! change of leader and a new configuration.

use serde::Serialize;
use serde_json::Value;

use crate::json::{self, FromJson};
use crate::model::author::Source;
use crate::model::name::DeploymentName;
use crate::model::split::Revision;
use crate::model::time::Timestamp;
use crate::store::key::Key;
use crate::store::{Store, update};

/// What a source was last seen to say about a deployment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, FromJson)]
pub struct SourceStatus {
    /// What it says, in its own terms.
    pub value: Value,
    /// Since when.
    pub at: Timestamp,
    /// What of it has still to be applied. None: all of it was, or the state has changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
    /// Why it was not applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Why the source could not be asked, or not be understood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What has still to be applied.
#[derive(Clone, Debug, PartialEq, Serialize, FromJson)]
pub struct Pending {
    /// The revision that it is for. Another change since then is the later one, and wins.
    pub on: Revision,
    /// What, in the source's own terms.
    pub value: Value,
}

/// What became of a change that a source asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// The state is as the source wants it.
    Applied,
    /// The state was changed otherwise before; the request is void.
    Superseded,
    /// It was not made, for this reason.
    Rejected(String),
}

/// What stands in place of a refusal when the state was changed otherwise before the change could be made.
pub const SUPERSEDED: &str = "another change came first: a new value is needed";

/// What `source` was last seen to say; none when it was not seen yet, or while the store is out of reach.
pub fn read(store: &dyn Store, name: &DeploymentName, source: Source) -> Option<SourceStatus> {
    decode(&store.read(&key(name, source)).ok()?.value?)
}

/// Replaces a status by what `change` makes of it; `None` leaves it as it is. Whether it was replaced.
///
/// While the store is out of reach it is lost, as the state could not be changed either: the source will be seen again.
pub fn record(
    store: &dyn Store,
    name: &DeploymentName,
    source: Source,
    change: &mut dyn FnMut(Option<SourceStatus>) -> Option<SourceStatus>,
) -> bool {
    let written = update(store, &key(name, source), &mut |known| {
        let after = change(known.value.and_then(|bytes| decode(&bytes)))?;
        serde_json::to_vec(&after).ok()
    });
    written == Ok(true)
}

/// Takes note of what became of a source's change. Whether it is news that it was rejected: one that is tried again and
/// again is worth one line in the log.
pub fn acknowledge(
    store: &dyn Store,
    name: &DeploymentName,
    source: Source,
    outcome: &ChangeOutcome,
    now: Timestamp,
) -> bool {
    let mut is_news = false;
    let noted = record(store, name, source, &mut |before| {
        let is_new = before.is_none();
        let before = before.unwrap_or_else(|| SourceStatus { at: now, ..SourceStatus::default() });
        let after = match outcome {
            ChangeOutcome::Applied => SourceStatus { pending: None, refusal: None, ..before.clone() },
            ChangeOutcome::Superseded if before.pending.is_some() => {
                SourceStatus { pending: None, refusal: Some(SUPERSEDED.to_owned()), ..before.clone() }
            }
            // Another instance brought it about meanwhile, or the source keeps no status.
            ChangeOutcome::Superseded => before.clone(),
            ChangeOutcome::Rejected(why) => SourceStatus { refusal: Some(why.clone()), ..before.clone() },
        };
        is_news = matches!(outcome, ChangeOutcome::Rejected(_)) && before.refusal.is_none();
        // A source that keeps no status, such as a guard, needs none for a change that was made.
        (after != before || (is_new && is_news)).then_some(after)
    });
    noted && is_news
}

/// Lets what a source waits for go on waiting after a change of its own that made this revision.
pub fn follow_revision(store: &dyn Store, name: &DeploymentName, source: Source, made: Revision) {
    record(store, name, source, &mut |before| {
        let before = before?;
        let pending = before.pending.clone().filter(|pending| pending.on.next() == made)?;
        Some(SourceStatus { pending: Some(Pending { on: made, ..pending }), ..before })
    });
}

/// By way of a document, as a configuration is read: that code is there anyway.
fn decode(bytes: &[u8]) -> Option<SourceStatus> {
    json::from_value(&json::from_slice(bytes).ok()?).ok()
}

fn key(name: &DeploymentName, source: Source) -> String {
    Key::SourceStatus(name, source).to_string()
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::{MemoryStore, iris};

    fn settled(store: &dyn Store, outcome: ChangeOutcome) -> (bool, Option<SourceStatus>) {
        let news = acknowledge(store, &iris(), Source::Runtime, &outcome, Timestamp::from_millis(1));
        (news, read(store, &iris(), Source::Runtime))
    }

    fn waiting(store: &dyn Store) -> SourceStatus {
        let pending = Some(Pending { on: Revision::new(3), value: "green".into() });
        let status = SourceStatus { value: "green".into(), pending, ..SourceStatus::default() };
        assert!(record(store, &iris(), Source::Runtime, &mut |_| Some(status.clone())));
        status
    }

    #[test]
    fn a_refusal_is_news_once_however_often_it_is_tried_again() {
        let store = MemoryStore::default();
        let waiting_for = waiting(&store).pending;
        let refused = |why: &str| ChangeOutcome::Rejected(why.to_owned());
        let (news, first) = settled(&store, refused("answered 500"));
        let first = first.expect("kept");
        assert_eq!((news, first.refusal.as_deref(), first.pending), (true, Some("answered 500"), waiting_for));
        let (news, again) = settled(&store, refused("answered 503"));
        assert_eq!((news, again.expect("kept").refusal.as_deref()), (false, Some("answered 503")));
        let (news, granted) = settled(&store, ChangeOutcome::Applied);
        let granted = granted.expect("kept");
        assert_eq!((news, granted.refusal, granted.pending), (false, None, None));
        waiting(&store);
        assert!(settled(&store, refused("answered 500")).0);
    }

    #[test]
    fn a_wish_that_came_too_late_waits_no_longer_and_says_why() {
        let store = MemoryStore::default();
        waiting(&store);
        let (news, status) = settled(&store, ChangeOutcome::Superseded);
        let status = status.expect("kept");
        assert_eq!((news, status.pending), (false, None));
        assert!(status.refusal.expect("a reason").contains("another change came first"));
    }

    #[test]
    fn a_source_without_sightings_gets_one_for_a_refusal_only() {
        let store = MemoryStore::default();
        assert_eq!(settled(&store, ChangeOutcome::Applied), (false, None));
        assert!(settled(&store, ChangeOutcome::Rejected("no".to_owned())).1.is_some());
    }

    #[test]
    fn while_the_store_is_out_of_reach_nothing_is_kept_and_nothing_is_news() {
        let store = MemoryStore::default();
        store.set_reachable(false);
        assert_eq!(settled(&store, ChangeOutcome::Rejected("no".to_owned())), (false, None));
    }
}
