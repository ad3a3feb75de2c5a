//! A deployment's metrics in this VM: numbers that the host gave out, asked for on first use.
//!
//! Envoy makes a stat of each metric that is defined, and a deployment has some 350 of them, most of them buckets that
//! no request ever falls into. So none is defined before something is counted in it.

use std::cell::Cell;

use bluegreen_core::metrics::buckets;
use bluegreen_core::metrics::counters::{ColourCounts, ColourMetric, DeploymentMetric};
use bluegreen_core::model::colour::{Colour, PerColour};
use bluegreen_core::model::name::DeploymentName;
use bluegreen_core::state::State;

use crate::host::{self, MetricId};
use crate::shared_data::SharedData;

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

    /// What was counted about both colours, by all workers.
    pub fn counts(&self) -> PerColour<ColourCounts> {
        let used = buckets::used(&SharedData, &self.name);
        let value = |colour, metric| self.of_colour(colour, metric).and_then(host::metric).unwrap_or_default();
        PerColour::from_fn(|colour| ColourCounts::collect(used.get(colour), |metric| value(colour, metric)))
    }

    /// The number that moves with each write of the state; `None` if the host gives none.
    pub fn epoch(&self) -> Option<u64> {
        self.of_deployment(DeploymentMetric::Epoch).and_then(host::metric)
    }

    /// Tells all workers that the state was written.
    ///
    /// The gauge goes up by one with each write: set to the revision, a writer that is slow to get here could set it
    /// back to a number under which a worker has read an older state.
    pub fn move_epoch(&self) {
        self.count_own(DeploymentMetric::Epoch);
    }

    /// Adds one to a counter of the deployment.
    pub fn count_own(&self, metric: DeploymentMetric) {
        if let Some(id) = self.of_deployment(metric) {
            host::add_to_metric(id, 1);
        }
    }

    /// How many requests to a colour are under way.
    pub fn in_flight(&self, colour: Colour) -> u64 {
        self.of_colour(colour, ColourMetric::InFlight).and_then(host::metric).unwrap_or_default()
    }

    /// Counts a request that did not reach the active colour, and gives their number in a row.
    pub fn count_unreached(&self) -> u64 {
        self.count_own(DeploymentMetric::UnreachedInARow);
        self.of_deployment(DeploymentMetric::UnreachedInARow).and_then(host::metric).unwrap_or_default()
    }

    /// A request reached the active colour, or there is a new one.
    pub fn reset_unreached(&self) {
        if let Some(id) = self.of_deployment(DeploymentMetric::UnreachedInARow)
            && host::metric(id) != Some(0)
        {
            host::set_metric(id, 0);
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
        known_or(cell, || {
            if let Some((latency, bucket)) = metric.bucket() {
                // Without the note the bucket counts all the same; only comparisons pass it over.
                let _ = buckets::note(&SharedData, &self.name, colour, latency, bucket);
            }
            host::define_metric(&metric.name(&self.name, colour), metric.is_gauge())
        })
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
