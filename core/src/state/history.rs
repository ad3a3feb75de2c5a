//! Who changed what, when and why: the last changes of a deployment.

use std::collections::VecDeque;
use std::fmt;

use serde::Serialize;

use crate::json::FromJson;
use crate::model::author::{Author, Source};
use crate::model::colour::Colour;
use crate::model::identity::Identity;
use crate::model::split::{Revision, Split};
use crate::model::time::Timestamp;
use crate::state::kept::Kept;
use crate::state::rollout::Phase;

/// One change of a deployment's split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromJson)]
pub struct Change {
    /// The revision that the change made.
    pub revision: Revision,
    /// When.
    pub at: Timestamp,
    /// Who and why.
    #[serde(flatten)]
    pub author: Author,
    /// The split before.
    pub from: Split,
    /// The split since.
    pub to: Split,
    /// The phase that the change brought a rollout into, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Phase>,
    /// The canary share since is what the former colour keeps, until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
    /// What was put behind a colour, if something was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Replacement>,
}

/// Something else behind a colour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromJson)]
pub struct Replacement {
    /// The colour.
    pub colour: Colour,
    /// What was behind it.
    pub from: Identity,
    /// What is since.
    pub to: Identity,
}

/// The newest changes, newest first, at most [`History::LIMIT`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, FromJson)]
#[serde(transparent)]
pub struct History(VecDeque<Change>);

// === impl Change ===

impl Change {
    /// The change as one log line says it, for the deployment named `deployment`.
    pub fn log_line<'a>(&'a self, deployment: &'a str) -> impl fmt::Display + 'a {
        LogLine { change: self, deployment }
    }
}

struct LogLine<'a> {
    change: &'a Change,
    deployment: &'a str,
}

impl fmt::Display for LogLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Change { revision, author, from, to, rollout, kept, replaced, .. } = self.change;
        write!(
            f,
            "state changed deployment={} revision={revision} active={}->{} canary_percent={}->{} shadow_percent={}->{} \
             by={} source={}{}{}{}{}{} reason={:?}",
            self.deployment,
            from.active,
            to.active,
            from.canary_percent,
            to.canary_percent,
            from.shadow_percent,
            to.shadow_percent,
            author.by,
            author.source.as_str(),
            if author.forced { " forced" } else { "" },
            if rollout.is_some() { " rollout=" } else { "" },
            rollout.map_or("", Phase::as_str),
            kept.map_or_else(String::new, |kept| format!(" kept_until={}", kept.until)),
            replaced.as_ref().map_or_else(String::new, |Replacement { colour, from, to }| {
                let (from, to) = ((&from.version, &from.cluster), (&to.version, &to.cluster));
                format!(
                    " {colour}.version={}->{} {colour}.cluster={}->{}",
                    from.0.as_str(),
                    to.0.as_str(),
                    from.1.as_str(),
                    to.1.as_str()
                )
            }),
            author.reason.as_str(),
        )
    }
}

// === impl History ===

impl History {
    /// How many changes are kept.
    pub const LIMIT: usize = 50;

    /// Adds the newest change and forgets the oldest beyond the limit.
    pub fn record(&mut self, change: Change) {
        self.0.push_front(change);
        self.0.truncate(Self::LIMIT);
    }

    /// The changes, newest first.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.0.iter().take(Self::LIMIT)
    }

    /// Whether a change put this behind a colour or took it away from there.
    pub fn knows(&self, colour: Colour, identity: &Identity) -> bool {
        let replaced = self.0.iter().filter_map(|change| change.replaced.as_ref());
        replaced
            .filter(|replaced| replaced.colour == colour)
            .any(|Replacement { from, to, .. }| [from, to].contains(&identity))
    }

    /// When something else was last put behind a colour.
    pub fn last_replaced_at(&self) -> Option<Timestamp> {
        self.0.iter().find(|change| change.replaced.is_some()).map(|change| change.at)
    }

    /// Whether the newest change was made because something is wrong with what served: by the guard, or as requests or
    /// probes failed. The end of what a promotion left with the former colour is by the guard, and planned.
    pub fn was_forced_by_failure(&self) -> bool {
        let mut changes = self.changes();
        let Some(newest) = changes.next() else { return false };
        match newest.author.source {
            Source::Failover => true,
            Source::Guard => {
                let sets_traffic = |change: &&Change| {
                    let (from, to) = (change.from, change.to);
                    from.active != to.active || from.canary_percent != to.canary_percent
                };
                let ends_kept = newest.from.active == newest.to.active
                    && newest.from.canary_percent != newest.to.canary_percent
                    && changes.find(sets_traffic).is_some_and(|change| change.kept.is_some());
                !ends_kept
            }
            _ => false,
        }
    }

    /// The newest change.
    pub fn newest(&self) -> Option<&Change> {
        self.0.front()
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::name::Reason;
    use crate::testing::split;

    /// A change by a source of a split; `keeps` says that the share since is what the former colour keeps.
    fn change(source: Source, from: Split, to: Split, keeps: bool) -> Change {
        let author = Author::automatic(source, Reason::none());
        let kept = keeps.then_some(Kept { until: Timestamp::default() });
        let (revision, at) = (Revision::ZERO, Timestamp::default());
        Change { revision, at, author, from, to, rollout: None, kept, replaced: None }
    }

    #[test]
    fn what_a_failure_forced_is_told_from_what_was_planned() {
        let (blue, canary) = (split("blue", "0", "0"), split("blue", "10", "0"));
        let (green, kept, shadowed) = (split("green", "0", "0"), split("green", "2", "0"), split("green", "2", "5"));
        let promoted = change(Source::Rollout, canary, kept, true);
        let cases = [
            (vec![], false),
            (vec![change(Source::Admin, blue, green, false)], false),
            (vec![change(Source::Rollout, blue, canary, false)], false),
            (vec![change(Source::Mlflow, blue, green, false)], false),
            (vec![change(Source::Failover, green, blue, false)], true),
            (vec![change(Source::Admin, blue, canary, false), change(Source::Guard, canary, blue, false)], true),
            // Where it is only stopped, the split stays.
            (vec![promoted.clone(), change(Source::Guard, kept, kept, false)], true),
            (vec![promoted.clone(), change(Source::Guard, kept, blue, false)], true),
            (vec![promoted.clone(), change(Source::Guard, kept, green, false)], false),
            (
                vec![
                    promoted.clone(),
                    change(Source::Admin, kept, shadowed, false),
                    change(Source::Guard, shadowed, split("green", "0", "5"), false),
                ],
                false,
            ),
            // An operator gave the former colour a share of its own.
            (
                vec![
                    promoted,
                    change(Source::Admin, kept, split("green", "20", "0"), false),
                    change(Source::Guard, split("green", "20", "0"), green, false),
                ],
                true,
            ),
        ];
        for (changes, expected) in cases {
            let mut history = History::default();
            changes.iter().for_each(|change| history.record(change.clone()));
            assert_eq!(history.was_forced_by_failure(), expected, "{changes:#?}");
        }
    }
}
