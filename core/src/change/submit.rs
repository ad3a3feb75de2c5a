//! Deciding a change and bringing it about.

use std::time::Duration;

use super::context::Context;
use super::error::{ChangeError, Rejection};
use super::request::{ChangeRequest, Checks};
use crate::deployment::{Deployment, DeploymentIndex};
use crate::fleet::deadline::WRITE_WITHIN;
use crate::fleet::store::{FleetStore, clear_refusal, note_refusal};
use crate::fleet::transaction::{Committed, Current, NotCommitted, TxnError, commit};
use crate::host::Host;
use crate::model::author::Author;
use crate::model::colour::{Colour, PerColour};
use crate::model::identity::Identity;
use crate::model::percent::Percent;
use crate::model::split::Split;
use crate::model::time::Timestamp;
use crate::notification::{self, Event};
use crate::readiness::arrival;
use crate::readiness::gate::{self, NotReady};
use crate::readiness::probe;
use crate::setup::{self, SetupProblem};
use crate::state::{Command, State};
use crate::store::Store;
use crate::store::record::{self, Applied, Effect, Loaded, Origin, UpdateError};

/// What stands against a change at this moment.
enum Obstacle {
    /// A rule.
    Rejected(Rejection),
    /// This, behind a colour, has to answer a probe first.
    ProbeRequired(Colour, Identity),
}

/// An attempt that was not carried out.
enum NotApplied {
    /// This, behind a colour, has to answer a probe first.
    ProbeRequired(Colour, Identity),
    Failed(ChangeError),
}

/// How many probes a change is worth. Others may switch between a probe and the change, or put something else behind the
/// colour, so that another one has to be asked as well; not again and again.
const MOST_PROBES: usize = 4;

/// Brings a change about in the store of record and makes it known to this Envoy's workers.
///
/// What has to answer a probe is asked.
///
/// # Errors
/// The rule that stands against it, or the store that cannot be reached.
pub async fn submit(context: &Context, request: &ChangeRequest) -> Result<Applied, ChangeError> {
    let deployment = context.deployments.get(request.deployment).ok_or(ChangeError::StoreUnavailable)?;
    let host = &*context.host;
    let mut healthy = request.healthy.clone();
    // Probes come on top of the time that the fleet's store has.
    let mut time_left = WRITE_WITHIN;
    for _ in 0..MOST_PROBES {
        let attempt = match &context.fleet {
            Some(fleet) => apply_in_fleet(&**fleet, context, deployment, request, &healthy, &mut time_left).await,
            None => apply_here(context, deployment, request, &healthy),
        };
        let (colour, identity) = match attempt {
            Ok(applied) => return Ok(applied),
            Err(NotApplied::Failed(error)) => return Err(error),
            Err(NotApplied::ProbeRequired(colour, identity)) => (colour, identity),
        };
        let result = match request.command {
            // What is known of the colour is about what is still behind it.
            Command::AdoptVersion(..) => probe::ask(host, deployment, &identity).await,
            _ => probe::observe(host, deployment, colour, &identity).await,
        };
        let result = result.ok_or(ChangeError::StoreUnavailable)?;
        if !result.healthy {
            let loaded = record::load(host.store(), &deployment.name, deployment.initial, host.now());
            let state = loaded.map_err(|_| ChangeError::StoreUnavailable)?.state;
            let rejection = Rejection::Unhealthy { colour, identity: Box::new(identity), detail: result.detail };
            return Err(ChangeError::Rejected(rejection, Box::new(state)));
        }
        *healthy.get_mut(colour) = Some(identity);
    }
    Err(ChangeError::StoreUnavailable)
}

/// Brings a change about at once, on an Envoy that stands alone. `Ok(None)`: a colour has to be asked first, or the fleet's
/// store: only [`submit`] can do that.
///
/// # Errors
/// As [`submit`].
pub fn submit_now(context: &Context, request: &ChangeRequest) -> Result<Option<Applied>, ChangeError> {
    let deployment = context.deployments.get(request.deployment).ok_or(ChangeError::StoreUnavailable)?;
    if context.fleet.is_some() {
        return Ok(None);
    }
    match apply_here(context, deployment, request, &request.healthy) {
        Ok(applied) => Ok(Some(applied)),
        Err(NotApplied::ProbeRequired(..)) => Ok(None),
        Err(NotApplied::Failed(error)) => Err(error),
    }
}

/// On an Envoy that stands alone: in the record that its workers share.
fn apply_here(
    context: &Context,
    deployment: &Deployment,
    request: &ChangeRequest,
    healthy: &PerColour<Option<Identity>>,
) -> Result<Applied, NotApplied> {
    let (store, now) = (context.host.store(), context.host.now());
    let updated = record::update_state(store, &deployment.name, deployment.initial, now, &mut |loaded| {
        decide_loaded(request, loaded, deployment, healthy, store, now)
    });
    match updated {
        Ok(applied) => {
            context.publish(request.deployment, deployment, &applied);
            if applied.effect == Effect::Rerouted {
                notification::tell(&*context.host, deployment, &Event::Change(&applied.state));
            }
            if applied.effect == Effect::Rerouted || matches!(request.command, Command::AdoptInitial(_)) {
                note_durability(&*context.host, deployment, &applied);
            }
            Ok(applied)
        }
        Err(UpdateError::Rejected(obstacle, state)) => Err(obstacle.on(*state)),
        Err(UpdateError::Unavailable) => Err(ChangeError::StoreUnavailable.into()),
    }
}

/// Says that nothing but this Envoy's memory holds a state which differs from the one that a start begins with.
fn note_durability(host: &dyn Host, deployment: &Deployment, applied: &Applied) {
    let lasting = applied.state.lasting_split();
    let Split { active, canary_percent, shadow_percent } = lasting;
    if lasting == deployment.initial {
        // A first configuration has nothing to take back.
        if applied.effect != Effect::None {
            setup::clear(host, deployment, SetupProblem::NotDurable);
        }
        return;
    }
    let mut initial = format!("active: {active}");
    for (name, share) in [("canary_percent", canary_percent), ("shadow_percent", shadow_percent)] {
        if share > Percent::ZERO {
            initial.push_str(&format!(", {name}: {share}"));
        }
    }
    let name = &deployment.name;
    let detail = format!(
        "the state is kept in this Envoy's memory only, and a restart begins with the configured initial, active: {}. \
         Configure etcd or kubernetes, or put this under deployments.{name}: initial: {{{initial}}}",
        deployment.initial.active
    );
    setup::note(host, deployment, SetupProblem::NotDurable, detail);
}

/// In a fleet: in its store, and then in the record that this Envoy's workers share.
async fn apply_in_fleet(
    fleet: &dyn FleetStore,
    context: &Context,
    deployment: &Deployment,
    request: &ChangeRequest,
    healthy: &PerColour<Option<Identity>>,
    time_left: &mut Duration,
) -> Result<Applied, NotApplied> {
    let (host, store) = (&*context.host, context.host.store());
    let known = record::load(store, &deployment.name, deployment.initial, host.now())
        .map_err(|_| ChangeError::StoreUnavailable)?;
    // Of the attempt that was made in the end.
    let mut from = None;
    let committed = commit(fleet, host, &deployment.name, known, time_left, &mut |before| {
        from = Some(before.revision);
        decide(request, before, deployment, healthy, store, host.now())
    })
    .await;
    match committed {
        Ok(Committed::Made(state, current)) => {
            clear_refusal(fleet, host, deployment);
            // Who made a change tells of it: the others of the fleet hear of it too.
            if from != Some(state.revision) {
                notification::tell(host, deployment, &Event::Change(&state));
            }
            take_over(context, request.deployment, deployment, &current)
                .map_err(|_| ChangeError::OutcomeUnknown { called: fleet.called() })?;
            Ok(Applied { state: *state, effect: Effect::Rerouted })
        }
        Ok(Committed::Unchanged(current)) => {
            take_over(context, request.deployment, deployment, &current)?;
            Ok(Applied { state: current.state, effect: Effect::None })
        }
        Err(TxnError::Rejected(Obstacle::ProbeRequired(colour, identity), _)) => {
            Err(NotApplied::ProbeRequired(colour, identity))
        }
        Err(TxnError::Rejected(obstacle, current)) => {
            take_over(context, request.deployment, deployment, &current)?;
            Err(obstacle.on(current.state))
        }
        Err(TxnError::Aborted(why)) => {
            if let NotCommitted::Refused(why) = &why {
                note_refusal(fleet, host, deployment, why);
            }
            Err(ChangeError::FleetUnavailable { called: fleet.called(), why }.into())
        }
        Err(TxnError::Indeterminate) => Err(ChangeError::OutcomeUnknown { called: fleet.called() }.into()),
    }
}

/// Takes the fleet's state over before anyone is told what became of the change.
fn take_over(
    context: &Context,
    index: DeploymentIndex,
    deployment: &Deployment,
    current: &Current,
) -> Result<(), ChangeError> {
    let Some(mod_revision) = current.mod_revision else { return Ok(()) };
    let replaced =
        record::replace(context.host.store(), &deployment.name, &current.state, mod_revision, current.policy);
    let applied = replaced.map_err(|_| ChangeError::StoreUnavailable)?;
    // Another instance may have taken it over a moment ago and not have told the workers yet.
    let effect = if applied.effect == Effect::None { Effect::Recorded } else { applied.effect };
    context.publish(index, deployment, &Applied { effect, ..applied });
    Ok(())
}

/// The state after the change of a record, or `None` if nothing has to be written.
fn decide_loaded(
    request: &ChangeRequest,
    loaded: &Loaded,
    deployment: &Deployment,
    healthy: &PerColour<Option<Identity>>,
    store: &dyn Store,
    now: Timestamp,
) -> Result<Option<State>, Obstacle> {
    // A deployment's first configuration is its state, and no change of one.
    let is_new = matches!(loaded.origin, Origin::Absent | Origin::Corrupt);
    if is_new && request.command == Command::AdoptInitial(loaded.state.initial) {
        return Ok(Some(loaded.state.knowing(&deployment.colours)));
    }
    decide(request, &loaded.state, deployment, healthy, store, now)
}

/// The state after the change, or `None` if it is this one already.
fn decide(
    request: &ChangeRequest,
    before: &State,
    deployment: &Deployment,
    healthy: &PerColour<Option<Identity>>,
    store: &dyn Store,
    now: Timestamp,
) -> Result<Option<State>, Obstacle> {
    // In a fleet every Envoy gets the configuration, and one of them was the first.
    if request.command == Command::AdoptInitial(before.initial) {
        return Ok(None);
    }
    if !request.precondition.allows(before.revision) {
        return Err(Obstacle::Rejected(Rejection::Superseded));
    }
    let before = &before.knowing(&deployment.colours);
    // A promotion may be the way out of a colour that is down.
    let is_down = |colour| probe::health(store, deployment, before).get(colour).as_ref().is_some_and(|of| !of.healthy);
    let keep = deployment.keep().filter(|_| !is_down(before.split.active));
    let after = |forced: bool| {
        let author = Author { forced, ..request.author.clone() };
        before
            .after_keeping(keep, &request.command, author, now)
            .map_err(|refusal| Obstacle::Rejected(Rejection::Refused(refusal)))
    };
    let Some(unforced) = after(false)? else { return Ok(None) };
    if request.checks == Checks::Enforce {
        ensure_routed(&request.command, before, &unforced, deployment, store)?;
    }
    let ready = match request.command {
        // What has happened already cannot be held back, and who starts with the only colour that answers has asked it.
        Command::FollowVersion(..) | Command::StartOn(_) => Ok(()),
        _ => gate::check(before, &unforced, deployment, healthy, now),
    };
    let identity = |colour| deployment.identity(&unforced, colour).clone();
    match (request.checks, ready) {
        (Checks::Enforce, Err(NotReady::ProbeRequired(colour))) => {
            Err(Obstacle::ProbeRequired(colour, identity(colour)))
        }
        (Checks::Enforce, Err(NotReady::Untested { colour, missing })) => {
            let waits = matches!(request.command, Command::AdoptVersion(..));
            Err(Obstacle::Rejected(Rejection::Untested {
                colour,
                identity: Box::new(identity(colour)),
                missing,
                waits,
            }))
        }
        // Only an operator can take that on.
        (Checks::Enforce | Checks::Skip, Err(NotReady::Unproven(colour))) => {
            Err(Obstacle::Rejected(Rejection::Unproven { colour, identity: Box::new(identity(colour)) }))
        }
        (Checks::Override, _) | (Checks::Skip, Err(_)) => after(true),
        (Checks::Enforce | Checks::Skip, Ok(())) => Ok(Some(unforced)),
    }
}

/// Whether requests for the colour that gains traffic would reach it, by what their answers said until now. The way back is
/// open all the same, and so is what a configuration pushes: it may come with the route that was wrong.
fn ensure_routed(
    command: &Command,
    before: &State,
    after: &State,
    deployment: &Deployment,
    store: &dyn Store,
) -> Result<(), Obstacle> {
    let is_asked_for =
        matches!(command, Command::Promote(_) | Command::Patch(_) | Command::Rollout(_) | Command::AdoptSpec(_));
    if !is_asked_for {
        return Ok(());
    }
    let Some(colour) = gate::gains_traffic(before, after) else { return Ok(()) };
    match arrival::unrouted(store, deployment, colour) {
        Some(detail) => Err(Obstacle::Rejected(Rejection::NotRouted { colour, detail })),
        None => Ok(()),
    }
}

// === impl Obstacle ===

impl Obstacle {
    fn on(self, state: State) -> NotApplied {
        match self {
            Self::Rejected(rejection) => NotApplied::Failed(ChangeError::Rejected(rejection, Box::new(state))),
            Self::ProbeRequired(colour, identity) => NotApplied::ProbeRequired(colour, identity),
        }
    }
}

// === impl NotApplied ===

impl From<ChangeError> for NotApplied {
    fn from(error: ChangeError) -> Self {
        Self::Failed(error)
    }
}
