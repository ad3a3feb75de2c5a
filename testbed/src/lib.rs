//! A real Envoy, upstreams and clients that count.
//!
//! The tests, the demo and the benches stand on the same parts, so that what the demo shows is what the tests check.
//! Start reading at [`bootstrap`] (the shipped Envoy configuration, with the ports of this run) and [`envoy`] (a
//! process that runs it); [`upstream`] are model servers that remember what they saw, [`load`] is traffic of which
//! every single answer is kept, [`admin`] speaks the filter's admin API.
//!
//! Everything stays on the loopback interface, asks the kernel for free ports, and ends with the value that owns it.

pub mod admin;
pub mod bootstrap;
pub mod capabilities;
#[cfg(feature = "control-plane")]
pub mod control_plane;
pub mod discovery;
pub mod envoy;
pub mod envoy_gateway;
pub mod etcd;
pub mod fake_clock;
pub mod fleet;
pub mod istiod;
pub mod kube_apiserver;
pub mod load;
pub mod mlflow;
pub mod ports;
pub mod proc;
pub mod prometheus;
pub mod raw;
pub mod registry;
pub mod relay;
pub mod report;
pub mod repository;
pub mod script;
pub mod seen;
pub mod thread;
pub mod upstream;

pub use admin::Admin;
pub use bluegreen_programs::{process, wait};
pub use bootstrap::Bootstrap;
#[cfg(feature = "control-plane")]
pub use control_plane::ControlPlane;
pub use envoy::Envoy;
pub use etcd::Etcd;
pub use fleet::Fleet;
pub use istiod::Istiod;
pub use kube_apiserver::KubeApiServer;
pub use load::Load;
pub use relay::Relay;
pub use upstream::Upstream;
