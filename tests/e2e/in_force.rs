//! An answer says what every worker does, whatever Envoy's stats say.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::bootstrap::elements;
use bluegreen_testbed::thread::StoppedThread;
use bluegreen_testbed::{Bootstrap, Envoy, ports, wait};
use bluegreen_tests::{Environment, IRIS, Switch};
use serde_json::{Value, json};

use crate::drain::{stream, until_in_flight};

/// The shipped configuration in an Envoy that keeps stats as `stats_config` says.
fn with_stats(stats_config: &Value) -> Result<Bootstrap> {
    Ok(Bootstrap::shipped()?.edit(|tree| tree["stats_config"] = stats_config.clone()))
}

/// Ways in which Envoys are told not to keep the filter's stats.
fn without_our_stats() -> [(&'static str, Value); 3] {
    [
        ("reject all", json!({"stats_matcher": {"reject_all": true}})),
        ("exclusion list", json!({"stats_matcher": {"exclusion_list": {"patterns": [{"prefix": "wasmcustom."}]}}})),
        (
            "inclusion list",
            json!({"stats_matcher": {"inclusion_list": {"patterns": [{"prefix": "listener_manager."}]}}}),
        ),
    ]
}

/// Switches back and forth under load.
async fn switch_under_load(env: &Environment, pairs: usize) -> Result<Vec<Duration>> {
    // It goes on until it is stopped, however long the switches take on a busy machine.
    let load = env.load()?.connections(8).lasting(Duration::from_secs(600)).start();
    load.more(30).await?;
    let mut switches = Vec::new();
    for _ in 0..pairs {
        switches.push(Switch::timed(env.envoy.admin()?.promote(IRIS)).await?);
        load.more(20).await?;
        switches.push(Switch::timed(env.envoy.admin()?.rollback(IRIS)).await?);
        load.more(20).await?;
    }
    let report = load.stop().await;
    report.ensure_no_failures()?;
    report.ensure_truthful()?;
    let certain = Switch::ensure_all_hold(&switches, &report)?;
    ensure!(certain > switches.len() * 10, "only {certain} of {} requests prove anything", report.records.len());
    env.ensure_no_trap()?;
    Ok(switches.iter().map(|switch| switch.answered - switch.asked).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_switches_without_stats_fail_no_request_and_no_later_one_sees_the_old_colour() -> Result<()> {
    let [(_, reject_all), ..] = without_our_stats();
    let env = Environment::with(4, with_stats(&reject_all)?).await?;
    let mut took = switch_under_load(&env, 500).await?;
    took.sort_unstable();
    let of = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default();
    println!("{} switches under load: p50 {:?}, p99 {:?}", took.len(), of(50), of(99));
    let state = env.deployment().await?;
    ensure!((state.revision, state.active.as_str()) == (1_000, "blue"), "{state:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_stats_envoy_keeps_a_switch_is_in_force_and_a_drain_waits() -> Result<()> {
    for (case, stats_config) in without_our_stats() {
        let env = Environment::with(2, with_stats(&stats_config)?).await?;
        switch_under_load(&env, 5).await.with_context(|| format!("case {case}"))?;
        // Counts, comparison and requests under way come from the workers.
        let comparison = env.envoy.admin()?.comparison(IRIS).await?;
        let counted = comparison["windows"]["1m"]["colours"]["blue"]["requests"].as_u64();
        ensure!(counted.is_some_and(|count| count > 100), "case {case}: {comparison:#}");
        let mut script = env.blue.script();
        let slow = stream(&env, &mut script).await?;
        until_in_flight(&env, 1).await.with_context(|| format!("case {case}"))?;
        env.envoy.admin()?.promote(IRIS).await?;
        let refused = env.envoy.admin()?.drain(IRIS, "blue", "300ms").await?;
        ensure!(refused.status == 409 && refused.text.contains("1 request is in flight"), "case {case}: {refused:?}");
        drop(slow);
        let drained = env.envoy.admin()?.drain(IRIS, "blue", "30s").await?;
        ensure!(drained.status == 200, "case {case}: {drained:?}");
        env.ensure_no_trap()?;
    }
    Ok(())
}

/// The shipped configuration, each listener on a free port that stays the same.
fn with_fixed_ports() -> Result<Bootstrap> {
    let ports = [ports::free()?, ports::free()?];
    Ok(Bootstrap::shipped()?.edit(|tree| {
        for (listener, port) in elements(tree, "/static_resources/listeners").zip(ports) {
            listener["address"]["socket_address"]["port_value"] = json!(port);
        }
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_a_hot_restart_the_new_process_switches_what_it_serves() -> Result<()> {
    let base_id = std::process::id() % 30_000;
    let bootstrap = with_fixed_ports()?;
    let env = Environment::start(bootstrap, |options| options.concurrency(4).hot_restart(base_id, 0)).await?;
    env.load()?.connections(8).at_most(200).run().await.ensure_no_failures()?;
    env.envoy.admin()?.promote(IRIS).await?;
    let old = env.envoy;
    // The old process lives on, and the new one shows the stats of both.
    let new = Envoy::with(old.bootstrap().clone()).concurrency(4).hot_restart(base_id, 1).start().await?;
    let env = Environment { envoy: new, ..env };
    env.until("the new process", |state| state.revision == 0).await?;
    switch_under_load(&env, 50).await?;
    let mut script = env.blue.script();
    let slow = stream(&env, &mut script).await?;
    until_in_flight(&env, 1).await?;
    env.envoy.admin()?.promote(IRIS).await?;
    let refused = env.envoy.admin()?.drain(IRIS, "blue", "300ms").await?;
    ensure!(refused.status == 409 && refused.text.contains("1 request is in flight"), "{refused:?}");
    drop(slow);
    drop(old);
    Ok(())
}

#[tokio::test]
async fn the_workers_are_shown_with_what_they_have_routed() -> Result<()> {
    let env = Environment::new(2).await?;
    env.load()?.connections(8).at_most(60).run().await.ensure_no_failures()?;
    // Envoy's main thread has the filter too.
    env.until("all workers", |state| state.in_force.of == 3).await?;
    let state = env.envoy.admin()?.promote(IRIS).await?;
    ensure!((state.in_force.revision, state.in_force.confirmed, state.in_force.of) == (1, 3, 3), "{state:?}");
    ensure!(state.workers.iter().map(|worker| worker.routed).sum::<u64>() == 60, "{:?}", state.workers);
    ensure!(state.workers.iter().all(|worker| worker.revision == Some(1)), "{:?}", state.workers);
    let gauges = || async { Ok(env.envoy.prometheus().await?.value("bluegreen_workers", &[("state", "live")])) };
    wait::until("the gauge of live workers", gauges, |live| *live == Some(3.0)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_thread_stands_still_is_named_and_the_change_stands() -> Result<()> {
    let env = Environment::new(4).await?;
    let admin = env.envoy.admin()?;
    let before = env.until("all workers", |state| state.in_force.of == 5).await?;
    ensure!(before.in_force.silent.is_empty(), "{before:?}");
    let stopped = StoppedThread::named(env.envoy.id(), "wrk:worker_2")?;
    // A connection to the thread that stands still is never answered: others are tried until one is.
    let promote = async || {
        for _ in 0..20 {
            let call = admin.promoting(IRIS).send();
            if let Ok(reply) = tokio::time::timeout(Duration::from_secs(4), call).await {
                return reply;
            }
        }
        anyhow::bail!("no worker answered")
    };
    let reply = promote().await?;
    let state = reply.deployment()?;
    ensure!(reply.status == 202 && state.active == "green", "{reply:?}");
    ensure!((state.in_force.confirmed, state.in_force.of, state.in_force.silent.len()) == (4, 5, 1), "{state:?}");
    let silent = state.in_force.silent[0];
    let line = env.envoy.log().wait_for("has not given a sign of life").await?;
    ensure!(line.contains(&format!("worker {silent} ")), "{line}");
    drop(stopped);
    env.envoy.log().wait_for(&format!("worker {silent} gives signs of life again")).await?;
    let state = env.until("all workers again", |state| state.in_force.silent.is_empty()).await?;
    ensure!(state.in_force.confirmed == 5, "{state:?}");
    env.ensure_no_trap()
}

#[tokio::test]
async fn a_listener_with_another_vm_id_is_found_out() -> Result<()> {
    let mut filters = 0;
    let bootstrap = Bootstrap::shipped()?.wasm_filters(|filter| {
        filters += 1;
        filter["config"]["vm_config"]["vm_id"] = json!(format!("vm-{filters}"));
    });
    let env = Environment::with(2, bootstrap).await?;
    env.envoy.admin()?.promote(IRIS).await?;
    env.load()?.at_most(20).run().await.ensure_no_failures()?;
    let patience = Duration::from_secs(60);
    let state = wait::until_within(
        patience,
        "the mistake",
        || env.deployment(),
        |state| state.problem("no-traffic-worker").is_some(),
    )
    .await?;
    let problem = state.problem("no-traffic-worker").with_context(|| format!("{state:?}"))?;
    ensure!(problem.detail.contains("another vm_id"), "{problem:?}");
    env.envoy.log().wait_for("setup=no-traffic-worker").await?;
    let gauge = || async {
        Ok(env.envoy.prometheus().await?.value("bluegreen_setup_problems", &[("problem", "no-traffic-worker")]))
    };
    wait::until("its gauge", gauge, |known| *known == Some(1.0)).await?;
    Ok(())
}
