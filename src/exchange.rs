//! One inference request on its way to a colour and back: routed, marked and measured, never held up.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bluegreen_core::controllers::failover::{Reach, reach_of_503};
use bluegreen_core::deployment::DeploymentIndex;
use bluegreen_core::metrics::counters::{Class, ColourMetric, of_exchange};
use bluegreen_core::model::colour::Colour;
use bluegreen_core::routing::cookie;

use crate::host;
use crate::plugin::Plugin;

/// A request that a deployment took.
pub struct Exchange {
    deployment: DeploymentIndex,
    colour: Colour,
    began: SystemTime,
    answered: Option<Answered>,
    set_cookie: Option<String>,
}

/// The head of the answer.
struct Answered {
    class: Class,
    after: Duration,
}

/// Tells the client which colour answered.
const COLOUR_HEADER: &str = "x-bluegreen-colour";
/// Tells the client which model version answered.
const VERSION_HEADER: &str = "x-bluegreen-version";

// === impl Exchange ===

impl Exchange {
    /// Routes a request whose headers are under way; `None` when no deployment wants it.
    pub fn begin(plugin: &Plugin, context_id: u32) -> Option<Self> {
        let routing = &plugin.routing;
        let Some((deployment, choice)) = plugin.matcher.find(&host::Request) else {
            for header in [&routing.cluster_header, &routing.colour_header, &routing.shadow_header] {
                host::remove_request_header(header.as_str());
            }
            return None;
        };
        let route = plugin.router.get(deployment)?;
        let (split, mut rotations) = plugin.in_force(deployment, route)?;
        let began = host::now();
        let decision = choice.decide(&split, &mut rotations, &host::Request, || {
            cookie::fresh_key(unix_nanos(began), plugin.member, context_id)
        });
        plugin.keep(deployment, rotations);

        host::set_request_header(routing.colour_header.as_str(), decision.colour.as_str());
        match decision.shadow.map(|colour| route.colours.get(colour)) {
            Some(copied_to) => host::set_request_header(routing.shadow_header.as_str(), copied_to.cluster.as_str()),
            None => host::remove_request_header(routing.shadow_header.as_str()),
        }
        let upstream = route.colours.get(decision.colour);
        host::set_request_header(routing.cluster_header.as_str(), upstream.cluster.as_str());

        let exchange =
            Self { deployment, colour: decision.colour, began, answered: None, set_cookie: decision.set_cookie };
        exchange.count(plugin, ColourMetric::Requests, 1);
        exchange.count(plugin, ColourMetric::InFlight, 1);
        Some(exchange)
    }

    /// Marks the answer, whose headers are under way. Envoy's own answers (no healthy upstream, timeout) come here too.
    pub fn on_answer(&mut self, plugin: &Plugin, end_of_stream: bool) {
        let status = host::response_status().unwrap_or_default();
        let class = Class::of_status(&status);
        self.answered = Some(Answered { class, after: since(self.began) });
        if end_of_stream {
            // A gRPC answer without a message has its status here; others do not end with their head.
            self.on_grpc_status(false);
        }
        self.note_reach(plugin, status == b"503");
        host::set_response_header(COLOUR_HEADER, self.colour.as_str());
        plugin.show_version(self.deployment, self.colour, |version| host::set_response_header(VERSION_HEADER, version));
        if let Some(set_cookie) = self.set_cookie.take() {
            host::add_response_header("set-cookie", &set_cookie);
        }
    }

    /// Looks for a gRPC error under the HTTP status 200: in the head, or in the trailers that have come.
    pub fn on_grpc_status(&mut self, in_trailers: bool) {
        if let Some(answered) = &mut self.answered
            && let Some(status) = host::grpc_status(in_trailers)
            && answered.class == Class::Status(2)
        {
            answered.class = Class::of_grpc(&status);
        }
    }

    /// Counts the exchange, which is over.
    pub fn end(self, plugin: &Plugin) {
        self.count(plugin, ColourMetric::InFlight, -1);
        let (class, first_byte) = match &self.answered {
            // Asking Envoy costs 1.5 µs: only while it matters.
            Some(answered) if plugin.guards(self.deployment) => {
                (answered.class.at_the_end(&host::response_code_details()), Some(answered.after))
            }
            Some(answered) => (answered.class, Some(answered.after)),
            None => (Class::Unanswered, None),
        };
        for metric in of_exchange(class, first_byte, since(self.began)) {
            self.count(plugin, metric, 1);
        }
    }

    /// For a failover: asks Envoy about a 503 whether the request reached the colour; any other answer says that it did.
    fn note_reach(&self, plugin: &Plugin, is_503: bool) {
        if plugin.watches(self.deployment) {
            let details = if is_503 { host::response_code_details() } else { String::new() };
            let reach = if is_503 { reach_of_503(&details) } else { Reach::Reached };
            plugin.note_reach(self.deployment, self.colour, reach, &details);
        }
    }

    fn count(&self, plugin: &Plugin, metric: ColourMetric, by: i64) {
        if let Some(metrics) = plugin.metrics(self.deployment) {
            metrics.add(self.colour, metric, by);
        }
    }
}

/// Time since `began`; none when the clock was set back in between.
fn since(began: SystemTime) -> Duration {
    host::now().duration_since(began).unwrap_or_default()
}

fn unix_nanos(time: SystemTime) -> u64 {
    let nanos = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    u64::try_from(nanos).unwrap_or(u64::MAX)
}
