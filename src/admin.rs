//! One admin call: its head, its body if there is one, and then a flow that ends with the answer.

use std::rc::Rc;

use bluegreen_core::admin::api::{Api, Body, Head, MAX_BODY, Place, Provenance};
use bluegreen_core::admin::refusals::Refusal;
use bluegreen_core::admin::webhook::Delivery;
use bluegreen_core::host::reply::Reply;
use bluegreen_core::host::tasks::TaskId;
use bluegreen_core::routing::matching::RequestHeaders;
use futures_channel::oneshot::Sender;

use crate::host;
use crate::plugin::Plugin;

/// A request to the admin API that was not refused for its head.
pub struct AdminCall {
    context_id: u32,
    task: TaskId,
    /// Where its body goes, until that has arrived.
    body: Option<Sender<Body>>,
    /// Held until the stream is over.
    _place: Option<Place>,
}

// === impl AdminCall ===

impl AdminCall {
    /// Takes a call whose headers are under way. `None`: it is answered already.
    pub fn receive(
        plugin: &Plugin,
        api: &Api,
        request: &host::Request,
        context_id: u32,
        path: Vec<u8>,
        end_of_stream: bool,
    ) -> Option<Self> {
        let header = |name: &str| request.header(name);
        let delivery = api.is_webhook(&path).then(|| Delivery::read(&plugin.context.deployments, request));
        let head = Head {
            method: header(":method").unwrap_or_default(),
            path,
            authorization: header("authorization"),
            if_match: header("if-match"),
            delivery,
            provenance: Provenance {
                authority: header(":authority").unwrap_or_default(),
                origin: header("origin"),
                fetch_site: header("sec-fetch-site"),
                reached_at: host::reached_at(),
            },
            peer: host::peer(),
        };
        let mut call = match api.receive(&plugin.context, &head) {
            Ok(call) => call,
            Err(Refusal::AtOnce(response)) => {
                host::answer(&response);
                return None;
            }
            Err(Refusal::Slowly(answer)) => {
                let task = plugin.executor.serve(context_id, answer);
                return Some(Self { context_id, task, body: None, _place: None });
            }
        };
        let announced: Option<u64> =
            header("content-length").and_then(|length| std::str::from_utf8(&length).ok()?.parse().ok());
        let (sender, body) = if end_of_stream || !call.takes_body() {
            (None, Reply::ready(Body::Complete(Vec::new())))
        } else if announced.is_some_and(|length| length > MAX_BODY as u64) {
            // Envoy answers by itself, in its own words, what outgrows its buffer between two looks at it.
            (None, Reply::ready(Body::TooLarge))
        } else {
            let (sender, body) = Reply::pending();
            (Some(sender), body)
        };
        let place = call.place_until_sent();
        let task = plugin.executor.serve(context_id, call.answer(Rc::clone(&plugin.context), body));
        Some(Self { context_id, task, body: sender, _place: place })
    }

    /// Takes note of the body, of which `size` bytes are buffered.
    pub fn on_body(&mut self, plugin: &Plugin, size: usize, end_of_stream: bool) {
        if size > MAX_BODY {
            self.arrived(plugin, Body::TooLarge);
        } else if end_of_stream {
            self.on_trailers(plugin);
        }
    }

    /// Acts on a call whose body is complete.
    pub fn on_trailers(&mut self, plugin: &Plugin) {
        self.arrived(plugin, Body::Complete(host::request_body(MAX_BODY)));
    }

    /// Goes on with what came in an event of this stream.
    pub fn run(&self, plugin: &Plugin) {
        plugin.executor.run_stream(self.context_id, self.task);
    }

    /// The stream is over, answered or not.
    pub fn end(self, plugin: &Plugin) {
        plugin.executor.end(self.task);
    }

    fn arrived(&mut self, plugin: &Plugin, body: Body) {
        if let Some(sender) = self.body.take() {
            // It may have waited for too long, and be answered.
            let _: Result<(), Body> = sender.send(body);
            self.run(plugin);
        }
    }
}
