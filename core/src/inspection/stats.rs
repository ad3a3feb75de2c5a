//! Stats that Envoy does not keep: Prometheus sees nothing of the filter then.

use crate::change::context::Context;
use crate::deployment::Deployment;
use crate::metrics::named::Named;
use crate::setup::{self, SetupProblem};

/// Sets a gauge of each of these deployments and reads it back, the only time that a metric is read.
pub fn look(context: &Context, deployments: &[Deployment]) {
    let host = &*context.host;
    for deployment in deployments {
        let problem = SetupProblem::StatsFiltered;
        let is_known = setup::noted(host.store(), &deployment.name).contains_key(&problem);
        if host.keeps_stats(&Named::SetupProblems(&deployment.name, problem.as_str()).to_string(), is_known) {
            setup::clear(host, deployment, problem);
        } else {
            let detail = "Envoy keeps no metrics of the filter, so /stats and Prometheus show none. Routing, guard and drain do not need them. \
         To see them, let stats_config.stats_matcher keep names that begin with wasmcustom.bluegreen";
            setup::note(host, deployment, problem, detail.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::setup::noted;
    use crate::testing::{context_of, iris};

    #[test]
    fn stats_that_are_not_kept_are_noted() {
        let (host, context) = context_of("");
        for kept in [true, false, true] {
            host.set_keeps_stats(kept);
            look(&context, context.deployments.all());
            assert_eq!(noted(&host.store, &iris()).contains_key(&SetupProblem::StatsFiltered), !kept);
        }
    }
}
