//! A deployment's metrics in Envoy, which show what was counted: numbers that the host gave out, asked for on first use.
//! Nothing reads a metric back: Envoy may not keep it.
//!
//! Envoy makes a stat of each metric that is defined, and a deployment has some 120 of them. So none is defined before
//! something is counted in it, and none takes room here.

use std::cell::RefCell;

use bluegreen_core::metrics::counters::{ColourMetric, DeploymentMetric};
use bluegreen_core::model::colour::Colour;
use bluegreen_core::model::name::DeploymentName;
use bluegreen_core::state::State;

use crate::host::{self, MetricId};

/// The metrics of one deployment.
pub struct Metrics {
    name: DeploymentName,
    /// Those that were used, by [`place`].
    known: RefCell<Vec<(u16, MetricId)>>,
}

/// One metric of a deployment.
#[derive(Clone, Copy)]
enum Metric {
    OfColour(Colour, ColourMetric),
    OfDeployment(DeploymentMetric),
}

// === impl Metrics ===

impl Metrics {
    /// Knows no number yet.
    pub const fn new(name: DeploymentName) -> Self {
        Self { name, known: RefCell::new(Vec::new()) }
    }

    /// Adds to a counter or gauge of a colour.
    pub fn add(&self, colour: Colour, metric: ColourMetric, by: i64) {
        if let Some(id) = self.id(Metric::OfColour(colour, metric)) {
            host::add_to_metric(id, by);
        }
    }

    /// Adds one to a counter of the deployment.
    pub fn count_own(&self, metric: DeploymentMetric) {
        if let Some(id) = self.id(Metric::OfDeployment(metric)) {
            host::add_to_metric(id, 1);
        }
    }

    /// Shows a state in the gauges.
    pub fn publish_gauges(&self, state: &State) {
        for (metric, value) in DeploymentMetric::of_state(state) {
            self.set(Metric::OfDeployment(metric), value);
        }
        for colour in Colour::ALL {
            self.set(Metric::OfColour(colour, ColourMetric::Active), u64::from(colour == state.split.active));
        }
    }

    fn set(&self, metric: Metric, value: u64) {
        if let Some(id) = self.id(metric) {
            host::set_metric(id, value);
        }
    }

    fn id(&self, metric: Metric) -> Option<MetricId> {
        let mut known = self.known.borrow_mut();
        let place = metric.place();
        match known.binary_search_by_key(&place, |(place, _)| *place) {
            Ok(at) => known.get(at).map(|(_, id)| *id),
            Err(at) => {
                let id = host::define_metric(&metric.name(&self.name), metric.is_gauge())?;
                known.insert(at, (place, id));
                Some(id)
            }
        }
    }
}

// === impl Metric ===

impl Metric {
    /// A place of its own.
    fn place(self) -> u16 {
        let place = match self {
            Self::OfColour(Colour::Blue, metric) => metric.index(),
            Self::OfColour(Colour::Green, metric) => metric.index().saturating_add(ColourMetric::COUNT),
            Self::OfDeployment(metric) => metric.index().saturating_add(2 * ColourMetric::COUNT),
        };
        u16::try_from(place).unwrap_or(u16::MAX)
    }

    fn name(self, deployment: &DeploymentName) -> String {
        match self {
            Self::OfColour(colour, metric) => metric.name(deployment, colour),
            Self::OfDeployment(metric) => metric.name(deployment),
        }
    }

    const fn is_gauge(self) -> bool {
        match self {
            Self::OfColour(_, metric) => metric.is_gauge(),
            Self::OfDeployment(metric) => metric.is_gauge(),
        }
    }
}
