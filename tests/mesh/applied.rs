//! Every manifest that ships, applied to a real API server as users are told to: on the server's side, and strictly.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use bluegreen_testbed::kube_apiserver::Kubectl;
use bluegreen_testbed::repository;
use serde_json::{Value, json};

use crate::cluster::{namespace, shared};

/// Where they are.
const FOLDER: &str = "envoy";

/// Whose kinds nobody has checked: the definitions are in no module that can be had.
const UNCHECKED: &str = "serving.kserve.io/";

/// What ships: folders with a kustomization, and files with manifests. A file that a kustomization patches others with is
/// no manifest of its own.
#[derive(Default)]
struct Shipped {
    kustomizations: Vec<PathBuf>,
    files: Vec<(PathBuf, Vec<Value>)>,
}

// === impl Shipped ===

impl Shipped {
    fn find() -> Result<Self> {
        let mut shipped = Self::default();
        shipped.look_into(&repository::root().join(FOLDER))?;
        ensure!(shipped.files.len() > 10, "found {:?}", shipped.files);
        ensure!(!shipped.kustomizations.is_empty(), "found no kustomization");
        Ok(shipped)
    }

    fn look_into(&mut self, folder: &Path) -> Result<()> {
        let mut patches = BTreeSet::new();
        if let [kustomization] = &read(&folder.join("kustomization.yaml")).unwrap_or_default()[..] {
            for list in ["patches", "replacements"] {
                let listed = kustomization[list].as_array().into_iter().flatten();
                patches.extend(listed.filter_map(|patch| Some(folder.join(patch["path"].as_str()?))));
            }
            // A component is a part of others' kustomizations.
            if kustomization["kind"] == "Kustomization" {
                self.kustomizations.push(folder.to_owned());
            }
        }
        let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<BTreeSet<_>>>()?;
        for path in entries.difference(&patches) {
            if path.is_dir() {
                self.look_into(path)?;
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                let documents = read(path)?;
                // An IstioOperator is for istioctl.
                let is_manifest = |document: &Value| {
                    document["apiVersion"].is_string()
                        && document["kind"].as_str().is_some_and(|kind| kind != "IstioOperator")
                };
                let is_kustomization = path.file_name().is_some_and(|name| name == "kustomization.yaml");
                if documents.iter().all(is_manifest) && !is_kustomization {
                    self.files.push((path.clone(), documents));
                }
            }
        }
        Ok(())
    }

    /// The first manifest of a kind.
    fn the(&self, api_version: &str, kind: &str) -> Result<&Value> {
        let mut all = self.files.iter().flat_map(|(_, manifests)| manifests);
        let found = all.find(|manifest| manifest["apiVersion"] == api_version && manifest["kind"] == kind);
        found.with_context(|| format!("no {kind} of {api_version} ships"))
    }
}

fn read(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_saphyr::from_multiple(&text).map_err(|error| anyhow!("{}: {error}", path.display()))
}

/// Without those that the server has no definition of.
fn checked(mut manifests: Vec<Value>) -> Vec<Value> {
    manifests.retain(|manifest| !manifest["apiVersion"].as_str().is_some_and(|version| version.starts_with(UNCHECKED)));
    manifests
}

/// Makes the namespaces that manifests are for.
async fn make_namespaces<'a>(kubectl: &Kubectl, manifests: impl IntoIterator<Item = &'a Value>) -> Result<()> {
    let named = manifests.into_iter().filter_map(|manifest| manifest["metadata"]["namespace"].as_str());
    for name in named.collect::<BTreeSet<_>>() {
        namespace(kubectl, name).await?;
    }
    Ok(())
}

#[tokio::test]
async fn every_file_is_accepted() -> Result<()> {
    let server = shared().await?;
    let kubectl = server.kubectl()?;
    let shipped = Shipped::find()?;
    make_namespaces(&kubectl, shipped.files.iter().flat_map(|(_, manifests)| manifests)).await?;
    for (path, manifests) in &shipped.files {
        let manifests = checked(manifests.clone());
        if !manifests.is_empty() {
            kubectl.apply(&manifests).await?.ok(path)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_kustomization_is_accepted() -> Result<()> {
    let server = shared().await?;
    let kubectl = server.kubectl()?;
    for folder in Shipped::find()?.kustomizations {
        let rendered = kubectl.ok(&["kustomize", &folder.to_string_lossy()]).await?;
        let manifests: Vec<Value> =
            serde_saphyr::from_multiple(&rendered).map_err(|error| anyhow!("{}: {error}", folder.display()))?;
        make_namespaces(&kubectl, &manifests).await?;
        let all = manifests.len();
        let checked = checked(manifests);
        if checked.len() == all {
            kubectl.apply_kustomization(&folder).await?.ok(&folder)?;
        } else {
            kubectl.apply(&checked).await?.ok(&folder)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_manifest_with_one_mistake_is_refused() -> Result<()> {
    const ISTIO: &str = "networking.istio.io/v1";
    const EXTENSIONS: &str = "extensions.istio.io/v1alpha1";
    const ENVOY: &str = "gateway.envoyproxy.io/v1alpha1";
    const GATEWAY: &str = "gateway.networking.k8s.io/v1";
    let from = json!([{"source": {"serviceAccounts": ["default/iris"], "namespaces": ["default"]}}]);
    let redirect = json!([{"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}}]);
    let cases = [
        // A field that the schema does not have, which kubectl or the server names; a value that it does not allow; a rule in
        // CEL that does not hold.
        (EXTENSIONS, "WasmPlugin", "/failstrategy", json!("FAIL_OPEN"), "failstrategy"),
        (EXTENSIONS, "WasmPlugin", "/failStrategy", json!("FAIL_OPENED"), "supported values"),
        (EXTENSIONS, "WasmPlugin", "/url", json!("ftp://example.com/bluegreen.wasm"), "url must have schema one of"),
        (EXTENSIONS, "TrafficExtension", "/wasm/pluginConf", json!({}), "pluginConf"),
        (EXTENSIONS, "TrafficExtension", "/wasm", json!(null), "exactly one of wasm or lua must be set"),
        (
            "networking.istio.io/v1alpha3",
            "EnvoyFilter",
            "/targetRefs",
            json!([{"kind": "Service", "name": "a"}]),
            "only one of",
        ),
        ("security.istio.io/v1", "AuthorizationPolicy", "/action", json!("REFUSE"), "supported values"),
        ("security.istio.io/v1", "AuthorizationPolicy", "/rules/0/from", from, "Cannot set serviceAccounts"),
        (ISTIO, "VirtualService", "/http/0/mirror_s", json!([]), "mirror_s"),
        (ISTIO, "VirtualService", "/http/0/timeout", json!("0s"), "must be a valid duration greater than 1ms"),
        (ISTIO, "DestinationRule", "/subset", json!([]), "subset"),
        (ENVOY, "EnvoyExtensionPolicy", "/targetRefs", json!(null), "either targetRef or targetRefs must be used"),
        (ENVOY, "EnvoyExtensionPolicy", "/wasm/0/code/type", json!("Oci"), "supported values"),
        (ENVOY, "ClientTrafficPolicy", "/clientIPDetection", json!({}), "exactly one of xForwardedFor"),
        (GATEWAY, "HTTPRoute", "/rules/0/filters", redirect, "must not be used together with backendRefs"),
        (GATEWAY, "Gateway", "/listeners/0/protocol", json!("TLS"), "tls mode must be set for protocol TLS"),
        ("monitoring.coreos.com/v1", "PodMonitor", "/podMetricsEndpoint", json!([]), "podMetricsEndpoint"),
    ];
    let server = shared().await?;
    let kubectl = server.kubectl()?;
    let shipped = Shipped::find()?;
    for (api_version, kind, pointer, value, message) in cases {
        let right = shipped.the(api_version, kind)?;
        make_namespaces(&kubectl, [right]).await?;
        let wrong = changed(right, &format!("/spec{pointer}"), &value)?;
        let refusal = kubectl.apply(&[wrong]).await?.refused((kind, pointer))?;
        ensure!(refusal.contains(message), "{kind} with {pointer}: {value} -> {refusal}");
    }
    Ok(())
}

/// The manifest with another value at a pointer; without the member there if the value is null.
fn changed(manifest: &Value, pointer: &str, value: &Value) -> Result<Value> {
    let mut manifest = manifest.clone();
    let (parent, field) = pointer.rsplit_once('/').context("no pointer")?;
    let parent = manifest.pointer_mut(parent).and_then(Value::as_object_mut);
    let parent = parent.with_context(|| format!("there is nothing around {pointer}"))?;
    if value.is_null() {
        parent.remove(field).with_context(|| format!("there is no {pointer}"))?;
    } else {
        parent.insert(field.to_owned(), value.clone());
    }
    Ok(manifest)
}
