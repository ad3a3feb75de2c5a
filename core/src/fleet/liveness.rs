//! For how long this Envoy may take what it knows for what the fleet's store holds.

use std::time::Duration;

use super::refusal::NoResponse;
use super::store::FleetStore;
use crate::host::Host;
use crate::model::time::Timestamp;
use crate::store::key::Key;
use crate::store::{Store, StoreError, update};

/// What came of it when the store was last asked, which is worth a line when it changes.
#[derive(Debug, Default)]
pub struct Contact(Option<Heard>);

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    States,
    Nothing,
    /// A refusal, with its reason: after each repair of the set-up the next one is told.
    Refusal(String),
}

/// How often a follower gets a sign of life.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// Added to what an answer may take: the tick that asks may be late.
const SLACK: Duration = Duration::from_millis(500);

/// Whether there was no sign of life for so long that a change may have been missed.
pub fn is_lost(store: &dyn Store, fleet: &dyn FleetStore, now: Timestamp) -> bool {
    let until = store.read(&key(fleet)).ok().and_then(|stored| parse(&stored.value?));
    // One that counts for longer than any could was written before the clock was set back.
    until.is_none_or(|until| until <= now || until > now.plus(span(fleet)))
}

/// Takes note of a sign of life.
pub fn note(store: &dyn Store, fleet: &dyn FleetStore, now: Timestamp) {
    write(store, fleet, now.plus(span(fleet)));
}

/// Takes note that the fleet's store does not answer.
pub fn lose(store: &dyn Store, fleet: &dyn FleetStore) {
    write(store, fleet, Timestamp::default());
}

fn write(store: &dyn Store, fleet: &dyn FleetStore, until: Timestamp) {
    let until = until.as_millis().to_string().into_bytes();
    let _: Result<bool, StoreError> = update(store, &key(fleet), &mut |_| Some(until.clone()));
}

fn span(fleet: &dyn FleetStore) -> Duration {
    HEARTBEAT.saturating_add(fleet.timeout()).saturating_add(SLACK)
}

fn parse(bytes: &[u8]) -> Option<Timestamp> {
    std::str::from_utf8(bytes).ok()?.parse().ok().map(Timestamp::from_millis)
}

fn key(fleet: &dyn FleetStore) -> String {
    Key::Liveness(fleet.id()).to_string()
}

// === impl Contact ===

impl Contact {
    /// Takes note of a sign of life.
    pub fn note(&mut self, store: &dyn FleetStore, host: &dyn Host) {
        note(host.store(), store, host.now());
        if self.0.replace(Heard::States) != Some(Heard::States) {
            host.info(&format!("bluegreen: up to date with {}", store.called()));
        }
    }

    /// Takes note that there is none.
    pub fn lose(&mut self, store: &dyn FleetStore, host: &dyn Host, error: &NoResponse) {
        lose(host.store(), store);
        let (heard, what) = match error.is_refused() {
            true => (Heard::Refusal(error.why.clone()), "refuses to give the states"),
            false => (Heard::Nothing, "cannot be reached"),
        };
        if self.0.as_ref() != Some(&heard) {
            self.0 = Some(heard);
            let called = store.called();
            host.warn(&format!("bluegreen: {called} {what}: {error}: the last known states stay in force"));
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::etcd::model::fleet;
    use crate::testing::MemoryStore;

    #[test]
    fn contact_lasts_from_a_sign_of_life_for_the_time_in_which_the_next_must_come() {
        let (store, start) = (MemoryStore::default(), Timestamp::from_millis(1_000_000));
        let fleet = fleet();
        let lost_after = |millis| is_lost(&store, &fleet, start.plus(Duration::from_millis(millis)));
        assert!(lost_after(0), "there was none yet");
        note(&store, &fleet, start);
        assert_eq!([0, 2_499, 2_500].map(lost_after), [false, false, true]);
        lose(&store, &fleet);
        assert!(lost_after(0));
        note(&store, &fleet, start.plus(Duration::from_secs(3_600)));
        assert!(lost_after(0), "the clock was set back");
    }
}
