//! What every step is made of: a call shown with its answer, and what the traffic did meanwhile.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{DEPLOYMENT, OPERATOR, Story, VIEWER};
use crate::call::{Answered, Call};
use crate::model::{BLUE, GREEN, Model};
use crate::narrator::{brief, members};
use crate::traffic::Traffic;

pub(super) const TRAFFIC: &str = "http://127.0.0.1:10000";

/// Lets a tester reach either colour.
const OVERRIDE_HEADER: &str = "x-bluegreen-override";

/// How many requests must show what a step claims about the traffic.
const ENOUGH: u64 = 200;

// === impl Story ===

impl Story<'_> {
    /// Shows a prediction through Envoy, which must be `expected`'s.
    pub(super) async fn predict(&mut self, expected: &Model, wanted: Option<&Model>) -> Result<()> {
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
    pub(super) async fn write(&mut self, call: &Call) -> Result<(Answered, Value)> {
        let answered = self.show(call).await?;
        let state = answered.reply.accepted()?.json()?;
        self.narrator.answer(&members(
            &state,
            &["name", "revision", "active", "candidate", "canary_percent", "changed_by", "reason"],
        ));
        Ok((answered, state))
    }

    /// Shows a call of the admin API that must be refused for the reason `kind`, with `active` still active.
    pub(super) async fn refused(&mut self, call: &Call, kind: &str, active: &Model) -> Result<Value> {
        let reply = self.show(&call.clone().token(OPERATOR)).await?.reply;
        let problem = reply.json()?;
        self.narrator.answer(&members(&problem, &["title", "status", "detail"]));
        let got = (reply.status, &problem["type"], &problem["state"]["active"]);
        let expected = (409, &format!("urn:bluegreen:problem:{kind}").into(), &active.colour.into());
        ensure!(got == expected, "expected status, type and active colour {expected:?}, got {got:?}");
        Ok(problem)
    }

    /// Shows a call of the admin API that reads the deployment's state.
    pub(super) async fn admin(&mut self, call: &Call) -> Result<Value> {
        let state = self.show(call).await?.reply.accepted()?.json()?;
        self.narrator.answer(&members(&state, &["name", "revision", "active", "candidate", "canary_percent"]));
        Ok(state)
    }

    /// Shows what the admin API says about both colours.
    pub(super) async fn colours(&mut self) -> Result<Value> {
        let state = self.show(&Call::get(DEPLOYMENT).token(VIEWER)).await?.reply.accepted()?.json()?;
        self.show_colours(&state);
        Ok(state)
    }

    pub(super) fn show_colours(&self, state: &Value) {
        self.narrator.answer(&format!("{{… \"active\": {}, …, \"colours\": {{", state["active"]));
        for model in [&BLUE, &GREEN] {
            let colour = members(&state["colours"][model.colour], &["in_flight", "safe_to_stop", "probe"]);
            self.narrator.answer(&format!("  \"{}\": {colour}", model.colour));
        }
        self.narrator.answer("}, …}");
    }

    pub(super) async fn show(&mut self, call: &Call) -> Result<Answered> {
        self.narrator.command(&call.curl());
        call.send(&self.http).await
    }

    /// Waits for enough traffic and fails unless all that began after `since` went to `model`; says how many did.
    pub(super) async fn only(&mut self, traffic: &Traffic, model: &Model, since: Instant) -> Result<u64> {
        traffic.more(ENOUGH).await?;
        let failed = traffic.failed();
        ensure!(failed == 0, "expected no failed request, got {failed}: {}", traffic.failures());
        let share = traffic.since(since);
        let went = if model.colour == BLUE.colour { share.blue } else { share.green };
        ensure!(went == share.sent, "expected all requests to go to {}, got {share:?}", model.colour);
        Ok(went)
    }
}
