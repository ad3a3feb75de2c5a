//! What every subject measures with: the Envoy binary, the module, and an upstream too fast to matter.
//!
//! The upstream is an Envoy of its own that answers by `direct_response`, so that its processor time is not counted
//! with the proxy's.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use bluegreen_programs::prepared::Prepared;
use bluegreen_testbed::{Bootstrap, Envoy};
use serde_json::{Value, json};

use crate::processors;

/// What MLflow answers about a model.
const REGISTERED: &str = r#"{"registered_model": {"name": "m", "aliases": [{"alias": "production", "version": "1"},
    {"alias": "blue", "version": "1"}, {"alias": "green", "version": "2"}]}}"#;

/// Everything that is needed to measure, and how thoroughly to do it.
pub struct Lab {
    pub binary: PathBuf,
    pub module: PathBuf,
    pub quick: bool,
    pub blue: SocketAddr,
    pub green: SocketAddr,
    /// A model registry that says of any model that blue is in production.
    pub registry: SocketAddr,
    /// Answers for both colours; ends with this value.
    _upstream: Envoy,
}

// === impl Lab ===

impl Lab {
    pub async fn open(prepared: &Prepared, quick: bool) -> Result<Self> {
        // The testbed's load reads the colour from a body like this one.
        let coloured = |colour: &str| upstream_listener(colour, &format!("{{\"colour\": \"{colour}\"}}"));
        let listeners = [coloured("blue"), coloured("green"), upstream_listener("registry", REGISTERED)];
        let bootstrap = Bootstrap::parse(
            &json!({
                "admin": {"address": socket(0)},
                "static_resources": {"listeners": listeners},
            })
            .to_string(),
        )?;
        let upstream = Envoy::with(bootstrap).binary(&prepared.envoy).processors(&processors::others()?).concurrency(1);
        let upstream = upstream.start().await;
        let upstream = upstream.context("the upstream of the benches")?;
        Ok(Self {
            binary: prepared.envoy.clone(),
            module: prepared.module.clone(),
            quick,
            blue: upstream.listener("blue")?,
            green: upstream.listener("green")?,
            registry: upstream.listener("registry")?,
            _upstream: upstream,
        })
    }

    /// One of two values: for a quick run, or for one to be relied on.
    pub fn pick<T>(&self, quick: T, thorough: T) -> T {
        if self.quick { quick } else { thorough }
    }

    /// Starts an Envoy whose processor time is to be measured: one worker, on a processor of its own.
    pub async fn start_alone(&self, bootstrap: Bootstrap) -> Result<Envoy> {
        let envoy = Envoy::with(bootstrap).binary(&self.binary).processors(processors::MEASURED);
        envoy.concurrency(1).start().await
    }

    /// Starts an Envoy of one worker that another program runs, such as valgrind.
    pub async fn start_observed(&self, bootstrap: Bootstrap, by: &[String]) -> Result<Envoy> {
        Envoy::with(bootstrap).binary(&self.binary).concurrency(1).observed_by(by).start().await
    }

    /// Starts an Envoy with this many workers.
    pub async fn start(&self, bootstrap: Bootstrap, workers: u32) -> Result<Envoy> {
        Envoy::with(bootstrap).binary(&self.binary).concurrency(workers).start().await
    }
}

/// Sets runtime keys through Envoy's own admin interface.
pub async fn modify_runtime(http: &reqwest::Client, envoy_admin: SocketAddr, values: &[(&str, u32)]) -> Result<()> {
    let answer = http.post(format!("http://{envoy_admin}/runtime_modify")).query(values).send().await?;
    let status = answer.status();
    ensure!(status.is_success(), "runtime_modify answered {status}: {}", answer.text().await.unwrap_or_default());
    Ok(())
}

fn socket(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn upstream_listener(colour: &str, body: &str) -> Value {
    json!({
        "name": colour,
        "address": socket(0),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": colour,
                "generate_request_id": false,
                // An answer before the end of the request would close the connection.
                "http_filters": [{
                    "name": "envoy.filters.http.buffer",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer",
                        "max_request_bytes": 65536,
                    },
                }, {
                    "name": "envoy.filters.http.router",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                        "dynamic_stats": false,
                    },
                }],
                "route_config": {"virtual_hosts": [{
                    "name": colour,
                    "domains": ["*"],
                    "routes": [{
                        "match": {"prefix": "/"},
                        "direct_response": {"status": 200, "body": {"inline_string": body}},
                    }],
                }]},
            },
        }]}],
    })
}
