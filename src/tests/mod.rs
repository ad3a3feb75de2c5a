//! The filter as a host sees it: what it calls, what it leaves in headers, metrics and shared data.

mod admin_calls;
mod answers;
mod bounds;
mod cohorts;
mod cookie;
mod copying;
mod executor;
mod failure;
mod fleet;
mod growth;
mod host_calls;
mod many;
mod measuring;
mod naming;
mod neighbours;
mod notify;
mod polling;
mod readiness;
mod rollout;
mod setup;
mod submissions;
mod switching;
mod versions;

use std::time::Duration;

use crate::fake_host::{Exchange, FakeEnvoy, Next, Worker, values};

const TOKEN_SUM: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"; // of "test"
const STATE: &str = "bluegreen/v1/iris";
const COPY: &str = "bluegreen/v1/iris/copy";

/// A configuration for `/invocations`, with more in the deployment and in the document.
fn config(in_deployment: &str, in_document: &str) -> String {
    format!(
        r#"{{"deployments": {{"iris": {{
            "match": {{"path_prefix": "/invocations"}},
            "colours": {{"blue": {{"cluster": "b1", "version": "1"}}, "green": {{"cluster": "g2", "version": "2"}}}}
            {in_deployment}}}}} {in_document}}}"#
    )
}

fn admin() -> String {
    let tokens = format!(r#"{{"name": "alice", "role": "operator", "sha256": "{TOKEN_SUM}"}}"#);
    config("", &format!(r#", "admin": {{"tokens": [{tokens}]}}"#))
}

fn worker(envoy: &FakeEnvoy, configuration: &str) -> Worker {
    envoy.worker(configuration).unwrap_or_else(|| panic!("{:?}", envoy.logs()))
}

/// The cluster that an inference request with more headers goes to.
fn cluster(worker: Worker, more: &[(&str, &[u8])]) -> String {
    let exchange = infer(worker, more);
    let clusters = exchange.request_header("x-bluegreen-cluster");
    exchange.answer("200");
    exchange.end();
    clusters.join(",")
}

fn infer(worker: Worker, more: &[(&str, &[u8])]) -> Exchange {
    let mut headers: Vec<(&str, &[u8])> = vec![(":method", b"POST"), (":path", b"/invocations"), (":authority", b"h")];
    // As early header mutation does.
    headers.push(("x-bluegreen-cluster", b"b1"));
    headers.extend_from_slice(more);
    let exchange = worker.request(&headers);
    assert_eq!(exchange.send_headers(false), Next::Continue);
    exchange
}

fn call(worker: Worker, method: &str, path: &str) -> Exchange {
    let path = format!("/bluegreen/v1/deployments/iris{path}");
    let headers: [(&str, &[u8]); 3] =
        [(":method", method.as_bytes()), (":path", path.as_bytes()), ("authorization", b"Bearer test")];
    worker.request(&headers)
}

/// Makes a call without a body, and gives its status.
fn operate(worker: Worker, method: &str, path: &str) -> u32 {
    let exchange = call(worker, method, path);
    assert_eq!(exchange.send_headers(true), Next::Pause);
    let replies = exchange.replies();
    assert_eq!(replies.len(), 1, "{replies:?}");
    exchange.end();
    replies[0].status
}
