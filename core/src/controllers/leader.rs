//! What one instance does for all: it samples, probes, and takes rollouts and guards further.

use std::rc::Rc;

use super::rollout::{self, Step};
use super::submissions::Submissions;
use super::workers::{self, Watch};
use crate::change::context::Context;
use crate::change::request::ChangeRequest;
use crate::deployment::{Deployment, DeploymentIndex};
use crate::guard::{analysis, verdict};
use crate::host::next_tick;
use crate::inspection::Inspection;
use crate::metrics::comparison::{self, Sample, period_of};
use crate::model::colour::Colour;
use crate::model::time::Moment;
use crate::readiness::probe;
use crate::routing::worker::WorkerState;
use crate::store::CasToken;
use crate::store::record;
use crate::workers::report;

/// What the leader remembers of a deployment from tick to tick.
#[derive(Clone, Copy, Default)]
struct Memory {
    probe_due: Moment,
    /// The write of the state at which there was nothing to analyse.
    idle_at: Option<CasToken>,
    warned: bool,
}

/// Does what is due at each tick at which this instance holds the lease under this key.
pub async fn lead(context: &Rc<Context>, submissions: &Rc<Submissions>, mut inspection: Inspection, lease: &str) {
    let host = &*context.host;
    let mut memories = vec![Memory::default(); context.deployments.all().len()];
    let mut sampled = None;
    let mut watch = Watch::default();
    loop {
        next_tick(host).await;
        let now = host.now();
        if !context.instance.leads(host.store(), lease, now) {
            continue;
        }
        watch.look(context);
        inspection.look(context);
        let takes_sample = sampled.replace(period_of(now)) != Some(period_of(now));
        for (index, (deployment, memory)) in context.deployments.all().iter().zip(&mut memories).enumerate() {
            if takes_sample {
                sample(context, index, deployment, &mut memory.warned);
            }
            probe_if_due(context, index, deployment, &mut memory.probe_due);
            if let Some(request) = analyse(context, index, deployment, memory) {
                submissions.submit(request);
            }
        }
    }
}

/// Writes down what was counted up to now, for comparisons.
pub fn sample(context: &Context, index: DeploymentIndex, deployment: &Deployment, warned: &mut bool) {
    let (host, now) = (&*context.host, context.host.now());
    let sample = Sample { at: now, counts: report::counts(host.store(), &deployment.name) };
    if let Err(error) = comparison::record(host.store(), &deployment.name, &sample) {
        warn_once(context, deployment, &error.to_string(), warned);
    }
    // Two writers at once may have set the gauges in the other order.
    if let Ok(loaded) = record::load(host.store(), &deployment.name, deployment.initial, now) {
        host.publish_gauges(index, &loaded.state);
        workers::inspect(context, deployment, &loaded.state);
    }
}

/// Probes both colours, each on a flow of its own.
fn probe_if_due(context: &Rc<Context>, index: DeploymentIndex, deployment: &Deployment, due: &mut Moment) {
    let Some(probe) = &deployment.readiness.probe else { return };
    if *due > context.host.moment() {
        return;
    }
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

/// Takes rollout and guard of a deployment further. A breach is logged when it is new.
fn analyse(
    context: &Context,
    index: DeploymentIndex,
    deployment: &Deployment,
    memory: &mut Memory,
) -> Option<ChangeRequest> {
    let (host, now) = (&*context.host, context.host.now());
    if deployment.guard.is_none() && deployment.rollout.is_none() {
        return None;
    }
    let write = context.worker.state(index).and_then(WorkerState::known_write);
    if write.is_some() && memory.idle_at == write {
        return None;
    }
    // While the store is out of reach nothing is concluded: the counters go on, and so does the next tick.
    let loaded = record::load(host.store(), &deployment.name, deployment.initial, now).ok()?;
    let before = analysis::read(host.store(), &deployment.name);
    let was_breached = before.as_ref().is_some_and(|analysis| analysis.breach.is_some());
    let counts = report::counts(host.store(), &deployment.name);
    let step: Step = rollout::step((index, deployment), &loaded.state, before, &counts, now);
    if let Some(analysis) = &step.analysis {
        if analysis::record(host.store(), &deployment.name, analysis).is_err() {
            warn_once(context, deployment, "the guard's evidence cannot be kept", &mut memory.warned);
        }
        if let (Some((rule, _)), false, Some(guard)) = (analysis.breach, was_breached, &deployment.guard) {
            let (name, rule, what) = (&deployment.name, rule.as_str(), verdict::sentence(analysis, guard));
            host.warn(&format!("bluegreen: deployment={name} guard rule={rule} broken: {what}"));
        }
    }
    memory.idle_at = Some(loaded.token).filter(|_| rollout::is_idle(&loaded.state, &step));
    step.request
}

fn warn_once(context: &Context, deployment: &Deployment, cause: &str, warned: &mut bool) {
    if !std::mem::replace(warned, true) {
        let name = &deployment.name;
        context.host.warn(&format!("bluegreen: deployment={name}: {cause}: going on with the last good state"));
    }
}
