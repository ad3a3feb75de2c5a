//! What each endpoint does: one function for each, which reads from top to bottom.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::openapi;
use super::problems::Problem;
use super::request::{Answer, Refused, Request};
use super::response::Response;
use super::views::{ChangesView, ComparisonView, DeploymentView, DeploymentsView, DisagreementsView, SmokeTestView};
use crate::change::error::{ChangeError, Rejection};
use crate::change::request::{ChangeRequest, Checks, Precondition};
use crate::change::submit::submit;
use crate::config::ConfigPush;
use crate::controllers::rollout::awaited;
use crate::controllers::{config_push, versions};
use crate::deployment::{Deployment, DeploymentIndex};
use crate::guard::analysis;
use crate::guard::verdict::Verdict;
use crate::host::next_tick;
use crate::metrics::comparison::{self, Sample};
use crate::metrics::counters::ColourMetric;
use crate::metrics::named::Named;
use crate::model::author::Source;
use crate::model::colour::{Colour, PerColour};
use crate::model::split::Revision;
use crate::model::time::Moment;
use crate::readiness::arrival;
use crate::readiness::drain::{DrainBlocker, blockers_elsewhere, drain_blockers};
use crate::shadow::findings::Findings;
use crate::state::rollout::{self, RolloutCommand, Shares};
use crate::state::{Command, Patch, Refusal, SmokeTestOutcome, State};
use crate::workers::worker::Confirmation;
use crate::workers::{comparer, report};

/// What becomes of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutAction {
    Start,
    Pause,
    Resume,
    Abort,
    Skip,
}

/// The excess of disagreements that findings are about where no rule says which.
const NO_EXCESS: f64 = 0.02;

/// How many deployments a list has at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PageSize(usize);

/// Why a string is no [`PageSize`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct BadPageSize(String);

/// How long a drain may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DrainTimeout(Duration);

/// Why a string is no [`DrainTimeout`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct BadTimeout(String);

// === Envoy itself ===

pub async fn health(_: Box<Request>) -> Answer {
    Ok(Response::json(200, &serde_json::json!({"status": "ok"})))
}

/// Whether requests follow the fleet's states, each of which has come at least once.
pub async fn ready(call: Box<Request>) -> Answer {
    let missing: Vec<_> = call.context.unsynced().iter().map(|deployment| deployment.name.clone()).collect();
    if missing.is_empty() {
        return Ok(Response::json(200, &serde_json::json!({"status": "ready"})));
    }
    Err(Problem::NotReady(missing).into())
}

/// What this API is.
pub async fn describe(call: Box<Request>) -> Answer {
    Ok(openapi::response(&call.prefix))
}

/// A delivery of MLflow: its body is signed as a whole.
pub async fn webhook(call: Box<Request>) -> Answer {
    let (deployments, host) = (&call.context.deployments, &call.context.host);
    Ok(call.delivery.accept(&call.body, deployments, host.store(), host.now())?)
}

// === reads ===

pub async fn list(call: Box<Request>) -> Answer {
    let PageSize(limit) = call.params.parsed("limit")?.unwrap_or_default();
    let after: String = call.params.parsed("after")?.unwrap_or_default();
    let confirmation = call.context.ask_workers(None).await;
    let all = call.context.deployments.all();
    let first = all.partition_point(|deployment| deployment.name.as_str() <= after.as_str());
    let rest = all.get(first..).unwrap_or_default();
    let page = rest.get(..limit).unwrap_or(rest);
    let states = page.iter().map(|deployment| call.load(deployment)).collect::<Result<Vec<State>, _>>()?;
    let view = |(deployment, state)| DeploymentView::new(deployment, state, &call.context, &confirmation);
    let deployments = page.iter().zip(&states).map(view).collect();
    let next = page.last().filter(|_| page.len() < rest.len()).map(|deployment| &deployment.name);
    Ok(Response::json(200, &DeploymentsView { deployments, next }))
}

pub async fn state(call: Box<Request>) -> Answer {
    let (index, deployment) = call.deployment()?;
    let confirmation = call.context.ask_workers(Some(index)).await;
    Ok(call.show(200, deployment, &call.load(deployment)?, &confirmation))
}

pub async fn history(call: Box<Request>) -> Answer {
    let (_, deployment) = call.deployment()?;
    let state = call.load(deployment)?;
    let changes = ChangesView { changes: state.history.changes().collect() };
    Ok(Response::json(200, &changes).with_etag(state.revision))
}

pub async fn comparison(call: Box<Request>) -> Answer {
    let (index, deployment) = call.deployment()?;
    let state = call.load(deployment)?;
    let host = &call.context.host;
    call.context.ask_workers(Some(index)).await;
    let sample = Sample { at: host.now(), counts: report::counts(host.store(), &deployment.name) };
    let windows = comparison::windows(host.store(), &deployment.name, &sample, state.history.last_replaced_at())
        .map_err(|_| Problem::StoreUnavailable)?;
    let analysis = analysis::read(host.store(), &deployment.name).filter(|analysis| analysis.is_about(&state));
    let verdict = analysis.as_ref().zip(deployment.guard.as_ref());
    let verdict = verdict.map(|(analysis, guard)| Verdict::new(analysis, guard));
    let found = comparer::found(host.store(), deployment, &state).zip(deployment.compare());
    let shadow = found.map(|((_, notes), rules)| {
        let guard = deployment.guard.unwrap_or_default();
        let of_guard = guard.disagreement.map(|rule| rule.max_excess);
        let most = awaited(deployment, &state).and_then(|step| step.max_excess).or(of_guard).unwrap_or(NO_EXCESS);
        Findings::of(&notes.compared, rules, most, guard.alpha())
    });
    Ok(Response::json(200, &ComparisonView::new(&deployment.name, state.revision, verdict, shadow, windows)))
}

/// The last answers of the candidate that differed from the active colour's.
pub async fn disagreements(call: Box<Request>) -> Answer {
    let (index, deployment) = call.deployment()?;
    let state = call.load(deployment)?;
    call.context.ask_workers(Some(index)).await;
    let Some((_, notes)) = comparer::found(call.context.host.store(), deployment, &state) else {
        return Err(Refused::on(Problem::NoComparison, index, state));
    };
    Ok(Response::json(200, &DisagreementsView::new(&deployment.name, &state, &notes.disagreements)))
}

// === changes ===

pub async fn patch(call: Box<Request>) -> Answer {
    let command = |call: &Request, _: &Deployment, _: &State| {
        let patch = Patch {
            active: call.params.parsed("active")?,
            canary_percent: call.params.parsed("canary_percent")?,
            shadow_percent: call.params.parsed("shadow_percent")?,
        };
        if patch == Patch::default() { Err(Problem::EmptyPatch) } else { Ok(Command::Patch(patch)) }
    };
    change(call, &command).await
}

pub async fn promote(mut call: Box<Request>) -> Answer {
    let to = call.params.parsed("to")?;
    if let Some(made) = take_on_waiting(&call, to).await? {
        call.precondition = Precondition::Revisions(vec![made]);
    }
    change(call, &|_, _, _| Ok(Command::Promote(to))).await
}

pub async fn roll_back(call: Box<Request>) -> Answer {
    let to = call.params.parsed("to")?;
    change(call, &|_, _, _| Ok(Command::RollBack(to))).await
}

pub async fn rollout(call: Box<Request>, action: RolloutAction) -> Answer {
    change(call, &|_, deployment, state| action.command(deployment, state).map(Command::Rollout)).await
}

/// By force a promote means what waits to come behind the candidate: without force that has to be ready first. The revision
/// at which that came, if it did.
async fn take_on_waiting(call: &Request, to: Option<Colour>) -> Result<Option<Revision>, Refused> {
    let (index, deployment) = call.deployment()?;
    let state = call.load(deployment)?;
    let candidate = state.split.candidate();
    let is_meant = to.is_none_or(|to| to == candidate) && call.params.is_set("force")?;
    let waiting = versions::waiting(call.context.host.store(), &deployment.name).get_mut(candidate).take();
    let Some(waiting) = waiting.filter(|_| is_meant) else { return Ok(None) };
    if !call.precondition.allows(state.revision) {
        let rejection = ChangeError::Rejected(Rejection::Superseded, Box::new(state));
        return Err(Refused::change(rejection, index));
    }
    let author = call.caller.author(call.params.reason()?);
    let request = versions::by_force(index, candidate, waiting, author);
    let applied = versions::adopt(&call.context, &request).await.map_err(|error| Refused::change(error, index))?;
    Ok(Some(applied.state.revision))
}

/// What the parameters ask for, on a state as it is now.
type CommandOf<'c> = &'c dyn Fn(&Request, &Deployment, &State) -> Result<Command, Problem>;

async fn change(call: Box<Request>, command: CommandOf<'_>) -> Answer {
    let (index, deployment) = call.deployment()?;
    let request = {
        let state = call.load(deployment)?;
        let command = match command(&call, deployment, &state) {
            Ok(command) => command,
            Err(problem) if problem.is_conflict() => return Err(Refused::on(problem, index, state)),
            Err(problem) => return Err(problem.into()),
        };
        let checks = if call.params.is_set("force")? { Checks::Override } else { Checks::Enforce };
        ChangeRequest {
            author: call.caller.author(call.params.reason()?),
            command,
            precondition: call.precondition.clone(),
            deployment: index,
            checks,
            healthy: PerColour::default(),
        }
    };
    match submit(&call.context, &request).await {
        Ok(applied) => {
            let confirmation = call.context.ask_workers(Some(index)).await;
            let status = if confirmation.silent.is_empty() { 200 } else { 202 };
            Ok(call.show(status, deployment, &applied.state, &confirmation))
        }
        Err(error) => {
            let refused = Named::ChangesRefused(&deployment.name, Source::Admin, error.problem());
            call.context.host.count(&refused.to_string());
            Err(Refused::change(error, index))
        }
    }
}

// === smoke test ===

/// One request after the other to what is behind the candidate, or to what waits to come behind a colour; then the result,
/// which is kept with the state.
pub async fn test(call: Box<Request>) -> Answer {
    let (index, deployment) = call.deployment()?;
    let state = call.load(deployment)?;
    let Some(test) = &deployment.smoke_test else {
        return Err(Refused::on(Problem::NoSmokeTest, index, state));
    };
    let host = &call.context.host;
    let candidate = state.split.candidate();
    let colour: Colour = call.params.parsed("colour")?.unwrap_or(candidate);
    let waiting = versions::waiting(host.store(), &deployment.name).get_mut(colour).take();
    let identity = match &waiting {
        Some(waiting) => waiting.identity.clone(),
        None if colour == candidate => deployment.identity(&state, colour).clone(),
        None => return Err(Refused::on(Problem::NothingToTest(colour), index, state)),
    };
    let mut results = Vec::new();
    while let Some(request) = test.request(results.len(), deployment, &identity) {
        let reply = host.http(&request).await;
        results.extend(test.judge(results.len(), &reply));
    }
    let passed = results.iter().all(|result| result.passed);
    host.count(&ColourMetric::SmokeTests(passed).name(&deployment.name, colour));
    let outcome = SmokeTestOutcome { colour, identity: identity.clone(), passed };
    let author = call.caller.author(call.params.reason()?);
    let request = ChangeRequest::new(index, Command::RecordSmokeTest(outcome), author, None);
    let applied = submit(&call.context, &request).await.map_err(|error| Refused::change(error, index))?;
    let mut revision = applied.state.revision;
    if let (true, Some(_)) = (passed, waiting) {
        // It waited for that, and the next promote is about what was tested.
        versions::try_again(&call.context, index, ConfigPush::default(), config_push::wanted(host.store(), deployment))
            .await;
        revision = call.load(deployment)?.revision;
    }
    Ok(Response::json(
        200,
        &SmokeTestView {
            name: &deployment.name,
            candidate: colour,
            version: &identity.version,
            revision,
            passed,
            valid_until: passed.then(|| host.now().plus(test.valid_for)),
            results: &results,
        },
    ))
}

// === drain ===

/// Waits until nothing needs a colour, or nothing can make it so in time.
pub async fn drain(call: Box<Request>) -> Answer {
    let (index, deployment) = call.deployment()?;
    let colour: Colour = call.params.parsed("colour")?.ok_or(Problem::MissingParameter("colour"))?;
    let DrainTimeout(timeout) = call.params.parsed("timeout")?.unwrap_or_default();
    let host = &*call.context.host;
    let deadline = host.moment().plus(timeout);
    loop {
        // About all deployments: another one may serve from the same cluster.
        let confirmation = call.context.ask_workers(None).await;
        let look = || drained(&call, (index, deployment), colour, &confirmation, deadline);
        if let Some(answer) = look() {
            return answer;
        }
        next_tick(host).await;
        // Workers say at each tick what they have counted. They are asked once that says that the wait is over, not by
        // each of many drains at each tick.
        while confirmation.silent.is_empty() && look().is_none() {
            next_tick(host).await;
        }
    }
}

/// The answer to a drain, once nothing needs the colour, or nothing can make it so by `deadline`.
fn drained(
    call: &Request,
    (index, deployment): (DeploymentIndex, &Deployment),
    colour: Colour,
    confirmation: &Confirmation,
    deadline: Moment,
) -> Option<Answer> {
    let state = match call.load(deployment) {
        Ok(state) => state,
        Err(refused) => return Some(Err(refused)),
    };
    let host = &*call.context.host;
    let (store, now) = (host.store(), host.now());
    let in_flight = report::totals(store, &deployment.name).get(colour).get(ColourMetric::InFlight);
    let (bake, strays) = (deployment.bake, arrival::unrouted(store, deployment, colour.other()).is_some());
    let mut blockers = drain_blockers(&state, colour, in_flight, bake, confirmation, strays, now);
    blockers.extend(blockers_elsewhere(host, &call.context.worker, &call.context.deployments, index, colour));
    if blockers.is_empty() {
        return Some(Ok(call.show(200, deployment, &state, confirmation)));
    }
    let time_left = deadline.since(host.moment());
    if !time_left.is_zero() && blockers.iter().all(|blocker| blocker.ends_before(now.plus(time_left))) {
        return None;
    }
    let blockers = blockers.iter().map(DrainBlocker::to_string).collect::<Vec<_>>().join(", ");
    Some(Err(Refused::on(Problem::NotDrained { colour, blockers }, index, state)))
}

// === impl RolloutAction ===

impl RolloutAction {
    fn command(self, deployment: &Deployment, state: &State) -> Result<RolloutCommand, Problem> {
        match (self, &deployment.rollout) {
            (Self::Pause, _) => Ok(RolloutCommand::Pause),
            (Self::Resume, _) => Ok(RolloutCommand::Resume),
            (Self::Abort, _) => Ok(RolloutCommand::Abort),
            (Self::Start | Self::Skip, None) => Err(Problem::NoRolloutPlan),
            (Self::Start, Some(plan)) => {
                let first = plan.steps.first().ok_or(Problem::NoRolloutPlan)?;
                Ok(RolloutCommand::Start(Shares::of(first, plan)))
            }
            (Self::Skip, Some(plan)) => {
                let here = state.rollout.ok_or(Problem::Refused(Refusal::Rollout(rollout::Refusal::NoRollout)))?;
                Ok(RolloutCommand::Next(here, here.next(plan)))
            }
        }
    }
}

// === impl PageSize ===

impl PageSize {
    /// To show a deployment takes the thread about as long as to route fifty requests.
    const LARGEST: usize = 1_000;
}

impl Default for PageSize {
    fn default() -> Self {
        Self(100)
    }
}

impl FromStr for PageSize {
    type Err = BadPageSize;

    fn from_str(text: &str) -> Result<Self, BadPageSize> {
        match text.parse() {
            Ok(size @ 1..=Self::LARGEST) => Ok(Self(size)),
            _ => Err(BadPageSize(text.to_owned())),
        }
    }
}

impl fmt::Display for BadPageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a whole number from 1 to {}", self.0, PageSize::LARGEST)
    }
}

// === impl DrainTimeout ===

impl DrainTimeout {
    /// Envoy ends a stream in which nothing moves after five minutes.
    const LONGEST: Duration = Duration::from_secs(240);
}

impl Default for DrainTimeout {
    fn default() -> Self {
        Self(Duration::from_secs(30))
    }
}

impl FromStr for DrainTimeout {
    type Err = BadTimeout;

    fn from_str(text: &str) -> Result<Self, BadTimeout> {
        match humantime::parse_duration(text) {
            Ok(timeout) if timeout <= Self::LONGEST => Ok(Self(timeout)),
            _ => Err(BadTimeout(text.to_owned())),
        }
    }
}

impl fmt::Display for BadTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = humantime::format_duration(DrainTimeout::LONGEST);
        write!(f, "{:?} is not a time such as 500ms or 30s, of at most {longest}", self.0)
    }
}
