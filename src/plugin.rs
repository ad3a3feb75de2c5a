//! What one VM keeps for one plugin configuration, shared by all its streams.

use std::rc::Rc;

use bluegreen_core::admin::api::Api;
use bluegreen_core::change::context::Context;
use bluegreen_core::config::{Config, Routing};
use bluegreen_core::controllers;
use bluegreen_core::controllers::submissions::Submissions;
use bluegreen_core::deployment::Deployment;
use bluegreen_core::inspection::tokens::PublishedTokens;
use bluegreen_core::model::name::HeaderName;
use bluegreen_core::routing::arrivals::Arrivals;
use bluegreen_core::routing::decision::Router;
use bluegreen_core::routing::rotation::Seed;
use bluegreen_core::routing::worker::WorkerState;

use crate::executor::Executor;
use crate::host;
use crate::unmatched::UnmatchedRequests;

/// A compiled configuration and this VM's memory of it.
pub struct Plugin {
    /// Which deployment and colour a request belongs to.
    pub router: Router,
    /// The headers that carry the decision.
    pub routing: Routing,
    /// The admin API, on listeners that have it.
    pub api: Option<Api>,
    /// What flows work with.
    pub context: Rc<Context>,
    /// Changes that controllers have asked for.
    pub submissions: Rc<Submissions>,
    /// What runs the flows.
    pub executor: Rc<Executor>,
    /// What this worker remembers of each deployment.
    pub workers: Vec<WorkerState>,
    /// What this worker has seen of the headers that requests arrive with.
    pub arrivals: Arrivals,
    /// The headers that may name a cluster.
    pub cluster_headers: Vec<HeaderName>,
    /// What this worker has seen of requests that no deployment takes.
    pub unmatched: UnmatchedRequests,
    /// Published tokens of the admin API, if it has any.
    pub published: Option<PublishedTokens>,
}

// === impl Plugin ===

impl Plugin {
    /// Compiles a configuration, applies its `initial` splits, once in the process, and begins its flows.
    pub fn new(config: &Config) -> Self {
        let executor = Rc::new(Executor::new(config));
        let context = Rc::new(Context::new(Rc::<Executor>::clone(&executor), config));
        let submissions = Rc::new(Submissions::new(&context));
        controllers::start(&context, &submissions, config);
        let now = host::unix_nanos(host::now());
        let remember =
            |deployment: &Deployment| WorkerState::new(deployment, Seed::new(context.instance, now, &deployment.name));
        let workers = context.deployments.all().iter().map(remember).collect();
        Self {
            router: Router::new(config),
            routing: config.routing.clone(),
            api: config.admin.clone().map(Api::new),
            workers,
            arrivals: Arrivals::new(config.deployments.len()),
            cluster_headers: config.cluster_headers().into_iter().cloned().collect(),
            unmatched: UnmatchedRequests::default(),
            published: config.admin.as_ref().and_then(PublishedTokens::of),
            context,
            submissions,
            executor,
        }
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.executor.stop();
    }
}
