//! What people and Git ask for in the fleet's store itself: the `spec` of a `BlueGreen` object.
//!
//! It is taken like a pushed `initial`: only its change acts, the same rules apply, what is refused is tried again, less and less often, and a
//! change that comes first voids it. What became of it is shown beside it in the store.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use super::submissions::Submissions;
use super::versions;
use crate::change::context::Context;
use crate::change::error::{ChangeError, Rejection};
use crate::change::request::ChangeRequest;
use crate::change::submit::submit;
use crate::config::ConfigPush;
use crate::deployment::{Deployment, DeploymentIndex};
use crate::fleet::refusal::NoResponse;
use crate::fleet::store::{FleetStore, Refused, Wish};
use crate::host::next_tick;
use crate::model::author::{Author, Source};
use crate::model::name::Reason;
use crate::model::sorted_map::SortedMap;
use crate::model::split::Split;
use crate::model::time::Moment;
use crate::state::Command;
use crate::store::record;
use crate::store::source_status::{self, Pending, SUPERSEDED, SourceStatus};

/// What is being looked at.
#[derive(Default)]
struct Desk {
    /// The deployments of which something is under way.
    busy: RefCell<BTreeSet<DeploymentIndex>>,
    /// When a deployment is looked at again.
    due: RefCell<SortedMap<DeploymentIndex, Due>>,
}

/// When a `spec` is looked at again.
#[derive(Clone, Copy)]
struct Due {
    /// Which one, and how often it was looked at.
    generation: u64,
    looks: u32,
    at: Moment,
}

/// How long after it was looked at a `spec` is looked at again: at first, doubled each time, and at most. A look takes some calls to the
/// store, and many may be refused at once.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// So many are looked at at the same time.
const MOST: usize = 16;

/// A `spec` that was brought about, and that the store asks for all the same after so long, is asked for anew: the store was
/// set back.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// Looks at what is asked for, while this instance follows the store.
pub async fn run(context: &Rc<Context>, submissions: &Rc<Submissions>, push: ConfigPush) {
    let (host, desk) = (&*context.host, Rc::<Desk>::default());
    loop {
        next_tick(host).await;
        let Some(fleet) = &context.fleet else { return };
        for wish in fleet.wishes() {
            let Some((index, _)) = context.deployments.named(&wish.name) else { continue };
            if !desk.takes(index, wish.generation, host.moment()) {
                continue;
            }
            let (cx, requests, desk) = (Rc::clone(context), Rc::clone(submissions), Rc::clone(&desk));
            host.spawn(Box::pin(async move {
                if let (Some(fleet), Some(deployment)) = (cx.fleet.as_deref(), cx.deployments.get(index)) {
                    let looked_at = look_at(&cx, &requests, fleet, (index, deployment), &wish, push).await;
                    if let Err(error) = looked_at {
                        let (name, called, why) = (&deployment.name, fleet.called(), error.why);
                        cx.host
                            .info(&format!("bluegreen: deployment={name}: {called} does not take a condition: {why}"));
                    }
                }
                desk.busy.borrow_mut().remove(&index);
            }));
        }
    }
}

/// Looks at what is asked of one deployment, and brings it about or says why not.
async fn look_at(
    context: &Context,
    submissions: &Submissions,
    fleet: &dyn FleetStore,
    (index, deployment): (DeploymentIndex, &Deployment),
    wish: &Wish,
    push: ConfigPush,
) -> Result<(), NoResponse> {
    let (host, name, generation) = (&*context.host, &deployment.name, wish.generation);
    let split = match &wish.split {
        Ok(split) => *split,
        Err(message) => {
            let refused = Refused { generation, problem: "invalid", message: message.clone() };
            return fleet.refuse(host, name, refused).await;
        }
    };
    let Some(request) = request(context, (index, deployment), split, generation) else { return Ok(()) };
    let request = request.enforce(push.enforce);
    let end = submit(context, &request).await;
    if !matches!(request.command, Command::PassOverSpec(_)) {
        submissions.acknowledge(&request, &end);
    }
    match end {
        Err(error @ ChangeError::Rejected(..)) if !is_superseded(&error) => {
            fleet.refuse(host, name, Refused { generation, problem: error.problem(), message: error.to_string() }).await
        }
        // It is shown with the state that was written, or looked at again.
        _ => Ok(()),
    }
}

/// What follows from a `spec`: the change that it asks for, or that it is left be since another one came first. None where nothing does.
fn request(
    context: &Context,
    (index, deployment): (DeploymentIndex, &Deployment),
    split: Split,
    generation: u64,
) -> Option<ChangeRequest> {
    let (store, now) = (context.host.store(), context.host.now());
    let state = record::load(store, &deployment.name, deployment.initial, now).ok()?.state;
    let value = serde_json::to_value(split).ok()?;
    source_status::record(store, &deployment.name, Source::Kubernetes, &mut |before| {
        let is_known = before.as_ref().is_some_and(|known| {
            let is_open = known.pending.is_some() || known.refusal.is_some();
            known.value == value && (is_open || known.at.apart(now) < FORGOTTEN_AFTER)
        });
        let pending = Some(Pending { on: state.revision, value: value.clone() });
        (!is_known).then(|| SourceStatus { value: value.clone(), at: now, pending, ..SourceStatus::default() })
    });
    let status = source_status::read(store, &deployment.name, Source::Kubernetes)?;
    let author = Author::automatic(Source::Kubernetes, Reason::of(&format!("spec of generation {generation}")));
    match status.pending {
        Some(_) if versions::holds_back(&versions::waiting(store, &deployment.name), split, &state) => None,
        Some(pending) => Some(ChangeRequest::new(index, Command::AdoptSpec(split), author, Some(pending.on))),
        None if status.refusal.as_deref() == Some(SUPERSEDED) => {
            Some(ChangeRequest::new(index, Command::PassOverSpec(split), author, None))
        }
        None => None,
    }
}

fn is_superseded(error: &ChangeError) -> bool {
    matches!(error, ChangeError::Rejected(Rejection::Superseded, _))
}

// === impl Desk ===

impl Desk {
    /// Whether a deployment is to be looked at now.
    fn takes(&self, index: DeploymentIndex, generation: u64, now: Moment) -> bool {
        let (mut busy, mut due) = (self.busy.borrow_mut(), self.due.borrow_mut());
        let known = due.get(&index).filter(|due| due.generation == generation);
        if known.is_some_and(|due| now < due.at) || busy.len() >= MOST || !busy.insert(index) {
            return false;
        }
        let ((first, longest), looks) = (PAUSES, known.map_or(0, |due| due.looks));
        let at = now.plus(first.saturating_mul(2_u32.saturating_pow(looks)).min(longest));
        due.insert(index, Due { generation, looks: looks.saturating_add(1), at });
        true
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use serde_json::{Value, json};

    use super::*;
    use crate::config::Config;
    use crate::fleet::following::Following;
    use crate::fleet::liveness;
    use crate::fleet::model::{Fate, FleetModel};
    use crate::host::Host as _;
    use crate::host::http::HttpReply;
    use crate::kubernetes::model::Model;
    use crate::model::time::TICK;
    use crate::state::State;
    use crate::testing::host::TestHost;
    use crate::testing::{holder, split};

    /// An Envoy of a fleet in Kubernetes, with the follower and the flow of this module, of which the test is the network.
    struct Envoy {
        host: Rc<TestHost>,
        context: Rc<Context>,
        /// What green answers to its probe.
        green: u16,
    }

    impl Envoy {
        fn start(sections: &str) -> Self {
            let host = Rc::new(TestHost::default());
            let json = format!(
                r#"{{"kubernetes": {{"cluster": "kube", "namespace": "models"}}, "deployments": {{"iris": {{"colours": {{
                    "blue": {{"cluster": "blue", "version": "1"}}, "green": {{"cluster": "green", "version": "2"}}}}
                    {sections}}}}}}}"#
            );
            let config = Config::from_bytes(json.as_bytes()).expect("valid");
            let context = Rc::new(Context::new(Rc::<TestHost>::clone(&host), &config, None));
            let submissions = Rc::new(Submissions::new(&context));
            let cx = Rc::clone(&context);
            host.spawn(Box::pin(async move {
                let Context { host, deployments, instance, worker, fleet: Some(fleet) } = &*cx else { return };
                fleet.follow(Following { host: &**host, deployments, instance: *instance, worker, lease: "f" }).await;
            }));
            let cx = Rc::clone(&context);
            host.spawn(Box::pin(async move { run(&cx, &submissions, config.config_push).await }));
            host.tasks.run();
            Self { host, context, green: 200 }
        }

        /// Ticks, and answers what is asked for, windows after the second that they last.
        fn pass(&self, model: &mut Model, ticks: u32, fate: Fate) {
            for _ in 0..ticks {
                self.host.pass(TICK);
                self.host.tick();
                for _ in 0..50 {
                    let next = Model::next(&self.host);
                    match next.as_ref().map(|call| call.cluster.as_str()) {
                        Some("kube") => model.answer(&self.host, fate, Duration::ZERO),
                        Some(colour) => {
                            let status = if colour == "green" { self.green } else { 200 };
                            let (_, waiter) = self.host.http.borrow_mut().remove(0);
                            let _: Result<(), HttpReply> =
                                waiter.send(HttpReply::Answered { status, body: Vec::new() });
                        }
                        None => break,
                    }
                    self.host.tasks.run();
                    // A window that was just answered is asked for again at once.
                    if Model::next(&self.host).is_some_and(|call| call.timeout > Duration::from_secs(1)) {
                        break;
                    }
                }
            }
        }

        fn second(&self, model: &mut Model) {
            self.pass(model, 4, Fate::Answered);
        }

        fn state(&self) -> State {
            let deployment = &self.context.deployments.all()[0];
            let loaded = record::load(self.host.store(), &deployment.name, deployment.initial, self.host.now());
            loaded.expect("in reach").state
        }

        fn is_stale(&self) -> bool {
            let fleet = self.context.fleet.as_deref().expect("a fleet");
            liveness::is_lost(self.host.store(), fleet, self.host.now())
        }
    }

    fn accepted(model: &Model) -> (String, String) {
        model.condition("iris", "Accepted").expect("a condition")
    }

    fn says(status: &str, reason: &str) -> (String, String) {
        (status.to_owned(), reason.to_owned())
    }

    fn green() -> Value {
        json!({"active": "green"})
    }

    const PROBE: &str = r#", "probe": {"path": "/ping"}"#;

    #[test]
    fn an_object_is_made_for_a_deployment_and_its_spec_moves_the_traffic() {
        let (envoy, mut model) = (Envoy::start(PROBE), Model::default());
        assert!(!envoy.context.is_synced());
        envoy.second(&mut model);
        envoy.second(&mut model);
        assert_eq!(accepted(&model), says("True", "NothingAsked"));
        assert!(envoy.context.is_synced() && !envoy.is_stale());
        model.ask("iris", &green());
        envoy.second(&mut model);
        envoy.second(&mut model);
        assert_eq!(envoy.state().split, split("green", "0", "0"));
        assert_eq!(model.state().expect("a state").author.source, Source::Kubernetes);
        assert_eq!(accepted(&model), says("True", "Applied"));
        assert_eq!(model.condition("iris", "InForce"), Some(says("True", "AsAsked")));
    }

    #[test]
    fn what_is_refused_is_a_condition_is_tried_again_and_may_be_superseded() {
        let (mut envoy, mut model) = (Envoy::start(PROBE), Model::default());
        (0..2).for_each(|_| envoy.second(&mut model));
        envoy.green = 503;
        model.ask("iris", &green());
        (0..3).for_each(|_| envoy.second(&mut model));
        assert_eq!(accepted(&model), says("False", "ColourUnhealthy"));
        let written = model.object("iris").expect("there")["metadata"]["resourceVersion"].clone();
        (0..5).for_each(|_| envoy.second(&mut model));
        let later = model.object("iris").expect("there")["metadata"]["resourceVersion"].clone();
        assert_eq!(written, later, "the same refusal is written once");
        envoy.green = 200;
        (0..12).for_each(|_| envoy.second(&mut model));
        assert_eq!((envoy.state().split.active.as_str(), accepted(&model)), ("green", says("True", "Applied")));

        // Back to blue, which is refused, until an operator does something else.
        let (mut envoy, mut model) = (Envoy::start(PROBE), Model::default());
        (0..2).for_each(|_| envoy.second(&mut model));
        envoy.green = 503;
        model.ask("iris", &green());
        (0..3).for_each(|_| envoy.second(&mut model));
        let before = model.state().expect("a state");
        let shadow = crate::state::Patch { shadow_percent: Some("5".parse().expect("a share")), ..Default::default() };
        let alice = Author::new(holder("alice"), Source::Admin, Reason::none());
        let after = before.after(&Command::Patch(shadow), alice, before.since).expect("allowed").expect("a change");
        model.put("iris", &after);
        envoy.green = 200;
        (0..24).for_each(|_| envoy.second(&mut model));
        assert_eq!((envoy.state().split.active.as_str(), accepted(&model)), ("blue", says("False", "Superseded")));
        // Only another wish acts.
        model.ask("iris", &json!({"active": "green", "canaryPercent": 5}));
        (0..3).for_each(|_| envoy.second(&mut model));
        assert_eq!((envoy.state().split, accepted(&model)), (split("green", "5", "0"), says("True", "Applied")));
    }

    #[test]
    fn a_spec_that_cannot_be_read_is_refused_in_words() {
        let (envoy, mut model) = (Envoy::start(""), Model::default());
        (0..2).for_each(|_| envoy.second(&mut model));
        model.ask("iris", &json!({"active": "green", "canaryPercent": 0.001}));
        (0..3).for_each(|_| envoy.second(&mut model));
        assert_eq!((envoy.state().split.active.as_str(), accepted(&model)), ("blue", says("False", "Invalid")));
    }

    #[test]
    fn a_rollback_stays_though_the_spec_says_otherwise_and_a_new_envoy_joins_as_it_is() {
        let (envoy, mut model) = (Envoy::start(""), Model::default());
        (0..2).for_each(|_| envoy.second(&mut model));
        model.ask("iris", &green());
        (0..2).for_each(|_| envoy.second(&mut model));
        let before = model.state().expect("a state");
        let guard = Author::automatic(Source::Guard, Reason::of("errors"));
        let after = before.after(&Command::RollBack(None), guard, before.since).expect("allowed").expect("a change");
        model.put("iris", &after);
        let late = Envoy::start("");
        (0..15).for_each(|_| {
            envoy.second(&mut model);
            late.second(&mut model);
        });
        for envoy in [&envoy, &late] {
            assert_eq!((envoy.state().split.active.as_str(), envoy.state().revision), ("blue", after.revision));
        }
    }

    #[test]
    fn while_the_api_server_is_away_the_last_state_stays_and_what_was_missed_comes_afterwards() {
        let (envoy, mut model) = (Envoy::start(""), Model::default());
        (0..2).for_each(|_| envoy.second(&mut model));
        assert!(!envoy.is_stale());
        envoy.pass(&mut model, 20, Fate::RequestLost);
        assert!(envoy.is_stale());
        let lines = envoy.host.take_warnings();
        let told = lines.iter().filter(|line| line.contains("the Kubernetes API cannot be reached")).count();
        assert_eq!(told, 1, "{lines:?}");
        model.ask("iris", &green());
        model.forget();
        (0..4).for_each(|_| envoy.second(&mut model));
        assert!(!envoy.is_stale());
        assert_eq!(envoy.state().split.active.as_str(), "green");
    }

    #[test]
    fn an_object_that_was_deleted_comes_back_with_the_state_that_is_known() {
        let (envoy, mut model) = (Envoy::start(""), Model::default());
        (0..2).for_each(|_| envoy.second(&mut model));
        model.ask("iris", &green());
        (0..2).for_each(|_| envoy.second(&mut model));
        model.delete("bluegreens", "iris");
        (0..3).for_each(|_| envoy.second(&mut model));
        assert_eq!(model.state().expect("a state").split.active.as_str(), "green");
        assert_eq!(envoy.state().split.active.as_str(), "green");
    }

    #[test]
    fn what_is_no_state_is_warned_of_once_and_replaced_by_the_next_change() {
        let (envoy, mut model) = (Envoy::start(""), Model::default());
        (0..2).for_each(|_| envoy.second(&mut model));
        model.put_foreign();
        envoy.host.take_warnings();
        (0..15).for_each(|_| envoy.second(&mut model));
        let lines = envoy.host.take_warnings();
        assert_eq!(lines.iter().filter(|line| line.contains("is not a state")).count(), 1, "{lines:?}");
    }

    #[test]
    fn what_the_api_server_refuses_is_told_and_shown() {
        let (envoy, mut model) = (Envoy::start(""), Model::default());
        envoy.pass(&mut model, 20, Fate::Denied);
        let lines = envoy.host.take_warnings();
        let told = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
        assert_eq!(told("the Kubernetes API refuses to give the states: answered 403"), 1, "{lines:?}");
        assert!(!envoy.context.is_synced());
    }
}
