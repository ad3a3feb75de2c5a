//! A rollout in a fleet is one rollout: each step is taken once, whichever Envoy takes it, and no Envoy is needed for the next.

use anyhow::{Result, ensure};
use bluegreen_testbed::Bootstrap;
use bluegreen_testbed::load::Running;
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_tests::IRIS;
use bluegreen_tests::environment::ROLLOUT_PATIENCE;
use serde_json::json;

use crate::environment::Environment;

const ENVOYS: usize = 3;

/// A fleet with a plan of three steps and a guard, and the load at each Envoy.
async fn under_load(hold: &str) -> Result<(Environment, Vec<Running>)> {
    let step = |share: u64, answers: u64| json!({"canary_percent": share, "hold": hold, "min_requests": answers});
    let bootstrap = Bootstrap::shipped()?.deployment(IRIS, |iris| {
        iris["rollout"] = json!({"steps": [step(5, 5), step(20, 20), step(50, 50)]});
        iris["guard"] = json!({});
    });
    let env = Environment::with(ENVOYS, bootstrap).await?;
    let loads = loads(&env)?;
    for load in &loads {
        load.more(20).await?;
    }
    Ok((env, loads))
}

/// A load at each Envoy.
fn loads(env: &Environment) -> Result<Vec<Running>> {
    let start = |index| Ok(env.load(index)?.connections(2).rate(100.0).lasting(ROLLOUT_PATIENCE).start());
    (0..ENVOYS).map(start).collect()
}

/// The shares that the changes brought, oldest first, and the source of each.
async fn shares(env: &Environment, index: usize) -> Result<Vec<(String, f64)>> {
    let history = env.history(index).await?;
    Ok(history.into_iter().rev().map(|change| (change.source, change.to.canary_percent)).collect())
}

/// What a rollout of the plan leaves in the history, when it was let alone.
fn every_step_once() -> Vec<(String, f64)> {
    [("admin", 5.0), ("rollout", 20.0), ("rollout", 50.0), ("rollout", 0.0)].map(|(by, to)| (by.to_owned(), to)).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_is_taken_once_and_the_others_go_on_when_the_envoy_that_began_is_killed() -> Result<()> {
    let (mut env, mut loads) = under_load("1s").await?;
    env.fleet.admin(0)?.rollout(IRIS, "start").await?;
    env.until_rollout(1, "the second step", |rollout| rollout.step == 2).await?;
    // Its clients lose what was under way, which says nothing about the others.
    drop(loads.remove(0).stop().await);
    env.fleet.envoys[0].kill()?;
    for index in 1..ENVOYS {
        let promoted = env.until_rollout(index, "promoted", |rollout| rollout.phase == "promoted").await?;
        ensure!((promoted.active.as_str(), promoted.canary_percent) == ("green", 0.0), "{promoted:?}");
        ensure!(shares(&env, index).await? == every_step_once(), "{:?}", shares(&env, index).await?);
    }
    for load in loads {
        load.more(20).await?;
        load.stop().await.ensure_no_failures()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_outlives_the_restart_of_every_envoy() -> Result<()> {
    let (mut env, mut loads) = under_load("1s").await?;
    env.fleet.admin(0)?.rollout(IRIS, "start").await?;
    env.until_rollout(0, "the second step", |rollout| rollout.step == 2).await?;
    for load in loads.drain(..) {
        drop(load.stop().await);
    }
    for envoy in &mut env.fleet.envoys {
        envoy.kill()?;
    }
    for index in 0..ENVOYS {
        env.fleet.envoys[index].restart().await?;
        env.fleet.until_ready(index).await?;
    }
    // The position was kept, and so was the evidence: both are in etcd. Without traffic the step waits for its answers.
    let state = env.until_rollout(0, "the step in force", |rollout| rollout.step >= 2).await?;
    ensure!(state.rollout.is_some_and(|rollout| rollout.phase == "running"), "it did not survive");
    let loads = self::loads(&env)?;
    for index in 0..ENVOYS {
        env.until_rollout(index, "promoted", |rollout| rollout.phase == "promoted").await?;
        ensure!(shares(&env, index).await? == every_step_once(), "{:?}", shares(&env, index).await?);
    }
    for load in loads {
        load.stop().await.ensure_no_failures()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breach_that_one_envoy_sees_rolls_all_envoys_back() -> Result<()> {
    let (env, _loads) = under_load("1h").await?;
    env.fleet.admin(0)?.rollout(IRIS, "start").await?;
    for index in 0..ENVOYS {
        env.until_rollout(index, "the first step", |rollout| rollout.step == 1).await?;
    }
    env.green.behave(Behaviour::Status(500));
    for index in 0..ENVOYS {
        let back = env.until_rollout(index, "rolled back", |rollout| rollout.phase == "rolled_back").await?;
        ensure!((back.active.as_str(), back.canary_percent) == ("blue", 0.0), "{back:?}");
        let newest = env.newest_change(index).await?;
        ensure!(newest.source == "guard", "{newest:?}");
    }
    Ok(())
}
