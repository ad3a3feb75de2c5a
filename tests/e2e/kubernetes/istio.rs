//! What Istio renders for its ingress gateway from the manifests under `envoy/istio`.
//!
//! Followed are `pilot/pkg/model` (plugins: ECDS, no vm_id, the configuration as a JSON text, FAIL_OPEN as the newer
//! failure policy), `pilot/pkg/networking/core/route` (routes), and `pkg/wasm` (the agent, which replaces an image by a
//! local file and strips its own environment variables).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bluegreen_testbed::Bootstrap;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::{bootstrap, cluster, list, listener, of_kind, patch, router, text, the};

/// The type of a wasm filter's configuration.
const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";

/// What one proxy is sent: a bootstrap, and the plugins' configurations as ECDS resources in watched files.
#[derive(Debug)]
pub struct Proxy {
    bootstrap: Bootstrap,
    folder: TempDir,
}

/// Puts a proxy's configuration together.
#[derive(Debug)]
pub struct Rendering<'a> {
    manifests: &'a [Value],
    /// Upstream addresses by subset.
    subsets: BTreeMap<&'a str, SocketAddr>,
    /// The gateway's listeners, by the plugins that run on them, in order.
    listeners: Vec<(&'a str, Vec<&'a str>)>,
    plugins: Vec<Value>,
}

// === impl Rendering ===

impl<'a> Rendering<'a> {
    /// For these manifests, with the model servers of the subsets.
    pub fn new(manifests: &'a [Value], subsets: &[(&'a str, SocketAddr)]) -> Self {
        let subsets = subsets.iter().copied().collect();
        Self { manifests, subsets, listeners: Vec::new(), plugins: Vec::new() }
    }

    /// A listener of the gateway, and the plugins that are selected for its port, in order.
    #[must_use]
    pub fn listener(mut self, name: &'a str, plugins: &[&'a str]) -> Self {
        self.listeners.push((name, plugins.to_vec()));
        self
    }

    /// The ECDS resource of a WasmPlugin, or of a TrafficExtension, after the agent has fetched its image to `module`.
    pub fn plugin(mut self, manifest: &Value, module: &Path) -> Result<Self> {
        self.plugins.push(plugin(manifest, module)?);
        Ok(self)
    }

    /// An ECDS resource as an EnvoyFilter adds it, after the agent has fetched its image to `module`.
    #[must_use]
    pub fn extension_config(mut self, mut resource: Value, module: &Path) -> Self {
        resource["typed_config"]["config"]["vm_config"]["code"] = json!({"local": {"filename": module}});
        self.plugins.push(resource);
        self
    }

    /// The configuration.
    pub fn render(self) -> Result<Proxy> {
        let folder = TempDir::with_prefix("bluegreen-istio-")?;
        let routes = self.route_configuration()?;
        let mut listeners = Vec::new();
        for (name, plugins) in &self.listeners {
            let authorization = of_kind(self.manifests, "AuthorizationPolicy").map(rbac).collect::<Result<Vec<_>>>()?;
            let plugins = plugins.iter().map(|name| discovery(name));
            let filters: Vec<Value> = authorization.into_iter().chain(plugins).chain([router()]).collect();
            listeners.push(listener(name, manager(name, filters, &routes)));
        }
        let mut tree = bootstrap(listeners, self.clusters()?);
        for filter in of_kind(self.manifests, "EnvoyFilter") {
            patch::apply(filter, &mut tree)?;
        }
        let proxy = Proxy { bootstrap: Bootstrap::parse(&tree.to_string())?.with_free_ports(), folder };
        let bootstrap = proxy.bootstrap.clone().edit(|tree| discover_in(tree, proxy.folder.path()));
        for plugin in self.plugins {
            proxy.deliver(plugin)?;
        }
        Ok(Proxy { bootstrap, ..proxy })
    }

    /// One for each subset and port that a route names.
    fn clusters(&self) -> Result<Vec<Value>> {
        let rule = the(self.manifests, "DestinationRule")?;
        let host = text(rule, "/spec/host")?;
        let mut clusters = Vec::new();
        for subset in list(&rule["spec"]["subsets"]) {
            let subset = text(subset, "/name")?;
            let address = self.subsets.get(subset).with_context(|| format!("no model server for {subset}"))?;
            clusters.push(cluster(&format!("outbound|8080|{subset}|{host}"), *address));
        }
        Ok(clusters)
    }

    fn route_configuration(&self) -> Result<Value> {
        let service = the(self.manifests, "VirtualService")?;
        let mut routes = Vec::new();
        for rule in list(&service["spec"]["http"]) {
            for found in list(&rule["match"]) {
                routes.push(route(rule, found)?);
            }
        }
        let host = text(service, "/spec/hosts/0")?;
        let virtual_host = json!({"name": format!("{host}:80"), "domains": [host], "routes": routes});
        Ok(json!({"name": "http.8080", "virtual_hosts": [virtual_host], "validate_clusters": false}))
    }
}

// === impl Proxy ===

impl Proxy {
    /// What to start Envoy with. The proxy has to outlive it.
    pub fn bootstrap(&self) -> Bootstrap {
        self.bootstrap.clone()
    }

    /// Sends an ECDS resource, the first time or again.
    pub fn deliver(&self, mut resource: Value) -> Result<()> {
        let name = text(&resource, "/name")?.to_owned();
        resource["@type"] = json!("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig");
        let file = Bootstrap::parse(&json!({"resources": [resource]}).to_string())?;
        file.write(&self.folder.path().join(format!("{name}.yaml")))
    }
}

/// The ECDS resource of a WasmPlugin or a TrafficExtension.
pub fn plugin(manifest: &Value, module: &Path) -> Result<Value> {
    let spec = if manifest["kind"] == "TrafficExtension" { &manifest["spec"]["wasm"] } else { &manifest["spec"] };
    let name = format!("{}.{}", text(manifest, "/metadata/namespace")?, text(manifest, "/metadata/name")?);
    let failure_policy = match spec["failStrategy"].as_str() {
        None | Some("FAIL_CLOSE") => "FAIL_CLOSED",
        Some("FAIL_OPEN") => "FAIL_OPEN",
        Some("FAIL_RELOAD") => "FAIL_RELOAD",
        Some(other) => bail!("Istio knows no failStrategy {other}"),
    };
    Ok(json!({
        "name": name,
        "typed_config": {
            "@type": WASM,
            "config": {
                "name": name,
                "root_id": spec["pluginName"],
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": spec["pluginConfig"].to_string(),
                },
                // Istio sets no vm_id: every plugin in the proxy has the empty one.
                "vm_config": {"runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": module}}},
                "failure_policy": failure_policy,
            },
        },
    }))
}

fn discovery(name: &str) -> Value {
    json!({
        "name": name,
        "config_discovery": {
            "config_source": {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"},
            "type_urls": [WASM],
        },
    })
}

/// Each resource comes from a file of its name instead of from Istio's control plane.
fn discover_in(tree: &mut Value, folder: &Path) {
    match tree {
        Value::Array(items) => items.iter_mut().for_each(|item| discover_in(item, folder)),
        Value::Object(members) => {
            let name = members.get("name").and_then(Value::as_str).map(str::to_owned);
            if let (Some(discovery), Some(name)) = (members.get_mut("config_discovery"), name) {
                let path = folder.join(format!("{name}.yaml"));
                discovery["config_source"] = json!({
                    "resource_api_version": "V3",
                    "path_config_source": {"path": path, "watched_directory": {"path": folder}},
                });
            }
            members.values_mut().for_each(|member| discover_in(member, folder));
        }
        _ => {}
    }
}

fn manager(name: &str, filters: Vec<Value>, routes: &Value) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": format!("outbound_{name}"),
        "use_remote_address": true,
        "normalize_path": true,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "http_filters": filters,
        "route_config": routes,
    })
}

/// One `match` of one `http` rule of a VirtualService.
fn route(rule: &Value, found: &Value) -> Result<Value> {
    let mut conditions = Map::new();
    if let Some(prefix) = found.pointer("/uri/prefix") {
        conditions.insert("prefix".to_owned(), prefix.clone());
    }
    let headers = found["headers"].as_object().into_iter().flatten();
    let headers = headers.map(|(name, value)| Ok(json!({"name": name, "string_match": string_match(value)?})));
    conditions.insert("headers".to_owned(), headers.collect::<Result<Value>>()?);
    let mirrors = list(&rule["mirrors"]).iter().map(|mirror| {
        let all = json!({"default_value": {"numerator": 1_000_000, "denominator": "MILLION"}});
        Ok(json!({"cluster": destination(&mirror["destination"])?, "runtime_fraction": all, "trace_sampled": false}))
    });
    Ok(json!({
        "name": rule["name"],
        "match": conditions,
        "route": {
            "cluster": destination(&rule["route"][0]["destination"])?,
            "timeout": "0s",
            "retry_policy": {
                "retry_on": "connect-failure,refused-stream,unavailable,cancelled",
                "num_retries": 2,
                "host_selection_retry_max_attempts": "5",
            },
            "request_mirror_policies": mirrors.collect::<Result<Value>>()?,
        },
    }))
}

fn string_match(value: &Value) -> Result<Value> {
    match (&value["exact"], &value["prefix"], &value["regex"]) {
        (Value::String(exact), Value::Null, Value::Null) => Ok(json!({"exact": exact})),
        (Value::Null, Value::String(prefix), Value::Null) => Ok(json!({"prefix": prefix})),
        (Value::Null, Value::Null, Value::String(regex)) => Ok(json!({"safe_regex": {"regex": regex}})),
        _ => bail!("no match of a text: {value}"),
    }
}

fn destination(destination: &Value) -> Result<String> {
    let (host, subset) = (text(destination, "/host")?, text(destination, "/subset")?);
    let port = destination.pointer("/port/number").and_then(Value::as_u64).context("a destination without a port")?;
    Ok(format!("outbound|{port}|{subset}|{host}"))
}

/// The filter of an AuthorizationPolicy with the sources and operations that the shipped one has.
fn rbac(policy: &Value) -> Result<Value> {
    let name = format!("ns[{}]-policy[{}]", text(policy, "/metadata/namespace")?, text(policy, "/metadata/name")?);
    let mut policies = Map::new();
    for (index, rule) in list(&policy["spec"]["rules"]).iter().enumerate() {
        let paths = list(&rule["to"][0]["operation"]["paths"]).iter().filter_map(Value::as_str).map(|path| {
            let matcher = match path.strip_suffix('*') {
                Some(prefix) => json!({"prefix": prefix}),
                None => json!({"exact": path}),
            };
            json!({"url_path": {"path": matcher}})
        });
        let blocks = list(&rule["from"][0]["source"]["notIpBlocks"]).iter().filter_map(Value::as_str).map(|block| {
            let (address, length) = block.split_once('/').context("no address block")?;
            Ok(json!({"direct_remote_ip": {"address_prefix": address, "prefix_len": length.parse::<u32>()?}}))
        });
        let (paths, blocks) = (paths.collect::<Value>(), blocks.collect::<Result<Value>>()?);
        policies.insert(
            format!("{name}-rule[{index}]"),
            json!({
                "permissions": [{"and_rules": {"rules": [{"or_rules": {"rules": paths}}]}}],
                "principals": [{"and_ids": {"ids": [{"not_id": {"or_ids": {"ids": blocks}}}]}}],
            }),
        );
    }
    Ok(json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": policy["spec"]["action"], "policies": policies},
        },
    }))
}
