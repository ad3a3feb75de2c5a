//! A second place for each state, for the day that something else stands in the first.
//!
//! Shared data knows no owners: whoever has the same `vm_id` can write under any key, and meshes give all their plugins the
//! same one. The copy keeps a collision from taking the revision, the history and the way back along. It is no protection
//! from a plugin that means harm.

use super::{ATTEMPTS, Store, StoreError, SwapError, state_key};
use crate::model::name::DeploymentName;
use crate::store::key::Key;

/// The copy; empty if there is none.
pub(super) fn read(store: &dyn Store, name: &DeploymentName) -> Result<Vec<u8>, StoreError> {
    Ok(store.read(&copy_key(name))?.value.unwrap_or_default())
}

/// Copies what was just written, unless there is a later write, whose author sees to it.
///
/// The copy is read before the state: had another author read an older state than this, the swap of one of the two fails,
/// so that the last copy is one of the last state. A copy that cannot be made undoes no write.
pub(super) fn renew(store: &dyn Store, name: &DeploymentName, written: &[u8]) {
    for _ in 0..ATTEMPTS {
        let Ok(before) = store.read(&copy_key(name)) else { return };
        let is_last = store.read(&state_key(name)).is_ok_and(|state| state.value.as_deref() == Some(written));
        if !is_last || store.swap(&copy_key(name), written, before.seen) != Err(SwapError::Conflict) {
            return;
        }
    }
}

fn copy_key(name: &DeploymentName) -> String {
    Key::Copy(name).to_string()
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::author::{Author, Source};
    use crate::model::name::Reason;
    use crate::model::split::{Revision, Split};
    use crate::model::time::Timestamp;
    use crate::state::{Command, Refusal};
    use crate::store::{Found, Loaded, ModRevision, Precedence, adopt, load, update};
    use crate::testing::{MemoryStore, iris, split};

    const NOW: Timestamp = Timestamp::from_millis(1);

    fn carry_out(store: &dyn Store, command: Command) -> Revision {
        let author = Author::new("alice", Source::Admin, Reason::none());
        let applied =
            update(store, &iris(), Split::default(), NOW, |loaded| loaded.state.after(command, author.clone(), NOW));
        applied.expect("in reach").state.revision
    }

    fn loaded(store: &dyn Store) -> Loaded {
        load(store, &iris(), Split::default(), NOW).expect("in reach")
    }

    #[test]
    fn a_state_that_somebody_else_wrote_over_is_known_from_its_copy_and_goes_on_from_there() {
        for foreign in [&b"not ours"[..], b""] {
            let store = MemoryStore::default();
            carry_out(&store, Command::Promote);
            let before = loaded(&store).state;
            store.put(&state_key(&iris()), foreign);
            assert_eq!((loaded(&store).found, loaded(&store).state), (Found::Copy, before));
            assert_eq!(carry_out(&store, Command::RollBack), Revision::new(2));
            assert_eq!((loaded(&store).found, loaded(&store).state.history.changes().count()), (Found::State, 2));
        }
    }

    #[test]
    fn a_command_that_asks_for_nothing_new_puts_the_state_back() {
        let store = MemoryStore::default();
        carry_out(&store, Command::Promote);
        store.put(&state_key(&iris()), b"not ours");
        let applied = update(&store, &iris(), Split::default(), NOW, |_| Ok::<_, Refusal>(None)).expect("in reach");
        assert_eq!((applied.state.revision, loaded(&store).found), (Revision::new(1), Found::State));
    }

    #[test]
    fn a_state_of_the_fleet_keeps_the_number_of_its_write() {
        let store = MemoryStore::default();
        carry_out(&store, Command::Promote);
        let state = loaded(&store).state;
        adopt(&store, &iris(), &state, ModRevision(7), Precedence::Later).expect("in reach");
        store.put(&state_key(&iris()), b"not ours");
        assert_eq!(loaded(&store).origin, Some(ModRevision(7)));
    }

    #[test]
    fn of_two_authors_at_once_the_later_state_is_the_one_that_is_copied() {
        let store = MemoryStore::default();
        carry_out(&store, Command::Promote);
        let first = store.read(&state_key(&iris())).expect("in reach").value.expect("written");
        // The first author is about to write its copy when the second one writes both.
        store.put(&copy_key(&iris()), b"older");
        store.before_next_swap(|store| assert_eq!(carry_out(store, Command::RollBack), Revision::new(2)));
        renew(&store, &iris(), &first);
        let second = store.read(&state_key(&iris())).expect("in reach").value.expect("written");
        assert_eq!(read(&store, &iris()), Ok(second.clone()));
        // And an author that comes too late leaves it alone.
        renew(&store, &iris(), &first);
        assert_eq!(read(&store, &iris()), Ok(second));
    }

    #[test]
    fn a_value_under_both_keys_that_is_no_state_leaves_the_initial_split() {
        let store = MemoryStore::default();
        carry_out(&store, Command::Promote);
        store.put(&state_key(&iris()), b"not ours");
        store.put(&copy_key(&iris()), b"not ours either");
        assert_eq!((loaded(&store).found, loaded(&store).state.split), (Found::Foreign, split("blue", "0", "0")));
    }
}
