//! etcd in memory, for tests: keys with their writes, transactions, watches, compaction; and answers that get lost.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "only tests have it"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message;

use super::messages::{
    Event, EventType, KeyValue, Operation, RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp,
    TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse,
};
use super::store::EtcdStore;
use crate::config::Etcd;
pub use crate::fleet::model::Fate;
use crate::fleet::model::FleetModel;
use crate::fleet::store::FleetStore;
use crate::host::grpc::{GrpcReply, GrpcRequest, GrpcStatus};
use crate::json;
use crate::state::State;
use crate::testing::host::TestHost;

/// The store.
#[derive(Default)]
pub struct Model {
    revision: i64,
    compacted: i64,
    keys: BTreeMap<Vec<u8>, KeyValue>,
    log: Vec<Event>,
}

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

/// The fleet of the tests.
pub fn fleet() -> EtcdStore {
    let etcd: Etcd = json::from_str(r#"{"cluster": "etcd"}"#).expect("valid");
    assert_eq!(etcd.timeout, Duration::from_secs(1));
    EtcdStore::new(&etcd)
}

// === impl Model ===

impl Model {
    /// Carries out a call of this service.
    pub fn call(&mut self, call: &GrpcRequest, fate: Fate) -> GrpcReply {
        let failed = |code, message: &str| GrpcReply::Failed(GrpcStatus { code, message: message.to_owned() });
        let lost = || failed(14, "lost");
        let is_put = call.method == "Txn";
        match fate {
            Fate::Refused => GrpcReply::NotSent,
            Fate::RequestLost => lost(),
            Fate::Answered => self.carry_out(call),
            Fate::AnswerLost => {
                self.carry_out(call);
                lost()
            }
            Fate::Denied => failed(7, "etcdserver: permission denied"),
            Fate::NotNow => failed(9, "etcdserver: rpc not supported for learner"),
            Fate::OutOfSpace if is_put => failed(8, NO_SPACE),
            Fate::LastSpaceUsed if is_put => {
                self.carry_out(call);
                failed(8, NO_SPACE)
            }
            // Reads need none.
            Fate::OutOfSpace | Fate::LastSpaceUsed => self.carry_out(call),
        }
    }

    fn carry_out(&mut self, call: &GrpcRequest) -> GrpcReply {
        match call.method {
            "Range" => {
                let request = RangeRequest::decode(call.message.as_slice()).expect("a range");
                if request.revision > 0 && request.revision <= self.compacted {
                    let message = "etcdserver: mvcc: required revision has been compacted".to_owned();
                    return GrpcReply::Failed(GrpcStatus { code: 11, message });
                }
                GrpcReply::Answered(self.range(&request).encode_to_vec())
            }
            "Txn" => {
                let request = TxnRequest::decode(call.message.as_slice()).expect("a transaction");
                GrpcReply::Answered(self.transaction(&request).encode_to_vec())
            }
            other => panic!("no method {other}"),
        }
    }

    fn range(&self, request: &RangeRequest) -> RangeResponse {
        let end =
            if request.range_end.is_empty() { [&request.key[..], b"\0"].concat() } else { request.range_end.clone() };
        let all = self.keys.range(request.key.clone()..end).map(|(_, key)| key);
        let mut kvs: Vec<_> = all.filter(|key| key.mod_revision >= request.min_mod_revision).cloned().collect();
        let limit = usize::try_from(request.limit).expect("positive");
        let more = limit > 0 && kvs.len() > limit;
        if more {
            kvs.truncate(limit);
        }
        RangeResponse { header: self.header(), kvs, more }
    }

    fn transaction(&mut self, request: &TxnRequest) -> TxnResponse {
        let holds = request.compare.iter().all(|compare| {
            let last = self.keys.get(&compare.key).map_or(0, |key| key.mod_revision);
            Some(last) == compare.mod_revision
        });
        let mut responses = Vec::new();
        for RequestOp { request } in if holds { &request.success } else { &request.failure } {
            match request {
                Some(Operation::Put(put)) => {
                    self.write(&put.key, &put.value);
                    responses.push(ResponseOp::default());
                }
                Some(Operation::Range(range)) => responses.push(ResponseOp { range: Some(self.range(range)) }),
                Some(Operation::DeleteRange(deleted)) => {
                    let keys = self.keys.range(deleted.key.clone()..deleted.range_end.clone());
                    let keys: Vec<String> = keys.map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect();
                    keys.iter().for_each(|key| self.delete(key));
                    responses.push(ResponseOp::default());
                }
                None => {}
            }
        }
        TxnResponse { header: self.header(), succeeded: holds, responses }
    }

    fn write(&mut self, key: &[u8], value: &[u8]) {
        self.revision += 1;
        let kv = KeyValue { key: key.to_vec(), mod_revision: self.revision, value: value.to_vec() };
        self.keys.insert(key.to_vec(), kv.clone());
        self.log.push(Event { r#type: EventType::Put.into(), kv: Some(kv) });
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader { revision: self.revision })
    }

    /// Puts any value there.
    pub fn put(&mut self, key: &str, value: &[u8]) {
        self.write(key.as_bytes(), value);
    }

    /// Removes a key.
    pub fn delete(&mut self, key: &str) {
        self.revision += 1;
        self.keys.remove(key.as_bytes());
        let kv = KeyValue { key: key.into(), mod_revision: self.revision, value: Vec::new() };
        self.log.push(Event { r#type: EventType::Delete.into(), kv: Some(kv) });
    }

    /// What stands under a key.
    pub fn value(&self, key: &str) -> Option<Vec<u8>> {
        self.keys.get(key.as_bytes()).map(|key| key.value.clone())
    }

    /// A key's last write; 0 where it is not there.
    pub fn mod_revision(&self, key: &str) -> i64 {
        self.keys.get(key.as_bytes()).map_or(0, |key| key.mod_revision)
    }

    /// The keys that begin like this.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let keys = self.keys.keys().map(|key| String::from_utf8_lossy(key).into_owned());
        keys.filter(|key| key.starts_with(prefix)).collect()
    }

    /// Forgets what happened up to now.
    pub fn compact(&mut self) {
        self.compacted = self.revision;
    }

    /// What a watch that sends this says at once, and the request by which it goes on.
    pub fn watch(&self, message: &[u8]) -> (Vec<Vec<u8>>, WatchCreateRequest) {
        let create = WatchRequest::decode(message).expect("a request").create.expect("a creation");
        let mut said = vec![WatchResponse { header: self.header(), created: true, ..WatchResponse::default() }];
        if create.start_revision <= self.compacted {
            let compact_revision = self.compacted;
            said.push(WatchResponse { canceled: true, compact_revision, ..WatchResponse::default() });
        } else {
            said.extend(self.since(&create));
        }
        (said.iter().map(Message::encode_to_vec).collect(), create)
    }

    fn since(&self, create: &WatchCreateRequest) -> Option<WatchResponse> {
        let of_interest = |event: &&Event| {
            event.kv.as_ref().is_some_and(|kv| {
                kv.mod_revision >= create.start_revision && kv.key >= create.key && kv.key < create.range_end
            })
        };
        let events: Vec<_> = self.log.iter().filter(of_interest).cloned().collect();
        (!events.is_empty()).then(|| WatchResponse { header: self.header(), events, ..WatchResponse::default() })
    }

    /// What a watch says about everything since it began.
    pub fn events(&self, create: &WatchCreateRequest) -> Vec<u8> {
        self.since(create).unwrap_or_default().encode_to_vec()
    }
}

// === impl FleetModel for Model ===

const KEY: &str = "/bluegreen/iris";

impl FleetModel for Model {
    type Call = GrpcRequest;

    const WRITERS: u64 = 200;
    const READS_AFTER_LOSS: bool = false;

    fn store() -> Box<dyn FleetStore> {
        Box::new(fleet())
    }

    fn next(host: &TestHost) -> Option<GrpcRequest> {
        host.grpc.borrow().first().map(|(call, _)| call.clone())
    }

    fn timeout(call: &GrpcRequest) -> Duration {
        call.timeout
    }

    fn is_put(call: &GrpcRequest) -> bool {
        call.method == "Txn"
    }

    fn arrive(&mut self, call: &GrpcRequest) {
        self.carry_out(call);
    }

    fn answer(&mut self, host: &TestHost, fate: Fate, after: Duration) {
        let (call, waiter) = host.grpc.borrow_mut().remove(0);
        let reply = self.call(&call, fate);
        host.pass(after);
        waiter.send(reply).expect("it waits");
    }

    fn state(&self) -> Option<State> {
        State::decode(&self.value(KEY)?)
    }

    fn put_foreign(&mut self) {
        self.put(KEY, b"not ours");
    }

    fn words(fate: Fate) -> &'static str {
        match fate {
            Fate::Denied => "gRPC status 7, etcdserver: permission denied",
            Fate::NotNow => "gRPC status 9, etcdserver: rpc not supported for learner",
            Fate::OutOfSpace => "gRPC status 8, etcdserver: mvcc: database space exceeded",
            _ => "gRPC status 14, lost",
        }
    }
}
