//! How the API shows things, member by member in the order of its documentation.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::Backend;
use crate::admin::rollout_view::RolloutView;
use crate::deployment::Deployment;
use crate::deployment::DeploymentIndex;
use crate::etcd::liveness;
use crate::guard::analysis;
use crate::guard::verdict::Verdict;
use crate::metrics::comparison::Window;
use crate::model::author::Source;
use crate::model::colour::{Colour, PerColour};
use crate::model::name::{ClusterName, DeploymentName, Reason, Version};
use crate::model::percent::Percent;
use crate::model::split::Revision;
use crate::model::time::Timestamp;
use crate::readiness::drain::holds;
use crate::readiness::probe;
use crate::readiness::versions::versions;
use crate::state::State;
use crate::state::history::Change;
use crate::store::source_status::{self, Sighting};

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
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sources: BTreeMap<&'static str, Sighting>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout: Option<RolloutView>,
}

/// A colour as configured, and as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct ColourView<'a> {
    cluster: &'a ClusterName,
    version: Version,
    in_flight: u64,
    safe_to_stop: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<ProbeView>,
}

/// What the probes found.
#[derive(Clone, Debug, Serialize)]
struct ProbeView {
    healthy: bool,
    checked_at: Timestamp,
    detail: String,
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

/// The periods by name, the shortest first.
#[derive(Debug)]
struct Windows(Vec<(&'static str, Window)>);

// === impl DeploymentView ===

impl<'a> DeploymentView<'a> {
    pub fn new(
        index: DeploymentIndex,
        route: &'a Deployment,
        state: &'a State,
        backend: &dyn Backend,
        now: Timestamp,
    ) -> Self {
        let mut verdicts = match route.readiness.probe {
            Some(_) => probe::verdicts(backend.store(), &route.name),
            None => PerColour::default(),
        };
        let versions = versions(backend.store(), route);
        let colours = PerColour::from_fn(|colour| {
            let in_flight = backend.in_flight(index, colour);
            ColourView {
                cluster: &route.colours.get(colour).cluster,
                version: versions.get(colour).clone(),
                in_flight,
                safe_to_stop: holds(state, colour, in_flight, route.readiness.bake, now).is_empty(),
                probe: verdicts.get_mut(colour).take().map(|verdict| ProbeView {
                    healthy: verdict.healthy,
                    checked_at: verdict.checked_at,
                    detail: verdict.detail,
                }),
            }
        });
        // One by one: collecting sorts, and that is a lot of code for a handful.
        let mut sources = BTreeMap::new();
        for source in &route.sources {
            if let Some(sighting) = source_status::read(backend.store(), &route.name, *source) {
                sources.insert(source.as_str(), sighting);
            }
        }
        Self {
            name: &route.name,
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
            stale: backend.fleet().map(|fleet| liveness::is_lost(backend.store(), fleet, now)),
            sources,
            rollout: state.rollout.map(|rollout| {
                let watch = analysis::read(backend.store(), &route.name);
                RolloutView::new(rollout, route, watch.as_ref(), backend.store(), now)
            }),
        }
    }

    pub const fn revision(&self) -> Revision {
        self.revision
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
