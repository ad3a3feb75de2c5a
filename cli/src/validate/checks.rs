//! What can be seen to be wrong with what one Envoy gets. Each function is one check, or some that look at the same thing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bluegreen_core::config::{Access, Config, DeploymentConfig, PUBLISHED, Routing, TokenSum};
use bluegreen_core::model::colour::Colour;
use bluegreen_core::model::name::HeaderName;
use bluegreen_core::model::percent::Percent;

use super::document::At;
use super::finding::{Check, Findings, Level};
use super::routes::{Fate, Mirror, PathRule, Route, Target, fate};
use super::setup::{Carrier, Chain, Filter, FilterKind, Plugin, ROUTER, Setup, clusters_of, shared};

/// Filters that end requests: refuse them, or answer them.
const ENDS_REQUESTS: [&str; 17] = [
    "api_key_auth",
    "bandwidth_limit",
    "basic_auth",
    "cache",
    "cors",
    "csrf",
    "custom_response",
    "ext_authz",
    "fault",
    "gcp_authn",
    "geoip",
    "health_check",
    "jwt_authn",
    "local_ratelimit",
    "oauth2",
    "ratelimit",
    "rbac",
];

/// What may be retried without hiding an answer: the server has seen nothing of the request.
const HARMLESS_RETRIES: [&str; 5] =
    ["connect-failure", "refused-stream", "unavailable", "reset-before-request", "http3-post-connect-failure"];

/// The host calls and callbacks that the filter needs; `docs/install.md` has the same list.
pub const CAPABILITIES: [&str; 37] = [
    "proxy_add_header_map_value",
    "proxy_call_foreign_function",
    "proxy_define_metric",
    "proxy_dequeue_shared_queue",
    "proxy_enqueue_shared_queue",
    "proxy_get_buffer_bytes",
    "proxy_get_current_time_nanoseconds",
    "proxy_get_header_map_value",
    "proxy_get_metric",
    "proxy_get_property",
    "proxy_get_shared_data",
    "proxy_get_status",
    "proxy_http_call",
    "proxy_increment_metric",
    "proxy_log",
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_delete",
    "proxy_on_http_call_response",
    "proxy_on_log",
    "proxy_on_queue_ready",
    "proxy_on_request_body",
    "proxy_on_request_headers",
    "proxy_on_request_trailers",
    "proxy_on_response_body",
    "proxy_on_response_headers",
    "proxy_on_response_trailers",
    "proxy_on_tick",
    "proxy_record_metric",
    "proxy_register_shared_queue",
    "proxy_remove_header_map_value",
    "proxy_replace_header_map_value",
    "proxy_send_local_response",
    "proxy_set_effective_context",
    "proxy_set_property",
    "proxy_set_shared_data",
    "proxy_set_tick_period_milliseconds",
];

/// Those that only etcd needs.
pub const FOR_ETCD: [&str; 6] = [
    "proxy_grpc_call",
    "proxy_grpc_cancel",
    "proxy_grpc_send",
    "proxy_grpc_stream",
    "proxy_on_grpc_close",
    "proxy_on_grpc_receive",
];

/// The one that only comparing answers needs.
pub const FOR_COMPARING: &str = "proxy_get_header_map_pairs";

/// What the regular expressions of `stats_tags` look for.
const LABELS: [&str; 13] = [
    "deployment",
    "colour",
    "class",
    "le",
    "problem",
    "source",
    "rule",
    "phase",
    "result",
    "state",
    "reason",
    "configuration",
    "version",
];

/// Everything about what one Envoy gets.
pub fn all(setup: &Setup<'_>, findings: &mut Findings) {
    sources_of_configuration(setup, findings);
    shared_state(setup, findings);
    clusters(setup, findings);
    stats(setup, findings);
    for chain in &setup.chains {
        order(chain, findings);
        for (filter, plugin) in chain.plugins() {
            module(plugin, findings);
            let Some(config) = &plugin.config else { continue };
            configuration(plugin, config, findings);
            if chain.serves_admin(filter, config) {
                admin(chain, plugin, config, findings);
            }
            if chain.takes_traffic(config) {
                traffic(setup, chain, filter, plugin, config, findings);
            }
        }
    }
    token_roles(setup, findings);
}

/// What can be seen in a configuration alone, whatever carries it.
pub fn configuration(plugin: &Plugin<'_>, config: &Config, findings: &mut Findings) {
    for (name, deployment) in &config.deployments {
        let at = plugin.find(&format!("deployments.{name}"));
        if deployment.probe.is_none() {
            let detail = "a switch trusts the operator: add a probe, such as probe: {path: /ping}, so that no traffic goes to a \
                          server that is down";
            findings.add(Check::NoProbe, &at, detail);
        }
        if deployment.r#override.as_ref().is_some_and(|by| by.tokens.is_none()) {
            let detail = "every client can choose its colour by this header: list tokens, or leave override out, where clients \
                          must not";
            findings.add(Check::OverrideOpen, &plugin.find(&format!("deployments.{name}.override")), detail);
        }
        let is_kept = config.etcd.is_some() || config.kubernetes.is_some() || deployment.mlflow.is_some();
        if !is_kept && config.admin.is_some() {
            let detail = "the state is kept in memory only, and a restart begins with initial: add etcd or kubernetes, or write each switch that \
                          is to stay into initial";
            findings.add(Check::NotDurable, &at, detail);
        }
    }
    let Some(access) = &config.admin else { return };
    let at = plugin.find("admin");
    if access.open {
        let detail = "everybody may do everything: use tokens, and open for a demo on this machine alone";
        findings.add(Check::AdminOpen, &plugin.find("admin.open"), detail);
    } else if access.tokens.is_empty() && access.tokens_secret.is_none() {
        let detail =
            "each call is answered 401: list a token, printf %s \"$TOKEN\" | sha256sum, or name a tokens_secret";
        findings.add(Check::NoTokens, &at, detail);
    }
}

/// Published tokens. `why`: why they are not the demo's here; none if they may be.
pub fn published_tokens(plugin: &Plugin<'_>, access: &Access, why: Option<&str>, findings: &mut Findings) {
    for (place, token) in access.tokens.iter().enumerate() {
        let known = PUBLISHED.iter().find(|(_, secret)| TokenSum::of(secret.as_bytes()).is(&token.sha256));
        let Some((holder, secret)) = known else { continue };
        let at = plugin.find(&format!("admin.tokens[{place}]"));
        let why = if token.name.as_str() == *holder { why } else { Some("this is not the demo's configuration") };
        let detail = format!(
            "{secret} is published with this project ({} is {}){}: replace it by one of your own, printf %s \"$TOKEN\" | \
             sha256sum",
            token.name,
            token.role,
            why.map(|why| format!(", and {why}")).unwrap_or_default()
        );
        let level = if why.is_some() { Check::DemoToken.level() } else { Level::Note };
        findings.add_with(Check::DemoToken, level, &at, detail);
    }
}

/// Filters whose configuration comes from elsewhere.
fn sources_of_configuration(setup: &Setup<'_>, findings: &mut Findings) {
    for filter in setup.chains.iter().flat_map(|chain| &chain.filters) {
        if matches!(filter.kind, FilterKind::Unknown) && filter.at.field("config_discovery").is_some() {
            let detail = format!(
                "the configuration of the filter {:?} comes by discovery and is not here: give the file with it too",
                filter.name
            );
            findings.add(Check::NotHere, &filter.at, detail);
        }
    }
}

/// Listeners that should share a state.
fn shared_state(setup: &Setup<'_>, findings: &mut Findings) {
    let plugins: Vec<_> = setup.plugins().collect();
    for (place, (chain, _, plugin)) in plugins.iter().enumerate() {
        let Some(config) = &plugin.config else { continue };
        for (other_chain, _, other) in plugins.iter().take(place) {
            let Some(other_config) = &other.config else { continue };
            let same = shared(config, other_config);
            let Some(name) = same.first() else { continue };
            let code = |plugin: &Plugin<'_>| plugin.at.fields(&["vm_config", "code"]).map(|code| code.json(true));
            let elsewhere = &other_chain.listener;
            if plugin.at.is_same(&other.at) {
                continue;
            }
            if chain.manager.is_same(&other_chain.manager) && chain.listener == other_chain.listener {
                let detail =
                    format!("another filter of this chain has the deployment {name} too: leave one of the two out");
                findings.add(Check::TwoFilters, &plugin.at, detail);
                continue;
            }
            if plugin.vm_id() != other.vm_id() {
                let at = plugin.at.fields(&["vm_config", "vm_id"]).unwrap_or_else(|| plugin.at.clone());
                let detail = format!(
                    "the deployment {name} has the vm_id {:?} here and {:?} in the listener {elsewhere}: they share no state, \
                     and a switch by the one moves nothing in the other; give both the same vm_id",
                    plugin.vm_id(),
                    other.vm_id()
                );
                findings.add(Check::NoTrafficWorker, &at, detail);
            } else if code(plugin) != code(other) {
                let at = plugin.at.fields(&["vm_config", "code"]).unwrap_or_else(|| plugin.at.clone());
                let detail = format!(
                    "the module is another one than in the listener {elsewhere}: both need the same code, or they share no state"
                );
                findings.add(Check::NoTrafficWorker, &at, detail);
            }
            for name in same {
                let [mine, others] = [config, other_config].map(|config| config.deployments.get(name));
                if mine.map(|deployment| deployment.digest) != others.map(|deployment| deployment.digest)
                    && mine != others
                {
                    let detail = format!(
                        "it differs from the same deployment in the listener {elsewhere}: a request's colour would depend on \
                         where it comes in; write deployments once and use it in both, by an anchor"
                    );
                    findings.add(Check::WorkersDisagree, &plugin.find(&format!("deployments.{name}")), detail);
                }
            }
        }
    }
    for (_, _, plugin) in &plugins {
        if plugin.vm_id().is_empty() {
            let detail = "every plugin without a vm_id can read and write the filter's state: set vm_config.vm_id, to the same \
                          in all listeners";
            findings.add(Check::VmIdShared, &plugin.at, detail);
        }
        let is_other = |filter: &&Filter<'_>| filter.plugin().is_none();
        for other in setup.chains.iter().flat_map(|chain| &chain.filters).filter(is_other) {
            let vm_id = other.at.fields(&["typed_config", "config", "vm_config", "vm_id"]);
            if let Some(at) = vm_id.filter(|at| at.text() == Some(plugin.vm_id()) && !plugin.vm_id().is_empty()) {
                let detail = format!(
                    "the plugin {:?} has bluegreen's vm_id, and so reads and writes its state: use another",
                    other.name
                );
                findings.add(Check::VmIdShared, &at, detail);
            }
        }
        for store in ["etcd", "kubernetes"] {
            if plugin.find(store).path != plugin.written.path {
                continue;
            }
            let has_store = |config: &Config, other: &Plugin<'_>| {
                other.vm_id() == plugin.vm_id()
                    && other.find(store).path != other.written.path
                    && other.config.as_ref().is_some_and(|other| !shared(config, other).is_empty())
            };
            if let Some(config) = &plugin.config
                && plugins.iter().any(|(_, _, other)| has_store(config, other))
            {
                let detail = format!(
                    "another listener has the section {store} and this one has none: changes made here would stay in this Envoy; \
                     put the section into the configuration of every listener"
                );
                findings.add(Check::WorkersDisagree, &plugin.written, detail);
            }
        }
    }
}

/// Clusters that configurations name.
fn clusters(setup: &Setup<'_>, findings: &mut Findings) {
    let Some(known) = &setup.clusters else { return };
    for (_, _, plugin) in setup.plugins() {
        let Some(config) = &plugin.config else { continue };
        for (field, cluster) in clusters_of(config) {
            if !known.iter().any(|(name, _)| *name == cluster) {
                unknown_cluster(&plugin.find(&field), &cluster, known.iter().map(|(name, _)| name.as_str()), findings);
            }
        }
        let etcd = config.etcd.as_ref().and_then(|etcd| known.iter().find(|(name, _)| name == etcd.cluster.as_str()));
        if let Some((name, cluster)) = etcd
            && !speaks_http2(cluster)
        {
            let detail = format!(
                "etcd is called by gRPC, which needs HTTP/2, and the cluster {name} speaks HTTP/1.1: add \
                 explicit_http_config: {{http2_protocol_options: {{}}}}, as envoy/etcd/cluster.yaml does"
            );
            findings.add(Check::EtcdHttp2, cluster, detail);
        }
    }
}

/// Notes a cluster that is not there, with the one that was meant, perhaps.
pub fn unknown_cluster<'k>(at: &At<'_>, cluster: &str, known: impl Iterator<Item = &'k str>, findings: &mut Findings) {
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    let listed = match known.as_slice() {
        [] => "there is none at all".to_owned(),
        names if names.len() <= 8 => format!("there are {}", names.join(", ")),
        names => format!("there are {} others", names.len()),
    };
    let detail = format!(
        "there is no cluster {cluster:?} ({listed}): what is sent there is answered 503; correct the name, or add the cluster"
    );
    findings.add(Check::ClusterUnknown, at, detail);
}

fn speaks_http2(cluster: &At<'_>) -> bool {
    let options = cluster
        .field("typed_extension_protocol_options")
        .and_then(|options| options.get("envoy.extensions.upstreams.http.v3.HttpProtocolOptions"));
    cluster.field("http2_protocol_options").is_some()
        || options.is_some_and(|options| {
            options.fields(&["explicit_http_config", "http2_protocol_options"]).is_some()
                || options.field("auto_config").is_some()
                || options.field("use_downstream_protocol_config").is_some()
        })
}

/// What Envoy makes of the filter's metrics.
fn stats(setup: &Setup<'_>, findings: &mut Findings) {
    let Some(bootstrap) = setup.bootstrap.as_ref().filter(|_| setup.plugins().next().is_some()) else { return };
    let config = bootstrap.field("stats_config");
    if let Some(matcher) = config.as_ref().and_then(|config| config.field("stats_matcher"))
        && drops_metrics(&matcher)
    {
        let detail = "the metrics of the filter are dropped, so Prometheus sees nothing of it: let names that begin with \
                      wasmcustom.bluegreen through";
        findings.add(Check::StatsFiltered, &matcher, detail);
    }
    let tags: Vec<At<'_>> = config.iter().flat_map(|config| config.list("stats_tags")).collect();
    let has = |label: &str| tags.iter().any(|tag| tag.text_of("tag_name") == Some(label));
    let missing: Vec<&str> = LABELS.into_iter().filter(|label| !has(label)).collect();
    if !missing.is_empty() {
        let at = config.unwrap_or_else(|| bootstrap.clone());
        let detail = format!(
            "nothing makes the label {} of the filter's metrics, whose names have it in them: copy stats_config.stats_tags of \
             envoy/envoy.yaml",
            missing.join(", ")
        );
        findings.add(Check::StatsLabels, &at, detail);
    }
}

/// Whether a name fits a pattern's text.
type Fits = fn(&str) -> bool;

/// Whether a matcher drops the filter's metrics, as far as that can be told without regular expressions.
fn drops_metrics(matcher: &At<'_>) -> bool {
    const METRIC: &str = "wasmcustom.bluegreen.deployment.iris.colour.blue.requests_total";
    let fits = |pattern: &At<'_>| {
        let rules: [(&str, Fits); 4] = [
            ("prefix", |text| METRIC.starts_with(text)),
            ("exact", |text| METRIC == text),
            ("suffix", |text| METRIC.ends_with(text)),
            ("contains", |text| METRIC.contains(text)),
        ];
        let by_rule = rules.iter().find_map(|(name, fits)| pattern.text_of(name).map(fits));
        // An expression may be anything.
        by_rule.or_else(|| {
            let regex = pattern.fields(&["safe_regex", "regex"])?.text()?.to_owned();
            regex.contains("wasmcustom").then_some(true)
        })
    };
    if matcher.is_true("reject_all") {
        return true;
    }
    if let Some(list) = matcher.field("exclusion_list") {
        return list.list("patterns").iter().any(|pattern| fits(pattern) == Some(true));
    }
    if let Some(list) = matcher.field("inclusion_list") {
        return list.list("patterns").iter().all(|pattern| fits(pattern) == Some(false));
    }
    false
}

/// The order of filters.
fn order(chain: &Chain<'_>, findings: &mut Findings) {
    let Some(first) = chain.filters.iter().position(|filter| filter.plugin().is_some()) else { return };
    let mut behind = chain.filters.iter().enumerate().skip(first).skip(1);
    for (place, filter) in behind.by_ref() {
        let FilterKind::Other(kind) = &filter.kind else { continue };
        if kind == ROUTER && place.saturating_add(1) != chain.filters.len() {
            findings.add_with(
                Check::FilterOrder,
                Level::Error,
                &filter.at,
                "the router is the last filter: Envoy refuses others",
            );
        }
        let mut parts = kind.rsplit('.');
        let short = parts.find(|part| ENDS_REQUESTS.contains(part));
        if let Some(short) = short {
            let detail = format!(
                "{short} stands behind bluegreen: requests that it refuses or answers have been given to a colour before, and \
                 it guards no admin API; put it before bluegreen"
            );
            findings.add(Check::FilterOrder, &filter.at, detail);
        }
    }
    for filter in chain.filters.iter().skip(first).skip(1) {
        let Some(mutations) = filter.at.fields(&["typed_config", "mutations"]) else { continue };
        for (_, plugin) in chain.plugins() {
            let Some(config) = &plugin.config else { continue };
            let headers = config.cluster_headers();
            for mutation in mutations.list("request_mutations") {
                let header = mutation
                    .text_of("remove")
                    .or_else(|| mutation.fields(&["append", "header", "key"]).and_then(|key| key.text()));
                if let Some(header) = header.filter(|header| headers.iter().any(|known| known.as_str() == *header)) {
                    let detail =
                        format!("this filter stands behind bluegreen and writes {header} again: leave that out");
                    findings.add(Check::AnswersFromElsewhere, &mutation, detail);
                }
            }
        }
    }
}

/// What Envoy is to do with the module.
fn module(plugin: &Plugin<'_>, findings: &mut Findings) {
    let at = &plugin.at;
    let policy = at.text_of("failure_policy");
    if !at.is_true("fail_open") && !matches!(policy, Some("FAIL_RELOAD" | "FAIL_OPEN")) {
        let detail = "should the module ever fail, all requests are answered 503 until it gets a new configuration: set \
                      failure_policy: FAIL_RELOAD";
        findings.add(Check::FailurePolicy, at, detail);
    }
    let restriction =
        [at.fields(&["vm_config", "capability_restriction_config"]), at.field("capability_restriction_config")];
    let config = plugin.config.as_ref();
    let with_etcd = config.is_some_and(|config| config.etcd.is_some());
    let compares = config.is_some_and(|config| config.deployments.values().any(|it| it.shadow.is_some()));
    for allowed in restriction.into_iter().flatten().filter_map(|config| config.field("allowed_capabilities")) {
        let has = |name: &&&str| allowed.get(name).is_some();
        let needed = CAPABILITIES.iter().chain(FOR_ETCD.iter().filter(|_| with_etcd));
        let needed = needed.chain(Some(&FOR_COMPARING).filter(|_| compares));
        let missing: Vec<&str> = needed.filter(|name| !has(name)).copied().collect();
        if !allowed.members().is_empty() && !missing.is_empty() {
            let detail = format!("the filter needs {} too: copy the list of docs/install.md", missing.join(", "));
            findings.add(Check::Capabilities, &allowed, detail);
        }
    }
}

/// A listener that serves the admin API.
fn admin(chain: &Chain<'_>, plugin: &Plugin<'_>, config: &Config, findings: &mut Findings) {
    let Some(access) = &config.admin else { return };
    let why = chain
        .address
        .as_ref()
        .filter(|_| chain.is_public())
        .map(|address| format!("the listener {} can be reached from other machines ({address})", chain.listener));
    published_tokens(plugin, access, why.as_deref(), findings);
    let at = plugin.find("admin");
    if chain.is_public() {
        let address = chain.address.as_deref().unwrap_or_default();
        let detail = format!(
            "the listener {} has the admin API and listens at {address}, so other machines reach it: give it a listener of its \
             own at 127.0.0.1, or access rules",
            chain.listener
        );
        findings.add(Check::AdminExposed, &at, detail);
    }
    if plugin.carrier == Carrier::Envoy && !plugin.at.is_true("allow_on_headers_stop_iteration") {
        let detail = "calls with a body are answered 408: set allow_on_headers_stop_iteration: true, or give parameters in the \
                      query string";
        findings.add(Check::RequestBodies, &plugin.at, detail);
    }
    for name in ["request_timeout", "stream_idle_timeout"] {
        let Some(limit) = chain.manager.field(name) else { continue };
        let seconds = limit.text().and_then(|text| text.strip_suffix('s')).and_then(|text| text.parse::<f64>().ok());
        if seconds.is_some_and(|seconds| seconds > 0.0 && seconds < 300.0) {
            let detail = format!(
                "{name} cuts off a drain that waits for the last long request: leave it out, or use 300s or more"
            );
            findings.add(Check::AdminTimeout, &limit, detail);
        }
    }
}

/// A listener that takes requests to model servers.
fn traffic(
    setup: &Setup<'_>,
    chain: &Chain<'_>,
    filter: &Filter<'_>,
    plugin: &Plugin<'_>,
    config: &Config,
    findings: &mut Findings,
) {
    let seeds = Seeds::of(&chain.manager);
    // Where the decision is followed by the cluster header; with the colour header the last route has a cluster.
    let mut by_header: BTreeSet<&str> = BTreeSet::new();
    if let Some(routes) = &chain.routes {
        for (name, deployment) in &config.deployments {
            let header = deployment.cluster_header.as_ref().unwrap_or(&config.routing.cluster_header);
            if routed(setup, routes, filter, plugin, config, (name.as_str(), deployment), findings) {
                by_header.insert(header.as_str());
            }
        }
        unmatched(routes, config, findings);
        retries(chain, routes, config, findings);
    } else {
        by_header
            .extend(config.cluster_headers().iter().map(|header| header.as_str()).filter(|header| seeds.has(header)));
    }
    for header in by_header {
        seeded(&seeds, header, &chain.manager, config, findings);
    }
    if seeds.is_there {
        let ours = [&config.routing.colour_header, &config.routing.shadow_header];
        let open: Vec<&str> =
            ours.iter().map(|header| header.as_str()).filter(|header| !seeds.guards(header)).collect();
        if !open.is_empty() {
            let detail = format!(
                "clients can write {} while the filter is bypassed: remove it by early header mutation, as envoy/envoy.yaml does",
                open.join(" and ")
            );
            findings.add(Check::ClientHeaders, &seeds.at, detail);
        }
    }
}

/// Whether a deployment's requests go where the filter says, by its cluster header.
#[allow(clippy::too_many_arguments, reason = "what a route is looked at with")]
fn routed(
    setup: &Setup<'_>,
    routes: &[Route<'_>],
    filter: &Filter<'_>,
    plugin: &Plugin<'_>,
    config: &Config,
    (name, deployment): (&str, &DeploymentConfig),
    findings: &mut Findings,
) -> bool {
    let header = deployment.cluster_header.as_ref().unwrap_or(&config.routing.cluster_header);
    let mut by_header = false;
    for prefix in deployment.rules.prefixes() {
        for colour in Colour::ALL {
            match fate(routes, deployment, header, &config.routing, (colour, false), prefix) {
                Fate::Follows(route) => {
                    by_header |= matches!(route.target, Target::Header(_));
                    if filter.is_off && !route.turns_on(&filter.name) {
                        let detail = format!(
                            "the filter {:?} is disabled on this listener and this route does not turn it on for {name}: add \
                             typed_per_filter_config",
                            filter.name
                        );
                        findings.add(Check::FilterOff, &route.at, detail);
                    }
                    match fate(routes, deployment, header, &config.routing, (colour, true), prefix) {
                        Fate::Follows(route) => copies(route, plugin, config, (name, deployment), findings),
                        Fate::Elsewhere(route) => {
                            let detail = elsewhere(route, name, header, colour, &config.routing);
                            findings.add(Check::AnswersFromElsewhere, &route.at.follow("route"), detail);
                        }
                        // No copy is made of what finds no route.
                        Fate::Nowhere(_) => {}
                    }
                    colons(route, (name, prefix), findings);
                }
                Fate::Elsewhere(route) => {
                    let detail = elsewhere(route, name, header, colour, &config.routing);
                    findings.add(Check::AnswersFromElsewhere, &route.at.follow("route"), detail);
                }
                Fate::Nowhere(Some(route)) => by_header |= matches!(route.target, Target::Header(_)),
                // One list of deployments may stand in several listeners, each with the routes of some.
                Fate::Nowhere(None) if is_routed_somewhere(setup, name, prefix) => {}
                Fate::Nowhere(None) => {
                    let at = plugin.find(&format!("deployments.{name}.match"));
                    let detail = format!(
                        "no route of this listener takes its requests ({}): add one with cluster_header: {header}, or correct \
                         match",
                        deployment.rules
                    );
                    findings.add(Check::NoRoute, &at, detail);
                }
            }
        }
    }
    by_header
}

/// Whether some listener has a route for a deployment's requests, or one whose routes are not known.
fn is_routed_somewhere(setup: &Setup<'_>, name: &str, prefix: &str) -> bool {
    setup.plugins().any(|(chain, _, plugin)| {
        let deployment = plugin.config.as_ref().and_then(|config| config.deployments.get(name));
        deployment.is_some_and(|deployment| {
            let takes = |route: &Route<'_>| route.is_for(deployment) && route.path.overlaps(prefix);
            chain.routes.as_ref().is_none_or(|routes| routes.iter().any(takes))
        })
    })
}

fn elsewhere(route: &Route<'_>, name: &str, header: &HeaderName, colour: Colour, routing: &Routing) -> String {
    // Which requests are copied says nothing about their colour.
    let asks_for_more =
        route.headers.iter().any(|(asked, _)| !asked.eq_ignore_ascii_case(routing.shadow_header.as_str()));
    let found = match &route.target {
        Target::Header(other) => format!("follows the header {other}"),
        Target::Cluster(cluster) => format!("goes to the cluster {cluster:?}, whichever colour the filter chooses"),
        Target::Weighted => "has weighted_clusters, which choose by themselves".to_owned(),
        Target::Answer => "answers by itself".to_owned(),
        Target::Unknown => "does not follow the filter".to_owned(),
    };
    match &route.target {
        Target::Cluster(cluster) if asks_for_more => {
            format!(
                "this route takes requests of {name} that the filter gives to {colour}, and goes to the cluster {cluster:?}"
            )
        }
        _ => format!(
            "this route takes the requests of {name} and {found}: a switch moves nothing; use cluster_header: {header}"
        ),
    }
}

/// Copies for the candidate.
fn copies(
    route: &Route<'_>,
    plugin: &Plugin<'_>,
    config: &Config,
    (name, deployment): (&str, &DeploymentConfig),
    findings: &mut Findings,
) {
    let shadow = config.routing.shadow_header.as_str();
    if !matches!(route.target, Target::Header(_)) {
        return;
    }
    let wrong = route.mirrors.iter().find_map(|mirror| match mirror {
        Mirror::Header(header) if header != shadow => Some(header),
        _ => None,
    });
    if let Some(header) = wrong {
        let detail =
            format!("copies follow the header {header}, and the filter writes {shadow}: use cluster_header: {shadow}");
        findings.add(Check::ShadowRoute, &route.at.follow("route.request_mirror_policies"), detail);
    } else if deployment.initial.shadow_percent > Percent::ZERO && route.mirrors.is_empty() && !sends_all(deployment) {
        let at = plugin.find(&format!("deployments.{name}.initial.shadow_percent"));
        let detail = format!(
            "nothing is copied, because no route has request_mirror_policies: add [{{cluster_header: {shadow}}}] to the route of \
             requests with that header, or use 0"
        );
        findings.add(Check::ShadowRoute, &at, detail);
    }
}

/// Whether the filter itself sends every copy that is sent, since it compares all of them.
fn sends_all(deployment: &DeploymentConfig) -> bool {
    deployment.shadow.as_ref().is_some_and(|shadow| shadow.compare.sample_percent == Percent::ALL)
}

/// Paths such as `/v1/models/iris:predict`.
fn colons(route: &Route<'_>, (name, prefix): (&str, &str), findings: &mut Findings) {
    if let PathRule::SeparatedPrefix(own) = &route.path
        && own == prefix
        && prefix.contains("/models/")
    {
        let detail = format!(
            "{name} takes {prefix}:predict too, and path_separated_prefix does not: such requests find no route; use prefix: \
             {prefix}"
        );
        findings.add(Check::PathColon, &route.at.follow("match"), detail);
    }
}

/// Routes that follow the filter for requests that it passes by.
fn unmatched(routes: &[Route<'_>], config: &Config, findings: &mut Findings) {
    for route in routes {
        let Target::Header(header) = &route.target else { continue };
        let of_header: Vec<_> = config
            .deployments
            .values()
            .filter(|deployment| {
                deployment.cluster_header.as_ref().unwrap_or(&config.routing.cluster_header).as_str() == header
            })
            .collect();
        if of_header.is_empty() {
            continue;
        }
        let is_taken = of_header.iter().any(|deployment| {
            route.is_for(deployment) && deployment.rules.prefixes().iter().any(|prefix| route.path.overlaps(prefix))
        });
        if !is_taken {
            let detail = format!(
                "this route follows {header}, and no deployment takes its requests: all of them go to the seeded colour; make \
                 match and route agree, or give the route a cluster"
            );
            findings.add(Check::UnmatchedRequests, &route.at, detail);
        }
    }
}

/// Retries of what a colour has failed.
fn retries(chain: &Chain<'_>, routes: &[Route<'_>], config: &Config, findings: &mut Findings) {
    let mut policies: Vec<At<'_>> = Vec::new();
    for route in routes.iter().filter(|route| matches!(route.target, Target::Header(_))) {
        policies.extend(route.at.fields(&["route", "retry_policy"]));
    }
    if policies.is_empty() {
        let hosts = chain.manager.field("route_config").map(|table| table.list("virtual_hosts")).unwrap_or_default();
        let follows = |host: &&At<'_>| {
            let inside = format!("{}.", host.path);
            routes.iter().any(|route| matches!(route.target, Target::Header(_)) && route.at.path.starts_with(&inside))
        };
        policies.extend(hosts.iter().filter(follows).filter_map(|host| host.field("retry_policy")));
    }
    let are_meant = config
        .deployments
        .values()
        .all(|deployment| deployment.guard.as_ref().is_some_and(|guard| !guard.error.count_retries));
    for policy in policies {
        let on = policy.text_of("retry_on").unwrap_or_default();
        let hiding: Vec<&str> =
            on.split(',').map(str::trim).filter(|word| !word.is_empty() && !HARMLESS_RETRIES.contains(word)).collect();
        if !hiding.is_empty() {
            let detail = format!(
                "Envoy repeats what a colour answered with an error ({}), so that clients, comparison and failover see fewer \
                 failures than it has: retry on {} only",
                hiding.join(", "),
                HARMLESS_RETRIES[..3].join(", ")
            );
            let level = if are_meant { Level::Note } else { Check::RetriesHideFailures.level() };
            findings.add_with(Check::RetriesHideFailures, level, &policy, detail);
        }
    }
}

/// The headers that a connection manager writes before anything else.
#[derive(Debug)]
struct Seeds<'d> {
    at: At<'d>,
    is_there: bool,
    written: BTreeMap<String, (String, String, At<'d>)>,
    removed: BTreeSet<String>,
}

// === impl Seeds ===

impl<'d> Seeds<'d> {
    fn of(manager: &At<'d>) -> Self {
        let list = manager.field("early_header_mutation_extensions");
        let at = list.clone().unwrap_or_else(|| manager.clone());
        let mut seeds = Self { at, is_there: false, written: BTreeMap::new(), removed: BTreeSet::new() };
        for extension in list.iter().flat_map(At::elements) {
            for mutation in extension.field("typed_config").iter().flat_map(|config| config.list("mutations")) {
                seeds.is_there = true;
                seeds.removed.extend(mutation.text_of("remove").map(str::to_ascii_lowercase));
                let Some(append) = mutation.field("append") else { continue };
                let text =
                    |names: &[&str]| append.fields(names).and_then(|at| at.text()).unwrap_or_default().to_owned();
                let header = text(&["header", "key"]).to_ascii_lowercase();
                let action = text(&["append_action"]);
                seeds.written.insert(header, (text(&["header", "value"]), action, append));
            }
        }
        seeds
    }

    fn has(&self, header: &str) -> bool {
        self.written.contains_key(header)
    }

    /// Whether nothing is left of what a client wrote.
    fn guards(&self, header: &str) -> bool {
        let overwrites = |(_, action, _): &(String, String, At<'_>)| action.starts_with("OVERWRITE_IF_EXISTS");
        self.removed.contains(header) || self.written.get(header).is_some_and(overwrites)
    }
}

/// The seed of a header that a route follows.
fn seeded(seeds: &Seeds<'_>, header: &str, manager: &At<'_>, config: &Config, findings: &mut Findings) {
    let of_header = |deployment: &&Arc<DeploymentConfig>| {
        deployment.cluster_header.as_ref().unwrap_or(&config.routing.cluster_header).as_str() == header
    };
    let stable: Vec<&str> = config
        .deployments
        .values()
        .filter(of_header)
        .map(|deployment| deployment.colours.get(deployment.initial.active).cluster.as_str())
        .collect();
    let expected = stable.join(" or ");
    let Some((value, action, at)) = seeds.written.get(header) else {
        let detail = format!(
            "nothing writes {header} before the filter runs: while the filter is bypassed requests are answered 503, and clients \
             can write the header themselves; seed it with {expected:?} by early_header_mutation_extensions"
        );
        return findings.add(Check::NotSeeded, manager, detail);
    };
    if !stable.contains(&value.as_str()) {
        let detail = format!(
            "{header} is seeded with {value:?}, which is not the cluster of initial.active: while the filter is bypassed requests \
             go there; use {expected:?}"
        );
        findings.add(Check::WrongSeed, &at.follow("header"), detail);
    }
    if action != "OVERWRITE_IF_EXISTS_OR_ADD" && !seeds.removed.contains(header) {
        let detail =
            format!("what a client wrote into {header} is not replaced: use append_action: OVERWRITE_IF_EXISTS_OR_ADD");
        findings.add(Check::WrongSeed, at, detail);
    }
}

/// One token with two meanings.
fn token_roles(setup: &Setup<'_>, findings: &mut Findings) {
    let mut known: Vec<(&TokenSum, String, String)> = Vec::new();
    for (chain, _, plugin) in setup.plugins() {
        let Some(access) = plugin.config.as_ref().and_then(|config| config.admin.as_ref()) else { continue };
        for (place, token) in access.tokens.iter().enumerate() {
            let who = format!("{} ({})", token.name, token.role);
            match known.iter().find(|(sum, ..)| sum.is(&token.sha256)) {
                Some((_, other, listener)) if *other != who => {
                    let detail = format!(
                        "it is the token of {other} in the listener {listener}: one token has one holder and role"
                    );
                    findings.add(Check::TokenRoles, &plugin.find(&format!("admin.tokens[{place}]")), detail);
                }
                Some(_) => {}
                None => known.push((&token.sha256, who, chain.listener.clone())),
            }
        }
    }
}
