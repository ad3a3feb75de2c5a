//! The new version arrives: refused while it is not there, then tried and tested before any user sees it.

use std::time::Instant;

use anyhow::{Result, ensure};
use bluegreen_testbed::ports::loopback;
use reqwest::Method;

use super::{DEPLOYMENT, OPERATOR, Story, TRAFFIC_PORT, VIEWER};
use crate::call::Call;
use crate::model::{BLUE, GREEN};
use crate::narrator::members;
use crate::traffic::Traffic;

// === impl Story ===

impl Story<'_> {
    pub(super) async fn blue_serves(&mut self) -> Result<Traffic> {
        self.narrator.step("Blue serves").await;
        self.narrator.command(&self.environment.model_command(&BLUE));
        self.environment.start_model(&BLUE).await?;
        self.narrator.command(&self.environment.envoy_command());
        self.environment.start_envoy().await?;
        let traffic = Traffic::start(loopback(TRAFFIC_PORT))?;

        self.predict(&BLUE, None).await?;
        let state = self.admin(&Call::get(DEPLOYMENT).token(VIEWER)).await?;
        let initial = (&state["active"], &state["canary_percent"].as_f64());
        ensure!(initial == (&"blue".into(), &Some(0.0)), "expected blue to be active without a canary, got {state}");
        self.only(&traffic, &BLUE, Instant::now()).await?;
        self.narrator.meaning("Every request goes to blue. From here on 200 requests a second flow and are counted.");
        Ok(traffic)
    }

    /// The classic mistake, the other way round: moving traffic to a server that nobody has verified.
    pub(super) async fn promoting_nobody(&mut self, traffic: &Traffic) -> Result<()> {
        self.narrator.step("Too early: promote green before it is there").await;
        let before = Instant::now();
        let call = Call::new(Method::POST, format!("{DEPLOYMENT}/promote"));
        let problem = self.refused(&call, "colour-unhealthy", &BLUE).await?;
        let detail = problem["detail"].as_str().unwrap_or_default();
        // Envoy's words; some releases add that the connection was refused.
        ensure!(
            detail.contains("connection failure"),
            "expected the answer to name the failed connection, got {detail:?}"
        );
        self.only(traffic, &BLUE, before).await?;
        self.narrator.meaning(
            "The filter asked green first, and green did not answer: blue keeps the traffic, no request failed.",
        );
        Ok(())
    }

    pub(super) async fn green_starts(&mut self, traffic: &Traffic) -> Result<()> {
        self.narrator.step("Green starts next to it, on a port of its own").await;
        self.narrator.command(&self.environment.model_command(&GREEN));
        let before = Instant::now();
        self.environment.start_model(&GREEN).await?;
        for (path, expected) in [("ping", "\n"), ("version", GREEN.version)] {
            let call = Call::get(format!("http://127.0.0.1:{}/{path}", GREEN.port));
            let reply = self.show(&call).await?.reply;
            ensure!(
                (reply.status, reply.text.as_str()) == (200, expected),
                "expected /{path} to answer 200 {expected:?}, got {reply:?}"
            );
            let shown = reply.text.trim();
            self.narrator.answer(if shown.is_empty() { "(an empty line: 200, it is up)" } else { shown });
        }
        self.only(traffic, &BLUE, before).await?;
        self.narrator.meaning("Green is up with version 2, and no user's request reaches it.");
        Ok(())
    }

    pub(super) async fn green_is_tried(&mut self, traffic: &Traffic) -> Result<()> {
        self.narrator.step("Green is tried through the same Envoy, before any user sees it").await;
        let before = Instant::now();
        self.predict(&GREEN, Some(&GREEN)).await?;
        self.predict(&BLUE, None).await?;
        self.only(traffic, &BLUE, before).await?;
        self.narrator.meaning(
            "The header reaches green, whose version 2 says 2 (virginica, which is right) where version 1 says 1; \
             everybody else still gets blue.",
        );
        Ok(())
    }

    pub(super) async fn smoke_test(&mut self, traffic: &Traffic) -> Result<()> {
        self.narrator.step("Green takes its smoke test").await;
        let before = Instant::now();
        let call = Call::new(Method::POST, format!("{DEPLOYMENT}/test")).token(OPERATOR);
        let result = self.show(&call).await?.reply.accepted()?.json()?;
        self.narrator.answer(&members(&result, &["candidate", "version", "passed", "valid_until", "results"]));
        let got = (&result["candidate"], &result["version"], &result["passed"]);
        let expected = (&GREEN.colour.into(), &GREEN.version.into(), &true.into());
        ensure!(got == expected, "expected green's version 2 to pass, got {result}");
        self.only(traffic, &BLUE, before).await?;
        self.narrator.meaning(
            "The configured requests went to green only, and every answer was as expected. With \"required: true\" no \
             candidate gets traffic without this.",
        );
        Ok(())
    }
}
