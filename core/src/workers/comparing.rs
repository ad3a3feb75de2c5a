//! One comparison: the request is sent to the candidate, and its answer is held against the active colour's.
//!
//! Where the two differ, and for a share of the others, the active colour is asked once more: what it does not answer twice alike
//! is its own noise.

use std::time::Duration;

use super::comparer::{About, Place};
use super::worker::Worker;
use crate::config::Compare;
use crate::deployment::{Deployment, DeploymentIndex};
use crate::host::Host;
use crate::host::http::{HttpReply, HttpRequest};
use crate::metrics::named::Named;
use crate::model::colour::Colour;
use crate::shadow::answer::Answer;
use crate::shadow::copy::{COPY_HEADER, CopiedAnswer, CopiedRequest};
use crate::shadow::disagreements::Disagreement;
use crate::shadow::dropped::Dropped;
use crate::shadow::record::{Again, Trial};

/// A copy whose exchange is over.
#[derive(Debug)]
pub struct Kept {
    /// What is sent again.
    pub request: CopiedRequest,
    /// What the active colour answered.
    pub answer: CopiedAnswer,
    /// What was behind the colours when the request was routed.
    pub about: About,
    /// Held until the comparison is over.
    pub place: Place,
}

/// Compares, and notes what was found, or why nothing was.
pub async fn compare(
    host: &dyn Host,
    worker: &Worker,
    (index, deployment): (DeploymentIndex, &Deployment),
    rules: &Compare,
    kept: Kept,
) {
    let comparison = Comparison { host, worker, index, deployment, rules, kept: &kept };
    if let Err(reason) = comparison.run().await {
        worker.drop_copy(host, (index, deployment), &kept.about, reason);
    }
}

/// One comparison under way.
#[derive(Clone, Copy)]
struct Comparison<'c> {
    host: &'c dyn Host,
    worker: &'c Worker,
    index: DeploymentIndex,
    deployment: &'c Deployment,
    rules: &'c Compare,
    kept: &'c Kept,
}

/// A status that says that there was no answer: Envoy's own, or a server's that has none to give.
const NO_ANSWER: [u16; 2] = [502, 503];

/// Envoy waited in vain.
const TIMEOUT: u16 = 504;

// === impl Comparison ===

impl Comparison<'_> {
    async fn run(self) -> Result<(), Dropped> {
        let Self { host, worker, index, deployment, rules, kept } = self;
        let Kept { request, answer, about, .. } = kept;
        self.is_still_about()?;
        let first = Answer::read(answer.status, &answer.body, answer.json_length, rules)?;
        let (candidate, took) = self.ask(about.active.other()).await?;
        let comparer = worker.comparer(index, deployment).ok_or(Dropped::VersionChanged)?;
        let measures_noise = comparer.measures_noise(rules);
        let asks_again = measures_noise || comparer.wants_again(about, (&first, &candidate), rules);
        // Only a change ends the comparison: that the active colour did not answer again is a finding.
        let again = if asks_again { Some(self.ask(about.active).await.map(|(again, _)| again)) } else { None };
        self.is_still_about()?;
        let again = match &again {
            None => Again::NotAsked,
            Some(Err(_)) => Again::Failed,
            Some(Ok(again)) => Again::Answered(again),
        };
        let trial =
            Trial { first: &first, candidate: &candidate, again, is_sample: measures_noise, took: (answer.took, took) };
        let found = worker.note_comparison(index, about, |notes| {
            let difference = notes.compared.add(&trial, rules);
            let found = difference.is_some();
            if let Some(difference) = difference {
                let (now, id) = (host.now(), request.header("x-request-id"));
                let disagreement = Disagreement::new(now, id, difference, &request.body, rules.keep_inputs);
                notes.disagreements.push(disagreement);
            }
            found
        });
        let name = &deployment.name;
        host.count(&Named::Compared(name, if found { "disagreed" } else { "agreed" }).to_string());
        Ok(())
    }

    /// Sends the request to a colour: its answer, and after what time it came.
    async fn ask(self, colour: Colour) -> Result<(Answer, Duration), Dropped> {
        let Self { host, rules, kept, .. } = self;
        let identity = kept.about.identities.get(colour);
        let mut headers = kept.request.headers.clone();
        if let Some(authority) = &identity.authority {
            headers.retain(|(name, _)| name != ":authority");
            headers.push((":authority".to_owned(), authority.as_str().to_owned()));
        }
        // Only what is not compressed can be compared.
        headers.push(("accept-encoding".to_owned(), "identity".to_owned()));
        headers.push((COPY_HEADER.to_owned(), "true".to_owned()));
        let body = Some(kept.request.body.clone()).filter(|body| !body.is_empty());
        let request = HttpRequest { cluster: identity.cluster.clone(), headers, body, timeout: rules.timeout };
        let asked = host.moment();
        let reply = host.http(&request).await;
        let took = host.moment().since(asked);
        self.is_still_about()?;
        match reply {
            HttpReply::Answered { status: TIMEOUT, .. } => Err(Dropped::Timeout),
            HttpReply::Answered { status, .. } if NO_ANSWER.contains(&status) => Err(Dropped::Unreachable),
            HttpReply::Answered { body, .. } if body.len() > rules.max_body => Err(Dropped::TooLarge),
            // Of an answer with a binary part the host hands on the JSON.
            HttpReply::Answered { status, body } => Ok((Answer::read_other(status, &body, None, rules)?, took)),
            HttpReply::Broken | HttpReply::UnknownCluster(_) => Err(Dropped::Unreachable),
        }
    }

    /// Whether the same is behind the same colours as when the request was routed.
    fn is_still_about(self) -> Result<(), Dropped> {
        let is_now = self.worker.state(self.index).is_some_and(|state| self.kept.about.is_now(state));
        if is_now { Ok(()) } else { Err(Dropped::VersionChanged) }
    }
}
