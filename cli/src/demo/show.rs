//! The demo for a person: what to type into another terminal, and what that does to the traffic.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use bluegreen_demo::traffic::{Share, failures};
use bluegreen_programs::Progress;

use super::Arguments;
use super::envoy::Found;
use super::stage::{DEPLOYMENT, Stage};

/// How often the traffic is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// By how many percent points green's share has to move to be news.
const NEWS: f64 = 2.0;

/// Shows the traffic until this future is dropped, or until Envoy has ended.
pub async fn until_stopped(stage: &mut Stage, found: &Found, arguments: &Arguments) -> Result<()> {
    let invitation = invitation(stage, found, arguments)?;
    let live = Progress::start("Live traffic");
    live.beside(&invitation);
    let (mut sent, mut failed, mut told) = (0, 0, None);
    loop {
        tokio::time::sleep(PERIOD).await;
        stage.ensure_running()?;
        let report = stage.traffic.take();
        let share = Share::of(&report);
        sent += share.sent;
        let lost = report.failures().len();
        failed += lost;
        if share.sent == 0 {
            bail!("no request was answered for {PERIOD:?}");
        }
        let green = share.green_percent();
        live.detail(&format!("blue {:.0} %, green {green:.0} %; {sent} requests, {failed} failed", 100.0 - green));
        if lost > 0 || told.is_none_or(|told: f64| (told - green).abs() > NEWS) {
            told = Some(green);
            let why = if lost > 0 { format!(": {}", failures(&report)) } else { String::new() };
            live.beside(&format!("green gets {green:.0} % of the requests; {failed} of {sent} have failed{why}"));
        }
    }
}

fn invitation(stage: &Stage, found: &Found, arguments: &Arguments) -> Result<String> {
    let [blue, green] = stage.models;
    let (clients, api, token) = (stage.clients()?, stage.api()?, stage.token());
    let release = found.release.as_deref().map_or_else(String::new, |release| format!("Envoy {release}, "));
    let late = if arguments.slow_green { ", and answers late" } else { "" };
    let end = if arguments.slow_green { "until the guard takes it back" } else { "watched by the guard" };
    let alias = alias().map_or_else(String::new, |path| format!("  alias bluegreen={path}\n"));
    Ok(format!(
        "
  blue    http://{blue}   version 1, gets all requests
  green   http://{green}   version 2, gets none yet{late}
  Envoy   http://{clients}   gets 200 requests a second ({release}{binary})
  API     {api}

Type in another terminal:

{alias}  export BLUEGREEN_URL={api} BLUEGREEN_TOKEN={token}
  bluegreen status --watch                   # in a terminal of its own: leave it open
  bluegreen test {DEPLOYMENT}                        # ask green, before any user does
  bluegreen canary {DEPLOYMENT} 10                   # one request in ten goes to green
  bluegreen compare {DEPLOYMENT}                     # both versions side by side
  bluegreen promote {DEPLOYMENT} --to green          # all requests go to green
  bluegreen rollback {DEPLOYMENT}                    # and back
  bluegreen rollout start {DEPLOYMENT} --follow      # in two steps, {end}
  bluegreen history {DEPLOYMENT}

Ctrl-C ends everything.
",
        binary = found.binary.display(),
    ))
}

/// Where this program is, if `bluegreen` alone does not start it.
fn alias() -> Option<String> {
    let typed = PathBuf::from(env::args_os().next()?);
    let named = typed.components().count() > 1;
    named.then(|| env::current_exe().unwrap_or(typed).display().to_string())
}
