//! One command moves a whole fleet: one Envoy makes the change, and the command waits until the others follow.

use anyhow::{Result, ensure};
use bluegreen_testbed::Bootstrap;
use bluegreen_tests::command_line::{Cli, url};

use crate::environment::Environment;

const ENVOYS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_command_moves_the_whole_fleet_by_one_change() -> Result<()> {
    let mut env = Environment::with(ENVOYS, Bootstrap::shipped()?).await?;
    let cli = Cli::at(&env.fleet.envoys.iter().collect::<Vec<_>>())?;
    cli.says("promote iris --to green", 0, &["green (version 2) gets all traffic (revision 1), on 3 Envoys"]).await?;
    for index in 0..ENVOYS {
        let state = env.deployment(index).await?;
        ensure!((state.active.as_str(), state.revision) == ("green", 1), "Envoy {index}: {state:?}");
    }
    cli.says("promote iris --to green", 0, &["already: green (version 2)", "(revision 1), on 3 Envoys"]).await?;
    cli.says("history iris", 0, &["active blue → green"]).await?;

    let lost = format!("cannot reach the API at {}: ", url(&env.fleet.envoys[0])?);
    env.fleet.envoys[0].kill()?;
    cli.says("rollback iris --to blue", 1, &["blue (version 1) gets all traffic (revision 2)", &lost]).await?;
    for index in 1..ENVOYS {
        let state = env.deployment(index).await?;
        ensure!((state.active.as_str(), state.revision) == ("blue", 2), "Envoy {index}: {state:?}");
    }
    Ok(())
}
