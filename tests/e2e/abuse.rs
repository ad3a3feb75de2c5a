//! Nobody without a token can hurt it, and nobody with one by accident.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::Duration;

use anyhow::{Result, ensure};
use bluegreen_testbed::envoy::ADMIN;
use bluegreen_testbed::raw::{self, Connection};
use bluegreen_testbed::{Bootstrap, wait};
use bluegreen_tests::{Environment, IRIS};
use bytes::Bytes;
use hyper::body::{Body, Frame};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::json;
use tokio::task::JoinSet;

const TOKEN: &str = "demo-operator-token";

/// More than any worker waits for, by far.
const MANY: usize = 3_000;

/// A body of which nothing ever comes.
struct Unfinished;

impl Body for Unfinished {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

/// The address of the admin API.
fn api(env: &Environment) -> Result<SocketAddr> {
    env.envoy.listener(ADMIN)
}

/// The shipped configuration without its limits, as in an Envoy whose owner has none: the filter itself has to hold.
fn without_limits() -> Result<Bootstrap> {
    Ok(Bootstrap::shipped()?.edit(|tree| {
        tree.as_object_mut().and_then(|members| members.remove("overload_manager"));
        // Envoy would close a connection of which it resets many streams, as it does with those that it answers unfinished.
        let patient = json!({"overload.premature_reset_total_stream_count": 1_000_000});
        tree["layered_runtime"] = json!({"layers": [{"name": "patient", "static_layer": patient}]});
        for listener in tree["static_resources"]["listeners"].as_array_mut().into_iter().flatten() {
            let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
            manager["http2_protocol_options"] = json!({
                "max_concurrent_streams": 100_000, "max_outbound_control_frames": 1_000_000, "max_outbound_frames": 1_000_000,
            });
        }
    }))
}

/// Promotes green, lets `attack` do its worst, and has every worker go on with green.
async fn survives<A: Future<Output = Result<()>>>(attack: impl AsyncFnOnce(&Environment) -> Result<A>) -> Result<()> {
    let env = Environment::with(2, without_limits()?).await?;
    env.envoy.admin()?.promote_to(IRIS, "green").await?;
    attack(&env).await?.await?;
    env.ensure_no_trap()?;
    let state = env.deployment().await?;
    ensure!(state.active == "green" && state.in_force.confirmed == state.in_force.of, "{state:?}");
    // Each over a connection of its own, so from all workers.
    for _ in 0..4 {
        let report = env.load()?.connections(8).at_most(200).run().await;
        report.ensure_no_failures()?;
        ensure!(report.count("green") == 200, "{:?}", report.colours());
    }
    let health = env.envoy.admin()?.get("/healthz").await?;
    ensure!(health.status == 200, "{health:?}");
    env.ensure_no_trap()
}

/// A request whose body never ends.
fn unfinished(request: RequestBuilder) -> RequestBuilder {
    request.body(reqwest::Body::wrap(Unfinished))
}

/// One connection, over which a client sends as many requests as it likes at once.
fn one_connection() -> Result<Client> {
    Ok(Client::builder().http2_prior_knowledge().no_proxy().timeout(Duration::from_secs(60)).build()?)
}

/// Sends requests at once, and gives the statuses of their answers.
async fn statuses(requests: impl IntoIterator<Item = RequestBuilder>) -> Result<Vec<StatusCode>> {
    let mut calls: JoinSet<reqwest::Result<StatusCode>> =
        requests.into_iter().map(|request| async { Ok(request.send().await?.status()) }).collect();
    let mut statuses = Vec::new();
    while let Some(call) = calls.join_next().await {
        statuses.push(call??);
    }
    Ok(statuses)
}

fn count(statuses: &[StatusCode], status: u16) -> usize {
    statuses.iter().filter(|seen| seen.as_u16() == status).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_unfinished_calls_without_a_token_on_one_connection_are_answered_at_once() -> Result<()> {
    survives(async |env| {
        let (client, url) = (one_connection()?, format!("http://{}/bluegreen", api(env)?));
        Ok(async move {
            for (path, expected) in [("/healthz", 200), ("/readyz", 200), ("/v1/deployments", 401)] {
                let calls = (0..MANY).map(|_| unfinished(client.get(format!("{url}{path}"))));
                let statuses = statuses(calls).await?;
                ensure!(count(&statuses, expected) == MANY, "{path}: {statuses:?}");
            }
            Ok(())
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_unfinished_calls_of_an_operator_wait_up_to_a_number_and_are_answered_in_parts() -> Result<()> {
    survives(async |env| {
        let (client, url) = (one_connection()?, format!("http://{}/bluegreen/v1/deployments/{IRIS}", api(env)?));
        Ok(async move {
            let calls = (0..MANY).map(|_| unfinished(client.patch(&url).bearer_auth(TOKEN)));
            let statuses = statuses(calls).await?;
            let (late, busy) = (count(&statuses, 408), count(&statuses, 503));
            ensure!((late, busy) == (256, MANY - 256), "{late} waited for 5 s, {busy} were refused");
            Ok(())
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_connections_with_an_unfinished_call_each_leave_every_worker_as_it_was() -> Result<()> {
    survives(async |env| {
        let address = api(env)?;
        Ok(async move {
            let mut connections = Vec::new();
            for _ in 0..MANY {
                let mut connection = Connection::open(address).await?;
                let head = "GET /bluegreen/healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n";
                connection.write(head).await?;
                connections.push(connection);
            }
            for mut connection in connections {
                let answer = connection.answer().await?;
                ensure!(answer.status == 200, "{answer:?}");
            }
            Ok(())
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_drains_with_one_deadline_are_answered_in_parts() -> Result<()> {
    survives(async |env| {
        // Blue is the way back for 10 s, and green the active colour: neither can be drained in time, and both are waited for.
        let (client, url) = (one_connection()?, format!("http://{}/bluegreen/v1/deployments/{IRIS}/drain", api(env)?));
        Ok(async move {
            let drains = (0..600).map(|_| client.post(format!("{url}?colour=blue&timeout=20s")).bearer_auth(TOKEN));
            let statuses = statuses(drains).await?;
            let (drained, busy) = (count(&statuses, 200), count(&statuses, 503));
            ensure!((drained, busy) == (256, 600 - 256), "{drained} were waited for, {busy} refused");
            Ok(())
        })
    })
    .await
}

#[tokio::test]
async fn a_page_of_another_site_has_no_say_and_an_open_api_is_this_machines_alone() -> Result<()> {
    let open = Bootstrap::shipped()?.plugin(|plugin| {
        if !plugin["admin"].is_null() {
            plugin["admin"] = json!({"path_prefix": "/bluegreen", "open": true});
        }
    });
    let env = Environment::with(2, open).await?;
    let address = api(&env)?;
    let promote = |host: &str, more: &str| {
        let head = format!("POST /bluegreen/v1/deployments/{IRIS}/promote?to=green HTTP/1.1\r\nhost: {host}\r\n{more}");
        raw::exchange(address, format!("{head}content-length: 0\r\nconnection: close\r\n\r\n"))
    };
    for (host, more) in [
        ("localhost", "origin: https://example.com\r\ncontent-type: text/plain\r\n"),
        ("localhost", "origin: null\r\n"),
        ("localhost", "sec-fetch-site: cross-site\r\n"),
        ("localhost", "sec-fetch-site: same-site\r\n"),
        ("rebound.example.com", ""),
        ("rebound.example.com", "origin: http://rebound.example.com\r\nsec-fetch-site: same-origin\r\n"),
    ] {
        let answer = promote(host, more).await?;
        ensure!(answer.status == 403, "{host} {more}: {answer:?}");
        env.ensure_untouched(more).await?;
    }
    let answer = promote("localhost:10001", "sec-fetch-site: none\r\n").await?;
    ensure!(answer.status == 200, "{answer:?}");
    for (name, value) in [("x-content-type-options", "nosniff"), ("cache-control", "no-store")] {
        ensure!(answer.headers.contains(&(name.to_owned(), value.to_owned())), "{answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn refused_calls_leave_a_count_and_a_line_with_the_peers_address() -> Result<()> {
    let env = Environment::new(2).await?;
    let (client, url) = (one_connection()?, format!("http://{}/bluegreen/v1/deployments", api(&env)?));
    let guesses = (0..60).map(|guess| client.get(&url).bearer_auth(format!("guess-{guess}")));
    let seen = statuses(guesses).await?;
    ensure!(count(&seen, 401) == 60, "{seen:?}");
    let state = env.deployment().await?;
    ensure!(state.revision == 0, "a right token is answered while others are guessed");
    let line = "a call of the admin API from 127.0.0.1:";
    env.envoy.log().wait_for(line).await?;
    ensure!(env.envoy.log().lines_with(line).len() <= 2, "one line for each worker");
    let counter = "wasmcustom.bluegreen.reason.wrong-token.admin_refused_total";
    wait::until(counter, || env.envoy.stat(counter), |count| *count == 60).await?;
    let shown = env.envoy.prometheus().await?;
    let refused = shown.value("bluegreen_admin_refused_total", &[("reason", "wrong-token")]);
    ensure!(refused == Some(60.0), "{:?}", shown.named("bluegreen_admin"));
    Ok(())
}

#[tokio::test]
async fn a_header_with_underscores_is_refused_on_both_listeners() -> Result<()> {
    let env = Environment::new(1).await?;
    for (address, path) in [(env.envoy.traffic()?, "/invocations"), (api(&env)?, "/bluegreen/healthz")] {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: h\r\nx_bluegreen_colour: green\r\nconnection: close\r\n\r\n");
        let answer = raw::exchange(address, request).await?;
        ensure!(answer.status == 400, "{path}: {answer:?}");
    }
    Ok(())
}
