//! Sources: places outside of the admin API that say which state a deployment should be in.
//!
//! Only what a source was not seen to say before acts: an old value left there does not fight an operator. What was
//! seen, and what became of it, is a [`Sighting`] in the store.

mod config_push;
pub mod failover;
pub mod mlflow;
pub mod rollout;
mod runtime;

use std::time::Duration;

pub use self::config_push::{Adoption, adopt_initial, announce_initial, pushed};
use self::mlflow::Registry;
pub use self::runtime::Runtime;
use crate::change::request::Wish;
use crate::config::Config;
use crate::deployment::DeploymentIndex;
use crate::deployment::Deployments;
use crate::host::{Outgoing, Reply};
use crate::model::author::Source;
use crate::model::time::Timestamp;
use crate::store::Store;

/// A source that one instance asks at a period, on behalf of all.
pub trait Polled {
    /// Its name.
    fn source(&self) -> Source;

    /// How often it is asked.
    fn interval(&self) -> Duration;

    /// Whether it has to be asked now, before its time. Asked at each tick of the instance that leads.
    fn hurries(&mut self, _router: &Deployments, _store: &dyn Store) -> bool {
        false
    }

    /// The first request of a round.
    fn request(&mut self) -> Outgoing;

    /// Goes on with the round, now that there is a reply to its last request.
    fn on_reply(&mut self, reply: &Reply, router: &Deployments, store: &dyn Store, now: Timestamp) -> Step;
}

/// How a round goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something else has to be asked.
    Ask(Outgoing),
    /// It is over.
    Done(Findings),
}

/// What a round led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What the source wants.
    pub wishes: Vec<Wish>,
    /// What an operator has to know: each is worth a line in the log.
    pub news: Vec<String>,
    /// The deployments whose colours are shown with other versions now.
    pub renamed: Vec<DeploymentIndex>,
}

/// The sources that a configuration turns on.
pub fn polled(config: &Config) -> Vec<Box<dyn Polled>> {
    let runtime = config.runtime.clone().map(|section| Box::new(Runtime::new(section)) as Box<dyn Polled>);
    let registry = |(deployment, section)| Box::new(Registry::new(deployment, section)) as Box<dyn Polled>;
    let sections = config.deployments.values().map(|deployment| deployment.mlflow.clone()).enumerate();
    let registries = sections.filter_map(|(deployment, section)| Some(registry((deployment, section?))));
    runtime.into_iter().chain(registries).collect()
}
