//! The old version leaves: not before the filter says that nothing needs it any more.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Method;

use super::{DEPLOYMENT, OPERATOR, Story, VIEWER};
use crate::call::Call;
use crate::model::{BLUE, GREEN};
use crate::narrator::members;
use crate::traffic::Traffic;
use bluegreen_programs::Progress;

/// How long the colour that was left is held as the way back; `envoy/envoy.yaml` says the same.
const BAKE: Duration = Duration::from_secs(10);

/// The filter's clock counts whole milliseconds.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(50);

/// The filter answers a drain of 30 s by then.
const DRAIN_PATIENCE: Duration = Duration::from_secs(40);

// === impl Story ===

impl Story<'_> {
    pub(super) async fn drain(&mut self, switched: Instant, traffic: &Traffic) -> Result<()> {
        self.narrator.step("When may blue stop? The filter says when").await;
        let call = Call::new(Method::POST, format!("{DEPLOYMENT}/drain?colour=blue&timeout=30s"));
        let progress = Progress::start("Waiting until nothing needs blue");
        let answered = self.show(&call.token(OPERATOR).patience(DRAIN_PATIENCE)).await?;
        drop(progress);
        let state = answered.reply.accepted()?.json()?;
        self.show_colours(&state);
        let blue = &state["colours"][BLUE.colour];
        ensure!(
            (&blue["safe_to_stop"], &blue["in_flight"]) == (&true.into(), &0.into()),
            "expected blue to be safe to stop with nothing in flight, got {blue}"
        );
        let after = answered.at - switched;
        ensure!(
            after + CLOCK_TOLERANCE >= BAKE,
            "expected blue to be held for {BAKE:?}, got an answer after {after:?}"
        );
        self.only(traffic, &GREEN, answered.called).await?;
        self.narrator.meaning(&format!(
            "It answered {:.1} s after the promote: blue's time as the way back is over, and no request is in flight.",
            after.as_secs_f64()
        ));
        Ok(())
    }

    pub(super) async fn blue_stops(&mut self, traffic: &Traffic) -> Result<()> {
        self.narrator.step("Blue stops").await;
        self.narrator.command(&format!("kill {}    # blue's model server", self.environment.id(BLUE.colour)?));
        let stopped = Instant::now();
        let status = self.environment.stop(BLUE.colour).await?;
        ensure!(status.success(), "expected blue to end well on SIGTERM, got {status}");
        let ping = Call::get(format!("http://127.0.0.1:{}/ping", BLUE.port));
        self.narrator.command(&format!("{} || echo no answer", ping.curl()));
        ensure!(ping.send(&self.http).await.is_err(), "expected no answer on blue's port, got one");
        self.narrator.answer("no answer");
        self.only(traffic, &GREEN, stopped).await?;
        self.narrator.meaning("Blue has stopped, and no request failed.");
        Ok(())
    }

    /// The tutorial's first mistake: the old version is gone, and only then somebody wants it back.
    pub(super) async fn rolling_back_to_nobody(&mut self, traffic: &Traffic) -> Result<()> {
        self.narrator.step("Too late: roll back to a version that has stopped").await;
        let before = Instant::now();
        let call = Call::new(Method::POST, format!("{DEPLOYMENT}/rollback"));
        self.refused(&call, "colour-unhealthy", &GREEN).await?;
        self.only(traffic, &GREEN, before).await?;
        self.narrator.meaning("A colour that does not answer gets no traffic. Start blue again to go back.");
        Ok(())
    }

    pub(super) async fn history(&mut self) -> Result<()> {
        self.history_of(8).await
    }

    pub(super) async fn history_of(&mut self, expected: usize) -> Result<()> {
        self.narrator.step("Who did what").await;
        let history = Call::get(format!("{DEPLOYMENT}/history")).token(VIEWER);
        let answer = self.show(&history).await?.reply.accepted()?.json()?;
        let changes = answer["changes"].as_array().context("the history has no changes")?;
        for change in changes {
            self.narrator.answer(&members(change, &["revision", "at", "by", "reason"]));
        }
        let got = changes.len();
        ensure!(got == expected, "expected the history to have the story's {expected} changes, got {got}");
        self.narrator.meaning("The history says who changed what, and why. What was refused changed nothing.");
        Ok(())
    }
}
