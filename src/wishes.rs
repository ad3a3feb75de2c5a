//! The leader's writes on behalf of sources: each goes the way of an operator's call, from the root context.

use bluegreen_core::admin::{Answer, Asking, Step, Writing};
use bluegreen_core::readiness::outgoing::Reply;
use bluegreen_core::source;
use bluegreen_core::time::Timestamp;
use bluegreen_core::wish::{Outcome, Wish};

use crate::host::{self, CallId};
use crate::plugin::Plugin;
use crate::shared_data::SharedData;

/// The wishes that wait for a colour's reply.
#[derive(Default)]
pub struct Wishes {
    under_way: Vec<(CallId, Wish, Box<Asking>)>,
}

// === impl Wishes ===

impl Wishes {
    /// Carries a wish out, or asks what has to be asked first. One that is under way already goes on; another one of the
    /// same source about the same deployment is given up for this, the later one.
    pub fn fulfil(&mut self, plugin: &Plugin, wish: Wish) {
        if self.under_way.iter().any(|(_, other, _)| *other == wish) {
            return;
        }
        self.under_way.retain(|(_, other, _)| !wish.supersedes(other));
        let step = Writing::of(&wish).attempt(&plugin.router, plugin, Timestamp::from(host::now()));
        self.go_on(plugin, wish, step);
    }

    /// Goes on with the wish that waited for this reply. Whether one did.
    pub fn on_reply(&mut self, plugin: &Plugin, call: CallId, reply: &Reply) -> bool {
        let Some(place) = self.under_way.iter().position(|(awaited, ..)| *awaited == call) else { return false };
        let (_, wish, asking) = self.under_way.swap_remove(place);
        let step = asking.resume(reply, &plugin.router, plugin, Timestamp::from(host::now()));
        self.go_on(plugin, wish, step);
        true
    }

    fn go_on(&mut self, plugin: &Plugin, wish: Wish, mut step: Step) {
        loop {
            step = match step {
                Step::Done(answer) => return settle(plugin, &wish, &answer),
                Step::Ask(asking) => match host::send(&asking.request) {
                    Ok(call) => return self.under_way.push((call, wish, asking)),
                    Err(reply) => asking.resume(&reply, &plugin.router, plugin, Timestamp::from(host::now())),
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
    let outcome = Outcome::of(answer);
    let is_news = source::settle(&SharedData, &route.name, wish.source(), &outcome, Timestamp::from(host::now()));
    if let (true, Outcome::Refused(why)) = (is_news, outcome) {
        log::warn!("bluegreen: deployment={} source={}: refused: {why}", route.name, wish.source().as_str());
    }
}
