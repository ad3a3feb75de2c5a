//! What each worker keeps of a deployment's comparisons: the copies that it holds, whose turn it is, and what was found, in a
//! record of its own. The sum of the records is what was found in this Envoy.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use serde::Serialize;
use xxhash_rust::xxh64::xxh64;

use super::roster::{Gone, Member, Roster};
use crate::config::Compare;
use crate::deployment::Deployment;
use crate::json::{self, FromJson};
use crate::model::colour::{Colour, PerColour};
use crate::model::identity::Identity;
use crate::model::name::DeploymentName;
use crate::model::percent::Percent;
use crate::model::split::Revision;
use crate::routing::rotation::{Rotation, Seed};
use crate::routing::worker::WorkerState;
use crate::shadow::answer::Answer;
use crate::shadow::disagreements::Disagreements;
use crate::shadow::dropped::Dropped;
use crate::shadow::record::Compared;
use crate::state::State;
use crate::store::key::Key;
use crate::store::{Store, StoreError, update};

/// A worker's part in a deployment's comparisons.
#[derive(Debug)]
pub struct Comparer {
    held: Rc<Cell<usize>>,
    samples: Cell<Rotation>,
    noise: Cell<Rotation>,
    notes: RefCell<Notes>,
    /// Whether there is something that its record does not say.
    is_news: Cell<bool>,
}

/// The place of a copy among those that a worker holds. It is free when this is dropped.
#[derive(Debug)]
pub struct Place(Rc<Cell<usize>>);

/// Between what the comparison is, and how it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromJson)]
pub struct About {
    /// The colour whose answers are the measure.
    pub active: Colour,
    /// What is behind each.
    pub identities: PerColour<Identity>,
    /// A number that stands for the rules of the comparison.
    pub rules: u64,
}

/// What was found between two versions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, FromJson)]
pub struct Notes {
    /// None before the first comparison.
    pub about: Option<About>,
    /// The state under which it began: of two, the later one counts.
    pub since: Revision,
    /// What is counted.
    pub compared: Compared,
    /// The last answers that differed.
    pub disagreements: Disagreements,
}

/// What stands in the record of a worker.
#[derive(FromJson, Serialize)]
struct Record<N> {
    /// The member, of which there may have been others in its slot.
    number: u64,
    notes: N,
}

/// What members that are gone have left behind.
#[derive(Default, FromJson, Serialize)]
struct Departed {
    numbers: Gone,
    notes: Notes,
}

/// What all workers of this Envoy have found between these two, as far as they have said.
fn gathered(store: &dyn Store, roster: &Roster, name: &DeploymentName, about: &About) -> Notes {
    // First, so that a member that goes meanwhile is not read twice.
    let departed = store.read(&Key::DepartedComparisons(name).to_string()).map(|stored| departed(stored.value));
    let Departed { numbers, notes: gone } = departed.unwrap_or_default();
    let mut sum = Notes { about: Some(about.clone()), ..Notes::default() };
    sum.merge(&gone);
    for member in roster.members().iter().filter(|member| !numbers.has(member.number)) {
        if let Some(notes) = read(store, name, member) {
            sum.merge(&notes);
        }
    }
    sum
}

/// What all workers of this Envoy have found between what is behind the colours in this state; none where nothing is compared.
pub fn found(store: &dyn Store, deployment: &Deployment, state: &State) -> Option<(About, Notes)> {
    deployment.compare()?;
    let about = About::of(deployment, state);
    let notes = gathered(store, &Roster::read(store), &deployment.name, &about);
    Some((about, notes))
}

/// Keeps what a member has found, which goes.
///
/// # Errors
/// The store is out of reach.
pub fn keep(store: &dyn Store, name: &DeploymentName, member: &Member) -> Result<(), StoreError> {
    let Some(left) = read(store, name, member).filter(|notes| notes.about.is_some()) else { return Ok(()) };
    update(store, &Key::DepartedComparisons(name).to_string(), &mut |before| {
        let mut departed = departed(before.value);
        if !departed.numbers.add(member.number) {
            return None;
        }
        departed.notes.follow(&left);
        serde_json::to_vec(&departed).ok()
    })
    .map(|_| ())
}

fn read(store: &dyn Store, name: &DeploymentName, member: &Member) -> Option<Notes> {
    let value = store.read(&Key::Comparisons(name, member.slot).to_string()).ok()?.value?;
    let record: Record<Notes> = json::from_slice(&value).ok()?;
    (record.number == member.number).then_some(record.notes)
}

fn departed(value: Option<Vec<u8>>) -> Departed {
    json::from_slice(&value.unwrap_or_default()).unwrap_or_default()
}

// === impl About ===

impl About {
    /// What is compared in this state.
    pub fn of(deployment: &Deployment, state: &State) -> Self {
        let identities = PerColour::from_fn(|colour| deployment.identity(state, colour).clone());
        Self { active: state.split.active, identities, rules: deployment.compare().map_or(0, |rules| rules.digest) }
    }

    /// What is compared now, as this worker knows it; none before the state is known.
    pub fn now(state: &WorkerState, rules: &Compare) -> Option<Self> {
        let identities = PerColour::from_fn(|colour| state.with_identity(colour, Clone::clone));
        Some(Self { active: state.known_split()?.active, identities, rules: rules.digest })
    }

    /// Whether the same is behind the same colours, as this worker knows.
    pub fn is_now(&self, state: &WorkerState) -> bool {
        let is_same = |colour: Colour| state.with_identity(colour, |now| now == self.identities.get(colour));
        state.known_split().is_some_and(|split| split.active == self.active) && Colour::ALL.into_iter().all(is_same)
    }

    /// A number that stands for it.
    pub fn digest(&self) -> u64 {
        xxh64(&serde_json::to_vec(self).unwrap_or_default(), 0)
    }
}

// === impl Comparer ===

impl Comparer {
    /// One that has found nothing. Its turns begin where `seed` says.
    pub fn new(seed: Seed) -> Self {
        Self {
            held: Rc::default(),
            samples: Cell::new(Rotation::new(seed.of_use("compare"))),
            noise: Cell::new(Rotation::new(seed.of_use("noise"))),
            notes: RefCell::default(),
            is_news: Cell::new(false),
        }
    }

    /// Whether the next copy is one whose answer is compared.
    pub fn is_sampled(&self, rules: &Compare) -> bool {
        chosen(&self.samples, rules.sample_percent)
    }

    /// Whether the next comparison is one of those that measure the noise.
    pub fn measures_noise(&self, rules: &Compare) -> bool {
        chosen(&self.noise, rules.noise_percent)
    }

    /// Whether the active colour is asked again because of what the candidate answered, by what was found between these two
    /// so far.
    pub fn wants_again(&self, about: &About, (first, candidate): (&Answer, &Answer), rules: &Compare) -> bool {
        let (notes, nothing) = (self.notes.borrow(), Compared::default());
        let found = if notes.about.as_ref() == Some(about) { &notes.compared } else { &nothing };
        found.wants_again(first, candidate, rules)
    }

    /// A place for one more copy.
    ///
    /// # Errors
    /// There are as many as there may be.
    pub fn place(&self, rules: &Compare) -> Result<Place, Dropped> {
        let held = self.held.get();
        if held >= rules.max_in_flight {
            return Err(Dropped::Busy);
        }
        self.held.set(held.saturating_add(1));
        Ok(Place(Rc::clone(&self.held)))
    }

    /// Notes something between these two, under this revision of the state. What was found between others is over.
    pub fn note<R>(&self, about: &About, revision: Revision, note: impl FnOnce(&mut Notes) -> R) -> R {
        let mut notes = self.notes.borrow_mut();
        if notes.about.as_ref() != Some(about) {
            *notes = Notes { about: Some(about.clone()), since: revision, ..Notes::default() };
        }
        self.is_news.set(true);
        note(&mut notes)
    }

    /// Whether there is something that its record does not say.
    pub fn is_news(&self) -> bool {
        self.is_news.get()
    }

    /// Writes down what is new.
    pub fn write(&self, store: &dyn Store, name: &DeploymentName, member: &Member) {
        if !self.is_news.get() {
            return;
        }
        let notes = self.notes.borrow();
        let key = Key::Comparisons(name, member.slot).to_string();
        let record = Record { number: member.number, notes: &*notes };
        // What cannot be written down stays news.
        self.is_news.set(update(store, &key, &mut |_| serde_json::to_vec(&record).ok()).is_err());
    }
}

fn chosen(turns: &Cell<Rotation>, share: Percent) -> bool {
    let mut rotation = turns.get();
    let is_chosen = rotation.choose(share);
    turns.set(rotation);
    is_chosen
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

// === impl Notes ===

impl Notes {
    /// Adds what was found between the same two; anything else is left out.
    fn merge(&mut self, other: &Self) {
        if self.about == other.about {
            self.compared.merge(&other.compared);
            self.disagreements.merge(&other.disagreements);
        }
    }

    /// Adds what was found between the same two. Between others the later one counts.
    fn follow(&mut self, other: &Self) {
        if self.about == other.about {
            self.merge(other);
        } else if self.about.is_none() || self.since <= other.since {
            self.clone_from(other);
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::config::Config;
    use crate::deployment::Deployments;
    use crate::model::name::Version;
    use crate::shadow::dropped::Dropped;
    use crate::store::lease::Instance;
    use crate::testing::host::{START, TestHost};
    use crate::testing::{identity, iris};

    fn member(host: &TestHost) -> Member {
        let instance = Instance::register(&host.store, START);
        Member::enrol(&host.store, host, instance, instance.get(), START).expect("in reach")
    }

    fn comparer() -> Comparer {
        let instance = Instance::register(&TestHost::default().store, START);
        Comparer::new(Seed::new(instance, 0, &iris()))
    }

    fn about(active: Colour, green: &str) -> About {
        let green = Identity { version: Version::new(green).expect("valid"), ..identity("g") };
        About { active, identities: PerColour { blue: identity("b"), green }, rules: 0 }
    }

    fn rules(rules: &str) -> Compare {
        let json = format!(
            r#"{{"deployments": {{"iris": {{
                "colours": {{"blue": {{"cluster": "b", "version": "1"}}, "green": {{"cluster": "g", "version": "2"}}}},
                "shadow": {{"compare": {{"safe": [{{"method": "POST", "path_prefix": "/"}}], {rules}}}}}}}}}}}"#
        );
        let deployments = Deployments::new(&Config::from_bytes(json.as_bytes()).expect("valid"));
        deployments.all()[0].compare().expect("configured").clone()
    }

    fn drop_one(comparer: &Comparer, about: &About) {
        comparer.note(about, Revision::ZERO, |notes| notes.compared.add_dropped(Dropped::Busy));
    }

    fn known(host: &TestHost, about: &About) -> u64 {
        gathered(&host.store, &Roster::read(&host.store), &iris(), about).compared.dropped(Dropped::Busy)
    }

    #[test]
    fn all_workers_add_up_and_what_one_leaves_behind_counts_once() {
        let host = TestHost::default();
        let (first, second, about) = (member(&host), member(&host), about(Colour::Blue, "2"));
        for (member, count) in [(&first, 2), (&second, 3)] {
            let comparer = comparer();
            (0..count).for_each(|_| drop_one(&comparer, &about));
            comparer.write(&host.store, &iris(), member);
            assert!(!comparer.is_news());
        }
        assert_eq!(known(&host, &about), 5);
        for _ in 0..2 {
            keep(&host.store, &iris(), &first).expect("in reach");
            assert_eq!(known(&host, &about), 5);
        }
        Roster::change(&host.store, START, &mut Vec::clear).expect("in reach");
        assert_eq!((member(&host).slot, known(&host, &about)), (first.slot, 2));
    }

    #[test]
    fn what_was_found_between_others_says_nothing_about_these() {
        let (host, comparer) = (TestHost::default(), comparer());
        let member = member(&host);
        let (before, others) = (about(Colour::Blue, "2"), [about(Colour::Blue, "3"), about(Colour::Green, "2")]);
        drop_one(&comparer, &before);
        comparer.write(&host.store, &iris(), &member);
        for other in &others {
            assert_eq!((known(&host, &before), known(&host, other)), (1, 0));
        }
        drop_one(&comparer, &others[0]);
        comparer.write(&host.store, &iris(), &member);
        assert_eq!((known(&host, &before), known(&host, &others[0])), (0, 1));
        assert_ne!(before.digest(), others[0].digest());
    }

    #[test]
    fn what_those_who_are_gone_have_left_is_about_the_latest_two() {
        let host = TestHost::default();
        let (old, new) = (about(Colour::Blue, "2"), about(Colour::Blue, "3"));
        for (about, since) in [(&new, Revision::ZERO.next()), (&old, Revision::ZERO)] {
            let (member, comparer) = (member(&host), comparer());
            comparer.note(about, since, |notes| notes.compared.add_dropped(Dropped::Busy));
            comparer.write(&host.store, &iris(), &member);
            keep(&host.store, &iris(), &member).expect("in reach");
        }
        Roster::change(&host.store, START, &mut Vec::clear).expect("in reach");
        assert_eq!((known(&host, &new), known(&host, &old)), (1, 0));
    }

    #[test]
    fn a_place_is_free_again_when_it_is_let_go_of() {
        let (comparer, rules) = (comparer(), rules(r#""max_in_flight": 2"#));
        let held = [comparer.place(&rules), comparer.place(&rules)];
        assert_eq!(comparer.place(&rules).err(), Some(Dropped::Busy));
        drop(held);
        assert!(comparer.place(&rules).is_ok());
    }

    #[test]
    fn the_shares_that_are_sampled_and_measured_are_exact() {
        let (comparer, rules) = (comparer(), rules(r#""sample_percent": 10, "noise_percent": 25"#));
        let count = |chosen: &dyn Fn() -> bool| (0..400).filter(|_| chosen()).count();
        assert!((39..=41).contains(&count(&|| comparer.is_sampled(&rules))));
        assert!((99..=101).contains(&count(&|| comparer.measures_noise(&rules))));
    }

    #[test]
    fn what_cannot_be_written_stays_news_and_what_others_wrote_there_is_no_finding() {
        let (host, comparer, about) = (TestHost::default(), comparer(), about(Colour::Blue, "2"));
        let member = member(&host);
        drop_one(&comparer, &about);
        host.store.set_reachable(false);
        comparer.write(&host.store, &iris(), &member);
        host.store.set_reachable(true);
        assert!(comparer.is_news());
        comparer.write(&host.store, &iris(), &member);
        assert_eq!(known(&host, &about), 1);
        for bytes in [&b"{}"[..], b"\xff", b"[1]", br#"{"number":99,"notes":{}}"#] {
            host.store.put(&Key::Comparisons(&iris(), member.slot).to_string(), bytes);
            host.store.put(&Key::DepartedComparisons(&iris()).to_string(), bytes);
            assert_eq!(known(&host, &about), 0, "{bytes:?}");
        }
    }
}
