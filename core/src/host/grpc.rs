//! A gRPC call of the filter's own, and what came back.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::model::name::ClusterName;

/// A gRPC call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcRequest {
    /// Where to.
    pub cluster: ClusterName,
    /// The gRPC service.
    pub service: &'static str,
    /// Its method.
    pub method: &'static str,
    /// The request.
    pub message: Vec<u8>,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// What became of a gRPC call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrpcReply {
    /// The response.
    Answered(Vec<u8>),
    /// None came, but this. Whether the request was carried out is for the status to say.
    Failed(GrpcStatus),
    /// It could not be sent.
    NotSent,
}

/// How a call without a response ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcStatus {
    /// The code of gRPC.
    pub code: u32,
    /// What the other side says about it, if anything.
    pub message: String,
}

/// The messages of a gRPC stream. To drop it is to end the stream.
#[derive(Debug)]
pub struct GrpcStream(Rc<RefCell<Messages>>);

/// The host's end of a [`GrpcStream`]. To drop it is to say that the stream has ended.
#[derive(Debug)]
pub struct GrpcSender(Weak<RefCell<Messages>>);

#[derive(Debug, Default)]
struct Messages {
    queue: VecDeque<Vec<u8>>,
    has_ended: bool,
    reader: Option<Waker>,
}

// === impl GrpcStatus ===

impl fmt::Display for GrpcStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gRPC status {}", self.code)?;
        if self.message.is_empty() { Ok(()) } else { write!(f, ", {}", self.message) }
    }
}

// === impl GrpcStream ===

impl GrpcStream {
    /// A stream that brings what the sender sends.
    pub fn open() -> (GrpcSender, Self) {
        let messages = Rc::default();
        (GrpcSender(Rc::downgrade(&messages)), Self(messages))
    }

    /// One that could not be opened.
    pub fn closed() -> Self {
        Self::open().1
    }

    /// The next message; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        poll_fn(|context| {
            let mut messages = self.0.borrow_mut();
            match messages.queue.pop_front() {
                Some(message) => Poll::Ready(Some(message)),
                None if messages.has_ended => Poll::Ready(None),
                None => {
                    messages.reader = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

// === impl GrpcSender ===

impl GrpcSender {
    /// Hands a message over.
    pub fn send(&self, message: Vec<u8>) {
        self.tell(|messages| messages.queue.push_back(message));
    }

    /// Whether its reader is gone.
    pub fn is_abandoned(&self) -> bool {
        self.0.strong_count() == 0
    }

    fn tell(&self, what: impl FnOnce(&mut Messages)) {
        let Some(messages) = self.0.upgrade() else { return };
        let mut messages = messages.borrow_mut();
        what(&mut messages);
        if let Some(reader) = messages.reader.take() {
            reader.wake();
        }
    }
}

impl Drop for GrpcSender {
    fn drop(&mut self) {
        self.tell(|messages| messages.has_ended = true);
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::host::at_once;

    #[test]
    fn messages_come_in_their_order_and_then_the_end() {
        let (sender, mut stream) = GrpcStream::open();
        sender.send(vec![1]);
        sender.send(vec![2]);
        drop(sender);
        assert_eq!(at_once(stream.next()), Some(vec![1]));
        assert_eq!(at_once(stream.next()), Some(vec![2]));
        assert_eq!(at_once(stream.next()), None);
        assert_eq!(at_once(GrpcStream::closed().next()), None);
    }

    #[test]
    fn a_sender_knows_that_its_stream_was_given_up() {
        let (sender, stream) = GrpcStream::open();
        assert!(!sender.is_abandoned());
        drop(stream);
        assert!(sender.is_abandoned());
        sender.send(vec![1]);
    }
}
