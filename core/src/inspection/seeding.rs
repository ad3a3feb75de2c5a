//! Listeners that do not seed the cluster header: while the filter is bypassed their requests go nowhere.

use crate::change::context::Context;
use crate::deployment::DeploymentIndex;
use crate::routing::incoming::Finding;
use crate::setup::{self, SetupProblem};

/// Takes up what was found at a request of a deployment that names its cluster in `header`. `has_route`: Envoy had a
/// cluster for the request before the filter chose one, as where the route matches a colour and the last one names a
/// cluster. Then nothing has to be seeded.
pub fn found(context: &Context, index: DeploymentIndex, header: &str, finding: Finding, has_route: bool) {
    let Some(deployment) = context.deployments.get(index) else { return };
    let host = &*context.host;
    if finding == Finding::Seeded || has_route {
        return setup::clear(host, deployment, SetupProblem::NotSeeded);
    }
    let cluster = deployment.colours.get(deployment.initial.active).cluster.as_str();
    let detail = format!(
        "a request came without {header}. While the filter is bypassed such requests are answered 503, and a client \
         can write the header itself in a request that no deployment takes. Seed it with {cluster:?} by \
         early_header_mutation_extensions, as envoy/envoy.yaml does"
    );
    setup::note(host, deployment, SetupProblem::NotSeeded, detail);
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::setup::noted;
    use crate::testing::{context_of, iris};

    #[test]
    fn a_missing_header_is_noted_unless_the_route_has_a_cluster_without_it() {
        let (host, context) = context_of("");
        let is_noted = || noted(&host.store, &iris()).contains_key(&SetupProblem::NotSeeded);
        let steps = [
            (Finding::Missing, true, false),
            (Finding::Missing, false, true),
            (Finding::Seeded, false, false),
            (Finding::Missing, false, true),
            (Finding::Missing, true, false),
        ];
        for (finding, has_route, expected) in steps {
            found(&context, 0, "x-bluegreen-cluster", finding, has_route);
            assert_eq!(is_noted(), expected, "{finding:?} {has_route}");
        }
    }
}
