//! What one VM keeps for one plugin configuration, shared by all its streams.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bluegreen_core::admin::api::Api;
use bluegreen_core::change::context::Context;
use bluegreen_core::config::{Config, Routing};
use bluegreen_core::controllers;
use bluegreen_core::controllers::submissions::Submissions;
use bluegreen_core::deployment::DeploymentIndex;
use bluegreen_core::inspection::tokens::PublishedTokens;
use bluegreen_core::model::colour::{Colour, PerColour};
use bluegreen_core::model::name::{ClusterName, HeaderName};
use bluegreen_core::readiness::arrival::Arrivals;
use bluegreen_core::routing::decision::Router;
use bluegreen_core::routing::incoming::Incoming;

use crate::executor::Executor;
use crate::question::Question;
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
    /// What their answers said about the way that requests take.
    pub arrivals: Vec<Arrivals>,
    /// What this worker has seen of the headers that requests come with.
    pub incoming: Incoming,
    /// The headers that may name a cluster.
    pub cluster_headers: Vec<HeaderName>,
    /// What this worker has seen of requests that no deployment takes.
    pub unmatched: UnmatchedRequests,
    /// Published tokens of the admin API, if it has any.
    pub published: Option<PublishedTokens>,
    /// What Envoy is asked about the answers of each colour.
    questions: Vec<PerColour<RefCell<Option<Rc<Question>>>>>,
}

thread_local! {
    /// The number of this virtual machine, once it has an instance.
    static MACHINE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// What is configured from now on is in another virtual machine.
#[cfg(test)]
pub fn begin_another_machine() {
    MACHINE.set(None);
}

// === impl Plugin ===

impl Plugin {
    /// Compiles a configuration, applies its `initial` splits, once in the process, and begins its flows.
    pub fn new(config: &Config) -> Self {
        let executor = Rc::new(Executor::new(config));
        let context = Rc::new(Context::new(Rc::<Executor>::clone(&executor), config, MACHINE.get()));
        MACHINE.set(Some(context.worker.machine()));
        let submissions = Rc::new(Submissions::new(&context));
        controllers::start(&context, &submissions, config);
        let deployments = context.deployments.all();
        Self {
            router: Router::new(config),
            routing: config.routing.clone(),
            api: Api::of(config),
            arrivals: deployments.iter().map(|_| Arrivals::default()).collect(),
            incoming: Incoming::new(config.deployments.len()),
            cluster_headers: config.cluster_headers().into_iter().cloned().collect(),
            unmatched: UnmatchedRequests::default(),
            published: config.admin.as_ref().and_then(PublishedTokens::of),
            questions: deployments.iter().map(|_| PerColour::default()).collect(),
            context,
            submissions,
            executor,
        }
    }
}

impl Plugin {
    /// What Envoy is asked about answers of `cluster`, which is the colour's now.
    pub fn question(&self, index: DeploymentIndex, colour: Colour, cluster: &ClusterName) -> Option<Rc<Question>> {
        let mut known = self.questions.get(index)?.get(colour).borrow_mut();
        if let Some(question) = known.as_ref().filter(|question| question.cluster == *cluster) {
            return Some(Rc::clone(question));
        }
        let question = Rc::new(Question::new(cluster));
        if let Some(former) = known.replace(Rc::clone(&question)) {
            former.forget();
        }
        Some(question)
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.context.worker.leave(&*self.executor, &self.context.deployments);
        self.executor.stop();
    }
}
