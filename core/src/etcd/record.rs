//! What a [`FleetStore`] is asked for, as transactions of etcd.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use super::follower;
use super::messages::{
    Compare, DeleteRangeRequest, KV, KeyValue, MOD, Operation, PutRequest, RangeRequest, RangeResponse, RequestOp,
    TxnRequest, TxnResponse,
};
use super::store::{EtcdStore, decode, number, revision_of};
use crate::fleet::evidence::{EnvoyId, Judgement};
use crate::fleet::following::Following;
use crate::fleet::store::{Answer, Entry, FleetStore, Heard, KeyState, Put, PutReply, Read, Turns};
use crate::host::Host;
use crate::host::grpc::GrpcRequest;
use crate::model::name::DeploymentName;
use crate::setup::SetupProblem;
use crate::state::State;
use crate::store::record::ModRevision;

/// So many Envoys are heard.
const SPEAKERS: i64 = 1_000;

/// How often an Envoy speaks while there is a canary.
const ROUND: Duration = Duration::from_secs(1);

// === impl FleetStore for EtcdStore ===

impl FleetStore for EtcdStore {
    fn id(&self) -> u64 {
        let seed = xxhash_rust::xxh64::xxh64(self.cluster.as_str().as_bytes(), 0);
        xxhash_rust::xxh64::xxh64(&self.prefix, seed)
    }

    fn called(&self) -> &'static str {
        "etcd"
    }

    fn refusal(&self) -> SetupProblem {
        SetupProblem::EtcdRefuses
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn round(&self) -> Duration {
        ROUND
    }

    fn turns(&self) -> &Rc<Turns> {
        &self.turns
    }

    /// It takes a quorum of etcd's members.
    fn read<'a>(&'a self, host: &'a dyn Host, name: &'a DeploymentName, within: Duration) -> Answer<'a, Read> {
        Box::pin(async move {
            let call = GrpcRequest { timeout: within, ..self.get(name) };
            let response: RangeResponse = decode(&host.grpc(&call).await)?;
            Ok(Read { key: key_state(&response.kvs), at: revision_of(response.header.as_ref()) })
        })
    }

    fn put_if<'a>(&'a self, host: &'a dyn Host, put: Put<'a>) -> Answer<'a, PutReply<KeyState>> {
        Box::pin(async move {
            let call = GrpcRequest { timeout: put.within, ..self.swap(put.name, put.expected, put.state) };
            Ok(put_reply(&decode(&host.grpc(&call).await)?, key_state))
        })
    }

    /// The revision of a write, which is no other's.
    fn draw<'a>(&'a self, host: &'a dyn Host) -> Answer<'a, EnvoyId> {
        Box::pin(async move {
            let put = PutRequest { key: self.beside("drawn"), value: Vec::new() };
            let call = self.request(KV, "Txn", &together([Operation::Put(put)]));
            let drawn: TxnResponse = decode(&host.grpc(&call).await)?;
            Ok(EnvoyId(revision_of(drawn.header.as_ref()).0))
        })
    }

    fn say<'a>(
        &'a self,
        host: &'a dyn Host,
        name: &'a DeploymentName,
        statement: Option<(EnvoyId, Vec<u8>)>,
        hears_all: bool,
    ) -> Answer<'a, Heard> {
        let put = statement.map(|(EnvoyId(number), value)| {
            let key = [self.statements(name), format!("{number:016x}").into_bytes()].concat();
            Operation::Put(PutRequest { key, value })
        });
        let judgement = Operation::Range(RangeRequest { key: self.judgement(name), ..RangeRequest::default() });
        let key = self.statements(name);
        let all = RangeRequest { range_end: after_all(&key), key, limit: SPEAKERS, ..RangeRequest::default() };
        let all = hears_all.then_some(Operation::Range(all));
        let call = self.request(KV, "Txn", &together(put.into_iter().chain([judgement]).chain(all)));
        Box::pin(async move {
            let said: TxnResponse = decode(&host.grpc(&call).await)?;
            let mut ranges = said.responses.into_iter().filter_map(|response| response.range);
            let mut next = || ranges.next().map(|range| range.kvs).unwrap_or_default();
            let judgement = next().into_iter().next().map(entry);
            Ok(Heard { judgement, all: next().into_iter().map(entry).collect() })
        })
    }

    fn judge<'a>(
        &'a self,
        host: &'a dyn Host,
        name: &'a DeploymentName,
        last: ModRevision,
        judgement: &'a Judgement,
    ) -> Answer<'a, PutReply<Option<Entry>>> {
        let said = self.statements(name);
        let clear = Operation::DeleteRange(DeleteRangeRequest { range_end: after_all(&said), key: said });
        let clear = judgement.analysis.over.then_some(clear);
        self.swap_beside(host, self.judgement(name), last, judgement.encode(), clear)
    }

    fn tell<'a>(
        &'a self,
        host: &'a dyn Host,
        name: &'a DeploymentName,
        last: ModRevision,
        told: Vec<u8>,
    ) -> Answer<'a, PutReply<Option<Entry>>> {
        self.swap_beside(host, self.beside(&format!("told/{name}")), last, told, None)
    }

    fn follow<'a>(&'a self, following: Following<'a>) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
        Box::pin(follower::follow(self, following))
    }
}

// === impl EtcdStore ===

impl EtcdStore {
    /// Puts a value beside the states if the key's last write is still this one, with what else is done then; else reads it.
    fn swap_beside<'a>(
        &'a self,
        host: &'a dyn Host,
        key: Vec<u8>,
        last: ModRevision,
        value: Vec<u8>,
        besides: Option<Operation>,
    ) -> Answer<'a, PutReply<Option<Entry>>> {
        let put = Operation::Put(PutRequest { key: key.clone(), value });
        let get = Operation::Range(RangeRequest { key: key.clone(), ..RangeRequest::default() });
        let request = TxnRequest {
            compare: vec![Compare { target: MOD, key, mod_revision: i64::try_from(last.0).ok(), ..Compare::default() }],
            success: [put].into_iter().chain(besides).map(|operation| RequestOp { request: Some(operation) }).collect(),
            failure: vec![RequestOp { request: Some(get) }],
        };
        let call = self.request(KV, "Txn", &request);
        Box::pin(async move {
            let found = |kvs: &[KeyValue]| kvs.first().cloned().map(entry);
            Ok(put_reply(&decode(&host.grpc(&call).await)?, found))
        })
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

/// What a read of one key found.
fn key_state(keys: &[KeyValue]) -> KeyState {
    keys.first().map_or(KeyState { mod_revision: ModRevision(0), state: None }, |key| KeyState {
        mod_revision: number(key.mod_revision),
        state: State::decode(&key.value),
    })
}

fn entry(KeyValue { key, mod_revision, value }: KeyValue) -> Entry {
    Entry { key, mod_revision: number(mod_revision), value }
}

/// What became of a transaction with a condition, and what its read has found if that did not hold.
fn put_reply<T>(response: &TxnResponse, found: impl FnOnce(&[KeyValue]) -> T) -> PutReply<T> {
    if response.succeeded {
        return PutReply::Made(revision_of(response.header.as_ref()));
    }
    let range = response.responses.first().and_then(|response| response.range.as_ref());
    PutReply::Lost(found(range.map_or(&[], |range| range.kvs.as_slice())))
}
