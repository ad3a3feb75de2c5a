//! Sources that one instance polls at a period, on behalf of all.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::submissions::Submissions;
use crate::change::context::Context;
use crate::change::request::ChangeRequest;
use crate::change::submit::submit;
use crate::deployment::{DeploymentIndex, Deployments};
use crate::host::http::{HttpReply, HttpRequest};
use crate::host::next_tick;
use crate::metrics::named::Named;
use crate::model::author::Source;
use crate::model::time::{Moment, Timestamp};
use crate::notification::{self, Event};
use crate::store::key::Key;
use crate::store::record::Effect;
use crate::store::{Store, source_status};

/// A source that is polled.
pub trait PolledSource {
    /// Its name.
    fn source(&self) -> Source;

    /// How often it is polled.
    fn interval(&self) -> Duration;

    /// Whether something may trigger it before its time.
    fn takes_triggers(&self) -> bool {
        false
    }

    /// Whether it has to be polled before its time. Asked by the instance that polls when something was triggered.
    fn wants_poll_now(&self, _deployments: &Deployments, _store: &dyn Store) -> bool {
        false
    }

    /// What it is asked.
    fn request(&self) -> HttpRequest;

    /// What follows from its answer.
    fn on_reply(&self, reply: &HttpReply, deployments: &Deployments, store: &dyn Store, now: Timestamp) -> PollResult;
}

/// What follows from a poll.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PollResult {
    /// What the source asks for.
    pub changes: Vec<ChangeRequest>,
    /// What an operator has to know: each is worth a line in the log.
    pub warnings: Vec<String>,
    /// What the source asks for and cannot have: each is worth a notification.
    pub refused: Vec<(DeploymentIndex, String)>,
    /// What has become another version by itself. All else is looked at anew once that is known.
    pub versions: Vec<ChangeRequest>,
    /// Whether the source said nothing, or something that cannot be understood.
    pub has_failed: bool,
}

/// A source, and when it is asked next.
struct Polled {
    source: Rc<dyn PolledSource>,
    due: Moment,
    /// Whether it is to be asked whenever it is due.
    is_wanted: bool,
    is_asked: Rc<Cell<bool>>,
}

/// Half of a tick: a tick comes a little early as often as a little late.
const SLACK: Duration = Duration::from_millis(125);

/// So many of the sources that are due are asked at one tick, the others at the next ones: what a tick does holds up the
/// requests of its thread.
const POLLS_PER_TICK: usize = 2;

/// Polls these sources while this instance holds the lease under this key.
pub async fn poll(
    context: &Rc<Context>,
    submissions: &Rc<Submissions>,
    sources: Vec<Rc<dyn PolledSource>>,
    lease: &str,
) {
    let (host, deployments) = (&*context.host, &context.deployments);
    let begin = |source| Polled { source, due: Moment::BEGIN, is_wanted: false, is_asked: Rc::default() };
    let mut sources: Vec<Polled> = sources.into_iter().map(begin).collect();
    let is_triggered = sources.iter().any(|polled| polled.source.takes_triggers());
    let mut triggers = None;
    loop {
        next_tick(host).await;
        if !context.instance.leads(host.store(), lease, host.now()) {
            continue;
        }
        let now = host.moment();
        let known = is_triggered.then(|| host.store().read(&Key::RegistryTriggers.to_string()).ok()).flatten();
        let is_news = known.is_some_and(|stored| triggers.replace(stored.token) != Some(stored.token));
        let mut left = POLLS_PER_TICK;
        for polled in &mut sources {
            polled.is_wanted |= is_news && polled.source.wants_poll_now(deployments, host.store());
            let is_due = polled.is_wanted || polled.due <= now.plus(SLACK);
            if is_due && left > 0 && !polled.is_asked.replace(true) {
                left = left.saturating_sub(1);
                polled.is_wanted = false;
                polled.due = now.plus(polled.source.interval());
                let (cx, requests) = (Rc::clone(context), Rc::clone(submissions));
                let (source, is_asked) = (Rc::clone(&polled.source), Rc::clone(&polled.is_asked));
                host.spawn(Box::pin(async move {
                    ask(&cx, &requests, &*source).await;
                    is_asked.set(false);
                }));
            }
        }
        // Those that had to wait come first at the next tick.
        put_in_order(&mut sources);
    }
}

/// Few of them are out of order, so this is quick; the sort of std would be some 5 KB of the module.
fn put_in_order(sources: &mut Vec<Polled>) {
    for place in 1..sources.len() {
        let Some((before, [polled, ..])) = sources.split_at_checked(place) else { return };
        let earlier = before.partition_point(|known| known.due <= polled.due);
        if earlier < place {
            let polled = sources.remove(place);
            sources.insert(earlier, polled);
        }
    }
}

/// Asks a source, and asks for what follows from its answer.
async fn ask(context: &Context, submissions: &Rc<Submissions>, source: &dyn PolledSource) {
    let (host, deployments) = (&*context.host, &context.deployments);
    let reply = host.http(&source.request()).await;
    let mut result = source.on_reply(&reply, deployments, host.store(), host.now());
    if !result.versions.is_empty() {
        for request in result.versions {
            follow_version(context, &request).await;
        }
        result = source.on_reply(&reply, deployments, host.store(), host.now());
    }
    let failed = result.has_failed;
    host.count(&Named::SourcePolls(source.source(), failed).to_string());
    for line in result.warnings {
        host.warn(&format!("bluegreen: source={}: {line}", source.source().as_str()));
    }
    for (index, why) in result.refused {
        if let Some(deployment) = deployments.get(index) {
            notification::tell(host, deployment, &Event::Refused { source: source.source(), why: &why });
        }
    }
    for request in result.changes {
        submissions.submit(request);
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
