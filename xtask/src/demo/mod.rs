//! The demo: two model versions, one Envoy, live traffic, and the switch between them told step by step.
//!
//! Read [`story`] first: it is what the user sees. [`stage`] starts and stops the parts (each a [`part`]), [`traffic`]
//! sends and judges the requests that flow all along, [`registry`] is the MLflow of `--mlflow`, [`call`] is a request that is shown as curl and sent,
//! [`narrator`] prints and paces, [`summary`] is the table at the end, [`ports`] looks before all this whether there is
//! room for it.

mod call;
mod fleet;
mod model;
mod narrator;
mod part;
mod ports;
mod registry;
mod stage;
mod story;
mod summary;
mod traffic;

use anyhow::{Context, Result};

use crate::checkout::Checkout;
use crate::etcd;
use crate::interrupt;
use crate::prepare::Prepared;

use fleet::FleetStory;
use narrator::Narrator;
use stage::{Models, Stage};
use story::Story;

/// How the demo runs.
pub struct DemoOptions {
    /// No pauses, for a machine that wants to know whether all is as expected.
    pub check: bool,
    /// Leave everything running at the end.
    pub keep: bool,
    /// The story with a real MLflow.
    pub mlflow: bool,
    /// The fleet's story instead.
    pub fleet: bool,
}

/// Tells the story; any step whose result is not the expected one is an error.
pub fn run(options: &DemoOptions, checkout: &Checkout) -> Result<()> {
    if options.fleet {
        return run_fleet(options, checkout);
    }
    // Before anything is downloaded or built: a port in use is found out in a moment.
    ports::ensure_free(options.mlflow)?;
    let models = if options.mlflow {
        Models::Mlflow(registry::Registry::obtain(checkout)?)
    } else {
        Models::Small(stage::build_model_server(checkout)?)
    };
    let prepared = Prepared::obtain(checkout)?;
    // More than one thread, so that a slow terminal delays no request of the live traffic.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let told = runtime.context("cannot start the asynchronous runtime")?.block_on(async {
        let mut stage = Stage::new(checkout, prepared, models)?;
        let mut narrator = Narrator::new(options.check);
        narrator.introduction(&stage.introduction());
        let story = Story::new(&mut stage, &mut narrator)?;
        if options.mlflow {
            story.tell_with_registry().await?
        } else {
            story.tell().await?
        }
        if options.keep { keep(&mut stage, &narrator).await } else { Ok(()) }
    });
    // A signal ends the parts under the story's feet; what it then says about them is of no interest.
    interrupt::wait_for_exit_if_ending();
    told
}

/// Tells the fleet's story.
fn run_fleet(options: &DemoOptions, checkout: &Checkout) -> Result<()> {
    etcd::obtain()?;
    let prepared = Prepared::obtain(checkout)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let told = runtime.context("cannot start the asynchronous runtime")?.block_on(async {
        let mut narrator = Narrator::new(options.check);
        FleetStory::begin(&mut narrator, &prepared).await?.tell(options.keep).await
    });
    interrupt::wait_for_exit_if_ending();
    told
}

/// Leaves everything running until a signal ends this process, or until a part ends by itself.
async fn keep(stage: &mut Stage, narrator: &Narrator) -> Result<()> {
    stage.start_model(&model::BLUE).await?;
    narrator.invitation(stage.logs());
    loop {
        stage.ensure_running()?;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}
