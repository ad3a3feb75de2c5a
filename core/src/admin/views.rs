//! How the API shows things, member by member in the order of its documentation.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::rollout_view::RolloutView;
use crate::change::context::Context;
use crate::controllers::versions;
use crate::deployment::Deployment;
use crate::fleet::liveness;
use crate::guard::analysis;
use crate::guard::verdict::Verdict;
use crate::metrics::comparison::Window;
use crate::metrics::counters::ColourMetric;
use crate::model::author::Source;
use crate::model::colour::{Colour, PerColour};
use crate::model::identity::Identity;
use crate::model::name::{ClusterName, DeploymentName, Reason, Version};
use crate::model::percent::Percent;
use crate::model::split::Revision;
use crate::model::time::Timestamp;
use crate::readiness::arrival;
use crate::readiness::drain::{blockers_elsewhere, drain_blockers};
use crate::readiness::probe;
use crate::readiness::smoke_test::SmokeResult;
use crate::setup::{self, Notes, SetupProblem};
use crate::shadow::disagreements::{Disagreement, Disagreements};
use crate::shadow::findings::Findings;
use crate::state::State;
use crate::state::history::Change;
use crate::store::Store;
use crate::store::source_status::{self, SourceStatus};
use crate::workers::report::{self, Report};
use crate::workers::roster::Roster;
use crate::workers::worker::Confirmation;

/// A deployment.
#[derive(Clone, Debug, Serialize)]
pub struct DeploymentView<'a> {
    name: &'a DeploymentName,
    revision: Revision,
    active: Colour,
    candidate: Colour,
    canary_percent: Percent,
    shadow_percent: Percent,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<KeptView>,
    colours: PerColour<ColourView<'a>>,
    in_force: InForceView,
    workers: Vec<WorkerView>,
    changed_at: Timestamp,
    changed_by: &'a str,
    source: Source,
    reason: &'a Reason,
    /// Shown in a fleet only.
    #[serde(skip_serializing_if = "Option::is_none")]
    stale: Option<bool>,
    /// What is wrong around the filter.
    setup: Vec<SetupView>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sources: BTreeMap<&'static str, SourceStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout: Option<RolloutView>,
}

/// The canary share is what the former colour keeps after a promotion.
#[derive(Clone, Debug, Serialize)]
struct KeptView {
    percent: Percent,
    until: Timestamp,
}

/// A colour as configured, and as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct ColourView<'a> {
    cluster: &'a ClusterName,
    version: &'a Version,
    /// What is to come there.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<WaitingView>,
    in_flight: u64,
    safe_to_stop: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<ProbeView>,
}

/// What waits to come behind a colour.
#[derive(Clone, Debug, Serialize)]
struct WaitingView {
    #[serde(flatten)]
    identity: Identity,
    why: String,
}

/// What the probes found.
#[derive(Clone, Debug, Serialize)]
struct ProbeView {
    healthy: bool,
    checked_at: Timestamp,
    detail: String,
}

/// How many of this Envoy's workers follow the state.
#[derive(Clone, Debug, Serialize)]
struct InForceView {
    revision: Revision,
    confirmed: usize,
    of: usize,
    /// Those that have not confirmed.
    silent: Vec<u64>,
}

/// A worker.
#[derive(Clone, Debug, Serialize)]
struct WorkerView {
    id: u64,
    /// The revision that requests there follow; absent: it has not read the state yet, and will at its first request.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<Revision>,
    /// How many requests it has routed.
    routed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<Timestamp>,
}

/// A mistake in the set-up.
#[derive(Clone, Debug, Serialize)]
pub struct SetupView {
    problem: SetupProblem,
    detail: String,
    since: Timestamp,
}

/// Deployments, in the order of their names.
#[derive(Debug, Serialize)]
pub struct DeploymentsView<'a> {
    pub deployments: Vec<DeploymentView<'a>>,
    /// The last of them, where there are more: `after` for the next call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<&'a DeploymentName>,
}

/// A deployment's changes, newest first.
#[derive(Debug, Serialize)]
pub struct ChangesView<'a> {
    pub changes: Vec<&'a Change>,
}

/// Both colours side by side, by the name of the period.
#[derive(Debug, Serialize)]
pub struct ComparisonView<'a> {
    name: &'a DeploymentName,
    revision: Revision,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow: Option<Findings>,
    windows: Windows,
}

/// The last answers that differed.
#[derive(Debug, Serialize)]
pub struct DisagreementsView<'a> {
    name: &'a DeploymentName,
    revision: Revision,
    active: Colour,
    candidate: Colour,
    /// From new to old.
    disagreements: Vec<&'a Disagreement>,
}

/// The result of a smoke test.
#[derive(Debug, Serialize)]
pub struct SmokeTestView<'a> {
    pub name: &'a DeploymentName,
    pub candidate: Colour,
    pub version: &'a Version,
    pub revision: Revision,
    pub passed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Timestamp>,
    pub results: &'a [SmokeResult],
}

/// The periods by name, the shortest first.
#[derive(Debug)]
struct Windows(Vec<(&'static str, Window)>);

// === impl DeploymentView ===

impl<'a> DeploymentView<'a> {
    /// A deployment in this state, as the workers that have confirmed see it.
    pub fn new(deployment: &'a Deployment, state: &'a State, context: &Context, confirmation: &Confirmation) -> Self {
        let (store, now) = (context.host.store(), context.host.now());
        let totals = report::totals(store, &deployment.name);
        let index = context.deployments.named(deployment.name.as_str()).map(|(index, _)| index);
        let elsewhere = |colour| {
            index.is_some_and(|index| {
                blockers_elsewhere(&*context.host, &context.worker, &context.deployments, index, colour)
                    .next()
                    .is_some()
            })
        };
        let mut health = match deployment.probe {
            Some(_) => probe::health(store, deployment, state),
            None => PerColour::default(),
        };
        let mut waiting = versions::waiting(store, &deployment.name);
        let colours = PerColour::from_fn(|colour| {
            let in_flight = totals.get(colour).get(ColourMetric::InFlight);
            let (bake, strays) = (deployment.bake, arrival::unrouted(store, deployment, colour.other()).is_some());
            let blockers = drain_blockers(state, colour, in_flight, bake, confirmation, strays, now);
            let identity = deployment.identity(state, colour);
            let waits = waiting.get_mut(colour).take().filter(|waiting| waiting.identity != *identity);
            ColourView {
                cluster: &identity.cluster,
                version: &identity.version,
                waiting: waits.map(|waiting| WaitingView { identity: waiting.identity, why: waiting.why }),
                in_flight,
                safe_to_stop: blockers.is_empty() && !elsewhere(colour),
                probe: health.get_mut(colour).take().map(|health| ProbeView {
                    healthy: health.healthy,
                    checked_at: health.checked_at,
                    detail: health.detail,
                }),
            }
        });
        // One by one: collecting sorts, and that is a lot of code for a handful.
        let mut sources = BTreeMap::new();
        for source in &deployment.sources {
            if let Some(status) = source_status::read(store, &deployment.name, *source) {
                sources.insert(source.as_str(), status);
            }
        }
        Self {
            name: &deployment.name,
            revision: state.revision,
            active: state.split.active,
            candidate: state.split.candidate(),
            canary_percent: state.split.canary_percent,
            shadow_percent: state.split.shadow_percent,
            kept: state.kept.map(|kept| KeptView { percent: state.split.canary_percent, until: kept.until }),
            colours,
            in_force: InForceView::new(state.revision, confirmation),
            workers: WorkerView::all(store, &deployment.name),
            changed_at: state.since,
            changed_by: state.author.by.as_str(),
            source: state.author.source,
            reason: &state.author.reason,
            stale: context.fleet.as_ref().map(|fleet| liveness::is_lost(store, &**fleet, now)),
            setup: SetupView::all(setup::noted(store, &deployment.name)),
            sources,
            rollout: state.rollout.map(|rollout| {
                let analysis = analysis::read(store, &deployment.name);
                RolloutView::new(rollout, deployment, state, analysis.as_ref(), store, now)
            }),
        }
    }

    pub const fn revision(&self) -> Revision {
        self.revision
    }
}

// === impl InForceView ===

impl InForceView {
    fn new(revision: Revision, confirmation: &Confirmation) -> Self {
        let Confirmation { machines, silent } = confirmation;
        let confirmed = machines.len().saturating_sub(silent.len());
        Self { revision, confirmed, of: machines.len(), silent: silent.clone() }
    }
}

// === impl WorkerView ===

impl WorkerView {
    /// One for each virtual machine: the instances of several listeners share a thread.
    fn all(store: &dyn Store, name: &DeploymentName) -> Vec<Self> {
        let mut views: Vec<Self> = Vec::new();
        for member in Roster::read(store).members() {
            let report = Report::read(store, name, member);
            let place = views.iter().position(|view| view.id == member.vm).unwrap_or_else(|| {
                views.push(Self { id: member.vm, revision: None, routed: 0, last_seen: None });
                views.len().saturating_sub(1)
            });
            let Some(view) = views.get_mut(place) else { continue };
            let revision = report.as_ref().map(|report| report.revision);
            // The oldest of them: what some requests there follow.
            view.revision = view.revision.into_iter().chain(revision).min();
            view.routed = view.routed.saturating_add(report.map_or(0, |report| report.routed()));
            view.last_seen = view.last_seen.max(member.heartbeat(store).map(|heartbeat| heartbeat.seen));
        }
        views
    }
}

// === impl SetupView ===

impl SetupView {
    fn all(notes: Notes) -> Vec<Self> {
        notes.into_iter().map(|(problem, noted)| Self { problem, detail: noted.detail, since: noted.since }).collect()
    }
}

// === impl ComparisonView ===

impl<'a> ComparisonView<'a> {
    pub fn new(
        name: &'a DeploymentName,
        revision: Revision,
        verdict: Option<Verdict>,
        shadow: Option<Findings>,
        windows: Vec<(&'static str, Window)>,
    ) -> Self {
        Self { name, revision, verdict, shadow, windows: Windows(windows) }
    }
}

// === impl DisagreementsView ===

impl<'a> DisagreementsView<'a> {
    pub fn new(name: &'a DeploymentName, state: &State, disagreements: &'a Disagreements) -> Self {
        let split = state.split;
        Self {
            name,
            revision: state.revision,
            active: split.active,
            candidate: split.candidate(),
            disagreements: disagreements.iter().rev().collect(),
        }
    }
}

impl Serialize for Windows {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, window) in &self.0 {
            map.serialize_entry(name, window)?;
        }
        map.end()
    }
}
