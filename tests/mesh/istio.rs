//! The whole switch story in Envoys that a real istiod configures from the manifests under `envoy/istio`.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bluegreen_programs::definitions::DEFINITIONS;
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Admin, Envoy, Istiod, KubeApiServer, Load, Upstream, raw, repository, wait};
use bluegreen_tests::admin::ensure_conflict;
use bluegreen_tests::request::get;
use bluegreen_tests::{IRIS, PATH, Switch, compile_fixture};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::shared;
use crate::local::{Local, OPERATOR, Replica, configurations, list, model_servers, parse, read};

/// The host that the VirtualService is for.
const HOST: &str = "iris.example.com";

/// The Service of the two colours.
const SERVICE: &str = "iris.default.svc.cluster.local";

/// What every kind of plugin stands beside.
const BESIDE: [&str; 4] = [
    "envoy/istio/routes.yaml",
    "envoy/istio/admin.yaml",
    "envoy/istio/authorizationpolicy.yaml",
    "envoy/istio/kube-apiserver.yaml",
];

/// istiod, a gateway of some replicas, and the two subsets.
struct Mesh {
    envoys: Vec<Envoy>,
    istiod: Istiod,
    local: Local,
    /// What was delivered last, before it was changed for this machine.
    manifests: Vec<Value>,
    blue: Upstream,
    green: Upstream,
    server: Arc<KubeApiServer>,
}

/// How a gateway was installed.
struct Installer {
    overlay: &'static str,
    namespace: &'static str,
    label: &'static str,
    account: &'static str,
}

/// The gateway that `istioctl install` makes.
const ISTIOCTL: Installer = Installer {
    overlay: "envoy/kubernetes/istio",
    namespace: "istio-system",
    label: "ingressgateway",
    account: "istio-ingressgateway-service-account",
};

/// The gateway that Helm's chart makes.
const HELM: Installer = Installer {
    overlay: "envoy/kubernetes/istio-helm",
    namespace: "istio-ingress",
    label: "ingress",
    account: "istio-ingress",
};

/// An Envoy for each replica.
async fn gateway(istiod: &Istiod, local: &Local, installer: &Installer) -> Result<Vec<Envoy>> {
    let labels = json!({"istio": installer.label});
    let mut envoys = Vec::new();
    for replica in local.replicas() {
        let bootstrap = istiod.bootstrap(&replica.pod(installer.namespace, &labels))?;
        envoys.push(Envoy::with(bootstrap).start().await?);
    }
    Ok(envoys)
}

// === impl Mesh ===

impl Mesh {
    /// A gateway with the plugin of a file, and perhaps without the filter.
    async fn start(plugin: Option<&str>, replicas: usize) -> Result<Self> {
        let files = [BESIDE.as_slice(), plugin.as_slice()].concat();
        Self::with(read(&files)?, replicas).await
    }

    /// A gateway where somebody else's plugin runs in front of the filter.
    async fn beside_a_foreign_plugin(modules: &Path) -> Result<Self> {
        let url = format!("file://{}", compile_fixture("foreign.wat", modules)?.display());
        let wasm = json!({"url": url, "pluginName": "foreign", "pluginConfig": {"any": "thing"}});
        let mut all = read(&[BESIDE.as_slice(), &["envoy/istio/trafficextension.yaml"]].concat())?;
        all.push(json!({
            "apiVersion": "extensions.istio.io/v1alpha1",
            "kind": "TrafficExtension",
            "metadata": {"namespace": "istio-system", "name": "foreign"},
            "spec": {"priority": 10, "wasm": wasm},
        }));
        let mesh = Self::with(all, 1).await?;
        let filters = mesh.filters(mesh.traffic()?).await?;
        let at = |name: &str| filters.iter().position(|filter| filter.ends_with(name));
        ensure!(at(".foreign").is_some() && at(".foreign") < at(".bluegreen"), "{filters:?}");
        Ok(mesh)
    }

    async fn with(manifests: Vec<Value>, replicas: usize) -> Result<Self> {
        let server = shared().await?;
        let (blue, green) = (Upstream::start("blue").await?, Upstream::start("green").await?);
        let local = Local::new(&server, replicas)?;
        let mut delivered = local.manifests(&manifests)?;
        delivered.push(model_servers(SERVICE, 8080, &blue, &green));
        let istiod = Istiod::with_files(&server, &delivered).await?;
        let envoys = gateway(&istiod, &local, &ISTIOCTL).await?;
        Ok(Self { envoys, istiod, local, manifests, blue, green, server })
    }

    /// A gateway for which an overlay was applied to an API server of its own, as users do it. With a file for the token of the
    /// gateway's service account the states are in that server, as it ships.
    async fn applied(installer: &Installer, replicas: usize, token: Option<&Path>) -> Result<Self> {
        let server = Arc::new(KubeApiServer::start().await?);
        let kubectl = server.kubectl()?;
        let definitions = env::var(DEFINITIONS).with_context(|| format!("{DEFINITIONS} is not set"))?;
        let istio = definitions.split(':').find(|place| place.contains("/istio.io/"));
        kubectl.ok(&["apply", "--server-side", "-f", istio.context("no definitions of Istio's")?]).await?;
        kubectl.ok(&["wait", "--for=condition=Established", "crd", "--all"]).await?;
        for namespace in [installer.namespace, "models"] {
            kubectl.ok(&["create", "namespace", namespace]).await?;
        }
        let overlay = repository::root().join(installer.overlay);
        let manifests = parse(&kubectl.ok(&["kustomize", &overlay.to_string_lossy()]).await?)?;
        let (blue, green) = (Upstream::start("blue").await?, Upstream::start("green").await?);
        let mut local = Local::new(&server, replicas)?;
        if let Some(token) = token {
            let pods = kubectl.in_namespace(installer.namespace);
            pods.ok(&["create", "serviceaccount", installer.account]).await?;
            fs::write(token, pods.token(installer.account).await?)?;
            let secret = format!("--from-literal=operator.olivia={OPERATOR}");
            let models = kubectl.in_namespace("models");
            models.ok(&["create", "secret", "generic", "bluegreen-admin-tokens", &secret]).await?;
            local = local.with_token(token);
        }
        let (definitions, mut applied): (Vec<_>, Vec<_>) =
            local.manifests(&manifests)?.into_iter().partition(|one| one["kind"] == "CustomResourceDefinition");
        kubectl.apply(&definitions).await?.ok("apply")?;
        kubectl.ok(&["wait", "--for=condition=Established", "crd", "--all"]).await?;
        applied.push(model_servers(SERVICE, 8080, &blue, &green));
        kubectl.apply(&applied).await?.ok("apply")?;
        let istiod = Istiod::start(&server).await?;
        let envoys = gateway(&istiod, &local, installer).await?;
        Ok(Self { envoys, istiod, local, manifests, blue, green, server })
    }

    fn delivered(&self, manifests: &[Value]) -> Result<Vec<Value>> {
        let mut delivered = self.local.manifests(manifests)?;
        delivered.push(model_servers(SERVICE, 8080, &self.blue, &self.green));
        Ok(delivered)
    }

    /// Changes the filter's configuration, and has istiod push it.
    fn push(&mut self, change: impl Fn(&mut Value)) -> Result<()> {
        for manifest in &mut self.manifests {
            configurations(manifest).into_iter().for_each(&change);
        }
        self.istiod.deliver(&self.delivered(&self.manifests)?)
    }

    fn replica(&self, number: usize) -> Result<&Replica> {
        self.local.replicas().get(number).context("no such replica")
    }

    fn traffic(&self) -> Result<SocketAddr> {
        Ok(self.replica(0)?.traffic)
    }

    fn load(&self, replica: usize) -> Result<Load> {
        Ok(Load::new(self.replica(replica)?.traffic, PATH).host(HOST))
    }

    /// The admin API of a replica, as an operator reaches it.
    fn admin(&self, replica: usize) -> Result<Admin> {
        Ok(Admin::new(&format!("http://{}/bluegreen", self.replica(replica)?.admin)).token(OPERATOR))
    }

    async fn ask(&self, headers: &[(&str, &[u8])]) -> Result<raw::Answer> {
        let all = [&[("host", HOST.as_bytes())], headers].concat();
        raw::exchange(self.traffic()?, get(PATH, &all)).await
    }

    /// The colour that every one of a few requests gets from a replica; an error when they differ.
    async fn colour(&self, replica: usize) -> Result<String> {
        let report = self.load(replica)?.connections(8).at_most(40).run().await;
        report.ensure_no_failures()?;
        report.ensure_truthful()?;
        let mut seen: Vec<String> = report.colours().into_keys().collect();
        ensure!(seen.len() == 1, "the requests went to {seen:?}");
        seen.pop().context("no request")
    }

    /// The HTTP filters of the listener at an address, in order.
    async fn filters(&self, address: SocketAddr) -> Result<Vec<String>> {
        let envoy = self.envoys.first().context("no gateway")?;
        let dump: Value = serde_json::from_str(&envoy.ask("/config_dump?resource=dynamic_listeners").await?)?;
        let mut listeners = list(&dump["configs"]).iter().map(|entry| &entry["active_state"]["listener"]);
        let port = json!(address.port());
        let listener = listeners
            .find(|listener| listener.pointer("/address/socket_address/port_value") == Some(&port))
            .with_context(|| format!("no listener at {address}: {dump:#}"))?;
        let manager = listener.pointer("/filter_chains/0/filters/0/typed_config/http_filters").context("no manager")?;
        Ok(list(manager).iter().filter_map(|filter| filter["name"].as_str()).map(str::to_owned).collect())
    }

    /// Waits until the readiness probe of a replica's pod would pass.
    async fn until_ready(&self, replica: usize) -> Result<()> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let url = format!("http://{}/bluegreen/readyz", self.replica(replica)?.admin);
        let look = || async { Ok(client.get(&url).send().await.is_ok_and(|answer| answer.status() == 200)) };
        wait::until(&format!("readyz of replica {replica}"), look, |is_ready| *is_ready).await.map(drop)
    }

    /// Fails unless the service account that the installer gives to the gateway's pods may do what the filter does, and no more.
    async fn ensure_the_pods_may_what_the_filter_does(&self, installer: &Installer) -> Result<()> {
        let Installer { namespace, account, .. } = installer;
        let pods = self.server.kubectl()?.acting_for(&format!("system:serviceaccount:{namespace}:{account}"));
        let ours = "bluegreens.bluegreen.dev";
        for (question, is_allowed) in [
            (["list", ours, "-nmodels"].as_slice(), true),
            (&["create", ours, "-nmodels"], true),
            (&["update", ours, "--subresource=status", "-nmodels"], true),
            (&["get", "secrets/bluegreen-admin-tokens", "-nmodels"], true),
            (&["update", ours, "-nmodels"], false),
            (&["get", "secrets/another", "-nmodels"], false),
            (&["list", "secrets", "-nmodels"], false),
            (&["list", ours, "-ndefault"], false),
        ] {
            let question = [&["auth", "can-i"], question].concat();
            let answer = pods.run(&question).await?;
            let expected = if is_allowed { "yes" } else { "no" };
            ensure!(answer.text == expected, "{account}: {question:?} is answered {answer:?}");
        }
        Ok(())
    }

    /// Everything that an operator does with a deployment.
    async fn tell_the_story(&self) -> Result<()> {
        let admin = self.admin(0)?;
        ensure!(self.colour(0).await? == "blue", "the initial colour does not serve");

        // A tester reaches the candidate; what else a client writes into routing headers is ignored.
        let tested = self.ask(&[("x-bluegreen-override", b"green")]).await?;
        ensure!(tested.body.contains("green") && tested.header("x-bluegreen-version") == Some("2"), "{tested:?}");
        let elsewhere: &[u8] = b"outbound|8080|green|iris.default.svc.cluster.local";
        let spoofed =
            [("x-bluegreen-cluster", elsewhere), ("x-bluegreen-shadow", elsewhere), ("x-bluegreen-colour", b"green")];
        let green = self.green.requests();
        let answer = self.ask(&spoofed).await?;
        ensure!(answer.body.contains("blue") && self.green.requests() == green, "{answer:?}");

        // A canary, off by less than two on the one worker of one connection.
        admin.patch(IRIS, &[("canary_percent", "10")]).await?.accepted()?;
        let report = self.load(0)?.connections(1).at_most(200).run().await;
        report.ensure_truthful()?;
        ensure!((19..=21).contains(&report.count("green")), "{:?}", report.colours());

        // Copies of the active colour's requests.
        admin.patch(IRIS, &[("canary_percent", "0"), ("shadow_percent", "100")]).await?.accepted()?;
        let green = self.green.requests();
        let report = self.load(0)?.at_most(20).run().await;
        report.ensure_no_failures()?;
        ensure!(report.count("blue") == 20, "{:?}", report.colours());
        wait::until("the copies", || async { Ok(self.green.requests() - green) }, |copies| *copies == 20).await?;
        admin.patch(IRIS, &[("shadow_percent", "0")]).await?.accepted()?;

        // A candidate that does not answer gets no traffic.
        self.green.behave_when_probed(Behaviour::Status(503));
        ensure_conflict(&admin.promoting(IRIS).send().await?, "colour-unhealthy", "503")?;
        self.green.behave_when_probed(Behaviour::Answer);

        // Back and forth under load: nothing fails, and nothing goes to the old colour after the answer.
        Switch::back_and_forth(self.load(0)?, &admin).await?;
        ensure!(self.colour(0).await? == "blue", "the last rollback does not hold");

        // All of it is in the history, newest first; nothing around the filter is wrong but what was told.
        let history = admin.history(IRIS).await?;
        ensure!(history.len() == 13 && history[0].by == "olivia", "{history:#?}");
        let setup = admin.deployment(IRIS).await?.setup;
        ensure!(setup.iter().all(|noted| noted.problem == "not-durable"), "{setup:#?}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_switch_story_runs_on_a_traffic_extension() -> Result<()> {
    Mesh::start(Some("envoy/istio/trafficextension.yaml"), 1).await?.tell_the_story().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_applied_for_the_gateway_of_istioctl_a_patch_moves_every_replica_and_a_new_pod_is_in_sync_first()
-> Result<()> {
    let folder = TempDir::new()?;
    let token = folder.path().join("token");
    let mut mesh = Mesh::applied(&ISTIOCTL, 2, Some(&token)).await?;
    mesh.ensure_the_pods_may_what_the_filter_does(&ISTIOCTL).await?;
    mesh.until_ready(0).await?;
    mesh.until_ready(1).await?;
    mesh.tell_the_story().await?;

    let models = mesh.server.kubectl()?.in_namespace("models");
    let asked = Instant::now();
    models.ok(&["patch", "bluegreen", IRIS, "--type=merge", "--patch", r#"{"spec": {"active": "green"}}"#]).await?;
    models.ok(&["wait", "--for=condition=Accepted", "bluegreen/iris", "--timeout=30s"]).await?;
    for replica in 0..2 {
        let seen = || async { mesh.admin(replica)?.deployment(IRIS).await };
        wait::until("green", seen, |state| state.active == "green").await?;
    }
    println!("{:?} after kubectl patch began both replicas had it", asked.elapsed());
    ensure!((mesh.colour(0).await?, mesh.colour(1).await?) == ("green".to_owned(), "green".to_owned()));

    // kubelet replaces the token before it expires; no Envoy is told.
    fs::write(&token, mesh.server.kubectl()?.in_namespace("istio-system").token(ISTIOCTL.account).await?)?;
    // A pod that starts anew begins with `initial`, blue, and must not take traffic before it knows better.
    mesh.envoys.get_mut(1).context("no second pod")?.restart().await?;
    mesh.until_ready(1).await?;
    ensure!(mesh.colour(1).await? == "green", "the new pod was ready before it was in sync");
    mesh.admin(1)?.rollback(IRIS).await?;
    let seen = || async { mesh.admin(0)?.deployment(IRIS).await };
    wait::until("blue on the other replica", seen, |state| state.active == "blue").await?;
    println!("{}", models.ok(&["get", "bluegreens", "--output=wide"]).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_switch_story_runs_on_the_wasm_plugin_that_kubectl_applied_for_the_gateway_of_helm() -> Result<()> {
    let mesh = Mesh::applied(&HELM, 1, None).await?;
    mesh.ensure_the_pods_may_what_the_filter_does(&HELM).await?;
    mesh.tell_the_story().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_switch_story_runs_on_an_envoy_filter() -> Result<()> {
    let mesh = Mesh::start(Some("envoy/istio/envoyfilter.yaml"), 1).await?;
    mesh.tell_the_story().await?;
    // On the traffic port there is no admin API at all, with or without a policy.
    let filters = mesh.filters(mesh.traffic()?).await?;
    ensure!(filters.iter().any(|name| name == "bluegreen") && !filters.contains(&"bluegreen-admin".to_owned()));
    let filters = mesh.filters(mesh.replica(0)?.admin).await?;
    let at = |name: &str| filters.iter().position(|filter| filter == name);
    ensure!(at("bluegreen-admin").is_some() && at("bluegreen-admin") < at("bluegreen"), "{filters:?}");
    // A call with its parameters in the body.
    let url = format!("http://{}/bluegreen/v1/deployments/{IRIS}", mesh.replica(0)?.admin);
    let client = reqwest::Client::builder().no_proxy().build()?;
    let patched = client.patch(url).bearer_auth(OPERATOR).json(&json!({"active": "green"})).send().await?;
    ensure!(patched.status() == 200, "{patched:?}");
    ensure!(mesh.colour(0).await? == "green", "the body did not count");
    Ok(())
}

#[tokio::test]
async fn traffic_flows_to_the_stable_subset_without_the_filter() -> Result<()> {
    let mesh = Mesh::start(None, 1).await?;
    let report = mesh.load(0)?.at_most(20).run().await;
    report.ensure_no_failures()?;
    let seen = (mesh.blue.requests(), mesh.green.requests());
    ensure!(seen == (20, 0), "{seen:?}");
    Ok(())
}

#[tokio::test]
async fn the_policy_comes_before_the_filter_and_leaves_the_admin_api_on_its_own_port_alone() -> Result<()> {
    let mesh = Mesh::start(Some("envoy/istio/trafficextension.yaml"), 1).await?;
    let filters = mesh.filters(mesh.traffic()?).await?;
    let policy = filters.iter().position(|name| name == "envoy.filters.http.rbac");
    let ours = filters.iter().position(|name| name.ends_with("istio-system.bluegreen"));
    ensure!(policy.is_some() && policy < ours, "{filters:?}");
    let base = format!("http://{}", mesh.traffic()?);
    let client = reqwest::Client::builder().no_proxy().build()?;
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
            for host in [HOST, "elsewhere.example.com", "bluegreen-admin.istio-system.svc:10001"] {
                let call = client.post(format!("{base}{path}")).header("host", host).bearer_auth(OPERATOR);
                let answer = call.send().await?;
                // A model server may have answered; the admin API must not.
                let is_traffic = answer.headers().contains_key("x-bluegreen-colour");
                let is_refused = [403, 404].contains(&answer.status().as_u16());
                ensure!(is_refused || is_traffic, "POST {path} at {host}: {answer:?}");
            }
        }
    }
    let state = mesh.admin(0)?.deployment(IRIS).await?;
    ensure!(state.revision == 0, "a call from outside changed the state: {state:?}");
    // With the path itself the refusal is the policy's; traffic is not concerned.
    let refused = client.get(format!("{base}/bluegreen/healthz")).send().await?;
    ensure!(refused.status() == 403 && refused.text().await?.contains("RBAC"), "not refused by the policy");
    ensure!(mesh.colour(0).await? == "blue", "the policy is in the way of traffic");
    // What is no admin call goes nowhere on the admin port.
    let admin = format!("http://{}", mesh.replica(0)?.admin);
    for (path, status) in [("/bluegreen/healthz", 200), ("/bluegreen/readyz", 200), (PATH, 404)] {
        let answer = client.get(format!("{admin}{path}")).header("host", HOST).send().await?;
        ensure!(answer.status() == status, "GET {path} on the admin port: {answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_pushed_configuration_keeps_an_operators_switch_and_moves_traffic_when_its_initial_moves() -> Result<()> {
    let mut mesh = Mesh::start(Some("envoy/istio/trafficextension.yaml"), 1).await?;
    let admin = mesh.admin(0)?;
    admin.promote(IRIS).await?;
    mesh.push(|configuration| configuration["deployments"][IRIS]["colours"]["green"]["version"] = json!("2.1"))?;
    let version = || async { Ok(mesh.ask(&[]).await?.header("x-bluegreen-version").map(str::to_owned)) };
    wait::until("the pushed version", version, |version| version.as_deref() == Some("2.1")).await?;
    ensure!(mesh.colour(0).await? == "green", "a push for another reason undid the switch");

    // Only a change of `initial` counts, so the first push has to have arrived before the second.
    let mut delivered = "2.1".to_owned();
    for (active, version) in [("green", "2.2"), ("blue", "2.3")] {
        mesh.push(|configuration| {
            let iris = &mut configuration["deployments"][IRIS];
            iris["initial"] = json!({"active": active});
            iris["colours"]["green"]["version"] = json!(version);
        })?;
        let seen = || async { Ok(admin.deployment(IRIS).await?.colours["green"].version.clone()) };
        wait::until(&format!("version {version} after {delivered}"), seen, |seen| seen == version).await?;
        delivered = version.to_owned();
        let state = || admin.deployment(IRIS);
        wait::until(active, state, |state| state.active == active).await?;
    }
    ensure!(admin.deployment(IRIS).await?.source.as_deref() == Some("config"), "somebody else did it");
    ensure!(mesh.colour(0).await? == "blue", "the push moved no traffic");
    Ok(())
}

#[tokio::test]
async fn without_a_store_each_replica_has_a_state_of_its_own() -> Result<()> {
    let mesh = Mesh::start(Some("envoy/istio/trafficextension.yaml"), 2).await?;
    mesh.admin(0)?.promote(IRIS).await?;
    let seen = (mesh.colour(0).await?, mesh.colour(1).await?);
    ensure!(seen == ("green".to_owned(), "blue".to_owned()), "{seen:?}: if they share a state now, say so in the docs");
    Ok(())
}

#[tokio::test]
async fn a_foreign_plugin_in_the_same_empty_vm_id_moves_no_traffic_and_stops_no_switch() -> Result<()> {
    let modules = TempDir::new()?;
    let mut mesh = Mesh::beside_a_foreign_plugin(modules.path()).await?;
    let admin = mesh.admin(0)?;
    for header in ["x-foreign", "x-hostile"] {
        admin.patch(IRIS, &[("active", "green")]).await?.accepted()?;
        for colour in ["blue", "green", "blue", "blue"] {
            let before = mesh.colour(0).await?;
            mesh.ask(&[(header, b"write")]).await?;
            ensure!(mesh.colour(0).await? == before, "{header}: the foreign plugin moved traffic away from {before}");
            // Also when the colour is the one that a deployment without a state has.
            admin.patch(IRIS, &[("active", colour)]).await?.accepted()?;
            ensure!(mesh.colour(0).await? == colour, "{header}: {colour} was asked for after the plugin had written");
        }
    }
    // It costs no history, and a push meanwhile moves no traffic.
    admin.patch(IRIS, &[("active", "green")]).await?.accepted()?;
    let before = admin.history(IRIS).await?;
    mesh.ask(&[("x-foreign", b"write")]).await?;
    ensure!(admin.history(IRIS).await? == before, "the history before was {before:?}");
    mesh.push(|configuration| configuration["deployments"][IRIS]["colours"]["green"]["version"] = json!("2.1"))?;
    let version = || async { Ok(mesh.ask(&[]).await?.header("x-bluegreen-version").map(str::to_owned)) };
    wait::until("the pushed version", version, |version| version.as_deref() == Some("2.1")).await?;
    ensure!(mesh.colour(0).await? == "green", "the push undid the switch");
    let state = admin.rollback(IRIS).await?;
    ensure!(mesh.colour(0).await? == "blue", "no way back: {state:?}");
    Ok(())
}
