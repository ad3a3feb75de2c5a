//! The leader's writes on behalf of sources: each goes the way of an operator's call, from the root context.

use bluegreen_core::admin::{Answer, Writing};
use bluegreen_core::change::request::{Outcome, Wish};
use bluegreen_core::deployment::DeploymentIndex;
use bluegreen_core::model::author::Source;
use bluegreen_core::model::time::Timestamp;
use bluegreen_core::store::source_status;

use crate::awaiting::{self, Awaited, Came, Stop};
use crate::host;
use crate::plugin::Plugin;
use crate::shared_data::SharedData;

/// The wishes that wait for a reply.
#[derive(Default)]
pub struct Wishes {
    under_way: Vec<(Wish, Awaited)>,
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
        self.note(plugin, wish, awaiting::go_on(plugin, step));
    }

    /// Goes on with the wish that waited for this reply. Whether one did.
    pub fn on_reply(&mut self, plugin: &Plugin, came: Came<'_>) -> bool {
        let Some(place) = self.under_way.iter().position(|(_, awaited)| awaited.is(came)) else { return false };
        let (wish, awaited) = self.under_way.swap_remove(place);
        if let Ok(stop) = awaited.resume(plugin, came) {
            self.note(plugin, wish, stop);
        }
        true
    }

    /// Whether a wish of this source about a deployment is under way.
    pub fn has(&self, deployment: DeploymentIndex, source: Source) -> bool {
        self.under_way.iter().any(|(wish, _)| (wish.deployment, wish.source()) == (deployment, source))
    }

    fn note(&mut self, plugin: &Plugin, wish: Wish, mut stop: Stop) {
        loop {
            stop = match stop {
                Stop::Done(answer) => return settle(plugin, &wish, &answer),
                Stop::Awaits(awaited) => return self.under_way.push((wish, awaited)),
                // The leader's wishes are few: they are no crowd.
                Stop::Queues(write) => awaiting::go_on(plugin, write.take_turn(Timestamp::from(host::now()))),
                // A write waits for replies and turns only.
                Stop::Drains(_) => return,
            };
        }
    }
}

/// Makes the write known, and keeps why there was none.
fn settle(plugin: &Plugin, wish: &Wish, answer: &Answer) {
    if let Some((deployment, applied)) = &answer.written {
        plugin.publish(*deployment, applied);
    }
    let Some(route) = plugin.router.get(wish.deployment) else { return };
    let outcome = answer.outcome();
    let is_news =
        source_status::settle(&SharedData, &route.name, wish.source(), &outcome, Timestamp::from(host::now()));
    if let (true, Outcome::Refused(why)) = (is_news, outcome) {
        log::warn!("bluegreen: deployment={} source={}: refused: {why}", route.name, wish.source().as_str());
    }
}
