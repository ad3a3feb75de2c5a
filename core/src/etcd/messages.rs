//! The part of etcd's gRPC API that is used here, field by field as in `rpc.proto` and `kv.proto` of etcd 3.4
//! (packages `etcdserverpb` and `mvccpb`). Later versions of etcd only add to it.

#![allow(missing_docs, reason = "the fields are etcd's, whose documentation has them")]

use prost::{Enumeration, Message, Oneof};

/// `etcdserverpb.KV`
pub const KV: &str = "etcdserverpb.KV";
/// `etcdserverpb.Watch`
pub const WATCH: &str = "etcdserverpb.Watch";

/// What every response begins with.
#[derive(Clone, PartialEq, Message)]
pub struct ResponseHeader {
    /// The store's revision when the request was carried out.
    #[prost(int64, tag = "3")]
    pub revision: i64,
}

/// One key.
#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    /// The key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The store's revision at the last write of this key.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// The value.
    #[prost(bytes = "vec", tag = "5")]
    pub value: Vec<u8>,
}

/// Reads keys. Linearizable unless asked otherwise: the answer takes a quorum.
#[derive(Clone, PartialEq, Message)]
pub struct RangeRequest {
    /// The first key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The key after the last one; empty for one key alone.
    #[prost(bytes = "vec", tag = "2")]
    pub range_end: Vec<u8>,
    /// The most keys to return.
    #[prost(int64, tag = "3")]
    pub limit: i64,
    /// As of this revision of the store; 0 for now.
    #[prost(int64, tag = "4")]
    pub revision: i64,
    /// Only keys last written at this revision or later.
    #[prost(int64, tag = "10")]
    pub min_mod_revision: i64,
}

/// The keys that were found.
#[derive(Clone, PartialEq, Message)]
pub struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// In the order of the keys.
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
    /// Whether the limit left some off.
    #[prost(bool, tag = "3")]
    pub more: bool,
}

/// Writes a key.
#[derive(Clone, PartialEq, Message)]
pub struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// Removes keys.
#[derive(Clone, PartialEq, Message)]
pub struct DeleteRangeRequest {
    /// The first key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The key after the last one.
    #[prost(bytes = "vec", tag = "2")]
    pub range_end: Vec<u8>,
}

/// A condition of a transaction.
#[derive(Clone, PartialEq, Message)]
pub struct Compare {
    /// How the two are compared: 0 for equal.
    #[prost(int32, tag = "1")]
    pub result: i32,
    /// What is compared: [`MOD`].
    #[prost(int32, tag = "2")]
    pub target: i32,
    #[prost(bytes = "vec", tag = "3")]
    pub key: Vec<u8>,
    /// The other side, a member of a `oneof`, which is why a 0 is sent too.
    #[prost(int64, optional, tag = "6")]
    pub mod_revision: Option<i64>,
}

/// `Compare.CompareTarget`: the revision of the last write. That of a key that is not there is 0.
pub const MOD: i32 = 2;

/// One operation of a transaction.
#[derive(Clone, PartialEq, Message)]
pub struct RequestOp {
    #[prost(oneof = "Operation", tags = "1, 2, 3")]
    pub request: Option<Operation>,
}

/// What an operation does.
#[derive(Clone, PartialEq, Oneof)]
pub enum Operation {
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    #[prost(message, tag = "2")]
    Put(PutRequest),
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRangeRequest),
}

/// One operation's result. Those of puts and deletions say nothing that the transaction's header does not.
#[derive(Clone, PartialEq, Message)]
pub struct ResponseOp {
    #[prost(message, optional, tag = "1")]
    pub range: Option<RangeResponse>,
}

/// Carries `success` out if all of `compare` hold, and else `failure`; either at once and undivided.
#[derive(Clone, PartialEq, Message)]
pub struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<RequestOp>,
    #[prost(message, repeated, tag = "3")]
    pub failure: Vec<RequestOp>,
}

/// What a transaction did.
#[derive(Clone, PartialEq, Message)]
pub struct TxnResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    pub responses: Vec<ResponseOp>,
}

/// Begins a watch on a stream.
#[derive(Clone, PartialEq, Message)]
pub struct WatchRequest {
    /// The member `create_request` of the `oneof`.
    #[prost(message, optional, tag = "1")]
    pub create: Option<WatchCreateRequest>,
}

/// What to watch.
#[derive(Clone, PartialEq, Message)]
pub struct WatchCreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub range_end: Vec<u8>,
    /// The first revision whose writes are of interest.
    #[prost(int64, tag = "3")]
    pub start_revision: i64,
}

/// What happened.
#[derive(Clone, PartialEq, Message)]
pub struct WatchResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The watch has begun.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// The watch has ended.
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// Where it ended because what it would have to begin with is compacted away: the first revision that is not.
    #[prost(int64, tag = "5")]
    pub compact_revision: i64,
    /// Why it ended.
    #[prost(string, tag = "6")]
    pub cancel_reason: String,
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
}

/// One write.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    #[prost(enumeration = "EventType", tag = "1")]
    pub r#type: i32,
    /// The key as it is since; of a deleted one only key and revision.
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum EventType {
    Put = 0,
    Delete = 1,
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn a_comparison_with_an_absent_key_sends_its_zero() {
        let compare = Compare { target: MOD, key: b"k".to_vec(), mod_revision: Some(0), ..Compare::default() };
        assert_eq!(compare.encode_to_vec(), [0x10, 2, 0x1a, 1, b'k', 0x30, 0]);
    }

    #[test]
    fn fields_that_are_not_of_interest_are_passed_over() {
        // A KeyValue with create_revision, version and lease, as etcd sends it.
        let bytes = [0x0a, 1, b'k', 0x10, 5, 0x18, 9, 0x20, 2, 0x2a, 1, b'v', 0x30, 7];
        let expected = KeyValue { key: b"k".to_vec(), mod_revision: 9, value: b"v".to_vec() };
        assert_eq!(KeyValue::decode(&bytes[..]), Ok(expected));
    }
}
