//! Reading JSON: configuration, records, and what others answer.
//!
//! The bytes become one tree, [`Json`], by the one parser there is. Types read themselves out of it by [`FromJson`], which
//! `#[derive(FromJson)]` writes from the attributes that serde's `Serialize` has too. serde's own way is a state machine for
//! each type and each kind of input, some ten times as much code in the module; its names of Rust types tell a user nothing.

mod tree;
mod error;
mod read;
mod derived;

pub use bluegreen_derive::FromJson;

#[doc(hidden)]
pub use self::derived::{Fields, Shape, Variant, chosen, converted};
pub use self::error::FieldError;
pub use self::read::{FromJson, by_serde, from_slice, from_str, from_value};
pub use self::tree::{Json, Text, parse};
