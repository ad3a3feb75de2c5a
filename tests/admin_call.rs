//! Calls to the filter's admin API as bytes, and what every refusal must be like.

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::admin::Reply;
use bluegreen_testbed::raw::Answer;
use serde_json::Value;

use crate::{IRIS, Stage};

/// A request with the operator's token, as bytes.
pub fn call(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: Bearer demo-operator-token\r\n{headers}{length}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Fails unless this is a problem document (RFC 9457) that helps.
pub fn ensure_problem(sent: &str, answer: &Answer) -> Result<()> {
    let kind = answer.header("content-type");
    ensure!(kind == Some("application/problem+json"), "{sent}: content-type {kind:?}: {answer:?}");
    let problem: Value = serde_json::from_str(&answer.body).with_context(|| format!("{sent}: {answer:?}"))?;
    for member in ["type", "title", "detail"] {
        let text = problem[member].as_str().unwrap_or_default();
        ensure!(!text.is_empty(), "{sent}: no {member} in {problem:#}");
    }
    ensure!(problem["status"].is_null() || problem["status"] == answer.status, "{sent}: {problem:#}");
    Ok(())
}

/// Fails unless this is the refusal of this kind, 409, whose text has `words`.
pub fn ensure_conflict(reply: &Reply, kind: &str, words: &str) -> Result<()> {
    let problem = reply.json()?;
    let seen = (reply.status, problem["type"].as_str().unwrap_or_default());
    ensure!(seen == (409, &format!("urn:bluegreen:problem:{kind}")), "not refused as {kind}: {reply:?}");
    let detail = problem["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains(words), "{words:?} is not in the detail {detail:?}");
    Ok(())
}

/// Fails when anything has changed the deployment since Envoy started; `sent` is what might have.
pub async fn ensure_untouched(stage: &Stage, sent: &str) -> Result<()> {
    let state = stage.envoy.admin()?.deployment(IRIS).await?;
    let untouched = state.revision == 0 && state.active == "blue" && state.canary_percent == 0.0;
    ensure!(untouched, "{sent} changed the state: {state:?}");
    Ok(())
}
