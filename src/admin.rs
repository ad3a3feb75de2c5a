//! One admin call: head, then body if there is one, then the answer.

use bluegreen_core::admin::{Api, Call, Head, MAX_BODY, Problem, Response};
use bluegreen_core::matching::RequestHeaders;
use bluegreen_core::time::Timestamp;

use crate::host;
use crate::plugin::Plugin;

/// A request to the admin API.
pub struct AdminCall {
    context_id: u32,
    progress: Progress,
}

/// How far a call has come.
enum Progress {
    /// Its body has not begun, and may be given up.
    Waiting(Call),
    /// Its body has begun.
    Receiving(Call),
    /// It has its answer; a second one would hang the stream.
    Answered,
}

/// Admin calls whose body is still to come.
///
/// A listener without `allow_on_headers_stop_iteration` never hands the body over: such a call would wait for ever. So
/// each gets a time by which the first part of its body must have come.
#[derive(Default)]
pub struct Waiting(Vec<(u32, Timestamp)>);

/// How long a body may take to begin.
const BODY_BEGINS_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

// === impl AdminCall ===

impl AdminCall {
    /// Takes a call whose headers are under way, and answers it if they are all there is or if it is refused.
    pub fn receive(plugin: &Plugin, api: &Api, context_id: u32, path: Vec<u8>, end_of_stream: bool) -> Self {
        let header = |name: &str| host::Request.header(name);
        let head = Head {
            method: header(":method").unwrap_or_default(),
            path,
            authorization: header("authorization"),
            if_match: header("if-match"),
        };
        let progress = match api.receive(&head) {
            Ok(call) if end_of_stream => answer(plugin, call, &[]),
            Ok(call) => {
                plugin.waiting.borrow_mut().add(context_id, Timestamp::from(host::now()).plus(BODY_BEGINS_WITHIN));
                Progress::Waiting(call)
            }
            Err(response) => {
                host::answer(&response);
                Progress::Answered
            }
        };
        Self { context_id, progress }
    }

    /// Takes note of the body, of which `size` bytes are buffered.
    pub fn on_body(&mut self, plugin: &Plugin, size: usize, end_of_stream: bool) {
        self.progress = match self.received(plugin) {
            Some(_) if size > MAX_BODY => {
                host::answer(&Response::problem(&Problem::BodyTooLarge, None));
                Progress::Answered
            }
            Some(call) if end_of_stream => answer(plugin, call, &host::request_body(MAX_BODY)),
            Some(call) => Progress::Receiving(call),
            None => Progress::Answered,
        };
    }

    /// Acts on a call that ended with trailers.
    pub fn on_trailers(&mut self, plugin: &Plugin) {
        if let Some(call) = self.received(plugin) {
            self.progress = answer(plugin, call, &host::request_body(MAX_BODY));
        }
    }

    /// The stream is over, answered or not.
    pub fn end(self, plugin: &Plugin) {
        plugin.waiting.borrow_mut().remove(self.context_id);
    }

    /// The call, now that a part of its body is here; `None` if it has its answer already.
    fn received(&mut self, plugin: &Plugin) -> Option<Call> {
        match std::mem::replace(&mut self.progress, Progress::Answered) {
            Progress::Waiting(call) => plugin.waiting.borrow_mut().remove(self.context_id).then_some(call),
            Progress::Receiving(call) => Some(call),
            Progress::Answered => None,
        }
    }
}

fn answer(plugin: &Plugin, call: Call, body: &[u8]) -> Progress {
    let answer = call.answer(body, &plugin.router, plugin, Timestamp::from(host::now()));
    // First the workers, then the client: whoever has the answer may rely on it.
    if let Some((deployment, applied)) = &answer.written {
        plugin.publish(*deployment, applied);
    }
    host::answer(&answer.response);
    Progress::Answered
}

// === impl Waiting ===

impl Waiting {
    fn add(&mut self, context_id: u32, until: Timestamp) {
        self.0.push((context_id, until));
    }

    /// Whether the call was still waited for.
    fn remove(&mut self, context_id: u32) -> bool {
        let before = self.0.len();
        self.0.retain(|(waiting, _)| *waiting != context_id);
        self.0.len() < before
    }

    /// Answers the calls whose body has not begun in time.
    pub fn give_up(&mut self, now: Timestamp) {
        for (context_id, _) in self.0.extract_if(.., |(_, until)| *until <= now) {
            if host::act_for(context_id) {
                host::answer(&Response::problem(&Problem::BodyMissing, None));
            }
        }
    }
}
