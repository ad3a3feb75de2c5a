//! A rollback is possible once after each promote, and costs no request.

use anyhow::{Result, ensure};
use bluegreen_testbed::admin::Deployment;
use bluegreen_testbed::discovery::Watched;
use bluegreen_testbed::{Admin, wait};
use bluegreen_tests::admin::ensure_conflict;
use bluegreen_tests::{Environment, IRIS, Switch};
use serde_json::json;

/// How many times to go there and back.
const PAIRS: usize = 200;

/// How many requests pass between two switches.
const BETWEEN: u64 = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_promotes_each_rolled_back_lose_no_request_and_no_later_one_sees_the_old_colour() -> Result<()> {
    let env = Environment::new(4).await?;
    let load = env.load()?.connections(8).start();
    load.more(BETWEEN).await?;
    let mut switches = Vec::new();
    for _ in 0..PAIRS {
        // New connections, hence any of the workers.
        switches.push(Switch::timed(env.envoy.admin()?.promote(IRIS)).await?);
        load.more(BETWEEN).await?;
        switches.push(Switch::timed(env.envoy.admin()?.rollback(IRIS)).await?);
        load.more(BETWEEN).await?;
    }
    let report = load.stop().await;
    report.ensure_no_failures()?;
    report.ensure_truthful()?;
    let certain = Switch::ensure_all_hold(&switches, &report)?;
    println!("{} requests, {certain} of them between two switches, {:?}", report.records.len(), report.colours());
    ensure!(certain > switches.len() * 10, "only {certain} of {} requests prove anything", report.records.len());

    let state = env.deployment().await?;
    ensure!((state.revision, state.active.as_str()) == (400, "blue"), "{state:?}");
    let history = env.history().await?;
    ensure!(history.iter().all(|change| !change.forced && change.source == "admin"), "{history:?}");
    env.ensure_no_trap()
}

/// A second rollback is refused, and moves nothing.
async fn ensure_at_the_end(admin: &Admin) -> Result<()> {
    let before = admin.deployment(IRIS).await?;
    let refusal = admin.rolling_back(IRIS).send().await?;
    ensure_conflict(&refusal, "nothing-to-roll-back-to", "nothing to roll back to")?;
    let forced = admin.rolling_back(IRIS).force().send().await?;
    ensure_conflict(&forced, "nothing-to-roll-back-to", "nothing to roll back to")?;
    let after = admin.deployment(IRIS).await?;
    ensure!(after.settings() == before.settings(), "{before:?} became {after:?}");
    Ok(())
}

#[tokio::test]
async fn a_second_rollback_is_refused_also_with_force_until_a_promote_came_between() -> Result<()> {
    let env = Environment::new(2).await?;
    let admin = env.envoy.admin()?;
    ensure_at_the_end(&admin).await?;
    for _ in 0..3 {
        admin.promote(IRIS).await?;
        let state = admin.rollback(IRIS).await?;
        ensure!(state.active == "blue", "{state:?}");
        ensure_at_the_end(&admin).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_works_after_a_configuration_was_delivered_in_between() -> Result<()> {
    let mut watched = Watched::ecds()?;
    let env = Environment::with(2, watched.bootstrap()).await?;
    let load = env.load()?.start();
    load.more(20).await?;
    env.envoy.admin()?.promote(IRIS).await?;
    for version in ["2a", "2b"] {
        let deliver = |iris: &mut serde_json::Value| iris["colours"]["green"]["version"] = json!(version);
        watched.deliver(|resource| resource.deployment(IRIS, deliver))?;
        let look = || async { env.deployment().await };
        let has = |state: &Deployment| state.colour("green").is_ok_and(|green| green.version == version);
        wait::until(version, look, has).await?;
        load.more(20).await?;
    }
    let state = env.envoy.admin()?.rollback(IRIS).await?;
    // Each delivery is a change of what is behind green.
    ensure!((state.revision, state.active.as_str()) == (4, "blue"), "{state:?}");
    let report = env.load()?.connections(8).at_most(40).run().await;
    ensure!(report.count("blue") == 40, "after the rollback: {:?}", report.colours());
    load.stop().await.ensure_no_failures()?;
    env.ensure_no_trap()
}
