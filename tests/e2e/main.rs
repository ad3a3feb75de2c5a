//! The module in a real Envoy: one module here for each promise.

mod admin_api;
mod admin_refusals;
mod canary;
mod capabilities;
mod configuration;
mod control_plane;
mod crash;
mod drain;
mod failover;
mod gateway;
mod guard;
mod istio;
mod kubernetes;
mod manifests;
mod observability;
mod protocols;
mod readiness;
mod registry;
mod rollout;
mod runtime;
mod shadow;
mod shipped;
mod smoke_test;
mod spoofing;
mod switching;
mod way_back;
