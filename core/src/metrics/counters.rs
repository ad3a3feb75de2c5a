//! What is counted about each colour, and under which names.
//!
//! Each worker counts in its own memory and says what it has counted in a record of its own. Envoy's metrics are fed from the
//! same numbers, for Prometheus only. Their names are made so that the `stats_tags` of the shipped Envoy configurations turn
//! their parts into labels.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::metrics::latency::{Bucket, Histogram};
use crate::model::colour::Colour;
use crate::model::name::DeploymentName;
use crate::model::split::Split;
use crate::state::State;

/// A metric of one colour of one deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ColourMetric {
    /// Counter: ordinary requests sent to the colour.
    Requests,
    /// Counter: ordinary exchanges ended, by class of answer.
    Responses(Class),
    /// Counter: requests sent to the colour because they asked for it. They are in none of the other counters, so that
    /// no client is evidence for or against a colour that it chose itself.
    OverrideRequests,
    /// Counter: exchanges of such requests ended, by class of answer.
    OverrideResponses(Class),
    /// Counter: attempts that failed and that Envoy repeated, so that clients did not see them.
    Retries,
    /// Counter: exchanges by time to first byte, not cumulative.
    FirstByte(Bucket),
    /// Counter: exchanges by time to their last byte, not cumulative.
    Exchange(Bucket),
    /// Gauge: requests under way, of either kind.
    InFlight,
    /// Gauge: 1 for the active colour, 0 for the candidate.
    Active,
}

/// A metric of one deployment: gauges, but for the last three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeploymentMetric {
    /// The state's revision.
    Revision,
    /// The canary share, rounded to whole percent.
    CanaryPercent,
    /// The canary share in hundredths of a percent.
    CanaryBasisPoints,
    /// The shadow share in hundredths of a percent.
    ShadowBasisPoints,
    /// Counter: times that a worker could not read the state and went on with the last good one.
    Fallbacks,
    /// Counter: answers that count for no colour, because Envoy or another filter gave them without trying one.
    LocalReplies,
    /// Counter: answers that came from another cluster than the one that was chosen.
    AnswersFromElsewhere,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// An answer with a status of this hundred, 1 to 5.
    Status(u8),
    /// No answer because the client went away; while a guard watches a canary, also not all of it.
    Unanswered,
    /// An answer that the model server broke off after its head; known while a guard watches a canary.
    Aborted,
}

/// Everything counted about one colour up to a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColourCounts {
    /// Ordinary requests sent to the colour.
    pub requests: u64,
    /// Exchanges that ended with an answer.
    pub answered: u64,
    /// Those of them that failed: a 5xx, a gRPC status that means the same, or an answer that broke off.
    pub failed: u64,
    /// Those of them whose answer was a 4xx, or a gRPC status that means the same.
    #[serde(default)]
    pub rejected: u64,
    /// Exchanges that ended without an answer.
    pub unanswered: u64,
    /// Time to first byte.
    pub first_byte: Histogram,
    /// Time to the last byte.
    pub exchange: Histogram,
}

// === impl ColourMetric ===

impl ColourMetric {
    /// How many there are, for a table by [`ColourMetric::index`].
    pub const COUNT: usize = Self::SINGLE + 2 * Class::COUNT + 2 * Bucket::COUNT;
    /// How many have neither class nor bucket.
    const SINGLE: usize = 5;

    /// A place of its own, below [`ColourMetric::COUNT`].
    pub fn index(self) -> usize {
        let of_overrides = Self::SINGLE.saturating_add(Class::COUNT);
        let first_bucket = of_overrides.saturating_add(Class::COUNT);
        match self {
            Self::Requests => 0,
            Self::InFlight => 1,
            Self::Active => 2,
            Self::OverrideRequests => 3,
            Self::Retries => 4,
            Self::Responses(class) => Self::SINGLE.saturating_add(class.index()),
            Self::OverrideResponses(class) => of_overrides.saturating_add(class.index()),
            Self::FirstByte(bucket) => first_bucket.saturating_add(bucket.index()),
            Self::Exchange(bucket) => first_bucket.saturating_add(Bucket::COUNT).saturating_add(bucket.index()),
        }
    }

    /// Whether it goes up and down.
    pub const fn is_gauge(self) -> bool {
        matches!(self, Self::InFlight | Self::Active)
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let single = [Self::Requests, Self::OverrideRequests, Self::Retries, Self::InFlight, Self::Active];
        let classes = Class::all().flat_map(|class| [Self::Responses(class), Self::OverrideResponses(class)]);
        let buckets = Bucket::all().flat_map(|bucket| [Self::FirstByte(bucket), Self::Exchange(bucket)]);
        single.into_iter().chain(classes).chain(buckets)
    }

    /// The name under which Envoy keeps it.
    pub fn name(self, deployment: &DeploymentName, colour: Colour) -> String {
        let prefix = format!("bluegreen.deployment.{deployment}.colour.{colour}");
        let bucket = |bucket: Bucket| bucket.end_micros().map_or_else(|| "inf".to_owned(), |end| end.to_string());
        match self {
            Self::Requests => format!("{prefix}.requests_total"),
            Self::Responses(class) => format!("{prefix}.class.{}.responses_total", class.as_str()),
            Self::OverrideRequests => format!("{prefix}.override_requests_total"),
            Self::OverrideResponses(class) => format!("{prefix}.class.{}.override_responses_total", class.as_str()),
            Self::Retries => format!("{prefix}.retries_total"),
            Self::FirstByte(of) => format!("{prefix}.bucket_us.{}.first_byte_total", bucket(of)),
            Self::Exchange(of) => format!("{prefix}.bucket_us.{}.exchange_total", bucket(of)),
            Self::InFlight => format!("{prefix}.in_flight"),
            Self::Active => format!("{prefix}.active"),
        }
    }
}

// === impl DeploymentMetric ===

impl DeploymentMetric {
    /// How many there are, for a table by [`DeploymentMetric::index`].
    pub const COUNT: usize = 7;

    /// A place of its own, below [`DeploymentMetric::COUNT`].
    pub const fn index(self) -> usize {
        match self {
            Self::Revision => 0,
            Self::CanaryPercent => 1,
            Self::CanaryBasisPoints => 2,
            Self::ShadowBasisPoints => 3,
            Self::Fallbacks => 4,
            Self::LocalReplies => 5,
            Self::AnswersFromElsewhere => 6,
        }
    }

    /// Whether it goes up and down.
    pub const fn is_gauge(self) -> bool {
        !matches!(self, Self::Fallbacks | Self::LocalReplies | Self::AnswersFromElsewhere)
    }

    /// The gauges that show `state`, with their values.
    pub fn of_state(state: &State) -> [(Self, u64); 4] {
        let Split { canary_percent, shadow_percent, .. } = state.split;
        let (canary, shadow) = (u64::from(canary_percent.hundredths()), u64::from(shadow_percent.hundredths()));
        [
            (Self::Revision, state.revision.get()),
            (Self::CanaryPercent, canary.saturating_add(50) / 100),
            (Self::CanaryBasisPoints, canary),
            (Self::ShadowBasisPoints, shadow),
        ]
    }

    /// The name under which Envoy keeps it.
    pub fn name(self, deployment: &DeploymentName) -> String {
        let last = match self {
            Self::Revision => "revision",
            Self::CanaryPercent => "canary_percent",
            Self::CanaryBasisPoints => "canary_basis_points",
            Self::ShadowBasisPoints => "shadow_basis_points",
            Self::Fallbacks => "fallbacks_total",
            Self::LocalReplies => "local_replies_total",
            Self::AnswersFromElsewhere => "answers_from_elsewhere_total",
        };
        format!("bluegreen.deployment.{deployment}.{last}")
    }
}

// === impl Class ===

impl Class {
    /// How many there are.
    pub const COUNT: usize = 7;

    /// All classes.
    pub fn all() -> impl Iterator<Item = Class> {
        (1..=5).map(Class::Status).chain([Class::Unanswered, Class::Aborted])
    }

    /// The class of a `:status` header; what is no status counts as unanswered.
    pub fn of_status(status: &[u8]) -> Self {
        match status {
            [hundreds @ b'1'..=b'5', _, _] => Self::Status(hundreds.saturating_sub(b'0')),
            _ => Self::Unanswered,
        }
    }

    /// The class of a gRPC status, by the HTTP status that gRPC's own mapping gives it: what is the server's fault is a
    /// 5xx, what is the client's a 4xx. A status that is no number is the server's fault.
    pub fn of_grpc(status: &[u8]) -> Self {
        match status {
            b"0" => Self::Status(2),
            // Cancelled: by the client.
            b"1" => Self::Unanswered,
            // Invalid argument, not found, already exists, permission denied, resource exhausted, failed precondition,
            // aborted, out of range, unauthenticated.
            b"3" | b"5" | b"6" | b"7" | b"8" | b"9" | b"10" | b"11" | b"16" => Self::Status(4),
            _ => Self::Status(5),
        }
    }

    /// How an exchange ended whose answer began with this class, by Envoy's `response.code_details`: an answer that broke
    /// off counts against the side that broke it off. A failure stays one.
    pub fn at_the_end(self, code_details: &str) -> Self {
        match self {
            Self::Status(5) => self,
            _ if code_details.starts_with("upstream") => Self::Aborted,
            _ if code_details.starts_with("downstream") => Self::Unanswered,
            _ => self,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Status(1) => "1xx",
            Self::Status(2) => "2xx",
            Self::Status(3) => "3xx",
            Self::Status(4) => "4xx",
            Self::Status(_) => "5xx",
            Self::Unanswered => "none",
            Self::Aborted => "cut",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Status(hundreds) => usize::from(hundreds.clamp(1, 5)),
            Self::Unanswered => 0,
            Self::Aborted => 6,
        }
    }
}

// === impl ColourCounts ===

impl ColourCounts {
    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            answered: self.answered.saturating_sub(earlier.answered),
            failed: self.failed.saturating_sub(earlier.failed),
            rejected: self.rejected.saturating_sub(earlier.rejected),
            unanswered: self.unanswered.saturating_sub(earlier.unanswered),
            first_byte: self.first_byte.since(&earlier.first_byte),
            exchange: self.exchange.since(&earlier.exchange),
        }
    }
}

/// The metrics by which a finished exchange of an ordinary request is counted.
pub fn of_exchange(class: Class, first_byte: Option<Duration>, total: Duration) -> impl Iterator<Item = ColourMetric> {
    let first_byte = first_byte.map(|latency| ColourMetric::FirstByte(Bucket::of(latency)));
    // An exchange without an answer says nothing about the model's speed.
    let exchange = first_byte.map(|_| ColourMetric::Exchange(Bucket::of(total)));
    [Some(ColourMetric::Responses(class)), first_byte, exchange].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::iris;

    #[test]
    fn every_metric_has_a_name_and_a_place_of_its_own() {
        let names: BTreeSet<String> = ColourMetric::all().map(|metric| metric.name(&iris(), Colour::Blue)).collect();
        let places: BTreeSet<usize> = ColourMetric::all().map(ColourMetric::index).collect();
        assert_eq!((names.len(), places.len()), (ColourMetric::COUNT, ColourMetric::COUNT));
        assert_eq!(places.last(), Some(&(ColourMetric::COUNT - 1)));
    }

    #[test]
    fn names_are_what_the_shipped_stats_tags_take_apart() {
        let name = |metric: ColourMetric| metric.name(&iris(), Colour::Green);
        assert_eq!(name(ColourMetric::Requests), "bluegreen.deployment.iris.colour.green.requests_total");
        let failed = name(ColourMetric::Responses(Class::Status(5)));
        assert_eq!(failed, "bluegreen.deployment.iris.colour.green.class.5xx.responses_total");
        let tested = name(ColourMetric::OverrideResponses(Class::Status(2)));
        assert_eq!(tested, "bluegreen.deployment.iris.colour.green.class.2xx.override_responses_total");
        let fast = name(ColourMetric::FirstByte(Bucket::of(Duration::from_micros(100))));
        assert_eq!(fast, "bluegreen.deployment.iris.colour.green.bucket_us.128.first_byte_total");
    }

    #[test]
    fn a_status_belongs_to_its_hundred_and_anything_else_to_none() {
        let cases =
            [("200", Class::Status(2)), ("503", Class::Status(5)), ("", Class::Unanswered), ("600", Class::Unanswered)];
        for (status, class) in cases {
            assert_eq!(Class::of_status(status.as_bytes()), class, "{status}");
        }
    }

    #[test]
    fn a_grpc_status_belongs_to_whom_it_blames() {
        let cases = [
            ("0", Class::Status(2)),
            ("14", Class::Status(5)),
            ("2", Class::Status(5)),
            ("3", Class::Status(4)),
            ("1", Class::Unanswered),
            ("x", Class::Status(5)),
        ];
        for (status, class) in cases {
            assert_eq!(Class::of_grpc(status.as_bytes()), class, "{status}");
        }
    }

    #[test]
    fn an_answer_that_broke_off_blames_the_model_server_only_if_it_was_the_one() {
        let cut = "upstream_reset_after_response_started{connection_termination}";
        let cases = [
            (Class::Status(2), cut, Class::Aborted),
            (Class::Status(2), "downstream_remote_disconnect", Class::Unanswered),
            (Class::Status(2), "via_upstream", Class::Status(2)),
            (Class::Status(2), "", Class::Status(2)),
            (Class::Status(5), "downstream_remote_disconnect", Class::Status(5)),
        ];
        for (class, details, expected) in cases {
            assert_eq!(class.at_the_end(details), expected, "{details}");
        }
    }

    #[test]
    fn an_exchange_without_an_answer_has_no_latency() {
        let total = Duration::from_secs(1);
        assert_eq!(of_exchange(Class::Unanswered, None, total).count(), 1);
        assert_eq!(of_exchange(Class::Status(2), Some(total), total).count(), 3);
    }
}
