//! One canary from its first request to its end, judged by the code that runs in the filter.

use anyhow::{Context, Result, anyhow};
use bluegreen_core::controllers::rollout;
use bluegreen_core::deployment::{Deployment, Deployments};
use bluegreen_core::guard::analysis::CanaryAnalysis;
use bluegreen_core::model::author::{Author, Source};
use bluegreen_core::model::colour::{Colour, PerColour};
use bluegreen_core::model::name::Reason;
use bluegreen_core::model::percent::Percent;
use bluegreen_core::model::split::Split;
use bluegreen_core::model::time::Timestamp;
use bluegreen_core::state::kept::Keep;
use bluegreen_core::state::rollout::{Phase, RolloutCommand, Shares};
use bluegreen_core::state::{Command, Patch, State};
use serde::Serialize;
use serde_json::Value;

use super::scenario::Scenario;
use super::world::{Cast, START, TICK, World};

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// The guard's verdict against the candidate.
    pub breach: Option<Breach>,
    /// When the candidate became active, in seconds.
    pub promoted: Option<f64>,
    /// The candidate's requests by then.
    pub until_promoted: u64,
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Breach {
    pub rule: &'static str,
    /// Seconds since the fault began; negative before it.
    pub seconds: f64,
    /// The candidate's requests that began since then.
    pub begun: u64,
    /// Those of the candidate's requests that the test of errors has played by then.
    pub judged: u64,
}

/// One run under way.
struct Run<'s> {
    scenario: &'s Scenario,
    world: World<'s>,
    deployments: Deployments,
    guard: Value,
    state: State,
    versions: PerColour<usize>,
    /// Of each Envoy, where each has its own.
    leaders: Vec<Option<CanaryAnalysis>>,
    next_step: usize,
    next_push: usize,
    outcome: Outcome,
    /// What the candidate had had when the fault began.
    before: Option<(u64, u64)>,
}

/// Plays one run of a scenario.
pub fn play(scenario: &Scenario, cast: &Cast, run: u64) -> Result<Outcome> {
    let mut run = Run::new(scenario, World::new(scenario, cast, run))?;
    let ticks = (scenario.duration.0 / TICK) as usize;
    for _ in 0..ticks {
        run.act()?;
        run.world.pass(run.state.split, run.state.revision, run.versions);
        run.judge();
        if run.is_over() {
            break;
        }
    }
    Ok(run.outcome)
}

// === impl Run ===

impl<'s> Run<'s> {
    fn new(scenario: &'s Scenario, mut world: World<'s>) -> Result<Self> {
        let deployments = scenario.deployments(&scenario.guard, 2)?;
        let share = scenario.canary.unwrap_or(Percent::ZERO);
        let deployment = only(&deployments);
        world.configure(deployment);
        let initial = Split { canary_percent: share, ..Split::default() };
        let mut state = State::initial(initial, START).knowing(&deployment.colours);
        if let Some(plan) = &deployment.rollout {
            let first = Shares::of(plan.steps.first().context("a step")?, plan);
            state = changed(&state, &Command::Rollout(RolloutCommand::Start(first)), START)?;
        }
        let leaders = world.books.iter().map(|_| None).collect();
        Ok(Self {
            scenario,
            world,
            guard: scenario.guard.clone(),
            state,
            versions: PerColour { blue: 1, green: 2 },
            leaders,
            next_step: 0,
            next_push: 0,
            outcome: Outcome::default(),
            before: None,
            deployments,
        })
    }

    /// What people do.
    fn act(&mut self) -> Result<()> {
        let (at, now) = (self.world.seconds(), self.world.now());
        while let Some(step) = self.scenario.steps.get(self.next_step).filter(|step| step.at.0 <= at) {
            self.next_step += 1;
            let patch = Patch { canary_percent: Some(step.percent), ..Patch::default() };
            self.state = changed(&self.state, &Command::Patch(patch), now)?;
        }
        let promotes = self.scenario.promote_at.is_some_and(|promote| promote.0 <= at);
        if promotes && self.state.split.active == Colour::Blue && self.outcome.promoted.is_none() {
            let keep = only(&self.deployments).keep();
            self.state = changed_keeping(keep, &self.state, &Command::Promote(None), now)?;
        }
        while let Some(push) = self.scenario.pushes.get(self.next_push).filter(|push| push.at.0 <= at) {
            self.next_push += 1;
            if let Some(guard) = &push.guard {
                self.guard = guard.clone();
            }
            if push.green.is_some() {
                self.versions.green += 1;
            }
            self.deployments = self.scenario.deployments(&self.guard, self.versions.green)?;
            self.world.configure(only(&self.deployments));
            if let Some(green) = &push.green {
                self.world.replace_green(green.clone());
                let identity = only(&self.deployments).colours.green.clone();
                self.state = changed(&self.state, &Command::AdoptVersion(Colour::Green, identity), now)?;
            }
        }
        if self.before.is_none() && at >= self.scenario.begins.0 {
            self.before = Some((self.world.begun.green, self.judged()));
        }
        Ok(())
    }

    /// What the leader does at its tick.
    fn judge(&mut self) {
        let now = self.world.now();
        let deployment = only(&self.deployments);
        let guard = deployment.guard.unwrap_or_default();
        for (book, leader) in self.world.books.iter().zip(&mut self.leaders) {
            *leader = rollout::analysed(deployment, &self.state, leader.take(), now);
            let Some(analysis) = leader else { continue };
            let evidence = analysis.collect(book, &guard, now);
            rollout::play(deployment, &self.state, analysis, &evidence, now);
            let Some(request) = rollout::next_change((0, deployment), &self.state, analysis, now) else { continue };
            let after = self.state.after_keeping(deployment.keep(), &request.command, request.author, now);
            if let Ok(Some(after)) = after {
                self.state = after;
            }
        }
        if self.outcome.promoted.is_none() && self.state.split.active == Colour::Green {
            self.outcome.promoted = Some(self.world.seconds());
            self.outcome.until_promoted = self.world.begun.green;
        }
        let breach = self.leaders.iter().flatten().find_map(|analysis| analysis.breach);
        if let Some((rule, _)) = breach {
            let (begun, judged) = self.before.unwrap_or_default();
            self.outcome.breach = Some(Breach {
                rule: rule.as_str(),
                seconds: self.world.seconds() - self.scenario.begins.0,
                begun: self.world.begun.green - begun,
                judged: self.judged().saturating_sub(judged),
            });
        }
    }

    /// Whether nothing can come out any more.
    fn is_over(&self) -> bool {
        let is_replaced = self.state.rollout.is_some_and(|rollout| rollout.phase == Phase::Replaced);
        let is_more_to_come = self.next_step < self.scenario.steps.len() || self.next_push < self.scenario.pushes.len();
        let is_watched = self.leaders.iter().flatten().any(|analysis| !analysis.over);
        self.outcome.breach.is_some()
            || ((self.outcome.promoted.is_some() || is_replaced) && !is_watched && !is_more_to_come)
    }

    /// The candidate's requests that the tests have seen.
    fn judged(&self) -> u64 {
        self.leaders.iter().flatten().map(|analysis| analysis.since_began.green.total).sum()
    }
}

fn only(deployments: &Deployments) -> &Deployment {
    &deployments.all()[0]
}

/// The state after what somebody does by hand.
fn changed(state: &State, command: &Command, now: Timestamp) -> Result<State> {
    changed_keeping(None, state, command, now)
}

/// The same, where a promotion leaves a share with the former colour.
fn changed_keeping(keep: Option<Keep>, state: &State, command: &Command, now: Timestamp) -> Result<State> {
    let author = Author::automatic(Source::Admin, Reason::none());
    let after = state.after_keeping(keep, command, author, now);
    let after = after.map_err(|refusal| anyhow!("{command:?} is refused: {refusal:?}"))?;
    Ok(after.unwrap_or_else(|| state.clone()))
}
