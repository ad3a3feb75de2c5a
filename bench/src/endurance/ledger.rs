//! What was written, by whom it was acknowledged, and whether the fleet's history tells the same.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::admin::Change;

/// What a writer was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is made, and has this revision.
    Made(u64),
    /// It is not made.
    Refused,
    /// Nothing, or that nobody knows.
    Nothing,
}

/// All writes, each with a reason of its own, and the changes that the fleet's histories have.
#[derive(Debug, Default)]
pub struct Ledger {
    told: BTreeMap<String, Told>,
    changes: BTreeMap<u64, String>,
}

// === impl Ledger ===

impl Ledger {
    /// A writer was told this about the write with this reason.
    pub fn note(&mut self, reason: String, told: Told) {
        self.told.insert(reason, told);
    }

    /// Takes in a history, newest first, and compares it with those that came before: a change has one number, for all and
    /// for ever.
    pub fn take_in(&mut self, whose: &str, history: &[Change]) -> Result<()> {
        for change in history {
            let text = format!("{} {} {}", change.at, change.source, change.reason);
            let known = self.changes.entry(change.revision).or_insert_with(|| text.clone());
            ensure!(*known == text, "revision {} is {known:?}, and {text:?} to {whose}", change.revision);
        }
        Ok(())
    }

    /// Whether no acknowledged write is lost, none is doubled, none that was refused was made, up to the revision that the
    /// fleet is at.
    pub fn judge(&self, revision: u64) -> Result<()> {
        let known = self.changes.keys().copied();
        ensure!(known.clone().eq(1..=revision), "the histories have {:?} of {revision} changes", self.changes.len());
        let mut made: BTreeMap<&str, u64> = BTreeMap::new();
        for (revision, text) in &self.changes {
            let reason = text.splitn(3, ' ').nth(2).unwrap_or_default();
            if self.told.contains_key(reason) {
                let earlier = made.insert(reason, *revision);
                ensure!(earlier.is_none(), "{reason} was made twice, as revision {earlier:?} and {revision}");
            }
        }
        for (reason, told) in &self.told {
            let place = made.get(reason.as_str()).copied();
            match told {
                Told::Made(revision) => {
                    let place = place
                        .with_context(|| format!("{reason} was acknowledged as revision {revision}, and is lost"))?;
                    ensure!(
                        place == *revision,
                        "{reason} was acknowledged as revision {revision}, and is revision {place}"
                    );
                }
                Told::Refused => ensure!(place.is_none(), "{reason} was refused, and made as revision {place:?}"),
                Told::Nothing => {}
            }
        }
        Ok(())
    }

    /// How many writes were told this.
    pub fn count(&self, is: impl Fn(&Told) -> bool) -> usize {
        self.told.values().filter(|told| is(told)).count()
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use bluegreen_testbed::admin::Split;

    use super::*;

    fn change(revision: u64, reason: &str) -> Change {
        let split = Split { active: "blue".to_owned(), canary_percent: 0.0, shadow_percent: 0.0 };
        Change {
            revision,
            at: "then".to_owned(),
            by: "alice".to_owned(),
            source: "admin".to_owned(),
            reason: reason.to_owned(),
            forced: false,
            rollout: None,
            replaced: None,
            from: split.clone(),
            to: split,
        }
    }

    fn judged(told: &[(&str, Told)], history: &[Change], revision: u64) -> Result<()> {
        let mut ledger = Ledger::default();
        for (reason, told) in told {
            ledger.note((*reason).to_owned(), *told);
        }
        ledger.take_in("Envoy 0", history)?;
        ledger.judge(revision)
    }

    #[test]
    fn a_history_of_all_that_was_acknowledged_is_fine() {
        let told = [("a", Told::Made(1)), ("b", Told::Refused), ("c", Told::Nothing), ("d", Told::Nothing)];
        let history = [change(3, "pushed"), change(2, "c"), change(1, "a")];
        assert_eq!(judged(&told, &history, 3).map_err(|error| error.to_string()), Ok(()));
    }

    #[test]
    fn what_is_lost_doubled_moved_or_made_against_a_refusal_is_found() {
        let made = [("a", Told::Made(1))];
        /// What was told, the history, and the revision.
        type Case<'c> = (&'c [(&'c str, Told)], &'c [Change], u64);
        let cases: [Case<'_>; 5] = [
            (&made, &[change(1, "b")], 1),
            (&made, &[change(2, "a"), change(1, "a")], 2),
            (&[("a", Told::Made(2))], &[change(2, "b"), change(1, "a")], 2),
            (&[("a", Told::Refused)], &[change(1, "a")], 1),
            (&made, &[change(1, "a")], 2),
        ];
        for (told, history, revision) in cases {
            assert!(judged(told, history, revision).is_err(), "{told:?} {history:?}");
        }
    }

    #[test]
    fn two_histories_that_differ_are_found() {
        let mut ledger = Ledger::default();
        assert!(ledger.take_in("Envoy 0", &[change(1, "a")]).is_ok());
        assert!(ledger.take_in("Envoy 1", &[change(1, "b")]).is_err());
    }
}
