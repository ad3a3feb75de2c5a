//! The words that everything else is made of: each a type that is valid once it exists.

#[cfg(feature = "schema")]
pub mod schema;

pub mod sorted_map;
pub mod one_line;
pub mod colour;
pub mod percent;
pub mod split;
pub mod name;
pub mod identity;
pub mod author;
pub mod time;
pub mod address;
