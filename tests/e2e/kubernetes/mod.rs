//! Kubernetes manifests: read, and rendered as the control plane that owns the kind would render them for Envoy.
//!
//! No control plane runs in these tests. What [`envoy_gateway`] makes of the manifests follows the project's sources, field by
//! field as far as it matters here: names of clusters, order of filters and routes, how a plugin's configuration and failure
//! policy arrive. Addresses, certificates and telemetry are left out.

pub mod envoy_gateway;

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::repository;
use serde_json::{Value, json};

/// The manifests of a file in the repository, in order.
pub fn manifests(file: &str) -> Result<Vec<Value>> {
    let path = repository::root().join(file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let manifests: Vec<Value> =
        serde_saphyr::from_multiple(&text).map_err(|error| anyhow::anyhow!("{file}: {error}"))?;
    ensure!(manifests.iter().all(Value::is_object), "{file} has a document that is no manifest");
    Ok(manifests)
}

/// Those of one kind.
pub fn of_kind<'a>(manifests: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    manifests.iter().filter(move |manifest| manifest["kind"] == kind)
}

/// The one of a kind.
pub fn the<'a>(manifests: &'a [Value], kind: &'a str) -> Result<&'a Value> {
    let mut found = of_kind(manifests, kind);
    let first = found.next().with_context(|| format!("there is no {kind}"))?;
    ensure!(found.next().is_none(), "there is more than one {kind}");
    Ok(first)
}

/// `metadata.name` or any other text; an error when it is none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no text at {pointer} in {value:#}"))
}

/// The elements of a list; none when there is no list.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A cluster with one endpoint, where a control plane would have discovered some.
fn cluster(name: &str, address: SocketAddr) -> Value {
    let address = json!({"address": address.ip().to_string(), "port_value": address.port()});
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": address}}}]}],
        },
    })
}

/// A listener on a free loopback port, where a control plane would take the manifest's port on all addresses.
fn listener(name: &str, manager: Value) -> Value {
    json!({
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
        ]}],
    })
}

/// The filter that ends every chain.
fn router() -> Value {
    json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    })
}

/// A bootstrap of these listeners and clusters.
fn bootstrap(listeners: Vec<Value>, clusters: Vec<Value>) -> Value {
    json!({
        "node": {"id": "bluegreen", "cluster": "bluegreen"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}
