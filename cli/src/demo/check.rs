//! The demo without a person: the commands that [`super::show`] proposes, run one after the other while traffic flows.

use std::env;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bluegreen_demo::model::{BLUE, GREEN, Model};
use bluegreen_demo::narrator::Narrator;
use bluegreen_demo::summary::Summary;
use bluegreen_testbed::Admin;
use tokio::process::Command;

use super::stage::{DEPLOYMENT, Stage};

/// How many requests have to show what a step claims.
const ENOUGH: u64 = 200;

/// How many requests the canary's share is measured over, and by how many percent points it may be off.
const SAMPLE: u64 = 1000;
const TOLERANCE: f64 = 1.0;

/// How many changes the steps make.
const CHANGES: usize = 4;

/// The demo while it runs.
struct Check {
    stage: Stage,
    narrator: Narrator,
    admin: Admin,
    program: PathBuf,
}

/// Runs every step, and fails at the first that does not go well.
pub async fn run(stage: Stage) -> Result<()> {
    let program = env::current_exe().context("cannot tell where this program is")?;
    let admin = stage.admin()?;
    let mut this = Check { stage, narrator: Narrator::new(true), admin, program };
    let told = this.steps().await;
    // An Envoy that has ended explains more than the step that noticed it.
    let told = told.and_then(|()| this.stage.ensure_running());
    told.or_else(|error| this.stage.ensure_running().and(Err(error))).with_context(|| this.narrator.place())?;
    this.balance().await
}

// === impl Check ===

impl Check {
    async fn steps(&mut self) -> Result<()> {
        self.narrator.step("Blue serves").await;
        self.command(&["status"]).await?;
        self.all_go_to(&BLUE, Instant::now()).await?;
        self.narrator.step("Green takes its smoke test").await;
        self.command(&["test", DEPLOYMENT]).await?;
        self.narrator.step("One request in ten goes to green").await;
        self.canary().await?;
        self.narrator.step("Both versions side by side").await;
        self.command(&["compare", DEPLOYMENT]).await?;
        self.narrator.step("All requests go to green").await;
        self.switch(&["promote", DEPLOYMENT, "--to", "green"], &BLUE, &GREEN).await?;
        self.narrator.step("And back").await;
        self.switch(&["rollback", DEPLOYMENT], &GREEN, &BLUE).await?;
        self.narrator.step("Green again, and twice: the second call changes nothing").await;
        self.switch(&["promote", DEPLOYMENT, "--to", "green"], &BLUE, &GREEN).await?;
        let revision = self.admin.deployment(DEPLOYMENT).await?.revision;
        self.command(&["promote", DEPLOYMENT, "--to", "green"]).await?;
        let repeated = self.admin.deployment(DEPLOYMENT).await?.revision;
        ensure!(repeated == revision, "expected revision {revision} still, got {repeated}");
        self.narrator.step("Blue may stop when nothing needs it any more").await;
        self.command(&["drain", DEPLOYMENT, BLUE.colour]).await?;
        self.narrator.step("Who did what").await;
        self.command(&["history", DEPLOYMENT]).await
    }

    async fn canary(&mut self) -> Result<()> {
        self.command(&["canary", DEPLOYMENT, "10"]).await?;
        let since = Instant::now();
        self.stage.traffic.more(SAMPLE).await?;
        let share = self.stage.traffic.since(since);
        let percent = share.green_percent();
        ensure!(
            (percent - 10.0).abs() <= TOLERANCE,
            "expected green to get 10 % of the requests, give or take {TOLERANCE} point, got {percent:.2} % ({share:?})"
        );
        self.narrator.meaning(&format!("Green got {} of the next {} requests.", share.green, share.sent));
        Ok(())
    }

    async fn switch(&mut self, arguments: &[&str], old: &Model, new: &Model) -> Result<()> {
        let called = Instant::now();
        self.command(arguments).await?;
        let in_force = Instant::now();
        self.stage.traffic.moved(&arguments.join(" "), old.colour, called, in_force);
        self.all_go_to(new, in_force).await
    }

    async fn all_go_to(&mut self, model: &Model, since: Instant) -> Result<()> {
        let active = self.admin.deployment(DEPLOYMENT).await?.active;
        ensure!(active == model.colour, "expected {} to be active, got {active}", model.colour);
        self.stage.traffic.more(ENOUGH).await?;
        let share = self.stage.traffic.since(since);
        let went = if model.colour == BLUE.colour { share.blue } else { share.green };
        ensure!(went == share.sent, "expected all requests to go to {}, got {share:?}", model.colour);
        self.narrator.meaning(&format!("All of the next {went} requests went to {}.", model.colour));
        Ok(())
    }

    /// Runs this program as a user would, and shows what it says.
    async fn command(&mut self, arguments: &[&str]) -> Result<()> {
        let typed = format!("bluegreen {}", arguments.join(" "));
        self.narrator.command(&typed);
        let mut command = Command::new(&self.program);
        command.args(arguments).env("BLUEGREEN_URL", self.stage.api()?).env("BLUEGREEN_TOKEN", self.stage.token());
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("cannot start it")?;
        self.narrator.answer(&String::from_utf8_lossy(&output.stdout));
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{typed}` ended with {}: {}", output.status, complaint.trim());
        Ok(())
    }

    /// Ends the traffic; fails unless every request was answered well, by the colour in force.
    async fn balance(self) -> Result<()> {
        let Self { stage, narrator, admin, .. } = self;
        let changes = admin.history(DEPLOYMENT).await?.len();
        ensure!(changes == CHANGES, "expected {CHANGES} changes in the history, got {changes}");
        let (report, switches) = stage.end().await;
        let summary = Summary::of(&report, &switches);
        narrator.tables(&summary.tables());
        summary.ensure_flawless()?;
        narrator.conclusion("Every step went as expected, and no request was lost.");
        Ok(())
    }
}
