//! Child processes, none of which outlives the process that started it.
//!
//! [`run`] is for a child whose end is waited for, [`managed`] for one that runs beside this process. Both are a
//! [`group`], which ends in one of three ways: its owner drops it; a signal ends this process, and the handler in
//! [`group`] ends all that runs; or this process is killed, and Linux delivers the signal that the child asked for with
//! `PR_SET_PDEATHSIG`.
//!
//! The crate `shared_child` below lets one thread wait for a child while another one ends it, without a process id that
//! somebody else has by then.

mod group;
mod log;
mod managed;
mod run;

pub use group::{LastSignal, end_all_on_signals, wait_for_exit_if_ending};
pub use log::Log;
pub use managed::ManagedProcess;
pub use run::{answer, exists, find, quiet, show, stream};
