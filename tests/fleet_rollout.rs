//! A rollout in a fleet is one rollout: whoever conducts it, each step is taken once, and no Envoy is needed for the next.

use std::time::Duration;

use anyhow::{Result, ensure};
use bluegreen_testbed::admin::{Admin, Deployment, Rollout};
use bluegreen_testbed::load::Running;
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Bootstrap, Fleet, Load, Upstream, wait};
use bluegreen_tests::{IRIS, PATH};
use serde_json::json;

const ENVOYS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// A fleet with a plan of three steps and a guard, under load at each Envoy.
struct Stage {
    fleet: Fleet,
    loads: Vec<Running>,
    green: Upstream,
    _blue: Upstream,
}

// === impl Stage ===

impl Stage {
    async fn new(hold: &str) -> Result<Self> {
        let (blue, green) = (Upstream::start("blue").await?, Upstream::start("green").await?);
        let step = |share: u64, answers: u64| json!({"canary_percent": share, "hold": hold, "min_requests": answers});
        let bootstrap = Bootstrap::shipped()?
            .with_cluster("blue", blue.address())
            .with_cluster("green", green.address())
            .deployment(IRIS, |iris| {
                iris["rollout"] = json!({"steps": [step(5, 5), step(20, 20), step(50, 50)]});
                iris["guard"] = json!({});
            });
        let fleet = Fleet::start(ENVOYS, &bootstrap, |options| options).await?;
        let mut loads = Vec::new();
        for envoy in &fleet.envoys {
            let load = Load::new(envoy.traffic()?, PATH).connections(2).rate(100.0).lasting(PATIENCE).start();
            load.more(20).await?;
            loads.push(load);
        }
        Ok(Self { fleet, loads, green, _blue: blue })
    }

    fn admin(&self, index: usize) -> Result<Admin> {
        self.fleet.admin(index)
    }

    async fn until(&self, index: usize, what: &str, accept: impl Fn(&Rollout) -> bool) -> Result<Deployment> {
        let admin = self.admin(index)?;
        let accept = |state: &Deployment| state.rollout.as_ref().is_some_and(&accept);
        wait::until_within(PATIENCE, what, || admin.deployment(IRIS), accept).await
    }

    /// The shares that the changes brought, oldest first, and who brought each.
    async fn shares(&self, index: usize) -> Result<Vec<(String, f64)>> {
        let history = self.admin(index)?.history(IRIS).await?;
        Ok(history.into_iter().rev().map(|change| (change.source, change.to.canary_percent)).collect())
    }
}

/// What a rollout of the plan leaves in the history, when it was let alone.
fn every_step_once() -> Vec<(String, f64)> {
    [("admin", 5.0), ("rollout", 20.0), ("rollout", 50.0), ("rollout", 0.0)].map(|(by, to)| (by.to_owned(), to)).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_is_taken_once_and_the_others_go_on_when_the_envoy_that_began_is_killed() -> Result<()> {
    let mut stage = Stage::new("1s").await?;
    stage.admin(0)?.rollout(IRIS, "start").await?;
    stage.until(1, "the second step", |rollout| rollout.step == 2).await?;
    // Its clients lose what was under way, which says nothing about the others.
    drop(stage.loads.remove(0).stop().await);
    stage.fleet.envoys[0].kill()?;
    for index in 1..ENVOYS {
        let promoted = stage.until(index, "promoted", |rollout| rollout.phase == "promoted").await?;
        ensure!((promoted.active.as_str(), promoted.canary_percent) == ("green", 0.0), "{promoted:?}");
        ensure!(stage.shares(index).await? == every_step_once(), "{:?}", stage.shares(index).await?);
    }
    for load in stage.loads {
        load.more(20).await?;
        load.stop().await.ensure_no_failures()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_outlives_the_restart_of_every_envoy() -> Result<()> {
    let mut stage = Stage::new("1s").await?;
    stage.admin(0)?.rollout(IRIS, "start").await?;
    stage.until(0, "the second step", |rollout| rollout.step == 2).await?;
    for load in stage.loads.drain(..) {
        drop(load.stop().await);
    }
    for envoy in &mut stage.fleet.envoys {
        envoy.kill()?;
    }
    for index in 0..ENVOYS {
        stage.fleet.envoys[index].restart().await?;
        stage.fleet.until_ready(index).await?;
    }
    // The position was kept, and the evidence begins anew: without traffic the step waits for its answers.
    let state = stage.until(0, "the step in force", |rollout| rollout.step >= 2).await?;
    ensure!(state.rollout.is_some_and(|rollout| rollout.phase == "running"), "it did not survive");
    for envoy in &stage.fleet.envoys {
        stage.loads.push(Load::new(envoy.traffic()?, PATH).connections(2).rate(100.0).lasting(PATIENCE).start());
    }
    for index in 0..ENVOYS {
        stage.until(index, "promoted", |rollout| rollout.phase == "promoted").await?;
        ensure!(stage.shares(index).await? == every_step_once(), "{:?}", stage.shares(index).await?);
    }
    for load in stage.loads {
        load.stop().await.ensure_no_failures()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breach_that_one_envoy_sees_takes_the_candidate_back_at_all() -> Result<()> {
    let stage = Stage::new("1h").await?;
    stage.admin(0)?.rollout(IRIS, "start").await?;
    for index in 0..ENVOYS {
        stage.until(index, "the first step", |rollout| rollout.step == 1).await?;
    }
    stage.green.behave(Behaviour::Status(500));
    for index in 0..ENVOYS {
        let back = stage.until(index, "rolled back", |rollout| rollout.phase == "rolled_back").await?;
        ensure!((back.active.as_str(), back.canary_percent) == ("blue", 0.0), "{back:?}");
        let newest = stage.admin(index)?.history(IRIS).await?.into_iter().next();
        ensure!(newest.as_ref().is_some_and(|change| change.source == "guard"), "{newest:?}");
    }
    Ok(())
}
