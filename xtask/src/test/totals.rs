//! Counts tests by reading what the runners print: Rust's own and wasm-bindgen's end each binary with a
//! `test result: ok. 3 passed; 1 failed; 0 ignored; …`.

use std::ops::AddAssign;

/// How many tests of which result.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
}

/// Reads the output of runners as it comes.
#[derive(Default)]
pub struct Tally {
    totals: Totals,
    /// Runners that said how many tests they run, and no result yet.
    unfinished: u64,
    line: Vec<u8>,
}

// === impl Totals ===

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

// === impl Tally ===

impl Tally {
    pub fn feed(&mut self, output: &[u8]) {
        for byte in output {
            if *byte == b'\n' {
                self.end_line();
            } else {
                self.line.push(*byte);
            }
        }
    }

    /// The totals, when the command has ended. A runner that died before its result is one failure, and so is a command
    /// that failed for any other reason, such as tests that do not compile.
    pub fn finish(mut self, succeeded: bool) -> Totals {
        self.end_line();
        let mut totals = self.totals;
        totals.failed += self.unfinished;
        if !succeeded {
            totals.failed = totals.failed.max(1);
        }
        totals
    }

    fn end_line(&mut self) {
        let line = without_colours(&String::from_utf8_lossy(&std::mem::take(&mut self.line)));
        if let Some(totals) = result(&line) {
            self.totals += totals;
            self.unfinished = self.unfinished.saturating_sub(1);
        } else if announces_tests(&line) {
            self.unfinished += 1;
        }
    }
}

/// `running 3 tests`
fn announces_tests(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("running")
        && words.next().is_some_and(|count| count.parse::<u64>().is_ok())
        && matches!(words.next(), Some("test" | "tests"))
        && words.next().is_none()
}

/// `test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s`
fn result(line: &str) -> Option<Totals> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |of: &str| counts.split(';').find_map(|part| part.trim().strip_suffix(of)?.trim().parse::<u64>().ok());
    Some(Totals { passed: count("passed")?, failed: count("failed")?, ignored: count("ignored").unwrap_or(0) })
}

/// The line without the terminal's `ESC [ … m`.
fn without_colours(line: &str) -> String {
    let mut pieces = line.split("\u{1b}[");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain.push_str(piece.split_once('m').map_or(piece, |(_, text)| text));
    }
    plain.trim().to_owned()
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str = "running 3 tests\ntest a ... ok\n\ntest result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n";
    const FAILED: &str = "running 2 tests\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured\n";

    fn tally(output: &str, succeeded: bool) -> Totals {
        let mut tally = Tally::default();
        tally.feed(output.as_bytes());
        tally.finish(succeeded)
    }

    #[test]
    fn the_results_of_all_binaries_add_up() {
        let output = [PASSED, FAILED].concat();
        assert_eq!(tally(&output, false), Totals { passed: 4, failed: 1, ignored: 1 });
    }

    #[test]
    fn a_line_may_come_in_pieces_of_any_size() {
        let mut tally = Tally::default();
        for byte in FAILED.bytes() {
            tally.feed(&[byte]);
        }
        assert_eq!(tally.finish(false), Totals { passed: 1, failed: 1, ignored: 0 });
    }

    #[test]
    fn colours_do_not_hide_a_result() {
        let output = "test result: \u{1b}[32mok\u{1b}[0m. 2 passed; 0 failed; 0 ignored; finished in 0.01s\r\n";
        assert_eq!(tally(output, true), Totals { passed: 2, failed: 0, ignored: 0 });
    }

    #[test]
    fn a_result_without_a_final_newline_counts() {
        assert_eq!(tally(PASSED.trim_end(), true).passed, 3);
    }

    #[test]
    fn a_suite_that_does_not_build_is_one_failure() {
        assert_eq!(tally("", false), Totals { passed: 0, failed: 1, ignored: 0 });
    }

    #[test]
    fn a_runner_that_dies_without_a_result_is_one_failure_more() {
        let output = [FAILED, "running 1 test\n"].concat();
        assert_eq!(tally(&output, false), Totals { passed: 1, failed: 2, ignored: 0 });
    }

    #[test]
    fn what_a_test_prints_is_not_taken_for_a_result() {
        let output = "the test result: ok. 9 passed; 9 failed\nrunning 5 requests\nrunning out of tests\n";
        assert_eq!(tally(output, true), Totals::default());
    }
}
