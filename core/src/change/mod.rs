//! The one door through which every state changes.
//!
//! An operator's call, a source, a guard, a rollout, a failover, a configuration's `initial` and the outcome of a smoke test
//! are all a [`ChangeRequest`](request::ChangeRequest). [`submit`](submit::submit) decides it by the same rules, brings it
//! about in the store of record, makes it known, and says what became of it. Nothing here knows who asks, or how the answer
//! is shown. Beside this only what a store of record says is taken over, since it was decided here, on another Envoy.

pub mod context;
pub mod error;
pub mod request;
pub mod submit;
