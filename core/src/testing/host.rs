//! An Envoy in memory, of which a test is the network, the clock and the event loop.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_channel::oneshot::Sender;

use super::MemoryStore;
use crate::deployment::DeploymentIndex;
use crate::host::Host;
use crate::host::grpc::{GrpcReply, GrpcRequest, GrpcSender, GrpcStream};
use crate::host::http::{HttpReply, HttpRequest};
use crate::host::queue::{QueueToken, Queues};
use crate::host::reply::Reply;
use crate::host::tasks::{Flow, TaskId, Tasks};
use crate::json;
use crate::metrics::counters::ColourMetric;
use crate::model::colour::Colour;
use crate::model::name::ClusterName;
use crate::model::time::{Moment, Timestamp};
use crate::state::State;
use crate::store::Store;
use crate::store::key::Key;

/// When most tests begin.
pub const START: Timestamp = Timestamp::from_millis(1_795_446_000_000);

/// The Envoy. What flows ask for waits here until the test answers it.
pub struct TestHost {
    /// What its workers share.
    pub store: MemoryStore,
    /// The flows that were spawned.
    pub tasks: Tasks,
    /// The requests under way, the oldest first.
    pub http: RefCell<Vec<(HttpRequest, Sender<HttpReply>)>>,
    /// The gRPC calls under way, the oldest first.
    pub grpc: RefCell<Vec<(GrpcRequest, Sender<GrpcReply>)>>,
    /// The gRPC streams that were opened, the oldest first.
    pub streams: RefCell<Vec<(GrpcRequest, GrpcSender)>>,
    /// The messages between workers, by queue. They wait until the test hands them over.
    pub messages: RefCell<BTreeMap<u32, VecDeque<Vec<u8>>>>,
    queues: RefCell<Vec<String>>,
    now: Cell<Timestamp>,
    moment: Cell<Moment>,
    sleeps: RefCell<Vec<(Moment, Sender<()>)>>,
    log: RefCell<Vec<String>>,
    counters: RefCell<BTreeMap<String, u64>>,
    gauges: RefCell<BTreeMap<String, u64>>,
    warnings: RefCell<Vec<String>>,
    lacking: RefCell<Vec<String>>,
    keeps_stats: Cell<bool>,
}

// === impl TestHost ===

impl TestHost {
    /// Moves time on, without a tick.
    pub fn pass(&self, span: Duration) {
        self.now.set(self.now.get().plus(span));
        self.moment.set(self.moment.get().plus(span));
    }

    /// It knows all clusters but these.
    pub fn lack_clusters(&self, names: &[&str]) {
        *self.lacking.borrow_mut() = names.iter().map(|name| (*name).to_owned()).collect();
    }

    /// Whether it keeps stats.
    pub fn set_keeps_stats(&self, keeps: bool) {
        self.keeps_stats.set(keeps);
    }

    /// Sets the wall clock. No time passes.
    pub fn set_now(&self, now: Timestamp) {
        self.now.set(now);
    }

    /// Wakes those whose time has come, and polls the flows.
    pub fn tick(&self) {
        self.wake_sleepers();
        self.tasks.run();
    }

    /// Wakes those whose time has come.
    pub fn wake_sleepers(&self) {
        let sleeps = self.sleeps.take();
        let (due, rest) = sleeps.into_iter().partition(|(at, _)| *at <= self.moment.get());
        *self.sleeps.borrow_mut() = rest;
        let due: Vec<(Moment, Sender<()>)> = due;
        for (_, sender) in due {
            let _: Result<(), ()> = sender.send(());
        }
    }

    /// What the counter with this name shows.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.borrow().get(name).copied().unwrap_or_default()
    }

    /// Which lines at level warning were written since this was last asked.
    pub fn take_warnings(&self) -> Vec<String> {
        self.warnings.take()
    }

    /// What the gauge with this name shows.
    pub fn gauge(&self, name: &str) -> Option<u64> {
        self.gauges.borrow().get(name).copied()
    }

    /// What all gauges show that were set by name.
    pub fn gauges(&self) -> BTreeMap<String, u64> {
        self.gauges.borrow().clone()
    }

    /// What was logged since this was last asked, and which states were shown.
    pub fn take_log(&self) -> Vec<String> {
        self.log.take()
    }

    /// How often the workers were told of a write.
    pub fn writes(&self) -> u64 {
        let stored = self.store.read(&Key::Writes.to_string()).expect("in reach");
        json::from_slice(&stored.value.unwrap_or_default()).unwrap_or_default()
    }
}

impl Default for TestHost {
    fn default() -> Self {
        Self {
            store: MemoryStore::default(),
            tasks: Tasks::default(),
            http: RefCell::default(),
            grpc: RefCell::default(),
            streams: RefCell::default(),
            messages: RefCell::default(),
            queues: RefCell::default(),
            now: Cell::new(START),
            moment: Cell::default(),
            sleeps: RefCell::default(),
            log: RefCell::default(),
            counters: RefCell::default(),
            gauges: RefCell::default(),
            warnings: RefCell::default(),
            lacking: RefCell::default(),
            keeps_stats: Cell::new(true),
        }
    }
}

impl Host for TestHost {
    fn now(&self) -> Timestamp {
        self.now.get()
    }

    fn moment(&self) -> Moment {
        self.moment.get()
    }

    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn http(&self, request: &HttpRequest) -> Reply<HttpReply> {
        let (sender, reply) = Reply::pending();
        self.http.borrow_mut().push((request.clone(), sender));
        reply
    }

    fn grpc(&self, request: &GrpcRequest) -> Reply<GrpcReply> {
        let (sender, reply) = Reply::pending();
        self.grpc.borrow_mut().push((request.clone(), sender));
        reply
    }

    fn grpc_stream(&self, request: &GrpcRequest) -> GrpcStream {
        let (sender, stream) = GrpcStream::open();
        self.streams.borrow_mut().push((request.clone(), sender));
        stream
    }

    fn sleep(&self, span: Duration) -> Reply<()> {
        let (sender, reply) = Reply::pending();
        self.sleeps.borrow_mut().push((self.moment.get().plus(span), sender));
        reply
    }

    fn spawn(&self, flow: Flow) -> TaskId {
        self.tasks.add(flow)
    }

    fn cancel(&self, task: TaskId) {
        self.tasks.cancel(task);
    }

    fn tick_every(&self, _period: Duration) {}

    fn queues(&self) -> &dyn Queues {
        self
    }

    fn add_to_metric(&self, _deployment: DeploymentIndex, _colour: Colour, _metric: ColourMetric, _by: i64) {}

    fn count_fallback(&self, _deployment: DeploymentIndex) {}

    fn publish_gauges(&self, deployment: DeploymentIndex, state: &State) {
        self.log.borrow_mut().push(format!("{deployment} is at {}", state.revision));
    }

    fn set_gauge(&self, name: &str, value: u64) {
        self.gauges.borrow_mut().insert(name.to_owned(), value);
    }

    fn count(&self, name: &str) {
        *self.counters.borrow_mut().entry(name.to_owned()).or_default() += 1;
    }

    fn knows_cluster(&self, cluster: &ClusterName) -> bool {
        !self.lacking.borrow().iter().any(|lacking| lacking == cluster.as_str())
    }

    fn keeps_stats(&self, _metric: &str, _is_known: bool) -> bool {
        self.keeps_stats.get()
    }

    fn node(&self) -> String {
        "edge-1".to_owned()
    }

    fn info(&self, line: &str) {
        self.log.borrow_mut().push(line.to_owned());
    }

    fn warn(&self, line: &str) {
        self.log.borrow_mut().push(line.to_owned());
        self.warnings.borrow_mut().push(line.to_owned());
    }
}

impl Queues for TestHost {
    fn register(&self, name: &str) -> Option<QueueToken> {
        let mut queues = self.queues.borrow_mut();
        let place = queues.iter().position(|known| known == name).unwrap_or_else(|| {
            queues.push(name.to_owned());
            queues.len() - 1
        });
        u32::try_from(place).ok().map(QueueToken)
    }

    fn enqueue(&self, QueueToken(queue): QueueToken, message: &[u8]) {
        self.messages.borrow_mut().entry(queue).or_default().push_back(message.to_vec());
    }

    fn dequeue(&self, QueueToken(queue): QueueToken) -> Option<Vec<u8>> {
        self.messages.borrow_mut().get_mut(&queue)?.pop_front()
    }
}

/// Polls a future once.
pub fn poll_once<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// What a future comes to that waits for nothing.
pub fn at_once<T>(future: impl Future<Output = T>) -> T {
    match poll_once(pin!(future)) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}
