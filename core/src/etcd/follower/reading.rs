//! Reading: all keys, page by page, as they were at one revision.

use std::collections::BTreeSet;

use super::{Act, Follower, PAGE, Phase, Purpose, revision_of};
use crate::deployment::DeploymentIndex;
use crate::deployment::{Deployment, Deployments};
use crate::etcd::Reply;
use crate::etcd::messages::{RangeRequest, RangeResponse};
use crate::model::time::Timestamp;
use crate::store::{self, ModRevision, Precedence, Store};

/// How far it has come.
#[derive(Debug)]
pub struct Reading {
    /// Where the next page begins.
    from: Vec<u8>,
    /// The revision; 0 before the first page.
    at: ModRevision,
    found: BTreeSet<DeploymentIndex>,
    /// The last write known here before etcd was asked.
    known: ModRevision,
    precedence: Precedence,
}

// === impl Follower ===

impl Follower {
    /// Begins anew, with the first page.
    pub(super) fn read_all(&mut self, router: &Deployments, store: &dyn Store, acts: &mut Vec<Act>) {
        self.attempt = self.attempt.wrapping_add(1);
        let known = |route: &Deployment| {
            store::load(store, &route.name, route.initial, Timestamp::default()).ok().and_then(|loaded| loaded.origin)
        };
        let reading = Reading {
            from: self.fleet.prefix.clone(),
            at: ModRevision(0),
            found: BTreeSet::new(),
            known: router.all().iter().filter_map(known).max().unwrap_or_default(),
            precedence: Precedence::Later,
        };
        acts.push(self.page(&reading));
        self.phase = Phase::Reading(reading);
    }

    fn page(&self, reading: &Reading) -> Act {
        let request = RangeRequest {
            key: reading.from.clone(),
            range_end: self.fleet.end(),
            limit: PAGE,
            revision: i64::try_from(reading.at.0).unwrap_or_default(),
            ..RangeRequest::default()
        };
        self.ask(Purpose::Page, self.fleet.call("Range", &request))
    }

    /// Takes a page: the next one follows, or else the watch.
    pub(super) fn on_page(
        &mut self,
        reply: &Reply,
        router: &Deployments,
        store: &dyn Store,
        now: Timestamp,
        acts: &mut Vec<Act>,
    ) {
        let Phase::Reading(mut reading) = std::mem::replace(&mut self.phase, Phase::Resting { until: now }) else {
            return;
        };
        let response = match reply.decode::<RangeResponse>() {
            Ok(response) => response,
            Err(why) => {
                self.lose_contact(store, why, acts);
                return self.rest(true, now);
            }
        };
        if reading.at == ModRevision(0) {
            reading.at = revision_of(&response);
            if reading.at < reading.known {
                reading.precedence = Precedence::Always;
                self.seen = ModRevision(0);
            }
        }
        for key in &response.kvs {
            reading.found.extend(self.learn(key, reading.precedence, router, store, acts));
        }
        if let (true, Some(last)) = (response.more, response.kvs.last()) {
            reading.from = [&last.key, &b"\0"[..]].concat();
            acts.push(self.page(&reading));
            self.phase = Phase::Reading(reading);
            return;
        }
        self.seen = self.seen.max(reading.at);
        self.absent = (0..router.all().len()).filter(|index| !reading.found.contains(index)).collect();
        self.watch(reading.at, now, acts);
        self.note_contact(store, now, acts);
        self.create_next(router, store, now, acts);
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::envoy::{state, watching};
    use crate::etcd::liveness::BEAT;
    use crate::etcd::model::{Fate, Model};

    #[test]
    fn many_keys_come_page_by_page() {
        let mut model = Model::default();
        for number in 0..200 {
            model.put(&format!("/bluegreen/a{number}"), &state(1));
        }
        let mut envoy = watching(&mut model);
        envoy.deliver(&mut model);
        assert!(envoy.said().is_empty());
    }

    #[test]
    fn a_store_that_was_restored_from_a_backup_is_followed_backwards() {
        let mut model = Model::default();
        let mut envoy = watching(&mut model);
        for revision in 2..20 {
            model.put("/bluegreen/iris", &state(revision));
        }
        envoy.deliver(&mut model);
        assert_eq!(envoy.revision(), 19);
        let mut restored = Model::default();
        restored.put("/bluegreen/iris", &state(5));
        restored.put("/bluegreen/wine", &state(1));
        envoy.watch = None;
        assert_eq!(envoy.follower.on_closed(envoy.now), []);
        envoy.pass(&mut restored, BEAT, Fate::Answered);
        assert_eq!(envoy.revision(), 5);
        restored.put("/bluegreen/iris", &state(6));
        envoy.deliver(&mut restored);
        assert_eq!(envoy.revision(), 6);
    }
}
