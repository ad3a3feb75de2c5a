//! What still needs a colour: the answer to "may I stop blue now?".

use std::fmt;

use crate::config::Bake;
use crate::deployment::{DeploymentIndex, Deployments};
use crate::host::Host;
use crate::metrics::counters::ColourMetric;
use crate::model::colour::Colour;
use crate::model::identity::Identity;
use crate::model::name::DeploymentName;
use crate::model::percent::Percent;
use crate::model::time::Timestamp;
use crate::state::State;
use crate::store::record;
use crate::workers::report;
use crate::workers::worker::{Confirmation, Worker};

/// One thing that needs a colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrainBlocker {
    /// Ordinary traffic goes to it.
    Active,
    /// It gets a share of the traffic.
    Canary(Percent),
    /// It keeps a share of the traffic until then, for the guard.
    Kept(Percent, Timestamp),
    /// It gets copies.
    Shadow(Percent),
    /// Workers that have not said that they follow the state, nor what is under way there.
    Silent(Vec<u64>),
    /// Requests are under way.
    InFlight(u64),
    /// It is the way back until then.
    Baking(Timestamp),
    /// Requests for the other colour, this one, are answered by another cluster, which may be its.
    ServesElsewhere(Colour),
    /// Another deployment has the same cluster, and needs it.
    UsedBy(DeploymentName, Colour, Box<DrainBlocker>),
}

/// Everything that needs `colour`; nothing: it is safe to stop. `strays` is whether requests for the other colour are known to
/// be answered elsewhere.
pub fn drain_blockers(
    state: &State,
    colour: Colour,
    in_flight: u64,
    bake: Option<Bake>,
    confirmation: &Confirmation,
    strays: bool,
    now: Timestamp,
) -> Vec<DrainBlocker> {
    let split = state.split;
    let is_active = split.active == colour;
    let baking = baking_until(state, colour, bake).filter(|until| *until > now);
    [
        is_active.then_some(DrainBlocker::Active),
        (!is_active && split.canary_percent > Percent::ZERO).then_some(match state.kept {
            Some(kept) => DrainBlocker::Kept(split.canary_percent, kept.until),
            None => DrainBlocker::Canary(split.canary_percent),
        }),
        (!is_active && split.shadow_percent > Percent::ZERO).then_some(DrainBlocker::Shadow(split.shadow_percent)),
        (in_flight > 0).then_some(DrainBlocker::InFlight(in_flight)),
        (!confirmation.silent.is_empty()).then(|| DrainBlocker::Silent(confirmation.silent.clone())),
        baking.map(DrainBlocker::Baking),
        (!is_active && strays).then_some(DrainBlocker::ServesElsewhere(colour.other())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What other deployments need the cluster of a colour for; nothing while the store is out of reach. Who asks only whether
/// there is something looks no further than to the first.
pub fn blockers_elsewhere<'d>(
    host: &'d dyn Host,
    worker: &'d Worker,
    deployments: &'d Deployments,
    index: DeploymentIndex,
    colour: Colour,
) -> impl Iterator<Item = DrainBlocker> + 'd {
    let (store, now) = (host.store(), host.now());
    let own = worker.state(index).map(|state| state.with_identity(colour, Identity::clone));
    let is_shared = move |other: DeploymentIndex, of: Colour| {
        let state = worker.state(other).zip(own.as_ref()).filter(|_| other != index);
        state.is_some_and(|(state, own)| state.with_identity(of, |served| may_be_the_same(served, own)))
    };
    let users = deployments.all().iter().enumerate().flat_map(move |(other, deployment)| {
        let shared = Colour::ALL.map(|of| is_shared(other, of).then_some((deployment, of)));
        shared.into_iter().flatten()
    });
    users.flat_map(move |(deployment, of)| {
        let loaded = record::load(store, &deployment.name, deployment.initial, now).ok();
        let needs = loaded.map(|loaded| {
            let in_flight = report::totals(store, &deployment.name).get(of).get(ColourMetric::InFlight);
            let (bake, asked) = (deployment.bake, Confirmation::default());
            drain_blockers(&loaded.state, of, in_flight, bake, &asked, false, now)
        });
        let used_by = move |blocker| DrainBlocker::UsedBy(deployment.name.clone(), of, Box::new(blocker));
        needs.unwrap_or_default().into_iter().map(used_by)
    })
}

/// Whether both may be one model server. Behind a gateway that routes by host each authority is another one.
fn may_be_the_same(one: &Identity, other: &Identity) -> bool {
    let is_elsewhere = one.authority.is_some() && other.authority.is_some() && one.authority != other.authority;
    one.cluster == other.cluster && !is_elsewhere
}

/// Until when `colour` is held as the way back.
pub fn baking_until(state: &State, colour: Colour, bake: Option<Bake>) -> Option<Timestamp> {
    // Nothing has to be held that no rollback leads to any more.
    let is_held = state.rollback_to == Some(colour) && !state.is_way_back_replaced();
    let switched_at = state.switched_at.filter(|_| is_held)?;
    Some(switched_at.plus(bake?.r#for))
}

// === impl DrainBlocker ===

impl DrainBlocker {
    /// Whether it ends before `deadline` without anyone's help: then a drain waits for it.
    pub fn ends_before(&self, deadline: Timestamp) -> bool {
        match self {
            DrainBlocker::Active
            | DrainBlocker::Canary(_)
            | DrainBlocker::Shadow(_)
            | DrainBlocker::ServesElsewhere(_) => false,
            DrainBlocker::InFlight(_) | DrainBlocker::Silent(_) => true,
            DrainBlocker::Baking(until) | DrainBlocker::Kept(_, until) => *until <= deadline,
            DrainBlocker::UsedBy(_, _, blocker) => blocker.ends_before(deadline),
        }
    }
}

impl fmt::Display for DrainBlocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DrainBlocker::Active => f.write_str("it is the active colour"),
            DrainBlocker::Canary(share) => write!(f, "it gets {share} % of the traffic"),
            DrainBlocker::Kept(share, until) => write!(
                f,
                "it keeps {share} % of the traffic until {until}, for the guard to compare with: PATCH canary_percent=0 ends that"
            ),
            DrainBlocker::Shadow(share) => write!(f, "it gets copies of {share} % of the traffic"),
            DrainBlocker::Silent(workers) => {
                let ids: Vec<String> = workers.iter().map(u64::to_string).collect();
                write!(f, "not known of worker {}, which does not answer", ids.join(", "))
            }
            DrainBlocker::InFlight(1) => f.write_str("1 request is in flight"),
            DrainBlocker::InFlight(count) => write!(f, "{count} requests are in flight"),
            DrainBlocker::Baking(until) => write!(f, "it is kept as the way back until {until}"),
            DrainBlocker::ServesElsewhere(other) => {
                write!(
                    f,
                    "requests for {other} are answered by another cluster, perhaps by this one: setup says by which"
                )
            }
            DrainBlocker::UsedBy(deployment, colour, blocker) => {
                write!(f, "deployment {deployment} has the same cluster as its {colour}: there {blocker}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use crate::store::lease::Instance;
    use std::time::Duration;

    use super::*;
    use crate::config::Config;
    use crate::model::author::{Author, Source};
    use crate::model::name::{ClusterName, HostName, Reason};
    use crate::state::Command;
    use crate::state::kept::Kept;
    use crate::testing::host::TestHost;
    use crate::testing::{identity, percent, split};

    const SWITCH: Timestamp = Timestamp::from_millis(10_000_000);

    fn promoted() -> State {
        let author = Author::new(crate::testing::holder("alice"), Source::Admin, Reason::none());
        let before = State::initial(split("blue", "0", "0"), Timestamp::default());
        before.after(&Command::Promote(None), author, SWITCH).expect("allowed").expect("a change")
    }

    #[test]
    fn each_thing_that_needs_a_colour_holds_it() {
        let minute = Duration::from_secs(60);
        let bake = Some(Bake { r#for: minute });
        let later = SWITCH.plus(Duration::from_secs(1));
        let canary = State { split: split("green", "5", "1"), ..promoted() };
        let kept = State { split: split("green", "2", "0"), kept: Some(Kept { until: later }), ..promoted() };
        let cases = [
            (promoted(), Colour::Green, 0, None, later, vec![DrainBlocker::Active]),
            (promoted(), Colour::Blue, 0, None, SWITCH, vec![]),
            (promoted(), Colour::Blue, 3, None, later, vec![DrainBlocker::InFlight(3)]),
            (promoted(), Colour::Blue, 0, bake, later, vec![DrainBlocker::Baking(SWITCH.plus(minute))]),
            (promoted(), Colour::Blue, 0, bake, SWITCH.plus(minute), vec![]),
            (promoted(), Colour::Blue, 0, None, later, vec![]),
            (
                canary,
                Colour::Blue,
                0,
                None,
                later,
                vec![DrainBlocker::Canary(percent("5")), DrainBlocker::Shadow(percent("1"))],
            ),
            (kept, Colour::Blue, 0, None, SWITCH, vec![DrainBlocker::Kept(percent("2"), later)]),
        ];
        for (state, colour, in_flight, bake, now, expected) in cases {
            let seen = drain_blockers(&state, colour, in_flight, bake, &Confirmation::default(), false, now);
            assert_eq!(seen, expected, "{colour} at {now}");
        }
        let silent = Confirmation { machines: vec![1, 2], silent: vec![2] };
        let seen = drain_blockers(&promoted(), Colour::Blue, 0, None, &silent, false, later);
        assert_eq!(seen, [DrainBlocker::Silent(vec![2])]);
        let known = Confirmation::default();
        for (colour, expected) in
            [(Colour::Blue, DrainBlocker::ServesElsewhere(Colour::Green)), (Colour::Green, DrainBlocker::Active)]
        {
            assert_eq!(drain_blockers(&promoted(), colour, 0, None, &known, true, later), [expected]);
        }
    }

    #[test]
    fn a_cluster_is_held_by_every_deployment_that_serves_from_it() {
        let deployment = |name: &str, blue: &str, green: &str| {
            format!(
                r#""{name}": {{"match": {{"path_prefix": "/{name}"}}, "colours": {{
                    "blue": {{"cluster": "{blue}", "version": "1"}}, "green": {{"cluster": "{green}", "version": "2"}}}}}}"#
            )
        };
        let all = [deployment("iris", "a", "b"), deployment("rose", "b", "c"), deployment("wine", "d", "a")].join(",");
        let config = Config::from_bytes(format!(r#"{{"deployments": {{{all}}}}}"#).as_bytes()).expect("valid");
        let (host, deployments) = (TestHost::default(), Deployments::new(&config));
        let instance = Instance::register(&host.store, SWITCH);
        let worker = Worker::new(&deployments, instance, 1, SWITCH);
        let held = |index, colour| {
            let blockers = blockers_elsewhere(&host, &worker, &deployments, index, colour);
            blockers.map(|blocker| blocker.to_string()).collect::<Vec<_>>()
        };
        // rose serves from b, as its blue; wine has a as its green, which gets nothing.
        let by_rose = "deployment rose has the same cluster as its blue: there it is the active colour";
        assert_eq!(held(0, Colour::Green), [by_rose]);
        assert_eq!(held(0, Colour::Blue), Vec::<String>::new());
        assert_eq!(held(1, Colour::Blue), Vec::<String>::new());
        assert_eq!(
            held(2, Colour::Green),
            ["deployment iris has the same cluster as its blue: there it is the active colour"]
        );
        worker.count(2, Colour::Green, [(ColourMetric::InFlight, 2)]);
        worker.tick(&host, &deployments);
        assert_eq!(
            held(0, Colour::Blue),
            ["deployment wine has the same cluster as its green: there 2 requests are in flight"]
        );
        let mut blockers = blockers_elsewhere(&host, &worker, &deployments, 0, Colour::Blue);
        assert!(blockers.all(|blocker| blocker.ends_before(SWITCH)));
    }

    #[test]
    fn behind_a_gateway_that_routes_by_host_each_authority_is_a_server_of_its_own() {
        let of = |cluster: &str, authority: Option<&str>| Identity {
            cluster: ClusterName::new(cluster).expect("valid"),
            authority: authority.map(|host| HostName::new(host).expect("valid")),
            ..identity("1")
        };
        for (one, other, expected) in [
            (of("gateway", Some("iris.example.com")), of("gateway", Some("iris.example.com")), true),
            (of("gateway", Some("iris.example.com")), of("gateway", Some("rose.example.com")), false),
            (of("gateway", Some("iris.example.com")), of("gateway", None), true),
            (of("gateway", None), of("gateway", None), true),
            (of("gateway", None), of("other", None), false),
        ] {
            assert_eq!(may_be_the_same(&one, &other), expected, "{one:?} {other:?}");
        }
    }

    #[test]
    fn a_drain_waits_for_what_ends_by_itself_only() {
        let deadline = SWITCH;
        assert!(
            DrainBlocker::InFlight(1).ends_before(deadline) && DrainBlocker::Baking(deadline).ends_before(deadline)
        );
        assert!(DrainBlocker::Kept(percent("2"), deadline).ends_before(deadline));
        let later = deadline.plus(Duration::from_millis(1));
        assert!(!DrainBlocker::Kept(percent("2"), later).ends_before(deadline));
        let beyond = DrainBlocker::Baking(later);
        assert!(!beyond.ends_before(deadline) && !DrainBlocker::Active.ends_before(deadline));
    }
}
