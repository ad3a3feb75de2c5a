//! A control plane delivers the filter's configuration over ADS: what is new acts, what is bad is refused with its field.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::admin::Deployment;
use bluegreen_testbed::control_plane::ControlPlane;
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Bootstrap, Relay, wait};
use bluegreen_tests::{Environment, IRIS};
use serde_json::{Value, json};

/// The period of the filter's ticks, as `core/src/model/time.rs` has it.
const TICK: Duration = Duration::from_millis(250);

/// An Envoy that gets its filter's configuration from a control plane, through a relay.
struct Delivered {
    env: Environment,
    control_plane: ControlPlane,
    relay: Relay,
}

impl Delivered {
    async fn new() -> Result<Self> {
        let (control_plane, relay) = (ControlPlane::start().await?, Relay::start().await?);
        relay.lead_to(control_plane.address());
        let env = Environment::with(2, ControlPlane::bootstrap(relay.address())?).await?;
        Ok(Self { env, control_plane, relay })
    }

    /// Delivers a change of the deployment, and gives the version.
    fn deliver(&mut self, change: impl FnMut(&mut Value)) -> Result<u64> {
        self.control_plane.publish(|resource| resource.deployment(IRIS, change))
    }

    /// Delivers a change of the deployment that Envoy accepts.
    async fn deliver_good(&mut self, change: impl FnMut(&mut Value)) -> Result<()> {
        let version = self.deliver(change)?;
        let verdict = self.control_plane.verdict(version).await?;
        ensure!(verdict.refusal.is_none(), "{verdict:?}");
        Ok(())
    }
}

/// Makes a colour the initial one.
fn initially(colour: &str) -> impl FnMut(&mut Value) {
    move |iris| iris["initial"]["active"] = json!(colour)
}

/// Gives green another version: a change that shows when it has arrived, and that is no change of `initial`.
fn green_version(version: &str) -> impl FnMut(&mut Value) {
    move |iris| iris["colours"]["green"]["version"] = json!(version)
}

fn has_green(version: &str) -> impl Fn(&Deployment) -> bool {
    move |state| state.colours.get("green").is_some_and(|green| green.version == version)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_initial_moves_traffic_and_the_same_one_again_changes_nothing() -> Result<()> {
    let mut delivered = Delivered::new().await?;
    let load = delivered.env.load()?.connections(8).start();
    load.more(100).await?;
    delivered.deliver_good(initially("green")).await?;
    let state = delivered.env.until("green", |state| state.active == "green").await?;
    let by = (state.revision, state.source.as_deref(), state.changed_by.as_deref());
    ensure!(by == (1, Some("config"), Some("config")), "{state:?}");

    let back = delivered.env.envoy.admin()?.rollback(IRIS).await?;
    delivered.deliver_good(green_version("2a")).await?;
    let state = delivered.env.until("the new version", has_green("2a")).await?;
    ensure!((state.revision, state.active.as_str()) == (back.revision + 1, "blue"), "{state:?}");
    load.more(100).await?;
    let report = load.stop().await;
    report.ensure_no_failures()?;
    report.ensure_truthful()?;
    delivered.env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_configuration_is_refused_and_the_old_one_goes_on() -> Result<()> {
    let mut delivered = Delivered::new().await?;
    let good = delivered.control_plane.resource().clone();
    let version = delivered.deliver(|iris| iris["initial"]["canary_percent"] = json!(101))?;
    let verdict = delivered.control_plane.verdict(version).await?;
    let refusal = verdict.refusal.context("it was accepted")?;
    ensure!(refusal.contains("bluegreen"), "the refusal does not name the filter: {refusal}");
    let path = "deployments.iris.initial.canary_percent: 101 is not between 0 and 100";
    delivered.env.envoy.log().wait_for(path).await?;
    let state = delivered.env.deployment().await?;
    ensure!((state.revision, state.active.as_str()) == (0, "blue"), "{state:?}");
    let report = delivered.env.load()?.at_most(40).run().await;
    report.ensure_no_failures()?;
    ensure!(report.count("blue") == 40, "{:?}", report.colours());

    delivered.control_plane.publish(|_| good)?;
    delivered.deliver_good(green_version("3")).await?;
    delivered.env.until("the corrected configuration", has_green("3")).await?;
    delivered.env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_control_plane_is_unreachable_nothing_is_lost_and_afterwards_its_updates_arrive() -> Result<()> {
    let mut delivered = Delivered::new().await?;
    let load = delivered.env.load()?.start();
    let promoted = delivered.env.envoy.admin()?.promote(IRIS).await?;
    let connected = "control_plane.connected_state";
    for round in ["2a", "2b"] {
        delivered.relay.cut();
        wait::until("the cut", || delivered.env.envoy.stat(connected), |seen| *seen == 0).await?;
        load.more(20).await?;
        ensure!(
            delivered.env.deployment().await?.settings() == promoted.settings(),
            "{:?}",
            delivered.env.deployment().await?
        );
        // One round with news, one without.
        if round == "2b" {
            delivered.deliver(green_version(round))?;
        }
        delivered.relay.lead_to(delivered.control_plane.address());
        wait::until("the stream", || delivered.env.envoy.stat(connected), |seen| *seen == 1).await?;
    }
    let state = delivered.env.until("the news", has_green("2b")).await?;
    ensure!((state.revision, state.active.as_str()) == (promoted.revision + 1, "green"), "{state:?}");
    let report = load.stop().await;
    report.ensure_no_failures()?;
    report.ensure_truthful()?;
    delivered.env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_initial_whose_colour_is_unhealthy_waits_until_it_is_healthy() -> Result<()> {
    let mut delivered = Delivered::new().await?;
    delivered.env.green.behave_when_probed(Behaviour::Status(500));
    let load = delivered.env.load()?.start();
    delivered.deliver_good(initially("green")).await?;
    let refused = |state: &Deployment| state.sources.get("config").is_some_and(|config| config.refusal.is_some());
    let state = delivered.env.until("a refusal", refused).await?;
    let refusal = state.source_status("config")?.refusal.clone().unwrap_or_default();
    ensure!(refusal.contains("its probe failed just now: answered 500"), "{refusal}");
    ensure!((state.revision, state.active.as_str()) == (0, "blue"), "{state:?}");
    delivered.env.envoy.log().wait_for("source=config: refused: green would get traffic").await?;

    delivered.env.green.behave_when_probed(Behaviour::Answer);
    let state = delivered.env.until("green", |state| state.active == "green").await?;
    ensure!((state.revision, state.source.as_deref()) == (1, Some("config")), "{state:?}");
    ensure!(state.source_status("config")?.pending.is_none(), "{state:?}");
    load.more(20).await?;
    load.stop().await.ensure_no_failures()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pending_initial_is_superseded_by_an_operator_and_stays_so_when_it_is_pushed_again() -> Result<()> {
    let mut delivered = Delivered::new().await?;
    delivered.env.green.behave_when_probed(Behaviour::Status(500));
    delivered.deliver_good(initially("green")).await?;
    let pending = |wanted: bool| {
        move |state: &Deployment| state.sources.get("config").is_some_and(|config| config.pending.is_some() == wanted)
    };
    delivered.env.until("a pending initial", pending(true)).await?;
    let admin = delivered.env.envoy.admin()?;
    admin.patch(IRIS, &[("shadow_percent", "1")]).await?.accepted()?;
    delivered.env.until("its end", pending(false)).await?;
    delivered.env.green.behave_when_probed(Behaviour::Answer);
    delivered.deliver_good(green_version("2a")).await?;
    let state = delivered.env.until("the new version", has_green("2a")).await?;
    ensure!((state.revision, state.active.as_str()) == (2, "blue"), "{state:?}");
    ensure!(state.source_status("config")?.pending.is_none(), "{state:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_enforcement_a_pushed_initial_acts_at_once_and_that_is_recorded() -> Result<()> {
    let mut delivered = Delivered::new().await?;
    delivered.env.green.behave_when_probed(Behaviour::Status(500));
    let lax = |resource: Bootstrap| {
        let resource = resource.plugin(|plugin| plugin["config_push"] = json!({"enforce": false}));
        resource.deployment(IRIS, initially("green"))
    };
    delivered.control_plane.publish(lax)?;
    delivered.env.until("green", |state| state.active == "green").await?;
    let history = delivered.env.history().await?;
    ensure!(history.len() == 1 && history.iter().all(|change| change.forced), "{history:?}");
    Ok(())
}

/// Without a hurry a push waits for the first tick of a new configuration, which comes a whole period after it. So one push
/// that acts within less has not waited, however busy the machine is at the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pushed_initial_does_not_wait_for_an_ordinary_tick() -> Result<()> {
    let mut delivered = Delivered::new().await?;
    let load = delivered.env.load()?.connections(2).rate(500.0).start();
    let mut fastest = Duration::MAX;
    for push in 0..100 {
        let colour = if push % 2 == 0 { "green" } else { "blue" };
        let pushed = Instant::now();
        delivered.deliver(initially(colour))?;
        load.settled(4, pushed, |record| record.colour() == Some(colour)).await?;
        fastest = fastest.min(pushed.elapsed());
        if fastest < TICK {
            break;
        }
    }
    ensure!(fastest < TICK, "the fastest of 100 pushes took {fastest:?}, and a tick comes each {TICK:?}");
    load.stop().await.ensure_no_failures()?;
    delivered.env.ensure_no_trap()
}
