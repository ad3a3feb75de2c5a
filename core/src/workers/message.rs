//! Messages between the workers of one Envoy, over its shared queues.
//!
//! A message wakes the thread of the instance that registered the queue, within a fraction of a millisecond. It says only
//! what to look at: what is true stands in the store, so a message that is lost, late or forged does no harm.

use std::fmt;

use crate::host::queue::QueueToken;

/// What one worker tells another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'m> {
    /// Something was written.
    Changed {
        /// How many writes the workers have been told of, with this one.
        write: u64,
        /// The deployment's name.
        about: &'m str,
    },
    /// Take over what stands in the store about this deployment, or about all where it is empty, report what you have
    /// counted, and confirm.
    Asked {
        /// The queue of the one who asks.
        reply_to: QueueToken,
        /// The number of the question there.
        ticket: u64,
        /// The deployment's name.
        about: &'m str,
    },
    /// This member has done so.
    Confirmed {
        /// The number of the question.
        ticket: u64,
        /// The member's.
        number: u64,
    },
}

// === impl Message ===

impl<'m> Message<'m> {
    /// Reads a message; `None` when it is none of ours: meshes give all plugins the same queues.
    pub fn parse(bytes: &'m [u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(bytes).ok()?.splitn(4, ' ');
        Some(match words.next()? {
            "changed" => Self::Changed { write: words.next()?.parse().ok()?, about: words.next()? },
            "asked" => Self::Asked {
                reply_to: QueueToken(words.next()?.parse().ok()?),
                ticket: words.next()?.parse().ok()?,
                about: words.next()?,
            },
            "confirmed" => Self::Confirmed { ticket: words.next()?.parse().ok()?, number: words.next()?.parse().ok()? },
            _ => return None,
        })
    }
}

impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { write, about } => write!(f, "changed {write} {about}"),
            Self::Asked { reply_to: QueueToken(queue), ticket, about } => write!(f, "asked {queue} {ticket} {about}"),
            Self::Confirmed { ticket, number } => write!(f, "confirmed {ticket} {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        for message in [
            Message::Changed { write: u64::MAX, about: "iris" },
            Message::Asked { reply_to: QueueToken(7), ticket: u64::MAX, about: "iris" },
            Message::Asked { reply_to: QueueToken(7), ticket: 0, about: "" },
            Message::Confirmed { ticket: 3, number: 1 },
        ] {
            assert_eq!(Message::parse(message.to_string().as_bytes()), Some(message));
        }
    }

    #[test]
    fn what_another_plugin_puts_into_the_queue_is_no_message() {
        for bytes in [&b""[..], b"\xff", b"asked", b"asked 1", b"asked 1 x iris", b"confirmed 1 -1", b"hello world"] {
            assert_eq!(Message::parse(bytes), None, "{bytes:?}");
        }
    }
}
