//! What is asked before something is done: does the candidate answer as it should, and may a model server be stopped?

use std::time::Duration;

use bluegreen_core::model::colour::Colour;

use crate::api::{Call, Deployment, TestResult, of};
use crate::envoys::{Envoy, Envoys, Outcome, Output, ask, is_fleet};
use crate::style::time_of_day;

/// Runs the smoke test; fails when it does.
pub fn test(envoys: &Envoys, name: &str, colour: Option<Colour>, is_verbose: bool, output: Output) -> Outcome {
    let call = || {
        let call = Call::post(of(name, "/test")).until_tested();
        match colour {
            Some(colour) => call.with("colour", colour.as_str()),
            None => call,
        }
    };
    // The Envoys of a fleet keep one result, and would get in each other's way.
    let all: Vec<&Envoy> = match envoys.all() {
        several @ [_, _, ..] => {
            let seen = ask(several.iter(), |envoy| envoy.client.deployment(name));
            let states: Vec<_> = seen.given().map(|(_, reply)| &reply.view).collect();
            if states.len() == several.len() && is_fleet(&states) {
                several.iter().take(1).collect()
            } else {
                several.iter().collect()
            }
        }
        one => one.iter().collect(),
    };
    let answers = ask(all.into_iter(), |envoy| envoy.client.send::<TestResult>(&call()));
    if output.is_json {
        answers.print_json();
    } else {
        for (label, reply) in answers.given() {
            let place = if answers.is_single() { String::new() } else { format!("{label}: ") };
            reply.view.lines(name, is_verbose).into_iter().for_each(|(line, is_good)| {
                let line = format!("{place}{line}");
                println!("{}", if is_good { line } else { output.style.bad(&line) });
            });
        }
    }
    let outcome = answers.report_failures();
    if answers.given().all(|(_, reply)| reply.view.passed) { outcome } else { Outcome::Failed }
}

/// Waits until nothing needs a colour on any Envoy.
pub fn drain(envoys: &Envoys, name: &str, colour: Colour, timeout: &str, output: Output) -> Outcome {
    let wait = humantime::parse_duration(timeout).unwrap_or(Duration::from_secs(30));
    let answers = envoys.ask(|client| {
        let call = Call::post(of(name, "/drain")).with("colour", colour.as_str()).with("timeout", timeout);
        client.send::<Deployment>(&call.at_least(wait))
    });
    if output.is_json {
        answers.print_json();
    } else {
        let safe = answers.given().count();
        let side = answers.given().next().map(|(_, reply)| reply.view.side(colour));
        match (side, safe == answers.0.len()) {
            (Some(side), true) if answers.is_single() => println!("{name}: {side} is safe to stop"),
            (Some(side), true) => println!("{name}: {side} is safe to stop, on {safe} Envoys"),
            (Some(_), false) => {
                println!("{name}: {} is safe to stop on {safe} of {} Envoys only", colour.as_str(), answers.0.len())
            }
            (None, _) => {}
        }
    }
    answers.report_failures()
}

// === impl TestResult ===

impl TestResult {
    /// Its lines, and whether each is good news.
    fn lines(&self, name: &str, is_verbose: bool) -> Vec<(String, bool)> {
        let passed = self.results.iter().filter(|result| result.passed).count();
        let side = format!("{} (version {})", self.candidate.as_str(), self.version);
        let verdict = match (self.passed, self.valid_until) {
            (true, Some(until)) => format!("passed, valid until {}", time_of_day(until)),
            (true, None) => "passed".to_owned(),
            (false, _) => "FAILED".to_owned(),
        };
        let mut lines = vec![(
            format!("{name}: {side} {verdict}: {passed} of {} requests as expected", self.results.len()),
            self.passed,
        )];
        for result in self.results.iter().filter(|result| is_verbose || !result.passed) {
            let mark = if result.passed { "✓" } else { "✗" };
            lines.push((format!("  {mark} {} {}: {}", result.method, result.path, result.detail), result.passed));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_test_names_what_failed_and_in_full_all_that_was_asked() {
        let result = json!({"candidate": "green", "version": "2", "passed": false, "results": [
            {"method": "GET", "path": "/ping", "passed": true, "detail": "answered 200"},
            {"method": "POST", "path": "/invocations", "passed": false, "detail": "answered 500"}]});
        let result = TestResult::deserialize(&result).unwrap_or_else(|error| panic!("{error}"));
        let texts = |is_verbose| result.lines("iris", is_verbose).into_iter().map(|(text, _)| text).collect::<Vec<_>>();
        assert_eq!(
            texts(false),
            ["iris: green (version 2) FAILED: 1 of 2 requests as expected", "  ✗ POST /invocations: answered 500"]
        );
        assert_eq!(texts(true).len(), 3);
    }
}
