//! The leader's probes: both colours of each deployment, in turn, and what is known of them.

use bluegreen_core::deployment::DeploymentIndex;
use bluegreen_core::host::Reply;
use bluegreen_core::model::colour::Colour;
use bluegreen_core::model::time::Timestamp;
use bluegreen_core::readiness::probe;

use crate::host::{self, CallId};
use crate::plugin::Plugin;
use crate::shared_data::SharedData;

/// The probes under way, and when the next ones are due. Empty on an instance that does not lead.
#[derive(Default)]
pub struct Probing {
    due: Vec<(DeploymentIndex, Timestamp)>,
    under_way: Vec<(CallId, DeploymentIndex, Colour)>,
}

// === impl Probing ===

impl Probing {
    /// Sends the probes that are due.
    pub fn tick(&mut self, plugin: &Plugin, now: Timestamp) {
        for (index, route) in plugin.router.all().iter().enumerate() {
            let Some(probe) = &route.readiness.probe else { continue };
            match self.due.iter_mut().find(|(known, _)| *known == index) {
                Some((_, due)) if *due > now => continue,
                Some((_, due)) => *due = now.plus(probe.interval),
                None => self.due.push((index, now.plus(probe.interval))),
            }
            for colour in Colour::ALL {
                self.send(plugin, index, colour);
            }
        }
    }

    fn send(&mut self, plugin: &Plugin, index: DeploymentIndex, colour: Colour) {
        let Some(route) = plugin.router.get(index) else { return };
        let Some(probe) = &route.readiness.probe else { return };
        match host::send(&probe.request(&route.name, &route.colours.get(colour).cluster)) {
            Ok(call) => self.under_way.push((call, index, colour)),
            Err(reply) => record(plugin, index, colour, &reply),
        }
    }

    /// Takes what one of the probes found.
    pub fn on_reply(&mut self, plugin: &Plugin, call: CallId, reply: &Reply) {
        if let Some(place) = self.under_way.iter().position(|(known, ..)| *known == call) {
            let (_, index, colour) = self.under_way.swap_remove(place);
            record(plugin, index, colour, reply);
        }
    }
}

fn record(plugin: &Plugin, index: DeploymentIndex, colour: Colour, reply: &Reply) {
    let Some(route) = plugin.router.get(index) else { return };
    if let Some(probe) = &route.readiness.probe {
        let now = Timestamp::from(host::now());
        probe::record(&SharedData, &route.name, colour, probe, probe.judge(reply), now);
    }
}
