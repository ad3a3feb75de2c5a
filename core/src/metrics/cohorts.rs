//! What became of the requests that began at the same time.
//!
//! Counters say what *ended* in a span of time. A colour that is slower then has the errors of another minute in it, and what
//! hangs is in none. So while a canary is compared, each worker also keeps a cohort for each quarter of a second: the requests
//! that chance shared out between the colours in it, and what became of them, whenever that was. As in a trial, both arms of a
//! cohort lived through the same world.
//!
//! A cohort is kept until nothing of it is under way and a while has passed for all to read that. What is under way for longer
//! than anybody waits is let go: it is known to be unanswered.

use std::time::Duration;

use serde::Serialize;

use super::answer::Attribution;
use super::counters::Class;
use super::latency::{Bucket, Histogram};
use crate::config::ErrorRule;
use crate::json::FromJson;
use crate::model::colour::{Colour, PerColour};
use crate::model::percent::Percent;
use crate::model::split::Revision;
use crate::model::time::{Timestamp, millis};
pub use crate::routing::decision::Draw;

/// A quarter of a second, counted from 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, FromJson)]
#[serde(transparent)]
pub struct Epoch(u64);

/// Cohorts in the order in which they began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, FromJson)]
#[serde(transparent)]
pub struct Cohorts(Vec<Cohort>);

/// Requests of one epoch that were shared out in the same way.
#[derive(Clone, Debug, PartialEq, Serialize, FromJson)]
pub struct Cohort {
    /// When they began.
    pub epoch: Epoch,
    /// The state that they followed.
    pub revision: Revision,
    /// The candidate's share in it.
    pub share: Percent,
    /// What became of those of each colour.
    pub colours: PerColour<Fates>,
    /// When nothing of it was under way any more, as far as its own worker has noticed.
    #[serde(skip)]
    over_since: Option<Timestamp>,
}

/// What became of one colour's requests in a cohort.
///
/// *Units* are the requests that are evidence each for itself: those that chance shared out one by one, and the first of
/// each key. The others of a key are where the key is, so only their failures are looked at, and only the first of those.
#[derive(Clone, Debug, Default, PartialEq, Serialize, FromJson)]
#[serde(from = "FatesParts", into = "FatesParts")]
pub struct Fates {
    /// All requests.
    pub total: u64,
    /// Those that are not over.
    pub open: u64,
    /// Units that chance shared out one by one.
    pub drawn: u64,
    /// Units that are the first of their key.
    pub firsts: u64,
    /// Units without the head of an answer that are not over.
    pub waiting: u64,
    /// Units whose latency is not known yet.
    pub untimed: u64,
    /// What went wrong.
    pub bad: Vec<Bad>,
    /// The hosts that were asked, as far as they are known.
    pub hosts: Vec<Host>,
    /// Latencies of units: to the first byte or to the last, as the guard's rule says.
    pub latency: Histogram,
    /// How long units waited whose client left before their latency was known.
    pub gone: Histogram,
}

/// As they are written, several times a second: without names.
type FatesParts = ([u64; 6], Vec<Bad>, Vec<Host>, Histogram, Histogram);

/// So many requests that went wrong in the same way at the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, FromJson)]
#[serde(from = "BadParts", into = "BadParts")]
pub struct Bad {
    /// In which way.
    pub kind: Kind,
    /// Which host of the cluster did it.
    pub host: Host,
    /// Whose requests they were, where keys are shared out and not requests.
    pub key: Option<Slot>,
    /// Whether they were units.
    pub is_unit: bool,
    /// How many.
    pub count: u64,
}

type BadParts = (Kind, Host, Option<Slot>, bool, u64);

/// How a request went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, FromJson)]
pub enum Kind {
    /// A 5xx, a colour that was not reached, an answer that the model server broke off.
    #[serde(rename = "f")]
    Failed,
    /// A 4xx.
    #[serde(rename = "j")]
    Rejected,
    /// Answered well in the end, but not at the first attempt.
    #[serde(rename = "r")]
    Retried,
    /// The client left before the head of an answer.
    #[serde(rename = "l")]
    Left,
}

/// A host of a cluster, by a number made of its address; 0 where it is not known. Two hosts may share one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, FromJson)]
#[serde(transparent)]
pub struct Host(pub u16);

/// A place for keys, by their hash: [`Slot::COUNT`] in all. Keys that share one are taken for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, FromJson)]
#[serde(transparent)]
pub struct Slot(u16);

/// What a request under way remembers of its cohort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    epoch: Epoch,
    revision: Revision,
    colour: Colour,
    key: Option<Slot>,
    is_unit: bool,
    has_head: bool,
    is_timed: bool,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The colour answered, or failed to.
    Answered {
        /// What was wrong with it; nothing: it was well.
        wrong: Option<Kind>,
        /// Who answered; looked up only where something was wrong.
        host: Host,
        /// To the last byte.
        latency: Duration,
    },
    /// The client left.
    Left {
        /// Whom it waited for.
        host: Host,
        /// So long it had waited.
        after: Duration,
    },
    /// Nobody can be blamed: another filter answered, or another cluster did.
    Void,
}

/// The keys of which a worker has seen a request.
#[derive(Clone, Debug, Default)]
pub struct SeenKeys(Vec<u64>);

/// A cohort that is over is kept for so long after that: each of those who read it does so several times a second.
const KEPT: Duration = Duration::from_secs(3);
/// And none for longer: above the longest horizon.
const LONGEST: Duration = Duration::from_secs(150);
/// So many cohorts a worker keeps, the newest: a few more than there are epochs in [`LONGEST`].
const MOST: usize = 640;
/// The hosts of so many of a colour's answers that were well are looked up in a cohort: a look-up costs a request more than
/// all that is noted of it.
const LOOKED_UP: u64 = 16;
/// So many places and ways of failing a cohort tells apart in a colour.
const MOST_BAD: usize = 512;
/// So many hosts.
const MOST_HOSTS: usize = 64;

// === impl Epoch ===

impl Epoch {
    /// How long one is.
    pub const LENGTH: Duration = Duration::from_millis(250);

    /// The one that a moment lies in.
    pub fn of(at: Timestamp) -> Self {
        Self(at.as_millis().checked_div(millis(Self::LENGTH)).unwrap_or_default())
    }

    /// The one with this number.
    pub const fn numbered(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// When it is over.
    pub fn end(self) -> Timestamp {
        Timestamp::from_millis(self.0.saturating_add(1).saturating_mul(millis(Self::LENGTH)))
    }
}

// === impl Ticket ===

impl Ticket {
    /// The colour that it was sent to.
    pub const fn colour(&self) -> Colour {
        self.colour
    }
}

// === impl Kind ===

impl Kind {
    /// What was wrong with an answer of this class after so many `retries`, by what counts as an error.
    pub const fn of(class: Class, retries: u64, rule: &ErrorRule) -> Option<Self> {
        match class {
            Class::Status(5) | Class::Aborted => Some(Self::Failed),
            Class::Status(4) if rule.count_4xx => Some(Self::Rejected),
            _ if retries > 0 && rule.count_retries => Some(Self::Retried),
            _ => None,
        }
    }
}

// === impl Host ===

impl Host {
    /// The number of the host with this address.
    pub fn of(address: &[u8]) -> Self {
        if address.is_empty() {
            return Self::default();
        }
        let hash = xxhash_rust::xxh64::xxh64(address, 0);
        Self(u16::try_from(hash >> 48).unwrap_or_default().max(1))
    }
}

// === impl Slot ===

impl Slot {
    /// How many there are.
    pub const COUNT: usize = 4_096;

    /// The place of the key with this hash.
    pub fn of(hash: u64) -> Self {
        Self(u16::try_from(hash >> 52).unwrap_or_default())
    }

    /// Its number, below [`Slot::COUNT`].
    pub fn index(self) -> usize {
        usize::from(self.0) % Self::COUNT
    }
}

// === impl Bad ===

impl From<BadParts> for Bad {
    fn from((kind, host, key, is_unit, count): BadParts) -> Self {
        Self { kind, host, key, is_unit, count }
    }
}

impl From<Bad> for BadParts {
    fn from(bad: Bad) -> Self {
        (bad.kind, bad.host, bad.key, bad.is_unit, bad.count)
    }
}

// === impl Ending ===

impl Ending {
    /// How a request to `colour` ended that took so long, by what counts as an error. The host is looked up where it
    /// matters: of all that went wrong, and of others where one is wanted.
    pub fn of(
        colour: Colour,
        attribution: &Attribution,
        latency: Duration,
        rule: &ErrorRule,
        wants_host: bool,
        host: impl FnOnce() -> Host,
    ) -> Self {
        if attribution.colour != Some(colour) {
            return Self::Void;
        }
        if attribution.class == Class::Unanswered {
            return Self::Left { host: host(), after: latency };
        }
        let wrong = Kind::of(attribution.class, attribution.retries, rule);
        let host = match wrong {
            // The one that is known is the last that was asked, and it did well.
            Some(Kind::Retried) => Host::default(),
            None if !wants_host => Host::default(),
            _ => host(),
        };
        Self::Answered { wrong, host, latency }
    }
}

// === impl Cohorts ===

impl Cohorts {
    /// All of them, in their order.
    pub fn all(&self) -> &[Cohort] {
        &self.0
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A request begins that chance sent to `colour`, where the candidate has this `share`. `seen` are the keys that this
    /// worker knows.
    pub fn begin(
        &mut self,
        (now, revision, share): (Timestamp, Revision, Percent),
        colour: Colour,
        draw: Draw,
        seen: &mut SeenKeys,
    ) -> Ticket {
        let (key, is_unit) = match draw {
            Draw::Request => (None, true),
            Draw::Key(hash) => (Some(Slot::of(hash)), seen.is_first(hash)),
        };
        let epoch = Epoch::of(now);
        let ticket = Ticket { epoch, revision, colour, key, is_unit, has_head: false, is_timed: false };
        let Some(cohort) = self.cohort(epoch, revision, share) else { return ticket };
        let fates = cohort.colours.get_mut(colour);
        fates.total = fates.total.saturating_add(1);
        fates.open = fates.open.saturating_add(1);
        if is_unit {
            let units = if key.is_some() { &mut fates.firsts } else { &mut fates.drawn };
            *units = units.saturating_add(1);
            fates.waiting = fates.waiting.saturating_add(1);
            fates.untimed = fates.untimed.saturating_add(1);
        }
        ticket
    }

    /// The head of its answer has come. `latency` is the time to it, where that is what the guard's rule is about.
    pub fn on_head(&mut self, ticket: &mut Ticket, latency: Option<Duration>) {
        let had_head = std::mem::replace(&mut ticket.has_head, true);
        let timed = latency.filter(|_| !ticket.is_timed);
        ticket.is_timed |= timed.is_some();
        let Some(fates) = self.fates(ticket).filter(|_| ticket.is_unit) else { return };
        if !had_head {
            fates.waiting = fates.waiting.saturating_sub(1);
        }
        if let Some(latency) = timed {
            fates.untimed = fates.untimed.saturating_sub(1);
            fates.latency.add(Bucket::of(latency), 1);
        }
    }

    /// It is over.
    pub fn end(&mut self, ticket: Ticket, ending: Ending) {
        // It may have been under way for longer than cohorts are kept.
        let Some(fates) = self.fates(&ticket) else { return };
        fates.open = fates.open.saturating_sub(1);
        if ticket.is_unit && !ticket.has_head {
            fates.waiting = fates.waiting.saturating_sub(1);
        }
        let is_untimed = ticket.is_unit && !ticket.is_timed;
        if is_untimed {
            fates.untimed = fates.untimed.saturating_sub(1);
        }
        if let Ending::Answered { host, .. } | Ending::Left { host, .. } = ending {
            fates.add_host(host);
        }
        match ending {
            Ending::Answered { wrong, host, latency } => {
                if is_untimed {
                    fates.latency.add(Bucket::of(latency), 1);
                }
                if let Some(kind) = wrong {
                    fates.add(Bad { kind, host, key: ticket.key, is_unit: ticket.is_unit, count: 1 });
                }
            }
            Ending::Left { host, after } => {
                if is_untimed {
                    fates.gone.add(Bucket::of(after), 1);
                }
                if !ticket.has_head {
                    let (key, is_unit) = (ticket.key, ticket.is_unit);
                    fates.add(Bad { kind: Kind::Left, host, key, is_unit, count: 1 });
                }
            }
            Ending::Void => {
                fates.total = fates.total.saturating_sub(1);
                if ticket.is_unit {
                    let units = if ticket.key.is_some() { &mut fates.firsts } else { &mut fates.drawn };
                    *units = units.saturating_sub(1);
                }
            }
        }
    }

    /// Whether the host is worth a look-up that answers this request well.
    pub fn wants_host(&self, ticket: &Ticket) -> bool {
        let fates = self.place(ticket.epoch, ticket.revision).ok().and_then(|place| self.0.get(place));
        fates.is_some_and(|cohort| {
            let Fates { total, open, .. } = *cohort.colours.get(ticket.colour);
            total.saturating_sub(open) < LOOKED_UP
        })
    }

    /// Lets go of those that all have read, and of those that are too old. Whether there were any.
    pub fn retire(&mut self, now: Timestamp) -> bool {
        let before = self.0.len();
        self.0.retain_mut(|cohort| {
            let over_since = cohort.is_over().then(|| cohort.over_since.unwrap_or(now));
            cohort.over_since = over_since;
            let end = cohort.epoch.end();
            let is_read = over_since.is_some_and(|since| since.max(end).plus(KEPT) <= now);
            // What lies ahead was noted by a clock that was set back since.
            !is_read && now < end.plus(LONGEST) && !end.is_ahead_of(now)
        });
        self.0.len() < before
    }

    /// What remains of those of a worker that goes: what is under way there nobody will hear of.
    #[must_use]
    pub fn only_over(mut self) -> Self {
        self.0.retain(Cohort::is_over);
        self
    }

    /// Adds those of another worker.
    pub fn merge(&mut self, other: &Self) {
        for cohort in &other.0 {
            let Some(into) = self.cohort(cohort.epoch, cohort.revision, cohort.share) else { continue };
            for colour in Colour::ALL {
                into.colours.get_mut(colour).merge(cohort.colours.get(colour));
            }
        }
    }

    /// The one of this epoch and revision, begun if need be; none where it is older than all that are kept.
    fn cohort(&mut self, epoch: Epoch, revision: Revision, share: Percent) -> Option<&mut Cohort> {
        let place = match self.place(epoch, revision) {
            Ok(place) => place,
            Err(0) if self.0.len() >= MOST => return None,
            Err(mut place) => {
                if self.0.len() >= MOST {
                    self.0.remove(0);
                    place = place.saturating_sub(1);
                }
                let cohort = Cohort { epoch, revision, share, colours: PerColour::default(), over_since: None };
                self.0.insert(place, cohort);
                place
            }
        };
        self.0.get_mut(place)
    }

    fn fates(&mut self, ticket: &Ticket) -> Option<&mut Fates> {
        let place = self.place(ticket.epoch, ticket.revision).ok()?;
        Some(self.0.get_mut(place)?.colours.get_mut(ticket.colour))
    }

    /// Where it is, or where it belongs.
    fn place(&self, epoch: Epoch, revision: Revision) -> Result<usize, usize> {
        self.0.binary_search_by_key(&(epoch, revision), |cohort| (cohort.epoch, cohort.revision))
    }
}

// === impl Cohort ===

impl Cohort {
    /// Whether nothing of it is under way.
    pub fn is_over(&self) -> bool {
        Colour::ALL.into_iter().all(|colour| self.colours.get(colour).open == 0)
    }

    /// Whether each unit of it has the head of an answer, or is over.
    pub fn has_heads(&self) -> bool {
        Colour::ALL.into_iter().all(|colour| self.colours.get(colour).waiting == 0)
    }
}

// === impl Fates ===

impl Fates {
    /// All units.
    pub const fn units(&self) -> u64 {
        self.drawn.saturating_add(self.firsts)
    }

    fn add(&mut self, bad: Bad) {
        let is_full = self.bad.len() >= MOST_BAD;
        let same = |other: &&mut Bad| {
            // When it is full so much goes wrong in a quarter of a second that it matters little where.
            let is_same_place = is_full || (other.host, other.key) == (bad.host, bad.key);
            (other.kind, other.is_unit) == (bad.kind, bad.is_unit) && is_same_place
        };
        match self.bad.iter_mut().find(same) {
            Some(known) => known.count = known.count.saturating_add(bad.count),
            None => self.bad.push(bad),
        }
    }

    fn add_host(&mut self, host: Host) {
        if host != Host::default() && self.hosts.len() < MOST_HOSTS && !self.hosts.contains(&host) {
            self.hosts.push(host);
        }
    }

    fn merge(&mut self, other: &Self) {
        let sums = [
            (&mut self.total, other.total),
            (&mut self.open, other.open),
            (&mut self.drawn, other.drawn),
            (&mut self.firsts, other.firsts),
            (&mut self.waiting, other.waiting),
            (&mut self.untimed, other.untimed),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(more);
        }
        other.bad.iter().for_each(|bad| self.add(*bad));
        other.hosts.iter().for_each(|host| self.add_host(*host));
        self.latency.merge(&other.latency);
        self.gone.merge(&other.gone);
    }
}

impl From<FatesParts> for Fates {
    fn from((counts, bad, hosts, latency, gone): FatesParts) -> Self {
        let [total, open, drawn, firsts, waiting, untimed] = counts;
        Self { total, open, drawn, firsts, waiting, untimed, bad, hosts, latency, gone }
    }
}

impl From<Fates> for FatesParts {
    fn from(fates: Fates) -> Self {
        let Fates { total, open, drawn, firsts, waiting, untimed, bad, hosts, latency, gone } = fates;
        ([total, open, drawn, firsts, waiting, untimed], bad, hosts, latency, gone)
    }
}

// === impl SeenKeys ===

impl SeenKeys {
    /// 65,536 places: keys that share one are taken for one.
    const WORDS: usize = 1_024;

    /// Whether this is the first request of the key with this hash. It is not from now on.
    fn is_first(&mut self, hash: u64) -> bool {
        if self.0.is_empty() {
            self.0.resize(Self::WORDS, 0);
        }
        let place = usize::try_from(hash >> 48).unwrap_or_default();
        let bit = 1_u64 << (place % 64);
        match self.0.get_mut(place / 64) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }

    /// Forgets them: another release has its own draw.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;
    use crate::metrics::answer::Reach;
    use crate::testing::percent;

    /// The beginning of an epoch.
    const START: Timestamp = Timestamp::from_millis(1_795_446_000_000);
    const HOST: Host = Host(7);
    const WELL: Ending = answered(None);

    const fn answered(wrong: Option<Kind>) -> Ending {
        Ending::Answered { wrong, host: HOST, latency: Duration::from_millis(100) }
    }

    const fn left(after: u64) -> Ending {
        Ending::Left { host: HOST, after: Duration::from_secs(after) }
    }

    fn after(millis: u64) -> Timestamp {
        START.plus(Duration::from_millis(millis))
    }

    /// A worker's cohorts, and what it needs to begin one.
    #[derive(Default)]
    struct Worker {
        cohorts: Cohorts,
        seen: SeenKeys,
    }

    impl Worker {
        fn begins(&mut self, at: Timestamp, revision: u64, colour: Colour, draw: Draw) -> Ticket {
            self.cohorts.begin((at, Revision::new(revision), percent("10")), colour, draw, &mut self.seen)
        }

        fn green(&mut self, at: Timestamp, draw: Draw) -> Ticket {
            self.begins(at, 1, Colour::Green, draw)
        }

        /// A green request that begins at the start and ends at once.
        fn serves(&mut self, draw: Draw, ending: Ending) {
            let mut ticket = self.green(START, draw);
            if !matches!(ending, Ending::Left { .. }) {
                self.cohorts.on_head(&mut ticket, None);
            }
            self.cohorts.end(ticket, ending);
        }

        fn fates(&self) -> &Fates {
            let [cohort] = self.cohorts.all() else { panic!("{:?}", self.cohorts) };
            &cohort.colours.green
        }
    }

    fn bad(kind: Kind, key: Option<Slot>, is_unit: bool, count: u64) -> Bad {
        Bad { kind, host: HOST, key, is_unit, count }
    }

    #[test]
    fn every_request_is_in_the_cohort_of_its_beginning_and_its_state_and_in_no_other() {
        let mut worker = Worker::default();
        // Not in order: the state may change within an epoch, and clocks go back a little.
        let begun = [(0, 1), (249, 1), (250, 1), (100, 2), (900, 2), (260, 1)];
        for colour in Colour::ALL {
            begun.iter().for_each(|(at, revision)| _ = worker.begins(after(*at), *revision, colour, Draw::Request));
        }
        let seen: Vec<_> = worker
            .cohorts
            .all()
            .iter()
            .map(|cohort| {
                (cohort.epoch.number() - Epoch::of(START).number(), cohort.revision.get(), cohort.colours.blue.total)
            })
            .collect();
        assert_eq!(seen, [(0, 1, 2), (0, 2, 1), (1, 1, 2), (3, 2, 1)]);
        assert!(worker.cohorts.all().iter().all(|cohort| cohort.colours.blue == cohort.colours.green));
    }

    #[test]
    fn an_end_finds_the_cohort_of_its_beginning_however_late_it_comes() {
        let mut worker = Worker::default();
        let tickets: Vec<Ticket> = (0..100).map(|n| worker.green(after(n * 250), Draw::Request)).collect();
        for (n, ticket) in tickets.into_iter().enumerate().rev() {
            let is_over = worker.cohorts.all()[n].is_over();
            worker.cohorts.end(ticket, answered(Some(Kind::Failed)));
            assert_eq!((is_over, worker.cohorts.all()[n].is_over()), (false, true));
        }
        let failed = [bad(Kind::Failed, None, true, 1)];
        assert!(worker.cohorts.all().iter().all(|cohort| cohort.colours.green.bad == failed));
    }

    #[test]
    fn what_nobody_can_be_blamed_for_is_taken_back_whenever_that_is_found_out() {
        for draw in [Draw::Request, Draw::Key(1)] {
            for has_head in [false, true] {
                let mut worker = Worker::default();
                worker.serves(draw, Ending::Void);
                let mut ticket = worker.green(START, draw);
                if has_head {
                    worker.cohorts.on_head(&mut ticket, None);
                }
                worker.cohorts.end(ticket, Ending::Void);
                assert_eq!(worker.fates(), &Fates::default());
            }
        }
    }

    #[test]
    fn a_head_that_comes_twice_counts_once() {
        let mut worker = Worker::default();
        let mut ticket = worker.green(START, Draw::Request);
        let waiting =
            |worker: &Worker| (worker.fates().waiting, worker.fates().untimed, worker.fates().latency.total());
        assert_eq!(waiting(&worker), (1, 1, 0));
        worker.green(START, Draw::Request);
        worker.cohorts.on_head(&mut ticket, None);
        assert_eq!(waiting(&worker), (1, 2, 0));
        for _ in 0..2 {
            worker.cohorts.on_head(&mut ticket, Some(Duration::from_millis(5)));
            assert_eq!(waiting(&worker), (1, 1, 1));
        }
        // Nor is the time to the last byte counted beside that to the first.
        worker.cohorts.end(ticket, WELL);
        assert_eq!(waiting(&worker), (1, 1, 1));
        assert_eq!(worker.fates().open, 1);
    }

    #[test]
    fn a_client_that_leaves_blames_the_colour_only_while_there_is_no_head() {
        let mut worker = Worker::default();
        worker.serves(Draw::Request, left(2));
        assert_eq!(worker.fates().bad, [bad(Kind::Left, None, true, 1)]);
        let mut ticket = worker.green(START, Draw::Request);
        worker.cohorts.on_head(&mut ticket, None);
        worker.cohorts.end(ticket, left(3));
        let Fates { bad, gone, latency, open, waiting, untimed, .. } = worker.fates();
        assert_eq!((bad.len(), gone.total(), latency.total()), (1, 2, 0));
        assert_eq!((*open, *waiting, *untimed), (0, 0, 0));
    }

    #[test]
    fn of_a_key_the_first_request_is_a_unit_and_the_failures_of_all_are_known() {
        let mut worker = Worker::default();
        let (alice, bob) = (0x1234_5678_9abc_def0, 0xf234_5678_9abc_def0);
        let failed = answered(Some(Kind::Failed));
        for (key, ending) in [(alice, WELL), (alice, failed), (bob, failed), (alice, failed), (alice, left(1))] {
            worker.serves(Draw::Key(key), ending);
        }
        let fates = worker.fates();
        assert_eq!((fates.total, fates.firsts, fates.drawn, fates.units()), (5, 2, 0, 2));
        assert_eq!((fates.latency.total(), fates.gone.total()), (2, 0));
        let (alice, bob) = (Some(Slot::of(alice)), Some(Slot::of(bob)));
        let expected =
            [bad(Kind::Failed, alice, false, 2), bad(Kind::Failed, bob, true, 1), bad(Kind::Left, alice, false, 1)];
        assert_eq!(fates.bad, expected);
        worker.seen.clear();
        worker.serves(Draw::Key(0x1234_5678_9abc_def0), WELL);
        assert_eq!(worker.fates().firsts, 3);
    }

    #[test]
    fn every_slot_is_some_keys_and_does_not_follow_from_the_bucket() {
        let slots: std::collections::BTreeSet<usize> =
            (0..4_096_u64).map(|slot| Slot::of(slot << 52).index()).collect();
        assert_eq!((slots.len(), slots.first(), slots.last()), (Slot::COUNT, Some(&0), Some(&(Slot::COUNT - 1))));
        assert_eq!(Slot::of(1), Slot::of(9_999));
    }

    #[test]
    fn a_cohort_that_is_over_is_kept_until_all_have_read_that_however_late_it_ended() {
        let mut worker = Worker::default();
        worker.serves(Draw::Request, WELL);
        let slow = worker.green(after(250), Draw::Request);
        let kept = |worker: &mut Worker, at: u64| {
            let went = worker.cohorts.retire(after(at));
            (worker.cohorts.all().len(), went)
        };
        assert_eq!(kept(&mut worker, 250), (2, false));
        assert_eq!(kept(&mut worker, 3_249), (2, false));
        assert_eq!(kept(&mut worker, 3_250), (1, true));
        worker.cohorts.end(slow, WELL);
        assert_eq!(kept(&mut worker, 60_000), (1, false));
        assert_eq!(kept(&mut worker, 62_999), (1, false));
        assert_eq!(kept(&mut worker, 63_000), (0, true));
    }

    #[test]
    fn one_to_which_another_request_comes_is_not_over_any_more() {
        let mut worker = Worker::default();
        worker.serves(Draw::Request, WELL);
        worker.cohorts.retire(after(10));
        let open = worker.green(after(20), Draw::Request);
        worker.cohorts.retire(after(60_000));
        worker.cohorts.end(open, WELL);
        assert!(!worker.cohorts.retire(after(60_250)));
        assert!(worker.cohorts.retire(after(63_250)));
    }

    #[test]
    fn what_is_under_way_is_let_go_when_nobody_waits_for_it_any_more_and_its_end_is_no_harm() {
        let mut worker = Worker::default();
        let hanging = worker.green(START, Draw::Request);
        assert!(!worker.cohorts.retire(after(150_000)));
        assert!(worker.cohorts.retire(after(150_250)));
        let mut late = hanging;
        worker.cohorts.on_head(&mut late, None);
        worker.cohorts.end(late, answered(Some(Kind::Failed)));
        assert!(worker.cohorts.is_empty());
    }

    #[test]
    fn a_clock_that_was_set_back_takes_what_lies_ahead_with_it() {
        let mut worker = Worker::default();
        let ahead = worker.green(after(600_000), Draw::Request);
        // So far the clocks of two machines may be apart.
        worker.green(after(30_000), Draw::Request);
        worker.green(START, Draw::Request);
        assert!(worker.cohorts.retire(START));
        assert_eq!(worker.cohorts.all().len(), 2);
        worker.cohorts.end(ahead, WELL);
        assert!(worker.cohorts.all().iter().all(|cohort| cohort.colours.green.open == 1));
    }

    #[test]
    fn however_much_begins_and_fails_only_so_much_is_kept() {
        let mut worker = Worker::default();
        for n in 0..2_000 {
            worker.green(after(n * 250), Draw::Request);
        }
        // Older than all that are kept.
        worker.green(START, Draw::Request);
        assert_eq!(worker.cohorts.all().len(), MOST);
        assert_eq!(worker.cohorts.all()[0].epoch.number(), Epoch::of(START).number() + 2_000 - MOST as u64);

        let mut worker = Worker::default();
        for n in 0..10_000_u64 {
            let host = Host(u16::try_from(n % 5_000 + 1).expect("small"));
            let ending = Ending::Answered { wrong: Some(Kind::Failed), host, latency: Duration::ZERO };
            // Every second one is another request of a key.
            worker.serves(Draw::Key((n / 2) << 48), ending);
        }
        let fates = worker.fates();
        assert!(fates.bad.len() <= MOST_BAD + 1 && fates.hosts.len() == MOST_HOSTS, "{}", fates.bad.len());
        let of_units =
            |is_unit: bool| -> u64 { fates.bad.iter().filter(|bad| bad.is_unit == is_unit).map(|bad| bad.count).sum() };
        assert_eq!((of_units(true), of_units(false)), (5_000, 5_000), "units stay units");
    }

    #[test]
    fn workers_add_up_whatever_the_order() {
        let mut workers: [Worker; 3] = Default::default();
        for (n, worker) in workers.iter_mut().enumerate() {
            let n = n as u64;
            worker.serves(Draw::Request, answered(Some(Kind::Failed)));
            worker.serves(Draw::Key(n << 52), left(n));
            worker.green(START, Draw::Request);
            worker.begins(after(250 * n), n, Colour::Blue, Draw::Request);
        }
        let sum = |order: [usize; 3]| {
            let mut sum = Cohorts::default();
            order.into_iter().for_each(|n| sum.merge(&workers[n].cohorts));
            sum
        };
        let all = sum([0, 1, 2]);
        assert_eq!(all.all().len(), 4);
        let green = &all.all().iter().find(|cohort| cohort.colours.green.total > 0).expect("begun").colours.green;
        assert_eq!((green.total, green.open, green.drawn, green.firsts), (9, 3, 6, 3));
        assert_eq!((green.waiting, green.untimed, green.latency.total(), green.gone.total()), (3, 3, 3, 3));
        assert_eq!((green.bad[0], green.bad.len(), &green.hosts), (bad(Kind::Failed, None, true, 3), 4, &vec![HOST]));
        let mut other = sum([2, 1, 0]).all().to_vec();
        let mut all = all.all().to_vec();
        for cohort in all.iter_mut().chain(&mut other) {
            cohort.colours.green.bad.sort_by_key(|bad| bad.key);
        }
        assert_eq!(all, other);
    }

    #[test]
    fn what_goes_with_its_worker_leaves_what_is_over() {
        let mut worker = Worker::default();
        worker.serves(Draw::Request, WELL);
        worker.green(after(250), Draw::Request);
        let over = worker.cohorts.only_over();
        assert_eq!(over.all().len(), 1);
        assert!(over.all()[0].is_over());
    }

    #[test]
    fn the_hosts_of_the_first_answers_are_looked_up_and_those_of_all_that_went_wrong() {
        let rule = ErrorRule::default();
        let ending = |class, retries, wants_host| {
            let attribution = Attribution { reach: Reach::Reached, colour: Some(Colour::Green), class, retries };
            Ending::of(Colour::Green, &attribution, Duration::ZERO, &rule, wants_host, || HOST)
        };
        let latency = Duration::ZERO;
        for (class, retries, wrong, with, without) in [
            (Class::Status(2), 0, None, HOST, Host::default()),
            (Class::Status(5), 2, Some(Kind::Failed), HOST, HOST),
            (Class::Aborted, 0, Some(Kind::Failed), HOST, HOST),
            // Who failed at first is not known.
            (Class::Status(2), 2, Some(Kind::Retried), Host::default(), Host::default()),
        ] {
            assert_eq!(ending(class, retries, true), Ending::Answered { wrong, host: with, latency }, "{class:?}");
            assert_eq!(ending(class, retries, false), Ending::Answered { wrong, host: without, latency }, "{class:?}");
        }
        assert_eq!(ending(Class::Unanswered, 2, false), Ending::Left { host: HOST, after: latency });

        let mut worker = Worker::default();
        let wants = |worker: &mut Worker| {
            let ticket = worker.green(START, Draw::Request);
            let wants = worker.cohorts.wants_host(&ticket);
            worker.cohorts.end(ticket, WELL);
            wants
        };
        assert_eq!((0..100).filter(|_| wants(&mut worker)).count() as u64, LOOKED_UP);
    }

    #[test]
    fn what_counts_as_wrong_is_what_the_rule_says() {
        let rule = |count_4xx, count_retries| ErrorRule { count_4xx, count_retries, ..ErrorRule::default() };
        let (ok, rejected, failed) = (Class::Status(2), Class::Status(4), Class::Status(5));
        let cases = [
            (ok, 0, rule(true, true), None),
            (ok, 1, rule(false, true), Some(Kind::Retried)),
            (ok, 1, rule(true, false), None),
            (Class::Status(3), 0, rule(true, true), None),
            (rejected, 0, rule(false, true), None),
            (rejected, 0, rule(true, false), Some(Kind::Rejected)),
            (rejected, 1, rule(false, true), Some(Kind::Retried)),
            (rejected, 1, rule(true, true), Some(Kind::Rejected)),
            (failed, 1, rule(false, false), Some(Kind::Failed)),
            (Class::Aborted, 0, rule(false, false), Some(Kind::Failed)),
        ];
        for (class, retries, rule, expected) in cases {
            assert_eq!(Kind::of(class, retries, &rule), expected, "{class:?} {retries} {rule:?}");
        }
    }

    #[test]
    fn as_json_it_is_what_it_was_and_short() {
        let mut worker = Worker::default();
        for n in 0..25 {
            worker.serves(Draw::Request, if n == 0 { answered(Some(Kind::Failed)) } else { WELL });
            let ticket = worker.begins(START, 1, Colour::Blue, Draw::Key(n << 52));
            worker.cohorts.end(ticket, if n == 0 { left(1) } else { WELL });
        }
        let json = serde_json::to_string(&worker.cohorts).expect("can be written");
        assert!(json.len() < 250, "{} bytes: {json}", json.len());
        assert_eq!(json::from_str::<Cohorts>(&json).expect("as written"), worker.cohorts);
        let plain = r#"[{"epoch":7181784000,"revision":1,"share":10.0,"colours":{"blue":[[1,0,1,0,0,0],[],[],{},{}],"green":[[0,0,0,0,0,0],[],[],{},{}]}}]"#;
        assert!(json::from_str::<Cohorts>(plain).is_ok());
        for damaged in ["{}", "[1]", r#"[{"epoch":1}]"#] {
            assert!(json::from_str::<Cohorts>(damaged).is_err(), "{damaged}");
        }
    }
}
