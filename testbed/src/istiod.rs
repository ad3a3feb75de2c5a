//! A real istiod on loopback, and what starts an Envoy as a gateway's pod would.
//!
//! Istio's own proxy is an Envoy with filters that no other one has. istiod sends three of them unless it is told not to:
//! `istio.stats` (with a telemetry provider), `istio.alpn` and `istio.metadata_exchange`. Here an Envoy as it is released
//! takes the place of that proxy, and there is no agent beside it: no image is fetched, and there are no certificates.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use bluegreen_programs::istiod::PILOT_DISCOVERY;
use bluegreen_programs::kubernetes::named;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bootstrap::Bootstrap;
use crate::kube_apiserver::KubeApiServer;
use crate::ports::{self, loopback};
use crate::process::{self, ManagedProcess};
use crate::wait;

/// The cluster by which a gateway reaches istiod.
const DISCOVERY: &str = "xds-grpc";

/// The version that a gateway says it has. istiod goes by it for what it sends.
const PROXY_VERSION: &str = "1.31.0";

/// How long istiod may take until it has read everything.
const PATIENCE: Duration = Duration::from_secs(60);

/// istiod. It ends with this value.
#[derive(Debug)]
pub struct Istiod {
    process: ManagedProcess,
    discovery: SocketAddr,
    folder: TempDir,
}

/// A gateway's pod, as istiod knows it.
#[derive(Clone, Debug)]
pub struct GatewayPod {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub namespace: String,
    /// What selectors are held against.
    pub labels: Value,
}

// === impl Istiod ===

impl Istiod {
    /// With the resources that `kubectl` puts into the API server.
    pub async fn start(server: &KubeApiServer) -> Result<Self> {
        Self::configured(server, |_| "k8s://".to_owned(), &[]).await
    }

    /// With resources of its own, in files: what others put into the API server does not reach it. It reads no WasmPlugin
    /// then, because only those of an API server are translated into what it uses since Istio 1.31. The API server has to be
    /// there all the same.
    pub async fn with_files(server: &KubeApiServer, manifests: &[Value]) -> Result<Self> {
        Self::configured(server, |folder| format!("fs://{}", folder.display()), manifests).await
    }

    async fn configured(
        server: &KubeApiServer,
        source: impl FnOnce(&Path) -> String,
        manifests: &[Value],
    ) -> Result<Self> {
        let folder = TempDir::with_prefix("bluegreen-istiod-")?;
        let resources = folder.path().join("resources");
        fs::create_dir(&resources)?;
        let mesh = json!({
            "configSources": [{"address": source(&resources)}],
            // Its certificates would come from an agent.
            "enableAutoMtls": false,
        });
        let configuration = folder.path().join("mesh.yaml");
        fs::write(&configuration, mesh.to_string())?;
        write(&resources, "manifests", manifests)?;
        let [discovery, http, monitoring] = [ports::free()?, ports::free()?, ports::free()?].map(loopback);
        let mut command = Command::new(program()?);
        command
            .args(["discovery", "--httpsAddr=", "--secureGRPCAddr=", "--ctrlz_port=0", "--profile=false"])
            .arg(format!("--grpcAddr={discovery}"))
            .arg(format!("--httpAddr={http}"))
            .arg(format!("--monitoringAddr={monitoring}"))
            .arg("--meshConfig")
            .arg(&configuration)
            .arg("--kubeconfig")
            .arg(server.kubeconfig()?)
            .current_dir(folder.path())
            .envs([("POD_NAMESPACE", "istio-system"), ("POD_NAME", "istiod"), ("ENABLE_CA_SERVER", "false")])
            .envs([("PILOT_ENABLE_METADATA_EXCHANGE", "false"), ("PILOT_ENABLE_ALPN_FILTER", "false")]);
        let istiod = Self { process: ManagedProcess::start("istiod", command)?, discovery, folder };
        let client = reqwest::Client::builder().no_proxy().build()?;
        let url = format!("http://{http}/ready");
        let look = || async {
            istiod.process.ensure_running()?;
            let answer = client.get(&url).timeout(Duration::from_secs(2)).send().await;
            Ok(answer.is_ok_and(|answer| answer.status().is_success()))
        };
        let ready = wait::until_within(PATIENCE, "istiod", look, |is_ready| *is_ready).await;
        ready.with_context(|| format!("its log ends with:\n{}", istiod.process.log().tail(10)))?;
        Ok(istiod)
    }

    /// Replaces all resources in its files.
    pub fn deliver(&self, manifests: &[Value]) -> Result<()> {
        write(&self.folder.path().join("resources"), "manifests", manifests)
    }

    /// What it has logged.
    pub fn log(&self) -> &process::Log {
        self.process.log()
    }

    /// What an Envoy starts with that is the proxy of a gateway's pod: everything else comes from istiod.
    pub fn bootstrap(&self, pod: &GatewayPod) -> Result<Bootstrap> {
        let GatewayPod { name, namespace, labels } = pod;
        let source = json!({"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"});
        let address = json!({"address": self.discovery.ip().to_string(), "port_value": self.discovery.port()});
        let tree = json!({
            "node": {
                "id": format!("router~127.0.0.1~{name}.{namespace}~{namespace}.svc.cluster.local"),
                "cluster": format!("{name}.{namespace}"),
                "metadata": {
                    "NAME": name,
                    "NAMESPACE": namespace,
                    "LABELS": labels,
                    "ISTIO_VERSION": PROXY_VERSION,
                    "CLUSTER_ID": "Kubernetes",
                },
            },
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "GRPC",
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": true,
                    "grpc_services": [{"envoy_grpc": {"cluster_name": DISCOVERY}}],
                },
                "lds_config": source,
                "cds_config": source,
            },
            "static_resources": {"clusters": [{
                "name": DISCOVERY,
                "type": "STATIC",
                "load_assignment": {
                    "cluster_name": DISCOVERY,
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": address}}}]}],
                },
            }]},
        });
        Ok(Bootstrap::parse(&tree.to_string())?.with_http2(DISCOVERY))
    }
}

/// Writes one file of resources, at once: istiod must not see half of it.
fn write(folder: &Path, name: &str, manifests: &[Value]) -> Result<()> {
    let text: String = manifests.iter().map(|manifest| format!("---\n{manifest}\n")).collect();
    let draft = folder.join(format!("{name}.draft"));
    fs::write(&draft, text)?;
    fs::rename(&draft, folder.join(format!("{name}.yaml"))).context("the resources cannot be replaced")
}

/// The binary: the one that the variable names, or the one in the path.
fn program() -> Result<PathBuf> {
    let found = named(PILOT_DISCOVERY).or_else(|| process::find("pilot-discovery"));
    found.with_context(|| {
        format!("there is no pilot-discovery: `cargo xtask test --suite mesh` builds it, or set {PILOT_DISCOVERY}")
    })
}
