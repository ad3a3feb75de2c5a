//! What one instance does for all: it samples, probes, and takes rollouts and guards further.

use std::rc::Rc;
use std::time::Duration;

use super::judge::{self, Seat};
use super::rollout;
use super::submissions::Submissions;
use super::workers::{self, Watch};
use crate::change::context::Context;
use crate::change::error::ChangeError;
use crate::change::request::ChangeRequest;
use crate::change::submit::{submit, submit_now};
use crate::deployment::{Deployment, DeploymentIndex};
use crate::fleet::liveness;
use crate::guard::analysis::CanaryAnalysis;
use crate::guard::{analysis, verdict};
use crate::host::next_tick;
use crate::inspection::Inspection;
use crate::metrics::comparison::{self, SAMPLE_PERIOD, Sample, period_of};
use crate::metrics::counters::DeploymentMetric;
use crate::metrics::named::Named;
use crate::model::author::Author;
use crate::model::colour::Colour;
use crate::model::percent::Percent;
use crate::model::time::{ClockStep, Moment, Timestamp, millis};
use crate::notification::{self, Event};
use crate::readiness::probe;
use crate::routing::worker::WorkerState;
use crate::state::{Command, Restamp};
use crate::store::record::{self, Applied};
use crate::store::{CasToken, StoreError};
use crate::workers::roster::Roster;
use crate::workers::{build_info, comparer, publish, recorder, report};

/// What the leader remembers of a deployment from tick to tick.
#[derive(Clone, Default)]
struct Memory {
    probe_due: Moment,
    /// The period of the last sample.
    sampled: Option<u64>,
    /// The write of the state at which there was nothing to analyse.
    idle_at: Option<CasToken>,
    /// Its place among the Envoys of a fleet that judge a canary together.
    seat: Option<Rc<Seat>>,
    warned: bool,
}

/// What one tick may still do, and where the next one goes on. What a tick does holds up the requests of its thread, so of
/// thousands of deployments some are looked after at each tick, in turns.
#[derive(Debug, Default)]
struct Turns {
    next: DeploymentIndex,
    /// From when on a point that lies ahead is none that is about to be set along.
    mends_from: Moment,
    probes_left: usize,
    samples_left: usize,
}

/// So many deployments are probed at one tick, and so many samples taken. Those on which a decision may depend at any moment
/// are always probed when they are due.
const PROBES_PER_TICK: usize = 5;
const SAMPLES_PER_TICK: usize = 32;

/// Within this time each instance notices by itself that the clock was set.
const SEEN_BY_ALL: Duration = Duration::from_secs(10);

/// Each thread believes at a tick of its own that the clock was set. Within this time all do.
const BELIEVED_BY_ALL: Duration = Duration::from_secs(2);

/// Does what is due at each tick at which this instance holds the lease under this key, and what is due when the clock was
/// set, which the first one does that notices it and comes to the key `clock`.
pub async fn lead(
    context: &Rc<Context>,
    submissions: &Rc<Submissions>,
    mut inspection: Inspection,
    (lease, clock): (&str, &str),
) {
    let host = &*context.host;
    let mut memories = vec![Memory::default(); context.deployments.all().len()];
    let mut turns = Turns::default();
    let mut watch = Watch::default();
    let (mut clocks, mut said) = (None, Moment::BEGIN);
    loop {
        next_tick(host).await;
        // Leader or not: when the clock is set, leases that were taken by the old time end, and so who leads may change.
        let now = (host.now(), host.moment());
        if let Some(step) = clocks.replace(now).and_then(|then| ClockStep::between(then, now)) {
            turns.mends_from = host.moment().plus(SEEN_BY_ALL);
            if context.instance.is_first(host.store(), clock, SEEN_BY_ALL, host.now()) {
                on_clock_set(context, step);
            }
        }
        if !context.instance.leads(host.store(), lease, host.now()) {
            continue;
        }
        if said <= host.moment() {
            said = host.moment().plus(build_info::SAID_EVERY);
            build_info::show(host, context.instance.configuration());
        }
        watch.look(context);
        inspection.look(context);
        look_after_all(context, submissions, &mut memories, &mut turns);
    }
}

fn look_after_all(context: &Rc<Context>, submissions: &Rc<Submissions>, memories: &mut [Memory], turns: &mut Turns) {
    let (host, count) = (&*context.host, memories.len());
    let (now, moment, mut roster) = (host.now(), host.moment(), None);
    let first = turns.next;
    (turns.probes_left, turns.samples_left) = (PROBES_PER_TICK, SAMPLES_PER_TICK);
    for index in (first..count).chain(0..first) {
        let (Some(deployment), Some(memory)) = (context.deployments.get(index), memories.get_mut(index)) else {
            continue;
        };
        let was_full = turns.is_over();
        if is_sample_due(deployment, memory.sampled, now) && take_one(&mut turns.samples_left) {
            memory.sampled = Some(period_of(now));
            let roster = roster.get_or_insert_with(|| Roster::read(host.store()));
            let is_ahead = sample(context, index, deployment, roster, &mut memory.warned);
            if is_ahead && turns.mends_from <= moment {
                restamp(context, index, deployment, Restamp::NotAhead);
            }
        }
        let is_due = deployment.probe.is_some() && memory.probe_due <= moment;
        if is_due && (is_decided_on(context, index, deployment) || take_one(&mut turns.probes_left)) {
            probe_both(context, index, deployment, &mut memory.probe_due);
        }
        if !was_full && turns.is_over() {
            turns.next = index.saturating_add(1);
        }
        if let Some(request) = analyse(context, submissions, (index, deployment), memory) {
            submissions.submit(request);
        }
    }
}

/// Whether it is time for a sample: once in each period, at a time in it that the deployment's name gives.
fn is_sample_due(deployment: &Deployment, last: Option<u64>, now: Timestamp) -> bool {
    let Some(last) = last else { return true };
    let place = xxhash_rust::xxh64::xxh64(deployment.name.as_str().as_bytes(), 0).checked_rem(millis(SAMPLE_PERIOD));
    let since = Duration::from_millis(place.unwrap_or_default());
    period_of(now.minus(since)) != last && period_of(now) != last
}

/// Whether the health of a deployment's colours may decide something at any moment: its canary, or its way back.
fn is_decided_on(context: &Context, index: DeploymentIndex, deployment: &Deployment) -> bool {
    let Some(state) = context.worker.state(index) else { return false };
    let has_canary = state.known_split().is_some_and(|split| split.canary_percent > Percent::ZERO);
    let bake = deployment.bake.zip(state.left_at());
    has_canary || bake.is_some_and(|(bake, left_at)| left_at.plus(bake.r#for) > context.host.now())
}

fn take_one(left: &mut usize) -> bool {
    let is_left = *left > 0;
    *left = left.saturating_sub(1);
    is_left
}

/// The wall clock was set, by more than clocks are that are kept right. What is measured is measured on: the points from which it
/// is are set along. Those of a fleet come from many clocks, of which this is one.
fn on_clock_set(context: &Rc<Context>, step: ClockStep) {
    let set_along = move |context: &Rc<Context>| {
        for (index, deployment) in context.deployments.all().iter().enumerate() {
            restamp(context, index, deployment, Restamp::Along(step));
        }
        let rest = "timers continue as if it had not been set";
        context.host.warn(&format!("bluegreen: the clock was set {step}: {rest}"));
    };
    if context.fleet.is_some() {
        return;
    }
    if !step.is_back() {
        return set_along(context);
    }
    // To a thread that goes by the other time still, a bake window must not look over: a point that is set back waits until
    // all have come to the new time.
    let cx = Rc::clone(context);
    context.host.spawn(Box::pin(async move {
        cx.host.sleep(BELIEVED_BY_ALL).await;
        set_along(&cx);
    }));
}

/// Moves the points that spans are measured from.
fn restamp(context: &Rc<Context>, index: DeploymentIndex, deployment: &Deployment, how: Restamp) {
    let host = &*context.host;
    let request = ChangeRequest::new(index, Command::Restamp(how), Author::config(), None).enforce(false);
    if context.fleet.is_some() {
        let cx = Rc::clone(context);
        // Without the fleet's store there is a next look. The analysis is the judge's.
        host.spawn(Box::pin(async move {
            let _: Result<Applied, ChangeError> = submit(&cx, &request).await;
        }));
        return;
    }
    let _: Result<Option<Applied>, ChangeError> = submit_now(context, &request);
    let Some(known) = analysis::read(host.store(), &deployment.name) else { return };
    let moved = known.restamped(how, host.now());
    if moved != known {
        let _: Result<(), StoreError> = analysis::record(host.store(), &deployment.name, &moved);
    }
}

/// Writes down what was counted up to now, for comparisons. Whether the state was noted by a clock that was set back since.
pub fn sample(
    context: &Context,
    index: DeploymentIndex,
    deployment: &Deployment,
    roster: &Roster,
    warned: &mut bool,
) -> bool {
    let (host, now) = (&*context.host, context.host.now());
    let totals = report::totals_of(host.store(), roster, &deployment.name);
    let sample = Sample { at: now, counts: report::sums(&totals) };
    if let Err(error) = comparison::record(host.store(), &deployment.name, &sample) {
        warn_once(context, deployment, &error.to_string(), warned);
    }
    // Two writers at once may have set the gauges in the other order.
    let Ok(loaded) = record::load(host.store(), &deployment.name, deployment.initial, now) else { return false };
    publish::show(host, index, deployment, &loaded.state);
    probe::show(host, deployment, &loaded.state);
    let gauge = |metric: DeploymentMetric, value| host.set_gauge(&metric.name(&deployment.name), value);
    gauge(DeploymentMetric::Sampled, now.as_millis() / 1_000);
    if let Some(fleet) = &context.fleet {
        gauge(DeploymentMetric::Stale, u64::from(liveness::is_lost(host.store(), &**fleet, now)));
    }
    workers::inspect(context, deployment, &loaded.state, roster, report::routed_of(&totals));
    loaded.state.restamped(Restamp::NotAhead, now) != loaded.state
}

/// Probes both colours, each on a flow of its own.
fn probe_both(context: &Rc<Context>, index: DeploymentIndex, deployment: &Deployment, due: &mut Moment) {
    let Some(probe) = &deployment.probe else { return };
    *due = context.host.moment().plus(probe.interval);
    let Ok(loaded) = record::load(context.host.store(), &deployment.name, deployment.initial, context.host.now())
    else {
        return;
    };
    for colour in Colour::ALL {
        let identity = deployment.identity(&loaded.state, colour).clone();
        let context = Rc::clone(context);
        let host = Rc::clone(&context.host);
        host.spawn(Box::pin(async move {
            if let Some(deployment) = context.deployments.get(index) {
                probe::observe(&*context.host, deployment, colour, &identity).await;
            }
        }));
    }
}

/// Takes rollout and guard of a deployment further. A breach is logged when it is new. In a fleet one Envoy does that for all,
/// and this one may not be the one.
fn analyse(
    context: &Rc<Context>,
    submissions: &Rc<Submissions>,
    (index, deployment): (DeploymentIndex, &Deployment),
    memory: &mut Memory,
) -> Option<ChangeRequest> {
    let (host, now) = (&*context.host, context.host.now());
    // A share that is kept ends in any case.
    let is_kept = context.worker.state(index).is_some_and(WorkerState::is_kept);
    if !deployment.compares() && !is_kept {
        return None;
    }
    let write = context.worker.state(index).and_then(WorkerState::known_write);
    if write.is_some() && memory.idle_at == write {
        return None;
    }
    // While the store is out of reach nothing is concluded: the counters go on, and so does the next tick.
    let loaded = record::load(host.store(), &deployment.name, deployment.initial, now).ok()?;
    if context.fleet.is_some() {
        let seat = memory.seat.get_or_insert_with(Rc::default);
        if judge::attend(context, submissions, (index, deployment), &loaded.state, seat) {
            (memory.seat, memory.idle_at) = (None, Some(loaded.token));
        }
        return None;
    }
    let before = analysis::read(host.store(), &deployment.name);
    let was_breached = before.as_ref().is_some_and(|analysis| analysis.breach.is_some());
    let was_hopeless = before.as_ref().is_some_and(CanaryAnalysis::is_hopeless);
    let state = &loaded.state;
    let mut analysis = rollout::analysed(deployment, state, before, now);
    if let Some(analysis) = analysis.as_mut().filter(|analysis| !analysis.over) {
        let cohorts = recorder::gathered(host.store(), &Roster::read(host.store()), &deployment.name, now);
        let evidence = analysis.collect(&cohorts, &deployment.guard.unwrap_or_default(), now);
        rollout::play(deployment, state, analysis, &evidence, now);
        if let Some((_, notes)) = comparer::found(host.store(), deployment, state) {
            rollout::play_answers(deployment, state, analysis, notes.compared.excess, now);
        }
    }
    if let Some(analysis) = &analysis {
        rollout::show(host, deployment, analysis);
        rollout::tell_of_stop(host, deployment, state, was_hopeless, analysis);
        if analysis::record(host.store(), &deployment.name, analysis).is_err() {
            warn_once(context, deployment, "the guard's evidence cannot be stored", &mut memory.warned);
        }
        if let (Some((rule, _)), false, Some(guard)) = (analysis.breach, was_breached, &deployment.guard) {
            let (name, rule, what) = (&deployment.name, rule.as_str(), verdict::sentence(analysis, guard));
            let would = verdict::would(analysis, guard);
            let would = would.map_or_else(String::new, |would| format!(" (on_breach: rollback would {would})"));
            let what = format!("{what}{would}");
            host.warn(&format!("bluegreen: deployment={name} guard rule={rule} broken: {what}"));
            host.count(&Named::GuardBreaches(name, rule).to_string());
            let (colour, revision) = (analysis.candidate, state.revision);
            notification::tell(host, deployment, &Event::Breach { rule, colour, revision, what: &what });
        }
    }
    let request =
        analysis.as_ref().and_then(|analysis| rollout::next_change((index, deployment), state, analysis, now));
    let is_idle = request.is_none() && rollout::is_idle(deployment, state, analysis.as_ref());
    memory.idle_at = Some(loaded.token).filter(|_| is_idle);
    request
}

// === impl Turns ===

impl Turns {
    const fn is_over(&self) -> bool {
        self.probes_left == 0 || self.samples_left == 0
    }
}

fn warn_once(context: &Context, deployment: &Deployment, cause: &str, warned: &mut bool) {
    if !std::mem::replace(warned, true) {
        let name = &deployment.name;
        context.host.warn(&format!("bluegreen: deployment={name}: {cause}: the last good state stays in force"));
    }
}
