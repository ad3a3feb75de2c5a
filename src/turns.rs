//! Writes that met a crowd of others: of those that wait in this VM one is under way.
//!
//! The root context makes the calls to etcd for them. The SDK hands a reply to the context in whose event the call was
//! made, and no event of its own tells a stream that the one before it is done.

use bluegreen_core::admin::Answer;
use bluegreen_core::model::time::Timestamp;

use crate::admin;
use crate::awaiting::{self, Awaited, Came, Stop};
use crate::host;
use crate::plugin::Plugin;

/// Those whose turn it is, with the contexts of the streams that get the answers.
#[derive(Default)]
pub struct Turns {
    /// At most one of them waits for etcd, while others ask a colour.
    under_way: Vec<(u32, Awaited)>,
}

// === impl Turns ===

impl Turns {
    /// Begins with those that have come to wait since.
    pub fn tick(&mut self, plugin: &Plugin, now: Timestamp) {
        let mut done = Vec::new();
        self.begin_next(plugin, now, &mut done);
        answer_all(plugin, &done);
    }

    /// Goes on with the write that waited for this reply. Whether one did.
    pub fn on_reply(&mut self, plugin: &Plugin, came: Came<'_>) -> bool {
        let Some(place) = self.under_way.iter().position(|(_, awaited)| awaited.is(came)) else { return false };
        let (context_id, awaited) = self.under_way.swap_remove(place);
        let mut done = Vec::new();
        if let Ok(stop) = awaited.resume(plugin, came) {
            self.note(plugin, context_id, stop, &mut done);
        }
        self.begin_next(plugin, Timestamp::from(host::now()), &mut done);
        answer_all(plugin, &done);
        true
    }

    /// Begins with the next one if none is under way, and ends those for which it has become too late.
    fn begin_next(&mut self, plugin: &Plugin, now: Timestamp, done: &mut Vec<(u32, Box<Answer>)>) {
        loop {
            let is_free = !self.under_way.iter().any(|(_, awaited)| matches!(awaited, Awaited::Etcd(..)));
            let next = plugin.waiting.borrow_mut().take_turn(|write| is_free || write.is_late(now));
            let Some((context_id, write)) = next else { return };
            let stop = awaiting::go_on(plugin, write.take_turn(now));
            self.note(plugin, context_id, stop, done);
        }
    }

    fn note(&mut self, plugin: &Plugin, context_id: u32, mut stop: Stop, done: &mut Vec<(u32, Box<Answer>)>) {
        loop {
            stop = match stop {
                Stop::Done(answer) => return done.push((context_id, answer)),
                Stop::Awaits(awaited) => return self.under_way.push((context_id, awaited)),
                // After a probe it is a new transaction, and its turn all the same.
                Stop::Queues(write) => awaiting::go_on(plugin, write.take_turn(Timestamp::from(host::now()))),
                // A write waits for replies and turns only.
                Stop::Drains(_) => return,
            };
        }
    }
}

/// Last of all: what is called after this counts for the stream that was answered.
fn answer_all(plugin: &Plugin, done: &[(u32, Box<Answer>)]) {
    for (context_id, answer) in done {
        admin::carry_out(plugin, *context_id, answer);
    }
}
