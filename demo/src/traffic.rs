//! The live traffic: a steady flow of requests from the first step to the last, each answer judged.
//!
//! An answer is good when its status is 2xx, when it names a colour, and when the prediction is that colour's: the two
//! model versions differ on the flower that is sent, so a header that named the wrong colour would be noticed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use bluegreen_testbed::Load;
use bluegreen_testbed::load::{Answer, Report, Running};
use reqwest::Method;

use crate::call::{Answered, FLOWER};
use crate::model::{BLUE, GREEN};

const CONNECTIONS: usize = 4;
const PER_SECOND: f64 = 200.0;

/// The traffic ends after this time, should it be left alone: it may run beside somebody's work for a day.
const LASTING: Duration = Duration::from_secs(24 * 60 * 60);

/// Traffic that flows, and the switches made meanwhile.
pub struct Traffic {
    running: Running,
    switches: Vec<Switch>,
}

/// A moment from which on no request may go to the old colour.
pub struct Switch {
    pub name: String,
    pub old: &'static str,
    pub called: Instant,
    pub answered: Instant,
}

/// What a stretch of the traffic did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    pub sent: u64,
    pub blue: u64,
    pub green: u64,
}

// === impl Traffic ===

impl Traffic {
    /// Starts sending to Envoy's listener for traffic. It must be called where a tokio runtime runs.
    pub fn start(envoy: SocketAddr) -> Result<Self> {
        let running = Load::new(envoy, "/invocations")
            .body(Method::POST, FLOWER)
            .header("content-type", b"application/json")?
            .connections(CONNECTIONS)
            .rate(PER_SECOND)
            .lasting(LASTING)
            .at_most(u64::MAX)
            .verify(judge)
            .start();
        Ok(Self { running, switches: Vec::new() })
    }

    /// Waits until `count` more requests have been answered.
    pub async fn more(&self, count: u64) -> Result<()> {
        self.running.more(count).await
    }

    /// What the requests that began after `instant` did, so far.
    pub fn since(&self, instant: Instant) -> Share {
        Share::of(&self.running.so_far().begun_after(instant))
    }

    /// What the requests did that have ended since the last call. They are forgotten, so that traffic can go on for hours.
    pub fn take(&self) -> Report {
        self.running.take()
    }

    pub fn failed(&self) -> u64 {
        self.running.failed()
    }

    /// Why requests failed: the first few.
    pub fn failures(&self) -> String {
        failures(&self.running.so_far())
    }

    /// Remembers that `call` took `old` out of service.
    pub fn switched(&mut self, name: &str, old: &'static str, call: &Answered) {
        self.switches.push(Switch { name: name.to_owned(), old, called: call.called, answered: call.at });
    }

    /// Remembers that something else than a call took `old` out of service: begun then, in force since.
    pub fn moved(&mut self, name: &str, old: &'static str, called: Instant, in_force: Instant) {
        self.switches.push(Switch { name: name.to_owned(), old, called, answered: in_force });
    }

    /// Lets the requests in flight end, and returns all that was sent and every switch.
    pub async fn stop(self) -> (Report, Vec<Switch>) {
        (self.running.stop().await, self.switches)
    }
}

// === impl Share ===

impl Share {
    pub fn of(report: &Report) -> Self {
        let sent = u64::try_from(report.records.len()).unwrap_or(u64::MAX);
        Self { sent, blue: report.count(BLUE.colour), green: report.count(GREEN.colour) }
    }

    pub fn green_percent(&self) -> f64 {
        if self.sent == 0 { 0.0 } else { 100.0 * self.green as f64 / self.sent as f64 }
    }
}

/// The reasons of the first few failures, for a message.
pub fn failures(report: &Report) -> String {
    let reason = |record: &&bluegreen_testbed::load::Record| match &record.outcome {
        Ok(answer) => format!("status {}", answer.status),
        Err(error) => error.clone(),
    };
    report.failures().iter().take(3).map(reason).collect::<Vec<_>>().join("; ")
}

fn judge(answer: &Answer, body: &[u8]) -> Result<(), String> {
    if answer.status != 200 {
        return Err(format!("status {}: {}", answer.status, String::from_utf8_lossy(body)));
    }
    let colour = answer.colour.as_deref().unwrap_or("none");
    let Some(model) = [&BLUE, &GREEN].into_iter().find(|model| model.colour == colour) else {
        return Err(format!("the answer's colour is {colour}"));
    };
    if body != model.prediction.as_bytes() {
        let said = String::from_utf8_lossy(body);
        return Err(format!("the answer's colour is {colour}, and its model does not say {said}"));
    }
    Ok(())
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, colour: Option<&str>) -> Answer {
        Answer { status, colour: colour.map(str::to_owned), body_colour: None }
    }

    #[test]
    fn an_answer_is_good_when_the_prediction_is_that_of_the_colour_it_names() {
        assert_eq!(judge(&answer(200, Some("blue")), br#"{"predictions": [1]}"#), Ok(()));
        assert_eq!(judge(&answer(200, Some("green")), br#"{"predictions": [2]}"#), Ok(()));
    }

    #[test]
    fn an_answer_that_contradicts_itself_is_not() {
        assert!(judge(&answer(200, Some("blue")), br#"{"predictions": [2]}"#).is_err());
        assert!(judge(&answer(200, Some("red")), br#"{"predictions": [1]}"#).is_err());
        assert!(judge(&answer(200, None), br#"{"predictions": [1]}"#).is_err());
        assert!(judge(&answer(503, Some("blue")), br#"{"predictions": [1]}"#).is_err());
    }

    #[test]
    fn the_share_of_nothing_is_nothing() {
        assert_eq!(Share { sent: 0, blue: 0, green: 0 }.green_percent(), 0.0);
        assert_eq!(Share { sent: 200, blue: 180, green: 20 }.green_percent(), 10.0);
    }
}
