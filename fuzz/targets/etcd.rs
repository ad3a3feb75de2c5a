//! What etcd says, and what stands there. Whatever it said before: once it says the truth, the filter follows.

#![no_main]

use std::cell::RefCell;
use std::sync::LazyLock;
use std::time::Duration;

use bluegreen_core::config::Config;
use bluegreen_core::etcd::messages::{
    Event, KeyValue, RangeRequest, RangeResponse, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest,
    WatchResponse,
};
use bluegreen_core::etcd::model::{Fate, Model};
use bluegreen_core::model::split::Revision;
use bluegreen_core::state::State;
use bluegreen_core::testing::host::START;
use bluegreen_core::testing::split;
use bluegreen_fuzz::script::sections;
use bluegreen_fuzz::work::bounded;
use bluegreen_fuzz::world::{World, configuration};
use libfuzzer_sys::fuzz_target;
use prost::Message;

static CONFIG: LazyLock<Config> =
    LazyLock::new(|| configuration(r#", "probe": {"path": "/ping"}"#, r#", "etcd": {"cluster": "etcd"}"#));

fuzz_target!(|input: &[u8]| {
    for section in sections(input) {
        messages(section.rest);
    }
    bounded(input, 64 << 20, 64 << 10, || {
        let mut world = World::new(&CONFIG);
        world.tick(Duration::from_millis(250));
        sections(input).iter().for_each(|section| world.act(section));
        world.host.set_now(START);
        follow_the_truth(&world);
    });
});

/// An etcd that works, with a state of the fleet's in it.
fn follow_the_truth(world: &World) {
    let etcd = RefCell::new(Model::default());
    let mut truth = State::initial(split("green", "12.5", "0"), START);
    truth.revision = Revision::new(7);
    etcd.borrow_mut().put("/bluegreen/iris", &truth.encode());
    // Its streams are those that the filter opens from now on.
    world.host.streams.borrow_mut().clear();
    let mut said = 0;
    let mut watch: Option<WatchCreateRequest> = None;
    for _ in 0..200 {
        world.host.pass(Duration::from_millis(250));
        world.host.wake_sleepers();
        world.host.tasks.run();
        loop {
            let asked = world.host.grpc.borrow_mut().pop();
            if let Some((request, waiter)) = asked {
                let _given_up = waiter.send(etcd.borrow_mut().call(&request, Fate::Answered));
            } else if let Some((_, waiter)) = world.host.http.borrow_mut().pop() {
                drop(waiter);
            } else {
                break;
            }
            world.host.tasks.run();
        }
        let streams = world.host.streams.borrow();
        if streams.len() > said {
            said = streams.len();
            if let Some((request, stream)) = streams.last() {
                let (messages, create) = etcd.borrow().watch(&request.message);
                messages.into_iter().for_each(|message| stream.send(message));
                watch = Some(create);
            }
        }
        drop(streams);
        if world.states()[0].split == truth.split && watch.is_some() {
            return;
        }
    }
    panic!("etcd says {:?}, and {:?} is followed", truth.split, world.states()[0]);
}

/// What can be read is read as the same once it was written again.
fn messages(bytes: &[u8]) {
    same::<RangeResponse>(bytes);
    same::<TxnResponse>(bytes);
    same::<WatchResponse>(bytes);
    same::<Event>(bytes);
    same::<KeyValue>(bytes);
    same::<RangeRequest>(bytes);
    same::<TxnRequest>(bytes);
    same::<WatchRequest>(bytes);
}

fn same<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(read) = M::decode(bytes) else { return };
    assert_eq!(M::decode(read.encode_to_vec().as_slice()).as_ref(), Ok(&read));
}
