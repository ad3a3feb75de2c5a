//! Mistakes of an earlier configuration.

use crate::change::context::Context;
use crate::deployment::Deployment;
use crate::setup::{self, SetupProblem};

/// Takes back what was noted under an earlier configuration: who finds it in this one notes it again.
pub fn forget(context: &Context, deployments: &[Deployment], problem: SetupProblem) {
    let (host, configured) = (&*context.host, context.instance.since());
    for deployment in deployments {
        let noted = setup::noted(host.store(), &deployment.name);
        if noted.get(&problem).is_some_and(|noted| noted.since < configured) {
            setup::clear(host, deployment, problem);
        }
    }
}
