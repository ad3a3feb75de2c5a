//! What Envoy Gateway renders from the manifests under `envoy/gateway`.
//!
//! Followed is `internal/xds/translator`: routes ordered by Gateway API's precedence, a cluster for each rule, the wasm
//! filter disabled on the listener and enabled on each route that the policy names, its module fetched over HTTP from
//! the gateway's own file server, one vm_id for each policy.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use bluegreen_testbed::Bootstrap;
use serde_json::{Map, Value, json};

use super::{bootstrap, cluster, list, listener, of_kind, router, text, the};

/// The cluster of the file server that hands out modules.
const WASM_CLUSTER: &str = "wasm_cluster";

/// The module as the gateway's file server has it.
#[derive(Clone, Debug)]
pub struct ServedModule {
    /// Where it is.
    pub address: SocketAddr,
    /// The SHA-256 of the module, in hex.
    pub sha256: String,
}

/// The configuration for these manifests, with the addresses of the Services that they name.
pub fn render(manifests: &[Value], services: &BTreeMap<&str, SocketAddr>, module: &ServedModule) -> Result<Bootstrap> {
    let policy = the(manifests, "EnvoyExtensionPolicy")?;
    let gateway = the(manifests, "Gateway")?;
    let mut clusters = vec![cluster(WASM_CLUSTER, module.address)];
    let mut listeners = Vec::new();
    for section in list(&gateway["spec"]["listeners"]) {
        let section = text(section, "/name")?;
        let mut virtual_hosts = Vec::new();
        for http_route in of_kind(manifests, "HTTPRoute").filter(|route| attached(route, section)) {
            let filter = list(&policy["spec"]["targetRefs"])
                .iter()
                .any(|target| target["kind"] == "HTTPRoute" && target["name"] == http_route["metadata"]["name"])
                .then(|| filter_name(policy))
                .transpose()?;
            clusters.extend(route_clusters(http_route, services)?);
            let hosts = list(&http_route["spec"]["hostnames"]);
            let domains = if hosts.is_empty() { json!(["*"]) } else { json!(hosts) };
            let routes = routes(http_route, filter.as_deref())?;
            virtual_hosts.push(json!({"name": name_of(http_route)?, "domains": domains, "routes": routes}));
        }
        let manager = manager(section, wasm_filter(policy, module)?, early_headers(manifests), virtual_hosts);
        listeners.push(listener(&format!("default/iris/{section}"), manager));
    }
    Bootstrap::parse(&bootstrap(listeners, clusters).to_string())
}

fn attached(route: &Value, section: &str) -> bool {
    list(&route["spec"]["parentRefs"]).iter().any(|parent| parent["sectionName"] == section)
}

fn name_of(route: &Value) -> Result<String> {
    Ok(format!("httproute/{}/{}", text(route, "/metadata/namespace")?, text(route, "/metadata/name")?))
}

/// The name of the policy's first wasm extension.
fn extension_name(policy: &Value) -> Result<String> {
    let (namespace, name) = (text(policy, "/metadata/namespace")?, text(policy, "/metadata/name")?);
    Ok(format!("envoyextensionpolicy/{namespace}/{name}/wasm/0"))
}

fn filter_name(policy: &Value) -> Result<String> {
    Ok(format!("envoy.filters.http.wasm/{}", extension_name(policy)?))
}

fn wasm_filter(policy: &Value, module: &ServedModule) -> Result<Value> {
    let extension = policy.pointer("/spec/wasm/0").context("a policy without a wasm extension")?;
    Ok(json!({
        "name": filter_name(policy)?,
        "disabled": true,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": extension["name"],
                "root_id": extension["rootID"],
                "fail_open": extension["failOpen"],
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": extension["config"].to_string(),
                },
                "vm_config": {
                    "vm_id": extension_name(policy)?,
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"remote": {
                        "http_uri": {
                            "uri": format!("http://{}/bluegreen.wasm", module.address),
                            "cluster": WASM_CLUSTER,
                            "timeout": "10s",
                        },
                        "sha256": module.sha256,
                    }},
                },
            },
        },
    }))
}

fn early_headers(manifests: &[Value]) -> Value {
    let policies = of_kind(manifests, "ClientTrafficPolicy");
    let removed = policies.flat_map(|policy| list(&policy["spec"]["headers"]["earlyRequestHeaders"]["remove"]));
    let mutations: Vec<Value> = removed.map(|name| json!({"remove": name})).collect();
    json!([{
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": mutations,
        },
    }])
}

fn manager(section: &str, wasm: Value, early_headers: Value, virtual_hosts: Vec<Value>) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": section,
        "use_remote_address": true,
        "normalize_path": true,
        "merge_slashes": true,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
        "early_header_mutation_extensions": early_headers,
        "http_filters": [wasm, router()],
        "route_config": {
            "name": section,
            "ignore_port_in_host_matching": true,
            "virtual_hosts": virtual_hosts,
        },
    })
}

/// A cluster for each rule, and one for each mirror of it.
fn route_clusters(route: &Value, services: &BTreeMap<&str, SocketAddr>) -> Result<Vec<Value>> {
    let address = |backend: &Value| -> Result<SocketAddr> {
        let service = text(backend, "/name")?;
        services.get(service).copied().with_context(|| format!("no Service {service}"))
    };
    let mut clusters = Vec::new();
    for (index, rule) in list(&route["spec"]["rules"]).iter().enumerate() {
        let name = format!("{}/rule/{index}", name_of(route)?);
        clusters.push(cluster(&name, address(&rule["backendRefs"][0])?));
        for (mirror, filter) in list(&rule["filters"]).iter().enumerate() {
            clusters
                .push(cluster(&format!("{name}-mirror-{mirror}"), address(&filter["requestMirror"]["backendRef"])?));
        }
    }
    Ok(clusters)
}

/// The routes of an HTTPRoute in Gateway API's order: the longest path first, then the most headers.
fn routes(route: &Value, filter: Option<&str>) -> Result<Vec<Value>> {
    let mut routes = Vec::new();
    for (index, rule) in list(&route["spec"]["rules"]).iter().enumerate() {
        for (number, found) in list(&rule["matches"]).iter().enumerate() {
            let name = format!("{}/rule/{index}", name_of(route)?);
            let mirrors = list(&rule["filters"]).iter().enumerate();
            let mirrors: Vec<Value> =
                mirrors.map(|(mirror, _)| json!({"cluster": format!("{name}-mirror-{mirror}")})).collect();
            let headers = list(&found["headers"]);
            let mut rendered = json!({
                "name": format!("{name}/match/{number}"),
                "match": {
                    "path_separated_prefix": text(found, "/path/value")?,
                    "headers": headers.iter().map(header).collect::<Result<Value>>()?,
                },
                "route": {"cluster": name, "request_mirror_policies": mirrors},
            });
            if let Some(filter) = filter {
                let mut enabled = Map::new();
                let config = json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}});
                enabled.insert(filter.to_owned(), config);
                rendered["typed_per_filter_config"] = Value::Object(enabled);
            }
            routes.push((Reverse(text(found, "/path/value")?.len()), Reverse(headers.len()), rendered));
        }
    }
    routes.sort_by_key(|(path, headers, _)| (*path, *headers));
    Ok(routes.into_iter().map(|(_, _, route)| route).collect())
}

fn header(found: &Value) -> Result<Value> {
    let matcher = match found["type"].as_str() {
        None | Some("Exact") => json!({"exact": found["value"]}),
        Some("RegularExpression") => json!({"safe_regex": {"regex": found["value"]}}),
        Some(other) => bail!("no such match of a header: {other}"),
    };
    Ok(json!({"name": found["name"], "string_match": matcher}))
}
