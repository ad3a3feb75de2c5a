//! A pushed `initial` that rules hold back: tried until it is brought about, or given up.

use std::time::Duration;

use bluegreen_core::change::request::Wish;
use bluegreen_core::config::Config;
use bluegreen_core::controllers;
use bluegreen_core::deployment::DeploymentIndex;
use bluegreen_core::model::author::Source;
use bluegreen_core::model::time::Timestamp;
use bluegreen_core::store::key::Duty;
use bluegreen_core::store::lease::lease_key;

use crate::plugin::Plugin;
use crate::shared_data::SharedData;
use crate::wishes::Wishes;

/// The deployments whose `initial` had to wait when this instance was configured. One of the instances tries.
#[derive(Default)]
pub struct Pushes {
    held: Vec<DeploymentIndex>,
    enforce: bool,
    lease: String,
    due: Timestamp,
}

/// How long after a refusal it is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

// === impl Pushes ===

impl Pushes {
    /// Of a configuration that has just been loaded.
    pub fn new(config: &Config, plugin: &Plugin) -> Self {
        let enforce = config.config_push.enforce;
        Self {
            held: plugin.held.clone(),
            enforce,
            lease: lease_key(config, Duty::Ask(Source::Config)),
            due: Timestamp::default(),
        }
    }

    /// Tries what is due.
    pub fn tick(&mut self, plugin: &Plugin, wishes: &mut Wishes, now: Timestamp) {
        if self.held.is_empty() || self.due > now {
            return;
        }
        self.due = now.plus(AGAIN_AFTER);
        let leads = plugin.member.leads(&SharedData, &self.lease, now);
        self.held.retain(|index| {
            let route = plugin.router.get(*index);
            let wish = route.and_then(|route| controllers::pushed(&SharedData, *index, route));
            let wish = wish.map(|wish| Wish { enforce: self.enforce, ..wish });
            let is_held = wish.is_some();
            if let (Some(wish), true) = (wish, leads) {
                wishes.fulfil(plugin, wish);
            }
            is_held
        });
    }
}
