//! What one instance of the filter remembers, and what it says to the others.
//!
//! It takes a state over when it is told of a write, and writes down what it has counted when it is asked or when it ticks.
//! So no request reads what the workers share.

use std::cell::{Cell, OnceCell, RefCell};
use std::time::Duration;

use futures_channel::oneshot::Sender;
use futures_lite::future;

use super::comparer::{self, About, Comparer, Notes};
use super::message::Message;
use super::recorder::{self, Recorder};
use super::report::{self, Report};
use super::roster::{Member, Roster};
use crate::deployment::{Deployment, DeploymentIndex, Deployments};
use crate::host::reply::Reply;
use crate::host::{Host, next_tick};
use crate::metrics::answer::Attribution;
use crate::metrics::cohorts::{self, Draw, Ticket};
use crate::metrics::comparison;
use crate::metrics::counters::ColourMetric;
use crate::metrics::named::Named;
use crate::metrics::tally::Tally;
use crate::model::colour::{Colour, PerColour};
use crate::model::percent::Percent;
use crate::model::split::{Revision, Split};
use crate::model::time::Timestamp;
use crate::routing::rotation::Seed;
use crate::routing::worker::WorkerState;
use crate::shadow::dropped::Dropped;
use crate::store::key::Key;
use crate::store::lease::Instance;
use crate::store::{StoreError, number, update};

/// One instance's memory.
pub struct Worker {
    instance: Instance,
    vm: u64,
    member: Cell<Option<Member>>,
    /// Whether a request began since the last tick.
    has_begun: Cell<bool>,
    last_stream: Cell<Option<Timestamp>>,
    beats: Cell<u64>,
    /// The number of writes up to which everything was taken over, or has its turn.
    writes: Cell<u64>,
    /// The next deployment that has its turn to be taken over again; behind all of them if there is none.
    next: Cell<DeploymentIndex>,
    memories: Vec<Memory>,
    /// The deployments about which there is something that the reports do not say.
    news: RefCell<Vec<DeploymentIndex>>,
    /// The deployments about whose canary something was noted that has not been let go of.
    recorded: RefCell<Vec<DeploymentIndex>>,
    questions: RefCell<Vec<Question>>,
    last_ticket: Cell<u64>,
    /// The deployments of which answers were compared since the last tick.
    compared: RefCell<Vec<DeploymentIndex>>,
    began: Timestamp,
}

/// What it remembers of a deployment.
struct Memory {
    state: WorkerState,
    counts: Cell<PerColour<Tally>>,
    /// What of that Envoy's metrics show.
    shown: Cell<PerColour<Tally>>,
    /// Whether there is something that the report does not say.
    is_news: Cell<bool>,
    /// What is noted about the requests of a canary.
    recorder: Cell<Recorder>,
    /// Whether something is.
    is_recorded: Cell<bool>,
    /// Whether the state was taken over since the instance enrolled. Of a write before that it was not told.
    is_current: Cell<bool>,
    /// The part in comparing answers, once there is one.
    comparer: OnceCell<Box<Comparer>>,
}

/// A question to other members that has not been answered by all.
struct Question {
    ticket: u64,
    /// The numbers of the members that have not answered.
    unanswered: Vec<u64>,
    asker: Option<Sender<()>>,
}

/// Who has confirmed that it has taken over what stands in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confirmation {
    /// The machines that there are.
    pub machines: Vec<u64>,
    /// Those of them that have not confirmed in time.
    pub silent: Vec<u64>,
}

/// So many messages are taken out of a queue in one event. Each message brings an event, so those behind them have their
/// turn.
const MESSAGES_PER_EVENT: usize = 64;

/// So many deployments are taken over again at one tick, each of which takes some ten microseconds. Requests of the thread
/// wait for a tick.
const TAKEN_OVER_PER_TICK: usize = 64;

/// So long a member has to confirm: a second, in ticks, since clocks jump. The first may come at once.
const TICKS_TO_CONFIRM: u32 = 5;

// === impl Worker ===

impl Worker {
    /// One that knows nothing yet, in the virtual machine with this number.
    pub fn new(deployments: &Deployments, instance: Instance, vm: u64, now: Timestamp) -> Self {
        let remember = |deployment: &Deployment| Memory {
            state: WorkerState::new(deployment, Seed::new(instance, now.as_millis(), &deployment.name)),
            counts: Cell::default(),
            shown: Cell::default(),
            is_news: Cell::new(false),
            recorder: Cell::default(),
            is_recorded: Cell::new(false),
            is_current: Cell::new(false),
            comparer: OnceCell::new(),
        };
        Self {
            instance,
            vm,
            member: Cell::new(None),
            has_begun: Cell::new(false),
            last_stream: Cell::new(None),
            beats: Cell::new(0),
            writes: Cell::new(0),
            next: Cell::new(deployments.all().len()),
            memories: deployments.all().iter().map(remember).collect(),
            news: RefCell::default(),
            recorded: RefCell::default(),
            questions: RefCell::default(),
            last_ticket: Cell::new(0),
            compared: RefCell::default(),
            began: now,
        }
    }

    /// The number of its virtual machine.
    pub const fn machine(&self) -> u64 {
        self.vm
    }

    /// What is remembered of a deployment from request to request.
    pub fn state(&self, index: DeploymentIndex) -> Option<&WorkerState> {
        Some(&self.memories.get(index)?.state)
    }

    // --- requests ---

    /// A request begins here, of whatever kind.
    pub fn on_stream(&self, host: &dyn Host) {
        self.has_begun.set(true);
        if self.member.get().is_none() {
            self.enrol(host);
        }
    }

    /// The split that a request follows. What was taken over since the instance enrolled is current; until then it is told of
    /// nothing, and reads.
    pub fn split(&self, host: &dyn Host, index: DeploymentIndex, deployment: &Deployment) -> Split {
        let Some(memory) = self.memories.get(index) else { return deployment.initial };
        if !memory.is_current.get() {
            self.take_over(host, index, deployment);
        }
        memory.state.known_split().unwrap_or(deployment.initial)
    }

    /// Counts about a colour: under each of these metrics so much.
    pub fn count(
        &self,
        index: DeploymentIndex,
        colour: Colour,
        counted: impl IntoIterator<Item = (ColourMetric, i64)>,
    ) {
        if let Some(memory) = self.memories.get(index) {
            let mut counts = memory.counts.take();
            let tally = counts.get_mut(colour);
            counted.into_iter().for_each(|(metric, by)| tally.add(metric, by));
            memory.counts.set(counts);
            self.note_news(index, memory);
        }
    }

    /// A request begins that follows `split` to `colour`. It is noted where chance has shared it out and the colours are
    /// compared; then there is a ticket, with which to say what became of it.
    pub fn begin(
        &self,
        (index, deployment): (DeploymentIndex, &Deployment),
        split: &Split,
        (colour, draw): (Colour, Option<Draw>),
        now: Timestamp,
    ) -> Option<Ticket> {
        let (memory, draw) = (self.memories.get(index)?, draw.filter(|_| deployment.compares())?);
        let revision = memory.state.known_revision().unwrap_or(Revision::ZERO);
        let candidate = split.candidate();
        let candidate = (candidate, memory.state.buckets(candidate));
        let mut recorder = memory.recorder.take();
        let ticket = recorder.begin((now, revision, split.canary_percent), candidate, colour, draw);
        memory.recorder.set(recorder);
        if !memory.is_recorded.replace(true) {
            self.recorded.borrow_mut().push(index);
        }
        Some(ticket)
    }

    /// The head of its answer has come, after this time. What remains of the ticket.
    #[must_use]
    pub fn on_head(
        &self,
        (index, deployment): (DeploymentIndex, &Deployment),
        ticket: Ticket,
        attribution: &Attribution,
        after: Duration,
    ) -> Option<Ticket> {
        let latency = deployment.compares_first_bytes().then_some(after);
        self.record(index, |recorder| recorder.on_head(ticket, attribution, latency)).flatten()
    }

    /// It is over, after this time. `host` looks up who answered.
    pub fn end(
        &self,
        (index, deployment): (DeploymentIndex, &Deployment),
        ticket: Ticket,
        attribution: &Attribution,
        after: Duration,
        host: impl FnOnce() -> cohorts::Host,
    ) {
        self.record(index, |recorder| recorder.end(ticket, attribution, after, &deployment.error_rule(), host));
    }

    fn record<R>(&self, index: DeploymentIndex, note: impl FnOnce(&mut Recorder) -> R) -> Option<R> {
        let memory = self.memories.get(index)?;
        let mut recorder = memory.recorder.take();
        let result = note(&mut recorder);
        memory.recorder.set(recorder);
        Some(result)
    }

    // --- answers that are compared ---

    /// The part in comparing the answers of a deployment.
    pub fn comparer(&self, index: DeploymentIndex, deployment: &Deployment) -> Option<&Comparer> {
        let seed = || Seed::new(self.instance, self.began.as_millis(), &deployment.name);
        Some(self.memories.get(index)?.comparer.get_or_init(|| Box::new(Comparer::new(seed()))))
    }

    /// Notes something about answers that were compared; nothing where what is behind the colours has changed meanwhile.
    pub fn note_comparison<R: Default>(
        &self,
        index: DeploymentIndex,
        about: &About,
        note: impl FnOnce(&mut Notes) -> R,
    ) -> R {
        let Some(memory) = self.memories.get(index) else { return R::default() };
        let Some(comparer) = memory.comparer.get() else { return R::default() };
        if !about.is_now(&memory.state) {
            return R::default();
        }
        self.note_compared(index);
        comparer.note(about, memory.state.known_revision().unwrap_or(Revision::ZERO), note)
    }

    /// Counts a copy whose answer is not compared.
    pub fn drop_copy(
        &self,
        host: &dyn Host,
        (index, deployment): (DeploymentIndex, &Deployment),
        about: &About,
        reason: Dropped,
    ) {
        host.count(&Named::CompareDropped(&deployment.name, reason.as_str()).to_string());
        self.comparer(index, deployment);
        self.note_comparison(index, about, |notes| notes.compared.add_dropped(reason));
    }

    /// Wakes the root context of this thread: what a stream has begun goes on there. Where there is no queue it does so at the
    /// next tick.
    pub fn wake(&self, host: &dyn Host) {
        if let Some(queue) = self.member.get().and_then(|member| member.queue) {
            host.queues().enqueue(queue, &[]);
        }
    }

    fn note_compared(&self, index: DeploymentIndex) {
        let mut compared = self.compared.borrow_mut();
        if !compared.contains(&index) {
            compared.push(index);
        }
    }

    /// Writes down what was found.
    fn write_comparisons(&self, host: &dyn Host, deployments: &Deployments, member: &Member) {
        for index in self.compared.take() {
            let comparer = self.memories.get(index).and_then(|memory| memory.comparer.get());
            if let Some((comparer, deployment)) = comparer.zip(deployments.get(index)) {
                comparer.write(host.store(), &deployment.name, member);
                if comparer.is_news() {
                    self.note_compared(index);
                }
            }
        }
    }

    // --- the others ---

    /// Tells all that something was written about a deployment, and takes it over.
    pub fn announce(&self, host: &dyn Host, index: DeploymentIndex, deployment: &Deployment) {
        let mut write = 0;
        let counted = update(host.store(), &Key::Writes.to_string(), &mut |before| {
            write = number(before.value).wrapping_add(1);
            Some(write.to_string().into_bytes())
        });
        if counted.is_err() {
            host.warn(&format!(
                "bluegreen: deployment={}: the shared store cannot be written: a worker that misses this change's message does not see it",
                deployment.name
            ));
        }
        self.take_over(host, index, deployment);
        self.has_taken_over(write);
        self.tell(host, &Message::Changed { write, about: deployment.name.as_str() });
    }

    /// Counts a write about many deployments of which nobody needs to hear at once. The others find it at their next ticks.
    pub fn note_write(&self, host: &dyn Host) {
        // Without the store there was no write.
        let _: Result<bool, StoreError> = update(host.store(), &Key::Writes.to_string(), &mut |before| {
            Some(number(before.value).wrapping_add(1).to_string().into_bytes())
        });
    }

    /// Takes note that a write was taken over. If it is the next one after those that all were, there is nothing to look for:
    /// reading a thousand states again takes a while.
    fn has_taken_over(&self, write: u64) {
        if self.writes.get().wrapping_add(1) == write {
            self.writes.set(write);
        }
    }

    /// Has all members take over and report what concerns a deployment, or all deployments, and waits for them, for a second
    /// at most.
    pub async fn ask(
        &self,
        host: &dyn Host,
        deployments: &Deployments,
        about: Option<DeploymentIndex>,
    ) -> Confirmation {
        self.bring_up_to_date(host, deployments, about);
        self.mend_roster(host);
        for _ in 0..TICKS_TO_CONFIRM {
            if !Roster::read(host.store()).may_be_incomplete(host.now()) {
                break;
            }
            next_tick(host).await;
        }
        let roster = Roster::read(host.store());
        let members = |silent: bool| {
            let of_kind = self.others(&roster).filter(move |member| member.silent == silent);
            // Who has no queue yet has read nothing: what it will read is what stands there now.
            of_kind.filter_map(|member| Some((member.number, member.queue?)))
        };
        let mut silent: Vec<u64> = members(true).map(|(number, _)| number).collect();
        match self.member.get().and_then(|member| member.queue) {
            Some(reply_to) => {
                let ticket = self.last_ticket.get().wrapping_add(1);
                self.last_ticket.set(ticket);
                let about = about.and_then(|index| deployments.get(index));
                let about = about.map_or("", |deployment| deployment.name.as_str());
                let message = Message::Asked { reply_to, ticket, about }.to_string();
                for (_, queue) in members(false) {
                    host.queues().enqueue(queue, message.as_bytes());
                }
                let asked = members(false).map(|(number, _)| number).collect();
                silent.extend(self.late(host, ticket, asked).await);
            }
            // Without a queue of its own it cannot hear the others.
            None => silent.extend(members(false).map(|(number, _)| number)),
        }
        // As it is now, unless the store has gone out of reach meanwhile.
        let last = Some(Roster::read(host.store())).filter(|last| !last.members().is_empty());
        Confirmation::new(&last.unwrap_or(roster), &silent)
    }

    /// Waits for the answers to a question, and gives the numbers of the members whose has not come in time.
    async fn late(&self, host: &dyn Host, ticket: u64, asked: Vec<u64>) -> Vec<u64> {
        if asked.is_empty() {
            return asked;
        }
        let (asker, all_answered) = Reply::pending();
        self.questions.borrow_mut().push(Question { ticket, unanswered: asked, asker: Some(asker) });
        let too_late = async {
            for _ in 0..TICKS_TO_CONFIRM {
                next_tick(host).await;
                if self.only_those_who_left(host, ticket) {
                    break;
                }
            }
        };
        future::or(all_answered, too_late).await;
        self.only_those_who_left(host, ticket);
        let mut questions = self.questions.borrow_mut();
        let place = questions.iter().position(|question| question.ticket == ticket);
        place.map(|place| questions.swap_remove(place).unanswered).unwrap_or_default()
    }

    /// Whether all who have not answered a question have left since, as the instances of a former configuration do. They are
    /// waited for no more.
    fn only_those_who_left(&self, host: &dyn Host, ticket: u64) -> bool {
        let roster = Roster::read(host.store());
        // Who asks is a member: without one, the store is out of reach.
        if roster.members().is_empty() {
            return false;
        }
        let mut questions = self.questions.borrow_mut();
        let Some(question) = questions.iter_mut().find(|question| question.ticket == ticket) else { return true };
        question.unanswered.retain(|number| roster.members().iter().any(|member| member.number == *number));
        question.unanswered.is_empty()
    }

    /// Handles the messages that have come.
    pub fn on_queue(&self, host: &dyn Host, deployments: &Deployments) {
        let Some(member) = self.member.get() else { return };
        let Some(queue) = member.queue else { return };
        for _ in 0..MESSAGES_PER_EVENT {
            let Some(bytes) = host.queues().dequeue(queue) else { return };
            match Message::parse(&bytes) {
                Some(Message::Changed { write, about }) => {
                    if let Some((index, deployment)) = deployments.named(about) {
                        self.take_over(host, index, deployment);
                    }
                    self.has_taken_over(write);
                }
                Some(Message::Asked { reply_to, ticket, about }) => {
                    let about = deployments.named(about).map(|(index, _)| index);
                    self.bring_up_to_date(host, deployments, about);
                    let message = Message::Confirmed { ticket, number: member.number };
                    host.queues().enqueue(reply_to, message.to_string().as_bytes());
                }
                Some(Message::Confirmed { ticket, number }) => self.on_confirmed(ticket, number),
                None => {}
            }
        }
    }

    fn on_confirmed(&self, ticket: u64, number: u64) {
        let mut questions = self.questions.borrow_mut();
        // Those who asked may be gone.
        questions.retain(|question| question.asker.as_ref().is_none_or(|asker| !asker.is_canceled()));
        let Some(question) = questions.iter_mut().find(|question| question.ticket == ticket) else { return };
        question.unanswered.retain(|other| *other != number);
        if question.unanswered.is_empty()
            && let Some(asker) = question.asker.take()
        {
            let _: Result<(), ()> = asker.send(());
        }
    }

    fn tell(&self, host: &dyn Host, message: &Message<'_>) {
        let bytes = message.to_string().into_bytes();
        for member in self.others(&Roster::read(host.store())).filter(|member| !member.silent) {
            if let Some(queue) = member.queue {
                host.queues().enqueue(queue, &bytes);
            }
        }
    }

    fn others<'r>(&self, roster: &'r Roster) -> impl Iterator<Item = &'r Member> {
        let own = self.instance.get();
        roster.members().iter().filter(move |member| member.number != own)
    }

    // --- time ---

    /// Gives a sign of life, takes over what it was not told of, and writes down what it has counted.
    pub fn tick(&self, host: &dyn Host, deployments: &Deployments) {
        if self.member.get().is_none() {
            self.enrol(host);
        }
        let roster = self.mend_roster(host);
        let Some(member) = self.member.get() else { return };
        let now = host.now();
        if self.has_begun.take() {
            self.last_stream.set(Some(now));
        }
        self.beats.set(self.beats.get().wrapping_add(1));
        member.beat(host.store(), &roster, self.beats.get(), now, self.last_stream.get());
        self.take_over_in_turns(host, deployments, TAKEN_OVER_PER_TICK);
        self.report_news(host, deployments);
        self.write_records(host, deployments, &member);
        self.write_comparisons(host, deployments, &member);
    }

    /// The instance is at its end: what it has counted stays.
    pub fn leave(&self, host: &dyn Host, deployments: &Deployments) {
        let Some(member) = self.member.take() else { return };
        for (index, deployment) in deployments.all().iter().enumerate() {
            self.report(host, index, deployment, &member);
        }
        self.write_records(host, deployments, &member);
        self.write_comparisons(host, deployments, &member);
        let has_counted = |index| self.memories.get(index).is_some_and(Memory::has_counted);
        strike_off(host, deployments, &member, &has_counted);
    }

    /// Enrols again where another plugin has written over the roster. The others do so at their next ticks. The roster as it
    /// stood before that.
    fn mend_roster(&self, host: &dyn Host) -> Roster {
        let Ok(roster) = Roster::try_read(host.store()) else { return Roster::default() };
        if self.member.get().is_some_and(|member| roster.lacks(member.number)) {
            self.enrol(host);
        }
        roster
    }

    fn enrol(&self, host: &dyn Host) {
        let enrolled = Member::enrol(host.store(), host.queues(), self.instance, self.vm, host.now());
        // Without the store there is nothing to be told of. The next event tries again.
        self.member.set(enrolled.ok());
        self.memories.iter().for_each(|memory| memory.is_current.set(false));
    }

    /// Takes over and reports what concerns a deployment; without one, what has changed of all.
    fn bring_up_to_date(&self, host: &dyn Host, deployments: &Deployments, about: Option<DeploymentIndex>) {
        if let Some((index, deployment)) = about.and_then(|index| Some((index, deployments.get(index)?))) {
            self.take_over(host, index, deployment);
            if let Some(member) = self.member.get() {
                self.report(host, index, deployment, &member);
                self.write_comparisons(host, deployments, &member);
            }
            return;
        }
        self.take_over_in_turns(host, deployments, deployments.all().len());
        self.report_news(host, deployments);
    }

    /// Takes over what it was not told of: at most so many deployments, the next ones in their order. A request for one of the
    /// rest has it taken over first.
    fn take_over_in_turns(&self, host: &dyn Host, deployments: &Deployments, most: usize) {
        if self.has_missed_writes(host) {
            self.memories.iter().for_each(|memory| memory.is_current.set(false));
            self.next.set(0);
        }
        let first = self.next.get();
        let end = first.saturating_add(most).min(deployments.all().len());
        for (index, deployment) in deployments.all().iter().enumerate().take(end).skip(first) {
            self.take_over(host, index, deployment);
        }
        self.next.set(end);
    }

    /// Writes down what the reports do not say.
    fn report_news(&self, host: &dyn Host, deployments: &Deployments) {
        let Some(member) = self.member.get() else { return };
        // Those that cannot be written down stay news.
        for index in self.news.take() {
            if let Some(deployment) = deployments.get(index) {
                self.report(host, index, deployment, &member);
            }
        }
    }

    fn has_missed_writes(&self, host: &dyn Host) -> bool {
        let written = host.store().read(&Key::Writes.to_string()).map(|stored| number(stored.value));
        written.is_ok_and(|written| self.writes.replace(written) != written)
    }

    fn take_over(&self, host: &dyn Host, index: DeploymentIndex, deployment: &Deployment) {
        let Some(memory) = self.memories.get(index) else { return };
        memory.is_current.set(self.member.get().is_some());
        let before = memory.state.known_revision();
        if let Some(fallback) = memory.state.take_over(deployment, host.store()) {
            host.count_fallback(index);
            if let Some(line) = fallback.warning {
                host.warn(&line);
            }
        }
        if memory.state.known_revision() != before {
            self.note_news(index, memory);
            if memory.state.known_split().is_some_and(|split| split.canary_percent == Percent::ZERO) {
                self.record(index, Recorder::on_no_canary);
            }
        }
    }

    /// Writes down what became of the requests of canaries.
    fn write_records(&self, host: &dyn Host, deployments: &Deployments, member: &Member) {
        for index in self.recorded.take() {
            let (Some(memory), Some(deployment)) = (self.memories.get(index), deployments.get(index)) else { continue };
            let write = |recorder: &mut Recorder| recorder.write(host.store(), &deployment.name, member, host.now());
            if self.record(index, write).unwrap_or_default() {
                self.recorded.borrow_mut().push(index);
            } else {
                memory.is_recorded.set(false);
            }
        }
    }

    fn note_news(&self, index: DeploymentIndex, memory: &Memory) {
        if !memory.is_news.replace(true) {
            self.news.borrow_mut().push(index);
        }
    }

    /// Writes down what it has counted, and shows it in Envoy's metrics.
    fn report(&self, host: &dyn Host, index: DeploymentIndex, deployment: &Deployment, member: &Member) {
        let Some(memory) = self.memories.get(index) else { return };
        if !memory.is_news.take() {
            return;
        }
        let (counts, shown) = (memory.counts.take(), memory.shown.take());
        memory.counts.set(counts.clone());
        if is_empty(&shown) && !is_empty(&counts) {
            // Where comparisons begin, unless the leader has sampled it before.
            let totals = || report::counts(host.store(), &deployment.name);
            let _: Result<(), StoreError> = comparison::begin(host.store(), &deployment.name, host.now(), totals);
        }
        for colour in Colour::ALL {
            for (metric, by) in counts.get(colour).changes_since(shown.get(colour)) {
                host.add_to_metric(index, colour, metric, by);
            }
        }
        memory.shown.set(counts.clone());
        let revision = memory.state.known_revision().unwrap_or(Revision::ZERO);
        let report = Report::new(member, revision, deployment.digest, counts);
        if report.write(host.store(), &deployment.name, member.slot).is_err() {
            self.note_news(index, memory);
        }
    }
}

/// Strikes a member that is gone off the roster, and keeps what it has counted.
pub fn dismiss(host: &dyn Host, deployments: &Deployments, member: &Member) {
    strike_off(host, deployments, member, &|_| true);
}

/// The same where it is known of which deployments it has counted anything.
fn strike_off(
    host: &dyn Host,
    deployments: &Deployments,
    member: &Member,
    has_counted: &dyn Fn(DeploymentIndex) -> bool,
) {
    let store = host.store();
    for (index, deployment) in deployments.all().iter().enumerate() {
        if has_counted(index) {
            // Without the store nobody can read the counts either.
            let _: Result<(), StoreError> = report::keep(store, &deployment.name, member);
        }
        if deployment.compares() {
            let _: Result<(), StoreError> = recorder::keep(store, &deployment.name, member, host.now());
        }
        if deployment.shadow.is_some() {
            let _: Result<(), StoreError> = comparer::keep(store, &deployment.name, member);
        }
    }
    let _: Result<(), StoreError> =
        Roster::change(store, host.now(), &mut |members| members.retain(|known| known.number != member.number));
}

// === impl Memory ===

impl Memory {
    /// Whether the worker has counted anything of the deployment.
    fn has_counted(&self) -> bool {
        let counts = self.counts.take();
        let has_counted = !is_empty(&counts);
        self.counts.set(counts);
        has_counted
    }
}

fn is_empty(counts: &PerColour<Tally>) -> bool {
    Colour::ALL.into_iter().all(|colour| counts.get(colour).is_empty())
}

// === impl Confirmation ===

impl Confirmation {
    fn new(roster: &Roster, unanswered: &[u64]) -> Self {
        let (mut machines, mut silent) = (Vec::new(), Vec::new());
        for member in roster.members() {
            insert_once(&mut machines, member.vm);
            if unanswered.contains(&member.number) {
                insert_once(&mut silent, member.vm);
            }
        }
        Self { machines, silent }
    }
}

/// A list without repetitions, in order.
fn insert_once(list: &mut Vec<u64>, number: u64) {
    if let Err(place) = list.binary_search(&number) {
        list.insert(place, number);
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::Poll;

    use super::*;
    use crate::model::author::{Author, Source};
    use crate::model::name::Reason;
    use crate::model::split::Split;
    use crate::state::Command;
    use crate::store::record::{Loaded, update_state};
    use crate::testing::green_has_an_authority;
    use crate::testing::host::{START, TestHost, poll_once};
    use crate::workers::report::totals;

    /// Workers of one Envoy, each in a machine of its own.
    struct Envoy {
        host: TestHost,
        deployments: Deployments,
        workers: Vec<Worker>,
    }

    impl Envoy {
        fn new(count: usize) -> Self {
            let (host, deployments) = (TestHost::default(), green_has_an_authority());
            let worker = |_| {
                let instance = Instance::register(&host.store, START);
                Worker::new(&deployments, instance, instance.get(), START)
            };
            let workers: Vec<Worker> = (0..count).map(worker).collect();
            workers.iter().for_each(|worker| worker.tick(&host, &deployments));
            Self { host, deployments, workers }
        }

        fn promote(&self) {
            let name = &self.deployments.all()[0].name;
            let author = || Author::new(crate::testing::holder("alice"), Source::Admin, Reason::none());
            let promote = &mut |loaded: &Loaded| loaded.state.after(&Command::Promote(None), author(), START);
            update_state(&self.host.store, name, Split::default(), START, promote).expect("allowed");
        }

        /// Lets these workers read what has come.
        fn deliver(&self, workers: &[usize]) {
            for worker in workers {
                self.workers[*worker].on_queue(&self.host, &self.deployments);
            }
        }

        fn follows(&self, worker: usize) -> Colour {
            self.workers[worker].split(&self.host, 0, &self.deployments.all()[0]).active
        }

        fn ask(&self) -> Pin<Box<dyn Future<Output = Confirmation> + '_>> {
            Box::pin(self.workers[0].ask(&self.host, &self.deployments, Some(0)))
        }

        fn pass_ticks(&self, flow: Pin<&mut (dyn Future<Output = Confirmation> + '_)>) -> Option<Confirmation> {
            let mut flow = flow;
            for _ in 0..TICKS_TO_CONFIRM {
                self.host.wake_sleepers();
                if let Poll::Ready(confirmation) = poll_once(flow.as_mut()) {
                    return Some(confirmation);
                }
            }
            None
        }
    }

    #[test]
    fn a_worker_follows_what_it_was_told_of_and_no_request_reads_the_store() {
        let envoy = Envoy::new(2);
        assert_eq!([envoy.follows(0), envoy.follows(1)], [Colour::Blue; 2]);
        envoy.promote();
        assert_eq!([envoy.follows(0), envoy.follows(1)], [Colour::Blue; 2]);
        envoy.workers[0].announce(&envoy.host, 0, &envoy.deployments.all()[0]);
        assert_eq!([envoy.follows(0), envoy.follows(1)], [Colour::Green, Colour::Blue]);
        envoy.deliver(&[1]);
        assert_eq!([envoy.follows(0), envoy.follows(1)], [Colour::Green; 2]);
    }

    #[test]
    fn a_message_that_was_lost_is_made_good_by_the_next_tick() {
        let envoy = Envoy::new(2);
        envoy.follows(1);
        envoy.promote();
        envoy.workers[0].announce(&envoy.host, 0, &envoy.deployments.all()[0]);
        envoy.host.messages.borrow_mut().clear();
        envoy.workers[1].tick(&envoy.host, &envoy.deployments);
        assert_eq!(envoy.follows(1), Colour::Green);
    }

    #[test]
    fn all_have_confirmed_once_each_has_read_the_store() {
        let envoy = Envoy::new(3);
        let mut asked = envoy.ask();
        assert_eq!(poll_once(asked.as_mut()), Poll::Pending);
        envoy.deliver(&[1, 0]);
        assert_eq!(poll_once(asked.as_mut()), Poll::Pending);
        envoy.deliver(&[2, 0]);
        let expected = Confirmation { machines: vec![1, 2, 3], silent: vec![] };
        assert_eq!(poll_once(asked.as_mut()), Poll::Ready(expected));
    }

    #[test]
    fn whoever_says_nothing_for_a_second_is_named() {
        let envoy = Envoy::new(3);
        let mut asked = envoy.ask();
        assert_eq!(poll_once(asked.as_mut()), Poll::Pending);
        envoy.deliver(&[1, 0]);
        let end = envoy.pass_ticks(asked.as_mut());
        assert_eq!(end, Some(Confirmation { machines: vec![1, 2, 3], silent: vec![3] }));
        drop(asked);
        // What comes too late belongs to no question.
        envoy.deliver(&[2, 0]);
        assert!(envoy.workers[0].questions.borrow().is_empty());
    }

    #[test]
    fn one_that_is_known_to_be_silent_is_named_and_not_waited_for() {
        let envoy = Envoy::new(2);
        Roster::change(&envoy.host.store, START, &mut |members| members[1].silent = true).expect("in reach");
        let expected = Confirmation { machines: vec![1, 2], silent: vec![2] };
        assert_eq!(poll_once(envoy.ask().as_mut()), Poll::Ready(expected));
        assert!(envoy.host.messages.borrow().values().all(std::collections::VecDeque::is_empty));
    }

    #[test]
    fn a_question_whose_asker_has_left_waits_for_nothing() {
        let envoy = Envoy::new(2);
        let mut asked = envoy.ask();
        assert_eq!(poll_once(asked.as_mut()), Poll::Pending);
        drop(asked);
        envoy.deliver(&[1, 0]);
        assert!(envoy.workers[0].questions.borrow().is_empty());
    }

    #[test]
    fn a_worker_that_begins_reads_what_stands_there_and_is_waited_for_only_then() {
        let mut envoy = Envoy::new(1);
        let instance = Instance::register(&envoy.host.store, START);
        envoy.workers.push(Worker::new(&envoy.deployments, instance, 2, START));
        let alone = Confirmation { machines: vec![1], silent: vec![] };
        assert_eq!(poll_once(envoy.ask().as_mut()), Poll::Ready(alone), "a configuration that is only tried out");
        envoy.promote();
        envoy.workers[1].on_stream(&envoy.host);
        assert_eq!(envoy.follows(1), Colour::Green);
        assert_eq!(poll_once(envoy.ask().as_mut()), Poll::Pending);
    }

    #[test]
    fn what_a_worker_knew_before_it_enrolled_is_read_again() {
        let mut envoy = Envoy::new(1);
        let instance = Instance::register(&envoy.host.store, START);
        envoy.workers.push(Worker::new(&envoy.deployments, instance, 2, START));
        // As a configuration does whose `initial` is a change.
        envoy.workers[1].announce(&envoy.host, 0, &envoy.deployments.all()[0]);
        envoy.promote();
        envoy.workers[0].announce(&envoy.host, 0, &envoy.deployments.all()[0]);
        envoy.workers[1].on_stream(&envoy.host);
        assert_eq!(envoy.follows(1), Colour::Green);
    }

    #[test]
    fn a_roster_that_another_plugin_has_written_over_is_whole_again_after_a_tick() {
        let envoy = Envoy::new(3);
        envoy.host.store.put(&Key::Workers.to_string(), b"not ours");
        let tick = || envoy.workers.iter().for_each(|worker| worker.tick(&envoy.host, &envoy.deployments));
        tick();
        envoy.host.pass(std::time::Duration::from_secs(1));
        assert_eq!(Roster::read(&envoy.host.store).members().len(), 3);
        envoy.promote();
        let mut asked = envoy.ask();
        assert_eq!(poll_once(asked.as_mut()), Poll::Pending);
        envoy.deliver(&[1, 2, 0]);
        let confirmed = Confirmation { machines: vec![1, 2, 3], silent: vec![] };
        assert_eq!(poll_once(asked.as_mut()), Poll::Ready(confirmed));
        assert_eq!([0, 1, 2].map(|worker| envoy.follows(worker)), [Colour::Green; 3]);
    }

    #[test]
    fn an_answer_waits_until_a_damaged_roster_is_whole() {
        let envoy = Envoy::new(2);
        envoy.host.store.put(&Key::Workers.to_string(), b"not ours");
        envoy.promote();
        // The one that is called has found it before, and so has nothing to mend.
        envoy.workers[0].tick(&envoy.host, &envoy.deployments);
        let mut asked = envoy.ask();
        assert_eq!(poll_once(asked.as_mut()), Poll::Pending);
        for _ in 0..3 {
            envoy.host.pass(std::time::Duration::from_millis(250));
            envoy.workers.iter().for_each(|worker| worker.tick(&envoy.host, &envoy.deployments));
            envoy.host.wake_sleepers();
            assert_eq!(poll_once(asked.as_mut()), Poll::Pending);
        }
        envoy.deliver(&[1, 0]);
        let confirmed = Confirmation { machines: vec![1, 2], silent: vec![] };
        assert_eq!(poll_once(asked.as_mut()), Poll::Ready(confirmed));
        assert_eq!([envoy.follows(0), envoy.follows(1)], [Colour::Green; 2]);
    }

    #[test]
    fn nobody_has_confirmed_while_the_roster_cannot_be_read() {
        let envoy = Envoy::new(2);
        let mut asked = envoy.ask();
        assert_eq!(poll_once(asked.as_mut()), Poll::Pending);
        envoy.host.store.set_reachable(false);
        envoy.host.wake_sleepers();
        assert_eq!(poll_once(asked.as_mut()), Poll::Pending);
        envoy.host.store.set_reachable(true);
        let end = envoy.pass_ticks(asked.as_mut());
        assert_eq!(end, Some(Confirmation { machines: vec![1, 2], silent: vec![2] }));
    }

    #[test]
    fn a_worker_that_leaves_while_it_is_asked_is_not_waited_for() {
        let envoy = Envoy::new(3);
        let mut asked = envoy.ask();
        assert_eq!(poll_once(asked.as_mut()), Poll::Pending);
        envoy.deliver(&[1, 0]);
        envoy.workers[2].leave(&envoy.host, &envoy.deployments);
        envoy.host.wake_sleepers();
        let confirmed = Confirmation { machines: vec![1, 2], silent: vec![] };
        assert_eq!(poll_once(asked.as_mut()), Poll::Ready(confirmed));
    }

    #[test]
    fn what_is_counted_is_said_when_somebody_asks_or_at_the_next_tick_and_stays_when_the_worker_goes() {
        let envoy = Envoy::new(2);
        let name = &envoy.deployments.all()[0].name;
        let requests = || totals(&envoy.host.store, name).blue.get(ColourMetric::Requests);
        let count = || envoy.workers[1].count(0, Colour::Blue, [(ColourMetric::Requests, 1)]);
        count();
        assert_eq!(requests(), 0);
        let mut asked = pin!(envoy.ask());
        assert_eq!(poll_once(asked.as_mut()), Poll::Pending);
        envoy.deliver(&[1]);
        assert_eq!(requests(), 1);
        count();
        envoy.workers[1].tick(&envoy.host, &envoy.deployments);
        assert_eq!(requests(), 2);
        count();
        envoy.workers[1].leave(&envoy.host, &envoy.deployments);
        assert_eq!((requests(), Roster::read(&envoy.host.store).members().len()), (3, 1));
    }

    #[test]
    fn without_the_store_a_worker_goes_on_with_what_it_knows() {
        let envoy = Envoy::new(1);
        envoy.promote();
        envoy.workers[0].announce(&envoy.host, 0, &envoy.deployments.all()[0]);
        envoy.host.store.set_reachable(false);
        envoy.workers[0].tick(&envoy.host, &envoy.deployments);
        assert_eq!(envoy.follows(0), Colour::Green);
    }
}
