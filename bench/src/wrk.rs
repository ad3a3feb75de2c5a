//! Load as fast as answers come, by `wrk`: a program of its own, so that its processor time is not the bench's.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bluegreen_programs::{packages, process};

use crate::processors;

/// The load of one measurement.
#[derive(Clone, Debug)]
pub struct Wrk {
    pub address: SocketAddr,
    pub path: String,
    /// wrk adds a `Host` of its own unless there is one here, spelt like that.
    pub headers: Vec<(String, String)>,
    pub connections: usize,
    /// Whether it keeps off the processor of what is measured.
    pub pinned: bool,
    /// In whole seconds: wrk knows no others.
    pub lasting: Duration,
}

/// Sees to it that wrk is there.
pub fn obtain() -> Result<()> {
    packages::provide(&[("wrk", "wrk")], "the load of the benches")
}

// === impl Wrk ===

impl Wrk {
    /// Sends until the time is over; an error if any answer was not 2xx or 3xx, or any connection broke.
    pub async fn run(&self) -> Result<()> {
        let mut command = self.command(if self.pinned { Some(processors::others()?) } else { None });
        let said = tokio::task::spawn_blocking(move || process::answer(&mut command)).await.context("wrk")??;
        ensure!(all_went_well(&said), "requests failed under load:\n{said}");
        Ok(())
    }

    fn command(&self, processors: Option<String>) -> Command {
        let mut command = match processors {
            Some(list) => {
                let mut taskset = Command::new("taskset");
                taskset.args(["--cpu-list", &list, "wrk"]);
                taskset
            }
            None => Command::new("wrk"),
        };
        let seconds = self.lasting.as_secs().max(1);
        command.args(["--threads", "1", "--connections", &self.connections.to_string()]);
        command.args(["--duration", &format!("{seconds}s"), "--timeout", "10s"]);
        for (name, value) in &self.headers {
            command.args(["--header", &format!("{name}: {value}")]);
        }
        command.arg(format!("http://{}{}", self.address, self.path));
        command
    }
}

fn all_went_well(said: &str) -> bool {
    said.contains("requests in") && !said.contains("Non-2xx") && !said.contains("Socket errors")
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_bounded_and_names_its_headers() {
        let load = Wrk {
            address: SocketAddr::from(([127, 0, 0, 1], 10_000)),
            path: "/invocations".to_owned(),
            headers: vec![("x-user-id".to_owned(), "7".to_owned())],
            connections: 8,
            pinned: true,
            lasting: Duration::from_secs(3),
        };
        let command = load.command(Some("1".to_owned()));
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        assert!(arguments.windows(2).any(|pair| pair == ["--duration", "3s"]), "{arguments:?}");
        assert!(arguments.windows(2).any(|pair| pair == ["--header", "x-user-id: 7"]), "{arguments:?}");
        assert_eq!(arguments.last().map(|url| &**url), Some("http://127.0.0.1:10000/invocations"));
    }

    #[test]
    fn errors_in_the_report_are_seen() {
        assert!(all_went_well("  9 requests in 1.00s, 2.00KB read\nRequests/sec: 9.00"));
        assert!(!all_went_well("  9 requests in 1.00s\n  Non-2xx or 3xx responses: 9"));
        assert!(!all_went_well("  9 requests in 1.00s\n  Socket errors: connect 0, read 1, write 0, timeout 0"));
        assert!(!all_went_well(""));
    }
}
