//! The queues through which the VMs of a `vm_id` reach each other: proxy-wasm's shared queues.
//!
//! This calls the host itself rather than through the SDK, which panics when an operator's list of capabilities leaves these
//! calls out: then the workers are told of nothing, and take writes over when they tick.

#![allow(unsafe_code, reason = "the three calls of the proxy-wasm ABI 0.2.1 that the SDK does not make safely")]

use std::ptr::{null_mut, slice_from_raw_parts_mut};

use bluegreen_core::host::queue::{QueueToken, Queues};

/// Shared queues.
pub struct SharedQueues;

/// The status of a call that was carried out.
const OK: u32 = 0;

#[cfg_attr(target_arch = "wasm32", link(wasm_import_module = "env"))]
unsafe extern "C" {
    fn proxy_register_shared_queue(name: *const u8, name_size: usize, token: *mut u32) -> u32;

    fn proxy_enqueue_shared_queue(token: u32, value: *const u8, value_size: usize) -> u32;

    fn proxy_dequeue_shared_queue(token: u32, value: *mut *mut u8, value_size: *mut usize) -> u32;
}

// === impl SharedQueues ===

impl Queues for SharedQueues {
    fn register(&self, name: &str) -> Option<QueueToken> {
        let mut token = 0;
        // SAFETY: the name outlives the call, and the host writes through the pointer before it returns.
        let status = unsafe { proxy_register_shared_queue(name.as_ptr(), name.len(), &mut token) };
        (status == OK).then_some(QueueToken(token))
    }

    fn enqueue(&self, QueueToken(queue): QueueToken, message: &[u8]) {
        // SAFETY: the message outlives the call, and the host copies it. A queue that is gone has no reader to miss it.
        let _: u32 = unsafe { proxy_enqueue_shared_queue(queue, message.as_ptr(), message.len()) };
    }

    fn dequeue(&self, QueueToken(queue): QueueToken) -> Option<Vec<u8>> {
        let (mut value, mut size) = (null_mut(), 0);
        // SAFETY: the host writes through the pointers before it returns.
        let status = unsafe { proxy_dequeue_shared_queue(queue, &mut value, &mut size) };
        if status != OK || value.is_null() {
            return None;
        }
        // SAFETY: the host got these bytes from this module's allocator (the SDK's `malloc`, which makes a boxed slice of
        // exactly this size) and handed them over.
        let bytes = unsafe { Box::from_raw(slice_from_raw_parts_mut(value, size)) };
        Some(bytes.into_vec())
    }
}
