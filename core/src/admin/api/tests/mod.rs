//! The API as its callers see it, over a store in memory.

mod bounds;
mod calls;
#[cfg(not(target_arch = "wasm32"))]
mod description;
mod fleet;
mod readiness;
mod versions;
mod webhook;

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::task::Poll;

use futures_channel::oneshot::Sender;
use sha2::{Digest, Sha256};

use super::*;
use crate::config::Config;
use crate::etcd::model::{Fate, Model};
use crate::host::http::{HttpReply, HttpRequest};
use crate::host::reply::Reply;
use crate::json;
use crate::state::State;
use crate::store::record;
use crate::testing::host::{START, TestHost, poll_once};

const BLUE: &str = r#"{"cluster": "blue", "version": "1"}"#;
const GREEN: &str = r#"{"cluster": "green", "version": "2"}"#;

const IRIS: &str = "/bluegreen/v1/deployments/iris";

/// An API over one deployment, the replies that its colours give, and etcd where there is one.
struct Fixture {
    api: Api,
    context: Rc<Context>,
    host: Rc<TestHost>,
    replies: RefCell<Vec<HttpReply>>,
    asked: RefCell<Vec<HttpRequest>>,
    /// How long each of those replies takes.
    replies_take: Cell<Duration>,
    etcd: RefCell<Model>,
    /// What becomes of the next calls to etcd; those after them are answered. A lost one takes the time that it has.
    fates: RefCell<Vec<Fate>>,
}

/// A call under way.
type Flow = Pin<Box<dyn Future<Output = Response>>>;

impl Fixture {
    fn new() -> Self {
        Self::with("")
    }

    /// With more sections in the deployment.
    fn with(sections: &str) -> Self {
        Self::configured(sections, "")
    }

    /// With more sections in the deployment and in the document.
    fn configured(in_deployment: &str, in_document: &str) -> Self {
        let config = Self::config(BLUE, GREEN, in_deployment, in_document);
        let host = Rc::new(TestHost::default());
        let context = Rc::new(Context::new(Rc::<TestHost>::clone(&host), &config, None));
        context.worker.on_stream(&*host);
        Self {
            context,
            api: Api::of(&config).expect("present"),
            host,
            replies: RefCell::default(),
            asked: RefCell::default(),
            replies_take: Cell::default(),
            etcd: RefCell::default(),
            fates: RefCell::default(),
        }
    }

    /// With these behind its colours.
    fn config(blue: &str, green: &str, in_deployment: &str, in_document: &str) -> Config {
        let sum = |token: &str| hex::encode(Sha256::digest(token));
        let json = format!(
            r#"{{"deployments": {{"iris": {{"colours": {{
                "blue": {blue}, "green": {green}}} {in_deployment}}}}} {in_document},
                "admin": {{"tokens": [
                    {{"name": "alice", "role": "operator", "sha256": "{}"}},
                    {{"name": "victor", "role": "viewer", "sha256": "{}"}}]}}}}"#,
            sum("op"),
            sum("view"),
        );
        Config::from_bytes(json.as_bytes()).expect("valid")
    }

    /// The colours' next replies, the first first.
    fn will_reply(&self, replies: impl IntoIterator<Item = HttpReply>) {
        self.replies.borrow_mut().extend(replies);
    }

    /// Where the filter's own requests went since this was last asked, as `METHOD cluster path`.
    fn asked(&self) -> Vec<String> {
        let header = |request: &HttpRequest, name: &str| {
            let found = request.headers.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let line = |request: HttpRequest| {
            format!("{} {} {}", header(&request, ":method"), request.cluster, header(&request, ":path"))
        };
        self.asked.take().into_iter().map(line).collect()
    }

    /// The answer to a call, which has to be as the API's description says.
    fn call(&self, head: &Head, body: &[u8]) -> Response {
        let response = match self.begin(head, body) {
            Ok(mut call) => self.drive(&mut call).expect("it waits"),
            Err(response) => response,
        };
        #[cfg(not(target_arch = "wasm32"))]
        description::check(&self.api, head, &response);
        response
    }

    /// A call whose body has arrived.
    fn begin(&self, head: &Head, body: &[u8]) -> Result<Flow, Response> {
        let body = Reply::ready(Body::Complete(body.to_vec()));
        match self.api.receive(&self.context, head) {
            Ok(call) => Ok(Box::pin(call.answer(Rc::clone(&self.context), body))),
            Err(Refusal::AtOnce(response)) => Err(response),
            Err(Refusal::Slowly(answer)) => Ok(answer),
        }
    }

    /// Goes on with a call until it is answered or waits for time to pass.
    fn drive(&self, call: &mut Flow) -> Option<Response> {
        loop {
            if let Poll::Ready(response) = poll_once(call.as_mut()) {
                return Some(response);
            }
            let asked = self.host.http.borrow_mut().pop();
            if let Some((request, waiter)) = asked {
                self.asked.borrow_mut().push(request);
                self.host.pass(self.replies_take.get());
                waiter.send(self.replies.borrow_mut().remove(0)).expect("it waits");
                continue;
            }
            let (request, waiter) = self.host.grpc.borrow_mut().pop()?;
            let fate = self.fates.borrow_mut().pop().unwrap_or(Fate::Answered);
            let reply = self.etcd.borrow_mut().call(&request, fate);
            if matches!(fate, Fate::RequestLost | Fate::AnswerLost) {
                self.host.pass(request.timeout);
            }
            waiter.send(reply).expect("it waits");
        }
    }

    /// What a call asks a colour next, and where the reply goes.
    fn asks(&self, call: &mut Flow) -> (String, Sender<HttpReply>) {
        assert!(poll_once(call.as_mut()).is_pending());
        let (request, waiter) = self.host.http.borrow_mut().pop().expect("it asks");
        (request.cluster.to_string(), waiter)
    }

    /// A call with the operator's token.
    fn operate(&self, method: &str, path: &str) -> (u32, serde_json::Value) {
        self.operate_with(method, path, "", None)
    }

    fn operate_with(&self, method: &str, path: &str, body: &str, if_match: Option<&str>) -> (u32, serde_json::Value) {
        let head = Head { if_match: if_match.map(|tag| tag.as_bytes().to_vec()), ..head(method, path, Some("op")) };
        let response = self.call(&head, body.as_bytes());
        (response.status, json::from_slice(&response.body).expect("JSON"))
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
        provenance: Provenance { authority: b"127.0.0.1:10001".to_vec(), ..Provenance::default() },
        peer: "127.0.0.1:4711".to_owned(),
        ..Head::default()
    }
}
