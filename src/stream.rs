//! The context of one request: finds out whether it is traffic or an admin call, and hands each event on.

use std::rc::Rc;

use bluegreen_core::inspection::unmatched::Asked;
use bluegreen_core::routing::matching::RequestHeaders;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::admin::AdminCall;
use crate::exchange::Exchange;
use crate::grpc::{self, GrpcCallId};
use crate::host::{self, CallId};
use crate::passing;
use crate::plugin::Plugin;

/// One request and its answer.
pub struct Stream {
    context_id: u32,
    plugin: Option<Rc<Plugin>>,
    kind: Kind,
}

/// What a request turned out to be.
enum Kind {
    /// Its headers have not come yet, or nothing more is to be done with it.
    Bypassed,
    /// No deployment takes it, and its answer is to be looked at.
    Unmatched(Asked),
    /// An inference request of a deployment.
    Traffic(Exchange),
    /// A call of the admin API.
    Admin(AdminCall),
    /// A call of the admin API that was refused for its head.
    Answered,
}

// === impl Stream ===

impl Stream {
    /// A stream without any event yet.
    pub fn new(context_id: u32, plugin: Option<Rc<Plugin>>) -> Self {
        Self { context_id, plugin, kind: Kind::Bypassed }
    }
}

impl Context for Stream {
    fn on_http_call_response(&mut self, token: u32, header_count: usize, _body_size: usize, _trailer_count: usize) {
        if let (Kind::Admin(call), Some(plugin)) = (&self.kind, &self.plugin) {
            plugin.executor.on_http_reply(CallId(token), host::reply(header_count));
            call.run(plugin);
        }
    }

    fn on_grpc_call_response(&mut self, token: u32, status: u32, size: usize) {
        if let (Kind::Admin(call), Some(plugin)) = (&self.kind, &self.plugin) {
            plugin.executor.on_grpc_reply(GrpcCallId(token), grpc::reply(status, size));
            call.run(plugin);
        }
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        let Some(plugin) = &self.plugin else {
            return Action::Continue;
        };
        plugin.context.worker.on_stream(&*plugin.executor);
        if let Some(published) = &plugin.published
            && published.wants_address()
            && let Some(address) = host::reached_at()
        {
            published.reached_at(&plugin.context, &address);
        }
        let request = host::Request::default();
        if let Some(api) = &plugin.api {
            let path = request.header(":path").unwrap_or_default();
            if api.covers(&path) {
                let call = AdminCall::receive(plugin, api, &request, self.context_id, path, end_of_stream);
                self.kind = call.map_or(Kind::Answered, Kind::Admin);
                return Action::Pause;
            }
        }
        self.kind = match Exchange::begin(plugin, &request, self.context_id, end_of_stream) {
            Some(exchange) => Kind::Traffic(exchange),
            None => passing::pass(plugin, &request).map_or(Kind::Bypassed, Kind::Unmatched),
        };
        Action::Continue
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        match (&mut self.kind, &self.plugin) {
            (Kind::Admin(call), Some(plugin)) => {
                call.on_body(plugin, size, end_of_stream);
                Action::Pause
            }
            (Kind::Traffic(exchange), Some(plugin)) => {
                exchange.on_request_body(plugin, size, end_of_stream);
                Action::Continue
            }
            (Kind::Answered, _) => Action::Pause,
            _ => Action::Continue,
        }
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        match (&mut self.kind, &self.plugin) {
            (Kind::Admin(call), Some(plugin)) => {
                call.on_trailers(plugin);
                Action::Pause
            }
            (Kind::Traffic(exchange), _) => {
                exchange.on_sent();
                Action::Continue
            }
            (Kind::Answered, _) => Action::Pause,
            _ => Action::Continue,
        }
    }

    fn on_http_response_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        match (&mut self.kind, &self.plugin) {
            (Kind::Traffic(exchange), Some(plugin)) => exchange.on_answer(plugin, end_of_stream),
            (Kind::Unmatched(asked), Some(plugin)) => passing::on_answer(plugin, asked),
            _ => {}
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        if let (Kind::Traffic(exchange), Some(plugin)) = (&mut self.kind, &self.plugin) {
            exchange.on_answer_body(plugin, size, end_of_stream);
        }
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _count: usize) -> Action {
        if let Kind::Traffic(exchange) = &mut self.kind {
            exchange.on_grpc_status(true);
            exchange.on_complete();
        }
        Action::Continue
    }

    /// Envoy logs every stream exactly once, at its end, however it ended: completed, reset, timed out or abandoned.
    fn on_log(&mut self) {
        match (std::mem::replace(&mut self.kind, Kind::Bypassed), &self.plugin) {
            (Kind::Traffic(exchange), Some(plugin)) => exchange.end(plugin),
            (Kind::Admin(call), Some(plugin)) => call.end(plugin),
            _ => {}
        }
    }
}
