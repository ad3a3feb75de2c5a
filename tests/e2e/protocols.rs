//! For every protocol a request is routed by its headers and its body is streamed: nothing is buffered or lost.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::bootstrap::elements;
use bluegreen_testbed::ports::loopback;
use bluegreen_testbed::raw::Connection;
use bluegreen_testbed::{Bootstrap, Envoy, Load};
use bluegreen_tests::request::get;
use bluegreen_tests::{Environment, IRIS, PATH};
use bytes::Bytes;
use http_body_util::{BodyExt, channel};
use hyper::client::conn::http2;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::server::HealthReporter;

#[tokio::test]
async fn http_1_and_http_2_are_routed_and_switched_alike() -> Result<()> {
    let env = Environment::new(2).await?;
    for (colour, http2) in [("blue", false), ("blue", true), ("green", true), ("green", false)] {
        env.patch(&[("active", colour)]).await?;
        for body in [vec![], vec![b'x'; 100_000]] {
            let load = env.load()?.body(Method::POST, body).at_most(40);
            let report = if http2 { load.http2() } else { load }.run().await;
            report.ensure_no_failures()?;
            report.ensure_truthful()?;
            ensure!(report.count(colour) == 40, "{colour}, http2 {http2}: {:?}", report.colours());
        }
    }
    Ok(())
}

/// A body this large does not fit into Envoy's buffers: a filter that buffers it answers 413.
const LARGE: usize = 5_000_000;

#[tokio::test]
async fn a_body_larger_than_any_buffer_passes_in_both_directions() -> Result<()> {
    let env = Environment::new(2).await?;
    let mut script = env.blue.script();
    let url = env.envoy.url(PATH)?;
    let client = tokio::spawn(async move {
        let answer = reqwest::Client::new().post(url).body(vec![b'u'; LARGE]).send().await?;
        anyhow::Ok((answer.status().as_u16(), answer.bytes().await?.len()))
    });
    let mut exchange = script.next().await?;
    let mut received = 0;
    while let Some(piece) = exchange.piece().await? {
        received += piece.len();
    }
    let mut body = exchange.answer(200, &[])?;
    for _ in 0..50 {
        body.piece(vec![b'd'; LARGE / 50]).await?;
    }
    body.end();
    let answered = client.await??;
    ensure!((received, answered) == (LARGE, (200, LARGE)), "{received} bytes up, {answered:?} down");
    Ok(())
}

#[tokio::test]
async fn server_sent_events_arrive_one_by_one_while_the_stream_is_open() -> Result<()> {
    let env = Environment::new(2).await?;
    let mut script = env.blue.script();

    let mut client = Connection::open(env.envoy.traffic()?).await?;
    client.write(get(PATH, &[("accept", b"text/event-stream")])).await?;
    let mut events = script.next().await?.answer(200, &[("content-type", "text/event-stream")])?;
    for number in 0..5 {
        // The next event is not even made before the client has this one.
        events.piece(format!("data: event {number}\n\n")).await?;
        client.until(&format!("data: event {number}\n\n")).await?;
    }
    events.end();
    client.until("0\r\n\r\n").await?;

    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build()?;
    let url = env.envoy.url(PATH)?;
    let call = tokio::spawn(async move { client.get(url).send().await });
    let mut events = script.next().await?.answer(200, &[("content-type", "text/event-stream")])?;
    events.piece("data: 0\n\n").await?;
    let mut answer = call.await??;
    for number in 0..5 {
        let event = answer.chunk().await?.context("the stream ended early")?;
        ensure!(event == format!("data: {number}\n\n"), "instead of event {number}: {event:?}");
        events.piece(format!("data: {}\n\n", number + 1)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_chunked_upload_reaches_the_upstream_chunk_by_chunk() -> Result<()> {
    let env = Environment::new(2).await?;
    let mut script = env.blue.script();
    let mut client = Connection::open(env.envoy.traffic()?).await?;
    client.write("POST /invocations HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await?;
    let mut exchange = script.next().await?;
    for number in 0..5 {
        let chunk = format!("chunk {number}");
        client.write(format!("{:x}\r\n{chunk}\r\n", chunk.len())).await?;
        let piece = exchange.piece().await?.context("the upload ended early")?;
        ensure!(piece == chunk, "instead of {chunk:?}: {piece:?}");
    }
    client.write("0\r\n\r\n").await?;
    ensure!(exchange.piece().await?.is_none(), "the upload has no end");
    exchange.answer(200, &[])?.end();
    let answer = client.answer().await?;
    ensure!(answer.status == 200 && answer.header("x-bluegreen-colour") == Some("blue"), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn an_answer_may_begin_before_the_request_has_ended() -> Result<()> {
    let env = Environment::new(2).await?;
    let mut script = env.blue.script();
    let mut client = Connection::open(env.envoy.traffic()?).await?;
    client.write("POST /invocations HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nup\r\n").await?;
    let mut exchange = script.next().await?;
    exchange.piece().await?;
    let mut body = exchange.answer(200, &[])?;
    body.piece("early").await?;
    client.until("early").await?;
    client.write("4\r\nmore\r\n").await?;
    let piece = exchange.piece().await?;
    ensure!(piece.as_deref() == Some(&b"more"[..]), "{piece:?}");
    Ok(())
}

#[tokio::test]
async fn trailers_pass_in_both_directions() -> Result<()> {
    let env = Environment::with(2, Bootstrap::shipped()?.with_http2("blue")).await?;
    let mut script = env.blue.script();
    let stream = TcpStream::connect(env.envoy.traffic()?).await?;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let (mut frames, body) = channel::Channel::<Bytes>::new(2);
    let request = Request::post(env.envoy.url(PATH)?).body(body)?;
    let call = tokio::spawn(async move { sender.send_request(request).await.map(|answer| (answer, sender)) });
    frames.send_data(Bytes::from_static(b"up")).await?;
    frames.send_trailers(HeaderMap::from_iter([("x-up".parse()?, HeaderValue::from_static("1"))])).await?;
    drop(frames);

    let mut exchange = script.next().await?;
    let up = exchange.trailers().await?;
    ensure!(up.get("x-up").is_some_and(|value| value == "1"), "the upstream saw the trailers {up:?}");
    let mut reply = exchange.answer(200, &[])?;
    reply.piece("down").await?;
    reply.trailers(HeaderMap::from_iter([("x-down".parse()?, HeaderValue::from_static("2"))])).await?;

    let (answer, _sender) = call.await??;
    let answer = answer.into_body().collect().await?;
    let down = answer.trailers().cloned().unwrap_or_default();
    ensure!(down.get("x-down").is_some_and(|value| value == "2"), "the client saw the trailers {down:?}");
    ensure!(answer.to_bytes() == "down", "the body was lost");
    connection.abort();
    Ok(())
}

/// A gRPC server whose health service is about one colour.
struct Grpc {
    address: SocketAddr,
    reporter: HealthReporter,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

// === impl Grpc ===

impl Grpc {
    async fn start(colour: &str) -> Result<Self> {
        let (reporter, service) = tonic_health::server::health_reporter();
        reporter.set_service_status(colour, ServingStatus::Serving).await;
        let listener = TcpListener::bind(loopback(0)).await?;
        let address = listener.local_addr()?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
        Ok(Self { address, reporter, server: tokio::spawn(server) })
    }
}

impl Drop for Grpc {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An Envoy for gRPC, and its two servers.
async fn grpc_environment() -> Result<(Envoy, Grpc, Grpc)> {
    const HEALTH: &str = "/grpc.health.v1.Health";
    let (blue, green) = (Grpc::start("blue").await?, Grpc::start("green").await?);
    let bootstrap = Bootstrap::shipped()?
        .deployment(IRIS, |iris| iris["match"] = json!({"path_prefix": HEALTH}))
        .with_http2("blue")
        .with_http2("green")
        .with_cluster("blue", blue.address)
        .with_cluster("green", green.address)
        .edit(|tree| {
            for listener in elements(tree, "/static_resources/listeners") {
                let route = "/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes/0";
                if let Some(route) = listener.pointer_mut(route) {
                    route["match"] = json!({"path_separated_prefix": HEALTH});
                }
            }
        });
    Ok((Envoy::with(bootstrap).start().await?, blue, green))
}

async fn grpc_client(envoy: &Envoy) -> Result<HealthClient<Channel>> {
    Ok(HealthClient::new(Channel::from_shared(envoy.url("")?)?.connect().await?))
}

/// Which colour answered a unary call: each server knows only its own colour's service, and Envoy says it too.
async fn grpc_colour(client: &mut HealthClient<Channel>) -> Result<String> {
    let mut served = Vec::new();
    for service in ["blue", "green"] {
        let answer = client.check(HealthCheckRequest { service: service.to_owned() }).await;
        let metadata = match &answer {
            Ok(answer) => answer.metadata(),
            Err(status) => status.metadata(),
        };
        let colour =
            metadata.get("x-bluegreen-colour").map(|colour| String::from_utf8_lossy(colour.as_bytes()).into_owned());
        let colour = colour.with_context(|| format!("no colour in {answer:?}"))?;
        let found = answer.as_ref().map_or_else(|status| status.code() != tonic::Code::NotFound, |_| true);
        ensure!(found == (colour == service), "{colour} answered about {service}: {answer:?}");
        served.push(colour);
    }
    served.dedup();
    ensure!(served.len() == 1, "two calls went to {served:?}");
    served.pop().context("no call")
}

#[tokio::test]
async fn unary_grpc_calls_are_routed_and_switched_with_their_status_intact() -> Result<()> {
    let (envoy, _blue, _green) = grpc_environment().await?;
    let mut client = grpc_client(&envoy).await?;
    for expected in ["blue", "green", "blue"] {
        envoy.admin()?.patch(IRIS, &[("active", expected)]).await?.accepted()?;
        let seen = grpc_colour(&mut client).await?;
        ensure!(seen == expected, "{expected} is active, {seen} answered");
    }
    Ok(())
}

#[tokio::test]
async fn a_grpc_stream_delivers_each_message_and_outlives_a_switch() -> Result<()> {
    let (envoy, blue, _green) = grpc_environment().await?;
    let mut client = grpc_client(&envoy).await?;
    let answer = client.watch(HealthCheckRequest { service: "blue".to_owned() }).await?;
    let mut messages = answer.into_inner();
    let mut expect = async |expected: ServingStatus| -> Result<()> {
        let seen = messages.message().await?.context("the stream ended")?;
        let wanted = tonic_health::pb::health_check_response::ServingStatus::from(expected);
        ensure!(seen.status == wanted as i32, "{seen:?} instead of {expected:?}");
        Ok(())
    };
    expect(ServingStatus::Serving).await?;
    blue.reporter.set_service_status("blue", ServingStatus::NotServing).await;
    expect(ServingStatus::NotServing).await?;

    envoy.admin()?.promote(IRIS).await?;
    let seen = grpc_colour(&mut client).await?;
    ensure!(seen == "green", "a new call on the same connection went to {seen}");
    blue.reporter.set_service_status("blue", ServingStatus::Serving).await;
    expect(ServingStatus::Serving).await
}

#[tokio::test]
async fn a_protocol_that_the_route_allows_can_be_upgraded_to() -> Result<()> {
    let bootstrap = Bootstrap::shipped()?.edit(|tree| {
        for listener in elements(tree, "/static_resources/listeners") {
            let manager: Option<&mut Value> = listener.pointer_mut("/filter_chains/0/filters/0/typed_config");
            manager.into_iter().for_each(|manager| manager["upgrade_configs"] = json!([{"upgrade_type": "websocket"}]));
        }
    });
    let env = Environment::with(2, bootstrap).await?;
    let mut script = env.blue.script();
    let mut client = Connection::open(env.envoy.traffic()?).await?;
    let head = "GET /invocations HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n";
    client
        .write(format!("{head}sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
        .await?;
    let mut exchange = script.next().await?;
    let upgrade = exchange.head.values("upgrade");
    ensure!(upgrade == [b"websocket"], "the upstream saw {:?}", exchange.head);
    // The upstream of these tests declines; what counts is that the request to upgrade was routed like any other.
    exchange.answer(426, &[])?.end();
    let answer = client.answer().await?;
    ensure!(answer.status == 426 && answer.header("x-bluegreen-colour") == Some("blue"), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn a_head_request_gets_the_headers_and_no_body() -> Result<()> {
    let env = Environment::new(2).await?;
    let load = Load::new(env.envoy.traffic()?, PATH).body(Method::HEAD, "").at_most(5);
    let report = load.run().await;
    report.ensure_no_failures()?;
    ensure!(report.count("blue") == 5, "{report:?}");
    Ok(())
}
