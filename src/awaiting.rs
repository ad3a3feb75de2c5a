//! How far an admin call or a wish gets by itself, and which reply it waits for then.

use bluegreen_core::admin::{Answer, Asking, Committing, Drain, Step};
use bluegreen_core::etcd;
use bluegreen_core::host as outgoing;
use bluegreen_core::model::time::Timestamp;

use crate::grpc::{self, GrpcCallId};
use crate::host::{self, CallId};
use crate::plugin::Plugin;

/// A reply that is waited for. It comes to the context in whose event it was asked for.
pub enum Awaited {
    /// A colour's.
    Colour(CallId, Box<Asking>),
    /// Etcd's.
    Etcd(GrpcCallId, Box<Committing>),
}

/// A reply that has come.
#[derive(Clone, Copy)]
pub enum Came<'r> {
    /// A colour's.
    Colour(CallId, &'r outgoing::Reply),
    /// Etcd's.
    Etcd(GrpcCallId, &'r etcd::Reply),
}

/// Where it stopped.
pub enum Stop {
    /// At its end.
    Done(Box<Answer>),
    /// At a reply.
    Awaits(Awaited),
    /// At a colour that is not drained.
    Drains(Drain),
    /// At a crowd of other writes.
    Queues(Box<Committing>),
}

/// Takes step after step, until one has to be waited for.
pub fn go_on(plugin: &Plugin, mut step: Step) -> Stop {
    loop {
        step = match step {
            Step::Done(answer) => return Stop::Done(answer),
            Step::Wait(drain) => return Stop::Drains(drain),
            Step::Queue(committing) => return Stop::Queues(committing),
            Step::Ask(asking) => match host::send(&asking.request) {
                Ok(call) => return Stop::Awaits(Awaited::Colour(call, asking)),
                Err(reply) => asking.resume(&reply, &plugin.router, plugin, now()),
            },
            Step::Commit(committing) => match grpc::call(&committing.call) {
                Ok(call) => return Stop::Awaits(Awaited::Etcd(call, committing)),
                Err(reply) => committing.resume(&reply, &plugin.router, plugin, now()),
            },
        };
    }
}

fn now() -> Timestamp {
    Timestamp::from(host::now())
}

// === impl Awaited ===

impl Awaited {
    /// Whether this is the reply.
    pub fn is(&self, came: Came<'_>) -> bool {
        match (self, came) {
            (Self::Colour(awaited, _), Came::Colour(call, _)) => *awaited == call,
            (Self::Etcd(awaited, _), Came::Etcd(call, _)) => *awaited == call,
            _ => false,
        }
    }

    /// Goes on with the reply.
    ///
    /// # Errors
    /// It is another one.
    pub fn resume(self, plugin: &Plugin, came: Came<'_>) -> Result<Stop, Self> {
        let step = match (self, came) {
            (Self::Colour(awaited, asking), Came::Colour(call, reply)) if awaited == call => {
                asking.resume(reply, &plugin.router, plugin, now())
            }
            (Self::Etcd(awaited, committing), Came::Etcd(call, reply)) if awaited == call => {
                committing.resume(reply, &plugin.router, plugin, now())
            }
            (awaited, _) => return Err(awaited),
        };
        Ok(go_on(plugin, step))
    }
}
