//! Manifests: what carries the filter in Istio and Envoy Gateway, and the routes beside it.

use std::rc::Rc;

use bluegreen_core::config::{Config, PathPrefix};
use bluegreen_core::model::colour::Colour;

use super::document::At;
use super::finding::{Check, Findings, Level};
use super::routes::{Fate, HeaderRule, Mirror, PathRule, Route, Target, fate};
use super::setup::{Carrier, Chain, Filter, Plugin, Resources, Setup, clusters_of, shared};
use super::{Seen, checks};

/// The manifests by kind.
struct Manifests<'d>(Vec<At<'d>>);

/// Everything about the manifests that are given together.
pub fn check(documents: &[At<'_>], seen: &mut Seen, findings: &mut Findings) {
    let mut all = Vec::new();
    for document in documents {
        if document.text_of("kind") == Some("List") {
            all.extend(document.list("items"))
        } else {
            all.push(document.clone())
        }
    }
    let manifests = Manifests(all);
    for manifest in manifests.of("EnvoyFilter") {
        envoy_filter(&manifest, seen, findings);
    }
    let mut plugins = Vec::new();
    for kind in ["WasmPlugin", "TrafficExtension"] {
        for manifest in manifests.of(kind) {
            let Some(spec) = manifest.get("spec") else { continue };
            let carrying = if kind == "WasmPlugin" { Some(spec) } else { spec.get("wasm") };
            plugins.extend(carrying.and_then(|at| in_manifest(at, Carrier::Istio, "pluginConfig", findings)));
        }
    }
    for manifest in manifests.of("EnvoyExtensionPolicy") {
        for at in manifest.get("spec").iter().flat_map(|spec| spec.list("wasm")) {
            plugins.extend(in_manifest(at, Carrier::Gateway, "config", findings));
        }
    }
    for (place, plugin) in plugins.iter().enumerate() {
        let Some(config) = &plugin.config else { continue };
        seen.configurations = seen.configurations.saturating_add(1);
        seen.deployments = seen.deployments.saturating_add(config.deployments.len());
        checks::configuration(plugin, config, findings);
        config.admin.iter().for_each(|access| checks::published_tokens(plugin, access, None, findings));
        twice(plugin, config, plugins.get(..place).unwrap_or_default(), findings);
        if plugin.carrier == Carrier::Istio {
            istio(&manifests, plugin, config, findings);
        } else {
            gateway(&manifests, plugin, config, findings);
        }
    }
}

/// The filter in a manifest; none if that is another plugin.
fn in_manifest<'d>(at: At<'d>, carrier: Carrier, field: &str, findings: &mut Findings) -> Option<Plugin<'d>> {
    let written = at.get(field);
    let has_deployments = written.as_ref().is_some_and(|written| written.get("deployments").is_some());
    let named = ["url", "name", "pluginName", "rootID"].iter().any(|name| says_bluegreen(at.get(name)));
    if !has_deployments && !named {
        return None;
    }
    let Some(written) = written else {
        findings.add(Check::Configuration, &at, format!("there is no {field}: add one with deployments"));
        return None;
    };
    Some(Plugin::of_manifest(at, carrier, written, findings))
}

fn says_bluegreen(at: Option<At<'_>>) -> bool {
    at.and_then(|at| at.text()).is_some_and(|text| text.contains("bluegreen"))
}

/// Two manifests that bring the filter for one deployment.
fn twice(plugin: &Plugin<'_>, config: &Config, earlier: &[Plugin<'_>], findings: &mut Findings) {
    for other in earlier {
        let Some(other_config) = &other.config else { continue };
        let same = shared(config, other_config);
        let Some(name) = same.first().filter(|_| other.carrier == plugin.carrier) else { continue };
        let where_else = format!("{}:{}", other.at.document.file, other.at.place().line);
        let (check, detail) = match plugin.carrier {
            Carrier::Gateway => (
                Check::NoTrafficWorker,
                format!(
                    "another policy has the deployment {name} ({where_else}), and each policy is a vm_id of its own: name all routes \
                     in one policy's targetRefs"
                ),
            ),
            _ => (
                Check::TwoFilters,
                format!(
                    "another manifest has the deployment {name} ({where_else}): apply one of the two, or each request is \
                         decided twice"
                ),
            ),
        };
        findings.add(check, &plugin.at, detail);
    }
}

/// A WasmPlugin or a TrafficExtension.
fn istio(manifests: &Manifests<'_>, plugin: &Plugin<'_>, config: &Config, findings: &mut Findings) {
    let strategy = plugin.at.text_of("failStrategy");
    if !matches!(strategy, Some("FAIL_OPEN" | "FAIL_RELOAD")) {
        let detail = "without the module, or once it has failed, all requests are refused: set failStrategy: FAIL_OPEN or \
                      FAIL_RELOAD";
        findings.add(Check::FailurePolicy, &plugin.at, detail);
    }
    if let Some(access) = &config.admin {
        if let Some(phase) = plugin.at.get("phase").filter(|phase| matches!(phase.text(), Some("AUTHN" | "AUTHZ"))) {
            let detail = "in this phase the plugin answers admin calls before Istio's authorization: leave phase out";
            findings.add(Check::FilterOrder, &phase, detail);
        }
        guarded(manifests, plugin, &access.path_prefix, findings);
    }
    for (field, cluster) in clusters_of(config) {
        subset(manifests, &plugin.find(&field), &cluster, findings);
    }
    let routes: Vec<Route<'_>> = manifests.of("VirtualService").flat_map(|service| virtual_service(&service)).collect();
    routed(&routes, plugin, config, findings);
}

/// Whether a policy keeps the admin path from outside.
fn guarded(manifests: &Manifests<'_>, plugin: &Plugin<'_>, prefix: &PathPrefix, findings: &mut Findings) {
    let policies: Vec<At<'_>> = manifests.of("AuthorizationPolicy").collect();
    let names_path = |policy: &At<'_>| {
        let rules = policy.get("spec").map(|spec| spec.list("rules")).unwrap_or_default();
        let to = rules.iter().flat_map(|rule| rule.list("to"));
        let paths = to.filter_map(|to| to.get("operation")).flat_map(|operation| operation.list("paths"));
        let mut texts = paths.filter_map(|path| path.text());
        texts.any(|path| path.trim_end_matches(['*', '/']).starts_with(prefix.as_str()))
    };
    if policies.iter().any(names_path) {
        return;
    }
    let detail = format!(
        "the admin API is on the gateway's own port, and no AuthorizationPolicy names {}: add one, as \
         envoy/istio/authorizationpolicy.yaml",
        prefix.as_str()
    );
    let level = if policies.is_empty() { Level::Note } else { Check::AdminExposed.level() };
    findings.add_with(Check::AdminExposed, level, &plugin.find("admin"), detail);
}

/// Whether the subset of a cluster such as `outbound|8080|blue|iris.default.svc.cluster.local` is there, as far as its host is
/// known here.
fn subset(manifests: &Manifests<'_>, at: &At<'_>, cluster: &str, findings: &mut Findings) {
    let parts: Vec<&str> = cluster.split('|').collect();
    let ["outbound", _, subset, host] = parts.as_slice() else { return };
    let mut known = Vec::new();
    let mut is_here = false;
    for rule in manifests.of("DestinationRule") {
        let namespace = namespace(&rule);
        let Some(spec) = rule.get("spec") else { continue };
        if spec.text_of("host").is_some_and(|own| qualified(own, namespace) == *host) {
            is_here = true;
            known.extend(spec.list("subsets").iter().filter_map(|subset| subset.text_of("name")).map(str::to_owned));
        }
    }
    if is_here && !subset.is_empty() && !known.iter().any(|name| name == subset) {
        let all: Vec<String> =
            known.iter().map(|name| cluster.replacen(&format!("|{subset}|"), &format!("|{name}|"), 1)).collect();
        checks::unknown_cluster(at, cluster, all.iter().map(String::as_str), findings);
    }
}

/// An EnvoyExtensionPolicy.
fn gateway(manifests: &Manifests<'_>, plugin: &Plugin<'_>, config: &Config, findings: &mut Findings) {
    if !plugin.at.is_true("failOpen") {
        let detail = "without the module, or once it has failed, all requests are refused: set failOpen: true";
        findings.add(Check::FailurePolicy, &plugin.at, detail);
    }
    let http_routes: Vec<At<'_>> = manifests.of("HTTPRoute").collect();
    for (field, cluster) in clusters_of(config) {
        let parts: Vec<&str> = cluster.split('/').collect();
        let ["httproute", namespace_of, name, "rule", number] = parts.as_slice() else { continue };
        let is_it = |route: &&At<'_>| namespace(route) == *namespace_of && name_of(route) == *name;
        let Some(route) = http_routes.iter().find(is_it) else { continue };
        let rules = route.get("spec").map(|spec| spec.list("rules").len()).unwrap_or_default();
        if number.parse::<usize>().is_ok_and(|number| number >= rules) {
            let known: Vec<String> =
                (0..rules).map(|rule| format!("httproute/{namespace_of}/{name}/rule/{rule}")).collect();
            checks::unknown_cluster(&plugin.find(&field), &cluster, known.iter().map(String::as_str), findings);
        }
    }
    let mut routes: Vec<Route<'_>> = http_routes.iter().flat_map(http_route).collect();
    // The Gateway API's order: exact paths, then the longest, then the most headers.
    routes.sort_by_key(|route| {
        let (kind, length) = match &route.path {
            PathRule::Exact(path) => (0, path.len()),
            PathRule::Prefix(path) | PathRule::SeparatedPrefix(path) => (1, path.len()),
            PathRule::Unknown => (2, 0),
        };
        (kind, std::cmp::Reverse(length), std::cmp::Reverse(route.headers.len()))
    });
    routed(&routes, plugin, config, findings);
    let policies: Vec<At<'_>> = manifests.of("ClientTrafficPolicy").filter_map(|policy| policy.get("spec")).collect();
    for policy in &policies {
        let removed = policy
            .fields(&["headers", "earlyRequestHeaders"])
            .map(|headers| headers.list("remove"))
            .unwrap_or_default();
        let removed: Vec<&str> = removed.iter().filter_map(|header| header.text()).collect();
        let ours = [&config.routing.cluster_header, &config.routing.colour_header, &config.routing.shadow_header];
        let open: Vec<&str> =
            ours.iter().map(|header| header.as_str()).filter(|header| !removed.contains(header)).collect();
        if !open.is_empty() && policies.len() == 1 {
            let detail = format!("clients can write {}: remove it by headers.earlyRequestHeaders", open.join(", "));
            findings.add(Check::ClientHeaders, policy, detail);
        }
    }
}

/// Whether the routes beside a plugin follow it, for the deployments of which there are any.
fn routed(routes: &[Route<'_>], plugin: &Plugin<'_>, config: &Config, findings: &mut Findings) {
    for (name, deployment) in &config.deployments {
        let header = deployment.cluster_header.as_ref().unwrap_or(&config.routing.cluster_header);
        for prefix in deployment.rules.prefixes() {
            let is_about = |route: &&Route<'_>| route.is_for(deployment) && route.path.overlaps(prefix);
            if !routes.iter().any(|route| is_about(&route)) {
                continue;
            }
            for colour in Colour::ALL {
                let shown = deployment.colours.get(colour).cluster.as_str();
                match fate(routes, deployment, header, &config.routing, (colour, false), prefix) {
                    Fate::Follows(_) | Fate::Nowhere(Some(_)) => {}
                    Fate::Elsewhere(route) => {
                        let target = match &route.target {
                            Target::Cluster(cluster) => format!("goes to {cluster}"),
                            _ => "goes elsewhere".to_owned(),
                        };
                        let detail = format!(
                            "requests of {name} that the filter gives to {colour} reach this route, which {target} in place of \
                             {shown}: add a route before it that asks for {}: {colour}, or correct the cluster's name",
                            config.routing.colour_header
                        );
                        findings.add(Check::AnswersFromElsewhere, &route.at, detail);
                    }
                    Fate::Nowhere(None) => {
                        let detail = format!("no route takes the requests of {name} that the filter gives to {colour}");
                        findings.add(Check::NoRoute, &plugin.find(&format!("deployments.{name}.match")), detail);
                    }
                }
            }
            // Without the filter the default route decides.
            let is_default = |route: &&Route<'_>| is_about(route) && route.headers.is_empty() && !route.is_conditional;
            let stable = deployment.colours.get(deployment.initial.active);
            let is_stable = |cluster: &str| {
                stable.cluster.as_str() == cluster || stable.also.iter().any(|also| also.as_str() == cluster)
            };
            if let Some(route) = routes.iter().find(is_default)
                && let Target::Cluster(cluster) = &route.target
                && !is_stable(cluster)
            {
                let detail = format!(
                    "without the filter the requests of {name} go to {cluster}, which is not the cluster of initial.active ({}): \
                     make both the same",
                    stable.cluster.as_str()
                );
                findings.add(Check::WrongSeed, &route.at, detail);
            }
        }
    }
}

/// The routes of Istio's VirtualService.
fn virtual_service<'d>(manifest: &At<'d>) -> Vec<Route<'d>> {
    let namespace = namespace(manifest);
    let Some(spec) = manifest.get("spec") else { return Vec::new() };
    let hosts: Vec<String> = spec.list("hosts").iter().filter_map(|host| host.text()).map(str::to_owned).collect();
    let hosts = if hosts.iter().any(|host| host == "*") { Vec::new() } else { hosts };
    let cluster = |destination: &At<'_>| {
        let port = destination.fields(&["port", "number"]).and_then(|port| port.number());
        let subset = destination.text_of("subset").unwrap_or_default();
        let host = qualified(destination.text_of("host").unwrap_or_default(), namespace);
        format!("outbound|{}|{subset}|{host}", port.map(|port| port.to_string()).unwrap_or_default())
    };
    let mut routes = Vec::new();
    for at in spec.list("http") {
        let destinations: Vec<At<'_>> = at.list("route").iter().filter_map(|route| route.get("destination")).collect();
        let target = match destinations.as_slice() {
            [] => Target::Answer,
            [one] => Target::Cluster(cluster(one)),
            _ => Target::Weighted,
        };
        let mirrors = at.list("mirrors").iter().filter_map(|mirror| mirror.get("destination")).collect::<Vec<_>>();
        let mirrors: Vec<Mirror> = mirrors.iter().map(|mirror| Mirror::Cluster(cluster(mirror))).collect();
        let whole = Route {
            at: at.clone(),
            hosts: hosts.clone(),
            path: PathRule::Prefix("/".to_owned()),
            headers: Vec::new(),
            is_conditional: false,
            target,
            mirrors,
            filters: Vec::new(),
        };
        let matches = at.list("match");
        if matches.is_empty() {
            routes.push(whole.clone());
        }
        for rule in matches {
            let mut route = whole.clone();
            if let Some(uri) = rule.get("uri") {
                let text = |name: &str| uri.text_of(name).map(str::to_owned);
                route.path = text("prefix")
                    .map(PathRule::Prefix)
                    .or_else(|| text("exact").map(PathRule::Exact))
                    .unwrap_or(PathRule::Unknown);
            }
            for (name, value) in rule.get("headers").map(|headers| headers.members()).unwrap_or_default() {
                let exact = value.text_of("exact").map(|exact| HeaderRule::Exact(exact.to_owned()));
                route.headers.push((name.to_owned(), exact.unwrap_or(HeaderRule::Unknown)));
            }
            let known = ["uri", "headers", "name"];
            route.is_conditional = rule.members().iter().any(|(name, _)| !known.contains(name));
            routes.push(route);
        }
    }
    routes
}

/// The routes of the Gateway API's HTTPRoute, in the order of its rules.
fn http_route<'d>(manifest: &At<'d>) -> Vec<Route<'d>> {
    let (namespace, name) = (namespace(manifest), name_of(manifest));
    let Some(spec) = manifest.get("spec") else { return Vec::new() };
    let hosts: Vec<String> = spec.list("hostnames").iter().filter_map(|host| host.text()).map(str::to_owned).collect();
    let mut routes = Vec::new();
    for (number, at) in spec.list("rules").into_iter().enumerate() {
        let whole = Route {
            at: at.clone(),
            hosts: hosts.clone(),
            path: PathRule::Prefix("/".to_owned()),
            headers: Vec::new(),
            is_conditional: false,
            target: Target::Cluster(format!("httproute/{namespace}/{name}/rule/{number}")),
            mirrors: Vec::new(),
            filters: Vec::new(),
        };
        let matches = at.list("matches");
        if matches.is_empty() {
            routes.push(whole.clone());
        }
        for rule in matches {
            let mut route = whole.clone();
            if let Some(path) = rule.get("path") {
                let value = path.text_of("value").unwrap_or("/").to_owned();
                route.path = match path.text_of("type") {
                    None | Some("PathPrefix") if value == "/" => PathRule::Prefix(value),
                    None | Some("PathPrefix") => PathRule::SeparatedPrefix(value.trim_end_matches('/').to_owned()),
                    Some("Exact") => PathRule::Exact(value),
                    Some(_) => PathRule::Unknown,
                };
            }
            for header in rule.list("headers") {
                let value = header.text_of("value").unwrap_or_default().to_owned();
                let is_exact = matches!(header.text_of("type"), None | Some("Exact"));
                let value = if is_exact { HeaderRule::Exact(value) } else { HeaderRule::Unknown };
                route.headers.push((header.text_of("name").unwrap_or_default().to_owned(), value));
            }
            route.is_conditional = ["method", "queryParams"].iter().any(|name| rule.get(name).is_some());
            routes.push(route);
        }
    }
    routes
}

/// Istio's EnvoyFilter: what it adds to an Envoy.
fn envoy_filter(manifest: &At<'_>, seen: &mut Seen, findings: &mut Findings) {
    let patches = manifest.get("spec").map(|spec| spec.list("configPatches")).unwrap_or_default();
    let of = |kind: &str| {
        let of_kind = patches.iter().filter(move |patch| patch.text_of("applyTo") == Some(kind));
        of_kind.filter_map(|patch| patch.fields(&["patch", "value"])).collect::<Vec<_>>()
    };
    let extensions =
        of("EXTENSION_CONFIG").into_iter().map(|at| (at.text_of("name").unwrap_or_default().to_owned(), at));
    let resources = Resources { listeners: of("LISTENER"), extensions: extensions.collect(), ..Resources::default() };
    let mut setup = Setup::of(None, &resources, false, 0, findings);
    let manager = of("NETWORK_FILTER").into_iter().find_map(|filter| {
        filter.field("typed_config").filter(|config| config.field("early_header_mutation_extensions").is_some())
    });
    let by_header: Vec<At<'_>> =
        of("HTTP_ROUTE").into_iter().filter(|route| route.fields(&["route", "cluster_header"]).is_some()).collect();
    let filters = patches.iter().filter(|patch| patch.text_of("applyTo") == Some("HTTP_FILTER"));
    for (patch, at) in filters.filter_map(|patch| Some((patch, patch.fields(&["patch", "value"])?))) {
        let filter = Filter::of(&at, &resources, 0, findings);
        let Some(config) = filter.plugin().and_then(|plugin| plugin.config.as_ref()).map(Rc::clone) else { continue };
        let routes: Vec<Route<'_>> = by_header.iter().map(patched).collect();
        for route in &routes {
            let follows = |header: &str| config.cluster_headers().iter().any(|known| known.as_str() == header);
            if let Target::Header(header) = &route.target
                && !follows(header)
            {
                let known: Vec<&str> = config.cluster_headers().iter().map(|header| header.as_str()).collect();
                let detail =
                    format!("this route follows {header}, and the filter writes {}: use that", known.join(", "));
                findings.add(Check::AnswersFromElsewhere, &route.at.follow("route"), detail);
            }
        }
        // Which of the patched routes takes what is up to the VirtualService.
        let of_each = |route: &Route<'_>| matches!(&route.target, Target::Header(header) if config.cluster_headers().iter().any(|known| known.as_str() == header));
        let routes: Vec<Route<'_>> = routes.into_iter().filter(of_each).collect();
        setup.chains.push(Chain {
            // Where a filter takes the place of another one, the other one is not there.
            listener: if replaces(patch) { "of a port of the gateway" } else { "of the gateway" }.to_owned(),
            address: None,
            manager: manager.clone().unwrap_or_else(|| at.clone()),
            filters: vec![filter],
            routes: Some(routes).filter(|routes| !routes.is_empty() && config.deployments.len() == 1),
        });
    }
    checks::all(&setup, findings);
    seen.count(&setup);
}

fn replaces(patch: &At<'_>) -> bool {
    patch.fields(&["patch", "operation"]).and_then(|operation| operation.text().map(|text| text == "REPLACE"))
        == Some(true)
}

/// A route that a patch changes, which may take anything.
fn patched<'d>(at: &At<'d>) -> Route<'d> {
    let action = at.field("route");
    let text = |action: &At<'_>, name: &str| action.text_of(name).map(str::to_ascii_lowercase);
    let mirrors = action.iter().flat_map(|action| action.list("request_mirror_policies"));
    Route {
        at: at.clone(),
        hosts: Vec::new(),
        path: PathRule::Prefix("/".to_owned()),
        headers: Vec::new(),
        is_conditional: false,
        target: action
            .as_ref()
            .and_then(|action| text(action, "cluster_header"))
            .map_or(Target::Unknown, Target::Header),
        mirrors: mirrors.filter_map(|mirror| text(&mirror, "cluster_header")).map(Mirror::Header).collect(),
        filters: Vec::new(),
    }
}

fn namespace<'d>(manifest: &At<'d>) -> &'d str {
    manifest.fields(&["metadata", "namespace"]).and_then(|at| at.text()).unwrap_or("default")
}

fn name_of<'d>(manifest: &At<'d>) -> &'d str {
    manifest.fields(&["metadata", "name"]).and_then(|at| at.text()).unwrap_or_default()
}

/// A Service's full name.
fn qualified(host: &str, namespace: &str) -> String {
    if host.contains('.') { host.to_owned() } else { format!("{host}.{namespace}.svc.cluster.local") }
}

// === impl Manifests ===

impl<'d> Manifests<'d> {
    fn of(&self, kind: &'static str) -> impl Iterator<Item = At<'d>> {
        self.0.iter().filter(move |manifest| manifest.text_of("kind") == Some(kind)).cloned()
    }
}
