//! The form of most inputs: sections between lines of three dashes. The first line of a section says what it is.

/// A section of an input.
#[derive(Clone, Copy, Debug)]
pub struct Section<'s> {
    /// The words of its first line.
    pub line: &'s str,
    /// All that follows.
    pub rest: &'s [u8],
}

/// The most sections of an input that are looked at: what takes longer is not found sooner.
const MOST: usize = 32;

/// The sections of an input. One whose first line is not UTF-8 has an empty line.
pub fn sections(input: &[u8]) -> Vec<Section<'_>> {
    parts(input).into_iter().map(Section::of).collect()
}

/// The same, without looking at their first lines.
pub fn parts(input: &[u8]) -> Vec<&[u8]> {
    const BETWEEN: &[u8] = b"\n---\n";
    let mut parts = Vec::new();
    let mut rest = input;
    while parts.len() < MOST {
        let Some(end) = rest.windows(BETWEEN.len()).position(|window| window == BETWEEN) else { break };
        parts.push(&rest[..end]);
        rest = &rest[end + BETWEEN.len()..];
    }
    parts.push(rest);
    parts
}

/// Up to the first line break, and what follows it.
pub fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, b""),
    }
}

// === impl Section ===

impl<'s> Section<'s> {
    fn of(bytes: &'s [u8]) -> Self {
        let (line, rest) = split_line(bytes);
        Self { line: std::str::from_utf8(line).unwrap_or_default(), rest }
    }

    /// The first word, and what follows it.
    pub fn directive(&self) -> (&'s str, &'s str) {
        self.line.split_once(' ').unwrap_or((self.line, ""))
    }
}
