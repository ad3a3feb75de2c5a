//! Sources that one instance polls at a period, on behalf of all.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;

use super::submissions::Submissions;
use crate::change::context::Context;
use crate::change::request::ChangeRequest;
use crate::change::submit::submit;
use crate::deployment::Deployments;
use crate::host::http::{HttpReply, HttpRequest};
use crate::host::next_tick;
use crate::model::author::Source;
use crate::model::time::{Moment, Timestamp};
use crate::store::record::Effect;
use crate::store::{Store, source_status};

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
    /// What has become another version by itself. All else is looked at anew once that is known.
    pub versions: Vec<ChangeRequest>,
}

/// Half of a tick: a tick comes a little early as often as a little late.
const SLACK: Duration = Duration::from_millis(125);

/// Polls a source while this instance holds the lease under this key.
pub async fn poll(context: &Context, submissions: &Rc<Submissions>, mut source: Box<dyn PolledSource>, lease: &str) {
    let (host, deployments) = (&*context.host, &context.deployments);
    let mut due = Moment::default();
    loop {
        next_tick(host).await;
        if !context.instance.leads(host.store(), lease, host.now()) {
            continue;
        }
        let now = host.moment();
        let wants_poll_now = source.wants_poll_now(deployments, host.store());
        if due > now.plus(SLACK) && !wants_poll_now {
            continue;
        }
        due = now.plus(source.interval());
        let reply = leading(context, lease, host.http(&source.request())).await;
        let mut result = source.on_reply(&reply, deployments, host.store(), host.now());
        if !result.versions.is_empty() {
            for request in result.versions {
                follow_version(context, &request).await;
            }
            result = source.on_reply(&reply, deployments, host.store(), host.now());
        }
        for line in result.warnings {
            host.warn(&format!("bluegreen: source={}: {line}", source.source().as_str()));
        }
        for request in result.changes {
            submissions.submit(request);
        }
    }
}

/// Takes over what a source says has happened. What it waits for goes on waiting.
async fn follow_version(context: &Context, request: &ChangeRequest) {
    let (host, deployment) = (&*context.host, context.deployments.get(request.deployment));
    // A store that is away is asked again with the next poll.
    if let (Ok(applied), Some(deployment)) = (submit(context, request).await, deployment)
        && applied.effect == Effect::Rerouted
    {
        source_status::follow_revision(host.store(), &deployment.name, request.source(), applied.state.revision);
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
