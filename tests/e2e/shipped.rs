//! The files under `envoy/` as they are, byte for byte: what people copy must start.
//!
//! Nothing is rewritten here, so that Envoy's own parser reads the anchors and its own rules judge every field. The
//! ports are fixed in those files; validation binds none of them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::ports::{self, loopback};
use bluegreen_testbed::process::ManagedProcess;
use bluegreen_testbed::{Bootstrap, Envoy, repository};
use bluegreen_tests::IRIS;
use serde_json::Value;

/// Every Envoy configuration that ships, as opposed to a resource that one of them watches.
const BOOTSTRAPS: [&str; 3] = ["envoy/envoy.yaml", "envoy/ecds/envoy.yaml", "envoy/mlflow/envoy.yaml"];

/// `envoy --mode validate` of a file, from the repository's root.
async fn validate(file: &Path) -> Result<()> {
    let mut command = Command::new(repository::envoy()?);
    command.current_dir(repository::root()).args(["--mode", "validate", "--disable-hot-restart"]);
    command.args(["--log-level", "warning", "--config-path"]).arg(file);
    let process = ManagedProcess::start("envoy --mode validate", command)?;
    let status = process.wait().await?;
    ensure!(status.success(), "{} was refused:\n{}", file.display(), process.log().tail(20));
    Ok(())
}

fn read(file: &str) -> Result<Bootstrap> {
    Bootstrap::read(&repository::root().join(file))
}

#[tokio::test]
async fn every_shipped_configuration_is_accepted_as_it_is() -> Result<()> {
    repository::wasm()?;
    for file in BOOTSTRAPS {
        validate(Path::new(file)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_shipped_ports_and_addresses_are_the_documented_ones() -> Result<()> {
    for file in BOOTSTRAPS {
        let bootstrap = read(file)?;
        let tree = bootstrap.tree();
        let socket = |pointer: &str| {
            let address = tree.pointer(pointer).map(|address| &address["socket_address"]);
            address.map(|address| (address["address"].clone(), address["port_value"].clone()))
        };
        let endpoint = "load_assignment/endpoints/0/lb_endpoints/0/endpoint/address";
        for (pointer, port) in [
            ("/admin/address".to_owned(), 9901),
            ("/static_resources/listeners/0/address".to_owned(), 10000),
            ("/static_resources/listeners/1/address".to_owned(), 10001),
            (format!("/static_resources/clusters/0/{endpoint}"), 1234),
            (format!("/static_resources/clusters/1/{endpoint}"), 1235),
        ] {
            let seen = socket(&pointer).with_context(|| format!("{file} has no {pointer}"))?;
            ensure!(seen == ("127.0.0.1".into(), port.into()), "{file}: {pointer} is {seen:?}, not 127.0.0.1:{port}");
        }
    }
    Ok(())
}

/// A drain waits for minutes, within what Envoy's own `stream_idle_timeout` of five allows.
#[test]
fn no_shipped_admin_listener_cuts_off_a_call_that_waits() -> Result<()> {
    for file in BOOTSTRAPS.into_iter().chain(["envoy/compose/envoy.yaml", "envoy/istio/envoyfilter.yaml"]) {
        let text = std::fs::read_to_string(repository::root().join(file)).with_context(|| file.to_owned())?;
        for limit in ["request_timeout", "stream_idle_timeout", "max_stream_duration"] {
            let set =
                text.lines().find(|line| line.trim().strip_prefix(limit).is_some_and(|rest| rest.starts_with(':')));
            ensure!(set.is_none(), "{file} has {set:?}");
        }
        ensure!(text.contains("request_headers_timeout: 10s"), "{file} waits for headers for ever");
    }
    Ok(())
}

#[tokio::test]
async fn the_seeded_cluster_is_the_one_of_the_initially_active_colour() -> Result<()> {
    let mut checked = 0;
    for (file, plugins) in [
        ("envoy/envoy.yaml", "envoy/envoy.yaml"),
        ("envoy/ecds/envoy.yaml", "envoy/ecds/bluegreen.yaml"),
        ("envoy/mlflow/envoy.yaml", "envoy/mlflow/envoy.yaml"),
    ] {
        let bootstrap = read(file)?;
        let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
        let mutations = format!("{manager}/early_header_mutation_extensions/0/typed_config/mutations");
        let mutations = bootstrap.tree().pointer(&mutations).context("nothing is seeded")?;
        let seed = &mutations[0]["append"];
        ensure!(
            seed["header"]["key"] == "x-bluegreen-cluster" && seed["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD",
            "{seed}"
        );
        ensure!(mutations[1]["remove"] == "x-bluegreen-shadow", "{mutations}");
        ensure!(mutations[2]["remove"] == "x-bluegreen-colour", "{mutations}");
        for plugin in read(plugins)?.plugins() {
            let iris = &plugin["deployments"][IRIS];
            let active = iris["initial"]["active"].as_str().context("no initial colour")?;
            let same = seed["header"]["value"] == iris["colours"][active]["cluster"];
            ensure!(same, "{file} seeds {seed}, but {plugins} has {iris:#}");
            checked += 1;
        }
    }
    ensure!(checked == 5, "{checked} plugin configurations were checked instead of 5");
    Ok(())
}

#[tokio::test]
async fn both_ways_of_configuring_say_the_same() -> Result<()> {
    let mut configurations = Vec::new();
    for file in ["envoy/envoy.yaml", "envoy/ecds/bluegreen.yaml"] {
        let plugins = read(file)?.plugins().into_iter();
        configurations.extend(plugins.map(|plugin| (plugin["deployments"].clone(), plugin["admin"].clone())));
    }
    let [traffic, admin, watched] = configurations.as_slice() else {
        anyhow::bail!("three plugin configurations were expected: {configurations:#?}");
    };
    ensure!(traffic.0 == admin.0 && admin == watched, "they differ: {configurations:#?}");
    ensure!(traffic.1 == Value::Null, "the traffic listener serves the admin API: {:#}", traffic.1);
    Ok(())
}

#[tokio::test]
async fn of_envoys_own_admin_interface_the_containers_show_the_metrics_and_nothing_else() -> Result<()> {
    let port = ports::free()?;
    let containers = read("envoy/compose/envoy.yaml")?.with_free_ports().edit(|tree| {
        tree["admin"]["address"]["socket_address"]["port_value"] = port.into();
        for part in ["listeners", "clusters"] {
            if let Some(items) = tree["static_resources"][part].as_array_mut() {
                items.retain(|item| item["name"] == "metrics" || item["name"] == "envoy_admin");
            }
        }
    });
    let tree = containers.tree();
    let address = &tree["admin"]["address"]["socket_address"]["address"];
    ensure!(address == "127.0.0.1", "{address}");
    let envoy = Envoy::with(containers.with_cluster("envoy_admin", loopback(port))).start().await?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let url = |path: &str| anyhow::Ok(format!("http://{}{path}", envoy.listener("metrics")?));
    let metrics = http.get(url("/stats/prometheus?usedonly")?).send().await?;
    ensure!(metrics.status() == 200 && metrics.text().await?.contains("envoy_server_live"), "no metrics");
    for path in
        ["/quitquitquit", "/config_dump", "/stats", "/stats/prometheus/../../quitquitquit", "/", "/runtime_modify"]
    {
        for request in [http.get(url(path)?), http.post(url(path)?)] {
            let answer = request.send().await?;
            ensure!(answer.status() == 404, "{path} is answered {}", answer.status());
        }
    }
    ensure!(http.post(url("/stats/prometheus")?).send().await?.status() == 404, "a POST");
    Ok(())
}

#[tokio::test]
async fn the_containers_are_configured_as_the_shipped_files_say() -> Result<()> {
    let shipped = read("envoy/ecds/bluegreen.yaml")?.plugins();
    let profiles = [("local", Value::Null, Value::Null), ("mlflow", Value::Null, Value::from("mlflow"))];
    for (profile, store, registry) in profiles.into_iter().chain([("fleet", Value::from("etcd"), Value::Null)]) {
        let mut plugins = read(&format!("envoy/compose/bluegreen-{profile}.yaml"))?.plugins();
        for plugin in plugins.iter_mut().filter_map(Value::as_object_mut) {
            let etcd = plugin.remove("etcd").unwrap_or_default();
            ensure!(etcd["cluster"] == store, "{profile}: {etcd}");
            let iris = plugin["deployments"][IRIS].as_object_mut().context("no deployment")?;
            let mlflow = iris.remove("mlflow").unwrap_or_default();
            ensure!(mlflow["cluster"] == registry, "{profile}: {mlflow}");
        }
        ensure!(plugins == shipped, "{profile} says {plugins:#?}");
    }
    let manager =
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/early_header_mutation_extensions";
    let (ecds, compose) = (read("envoy/ecds/envoy.yaml")?, read("envoy/compose/envoy.yaml")?);
    ensure!(ecds.tree().pointer(manager) == compose.tree().pointer(manager), "another seed");
    ensure!(ecds.tree()["stats_config"] == compose.tree()["stats_config"], "other labels");
    Ok(())
}
