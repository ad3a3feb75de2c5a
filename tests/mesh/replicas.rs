//! Envoys whose states are in an API server: the replicas of a gateway, each with the volume that kubelet gives to a pod.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::admin::{Admin, Deployment};
use bluegreen_testbed::kube_apiserver::Kubectl;
use bluegreen_testbed::{Bootstrap, Envoy, KubeApiServer, Load, Relay, Upstream, repository, wait};
use bluegreen_tests::environment::ensure_no_trap;
use bluegreen_tests::{IRIS, PATH};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster;

/// The service account that the replicas run as.
pub const ACCOUNT: &str = "gateway";

/// The Role and the RoleBinding that ship.
const ROLE: &str = "envoy/kubernetes/rbac/filter.yaml";
/// The Envoy cluster that ships, the file that says where the token is, and where both expect the pod's files.
const CLUSTER: &str = "envoy/kubernetes/cluster.yaml";
const CREDENTIAL: &str = "envoy/kubernetes/credential.yaml";
const MOUNTED: &str = "/var/run/secrets/bluegreen";

/// A gateway of several Envoys in front of a blue and a green upstream.
pub struct Replicas {
    pub server: Arc<KubeApiServer>,
    /// As the administrator, in the namespace of the objects.
    pub kubectl: Kubectl,
    pub envoys: Vec<Envoy>,
    /// Between each Envoy and the API server.
    pub lines: Vec<Relay>,
    pub volume: Volume,
    _blue: Upstream,
    pub green: Upstream,
    bootstrap: Bootstrap,
}

/// A projected volume of a pod. It is written as kubelet writes it: a new folder, and a link to it that is moved into place.
pub struct Volume {
    folder: TempDir,
    authorities: PathBuf,
}

// === impl Replicas ===

impl Replicas {
    /// This many Envoys with a configuration, in a namespace of this name, all of them ready.
    pub async fn start(
        server: Arc<KubeApiServer>,
        namespace: &str,
        count: usize,
        bootstrap: Bootstrap,
    ) -> Result<Self> {
        let mut replicas = Self::prepare(server, namespace, bootstrap).await?;
        grant(&replicas.kubectl, namespace).await?;
        for _ in 0..count {
            replicas.join().await?;
        }
        for index in 0..count {
            replicas.until_ready(index).await?;
        }
        Ok(replicas)
    }

    /// The same without an Envoy yet, and without any rights in the namespace.
    pub async fn prepare(server: Arc<KubeApiServer>, namespace: &str, bootstrap: Bootstrap) -> Result<Self> {
        let kubectl = cluster::namespace(&server.kubectl()?, namespace).await?;
        kubectl.ok(&["create", "serviceaccount", ACCOUNT]).await?;
        let volume = Volume::new(&server.authorities())?;
        volume.write(&kubectl.token(ACCOUNT).await?)?;
        let (blue, green) = (Upstream::start("blue").await?, Upstream::start("green").await?);
        let section = json!({"cluster": "kube_apiserver", "namespace": namespace});
        let bootstrap = bootstrap
            .with_cluster("blue", blue.address())
            .with_cluster("green", green.address())
            .plugin(|plugin| plugin["kubernetes"] = section.clone());
        Ok(Self { server, kubectl, envoys: Vec::new(), lines: Vec::new(), volume, _blue: blue, green, bootstrap })
    }

    /// Starts one more Envoy.
    pub async fn join(&mut self) -> Result<()> {
        let line = Relay::start().await?;
        line.lead_to(self.server.address());
        self.join_by(line).await
    }

    /// Starts one more Envoy, which reaches the API server by this line.
    pub async fn join_by(&mut self, line: Relay) -> Result<()> {
        let text = fs::read_to_string(repository::root().join(CLUSTER))?;
        let text = text.replace(MOUNTED, &self.volume.folder.path().to_string_lossy());
        let mut cluster = Bootstrap::parse(&text)?.tree().clone();
        let address = json!({"address": line.address().ip().to_string(), "port_value": line.address().port()});
        ensure!(cluster.pointer(ENDPOINT).is_some(), "{CLUSTER} has no endpoint");
        cluster["type"] = json!("STATIC");
        if let Some(endpoint) = cluster.pointer_mut(ENDPOINT) {
            *endpoint = address;
        }
        let bootstrap = self.bootstrap.clone().edit(|tree| {
            tree["node"] = json!({"id": "gateway", "cluster": "gateway"});
            let clusters = tree.pointer_mut("/static_resources/clusters").and_then(Value::as_array_mut);
            clusters.into_iter().for_each(|clusters| clusters.push(cluster.clone()));
        });
        self.envoys.push(Envoy::with(bootstrap).start().await?);
        self.lines.push(line);
        Ok(())
    }

    /// One of the Envoys.
    pub fn envoy(&self, index: usize) -> Result<&Envoy> {
        self.envoys.get(index).with_context(|| format!("no Envoy {index}"))
    }

    /// One Envoy's admin API.
    pub fn admin(&self, index: usize) -> Result<Admin> {
        self.envoy(index)?.admin()
    }

    /// Traffic for the deployment through one Envoy.
    pub fn load(&self, index: usize) -> Result<Load> {
        Ok(Load::new(self.envoy(index)?.traffic()?, PATH).connections(1))
    }

    /// The deployment, as one Envoy shows it.
    pub async fn deployment(&self, index: usize) -> Result<Deployment> {
        self.admin(index)?.deployment(IRIS).await
    }

    /// Waits until an Envoy says that it is in step.
    pub async fn until_ready(&self, index: usize) -> Result<()> {
        let envoy = self.envoy(index)?;
        let admin = envoy.admin()?;
        let ready = wait::until("readyz", || admin.get("/readyz"), |reply| reply.status == 200).await;
        ready.map(drop).with_context(|| format!("Envoy {index}'s log ends with:\n{}", envoy.log().tail(20)))
    }

    /// Waits until every Envoy shows the deployment as `accept` wants it.
    pub async fn until_all(&self, what: &str, accept: impl Fn(&Deployment) -> bool) -> Result<()> {
        for (index, envoy) in self.envoys.iter().enumerate() {
            let admin = envoy.admin()?;
            wait::until(&format!("{what} on Envoy {index}"), || admin.deployment(IRIS), &accept).await?;
        }
        Ok(())
    }

    /// Changes the `spec` of the deployment's object, as people do.
    pub async fn ask_for(&self, spec: &Value) -> Result<()> {
        let patch = json!({"spec": spec}).to_string();
        self.kubectl.ok(&["patch", "bluegreen", IRIS, "--type=merge", "--patch", &patch]).await.map(drop)
    }

    /// The deployment's object.
    pub async fn object(&self) -> Result<Value> {
        self.kubectl.get("bluegreen", IRIS).await
    }

    /// Waits for a condition of the object as kubectl does it.
    pub async fn wait_for(&self, condition: &str) -> Result<()> {
        let condition = format!("--for=condition={condition}");
        let waited = self.kubectl.ok(&["wait", &condition, &format!("bluegreen/{IRIS}"), "--timeout=20s"]).await;
        let object = self.object().await;
        waited.map(drop).with_context(|| format!("{:#}", object.map_or(Value::Null, |object| object["status"].clone())))
    }

    /// Fails when a VM of any Envoy has trapped.
    pub fn ensure_no_trap(&self) -> Result<()> {
        self.envoys.iter().try_for_each(ensure_no_trap)
    }
}

/// A condition of an object.
pub fn condition<'a>(object: &'a Value, name: &str) -> Result<&'a Value> {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == name);
    found.with_context(|| format!("no condition {name} in {object:#}"))
}

/// Gives the replicas the rights that the shipped Role has, in this namespace.
pub async fn grant(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let text = fs::read_to_string(repository::root().join(ROLE))?;
    let mut manifests: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    for manifest in &mut manifests {
        manifest["metadata"]["namespace"] = json!(namespace);
        if manifest["kind"] == "RoleBinding" {
            manifest["subjects"] = json!([{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}]);
        }
    }
    kubectl.apply(&manifests).await?.ok(ROLE).map(drop)
}

/// Where the shipped cluster has its address.
const ENDPOINT: &str = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";

// === impl Volume ===

impl Volume {
    fn new(authorities: &Path) -> Result<Self> {
        Ok(Self { folder: TempDir::with_prefix("bluegreen-volume-")?, authorities: authorities.to_owned() })
    }

    /// Puts a token into it, beside the files that stay.
    pub fn write(&self, token: &str) -> Result<()> {
        let folder = self.folder.path();
        let data = TempDir::with_prefix_in("..", folder)?.keep();
        let credential = fs::read_to_string(repository::root().join(CREDENTIAL))?;
        fs::write(data.join("credential.yaml"), credential.replace(MOUNTED, &folder.to_string_lossy()))?;
        fs::copy(&self.authorities, data.join("ca.crt"))?;
        fs::write(data.join("token"), token)?;
        let name = data.file_name().context("a folder without a name")?;
        symlink(name, folder.join("..data_tmp"))?;
        let before = fs::read_link(folder.join("..data")).ok();
        fs::rename(folder.join("..data_tmp"), folder.join("..data"))?;
        for file in ["credential.yaml", "ca.crt", "token"] {
            if !folder.join(file).is_symlink() {
                symlink(Path::new("..data").join(file), folder.join(file))?;
            }
        }
        if let Some(before) = before {
            fs::remove_dir_all(folder.join(before))?;
        }
        Ok(())
    }
}
