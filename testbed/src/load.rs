//! Traffic of which every answer is kept.
//!
//! A fixed number of keep-alive connections, each sending one request after the other. Each request leaves a
//! [`Record`]: when it began, when its answer was complete, and what the answer was or why there was none. Whether
//! something was lost at a switch is then a question to the records and not to a percentage.
//!
//! A load always ends: by [`Running::stop`], after its number of requests, or after its time.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Uri, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::wait;

pub use crate::report::{Answer, Record, Report};

/// The filter's header that tells which colour answered.
pub const COLOUR_HEADER: &str = "x-bluegreen-colour";

/// The traffic to send. The defaults: `GET`, 4 connections, as fast as answers come, at most 200,000 requests, at most
/// 60 seconds, 10 seconds for each request.
#[derive(Clone, Debug)]
pub struct Load {
    address: SocketAddr,
    host: Option<String>,
    path: String,
    method: Method,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    connections: usize,
    at_most: u64,
    lasting: Duration,
    request_timeout: Duration,
    rate: Option<f64>,
    http2: bool,
    verify: Option<Verify>,
}

/// Says what is wrong with a complete answer, given its body; such a request counts as failed.
pub type Verify = fn(&Answer, &[u8]) -> std::result::Result<(), String>;

/// A load that is under way.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    connections: JoinSet<()>,
}

/// What all connections of a load share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    begun: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    records: Mutex<Vec<Record>>,
}

/// A connection that a request can be sent on.
enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

// === impl Load ===

impl Load {
    /// Requests for `path` at `address`.
    pub fn new(address: SocketAddr, path: &str) -> Self {
        Self {
            address,
            host: None,
            path: path.to_owned(),
            method: Method::GET,
            headers: Vec::new(),
            body: Bytes::new(),
            connections: 4,
            at_most: 200_000,
            lasting: Duration::from_secs(60),
            request_timeout: Duration::from_secs(10),
            rate: None,
            http2: false,
            verify: None,
        }
    }

    /// Another method, and a body.
    #[must_use]
    pub fn body(mut self, method: Method, body: impl Into<Bytes>) -> Self {
        self.method = method;
        self.body = body.into();
        self
    }

    /// One more header on each request.
    pub fn header(mut self, name: &str, value: &[u8]) -> Result<Self> {
        let name = HeaderName::from_bytes(name.as_bytes()).with_context(|| format!("header name {name:?}"))?;
        let value = HeaderValue::from_bytes(value).with_context(|| format!("value of header {name}"))?;
        self.headers.push((name, value));
        Ok(self)
    }

    /// The host that requests are for; the address if not said.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    /// How many connections.
    #[must_use]
    pub fn connections(mut self, count: usize) -> Self {
        self.connections = count;
        self
    }

    /// How many requests at most, over all connections.
    #[must_use]
    pub fn at_most(mut self, requests: u64) -> Self {
        self.at_most = requests;
        self
    }

    /// How long at most.
    #[must_use]
    pub fn lasting(mut self, duration: Duration) -> Self {
        self.lasting = duration;
        self
    }

    /// How many requests each second over all connections, at most.
    #[must_use]
    pub fn rate(mut self, per_second: f64) -> Self {
        self.rate = Some(per_second);
        self
    }

    /// How long a request may take before it counts as failed.
    #[must_use]
    pub fn request_timeout(mut self, duration: Duration) -> Self {
        self.request_timeout = duration;
        self
    }

    /// HTTP/2 with prior knowledge instead of HTTP/1.1.
    #[must_use]
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Looks at every complete answer: what `verify` finds wrong counts as failed.
    #[must_use]
    pub fn verify(mut self, verify: Verify) -> Self {
        self.verify = Some(verify);
        self
    }

    /// Starts sending.
    pub fn start(self) -> Running {
        let shared = Arc::new(Shared::default());
        let load = Arc::new(self);
        let deadline = Instant::now() + load.lasting;
        let mut connections = JoinSet::new();
        for _ in 0..load.connections {
            connections.spawn(connection(Arc::clone(&load), Arc::clone(&shared), deadline));
        }
        Running { shared, connections }
    }

    /// Sends until the number or the time is used up, and reports.
    pub async fn run(self) -> Report {
        let mut running = self.start();
        while running.connections.join_next().await.is_some() {}
        running.shared.report()
    }

    /// The pause that keeps one connection at its part of the rate.
    fn pause(&self) -> Option<Duration> {
        let connections = u32::try_from(self.connections).map_or(1.0, f64::from);
        self.rate.map(|rate| Duration::from_secs_f64(connections / rate))
    }

    fn request(&self) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        let host = self.host.clone().unwrap_or_else(|| self.address.to_string());
        if self.http2 {
            *request.uri_mut() = Uri::try_from(format!("http://{host}{}", self.path))?;
            *request.version_mut() = Version::HTTP_2;
        } else {
            *request.uri_mut() = Uri::try_from(self.path.as_str())?;
            request.headers_mut().insert(HOST, HeaderValue::try_from(host)?);
        }
        for (name, value) in &self.headers {
            request.headers_mut().append(name, value.clone());
        }
        Ok(request)
    }

    /// Opens a connection.
    async fn connect(&self) -> Result<Sender> {
        let stream = TcpStream::connect(self.address).await.context("connection refused")?;
        stream.set_nodelay(true)?;
        if self.http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok(Sender::Two(sender))
        } else {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok(Sender::One(sender))
        }
    }

    /// One request over `slot`, which is filled when it is empty or its connection was closed between requests.
    async fn exchange(&self, slot: &mut Option<Sender>) -> Result<Answer> {
        if let Some(sender) = slot
            && sender.ready().await.is_err()
        {
            *slot = None;
        }
        if slot.is_none() {
            let mut sender = self.connect().await?;
            sender.ready().await?;
            *slot = Some(sender);
        }
        let sender = slot.as_mut().context("no connection")?;
        let answer = sender.send(self.request()?).await?;
        let status = answer.status().as_u16();
        let colour = answer.headers().get(COLOUR_HEADER);
        let colour = colour.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let body = answer.into_body().collect().await.context("the answer broke off")?.to_bytes();
        let answer = Answer { status, colour, body_colour: colour_of(&body) };
        match self.verify.map(|verify| verify(&answer, &body)) {
            Some(Err(wrong)) => bail!("{wrong}"),
            Some(Ok(())) | None => Ok(answer),
        }
    }
}

/// Sends one request after the other until the load ends.
async fn connection(load: Arc<Load>, shared: Arc<Shared>, deadline: Instant) {
    let pause = load.pause();
    let mut next = Instant::now();
    let mut slot = None;
    while !shared.stop.load(Ordering::SeqCst)
        && Instant::now() < deadline
        && shared.begun.fetch_add(1, Ordering::SeqCst) < load.at_most
    {
        let began = Instant::now();
        let outcome = match timeout(load.request_timeout, load.exchange(&mut slot)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(_) => Err(format!("no complete answer within {:?}", load.request_timeout)),
        };
        let failed = outcome.is_err();
        if failed {
            slot = None;
        }
        shared.keep(Record { began, ended: Instant::now(), outcome });
        if let Some(pause) = pause {
            next += pause;
            sleep(next.saturating_duration_since(Instant::now())).await;
        } else if failed {
            // A peer that is gone refuses thousands of times a second; nobody learns more from that.
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What a test upstream's body says.
fn colour_of(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    body.get("colour")?.as_str().map(str::to_owned)
}

// === impl Sender ===

impl Sender {
    async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Self::One(sender) => sender.ready().await,
            Self::Two(sender) => sender.ready().await,
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<hyper::body::Incoming>> {
        match self {
            Self::One(sender) => sender.send_request(request).await,
            Self::Two(sender) => sender.send_request(request).await,
        }
    }
}

// === impl Shared ===

impl Shared {
    fn keep(&self, record: Record) {
        if !record.succeeded() {
            self.failed.fetch_add(1, Ordering::SeqCst);
        }
        self.records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        self.done.fetch_add(1, Ordering::SeqCst);
    }

    fn report(&self) -> Report {
        Report { records: std::mem::take(&mut *self.records.lock().unwrap_or_else(PoisonError::into_inner)) }
    }
}

// === impl Running ===

impl Running {
    /// How many requests have ended so far.
    pub fn done(&self) -> u64 {
        self.shared.done.load(Ordering::SeqCst)
    }

    /// How many of them failed.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::SeqCst)
    }

    /// The records so far.
    pub fn so_far(&self) -> Report {
        let records = self.shared.records.lock().unwrap_or_else(PoisonError::into_inner);
        Report { records: records.clone() }
    }

    /// The records since the last call of this, which the load then forgets: for one that goes on for hours.
    pub fn take(&self) -> Report {
        self.shared.report()
    }

    /// The last `count` records.
    pub fn recent(&self, count: usize) -> Report {
        let records = self.shared.records.lock().unwrap_or_else(PoisonError::into_inner);
        Report { records: records.iter().rev().take(count).rev().cloned().collect() }
    }

    /// Waits until the last `count` requests all began after `since` and `accept` takes each of them: until a switch is
    /// through. It looks every millisecond, for at most [`wait::PATIENCE`].
    pub async fn settled(&self, count: usize, since: Instant, accept: impl Fn(&Record) -> bool) -> Result<()> {
        let deadline = Instant::now() + wait::PATIENCE;
        loop {
            let recent = self.recent(count).records;
            if recent.len() == count && recent.iter().all(|record| record.began > since && accept(record)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{:?} after a switch requests still get another answer: {:?}", wait::PATIENCE, recent.last());
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until `count` more requests have ended.
    pub async fn more(&self, count: u64) -> Result<()> {
        let goal = self.done() + count;
        wait::until(&format!("{count} more requests"), || async { Ok(self.done()) }, |done| *done >= goal).await?;
        Ok(())
    }

    /// Lets the requests in flight end, and reports.
    pub async fn stop(mut self) -> Report {
        self.shared.stop.store(true, Ordering::SeqCst);
        while self.connections.join_next().await.is_some() {}
        self.shared.report()
    }
}
