//! A fleet of Envoys with one record: each deployment's state is the value of a key in etcd.
//!
//! Every change on any Envoy is a transaction that only happens on the write that it was decided on ([`transaction`]).
//! One filter instance of each Envoy follows the keys ([`follower`]): it reads them, watches what happens to them from
//! there, and puts what comes into the store that the Envoy's workers share. That store also says for how long the last
//! sign of life from etcd counts ([`liveness`]), and a change is over in time whatever etcd does ([`deadline`]). Bytes go out and come in: which call brings them there and back is not
//! known here.

pub mod deadline;
pub mod follower;
pub mod liveness;
mod messages;
pub mod transaction;

#[cfg(any(test, feature = "testing"))]
pub mod model;

use std::time::Duration;

use prost::Message;

pub use self::messages::WATCH;
use self::messages::{Compare, KV, KeyValue, MOD, Operation, PutRequest, RangeRequest, RequestOp, TxnRequest};
use crate::config::Etcd;
use crate::model::name::{ClusterName, DeploymentName};
use crate::state::State;
use crate::store::ModRevision;

/// Where the fleet's record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    cluster: ClusterName,
    prefix: Vec<u8>,
    timeout: Duration,
}

/// A call to etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
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

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The response.
    Answered(Vec<u8>),
    /// None came. Whether the request was carried out is not known.
    Failed(String),
    /// It could not be sent.
    NotSent,
}

/// What a key of the fleet holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its last write; 0 when it is not there.
    pub revision: ModRevision,
    /// What stands there.
    pub state: Option<State>,
}

// === impl Fleet ===

impl Fleet {
    /// Compiles the section.
    pub fn new(etcd: &Etcd) -> Self {
        Self { cluster: etcd.cluster.clone(), prefix: etcd.prefix.as_str().into(), timeout: etcd.timeout }
    }

    /// The Envoy cluster of etcd's members.
    pub const fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// A number for this record, by which what is kept about it is found.
    pub fn id(&self) -> u64 {
        let seed = xxhash_rust::xxh64::xxh64(self.cluster.as_str().as_bytes(), 0);
        xxhash_rust::xxh64::xxh64(&self.prefix, seed)
    }

    fn key(&self, name: &DeploymentName) -> Vec<u8> {
        [&self.prefix, name.as_str().as_bytes()].concat()
    }

    /// The deployment whose key this is.
    fn name_of<'k>(&self, key: &'k [u8]) -> Option<&'k str> {
        std::str::from_utf8(key.strip_prefix(self.prefix.as_slice())?).ok()
    }

    /// The first key after all that begin with the prefix. The prefix ends with a slash, and the byte after that is 0.
    fn end(&self) -> Vec<u8> {
        let mut end = self.prefix.clone();
        end.pop();
        end.push(b'0');
        end
    }

    fn call(&self, method: &'static str, request: &impl Message) -> Call {
        let message = request.encode_to_vec();
        Call { cluster: self.cluster.clone(), service: KV, method, message, timeout: self.timeout }
    }

    fn read(&self, name: &DeploymentName) -> Call {
        self.call("Range", &RangeRequest { key: self.key(name), ..RangeRequest::default() })
    }

    /// Puts a state there if the key's last write is still this one, and else reads it.
    fn put_if(&self, name: &DeploymentName, seen: ModRevision, state: &State) -> Call {
        let key = self.key(name);
        let mod_revision = i64::try_from(seen.0).ok();
        let put = Operation::Put(PutRequest { key: key.clone(), value: state.encode() });
        let get = Operation::Range(RangeRequest { key: key.clone(), ..RangeRequest::default() });
        let request = TxnRequest {
            compare: vec![Compare { target: MOD, key, mod_revision, ..Compare::default() }],
            success: vec![RequestOp { request: Some(put) }],
            failure: vec![RequestOp { request: Some(get) }],
        };
        self.call("Txn", &request)
    }
}

// === impl Reply ===

impl Reply {
    /// The response, or why there is none.
    fn decode<M: Message + Default>(&self) -> Result<M, String> {
        match self {
            Self::Answered(bytes) => M::decode(bytes.as_slice()).map_err(|error| format!("not understood: {error}")),
            Self::Failed(why) => Err(why.clone()),
            Self::NotSent => Err("the call could not be sent: is the cluster in Envoy's configuration?".to_owned()),
        }
    }
}

// === impl Held ===

impl Held {
    fn of(keys: &[KeyValue]) -> Self {
        keys.first().map_or(Self { revision: ModRevision(0), state: None }, |key| Self {
            revision: number(key.mod_revision),
            state: State::decode(&key.value),
        })
    }
}

/// Revisions are positive.
fn number(revision: i64) -> ModRevision {
    ModRevision(u64::try_from(revision).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::iris;

    #[test]
    fn a_prefix_covers_its_own_keys_and_no_others() {
        let fleet = model::fleet();
        assert_eq!((fleet.key(&iris()), fleet.end()), (b"/bluegreen/iris".to_vec(), b"/bluegreen0".to_vec()));
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
}
