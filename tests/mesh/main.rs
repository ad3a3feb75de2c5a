//! Real control planes: Kubernetes' API server, and the meshes that configure Envoys.
//!
//! `cargo xtask test --suite mesh` runs this; it builds them from their sources, once.

mod cluster;
mod image;
mod local;
mod manifests;
mod replicas;

mod admin_tokens;
mod applied;
mod envoy_gateway;
mod istio;
mod objects;
mod serving;
mod store;
