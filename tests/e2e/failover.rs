//! Failover: a freshly promoted colour that does not answer is replaced by the former one, and by nothing else.

use anyhow::{Result, ensure};
use bluegreen_testbed::Bootstrap;
use bluegreen_testbed::admin::Deployment;
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_tests::{Environment, IRIS};
use serde_json::{Value, json};

/// How many failures in a row lead back.
const AFTER: usize = 5;

/// How many clients send at once, each one request after the other.
const CONNECTIONS: usize = 8;

/// An environment with green freshly promoted, a failover as given, and blue known to be healthy.
async fn promoted(failover: Value, bake: &str) -> Result<Environment> {
    let bootstrap = Bootstrap::shipped()?.deployment(IRIS, |iris| {
        iris["failover"] = failover.clone();
        iris["bake"] = json!({"for": bake});
        iris["probe"] = json!({"path": "/ping", "interval": "250ms", "timeout": "1s", "unhealthy_after": 2});
    });
    let env = Environment::with(4, bootstrap).await?;
    until_probed(&env, "blue", true).await?;
    env.envoy.admin()?.promote(IRIS).await?;
    Ok(env)
}

/// A failover after [`AFTER`] failures.
fn on() -> Value {
    json!({"after": AFTER})
}

async fn until_probed(env: &Environment, colour: &str, healthy: bool) -> Result<()> {
    let fits = |state: &Deployment| state.probe(colour).is_ok_and(|probe| probe.healthy == healthy);
    env.until(&format!("{colour} healthy: {healthy}"), fits).await?;
    Ok(())
}

/// Many more failures than would lead back, and green is still the active colour.
async fn ensure_stays(env: &Environment) -> Result<()> {
    let report = env.load()?.connections(CONNECTIONS).at_most(60).run().await;
    ensure!(report.failures().len() == 60 && report.count("blue") == 0, "{:?}", report.colours());
    let state = env.deployment().await?;
    ensure!(
        (state.revision, state.active.as_str()) == (1, "green"),
        "it failed over: {:?}",
        env.newest_change().await?
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_green_that_dies_right_after_its_promote_fails_a_few_requests_before_failover_to_blue() -> Result<()> {
    let mut env = promoted(on(), "1m").await?;
    let load = env.load()?.connections(CONNECTIONS).start();
    load.more(100).await?;
    env.green.stop().await;
    env.until("blue", |state| state.active == "blue").await?;
    load.more(200).await?;
    let after = env.load()?.connections(CONNECTIONS).at_most(100).run().await;
    after.ensure_no_failures()?;
    ensure!(after.count("blue") == 100, "{:?}", after.colours());

    let report = load.stop().await;
    let failed = report.failures();
    println!("{} of {} requests failed", failed.len(), report.records.len());
    let most = AFTER + CONNECTIONS;
    let outcomes: Vec<_> = failed.iter().map(|record| &record.outcome).collect();
    ensure!((AFTER..=most).contains(&failed.len()), "{} failed, not {AFTER} to {most}: {outcomes:#?}", failed.len());

    let change = env.newest_change().await?;
    let seen = (change.revision, change.source.as_str(), change.by.as_str(), change.to.active.as_str());
    ensure!(seen == (2, "failover", "failover", "blue"), "{change:?}");
    ensure!(change.reason.contains("requests in a row did not reach green (last: upstream_reset"), "{change:?}");
    let line = env.envoy.log().wait_for("source=failover").await?;
    ensure!(line.contains("active=green->blue") && line.contains("did not reach green"), "{line}");
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_there_is_no_second_one() -> Result<()> {
    let mut env = promoted(on(), "1m").await?;
    env.green.stop().await;
    env.load()?.connections(CONNECTIONS).at_most(40).run().await;
    let change = env.newest_change().await?;
    ensure!(change.source == "failover", "{change:?}");
    // Now blue dies too, and green, which has come back, would be healthy.
    env.green.listen().await?;
    until_probed(&env, "green", true).await?;
    env.blue.stop().await;
    let report = env.load()?.connections(CONNECTIONS).at_most(40).run().await;
    ensure!(report.failures().len() == 40, "{:?}", report.colours());
    let refusal = env.envoy.admin()?.rolling_back(IRIS).send().await?;
    ensure!(refusal.status == 409, "{refusal:?}");
    // An operator decides.
    env.envoy.admin()?.promote(IRIS).await?;
    env.load()?.at_most(40).run().await.ensure_no_failures()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_failover_section_there_is_no_failover() -> Result<()> {
    let mut env = promoted(Value::Null, "1m").await?;
    env.green.stop().await;
    ensure_stays(&env).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_waits_while_blue_is_unhealthy_too() -> Result<()> {
    let mut env = promoted(on(), "1m").await?;
    env.blue.stop().await;
    until_probed(&env, "blue", false).await?;
    env.green.stop().await;
    ensure_stays(&env).await?;
    env.blue.listen().await?;
    until_probed(&env, "blue", true).await?;
    env.load()?.connections(1).at_most(1).run().await;
    env.load()?.at_most(40).run().await.ensure_no_failures()?;
    let change = env.newest_change().await?;
    ensure!(change.source == "failover", "{change:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_bake_window_there_is_no_failover() -> Result<()> {
    let mut env = promoted(on(), "300ms").await?;
    env.envoy.admin()?.drain(IRIS, "blue", "15s").await?.accepted()?;
    env.green.stop().await;
    ensure_stays(&env).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_servers_own_503_causes_no_failover() -> Result<()> {
    let env = promoted(on(), "1m").await?;
    env.green.behave(Behaviour::Status(503));
    ensure_stays(&env).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_that_are_not_in_a_row_cause_no_failover() -> Result<()> {
    let mut env = promoted(on(), "1m").await?;
    let one = env.load()?.connections(1);
    for _ in 0..5 {
        env.green.stop().await;
        let report = one.clone().at_most(4).run().await;
        ensure!(report.failures().len() == 4, "{report:?}");
        env.green.listen().await?;
        one.clone().at_most(1).run().await.ensure_no_failures()?;
    }
    let state = env.deployment().await?;
    ensure!(state.active == "green", "it failed over: {:?}", env.newest_change().await?);
    Ok(())
}
