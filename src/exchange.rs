//! One inference request on its way to a colour and back: routed, marked and measured, never held up.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bluegreen_core::controllers::failover;
use bluegreen_core::deployment::DeploymentIndex;
use bluegreen_core::inspection::seeding;
use bluegreen_core::metrics::answer::{Attribution, Explanation, Reach};
use bluegreen_core::metrics::cohorts::{Host, Ticket};
use bluegreen_core::metrics::counters::{Class, ColourMetric, DeploymentMetric, of_exchange};
use bluegreen_core::model::colour::{Colour, PerColour};
use bluegreen_core::routing::decision::ByOverride;
use bluegreen_core::routing::incoming::{Finding, Whose};
use bluegreen_core::routing::matching::RequestHeaders;
use bluegreen_core::routing::{caching, cookie};
use bluegreen_core::shadow::dropped::Dropped;

use crate::copying::{CopyBy, Copying};
use crate::host;
use crate::plugin::Plugin;
use crate::question::{Question, explanation};

/// A request that a deployment took.
pub struct Exchange {
    deployment: DeploymentIndex,
    /// The colour that was chosen. Another one may answer.
    colour: Colour,
    /// About its cluster, as it was when the request was routed.
    question: Rc<Question>,
    /// The client chose the colour, so the exchange is no evidence for or against it.
    is_override: bool,
    began: SystemTime,
    /// Whether all of the request has come.
    is_sent: bool,
    answered: Option<Answered>,
    set_cookie: Option<String>,
    /// The copy whose answer is to be compared.
    copy: Option<Box<Copying>>,
    /// With which to say what became of it, where chance has shared it out between colours that are compared.
    ticket: Option<Ticket>,
}

/// An answer whose head has come.
struct Answered {
    /// Whom it counts for, as what.
    attribution: Attribution,
    after: Duration,
    /// Whether all of it has come.
    is_complete: bool,
}

/// Tells the client which colour answered.
const COLOUR_HEADER: &str = "x-bluegreen-colour";
/// Tells the client which model version answered.
const VERSION_HEADER: &str = "x-bluegreen-version";

// === impl Exchange ===

impl Exchange {
    /// Routes a request whose headers are under way; `None` when no deployment wants it.
    pub fn begin(plugin: &Plugin, request: &host::Request, context_id: u32, end_of_stream: bool) -> Option<Self> {
        let routing = &plugin.routing;
        let (index, choice) = plugin.router.find(request)?;
        let deployment = plugin.context.deployments.get(index)?;
        look_at_seed(plugin, request, index, deployment.cluster_header.as_str());
        let split = plugin.context.worker.split(&*plugin.executor, index, deployment);
        let worker = plugin.context.worker.state(index)?;
        let mut rotations = worker.rotations();
        let began = host::now();
        let decision = choice.decide(&split, worker.buckets(split.candidate()), &mut rotations, request, || {
            cookie::fresh_key(host::unix_nanos(began), plugin.context.instance, context_id)
        });
        worker.store_rotations(rotations);

        let copy_by = decision.shadow.map(|_| match deployment.compare() {
            Some(rules) => CopyBy::choose(plugin, request, (index, deployment), rules),
            None => CopyBy::Envoy,
        });
        if decision.by_override != ByOverride::Absent
            && let Some(header) = choice.override_header()
        {
            host::remove_request_header(header.as_str());
        }
        host::set_request_header(routing.colour_header.as_str(), decision.colour.as_str());
        match decision.shadow.filter(|_| matches!(copy_by, Some(CopyBy::Envoy))) {
            Some(colour) => worker.with_identity(colour, |copied_to| {
                host::set_request_header(routing.shadow_header.as_str(), copied_to.cluster.as_str());
            }),
            None => host::remove_request_header(routing.shadow_header.as_str()),
        }
        let question = worker.with_identity(decision.colour, |upstream| {
            host::set_request_header(deployment.cluster_header.as_str(), upstream.cluster.as_str());
            if let Some(authority) = &upstream.authority {
                host::set_request_header(":authority", authority.as_str());
            }
            plugin.question(index, decision.colour, &upstream.cluster)
        });

        if plugin.incoming.are_open() {
            host::vouch();
        }
        if routing.filter_state {
            let (name, colour, reason) = (&deployment.name, decision.colour, decision.reason(&split).as_str());
            let revision = worker.known_revision().unwrap_or_default();
            worker.with_identity(colour, |upstream| {
                let version = &upstream.version;
                host::show_decision(&format!(
                    "deployment={name} colour={colour} version={version} reason={reason} revision={revision}"
                ));
            });
        }

        let exchange = Self {
            deployment: index,
            colour: decision.colour,
            question: question?,
            is_override: decision.by_override == ByOverride::Chosen,
            began,
            is_sent: end_of_stream,
            answered: None,
            set_cookie: decision.set_cookie,
            copy: copy_by.and_then(CopyBy::by_filter),
            ticket: plugin.context.worker.begin(
                (index, deployment),
                &split,
                (decision.colour, decision.draw),
                began.into(),
            ),
        };
        exchange.count(plugin, exchange.colour, ColourMetric::InFlight, 1);
        Some(exchange)
    }

    /// A piece of the request's body is under way.
    pub fn on_request_body(&mut self, plugin: &Plugin, size: usize, end_of_stream: bool) {
        self.copy = self.copy.take().and_then(|copy| copy.on_request_body(plugin, size));
        if end_of_stream {
            self.on_sent();
        }
    }

    /// All of the request has come.
    pub fn on_sent(&mut self) {
        self.is_sent = true;
    }

    /// Marks the answer, whose headers are under way. Envoy's own answers (no healthy upstream, timeout) come here too.
    pub fn on_answer(&mut self, plugin: &Plugin, end_of_stream: bool) {
        let after = since(self.began);
        let attribution = self.attribute(plugin);
        self.count_request(plugin, &attribution);
        self.count_foreign(plugin, &attribution);
        self.copy = self
            .copy
            .take()
            .and_then(|copy| copy.on_answer(plugin, attribution.served_by() == Some(self.colour), after));
        if let Some((ticket, deployment)) = self.ticket.zip(plugin.context.deployments.get(self.deployment)) {
            self.ticket = plugin.context.worker.on_head((self.deployment, deployment), ticket, &attribution, after);
        }
        self.answered = Some(Answered { attribution, after, is_complete: end_of_stream });
        if end_of_stream {
            // A gRPC answer without a message has its status here; others do not end with their head.
            self.on_grpc_status(false);
        }
        if let Some(colour) = attribution.served_by() {
            host::set_response_header(COLOUR_HEADER, colour.as_str());
            if let Some(worker) = plugin.context.worker.state(self.deployment) {
                worker.with_identity(colour, |served| {
                    // Another version may have come behind the colour since the request was routed.
                    if colour != self.colour || served.cluster == self.question.cluster {
                        host::set_response_header(VERSION_HEADER, served.version.as_str());
                    }
                });
            }
        }
        // A shared cache would give one client's cookie to all others.
        if let Some(set_cookie) = self.set_cookie.take()
            && !host::joined_response_header("cache-control").is_some_and(|value| caching::is_marked_shareable(&value))
        {
            host::add_response_header("set-cookie", &set_cookie);
        }
    }

    /// A piece of the answer's body is under way.
    pub fn on_answer_body(&mut self, plugin: &Plugin, size: usize, end_of_stream: bool) {
        self.copy = self.copy.take().and_then(|copy| copy.on_answer_body(plugin, size));
        if end_of_stream {
            self.on_complete();
        }
    }

    /// All of the answer has come.
    pub fn on_complete(&mut self) {
        if let Some(answered) = &mut self.answered {
            answered.is_complete = true;
        }
    }

    /// Looks for a gRPC error under the HTTP status 200: in the head, or in the trailers that have come.
    pub fn on_grpc_status(&mut self, in_trailers: bool) {
        if let Some(answered) = &mut self.answered
            && let Some(status) = host::grpc_status(in_trailers)
            && answered.attribution.class == Class::Status(2)
        {
            answered.attribution.class = Class::of_grpc(&status);
        }
    }

    /// Counts the exchange, which is over.
    pub fn end(mut self, plugin: &Plugin) {
        self.count(plugin, self.colour, ColourMetric::InFlight, -1);
        let copy = self.copy.take();
        let (attribution, first_byte) = match &self.answered {
            Some(Answered { attribution, after, is_complete: true }) => (*attribution, Some(*after)),
            Some(Answered { attribution, after, .. }) => {
                let class = attribution.class.at_the_end(&explanation().code_details);
                (Attribution { class, ..*attribution }, Some(*after))
            }
            None => {
                let attribution = self.attribute_without_answer(plugin);
                self.count_request(plugin, &attribution);
                (attribution, None)
            }
        };
        let Attribution { colour, class, .. } = attribution;
        if let Some(copy) = copy {
            let is_whole = self.is_sent && self.answered.as_ref().is_some_and(|answered| answered.is_complete);
            match class {
                _ if is_whole => copy.finish(plugin),
                Class::Unanswered => copy.abandon(plugin, Dropped::ClientGone),
                _ => copy.abandon(plugin, Dropped::NotAnswered),
            }
        }
        if let Some(colour) = colour.filter(|_| self.is_override) {
            self.count(plugin, colour, ColourMetric::OverrideResponses(class), 1);
            return;
        }
        let total = if colour.is_some() { since(self.began) } else { Duration::ZERO };
        if let Some((ticket, deployment)) = self.ticket.zip(plugin.context.deployments.get(self.deployment)) {
            plugin.context.worker.end((self.deployment, deployment), ticket, &attribution, total, upstream_host);
        }
        let Some(colour) = colour else { return };
        plugin.context.worker.count(self.deployment, colour, of_exchange(class, first_byte, total));
    }

    /// Finds out whom the answer counts for, and what it says about the way of requests and about reaching the colour.
    fn attribute(&self, plugin: &Plugin) -> Attribution {
        let host = &*plugin.context.host;
        let known = plugin.context.deployments.get(self.deployment).zip(plugin.arrivals.get(self.deployment));
        let is_expected = self.question.is_expected();
        let (explanation, attribution) = if is_expected {
            (Explanation::default(), Attribution::expected(self.colour, Class::Status(2)))
        } else {
            let class = Class::of_status(&host::response_status().unwrap_or_default());
            let explanation = self.explanation(plugin);
            let of =
                |clusters: &PerColour<&str>| Attribution::of(&explanation, class, self.is_sent, self.colour, clusters);
            let attribution = self.with_clusters(plugin, of);
            (explanation, attribution)
        };
        match known {
            Some((deployment, arrivals)) if is_expected => arrivals.on_expected(host, deployment, self.colour),
            Some((deployment, arrivals)) => {
                let chosen = (self.colour, &self.question.cluster);
                arrivals.on_explained(host, deployment, chosen, &explanation, &attribution);
            }
            None => {}
        }
        self.record_reach(plugin, &attribution, &explanation.code_details);
        attribution
    }

    /// What Envoy says, with the clusters under their first names.
    fn explanation(&self, plugin: &Plugin) -> Explanation {
        let mut explanation = explanation();
        if let Some(worker) = plugin.context.worker.state(self.deployment) {
            for colour in Colour::ALL {
                worker.with_identity(colour, |identity| explanation.known_as(identity));
            }
        }
        explanation
    }

    /// The same of a stream that ended without an answer to the client. It says nothing about reaching the colour.
    fn attribute_without_answer(&self, plugin: &Plugin) -> Attribution {
        let class = Class::of_status(&host::response_status().unwrap_or_default());
        self.with_clusters(plugin, |clusters| {
            Attribution::without_answer(&self.explanation(plugin), class, self.is_sent, self.colour, clusters)
        })
    }

    /// Calls `with` with the clusters of the colours: the chosen one's as it was when the request was routed.
    fn with_clusters<R>(&self, plugin: &Plugin, with: impl FnOnce(&PerColour<&str>) -> R) -> R {
        let worker = plugin.context.worker.state(self.deployment);
        let other = worker.map(|worker| worker.with_identity(self.colour.other(), |other| other.cluster.clone()));
        let own = self.question.cluster.as_str();
        let other = other.as_ref().map_or(own, |cluster| cluster.as_str());
        with(&PerColour::from_fn(|colour| if colour == self.colour { own } else { other }))
    }

    /// For a failover that watches, of an ordinary request.
    fn record_reach(&self, plugin: &Plugin, attribution: &Attribution, details: &str) {
        let (context, index) = (&plugin.context, self.deployment);
        let Some(colour) = attribution.colour else { return };
        if self.is_override || !failover::is_watching(context, index, colour, self.began.into()) {
            return;
        }
        match attribution.reach {
            Reach::Reached => failover::on_reached(context, index),
            Reach::Unknown => {}
            Reach::Unreached => failover::on_unreached(context, &plugin.submissions, index, colour, details),
        }
    }

    /// Counts the request, now that it is known whom it counts for.
    fn count_request(&self, plugin: &Plugin, attribution: &Attribution) {
        let requests = if self.is_override { ColourMetric::OverrideRequests } else { ColourMetric::Requests };
        if let Some(colour) = attribution.colour {
            self.count(plugin, colour, requests, 1);
            if attribution.retries > 0 {
                let retries = i64::try_from(attribution.retries).unwrap_or(i64::MAX);
                self.count(plugin, colour, ColourMetric::Retries, retries);
            }
        }
    }

    /// Counts an answer that is not the chosen colour's.
    fn count_foreign(&self, plugin: &Plugin, attribution: &Attribution) {
        let Some(metrics) = plugin.executor.metrics(self.deployment) else { return };
        if attribution.reach == Reach::Unknown {
            metrics.count_own(DeploymentMetric::LocalReplies);
        } else if attribution.colour != Some(self.colour) {
            metrics.count_own(DeploymentMetric::AnswersFromElsewhere);
        }
    }

    fn count(&self, plugin: &Plugin, colour: Colour, metric: ColourMetric, by: i64) {
        plugin.context.worker.count(self.deployment, colour, [(metric, by)]);
    }
}

/// Looks, once in a while, whether the request came with the header that names its cluster.
fn look_at_seed(plugin: &Plugin, request: &host::Request, index: DeploymentIndex, header: &str) {
    let whose = Whose::Deployment(index);
    if !plugin.incoming.wants_look(whose) {
        return;
    }
    if let Some(finding) = plugin.incoming.saw(whose, request.header(header).is_some()) {
        let has_route = finding == Finding::Missing && host::route_cluster().is_some();
        seeding::found(&plugin.context, index, header, finding, has_route);
    }
}

/// Who was asked last.
fn upstream_host() -> Host {
    Host::of(host::text_property(["upstream", "address"]).as_bytes())
}

/// Time since `began`; none when the clock was set back in between.
fn since(began: SystemTime) -> Duration {
    host::now().duration_since(began).unwrap_or_default()
}
