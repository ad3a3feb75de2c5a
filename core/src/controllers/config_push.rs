//! The configuration as a source: a pushed `initial` that is another one than before.

use std::rc::Rc;
use std::time::Duration;

use super::submissions::Submissions;
use super::{leader, versions};
use crate::change::context::Context;
use crate::change::error::ChangeError;
use crate::change::request::ChangeRequest;
use crate::change::submit::submit_now;
use crate::config::ConfigPush;
use crate::deployment::{Deployment, DeploymentIndex};
use crate::host::next_tick;
use crate::json;
use crate::model::author::{Author, Source};
use crate::model::split::{Revision, Split};
use crate::model::time::Timestamp;
use crate::state::{Command, State};
use crate::store::key::Key;
use crate::store::record::{self, Applied, Effect, Origin};
use crate::store::source_status::{self, Pending, SourceStatus, read};
use crate::store::{CasToken, Store, StoreError, Versioned, replace};
use crate::workers::publish;
use crate::workers::roster::Roster;

/// What became of a configuration's `initial` when it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitialState {
    /// It was applied, now or before.
    Applied(Applied),
    /// A colour has to be asked first, or tested, or the fleet's store. The state in force is this one, and [`pending`] has
    /// the request.
    Pending(Applied),
}

/// How long after a refusal it is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Records a configuration's `initial`: the state of a new deployment, or a change if it is not the one applied last.
///
/// Every worker thread and the main thread call this with each configuration push; one of them makes the change.
///
/// # Errors
/// The store cannot be reached. Requests are then routed by `initial`.
pub fn apply_initial(context: &Context, index: DeploymentIndex, push: ConfigPush) -> Result<InitialState, StoreError> {
    let deployment = context.deployments.get(index).ok_or(StoreError)?;
    let (store, now) = (context.host.store(), context.host.now());
    if context.fleet.is_some() {
        return register_initial(store, deployment, now);
    }
    let loaded = record::load(store, &deployment.name, deployment.initial, now)?;
    if versions::holds_back(&versions::waiting(store, &deployment.name), deployment.initial, &loaded.state) {
        mark_pending(store, deployment, loaded.state.revision, now);
        return Ok(InitialState::Pending(Applied { state: loaded.state, effect: Effect::None }));
    }
    let command = Command::AdoptInitial(deployment.initial);
    let request = ChangeRequest::new(index, command, Author::config(), None).enforce(push.enforce);
    match submit_now(context, &request) {
        Ok(Some(applied)) => {
            clear_pending(store, deployment, now);
            Ok(InitialState::Applied(applied))
        }
        Ok(None) | Err(ChangeError::Rejected(..)) => {
            let loaded = record::load(store, &deployment.name, deployment.initial, now)?;
            mark_pending(store, deployment, loaded.state.revision, now);
            Ok(InitialState::Pending(Applied { state: loaded.state, effect: Effect::None }))
        }
        Err(_) => Err(StoreError),
    }
}

/// Records a configuration's `initial` in a fleet, whose states are elsewhere: whether it is another one than this Envoy
/// had before, and therefore has to be carried there.
///
/// An Envoy that starts joins the fleet as it is: its configuration may be older than the last change, and must not undo
/// it. The first `initial` of all is for the deployment that the fleet does not know yet.
fn register_initial(store: &dyn Store, deployment: &Deployment, now: Timestamp) -> Result<InitialState, StoreError> {
    let loaded = record::load(store, &deployment.name, deployment.initial, now)?;
    let value = serde_json::to_value(deployment.initial).unwrap_or_default();
    let effect = if loaded.origin == Origin::Absent { Effect::Recorded } else { Effect::None };
    let applied = Applied { state: loaded.state, effect };
    let on = applied.state.revision;
    source_status::record(store, &deployment.name, Source::Config, &mut |before| {
        let is_new = before.as_ref().is_none_or(|known| known.value != value);
        let pending = before.map(|_| Pending { on, value: value.clone() });
        is_new.then(|| SourceStatus { value: value.clone(), at: now, pending, ..SourceStatus::default() })
    });
    let waits = read(store, &deployment.name, Source::Config).is_some_and(|status| status.pending.is_some());
    Ok(if waits { InitialState::Pending(applied) } else { InitialState::Applied(applied) })
}

/// What a pushed configuration still asks of a deployment. It comes from the store and not from this instance's
/// configuration, which may be an older one that lives until its last stream ends.
pub fn pending(store: &dyn Store, index: DeploymentIndex, deployment: &Deployment) -> Option<ChangeRequest> {
    let pending = read(store, &deployment.name, Source::Config)?.pending?;
    let initial = json::from_value(&pending.value).ok()?;
    Some(ChangeRequest::new(index, Command::AdoptInitial(initial), Author::config(), Some(pending.on)))
}

/// Lets the `initial` wait, unless it did already: the same one again changes nothing, also when it was given up.
fn mark_pending(store: &dyn Store, deployment: &Deployment, on: Revision, now: Timestamp) {
    let value = serde_json::to_value(deployment.initial).unwrap_or_default();
    source_status::record(store, &deployment.name, Source::Config, &mut |before| {
        let is_new = before.is_none_or(|known| known.value != value);
        let pending = Some(Pending { on, value: value.clone() });
        is_new.then(|| SourceStatus { value: value.clone(), at: now, pending, ..SourceStatus::default() })
    });
}

/// Lets no `initial` wait, neither this one, which was applied, nor another that was configured before.
fn clear_pending(store: &dyn Store, deployment: &Deployment, now: Timestamp) {
    let value = serde_json::to_value(deployment.initial).unwrap_or_default();
    source_status::record(store, &deployment.name, Source::Config, &mut |before| {
        let known = before?;
        let at = if known.value == value { known.at } else { now };
        let after = SourceStatus { value: value.clone(), at, ..SourceStatus::default() };
        (after != known).then_some(after)
    });
}

/// The `initial` that is still asked for.
pub fn wanted(store: &dyn Store, deployment: &Deployment) -> Option<Split> {
    json::from_value(&read(store, &deployment.name, Source::Config)?.pending?.value).ok()
}

/// Takes over what a configuration says of each deployment: what is behind its colours, and its `initial`. The deployments of
/// which something has to wait.
///
/// Of a thousand deployments most are as they were, since each thread loads each configuration, or are new to this Envoy; for
/// both a few calls do. Gauges and samples are the leader's: only those of the first deployments are made at once.
pub fn load(context: &Context, push: ConfigPush) -> Vec<DeploymentIndex> {
    let (host, store, now) = (&*context.host, context.host.store(), context.host.now());
    let (mut waiting, mut has_begun) = (Vec::new(), false);
    for (index, deployment) in context.deployments.all().iter().enumerate() {
        let (key, digest) = (Key::TakenOver(&deployment.name).to_string(), taken_over(context, deployment, push));
        let stored = store.read(&key).unwrap_or(Versioned { value: None, token: CasToken::Never });
        let is_known = stored.value.as_deref() == Some(&digest);
        if is_known && index >= AT_ONCE {
            continue;
        }
        let loaded = match begin(context, deployment, now) {
            Ok(true) => {
                has_begun = true;
                Ok((Effect::Recorded, None))
            }
            Ok(false) if is_known => Ok((Effect::None, None)),
            Ok(false) => load_one(context, (index, deployment), push).map(|(effect, state)| (effect, Some(state))),
            Err(error) => Err(error),
        };
        let (effect, state) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                let name = &deployment.name;
                host.warn(&format!("bluegreen: deployment={name}: {error}: requests follow initial"));
                continue;
            }
        };
        let waits = state.is_some()
            && (wanted(store, deployment).is_some()
                || versions::is_waiting(&versions::waiting(store, &deployment.name)));
        if waits {
            waiting.push(index);
        }
        if !is_known {
            // Where that fails, or another thread comes first with another configuration, it is looked at again.
            let known = if waits { &[][..] } else { &digest };
            let _: Result<bool, StoreError> = replace(store, &key, known, stored.token);
        }
        if index < AT_ONCE {
            show(context, (index, deployment), effect, state);
        }
    }
    if has_begun {
        context.worker.note_write(host);
    }
    waiting
}

/// So many deployments have gauges and a sample, with which comparisons begin, as soon as they are configured. Those of the
/// others come in the leader's turns, or with their first change or request.
const AT_ONCE: usize = 16;

/// Stands for all on which it depends what a configuration changes of a deployment.
fn taken_over(context: &Context, deployment: &Deployment, push: ConfigPush) -> [u8; 8] {
    let (in_fleet, enforced) = (u64::from(context.fleet.is_some()), u64::from(push.enforce));
    (deployment.digest ^ (in_fleet << 1) ^ enforced).to_le_bytes()
}

/// The first configuration of a deployment is its state. Whether it was the first: in a fleet the state comes from elsewhere.
fn begin(context: &Context, deployment: &Deployment, now: Timestamp) -> Result<bool, StoreError> {
    let store = context.host.store();
    if context.fleet.is_some() {
        return Ok(false);
    }
    let state = State::initial(deployment.initial, now).knowing(&deployment.colours);
    Ok(record::begin(store, &deployment.name, &state)? && versions::begin(store, deployment)?)
}

/// Shows the state of a deployment, and takes a first sample of one that is new.
fn show(context: &Context, (index, deployment): (DeploymentIndex, &Deployment), effect: Effect, state: Option<State>) {
    let (host, store) = (&*context.host, context.host.store());
    if effect != Effect::None {
        leader::sample(context, index, deployment, &Roster::read(store), &mut false);
    }
    let read = || record::load(store, &deployment.name, deployment.initial, host.now()).map(|loaded| loaded.state);
    if let Ok(state) = state.map_or_else(read, Ok) {
        publish::show(host, index, deployment, &state);
    }
}

/// What is behind a colour comes first, since an `initial` that gives it traffic is meant for that. Only a colour that the
/// `initial` takes the traffic from comes after it. What became of the `initial`, and the state in force.
fn load_one(
    context: &Context,
    (index, deployment): (DeploymentIndex, &Deployment),
    push: ConfigPush,
) -> Result<(Effect, State), StoreError> {
    let (store, now) = (context.host.store(), context.host.now());
    versions::announce(context, deployment)?;
    versions::try_now(context, index, push, Some(deployment.initial));
    let initial = apply_initial(context, index, push)?;
    versions::try_now(context, index, push, wanted(store, deployment));
    let (InitialState::Applied(Applied { effect, .. }) | InitialState::Pending(Applied { effect, .. })) = initial;
    Ok((effect, record::load(store, &deployment.name, deployment.initial, now)?.state))
}

/// Tries what waits of a deployment, until all of it was applied or given up.
pub async fn run(
    context: &Context,
    submissions: &Rc<Submissions>,
    index: DeploymentIndex,
    push: ConfigPush,
    lease: &str,
) {
    let (host, Some(deployment)) = (&*context.host, context.deployments.get(index)) else { return };
    next_tick(host).await;
    loop {
        if context.instance.leads(host.store(), lease, host.now()) {
            versions::try_again(context, index, push, wanted(host.store(), deployment)).await;
            if let Some(request) = ready(context, index, deployment) {
                submissions.submit(request.enforce(push.enforce));
            }
        }
        let waits = versions::is_waiting(&versions::waiting(host.store(), &deployment.name));
        if !waits && wanted(host.store(), deployment).is_none() {
            return;
        }
        host.sleep(AGAIN_AFTER).await;
    }
}

/// The `initial` that is asked for, unless what it is meant for waits.
fn ready(context: &Context, index: DeploymentIndex, deployment: &Deployment) -> Option<ChangeRequest> {
    let (store, now) = (context.host.store(), context.host.now());
    let request = pending(store, index, deployment)?;
    let Command::AdoptInitial(initial) = request.command else { return None };
    let state = record::load(store, &deployment.name, deployment.initial, now).ok()?.state;
    (!versions::holds_back(&versions::waiting(store, &deployment.name), initial, &state)).then_some(request)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::config::Config;
    use crate::model::name::Reason;
    use crate::store::record::update_state;
    use crate::store::source_status::{ChangeOutcome, acknowledge};
    use crate::testing::host::TestHost;
    use crate::testing::{iris, split};

    const PROBE: &str = r#", "probe": {"path": "/ping"}"#;
    const ENFORCED: ConfigPush = ConfigPush { enforce: true };

    /// One of an Envoy's instances, with a configuration that has this `initial`.
    fn instance(host: &Rc<TestHost>, in_deployment: &str, in_document: &str, initial: Split) -> Context {
        let initial = serde_json::to_string(&initial).expect("serialises");
        let json = format!(
            r#"{{"deployments": {{"iris": {{"initial": {initial}, "colours": {{
                "blue": {{"cluster": "b", "version": "1"}},
                "green": {{"cluster": "g", "version": "2"}}}} {in_deployment}}}}} {in_document}}}"#
        );
        Context::new(Rc::<TestHost>::clone(host), &Config::from_bytes(json.as_bytes()).expect("valid"), None)
    }

    fn apply_with(
        host: &Rc<TestHost>,
        sections: &str,
        initial: Split,
        push: ConfigPush,
    ) -> Result<InitialState, StoreError> {
        apply_initial(&instance(host, sections, "", initial), 0, push)
    }

    /// Without rules, everything is done at once.
    fn apply(host: &Rc<TestHost>, initial: Split) -> Applied {
        match apply_with(host, "", initial, ENFORCED) {
            Ok(InitialState::Applied(applied)) => applied,
            other => panic!("{other:?}"),
        }
    }

    fn is_pending(host: &Rc<TestHost>, initial: Split) -> bool {
        matches!(apply_with(host, PROBE, initial, ENFORCED), Ok(InitialState::Pending(_)))
    }

    /// The split that is waited for.
    fn wanted(host: &Rc<TestHost>) -> Option<Split> {
        let context = instance(host, PROBE, "", Split::default());
        match pending(&host.store, 0, &context.deployments.all()[0])?.command {
            Command::AdoptInitial(initial) => Some(initial),
            other => panic!("{other:?}"),
        }
    }

    fn state(host: &Rc<TestHost>) -> State {
        record::load(&host.store, &iris(), Split::default(), Timestamp::default()).expect("in reach").state
    }

    fn promote(host: &Rc<TestHost>) {
        let author = Author::new(crate::testing::holder("alice"), Source::Admin, Reason::none());
        let now = Timestamp::from_millis(1);
        update_state(&host.store, &iris(), Split::default(), now, &mut |loaded| {
            loaded.state.after(&Command::Promote(None), author.clone(), now)
        })
        .expect("promoted");
    }

    #[test]
    fn a_configuration_is_adopted_once_and_never_undoes_an_operators_switch() {
        let (host, blue, green) = (Rc::new(TestHost::default()), Split::default(), split("green", "0", "0"));
        assert_eq!(apply(&host, blue).effect, Effect::Recorded);
        assert_eq!(apply(&host, blue).effect, Effect::None);
        promote(&host);
        let kept = apply(&host, blue);
        assert_eq!((kept.effect, kept.state.split.active), (Effect::None, green.active));
        assert_eq!(apply(&host, green).effect, Effect::Recorded);
        let pushed = apply(&host, blue);
        assert_eq!((pushed.effect, pushed.state.split), (Effect::Rerouted, blue));
        assert_eq!(pushed.state.author, Author::config());
    }

    #[test]
    fn under_rules_the_first_initial_is_adopted_at_once_and_a_later_one_waits() {
        let (host, blue, green) = (Rc::new(TestHost::default()), Split::default(), split("green", "0", "0"));
        assert!(!is_pending(&host, blue));
        // All threads load the same configuration.
        for _ in 0..3 {
            assert!(is_pending(&host, green));
            assert_eq!((wanted(&host), state(&host).split), (Some(green), blue));
        }
        // What gives no colour its first traffic waits for nothing.
        assert!(!is_pending(&host, split("blue", "0", "7")));
        assert_eq!((wanted(&host), state(&host).revision), (None, Revision::new(1)));
    }

    #[test]
    fn an_initial_that_is_taken_back_is_not_waited_for_and_pushed_again_it_is() {
        let (host, blue, green) = (Rc::new(TestHost::default()), Split::default(), split("green", "0", "0"));
        assert!(!is_pending(&host, blue) && is_pending(&host, green) && !is_pending(&host, blue));
        assert_eq!(wanted(&host), None);
        assert!(is_pending(&host, green));
        assert_eq!(wanted(&host), Some(green));
    }

    #[test]
    fn an_initial_that_was_given_up_stays_so_until_another_one_is_pushed() {
        let (host, blue, green) = (Rc::new(TestHost::default()), Split::default(), split("green", "0", "0"));
        assert!(!is_pending(&host, blue) && is_pending(&host, green));
        acknowledge(&host.store, &iris(), Source::Config, &ChangeOutcome::Superseded, Timestamp::default());
        assert!(is_pending(&host, green));
        assert_eq!(wanted(&host), None);
        assert!(is_pending(&host, split("green", "5", "0")));
        assert_eq!(wanted(&host), Some(split("green", "5", "0")));
    }

    #[test]
    fn without_enforcement_it_is_adopted_at_once_and_marked_where_a_rule_applied() {
        for (sections, forced) in [(PROBE, true), ("", false)] {
            let host = Rc::new(TestHost::default());
            let lax = ConfigPush { enforce: false };
            apply_with(&host, sections, Split::default(), lax).expect("in reach");
            let applied = apply_with(&host, sections, split("green", "0", "0"), lax);
            let Ok(InitialState::Applied(applied)) = applied else { panic!("{applied:?}") };
            assert_eq!((applied.effect, applied.state.author.forced), (Effect::Rerouted, forced));
        }
    }

    #[test]
    fn another_listeners_configuration_that_does_not_enforce_ends_the_waiting() {
        let (host, green) = (Rc::new(TestHost::default()), split("green", "0", "0"));
        assert!(!is_pending(&host, Split::default()) && is_pending(&host, green));
        apply_with(&host, PROBE, green, ConfigPush { enforce: false }).expect("in reach");
        assert_eq!((wanted(&host), state(&host).split), (None, green));
        assert_eq!(read(&host.store, &iris(), Source::Config).and_then(|status| status.refusal), None);
    }

    #[test]
    fn in_a_fleet_only_an_initial_that_replaces_another_one_waits_to_be_carried_there() {
        let (host, blue, green) = (Rc::new(TestHost::default()), Split::default(), split("green", "0", "0"));
        let announce = |initial| {
            let context = instance(&host, "", r#", "etcd": {"cluster": "etcd"}"#, initial);
            matches!(apply_initial(&context, 0, ENFORCED), Ok(InitialState::Pending(_)))
        };
        assert!(!announce(blue) && !announce(blue), "the Envoy started with that");
        for _ in 0..3 {
            assert!(announce(green), "each thread loads it");
            assert_eq!(wanted(&host), Some(green));
        }
        assert_eq!(state(&host).revision, Revision::ZERO, "the state is the fleet's");
        acknowledge(&host.store, &iris(), Source::Config, &ChangeOutcome::Applied, Timestamp::default());
        assert!(!announce(green));
        assert!(announce(blue));
        assert_eq!(wanted(&host), Some(blue));
    }

    #[test]
    fn a_store_out_of_reach_is_an_error() {
        let host = Rc::new(TestHost::default());
        host.store.set_reachable(false);
        assert_eq!(apply_with(&host, "", Split::default(), ENFORCED), Err(StoreError));
    }
}
