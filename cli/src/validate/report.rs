//! What is shown of the findings.

use anyhow::Result;
use serde_json::json;

use super::finding::{Finding, Level};
use super::{Outcome, Seen};

/// A line for each finding, and one that says what was checked.
pub fn text(outcome: &Outcome, with_notes: bool) -> String {
    let mut text = String::new();
    for finding in &outcome.findings {
        if finding.level > Level::Note || with_notes {
            text.push_str(&line(finding));
        }
    }
    text.push_str(&summary(outcome, with_notes));
    text
}

fn line(finding: &Finding) -> String {
    let Finding { file, line, column, path, level, check, detail } = finding;
    let place = if *line > 0 { format!(":{line}:{column}") } else { String::new() };
    let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
    format!("{file}{place}: {level}[{}]: {path}{detail}\n", check.as_str())
}

fn summary(outcome: &Outcome, with_notes: bool) -> String {
    let count = |level: Level| outcome.findings.iter().filter(|finding| finding.level == level).count();
    let [errors, warnings, notes] = [Level::Error, Level::Warning, Level::Note].map(count);
    let seen = outcome.seen.described();
    let hidden = match notes {
        0 => String::new(),
        _ if with_notes => format!(", {}", counted(notes, "note")),
        _ => format!(", {} (--notes shows them)", counted(notes, "note")),
    };
    match (errors, warnings) {
        (0, 0) => format!("ok: {seen}{hidden}\n"),
        _ => format!("{}, {}{hidden}: {seen}\n", counted(errors, "error"), counted(warnings, "warning")),
    }
}

/// The same for programs.
///
/// # Errors
/// None that are known.
pub fn json(outcome: &Outcome) -> Result<String> {
    let is_ok = outcome.findings.iter().all(|finding| finding.level < Level::Error);
    let document = json!({"ok": is_ok, "checked": outcome.seen, "findings": outcome.findings});
    Ok(format!("{document:#}\n"))
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

// === impl Seen ===

impl Seen {
    fn described(&self) -> String {
        let parts = [
            (self.configurations, "configuration"),
            (self.deployments, "deployment"),
            (self.listeners, "listener"),
            (self.routes, "route"),
            (self.clusters, "cluster"),
            (self.manifests, "manifest"),
        ];
        let parts = parts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| counted(count, what));
        let parts: Vec<String> = parts.collect();
        let files = counted(self.files, "file");
        if parts.is_empty() {
            format!("{files}, nothing of bluegreen in it")
        } else {
            format!("{files} with {}", parts.join(", "))
        }
    }
}
