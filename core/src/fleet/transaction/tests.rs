//! Changes against each store in memory, call by call.

use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use super::*;
use crate::etcd::model::Model as Etcd;
use crate::fleet::deadline::WRITE_WITHIN;
use crate::fleet::model::{Fate, FleetModel};
use crate::kubernetes::model::Model as Kubernetes;
use crate::model::author::{Author, Source};
use crate::model::name::Reason;
use crate::model::percent::Percent;
use crate::model::split::{Revision, Split};
use crate::state::{Command, Patch};
use crate::store::CasToken;
use crate::store::record::Origin;
use crate::testing::host::{START, TestHost, poll_once};
use crate::testing::iris;

/// The same test for each store.
macro_rules! for_each_store {
    ($($name:ident: $check:ident;)+) => {$(
        mod $name {
            #[cfg(target_arch = "wasm32")]
            use wasm_bindgen_test::wasm_bindgen_test as test;

            use super::*;

            #[test]
            fn in_etcd() {
                $check::<Etcd>();
            }

            #[test]
            fn in_kubernetes() {
                $check::<Kubernetes>();
            }
        }
    )+};
}

fn initial() -> State {
    State::initial(Split::default(), START)
}

type End = Result<Committed, TxnError<Infallible>>;

/// A writer that changes the canary share, over and over until it is told what became of it. Its calls wait for the test.
struct Writer<M: FleetModel> {
    model: PhantomData<M>,
    host: Rc<TestHost>,
    flow: Pin<Box<dyn Future<Output = End>>>,
    author: Author,
    queued: u32,
    end: Option<End>,
}

/// What becomes of a call, and how long it takes until the writer knows.
#[derive(Clone, Copy, Debug)]
struct Course {
    fate: Fate,
    takes: Takes,
}

#[derive(Clone, Copy, Debug)]
enum Takes {
    NoTime,
    APart,
    /// An answer that comes just in time, or silence until then.
    AllItsTime,
}

const OK: Course = Course { fate: Fate::Answered, takes: Takes::NoTime };
const SLOW: Course = Course { fate: Fate::Answered, takes: Takes::AllItsTime };
const SLOWISH: Course = Course { fate: Fate::Answered, takes: Takes::APart };
const BROKEN_OFF: Course = Course { fate: Fate::RequestLost, takes: Takes::APart };
const REFUSED: Course = Course { fate: Fate::Refused, takes: Takes::NoTime };
const BROKEN: Course = Course { fate: Fate::RequestLost, takes: Takes::NoTime };
const CUT: Course = Course { fate: Fate::AnswerLost, takes: Takes::NoTime };
const DENIED: Course = Course { fate: Fate::Denied, takes: Takes::NoTime };
const NOT_NOW: Course = Course { fate: Fate::NotNow, takes: Takes::NoTime };
const NO_SPACE: Course = Course { fate: Fate::OutOfSpace, takes: Takes::NoTime };
const LAST_SPACE: Course = Course { fate: Fate::LastSpaceUsed, takes: Takes::NoTime };
const LOST: Course = Course { fate: Fate::RequestLost, takes: Takes::AllItsTime };
const UNHEARD: Course = Course { fate: Fate::AnswerLost, takes: Takes::AllItsTime };

impl<M: FleetModel> Writer<M> {
    fn new(number: u64) -> Self {
        let host = Rc::new(TestHost::default());
        let author = Author::new(crate::testing::holder(&format!("writer-{number}")), Source::Admin, Reason::none());
        let (own, by) = (Rc::clone(&host), author.clone());
        let flow = Box::pin(async move {
            let known = Loaded { state: initial(), origin: Origin::Absent, mod_revision: None, token: CasToken::Never };
            let mut time_left = WRITE_WITHIN;
            commit(&*M::store(), &*own, &iris(), known, &mut time_left, &mut |before| Ok(Some(change(before, &by))))
                .await
        });
        let mut this = Self { model: PhantomData, host, flow, author, queued: 0, end: None };
        this.poll();
        this
    }

    /// The call that it waits for.
    fn next(&self) -> Option<M::Call> {
        M::next(&self.host)
    }

    /// One call to the store, with its answer.
    fn step(&mut self, model: &mut M, Course { fate, takes }: Course) {
        let Some(call) = self.next() else { return };
        let timeout = M::timeout(&call);
        assert!(timeout > Duration::ZERO, "to Envoy that is no limit at all");
        let after = match takes {
            Takes::NoTime => Duration::ZERO,
            Takes::APart => timeout / 3,
            Takes::AllItsTime => timeout,
        };
        model.answer(&self.host, fate, after);
        self.poll();
        while self.end.is_none() && self.next().is_none() {
            self.queued += 1;
            self.host.wake_sleepers();
            self.poll();
        }
    }

    fn poll(&mut self) {
        if let Poll::Ready(end) = poll_once(self.flow.as_mut()) {
            self.end = Some(end);
        }
    }

    fn run(&mut self, model: &mut M, courses: impl IntoIterator<Item = Course>) -> End {
        let mut courses = courses.into_iter();
        while self.next().is_some() {
            self.step(model, courses.next().unwrap_or(OK));
        }
        self.end.clone().expect("an end")
    }

    fn took(&self) -> Duration {
        self.host.now().since(START)
    }
}

fn change(before: &State, author: &Author) -> State {
    let share = if before.split.canary_percent == Percent::ZERO { "10" } else { "0" };
    let canary_percent = Some(share.parse().expect("a share"));
    let patch = Command::Patch(Patch { canary_percent, ..Patch::default() });
    before.after(&patch, author.clone(), START).expect("allowed").expect("a change")
}

/// The state that a change made, and the fleet's since.
fn made(end: &End) -> Option<(&State, &State)> {
    match end {
        Ok(Committed::Made(state, current)) => Some((state, &current.state)),
        _ => None,
    }
}

/// The revision that a change made.
fn made_revision(end: &End) -> Option<u64> {
    made(end).map(|(state, _)| state.revision.get())
}

fn stored(model: &impl FleetModel) -> State {
    model.state().expect("a state")
}

fn of_many_interleaved_writers_none_is_lost_and_none_doubled_check<M: FleetModel>() {
    let mut model = M::ready();
    let mut writers: Vec<Writer<M>> = (0..M::WRITERS).map(Writer::new).collect();
    let mut record = Vec::new();
    // An order that mixes them, the same each time.
    let mut turn: usize = 1;
    while writers.iter().any(|writer| writer.next().is_some()) {
        turn = (turn * 73 + 41) % 100_003;
        let count = writers.len();
        let from = turn % count;
        let place = (0..count).map(|step| (from + step) % count).find(|place| writers[*place].next().is_some());
        if let Some(place) = place {
            // Some answers are lost on the way back.
            writers[place].step(&mut model, if turn.is_multiple_of(11) { CUT } else { OK });
        }
        let newest = model.state().and_then(|state| state.history.newest().cloned());
        if newest.as_ref().is_some_and(|newest| newest.revision.get() > record.len() as u64) {
            record.extend(newest.map(|newest| newest.author.by));
        }
    }
    let mut unknown = 0;
    for writer in &writers {
        let places: Vec<u64> = (1..).zip(&record).filter(|(_, by)| **by == writer.author.by).map(|at| at.0).collect();
        match &writer.end {
            Some(Ok(Committed::Made(state, _))) => assert_eq!(places, [state.revision.get()], "{}", writer.author.by),
            // An answer was lost for so long that more changes were made than a history has.
            Some(Err(TxnError::Indeterminate)) => {
                unknown += 1;
                assert!(places.len() <= 1, "{}: {places:?}", writer.author.by);
            }
            other => panic!("{}: {other:?}", writer.author.by),
        }
    }
    assert!(unknown < 20, "{unknown}");
}

fn a_store_out_of_reach_means_certainly_nothing_was_changed_check<M: FleetModel>() {
    for course in [REFUSED, BROKEN, LOST] {
        let mut model = M::ready();
        let end = Writer::<M>::new(1).run(&mut model, [course; 50]);
        assert!(matches!(end, Err(TxnError::Aborted(NotCommitted::Unread(_)))), "{course:?}: {end:?}");
        assert_eq!(model.state(), None);
    }
}

fn what_the_store_refuses_is_answered_at_once_with_its_reason_check<M: FleetModel>() {
    let (denied, elsewhere, no_space) = (M::words(Fate::Denied), M::words(Fate::NotNow), M::words(Fate::OutOfSpace));
    // What becomes of the calls, the last of it over and over; how many calls there are; the store's reason.
    let cases: [(&[Course], usize, &str); 5] = [
        (&[DENIED], 1, denied),
        (&[OK, DENIED], 2, denied),
        // Another member may do it: it is tried as often as one may be down.
        (&[OK, NOT_NOW], 7, elsewhere),
        (&[OK, NOT_NOW, DENIED], 3, denied),
        // The put is looked for.
        (&[OK, NO_SPACE], 3, no_space),
    ];
    for (courses, calls, reason) in cases {
        let (mut model, mut writer) = (M::ready(), Writer::<M>::new(1));
        let mut made: usize = 0;
        while writer.next().is_some() {
            let course = courses.get(made).or(courses.last()).copied().expect("a course");
            writer.step(&mut model, course);
            made += 1;
        }
        assert_eq!(writer.end, Some(Err(TxnError::Aborted(NotCommitted::Refused(reason.to_owned())))), "{courses:?}");
        assert_eq!((made, writer.took(), model.state()), (calls, Duration::ZERO, None), "{courses:?}");
    }
    let end = Writer::<M>::new(1).run(&mut M::ready(), [NOT_NOW, OK, NOT_NOW, OK]);
    assert_eq!(made_revision(&end), Some(1), "by the next member");
}

fn a_put_that_used_the_last_space_was_made_although_the_store_refuses_it_check<M: FleetModel>() {
    let mut model = M::ready();
    let end = Writer::<M>::new(1).run(&mut model, [OK, LAST_SPACE]);
    let (state, current) = made(&end).unwrap_or_else(|| panic!("{end:?}"));
    assert_eq!((state.revision, current), (Revision::new(1), &stored(&model)));
}

fn a_refusal_says_nothing_of_an_answer_that_was_lost_before_check<M: FleetModel>() {
    // The put is lost, and a refusal of the same put again does not say that the first one will never arrive.
    for (lost, refusal) in [(LOST, DENIED), (LOST, NO_SPACE), (UNHEARD, DENIED)] {
        let courses = [OK, lost].into_iter().chain([refusal; 9]);
        assert_eq!(Writer::<M>::new(1).run(&mut M::ready(), courses), Err(TxnError::Indeterminate), "{refusal:?}");
    }
    // What the key holds since does.
    let mut model = M::ready();
    let end = Writer::<M>::new(1).run(&mut model, [OK, UNHEARD, NO_SPACE]);
    assert_eq!(made_revision(&end), Some(1));
}

fn a_lost_answer_is_found_out_about_check<M: FleetModel>() {
    // The read, the put, the put again: each revision is made once, whatever got lost.
    for courses in [vec![OK, UNHEARD], vec![OK, UNHEARD, UNHEARD], vec![OK, LOST], vec![OK, LOST, LOST]] {
        let mut model = M::ready();
        let end = Writer::<M>::new(1).run(&mut model, courses.clone());
        let (state, current) = made(&end).unwrap_or_else(|| panic!("{courses:?}: {end:?}"));
        assert_eq!((state.revision, current), (Revision::new(1), &stored(&model)), "{courses:?}");
    }
}

fn a_put_that_arrives_after_its_fence_does_nothing_check<M: FleetModel>() {
    let mut model = M::ready();
    let mut writer = Writer::<M>::new(1);
    writer.step(&mut model, OK);
    let late = writer.next().expect("a put");
    // It is sent again until there is no time left for it; the fence is answered.
    let end = writer.run(&mut model, [LOST; 5]);
    assert!(matches!(end, Err(TxnError::Aborted(NotCommitted::Fenced(_)))), "{end:?}");
    model.arrive(&late);
    assert_eq!(stored(&model), initial());
}

fn without_an_answer_to_the_fence_nobody_can_say_check<M: FleetModel>() {
    let mut model = M::ready();
    let courses = [OK, UNHEARD].into_iter().chain([LOST; 50]);
    assert_eq!(Writer::<M>::new(1).run(&mut model, courses), Err(TxnError::Indeterminate));
    assert_eq!(stored(&model).revision, Revision::new(1), "it was made, as it happens");
}

fn a_lost_change_on_which_another_one_was_made_is_recognised_check<M: FleetModel>() {
    let mut model = M::ready();
    let mut first = Writer::<M>::new(1);
    first.step(&mut model, OK);
    first.step(&mut model, UNHEARD);
    assert_eq!(made_revision(&Writer::<M>::new(2).run(&mut model, [])), Some(2));
    let end = first.run(&mut model, []);
    let (state, current) = made(&end).unwrap_or_else(|| panic!("{end:?}"));
    assert_eq!((state.revision, current.revision), (Revision::new(1), Revision::new(2)));
}

fn a_lost_change_on_which_so_many_were_made_that_the_history_has_forgotten_it_is_neither_denied_nor_repeated_check<
    M: FleetModel,
>() {
    let others_write = |model: &mut M, times: u64| {
        (0..times).for_each(|_| assert!(made(&Writer::<M>::new(2).run(model, [])).is_some()));
    };
    for (others, expected) in [(49, "made"), (50, "unknown")] {
        // Origin when it is sent again, or by its fence.
        for lost in [1, 5] {
            let (mut model, mut writer) = (M::ready(), Writer::<M>::new(1));
            writer.step(&mut model, OK);
            (0..lost).for_each(|_| writer.step(&mut model, UNHEARD));
            others_write(&mut model, others);
            let end = writer.run(&mut model, []);
            let seen = if made(&end).is_some() { "made" } else { "unknown" };
            let is_known = seen == "made" || end == Err(TxnError::Indeterminate);
            assert!(seen == expected && is_known, "{others} others, {lost}: {end:?}");
            assert_eq!(stored(&model).revision, Revision::new(others + 1), "{others} others, {lost}");
        }
    }
    // What was made at its revision is remembered, and is another one's.
    let (mut model, mut writer) = (M::ready(), Writer::<M>::new(1));
    writer.step(&mut model, OK);
    writer.step(&mut model, LOST);
    others_write(&mut model, 3);
    assert_eq!(made_revision(&writer.run(&mut model, [])), Some(4));
}

fn what_is_not_a_state_is_written_over_from_what_is_known_here_check<M: FleetModel>() {
    let mut model = M::ready();
    model.put_foreign();
    assert_eq!(made_revision(&Writer::<M>::new(1).run(&mut model, [])), Some(1));
    assert_eq!(stored(&model).revision, Revision::new(1));
}

fn a_store_that_went_back_in_time_takes_precedence_check<M: FleetModel>() {
    let mut model = M::ready();
    for (known, policy) in [(None, ReplacePolicy::IfNewer), (Some(ModRevision(900)), ReplacePolicy::Always)] {
        let (host, store, name) = (TestHost::default(), M::store(), iris());
        let known = Loaded { state: initial(), origin: Origin::Absent, mod_revision: known, token: CasToken::Never };
        let (mut time_left, mut nothing) = (WRITE_WITHIN, |_: &State| Ok::<_, Infallible>(None));
        let mut flow = Box::pin(commit(&*store, &host, &name, known, &mut time_left, &mut nothing));
        assert!(poll_once(flow.as_mut()).is_pending());
        model.answer(&host, Fate::Answered, Duration::ZERO);
        let Poll::Ready(Ok(Committed::Unchanged(current))) = poll_once(flow.as_mut()) else { panic!("a read") };
        assert_eq!((current.policy, current.mod_revision), (policy, None));
    }
}

fn a_writer_that_loses_again_and_again_waits_for_its_turn_once_and_then_stays_in_it_check<M: FleetModel>() {
    let (mut model, mut writer) = (M::ready(), Writer::<M>::new(1));
    let mut rounds = 0;
    while rounds < 20 {
        let puts = writer.next().is_some_and(|call| M::is_put(&call));
        if puts {
            assert!(made(&Writer::<M>::new(2).run(&mut model, [])).is_some());
            rounds += 1;
        }
        writer.step(&mut model, OK);
        if puts && M::READS_AFTER_LOSS {
            writer.step(&mut model, OK);
        }
        assert_eq!(writer.queued, u32::from(rounds >= 4), "after {rounds} lost races");
    }
    let end = writer.run(&mut model, []);
    assert_eq!(made_revision(&end), Some(21), "{end:?}");
}

fn a_write_ends_in_time_in_whatever_phase_the_store_falls_silent_and_says_what_is_certain_check<M: FleetModel>() {
    let aborted = |end: &End| match end {
        Err(TxnError::Aborted(why)) => Some(why.clone()),
        _ => None,
    };
    let unread = |end: &End| matches!(aborted(end), Some(NotCommitted::Unread(_)));
    let late = |end: &End| matches!(aborted(end), Some(NotCommitted::Late));
    let unsent = |end: &End| matches!(aborted(end), Some(NotCommitted::Unsent(_)));
    let fenced = |end: &End| matches!(aborted(end), Some(NotCommitted::Fenced(_)));
    let is_made = |end: &End| made(end).is_some();
    let unknown = |end: &End| *end == Err(TxnError::Indeterminate);
    // What becomes of the calls, the last of it over and over; how long it takes in milliseconds; whether it is made.
    type Case<'c> = (&'c [Course], &'c dyn Fn(&End) -> bool, u64, bool);
    let cases: [Case<'_>; 11] = [
        (&[LOST], &unread, 4_000, false),
        (&[BROKEN], &unread, 0, false),
        (&[OK, REFUSED], &unsent, 0, false),
        (&[OK, LOST], &unknown, 7_000, false),
        (&[OK, UNHEARD], &unknown, 7_000, true),
        (&[LOST, LOST, LOST, SLOW, LOST], &unknown, 7_000, false),
        (&[LOST, LOST, LOST, SLOW, UNHEARD], &unknown, 7_000, true),
        (&[LOST, LOST, LOST, SLOW, SLOW], &is_made, 5_000, true),
        (&[OK, LOST, LOST, LOST, LOST, LOST, OK], &fenced, 5_000, false),
        // An answer that leaves no time to ask what stands there says too little.
        (
            &[OK, UNHEARD, LOST, LOST, LOST, LOST, LOST, SLOW],
            if M::READS_AFTER_LOSS { &unknown } else { &is_made },
            7_000,
            true,
        ),
        (&[OK, CUT], &unknown, 0, true),
    ];
    for (courses, expected, millis, was_made) in cases {
        let (mut model, mut writer) = (M::ready(), Writer::<M>::new(1));
        let last = courses.last().copied().expect("a course");
        let end = writer.run(&mut model, courses.iter().copied().chain([last; 50]));
        assert!(expected(&end), "{courses:?}: {end:?}");
        assert_eq!(writer.took(), Duration::from_millis(millis), "{courses:?}");
        let revision = model.state().map_or(0, |state| state.revision.get());
        assert_eq!(revision, u64::from(was_made), "{courses:?}");
    }
    // Others write each time before it, and the store takes its time.
    let (mut model, mut writer) = (M::ready(), Writer::<M>::new(1));
    while writer.next().is_some() {
        writer.step(&mut model, SLOW);
        assert!(made(&Writer::<M>::new(2).run(&mut model, [])).is_some());
    }
    assert!(writer.end.as_ref().is_some_and(late), "{:?}", writer.end);
    assert_eq!(writer.took(), Duration::from_secs(5));
}

fn whatever_becomes_of_its_calls_a_write_ends_in_time_with_the_truth_check<M: FleetModel>() {
    let courses =
        [OK, SLOW, SLOWISH, BROKEN_OFF, REFUSED, BROKEN, CUT, LOST, UNHEARD, DENIED, NOT_NOW, NO_SPACE, LAST_SPACE];
    let mut ends = [0; 3];
    for seed in 0..500_u64 {
        let draw = |place: u64, of: usize| {
            let number = xxhash_rust::xxh64::xxh64(&place.to_le_bytes(), seed);
            usize::try_from(number >> 33).expect("31 bits") % of
        };
        let (mut model, mut writer) = (M::ready(), Writer::<M>::new(1));
        let mut place = 0;
        let mut stray = Vec::new();
        while let Some(call) = writer.next() {
            place += 1;
            // From some call on only what is bad happens.
            let course = courses[draw(place, courses.len())];
            let course = if place > 2 && draw(place, 3) > 0 { LOST } else { course };
            if course.fate == Fate::RequestLost {
                stray.push(call);
            }
            if draw(1_000 + place, 9) == 0 {
                assert!(made(&Writer::<M>::new(2).run(&mut model, [])).is_some());
            }
            writer.step(&mut model, course);
        }
        assert!(writer.took() <= WRITE_WITHIN, "{seed}: {:?}", writer.took());
        // What was lost arrives after all.
        stray.iter().for_each(|call| model.arrive(call));
        let by_the_writer =
            |state: &State| state.history.changes().any(|change| change.author.by.as_str() == "writer-1");
        let is_made = model.state().is_some_and(|state| by_the_writer(&state));
        match writer.end.expect("an end") {
            Ok(Committed::Made(..)) => assert!(is_made, "{seed}"),
            Err(TxnError::Aborted(why)) => assert!(!is_made, "{seed}: {why:?}"),
            Err(TxnError::Indeterminate) => ends[usize::from(is_made)] += 1,
            other => panic!("{seed}: {other:?}"),
        }
        ends[2] += 1;
    }
    assert!(ends[0] > 0 && ends[1] > 0, "nobody could say, and it was made or not: {ends:?}");
}

for_each_store! {
    of_many_interleaved_writers_none_is_lost_and_none_doubled: of_many_interleaved_writers_none_is_lost_and_none_doubled_check;
    a_store_out_of_reach_means_certainly_nothing_was_changed: a_store_out_of_reach_means_certainly_nothing_was_changed_check;
    what_the_store_refuses_is_answered_at_once_with_its_reason: what_the_store_refuses_is_answered_at_once_with_its_reason_check;
    a_put_that_used_the_last_space_was_made_although_the_store_refuses_it: a_put_that_used_the_last_space_was_made_although_the_store_refuses_it_check;
    a_refusal_says_nothing_of_an_answer_that_was_lost_before: a_refusal_says_nothing_of_an_answer_that_was_lost_before_check;
    a_lost_answer_is_found_out_about: a_lost_answer_is_found_out_about_check;
    a_put_that_arrives_after_its_fence_does_nothing: a_put_that_arrives_after_its_fence_does_nothing_check;
    without_an_answer_to_the_fence_nobody_can_say: without_an_answer_to_the_fence_nobody_can_say_check;
    a_lost_change_on_which_another_one_was_made_is_recognised: a_lost_change_on_which_another_one_was_made_is_recognised_check;
    a_lost_change_on_which_so_many_were_made_that_the_history_has_forgotten_it_is_neither_denied_nor_repeated: a_lost_change_on_which_so_many_were_made_that_the_history_has_forgotten_it_is_neither_denied_nor_repeated_check;
    what_is_not_a_state_is_written_over_from_what_is_known_here: what_is_not_a_state_is_written_over_from_what_is_known_here_check;
    a_store_that_went_back_in_time_takes_precedence: a_store_that_went_back_in_time_takes_precedence_check;
    a_writer_that_loses_again_and_again_waits_for_its_turn_once_and_then_stays_in_it: a_writer_that_loses_again_and_again_waits_for_its_turn_once_and_then_stays_in_it_check;
    a_write_ends_in_time_in_whatever_phase_the_store_falls_silent_and_says_what_is_certain: a_write_ends_in_time_in_whatever_phase_the_store_falls_silent_and_says_what_is_certain_check;
    whatever_becomes_of_its_calls_a_write_ends_in_time_with_the_truth: whatever_becomes_of_its_calls_a_write_ends_in_time_with_the_truth_check;
}
