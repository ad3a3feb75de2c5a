//! A model server for tests: it says which colour it is, remembers what it saw, and misbehaves on request.
//!
//! It speaks HTTP/1.1 and HTTP/2 without TLS on one port. For exchanges that must be observed piece by piece, see
//! [`crate::script`].
//!
//! The filter probes on its own account. Those requests, told by their path, are counted apart and have a behaviour of
//! their own, so that a test counts what its clients sent, and a server can be sick while it still serves.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::ports::loopback;
use crate::script::{Exchange, ReplyBody, Script};
use crate::seen::Seen;
use crate::wait;

/// The path that the shipped configuration probes.
pub const PROBED: &str = "/ping";

/// How many requests are remembered; the count goes on.
const MEMORY: usize = 2_000;

/// What an upstream does with a request.
#[derive(Clone, Debug, Default)]
pub enum Behaviour {
    /// Reads the body and answers 200 with `{"colour": …}`.
    #[default]
    Answer,
    /// The same, with this status.
    Status(u16),
    /// The same as [`Behaviour::Answer`], but every so many-th request gets this status.
    Sometimes {
        /// The status.
        status: u16,
        /// One request in so many gets it.
        one_in: u64,
    },
    /// A gRPC answer: HTTP 200 with a body, and this `grpc-status` in the trailers of every so many-th one, 0 in others.
    Grpc {
        /// The status.
        status: u16,
        /// One request in so many gets it.
        one_in: u64,
    },
    /// The same as [`Behaviour::Answer`], but every so many-th answer breaks off after its first bytes.
    BreakOff {
        /// One answer in so many does.
        one_in: u64,
    },
    /// Answers 200 with so many bytes.
    Bytes(usize),
    /// The same as [`Behaviour::Answer`], after a while.
    Slow(Duration),
    /// Reads the request and never answers.
    Hang,
    /// The same as [`Behaviour::Answer`], but every so many-th request gets no answer.
    HangSometimes {
        /// One request in so many gets none.
        one_in: u64,
    },
    /// The same as [`Behaviour::Answer`], but requests with this header get this status.
    StatusFor {
        /// The status.
        status: u16,
        /// The header's name, in lower case.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// Closes the connection instead of answering.
    Close,
    /// Answers what a model makes of the request's body, and of the number of the request at this upstream, from 1.
    Model(fn(&[u8], u64) -> Prediction),
    /// Hands each exchange to a test.
    Script(mpsc::UnboundedSender<Exchange>),
}

/// What a model answers.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The headers, beside the length.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Bytes,
    /// How long it takes.
    pub after: Duration,
}

/// A running upstream. It closes all its connections when dropped.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    state: Arc<State>,
    server: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    colour: String,
    behaviour: Mutex<Behaviour>,
    behaviour_when_probed: Mutex<Behaviour>,
    requests: AtomicU64,
    probes: AtomicU64,
    seen: Mutex<VecDeque<Seen>>,
}

// === impl Upstream ===

impl Upstream {
    /// Starts one that calls itself `colour`, on a free port.
    pub async fn start(colour: &str) -> Result<Self> {
        Self::start_at(colour, loopback(0)).await
    }

    /// Starts one at an address.
    pub async fn start_at(colour: &str, address: SocketAddr) -> Result<Self> {
        let state = State {
            colour: colour.to_owned(),
            behaviour: Mutex::default(),
            behaviour_when_probed: Mutex::default(),
            requests: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            seen: Mutex::default(),
        };
        let mut upstream = Self { address, state: Arc::new(state), server: None };
        upstream.listen().await?;
        Ok(upstream)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests have reached it, probes not among them.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// How many probes have reached it.
    pub fn probes(&self) -> u64 {
        self.state.probes.load(Ordering::SeqCst)
    }

    /// The last requests that reached it, oldest first, without probes.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.state.seen).iter().cloned().collect()
    }

    /// Waits until `count` requests have reached it since its start.
    pub async fn wait_for_requests(&self, count: u64) -> Result<()> {
        let what = format!("{count} requests at {}", self.state.colour);
        wait::until(&what, || async { Ok(self.requests()) }, |seen| *seen >= count).await?;
        Ok(())
    }

    /// From now on, requests are treated like this.
    pub fn behave(&self, behaviour: Behaviour) {
        *lock(&self.state.behaviour) = behaviour;
    }

    /// From now on, probes are treated like this.
    pub fn behave_when_probed(&self, behaviour: Behaviour) {
        *lock(&self.state.behaviour_when_probed) = behaviour;
    }

    /// From now on, each probe is handed to the returned script.
    pub fn script_of_probes(&self) -> Script {
        let (sender, script) = Script::new();
        self.behave_when_probed(Behaviour::Script(sender));
        script
    }

    /// From now on, each exchange is handed to the returned script.
    pub fn script(&self) -> Script {
        let (sender, script) = Script::new();
        self.behave(Behaviour::Script(sender));
        script
    }

    /// Stops listening and closes all connections, as a killed process would.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            // The port is closed when the task has ended.
            let _ = server.await;
        }
    }

    /// Listens again on the same address after [`Self::stop`].
    pub async fn listen(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address).await;
        let listener = listener.with_context(|| format!("{}: cannot listen on {}", self.state.colour, self.address))?;
        self.address = listener.local_addr()?;
        self.server = Some(tokio::spawn(serve(listener, Arc::clone(&self.state))));
        Ok(())
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
        }
    }
}

/// Accepts connections. All of them belong to this task and end with it.
async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(serve_connection(stream, Arc::clone(&state)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection(stream: TcpStream, state: Arc<State>) {
    // An error only says that the client went away, or that a behaviour closed the connection.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { state.handle(request).await }
    });
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

// === impl Prediction ===

impl Prediction {
    /// JSON, at once.
    pub fn json(body: impl Into<Bytes>) -> Self {
        Self {
            headers: vec![("content-type", "application/json".to_owned())],
            body: body.into(),
            after: Duration::ZERO,
        }
    }

    async fn response(self) -> Result<Response<ReplyBody>> {
        sleep(self.after).await;
        let mut response = Response::new(full(self.body));
        for (name, value) in self.headers {
            response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_str(&value)?);
        }
        Ok(response)
    }
}

// === impl State ===

impl State {
    async fn handle(&self, request: Request<Incoming>) -> Result<Response<ReplyBody>> {
        let head = Seen::of(&request);
        let behaviour = if head.path == PROBED {
            self.probes.fetch_add(1, Ordering::SeqCst);
            lock(&self.behaviour_when_probed).clone()
        } else {
            self.remember(head.clone());
            self.requests.fetch_add(1, Ordering::SeqCst);
            lock(&self.behaviour).clone()
        };
        let mut status = StatusCode::OK;
        let is_one_in = |number: u64| self.requests.load(Ordering::SeqCst).is_multiple_of(number);
        match behaviour {
            Behaviour::Answer => {}
            Behaviour::Sometimes { status: code, one_in } if is_one_in(one_in) => status = StatusCode::from_u16(code)?,
            Behaviour::Sometimes { .. } => {}
            Behaviour::Grpc { status, one_in } => {
                request.into_body().collect().await?;
                return Ok(grpc_answer(if is_one_in(one_in) { status } else { 0 }));
            }
            Behaviour::BreakOff { one_in } if is_one_in(one_in) => return Ok(Response::new(broken_off())),
            Behaviour::BreakOff { .. } => {}
            Behaviour::Bytes(size) => return Ok(Response::new(full(vec![b'.'; size]))),
            Behaviour::Status(code) => status = StatusCode::from_u16(code)?,
            Behaviour::Slow(duration) => sleep(duration).await,
            Behaviour::HangSometimes { one_in } if is_one_in(one_in) => std::future::pending().await,
            Behaviour::HangSometimes { .. } => {}
            Behaviour::StatusFor { status: code, name, value } if head.values(name) == [value.as_bytes()] => {
                status = StatusCode::from_u16(code)?;
            }
            Behaviour::StatusFor { .. } => {}
            Behaviour::Hang => std::future::pending().await,
            Behaviour::Close => anyhow::bail!("closing, as told"),
            Behaviour::Model(predict) => {
                let number = self.requests.load(Ordering::SeqCst);
                let input = request.into_body().collect().await?.to_bytes();
                return predict(&input, number).response().await;
            }
            Behaviour::Script(script) => return Exchange::hand_over(head, request.into_body(), &script).await,
        }
        request.into_body().collect().await?;
        Ok(self.answer(status))
    }

    fn remember(&self, head: Seen) {
        let mut seen = lock(&self.seen);
        if seen.len() == MEMORY {
            seen.pop_front();
        }
        seen.push_back(head);
    }

    fn answer(&self, status: StatusCode) -> Response<ReplyBody> {
        let mut response = Response::new(full(format!("{{\"colour\": \"{}\"}}\n", self.colour)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

fn full(body: impl Into<Bytes>) -> ReplyBody {
    Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed()
}

/// A body that ends with an error after its first bytes.
fn broken_off() -> ReplyBody {
    let (mut frames, body) = Channel::new(1);
    tokio::spawn(async move {
        let _ = frames.send_data(Bytes::from_static(b"first ")).await;
        // The bytes have left before the connection is closed.
        sleep(Duration::from_millis(20)).await;
        frames.abort(anyhow::anyhow!("breaking off, as told"));
    });
    body.boxed()
}

/// The form of a gRPC answer, which needs HTTP/2: the status comes after an empty message.
fn grpc_answer(status: u16) -> Response<ReplyBody> {
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from(status))]);
    let body = full(vec![0_u8; 5]).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A lock whose former owner panicked guards plain data here, which is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Load;

    #[tokio::test]
    async fn an_upstream_counts_and_says_its_colour() -> Result<()> {
        for http2 in [false, true] {
            let blue = Upstream::start("blue").await?;
            let load = Load::new(blue.address(), "/invocations?a=1").header("x-a", b"caf\xe9")?.at_most(20);
            let report = if http2 { load.http2() } else { load }.run().await;
            report.ensure_no_failures()?;
            assert_eq!(blue.requests(), 20);
            let answer = report.records.first().and_then(|record| record.outcome.clone().ok());
            assert_eq!(answer.and_then(|answer| answer.body_colour), Some("blue".to_owned()));
            let seen = blue.seen();
            let first = seen.first().context("nothing seen")?;
            assert_eq!((first.path.as_str(), first.values("x-a")), ("/invocations?a=1", vec![&b"caf\xe9"[..]]));
        }
        Ok(())
    }

    #[tokio::test]
    async fn probes_are_counted_apart_and_have_a_behaviour_of_their_own() -> Result<()> {
        let blue = Upstream::start("blue").await?;
        blue.behave_when_probed(Behaviour::Status(500));
        let probes = Load::new(blue.address(), PROBED).at_most(3).run().await;
        Load::new(blue.address(), "/").at_most(2).run().await.ensure_no_failures()?;
        assert_eq!((probes.failures().len(), blue.probes(), blue.requests(), blue.seen().len()), (3, 3, 2, 2));
        Ok(())
    }

    #[tokio::test]
    async fn a_stopped_upstream_refuses_and_can_come_back() -> Result<()> {
        let mut blue = Upstream::start("blue").await?;
        let load = Load::new(blue.address(), "/").connections(2).at_most(1_000_000).start();
        load.more(50).await?;
        blue.stop().await;
        let refused = Load::new(blue.address(), "/").at_most(3).run().await;
        assert_eq!(refused.failures().len(), 3, "{refused:?}");
        blue.listen().await?;
        load.more(50).await?;
        let report = load.stop().await;
        assert!(!report.failures().is_empty() && !report.begun_after(report.records[0].began).records.is_empty());
        let last = report.records.last().context("no record")?;
        assert!(last.succeeded(), "{last:?}");
        Ok(())
    }

    #[tokio::test]
    async fn an_upstream_misbehaves_on_request() -> Result<()> {
        let blue = Upstream::start("blue").await?;
        let one = Load::new(blue.address(), "/").connections(1).at_most(1).request_timeout(Duration::from_millis(200));
        for (behaviour, failure) in
            [(Behaviour::Status(500), "status: 500"), (Behaviour::Hang, "within"), (Behaviour::Close, "closed")]
        {
            blue.behave(behaviour);
            let report = one.clone().run().await;
            let seen = format!("{:?}", report.failures());
            assert!(seen.contains(failure), "expected {failure:?} in {seen}");
        }
        Ok(())
    }
}
