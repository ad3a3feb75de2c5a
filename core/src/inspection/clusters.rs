//! Looks for the clusters that a configuration names and that nothing else asks: colours without a probe, and what the
//! sources need.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::change::context::Context;
use crate::clusters;
use crate::config::{Config, DeploymentConfig, MOST_RECEIVERS};
use crate::deployment::DeploymentIndex;
use crate::model::name::ClusterName;
use crate::model::time::Moment;

/// The clusters of a configuration.
pub struct Clusters {
    /// Those that the whole document names, with their fields.
    shared: Vec<(&'static str, ClusterName)>,
    due: Moment,
    /// The deployments that lack one.
    lacking: Vec<DeploymentIndex>,
}

/// How soon a cluster that is not known is looked for again. One that is known is not, nor is one that an earlier
/// configuration had: looking may disturb a connection that is open to it.
const AGAIN: Duration = Duration::from_secs(2);

/// The fields of the receivers, of which there are no more.
const NOTIFY: [&str; MOST_RECEIVERS] = [
    "notify[0].cluster",
    "notify[1].cluster",
    "notify[2].cluster",
    "notify[3].cluster",
    "notify[4].cluster",
    "notify[5].cluster",
    "notify[6].cluster",
    "notify[7].cluster",
];

// === impl Clusters ===

impl Clusters {
    /// Those that a configuration names.
    pub fn of(config: &Config) -> Self {
        let shared = [
            ("runtime.cluster", config.runtime.as_ref().map(|section| &section.cluster)),
            ("etcd.cluster", config.etcd.as_ref().map(|section| &section.cluster)),
            ("kubernetes.cluster", config.kubernetes.as_ref().map(|section| &section.cluster)),
        ];
        let shared = shared.into_iter().filter_map(|(field, cluster)| Some((field, cluster?.clone())));
        let receivers = NOTIFY.into_iter().zip(&config.notify);
        let receivers = receivers.map(|(field, receiver)| (field, receiver.cluster.clone()));
        Self { shared: shared.chain(receivers).collect(), due: Moment::default(), lacking: Vec::new() }
    }

    /// Those of a deployment, with the fields that name them, and whether they have to be looked for.
    fn named(&self, deployment: &DeploymentConfig) -> Vec<(&'static str, ClusterName, bool)> {
        let is_asked = deployment.probe.is_some();
        let own = [
            ("colours.blue.cluster", Some(&deployment.colours.blue.cluster), !is_asked),
            ("colours.green.cluster", Some(&deployment.colours.green.cluster), !is_asked),
            ("mlflow.cluster", deployment.mlflow.as_ref().map(|section| &section.cluster), true),
        ];
        let own = own.into_iter().filter_map(|(field, cluster, is_sought)| Some((field, cluster?.clone(), is_sought)));
        own.chain(self.shared.iter().map(|(field, cluster)| (*field, cluster.clone(), true))).collect()
    }

    /// Looks for the clusters of those that are new, and again for those that were not there. Called at each tick.
    pub fn look(&mut self, context: &Context, new: Range<DeploymentIndex>) {
        let (host, now) = (&*context.host, context.host.moment());
        let again = if self.due <= now { std::mem::take(&mut self.lacking) } else { Vec::new() };
        if self.due <= now || !new.is_empty() {
            self.due = now.plus(AGAIN);
        }
        // Many deployments may name the same cluster.
        let mut sought: BTreeMap<ClusterName, bool> = BTreeMap::new();
        for index in again.into_iter().chain(new.clone()) {
            let Some(deployment) = context.deployments.get(index) else { continue };
            let named = self.named(deployment);
            if new.contains(&index) {
                let fields: Vec<&str> = named.iter().map(|(field, ..)| *field).collect();
                clusters::keep_only(host, deployment, &fields);
            }
            for (field, cluster, _) in named.iter().filter(|(.., is_sought)| *is_sought) {
                if !clusters::is_there(host.store(), deployment, field, cluster) {
                    let known = sought.get(cluster).copied();
                    let is_there = known.unwrap_or_else(|| host.knows_cluster(cluster));
                    sought.insert(cluster.clone(), is_there);
                    clusters::saw(host, deployment, field, cluster, is_there);
                    if !is_there && self.lacking.last() != Some(&index) {
                        self.lacking.push(index);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::rc::Rc;

    use super::*;
    use crate::setup::{SetupProblem, noted};
    use crate::testing::host::TestHost;
    use crate::testing::iris;

    fn config(more: &str) -> Config {
        let json = format!(
            r#"{{"runtime": {{"cluster": "envoy_admn"}}, "deployments": {{"iris": {{"colours": {{
                "blue": {{"cluster": "blue", "version": "1"}}, "green": {{"cluster": "gren", "version": "2"}}}} {more}}}}}}}"#
        );
        Config::from_bytes(json.as_bytes()).expect("valid")
    }

    #[test]
    fn a_cluster_that_is_not_there_is_noted_until_it_comes_and_is_not_looked_for_once_it_is_there() {
        let (config, host) = (config(""), Rc::new(TestHost::default()));
        let context = Context::new(Rc::<TestHost>::clone(&host), &config, None);
        let mut clusters = Clusters::of(&config);
        let detail =
            || noted(&host.store, &iris()).get(&SetupProblem::ClusterUnknown).map(|noted| noted.detail.clone());
        host.lack_clusters(&["gren", "envoy_admn"]);
        clusters.look(&context, 0..1);
        let seen = detail().expect("noted");
        assert!(seen.contains(r#"colours.green.cluster "gren", runtime.cluster "envoy_admn""#), "{seen}");
        host.lack_clusters(&["gren", "blue"]);
        clusters.look(&context, 1..1);
        assert_eq!(detail().expect("not asked yet"), seen);
        host.pass(AGAIN);
        clusters.look(&context, 1..1);
        assert!(detail().expect("noted").contains(r#"this name: colours.green.cluster "gren"."#));
        // Nor by the next configuration.
        Clusters::of(&config).look(&context, 0..1);
        assert!(detail().expect("noted").contains(r#"this name: colours.green.cluster "gren"."#));
        host.lack_clusters(&[]);
        host.pass(AGAIN);
        clusters.look(&context, 1..1);
        assert_eq!(detail(), None);
    }

    #[test]
    fn colours_that_are_probed_are_not_looked_for() {
        let config = config(r#", "probe": {"path": "/ping"}"#);
        let host = Rc::new(TestHost::default());
        let context = Context::new(Rc::<TestHost>::clone(&host), &config, None);
        host.lack_clusters(&["gren", "blue"]);
        Clusters::of(&config).look(&context, 0..1);
        assert!(noted(&host.store, &iris()).is_empty());
    }
}
