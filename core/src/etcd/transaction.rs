//! One change in the fleet, from the first call to etcd to the certainty of what became of it.
//!
//! First the key is read. That takes a quorum, so a minority of etcd's members refuses here, before anything is sent that
//! could take effect later. Then the state that was decided on is put there, on condition that the key's last write is
//! still the one that was read; else the winner's state comes back and is decided on anew.
//!
//! An answer to the put can get lost, and the put be carried out all the same, even later. Then it is sent again: its
//! condition lets only one of the two succeed, and the answer to the other shows the state that came of it. Who has to
//! give up fences the key: the state from before is put there on the same condition. Of all these puts only one can ever
//! succeed, whichever comes first, so an answer to the fence settles what became of the others.

use std::time::Duration;

use super::messages::{RangeResponse, ResponseHeader, TxnResponse};
use super::{Call, Fleet, Held, Reply, number};
use crate::name::DeploymentName;
use crate::state::State;
use crate::store::{ModRevision, Precedence};
use crate::time::Timestamp;

/// A change under way.
#[derive(Clone, Debug)]
pub struct Transaction {
    fleet: Fleet,
    name: DeploymentName,
    /// The state to start from where the key holds none.
    fallback: State,
    /// The write that was known here before etcd was asked. Etcd knows it too, unless it has gone back in time.
    known: ModRevision,
    began: Timestamp,
    failures: u32,
    races: u32,
    fences: u32,
    /// Whether something was sent that can take effect.
    has_put: bool,
    phase: Phase,
    precedence: Precedence,
}

/// What was asked last.
#[derive(Clone, Debug)]
enum Phase {
    Reading,
    Putting(Box<Draft>),
    Fencing(Box<Draft>),
}

/// A put whose answer is waited for.
#[derive(Clone, Debug)]
struct Draft {
    on: ModRevision,
    before: State,
    after: State,
    /// Whether it was sent before, and its answer lost.
    is_repeated: bool,
    /// Why the last answer was lost.
    lost: String,
}

/// How a change goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// With this call, whose reply is waited for.
    Call(Call),
    /// With a decision on this state, which is the fleet's at this moment: [`Transaction::put`], or nothing at all.
    Decide(Box<Current>),
    /// The change was made.
    Made(Box<Made>),
    /// Nothing was changed, and nothing will be; this is why.
    Unchanged(String),
    /// Nobody can say.
    Unknown,
}

/// The fleet's state, as far as this change has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    /// The state.
    pub state: State,
    /// The write that it comes from; none where the key holds no state.
    pub origin: Option<ModRevision>,
    /// Whether it takes the place of what is known here.
    pub precedence: Precedence,
    on: ModRevision,
}

/// A change that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The state that the change made.
    pub state: State,
    /// The fleet's state since, which others may have changed again.
    pub current: Current,
}

/// The most calls of one change that may fail in a row, however fast: one for each member of etcd that may be down, and
/// more.
const FAILURES: u32 = 6;

/// For how many times the longest call a change may go on that has sent nothing yet, and one that has: that one has more
/// to lose. With the default of 2 s for a call, either ends within 8 s.
const PATIENCE: u32 = 2;
const PATIENCE_AFTER_PUT: u32 = 3;

/// How often a fence is tried.
const FENCES: u32 = 3;

/// How often a change is decided on, at most: more than there are real concurrent writers.
const RACES: u32 = 512;

// === impl Transaction ===

impl Transaction {
    /// Begins a change of a deployment whose state, as far as known here, is `fallback`, from the write `known`.
    pub fn begin(
        fleet: &Fleet,
        name: &DeploymentName,
        fallback: State,
        known: Option<ModRevision>,
        now: Timestamp,
    ) -> (Self, Call) {
        let this = Self {
            fleet: fleet.clone(),
            name: name.clone(),
            fallback,
            known: known.unwrap_or_default(),
            began: now,
            failures: 0,
            races: 0,
            fences: 0,
            has_put: false,
            phase: Phase::Reading,
            precedence: Precedence::Later,
        };
        let call = fleet.read(name);
        (this, call)
    }

    /// Puts the state there that was decided on.
    pub fn put(&mut self, current: &Current, after: State) -> Call {
        let call = self.fleet.put_if(&self.name, current.on, &after);
        self.has_put = true;
        let (on, before) = (current.on, current.state.clone());
        self.phase = Phase::Putting(Box::new(Draft { on, before, after, is_repeated: false, lost: String::new() }));
        call
    }

    /// Takes the reply to the last call.
    pub fn take(&mut self, reply: &Reply, now: Timestamp) -> Turn {
        match std::mem::replace(&mut self.phase, Phase::Reading) {
            Phase::Reading => match reply.decode::<RangeResponse>() {
                Ok(response) => {
                    self.note_time(response.header.as_ref());
                    self.decide(Held::of(&response.kvs))
                }
                Err(_) if self.may_go_on(now) => Turn::Call(self.fleet.read(&self.name)),
                Err(why) => Turn::Unchanged(why),
            },
            Phase::Putting(draft) => self.on_put(draft, reply, now),
            Phase::Fencing(draft) => self.on_fence(*draft, reply),
        }
    }

    fn on_put(&mut self, mut draft: Box<Draft>, reply: &Reply, now: Timestamp) -> Turn {
        match reply.decode::<TxnResponse>() {
            Ok(response) if response.succeeded => self.made(draft.after, response.header.as_ref()),
            Ok(response) => {
                let held = held(&response);
                if draft.is_repeated && held.state.as_ref().is_some_and(|state| draft.is_in(state)) {
                    return self.found(draft.after, held);
                }
                self.decide(held)
            }
            // As before the put.
            Err(why) if *reply == Reply::NotSent && !draft.is_repeated => Turn::Unchanged(why),
            Err(_) if self.may_go_on(now) => {
                let call = self.fleet.put_if(&self.name, draft.on, &draft.after);
                draft.is_repeated = true;
                self.phase = Phase::Putting(draft);
                Turn::Call(call)
            }
            Err(why) => self.fence(draft, why),
        }
    }

    fn on_fence(&mut self, draft: Draft, reply: &Reply) -> Turn {
        match reply.decode::<TxnResponse>() {
            Ok(response) if response.succeeded => Turn::Unchanged(draft.lost),
            Ok(response) => {
                let held = held(&response);
                let is_made = held.state.as_ref().is_some_and(|state| draft.is_in(state));
                if is_made { self.found(draft.after, held) } else { Turn::Unchanged(draft.lost) }
            }
            Err(_) if self.fences < FENCES => {
                let why = draft.lost.clone();
                self.fence(Box::new(draft), why)
            }
            Err(_) => Turn::Unknown,
        }
    }

    fn fence(&mut self, draft: Box<Draft>, lost: String) -> Turn {
        self.fences = self.fences.saturating_add(1);
        let call = self.fleet.put_if(&self.name, draft.on, &draft.before);
        self.phase = Phase::Fencing(Box::new(Draft { lost, ..*draft }));
        Turn::Call(call)
    }

    /// The change was made by a put whose answer was lost.
    fn found(&self, state: State, held: Held) -> Turn {
        Turn::Made(Box::new(Made { state, current: self.current(held) }))
    }

    fn decide(&mut self, held: Held) -> Turn {
        self.failures = 0;
        self.races = self.races.saturating_add(1);
        if self.races > RACES { unsettled() } else { Turn::Decide(Box::new(self.current(held))) }
    }

    fn current(&self, held: Held) -> Current {
        let origin = held.state.is_some().then_some(held.revision);
        let state = held.state.unwrap_or_else(|| self.fallback.clone());
        Current { state, origin, precedence: self.precedence, on: held.revision }
    }

    fn made(&self, state: State, header: Option<&ResponseHeader>) -> Turn {
        let revision = header_revision(header);
        let current = self.current(Held { revision, state: Some(state.clone()) });
        Turn::Made(Box::new(Made { state, current }))
    }

    /// An answer that takes a quorum knows every write that anybody was told of before it was asked for.
    fn note_time(&mut self, header: Option<&ResponseHeader>) {
        if header_revision(header) < self.known {
            self.precedence = Precedence::Always;
        }
    }

    /// Counts a failure. Whether there may be another call: an election in etcd takes about a second, and a member that
    /// is down fails at once.
    fn may_go_on(&mut self, now: Timestamp) -> bool {
        self.failures = self.failures.saturating_add(1);
        let calls = if self.has_put { PATIENCE_AFTER_PUT } else { PATIENCE };
        let patience = self.fleet.timeout.saturating_mul(calls).saturating_sub(Duration::from_millis(1));
        self.failures < FAILURES && now.since(self.began) < patience
    }
}

// === impl Draft ===

impl Draft {
    /// Whether a state is this one, or has come from it. A change is known by its revision, its time and its author;
    /// a note that makes no revision by itself.
    fn is_in(&self, state: &State) -> bool {
        if self.after.revision == self.before.revision {
            return (&state.smoke, state.initial) == (&self.after.smoke, self.after.initial);
        }
        let made = self.after.history.newest();
        state.history.changes().any(|change| Some(change) == made)
    }
}

fn unsettled() -> Turn {
    Turn::Unchanged("too many changes at once".to_owned())
}

fn held(response: &TxnResponse) -> Held {
    let range = response.responses.first().and_then(|response| response.range.as_ref());
    Held::of(range.map_or(&[], |range| range.kvs.as_slice()))
}

fn header_revision(header: Option<&ResponseHeader>) -> ModRevision {
    header.map_or(ModRevision(0), |header| number(header.revision))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::author::{Author, Source};
    use crate::etcd::model::{Fate, Model, fleet};
    use crate::name::Reason;
    use crate::percent::Percent;
    use crate::split::{Revision, Split};
    use crate::state::{Command, Patch};
    use crate::testing::iris;

    const START: Timestamp = Timestamp::from_millis(1_795_446_000_000);

    fn initial() -> State {
        State::initial(Split::default(), START)
    }

    /// A writer that changes the canary share, over and over until it is told what became of it.
    struct Writer {
        transaction: Transaction,
        author: Author,
        next: Option<Call>,
        end: Option<Turn>,
    }

    impl Writer {
        fn new(number: u64) -> Self {
            let (transaction, call) = Transaction::begin(&fleet(), &iris(), initial(), None, START);
            let author = Author::new(&format!("writer-{number}"), Source::Admin, Reason::none());
            Self { transaction, author, next: Some(call), end: None }
        }

        fn decide(&self, state: &State) -> State {
            let share = if state.split.canary_percent == Percent::ZERO { "10" } else { "0" };
            let canary_percent = Some(share.parse().expect("a share"));
            let patch = Command::Patch(Patch { canary_percent, ..Patch::default() });
            state.after(patch, self.author.clone(), START).expect("allowed").expect("a change")
        }

        /// One call to etcd, with its answer.
        fn step(&mut self, model: &mut Model, fate: Fate, now: Timestamp) {
            let Some(call) = self.next.take() else { return };
            let reply = model.call(&call, fate);
            match self.transaction.take(&reply, now) {
                Turn::Call(call) => self.next = Some(call),
                Turn::Decide(current) => {
                    let after = self.decide(&current.state);
                    self.next = Some(self.transaction.put(&current, after));
                }
                end => self.end = Some(end),
            }
        }

        fn run(mut self, model: &mut Model, fates: impl IntoIterator<Item = Fate>) -> Turn {
            let mut fates = fates.into_iter();
            while self.next.is_some() {
                self.step(model, fates.next().unwrap_or(Fate::Answered), START);
            }
            self.end.expect("an end")
        }
    }

    fn stored(model: &Model) -> State {
        State::decode(&model.value("/bluegreen/iris").expect("there")).expect("a state")
    }

    #[test]
    fn of_two_hundred_interleaved_writers_none_is_lost_and_none_doubled() {
        let mut model = Model::default();
        let mut writers: Vec<Writer> = (0..200).map(Writer::new).collect();
        // An order that mixes them, the same each time.
        let mut turn: usize = 1;
        while writers.iter().any(|writer| writer.next.is_some()) {
            turn = (turn * 73 + 41) % 100_003;
            let count = writers.len();
            let from = turn % count;
            let place = (0..count).map(|step| (from + step) % count).find(|place| writers[*place].next.is_some());
            if let Some(place) = place {
                // Some answers are lost on the way back.
                let fate = if turn.is_multiple_of(11) { Fate::AnswerLost } else { Fate::Answered };
                writers[place].step(&mut model, fate, START);
            }
        }
        let mut made = Vec::new();
        for writer in &writers {
            let Some(Turn::Made(change)) = &writer.end else { panic!("{:?}", writer.end) };
            made.push((change.state.revision.get(), change.state.author.by.clone()));
        }
        made.sort();
        assert!(made.iter().map(|(revision, _)| *revision).eq(1..=200), "{made:?}");
        let newest: Vec<_> =
            stored(&model).history.changes().map(|c| (c.revision.get(), c.author.by.clone())).collect();
        assert!(newest.iter().eq(made.iter().rev().take(50)), "the record agrees with what the writers were told");
    }

    #[test]
    fn a_store_out_of_reach_means_certainly_nothing_was_changed() {
        for fate in [Fate::Refused, Fate::RequestLost] {
            let mut model = Model::default();
            let end = Writer::new(1).run(&mut model, [fate; 50]);
            assert!(matches!(end, Turn::Unchanged(_)), "{fate:?}: {end:?}");
            assert_eq!(model.value("/bluegreen/iris"), None);
        }
    }

    #[test]
    fn a_lost_answer_is_found_out_about() {
        let (ok, lost, gone) = (Fate::Answered, Fate::AnswerLost, Fate::RequestLost);
        // The read, the put, the put again: each revision is made once, whatever got lost.
        for fates in [vec![ok, lost, ok], vec![ok, lost, lost, ok], vec![ok, gone, ok], vec![ok, gone, gone, ok]] {
            let mut model = Model::default();
            let end = Writer::new(1).run(&mut model, fates.clone());
            let Turn::Made(made) = end else { panic!("{fates:?}: {end:?}") };
            assert_eq!((made.state.revision, &made.current.state), (Revision::new(1), &stored(&model)), "{fates:?}");
        }
    }

    #[test]
    fn a_put_that_arrives_after_its_fence_does_nothing() {
        let mut model = Model::default();
        let mut writer = Writer::new(1);
        writer.step(&mut model, Fate::Answered, START);
        let late = writer.next.clone().expect("a put");
        // There is no time left for another put; the fence is answered.
        let end = START.plus(Duration::from_secs(60));
        writer.step(&mut model, Fate::RequestLost, end);
        writer.step(&mut model, Fate::Answered, end);
        assert!(matches!(writer.end, Some(Turn::Unchanged(_))), "{:?}", writer.end);
        model.call(&late, Fate::Answered);
        assert_eq!(stored(&model), initial());
    }

    #[test]
    fn without_an_answer_to_the_fence_nobody_can_say() {
        let mut model = Model::default();
        let fates = [Fate::Answered, Fate::AnswerLost].into_iter().chain([Fate::RequestLost; 50]);
        assert_eq!(Writer::new(1).run(&mut model, fates), Turn::Unknown);
        assert_eq!(stored(&model).revision, Revision::new(1), "it was made, as it happens");
    }

    #[test]
    fn a_lost_change_on_which_another_one_was_made_is_recognised() {
        let mut model = Model::default();
        let mut first = Writer::new(1);
        first.step(&mut model, Fate::Answered, START);
        first.step(&mut model, Fate::AnswerLost, START);
        assert!(
            matches!(Writer::new(2).run(&mut model, []), Turn::Made(made) if made.state.revision == Revision::new(2))
        );
        let end = first.run(&mut model, []);
        let Turn::Made(made) = end else { panic!("{end:?}") };
        assert_eq!((made.state.revision, made.current.state.revision), (Revision::new(1), Revision::new(2)));
    }

    #[test]
    fn what_is_not_a_state_is_written_over_from_what_is_known_here() {
        let mut model = Model::default();
        model.put("/bluegreen/iris", b"not ours");
        let end = Writer::new(1).run(&mut model, []);
        assert!(matches!(end, Turn::Made(made) if made.state.revision == Revision::new(1)));
        assert_eq!(stored(&model).revision, Revision::new(1));
    }

    #[test]
    fn a_store_that_went_back_in_time_takes_precedence() {
        let mut model = Model::default();
        for (known, precedence) in [(None, Precedence::Later), (Some(ModRevision(900)), Precedence::Always)] {
            let (mut transaction, call) = Transaction::begin(&fleet(), &iris(), initial(), known, START);
            let reply = model.call(&call, Fate::Answered);
            let Turn::Decide(current) = transaction.take(&reply, START) else { panic!("a read") };
            assert_eq!((current.precedence, current.origin), (precedence, None));
        }
    }
}
