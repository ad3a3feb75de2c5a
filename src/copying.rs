//! The copy of a request whose answer is compared: what the events of its stream bring, handed on while it goes its way.

use std::rc::Rc;
use std::time::Duration;

use bluegreen_core::config::Compare;
use bluegreen_core::deployment::{Deployment, DeploymentIndex};
use bluegreen_core::routing::matching::RequestHeaders;
use bluegreen_core::shadow::copy::{AnswerHead, Copy};
use bluegreen_core::shadow::dropped::Dropped;
use bluegreen_core::workers::comparer::{About, Place};
use bluegreen_core::workers::comparing::{self, Kept};

use crate::host;
use crate::plugin::Plugin;

/// A copy under way.
pub struct Copying {
    deployment: DeploymentIndex,
    copy: Copy,
    about: About,
    place: Place,
}

/// What becomes of a request that was drawn to be copied.
pub enum CopyBy {
    /// Envoy copies it, and nobody looks at the answer.
    Envoy,
    /// The filter does, after the exchange.
    Filter(Box<Copying>),
    /// Nobody does.
    Nobody,
}

// === impl CopyBy ===

impl CopyBy {
    /// Decides by the request's headers, which are still as the client sent them.
    pub fn choose(
        plugin: &Plugin,
        request: &host::Request,
        (index, deployment): (DeploymentIndex, &Deployment),
        rules: &Compare,
    ) -> Self {
        let worker = &plugin.context.worker;
        let about = worker.state(index).and_then(|state| About::now(state, rules));
        let Some((about, comparer)) = about.zip(worker.comparer(index, deployment)) else { return Self::Nobody };
        let text = |name| String::from_utf8(request.header(name).unwrap_or_default()).unwrap_or_default();
        let begun = if !rules.is_safe(&text(":method"), &text(":path")) {
            Err(Dropped::NotSafe)
        } else if comparer.is_sampled(rules) {
            comparer.place(rules).and_then(|place| Ok((place, Copy::begin(host::request_headers(), rules)?)))
        } else {
            return Self::Envoy;
        };
        match begun {
            Ok((place, copy)) => Self::Filter(Box::new(Copying { deployment: index, copy, about, place })),
            Err(reason) => {
                worker.drop_copy(&*plugin.executor, (index, deployment), &about, reason);
                Self::Nobody
            }
        }
    }

    /// The copy, if it is the filter's.
    pub fn by_filter(self) -> Option<Box<Copying>> {
        if let Self::Filter(copy) = self { Some(copy) } else { None }
    }
}

// === impl Copying ===

impl Copying {
    /// A piece of the request's body has come. The copy is let go of when it does not fit.
    pub fn on_request_body(mut self: Box<Self>, plugin: &Plugin, size: usize) -> Option<Box<Self>> {
        let taken = self.copy.on_request_body(size, || host::request_body(size));
        self.unless_dropped(plugin, taken)
    }

    /// The head of the answer is under way.
    pub fn on_answer(mut self: Box<Self>, plugin: &Plugin, is_own: bool, after: Duration) -> Option<Box<Self>> {
        let taken = if is_own { self.copy.on_answer(&answer_head(), after) } else { Err(Dropped::NotAnswered) };
        self.unless_dropped(plugin, taken)
    }

    /// A piece of the answer's body is under way.
    pub fn on_answer_body(mut self: Box<Self>, plugin: &Plugin, size: usize) -> Option<Box<Self>> {
        let taken = self.copy.on_answer_body(size, || host::response_body(size));
        self.unless_dropped(plugin, taken)
    }

    /// The exchange is over, and all of both has come: begins the comparison, which goes on without the stream.
    pub fn finish(self, plugin: &Plugin) {
        let Self { deployment: index, copy, about, place } = self;
        let context = Rc::clone(&plugin.context);
        let Some(deployment) = context.deployments.get(index) else { return };
        let (request, answer) = match copy.finish() {
            Ok(both) => both,
            Err(reason) => {
                context.worker.drop_copy(&*plugin.executor, (index, deployment), &about, reason);
                return;
            }
        };
        let kept = Kept { request, answer, about, place };
        let flow = Rc::clone(&context);
        context.host.spawn(Box::pin(async move {
            let Some(deployment) = flow.deployments.get(index) else { return };
            let Some(rules) = deployment.compare() else { return };
            comparing::compare(&*flow.host, &flow.worker, (index, deployment), rules, kept).await;
        }));
        context.worker.wake(&*plugin.executor);
    }

    /// The exchange ended before all had come.
    pub fn abandon(self: Box<Self>, plugin: &Plugin, reason: Dropped) {
        let dropped: Result<(), Dropped> = Err(reason);
        self.unless_dropped(plugin, dropped);
    }

    fn unless_dropped(self: Box<Self>, plugin: &Plugin, taken: Result<(), Dropped>) -> Option<Box<Self>> {
        let Err(reason) = taken else { return Some(self) };
        if let Some(deployment) = plugin.context.deployments.get(self.deployment) {
            plugin.context.worker.drop_copy(&*plugin.executor, (self.deployment, deployment), &self.about, reason);
        }
        None
    }
}

fn answer_head() -> AnswerHead {
    let status = host::response_status().and_then(|status| std::str::from_utf8(&status).ok()?.parse().ok());
    AnswerHead {
        status: status.unwrap_or_default(),
        content_type: host::response_header("content-type"),
        content_encoding: host::response_header("content-encoding"),
        content_length: host::response_header("content-length"),
        json_length: host::response_header(host::JSON_LENGTH),
    }
}
