//! Exchanges that a test plays piece by piece, from the upstream's side.
//!
//! Whether a proxy buffers cannot be told from a complete answer. Here the test holds the upstream's end: it sees each
//! piece of a request's body when it arrives, and decides when the next piece of the answer goes out.

use std::time::Duration;

use anyhow::{Context, Error, Result};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, channel};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::seen::Seen;

/// The body of an upstream's answer.
pub type ReplyBody = BoxBody<Bytes, Error>;

/// How long to wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// The exchanges that reach an upstream, in order.
#[derive(Debug)]
pub struct Script {
    exchanges: mpsc::UnboundedReceiver<Exchange>,
}

/// One request that waits for its answer.
#[derive(Debug)]
pub struct Exchange {
    /// The request's head.
    pub head: Seen,
    body: Incoming,
    reply: Option<oneshot::Sender<Response<ReplyBody>>>,
}

/// The body of an answer whose head has been sent. Dropping it ends the body.
#[derive(Debug)]
pub struct Reply {
    frames: channel::Sender<Bytes, Error>,
}

// === impl Script ===

impl Script {
    /// A script and the sender that feeds it.
    pub(crate) fn new() -> (mpsc::UnboundedSender<Exchange>, Self) {
        let (sender, exchanges) = mpsc::unbounded_channel();
        (sender, Self { exchanges })
    }

    /// The next exchange, as soon as the head of its request has arrived.
    pub async fn next(&mut self) -> Result<Exchange> {
        let exchange = timeout(PATIENCE, self.exchanges.recv()).await.context("no request reached the upstream")?;
        exchange.context("the upstream is gone")
    }
}

// === impl Exchange ===

impl Exchange {
    /// Hands a request to a script and waits for its answer.
    pub(crate) async fn hand_over(
        head: Seen,
        body: Incoming,
        script: &mpsc::UnboundedSender<Self>,
    ) -> Result<Response<ReplyBody>> {
        let (reply, answer) = oneshot::channel();
        script.send(Self { head, body, reply: Some(reply) }).ok().context("the script is gone")?;
        answer.await.context("the script dropped the exchange")
    }

    /// The next piece of the request's body; `None` at its end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>> {
        Ok(self.frame().await?.and_then(|frame| frame.into_data().ok()))
    }

    /// Reads the rest of the body, and returns its trailers.
    pub async fn trailers(&mut self) -> Result<HeaderMap> {
        while let Some(frame) = self.frame().await? {
            if let Ok(trailers) = frame.into_trailers() {
                return Ok(trailers);
            }
        }
        Ok(HeaderMap::new())
    }

    /// Sends the head of the answer.
    pub fn answer(&mut self, status: u16, headers: &[(&str, &str)]) -> Result<Reply> {
        let (frames, body) = channel::Channel::new(1);
        let mut response = Response::new(BodyExt::boxed(body));
        *response.status_mut() = StatusCode::from_u16(status)?;
        for (name, value) in headers {
            response.headers_mut().append(HeaderName::try_from(*name)?, HeaderValue::try_from(*value)?);
        }
        let reply = self.reply.take().context("this exchange has been answered already")?;
        reply.send(response).ok().context("the client went away before the answer")?;
        Ok(Reply { frames })
    }

    async fn frame(&mut self) -> Result<Option<Frame<Bytes>>> {
        let frame = timeout(PATIENCE, self.body.frame()).await.context("no further piece of the request arrived")?;
        Ok(frame.transpose()?)
    }
}

// === impl Reply ===

impl Reply {
    /// Sends a piece of the body. An error means that the client went away.
    pub async fn piece(&mut self, data: impl Into<Bytes>) -> Result<()> {
        let sent = timeout(PATIENCE, self.frames.send_data(data.into())).await.context("nobody reads the answer")?;
        sent.context("the client went away")
    }

    /// Ends the body with trailers.
    pub async fn trailers(mut self, trailers: HeaderMap) -> Result<()> {
        self.frames.send_trailers(trailers).await.context("the client went away")
    }

    /// Ends the body.
    pub fn end(self) {}

    /// Breaks the body off, as a crashing server would.
    pub fn break_off(self) {
        self.frames.abort(anyhow::anyhow!("broken off, as told"));
    }
}
