//! What a flow may ask of the Envoy around it.
//!
//! A flow is everything that takes several steps: a change with its probe and its transaction, a drain, a poll, following
//! etcd. It is an `async fn` that reads from top to bottom. It waits for replies and for time, and for nothing else; to
//! drop it is to cancel it.

pub mod grpc;
pub mod http;
pub mod queue;
pub mod reply;
pub mod tasks;

use std::time::Duration;

use self::grpc::{GrpcReply, GrpcRequest, GrpcStream};
use self::http::{HttpReply, HttpRequest};
use self::queue::Queues;
use self::reply::Reply;
use self::tasks::{Flow, TaskId};
use crate::deployment::DeploymentIndex;
use crate::metrics::counters::ColourMetric;
use crate::model::colour::Colour;
use crate::model::name::ClusterName;
use crate::model::time::{Moment, Timestamp};
use crate::state::State;
use crate::store::Store;

/// The Envoy around a flow: one worker thread of it, with what its threads share.
pub trait Host {
    /// The wall clock, to be shown and kept. It jumps when it is set: nothing waits for it.
    fn now(&self) -> Timestamp;

    /// The clock that only goes forward.
    fn moment(&self) -> Moment;

    /// What the worker threads share.
    fn store(&self) -> &dyn Store;

    /// Sends a request through one of Envoy's clusters.
    fn http(&self, request: &HttpRequest) -> Reply<HttpReply>;

    /// Makes a gRPC call through one of Envoy's clusters.
    fn grpc(&self, request: &GrpcRequest) -> Reply<GrpcReply>;

    /// Opens a gRPC stream and sends `request` as its first message. The request's timeout is not used. The stream ends
    /// when it is dropped.
    fn grpc_stream(&self, request: &GrpcRequest) -> GrpcStream;

    /// Ready at the first tick after this much time has passed.
    fn sleep(&self, span: Duration) -> Reply<()>;

    /// Starts a flow at the next event of the root context: replies to a stream's calls are lost with it.
    fn spawn(&self, flow: Flow) -> TaskId;

    /// Drops a flow that was spawned, if it is still there.
    fn cancel(&self, task: TaskId);

    /// How often ticks come from now on.
    fn tick_every(&self, period: Duration);

    /// The queues through which the worker threads reach each other.
    fn queues(&self) -> &dyn Queues;

    /// Adds to a metric of Envoy's, which shows what was counted.
    fn add_to_metric(&self, deployment: DeploymentIndex, colour: Colour, metric: ColourMetric, by: i64);

    /// Counts that a state could not be read, so that the last good one goes on.
    fn count_fallback(&self, deployment: DeploymentIndex);

    /// Shows a state in the gauges.
    fn publish_gauges(&self, deployment: DeploymentIndex, state: &State);

    /// Shows a number in the gauge with this name.
    fn set_gauge(&self, name: &str, value: u64);

    /// Adds one to the counter with this name.
    fn count(&self, name: &str);

    /// Whether Envoy has a cluster of this name. Looking for one that it has may open a connection to it; nothing is sent.
    fn knows_cluster(&self, cluster: &ClusterName) -> bool;

    /// Whether Envoy keeps a gauge of this name, tried out on it. It is left as `is_known` says.
    fn keeps_stats(&self, metric: &str, is_known: bool) -> bool;

    /// How this Envoy calls itself: the id of its node; empty if it has none.
    fn node(&self) -> String;

    /// Logs what happened.
    fn info(&self, line: &str);

    /// Logs what an operator should look at.
    fn warn(&self, line: &str);
}

/// Until the next tick.
pub fn next_tick(host: &dyn Host) -> Reply<()> {
    host.sleep(Duration::ZERO)
}
