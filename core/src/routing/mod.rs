//! The way of one request: the deployment that it belongs to, and the colour that it goes to.

pub mod cookie;
pub mod decision;
pub mod matching;
pub mod rotation;
pub mod sticky;
