//! Queues through which the worker threads of one Envoy reach each other: proxy-wasm's shared queues.

use serde::Serialize;

use crate::json::FromJson;

/// The queues of an Envoy.
pub trait Queues {
    /// Makes this instance the reader of the queue with this name; `None` where the host has no queues.
    fn register(&self, name: &str) -> Option<QueueToken>;

    /// Puts a message into a queue.
    fn enqueue(&self, queue: QueueToken, message: &[u8]);

    /// Takes the oldest message out of a queue.
    fn dequeue(&self, queue: QueueToken) -> Option<Vec<u8>>;
}

/// The host's number of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, FromJson)]
#[serde(transparent)]
pub struct QueueToken(pub u32);
