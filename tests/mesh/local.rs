//! The shipped manifests, changed so that they run on this machine: free loopback ports, the built module, model servers of
//! the tests, an API server that is not in the same cluster.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::istiod::GatewayPod;
use bluegreen_testbed::ports::{self, loopback};
use bluegreen_testbed::{KubeApiServer, Upstream, repository};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An operator's token, where no Secret has one.
pub const OPERATOR: &str = "the-operator-of-the-mesh-tests";

/// The ports that the manifests name.
const TRAFFIC_PORT: u16 = 80;
const ADMIN_PORT: u16 = 10_001;

/// What tells the replicas of a gateway apart: each has ports of its own here, because all have one address.
const REPLICA: &str = "replica";

/// A replica of a gateway.
#[derive(Clone, Debug)]
pub struct Replica {
    number: usize,
    /// Where it takes traffic.
    pub traffic: SocketAddr,
    /// Where it has the admin API.
    pub admin: SocketAddr,
}

/// How the manifests are changed.
#[derive(Clone, Debug)]
pub struct Local {
    replicas: Vec<Replica>,
    module: PathBuf,
    server: SocketAddr,
    authorities: PathBuf,
    /// The file with a service account's token. Without one the state is each replica's own.
    token: Option<PathBuf>,
}

// === impl Replica ===

impl Replica {
    /// Its pod: of the gateway that these labels choose.
    pub fn pod(&self, namespace: &str, labels: &Value) -> GatewayPod {
        let mut labels = labels.clone();
        labels[REPLICA] = json!(self.number.to_string());
        GatewayPod { name: format!("gateway-{}", self.number), namespace: namespace.to_owned(), labels }
    }
}

// === impl Local ===

impl Local {
    /// For so many replicas, each with a state of its own.
    pub fn new(server: &KubeApiServer, replicas: usize) -> Result<Self> {
        let replica = |number| {
            let [traffic, admin] = [ports::free()?, ports::free()?].map(loopback);
            Ok(Replica { number, traffic, admin })
        };
        Ok(Self {
            replicas: (0..replicas).map(replica).collect::<Result<_>>()?,
            module: repository::wasm()?,
            server: server.address(),
            authorities: server.authorities(),
            token: None,
        })
    }

    /// With the API server as the store, whose token is in a file.
    #[must_use]
    pub fn with_token(mut self, token: &Path) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// The replicas.
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    /// The manifests as they run here.
    pub fn manifests(&self, shipped: &[Value]) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        for manifest in shipped {
            let mut manifest = manifest.clone();
            match manifest["kind"].as_str().unwrap_or_default() {
                "Gateway" => {
                    all.extend(self.replicas.iter().map(|replica| gateway(&manifest, replica)));
                    continue;
                }
                "VirtualService" => self.virtual_service(&mut manifest),
                "AuthorizationPolicy" => self.authorization_policy(&mut manifest),
                "WasmPlugin" => self.fetch_from_a_file(&mut manifest["spec"]["url"]),
                "TrafficExtension" => self.fetch_from_a_file(&mut manifest["spec"]["wasm"]["url"]),
                "EnvoyFilter" => self.envoy_filter(&mut manifest)?,
                _ => {}
            }
            for configuration in configurations(&mut manifest) {
                self.configuration(configuration);
            }
            all.push(manifest);
        }
        Ok(all)
    }

    /// As the filter's image, fetched by an agent. Other plugins stay as they are.
    fn fetch_from_a_file(&self, url: &mut Value) {
        if url.as_str().is_some_and(|url| url.starts_with("oci://") && url.contains("/bluegreen")) {
            *url = json!(format!("file://{}", self.module.display()));
        }
    }

    fn virtual_service(&self, manifest: &mut Value) {
        let named = |name: &Value| {
            let name = name.as_str().unwrap_or_default().to_owned();
            self.replicas.iter().map(move |replica| json!(replica_of(&name, replica)))
        };
        let gateways: Value = list(&manifest["spec"]["gateways"]).iter().flat_map(named).collect();
        manifest["spec"]["gateways"] = gateways;
    }

    /// Its ports are those of the pods.
    fn authorization_policy(&self, manifest: &mut Value) {
        let all: Value = self.replicas.iter().map(|replica| json!(replica.admin.port().to_string())).collect();
        for operation in elements(manifest, "/spec/rules").flat_map(|rule| elements(rule, "/to")) {
            if operation["operation"]["notPorts"] == json!([ADMIN_PORT.to_string()]) {
                operation["operation"]["notPorts"] = all.clone();
            }
        }
    }

    fn envoy_filter(&self, manifest: &mut Value) -> Result<()> {
        for patch in elements(manifest, "/spec/configPatches") {
            // A patch names one port, so it is for the first replica.
            if patch["match"]["listener"]["portNumber"] == ADMIN_PORT {
                let first = self.replicas.first().context("no replica")?;
                patch["match"]["listener"]["portNumber"] = json!(first.admin.port());
            }
            let value = &mut patch["patch"]["value"];
            if let Some(code) = value.pointer_mut("/typed_config/config/vm_config/code") {
                *code = json!({"local": {"filename": self.module}});
            }
            if value["name"] == "kube_apiserver" {
                self.api_server(value)?;
            }
        }
        Ok(())
    }

    /// The cluster of the API server: another address, and files that are not in a pod.
    fn api_server(&self, cluster: &mut Value) -> Result<()> {
        let address = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
        let address = cluster.pointer_mut(address).context("no address of the API server")?;
        ensure!(address["address"] == "kubernetes.default.svc" && address["port_value"] == 443, "{address}");
        *address = json!({"address": self.server.ip().to_string(), "port_value": self.server.port()});
        let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
        let token = self.token.as_deref().unwrap_or(Path::new("/no-token"));
        let text = cluster
            .to_string()
            .replace(&format!("{folder}/ca.crt"), &self.authorities.to_string_lossy())
            .replace(&format!("{folder}/token"), &token.to_string_lossy());
        ensure!(!text.contains(folder), "{text}");
        *cluster = serde_json::from_str(&text)?;
        Ok(())
    }

    fn configuration(&self, configuration: &mut Value) {
        if self.token.is_some() {
            return;
        }
        if let Some(members) = configuration.as_object_mut() {
            members.remove("kubernetes");
        }
        if let Some(admin) = configuration.get_mut("admin").and_then(Value::as_object_mut) {
            admin.remove("tokens_secret");
            let sum = hex::encode(Sha256::digest(OPERATOR));
            admin.insert("tokens".to_owned(), json!([{"name": "olivia", "role": "operator", "sha256": sum}]));
        }
    }
}

/// A Gateway for one replica.
fn gateway(manifest: &Value, replica: &Replica) -> Value {
    let mut manifest = manifest.clone();
    manifest["metadata"]["name"] =
        json!(replica_of(manifest["metadata"]["name"].as_str().unwrap_or_default(), replica));
    manifest["spec"]["selector"][REPLICA] = json!(replica.number.to_string());
    for server in elements(&mut manifest, "/spec/servers") {
        let address = if server["port"]["number"] == TRAFFIC_PORT { replica.traffic } else { replica.admin };
        server["port"]["number"] = json!(address.port());
        server["bind"] = json!(address.ip().to_string());
    }
    manifest
}

fn replica_of(name: &str, replica: &Replica) -> String {
    format!("{name}-{}", replica.number)
}

/// The filter's configurations in a manifest.
pub fn configurations(manifest: &mut Value) -> Vec<&mut Value> {
    let configured = |value: &&mut Value| value.get("deployments").is_some();
    match manifest["kind"].as_str().unwrap_or_default() {
        "WasmPlugin" => manifest.pointer_mut("/spec/pluginConfig").into_iter().filter(configured).collect(),
        "TrafficExtension" => manifest.pointer_mut("/spec/wasm/pluginConfig").into_iter().filter(configured).collect(),
        "EnvoyFilter" => elements(manifest, "/spec/configPatches")
            .filter_map(|patch| patch.pointer_mut("/patch/value/typed_config/config/configuration/value"))
            .filter(configured)
            .collect(),
        _ => Vec::new(),
    }
}

/// A Service's pods of two colours, where the API server has neither.
pub fn model_servers(host: &str, port: u16, blue: &Upstream, green: &Upstream) -> Value {
    let endpoint = |colour: &str, server: &Upstream| {
        let address = server.address();
        json!({"address": address.ip().to_string(), "ports": {"http": address.port()}, "labels": {"colour": colour}})
    };
    let (name, rest) = host.split_once('.').unwrap_or((host, "default"));
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": name, "namespace": rest.split('.').next()},
        "spec": {
            "hosts": [host],
            "location": "MESH_INTERNAL",
            "resolution": "STATIC",
            "ports": [{"number": port, "name": "http", "protocol": "HTTP"}],
            "endpoints": [endpoint("blue", blue), endpoint("green", green)],
        },
    })
}

/// The manifests of shipped files, in order.
pub fn read(files: &[&str]) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for file in files {
        let path = repository::root().join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        all.extend(parse(&text).with_context(|| format!("{file} is no list of manifests"))?);
    }
    Ok(all)
}

/// The manifests of a text.
pub fn parse(text: &str) -> Result<Vec<Value>> {
    let manifests: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(manifests.iter().all(Value::is_object), "a document is no manifest");
    Ok(manifests)
}

/// The elements of a list; none when there is no list.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn elements<'a>(tree: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    bluegreen_testbed::bootstrap::elements(tree, pointer)
}
