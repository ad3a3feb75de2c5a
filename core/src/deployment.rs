//! A configuration, compiled: each deployment with everything that has to be known about it.

use crate::config::{
    Bake, Config, DeploymentConfig, Failover, Guard, MatchRules, Mlflow, Probe, RolloutPlan, SmokeTest, Upstream,
};
use crate::model::author::Source;
use crate::model::colour::{Colour, PerColour};
use crate::model::name::{DeploymentName, HeaderName, HostName};
use crate::model::split::Split;

/// The place of a deployment in the order of their names.
pub type DeploymentIndex = usize;

/// All deployments of a configuration, in the order of their names.
#[derive(Debug)]
pub struct Deployments(Vec<Deployment>);

/// One deployment, compiled.
#[derive(Debug)]
pub struct Deployment {
    /// The deployment's name.
    pub name: DeploymentName,
    /// Which requests belong to it.
    pub rules: MatchRules,
    /// Names the upstream cluster of its requests.
    pub cluster_header: HeaderName,
    /// Cluster and version of each colour.
    pub colours: PerColour<Upstream>,
    /// The split while no state is known.
    pub initial: Split,
    /// What a colour has to be before it gets traffic.
    pub readiness: Readiness,
    /// The model registry that it follows.
    pub mlflow: Option<Mlflow>,
    /// The steps in which a candidate gets its share.
    pub rollout: Option<RolloutPlan>,
    /// The rules that compare candidate and active colour.
    pub guard: Option<Guard>,
    /// The sources that say which state it should be in.
    pub sources: Vec<Source>,
    /// A number that stands for the deployment's configuration as it was written.
    pub digest: u64,
}

/// The rules of a deployment about its colours' readiness.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// How a colour is asked whether it is healthy.
    pub probe: Option<Probe>,
    /// What the candidate must answer as expected.
    pub smoke_test: Option<SmokeTest>,
    /// How long the former active colour is held ready.
    pub bake: Option<Bake>,
    /// When to roll back automatically.
    pub failover: Option<Failover>,
}

// === impl Deployments ===

impl Deployments {
    /// Compiles a configuration.
    pub fn new(config: &Config) -> Self {
        let polled = config.runtime.is_some().then_some(Source::Runtime);
        let compile = |(name, deployment): (&DeploymentName, &DeploymentConfig)| {
            let registry = deployment.mlflow.is_some().then_some(Source::Mlflow);
            let sources = [Source::Config].into_iter().chain(polled).chain(registry).collect();
            Deployment::new(name, deployment, &config.routing.cluster_header, sources)
        };
        Self(config.deployments.iter().map(compile).collect())
    }

    /// The colours of other deployments that have the cluster of this one.
    pub fn sharing(
        &self,
        index: DeploymentIndex,
        colour: Colour,
    ) -> impl Iterator<Item = (DeploymentIndex, &Deployment, Colour)> {
        let cluster = self.0.get(index).map(|deployment| &deployment.colours.get(colour).cluster);
        let others = self.0.iter().enumerate().filter(move |(other, _)| *other != index);
        others.flat_map(move |(other, deployment)| {
            let has = move |of: &Colour| cluster == Some(&deployment.colours.get(*of).cluster);
            Colour::ALL.into_iter().filter(has).map(move |of| (other, deployment, of))
        })
    }

    /// In the order of their names.
    pub fn all(&self) -> &[Deployment] {
        &self.0
    }

    /// The one at this place.
    pub fn get(&self, index: DeploymentIndex) -> Option<&Deployment> {
        self.0.get(index)
    }

    /// The one with this name, and its place.
    pub fn named(&self, name: &str) -> Option<(DeploymentIndex, &Deployment)> {
        let index = self.0.binary_search_by(|deployment| deployment.name.as_str().cmp(name)).ok()?;
        Some((index, self.0.get(index)?))
    }
}

// === impl Deployment ===

impl Deployment {
    fn new(
        name: &DeploymentName,
        config: &DeploymentConfig,
        cluster_header: &HeaderName,
        sources: Vec<Source>,
    ) -> Self {
        Self {
            name: name.clone(),
            rules: config.rules.clone(),
            cluster_header: config.cluster_header.as_ref().unwrap_or(cluster_header).clone(),
            colours: config.colours.clone(),
            initial: config.initial,
            readiness: Readiness {
                probe: config.probe.clone(),
                smoke_test: config.smoke_test.clone(),
                bake: config.bake,
                failover: config.failover,
            },
            mlflow: config.mlflow.clone(),
            rollout: config.rollout.clone(),
            guard: config.guard,
            sources,
            digest: config.digest,
        }
    }

    /// The host that a request of the filter's own to a colour asks for: its `own`, or the colour's, or the deployment's
    /// name.
    pub fn host<'h>(&'h self, colour: Colour, own: Option<&'h HostName>) -> &'h str {
        own.or(self.colours.get(colour).authority.as_ref()).map_or(self.name.as_str(), HostName::as_str)
    }
}
