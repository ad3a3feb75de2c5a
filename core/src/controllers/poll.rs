//! Sources that one instance polls at a period, on behalf of all.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;

use super::submissions::Submissions;
use crate::change::context::Context;
use crate::change::request::ChangeRequest;
use crate::deployment::{DeploymentIndex, Deployments};
use crate::host::http::{HttpReply, HttpRequest};
use crate::host::next_tick;
use crate::model::author::Source;
use crate::model::time::Timestamp;
use crate::store::Store;

/// A source that is polled.
pub trait PolledSource {
    /// Its name.
    fn source(&self) -> Source;

    /// How often it is polled.
    fn interval(&self) -> Duration;

    /// Whether it has to be polled before its time. Asked at each tick of the instance that polls.
    fn wants_poll_now(&mut self, _deployments: &Deployments, _store: &dyn Store) -> bool {
        false
    }

    /// What it is asked.
    fn request(&self) -> HttpRequest;

    /// What follows from its answer.
    fn on_reply(
        &mut self,
        reply: &HttpReply,
        deployments: &Deployments,
        store: &dyn Store,
        now: Timestamp,
    ) -> PollResult;
}

/// What follows from a poll.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PollResult {
    /// What the source asks for.
    pub changes: Vec<ChangeRequest>,
    /// What an operator has to know: each is worth a line in the log.
    pub warnings: Vec<String>,
    /// The deployments whose colours serve other versions now.
    pub versions_changed: Vec<DeploymentIndex>,
}

/// Half of a tick: a tick comes a little early as often as a little late.
const SLACK: Duration = Duration::from_millis(125);

/// Polls a source while this instance holds the lease under this key.
pub async fn poll(context: &Context, submissions: &Rc<Submissions>, mut source: Box<dyn PolledSource>, lease: &str) {
    let (host, deployments) = (&*context.host, &context.deployments);
    let mut due = Timestamp::default();
    loop {
        next_tick(host).await;
        if !context.instance.leads(host.store(), lease, host.now()) {
            continue;
        }
        let now = host.now();
        let wants_poll_now = source.wants_poll_now(deployments, host.store());
        if due > now.plus(SLACK) && !wants_poll_now {
            continue;
        }
        due = now.plus(source.interval());
        let reply = leading(context, lease, host.http(&source.request())).await;
        let result = source.on_reply(&reply, deployments, host.store(), host.now());
        for line in result.warnings {
            host.warn(&format!("bluegreen: source={}: {line}", source.source().as_str()));
        }
        for deployment in result.versions_changed {
            if let Some(of) = deployments.get(deployment) {
                context.worker.announce(host, deployment, of);
            }
        }
        for request in result.changes {
            submissions.submit(request);
        }
    }
}

/// Waits for a reply, and goes on renewing the lease meanwhile.
async fn leading<T>(context: &Context, lease: &str, reply: impl Future<Output = T>) -> T {
    let renew = async {
        loop {
            next_tick(&*context.host).await;
            context.instance.leads(context.host.store(), lease, context.host.now());
        }
    };
    future::or(reply, renew).await
}
