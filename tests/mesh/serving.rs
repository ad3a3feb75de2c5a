//! The examples under `envoy/kubernetes/examples`, rendered by kustomize and run behind a real istiod, with stand-ins for the
//! model servers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::ports::loopback;
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Admin, Envoy, Istiod, KubeApiServer, Load, Upstream, raw, repository, wait};
use bluegreen_tests::request::get;
use bluegreen_tests::{IRIS, Switch};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::HOST;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::cluster::shared;
use crate::local::{Local, OPERATOR, configurations, list, parse};

/// An Envoy that istiod configures by an example.
struct Example {
    envoy: Envoy,
    local: Local,
    /// The host that clients ask for.
    host: &'static str,
    _istiod: Istiod,
    _server: Arc<KubeApiServer>,
}

/// What Knative's gateway is to Istio's: it knows two hosts, each a predictor of KServe's with the same model.
struct Knative {
    address: SocketAddr,
    unknown_hosts: Arc<AtomicU64>,
    server: JoinHandle<()>,
}

// === impl Example ===

impl Example {
    /// The manifests of an example, as `kubectl apply -k` takes them.
    async fn manifests(server: &KubeApiServer, name: &str) -> Result<Vec<Value>> {
        let folder = repository::root().join("envoy/kubernetes/examples").join(name);
        parse(&server.kubectl()?.ok(&["kustomize", &folder.to_string_lossy()]).await?)
    }

    /// With the endpoints that a cluster would find for its Services.
    async fn start(
        name: &str,
        host: &'static str,
        services: impl FnOnce(&[Value]) -> Result<Vec<Value>>,
    ) -> Result<Self> {
        Self::with(name, host, services, |_| ()).await
    }

    /// The same, changed.
    async fn with(
        name: &str,
        host: &'static str,
        services: impl FnOnce(&[Value]) -> Result<Vec<Value>>,
        change: impl FnOnce(&mut Vec<Value>),
    ) -> Result<Self> {
        let server = shared().await?;
        let mut manifests = Self::manifests(&server, name).await?;
        let services = services(&manifests)?;
        // istiod takes these alone; the others are for Kubernetes and KServe.
        manifests
            .retain(|manifest| manifest["apiVersion"].as_str().is_some_and(|version| version.contains(".istio.io/")));
        manifests.iter_mut().for_each(as_traffic_extension);
        change(&mut manifests);
        let local = Local::new(&server, 1)?;
        let mut delivered = local.manifests(&manifests)?;
        delivered.extend(services);
        let istiod = Istiod::with_files(&server, &delivered).await?;
        let replica = local.replicas().first().context("no replica")?;
        let bootstrap = istiod.bootstrap(&replica.pod("istio-system", &json!({"istio": "ingressgateway"})))?;
        let envoy = Envoy::with(bootstrap).start().await?;
        Ok(Self { envoy, local, host, _istiod: istiod, _server: server })
    }

    fn traffic(&self) -> Result<SocketAddr> {
        Ok(self.local.replicas().first().context("no replica")?.traffic)
    }

    fn load(&self, path: &str) -> Result<Load> {
        Ok(Load::new(self.traffic()?, path).host(self.host).body(Method::POST, "{}"))
    }

    /// The admin API, as soon as istiod has delivered the filter.
    async fn admin(&self) -> Result<Admin> {
        let replica = self.local.replicas().first().context("no replica")?;
        let admin = Admin::new(&format!("http://{}/bluegreen", replica.admin)).token(OPERATOR);
        let health = || async { Ok(admin.get("/healthz").await?.status) };
        wait::until("the filter", health, |status| *status == 200).await?;
        Ok(admin)
    }

    /// The answer to a request for another host than the clients'.
    async fn ask(&self, host: &str, path: &str, headers: &[(&str, &[u8])]) -> Result<raw::Answer> {
        let all = [&[("host", host.as_bytes())], headers].concat();
        raw::exchange(self.traffic()?, get(path, &all)).await
    }

    /// The colour of all of some requests, each of which has to succeed.
    async fn colour(&self, path: &str) -> Result<String> {
        let report = self.load(path)?.at_most(20).run().await;
        report.ensure_no_failures()?;
        report.ensure_truthful()?;
        let mut colours: Vec<String> = report.colours().into_keys().collect();
        ensure!(colours.len() == 1, "the requests for {path} went to {colours:?}");
        colours.pop().context("no request")
    }
}

// === impl Knative ===

impl Knative {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind(loopback(0)).await?;
        let address = listener.local_addr()?;
        let unknown_hosts = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&unknown_hosts);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    let answer = service_fn(|request: Request<_>| {
                        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
                        let host = host.or_else(|| request.uri().host()).unwrap_or_default();
                        let (status, body) = predictor(host, request.method(), request.uri().path());
                        if body.is_null() {
                            counter.fetch_add(1, Ordering::SeqCst);
                        }
                        let mut answer = Response::new(Full::new(Bytes::from(body.to_string())));
                        *answer.status_mut() = status;
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let server = auto::Builder::new(TokioExecutor::new());
                    server.serve_connection(TokioIo::new(stream), answer).await.ok();
                });
            }
        });
        Ok(Self { address, unknown_hosts, server })
    }

    /// The Service of that gateway. Not in its namespace, which is that of Istio's gateway too: because all have one address
    /// here, istiod would take the one for a pod of the other.
    fn service(&self) -> Value {
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": {"name": "knative-local-gateway", "namespace": "models"},
            "spec": {
                "hosts": ["knative-local-gateway.istio-system.svc.cluster.local"],
                "location": "MESH_INTERNAL",
                "resolution": "STATIC",
                "ports": [{"number": 80, "name": "http2", "protocol": "HTTP"}],
                "endpoints": [{"address": self.address.ip().to_string(), "ports": {"http2": self.address.port()}}],
            },
        })
    }
}

impl Drop for Knative {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// What a predictor of a host answers; null where the gateway knows no such host.
fn predictor(host: &str, method: &Method, path: &str) -> (hyper::StatusCode, Value) {
    use hyper::StatusCode;
    let colour = match host {
        "iris-blue-predictor.models.svc.cluster.local" => "blue",
        "iris-green-predictor.models.svc.cluster.local" => "green",
        _ => return (StatusCode::NOT_FOUND, Value::Null),
    };
    let body = match (method, path) {
        (&Method::GET, "/v1/models/iris") => json!({"name": "iris", "ready": true}),
        (&Method::POST, "/v1/models/iris:predict") => json!({"predictions": [0], "colour": colour}),
        (&Method::POST, "/v2/models/iris/infer") => {
            let output = json!({"name": "output-0", "shape": [1], "datatype": "INT64", "data": [0]});
            json!({"model_name": "iris", "outputs": [output], "colour": colour})
        }
        _ => return (StatusCode::NOT_FOUND, json!({"error": format!("{method} {path}")})),
    };
    (StatusCode::OK, body)
}

/// A WasmPlugin as istiod translates it where it comes from an API server: from files it reads none.
fn as_traffic_extension(manifest: &mut Value) {
    if manifest["kind"] == "WasmPlugin" {
        let plugin = manifest["spec"].clone();
        let wasm: Value = ["url", "pluginName", "failStrategy", "pluginConfig"]
            .into_iter()
            .map(|field| (field.to_owned(), plugin[field].clone()))
            .collect();
        manifest["kind"] = json!("TrafficExtension");
        manifest["spec"] = json!({"selector": plugin["selector"], "wasm": wasm});
    }
}

/// The Service of an example with the pods of both colours: which port of a pod is where, and the labels are the Deployments'.
fn pods(manifests: &[Value], pods: &[(&str, BTreeMap<&str, SocketAddr>)]) -> Result<Vec<Value>> {
    let of_kind = |kind: &'static str| manifests.iter().filter(move |manifest| manifest["kind"] == kind);
    let service =
        of_kind("Service").find(|service| service["metadata"]["namespace"] == "models").context("no Service")?;
    let ports: Value = list(&service["spec"]["ports"])
        .iter()
        .map(|port| {
            let name = port["name"].as_str().unwrap_or_default();
            // As Kubernetes' ports are told apart: by what their name begins with.
            let protocol = if name.starts_with("grpc") { "GRPC" } else { "HTTP" };
            json!({"number": port["port"], "name": name, "protocol": protocol})
        })
        .collect();
    let endpoint = |(deployment, addresses): &(&str, BTreeMap<&str, SocketAddr>)| -> Result<Value> {
        let found = of_kind("Deployment").find(|found| found["metadata"]["name"] == *deployment);
        let found = found.with_context(|| format!("no Deployment {deployment}"))?;
        let ports: BTreeMap<_, _> = addresses.iter().map(|(name, address)| (*name, address.port())).collect();
        let labels = &found["spec"]["template"]["metadata"]["labels"];
        Ok(json!({"address": "127.0.0.1", "ports": ports, "labels": labels}))
    };
    let name = service["metadata"]["name"].as_str().unwrap_or_default();
    Ok(vec![json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": name, "namespace": "models"},
        "spec": {
            "hosts": [format!("{name}.models.svc.cluster.local")],
            "location": "MESH_INTERNAL",
            "resolution": "STATIC",
            "ports": ports,
            "endpoints": pods.iter().map(endpoint).collect::<Result<Value>>()?,
        },
    })])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_colour_of_kserve_is_asked_for_its_own_host() -> Result<()> {
    let knative = Knative::start().await?;
    let example = Example::start("kserve", "iris.example.com", |_| Ok(vec![knative.service()])).await?;
    let admin = example.admin().await?;
    let (v1, v2) = ("/v1/models/iris:predict", "/v2/models/iris/infer");
    for path in [v1, v2] {
        ensure!(example.colour(path).await? == "blue", "{path}: the initial colour does not serve");
    }
    let verdict = admin.test(IRIS).await?.accepted()?.json()?;
    ensure!(verdict["passed"] == true, "{verdict:#}");
    // There and back under load, and there again, each time with the smoke test that the example asks for.
    let running = example.load(v1)?.connections(8).start();
    let mut switches = Vec::new();
    for _ in 0..2 {
        running.more(40).await?;
        switches.push(Switch::timed(admin.promote_to(IRIS, "green")).await?);
        running.more(40).await?;
        switches.push(Switch::timed(admin.rollback(IRIS)).await?);
        let verdict = admin.test(IRIS).await?.accepted()?.json()?;
        ensure!(verdict["passed"] == true, "{verdict:#}");
    }
    running.more(40).await?;
    let report = running.stop().await;
    report.ensure_no_failures()?;
    report.ensure_truthful()?;
    Switch::ensure_all_hold(&switches, &report)?;
    admin.promote_to(IRIS, "green").await?;
    for path in [v1, v2] {
        ensure!(example.colour(path).await? == "green", "{path}: the promoted colour does not serve");
    }
    ensure!(
        knative.unknown_hosts.load(Ordering::SeqCst) == 0,
        "something was asked for a host that Knative does not know"
    );
    // A client cannot choose the colour by asking for its host.
    for colour in ["blue", "green"] {
        let host = format!("iris-{colour}-predictor.models.svc.cluster.local");
        for headers in [&[][..], &[("x-bluegreen-colour", colour.as_bytes())]] {
            let answer = example.ask(&host, "/v1/models/iris", headers).await?;
            ensure!(answer.status == 404, "{host} with {headers:?}: {answer:?}");
        }
    }
    let setup = admin.deployment(IRIS).await?.setup;
    ensure!(setup.iter().all(|noted| ["not-durable", "unmatched-requests"].contains(&&*noted.problem)), "{setup:#?}");
    Ok(())
}

#[tokio::test]
async fn a_wrong_host_of_kserve_gets_no_traffic() -> Result<()> {
    let knative = Knative::start().await?;
    let services = |_: &[Value]| Ok(vec![knative.service()]);
    let example = Example::with("kserve", "iris.example.com", services, |manifests| {
        for configuration in manifests.iter_mut().flat_map(configurations) {
            configuration["deployments"][IRIS]["colours"]["green"]["authority"] =
                json!("iris-green.models.example.com");
        }
    });
    let example = example.await?;
    let admin = example.admin().await?;
    let verdict = admin.test(IRIS).await?;
    ensure!(verdict.text.contains("404"), "the smoke test: {verdict:?}");
    ensure!(admin.promoting(IRIS).query(&[("to", "green")]).send().await?.status == 409, "the wrong host was promoted");
    ensure!(example.colour("/v1/models/iris:predict").await? == "blue", "the wrong host got traffic");
    Ok(())
}

#[tokio::test]
async fn kserve_serves_the_stable_colour_without_the_filter() -> Result<()> {
    let knative = Knative::start().await?;
    let services = |_: &[Value]| Ok(vec![knative.service()]);
    let example = Example::with("kserve", "iris.example.com", services, |manifests| {
        manifests.retain(|manifest| manifest["kind"] != "TrafficExtension");
    });
    let example = example.await?;
    let report = example.load("/v1/models/iris:predict")?.at_most(20).run().await;
    report.ensure_no_failures()?;
    ensure!(knative.unknown_hosts.load(Ordering::SeqCst) == 0, "{report:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_vllm_stays_with_its_model_and_a_conversation_with_its_version() -> Result<()> {
    let (blue, green) = (Upstream::start("blue").await?, Upstream::start("green").await?);
    let servers = [("chat-blue", &blue), ("chat-green", &green)]
        .map(|(name, server)| (name, BTreeMap::from([("http", server.address())])));
    let example = Example::start("vllm", "chat.example.com", |manifests| pods(manifests, &servers)).await?;
    let admin = example.admin().await?;
    const PATH: &str = "/v1/chat/completions";
    ensure!(example.colour(PATH).await? == "blue", "the initial colour does not serve");

    // The first token arrives while the last one is not written yet; a switch in between moves the next request only.
    let mut script = blue.script();
    let mut client = raw::Connection::open(example.traffic()?).await?;
    let request =
        format!("POST {PATH} HTTP/1.1\r\nhost: chat.example.com\r\ncontent-length: 16\r\n\r\n{{\"stream\": true}}");
    client.write(request).await?;
    let mut reply = loop {
        let mut exchange = script.next().await?;
        if exchange.head.path == PATH {
            break exchange.answer(200, &[("content-type", "text/event-stream")])?;
        }
        exchange.answer(200, &[])?.end();
    };
    reply.piece("data: first\n\n").await?;
    client.until("data: first").await?;
    blue.behave(Behaviour::Answer);
    // Without the smoke test, which only a server that speaks OpenAI's API passes.
    let promoted = admin.promoting("chat").query(&[("to", "green")]).force().send().await?;
    promoted.accepted()?;
    ensure!(example.colour(PATH).await? == "green", "the promoted colour does not serve");
    reply.piece("data: [DONE]\n\n").await?;
    client.until("data: [DONE]").await?;
    reply.end();

    // Half of the conversations go to the candidate, and each of them goes there with all of its requests.
    admin.patching("chat").query(&[("canary_percent", "50")]).force().send().await?.accepted()?;
    let mut seen = BTreeMap::new();
    for conversation in 0..20_u32 {
        let load = example.load(PATH)?.header("x-conversation-id", conversation.to_string().as_bytes())?;
        let report = load.at_most(8).run().await;
        report.ensure_no_failures()?;
        let colours = report.colours();
        ensure!(colours.len() == 1, "conversation {conversation}: {colours:?}");
        seen.extend(colours);
    }
    ensure!(seen.len() == 2, "all conversations went to {seen:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn triton_switches_over_http_and_over_grpc() -> Result<()> {
    let [blue, green, blue_grpc, green_grpc] = [
        Upstream::start("blue").await?,
        Upstream::start("green").await?,
        Upstream::start("blue").await?,
        Upstream::start("green").await?,
    ];
    for grpc in [&blue_grpc, &green_grpc] {
        grpc.behave(Behaviour::Grpc { status: 14, one_in: u64::MAX });
    }
    let servers = [("ranker-blue", &blue, &blue_grpc), ("ranker-green", &green, &green_grpc)]
        .map(|(name, http, grpc)| (name, BTreeMap::from([("http", http.address()), ("grpc", grpc.address())])));
    let example = Example::start("triton", "ranker.example.com", |manifests| pods(manifests, &servers)).await?;
    let admin = example.admin().await?;
    const GRPC: &str = "/inference.GRPCInferenceService/ModelInfer";
    let grpc =
        || -> Result<Load> { Ok(example.load(GRPC)?.http2().header("content-type", b"application/grpc")?.at_most(20)) };
    for colour in ["blue", "green"] {
        for deployment in ["ranker", "ranker-grpc"] {
            let switched = [("active", colour)];
            admin.patching(deployment).query(&switched).force().send().await?.accepted()?;
        }
        ensure!(example.colour("/v2/models/ranker/infer").await? == colour, "{colour} does not serve HTTP");
        let report = grpc()?.run().await;
        report.ensure_no_failures()?;
        ensure!(report.count(colour) == 20, "{colour} does not serve gRPC: {:?}", report.colours());
    }
    // The name of the Service's port makes it HTTP/2.
    let cluster = "outbound|8001|green|ranker.models.svc.cluster.local";
    let connections = example.envoy.stat(&format!("cluster.{cluster};.upstream_cx_http2_total")).await?;
    ensure!(connections > 0, "gRPC did not go over HTTP/2");
    Ok(())
}
