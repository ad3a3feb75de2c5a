//! For how long this Envoy may take what it knows for what etcd holds.

use std::time::Duration;

use super::Fleet;
use crate::model::time::Timestamp;
use crate::store::key::Key;
use crate::store::{Store, SwapError};

/// How often whoever follows the fleet asks etcd for a sign of life, which takes a quorum of its members.
pub const BEAT: Duration = Duration::from_secs(1);

/// Added to what an answer may take: the tick that asks may be late.
const SLACK: Duration = Duration::from_millis(500);

/// Whether there was no sign of life for so long that a change may have been missed.
pub fn is_lost(store: &dyn Store, fleet: &Fleet, now: Timestamp) -> bool {
    let until = store.read(&key(fleet)).ok().and_then(|stored| parse(&stored.value?));
    // One that counts for longer than any could was written before the clock was set back.
    until.is_none_or(|until| until <= now || until > now.plus(span(fleet)))
}

/// Takes note of a sign of life.
pub fn note(store: &dyn Store, fleet: &Fleet, now: Timestamp) {
    write(store, fleet, now.plus(span(fleet)));
}

/// Takes note that etcd does not answer.
pub fn lose(store: &dyn Store, fleet: &Fleet) {
    write(store, fleet, Timestamp::default());
}

fn write(store: &dyn Store, fleet: &Fleet, until: Timestamp) {
    if let Ok(stored) = store.read(&key(fleet)) {
        // Another note that came first is as new as this one.
        let _: Result<(), SwapError> = store.swap(&key(fleet), until.as_millis().to_string().as_bytes(), stored.seen);
    }
}

fn span(fleet: &Fleet) -> Duration {
    BEAT.saturating_add(fleet.timeout).saturating_add(SLACK)
}

fn parse(bytes: &[u8]) -> Option<Timestamp> {
    std::str::from_utf8(bytes).ok()?.parse().ok().map(Timestamp::from_millis)
}

fn key(fleet: &Fleet) -> String {
    Key::Contact(fleet.id()).to_string()
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
        let lost_after = |millis| is_lost(&store, &fleet(), start.plus(Duration::from_millis(millis)));
        assert!(lost_after(0), "there was none yet");
        note(&store, &fleet(), start);
        assert_eq!([0, 2_499, 2_500].map(lost_after), [false, false, true]);
        lose(&store, &fleet());
        assert!(lost_after(0));
        note(&store, &fleet(), start.plus(Duration::from_secs(3_600)));
        assert!(lost_after(0), "the clock was set back");
    }
}
