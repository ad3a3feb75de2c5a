//! How the API shows things, member by member in the order of its documentation.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::colour::{Colour, PerColour};
use crate::comparison::Window;
use crate::config::Upstream;
use crate::history::{Change, Source};
use crate::name::{DeploymentName, Reason};
use crate::percent::Percent;
use crate::routing::Route;
use crate::state::{Revision, State};
use crate::time::Timestamp;

/// A deployment.
#[derive(Clone, Debug, Serialize)]
pub struct DeploymentView<'a> {
    name: &'a DeploymentName,
    revision: Revision,
    active: Colour,
    candidate: Colour,
    canary_percent: Percent,
    shadow_percent: Percent,
    colours: &'a PerColour<Upstream>,
    changed_at: Timestamp,
    changed_by: &'a str,
    source: Source,
    reason: &'a Reason,
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
    windows: Windows,
}

/// The periods by name, the shortest first.
#[derive(Debug)]
struct Windows(Vec<(&'static str, Window)>);

// === impl DeploymentView ===

impl<'a> DeploymentView<'a> {
    pub fn new(route: &'a Route, state: &'a State) -> Self {
        Self {
            name: &route.name,
            revision: state.revision,
            active: state.split.active,
            candidate: state.split.candidate(),
            canary_percent: state.split.canary_percent,
            shadow_percent: state.split.shadow_percent,
            colours: &route.colours,
            changed_at: state.since,
            changed_by: &state.author.by,
            source: state.author.source,
            reason: &state.author.reason,
        }
    }

    pub const fn revision(&self) -> Revision {
        self.revision
    }
}

// === impl ComparisonView ===

impl<'a> ComparisonView<'a> {
    pub fn new(name: &'a DeploymentName, revision: Revision, windows: Vec<(&'static str, Window)>) -> Self {
        Self { name, revision, windows: Windows(windows) }
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
