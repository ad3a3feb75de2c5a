//! MLflow's model registry: a deployment follows an alias or a stage of a registered model.
//!
//! One request tells where all marks of a model are. When the followed mark was moved to the candidate's version, that
//! asks to promote it (or to begin a canary); moved back to a colour's version it asks to roll back. Only a
//! *moved* mark acts: one that stays where it is leaves an operator's switch alone. A mark that names neither colour, or
//! both, moves nothing, and the source's status says so.

use std::cell::Cell;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::Value;

use super::poll::{PollResult, PolledSource};
use crate::change::request::ChangeRequest;
use crate::config::{Follow, Mlflow, PathPrefix, Served};
use crate::deployment::{Deployment, DeploymentIndex, Deployments};
use crate::host::http::{HttpReply, HttpRequest};
use crate::json::{self, FromJson};
use crate::model::author::{Author, Source};
use crate::model::colour::{Colour, PerColour};
use crate::model::name::{DeploymentName, Reason, RegisteredVersion, Version};
use crate::model::percent::Percent;
use crate::model::time::Timestamp;
use crate::state::{Command, Patch, State};
use crate::store::key::Key;
use crate::store::record;
use crate::store::source_status::{self, Pending, SourceStatus};
use crate::store::{CasToken, Store, StoreError, number, update};

/// The registry that one deployment follows.
#[derive(Clone, Debug)]
pub struct Registry {
    deployment: DeploymentIndex,
    section: Mlflow,
    /// The delivery by which it was last triggered, as far as this instance knows.
    triggered: Cell<Option<CasToken>>,
}

/// What the registry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The version that the followed mark is on; none when nothing bears it.
    followed: Option<RegisteredVersion>,
    /// The version of each colour; none when its alias is not set.
    colours: PerColour<Option<RegisteredVersion>>,
}

/// What is kept between two looks, and shown as what the source says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, FromJson)]
struct TrackedVersion {
    /// Which mark of which model.
    follows: String,
    /// The version that it is on.
    version: Option<RegisteredVersion>,
    /// The version that it was on before.
    #[serde(skip_serializing_if = "Option::is_none")]
    was: Option<RegisteredVersion>,
    /// Whether it was moved back to the version that it had come from.
    #[serde(default)]
    moved_back: bool,
    /// The version of each colour.
    colours: PerColour<Option<RegisteredVersion>>,
}

/// Why a mark names no colour to switch to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unresolved {
    Unset,
    Neither,
    Both,
}

/// A registry that has not answered by then is away. A busy tracking server takes its time.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

// === impl Registry ===

impl Registry {
    /// The registry that `deployment` follows.
    pub const fn new(deployment: DeploymentIndex, section: Mlflow) -> Self {
        Self { deployment, section, triggered: Cell::new(None) }
    }

    /// Keeps what the registry says and requests what follows from it.
    fn observe(&self, reading: &Reading, deployment: &Deployment, store: &dyn Store, now: Timestamp) -> PollResult {
        let mut result = PollResult::default();
        // The state is read first: a change after that is the later one, which a request made here must not undo.
        let Ok(loaded) = record::load(store, &deployment.name, deployment.initial, now) else { return result };
        result.versions = self.section.new_versions(self.deployment, reading, deployment, &loaded.state);
        // What the followed mark says is about the versions that there are, and on the state that knows them.
        if !result.versions.is_empty() {
            return result;
        }
        let mut change = None;
        source_status::record(store, &deployment.name, Source::Mlflow, &mut |before| {
            let (after, requested) =
                self.section.follow(self.deployment, before.as_ref(), reading.clone(), &loaded.state, now);
            change = requested;
            let refusal = after.refusal.as_ref().filter(|_| after.pending.is_none());
            let is_news = before.as_ref().is_none_or(|before| before.refusal != after.refusal);
            let news = refusal.filter(|_| is_news);
            result.warnings = news.map(|why| line(deployment, why)).into_iter().collect();
            result.refused = news.map(|why| (self.deployment, why.clone())).into_iter().collect();
            (before.as_ref() != Some(&after)).then_some(after)
        });
        result.changes.extend(change);
        result
    }

    /// Keeps that the registry said nothing. It is warned of once.
    fn on_error(&self, why: &str, deployment: &Deployment, store: &dyn Store, now: Timestamp) -> PollResult {
        let mut is_news = false;
        source_status::record(store, &deployment.name, Source::Mlflow, &mut |before| {
            is_news = before.as_ref().is_none_or(|before| before.error.is_none());
            let after = away(before.as_ref(), why, now);
            (before.as_ref() != Some(&after)).then_some(after)
        });
        let warning = format!("the registry does not answer, traffic stays as it is: {why}");
        PollResult {
            warnings: is_news.then(|| line(deployment, &warning)).into_iter().collect(),
            has_failed: true,
            ..PollResult::default()
        }
    }
}

impl PolledSource for Registry {
    fn source(&self) -> Source {
        Source::Mlflow
    }

    fn interval(&self) -> Duration {
        self.section.poll_interval
    }

    fn takes_triggers(&self) -> bool {
        self.section.webhook.is_some()
    }

    fn wants_poll_now(&self, deployments: &Deployments, store: &dyn Store) -> bool {
        let Some(deployment) = deployments.get(self.deployment).filter(|_| self.section.webhook.is_some()) else {
            return false;
        };
        let Ok(trigger) = store.read(&trigger_key(&deployment.name)) else { return false };
        // The first poll is no answer to a delivery: it is due anyway.
        self.triggered.replace(Some(trigger.token)).is_some_and(|known| known != trigger.token)
    }

    fn request(&self) -> HttpRequest {
        self.section.request()
    }

    fn on_reply(&self, reply: &HttpReply, deployments: &Deployments, store: &dyn Store, now: Timestamp) -> PollResult {
        let Some(deployment) = deployments.get(self.deployment) else { return PollResult::default() };
        match self.section.reading(reply) {
            Ok(reading) => self.observe(&reading, deployment, store, now),
            Err(why) => self.on_error(&why, deployment, store, now),
        }
    }
}

fn line(deployment: &Deployment, warning: &str) -> String {
    format!("deployment={}: {warning}", deployment.name)
}

// === impl Mlflow ===

impl Mlflow {
    /// The request that tells where all marks of the model are.
    pub fn request(&self) -> HttpRequest {
        let name = utf8_percent_encode(self.model.as_str(), NON_ALPHANUMERIC);
        let prefix = self.path_prefix.as_ref().map_or("", PathPrefix::as_str);
        let path = format!("{prefix}/api/2.0/mlflow/registered-models/get?name={name}");
        HttpRequest::new(&self.cluster, self.host.as_str(), "GET", &path, ANSWER_WITHIN)
    }

    /// What a reply says.
    ///
    /// # Errors
    /// Why it says nothing: the registry is away, has no such model, or is no registry.
    pub fn reading(&self, reply: &HttpReply) -> Result<Reading, String> {
        let HttpReply::Answered { status: 200, body } = reply else { return Err(reply.describe(ANSWER_WITHIN)) };
        let document: Value = json::from_slice(body).unwrap_or_default();
        let Some(model) = document.get("registered_model") else {
            return Err("answered 200, but not with a registered model".to_owned());
        };
        let marked = |list: &str, mark: &str, name: &str| -> Option<RegisteredVersion> {
            let found = model.get(list)?.as_array()?.iter().find(|entry| entry.get(mark).is_some_and(|is| is == name));
            RegisteredVersion::new(found?.get("version")?.as_str()?).ok()
        };
        let aliased = |alias: &str| marked("aliases", "alias", alias);
        Ok(Reading {
            followed: match &self.follow {
                Follow::Alias(alias) => aliased(alias.as_str()),
                // One version for each stage: the newest in it.
                Follow::Stage(stage) => marked("latest_versions", "current_stage", stage.as_str()),
            },
            colours: PerColour::from_fn(|colour| match self.colours.get(colour) {
                Served::Alias(alias) => aliased(alias.as_str()),
                Served::Version(version) => Some(version.clone()),
            }),
        })
    }

    /// The colours that the registry gives another version than is known of them. The model servers load what their alias
    /// is on: nothing here could hold that back.
    pub fn new_versions(
        &self,
        index: DeploymentIndex,
        reading: &Reading,
        deployment: &Deployment,
        state: &State,
    ) -> Vec<ChangeRequest> {
        let mut requests = Vec::new();
        for colour in Colour::ALL {
            let (Served::Alias(alias), Some(registered)) = (self.colours.get(colour), reading.colours.get(colour))
            else {
                continue;
            };
            let (known, version) = (&deployment.identity(state, colour).version, Version::of(registered));
            if *known != version {
                let (was, is) = (known.as_str(), version.as_str());
                let reason = Reason::of(&format!("version {was} -> {is}: the alias {} is on it", alias.as_str()));
                let author = Author::automatic(Source::Mlflow, reason);
                requests.push(ChangeRequest::new(index, Command::FollowVersion(colour, version), author, None));
            }
        }
        requests
    }

    /// What follows from what the registry says: the status to keep, and the change to ask for.
    pub fn follow(
        &self,
        deployment: DeploymentIndex,
        before: Option<&SourceStatus>,
        reading: Reading,
        state: &State,
        now: Timestamp,
    ) -> (SourceStatus, Option<ChangeRequest>) {
        let follows = format!("{} of {}", self.follow, self.model);
        let last = before.and_then(TrackedVersion::of).filter(|last| last.follows == follows);
        let moved = last.as_ref().is_none_or(|last| last.version != reading.followed);
        let mark = match &last {
            Some(last) if !moved => TrackedVersion { colours: reading.colours, ..last.clone() },
            Some(last) => TrackedVersion {
                follows,
                moved_back: reading.followed.is_some() && last.was == reading.followed,
                was: last.version.clone(),
                version: reading.followed,
                colours: reading.colours,
            },
            None => TrackedVersion {
                follows,
                version: reading.followed,
                colours: reading.colours,
                ..TrackedVersion::default()
            },
        };
        let kept = before.filter(|_| !moved);
        let seen = SourceStatus {
            value: serde_json::to_value(&mark).unwrap_or_default(),
            at: kept.map_or(now, |kept| kept.at),
            ..SourceStatus::default()
        };
        let request = |command, on| {
            let author = Author::automatic(Source::Mlflow, mark.reason(&self.follow));
            ChangeRequest::new(deployment, command, author, Some(on)).enforce(self.enforce)
        };
        // A change that is still under way must not be made after the mark was moved on: staying takes its place.
        let stay = Command::Patch(Patch { active: Some(state.split.active), ..Patch::default() });
        let stays = || before.is_some_and(|before| before.pending.is_some()).then(|| request(stay, state.revision));
        let colour = match mark.names() {
            Ok(colour) => colour,
            Err(unresolved) => {
                return (SourceStatus { refusal: Some(mark.describe(&self.follow, unresolved)), ..seen }, stays());
            }
        };
        // A mark acts when it was moved, or else as soon as it names a colour; and again while it was refused.
        let was_unresolved = last.as_ref().is_some_and(|last| last.names().is_err());
        let (since, refusal, left) = match kept {
            Some(kept) if !was_unresolved => {
                let since = kept.pending.as_ref().map(|pending| pending.on);
                (since, kept.refusal.clone(), Some(state.split.candidate()))
            }
            _ => (Some(state.revision), None, last.and_then(|last| last.on(&mark.colours).names().ok())),
        };
        let Some((on, command)) = since.and_then(|on| Some((on, self.command(&mark, colour, left, state)?))) else {
            return (SourceStatus { refusal, ..seen }, stays());
        };
        let pending = Some(Pending { on, value: Value::Null });
        (SourceStatus { pending, refusal, ..seen }, Some(request(command, on)))
    }

    /// What a mark on `colour`'s version asks for in this state; `left` is the colour whose version it was on before.
    fn command(&self, mark: &TrackedVersion, colour: Colour, left: Option<Colour>, state: &State) -> Option<Command> {
        let canary = state.lasting_split().canary_percent;
        let set = |percent| Some(Command::Patch(Patch { canary_percent: Some(percent), ..Patch::default() }));
        if colour == state.split.active {
            // Taken back from the candidate: what its move began ends. A canary that it has nothing to do with goes on.
            let ends = left == Some(state.split.candidate()) && canary > Percent::ZERO;
            return if ends { set(Percent::ZERO) } else { None };
        }
        if mark.moved_back && state.rollback_to == Some(colour) {
            return Some(Command::RollBack(None));
        }
        match self.canary_percent {
            None => Some(Command::Promote(Some(colour))),
            // An operator who runs a canary already knows better how large it is to be.
            Some(percent) if canary == Percent::ZERO => set(percent),
            Some(_) => None,
        }
    }
}

/// The version that the registry was last seen to give a colour that it knows by an alias.
pub fn registered_version(store: &dyn Store, deployment: &Deployment, colour: Colour) -> Option<Version> {
    let Served::Alias(_) = deployment.mlflow.as_ref()?.colours.get(colour) else { return None };
    let status = source_status::read(store, &deployment.name, Source::Mlflow)?;
    TrackedVersion::of(&status)?.colours.get(colour).as_ref().map(Version::of)
}

/// What is known after a look that found nothing: the mark as it was, and since when the registry is away.
pub fn away(before: Option<&SourceStatus>, why: &str, now: Timestamp) -> SourceStatus {
    let known = before.cloned().unwrap_or_else(|| SourceStatus { at: now, ..SourceStatus::default() });
    // The time stands at the beginning and stays while the reason may change.
    let since = known.error.as_deref().and_then(|error| error.split_once(": ")).map(|(since, _)| since.to_owned());
    let since = since.unwrap_or_else(|| format!("away since {now}"));
    SourceStatus { error: Some(format!("{since}: {why}")), ..known }
}

/// Has the poller ask a deployment's registry at its next tick. `delivery` is another one each time.
///
/// # Errors
/// The store is out of reach.
pub fn trigger(store: &dyn Store, name: &DeploymentName, delivery: &[u8]) -> Result<(), StoreError> {
    let delivery = xxhash_rust::xxh64::xxh64(delivery, 0).to_string();
    update(store, &trigger_key(name), &mut |_| Some(delivery.clone().into_bytes()))?;
    // The poller looks at this, and at each deployment's own only when it has moved.
    update(store, &Key::RegistryTriggers.to_string(), &mut |before| {
        Some(number(before.value).wrapping_add(1).to_string().into_bytes())
    })
    .map(|_| ())
}

fn trigger_key(name: &DeploymentName) -> String {
    Key::RegistryTrigger(name).to_string()
}

// === impl TrackedVersion ===

impl TrackedVersion {
    fn of(status: &SourceStatus) -> Option<Self> {
        json::from_value(&status.value).ok()
    }

    /// The same mark while the colours serve other versions.
    fn on(self, colours: &PerColour<Option<RegisteredVersion>>) -> Self {
        Self { colours: colours.clone(), ..self }
    }

    /// The colour whose version bears the mark.
    fn names(&self) -> Result<Colour, Unresolved> {
        let version = self.version.as_ref().ok_or(Unresolved::Unset)?;
        let is = |colour: Colour| self.colours.get(colour).as_ref() == Some(version);
        match (is(Colour::Blue), is(Colour::Green)) {
            (true, false) => Ok(Colour::Blue),
            (false, true) => Ok(Colour::Green),
            (true, true) => Err(Unresolved::Both),
            (false, false) => Err(Unresolved::Neither),
        }
    }

    /// Why nothing moves.
    fn describe(&self, follow: &Follow, unresolved: Unresolved) -> String {
        let shown =
            |version: &Option<RegisteredVersion>| version.as_ref().map_or("none", RegisteredVersion::as_str).to_owned();
        let version = shown(&self.version);
        match unresolved {
            Unresolved::Unset => format!("no version has the followed {follow}"),
            Unresolved::Both => format!("the followed {follow} names version {version}, which is both blue and green"),
            Unresolved::Neither => {
                let (blue, green) = (shown(&self.colours.blue), shown(&self.colours.green));
                format!(
                    "the followed {follow} names version {version}, which is neither blue ({blue}) nor green ({green})"
                )
            }
        }
    }

    fn reason(&self, follow: &Follow) -> Reason {
        let version = self.version.as_ref().map_or("", RegisteredVersion::as_str);
        // The versions first: an alias can be long, and a reason has an end.
        Reason::of(&match &self.was {
            Some(was) => format!("version {was} -> {version}: {follow} was moved"),
            None => format!("version {version} has {follow}"),
        })
    }
}

#[cfg(test)]
mod tests;
