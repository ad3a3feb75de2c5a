//! What the user reads, and how fast.
//!
//! Commands, answers and sentences go to standard output, so that `cargo xtask demo --check > story.txt` keeps the whole
//! story; progress goes to standard error.

use std::io::{IsTerminal, Write, stdin, stdout};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use bluegreen_testbed::admin::Reply;
use reqwest::StatusCode;
use serde_json::Value;

/// Long enough to read a step that nobody can ask to go on.
const PAUSE: Duration = Duration::from_millis(1500);

/// A demo that was left alone comes to its end, and with it the traffic.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

const BOLD: &str = "1";
const DIM: &str = "2";

/// Prints the story.
pub struct Narrator {
    pacing: Pacing,
    styled: bool,
    step: u32,
    title: String,
}

/// What happens between two steps.
enum Pacing {
    /// Nothing: a machine reads.
    None,
    /// A short pause.
    Pause,
    /// The user presses Enter.
    Enter(Receiver<()>),
}

// === impl Narrator ===

impl Narrator {
    pub fn new(check: bool) -> Self {
        let pacing = match (check, stdin().is_terminal()) {
            (true, _) => Pacing::None,
            (false, true) => Pacing::Enter(lines()),
            (false, false) => Pacing::Pause,
        };
        let styled = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { pacing, styled, step: 0, title: String::new() }
    }

    pub fn introduction(&self, text: &str) {
        self.print(&format!("\n{text}"));
    }

    /// Begins a step, when the reader is ready for it.
    pub async fn step(&mut self, title: &str) {
        if self.step > 0 {
            self.turn().await;
        }
        self.step += 1;
        title.clone_into(&mut self.title);
        let heading = format!("{}. {title}", self.step);
        self.print(&format!("\n{}", self.style(BOLD, &heading)));
    }

    /// Where the story is, for an error message.
    pub fn place(&self) -> String {
        format!("step {}, {}", self.step, self.title)
    }

    /// A command as the user would type it.
    pub fn command(&self, command: &str) {
        self.print(&format!("\n  {}", self.style(BOLD, &format!("$ {}", command.replace('\n', "\n  ")))));
    }

    /// A line as the user would type it at Python's prompt.
    pub fn python(&self, line: &str) {
        self.print(&format!("\n  {}", self.style(BOLD, &format!(">>> {line}"))));
    }

    /// What the command answered.
    pub fn answer(&self, text: &str) {
        for line in text.trim_end().lines() {
            self.print(&format!("  {line}"));
        }
    }

    /// One sentence about what was seen.
    pub fn meaning(&self, sentence: &str) {
        self.print(&format!("  {}", self.style(DIM, &format!("=> {sentence}"))));
    }

    pub fn conclusion(&self, sentence: &str) {
        self.print(&format!("\n{}", self.style(BOLD, sentence)));
    }

    pub fn tables(&self, tables: &str) {
        self.print(&format!("\n{tables}"));
    }

    /// What a user can try while everything runs.
    pub fn invitation(&self, logs: &Path) {
        const ADMIN: &str = "http://127.0.0.1:10001/bluegreen/v1/deployments/iris";
        const OPERATOR: &str = "-H 'authorization: Bearer demo-operator-token'";
        let flower = crate::call::FLOWER;
        self.print(&format!(
            "\nBlue was started again, and everything runs until Ctrl-C. Try:\n\
             \n  curl -si http://127.0.0.1:10000/invocations -H 'content-type: application/json' -d '{flower}'\
             \n  curl -s {ADMIN} {OPERATOR}\
             \n  curl -s -X POST {ADMIN}/test {OPERATOR}\
             \n  curl -s -X PATCH '{ADMIN}?canary_percent=25' {OPERATOR}\
             \n  curl -s -X POST {ADMIN}/rollback {OPERATOR}\
             \n  curl -s {ADMIN}/history {OPERATOR}\
             \n  curl -s 'http://127.0.0.1:9901/stats/prometheus?filter=^wasmcustom'\
             \n\nThe output of Envoy and of the model servers is in {}.",
            logs.display()
        ));
    }

    async fn turn(&self) {
        match &self.pacing {
            Pacing::None => {}
            Pacing::Pause => tokio::time::sleep(PAUSE).await,
            Pacing::Enter(lines) => {
                // What was typed ahead does not count.
                while lines.try_recv().is_ok() {}
                self.print(&format!("\n{}", self.style(DIM, "(press Enter to continue)")));
                // The traffic goes on while this thread waits.
                let _ = tokio::task::block_in_place(|| lines.recv_timeout(LONGEST_WAIT));
            }
        }
    }

    fn style(&self, code: &str, text: &str) -> String {
        if self.styled { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn print(&self, text: &str) {
        // A closed standard output (`| head`) is no reason to stop: the exit code still says how it went.
        let _ = writeln!(stdout().lock(), "{text}");
    }
}

/// The status line, the filter's headers and the body: what `curl -i` prints, without what every proxy adds.
pub fn brief(reply: &Reply) -> String {
    let reason = StatusCode::from_u16(reply.status).ok().and_then(|status| status.canonical_reason());
    let mut text = format!("HTTP/1.1 {} {}\n", reply.status, reason.unwrap_or_default());
    for (name, value) in reply.headers.iter().filter(|(name, _)| name.starts_with("x-bluegreen-")) {
        text += &format!("{name}: {value}\n");
    }
    text + "…\n\n" + reply.text.trim_end()
}

/// Some members of a JSON object on one line, in the order asked for; `…` stands for the others.
pub fn members(object: &Value, names: &[&str]) -> String {
    let member = |name: &&str| Some(format!("\"{name}\": {}", object.get(name)?));
    let mut shown: Vec<String> = names.iter().filter_map(member).collect();
    if object.as_object().is_none_or(|object| object.len() > shown.len()) {
        shown.push("…".to_owned());
    }
    format!("{{{}}}", shown.join(", "))
}

/// One message per line that the user enters. The thread ends with the process: reading cannot be given up.
fn lines() -> Receiver<()> {
    let (entered, receiver) = channel();
    thread::spawn(move || {
        for line in stdin().lines() {
            if line.is_err() || entered.send(()).is_err() {
                return;
            }
        }
    });
    receiver
}

// === tests ===

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn members_come_in_the_order_asked_for_and_say_that_there_are_more() {
        let state = json!({"active": "blue", "name": "iris", "revision": 7});
        assert_eq!(members(&state, &["revision", "active"]), r#"{"revision": 7, "active": "blue", …}"#);
        assert_eq!(
            members(&state, &["revision", "name", "active"]),
            r#"{"revision": 7, "name": "iris", "active": "blue"}"#
        );
        assert_eq!(members(&json!("refused"), &["revision"]), "{…}");
    }

    #[test]
    fn an_answer_shows_the_filters_headers_and_the_body() {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let headers = BTreeMap::from([header("date", "today"), header("x-bluegreen-colour", "blue")]);
        let reply = Reply { status: 200, headers, text: "{}\n".to_owned() };
        assert_eq!(brief(&reply), "HTTP/1.1 200 OK\nx-bluegreen-colour: blue\n…\n\n{}");
    }
}
