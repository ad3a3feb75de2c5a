//! One line about long work: a spinner on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Work that is going on; dropping it without [`Progress::done`] clears the line.
pub struct Progress {
    spinner: ProgressBar,
    terminal: bool,
    started: Instant,
}

// === impl Progress ===

impl Progress {
    pub fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let terminal = stderr().is_terminal();
        let spinner = if terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if terminal {
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed:.dim} {wide_msg:.dim}") {
                spinner.set_style(style);
            }
            spinner.set_prefix(what);
            spinner.enable_steady_tick(Duration::from_millis(100));
        } else {
            eprintln!("{what} …");
        }
        Self { spinner, terminal, started: Instant::now() }
    }

    /// The newest thing that happened; only a terminal shows it.
    pub fn detail(&self, line: &str) {
        self.spinner.set_message(line.to_owned());
    }

    /// A line on standard output, which the spinner leaves alone.
    pub fn beside(&self, line: &str) {
        // A closed standard output (`| head`) is no reason to stop.
        self.spinner.suspend(|| drop(writeln!(stdout(), "{line}")));
    }

    pub fn done(self, result: &str) {
        self.spinner.finish_and_clear();
        eprintln!("{result} ({:.0} s)", self.started.elapsed().as_secs_f64());
    }

    #[cfg(test)]
    pub fn hidden() -> Self {
        Self { spinner: ProgressBar::hidden(), terminal: false, started: Instant::now() }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            self.spinner.finish_and_clear();
        }
    }
}
