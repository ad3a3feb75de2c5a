//! A wall clock that is set: whatever waits for time to pass goes on, and nothing is hurried.

use std::time::Duration;

use anyhow::{Result, ensure};
use bluegreen_testbed::{Bootstrap, wait};
use bluegreen_tests::{Environment, IRIS};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(20);

const HOUR: i64 = 3_600;
const CENTURY: i64 = 100 * 365 * 24 * HOUR;

async fn until_probed_again(env: &Environment, after: &str) -> Result<()> {
    let before = env.green.probes();
    let what = format!("probes go on after {after}");
    wait::until_within(PATIENCE, &what, || async { Ok(env.green.probes()) }, |count| *count >= before + 6).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_switches_and_a_bake_window_go_on_when_the_wall_clock_jumps() -> Result<()> {
    let bootstrap = Bootstrap::shipped()?.deployment(IRIS, |iris| {
        iris["probe"] = json!({"path": "/ping", "interval": "250ms", "timeout": "2s"});
        iris["bake"] = json!({"for": "10m"});
    });
    let env = Environment::start(bootstrap, |options| options.concurrency(2).fake_clock()).await?;
    let admin = env.envoy.admin()?;
    until_probed_again(&env, "the start").await?;
    admin.promote(IRIS).await?;
    let mut revision = 1;
    let set = |env: &Environment| env.envoy.log().lines_with("the clock was set").len();
    for seconds in [HOUR, -HOUR, CENTURY, 0, -CENTURY / 2, 0] {
        let (was_set, after) = (set(&env), format!("{seconds} s"));
        env.envoy.set_clock(seconds)?;
        until_probed_again(&env, &after).await?;
        let count = || async { Ok(set(&env)) };
        wait::until_within(PATIENCE, &format!("{after} is noticed"), count, |count| *count > was_set).await?;
        let state = env.deployment().await?;
        ensure!(state.probe("green")?.healthy, "{after}: {state:?}");
        let drained = admin.drain(IRIS, "blue", "1s").await?;
        ensure!(drained.status == 409 && drained.text.contains("way back until"), "{after}: {drained:?}");
        revision += 1;
        let state = env.patch(&[("shadow_percent", &revision.to_string())]).await?;
        ensure!(state.revision == revision, "{after}: {state:?}");
        env.load()?.at_most(20).run().await.ensure_no_failures()?;
    }
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_glitch_of_the_wall_clock_leaves_no_trace() -> Result<()> {
    let bootstrap = Bootstrap::shipped()?.deployment(IRIS, |iris| {
        iris["probe"] = json!({"path": "/ping", "interval": "250ms", "timeout": "2s"});
        iris["rollout"] = json!({"steps": [{"canary_percent": 10, "hold": "10m", "min_requests": 0}]});
    });
    let env = Environment::start(bootstrap, |options| options.concurrency(2).fake_clock()).await?;
    env.envoy.admin()?.rollout(IRIS, "start").await?;
    for seconds in [CENTURY, -CENTURY / 2, HOUR, -HOUR] {
        env.envoy.set_clock(seconds)?;
        let during = env.patch(&[("shadow_percent", "1")]).await?;
        env.envoy.set_clock(0)?;
        until_probed_again(&env, &format!("a glitch of {seconds} s")).await?;
        let state = env.patch(&[("shadow_percent", "0")]).await?;
        let is_running = state.rollout.as_ref().is_some_and(|rollout| rollout.phase == "running");
        ensure!(is_running && state.canary_percent == 10.0, "{seconds} s: {during:?} {state:?}");
    }
    ensure!(env.envoy.log().lines_with("the clock was set").is_empty(), "{:?}", env.envoy.log().tail(20));
    env.ensure_no_trap()
}
