//! Whether requests arrive at the colour that was chosen for them, and whether their failures can be seen.
//!
//! The filter asks for a cluster by a header. A route that kept its `cluster:`, a later filter or a route that does not match
//! the header can choose another one, and a promotion would then change nothing. The answers tell; a worker notes what they
//! say as a mistake in the set-up.

use std::cell::Cell;

use crate::deployment::Deployment;
use crate::host::Host;
use crate::metrics::answer::{Attribution, Explanation, Reach};
use crate::model::colour::{Colour, PerColour};
use crate::model::name::ClusterName;
use crate::setup::{self, SetupProblem};
use crate::store::Store;

/// What a worker thread remembers of a deployment's answers. It costs shared data only when something new is seen.
#[derive(Debug, Default)]
pub struct Arrivals {
    colours: PerColour<Cell<Arrival>>,
    retrying: Cell<Retrying>,
}

/// What came of the requests that one colour was chosen for.
#[derive(Clone, Copy, Debug, Default)]
struct Arrival {
    /// How many answers came since the first from elsewhere.
    answers: u32,
    /// How many of them came from elsewhere.
    elsewhere: u32,
    /// How many came from where they should, the last ones in a row.
    in_a_row: u32,
    /// How many more answers are not looked at twice.
    unchecked: u32,
    /// How many of those it takes to believe that the mistake is gone: as many as went wrong, up to [`ENOUGH`].
    doubt: u32,
}

/// Whether Envoy was seen to retry.
#[derive(Clone, Copy, Debug, Default)]
struct Retrying {
    /// How many answers came after a retry.
    seen: u32,
    /// How many have come without one since.
    without: u32,
}

/// How many right answers in a row mend whatever was seen before. Where only some requests go elsewhere this bounds how
/// often the note comes and goes.
const ENOUGH: u32 = 64;
/// After so many more of the same a note is written again: another worker may have taken it back.
const AGAIN: u32 = 256;
/// How many right answers there are between two looks at what is noted: a stream of an earlier configuration may have noted
/// something since.
const UNCHECKED: u32 = 1_024;
/// How many answers in a row without a retry say that Envoy does not retry, or has nothing to retry.
const WITHOUT_RETRY: u32 = 1_000;

/// Why a colour that would gain traffic would not get it.
pub fn unrouted(store: &dyn Store, deployment: &Deployment, gains: Colour) -> Option<String> {
    let noted = setup::noted(store, &deployment.name).remove(&SetupProblem::AnswersFromElsewhere)?;
    noted.colours.contains(&gains).then_some(noted.detail)
}

// === impl Arrivals ===

impl Arrivals {
    /// The common case: an answer of the cluster that was chosen, at the first attempt.
    pub fn on_expected(&self, host: &dyn Host, deployment: &Deployment, chosen: Colour) {
        self.on_right(host, deployment, chosen);
        self.on_single_attempt(host, deployment);
    }

    /// Any other answer. `cluster` is the one that was chosen for the request, with its `colour`.
    pub fn on_explained(
        &self,
        host: &dyn Host,
        deployment: &Deployment,
        (chosen, cluster): (Colour, &ClusterName),
        explanation: &Explanation,
        attribution: &Attribution,
    ) {
        if attribution.reach != Reach::Unknown {
            if explanation.is_from(cluster.as_str()) {
                self.on_right(host, deployment, chosen);
            } else {
                self.on_elsewhere(host, deployment, chosen, cluster, &explanation.cluster);
            }
        }
        match attribution {
            Attribution { reach: Reach::Reached, retries: 0, .. } => self.on_single_attempt(host, deployment),
            Attribution { reach: Reach::Reached, .. } => self.on_hidden_failure(host, deployment),
            _ => {}
        }
    }

    fn on_right(&self, host: &dyn Host, deployment: &Deployment, chosen: Colour) {
        let cell = self.colours.get(chosen);
        let mut seen = cell.get();
        if seen.unchecked > 0 {
            cell.set(Arrival { unchecked: seen.unchecked.saturating_sub(1), ..seen });
            return;
        }
        seen.answers = seen.answers.saturating_add(1);
        seen.in_a_row = seen.in_a_row.saturating_add(1);
        if seen.in_a_row >= seen.doubt {
            setup::clear_about(host, deployment, SetupProblem::AnswersFromElsewhere, chosen);
            seen = Arrival { unchecked: UNCHECKED, doubt: seen.doubt, ..Arrival::default() };
        }
        cell.set(seen);
    }

    fn on_elsewhere(
        &self,
        host: &dyn Host,
        deployment: &Deployment,
        chosen: Colour,
        cluster: &ClusterName,
        from: &str,
    ) {
        let cell = self.colours.get(chosen);
        let mut seen = cell.get();
        seen.unchecked = 0;
        seen.in_a_row = 0;
        seen.answers = seen.answers.saturating_add(1);
        seen.elsewhere = seen.elsewhere.saturating_add(1);
        seen.doubt = seen.doubt.saturating_add(1).min(ENOUGH);
        cell.set(seen);
        if !is_worth_a_note(seen.elsewhere) {
            return;
        }
        let Arrival { answers, elsewhere, .. } = seen;
        let detail = format!(
            "{elsewhere} of {answers} answers came from cluster {from}, not {cluster}, though {chosen} was chosen: give the \
             route cluster_header in place of cluster or weighted_clusters, and let no later filter choose another"
        );
        setup::note_about(host, deployment, SetupProblem::AnswersFromElsewhere, Some(chosen), detail);
    }

    fn on_single_attempt(&self, host: &dyn Host, deployment: &Deployment) {
        let mut retrying = self.retrying.get();
        retrying.without = retrying.without.saturating_add(1);
        if retrying.without >= WITHOUT_RETRY {
            setup::clear(host, deployment, SetupProblem::RetriesHideFailures);
            retrying = Retrying::default();
        }
        self.retrying.set(retrying);
    }

    fn on_hidden_failure(&self, host: &dyn Host, deployment: &Deployment) {
        let seen = self.retrying.get().seen.saturating_add(1);
        self.retrying.set(Retrying { seen, without: 0 });
        if is_worth_a_note(seen) {
            let (judge, advice) = match (deployment.compares(), deployment.error_rule().count_retries) {
                (true, true) => ("during a canary the guard counts that as an error, but comparison", "Watch"),
                (true, false) => ("guard, comparison", "Set guard.error.count_retries: true, watch"),
                (false, _) => ("comparison", "Watch"),
            };
            let detail = format!(
                "an attempt failed, Envoy repeated it, and the client got an answer: {judge} and failover judge only what \
                 clients got. {advice} bluegreen_retries_total, or leave retry_policy out of the route during a canary"
            );
            setup::note(host, deployment, SetupProblem::RetriesHideFailures, detail);
        }
    }
}

/// Whether the `count`th of the same is noted: a note costs shared data.
fn is_worth_a_note(count: u32) -> bool {
    count.is_power_of_two() || count.is_multiple_of(AGAIN)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::deployment::Deployments;
    use crate::metrics::counters::Class;
    use crate::setup::Notes;
    use crate::testing::host::TestHost;
    use crate::testing::{config_of, green_has_an_authority};

    /// A worker, and the answers that it gets to requests for a colour.
    #[derive(Default)]
    struct Worker(Arrivals);

    impl Worker {
        fn gets(&self, host: &TestHost, chosen: Colour, code_details: &str, from: &str, attempts: u64) {
            let deployments = green_has_an_authority();
            let iris = &deployments.all()[0];
            let explanation = Explanation { code_details: code_details.to_owned(), cluster: from.to_owned(), attempts };
            let clusters = PerColour::from_fn(Colour::as_str);
            let attribution = Attribution::of(&explanation, Class::Status(2), true, chosen, &clusters);
            let cluster = &iris.colours.get(chosen).cluster;
            self.0.on_explained(host, iris, (chosen, cluster), &explanation, &attribution);
        }

        fn is_served(&self, host: &TestHost, chosen: Colour, from: &str) {
            self.gets(host, chosen, "via_upstream", from, 1);
        }

        fn is_served_right(&self, host: &TestHost, chosen: Colour, times: u32) {
            let deployments = green_has_an_authority();
            (0..times).for_each(|_| self.0.on_expected(host, &deployments.all()[0], chosen));
        }
    }

    fn noted(host: &TestHost) -> Notes {
        setup::noted(&host.store, &crate::testing::iris())
    }

    fn unrouted_colours(host: &TestHost) -> Vec<Colour> {
        let deployments = green_has_an_authority();
        let is_unrouted = |colour: &Colour| unrouted(&host.store, &deployments.all()[0], *colour).is_some();
        Colour::ALL.into_iter().filter(is_unrouted).collect()
    }

    #[test]
    fn answers_from_elsewhere_are_noted_about_the_colour_that_was_chosen() {
        let (host, worker) = (TestHost::default(), Worker::default());
        (0..16).for_each(|_| worker.is_served(&host, Colour::Green, "blue"));
        let notes = noted(&host);
        let detail = &notes.get(&SetupProblem::AnswersFromElsewhere).expect("noted").detail;
        assert!(detail.starts_with("16 of 16 answers came from cluster blue, not green"), "{detail}");
        worker.is_served_right(&host, Colour::Blue, 1_000);
        assert_eq!(unrouted_colours(&host), [Colour::Green]);
        assert_eq!(host.take_log().len(), 1);
    }

    #[test]
    fn a_local_reply_is_from_nowhere_and_an_unknown_cluster_is_no_other_one() {
        let (host, worker) = (TestHost::default(), Worker::default());
        worker.gets(&host, Colour::Green, "direct_response", "", 0);
        worker.gets(&host, Colour::Green, "fault_filter_abort", "blue", 0);
        worker.gets(&host, Colour::Green, "cluster_not_found", "", 0);
        assert_eq!(noted(&host), Notes::default());
        // A failure tells where it came from, too.
        worker.gets(&host, Colour::Green, "no_healthy_upstream", "blue", 1);
        assert_eq!(unrouted_colours(&host), [Colour::Green]);
    }

    #[test]
    fn it_is_fixed_when_as_many_answers_in_a_row_were_right_as_went_wrong() {
        let (host, worker) = (TestHost::default(), Worker::default());
        (0..3).for_each(|_| worker.is_served(&host, Colour::Green, "blue"));
        worker.is_served_right(&host, Colour::Green, 2);
        assert_eq!(unrouted_colours(&host), [Colour::Green]);
        worker.is_served_right(&host, Colour::Green, 1);
        assert_eq!(noted(&host), Notes::default());
        // A worker with a new configuration has no doubt of its own.
        worker.is_served(&host, Colour::Green, "blue");
        Worker::default().is_served_right(&host, Colour::Green, 1);
        assert_eq!(noted(&host), Notes::default());
    }

    #[test]
    fn what_an_earlier_configuration_noted_late_goes_away_too() {
        let (host, worker) = (TestHost::default(), Worker::default());
        worker.is_served_right(&host, Colour::Green, 10);
        Worker::default().is_served(&host, Colour::Green, "blue");
        worker.is_served_right(&host, Colour::Green, 1_000);
        assert_eq!(unrouted_colours(&host), [Colour::Green], "shared data is not read for each answer");
        worker.is_served_right(&host, Colour::Green, 100);
        assert_eq!(noted(&host), Notes::default());
    }

    #[test]
    fn the_note_comes_and_goes_seldom_while_only_some_requests_go_elsewhere() {
        let (host, worker) = (TestHost::default(), Worker::default());
        for _ in 0..1_000 {
            worker.is_served(&host, Colour::Green, "blue");
            worker.is_served_right(&host, Colour::Green, 20);
        }
        assert!(host.take_log().len() < 45, "it takes {ENOUGH} right ones in a row after the first few");
        assert_eq!(unrouted_colours(&host), [Colour::Green]);
    }

    #[test]
    fn an_answer_after_a_failed_attempt_is_noted_until_a_thousand_came_without() {
        let (host, worker) = (TestHost::default(), Worker::default());
        worker.gets(&host, Colour::Blue, "no_healthy_upstream", "blue", 3);
        assert_eq!(noted(&host), Notes::default(), "that failure is not hidden");
        for _ in 0..5 {
            worker.gets(&host, Colour::Blue, "via_upstream", "blue", 2);
            worker.is_served_right(&host, Colour::Blue, WITHOUT_RETRY - 1);
        }
        assert!(noted(&host).contains_key(&SetupProblem::RetriesHideFailures));
        worker.is_served_right(&host, Colour::Blue, 1);
        assert_eq!(noted(&host), Notes::default());
        assert_eq!(host.take_log().len(), 2);
    }

    #[test]
    fn who_does_not_see_the_failed_attempts_is_said_as_the_guard_is_configured() {
        for (guard, judge, advice) in [
            ("", ": comparison and failover judge", ". Watch"),
            (r#", "guard": {}"#, ": during a canary the guard counts that as an error, but comparison and", ". Watch"),
            (r#", "guard": {"error": {"count_retries": false}}"#, ": guard, comparison and", ". Set guard.error"),
        ] {
            let host = TestHost::default();
            let deployments = Deployments::new(&config_of(guard));
            Arrivals::default().on_hidden_failure(&host, &deployments.all()[0]);
            let detail = noted(&host).remove(&SetupProblem::RetriesHideFailures).expect("noted").detail;
            assert!(detail.contains(judge) && detail.contains(advice), "{detail}");
        }
    }
}
