//! Shadowing: a share of the active colour's requests is copied to the candidate, and no client ever notices.

use std::time::Duration;

use anyhow::{Result, ensure};
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{raw, wait};
use bluegreen_tests::request::request;
use bluegreen_tests::{Environment, IRIS, PATH};
use reqwest::Method;

/// The requests at green, once no more copies come.
async fn copies(env: &Environment) -> Result<u64> {
    let last = std::cell::Cell::new(u64::MAX);
    let settle = || async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = env.green.requests();
        Ok((last.replace(now) == now, now))
    };
    Ok(wait::until("the last copy", settle, |(is_last, _)| *is_last).await?.1)
}

#[tokio::test]
async fn the_shadow_share_is_copied_and_every_answer_comes_from_the_active_colour() -> Result<()> {
    let env = Environment::new(2).await?;
    for (percent, expected) in [("0", 0..=0), ("100", 200..=200), ("25", 49..=51), ("0.5", 0..=2)] {
        env.patch(&[("shadow_percent", percent)]).await?;
        let before = (env.blue.requests(), env.green.requests());
        let report = env.load()?.connections(1).at_most(200).run().await;
        report.ensure_no_failures()?;
        report.ensure_truthful()?;
        ensure!(report.count("blue") == 200, "at {percent} %: {:?}", report.colours());
        let copies = copies(&env).await? - before.1;
        ensure!(expected.contains(&copies), "at {percent} %: {copies} copies of 200 requests");
        ensure!(env.blue.requests() - before.0 == 200, "at {percent} %: {} requests at blue", env.blue.requests());
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
    let own = report.count("green");
    ensure!((39..=41).contains(&own), "{:?}", report.colours());
    // Its own, and copies of all of blue's.
    env.green.wait_for_requests(100).await?;
    let seen = (env.blue.requests(), env.green.requests());
    ensure!(seen == (100 - own, 100), "{seen:?} requests at blue and green");
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
    env.blue.wait_for_requests(49).await?;
    let seen = (env.blue.requests(), env.green.requests());
    ensure!((49..=51).contains(&seen.0) && seen.1 == 100, "{seen:?} requests at blue and green");
    Ok(())
}

#[tokio::test]
async fn a_copy_is_taken_of_calls_whatever_request_comes_between_two_of_them_and_of_no_preflight() -> Result<()> {
    let env = Environment::new(1).await?;
    env.patch(&[("shadow_percent", "50")]).await?;
    let browser: [(&str, &[u8]); 2] =
        [("origin", b"https://ui.example.com"), ("access-control-request-method", b"POST")];
    for _ in 0..100 {
        raw::exchange(env.envoy.traffic()?, request("OPTIONS", PATH.as_bytes(), &browser)).await?;
        raw::exchange(env.envoy.traffic()?, request("POST", PATH.as_bytes(), &browser)).await?;
    }
    let copied = copies(&env).await?;
    ensure!((49..=51).contains(&copied), "{copied} of 100 calls were copied");
    let preflights = env.green.seen().into_iter().filter(|seen| seen.method == "OPTIONS").count();
    ensure!(preflights == 0, "{preflights} preflights were copied");
    Ok(())
}
