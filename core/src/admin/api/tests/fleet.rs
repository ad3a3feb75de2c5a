//! Writes that go through etcd, and what the API says about it.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::etcd::model;
use crate::fleet::liveness;
use crate::host::Host;
use crate::model::author::{Author, Source};
use crate::model::name::Reason;
use crate::state::Command;
use crate::testing::iris;

const KEY: &str = "/bluegreen/iris";

fn fleet_api(sections: &str) -> Fixture {
    Fixture::configured(sections, r#", "etcd": {"cluster": "etcd"}"#)
}

impl Fixture {
    /// What becomes of the next calls to etcd, the first first.
    fn etcd_will(&self, fates: &[Fate]) {
        *self.fates.borrow_mut() = fates.iter().rev().copied().collect();
    }

    fn recorded(&self) -> Option<State> {
        State::decode(&self.etcd.borrow().value(KEY)?)
    }

    /// Another Envoy promotes.
    fn promoted_elsewhere(&self) {
        let before = self.recorded().unwrap_or_else(|| State::initial(Default::default(), START));
        let bob = Author::new(crate::testing::holder("bob"), Source::Admin, Reason::none());
        let after = before.after(&Command::Promote(None), bob, START).expect("allowed").expect("a change");
        self.etcd.borrow_mut().put(KEY, &after.encode());
    }

    /// The state that this Envoy's workers follow.
    fn in_force(&self) -> State {
        record::load(&self.host.store, &iris(), Default::default(), START).expect("in reach").state
    }
}

fn promote() -> String {
    format!("{IRIS}/promote")
}

#[test]
fn a_write_is_in_etcd_and_in_force_before_it_is_answered() {
    let api = fleet_api("");
    let (status, shown) = api.operate("POST", &promote());
    assert_eq!((status, &shown["revision"], &shown["active"]), (200, &1.into(), &"green".into()));
    assert_eq!(api.recorded(), Some(api.in_force()));
    let writes = api.host.writes();
    api.host.take_log();
    assert_eq!(api.operate("POST", &format!("{IRIS}/rollback")).0, 200);
    assert_eq!((api.host.writes(), api.in_force().revision.get()), (writes + 1, 2));
    assert!(api.host.take_log().iter().any(|line| line.contains("revision=2 active=green->blue")));
}

#[test]
fn a_write_is_decided_on_what_the_fleet_has_not_on_what_this_envoy_knows() {
    let api = fleet_api("");
    api.promoted_elsewhere();
    assert_eq!(api.in_force().revision.get(), 0, "the watch has not brought it yet");
    let (status, shown) = api.operate_with("POST", &format!("{IRIS}/rollback"), "", Some("\"1\""));
    assert_eq!((status, &shown["revision"], &shown["active"]), (200, &2.into(), &"blue".into()));
    api.promoted_elsewhere();
    let (status, shown) = api.operate_with("POST", &promote(), "", Some("\"2\""));
    assert_eq!((status, &shown["state"]["revision"]), (412, &3.into()), "{shown}");
    assert_eq!(api.in_force().revision.get(), 3, "what was learnt on the way is in force");
    let (status, shown) = api.operate("PATCH", &format!("{IRIS}?active=green"));
    assert_eq!((status, &shown["revision"]), (200, &3.into()));
}

#[test]
fn wherever_etcd_falls_silent_the_answer_comes_in_time_and_says_whether_the_change_may_have_been_made() {
    let (ok, lost, gone, refu) = (Fate::Answered, Fate::AnswerLost, Fate::RequestLost, Fate::Refused);
    let (denied, full) = (Fate::Denied, Fate::OutOfSpace);
    let (nothing, maybe) =
        ("Nothing was changed, and nothing will be: ", "it may have been made, or may be made later");
    // What becomes of the calls to etcd, the last of it over and over: status, type, what the detail says; the revision
    // that etcd has then, and after how many seconds.
    type Case<'c> = (&'c [Fate], u32, &'c str, [&'c str; 2], u64, u64);
    let cases: [Case<'_>; 13] = [
        (&[refu], 503, "store-unavailable", [nothing, "etcd did not give the state (the call"], 0, 0),
        (&[gone], 503, "store-unavailable", [nothing, "etcd did not give the state (gRPC status 14, lost)"], 0, 4),
        (&[ok, refu], 503, "store-unavailable", [nothing, "the change could not be sent to etcd (the call"], 0, 0),
        (&[ok, gone], 504, "outcome-unknown", [maybe, "Read the state"], 0, 7),
        (&[ok, lost], 504, "outcome-unknown", [maybe, "Read the state"], 1, 7),
        (&[ok, lost, gone], 504, "outcome-unknown", [maybe, "Read the state"], 1, 7),
        (&[gone, gone, gone, ok, gone], 504, "outcome-unknown", [maybe, "Read the state"], 0, 7),
        (
            &[ok, gone, gone, gone, gone, gone, ok],
            503,
            "store-unavailable",
            [
                nothing,
                "did not answer when the change was sent (gRPC status 14, lost), and has confirmed since that it was not made",
            ],
            0,
            5,
        ),
        (
            &[denied],
            503,
            "store-unavailable",
            [nothing, "etcd refused it (gRPC status 7, etcdserver: permission"],
            0,
            0,
        ),
        (&[ok, denied], 503, "store-unavailable", [nothing, "etcd refused it (gRPC status 7, etcdserver: perm"], 0, 0),
        (&[ok, full], 503, "store-unavailable", [nothing, "etcdserver: mvcc: database space exceeded"], 0, 0),
        (&[ok, lost, ok], 200, "", [""; 2], 1, 1),
        (&[gone, gone, gone, ok, gone, ok], 200, "", [""; 2], 1, 4),
    ];
    for (fates, expected, kind, says, revision, seconds) in cases {
        let api = fleet_api("");
        let last = fates.last().copied().expect("a fate");
        api.etcd_will(&[fates, &[last; 20]].concat());
        let (status, body) = api.operate("POST", &promote());
        assert_eq!(status, expected, "{fates:?}: {body}");
        assert!(body["type"].as_str().unwrap_or_default().ends_with(kind), "{fates:?}: {body}");
        let detail = body["detail"].as_str().unwrap_or_default();
        assert!(says.iter().all(|part| detail.contains(part)), "{fates:?}: {detail}");
        assert_eq!(api.recorded().map_or(0, |state| state.revision.get()), revision, "{fates:?}");
        assert_eq!(api.host.now().since(START), Duration::from_secs(seconds), "{fates:?}");
        let in_force = if status == 200 { revision } else { 0 };
        assert_eq!(api.in_force().revision.get(), in_force, "{fates:?}: nothing is changed here either");
    }
}

#[test]
fn what_a_colour_takes_for_its_probe_is_not_taken_from_etcds_time() {
    let (ok, gone) = (Fate::Answered, Fate::RequestLost);
    let healthy = || HttpReply::Answered { status: 200, body: Vec::new() };
    for (fates, expected, seconds) in [(&[ok][..], 200, 15), (&[gone, gone, gone, ok, gone], 503, 3 + 15 + 1)] {
        let api = fleet_api(r#", "probe": {"path": "/ping", "timeout": "20s"}"#);
        api.etcd_will(fates);
        api.will_reply([healthy()]);
        api.replies_take.set(Duration::from_secs(15));
        let (status, body) = api.operate("POST", &promote());
        assert_eq!(status, expected, "{fates:?}: {body}");
        assert_eq!(api.host.now().since(START), Duration::from_secs(seconds), "{fates:?}: {body}");
    }
}

#[test]
fn a_smoke_test_counts_on_every_envoy() {
    let smoke = r#", "smoke_test": {"requests": [{"path": "/"}]}"#;
    let api = fleet_api(smoke);
    api.will_reply([HttpReply::Answered { status: 200, body: Vec::new() }]);
    assert_eq!(api.operate("POST", &format!("{IRIS}/test")).0, 200);
    let other = fleet_api(smoke);
    other.etcd.swap(&api.etcd);
    assert_eq!(other.operate("POST", &promote()).0, 200);
}

#[test]
fn readiness_and_probes_stand_before_a_write_in_a_fleet_too() {
    let api = fleet_api(r#", "probe": {"path": "/ping"}"#);
    api.will_reply([500, 200].map(|status| HttpReply::Answered { status, body: Vec::new() }));
    assert_eq!(api.operate("POST", &promote()).0, 409);
    assert_eq!(api.recorded(), None);
    assert_eq!(api.operate("POST", &promote()).0, 200);
    assert_eq!(api.asked(), ["GET green /ping"; 2]);
}

#[test]
fn reads_go_on_without_etcd_and_say_when_they_may_be_stale() {
    let api = fleet_api("");
    api.etcd_will(&[Fate::RequestLost; 9]);
    assert_eq!(api.operate("GET", IRIS).1["stale"], true, "there was no sign of life yet");
    liveness::note(&api.host.store, &model::fleet(), START);
    assert_eq!(api.operate("GET", IRIS).1["stale"], false);
    api.host.set_now(START.plus(Duration::from_secs(10)));
    let (status, list) = api.operate("GET", "/bluegreen/v1/deployments");
    assert_eq!((status, &list["deployments"][0]["stale"]), (200, &true.into()));
    assert_eq!(Fixture::new().operate("GET", IRIS).1.get("stale"), None, "alone there is nothing to be behind");
}

#[test]
fn an_envoy_is_ready_once_each_state_has_come_from_etcd() {
    let ready = |api: &Fixture| {
        let response = api.call(&head("GET", "/bluegreen/readyz", None), b"");
        (response.status, String::from_utf8(response.body).expect("UTF-8"))
    };
    assert_eq!(ready(&Fixture::new()).0, 200, "alone it needs nobody");
    let api = fleet_api("");
    let (status, body) = ready(&api);
    assert_eq!(status, 503);
    assert!(body.contains("not-ready") && body.contains("iris"), "{body}");
    assert_eq!(api.operate("POST", &promote()).0, 200);
    assert_eq!(ready(&api).0, 200);
    assert_eq!(api.call(&head("POST", "/bluegreen/readyz", None), b"").status, 405);
}
