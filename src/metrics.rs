//! A deployment's metrics in Envoy, which show what was counted: numbers that the host gave out, asked for on first use.
//! Nothing reads a metric back: Envoy may not keep it.
//!
//! Envoy makes a stat of each metric that is defined, and a deployment has some 120 of them. So none is defined before
//! something is counted in it.

use std::cell::Cell;

use bluegreen_core::metrics::counters::{ColourMetric, DeploymentMetric};
use bluegreen_core::model::colour::{Colour, PerColour};
use bluegreen_core::model::name::DeploymentName;
use bluegreen_core::state::State;

use crate::host::{self, MetricId};

/// The metrics of one deployment.
pub struct Metrics {
    name: DeploymentName,
    colours: PerColour<Box<[Cell<Option<MetricId>>]>>,
    own: [Cell<Option<MetricId>>; DeploymentMetric::COUNT],
}

// === impl Metrics ===

impl Metrics {
    /// Knows no number yet.
    pub fn new(name: DeploymentName) -> Self {
        let colours = PerColour::from_fn(|_| vec![Cell::new(None); ColourMetric::COUNT].into_boxed_slice());
        Self { name, colours, own: std::array::from_fn(|_| Cell::new(None)) }
    }

    /// Adds to a counter or gauge of a colour.
    pub fn add(&self, colour: Colour, metric: ColourMetric, by: i64) {
        if let Some(id) = self.of_colour(colour, metric) {
            host::add_to_metric(id, by);
        }
    }

    /// Adds one to a counter of the deployment.
    pub fn count_own(&self, metric: DeploymentMetric) {
        if let Some(id) = self.of_deployment(metric) {
            host::add_to_metric(id, 1);
        }
    }

    /// Shows a state in the gauges.
    pub fn publish_gauges(&self, state: &State) {
        for (metric, value) in DeploymentMetric::of_state(state) {
            if let Some(id) = self.of_deployment(metric) {
                host::set_metric(id, value);
            }
        }
        for colour in Colour::ALL {
            if let Some(id) = self.of_colour(colour, ColourMetric::Active) {
                host::set_metric(id, u64::from(colour == state.split.active));
            }
        }
    }

    fn of_colour(&self, colour: Colour, metric: ColourMetric) -> Option<MetricId> {
        let cell = self.colours.get(colour).get(metric.index())?;
        known_or(cell, || host::define_metric(&metric.name(&self.name, colour), metric.is_gauge()))
    }

    fn of_deployment(&self, metric: DeploymentMetric) -> Option<MetricId> {
        let cell = self.own.get(metric.index())?;
        known_or(cell, || host::define_metric(&metric.name(&self.name), metric.is_gauge()))
    }
}

fn known_or(cell: &Cell<Option<MetricId>>, define: impl FnOnce() -> Option<MetricId>) -> Option<MetricId> {
    if cell.get().is_none() {
        cell.set(define());
    }
    cell.get()
}
