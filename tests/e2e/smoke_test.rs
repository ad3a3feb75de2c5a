//! The smoke test finds a candidate that gives wrong answers before clients do.

use std::time::Duration;

use anyhow::{Result, ensure};
use bluegreen_testbed::Bootstrap;
use bluegreen_testbed::admin::Reply;
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_tests::admin::ensure_conflict;
use bluegreen_tests::{Environment, IRIS, PATH};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

/// The refusal for want of a pass.
const MISSING: &str = "smoke-test-missing";

/// An environment whose deployment has this `smoke_test` section.
async fn environment(smoke_test: Value) -> Result<Environment> {
    Environment::with(2, Bootstrap::shipped()?.deployment(IRIS, |iris| iris["smoke_test"] = smoke_test.clone())).await
}

/// A prediction of which the test upstreams' answer is like `{"colour": "green"}`.
fn predicts(colour: &str) -> Value {
    json!({"path": PATH, "body": {"inputs": [[1]]}, "expect": {"json": {"pointer": "/colour", "equals": colour}}})
}

/// Fails unless the test was carried out and ended like this; returns what it said.
fn ensure_verdict(reply: &Reply, passed: bool) -> Result<Value> {
    let verdict = reply.accepted()?.json()?;
    ensure!(verdict["passed"] == passed, "passed is not {passed}: {verdict:#}");
    Ok(verdict)
}

#[tokio::test]
async fn a_wrong_value_in_the_answer_fails_the_test_and_each_request_has_its_result() -> Result<()> {
    let section = json!({"requests": [
        {"method": "GET", "path": "/version"},
        {"path": PATH, "expect": {"json": {"pointer": "/colour", "type": "string", "length": 5}}},
        predicts("blue"),
        {"path": PATH, "expect": {"json": {"pointer": "/predictions/0"}}},
        {"path": PATH, "expect": {"status": 404}},
    ]});
    let env = environment(section).await?;
    let verdict = ensure_verdict(&env.envoy.admin()?.test(IRIS).await?, false)?;
    let results = verdict["results"].as_array().cloned().unwrap_or_default();
    let passed: Vec<_> = results.iter().map(|result| result["passed"].as_bool().unwrap_or_default()).collect();
    ensure!(passed == [true, true, false, false, false], "{verdict:#}");
    for (result, words) in results.iter().zip([
        "answered 200",
        "answered 200",
        "expected \"blue\" at \"/colour\", found \"green\"",
        "expected a value at \"/predictions/0\"",
        "expected status 404",
    ]) {
        let detail = result["detail"].as_str().unwrap_or_default();
        ensure!(detail.contains(words) && result["status"] == 200, "{words:?} is not in {result:#}");
    }
    let about = (&verdict["candidate"], &verdict["version"], &verdict["revision"]);
    ensure!(about == (&json!("green"), &json!("2"), &json!(0)), "{verdict:#}");
    ensure!(verdict["valid_until"].is_null(), "a failed test is valid: {verdict:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_required_test_keeps_traffic_from_the_candidate_until_it_has_passed() -> Result<()> {
    let env = environment(json!({"requests": [predicts("green")]})).await?;
    let admin = env.envoy.admin()?;
    let load = env.load()?.start();
    load.more(20).await?;
    ensure_conflict(&admin.promoting(IRIS).send().await?, MISSING, "it has not passed the required smoke test")?;
    ensure_conflict(&admin.patch(IRIS, &[("active", "green")]).await?, MISSING, "force=true")?;
    ensure_conflict(&admin.patch(IRIS, &[("canary_percent", "1")]).await?, MISSING, "POST …/test first")?;
    ensure!(env.green.requests() == 0, "{} requests reached green", env.green.requests());

    let verdict = ensure_verdict(&admin.test(IRIS).await?, true)?;
    ensure!(verdict["valid_until"].is_string(), "{verdict:#}");
    admin.patch(IRIS, &[("canary_percent", "10")]).await?.accepted()?;
    load.more(20).await?;
    admin.promote(IRIS).await?;
    load.more(20).await?;
    // The way back has served before and needs no test; the next way forward does.
    admin.rollback(IRIS).await?;
    load.more(20).await?;
    ensure_conflict(&admin.promoting(IRIS).send().await?, MISSING, "it has not passed")?;
    let report = load.stop().await;
    report.ensure_no_failures()?;
    report.ensure_truthful()
}

#[tokio::test]
async fn a_pass_expires() -> Result<()> {
    let section = json!({"requests": [predicts("green")], "valid_for": "400ms"});
    let env = environment(section).await?;
    let admin = env.envoy.admin()?;
    ensure_verdict(&admin.test(IRIS).await?, true)?;
    // The time under test, not a synchronisation.
    sleep_until(Instant::now() + Duration::from_millis(450)).await;
    let refusal = admin.promoting(IRIS).send().await?;
    ensure_conflict(&refusal, MISSING, "it passed the smoke test more than 400ms ago")
}

#[tokio::test]
async fn a_failed_test_revokes_the_pass() -> Result<()> {
    let env = environment(json!({"requests": [predicts("green")]})).await?;
    let admin = env.envoy.admin()?;
    ensure_verdict(&admin.test(IRIS).await?, true)?;
    env.green.behave(Behaviour::Status(500));
    let verdict = ensure_verdict(&admin.test(IRIS).await?, false)?;
    let detail = verdict["results"][0]["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains("answered 500") && detail.contains("expected status 200"), "{verdict:#}");
    env.green.behave(Behaviour::Answer);
    ensure_conflict(&admin.promoting(IRIS).send().await?, MISSING, "it has not passed")?;
    ensure_verdict(&admin.test(IRIS).await?, true)?;
    admin.promote(IRIS).await?;
    Ok(())
}

#[tokio::test]
async fn the_requests_go_to_the_candidate_only_as_they_are_configured() -> Result<()> {
    let section = json!({"requests": [
        {"path": PATH, "headers": {"x-tenant": "a"}, "body": {"inputs": [[1]]}},
        {"method": "PUT", "path": "/explain?verbose=1", "body": "1,2"},
    ]});
    let env = environment(section).await?;
    let admin = env.envoy.admin()?;
    for (requests, expected) in [(1_u64, (0, 2)), (2, (0, 4))] {
        ensure_verdict(&admin.test(IRIS).await?, true)?;
        let seen = (env.blue.requests(), env.green.requests());
        ensure!(seen == expected, "after {requests} tests blue and green got {seen:?}");
    }
    admin.promote(IRIS).await?;
    ensure_verdict(&admin.test(IRIS).await?, true)?;
    let seen = (env.blue.requests(), env.green.requests());
    ensure!(seen == (2, 4), "green is active now, blue and green got {seen:?}");

    let sent = env.blue.seen();
    let lines: Vec<_> = sent.iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect();
    ensure!(lines == ["POST /invocations", "PUT /explain?verbose=1"], "{lines:?}");
    let (first, second) = (&sent[0], &sent[1]);
    for (name, value) in [("x-tenant", "a"), ("content-type", "application/json"), ("content-length", "16")] {
        ensure!(first.values(name) == [value.as_bytes()], "{name}: {first:?}");
    }
    ensure!(second.values("content-length") == [b"3"] && second.values("content-type").is_empty(), "{second:?}");
    Ok(())
}

#[tokio::test]
async fn a_candidate_that_is_gone_fails_the_test_and_without_a_section_there_is_none() -> Result<()> {
    let mut env = environment(json!({"requests": [predicts("green")]})).await?;
    env.green.stop().await;
    let verdict = ensure_verdict(&env.envoy.admin()?.test(IRIS).await?, false)?;
    let detail = verdict["results"][0]["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains("answered 503"), "{verdict:#}");
    let bare = self::environment(Value::Null).await?;
    ensure_conflict(&bare.envoy.admin()?.test(IRIS).await?, "no-smoke-test", "no smoke_test section")
}
