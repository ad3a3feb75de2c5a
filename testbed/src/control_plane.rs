//! A control plane: an xDS server that delivers the filter's configuration over an aggregated stream (ADS), and remembers
//! what Envoy made of each version.
//!
//! It delivers one ECDS resource. A `TypedStruct` carries its configuration as a structure, so that the shipped resource
//! file is delivered as it is.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Any, ListValue, Struct, Value as ProtoValue};
use envoy_types::util::pack_any;
use prost::{Message, Name};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::bootstrap::Bootstrap;
use crate::ports::loopback;
use crate::{repository, wait};

/// The cluster by which Envoy reaches a control plane.
pub const CLUSTER: &str = "control_plane";

/// The type of what is delivered.
const EXTENSION: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";

/// A running control plane. It ends its streams when dropped.
#[derive(Debug)]
pub struct ControlPlane {
    address: SocketAddr,
    published: watch::Sender<Published>,
    verdicts: Arc<Mutex<Vec<Verdict>>>,
    resource: Bootstrap,
    server: JoinHandle<()>,
}

/// What Envoy made of a version: `refusal` is the detail of its NACK, or none for an ACK.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The version, counted from 1.
    pub version: u64,
    /// Why it was refused.
    pub refusal: Option<String>,
}

/// What streams are to deliver.
#[derive(Clone, Debug, Default)]
struct Published {
    version: u64,
    resources: Vec<Any>,
}

/// The gRPC service.
#[derive(Clone, Debug)]
struct Discovery {
    published: watch::Receiver<Published>,
    verdicts: Arc<Mutex<Vec<Verdict>>>,
}

/// `xds/type/v3/typed_struct.proto`, the one message that the crate of Envoy's does not have.
#[derive(Clone, PartialEq, Message)]
struct TypedStruct {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Struct>,
}

// === impl TypedStruct ===

impl Name for TypedStruct {
    const PACKAGE: &'static str = "xds.type.v3";
    const NAME: &'static str = "TypedStruct";

    fn type_url() -> String {
        format!("type.googleapis.com/{}.{}", Self::PACKAGE, Self::NAME)
    }
}

// === impl ControlPlane ===

impl ControlPlane {
    /// Starts one, on a free port, that delivers the shipped ECDS resource with the built module.
    pub async fn start() -> Result<Self> {
        Self::start_with(&repository::wasm()?).await
    }

    /// The same with another module.
    pub async fn start_with(wasm: &Path) -> Result<Self> {
        let file = repository::root().join("envoy/ecds/bluegreen.yaml");
        let resource = Bootstrap::read(&file)?.with_wasm(wasm);
        let published = watch::Sender::new(Published { version: 1, resources: encode(&resource)? });
        let verdicts = Arc::<Mutex<Vec<Verdict>>>::default();
        let listener = TcpListener::bind(loopback(0)).await?;
        let address = listener.local_addr()?;
        let service = Discovery { published: published.subscribe(), verdicts: verdicts.clone() };
        let service = AggregatedDiscoveryServiceServer::new(service);
        let serving = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async {
            // Envoy's connection is cut off at the end of a test; there is nobody to tell.
            let _ = serving.await;
        });
        Ok(Self { address, published, verdicts, resource, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The shipped ECDS bootstrap with the filter's configuration from the control plane at `address`.
    pub fn bootstrap(address: SocketAddr) -> Result<Bootstrap> {
        let shipped = Bootstrap::read(&repository::root().join("envoy/ecds/envoy.yaml"))?;
        let subscribed = shipped.with_free_ports().with_cluster(CLUSTER, address).with_http2(CLUSTER).edit(|tree| {
            tree["dynamic_resources"]["ads_config"] = json!({
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": CLUSTER}}],
            });
            subscribe_instead(tree);
        });
        Ok(subscribed)
    }

    /// Delivers what `change` makes of the last resource as the next version, whose number it returns.
    pub fn publish(&mut self, change: impl FnOnce(Bootstrap) -> Bootstrap) -> Result<u64> {
        self.resource = change(self.resource.clone());
        let resources = encode(&self.resource)?;
        let version = self.published.borrow().version.saturating_add(1);
        self.published.send_replace(Published { version, resources });
        Ok(version)
    }

    /// What was delivered last.
    pub fn resource(&self) -> &Bootstrap {
        &self.resource
    }

    /// Waits for what Envoy makes of a version.
    pub async fn verdict(&self, version: u64) -> Result<Verdict> {
        let find = || {
            let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
            verdicts.iter().find(|verdict| verdict.version == version).cloned()
        };
        let what = format!("Envoy's word about version {version}");
        wait::until(&what, || async { Ok(find()) }, Option::is_some).await?.context(what)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Makes every watched path of a configuration a subscription to the aggregated stream.
fn subscribe_instead(tree: &mut Value) {
    match tree {
        Value::Array(items) => items.iter_mut().for_each(subscribe_instead),
        Value::Object(members) => {
            if members.remove("path_config_source").is_some() {
                members.insert("ads".to_owned(), json!({}));
            }
            members.values_mut().for_each(subscribe_instead);
        }
        _ => {}
    }
}

/// The resources of an ECDS file as messages.
fn encode(file: &Bootstrap) -> Result<Vec<Any>> {
    let resources = file.tree()["resources"].as_array().context("the file has no resources")?;
    let encode = |resource: &Value| {
        let name = resource["name"].as_str().context("a resource has no name")?.to_owned();
        let mut config = resource["typed_config"].as_object().context("a resource has no typed_config")?.clone();
        let type_url = config.remove("@type").context("a configuration has no type")?;
        let type_url = type_url.as_str().unwrap_or_default().to_owned();
        let carried = TypedStruct { type_url, value: Some(structure(&config)) };
        Ok(pack_any(TypedExtensionConfig { name, typed_config: Some(pack_any(carried)) }))
    };
    resources.iter().map(encode).collect()
}

fn structure(members: &serde_json::Map<String, Value>) -> Struct {
    Struct { fields: members.iter().map(|(name, value)| (name.clone(), message(value))).collect() }
}

fn message(value: &Value) -> ProtoValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(truth) => Kind::BoolValue(*truth),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(values) => Kind::ListValue(ListValue { values: values.iter().map(message).collect() }),
        Value::Object(members) => Kind::StructValue(structure(members)),
    };
    ProtoValue { kind: Some(kind) }
}

// === impl Discovery ===

impl Discovery {
    /// One of Envoy's streams: each version goes out once, and Envoy says what it makes of it.
    async fn serve(
        mut self,
        mut asked: Streaming<DiscoveryRequest>,
        answers: mpsc::Sender<Result<DiscoveryResponse, Status>>,
    ) {
        // What Envoy has, once it has said so.
        let mut has: Option<u64> = None;
        loop {
            tokio::select! {
                request = asked.message() => {
                    let Ok(Some(request)) = request else { return };
                    if request.type_url != EXTENSION {
                        continue;
                    }
                    if let Ok(version) = request.response_nonce.parse() {
                        let refusal = request.error_detail.map(|status| status.message);
                        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
                        verdicts.push(Verdict { version, refusal });
                    } else {
                        has = Some(request.version_info.parse().unwrap_or_default());
                    }
                }
                changed = self.published.changed(), if has.is_some() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
            let Published { version, resources } = self.published.borrow_and_update().clone();
            if has.is_none_or(|has| has == version) {
                continue;
            }
            has = Some(version);
            let number = version.to_string();
            let answer = DiscoveryResponse {
                version_info: number.clone(),
                resources,
                type_url: EXTENSION.to_owned(),
                nonce: number,
                ..DiscoveryResponse::default()
            };
            if answers.send(Ok(answer)).await.is_err() {
                return;
            }
        }
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let (answers, outgoing) = mpsc::channel(1);
        tokio::spawn(self.clone().serve(request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn delta_aggregated_resources(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("the whole state is delivered, and no differences"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_delivered_under_its_name_with_its_type_inside() -> Result<()> {
        let file = json!({"resources": [
            {"@type": EXTENSION, "name": "bluegreen", "typed_config": {"@type": "type.googleapis.com/a.B", "c": [1, "x"]}}
        ]});
        let resources = encode(&Bootstrap::parse(&file.to_string())?)?;
        let resource = resources.first().context("one resource")?;
        let extension = TypedExtensionConfig::decode(resource.value.as_slice())?;
        assert_eq!((resource.type_url.as_str(), extension.name.as_str()), (EXTENSION, "bluegreen"));
        let carried = extension.typed_config.context("a configuration")?;
        let inside = TypedStruct::decode(carried.value.as_slice())?;
        assert_eq!((carried.type_url, inside.type_url.as_str()), (TypedStruct::type_url(), "type.googleapis.com/a.B"));
        let fields = inside.value.context("a structure")?.fields;
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["c"]);
        Ok(())
    }
}
