//! Envoy's own runtime switches traffic: a changed value acts, an old one does not undo what an operator did.

use anyhow::{Result, ensure};
use bluegreen_testbed::admin::{Deployment, SourceStatus};
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Bootstrap, Relay, wait};
use bluegreen_tests::{Environment, IRIS};
use serde_json::{Value, json};

/// The key of the deployment's active colour.
const ACTIVE: &str = "bluegreen.iris.active";

/// The key of its canary share.
const CANARY: &str = "bluegreen.iris.canary_percent";

/// An Envoy that follows its own runtime, whose admin interface it reaches through a relay.
struct Following {
    env: Environment,
    relay: Relay,
}

impl Following {
    async fn new() -> Result<Self> {
        Self::with(|bootstrap| bootstrap).await
    }

    async fn with(change: impl FnOnce(Bootstrap) -> Bootstrap) -> Result<Self> {
        let relay = Relay::start().await?;
        let bootstrap = Bootstrap::shipped()?.with_cluster("envoy_admin", relay.address()).plugin(|plugin| {
            plugin["runtime"] = json!({"cluster": "envoy_admin", "poll_interval": "250ms"});
        });
        let bootstrap = change(with_runtime(bootstrap, &json!({})));
        let env = Environment::with(2, bootstrap).await?;
        relay.lead_to(env.envoy.own_admin());
        let this = Self { env, relay };
        this.env.until("a first look", |state| saw(state).is_some_and(|runtime| runtime.error.is_none())).await?;
        Ok(this)
    }

    /// Sets runtime keys, all at once.
    async fn set(&self, keys: &[(&str, &str)]) -> Result<()> {
        let query: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
        self.env.envoy.tell(&format!("/runtime_modify?{}", query.join("&"))).await?;
        Ok(())
    }

    /// Lets the runtime be looked at three more times: what has not happened then will not happen.
    async fn more_looks(&self) -> Result<()> {
        let looks = "cluster.envoy_admin.upstream_rq_completed";
        let before = self.env.envoy.stat(looks).await?;
        wait::until(looks, || self.env.envoy.stat(looks), |seen| *seen >= before + 3).await?;
        Ok(())
    }

    /// No request fails, and all go to `colour`.
    async fn ensure_served_by(&self, colour: &str) -> Result<()> {
        let report = self.env.load()?.connections(4).at_most(40).run().await;
        report.ensure_no_failures()?;
        ensure!(report.count(colour) == 40, "{colour} is active, but: {:?}", report.colours());
        self.env.ensure_no_trap()
    }
}

/// The configuration with a static layer of the runtime below the one of `runtime_modify`.
fn with_runtime(bootstrap: Bootstrap, values: &Value) -> Bootstrap {
    let layers = json!([{"name": "static", "static_layer": values}, {"name": "admin", "admin_layer": {}}]);
    bootstrap.edit(|tree| tree["layered_runtime"] = json!({"layers": layers}))
}

fn saw(state: &Deployment) -> Option<&SourceStatus> {
    state.sources.get("runtime")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_key_switches_without_a_lost_request_and_the_history_names_it() -> Result<()> {
    let following = Following::new().await?;
    let load = following.env.load()?.connections(8).start();
    load.more(100).await?;
    for (revision, colour) in [(1, "green"), (2, "blue"), (3, "green")] {
        following.set(&[(ACTIVE, colour)]).await?;
        let state = following.env.until(colour, |state| state.active == colour).await?;
        let by = (state.revision, state.source.as_deref(), state.changed_by.as_deref());
        ensure!(by == (revision, Some("runtime"), Some("runtime")), "{state:?}");
        ensure!(state.reason.as_deref() == Some(&*format!("bluegreen.iris.active={colour}")), "{state:?}");
        following.ensure_served_by(colour).await?;
        load.more(100).await?;
    }
    let report = load.stop().await;
    report.ensure_no_failures()?;
    report.ensure_truthful()?;
    let history = following.env.history().await?;
    ensure!(history.iter().all(|change| change.source == "runtime" && !change.forced), "{history:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_value_does_not_fight_an_operator_and_a_new_one_acts_again() -> Result<()> {
    let following = Following::new().await?;
    let admin = following.env.envoy.admin()?;
    following.set(&[(ACTIVE, "green")]).await?;
    following.env.until("green", |state| state.active == "green").await?;
    let back = admin.rollback(IRIS).await?;
    following.more_looks().await?;
    ensure!(following.env.deployment().await?.settings() == back.settings(), "{:?}", following.env.deployment().await?);

    // Nor does taking the key back change anything; set again, it is a new value.
    following.set(&[(ACTIVE, "")]).await?;
    following.env.until("its end", |state| saw(state).is_some_and(|runtime| runtime.value == json!({}))).await?;
    ensure!(following.env.deployment().await?.settings() == back.settings(), "{:?}", following.env.deployment().await?);
    following.set(&[(ACTIVE, "green")]).await?;
    let state = following.env.until("green again", |state| state.active == "green").await?;
    ensure!((state.revision, state.source.as_deref()) == (3, Some("runtime")), "{state:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_keys_set_at_once_are_one_change_and_shares_have_decimals() -> Result<()> {
    let following = Following::new().await?;
    following.set(&[(ACTIVE, "green"), (CANARY, "12.5")]).await?;
    let state = following.env.until("both", |state| state.revision > 0).await?;
    ensure!((state.revision, state.active.as_str(), state.canary_percent) == (1, "green", 12.5), "{state:?}");
    let report = following.env.load()?.connections(1).at_most(80).run().await;
    report.ensure_no_failures()?;
    ensure!(report.count("blue").abs_diff(10) <= 2, "12.5 % of 80 on two workers: {:?}", report.colours());
    let said = json!({"active": "green", "canary_percent": 12.5});
    ensure!(saw(&state).is_some_and(|runtime| runtime.value == said), "{state:?}");

    following.set(&[(CANARY, "0.05")]).await?;
    let state = following.env.until("another share", |state| state.canary_percent < 1.0).await?;
    ensure!((state.revision, state.active.as_str(), state.canary_percent) == (2, "green", 0.05), "{state:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_value_is_logged_once_with_its_key_and_changes_nothing() -> Result<()> {
    let following = Following::new().await?;
    let cases = [
        (ACTIVE, "purple", "runtime key bluegreen.iris.active is \"purple\": it may be blue or green"),
        (CANARY, "120", "runtime key bluegreen.iris.canary_percent is \"120\": it may be a number from 0 to 100"),
    ];
    for (key, value, words) in cases {
        following.set(&[(key, value)]).await?;
        let told = |state: &Deployment| {
            saw(state).and_then(|runtime| runtime.error.clone()).is_some_and(|error| error.contains(words))
        };
        let state = following.env.until(words, told).await?;
        ensure!((state.revision, state.active.as_str()) == (0, "blue"), "{state:?}");
        following.more_looks().await?;
        let lines = following.env.envoy.log().lines_with(words);
        ensure!(lines.len() == 1, "{lines:?}");
        following.set(&[(key, "")]).await?;
        following
            .env
            .until("the end of the error", |state| saw(state).is_some_and(|seen| seen.error.is_none()))
            .await?;
    }
    following.set(&[(ACTIVE, "green")]).await?;
    following.env.until("green", |state| state.active == "green").await?;
    following.ensure_served_by("green").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unhealthy_candidate_is_refused_and_switched_to_as_soon_as_it_is_healthy() -> Result<()> {
    let following = Following::new().await?;
    following.env.green.behave_when_probed(Behaviour::Status(500));
    let load = following.env.load()?.start();
    following.set(&[(ACTIVE, "green")]).await?;
    let refused = |state: &Deployment| saw(state).is_some_and(|runtime| runtime.refusal.is_some());
    let state = following.env.until("a refusal", refused).await?;
    let runtime = state.source_status("runtime")?;
    ensure!(runtime.refusal.as_deref().is_some_and(|why| why.contains("answered 500")), "{runtime:?}");
    ensure!(runtime.pending.as_ref().is_some_and(|pending| pending["value"]["active"] == "green"), "{runtime:?}");
    following.more_looks().await?;
    ensure!(following.env.deployment().await?.active == "blue", "{:?}", following.env.deployment().await?);
    let lines = following.env.envoy.log().lines_with("source=runtime: refused: green would get traffic");
    ensure!(lines.len() == 1, "{lines:?}");

    following.env.green.behave_when_probed(Behaviour::Answer);
    let state = following.env.until("green", |state| state.active == "green").await?;
    let runtime = state.source_status("runtime")?;
    ensure!((&runtime.refusal, &runtime.pending) == (&None, &None), "{runtime:?}");
    load.more(20).await?;
    load.stop().await.ensure_no_failures()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_change_supersedes_one_that_waits_for_an_unhealthy_candidate() -> Result<()> {
    let following = Following::new().await?;
    following.env.green.behave_when_probed(Behaviour::Status(500));
    following.set(&[(ACTIVE, "green")]).await?;
    following.env.until("a refusal", |state| saw(state).is_some_and(|runtime| runtime.refusal.is_some())).await?;
    let admin = following.env.envoy.admin()?;
    admin.patch(IRIS, &[("shadow_percent", "1")]).await?.accepted()?;
    following.env.green.behave_when_probed(Behaviour::Answer);
    let given_up = |state: &Deployment| saw(state).is_some_and(|runtime| runtime.pending.is_none());
    let state = following.env.until("the end of the waiting", given_up).await?;
    ensure!((state.revision, state.active.as_str()) == (1, "blue"), "{state:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_enforcement_an_unhealthy_candidate_gets_the_traffic_and_that_is_recorded() -> Result<()> {
    let lax = |bootstrap: Bootstrap| bootstrap.plugin(|plugin| plugin["runtime"]["enforce"] = json!(false));
    let following = Following::with(lax).await?;
    following.env.green.behave_when_probed(Behaviour::Status(500));
    following.set(&[(ACTIVE, "green")]).await?;
    following.env.until("green", |state| state.active == "green").await?;
    let history = following.env.history().await?;
    ensure!(history.len() == 1 && history.iter().all(|change| change.forced), "{history:?}");
    following.ensure_served_by("green").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_envoys_admin_interface_is_unreachable_the_state_says_so_and_all_else_goes_on() -> Result<()> {
    let following = Following::new().await?;
    let load = following.env.load()?.start();
    // Each worker that starts late takes the lease over once, and would log the same error again.
    following.more_looks().await?;
    // The first look may have come before the relay led anywhere.
    let errors = || following.env.envoy.log().lines_with("source=runtime: GET /runtime");
    let before = errors().len();
    following.relay.cut();
    let lost = |state: &Deployment| saw(state).is_some_and(|runtime| runtime.error.is_some());
    let state = following.env.until("the error", lost).await?;
    let error = state.source_status("runtime")?.error.clone().unwrap_or_default();
    ensure!(error.contains("/runtime?format=json of cluster 'envoy_admin'"), "{error}");
    following.more_looks().await?;
    ensure!(errors().len() == before + 1, "{:?}", errors());
    following.set(&[(ACTIVE, "green")]).await?;
    following.env.patch(&[("canary_percent", "5")]).await?;
    ensure!(following.env.deployment().await?.active == "blue", "{:?}", following.env.deployment().await?);

    following.relay.lead_to(following.env.envoy.own_admin());
    let state = following.env.until("green", |state| state.active == "green").await?;
    ensure!(saw(&state).is_some_and(|runtime| runtime.error.is_none()), "{state:?}");
    load.more(20).await?;
    load.stop().await.ensure_no_failures()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_outlives_envoy_restores_the_state_after_a_restart() -> Result<()> {
    let lasting = |bootstrap: Bootstrap| {
        let values = json!({
            ACTIVE: "green",
            // Numbers and nesting, as in people's files; the name has a dash.
            "bluegreen": {"my-model": {"active": "green", "canary_percent": 12.5}},
        });
        let bootstrap = bootstrap.plugin(|plugin| {
            let mut other = plugin["deployments"][IRIS].clone();
            other["match"] = json!({"path_prefix": "/my-model"});
            plugin["deployments"]["my-model"] = other;
        });
        with_runtime(bootstrap, &values)
    };
    let mut following = Following::with(lasting).await?;
    for round in ["the start", "the restart"] {
        let state = following.env.until(round, |state| state.active == "green").await?;
        ensure!((state.revision, state.source.as_deref()) == (1, Some("runtime")), "{round}: {state:?}");
        let other = || async { following.env.envoy.admin()?.deployment("my-model").await };
        let state = wait::until("the other", other, |state| state.revision == 1).await?;
        ensure!((state.active.as_str(), state.canary_percent) == ("green", 12.5), "{round}: {state:?}");
        following.ensure_served_by("green").await?;
        following.relay.cut();
        following.env.envoy.kill()?;
        following.env.envoy.restart().await?;
        following.relay.lead_to(following.env.envoy.own_admin());
    }
    Ok(())
}
