//! The configuration as a source: a pushed `initial` that is another one than before.

use crate::change::request::Wish;
use crate::config::{ConfigPush, reader};
use crate::deployment::Deployment;
use crate::deployment::DeploymentIndex;
use crate::model::author::{Author, Source};
use crate::model::split::Revision;
use crate::model::time::Timestamp;
use crate::readiness::gate::{self, Evidence};
use crate::readiness::versions::versions;
use crate::state::Command;
use crate::store::source_status::{Pending, Sighting, read, record};
use crate::store::{self, Applied, ApplyError, Effect, Found, Store, StoreError};

/// What became of a configuration's `initial` when it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// It was adopted, now or before.
    Done(Applied),
    /// A colour has to be asked first, or tested, or the fleet's store. The state in force is this one, and [`pushed`] has the wish.
    Held(Applied),
}

/// Records a configuration's `initial`: the state of a new deployment, or a change if it is not the one applied last.
///
/// Every worker thread and the main thread call this with each configuration push; one of them makes the change.
///
/// # Errors
/// The store cannot be reached. Requests are then routed by `initial`.
pub fn adopt_initial(
    store: &dyn Store,
    route: &Deployment,
    push: ConfigPush,
    now: Timestamp,
) -> Result<Adoption, StoreError> {
    let initial = route.initial;
    let command = Command::AdoptInitial(initial);
    let versions = versions(store, route);
    let adopted = store::update(store, &route.name, initial, now, |loaded| {
        let before = &loaded.state;
        if matches!(loaded.found, Found::Nothing | Found::Foreign) {
            return Ok(Some(before.clone()));
        }
        // No rule of the state refuses an `initial`.
        let Ok(Some(after)) = before.after(command, Author::config(), now) else { return Ok(None) };
        match gate::check(before, &after, route, &versions, Evidence::none(), now) {
            Ok(()) => Ok(Some(after)),
            Err(_) if push.enforce => Err(before.revision),
            Err(_) => {
                let author = Author { forced: true, ..Author::config() };
                Ok(before.after(command, author, now).ok().flatten())
            }
        }
    });
    match adopted {
        Ok(applied) => {
            wait_no_longer(store, route, now);
            Ok(Adoption::Done(applied))
        }
        Err(ApplyError::Refused(on, state)) => {
            hold(store, route, on, now);
            Ok(Adoption::Held(Applied { state: *state, effect: Effect::None }))
        }
        Err(ApplyError::Unavailable) => Err(StoreError),
    }
}

/// Records a configuration's `initial` in a fleet, whose states are elsewhere: whether it is another one than this Envoy
/// had before, and therefore has to be carried there.
///
/// An Envoy that starts joins the fleet as it is: its configuration may be older than the last change, and must not undo
/// it. The first `initial` of all is for the deployment that the fleet does not know yet.
///
/// # Errors
/// The store cannot be reached. Requests are then routed by `initial`.
pub fn announce_initial(store: &dyn Store, route: &Deployment, now: Timestamp) -> Result<Adoption, StoreError> {
    let loaded = store::load(store, &route.name, route.initial, now)?;
    let value = serde_json::to_value(route.initial).unwrap_or_default();
    let effect = if loaded.found == Found::Nothing { Effect::Noted } else { Effect::None };
    let applied = Applied { state: loaded.state, effect };
    let on = applied.state.revision;
    record(store, &route.name, Source::Config, &mut |before| {
        let is_new = before.as_ref().is_none_or(|known| known.value != value);
        let pending = before.map(|_| Pending { on, value: value.clone() });
        is_new.then(|| Sighting { value: value.clone(), at: now, pending, ..Sighting::default() })
    });
    let waits = read(store, &route.name, Source::Config).is_some_and(|sighting| sighting.pending.is_some());
    Ok(if waits { Adoption::Held(applied) } else { Adoption::Done(applied) })
}

/// What a pushed configuration still wants of a deployment. It comes from the store and not from this instance's
/// configuration, which may be an older one that lives until its last stream ends.
pub fn pushed(store: &dyn Store, deployment: DeploymentIndex, route: &Deployment) -> Option<Wish> {
    let pending = read(store, &route.name, Source::Config)?.pending?;
    let initial = reader::read(&pending.value).ok()?;
    let command = Command::AdoptInitial(initial);
    Some(Wish { deployment, command, author: Author::config(), enforce: true, on: Some(pending.on) })
}

/// Lets the `initial` wait, unless it did already: the same one again changes nothing, also when it was given up.
fn hold(store: &dyn Store, route: &Deployment, on: Revision, now: Timestamp) {
    let value = serde_json::to_value(route.initial).unwrap_or_default();
    record(store, &route.name, Source::Config, &mut |before| {
        let is_new = before.is_none_or(|known| known.value != value);
        let pending = Some(Pending { on, value: value.clone() });
        is_new.then(|| Sighting { value: value.clone(), at: now, pending, ..Sighting::default() })
    });
}

/// Lets no `initial` wait, neither this one, which was adopted, nor another that was configured before.
fn wait_no_longer(store: &dyn Store, route: &Deployment, now: Timestamp) {
    let value = serde_json::to_value(route.initial).unwrap_or_default();
    record(store, &route.name, Source::Config, &mut |before| {
        let known = before?;
        let at = if known.value == value { known.at } else { now };
        let after = Sighting { value: value.clone(), at, ..Sighting::default() };
        (after != known).then_some(after)
    });
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::change::request::Outcome;
    use crate::config::Config;
    use crate::deployment::Deployments;
    use crate::model::name::Reason;
    use crate::model::split::Split;
    use crate::state::State;
    use crate::store::load;
    use crate::store::source_status::settle;
    use crate::testing::{MemoryStore, iris, split};

    const PROBE: &str = r#", "probe": {"path": "/ping"}"#;
    const ENFORCED: ConfigPush = ConfigPush { enforce: true };

    fn router(sections: &str, initial: Split) -> Deployments {
        let initial = serde_json::to_string(&initial).expect("serialises");
        let json = format!(
            r#"{{"deployments": {{"iris": {{"initial": {initial}, "colours": {{
                "blue": {{"cluster": "b", "version": "1"}}, "green": {{"cluster": "g", "version": "2"}}}} {sections}}}}}}}"#
        );
        Deployments::new(&Config::from_bytes(json.as_bytes()).expect("valid"))
    }

    fn adopt_with(store: &dyn Store, sections: &str, initial: Split, push: ConfigPush) -> Result<Adoption, StoreError> {
        adopt_initial(store, &router(sections, initial).all()[0], push, Timestamp::from_millis(2))
    }

    /// Without rules, everything is done at once.
    fn adopt(store: &dyn Store, initial: Split) -> Applied {
        match adopt_with(store, "", initial, ENFORCED) {
            Ok(Adoption::Done(applied)) => applied,
            other => panic!("{other:?}"),
        }
    }

    fn is_held(store: &dyn Store, initial: Split) -> bool {
        matches!(adopt_with(store, PROBE, initial, ENFORCED), Ok(Adoption::Held(_)))
    }

    /// The split that is waited for.
    fn wanted(store: &dyn Store) -> Option<Split> {
        match pushed(store, 0, &router(PROBE, Split::default()).all()[0])?.command {
            Command::AdoptInitial(initial) => Some(initial),
            other => panic!("{other:?}"),
        }
    }

    fn state(store: &dyn Store) -> State {
        load(store, &iris(), Split::default(), Timestamp::default()).expect("in reach").state
    }

    fn promote(store: &dyn Store) {
        let author = Author::new("alice", Source::Admin, Reason::none());
        let now = Timestamp::from_millis(1);
        store::update(store, &iris(), Split::default(), now, |loaded| {
            loaded.state.after(Command::Promote, author.clone(), now)
        })
        .expect("promoted");
    }

    #[test]
    fn a_configuration_is_adopted_once_and_never_undoes_an_operators_switch() {
        let (store, blue, green) = (MemoryStore::default(), Split::default(), split("green", "0", "0"));
        assert_eq!(adopt(&store, blue).effect, Effect::Noted);
        assert_eq!(adopt(&store, blue).effect, Effect::None);
        promote(&store);
        let kept = adopt(&store, blue);
        assert_eq!((kept.effect, kept.state.split.active), (Effect::None, green.active));
        assert_eq!(adopt(&store, green).effect, Effect::Noted);
        let pushed = adopt(&store, blue);
        assert_eq!((pushed.effect, pushed.state.split), (Effect::Changed, blue));
        assert_eq!(pushed.state.author, Author::config());
    }

    #[test]
    fn under_rules_the_first_initial_is_adopted_at_once_and_a_later_one_waits() {
        let (store, blue, green) = (MemoryStore::default(), Split::default(), split("green", "0", "0"));
        assert!(!is_held(&store, blue));
        // All threads load the same configuration.
        for _ in 0..3 {
            assert!(is_held(&store, green));
            assert_eq!((wanted(&store), state(&store).split), (Some(green), blue));
        }
        // What gives no colour its first traffic waits for nothing.
        assert!(!is_held(&store, split("blue", "0", "7")));
        assert_eq!((wanted(&store), state(&store).revision), (None, Revision::new(1)));
    }

    #[test]
    fn an_initial_that_is_taken_back_is_not_waited_for_and_pushed_again_it_is() {
        let (store, blue, green) = (MemoryStore::default(), Split::default(), split("green", "0", "0"));
        assert!(!is_held(&store, blue) && is_held(&store, green) && !is_held(&store, blue));
        assert_eq!(wanted(&store), None);
        assert!(is_held(&store, green));
        assert_eq!(wanted(&store), Some(green));
    }

    #[test]
    fn an_initial_that_was_given_up_stays_so_until_another_one_is_pushed() {
        let (store, blue, green) = (MemoryStore::default(), Split::default(), split("green", "0", "0"));
        assert!(!is_held(&store, blue) && is_held(&store, green));
        settle(&store, &iris(), Source::Config, &Outcome::Overtaken, Timestamp::default());
        assert!(is_held(&store, green));
        assert_eq!(wanted(&store), None);
        assert!(is_held(&store, split("green", "5", "0")));
        assert_eq!(wanted(&store), Some(split("green", "5", "0")));
    }

    #[test]
    fn without_enforcement_it_is_adopted_at_once_and_marked_where_a_rule_applied() {
        for (sections, forced) in [(PROBE, true), ("", false)] {
            let store = MemoryStore::default();
            let lax = ConfigPush { enforce: false };
            adopt_with(&store, sections, Split::default(), lax).expect("in reach");
            let adoption = adopt_with(&store, sections, split("green", "0", "0"), lax);
            let Ok(Adoption::Done(applied)) = adoption else { panic!("{adoption:?}") };
            assert_eq!((applied.effect, applied.state.author.forced), (Effect::Changed, forced));
        }
    }

    #[test]
    fn another_listeners_configuration_that_does_not_enforce_ends_the_waiting() {
        let (store, green) = (MemoryStore::default(), split("green", "0", "0"));
        assert!(!is_held(&store, Split::default()) && is_held(&store, green));
        adopt_with(&store, PROBE, green, ConfigPush { enforce: false }).expect("in reach");
        assert_eq!((wanted(&store), state(&store).split), (None, green));
        assert_eq!(read(&store, &iris(), Source::Config).and_then(|sighting| sighting.refusal), None);
    }

    #[test]
    fn in_a_fleet_only_an_initial_that_replaces_another_one_waits_to_be_carried_there() {
        let (store, blue, green) = (MemoryStore::default(), Split::default(), split("green", "0", "0"));
        let announce = |initial| {
            let adoption = announce_initial(&store, &router("", initial).all()[0], Timestamp::from_millis(2));
            matches!(adoption, Ok(Adoption::Held(_)))
        };
        assert!(!announce(blue) && !announce(blue), "the Envoy started with that");
        for _ in 0..3 {
            assert!(announce(green), "each thread loads it");
            assert_eq!(wanted(&store), Some(green));
        }
        assert_eq!(state(&store).revision, Revision::ZERO, "the state is the fleet's");
        settle(&store, &iris(), Source::Config, &Outcome::Granted, Timestamp::default());
        assert!(!announce(green));
        assert!(announce(blue));
        assert_eq!(wanted(&store), Some(blue));
    }

    #[test]
    fn a_store_out_of_reach_is_an_error() {
        let store = MemoryStore::default();
        store.set_reachable(false);
        assert_eq!(adopt_with(&store, "", Split::default(), ENFORCED), Err(StoreError));
    }
}
