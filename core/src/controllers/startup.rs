//! The first moments of a configuration.

use std::rc::Rc;

use futures_lite::future;

use crate::change::context::Context;
use crate::change::error::ChangeError;
use crate::change::request::ChangeRequest;
use crate::change::submit::submit;
use crate::config::WhenUnhealthy;
use crate::deployment::DeploymentIndex;
use crate::host::next_tick;
use crate::model::author::{Author, Source};
use crate::model::name::Reason;
use crate::model::split::Revision;
use crate::model::time::TICK;
use crate::readiness::probe;
use crate::state::Command;
use crate::store::key::Key;
use crate::store::lease::{FIRST_TICK, FIRST_TICKS, STARTUP_WINDOW};
use crate::store::record::{self, Applied};
use crate::store::update;

/// Has the first tick come at once: what a configuration asks for is tried then. In a fleet ticks come fast until its states
/// have come, for at most [`STARTUP_WINDOW`].
pub async fn hurry(context: &Context) {
    let host = &*context.host;
    host.tick_every(FIRST_TICK);
    next_tick(host).await;
    if context.fleet.is_none() {
        return host.tick_every(TICK);
    }
    host.tick_every(FIRST_TICKS);
    let until = host.moment().plus(STARTUP_WINDOW);
    loop {
        next_tick(host).await;
        if until <= host.moment() || context.is_synced() {
            return host.tick_every(TICK);
        }
    }
}

/// So many deployments are begun with at one tick.
const CHECKS_PER_TICK: usize = 16;

/// [Checks](check_active) all deployments, some at each tick.
pub async fn check_all(context: &Rc<Context>) {
    for index in 0..context.deployments.all().len() {
        if index.checked_rem(CHECKS_PER_TICK) == Some(0) {
            // The first that ticks: Envoy tries each configuration in a VM that it throws away.
            next_tick(&*context.host).await;
        }
        let cx = Rc::clone(context);
        context.host.spawn(Box::pin(async move { check_active(&cx, index).await }));
    }
}

/// Gives the traffic to the other colour where the one that the configuration makes active does not answer its probe. A state
/// that was kept in memory is gone after a restart, and `initial` may name a version that has been stopped since.
///
/// One failed probe is not enough: Envoy may still look the cluster's addresses up.
async fn check_active(context: &Context, index: DeploymentIndex) {
    let (host, Some(deployment)) = (&*context.host, context.deployments.get(index)) else { return };
    let is_asked = deployment.probe.is_some() && deployment.when_unhealthy() == WhenUnhealthy::Other;
    // The word of a fleet's store counts, whatever answers.
    if !is_asked || context.fleet.is_some() {
        return;
    }
    let is_first = update(host.store(), &Key::Started(&deployment.name).to_string(), &mut |before| {
        before.value.is_none_or(|value| value.is_empty()).then(|| b"1".to_vec())
    });
    if is_first != Ok(true) {
        return;
    }
    let until = host.moment().plus(STARTUP_WINDOW);
    let mut failed_before = false;
    while host.moment() <= until {
        let Ok(loaded) = record::load(host.store(), &deployment.name, deployment.initial, host.now()) else { return };
        if loaded.state.revision != Revision::ZERO {
            return;
        }
        let (active, other) = (loaded.state.split.active, loaded.state.split.candidate());
        let ask = |colour| probe::observe(host, deployment, colour, deployment.identity(&loaded.state, colour));
        let (Some(of_active), Some(of_other)) = future::zip(ask(active), ask(other)).await else { return };
        if of_active.healthy {
            return;
        }
        if of_other.healthy && failed_before {
            let reason =
                Reason::of(&format!("{active} does not answer at the start, {other} does: {}", of_active.detail));
            let author = Author::automatic(Source::Failover, reason);
            let request = ChangeRequest::new(index, Command::StartOn(other), author, Some(Revision::ZERO));
            // The one who changed the state meanwhile knows more.
            let _: Result<Applied, ChangeError> = submit(context, &request).await;
            return;
        }
        failed_before = true;
        next_tick(host).await;
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::config::{Config, ConfigPush};
    use crate::controllers::config_push;
    use crate::host::Host;
    use crate::host::http::HttpReply;
    use crate::state::State;
    use crate::testing::host::TestHost;

    const PROBE: &str = r#""probe": {"path": "/ping"}"#;

    /// An Envoy that has just started with these sections of its deployment.
    fn started(sections: &str, in_document: &str) -> (Rc<TestHost>, Rc<Context>) {
        let host = Rc::new(TestHost::default());
        let json = format!(
            r#"{{"deployments": {{"iris": {{"colours": {{
                "blue": {{"cluster": "blue", "version": "1"}}, "green": {{"cluster": "green", "version": "2"}}}},
                {sections}}}}} {in_document}}}"#
        );
        let config = Config::from_bytes(json.as_bytes()).expect("valid");
        let context = Rc::new(Context::new(Rc::<TestHost>::clone(&host), &config, None));
        config_push::load(&context, ConfigPush::default());
        let cx = Rc::clone(&context);
        host.spawn(Box::pin(async move { check_all(&cx).await }));
        host.tasks.run();
        (host, context)
    }

    /// One tick, at which what is asked answers with these; whether anything was.
    fn answers(host: &TestHost, blue: u16, green: u16) -> bool {
        host.pass(TICK);
        host.tick();
        let asked = host.http.take();
        let any = !asked.is_empty();
        for (request, waiter) in asked {
            let status = if request.cluster.as_str() == "blue" { blue } else { green };
            waiter.send(HttpReply::Answered { status, body: Vec::new() }).expect("it waits");
        }
        host.tasks.run();
        any
    }

    fn state(context: &Context) -> State {
        let deployment = &context.deployments.all()[0];
        let loaded = record::load(context.host.store(), &deployment.name, deployment.initial, context.host.now());
        loaded.expect("in reach").state
    }

    #[test]
    fn the_colour_that_answers_gets_the_traffic_of_one_that_fails_twice() {
        let (host, context) = started(PROBE, "");
        assert!(answers(&host, 503, 200));
        assert_eq!(state(&context).revision, Revision::ZERO, "once is not enough");
        assert!(answers(&host, 503, 200));
        let state = state(&context);
        assert_eq!(
            (state.split.active.as_str(), state.rollback_to, state.author.source),
            ("green", None, Source::Failover)
        );
        let reason = state.author.reason.as_str();
        assert!(reason.starts_with("blue does not answer at the start, green does: answered 503"), "{reason}");
        assert!(!answers(&host, 503, 200), "the start is over");
    }

    #[test]
    fn a_required_smoke_test_does_not_keep_traffic_at_a_colour_that_is_gone() {
        let (host, context) = started(&format!(r#"{PROBE}, "smoke_test": {{"requests": [{{"path": "/"}}]}}"#), "");
        answers(&host, 503, 200);
        answers(&host, 503, 200);
        assert_eq!((state(&context).split.active.as_str(), state(&context).author.forced), ("green", false));
    }

    #[test]
    fn the_start_is_over_with_the_first_good_answer_or_after_a_while() {
        let (host, context) = started(PROBE, "");
        assert!(answers(&host, 503, 503) && answers(&host, 200, 503));
        assert!(!answers(&host, 503, 200));
        let (host, _) = started(PROBE, "");
        let ticks = (0..100).take_while(|_| answers(&host, 503, 503)).count();
        assert!((10..=25).contains(&ticks), "{ticks}");
        assert_eq!(state(&context).revision, Revision::ZERO);
    }

    #[test]
    fn whoever_changes_the_state_meanwhile_knows_more() {
        let (host, context) = started(PROBE, "");
        answers(&host, 503, 200);
        let alice = Author::new(crate::testing::holder("alice"), Source::Admin, Reason::none());
        let shadow = crate::state::Patch { shadow_percent: Some(crate::testing::percent("5")), ..Default::default() };
        let request = ChangeRequest::new(0, Command::Patch(shadow), alice, None);
        crate::change::submit::submit_now(&context, &request).expect("allowed");
        assert!(!answers(&host, 503, 200));
        assert_eq!((state(&context).revision.get(), state(&context).split.active.as_str()), (1, "blue"));
    }

    #[test]
    fn a_configuration_that_comes_later_is_no_start() {
        let (host, context) = started(PROBE, "");
        answers(&host, 200, 200);
        let cx = Rc::clone(&context);
        host.spawn(Box::pin(async move { check_all(&cx).await }));
        assert!(!answers(&host, 503, 200));
    }

    #[test]
    fn nobody_is_asked_where_nothing_may_come_of_it() {
        let keep = format!(r#"{PROBE}, "initial": {{"when_unhealthy": "keep"}}"#);
        for (sections, in_document) in
            [(r#""match": {}"#, ""), (&keep, ""), (PROBE, r#", "etcd": {"cluster": "etcd"}"#)]
        {
            let (host, _) = started(sections, in_document);
            assert!(!answers(&host, 503, 200), "{sections} {in_document}");
        }
    }
}
