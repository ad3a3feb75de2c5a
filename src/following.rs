//! Following the fleet on behalf of all workers: the calls and the stream of the one instance that does it.

use bluegreen_core::etcd::follower::{Act, Follower, Ticket};
use bluegreen_core::etcd::{Reply, WATCH};
use bluegreen_core::model::time::Timestamp;

use crate::grpc::{self, GrpcCallId, StreamId};
use crate::host;
use crate::plugin::Plugin;
use crate::shared_data::SharedData;

/// What an instance follows with; nothing on one that does not.
#[derive(Default)]
pub struct Following {
    follower: Option<Follower>,
    stream: Option<StreamId>,
    under_way: Vec<(GrpcCallId, Ticket)>,
}

// === impl Following ===

impl Following {
    /// Does what is due, or leaves it to another instance.
    pub fn tick(&mut self, plugin: &Plugin, now: Timestamp) {
        let Some(fleet) = &plugin.fleet else { return };
        let acts = if plugin.follows(now) {
            let follower = self.follower.get_or_insert_with(|| Follower::new(fleet.clone(), plugin.member));
            follower.tick(&plugin.router, &SharedData, now)
        } else {
            self.follower.as_mut().map(Follower::retire).unwrap_or_default()
        };
        self.carry_out(plugin, acts);
    }

    /// Takes the reply to one of its calls.
    pub fn on_reply(&mut self, plugin: &Plugin, call: GrpcCallId, reply: &Reply) {
        if let Some(place) = self.under_way.iter().position(|(known, _)| *known == call) {
            let (_, ticket) = self.under_way.swap_remove(place);
            let acts = self.replied(plugin, ticket, reply);
            self.carry_out(plugin, acts);
        }
    }

    /// Takes a message of its stream.
    pub fn on_message(&mut self, plugin: &Plugin, stream: StreamId, message: &[u8]) {
        if self.stream != Some(stream) {
            return;
        }
        if let Some(follower) = &mut self.follower {
            let acts = follower.on_message(message, &plugin.router, &SharedData, Timestamp::from(host::now()));
            self.carry_out(plugin, acts);
        }
    }

    /// Takes the end of its stream.
    pub fn on_closed(&mut self, plugin: &Plugin, stream: StreamId) {
        if self.stream == Some(stream) {
            self.stream = None;
            let acts = self.closed();
            self.carry_out(plugin, acts);
        }
    }

    fn closed(&mut self) -> Vec<Act> {
        self.follower.as_mut().map(|follower| follower.on_closed(Timestamp::from(host::now()))).unwrap_or_default()
    }

    fn replied(&mut self, plugin: &Plugin, ticket: Ticket, reply: &Reply) -> Vec<Act> {
        let Some(follower) = &mut self.follower else { return Vec::new() };
        follower.on_reply(ticket, reply, &plugin.router, &SharedData, Timestamp::from(host::now()))
    }

    fn carry_out(&mut self, plugin: &Plugin, acts: Vec<Act>) {
        let mut acts = std::collections::VecDeque::from(acts);
        while let Some(act) = acts.pop_front() {
            match act {
                Act::Call(ticket, call) => match grpc::call(&call) {
                    Ok(id) => self.under_way.push((id, ticket)),
                    Err(reply) => acts.extend(self.replied(plugin, ticket, &reply)),
                },
                Act::Watch(request) => acts.extend(self.watch(plugin, &request)),
                Act::Unwatch => {
                    if let Some(stream) = self.stream.take() {
                        grpc::cancel(stream);
                    }
                }
                Act::Publish(deployment, applied) => plugin.publish(deployment, &applied),
                Act::Warn(deployment, why) => {
                    if let Some(route) = plugin.router.get(deployment) {
                        log::warn!("bluegreen: deployment={}: {why}", route.name);
                    }
                }
                Act::ContactLost(why) => {
                    log::warn!("bluegreen: etcd is out of reach: {why}: going on with the last known states");
                }
                Act::ContactMade => log::info!("bluegreen: in step with etcd"),
            }
        }
    }

    fn watch(&mut self, plugin: &Plugin, request: &[u8]) -> Vec<Act> {
        let Some(fleet) = &plugin.fleet else { return Vec::new() };
        self.stream = grpc::open(fleet.cluster(), WATCH, "Watch", request);
        if self.stream.is_none() { self.closed() } else { Vec::new() }
    }
}
