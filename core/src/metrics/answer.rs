//! Who gave an answer, and so which colour it counts for.
//!
//! The status does not tell: Envoy answers in place of a colour that it cannot reach, gRPC hides that under HTTP 200,
//! `local_reply_config` maps it to anything, and filters answer without asking any colour. Envoy's response code details,
//! its number of attempts and the cluster that it chose do tell.

use super::counters::Class;
use crate::model::colour::{Colour, PerColour};
use crate::model::identity::Identity;

/// What Envoy says about an answer, or about how a stream ended that got none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// `response.code_details`: `via_upstream` when the model server answered, else Envoy's own reason.
    pub code_details: String,
    /// `xds.cluster_name`: the cluster of the route that was taken; empty when it has none.
    pub cluster: String,
    /// `upstream.request_attempt_count`: how often Envoy's router tried a cluster.
    pub attempts: u64,
}

/// Whether a request reached its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The model server answered.
    Reached,
    /// Envoy tried, and got no answer: no healthy host, no connection, a reset, a timeout.
    Unreached,
    /// Nothing can be said: Envoy or another filter answered without trying, or a limit of Envoy's own stood in the way,
    /// such as an open circuit breaker, a sign of load that another colour would not carry better.
    Unknown,
}

/// Whom an answer counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribution {
    /// Whether a colour was reached.
    pub reach: Reach,
    /// The colour whose cluster was asked; none when that is neither's, or when none was asked.
    pub colour: Option<Colour>,
    /// What is counted for the colour: its own answer, or a failure whatever status Envoy gave in its place.
    pub class: Class,
    /// How many attempts failed before the last one.
    pub retries: u64,
}

/// The model server's own answer.
const VIA_UPSTREAM: &str = "via_upstream";
/// Envoy followed a redirect of the model server's, so the client never saw that answer.
const FOLLOWED: &str = "internal_redirect";
/// The route names a cluster that Envoy does not have: no attempt is made.
const NO_CLUSTER: &str = "cluster_not_found";
/// The attempt did not pass a circuit breaker.
const OVERFLOW: &str = "upstream_reset_before_response_started{overflow";
/// Envoy gave up waiting for the model server, or lost it. A `{` with the cause may follow.
const FAILURES: [&str; 7] = [
    "no_healthy_upstream",
    "upstream_reset_before_response_started",
    "upstream_reset_after_response_started",
    "response_timeout",
    "upstream_per_try_timeout",
    "upstream_per_try_idle_timeout",
    "upstream_max_stream_duration_reached",
];
/// Envoy ended a stream on which nothing, or too much, went on: the model server's fault once it has the whole request.
const STALLS: [&str; 2] = ["stream_idle_timeout", "max_duration_timeout"];

// === impl Explanation ===

impl Explanation {
    /// Whether a cluster was asked.
    pub fn is_tried(&self) -> bool {
        self.attempts > 0 || self.code_details == NO_CLUSTER
    }

    /// The same, where a cluster is known by another name of what is behind a colour.
    pub fn known_as(&mut self, identity: &Identity) {
        if identity.also.iter().any(|also| also.as_str() == self.cluster) {
            identity.cluster.as_str().clone_into(&mut self.cluster);
        }
    }

    /// Whether it is from this cluster, as far as Envoy says which. A cluster that it does not have it does not name.
    pub fn is_from(&self, cluster: &str) -> bool {
        self.cluster == cluster || self.code_details == NO_CLUSTER
    }

    /// Whether the request reached its colour. `sent` is whether all of it had come from the client.
    pub fn reach(&self, sent: bool) -> Reach {
        let details = self.code_details.as_str();
        let reason = details.split_once('{').map_or(details, |(reason, _)| reason);
        if matches!(reason, VIA_UPSTREAM | FOLLOWED) {
            Reach::Reached
        } else if !self.is_tried() || details.starts_with(OVERFLOW) {
            Reach::Unknown
        } else if reason == NO_CLUSTER || FAILURES.contains(&reason) || (sent && STALLS.contains(&reason)) {
            Reach::Unreached
        } else {
            Reach::Unknown
        }
    }
}

// === impl Attribution ===

impl Attribution {
    /// An answer of `class` that came from the cluster that was chosen, at the first attempt.
    pub const fn expected(colour: Colour, class: Class) -> Self {
        Self { reach: Reach::Reached, colour: Some(colour), class, retries: 0 }
    }

    /// Whom an answer of `class` counts for. `chosen` is the colour for which the request was meant, and `clusters` are the
    /// two clusters.
    pub fn of(explanation: &Explanation, class: Class, sent: bool, chosen: Colour, clusters: &PerColour<&str>) -> Self {
        let reach = explanation.reach(sent);
        let asked = || [chosen, chosen.other()].into_iter().find(|colour| explanation.is_from(clusters.get(*colour)));
        let retries = explanation.attempts.saturating_sub(1);
        match reach {
            Reach::Reached => Self { reach, colour: asked(), class, retries },
            Reach::Unreached => Self { reach, colour: asked(), class: Class::Status(5), retries },
            Reach::Unknown => Self { reach, colour: None, class, retries: 0 },
        }
    }

    /// Whom a stream counts for that ended without an answer to the client. `class` is that of an answer that Envoy kept.
    pub fn without_answer(
        explanation: &Explanation,
        class: Class,
        sent: bool,
        chosen: Colour,
        clusters: &PerColour<&str>,
    ) -> Self {
        let of = Self::of(explanation, class, sent, chosen, clusters);
        if of.reach != Reach::Unknown || !explanation.is_tried() {
            return of;
        }
        // The client went away while the colour was asked.
        let waited = Explanation { code_details: VIA_UPSTREAM.to_owned(), ..explanation.clone() };
        Self { class: Class::Unanswered, reach: of.reach, ..Self::of(&waited, class, sent, chosen, clusters) }
    }

    /// The colour that served the answer, whose marks it gets.
    pub fn served_by(&self) -> Option<Colour> {
        self.colour.filter(|_| self.reach == Reach::Reached)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::name::ClusterName;
    use crate::testing::identity;

    fn explained(code_details: &str, cluster: &str, attempts: u64) -> Explanation {
        Explanation { code_details: code_details.to_owned(), cluster: cluster.to_owned(), attempts }
    }

    #[test]
    fn a_cluster_that_a_gateway_made_of_another_rule_is_the_colours_too() {
        let green = Identity { also: vec![ClusterName::new("rule/3").expect("valid")], ..identity("rule/1") };
        for (cluster, name) in [("rule/1", "rule/1"), ("rule/3", "rule/1"), ("rule/2", "rule/2"), ("", "")] {
            let mut explanation = explained(VIA_UPSTREAM, cluster, 1);
            explanation.known_as(&green);
            assert_eq!(explanation.cluster, name);
        }
    }

    #[test]
    fn only_what_envoy_tried_in_vain_is_a_colour_that_was_not_reached() {
        use Reach::{Reached, Unknown, Unreached};
        let cases = [
            ("via_upstream", 1, Reached),
            ("via_upstream", 3, Reached),
            ("internal_redirect", 1, Reached),
            ("no_healthy_upstream", 1, Unreached),
            ("cluster_not_found", 0, Unreached),
            (
                "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_overflow}",
                1,
                Unreached,
            ),
            ("upstream_reset_before_response_started{connection_termination}", 3, Unreached),
            ("upstream_reset_before_response_started{protocol_error}", 1, Unreached),
            ("upstream_reset_before_response_started{overflow}", 1, Unknown),
            ("response_timeout", 1, Unreached),
            ("upstream_per_try_timeout", 2, Unreached),
            ("upstream_per_try_idle_timeout", 1, Unreached),
            ("upstream_max_stream_duration_reached", 1, Unreached),
            ("stream_idle_timeout", 1, Unreached),
            ("stream_idle_timeout", 0, Unknown),
            ("max_duration_timeout", 1, Unreached),
            ("maintenance_mode", 0, Unknown),
            ("direct_response", 0, Unknown),
            ("route_not_found", 0, Unknown),
            ("fault_filter_abort", 0, Unknown),
            ("local_rate_limited", 0, Unknown),
            ("request_payload_too_large", 0, Unknown),
            // A filter that refuses the model server's answer on its way back.
            ("response_payload_too_large", 1, Unknown),
            ("lua_response", 1, Unknown),
            ("downstream_remote_disconnect", 1, Unknown),
            ("", 1, Unknown),
        ];
        for (details, attempts, reach) in cases {
            assert_eq!(explained(details, "b", attempts).reach(true), reach, "{details} after {attempts} attempts");
        }
    }

    #[test]
    fn a_stream_that_stands_still_is_the_clients_fault_until_the_whole_request_has_come() {
        for details in STALLS {
            assert_eq!(explained(details, "b", 1).reach(false), Reach::Unknown, "{details}");
        }
        assert_eq!(explained("response_timeout", "b", 1).reach(false), Reach::Unreached);
    }

    #[test]
    fn an_answer_counts_for_the_colour_whose_cluster_was_asked() {
        let clusters = PerColour { blue: "b", green: "g" };
        let (ok, failed) = (Class::Status(2), Class::Status(5));
        let refused = "upstream_reset_before_response_started{connection_failure}";
        let cases = [
            (explained("via_upstream", "b", 1), Some(Colour::Blue), ok, Some(Colour::Blue)),
            (explained("via_upstream", "g", 1), Some(Colour::Green), ok, Some(Colour::Green)),
            (explained("via_upstream", "other", 1), None, ok, None),
            // gRPC, or `local_reply_config`: the client sees 200.
            (explained(refused, "b", 1), Some(Colour::Blue), failed, None),
            (explained(refused, "other", 1), None, failed, None),
            (explained("cluster_not_found", "", 0), Some(Colour::Blue), failed, None),
            (explained("fault_filter_abort", "b", 0), None, ok, None),
        ];
        for (explanation, colour, class, served_by) in cases {
            let seen = Attribution::of(&explanation, ok, true, Colour::Blue, &clusters);
            assert_eq!((seen.colour, seen.class, seen.served_by()), (colour, class, served_by), "{explanation:?}");
        }
    }

    #[test]
    fn without_an_answer_only_a_colour_that_was_asked_is_left_unanswered() {
        let clusters = PerColour { blue: "b", green: "g" };
        let (green, kept) = (Some(Colour::Green), Class::Status(3));
        let cases = [
            (explained("downstream_remote_disconnect", "g", 1), green, Class::Unanswered),
            (explained("downstream_remote_disconnect", "other", 1), None, Class::Unanswered),
            // In front of a filter that holds requests back, for instance.
            (explained("downstream_remote_disconnect", "g", 0), None, kept),
            (explained("internal_redirect", "g", 1), green, kept),
            (explained("upstream_reset_before_response_started{connection_failure}", "g", 1), green, Class::Status(5)),
        ];
        for (explanation, colour, class) in cases {
            let seen = Attribution::without_answer(&explanation, kept, true, Colour::Green, &clusters);
            assert_eq!((seen.colour, seen.class), (colour, class), "{explanation:?}");
        }
    }

    #[test]
    fn the_attempts_before_the_last_one_are_retries() {
        let clusters = PerColour { blue: "b", green: "g" };
        let retries = |details: &str, attempts| {
            Attribution::of(&explained(details, "b", attempts), Class::Status(2), true, Colour::Blue, &clusters).retries
        };
        assert_eq!((retries("via_upstream", 1), retries("via_upstream", 3)), (0, 2));
        assert_eq!((retries("no_healthy_upstream", 2), retries("fault_filter_abort", 0)), (1, 0));
    }
}
