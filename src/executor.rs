//! Runs the flows of core: makes their calls, hands the replies to those who wait for them, and polls what may go on.
//!
//! The SDK hands a reply to the context in whose event the call was made, the root or a stream; both hand it to the same
//! table here. A reply to a stream that is gone is handed to nobody. So in a stream's event only that stream's own flow is
//! polled, and all others only in the root's. A flow that is dropped leaves no entry in the table, and a late reply to it is
//! ignored.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
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
use bluegreen_core::model::sorted_map::SortedMap;
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
    /// The flows of the root context.
    tasks: Tasks,
    /// Those that end with the answer to a stream.
    calls: Tasks,
    http: RefCell<SortedMap<CallId, Sender<HttpReply>>>,
    grpc: RefCell<SortedMap<GrpcCallId, Sender<GrpcReply>>>,
    streams: RefCell<Vec<(StreamId, GrpcSender)>>,
    sleeps: RefCell<Vec<(Moment, Sender<()>)>>,
    /// Answers to the streams of these contexts, to be sent when nothing else is left to do.
    answers: RefCell<Vec<(u32, Response)>>,
    /// What this event may still cause.
    budget: Budget,
    /// Calls that were asked for in an event that had caused enough.
    postponed: RefCell<VecDeque<Postponed>>,
    /// Lines for the log that were written in such an event, and how many more were dropped.
    unlogged: RefCell<VecDeque<(log::Level, String)>>,
    dropped_lines: Cell<usize>,
    metrics: Vec<Metrics>,
    clock: Cell<Clock>,
    /// How far ticks are apart.
    period: Cell<Duration>,
    /// The time of the tick that is being handled: it costs a call, and every flow wants to know it.
    ticked_at: Cell<Option<Timestamp>>,
}

/// How much more one event may cause. What goes beyond it is done in the next events of the root context: whatever an
/// event brings, Envoy's other work waits for a bounded time, and its stack, on which each answer of one event stands in the
/// one before, does not overflow.
struct Budget {
    calls: Cell<usize>,
    lines: Cell<usize>,
}

/// A call that is made in a later event.
enum Postponed {
    Http(HttpRequest, Sender<HttpReply>),
    Grpc(GrpcRequest, Sender<GrpcReply>),
}

/// So many answers to streams, each of which is a flow of its own.
const ANSWERS_PER_EVENT: usize = 64;

/// So many requests and calls of our own.
const CALLS_PER_EVENT: usize = 64;

/// So many lines in the log.
const LINES_PER_EVENT: usize = 64;

/// So many lines wait for a later event. What is dropped is counted.
const MOST_LINES: usize = 1_000;

// === impl Executor ===

impl Executor {
    /// For the deployments of a configuration.
    pub fn new(config: &Config) -> Self {
        let metrics = config.deployments.keys().map(|name| Metrics::new(name.clone())).collect();
        Self {
            tasks: Tasks::default(),
            calls: Tasks::default(),
            http: RefCell::default(),
            grpc: RefCell::default(),
            streams: RefCell::default(),
            sleeps: RefCell::default(),
            answers: RefCell::default(),
            budget: Budget::default(),
            postponed: RefCell::default(),
            unlogged: RefCell::default(),
            dropped_lines: Cell::default(),
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
        let task = self.calls.add(Box::pin(async move {
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
        self.budget.renew();
        self.calls.run_only(task);
        self.end_abandoned_streams();
        self.send_answers(Some(context_id));
    }

    /// Polls all flows that may go on, in an event of the root. What the host is asked after this counts for the stream
    /// that was answered last.
    pub fn run_root(&self) {
        self.budget.renew();
        self.go_on_with_the_postponed();
        self.tasks.run();
        self.calls.run_at_most(ANSWERS_PER_EVENT);
        // What was abandoned is looked for once a tick: a thousand replies would look through a thousand calls each.
        if self.ticked_at.take().is_some() {
            self.forget_abandoned();
        } else {
            self.end_abandoned_streams();
        }
        self.send_answers(None);
    }

    fn go_on_with_the_postponed(&self) {
        while self.budget.calls.get() > 0 {
            // Taken out first: a call that fails at once is answered at once.
            let Some(call) = self.postponed.borrow_mut().pop_front() else { break };
            match call {
                Postponed::Http(request, waiter) if !waiter.is_canceled() => self.send(&request, waiter),
                Postponed::Grpc(request, waiter) if !waiter.is_canceled() => self.call(&request, waiter),
                Postponed::Http(..) | Postponed::Grpc(..) => {}
            }
        }
        while self.budget.lines.get() > 0 {
            let Some((level, line)) = self.unlogged.borrow_mut().pop_front() else { break };
            self.log(level, line);
        }
        match self.dropped_lines.take() {
            0 => {}
            dropped => self
                .log(log::Level::Warn, format!("bluegreen: {dropped} lines were left out, as too many came at once")),
        }
    }

    fn send(&self, request: &HttpRequest, waiter: Sender<HttpReply>) {
        Budget::spend(&self.budget.calls);
        match host::send(request) {
            Ok(call) => drop(self.http.borrow_mut().insert(call, waiter)),
            // A flow that is gone needs no reply.
            Err(reply) => drop(waiter.send(reply)),
        }
    }

    fn call(&self, request: &GrpcRequest, waiter: Sender<GrpcReply>) {
        Budget::spend(&self.budget.calls);
        match grpc::call(request) {
            Ok(call) => drop(self.grpc.borrow_mut().insert(call, waiter)),
            Err(reply) => drop(waiter.send(reply)),
        }
    }

    fn log(&self, level: log::Level, line: String) {
        if self.budget.lines.get() > 0 {
            Budget::spend(&self.budget.lines);
            return host::log(level, &line);
        }
        let mut unlogged = self.unlogged.borrow_mut();
        if unlogged.len() < MOST_LINES {
            unlogged.push_back((level, line));
        } else {
            self.dropped_lines.set(self.dropped_lines.get().saturating_add(1));
        }
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
        self.calls.cancel(task);
        self.forget_abandoned();
    }

    /// Drops all flows. They hold the executor, which holds them: without this neither would ever go.
    pub fn stop(&self) {
        self.tasks.clear();
        self.calls.clear();
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
            tasks: self.tasks.len().saturating_add(self.calls.len()),
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
        let (waiter, reply) = Reply::pending();
        match self.budget.calls.get() {
            0 => self.postponed.borrow_mut().push_back(Postponed::Http(request.clone(), waiter)),
            _ => self.send(request, waiter),
        }
        reply
    }

    fn grpc(&self, request: &GrpcRequest) -> Reply<GrpcReply> {
        let (waiter, reply) = Reply::pending();
        match self.budget.calls.get() {
            0 => self.postponed.borrow_mut().push_back(Postponed::Grpc(request.clone(), waiter)),
            _ => self.call(request, waiter),
        }
        reply
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
        if let Some(id) = host::define_metric(name, true) {
            host::set_metric(id, value);
        }
    }

    fn count(&self, name: &str) {
        if let Some(id) = host::define_metric(name, false) {
            host::add_to_metric(id, 1);
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

    fn node(&self) -> String {
        host::node()
    }

    fn info(&self, line: &str) {
        self.log(log::Level::Info, line.to_owned());
    }

    fn warn(&self, line: &str) {
        self.log(log::Level::Warn, line.to_owned());
    }
}

// === impl Budget ===

impl Budget {
    fn renew(&self) {
        self.calls.set(CALLS_PER_EVENT);
        self.lines.set(LINES_PER_EVENT);
    }

    fn spend(of: &Cell<usize>) {
        of.set(of.get().saturating_sub(1));
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self { calls: Cell::new(CALLS_PER_EVENT), lines: Cell::new(LINES_PER_EVENT) }
    }
}
