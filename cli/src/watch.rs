//! `status --watch`: the screen is drawn anew as things change; without a terminal there is a line for each change.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use bluegreen_core::model::colour::{Colour, PerColour};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline};

use crate::api::{Comparison, Deployment};
use crate::envoys::{Envoys, Outcome, Output, ask, difference, rollout_in_words};
use crate::show::{by_name, comparison, states};
use crate::style::{age, filled, latency, now, percent, span, time_of_day};

/// What is known of a deployment, over time.
#[derive(Debug, Default)]
struct Watched {
    state: Option<Deployment>,
    /// In what the Envoys differ.
    differs: Option<String>,
    figures: PerColour<Series>,
    /// What the guard says.
    verdict: Option<String>,
}

/// A colour's figures, oldest first.
#[derive(Debug, Default)]
struct Series {
    rates: VecDeque<f64>,
    latencies: VecDeque<f64>,
    errors: Option<f64>,
}

/// All that is on the screen.
#[derive(Debug, Default)]
struct Screen {
    watched: BTreeMap<String, Watched>,
    /// What went wrong at the last look.
    failures: Vec<String>,
    envoys: usize,
    first: usize,
}

/// What one look found.
struct Look {
    states: BTreeMap<String, Vec<Deployment>>,
    comparisons: BTreeMap<String, Vec<Comparison>>,
    failures: Vec<String>,
}

/// So many figures are kept: a sparkline is not wider.
const KEPT: usize = 60;

/// The lines of a deployment.
const HEIGHT: u16 = 6;

/// How often keys are looked for.
const KEYS_EVERY: Duration = Duration::from_millis(100);

/// More often nothing is to be seen.
const SOONEST: Duration = Duration::from_millis(200);

/// The period of the figures.
const WINDOW: &str = "1m";

/// Comparisons are asked of so many deployments: each is a call to each Envoy.
const COMPARED: usize = 20;

/// Watches until it is stopped.
///
/// # Errors
/// The terminal cannot be drawn on.
pub fn watch(envoys: &Envoys, name: Option<&str>, every: Duration, output: Output) -> Result<Outcome> {
    let every = every.max(SOONEST);
    if output.is_json || !io::stdout().is_terminal() {
        return Ok(lines(envoys, name, every, output));
    }
    // Asked beside the drawing: a slow Envoy holds up no key.
    thread::scope(|scope| {
        let (found, looks) = mpsc::channel();
        let (stop, is_stopped) = mpsc::channel::<()>();
        scope.spawn(move || {
            let mut begun;
            loop {
                begun = Instant::now();
                if found.send(Look::take(envoys, name)).is_err() {
                    break;
                }
                if !matches!(
                    is_stopped.recv_timeout(every.saturating_sub(begun.elapsed())),
                    Err(mpsc::RecvTimeoutError::Timeout)
                ) {
                    break;
                }
            }
        });
        let mut terminal = ratatui::try_init()?;
        let screen = Screen { envoys: envoys.all().len(), ..Screen::default() };
        let ended = run(&mut terminal, &looks, screen);
        ratatui::restore();
        drop((stop, looks));
        ended.map(|()| Outcome::Done)
    })
}

fn run(terminal: &mut ratatui::DefaultTerminal, looks: &Receiver<Look>, mut screen: Screen) -> Result<()> {
    loop {
        while let Ok(look) = looks.try_recv() {
            screen.take(look);
        }
        terminal.draw(|frame| screen.draw(frame))?;
        if !event::poll(KEYS_EVERY)? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
            KeyCode::Down | KeyCode::Char('j') => {
                screen.first = (screen.first + 1).min(screen.watched.len().saturating_sub(1))
            }
            KeyCode::Up | KeyCode::Char('k') => screen.first = screen.first.saturating_sub(1),
            _ => {}
        }
    }
}

/// Without a terminal: the line of a deployment whenever it says something else.
fn lines(envoys: &Envoys, name: Option<&str>, every: Duration, output: Output) -> Outcome {
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    let mut failures = String::new();
    loop {
        let answers = states(envoys, name);
        for (name, seen) in by_name(&answers) {
            for (label, state) in seen {
                let key = if answers.is_single() { name.to_owned() } else { format!("{label} {name}") };
                let line = line(state);
                if told.get(&key) == Some(&line) {
                    continue;
                }
                if output.is_json {
                    let raw = answers.given().find(|(known, _)| *known == label).map(|(_, reply)| &reply.raw);
                    let found = raw.and_then(|raw| match raw.get("deployments").and_then(|all| all.as_array()) {
                        Some(all) => all.iter().find(|one| one["name"] == name),
                        None => Some(raw),
                    });
                    if let Some(found) = found {
                        println!("{found}");
                    }
                } else {
                    println!("{}  {key}: {line}", time_of_day(now()));
                }
                told.insert(key, line);
            }
        }
        let failed =
            answers.0.iter().filter_map(|(label, answer)| Some(format!("{label}: {}", answer.as_ref().err()?)));
        let failed = failed.collect::<Vec<_>>().join("; ");
        if failed != failures && !failed.is_empty() {
            eprintln!("bluegreen: {failed}");
        }
        // Another try will not help: no such deployment, no token.
        if answers.0.iter().all(|(_, answer)| answer.as_ref().is_err_and(|error| !error.may_pass())) {
            return Outcome::Failed;
        }
        failures = failed;
        thread::sleep(every);
    }
}

fn line(state: &Deployment) -> String {
    let rollout =
        state.rollout.as_ref().map(|it| format!(", rollout {}", rollout_in_words(&it.phase, it.step, it.steps)));
    let sick = Colour::ALL
        .into_iter()
        .filter(|colour| state.colours.get(*colour).probe.as_ref().is_some_and(|probe| !probe.healthy))
        .map(|colour| format!(", {} is unhealthy", colour.as_str()));
    let reason = if state.reason.is_empty() { String::new() } else { format!(": {}", state.reason) };
    format!(
        "{}{}{} (revision {} by {}{reason})",
        state.traffic(),
        rollout.unwrap_or_default(),
        sick.collect::<String>(),
        state.revision,
        state.changed_by
    )
}

// === impl Look ===

impl Look {
    fn take(envoys: &Envoys, name: Option<&str>) -> Self {
        let answers = states(envoys, name);
        let failures =
            answers.0.iter().filter_map(|(label, answer)| Some(format!("{label}: {}", answer.as_ref().err()?)));
        let failures = failures.collect();
        let states: BTreeMap<String, Vec<Deployment>> = by_name(&answers)
            .into_iter()
            .map(|(name, seen)| (name.to_owned(), seen.into_iter().map(|(_, state)| state.clone()).collect()))
            .collect();
        let comparisons = states.keys().take(COMPARED).map(|name| {
            let answers = ask(envoys.all().iter(), |envoy| comparison(&envoy.client, name));
            (name.clone(), answers.given().map(|(_, reply)| reply.view.clone()).collect())
        });
        let comparisons = comparisons.collect();
        Self { states, comparisons, failures }
    }
}

// === impl Screen ===

impl Screen {
    fn take(&mut self, look: Look) {
        self.failures = look.failures;
        if !look.states.is_empty() {
            self.watched.retain(|name, _| look.states.contains_key(name));
        }
        for (name, states) in look.states {
            let watched = self.watched.entry(name.clone()).or_default();
            watched.differs = difference(&states.iter().collect::<Vec<_>>());
            watched.state = states.into_iter().next();
            let Some(comparisons) = look.comparisons.get(&name) else { continue };
            watched.verdict = comparisons
                .iter()
                .find_map(|it| it.verdict.as_ref())
                .filter(|it| it.stage != "over")
                .map(|it| it.sentence.clone());
            for colour in Colour::ALL {
                let figures: Vec<_> =
                    comparisons.iter().filter_map(|it| Some(it.windows.get(WINDOW)?.colours.get(colour))).collect();
                watched.figures.get_mut(colour).push(
                    figures.iter().map(|it| it.rate).sum(),
                    figures
                        .iter()
                        .filter_map(|it| it.total_ms.p95)
                        .fold(None, |most, it| Some(it.max(most.unwrap_or(0.0)))),
                    figures
                        .iter()
                        .filter_map(|it| it.error_rate)
                        .fold(None, |most, it| Some(it.max(most.unwrap_or(0.0)))),
                );
            }
        }
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let [body, foot] = Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(area);
        let shown = usize::from(body.height / HEIGHT).max(1);
        let blocks = Layout::vertical(vec![Constraint::Length(HEIGHT); shown]).split(body);
        for ((name, watched), block) in self.watched.iter().skip(self.first).zip(blocks.iter()) {
            watched.draw(frame, name, *block);
        }
        if self.watched.is_empty() {
            let text = if self.failures.is_empty() { "asking …" } else { "nobody has answered yet" };
            frame.render_widget(Paragraph::new(text), body);
        }
        let hidden = self.watched.len().saturating_sub(shown);
        let foot_text = match self.failures.as_slice() {
            [] if hidden > 0 => {
                format!("q quits, ↑ ↓ scroll: {} of {} deployments are shown", shown, self.watched.len())
            }
            [] if self.envoys > 1 => {
                format!("q quits   {} Envoys; figures are sums, latencies and errors the worst", self.envoys)
            }
            [] => "q quits   figures of the last minute".to_owned(),
            failures => failures.join("; "),
        };
        let style = if self.failures.is_empty() { Style::new().dim() } else { Style::new().fg(Color::Red) };
        frame.render_widget(Paragraph::new(foot_text).style(style), foot);
    }
}

// === impl Series ===

impl Series {
    fn push(&mut self, rate: f64, latency: Option<f64>, errors: Option<f64>) {
        for (figures, new) in [(&mut self.rates, rate), (&mut self.latencies, latency.unwrap_or(0.0))] {
            if figures.len() == KEPT {
                figures.pop_front();
            }
            figures.push_back(new);
        }
        self.errors = errors;
    }
}

// === impl Watched ===

impl Watched {
    fn draw(&self, frame: &mut Frame<'_>, name: &str, area: Rect) {
        let Some(state) = &self.state else { return };
        let [title, one, other, first, second, _] = Layout::vertical([Constraint::Length(1); 6]).areas(area);
        let in_force =
            format!("   revision {}, {}/{} workers", state.revision, state.in_force.confirmed, state.in_force.of);
        let in_force_style =
            if state.in_force.silent.is_empty() { Style::new().dim() } else { Style::new().fg(Color::Yellow) };
        let changed = format!("   {} by {}", age(state.changed_at, now()), state.changed_by);
        frame.render_widget(
            Paragraph::new(Line::from(vec![
                Span::styled(name.to_owned(), Style::new().add_modifier(Modifier::BOLD)),
                Span::styled(in_force, in_force_style),
                Span::styled(changed, Style::new().dim()),
            ])),
            title,
        );
        self.draw_colour(frame, state, Colour::Blue, one);
        self.draw_colour(frame, state, Colour::Green, other);
        let mut notes = Vec::new();
        if let Some(differs) = &self.differs {
            notes.push(Line::styled(format!("  {differs}"), Style::new().fg(Color::Yellow)));
        }
        if let Some(rollout) = &state.rollout {
            let phase = rollout_in_words(&rollout.phase, rollout.step, rollout.steps);
            let waits = rollout.waits_for.first().map_or_else(String::new, |wait| format!(", waits {wait}"));
            let since = span(now().since(rollout.since));
            let is_bad = matches!(rollout.phase.as_str(), "breached" | "rolled_back");
            let style = if is_bad { Style::new().fg(Color::Red) } else { Style::new() };
            notes.push(Line::styled(format!("  rollout {phase}, for {since}{waits}"), style));
        }
        if let Some(verdict) = &self.verdict {
            notes.push(Line::styled(format!("  {verdict}"), Style::new().dim()));
        }
        if !state.setup.is_empty() {
            let problems: Vec<_> = state.setup.iter().map(|it| it.problem.as_str()).collect();
            let text = format!("  around the filter: {}", problems.join(", "));
            notes.push(Line::styled(text, Style::new().fg(Color::Yellow)));
        }
        for (note, area) in notes.into_iter().zip([first, second]) {
            frame.render_widget(Paragraph::new(note), area);
        }
    }

    /// `blue 1   ████████   90 %  healthy   89.9/s ▁▂▃  p95 2.6 ms ▁▂▃  errors 0 %`
    fn draw_colour(&self, frame: &mut Frame<'_>, state: &Deployment, colour: Colour, area: Rect) {
        const BAR: usize = 20;
        let side = state.colours.get(colour);
        let share = if colour == state.active { 100.0 - state.canary_percent } else { state.canary_percent };
        let paint = Style::new().fg(if colour == Colour::Blue { Color::Blue } else { Color::Green });
        let (health, health_style) = match &side.probe {
            None => ("", Style::new()),
            Some(probe) if probe.healthy => ("healthy", Style::new().dim()),
            Some(_) => ("UNHEALTHY", Style::new().fg(Color::Red)),
        };
        let series = self.figures.get(colour);
        let widths = [18, 30, 10, 12, 14, 14, 14, 14].map(Constraint::Length);
        let [who, bar, healthy, rate, rates, p95, latencies, errors] = Layout::horizontal(widths).areas(area);
        let is_active = if colour == state.active { "●" } else { " " };
        frame.render_widget(
            Paragraph::new(format!("{is_active} {} {}", colour.as_str(), side.version)).style(paint),
            who,
        );
        let drawn = format!("{:<BAR$} {:>8}", "█".repeat(filled(share, BAR)), percent(share));
        frame.render_widget(Paragraph::new(drawn).style(paint), bar);
        frame.render_widget(Paragraph::new(health).style(health_style), healthy);
        let last = |figures: &VecDeque<f64>| figures.back().copied().unwrap_or(0.0);
        frame.render_widget(Paragraph::new(format!("{:>8.1}/s ", last(&series.rates))), rate);
        let has_answers = last(&series.latencies) > 0.0;
        let text = if has_answers { latency(Some(last(&series.latencies))) } else { "–".to_owned() };
        frame.render_widget(Paragraph::new(format!("  p95 {text:>7} ")), p95);
        for (figures, area) in [(&series.rates, rates), (&series.latencies, latencies)] {
            // In thousandths: a sparkline takes whole numbers.
            let newest = figures.iter().rev().take(usize::from(area.width)).rev().map(|it| (it * 1_000.0) as u64);
            frame.render_widget(Sparkline::default().data(newest.collect::<Vec<_>>()).style(paint), area);
        }
        if let Some(rate) = series.errors {
            let style = if rate > 0.0 { Style::new().fg(Color::Yellow) } else { Style::new().dim() };
            frame.render_widget(Paragraph::new(format!("  errors {}", percent(rate * 100.0))).style(style), errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::api::tests::iris;

    fn compared(rate: f64) -> Comparison {
        let figures = |rate: f64| {
            json!({"requests": 100, "rate": rate, "error_rate": 0.05, "unanswered": 0,
                   "ttfb_ms": {"p50": 1.0, "p95": 2.0, "p99": 3.0}, "total_ms": {"p50": 1.0, "p95": 2.6, "p99": 3.0}})
        };
        let window = json!({"seconds": 60.0, "colours": {"blue": figures(90.0), "green": figures(rate)}});
        let comparison =
            json!({"windows": {"1m": window}, "verdict": {"sentence": "green is no worse", "stage": "canary"}});
        Comparison::deserialize(&comparison).unwrap_or_else(|error| panic!("{error}"))
    }

    fn drawn(screen: &Screen) -> String {
        let mut terminal = Terminal::new(TestBackend::new(130, 12)).unwrap_or_else(|error| panic!("{error}"));
        terminal.draw(|frame| screen.draw(frame)).unwrap_or_else(|error| panic!("{error}"));
        terminal.backend().to_string()
    }

    #[test]
    fn the_screen_has_bars_sparklines_and_what_the_guard_says() {
        let state = iris(|iris| {
            iris["canary_percent"] = json!(10);
            iris["rollout"] = json!({"phase": "running", "step": 2, "steps": 3, "began": "2026-11-23T18:10:08Z",
                "since": "2026-11-23T18:10:08Z", "waits_for": ["for 40 requests"]});
        });
        let mut screen = Screen { envoys: 1, ..Screen::default() };
        for rate in [1.0, 5.0, 10.0] {
            screen.take(Look {
                states: BTreeMap::from([("iris".to_owned(), vec![state.clone()])]),
                comparisons: BTreeMap::from([("iris".to_owned(), vec![compared(rate)])]),
                failures: Vec::new(),
            });
        }
        let text = drawn(&screen);
        for part in [
            "● blue 1",
            "██████████████████       90 %",
            "green 2",
            "10.0/s",
            "▄█",
            "p95  2.6 ms",
            "errors 5 %",
            "rollout running 2/3",
            "green is no worse",
            "q quits",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn what_was_known_stays_on_the_screen_while_nobody_answers() {
        let mut screen = Screen { envoys: 1, ..Screen::default() };
        screen.take(Look {
            states: BTreeMap::from([("iris".to_owned(), vec![iris(|_| ())])]),
            comparisons: BTreeMap::new(),
            failures: Vec::new(),
        });
        screen.take(Look {
            states: BTreeMap::new(),
            comparisons: BTreeMap::new(),
            failures: vec!["a: gone".to_owned()],
        });
        let text = drawn(&screen);
        assert!(text.contains("● blue 1") && text.contains("a: gone"), "{text}");
    }

    #[test]
    fn more_deployments_than_fit_are_scrolled_through() {
        let states = (0..5).map(|number| (format!("d{number}"), vec![iris(|_| ())])).collect();
        let mut screen = Screen { envoys: 1, ..Screen::default() };
        screen.take(Look { states, comparisons: BTreeMap::new(), failures: Vec::new() });
        assert!(drawn(&screen).contains("d0") && drawn(&screen).contains("of 5 deployments"));
        screen.first = 4;
        assert!(drawn(&screen).contains("d4") && !drawn(&screen).contains("d0"));
    }

    #[test]
    fn without_a_terminal_a_line_says_all_that_changes() {
        let line = line(&iris(|iris| iris["colours"]["green"]["probe"]["healthy"] = json!(false)));
        assert_eq!(line, "blue (version 1) gets all traffic, green is unhealthy (revision 7 by ci: v2 passed)");
    }
}
