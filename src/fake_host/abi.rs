//! The functions of the proxy-wasm ABI 0.2.1 that the SDK imports, over the state of this thread's fake host.

use std::slice;

use super::{GrpcStream, Headers, Host, LocalReply, Queue, SentCall, SentGrpc, host};

const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const BAD_ARGUMENT: u32 = 2;
const SERIALIZATION_FAILURE: u32 = 3;
const EMPTY: u32 = 7;
const CAS_MISMATCH: u32 = 8;
const INTERNAL_FAILURE: u32 = 10;

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
extern "C" fn proxy_set_tick_period_milliseconds(period: u32) -> u32 {
    host(|host| {
        host.calls.push("set_tick_period");
        host.tick_period = period;
    });
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
            1 => host.streams.get(&host.current).map(|stream| &stream.answer_body),
            4 => Some(&host.reply.1),
            5 => Some(&host.grpc_received),
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
unsafe extern "C" fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32 {
    host(|host| {
        host.calls.push("get_headers");
        let Some(headers) = headers_mut(host, map) else { return BAD_ARGUMENT };
        let mut bytes = (headers.len() as u32).to_le_bytes().to_vec();
        for (name, value) in headers.iter() {
            bytes.extend((name.len() as u32).to_le_bytes());
            bytes.extend((value.len() as u32).to_le_bytes());
        }
        for part in headers.iter().flat_map(|(name, value)| [name.as_bytes(), value]) {
            bytes.extend(part);
            bytes.push(0);
        }
        unsafe { give(&bytes, data, size) };
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

/// As in Envoy, the context that registers a queue last reads it, with what is in it.
#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_register_shared_queue(name: *const u8, name_size: usize, token: *mut u32) -> u32 {
    let name = unsafe { text(name, name_size) };
    host(|host| {
        host.calls.push("register_shared_queue");
        let reader = host.root_of(host.current);
        let place = host.queues.iter().position(|queue| queue.name == name).unwrap_or_else(|| {
            host.queues.push(Queue { name, ..Queue::default() });
            host.queues.len() - 1
        });
        host.queues[place].reader = reader;
        unsafe { *token = u32::try_from(place).expect("few queues") + 1 };
        OK
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_enqueue_shared_queue(token: u32, value: *const u8, value_size: usize) -> u32 {
    let message = unsafe { bytes(value, value_size).to_vec() };
    host(|host| {
        host.calls.push("enqueue_shared_queue");
        let Some(queue) = host.queues.get_mut((token as usize).wrapping_sub(1)) else { return NOT_FOUND };
        queue.messages.push_back(message);
        host.ready.push_back((queue.reader, token));
        OK
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_dequeue_shared_queue(token: u32, data: *mut *mut u8, size: *mut usize) -> u32 {
    host(|host| {
        host.calls.push("dequeue_shared_queue");
        let Some(queue) = host.queues.get_mut((token as usize).wrapping_sub(1)) else { return NOT_FOUND };
        let Some(message) = queue.messages.pop_front() else { return EMPTY };
        unsafe { give(&message, data, size) };
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
        // Envoy gives out a number for each definition, and keeps them all.
        host.metric_ids.push(place);
        unsafe { *id = u32::try_from(host.metric_ids.len() - 1).expect("few metrics") };
        OK
    })
}

fn on_metric(call: &'static str, id: u32, act: impl FnOnce(&mut u64)) -> u32 {
    host(|host| {
        host.calls.push(call);
        let place = host.metric_ids.get(id as usize).copied();
        place.and_then(|place| host.metrics.get_mut(place)).map_or(NOT_FOUND, |(_, value)| {
            act(value);
            OK
        })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_metric(id: u32, result: *mut u64) -> u32 {
    let rejects_stats = host(|host| host.rejects_stats);
    on_metric("get_metric", id, |value| unsafe { *result = if rejects_stats { 0 } else { *value } })
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
    body: *const u8,
    body_size: usize,
    _trailers: *const u8,
    _trailers_size: usize,
    _timeout: u32,
    token: *mut u32,
) -> u32 {
    let (cluster, headers) = unsafe { (text(cluster, cluster_size), decode_map(bytes(headers, headers_size))) };
    let body = if body_size == 0 { Vec::new() } else { unsafe { bytes(body, body_size) }.to_vec() };
    host(|host| {
        host.calls.push("http_call");
        if cluster == "unknown" {
            return BAD_ARGUMENT;
        }
        host.last_token += 1;
        let (context, new) = (host.current, host.last_token);
        host.sent.push(SentCall { token: new, cluster, headers, body, context });
        unsafe { *token = new };
        OK
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_property(
    path: *const u8,
    path_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    let path = unsafe { text(path, path_size) };
    host(|host| {
        host.calls.push("get_property");
        let value = match path.split('\0').collect::<Vec<_>>()[..] {
            ["response", "code_details"] => host.code_details.clone().into_bytes(),
            ["xds", "cluster_name"] => {
                let cluster = host.serving_cluster();
                if cluster.is_empty() {
                    return NOT_FOUND;
                }
                cluster.into_bytes()
            }
            ["upstream", "request_attempt_count"] => host.attempts.to_le_bytes().to_vec(),
            ["upstream", "address"] if host.upstream.is_empty() => return NOT_FOUND,
            ["upstream", "address"] => host.upstream.clone().into_bytes(),
            // Unlike the calls for maps, which give the first value, the property joins all of them.
            [side @ ("request" | "response"), "headers", name] => {
                let map = if side == "request" { 0 } else { 2 };
                let Some(headers) = headers_mut(host, map) else { return NOT_FOUND };
                let of_name = headers.iter().filter(|(known, _)| known == name);
                let values: Vec<&[u8]> = of_name.map(|(_, value)| value.as_slice()).collect();
                if values.is_empty() {
                    return NOT_FOUND;
                }
                values.join(&b',')
            }
            ["bluegreen_routed"] => {
                let Some(value) = host.streams.get(&host.current).and_then(|stream| stream.vouched.clone()) else {
                    return NOT_FOUND;
                };
                value
            }
            ["xds", "node", "id"] => b"edge-1".to_vec(),
            ["source", "address"] => b"127.0.0.1:4711".to_vec(),
            ["destination", "address"] => host.reached_at.clone().into_bytes(),
            _ => panic!("the property {path:?}"),
        };
        unsafe { give(&value, data, size) };
        OK
    })
}

/// Envoy's functions for expressions. Null is a value that cannot be handed over.
#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_call_foreign_function(
    name: *const u8,
    name_size: usize,
    argument: *const u8,
    argument_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    let (name, argument) = unsafe { (text(name, name_size), bytes(argument, argument_size)) };
    host(|host| {
        host.calls.push("call_foreign_function");
        if host.expressions_refused {
            return NOT_FOUND;
        }
        if name == "expr_create" {
            host.expressions.push(String::from_utf8_lossy(argument).into_owned());
            let number = u32::try_from(host.expressions.len() - 1).expect("few expressions");
            unsafe { give(&number.to_le_bytes(), data, size) };
            return OK;
        }
        let number = u32::from_le_bytes(argument.try_into().expect("the number of an expression")) as usize;
        let expression = host.expressions.get(number).cloned().unwrap_or_default();
        match name.as_str() {
            "expr_evaluate" if expression.is_empty() => NOT_FOUND,
            "expr_evaluate" if host.is_null(&expression) => SERIALIZATION_FAILURE,
            "expr_evaluate" => {
                unsafe { give(&1_u64.to_le_bytes(), data, size) };
                OK
            }
            "expr_delete" => {
                host.expressions[number].clear();
                OK
            }
            _ => panic!("the foreign function {name:?}"),
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, value_size: usize) -> u32 {
    let (path, value) = unsafe { (text(path, path_size), bytes(value, value_size).to_vec()) };
    host(|host| {
        host.calls.push("set_property");
        let Some(stream) = host.streams.get_mut(&host.current) else { return NOT_FOUND };
        match path.as_str() {
            "bluegreen_routed" => stream.vouched = Some(value),
            "bluegreen" => stream.decision = Some(value),
            _ => panic!("the property {path:?}"),
        }
        OK
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_grpc_call(
    service: *const u8,
    service_size: usize,
    _name: *const u8,
    _name_size: usize,
    method: *const u8,
    method_size: usize,
    _metadata: *const u8,
    _metadata_size: usize,
    message: *const u8,
    message_size: usize,
    _timeout: u32,
    token: *mut u32,
) -> u32 {
    let (service, method) = unsafe { (text(service, service_size), text(method, method_size)) };
    let message = unsafe { bytes(message, message_size).to_vec() };
    host(|host| {
        host.calls.push("grpc_call");
        if host.grpc_refused {
            return INTERNAL_FAILURE;
        }
        host.last_token += 1;
        host.sent_grpc.push(SentGrpc { token: host.last_token, service, method, message });
        unsafe { *token = host.last_token };
        OK
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_grpc_stream(
    service: *const u8,
    service_size: usize,
    _name: *const u8,
    _name_size: usize,
    _method: *const u8,
    _method_size: usize,
    metadata: *const u8,
    metadata_size: usize,
    token: *mut u32,
) -> u32 {
    let (service, metadata) = unsafe { (text(service, service_size), decode_map(bytes(metadata, metadata_size))) };
    host(|host| {
        host.calls.push("grpc_stream");
        if host.grpc_refused || service.ends_with("unknown") {
            return INTERNAL_FAILURE;
        }
        host.last_token += 1;
        host.grpc_streams.insert(host.last_token, GrpcStream { metadata, messages: Vec::new() });
        unsafe { *token = host.last_token };
        OK
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_grpc_send(token: u32, message: *const u8, message_size: usize, _end: u32) -> u32 {
    let message = unsafe { bytes(message, message_size).to_vec() };
    host(|host| {
        host.calls.push("grpc_send");
        let Some(stream) = host.grpc_streams.get_mut(&token) else { return NOT_FOUND };
        stream.messages.push(message);
        OK
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_grpc_cancel(token: u32) -> u32 {
    host(|host| {
        host.calls.push("grpc_cancel");
        if host.grpc_streams.remove(&token).is_some() { OK } else { NOT_FOUND }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_status(code: *mut u32, data: *mut *mut u8, size: *mut usize) -> u32 {
    host(|host| {
        host.calls.push("get_status");
        unsafe {
            *code = host.grpc_status.0;
            give(&host.grpc_status.1, data, size);
        }
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

/// Functions that the SDK links and the filter never calls, which is why an operator may forbid them: a call ends the test.
macro_rules! never_called {
    ($($function:ident)+) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $function() -> u32 {
            panic!("{} is not among the capabilities in docs/install.md", stringify!($function));
        }
    )+};
}

never_called! {
    proxy_set_buffer_bytes proxy_set_header_map_pairs
    proxy_grpc_close
    proxy_close_stream proxy_continue_stream proxy_resolve_shared_queue proxy_done proxy_get_log_level
}
