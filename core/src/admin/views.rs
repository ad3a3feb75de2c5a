//! How the API shows things, member by member in the order of its documentation.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::rollout_view::RolloutView;
use crate::change::context::Context;
use crate::controllers::versions;
use crate::deployment::Deployment;
use crate::deployment::DeploymentIndex;
use crate::etcd::liveness;
use crate::guard::analysis;
use crate::guard::verdict::Verdict;
use crate::metrics::comparison::Window;
use crate::model::author::Source;
use crate::model::colour::{Colour, PerColour};
use crate::model::identity::Identity;
use crate::model::name::{ClusterName, DeploymentName, Reason, Version};
use crate::model::percent::Percent;
use crate::model::split::Revision;
use crate::model::time::Timestamp;
use crate::readiness::drain::drain_blockers;
use crate::readiness::probe;
use crate::readiness::smoke_test::SmokeResult;
use crate::setup::{self, Notes, SetupProblem};
use crate::state::State;
use crate::state::history::Change;
use crate::store::source_status::{self, SourceStatus};

/// A deployment.
#[derive(Clone, Debug, Serialize)]
pub struct DeploymentView<'a> {
    name: &'a DeploymentName,
    revision: Revision,
    active: Colour,
    candidate: Colour,
    canary_percent: Percent,
    shadow_percent: Percent,
    colours: PerColour<ColourView<'a>>,
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

/// A mistake in the set-up.
#[derive(Clone, Debug, Serialize)]
pub struct SetupView {
    problem: SetupProblem,
    detail: String,
    since: Timestamp,
}

/// All deployments.
#[derive(Debug, Serialize)]
pub struct DeploymentsView<'a> {
    pub deployments: Vec<DeploymentView<'a>>,
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
    windows: Windows,
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
    pub fn new(index: DeploymentIndex, deployment: &'a Deployment, state: &'a State, context: &Context) -> Self {
        let (host, store, now) = (&context.host, context.host.store(), context.host.now());
        let mut health = match deployment.readiness.probe {
            Some(_) => probe::health(store, deployment, state),
            None => PerColour::default(),
        };
        let mut waiting = versions::waiting(store, &deployment.name);
        let colours = PerColour::from_fn(|colour| {
            let in_flight = host.in_flight(index, colour);
            let identity = deployment.identity(state, colour);
            let waits = waiting.get_mut(colour).take().filter(|waiting| waiting.identity != *identity);
            ColourView {
                cluster: &identity.cluster,
                version: &identity.version,
                waiting: waits.map(|waiting| WaitingView { identity: waiting.identity, why: waiting.why }),
                in_flight,
                safe_to_stop: drain_blockers(state, colour, in_flight, deployment.readiness.bake, now).is_empty(),
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
            colours,
            changed_at: state.since,
            changed_by: &state.author.by,
            source: state.author.source,
            reason: &state.author.reason,
            stale: context.etcd.as_ref().map(|etcd| liveness::is_lost(store, etcd, now)),
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
        windows: Vec<(&'static str, Window)>,
    ) -> Self {
        Self { name, revision, verdict, windows: Windows(windows) }
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
