//! What each worker notes about the requests of a canary, in a record of its own: what became of those that began together.
//!
//! It is written at ticks and while there is something to say. A deployment without a canary costs nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::roster::{Gone, Member, Roster};
use crate::config::ErrorRule;
use crate::metrics::answer::Attribution;
use crate::metrics::cohorts::{Cohorts, Draw, Ending, Host, SeenKeys, Ticket};
use crate::model::colour::Colour;
use crate::model::name::DeploymentName;
use crate::model::percent::Percent;
use crate::model::split::Revision;
use crate::model::time::Timestamp;
use crate::routing::sticky::Buckets;
use crate::store::key::Key;
use crate::store::{Store, StoreError, update};

/// A worker's notes about a deployment's canary.
#[derive(Debug, Default)]
pub struct Recorder {
    cohorts: Cohorts,
    /// The keys of which it has seen a request in this canary.
    seen: SeenKeys,
    /// The candidate, and how its users are drawn.
    candidate: Option<(Colour, Buckets)>,
    /// Whether there is something that its record does not say.
    is_news: bool,
}

/// What stands in the record of a worker.
#[derive(Deserialize, Serialize)]
struct Record<C> {
    /// The member, of which there may have been others in its slot.
    number: u64,
    cohorts: C,
}

/// What members that are gone have left behind.
#[derive(Default, Deserialize, Serialize)]
struct Departed {
    numbers: Gone,
    cohorts: Cohorts,
}

/// What all workers have noted about a deployment's canary, as far as they have said.
///
/// A worker says it at each of its ticks: of the last moments some have said it and others have not.
pub fn gathered(store: &dyn Store, roster: &Roster, name: &DeploymentName, now: Timestamp) -> Cohorts {
    // First, so that a member that goes meanwhile is not read twice.
    let departed = store.read(&Key::DepartedCohorts(name).to_string()).map(|stored| departed(stored.value));
    let Departed { numbers, cohorts: mut sum } = departed.unwrap_or_default();
    sum.retire(now);
    for member in roster.members().iter().filter(|member| !numbers.has(member.number)) {
        if let Some(cohorts) = read(store, name, member) {
            sum.merge(&cohorts);
        }
    }
    sum
}

/// Keeps what a member has noted, which goes.
///
/// # Errors
/// The store is out of reach.
pub fn keep(store: &dyn Store, name: &DeploymentName, member: &Member, now: Timestamp) -> Result<(), StoreError> {
    let Some(over) = read(store, name, member).map(Cohorts::only_over).filter(|over| !over.is_empty()) else {
        return Ok(());
    };
    update(store, &Key::DepartedCohorts(name).to_string(), &mut |before| {
        let mut departed = departed(before.value);
        if !departed.numbers.add(member.number) {
            return None;
        }
        departed.cohorts.retire(now);
        departed.cohorts.merge(&over);
        serde_json::to_vec(&departed).ok()
    })
    .map(|_| ())
}

fn read(store: &dyn Store, name: &DeploymentName, member: &Member) -> Option<Cohorts> {
    let value = store.read(&Key::Cohorts(name, member.slot).to_string()).ok()?.value?;
    let record: Record<Cohorts> = serde_json::from_slice(&value).ok()?;
    (record.number == member.number).then_some(record.cohorts)
}

fn departed(value: Option<Vec<u8>>) -> Departed {
    serde_json::from_slice(&value.unwrap_or_default()).unwrap_or_default()
}

// === impl Recorder ===

impl Recorder {
    /// A request begins that chance sent to `colour` by this `draw`, among those of the `candidate`.
    pub fn begin(
        &mut self,
        when: (Timestamp, Revision, Percent),
        candidate: (Colour, Buckets),
        colour: Colour,
        draw: Draw,
    ) -> Ticket {
        if self.candidate.replace(candidate) != Some(candidate) {
            self.seen.clear();
        }
        self.is_news = true;
        self.cohorts.begin(when, colour, draw, &mut self.seen)
    }

    /// The head of its answer has come, which counts for what `attribution` says. `latency` is the time to it, where that is
    /// what is compared. There is no ticket any more when the answer is not its colour's.
    #[must_use]
    pub fn on_head(
        &mut self,
        mut ticket: Ticket,
        attribution: &Attribution,
        latency: Option<Duration>,
    ) -> Option<Ticket> {
        self.is_news = true;
        if attribution.colour != Some(ticket.colour()) {
            self.cohorts.end(ticket, Ending::Void);
            return None;
        }
        self.cohorts.on_head(&mut ticket, latency);
        Some(ticket)
    }

    /// It is over: it counts for what `attribution` says, by what counts as an error, and took so long.
    pub fn end(
        &mut self,
        ticket: Ticket,
        attribution: &Attribution,
        latency: Duration,
        rule: &ErrorRule,
        host: impl FnOnce() -> Host,
    ) {
        self.is_news = true;
        let wants_host = self.cohorts.wants_host(&ticket);
        let ending = Ending::of(ticket.colour(), attribution, latency, rule, wants_host, host);
        self.cohorts.end(ticket, ending);
    }

    /// There is no canary any more. The next one's keys are drawn anew.
    pub fn on_no_canary(&mut self) {
        self.candidate = None;
        self.seen.clear();
    }

    /// Writes down what is new. Whether there is anything left to write about.
    pub fn write(&mut self, store: &dyn Store, name: &DeploymentName, member: &Member, now: Timestamp) -> bool {
        self.is_news |= self.cohorts.retire(now);
        if self.is_news {
            let key = Key::Cohorts(name, member.slot).to_string();
            let written = update(store, &key, &mut |_| {
                if self.cohorts.is_empty() {
                    return Some(Vec::new());
                }
                serde_json::to_vec(&Record { number: member.number, cohorts: &self.cohorts }).ok()
            });
            // What cannot be written down stays news.
            self.is_news = written.is_err();
        }
        self.is_news || !self.cohorts.is_empty()
    }
}
