//! A host for native tests: it defines the functions that the SDK imports, so that the real SDK and the real filter run
//! in a plain `cargo test`, and it counts every call that the filter makes.
//!
//! One [`FakeEnvoy`] lives per test thread. Its workers are root contexts of one SDK dispatcher: like Envoy's threads
//! they share metrics and shared data, and nothing else.

#![allow(unsafe_code, reason = "this is the other side of the SDK's C interface")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::slice;

const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const BAD_ARGUMENT: u32 = 2;
const CAS_MISMATCH: u32 = 8;
const INTERNAL_FAILURE: u32 = 10;

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
    replies: Vec<LocalReply>,
}

/// A request that the filter sent through a cluster.
#[derive(Clone, Debug)]
pub struct SentCall {
    pub token: u32,
    pub cluster: String,
    pub headers: Headers,
    context: u32,
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
    logs: Vec<String>,
    calls: Vec<&'static str>,
    sent: Vec<SentCall>,
    last_token: u32,
    reply: (Headers, Vec<u8>),
    code_details: String,
}

thread_local! {
    static HOST: RefCell<Host> = RefCell::default();
}

unsafe extern "C" {
    fn proxy_on_context_create(context_id: u32, root_context_id: u32);
    fn proxy_on_configure(context_id: u32, size: usize) -> bool;
    fn proxy_on_tick(context_id: u32);
    fn proxy_on_request_headers(context_id: u32, count: usize, end_of_stream: bool) -> u32;
    fn proxy_on_request_body(context_id: u32, size: usize, end_of_stream: bool) -> u32;
    fn proxy_on_request_trailers(context_id: u32, count: usize) -> u32;
    fn proxy_on_response_headers(context_id: u32, count: usize, end_of_stream: bool) -> u32;
    fn proxy_on_http_call_response(context_id: u32, token: u32, headers: usize, body_size: usize, trailers: usize);
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

fn new_context() -> u32 {
    host(|host| {
        host.last_context += 1;
        host.current = host.last_context;
        host.last_context
    })
}

// === impl FakeEnvoy ===

impl FakeEnvoy {
    /// A process that has just started.
    pub fn start() -> Self {
        static LOGGER: std::sync::Once = std::sync::Once::new();
        LOGGER.call_once(|| proxy_wasm::set_log_level(proxy_wasm::types::LogLevel::Info));
        proxy_wasm::set_root_context(crate::root::create);
        let (last_context, last_token) = host(|host| (host.last_context, host.last_token));
        let now_nanos = 1_795_446_000_000_000_000;
        host(|host| *host = Host { now_nanos, last_context, last_token, ..Host::default() });
        Self
    }

    /// A worker with this configuration; `None` when the filter refuses it.
    pub fn worker(&self, configuration: &str) -> Option<Worker> {
        let root = new_context();
        host(|host| host.configuration = configuration.as_bytes().to_vec());
        unsafe { proxy_on_context_create(root, 0) };
        unsafe { proxy_on_configure(root, configuration.len()) }.then_some(Worker(root))
    }

    pub fn advance(&self, span: std::time::Duration) {
        host(|host| host.now_nanos += u64::try_from(span.as_nanos()).expect("a short span"));
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
    }

    /// How Envoy explains the answers that follow.
    pub fn set_code_details(&self, details: &str) {
        host(|host| host.code_details = details.to_owned());
    }

    /// The calls that the filter has made since the last time this was asked.
    pub fn take_calls(&self) -> Vec<&'static str> {
        host(|host| std::mem::take(&mut host.calls))
    }
}

// === impl Worker ===

impl Worker {
    pub fn tick(self) {
        host(|host| host.current = self.0);
        unsafe { proxy_on_tick(self.0) };
    }

    /// A request whose headers the filter has not seen yet.
    pub fn request(self, headers: &[(&str, &[u8])]) -> Exchange {
        let context = new_context();
        let request = headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
        host(|host| host.streams.insert(context, HostStream { request, ..HostStream::default() }));
        unsafe { proxy_on_context_create(context, self.0) };
        Exchange(context)
    }
}

// === impl Exchange ===

impl Exchange {
    pub fn send_headers(&self, end_of_stream: bool) -> Next {
        let count = self.with(|stream| stream.request.len());
        next(unsafe { proxy_on_request_headers(self.0, count, end_of_stream) })
    }

    pub fn send_body(&self, part: &[u8], end_of_stream: bool) -> Next {
        let size = self.with(|stream| {
            stream.body.extend_from_slice(part);
            stream.body.len()
        });
        next(unsafe { proxy_on_request_body(self.0, size, end_of_stream) })
    }

    pub fn send_trailers(&self) -> Next {
        self.with(|_| ());
        next(unsafe { proxy_on_request_trailers(self.0, 1) })
    }

    /// The upstream's answer, as the filter leaves it.
    pub fn answer(&self, status: &str) -> Headers {
        self.with(|stream| stream.response = vec![(":status".to_owned(), status.as_bytes().to_vec())]);
        unsafe { proxy_on_response_headers(self.0, 1, false) };
        self.with(|stream| stream.response.clone())
    }

    /// The stream is over.
    pub fn end(self) {
        self.with(|_| ());
        unsafe {
            proxy_on_done(self.0);
            proxy_on_log(self.0);
            proxy_on_delete(self.0);
        }
        host(|host| host.streams.remove(&self.0));
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

// === the functions that the SDK imports ===

unsafe fn bytes<'a>(data: *const u8, size: usize) -> &'a [u8] {
    if size == 0 { &[] } else { unsafe { slice::from_raw_parts(data, size) } }
}

unsafe fn text(data: *const u8, size: usize) -> String {
    String::from_utf8_lossy(unsafe { bytes(data, size) }).into_owned()
}

/// Hands a value over, which the SDK then owns.
unsafe fn give(value: &[u8], data: *mut *mut u8, size: *mut usize) {
    unsafe {
        *size = value.len();
        *data = Box::into_raw(value.to_vec().into_boxed_slice()).cast();
    }
}

fn headers_mut(host: &mut Host, map: u32) -> Option<&mut Headers> {
    let stream = host.streams.get_mut(&host.current)?;
    match map {
        0 => Some(&mut stream.request),
        2 => Some(&mut stream.response),
        _ => None,
    }
}

fn on_headers(call: &'static str, map: u32, act: impl FnOnce(&mut Headers)) -> u32 {
    host(|host| {
        host.calls.push(call);
        headers_mut(host, map).map_or(BAD_ARGUMENT, |headers| {
            act(headers);
            OK
        })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_log(_level: u32, data: *const u8, size: usize) -> u32 {
    let line = unsafe { text(data, size) };
    host(|host| {
        host.calls.push("log");
        host.logs.push(line);
    });
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32 {
    host(|host| {
        host.calls.push("get_current_time");
        unsafe { *time = host.now_nanos };
    });
    OK
}

#[unsafe(no_mangle)]
extern "C" fn proxy_set_tick_period_milliseconds(_period: u32) -> u32 {
    host(|host| host.calls.push("set_tick_period"));
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_buffer_bytes(
    kind: u32,
    start: usize,
    most: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    host(|host| {
        host.calls.push("get_buffer");
        let buffer = match kind {
            0 => host.streams.get(&host.current).map(|stream| &stream.body),
            4 => Some(&host.reply.1),
            7 => Some(&host.configuration),
            _ => None,
        };
        let Some(part) = buffer.and_then(|buffer| buffer.get(start..buffer.len().min(start.saturating_add(most))))
        else {
            return NOT_FOUND;
        };
        unsafe { give(part, data, size) };
        OK
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_header_map_value(
    map: u32,
    key: *const u8,
    key_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    let name = unsafe { text(key, key_size) };
    host(|host| {
        host.calls.push("get_header");
        if map == 6 {
            let Some((_, value)) = host.reply.0.iter().find(|(known, _)| *known == name) else { return NOT_FOUND };
            unsafe { give(value, data, size) };
            return OK;
        }
        let Some(headers) = headers_mut(host, map) else { return BAD_ARGUMENT };
        let Some((_, value)) = headers.iter().find(|(known, _)| *known == name) else { return NOT_FOUND };
        unsafe { give(value, data, size) };
        OK
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_replace_header_map_value(
    map: u32,
    key: *const u8,
    key_size: usize,
    value: *const u8,
    value_size: usize,
) -> u32 {
    let (name, value) = unsafe { (text(key, key_size), bytes(value, value_size).to_vec()) };
    on_headers("set_header", map, |headers| {
        headers.retain(|(known, _)| *known != name);
        headers.push((name, value));
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_add_header_map_value(
    map: u32,
    key: *const u8,
    key_size: usize,
    value: *const u8,
    value_size: usize,
) -> u32 {
    let (name, value) = unsafe { (text(key, key_size), bytes(value, value_size).to_vec()) };
    on_headers("add_header", map, |headers| headers.push((name, value)))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_remove_header_map_value(map: u32, key: *const u8, key_size: usize) -> u32 {
    let name = unsafe { text(key, key_size) };
    on_headers("remove_header", map, |headers| headers.retain(|(known, _)| *known != name))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_shared_data(
    key: *const u8,
    key_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
    cas: *mut u32,
) -> u32 {
    let key = unsafe { text(key, key_size) };
    host(|host| {
        host.calls.push("get_shared_data");
        if host.shared_out_of_reach {
            return INTERNAL_FAILURE;
        }
        let Some((value, write)) = host.shared.get(&key) else { return NOT_FOUND };
        unsafe {
            give(value, data, size);
            *cas = *write;
        }
        OK
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_set_shared_data(
    key: *const u8,
    key_size: usize,
    value: *const u8,
    value_size: usize,
    cas: u32,
) -> u32 {
    let (key, value) = unsafe { (text(key, key_size), bytes(value, value_size).to_vec()) };
    host(|host| {
        host.calls.push("set_shared_data");
        if host.shared_out_of_reach {
            return INTERNAL_FAILURE;
        }
        if host.shared.get(&key).is_some_and(|(_, write)| cas != 0 && cas != *write) {
            return CAS_MISMATCH;
        }
        host.writes += 1;
        host.shared.insert(key, (value, host.writes));
        OK
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_define_metric(_kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32 {
    let name = unsafe { text(name, name_size) };
    host(|host| {
        host.calls.push("define_metric");
        let known = host.metrics.iter().position(|(known, _)| *known == name);
        let place = known.unwrap_or_else(|| {
            host.metrics.push((name, 0));
            host.metrics.len() - 1
        });
        unsafe { *id = u32::try_from(place).expect("few metrics") };
        OK
    })
}

fn on_metric(call: &'static str, id: u32, act: impl FnOnce(&mut u64)) -> u32 {
    host(|host| {
        host.calls.push(call);
        host.metrics.get_mut(id as usize).map_or(NOT_FOUND, |(_, value)| {
            act(value);
            OK
        })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_metric(id: u32, result: *mut u64) -> u32 {
    on_metric("get_metric", id, |value| unsafe { *result = *value })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_record_metric(id: u32, new: u64) -> u32 {
    on_metric("record_metric", id, |value| *value = new)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_increment_metric(id: u32, by: i64) -> u32 {
    on_metric("increment_metric", id, |value| *value = value.checked_add_signed(by).expect("no underflow"))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_send_local_response(
    status: u32,
    _details: *const u8,
    _details_size: usize,
    body: *const u8,
    body_size: usize,
    headers: *const u8,
    headers_size: usize,
    _grpc_status: i32,
) -> u32 {
    let (body, headers) = unsafe { (text(body, body_size), decode_map(bytes(headers, headers_size))) };
    host(|host| {
        host.calls.push("send_local_response");
        let Some(stream) = host.streams.get_mut(&host.current) else { return BAD_ARGUMENT };
        stream.replies.push(LocalReply { status, headers, body });
        OK
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_set_effective_context(context_id: u32) -> u32 {
    host(|host| {
        host.calls.push("set_effective_context");
        if context_id == 0 || context_id > host.last_context {
            return BAD_ARGUMENT;
        }
        host.current = context_id;
        OK
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_http_call(
    cluster: *const u8,
    cluster_size: usize,
    headers: *const u8,
    headers_size: usize,
    _body: *const u8,
    _body_size: usize,
    _trailers: *const u8,
    _trailers_size: usize,
    _timeout: u32,
    token: *mut u32,
) -> u32 {
    let (cluster, headers) = unsafe { (text(cluster, cluster_size), decode_map(bytes(headers, headers_size))) };
    host(|host| {
        host.calls.push("http_call");
        if cluster == "unknown" {
            return BAD_ARGUMENT;
        }
        host.last_token += 1;
        let (context, new) = (host.current, host.last_token);
        host.sent.push(SentCall { token: new, cluster, headers, context });
        unsafe { *token = new };
        OK
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_property(
    _path: *const u8,
    _path_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    host(|host| {
        host.calls.push("get_property");
        unsafe { give(host.code_details.as_bytes(), data, size) };
        OK
    })
}

/// The ABI's form of a header map: the count, the sizes, then names and values, each with a zero byte behind it.
fn decode_map(mut map: &[u8]) -> Headers {
    let number = |map: &mut &[u8]| {
        let (head, rest) = map.split_at(4);
        *map = rest;
        u32::from_le_bytes(head.try_into().expect("four bytes")) as usize
    };
    let count = number(&mut map);
    let sizes: Vec<(usize, usize)> = (0..count).map(|_| (number(&mut map), number(&mut map))).collect();
    let part = |map: &mut &[u8], size: usize| {
        let (head, rest) = map.split_at(size + 1);
        *map = rest;
        head[..size].to_vec()
    };
    let pair = |(name, value)| (String::from_utf8(part(&mut map, name)).expect("UTF-8"), part(&mut map, value));
    sizes.into_iter().map(pair).collect()
}

/// Functions that the SDK links and the filter never calls: a call is counted under its name and fails.
macro_rules! never_called {
    ($($function:ident)+) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $function() -> u32 {
            host(|host| host.calls.push(stringify!($function)));
            INTERNAL_FAILURE
        }
    )+};
}

never_called! {
    proxy_set_buffer_bytes proxy_set_property proxy_get_header_map_pairs proxy_set_header_map_pairs
    proxy_get_status proxy_grpc_cancel proxy_grpc_stream proxy_grpc_close proxy_grpc_call proxy_grpc_send
    proxy_close_stream proxy_continue_stream proxy_dequeue_shared_queue proxy_enqueue_shared_queue
    proxy_resolve_shared_queue proxy_register_shared_queue proxy_call_foreign_function proxy_done proxy_get_log_level
}
