//! What the documents say about a set-up: listeners with their filters and routes, clusters, and the filter's configurations.

use std::collections::BTreeSet;
use std::rc::Rc;

use bluegreen_core::config::{Config, ConfigError};
use bluegreen_core::model::address::is_loopback;

use super::document::At;
use super::finding::{Check, Findings};
use super::routes::{self, Route};

/// Where a filter's configuration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// In Envoy's own words, also within an EnvoyFilter.
    Envoy,
    /// Istio's WasmPlugin or TrafficExtension.
    Istio,
    /// Envoy Gateway's EnvoyExtensionPolicy.
    Gateway,
}

/// The filter, as a document carries it.
#[derive(Clone, Debug)]
pub struct Plugin<'d> {
    /// What carries it.
    pub at: At<'d>,
    /// Which kind of thing that is.
    pub carrier: Carrier,
    /// Its configuration.
    pub written: At<'d>,
    /// The same as it was read; none if it is refused.
    pub config: Option<Rc<Config>>,
}

/// A filter of a chain.
#[derive(Clone, Debug)]
pub struct Filter<'d> {
    /// Its entry.
    pub at: At<'d>,
    /// Its name.
    pub name: String,
    /// Whether it is off unless a route turns it on.
    pub is_off: bool,
    /// What it is.
    pub kind: FilterKind<'d>,
}

/// What a filter is.
#[derive(Clone, Debug)]
pub enum FilterKind<'d> {
    /// This one.
    Bluegreen(Plugin<'d>),
    /// Another one of Envoy's, by the name of its type.
    Other(String),
    /// One that comes from elsewhere.
    Unknown,
}

/// The HTTP filters of a listener, and what is around them.
#[derive(Clone, Debug)]
pub struct Chain<'d> {
    /// The listener's name.
    pub listener: String,
    /// The address that it listens at; none if that is not known.
    pub address: Option<String>,
    /// The connection manager.
    pub manager: At<'d>,
    /// Its filters, in order.
    pub filters: Vec<Filter<'d>>,
    /// Its routes; none if they come from elsewhere.
    pub routes: Option<Vec<Route<'d>>>,
}

/// What one Envoy gets.
#[derive(Clone, Debug, Default)]
pub struct Setup<'d> {
    /// Its bootstrap, if that is given.
    pub bootstrap: Option<At<'d>>,
    /// Its chains.
    pub chains: Vec<Chain<'d>>,
    /// Its clusters, with their names; none if they come from elsewhere.
    pub clusters: Option<Vec<(String, At<'d>)>>,
}

/// What Envoy finds in documents.
#[derive(Clone, Debug, Default)]
pub struct Resources<'d> {
    /// Listeners.
    pub listeners: Vec<At<'d>>,
    /// Clusters.
    pub clusters: Vec<At<'d>>,
    /// Extensions by discovery, with their names.
    pub extensions: Vec<(String, At<'d>)>,
    /// Route configurations by discovery.
    pub route_configs: Vec<At<'d>>,
}

/// The filter for HTTP connections.
const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const WASM: &str = "envoy.extensions.filters.http.wasm.v3.Wasm";
/// The last filter of a chain.
pub const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

// === impl Resources ===

impl<'d> Resources<'d> {
    /// What a bootstrap, or a file of resources, has.
    pub fn of(document: &At<'d>) -> Self {
        let mut found = Self::default();
        if let Some(fixed) = document.field("static_resources") {
            found.listeners.extend(fixed.list("listeners"));
            found.clusters.extend(fixed.list("clusters"));
        }
        for resource in document.list("resources") {
            // xDS may wrap a resource.
            let resource = resource.field("resource").filter(At::is_object).unwrap_or(resource);
            found.add(resource);
        }
        if document.field("static_resources").is_none() && document.field("resources").is_none() {
            found.add(document.clone());
        }
        found
    }

    fn add(&mut self, resource: At<'d>) {
        let kind = resource.type_name().and_then(|name| name.rsplit('.').next());
        let name = resource.text_of("name").unwrap_or_default().to_owned();
        match kind {
            Some("Listener") => self.listeners.push(resource),
            Some("Cluster") => self.clusters.push(resource),
            Some("RouteConfiguration") => self.route_configs.push(resource),
            Some("TypedExtensionConfig") => self.extensions.push((name, resource)),
            None if resource.field("filter_chains").is_some() => self.listeners.push(resource),
            None if is_cluster(&resource) => self.clusters.push(resource),
            None if resource.field("typed_config").is_some() => self.extensions.push((name, resource)),
            _ => {}
        }
    }

    /// Adds those of another document.
    pub fn extend(&mut self, other: Self) {
        self.listeners.extend(other.listeners);
        self.clusters.extend(other.clusters);
        self.extensions.extend(other.extensions);
        self.route_configs.extend(other.route_configs);
    }
}

/// Whether an object is a cluster by its fields.
pub fn is_cluster(at: &At<'_>) -> bool {
    at.field("name").is_some() && (at.field("load_assignment").is_some() || at.field("connect_timeout").is_some())
}

// === impl Setup ===

impl<'d> Setup<'d> {
    /// What an Envoy with these resources has. `variant`: which of several configurations of the same name it gets.
    pub fn of(
        bootstrap: Option<At<'d>>,
        resources: &Resources<'d>,
        clusters_are_known: bool,
        variant: usize,
        findings: &mut Findings,
    ) -> Self {
        let mut chains = Vec::new();
        for listener in &resources.listeners {
            for manager in managers(listener) {
                let filters = manager
                    .list("http_filters")
                    .iter()
                    .map(|at| Filter::of(at, resources, variant, findings))
                    .collect();
                chains.push(Chain {
                    listener: listener.text_of("name").unwrap_or("without a name").to_owned(),
                    address: address(listener),
                    routes: routes_of(&manager, resources),
                    manager,
                    filters,
                });
            }
        }
        let named = |at: &At<'d>| Some((at.text_of("name")?.to_owned(), at.clone()));
        let clusters = clusters_are_known.then(|| resources.clusters.iter().filter_map(named).collect());
        Self { bootstrap, chains, clusters }
    }

    /// Each of its filters of our kind, with the chain that it is in.
    pub fn plugins(&self) -> impl Iterator<Item = (&Chain<'d>, &Filter<'d>, &Plugin<'d>)> {
        self.chains.iter().flat_map(|chain| chain.plugins().map(move |(filter, plugin)| (chain, filter, plugin)))
    }
}

/// The connection managers of a listener.
fn managers<'d>(listener: &At<'d>) -> Vec<At<'d>> {
    let mut found = Vec::new();
    let chains = listener.list("filter_chains").into_iter().chain(listener.field("default_filter_chain"));
    for filter in chains.flat_map(|chain| chain.list("filters")) {
        found.extend(filter.field("typed_config").filter(|config| config.type_name() == Some(MANAGER)));
    }
    found.extend(
        listener.fields(&["api_listener", "api_listener"]).filter(|config| config.type_name() == Some(MANAGER)),
    );
    found
}

fn address(listener: &At<'_>) -> Option<String> {
    let socket = listener.fields(&["address", "socket_address", "address"]);
    let pipe = || listener.fields(&["address", "pipe", "path"]);
    socket.or_else(pipe).and_then(|address| address.text()).map(str::to_owned)
}

fn routes_of<'d>(manager: &At<'d>, resources: &Resources<'d>) -> Option<Vec<Route<'d>>> {
    if let Some(table) = manager.field("route_config") {
        return Some(routes::of_envoy(&table));
    }
    let name = manager.fields(&["rds", "route_config_name"])?.text()?;
    let table = resources.route_configs.iter().find(|table| table.text_of("name") == Some(name))?;
    Some(routes::of_envoy(table))
}

// === impl Chain ===

impl<'d> Chain<'d> {
    /// Its filters of our kind.
    pub fn plugins(&self) -> impl Iterator<Item = (&Filter<'d>, &Plugin<'d>)> {
        self.filters.iter().filter_map(|filter| Some((filter, filter.plugin()?)))
    }

    /// Whether other machines reach it. One whose address is not known is not suspected.
    pub fn is_public(&self) -> bool {
        self.address.as_ref().is_some_and(|address| !is_loopback(address))
    }

    /// Whether requests reach the admin API of a filter in it.
    pub fn serves_admin(&self, filter: &Filter<'_>, config: &Config) -> bool {
        let Some(access) = &config.admin else { return false };
        let on = |route: &Route<'_>| route.turns_on(&filter.name) && route.path.overlaps(access.path_prefix.as_str());
        !filter.is_off || self.routes.as_ref().is_none_or(|routes| routes.iter().any(on))
    }

    /// Whether it has routes for requests to model servers, as opposed to a listener for the admin API alone.
    pub fn takes_traffic(&self, config: &Config) -> bool {
        config.admin.is_none() || self.routes.as_ref().is_none_or(|routes| !routes.is_empty())
    }
}

// === impl Filter ===

impl<'d> Filter<'d> {
    /// What an entry of `http_filters` is.
    pub fn of(at: &At<'d>, resources: &Resources<'d>, variant: usize, findings: &mut Findings) -> Self {
        let name = at.text_of("name").unwrap_or_default().to_owned();
        let typed = at.field("typed_config").or_else(|| {
            let of_name: Vec<_> = resources.extensions.iter().filter(|(known, _)| *known == name).collect();
            let (_, extension) = of_name.get(variant.min(of_name.len().saturating_sub(1)))?;
            extension.field("typed_config")
        });
        let kind = match typed.map(unwrapped) {
            Some((WASM, typed)) => {
                let plugin = typed.field("config").and_then(|config| Plugin::of_envoy(&config, findings));
                plugin.map_or_else(|| FilterKind::Other(WASM.to_owned()), FilterKind::Bluegreen)
            }
            Some((name, _)) => FilterKind::Other(name.to_owned()),
            None => FilterKind::Unknown,
        };
        Self { at: at.clone(), name, is_off: at.is_true("disabled"), kind }
    }

    /// The filter, if it is of our kind.
    pub fn plugin(&self) -> Option<&Plugin<'d>> {
        match &self.kind {
            FilterKind::Bluegreen(plugin) => Some(plugin),
            _ => None,
        }
    }
}

/// The type of a filter's configuration, and its fields, which may be wrapped in a `TypedStruct`.
fn unwrapped(typed: At<'_>) -> (&str, At<'_>) {
    let name = typed.type_name().unwrap_or_default();
    let inner = typed.field("value").filter(|_| name.ends_with(".TypedStruct"));
    match (inner, typed.text_of("type_url")) {
        (Some(inner), Some(url)) => (url.rsplit_once('/').map_or(url, |(_, name)| name), inner),
        _ => (name, typed),
    }
}

// === impl Plugin ===

impl<'d> Plugin<'d> {
    /// The filter in a `PluginConfig` of Envoy's; none if that is another plugin.
    pub fn of_envoy(at: &At<'d>, findings: &mut Findings) -> Option<Self> {
        let written = at.field("configuration");
        let inner = written.as_ref().and_then(|written| written.field("value"));
        let is_struct = inner.as_ref().is_some_and(At::is_object);
        let says =
            |field: Option<At<'_>>| field.and_then(|at| at.text()).is_some_and(|text| text.contains("bluegreen"));
        let is_ours = is_struct && inner.as_ref().is_some_and(|inner| inner.get("deployments").is_some())
            || inner.as_ref().and_then(At::text).is_some_and(|text| text.contains("\"deployments\""))
            || says(at.field("root_id"))
            || says(at.fields(&["vm_config", "code", "local", "filename"]));
        if !is_ours {
            return None;
        }
        let written = inner.or(written).unwrap_or_else(|| at.clone());
        let config = if written.path == at.path {
            findings.add(Check::Configuration, at, "there is no configuration: add one with deployments");
            None
        } else {
            read(&written, true, findings)
        };
        Some(Self { at: at.clone(), carrier: Carrier::Envoy, written, config })
    }

    /// The filter in a manifest.
    pub fn of_manifest(at: At<'d>, carrier: Carrier, written: At<'d>, findings: &mut Findings) -> Self {
        let config = read(&written, false, findings);
        Self { at, carrier, written, config }
    }

    /// The name of its state; empty where it has none of its own.
    pub fn vm_id(&self) -> &'d str {
        self.at.fields(&["vm_config", "vm_id"]).and_then(|at| at.text()).unwrap_or_default()
    }

    /// Where a field of its configuration stands.
    pub fn find(&self, path: &str) -> At<'d> {
        self.written.follow(path)
    }
}

/// Reads a configuration, an object or JSON in a text, as the filter does.
pub fn read(written: &At<'_>, by_envoy: bool, findings: &mut Findings) -> Option<Rc<Config>> {
    let bytes = match written.text() {
        Some(text) => text.as_bytes().to_vec(),
        None => written.json(by_envoy).to_string().into_bytes(),
    };
    match Config::from_bytes(&bytes) {
        Ok(config) => Some(Rc::new(config)),
        Err(error) => {
            refused(written, &error, findings);
            None
        }
    }
}

fn refused(written: &At<'_>, error: &ConfigError, findings: &mut Findings) {
    let full = error.to_string();
    let problem = full.strip_prefix(error.path()).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&full);
    let mut at = written.follow(error.path());
    // The field itself rather than the section that should not have it.
    let unknown = problem.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'));
    if let Some(field) = unknown.and_then(|(name, _)| at.get(name)) {
        at = field;
    }
    let path = written.path_to(error.path());
    let level = Check::Configuration.level();
    findings.add_in(Check::Configuration, level, &at.document.file, at.place(), path, problem.to_owned());
}

/// The clusters that a configuration names, with the fields that name them.
pub fn clusters_of(config: &Config) -> Vec<(String, String)> {
    let mut named = Vec::new();
    for (name, deployment) in &config.deployments {
        for colour in bluegreen_core::model::colour::Colour::ALL {
            let identity = deployment.colours.get(colour);
            named.push((format!("deployments.{name}.colours.{colour}.cluster"), identity.cluster.as_str().to_owned()));
            for (place, also) in identity.also.iter().enumerate() {
                named.push((format!("deployments.{name}.colours.{colour}.also[{place}]"), also.as_str().to_owned()));
            }
        }
        if let Some(mlflow) = &deployment.mlflow {
            named.push((format!("deployments.{name}.mlflow.cluster"), mlflow.cluster.as_str().to_owned()));
        }
    }
    named.extend(config.runtime.iter().map(|at| ("runtime.cluster".to_owned(), at.cluster.as_str().to_owned())));
    for (place, receiver) in config.notify.iter().enumerate() {
        named.push((format!("notify[{place}].cluster"), receiver.cluster.as_str().to_owned()));
    }
    named.extend(config.etcd.iter().map(|at| ("etcd.cluster".to_owned(), at.cluster.as_str().to_owned())));
    named.extend(config.kubernetes.iter().map(|at| ("kubernetes.cluster".to_owned(), at.cluster.as_str().to_owned())));
    named
}

/// The names of the deployments that two configurations share.
pub fn shared<'c>(one: &'c Config, other: &Config) -> BTreeSet<&'c str> {
    let names = one.deployments.keys().filter(|name| other.deployments.contains_key(*name));
    names.map(|name| name.as_str()).collect()
}
