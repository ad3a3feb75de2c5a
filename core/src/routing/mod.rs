//! The way of one request: the deployment that it belongs to, and the colour that it goes to.

pub mod incoming;
pub mod matching;
pub mod cookie;
pub mod caching;
pub mod rotation;
pub mod sticky;
pub mod override_header;
pub mod decision;
pub mod worker;
