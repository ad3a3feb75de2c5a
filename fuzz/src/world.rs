//! A filter in memory with everything around it, driven by a script.
//!
//! | section | what happens |
//! | --- | --- |
//! | `call TOKEN METHOD PATH` | a call of the admin API; a line `if-match: …` may follow, then the body |
//! | `reply STATUS` | what the next request of the filter's own is answered with |
//! | `broken` | the next request of its own gets no answer |
//! | `put KEY` | another plugin writes under a key of the shared data, `bluegreen/v1/` being left out |
//! | `message QUEUE` | another plugin writes into a queue |
//! | `grpc` | the bytes that the next call of etcd is answered with |
//! | `failed CODE` | the next call of etcd fails, with this code of gRPC and these words |
//! | `stream` | the bytes that etcd says on its streams |
//! | `end` | etcd's streams end |
//! | `tick MILLISECONDS` | so much time passes, and a tick comes |
//! | `clock MILLISECONDS` | the clock is set |

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bluegreen_core::admin::api::{Api, Body, Head};
use bluegreen_core::admin::refusals::Refusal;
use bluegreen_core::admin::response::Response;
use bluegreen_core::change::context::Context;
use bluegreen_core::config::Config;
use bluegreen_core::controllers::{self, submissions::Submissions};
use bluegreen_core::host::Host;
use bluegreen_core::host::grpc::{GrpcReply, GrpcStatus};
use bluegreen_core::host::http::HttpReply;
use bluegreen_core::host::reply::Reply;
use bluegreen_core::model::time::Timestamp;
use bluegreen_core::state::State;
use bluegreen_core::store::record;
use bluegreen_core::testing::host::{TestHost, poll_once};
use sha2::{Digest, Sha256};

use crate::script::{Section, split_line};

/// The filter, and what the outside will say next.
pub struct World {
    pub host: Rc<TestHost>,
    pub context: Rc<Context>,
    api: Api,
    replies: RefCell<VecDeque<HttpReply>>,
    etcd_replies: RefCell<VecDeque<GrpcReply>>,
    written: usize,
}

/// Nothing that is answered is longer, but for what came in.
const LONGEST_ANSWER: usize = 256 * 1024;
/// No line of the log is longer, but for what came in.
const LONGEST_LINE: usize = 8 * 1024;
/// A call that waits longer than so many steps is given up by its client.
const STEPS: usize = 64;
/// What one event may ask of the outside.
const CALLS_PER_EVENT: usize = 64;

/// gRPC's code for an answer that did not come.
const UNAVAILABLE: u32 = 14;

/// The operator's token in [`configuration`].
pub const OPERATOR: &str = "op";

/// A configuration with two tokens, `op` for an operator and `view` for a viewer, and one deployment, `iris`, in which more
/// may stand.
pub fn configuration(in_deployment: &str, in_document: &str) -> Config {
    let sum = |token: &str| hex::encode(Sha256::digest(token));
    let json = format!(
        r#"{{"deployments": {{"iris": {{"colours": {{
            "blue": {{"cluster": "blue", "version": "1"}}, "green": {{"cluster": "green", "version": "2"}}}} {in_deployment}}}}}
            {in_document}, "admin": {{"tokens": [
                {{"name": "alice", "role": "operator", "sha256": "{}"}},
                {{"name": "victor", "role": "viewer", "sha256": "{}"}}]}}}}"#,
        sum(OPERATOR),
        sum("view"),
    );
    Config::from_bytes(json.as_bytes()).expect("valid")
}

// === impl World ===

impl World {
    /// One in which the filter has just started.
    pub fn new(config: &Config) -> Self {
        let host = Rc::new(TestHost::default());
        let context = Rc::new(Context::new(Rc::<TestHost>::clone(&host), config, None));
        let submissions = Rc::new(Submissions::new(&context));
        controllers::start(&context, &submissions, config);
        context.worker.on_stream(&*host);
        let access = config.admin.clone().unwrap_or_else(|| configuration("", "").admin.expect("present"));
        Self {
            host,
            context,
            api: Api::new(access, None),
            replies: RefCell::default(),
            etcd_replies: RefCell::default(),
            written: 0,
        }
    }

    /// Does what a section says. What is no section does nothing.
    pub fn act(&mut self, section: &Section<'_>) {
        self.written += section.line.len() + section.rest.len();
        let (directive, words) = section.directive();
        match directive {
            "call" => self.act_call(words, section.rest),
            "reply" => {
                let status = words.trim().parse().unwrap_or(200);
                self.replies.borrow_mut().push_back(HttpReply::Answered { status, body: section.rest.to_vec() });
            }
            "broken" => self.replies.borrow_mut().push_back(HttpReply::Broken),
            "put" => self.host.store.put(&format!("bluegreen/v1/{words}"), section.rest),
            "message" => {
                let queue = words.trim().parse().unwrap_or(0);
                self.host.messages.borrow_mut().entry(queue).or_default().push_back(section.rest.to_vec());
                self.context.worker.on_queue(&*self.host, &self.context.deployments);
            }
            "grpc" => self.etcd_replies.borrow_mut().push_back(GrpcReply::Answered(section.rest.to_vec())),
            "failed" => {
                let code = words.trim().parse().unwrap_or(UNAVAILABLE);
                let message = String::from_utf8_lossy(section.rest).into_owned();
                self.etcd_replies.borrow_mut().push_back(GrpcReply::Failed(GrpcStatus { code, message }));
            }
            "stream" => {
                self.host.streams.borrow().iter().for_each(|(_, stream)| stream.send(section.rest.to_vec()));
                self.settle();
            }
            "end" => {
                self.host.streams.borrow_mut().clear();
                self.settle();
            }
            "tick" => self.tick(Duration::from_millis(words.trim().parse().unwrap_or(250).min(1 << 40))),
            "clock" => {
                self.host.set_now(Timestamp::from_millis(words.trim().parse().unwrap_or_default()));
                self.tick(Duration::ZERO);
            }
            _ => {}
        }
        self.check_log();
    }

    fn act_call(&self, words: &str, rest: &[u8]) {
        let mut words = words.splitn(3, ' ');
        let (token, method, path) = (words.next(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let token = token.filter(|token| !token.is_empty() && *token != "-");
        let (if_match, body) = match rest.strip_prefix(b"if-match: ") {
            Some(rest) => {
                let (tag, body) = split_line(rest);
                (Some(tag.to_vec()), body)
            }
            None => (None, rest),
        };
        let head = Head {
            method: method.into(),
            path: path.into(),
            authorization: token.map(|token| format!("Bearer {token}").into_bytes()),
            if_match,
            ..Head::default()
        };
        let before = self.states();
        let answer = self.call(&head, body);
        let may_change = token == Some(OPERATOR);
        if !may_change || answer.as_ref().is_some_and(|answer| (400..500).contains(&answer.status)) {
            assert_eq!(self.states(), before, "a call that may not change a state, or was refused, has changed it");
        }
        let is_open = ["/bluegreen/healthz", "/bluegreen/readyz", "/bluegreen/v1/mlflow/webhook"];
        if let Some(answer) = &answer
            && !matches!(token, Some(OPERATOR | "view"))
            && !is_open.iter().any(|open| path.starts_with(open))
        {
            assert!(answer.status >= 400, "{path} is answered {} without a token", answer.status);
        }
    }

    /// The answer to a call; none when it waits for too long.
    pub fn call(&self, head: &Head, body: &[u8]) -> Option<Response> {
        let mut flow: Pin<Box<dyn Future<Output = Response>>> = match self.api.receive(&self.context, head) {
            Ok(call) => {
                let body = if call.takes_body() { body.to_vec() } else { Vec::new() };
                Box::pin(call.answer(Rc::clone(&self.context), Reply::ready(Body::Complete(body))))
            }
            Err(Refusal::AtOnce(refusal)) => return Some(self.checked(refusal)),
            Err(Refusal::Slowly(answer)) => answer,
        };
        for _ in 0..STEPS {
            if let Poll::Ready(response) = poll_once(flow.as_mut()) {
                return Some(self.checked(response));
            }
            if !self.answer_one() {
                self.host.pass(Duration::from_secs(1));
                self.host.wake_sleepers();
            }
        }
        None
    }

    /// Time passes, and a tick comes.
    pub fn tick(&self, span: Duration) {
        self.host.pass(span);
        self.host.tick();
        self.settle();
    }

    /// Answers what the filter has asked, until it asks nothing more.
    fn settle(&self) {
        self.host.tasks.run();
        let mut asked = 0;
        while self.answer_one() {
            asked += 1;
            assert!(asked <= CALLS_PER_EVENT, "one event asks the outside without an end");
            self.host.tasks.run();
        }
        // A call of a flow that is gone waits for nothing.
        self.host.streams.borrow_mut().retain(|(_, stream)| !stream.is_abandoned());
    }

    /// Answers the oldest question of the filter's, if there is one.
    fn answer_one(&self) -> bool {
        let asked = self.host.http.borrow_mut().pop();
        if let Some((_, waiter)) = asked {
            let ok = HttpReply::Answered { status: 200, body: b"{}".to_vec() };
            let reply = self.replies.borrow_mut().pop_front().unwrap_or(ok);
            let _given_up = waiter.send(reply);
            return true;
        }
        let asked = self.host.grpc.borrow_mut().pop();
        let Some((_, waiter)) = asked else { return false };
        let reply = self.etcd_replies.borrow_mut().pop_front();
        let _given_up =
            waiter.send(reply.unwrap_or_else(|| {
                GrpcReply::Failed(GrpcStatus { code: UNAVAILABLE, message: "no answer".to_owned() })
            }));
        true
    }

    /// The states of all deployments, as they are now.
    pub fn states(&self) -> Vec<State> {
        let load = |deployment: &bluegreen_core::deployment::Deployment| {
            let store = self.host.store();
            record::load(store, &deployment.name, deployment.initial, Timestamp::default()).expect("in reach").state
        };
        self.context.deployments.all().iter().map(load).collect()
    }

    fn checked(&self, response: Response) -> Response {
        let Response { status, headers, body } = &response;
        assert!((200..600).contains(status), "status {status}");
        assert!(body.len() <= LONGEST_ANSWER + 16 * self.written, "an answer of {} bytes", body.len());
        let document: serde_json::Value = serde_json::from_slice(body).expect("an answer is JSON");
        assert!(document.is_object(), "{document}");
        for (name, value) in headers {
            assert!(!value.chars().any(char::is_control), "{name}: {value:?}");
        }
        response
    }

    fn check_log(&self) {
        for line in self.host.take_log() {
            assert!(line.len() <= LONGEST_LINE + 4 * self.written, "a line of {} bytes", line.len());
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A flow holds the context, which holds the host, which holds the flow.
        self.host.tasks.clear();
    }
}
