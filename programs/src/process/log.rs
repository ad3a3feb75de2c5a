//! What a process has written so far, standard output and standard error together.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};

use crate::wait;

/// The lines of a process, in the order of their coming.
#[derive(Clone, Debug, Default)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
}

// === impl Log ===

impl Log {
    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.lock().clone()
    }

    /// The lines that contain `needle`.
    pub fn lines_with(&self, needle: &str) -> Vec<String> {
        self.lock().iter().filter(|line| line.contains(needle)).cloned().collect()
    }

    /// The last `count` lines, with line breaks between them.
    pub fn tail(&self, count: usize) -> String {
        let lines = self.lock();
        lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
    }

    /// Waits until a line contains `needle`, and returns the first that does.
    pub async fn wait_for(&self, needle: &str) -> Result<String> {
        let found = wait::until(
            &format!("a log line with {needle:?}"),
            || async { Ok(self.lines_with(needle)) },
            |lines| !lines.is_empty(),
        )
        .await
        .with_context(|| format!("the log ends with:\n{}", self.tail(20)))?;
        found.into_iter().next().context("no line")
    }

    /// Keeps what `output` delivers until it closes, in `copy` too. Bytes that are no UTF-8 are replaced here, not there.
    pub(super) fn follow(&self, output: impl Read + Send + 'static, mut copy: Option<File>) {
        let this = self.clone();
        thread::spawn(move || {
            for mut line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                this.lock().push(String::from_utf8_lossy(&line).trim_end().to_owned());
                if let Some(copy) = &mut copy {
                    line.push(b'\n');
                    // A full disk loses the copy, and not the lines.
                    let _ = copy.write_all(&line);
                }
            }
        });
    }

    /// A lock whose former owner panicked guards plain data here, which is still good.
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
