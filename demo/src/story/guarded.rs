//! A version that is worse than the one before it, and nobody who watches: the guard takes it back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::{admin, wait};
use reqwest::Method;

use super::{DEPLOYMENT, OPERATOR, Story, VIEWER};
use crate::call::Call;
use crate::model::{BLUE, GREEN, SLOW_GREEN};
use crate::narrator::members;
use crate::traffic::Traffic;
use bluegreen_programs::Progress;

/// How long the guard may take.
const PATIENCE: Duration = Duration::from_secs(60);

// === impl Story ===

impl Story<'_> {
    pub(super) async fn bad_green(&mut self, traffic: &Traffic) -> Result<()> {
        self.narrator.step("A bad green: its rollout starts, and nobody watches").await;
        self.environment.stop(GREEN.colour).await?;
        self.narrator.command(&self.environment.model_command(&SLOW_GREEN));
        self.environment.start_model(&SLOW_GREEN).await?;
        let call = Call::new(Method::POST, format!("{DEPLOYMENT}/rollout/start?reason=nightly%20release"));
        let (started, _) = self.write(&call.token(OPERATOR)).await?;

        let progress = Progress::start("Waiting for the guard");
        let look = || async { Ok(Call::get(DEPLOYMENT).token(VIEWER).send(&self.http).await?.reply) };
        let taken_back = |reply: &admin::Reply| {
            reply.json().is_ok_and(|state| state["rollout"]["phase"] == "rolled_back" && state["canary_percent"] == 0)
        };
        let reply = wait::until_within(PATIENCE, "a rollout that is rolled back", look, taken_back).await?;
        let took = started.at.elapsed();
        drop(progress);
        let state = reply.json()?;
        self.narrator.command(&Call::get(DEPLOYMENT).token(VIEWER).curl());
        self.narrator.answer(&members(&state, &["revision", "active", "canary_percent", "changed_by", "reason"]));
        let reason = state["reason"].as_str().context("no reason")?;
        ensure!(
            (state["source"].as_str(), state["active"].as_str()) == (Some("guard"), Some(BLUE.colour))
                && reason.contains("slow answers (over ")
                && reason.contains(" of green where "),
            "expected the guard to have taken green back for being slow, got {state}"
        );
        let green = traffic.since(started.at).green;
        self.only(traffic, &BLUE, Instant::now()).await?;
        self.narrator.meaning(&format!(
            "{:.1} s after the start, {green} requests had gone to green. Its answers were correct but late: the guard compared them with blue's in the same seconds and rolled it back, \
             without an operator.",
            took.as_secs_f64()
        ));

        self.narrator.command(&format!("kill {}    # the bad green", self.environment.id(GREEN.colour)?));
        self.environment.stop(GREEN.colour).await?;
        self.narrator.command(&self.environment.model_command(&GREEN));
        self.environment.start_model(&GREEN).await?;
        self.narrator.meaning("The fixed green runs. This time an operator sets the share.");
        Ok(())
    }
}
