//! Routes, in the words of Envoy, Istio and the Gateway API alike: which requests each takes, and to which cluster.

use bluegreen_core::config::{Authority, DeploymentConfig, Routing};
use bluegreen_core::model::colour::Colour;
use bluegreen_core::model::name::HeaderName;

use super::document::At;

/// A route for one kind of requests.
#[derive(Clone, Debug)]
pub struct Route<'d> {
    /// Where it stands.
    pub at: At<'d>,
    /// The hosts that it is for; empty for all.
    pub hosts: Vec<String>,
    /// The paths that it takes.
    pub path: PathRule,
    /// The headers that it asks for, with the value if there is one.
    pub headers: Vec<(String, HeaderRule)>,
    /// Whether it asks for something else besides.
    pub is_conditional: bool,
    /// Where requests go.
    pub target: Target,
    /// Whether copies go to the cluster that a header names.
    pub mirrors: Vec<Mirror>,
    /// The filters that it configures, by name.
    pub filters: Vec<String>,
}

/// Which paths a route takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRule {
    /// All that begin so.
    Prefix(String),
    /// All that begin so, up to a `/` or the end.
    SeparatedPrefix(String),
    /// One.
    Exact(String),
    /// Those of an expression.
    Unknown,
}

/// What a header must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderRule {
    /// Exactly this.
    Exact(String),
    /// There, with any value.
    Present,
    /// Not there.
    Absent,
    /// Something else.
    Unknown,
}

/// Where a route's requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To the cluster that a header names.
    Header(String),
    /// To a cluster.
    Cluster(String),
    /// To several, by weight.
    Weighted,
    /// Nowhere: it is a redirect or an answer.
    Answer,
    /// It is not known.
    Unknown,
}

/// Where a route's copies go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mirror {
    /// To the cluster that a header names.
    Header(String),
    /// To a cluster.
    Cluster(String),
}

/// What becomes of a deployment's requests.
#[derive(Debug)]
pub enum Fate<'r, 'd> {
    /// They follow the filter, by this route.
    Follows(&'r Route<'d>),
    /// This route takes them elsewhere.
    Elsewhere(&'r Route<'d>),
    /// No route takes them for sure; perhaps one does.
    Nowhere(Option<&'r Route<'d>>),
}

/// How many of a deployment's requests a route takes by their headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    All,
    /// Those with a header of which the deployment knows nothing.
    Some,
    /// It cannot be told.
    Perhaps,
    None,
}

/// The routes of Envoy's `RouteConfiguration`, in their order.
pub fn of_envoy<'d>(table: &At<'d>) -> Vec<Route<'d>> {
    let mut routes = Vec::new();
    for host in table.list("virtual_hosts") {
        let hosts: Vec<String> =
            host.list("domains").iter().filter_map(|domain| domain.text()).map(str::to_owned).collect();
        let hosts = if hosts.iter().any(|host| host == "*") { Vec::new() } else { hosts };
        for at in host.list("routes") {
            routes.push(envoy_route(at, &hosts));
        }
    }
    routes
}

fn envoy_route<'d>(at: At<'d>, hosts: &[String]) -> Route<'d> {
    let rule = at.field("match");
    let text = |name: &str| rule.as_ref().and_then(|rule| rule.text_of(name)).map(str::to_owned);
    let path = None
        .or_else(|| text("prefix").map(PathRule::Prefix))
        .or_else(|| text("path_separated_prefix").map(PathRule::SeparatedPrefix))
        .or_else(|| text("path").map(PathRule::Exact))
        .unwrap_or(PathRule::Unknown);
    let mut headers = Vec::new();
    for header in rule.iter().flat_map(|rule| rule.list("headers")) {
        let exact = header.fields(&["string_match", "exact"]).or_else(|| header.field("exact_match"));
        let is_inverted = header.is_true("invert_match");
        let value = match exact.and_then(|exact| exact.text()) {
            Some(exact) if !is_inverted => HeaderRule::Exact(exact.to_owned()),
            Some(_) => HeaderRule::Unknown,
            None if header.field("present_match").is_none() => HeaderRule::Unknown,
            None if header.is_true("present_match") != is_inverted => HeaderRule::Present,
            None => HeaderRule::Absent,
        };
        headers.push((header.text_of("name").unwrap_or_default().to_owned(), value));
    }
    let others =
        ["query_parameters", "runtime_fraction", "grpc", "tls_context", "dynamic_metadata", "filter_state", "cookies"];
    let is_conditional = others.iter().any(|name| rule.as_ref().is_some_and(|rule| rule.field(name).is_some()));
    let target = match at.field("route") {
        Some(action) => None
            .or_else(|| action.text_of("cluster_header").map(|header| Target::Header(header.to_ascii_lowercase())))
            .or_else(|| action.text_of("cluster").map(|cluster| Target::Cluster(cluster.to_owned())))
            .or_else(|| action.field("weighted_clusters").map(|_| Target::Weighted))
            .unwrap_or(Target::Unknown),
        None if ["redirect", "direct_response"].iter().any(|name| at.field(name).is_some()) => Target::Answer,
        None => Target::Unknown,
    };
    let mut mirrors = Vec::new();
    for policy in at.field("route").iter().flat_map(|action| action.list("request_mirror_policies")) {
        mirrors.extend(policy.text_of("cluster_header").map(|name| Mirror::Header(name.to_ascii_lowercase())));
        mirrors.extend(policy.text_of("cluster").map(|name| Mirror::Cluster(name.to_owned())));
    }
    let filters = at.field("typed_per_filter_config").map(|filters| filters.members()).unwrap_or_default();
    let filters = filters.into_iter().map(|(name, _)| name.to_owned()).collect();
    Route { hosts: hosts.to_vec(), path, headers, is_conditional, target, mirrors, filters, at }
}

/// What becomes of the requests of a deployment which the filter sends to `colour`, with these headers, and of which a copy
/// is made or not.
pub fn fate<'r, 'd>(
    routes: &'r [Route<'d>],
    deployment: &DeploymentConfig,
    cluster_header: &HeaderName,
    routing: &Routing,
    (colour, is_copied): (Colour, bool),
    prefix: &str,
) -> Fate<'r, 'd> {
    let (mut perhaps, mut for_some) = (None, None);
    let identity = deployment.colours.get(colour);
    for route in routes.iter().filter(|route| route.path.overlaps(prefix) && route.is_for(deployment)) {
        let takes = route.takes(deployment, routing, (colour, is_copied));
        if takes == Takes::None {
            continue;
        }
        let follows = match &route.target {
            Target::Header(header) => header == cluster_header.as_str(),
            Target::Cluster(cluster) => {
                identity.cluster.as_str() == cluster || identity.also.iter().any(|also| also.as_str() == cluster)
            }
            Target::Weighted | Target::Answer => false,
            Target::Unknown => true,
        };
        match (follows, takes) {
            (true, Takes::All) if route.path.covers(prefix) => return Fate::Follows(route),
            (true, Takes::Some) => for_some = for_some.or(Some(route)),
            (true, _) => perhaps = perhaps.or(Some(route)),
            // Others may have been meant to take what is left.
            (false, Takes::All) if route.path.covers(prefix) && perhaps.is_none() => return Fate::Elsewhere(route),
            (false, Takes::All) if route.path.covers(prefix) => break,
            (false, _) => {}
        }
    }
    Fate::Nowhere(perhaps.or(for_some))
}

// === impl Route ===

impl Route<'_> {
    /// Whether it turns a filter on that is off elsewhere.
    pub fn turns_on(&self, filter: &str) -> bool {
        self.filters.iter().any(|name| name == filter)
    }

    /// Whether requests of a deployment may come with one of its hosts.
    pub fn is_for(&self, deployment: &DeploymentConfig) -> bool {
        let fits = |host: &String| {
            let host = host.to_ascii_lowercase();
            match &deployment.rules.authority {
                None => true,
                Some(Authority::Exact(exact)) => covers_host(&host, exact),
                Some(Authority::Suffix(suffix)) => {
                    without_port(&host).ends_with(suffix.as_str())
                        || host.strip_prefix('*').is_some_and(|domain| suffix.ends_with(domain))
                }
            }
        };
        self.hosts.is_empty() || self.hosts.iter().any(fits)
    }

    /// Which requests of a deployment it takes by their headers.
    fn takes(&self, deployment: &DeploymentConfig, routing: &Routing, (colour, is_copied): (Colour, bool)) -> Takes {
        let mut takes = if self.is_conditional { Takes::Perhaps } else { Takes::All };
        for (name, rule) in &self.headers {
            let name = name.to_ascii_lowercase();
            if name == routing.shadow_header.as_str() {
                match (is_copied, rule) {
                    (true, HeaderRule::Present) | (false, HeaderRule::Absent) => {}
                    (true, HeaderRule::Exact(_) | HeaderRule::Unknown) => takes = Takes::Perhaps,
                    (true, HeaderRule::Absent) | (false, _) => return Takes::None,
                }
                continue;
            }
            let known = if name == routing.colour_header.as_str() {
                Some(colour.as_str())
            } else {
                let rules = &deployment.rules.headers;
                rules.iter().find(|(header, _)| header.as_str() == name).map(|(_, value)| value.as_str())
            };
            match (known, rule) {
                (Some(value), HeaderRule::Exact(exact)) if value != exact => return Takes::None,
                (Some(_), HeaderRule::Exact(_) | HeaderRule::Present) => {}
                (None, HeaderRule::Exact(_) | HeaderRule::Present) if !name.starts_with(':') => takes = Takes::Some,
                _ if takes == Takes::All => takes = Takes::Perhaps,
                _ => {}
            }
        }
        takes
    }
}

fn without_port(host: &str) -> &str {
    host.rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(host, |(host, _)| host)
}

fn covers_host(pattern: &str, host: &str) -> bool {
    let pattern = without_port(pattern);
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(suffix), _) => host.ends_with(suffix),
        (_, Some(prefix)) => host.starts_with(prefix),
        _ => pattern == host,
    }
}

// === impl PathRule ===

impl PathRule {
    /// Whether some path below `prefix` (which is empty for all) is taken.
    pub fn overlaps(&self, prefix: &str) -> bool {
        let is_below = |path: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '?']))
        };
        match self {
            Self::Prefix(own) => prefix.starts_with(own.as_str()) || is_below(own),
            Self::SeparatedPrefix(own) => is_below(own) || begins(prefix, own),
            Self::Exact(own) => is_below(own),
            Self::Unknown => true,
        }
    }

    /// Whether every path below `prefix` is taken, but for those that go on with a `:`.
    fn covers(&self, prefix: &str) -> bool {
        match self {
            Self::Prefix(own) => own == "/" || prefix.starts_with(own.as_str()),
            Self::SeparatedPrefix(own) => begins(prefix, own),
            // Some deployments have one path.
            Self::Exact(own) => own == prefix,
            Self::Unknown => false,
        }
    }
}

/// Whether `path` is `prefix` or goes on with a `/`.
fn begins(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
