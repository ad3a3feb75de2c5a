//! Changes that controllers have asked for, and that may have to wait for a probe or for the fleet's store.

use std::cell::RefCell;
use std::rc::Rc;

use crate::change::context::Context;
use crate::change::error::{ChangeError, outcome_of};
use crate::change::request::ChangeRequest;
use crate::change::submit::submit;
use crate::deployment::DeploymentIndex;
use crate::host::tasks::TaskId;
use crate::metrics::named::Named;
use crate::model::author::Source;
use crate::notification::{self, Event};
use crate::store::record::Applied;
use crate::store::source_status::{self, ChangeOutcome};

/// The changes under way, at most one for each source and deployment.
pub struct Submissions {
    context: Rc<Context>,
    running: RefCell<Vec<(ChangeRequest, TaskId)>>,
}

// === impl Submissions ===

impl Submissions {
    /// None yet.
    pub fn new(context: &Rc<Context>) -> Self {
        Self { context: Rc::clone(context), running: RefCell::default() }
    }

    /// Brings a change about, on a flow of its own. One that is under way already goes on; another one of the same source
    /// about the same deployment is given up for this, the later one.
    pub fn submit(self: &Rc<Self>, request: ChangeRequest) {
        let mut running = self.running.borrow_mut();
        if running.iter().any(|(other, _)| *other == request) {
            return;
        }
        running.retain(|(other, task)| {
            let is_superseded = request.supersedes(other);
            if is_superseded {
                self.context.host.cancel(*task);
            }
            !is_superseded
        });
        let (this, submitted) = (Rc::clone(self), request.clone());
        let task = self.context.host.spawn(Box::pin(async move {
            let end = submit(&this.context, &submitted).await;
            this.acknowledge(&submitted, &end);
            this.running.borrow_mut().retain(|(other, _)| *other != submitted);
        }));
        running.push((request, task));
    }

    /// Whether a change of this source about a deployment is under way.
    pub fn is_running(&self, deployment: DeploymentIndex, source: Source) -> bool {
        self.running.borrow().iter().any(|(request, _)| (request.deployment, request.source()) == (deployment, source))
    }

    /// Keeps what became of a change with what its source was seen to say.
    pub fn acknowledge(&self, request: &ChangeRequest, end: &Result<Applied, ChangeError>) {
        let Some(deployment) = self.context.deployments.get(request.deployment) else { return };
        let (host, source, outcome) = (&self.context.host, request.source(), outcome_of(end));
        let is_news = source_status::acknowledge(host.store(), &deployment.name, source, &outcome, host.now());
        if let (true, ChangeOutcome::Rejected(why)) = (is_news, outcome) {
            let line = format!("bluegreen: deployment={} source={}: refused: {why}", deployment.name, source.as_str());
            host.warn(&line);
            if let Err(error) = end {
                host.count(&Named::ChangesRefused(&deployment.name, source, error.problem()).to_string());
            }
            notification::tell(&**host, deployment, &Event::Refused { source, why: &why });
        }
    }
}
