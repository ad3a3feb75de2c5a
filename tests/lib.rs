//! End-to-end tests in a real Envoy: what all of them need.
//!
//! Each file beside this one is a test program about one promise. They stand on `bluegreen-testbed`; only what is about
//! tests alone is here.

pub mod admin_call;
pub mod following;
pub mod kubernetes;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use bluegreen_testbed::load::Report;
use bluegreen_testbed::{Admin, Bootstrap, Envoy, Load, Upstream, envoy, repository};

/// The deployment of the shipped configuration.
pub const IRIS: &str = "iris";

/// The path that it matches.
pub const PATH: &str = "/invocations";

/// A blue upstream, a green one, and an Envoy in front of them.
#[derive(Debug)]
pub struct Stage {
    /// The Envoy.
    pub envoy: Envoy,
    /// The upstream behind the cluster `blue`.
    pub blue: Upstream,
    /// The upstream behind the cluster `green`.
    pub green: Upstream,
}

/// A change of the active colour, as the one who made it saw it.
#[derive(Clone, Debug)]
pub struct Switch {
    /// Just before the call.
    pub asked: Instant,
    /// When its answer had arrived.
    pub answered: Instant,
    /// The active colour since.
    pub colour: String,
}

// === impl Stage ===

impl Stage {
    /// The shipped configuration with this many worker threads.
    pub async fn new(workers: u32) -> Result<Self> {
        Self::with(workers, Bootstrap::shipped()?).await
    }

    /// A configuration of one's own, in front of the two upstreams.
    pub async fn with(workers: u32, bootstrap: Bootstrap) -> Result<Self> {
        Self::start(bootstrap, |options| options.concurrency(workers)).await
    }

    /// The most general form.
    pub async fn start(bootstrap: Bootstrap, options: impl FnOnce(envoy::Options) -> envoy::Options) -> Result<Self> {
        let blue = Upstream::start("blue").await?;
        let green = Upstream::start("green").await?;
        let bootstrap = bootstrap.with_cluster("blue", blue.address()).with_cluster("green", green.address());
        let envoy = options(Envoy::with(bootstrap)).start().await?;
        Ok(Self { envoy, blue, green })
    }

    /// Traffic for the deployment.
    pub fn load(&self) -> Result<Load> {
        Ok(Load::new(self.envoy.traffic()?, PATH))
    }

    /// Fails when a VM has trapped: under the shipped failure policy nobody else would notice.
    pub fn ensure_no_trap(&self) -> Result<()> {
        for sign in ["Function: proxy_on_", "panicked at", "Proxy-Wasm plugin in-VM backtrace"] {
            let lines = self.envoy.log().lines_with(sign);
            ensure!(lines.is_empty(), "the filter trapped: {lines:#?}");
        }
        Ok(())
    }
}

// === impl Switch ===

impl Switch {
    /// Promotes and rolls back in turn, ten times in all, under this load: nothing fails, and nothing goes to the old
    /// colour after an answer.
    pub async fn back_and_forth(load: Load, admin: &Admin) -> Result<()> {
        let running = load.connections(8).start();
        let mut switches = Vec::new();
        for round in 0..10 {
            running.more(40).await?;
            let asked = Instant::now();
            let state = if round % 2 == 0 { admin.promote(IRIS).await? } else { admin.rollback(IRIS).await? };
            switches.push(Self { asked, answered: Instant::now(), colour: state.active });
        }
        running.more(40).await?;
        let report = running.stop().await;
        report.ensure_no_failures()?;
        report.ensure_truthful()?;
        let certain = Self::ensure_all_hold(&switches, &report)?;
        ensure!(certain > 200, "only {certain} requests prove anything");
        Ok(())
    }

    /// Fails unless each request that began after a switch's answer, and ended before the next switch was asked for,
    /// was answered by the colour of that switch. Returns how many requests were so certain.
    pub fn ensure_all_hold(switches: &[Self], report: &Report) -> Result<usize> {
        let mut certain = 0;
        for (index, switch) in switches.iter().enumerate() {
            let next = switches.get(index + 1).map(|next| next.asked);
            for record in &report.records {
                if record.began <= switch.answered || next.is_some_and(|next| record.ended >= next) {
                    continue;
                }
                certain += 1;
                ensure!(
                    record.colour() == Some(&switch.colour),
                    "switch {index}: a request that began {:?} after the answer \"active: {}\" got {:?}",
                    record.began - switch.answered,
                    switch.colour,
                    record.outcome,
                );
            }
        }
        Ok(certain)
    }

    /// Fails unless for each switch there is one instant that parts the answers: no request that was answered by the
    /// colour before it began after one that was answered by the colour since had ended. That is more than
    /// [`Self::ensure_all_hold`] asks for, which leaves open what happens during a call.
    pub fn ensure_single_points(switches: &[Self], report: &Report) -> Result<()> {
        for (index, switch) in switches.iter().enumerate() {
            // Only requests that can have seen this switch and no other.
            let from = index.checked_sub(1).and_then(|before| switches.get(before)).map(|before| before.answered);
            let to = switches.get(index + 1).map(|next| next.asked);
            let near = report
                .records
                .iter()
                .filter(|record| from.is_none_or(|from| record.began > from) && to.is_none_or(|to| record.ended < to));
            let (since, before): (Vec<_>, Vec<_>) = near.partition(|record| record.colour() == Some(&switch.colour));
            let first_since = since.iter().map(|record| record.ended).min();
            let last_before = before.iter().map(|record| record.began).max();
            if let (Some(first), Some(last)) = (first_since, last_before) {
                ensure!(
                    last <= first,
                    "switch {index} to {}: a request that began {:?} after an answer of the new colour got the old one",
                    switch.colour,
                    last - first,
                );
            }
        }
        Ok(())
    }
}

/// A `GET` with these headers as bytes; the connection is closed after the answer.
pub fn get(path: &str, headers: &[(&str, &[u8])]) -> Vec<u8> {
    request("GET", path.as_bytes(), headers)
}

/// A request without a body, as bytes.
pub fn request(method: &str, path: &[u8], headers: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = [method.as_bytes(), b" ", path, b" HTTP/1.1\r\nconnection: close\r\n"].concat();
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        bytes.extend(b"host: models.example\r\n");
    }
    for (name, value) in headers {
        bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    bytes.extend(b"\r\n");
    bytes
}

/// Compiles a fixture in WebAssembly's text format into `folder`.
pub fn module(name: &str, folder: &Path) -> Result<PathBuf> {
    let source = std::fs::read(repository::root().join("tests/fixtures").join(name))?;
    let path = folder.join(name).with_extension("wasm");
    std::fs::write(&path, wat::parse_bytes(&source)?)?;
    Ok(path)
}
