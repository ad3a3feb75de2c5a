//! The guard of a fleet: each Envoy says what it knows about a canary, one judges, and all show the same judgement.
//!
//! About once a second each Envoy puts its [`Statement`] into the fleet's store and reads the last [`Judgement`], in one transaction. The Envoy that made
//! that one goes on judging; when it has been silent for [`PATIENCE`] anybody may, and of several who try the condition of the write lets one
//! through. What was played is part of the judgement, so the next judge goes on exactly there. The judge alone asks for changes of
//! rollout and guard, once its judgement is written.
//!
//! While the store is away nothing is said, judged or asked for; what was collected meanwhile is said afterwards.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::rollout;
use super::submissions::Submissions;
use crate::change::context::Context;
use crate::deployment::{Deployment, DeploymentIndex};
use crate::fleet::evidence::{Answers, EnvoyId, Judgement, Outbox, PATIENCE, Speaker, Statement, UpTo, answers, ripe};
use crate::fleet::refusal::NoResponse;
use crate::fleet::store::{Entry, FleetStore, Heard, PutReply};
use crate::guard::analysis::{self, CanaryAnalysis};
use crate::guard::evidence::Collector;
use crate::guard::verdict;
use crate::host::Host;
use crate::json;
use crate::metrics::cohorts::Cohorts;
use crate::metrics::named::Named;
use crate::model::time::{Moment, Timestamp};
use crate::notification::{self, Event};
use crate::state::{Restamp, State};
use crate::store::key::Key;
use crate::store::record::{self, ModRevision};
use crate::store::{StoreError, update};
use crate::workers::comparer::{self, About};
use crate::workers::recorder;
use crate::workers::roster::Roster;

/// What the leader of an Envoy keeps of a canary that the fleet judges together.
#[derive(Default)]
pub struct Seat(RefCell<Memory>);

#[derive(Default)]
struct Memory {
    collector: Collector,
    outbox: Outbox,
    due: Moment,
    is_busy: bool,
    /// What was heard last: the write, and since when it is known; and up to where that judge had played.
    heard: Option<(ModRevision, Moment)>,
    played: Option<UpTo>,
    /// Whether this Envoy may judge, as far as it knows, and whether it did last.
    may_judge: bool,
    judges: bool,
    /// What each Envoy said last.
    said: BTreeMap<Vec<u8>, Said>,
    /// Since when it is known what all say, and when that was last heard.
    listens: Option<(Moment, Moment)>,
    /// Why the last call failed, which is worth one line.
    trouble: Option<String>,
}

struct Said {
    mod_revision: ModRevision,
    /// When it was heard first.
    since: Moment,
    /// None where it is not understood.
    statement: Option<Statement>,
    /// Whether its clock was right.
    is_timely: bool,
}

/// One deployment of this Envoy.
#[derive(Clone, Copy)]
struct Case<'c> {
    context: &'c Context,
    fleet: &'c dyn FleetStore,
    index: DeploymentIndex,
    deployment: &'c Deployment,
}

/// A judge that begins, and one that was cut off from the store, listens for so long before it plays: by then all Envoys that were cut off
/// with it have spoken.
const LISTENING: Duration = Duration::from_millis(2_500);

/// Collects what has become known at this tick, and begins a round when one is due. Whether nothing can happen until the state
/// changes.
pub fn attend(
    context: &Rc<Context>,
    submissions: &Rc<Submissions>,
    (index, deployment): (DeploymentIndex, &Deployment),
    state: &State,
    seat: &Rc<Seat>,
) -> bool {
    let (host, now, moment) = (&*context.host, context.host.now(), context.host.moment());
    let known = analysis::read(host.store(), &deployment.name);
    if rollout::is_idle(deployment, state, known.as_ref()) {
        return true;
    }
    let mut memory = seat.0.borrow_mut();
    if let Some(analysis) = rollout::analysed(deployment, state, known, now).filter(|analysis| !analysis.over) {
        memory.collect(&analysis, deployment, &gathered(host, deployment, now), now, moment);
    }
    let round = context.fleet.as_ref().map_or(Duration::MAX, |fleet| fleet.round());
    if !memory.is_busy && memory.due <= moment {
        (memory.is_busy, memory.due) = (true, moment.plus(round));
        let (context, submissions, seat) = (Rc::clone(context), Rc::clone(submissions), Rc::clone(seat));
        host.spawn(Box::pin({
            let host = Rc::clone(&context.host);
            async move {
                let (Some(fleet), Some(deployment)) = (context.fleet.as_deref(), context.deployments.get(index)) else {
                    return;
                };
                let outcome = Case { context: &context, fleet, index, deployment }.round(&submissions, &seat).await;
                let mut memory = seat.0.borrow_mut();
                memory.is_busy = false;
                memory.tell(&*host, fleet, deployment, outcome);
            }
        }));
    }
    false
}

fn gathered(host: &dyn Host, deployment: &Deployment, now: Timestamp) -> Cohorts {
    recorder::gathered(host.store(), &Roster::read(host.store()), &deployment.name, now)
}

/// What this Envoy has found by comparing answers.
fn found(host: &dyn Host, deployment: &Deployment, state: &State) -> Option<Answers> {
    let (about, notes) = comparer::found(host.store(), deployment, state)?;
    Some(Answers { about: about.digest(), excess: notes.compared.excess })
}

// === impl Case ===

impl Case<'_> {
    /// Speaks, hears, and judges where this Envoy is the one to do it.
    async fn round(self, submissions: &Rc<Submissions>, seat: &Seat) -> Result<(), NoResponse> {
        let Self { context, fleet, index, deployment } = self;
        let host = &*context.host;
        let me = self.drawn().await?;
        let (statement, hears_all) = self.statement(seat);
        let statement = statement.map(|statement| (me, statement));
        let heard = fleet.say(host, &deployment.name, statement, hears_all).await?;
        let Some((last, judgement)) = self.on_said(&heard, me, seat) else { return Ok(()) };
        let written = match fleet.judge(host, &deployment.name, last, &judgement).await? {
            PutReply::Made(written) => written,
            PutReply::Lost(others) => {
                // Somebody else judges.
                self.hear(others.as_ref(), seat);
                return Ok(());
            }
        };
        let analysis = &judgement.analysis;
        let known = self.keep(analysis);
        let is_first = seat.0.borrow_mut().on_judged(written, &judgement.played, host.moment());
        if is_first && !analysis.over {
            let name = &deployment.name;
            host.info(&format!("bluegreen: deployment={name}: this Envoy judges the canary for the fleet"));
        }
        let Some(state) = self.state() else { return Ok(()) };
        rollout::tell_of_stop(
            host,
            deployment,
            &state,
            known.as_ref().is_some_and(CanaryAnalysis::is_hopeless),
            analysis,
        );
        let is_news = known.and_then(|known| known.breach) != analysis.breach;
        if let (true, Some((rule, _)), Some(guard)) = (is_news, analysis.breach, &deployment.guard) {
            let (name, rule, what) = (&deployment.name, rule.as_str(), verdict::sentence(analysis, guard));
            host.warn(&format!("bluegreen: deployment={name} guard rule={rule} broken: {what}"));
            host.count(&Named::GuardBreaches(name, rule).to_string());
            let (colour, revision) = (analysis.candidate, state.revision);
            notification::tell(host, deployment, &Event::Breach { rule, colour, revision, what: &what });
        }
        if let Some(request) = rollout::next_change((index, deployment), &state, analysis, host.now()) {
            submissions.submit(request);
        }
        Ok(())
    }

    /// What this Envoy has to say, while there is a canary, and whether it has to hear what all say.
    fn statement(self, seat: &Seat) -> (Option<Vec<u8>>, bool) {
        let (host, mut memory) = (&*self.context.host, seat.0.borrow_mut());
        let Memory { outbox, played, may_judge, .. } = &mut *memory;
        outbox.drop_old(played.as_ref(), host.moment());
        let watched = self.state().filter(|state| !rollout::is_idle(self.deployment, state, None));
        let statement = watched.map(|state| {
            let answers = found(host, self.deployment, &state);
            outbox.statement(host.now(), answers).encode()
        });
        (statement, *may_judge)
    }

    /// Takes what was heard. The next judgement, where it is on this Envoy to write it, and the write that it follows.
    fn on_said(self, heard: &Heard, me: EnvoyId, seat: &Seat) -> Option<(ModRevision, Judgement)> {
        let host = &*self.context.host;
        let (last, judgement) = self.hear(heard.judgement.as_ref(), seat);
        let state = self.state()?;
        let mut memory = seat.0.borrow_mut();
        memory.may_judge =
            memory.may_judge_after((last, judgement.as_ref()), me, (self.deployment, &state), host.moment());
        if !memory.may_judge {
            return None;
        }
        memory.listen(&heard.all, host.now(), host.moment());
        if memory.is_alone_with_its_time(host.moment()) {
            return None;
        }
        let next = self.judge(me, &state, judgement, &memory);
        if next.is_none() {
            // Nobody knows of a canary: what is known here is of one that the fleet has forgotten.
            let forgotten = analysis::read(host.store(), &self.deployment.name);
            if let Some(over) = rollout::analysed(self.deployment, &state, forgotten, host.now()) {
                self.keep(&over);
            }
        }
        Some((last, next?))
    }

    /// The number of this Envoy, drawn when it is first needed.
    async fn drawn(self) -> Result<EnvoyId, NoResponse> {
        let host = &*self.context.host;
        let key = Key::Envoy(self.fleet.id()).to_string();
        let known = host.store().read(&key).ok().and_then(|stored| json::from_slice(&stored.value?).ok());
        if let Some(known) = known {
            return Ok(known);
        }
        let drawn = self.fleet.draw(host).await?;
        let _: Result<bool, StoreError> = update(host.store(), &key, &mut |_| serde_json::to_vec(&drawn).ok());
        Ok(drawn)
    }

    fn state(self) -> Option<State> {
        let (store, now) = (self.context.host.store(), self.context.host.now());
        record::load(store, &self.deployment.name, self.deployment.initial, now).ok().map(|loaded| loaded.state)
    }

    /// Takes over what another judge has written. That write, and what it says.
    fn hear(self, entry: Option<&Entry>, seat: &Seat) -> (ModRevision, Option<Judgement>) {
        let mod_revision = entry.map_or(ModRevision(0), |entry| entry.mod_revision);
        let judgement = entry.and_then(|entry| Judgement::decode(&entry.value));
        let mut memory = seat.0.borrow_mut();
        if memory.heard.map(|(known, _)| known) != Some(mod_revision) {
            memory.heard = Some((mod_revision, self.context.host.moment()));
            memory.played = judgement.as_ref().map(|judgement| judgement.played.clone());
            // A judge that has not heard of a change yet says nothing about this state.
            let is_about_this = |judgement: &&Judgement| {
                self.state()
                    .is_some_and(|state| !judgement.analysis.over || rollout::is_idle(self.deployment, &state, None))
            };
            if let Some(judgement) = judgement.as_ref().filter(is_about_this) {
                self.keep(&judgement.analysis);
            }
        }
        (mod_revision, judgement)
    }

    /// Keeps an analysis where this Envoy's workers look for it. What was known there before.
    fn keep(self, analysis: &CanaryAnalysis) -> Option<CanaryAnalysis> {
        let (store, name) = (self.context.host.store(), &self.deployment.name);
        let known = analysis::read(store, name);
        let _: Result<(), StoreError> = analysis::record(store, name, analysis);
        rollout::show(&*self.context.host, self.deployment, analysis);
        known
    }

    /// What follows from the last judgement and from what all say; none where there is nothing to judge.
    fn judge(self, me: EnvoyId, state: &State, last: Option<Judgement>, memory: &Memory) -> Option<Judgement> {
        let Self { context, deployment, .. } = self;
        let (host, now) = (&*context.host, context.host.now());
        let (before, mut played) = last.map_or_else(Default::default, |last| (Some(last.analysis), last.played));
        let before = before.map(|analysis| analysis.restamped(Restamp::NotAhead, now));
        let mut analysis = rollout::analysed(deployment, state, before, now)?;
        if !analysis.over {
            let guard = deployment.guard.unwrap_or_default();
            analysis.learn(&gathered(host, deployment, now), &guard, now);
            if memory.has_listened(host.moment()) {
                let speakers = memory.speakers(host.moment());
                let (evidence, reached) = ripe(&speakers, &played, now);
                rollout::play(deployment, state, &mut analysis, &evidence, now);
                rollout::play_answers(
                    deployment,
                    state,
                    &mut analysis,
                    answers(&speakers, About::of(deployment, state).digest()),
                    now,
                );
                played = reached;
            }
        }
        Some(Judgement { judge: me, revision: state.revision, played, analysis })
    }
}

// === impl Memory ===

impl Memory {
    fn collect(
        &mut self,
        analysis: &CanaryAnalysis,
        deployment: &Deployment,
        cohorts: &Cohorts,
        now: Timestamp,
        moment: Moment,
    ) {
        let guard = deployment.guard.unwrap_or_default();
        let (found, settled) = analysis.collect_by(&mut self.collector, cohorts, &guard, now);
        found.into_iter().for_each(|evidence| self.outbox.add(evidence, moment));
        settled.into_iter().for_each(|(test, epoch)| self.outbox.reach(test, epoch));
        self.outbox.drop_old(self.played.as_ref(), moment);
    }

    /// Whether this Envoy may write the judgement after this one.
    fn may_judge_after(
        &mut self,
        (write, last): (ModRevision, Option<&Judgement>),
        me: EnvoyId,
        (deployment, state): (&Deployment, &State),
        now: Moment,
    ) -> bool {
        self.judges &= last.is_some_and(|last| last.judge == me);
        let is_silent = self.heard.is_some_and(|(_, since)| now >= since.plus(PATIENCE));
        // What is not understood is of another edition of the filter, whose turn it is while it goes on writing.
        let Some(last) = last else { return is_silent || write == ModRevision(0) };
        let is_free =
            last.judge == me || is_silent || (last.analysis.over && !rollout::is_idle(deployment, state, None));
        // Who has not heard of a change yet would judge another canary.
        is_free && state.revision >= last.revision
    }

    /// This Envoy's judgement is the last one now. Whether another's was before.
    fn on_judged(&mut self, mod_revision: ModRevision, played: &UpTo, now: Moment) -> bool {
        self.heard = Some((mod_revision, now));
        self.played = Some(played.clone());
        !std::mem::replace(&mut self.judges, true)
    }

    /// Takes note of what all Envoys say.
    fn listen(&mut self, all: &[Entry], now: Timestamp, moment: Moment) {
        let since = self.listens.filter(|(_, last)| moment < last.plus(PATIENCE)).map_or(moment, |(since, _)| since);
        self.listens = Some((since, moment));
        self.said.retain(|known, _| all.iter().any(|entry| entry.key == *known));
        for Entry { key, mod_revision, value } in all {
            if self.said.get(key).is_some_and(|said| said.mod_revision == *mod_revision) {
                continue;
            }
            let statement = Statement::decode(value);
            let is_timely = statement.as_ref().is_some_and(|statement| statement.is_timely(now));
            let said = Said { mod_revision: *mod_revision, since: moment, statement, is_timely };
            self.said.insert(key.clone(), said);
        }
    }

    fn has_listened(&self, now: Moment) -> bool {
        self.listens.is_some_and(|(since, _)| now >= since.plus(LISTENING))
    }

    fn is_live(said: &Said, now: Moment) -> bool {
        now < said.since.plus(PATIENCE)
    }

    fn speakers(&self, now: Moment) -> Vec<Speaker<'_>> {
        let timely = self.said.values().filter(|said| said.is_timely);
        let heard = timely.filter_map(|said| Some((said, said.statement.as_ref()?)));
        heard.map(|(said, statement)| Speaker { statement, is_awaited: Self::is_live(said, now) }).collect()
    }

    /// Whether most Envoys that show signs of life have another time than this one: then it is this clock that is wrong.
    fn is_alone_with_its_time(&self, now: Moment) -> bool {
        let live = self.said.values().filter(|said| said.statement.is_some() && Self::is_live(said, now));
        let (agree, differ): (Vec<&Said>, Vec<&Said>) = live.partition(|said| said.is_timely);
        differ.len() > agree.len()
    }

    /// Says once what keeps this Envoy from taking part.
    fn tell(
        &mut self,
        host: &dyn Host,
        fleet: &dyn FleetStore,
        deployment: &Deployment,
        outcome: Result<(), NoResponse>,
    ) {
        let trouble = outcome.err().map(|error| error.why);
        if trouble.is_some() && trouble != self.trouble {
            let (name, called, why) = (&deployment.name, fleet.called(), trouble.as_deref().unwrap_or_default());
            host.warn(&format!(
                "bluegreen: deployment={name}: the guard waits for {called}: {why}: the canary is not judged meanwhile"
            ));
        }
        self.trouble = trouble;
    }
}

#[cfg(test)]
mod tests;
