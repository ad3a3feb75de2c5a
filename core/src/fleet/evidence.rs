//! What the Envoys of a fleet tell each other about a canary, so that all their requests are evidence in one test.
//!
//! Each Envoy turns its own requests into evidence, adds it up for each second, and keeps a record of it in the fleet's store: what nobody
//! has played yet. One Envoy is the judge for a while. It adds up what all say about a second and a test, plays it, and
//! writes how the analysis stands, together with the last second that was played of each test, on the condition that the last judgement is still
//! the one that it began with. So a second is played once, whichever Envoy judges, and however many do at the same time.
//!
//! A second is played when each Envoy that shows signs of life has said all it knows about it. Who is silent for [`PATIENCE`] is not waited for,
//! and what comes after a second was played is dropped: time decides that, and not what became of the requests.
//!
//! A second is what an Envoy's own clock calls so. That clocks differ does no harm: chance shared out each Envoy's requests
//! between the colours, and so it did their sum, whenever they were. What a clock says that is wrong by more than [`OFF`] is left out, since
//! its seconds never end or are over.

use std::time::Duration;

use serde::Serialize;

use crate::guard::analysis::CanaryAnalysis;
use crate::guard::evidence::{Evidence, Test};
use crate::guard::outcomes::Outcomes;
use crate::json::{self, FromJson};
use crate::metrics::cohorts::{Epoch, Host, Slot};
use crate::model::colour::{Colour, PerColour};
use crate::model::percent::Percent;
use crate::model::split::Revision;
use crate::model::time::{Moment, Timestamp};
use crate::shadow::excess::Excess;

/// Names an Envoy, or what was one until it restarted: the revision of a write that it made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, FromJson)]
#[serde(transparent)]
pub struct EnvoyId(pub u64);

/// A second, counted from 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, FromJson)]
#[serde(transparent)]
pub struct Second(u64);

/// Up to which second, of each test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, FromJson)]
#[serde(transparent)]
pub struct UpTo(Vec<(Test, Second)>);

/// What an Envoy says.
#[derive(Clone, Debug, PartialEq, Serialize, FromJson)]
pub struct Statement {
    /// When, by its clock.
    pub at: Timestamp,
    /// Up to where it says all it knows.
    up_to: UpTo,
    pieces: Vec<Piece>,
    /// What it has found by comparing answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Answers>,
}

/// What came of comparing answers, in all. Nothing of it is played twice: the last one that an Envoy has said takes the place of
/// those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, FromJson)]
pub struct Answers {
    /// A number that stands for what is behind the two colours.
    pub about: u64,
    /// What was found.
    pub excess: Excess,
}

/// What a judge says.
#[derive(Clone, Debug, PartialEq, Serialize, FromJson)]
pub struct Judgement {
    /// Who judges.
    pub judge: EnvoyId,
    /// The state that it knew.
    pub revision: Revision,
    /// Up to where evidence was played.
    pub played: UpTo,
    /// How the analysis stands.
    pub analysis: CanaryAnalysis,
}

/// What an Envoy has collected and nobody has played yet, as far as this Envoy has heard.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    /// With the moment at which the first of it came.
    pieces: Vec<(Moment, Evidence)>,
    up_to: UpTo,
}

/// An Envoy that has said something.
#[derive(Clone, Copy, Debug)]
pub struct Speaker<'s> {
    /// What it says.
    pub statement: &'s Statement,
    /// Whether it is waited for.
    pub is_awaited: bool,
}

/// A piece of evidence in few letters.
#[derive(Clone, Debug, PartialEq, Serialize, FromJson)]
#[serde(from = "Parts", into = "Parts")]
struct Piece(Evidence);

/// The test, the epoch, revision and share; the outcomes of blue and then green, all and bad; the hosts and keys, 1 for green.
type Parts = (u8, u64, Revision, Percent, [Sums; 3], Vec<(u8, Host, u64)>, Vec<(u8, Slot, Host)>);
type Sums = (u64, u64, u64, u64);

/// An Envoy that says nothing new for so long is not waited for.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// A clock that is off by more is wrong.
pub const OFF: Duration = Duration::from_secs(10);
/// What nobody has played for so long after it was collected is dropped. Before that another Envoy may have been waiting for
/// an answer until the horizon.
const KEPT: Duration = Duration::from_secs(150);
/// Evidence of so many tests, seconds and revisions is kept, the newest.
const MOST: usize = 1_024;
/// So many hosts of a colour are told apart in a piece.
const MOST_HOSTS: usize = 64;
/// So many keys.
const MOST_KEYS: usize = 128;

// === impl Second ===

impl Second {
    /// How many epochs one has.
    const EPOCHS: u64 = 4;

    /// The one that a point in time lies in.
    pub fn of(at: Timestamp) -> Self {
        Self::with(Epoch::of(at))
    }

    /// The one that an epoch lies in.
    fn with(epoch: Epoch) -> Self {
        Self(epoch.number() / Self::EPOCHS)
    }

    /// The last one that is over when this is the last epoch that is.
    fn over_by(epoch: Epoch) -> Self {
        Self((epoch.number().saturating_add(1) / Self::EPOCHS).saturating_sub(1))
    }
}

// === impl UpTo ===

impl UpTo {
    /// Up to which second of a test; none where there is nothing of it.
    pub fn of(&self, test: Test) -> Option<Second> {
        self.0.iter().find(|(of, _)| *of == test).map(|(_, second)| *second)
    }

    fn reach(&mut self, test: Test, second: Second) {
        match self.0.iter_mut().find(|(of, _)| *of == test) {
            Some((_, reached)) => *reached = second.max(*reached),
            None => self.0.push((test, second)),
        }
    }

    fn is_past(&self, evidence: &Evidence) -> bool {
        self.of(evidence.test).is_some_and(|reached| Second::with(evidence.epoch) <= reached)
    }
}

// === impl Outbox ===

impl Outbox {
    /// Takes what was collected.
    pub fn add(&mut self, evidence: Evidence, now: Moment) {
        let place = |evidence: &Evidence| (evidence.test, Second::with(evidence.epoch), evidence.revision);
        match self.pieces.iter_mut().find(|(_, known)| place(known) == place(&evidence)) {
            Some((_, known)) => known.merge(&evidence),
            None => self.pieces.push((now, evidence)),
        }
    }

    /// Nothing of a test will be collected up to this epoch any more.
    pub fn reach(&mut self, test: Test, epoch: Epoch) {
        self.up_to.reach(test, Second::over_by(epoch));
    }

    /// Lets go of what was played, and of what nobody has played in time.
    pub fn drop_old(&mut self, played: Option<&UpTo>, now: Moment) {
        self.pieces.retain(|(since, evidence)| {
            now < since.plus(KEPT) && !played.is_some_and(|played| played.is_past(evidence))
        });
        self.pieces.drain(..self.pieces.len().saturating_sub(MOST));
    }

    /// What there is to be said: all about the seconds that are complete, and what came of comparing answers.
    pub fn statement(&self, at: Timestamp, answers: Option<Answers>) -> Statement {
        let complete = self.pieces.iter().filter(|(_, evidence)| self.up_to.is_past(evidence));
        let pieces = complete.map(|(_, evidence)| Piece(shortened(evidence))).collect();
        Statement { at, up_to: self.up_to.clone(), pieces, answers }
    }
}

/// What is left out is chosen by numbers made of addresses and keys, which know nothing of the colours.
fn shortened(evidence: &Evidence) -> Evidence {
    let mut evidence = evidence.clone();
    for colour in Colour::ALL {
        let hosts = evidence.hosts.iter().filter(|(of, ..)| *of == colour);
        if hosts.clone().count() > MOST_HOSTS {
            let hosts = least(hosts.copied(), MOST_HOSTS, |(_, host, _)| *host);
            evidence.hosts.retain(|(of, ..)| *of != colour);
            evidence.hosts.extend(hosts);
        }
    }
    if evidence.keys.len() > MOST_KEYS {
        evidence.keys = least(evidence.keys.into_iter(), MOST_KEYS, |(_, slot, _)| *slot);
    }
    evidence
}

/// The first `most` in the order of a key.
fn least<T, K: Ord>(all: impl Iterator<Item = T>, most: usize, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut least: Vec<T> = Vec::new();
    for one in all {
        let place = least.partition_point(|known| key(known) <= key(&one));
        if place < most {
            least.truncate(most.saturating_sub(1));
            least.insert(place, one);
        }
    }
    least
}

// === impl Statement ===

impl Statement {
    /// The statement that stands in a value; none where something else does.
    pub fn decode(value: &[u8]) -> Option<Self> {
        json::from_slice(value).ok()
    }

    /// As a value.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Whether the clock that it goes by is right, by this one.
    pub fn is_timely(&self, now: Timestamp) -> bool {
        self.at.apart(now) <= OFF
    }
}

// === impl Judgement ===

impl Judgement {
    /// The judgement that stands in a value; none where something else does.
    pub fn decode(value: &[u8]) -> Option<Self> {
        json::from_slice(value).ok()
    }

    /// As a value.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// What all have found by comparing answers between what this number stands for.
pub fn answers(speakers: &[Speaker<'_>], about: u64) -> Excess {
    let mut sum = Excess::default();
    let said = speakers.iter().filter_map(|speaker| speaker.statement.answers);
    said.filter(|answers| answers.about == about).for_each(|answers| sum.merge(&answers.excess));
    sum
}

/// The evidence that can be played, in the order in which it is, and up to where all will have been then. What a clock that is
/// far ahead has had played holds nobody up.
pub fn ripe(speakers: &[Speaker<'_>], played: &UpTo, now: Timestamp) -> (Vec<Evidence>, UpTo) {
    let latest = Second::of(now.plus(OFF));
    let mut tests: Vec<Test> = Vec::new();
    for (test, _) in speakers.iter().flat_map(|speaker| &speaker.statement.up_to.0) {
        if let Err(place) = tests.binary_search(test) {
            tests.insert(place, *test);
        }
    }
    let mut found = Vec::new();
    let mut reached = UpTo(played.0.iter().map(|(test, second)| (*test, latest.min(*second))).collect());
    for test in tests {
        let said = |speaker: &&Speaker<'_>| speaker.statement.up_to.of(test);
        let awaited = speakers.iter().filter(|speaker| speaker.is_awaited);
        let Some(closed) = awaited.filter_map(|speaker| said(&speaker)).min() else { continue };
        let closed = closed.min(latest);
        let mut merged: Vec<Evidence> = Vec::new();
        for Piece(evidence) in speakers.iter().flat_map(|speaker| &speaker.statement.pieces) {
            let second = Second::with(evidence.epoch);
            if evidence.test != test || second > closed || reached.is_past(evidence) {
                continue;
            }
            let place = (second, evidence.revision);
            match merged.binary_search_by_key(&place, |known| (Second::with(known.epoch), known.revision)) {
                Ok(at) => {
                    if let Some(known) = merged.get_mut(at) {
                        known.merge(evidence);
                    }
                }
                Err(at) => merged.insert(at, evidence.clone()),
            }
        }
        found.extend(merged);
        reached.reach(test, closed);
    }
    (found, reached)
}

// === impl Piece ===

impl From<Piece> for Parts {
    fn from(Piece(evidence): Piece) -> Self {
        let Evidence { test, epoch, revision, share, units, firsts, all, hosts, keys } = evidence;
        let test = match test {
            Test::Error => 0,
            Test::Unanswered => 1,
            Test::Slow(number) => number.saturating_add(2),
        };
        let sums = |of: PerColour<Outcomes>| (of.blue.total, of.blue.bad, of.green.total, of.green.bad);
        let number = |colour: Colour| u8::from(colour == Colour::Green);
        let hosts = hosts.into_iter().map(|(colour, host, count)| (number(colour), host, count)).collect();
        let keys = keys.into_iter().map(|(colour, slot, host)| (number(colour), slot, host)).collect();
        (test, epoch.number(), revision, share, [sums(units), sums(firsts), sums(all)], hosts, keys)
    }
}

impl From<Parts> for Piece {
    fn from((test, epoch, revision, share, [units, firsts, all], hosts, keys): Parts) -> Self {
        let test = match test {
            0 => Test::Error,
            1 => Test::Unanswered,
            number => Test::Slow(number.saturating_sub(2)),
        };
        let sums = |(blue, bad_blue, green, bad_green): Sums| PerColour {
            blue: Outcomes::new(blue, bad_blue),
            green: Outcomes::new(green, bad_green),
        };
        let colour = |number: u8| if number == 0 { Colour::Blue } else { Colour::Green };
        let hosts = hosts.into_iter().map(|(number, host, count)| (colour(number), host, count)).collect();
        let keys = keys.into_iter().map(|(number, slot, host)| (colour(number), slot, host)).collect();
        Self(Evidence {
            test,
            epoch: Epoch::numbered(epoch),
            revision,
            share,
            units: sums(units),
            firsts: sums(firsts),
            all: sums(all),
            hosts,
            keys,
        })
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::host::START;
    use crate::testing::percent;

    /// One request of blue that failed, in the quarter with this number after [`START`].
    fn failed(test: Test, quarter: u64) -> Evidence {
        let one = PerColour { blue: Outcomes::new(1, 1), green: Outcomes::default() };
        Evidence {
            test,
            epoch: at(quarter),
            revision: Revision::new(1),
            share: percent("12.5"),
            units: one,
            firsts: PerColour::default(),
            all: one,
            hosts: vec![(Colour::Blue, Host(7), 1)],
            keys: vec![(Colour::Green, Slot::of(9 << 52), Host(8))],
        }
    }

    fn at(quarter: u64) -> Epoch {
        Epoch::numbered(Epoch::of(START).number() + quarter)
    }

    fn second(number: u64) -> Second {
        Second(Second::of(START).0 + number)
    }

    fn moment(seconds: u64) -> Moment {
        Moment::BEGIN.plus(Duration::from_secs(seconds))
    }

    /// An Envoy that has collected a failure in each of these quarters, and nothing more up to that one.
    fn saying(quarters: &[u64], up_to: u64) -> Statement {
        let mut outbox = Outbox::default();
        quarters.iter().for_each(|quarter| outbox.add(failed(Test::Error, *quarter), moment(0)));
        outbox.reach(Test::Error, at(up_to));
        outbox.statement(START, None)
    }

    fn played(found: &(Vec<Evidence>, UpTo)) -> Vec<(u64, u64)> {
        let place = |evidence: &Evidence| evidence.epoch.number() / 4 - Second::of(START).0;
        found.0.iter().map(|evidence| (place(evidence), evidence.all.blue.bad)).collect()
    }

    #[test]
    fn a_second_is_said_once_it_is_complete_and_until_it_was_played() {
        let mut outbox = Outbox::default();
        for quarter in 0..6 {
            outbox.add(failed(Test::Error, quarter), moment(0));
        }
        let said = |outbox: &Outbox| {
            outbox
                .statement(START, None)
                .pieces
                .iter()
                .map(|Piece(evidence)| evidence.all.blue.bad)
                .collect::<Vec<u64>>()
        };
        let cases = [(2, vec![]), (3, vec![4]), (6, vec![4]), (7, vec![4, 2])];
        for (up_to, expected) in cases {
            outbox.reach(Test::Error, at(up_to));
            assert_eq!(said(&outbox), expected, "{up_to}");
        }
        outbox.drop_old(Some(&UpTo(vec![(Test::Error, second(0))])), moment(1));
        assert_eq!(said(&outbox), [2]);
        outbox.drop_old(None, moment(149));
        assert_eq!(said(&outbox), [2]);
        outbox.drop_old(None, moment(150));
        assert_eq!(said(&outbox), [0_u64; 0]);
    }

    #[test]
    fn an_outbox_has_a_bound_and_keeps_the_newest() {
        let mut outbox = Outbox::default();
        for number in 0..2_000 {
            outbox.add(failed(Test::Error, 4 * number), moment(0));
        }
        outbox.drop_old(None, moment(1));
        outbox.reach(Test::Error, at(8_000));
        assert_eq!(outbox.statement(START, None).pieces.len(), MOST);
        assert_eq!(outbox.pieces.last().map(|(_, evidence)| evidence.epoch), Some(at(7_996)));
    }

    #[test]
    fn what_is_too_much_is_left_out_whatever_the_colour() {
        let mut evidence = failed(Test::Error, 0);
        evidence.keys.clear();
        for number in 0..1_024_u64 {
            let colour = if number < 512 { Colour::Blue } else { Colour::Green };
            // The same places for both colours.
            evidence.keys.push((colour, Slot::of((number % 512) << 52), Host(1)));
            evidence.hosts.push((colour, Host(u16::try_from(number % 512).expect("small")), 1));
        }
        let short = shortened(&evidence);
        let count = |colour| short.keys.iter().filter(|(of, ..)| *of == colour).count();
        assert_eq!((count(Colour::Blue), count(Colour::Green)), (MOST_KEYS / 2, MOST_KEYS / 2));
        assert_eq!(short.hosts.len(), 2 * MOST_HOSTS);
    }

    #[test]
    fn a_statement_survives_json_in_few_bytes_and_a_foreign_value_is_none() {
        for test in [Test::Error, Test::Unanswered, Test::Slow(0), Test::Slow(3)] {
            let mut outbox = Outbox::default();
            outbox.add(failed(test, 0), moment(0));
            outbox.reach(test, at(3));
            let statement = outbox.statement(START, None);
            let bytes = statement.encode();
            assert_eq!(Statement::decode(&bytes), Some(statement));
            assert!(bytes.len() < 200, "{}: {}", bytes.len(), String::from_utf8_lossy(&bytes));
        }
        for foreign in
            [&b""[..], b"{}", b"\xff", br#"{"at":"2026-11-23T15:00:00.000Z","up_to":[["error",-1]],"pieces":[]}"#]
        {
            assert_eq!(Statement::decode(foreign), None);
            assert_eq!(Judgement::decode(foreign), None);
        }
    }

    #[test]
    fn what_all_say_about_a_second_is_added_up_and_played_once_and_in_order() {
        let (one, two) = (saying(&[0, 1, 4, 9], 11), saying(&[2, 5, 9], 11));
        let speakers = [&two, &one].map(|statement| Speaker { statement, is_awaited: true });
        let found = ripe(&speakers, &UpTo::default(), START);
        assert_eq!(played(&found), [(0, 3), (1, 2), (2, 2)]);
        assert_eq!(found.1.of(Test::Error), Some(second(2)));
        assert_eq!(played(&ripe(&speakers, &found.1, START)), []);
    }

    #[test]
    fn a_second_waits_for_who_is_awaited_and_who_comes_later_is_not_heard() {
        let (early, late) = (saying(&[0, 4, 8], 11), saying(&[0, 4], 6));
        let cases = [(true, vec![(0, 2)]), (false, vec![(0, 2), (1, 1), (2, 1)])];
        for (is_awaited, expected) in cases {
            let speakers = [Speaker { statement: &early, is_awaited: true }, Speaker { statement: &late, is_awaited }];
            let found = ripe(&speakers, &UpTo::default(), START);
            assert_eq!(played(&found), expected);
            let caught_up = saying(&[0, 4, 8], 11);
            let speakers = [&early, &caught_up].map(|statement| Speaker { statement, is_awaited: true });
            let rest = if is_awaited { vec![(1, 2), (2, 2)] } else { Vec::new() };
            assert_eq!(played(&ripe(&speakers, &found.1, START)), rest);
        }
    }

    #[test]
    fn an_envoy_without_traffic_or_without_a_test_holds_nobody_up() {
        let (busy, idle, other) = (saying(&[0, 4], 7), saying(&[], 7), Outbox::default().statement(START, None));
        let speakers = [&busy, &idle, &other].map(|statement| Speaker { statement, is_awaited: true });
        assert_eq!(played(&ripe(&speakers, &UpTo::default(), START)), [(0, 1), (1, 1)]);
    }

    #[test]
    fn revisions_of_one_second_were_shared_out_in_different_ways_and_stay_apart() {
        let mut outbox = Outbox::default();
        outbox.add(failed(Test::Error, 0), moment(0));
        outbox.add(Evidence { revision: Revision::new(2), ..failed(Test::Error, 1) }, moment(0));
        outbox.reach(Test::Error, at(3));
        let statement = outbox.statement(START, None);
        let (found, _) = ripe(&[Speaker { statement: &statement, is_awaited: true }], &UpTo::default(), START);
        assert_eq!(found.iter().map(|evidence| evidence.revision.get()).collect::<Vec<u64>>(), [1, 2]);
    }

    #[test]
    fn what_a_clock_far_ahead_had_played_holds_nobody_up() {
        let statement = saying(&[0, 4], 7);
        let speakers = [Speaker { statement: &statement, is_awaited: true }];
        let ahead = UpTo(vec![(Test::Error, second(3_600))]);
        let (_, reached) = ripe(&speakers, &ahead, START);
        assert_eq!(reached.of(Test::Error), Some(Second::of(START.plus(OFF))));
    }
}
