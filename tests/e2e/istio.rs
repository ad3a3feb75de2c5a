//! The whole switch story in an Envoy that is configured as Istio would from the manifests under `envoy/istio`: clusters
//! named for subsets, routes that match a header, plugins by ECDS, all of them in the same empty vm_id.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::kubernetes::istio::{Proxy, Rendering, plugin};
use crate::kubernetes::{manifests, patch, the};
use anyhow::{Context, Result, ensure};
use bluegreen_testbed::envoy::{ADMIN, OPERATOR};
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Admin, Envoy, Load, Upstream, raw, repository, wait};
use bluegreen_tests::admin::ensure_conflict;
use bluegreen_tests::request::get;
use bluegreen_tests::{IRIS, PATH, Switch, compile_fixture};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The host that the VirtualService is for.
const HOST: &str = "iris.example.com";

/// The gateway's listener, as Istio names the one for the Gateway's port 80.
const PUBLIC: &str = "0.0.0.0_8080";

/// A second listener of the same gateway.
const SECOND: &str = "0.0.0.0_8081";

/// The gateway's pod and the two subsets.
struct Mesh {
    envoy: Envoy,
    proxy: Proxy,
    green: Upstream,
    _blue: Upstream,
    _modules: TempDir,
}

// === impl Mesh ===

impl Mesh {
    /// The header style. Two plugins of the module are in the proxy, on a listener each, and somebody else's plugin runs
    /// in front of the first.
    async fn header_style(plugin_file: &str) -> Result<Self> {
        let modules = TempDir::new()?;
        let (blue, green) = (Upstream::start("blue").await?, Upstream::start("green").await?);
        let mut all = manifests("envoy/istio/routes.yaml")?;
        all.extend(manifests("envoy/istio/authorizationpolicy.yaml")?);
        let [ours] = &manifests(plugin_file)?[..] else { anyhow::bail!("{plugin_file} has not one manifest") };
        let mut second = ours.clone();
        second["metadata"]["name"] = json!("bluegreen-second");
        let mut foreign = json!({"kind": "WasmPlugin", "metadata": {"namespace": "istio-system", "name": "foreign"}});
        foreign["spec"] = json!({"pluginName": "foreign", "pluginConfig": {"any": "thing"}});
        let wasm = repository::wasm()?;
        let proxy = Rendering::new(&all, &[("blue", blue.address()), ("green", green.address())])
            .listener(PUBLIC, &["istio-system.foreign", "istio-system.bluegreen"])
            .listener(SECOND, &["istio-system.bluegreen-second"])
            .plugin(&foreign, &compile_fixture("foreign.wat", modules.path())?)?
            .plugin(ours, &wasm)?
            .plugin(&second, &wasm)?
            .render()?;
        let envoy = Envoy::with(proxy.bootstrap()).start().await?;
        let mesh = Self { envoy, proxy, green, _blue: blue, _modules: modules };
        mesh.until_plugins_run().await?;
        Ok(mesh)
    }

    /// The EnvoyFilter, with only the default route of the VirtualService.
    async fn envoy_filter() -> Result<Self> {
        let modules = TempDir::new()?;
        let (blue, green) = (Upstream::start("blue").await?, Upstream::start("green").await?);
        let mut all = manifests("envoy/istio/routes.yaml")?;
        for service in all.iter_mut().filter(|manifest| manifest["kind"] == "VirtualService") {
            let routes = service.pointer_mut("/spec/http").and_then(Value::as_array_mut).context("no routes")?;
            routes.drain(..routes.len() - 1);
        }
        let filter = manifests("envoy/istio/envoyfilter.yaml")?;
        let resources = patch::extension_configs(the(&filter, "EnvoyFilter")?);
        all.extend(filter);
        let mut rendering =
            Rendering::new(&all, &[("blue", blue.address()), ("green", green.address())]).listener(PUBLIC, &[]);
        for resource in resources {
            rendering = rendering.extension_config(resource, &repository::wasm()?);
        }
        let proxy = rendering.render()?;
        let envoy = Envoy::with(proxy.bootstrap()).start().await?;
        let mesh = Self { envoy, proxy, green, _blue: blue, _modules: modules };
        mesh.until_plugins_run().await?;
        Ok(mesh)
    }

    /// Envoy is ready before the plugins that are sent to it: for as long, requests get a 500.
    async fn until_plugins_run(&self) -> Result<()> {
        for listener in [PUBLIC, SECOND] {
            let Ok(address) = self.envoy.listener(listener) else { continue };
            let ask = || raw::exchange(address, get(PATH, &[("host", HOST.as_bytes())]));
            wait::until("the plugin", ask, |answer| answer.header("x-bluegreen-colour").is_some()).await?;
        }
        Ok(())
    }

    fn address(&self, listener: &str) -> Result<SocketAddr> {
        self.envoy.listener(listener)
    }

    fn load(&self, listener: &str) -> Result<Load> {
        Ok(Load::new(self.address(listener)?, PATH).host(HOST))
    }

    /// The admin API, as an operator reaches it: on `listener`, from the pod itself.
    fn admin(&self, listener: &str) -> Result<Admin> {
        Ok(Admin::new(&format!("http://{}/bluegreen", self.address(listener)?)).token(OPERATOR))
    }

    async fn ask(&self, headers: &[(&str, &[u8])]) -> Result<raw::Answer> {
        let all = [&[("host", HOST.as_bytes())], headers].concat();
        raw::exchange(self.address(PUBLIC)?, get(PATH, &all)).await
    }

    /// The colour that every one of a few requests gets on each listener; an error when they differ.
    async fn colour(&self) -> Result<String> {
        let mut seen = Vec::new();
        for listener in [PUBLIC, SECOND] {
            let Ok(load) = self.load(listener) else { continue };
            let report = load.connections(8).at_most(40).run().await;
            report.ensure_no_failures()?;
            report.ensure_truthful()?;
            seen.extend(report.colours().into_keys());
        }
        seen.dedup();
        ensure!(seen.len() == 1, "the requests went to {seen:?}");
        seen.pop().context("no request")
    }

    /// Pushes the shipped plugin with another version of green, the colour that serves, and waits until it shows; what
    /// was pushed.
    async fn push_another_version_of_green(&self) -> Result<Value> {
        let shipped = manifests("envoy/istio/wasmplugin.yaml")?;
        let mut pushed = the(&shipped, "WasmPlugin")?.clone();
        iris_in(&mut pushed)?["colours"]["green"]["version"] = json!("2.1");
        self.proxy.deliver(plugin(&pushed, &repository::wasm()?)?)?;
        let version = || async { Ok(self.ask(&[]).await?.header("x-bluegreen-version").map(str::to_owned)) };
        wait::until("the pushed version", version, |version| version.as_deref() == Some("2.1")).await?;
        Ok(pushed)
    }
}

/// The deployment in a plugin's manifest.
fn iris_in(plugin: &mut Value) -> Result<&mut Value> {
    plugin.pointer_mut(&format!("/spec/pluginConfig/deployments/{IRIS}")).context("no deployment")
}

/// Everything that an operator does with a deployment, through the admin API on `listener`.
async fn tell_the_story(mesh: &Mesh, admin_on: &str) -> Result<()> {
    let admin = mesh.admin(admin_on)?;
    ensure!(mesh.colour().await? == "blue", "the initial colour does not serve");

    // A tester reaches the candidate; what else a client writes into routing headers is ignored.
    let tested = mesh.ask(&[("x-bluegreen-override", b"green")]).await?;
    ensure!(tested.body.contains("green") && tested.header("x-bluegreen-version") == Some("2"), "{tested:?}");
    let elsewhere: &[u8] = b"outbound|8080|green|iris.default.svc.cluster.local";
    let spoofed =
        [("x-bluegreen-cluster", elsewhere), ("x-bluegreen-shadow", elsewhere), ("x-bluegreen-colour", b"green")];
    let green = mesh.green.requests();
    let answer = mesh.ask(&spoofed).await?;
    ensure!(answer.body.contains("blue") && mesh.green.requests() == green, "{answer:?}");

    // A canary, off by less than two on the one worker of one connection.
    admin.patch(IRIS, &[("canary_percent", "10")]).await?.accepted()?;
    let report = mesh.load(PUBLIC)?.connections(1).at_most(200).run().await;
    report.ensure_truthful()?;
    ensure!((19..=21).contains(&report.count("green")), "{:?}", report.colours());

    // Copies of the active colour's requests.
    admin.patch(IRIS, &[("canary_percent", "0"), ("shadow_percent", "100")]).await?.accepted()?;
    let green = mesh.green.requests();
    let report = mesh.load(PUBLIC)?.at_most(20).run().await;
    report.ensure_no_failures()?;
    ensure!(report.count("blue") == 20, "{:?}", report.colours());
    wait::until("the copies", || async { Ok(mesh.green.requests() - green) }, |copies| *copies == 20).await?;
    admin.patch(IRIS, &[("shadow_percent", "0")]).await?.accepted()?;

    // A candidate that does not answer gets no traffic.
    mesh.green.behave_when_probed(Behaviour::Status(503));
    ensure_conflict(&admin.promoting(IRIS).send().await?, "colour-unhealthy", "503")?;
    mesh.green.behave_when_probed(Behaviour::Answer);

    // Back and forth under load: nothing fails, and nothing goes to the old colour after the answer.
    Switch::back_and_forth(mesh.load(PUBLIC)?, &admin).await?;
    ensure!(mesh.colour().await? == "blue", "the last rollback does not hold on every listener");

    // All of it is in the history, newest first.
    let history = admin.history(IRIS).await?;
    ensure!(history.len() == 13 && history[0].by == "demo-operator", "{history:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_switch_story_runs_on_a_wasm_plugin_beside_a_foreign_one() -> Result<()> {
    tell_the_story(&Mesh::header_style("envoy/istio/wasmplugin.yaml").await?, PUBLIC).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_switch_story_runs_on_a_traffic_extension_too() -> Result<()> {
    // The calls reach the other of the two plugins: they share the state.
    tell_the_story(&Mesh::header_style("envoy/istio/trafficextension.yaml").await?, SECOND).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_switch_story_runs_on_an_envoy_filter() -> Result<()> {
    let mesh = Mesh::envoy_filter().await?;
    tell_the_story(&mesh, ADMIN).await?;
    let admin = reqwest::get(format!("http://{}/bluegreen/healthz", mesh.address(PUBLIC)?)).await?;
    ensure!(admin.status() == StatusCode::NOT_FOUND, "the public listener serves the admin API: {admin:?}");
    // A call with its parameters in the body.
    let url = format!("http://{}/bluegreen/v1/deployments/{IRIS}", mesh.address(ADMIN)?);
    let patched =
        reqwest::Client::new().patch(url).bearer_auth(OPERATOR).json(&json!({"active": "green"})).send().await?;
    ensure!(patched.status() == StatusCode::OK, "{patched:?}");
    ensure!(mesh.colour().await? == "green", "the body did not count");
    Ok(())
}

#[tokio::test]
async fn traffic_flows_to_the_stable_subset_without_the_plugin() -> Result<()> {
    let (blue, green) = (Upstream::start("blue").await?, Upstream::start("green").await?);
    let routes = manifests("envoy/istio/routes.yaml")?;
    let rendering = Rendering::new(&routes, &[("blue", blue.address()), ("green", green.address())]);
    let proxy = rendering.listener(PUBLIC, &[]).render()?;
    let envoy = Envoy::with(proxy.bootstrap()).start().await?;
    let report = Load::new(envoy.listener(PUBLIC)?, PATH).host(HOST).at_most(20).run().await;
    report.ensure_no_failures()?;
    ensure!((blue.requests(), green.requests()) == (20, 0), "{} and {}", blue.requests(), green.requests());
    Ok(())
}

#[tokio::test]
async fn what_a_foreign_plugin_writes_under_our_keys_moves_no_traffic_and_stops_no_switch() -> Result<()> {
    for header in ["x-foreign", "x-hostile"] {
        let mesh = Mesh::header_style("envoy/istio/wasmplugin.yaml").await?;
        let admin = mesh.admin(PUBLIC)?;
        admin.promote(IRIS).await?;
        for colour in ["blue", "green", "blue", "blue"] {
            let before = mesh.colour().await?;
            mesh.ask(&[(header, b"write")]).await?;
            ensure!(mesh.colour().await? == before, "{header}: the foreign plugin moved traffic away from {before}");
            // Also when the colour is the one that a deployment without a state has.
            admin.patch(IRIS, &[("active", colour)]).await?.accepted()?;
            ensure!(mesh.colour().await? == colour, "{header}: {colour} was asked for after the plugin had written");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_foreign_plugin_that_writes_over_a_state_costs_no_history_and_a_push_meanwhile_moves_no_traffic() -> Result<()>
{
    let mesh = Mesh::header_style("envoy/istio/wasmplugin.yaml").await?;
    let admin = mesh.admin(PUBLIC)?;
    admin.promote(IRIS).await?;
    let before = admin.history(IRIS).await?;
    mesh.ask(&[("x-foreign", b"write")]).await?;
    ensure!(admin.history(IRIS).await? == before, "the history before was {before:?}");

    mesh.push_another_version_of_green().await?;
    ensure!(mesh.colour().await.context("after the push")? == "green", "the push undid the switch");
    let state = admin.rollback(IRIS).await?;
    let colour = mesh.colour().await.with_context(|| format!("after the rollback, which answered {state:?}"))?;
    ensure!(colour == "blue", "no way back");
    Ok(())
}

#[tokio::test]
async fn a_pushed_plugin_keeps_an_operators_switch_and_moves_traffic_when_its_initial_moves() -> Result<()> {
    let mesh = Mesh::header_style("envoy/istio/wasmplugin.yaml").await?;
    let wasm = repository::wasm()?;
    mesh.admin(PUBLIC)?.promote(IRIS).await?;

    let labelled = mesh.push_another_version_of_green().await?;
    ensure!(mesh.colour().await? == "green", "a push for another reason undid the switch");

    let mut moved = labelled;
    iris_in(&mut moved)?["initial"] = json!({"active": "green"});
    mesh.proxy.deliver(plugin(&moved, &wasm)?)?;
    let mut back = moved.clone();
    iris_in(&mut back)?["initial"] = json!({"active": "blue"});
    // Only a change of `initial` counts; until the first push has arrived the second would be none.
    let admin = mesh.admin(PUBLIC)?;
    let reloads = "extension_config_discovery.http_filter.istio-system.bluegreen.config_reload";
    let known = || mesh.envoy.stat(reloads);
    wait::until("the first push", known, |reloads| *reloads >= 3).await?;
    mesh.proxy.deliver(plugin(&back, &wasm)?)?;
    let state = || admin.deployment(IRIS);
    wait::until("blue by configuration", state, |state| state.active == "blue").await?;
    ensure!(admin.deployment(IRIS).await?.source.as_deref() == Some("config"), "somebody else did it");
    Ok(())
}

#[tokio::test]
async fn each_replica_of_the_gateway_has_a_state_of_its_own() -> Result<()> {
    let first = Mesh::header_style("envoy/istio/wasmplugin.yaml").await?;
    let second = Mesh::header_style("envoy/istio/wasmplugin.yaml").await?;
    first.admin(PUBLIC)?.promote(IRIS).await?;
    let seen = (first.colour().await?, second.colour().await?);
    ensure!(seen == ("green".to_owned(), "blue".to_owned()), "{seen:?}: if they share a state now, say so in the docs");
    Ok(())
}

#[tokio::test]
async fn the_authorization_policy_keeps_the_admin_path_from_the_outside() -> Result<()> {
    let mesh = Mesh::header_style("envoy/istio/wasmplugin.yaml").await?;
    let base = format!("http://{}", mesh.address(PUBLIC)?);
    let outside =
        reqwest::Client::builder().no_proxy().local_address(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))).build()?;
    let inside = reqwest::Client::builder().no_proxy().build()?;
    let promote = "v1/deployments/iris/promote";
    for prefix in [
        "/bluegreen",
        "//bluegreen",
        "/./bluegreen",
        "/x/../bluegreen",
        "/%62luegreen",
        "/bluegreen%2f..%2fbluegreen",
        "/bluegreen/.",
        "/bluegreen;a=b",
        "/BLUEGREEN",
        "/invocations/..%2fbluegreen",
        "/bluegreen/%2e",
    ] {
        for path in [format!("{prefix}/{promote}"), format!("{prefix}/{promote}?reason=x"), prefix.to_owned()] {
            let answer = outside.post(format!("{base}{path}")).bearer_auth(OPERATOR).send().await?;
            ensure!([403, 404].contains(&answer.status().as_u16()), "POST {path} from outside: {answer:?}");
        }
    }
    let state = mesh.admin(PUBLIC)?.deployment(IRIS).await?;
    ensure!(state.revision == 0, "a call from outside changed the state: {state:?}");
    // With the path itself the refusal is the policy's; traffic is not concerned.
    let refused = outside.get(format!("{base}/bluegreen/healthz")).send().await?;
    ensure!(refused.status() == 403 && refused.text().await?.contains("RBAC"), "not refused by the policy");
    let traffic = outside.get(format!("{base}{PATH}")).header("host", HOST).send().await?;
    ensure!(traffic.status() == 200, "{traffic:?}");
    let allowed = inside.get(format!("{base}/bluegreen/healthz")).send().await?;
    ensure!(allowed.status() == 200, "{allowed:?}");
    Ok(())
}
