//! The way of one request: the deployment that it belongs to, and the colour that it goes to.

pub mod cookie;
pub mod matching;
pub mod rotation;
pub mod sticky;
pub mod wish;
pub mod decision;
pub mod versions;
pub mod worker;
