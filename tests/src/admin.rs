//! What every refusal by the admin API must be like.

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::admin::Reply;
use bluegreen_testbed::raw::Answer;
use serde_json::Value;

/// Fails unless this is a problem document (RFC 9457) with a type, a title and a detail; `sent` is for the message.
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

/// Fails unless the reply has this status and this problem type (`kind` is the part after `urn:bluegreen:problem:`).
pub fn ensure_problem_type(reply: &Reply, status: u16, kind: &str) -> Result<()> {
    let seen = reply.json()?["type"].clone();
    let expected = (status, format!("urn:bluegreen:problem:{kind}"));
    ensure!((reply.status, seen.as_str()) == (expected.0, Some(&*expected.1)), "expected {expected:?}, got {reply:?}");
    Ok(())
}

/// Fails unless the reply is a 409 of this problem type whose detail contains `words`.
pub fn ensure_conflict(reply: &Reply, kind: &str, words: &str) -> Result<()> {
    ensure_problem_type(reply, 409, kind)?;
    let problem = reply.json()?;
    let detail = problem["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains(words), "{words:?} is not in the detail {detail:?}");
    Ok(())
}
