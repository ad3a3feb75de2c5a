//! What a flow waits for.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_channel::oneshot::{self, Receiver, Sender};

/// A value that comes once. Without its sender it never comes: such a flow waits until it is dropped.
#[derive(Debug)]
pub struct Reply<T>(Receiver<T>);

// === impl Reply ===

impl<T> Reply<T> {
    /// One that comes when the sender sends it.
    pub fn pending() -> (Sender<T>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(receiver))
    }

    /// One that is there already.
    pub fn ready(value: T) -> Self {
        let (sender, reply) = Self::pending();
        // The receiver is there: nothing can come back.
        let _: Result<(), T> = sender.send(value);
        reply
    }
}

impl<T> Future for Reply<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match Pin::new(&mut self.0).poll(context) {
            Poll::Ready(Ok(value)) => Poll::Ready(value),
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}
