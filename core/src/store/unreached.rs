//! How many requests in a row did not reach the active colour, whichever worker sent them.

use super::key::Key;
use super::{Store, StoreError, number, update};
use crate::model::name::DeploymentName;

/// Counts one more, and gives their number in a row; 0 while the store is out of reach.
pub fn count(store: &dyn Store, name: &DeploymentName) -> u64 {
    let mut count: u64 = 0;
    let written = update(store, &key(name), &mut |before| {
        count = number(before.value).saturating_add(1);
        Some(count.to_string().into_bytes())
    });
    if written.is_ok() { count } else { 0 }
}

/// A request reached the active colour, or there is a new one.
pub fn reset(store: &dyn Store, name: &DeploymentName) {
    // While the store is out of reach nothing is counted either.
    let _: Result<bool, StoreError> =
        update(store, &key(name), &mut |before| (number(before.value) > 0).then(|| b"0".to_vec()));
}

fn key(name: &DeploymentName) -> String {
    Key::Unreached(name).to_string()
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::{MemoryStore, iris};

    #[test]
    fn failures_count_up_until_one_request_gets_through() {
        let store = MemoryStore::default();
        assert_eq!([count(&store, &iris()), count(&store, &iris())], [1, 2]);
        reset(&store, &iris());
        assert_eq!(count(&store, &iris()), 1);
        store.set_reachable(false);
        assert_eq!(count(&store, &iris()), 0);
    }
}
