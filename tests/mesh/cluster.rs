//! The API server that the tests share.

use std::env;
use std::sync::{Arc, Weak};

use anyhow::{Context, Result};
use bluegreen_programs::definitions::DEFINITIONS;
use bluegreen_testbed::kube_apiserver::Kubectl;
use bluegreen_testbed::{KubeApiServer, repository};
use serde_json::json;
use tokio::sync::Mutex;

/// Where the definition of the kind `BlueGreen` is.
const OURS: &str = "envoy/kubernetes/crd";

/// One server for all tests that only add objects of their own, with the definitions of all kinds that are used here. It
/// ends with the last that uses it.
pub async fn shared() -> Result<Arc<KubeApiServer>> {
    static SHARED: Mutex<Weak<KubeApiServer>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(server) = shared.upgrade() {
        return Ok(server);
    }
    let server = Arc::new(KubeApiServer::start().await?);
    define_all(&server.kubectl()?).await?;
    *shared = Arc::downgrade(&server);
    Ok(server)
}

/// Adds the kind `BlueGreen`.
pub async fn define(kubectl: &Kubectl) -> Result<()> {
    kubectl.apply_kustomization(&repository::root().join(OURS)).await?.ok(OURS)?;
    until_defined(kubectl).await
}

async fn define_all(kubectl: &Kubectl) -> Result<()> {
    let places = env::var(DEFINITIONS).with_context(|| format!("{DEFINITIONS} is not set"))?;
    let mut arguments = vec!["apply", "--server-side", "--recursive"];
    arguments.extend(places.split(':').flat_map(|place| ["-f", place]));
    kubectl.ok(&arguments).await?;
    define(kubectl).await
}

async fn until_defined(kubectl: &Kubectl) -> Result<()> {
    kubectl.ok(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]).await.map(drop)
}

/// A namespace; none of the tests uses another one's. Each has the name of what it is for.
pub async fn namespace(kubectl: &Kubectl, name: &str) -> Result<Kubectl> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    kubectl.apply(&[namespace]).await?.ok(name)?;
    Ok(kubectl.in_namespace(name))
}
