//! The switch story in an Envoy that is configured as Envoy Gateway would from the manifests under `envoy/gateway`:
//! a filter that only the routes of a policy turn on, routes that match a header, a module that is fetched over HTTP.

use std::collections::BTreeMap;

use crate::kubernetes::envoy_gateway::{ServedModule, render};
use crate::kubernetes::manifests;
use anyhow::{Context, Result, ensure};
use bluegreen_testbed::envoy::OPERATOR;
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Admin, Bootstrap, Envoy, Load, Upstream, raw, repository, wait};
use bluegreen_tests::admin::ensure_conflict;
use bluegreen_tests::request::get;
use bluegreen_tests::{IRIS, PATH, Switch, compile_fixture};
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// The host that the HTTPRoute is for.
const HOST: &str = "iris.example.com";

/// The two listeners, as Envoy Gateway names them.
const HTTP: &str = "default/iris/http";
const ADMIN: &str = "default/iris/admin";

/// Envoy, the two Services, and the gateway's own file server.
struct Gateway {
    envoy: Envoy,
    blue: Upstream,
    green: Upstream,
    _files: Upstream,
}

// === impl Gateway ===

impl Gateway {
    async fn start() -> Result<Self> {
        Self::with(std::fs::read(repository::wasm()?)?, |bootstrap| bootstrap).await
    }

    /// With this module, in a changed configuration.
    async fn with(module: Vec<u8>, change: impl FnOnce(Bootstrap) -> Bootstrap) -> Result<Self> {
        let (blue, green) = (Upstream::start("blue").await?, Upstream::start("green").await?);
        let files = Upstream::start("files").await?;
        let served = ServedModule { address: files.address(), sha256: hex::encode(Sha256::digest(&module)) };
        let mut requests = files.script();
        tokio::spawn(async move {
            while let Ok(mut request) = requests.next().await {
                let mut answer = request.answer(200, &[("content-type", "application/wasm")])?;
                answer.piece(module.clone()).await?;
                answer.end();
            }
            anyhow::Ok(())
        });
        let mut all = manifests("envoy/gateway/routes.yaml")?;
        all.extend(manifests("envoy/gateway/extensionpolicy.yaml")?);
        let services = BTreeMap::from([("iris-blue", blue.address()), ("iris-green", green.address())]);
        let envoy = Envoy::with(change(render(&all, &services, &served)?)).start().await?;
        Ok(Self { envoy, blue, green, _files: files })
    }

    fn load(&self) -> Result<Load> {
        Ok(Load::new(self.envoy.listener(HTTP)?, PATH).host(HOST))
    }

    fn admin(&self) -> Result<Admin> {
        Ok(Admin::new(&format!("http://{}/bluegreen", self.envoy.listener(ADMIN)?)).token(OPERATOR))
    }

    async fn ask(&self, path: &str, headers: &[(&str, &[u8])]) -> Result<raw::Answer> {
        let all = [&[("host", HOST.as_bytes())], headers].concat();
        raw::exchange(self.envoy.listener(HTTP)?, get(path, &all)).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_switch_story_runs_on_an_extension_policy() -> Result<()> {
    let gateway = Gateway::start().await?;
    let admin = gateway.admin()?;
    let report = gateway.load()?.at_most(40).run().await;
    report.ensure_no_failures()?;
    ensure!(report.count("blue") == 40, "the initial colour does not serve: {:?}", report.colours());

    let tested = gateway.ask(PATH, &[("x-bluegreen-override", b"green")]).await?;
    ensure!(tested.body.contains("green") && tested.header("x-bluegreen-version") == Some("2"), "{tested:?}");
    let spoofed = gateway.ask(PATH, &[("x-bluegreen-shadow", b"green"), ("x-bluegreen-colour", b"green")]).await?;
    ensure!(spoofed.body.contains("blue") && gateway.green.requests() == 1, "{spoofed:?}");

    admin.patch(IRIS, &[("canary_percent", "10")]).await?.accepted()?;
    let report = gateway.load()?.connections(1).at_most(200).run().await;
    report.ensure_truthful()?;
    ensure!((19..=21).contains(&report.count("green")), "{:?}", report.colours());

    for (active, copied_to) in [("blue", &gateway.green), ("green", &gateway.blue)] {
        let shadowed = [("active", active), ("canary_percent", "0"), ("shadow_percent", "100")];
        admin.patch(IRIS, &shadowed).await?.accepted()?;
        let before = copied_to.requests();
        let report = gateway.load()?.at_most(20).run().await;
        report.ensure_no_failures()?;
        ensure!(report.count(active) == 20, "{:?}", report.colours());
        wait::until("the copies", || async { Ok(copied_to.requests() - before) }, |copies| *copies == 20).await?;
    }
    admin.patch(IRIS, &[("active", "blue"), ("shadow_percent", "0")]).await?.accepted()?;

    gateway.green.behave_when_probed(Behaviour::Status(503));
    let promote = admin.promoting(IRIS).query(&[("to", "green")]);
    ensure_conflict(&promote.send().await?, "colour-unhealthy", "503")?;
    gateway.green.behave_when_probed(Behaviour::Answer);

    Switch::back_and_forth(gateway.load()?, &admin).await?;
    Ok(())
}

#[tokio::test]
async fn the_admin_api_is_on_its_own_listener_alone() -> Result<()> {
    let gateway = Gateway::start().await?;
    ensure!(gateway.admin()?.anonymous().get("/healthz").await?.status == 200, "no admin API");
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
    let gateway = Gateway::with(trapping, |bootstrap| {
        bootstrap.wasm_filters(|filter| filter["config"]["configuration"]["value"] = json!("{}"))
    });
    let gateway = gateway.await?;
    let trapped = gateway.ask(PATH, &[("x-trap", b"1")]).await?;
    ensure!(trapped.status == 200, "the request that made the filter fail: {trapped:?}");
    let report = gateway.load()?.at_most(20).run().await;
    ensure!(report.failures().is_empty(), "{:?}", report.failures());
    let first = report.records.first().context("no request")?;
    ensure!(gateway.blue.requests() == 21 && gateway.green.requests() == 0, "{first:?}");
    Ok(())
}
