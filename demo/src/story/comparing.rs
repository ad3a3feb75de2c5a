//! What both versions say about the same flowers, before a user is sent to green.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bluegreen_model_server::{Flower, Observation, Version, iris};
use bluegreen_testbed::wait;
use reqwest::Method;
use serde_json::Value;

use super::showing::TRAFFIC;
use super::{DEPLOYMENT, OPERATOR, Story, VIEWER};
use crate::call::{Call, FLOWER};
use crate::model::{BLUE, GREEN, Model};
use crate::narrator::members;
use crate::traffic::Traffic;
use bluegreen_programs::Progress;

/// A flower of the data set, and what both versions say about it.
pub(super) struct Known {
    body: String,
    species: usize,
    blue: usize,
    green: usize,
}

/// How long a flower's comparison may take before it counts as dropped.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a flower is sent: its copy may be dropped while others are compared.
const ATTEMPTS: usize = 10;

/// The flowers of the data set, and what the models' own functions say about them.
pub(super) fn known() -> Result<Vec<Known>> {
    let of = |seen: Observation| Known {
        body: body(&seen.flower),
        species: seen.species,
        blue: Version::One.predict(&seen.flower),
        green: Version::Two.predict(&seen.flower),
    };
    Ok(iris()?.into_iter().map(of).collect())
}

/// As a client writes it.
fn body(flower: &Flower) -> String {
    format!(r#"{{"inputs": [{flower:?}]}}"#)
}

// === impl Story ===

impl Story<'_> {
    /// The flowers of the data set, and what both servers say about them when they are asked without Envoy.
    pub(super) async fn asked_directly(&mut self) -> Result<Vec<Known>> {
        let mut asked = Vec::new();
        for known in known()? {
            let [blue, green] = [self.label(&BLUE, &known.body).await?, self.label(&GREEN, &known.body).await?];
            asked.push(Known { blue, green, ..known });
        }
        Ok(asked)
    }

    /// Copies requests to green and compares its answers with blue's: what differs are the flowers that are known to differ.
    pub(super) async fn answers_compared(&mut self, traffic: &Traffic, flowers: Vec<Known>) -> Result<()> {
        let before = Instant::now();
        self.narrator.step("Answers are compared, before any user is sent to green").await;
        self.copy(100, "compare answers").await?;
        self.narrator.meaning(
            "Blue answers each request, as before. Then the filter sends a copy to green, and compares the two answers.",
        );

        // The same as a line for a shell.
        self.narrator.command(&format!(
            "tail -n +2 model-server/iris.csv | while IFS=, read -r a b c d rest; do\n    \
             curl -s {TRAFFIC}/invocations -H 'content-type: application/json' \\\n        \
             -d \"{{\\\"inputs\\\": [[$a, $b, $c, $d]]}}\"; done"
        ));
        let progress = Progress::start(format!("Sending {} flowers", flowers.len()));
        for flower in &flowers {
            self.until_compared(flower).await?;
        }
        drop(progress);
        self.narrator.answer(&format!("({} answers, all of them blue's)", flowers.len()));

        let comparison = Call::get(format!("{DEPLOYMENT}/comparison")).token(VIEWER);
        let shadow = self.show(&comparison).await?.reply.accepted()?.json()?["shadow"].take();
        let shown = members(&shadow, &["compared", "disagreed", "sentence"]);
        self.narrator.answer(&format!("{{… \"shadow\": {shown}, …}}"));
        let found = self.show(&differing()).await?.reply.accepted()?.json()?;
        let found = found["disagreements"].as_array().context("no disagreements")?;
        for one in found {
            self.narrator.answer(&members(one, &["active", "candidate", "input", "times"]));
        }
        let differ: Vec<&Known> = flowers.iter().filter(|flower| flower.blue != flower.green).collect();
        let named: BTreeSet<_> =
            found.iter().map(|one| (text(one, "input"), text(one, "active"), text(one, "candidate"))).collect();
        let expected: BTreeSet<_> = differ
            .iter()
            .map(|flower| (flower.body.clone(), flower.blue.to_string(), flower.green.to_string()))
            .collect();
        ensure!(expected.iter().any(|(body, ..)| body == FLOWER), "expected the versions to differ on {FLOWER}");
        ensure!(named == expected, "expected these inputs and answers to differ: {expected:?}, got {named:?}");
        let blues = self.only(traffic, &BLUE, before).await?;
        let right = |said: fn(&Known) -> usize| differ.iter().filter(|flower| said(flower) == flower.species).count();
        self.narrator.meaning(&format!(
            "Of {} flowers the versions differ on these {}, each time with status 200: no error rate shows that. Version 2 is \
             right on {} of them, version 1 on {}. The live traffic sends one of them, so most answers differ. All {blues} of its \
             requests went to blue: no user was sent to green.",
            flowers.len(),
            differ.len(),
            right(|flower| flower.green),
            right(|flower| flower.blue)
        ));
        self.copy(0, "compared").await?;
        Ok(())
    }

    /// Sets the share of requests that is copied.
    async fn copy(&mut self, percent: u8, reason: &str) -> Result<()> {
        let reason = reason.replace(' ', "%20");
        let call = Call::new(Method::PATCH, format!("{DEPLOYMENT}?shadow_percent={percent}&reason={reason}"));
        let state = self.show(&call.token(OPERATOR)).await?.reply.accepted()?.json()?;
        self.narrator.answer(&members(&state, &["revision", "active", "canary_percent", "shadow_percent", "reason"]));
        let got = (state["shadow_percent"].as_f64(), state["canary_percent"].as_f64());
        ensure!(got == (Some(f64::from(percent)), Some(0.0)), "expected {percent} % copies and no canary, got {state}");
        Ok(())
    }

    /// Sends a flower, again if its copy was dropped, until its comparison is among the findings.
    async fn until_compared(&self, flower: &Known) -> Result<()> {
        let before = self.findings_about(flower).await?;
        let look = || self.findings_about(flower);
        let what = format!("the comparison of {}", flower.body);
        for attempt in 1..=ATTEMPTS {
            let answered = Call::invocation(TRAFFIC, &*flower.body).send(&self.http).await?;
            let got = (answered.reply.status, answered.header("x-bluegreen-colour"), &*answered.reply.text);
            let prediction = format!(r#"{{"predictions": [{}]}}"#, flower.blue);
            let wanted = (200, BLUE.colour, &*prediction);
            ensure!(got == wanted, "expected {wanted:?} for {}, got {got:?}", flower.body);
            match wait::until_within(PATIENCE, &what, look, |found| *found > before).await {
                Ok(_) => return Ok(()),
                Err(error) if attempt == ATTEMPTS => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// How often the filter has found what it should find of a flower: that the versions differ on it, or that both say the
    /// same. The live traffic sends no flower of which they say the same.
    async fn findings_about(&self, flower: &Known) -> Result<u64> {
        if flower.blue != flower.green {
            let found = differing().send(&self.http).await?.reply.accepted()?.json()?;
            let all = found["disagreements"].as_array().context("no disagreements")?;
            let of = all.iter().find(|one| one["input"] == flower.body);
            return Ok(of.and_then(|one| one["times"].as_u64()).unwrap_or(0));
        }
        let call = Call::get(format!("{DEPLOYMENT}/comparison")).token(VIEWER);
        let found = call.send(&self.http).await?.reply.accepted()?.json()?;
        let label = flower.blue.to_string();
        Ok(found["shadow"]["confusion"]["cells"][&label][&label].as_u64().unwrap_or(0))
    }

    /// What a model server says about a flower.
    async fn label(&self, model: &Model, body: &str) -> Result<usize> {
        let server = format!("http://127.0.0.1:{}", model.port);
        let answer = Call::invocation(&server, body).send(&self.http).await?.reply.accepted()?.json()?;
        let label = answer["predictions"][0].as_u64().and_then(|label| usize::try_from(label).ok());
        label.with_context(|| format!("expected a label for {body} from {}, got {answer}", model.colour))
    }
}

/// The call for the answers that differed.
fn differing() -> Call {
    Call::get(format!("{DEPLOYMENT}/disagreements")).token(VIEWER)
}

fn text(object: &Value, name: &str) -> String {
    object[name].as_str().unwrap_or_default().to_owned()
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flower_of_the_live_traffic_is_one_on_which_the_versions_differ() {
        let all = known().unwrap();
        let of = all.iter().find(|known| known.body == FLOWER).unwrap();
        assert_eq!((of.blue, of.green, of.species), (1, 2, 2));
    }
}
