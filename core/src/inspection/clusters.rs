//! Clusters that this Envoy does not know: whatever is sent there is answered 503.

use std::time::Duration;

use crate::change::context::Context;
use crate::config::{Config, DeploymentConfig};
use crate::deployment::DeploymentIndex;
use crate::model::name::ClusterName;
use crate::model::time::Timestamp;
use crate::setup::{self, SetupProblem};

/// The clusters of a configuration that have to be looked for.
pub struct Clusters {
    /// Of each deployment, with the fields that name them.
    named: Vec<Vec<(&'static str, ClusterName)>>,
    due: Timestamp,
    /// The deployments that lack one.
    lacking: Vec<DeploymentIndex>,
    is_first: bool,
}

/// How soon a cluster that is not known is looked for again. One that is known is not: looking opens a connection.
const AGAIN: Duration = Duration::from_secs(2);

// === impl Clusters ===

impl Clusters {
    /// Those that a configuration names.
    pub fn of(config: &Config) -> Self {
        let shared = [
            ("runtime.cluster", config.runtime.as_ref().map(|section| &section.cluster)),
            ("etcd.cluster", config.etcd.as_ref().map(|section| &section.cluster)),
        ];
        let of_deployment = |deployment: &DeploymentConfig| {
            let own = [
                ("colours.blue.cluster", Some(&deployment.colours.blue.cluster)),
                ("colours.green.cluster", Some(&deployment.colours.green.cluster)),
                ("mlflow.cluster", deployment.mlflow.as_ref().map(|section| &section.cluster)),
            ];
            own.into_iter().chain(shared).filter_map(|(field, cluster)| Some((field, cluster?.clone()))).collect()
        };
        let named = config.deployments.values().map(of_deployment).collect();
        Self { named, due: Timestamp::default(), lacking: Vec::new(), is_first: true }
    }

    /// Looks for all clusters the first time, and later for those that were not there. Called at each tick.
    pub fn look(&mut self, context: &Context) {
        let (host, now) = (&*context.host, context.host.now());
        let look_at: Vec<DeploymentIndex> = match self.is_first {
            true => (0..self.named.len()).collect(),
            false if self.lacking.is_empty() || self.due > now => return,
            false => std::mem::take(&mut self.lacking),
        };
        self.is_first = false;
        self.due = now.plus(AGAIN);
        for index in look_at {
            let (Some(deployment), Some(named)) = (context.deployments.get(index), self.named.get_mut(index)) else {
                continue;
            };
            // What is known once is not asked about again.
            named.retain(|(_, cluster)| !host.knows_cluster(cluster));
            match missing(named) {
                Some(detail) => {
                    setup::note(host, deployment, SetupProblem::ClusterUnknown, detail);
                    self.lacking.push(index);
                }
                None => setup::clear(host, deployment, SetupProblem::ClusterUnknown),
            }
        }
    }
}

fn missing(named: &[(&'static str, ClusterName)]) -> Option<String> {
    let names: Vec<String> = named.iter().map(|(field, cluster)| format!("{field} {:?}", cluster.as_str())).collect();
    (!names.is_empty()).then(|| {
        format!(
            "this Envoy has no cluster of this name: {}; what is sent there is answered 503: correct the name, or add the \
             cluster",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::rc::Rc;

    use super::*;
    use crate::setup::noted;
    use crate::testing::host::TestHost;
    use crate::testing::iris;

    #[test]
    fn a_cluster_that_is_not_there_is_noted_until_it_comes() {
        let json = r#"{"runtime": {"cluster": "envoy_admn"}, "deployments": {"iris": {"colours": {
            "blue": {"cluster": "blue", "version": "1"}, "green": {"cluster": "gren", "version": "2"}}}}}"#;
        let config = Config::from_bytes(json.as_bytes()).expect("valid");
        let host = Rc::new(TestHost::default());
        let context = Context::new(Rc::<TestHost>::clone(&host), &config);
        let mut clusters = Clusters::of(&config);
        let detail =
            || noted(&host.store, &iris()).get(&SetupProblem::ClusterUnknown).map(|noted| noted.detail.clone());
        host.lack_clusters(&["gren", "envoy_admn"]);
        clusters.look(&context);
        let seen = detail().expect("noted");
        assert!(seen.contains(r#"colours.green.cluster "gren", runtime.cluster "envoy_admn""#), "{seen}");
        assert!(!seen.contains("blue"), "{seen}");
        host.lack_clusters(&["gren"]);
        clusters.look(&context);
        assert_eq!(detail().expect("not asked yet"), seen);
        host.pass(AGAIN);
        clusters.look(&context);
        assert!(detail().expect("noted").contains(r#"this name: colours.green.cluster "gren";"#));
        host.lack_clusters(&[]);
        host.pass(AGAIN);
        clusters.look(&context);
        assert_eq!(detail(), None);
    }
}
