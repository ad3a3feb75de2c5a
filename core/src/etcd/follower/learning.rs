//! Taking over what a key of the fleet holds, whichever phase brought it.

use super::{Act, Follower};
use crate::deployment::DeploymentIndex;
use crate::deployment::{Deployment, Deployments};
use crate::etcd::messages::KeyValue;
use crate::etcd::number;
use crate::model::name::DeploymentName;
use crate::state::State;
use crate::store::{self, Effect, ModRevision, Precedence, Store};

// === impl Follower ===

impl Follower {
    /// Takes over what a key holds. The deployment whose key it is, if there is one.
    pub(super) fn learn(
        &mut self,
        key: &KeyValue,
        precedence: Precedence,
        router: &Deployments,
        store: &dyn Store,
        acts: &mut Vec<Act>,
    ) -> Option<DeploymentIndex> {
        let revision = number(key.mod_revision);
        self.seen = self.seen.max(revision);
        let (index, route) = find(router, self.fleet.name_of(&key.key)?)?;
        match State::decode(&key.value) {
            Some(state) => adopt(index, &route.name, &state, revision, precedence, store, acts),
            None if self.foreign.insert(index, revision) == Some(revision) => {}
            None => {
                let why =
                    "what etcd holds under its key is not a state: it is ignored until the next change replaces it";
                acts.push(Act::Warn(index, why.to_owned()));
            }
        }
        Some(index)
    }
}

/// Takes a state over, and makes it known if it is news.
pub fn adopt(
    index: DeploymentIndex,
    name: &DeploymentName,
    state: &State,
    revision: ModRevision,
    precedence: Precedence,
    store: &dyn Store,
    acts: &mut Vec<Act>,
) {
    match store::adopt(store, name, state, revision, precedence) {
        Ok(applied) if applied.effect == Effect::None => {}
        Ok(applied) => acts.push(Act::Publish(index, applied)),
        Err(error) => acts.push(Act::Warn(index, error.to_string())),
    }
}

/// The deployment with this name.
pub fn find<'r>(router: &'r Deployments, name: &str) -> Option<(DeploymentIndex, &'r Deployment)> {
    // The routes are in the order of their names.
    let index = router.all().binary_search_by(|route| route.name.as_str().cmp(name)).ok()?;
    Some((index, router.get(index)?))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::envoy::{state, watching};
    use crate::etcd::liveness::BEAT;
    use crate::etcd::model::{Fate, Model};

    #[test]
    fn what_is_not_a_state_is_warned_of_once_and_replaced_by_the_next_change() {
        let mut model = Model::default();
        let mut envoy = watching(&mut model);
        model.put("/bluegreen/iris", b"not ours");
        envoy.deliver(&mut model);
        envoy.deliver(&mut model);
        assert_eq!(envoy.follower.on_closed(envoy.now), []);
        envoy.pass(&mut model, BEAT, Fate::Answered);
        let said = envoy.said();
        assert!(said.len() == 1 && said[0].starts_with("0: what etcd holds under its key is not a state"), "{said:?}");
        assert_eq!(envoy.revision(), 1);
        model.put("/bluegreen/iris", &state(2));
        envoy.deliver(&mut model);
        assert_eq!(envoy.revision(), 2);
    }
}
