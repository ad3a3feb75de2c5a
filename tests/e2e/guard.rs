//! The guard rolls a candidate back that is worse, and no other; what that costs is counted.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::admin::{Deployment, Rollout};
use bluegreen_testbed::bootstrap::elements;
use bluegreen_testbed::load::Running;
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Bootstrap, wait};
use bluegreen_tests::environment::ROLLOUT_PATIENCE;
use bluegreen_tests::{Environment, IRIS};
use serde_json::{Value, json};

/// Requests a second.
const RATE: f64 = 200.0;

/// An environment whose rollout waits long enough in each step for the guard to decide.
async fn environment(guard: Value, hold: &str) -> Result<Environment> {
    Environment::with(2, bootstrap(guard, hold)?).await
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

fn traffic(env: &Environment) -> Result<Running> {
    Ok(env.load()?.connections(8).rate(RATE).lasting(ROLLOUT_PATIENCE * 2).start())
}

async fn until_phase(env: &Environment, phase: &str) -> Result<Rollout> {
    let what = format!("a rollout that is {phase}");
    env.until_rollout(&what, |rollout| rollout.phase == phase).await?.rollout.context("no rollout")
}

/// Waits until the guard has rolled the candidate back, and prints how long that took. Afterwards no request goes to green.
async fn rolled_back(env: &Environment, load: Running, fault: Instant, rule: &str) -> Result<()> {
    until_phase(env, "rolled_back").await?;
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
    let change = env.newest_change().await?;
    let seen = (change.source.as_str(), change.to.active.as_str(), change.to.canary_percent, change.rollout.as_deref());
    ensure!(seen == ("guard", "blue", 0.0, Some("rolled_back")), "{change:?}");
    let comparison = env.envoy.admin()?.comparison(IRIS).await?;
    let verdict = &comparison["verdict"];
    ensure!(verdict["breached"] == rule, "{verdict:#}");
    let sentence = verdict["sentence"].as_str().context("no sentence")?;
    ensure!(sentence.contains("green ") && change.reason == sentence, "{sentence:?}, but {:?}", change.reason);
    let after = env.load()?.at_most(100).run().await;
    ensure!(after.count("blue") == 100, "{:?}", after.colours());
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_green_that_fails_five_percent_is_rolled_back() -> Result<()> {
    let env = environment(json!({}), "60s").await?;
    env.green.behave(Behaviour::Sometimes { status: 500, one_in: 20 });
    let load = traffic(&env)?;
    load.more(20).await?;
    env.envoy.admin()?.rollout(IRIS, "start").await?;
    rolled_back(&env, load, Instant::now(), "error").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_green_that_is_slow_is_rolled_back_although_it_answers_everything() -> Result<()> {
    let env = environment(json!({"slow": {"over": "auto"}}), "60s").await?;
    env.green.behave(Behaviour::Slow(Duration::from_millis(60)));
    let load = traffic(&env)?;
    load.more(20).await?;
    env.envoy.admin()?.rollout(IRIS, "start").await?;
    let begun = Instant::now();
    until_phase(&env, "rolled_back").await?;
    ensure!(load.failed() == 0, "{} requests failed", load.failed());
    rolled_back(&env, load, begun, "slow").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_green_that_dies_at_its_second_step_is_rolled_back_at_once() -> Result<()> {
    let mut env = environment(json!({"error": {"max_rate": 0.5, "after": 30}}), "2s").await?;
    let load = traffic(&env)?;
    env.envoy.admin()?.rollout(IRIS, "start").await?;
    env.until_rollout("the second step", |rollout| rollout.step == 2).await?;
    ensure!(load.failed() == 0, "{} requests failed before", load.failed());
    let died = Instant::now();
    env.green.stop().await;
    until_phase(&env, "rolled_back").await?;
    let rule = env.envoy.admin()?.comparison(IRIS).await?["verdict"]["breached"].clone();
    rolled_back(&env, load, died, rule.as_str().context("no rule")?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_errors_under_http_200_are_errors() -> Result<()> {
    let bootstrap = bootstrap(json!({}), "60s")?.with_http2("blue").with_http2("green");
    let env = Environment::with(2, bootstrap).await?;
    env.blue.behave(Behaviour::Grpc { status: 14, one_in: 200 });
    env.green.behave(Behaviour::Grpc { status: 14, one_in: 10 });
    let load = env.load()?.http2().connections(8).rate(RATE).lasting(ROLLOUT_PATIENCE * 2).start();
    env.envoy.admin()?.rollout(IRIS, "start").await?;
    let begun = Instant::now();
    until_phase(&env, "rolled_back").await?;
    ensure!(load.failed() == 0, "{} requests failed by HTTP", load.failed());
    env.blue.behave(Behaviour::Answer);
    rolled_back(&env, load, begun, "error").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_green_that_aborts_its_answers_is_rolled_back() -> Result<()> {
    let env = environment(json!({}), "60s").await?;
    env.green.behave(Behaviour::BreakOff { one_in: 5 });
    let load = traffic(&env)?;
    env.envoy.admin()?.rollout(IRIS, "start").await?;
    rolled_back(&env, load, Instant::now(), "error").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_both_fail_alike_the_candidate_is_not_blamed() -> Result<()> {
    let guard = json!({"error": {"max_rate": 0.2, "after": 20}});
    let env = environment(guard, "4s").await?;
    for upstream in [&env.blue, &env.green] {
        upstream.behave(Behaviour::Sometimes { status: 503, one_in: 2 });
    }
    let load = traffic(&env)?;
    env.envoy.admin()?.rollout(IRIS, "start").await?;
    until_phase(&env, "promoted").await?;
    let report = load.stop().await;
    println!("{} of {} requests failed, and green was promoted", report.failures().len(), report.records.len());
    let sources: Vec<String> = env.history().await?.into_iter().map(|change| change.source).collect();
    ensure!(sources == ["rollout", "rollout", "admin"], "{sources:?}");
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_pauses_leaves_the_traffic_to_an_operator() -> Result<()> {
    let env = environment(json!({"on_breach": "pause"}), "60s").await?;
    env.green.behave(Behaviour::Sometimes { status: 500, one_in: 3 });
    let load = traffic(&env)?;
    env.envoy.admin()?.rollout(IRIS, "start").await?;
    let rollout = until_phase(&env, "breached").await?;
    ensure!(rollout.waits_for == ["for an operator: resume, skip or abort"], "{rollout:?}");
    let state = env.deployment().await?;
    ensure!((state.canary_percent, state.revision) == (10.0, 1), "{state:?}");
    let aborted = env.envoy.admin()?.rollout(IRIS, "abort").await?;
    ensure!(aborted.canary_percent == 0.0 && aborted.rollout.is_some_and(|rollout| rollout.phase == "aborted"));
    load.stop().await;
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_leaves_two_percent_with_blue_for_its_time_and_a_drain_waits_for_the_end() -> Result<()> {
    let env = environment(json!({"also_after_promote": "5s"}), "1s").await?;
    let load = traffic(&env)?;
    let admin = env.envoy.admin()?;
    let call = |path: &str| admin.call(reqwest::Method::POST, &format!("/v1/deployments/{IRIS}/{path}")).send();
    let promoted = call("promote?to=green").await?.deployment()?;
    ensure!((promoted.active.as_str(), promoted.canary_percent) == ("green", 2.0), "{promoted:?}");
    ensure!(promoted.kept.as_ref().is_some_and(|kept| kept.percent == 2.0), "{promoted:?}");
    let begun = Instant::now();
    // It waits for what ends by itself in time, and says what holds the colour where nothing does.
    let early = call("drain?colour=blue&timeout=1s").await?;
    ensure!(early.status == 409 && early.text.contains("it keeps 2 % of the traffic until"), "{early:?}");
    let drained = call("drain?colour=blue&timeout=30s").await?.deployment()?;
    let ended = Instant::now();
    ensure!(drained.kept.is_none() && drained.canary_percent == 0.0 && drained.active == "green", "{drained:?}");
    load.more(50).await?;
    let report = load.stop().await;
    report.ensure_no_failures()?;
    let kept = report.begun_after(begun);
    println!("blue got {} of {} requests while it kept a share", kept.count("blue"), kept.records.len());
    ensure!(kept.count("blue") >= 3 && kept.count("blue") * 20 < kept.records.len() as u64, "{:?}", kept.colours());
    ensure!(report.begun_after(ended).count("blue") == 0, "blue got requests after its drain");
    let change = env.newest_change().await?;
    ensure!(change.source == "guard" && change.reason.starts_with("blue kept 2 % after"), "{change:?}");
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_ends_by_evidence_long_before_it_has_to() -> Result<()> {
    let bootstrap = Bootstrap::shipped()?.deployment(IRIS, |iris| {
        iris["guard"] = json!({});
        iris["rollout"] = json!({"steps": [
            {"canary_percent": 20, "no_worse_than": 0.05, "hold_at_most": "1h"},
            {"canary_percent": 50, "hold": "1h"},
        ]});
    });
    let env = Environment::with(2, bootstrap).await?;
    let load = traffic(&env)?;
    let started = env.envoy.admin()?.rollout(IRIS, "start").await?;
    let waits = started.rollout.context("no rollout")?.waits_for.join(", ");
    ensure!(waits.contains("for evidence that green is worse by less than 5 points (e-value 1 of 100)"), "{waits}");
    env.until_rollout("the second step", |rollout| rollout.step == 2).await?;
    let change = env.newest_change().await?;
    let expected = "step 2 of 2: green is worse by less than 5 points (e-value ";
    ensure!(change.source == "rollout" && change.reason.starts_with(expected), "{change:?}");
    println!("{}, after {} requests", change.reason, load.stop().await.records.len());
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_observes_says_once_what_it_would_have_done_and_the_rollout_goes_on() -> Result<()> {
    let env = environment(json!({"on_breach": "observe", "also_after_promote": "10m"}), "9s").await?;
    env.green.behave(Behaviour::Sometimes { status: 500, one_in: 3 });
    let load = traffic(&env)?;
    env.envoy.admin()?.rollout(IRIS, "start").await?;
    until_phase(&env, "promoted").await?;
    load.more(200).await?;
    let state = env.deployment().await?;
    ensure!((state.active.as_str(), state.canary_percent) == ("green", 2.0), "{state:?}");
    let verdict = env.envoy.admin()?.comparison(IRIS).await?["verdict"].clone();
    ensure!(verdict["breached"] == "error" && verdict["would"] == "roll back", "{verdict:#}");
    let lines = env.envoy.log().lines_with("guard rule=error broken");
    let said = lines.len() == 1 && lines[0].contains("(on_breach: rollback would end the canary)");
    ensure!(said, "{lines:?}");
    load.stop().await;
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_green_that_fails_after_its_promotion_is_rolled_back_and_blips_of_both_do_nothing() -> Result<()> {
    let env = environment(json!({"also_after_promote": "10m", "keep_percent": 20}), "1s").await?;
    let load = traffic(&env)?;
    env.envoy.admin()?.rollout(IRIS, "start").await?;
    until_phase(&env, "promoted").await?;
    ensure!(load.failed() == 0, "{} requests failed before", load.failed());
    for _ in 0..3 {
        for behaviour in [Behaviour::Status(503), Behaviour::Answer] {
            env.blue.behave(behaviour.clone());
            env.green.behave(behaviour);
            load.more(100).await?;
        }
    }
    let state = env.deployment().await?;
    ensure!((state.active.as_str(), state.canary_percent) == ("green", 20.0), "{state:?}");
    println!("{} requests failed by blips of both, and green stayed", load.failed());
    let fault = Instant::now();
    env.green.behave(Behaviour::Sometimes { status: 500, one_in: 10 });
    rolled_back(&env, load, fault, "error").await
}

/// Clients wait for 300 ms, and then they leave.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_green_that_lets_every_third_request_hang_while_clients_leave_is_rolled_back() -> Result<()> {
    let env = environment(json!({}), "60s").await?;
    env.green.behave(Behaviour::HangSometimes { one_in: 3 });
    let load = env.load()?.connections(16).rate(RATE).request_timeout(Duration::from_millis(300));
    let load = load.lasting(ROLLOUT_PATIENCE * 2).start();
    load.more(20).await?;
    env.envoy.admin()?.rollout(IRIS, "start").await?;
    rolled_back(&env, load, Instant::now(), "unanswered").await?;
    let verdict = env.envoy.admin()?.comparison(IRIS).await?["verdict"].clone();
    ensure!(verdict["colours"]["green"]["errors"] == 0, "{verdict:#}");
    Ok(())
}

/// Clients see next to none of the failed attempts: now and then all three of a request fail.
async fn behind_retries(guard: Value, hold: &str) -> Result<Environment> {
    let retried = bootstrap(guard, hold)?.edit(|tree| {
        for listener in elements(tree, "/static_resources/listeners") {
            let manager = listener.pointer_mut("/filter_chains/0/filters/0/typed_config");
            for host in manager.into_iter().flat_map(|manager| elements(manager, "/route_config/virtual_hosts")) {
                for route in elements(host, "/routes").filter(|route| route["route"].is_object()) {
                    route["route"]["retry_policy"] = json!({"retry_on": "5xx", "num_retries": 2});
                }
            }
        }
    });
    Environment::with(2, retried).await
}

fn ensure_hidden(load: &Running) -> Result<()> {
    let (failed, done) = (load.failed(), load.done());
    ensure!(failed * 20 <= done, "{failed} of {done} requests failed");
    Ok(())
}

const EVERY_FIFTH: Behaviour = Behaviour::Sometimes { status: 500, one_in: 5 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_green_that_fails_a_fifth_of_its_attempts_is_rolled_back_though_clients_see_hardly_any_of_it() -> Result<()> {
    let env = behind_retries(json!({}), "60s").await?;
    env.green.behave(EVERY_FIFTH);
    let load = traffic(&env)?;
    env.envoy.admin()?.rollout(IRIS, "start").await?;
    let begun = Instant::now();
    until_phase(&env, "rolled_back").await?;
    ensure_hidden(&load)?;
    let state = env.deployment().await?;
    let detail = &state.problem("retries-hide-failures").context("nothing is said about retries")?.detail;
    ensure!(detail.contains("the guard counts that as an error"), "{detail}");
    rolled_back(&env, load, begun, "error").await
}

/// Blue's attempts fail as often, or the guard is told not to look at them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_attempts_are_no_reason_where_blue_has_as_many_or_where_they_do_not_count() -> Result<()> {
    for (guard, blue) in [(json!({}), EVERY_FIFTH), (json!({"error": {"count_retries": false}}), Behaviour::Answer)] {
        let env = behind_retries(guard, "9s").await?;
        env.blue.behave(blue);
        env.green.behave(EVERY_FIFTH);
        let load = traffic(&env)?;
        env.envoy.admin()?.rollout(IRIS, "start").await?;
        until_phase(&env, "promoted").await?;
        ensure_hidden(&load)?;
        load.stop().await;
        env.ensure_no_trap()?;
    }
    Ok(())
}

/// Every request of the busy user fails, on either colour: it is the user's fault, though chance has sent it to green. All
/// others are new: they have no cookie yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_who_always_fails_ends_no_canary_and_a_green_that_fails_for_all_is_found() -> Result<()> {
    let sticky = Bootstrap::shipped()?.deployment(IRIS, |iris| {
        iris["sticky"] = json!({"cookie": {"name": "user", "max_age": "1h"}});
        iris["guard"] = json!({});
    });
    let env = Environment::with(2, sticky).await?;
    env.patch(&[("canary_percent", "10")]).await?;
    let mut busy = None;
    for number in 0..200 {
        let cookie = format!("user=busy-{number}");
        let asked = env.load()?.header("cookie", cookie.as_bytes())?.at_most(1).run().await;
        if asked.count("green") == 1 {
            busy = Some(cookie);
            break;
        }
    }
    let cookie = busy.context("200 users, and none on green")?;
    for upstream in [&env.blue, &env.green] {
        upstream.behave(Behaviour::StatusFor { status: 500, name: "cookie", value: cookie.clone() });
    }
    let busy = env.load()?.header("cookie", cookie.as_bytes())?.rate(100.0);
    let busy = busy.lasting(ROLLOUT_PATIENCE * 2).start();
    let others = env.load()?.rate(100.0).lasting(ROLLOUT_PATIENCE * 2).start();
    // Many more in a row than would be enough if each of them counted.
    let failures = || async { Ok(busy.so_far().failures().len()) };
    wait::until_within(ROLLOUT_PATIENCE, "failures of the busy user", failures, |failures| *failures >= 300).await?;
    let state = env.deployment().await?;
    let verdict = env.envoy.admin()?.comparison(IRIS).await?["verdict"].clone();
    ensure!(state.canary_percent == 10.0 && verdict["breached"].is_null(), "{state:?} {verdict:#}");
    ensure!(others.so_far().failures().is_empty(), "others failed too");

    env.green.behave(Behaviour::Status(500));
    let ended = |state: &Deployment| state.canary_percent == 0.0;
    wait::until_within(ROLLOUT_PATIENCE, "a canary that has ended", || env.deployment(), ended).await?;
    let change = env.newest_change().await?;
    ensure!(change.source == "guard" && change.reason.contains("green "), "{change:?}");
    busy.stop().await;
    others.stop().await;
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_requests_of_a_tester_do_not_end_a_canary() -> Result<()> {
    let env = environment(json!({"error": {"max_rate": 0.2}}), "60s").await?;
    env.envoy.admin()?.rollout(IRIS, "start").await?;
    env.green.behave(Behaviour::Status(500));
    let tester = env.load()?.header("x-bluegreen-override", b"green")?;
    ensure!(tester.at_most(300).run().await.count("green") == 300, "the tester did not reach green");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let state = env.deployment().await?;
    let phase = state.rollout.as_ref().map(|rollout| rollout.phase.as_str());
    ensure!((state.canary_percent, phase) == (10.0, Some("running")), "{state:?}");
    Ok(())
}
