//! What the configuration says is behind each colour.
//!
//! What is in force is in the state. Only what a configuration has not said before acts: an old configuration that lives on
//! until its last stream ends takes nothing back. Where something relies on what is behind a colour, the newcomer has to be
//! ready first; until then it waits, and is tried again.

use serde::Serialize;

use super::mlflow;
use crate::change::context::Context;
use crate::change::error::{ChangeError, Rejection};
use crate::change::request::{ChangeRequest, Checks};
use crate::change::submit::{submit, submit_now};
use crate::config::ConfigPush;
use crate::deployment::{Deployment, DeploymentIndex};
use crate::json::{self, FromJson};
use crate::model::author::{Author, Source};
use crate::model::colour::{Colour, PerColour};
use crate::model::identity::Identity;
use crate::model::name::DeploymentName;
use crate::model::split::Split;
use crate::model::time::Timestamp;
use crate::notification::{self, Event};
use crate::setup::{self, SetupProblem};
use crate::state::{Command, State};
use crate::store::key::Key;
use crate::store::record::{self, Applied, Effect, Loaded};
use crate::store::source_status;
use crate::store::{Store, StoreError, insert, update};

/// What the configuration was last seen to say about a colour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromJson)]
struct Configured {
    said: Identity,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waiting: Option<Waiting>,
}

/// What is not in force yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromJson)]
pub struct Waiting {
    /// What is to come behind the colour.
    pub identity: Identity,
    /// What the configuration had said before; none when this Envoy started with it.
    said_before: Option<Identity>,
    /// Why it still waits.
    pub why: String,
}

/// What is known of each colour.
type Known = PerColour<Option<Configured>>;

/// Takes note of what a configuration says. Every worker thread and the main thread call this with each configuration.
///
/// # Errors
/// The store cannot be reached.
pub fn announce(context: &Context, deployment: &Deployment) -> Result<(), StoreError> {
    let store = context.host.store();
    let state = load(context, deployment)?.state;
    update(store, &key(&deployment.name), &mut |before| {
        let mut known = decode(before.value);
        let was = known.clone();
        for colour in Colour::ALL {
            let said = deployment.colours.get(colour);
            let slot = known.get_mut(colour);
            if slot.as_ref().is_some_and(|configured| configured.said == *said) {
                continue;
            }
            // A colour that is known by an alias is the version that the registry says.
            let registered = mlflow::registered_version(store, deployment, colour);
            let version = registered.unwrap_or_else(|| said.version.clone());
            let identity = Identity { version, ..said.clone() };
            // A fleet's state may still be on its way here.
            let is_news = context.fleet.is_some() || identity != *deployment.identity(&state, colour);
            let said_before = slot.take().map(|configured| configured.said);
            let waiting =
                is_news.then(|| Waiting { identity, said_before, why: "it has not been tried yet".to_owned() });
            *slot = Some(Configured { said: said.clone(), waiting });
        }
        (known != was).then(|| serde_json::to_vec(&known).unwrap_or_default())
    })?;
    if is_waiting(&waiting(store, &deployment.name)) {
        return Ok(());
    }
    setup::clear(&*context.host, deployment, SetupProblem::VersionWaits);
    Ok(())
}

/// Takes note of the first that is said of a deployment. Whether nothing was known before.
///
/// # Errors
/// The store cannot be reached.
pub fn begin(store: &dyn Store, deployment: &Deployment) -> Result<bool, StoreError> {
    let said = |colour| Some(Configured { said: deployment.colours.get(colour).clone(), waiting: None });
    let known: Known = PerColour::from_fn(said);
    insert(store, &key(&deployment.name), &serde_json::to_vec(&known).unwrap_or_default())
}

/// What waits to come behind each colour; nothing while the store is out of reach.
pub fn waiting(store: &dyn Store, name: &DeploymentName) -> PerColour<Option<Waiting>> {
    let mut known = store.read(&key(name)).map(|stored| decode(stored.value)).unwrap_or_default();
    PerColour::from_fn(|colour| known.get_mut(colour).take().and_then(|configured| configured.waiting))
}

/// Whether something waits.
pub fn is_waiting(waiting: &PerColour<Option<Waiting>>) -> bool {
    Colour::ALL.into_iter().any(|colour| waiting.get(colour).is_some())
}

/// Whether `initial` gives traffic to a colour behind which something waits: then it is meant for that.
pub fn holds_back(waiting: &PerColour<Option<Waiting>>, initial: Split, state: &State) -> bool {
    let gains = |colour| {
        (colour == initial.active && colour != state.split.active)
            || (colour == initial.candidate() && initial.canary_percent > state.lasting_split().canary_percent)
    };
    Colour::ALL.into_iter().any(|colour| gains(colour) && waiting.get(colour).is_some())
}

/// Brings about at once what can be. `initial` is what the same configuration still asks for.
pub fn try_now(context: &Context, index: DeploymentIndex, push: ConfigPush, initial: Option<Split>) {
    let Some(deployment) = context.deployments.get(index) else { return };
    for (colour, request) in requests(context, (index, deployment), push, initial) {
        let end = submit_now(context, &request);
        if let Some(end) = end.transpose() {
            settle(context, deployment, colour, &request, &end);
        }
    }
}

/// Brings about what is ready by now.
pub async fn try_again(context: &Context, index: DeploymentIndex, push: ConfigPush, initial: Option<Split>) {
    let Some(deployment) = context.deployments.get(index) else { return };
    for (colour, request) in requests(context, (index, deployment), push, initial) {
        let end = submit(context, &request).await;
        settle(context, deployment, colour, &request, &end);
    }
}

/// What is asked for. The colour that the configuration takes the traffic from gets nothing else before that is done.
fn requests(
    context: &Context,
    (index, deployment): (DeploymentIndex, &Deployment),
    push: ConfigPush,
    initial: Option<Split>,
) -> Vec<(Colour, ChangeRequest)> {
    let store = context.host.store();
    let mut waiting = waiting(store, &deployment.name);
    if !is_waiting(&waiting) {
        return Vec::new();
    }
    let Ok(loaded) = load(context, deployment) else { return Vec::new() };
    // An Envoy that joins a fleet has to know its state first.
    if context.fleet.is_some() && loaded.mod_revision.is_none() {
        return Vec::new();
    }
    let state = loaded.state;
    let mut requests = Vec::new();
    for colour in Colour::ALL {
        let Some(Waiting { identity, said_before, .. }) = waiting.get_mut(colour).take() else { continue };
        if context.fleet.is_some() && is_outdated(deployment, &state, colour, &identity, said_before.as_ref()) {
            forget(context, deployment, colour, &identity);
            continue;
        }
        if colour == state.split.active && initial.is_some_and(|initial| initial.active != colour) {
            continue;
        }
        let request = ChangeRequest::new(index, Command::AdoptVersion(colour, identity), Author::config(), None);
        requests.push((colour, request.enforce(push.enforce)));
    }
    requests
}

/// Whether a fleet has left this behind: an Envoy that starts with an old configuration, or gets one late, must not bring
/// back what others have replaced. What this Envoy's configuration takes back itself is another matter.
fn is_outdated(
    deployment: &Deployment,
    state: &State,
    colour: Colour,
    identity: &Identity,
    said_before: Option<&Identity>,
) -> bool {
    let was_up_to_date = said_before == Some(deployment.identity(state, colour));
    state.history.knows(colour, identity) && !was_up_to_date
}

/// Takes note of what became of a try.
fn settle(
    context: &Context,
    deployment: &Deployment,
    colour: Colour,
    request: &ChangeRequest,
    end: &Result<Applied, ChangeError>,
) {
    let (host, name) = (&*context.host, &deployment.name);
    let Command::AdoptVersion(_, identity) = &request.command else { return };
    let why = match end {
        Ok(applied) => {
            if applied.effect == Effect::Rerouted {
                source_status::follow_revision(host.store(), name, Source::Config, applied.state.revision);
            }
            return forget(context, deployment, colour, identity);
        }
        Err(ChangeError::Rejected(rejection, _)) => reason(rejection, colour),
        Err(error) => error.to_string(),
    };
    change(host.store(), name, colour, &mut |waiting| {
        let waits = waiting.filter(|waiting| waiting.identity == *identity)?;
        (waits.why != why).then(|| Some(Waiting { why: why.clone(), ..waits }))
    });
    if let (Ok(loaded), true) = (load(context, deployment), is_waiting(&waiting(host.store(), name))) {
        let serves = deployment.identity(&loaded.state, colour);
        let detail = format!("{identity} is configured for {colour} and waits, while {serves} is in force: {why}");
        if setup::note(host, deployment, SetupProblem::VersionWaits, detail.clone()) {
            notification::tell(host, deployment, &Event::Refused { source: request.source(), why: &detail });
        }
    }
}

/// Why something waits, and what to do.
fn reason(rejection: &Rejection, colour: Colour) -> String {
    match rejection {
        Rejection::Untested { missing, .. } => format!("{missing}: POST …/test?colour={colour}"),
        Rejection::Unhealthy { detail, .. } => format!("its probe failed just now: {detail}"),
        other => other.to_string(),
    }
}

/// Lets something wait no longer.
fn forget(context: &Context, deployment: &Deployment, colour: Colour, identity: &Identity) {
    let (host, name) = (&*context.host, &deployment.name);
    change(host.store(), name, colour, &mut |waiting| {
        waiting.filter(|waiting| waiting.identity == *identity).map(|_| None)
    });
    if !is_waiting(&waiting(host.store(), name)) {
        setup::clear(host, deployment, SetupProblem::VersionWaits);
    }
}

/// Changes what waits for a colour; `None` leaves it as it is. While the store is out of reach the note is lost: it will be
/// tried again.
fn change(
    store: &dyn Store,
    name: &DeploymentName,
    colour: Colour,
    to: &mut dyn FnMut(Option<Waiting>) -> Option<Option<Waiting>>,
) {
    let _: Result<bool, StoreError> = update(store, &key(name), &mut |before| {
        let mut known = decode(before.value);
        let configured = known.get_mut(colour).as_mut()?;
        configured.waiting = to(configured.waiting.take())?;
        serde_json::to_vec(&known).ok()
    });
}

/// Who takes a waiting version on: an operator, by force.
pub fn by_force(index: DeploymentIndex, colour: Colour, waiting: Waiting, author: Author) -> ChangeRequest {
    let request = ChangeRequest::new(index, Command::AdoptVersion(colour, waiting.identity), author, None);
    ChangeRequest { checks: Checks::Override, ..request }
}

/// Brings one about that was asked for otherwise than by the configuration.
///
/// # Errors
/// As [`submit`].
pub async fn adopt(context: &Context, request: &ChangeRequest) -> Result<Applied, ChangeError> {
    let end = submit(context, request).await;
    if let (Some(deployment), Command::AdoptVersion(colour, _)) =
        (context.deployments.get(request.deployment), &request.command)
    {
        settle(context, deployment, *colour, request, &end);
    }
    end
}

fn load(context: &Context, deployment: &Deployment) -> Result<Loaded, StoreError> {
    record::load(context.host.store(), &deployment.name, deployment.initial, Timestamp::default())
}

fn decode(value: Option<Vec<u8>>) -> Known {
    json::from_slice(&value.unwrap_or_default()).unwrap_or_default()
}

fn key(name: &DeploymentName) -> String {
    Key::Configured(name).to_string()
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::rc::Rc;

    use super::*;
    use crate::config::Config;
    use crate::model::name::Reason;
    use crate::store::record::ModRevision;
    use crate::testing::host::TestHost;
    use crate::testing::{identity, iris, split};

    /// An Envoy of a fleet, whose configuration names this version for green.
    fn in_fleet(host: &Rc<TestHost>, version: &str) -> Context {
        let json = format!(
            r#"{{"deployments": {{"iris": {{"colours": {{"blue": {{"cluster": "1", "version": "1"}},
                "green": {{"cluster": "{version}", "version": "{version}"}}}}}}}}, "etcd": {{"cluster": "etcd"}}}}"#
        );
        let context =
            Context::new(Rc::<TestHost>::clone(host), &Config::from_bytes(json.as_bytes()).expect("valid"), None);
        announce(&context, &context.deployments.all()[0]).expect("in reach");
        context
    }

    /// The fleet's state after green has been these versions, one after the other.
    fn fleet_has(host: &TestHost, versions: &[&str]) {
        let configured = PerColour { blue: identity("1"), green: identity(versions[0]) };
        let mut state = State::initial(split("blue", "0", "0"), Timestamp::default()).knowing(&configured);
        for version in &versions[1..] {
            let command = Command::AdoptVersion(Colour::Green, identity(version));
            let author = Author::new(crate::testing::holder("other"), Source::Config, Reason::none());
            state = state.after(&command, author, Timestamp::default()).expect("allowed").expect("a change");
        }
        let number = ModRevision(u64::try_from(versions.len()).expect("few"));
        let policy = record::ReplacePolicy::IfNewer;
        record::replace(&host.store, &iris(), &state, number, policy).expect("in reach");
    }

    /// What this Envoy asks the fleet for.
    fn asks(context: &Context) -> Vec<Command> {
        let deployment = (0, &context.deployments.all()[0]);
        let asked = requests(context, deployment, ConfigPush::default(), None);
        asked.into_iter().map(|(_, request)| request.command).filter(|command| !is_in_force(context, command)).collect()
    }

    fn is_in_force(context: &Context, command: &Command) -> bool {
        let deployment = &context.deployments.all()[0];
        let state = load(context, deployment).expect("in reach").state;
        matches!(command, Command::AdoptVersion(colour, identity) if deployment.identity(&state, *colour) == identity)
    }

    fn wants(version: &str) -> Vec<Command> {
        vec![Command::AdoptVersion(Colour::Green, identity(version))]
    }

    #[test]
    fn an_envoy_that_starts_asks_for_nothing_before_it_knows_the_fleets_state() {
        let host = Rc::new(TestHost::default());
        let context = in_fleet(&host, "3");
        assert_eq!(asks(&context), vec![]);
        fleet_has(&host, &["2"]);
        assert_eq!(asks(&context), wants("3"));
    }

    #[test]
    fn an_envoy_that_starts_brings_what_is_new_and_never_what_the_fleet_has_left_behind() {
        for (version, expected) in [("2", vec![]), ("3", vec![]), ("4", wants("4"))] {
            let host = Rc::new(TestHost::default());
            fleet_has(&host, &["2", "3"]);
            assert_eq!(asks(&in_fleet(&host, version)), expected, "{version}");
        }
    }

    #[test]
    fn a_late_delivery_takes_nothing_back_and_one_to_an_envoy_that_was_up_to_date_does() {
        let host = Rc::new(TestHost::default());
        fleet_has(&host, &["0", "2", "3"]);
        in_fleet(&host, "0");
        assert_eq!(asks(&in_fleet(&host, "2")), vec![], "others are at 3 already");
        assert_eq!(asks(&in_fleet(&host, "3")), vec![]);
        assert_eq!(asks(&in_fleet(&host, "2")), wants("2"), "taken back on purpose");
    }

    #[test]
    fn a_store_out_of_reach_is_an_error_and_nothing_waits() {
        let host = Rc::new(TestHost::default());
        let context = in_fleet(&host, "3");
        host.store.set_reachable(false);
        assert_eq!(announce(&context, &context.deployments.all()[0]), Err(StoreError));
        assert_eq!((is_waiting(&waiting(&host.store, &iris())), asks(&context)), (false, vec![]));
    }
}
