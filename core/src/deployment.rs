//! A configuration, compiled: each deployment with everything that has to be known about it.

use std::ops::Deref;
use std::sync::Arc;

use crate::config::{
    Compare, Config, DeploymentConfig, ErrorRule, LatencyOf, RolloutPlan, RolloutStep, Salt, WhenUnhealthy,
};
use crate::model::author::Source;
use crate::model::colour::Colour;
use crate::model::identity::Identity;
use crate::model::name::{DeploymentName, HeaderName, HostName};
use crate::model::split::Split;
use crate::state::State;
use crate::state::kept::Keep;

/// The place of a deployment in the order of their names.
pub type DeploymentIndex = usize;

/// All deployments of a configuration, in the order of their names.
#[derive(Debug)]
pub struct Deployments(Vec<Deployment>);

/// One deployment, compiled: its own section of the configuration, which is kept once, and what the rest of the document
/// adds to it.
#[derive(Debug)]
pub struct Deployment {
    /// The deployment's name.
    pub name: DeploymentName,
    /// Names the upstream cluster of its requests.
    pub cluster_header: HeaderName,
    /// The split while no state is known.
    pub initial: Split,
    /// The sources that say which state it should be in.
    pub sources: Vec<Source>,
    /// Its section. What it names for each colour is not what is in force: that is in the state.
    section: Arc<DeploymentConfig>,
}

// === impl Deployments ===

impl Deployments {
    /// Compiles a configuration.
    pub fn new(config: &Config) -> Self {
        let runtime = config.runtime.is_some().then_some(Source::Runtime);
        let spec = config.kubernetes.is_some().then_some(Source::Kubernetes);
        let compile = |(name, deployment): (&DeploymentName, &Arc<DeploymentConfig>)| {
            let registry = deployment.mlflow.is_some().then_some(Source::Mlflow);
            let sources = [Source::Config].into_iter().chain(runtime).chain(spec).chain(registry).collect();
            Deployment::new(name, deployment, &config.routing.cluster_header, sources)
        };
        Self(config.deployments.iter().map(compile).collect())
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
        section: &Arc<DeploymentConfig>,
        cluster_header: &HeaderName,
        sources: Vec<Source>,
    ) -> Self {
        Self {
            name: name.clone(),
            cluster_header: section.cluster_header.as_ref().unwrap_or(cluster_header).clone(),
            initial: section.initial.split(),
            sources,
            section: Arc::clone(section),
        }
    }

    /// What a start does when the colour that it makes active does not answer.
    pub fn when_unhealthy(&self) -> WhenUnhealthy {
        self.section.initial.when_unhealthy.unwrap_or_default()
    }

    /// Goes into the buckets of sticky users.
    pub fn salt(&self) -> Option<&Salt> {
        self.sticky.as_ref()?.salt.as_ref()
    }

    /// Whether the colours are compared while the candidate has a share.
    pub fn compares(&self) -> bool {
        self.guard.is_some() || self.rollout.is_some()
    }

    /// Whether their times to the first byte are, and not those to the last.
    pub fn compares_first_bytes(&self) -> bool {
        let slow = self.guard.as_ref().and_then(|guard| guard.slow.as_ref());
        slow.is_some_and(|slow| slow.of == LatencyOf::FirstByte)
    }

    /// What counts as an error when they are.
    pub fn error_rule(&self) -> ErrorRule {
        self.guard.map(|guard| guard.error).unwrap_or_default()
    }

    /// How the answers to copied requests are compared, if they are.
    pub fn compare(&self) -> Option<&Compare> {
        Some(&self.shadow.as_ref()?.compare)
    }

    /// Whether something follows from what the comparison finds.
    pub fn judges_answers(&self) -> bool {
        let has_rule = self.guard.is_some_and(|guard| guard.disagreement.is_some());
        let awaits = |plan: &RolloutPlan| plan.steps.iter().any(RolloutStep::awaits_comparison);
        self.compare().is_some() && (has_rule || self.rollout.as_ref().is_some_and(awaits))
    }

    /// What is behind a colour in this state.
    pub fn identity<'a>(&'a self, state: &'a State, colour: Colour) -> &'a Identity {
        state.identities.get(colour).as_ref().unwrap_or_else(|| self.colours.get(colour))
    }

    /// What a promotion leaves with the former colour.
    pub fn keep(&self) -> Option<Keep> {
        let guard = self.guard.as_ref()?;
        guard.also_after_promote.map(|r#for| Keep { share: guard.keep_percent, r#for })
    }

    /// The host that a request of the filter's own to a colour asks for: its `own`, or the colour's, or the deployment's
    /// name.
    pub fn host<'h>(&'h self, identity: &'h Identity, own: Option<&'h HostName>) -> &'h str {
        own.or(identity.authority.as_ref()).map_or(self.name.as_str(), HostName::as_str)
    }
}

impl Deref for Deployment {
    type Target = DeploymentConfig;

    fn deref(&self) -> &DeploymentConfig {
        &self.section
    }
}
