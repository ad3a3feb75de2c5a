//! A share of the users, and what both versions do with it.

use anyhow::{Result, ensure};
use bluegreen_testbed::{admin, wait};
use reqwest::Method;
use serde_json::Value;

use super::{DEPLOYMENT, OPERATOR, Story, VIEWER};
use crate::call::Call;
use crate::model::{BLUE, GREEN, Model};
use crate::narrator::members;
use crate::traffic::Traffic;
use bluegreen_programs::Progress;

/// How many requests the canary's share is measured over, and by how many percent points it may be off: each worker is
/// off by less than two requests.
const CANARY_SAMPLE: u64 = 1000;
const CANARY_TOLERANCE: f64 = 1.0;

// === impl Story ===

impl Story<'_> {
    pub(super) async fn canary(&mut self, traffic: &Traffic) -> Result<()> {
        self.narrator.step("Ten percent go to green").await;
        let call = Call::new(Method::PATCH, format!("{DEPLOYMENT}?canary_percent=10&reason=first%20users"));
        let (answered, state) = self.write(&call.token(OPERATOR)).await?;
        ensure!(state["canary_percent"].as_f64() == Some(10.0), "expected a canary of 10 percent, got {state}");

        let progress = Progress::start(format!("Measuring the share over {CANARY_SAMPLE} requests"));
        traffic.more(CANARY_SAMPLE).await?;
        drop(progress);
        let share = traffic.since(answered.at);
        let percent = share.green_percent();
        ensure!(
            (percent - 10.0).abs() <= CANARY_TOLERANCE,
            "expected green to get 10 % of the requests, give or take {CANARY_TOLERANCE} point, got {percent:.2} % ({share:?})"
        );
        let (green, sent) = (share.green, share.sent);
        self.narrator.meaning(&format!("Green got {green} of the next {sent} requests: {percent:.1} %."));
        Ok(())
    }

    pub(super) async fn comparison(&mut self) -> Result<()> {
        self.narrator.step("Both versions side by side").await;
        let call = Call::get(format!("{DEPLOYMENT}/comparison")).token(VIEWER);
        let requests =
            |answer: &Value, model: &Model| answer["windows"]["1m"]["colours"][model.colour]["requests"].as_u64();
        // The filter's own figures follow with its next tick.
        let look = || async { Ok(call.send(&self.http).await?.reply) };
        let both = |reply: &admin::Reply| {
            let answer = reply.json().unwrap_or_default();
            [&BLUE, &GREEN].into_iter().all(|model| requests(&answer, model).is_some_and(|requests| requests > 0))
        };
        let reply = wait::until("a comparison with requests of both colours", look, both).await?;

        self.narrator.command(&call.curl());
        let answer = reply.json()?;
        let minute = &answer["windows"]["1m"];
        self.narrator
            .answer(&format!("{{… \"windows\": {{\"1m\": {{\"seconds\": {}, \"colours\": {{", minute["seconds"]));
        for model in [&BLUE, &GREEN] {
            let colour = &minute["colours"][model.colour];
            let figures = members(colour, &["requests", "rate", "error_rate", "ttfb_ms", "total_ms"]);
            self.narrator.answer(&format!("  \"{}\": {figures}", model.colour));
            ensure!(
                colour["error_rate"].as_f64() == Some(0.0),
                "expected no errors of {}, got an error rate of {}",
                model.colour,
                colour["error_rate"]
            );
            ensure!(
                colour["ttfb_ms"]["p50"].as_f64().is_some_and(|millis| millis > 0.0),
                "expected {}'s median time to first byte, got {}",
                model.colour,
                colour["ttfb_ms"]
            );
        }
        self.narrator.answer("}}, \"5m\": …, \"15m\": …}}");
        let (blue, green) = (requests(&answer, &BLUE), requests(&answer, &GREEN));
        ensure!(blue > green, "expected more requests of blue than of green, got {blue:?} and {green:?}");
        self.narrator.meaning(
            "Real requests, both colours, the same minute: neither fails, and the latencies are there to be compared.",
        );
        Ok(())
    }
}
