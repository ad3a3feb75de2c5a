//! A model server that only counts: requests and copies, and those that it never answers.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A request under this path is counted, and not answered.
pub const UNANSWERED: &str = "/invocations/unanswered/";

/// Envoy marks the host of a copy with it.
const COPY: &str = "-shadow";

/// A running one. It ends when dropped.
pub struct Counting {
    pub address: SocketAddr,
    counts: Arc<Counts>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    copies: AtomicU64,
    /// Who waits for an unanswered request to arrive.
    arrivals: Arrivals,
}

/// By what follows [`UNANSWERED`] in its path.
pub type Arrivals = Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>;

// === impl Counting ===

impl Counting {
    /// Starts one on a free port.
    pub async fn start(arrivals: &Arrivals) -> Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts { arrivals: Arc::clone(arrivals), ..Counts::default() });
        Ok(Self { address, server: tokio::spawn(serve(listener, Arc::clone(&counts))), counts })
    }

    /// How many requests have come, copies not among them.
    pub fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// How many copies have come.
    pub fn copies(&self) -> u64 {
        self.counts.copies.load(Ordering::SeqCst)
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, counts: Arc<Counts>) {
    while let Ok((stream, _)) = listener.accept().await {
        let counts = Arc::clone(&counts);
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request| handle(Arc::clone(&counts), request));
            // How a connection ends is Envoy's affair.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn handle(
    counts: Arc<Counts>,
    request: Request<Incoming>,
) -> Result<Response<http_body_util::Full<Bytes>>, Infallible> {
    let host = request.headers().get(HOST).map_or(&b""[..], |host| host.as_bytes());
    let is_copy = host.split(|byte| *byte == b':').next().unwrap_or_default().ends_with(COPY.as_bytes());
    if is_copy {
        counts.copies.fetch_add(1, Ordering::SeqCst);
    } else {
        counts.requests.fetch_add(1, Ordering::SeqCst);
        if let Some(number) = request.uri().path().strip_prefix(UNANSWERED) {
            let waiting = counts.arrivals.lock().unwrap_or_else(PoisonError::into_inner).remove(number);
            if let Some(waiting) = waiting {
                // A client that has gone already needs no word.
                let _: Result<(), ()> = waiting.send(());
            }
            return std::future::pending().await;
        }
    }
    Ok(Response::new(http_body_util::Full::new(Bytes::from_static(b"{}"))))
}
