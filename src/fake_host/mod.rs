//! A host for native tests: it defines the functions that the SDK imports, so that the real SDK and the real filter run
//! in a plain `cargo test`, and it counts every call that the filter makes.
//!
//! One [`FakeEnvoy`] lives per test thread. Its workers are root contexts of one SDK dispatcher: like Envoy's threads
//! they share metrics and shared data, and nothing else.

#![allow(unsafe_code, reason = "this is the other side of the SDK's C interface")]

mod abi;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Header names and values, in their order.
pub type Headers = Vec<(String, Vec<u8>)>;

/// What a filter answered in place of an upstream.
#[derive(Clone, Debug)]
pub struct LocalReply {
    pub status: u32,
    pub headers: Headers,
    pub body: String,
}

/// One request as the host sees it.
#[derive(Default)]
struct HostStream {
    request: Headers,
    response: Headers,
    body: Vec<u8>,
    /// What has just come of the answer's body.
    answer_body: Vec<u8>,
    replies: Vec<LocalReply>,
    /// What a filter wrote into the filter state.
    vouched: Option<Vec<u8>>,
    /// What access logs show of its routing.
    decision: Option<Vec<u8>>,
}

/// A request that the filter sent through a cluster.
#[derive(Clone, Debug)]
pub struct SentCall {
    pub token: u32,
    pub cluster: String,
    pub headers: Headers,
    pub body: Vec<u8>,
    context: u32,
}

/// A gRPC call that the filter made.
#[derive(Clone, Debug)]
pub struct SentGrpc {
    pub token: u32,
    pub service: String,
    pub method: String,
    pub message: Vec<u8>,
}

/// A gRPC stream that the filter opened and has not ended.
#[derive(Clone, Debug)]
pub struct GrpcStream {
    pub metadata: Headers,
    pub messages: Vec<Vec<u8>>,
}

/// A shared queue.
#[derive(Default)]
struct Queue {
    name: String,
    /// The root context that registered it last.
    reader: u32,
    messages: VecDeque<Vec<u8>>,
}

#[derive(Default)]
struct Host {
    now_nanos: u64,
    current: u32,
    last_context: u32,
    configuration: Vec<u8>,
    streams: BTreeMap<u32, HostStream>,
    shared: BTreeMap<String, (Vec<u8>, u32)>,
    writes: u32,
    shared_out_of_reach: bool,
    metrics: Vec<(String, u64)>,
    /// The places of the metrics, by the numbers that were given out.
    metric_ids: Vec<usize>,
    logs: Vec<String>,
    calls: Vec<&'static str>,
    /// The last period that ticks were asked to come at, in milliseconds.
    tick_period: u32,
    sent: Vec<SentCall>,
    last_token: u32,
    reply: (Headers, Vec<u8>),
    code_details: String,
    /// The cluster that answers; the one that the filter asks for if not said.
    serving: Option<String>,
    attempts: u64,
    upstream: String,
    expressions: Vec<String>,
    expressions_refused: bool,
    reached_at: String,
    rejects_stats: bool,
    sent_grpc: Vec<SentGrpc>,
    grpc_streams: BTreeMap<u32, GrpcStream>,
    grpc_received: Vec<u8>,
    grpc_refused: bool,
    grpc_status: (u32, Vec<u8>),
    queues: Vec<Queue>,
    /// The queues whose readers have to be told of a message: root context and token.
    ready: VecDeque<(u32, u32)>,
    /// All root contexts.
    workers: Vec<u32>,
    /// The root contexts of streams.
    roots: BTreeMap<u32, u32>,
    /// The root contexts whose threads stand still.
    stopped: BTreeSet<u32>,
}

thread_local! {
    static HOST: RefCell<Host> = RefCell::default();
}

unsafe extern "C" {
    fn proxy_on_context_create(context_id: u32, root_context_id: u32);
    fn proxy_on_configure(context_id: u32, size: usize) -> bool;
    fn proxy_on_tick(context_id: u32);
    fn proxy_on_queue_ready(context_id: u32, queue: u32);
    fn proxy_on_request_headers(context_id: u32, count: usize, end_of_stream: bool) -> u32;
    fn proxy_on_request_body(context_id: u32, size: usize, end_of_stream: bool) -> u32;
    fn proxy_on_request_trailers(context_id: u32, count: usize) -> u32;
    fn proxy_on_response_headers(context_id: u32, count: usize, end_of_stream: bool) -> u32;
    fn proxy_on_response_body(context_id: u32, size: usize, end_of_stream: bool) -> u32;
    fn proxy_on_http_call_response(context_id: u32, token: u32, headers: usize, body_size: usize, trailers: usize);
    fn proxy_on_grpc_receive(context_id: u32, token: u32, size: usize);
    fn proxy_on_grpc_close(context_id: u32, token: u32, status: u32);
    fn proxy_on_done(context_id: u32) -> bool;
    fn proxy_on_log(context_id: u32);
    fn proxy_on_delete(context_id: u32);
}

/// The process: shared data, metrics, clock and log.
pub struct FakeEnvoy;

/// One root context.
#[derive(Clone, Copy)]
pub struct Worker(u32);

/// One request on a worker.
pub struct Exchange(u32);

/// Whether the host goes on with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Continue,
    Pause,
}

fn host<R>(act: impl FnOnce(&mut Host) -> R) -> R {
    HOST.with(|host| act(&mut host.borrow_mut()))
}

/// Tells the readers of queues of what has come, until nothing more comes.
fn deliver() {
    while let Some((reader, token)) = host(|host| {
        let place = host.ready.iter().position(|(reader, _)| !host.stopped.contains(reader))?;
        host.ready.remove(place)
    }) {
        host(|host| host.current = reader);
        unsafe { proxy_on_queue_ready(reader, token) };
    }
}

fn new_context() -> u32 {
    host(|host| {
        host.last_context += 1;
        host.current = host.last_context;
        host.last_context
    })
}

// === impl Host ===

impl Host {
    fn root_of(&self, context: u32) -> u32 {
        self.roots.get(&context).copied().unwrap_or(context)
    }
}

// === impl FakeEnvoy ===

impl FakeEnvoy {
    /// A process that has just started.
    pub fn start() -> Self {
        static LOGGER: std::sync::Once = std::sync::Once::new();
        LOGGER.call_once(|| {
            proxy_wasm::set_log_level(proxy_wasm::types::LogLevel::Info);
            // The SDK's own panic hook logs to the host; a failed assertion is for the terminal.
            drop(std::panic::take_hook());
        });
        proxy_wasm::set_root_context(crate::root::create);
        crate::host::forget_metrics();
        let (last_context, last_token) = host(|host| (host.last_context, host.last_token));
        let now_nanos = 1_795_446_000_000_000_000;
        let code_details = "via_upstream".to_owned();
        host(|host| *host = Host { now_nanos, last_context, last_token, code_details, attempts: 1, ..Host::default() });
        Self
    }

    /// A worker with this configuration; `None` when the filter refuses it.
    pub fn worker(&self, configuration: &str) -> Option<Worker> {
        let root = new_context();
        host(|host| host.configuration = configuration.as_bytes().to_vec());
        unsafe { proxy_on_context_create(root, 0) };
        host(|host| host.workers.push(root));
        let accepted = unsafe { proxy_on_configure(root, configuration.len()) };
        deliver();
        accepted.then_some(Worker(root))
    }

    /// Lets every message between workers arrive.
    pub fn settle(&self) {
        deliver();
    }

    /// Ticks every worker once.
    pub fn tick_all(&self) {
        host(|host| host.workers.clone()).into_iter().for_each(|worker| Worker(worker).tick());
    }

    pub fn advance(&self, span: std::time::Duration) {
        host(|host| host.now_nanos += u64::try_from(span.as_nanos()).expect("a short span"));
    }

    /// Whether gRPC calls and streams cannot be begun.
    pub fn refuse_grpc(&self, refuse: bool) {
        host(|host| host.grpc_refused = refuse);
    }

    /// The gRPC calls made since this was last asked.
    pub fn take_grpc(&self) -> Vec<SentGrpc> {
        host(|host| std::mem::take(&mut host.sent_grpc))
    }

    /// The gRPC streams that are open, by their numbers.
    pub fn grpc_streams(&self) -> BTreeMap<u32, GrpcStream> {
        host(|host| host.grpc_streams.clone())
    }

    /// Delivers a response to a gRPC call, or a message on a stream.
    pub fn grpc_receive(&self, token: u32, message: &[u8]) {
        host(|host| host.grpc_received = message.to_vec());
        unsafe { proxy_on_grpc_receive(0, token, message.len()) };
        deliver();
    }

    /// Ends a gRPC call without a response, or a stream.
    pub fn grpc_close(&self, token: u32) {
        // Clients send any bytes, not only UTF-8.
        self.grpc_refuse(token, 14, b"no \xff way");
    }

    /// Ends a gRPC call or a stream with a status.
    pub fn grpc_refuse(&self, token: u32, code: u32, message: &[u8]) {
        host(|host| host.grpc_status = (code, message.to_vec()));
        unsafe { proxy_on_grpc_close(0, token, code) };
        deliver();
    }

    pub fn set_shared_reachable(&self, reachable: bool) {
        host(|host| host.shared_out_of_reach = !reachable);
    }

    pub fn put_shared(&self, key: &str, value: &[u8]) {
        host(|host| {
            host.writes += 1;
            host.shared.insert(key.to_owned(), (value.to_vec(), host.writes));
        });
    }

    pub fn shared(&self, key: &str) -> Option<String> {
        host(|host| host.shared.get(key).map(|(value, _)| String::from_utf8_lossy(value).into_owned()))
    }

    pub fn shared_keys(&self) -> Vec<String> {
        host(|host| host.shared.keys().cloned().collect())
    }

    pub fn metric(&self, name: &str) -> Option<u64> {
        host(|host| host.metrics.iter().find(|(known, _)| known == name).map(|(_, value)| *value))
    }

    pub fn metric_names(&self) -> Vec<String> {
        host(|host| host.metrics.iter().map(|(name, _)| name.clone()).collect())
    }

    pub fn logs(&self) -> Vec<String> {
        host(|host| host.logs.clone())
    }

    /// The requests that the filter has sent since the last time this was asked.
    pub fn take_sent(&self) -> Vec<SentCall> {
        host(|host| std::mem::take(&mut host.sent))
    }

    /// Lets a reply come back; without a status, the stream broke.
    pub fn reply(&self, call: &SentCall, status: Option<&str>, body: &str) {
        let headers: Headers =
            status.map(|status| (":status".to_owned(), status.as_bytes().to_vec())).into_iter().collect();
        let (count, size) = (headers.len(), body.len());
        host(|host| {
            host.current = call.context;
            host.reply = (headers, body.as_bytes().to_vec());
        });
        unsafe { proxy_on_http_call_response(call.context, call.token, count, size, 0) };
        deliver();
    }

    /// How Envoy explains the answers that follow.
    pub fn set_code_details(&self, details: &str) {
        host(|host| host.code_details = details.to_owned());
    }

    /// Which cluster answers from now on, and at which attempt: `None` for the one that the filter asks for.
    pub fn serve_from(&self, cluster: Option<&str>, attempts: u64) {
        host(|host| (host.serving, host.attempts) = (cluster.map(str::to_owned), attempts));
    }

    /// The address of the host that is asked from now on.
    pub fn set_upstream(&self, address: &str) {
        host(|host| host.upstream = address.to_owned());
    }

    /// Whether expressions cannot be compiled, as in an Envoy without their parser.
    pub fn refuse_expressions(&self) {
        host(|host| host.expressions_refused = true);
    }

    /// The expressions that were compiled and are still there.
    pub fn expressions(&self) -> Vec<String> {
        host(|host| host.expressions.iter().filter(|text| !text.is_empty()).cloned().collect())
    }

    /// The address at which requests come from now on.
    pub fn set_reached_at(&self, address: &str) {
        host(|host| host.reached_at = address.to_owned());
    }

    /// Keeps no metric from now on.
    pub fn reject_stats(&self) {
        host(|host| host.rejects_stats = true);
    }

    /// How many numbers of metrics were given out.
    pub fn metric_definitions(&self) -> usize {
        host(|host| host.metric_ids.len())
    }

    /// The size of everything in shared data.
    pub fn shared_bytes(&self) -> usize {
        host(|host| host.shared.iter().map(|(key, (value, _))| key.len() + value.len()).sum())
    }

    /// The shared queues: their names, and how many messages wait there.
    pub fn queues(&self) -> Vec<(String, usize)> {
        host(|host| host.queues.iter().map(|queue| (queue.name.clone(), queue.messages.len())).collect())
    }

    /// How often ticks were last asked to come, in milliseconds.
    pub fn tick_period(&self) -> u32 {
        host(|host| host.tick_period)
    }

    /// The calls that the filter has made since the last time this was asked.
    pub fn take_calls(&self) -> Vec<&'static str> {
        host(|host| std::mem::take(&mut host.calls))
    }
}

/// The end of the process, streams first.
impl Drop for FakeEnvoy {
    fn drop(&mut self) {
        let (streams, workers) = host(|host| {
            host.stopped.clear();
            (host.streams.keys().copied().collect::<Vec<_>>(), std::mem::take(&mut host.workers))
        });
        for context in streams.into_iter().chain(workers) {
            unsafe { proxy_on_delete(context) };
        }
    }
}

/// What the host knows of the answer.
impl Host {
    /// The cluster that answers the current stream.
    fn serving_cluster(&self) -> String {
        self.serving.clone().unwrap_or_else(|| {
            let stream = self.streams.get(&self.current);
            stream.and_then(|stream| values(&stream.request, "x-bluegreen-cluster").pop()).unwrap_or_default()
        })
    }

    /// Whether an expression of the filter's is null. It is one pattern: what it says about status, details and attempts is
    /// always the same.
    fn is_null(&self, expression: &str) -> bool {
        let cluster = format!("xds.cluster_name == {:?}", self.serving_cluster());
        let status = self.streams.get(&self.current).map(|stream| values(&stream.response, ":status"));
        expression.contains(&cluster)
            && status.is_some_and(|status| status == ["200"])
            && (self.code_details.as_str(), self.attempts) == ("via_upstream", 1)
    }
}

// === impl Worker ===

impl Worker {
    pub fn tick(self) {
        host(|host| host.current = self.0);
        unsafe { proxy_on_tick(self.0) };
        deliver();
    }

    /// Another configuration has taken its place, and its last stream is over.
    pub fn end(self) {
        unsafe {
            proxy_on_done(self.0);
            proxy_on_delete(self.0);
        }
        host(|host| host.workers.retain(|worker| *worker != self.0));
        deliver();
    }

    /// Whether its thread stands still, so that messages wait.
    pub fn stop(self, stopped: bool) {
        host(|host| if stopped { host.stopped.insert(self.0) } else { host.stopped.remove(&self.0) });
        deliver();
    }

    /// A request whose headers the filter has not seen yet.
    pub fn request(self, headers: &[(&str, &[u8])]) -> Exchange {
        let context = new_context();
        let request = headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
        host(|host| {
            host.streams.insert(context, HostStream { request, ..HostStream::default() });
            host.roots.insert(context, self.0);
        });
        unsafe { proxy_on_context_create(context, self.0) };
        Exchange(context)
    }
}

// === impl Exchange ===

impl Exchange {
    pub fn send_headers(&self, end_of_stream: bool) -> Next {
        let count = self.with(|stream| stream.request.len());
        let next = next(unsafe { proxy_on_request_headers(self.0, count, end_of_stream) });
        deliver();
        next
    }

    pub fn send_body(&self, part: &[u8], end_of_stream: bool) -> Next {
        let size = self.with(|stream| {
            stream.body.extend_from_slice(part);
            stream.body.len()
        });
        let next = next(unsafe { proxy_on_request_body(self.0, size, end_of_stream) });
        deliver();
        next
    }

    pub fn send_trailers(&self) -> Next {
        self.with(|_| ());
        let next = next(unsafe { proxy_on_request_trailers(self.0, 1) });
        deliver();
        next
    }

    /// The upstream's answer, as the filter leaves it.
    pub fn answer(&self, status: &str) -> Headers {
        self.answer_with(&[(":status", status)])
    }

    /// The same for a whole head.
    pub fn answer_with(&self, head: &[(&str, &str)]) -> Headers {
        let headers = head.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        self.with(|stream| stream.response = headers.collect());
        unsafe { proxy_on_response_headers(self.0, head.len(), false) };
        deliver();
        self.with(|stream| stream.response.clone())
    }

    /// A piece of the request's body, of which Envoy holds nothing back: the next one takes its place.
    pub fn pass_body(&self, part: &[u8], end_of_stream: bool) {
        self.with(|stream| stream.body = part.to_vec());
        assert_eq!(next(unsafe { proxy_on_request_body(self.0, part.len(), end_of_stream) }), Next::Continue);
        deliver();
    }

    /// A piece of the answer's body.
    pub fn answer_body(&self, part: &[u8], end_of_stream: bool) {
        self.with(|stream| stream.answer_body = part.to_vec());
        assert_eq!(next(unsafe { proxy_on_response_body(self.0, part.len(), end_of_stream) }), Next::Continue);
        self.with(|stream| stream.answer_body.clear());
        deliver();
    }

    /// The upstream's answer, which Envoy keeps to itself: the filter learns of it at the end only.
    pub fn keep_answer(&self, status: &str) {
        self.with(|stream| stream.response = vec![(":status".to_owned(), status.as_bytes().to_vec())]);
    }

    /// A gRPC answer without a message: all of it is in its head.
    pub fn answer_grpc(&self, status: &str) {
        let head = [(":status", "200"), ("grpc-status", status)];
        self.with(|stream| {
            stream.response = head.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec();
        });
        unsafe { proxy_on_response_headers(self.0, head.len(), true) };
    }

    /// The stream is over. The answer to it, if there is one, is complete unless Envoy says that it broke off.
    pub fn end(self) {
        self.with(|_| ());
        let is_complete = host(|host| {
            let is_answered = host.streams.get(&self.0).is_some_and(|stream| !stream.response.is_empty());
            let broke_off = ["downstream", "upstream_reset_after", "internal_redirect"];
            is_answered && !broke_off.iter().any(|side| host.code_details.starts_with(side))
        });
        if is_complete {
            unsafe { proxy_on_response_body(self.0, 0, true) };
        }
        unsafe {
            proxy_on_done(self.0);
            proxy_on_log(self.0);
            proxy_on_delete(self.0);
        }
        host(|host| host.streams.remove(&self.0));
        deliver();
    }

    /// The same request at the next filter of the chain, which another worker stands for.
    pub fn go_on_to(&self, next: Worker) -> Self {
        let context = new_context();
        host(|host| {
            let before = host.streams.get(&self.0).expect("a live stream");
            let (request, vouched) = (before.request.clone(), before.vouched.clone());
            host.streams.insert(context, HostStream { request, vouched, ..HostStream::default() });
        });
        unsafe { proxy_on_context_create(context, next.0) };
        Self(context)
    }

    /// All values of a request header as the upstream would get them.
    pub fn request_header(&self, name: &str) -> Vec<String> {
        self.with(|stream| values(&stream.request, name))
    }

    /// The answers that the filter gave itself.
    pub fn replies(&self) -> Vec<LocalReply> {
        self.with(|stream| stream.replies.clone())
    }

    fn with<R>(&self, act: impl FnOnce(&mut HostStream) -> R) -> R {
        host(|host| {
            host.current = self.0;
            act(host.streams.get_mut(&self.0).expect("a live stream"))
        })
    }
}

fn next(action: u32) -> Next {
    if action == 0 { Next::Continue } else { Next::Pause }
}

/// All values of a header.
pub fn values(headers: &Headers, name: &str) -> Vec<String> {
    let of_name = headers.iter().filter(|(known, _)| known == name);
    of_name.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
}
