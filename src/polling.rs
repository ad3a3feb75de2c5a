//! Asks the sources that are asked at a period, and hands what they want over to be carried out.

use std::time::Duration;

use bluegreen_core::config::Config;
use bluegreen_core::controllers::{self, Polled, Step};
use bluegreen_core::host::{Outgoing, Reply};
use bluegreen_core::model::time::Timestamp;
use bluegreen_core::store::key::Duty;
use bluegreen_core::store::lease::lease_key;

use crate::host::{self, CallId};
use crate::plugin::Plugin;
use crate::shared_data::SharedData;
use crate::wishes::Wishes;

/// The sources of a configuration. One instance asks each; the others wait for its lease to end.
#[derive(Default)]
pub struct Polling(Vec<Round>);

/// A source, and how far asking it has come.
struct Round {
    source: Box<dyn Polled>,
    lease: String,
    due: Timestamp,
    under_way: Option<CallId>,
}

/// Half of a tick: a tick comes a little early as often as a little late.
const SLACK: Duration = Duration::from_millis(125);

// === impl Polling ===

impl Polling {
    /// Of a configuration.
    pub fn new(config: &Config) -> Self {
        let round = |source: Box<dyn Polled>| {
            let lease = lease_key(config, Duty::Ask(source.source()));
            Round { source, lease, due: Timestamp::default(), under_way: None }
        };
        Self(controllers::polled(config).into_iter().map(round).collect())
    }

    /// Asks the sources that are due.
    pub fn tick(&mut self, plugin: &Plugin, wishes: &mut Wishes, now: Timestamp) {
        for round in &mut self.0 {
            if !plugin.member.leads(&SharedData, &round.lease, now) {
                continue;
            }
            if round.source.hurries(&plugin.router, &SharedData) {
                round.due = now;
            }
            if round.due <= now.plus(SLACK) && round.under_way.is_none() {
                round.due = now.plus(round.source.interval());
                let request = round.source.request();
                round.ask(plugin, wishes, request);
            }
        }
    }

    /// Goes on with the round that waited for this reply. Whether one did.
    pub fn on_reply(&mut self, plugin: &Plugin, wishes: &mut Wishes, call: CallId, reply: &Reply) -> bool {
        let Some(round) = self.0.iter_mut().find(|round| round.under_way == Some(call)) else { return false };
        round.under_way = None;
        let step = round.source.on_reply(reply, &plugin.router, &SharedData, Timestamp::from(host::now()));
        round.go_on(plugin, wishes, step);
        true
    }
}

// === impl Round ===

impl Round {
    fn ask(&mut self, plugin: &Plugin, wishes: &mut Wishes, request: Outgoing) {
        match host::send(&request) {
            Ok(call) => self.under_way = Some(call),
            Err(reply) => {
                let step = self.source.on_reply(&reply, &plugin.router, &SharedData, Timestamp::from(host::now()));
                self.go_on(plugin, wishes, step);
            }
        }
    }

    fn go_on(&mut self, plugin: &Plugin, wishes: &mut Wishes, step: Step) {
        match step {
            Step::Ask(request) => self.ask(plugin, wishes, request),
            Step::Done(findings) => {
                for line in findings.news {
                    log::warn!("bluegreen: source={}: {line}", self.source.source().as_str());
                }
                for deployment in findings.renamed {
                    plugin.refresh(deployment);
                }
                for wish in findings.wishes {
                    wishes.fulfil(plugin, wish);
                }
            }
        }
    }
}
