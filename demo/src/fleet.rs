//! The fleet's story: four Envoys that switch together, and what happens when etcd or one of them goes away.
//!
//! The parts are the testbed's, on free ports, so that this story and the other one can run side by side.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bluegreen_programs::prepared::Prepared;
use bluegreen_testbed::load::Running;
use bluegreen_testbed::{Bootstrap, Fleet, Load, Upstream, envoy, wait};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use reqwest::{Client, Method};
use serde_json::Value;

use crate::call::{Answered, Call};
use crate::narrator::{Narrator, members};

const ENVOYS: usize = 4;

/// Requests per second to each Envoy.
const RATE: f64 = 250.0;

/// How many requests to each Envoy must show what a step claims.
const ENOUGH: usize = 50;

/// One switch, and for each Envoy how long after the answer the last request began that got the old colour.
struct Switch {
    name: String,
    answered_within: Duration,
    late: Vec<Duration>,
}

/// The story while it is told.
pub struct FleetStory<'a> {
    narrator: &'a mut Narrator,
    fleet: Fleet,
    loads: Vec<Option<Running>>,
    http: Client,
    switches: Vec<Switch>,
    _models: [Upstream; 2],
}

// === impl FleetStory ===

impl<'a> FleetStory<'a> {
    pub async fn begin(narrator: &'a mut Narrator, prepared: &Prepared) -> Result<Self> {
        let models = [Upstream::start("blue").await?, Upstream::start("green").await?];
        let bootstrap = Bootstrap::shipped()?
            .with_wasm(&prepared.module)
            .with_cluster("blue", models[0].address())
            .with_cluster("green", models[1].address());
        let options = |options: envoy::Options| options.binary(&prepared.envoy).concurrency(1);
        let fleet = Fleet::start(ENVOYS, &bootstrap, options).await?;
        let http = Client::builder().no_proxy().build().context("cannot make an HTTP client")?;
        let mut this = Self { narrator, fleet, loads: Vec::new(), http, switches: Vec::new(), _models: models };
        for index in 0..ENVOYS {
            let load = this.send_to(index)?;
            this.loads.push(Some(load));
        }
        Ok(this)
    }

    pub async fn tell(mut self, keep: bool) -> Result<()> {
        let told = self.all_steps().await.with_context(|| self.narrator.place());
        told?;
        let table = self.table();
        self.narrator.tables(&table);
        self.narrator.conclusion("Every step went as expected, and no request was lost.");
        if keep {
            self.invite()?;
            loop {
                self.fleet.envoys.iter_mut().try_for_each(envoy::Envoy::ensure_running)?;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        Ok(())
    }

    async fn all_steps(&mut self) -> Result<()> {
        self.four_are_ready().await?;
        self.switch("Promote through the first Envoy: all four switch", 0, "promote", "green").await?;
        self.switch("Roll back through the last one", 3, "rollback", "blue").await?;
        self.stale_condition().await?;
        let leader = self.fleet.etcd.leader()?;
        self.narrator.step("etcd loses the member that the others follow").await;
        self.fleet.etcd.kill(leader)?;
        self.narrator
            .meaning("Killed with SIGKILL. The two that are left elect another one, which takes about a second.");
        self.switch("Promote: two of three are enough", 1, "promote", "green").await?;
        let other = (leader + 1) % 3;
        self.no_quorum(other).await?;
        self.fleet.etcd.restart(other).await?;
        for index in 0..ENVOYS {
            let admin = self.fleet.admin(index)?;
            wait::until("contact", || admin.deployment("iris"), |state| state.stale == Some(false)).await?;
        }
        self.switch("The member is back: roll back, nothing had to be restarted", 2, "rollback", "blue").await?;
        self.switch("Promote again", 2, "promote", "green").await?;
        self.envoy_dies().await?;
        self.history().await?;
        for load in self.loads.drain(..).flatten() {
            load.stop().await.ensure_no_failures()?;
        }
        Ok(())
    }

    async fn four_are_ready(&mut self) -> Result<()> {
        self.narrator.step("Four Envoys, one record").await;
        for index in 0..ENVOYS {
            let answered = self.show(&Call::get(self.url(index, "readyz")?)).await?;
            self.narrator.answer(&answered.reply.text);
            ensure!(answered.reply.status == 200, "expected Envoy {index} to be ready, got {:?}", answered.reply);
        }
        self.narrator.meaning(
            "Each has read the deployment's state from etcd. The first one to come created it there from `initial`.",
        );
        Ok(())
    }

    async fn switch(&mut self, title: &str, index: usize, action: &str, to: &'static str) -> Result<()> {
        self.narrator.step(title).await;
        let call = Call::new(Method::POST, self.url(index, &format!("v1/deployments/iris/{action}"))?);
        let answered = self.show(&call.token(envoy::OPERATOR)).await?;
        let state = answered.reply.accepted()?.json()?;
        self.narrator.answer(&members(&state, &["name", "revision", "active", "changed_by"]));
        ensure!(state["active"] == to, "expected {to} to be active, got {state}");
        let old = if to == "green" { "blue" } else { "green" };
        let mut late = Vec::new();
        for load in self.loads.iter().flatten() {
            late.push(last_old(load, old, answered.at).await?);
        }
        let worst = late.iter().max().copied().unwrap_or_default();
        self.narrator.meaning(&format!(
            "Answered after {:.1} ms. {:.1} ms after that the last request on any of the four went to {old}.",
            millis(answered.took()),
            millis(worst)
        ));
        ensure!(worst < Duration::from_secs(1), "expected all four to follow at once, the last one took {worst:?}");
        let name = format!("{action} on {}", index + 1);
        self.switches.push(Switch { name, answered_within: answered.took(), late });
        Ok(())
    }

    async fn stale_condition(&mut self) -> Result<()> {
        self.narrator.step("Two operators, two Envoys, one revision").await;
        let call = Call::new(Method::POST, self.url(1, "v1/deployments/iris/promote")?);
        let call = call.token(envoy::OPERATOR).header("if-match", "\"1\"");
        let problem = self.show(&call).await?.reply.json()?;
        self.narrator.answer(&members(&problem, &["title", "status", "detail"]));
        ensure!(problem["status"] == 412, "expected a refusal, got {problem}");
        self.narrator.meaning("If-Match holds across the fleet: the condition is part of the transaction.");
        Ok(())
    }

    async fn no_quorum(&mut self, member: usize) -> Result<()> {
        self.narrator.step("etcd loses a second member: traffic flows, switches are refused").await;
        self.fleet.etcd.kill(member)?;
        let call = Call::new(Method::POST, self.url(0, "v1/deployments/iris/rollback")?);
        let problem = self.show(&call.token(envoy::OPERATOR)).await?.reply.json()?;
        self.narrator.answer(&members(&problem, &["title", "status", "detail"]));
        ensure!(problem["status"] == 503, "expected a refusal, got {problem}");
        for index in 0..ENVOYS {
            let admin = self.fleet.admin(index)?;
            wait::until("a stale state", || admin.deployment("iris"), |state| state.stale == Some(true)).await?;
        }
        let state = self.read(0).await?;
        ensure!(state["active"] == "green", "expected the last state to stay, got {state}");
        for load in self.loads.iter().flatten() {
            load.more(ENOUGH as u64).await?;
        }
        self.narrator.meaning("Each Envoy keeps the last state that it knows, and says that it may be stale.");
        Ok(())
    }

    async fn envoy_dies(&mut self) -> Result<()> {
        self.narrator.step("An Envoy dies and comes back").await;
        // Its own clients would notice, of course.
        if let Some(load) = self.loads.get_mut(3).and_then(Option::take) {
            load.stop().await.ensure_no_failures()?;
        }
        let fourth = self.fleet.envoys.get_mut(3).context("four Envoys")?;
        fourth.kill()?;
        fourth.restart().await?;
        let started = Instant::now();
        self.fleet.until_ready(3).await?;
        let ready = started.elapsed();
        ensure!(ready < Duration::from_secs(1), "expected it to be ready within a second, it took {ready:?}");
        let report = Load::new(self.fleet.envoy(3)?.traffic()?, "/invocations").at_most(ENOUGH as u64).run().await;
        report.ensure_no_failures()?;
        ensure!(report.count("green") == ENOUGH as u64, "expected green only, got {:?}", report.colours());
        self.read(3).await?;
        self.narrator.meaning(&format!(
            "Its configuration says blue. It was ready {:.0} ms after its workers had started, and no request went to blue.",
            millis(ready)
        ));
        Ok(())
    }

    async fn history(&mut self) -> Result<()> {
        self.narrator.step("Every change, on every Envoy").await;
        let call = Call::get(self.url(3, "v1/deployments/iris/history")?).token(envoy::VIEWER);
        let history = self.show(&call).await?.reply.accepted()?.json()?;
        let changes = history["changes"].as_array().cloned().unwrap_or_default();
        for change in &changes {
            self.narrator.answer(&members(change, &["revision", "by", "source", "to"]));
        }
        ensure!(changes.len() == self.switches.len(), "expected {} changes, got {history}", self.switches.len());
        self.narrator.meaning("The history lives in etcd too: the Envoy that was restarted has all of it.");
        Ok(())
    }

    async fn read(&self, index: usize) -> Result<Value> {
        let call = Call::get(self.url(index, "v1/deployments/iris")?).token(envoy::VIEWER);
        let state = self.show(&call).await?.reply.accepted()?.json()?;
        self.narrator.answer(&members(&state, &["name", "revision", "active", "changed_by", "stale"]));
        Ok(state)
    }

    async fn show(&self, call: &Call) -> Result<Answered> {
        self.narrator.command(&call.curl());
        call.send(&self.http).await
    }

    fn url(&self, index: usize, path: &str) -> Result<String> {
        Ok(format!("http://{}/bluegreen/{path}", self.fleet.envoy(index)?.listener(envoy::ADMIN)?))
    }

    fn send_to(&self, index: usize) -> Result<Running> {
        let load = Load::new(self.fleet.envoy(index)?.traffic()?, "/invocations").connections(2).rate(RATE);
        Ok(load.at_most(3_000_000).lasting(Duration::from_secs(3_600)).start())
    }

    /// How late the last request with the old colour was, for each switch and each Envoy.
    fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        let envoys = (1..=ENVOYS).map(|number| format!("Envoy {number}"));
        let heads = ["switch".to_owned(), "answer".to_owned()].into_iter().chain(envoys);
        table.set_header(heads.collect::<Vec<_>>());
        for Switch { name, answered_within, late } in &self.switches {
            let cells = [name.clone(), format!("{:.1}", millis(*answered_within))].into_iter();
            table.add_row(cells.chain(late.iter().map(|late| format!("{:.1}", millis(*late)))).collect::<Vec<_>>());
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("ms until the answer, and from then to the last request that went to the old colour\n{table}")
    }

    fn invite(&self) -> Result<()> {
        let mut text = "Everything runs until Ctrl-C. Try, on any of the four:".to_owned();
        for index in 0..ENVOYS {
            let path = "v1/deployments/iris/promote?to=blue";
            let call = Call::new(Method::POST, self.url(index, path)?).token(envoy::OPERATOR);
            text += &format!("\n\n  {}", call.curl());
        }
        self.narrator.conclusion(&text);
        Ok(())
    }
}

/// Waits until the requests to one Envoy have the new colour, and says how long after the answer the last one began that
/// had not.
async fn last_old(load: &Running, old: &str, answered: Instant) -> Result<Duration> {
    load.settled(ENOUGH, answered, |record| record.colour().is_some_and(|seen| seen != old)).await?;
    let since = load.recent(usize::MAX).begun_after(answered);
    let late = since.records.iter().filter(|record| record.colour() == Some(old)).map(|record| record.began - answered);
    Ok(late.max().unwrap_or_default())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
