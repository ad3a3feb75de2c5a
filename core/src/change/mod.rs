//! The one door through which every state changes.

pub mod request;
