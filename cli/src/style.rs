//! How the command line shows things: colours on a terminal, shares, bars, times, tables.

use std::env;
use std::io::{self, IsTerminal};
use std::time::{Duration, SystemTime};

use bluegreen_core::model::colour::Colour;
use bluegreen_core::model::time::Timestamp;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};

/// Whether what is printed is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    is_coloured: bool,
}

// === impl Style ===

impl Style {
    /// As the standard output takes it: colours on a terminal, unless `NO_COLOR` or `TERM=dumb` asks for none.
    pub fn of_stdout() -> Self {
        let is_off = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { is_coloured: !is_off && io::stdout().is_terminal() }
    }

    /// Without colours.
    #[cfg(test)]
    pub const fn plain() -> Self {
        Self { is_coloured: false }
    }

    fn escape(self, code: &str, text: &str) -> String {
        if self.is_coloured { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// What comes first.
    pub fn bold(self, text: &str) -> String {
        self.escape("1", text)
    }

    /// What can be overlooked.
    pub fn dim(self, text: &str) -> String {
        self.escape("2", text)
    }

    /// What must not be overlooked.
    pub fn warn(self, text: &str) -> String {
        self.escape("33", text)
    }

    /// What went wrong.
    pub fn bad(self, text: &str) -> String {
        self.escape("31", text)
    }

    /// A table without lines, with these titles.
    pub fn table<const N: usize>(self, titles: [&str; N]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if self.is_coloured {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        if titles.iter().any(|title| !title.is_empty()) {
            table.set_header(titles.map(|title| Cell::new(title).add_attribute(Attribute::Dim)));
        }
        table
    }

    /// Prints a table without the spaces that it has at both ends of its lines.
    pub fn print(self, table: &Table) {
        print!("{}", lines(table));
    }
}

/// A table as lines of text.
pub fn lines(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(&line).trim_end())).collect()
}

/// A cell of something that belongs to a colour.
pub fn colour_cell(colour: Colour, text: &str) -> Cell {
    Cell::new(text).fg(if colour == Colour::Blue { Color::Blue } else { Color::Green })
}

/// A cell with a figure.
pub fn figure(text: impl ToString) -> Cell {
    Cell::new(text.to_string()).set_alignment(CellAlignment::Right)
}

/// A share in percent, without noughts at its end: `12.5 %`.
pub fn percent(share: f64) -> String {
    format!("{} %", decimal(share, 2))
}

/// A figure with at most so many digits after the point.
pub fn decimal(figure: f64, digits: usize) -> String {
    let text = format!("{figure:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// Milliseconds to three digits: `2.63 ms`, `118 ms`, `1.2 s`.
pub fn latency(millis: Option<f64>) -> String {
    match millis {
        None => "–".to_owned(),
        Some(millis) if millis >= 1_000.0 => format!("{} s", decimal(millis / 1_000.0, 2)),
        Some(millis) => format!("{} ms", decimal(millis, if millis < 10.0 { 2 } else { 0 })),
    }
}

/// How much of a whole of `width` characters a share fills. What is there at all is to be seen.
pub fn filled(share: f64, width: usize) -> usize {
    let exact = share / 100.0 * width as f64;
    match exact.round() as usize {
        0 if share > 0.0 => 1,
        all if all >= width && share < 100.0 => width.saturating_sub(1),
        some => some.min(width),
    }
}

/// The active colour's share and the candidate's, side by side.
pub fn bar(candidate_share: f64, width: usize) -> String {
    let candidate = filled(candidate_share, width);
    format!("{}{}", "█".repeat(width.saturating_sub(candidate)), "░".repeat(candidate))
}

/// How long ago something was: `40 s`, `2 min`, `3 h`, `5 d`.
pub fn age(of: Timestamp, now: Timestamp) -> String {
    format!("{} ago", span(now.since(of)))
}

/// A length of time, in its largest unit.
pub fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// The clock of this machine.
pub fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// The time of day, in UTC as all that the API says: `18:10:08Z`.
pub fn time_of_day(at: Timestamp) -> String {
    at.to_string().get(11..19).map(|time| format!("{time}Z")).unwrap_or_default()
}

/// So much of a text, and a sign that there was more.
pub fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most.saturating_sub(1)) {
        Some((end, _)) if text.chars().count() > most => format!("{}…", &text[..end]),
        _ => text.to_owned(),
    }
}

/// `1 request`, `2 requests`.
pub fn count(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_written_as_they_were_set() {
        let cases = [(0.0, "0 %"), (10.0, "10 %"), (12.5, "12.5 %"), (0.01, "0.01 %"), (100.0, "100 %"), (-0.0, "0 %")];
        for (share, written) in cases {
            assert_eq!(percent(share), written);
        }
    }

    #[test]
    fn a_bar_shows_any_share_and_never_all_that_is_not_all() {
        let cases = [
            (0.0, "██████████"),
            (0.01, "█████████░"),
            (50.0, "█████░░░░░"),
            (99.99, "█░░░░░░░░░"),
            (100.0, "░░░░░░░░░░"),
        ];
        for (share, drawn) in cases {
            assert_eq!(bar(share, 10), drawn, "{share}");
        }
    }

    #[test]
    fn times_are_said_in_their_largest_unit() {
        let cases = [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_199, "119 min"), (7_200, "2 h"), (172_800, "2 d")];
        for (seconds, said) in cases {
            assert_eq!(span(Duration::from_secs(seconds)), said);
        }
        let at = Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_secs(65));
        assert_eq!((time_of_day(at).as_str(), age(at, at).as_str()), ("00:01:05Z", "0 s ago"));
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let cases = [("grün", 9, "grün"), ("grün", 4, "grün"), ("grün", 3, "gr…"), ("über", 1, "…")];
        for (text, most, short) in cases {
            assert_eq!(shortened(text, most), short);
        }
    }

    #[test]
    fn without_a_terminal_nothing_is_coloured() {
        let mut table = Style::plain().table(["A", "B"]);
        table.add_row([colour_cell(Colour::Blue, "blue"), figure(7)]);
        assert_eq!(lines(&table), "A     B\nblue  7\n");
        assert_eq!(Style::plain().bad("x"), "x");
        assert_eq!(Style { is_coloured: true }.bad("x"), "\u{1b}[31mx\u{1b}[0m");
    }
}
