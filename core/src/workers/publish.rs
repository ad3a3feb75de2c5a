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
        if deployment.readiness.failover.is_some() {
            unreached::reset(host.store(), &deployment.name);
        }
    }
    show(host, index, deployment, &applied.state);
}

/// Shows a state in the gauges.
pub fn show(host: &dyn Host, index: DeploymentIndex, deployment: &Deployment, state: &State) {
    host.publish_gauges(index, state);
    let Some(test) = &deployment.readiness.smoke_test else { return };
    for colour in Colour::ALL {
        let pass = state.smoke.get(colour).as_ref();
        let pass = pass.filter(|pass| pass.identity == *deployment.identity(state, colour));
        let until = pass.map_or(Timestamp::default(), |pass| pass.at.plus(test.valid_for));
        let name = ColourMetric::SmokeTestValidUntil.name(&deployment.name, colour);
        host.set_gauge(&name, until.as_millis() / 1_000);
    }
}
