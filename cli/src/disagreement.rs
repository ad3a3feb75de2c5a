//! What came of comparing the answers to copied requests.

use std::collections::BTreeSet;

use bluegreen_core::model::time::Timestamp;
use comfy_table::Cell;

use crate::api::{Call, Confusion, Disagreement, Disagreements, Numbers, Shadow, ShadowLatency, of};
use crate::envoys::{Envoys, Outcome, Output};
use crate::style::{self, Style, age, decimal, figure, latency, percent, shortened};

/// So much of a value is shown in a line.
const VALUE: usize = 40;

/// Smaller numbers are written with an exponent.
const SMALL: f64 = 1e-3;

/// Larger ones too.
const LARGE: f64 = 1e6;

/// The last inputs to which the colours answered differently.
pub fn list(envoys: &Envoys, name: &str, output: Output) -> Outcome {
    let answers = envoys.ask(|client| client.send::<Disagreements>(&Call::get(of(name, "/disagreements"))));
    if output.is_json {
        answers.print_json();
        return answers.report_failures();
    }
    for (label, reply) in answers.given() {
        if !answers.is_single() {
            println!("{}", output.style.bold(label));
        }
        print!("{}", in_lines(&reply.view, name, style::now(), output.style));
    }
    if !answers.is_single() {
        println!("{}", output.style.dim("Each Envoy compares its own requests."));
    }
    answers.report_failures()
}

fn in_lines(view: &Disagreements, name: &str, now: Timestamp, style: Style) -> String {
    let [active, candidate] = [view.active, view.candidate].map(|colour| colour.as_str());
    if view.disagreements.is_empty() {
        return format!(
            "no answer of {candidate} has differed from {active}'s: bluegreen compare {name} says how many were compared\n"
        );
    }
    let again = format!("{active} again");
    let titles = ["when", "request", "field", active, candidate, &again, "input", "times"].map(str::to_uppercase);
    let mut table = style.table(titles.each_ref().map(String::as_str));
    for Disagreement { at, request_id, field, active, candidate, again, input_hash, times, .. } in &view.disagreements {
        table.add_row([
            Cell::new(age(*at, now)),
            Cell::new(request_id.as_deref().unwrap_or("–")),
            Cell::new(field),
            Cell::new(shortened(active, VALUE)),
            Cell::new(shortened(candidate, VALUE)),
            Cell::new(again.as_ref().map_or_else(|| "–".to_owned(), |again| shortened(again, VALUE))),
            Cell::new(input_hash),
            figure(times),
        ]);
    }
    let has_inputs = view.disagreements.iter().any(|it| it.input.is_some());
    let more = if has_inputs { style.dim("-o json has the inputs.") + "\n" } else { String::new() };
    format!("{}{more}", style::lines(&table))
}

/// All that was found, with the sentence first.
pub fn in_full(shadow: &Shadow, style: Style) -> String {
    let mut text = format!("answers: {}\n", shadow.sentence);
    text.push_str(&summary(shadow, style));
    if shadow.compared == 0 {
        return text;
    }
    for table in [fields(shadow, style), numbers(shadow, style)].into_iter().flatten() {
        text.push_str(&format!("\n{table}"));
    }
    if let Some(confusion) = &shadow.confusion {
        text.push_str(&format!("\n{}", labels(confusion, style)));
    }
    text
}

/// A line for each of the figures about whole requests.
fn summary(shadow: &Shadow, style: Style) -> String {
    let Shadow { compared, disagreed, agreement, noise, excess, dropped, latency, .. } = shadow;
    let mut text = String::new();
    let mut line = |what: &str, said: String| text.push_str(&format!("  {what:<12}  {said}\n"));
    if let Some(agreement) = agreement {
        line(
            "agreement",
            format!("{}: {disagreed} of {compared} requests were answered differently", share(*agreement)),
        );
        let failed =
            if noise.failed > 0 { format!("; no second answer to {} more", noise.failed) } else { String::new() };
        line(
            "noise",
            match noise.rate {
                Some(rate) => format!(
                    "{}: the active colour answered {} of {} differently the second time{failed}",
                    share(rate),
                    noise.disagreed,
                    noise.sampled
                ),
                None => format!("not measured: the active colour was asked no request of the sample again{failed}"),
            },
        );
    }
    if let Some(estimate) = excess.estimate {
        let interval = format!("between {} and {}, whenever you look", share(excess.low), share(excess.high));
        line("excess", format!("{}, {interval}; judged against {}", share(estimate), share(excess.max)));
        line("active", percentiles(latency.active));
        line("candidate", percentiles(latency.candidate));
    }
    if !dropped.is_empty() {
        let reasons: Vec<_> = dropped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        line("not compared", style.warn(&reasons.join(", ")));
    }
    text
}

fn percentiles(of: ShadowLatency) -> String {
    let [p50, p95, p99] = [of.p50_ms, of.p95_ms, of.p99_ms].map(latency);
    format!("p50 {p50}, p95 {p95}, p99 {p99}")
}

/// A line for each field; of those that are noise, that they do not count.
fn fields(shadow: &Shadow, style: Style) -> Option<String> {
    let mut table = style.table(["FIELD", "COMPARED", "DIFFERED", "NOISE", "EXCESS", ""]);
    for (name, field) in &shadow.fields {
        let differed = if field.compared > 0 { share(field.disagreed as f64 / field.compared as f64) } else { none() };
        table.add_row([
            Cell::new(name),
            figure(field.compared),
            figure(differed),
            figure(field.noise.map_or_else(none, share)),
            figure(field.excess.map_or_else(none, share)),
            Cell::new(if field.is_noise { "noise: does not count" } else { "" }),
        ]);
    }
    (!shadow.fields.is_empty()).then(|| style::lines(&table))
}

/// A line for each field of numbers.
fn numbers(shadow: &Shadow, style: Style) -> Option<String> {
    let mut table = style.table(["NUMBERS", "DIFFERENCE OF", "PAIRS", "BIAS", "MEAN", "P50", "P95", "MAX"]);
    let all = shadow.fields.iter().filter_map(|(name, field)| Some((name, field.numbers.as_ref()?)));
    let mut is_empty = true;
    for (name, Numbers { of, count, bias, mean, p50, p95, max }) in all {
        is_empty = false;
        let what = match of.as_str() {
            "difference" => "values",
            "length" => "lengths (relative)",
            "cosine" => "directions (1 − cosine)",
            other => other,
        };
        let [bias, mean, p50, p95] = [bias, mean, p50, p95].map(|it| it.map_or_else(none, number));
        let figures = [bias, mean, p50, p95, number(*max)];
        table.add_row([Cell::new(name), Cell::new(what), figure(count)].into_iter().chain(figures.map(figure)));
    }
    (!is_empty).then(|| style::lines(&table))
}

/// The active colour's labels from top to bottom, the candidate's from left to right.
fn labels(confusion: &Confusion, style: Style) -> String {
    let columns: BTreeSet<&String> = confusion.cells.values().flat_map(|row| row.keys()).collect();
    let corner = format!("{}: active ↓ candidate →", confusion.field);
    let mut table = style.table::<0>([]);
    let titles = columns.iter().map(|label| figure(shortened(label, VALUE)));
    table.set_header([Cell::new(corner)].into_iter().chain(titles));
    for (label, row) in &confusion.cells {
        let cells = columns.iter().map(|column| figure(row.get(*column).map_or_else(none, u64::to_string)));
        table.add_row([Cell::new(shortened(label, VALUE))].into_iter().chain(cells));
    }
    style::lines(&table)
}

/// A share of 0 to 1 in percent.
fn share(of: f64) -> String {
    percent(of * 100.0).replace('-', "−")
}

/// A number with three digits that mean something.
fn number(of: f64) -> String {
    let size = of.abs();
    let text = if size == 0.0 {
        "0".to_owned()
    } else if (SMALL..LARGE).contains(&size) {
        let digits = (2.0 - size.log10().floor()).max(0.0);
        decimal(of, digits as usize)
    } else {
        format!("{of:.2e}")
    };
    text.replace('-', "−")
}

fn none() -> String {
    "–".to_owned()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;

    fn shadow(change: impl FnOnce(&mut Value)) -> Shadow {
        let took = |p50: f64| json!({"p50_ms": p50, "p95_ms": 4.0, "p99_ms": null});
        let mut shadow = json!({
            "compared": 512, "disagreed": 8, "agreement": 0.984_375,
            "noise": {"sampled": 26, "disagreed": 0, "rate": 0.0, "failed": 1},
            "excess": {"estimate": 0.015_625, "low": 0.0012, "high": 0.042, "max": 0.02, "above_e_value": 1.2, "below_e_value": 0.7},
            "dropped": {"too_large": 3, "busy": 1},
            "fields": {
                "/id": {"compared": 512, "disagreed": 512, "noise": 1.0, "excess": 0.0, "is_noise": true},
                "/predictions/*": {"compared": 512, "disagreed": 8, "noise": 0.0, "excess": 0.015_625, "is_noise": false,
                    "numbers": {"of": "difference", "count": 512, "bias": -0.012_34, "mean": 0.02, "p50": 0.0, "p95": 2.5e-7, "max": 1234.6}}},
            "confusion": {"field": "/predictions/*", "cells": {"1": {"1": 168, "2": 3}, "2": {"2": 163}}},
            "latency": {"active": took(2.0), "candidate": took(3.0)},
            "sentence": "Nothing is shown yet."});
        change(&mut shadow);
        Shadow::deserialize(&shadow).unwrap_or_else(|error| panic!("{error}: {shadow}"))
    }

    /// Each line with one space between its words.
    fn lines_of(text: &str) -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    fn has(text: &str, expected: &[&str]) {
        let lines = lines_of(text);
        for line in expected {
            assert!(lines.iter().any(|seen| seen == line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn a_comparison_of_answers_says_what_differed_and_what_is_noise() {
        let text = in_full(&shadow(|_| ()), Style::plain());
        has(
            &text,
            &[
                "answers: Nothing is shown yet.",
                "agreement 98.44 %: 8 of 512 requests were answered differently",
                "noise 0 %: the active colour answered 0 of 26 differently the second time; no second answer to 1 more",
                "excess 1.56 %, between 0.12 % and 4.2 %, whenever you look; judged against 2 %",
                "active p50 2 ms, p95 4 ms, p99 –",
                "not compared 1 busy, 3 too_large",
                "/id 512 100 % 100 % 0 % noise: does not count",
                "/predictions/* 512 1.56 % 0 % 1.56 %",
                "/predictions/* values 512 −0.0123 0.02 0 2.50e−7 1235",
                "/predictions/*: active ↓ candidate → 1 2",
                "1 168 3",
                "2 – 163",
            ],
        );
    }

    #[test]
    fn without_a_comparison_there_is_only_why() {
        let text = in_full(
            &shadow(|it| {
                it["compared"] = json!(0);
                for name in ["agreement", "confusion"] {
                    it[name] = json!(null);
                }
                it["excess"]["estimate"] = json!(null);
                it["fields"] = json!({});
                it["sentence"] = json!("Nothing was compared; 3 times too_large: …");
            }),
            Style::plain(),
        );
        assert_eq!(
            lines_of(&text),
            ["answers: Nothing was compared; 3 times too_large: …", "not compared 1 busy, 3 too_large"]
        );
    }

    #[test]
    fn without_a_sample_the_noise_is_not_known() {
        let text = in_full(
            &shadow(|it| it["noise"] = json!({"sampled": 0, "disagreed": 0, "rate": null, "failed": 0})),
            Style::plain(),
        );
        has(&text, &["noise not measured: the active colour was asked no request of the sample again"]);
    }

    #[test]
    fn a_disagreement_is_shown_with_both_answers_and_the_hash_of_its_input() {
        let at = |time: &str| Timestamp::deserialize(&json!(time)).unwrap_or_else(|error| panic!("{error}"));
        let view = |all: Value| {
            let view =
                json!({"name": "iris", "revision": 3, "active": "blue", "candidate": "green", "disagreements": all});
            Disagreements::deserialize(&view).unwrap_or_else(|error| panic!("{error}: {view}"))
        };
        let said = |view: &Disagreements| in_lines(view, "iris", at("2026-11-23T18:12:08Z"), Style::plain());
        let empty = said(&view(json!([])));
        assert_eq!(
            empty,
            "no answer of green has differed from blue's: bluegreen compare iris says how many were compared\n"
        );
        let one = json!({"at": "2026-11-23T18:10:08Z", "field": "/predictions/*", "active": "2", "candidate": "1",
            "input_hash": "9f86d081884c7d65", "input_truncated": false, "times": 1});
        let mut other = one.clone();
        (other["again"], other["request_id"], other["input"]) = (json!("2"), json!("7c1f"), json!("{}"));
        (other["candidate"], other["times"]) = (json!("x".repeat(80)), json!(7));
        let text = said(&view(json!([other, one])));
        let cut = format!("{}…", "x".repeat(VALUE - 1));
        has(
            &text,
            &[
                "WHEN REQUEST FIELD BLUE GREEN BLUE AGAIN INPUT TIMES",
                &format!("2 min ago 7c1f /predictions/* 2 {cut} 2 9f86d081884c7d65 7"),
                "2 min ago – /predictions/* 2 1 – 9f86d081884c7d65 1",
                "-o json has the inputs.",
            ],
        );
        assert!(!said(&view(json!([one]))).contains("inputs"));
    }

    #[test]
    fn numbers_have_three_digits_that_mean_something() {
        let cases =
            [(0.0, "0"), (0.5, "0.5"), (12.345, "12.3"), (-1234.6, "−1235"), (1.0e-9, "1.00e−9"), (2.5e8, "2.50e8")];
        for (of, written) in cases {
            assert_eq!(number(of), written);
        }
    }
}
