//! The programs around the filter: cargo, Envoy, etcd, MLflow, tools. Fetched or built once, started, watched and ended.
//!
//! Modules in the order of their imports, each of which uses only those before it: what cannot be had ([`unavailable`]),
//! where things are ([`checkout`]), how long work is told ([`progress`]), waiting for a condition ([`wait`]), child
//! processes ([`process`]); then what brings a program here: Debian's [`packages`], what is made once and kept
//! ([`tool`]), [`cargo_tool`], [`go`] and [`python`]; the compilers for wasm32 ([`toolchain`]) and for static programs ([`musl`]), and what runs its tests
//! ([`wasm_bindgen`]); at last the programs themselves, [`envoy`], [`etcd`], [`kubernetes`], [`istiod`], [`envoy_gateway`], [`definitions`] of their kinds, [`mlflow`], [`schemathesis`], [`valgrind`] and [`compose`], and all that it takes to run the filter ([`prepared`]). [`task`] is how a program of this workspace begins and ends.

pub mod unavailable;

pub mod checkout;
pub mod progress;
pub mod wait;

pub mod process;

pub mod packages;
pub mod tool;

pub mod cargo_tool;
pub mod go;
pub mod python;

pub mod toolchain;
pub mod musl;
pub mod wasm_bindgen;

pub mod envoy;
pub mod etcd;
pub mod kubernetes;
pub mod istiod;
pub mod envoy_gateway;
pub mod definitions;
pub mod mlflow;
pub mod schemathesis;
pub mod valgrind;
pub mod compose;

pub mod prepared;
pub mod task;

pub use checkout::Checkout;
pub use progress::Progress;
pub use unavailable::Unavailable;
