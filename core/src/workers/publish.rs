//! Making a write known, before anyone is told that it was made.

use super::worker::Worker;
use crate::deployment::{Deployment, DeploymentIndex};
use crate::host::Host;
use crate::store::record::{Applied, Effect};
use crate::store::unreached;

/// Makes a write known: to all workers, in the gauges and in the log.
pub fn publish(host: &dyn Host, worker: &Worker, index: DeploymentIndex, deployment: &Deployment, applied: &Applied) {
    if applied.effect != Effect::None {
        worker.announce(host, index, deployment);
    }
    if let (Effect::Rerouted, Some(change)) = (applied.effect, applied.state.history.newest()) {
        host.info(&format!("bluegreen: {}", change.log_line(deployment.name.as_str())));
        if deployment.readiness.failover.is_some() {
            unreached::reset(host.store(), &deployment.name);
        }
    }
    host.publish_gauges(index, &applied.state);
}
