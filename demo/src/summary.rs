//! The table at the end: what was sent, what failed, and what each switch took.

use std::time::Duration;

use anyhow::{Result, ensure};
use bluegreen_testbed::load::Report;
use comfy_table::{CellAlignment, Table, presets};

use crate::traffic::{Share, Switch, failures};

/// The result of the whole demo.
pub struct Summary {
    total: Share,
    failed: usize,
    reasons: String,
    switches: Vec<Effect>,
}

/// What one switch did.
struct Effect {
    name: String,
    old: &'static str,
    took: Duration,
    after: usize,
    stale: usize,
}

// === impl Summary ===

impl Summary {
    pub fn of(report: &Report, switches: &[Switch]) -> Self {
        let effect = |(index, switch): (usize, &Switch)| {
            // A request that ended after the next switch was called may rightly have used the next state.
            let until = switches.get(index + 1).map(|next| next.called);
            let after = report.records.iter().filter(|record| record.began > switch.answered);
            let after: Vec<_> = after.filter(|record| until.is_none_or(|until| record.ended < until)).collect();
            let stale = after.iter().filter(|record| record.colour() == Some(switch.old)).count();
            let took = switch.answered - switch.called;
            Effect { name: switch.name.clone(), old: switch.old, took, after: after.len(), stale }
        };
        Self {
            total: Share::of(report),
            failed: report.failures().len(),
            reasons: failures(report),
            switches: switches.iter().enumerate().map(effect).collect(),
        }
    }

    pub fn tables(&self) -> String {
        let mut requests = table(&["live traffic", "sent", "failed", "blue", "green"]);
        let Share { sent, blue, green } = self.total;
        requests.add_row([
            "requests".to_owned(),
            sent.to_string(),
            self.failed.to_string(),
            blue.to_string(),
            green.to_string(),
        ]);
        let mut switches =
            table(&["switch", "call to answer", "requests begun after the answer", "of them to the old colour"]);
        for Effect { name, old, took, after, stale } in &self.switches {
            let took = format!("{:.1} ms", took.as_secs_f64() * 1000.0);
            switches.add_row([name.clone(), took, after.to_string(), format!("{stale} ({old})")]);
        }
        format!("{requests}\n\n{switches}")
    }

    /// Fails unless every request was answered well and no switch was followed by a request to the old colour.
    pub fn ensure_flawless(&self) -> Result<()> {
        let Share { sent, blue, green } = self.total;
        ensure!(sent > 0, "expected traffic, but not one request was sent");
        ensure!(self.failed == 0, "expected 0 failed requests, got {} of {sent}: {}", self.failed, self.reasons);
        ensure!(
            blue + green == sent,
            "expected a colour for each of {sent} requests, got {blue} blue and {green} green"
        );
        for Effect { name, old, after, stale, .. } in &self.switches {
            ensure!(*after > 0, "expected requests after the switch {name:?}, got none");
            ensure!(
                *stale == 0,
                "expected no {old} request begun after the answer to {name:?}, got {stale} of {after}"
            );
        }
        Ok(())
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

// === tests ===

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use bluegreen_testbed::load::{Answer, Record};

    use super::*;

    struct Clock(Instant);

    impl Clock {
        fn at(&self, millis: u64) -> Instant {
            self.0 + Duration::from_millis(millis)
        }

        fn request(&self, began: u64, ended: u64, colour: &str) -> Record {
            let answer = Answer { status: 200, colour: Some(colour.to_owned()), body_colour: None };
            Record { began: self.at(began), ended: self.at(ended), outcome: Ok(answer) }
        }

        fn switch(&self, name: &str, old: &'static str, called: u64, answered: u64) -> Switch {
            Switch { name: name.to_owned(), old, called: self.at(called), answered: self.at(answered) }
        }
    }

    fn summary(requests: impl Fn(&Clock) -> Vec<Record>) -> Summary {
        let clock = Clock(Instant::now());
        let switches = [clock.switch("promote", "blue", 100, 110), clock.switch("rollback", "green", 200, 210)];
        Summary::of(&Report { records: requests(&clock) }, &switches)
    }

    #[test]
    fn requests_around_a_switch_may_still_go_to_the_old_colour() {
        let summary = summary(|clock| {
            vec![
                clock.request(90, 120, "blue"),
                clock.request(105, 115, "blue"),
                clock.request(120, 130, "green"),
                // It ended after the rollback was called, which may have decided it.
                clock.request(190, 205, "blue"),
                clock.request(220, 230, "blue"),
            ]
        });
        summary.ensure_flawless().unwrap();
        assert!(summary.tables().contains("10.0 ms"), "{}", summary.tables());
    }

    #[test]
    fn a_request_begun_after_the_answer_that_went_to_the_old_colour_is_a_failure() {
        let summary = summary(|clock| vec![clock.request(111, 112, "blue"), clock.request(220, 230, "blue")]);
        let message = summary.ensure_flawless().unwrap_err().to_string();
        assert!(message.contains("\"promote\", got 1 of 1"), "{message}");
    }

    #[test]
    fn a_switch_that_no_request_followed_shows_nothing() {
        let message = summary(|clock| vec![clock.request(220, 230, "blue")]).ensure_flawless().unwrap_err().to_string();
        assert!(message.contains("after the switch \"promote\""), "{message}");
    }

    #[test]
    fn a_failed_request_is_told_with_its_reason() {
        let summary = summary(|clock| {
            let failed = Record { outcome: Err("connection refused".to_owned()), ..clock.request(0, 1, "blue") };
            vec![failed, clock.request(120, 130, "green")]
        });
        let message = summary.ensure_flawless().unwrap_err().to_string();
        assert_eq!(message, "expected 0 failed requests, got 1 of 2: connection refused");
    }
}
