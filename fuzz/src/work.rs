//! How much work an input causes, in bytes of memory that were asked for. Unlike time it is the same on every machine, and
//! what is quadratic in the input shows in it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what is asked for, and never what is given back.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ASKED_FOR: AtomicUsize = AtomicUsize::new(0);

/// Does `work`, and fails when it asks for more than `base` bytes and `per_byte` for each of the input.
pub fn bounded<T>(input: &[u8], base: usize, per_byte: usize, work: impl FnOnce() -> T) -> T {
    let before = ASKED_FOR.load(Ordering::Relaxed);
    let end = work();
    let asked_for = ASKED_FOR.load(Ordering::Relaxed).wrapping_sub(before);
    let allowed = base + per_byte * input.len();
    assert!(asked_for <= allowed, "{} bytes of input took {asked_for} bytes of memory, {allowed} at most", input.len());
    end
}

// === impl Counting ===

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED_FOR.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED_FOR.fetch_add(size.saturating_sub(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
