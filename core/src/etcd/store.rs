//! Where the fleet's record is, and the calls that read and change it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use futures_channel::oneshot::Sender;
use prost::Message;

use super::evidence::{EnvoyId, Judgement};
use super::messages::{
    Compare, DeleteRangeRequest, KV, KeyValue, MOD, Operation, PutRequest, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, TxnRequest, TxnResponse, WATCH, WatchCreateRequest, WatchRequest,
};
use super::refusal::NoResponse;
use crate::config::Etcd;
use crate::host::grpc::{GrpcReply, GrpcRequest};
use crate::host::reply::Reply;
use crate::host::{Host, next_tick};
use crate::model::name::{ClusterName, DeploymentName};
use crate::state::State;
use crate::store::record::ModRevision;

/// The record of a fleet.
#[derive(Debug)]
pub struct EtcdStore {
    cluster: ClusterName,
    prefix: Vec<u8>,
    /// How long a call may take.
    pub timeout: Duration,
    queue: Rc<Queue>,
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// Its last write; 0 when it is not there.
    pub mod_revision: ModRevision,
    /// What stands there; `None` where it is no state.
    pub state: Option<State>,
}

/// The writes on this thread that lost to others so often that one goes after the other.
#[derive(Debug, Default)]
struct Queue {
    is_taken: Cell<bool>,
    waiting: RefCell<VecDeque<Sender<QueueTurn>>>,
}

/// A write's turn. The next write has its turn when this is dropped.
#[derive(Debug)]
pub struct QueueTurn(Rc<Queue>);

/// Stands where states have the name of a deployment, in the keys of what is no state: who may use the keys under the
/// prefix may use these, and who follows the states does not hear of them.
const BESIDE: &[u8] = b"~";

/// How many keys are read at once: a state with its whole history has some 15 KB.
const PAGE: i64 = 64;

/// So many Envoys are heard.
const SPEAKERS: i64 = 1_000;

// === impl EtcdStore ===

impl EtcdStore {
    /// Compiles the section.
    pub fn new(etcd: &Etcd) -> Self {
        Self {
            cluster: etcd.cluster.clone(),
            prefix: etcd.prefix.as_str().into(),
            timeout: etcd.timeout,
            queue: Rc::default(),
        }
    }

    /// A number for this record, by which what is kept about it is found.
    pub fn id(&self) -> u64 {
        let seed = xxhash_rust::xxh64::xxh64(self.cluster.as_str().as_bytes(), 0);
        xxhash_rust::xxh64::xxh64(&self.prefix, seed)
    }

    /// A deployment's key.
    pub fn key(&self, name: &DeploymentName) -> Vec<u8> {
        [&self.prefix, name.as_str().as_bytes()].concat()
    }

    /// The deployment whose key this is.
    pub fn name_of<'k>(&self, key: &'k [u8]) -> Option<&'k str> {
        std::str::from_utf8(key.strip_prefix(self.prefix.as_slice())?).ok()
    }

    /// The first key after all states. What is kept beside them begins with [`BESIDE`], which comes after every name.
    pub fn end(&self) -> Vec<u8> {
        [self.prefix.as_slice(), BESIDE].concat()
    }

    /// Reads one key.
    pub fn read(&self, name: &DeploymentName) -> GrpcRequest {
        self.range(&RangeRequest { key: self.key(name), ..RangeRequest::default() })
    }

    /// Reads a page of all keys: from `after` on, excluded, as they were at a revision of the store; 0 for now.
    pub fn list(&self, after: Option<&[u8]>, at: ModRevision) -> GrpcRequest {
        let key = after.map_or_else(|| self.prefix.clone(), |last| [last, b"\0"].concat());
        let revision = i64::try_from(at.0).unwrap_or_default();
        self.range(&RangeRequest { key, range_end: self.end(), limit: PAGE, revision, ..RangeRequest::default() })
    }

    /// Reads a page of the keys that were written after `mod_revision`.
    pub fn list_newer(&self, mod_revision: ModRevision) -> GrpcRequest {
        let min_mod_revision = i64::try_from(mod_revision.0).unwrap_or_default().saturating_add(1);
        let key = self.prefix.clone();
        self.range(&RangeRequest {
            key,
            range_end: self.end(),
            limit: PAGE,
            min_mod_revision,
            ..RangeRequest::default()
        })
    }

    /// Watches all keys for what is written after `mod_revision`.
    pub fn watch(&self, mod_revision: ModRevision) -> GrpcRequest {
        let create = WatchCreateRequest {
            key: self.prefix.clone(),
            range_end: self.end(),
            start_revision: i64::try_from(mod_revision.0).unwrap_or_default().saturating_add(1),
        };
        self.request(WATCH, "Watch", &WatchRequest { create: Some(create) })
    }

    /// Puts a state there if the key's last write is still this one, and else reads it.
    pub fn put_if(&self, name: &DeploymentName, expected: ModRevision, state: &State) -> GrpcRequest {
        let key = self.key(name);
        let mod_revision = i64::try_from(expected.0).ok();
        let put = Operation::Put(PutRequest { key: key.clone(), value: state.encode() });
        let get = Operation::Range(RangeRequest { key: key.clone(), ..RangeRequest::default() });
        let request = TxnRequest {
            compare: vec![Compare { target: MOD, key, mod_revision, ..Compare::default() }],
            success: vec![RequestOp { request: Some(put) }],
            failure: vec![RequestOp { request: Some(get) }],
        };
        self.request(KV, "Txn", &request)
    }

    /// Draws a number for an Envoy: the revision of this write, which is no other's.
    pub fn draw(&self) -> GrpcRequest {
        let put = PutRequest { key: self.beside("drawn"), value: Vec::new() };
        self.request(KV, "Txn", &together([Operation::Put(put)]))
    }

    /// Puts down what an Envoy has to say about a canary, if anything, and reads the last judgement; and what all Envoys say,
    /// if wanted. Their keys are in the second range then.
    pub fn say(&self, name: &DeploymentName, statement: Option<(EnvoyId, Vec<u8>)>, hears_all: bool) -> GrpcRequest {
        let put = statement.map(|(EnvoyId(number), value)| {
            let key = [self.statements(name), format!("{number:016x}").into_bytes()].concat();
            Operation::Put(PutRequest { key, value })
        });
        let judgement = Operation::Range(RangeRequest { key: self.judgement(name), ..RangeRequest::default() });
        let key = self.statements(name);
        let all = RangeRequest { range_end: after_all(&key), key, limit: SPEAKERS, ..RangeRequest::default() };
        let all = hears_all.then_some(Operation::Range(all));
        self.request(KV, "Txn", &together(put.into_iter().chain([judgement]).chain(all)))
    }

    /// Puts a judgement there if this is the last one still. At the end of a canary what was said about it goes.
    pub fn judge(&self, name: &DeploymentName, last: ModRevision, judgement: &Judgement) -> GrpcRequest {
        let key = self.judgement(name);
        let put = Operation::Put(PutRequest { key: key.clone(), value: judgement.encode() });
        let said = self.statements(name);
        let clear = Operation::DeleteRange(DeleteRangeRequest { range_end: after_all(&said), key: said });
        let clear = judgement.analysis.over.then_some(clear);
        let compare = Compare { target: MOD, key, mod_revision: i64::try_from(last.0).ok(), ..Compare::default() };
        let request = TxnRequest { compare: vec![compare], ..together([put].into_iter().chain(clear)) };
        self.request(KV, "Txn", &request)
    }

    /// Puts down what was told about a deployment, if this is the last write about that still, and else reads it.
    pub fn tell(&self, name: &DeploymentName, last: ModRevision, told: Vec<u8>) -> GrpcRequest {
        let key = self.beside(&format!("told/{name}"));
        let put = Operation::Put(PutRequest { key: key.clone(), value: told });
        let get = Operation::Range(RangeRequest { key: key.clone(), ..RangeRequest::default() });
        let mod_revision = i64::try_from(last.0).ok();
        let request = TxnRequest {
            compare: vec![Compare { target: MOD, key, mod_revision, ..Compare::default() }],
            success: vec![RequestOp { request: Some(put) }],
            failure: vec![RequestOp { request: Some(get) }],
        };
        self.request(KV, "Txn", &request)
    }

    fn judgement(&self, name: &DeploymentName) -> Vec<u8> {
        self.beside(&format!("canary/{name}/judgement"))
    }

    fn statements(&self, name: &DeploymentName) -> Vec<u8> {
        self.beside(&format!("canary/{name}/envoy/"))
    }

    fn beside(&self, what: &str) -> Vec<u8> {
        [self.prefix.as_slice(), BESIDE, what.as_bytes()].concat()
    }

    /// Waits for a turn among the writes of this thread that have lost to others again and again.
    ///
    /// The root context polls the flows that wait here: the reply to a call that is made in a stream's event is lost with that stream, and it is
    /// another stream's answer that hands the turn over. A tick is the root context's event.
    pub async fn turn(&self, host: &dyn Host) -> QueueTurn {
        next_tick(host).await;
        if !self.queue.is_taken.replace(true) {
            return QueueTurn(Rc::clone(&self.queue));
        }
        let (sender, turn) = Reply::pending();
        self.queue.waiting.borrow_mut().push_back(sender);
        turn.await
    }

    fn range(&self, request: &RangeRequest) -> GrpcRequest {
        self.request(KV, "Range", request)
    }

    fn request(&self, service: &'static str, method: &'static str, request: &impl Message) -> GrpcRequest {
        let message = request.encode_to_vec();
        GrpcRequest { cluster: self.cluster.clone(), service, method, message, timeout: self.timeout }
    }
}

/// A transaction without a condition.
fn together(operations: impl IntoIterator<Item = Operation>) -> TxnRequest {
    let success = operations.into_iter().map(|operation| RequestOp { request: Some(operation) }).collect();
    TxnRequest { success, ..TxnRequest::default() }
}

/// The first key after all that begin with one that ends with a slash.
fn after_all(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    end.pop();
    end.push(b'0');
    end
}

// === impl KeyState ===

impl KeyState {
    /// What a read of one key found.
    pub fn of(keys: &[KeyValue]) -> Self {
        keys.first().map_or(Self { mod_revision: ModRevision(0), state: None }, |key| Self {
            mod_revision: number(key.mod_revision),
            state: State::decode(&key.value),
        })
    }

    /// What a transaction found whose condition did not hold.
    pub fn of_failed(response: &TxnResponse) -> Self {
        let range: Option<&RangeResponse> = response.responses.first().and_then(|response| response.range.as_ref());
        Self::of(range.map_or(&[], |range| range.kvs.as_slice()))
    }
}

// === impl QueueTurn ===

impl Drop for QueueTurn {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.borrow_mut();
        waiting.retain(|next| !next.is_canceled());
        let next = waiting.pop_front();
        drop(waiting);
        self.0.is_taken.set(next.is_some());
        if let Some(next) = next {
            // A write that is given up before it sees its turn hands it on as this one does.
            let _: Result<(), Self> = next.send(Self(Rc::clone(&self.0)));
        }
    }
}

/// The response, or why there is none.
///
/// # Errors
/// The call failed, or its response is not understood.
pub fn decode<M: Message + Default>(reply: &GrpcReply) -> Result<M, NoResponse> {
    if let GrpcReply::Answered(bytes) = reply
        && let Ok(message) = M::decode(bytes.as_slice())
    {
        return Ok(message);
    }
    Err(NoResponse::of(reply))
}

/// A revision, which is positive.
pub fn number(revision: i64) -> ModRevision {
    ModRevision(u64::try_from(revision).unwrap_or_default())
}

/// The store's revision when a request was carried out.
pub fn revision_of(header: Option<&ResponseHeader>) -> ModRevision {
    header.map_or(ModRevision(0), |header| number(header.revision))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Poll;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use crate::etcd::model::fleet;
    use crate::model::name::DeploymentName;
    use crate::testing::host::{TestHost, poll_once};
    use crate::testing::iris;

    #[test]
    fn a_prefix_covers_its_own_keys_and_no_others() {
        let fleet = fleet();
        assert_eq!((fleet.key(&iris()), fleet.end()), (b"/bluegreen/iris".to_vec(), b"/bluegreen/~".to_vec()));
        let last = DeploymentName::new("z".repeat(63)).expect("valid");
        assert!(fleet.key(&last) < fleet.end(), "names end before what is kept beside the states");
        let cases: [(&[u8], _); 4] = [
            (b"/bluegreen/iris", Some("iris")),
            (b"/bluegreen", None),
            (b"/other/iris", None),
            (b"/bluegreen/\xff", None),
        ];
        for (key, name) in cases {
            assert_eq!(fleet.name_of(key), name);
        }
    }

    #[test]
    fn one_write_after_the_other_has_its_turn_and_one_that_was_given_up_hands_it_on() {
        let (etcd, host) = (fleet(), TestHost::default());
        let mut first = pin!(etcd.turn(&host));
        let mut given_up = Box::pin(etcd.turn(&host));
        let mut given_up_unseen = Box::pin(etcd.turn(&host));
        let mut last = pin!(etcd.turn(&host));
        assert!(poll_once(first.as_mut()).is_pending(), "not before a tick");
        assert!(poll_once(given_up.as_mut()).is_pending());
        assert!(poll_once(given_up_unseen.as_mut()).is_pending());
        assert!(poll_once(last.as_mut()).is_pending());
        host.wake_sleepers();
        let Poll::Ready(turn) = poll_once(first.as_mut()) else { panic!("it is free") };
        assert!(poll_once(given_up.as_mut()).is_pending());
        assert!(poll_once(given_up_unseen.as_mut()).is_pending());
        assert!(poll_once(last.as_mut()).is_pending());
        drop(given_up);
        drop(turn);
        // It has its turn, and was never polled again.
        drop(given_up_unseen);
        let Poll::Ready(turn) = poll_once(last.as_mut()) else { panic!("it was handed on") };
        drop(turn);
        assert!(!etcd.queue.is_taken.get());
    }
}
