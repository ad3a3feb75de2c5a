//! What a [`FleetStore`] is asked for, as requests to the API server.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;

use super::follower;
use super::object::Object;
use super::store::{KubernetesStore, Note, Page, call, entry, refusal_of};
use crate::fleet::evidence::{EnvoyId, Judgement};
use crate::fleet::following::Following;
use crate::fleet::refusal::{NoResponse, Refusal};
use crate::fleet::store::{Answer, Entry, FleetStore, Heard, KeyState, Put, PutReply, Read, Refused, Turns, Wish};
use crate::host::Host;
use crate::model::name::DeploymentName;
use crate::model::time::Moment;
use crate::setup::SetupProblem;
use crate::store::record::ModRevision;

/// So many writes of a thread race; those that come on top go one after the other.
const CROWD: usize = 2;

/// How often an Envoy speaks while there is a canary: each time is a write for the API server.
const ROUND: Duration = Duration::from_millis(1_500);

// === impl FleetStore for KubernetesStore ===

impl FleetStore for KubernetesStore {
    fn id(&self) -> u64 {
        let seed = xxhash_rust::xxh64::xxh64(self.cluster.as_str().as_bytes(), 1);
        xxhash_rust::xxh64::xxh64(self.namespace.as_str().as_bytes(), seed)
    }

    fn called(&self) -> &'static str {
        "the Kubernetes API"
    }

    fn refusal(&self) -> SetupProblem {
        SetupProblem::KubernetesRefuses
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn round(&self) -> Duration {
        ROUND
    }

    /// A lost race takes two more calls, and the API server is everybody's.
    fn crowd(&self) -> usize {
        CROWD
    }

    fn turns(&self) -> &Rc<Turns> {
        &self.turns
    }

    /// It takes a quorum of the etcd behind the API server. An object that is not there is created: so every put replaces the
    /// status of one.
    fn read<'a>(&'a self, host: &'a dyn Host, name: &'a DeploymentName, within: Duration) -> Answer<'a, Read> {
        Box::pin(async move {
            let object = self.object(host, name, within).await?;
            Ok(Read { at: object.mod_revision, key: key_state(&object) })
        })
    }

    fn put_if<'a>(&'a self, host: &'a dyn Host, put: Put<'a>) -> Answer<'a, PutReply<KeyState>> {
        Box::pin(async move { self.write(host, put, None).await })
    }

    /// The write that made a note, which is no other's.
    fn draw<'a>(&'a self, host: &'a dyn Host) -> Answer<'a, EnvoyId> {
        Box::pin(async move {
            let about = DeploymentName::literal("envoys");
            let note = Note { about: &about, kind: "drawn", of: "id-" };
            let answer = call(host, &self.create_note(note, "")).await?;
            let drawn = self.made(&answer)?;
            // It has served its purpose. One that stays does no harm.
            let _: Result<(u16, Value), NoResponse> = call(host, &self.delete_notes(note)).await;
            Ok(EnvoyId(drawn.mod_revision.0))
        })
    }

    fn say<'a>(
        &'a self,
        host: &'a dyn Host,
        name: &'a DeploymentName,
        statement: Option<(EnvoyId, Vec<u8>)>,
        hears_all: bool,
    ) -> Answer<'a, Heard> {
        Box::pin(async move {
            if let Some((EnvoyId(number), value)) = statement {
                let (of, data) = (format!("{number:016x}"), String::from_utf8_lossy(&value));
                let note = Note { of: &of, ..statements(name) };
                let mut said = call(host, &self.patch_note(note, &data)).await?;
                if said.0 == 404 {
                    said = call(host, &self.create_note(note, &data)).await?;
                }
                self.made(&said)?;
            }
            let judgement = self.known(host, judgement_of(name)).await?;
            let mut all = Vec::new();
            if hears_all {
                let (status, list) = call(host, &self.list_notes(statements(name))).await?;
                let page = Page::read(&list).ok_or_else(|| refusal_of(&(status, list), self.timeout))?;
                all.extend(page.items.iter().filter_map(entry));
            }
            Ok(Heard { judgement, all })
        })
    }

    fn judge<'a>(
        &'a self,
        host: &'a dyn Host,
        name: &'a DeploymentName,
        last: ModRevision,
        judgement: &'a Judgement,
    ) -> Answer<'a, PutReply<Option<Entry>>> {
        Box::pin(async move {
            let reply = self.swap_note(host, judgement_of(name), last, &judgement.encode()).await?;
            if judgement.analysis.over && matches!(reply, PutReply::Made(_)) {
                // Statements that stay are of no canary that is judged.
                let _: Result<(u16, Value), NoResponse> = call(host, &self.delete_notes(statements(name))).await;
            }
            Ok(reply)
        })
    }

    fn tell<'a>(
        &'a self,
        host: &'a dyn Host,
        name: &'a DeploymentName,
        last: ModRevision,
        told: Vec<u8>,
    ) -> Answer<'a, PutReply<Option<Entry>>> {
        let note = Note { about: name, kind: "told", of: "" };
        Box::pin(async move { self.swap_note(host, note, last, &told).await })
    }

    fn follow<'a>(&'a self, following: Following<'a>) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
        Box::pin(follower::follow(self, following))
    }

    fn wishes(&self) -> Vec<Wish> {
        let followed = self.followed.borrow();
        let asks = |object: &Object| {
            let split = object.spec.clone()?;
            let is_looked_at =
                split.as_ref().is_ok_and(|split| object.state().is_some_and(|state| state.was_asked(*split)));
            let wish = || Wish { name: object.name.clone(), generation: object.generation, split };
            (object.state().is_some() && !is_looked_at).then(wish)
        };
        followed.values().filter_map(asks).collect()
    }

    fn refuse<'a>(&'a self, host: &'a dyn Host, name: &'a DeploymentName, refused: Refused) -> Answer<'a, ()> {
        Box::pin(async move {
            let object = self.object(host, name, self.timeout).await?;
            let Some(state) = object.state() else { return Ok(()) };
            if object.generation == refused.generation && !object.shows(&refused) {
                let put = Put { name, expected: object.mod_revision, state, within: self.timeout };
                // Who came first knows more, and is heard of.
                self.write(host, put, Some(&refused)).await?;
            }
            Ok(())
        })
    }
}

// === impl KubernetesStore ===

impl KubernetesStore {
    /// Reads a deployment's object, and creates it where there is none.
    pub(super) async fn object(
        &self,
        host: &dyn Host,
        name: &DeploymentName,
        within: Duration,
    ) -> Result<Object, NoResponse> {
        let until = host.moment().plus(within);
        let mut answer = call(host, &self.get(name.as_str(), within)).await?;
        if answer.0 == 404 {
            answer = call(host, &self.create(name.as_str(), left(host, until)?)).await?;
            if answer.0 == 409 {
                answer = call(host, &self.get(name.as_str(), left(host, until)?)).await?;
            }
        }
        let object = self.understood(&answer)?;
        self.note(&object);
        Ok(object)
    }

    /// Puts a state there, with a refusal to show, if the object's last write is still this one, and else reads it.
    async fn write(
        &self,
        host: &dyn Host,
        put: Put<'_>,
        refused: Option<&Refused>,
    ) -> Result<PutReply<KeyState>, NoResponse> {
        let (name, until) = (put.name, host.moment().plus(put.within));
        let object = match self.seen(name.as_str(), put.expected) {
            Some(object) => object,
            None => self.object(host, name, put.within).await?,
        };
        if object.mod_revision != put.expected {
            return Ok(PutReply::Lost(key_state(&object)));
        }
        let body = object.with_status(put.state, refused, host.now());
        let answer = call(host, &self.replace_status(name.as_str(), &body, left(host, until)?)).await?;
        if matches!(answer.0, 404 | 409) {
            // Whatever becomes of this read, the put was not made, and would not be if it was sent again.
            let object = match left(host, until) {
                Ok(left) => self.object(host, name, left).await,
                Err(late) => Err(late),
            };
            let passing = |error: NoResponse| {
                let refusal = error.refusal.filter(|refusal| *refusal == Refusal::Late).or(Some(Refusal::Passing));
                NoResponse { refusal, ..error }
            };
            return object.map(|object| PutReply::Lost(key_state(&object))).map_err(passing);
        }
        let object = self.understood(&answer)?;
        self.note(&object);
        Ok(PutReply::Made(object.mod_revision))
    }

    fn understood(&self, answer: &(u16, Value)) -> Result<Object, NoResponse> {
        let object = Some(&answer.1).filter(|_| answer.0 < 300).and_then(Object::read);
        object.ok_or_else(|| refusal_of(answer, self.timeout))
    }

    /// Puts a value into a note if its last write is still this one, and else reads it.
    async fn swap_note(
        &self,
        host: &dyn Host,
        note: Note<'_>,
        last: ModRevision,
        value: &[u8],
    ) -> Result<PutReply<Option<Entry>>, NoResponse> {
        let data = String::from_utf8_lossy(value);
        let request = match last {
            ModRevision(0) => self.create_note(note, &data),
            _ => self.replace_note(note, last, &data),
        };
        let answer = call(host, &request).await?;
        match answer.0 {
            404 | 409 => Ok(PutReply::Lost(self.known(host, note).await?)),
            _ => Ok(PutReply::Made(self.made(&answer)?.mod_revision)),
        }
    }

    async fn known(&self, host: &dyn Host, note: Note<'_>) -> Result<Option<Entry>, NoResponse> {
        let answer = call(host, &self.get_note(note)).await?;
        if answer.0 == 404 { Ok(None) } else { self.made(&answer).map(Some) }
    }

    fn made(&self, answer: &(u16, Value)) -> Result<Entry, NoResponse> {
        let entry = Some(&answer.1).filter(|_| answer.0 < 300).and_then(entry);
        entry.ok_or_else(|| refusal_of(answer, self.timeout))
    }
}

fn statements(name: &DeploymentName) -> Note<'_> {
    Note { about: name, kind: "statement", of: "" }
}

fn judgement_of(name: &DeploymentName) -> Note<'_> {
    Note { about: name, kind: "judgement", of: "" }
}

fn key_state(object: &Object) -> KeyState {
    KeyState { mod_revision: object.mod_revision, state: object.state().cloned() }
}

/// What is left of a step's time for a call that follows another one.
///
/// # Errors
/// Nothing is. What the call was to do was not done.
fn left(host: &dyn Host, until: Moment) -> Result<Duration, NoResponse> {
    let left = until.since(host.moment());
    let late = || NoResponse { why: "there was no time left".to_owned(), refusal: Some(Refusal::Late) };
    if left.is_zero() { Err(late()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::Poll;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::config::Guard;
    use crate::fleet::deadline::WRITE_WITHIN;
    use crate::fleet::evidence::UpTo;
    use crate::fleet::model::{Fate, FleetModel};
    use crate::fleet::transaction::{Committed, commit};
    use crate::guard::analysis::CanaryAnalysis;
    use crate::kubernetes::model::{Model, fleet};
    use crate::model::author::{Author, Source};
    use crate::model::name::Reason;
    use crate::model::split::Revision;
    use crate::state::{Command, Patch, State};
    use crate::store::CasToken;
    use crate::store::record::{Loaded, Origin};
    use crate::testing::host::{START, TestHost, poll_once};
    use crate::testing::{holder, iris, percent, split};

    /// Answers each call with the next fate, and with all that is well after the last.
    fn end<T>(model: &mut Model, host: &TestHost, fates: &[Fate], step: impl Future<Output = T>) -> T {
        let mut step = pin!(step);
        let mut fates = fates.iter().copied();
        loop {
            if let Poll::Ready(end) = poll_once(step.as_mut()) {
                return end;
            }
            model.answer(host, fates.next().unwrap_or(Fate::Answered), Duration::ZERO);
        }
    }

    fn state() -> State {
        State::initial(split("blue", "0", "0"), START)
    }

    #[test]
    fn a_read_creates_the_object_that_is_not_there_and_of_two_who_do_one_finds_the_others() {
        let (mut model, host, store, name) = (Model::default(), TestHost::default(), fleet(), iris());
        let read = end(&mut model, &host, &[], store.read(&host, &name, Duration::from_secs(1))).expect("read");
        assert_eq!((read.key.state, read.at), (None, ModRevision(1)));
        // The answer to the creation is lost, and the next read finds what it made.
        let mut model = Model::default();
        let fates = [Fate::Answered, Fate::AnswerLost];
        let lost = end(&mut model, &host, &fates, store.read(&host, &name, Duration::from_secs(1)));
        assert_eq!(lost.expect_err("lost").refusal, None);
        let read = end(&mut model, &host, &[], store.read(&host, &name, Duration::from_secs(1))).expect("read");
        assert_eq!(read.at, ModRevision(1));
    }

    #[test]
    fn a_put_that_says_what_stands_there_is_a_write_all_the_same() {
        let (mut model, host, store, name) = (Model::ready(), TestHost::default(), fleet(), iris());
        let state = state();
        let put = |expected| Put { name: &name, expected, state: &state, within: Duration::from_secs(1) };
        let first = end(&mut model, &host, &[], store.put_if(&host, put(ModRevision(1)))).expect("answered");
        assert_eq!(first, PutReply::Made(ModRevision(2)));
        let fence = end(&mut model, &host, &[], store.put_if(&host, put(ModRevision(2)))).expect("answered");
        assert_eq!(fence, PutReply::Made(ModRevision(3)));
        let late = end(&mut model, &host, &[], store.put_if(&host, put(ModRevision(2)))).expect("answered");
        assert_eq!(late, PutReply::Lost(KeyState { mod_revision: ModRevision(3), state: Some(state.clone()) }));
    }

    #[test]
    fn a_put_loses_to_any_other_write_of_the_object_and_to_its_end() {
        let (mut model, host, store, name) = (Model::ready(), TestHost::default(), fleet(), iris());
        let state = state();
        model.put("iris", &state);
        let put = |expected| Put { name: &name, expected, state: &state, within: Duration::from_secs(1) };
        end(&mut model, &host, &[], store.read(&host, &name, Duration::from_secs(1))).expect("read");
        model.ask("iris", &serde_json::json!({"active": "green"}));
        let lost = end(&mut model, &host, &[], store.put_if(&host, put(ModRevision(2)))).expect("answered");
        assert!(matches!(lost, PutReply::Lost(KeyState { mod_revision: ModRevision(3), state: Some(_) })), "{lost:?}");
        model.delete("bluegreens", "iris");
        let lost = end(&mut model, &host, &[], store.put_if(&host, put(ModRevision(3)))).expect("answered");
        assert!(matches!(lost, PutReply::Lost(KeyState { state: None, .. })), "{lost:?}");
        assert!(model.object("iris").is_some(), "there is one again");
    }

    #[test]
    fn no_two_envoys_draw_the_same_number_and_no_note_is_left_of_it() {
        let (mut model, host, store) = (Model::default(), TestHost::default(), fleet());
        let drawn: Vec<EnvoyId> =
            (0..3).map(|_| end(&mut model, &host, &[], store.draw(&host)).expect("drawn")).collect();
        assert!(drawn[0] < drawn[1] && drawn[1] < drawn[2], "{drawn:?}");
        assert_eq!(model.notes(), [""; 0]);
    }

    #[test]
    fn what_each_envoy_says_is_heard_by_all_and_one_judgement_follows_the_other() {
        let (mut model, host, store, name) = (Model::default(), TestHost::default(), fleet(), iris());
        for (number, text) in [(7, "first"), (8, "other"), (7, "second")] {
            let said = Some((EnvoyId(number), text.as_bytes().to_vec()));
            let heard = end(&mut model, &host, &[], store.say(&host, &name, said, false)).expect("said");
            assert_eq!(heard, Heard::default());
        }
        let heard = end(&mut model, &host, &[], store.say(&host, &name, None, true)).expect("heard");
        let all: Vec<&[u8]> = heard.all.iter().map(|entry| entry.value.as_slice()).collect();
        assert_eq!(all, [b"second".as_slice(), b"other".as_slice()]);
        let canary = State { split: split("blue", "5", "0"), ..state() };
        let analysis = CanaryAnalysis::advance(None, &canary, Some(&Guard::default()), false, START).expect("a canary");
        let mut judgement =
            Judgement { judge: EnvoyId(7), revision: Revision::ZERO, played: UpTo::default(), analysis };
        let judge = |model: &mut Model, last, judgement: &Judgement| {
            end(model, &host, &[], store.judge(&host, &name, last, judgement)).expect("answered")
        };
        let PutReply::Made(first) = judge(&mut model, ModRevision(0), &judgement) else { panic!("the first") };
        let PutReply::Lost(Some(known)) = judge(&mut model, ModRevision(0), &judgement) else { panic!("too late") };
        assert_eq!((known.mod_revision, Judgement::decode(&known.value)), (first, Some(judgement.clone())));
        judgement.analysis.over = true;
        assert!(matches!(judge(&mut model, first, &judgement), PutReply::Made(_)));
        assert_eq!(model.notes(), ["iris.judgement"], "at the end what was said goes");
        assert!(matches!(judge(&mut model, first, &judgement), PutReply::Lost(Some(_))));
    }

    #[test]
    fn of_many_writes_on_a_thread_a_few_race_and_the_others_go_one_after_the_other() {
        let (mut model, host, store, name) = (Model::ready(), TestHost::default(), fleet(), iris());
        let mut made: Vec<u64> = Vec::new();
        let mut writers: Vec<_> = (0..20)
            .map(|number| {
                let (store, host, name) = (&store, &host, &name);
                Box::pin(async move {
                    let known =
                        Loaded { state: state(), origin: Origin::Absent, mod_revision: None, token: CasToken::Never };
                    let by = Author::new(holder(&format!("writer-{number}")), Source::Admin, Reason::none());
                    let shadow_percent = Some(percent(&format!("0.{:02}", number + 1)));
                    let patch = Command::Patch(Patch { shadow_percent, ..Patch::default() });
                    commit(store, host, name, known, &mut WRITE_WITHIN.clone(), &mut |before| {
                        before.after(&patch, by.clone(), START)
                    })
                    .await
                })
            })
            .collect();
        let mut calls = 0;
        while !writers.is_empty() {
            writers.retain_mut(|writer| match poll_once(writer.as_mut()) {
                Poll::Ready(Ok(Committed::Made(state, _))) => {
                    made.push(state.revision.get());
                    false
                }
                Poll::Ready(other) => panic!("{other:?}"),
                Poll::Pending => true,
            });
            let under_way = host.http.borrow().len();
            assert!(under_way <= CROWD + 1, "{under_way} calls at once");
            if under_way > 0 {
                model.answer(&host, Fate::Answered, Duration::ZERO);
                calls += 1;
            }
            host.wake_sleepers();
        }
        made.sort_unstable();
        assert!(made.iter().copied().eq(1..=20), "{made:?}");
        assert!(calls < 20 * 4, "{calls} calls");
    }
}
