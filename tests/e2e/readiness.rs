//! No call gives traffic to a colour that is unhealthy at that moment, and the leader shows the health of both.

use anyhow::{Result, ensure};
use bluegreen_testbed::admin::{Call, Probe};
use bluegreen_testbed::envoy::{ADMIN, VIEWER};
use bluegreen_testbed::load::Running;
use bluegreen_testbed::raw::Connection;
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Admin, Bootstrap, Upstream, wait};
use bluegreen_tests::admin::ensure_conflict;
use bluegreen_tests::request::admin_call;
use bluegreen_tests::{Environment, IRIS};
use serde_json::json;

/// The refusal that all of these are.
const UNHEALTHY: &str = "colour-unhealthy";

/// A way in which a colour can be unhealthy.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Refuses,
    Answers500,
    Hangs,
}

impl Fault {
    const ALL: [Self; 3] = [Self::Refuses, Self::Answers500, Self::Hangs];

    async fn inflict(self, upstream: &mut Upstream) {
        match self {
            Self::Refuses => upstream.stop().await,
            Self::Answers500 => upstream.behave_when_probed(Behaviour::Status(500)),
            Self::Hangs => upstream.behave_when_probed(Behaviour::Hang),
        }
    }

    /// What a refusal says was seen.
    const fn words(self) -> &'static str {
        match self {
            Self::Refuses => "answered 503: upstream connect error",
            Self::Answers500 => "answered 500",
            Self::Hangs => "no answer within 1s",
        }
    }
}

/// The shipped configuration, in which `colour` belongs to a cluster that Envoy does not have.
fn misspelt(colour: &str, cluster: &str) -> Result<Bootstrap> {
    let bootstrap = Bootstrap::shipped()?;
    Ok(bootstrap.deployment(IRIS, |iris| iris["colours"][colour]["cluster"] = json!(cluster)))
}

#[tokio::test]
async fn probe_and_smoke_test_ask_for_the_configured_host() -> Result<()> {
    let env = Environment::with_deployment(2, |iris| {
        iris["probe"]["host"] = json!("iris.example.com:8080");
        iris["smoke_test"] = json!({"requests": [
            {"method": "GET", "path": "/a", "host": "a.example.com"},
            {"method": "GET", "path": "/b"},
        ]});
    })
    .await?;
    let verdict = env.envoy.admin()?.test(IRIS).await?.accepted()?.json()?;
    ensure!(verdict["passed"] == true, "{verdict:#}");
    let seen = env.green.seen();
    let hosts: Vec<_> = seen.iter().map(|seen| (seen.path.as_str(), seen.values("host"))).collect();
    ensure!(hosts == [("/a", vec![&b"a.example.com"[..]]), ("/b", vec![&b"iris"[..]])], "{hosts:?}");
    let mut probes = env.green.script_of_probes();
    let mut probe = probes.next().await?;
    ensure!(probe.head.values("host") == [b"iris.example.com:8080"], "{:?}", probe.head);
    probe.answer(200, &[])?.end();
    Ok(())
}

/// Every call that would give the candidate traffic.
fn givers(admin: &Admin, candidate: &str) -> [(&'static str, Call); 3] {
    [
        ("promote", admin.promoting(IRIS)),
        ("PATCH active=", admin.patching(IRIS).query(&[("active", candidate)])),
        ("PATCH canary_percent=1", admin.patching(IRIS).query(&[("canary_percent", "1")])),
    ]
}

/// Each of `calls` is refused with what was seen, changes nothing, and costs none of the clients of `load` a request.
async fn ensure_refused(
    env: &Environment,
    load: Running,
    calls: impl IntoIterator<Item = (&'static str, Call)>,
    words: &str,
) -> Result<()> {
    let admin = env.envoy.admin()?;
    let before = admin.deployment(IRIS).await?;
    for (name, call) in calls {
        load.more(20).await?;
        let reply = call.send().await?;
        ensure_conflict(&reply, UNHEALTHY, words).map_err(|error| error.context(name))?;
        ensure_conflict(&reply, UNHEALTHY, "force=true")?;
        let after = admin.deployment(IRIS).await?;
        ensure!(after.settings() == before.settings(), "the refused {name} changed {before:?} to {after:?}");
    }
    load.more(20).await?;
    let report = load.stop().await;
    report.ensure_no_failures()?;
    report.ensure_truthful()?;
    let sent = u64::try_from(report.records.len())?;
    ensure!(report.count(&before.active) == sent, "{} is active: {:?}", before.active, report.colours());
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unhealthy_green_gets_no_traffic_by_any_call_and_no_client_notices_the_attempts() -> Result<()> {
    for fault in Fault::ALL {
        let mut env = Environment::new(2).await?;
        let load = env.load()?.start();
        fault.inflict(&mut env.green).await;
        let calls = givers(&env.envoy.admin()?, "green");
        ensure_refused(&env, load, calls, fault.words()).await?;
        ensure!(env.green.requests() == 0, "{fault:?}: {} requests reached green", env.green.requests());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_green_whose_cluster_envoy_does_not_know_gets_no_traffic_and_the_cluster_is_named() -> Result<()> {
    let words = "cluster 'gren' is not known to this Envoy";
    let env = Environment::with(2, misspelt("green", "gren")?).await?;
    let load = env.load()?.start();
    ensure_refused(&env, load, givers(&env.envoy.admin()?, "green"), words).await?;
    let admin = env.envoy.admin()?;
    let verdict = || async { Ok(admin.deployment(IRIS).await?.probe("green")?.clone()) };
    wait::until(words, verdict, |probe: &Probe| !probe.healthy && probe.detail.contains(words)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_to_an_unhealthy_colour_is_refused_and_the_new_one_goes_on() -> Result<()> {
    for fault in Fault::ALL {
        let mut env = Environment::new(2).await?;
        let admin = env.envoy.admin()?;
        admin.promote(IRIS).await?;
        let load = env.load()?.start();
        fault.inflict(&mut env.blue).await;
        ensure_refused(&env, load, [("rollback", admin.rolling_back(IRIS))], fault.words()).await?;
    }
    // Blue cannot serve here, so that the load begins after the promote.
    let env = Environment::with(2, misspelt("blue", "bleu")?).await?;
    let admin = env.envoy.admin()?;
    admin.promote(IRIS).await?;
    let load = env.load()?.start();
    let words = "cluster 'bleu' is not known to this Envoy";
    ensure_refused(&env, load, [("rollback", admin.rolling_back(IRIS))], words).await
}

#[tokio::test]
async fn more_for_a_canary_that_has_traffic_needs_no_probe_and_less_is_always_possible() -> Result<()> {
    let env = Environment::new(2).await?;
    let admin = env.envoy.admin()?;
    admin.patch(IRIS, &[("canary_percent", "10")]).await?.accepted()?;
    env.green.behave_when_probed(Behaviour::Status(500));
    for share in ["20", "0"] {
        admin.patch(IRIS, &[("canary_percent", share)]).await?.accepted()?;
    }
    let reply = admin.patch(IRIS, &[("canary_percent", "1")]).await?;
    ensure_conflict(&reply, UNHEALTHY, "answered 500")
}

#[tokio::test]
async fn force_switches_to_an_unhealthy_green_and_is_recorded_as_forced() -> Result<()> {
    let env = Environment::new(2).await?;
    env.green.behave_when_probed(Behaviour::Status(500));
    let admin = env.envoy.admin()?;
    let viewer = admin.token(VIEWER).promoting(IRIS).force().send().await?;
    ensure!(viewer.status == 403, "a viewer forced a promote: {viewer:?}");
    let state = admin.promoting(IRIS).force().send().await?.deployment()?;
    ensure!(state.active == "green", "{state:?}");
    let report = env.load()?.at_most(20).run().await;
    ensure!(report.count("green") == 20, "{:?}", report.colours());
    // The way back is to a healthy colour and needs no force.
    admin.rollback(IRIS).await?;
    let forced: Vec<_> = admin.history(IRIS).await?.iter().map(|change| change.forced).collect();
    ensure!(forced == [false, true], "newest first: {forced:?}");
    let line = env.envoy.log().wait_for("revision=1 ").await?;
    ensure!(line.contains("source=admin forced"), "{line}");
    Ok(())
}

#[tokio::test]
async fn the_leaders_probe_follows_a_green_that_dies_and_comes_back() -> Result<()> {
    let often = Bootstrap::shipped()?.deployment(IRIS, |iris| iris["probe"]["interval"] = json!("250ms"));
    let mut env = Environment::with(2, often).await?;
    let verdict = |env: &Environment, healthy: bool, words: &'static str| {
        let admin = env.envoy.admin();
        async move {
            let admin = admin?;
            let look = || async { Ok(admin.deployment(IRIS).await?.probe("green")?.clone()) };
            let fits = |probe: &Probe| probe.healthy == healthy && probe.detail.contains(words);
            wait::until(&format!("healthy: {healthy}, {words:?}"), look, fits).await
        }
    };
    verdict(&env, true, "answered 200").await?;
    env.green.stop().await;
    verdict(&env, false, "answered 503").await?;
    let blue = env.deployment().await?.probe("blue")?.clone();
    ensure!(blue.healthy, "green died, and so did blue: {blue:?}");
    env.green.listen().await?;
    verdict(&env, true, "answered 200").await?;
    env.envoy.admin()?.promote(IRIS).await?;
    Ok(())
}

#[tokio::test]
async fn health_turns_with_the_configured_failure_in_a_row_while_a_switch_probes_once() -> Result<()> {
    let patient = Bootstrap::shipped()?.deployment(IRIS, |iris| {
        iris["probe"] = json!({"path": "/ping", "interval": "500ms", "timeout": "10s", "unhealthy_after": 4});
    });
    let env = Environment::with(2, patient).await?;
    let admin = env.envoy.admin()?;
    let verdict = || async { Ok(admin.deployment(IRIS).await?.probe("green")?.clone()) };
    let mut last = wait::until("a first probe", verdict, |probe| probe.healthy).await?;

    // Each probe waits for its answer here, so that none is missed.
    let mut probes = env.green.script_of_probes();
    let mut seen = Vec::new();
    for status in [500, 500, 200, 500, 500, 500, 500, 500, 200] {
        probes.next().await?.answer(status, &[])?.end();
        last = wait::until("the next verdict", verdict, |probe| probe.checked_at != last.checked_at).await?;
        seen.push(last.healthy);
    }
    ensure!(seen == [true, true, true, true, true, true, false, false, true], "after each answer: {seen:?}");

    env.green.behave_when_probed(Behaviour::Status(500));
    let refusal = admin.promoting(IRIS).send().await?;
    ensure_conflict(&refusal, UNHEALTHY, "answered 500")
}

#[tokio::test]
async fn a_caller_who_leaves_while_green_is_asked_changes_nothing() -> Result<()> {
    let patient = Bootstrap::shipped()?.deployment(IRIS, |iris| iris["probe"]["timeout"] = json!("1m"));
    let env = Environment::with(1, patient).await?;
    env.green.behave_when_probed(Behaviour::Hang);
    let under_way = "http.bluegreen_admin.downstream_rq_active";
    for _ in 0..3 {
        let before = env.green.probes();
        let mut caller = Connection::open(env.envoy.listener(ADMIN)?).await?;
        caller.write(admin_call("POST", "/bluegreen/v1/deployments/iris/promote", "", b"")).await?;
        wait::until("the question", || async { Ok(env.green.probes()) }, |probes| *probes > before).await?;
        wait::until(under_way, || env.envoy.stat(under_way), |calls| *calls == 1).await?;
        drop(caller);
        wait::until(under_way, || env.envoy.stat(under_way), |calls| *calls == 0).await?;
    }
    env.green.behave_when_probed(Behaviour::Answer);
    env.ensure_untouched("a promote without a caller").await?;
    env.envoy.admin()?.promote(IRIS).await?;
    env.ensure_no_trap()
}

#[tokio::test]
async fn without_a_probe_section_no_colour_is_probed() -> Result<()> {
    let silent = Bootstrap::shipped()?.deployment(IRIS, |iris| iris["probe"] = serde_json::Value::Null);
    let mut env = Environment::with(2, silent).await?;
    env.green.stop().await;
    let state = env.envoy.admin()?.promote(IRIS).await?;
    ensure!(state.active == "green" && state.colour("green")?.probe.is_none(), "{state:?}");
    let asked = (env.blue.probes(), env.green.probes());
    ensure!(asked == (0, 0), "probes at blue and green: {asked:?}");
    Ok(())
}
