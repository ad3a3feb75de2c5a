//! What is to be seen: states, comparisons, histories, and what is wrong around the filter.

use std::collections::BTreeMap;

use bluegreen_core::model::colour::Colour;
use bluegreen_core::model::time::Timestamp;
use comfy_table::{Cell, Color, Table};

use crate::api::{
    ApiError, Call, Change, Changes, Client, Comparison, Deployment, Figures, Percentiles, Reply, Window, of,
};
use crate::disagreement;
use crate::envoys::{Answers, Envoys, Outcome, Output, difference, rollout_in_words};
use crate::style::{
    self, Style, age, colour_cell, count, decimal, figure, latency, percent, shortened, span, time_of_day,
};

/// Latencies of a colour, with their name in a table.
type Latencies = (&'static str, fn(&Figures) -> Percentiles);

/// One of these latencies, with its name in a table.
type Percentile = (&'static str, fn(Percentiles) -> Option<f64>);

/// A bar of a list.
const NARROW: usize = 10;

/// A bar of a single deployment.
const WIDE: usize = 30;

/// So much of a reason is shown in a line.
const REASON: usize = 60;

// === status ===

/// One deployment in full, or a line for each.
pub fn status(envoys: &Envoys, name: Option<&str>, output: Output) -> Outcome {
    let answers = states(envoys, name);
    if output.is_json {
        answers.print_json();
        return answers.report_failures();
    }
    let by_name = by_name(&answers);
    match name {
        Some(_) => by_name.values().for_each(|seen| print!("{}", in_full(seen, style::now(), output.style))),
        None if by_name.is_empty() => {
            if answers.given().next().is_some() {
                println!("no deployments are configured");
            }
        }
        None => print!("{}", in_lines(&by_name, style::now(), output.style)),
    }
    answers.report_failures()
}

/// What each Envoy knows: one deployment, or all.
pub fn states(envoys: &Envoys, name: Option<&str>) -> Answers<Vec<Deployment>> {
    envoys.ask(|client| match name {
        Some(name) => client.deployment(name).map(|reply| Reply {
            raw: reply.raw,
            view: vec![reply.view],
            is_confirmed: reply.is_confirmed,
        }),
        None => client.deployments(),
    })
}

/// Each deployment with the Envoys that have it.
pub type ByName<'a> = BTreeMap<&'a str, Vec<(&'a str, &'a Deployment)>>;

/// Each deployment with the Envoys that have it.
pub fn by_name(answers: &Answers<Vec<Deployment>>) -> ByName<'_> {
    let mut by_name = ByName::new();
    for (label, reply) in answers.given() {
        for state in &reply.view {
            by_name.entry(&state.name).or_default().push((label, state));
        }
    }
    by_name
}

/// A line for each deployment; where Envoys differ, a line for each of them.
fn in_lines(by_name: &ByName<'_>, now: Timestamp, style: Style) -> String {
    let mut table = style.table([
        "NAME",
        "ACTIVE",
        "CANDIDATE",
        "TRAFFIC",
        "SHADOW",
        "ROLLOUT",
        "HEALTH",
        "WORKERS",
        "REVISION",
        "CHANGED",
    ]);
    let mut notes = String::new();
    for (name, seen) in by_name {
        let states: Vec<_> = seen.iter().map(|(_, state)| *state).collect();
        match difference(&states) {
            None => add_line(&mut table, name, &states, now),
            Some(difference) => {
                seen.iter().for_each(|(label, state)| add_line(&mut table, &format!("{name} {label}"), &[state], now));
                notes.push_str(&format!("{}\n", style.warn(&difference)));
            }
        }
        let mut problems: Vec<_> = states.iter().flat_map(|state| &state.setup).map(|it| it.problem.as_str()).collect();
        problems.sort_unstable();
        problems.dedup();
        if !problems.is_empty() {
            let number = count(problems.len() as u64, "problem");
            let problems = problems.join(", ");
            notes.push_str(
                &style.warn(&format!("{name}: {number} around the filter ({problems}): bluegreen setup {name}")),
            );
            notes.push('\n');
        }
    }
    format!("{}{notes}", style::lines(&table))
}

fn add_line(table: &mut Table, name: &str, states: &[&Deployment], now: Timestamp) {
    let Some(state) = states.first() else { return };
    let side =
        |colour: Colour| colour_cell(colour, &format!("{} {}", colour.as_str(), state.colours.get(colour).version));
    let traffic = match state.canary_percent {
        0.0 => format!("{} 100 %", style::bar(0.0, NARROW)),
        share => format!("{} {} / {}", style::bar(share, NARROW), percent(100.0 - share), percent(share)),
    };
    let rollout = state.rollout.as_ref();
    let (health, is_bad) = health(state);
    let (confirmed, of) =
        states.iter().fold((0, 0), |sum, state| (sum.0 + state.in_force.confirmed, sum.1 + state.in_force.of));
    let workers = Cell::new(format!("{confirmed}/{of}"));
    let revisions: Vec<_> = states.iter().map(|state| state.revision).collect();
    let revision = match (revisions.iter().min(), revisions.iter().max()) {
        (Some(least), Some(most)) if least != most => format!("{least}–{most}"),
        _ => state.revision.to_string(),
    };
    let stale = if states.iter().any(|state| state.stale == Some(true)) { ", stale" } else { "" };
    let health = Cell::new(format!("{health}{stale}"));
    table.add_row([
        Cell::new(name),
        side(state.active),
        side(state.candidate),
        Cell::new(traffic),
        if state.shadow_percent > 0.0 { Cell::new(percent(state.shadow_percent)) } else { Cell::new("–") },
        Cell::new(rollout.map_or_else(|| "–".to_owned(), |it| rollout_in_words(&it.phase, it.step, it.steps))),
        if is_bad || !stale.is_empty() { health.fg(Color::Red) } else { health },
        if confirmed < of { workers.fg(Color::Yellow) } else { workers },
        figure(revision),
        Cell::new(format!("{} by {}", age(state.changed_at, now), state.changed_by)),
    ]);
}

/// What the probes say of both colours, and whether it is bad.
fn health(state: &Deployment) -> (String, bool) {
    let sick: Vec<_> = Colour::ALL
        .into_iter()
        .filter(|colour| state.colours.get(*colour).probe.as_ref().is_some_and(|probe| !probe.healthy))
        .collect();
    match sick.as_slice() {
        [] if Colour::ALL.iter().all(|colour| state.colours.get(*colour).probe.is_none()) => ("–".to_owned(), false),
        [] => ("ok".to_owned(), false),
        [one] => (format!("{} down", one.as_str()), true),
        _ => ("both down".to_owned(), true),
    }
}

/// All that there is to say about a deployment; where Envoys differ, about it on each of them.
fn in_full(seen: &[(&str, &Deployment)], now: Timestamp, style: Style) -> String {
    let states: Vec<_> = seen.iter().map(|(_, state)| *state).collect();
    let Some(difference) = difference(&states) else {
        let Some(first) = states.first() else { return String::new() };
        return one_in_full(first, &states, now, style);
    };
    let each = seen.iter().map(|(label, state)| format!("\n{label}\n{}", one_in_full(state, &[state], now, style)));
    format!("{}\n{}", style.warn(&difference), each.collect::<String>())
}

fn one_in_full(state: &Deployment, on: &[&Deployment], now: Timestamp, style: Style) -> String {
    let sum = |figure: &dyn Fn(&Deployment) -> u64| on.iter().map(|state| figure(state)).sum::<u64>();
    let (confirmed, of) = (sum(&|state| state.in_force.confirmed), sum(&|state| state.in_force.of));
    let in_force = format!("in force on {confirmed} of {}", count(of, "worker"));
    let in_force = if confirmed < of { style.warn(&in_force) } else { in_force };
    let envoys = if on.len() > 1 { format!(" of {} Envoys", on.len()) } else { String::new() };
    let mut text = format!("{}   revision {}, {in_force}{envoys}\n", style.bold(&state.name), state.revision);
    if on.iter().any(|state| state.stale == Some(true)) {
        text.push_str(&style.bad("  stale: etcd does not answer, and a change may have been missed\n"));
    }
    let mut table = style.table(["", "", "", "", "", "", ""]);
    for (role, colour) in [("active", state.active), ("candidate", state.candidate)] {
        let side = state.colours.get(colour);
        let share = if colour == state.active { 100.0 - state.canary_percent } else { state.canary_percent };
        let health = match &side.probe {
            None => Cell::new("no probe"),
            Some(probe) if probe.healthy => Cell::new("healthy").fg(Color::Green),
            Some(_) => Cell::new("unhealthy").fg(Color::Red),
        };
        let in_flight = sum(&|state| state.colours.get(colour).in_flight);
        let is_safe = on.iter().all(|state| state.colours.get(colour).safe_to_stop);
        table.add_row([
            Cell::new(format!(" {role}")),
            colour_cell(colour, colour.as_str()),
            Cell::new(format!("version {}", side.version)),
            Cell::new(format!("cluster {}", side.cluster)),
            colour_cell(colour, &format!("{:<WIDE$} {:>7}", "█".repeat(style::filled(share, WIDE)), percent(share))),
            health,
            Cell::new(format!("{in_flight} in flight, {}", if is_safe { "safe to stop" } else { "needed" })),
        ]);
    }
    text.push_str(&table.lines().map(|line| format!("{}\n", line.trim_end())).collect::<String>());
    let mut line = |what: &str, said: String| text.push_str(&format!("  {what:<9}  {said}\n"));
    for colour in Colour::ALL {
        let side = state.colours.get(colour);
        if let Some(probe) = side.probe.as_ref().filter(|probe| !probe.healthy) {
            line("probe", style.bad(&format!("{}: {}", colour.as_str(), probe.detail)));
        }
        if let Some(waiting) = &side.waiting {
            line(
                "waiting",
                format!("version {} is to come behind {}: {}", waiting.version, colour.as_str(), waiting.why),
            );
        }
    }
    if state.shadow_percent > 0.0 {
        line("shadow", format!("{} gets copies of {}", state.candidate.as_str(), percent(state.shadow_percent)));
    }
    if let Some(kept) = &state.kept {
        line(
            "kept",
            format!("{} keeps {} until {}", state.candidate.as_str(), percent(kept.percent), time_of_day(kept.until)),
        );
    }
    if let Some(rollout) = &state.rollout {
        let phase = rollout_in_words(&rollout.phase, rollout.step, rollout.steps);
        line("rollout", format!("{phase}, for {}", span(now.since(rollout.since))));
        rollout.waits_for.iter().for_each(|wait| line("", format!("waits {wait}")));
        if let Some(evidence) = &rollout.evidence {
            line("guard", evidence.clone());
        }
    }
    let reason = if state.reason.is_empty() { String::new() } else { format!(": {}", state.reason) };
    line("changed", format!("{} by {} ({}){reason}", age(state.changed_at, now), state.changed_by, state.source));
    let mut problems: Vec<_> = on.iter().flat_map(|state| &state.setup).collect();
    problems.sort_by(|one, other| one.problem.cmp(&other.problem));
    problems.dedup_by(|one, other| one.problem == other.problem);
    for problem in problems {
        line("setup", style.warn(&format!("{}: {}", problem.problem, problem.detail)));
    }
    text
}

// === compare ===

/// Both colours side by side.
pub fn compare(envoys: &Envoys, name: &str, window: &str, output: Output) -> Outcome {
    let answers = envoys.ask(|client| comparison(client, name));
    if output.is_json {
        answers.print_json();
        return answers.report_failures();
    }
    for (label, reply) in answers.given() {
        if !answers.is_single() {
            println!("{}", output.style.bold(label));
        }
        match reply.view.windows.get(window) {
            Some(compared) => print!("{}", side_by_side(compared, output.style)),
            None => println!("no figures for {window}"),
        }
        if let Some(verdict) = &reply.view.verdict {
            println!(
                "verdict: {}",
                if verdict.breached.is_some() { output.style.bad(&verdict.sentence) } else { verdict.sentence.clone() }
            );
        } else {
            println!("verdict: none: no canary has been compared, or no guard is configured");
        }
        if let Some(shadow) = &reply.view.shadow {
            print!("{}", disagreement::in_full(shadow, output.style));
        }
    }
    if !answers.is_single() {
        println!("{}", output.style.dim("Each Envoy counts its own requests."));
    }
    answers.report_failures()
}

/// The comparison on one Envoy.
pub fn comparison(client: &Client, name: &str) -> Result<Reply<Comparison>, ApiError> {
    client.send(&Call::get(of(name, "/comparison")))
}

fn side_by_side(window: &Window, style: Style) -> String {
    let [blue, green] = Colour::ALL.map(|colour| window.colours.get(colour));
    let title = format!("last {}", span(std::time::Duration::from_secs_f64(window.seconds.max(0.0))));
    let mut table = style.table([title.as_str(), "blue", "green", "green − blue"]);
    let mut row = |what: &str, of: &dyn Fn(&Figures) -> String, difference: String| {
        table.add_row([Cell::new(what), figure(of(blue)), figure(of(green)), figure(difference)]);
    };
    row("requests", &|it| it.requests.to_string(), String::new());
    row("per second", &|it| decimal(it.rate, 1), String::new());
    let errors = blue.error_rate.zip(green.error_rate);
    row(
        "errors",
        &|it| it.error_rate.map_or_else(|| "–".to_owned(), |rate| percent(rate * 100.0)),
        errors.map_or_else(String::new, |(blue, green)| signed((green - blue) * 100.0, 2, "points")),
    );
    row("unanswered", &|it| it.unanswered.to_string(), String::new());
    let latencies: [Latencies; 2] = [("first byte", |it| it.ttfb_ms), ("last byte", |it| it.total_ms)];
    let shares: [Percentile; 3] = [("p50", |it| it.p50), ("p95", |it| it.p95), ("p99", |it| it.p99)];
    for (what, of) in latencies {
        for (share, at) in shares {
            let pair = at(of(blue)).zip(at(of(green))).filter(|(blue, _)| *blue > 0.0);
            let difference =
                pair.map_or_else(String::new, |(blue, green)| signed((green / blue - 1.0) * 100.0, 0, "%"));
            row(&format!("{what} {share}"), &|it| latency(at(of(it))), difference);
        }
    }
    style::lines(&table)
}

/// A difference with its sign.
fn signed(figure: f64, digits: usize, unit: &str) -> String {
    let text = decimal(figure, digits);
    if text == "0" || text.starts_with('-') {
        format!("{} {unit}", text.replace('-', "−"))
    } else {
        format!("+{text} {unit}")
    }
}

// === history ===

/// The last changes.
pub fn history(envoys: &Envoys, name: &str, most: usize, output: Output) -> Outcome {
    let answers = envoys.ask(|client| client.send::<Changes>(&Call::get(of(name, "/history"))));
    if output.is_json {
        answers.print_json();
        return answers.report_failures();
    }
    let first = answers.given().next().map(|(_, reply)| &reply.raw);
    let agree = answers.given().all(|(_, reply)| Some(&reply.raw) == first);
    for (label, reply) in answers.given().take(if agree { 1 } else { usize::MAX }) {
        if !agree {
            println!("{}", output.style.bold(label));
        }
        if reply.view.changes.is_empty() {
            println!("nothing has changed {name} yet");
            continue;
        }
        print!("{}", changes(&reply.view.changes, most, style::now(), output.style));
        if reply.view.changes.len() > most {
            let more = count((reply.view.changes.len() - most) as u64, "older change");
            println!("{}", output.style.dim(&format!("{more}: --limit {}", reply.view.changes.len())));
        }
    }
    answers.report_failures()
}

fn changes(all: &[Change], most: usize, now: Timestamp, style: Style) -> String {
    let mut table = style.table(["REVISION", "WHEN", "WHO", "WHAT", "WHY"]);
    for change in all.iter().take(most) {
        let who =
            if change.by == change.source { change.by.clone() } else { format!("{} ({})", change.by, change.source) };
        table.add_row([
            figure(change.revision),
            Cell::new(age(change.at, now)),
            Cell::new(who),
            Cell::new(change.in_words()),
            Cell::new(shortened(&change.reason, REASON)),
        ]);
    }
    style::lines(&table)
}

impl Change {
    /// What it did.
    fn in_words(&self) -> String {
        let Self { from, to, .. } = self;
        let mut what = Vec::new();
        if from.active != to.active {
            what.push(format!("active {} → {}", from.active.as_str(), to.active.as_str()));
        }
        for (name, from, to) in
            [("canary", from.canary_percent, to.canary_percent), ("shadow", from.shadow_percent, to.shadow_percent)]
        {
            if from != to {
                what.push(format!("{name} {} → {}", percent(from), percent(to)));
            }
        }
        if let Some(replaced) = &self.replaced {
            let (from, to) = (&replaced.from, &replaced.to);
            let colour = replaced.colour.as_str();
            what.push(match from.version == to.version {
                false => format!("{colour} version {} → {}", from.version, to.version),
                true => format!("{colour} cluster {} → {}", from.cluster, to.cluster),
            });
        }
        if let Some(phase) = &self.rollout {
            what.push(format!("rollout {}", phase.replace('_', " ")));
        }
        if self.forced {
            what.push("forced".to_owned());
        }
        what.join(", ")
    }
}

// === setup ===

/// What is wrong around the filter.
pub fn setup(envoys: &Envoys, name: Option<&str>, output: Output) -> Outcome {
    let answers = states(envoys, name);
    if output.is_json {
        answers.print_json();
        return answers.report_failures();
    }
    let mut is_clean = true;
    for (name, seen) in by_name(&answers) {
        let mut known: Vec<(&str, &str, Vec<&str>)> = Vec::new();
        for (label, problem) in seen.iter().flat_map(|(label, state)| state.setup.iter().map(move |it| (*label, it))) {
            match known.iter_mut().find(|(kind, detail, _)| (*kind, *detail) == (&problem.problem, &problem.detail)) {
                Some((.., labels)) => labels.push(label),
                None => known.push((&problem.problem, &problem.detail, vec![label])),
            }
        }
        for (kind, detail, labels) in known {
            is_clean = false;
            let on = if labels.len() < seen.len() { format!(" on {}", labels.join(", ")) } else { String::new() };
            println!("{name}{on}: {}\n  {detail}", output.style.warn(kind));
        }
    }
    if is_clean && answers.given().next().is_some() {
        println!("nothing is known to be wrong");
    }
    answers.report_failures()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::tests::iris;

    fn at(time: &str) -> Timestamp {
        Timestamp::deserialize(&json!(time)).unwrap_or_else(|error| panic!("{error}"))
    }

    fn now() -> Timestamp {
        at("2026-11-23T18:12:08.776Z")
    }

    #[test]
    fn a_line_says_where_traffic_goes_and_what_is_wrong() {
        let canary = iris(|iris| {
            iris["canary_percent"] = json!(12.5);
            iris["colours"]["green"]["probe"]["healthy"] = json!(false);
            iris["setup"] = json!([{"problem": "not-durable", "detail": "…", "since": "2026-11-23T18:10:08.776Z"}]);
        });
        let text = in_lines(&BTreeMap::from([("iris", vec![("a", &canary)])]), now(), Style::plain());
        let expected = "\
NAME   ACTIVE   CANDIDATE   TRAFFIC                     SHADOW   ROLLOUT   HEALTH       WORKERS   REVISION   CHANGED
iris   blue 1   green 2     █████████░ 87.5 % / 12.5 %   –        –         green down   3/3              7   2 min ago by ci
iris: 1 problem around the filter (not-durable): bluegreen setup iris
";
        assert_eq!(
            text.split_whitespace().collect::<Vec<_>>(),
            expected.split_whitespace().collect::<Vec<_>>(),
            "{text}"
        );
    }

    #[test]
    fn envoys_that_agree_share_a_line_and_others_have_their_own() {
        let one = iris(|_| ());
        let other = iris(|iris| iris["revision"] = json!(9));
        let text = in_lines(&BTreeMap::from([("iris", vec![("a", &one), ("b", &other)])]), now(), Style::plain());
        assert!(text.lines().count() == 2 && text.contains("6/6") && text.contains("7–9"), "{text}");
        let promoted = iris(|iris| (iris["active"], iris["candidate"]) = (json!("green"), json!("blue")));
        let text = in_lines(&BTreeMap::from([("iris", vec![("a", &one), ("b", &promoted)])]), now(), Style::plain());
        for part in ["iris a", "iris b", "iris differs: on 1 Envoy blue"] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn in_full_there_is_what_the_rollout_waits_for_and_why_it_changed() {
        let state = iris(|iris| {
            iris["canary_percent"] = json!(10);
            iris["shadow_percent"] = json!(5);
            iris["colours"]["green"]["waiting"] = json!({"version": "3", "cluster": "v3", "why": "its probe failed"});
            iris["colours"]["blue"]["probe"] =
                json!({"healthy": false, "checked_at": "2026-11-23T18:10:08Z", "detail": "answered 503"});
            iris["rollout"] = json!({"phase": "running", "step": 2, "steps": 3, "began": "2026-11-23T18:10:08Z",
                "since": "2026-11-23T18:11:38.776Z", "waits_for": ["for 40 requests"], "evidence": "green fails 0.9 %"});
        });
        let text = in_full(&[("a", &state)], now(), Style::plain());
        for part in [
            "iris   revision 7, in force on 3 of 3 workers\n",
            "90 %  unhealthy",
            "10 %  healthy",
            "probe      blue: answered 503",
            "waiting    version 3 is to come behind green: its probe failed",
            "shadow     green gets copies of 5 %",
            "rollout    running 2/3, for 30 s",
            "waits for 40 requests",
            "guard      green fails 0.9 %",
            "changed    2 min ago by ci (admin): v2 passed",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        let kept = iris(|iris| {
            iris["canary_percent"] = json!(2);
            iris["kept"] = json!({"percent": 2, "until": "2026-11-23T18:20:08.776Z"});
            iris["stale"] = json!(true);
        });
        let text = in_full(&[("a", &kept)], now(), Style::plain());
        assert!(text.contains("green keeps 2 % until 18:20:08Z") && text.contains("stale: etcd"), "{text}");
    }

    #[test]
    fn a_comparison_says_how_much_more_green_has_than_blue() {
        let figures = |errors: Value, p50: f64| {
            json!({"requests": 100, "rate": 10.0, "error_rate": errors, "unanswered": 0,
                   "ttfb_ms": {"p50": p50, "p95": null, "p99": null}, "total_ms": {"p50": null, "p95": null, "p99": null}})
        };
        let window = json!({"seconds": 61.0, "colours": {"blue": figures(json!(0.01), 2.0), "green": figures(json!(0.025), 3.0)}});
        let window = Window::deserialize(&window).unwrap_or_else(|error| panic!("{error}"));
        let text = side_by_side(&window, Style::plain());
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<_> = text.lines().map(words).collect();
        for line in [
            "last 61 s blue green green − blue",
            "errors 1 % 2.5 % +1.5 points",
            "first byte p50 2 ms 3 ms +50 %",
            "last byte p99 – –",
        ] {
            assert!(lines.iter().any(|seen| seen == line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn a_change_is_told_in_words() {
        let split =
            |active: &str, canary: f64| json!({"active": active, "canary_percent": canary, "shadow_percent": 0});
        let cases = [
            (json!({"from": split("blue", 0.0), "to": split("blue", 10.0)}), "canary 0 % → 10 %"),
            (
                json!({"from": split("blue", 10.0), "to": split("green", 0.0), "rollout": "promoted", "forced": true}),
                "active blue → green, canary 10 % → 0 %, rollout promoted, forced",
            ),
            (
                json!({"from": split("blue", 0.0), "to": split("blue", 0.0),
                       "replaced": {"colour": "green", "from": {"cluster": "a", "version": "2"}, "to": {"cluster": "b", "version": "3"}}}),
                "green version 2 → 3",
            ),
        ];
        for (mut change, words) in cases {
            for (name, value) in [
                ("revision", json!(1)),
                ("at", json!("2026-11-23T18:10:08Z")),
                ("by", json!("ci")),
                ("source", json!("admin")),
            ] {
                change[name] = value;
            }
            let change = Change::deserialize(&change).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(change.in_words(), words);
        }
    }
}
