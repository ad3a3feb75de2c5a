//! Whether a colour may get traffic, and whether one may be stopped.
//!
//! [`probe`] and [`smoke_test`] ask a colour through Envoy's own clusters, [`gate`] decides what has to be asked before a
//! switch, [`arrival`] whether requests arrive where they are sent, and [`drain`] says what still needs a colour.

pub mod arrival;
pub mod drain;
pub mod gate;
pub mod probe;
pub mod smoke_test;
