//! Another version comes behind a colour: it gets what it is ready for, and nothing that was meant for the one before.

use anyhow::{Result, ensure};
use bluegreen_testbed::admin::Deployment;
use bluegreen_testbed::discovery::Watched;
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Bootstrap, Upstream};
use bluegreen_tests::admin::{ensure_conflict, ensure_problem_type};
use bluegreen_tests::{Environment, IRIS, PATH};
use serde_json::{Value, json};

/// Two versions in service, a third one in a cluster of its own, and a file by which configurations are delivered.
struct Scene {
    watched: Watched,
    env: Environment,
    third: Upstream,
}

impl Scene {
    /// The third version is pushed for this colour, so it calls itself that.
    async fn new(third: &str, change: impl FnMut(&mut Value)) -> Result<Self> {
        let third = Upstream::start(third).await?;
        let mut watched = Watched::lds()?;
        watched.deliver(|listeners| listeners.deployment(IRIS, change))?;
        let bootstrap = watched.bootstrap().with_cluster("third", third.address());
        let env = Environment::with(2, bootstrap).await?;
        Ok(Self { watched, env, third })
    }

    /// Pushes this version, in this cluster, for a colour.
    fn push(&mut self, colour: &str, version: &str, cluster: &str) -> Result<()> {
        let upstream = json!({"cluster": cluster, "version": version});
        self.watched.deliver(|listeners| listeners.deployment(IRIS, |iris| iris["colours"][colour] = upstream.clone()))
    }

    async fn until_serves(&self, colour: &str, version: &str) -> Result<Deployment> {
        let what = format!("version {version} behind {colour}");
        self.env.until(&what, |state| state.colour(colour).is_ok_and(|colour| colour.version == version)).await
    }

    /// Waits until this version waits, for a reason with these words.
    async fn until_waits(&self, colour: &str, version: &str, why: &str) -> Result<Deployment> {
        let waits = |state: &Deployment| {
            let waiting = state.colour(colour).ok().and_then(|colour| colour.waiting.as_ref());
            waiting.is_some_and(|waiting| waiting.version == version && waiting.why.contains(why))
        };
        self.env.until(&format!("version {version} waits for {colour}: {why}"), waits).await
    }
}

/// A probe that is quick, and a smoke test that has to be passed.
fn checked(iris: &mut Value) {
    iris["probe"] = json!({"path": "/ping", "interval": "250ms", "timeout": "1s"});
    iris["smoke_test"] = json!({"requests": [{"path": PATH, "body": {"inputs": [[1]]}}]});
}

/// A probe only.
fn probed(iris: &mut Value) {
    checked(iris);
    iris["smoke_test"] = Value::Null;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_comes_into_a_running_rollout_gets_none_of_its_traffic_and_no_promotion() -> Result<()> {
    let mut scene = Scene::new("green", |iris| {
        checked(iris);
        let step = |share: u32| json!({"canary_percent": share, "hold": "1s"});
        iris["rollout"] = json!({"steps": [step(30), step(60)]});
    })
    .await?;
    let admin = scene.env.envoy.admin()?;
    admin.test(IRIS).await?.accepted()?;
    admin.rollout(IRIS, "start").await?;
    let load = scene.env.load()?.connections(4).start();
    load.more(40).await?;
    scene.push("green", "3", "third")?;
    let state = scene.env.until_rollout("its end", |rollout| rollout.phase == "replaced").await?;
    ensure!(state.canary_percent == 0.0 && state.colour("green")?.version == "3", "{state:?}");
    let change = scene.env.newest_change().await?;
    ensure!((change.source.as_str(), change.rollout.as_deref()) == ("config", Some("replaced")), "{change:?}");
    let replaced = change.replaced.unwrap_or_default();
    ensure!(replaced["from"]["version"] == "2" && replaced["to"]["cluster"] == "third", "{replaced:#}");
    load.more(100).await?;
    ensure!(scene.third.requests() == 0, "{} requests reached version 3", scene.third.requests());
    ensure_conflict(&admin.promoting(IRIS).send().await?, "smoke-test-missing", "it has not passed")?;

    admin.test(IRIS).await?.accepted()?;
    ensure!(scene.third.requests() == 1, "the test went elsewhere");
    let state = admin.promote(IRIS).await?;
    ensure!(state.active == "green" && !state.has_problem("version-waits"), "{state:?}");
    load.more(40).await?;
    let report = load.stop().await;
    report.ensure_no_failures()?;
    report.ensure_truthful()?;
    ensure!(scene.third.requests() > 1, "the promoted version gets nothing");
    scene.env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_active_colour_goes_on_until_the_next_version_answers_and_no_request_is_lost() -> Result<()> {
    let mut scene = Scene::new("blue", probed).await?;
    scene.third.stop().await;
    let load = scene.env.load()?.connections(4).start();
    load.more(40).await?;
    scene.push("blue", "3", "third")?;
    let state = scene.until_waits("blue", "3", "its probe failed just now: answered 503").await?;
    ensure!(state.revision == 0 && state.colour("blue")?.cluster == "blue", "{state:?}");
    ensure!(state.has_problem("version-waits"), "{state:?}");
    scene.env.envoy.log().wait_for("setup=version-waits: version 3 (cluster third) is configured for blue").await?;
    load.more(100).await?;

    scene.third.listen().await?;
    let state = scene.until_serves("blue", "3").await?;
    ensure!((state.revision, state.source.as_deref()) == (1, Some("config")), "{state:?}");
    // What was noted is taken back once the state is in force.
    let state = scene.env.until("a set-up without it", |state| !state.has_problem("version-waits")).await?;
    ensure!(state.colour("blue")?.waiting.is_none(), "{state:?}");
    load.more(40).await?;
    let report = load.stop().await;
    report.ensure_no_failures()?;
    report.ensure_truthful()?;
    let after = scene.env.load()?.at_most(20).run().await;
    after.ensure_no_failures()?;
    ensure!(scene.third.requests() >= 20, "version 3 got {} requests", scene.third.requests());
    scene.env.ensure_no_trap()
}

#[tokio::test]
async fn a_version_that_waits_is_replaced_by_the_next_push_and_forgotten_when_it_is_taken_back() -> Result<()> {
    let mut scene = Scene::new("blue", checked).await?;
    scene.push("blue", "3", "third")?;
    scene.until_waits("blue", "3", "POST …/test?colour=blue").await?;
    scene.push("blue", "4", "third")?;
    scene.until_waits("blue", "4", "POST …/test?colour=blue").await?;
    scene.push("blue", "1", "blue")?;
    let gone = |state: &Deployment| state.colour("blue").is_ok_and(|blue| blue.waiting.is_none());
    let state = scene.env.until("nothing that waits", gone).await?;
    ensure!(state.revision == 0 && !state.has_problem("version-waits"), "{state:?}");
    ensure_conflict(
        &scene.env.envoy.admin()?.testing(IRIS).query(&[("colour", "blue")]).send().await?,
        "nothing-to-test",
        "blue is active and no version waits",
    )?;

    scene.push("blue", "5", "third")?;
    scene.until_waits("blue", "5", "POST …/test?colour=blue").await?;
    let reply = scene.env.envoy.admin()?.testing(IRIS).query(&[("colour", "blue")]).send().await?;
    let verdict = reply.accepted()?.json()?;
    ensure!(verdict["passed"] == true && verdict["version"] == "5" && verdict["revision"] == 1, "{verdict:#}");
    scene.until_serves("blue", "5").await?;
    let answer = reqwest::get(scene.env.envoy.url(PATH)?).await?;
    let version = answer.headers().get("x-bluegreen-version").and_then(|value| value.to_str().ok()).map(str::to_owned);
    ensure!(version.as_deref() == Some("5"), "{version:?}");
    scene.env.ensure_no_trap()
}

#[tokio::test]
async fn a_rollback_does_not_go_to_a_version_that_never_served() -> Result<()> {
    let mut scene = Scene::new("blue", probed).await?;
    let admin = scene.env.envoy.admin()?;
    admin.promote(IRIS).await?;
    scene.push("blue", "3", "third")?;
    scene.until_serves("blue", "3").await?;
    ensure_conflict(
        &admin.rolling_back(IRIS).send().await?,
        "way-back-replaced",
        "version 3 (cluster third) came behind blue after the switch",
    )?;
    ensure!(scene.third.requests() == 0, "version 3 got traffic");
    // Pushed back, it is what served.
    scene.push("blue", "1", "blue")?;
    scene.until_serves("blue", "1").await?;
    let state = admin.rollback(IRIS).await?;
    ensure!(state.active == "blue", "{state:?}");
    scene.env.load()?.at_most(20).run().await.ensure_no_failures()
}

#[tokio::test]
async fn a_repeated_promote_with_its_colour_changes_nothing_also_when_its_probe_fails() -> Result<()> {
    let env = Environment::with_deployment(2, probed).await?;
    let admin = env.envoy.admin()?;
    admin.promote_to(IRIS, "green").await?;
    env.green.behave_when_probed(Behaviour::Status(500));
    let state = admin.promote_to(IRIS, "green").await?;
    ensure!((state.revision, state.active.as_str()) == (1, "green"), "{state:?}");
    ensure_problem_type(&admin.promoting(IRIS).send().await?, 409, "nothing-to-promote")?;
    for _ in 0..2 {
        let state = admin.rolling_back(IRIS).query(&[("to", "blue")]).send().await?.deployment()?;
        ensure!((state.revision, state.active.as_str()) == (2, "blue"), "{state:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_says_what_it_will_forget_and_goes_on_with_the_colour_that_answers() -> Result<()> {
    let mut env = Environment::with_deployment(2, probed).await?;
    let state = env.envoy.admin()?.promote(IRIS).await?;
    let noted = state.setup.iter().find(|noted| noted.problem == "not-durable");
    let detail = noted.map(|noted| noted.detail.clone()).unwrap_or_default();
    ensure!(detail.ends_with("put this under deployments.iris: initial: {active: green}"), "{state:?}");
    env.blue.stop().await;
    env.envoy.kill()?;
    env.envoy.restart().await?;
    // Seen by one worker is not in force on all.
    let is_in_force =
        |state: &Deployment| state.in_force.revision == 1 && state.in_force.confirmed == state.in_force.of;
    let state = env.until("green", |state| state.active == "green" && is_in_force(state)).await?;
    ensure!((state.revision, state.source.as_deref()) == (1, Some("failover")), "{state:?}");
    ensure!(
        state.reason.as_deref().is_some_and(|why| why.starts_with("blue does not answer at the start")),
        "{state:?}"
    );
    let report = env.load()?.connections(4).at_most(40).run().await;
    report.ensure_no_failures()?;
    ensure!(report.count("green") == 40, "{:?}", report.colours());
    let refusal = env.envoy.admin()?.rolling_back(IRIS).send().await?;
    ensure_conflict(&refusal, "nothing-to-roll-back-to", "no switch has happened")?;
    env.ensure_no_trap()
}

#[tokio::test]
async fn a_start_keeps_a_colour_that_does_not_answer_where_it_is_told_to() -> Result<()> {
    let bootstrap = Bootstrap::shipped()?.deployment(IRIS, |iris| {
        probed(iris);
        iris["initial"] = json!({"active": "blue", "when_unhealthy": "keep"});
    });
    let mut env = Environment::with(2, bootstrap).await?;
    env.blue.stop().await;
    env.envoy.kill()?;
    env.envoy.restart().await?;
    let probes = env.green.probes();
    // Longer than it takes to decide otherwise.
    let probed = || async { Ok(env.green.probes()) };
    bluegreen_testbed::wait::until("five probes", probed, |seen| *seen >= probes + 5).await?;
    env.ensure_untouched("a start").await
}

#[tokio::test]
async fn what_is_kept_in_memory_only_is_said_until_the_configuration_has_it() -> Result<()> {
    let mut scene = Scene::new("blue", probed).await?;
    ensure!(!scene.env.deployment().await?.has_problem("not-durable"), "nothing would be lost");
    let state = scene.env.envoy.admin()?.promote(IRIS).await?;
    ensure!(state.has_problem("not-durable"), "{state:?}");
    scene.env.envoy.log().wait_for("setup=not-durable").await?;
    scene.watched.deliver(|listeners| listeners.deployment(IRIS, |iris| iris["initial"]["active"] = json!("green")))?;
    let state = scene.env.until("durable", |state| !state.has_problem("not-durable")).await?;
    ensure!((state.revision, state.active.as_str()) == (1, "green"), "{state:?}");
    Ok(())
}
