//! The story, step by step: each shows real commands and their real answers, and fails when one is not as expected.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::prometheus::Samples;
use bluegreen_testbed::wait;
use reqwest::{Client, Method};
use serde_json::Value;

use super::call::{Answered, Call};
use super::narrator::{Narrator, brief, members};
use super::stage::{BLUE, GREEN, Model, Stage};
use super::summary::Summary;
use super::traffic::Traffic;
use crate::progress::Progress;

const TRAFFIC: &str = "http://127.0.0.1:10000";
const DEPLOYMENT: &str = "http://127.0.0.1:10001/bluegreen/v1/deployments/iris";
const IN_FLIGHT: &str = "http://127.0.0.1:9901/stats/prometheus?filter=in_flight";

const OPERATOR: &str = "demo-operator-token";
const VIEWER: &str = "demo-viewer-token";

/// Lets a tester reach either colour.
const OVERRIDE_HEADER: &str = "x-bluegreen-colour";

/// How many requests must show what a step claims about the traffic.
const ENOUGH: u64 = 200;

/// How many requests the canary's share is measured over, and by how many percent points it may be off: rotation is
/// exact on each worker, so only the edges of the measured stretch make a difference.
const CANARY_SAMPLE: u64 = 1000;
const CANARY_TOLERANCE: f64 = 1.0;

/// The story while it is told.
pub struct Story<'a> {
    stage: &'a mut Stage,
    narrator: &'a mut Narrator,
    http: Client,
}

// === impl Story ===

impl<'a> Story<'a> {
    pub fn new(stage: &'a mut Stage, narrator: &'a mut Narrator) -> Result<Self> {
        let http = Client::builder().no_proxy().build().context("cannot make an HTTP client")?;
        Ok(Self { stage, narrator, http })
    }

    /// Tells it all, and ends with the table.
    pub async fn tell(mut self) -> Result<()> {
        let told = self.all_steps().await;
        // A part that has ended explains more than the step that noticed it.
        told.and_then(|()| self.stage.ensure_running())
            .or_else(|error| self.stage.ensure_running().and(Err(error)))
            .with_context(|| self.narrator.place())
    }

    async fn all_steps(&mut self) -> Result<()> {
        let mut traffic = self.blue_serves().await?;
        self.green_starts(&traffic).await?;
        self.green_is_tested(&traffic).await?;
        self.canary(&traffic).await?;
        self.comparison().await?;
        self.promote("Promote: green serves", &mut traffic).await?;
        self.roll_back(&mut traffic).await?;
        self.promote("Promote again", &mut traffic).await?;
        self.blue_stops(&traffic).await?;
        self.balance(traffic).await
    }

    async fn blue_serves(&mut self) -> Result<Traffic> {
        self.narrator.step("Blue serves").await;
        self.narrator.command(&Stage::model_command(&BLUE));
        self.stage.start_model(&BLUE).await?;
        self.narrator.command(&self.stage.envoy_command());
        self.stage.start_envoy().await?;
        let traffic = Traffic::start()?;

        self.predict(&BLUE, None).await?;
        let state = self.admin(&Call::get(DEPLOYMENT).token(VIEWER)).await?;
        let initial = (&state["active"], &state["canary_percent"].as_f64());
        ensure!(initial == (&"blue".into(), &Some(0.0)), "expected blue to be active without a canary, got {state}");
        self.only(&traffic, &BLUE, Instant::now()).await?;
        self.narrator.meaning("Every request goes to blue. From here on 200 requests a second flow and are counted.");
        Ok(traffic)
    }

    async fn green_starts(&mut self, traffic: &Traffic) -> Result<()> {
        self.narrator.step("Green starts next to it, on a port of its own").await;
        self.narrator.command(&Stage::model_command(&GREEN));
        let before = Instant::now();
        self.stage.start_model(&GREEN).await?;
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

    async fn green_is_tested(&mut self, traffic: &Traffic) -> Result<()> {
        self.narrator.step("Green is tested through the same Envoy, before any user sees it").await;
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

    async fn canary(&mut self, traffic: &Traffic) -> Result<()> {
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

    async fn comparison(&mut self) -> Result<()> {
        self.narrator.step("Both versions side by side").await;
        let call = Call::get(format!("{DEPLOYMENT}/comparison")).token(VIEWER);
        let requests =
            |answer: &Value, model: &Model| answer["windows"]["1m"]["colours"][model.colour]["requests"].as_u64();
        // The filter's own figures follow with its next tick.
        let look = || async { Ok(call.send(&self.http).await?.reply) };
        let both = |reply: &bluegreen_testbed::admin::Reply| {
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

    async fn promote(&mut self, title: &str, traffic: &mut Traffic) -> Result<()> {
        self.narrator.step(title).await;
        let call = Call::new(Method::POST, format!("{DEPLOYMENT}/promote?reason=version%202%20passed"));
        self.switch("promote", &call, &BLUE, &GREEN, traffic).await
    }

    async fn roll_back(&mut self, traffic: &mut Traffic) -> Result<()> {
        self.narrator.step("Second thoughts: roll back").await;
        let call = Call::new(Method::POST, format!("{DEPLOYMENT}/rollback?reason=a%20drill"));
        self.switch("roll back", &call, &GREEN, &BLUE, traffic).await
    }

    async fn blue_stops(&mut self, traffic: &Traffic) -> Result<()> {
        self.narrator.step("Blue can stop").await;
        let in_flight = Call::get(IN_FLIGHT);
        let labels = [("deployment", "iris"), ("colour", BLUE.colour)];
        let look = || async { Ok(in_flight.send(&self.http).await?.reply.text) };
        let idle = |text: &String| Samples::parse(text).value("bluegreen_in_flight", &labels) == Some(0.0);
        let text = wait::until("blue to have no request in flight", look, idle).await?;
        self.narrator.command(&in_flight.curl());
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("bluegreen_in_flight")).collect();
        self.narrator.answer(&lines.join("\n"));

        self.narrator.command(&format!("kill {}    # blue's model server", self.stage.id(BLUE.colour)?));
        let stopped = Instant::now();
        let status = self.stage.stop(BLUE.colour).await?;
        ensure!(status.success(), "expected blue to end well on SIGTERM, got {status}");
        let ping = Call::get(format!("http://127.0.0.1:{}/ping", BLUE.port));
        self.narrator.command(&format!("{} || echo nobody there", ping.curl()));
        ensure!(ping.send(&self.http).await.is_err(), "expected nobody on blue's port, got an answer");
        self.narrator.answer("nobody there");
        self.only(traffic, &GREEN, stopped).await?;

        let history = Call::get(format!("{DEPLOYMENT}/history")).token(VIEWER);
        let answer = self.show(&history).await?.reply.accepted()?.json()?;
        let changes = answer["changes"].as_array().context("the history has no changes")?;
        for change in changes {
            self.narrator.answer(&members(change, &["revision", "at", "by", "reason"]));
        }
        ensure!(changes.len() == 4, "expected the history to have the story's 4 changes, got {}", changes.len());
        self.narrator.meaning("Blue has ended and nobody noticed; the history says who changed what, and why.");
        Ok(())
    }

    async fn balance(&mut self, traffic: Traffic) -> Result<()> {
        let (report, switches) = traffic.stop().await;
        let summary = Summary::of(&report, &switches);
        self.narrator.tables(&summary.tables());
        summary.ensure_flawless()?;
        self.narrator.conclusion("Every step went as expected, and no request was lost.");
        Ok(())
    }

    /// A switch from `old` to `new`, timed, and followed by enough requests to see what it did.
    async fn switch(&mut self, name: &str, call: &Call, old: &Model, new: &Model, traffic: &mut Traffic) -> Result<()> {
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
        Ok(())
    }

    /// Shows a prediction through Envoy, which must be `expected`'s.
    async fn predict(&mut self, expected: &Model, wanted: Option<&Model>) -> Result<()> {
        let mut call = Call::predict(TRAFFIC);
        if let Some(model) = wanted {
            call = call.header(OVERRIDE_HEADER, model.colour);
        }
        let answered = self.show(&call).await?;
        self.narrator.answer(&brief(&answered.reply));
        let Answered { reply, .. } = &answered;
        let got =
            (reply.status, answered.header("x-bluegreen-colour"), answered.header("x-bluegreen-version"), &*reply.text);
        let wanted = (200, expected.colour, expected.version, expected.prediction);
        ensure!(got == wanted, "expected status, colour, version and prediction {wanted:?}, got {got:?}");
        Ok(())
    }

    /// Shows a call of the admin API that changes the deployment.
    async fn write(&mut self, call: &Call) -> Result<(Answered, Value)> {
        let answered = self.show(call).await?;
        let state = answered.reply.accepted()?.json()?;
        self.narrator.answer(&members(
            &state,
            &["name", "revision", "active", "candidate", "canary_percent", "changed_by", "reason"],
        ));
        Ok((answered, state))
    }

    /// Shows a call of the admin API that reads the deployment's state.
    async fn admin(&mut self, call: &Call) -> Result<Value> {
        let state = self.show(call).await?.reply.accepted()?.json()?;
        self.narrator.answer(&members(&state, &["name", "revision", "active", "candidate", "canary_percent"]));
        Ok(state)
    }

    async fn show(&mut self, call: &Call) -> Result<Answered> {
        self.narrator.command(&call.curl());
        call.send(&self.http).await
    }

    /// Waits for enough traffic and fails unless all that began after `since` went to `model`; says how many did.
    async fn only(&mut self, traffic: &Traffic, model: &Model, since: Instant) -> Result<u64> {
        traffic.more(ENOUGH).await?;
        let failed = traffic.failed();
        ensure!(failed == 0, "expected no failed request, got {failed}: {}", traffic.failures());
        let share = traffic.since(since);
        let went = if model.colour == BLUE.colour { share.blue } else { share.green };
        ensure!(went == share.sent, "expected all requests to go to {}, got {share:?}", model.colour);
        Ok(went)
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
