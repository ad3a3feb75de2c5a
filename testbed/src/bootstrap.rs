//! Envoy configurations: the shipped ones, with this run's ports, module and plugin configuration.
//!
//! Tests start from the files under `envoy/`, because those are what people copy: whatever is broken there breaks a
//! test. The file is parsed (anchors resolved), changed as a JSON tree, and handed to Envoy as JSON.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::repository;

/// The type of a wasm HTTP filter's configuration.
const WASM_FILTER: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";

/// An Envoy bootstrap configuration, or any other file of the same shape (a resource file for ECDS or LDS).
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    tree: Value,
}

// === impl Bootstrap ===

impl Bootstrap {
    /// `envoy/envoy.yaml`, changed so that it can run beside others: every listener on a free port, and the module
    /// named by its absolute path. Without its access log, which would fill what tests look for in the log.
    pub fn shipped() -> Result<Self> {
        Ok(Self::shipped_with_access_log()?
            .edit(|tree| {
                for listener in elements(tree, "/static_resources/listeners") {
                    let manager = listener.pointer_mut("/filter_chains/0/filters/0/typed_config");
                    manager.and_then(Value::as_object_mut).and_then(|manager| manager.remove("access_log"));
                }
            })
            .plugin(|plugin| {
                if let Some(routing) = plugin.get_mut("routing").and_then(Value::as_object_mut) {
                    routing.remove("filter_state");
                }
            }))
    }

    /// The same with its access log.
    pub fn shipped_with_access_log() -> Result<Self> {
        let shipped = Self::read(&repository::root().join("envoy/envoy.yaml"))?;
        Ok(shipped.with_free_ports().with_wasm(&repository::wasm()?))
    }

    /// `envoy/mlflow/envoy.yaml`, changed in the same way.
    pub fn shipped_with_mlflow() -> Result<Self> {
        let shipped = Self::read(&repository::root().join("envoy/mlflow/envoy.yaml"))?;
        Ok(shipped.with_free_ports().with_wasm(&repository::wasm()?))
    }

    /// A file, unchanged.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not valid", path.display()))
    }

    /// A text in YAML or JSON.
    pub fn parse(text: &str) -> Result<Self> {
        let tree = serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(Self { tree })
    }

    /// Every listener, and Envoy's own admin interface, on a port that the kernel chooses.
    #[must_use]
    pub fn with_free_ports(self) -> Self {
        self.edit(|tree| {
            let admin = tree.pointer_mut("/admin/address/socket_address");
            admin.into_iter().for_each(|address| address["port_value"] = json!(0));
            for listener in elements(tree, "/static_resources/listeners") {
                listener["address"]["socket_address"]["port_value"] = json!(0);
            }
        })
    }

    /// Every wasm filter loads the module at `path`.
    #[must_use]
    pub fn with_wasm(self, path: &Path) -> Self {
        let path = path.to_string_lossy().into_owned();
        self.wasm_filters(|filter| {
            filter["config"]["vm_config"]["code"] = json!({"local": {"filename": path}});
        })
    }

    /// The cluster `name` has one endpoint at `address`. A cluster that is not there is added: a copy of the first.
    #[must_use]
    pub fn with_cluster(self, name: &str, address: SocketAddr) -> Self {
        self.edit(|tree| {
            let Some(clusters) = tree.pointer_mut("/static_resources/clusters").and_then(Value::as_array_mut) else {
                return;
            };
            if !clusters.iter().any(|cluster| cluster["name"] == name) {
                let mut copy = clusters.first().cloned().unwrap_or_else(|| json!({"type": "STATIC"}));
                copy["name"] = json!(name);
                clusters.push(copy);
            }
            for cluster in clusters.iter_mut().filter(|cluster| cluster["name"] == name) {
                let address = json!({"address": address.ip().to_string(), "port_value": address.port()});
                cluster["load_assignment"] = json!({
                    "cluster_name": name,
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": address}}}]}],
                });
            }
        })
    }

    /// Envoy speaks HTTP/2 without TLS to the cluster `name`, as gRPC needs.
    #[must_use]
    pub fn with_http2(self, name: &str) -> Self {
        self.edit(|tree| {
            for cluster in elements(tree, "/static_resources/clusters").filter(|cluster| cluster["name"] == name) {
                cluster["typed_extension_protocol_options"] = json!({
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "explicit_http_config": {"http2_protocol_options": {}},
                    }
                });
            }
        })
    }

    /// Changes each plugin configuration: in the shipped file the one of the traffic listener and the one of the
    /// filter's admin listener, which have the same `deployments`.
    #[must_use]
    pub fn plugin(self, mut change: impl FnMut(&mut Value)) -> Self {
        self.wasm_filters(|filter| {
            if let Some(configuration) = filter.pointer_mut("/config/configuration/value") {
                change(configuration);
            }
        })
    }

    /// Changes one deployment, wherever it is configured. A deployment that is not there starts as `null`.
    #[must_use]
    pub fn deployment(self, name: &str, mut change: impl FnMut(&mut Value)) -> Self {
        self.plugin(|plugin| change(&mut plugin["deployments"][name]))
    }

    /// Changes the typed configuration of each wasm filter.
    #[must_use]
    pub fn wasm_filters(self, mut change: impl FnMut(&mut Value)) -> Self {
        self.edit(|tree| each_wasm_filter(tree, &mut change))
    }

    /// The typed configuration of each wasm filter, in the order of the file.
    pub fn filters(&self) -> Vec<Value> {
        let mut filters = Vec::new();
        let mut copy = self.tree.clone();
        each_wasm_filter(&mut copy, &mut |filter| filters.push(filter.clone()));
        filters
    }

    /// Each plugin configuration, in the order of the file.
    pub fn plugins(&self) -> Vec<Value> {
        let filters = self.filters().into_iter();
        filters.filter_map(|filter| filter.pointer("/config/configuration/value").cloned()).collect()
    }

    /// Changes anything.
    #[must_use]
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.tree);
        self
    }

    /// The whole tree.
    pub fn tree(&self) -> &Value {
        &self.tree
    }

    /// The text that Envoy reads.
    pub fn to_text(&self) -> String {
        format!("{:#}\n", self.tree)
    }

    /// Writes the text to `path` at once: a file watched by Envoy must never be seen half written, so the text goes
    /// to a neighbour first, which is then renamed.
    pub fn write(&self, path: &Path) -> Result<()> {
        let draft = path.with_extension("draft");
        fs::write(&draft, self.to_text()).with_context(|| format!("{} cannot be written", draft.display()))?;
        fs::rename(&draft, path).with_context(|| format!("{} cannot be replaced", path.display()))
    }
}

/// The members of the list at `pointer`; none when there is no list.
pub fn elements<'a>(tree: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    tree.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Calls `change` with every wasm filter's configuration below `tree`.
fn each_wasm_filter(tree: &mut Value, change: &mut impl FnMut(&mut Value)) {
    if tree["@type"] == WASM_FILTER {
        return change(tree);
    }
    match tree {
        Value::Array(items) => items.iter_mut().for_each(|item| each_wasm_filter(item, change)),
        Value::Object(members) => members.values_mut().for_each(|member| each_wasm_filter(member, change)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::loopback;

    const SMALL: &str = r#"
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}
static_resources:
  listeners:
  - name: one
    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    filter:
      "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
      config: {configuration: {value: {deployments: &all {iris: {initial: {active: blue}, version: "1"}}}}}
  - name: two
    address: {socket_address: {address: 127.0.0.1, port_value: 10001}}
    filter:
      "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
      config: {configuration: {value: {deployments: *all, admin: {open: true}}}}
  clusters: [{name: blue, type: STATIC}]
"#;

    #[test]
    fn anchors_are_resolved_and_quoted_numbers_stay_texts() -> Result<()> {
        let small = Bootstrap::parse(SMALL)?;
        let version = "/filter/config/configuration/value/deployments/iris/version";
        let seen = small.tree().pointer(&format!("/static_resources/listeners/1{version}"));
        assert_eq!(seen, Some(&json!("1")));
        Ok(())
    }

    #[test]
    fn a_deployment_changes_in_every_listener() -> Result<()> {
        let small = Bootstrap::parse(SMALL)?.deployment("iris", |iris| iris["initial"]["active"] = json!("green"));
        for listener in 0..2 {
            let path = "filter/config/configuration/value/deployments/iris/initial/active";
            let seen = small.tree().pointer(&format!("/static_resources/listeners/{listener}/{path}"));
            assert_eq!(seen, Some(&json!("green")), "listener {listener}");
        }
        Ok(())
    }

    #[test]
    fn clusters_are_moved_or_added_and_ports_are_freed() -> Result<()> {
        let small = Bootstrap::parse(SMALL)?
            .with_free_ports()
            .with_cluster("blue", loopback(1))
            .with_cluster("gold", loopback(2));
        let tree = small.tree();
        let address = "load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address/port_value";
        assert_eq!(tree.pointer(&format!("/static_resources/clusters/0/{address}")), Some(&json!(1)));
        assert_eq!(tree.pointer(&format!("/static_resources/clusters/1/{address}")), Some(&json!(2)));
        assert_eq!(tree["static_resources"]["clusters"][1]["name"], "gold");
        assert_eq!(tree["static_resources"]["listeners"][1]["address"]["socket_address"]["port_value"], 0);
        assert_eq!(tree["admin"]["address"]["socket_address"]["port_value"], 0);
        Ok(())
    }
}
