//! The API as its callers see it, over a store in memory.

mod calls;
mod fleet;
mod readiness;
mod webhook;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::*;
use crate::config::Config;
use crate::etcd::model::{Fate, Model};
use crate::testing::MemoryStore;

const START: Timestamp = Timestamp::from_millis(1_795_446_000_000);
const IRIS: &str = "/bluegreen/v1/deployments/iris";

/// An API over one deployment, the replies that its colours give, and a clock.
struct Fixture {
    api: Api,
    router: Deployments,
    store: MemoryStore,
    now: Cell<Timestamp>,
    in_flight: RefCell<PerColour<u64>>,
    replies: RefCell<Vec<Reply>>,
    asked: RefCell<Vec<Outgoing>>,
    /// How long each of those replies takes.
    replies_take: Cell<Duration>,
    fleet: Option<Fleet>,
    etcd: RefCell<Model>,
    /// What becomes of the next calls to etcd; those after them are answered. A lost one takes the time that it has.
    fates: RefCell<Vec<Fate>>,
}

impl Backend for Fixture {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn counts(&self, _: DeploymentIndex) -> PerColour<ColourCounts> {
        PerColour::default()
    }

    fn in_flight(&self, _: DeploymentIndex, colour: Colour) -> u64 {
        *self.in_flight.borrow().get(colour)
    }

    fn fleet(&self) -> Option<&Fleet> {
        self.fleet.as_ref()
    }
}

impl Fixture {
    fn new() -> Self {
        Self::with("")
    }

    /// With more sections in the deployment.
    fn with(sections: &str) -> Self {
        let sum = |token: &str| hex::encode(Sha256::digest(token));
        let json = format!(
            r#"{{"deployments": {{"iris": {{"colours": {{
                "blue": {{"cluster": "blue", "version": "1"}}, "green": {{"cluster": "green", "version": "2"}}}} {sections}}}}},
                "admin": {{"tokens": [
                    {{"name": "alice", "role": "operator", "sha256": "{}"}},
                    {{"name": "victor", "role": "viewer", "sha256": "{}"}}]}}}}"#,
            sum("op"),
            sum("view"),
        );
        let config = Config::from_bytes(json.as_bytes()).expect("valid");
        Self {
            router: Deployments::new(&config),
            api: Api::new(config.admin.expect("present")),
            store: MemoryStore::default(),
            now: Cell::new(START),
            in_flight: RefCell::default(),
            replies: RefCell::default(),
            asked: RefCell::default(),
            replies_take: Cell::default(),
            fleet: None,
            etcd: RefCell::default(),
            fates: RefCell::default(),
        }
    }

    /// The colours' next replies, the first first.
    fn will_reply(&self, replies: impl IntoIterator<Item = Reply>) {
        self.replies.borrow_mut().extend(replies);
    }

    /// Where the filter's own requests went since this was last asked, as `METHOD cluster path`.
    fn asked(&self) -> Vec<String> {
        let header = |request: &Outgoing, name: &str| {
            let found = request.headers.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let line = |request: Outgoing| {
            format!("{} {} {}", header(&request, ":method"), request.cluster, header(&request, ":path"))
        };
        self.asked.take().into_iter().map(line).collect()
    }

    fn call(&self, head: &Head, body: &[u8]) -> Response {
        match self.step(head, body) {
            Step::Done(answer) => answer.response,
            Step::Ask(_) | Step::Wait(_) | Step::Commit(_) | Step::Queue(_) => panic!("it waits"),
        }
    }

    /// Goes on with a call until it is done or waits for time to pass.
    fn step(&self, head: &Head, body: &[u8]) -> Step {
        let mut step = match self.api.receive(head) {
            Ok(call) => call.start(body, &self.router, self, self.now.get()),
            Err(response) => return Step::done(response),
        };
        loop {
            step = match step {
                Step::Ask(asking) => {
                    self.asked.borrow_mut().push(asking.request.clone());
                    let reply = self.replies.borrow_mut().remove(0);
                    self.now.set(self.now.get().plus(self.replies_take.get()));
                    asking.resume(&reply, &self.router, self, self.now.get())
                }
                Step::Commit(committing) => {
                    let fate = self.fates.borrow_mut().pop().unwrap_or(Fate::Answered);
                    let reply = self.etcd.borrow_mut().call(&committing.call, fate);
                    if matches!(fate, Fate::RequestLost | Fate::AnswerLost) {
                        self.now.set(self.now.get().plus(committing.call.timeout));
                    }
                    committing.resume(&reply, &self.router, self, self.now.get())
                }
                Step::Queue(committing) => committing.take_turn(self.now.get()),
                end => return end,
            };
        }
    }

    /// A call with the operator's token.
    fn operate(&self, method: &str, path: &str) -> (u32, serde_json::Value) {
        self.operate_with(method, path, "", None)
    }

    fn operate_with(&self, method: &str, path: &str, body: &str, if_match: Option<&str>) -> (u32, serde_json::Value) {
        let head = Head { if_match: if_match.map(|tag| tag.as_bytes().to_vec()), ..head(method, path, Some("op")) };
        let response = self.call(&head, body.as_bytes());
        (response.status, serde_json::from_slice(&response.body).expect("JSON"))
    }

    fn revision(&self) -> u64 {
        self.operate("GET", IRIS).1["revision"].as_u64().expect("a number")
    }
}

fn head(method: &str, path: &str, token: Option<&str>) -> Head {
    Head {
        method: method.as_bytes().to_vec(),
        path: path.as_bytes().to_vec(),
        authorization: token.map(|token| format!("Bearer {token}").into_bytes()),
        if_match: None,
        delivery: None,
    }
}
