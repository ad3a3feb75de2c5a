//! The API server that the tests share, and what a cluster does with manifests.

use std::sync::{Arc, Weak};

use anyhow::{Result, ensure};
use bluegreen_testbed::KubeApiServer;
use serde_json::json;
use tokio::sync::Mutex;

/// One server for all tests that only add objects of their own. It ends with the last that uses it.
pub async fn shared() -> Result<Arc<KubeApiServer>> {
    static SHARED: Mutex<Weak<KubeApiServer>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(server) = shared.upgrade() {
        return Ok(server);
    }
    let server = Arc::new(KubeApiServer::start().await?);
    *shared = Arc::downgrade(&server);
    Ok(server)
}

#[tokio::test]
async fn an_object_is_stored_and_one_with_an_unknown_field_is_refused() -> Result<()> {
    let server = shared().await?;
    let kubectl = server.kubectl()?;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "stored"}, "data": {"a": "b"}});
    kubectl.apply(std::slice::from_ref(&map)).await?.ok("apply")?;
    ensure!(kubectl.get("configmap", "stored").await?["data"] == map["data"]);
    let mut unknown = map;
    unknown["dat"] = json!({});
    let refusal = kubectl.apply(&[unknown]).await?.refused("apply")?;
    ensure!(refusal.contains("dat"), "{refusal}");
    Ok(())
}
