//! The root context: takes a configuration in, gives streams out, and ticks.

use std::rc::Rc;

use bluegreen_core::config::Config;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

use crate::executor::Executor;
use crate::grpc::{self, GrpcCallId, StreamId};
use crate::host::{self, CallId};
use crate::plugin::Plugin;
use crate::stream::Stream;

/// One plugin configuration in one VM.
#[derive(Default)]
pub struct Root {
    plugin: Option<Rc<Plugin>>,
}

/// Makes a root context, as the SDK asks for one.
pub fn create(_context_id: u32) -> Box<dyn RootContext> {
    Box::<Root>::default()
}

// === impl Root ===

impl Root {
    /// Takes an event in, and goes on with what it wakes.
    fn on_event(&self, take: impl FnOnce(&Executor)) {
        if let Some(plugin) = &self.plugin {
            take(&plugin.executor);
            plugin.executor.run_root();
        }
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, header_count: usize, _body_size: usize, _trailer_count: usize) {
        self.on_event(|executor| executor.on_http_reply(CallId(token), host::reply(header_count)));
    }

    fn on_grpc_call_response(&mut self, token: u32, status: u32, size: usize) {
        self.on_event(|executor| executor.on_grpc_reply(GrpcCallId(token), grpc::reply(status, size)));
    }

    fn on_grpc_stream_message(&mut self, token: u32, size: usize) {
        self.on_event(|executor| executor.on_grpc_message(StreamId(token), grpc::received(size)));
    }

    fn on_grpc_stream_close(&mut self, token: u32, _status: u32) {
        self.on_event(|executor| executor.on_grpc_close(StreamId(token)));
    }
}

impl RootContext for Root {
    /// Refusing leaves Envoy with the configuration that it had; at the start it ends Envoy.
    fn on_configure(&mut self, _size: usize) -> bool {
        // Read before it is used, so that its bytes are gone by then.
        let config = Config::from_bytes(&host::plugin_configuration());
        match config {
            Ok(config) => {
                self.plugin = Some(Rc::new(Plugin::new(&config)));
                self.on_event(|_| {});
                true
            }
            Err(error) => {
                host::log(log::Level::Error, &format!("bluegreen: configuration refused: {error}"));
                false
            }
        }
    }

    /// A worker has told this one something.
    fn on_queue_ready(&mut self, _queue: u32) {
        if let Some(plugin) = &self.plugin {
            plugin.context.worker.on_queue(&*plugin.executor, &plugin.context.deployments);
            plugin.executor.run_root();
        }
    }

    fn on_tick(&mut self) {
        self.on_event(Executor::tick);
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream::new(context_id, self.plugin.clone())))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
