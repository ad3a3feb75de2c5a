//! A drain answers when nothing is in flight to a colour, and that count is exact, however requests end.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bluegreen_testbed::admin::Deployment;
use bluegreen_testbed::bootstrap::elements;
use bluegreen_testbed::raw::Connection;
use bluegreen_testbed::script::{Reply, Script};
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Bootstrap, wait};
use bluegreen_tests::admin::ensure_conflict;
use bluegreen_tests::request::{admin_call, get};
use bluegreen_tests::{Environment, IRIS, PATH};
use serde_json::{Value, json};

/// The refusal of a drain.
const NOT_DRAINED: &str = "not-drained";

/// The shipped configuration with this bake window, or none.
fn baking(window: Option<&str>) -> Result<Bootstrap> {
    let bake = window.map_or(Value::Null, |window| json!({"for": window}));
    Ok(Bootstrap::shipped()?.deployment(IRIS, |iris| iris["bake"] = bake.clone()))
}

/// An answer that has begun and is as long as the test wants it.
pub async fn stream(env: &Environment, script: &mut Script) -> Result<(Connection, Reply)> {
    let mut client = Connection::open(env.envoy.traffic()?).await?;
    client.write(get(PATH, &[])).await?;
    let mut body = script.next().await?.answer(200, &[("content-type", "text/event-stream")])?;
    body.piece("data: 1\n\n").await?;
    client.until("data: 1").await?;
    Ok((client, body))
}

/// Waits until the API shows so many requests under way, for blue.
pub async fn until_in_flight(env: &Environment, expected: u64) -> Result<Deployment> {
    let what = format!("{expected} in flight");
    let fits = |state: &Deployment| state.colour("blue").is_ok_and(|blue| blue.in_flight == expected);
    env.until(&what, fits).await
}

/// Waits until so many calls of the admin API are under way.
async fn until_calls(env: &Environment, expected: u64) -> Result<()> {
    let name = "http.bluegreen_admin.downstream_rq_active";
    wait::until(name, || env.envoy.stat(name), |seen| *seen == expected).await?;
    Ok(())
}

/// The shipped configuration with a limit of Envoy's own on the route.
fn limited(limit: &str) -> Result<Bootstrap> {
    const ROUTE: &str = "/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes/0/route";
    Ok(Bootstrap::shipped()?.edit(|tree| {
        for listener in elements(tree, "/static_resources/listeners") {
            if let Some(route) = listener.pointer_mut(ROUTE) {
                route[limit] = json!("0.5s");
            }
        }
    }))
}

#[tokio::test]
async fn the_count_of_streams_under_way_is_exact_while_they_leave_break_and_end() -> Result<()> {
    let env = Environment::new(4).await?;
    let mut script = env.blue.script();
    let client_leaves = stream(&env, &mut script).await?;
    until_in_flight(&env, 1).await?;
    let upstream_resets = stream(&env, &mut script).await?;
    let ends = stream(&env, &mut script).await?;
    until_in_flight(&env, 3).await?;
    drop(client_leaves.0);
    until_in_flight(&env, 2).await?;
    upstream_resets.1.break_off();
    until_in_flight(&env, 1).await?;
    ends.1.end();
    until_in_flight(&env, 0).await?;
    // And with a server that closes the connection instead of answering.
    env.blue.behave(Behaviour::Close);
    let report = env.load()?.connections(3).at_most(3).run().await;
    ensure!(report.failures().len() == 3, "{report:?}");
    until_in_flight(&env, 0).await?;
    env.ensure_no_trap()
}

#[tokio::test]
async fn a_request_that_envoy_times_out_is_not_in_flight_any_more() -> Result<()> {
    for limit in ["timeout", "idle_timeout"] {
        let env = Environment::with(2, limited(limit)?).await?;
        let mut script = env.blue.script();
        let broken_off = stream(&env, &mut script).await?;
        until_in_flight(&env, 0).await?;
        env.blue.behave(Behaviour::Hang);
        let report = env.load()?.connections(3).at_most(3).run().await;
        ensure!(report.failures().len() == 3, "{limit}: {report:?}");
        until_in_flight(&env, 0).await?;
        drop(broken_off);
        env.ensure_no_trap()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_leave_in_mid_stream_over_http_2_are_not_counted_any_more() -> Result<()> {
    let env = Environment::new(2).await?;
    let mut script = env.blue.script();
    let load = env.load()?.http2().connections(3).at_most(3).start();
    let mut bodies = Vec::new();
    for _ in 0..3 {
        let mut body = script.next().await?.answer(200, &[])?;
        body.piece("half").await?;
        bodies.push(body);
    }
    until_in_flight(&env, 3).await?;
    drop(load);
    until_in_flight(&env, 0).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_a_slow_stream_and_answers_when_it_has_ended() -> Result<()> {
    let env = Environment::with(4, baking(None)?).await?;
    let admin = env.envoy.admin()?;
    let mut script = env.blue.script();
    let (mut client, mut body) = stream(&env, &mut script).await?;
    let state = admin.promote(IRIS).await?;
    ensure!(!state.colour("blue")?.safe_to_stop && state.colour("blue")?.in_flight == 1, "{state:?}");
    let load = env.load()?.start();

    let drain = tokio::spawn(async move { admin.drain(IRIS, "blue", "15s").await });
    until_calls(&env, 1).await?;
    for number in 2..6 {
        body.piece(format!("data: {number}\n\n")).await?;
        client.until(&format!("data: {number}")).await?;
        load.more(50).await?;
        ensure!(!drain.is_finished(), "the drain did not wait: {:?}", drain.await??);
    }
    let ended = Instant::now();
    body.end();
    let state = drain.await??.deployment()?;
    let blue = state.colour("blue")?;
    ensure!(blue.safe_to_stop && blue.in_flight == 0, "{state:?}");
    println!("the drain answered {:?} after the stream's end", ended.elapsed());

    // What the answer promised.
    drop(env.blue);
    load.more(200).await?;
    load.stop().await.ensure_no_failures()
}

#[tokio::test]
async fn a_drain_that_waiting_cannot_help_says_at_once_what_holds_the_colour() -> Result<()> {
    let env = Environment::with(2, baking(Some("10m"))?).await?;
    let admin = env.envoy.admin()?;
    // Two minutes: an answer within the client's patience of twenty seconds did not wait.
    let held =
        async |colour: &str, words: &str| ensure_conflict(&admin.drain(IRIS, colour, "2m").await?, NOT_DRAINED, words);
    held("blue", "it is the active colour").await?;
    admin.patch(IRIS, &[("canary_percent", "10")]).await?.accepted()?;
    held("green", "it gets 10 % of the traffic").await?;
    admin.patch(IRIS, &[("canary_percent", "0"), ("shadow_percent", "5")]).await?.accepted()?;
    held("green", "it gets copies of 5 % of the traffic").await?;
    admin.patch(IRIS, &[("shadow_percent", "0")]).await?.accepted()?;
    admin.promote(IRIS).await?;
    held("blue", "it is kept as the way back until 2").await?;
    held("green", "it is the active colour").await
}

#[tokio::test]
async fn a_drain_that_ran_out_of_time_says_what_is_still_in_flight() -> Result<()> {
    let env = Environment::with(2, baking(None)?).await?;
    let admin = env.envoy.admin()?;
    let mut script = env.blue.script();
    let first = stream(&env, &mut script).await?;
    let second = stream(&env, &mut script).await?;
    admin.promote(IRIS).await?;
    let asked = Instant::now();
    ensure_conflict(&admin.drain(IRIS, "blue", "1s").await?, NOT_DRAINED, "2 requests are in flight")?;
    ensure!(asked.elapsed() >= Duration::from_secs(1), "it gave up after {:?}", asked.elapsed());
    drop(first.0);
    until_in_flight(&env, 1).await?;
    ensure_conflict(&admin.drain(IRIS, "blue", "0s").await?, NOT_DRAINED, "1 request is in flight")?;
    second.1.end();
    admin.drain(IRIS, "blue", "10s").await?.accepted()?;
    Ok(())
}

#[tokio::test]
async fn the_bake_window_holds_the_former_colour_and_then_ends() -> Result<()> {
    let env = Environment::with(2, baking(Some("3s"))?).await?;
    let admin = env.envoy.admin()?;
    let asked = Instant::now();
    let state = admin.promote(IRIS).await?;
    ensure!(!state.colour("blue")?.safe_to_stop, "{state:?}");
    ensure_conflict(&admin.drain(IRIS, "blue", "100ms").await?, NOT_DRAINED, "it is kept as the way back until")?;
    // Longer than the window: this one waits for its end.
    let state = admin.drain(IRIS, "blue", "15s").await?.deployment()?;
    let waited = asked.elapsed();
    ensure!(state.colour("blue")?.safe_to_stop, "{state:?}");
    ensure!(waited >= Duration::from_secs(3), "a window of 3 s was over after {waited:?}");
    let green = state.colour("green")?;
    ensure!(!green.safe_to_stop, "the active colour is safe to stop: {state:?}");
    // The window is about stopping; the way back stays open.
    admin.rollback(IRIS).await?;
    Ok(())
}

#[tokio::test]
async fn a_caller_who_leaves_during_a_drain_harms_nothing() -> Result<()> {
    let env = Environment::with(1, baking(None)?).await?;
    let admin = env.envoy.admin()?;
    let mut script = env.blue.script();
    let (_client, body) = stream(&env, &mut script).await?;
    admin.promote(IRIS).await?;
    let request = admin_call("POST", "/bluegreen/v1/deployments/iris/drain?colour=blue&timeout=1m", "", b"");
    let mut leaving = Vec::new();
    for _ in 0..3 {
        let mut connection = Connection::open(env.envoy.listener(bluegreen_testbed::envoy::ADMIN)?).await?;
        connection.write(&request).await?;
        leaving.push(connection);
    }
    let patient = admin.clone();
    let patient = tokio::spawn(async move { patient.drain(IRIS, "blue", "15s").await });
    until_calls(&env, 4).await?;
    drop(leaving);
    until_calls(&env, 1).await?;
    body.end();
    let state = patient.await??.deployment()?;
    ensure!(state.colour("blue")?.safe_to_stop, "{state:?}");
    until_calls(&env, 0).await?;
    env.load()?.at_most(50).run().await.ensure_no_failures()?;
    env.ensure_no_trap()
}

#[tokio::test]
async fn a_cluster_that_another_deployment_serves_from_is_not_safe_to_stop() -> Result<()> {
    let bootstrap = Bootstrap::shipped()?.plugin(|plugin| {
        let mut rose = plugin["deployments"][IRIS].clone();
        rose["match"] = json!({"path_prefix": "/rose"});
        plugin["deployments"]["rose"] = rose;
        plugin["deployments"][IRIS]["bake"] = Value::Null;
    });
    let env = Environment::with(2, bootstrap).await?;
    env.envoy.admin()?.promote(IRIS).await?;
    let reply = env.envoy.admin()?.drain(IRIS, "blue", "1s").await?;
    ensure_conflict(&reply, "not-drained", "deployment rose has the same cluster as its blue: there it is the active")?;
    ensure!(!env.deployment().await?.colour("blue")?.safe_to_stop, "blue is said to be safe to stop");
    env.envoy.admin()?.promote("rose").await?;
    env.envoy.admin()?.rollback("rose").await?;
    ensure!(env.deployment().await?.active == "green", "iris was changed too");
    Ok(())
}
