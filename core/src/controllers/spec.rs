//! What people and Git ask for in the fleet's store itself: the `spec` of a `BlueGreen` object.
//!
//! It is taken like a pushed `initial`: only its change acts, the same rules apply, what is refused is tried again each second, and a
//! change that comes first voids it. What became of it is shown beside it in the store.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use super::submissions::Submissions;
use super::versions;
use crate::change::context::Context;
use crate::change::error::{ChangeError, Rejection};
use crate::change::request::ChangeRequest;
use crate::change::submit::submit;
use crate::config::ConfigPush;
use crate::deployment::{Deployment, DeploymentIndex};
use crate::fleet::refusal::NoResponse;
use crate::fleet::store::{FleetStore, Refused, Wish};
use crate::host::next_tick;
use crate::model::author::{Author, Source};
use crate::model::name::Reason;
use crate::model::split::Split;
use crate::model::time::Moment;
use crate::state::Command;
use crate::store::record;
use crate::store::source_status::{self, Pending, SUPERSEDED, SourceStatus};

/// What is being looked at.
#[derive(Default)]
struct Desk {
    /// The deployments of which something is under way.
    busy: RefCell<BTreeSet<DeploymentIndex>>,
    /// When a deployment is looked at again.
    due: RefCell<BTreeMap<DeploymentIndex, Moment>>,
}

/// How long after it was looked at a `spec` is looked at again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// So many are looked at at the same time.
const MOST: usize = 16;

/// A `spec` that was brought about, and that the store asks for all the same after so long, is asked for anew: the store was
/// set back.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// Looks at what is asked for, while this instance follows the store.
pub async fn run(context: &Rc<Context>, submissions: &Rc<Submissions>, push: ConfigPush) {
    let (host, desk) = (&*context.host, Rc::<Desk>::default());
    loop {
        next_tick(host).await;
        let Some(fleet) = &context.fleet else { return };
        for wish in fleet.wishes() {
            let Some((index, _)) = context.deployments.named(&wish.name) else { continue };
            if !desk.takes(index, host.moment()) {
                continue;
            }
            let (cx, requests, desk) = (Rc::clone(context), Rc::clone(submissions), Rc::clone(&desk));
            host.spawn(Box::pin(async move {
                if let (Some(fleet), Some(deployment)) = (cx.fleet.as_deref(), cx.deployments.get(index)) {
                    let looked_at = look_at(&cx, &requests, fleet, (index, deployment), &wish, push).await;
                    if let Err(error) = looked_at {
                        let (name, called, why) = (&deployment.name, fleet.called(), error.why);
                        cx.host
                            .info(&format!("bluegreen: deployment={name}: {called} does not take a condition: {why}"));
                    }
                }
                desk.busy.borrow_mut().remove(&index);
            }));
        }
    }
}

/// Looks at what is asked of one deployment, and brings it about or says why not.
async fn look_at(
    context: &Context,
    submissions: &Submissions,
    fleet: &dyn FleetStore,
    (index, deployment): (DeploymentIndex, &Deployment),
    wish: &Wish,
    push: ConfigPush,
) -> Result<(), NoResponse> {
    let (host, name, generation) = (&*context.host, &deployment.name, wish.generation);
    let split = match &wish.split {
        Ok(split) => *split,
        Err(message) => {
            let refused = Refused { generation, problem: "invalid", message: message.clone() };
            return fleet.refuse(host, name, refused).await;
        }
    };
    let Some(request) = request(context, (index, deployment), split, generation) else { return Ok(()) };
    let request = request.enforce(push.enforce);
    let end = submit(context, &request).await;
    if !matches!(request.command, Command::PassOverSpec(_)) {
        submissions.acknowledge(&request, &end);
    }
    match end {
        Err(error @ ChangeError::Rejected(..)) if !is_superseded(&error) => {
            fleet.refuse(host, name, Refused { generation, problem: error.problem(), message: error.to_string() }).await
        }
        // It is shown with the state that was written, or looked at again.
        _ => Ok(()),
    }
}

/// What follows from a `spec`: the change that it asks for, or that it is left be since another one came first. None where nothing does.
fn request(
    context: &Context,
    (index, deployment): (DeploymentIndex, &Deployment),
    split: Split,
    generation: u64,
) -> Option<ChangeRequest> {
    let (store, now) = (context.host.store(), context.host.now());
    let state = record::load(store, &deployment.name, deployment.initial, now).ok()?.state;
    let value = serde_json::to_value(split).ok()?;
    source_status::record(store, &deployment.name, Source::Kubernetes, &mut |before| {
        let is_known = before.as_ref().is_some_and(|known| {
            let is_open = known.pending.is_some() || known.refusal.is_some();
            known.value == value && (is_open || known.at.apart(now) < FORGOTTEN_AFTER)
        });
        let pending = Some(Pending { on: state.revision, value: value.clone() });
        (!is_known).then(|| SourceStatus { value: value.clone(), at: now, pending, ..SourceStatus::default() })
    });
    let status = source_status::read(store, &deployment.name, Source::Kubernetes)?;
    let author = Author::automatic(Source::Kubernetes, Reason::of(&format!("spec of generation {generation}")));
    match status.pending {
        Some(_) if versions::holds_back(&versions::waiting(store, &deployment.name), split, &state) => None,
        Some(pending) => Some(ChangeRequest::new(index, Command::AdoptSpec(split), author, Some(pending.on))),
        None if status.refusal.as_deref() == Some(SUPERSEDED) => {
            Some(ChangeRequest::new(index, Command::PassOverSpec(split), author, None))
        }
        None => None,
    }
}

fn is_superseded(error: &ChangeError) -> bool {
    matches!(error, ChangeError::Rejected(Rejection::Superseded, _))
}

// === impl Desk ===

impl Desk {
    /// Whether a deployment is to be looked at now.
    fn takes(&self, index: DeploymentIndex, now: Moment) -> bool {
        let (mut busy, mut due) = (self.busy.borrow_mut(), self.due.borrow_mut());
        let is_due = due.get(&index).is_none_or(|due| *due <= now);
        if !is_due || busy.len() >= MOST || !busy.insert(index) {
            return false;
        }
        due.insert(index, now.plus(AGAIN_AFTER));
        true
    }
}
