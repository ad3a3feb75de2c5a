//! The tutorial's story with a real MLflow: two versions are trained and registered, and the registry's mark moves the
//! traffic between them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bluegreen_testbed::wait;
use reqwest::Method;
use serde_json::Value;

use super::{DEPLOYMENT, Story, VIEWER, millis};
use crate::call::Call;
use crate::model::{BLUE, GREEN, Model};
use crate::registry::MODEL;
use crate::traffic::Traffic;
use bluegreen_programs::Progress;

/// The mark that `envoy/mlflow/envoy.yaml` follows.
const MARK: &str = "production";

/// The secret in `envoy/mlflow/webhook-secret.yaml`.
const SECRET: &str = "demo-webhook-secret";

/// The registry is asked every two seconds; a webhook is there a good deal sooner.
const PATIENCE: Duration = Duration::from_secs(20);

// === impl Story ===

impl Story<'_> {
    pub(super) async fn two_versions_registered(&mut self) -> Result<()> {
        self.narrator.step("A registry, and two versions of a model in it").await;
        self.narrator.command("mlflow server --backend-store-uri sqlite:///mlflow.db");
        let progress = Progress::start("Starting MLflow");
        self.environment.start_registry().await?;
        drop(progress);
        self.python(&format!("train({MODEL:?})")).await?;
        for (alias, model) in [(BLUE.colour, &BLUE), (GREEN.colour, &GREEN), (MARK, &BLUE)] {
            self.python(&set_alias(alias, model)).await?;
        }
        self.narrator.meaning(
            "Two logistic regressions of irises are versions 1 and 2. Each model server has an alias, and \"production\" \
             says which of them is live.",
        );
        Ok(())
    }

    pub(super) async fn the_webhook(&mut self) -> Result<()> {
        self.narrator.step("MLflow gets a webhook that calls the filter").await;
        let webhook = format!(
            "client.create_webhook(name=\"bluegreen\", url=\"http://127.0.0.1:10001/bluegreen/v1/mlflow/webhook\", \
             events=[\"model_version_alias.created\"], secret={SECRET:?})"
        );
        self.python(&webhook).await?;
        let tested = self.python("client.test_webhook(client.list_webhooks()[0].webhook_id).response_status").await?;
        ensure!(tested == "202", "expected the filter to take MLflow's test delivery, got {tested}");
        self.narrator.answer(&tested);
        self.narrator.meaning(
            "The delivery is signed; Envoy holds the secret, and the filter's configuration does not. Without a webhook \
             the registry is asked every two seconds.",
        );
        Ok(())
    }

    /// The tutorial's mistake: a mark in a registry starts nothing.
    pub(super) async fn marking_nobody(&mut self, traffic: &Traffic) -> Result<()> {
        self.narrator.step("Too early: version 2 is marked, and no server runs it").await;
        let before = Instant::now();
        self.refused_mark(&GREEN).await?;
        self.only(traffic, &BLUE, before).await?;
        self.python(&set_alias(MARK, &BLUE)).await?;
        self.narrator.meaning(
            "The filter asked green first, and green did not answer. Blue keeps the traffic, no request failed, and the mark \
             is moved back.",
        );
        Ok(())
    }

    pub(super) async fn green_is_served(&mut self, traffic: &Traffic) -> Result<()> {
        self.narrator.step("Green is served next to it, on a port of its own").await;
        self.narrator.command(&self.environment.model_command(&GREEN));
        let before = Instant::now();
        let progress = Progress::start("Starting green");
        self.environment.start_model(&GREEN).await?;
        drop(progress);
        let ping = Call::get(format!("http://127.0.0.1:{}/ping", GREEN.port));
        let reply = self.show(&ping).await?.reply;
        ensure!(reply.status == 200, "expected /ping to answer 200, got {reply:?}");
        self.narrator.answer("(an empty line: 200, it is up)");
        self.only(traffic, &BLUE, before).await?;
        self.narrator
            .meaning("One port for both would have meant stopping blue first. No user's request reaches green.");
        Ok(())
    }

    /// Moves the mark to `new`, which takes the traffic with it. Returns when the line was entered.
    pub(super) async fn mark(&mut self, title: &str, new: &Model, traffic: &mut Traffic) -> Result<Instant> {
        self.narrator.step(title).await;
        let old = if new.colour == BLUE.colour { &GREEN } else { &BLUE };
        let called = Instant::now();
        self.python(&set_alias(MARK, new)).await?;
        let state = self.until(&format!("{} to be active", new.colour), |state| state["active"] == new.colour).await?;
        let in_force = Instant::now();
        traffic.moved(&format!("{MARK} to version {}", new.version), old.colour, called, in_force);
        self.narrator.command(&Call::get(DEPLOYMENT).token(VIEWER).curl());
        let shown = ["revision", "active", "changed_by", "reason"];
        self.narrator.answer(&crate::narrator::members(&state, &shown));
        ensure!(state["source"] == "mlflow", "expected the registry to have switched, got {state}");
        let seen = self.only(traffic, new, in_force).await?;
        self.narrator.meaning(&format!(
            "{:.0} ms from the line of Python to the switch; all {seen} requests that have begun since went to {}.",
            millis(in_force - called),
            new.colour
        ));
        Ok(called)
    }

    pub(super) async fn blue_is_stopped(&mut self, traffic: &Traffic) -> Result<()> {
        self.narrator.step("Blue stops").await;
        self.narrator.command(&format!("kill {}    # blue's model server", self.environment.id(BLUE.colour)?));
        let stopped = Instant::now();
        // MLflow's command ends by the signal; there is no `mlflow models stop`.
        self.environment.stop(BLUE.colour).await?;
        let ping = Call::get(format!("http://127.0.0.1:{}/ping", BLUE.port));
        self.narrator.command(&format!("{} || echo no answer", ping.curl()));
        ensure!(ping.send(&self.http).await.is_err(), "expected no answer on blue's port, got one");
        self.narrator.answer("no answer");
        self.only(traffic, &GREEN, stopped).await?;
        self.narrator
            .meaning("It was stopped after green was verified, and after the filter said that nothing needs it.");
        Ok(())
    }

    /// The tutorial's first mistake seen from its end: the old version has been stopped, and is wanted back.
    pub(super) async fn marking_the_departed(&mut self, traffic: &Traffic) -> Result<()> {
        self.narrator.step("Too late: the mark goes back to a version that has stopped").await;
        let before = Instant::now();
        self.refused_mark(&BLUE).await?;
        self.only(traffic, &GREEN, before).await?;
        self.python(&set_alias(MARK, &GREEN)).await?;
        self.narrator
            .meaning("A colour that does not answer gets no traffic. Serve blue again, and the mark moves it.");
        Ok(())
    }

    pub(super) async fn three_mistakes(&mut self) {
        self.narrator.step("The tutorial's three mistakes").await;
        self.narrator.answer(
            "stopping the old model first          blue stopped last, when the filter said that nothing needs it\n\
             one port for both                     two servers, two ports; the router chooses\n\
             believing that a mark moves traffic   here it does, and where it cannot, the deployment says why",
        );
    }

    /// Moves the mark to a version whose server is not there, and shows what the filter says about it.
    async fn refused_mark(&mut self, model: &Model) -> Result<()> {
        self.python(&set_alias(MARK, model)).await?;
        let refused = |state: &Value| state["sources"]["mlflow"]["refusal"].as_str().is_some_and(is_about_a_probe);
        let state = self.until("the refusal to be shown", refused).await?;
        self.narrator.command(&Call::get(DEPLOYMENT).token(VIEWER).curl());
        let refusal = &state["sources"]["mlflow"]["refusal"];
        self.narrator.answer(&format!("{{… \"active\": {}, …, \"refusal\": {refusal} …}}", state["active"]));
        ensure!(state["active"] != model.colour, "expected {} to get no traffic, got {state}", model.colour);
        Ok(())
    }

    /// Waits for a state of the deployment.
    async fn until(&self, what: &str, accept: impl Fn(&Value) -> bool) -> Result<Value> {
        let call = Call::new(Method::GET, DEPLOYMENT).token(VIEWER);
        let look = || async { call.send(&self.http).await?.reply.accepted()?.json() };
        wait::until_within(PATIENCE, what, look, accept).await
    }

    /// Shows a line of Python and runs it.
    async fn python(&mut self, line: &str) -> Result<String> {
        self.narrator.python(line);
        self.environment.registry()?.run(line).await
    }
}

fn set_alias(alias: &str, model: &Model) -> String {
    format!("client.set_registered_model_alias({MODEL:?}, {alias:?}, {:?})", model.version)
}

fn is_about_a_probe(refusal: &str) -> bool {
    refusal.contains("its probe failed just now")
}
