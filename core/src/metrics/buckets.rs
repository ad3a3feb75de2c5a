//! Which latency buckets have a counter.
//!
//! Envoy shows a stat for each counter that anybody has asked for, so asking all buckets for their counts would put some
//! 300 zeros per deployment into each scrape. The first worker that counts in a bucket writes that down here, and
//! readers ask for no others.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::metrics::latency::Bucket;
use crate::model::colour::{Colour, PerColour};
use crate::model::name::DeploymentName;
use crate::store::key::Key;
use crate::store::{Store, StoreError, update};

/// The buckets of one colour that have a counter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Those of the time to the first byte.
    pub first_byte: BTreeSet<Bucket>,
    /// Those of the time to the last byte.
    pub exchange: BTreeSet<Bucket>,
}

/// What a bucket measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// Time to the first byte.
    FirstByte,
    /// Time to the last byte.
    Exchange,
}

/// Writes down that a bucket has a counter.
///
/// # Errors
/// The store cannot be reached; the bucket's counts are then missing from comparisons.
pub fn note(
    store: &dyn Store,
    name: &DeploymentName,
    colour: Colour,
    latency: Latency,
    bucket: Bucket,
) -> Result<(), StoreError> {
    update(store, &key(name), &mut |known| {
        let mut used = decode(known.value);
        if used.get_mut(colour).of_mut(latency).insert(bucket) { serde_json::to_vec(&used).ok() } else { None }
    })
    .map(|_| ())
}

/// The buckets that have a counter; none while the store is out of reach.
pub fn used(store: &dyn Store, name: &DeploymentName) -> PerColour<Used> {
    store.read(&key(name)).map(|stored| decode(stored.value)).unwrap_or_default()
}

fn decode(value: Option<Vec<u8>>) -> PerColour<Used> {
    serde_json::from_slice(&value.unwrap_or_default()).unwrap_or_default()
}

fn key(name: &DeploymentName) -> String {
    Key::Buckets(name).to_string()
}

// === impl Used ===

impl Used {
    fn of_mut(&mut self, latency: Latency) -> &mut BTreeSet<Bucket> {
        match latency {
            Latency::FirstByte => &mut self.first_byte,
            Latency::Exchange => &mut self.exchange,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::{MemoryStore, iris};

    #[test]
    fn buckets_noted_by_two_workers_at_once_are_both_kept() {
        let store = MemoryStore::default();
        let [fast, slow] = [1, 1_000].map(|millis| Bucket::of(Duration::from_millis(millis)));
        store.before_next_swap(move |store| {
            note(store, &iris(), Colour::Green, Latency::FirstByte, slow).expect("in reach");
        });
        note(&store, &iris(), Colour::Green, Latency::FirstByte, fast).expect("in reach");
        note(&store, &iris(), Colour::Blue, Latency::Exchange, slow).expect("in reach");
        let used = used(&store, &iris());
        assert_eq!(used.green.first_byte, BTreeSet::from([fast, slow]));
        assert_eq!((used.blue.exchange, used.blue.first_byte), (BTreeSet::from([slow]), BTreeSet::new()));
    }

    #[test]
    fn a_foreign_value_counts_as_none() {
        let store = MemoryStore::default();
        store.put("bluegreen/v1/iris/buckets", b"\xff");
        assert_eq!(used(&store, &iris()), PerColour::default());
    }
}
