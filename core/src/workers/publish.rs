//! Making a write known, before anyone is told that it was made.

use std::time::Duration;

use super::worker::Worker;
use crate::deployment::{Deployment, DeploymentIndex};
use crate::host::Host;
use crate::metrics::counters::ColourMetric;
use crate::metrics::named::Named;
use crate::model::colour::Colour;
use crate::model::time::Timestamp;
use crate::state::State;
use crate::store::record::{Applied, Effect};
use crate::store::unreached;

/// A change that was made longer ago was made before this Envoy was there, or while it could not hear of it.
const NEW_FOR: Duration = Duration::from_secs(60);

/// Makes a write known: to all workers, in the gauges and in the log.
pub fn publish(host: &dyn Host, worker: &Worker, index: DeploymentIndex, deployment: &Deployment, applied: &Applied) {
    if applied.effect != Effect::None {
        worker.announce(host, index, deployment);
    }
    if let (Effect::Rerouted, Some(change)) = (applied.effect, applied.state.history.newest()) {
        let line = format!("bluegreen: {}", change.log_line(deployment.name.as_str()));
        if applied.state.history.was_forced_by_failure() {
            host.warn(&line);
        } else {
            host.info(&line);
        }
        if host.now().since(change.at) < NEW_FOR {
            host.count(&Named::Changes(&deployment.name, change.author.source).to_string());
        }
        if deployment.failover.is_some() {
            unreached::reset(host.store(), &deployment.name);
        }
    }
    if applied.effect != Effect::None {
        show(host, index, deployment, &applied.state);
    }
}

/// Shows a state in the gauges.
pub fn show(host: &dyn Host, index: DeploymentIndex, deployment: &Deployment, state: &State) {
    host.publish_gauges(index, state);
    let Some(test) = &deployment.smoke_test else { return };
    for colour in Colour::ALL {
        let pass = state.smoke.get(colour).as_ref();
        let pass = pass.filter(|pass| pass.identity == *deployment.identity(state, colour));
        let until = pass.map_or(Timestamp::default(), |pass| pass.at.plus(test.valid_for));
        let name = ColourMetric::SmokeTestValidUntil.name(&deployment.name, colour);
        host.set_gauge(&name, until.as_millis() / 1_000);
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::author::{Author, Source};
    use crate::model::name::Reason;
    use crate::state::{Command, SmokePass};
    use crate::testing::{context_of, split};

    fn promoted(source: Source, now: Timestamp) -> State {
        let author = Author::automatic(source, Reason::none());
        let before = State::initial(split("blue", "0", "0"), now);
        before.after(&Command::Promote(None), author, now).expect("allowed").expect("a change")
    }

    #[test]
    fn a_change_is_counted_by_its_source_and_logged_at_a_level_that_says_whether_to_look() {
        for (source, is_warning) in
            [(Source::Admin, false), (Source::Rollout, false), (Source::Failover, true), (Source::Guard, true)]
        {
            let (host, context) = context_of("");
            let applied = Applied { state: promoted(source, host.now()), effect: Effect::Rerouted };
            host.take_warnings();
            context.publish(0, &context.deployments.all()[0], &applied);
            assert_eq!(host.take_warnings().len(), usize::from(is_warning), "{source:?}");
            let name = format!("bluegreen.deployment.iris.source.{}.changes_total", source.as_str());
            assert_eq!(host.counter(&name), 1);
        }
    }

    #[test]
    fn a_change_of_long_ago_that_an_envoy_hears_of_when_it_starts_is_not_counted() {
        let (host, context) = context_of("");
        let applied = Applied { state: promoted(Source::Admin, host.now()), effect: Effect::Rerouted };
        host.pass(NEW_FOR);
        context.publish(0, &context.deployments.all()[0], &applied);
        assert_eq!(host.counter("bluegreen.deployment.iris.source.admin.changes_total"), 0);
    }

    #[test]
    fn a_smoke_test_is_valid_for_the_version_that_passed_it() {
        let (host, context) = context_of(r#", "smoke_test": {"valid_for": "1h", "requests": [{"path": "/"}]}"#);
        let (iris, now) = (&context.deployments.all()[0], host.now());
        let shown = || host.gauge("bluegreen.deployment.iris.colour.green.smoke_test_valid_until_timestamp_seconds");
        let state = State::initial(split("blue", "0", "0"), now);
        show(&*host, 0, iris, &state);
        assert_eq!(shown(), Some(0));
        for (identity, until) in
            [(iris.colours.green.clone(), now.as_millis() / 1_000 + 3_600), (crate::testing::identity("another"), 0)]
        {
            let mut tested = state.clone();
            tested.smoke.green = Some(SmokePass { identity, revision: state.revision, at: now });
            show(&*host, 0, iris, &tested);
            assert_eq!(shown(), Some(until));
        }
    }
}
