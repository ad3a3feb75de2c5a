//! Calls to the host, in the terms of this filter.
//!
//! What a call costs is in its docs, as measured on Envoy 1.40 with V8: the hot path is the sum of them. The SDK panics
//! on a status that it does not list, which for these calls means one made in the wrong phase; the callers keep to the
//! phases. Errors that it does list become `None` or are passed over: the caller has a fallback, or nothing better to do.

#![allow(unsafe_code, reason = "the calls of the proxy-wasm ABI 0.2.1 that the SDK does not make safely")]

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use bluegreen_core::admin::response::Response;
use bluegreen_core::host::http::{HttpReply, HttpRequest};
use bluegreen_core::model::one_line::one_line;
use bluegreen_core::routing::matching::RequestHeaders;
use log::Level;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType, MetricType, Status};
use xxhash_rust::xxh64::xxh64;

/// The headers of the request that is being decided, while its headers are under way.
#[derive(Default)]
pub struct Request {
    /// Both the admin API and the match ask for it.
    path: OnceCell<Option<Vec<u8>>>,
}

/// The host's number of a request of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u32);

/// The host's number of a compiled expression, as the host wrote it.
pub struct ExpressionId(Vec<u8>);

/// Where the JSON of an answer ends and the binary part of the Open Inference Protocol begins, in bytes.
pub const JSON_LENGTH: &str = "inference-header-content-length";

/// The most of a reply's body that is read, in bytes.
const MOST_OF_A_REPLY: usize = 1024 * 1024;

#[cfg_attr(target_arch = "wasm32", link(wasm_import_module = "env"))]
unsafe extern "C" {
    fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, value_size: usize) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
}

/// The host's number of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricId(u32);

// === headers ===

impl RequestHeaders for Request {
    /// 1.3 to 1.9 µs when present: the host re-enters the VM to allocate. Values are bytes: clients send anything.
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        let read = || hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name).ok().flatten();
        if name == ":path" { self.path.get_or_init(read).clone() } else { read() }
    }

    /// 1.5 µs. Envoy gives the map's calls the first value only; the property has them all.
    fn joined(&self, name: &str) -> Option<Vec<u8>> {
        hostcalls::get_property(vec!["request", "headers", name]).ok().flatten()
    }
}

/// All headers of the request that are text. The SDK would panic where an operator does not allow the call; then there are
/// none.
pub fn request_headers() -> Vec<(String, String)> {
    let (mut data, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: both places outlive the call.
    let status =
        unsafe { proxy_get_header_map_pairs(MapType::HttpRequestHeaders as u32, &raw mut data, &raw mut size) };
    if status != 0 || data.is_null() {
        return Vec::new();
    }
    // SAFETY: the host has put `size` bytes where this module has allocated as many for it, with no other owner.
    let bytes = unsafe { Vec::from_raw_parts(data, size, size) };
    headers_of(&bytes).unwrap_or_default()
}

/// Reads a map as the host writes it: the number of pairs, the two lengths of each, then name and value of each, each with a
/// zero at its end. Numbers have four bytes, the lowest first.
fn headers_of(bytes: &[u8]) -> Option<Vec<(String, String)>> {
    let length = |at: usize| -> Option<usize> {
        let bytes = bytes.get(at..at.checked_add(4)?)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    let count = length(0)?;
    let mut next = count.checked_mul(8)?.checked_add(4)?;
    let mut part = |length: usize| {
        let part = bytes.get(next..next.checked_add(length)?)?;
        next = next.checked_add(length)?.checked_add(1)?;
        Some(part)
    };
    let mut headers = Vec::new();
    for place in 0..count {
        let lengths = place.checked_mul(8)?.checked_add(4)?;
        let (name, value) = (part(length(lengths)?)?, part(length(lengths.checked_add(4)?)?)?);
        // What is no text cannot be sent again by the SDK.
        if let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) {
            headers.push((name.to_owned(), value.to_owned()));
        }
    }
    Some(headers)
}

/// A header of the answer. 1.3 µs when present.
pub fn response_header(name: &str) -> Option<Vec<u8>> {
    hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, name).ok().flatten()
}

/// Replaces all copies of a request header; Envoy picks the route again. 0.5 µs.
pub fn set_request_header(name: &str, value: &str) {
    let _ = hostcalls::set_map_value_bytes(MapType::HttpRequestHeaders, name, Some(value.as_bytes()));
}

/// Removes all copies of a request header. 0.2 µs when absent.
pub fn remove_request_header(name: &str) {
    let _ = hostcalls::remove_map_value(MapType::HttpRequestHeaders, name);
}

/// The answer's `:status`. 1.3 µs.
pub fn response_status() -> Option<Vec<u8>> {
    response_header(":status")
}

/// The `grpc-status` in the head of an answer without a body, or in its trailers. 0.3 µs when absent.
pub fn grpc_status(in_trailers: bool) -> Option<Vec<u8>> {
    let map = if in_trailers { MapType::HttpResponseTrailers } else { MapType::HttpResponseHeaders };
    hostcalls::get_map_value_bytes(map, "grpc-status").ok().flatten()
}

/// All values of a header of the answer, joined by commas. 1.5 µs.
pub fn joined_response_header(name: &str) -> Option<Vec<u8>> {
    hostcalls::get_property(vec!["response", "headers", name]).ok().flatten()
}

/// Replaces all copies of a header of the answer.
pub fn set_response_header(name: &str, value: &str) {
    let _ = hostcalls::set_map_value_bytes(MapType::HttpResponseHeaders, name, Some(value.as_bytes()));
}

/// Adds a header to the answer beside those of the same name.
pub fn add_response_header(name: &str, value: &str) {
    let _ = hostcalls::add_map_value_bytes(MapType::HttpResponseHeaders, name, value.as_bytes());
}

// === properties ===

/// The name in filter state under which a filter of ours vouches for a request's routing headers: no client can write
/// there, and the wasm filters that follow can read it.
const VOUCHED: &str = "bluegreen_routed";

/// The name under which access logs find a decision: `wasm.bluegreen`, since Envoy puts its own prefix before it.
const DECISION: &str = "bluegreen";

/// Puts a decision into filter state, which nobody but filters of this Envoy can write.
pub fn show_decision(decision: &str) {
    set_filter_state(DECISION, decision.as_bytes());
}

/// Tells the filters of ours that follow that the routing headers of this request are not a client's.
pub fn vouch() {
    // Where an operator does not allow the call, a filter that follows takes the headers away.
    set_filter_state(VOUCHED, b"1");
}

/// The SDK would panic where an operator does not allow the call.
fn set_filter_state(path: &str, value: &[u8]) {
    // SAFETY: both outlive the call, and the host copies them.
    let _ = unsafe { proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) };
}

/// Whether a filter of ours before this one has vouched for the routing headers.
pub fn is_vouched_for() -> bool {
    hostcalls::get_property(vec![VOUCHED]).is_ok_and(|value| value.is_some())
}

/// The cluster of the route that Envoy has picked last: before the filter has written a header, without it. 1.5 µs.
pub fn route_cluster() -> Option<String> {
    let name = hostcalls::get_property(vec!["xds", "cluster_name"]).ok().flatten()?;
    Some(String::from_utf8_lossy(&name).into_owned()).filter(|name| !name.is_empty())
}

/// The address, with its port, at which the request has reached this Envoy. 1.5 µs.
pub fn reached_at() -> Option<String> {
    let address = hostcalls::get_property(vec!["destination", "address"]).ok().flatten()?;
    Some(String::from_utf8_lossy(&address).into_owned())
}

/// The address, with its port, of the one who sent the request. 1.5 µs.
pub fn peer() -> String {
    text_property(["source", "address"])
}

// === bodies and answers ===

/// The first `most` bytes of the request's body, as far as it has arrived.
pub fn request_body(most: usize) -> Vec<u8> {
    hostcalls::get_buffer(BufferType::HttpRequestBody, 0, most).ok().flatten().unwrap_or_default()
}

/// What has just come of the answer's body. There is nothing outside of the event that brings it.
pub fn response_body(size: usize) -> Vec<u8> {
    hostcalls::get_buffer(BufferType::HttpResponseBody, 0, size).ok().flatten().unwrap_or_default()
}

/// The plugin configuration.
pub fn plugin_configuration() -> Vec<u8> {
    hostcalls::get_buffer(BufferType::PluginConfiguration, 0, usize::MAX).ok().flatten().unwrap_or_default()
}

/// Answers the request in place of an upstream. Once per request: a second answer hangs the stream.
pub fn answer(response: &Response) {
    let headers = response.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let _ = hostcalls::send_http_response(response.status, headers, Some(&response.body));
}

/// Makes the calls that follow count for another stream of this VM. Whether there is such a stream.
pub fn act_for(context_id: u32) -> bool {
    hostcalls::set_effective_context(context_id).is_ok()
}

// === requests of our own ===

/// Sends a request through an Envoy cluster; its reply comes to `on_http_call_response` of the context that sends it.
///
/// # Errors
/// What took the place of a reply, when the request could not even be sent.
pub fn send(request: &HttpRequest) -> Result<CallId, HttpReply> {
    let headers = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let cluster = request.cluster.as_str();
    hostcalls::dispatch_http_call(cluster, headers, request.body.as_deref(), Vec::new(), request.timeout)
        .map(CallId)
        .map_err(|status| match status {
            Status::BadArgument => HttpReply::UnknownCluster(request.cluster.clone()),
            _ => HttpReply::Broken,
        })
}

/// The reply that has just come. Of an answer of the Open Inference Protocol with a binary part it is the JSON.
pub fn reply(header_count: usize) -> HttpReply {
    if header_count == 0 {
        return HttpReply::Broken;
    }
    let status = hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, ":status").ok().flatten();
    let json = hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, JSON_LENGTH).ok().flatten();
    let json = json.and_then(|text| std::str::from_utf8(&text).ok()?.trim().parse().ok());
    let most = json.unwrap_or(MOST_OF_A_REPLY).min(MOST_OF_A_REPLY);
    let body = hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, most).ok().flatten();
    let status = status.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok()).unwrap_or_default();
    HttpReply::Answered { status, body: body.unwrap_or_default() }
}

// === what Envoy knows ===

/// The id of this Envoy's node; empty if it has none.
pub fn node() -> String {
    let id = hostcalls::get_property(vec!["xds", "node", "id"]).ok().flatten();
    String::from_utf8_lossy(&id.unwrap_or_default()).into_owned()
}

/// A property that is a text; empty when there is none. 1.5 µs.
pub fn text_property(path: [&str; 2]) -> String {
    let text = hostcalls::get_property(path.to_vec()).ok().flatten();
    String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()
}

/// A property that is a number; 0 when there is none. 1.5 µs.
pub fn number_property(path: [&str; 2]) -> u64 {
    let bytes = hostcalls::get_property(path.to_vec()).ok().flatten();
    bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Compiles an expression of the Common Expression Language for this root context; `None` if Envoy cannot.
pub fn compile(expression: &str) -> Option<ExpressionId> {
    let number = hostcalls::call_foreign_function("expr_create", Some(expression.as_bytes())).ok().flatten()?;
    Some(ExpressionId(number))
}

/// Whether an expression is null for this stream. 2.5 µs.
pub fn is_null(ExpressionId(number): &ExpressionId) -> bool {
    // What is no value at all cannot be serialised. An expression that fails is another error.
    hostcalls::call_foreign_function("expr_evaluate", Some(number)) == Err(Status::SerializationFailure)
}

/// Frees an expression.
pub fn forget(ExpressionId(number): &ExpressionId) {
    let _ = hostcalls::call_foreign_function("expr_delete", Some(number));
}

// === time ===

/// The wall clock. 0.2 to 0.3 µs.
pub fn now() -> SystemTime {
    hostcalls::get_current_time().unwrap_or(UNIX_EPOCH)
}

/// Nanoseconds since 1970.
pub fn unix_nanos(time: SystemTime) -> u64 {
    let nanos = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// Makes the host call this VM's root context at this period.
pub fn tick_every(period: std::time::Duration) {
    let _ = hostcalls::set_tick_period(period);
}

// === metrics ===

thread_local! {
    /// The numbers of the metrics that this VM has defined, by the hashes of their names: a thousand deployments have some
    /// 120,000 long ones. Envoy gives out another number each time that the same name is defined, and keeps them all for as
    /// long as the VM is there.
    static METRICS: RefCell<BTreeMap<u64, MetricId>> = const { RefCell::new(BTreeMap::new()) };
}

/// The metric of this name, which all VMs of the process share; made on first use.
pub fn define_metric(name: &str, gauge: bool) -> Option<MetricId> {
    METRICS.with_borrow_mut(|known| {
        let hash = xxh64(name.as_bytes(), 0);
        if let Some(id) = known.get(&hash) {
            return Some(*id);
        }
        let kind = if gauge { MetricType::Gauge } else { MetricType::Counter };
        let id = hostcalls::define_metric(kind, name).ok().map(MetricId)?;
        known.insert(hash, id);
        Some(id)
    })
}

/// Begins as a new VM does.
#[cfg(test)]
pub fn forget_metrics() {
    METRICS.take();
}

/// A metric's value, to find out whether Envoy keeps it. 0.15 µs.
pub fn metric(MetricId(id): MetricId) -> Option<u64> {
    hostcalls::get_metric(id).ok()
}

/// Sets a gauge.
pub fn set_metric(MetricId(id): MetricId, value: u64) {
    let _ = hostcalls::record_metric(id, value);
}

/// Adds to a metric; gauges also take less than nothing. 0.1 µs.
pub fn add_to_metric(MetricId(id): MetricId, by: i64) {
    let _ = hostcalls::increment_metric(id, by);
}

// === log ===

/// Writes a line. All lines of the filter come by here: whatever they quote, they stay one line that shows all that it says.
#[allow(clippy::disallowed_macros, reason = "this is the one place")]
pub fn log(level: Level, line: &str) {
    log::log!(level, "{}", one_line(line));
}
