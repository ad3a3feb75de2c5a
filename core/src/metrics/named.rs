//! Metrics that are written seldom, each by its name.
//!
//! Envoy keeps a name for ever, so each part of one is out of a list that does not grow: no reason, no version, no caller.

use std::fmt;

use crate::model::author::Source;
use crate::model::name::DeploymentName;

/// A metric. As text it is the name under which Envoy keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'n> {
    /// Counter: changes of a state, by who made them.
    Changes(&'n DeploymentName, Source),
    /// Counter: changes that were asked for and not made, by the last part of the problem's type.
    ChangesRefused(&'n DeploymentName, Source, &'static str),
    /// Counter: rules of the guard that were found broken.
    GuardBreaches(&'n DeploymentName, &'static str),
    /// Counter: answers of the candidate that were compared, by whether they agreed.
    Compared(&'n DeploymentName, &'static str),
    /// Counter: copies whose answers were not compared, by the reason.
    CompareDropped(&'n DeploymentName, &'static str),
    /// Gauge: 1 while a mistake in the set-up is known.
    SetupProblems(&'n DeploymentName, &'static str),
    /// Counter: how often a source was asked, and whether that failed.
    SourcePolls(Source, bool),
    /// Counter: calls of the admin API that may be an attack, by what was wrong.
    AdminRefused(&'static str),
    /// Counter: notifications, by what became of them.
    Notifications(&'static str),
    /// Counter: requests that no deployment takes.
    UnmatchedRequests,
    /// Gauge: worker threads that are silent, or live.
    Workers(bool),
    /// Gauge: 1 for the configurations in force.
    BuildInfo(&'n str),
}

/// The version of the filter.
const VERSION: &str = env!("CARGO_PKG_VERSION");

// === impl Named ===

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changes(deployment, source) => {
                write!(f, "bluegreen.deployment.{deployment}.source.{}.changes_total", source.as_str())
            }
            Self::ChangesRefused(deployment, source, problem) => write!(
                f,
                "bluegreen.deployment.{deployment}.source.{}.problem.{problem}.changes_refused_total",
                source.as_str()
            ),
            Self::GuardBreaches(deployment, rule) => {
                write!(f, "bluegreen.deployment.{deployment}.rule.{rule}.guard_breaches_total")
            }
            Self::Compared(deployment, result) => {
                write!(f, "bluegreen.deployment.{deployment}.result.{result}.compared_total")
            }
            Self::CompareDropped(deployment, reason) => {
                write!(f, "bluegreen.deployment.{deployment}.reason.{reason}.compare_dropped_total")
            }
            Self::SetupProblems(deployment, problem) => {
                write!(f, "bluegreen.deployment.{deployment}.problem.{problem}.setup_problems")
            }
            Self::SourcePolls(source, failed) => {
                let result = if *failed { "failed" } else { "answered" };
                write!(f, "bluegreen.source.{}.result.{result}.source_polls_total", source.as_str())
            }
            Self::AdminRefused(reason) => write!(f, "bluegreen.reason.{reason}.admin_refused_total"),
            Self::Notifications(result) => write!(f, "bluegreen.result.{result}.notifications_total"),
            Self::UnmatchedRequests => f.write_str("bluegreen.unmatched_requests_total"),
            Self::Workers(silent) => {
                write!(f, "bluegreen.state.{}.workers", if *silent { "silent" } else { "live" })
            }
            // The version has dots, so it comes last.
            Self::BuildInfo(configuration) => {
                write!(f, "bluegreen.configuration.{configuration}.version.{VERSION}.build_info")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::metrics::counters::{ColourMetric, DeploymentMetric};
    use crate::model::colour::Colour;
    use crate::testing::iris;

    /// The reference that users read.
    const REFERENCE: &str = include_str!("../../../docs/metrics.md");

    /// All names, those with parts from a list with one of them each.
    fn names() -> Vec<(String, &'static str)> {
        let iris = &iris();
        let kind = |is_gauge| if is_gauge { "gauge" } else { "counter" };
        let counters = [
            Named::Changes(iris, Source::Admin),
            Named::ChangesRefused(iris, Source::Admin, "colour-unhealthy"),
            Named::GuardBreaches(iris, "error"),
            Named::Compared(iris, "agreed"),
            Named::CompareDropped(iris, "busy"),
            Named::SourcePolls(Source::Mlflow, true),
            Named::AdminRefused("no-token"),
            Named::Notifications("sent"),
            Named::UnmatchedRequests,
        ];
        let gauges = [Named::SetupProblems(iris, "not-seeded"), Named::Workers(false), Named::BuildInfo("0badcafe")];
        let of_colours = ColourMetric::all().filter(|metric| metric.is_shown());
        let of_colours = of_colours.map(|metric| (metric.name(iris, Colour::Blue), kind(metric.is_gauge())));
        let of_deployments = DeploymentMetric::all().map(|metric| (metric.name(iris), kind(metric.is_gauge())));
        let named = |metrics: &[Named<'_>], is_gauge| {
            metrics.iter().map(|name| (name.to_string(), kind(is_gauge))).collect::<Vec<_>>()
        };
        let mut names: Vec<_> = of_colours.chain(of_deployments).collect();
        names.extend(named(&counters, false));
        names.extend(named(&gauges, true));
        names
    }

    /// What Prometheus calls it and its labels: each pair before the last part is a label.
    fn taken_apart(name: &str) -> (String, BTreeSet<String>) {
        let rest = name.strip_prefix("bluegreen.").expect("our own");
        let (rest, last) = rest.rsplit_once('.').unwrap_or(("", rest));
        let rest = rest.replace(VERSION, "version");
        let labels = rest.split('.').step_by(2).filter(|label| !label.is_empty());
        (format!("bluegreen_{last}"), labels.map(str::to_owned).collect())
    }

    #[test]
    fn the_reference_lists_each_metric_with_its_type_and_its_labels_and_no_other() {
        let mut expected: BTreeMap<String, (&str, BTreeSet<String>)> = BTreeMap::new();
        for (name, kind) in names() {
            let (name, labels) = taken_apart(&name);
            let known = expected.entry(name.clone()).or_insert((kind, labels.clone()));
            assert_eq!(*known, (kind, labels), "{name} has one type and the same labels everywhere");
        }
        let mut documented = BTreeMap::new();
        for row in REFERENCE.lines().filter(|line| line.starts_with("| `bluegreen_")) {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let [name, kind, labels, _unit, _meaning] = cells[..] else { panic!("five cells: {row}") };
            let labels = labels.split(", ").filter(|label| !label.is_empty()).map(str::to_owned).collect();
            let name = name.trim_matches('`').to_owned();
            assert_eq!(documented.insert(name, (kind, labels)), None, "twice: {row}");
        }
        assert_eq!(documented, expected);
    }
}
