//! What changes states without being called: sources that say which state a deployment should be in, rollouts, guards and
//! failovers, and what keeps them going on one of the worker threads.
//!
//! Each is a flow that [`start`] begins. What it wants is a [`ChangeRequest`](crate::change::request::ChangeRequest), handed
//! to [`submissions`]. Only what a source was not seen to say before acts: an old value left there does not fight an
//! operator.

pub mod submissions;

pub mod workers;

pub mod notifications;

pub mod poll;

pub mod failover;
pub mod rollout;

pub mod judge;

pub mod leader;

pub mod mlflow;
pub mod versions;
pub mod config_push;
pub mod spec;
pub mod runtime;

pub mod startup;

pub mod admin_tokens;

use std::rc::Rc;

use self::mlflow::Registry;
use self::poll::PolledSource;
use self::runtime::Runtime;
use self::submissions::Submissions;
use crate::change::context::Context;
use crate::config::Config;
use crate::fleet::following::Following;
use crate::inspection::{self, Inspection};
use crate::kubernetes::secret::TokenSecret;
use crate::model::author::Source;
use crate::store::key::LeaseRole;
use crate::store::lease::lease_key;

/// Takes over what a configuration says that has just been loaded, and begins all its flows. They end when the
/// host drops them.
pub fn start(context: &Rc<Context>, submissions: &Rc<Submissions>, config: &Config) {
    let host = &context.host;
    notifications::announce(context, config);
    let waiting = config_push::load(context, config.config_push);
    let lease = |role| lease_key(config, role);

    let cx = Rc::clone(context);
    host.spawn(Box::pin(async move { workers::beat(&cx).await }));
    inspection::begin(context, config);

    let (cx, requests) = (Rc::clone(context), Rc::clone(submissions));
    let (leads, clock) = (lease(LeaseRole::Leader), lease(LeaseRole::ClockSet));
    let inspection = Inspection::of(config);
    host.spawn(Box::pin(async move { leader::lead(&cx, &requests, inspection, (&leads, &clock)).await }));

    if let Some(id) = context.fleet.as_ref().map(|fleet| fleet.id()) {
        let (cx, lease) = (Rc::clone(context), lease(LeaseRole::Follower(id)));
        host.spawn(Box::pin(async move {
            let Context { host, deployments, instance, worker, fleet: Some(fleet) } = &*cx else { return };
            fleet.follow(Following { host: &**host, deployments, instance: *instance, worker, lease: &lease }).await;
        }));
    }

    let push = config.config_push;
    if config.kubernetes.is_some() {
        let (cx, requests) = (Rc::clone(context), Rc::clone(submissions));
        host.spawn(Box::pin(async move { spec::run(&cx, &requests, push).await }));
    }
    for index in waiting {
        let (cx, requests, key) =
            (Rc::clone(context), Rc::clone(submissions), lease(LeaseRole::Poller(Source::Config)));
        host.spawn(Box::pin(async move { config_push::run(&cx, &requests, index, push, &key).await }));
    }
    let cx = Rc::clone(context);
    host.spawn(Box::pin(async move { startup::check_all(&cx).await }));

    for sources in polled(config) {
        let Some(key) = sources.first().map(|source| lease(LeaseRole::Poller(source.source()))) else { continue };
        let (cx, requests) = (Rc::clone(context), Rc::clone(submissions));
        host.spawn(Box::pin(async move { poll::poll(&cx, &requests, sources, &key).await }));
    }

    for (place, receiver) in config.notify.iter().cloned().enumerate() {
        let cx = Rc::clone(context);
        host.spawn(Box::pin(async move { notifications::deliver(&cx, place, &receiver).await }));
    }

    if let Some(secret) = TokenSecret::of(config) {
        let (cx, key) = (Rc::clone(context), lease(LeaseRole::SecretReader(secret.number())));
        host.spawn(Box::pin(async move { admin_tokens::follow(&cx, &secret, &key).await }));
    }

    let cx = Rc::clone(context);
    host.spawn(Box::pin(async move { startup::hurry(&cx).await }));
}

/// The sources that a configuration turns on: those of a kind, which share a lease, together.
fn polled(config: &Config) -> [Vec<Rc<dyn PolledSource>>; 2] {
    let runtime = config.runtime.clone().map(|section| Rc::new(Runtime::new(section)) as Rc<dyn PolledSource>);
    let registry = |(deployment, section)| Rc::new(Registry::new(deployment, section)) as Rc<dyn PolledSource>;
    let sections = config.deployments.values().map(|deployment| deployment.mlflow.as_deref()).enumerate();
    let registries = sections.filter_map(|(deployment, section)| Some(registry((deployment, section?.clone()))));
    [runtime.into_iter().collect(), registries.collect()]
}

#[cfg(test)]
mod tests;
