//! What the demo brings up: two model servers in this process, an Envoy, and live traffic. All of it ends with its value.

use std::future;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bluegreen_demo::model::{BLUE, GREEN, Model};
use bluegreen_demo::traffic::{Switch, Traffic};
use bluegreen_model_server::{Version, serve};
use bluegreen_testbed::envoy::{ADMIN, OPERATOR};
use bluegreen_testbed::load::Report;
use bluegreen_testbed::ports::loopback;
use bluegreen_testbed::{Admin, Bootstrap, Envoy};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::envoy::{self, Found};
use super::{Arguments, module};

/// The configuration that ships, comments and all.
const CONFIGURATION: &str = include_str!("../../../envoy/envoy.yaml");

/// The deployment in it.
pub const DEPLOYMENT: &str = "iris";

/// By how much a slow green is late: more than the guard takes for slow.
const LATE: Duration = Duration::from_millis(120);
const SLOW: &str = "50ms";

/// All that runs.
pub struct Stage {
    /// Where blue and green are.
    pub models: [SocketAddr; 2],
    pub traffic: Traffic,
    envoy: Envoy,
    _folder: TempDir,
}

// === impl Stage ===

impl Stage {
    pub async fn set(arguments: &Arguments, found: &Found) -> Result<Self> {
        let folder = TempDir::with_prefix("bluegreen-demo-").with_context(|| {
            format!("cannot write to {}: set TMPDIR to a folder that you may write to", std::env::temp_dir().display())
        })?;
        let module = module::obtain(arguments.module.as_deref(), folder.path())?;
        let late = if arguments.slow_green { LATE } else { Duration::ZERO };
        let port = |model: &Model| if arguments.free_ports { 0 } else { model.port };
        let models =
            [start(Version::One, port(&BLUE), Duration::ZERO).await?, start(Version::Two, port(&GREEN), late).await?];
        let configuration = configuration(models, &module, arguments.free_ports)?;
        let started = Envoy::with(configuration).binary(&found.binary).working_directory(folder.path()).start().await;
        let envoy = started.map_err(|error| envoy::explain(&found.binary, error))?;
        let traffic = Traffic::start(envoy.traffic()?)?;
        Ok(Self { models, traffic, envoy, _folder: folder })
    }

    /// Where clients send their requests.
    pub fn clients(&self) -> Result<SocketAddr> {
        self.envoy.traffic()
    }

    /// Where the filter's admin API is.
    pub fn api(&self) -> Result<String> {
        Ok(format!("http://{}/bluegreen", self.envoy.listener(ADMIN)?))
    }

    /// The token for it.
    pub fn token(&self) -> &'static str {
        OPERATOR
    }

    pub fn admin(&self) -> Result<Admin> {
        self.envoy.admin()
    }

    /// Ends the traffic, and tells all that was sent and every switch.
    pub async fn end(self) -> (Report, Vec<Switch>) {
        self.traffic.stop().await
    }

    pub fn ensure_running(&mut self) -> Result<()> {
        self.envoy.ensure_running()
    }
}

/// The shipped configuration with these model servers and this module, and with a guard: a configuration to copy from has
/// none, because it acts without being asked.
fn configuration([blue, green]: [SocketAddr; 2], module: &Path, free_ports: bool) -> Result<Bootstrap> {
    let shipped = Bootstrap::parse(CONFIGURATION).context("the shipped envoy.yaml")?;
    let shipped = if free_ports { shipped.with_free_ports() } else { shipped };
    Ok(shipped
        .with_wasm(module)
        .with_cluster(BLUE.colour, blue)
        .with_cluster(GREEN.colour, green)
        .deployment(DEPLOYMENT, |iris| iris["guard"] = json!({"slow": {"over": SLOW}})))
}

/// Starts a model server that ends with this process.
async fn start(version: Version, port: u16, late: Duration) -> Result<SocketAddr> {
    let listener = TcpListener::bind(loopback(port)).await.with_context(|| format!("cannot listen on port {port}"))?;
    let address = listener.local_addr()?;
    tokio::spawn(serve(listener, version, late, future::pending()));
    Ok(address)
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_configuration_gets_the_demos_servers_module_and_guard() -> Result<()> {
        let made = configuration([loopback(1), loopback(2)], Path::new("/a/module.wasm"), false)?.to_text();
        for expected in ["/a/module.wasm", "\"port_value\": 1\n", "\"port_value\": 10000", "\"over\": \"50ms\""] {
            assert!(made.contains(expected), "no {expected} in {made}");
        }
        let free = configuration([loopback(1), loopback(2)], Path::new("/a/module.wasm"), true)?.to_text();
        assert!(!free.contains("\"port_value\": 10000") && !free.contains("9901"), "{free}");
        Ok(())
    }
}
