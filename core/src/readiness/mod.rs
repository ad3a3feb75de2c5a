//! Whether a colour may get traffic, and whether one may be stopped.
//!
//! [`probe`] and [`smoke`] ask a colour through Envoy's own clusters, [`gate`] decides what has to be asked before a
//! switch, [`hold`] says what still needs a colour, and [`failover`] goes back when a new active colour cannot be reached.

pub mod failover;
pub mod gate;
pub mod hold;
pub mod outgoing;
pub mod probe;
pub mod smoke;
