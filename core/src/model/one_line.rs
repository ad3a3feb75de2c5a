//! Text of others in one line that shows all that it says.
//!
//! Who may write into etcd, the registry or a request may not write into the log: a line break begins a line of
//! its own, an escape moves the cursor of the terminal on which the log is read, and what is invisible or turns the direction of writing
//! around lets one name look like another.

use std::borrow::Cow;
use std::fmt::Write;

/// Format characters (the category Cf of Unicode 16) and the two separators of lines and paragraphs, in their order.
const INVISIBLE: [(u32, u32); 22] = [
    (0xAD, 0xAD),
    (0x600, 0x605),
    (0x61C, 0x61C),
    (0x6DD, 0x6DD),
    (0x70F, 0x70F),
    (0x890, 0x891),
    (0x8E2, 0x8E2),
    (0x180E, 0x180E),
    (0x200B, 0x200F),
    (0x2028, 0x2029),
    (0x202A, 0x202E),
    (0x2060, 0x2064),
    (0x2066, 0x206F),
    (0xFEFF, 0xFEFF),
    (0xFFF9, 0xFFFB),
    (0x110BD, 0x110BD),
    (0x110CD, 0x110CD),
    (0x13430, 0x1343F),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0001, 0xE0001),
    (0xE0020, 0xE007F),
];

/// Whether a reader does not see the character, or sees others moved by it: control and format characters.
pub fn is_hidden(letter: char) -> bool {
    let code = u32::from(letter);
    letter.is_control() || INVISIBLE.iter().any(|(first, last)| (*first..=*last).contains(&code))
}

/// The text with all that is hidden written out, as `\n` or `\u{202e}`.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        if !is_hidden(letter) {
            line.push(letter);
        } else {
            // A text takes what is written to it.
            let _: std::fmt::Result = write!(line, "{}", letter.escape_debug());
        }
    }
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn what_is_hidden_is_written_out_and_everything_else_stays() {
        let cases = [
            ("by=alice reason=\"v2 \u{2713}\" \\n", "by=alice reason=\"v2 \u{2713}\" \\n"),
            ("e\u{301}\u{3000}\u{a0}\u{1f469}\u{1f3fd}", "e\u{301}\u{3000}\u{a0}\u{1f469}\u{1f3fd}"),
            ("a\nb\r\tc", r"a\nb\r\tc"),
            ("\u{1b}[31mred", r"\u{1b}[31mred"),
            ("\u{9b}31m\u{7f}\0", r"\u{9b}31m\u{7f}\0"),
            ("gr\u{200b}een\u{feff}", r"gr\u{200b}een\u{feff}"),
            ("\u{202e}neerg\u{2069}", r"\u{202e}neerg\u{2069}"),
            ("a\u{2028}b\u{2029}\u{ad}\u{e0041}", r"a\u{2028}b\u{2029}\u{ad}\u{e0041}"),
        ];
        for (text, expected) in cases {
            assert_eq!(one_line(text), expected);
        }
    }

    #[test]
    fn every_hidden_character_comes_out_as_visible_ones() {
        for letter in ('\0'..=char::MAX).filter(|letter| is_hidden(*letter)) {
            let line = one_line(letter.encode_utf8(&mut [0; 4])).into_owned();
            assert!(line.len() > 1 && !line.contains(is_hidden), "{letter:?}: {line}");
        }
    }
}
