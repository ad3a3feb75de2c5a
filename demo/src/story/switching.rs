//! All the traffic moves: forth, back, not back twice, and forth again.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use reqwest::Method;

use super::{DEPLOYMENT, OPERATOR, Story};
use crate::call::Call;
use crate::model::{BLUE, GREEN, Model};
use crate::traffic::Traffic;

// === impl Story ===

impl Story<'_> {
    /// Returns when the call was made.
    pub(super) async fn promote(&mut self, title: &str, traffic: &mut Traffic) -> Result<Instant> {
        self.narrator.step(title).await;
        let call = Call::new(Method::POST, format!("{DEPLOYMENT}/promote?reason=version%202%20passed"));
        self.switch("promote", &call, &BLUE, &GREEN, traffic).await
    }

    pub(super) async fn roll_back(&mut self, traffic: &mut Traffic) -> Result<()> {
        self.narrator.step("Second thoughts: roll back").await;
        let call = Call::new(Method::POST, format!("{DEPLOYMENT}/rollback?reason=a%20drill"));
        self.switch("roll back", &call, &GREEN, &BLUE, traffic).await?;
        Ok(())
    }

    pub(super) async fn rolling_back_twice(&mut self, traffic: &Traffic) -> Result<()> {
        self.narrator.step("Somebody else rolls back too").await;
        let before = Instant::now();
        let call = Call::new(Method::POST, format!("{DEPLOYMENT}/rollback"));
        self.refused(&call, "nothing-to-roll-back-to", &BLUE).await?;
        self.only(traffic, &BLUE, before).await?;
        self.narrator.meaning("A second rollback does not flip forward again to the version that was just left.");
        Ok(())
    }

    pub(super) async fn blue_is_the_way_back(&mut self) -> Result<()> {
        let state = self.colours().await?;
        let blue = &state["colours"][BLUE.colour];
        ensure!(blue["safe_to_stop"] == false, "expected blue not to be safe to stop while it bakes, got {blue}");
        ensure!(blue["probe"]["healthy"] == true, "expected blue to be probed and healthy, got {blue}");
        self.narrator.meaning(
            "Blue gets no requests, but it is not safe to stop: it stays ready, and is probed, as the way back (bake).",
        );
        Ok(())
    }

    /// A switch from `old` to `new`, timed, and followed by enough requests to see what it did. Returns when the call
    /// was made.
    async fn switch(
        &mut self,
        name: &str,
        call: &Call,
        old: &Model,
        new: &Model,
        traffic: &mut Traffic,
    ) -> Result<Instant> {
        let call = call.clone().token(OPERATOR);
        let (answered, state) = self.write(&call).await?;
        traffic.switched(name, old.colour, &answered);
        ensure!(state["active"] == new.colour, "expected {} to be active, got {state}", new.colour);
        let seen = self.only(traffic, new, answered.at).await?;
        self.narrator.meaning(&format!(
            "{:.1} ms from the call to its answer; all {seen} requests that have begun since went to {}.",
            millis(answered.took()),
            new.colour
        ));
        Ok(answered.called)
    }
}

pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
