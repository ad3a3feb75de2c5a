//! The root context: takes a configuration in, gives streams out, and ticks.

use std::rc::Rc;

use bluegreen_core::config::Config;
use bluegreen_core::model::time::TICK;
use bluegreen_core::model::time::Timestamp;
use bluegreen_core::store::lease::{FIRST_TICKS, HURRY};
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

use crate::admin;
use crate::awaiting::Came;
use crate::following::Following;
use crate::grpc::{self, GrpcCallId, StreamId};
use crate::host::{self, CallId};
use crate::plugin::Plugin;
use crate::polling::Polling;
use crate::probing::Probing;
use crate::pushes::Pushes;
use crate::stream::Stream;
use crate::turns::Turns;
use crate::wishes::Wishes;

/// One plugin configuration in one VM.
#[derive(Default)]
pub struct Root {
    plugin: Option<Rc<Plugin>>,
    probing: Probing,
    polling: Polling,
    pushes: Pushes,
    wishes: Wishes,
    turns: Turns,
    following: Following,
    /// Until when ticks come fast, because the fleet's states have not come yet.
    hurry_until: Option<Timestamp>,
}

/// Makes a root context, as the SDK asks for one.
pub fn create(_context_id: u32) -> Box<dyn RootContext> {
    Box::<Root>::default()
}

// === impl Root ===

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, header_count: usize, _body_size: usize, _trailer_count: usize) {
        if let Some(plugin) = &self.plugin {
            let (call, reply) = (CallId(token), host::reply(header_count));
            let came = Came::Colour(call, &reply);
            if self.wishes.on_reply(plugin, came)
                || self.turns.on_reply(plugin, came)
                || self.polling.on_reply(plugin, &mut self.wishes, call, &reply)
            {
                return;
            }
            self.probing.on_reply(plugin, call, &reply);
        }
    }

    fn on_grpc_call_response(&mut self, token: u32, status: u32, size: usize) {
        if let Some(plugin) = &self.plugin {
            let (call, reply) = (GrpcCallId(token), grpc::reply(status, size));
            let came = Came::Etcd(call, &reply);
            if !self.wishes.on_reply(plugin, came) && !self.turns.on_reply(plugin, came) {
                self.following.on_reply(plugin, call, &reply);
            }
        }
    }

    fn on_grpc_stream_message(&mut self, token: u32, size: usize) {
        if let Some(plugin) = &self.plugin {
            self.following.on_message(plugin, StreamId(token), &grpc::received(size));
        }
    }

    fn on_grpc_stream_close(&mut self, token: u32, _status: u32) {
        grpc::cancel(StreamId(token));
        if let Some(plugin) = &self.plugin {
            self.following.on_closed(plugin, StreamId(token));
        }
    }
}

impl RootContext for Root {
    /// Refusing leaves Envoy with the configuration that it had; at the start it ends Envoy.
    fn on_configure(&mut self, _size: usize) -> bool {
        match Config::from_bytes(&host::plugin_configuration()) {
            Ok(config) => {
                let plugin = Plugin::new(&config);
                self.hurry_until = plugin.fleet.is_some().then(|| Timestamp::from(host::now()).plus(HURRY));
                self.pushes = Pushes::new(&config, &plugin);
                self.polling = Polling::new(&config);
                self.plugin = Some(Rc::new(plugin));
                host::tick_every(if self.hurry_until.is_some() { FIRST_TICKS } else { TICK });
                true
            }
            Err(error) => {
                log::error!("bluegreen: configuration refused: {error}");
                false
            }
        }
    }

    fn on_tick(&mut self) {
        if let Some(plugin) = &self.plugin {
            let now = Timestamp::from(host::now());
            if plugin.leads(now) {
                plugin.sample(now);
                self.probing.tick(plugin, now);
                for wish in plugin.conduct(now) {
                    self.wishes.fulfil(plugin, wish);
                }
            }
            self.following.tick(plugin, now);
            for wish in plugin.wanted() {
                if !self.wishes.has(wish.deployment, wish.source()) {
                    self.wishes.fulfil(plugin, wish);
                }
            }
            self.pushes.tick(plugin, &mut self.wishes, now);
            self.polling.tick(plugin, &mut self.wishes, now);
            self.turns.tick(plugin, now);
            admin::tick(plugin, now);
            if self.hurry_until.is_some_and(|until| until <= now || plugin.is_in_step()) {
                self.hurry_until = None;
                host::tick_every(TICK);
            }
        }
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream::new(context_id, self.plugin.clone())))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
