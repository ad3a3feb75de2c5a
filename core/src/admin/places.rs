//! How many calls may wait at once. Each that does holds a place, which is free again when the call is dropped.

use std::cell::Cell;
use std::rc::Rc;

/// Places, of which there is a fixed number.
pub struct Places(Rc<Cell<usize>>);

/// One of them, held.
pub struct Place(Rc<Cell<usize>>);

// === impl Places ===

impl Places {
    /// So many.
    pub fn new(count: usize) -> Self {
        Self(Rc::new(Cell::new(count)))
    }

    /// Takes a place, if one is free.
    pub fn take(&self) -> Option<Place> {
        self.0.set(self.0.get().checked_sub(1)?);
        Some(Place(Rc::clone(&self.0)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_add(1));
    }
}
