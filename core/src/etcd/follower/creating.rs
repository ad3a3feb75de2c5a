//! Creating, while it watches: a deployment without a key gets one, made of what is known of it here.

use super::learning::adopt;
use super::{Act, Follower, Phase, Purpose};
use crate::deployment::DeploymentIndex;
use crate::deployment::Deployments;
use crate::etcd::messages::TxnResponse;
use crate::etcd::{Reply, number};
use crate::model::time::Timestamp;
use crate::store::{self, ModRevision, Precedence, Store};

// === impl Follower ===

impl Follower {
    /// Gives one deployment its key, unless somebody else does.
    pub(super) fn create_next(&mut self, router: &Deployments, store: &dyn Store, now: Timestamp, acts: &mut Vec<Act>) {
        let Phase::Watching(watching) = &mut self.phase else { return };
        let Some(index) = self.absent.first().copied() else { return };
        let Some(route) = router.get(index) else { return };
        let Ok(loaded) = store::load(store, &route.name, route.initial, now) else { return };
        if !std::mem::replace(&mut watching.is_creation_under_way, true) {
            let call = self.fleet.put_if(&route.name, ModRevision(0), &loaded.state);
            acts.push(self.ask(Purpose::Create(index), call));
        }
    }

    /// Takes what became of it.
    pub(super) fn on_creation(
        &mut self,
        index: DeploymentIndex,
        reply: &Reply,
        router: &Deployments,
        store: &dyn Store,
        now: Timestamp,
        acts: &mut Vec<Act>,
    ) {
        let Phase::Watching(watching) = &mut self.phase else { return };
        watching.is_creation_under_way = false;
        let Some(route) = router.get(index) else { return };
        // Without an answer it is tried again at the next beat: if it was carried out, it is found there.
        let Ok(response) = reply.decode::<TxnResponse>() else { return };
        let range = response.responses.first().and_then(|response| response.range.as_ref());
        match (response.succeeded, range.and_then(|range| range.kvs.first())) {
            (true, _) => {
                let revision = response.header.map_or(ModRevision(0), |header| number(header.revision));
                if let Ok(loaded) = store::load(store, &route.name, route.initial, now) {
                    adopt(index, &route.name, &loaded.state, revision, Precedence::Later, store, acts);
                }
                self.absent.remove(&index);
            }
            (false, Some(key)) => {
                self.learn(key, Precedence::Later, router, store, acts);
                self.absent.remove(&index);
            }
            // It was removed again in between.
            (false, None) => return,
        }
        self.create_next(router, store, now, acts);
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::envoy::{Envoy, state, watching};
    use crate::etcd::model::{Fate, Model};
    use crate::model::split::Revision;
    use crate::state::State;

    #[test]
    fn what_the_fleet_has_is_taken_over_and_what_it_lacks_is_created() {
        let mut model = Model::default();
        model.put("/bluegreen/iris", &state(7));
        model.put("/bluegreen/other", b"not of this configuration");
        let mut envoy = Envoy::new();
        envoy.tick(&mut model, Fate::Answered);
        assert_eq!(envoy.said(), ["0 is at 7", "contact", "1 is at 0"]);
        let created = State::decode(&model.value("/bluegreen/wine").expect("created")).expect("a state");
        assert_eq!((created.revision, created.split), (Revision::ZERO, Default::default()));
        assert!(!envoy.is_stale());
    }

    #[test]
    fn a_key_that_was_removed_is_created_again_from_what_is_known() {
        let mut model = Model::default();
        let mut envoy = watching(&mut model);
        model.delete("/bluegreen/iris");
        envoy.deliver(&mut model);
        assert_eq!(
            State::decode(&model.value("/bluegreen/iris").expect("there")).map(|state| state.revision.get()),
            Some(1)
        );
        model.put("/bluegreen/iris", &state(2));
        envoy.deliver(&mut model);
        assert_eq!(envoy.revision(), 2);
    }
}
