//! What the leader does for a rollout and its guard at each tick: analyse the canary, ask the guard, ask for the next move.

use crate::change::request::ChangeRequest;
use crate::config::{Guard, OnBreach, RolloutStep};
use crate::deployment::Deployment;
use crate::deployment::DeploymentIndex;
use crate::guard::analysis::{CanaryAnalysis, Stage};
use crate::guard::evidence::Evidence;
use crate::guard::verdict::sentence;
use crate::model::author::{Author, Source};
use crate::model::name::Reason;
use crate::model::percent::Percent;
use crate::model::time::Timestamp;
use crate::state::rollout::{Next, Phase, Rollout, RolloutCommand};
use crate::state::{Command, Patch, State};

/// The analysis of a deployment's canary as the state is now, before it has taken the evidence that has come since.
pub fn analysed(
    deployment: &Deployment,
    state: &State,
    before: Option<CanaryAnalysis>,
    now: Timestamp,
) -> Option<CanaryAnalysis> {
    let before = before.filter(|analysis| !resumed_after_breach(analysis, state));
    CanaryAnalysis::advance(before, state, deployment.guard.as_ref(), now)
}

/// Lets the analysis take evidence. Without a guard it counts, and nothing is concluded.
pub fn play(
    deployment: &Deployment,
    state: &State,
    analysis: &mut CanaryAnalysis,
    evidence: &[Evidence],
    now: Timestamp,
) {
    let guard = deployment.guard.unwrap_or_default();
    let margin = awaited(deployment, state).and_then(|step| step.no_worse_than);
    for piece in evidence {
        analysis.play(piece, &guard, margin, now);
    }
    if deployment.guard.is_none() {
        analysis.breach = None;
    }
}

/// The step in force of a running rollout.
fn awaited<'d>(deployment: &'d Deployment, state: &State) -> Option<&'d RolloutStep> {
    let rollout = state.rollout.filter(|rollout| rollout.phase == Phase::Running)?;
    deployment.rollout.as_ref()?.steps.get(rollout.step)
}

/// What is asked for, as the analysis stands. It is asked for again at the next tick, unless the state has changed by then.
pub fn next_change(
    (index, deployment): (DeploymentIndex, &Deployment),
    state: &State,
    analysis: &CanaryAnalysis,
    now: Timestamp,
) -> Option<ChangeRequest> {
    let breach = deployment.guard.as_ref().and_then(|guard| on_breach(analysis, guard, state));
    let (command, source, reason) = breach.or_else(|| next_move(deployment, state, analysis, now))?;
    let reason = Reason::new(reason).unwrap_or_else(|_| Reason::none());
    let author = Author::automatic(source, reason);
    // Taking traffic from a colour that fails must not wait for anything.
    Some(ChangeRequest::new(index, command, author, Some(state.revision)).enforce(source != Source::Guard))
}

/// Whether nothing can happen until the state changes, so that the ticks until then need not read it.
pub fn is_idle(state: &State, analysis: Option<&CanaryAnalysis>) -> bool {
    state.split.canary_percent == Percent::ZERO && analysis.is_none_or(|analysis| analysis.over)
}

/// An operator who lets a rollout go on after a breach wants to see new evidence.
fn resumed_after_breach(analysis: &CanaryAnalysis, state: &State) -> bool {
    let running = state.rollout.filter(|rollout| rollout.phase == Phase::Running);
    analysis.breach.zip(running).is_some_and(|((_, at), rollout)| rollout.since > at)
}

type Change = (Command, Source, String);

fn on_breach(analysis: &CanaryAnalysis, guard: &Guard, state: &State) -> Option<Change> {
    analysis.breach.filter(|_| !analysis.over)?;
    let command = match (guard.on_breach, analysis.stage) {
        // Not a rollback of the state: before its first promotion that could lead to the candidate itself.
        (OnBreach::Rollback, Stage::Canary) => {
            Some(Command::Patch(Patch { canary_percent: Some(Percent::ZERO), ..Patch::default() }))
        }
        (OnBreach::Rollback, Stage::Promoted(_)) => state.rollback_to.map(|_| Command::RollBack(None)),
        (OnBreach::Observe, _) => None,
        (OnBreach::Pause, _) => {
            let running = state.rollout.filter(|rollout| rollout.phase == Phase::Running);
            running.map(|rollout| Command::Rollout(RolloutCommand::Breach(rollout)))
        }
    };
    command.map(|command| (command, Source::Guard, sentence(analysis, guard)))
}

/// The next move of a rollout whose step is done.
fn next_move(deployment: &Deployment, state: &State, analysis: &CanaryAnalysis, now: Timestamp) -> Option<Change> {
    let plan = deployment.rollout.as_ref()?;
    let rollout = state.rollout.filter(|rollout| rollout.phase == Phase::Running && analysis.breach.is_none())?;
    if !waits_for(rollout, deployment, Some(analysis), now)?.is_empty() {
        return None;
    }
    let next = rollout.next(plan);
    let steps = plan.steps.len();
    let reason = match next {
        Next::Step(_) => format!("step {} of {steps}", rollout.step.saturating_add(2)),
        Next::Promote | Next::Wait => format!("all {steps} steps done"),
    };
    Some((Command::Rollout(RolloutCommand::Next(rollout, next)), Source::Rollout, reason))
}

/// What a running step still waits for; nothing: it is done. `None` when the configuration has no such step any more:
/// the rollout then stays where it is, until the step is back or an operator decides.
pub fn waits_for(
    rollout: Rollout,
    deployment: &Deployment,
    analysis: Option<&CanaryAnalysis>,
    now: Timestamp,
) -> Option<Vec<String>> {
    let step = deployment.rollout.as_ref()?.steps.get(rollout.step)?;
    let mut waits = Vec::new();
    let until = rollout.since.plus(step.hold);
    if now < until {
        waits.push(format!("until {until}"));
    }
    let answers = analysis
        .filter(|analysis| {
            let of_this = analysis.candidate == rollout.candidate && analysis.began >= rollout.began;
            of_this && analysis.stage == Stage::Canary && !analysis.over
        })
        .map_or(0, |analysis| analysis.since_set.get(rollout.candidate).total);
    if answers < step.min_requests {
        waits.push(format!("for {} more answers of {}", step.min_requests.saturating_sub(answers), rollout.candidate));
    }
    Some(waits)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::time::Duration;

    use super::*;
    use crate::config::Config;
    use crate::deployment::Deployments;
    use crate::guard::analysis::Rule;
    use crate::metrics::cohorts::{Cohorts, Draw, Ending, Host, Kind, SeenKeys};
    use crate::model::colour::{Colour, PerColour};
    use crate::testing::{identity, percent, split};

    const START: Timestamp = Timestamp::from_millis(1_795_446_000_000);

    /// A deployment under way: each tick's requests are counted, and its changes are made.
    struct World {
        deployments: Deployments,
        state: State,
        analysis: Option<CanaryAnalysis>,
        cohorts: Cohorts,
        now: Timestamp,
        /// The fractions of each colour's next request and next error.
        due: PerColour<(f64, f64)>,
        hosts: u16,
    }

    impl World {
        fn new(sections: &str) -> Self {
            let json = format!(
                r#"{{"deployments": {{"iris": {{"colours": {{
                    "blue": {{"cluster": "b", "version": "1"}}, "green": {{"cluster": "g", "version": "2"}}}}, {sections}}}}}}}"#
            );
            Self {
                deployments: Deployments::new(&Config::from_bytes(json.as_bytes()).expect("valid")),
                state: State::initial(split("blue", "0", "0"), START),
                analysis: None,
                cohorts: Cohorts::default(),
                now: START,
                due: PerColour::default(),
                hosts: 0,
            }
        }

        fn operate(&mut self, command: Command) {
            let alice = Author::new(crate::testing::holder("alice"), Source::Admin, Reason::none());
            let after = self.state.after(&command, alice, self.now).expect("allowed");
            self.state = after.unwrap_or_else(|| self.state.clone());
        }

        fn start(&mut self) {
            let first = self.deployments.all()[0].rollout.as_ref().expect("configured").steps[0].canary_percent;
            self.operate(Command::Rollout(RolloutCommand::Start(first)));
        }

        /// Lets 25 requests in 250 ms pass, of which the colours fail these shares.
        fn tick(&mut self, fails: PerColour<f64>) {
            self.now = self.now.plus(Duration::from_millis(250));
            let share = f64::from(self.state.split.canary_percent.hundredths()) / 10_000.0;
            for colour in Colour::ALL {
                let share = if colour == self.state.split.active { 1.0 - share } else { share };
                let (requests, errors) = self.due.get_mut(colour);
                *requests += 25.0 * share;
                *errors += requests.floor() * fails.get(colour);
                let (began, failed) = (requests.floor() as u64, errors.floor() as u64);
                (*requests, *errors) = (requests.fract(), errors.fract());
                for number in 0..began {
                    let share = self.state.split.canary_percent;
                    let when = (self.now, self.state.revision, share);
                    let ticket = self.cohorts.begin(when, colour, Draw::Request, &mut SeenKeys::default());
                    self.hosts = self.hosts % 10 + 1;
                    let wrong = (number < failed).then_some(Kind::Failed);
                    let latency = Duration::from_millis(20);
                    self.cohorts.end(ticket, Ending::Answered { wrong, host: Host(self.hosts), latency });
                }
            }
            self.cohorts.retire(self.now);
            let deployment = &self.deployments.all()[0];
            let mut analysis = analysed(deployment, &self.state, self.analysis.take(), self.now);
            if let Some(analysis) = analysis.as_mut().filter(|analysis| !analysis.over) {
                let evidence = analysis.collect(&self.cohorts, &deployment.guard.unwrap_or_default(), self.now);
                play(deployment, &self.state, analysis, &evidence, self.now);
            }
            let at = (0, deployment);
            let request = analysis.as_ref().and_then(|analysis| next_change(at, &self.state, analysis, self.now));
            self.analysis = analysis;
            if let Some(request) = request {
                let after = self.state.after(&request.command, request.author, self.now).expect("allowed");
                self.state = after.unwrap_or_else(|| self.state.clone());
            }
        }

        fn run(&mut self, seconds: u64, blue: f64, green: f64) {
            for _ in 0..seconds * 4 {
                self.tick(PerColour { blue, green });
            }
        }

        fn phase(&self) -> Option<Phase> {
            self.state.rollout.map(|rollout| rollout.phase)
        }
    }

    const PLAN: &str = r#""rollout": {"steps": [
        {"canary_percent": 1, "hold": "60s", "min_requests": 50}, {"canary_percent": 10, "hold": "60s"},
        {"canary_percent": 50, "hold": "60s"}]}, "guard": {"also_after_promote": "10m"}"#;

    #[test]
    fn a_healthy_candidate_goes_through_all_steps_and_is_promoted() {
        let mut world = World::new(PLAN);
        world.start();
        assert_eq!(world.state.split, split("blue", "1", "0"));
        world.run(61, 0.01, 0.01);
        assert_eq!(world.state.split, split("blue", "10", "0"));
        world.run(120, 0.01, 0.01);
        assert_eq!((world.state.split, world.phase()), (split("green", "0", "0"), Some(Phase::Promoted)));
        let sources: Vec<Source> = world.state.history.changes().map(|change| change.author.source).collect();
        assert_eq!(sources, [Source::Rollout, Source::Rollout, Source::Rollout, Source::Admin]);
        world.run(900, 0.01, 0.01);
        assert_eq!(world.state.split.active, Colour::Green);
        assert_eq!(world.analysis.map(|analysis| analysis.over), Some(true));
    }

    #[test]
    fn a_step_waits_for_its_requests_as_well_as_for_its_time() {
        let mut world = World::new(&PLAN.replace("50}", "1000}"));
        world.start();
        world.run(900, 0.0, 0.0);
        assert_eq!(world.state.split, split("blue", "1", "0"));
        let deployment = &world.deployments.all()[0];
        let rollout = world.state.rollout.expect("under way");
        let waits = waits_for(rollout, deployment, world.analysis.as_ref(), world.now).expect("a step");
        assert!(waits.len() == 1 && waits[0].contains("more answers of green"), "{waits:?}");
        world.run(101, 0.0, 0.0);
        assert_eq!(world.state.split, split("blue", "10", "0"));
    }

    #[test]
    fn a_bad_candidate_is_rolled_back_with_the_evidence_as_reason() {
        let mut world = World::new(PLAN);
        world.start();
        world.run(180, 0.01, 0.2);
        assert_eq!((world.state.split, world.phase()), (split("blue", "0", "0"), Some(Phase::RolledBack)));
        let newest = world.state.history.newest().expect("a change");
        assert_eq!((newest.author.source, newest.rollout), (Source::Guard, Some(Phase::RolledBack)));
        let reason = newest.author.reason.as_str();
        assert!(reason.contains("errors of green where") && reason.contains("fewer than 1 in"), "{reason}");
        assert_eq!(world.analysis.and_then(|analysis| analysis.breach).map(|(rule, _)| rule), Some(Rule::Error));
    }

    #[test]
    fn what_fails_for_both_alike_blames_neither() {
        let limit = PLAN.replace(r#""guard": {"#, r#""guard": {"error": {"max_rate": 0.2}, "#);
        let mut world = World::new(&limit);
        world.start();
        world.run(61, 0.01, 0.01);
        world.run(30, 1.0, 1.0);
        world.run(80, 0.5, 0.5);
        assert_eq!((world.state.split.canary_percent, world.phase()), (percent("50"), Some(Phase::Running)));
    }

    #[test]
    fn a_disaster_reaches_the_limit_without_any_test() {
        let sections = PLAN
            .replace(r#""guard": {"#, r#""guard": {"confidence": 0.999999, "error": {"max_rate": 0.2, "after": 5}, "#);
        let mut world = World::new(&sections);
        world.start();
        // Ten of its requests are its warm-up.
        world.run(20, 0.0, 1.0);
        assert_eq!(world.phase(), Some(Phase::RolledBack));
        assert_eq!(world.analysis.and_then(|analysis| analysis.breach).map(|(rule, _)| rule), Some(Rule::MaxRate));
    }

    #[test]
    fn a_candidate_that_fails_after_its_promotion_is_rolled_back() {
        let mut world = World::new(PLAN);
        world.start();
        world.run(185, 0.01, 0.01);
        assert_eq!(world.phase(), Some(Phase::Promoted));
        world.run(120, 0.01, 0.01);
        world.run(60, 0.01, 0.2);
        assert_eq!((world.state.split.active, world.phase()), (Colour::Blue, Some(Phase::RolledBack)));
        let newest = world.state.history.newest().expect("a change");
        assert!(newest.author.reason.as_str().contains("since its promotion"), "{:?}", newest.author);
    }

    #[test]
    fn a_guard_that_pauses_leaves_the_traffic_and_starts_anew_when_resumed() {
        let mut world = World::new(&PLAN.replace(r#""guard": {"#, r#""guard": {"on_breach": "pause", "#));
        world.start();
        world.run(120, 0.01, 0.3);
        assert_eq!((world.state.split.canary_percent, world.phase()), (percent("1"), Some(Phase::Breached)));
        world.run(600, 0.01, 0.01);
        assert_eq!(world.phase(), Some(Phase::Breached));
        world.operate(Command::Rollout(RolloutCommand::Resume));
        world.run(59, 0.01, 0.01);
        assert_eq!((world.state.split.canary_percent, world.phase()), (percent("1"), Some(Phase::Running)));
        world.run(125, 0.01, 0.01);
        assert_eq!(world.phase(), Some(Phase::Promoted));
    }

    #[test]
    fn a_pause_of_days_is_no_end() {
        let mut world = World::new(PLAN);
        world.start();
        world.run(30, 0.0, 0.0);
        world.operate(Command::Rollout(RolloutCommand::Pause));
        world.now = world.now.plus(Duration::from_secs(3 * 86_400));
        world.run(100, 0.0, 0.0);
        assert_eq!((world.state.split.canary_percent, world.phase()), (percent("1"), Some(Phase::Paused)));
        world.operate(Command::Rollout(RolloutCommand::Resume));
        world.run(59, 0.0, 0.0);
        assert_eq!(world.state.split.canary_percent, percent("1"));
        world.run(2, 0.0, 0.0);
        assert_eq!(world.state.split.canary_percent, percent("10"));
    }

    #[test]
    fn anybody_else_who_sets_the_traffic_ends_the_rollout_and_the_history_says_so() {
        let share = |share: &str| Patch { canary_percent: Some(percent(share)), ..Patch::default() };
        for command in
            [Command::Patch(share("5")), Command::Promote(None), Command::AdoptInitial(split("green", "0", "0"))]
        {
            let mut world = World::new(PLAN);
            world.start();
            world.run(5, 0.0, 0.0);
            world.operate(command.clone());
            assert_eq!(world.phase(), Some(Phase::Aborted), "{command:?}");
            assert_eq!(world.state.history.newest().expect("a change").rollout, Some(Phase::Aborted));
            world.run(300, 0.0, 0.0);
            assert_eq!(world.phase(), Some(Phase::Aborted), "{command:?}");
        }
        let mut world = World::new(PLAN);
        world.start();
        world.operate(Command::Patch(Patch { shadow_percent: Some(percent("5")), ..Patch::default() }));
        assert_eq!(world.phase(), Some(Phase::Running));
    }

    #[test]
    fn what_an_earlier_rollout_saw_is_no_evidence_about_the_next_one() {
        let mut world = World::new(PLAN);
        world.start();
        world.run(40, 0.0, 0.0);
        let seen = |world: &World| world.analysis.as_ref().expect("watched").since_began.green.total;
        assert!(seen(&world) > 5, "{}", seen(&world));
        // Ended and begun again before the leader looks.
        world.operate(Command::Rollout(RolloutCommand::Abort));
        world.now = world.now.plus(Duration::from_millis(1));
        world.start();
        world.run(1, 0.0, 0.0);
        assert!(seen(&world) <= 1, "{}", seen(&world));
        assert!(world.analysis.as_ref().is_some_and(|analysis| !analysis.over));
    }

    #[test]
    fn what_another_version_did_is_no_evidence_about_the_next_one() {
        let adopt = |version| Command::AdoptVersion(Colour::Green, identity(version));
        let mut world = World::new(PLAN);
        world.state = world.state.knowing(&PerColour { blue: identity("1"), green: identity("2") });
        world.start();
        world.run(40, 0.0, 0.0);
        let first = world.analysis.clone().expect("watched");
        world.operate(adopt("3"));
        assert!(!first.is_about(&world.state));
        world.start();
        world.run(1, 0.0, 0.0);
        let next = world.analysis.clone().expect("watched");
        assert!(next.is_about(&world.state) && next.since_began.green.total <= 1, "{next:?}");
        // A push to the active colour is another baseline.
        world.operate(Command::AdoptVersion(Colour::Blue, identity("4")));
        assert!(!next.is_about(&world.state));
        assert_eq!(world.phase(), Some(Phase::Running));
    }

    #[test]
    fn a_manual_canary_is_watched_as_well() {
        let mut world = World::new(r#""guard": {}"#);
        world.operate(Command::Patch(Patch { canary_percent: Some(percent("10")), ..Patch::default() }));
        world.run(60, 0.0, 0.3);
        assert_eq!((world.state.split, world.state.author.source), (split("blue", "0", "0"), Source::Guard));
    }

    #[test]
    fn a_plan_that_ends_with_a_pause_waits_for_an_operator_who_can_skip_to_the_promotion() {
        let mut world = World::new(&PLAN.replace(r#"]}, "guard""#, r#"], "then": "pause"}, "guard""#));
        world.start();
        world.run(1_000, 0.0, 0.0);
        assert_eq!((world.state.split.canary_percent, world.phase()), (percent("50"), Some(Phase::Complete)));
        let rollout = world.state.rollout.expect("complete");
        let plan = world.deployments.all()[0].rollout.clone().expect("configured");
        world.operate(Command::Rollout(RolloutCommand::Next(rollout, rollout.next(&plan))));
        assert_eq!((world.state.split.active, world.phase()), (Colour::Green, Some(Phase::Promoted)));
    }

    #[test]
    fn an_analysis_survives_json_and_nothing_to_analyse_is_idle() {
        let mut world = World::new(PLAN);
        assert!(is_idle(&world.state, None));
        world.start();
        world.run(30, 0.01, 0.01);
        let analysis = world.analysis.clone().expect("watched");
        let json = serde_json::to_vec(&analysis).expect("serialises");
        let read: CanaryAnalysis = serde_json::from_slice(&json).expect("parses");
        assert_eq!((read.since_set, &read.bounds), (analysis.since_set, &analysis.bounds));
        assert!((read.error.e_value() - analysis.error.e_value()).abs() < 1e-9);
        assert!(json.len() < 8_000, "{}", json.len());
    }
}
