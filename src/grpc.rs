//! gRPC through Envoy's clusters: single calls, and the one stream by which the fleet is followed.
//!
//! Calls and streams are begun through the SDK, which has to know them to hand their answers on. It panics on statuses
//! that Envoy does not give for these two. Everything else is asked of the host directly, as the SDK would panic on a
//! stream that is gone or on a status message that is not UTF-8.
//!
//! Envoy frees its part of a stream only when the filter has ended it too, and would otherwise end it once more itself
//! when the context goes: so a stream that has closed is cancelled at once, while it is still there.

#![allow(unsafe_code, reason = "the calls of the proxy-wasm ABI 0.2.1 that the SDK does not make safely")]

use std::ptr::{null_mut, slice_from_raw_parts_mut};

use bluegreen_core::host::grpc::{GrpcReply, GrpcRequest};
use bluegreen_core::model::name::ClusterName;
use proxy_wasm::hostcalls;
use proxy_wasm::types::BufferType;

/// The host's number of a gRPC call of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrpcCallId(pub u32);

/// The host's number of a gRPC stream of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamId(pub u32);

/// Asks a member of etcd to end the stream when it loses the others, as etcd's own client does.
const REQUIRE_LEADER: (&str, &[u8]) = ("hasleader", b"true");

const OK: u32 = 0;

#[cfg_attr(target_arch = "wasm32", link(wasm_import_module = "env"))]
unsafe extern "C" {
    fn proxy_grpc_stream(
        service: *const u8,
        service_size: usize,
        name: *const u8,
        name_size: usize,
        method: *const u8,
        method_size: usize,
        metadata: *const u8,
        metadata_size: usize,
        id: *mut u32,
    ) -> u32;
    fn proxy_grpc_send(stream: u32, message: *const u8, message_size: usize, end_of_stream: u32) -> u32;
    fn proxy_grpc_cancel(id: u32) -> u32;
    fn proxy_get_status(code: *mut u32, message: *mut *mut u8, message_size: *mut usize) -> u32;
}

/// Sends a call; its reply comes to `on_grpc_call_response` of the context that sends it.
///
/// # Errors
/// It could not be sent.
pub fn call(call: &GrpcRequest) -> Result<GrpcCallId, GrpcReply> {
    let service = service(&call.cluster);
    hostcalls::dispatch_grpc_call(&service, call.service, call.method, Vec::new(), Some(&call.message), call.timeout)
        .map(GrpcCallId)
        .map_err(|_| GrpcReply::NotSent)
}

/// What became of the call that has just ended.
pub fn reply(status: u32, size: usize) -> GrpcReply {
    if status == OK { GrpcReply::Answered(received(size)) } else { GrpcReply::Failed(status_message(status)) }
}

/// Opens a stream with a first message. What comes on it goes to the context that opens it.
pub fn open(request: &GrpcRequest) -> Option<StreamId> {
    let (cluster, first) = (service(&request.cluster), &request.message);
    let id = hostcalls::open_grpc_stream(&cluster, request.service, request.method, vec![REQUIRE_LEADER]).ok()?;
    // SAFETY: the message outlives the call, and the host copies it.
    match unsafe { proxy_grpc_send(id, first.as_ptr(), first.len(), 0) } {
        OK => Some(StreamId(id)),
        _ => {
            cancel(StreamId(id));
            None
        }
    }
}

/// Whether Envoy begins a stream to this cluster, which it does if it has one with an endpoint. The stream is ended before
/// anything of it is sent: at most a connection is opened.
pub fn reaches(cluster: &ClusterName) -> bool {
    let (service, name, metadata) = (service(cluster), b"bluegreen", [0; 4]);
    let mut id = 0;
    // SAFETY: all of it outlives the call, and the host copies it.
    let status = unsafe {
        let (name, name_size) = (name.as_ptr(), name.len());
        let (service, service_size) = (service.as_ptr(), service.len());
        let metadata = (metadata.as_ptr(), metadata.len());
        proxy_grpc_stream(service, service_size, name, name_size, name, name_size, metadata.0, metadata.1, &mut id)
    };
    if status == OK {
        cancel(StreamId(id));
    }
    status == OK
}

/// The message that has just come, of this size.
pub fn received(size: usize) -> Vec<u8> {
    if size == 0 {
        return Vec::new();
    }
    hostcalls::get_buffer(BufferType::GrpcReceiveBuffer, 0, size).ok().flatten().unwrap_or_default()
}

/// Ends a stream. The host says no more about it.
pub fn cancel(StreamId(id): StreamId) {
    // SAFETY: a plain number.
    let _ = unsafe { proxy_grpc_cancel(id) };
}

/// The status of what has just ended, in words.
pub fn status_message(status: u32) -> String {
    let (mut code, mut message, mut size) = (0, null_mut(), 0);
    // SAFETY: the host writes through the pointers before it returns.
    let got = unsafe { proxy_get_status(&mut code, &mut message, &mut size) };
    if got != OK || message.is_null() {
        return format!("gRPC status {status}");
    }
    // SAFETY: as in shared_data.rs: the host got these bytes from this module's allocator and handed them over.
    let bytes = unsafe { Box::from_raw(slice_from_raw_parts_mut(message, size)) };
    format!("gRPC status {status}, {}", String::from_utf8_lossy(&bytes))
}

/// The `envoy.config.core.v3.GrpcService` that names a cluster: `envoy_grpc {cluster_name}`, both of them field 1.
///
/// Envoy takes a bare name as well, but only after it has tried to read it as this message, and some names can be read
/// so: then the call fails. A name too long for one byte of length is no UTF-8 with it, and starts like no message.
fn service(cluster: &ClusterName) -> String {
    let name = cluster.as_str();
    let size = |length: usize| u8::try_from(length).ok().filter(|size| size.is_ascii()).map(char::from);
    match (name.len().checked_add(2).and_then(size), size(name.len())) {
        (Some(outer), Some(inner)) => format!("\n{outer}\n{inner}{name}"),
        _ => name.to_owned(),
    }
}
