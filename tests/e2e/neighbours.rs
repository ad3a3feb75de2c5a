//! The filter beside others: a second one of ours in the chain, other deployments, and requests that are nobody's.

use anyhow::{Result, ensure};
use bluegreen_testbed::{Bootstrap, bootstrap, raw, repository};
use bluegreen_tests::request::get;
use bluegreen_tests::{Environment, IRIS, PATH, compile_fixture};
use serde_json::{Value, json};
use tempfile::TempDir;

const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

/// Changes the connection manager of the traffic listener.
fn manager(bootstrap: Bootstrap, change: impl FnOnce(&mut Value)) -> Bootstrap {
    bootstrap.edit(|tree| {
        if let Some(manager) = tree.pointer_mut(MANAGER) {
            change(manager);
        }
    })
}

/// The shipped configuration with a second filter of another team in the chain, which has a deployment `rose` and a state of
/// its own.
fn two_teams(is_first: bool, is_seeded: bool) -> Result<Bootstrap> {
    Ok(manager(Bootstrap::shipped()?, |manager| {
        let Some(filters) = manager["http_filters"].as_array_mut() else { return };
        let mut other = filters.first().cloned().unwrap_or_default();
        other["name"] = json!("bluegreen-team-b");
        let config = &mut other["typed_config"]["config"];
        config["vm_config"]["vm_id"] = json!("team-b");
        let mut rose = config["configuration"]["value"]["deployments"][IRIS].clone();
        rose["match"] = json!({"path_prefix": "/rose"});
        rose["initial"] = json!({"active": "green"});
        config["configuration"]["value"]["deployments"] = json!({"rose": rose});
        filters.insert(usize::from(!is_first), other);
        if !is_seeded {
            manager["early_header_mutation_extensions"] = json!([]);
        }
        if let Some(route) = manager.pointer_mut("/route_config/virtual_hosts/0/routes/0") {
            route["match"] = json!({"prefix": "/"});
        }
    }))
}

/// The status and the body of the answer to a `GET`.
async fn ask(env: &Environment, path: &str, headers: &[(&str, &[u8])]) -> Result<(u16, String)> {
    let answer = raw::exchange(env.envoy.traffic()?, get(path, headers)).await?;
    Ok((answer.status, answer.body))
}

#[tokio::test]
async fn two_filters_in_one_chain_leave_each_others_decisions_alone() -> Result<()> {
    for (is_first, is_seeded) in [(false, true), (true, true), (false, false), (true, false)] {
        let env = Environment::with(2, two_teams(is_first, is_seeded)?).await?;
        let case = format!("team b is first: {is_first}, seeded: {is_seeded}");
        // An ordinary request that is nobody's, so that both have seen whether the listener seeds.
        ask(&env, "/other", &[]).await?;
        for active in ["blue", "green"] {
            for _ in 0..20 {
                let (status, body) = ask(&env, PATH, &[]).await?;
                ensure!(status == 200 && body.contains(active), "{case}: iris at {active}: {status} {body}");
                let (status, body) = ask(&env, "/rose", &[]).await?;
                ensure!(status == 200 && body.contains("green"), "{case}: rose: {status} {body}");
            }
            if active == "blue" {
                env.envoy.admin()?.promote(IRIS).await?;
            }
        }
        env.ensure_no_trap()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_request_that_nobody_takes_goes_where_the_listener_sends_it_and_never_where_a_client_says() -> Result<()> {
    for (is_seeded, expected) in [(true, 200), (false, 503)] {
        let env = Environment::with(1, two_teams(false, is_seeded)?).await?;
        let names = ["x-bluegreen-cluster", "X-BlueGreen-Cluster", "x-bluegreen-shadow", "x-bluegreen-colour"];
        ask(&env, "/other", &[]).await?;
        for name in names {
            for _ in 0..20 {
                let (status, body) = ask(&env, "/other", &[(name, b"green"), (name, b"green")]).await?;
                ensure!(status == expected && !body.contains("green"), "seeded: {is_seeded}, {name}: {status} {body}");
            }
        }
        ensure!(env.green.requests() == 0, "seeded: {is_seeded}: green got {} requests", env.green.requests());
        let asked = 1 + 20 * names.len();
        let counted = env.envoy.prometheus().await?.value("bluegreen_unmatched_requests_total", &[]);
        // Both filters see each of them.
        ensure!(counted == Some(2.0 * asked as f64), "{counted:?} of {asked} requests");
        let lines = env.envoy.log().lines_with("no deployment takes GET /other at models.example");
        ensure!(lines.len() == 2, "one line of each filter: {lines:#?}");
        env.ensure_no_trap()?;
    }
    Ok(())
}

#[tokio::test]
async fn what_another_filter_routes_is_not_touched() -> Result<()> {
    let lua = json!({
        "name": "envoy.filters.http.lua",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string":
                "function envoy_on_request(h) h:headers():replace('x-bluegreen-cluster', 'green') end"},
        },
    });
    let bootstrap = manager(Bootstrap::shipped()?, |manager| {
        if let Some(filters) = manager["http_filters"].as_array_mut() {
            filters.insert(0, lua);
        }
        if let Some(route) = manager.pointer_mut("/route_config/virtual_hosts/0/routes/0") {
            route["match"] = json!({"prefix": "/"});
        }
    });
    let env = Environment::with(1, bootstrap).await?;
    for _ in 0..20 {
        let (status, body) = ask(&env, "/theirs", &[]).await?;
        ensure!(status == 200 && body.contains("green"), "theirs: {status} {body}");
        let (status, body) = ask(&env, PATH, &[]).await?;
        ensure!(status == 200 && body.contains("blue"), "ours: {status} {body}");
    }
    Ok(())
}

/// Two deployments on the traffic listener, each with a header and a seed of its own: `iris` begins blue, `rose` green.
fn two_seeds(bootstrap: Bootstrap) -> Bootstrap {
    let bootstrap = bootstrap.plugin(|plugin| {
        let mut rose = plugin["deployments"][IRIS].clone();
        rose["match"] = json!({"path_prefix": "/rose"});
        rose["initial"] = json!({"active": "green"});
        rose["cluster_header"] = json!("x-bluegreen-cluster-rose");
        plugin["deployments"]["rose"] = rose;
        plugin["deployments"][IRIS]["cluster_header"] = json!("x-bluegreen-cluster-iris");
    });
    manager(bootstrap, |manager| {
        let seed = |name: &str, colour: &str| {
            json!({"append": {
                "header": {"key": format!("x-bluegreen-cluster-{name}"), "value": colour},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }})
        };
        let mutations = &mut manager["early_header_mutation_extensions"][0]["typed_config"]["mutations"];
        *mutations = json!([seed("iris", "blue"), seed("rose", "green"), {"remove": "x-bluegreen-shadow"}]);
        for host in bootstrap::elements(manager, "/route_config/virtual_hosts") {
            let shipped = host["routes"][0].clone();
            host["routes"] = ["iris", "rose"]
                .map(|name| {
                    let mut route = shipped.clone();
                    let path = if name == IRIS { PATH } else { "/rose" };
                    route["name"] = json!(name);
                    route["match"] = json!({"path_separated_prefix": path});
                    route["route"]["cluster_header"] = json!(format!("x-bluegreen-cluster-{name}"));
                    route
                })
                .into_iter()
                .collect();
        }
    })
}

#[tokio::test]
async fn each_deployment_of_a_listener_has_a_seed_of_its_own() -> Result<()> {
    let env = Environment::with(2, two_seeds(Bootstrap::shipped()?)).await?;
    env.envoy.admin()?.promote(IRIS).await?;
    env.envoy.admin()?.promote("rose").await?;
    for (path, colour) in [(PATH, "green"), ("/rose", "blue")] {
        for name in ["x-bluegreen-cluster-iris", "x-bluegreen-cluster-rose", "x-bluegreen-cluster"] {
            for value in [&b"blue"[..], b"green"] {
                let (status, body) = ask(&env, path, &[(name, value)]).await?;
                ensure!(status == 200 && body.contains(colour), "{path} {name}: {status} {body}");
            }
        }
    }
    env.ensure_no_trap()
}

/// The fixture sends what it sees to green until it traps; then the filter is bypassed.
#[tokio::test]
async fn while_the_filter_is_bypassed_each_deployment_goes_to_its_own_seed() -> Result<()> {
    let folder = TempDir::new()?;
    let shipped = Bootstrap::read(&repository::root().join("envoy/envoy.yaml"))?;
    let shipped = shipped.with_free_ports().with_wasm(&compile_fixture("trap.wat", folder.path())?);
    let shipped = shipped.wasm_filters(|filter| {
        filter["config"]["failure_policy"] = Value::Null;
        filter["config"]["fail_open"] = json!(true);
    });
    let env = Environment::with(1, two_seeds(shipped)).await?;
    raw::exchange(env.envoy.traffic()?, get(PATH, &[("x-trap", b"1")])).await?;
    for _ in 0..10 {
        for (path, colour) in [(PATH, "blue"), ("/rose", "green")] {
            let (status, body) = ask(&env, path, &[]).await?;
            ensure!(status == 200 && body.contains(colour), "{path}: {status} {body}");
        }
    }
    Ok(())
}
