//! The admin API, version 1: what operators and scripts call to see and change deployments.
//!
//! [`routes`] is the table of all endpoints, [`handlers`] has one function for each. A call is taken in two steps, because
//! Envoy hands a request over in two: [`Api::receive`](api::Api::receive) judges the head (who calls, what, with which
//! query), and [`Call::answer`](api::Call::answer) acts once the body, if there is one, has arrived. Nothing else in this
//! crate knows HTTP statuses or shows a state.

mod problems;

mod auth;
mod browser;
mod if_match;
mod parameters;

mod rollout_view;
mod views;

pub mod response;

mod openapi;

mod places;
pub mod refusals;

pub mod webhook;

mod request;

mod handlers;

mod routes;

pub mod api;
