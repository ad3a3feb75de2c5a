//! A real Envoy Gateway in its standalone mode: it reads manifests from a folder, and starts and configures an Envoy.
//!
//! Nothing stands between the manifests and Envoy but Envoy Gateway itself. What a cluster would add is put in here:
//!
//! * Backends take the place of Services, which the standalone mode does not read;
//! * listeners take a free port of loopback each, by an EnvoyPatchPolicy;
//! * the cluster from which Envoy fetches modules is patched, too: Envoy Gateway 1.9 writes the name of a Service and
//!   certificates of a pod into it, also where neither exists.
//!
//! Its own ports are fixed, so one of them runs on a machine at a time.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bluegreen_programs::envoy_gateway::ENVOY_GATEWAY;
use bluegreen_programs::kubernetes::named;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ports::loopback;
use crate::process::{self, Log, ManagedProcess};
use crate::repository;

/// The file that only one at a time has locked.
const LOCK: &str = "bluegreen-envoy-gateway.lock";

/// The version under which the Envoy of these tests is put where Envoy Gateway looks for one before it downloads it.
const ENVOY_VERSION: &str = "1.40.0";

/// How long it may take until Envoy has what the manifests say, beside busy neighbours.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long to pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Envoy Gateway and its Envoy. They end with this value.
#[derive(Debug)]
pub struct EnvoyGateway {
    process: ManagedProcess,
    folder: TempDir,
    http: reqwest::Client,
    own_admin: SocketAddr,
    _alone: File,
}

// === impl EnvoyGateway ===

impl EnvoyGateway {
    /// Starts it with these manifests and the Services of their namespace, and waits until every listener is there.
    pub async fn start(manifests: &[Value], services: &BTreeMap<&str, SocketAddr>) -> Result<Self> {
        let alone = File::create(env::temp_dir().join(LOCK))?;
        let alone = tokio::task::spawn_blocking(move || alone.lock().map(|()| alone)).await??;
        let program = named(ENVOY_GATEWAY).with_context(|| format!("{ENVOY_GATEWAY} names no program"))?;
        let folder = TempDir::with_prefix("bluegreen-envoy-gateway-")?;
        let path = |name: &str| folder.path().join(name);
        // It also writes below the home folder.
        let run = |arguments: &[&str]| {
            let mut command = Command::new(&program);
            command.args(arguments).env("HOME", folder.path()).current_dir(folder.path());
            command
        };
        process::answer(run(&["certgen", "--local", "--config-home"]).arg(path("config")))?;
        let envoy = path("data/envoy-versions").join(ENVOY_VERSION).join("bin");
        fs::create_dir_all(&envoy)?;
        symlink(repository::envoy()?, envoy.join("envoy"))?;
        fs::create_dir(path("manifests"))?;
        fs::write(path("envoy-gateway.yaml"), configuration(folder.path()).to_string())?;
        let command = run(&["server", "--config-path", "envoy-gateway.yaml"]);
        let mut gateway = Self {
            process: {
                write(folder.path(), manifests, services)?;
                ManagedProcess::start("envoy-gateway", command)?
            },
            folder,
            http: reqwest::Client::builder().no_proxy().build()?,
            own_admin: loopback(0),
            _alone: alone,
        };
        gateway.until_ready(manifests).await?;
        Ok(gateway)
    }

    /// The address of a listener, by its name in the Gateway.
    pub async fn listener(&self, gateway: &str, name: &str) -> Result<SocketAddr> {
        let listeners = self.listeners().await?;
        let wanted = format!("{gateway}/{name}");
        let found = listeners.iter().find(|(found, _)| *found == wanted);
        found.map(|(_, address)| *address).with_context(|| format!("no listener {wanted} in {listeners:?}"))
    }

    /// What Envoy Gateway, its Envoy and the filter have logged.
    pub fn log(&self) -> &Log {
        self.process.log()
    }

    /// `GET path` of the Envoy's own admin interface.
    pub async fn ask(&self, path: &str) -> Result<String> {
        let answer = self.http.get(format!("http://{}{path}", self.own_admin)).timeout(Duration::from_secs(10));
        Ok(answer.send().await?.error_for_status()?.text().await?)
    }

    /// What the Envoy was configured with.
    pub async fn config_dump(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.ask("/config_dump").await?)?)
    }

    async fn listeners(&self) -> Result<Vec<(String, SocketAddr)>> {
        let answer: Value = serde_json::from_str(&self.ask("/listeners?format=json").await?)?;
        let listeners = answer["listener_statuses"].as_array().into_iter().flatten();
        Ok(listeners
            .filter_map(|listener| {
                let address = &listener["local_address"]["socket_address"];
                let address = format!("{}:{}", address["address"].as_str()?, address["port_value"]);
                Some((listener["name"].as_str()?.to_owned(), address.parse().ok()?))
            })
            .collect())
    }

    async fn until_ready(&mut self, manifests: &[Value]) -> Result<()> {
        let wanted: usize = manifests
            .iter()
            .filter(|manifest| manifest["kind"] == "Gateway")
            .map(|gateway| gateway["spec"]["listeners"].as_array().map_or(0, Vec::len))
            .sum();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            self.process.ensure_running()?;
            match self.are_listening(wanted).await {
                Ok(()) => return Ok(()),
                Err(error) if tokio::time::Instant::now() > deadline => {
                    bail!("{error:#}; Envoy Gateway and its Envoy say:\n{}", self.log().tail(60))
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn are_listening(&mut self, wanted: usize) -> Result<()> {
        let address = fs::read_to_string(self.folder.path().join("admin")).context("Envoy has not started")?;
        self.own_admin = address.trim().parse().context("Envoy's admin address")?;
        let listeners = self.listeners().await?;
        let ready = listeners.iter().filter(|(_, address)| address.ip().is_loopback() && address.port() != 0).count();
        ensure!(ready >= wanted, "{ready} of {wanted} listeners are there: {listeners:?}");
        Ok(())
    }
}

impl Drop for EnvoyGateway {
    fn drop(&mut self) {
        // So it takes its Envoy along.
        self.process.stop_within(Duration::from_secs(10)).ok();
    }
}

/// The configuration of Envoy Gateway itself.
fn configuration(folder: &Path) -> Value {
    let path = |name: &str| folder.join(name);
    json!({
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyGateway",
        "gateway": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"},
        "provider": {"type": "Custom", "custom": {
            "resource": {"type": "File", "file": {"paths": [path("manifests")]}},
            "infrastructure": {"type": "Host", "host": {
                "configHome": path("config"),
                "dataHome": path("data"),
                "stateHome": path("state"),
                "runtimeDir": path("run"),
            }},
        }},
        "extensionApis": {"enableEnvoyPatchPolicy": true, "enableBackend": true},
    })
}

/// Writes the manifests where Envoy Gateway looks for them, with what only a cluster would have.
fn write(folder: &Path, manifests: &[Value], services: &BTreeMap<&str, SocketAddr>) -> Result<()> {
    let mut all: Vec<Value> = manifests.to_vec();
    all.iter_mut().for_each(|manifest| refer_to_backends(manifest, services));
    for proxy in all.iter_mut().filter(|manifest| manifest["kind"] == "EnvoyProxy") {
        proxy["spec"]["provider"] = json!({"type": "Host", "host": {"envoyVersion": ENVOY_VERSION}});
        proxy["spec"]["concurrency"] = json!(2);
        proxy["spec"]["extraArgs"] = json!(["--disable-hot-restart", "--admin-address-path", folder.join("admin")]);
    }
    for gateway in manifests.iter().filter(|manifest| manifest["kind"] == "Gateway") {
        let namespace = &gateway["metadata"]["namespace"];
        all.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}));
        all.extend(services.iter().map(|(name, address)| backend(namespace, name, *address)));
        all.push(patch(folder, gateway));
    }
    let text: String = all.iter().map(|manifest| format!("---\n{manifest}\n")).collect();
    // Moved, so that it never reads half of it.
    let file = PathBuf::from(folder).join(".manifests.yaml");
    fs::write(&file, text)?;
    fs::rename(file, folder.join("manifests/all.yaml")).context("cannot replace the manifests")
}

/// Turns each reference to one of these Services into one to the Backend of that name.
fn refer_to_backends(value: &mut Value, services: &BTreeMap<&str, SocketAddr>) {
    match value {
        Value::Object(members) => {
            let is_service = |name: &Value| name.as_str().is_some_and(|name| services.contains_key(name));
            if members.contains_key("port") && members.get("name").is_some_and(is_service) {
                members.remove("port");
                members.insert("group".to_owned(), json!("gateway.envoyproxy.io"));
                members.insert("kind".to_owned(), json!("Backend"));
            }
            members.values_mut().for_each(|member| refer_to_backends(member, services));
        }
        Value::Array(elements) => elements.iter_mut().for_each(|element| refer_to_backends(element, services)),
        _ => {}
    }
}

fn backend(namespace: &Value, name: &str, address: SocketAddr) -> Value {
    json!({
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "Backend",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"endpoints": [{"ip": {"address": address.ip(), "port": address.port()}}]},
    })
}

/// What makes a Gateway run on this machine.
fn patch(folder: &Path, gateway: &Value) -> Value {
    let of = |kind: &str, name: &str, path: &str, value: Value| {
        json!({
            "type": format!("type.googleapis.com/envoy.config.{kind}"),
            "name": name,
            "operation": {"op": "replace", "path": path, "value": value},
        })
    };
    let (namespace, name) = (&gateway["metadata"]["namespace"], &gateway["metadata"]["name"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut patches = Vec::new();
    for listener in gateway["spec"]["listeners"].as_array().into_iter().flatten() {
        let name = format!("{}/{}/{}", text(namespace), text(name), text(&listener["name"]));
        for (field, value) in [("address", json!("127.0.0.1")), ("port_value", json!(0))] {
            patches.push(of("listener.v3.Listener", &name, &format!("/address/socket_address/{field}"), value));
        }
    }
    let certificate = |file: &str| json!({"filename": folder.join("config/certs/envoy").join(file)});
    let endpoint = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address/address";
    let tls = json!({
        "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": certificate("tls.crt"), "private_key": certificate("tls.key")}],
        "validation_context": {"trusted_ca": certificate("ca.crt")},
    });
    patches.push(of("cluster.v3.Cluster", "wasm_cluster", endpoint, json!("127.0.0.1")));
    patches.push(of("cluster.v3.Cluster", "wasm_cluster", "/transport_socket/typed_config/common_tls_context", tls));
    json!({
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyPatchPolicy",
        "metadata": {"name": "on-this-machine", "namespace": namespace},
        "spec": {
            "targetRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": name},
            "type": "JSONPatch",
            "jsonPatches": patches,
        },
    })
}
