//! What the executor keeps of flows, calls and streams, and for how long.

use std::rc::Rc;

use bluegreen_core::admin::response::Response;
use bluegreen_core::config::Config;
use bluegreen_core::host::Host;
use bluegreen_core::host::grpc::{GrpcReply, GrpcRequest};
use bluegreen_core::host::http::{HttpReply, HttpRequest};
use bluegreen_core::host::next_tick;
use bluegreen_core::model::name::ClusterName;

use super::*;
use crate::executor::{Executor, Tables};
use crate::grpc::GrpcCallId;
use crate::host::CallId;
use crate::plugin::Plugin;

const NOTHING: Tables = Tables { tasks: 0, http: 0, grpc: 0, streams: 0, sleeps: 0 };

fn configured() -> Config {
    Config::from_bytes(config("", "").as_bytes()).expect("valid")
}

fn executor() -> Rc<Executor> {
    Rc::new(Executor::new(&configured()))
}

fn http() -> HttpRequest {
    HttpRequest::new(&ClusterName::new("g2").expect("valid"), "h", "GET", "/ping", Duration::from_secs(1))
}

fn grpc() -> GrpcRequest {
    let cluster = ClusterName::new("etcd").expect("valid");
    GrpcRequest { cluster, service: "s", method: "m", message: Vec::new(), timeout: Duration::from_secs(1) }
}

const fn answered() -> HttpReply {
    HttpReply::Answered { status: 200, body: Vec::new() }
}

fn ok() -> Response {
    Response { status: 200, headers: Vec::new(), body: Vec::new() }
}

/// A flow that makes a call of each kind, one after the other, and then waits for a tick.
async fn ask_all(host: Rc<Executor>) -> Response {
    host.http(&http()).await;
    host.grpc(&grpc()).await;
    host.grpc_stream(&grpc()).next().await;
    next_tick(&*host).await;
    ok()
}

#[test]
fn a_stream_that_ends_leaves_nothing_behind_whatever_it_waited_for() {
    for steps in 0..4 {
        let (envoy, executor) = (FakeEnvoy::start(), executor());
        let task = executor.serve(1, ask_all(Rc::clone(&executor)));
        if steps > 0 {
            executor.on_http_reply(CallId(envoy.take_sent()[0].token), answered());
            executor.run_stream(1, task);
        }
        if steps > 1 {
            executor.on_grpc_reply(GrpcCallId(envoy.take_grpc()[0].token), GrpcReply::Answered(Vec::new()));
            executor.run_stream(1, task);
        }
        if steps > 2 {
            let token = *envoy.grpc_streams().keys().next().expect("a stream");
            executor.on_grpc_message(crate::grpc::StreamId(token), Vec::new());
            executor.run_stream(1, task);
        }
        let expected = [
            Tables { tasks: 1, http: 1, ..NOTHING },
            Tables { tasks: 1, grpc: 1, ..NOTHING },
            Tables { tasks: 1, streams: 1, ..NOTHING },
            Tables { tasks: 1, sleeps: 1, ..NOTHING },
        ];
        assert_eq!(executor.tables(), expected[steps]);
        executor.end(task);
        assert_eq!(executor.tables(), NOTHING);
        assert!(envoy.grpc_streams().is_empty(), "the host ends it too");
    }
}

#[test]
fn a_late_reply_is_dropped_and_the_tables_do_not_grow() {
    let (envoy, executor) = (FakeEnvoy::start(), executor());
    for context in 1..50 {
        let task = executor.serve(context, ask_all(Rc::clone(&executor)));
        executor.end(task);
        executor.on_http_reply(CallId(envoy.take_sent()[0].token), answered());
        executor.run_root();
        assert!(envoy.take_grpc().is_empty(), "the flow is gone");
        assert_eq!(executor.tables(), NOTHING);
    }
    // Numbers that were never given out.
    executor.on_grpc_reply(GrpcCallId(9_999_999), GrpcReply::NotSent);
    executor.on_grpc_message(crate::grpc::StreamId(9_999_999), vec![1]);
    executor.run_root();
    assert_eq!(executor.tables(), NOTHING);
}

#[test]
fn a_reply_to_a_call_whose_stream_is_gone_changes_nothing() {
    let envoy = FakeEnvoy::start();
    let tokens = format!(r#", "admin": {{"tokens": [{{"name": "a", "role": "operator", "sha256": "{TOKEN_SUM}"}}]}}"#);
    let operator = worker(&envoy, &config(r#", "probe": {"path": "/ping"}"#, &tokens));
    let gone = call(operator, "POST", "/promote");
    gone.send_headers(true);
    let probe = envoy.take_sent().pop().expect("a probe");
    gone.end();
    envoy.reply(&probe, Some("200"), "");
    assert_eq!(cluster(operator, &[]), "b1");
    let next = call(operator, "POST", "/promote");
    next.send_headers(true);
    envoy.reply(&envoy.take_sent()[0], Some("200"), "");
    assert_eq!(next.replies().len(), 1);
}

#[test]
fn in_the_event_of_a_stream_no_other_flow_goes_on() {
    let (envoy, executor) = (FakeEnvoy::start(), executor());
    let [first, second] = [1, 2].map(|context| executor.serve(context, ask_all(Rc::clone(&executor))));
    let sent = envoy.take_sent();
    executor.on_http_reply(CallId(sent[0].token), answered());
    executor.run_stream(2, second);
    assert!(envoy.take_grpc().is_empty(), "a reply to the first would be lost with the second stream");
    executor.run_stream(1, first);
    assert_eq!(envoy.take_grpc().len(), 1);
    executor.on_http_reply(CallId(sent[1].token), answered());
    executor.run_root();
    assert_eq!(envoy.take_grpc().len(), 1, "the root's calls last as long as any");
}

#[test]
fn two_calls_that_a_tick_ends_are_both_answered() {
    let envoy = FakeEnvoy::start();
    let operator = worker(&envoy, &admin());
    let slow = infer(operator, &[]);
    assert_eq!(operate(operator, "POST", "/promote"), 200);
    let drains = [0, 1].map(|_| call(operator, "POST", "/drain?colour=blue"));
    for drain in &drains {
        drain.send_headers(true);
        assert!(drain.replies().is_empty());
    }
    slow.end();
    envoy.advance(Duration::from_secs(1));
    operator.tick();
    for drain in &drains {
        assert_eq!(drain.replies().iter().map(|reply| reply.status).collect::<Vec<_>>(), [200]);
    }
}

#[test]
fn a_plugin_that_is_dropped_takes_its_flows_with_it() {
    let envoy = FakeEnvoy::start();
    let document = r#", "runtime": {"cluster": "a"}, "etcd": {"cluster": "etcd"}"#;
    let config = Config::from_bytes(config(r#", "probe": {"path": "/ping"}"#, document).as_bytes()).expect("valid");
    let plugin = Plugin::new(&config);
    plugin.executor.run_root();
    plugin.executor.tick();
    plugin.executor.run_root();
    assert!(plugin.executor.tables().http > 0 && !envoy.take_grpc().is_empty());
    let (executor, context) = (Rc::downgrade(&plugin.executor), Rc::downgrade(&plugin.context));
    drop(plugin);
    assert!(executor.upgrade().is_none() && context.upgrade().is_none());
}
