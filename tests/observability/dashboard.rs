//! The Grafana dashboard, as far as it can be checked without Grafana.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::repository;
use serde_json::Value;

/// These show what is wrong, or has to be waited for: nothing may be.
pub const MAY_BE_EMPTY: [&str; 3] = ["Problems in the set-up", "Changes", "Traffic taken back"];

fn read() -> Result<Value> {
    let path = repository::root().join(crate::FOLDER).join("dashboard.json");
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().into_iter().flatten()
}

/// The expressions of panels and annotations with what they are of, and with Grafana's variables filled in.
pub fn queries() -> Result<Vec<(String, String)>> {
    let dashboard = read()?;
    let fill = |of: &Value, expression: &Value| -> Result<(String, String)> {
        let expression = expression.as_str().context("an expression")?;
        let filled =
            expression.replace("$deployment", "iris|").replace("$__rate_interval", "1m").replace("$__range", "5m");
        ensure!(!filled.contains('$'), "{expression}");
        Ok((of.as_str().context("a title")?.to_owned(), filled))
    };
    let mut queries = Vec::new();
    for panel in panels(&dashboard) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries.push(fill(&panel["title"], &target["expr"])?);
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().into_iter().flatten() {
        if annotation.get("builtIn").is_none() {
            queries.push(fill(&annotation["name"], &annotation["expr"])?);
        }
    }
    ensure!(queries.len() > 20, "{queries:#?}");
    Ok(queries)
}

/// The names of metrics in an expression.
fn metrics(expression: &str) -> BTreeSet<&str> {
    let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("bluegreen_")).collect()
}

#[test]
fn each_panel_has_what_grafana_needs_and_asks_for_metrics_that_there_are() -> Result<()> {
    let dashboard = read()?;
    ensure!(dashboard["schemaVersion"].as_u64() >= Some(39) && dashboard["uid"] == "bluegreen", "{dashboard}");
    let variables: Vec<&str> = dashboard["templating"]["list"]
        .as_array()
        .context("variables")?
        .iter()
        .filter_map(|v| v["name"].as_str())
        .collect();
    ensure!(variables == ["datasource", "deployment"], "{variables:?}");
    let mut ids = BTreeSet::new();
    let mut taken: Vec<(u64, u64, u64, u64)> = Vec::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().context("a title")?;
        ensure!(ids.insert(panel["id"].as_u64().context("an id")?), "{title}: its id is another's");
        let place = |field: &str| panel["gridPos"][field].as_u64().with_context(|| format!("{title}: {field}"));
        let (x, y, w, h) = (place("x")?, place("y")?, place("w")?, place("h")?);
        ensure!(x + w <= 24, "{title} is wider than the page");
        for (x2, y2, w2, h2) in &taken {
            ensure!(x >= x2 + w2 || *x2 >= x + w || y >= y2 + h2 || *y2 >= y + h, "{title} covers another");
        }
        taken.push((x, y, w, h));
        let kind = panel["type"].as_str().context("a type")?;
        ensure!(["row", "stat", "timeseries", "state-timeline", "table"].contains(&kind), "{title}: {kind}");
        if kind == "row" {
            continue;
        }
        ensure!(panel["fieldConfig"]["defaults"].is_object() && panel["options"].is_object(), "{title}");
        let targets = panel["targets"].as_array().with_context(|| format!("{title}: targets"))?;
        let references: BTreeSet<&str> = targets.iter().filter_map(|target| target["refId"].as_str()).collect();
        ensure!(!targets.is_empty() && references.len() == targets.len(), "{title}: {references:?}");
        for source in targets.iter().chain([panel]).map(|of| &of["datasource"]) {
            ensure!(source["type"] == "prometheus" && source["uid"] == "${datasource}", "{title}: {source}");
        }
    }
    let documented = crate::documented()?;
    for (of, expression) in queries()? {
        let metrics = metrics(&expression);
        ensure!(!metrics.is_empty(), "{of}: {expression}");
        ensure!(metrics.iter().all(|name| documented.contains_key(*name)), "{of}: {metrics:?}");
    }
    Ok(())
}
