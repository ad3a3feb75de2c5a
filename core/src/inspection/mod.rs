//! What looks for mistakes around the filter: in the configuration and in the requests that come.
//!
//! Each file knows one kind of [`SetupProblem`](crate::setup::SetupProblem). What can be found out without a request, the
//! instance that leads finds out once for a configuration; the rest is seen at requests, few of which are looked at.

pub mod earlier;

pub mod clusters;
pub mod seeding;
pub mod stats;
pub mod tokens;
pub mod unmatched;

use std::ops::Range;
use std::rc::Rc;

use self::clusters::Clusters;
use crate::change::context::Context;
use crate::config::Config;
use crate::deployment::DeploymentIndex;
use crate::host::next_tick;
use crate::setup::SetupProblem;

/// What one instance finds out for all, without a request.
pub struct Inspection {
    clusters: Clusters,
    /// The deployments that were not looked at yet.
    unseen: Range<DeploymentIndex>,
}

/// So many deployments are looked at for the first time at one tick.
const LOOKS_PER_TICK: usize = 64;

/// Begins what each instance looks at in its own configuration.
pub fn begin(context: &Rc<Context>, config: &Config) {
    if let Some(access) = &config.admin {
        let (cx, access) = (Rc::clone(context), access.clone());
        context.host.spawn(Box::pin(async move {
            next_tick(&*cx.host).await;
            tokens::configured(&cx, &access);
        }));
    }
}

// === impl Inspection ===

impl Inspection {
    /// Of a configuration that has just been loaded.
    pub fn of(config: &Config) -> Self {
        Self { clusters: Clusters::of(config), unseen: 0..config.deployments.len() }
    }

    /// Looks, at a tick at which this instance leads.
    pub fn look(&mut self, context: &Context) {
        let begin = self.unseen.start;
        self.unseen.start = begin.saturating_add(LOOKS_PER_TICK).min(self.unseen.end);
        let new = context.deployments.all().get(begin..self.unseen.start).unwrap_or_default();
        earlier::forget(context, new, SetupProblem::UnmatchedRequests);
        stats::look(context, new);
        self.clusters.look(context, begin..self.unseen.start);
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::time::Duration;

    use super::*;
    use crate::setup::{self, noted};
    use crate::testing::host::TestHost;
    use crate::testing::{config_of, context_of, iris};

    #[test]
    fn another_configuration_begins_with_a_clean_slate() {
        let (host, context) = context_of("");
        let problem = SetupProblem::UnmatchedRequests;
        let is_noted = || noted(&host.store, &iris()).contains_key(&problem);
        setup::note(&*host, &context.deployments.all()[0], problem, "x".to_owned());
        Inspection::of(&config_of("")).look(&context);
        assert!(is_noted());
        host.pass(Duration::from_secs(2));
        let later = Context::new(Rc::<TestHost>::clone(&host), &config_of(""), None);
        Inspection::of(&config_of("")).look(&later);
        assert!(!is_noted());
    }
}
