//! One inference request on its way to a colour and back: routed, marked and measured, never held up.

use std::time::{Duration, SystemTime};

use bluegreen_core::controllers::failover::{self, Reach, reach_of_503};
use bluegreen_core::deployment::DeploymentIndex;
use bluegreen_core::metrics::counters::{Class, ColourMetric, of_exchange};
use bluegreen_core::model::colour::Colour;
use bluegreen_core::model::percent::Percent;
use bluegreen_core::routing::decision::ByOverride;
use bluegreen_core::routing::worker::WorkerState;
use bluegreen_core::routing::{caching, cookie};

use crate::host;
use crate::plugin::Plugin;
use crate::shared_data::SharedData;

/// A request that a deployment took.
pub struct Exchange {
    deployment: DeploymentIndex,
    colour: Colour,
    /// The client chose the colour, so the exchange is no evidence for or against it.
    is_override: bool,
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
        let Some((index, choice)) = plugin.router.find(&host::Request) else {
            for header in [&routing.cluster_header, &routing.colour_header, &routing.shadow_header] {
                host::remove_request_header(header.as_str());
            }
            return None;
        };
        let deployment = plugin.context.deployments.get(index)?;
        let worker = plugin.workers.get(index)?;
        let metrics = plugin.executor.metrics(index)?;
        let (split, fallback) = worker.current_split(deployment, metrics.epoch(), &SharedData);
        if let Some(fallback) = fallback {
            metrics.count_fallback();
            if let Some(line) = fallback.warning {
                log::warn!("{line}");
            }
        }
        let mut rotations = worker.rotations();
        let began = host::now();
        let decision = choice.decide(&split, worker.buckets(split.candidate()), &mut rotations, &host::Request, || {
            cookie::fresh_key(host::unix_nanos(began), plugin.context.instance, context_id)
        });
        worker.store_rotations(rotations);

        if decision.by_override != ByOverride::Absent
            && let Some(header) = choice.override_header()
        {
            host::remove_request_header(header.as_str());
        }
        host::set_request_header(routing.colour_header.as_str(), decision.colour.as_str());
        match decision.shadow {
            Some(colour) => worker.with_identity(colour, |copied_to| {
                host::set_request_header(routing.shadow_header.as_str(), copied_to.cluster.as_str());
            }),
            None => host::remove_request_header(routing.shadow_header.as_str()),
        }
        worker.with_identity(decision.colour, |upstream| {
            host::set_request_header(routing.cluster_header.as_str(), upstream.cluster.as_str());
            if let Some(authority) = &upstream.authority {
                host::set_request_header(":authority", authority.as_str());
            }
        });

        let is_override = decision.by_override == ByOverride::Chosen;
        let exchange = Self {
            deployment: index,
            colour: decision.colour,
            is_override,
            began,
            answered: None,
            set_cookie: decision.set_cookie,
        };
        let requests = if is_override { ColourMetric::OverrideRequests } else { ColourMetric::Requests };
        exchange.count(plugin, requests, 1);
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
        self.record_upstream_result(plugin, status == b"503");
        host::set_response_header(COLOUR_HEADER, self.colour.as_str());
        if let Some(worker) = plugin.workers.get(self.deployment) {
            worker.with_identity(self.colour, |served| {
                host::set_response_header(VERSION_HEADER, served.version.as_str());
            });
        }
        // A shared cache would give one client's cookie to all others.
        if let Some(set_cookie) = self.set_cookie.take()
            && !host::joined_response_header("cache-control").is_some_and(|value| caching::is_marked_shareable(&value))
        {
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
            Some(answered) if self.is_guarded(plugin) => {
                (answered.class.at_the_end(&host::response_code_details()), Some(answered.after))
            }
            Some(answered) => (answered.class, Some(answered.after)),
            None => (Class::Unanswered, None),
        };
        if self.is_override {
            self.count(plugin, ColourMetric::OverrideResponses(class), 1);
            return;
        }
        for metric in of_exchange(class, first_byte, since(self.began)) {
            self.count(plugin, metric, 1);
        }
    }

    /// Whether a guard watches this exchange: it compares the colours now, as far as this worker knows.
    fn is_guarded(&self, plugin: &Plugin) -> bool {
        if self.is_override {
            return false;
        }
        let deployment = plugin.context.deployments.get(self.deployment);
        let split = plugin.workers.get(self.deployment).and_then(WorkerState::known_split);
        deployment.is_some_and(|deployment| deployment.guard.is_some())
            && split.is_some_and(|split| split.canary_percent > Percent::ZERO)
    }

    /// For a failover, of an ordinary request: asks Envoy about a 503 whether the request reached the colour; any other answer says that it did.
    fn record_upstream_result(&self, plugin: &Plugin, is_503: bool) {
        let deployment = plugin.context.deployments.get(self.deployment);
        if self.is_override || deployment.is_none_or(|deployment| deployment.readiness.failover.is_none()) {
            return;
        }
        let details = if is_503 { host::response_code_details() } else { String::new() };
        let reach = if is_503 { reach_of_503(&details) } else { Reach::Reached };
        let split = plugin.workers.get(self.deployment).and_then(WorkerState::known_split);
        let Some(metrics) = plugin.executor.metrics(self.deployment) else { return };
        if split.is_none_or(|split| split.active != self.colour) {
            return;
        }
        match reach {
            Reach::Reached => metrics.reset_unreached(),
            Reach::Unknown => {}
            Reach::Unreached => {
                let failures = metrics.count_unreached();
                let (index, colour) = (self.deployment, self.colour);
                failover::on_unreached(&plugin.context, &plugin.submissions, index, colour, failures, &details);
            }
        }
    }

    fn count(&self, plugin: &Plugin, metric: ColourMetric, by: i64) {
        if let Some(metrics) = plugin.executor.metrics(self.deployment) {
            metrics.add(self.colour, metric, by);
        }
    }
}

/// Time since `began`; none when the clock was set back in between.
fn since(began: SystemTime) -> Duration {
    host::now().duration_since(began).unwrap_or_default()
}
