//! Keeps the outcome of each row and prints the table and the totals.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use bluegreen_programs::Unavailable;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table};

use super::totals::Totals;

/// A log has no width of its own, and a reason may be long.
const WIDTH_OF_A_LOG: u16 = 120;

/// What became of one row.
#[derive(Debug, Eq, PartialEq)]
enum Outcome {
    /// Tests that were counted.
    Counted(Totals),
    /// A check without tests that found nothing wrong.
    Fine,
    /// It could not even be counted, for this reason.
    Failed(String),
    /// This machine cannot run it, for this reason.
    Skipped(String),
}

struct Row {
    title: String,
    outcome: Outcome,
    took: Duration,
}

/// All rows so far.
pub struct Report {
    rows: Vec<Row>,
    began: Instant,
    /// The user named the suites: one that cannot run is then a failure.
    asked_for: bool,
}

// === impl Outcome ===

impl Outcome {
    fn of(result: Result<Outcome>, asked_for: bool) -> Self {
        match result {
            Ok(outcome) => outcome,
            Err(error) if Unavailable::is(&error) && !asked_for => Self::Skipped(format!("{error:#}")),
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }

    /// Says at once what the table will say in short.
    fn complain(&self) {
        match self {
            Self::Failed(reason) => eprintln!("failed: {reason}"),
            Self::Skipped(reason) => eprintln!("skipped: {reason}"),
            Self::Counted(_) | Self::Fine => {}
        }
    }

    fn totals(&self) -> Totals {
        match self {
            Self::Counted(totals) => *totals,
            Self::Failed(_) => Totals { failed: 1, ..Totals::default() },
            Self::Fine | Self::Skipped(_) => Totals::default(),
        }
    }

    fn remark(&self) -> String {
        match self {
            Self::Counted(totals) if totals.ignored > 0 => format!("{} ignored", totals.ignored),
            Self::Counted(_) => String::new(),
            Self::Fine => "ok".to_owned(),
            Self::Failed(reason) => first_line(reason).to_owned(),
            Self::Skipped(reason) => format!("skipped: {}", first_line(reason)),
        }
    }

    fn colour(&self) -> Color {
        match self {
            Self::Skipped(_) => Color::Yellow,
            outcome if outcome.totals().failed > 0 => Color::Red,
            _ => Color::Green,
        }
    }
}

// === impl Report ===

impl Report {
    pub fn new(asked_for: bool) -> Self {
        Self { rows: Vec::new(), began: Instant::now(), asked_for }
    }

    /// Runs tests that can be counted.
    pub fn tests(&mut self, title: &str, run: impl FnOnce() -> Result<Totals>) {
        self.add(title, || run().map(Outcome::Counted));
    }

    /// Runs a check without tests; whether it went well.
    pub fn check(&mut self, title: &str, run: impl FnOnce() -> Result<()>) -> bool {
        self.add(title, || run().map(|()| Outcome::Fine)) == &Outcome::Fine
    }

    /// Runs tests that count as one each, so many at a time: the title of each, and what `run` is given.
    pub fn tests_side_by_side<T: Copy + Sync>(
        &mut self,
        tests: &[(String, T)],
        at_a_time: usize,
        run: impl Fn(T) -> Result<()> + Sync,
    ) {
        let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..at_a_time {
                scope.spawn(|| {
                    while let Some((place, (title, given))) = numbered(tests, next.fetch_add(1, Ordering::Relaxed)) {
                        let start = self.announce(title);
                        let one = Totals { passed: 1, ..Totals::default() };
                        let outcome = Outcome::of(run(*given).map(|()| Outcome::Counted(one)), self.asked_for);
                        outcome.complain();
                        let row = Row { title: title.clone(), outcome, took: start.elapsed() };
                        rows.lock().unwrap_or_else(PoisonError::into_inner).push((place, row));
                    }
                });
            }
        });
        let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
        rows.sort_by_key(|(place, _)| *place);
        self.rows.extend(rows.into_iter().map(|(_, row)| row));
    }

    /// Notes what cannot run because of something that the report already tells.
    pub fn skip(&mut self, title: &str, reason: &str) {
        let outcome = Outcome::Skipped(reason.to_owned());
        self.rows.push(Row { title: title.to_owned(), outcome, took: Duration::ZERO });
    }

    /// Prints the title of what begins now. A log that ends before the table does still says where the time went.
    fn announce(&self, title: &str) -> Instant {
        println!("\n── {title} ({:.1} min after the start)", self.began.elapsed().as_secs_f64() / 60.0);
        Instant::now()
    }

    fn add(&mut self, title: &str, run: impl FnOnce() -> Result<Outcome>) -> &Outcome {
        let start = self.announce(title);
        let outcome = Outcome::of(run(), self.asked_for);
        outcome.complain();
        let row = Row { title: title.to_owned(), outcome, took: start.elapsed() };
        &self.rows.push_mut(row).outcome
    }

    /// Prints the table and, as the very last line, the totals. `filter` is what test names had to contain.
    pub fn conclude(&self, filter: Option<&str>) -> ExitCode {
        let mut totals = Totals::default();
        for row in &self.rows {
            totals += row.outcome.totals();
        }
        println!("\n{}", self.table());
        let found_none = totals == Totals::default();
        if let Some(filter) = filter.filter(|_| found_none) {
            println!("no test has a name that contains `{filter}`");
        }
        println!("{} passed, {} failed", totals.passed, totals.failed);
        if totals.failed > 0 || (found_none && filter.is_some()) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
        if !table.is_tty() {
            table.set_width(WIDTH_OF_A_LOG);
        }
        table.set_header(["suite", "passed", "failed", "time", "remark"]);
        for Row { title, outcome, took } in &self.rows {
            let totals = outcome.totals();
            // Rows without tests have no numbers, unless one says that they failed.
            let number = |count: u64| match outcome {
                Outcome::Fine | Outcome::Skipped(_) => String::new(),
                Outcome::Counted(_) | Outcome::Failed(_) => count.to_string(),
            };
            table.add_row([
                Cell::new(title).fg(outcome.colour()),
                Cell::new(number(totals.passed)).set_alignment(CellAlignment::Right),
                Cell::new(number(totals.failed)).set_alignment(CellAlignment::Right),
                Cell::new(format!("{:.1} s", took.as_secs_f64())).set_alignment(CellAlignment::Right),
                Cell::new(outcome.remark()),
            ]);
        }
        table
    }
}

fn numbered<T>(all: &[T], place: usize) -> Option<(usize, &T)> {
    Some((place, all.get(place)?))
}

/// A failure's first line says what happened; the rest stands above the table.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or(text)
}

// === tests ===

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn what_this_machine_lacks_is_skipped_and_anything_else_is_a_failure() {
        let mut report = Report::new(false);
        report.tests("missing", || Err(Unavailable::error("install node")));
        report.tests("broken", || Err(anyhow!("no such package\nmore")));
        let [missing, broken] = &report.rows[..] else { panic!("two rows") };
        assert_eq!(missing.outcome.remark(), "skipped: install node");
        assert_eq!(broken.outcome.totals().failed, 1);
        assert_eq!(broken.outcome.remark(), "no such package");
    }

    #[test]
    fn a_suite_that_was_asked_for_may_not_be_skipped() {
        let mut report = Report::new(true);
        assert!(!report.check("clippy", || Err(Unavailable::error("install clippy"))));
        assert_eq!(report.rows[0].outcome.totals().failed, 1);
    }

    #[test]
    fn tests_that_run_side_by_side_are_shown_in_their_order() {
        let mut report = Report::new(false);
        let (ended, wait) = std::sync::mpsc::channel();
        let (ended, wait) = (Mutex::new(ended), Mutex::new(wait));
        // The first one ends after the second.
        report.tests_side_by_side(&[("one".to_owned(), 1), ("two".to_owned(), 2)], 2, |check| {
            if check == 1 {
                return Ok(wait.lock().unwrap().recv()?);
            }
            ended.lock().unwrap().send(())?;
            Err(anyhow!("broken"))
        });
        let remarks: Vec<_> = report.rows.iter().map(|row| (row.title.as_str(), row.outcome.remark())).collect();
        assert_eq!(remarks, [("one", String::new()), ("two", "broken".to_owned())]);
    }

    #[test]
    fn the_table_shows_each_row_once() {
        let mut report = Report::new(false);
        report.tests("core", || Ok(Totals { passed: 12, failed: 0, ignored: 2 }));
        assert!(report.check("format", || Ok(())));
        let table = report.table().to_string();
        assert!(table.contains("12") && table.contains("2 ignored") && table.contains("ok"), "{table}");
    }
}
