//! What each worker notes about the requests of a canary, in a record of its own: what became of those that began together.
//!
//! It is written at ticks and while there is something to say. A deployment without a canary costs nothing.

use std::time::Duration;

use serde::Serialize;

use super::roster::{Gone, Member, Roster};
use crate::config::ErrorRule;
use crate::json::{self, FromJson};
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
#[derive(FromJson, Serialize)]
struct Record<C> {
    /// The member, of which there may have been others in its slot.
    number: u64,
    cohorts: C,
}

/// What members that are gone have left behind.
#[derive(Default, FromJson, Serialize)]
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
    let record: Record<Cohorts> = json::from_slice(&value).ok()?;
    (record.number == member.number).then_some(record.cohorts)
}

fn departed(value: Option<Vec<u8>>) -> Departed {
    json::from_slice(&value.unwrap_or_default()).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::metrics::counters::Class;
    use crate::model::name::Version;
    use crate::store::lease::Instance;
    use crate::testing::host::{START, TestHost};
    use crate::testing::{iris, percent};

    fn member(host: &TestHost) -> Member {
        let instance = Instance::register(&host.store, START);
        Member::enrol(&host.store, host, instance, instance.get(), START).expect("in reach")
    }

    fn after(millis: u64) -> Timestamp {
        START.plus(Duration::from_millis(millis))
    }

    fn candidate(colour: Colour, version: &str) -> (Colour, Buckets) {
        (colour, Buckets::new(&iris(), &Version::new(version).expect("valid"), None))
    }

    fn begin(recorder: &mut Recorder, at: Timestamp, draw: Draw) -> Ticket {
        recorder.begin((at, Revision::ZERO, percent("10")), candidate(Colour::Green, "2"), Colour::Green, draw)
    }

    fn end(recorder: &mut Recorder, ticket: Ticket) {
        let attribution = Attribution::expected(Colour::Green, Class::Status(2));
        recorder.end(ticket, &attribution, Duration::ZERO, &ErrorRule::default(), Host::default);
    }

    /// All green requests and those under way, as the leader knows them.
    fn known(host: &TestHost, now: Timestamp) -> (u64, u64) {
        let cohorts = gathered(&host.store, &Roster::read(&host.store), &iris(), now);
        let of = |count: fn(&crate::metrics::cohorts::Fates) -> u64| {
            cohorts.all().iter().map(|cohort| count(&cohort.colours.green)).sum()
        };
        (of(|fates| fates.total), of(|fates| fates.open))
    }

    #[test]
    fn the_leader_knows_what_all_workers_have_written() {
        let host = TestHost::default();
        let workers = [member(&host), member(&host)];
        let mut recorders: [Recorder; 2] = Default::default();
        assert_eq!(known(&host, START), (0, 0));
        for (recorder, member) in recorders.iter_mut().zip(&workers) {
            let ticket = begin(recorder, START, Draw::Request);
            assert!(recorder.write(&host.store, &iris(), member, START));
            begin(recorder, START, Draw::Request);
            end(recorder, ticket);
        }
        assert_eq!(known(&host, START), (2, 2), "what is not written is not known");
        recorders[0].write(&host.store, &iris(), &workers[0], START);
        assert_eq!(known(&host, START), (3, 2));
    }

    #[test]
    fn nothing_is_written_while_nothing_is_new_and_an_empty_record_when_all_is_read() {
        let host = TestHost::default();
        let (member, mut recorder) = (member(&host), Recorder::default());
        let key = Key::Cohorts(&iris(), member.slot).to_string();
        let stands = || host.store.read(&key).expect("in reach");
        assert!(!recorder.write(&host.store, &iris(), &member, START));
        assert_eq!(stands().value, None);
        let ticket = begin(&mut recorder, START, Draw::Request);
        recorder.write(&host.store, &iris(), &member, START);
        let first = stands();
        assert!(recorder.write(&host.store, &iris(), &member, after(250)));
        assert_eq!(stands(), first);
        end(&mut recorder, ticket);
        host.store.set_reachable(false);
        recorder.write(&host.store, &iris(), &member, after(500));
        host.store.set_reachable(true);
        assert!(recorder.write(&host.store, &iris(), &member, after(750)), "what was not written stays news");
        assert_eq!(known(&host, after(750)), (1, 0));
        assert!(!recorder.write(&host.store, &iris(), &member, after(10_000)));
        assert_eq!(stands().value, Some(Vec::new()));
        let last = stands();
        assert!(!recorder.write(&host.store, &iris(), &member, after(10_250)));
        assert_eq!(stands(), last);
    }

    #[test]
    fn what_a_worker_leaves_behind_counts_once_and_without_what_was_under_way() {
        let host = TestHost::default();
        let (first, mut recorder) = (member(&host), Recorder::default());
        let ticket = begin(&mut recorder, START, Draw::Request);
        end(&mut recorder, ticket);
        begin(&mut recorder, after(250), Draw::Request);
        recorder.write(&host.store, &iris(), &first, after(250));
        // A read between these must not count it twice.
        for _ in 0..2 {
            keep(&host.store, &iris(), &first, after(250)).expect("in reach");
            assert_eq!(known(&host, after(250)), (1, 0));
        }
        Roster::change(&host.store, START, &mut Vec::clear).expect("in reach");
        let second = member(&host);
        assert_eq!((second.slot, known(&host, after(250))), (first.slot, (1, 0)));
        let mut recorder = Recorder::default();
        begin(&mut recorder, after(500), Draw::Request);
        recorder.write(&host.store, &iris(), &second, after(500));
        assert_eq!(known(&host, after(500)), (2, 1));
        assert_eq!(known(&host, after(150_500)), (1, 1), "what is too old is of no use");
    }

    #[test]
    fn those_who_noted_nothing_leave_nothing_behind() {
        let host = TestHost::default();
        let member = member(&host);
        keep(&host.store, &iris(), &member, START).expect("in reach");
        assert_eq!(host.store.read(&Key::DepartedCohorts(&iris()).to_string()).expect("in reach").value, None);
    }

    #[test]
    fn what_others_wrote_under_these_keys_is_no_evidence() {
        let host = TestHost::default();
        let member = member(&host);
        for bytes in [&b"{}"[..], b"\xff", b"[1]", br#"{"number":99,"cohorts":[]}"#] {
            host.store.put(&Key::Cohorts(&iris(), member.slot).to_string(), bytes);
            host.store.put(&Key::DepartedCohorts(&iris()).to_string(), bytes);
            assert_eq!(known(&host, START), (0, 0), "{bytes:?}");
        }
    }

    #[test]
    fn the_keys_of_another_candidate_are_all_new() {
        let firsts = |change: &dyn Fn(&mut Recorder), then: (Colour, Buckets)| {
            let mut recorder = Recorder::default();
            let begin = |recorder: &mut Recorder, candidate| {
                recorder.begin((START, Revision::ZERO, percent("10")), candidate, Colour::Green, Draw::Key(7));
            };
            begin(&mut recorder, candidate(Colour::Green, "2"));
            change(&mut recorder);
            begin(&mut recorder, then);
            recorder.cohorts.all().iter().map(|cohort| cohort.colours.green.firsts).sum::<u64>()
        };
        let same = candidate(Colour::Green, "2");
        assert_eq!(firsts(&|_| {}, same), 1);
        assert_eq!(firsts(&Recorder::on_no_canary, same), 2);
        assert_eq!(firsts(&|_| {}, candidate(Colour::Green, "3")), 2);
        assert_eq!(firsts(&|_| {}, candidate(Colour::Blue, "2")), 2);
    }
}
