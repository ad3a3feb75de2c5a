//! Making a write known, before anyone is told that it was made.

use super::Host;
use crate::deployment::{Deployment, DeploymentIndex};
use crate::store::record::{Applied, Effect};

/// Makes a write known: to all workers, in the gauges and in the log.
pub fn publish(host: &dyn Host, index: DeploymentIndex, deployment: &Deployment, applied: &Applied) {
    if applied.effect != Effect::None {
        host.move_epoch(index);
    }
    if let (Effect::Rerouted, Some(change)) = (applied.effect, applied.state.history.newest()) {
        host.info(&format!("bluegreen: {}", change.log_line(deployment.name.as_str())));
        if deployment.readiness.failover.is_some() {
            host.reset_unreached(index);
        }
    }
    host.publish_gauges(index, &applied.state);
}
