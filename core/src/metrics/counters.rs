//! What is counted about each colour, and under which names.
//!
//! Each worker counts in its own memory and says what it has counted in a record of its own. Envoy's metrics are fed from the
//! same numbers, for Prometheus only. Their names are made so that the `stats_tags` of the shipped Envoy configurations turn
//! their parts into labels.

use std::time::Duration;

use serde::Serialize;

use crate::json::FromJson;
use crate::metrics::latency::{Bucket, Histogram, Le, micros};
use crate::model::colour::Colour;
use crate::model::name::DeploymentName;
use crate::model::split::Split;
use crate::state::State;
use crate::state::rollout::Phase;

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
    /// Exchanges by time to first byte: for comparisons, and in no metric of Envoy's.
    FirstByte(Bucket),
    /// The same by time to their last byte.
    Exchange(Bucket),
    /// Counter: exchanges that took up to this long. Counted apart, so that both the bounds that people set goals at and
    /// the finer ones of comparisons are exact; only what Envoy shows is cumulative.
    Within(Span, Le),
    /// Counter: how long all of them took together. It is counted in microseconds and shown in milliseconds.
    Time(Span),
    /// Counter: how many there were. It is only shown: it is the sum of those above.
    Count(Span),
    /// Counter: smoke tests that passed, or failed. It is only shown.
    SmokeTests(bool),
    /// Gauge: whether its probe is answered as it should be. It is only shown, as those that follow.
    Healthy,
    /// Gauge: until when its smoke test counts, in seconds since 1970; 0 without one that counts.
    SmokeTestValidUntil,
    /// Gauge: requests under way, of either kind.
    InFlight,
    /// Gauge: 1 for the active colour, 0 for the candidate.
    Active,
}

/// A time of an exchange that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Span {
    /// To the first byte of the answer.
    FirstByte,
    /// To its last byte.
    Exchange,
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
    /// What of the canary share the former colour keeps after a promotion, in hundredths of a percent.
    KeptBasisPoints,
    /// The step in force of a rollout that is under way, from 1; else 0.
    RolloutStep,
    /// 1 for the phase of the newest rollout, 0 for the others.
    RolloutPhase(Phase),
    /// How much of the evidence that a breach takes the guard has, in percent.
    GuardEvidencePercent,
    /// 1 while a rule of the guard is broken.
    GuardBreached,
    /// 1 while this Envoy does not know whether it has missed a change of the fleet.
    Stale,
    /// Workers that follow an older revision than the state's.
    WorkersBehind,
    /// When the leader looked after the deployment last, in seconds since 1970.
    Sampled,
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, FromJson)]
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
    pub const COUNT: usize = Self::SINGLE + 2 * Class::COUNT + 2 * Bucket::COUNT + 2 * Le::COUNT;
    /// How many have neither class nor bucket.
    const SINGLE: usize = 13;

    /// A place of its own, below [`ColourMetric::COUNT`].
    pub fn index(self) -> usize {
        let of_overrides = Self::SINGLE.saturating_add(Class::COUNT);
        let first_bucket = of_overrides.saturating_add(Class::COUNT);
        let first_bound = first_bucket.saturating_add(2 * Bucket::COUNT);
        match self {
            Self::Requests => 0,
            Self::InFlight => 1,
            Self::Active => 2,
            Self::OverrideRequests => 3,
            Self::Retries => 4,
            Self::Time(Span::FirstByte) => 5,
            Self::Time(Span::Exchange) => 6,
            Self::Count(Span::FirstByte) => 7,
            Self::Count(Span::Exchange) => 8,
            Self::SmokeTests(true) => 9,
            Self::SmokeTests(false) => 10,
            Self::Healthy => 11,
            Self::SmokeTestValidUntil => 12,
            Self::Responses(class) => Self::SINGLE.saturating_add(class.index()),
            Self::OverrideResponses(class) => of_overrides.saturating_add(class.index()),
            Self::FirstByte(bucket) => first_bucket.saturating_add(bucket.index()),
            Self::Exchange(bucket) => first_bucket.saturating_add(Bucket::COUNT).saturating_add(bucket.index()),
            Self::Within(Span::FirstByte, le) => first_bound.saturating_add(le.index()),
            Self::Within(Span::Exchange, le) => first_bound.saturating_add(Le::COUNT).saturating_add(le.index()),
        }
    }

    /// The one with this place; none from [`ColourMetric::COUNT`] on.
    pub fn at(place: usize) -> Option<Self> {
        let of_kind = [Class::COUNT, Class::COUNT, Bucket::COUNT, Bucket::COUNT, Le::COUNT, Le::COUNT];
        let Some(mut rest) = place.checked_sub(Self::SINGLE) else {
            return Self::all().find(|metric| metric.index() == place);
        };
        let mut kind = 0_u8;
        for count in of_kind {
            let Some(beyond) = rest.checked_sub(count) else { break };
            rest = beyond;
            kind = kind.saturating_add(1);
        }
        let class = |place| Class::all().find(|class| class.index() == place);
        Some(match kind {
            0 => Self::Responses(class(rest)?),
            1 => Self::OverrideResponses(class(rest)?),
            2 => Self::FirstByte(Bucket::all().nth(rest)?),
            3 => Self::Exchange(Bucket::all().nth(rest)?),
            4 => Self::Within(Span::FirstByte, Le::all().nth(rest)?),
            5 => Self::Within(Span::Exchange, Le::all().nth(rest)?),
            _ => return None,
        })
    }

    /// Whether it goes up and down.
    pub const fn is_gauge(self) -> bool {
        matches!(self, Self::InFlight | Self::Active | Self::Healthy | Self::SmokeTestValidUntil)
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let single = [
            Self::Requests,
            Self::OverrideRequests,
            Self::Retries,
            Self::InFlight,
            Self::Active,
            Self::Healthy,
            Self::SmokeTestValidUntil,
            Self::SmokeTests(true),
            Self::SmokeTests(false),
        ];
        let classes = Class::all().flat_map(|class| [Self::Responses(class), Self::OverrideResponses(class)]);
        let buckets = Bucket::all().flat_map(|bucket| [Self::FirstByte(bucket), Self::Exchange(bucket)]);
        let spans = Span::ALL.into_iter().flat_map(|span| {
            let bounds = Le::all().map(move |le| Self::Within(span, le));
            bounds.chain([Self::Time(span), Self::Count(span)])
        });
        single.into_iter().chain(classes).chain(buckets).chain(spans)
    }

    /// Whether Envoy shows it.
    pub const fn is_shown(self) -> bool {
        !matches!(self, Self::FirstByte(_) | Self::Exchange(_))
    }

    /// What of a count Envoy shows by itself: buckets are shown as a whole histogram.
    pub const fn shown(self, count: u64) -> Option<u64> {
        match self {
            Self::FirstByte(_) | Self::Exchange(_) | Self::Within(..) => None,
            Self::Time(_) => Some(count / 1_000),
            _ => Some(count),
        }
    }

    /// The name under which Envoy keeps it, if it does.
    pub fn name(self, deployment: &DeploymentName, colour: Colour) -> String {
        let prefix = format!("bluegreen.deployment.{deployment}.colour.{colour}");
        match self {
            Self::Requests => format!("{prefix}.requests_total"),
            Self::Responses(class) => format!("{prefix}.class.{}.responses_total", class.as_str()),
            Self::OverrideRequests => format!("{prefix}.override_requests_total"),
            Self::OverrideResponses(class) => format!("{prefix}.class.{}.override_responses_total", class.as_str()),
            Self::Retries => format!("{prefix}.retries_total"),
            Self::FirstByte(_) | Self::Exchange(_) => String::new(),
            Self::Within(span, le) => format!("{prefix}.le.{}.{}_bucket", le.as_str(), span.as_str()),
            Self::Time(span) => format!("{prefix}.{}_sum", span.as_str()),
            Self::Count(span) => format!("{prefix}.{}_count", span.as_str()),
            Self::SmokeTests(true) => format!("{prefix}.result.passed.smoke_tests_total"),
            Self::SmokeTests(false) => format!("{prefix}.result.failed.smoke_tests_total"),
            Self::Healthy => format!("{prefix}.healthy"),
            Self::SmokeTestValidUntil => format!("{prefix}.smoke_test_valid_until_timestamp_seconds"),
            Self::InFlight => format!("{prefix}.in_flight"),
            Self::Active => format!("{prefix}.active"),
        }
    }
}

// === impl Span ===

impl Span {
    /// Both.
    pub const ALL: [Self; 2] = [Self::FirstByte, Self::Exchange];

    /// The metric's name. Milliseconds, as in Envoy's and Istio's own histograms: Envoy's counters are whole numbers, and a
    /// sum in whole seconds would say nothing about answers that take five milliseconds.
    const fn as_str(self) -> &'static str {
        match self {
            Self::FirstByte => "first_byte_milliseconds",
            Self::Exchange => "exchange_milliseconds",
        }
    }
}

// === impl DeploymentMetric ===

impl DeploymentMetric {
    /// How many there are, for a table by [`DeploymentMetric::index`].
    pub const COUNT: usize = Self::SINGLE + Phase::ALL.len();
    /// How many have no phase.
    const SINGLE: usize = 14;

    /// A place of its own, below [`DeploymentMetric::COUNT`].
    pub fn index(self) -> usize {
        match self {
            Self::Revision => 0,
            Self::CanaryPercent => 1,
            Self::CanaryBasisPoints => 2,
            Self::ShadowBasisPoints => 3,
            Self::Fallbacks => 4,
            Self::LocalReplies => 5,
            Self::AnswersFromElsewhere => 6,
            Self::KeptBasisPoints => 7,
            Self::RolloutStep => 8,
            Self::GuardEvidencePercent => 9,
            Self::GuardBreached => 10,
            Self::Stale => 11,
            Self::WorkersBehind => 12,
            Self::Sampled => 13,
            Self::RolloutPhase(phase) => {
                let place = Phase::ALL.iter().position(|known| *known == phase);
                Self::SINGLE.saturating_add(place.unwrap_or_default())
            }
        }
    }

    /// Whether it goes up and down.
    pub const fn is_gauge(self) -> bool {
        !matches!(self, Self::Fallbacks | Self::LocalReplies | Self::AnswersFromElsewhere)
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let single = [
            Self::Revision,
            Self::CanaryPercent,
            Self::CanaryBasisPoints,
            Self::ShadowBasisPoints,
            Self::KeptBasisPoints,
            Self::RolloutStep,
            Self::GuardEvidencePercent,
            Self::GuardBreached,
            Self::Stale,
            Self::WorkersBehind,
            Self::Sampled,
            Self::Fallbacks,
            Self::LocalReplies,
            Self::AnswersFromElsewhere,
        ];
        single.into_iter().chain(Phase::ALL.map(Self::RolloutPhase))
    }

    /// The gauges that show `state`, with their values. Those about a rollout are there from the first one on.
    pub fn of_state(state: &State) -> impl Iterator<Item = (Self, u64)> {
        let Split { canary_percent, shadow_percent, .. } = state.split;
        let (canary, shadow) = (u64::from(canary_percent.hundredths()), u64::from(shadow_percent.hundredths()));
        [
            (Self::Revision, state.revision.get()),
            (Self::CanaryPercent, canary.saturating_add(50) / 100),
            (Self::CanaryBasisPoints, canary),
            (Self::ShadowBasisPoints, shadow),
            (Self::KeptBasisPoints, if state.kept.is_some() { canary } else { 0 }),
        ]
        .into_iter()
        .chain(state.rollout.into_iter().flat_map(|rollout| {
            let step = if rollout.is_live() { rollout.step.saturating_add(1) } else { 0 };
            let phases = Phase::ALL.map(|phase| (Self::RolloutPhase(phase), u64::from(phase == rollout.phase)));
            phases.into_iter().chain([(Self::RolloutStep, u64::try_from(step).unwrap_or(u64::MAX))])
        }))
    }

    /// The name under which Envoy keeps it.
    pub fn name(self, deployment: &DeploymentName) -> String {
        let last = match self {
            Self::RolloutPhase(phase) => {
                return format!("bluegreen.deployment.{deployment}.phase.{}.rollout_phase", phase.as_str());
            }
            Self::KeptBasisPoints => "kept_basis_points",
            Self::RolloutStep => "rollout_step",
            Self::GuardEvidencePercent => "guard_evidence_percent",
            Self::GuardBreached => "guard_breached",
            Self::Stale => "stale",
            Self::WorkersBehind => "workers_behind",
            Self::Sampled => "sampled_timestamp_seconds",
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

/// The metrics by which a finished exchange of an ordinary request is counted, and by how much.
pub fn of_exchange(
    class: Class,
    first_byte: Option<Duration>,
    total: Duration,
) -> impl Iterator<Item = (ColourMetric, i64)> {
    let measured = |span, latency: Duration| {
        let bucket = Bucket::of(latency);
        let fine = match span {
            Span::FirstByte => ColourMetric::FirstByte(bucket),
            Span::Exchange => ColourMetric::Exchange(bucket),
        };
        let micros = i64::try_from(micros(latency)).unwrap_or(i64::MAX);
        [(fine, 1), (ColourMetric::Within(span, Le::of(latency)), 1), (ColourMetric::Time(span), micros)]
    };
    // An exchange without an answer says nothing about the model's speed.
    let spans = first_byte.map(|first| [measured(Span::FirstByte, first), measured(Span::Exchange, total)]);
    [(ColourMetric::Responses(class), 1)].into_iter().chain(spans.into_iter().flatten().flatten())
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
        let shown = || ColourMetric::all().filter(|metric| metric.is_shown());
        let names: BTreeSet<String> = shown().map(|metric| metric.name(&iris(), Colour::Blue)).collect();
        let places: BTreeSet<usize> = ColourMetric::all().map(ColourMetric::index).collect();
        assert_eq!((names.len(), places.len()), (shown().count(), ColourMetric::COUNT));
        assert_eq!(places.last(), Some(&(ColourMetric::COUNT - 1)));
        assert!(ColourMetric::all().all(|metric| ColourMetric::at(metric.index()) == Some(metric)));
        assert_eq!(ColourMetric::at(ColourMetric::COUNT), None);
        let names: BTreeSet<String> = DeploymentMetric::all().map(|metric| metric.name(&iris())).collect();
        let places: BTreeSet<usize> = DeploymentMetric::all().map(DeploymentMetric::index).collect();
        assert_eq!((names.len(), places.len()), (DeploymentMetric::COUNT, DeploymentMetric::COUNT));
        assert_eq!(places.last(), Some(&(DeploymentMetric::COUNT - 1)));
    }

    #[test]
    fn names_are_what_the_shipped_stats_tags_take_apart() {
        let name = |metric: ColourMetric| metric.name(&iris(), Colour::Green);
        assert_eq!(name(ColourMetric::Requests), "bluegreen.deployment.iris.colour.green.requests_total");
        let failed = name(ColourMetric::Responses(Class::Status(5)));
        assert_eq!(failed, "bluegreen.deployment.iris.colour.green.class.5xx.responses_total");
        let tested = name(ColourMetric::OverrideResponses(Class::Status(2)));
        assert_eq!(tested, "bluegreen.deployment.iris.colour.green.class.2xx.override_responses_total");
        let fast = name(ColourMetric::Within(Span::FirstByte, Le::of(Duration::from_micros(1_500))));
        assert_eq!(fast, "bluegreen.deployment.iris.colour.green.le.2.first_byte_milliseconds_bucket");
        let slow = name(ColourMetric::Within(Span::Exchange, Le::of(Duration::MAX)));
        assert_eq!(slow, "bluegreen.deployment.iris.colour.green.le.+Inf.exchange_milliseconds_bucket");
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
        assert_eq!(of_exchange(Class::Status(2), Some(total), total).count(), 7);
    }
}
