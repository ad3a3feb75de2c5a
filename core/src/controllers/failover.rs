//! Rolling back automatically, when requests to a freshly promoted colour do not even reach it.

use crate::config::{Bake, Failover};
use std::rc::Rc;

use super::submissions::Submissions;
use crate::change::context::Context;
use crate::change::error::{ChangeError, WAY_BACK_REPLACED};
use crate::change::request::ChangeRequest;
use crate::change::submit::submit_now;
use crate::deployment::DeploymentIndex;
use crate::metrics::named::Named;
use crate::model::author::{Author, Source};
use crate::model::colour::{Colour, PerColour};
use crate::model::name::Reason;
use crate::model::time::Timestamp;
use crate::notification::{self, Event};
use crate::readiness::drain::baking_until;
use crate::readiness::probe::{self, Health};
use crate::state::{Command, State};
use crate::store::record::{self, Applied};
use crate::store::unreached;

/// The most of Envoy's description that goes into a reason, in characters: with the words around it, fewer than 200.
const LONGEST_DETAIL: usize = 130;

/// Whether a failover would act on requests to `colour` now, as far as this worker knows: only while the colour that was
/// left is kept.
pub fn is_watching(context: &Context, index: DeploymentIndex, colour: Colour, now: Timestamp) -> bool {
    let (deployment, state) = (context.deployments.get(index), context.worker.state(index));
    let Some((deployment, state)) = deployment.zip(state) else { return false };
    let bake = deployment.bake.filter(|_| deployment.failover.is_some());
    let is_active = state.known_split().is_some_and(|split| split.active == colour);
    is_active && bake.zip(state.left_at()).is_some_and(|(bake, left_at)| left_at.plus(bake.r#for) > now)
}

/// A request reached the active colour.
pub fn on_reached(context: &Context, index: DeploymentIndex) {
    if let Some(deployment) = context.deployments.get(index) {
        unreached::reset(context.host.store(), &deployment.name);
    }
}

/// A request did not reach `colour`, the active one: rolls back where that and those before it are reason enough. `details`
/// is how Envoy describes what happened.
///
/// On an Envoy that stands alone that is done before the next request. In a fleet it is a change like any other, which only
/// the root context can make: another event than this one.
pub fn on_unreached(
    context: &Context,
    submissions: &Rc<Submissions>,
    index: DeploymentIndex,
    colour: Colour,
    details: &str,
) {
    let Some(deployment) = context.deployments.get(index) else { return };
    let Some(failover) = deployment.failover else { return };
    let failures = unreached::count(context.host.store(), &deployment.name);
    if failures < u64::from(failover.after.get()) {
        return;
    }
    let (host, now) = (&*context.host, context.host.now());
    let Ok(loaded) = record::load(host.store(), &deployment.name, deployment.initial, now) else { return };
    // Another worker may have rolled back already.
    if loaded.state.split.active != colour {
        return;
    }
    let back = colour.other();
    let health = probe::health(host.store(), deployment, &loaded.state).get_mut(back).take();
    let bake = deployment.bake;
    if loaded.state.rollback_to.is_some() && !loaded.state.is_way_back_proven() {
        // Once for each row of failures.
        if failures == u64::from(failover.after.get()) {
            let (name, identity) = (&deployment.name, deployment.identity(&loaded.state, back));
            let refused = Named::ChangesRefused(name, Source::Failover, WAY_BACK_REPLACED);
            host.count(&refused.to_string());
            let why = format!(
                "{identity} came behind {back} after the switch, and has neither served nor passed the smoke test"
            );
            host.warn(&format!("bluegreen: deployment={name} source=failover: refused: {why}"));
            notification::tell(host, deployment, &Event::Refused { source: Source::Failover, why: &why });
        }
        return;
    }
    let Some(author) = author(&loaded.state, failover, bake, health.as_ref(), failures, details, now) else { return };
    let on = Some(loaded.state.revision);
    let request = ChangeRequest::new(index, Command::RollBack(None), author, on);
    if context.fleet.is_none() {
        // Its last probe says that it is healthy, and there is no time for another one.
        let known = |other| (other == back).then(|| deployment.identity(&loaded.state, back).clone());
        let healthy = PerColour::from_fn(known);
        // A rejection is another worker's roll back, and needs no word.
        let _: Result<Option<Applied>, ChangeError> = submit_now(context, &ChangeRequest { healthy, ..request });
    } else if !submissions.is_running(index, Source::Failover) {
        submissions.submit(request);
    }
}

/// Whether `failures` requests in a row that did not reach the active colour are reason enough to roll back, and if so
/// under which author. `last` is how Envoy describes the last of them.
fn author(
    state: &State,
    failover: Failover,
    bake: Option<Bake>,
    health: Option<&Health>,
    failures: u64,
    last: &str,
    now: Timestamp,
) -> Option<Author> {
    let back = state.rollback_to?;
    let baking = baking_until(state, back, bake).is_some_and(|until| until > now);
    if failures < u64::from(failover.after.get()) || !baking || !health.is_some_and(|health| health.healthy) {
        return None;
    }
    let last: String = last.chars().filter(|letter| !letter.is_control()).take(LONGEST_DETAIL).collect();
    let text = format!("{failures} requests in a row did not reach {} (last: {last})", state.split.active);
    let reason = Reason::new(text).unwrap_or_else(|_| Reason::none());
    Some(Author::automatic(Source::Failover, reason))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::time::Duration;

    use super::*;
    use crate::json;
    use crate::readiness::probe::ProbeResult;
    use crate::testing::{identity, split};

    const SWITCH: Timestamp = Timestamp::from_millis(10_000_000);
    const BAKE: Bake = Bake { r#for: Duration::from_secs(60) };

    fn promoted() -> State {
        let alice = Author::new(crate::testing::holder("alice"), Source::Admin, Reason::none());
        let before = State::initial(split("blue", "0", "0"), Timestamp::default());
        before.after(&Command::Promote(None), alice, SWITCH).expect("allowed").expect("a change")
    }

    fn decide(state: &State, healthy: bool, failures: u64, now: Timestamp) -> Option<Author> {
        let failover: Failover = json::from_str(r#"{"after": 5}"#).expect("valid");
        let result = ProbeResult { healthy, detail: String::new() };
        let of = identity("1");
        let health = Health::after(None, &of, result, 3, SWITCH);
        author(state, failover, Some(BAKE), Some(&health), failures, "connection_refused", now)
    }

    #[test]
    fn enough_failures_inside_the_window_lead_back_to_a_healthy_colour_with_the_evidence() {
        let author = decide(&promoted(), true, 5, SWITCH).expect("goes back");
        assert_eq!(author.source, Source::Failover);
        let expected = "5 requests in a row did not reach green (last: connection_refused)";
        assert_eq!(author.reason.as_str(), expected);
    }

    #[test]
    fn too_few_failures_a_sick_way_back_or_a_closed_window_lead_nowhere() {
        let rolled_back = State { rollback_to: None, ..promoted() };
        let cases = [
            (promoted(), true, 4, SWITCH),
            (promoted(), false, 5, SWITCH),
            (promoted(), true, 5, SWITCH.plus(BAKE.r#for)),
            (rolled_back, true, 5, SWITCH),
        ];
        for (state, healthy, failures, now) in cases {
            assert_eq!(decide(&state, healthy, failures, now), None);
        }
    }
}
