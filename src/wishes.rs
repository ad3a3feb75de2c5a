//! The leader's writes on behalf of sources: each goes the way of an operator's call, from the root context.

use bluegreen_core::admin::{Answer, Asking, Committing, Step, Writing};
use bluegreen_core::author::Source;
use bluegreen_core::etcd;
use bluegreen_core::matching::DeploymentIndex;
use bluegreen_core::readiness::outgoing::Reply;
use bluegreen_core::source;
use bluegreen_core::time::Timestamp;
use bluegreen_core::wish::{Outcome, Wish};

use crate::grpc::{self, GrpcCallId};
use crate::host::{self, CallId};
use crate::plugin::Plugin;
use crate::shared_data::SharedData;

/// The wishes that wait for a reply.
#[derive(Default)]
pub struct Wishes {
    under_way: Vec<(Wish, Awaited)>,
}

/// What a wish waits for.
enum Awaited {
    /// A colour's reply.
    Colour(CallId, Box<Asking>),
    /// Etcd's.
    Etcd(GrpcCallId, Box<Committing>),
}

// === impl Wishes ===

impl Wishes {
    /// Carries a wish out, or asks what has to be asked first. One that is under way already goes on; another one of the
    /// same source about the same deployment is given up for this, the later one.
    pub fn fulfil(&mut self, plugin: &Plugin, wish: Wish) {
        if self.under_way.iter().any(|(other, _)| *other == wish) {
            return;
        }
        self.under_way.retain(|(other, _)| !wish.supersedes(other));
        let step = Writing::of(&wish).attempt(&plugin.router, plugin, Timestamp::from(host::now()));
        self.go_on(plugin, wish, step);
    }

    /// Goes on with the wish that waited for this reply. Whether one did.
    pub fn on_reply(&mut self, plugin: &Plugin, call: CallId, reply: &Reply) -> bool {
        let waits = |awaited: &Awaited| matches!(awaited, Awaited::Colour(known, _) if *known == call);
        let Some((wish, Awaited::Colour(_, asking))) = self.take(waits) else { return false };
        let step = asking.resume(reply, &plugin.router, plugin, Timestamp::from(host::now()));
        self.go_on(plugin, wish, step);
        true
    }

    /// The same for a reply of etcd.
    pub fn on_commit(&mut self, plugin: &Plugin, call: GrpcCallId, reply: &etcd::Reply) -> bool {
        let waits = |awaited: &Awaited| matches!(awaited, Awaited::Etcd(known, _) if *known == call);
        let Some((wish, Awaited::Etcd(_, committing))) = self.take(waits) else { return false };
        let step = committing.resume(reply, &plugin.router, plugin, Timestamp::from(host::now()));
        self.go_on(plugin, wish, step);
        true
    }

    /// Whether a wish of this source about a deployment is under way.
    pub fn has(&self, deployment: DeploymentIndex, source: Source) -> bool {
        self.under_way.iter().any(|(wish, _)| (wish.deployment, wish.source()) == (deployment, source))
    }

    fn take(&mut self, waits: impl Fn(&Awaited) -> bool) -> Option<(Wish, Awaited)> {
        let place = self.under_way.iter().position(|(_, awaited)| waits(awaited))?;
        Some(self.under_way.swap_remove(place))
    }

    fn go_on(&mut self, plugin: &Plugin, wish: Wish, mut step: Step) {
        loop {
            step = match step {
                Step::Done(answer) => return settle(plugin, &wish, &answer),
                Step::Ask(asking) => match host::send(&asking.request) {
                    Ok(call) => return self.under_way.push((wish, Awaited::Colour(call, asking))),
                    Err(reply) => asking.resume(&reply, &plugin.router, plugin, Timestamp::from(host::now())),
                },
                Step::Commit(committing) => match grpc::call(&committing.call) {
                    Ok(call) => return self.under_way.push((wish, Awaited::Etcd(call, committing))),
                    Err(reply) => committing.resume(&reply, &plugin.router, plugin, Timestamp::from(host::now())),
                },
                // A write waits for replies only.
                Step::Wait(_) => return,
            };
        }
    }
}

/// Makes the write known, and keeps why there was none.
fn settle(plugin: &Plugin, wish: &Wish, answer: &Answer) {
    if let Some((deployment, applied)) = &answer.written {
        plugin.publish(*deployment, applied);
    }
    let Some(route) = plugin.router.routes().get(wish.deployment) else { return };
    let outcome = answer.outcome();
    let is_news = source::settle(&SharedData, &route.name, wish.source(), &outcome, Timestamp::from(host::now()));
    if let (true, Outcome::Refused(why)) = (is_news, outcome) {
        log::warn!("bluegreen: deployment={} source={}: refused: {why}", route.name, wish.source().as_str());
    }
}
