//! A deployment's state as the workers share it.
//!
//! Shared data knows no owners: a plugin with the same `vm_id` can write under any key, and meshes give all their plugins
//! the same one. So each state has a backup under a second key, which keeps a collision from taking the revision, the
//! history and the way back along. It is no protection from a plugin that means harm.

use super::key::Key;
use super::{CasToken, Store, StoreError, Versioned, insert, update};
use crate::model::name::DeploymentName;
use crate::model::split::Split;
use crate::model::time::Timestamp;
use crate::state::State;

/// A state as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The state; from `initial` when none was found.
    pub state: State,
    /// Where it was found.
    pub origin: Origin,
    /// The write of the fleet's store that it comes from, if it does.
    pub mod_revision: Option<ModRevision>,
    /// The write in shared data that it was read from.
    pub token: CasToken,
}

/// The number of a write in the fleet's store; 0 stands for no write at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModRevision(pub u64);

/// Whether a state of the fleet takes the place of one that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplacePolicy {
    /// If its write is the later one: messages may overtake each other on their ways here.
    IfNewer,
    /// In any case: the fleet's store has gone back in time, as after a restored backup.
    Always,
}

/// Where a state was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Under its key.
    Primary,
    /// Under its backup's key: something else stands under its own.
    Backup,
    /// Nowhere: nothing was ever kept.
    Absent,
    /// Nowhere: another plugin, or an attacker, wrote under the key, and there is no backup.
    Corrupt,
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
    Recorded,
    /// A new revision is in force.
    Rerouted,
}

/// Why a state was not updated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateError<E> {
    /// The rule that rejected it, and the state that it stood before.
    Rejected(E, Box<State>),
    /// The store cannot be reached, or others won the race each time.
    Unavailable,
}

/// Reads a deployment's state.
///
/// # Errors
/// The store cannot be read.
pub fn load(store: &dyn Store, name: &DeploymentName, initial: Split, now: Timestamp) -> Result<Loaded, StoreError> {
    let versioned = store.read(&state_key(name))?;
    decode_or_back_up(store, name, initial, now, &versioned)
}

/// Reads a deployment's state, unless nothing was written since `known`.
///
/// # Errors
/// The store cannot be read.
pub fn load_since(
    store: &dyn Store,
    name: &DeploymentName,
    initial: Split,
    known: Option<CasToken>,
) -> Result<Option<Loaded>, StoreError> {
    let versioned = store.read(&state_key(name))?;
    if known == Some(versioned.token) {
        return Ok(None);
    }
    decode_or_back_up(store, name, initial, Timestamp::default(), &versioned).map(Some)
}

/// Keeps the first state of a deployment. Whether it had none.
///
/// # Errors
/// The store cannot be reached.
pub fn begin(store: &dyn Store, name: &DeploymentName, state: &State) -> Result<bool, StoreError> {
    let bytes = state.encode();
    if !insert(store, &state_key(name), &bytes)? {
        return Ok(false);
    }
    // Where there is one by now, it is that of a later state.
    let _: Result<bool, StoreError> = insert(store, &backup_key(name), &bytes);
    Ok(true)
}

/// Takes over a state of the fleet, unless a later one is known.
///
/// # Errors
/// The store cannot be reached.
pub fn replace(
    store: &dyn Store,
    name: &DeploymentName,
    state: &State,
    mod_revision: ModRevision,
    policy: ReplacePolicy,
) -> Result<Applied, StoreError> {
    let bytes = with_mod_revision(state, mod_revision);
    let mut applied = Err(StoreError);
    let written = update(store, &state_key(name), &mut |versioned| {
        let loaded = match decode_or_back_up(store, name, state.initial, state.since, &versioned) {
            Ok(loaded) => loaded,
            Err(error) => {
                applied = Err(error);
                return None;
            }
        };
        if policy == ReplacePolicy::IfNewer && loaded.mod_revision.is_some_and(|known| known >= mod_revision) {
            applied = Ok(Applied { state: loaded.state, effect: Effect::None });
            return None;
        }
        let rerouted = state.revision != loaded.state.revision || state.split != loaded.state.split;
        let effect = if rerouted { Effect::Rerouted } else { Effect::Recorded };
        applied = Ok(Applied { state: state.clone(), effect });
        Some(bytes.clone())
    })?;
    if written {
        back_up(store, name, &bytes);
    }
    applied
}

/// Changes a state among other writers: `decide` sees each state that might be replaced, and gives the next one, or
/// `None` when nothing has to be written.
///
/// # Errors
/// What `decide` rejects, or that the store cannot be reached.
pub fn update_state<E>(
    store: &dyn Store,
    name: &DeploymentName,
    initial: Split,
    now: Timestamp,
    decide: &mut dyn FnMut(&Loaded) -> Result<Option<State>, E>,
) -> Result<Applied, UpdateError<E>> {
    let mut end = Err(UpdateError::Unavailable);
    let mut bytes = Vec::new();
    let written = update(store, &state_key(name), &mut |versioned| {
        let Ok(loaded) = decode_or_back_up(store, name, initial, now, &versioned) else {
            end = Err(UpdateError::Unavailable);
            return None;
        };
        let after = match decide(&loaded) {
            Ok(Some(after)) => after,
            // What is answered has to be what requests follow, and they go on with what they knew before that.
            Ok(None) if loaded.origin.is_overwritten() => loaded.state.clone(),
            Ok(None) => {
                end = Ok(Applied { state: loaded.state, effect: Effect::None });
                return None;
            }
            Err(rule) => {
                end = Err(UpdateError::Rejected(rule, Box::new(loaded.state)));
                return None;
            }
        };
        let rerouted = after.revision != loaded.state.revision;
        bytes = after.encode();
        end = Ok(Applied { state: after, effect: if rerouted { Effect::Rerouted } else { Effect::Recorded } });
        Some(bytes.clone())
    });
    match written {
        Ok(true) => back_up(store, name, &bytes),
        Ok(false) => {}
        Err(StoreError) => return Err(UpdateError::Unavailable),
    }
    end
}

fn decode_or_back_up(
    store: &dyn Store,
    name: &DeploymentName,
    initial: Split,
    now: Timestamp,
    versioned: &Versioned,
) -> Result<Loaded, StoreError> {
    // An empty value is how shared data says that a key was removed.
    let token = versioned.token;
    let bytes = versioned.value.as_deref().unwrap_or_default();
    if let Some((state, mod_revision)) = decode(bytes) {
        return Ok(Loaded { state, origin: Origin::Primary, mod_revision, token });
    }
    if versioned.token != CasToken::Never
        && let Some((state, mod_revision)) = decode(&read_backup(store, name)?)
    {
        return Ok(Loaded { state, origin: Origin::Backup, mod_revision, token });
    }
    let origin = if bytes.is_empty() { Origin::Absent } else { Origin::Corrupt };
    Ok(Loaded { state: State::initial(initial, now), origin, mod_revision: None, token })
}

/// A state of the fleet is kept with its write's number in a line before it: one value, so the two never disagree.
fn with_mod_revision(state: &State, ModRevision(number): ModRevision) -> Vec<u8> {
    [format!("{number}\n").into_bytes(), state.encode()].concat()
}

fn decode(bytes: &[u8]) -> Option<(State, Option<ModRevision>)> {
    let number = |line: &[u8]| std::str::from_utf8(line).ok()?.parse().ok().map(ModRevision);
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (mod_revision, json) = end
        .and_then(|end| Some((Some(number(bytes.get(..end)?)?), bytes.get(end.checked_add(1)?..)?)))
        .unwrap_or((None, bytes));
    Some((State::decode(json)?, mod_revision))
}

/// The backup; empty if there is none.
fn read_backup(store: &dyn Store, name: &DeploymentName) -> Result<Vec<u8>, StoreError> {
    Ok(store.read(&backup_key(name))?.value.unwrap_or_default())
}

/// Backs up what was just written, unless there is a later write, whose author does that.
///
/// The backup is read before the state: had another author read an older state than this, the swap of one of the two
/// fails, so that the last backup is one of the last state. A backup that cannot be made undoes no write.
fn back_up(store: &dyn Store, name: &DeploymentName, written: &[u8]) {
    let _: Result<bool, StoreError> = update(store, &backup_key(name), &mut |_| {
        let is_last = store.read(&state_key(name)).is_ok_and(|state| state.value.as_deref() == Some(written));
        is_last.then(|| written.to_vec())
    });
}

fn state_key(name: &DeploymentName) -> String {
    Key::State(name).to_string()
}

fn backup_key(name: &DeploymentName) -> String {
    Key::Backup(name).to_string()
}

// === impl Origin ===

impl Origin {
    /// Whether another plugin wrote where the state is kept, or took it away.
    pub const fn is_overwritten(self) -> bool {
        matches!(self, Self::Backup | Self::Corrupt)
    }
}

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

    fn promote(store: &dyn Store) -> Result<Applied, UpdateError<Refusal>> {
        let author = Author::new(crate::testing::holder("alice"), Source::Admin, Reason::none());
        let now = Timestamp::from_millis(1);
        update_state(store, &iris(), Split::default(), now, &mut |loaded| {
            loaded.state.after(&Command::Promote(Some(loaded.state.split.candidate())), author.clone(), now)
        })
    }

    #[test]
    fn an_absent_key_means_the_initial_split() {
        let loaded = load(&MemoryStore::default(), &iris(), split("green", "5", "0"), Timestamp::default());
        let loaded = loaded.expect("in reach");
        assert_eq!((loaded.state.split, loaded.origin), (split("green", "5", "0"), Origin::Absent));
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
        assert_eq!(promote(&store), Err(UpdateError::Unavailable));
        store.set_reachable(true);
        assert_eq!(promote(&store).expect("in reach").state.revision, Revision::new(1));
    }

    #[test]
    fn a_foreign_value_without_a_backup_is_reported_and_written_over_by_the_next_change() {
        let store = MemoryStore::default();
        store.put(&state_key(&iris()), b"not ours");
        let loaded = load(&store, &iris(), Split::default(), Timestamp::default()).expect("in reach");
        assert_eq!(loaded.origin, Origin::Corrupt);
        assert_eq!(promote(&store).expect("written").state.revision, Revision::new(1));
    }

    #[test]
    fn a_foreign_value_is_written_over_even_by_a_command_that_asks_for_nothing_new() {
        let store = MemoryStore::default();
        store.put(&state_key(&iris()), b"not ours");
        let now = Timestamp::from_millis(1);
        let mut nothing = |_: &Loaded| Ok::<_, Refusal>(None);
        let applied = update_state(&store, &iris(), Split::default(), now, &mut nothing).expect("in reach");
        assert_eq!(applied.effect, Effect::Recorded, "the epoch has to move");
        let loaded = load(&store, &iris(), Split::default(), now).expect("in reach");
        assert_eq!((loaded.origin, loaded.state), (Origin::Primary, applied.state));
        let again = update_state(&store, &iris(), Split::default(), now, &mut nothing).expect("in reach");
        assert_eq!(again.effect, Effect::None);
    }

    fn state_at(revision: u64) -> State {
        State { revision: Revision::new(revision), ..State::initial(Split::default(), Timestamp::from_millis(1)) }
    }

    #[test]
    fn a_state_of_the_fleet_never_goes_backwards_unless_the_fleets_store_did() {
        let store = MemoryStore::default();
        let replace = |revision, number, policy| {
            let replaced = super::replace(&store, &iris(), &state_at(revision), ModRevision(number), policy);
            replaced.expect("in reach").effect
        };
        let kept = || load(&store, &iris(), Split::default(), Timestamp::default()).expect("in reach");
        assert_eq!(replace(3, 10, ReplacePolicy::IfNewer), Effect::Rerouted);
        assert_eq!(replace(2, 9, ReplacePolicy::IfNewer), Effect::None);
        assert_eq!(replace(9, 10, ReplacePolicy::IfNewer), Effect::None);
        assert_eq!((kept().state, kept().mod_revision), (state_at(3), Some(ModRevision(10))));
        assert_eq!(replace(3, 11, ReplacePolicy::IfNewer), Effect::Recorded);
        assert_eq!(replace(1, 4, ReplacePolicy::Always), Effect::Rerouted);
        assert_eq!((kept().state, kept().mod_revision), (state_at(1), Some(ModRevision(4))));
    }

    #[test]
    fn the_first_state_of_the_fleet_replaces_what_this_envoy_had_alone() {
        let store = MemoryStore::default();
        promote(&store).expect("promoted");
        let replaced =
            super::replace(&store, &iris(), &state_at(0), ModRevision(1), ReplacePolicy::IfNewer).expect("in reach");
        assert_eq!((replaced.effect, replaced.state), (Effect::Rerouted, state_at(0)));
    }

    const NOW: Timestamp = Timestamp::from_millis(1);

    fn carry_out(store: &dyn Store, command: Command) -> Revision {
        let author = Author::new(crate::testing::holder("alice"), Source::Admin, Reason::none());
        let applied = update_state(store, &iris(), Split::default(), NOW, &mut |loaded| {
            loaded.state.after(&command, author.clone(), NOW)
        });
        applied.expect("in reach").state.revision
    }

    fn loaded(store: &dyn Store) -> Loaded {
        load(store, &iris(), Split::default(), NOW).expect("in reach")
    }

    #[test]
    fn a_state_that_somebody_else_wrote_over_is_known_from_its_backup_and_goes_on_from_there() {
        for foreign in [&b"not ours"[..], b""] {
            let store = MemoryStore::default();
            carry_out(&store, Command::Promote(None));
            let before = loaded(&store).state;
            store.put(&state_key(&iris()), foreign);
            assert_eq!((loaded(&store).origin, loaded(&store).state), (Origin::Backup, before));
            assert_eq!(carry_out(&store, Command::RollBack(None)), Revision::new(2));
            assert_eq!((loaded(&store).origin, loaded(&store).state.history.changes().count()), (Origin::Primary, 2));
        }
    }

    #[test]
    fn a_command_that_asks_for_nothing_new_puts_the_state_back() {
        let store = MemoryStore::default();
        carry_out(&store, Command::Promote(None));
        store.put(&state_key(&iris()), b"not ours");
        let applied =
            update_state(&store, &iris(), Split::default(), NOW, &mut |_| Ok::<_, Refusal>(None)).expect("in reach");
        assert_eq!((applied.state.revision, loaded(&store).origin), (Revision::new(1), Origin::Primary));
    }

    #[test]
    fn a_state_of_the_fleet_keeps_the_number_of_its_write() {
        let store = MemoryStore::default();
        carry_out(&store, Command::Promote(None));
        let state = loaded(&store).state;
        replace(&store, &iris(), &state, ModRevision(7), ReplacePolicy::IfNewer).expect("in reach");
        store.put(&state_key(&iris()), b"not ours");
        assert_eq!(loaded(&store).mod_revision, Some(ModRevision(7)));
    }

    #[test]
    fn of_two_authors_at_once_the_later_state_is_the_one_that_is_backed_up() {
        let store = MemoryStore::default();
        carry_out(&store, Command::Promote(None));
        let first = store.read(&state_key(&iris())).expect("in reach").value.expect("written");
        // The first author is about to write its backup when the second one writes both.
        store.put(&backup_key(&iris()), b"older");
        store.before_next_swap(|store| assert_eq!(carry_out(store, Command::RollBack(None)), Revision::new(2)));
        back_up(&store, &iris(), &first);
        let second = store.read(&state_key(&iris())).expect("in reach").value.expect("written");
        assert_eq!(read_backup(&store, &iris()), Ok(second.clone()));
        // And an author that comes too late leaves it alone.
        back_up(&store, &iris(), &first);
        assert_eq!(read_backup(&store, &iris()), Ok(second));
    }

    #[test]
    fn a_value_under_both_keys_that_is_no_state_leaves_the_initial_split() {
        let store = MemoryStore::default();
        carry_out(&store, Command::Promote(None));
        store.put(&state_key(&iris()), b"not ours");
        store.put(&backup_key(&iris()), b"not ours either");
        assert_eq!((loaded(&store).origin, loaded(&store).state.split), (Origin::Corrupt, split("blue", "0", "0")));
    }
}
