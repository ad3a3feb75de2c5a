//! `docker-compose.yml`, brought up in a Docker engine and driven through its published ports, in each profile.
//!
//! `cargo xtask test --suite compose` runs this; it sees to the base images and says which compose programs there are.

mod project;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::wait;
use bluegreen_tests::IRIS;
use reqwest::Client;
use serde_json::{Value, json};

use project::{Port, Profile, Program, Project};

#[tokio::test]
async fn every_compose_program_brings_it_up_hardened_and_traffic_is_switched_through_published_ports() -> Result<()> {
    for program in Program::all()? {
        let project = Project::up(&program, Profile::None).await?;
        project.ensure_hardened()?;
        let admin = project.admin(Port::Admin)?;
        let running = project.load(Port::Traffic)?.start();
        running.more(40).await?;
        admin.promote(IRIS).await?;
        running.more(40).await?;
        ensure!(admin.rollback(IRIS).await?.active == "blue", "no way back");
        running.more(40).await?;
        let report = running.stop().await;
        report.ensure_no_failures()?;
        ensure!(report.count("blue") > 0 && report.count("green") > 0, "{:?}", report.colours());
        until_prometheus_has_counted(&project, "green").await?;
    }
    Ok(())
}

/// Prometheus sees a colour's requests, by the labels that Envoy's `stats_tags` make.
async fn until_prometheus_has_counted(project: &Project, colour: &str) -> Result<()> {
    let query = format!("sum(bluegreen_requests_total{{deployment=\"{IRIS}\",colour=\"{colour}\"}})");
    let url = format!("http://{}/api/v1/query", project.address(Port::Prometheus)?);
    let http = Client::builder().no_proxy().build()?;
    let ask = || async {
        let answer: Value = http.get(&url).query(&[("query", &query)]).send().await?.json().await?;
        Ok(answer.pointer("/data/result/0/value/1").and_then(Value::as_str).map(str::to_owned))
    };
    let counted =
        |value: &Option<String>| value.as_ref().and_then(|text| text.parse::<u64>().ok()).is_some_and(|n| n > 0);
    wait::until_within(Profile::None.patience(), &format!("{colour}'s requests in Prometheus"), ask, counted).await?;
    Ok(())
}

#[tokio::test]
async fn in_the_fleet_a_switch_at_one_envoy_is_one_at_both_and_outlives_them() -> Result<()> {
    let project = Project::up(&Program::newest()?, Profile::Fleet).await?;
    project.ensure_hardened()?;
    let (first, second) = (project.admin(Port::Admin)?, project.admin(Port::SecondAdmin)?);
    let loads = [project.load(Port::Traffic)?.start(), project.load(Port::SecondTraffic)?.start()];
    for load in &loads {
        load.more(40).await?;
    }
    let switched = second.promote(IRIS).await?;
    let arrived = |state: &bluegreen_testbed::admin::Deployment| state.revision == switched.revision;
    let state = wait::until("the switch at the first Envoy", || first.deployment(IRIS), arrived).await?;
    ensure!(state.active == "green", "the Envoys disagree: {state:?}");
    for load in loads {
        load.more(40).await?;
        let report = load.stop().await;
        report.ensure_no_failures()?;
        ensure!(report.count("blue") > 0 && report.count("green") > 0, "{:?}", report.colours());
    }

    project.run(&["restart", "--timeout", "3", "envoy", "envoy-2"])?;
    for (service, port, traffic) in
        [("envoy", Port::Admin, Port::Traffic), ("envoy-2", Port::SecondAdmin, Port::SecondTraffic)]
    {
        project.until_healthy(service).await?;
        let admin = project.admin(port)?;
        let kept = |state: &bluegreen_testbed::admin::Deployment| state.revision == switched.revision;
        wait::until(&format!("the state at the restarted {service}"), || admin.deployment(IRIS), kept).await?;
        let report = project.load(traffic)?.at_most(20).run().await;
        report.ensure_no_failures()?;
        ensure!(report.count("green") == 20, "{service} forgot the switch: {:?}", report.colours());
    }
    Ok(())
}

#[tokio::test]
async fn mlflows_own_servers_answer_and_moving_the_registrys_alias_moves_traffic() -> Result<()> {
    let project = Project::up(&Program::newest()?, Profile::Mlflow).await?;
    project.ensure_hardened()?;
    let http = Client::builder().no_proxy().build()?;
    let predict = http.post(format!("http://{}/invocations", project.address(Port::Traffic)?));
    let inputs = json!({"inputs": [[5.1, 3.5, 1.4, 0.2]]});
    let answer: Value = predict.json(&inputs).send().await?.error_for_status()?.json().await?;
    ensure!(answer["predictions"].as_array().is_some_and(|found| found.len() == 1), "MLflow answered {answer}");

    let admin = project.admin(Port::Admin)?;
    let running = project.load(Port::Traffic)?.connections(2).start();
    running.more(20).await?;
    let aliases = format!("http://{}/api/2.0/mlflow/registered-models/alias", project.address(Port::Mlflow)?);
    let alias = json!({"name": IRIS, "alias": "champion", "version": "2"});
    http.post(aliases).json(&alias).send().await?.error_for_status()?;
    let moved = |state: &bluegreen_testbed::admin::Deployment| state.active == "green";
    let state = wait::until("the registry's alias to move traffic", || admin.deployment(IRIS), moved).await?;
    ensure!(state.source.as_deref() == Some("mlflow"), "somebody else moved it: {state:?}");
    running.more(20).await?;
    let report = running.stop().await;
    report.ensure_no_failures()?;
    let last = report.records.iter().max_by_key(|record| record.began).and_then(|record| record.colour());
    ensure!(last == Some("green"), "traffic stayed: {:?}", report.colours());
    Ok(())
}

#[test]
fn a_fleet_without_its_variable_ends_with_a_sentence_that_says_what_to_run() -> Result<()> {
    for program in Program::all()? {
        let said = program.start_alone(Profile::Fleet, "etcd")?;
        ensure!(said.contains("run: COMPOSE_PROFILES=fleet docker compose up"), "{program:?} says {said}");
    }
    Ok(())
}

#[test]
fn every_compose_program_understands_every_profile() -> Result<()> {
    for program in Program::all()? {
        for profile in Profile::ALL {
            let configuration = program.configuration(profile).with_context(|| format!("{program:?} {profile:?}"))?;
            for service in profile.services() {
                ensure!(configuration.contains(&format!("\n  {service}:\n")), "{profile:?} has no service {service}");
            }
        }
    }
    Ok(())
}
