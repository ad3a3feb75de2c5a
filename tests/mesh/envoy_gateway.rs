//! The manifests under `envoy/gateway`, rendered by a real Envoy Gateway for a real Envoy.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::envoy::OPERATOR;
use bluegreen_testbed::envoy_gateway::EnvoyGateway;
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Admin, Load, Upstream, raw, repository, wait};
use bluegreen_tests::admin::ensure_conflict;
use bluegreen_tests::request::get;
use bluegreen_tests::{IRIS, PATH, Switch, compile_fixture};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::image::Registry;
use crate::manifests::manifests;

/// All of them.
const FILES: [&str; 3] =
    ["envoy/gateway/proxy.yaml", "envoy/gateway/routes.yaml", "envoy/gateway/extensionpolicy.yaml"];

/// The host that the HTTPRoute is for.
const HOST: &str = "iris.example.com";

/// The Gateway, as its listeners' names begin.
const GATEWAY: &str = "models/iris";

/// Envoy Gateway, the two Services, and the registry that has the image.
struct Gateway {
    gateway: EnvoyGateway,
    blue: Upstream,
    green: Upstream,
    _registry: Registry,
}

// === impl Gateway ===

impl Gateway {
    async fn start() -> Result<Self> {
        Self::with(&std::fs::read(repository::wasm()?)?, |_| ()).await
    }

    /// With this module, and changed manifests.
    async fn with(module: &[u8], change: impl FnOnce(&mut Vec<Value>)) -> Result<Self> {
        let (blue, green) = (Upstream::start("blue").await?, Upstream::start("green").await?);
        let registry = Registry::start(module).await?;
        let mut manifests = manifests(&FILES.map(str::to_owned))?;
        // Those are for the cluster.
        manifests.retain(|manifest| manifest["kind"] != "ConfigMap" && manifest["kind"] != "Service");
        for manifest in &mut manifests {
            let spec = &mut manifest["spec"];
            if let Some(wasm) = spec.pointer_mut("/wasm/0") {
                wasm["code"]["image"]["url"] = json!(registry.reference());
                // No API server runs here.
                wasm["config"].as_object_mut().context("no config")?.remove("kubernetes");
                wasm["config"]["admin"] = json!({"path_prefix": "/bluegreen", "tokens": [
                    {"name": "operator", "role": "operator", "sha256": sha256(OPERATOR)},
                ]});
            }
            spec.as_object_mut().map(|spec| spec.remove("bootstrap"));
        }
        change(&mut manifests);
        let services = BTreeMap::from([("iris-blue", blue.address()), ("iris-green", green.address())]);
        let gateway = EnvoyGateway::start(&manifests, &services).await?;
        Ok(Self { gateway, blue, green, _registry: registry })
    }

    async fn load(&self) -> Result<Load> {
        Ok(Load::new(self.gateway.listener(GATEWAY, "http").await?, PATH).host(HOST))
    }

    async fn admin(&self) -> Result<Admin> {
        let address = self.gateway.listener(GATEWAY, "admin").await?;
        let admin = Admin::new(&format!("http://{address}/bluegreen")).token(OPERATOR);
        let health = || async { Ok(admin.anonymous().get("/healthz").await.map_or(0, |answer| answer.status)) };
        wait::until("the module from the registry", health, |status| *status == 200)
            .await
            .with_context(|| self.gateway.log().tail(60))?;
        Ok(admin)
    }

    async fn ask(&self, path: &str, headers: &[(&str, &[u8])]) -> Result<raw::Answer> {
        let all = [&[("host", HOST.as_bytes())], headers].concat();
        raw::exchange(self.gateway.listener(GATEWAY, "http").await?, get(path, &all)).await
    }
}

fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_switch_story_runs_on_what_envoy_gateway_renders() -> Result<()> {
    let gateway = Gateway::start().await?;
    let admin = gateway.admin().await?;
    let report = gateway.load().await?.at_most(40).run().await;
    report.ensure_no_failures()?;
    ensure!(report.count("blue") == 40, "the initial colour does not serve: {:?}", report.colours());

    let tested = gateway.ask(PATH, &[("x-bluegreen-override", b"green")]).await?;
    ensure!(tested.body.contains("green") && tested.header("x-bluegreen-version") == Some("2"), "{tested:?}");
    let spoofed = gateway.ask(PATH, &[("x-bluegreen-shadow", b"green"), ("x-bluegreen-colour", b"green")]).await?;
    ensure!(spoofed.body.contains("blue") && gateway.green.requests() == 1, "{spoofed:?}");

    admin.patch(IRIS, &[("canary_percent", "10")]).await?.accepted()?;
    let report = gateway.load().await?.connections(1).at_most(200).run().await;
    report.ensure_truthful()?;
    ensure!((19..=21).contains(&report.count("green")), "{:?}", report.colours());

    for (active, copied_to) in [("blue", &gateway.green), ("green", &gateway.blue)] {
        let shadowed = [("active", active), ("canary_percent", "0"), ("shadow_percent", "100")];
        admin.patch(IRIS, &shadowed).await?.accepted()?;
        let before = copied_to.requests();
        let report = gateway.load().await?.at_most(20).run().await;
        report.ensure_no_failures()?;
        ensure!(report.count(active) == 20, "{:?}", report.colours());
        wait::until("the copies", || async { Ok(copied_to.requests() - before) }, |copies| *copies == 20).await?;
    }
    admin.patch(IRIS, &[("active", "blue"), ("shadow_percent", "0")]).await?.accepted()?;

    gateway.green.behave_when_probed(Behaviour::Status(503));
    let promote = admin.promoting(IRIS).query(&[("to", "green")]);
    ensure_conflict(&promote.send().await?, "colour-unhealthy", "503")?;
    gateway.green.behave_when_probed(Behaviour::Answer);
    Switch::back_and_forth(gateway.load().await?, &admin).await?;

    // The admin API is on its own listener alone.
    for path in ["/bluegreen/healthz", "/invocations/../bluegreen/healthz", "/bluegreen/v1/deployments"] {
        let answer = gateway.ask(path, &[("authorization", b"Bearer demo-operator-token")]).await?;
        ensure!(answer.status == 404, "{path} on the public listener: {answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_filter_that_fails_leaves_the_traffic_to_the_stable_rule() -> Result<()> {
    let folder = TempDir::new()?;
    let trapping = std::fs::read(compile_fixture("trap.wat", folder.path())?)?;
    let gateway = Gateway::with(&trapping, |_| ()).await?;
    // The module does not speak HTTP, so it is there when it fails.
    let trapped = || gateway.ask(PATH, &[("x-trap", b"1")]);
    let has_failed = |_: &raw::Answer| !gateway.gateway.log().lines_with("Function: proxy_on_").is_empty();
    let trapped = wait::until("the filter's failure", trapped, has_failed).await?;
    ensure!(trapped.status == 200, "the request that made the filter fail: {trapped:?}");
    // The readiness probe of the pod sees it.
    let admin = gateway.gateway.listener(GATEWAY, "admin").await?;
    let readiness = raw::exchange(admin, get("/bluegreen/readyz", &[])).await?;
    ensure!(readiness.status == 503 && readiness.body.contains("not loaded"), "{readiness:?}");
    let before = gateway.blue.requests();
    let report = gateway.load().await?.at_most(20).run().await;
    ensure!(report.failures().is_empty(), "{:?}", report.failures());
    ensure!(gateway.blue.requests() == before + 20 && gateway.green.requests() == 0, "not all of it went to blue");
    Ok(())
}

#[tokio::test]
async fn a_security_policy_comes_before_the_filter() -> Result<()> {
    let module = std::fs::read(repository::wasm()?)?;
    let gateway = Gateway::with(&module, |manifests| {
        manifests.push(json!({
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "SecurityPolicy",
            "metadata": {"name": "operators", "namespace": "models"},
            "spec": {
                "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "bluegreen-admin"}],
                "authorization": {"defaultAction": "Deny", "rules": [
                    {"action": "Allow", "principal": {"headers": [{"name": "x-team", "values": ["ml"]}]}},
                ]},
            },
        }));
    });
    let gateway = gateway.await?;
    let address = gateway.gateway.listener(GATEWAY, "admin").await?;
    let ask = |headers: &'static [(&'static str, &'static [u8])]| async move {
        Ok(raw::exchange(address, get("/bluegreen/healthz", headers)).await?.status)
    };
    wait::until("the module from the registry", || ask(&[("x-team", b"ml")]), |status| *status == 200).await?;
    let status = ask(&[]).await?;
    ensure!(status == 403, "the admin API answered {status} to a request that the policy denies");
    Ok(())
}
