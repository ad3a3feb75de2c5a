//! For how long this Envoy may take what it knows for what etcd holds.

use std::time::Duration;

use super::store::EtcdStore;
use crate::model::time::Timestamp;
use crate::store::key::Key;
use crate::store::{Store, StoreError, update};

/// How often the follower asks etcd for a sign of life, which takes a quorum of its members.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// Added to what an answer may take: the tick that asks may be late.
const SLACK: Duration = Duration::from_millis(500);

/// Whether there was no sign of life for so long that a change may have been missed.
pub fn is_lost(store: &dyn Store, etcd: &EtcdStore, now: Timestamp) -> bool {
    let until = store.read(&key(etcd)).ok().and_then(|stored| parse(&stored.value?));
    // One that counts for longer than any could was written before the clock was set back.
    until.is_none_or(|until| until <= now || until > now.plus(span(etcd)))
}

/// Takes note of a sign of life.
pub fn note(store: &dyn Store, etcd: &EtcdStore, now: Timestamp) {
    write(store, etcd, now.plus(span(etcd)));
}

/// Takes note that etcd does not answer.
pub fn lose(store: &dyn Store, etcd: &EtcdStore) {
    write(store, etcd, Timestamp::default());
}

fn write(store: &dyn Store, etcd: &EtcdStore, until: Timestamp) {
    let until = until.as_millis().to_string().into_bytes();
    let _: Result<bool, StoreError> = update(store, &key(etcd), &mut |_| Some(until.clone()));
}

fn span(etcd: &EtcdStore) -> Duration {
    HEARTBEAT.saturating_add(etcd.timeout).saturating_add(SLACK)
}

fn parse(bytes: &[u8]) -> Option<Timestamp> {
    std::str::from_utf8(bytes).ok()?.parse().ok().map(Timestamp::from_millis)
}

fn key(etcd: &EtcdStore) -> String {
    Key::Liveness(etcd.id()).to_string()
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
