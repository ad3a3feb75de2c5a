//! A candidate that is worse is taken back by the guard, and only such a one; what that costs is counted.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::admin::{Change, Rollout};
use bluegreen_testbed::load::Running;
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Bootstrap, wait};
use bluegreen_tests::{IRIS, Stage};
use serde_json::{Value, json};

/// How long a fault may take to be found.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests a second.
const RATE: f64 = 200.0;

/// A stage whose rollout waits long enough in each step for the guard to decide.
async fn stage(guard: Value, hold: &str) -> Result<Stage> {
    Stage::with(2, bootstrap(guard, hold)?).await
}

fn bootstrap(guard: Value, hold: &str) -> Result<Bootstrap> {
    Ok(Bootstrap::shipped()?.deployment(IRIS, |iris| {
        iris["guard"] = guard.clone();
        iris["rollout"] = json!({"steps": [
            {"canary_percent": 10, "hold": hold, "min_requests": 20},
            {"canary_percent": 50, "hold": hold, "min_requests": 20},
        ]});
    }))
}

fn traffic(stage: &Stage) -> Result<Running> {
    Ok(stage.load()?.connections(8).rate(RATE).lasting(PATIENCE * 2).start())
}

async fn rollout(stage: &Stage) -> Result<Rollout> {
    stage.envoy.admin()?.deployment(IRIS).await?.rollout.context("no rollout")
}

async fn until_phase(stage: &Stage, phase: &str) -> Result<Rollout> {
    let what = format!("a rollout that is {phase}");
    wait::until_within(PATIENCE, &what, || rollout(stage), |rollout| rollout.phase == phase).await
}

async fn newest(stage: &Stage) -> Result<Change> {
    stage.envoy.admin()?.history(IRIS).await?.into_iter().next().context("no history")
}

/// Waits until the guard has taken the candidate back, and says what that took. Afterwards nobody gets green.
async fn taken_back(stage: &Stage, load: Running, fault: Instant, rule: &str) -> Result<()> {
    until_phase(stage, "rolled_back").await?;
    let took = fault.elapsed();
    load.more(50).await?;
    let report = load.stop().await;
    let since = report.begun_after(fault);
    println!(
        "{rule}: {} of {} requests failed, {} went to green, rolled back within {:.1} s",
        since.failures().len(),
        since.records.len(),
        since.count("green"),
        took.as_secs_f64()
    );
    let change = newest(stage).await?;
    let seen = (change.source.as_str(), change.to.active.as_str(), change.to.canary_percent, change.rollout.as_deref());
    ensure!(seen == ("guard", "blue", 0.0, Some("rolled_back")), "{change:?}");
    let comparison = stage.envoy.admin()?.comparison(IRIS).await?;
    let verdict = &comparison["verdict"];
    ensure!(verdict["breached"] == rule, "{verdict:#}");
    let sentence = verdict["sentence"].as_str().context("no sentence")?;
    ensure!(sentence.starts_with("green ") && change.reason == sentence, "{sentence:?}, but {:?}", change.reason);
    let after = stage.load()?.at_most(100).run().await;
    ensure!(after.count("blue") == 100, "{:?}", after.colours());
    stage.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_green_that_fails_five_percent_is_taken_back() -> Result<()> {
    let stage = stage(json!({}), "60s").await?;
    stage.green.behave(Behaviour::Sometimes { status: 500, one_in: 20 });
    let load = traffic(&stage)?;
    load.more(20).await?;
    stage.envoy.admin()?.rollout(IRIS, "start").await?;
    taken_back(&stage, load, Instant::now(), "error").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_green_that_is_slow_is_taken_back_although_it_answers_everything() -> Result<()> {
    let stage = stage(json!({"slow": {"over": "auto"}}), "60s").await?;
    stage.green.behave(Behaviour::Slow(Duration::from_millis(60)));
    let load = traffic(&stage)?;
    load.more(20).await?;
    stage.envoy.admin()?.rollout(IRIS, "start").await?;
    let begun = Instant::now();
    until_phase(&stage, "rolled_back").await?;
    ensure!(load.failed() == 0, "{} requests failed", load.failed());
    taken_back(&stage, load, begun, "slow").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_green_that_dies_at_its_second_step_is_taken_back_at_once() -> Result<()> {
    let mut stage = stage(json!({"error": {"max_rate": 0.5, "after": 30}}), "2s").await?;
    let load = traffic(&stage)?;
    stage.envoy.admin()?.rollout(IRIS, "start").await?;
    wait::until_within(PATIENCE, "the second step", || rollout(&stage), |rollout| rollout.step == 2).await?;
    ensure!(load.failed() == 0, "{} requests failed before", load.failed());
    let died = Instant::now();
    stage.green.stop().await;
    until_phase(&stage, "rolled_back").await?;
    let rule = stage.envoy.admin()?.comparison(IRIS).await?["verdict"]["breached"].clone();
    taken_back(&stage, load, died, rule.as_str().context("no rule")?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_errors_under_http_200_are_errors() -> Result<()> {
    let bootstrap = bootstrap(json!({}), "60s")?.with_http2("blue").with_http2("green");
    let stage = Stage::with(2, bootstrap).await?;
    stage.blue.behave(Behaviour::Grpc { status: 14, one_in: 200 });
    stage.green.behave(Behaviour::Grpc { status: 14, one_in: 10 });
    let load = stage.load()?.http2().connections(8).rate(RATE).lasting(PATIENCE * 2).start();
    stage.envoy.admin()?.rollout(IRIS, "start").await?;
    let begun = Instant::now();
    until_phase(&stage, "rolled_back").await?;
    ensure!(load.failed() == 0, "{} requests failed by HTTP", load.failed());
    stage.blue.behave(Behaviour::Answer);
    taken_back(&stage, load, begun, "error").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_green_that_breaks_its_answers_off_is_taken_back() -> Result<()> {
    let stage = stage(json!({}), "60s").await?;
    stage.green.behave(Behaviour::BreakOff { one_in: 5 });
    let load = traffic(&stage)?;
    stage.envoy.admin()?.rollout(IRIS, "start").await?;
    taken_back(&stage, load, Instant::now(), "error").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_both_fail_alike_the_candidate_is_not_blamed() -> Result<()> {
    let guard = json!({"error": {"max_rate": 0.2, "after": 20}});
    let stage = stage(guard, "4s").await?;
    for upstream in [&stage.blue, &stage.green] {
        upstream.behave(Behaviour::Sometimes { status: 503, one_in: 2 });
    }
    let load = traffic(&stage)?;
    stage.envoy.admin()?.rollout(IRIS, "start").await?;
    until_phase(&stage, "promoted").await?;
    let report = load.stop().await;
    println!("{} of {} requests failed, and green was promoted", report.failures().len(), report.records.len());
    let sources: Vec<String> =
        stage.envoy.admin()?.history(IRIS).await?.into_iter().map(|change| change.source).collect();
    ensure!(sources == ["rollout", "rollout", "admin"], "{sources:?}");
    stage.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_pauses_leaves_the_traffic_to_an_operator() -> Result<()> {
    let stage = stage(json!({"on_breach": "pause"}), "60s").await?;
    stage.green.behave(Behaviour::Sometimes { status: 500, one_in: 3 });
    let load = traffic(&stage)?;
    stage.envoy.admin()?.rollout(IRIS, "start").await?;
    let rollout = until_phase(&stage, "breached").await?;
    ensure!(rollout.waits_for == ["for an operator: resume, skip or abort"], "{rollout:?}");
    let state = stage.envoy.admin()?.deployment(IRIS).await?;
    ensure!((state.canary_percent, state.revision) == (10.0, 1), "{state:?}");
    let aborted = stage.envoy.admin()?.rollout(IRIS, "abort").await?;
    ensure!(aborted.canary_percent == 0.0 && aborted.rollout.is_some_and(|rollout| rollout.phase == "aborted"));
    load.stop().await;
    stage.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_green_that_fails_after_its_promotion_is_taken_back() -> Result<()> {
    let stage = stage(json!({"also_after_promote": "10m"}), "1s").await?;
    let load = traffic(&stage)?;
    stage.envoy.admin()?.rollout(IRIS, "start").await?;
    until_phase(&stage, "promoted").await?;
    ensure!(load.failed() == 0, "{} requests failed before", load.failed());
    let fault = Instant::now();
    stage.green.behave(Behaviour::Sometimes { status: 500, one_in: 10 });
    taken_back(&stage, load, fault, "error").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_give_up_are_no_errors_of_the_candidate() -> Result<()> {
    let stage = stage(json!({}), "5s").await?;
    stage.green.behave(Behaviour::Slow(Duration::from_millis(400)));
    let impatient = stage.load()?.connections(8).request_timeout(Duration::from_millis(50)).lasting(PATIENCE).start();
    stage.envoy.admin()?.rollout(IRIS, "start").await?;
    wait::until_within(PATIENCE, "clients that gave up", || async { Ok(impatient.failed()) }, |failed| *failed >= 40)
        .await?;
    let verdict = stage.envoy.admin()?.comparison(IRIS).await?["verdict"].clone();
    let green = &verdict["colours"]["green"];
    ensure!(green["errors"] == 0 && verdict["breached"].is_null(), "{verdict:#}");
    impatient.stop().await;
    stage.ensure_no_trap()
}
