//! Runs the flows of core: makes their calls, hands the replies to those who wait for them, and polls what may go on.
//!
//! The SDK hands a reply to the context in whose event the call was made, the root or a stream; both hand it to the same
//! table here. Envoy ends the calls of a stream with the stream. So in a stream's event only that stream's own flow is
//! polled, and all others only in the root's. A flow that is dropped leaves no entry in the table, and a late reply to it is
//! ignored.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bluegreen_core::admin::response::Response;
use bluegreen_core::config::Config;
use bluegreen_core::deployment::DeploymentIndex;
use bluegreen_core::host::Host;
use bluegreen_core::host::grpc::{GrpcReply, GrpcRequest, GrpcSender, GrpcStream};
use bluegreen_core::host::http::{HttpReply, HttpRequest};
use bluegreen_core::host::queue::Queues;
use bluegreen_core::host::reply::Reply;
use bluegreen_core::host::tasks::{Flow, TaskId, Tasks};
use bluegreen_core::metrics::counters::{ColourMetric, DeploymentMetric};
use bluegreen_core::model::colour::Colour;
use bluegreen_core::model::name::ClusterName;
use bluegreen_core::model::time::{Clock, Moment, TICK, Timestamp};
use bluegreen_core::state::State;
use bluegreen_core::store::Store;
use futures_channel::oneshot::Sender;

use crate::grpc::{self, GrpcCallId, StreamId};
use crate::host::{self, CallId};
use crate::metrics::Metrics;
use crate::shared_data::SharedData;
use crate::shared_queues::SharedQueues;

/// The flows of one root context, and what they wait for.
pub struct Executor {
    tasks: Tasks,
    http: RefCell<BTreeMap<CallId, Sender<HttpReply>>>,
    grpc: RefCell<BTreeMap<GrpcCallId, Sender<GrpcReply>>>,
    streams: RefCell<Vec<(StreamId, GrpcSender)>>,
    sleeps: RefCell<Vec<(Moment, Sender<()>)>>,
    /// Answers to the streams of these contexts, to be sent when nothing else is left to do.
    answers: RefCell<Vec<(u32, Response)>>,
    metrics: Vec<Metrics>,
    clock: Cell<Clock>,
    /// How far ticks are apart.
    period: Cell<Duration>,
    /// The time of the tick that is being handled: it costs a call, and every flow wants to know it.
    ticked_at: Cell<Option<Timestamp>>,
}

// === impl Executor ===

impl Executor {
    /// For the deployments of a configuration.
    pub fn new(config: &Config) -> Self {
        let metrics = config.deployments.keys().map(|name| Metrics::new(name.clone())).collect();
        Self {
            tasks: Tasks::default(),
            http: RefCell::default(),
            grpc: RefCell::default(),
            streams: RefCell::default(),
            sleeps: RefCell::default(),
            answers: RefCell::default(),
            metrics,
            clock: Cell::new(Clock::new(Timestamp::from(host::now()))),
            period: Cell::new(TICK),
            ticked_at: Cell::default(),
        }
    }

    /// A deployment's metrics.
    pub fn metrics(&self, deployment: DeploymentIndex) -> Option<&Metrics> {
        self.metrics.get(deployment)
    }

    /// Starts the flow that ends with the answer to a stream, in an event of that stream.
    pub fn serve(self: &Rc<Self>, context_id: u32, answer: impl Future<Output = Response> + 'static) -> TaskId {
        let this = Rc::downgrade(self);
        let task = self.tasks.add(Box::pin(async move {
            let response = answer.await;
            if let Some(this) = this.upgrade() {
                this.answers.borrow_mut().push((context_id, response));
            }
        }));
        self.run_stream(context_id, task);
        task
    }

    /// Polls a stream's flow, in an event of that stream.
    pub fn run_stream(&self, context_id: u32, task: TaskId) {
        self.tasks.run_only(task);
        self.end_abandoned_streams();
        self.send_answers(Some(context_id));
    }

    /// Polls all flows that may go on, in an event of the root. What the host is asked after this counts for the stream
    /// that was answered last.
    pub fn run_root(&self) {
        self.tasks.run();
        // What was abandoned is looked for once a tick: a thousand replies would look through a thousand calls each.
        if self.ticked_at.take().is_some() {
            self.forget_abandoned();
        } else {
            self.end_abandoned_streams();
        }
        self.send_answers(None);
    }

    /// Last of all in an event: to the stream whose event it is, and to others of this VM.
    fn send_answers(&self, own: Option<u32>) {
        for (stream, response) in self.answers.take() {
            if own == Some(stream) || host::act_for(stream) {
                host::answer(&response);
            }
        }
    }

    /// Drops the flow of a stream that is over.
    pub fn end(&self, task: TaskId) {
        self.tasks.cancel(task);
        self.forget_abandoned();
    }

    /// Drops all flows. They hold the executor, which holds them: without this neither would ever go.
    pub fn stop(&self) {
        self.tasks.clear();
    }

    /// Wakes the flows whose time has come, for the run that follows.
    pub fn tick(&self) {
        let mut clock = self.clock.get();
        self.ticked_at.set(Some(clock.tick(Timestamp::from(host::now()), self.period.get())));
        self.clock.set(clock);
        let now = clock.moment();
        let (due, rest) = self.sleeps.take().into_iter().partition(|(at, _)| *at <= now);
        *self.sleeps.borrow_mut() = rest;
        let due: Vec<(Moment, Sender<()>)> = due;
        for (_, sleeper) in due {
            // One that is gone needs no waking.
            let _: Result<(), ()> = sleeper.send(());
        }
    }

    /// Hands a reply to the flow that waits for it.
    pub fn on_http_reply(&self, call: CallId, reply: HttpReply) {
        let waiter = self.http.borrow_mut().remove(&call);
        if let Some(waiter) = waiter {
            // A flow that is gone needs no reply.
            let _: Result<(), HttpReply> = waiter.send(reply);
        }
    }

    /// Hands a reply to the flow that waits for it.
    pub fn on_grpc_reply(&self, call: GrpcCallId, reply: GrpcReply) {
        let waiter = self.grpc.borrow_mut().remove(&call);
        if let Some(waiter) = waiter {
            // A flow that is gone needs no reply.
            let _: Result<(), GrpcReply> = waiter.send(reply);
        }
    }

    /// Hands a message to the flow that reads the stream.
    pub fn on_grpc_message(&self, stream: StreamId, message: Vec<u8>) {
        let streams = self.streams.borrow();
        if let Some((_, reader)) = streams.iter().find(|(known, _)| *known == stream) {
            reader.send(message);
        }
    }

    /// Tells the flow that reads the stream that it has ended.
    pub fn on_grpc_close(&self, stream: StreamId) {
        grpc::cancel(stream);
        let mut streams = self.streams.borrow_mut();
        let ended = streams.iter().position(|(known, _)| *known == stream).map(|place| streams.swap_remove(place));
        drop(streams);
        drop(ended);
    }

    /// Forgets what no flow waits for any more, and ends the streams among that.
    fn forget_abandoned(&self) {
        self.http.borrow_mut().retain(|_, waiter| !waiter.is_canceled());
        self.grpc.borrow_mut().retain(|_, waiter| !waiter.is_canceled());
        self.sleeps.borrow_mut().retain(|(_, sleeper)| !sleeper.is_canceled());
        self.end_abandoned_streams();
    }

    fn end_abandoned_streams(&self) {
        self.streams.borrow_mut().retain(|(stream, reader)| {
            if reader.is_abandoned() {
                grpc::cancel(*stream);
            }
            !reader.is_abandoned()
        });
    }
}

/// How many entries each table has.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    pub tasks: usize,
    pub http: usize,
    pub grpc: usize,
    pub streams: usize,
    pub sleeps: usize,
}

#[cfg(test)]
impl Executor {
    pub fn tables(&self) -> Tables {
        Tables {
            tasks: self.tasks.len(),
            // Those that were abandoned since the last tick are still there.
            http: self.http.borrow().values().filter(|waiter| !waiter.is_canceled()).count(),
            grpc: self.grpc.borrow().len(),
            streams: self.streams.borrow().len(),
            sleeps: self.sleeps.borrow().len(),
        }
    }
}

impl Host for Executor {
    fn now(&self) -> Timestamp {
        self.ticked_at.get().unwrap_or_else(|| self.clock.get().time(Timestamp::from(host::now())))
    }

    fn moment(&self) -> Moment {
        let clock = self.clock.get();
        if self.ticked_at.get().is_some() {
            return clock.moment();
        }
        clock.moment_at(Timestamp::from(host::now()))
    }

    fn store(&self) -> &dyn Store {
        &SharedData
    }

    fn http(&self, request: &HttpRequest) -> Reply<HttpReply> {
        match host::send(request) {
            Ok(call) => {
                let (waiter, reply) = Reply::pending();
                self.http.borrow_mut().insert(call, waiter);
                reply
            }
            Err(reply) => Reply::ready(reply),
        }
    }

    fn grpc(&self, request: &GrpcRequest) -> Reply<GrpcReply> {
        match grpc::call(request) {
            Ok(call) => {
                let (waiter, reply) = Reply::pending();
                self.grpc.borrow_mut().insert(call, waiter);
                reply
            }
            Err(reply) => Reply::ready(reply),
        }
    }

    fn grpc_stream(&self, request: &GrpcRequest) -> GrpcStream {
        let Some(id) = grpc::open(request) else { return GrpcStream::closed() };
        let (sender, stream) = GrpcStream::open();
        self.streams.borrow_mut().push((id, sender));
        stream
    }

    fn sleep(&self, span: Duration) -> Reply<()> {
        let (sleeper, reply) = Reply::pending();
        self.sleeps.borrow_mut().push((self.moment().plus(span), sleeper));
        reply
    }

    fn spawn(&self, flow: Flow) -> TaskId {
        self.tasks.add(flow)
    }

    fn cancel(&self, task: TaskId) {
        self.tasks.cancel(task);
    }

    fn tick_every(&self, period: Duration) {
        self.period.set(period);
        host::tick_every(period);
    }

    fn queues(&self) -> &dyn Queues {
        &SharedQueues
    }

    fn add_to_metric(&self, deployment: DeploymentIndex, colour: Colour, metric: ColourMetric, by: i64) {
        if let Some(metrics) = self.metrics(deployment) {
            metrics.add(colour, metric, by);
        }
    }

    fn count_fallback(&self, deployment: DeploymentIndex) {
        if let Some(metrics) = self.metrics(deployment) {
            metrics.count_own(DeploymentMetric::Fallbacks);
        }
    }

    fn publish_gauges(&self, deployment: DeploymentIndex, state: &State) {
        if let Some(metrics) = self.metrics(deployment) {
            metrics.publish_gauges(state);
        }
    }

    fn set_gauge(&self, name: &str, value: u64) {
        // Rarely called: the host finds the gauge by its name again.
        if let Some(id) = host::define_metric(name, true) {
            host::set_metric(id, value);
        }
    }

    fn knows_cluster(&self, cluster: &ClusterName) -> bool {
        // A stream is not begun either where the cluster has no endpoint, or where an operator does not allow the call.
        // Then a request tells: to a cluster that Envoy does not have none is sent.
        let request = HttpRequest::new(cluster, "bluegreen", "HEAD", "/", Duration::from_secs(1));
        grpc::reaches(cluster) || !matches!(host::send(&request), Err(HttpReply::UnknownCluster(_)))
    }

    fn keeps_stats(&self, metric: &str, is_known: bool) -> bool {
        let Some(id) = host::define_metric(metric, true) else { return false };
        host::set_metric(id, 2);
        let is_kept = host::metric(id) == Some(2);
        host::set_metric(id, u64::from(is_known));
        is_kept
    }

    fn info(&self, line: &str) {
        log::info!("{line}");
    }

    fn warn(&self, line: &str) {
        log::warn!("{line}");
    }
}
