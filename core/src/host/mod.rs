//! What a flow may ask of the Envoy around it.
//!
//! A flow is everything that takes several steps: a change with its probe and its transaction, a drain, a poll, following
//! etcd. It is an `async fn` that reads from top to bottom. It waits for replies and for time, and for nothing else; to
//! drop it is to cancel it.

pub mod grpc;
pub mod http;
pub mod publish;
pub mod reply;
pub mod tasks;

use std::time::Duration;

use self::grpc::{GrpcReply, GrpcRequest, GrpcStream};
use self::http::{HttpReply, HttpRequest};
use self::reply::Reply;
use self::tasks::{Flow, TaskId};
use crate::deployment::DeploymentIndex;
use crate::metrics::counters::ColourCounts;
use crate::model::colour::{Colour, PerColour};
use crate::model::name::ClusterName;
use crate::model::time::Timestamp;
use crate::state::State;
use crate::store::Store;

/// The Envoy around a flow: one worker thread of it, with what its threads share.
pub trait Host {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// What the worker threads share.
    fn store(&self) -> &dyn Store;

    /// Sends a request through one of Envoy's clusters.
    fn http(&self, request: &HttpRequest) -> Reply<HttpReply>;

    /// Makes a gRPC call through one of Envoy's clusters.
    fn grpc(&self, request: &GrpcRequest) -> Reply<GrpcReply>;

    /// Opens a gRPC stream and sends `request` as its first message. The request's timeout is not used. The stream ends
    /// when it is dropped.
    fn grpc_stream(&self, request: &GrpcRequest) -> GrpcStream;

    /// Ready at the first tick at or after `at`.
    fn sleep_until(&self, at: Timestamp) -> Reply<()>;

    /// Starts a flow at the next event of the root context: calls made for a stream would end with it.
    fn spawn(&self, flow: Flow) -> TaskId;

    /// Drops a flow that was spawned, if it is still there.
    fn cancel(&self, task: TaskId);

    /// How often ticks come from now on.
    fn tick_every(&self, period: Duration);

    /// What was counted up to now about each colour of a deployment.
    fn counts(&self, deployment: DeploymentIndex) -> PerColour<ColourCounts>;

    /// How many requests to a colour are under way.
    fn in_flight(&self, deployment: DeploymentIndex, colour: Colour) -> u64;

    /// The number that moves with each write of a deployment's state; `None` while the host gives none.
    fn epoch(&self, deployment: DeploymentIndex) -> Option<u64>;

    /// Has all workers read anew what is kept about a deployment.
    fn move_epoch(&self, deployment: DeploymentIndex);

    /// Shows a state in the gauges.
    fn publish_gauges(&self, deployment: DeploymentIndex, state: &State);

    /// Shows in a gauge whether a mistake in the set-up is known. `problem` is the name of its metric.
    fn publish_setup(&self, metric: &str, is_known: bool);

    /// Whether Envoy has a cluster of this name. Looking for one that it has may open a connection to it; nothing is sent.
    fn knows_cluster(&self, cluster: &ClusterName) -> bool;

    /// Whether Envoy keeps a gauge of this name, tried out on it. It is left as `is_known` says.
    fn keeps_stats(&self, metric: &str, is_known: bool) -> bool;

    /// Forgets how many requests in a row did not reach the active colour.
    fn reset_unreached(&self, deployment: DeploymentIndex);

    /// Logs what happened.
    fn info(&self, line: &str);

    /// Logs what an operator should look at.
    fn warn(&self, line: &str);
}

/// Until the next tick.
pub fn next_tick(host: &dyn Host) -> Reply<()> {
    host.sleep_until(Timestamp::default())
}
