//! MLflow's model registry: a deployment follows an alias or a stage of a registered model.
//!
//! One request tells where all marks of a model are. When the followed mark was moved to the candidate's version, that
//! is a wish to promote it (or to begin a canary); moved back to a colour's version it is a wish to go back. Only a
//! *moved* mark acts: one that stays where it is leaves an operator's switch alone. A mark that names neither colour, or
//! both, moves nothing, and the sighting says so.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Findings, Polled, Step};
use crate::change::request::Wish;
use crate::config::{Follow, Mlflow, Served, reader};
use crate::deployment::DeploymentIndex;
use crate::deployment::{Deployment, Deployments};
use crate::host::{Outgoing, Reply};
use crate::model::author::{Author, Source};
use crate::model::colour::{Colour, PerColour};
use crate::model::name::{DeploymentName, Reason, RegisteredVersion};
use crate::model::percent::Percent;
use crate::model::time::Timestamp;
use crate::readiness::versions::versions;
use crate::state::{Command, Patch, State};
use crate::store::key::Key;
use crate::store::source_status::{self, Pending, Sighting};
use crate::store::{self, Seen, Store, StoreError, SwapError};

/// The registry that one deployment follows.
#[derive(Clone, Debug)]
pub struct Registry {
    deployment: DeploymentIndex,
    section: Mlflow,
    /// The delivery by which it was last woken, as far as this instance knows.
    woken: Option<Seen>,
}

/// What one look at the registry found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The version that the followed mark is on; none when nothing bears it.
    followed: Option<RegisteredVersion>,
    /// The version of each colour; none when its alias is not set.
    colours: PerColour<Option<RegisteredVersion>>,
}

/// What is kept between two looks, and shown as what the source says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
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
enum Nobody {
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
        Self { deployment, section, woken: None }
    }

    /// Keeps what a look found and says what follows from it.
    fn look(&self, reading: &Reading, route: &Deployment, store: &dyn Store, now: Timestamp) -> Findings {
        let mut findings = Findings::default();
        // The state is read first: a change after that is the later one, which a wish made here must not undo.
        let Ok(loaded) = store::load(store, &route.name, route.initial, now) else { return findings };
        let shown = versions(store, route);
        let mut wish = None;
        source_status::record(store, &route.name, Source::Mlflow, &mut |before| {
            let (after, wished) =
                self.section.follow(self.deployment, before.as_ref(), reading.clone(), &loaded.state, now);
            wish = wished;
            let refusal = after.refusal.as_ref().filter(|_| after.pending.is_none());
            let is_news = before.as_ref().is_none_or(|before| before.refusal != after.refusal);
            findings.news = refusal.filter(|_| is_news).map(|why| line(route, why)).into_iter().collect();
            (before.as_ref() != Some(&after)).then_some(after)
        });
        findings.wishes.extend(wish);
        if versions(store, route) != shown {
            findings.renamed.push(self.deployment);
        }
        findings
    }

    /// Keeps that a look found nothing. It is news once.
    fn miss(&self, why: &str, route: &Deployment, store: &dyn Store, now: Timestamp) -> Findings {
        let mut is_news = false;
        source_status::record(store, &route.name, Source::Mlflow, &mut |before| {
            is_news = before.as_ref().is_none_or(|before| before.error.is_none());
            let after = away(before.as_ref(), why, now);
            (before.as_ref() != Some(&after)).then_some(after)
        });
        let news = format!("the registry is away, traffic goes on: {why}");
        Findings { news: is_news.then(|| line(route, &news)).into_iter().collect(), ..Findings::default() }
    }
}

impl Polled for Registry {
    fn source(&self) -> Source {
        Source::Mlflow
    }

    fn interval(&self) -> Duration {
        self.section.poll_interval
    }

    fn hurries(&mut self, router: &Deployments, store: &dyn Store) -> bool {
        let Some(route) = router.get(self.deployment).filter(|_| self.section.webhook.is_some()) else {
            return false;
        };
        let Ok(stored) = store.read(&wake_key(&route.name)) else { return false };
        // The first look is no answer to a delivery: it is due anyway.
        self.woken.replace(stored.seen).is_some_and(|known| known != stored.seen)
    }

    fn request(&mut self) -> Outgoing {
        self.section.request()
    }

    fn on_reply(&mut self, reply: &Reply, router: &Deployments, store: &dyn Store, now: Timestamp) -> Step {
        let Some(route) = router.get(self.deployment) else { return Step::Done(Findings::default()) };
        Step::Done(match self.section.reading(reply) {
            Ok(reading) => self.look(&reading, route, store, now),
            Err(why) => self.miss(&why, route, store, now),
        })
    }
}

fn line(route: &Deployment, text: &str) -> String {
    format!("deployment={}: {text}", route.name)
}

// === impl Mlflow ===

impl Mlflow {
    /// The request that tells where all marks of the model are.
    pub fn request(&self) -> Outgoing {
        let name = utf8_percent_encode(self.model.as_str(), NON_ALPHANUMERIC);
        let path = format!("/api/2.0/mlflow/registered-models/get?name={name}");
        Outgoing::new(&self.cluster, self.host.as_str(), "GET", &path, ANSWER_WITHIN)
    }

    /// What a reply says.
    ///
    /// # Errors
    /// Why it says nothing: the registry is away, has no such model, or is no registry.
    pub fn reading(&self, reply: &Reply) -> Result<Reading, String> {
        let Reply::Answered { status: 200, body } = reply else { return Err(reply.describe(ANSWER_WITHIN)) };
        let document: Value = serde_json::from_slice(body).unwrap_or_default();
        let Some(model) = document.get("registered_model") else {
            return Err("answered 200 with something else than a registered model".to_owned());
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

    /// What follows from a look: what to keep, and what to wish for.
    pub fn follow(
        &self,
        deployment: DeploymentIndex,
        before: Option<&Sighting>,
        reading: Reading,
        state: &State,
        now: Timestamp,
    ) -> (Sighting, Option<Wish>) {
        let follows = format!("{} of {}", self.follow, self.model);
        let last = before.and_then(Mark::of).filter(|last| last.follows == follows);
        let moved = last.as_ref().is_none_or(|last| last.version != reading.followed);
        let mark = match &last {
            Some(last) if !moved => Mark { colours: reading.colours, ..last.clone() },
            Some(last) => Mark {
                follows,
                moved_back: reading.followed.is_some() && last.was == reading.followed,
                was: last.version.clone(),
                version: reading.followed,
                colours: reading.colours,
            },
            None => Mark { follows, version: reading.followed, colours: reading.colours, ..Mark::default() },
        };
        let kept = before.filter(|_| !moved);
        let seen = Sighting {
            value: serde_json::to_value(&mark).unwrap_or_default(),
            at: kept.map_or(now, |kept| kept.at),
            ..Sighting::default()
        };
        let wish = |command, on| Wish {
            deployment,
            command,
            author: Author::new(Source::Mlflow.as_str(), Source::Mlflow, mark.reason(&self.follow)),
            enforce: self.enforce,
            on: Some(on),
        };
        // A wish that is still under way must not come true after the mark was moved on: staying takes its place.
        let stay = Command::Patch(Patch { active: Some(state.split.active), ..Patch::default() });
        let stays = || before.is_some_and(|before| before.pending.is_some()).then(|| wish(stay, state.revision));
        let colour = match mark.names() {
            Ok(colour) => colour,
            Err(nobody) => return (Sighting { refusal: Some(mark.describe(&self.follow, nobody)), ..seen }, stays()),
        };
        // A mark acts when it was moved, or else as soon as it names a colour; and again while it was refused.
        let named_nobody = last.as_ref().is_some_and(|last| last.names().is_err());
        let (since, refusal, left) = match kept {
            Some(kept) if !named_nobody => {
                let since = kept.pending.as_ref().map(|pending| pending.on);
                (since, kept.refusal.clone(), Some(state.split.candidate()))
            }
            _ => (Some(state.revision), None, last.and_then(|last| last.on(&mark.colours).names().ok())),
        };
        let Some((on, command)) = since.and_then(|on| Some((on, self.command(&mark, colour, left, state)?))) else {
            return (Sighting { refusal, ..seen }, stays());
        };
        let pending = Some(Pending { on, value: Value::Null });
        (Sighting { pending, refusal, ..seen }, Some(wish(command, on)))
    }

    /// What a mark on `colour`'s version asks for in this state; `left` is the colour whose version it was on before.
    fn command(&self, mark: &Mark, colour: Colour, left: Option<Colour>, state: &State) -> Option<Command> {
        let canary = state.split.canary_percent;
        let set = |percent| Some(Command::Patch(Patch { canary_percent: Some(percent), ..Patch::default() }));
        if colour == state.split.active {
            // Taken back from the candidate: what its move began ends. A canary that it has nothing to do with goes on.
            let ends = left == Some(state.split.candidate()) && canary > Percent::ZERO;
            return if ends { set(Percent::ZERO) } else { None };
        }
        if mark.moved_back && state.rollback_to == Some(colour) {
            return Some(Command::RollBack);
        }
        match self.canary_percent {
            None => Some(Command::Promote),
            // Whoever runs a canary already knows better how large it is to be.
            Some(percent) if canary == Percent::ZERO => set(percent),
            Some(_) => None,
        }
    }
}

/// What is known after a look that found nothing: the mark as it was, and since when the registry is away.
pub fn away(before: Option<&Sighting>, why: &str, now: Timestamp) -> Sighting {
    let known = before.cloned().unwrap_or_else(|| Sighting { at: now, ..Sighting::default() });
    // The time stands at the beginning and stays while the reason may change.
    let since = known.error.as_deref().and_then(|error| error.split_once(": ")).map(|(since, _)| since.to_owned());
    let since = since.unwrap_or_else(|| format!("away since {now}"));
    Sighting { error: Some(format!("{since}: {why}")), ..known }
}

/// Has the leader ask a deployment's registry at its next tick. `mark` is another one each time.
///
/// # Errors
/// The store is out of reach.
pub fn wake(store: &dyn Store, name: &DeploymentName, mark: &[u8]) -> Result<(), StoreError> {
    let mark = xxhash_rust::xxh64::xxh64(mark, 0).to_string();
    let stored = store.read(&wake_key(name))?;
    match store.swap(&wake_key(name), mark.as_bytes(), stored.seen) {
        // Whoever came first wakes it as well.
        Ok(()) | Err(SwapError::Conflict) => Ok(()),
        Err(SwapError::Unavailable) => Err(StoreError),
    }
}

fn wake_key(name: &DeploymentName) -> String {
    Key::Woken(name).to_string()
}

// === impl Mark ===

impl Mark {
    fn of(sighting: &Sighting) -> Option<Self> {
        reader::read(&sighting.value).ok()
    }

    /// The same mark while the colours serve other versions.
    fn on(self, colours: &PerColour<Option<RegisteredVersion>>) -> Self {
        Self { colours: colours.clone(), ..self }
    }

    /// The colour whose version bears the mark.
    fn names(&self) -> Result<Colour, Nobody> {
        let version = self.version.as_ref().ok_or(Nobody::Unset)?;
        let is = |colour: Colour| self.colours.get(colour).as_ref() == Some(version);
        match (is(Colour::Blue), is(Colour::Green)) {
            (true, false) => Ok(Colour::Blue),
            (false, true) => Ok(Colour::Green),
            (true, true) => Err(Nobody::Both),
            (false, false) => Err(Nobody::Neither),
        }
    }

    /// Why nothing moves.
    fn describe(&self, follow: &Follow, nobody: Nobody) -> String {
        let shown =
            |version: &Option<RegisteredVersion>| version.as_ref().map_or("none", RegisteredVersion::as_str).to_owned();
        let version = shown(&self.version);
        match nobody {
            Nobody::Unset => format!("no version bears the followed {follow}"),
            Nobody::Both => format!("the followed {follow} names version {version}, which is both blue and green"),
            Nobody::Neither => {
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
            None => format!("version {version} bears {follow}"),
        })
    }
}

#[cfg(test)]
mod tests;
