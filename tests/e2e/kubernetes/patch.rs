//! Istio's EnvoyFilter: patches to what Istio has generated.
//!
//! Of the operations, those that the shipped manifest uses: MERGE as protobuf merges (messages by field, lists by
//! appending, one member of a oneof replaces the others), INSERT_BEFORE, and ADD.

use anyhow::{Context, Result, bail};
use bluegreen_testbed::bootstrap::elements;
use serde_json::Value;

use super::{list, text};

/// What a route's destination can be: setting one unsets the others.
const CLUSTER_SPECIFIERS: [&str; 3] = ["cluster", "cluster_header", "weighted_clusters"];

/// Applies the patches that are about listeners and routes to a bootstrap. `EXTENSION_CONFIG` is what
/// [`extension_configs`] returns.
pub fn apply(filter: &Value, bootstrap: &mut Value) -> Result<()> {
    for patch in list(&filter["spec"]["configPatches"]) {
        let (value, matches) = (&patch["patch"]["value"], &patch["match"]);
        let what = (text(patch, "/applyTo")?, text(patch, "/patch/operation")?);
        match what {
            ("EXTENSION_CONFIG", "ADD") => {}
            ("LISTENER", "ADD") => {
                let listeners = bootstrap.pointer_mut("/static_resources/listeners").and_then(Value::as_array_mut);
                listeners.context("no listeners")?.push(value.clone());
            }
            ("NETWORK_FILTER", "MERGE") => {
                let wanted = text(matches, "/listener/filterChain/filter/name")?;
                for_each_network_filter(bootstrap, wanted, |filter| merge(filter, value));
            }
            ("HTTP_FILTER", "INSERT_BEFORE") => {
                let manager = text(matches, "/listener/filterChain/filter/name")?;
                let before = text(matches, "/listener/filterChain/filter/subFilter/name")?;
                for_each_network_filter(bootstrap, manager, |filter| insert_before(filter, before, value));
            }
            ("HTTP_ROUTE", "MERGE") => {
                let host = text(matches, "/routeConfiguration/vhost/name")?;
                let route = text(matches, "/routeConfiguration/vhost/route/name")?;
                for_each_route(bootstrap, host, route, |route| merge(route, value));
            }
            _ => bail!("this test cannot apply {what:?}"),
        }
    }
    Ok(())
}

/// The ECDS resources that an EnvoyFilter adds.
pub fn extension_configs(filter: &Value) -> Vec<Value> {
    let patches = list(&filter["spec"]["configPatches"]).iter();
    patches
        .filter(|patch| patch["applyTo"] == "EXTENSION_CONFIG")
        .map(|patch| patch["patch"]["value"].clone())
        .collect()
}

fn for_each_network_filter(bootstrap: &mut Value, name: &str, mut change: impl FnMut(&mut Value)) {
    for listener in elements(bootstrap, "/static_resources/listeners") {
        for chain in elements(listener, "/filter_chains") {
            elements(chain, "/filters").filter(|filter| filter["name"] == name).for_each(&mut change);
        }
    }
}

fn for_each_route(bootstrap: &mut Value, host: &str, route: &str, mut change: impl FnMut(&mut Value)) {
    for_each_network_filter(bootstrap, "envoy.filters.network.http_connection_manager", |filter| {
        let hosts = elements(filter, "/typed_config/route_config/virtual_hosts");
        for virtual_host in hosts.filter(|virtual_host| virtual_host["name"] == host) {
            elements(virtual_host, "/routes").filter(|found| found["name"] == route).for_each(&mut change);
        }
    });
}

fn insert_before(manager: &mut Value, name: &str, value: &Value) {
    let filters = manager.pointer_mut("/typed_config/http_filters").and_then(Value::as_array_mut);
    if let Some(filters) = filters
        && let Some(position) = filters.iter().position(|filter| filter["name"] == name)
    {
        filters.insert(position, value.clone());
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            if CLUSTER_SPECIFIERS.iter().any(|name| from.contains_key(*name)) {
                into.retain(|name, _| !CLUSTER_SPECIFIERS.contains(&name.as_str()));
            }
            for (name, value) in from {
                merge(into.entry(name.as_str()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => into.extend(from.iter().cloned()),
        (into, from) => *into = from.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_adds_to_lists_and_replaces_the_other_members_of_a_oneof() {
        let mut route =
            json!({"route": {"cluster": "a", "timeout": "0s", "request_mirror_policies": [{"cluster": "b"}]}});
        merge(
            &mut route,
            &json!({"route": {"cluster_header": "x", "request_mirror_policies": [{"cluster_header": "y"}]}}),
        );
        let mirrors = json!([{"cluster": "b"}, {"cluster_header": "y"}]);
        let expected = json!({"cluster_header": "x", "timeout": "0s", "request_mirror_policies": mirrors});
        assert_eq!(route["route"], expected);
    }
}
