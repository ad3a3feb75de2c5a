//! How exactly the candidate gets its share, over few requests and over many.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::{Envoy, Load};
use serde::Serialize;
use serde_json::json;

use crate::gateway;
use crate::lab::{Lab, modify_runtime};
use crate::report::{BenchReport, Table, Target};
use bluegreen_programs::Progress;

const WORKERS: u32 = 2;
const CONNECTIONS: usize = 8;

/// The shares, in hundredths of a percent.
const BASIS_POINTS: [u32; 6] = [1, 10, 100, 500, 3333, 5000];

/// One share over one number of requests.
#[derive(Serialize)]
struct Trial {
    basis_points: u32,
    requests: u64,
    target: f64,
    bluegreen: u64,
    native: u64,
}

pub async fn run(lab: &Lab) -> Result<BenchReport> {
    let counts: &[u64] = lab.pick(&[1_000, 5_000], &[1_000, 100_000]);
    let ours = lab.start(gateway::shipped(lab)?, WORKERS).await?;
    let native = gateway::native(lab, gateway::weights(10_000, 0, Some("bench")))?;
    let native = lab.start(gateway::with_runtime(native), WORKERS).await?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let progress = Progress::start("Counting the candidate's requests");
    let mut trials = Vec::new();
    for requests in counts.iter().copied() {
        for basis_points in BASIS_POINTS {
            let percent = percent(basis_points);
            progress.detail(&format!("{percent} % of {requests}"));
            ours.admin()?.patch("iris", &[("canary_percent", &percent)]).await?.accepted()?;
            set_weights(&http, native.own_admin(), basis_points).await?;
            trials.push(Trial {
                basis_points,
                requests,
                target: requests as f64 * f64::from(basis_points) / 10_000.0,
                bluegreen: candidates(&ours, requests).await?,
                native: candidates(&native, requests).await?,
            });
        }
    }
    progress.done("Counted the candidate's requests");
    Ok(report(&trials))
}

/// The workers get the new weights some time after the answer: a few requests that are not counted see it through.
async fn set_weights(http: &reqwest::Client, admin: SocketAddr, basis_points: u32) -> Result<()> {
    modify_runtime(http, admin, &[("bench.blue", 10_000 - basis_points), ("bench.green", basis_points)]).await
}

/// Sends exactly so many requests and counts those that the candidate answered, by its own word.
async fn candidates(envoy: &Envoy, requests: u64) -> Result<u64> {
    let load = |count| anyhow::Ok(Load::new(envoy.traffic()?, "/invocations").connections(CONNECTIONS).at_most(count));
    load(200)?.run().await.ensure_no_failures()?;
    let report = load(requests)?.run().await;
    report.ensure_no_failures()?;
    let answered = u64::try_from(report.records.len())?;
    ensure!(answered == requests, "{answered} of {requests} requests were sent in time");
    let colours = report.records.iter().map(|record| {
        let colour = record.outcome.as_ref().ok().and_then(|answer| answer.body_colour.as_deref());
        colour.context("an answer without a colour")
    });
    let colours: Result<Vec<&str>> = colours.collect();
    Ok(u64::try_from(colours?.iter().filter(|colour| **colour == "green").count())?)
}

fn percent(basis_points: u32) -> String {
    format!("{}.{:02}", basis_points / 100, basis_points % 100)
}

fn report(trials: &[Trial]) -> BenchReport {
    let columns = ["candidate's share", "requests", "target", "bluegreen", "off by", "native", "off by"];
    let mut table = Table::new("Requests that went to the candidate", &columns);
    let off = |count: u64, target: f64| count as f64 - target;
    for trial in trials {
        table.row([
            format!("{} %", percent(trial.basis_points)),
            trial.requests.to_string(),
            format!("{:.1}", trial.target),
            trial.bluegreen.to_string(),
            format!("{:+.1}", off(trial.bluegreen, trial.target)),
            trial.native.to_string(),
            format!("{:+.1}", off(trial.native, trial.target)),
        ]);
    }
    let worst = trials.iter().map(|trial| off(trial.bluegreen, trial.target).abs() / f64::from(WORKERS));
    let worst = worst.fold(0.0, f64::max);
    BenchReport {
        title: "Split: how exactly the candidate gets its share".to_owned(),
        method: vec![format!(
            "An Envoy with {WORKERS} workers and {CONNECTIONS} connections; the upstream's answers are counted by colour. The \
             share is changed by bluegreen's admin API and by `runtime_modify`."
        )],
        tables: vec![table],
        targets: vec![Target::at_most(
            "bluegreen's largest error, in requests per worker",
            2.0,
            worst,
            "",
            "each worker rotates for itself and is off by less than two requests",
        )],
        notes: vec![
            "Native weights are drawn at random: the standard deviation of the count is √(n·p·(1−p)), 149 at one third \
             of 100,000."
                .to_owned(),
        ],
        measurements: json!({"workers": WORKERS, "trials": trials}),
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_told_in_percent_with_two_digits() {
        assert_eq!((percent(1), percent(3333), percent(5000)), ("0.01".into(), "33.33".into(), "50.00".into()));
    }

    #[test]
    fn the_largest_error_is_judged_per_worker() {
        let trial = |bluegreen| Trial { basis_points: 100, requests: 1_000, target: 10.0, bluegreen, native: 25 };
        assert!(report(&[trial(13), trial(10)]).targets[0].met);
        assert!(!report(&[trial(11), trial(15)]).targets[0].met);
    }
}
