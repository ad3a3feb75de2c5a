//! How long Envoy's main thread takes to load the listeners, by its own log: compiling, instantiating and configuring
//! the filter is nearly all of that.
//!
//! Of the filter's VMs two are configured in that time: one to try the configuration out, and the main thread's own.
//! The workers' follow when they start.

use std::time::Duration;

use anyhow::{Context, Result};
use bluegreen_testbed::{Bootstrap, Envoy};

use crate::lab::Lab;

/// How often the configuration function runs while the listeners are loaded.
pub const CONFIGURED: f64 = 2.0;

const BEFORE: &str = " listener(s)";
const AFTER: &str = "loading stats configuration";

/// Starts an Envoy and returns how long loading its listeners took, in milliseconds.
pub async fn listeners_ms(lab: &Lab, bootstrap: Bootstrap) -> Result<f64> {
    let options = Envoy::with(bootstrap).binary(&lab.binary).concurrency(1).log_level("info");
    let envoy = options.start().await?;
    envoy.log().wait_for("starting main dispatch loop").await?;
    let took = between(&envoy.log().lines(), BEFORE, AFTER).context("Envoy's log has other lines than expected")?;
    Ok(took.as_secs_f64() * 1e3)
}

/// The time between the first line with `before` and the first with `after`.
fn between(lines: &[String], before: &str, after: &str) -> Option<Duration> {
    let at = |needle: &str| {
        let line = lines.iter().find(|line| line.contains(needle))?;
        let (stamp, _) = line.strip_prefix('[')?.split_once(']')?;
        humantime::parse_rfc3339_weak(stamp).ok()
    };
    at(after)?.duration_since(at(before)?).ok()
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_between_two_lines_is_read_from_their_stamps() {
        let lines = [
            "[2026-11-23 17:53:28.721][1][info][config] [x.cc:148] loading 2 listener(s)",
            "[2026-11-23 17:53:29.148][1][info][config] [x.cc:164] loading stats configuration",
        ]
        .map(str::to_owned);
        assert_eq!(between(&lines, BEFORE, AFTER), Some(Duration::from_millis(427)));
        assert_eq!(between(&lines, BEFORE, "not there"), None);
    }
}
