//! Why a sampled request was not compared.

use serde::Serialize;

use crate::json::FromJson;

/// A reason. Each is counted by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, FromJson)]
#[serde(rename_all = "snake_case")]
pub enum Dropped {
    /// No rule of `safe` covers the request's method and path, so that it may not be sent twice.
    NotSafe,
    /// The request's or an answer's body is larger than `max_body`, or consists of so many parts that it takes too much memory.
    TooLarge,
    /// `max_in_flight` requests of this worker thread were being compared.
    Busy,
    /// The candidate did not answer within `timeout`.
    Timeout,
    /// The candidate could not be asked: 502, 503, 504, or a connection that broke.
    Unreachable,
    /// The exchange is a stream: server-sent events, gRPC or an upgrade.
    Streaming,
    /// The active colour's answer has a `content-encoding`, such as gzip.
    Encoding,
    /// The active colour's answer is no JSON.
    NotJson,
    /// The active colour did not answer: it reset the stream, Envoy answered in its place, or the status was a 5xx.
    NotAnswered,
    /// The client left before it had the whole answer.
    ClientGone,
    /// Another version came behind a colour, or traffic was switched, before the comparison was done.
    VersionChanged,
    /// The binary part of an answer of the Open Inference Protocol was not compared. Its JSON part was: such a request
    /// counts as compared too.
    Binary,
    /// The active colour's answer is JSON in which there is nothing to compare: `pointer` leads nowhere, or `ignore` covers
    /// everything.
    UnknownShape,
}

const NAMES: [&str; Dropped::COUNT] = [
    "not_safe",
    "too_large",
    "busy",
    "timeout",
    "unreachable",
    "streaming",
    "encoding",
    "not_json",
    "not_answered",
    "client_gone",
    "version_changed",
    "binary",
    "unknown_shape",
];

// === impl Dropped ===

impl Dropped {
    /// How many reasons there are.
    pub const COUNT: usize = 13;

    /// All reasons, in the order of [`Self::index`].
    pub const ALL: [Self; Self::COUNT] = [
        Self::NotSafe,
        Self::TooLarge,
        Self::Busy,
        Self::Timeout,
        Self::Unreachable,
        Self::Streaming,
        Self::Encoding,
        Self::NotJson,
        Self::NotAnswered,
        Self::ClientGone,
        Self::VersionChanged,
        Self::Binary,
        Self::UnknownShape,
    ];

    /// Its name in the API, in metrics and in records.
    pub fn as_str(self) -> &'static str {
        NAMES.get(self.index()).copied().unwrap_or_default()
    }

    /// The place among all reasons, below [`Self::COUNT`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn each_reason_has_its_own_place_and_name() {
        for (place, reason) in Dropped::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), place);
            assert_eq!(serde_json::to_value(reason).expect("serialises"), reason.as_str());
            assert_eq!(NAMES.iter().filter(|name| **name == reason.as_str()).count(), 1, "{reason:?}");
        }
        assert_eq!((Dropped::ClientGone.as_str(), Dropped::UnknownShape.as_str()), ("client_gone", "unknown_shape"));
    }
}
