//! The story, step by step: each shows real commands and their real answers, and fails when one is not as expected.
//!
//! [`Story::all_steps`] is its table of contents. What the steps do is told in their order: [`arrival`] of the new
//! version, answers that are compared before a user gets one ([`comparing`]), a bad version that is rolled back
//! automatically ([`guarded`]), the [`canary`] and what it shows, [`switching`] forth and back, and the [`departure`] of the
//! old one. With `--mlflow` a [`registry`] does the switching. Each stands on
//! [`showing`], which shows a call, its answer, and what the traffic did meanwhile.

mod arrival;
mod canary;
mod comparing;
mod departure;
mod guarded;
mod registry;
mod showing;
mod switching;

use anyhow::{Context, Result};
use reqwest::Client;

use crate::environment::Environment;
use crate::model::{BLUE, GREEN};
use crate::narrator::Narrator;
use crate::summary::Summary;
use crate::traffic::Traffic;

use self::switching::millis;

const DEPLOYMENT: &str = "http://127.0.0.1:10001/bluegreen/v1/deployments/iris";

/// Where Envoy takes traffic.
const TRAFFIC_PORT: u16 = 10000;

const OPERATOR: &str = "demo-operator-token";
const VIEWER: &str = "demo-viewer-token";

/// The story while it is told.
pub struct Story<'a> {
    environment: &'a mut Environment,
    narrator: &'a mut Narrator,
    http: Client,
}

// === impl Story ===

impl<'a> Story<'a> {
    pub fn new(environment: &'a mut Environment, narrator: &'a mut Narrator) -> Result<Self> {
        let http = Client::builder().no_proxy().build().context("cannot make an HTTP client")?;
        Ok(Self { environment, narrator, http })
    }

    /// Tells it all, and ends with the table.
    pub async fn tell(mut self) -> Result<()> {
        let told = self.all_steps().await;
        // A part that has ended explains more than the step that noticed it.
        told.and_then(|()| self.environment.ensure_running())
            .or_else(|error| self.environment.ensure_running().and(Err(error)))
            .with_context(|| self.narrator.place())
    }

    /// Tells the tutorial's story, in which MLflow's registry moves the traffic.
    pub async fn tell_with_registry(mut self) -> Result<()> {
        let told = self.all_steps_with_registry().await;
        told.and_then(|()| self.environment.ensure_running())
            .or_else(|error| self.environment.ensure_running().and(Err(error)))
            .with_context(|| self.narrator.place())
    }

    async fn all_steps(&mut self) -> Result<()> {
        let mut traffic = self.blue_serves().await?;
        self.promoting_nobody(&traffic).await?;
        self.green_starts(&traffic).await?;
        self.green_is_tried(&traffic).await?;
        self.smoke_test(&traffic).await?;
        self.answers_compared(&traffic, comparing::known()?).await?;
        self.bad_green(&traffic).await?;
        self.canary(&traffic).await?;
        self.comparison().await?;
        self.promote("Promote: green serves", &mut traffic).await?;
        self.roll_back(&mut traffic).await?;
        self.rolling_back_twice(&traffic).await?;
        let switched = self.promote("Promote again", &mut traffic).await?;
        self.blue_is_the_way_back().await?;
        self.drain(switched, &traffic).await?;
        self.blue_stops(&traffic).await?;
        self.rolling_back_to_nobody(&traffic).await?;
        self.history().await?;
        self.balance(traffic).await
    }

    async fn all_steps_with_registry(&mut self) -> Result<()> {
        self.two_versions_registered().await?;
        let mut traffic = self.blue_serves().await?;
        self.the_webhook().await?;
        self.marking_nobody(&traffic).await?;
        self.green_is_served(&traffic).await?;
        self.green_is_tried(&traffic).await?;
        self.smoke_test(&traffic).await?;
        let asked = self.asked_directly().await?;
        self.answers_compared(&traffic, asked).await?;
        self.mark("The Production mark moves traffic", &GREEN, &mut traffic).await?;
        self.blue_is_the_way_back().await?;
        self.mark("Second thoughts: the mark moves back", &BLUE, &mut traffic).await?;
        let switched = self.mark("The mark moves forward again", &GREEN, &mut traffic).await?;
        self.drain(switched, &traffic).await?;
        self.blue_is_stopped(&traffic).await?;
        self.marking_the_departed(&traffic).await?;
        self.history_of(5).await?;
        self.three_mistakes().await;
        self.balance(traffic).await
    }

    async fn balance(&mut self, traffic: Traffic) -> Result<()> {
        let (report, switches) = traffic.stop().await;
        let summary = Summary::of(&report, &switches);
        self.narrator.tables(&summary.tables());
        summary.ensure_flawless()?;
        self.narrator.conclusion("Every step went as expected, and no request was lost.");
        Ok(())
    }
}
