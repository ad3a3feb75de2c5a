//! The Kubernetes manifests under `envoy/` against the schemas of their kinds, and against each other.

use std::collections::BTreeSet;

use crate::kubernetes::crds::Schemas;
use crate::kubernetes::{list, manifests, of_kind, patch, text, the};
use anyhow::{Context, Result, ensure};
use bluegreen_testbed::Bootstrap;
use bluegreen_testbed::repository;
use bluegreen_tests::IRIS;
use serde_json::{Value, json};

/// Every file with manifests.
const FILES: [&str; 7] = [
    "envoy/istio/authorizationpolicy.yaml",
    "envoy/istio/envoyfilter.yaml",
    "envoy/istio/routes.yaml",
    "envoy/istio/trafficextension.yaml",
    "envoy/istio/wasmplugin.yaml",
    "envoy/gateway/extensionpolicy.yaml",
    "envoy/gateway/routes.yaml",
];

#[test]
fn every_file_under_the_two_folders_is_looked_at() -> Result<()> {
    let mut found = BTreeSet::new();
    for folder in ["envoy/istio", "envoy/gateway"] {
        for entry in repository::root().join(folder).read_dir()? {
            found.insert(format!("{folder}/{}", entry?.file_name().to_string_lossy()));
        }
    }
    let known = FILES.map(str::to_owned).into();
    ensure!(found == known, "found {found:?}");
    Ok(())
}

#[test]
fn the_manifests_are_what_an_api_server_accepts() -> Result<()> {
    let Some(schemas) = Schemas::from_environment()? else { return Ok(()) };
    for file in FILES {
        for manifest in manifests(file)? {
            schemas.check(&manifest).with_context(|| file.to_owned())?;
        }
    }
    Ok(())
}

#[test]
fn a_misspelt_field_would_be_refused() -> Result<()> {
    let Some(schemas) = Schemas::from_environment()? else { return Ok(()) };
    let misspelt: [(&str, &str, &str, Value); 6] = [
        ("envoy/istio/wasmplugin.yaml", "WasmPlugin", "/spec/failstrategy", json!("FAIL_OPEN")),
        ("envoy/istio/wasmplugin.yaml", "WasmPlugin", "/spec/failStrategy", json!("FAIL_OPENED")),
        ("envoy/istio/trafficextension.yaml", "TrafficExtension", "/spec/wasm/pluginConf", json!({})),
        ("envoy/istio/routes.yaml", "VirtualService", "/spec/http/0/mirror_s", json!([])),
        ("envoy/istio/authorizationpolicy.yaml", "AuthorizationPolicy", "/spec/action", json!("REFUSE")),
        ("envoy/gateway/extensionpolicy.yaml", "EnvoyExtensionPolicy", "/spec/wasm/0/code/type", json!("Oci")),
    ];
    for (file, kind, pointer, value) in misspelt {
        let manifest = changed(file, kind, pointer, value)?;
        ensure!(schemas.check(&manifest).is_err(), "{kind} with {pointer} was accepted");
    }
    Ok(())
}

/// The first manifest of a kind with another value at a pointer; without the member there if the value is null.
fn changed(file: &str, kind: &str, pointer: &str, value: Value) -> Result<Value> {
    let manifests = manifests(file)?;
    let mut manifest = of_kind(&manifests, kind).next().with_context(|| format!("no {kind} in {file}"))?.clone();
    let (parent, field) = pointer.rsplit_once('/').context("no pointer")?;
    let parent = manifest.pointer_mut(parent).and_then(Value::as_object_mut);
    let parent = parent.with_context(|| format!("{kind} has nothing around {pointer}"))?;
    if value.is_null() {
        parent.remove(field).with_context(|| format!("{kind} has no {pointer}"))?;
    } else {
        parent.insert(field.to_owned(), value);
    }
    Ok(manifest)
}

#[test]
fn every_cel_rule_of_the_schemas_compiles() -> Result<()> {
    let Some(schemas) = Schemas::from_environment()? else { return Ok(()) };
    let (count, failures) = schemas.compile();
    eprintln!("{} of {count} rules compile", count - failures.len());
    ensure!(failures.is_empty(), "{failures:#?}");
    Ok(())
}

#[test]
fn a_manifest_that_breaks_a_cel_rule_is_refused_with_its_message() -> Result<()> {
    let Some(schemas) = Schemas::from_environment()? else { return Ok(()) };
    for (file, kind, changes) in [
        ("envoy/istio/wasmplugin.yaml", "WasmPlugin", wasm_plugin()),
        ("envoy/istio/trafficextension.yaml", "TrafficExtension", traffic_extension()),
        ("envoy/istio/authorizationpolicy.yaml", "AuthorizationPolicy", authorization_policy()),
        ("envoy/istio/envoyfilter.yaml", "EnvoyFilter", envoy_filter()),
        ("envoy/istio/routes.yaml", "Gateway", istio_gateway()),
        ("envoy/istio/routes.yaml", "DestinationRule", destination_rule()),
        ("envoy/istio/routes.yaml", "VirtualService", virtual_service()),
        ("envoy/gateway/extensionpolicy.yaml", "EnvoyExtensionPolicy", envoy_extension_policy()),
        ("envoy/gateway/extensionpolicy.yaml", "ClientTrafficPolicy", client_traffic_policy()),
        ("envoy/gateway/routes.yaml", "Gateway", gateway()),
        ("envoy/gateway/routes.yaml", "HTTPRoute", http_route()),
    ] {
        for (pointer, value, message) in changes {
            let manifest = changed(file, kind, &format!("/spec{pointer}"), value.clone())?;
            let refusal = schemas.check(&manifest).err().map(|error| error.to_string()).unwrap_or_default();
            let by_rule = refusal.contains("breaks rules") && refusal.contains(message);
            ensure!(by_rule, "{kind} with {pointer}: {value} -> {refusal:?}");
        }
    }
    Ok(())
}

/// What to change below `/spec`, and the message that refuses it.
type Changes = Vec<(&'static str, Value, &'static str)>;

fn wasm_plugin() -> Changes {
    let one_target = "only one of targetRefs or selector can be set";
    let scheme = "url must have schema one of [http, https, file, oci]";
    let host = json!({"env": [{"name": "REGION", "valueFrom": "HOST", "value": "eu"}]});
    vec![
        ("/targetRef", json!({"group": "", "kind": "Service", "name": "iris"}), one_target),
        ("/targetRefs", json!([]), one_target),
        ("/url", json!("ftp://example.com/bluegreen.wasm"), scheme),
        ("/url", json!("example.com:80/bluegreen"), scheme),
        ("/vmConfig", host, "value may only be set when valueFrom is INLINE"),
        ("/selector/matchLabels", json!({"a*": "b"}), "wildcard not allowed in label key match"),
    ]
}

fn traffic_extension() -> Changes {
    vec![
        ("/targetRefs", json!([]), "only one of targetRefs or selector can be set"),
        ("/wasm", json!(null), "exactly one of wasm or lua must be set"),
        ("/wasm/url", json!("s3://bucket/bluegreen"), "url must have schema one of [http, https, file, oci]"),
    ]
}

fn authorization_policy() -> Changes {
    let source = json!({"serviceAccounts": ["default/iris"], "namespaces": ["default"]});
    vec![
        ("/targetRefs", json!([]), "only one of targetRefs or selector can be set"),
        ("/selector/matchLabels/istio", json!("*"), "wildcard not allowed in label value match"),
        ("/rules/0/from/0/source", source, "Cannot set serviceAccounts with namespaces or principals"),
    ]
}

fn envoy_filter() -> Changes {
    let waypoint = "only support waypointMatch when context is WAYPOINT";
    vec![
        ("/targetRefs", json!([]), "only one of targetRefs or workloadSelector can be set"),
        ("/configPatches/2/match/context", json!("WAYPOINT"), waypoint),
        ("/workloadSelector/labels/istio", json!("*"), "wildcard is not supported in selector"),
    ]
}

fn istio_gateway() -> Changes {
    let tls = json!({"mode": "SIMPLE", "credentialName": "iris", "credentialNames": ["iris"]});
    vec![("/servers/0/tls", tls, "only one of credentialName or credentialNames can be set")]
}

fn destination_rule() -> Changes {
    let policy = json!({"connectionPool": {"tcp": {"connectTimeout": "10us"}}});
    vec![
        ("/trafficPolicy", policy, "must be a valid duration greater than 1ms"),
        ("/workloadSelector", json!({"matchLabels": {"": "iris"}}), "key must not be empty"),
    ]
}

fn virtual_service() -> Changes {
    vec![
        ("/http/0/timeout", json!("0s"), "must be a valid duration greater than 1ms"),
        ("/http/0/timeout", json!("10ss"), "is no duration"),
    ]
}

fn envoy_extension_policy() -> Changes {
    let targets = "either targetRef or targetRefs must be used";
    let http = "If type is HTTP, http field needs to be set.";
    let target = json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "iris"});
    let group = "this policy can only have a targetRefs[*].group of gateway.networking.k8s.io";
    let kind = "this policy can only have a targetRefs[*].kind of Gateway/ListenerSet/HTTPRoute/GRPCRoute/";
    let config_map = json!({"kind": "ConfigMap", "name": "pull"});
    vec![
        ("/targetRefs", json!(null), targets),
        ("/targetRef", target, targets),
        ("/targetRefs/1/group", json!("apps"), group),
        ("/targetRefs/1/kind", json!("Service"), kind),
        ("/mergeType", json!("Replace"), "Replace is not a valid MergeType for EnvoyExtensionPolicy"),
        ("/wasm/0/code/type", json!("HTTP"), http),
        ("/wasm/0/code/http", json!({"url": "https://example.com/bluegreen.wasm"}), http),
        ("/wasm/0/code/image", json!(null), "If type is Image, image field needs to be set."),
        ("/wasm/0/code/image/pullSecretRef", config_map, "only support Secret kind."),
    ]
}

fn client_traffic_policy() -> Changes {
    let kind = "this policy can only have a targetRefs[*].kind of Gateway or ListenerSet";
    let ids = json!({"preserveXRequestID": true, "requestID": "Generate"});
    let detection = "exactly one of xForwardedFor, customHeader, or directSourceIP must be set";
    vec![
        ("/targetRefs/0/kind", json!("HTTPRoute"), kind),
        ("/headers", ids, "preserveXRequestID and requestID cannot both be set."),
        ("/clientIPDetection", json!({}), detection),
    ]
}

fn gateway() -> Changes {
    let unique = "Combination of port, protocol and hostname must be unique for each listener";
    let no_tls = "tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']";
    let labels = json!({"labels": {"a/b/c": "d"}});
    vec![
        ("/listeners/1/port", json!(80), unique),
        ("/listeners/0/tls", json!({"mode": "Passthrough"}), no_tls),
        ("/listeners/0/protocol", json!("TLS"), "tls mode must be set for protocol TLS"),
        ("/infrastructure", labels, "Label keys must be in the form of an optional DNS subdomain prefix"),
    ]
}

fn http_route() -> Changes {
    let parents = json!([{"name": "iris", "sectionName": "http"}, {"name": "iris"}]);
    let parent = "sectionName must be specified when parentRefs includes 2 or more references to the same parent";
    let redirect = json!([{"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}}]);
    let redirected = "RequestRedirect filter must not be used together with backendRefs";
    let backend = json!({"name": "iris-green", "port": 8080});
    let both = json!({"backendRef": backend, "fraction": {"numerator": 1}, "percent": 1});
    let one = "Only one of percent or fraction may be specified in HTTPRequestMirrorFilter";
    // The denominator, like the group and kind of a backend, has a default.
    let more = json!({"backendRef": backend, "fraction": {"numerator": 101}});
    let mirror = "filter.requestMirror must be nil if the filter.type is not RequestMirror";
    let no_mirror = "filter.requestMirror must be specified for RequestMirror filter.type";
    let timeouts = json!({"request": "1s", "backendRequest": "2s"});
    vec![
        ("/parentRefs", parents, parent),
        ("/rules/0/backendRefs/0/port", json!(null), "Must have port for Service reference"),
        ("/rules/0/filters", redirect, redirected),
        ("/rules/0/matches/0/path/value", json!("invocations"), "value must be an absolute path and start with '/'"),
        ("/rules/0/matches/0/path/value", json!("/a b"), "must only contain valid characters"),
        ("/rules/0/timeouts", timeouts, "backendRequest timeout cannot be longer than request timeout"),
        ("/rules/2/filters/0/type", json!("URLRewrite"), mirror),
        ("/rules/2/filters/0/requestMirror", json!(null), no_mirror),
        ("/rules/2/filters/0/requestMirror", both, one),
        ("/rules/2/filters/0/requestMirror", more, "numerator must be less than or equal to denominator"),
    ]
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
    let resources = patch::extension_configs(the(&filter, "EnvoyFilter")?);
    ensure!(resources.len() == 2, "{} EXTENSION_CONFIGs", resources.len());
    for resource in resources {
        let plugin = &resource["typed_config"]["config"]["configuration"]["value"];
        ensure!(clusters(plugin)? == istio, "the EnvoyFilter names {:?}, Istio {istio:?}", clusters(plugin)?);
    }

    let policy = manifests("envoy/gateway/extensionpolicy.yaml")?;
    let plugin = &the(&policy, "EnvoyExtensionPolicy")?["spec"]["wasm"][0]["config"];
    let rules = ["httproute/models/iris/rule/0", "httproute/default/iris/rule/1"].map(str::to_owned).into();
    ensure!(clusters(plugin)? == rules, "the EnvoyExtensionPolicy names {:?}", clusters(plugin)?);
    // The rules that copy requests, in the order of the routes.
    let also = |colour: &str| plugin["deployments"][IRIS]["colours"][colour]["also"].clone();
    let copying = (json!(["httproute/models/iris/rule/2"]), json!(["httproute/default/iris/rule/3"]));
    ensure!(
        (also("blue"), also("green")) == copying,
        "the EnvoyExtensionPolicy has {} and {}",
        also("blue"),
        also("green")
    );
    Ok(())
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
    let resources = patch::extension_configs(the(&filter, "EnvoyFilter")?);
    let shipped = Bootstrap::read(&repository::root().join("envoy/envoy.yaml"))?.filters();
    for (resource, shipped) in resources.iter().zip(&shipped) {
        let (patched, shipped) = (&resource["typed_config"]["config"], &shipped["config"]);
        for field in ["root_id", "allow_on_headers_stop_iteration"] {
            ensure!(patched[field] == shipped[field], "{field}: {} and {}", patched[field], shipped[field]);
        }
        ensure!(patched["vm_config"]["vm_id"] == shipped["vm_config"]["vm_id"], "another vm_id");
        let admin = |config: &Value| config["configuration"]["value"]["admin"].clone();
        ensure!(admin(patched) == admin(shipped), "another admin section");
    }
    Ok(())
}
