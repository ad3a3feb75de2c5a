//! The Envoy configurations that are compared: all of them the shipped `envoy/envoy.yaml`, changed in one thing each.
//!
//! So what differs between two variants is what they are named for, and not a timeout or a header normalisation.

use anyhow::Result;
use bluegreen_testbed::Bootstrap;
use bluegreen_testbed::bootstrap::elements;
use serde_json::{Value, json};

use crate::lab::Lab;

/// The traffic listener's HTTP connection manager.
const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

/// The header that names the cluster, in every variant that routes by a header.
pub const CLUSTER_HEADER: &str = "x-bluegreen-cluster";

/// The shipped configuration, in front of the bench's upstream.
pub fn shipped(lab: &Lab) -> Result<Bootstrap> {
    let shipped = Bootstrap::shipped()?.with_wasm(&lab.module);
    Ok(shipped.with_cluster("blue", lab.blue).with_cluster("green", lab.green))
}

/// The shipped configuration without its admin listener.
pub fn traffic_only(lab: &Lab) -> Result<Bootstrap> {
    Ok(shipped(lab)?.edit(|tree| {
        if let Some(listeners) = tree["static_resources"]["listeners"].as_array_mut() {
            listeners.truncate(1);
        }
    }))
}

/// No filter but the router, no header mutation, and this route action.
pub fn native(lab: &Lab, action: Value) -> Result<Bootstrap> {
    let bare = by_header(lab)?;
    Ok(manager(bare, |manager| {
        manager["early_header_mutation_extensions"] = json!([]);
        manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"] = merged(action, json!({"timeout": "0s"}));
    }))
}

/// No filter but the router: the early header mutation names the cluster, and the route reads it.
pub fn by_header(lab: &Lab) -> Result<Bootstrap> {
    Ok(manager(traffic_only(lab)?, |manager| {
        if let Some(filters) = manager["http_filters"].as_array_mut() {
            filters.retain(|filter| filter["name"] == "envoy.filters.http.router");
        }
        if let Some(action) = manager.pointer_mut("/route_config/virtual_hosts/0/routes/0/route") {
            *action = json!({"cluster_header": CLUSTER_HEADER, "timeout": "0s"});
        }
    }))
}

/// Like [`by_header`], with a filter in front of the router.
pub fn with_filter(lab: &Lab, name: &str, configuration: Value) -> Result<Bootstrap> {
    Ok(manager(by_header(lab)?, |manager| {
        if let Some(filters) = manager["http_filters"].as_array_mut() {
            filters.insert(0, json!({"name": name, "typed_config": configuration}));
        }
    }))
}

/// Blue and green by weight; with a prefix, the weights can be changed by runtime keys.
pub fn weights(blue: u32, green: u32, runtime_key_prefix: Option<&str>) -> Value {
    let clusters = json!([{"name": "blue", "weight": blue}, {"name": "green", "weight": green}]);
    match runtime_key_prefix {
        Some(prefix) => json!({"weighted_clusters": {"runtime_key_prefix": prefix, "clusters": clusters}}),
        None => json!({"weighted_clusters": {"clusters": clusters}}),
    }
}

/// Lets Envoy's own admin interface change runtime keys.
pub fn with_runtime(bootstrap: Bootstrap) -> Bootstrap {
    bootstrap.edit(|tree| tree["layered_runtime"] = json!({"layers": [{"name": "admin", "admin_layer": {}}]}))
}

/// Changes the traffic listener's HTTP connection manager.
pub fn manager(bootstrap: Bootstrap, change: impl FnOnce(&mut Value)) -> Bootstrap {
    bootstrap.edit(|tree| {
        if let Some(manager) = tree.pointer_mut(MANAGER) {
            change(manager);
        }
    })
}

/// Every request has this route, whatever its path.
pub fn any_path(bootstrap: Bootstrap) -> Bootstrap {
    manager(bootstrap, |manager| {
        for host in elements(manager, "/route_config/virtual_hosts") {
            elements(host, "/routes").for_each(|route| route["match"] = json!({"prefix": "/"}));
        }
    })
}

fn merged(mut into: Value, from: Value) -> Value {
    if let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
    into
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_a_runtime_prefix_only_when_asked() {
        assert_eq!(weights(1, 9, None)["weighted_clusters"]["clusters"][1]["weight"], 9);
        assert_eq!(weights(1, 9, Some("bg"))["weighted_clusters"]["runtime_key_prefix"], "bg");
        assert!(weights(1, 9, None)["weighted_clusters"]["runtime_key_prefix"].is_null());
    }

    #[test]
    fn the_shipped_configuration_has_the_manager_where_it_is_looked_for() -> Result<()> {
        let file = bluegreen_testbed::repository::root().join("envoy/envoy.yaml");
        let changed = manager(Bootstrap::read(&file)?, |manager| manager["stat_prefix"] = json!("found"));
        assert_eq!(changed.tree().pointer(&format!("{MANAGER}/stat_prefix")), Some(&json!("found")));
        assert!(changed.tree().pointer(&format!("{MANAGER}/route_config/virtual_hosts/0/routes/0/route")).is_some());
        Ok(())
    }
}
