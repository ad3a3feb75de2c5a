//! The shared store: proxy-wasm shared data, one map for all VMs of a `vm_id` in one Envoy process.
//!
//! This calls the host itself rather than through the SDK, which panics when the host says that shared data is out of
//! reach: that must become a 503 for an operator and the last good state for a request, not the end of the worker.

#![allow(unsafe_code, reason = "the two calls of the proxy-wasm ABI 0.2.1 that the SDK does not make safely")]

use std::ptr::{null_mut, slice_from_raw_parts_mut};

use bluegreen_core::store::{CasToken, Store, StoreError, SwapError, Versioned};

/// Shared data as a store.
pub struct SharedData;

/// A number that no write ever has, so that a swap succeeds only while the key is absent.
const ABSENT: u32 = u32::MAX;

// Statuses of the ABI. Others than these mean that the call was not carried out.
const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const CAS_MISMATCH: u32 = 8;

#[cfg_attr(target_arch = "wasm32", link(wasm_import_module = "env"))]
unsafe extern "C" {
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        value: *mut *mut u8,
        value_size: *mut usize,
        write: *mut u32,
    ) -> u32;

    fn proxy_set_shared_data(key: *const u8, key_size: usize, value: *const u8, value_size: usize, write: u32) -> u32;
}

// === impl SharedData ===

impl Store for SharedData {
    /// 1.2 to 1.5 µs for a small value: the host re-enters the VM to allocate.
    fn read(&self, key: &str) -> Result<Versioned, StoreError> {
        let (mut value, mut size, mut write) = (null_mut(), 0, 0);
        // SAFETY: the key outlives the call, and the host writes through the pointers before it returns.
        let status = unsafe { proxy_get_shared_data(key.as_ptr(), key.len(), &mut value, &mut size, &mut write) };
        match status {
            OK if value.is_null() => Ok(Versioned { value: None, token: CasToken::Write(write) }),
            OK => {
                // SAFETY: the host got these bytes from this module's allocator (the SDK's `malloc`, which makes a boxed
                // slice of exactly this size) and handed them over.
                let bytes = unsafe { Box::from_raw(slice_from_raw_parts_mut(value, size)) };
                Ok(Versioned { value: Some(bytes.into_vec()), token: CasToken::Write(write) })
            }
            NOT_FOUND => Ok(Versioned { value: None, token: CasToken::Never }),
            _ => Err(StoreError),
        }
    }

    fn compare_and_swap(&self, key: &str, value: &[u8], token: CasToken) -> Result<(), SwapError> {
        let write = match token {
            CasToken::Never => ABSENT,
            CasToken::Write(number) => number,
        };
        // SAFETY: key and value outlive the call, and the host copies them.
        match unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), write) } {
            OK => Ok(()),
            CAS_MISMATCH => Err(SwapError::Conflict),
            _ => Err(SwapError::Unavailable),
        }
    }
}
