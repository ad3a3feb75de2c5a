//! An external processor, the other way to decide per request outside Envoy: a gRPC server that sets the header.

use std::net::SocketAddr;
use std::pin::Pin;

use anyhow::Result;
use bluegreen_testbed::ports::loopback;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor as Processing, ExternalProcessorServer,
};
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Answer;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    CommonResponse, HeaderMutation, HeadersResponse, ProcessingRequest, ProcessingResponse,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::gateway::CLUSTER_HEADER;

/// The cluster by which Envoy reaches the processor.
pub const CLUSTER: &str = "ext_proc";

/// A running processor; it ends when dropped.
pub struct ExternalProcessor {
    pub address: SocketAddr,
    server: JoinHandle<()>,
}

/// The gRPC service: a bidirectional stream for each HTTP request.
struct ToBlue;

// === impl ExternalProcessor ===

impl ExternalProcessor {
    /// Starts it on a free loopback port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(loopback(0)).await?;
        let address = listener.local_addr()?;
        let service = ExternalProcessorServer::new(ToBlue);
        let serving = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
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

// === impl ToBlue ===

#[tonic::async_trait]
impl Processing for ToBlue {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        // Envoy asks about request headers only.
        let answers = request.into_inner().map(|asked| asked.map(|_| to_blue()));
        Ok(Response::new(Box::pin(answers)))
    }
}

fn to_blue() -> ProcessingResponse {
    let header = HeaderValue { key: CLUSTER_HEADER.to_owned(), raw_value: b"blue".to_vec(), ..HeaderValue::default() };
    let set_headers = vec![HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }];
    let response = CommonResponse {
        header_mutation: Some(HeaderMutation { set_headers, ..HeaderMutation::default() }),
        clear_route_cache: true,
        ..CommonResponse::default()
    };
    let headers = HeadersResponse { response: Some(response) };
    ProcessingResponse { response: Some(Answer::RequestHeaders(headers)), ..ProcessingResponse::default() }
}

// === tests ===

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn an_answer_has_the_bytes_of_the_published_protocol() {
        let bytes = to_blue().encode_to_vec();
        // request_headers (1) { response (1) { header_mutation (2) { set_headers (1) { header (1) { key (1) …
        assert_eq!(bytes.iter().step_by(2).take(6).copied().collect::<Vec<_>>(), [0x0a, 0x0a, 0x12, 0x0a, 0x0a, 0x0a]);
        assert!(bytes.ends_with(&[0x18, 2, 0x28, 1]), "append_action = 2, clear_route_cache = true: {bytes:x?}");
    }
}
