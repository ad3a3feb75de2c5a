//! Records in the data that all worker threads of one Envoy share, and the one way to change them: read, decide, compare
//! and swap.

pub mod key;
pub mod lease;
pub mod record;
pub mod source_status;
pub mod unreached;

use std::fmt;

use crate::json;

/// A map of bytes that all threads of one Envoy share. The filter's is proxy-wasm shared data.
pub trait Store {
    /// What is kept under `key`.
    ///
    /// # Errors
    /// The store cannot be read.
    fn read(&self, key: &str) -> Result<Versioned, StoreError>;

    /// Puts `value` under `key` if there was no write since `token`.
    ///
    /// # Errors
    /// There was one ([`SwapError::Conflict`]), or the store cannot be written.
    fn compare_and_swap(&self, key: &str, value: &[u8], token: CasToken) -> Result<(), SwapError>;
}

/// A value as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The value; `None` when there is none.
    pub value: Option<Vec<u8>>,
    /// What a later swap is compared with.
    pub token: CasToken,
}

/// The point in a key's life at which it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CasToken {
    /// It was never written.
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

/// How often a change of a record is tried against other writers: more than any real number of them.
const ATTEMPTS: usize = 256;

/// Changes the record under `key` among other writers: `change` sees each value that might be replaced, and gives the
/// new one, or `None` to leave it as it is. Whether something was written.
///
/// # Errors
/// The store cannot be reached, or others won the race each time.
#[allow(clippy::disallowed_methods, reason = "this is the loop that has a bound")]
pub fn update(
    store: &dyn Store,
    key: &str,
    change: &mut dyn FnMut(Versioned) -> Option<Vec<u8>>,
) -> Result<bool, StoreError> {
    for _ in 0..ATTEMPTS {
        let before = store.read(key)?;
        let token = before.token;
        let Some(after) = change(before) else { return Ok(false) };
        match store.compare_and_swap(key, &after, token) {
            Ok(()) => return Ok(true),
            Err(SwapError::Conflict) => {}
            Err(SwapError::Unavailable) => return Err(StoreError),
        }
    }
    Err(StoreError)
}

/// Puts `value` under `key` if there never was anything. Whether there was not.
///
/// # Errors
/// The store cannot be reached.
pub fn insert(store: &dyn Store, key: &str, value: &[u8]) -> Result<bool, StoreError> {
    replace(store, key, value, CasToken::Never)
}

/// Puts `value` under `key` unless there was a write since `token`, without another attempt. Whether there was none.
///
/// # Errors
/// The store cannot be reached.
#[allow(clippy::disallowed_methods, reason = "it is tried once")]
pub fn replace(store: &dyn Store, key: &str, value: &[u8], token: CasToken) -> Result<bool, StoreError> {
    match store.compare_and_swap(key, value, token) {
        Ok(()) => Ok(true),
        Err(SwapError::Conflict) => Ok(false),
        Err(SwapError::Unavailable) => Err(StoreError),
    }
}

/// A counter as it is kept; 0 where there is none, or something else.
pub fn number(value: Option<Vec<u8>>) -> u64 {
    json::from_slice(&value.unwrap_or_default()).unwrap_or_default()
}

// === impl StoreError ===

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the shared store cannot be reached")
    }
}

impl std::error::Error for StoreError {}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::MemoryStore;

    /// A store in which another writer always comes first.
    struct Contended(MemoryStore);

    impl Store for Contended {
        fn read(&self, key: &str) -> Result<Versioned, StoreError> {
            self.0.read(key)
        }

        fn compare_and_swap(&self, _: &str, _: &[u8], _: CasToken) -> Result<(), SwapError> {
            Err(SwapError::Conflict)
        }
    }

    #[test]
    fn a_change_that_loses_the_race_sees_the_winners_value() {
        let store = MemoryStore::default();
        store.put("key", b"1");
        store.before_next_swap(|store| store.put("key", b"2"));
        let mut seen = Vec::new();
        let written = update(&store, "key", &mut |before| {
            seen.extend(before.value.unwrap_or_default());
            Some(b"3".to_vec())
        });
        assert_eq!((written, seen), (Ok(true), b"12".to_vec()));
        assert_eq!(store.read("key").expect("in reach").value, Some(b"3".to_vec()));
    }

    #[test]
    fn a_change_that_decides_against_it_writes_nothing() {
        let store = MemoryStore::default();
        assert_eq!(update(&store, "key", &mut |_| None), Ok(false));
        assert_eq!(store.read("key").expect("in reach").token, CasToken::Never);
    }

    #[test]
    fn a_race_that_is_lost_each_time_has_an_end() {
        let mut tries = 0;
        let end = update(&Contended(MemoryStore::default()), "key", &mut |_| {
            tries += 1;
            Some(Vec::new())
        });
        assert_eq!((end, tries), (Err(StoreError), ATTEMPTS));
    }
}
