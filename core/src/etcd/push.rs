//! Configuration pushes in a fleet: whether a new `initial` reached this running Envoy.
//!
//! An Envoy that starts joins the fleet as it is: its configuration may be older than the last change, and must not undo
//! it. Only an `initial` that replaces another one while the Envoy runs is a change.

use serde::{Deserialize, Serialize};

use crate::name::DeploymentName;
use crate::split::Split;
use crate::store::{Store, StoreError, SwapError};

/// What reached this Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pushes {
    /// The `initial` of the newest configuration.
    newest: Split,
    /// The one that was last carried into the fleet, or that the Envoy started with.
    settled: Split,
}

/// How often a note is tried against the other instances, which all write the same.
const ATTEMPTS: usize = 64;

/// Takes note of a configuration. To be done by every instance that gets one.
///
/// # Errors
/// The store cannot be reached.
pub fn announce(store: &dyn Store, name: &DeploymentName, initial: Split) -> Result<(), StoreError> {
    change(store, name, |pushes| match pushes {
        None => Some(Pushes { newest: initial, settled: initial }),
        Some(pushes) if pushes.newest == initial => None,
        Some(pushes) => Some(Pushes { newest: initial, ..pushes }),
    })
}

/// Whether `initial` is still the newest and has still to be carried into the fleet.
pub fn is_pending(store: &dyn Store, name: &DeploymentName, initial: Split) -> bool {
    read(store, name).is_some_and(|pushes| pushes.newest == initial && pushes.settled != initial)
}

/// Takes note that `initial` has been carried into the fleet.
///
/// # Errors
/// The store cannot be reached.
pub fn settle(store: &dyn Store, name: &DeploymentName, initial: Split) -> Result<(), StoreError> {
    change(store, name, |pushes| {
        pushes.filter(|pushes| pushes.settled != initial).map(|pushes| Pushes { settled: initial, ..pushes })
    })
}

fn change(
    store: &dyn Store,
    name: &DeploymentName,
    to: impl Fn(Option<Pushes>) -> Option<Pushes>,
) -> Result<(), StoreError> {
    for _ in 0..ATTEMPTS {
        let stored = store.read(&key(name))?;
        let before = stored.value.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(after) = to(before) else { return Ok(()) };
        let bytes = serde_json::to_vec(&after).map_err(|_| StoreError)?;
        match store.swap(&key(name), &bytes, stored.seen) {
            Ok(()) => return Ok(()),
            Err(SwapError::Conflict) => {}
            Err(SwapError::Unavailable) => return Err(StoreError),
        }
    }
    Err(StoreError)
}

fn read(store: &dyn Store, name: &DeploymentName) -> Option<Pushes> {
    serde_json::from_slice(&store.read(&key(name)).ok()?.value?).ok()
}

fn key(name: &DeploymentName) -> String {
    format!("bluegreen/v1/{name}/initial")
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::{MemoryStore, iris, split};

    #[test]
    fn only_an_initial_that_replaces_another_one_is_pending_and_only_until_a_newer_one_comes() {
        let (store, blue, green) = (MemoryStore::default(), split("blue", "0", "0"), split("green", "0", "0"));
        let announce = |initial| announce(&store, &iris(), initial).expect("in reach");
        let pending = || [blue, green].map(|initial| is_pending(&store, &iris(), initial));
        announce(blue);
        announce(blue);
        assert_eq!(pending(), [false, false], "it started with that");
        announce(green);
        assert_eq!(pending(), [false, true]);
        announce(blue);
        assert_eq!(pending(), [false, false], "taken back before it was carried out");
        announce(green);
        settle(&store, &iris(), green).expect("in reach");
        assert_eq!(pending(), [false, false]);
        announce(blue);
        assert_eq!(pending(), [true, false]);
    }
}
