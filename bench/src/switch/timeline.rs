//! What the requests say about a series of changes: which still got the old colour after a change was through.

use std::time::{Duration, Instant};

use bluegreen_testbed::load::Record;
use serde::Serialize;

/// One change of the active colour.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub to: &'static str,
    /// Just before the command was given.
    pub called: Instant,
    /// When the command was answered.
    pub answered: Instant,
}

/// What became of all changes of one series.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Findings {
    pub changes: usize,
    pub requests: usize,
    pub failed: usize,
    /// Requests that began after an answer and were over before the next command: only one colour is right for them.
    pub judged: usize,
    /// Those of them that got the old colour.
    pub old_after_answer: usize,
    /// For each change, how long after the answer the last request began that got the old colour; 0 if none did.
    pub stale_ms: Vec<f64>,
    /// For each change, how long after the command was given the last request began that got the old colour.
    pub in_force_ms: Vec<f64>,
    /// How long each command took to be answered.
    pub call_ms: Vec<f64>,
    /// How long requests took that ended within [`NEARBY`] before a command.
    pub before_ms: Vec<f64>,
    /// How long requests took that were under way within [`NEARBY`] after a command.
    pub during_ms: Vec<f64>,
}

/// What a command does to the requests around it is over by then.
pub const NEARBY: Duration = Duration::from_millis(100);

/// The colour that a record's answer came from; by the upstream's own word, which all methods have.
pub fn colour(record: &Record) -> Option<&str> {
    record.outcome.as_ref().ok()?.body_colour.as_deref()
}

/// Judges all records against the changes, which are in the order of time.
pub fn judge(records: &[Record], changes: &[Change]) -> Findings {
    let mut sorted: Vec<&Record> = records.iter().collect();
    sorted.sort_by_key(|record| record.began);
    let mut findings = Findings {
        changes: changes.len(),
        requests: records.len(),
        failed: records.iter().filter(|record| !record.succeeded()).count(),
        ..Findings::default()
    };
    for (index, change) in changes.iter().enumerate() {
        let next = changes.get(index + 1).map(|next| next.called);
        let first = sorted.partition_point(|record| record.began < change.called);
        let during = sorted[first..].iter().take_while(|record| next.is_none_or(|next| record.began < next));
        // A request that was under way when the next command came may rightly have either colour.
        let sure = during.filter(|record| record.succeeded() && next.is_none_or(|next| record.ended <= next));
        let (mut stale, mut in_force) = (Duration::ZERO, Duration::ZERO);
        for record in sure {
            let old = colour(record) != Some(change.to);
            let after_answer = record.began > change.answered;
            findings.judged += usize::from(after_answer);
            if old {
                in_force = in_force.max(record.began - change.called);
            }
            if old && after_answer {
                findings.old_after_answer += 1;
                stale = stale.max(record.began - change.answered);
            }
        }
        for record in records {
            let took = milliseconds(record.ended - record.began);
            if record.ended <= change.called && change.called - record.ended <= NEARBY {
                findings.before_ms.push(took);
            } else if record.ended > change.called && record.began < change.called + NEARBY {
                findings.during_ms.push(took);
            }
        }
        findings.stale_ms.push(milliseconds(stale));
        findings.in_force_ms.push(milliseconds(in_force));
        findings.call_ms.push(milliseconds(change.answered - change.called));
    }
    findings
}

pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

// === tests ===

#[cfg(test)]
mod tests {
    use bluegreen_testbed::load::Answer;

    use super::*;

    fn at(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    fn record(start: Instant, began: u64, ended: u64, colour: &str) -> Record {
        let answer = Answer { status: 200, colour: None, body_colour: Some(colour.to_owned()) };
        Record { began: at(start, began), ended: at(start, ended), outcome: Ok(answer) }
    }

    fn changes(start: Instant) -> [Change; 2] {
        [
            Change { to: "green", called: at(start, 10), answered: at(start, 12) },
            Change { to: "blue", called: at(start, 50), answered: at(start, 52) },
        ]
    }

    #[test]
    fn only_requests_begun_after_the_answer_must_have_the_new_colour() {
        let start = Instant::now();
        let records = [
            record(start, 5, 11, "blue"),
            record(start, 11, 15, "blue"),
            record(start, 13, 16, "green"),
            record(start, 20, 22, "blue"),
            record(start, 60, 61, "blue"),
        ];
        let findings = judge(&records, &changes(start));
        assert_eq!((findings.judged, findings.old_after_answer, findings.failed), (3, 1, 0));
        assert_eq!(findings.stale_ms, [8.0, 0.0]);
        assert_eq!(findings.in_force_ms, [10.0, 0.0]);
        assert_eq!(findings.call_ms, [2.0, 2.0]);
    }

    #[test]
    fn requests_around_a_command_are_before_it_or_beside_it() {
        let start = Instant::now();
        let of = |records: &[Record]| {
            let change = Change { to: "green", called: at(start, 200), answered: at(start, 202) };
            let findings = judge(records, &[change]);
            (findings.before_ms, findings.during_ms)
        };
        assert_eq!(of(&[record(start, 50, 99, "blue"), record(start, 301, 302, "green")]), (vec![], vec![]));
        assert_eq!(of(&[record(start, 90, 110, "blue")]), (vec![20.0], vec![]));
        assert_eq!(of(&[record(start, 199, 203, "blue"), record(start, 290, 291, "green")]), (vec![], vec![4.0, 1.0]));
    }

    #[test]
    fn a_request_that_spans_the_next_command_is_not_judged() {
        let start = Instant::now();
        let findings = judge(&[record(start, 45, 53, "blue")], &changes(start));
        assert_eq!((findings.judged, findings.old_after_answer), (0, 0));
    }

    #[test]
    fn a_failed_request_counts_as_failed_and_as_nothing_else() {
        let start = Instant::now();
        let failed = Record { began: at(start, 20), ended: at(start, 21), outcome: Err("reset".to_owned()) };
        let findings = judge(&[failed], &changes(start));
        assert_eq!((findings.failed, findings.judged, findings.old_after_answer), (1, 0, 0));
    }
}
