//! An external processor, the other way to decide per request outside Envoy: a gRPC server that sets the header.
//!
//! The few messages that it needs are written by hand; field numbers are those of
//! `envoy/service/ext_proc/v3/external_processor.proto`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Result;
use bluegreen_testbed::ports::loopback;
use prost::Message;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::gateway::CLUSTER_HEADER;

/// The cluster by which Envoy reaches the processor.
pub const CLUSTER: &str = "ext_proc";

/// `OVERWRITE_IF_EXISTS_OR_ADD`.
const OVERWRITE: i32 = 2;

/// A running processor; it ends when dropped.
pub struct ExternalProcessor {
    pub address: SocketAddr,
    server: JoinHandle<()>,
}

/// The gRPC service: a bidirectional stream for each HTTP request.
#[derive(Clone)]
struct Processor;

/// What Envoy says: that headers have come is all that matters here.
#[derive(Clone, PartialEq, Message)]
struct ProcessingRequest {
    #[prost(bytes = "vec", optional, tag = "2")]
    request_headers: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct ProcessingResponse {
    #[prost(message, optional, tag = "1")]
    request_headers: Option<HeadersResponse>,
}

#[derive(Clone, PartialEq, Message)]
struct HeadersResponse {
    #[prost(message, optional, tag = "1")]
    response: Option<CommonResponse>,
}

#[derive(Clone, PartialEq, Message)]
struct CommonResponse {
    #[prost(message, optional, tag = "2")]
    header_mutation: Option<HeaderMutation>,
    #[prost(bool, tag = "5")]
    clear_route_cache: bool,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderMutation {
    #[prost(message, repeated, tag = "1")]
    set_headers: Vec<HeaderValueOption>,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderValueOption {
    #[prost(message, optional, tag = "1")]
    header: Option<HeaderValue>,
    #[prost(int32, tag = "3")]
    append_action: i32,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "vec", tag = "3")]
    raw_value: Vec<u8>,
}

// === impl ExternalProcessor ===

impl ExternalProcessor {
    /// Starts it on a free loopback port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(loopback(0)).await?;
        let address = listener.local_addr()?;
        let serving = Server::builder().add_service(Processor).serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async {
            // Envoy's connection is cut off at the end of a round; there is nobody to tell.
            let _ = serving.await;
        });
        Ok(Self { address, server })
    }
}

impl Drop for ExternalProcessor {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The typed configuration of the filter that asks the processor about request headers only.
pub fn filter() -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": CLUSTER}, "timeout": "5s"},
        "message_timeout": "5s",
        "processing_mode": {
            "request_header_mode": "SEND",
            "response_header_mode": "SKIP",
            "request_trailer_mode": "SKIP",
            "response_trailer_mode": "SKIP",
        },
    })
}

// === impl Processor ===

impl NamedService for Processor {
    const NAME: &'static str = "envoy.service.ext_proc.v3.ExternalProcessor";
}

impl Service<http::Request<Body>> for Processor {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async {
            let codec = ProstCodec::<ProcessingResponse, ProcessingRequest>::default();
            Ok(Grpc::new(codec).streaming(Processor, request).await)
        })
    }
}

impl StreamingService<ProcessingRequest> for Processor {
    type Response = ProcessingResponse;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<ProcessingRequest>>) -> Self::Future {
        let answers = request.into_inner().map(|asked| asked.map(|_| to_blue()));
        Box::pin(async { Ok(Response::new(Box::pin(answers) as Self::ResponseStream)) })
    }
}

fn to_blue() -> ProcessingResponse {
    let header = HeaderValue { key: CLUSTER_HEADER.to_owned(), raw_value: b"blue".to_vec() };
    let set_headers = vec![HeaderValueOption { header: Some(header), append_action: OVERWRITE }];
    let response = CommonResponse { header_mutation: Some(HeaderMutation { set_headers }), clear_route_cache: true };
    ProcessingResponse { request_headers: Some(HeadersResponse { response: Some(response) }) }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_the_bytes_of_the_published_protocol() {
        let bytes = to_blue().encode_to_vec();
        // request_headers (1) { response (1) { header_mutation (2) { set_headers (1) { header (1) { key (1) …
        assert_eq!(bytes.iter().step_by(2).take(6).copied().collect::<Vec<_>>(), [0x0a, 0x0a, 0x12, 0x0a, 0x0a, 0x0a]);
        assert!(bytes.ends_with(&[0x18, 2, 0x28, 1]), "append_action = 2, clear_route_cache = true: {bytes:x?}");
    }
}
