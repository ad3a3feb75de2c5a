//! A switch takes effect at once on every worker, and costs no request.

use anyhow::{Result, ensure};
use bluegreen_testbed::Load;
use bluegreen_tests::{Environment, IRIS, Switch};
use reqwest::Method;

/// How many requests pass between two switches.
const BETWEEN: u64 = 40;

/// The ways to switch that a test can take turns with.
#[derive(Clone, Copy, Debug)]
enum Way {
    Promote,
    RollBack,
    Patch(&'static str),
}

/// Switches once over a new connection, hence on any worker, and notes when.
async fn switch(env: &Environment, way: Way) -> Result<Switch> {
    let admin = env.envoy.admin()?;
    match way {
        Way::Promote => Switch::timed(admin.switch(IRIS)).await,
        Way::RollBack => Switch::timed(admin.rollback(IRIS)).await,
        Way::Patch(colour) => Switch::timed(env.patch(&[("active", colour)])).await,
    }
}

/// Switches again and again while `load` runs, and checks every single answer.
async fn switch_under(env: &Environment, load: Load, ways: &[Way], rounds: usize) -> Result<()> {
    let running = load.start();
    running.more(BETWEEN).await?;
    let mut switches = Vec::new();
    for _ in 0..rounds {
        for way in ways {
            switches.push(switch(env, *way).await?);
            running.more(BETWEEN).await?;
        }
    }
    let report = running.stop().await;
    report.ensure_no_failures()?;
    report.ensure_truthful()?;
    let certain = Switch::ensure_all_hold(&switches, &report)?;
    ensure!(certain > switches.len() * 20, "only {certain} of {} requests prove anything", report.records.len());
    for colour in ["blue", "green"] {
        ensure!(report.count(colour) > 0, "no request on {colour}: {:?}", report.colours());
    }
    let reached = env.blue.requests() + env.green.requests();
    let sent = u64::try_from(report.records.len())?;
    ensure!(reached == sent, "{sent} requests were sent and {reached} reached an upstream");
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_promotes_under_load_fail_no_request_and_no_later_request_sees_the_old_colour() -> Result<()> {
    for workers in [2, 4] {
        let env = Environment::new(workers).await?;
        switch_under(&env, env.load()?.connections(8), &[Way::Promote], 100).await?;
        let state = env.deployment().await?;
        ensure!((state.revision, state.active.as_str()) == (100, "blue"), "{workers} workers: {state:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollbacks_and_patches_take_effect_like_promotes() -> Result<()> {
    let env = Environment::new(4).await?;
    let ways = [Way::Promote, Way::RollBack, Way::Patch("green"), Way::RollBack, Way::Patch("green"), Way::Promote];
    switch_under(&env, env.load()?.connections(8), &ways, 10).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_with_bodies_over_http_2_are_switched_without_loss_too() -> Result<()> {
    let env = Environment::new(2).await?;
    let load = env.load()?.connections(6).http2().body(Method::POST, vec![b'x'; 20_000]);
    switch_under(&env, load, &[Way::Promote], 30).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_idle_during_the_switch_uses_the_new_colour_at_once() -> Result<()> {
    // One connection stays with one worker; sixteen reach them all. Each sends a single request after each switch, so
    // no worker can learn of a switch from earlier traffic.
    let env = Environment::new(4).await?;
    let load = env.load()?.connections(16).at_most(16);
    for _ in 0..10 {
        let state = env.envoy.admin()?.switch(IRIS).await?;
        let report = load.clone().run().await;
        report.ensure_no_failures()?;
        ensure!(report.count(&state.active) == 16, "{} is active, but: {:?}", state.active, report.colours());
    }
    Ok(())
}

#[tokio::test]
async fn a_request_in_flight_finishes_on_the_colour_that_it_began_on() -> Result<()> {
    let env = Environment::new(2).await?;
    let mut script = env.blue.script();
    let running = env.load()?.connections(1).at_most(1).start();
    let mut exchange = script.next().await?;
    let mut body = exchange.answer(200, &[])?;
    body.piece("{\"colour\":").await?;
    env.envoy.admin()?.promote(IRIS).await?;
    let after = env.load()?.at_most(10).run().await;
    ensure!(after.count("green") == 10, "after the promote: {:?}", after.colours());
    body.piece(" \"blue\"}").await?;
    body.end();
    running.more(1).await?;
    let report = running.stop().await;
    report.ensure_no_failures()?;
    report.ensure_truthful()?;
    ensure!(report.count("blue") == 1, "{report:?}");
    Ok(())
}

#[tokio::test]
async fn a_second_rollback_is_refused_and_moves_nothing() -> Result<()> {
    let env = Environment::new(2).await?;
    let admin = env.envoy.admin()?;
    admin.promote(IRIS).await?;
    let state = admin.rollback(IRIS).await?;
    ensure!((state.active.as_str(), state.revision) == ("blue", 2), "after the rollback: {state:?}");
    let refusal = admin.rolling_back(IRIS).send().await?;
    ensure!(refusal.status == 409 && refusal.text.contains("nothing to roll back to"), "{refusal:?}");
    let report = env.load()?.at_most(20).run().await;
    ensure!(report.count("blue") == 20, "after the refused rollback: {:?}", report.colours());
    ensure!(admin.deployment(IRIS).await?.revision == 2, "the refused call changed the revision");
    Ok(())
}

#[tokio::test]
async fn answers_name_the_colour_and_the_version_that_served_them() -> Result<()> {
    let env = Environment::new(2).await?;
    for (colour, version) in [("blue", "1"), ("green", "2")] {
        env.patch(&[("active", colour)]).await?;
        let answer = reqwest::get(env.envoy.url("/invocations")?).await?;
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let seen = (header("x-bluegreen-colour"), header("x-bluegreen-version"));
        ensure!(seen == (Some(colour.to_owned()), Some(version.to_owned())), "{colour} is active, answered {seen:?}");
    }
    Ok(())
}
