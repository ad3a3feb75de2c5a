//! Shadowing: a share of the active colour's requests is copied to the candidate, and no client ever notices.

use std::time::Duration;

use anyhow::{Result, ensure};
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_tests::{Environment, IRIS};
use reqwest::Method;

#[tokio::test]
async fn exactly_the_shadow_share_is_copied_and_every_answer_comes_from_the_active_colour() -> Result<()> {
    let env = Environment::new(2).await?;
    let mut copies = 0;
    let mut sent = 0;
    for (percent, expected) in [("0", 0), ("100", 200), ("25", 50), ("0.5", 1)] {
        env.patch(&[("shadow_percent", percent)]).await?;
        let report = env.load()?.connections(1).at_most(200).run().await;
        report.ensure_no_failures()?;
        report.ensure_truthful()?;
        ensure!(report.count("blue") == 200, "at {percent} %: {:?}", report.colours());
        copies += expected;
        sent += 200;
        env.green.wait_for_requests(copies).await?;
        let seen = (env.blue.requests(), env.green.requests());
        ensure!(
            seen == (sent, copies),
            "at {percent} %: {seen:?} requests at blue and green, not {:?}",
            (sent, copies)
        );
    }
    env.ensure_no_trap()
}

#[tokio::test]
async fn a_candidate_that_fails_hangs_or_is_gone_does_not_touch_the_clients() -> Result<()> {
    let mut env = Environment::new(2).await?;
    env.patch(&[("shadow_percent", "100")]).await?;
    for behaviour in [Behaviour::Status(500), Behaviour::Close, Behaviour::Hang] {
        env.green.behave(behaviour);
        let report = env.load()?.at_most(60).request_timeout(Duration::from_secs(5)).run().await;
        report.ensure_no_failures()?;
        ensure!(report.count("blue") == 60, "{:?}", report.colours());
    }
    env.green.stop().await;
    let report = env.load()?.at_most(60).run().await;
    report.ensure_no_failures()?;
    report.ensure_truthful()
}

#[tokio::test]
async fn a_copy_has_the_same_path_and_body_as_its_original() -> Result<()> {
    let env = Environment::new(2).await?;
    env.patch(&[("shadow_percent", "100")]).await?;
    let mut script = env.green.script();
    let body = "x".repeat(100_000);
    let client = reqwest::Client::builder().no_proxy().build()?;
    let call = client.request(Method::POST, env.envoy.url("/invocations?n=1")?).body(body.clone());
    let answer = call.send().await?;
    ensure!(answer.status() == 200, "{answer:?}");
    let mut copy = script.next().await?;
    let mut copied = Vec::new();
    while let Some(piece) = copy.piece().await? {
        copied.extend(piece);
    }
    ensure!((copy.head.method.as_str(), copy.head.path.as_str()) == ("POST", "/invocations?n=1"), "{:?}", copy.head);
    ensure!(copied == body.as_bytes(), "{} of {} bytes were copied", copied.len(), body.len());
    Ok(())
}

#[tokio::test]
async fn requests_that_went_to_the_candidate_anyway_are_not_copied() -> Result<()> {
    let env = Environment::new(2).await?;
    env.patch(&[("shadow_percent", "100"), ("canary_percent", "40")]).await?;
    let report = env.load()?.connections(1).at_most(100).run().await;
    report.ensure_no_failures()?;
    ensure!(report.count("green") == 40, "{:?}", report.colours());
    // 40 of its own and 60 copies of blue's.
    env.green.wait_for_requests(100).await?;
    let seen = (env.blue.requests(), env.green.requests());
    ensure!(seen == (60, 100), "{seen:?} requests at blue and green");
    Ok(())
}

#[tokio::test]
async fn after_a_switch_the_copies_go_the_other_way() -> Result<()> {
    let env = Environment::new(2).await?;
    env.patch(&[("shadow_percent", "50")]).await?;
    let state = env.envoy.admin()?.promote(IRIS).await?;
    ensure!(state.shadow_percent == 50.0, "a promote keeps the shadow share: {state:?}");
    let report = env.load()?.connections(1).at_most(100).run().await;
    ensure!(report.count("green") == 100, "{:?}", report.colours());
    env.blue.wait_for_requests(50).await?;
    let seen = (env.blue.requests(), env.green.requests());
    ensure!(seen == (50, 100), "{seen:?} requests at blue and green");
    Ok(())
}
