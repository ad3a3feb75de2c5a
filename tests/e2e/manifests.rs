//! The Kubernetes manifests under `envoy/` against each other. An API server looks at them in the suite `mesh`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::Bootstrap;
use bluegreen_testbed::repository;
use bluegreen_tests::IRIS;
use serde_json::{Value, json};

/// The manifests of a file in the repository, in order.
fn manifests(file: &str) -> Result<Vec<Value>> {
    let path = repository::root().join(file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let manifests: Vec<Value> =
        serde_saphyr::from_multiple(&text).map_err(|error| anyhow::anyhow!("{file}: {error}"))?;
    ensure!(manifests.iter().all(Value::is_object), "{file} has a document that is no manifest");
    Ok(manifests)
}

/// The one of a kind.
fn the<'a>(manifests: &'a [Value], kind: &str) -> Result<&'a Value> {
    let mut found = manifests.iter().filter(|manifest| manifest["kind"] == kind);
    let first = found.next().with_context(|| format!("there is no {kind}"))?;
    ensure!(found.next().is_none(), "there is more than one {kind}");
    Ok(first)
}

/// `metadata.name` or any other text; an error when it is none.
fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no text at {pointer} in {value:#}"))
}

/// The elements of a list; none when there is no list.
fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[test]
fn both_kinds_of_plugin_say_the_same() -> Result<()> {
    let (older, newer) = (manifests("envoy/istio/wasmplugin.yaml")?, manifests("envoy/istio/trafficextension.yaml")?);
    let (older, newer) = (&the(&older, "WasmPlugin")?["spec"], &the(&newer, "TrafficExtension")?["spec"]);
    ensure!(older["selector"] == newer["selector"], "they select differently");
    let wasm = newer["wasm"].as_object().context("no wasm")?;
    for (field, value) in wasm {
        ensure!(older[field] == *value, "{field}: {:#} and {value:#}", older[field]);
    }
    ensure!(older.as_object().map(serde_json::Map::len) == Some(wasm.len() + 1), "WasmPlugin says more");
    Ok(())
}

#[test]
fn the_filter_names_the_clusters_that_the_control_plane_makes() -> Result<()> {
    let routes = manifests("envoy/istio/routes.yaml")?;
    let rule = the(&routes, "DestinationRule")?;
    let host = text(rule, "/spec/host")?;
    let istio = list(&rule["spec"]["subsets"])
        .iter()
        .map(|subset| Ok(format!("outbound|8080|{}|{host}", text(subset, "/name")?)));
    let istio = istio.collect::<Result<BTreeSet<_>>>()?;
    let plugin = manifests("envoy/istio/wasmplugin.yaml")?;
    let plugin = &the(&plugin, "WasmPlugin")?["spec"]["pluginConfig"];
    ensure!(clusters(plugin)? == istio, "the WasmPlugin names {:?}, Istio {istio:?}", clusters(plugin)?);

    let filter = manifests("envoy/istio/envoyfilter.yaml")?;
    let resources = extension_configs(the(&filter, "EnvoyFilter")?);
    ensure!(resources.len() == 2, "{} EXTENSION_CONFIGs", resources.len());
    for resource in resources {
        let plugin = &resource["typed_config"]["config"]["configuration"]["value"];
        ensure!(clusters(plugin)? == istio, "the EnvoyFilter names {:?}, Istio {istio:?}", clusters(plugin)?);
    }

    let policy = manifests("envoy/gateway/extensionpolicy.yaml")?;
    let plugin = &the(&policy, "EnvoyExtensionPolicy")?["spec"]["wasm"][0]["config"];
    let rules = ["httproute/models/iris/rule/0", "httproute/models/iris/rule/1"].map(str::to_owned).into();
    ensure!(clusters(plugin)? == rules, "the EnvoyExtensionPolicy names {:?}", clusters(plugin)?);
    // The rules that copy requests, in the order of the routes.
    let also = |colour: &str| plugin["deployments"][IRIS]["colours"][colour]["also"].clone();
    let copying = (json!(["httproute/models/iris/rule/2"]), json!(["httproute/models/iris/rule/3"]));
    ensure!(
        (also("blue"), also("green")) == copying,
        "the EnvoyExtensionPolicy has {} and {}",
        also("blue"),
        also("green")
    );
    Ok(())
}

/// The ECDS resources that an EnvoyFilter adds.
fn extension_configs(filter: &Value) -> Vec<Value> {
    let patches = list(&filter["spec"]["configPatches"]).iter();
    patches
        .filter(|patch| patch["applyTo"] == "EXTENSION_CONFIG")
        .map(|patch| patch["patch"]["value"].clone())
        .collect()
}

/// The clusters of a plugin configuration's deployment.
fn clusters(plugin: &Value) -> Result<BTreeSet<String>> {
    let colours = &plugin["deployments"][IRIS]["colours"];
    ["/blue/cluster", "/green/cluster"].iter().map(|colour| Ok(text(colours, colour)?.to_owned())).collect()
}

#[test]
fn the_default_route_goes_to_the_initially_active_colour() -> Result<()> {
    let routes = manifests("envoy/istio/routes.yaml")?;
    let last = list(&the(&routes, "VirtualService")?["spec"]["http"]).last().context("no route")?;
    ensure!(last["match"][0]["headers"].is_null(), "the last route is not a default: {last:#}");
    ensure!(last["route"][0]["destination"]["subset"] == "blue", "{last:#}");

    let routes = manifests("envoy/gateway/routes.yaml")?;
    let iris = routes.iter().find(|route| route["kind"] == "HTTPRoute" && route["metadata"]["name"] == IRIS);
    let rules = list(&iris.context("no route")?["spec"]["rules"]);
    let mut defaults = rules.iter().filter(|rule| rule["matches"][0]["headers"].is_null());
    let default = defaults.next().context("no default rule")?;
    ensure!(default["backendRefs"][0]["name"] == "iris-blue" && defaults.next().is_none(), "{default:#}");
    Ok(())
}

#[test]
fn the_patched_in_filter_is_configured_as_the_shipped_one() -> Result<()> {
    let filter = manifests("envoy/istio/envoyfilter.yaml")?;
    let resources = extension_configs(the(&filter, "EnvoyFilter")?);
    let shipped = Bootstrap::read(&repository::root().join("envoy/envoy.yaml"))?.filters();
    for (resource, shipped) in resources.iter().zip(&shipped) {
        let (patched, shipped) = (&resource["typed_config"]["config"], &shipped["config"]);
        for field in ["root_id", "allow_on_headers_stop_iteration"] {
            ensure!(patched[field] == shipped[field], "{field}: {} and {}", patched[field], shipped[field]);
        }
        ensure!(patched["vm_config"]["vm_id"] == shipped["vm_config"]["vm_id"], "another vm_id");
    }
    Ok(())
}
