//! Going back by itself, when requests to a freshly promoted colour do not even reach it.

use crate::config::{Bake, Failover};
use crate::model::author::{Author, Source};
use crate::model::name::Reason;
use crate::model::time::Timestamp;
use crate::readiness::drain::baking_until;
use crate::readiness::probe::Verdict;
use crate::state::State;

/// The most of Envoy's description that goes into a reason, in characters: with the words around it, fewer than 200.
const LONGEST_DETAIL: usize = 130;

/// Whether a request reached its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The model server answered.
    Reached,
    /// Envoy could not deliver it.
    Unreached,
    /// Nothing can be said: a circuit breaker is open, which is a sign of load that another colour would not carry
    /// better, or Envoy does not say why it answered.
    Unknown,
}

/// What a 503 says about reaching the colour, by Envoy's `response.code_details`.
pub fn reach_of_503(code_details: &str) -> Reach {
    match code_details {
        "via_upstream" => Reach::Reached,
        "" => Reach::Unknown,
        overflow if overflow.contains("overflow") => Reach::Unknown,
        _ => Reach::Unreached,
    }
}

/// Whether `failures` requests in a row that did not reach the active colour are reason enough to go back, and if so
/// under which author. `last` is how Envoy describes the last of them.
pub fn author(
    state: &State,
    failover: Failover,
    bake: Option<Bake>,
    verdict: Option<&Verdict>,
    failures: u64,
    last: &str,
    now: Timestamp,
) -> Option<Author> {
    let back = state.rollback_to?;
    let baking = baking_until(state, back, bake).is_some_and(|until| until > now);
    if failures < u64::from(failover.after.get()) || !baking || !verdict.is_some_and(|verdict| verdict.healthy) {
        return None;
    }
    let last: String = last.chars().filter(|letter| !letter.is_control()).take(LONGEST_DETAIL).collect();
    let text = format!("{failures} requests in a row did not reach {} (last: {last})", state.split.active);
    let reason = Reason::new(text).unwrap_or_else(|_| Reason::none());
    Some(Author::new(Source::Guard.as_str(), Source::Guard, reason))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::time::Duration;

    use super::*;
    use crate::readiness::probe::Finding;
    use crate::state::Command;
    use crate::testing::split;

    const SWITCH: Timestamp = Timestamp::from_millis(10_000_000);
    const BAKE: Bake = Bake { r#for: Duration::from_secs(60) };

    fn promoted() -> State {
        let alice = Author::new("alice", Source::Admin, Reason::none());
        let before = State::initial(split("blue", "0", "0"), Timestamp::default());
        before.after(Command::Promote, alice, SWITCH).expect("allowed").expect("a change")
    }

    fn decide(state: &State, healthy: bool, failures: u64, now: Timestamp) -> Option<Author> {
        let failover: Failover = serde_json::from_str(r#"{"after": 5}"#).expect("valid");
        let finding = Finding { healthy, detail: String::new() };
        let verdict = Verdict::after(None, finding, 3, SWITCH);
        author(state, failover, Some(BAKE), Some(&verdict), failures, "connection_refused", now)
    }

    #[test]
    fn enough_failures_inside_the_window_lead_back_to_a_healthy_colour_with_the_evidence() {
        let author = decide(&promoted(), true, 5, SWITCH).expect("goes back");
        assert_eq!(author.source, Source::Guard);
        let expected = "5 requests in a row did not reach green (last: connection_refused)";
        assert_eq!(author.reason.as_str(), expected);
    }

    #[test]
    fn only_what_envoy_could_not_deliver_counts_as_unreached() {
        let cases = [
            ("no_healthy_upstream", Reach::Unreached),
            ("cluster_not_found", Reach::Unreached),
            ("upstream_reset_before_response_started{remote_connection_failure}", Reach::Unreached),
            ("upstream_reset_before_response_started{overflow}", Reach::Unknown),
            ("via_upstream", Reach::Reached),
            ("", Reach::Unknown),
        ];
        for (details, reach) in cases {
            assert_eq!(reach_of_503(details), reach, "{details}");
        }
    }

    #[test]
    fn too_few_failures_a_sick_way_back_or_a_closed_window_lead_nowhere() {
        let rolled_back = State { rollback_to: None, ..promoted() };
        let cases = [
            (promoted(), true, 4, SWITCH),
            (promoted(), false, 5, SWITCH),
            (promoted(), true, 5, SWITCH.plus(BAKE.r#for)),
            (rolled_back, true, 5, SWITCH),
        ];
        for (state, healthy, failures, now) in cases {
            assert_eq!(decide(&state, healthy, failures, now), None);
        }
    }
}
