//! What is lost when something dies: Envoy itself, or the filter's VM.
//!
//! The filter is built not to trap, so a small module that traps on demand stands in for one with a bug. What Envoy
//! does then is decided by one line of configuration; these tests are why the shipped line is the one it is
//! (docs/decisions/0015-reload.md).

use anyhow::{Result, ensure};
use bluegreen_testbed::discovery::Watched;
use bluegreen_testbed::raw::{self, Connection};
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Bootstrap, repository, wait};
use bluegreen_tests::request::get;
use bluegreen_tests::{Environment, IRIS, PATH, compile_fixture};
use serde_json::{Value, json};
use std::time::Duration;
use tempfile::TempDir;

/// The shipped choice.
const SHIPPED: &str = "FAIL_RELOAD";

/// The deprecated switch.
const FAIL_OPEN_BOOL: &str = "fail_open: true";

/// The values of the field that replaces it.
const NEWER: [&str; 3] = [SHIPPED, "FAIL_OPEN", "FAIL_CLOSED"];

/// How many requests are in flight at once.
const CONNECTIONS: usize = 8;

/// The shipped configuration with the module that traps, under a failure policy.
fn trapping(policy: &str, folder: &TempDir) -> Result<Bootstrap> {
    let shipped = Bootstrap::read(&repository::root().join("envoy/envoy.yaml"))?;
    let shipped = shipped.with_free_ports().with_wasm(&compile_fixture("trap.wat", folder.path())?);
    Ok(shipped.wasm_filters(|filter| {
        filter["config"]["fail_open"] = Value::Null;
        if policy == FAIL_OPEN_BOOL {
            filter["config"]["fail_open"] = json!(true);
            filter["config"]["failure_policy"] = Value::Null;
        } else {
            filter["config"]["failure_policy"] = json!(policy);
        }
    }))
}

/// What became of two requests that were in flight when another one made the VM trap.
#[derive(Debug)]
struct InFlight {
    waiting: String,
    streaming: String,
    trapping: u16,
    next: u16,
}

async fn trap_with_requests_in_flight(policy: &str) -> Result<InFlight> {
    let folder = TempDir::new()?;
    let env = Environment::with(1, trapping(policy, &folder)?).await?;
    let address = env.envoy.traffic()?;
    let mut script = env.green.script();

    let mut waiting = Connection::open(address).await?;
    waiting.write(get(PATH, &[])).await?;
    let mut waiting_upstream = script.next().await?;
    let mut streaming = Connection::open(address).await?;
    streaming.write(get(PATH, &[])).await?;
    let mut streaming_upstream = script.next().await?;
    let mut body = streaming_upstream.answer(200, &[])?;
    body.piece("first ").await?;
    streaming.until("first ").await?;

    let trapping = raw::exchange(address, get(PATH, &[("x-trap", b"1")])).await?.status;

    // Where Envoy has reset the exchange already, the upstream's side fails; the client's side tells.
    if let Ok(body) = waiting_upstream.answer(200, &[]) {
        body.end();
    }
    if body.piece("last").await.is_ok() {
        body.end();
    }
    let waiting = waiting.answer().await.map_or_else(|_| "broken off".to_owned(), |answer| answer.status.to_string());
    let ending = streaming.until("0\r\n\r\n").await;
    let streaming = if ending.is_ok() { "complete" } else { "broken off" }.to_owned();
    env.green.behave(Behaviour::Answer);
    // A reload takes its time; what follows is about the state that lasts.
    let next = wait::until(
        "an answer after the trap",
        || async { Ok(raw::exchange(address, get(PATH, &[])).await?.status) },
        |status| *status == 200 || policy == "FAIL_CLOSED",
    );
    Ok(InFlight { waiting, streaming, trapping, next: next.await? })
}

#[tokio::test]
async fn a_trap_under_the_deprecated_switch_ends_no_request_not_even_the_one_that_caused_it() -> Result<()> {
    let seen = trap_with_requests_in_flight(FAIL_OPEN_BOOL).await?;
    let all_alive = seen.waiting == "200" && seen.streaming == "complete" && seen.trapping == 200 && seen.next == 200;
    ensure!(all_alive, "{seen:?}");
    Ok(())
}

#[tokio::test]
async fn a_trap_under_any_newer_policy_ends_every_request_of_the_worker() -> Result<()> {
    for policy in NEWER {
        let seen = trap_with_requests_in_flight(policy).await?;
        let all_dead = seen.waiting == "503" && seen.streaming == "broken off" && seen.trapping == 503;
        ensure!(all_dead, "{policy}: {seen:?}; if Envoy has learned to spare them, say so in the docs");
    }
    Ok(())
}

/// Requests that are lost of the 400 or so after a trap. The state in force is green, and blue, the seed, is stopped.
async fn lost_after_a_promote(policy: &str) -> Result<usize> {
    let folder = TempDir::new()?;
    let mut env = Environment::with(2, trapping(policy, &folder)?).await?;
    env.blue.stop().await;
    env.green.behave(Behaviour::Slow(Duration::from_millis(10)));
    let load = env.load()?.connections(CONNECTIONS).start();
    // A VM that is younger than the back-off waits for it.
    load.more(400).await?;
    raw::exchange(env.envoy.traffic()?, get(PATH, &[("x-trap", b"1")])).await?;
    load.more(400).await?;
    Ok(load.stop().await.failures().len())
}

#[tokio::test]
async fn a_trap_after_a_promote_loses_what_is_in_flight_and_not_all_that_the_worker_gets_from_then_on() -> Result<()> {
    let [shipped, open] = [lost_after_a_promote(SHIPPED).await?, lost_after_a_promote(FAIL_OPEN_BOOL).await?];
    println!("lost under {SHIPPED}: {shipped}, under {FAIL_OPEN_BOOL}: {open}");
    ensure!(shipped <= 2 * CONNECTIONS, "{SHIPPED} lost {shipped} requests");
    ensure!(open > 100, "{FAIL_OPEN_BOOL} lost only {open} requests: it loses less, ship it");
    Ok(())
}

#[tokio::test]
async fn a_worker_that_trapped_comes_back_to_what_the_filter_decides() -> Result<()> {
    let folder = TempDir::new()?;
    let watched = Watched::ecds_with(&compile_fixture("trap.wat", folder.path())?)?;
    let env = Environment::with(1, watched.bootstrap()).await?;
    let address = env.envoy.traffic()?;
    let colour = || async { Ok(raw::exchange(address, get(PATH, &[])).await?.body) };
    let seen = colour().await?;
    ensure!(seen.contains("green"), "the module sends everything to green, but: {seen}");
    raw::exchange(address, get(PATH, &[("x-trap", b"1")])).await?;
    wait::until("the filter to be back", colour, |seen| seen.contains("green")).await?;
    let seen = env.blue.requests();
    ensure!(seen == 0, "{seen} requests went to the seeded colour");
    Ok(())
}

#[tokio::test]
async fn every_shipped_file_has_the_shipped_policy() -> Result<()> {
    for file in [
        "envoy/envoy.yaml",
        "envoy/ecds/bluegreen.yaml",
        "envoy/mlflow/envoy.yaml",
        "envoy/compose/bluegreen-local.yaml",
        "envoy/compose/bluegreen-mlflow.yaml",
        "envoy/compose/bluegreen-fleet.yaml",
    ] {
        let filters = Bootstrap::read(&repository::root().join(file))?.filters();
        ensure!(!filters.is_empty(), "{file} has no wasm filter");
        for filter in filters {
            let config = &filter["config"];
            let base = &config["reload_config"]["backoff"]["base_interval"];
            let is_shipped = config["failure_policy"] == SHIPPED && base == "0.1s" && config["fail_open"].is_null();
            ensure!(is_shipped, "{file}: {config:#}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_envoy_that_was_killed_serves_the_initial_state_again() -> Result<()> {
    let mut env = Environment::new(2).await?;
    env.envoy.admin()?.promote(IRIS).await?;
    let report = env.load()?.at_most(50).run().await;
    report.ensure_no_failures()?;
    ensure!(report.count("green") == 50, "after the promote: {:?}", report.colours());

    env.envoy.kill()?;
    env.envoy.restart().await?;

    let report = env.load()?.at_most(50).run().await;
    report.ensure_no_failures()?;
    ensure!(report.count("blue") == 50, "after the restart: {:?}", report.colours());
    let state = env.deployment().await?;
    ensure!((state.revision, state.active.as_str()) == (0, "blue"), "after the restart: {state:?}");
    let history = env.history().await?;
    ensure!(history.is_empty(), "after the restart: {history:?}");
    Ok(())
}
