//! One admin call: head, then body if there is one, then whatever it has to ask or to wait for, then the answer.

use bluegreen_core::admin::{Answer, Api, Asking, Call, Committing, Delivery, Head, MAX_BODY, Problem, Response, Step};
use bluegreen_core::etcd;
use bluegreen_core::matching::RequestHeaders;
use bluegreen_core::readiness::outgoing::Reply;
use bluegreen_core::time::Timestamp;

use crate::grpc::{self, GrpcCallId};
use crate::host::{self, CallId};
use crate::plugin::Plugin;
use crate::waiting::Until;

/// A request to the admin API.
pub struct AdminCall {
    context_id: u32,
    progress: Progress,
}

/// How far a call has come.
enum Progress {
    /// Its body is not complete, and may be given up.
    Receiving(Call),
    /// A model server is being asked.
    Asking(CallId, Box<Asking>),
    /// Etcd is being asked.
    Committing(GrpcCallId, Box<Committing>),
    /// It has its answer, or gets it at a tick; a second one would hang the stream.
    Answered,
}

/// How long a body may take to arrive. Envoy's own limit, `request_timeout`, would also cut off a drain.
const BODY_ARRIVES_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

// === impl AdminCall ===

impl AdminCall {
    /// Takes a call whose headers are under way, and acts on it if they are all there is.
    pub fn receive(plugin: &Plugin, api: &Api, context_id: u32, path: Vec<u8>, end_of_stream: bool) -> Self {
        let header = |name: &str| host::Request.header(name);
        let delivery = api.is_webhook(&path).then(|| Delivery::read(&plugin.router, &host::Request));
        let head = Head {
            method: header(":method").unwrap_or_default(),
            path,
            authorization: header("authorization"),
            if_match: header("if-match"),
            delivery,
        };
        let mut this = Self { context_id, progress: Progress::Answered };
        match api.receive(&head) {
            Ok(call) if end_of_stream => this.start(plugin, call, &[]),
            Ok(call) => {
                let until = Timestamp::from(host::now()).plus(BODY_ARRIVES_WITHIN);
                plugin.waiting.borrow_mut().add(context_id, Until::Received(until));
                this.progress = Progress::Receiving(call);
            }
            Err(response) => host::answer(&response),
        }
        this
    }

    /// Takes note of the body, of which `size` bytes are buffered.
    pub fn on_body(&mut self, plugin: &Plugin, size: usize, end_of_stream: bool) {
        if size > MAX_BODY {
            if self.received(plugin).is_some() {
                host::answer(&Response::problem(&Problem::BodyTooLarge, None));
            }
        } else if end_of_stream && let Some(call) = self.received(plugin) {
            self.start(plugin, call, &host::request_body(MAX_BODY));
        }
    }

    /// Acts on a call that ended with trailers.
    pub fn on_trailers(&mut self, plugin: &Plugin) {
        if let Some(call) = self.received(plugin) {
            self.start(plugin, call, &host::request_body(MAX_BODY));
        }
    }

    /// Goes on with what a model server replied.
    pub fn on_reply(&mut self, plugin: &Plugin, call: CallId, reply: &Reply) {
        match std::mem::replace(&mut self.progress, Progress::Answered) {
            Progress::Asking(awaited, asking) if awaited == call => {
                let step = asking.resume(reply, &plugin.router, plugin, Timestamp::from(host::now()));
                self.go_on(plugin, step);
            }
            other => self.progress = other,
        }
    }

    /// Goes on with what etcd replied.
    pub fn on_commit(&mut self, plugin: &Plugin, call: GrpcCallId, reply: &etcd::Reply) {
        match std::mem::replace(&mut self.progress, Progress::Answered) {
            Progress::Committing(awaited, committing) if awaited == call => {
                let step = committing.resume(reply, &plugin.router, plugin, Timestamp::from(host::now()));
                self.go_on(plugin, step);
            }
            other => self.progress = other,
        }
    }

    /// The stream is over, answered or not.
    pub fn end(self, plugin: &Plugin) {
        plugin.waiting.borrow_mut().remove(self.context_id);
    }

    /// The call, if it is still waiting for its body; it is not any more.
    fn received(&mut self, plugin: &Plugin) -> Option<Call> {
        match std::mem::replace(&mut self.progress, Progress::Answered) {
            Progress::Receiving(call) => plugin.waiting.borrow_mut().remove(self.context_id).then_some(call),
            other => {
                self.progress = other;
                None
            }
        }
    }

    fn start(&mut self, plugin: &Plugin, call: Call, body: &[u8]) {
        let step = call.start(body, &plugin.router, plugin, Timestamp::from(host::now()));
        self.go_on(plugin, step);
    }

    fn go_on(&mut self, plugin: &Plugin, mut step: Step) {
        loop {
            step = match step {
                Step::Done(answer) => return carry_out(plugin, &answer),
                Step::Wait(drain) => return plugin.waiting.borrow_mut().add(self.context_id, Until::Drained(drain)),
                Step::Ask(asking) => match host::send(&asking.request) {
                    Ok(call) => {
                        self.progress = Progress::Asking(call, asking);
                        return;
                    }
                    Err(reply) => asking.resume(&reply, &plugin.router, plugin, Timestamp::from(host::now())),
                },
                Step::Commit(committing) => match grpc::call(&committing.call) {
                    Ok(call) => {
                        self.progress = Progress::Committing(call, committing);
                        return;
                    }
                    Err(reply) => committing.resume(&reply, &plugin.router, plugin, Timestamp::from(host::now())),
                },
            };
        }
    }
}

/// First the workers, then the client: whoever has the answer may rely on it.
fn carry_out(plugin: &Plugin, answer: &Answer) {
    if let Some((deployment, applied)) = &answer.written {
        plugin.publish(*deployment, applied);
    }
    host::answer(&answer.response);
}

/// Goes on with the calls that waited for this tick: bodies that are not complete in time, and drains that are done.
pub fn tick(plugin: &Plugin, now: Timestamp) {
    plugin.waiting.borrow_mut().retain(|context_id, until| {
        let answer = match until {
            Until::Received(deadline) => {
                (*deadline <= now).then(|| Answer::only(Response::problem(&Problem::BodyMissing, None)))
            }
            Until::Drained(drain) => drain.poll(&plugin.router, plugin, now),
        };
        if let Some(answer) = &answer
            && host::act_for(context_id)
        {
            carry_out(plugin, answer);
        }
        answer.is_none()
    });
}
