//! Where states live, and the one way to change them: read, decide, compare and swap.

mod backup;
pub mod key;
pub mod lease;
pub mod source_status;

use std::fmt;

use crate::model::name::DeploymentName;
use crate::model::split::Split;
use crate::model::time::Timestamp;
use crate::state::State;
use crate::store::key::Key;

/// A map of bytes that all threads of one Envoy share. The filter's is proxy-wasm shared data.
pub trait Store {
    /// What is kept under `key`.
    ///
    /// # Errors
    /// The store cannot be read.
    fn read(&self, key: &str) -> Result<Stored, StoreError>;

    /// Puts `value` under `key` if nobody wrote there since `seen`.
    ///
    /// # Errors
    /// Somebody did ([`SwapError::Conflict`]), or the store cannot be written.
    fn swap(&self, key: &str, value: &[u8], seen: Seen) -> Result<(), SwapError>;
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The value; `None` when there is none.
    pub value: Option<Vec<u8>>,
    /// What a later swap is compared with.
    pub seen: Seen,
}

/// The point in a key's life at which it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nobody had written it.
    Never,
    /// The store's own number of the last write.
    Write(u32),
}

/// The store cannot be reached, and nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreError;

/// Why a swap did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapError {
    /// Another write came first.
    Conflict,
    /// The store cannot be reached.
    Unavailable,
}

/// A state as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The state; from `initial` when none was found.
    pub state: State,
    /// What stood under the key.
    pub found: Found,
    /// The write of the fleet's store that it comes from, if it does.
    pub origin: Option<ModRevision>,
    seen: Seen,
}

/// The number of a write in the fleet's store; 0 stands for no write at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModRevision(pub u64);

/// Whether a state of the fleet takes the place of one that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precedence {
    /// If its write is the later one: messages may overtake each other on their ways here.
    Later,
    /// In any case: the fleet's store has gone back in time, as after a restored backup.
    Always,
}

/// What stands under a deployment's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A state.
    State,
    /// Something else, but the state that had stood there is known from its copy.
    Copy,
    /// Nothing.
    Nothing,
    /// Something else: another plugin, or an attacker, wrote there, and there is no copy.
    Foreign,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The state in force now.
    pub state: State,
    /// What the command did to it.
    pub effect: Effect,
}

/// What a command did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: what it asks for was in force already.
    None,
    /// It was written down without changing how requests are routed.
    Noted,
    /// A new revision is in force.
    Changed,
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyError<E> {
    /// The rule that refused it, and the state that it refused.
    Refused(E, Box<State>),
    /// The store cannot be reached, or never held still.
    Unavailable,
}

/// How often a write is tried against others before it is given up: more than any real number of concurrent writers.
const ATTEMPTS: usize = 256;

fn state_key(name: &DeploymentName) -> String {
    Key::State(name).to_string()
}

/// Reads a deployment's state.
///
/// # Errors
/// The store cannot be read.
pub fn load(store: &dyn Store, name: &DeploymentName, initial: Split, now: Timestamp) -> Result<Loaded, StoreError> {
    let Stored { value, seen } = store.read(&state_key(name))?;
    // An empty value is how shared data says that a key was removed.
    let bytes = value.unwrap_or_default();
    if let Some((state, origin)) = decode(&bytes) {
        return Ok(Loaded { state, found: Found::State, origin, seen });
    }
    if seen != Seen::Never
        && let Some((state, origin)) = decode(&backup::read(store, name)?)
    {
        return Ok(Loaded { state, found: Found::Copy, origin, seen });
    }
    let found = if bytes.is_empty() { Found::Nothing } else { Found::Foreign };
    Ok(Loaded { state: State::initial(initial, now), found, origin: None, seen })
}

/// Takes over a state of the fleet, unless a later one is known.
///
/// # Errors
/// The store cannot be reached.
pub fn adopt(
    store: &dyn Store,
    name: &DeploymentName,
    state: &State,
    origin: ModRevision,
    precedence: Precedence,
) -> Result<Applied, StoreError> {
    for _ in 0..ATTEMPTS {
        let loaded = load(store, name, state.initial, state.since)?;
        if precedence == Precedence::Later && loaded.origin.is_some_and(|known| known >= origin) {
            return Ok(Applied { state: loaded.state, effect: Effect::None });
        }
        match put(store, name, &with_origin(state, origin), loaded.seen) {
            Ok(()) => {
                let changed = state.revision != loaded.state.revision || state.split != loaded.state.split;
                let effect = if changed { Effect::Changed } else { Effect::Noted };
                return Ok(Applied { state: state.clone(), effect });
            }
            Err(SwapError::Conflict) => {}
            Err(SwapError::Unavailable) => return Err(StoreError),
        }
    }
    Err(StoreError)
}

/// A state of the fleet is kept with its write's number in a line before it: one value, so the two never disagree.
fn with_origin(state: &State, ModRevision(number): ModRevision) -> Vec<u8> {
    [format!("{number}\n").into_bytes(), state.encode()].concat()
}

fn decode(bytes: &[u8]) -> Option<(State, Option<ModRevision>)> {
    let number = |line: &[u8]| std::str::from_utf8(line).ok()?.parse().ok().map(ModRevision);
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (origin, json) = end
        .and_then(|end| Some((Some(number(bytes.get(..end)?)?), bytes.get(end.checked_add(1)?..)?)))
        .unwrap_or((None, bytes));
    Some((State::decode(json)?, origin))
}

fn put(store: &dyn Store, name: &DeploymentName, value: &[u8], seen: Seen) -> Result<(), SwapError> {
    store.swap(&state_key(name), value, seen)?;
    backup::renew(store, name, value);
    Ok(())
}

/// Brings a state about, whoever else is writing: `decide` sees each state that might be replaced.
///
/// # Errors
/// What `decide` refuses, or that the store cannot be reached.
pub fn update<E>(
    store: &dyn Store,
    name: &DeploymentName,
    initial: Split,
    now: Timestamp,
    mut decide: impl FnMut(&Loaded) -> Result<Option<State>, E>,
) -> Result<Applied, ApplyError<E>> {
    for _ in 0..ATTEMPTS {
        let loaded = load(store, name, initial, now).map_err(|StoreError| ApplyError::Unavailable)?;
        let state = match decide(&loaded) {
            Ok(Some(state)) => state,
            // What is answered has to be what requests follow, and they go on with what they knew before that.
            Ok(None) if loaded.found.is_overwritten() => loaded.state.clone(),
            Ok(None) => {
                return Ok(Applied { state: loaded.state, effect: Effect::None });
            }
            Err(refusal) => return Err(ApplyError::Refused(refusal, Box::new(loaded.state))),
        };
        match put(store, name, &state.encode(), loaded.seen) {
            Ok(()) => {
                let changed = state.revision != loaded.state.revision;
                return Ok(Applied { state, effect: if changed { Effect::Changed } else { Effect::Noted } });
            }
            Err(SwapError::Conflict) => {}
            Err(SwapError::Unavailable) => return Err(ApplyError::Unavailable),
        }
    }
    Err(ApplyError::Unavailable)
}

// === impl Found ===

impl Found {
    /// Whether somebody else wrote where the state is kept, or took it away.
    pub const fn is_overwritten(self) -> bool {
        matches!(self, Self::Copy | Self::Foreign)
    }
}

// === impl StoreError ===

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the shared store is out of reach")
    }
}

impl std::error::Error for StoreError {}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::author::{Author, Source};
    use crate::model::name::Reason;
    use crate::model::split::Revision;
    use crate::state::{Command, Refusal};
    use crate::testing::{MemoryStore, iris, split};

    fn promote(store: &dyn Store) -> Result<Applied, ApplyError<Refusal>> {
        let author = Author::new("alice", Source::Admin, Reason::none());
        let now = Timestamp::from_millis(1);
        update(store, &iris(), Split::default(), now, |loaded| {
            loaded.state.after(Command::Promote, author.clone(), now)
        })
    }

    #[test]
    fn an_absent_key_means_the_initial_split() {
        let loaded = load(&MemoryStore::default(), &iris(), split("green", "5", "0"), Timestamp::default());
        let loaded = loaded.expect("in reach");
        assert_eq!((loaded.state.split, loaded.found), (split("green", "5", "0"), Found::Nothing));
    }

    #[test]
    fn a_write_that_loses_the_race_is_decided_again_on_the_newer_state() {
        let store = MemoryStore::default();
        store.before_next_swap(|store| assert_eq!(promote(store).expect("first").state.revision, Revision::new(1)));
        let second = promote(&store).expect("second");
        assert_eq!(second.state.revision, Revision::new(2));
        assert_eq!(second.state.split, split("blue", "0", "0"));
        assert_eq!(second.state.history.changes().count(), 2);
    }

    #[test]
    fn a_store_out_of_reach_changes_nothing_and_says_so() {
        let store = MemoryStore::default();
        store.set_reachable(false);
        assert_eq!(promote(&store), Err(ApplyError::Unavailable));
        store.set_reachable(true);
        assert_eq!(promote(&store).expect("in reach").state.revision, Revision::new(1));
    }

    #[test]
    fn a_foreign_value_without_a_copy_is_reported_and_written_over_by_the_next_change() {
        let store = MemoryStore::default();
        store.put(&state_key(&iris()), b"not ours");
        let loaded = load(&store, &iris(), Split::default(), Timestamp::default()).expect("in reach");
        assert_eq!(loaded.found, Found::Foreign);
        assert_eq!(promote(&store).expect("written").state.revision, Revision::new(1));
    }

    #[test]
    fn a_foreign_value_is_written_over_even_by_a_command_that_asks_for_nothing_new() {
        let store = MemoryStore::default();
        store.put(&state_key(&iris()), b"not ours");
        let now = Timestamp::from_millis(1);
        let nothing = |_: &Loaded| Ok::<_, Refusal>(None);
        let applied = update(&store, &iris(), Split::default(), now, nothing).expect("in reach");
        assert_eq!(applied.effect, Effect::Noted, "the epoch has to move");
        let loaded = load(&store, &iris(), Split::default(), now).expect("in reach");
        assert_eq!((loaded.found, loaded.state), (Found::State, applied.state));
        let again = update(&store, &iris(), Split::default(), now, nothing).expect("in reach");
        assert_eq!(again.effect, Effect::None);
    }

    fn state_at(revision: u64) -> State {
        State { revision: Revision::new(revision), ..State::initial(Split::default(), Timestamp::from_millis(1)) }
    }

    #[test]
    fn a_state_of_the_fleet_never_goes_backwards_unless_the_fleets_store_did() {
        let store = MemoryStore::default();
        let adopt = |revision, origin, precedence| {
            let adopted = super::adopt(&store, &iris(), &state_at(revision), ModRevision(origin), precedence);
            adopted.expect("in reach").effect
        };
        let kept = || load(&store, &iris(), Split::default(), Timestamp::default()).expect("in reach");
        assert_eq!(adopt(3, 10, Precedence::Later), Effect::Changed);
        assert_eq!(adopt(2, 9, Precedence::Later), Effect::None);
        assert_eq!(adopt(9, 10, Precedence::Later), Effect::None);
        assert_eq!((kept().state, kept().origin), (state_at(3), Some(ModRevision(10))));
        assert_eq!(adopt(3, 11, Precedence::Later), Effect::Noted);
        assert_eq!(adopt(1, 4, Precedence::Always), Effect::Changed);
        assert_eq!((kept().state, kept().origin), (state_at(1), Some(ModRevision(4))));
    }

    #[test]
    fn the_first_state_of_the_fleet_replaces_what_this_envoy_had_by_itself() {
        let store = MemoryStore::default();
        promote(&store).expect("promoted");
        let adopted = super::adopt(&store, &iris(), &state_at(0), ModRevision(1), Precedence::Later).expect("in reach");
        assert_eq!((adopted.effect, adopted.state), (Effect::Changed, state_at(0)));
    }
}
