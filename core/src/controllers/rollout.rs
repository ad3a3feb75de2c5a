//! What the leader does for a rollout and its guard at each tick: analyse the canary, ask the guard, ask for the next move.

use crate::change::request::ChangeRequest;
use crate::config::{Guard, OnBreach, RolloutStep};
use crate::deployment::Deployment;
use crate::deployment::DeploymentIndex;
use crate::guard::analysis::{CanaryAnalysis, Rule, Stage, is_watched};
use crate::guard::evidence::Evidence;
use crate::guard::verdict::{evidence_percent, sentence};
use crate::host::Host;
use crate::metrics::counters::DeploymentMetric;
use crate::model::author::{Author, Source};
use crate::model::name::Reason;
use crate::model::percent::Percent;
use crate::model::time::Timestamp;
use crate::notification::{self, Event};
use crate::shadow::excess::Excess;
use crate::state::rollout::{Next, Phase, Rollout, RolloutCommand};
use crate::state::{Command, Patch, State};

/// The analysis of a deployment's canary as the state is now, before it has taken the evidence that has come since.
pub fn analysed(
    deployment: &Deployment,
    state: &State,
    before: Option<CanaryAnalysis>,
    now: Timestamp,
) -> Option<CanaryAnalysis> {
    let guard = deployment.guard.as_ref();
    let (resumed, before) = match before {
        Some(analysis) if resumed_after_breach(&analysis, guard, state) => (Some(analysis.forgiven()), None),
        before => (None, before),
    };
    let analysis = CanaryAnalysis::advance(before, state, guard, watches_copies(deployment, state), now)?;
    Some(match resumed {
        Some(answers) => analysis.knowing(answers),
        None => analysis,
    })
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

/// Lets the analysis take what came of comparing answers, in all.
pub fn play_answers(
    deployment: &Deployment,
    state: &State,
    analysis: &mut CanaryAnalysis,
    all: Excess,
    now: Timestamp,
) {
    // After a promotion it is the former colour whose answers are held against the promoted one's.
    if !matches!(analysis.stage, Stage::Promoted(_)) {
        analysis.play_answers(all, &deployment.guard.unwrap_or_default(), now);
    }
    if shown_to_disagree(deployment, state, analysis).is_some() {
        analysis.answers.hopeless_since.get_or_insert(now);
    }
    if deployment.guard.is_none() {
        analysis.breach = None;
    }
}

/// The step in force of a running rollout.
pub fn awaited<'d>(deployment: &'d Deployment, state: &State) -> Option<&'d RolloutStep> {
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
    let (command, source, reason) =
        breach.or_else(|| end_of_kept(state, now)).or_else(|| next_move(deployment, state, analysis, now))?;
    let reason = Reason::new(reason).unwrap_or_else(|_| Reason::none());
    let author = Author::automatic(source, reason);
    // Taking traffic from a colour that fails must not wait for anything.
    Some(ChangeRequest::new(index, command, author, Some(state.revision)).enforce(source != Source::Guard))
}

/// Says once that a step stops because the candidate was shown to disagree; `was_hopeless` is whether that was known.
pub fn tell_of_stop(
    host: &dyn Host,
    deployment: &Deployment,
    state: &State,
    was_hopeless: bool,
    analysis: &CanaryAnalysis,
) {
    if was_hopeless || !analysis.is_hopeless() {
        return;
    }
    let Some(what) = shown_to_disagree(deployment, state, analysis) else { return };
    let (name, rule) = (&deployment.name, Rule::Disagreement.as_str());
    host.warn(&format!("bluegreen: deployment={name} rollout: {what}"));
    let (colour, revision) = (analysis.candidate, state.revision);
    notification::tell(host, deployment, &Event::Breach { rule, colour, revision, what: &what });
}

/// Shows in the gauges what the guard has.
pub fn show(host: &dyn Host, deployment: &Deployment, analysis: &CanaryAnalysis) {
    let Some(guard) = &deployment.guard else { return };
    let (breached, percent) = (analysis.breach.is_some(), evidence_percent(analysis, guard));
    for (metric, value) in
        [(DeploymentMetric::GuardBreached, u64::from(breached)), (DeploymentMetric::GuardEvidencePercent, percent)]
    {
        host.set_gauge(&metric.name(&deployment.name), value);
    }
}

/// Whether nothing can happen until the state changes, so that the ticks until then need not read it.
pub fn is_idle(deployment: &Deployment, state: &State, analysis: Option<&CanaryAnalysis>) -> bool {
    !is_watched(state, watches_copies(deployment, state)) && analysis.is_none_or(|analysis| analysis.over)
}

/// Whether something may follow while the candidate gets copies only.
fn watches_copies(deployment: &Deployment, state: &State) -> bool {
    let is_step = state.rollout.is_some_and(|rollout| rollout.copies && rollout.phase == Phase::Running);
    deployment.judges_answers() || is_step
}

/// An operator who lets a rollout go on after a breach wants to see new evidence.
fn resumed_after_breach(analysis: &CanaryAnalysis, guard: Option<&Guard>, state: &State) -> bool {
    // What is only observed stops no rollout, and is said once.
    if guard.is_some_and(|guard| guard.on_breach == OnBreach::Observe) {
        return false;
    }
    let running = state.rollout.filter(|rollout| rollout.phase == Phase::Running);
    analysis.breach.zip(running).is_some_and(|((_, at), rollout)| rollout.since > at)
}

type Change = (Command, Source, String);

fn on_breach(analysis: &CanaryAnalysis, guard: &Guard, state: &State) -> Option<Change> {
    analysis.breach.filter(|_| !analysis.over)?;
    let command = match (guard.on_breach, analysis.stage) {
        // Not a rollback of the state: before its first promotion that could lead to the candidate itself.
        (OnBreach::Rollback, Stage::Shadow | Stage::Canary) if state.split.canary_percent > Percent::ZERO => {
            Some(without_share())
        }
        // Nobody is sent to it: then nobody will be.
        (OnBreach::Rollback, Stage::Shadow | Stage::Canary) => stopped(state),
        (OnBreach::Rollback, Stage::Promoted(_)) => state.rollback_to.map(|_| Command::RollBack(None)),
        (OnBreach::Observe, _) => None,
        (OnBreach::Pause, _) => stopped(state),
    };
    command.map(|command| (command, Source::Guard, sentence(analysis, guard)))
}

fn stopped(state: &State) -> Option<Command> {
    let running = state.rollout.filter(|rollout| rollout.phase == Phase::Running)?;
    Some(Command::Rollout(RolloutCommand::Breach(running)))
}

fn without_share() -> Command {
    Command::Patch(Patch { canary_percent: Some(Percent::ZERO), ..Patch::default() })
}

/// The end of what a promotion left with the former colour, once its time is over.
fn end_of_kept(state: &State, now: Timestamp) -> Option<Change> {
    state.kept.filter(|kept| kept.until <= now)?;
    let (former, promoted, share) = (state.split.candidate(), state.split.active, state.split.canary_percent);
    let reason = format!("{former} kept {share} % after the promotion of {promoted}, and that time is over");
    Some((without_share(), Source::Guard, reason))
}

/// The next move of a rollout whose step is done.
fn next_move(deployment: &Deployment, state: &State, analysis: &CanaryAnalysis, now: Timestamp) -> Option<Change> {
    let plan = deployment.rollout.as_ref()?;
    let is_observed = deployment.guard.is_some_and(|guard| guard.on_breach == OnBreach::Observe);
    let is_stopped = analysis.breach.is_some() && !is_observed;
    let rollout = state.rollout.filter(|rollout| rollout.phase == Phase::Running && !is_stopped)?;
    if let Some(reason) = shown_to_disagree(deployment, state, analysis) {
        return Some((Command::Rollout(RolloutCommand::Breach(rollout)), Source::Rollout, reason));
    }
    if !waits_for(deployment, state, Some(analysis), now)?.is_empty() {
        return None;
    }
    let next = rollout.next(plan);
    let steps = plan.steps.len();
    let mut reason = match next {
        Next::Step(_) => format!("step {} of {steps}", rollout.step.saturating_add(2)),
        Next::Promote | Next::Wait => format!("all {steps} steps done"),
    };
    for Proof { what, e_value, threshold } in proofs(deployment, state, Some(analysis)) {
        reason.push_str(&if e_value >= threshold {
            format!(": {what} (e-value {e_value:.0})")
        } else {
            format!(": hold_at_most is over, without evidence that {what}")
        });
    }
    Some((Command::Rollout(RolloutCommand::Next(rollout, next)), Source::Rollout, reason))
}

/// E-values beyond this are all the same to a reader.
const MOST: f64 = 1e12;

/// What a step wants to be shown.
struct Proof {
    what: String,
    /// How much speaks for it.
    e_value: f64,
    /// How much is enough.
    threshold: f64,
}

/// What the step in force of a running rollout wants to be shown about the candidate.
fn proofs(deployment: &Deployment, state: &State, analysis: Option<&CanaryAnalysis>) -> Vec<Proof> {
    let (Some(rollout), Some(step)) = (state.rollout, awaited(deployment, state)) else { return Vec::new() };
    let (candidate, threshold) = (rollout.candidate, threshold(deployment));
    let no_worse = step.no_worse_than.map(|margin| Proof {
        what: format!("{candidate} is worse by less than {}", points(margin)),
        e_value: analysis
            .filter(|analysis| is_of(rollout, analysis))
            .map_or(1.0, |analysis| analysis.shown_no_worse(margin, state.revision)),
        threshold,
    });
    let agrees = step.max_excess.map(|most| Proof {
        what: format!("{candidate} disagrees beyond the noise by less than {}", points(most)),
        e_value: answers_of(rollout, analysis).agreement_e_value(most).min(MOST),
        threshold,
    });
    no_worse.into_iter().chain(agrees).collect()
}

/// How much evidence is enough.
fn threshold(deployment: &Deployment) -> f64 {
    1.0 / deployment.guard.unwrap_or_default().alpha()
}

/// A share in points.
fn points(share: f64) -> String {
    let points = format!("{:.2}", share * 100.0);
    let points = points.trim_end_matches('0').trim_end_matches('.');
    format!("{points} {}", if points == "1" { "point" } else { "points" })
}

/// What came of comparing answers, as far as it counts in this rollout.
fn answers_of(rollout: Rollout, analysis: Option<&CanaryAnalysis>) -> Excess {
    let about_this = |analysis: &&CanaryAnalysis| {
        analysis.candidate == rollout.candidate && !analysis.over && !matches!(analysis.stage, Stage::Promoted(_))
    };
    analysis.filter(about_this).map(|analysis| analysis.answers.counted()).unwrap_or_default()
}

/// What a step waits for will not come, where the opposite is shown.
pub fn shown_to_disagree(deployment: &Deployment, state: &State, analysis: &CanaryAnalysis) -> Option<String> {
    let rollout = state.rollout.filter(|rollout| rollout.is_live())?;
    let most = deployment.rollout.as_ref()?.steps.get(rollout.step)?.max_excess?;
    let e_value = answers_of(rollout, Some(analysis)).disagreement_e_value(most).min(MOST);
    (e_value >= threshold(deployment)).then(|| {
        let (candidate, step, points) = (rollout.candidate, rollout.step.saturating_add(1), points(most));
        format!(
            "step {step} stops: {candidate} disagrees beyond the noise by more than {points} (e-value {e_value:.0})"
        )
    })
}

/// Whether what was seen is about the canary of this rollout.
fn is_of(rollout: Rollout, analysis: &CanaryAnalysis) -> bool {
    let of_this = analysis.candidate == rollout.candidate && analysis.began >= rollout.began;
    of_this && analysis.stage == Stage::Canary && !analysis.over
}

/// What a running step still waits for; nothing: it is done. `None` when the configuration has no such step any more:
/// the rollout then stays where it is, until the step is back or an operator decides.
pub fn waits_for(
    deployment: &Deployment,
    state: &State,
    analysis: Option<&CanaryAnalysis>,
    now: Timestamp,
) -> Option<Vec<String>> {
    let rollout = state.rollout?;
    let step = deployment.rollout.as_ref()?.steps.get(rollout.step)?;
    let mut waits = Vec::new();
    let until = rollout.since.plus(step.hold);
    if now < until {
        waits.push(format!("until {until}"));
    }
    let answers = analysis
        .filter(|analysis| is_of(rollout, analysis))
        .map_or(0, |analysis| analysis.since_set.get(rollout.candidate).total);
    if answers < step.min_requests {
        waits.push(format!("for {} more answers of {}", step.min_requests.saturating_sub(answers), rollout.candidate));
    }
    let compared = answers_of(rollout, analysis).total();
    if compared < step.compared {
        waits.push(format!("for {} more compared answers", step.compared.saturating_sub(compared)));
    }
    let latest = step.hold_at_most.map(|most| rollout.since.plus(most));
    let proofs = proofs(deployment, state, analysis);
    let missing = proofs.into_iter().filter(|proof| proof.e_value < proof.threshold);
    for Proof { what, e_value, threshold } in missing.filter(|_| latest.is_none_or(|latest| now < latest)) {
        let latest = latest.map_or_else(String::new, |latest| format!(", until {latest} at the latest"));
        waits.push(format!("for evidence that {what} (e-value {e_value:.0} of {threshold:.0}){latest}"));
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
    use crate::json;
    use crate::metrics::cohorts::{Cohorts, Draw, Ending, Host, Kind, SeenKeys};
    use crate::model::colour::{Colour, PerColour};
    use crate::state::rollout::Shares;
    use crate::testing::{identity, percent, split};

    const START: Timestamp = Timestamp::from_millis(1_795_446_000_000);

    /// A deployment under way: each tick's requests are counted, and its changes are made.
    struct World {
        deployments: Deployments,
        state: State,
        analysis: Option<CanaryAnalysis>,
        cohorts: Cohorts,
        answers: Excess,
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
                answers: Excess::default(),
                now: START,
                due: PerColour::default(),
                hosts: 0,
            }
        }

        fn operate(&mut self, command: Command) {
            let alice = Author::new(crate::testing::holder("alice"), Source::Admin, Reason::none());
            let keep = self.deployments.all()[0].keep();
            let after = self.state.after_keeping(keep, &command, alice, self.now).expect("allowed");
            self.state = after.unwrap_or_else(|| self.state.clone());
        }

        fn start(&mut self) {
            let plan = self.deployments.all()[0].rollout.as_ref().expect("configured");
            let first = Shares::of(&plan.steps[0], plan);
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
                play_answers(deployment, &self.state, analysis, self.answers, self.now);
            }
            let at = (0, deployment);
            let request = analysis.as_ref().and_then(|analysis| next_change(at, &self.state, analysis, self.now));
            self.analysis = analysis;
            if let Some(request) = request {
                let after = self.state.after_keeping(deployment.keep(), &request.command, request.author, self.now);
                let after = after.expect("allowed");
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
        assert_eq!((world.state.split, world.phase()), (split("green", "2", "0"), Some(Phase::Promoted)));
        let sources = |world: &World| -> Vec<Source> {
            world.state.history.changes().map(|change| change.author.source).collect()
        };
        assert_eq!(sources(&world), [Source::Rollout, Source::Rollout, Source::Rollout, Source::Admin]);
        world.run(590, 0.01, 0.01);
        assert_eq!(world.state.split, split("green", "2", "0"));
        world.run(20, 0.01, 0.01);
        assert_eq!((world.state.split, world.phase()), (split("green", "0", "0"), Some(Phase::Promoted)));
        assert_eq!(sources(&world)[0], Source::Guard);
        let reason = world.state.author.reason.as_str();
        assert_eq!(reason, "blue kept 2 % after the promotion of green, and that time is over");
        world.run(10, 0.01, 0.01);
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
        let waits = waits_for(deployment, &world.state, world.analysis.as_ref(), world.now).expect("a step");
        assert!(waits.len() == 1 && waits[0].contains("more answers of green"), "{waits:?}");
        // And its warm-up is not among them.
        world.run(112, 0.0, 0.0);
        assert_eq!(world.state.split, split("blue", "10", "0"));
    }

    const BY_EVIDENCE: &str = r#""rollout": {"steps": [
        {"canary_percent": 10, "no_worse_than": 0.01, "hold": "2s", "hold_at_most": "20m"},
        {"canary_percent": 50, "no_worse_than": 0.005, "hold_at_most": "5s"}], "then": "pause"}"#;

    impl World {
        fn waits(&self) -> Vec<String> {
            waits_for(&self.deployments.all()[0], &self.state, self.analysis.as_ref(), self.now).expect("a step")
        }
    }

    #[test]
    fn a_step_that_wants_evidence_says_of_what_and_how_much_there_is_and_waits_no_longer_than_it_may() {
        for (guard, threshold) in [("", "100"), (r#", "guard": {"confidence": 0.95}"#, "20")] {
            let mut world =
                World::new(&BY_EVIDENCE.replace("20m", "30s").replace(r#""pause"}"#, &format!(r#""pause"}}{guard}"#)));
            world.start();
            world.run(5, 0.3, 0.3);
            let waits = world.waits();
            let until = START.plus(Duration::from_secs(30));
            assert_eq!(waits.len(), 2, "{waits:?}");
            assert!(waits[0].ends_with("more answers of green"), "{waits:?}");
            let (what, rest) = waits[1].split_once(" (e-value ").expect("an e-value");
            assert_eq!(what, "for evidence that green is worse by less than 1 point");
            assert!(rest.ends_with(&format!(" of {threshold}), until {until} at the latest")), "{rest}");
            world.run(26, 0.3, 0.3);
            assert_eq!(world.state.split.canary_percent, percent("50"));
            assert_eq!(
                world.state.author.reason.as_str(),
                "step 2 of 2: hold_at_most is over, without evidence that green is worse by less than 1 point"
            );
            assert!(world.waits().iter().any(|wait| wait.contains("less than 0.5 points")), "{:?}", world.waits());
            world.operate(Command::Rollout(RolloutCommand::Pause));
            world.run(10, 0.3, 0.3);
            // Its time begins anew.
            world.operate(Command::Rollout(RolloutCommand::Resume));
            world.run(4, 0.3, 0.3);
            assert_eq!(world.phase(), Some(Phase::Running));
            world.run(2, 0.3, 0.3);
            assert_eq!(world.phase(), Some(Phase::Complete));
        }
    }

    #[test]
    fn a_step_ends_by_evidence_where_the_candidate_is_alike_and_not_where_it_is_worse() {
        let mut alike = World::new(BY_EVIDENCE);
        alike.start();
        alike.run(300, 0.01, 0.01);
        let second = alike.state.history.newest().expect("a change");
        let reason = second.author.reason.as_str();
        assert!(reason.starts_with("step 2 of 2: green is worse by less than 1 point (e-value 1"), "{reason}");
        assert_eq!((second.author.source, second.to.canary_percent), (Source::Rollout, percent("50")));

        let mut worse = World::new(BY_EVIDENCE);
        worse.start();
        worse.run(300, 0.01, 0.04);
        assert_eq!((worse.state.split.canary_percent, worse.waits().len()), (percent("10"), 1), "{:?}", worse.waits());
        // What was shown to one margin says nothing about another one.
        let pushed = BY_EVIDENCE.replace("0.01", "0.2");
        worse.deployments = World::new(&pushed).deployments;
        assert!(worse.waits()[0].contains("less than 20 points (e-value 1 of 100)"), "{:?}", worse.waits());
        worse.run(60, 0.01, 0.04);
        assert_eq!(worse.state.split.canary_percent, percent("50"));
    }

    #[test]
    fn too_few_answers_hold_a_step_up_however_long_it_has_lasted() {
        let mut world = World::new(&BY_EVIDENCE.replace("20m", "2s"));
        world.start();
        world.run(9, 0.0, 0.0);
        assert_eq!((world.waits().len(), world.state.split.canary_percent), (1, percent("10")));
        world.run(3, 0.0, 0.0);
        assert_eq!(world.state.split.canary_percent, percent("50"));
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
        assert!(newest.author.reason.as_str().contains("errors of green where"), "{:?}", newest.author);
        assert_eq!((newest.from, newest.to), (split("green", "2", "0"), split("blue", "0", "0")));
    }

    #[test]
    fn what_fails_for_both_alike_after_a_promotion_blames_neither() {
        let mut world = World::new(PLAN);
        world.start();
        world.run(185, 0.01, 0.01);
        for _ in 0..20 {
            world.run(10, 0.01, 0.01);
            world.run(1, 1.0, 1.0);
        }
        assert_eq!((world.state.split, world.phase()), (split("green", "2", "0"), Some(Phase::Promoted)));
    }

    #[test]
    fn what_is_kept_ends_without_a_guard_too_and_under_another_leader() {
        let mut world = World::new(PLAN);
        world.operate(Command::Promote(None));
        assert_eq!(world.state.split, split("green", "2", "0"));
        world.deployments = World::new(r#""sticky": {"header": "x-user"}"#).deployments;
        world.analysis = None;
        world.now = world.now.plus(Duration::from_secs(601));
        world.tick(PerColour::default());
        assert_eq!((world.state.split, world.state.kept), (split("green", "0", "0"), None));
    }

    #[test]
    fn a_guard_that_only_observes_changes_nothing_and_holds_no_rollout_up() {
        let mut world = World::new(&PLAN.replace(r#""guard": {"#, r#""guard": {"on_breach": "observe", "#));
        world.start();
        let mut breaches = Vec::new();
        for _ in 0..190 {
            world.run(1, 0.01, 0.3);
            breaches.extend(world.analysis.as_ref().and_then(|analysis| analysis.breach));
        }
        assert_eq!((world.state.split, world.phase()), (split("green", "2", "0"), Some(Phase::Promoted)));
        breaches.dedup();
        // One canary, one breach: it is said once.
        assert_eq!(breaches.len(), 1, "{breaches:?}");
        world.run(605, 0.01, 0.3);
        assert_eq!(world.state.split, split("green", "0", "0"));
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

    /// First copies only.
    const COPIES: &str = r#""shadow": {"compare": {"safe": [{"method": "POST", "path_prefix": "/"}]}}, "rollout": {"steps": [
        {"shadow_percent": 20, "compared": 500, "max_excess": 0.02},
        {"canary_percent": 10, "hold": "10s", "min_requests": 5}]}"#;

    #[test]
    fn agreement_is_shown_before_the_first_user_and_no_copy_is_made_after_the_last_step() {
        let mut world = World::new(COPIES);
        world.start();
        assert_eq!(world.state.split, split("blue", "0", "20"));
        world.run(5, 0.0, 0.0);
        let waits = world.waits();
        assert_eq!(waits[0], "for 500 more compared answers");
        assert_eq!(
            waits[1],
            "for evidence that green disagrees beyond the noise by less than 2 points (e-value 1 of 100)"
        );
        world.answers = Excess { zero: 499, ..Excess::default() };
        world.run(5, 0.0, 0.0);
        assert_eq!(world.waits(), ["for 1 more compared answers"]);
        world.answers.zero = 500;
        world.run(1, 0.0, 0.0);
        assert_eq!(world.state.split, split("blue", "10", "0"));
        let reason = world.state.author.reason.as_str();
        assert!(reason.starts_with("step 2 of 2: green disagrees beyond the noise by less than 2 points"), "{reason}");
        world.run(20, 0.0, 0.0);
        assert_eq!((world.state.split, world.phase()), (split("green", "0", "0"), Some(Phase::Promoted)));
    }

    #[test]
    fn a_step_stops_where_disagreement_is_shown_and_an_end_leaves_no_copies() {
        let mut world = World::new(COPIES);
        world.start();
        world.answers = Excess { plus: 60, zero: 440, ..Excess::default() };
        world.run(5, 0.0, 0.0);
        assert_eq!((world.state.split, world.phase()), (split("blue", "0", "20"), Some(Phase::Breached)));
        let analysis = world.analysis.as_ref().expect("one");
        let reason = shown_to_disagree(&world.deployments.all()[0], &world.state, analysis).expect("it is shown");
        assert!(reason.starts_with("step 1 stops: green disagrees beyond the noise by more than 2 points"), "{reason}");
        world.operate(Command::Rollout(RolloutCommand::Abort));
        assert_eq!((world.state.split, world.phase()), (split("blue", "0", "0"), Some(Phase::Aborted)));
    }

    #[test]
    fn the_guard_acts_on_disagreement_with_and_without_users() {
        let rule = r#", "guard": {"disagreement": {"max_excess": 0.02}"#;
        let bad = Excess { plus: 60, zero: 440, ..Excess::default() };
        for (behaviour, phase) in
            [("rollback", Phase::Breached), ("pause", Phase::Breached), ("observe", Phase::Running)]
        {
            let by_time = COPIES.replace(r#""compared": 500, "max_excess": 0.02"#, r#""hold": "1h""#);
            let mut world = World::new(&format!(r#"{by_time}{rule}, "on_breach": "{behaviour}"}}"#));
            world.start();
            world.run(5, 0.0, 0.0);
            assert_eq!(world.phase(), Some(Phase::Running));
            world.answers = bad;
            world.run(5, 0.0, 0.0);
            assert_eq!((world.phase(), world.state.split.shadow_percent), (Some(phase), percent("20")), "{behaviour}");
            let analysis = world.analysis.as_ref().expect("one");
            assert_eq!(
                (analysis.breach.map(|(rule, _)| rule), analysis.stage),
                (Some(Rule::Disagreement), Stage::Shadow)
            );
            let guard = world.deployments.all()[0].guard.expect("configured");
            let why = sentence(analysis, &guard);
            assert!(why.starts_with("green answered 60 of 500 requests otherwise than blue"), "{why}");
            if behaviour == "pause" {
                // Who lets it go on has seen that; what comes from now on counts.
                world.run(1, 0.0, 0.0);
                world.operate(Command::Rollout(RolloutCommand::Resume));
                world.run(5, 0.0, 0.0);
                assert_eq!(world.phase(), Some(Phase::Running));
                world.answers.plus += 60;
                world.run(5, 0.0, 0.0);
                assert_eq!(world.phase(), Some(Phase::Breached));
            }
        }
        // A candidate that has users loses them.
        let mut world = World::new(&format!("{}{rule}}}", COPIES.split(r#", "rollout""#).next().expect("a part")));
        let share =
            Patch { canary_percent: Some(percent("10")), shadow_percent: Some(percent("20")), ..Patch::default() };
        world.operate(Command::Patch(share));
        world.answers = bad;
        world.run(5, 0.0, 0.0);
        assert_eq!((world.state.split, world.state.author.source), (split("blue", "0", "20"), Source::Guard));
        let revision = world.state.revision;
        world.run(5, 0.0, 0.0);
        assert_eq!(world.state.revision, revision, "nothing is asked for again");
    }

    #[test]
    fn a_step_of_copies_may_wait_for_time_only_and_who_sets_their_share_ends_the_rollout() {
        let by_time = COPIES.replace(r#""compared": 500, "max_excess": 0.02"#, r#""hold": "10s""#);
        let mut world = World::new(by_time.split_once(r#"}]}}, "#).expect("two parts").1);
        world.start();
        world.run(9, 0.0, 0.0);
        assert_eq!(world.state.split, split("blue", "0", "20"));
        world.run(2, 0.0, 0.0);
        assert_eq!(world.state.split, split("blue", "10", "0"));
        let mut world = World::new(COPIES);
        world.start();
        world.operate(Command::Patch(Patch { shadow_percent: Some(percent("5")), ..Patch::default() }));
        assert_eq!((world.state.split, world.phase()), (split("blue", "0", "5"), Some(Phase::Aborted)));
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
        assert!(is_idle(&world.deployments.all()[0], &world.state, None));
        world.start();
        world.run(30, 0.01, 0.01);
        let analysis = world.analysis.clone().expect("watched");
        let json = serde_json::to_vec(&analysis).expect("serialises");
        let read: CanaryAnalysis = json::from_slice(&json).expect("parses");
        assert_eq!((read.since_set, &read.bounds), (analysis.since_set, &analysis.bounds));
        assert!((read.error.e_value() - analysis.error.e_value()).abs() < 1e-9);
        assert!(json.len() < 8_000, "{}", json.len());
    }
}
