//! One admin call: head, then body if there is one, then whatever it has to ask or to wait for, then the answer.

use bluegreen_core::admin::{Answer, Api, Call, Delivery, Head, MAX_BODY, Problem, Response};
use bluegreen_core::model::time::Timestamp;
use bluegreen_core::routing::matching::RequestHeaders;

use crate::awaiting::{self, Awaited, Came, Stop};
use crate::host;
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
    /// A model server or etcd is being asked.
    Awaiting(Awaited),
    /// It has its answer, or gets it from the root context; a second one would hang the stream.
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

    /// Goes on with the reply that was waited for.
    pub fn on_reply(&mut self, plugin: &Plugin, came: Came<'_>) {
        match std::mem::replace(&mut self.progress, Progress::Answered) {
            Progress::Awaiting(awaited) => match awaited.resume(plugin, came) {
                Ok(stop) => self.note(plugin, stop),
                Err(awaited) => self.progress = Progress::Awaiting(awaited),
            },
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
        self.note(plugin, awaiting::go_on(plugin, step));
    }

    fn note(&mut self, plugin: &Plugin, stop: Stop) {
        let wait = |until| plugin.waiting.borrow_mut().add(self.context_id, until);
        match stop {
            Stop::Done(answer) => {
                publish(plugin, &answer);
                host::answer(&answer.response);
            }
            Stop::Awaits(awaited) => self.progress = Progress::Awaiting(awaited),
            Stop::Drains(drain) => wait(Until::Drained(drain)),
            Stop::Queues(write) => wait(Until::ItsTurn(write)),
        }
    }
}

/// First the workers, then the client: whoever has the answer may rely on it.
fn publish(plugin: &Plugin, answer: &Answer) {
    if let Some((deployment, applied)) = &answer.written {
        plugin.publish(*deployment, applied);
    }
}

/// Answers a call from the root context. What the host is asked after this counts for the call's stream.
pub fn carry_out(plugin: &Plugin, context_id: u32, answer: &Answer) {
    publish(plugin, answer);
    if host::act_for(context_id) {
        host::answer(&answer.response);
    }
}

/// Goes on with the calls that waited for this tick: bodies that are not complete in time, and drains that are done.
pub fn tick(plugin: &Plugin, now: Timestamp) {
    plugin.waiting.borrow_mut().retain(|context_id, until| {
        let answer = match until {
            Until::Received(deadline) => {
                (*deadline <= now).then(|| Answer::only(Response::problem(&Problem::BodyMissing, None)))
            }
            Until::Drained(drain) => drain.poll(&plugin.router, plugin, now),
            Until::ItsTurn(_) => None,
        };
        if let Some(answer) = &answer {
            carry_out(plugin, context_id, answer);
        }
        answer.is_none()
    });
}
