//! What the workers show of themselves, and who watches that they do.

use std::time::Duration;

use crate::change::context::Context;
use crate::deployment::Deployment;
use crate::host::next_tick;
use crate::metrics::counters::DeploymentMetric;
use crate::metrics::named::Named;
use crate::model::time::Timestamp;
use crate::setup::{self, SetupProblem};
use crate::state::State;
use crate::workers::report::Report;
use crate::workers::roster::{Heartbeat, Member, Roster, SILENT_AFTER};
use crate::workers::worker::dismiss;

/// What the instance that watches remembers of the others' signs of life.
#[derive(Debug, Default)]
pub struct Watch {
    /// Each member with how many there were, and how many ticks ago the last one came.
    beats: Vec<(u64, u64, u32)>,
    /// How many machines the gauges show, live and silent.
    shown: Option<(usize, usize)>,
}

/// A virtual machine with its members.
#[derive(Clone, Debug)]
struct Machine {
    vm: u64,
    members: Vec<Member>,
    since: Timestamp,
    /// The highest number of a member when it was last heard of.
    newest: u64,
    silent: bool,
    replaces: bool,
}

/// How long after a change requests have to have come before somebody is told that none do.
const TRAFFIC_WITHIN: u64 = 10;

/// The threads of an Envoy begin within this time of each other.
const ONE_START: Duration = Duration::from_secs(5);

/// Two configurations that are in force at once have both seen requests for so long after the later one came.
const DISAGREEMENT: u64 = 5;

/// Gives signs of life, takes over what it was not told of, and says what it has counted.
pub async fn beat(context: &Context) {
    loop {
        next_tick(&*context.host).await;
        context.worker.tick(&*context.host, &context.deployments);
    }
}

// === impl Watch ===

impl Watch {
    /// Looks for members that have fallen silent or come back, at a tick.
    pub fn look(&mut self, context: &Context) {
        let (host, store) = (&*context.host, context.host.store());
        let mut members = Roster::read(store).members().to_vec();
        self.beats.retain(|(number, ..)| members.iter().any(|member| member.number == *number));
        let heartbeats: Vec<Option<Heartbeat>> = members.iter().map(|member| member.heartbeat(store)).collect();
        let mut changed = Vec::new();
        for (member, heartbeat) in members.iter_mut().zip(&heartbeats) {
            let beats = heartbeat.map_or(0, |heartbeat| heartbeat.beats);
            let ticks = match self.beats.iter_mut().find(|(number, ..)| *number == member.number) {
                Some((_, known, ticks)) => {
                    *ticks = if *known == beats { ticks.saturating_add(1) } else { 0 };
                    *known = beats;
                    *ticks
                }
                None => {
                    self.beats.push((member.number, beats, 0));
                    0
                }
            };
            let silent = ticks >= SILENT_AFTER;
            if silent != member.silent {
                member.silent = silent;
                changed.push(*member);
            }
        }
        if !changed.is_empty() {
            // Without the store there is a next tick.
            let written = Roster::change(store, host.now(), &mut |known| {
                for member in known.iter_mut() {
                    let found = changed.iter().find(|changed| changed.number == member.number);
                    member.silent = found.map_or(member.silent, |found| found.silent);
                }
            });
            if written.is_ok() {
                changed.iter().for_each(|member| host.warn(&news_of(member)));
            }
        }
        let mut machines = machines(&members, &heartbeats);
        self.replace(context, &mut machines);
        let silent = machines.iter().filter(|machine| machine.silent).count();
        let shown = (machines.len().saturating_sub(silent), silent);
        if self.shown.replace(shown) != Some(shown) {
            for (silent, count) in [(false, shown.0), (true, shown.1)] {
                host.set_gauge(&Named::Workers(silent).to_string(), u64::try_from(count).unwrap_or(u64::MAX));
            }
        }
    }

    /// A machine that began after another had fallen silent has taken its place: Envoy makes a new one for a thread whose
    /// machine failed. Each takes one place.
    fn replace(&self, context: &Context, machines: &mut Vec<Machine>) {
        let Some((gone, new)) = machines.iter().find_map(|gone| {
            let follows = |new: &&Machine| {
                // Those that began together are threads of their own.
                let is_later = new.since.apart(gone.since) > ONE_START;
                is_later && new.vm > gone.newest && !new.silent && !new.replaces
            };
            Some((gone.clone(), machines.iter().find(follows).filter(|_| gone.silent)?.vm))
        }) else {
            return;
        };
        let marked = Roster::change(context.host.store(), context.host.now(), &mut |members| {
            members.iter_mut().filter(|member| member.vm == new).for_each(|member| member.replaces = true);
        });
        if marked.is_ok() {
            gone.members.iter().for_each(|member| dismiss(&*context.host, &context.deployments, member));
            machines.retain(|machine| machine.vm != gone.vm);
            context.host.info(&format!("bluegreen: worker {new} has taken the place of worker {}", gone.vm));
        }
    }
}

/// Looks for mistakes in the set-up that the workers' reports show, every few seconds. `routed` is how many requests they have
/// routed.
pub fn inspect(context: &Context, deployment: &Deployment, state: &State, roster: &Roster, routed: u64) {
    let (host, store, now) = (&*context.host, context.host.store(), context.host.now());
    let seen = roster
        .members()
        .iter()
        .filter_map(|member| Some((*member, Report::read(store, &deployment.name, member)?, member.heartbeat(store))));
    let reports: Vec<(Member, Report, Option<Heartbeat>)> = seen.collect();

    let is_late = state.revision.get() > 0 && now.since(state.since).as_secs() >= TRAFFIC_WITHIN;
    if routed > 0 {
        setup::clear(host, deployment, SetupProblem::NoTrafficWorker);
    } else if is_late {
        let detail = "the state was changed, and no worker that shares it has routed a request since this Envoy started. If \
                      requests come in, the filter of their listener has another vm_id: give all listeners the same one";
        setup::note(host, deployment, SetupProblem::NoTrafficWorker, detail.to_owned());
    }

    let behind = reports.iter().filter(|(_, report, _)| report.revision < state.revision).count();
    let name = DeploymentMetric::WorkersBehind.name(&deployment.name);
    host.set_gauge(&name, u64::try_from(behind).unwrap_or(u64::MAX));

    let in_use = |since: Timestamp, heartbeat: &Option<Heartbeat>| {
        let last = heartbeat.as_ref().and_then(|heartbeat| heartbeat.last_stream);
        last.is_some_and(|last| last.since(since).as_secs() >= DISAGREEMENT)
    };
    let disagree = reports.iter().enumerate().any(|(place, (one, report, beat))| {
        reports.iter().skip(place).any(|(other, others, others_beat)| {
            let since = one.since.max(other.since);
            report.configuration != others.configuration && in_use(since, beat) && in_use(since, others_beat)
        })
    });
    if disagree {
        let detail = "requests follow two configurations of this deployment at once. Give all listeners that have the filter \
                      the same deployments section; a listener that drains may keep the old one for a while";
        setup::note(host, deployment, SetupProblem::WorkersDisagree, detail.to_owned());
    } else {
        setup::clear(host, deployment, SetupProblem::WorkersDisagree);
    }
}

fn machines(members: &[Member], heartbeats: &[Option<Heartbeat>]) -> Vec<Machine> {
    let mut machines: Vec<Machine> = Vec::new();
    for (member, heartbeat) in members.iter().zip(heartbeats) {
        let newest = heartbeat.map_or(member.number, |heartbeat| heartbeat.newest);
        match machines.iter_mut().find(|machine| machine.vm == member.vm) {
            Some(machine) => {
                machine.members.push(*member);
                machine.since = machine.since.min(member.since);
                machine.newest = machine.newest.max(newest);
                machine.silent |= member.silent;
                machine.replaces |= member.replaces;
            }
            None => machines.push(Machine {
                vm: member.vm,
                members: vec![*member],
                since: member.since,
                newest,
                silent: member.silent,
                replaces: member.replaces,
            }),
        }
    }
    machines
}

fn news_of(member: &Member) -> String {
    let vm = member.vm;
    if member.silent {
        format!(
            "bluegreen: worker {vm} has not given a sign of life for 3 seconds: it hangs, or its virtual machine has failed. \
             Requests on its thread may follow an old state, or the route without the filter"
        )
    } else {
        format!("bluegreen: worker {vm} gives signs of life again")
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::rc::Rc;

    use super::*;
    use crate::config::Config;
    use crate::metrics::counters::ColourMetric;
    use crate::model::colour::Colour;
    use crate::model::split::Revision;
    use crate::store::record;
    use crate::testing::host::TestHost;
    use crate::workers::report::{routed_of, totals};

    /// An Envoy whose workers have this configuration each.
    struct Envoy {
        host: Rc<TestHost>,
        workers: Vec<Context>,
        watch: Watch,
    }

    impl Envoy {
        fn new(workers: usize) -> Self {
            let mut this = Self { host: Rc::default(), workers: Vec::new(), watch: Watch::default() };
            (0..workers).for_each(|_| this.add("2"));
            this
        }

        /// Another worker, whose configuration has this version of green.
        fn add(&mut self, green: &str) {
            let json = format!(
                r#"{{"deployments": {{"iris": {{"colours": {{
                    "blue": {{"cluster": "b", "version": "1"}}, "green": {{"cluster": "g", "version": "{green}"}}}}}}}}}}"#
            );
            let config = Config::from_bytes(json.as_bytes()).expect("valid");
            self.workers.push(Context::new(Rc::<TestHost>::clone(&self.host), &config, None));
        }

        /// Ticks these workers for so many seconds, and watches on the first.
        fn run(&mut self, workers: &[usize], seconds: u64) {
            for _ in 0..seconds * 4 {
                self.host.pass(Duration::from_millis(250));
                for worker in workers {
                    let context = &self.workers[*worker];
                    context.worker.tick(&*self.host, &context.deployments);
                }
                self.watch.look(&self.workers[workers[0]]);
            }
        }

        fn silent(&self) -> Vec<u64> {
            let members = Roster::read(&self.host.store);
            members.members().iter().filter(|member| member.silent).map(|member| member.vm).collect()
        }

        fn inspect(&self) -> Vec<SetupProblem> {
            let context = &self.workers[0];
            let deployment = &context.deployments.all()[0];
            let store = &self.host.store;
            let loaded = record::load(store, &deployment.name, deployment.initial, Timestamp::default());
            let state = State { revision: Revision::new(1), ..loaded.expect("in reach").state };
            let (store, routed) = (context.host.store(), routed_of(&totals(context.host.store(), &deployment.name)));
            inspect(context, deployment, &state, &Roster::read(store), routed);
            setup::noted(store, &deployment.name).into_iter().map(|(problem, _)| problem).collect()
        }
    }

    #[test]
    fn a_worker_that_falls_silent_is_named_once_and_so_is_its_return() {
        let mut envoy = Envoy::new(3);
        envoy.run(&[0, 1, 2], 2);
        assert!(envoy.silent().is_empty());
        envoy.run(&[0, 1], 2);
        assert!(envoy.silent().is_empty(), "it may just be busy");
        envoy.run(&[0, 1], 10);
        assert_eq!(envoy.silent(), [3]);
        assert_eq!(envoy.host.take_log().iter().filter(|line| line.contains("worker 3 has not given")).count(), 1);
        envoy.run(&[0, 1, 2], 1);
        assert!(envoy.silent().is_empty());
        assert_eq!(envoy.host.take_log(), ["bluegreen: worker 3 gives signs of life again"]);
    }

    #[test]
    fn a_clock_that_jumps_makes_nobody_silent() {
        let mut envoy = Envoy::new(2);
        envoy.run(&[0, 1], 2);
        for jump in [Duration::from_secs(86_400), Duration::from_secs(1)] {
            envoy.host.pass(jump);
            envoy.run(&[0, 1], 1);
        }
        envoy.host.set_now(Timestamp::from_millis(1_000));
        envoy.run(&[0, 1], 10);
        assert!(envoy.silent().is_empty());
    }

    #[test]
    fn a_machine_that_failed_is_replaced_by_one_that_began_after_it_and_its_counts_stay() {
        let mut envoy = Envoy::new(3);
        envoy.workers[2].worker.count(0, Colour::Green, [(ColourMetric::Requests, 7)]);
        envoy.run(&[0, 1, 2], 1);
        envoy.run(&[0, 1], 10);
        assert_eq!(envoy.silent(), [3]);
        envoy.add("2");
        envoy.run(&[0, 1, 3], 1);
        assert!(envoy.silent().is_empty());
        let machines: Vec<u64> = Roster::read(&envoy.host.store).members().iter().map(|member| member.vm).collect();
        assert_eq!(machines.len(), 3, "{machines:?}");
        assert!(!machines.contains(&3), "{machines:?}");
        assert_eq!(routed_of(&totals(&envoy.host.store, &crate::testing::iris())), 7);
        // It has taken one place, and takes no other.
        envoy.run(&[0, 3], 10);
        assert_eq!(envoy.silent(), [2]);
    }

    #[test]
    fn a_state_that_changes_while_no_request_comes_is_a_hint_at_another_vm_id() {
        let mut envoy = Envoy::new(2);
        envoy.run(&[0, 1], 1);
        assert_eq!(envoy.inspect(), [SetupProblem::NoTrafficWorker]);
        envoy.workers[1].worker.count(0, Colour::Blue, [(ColourMetric::Requests, 1)]);
        envoy.run(&[0, 1], 1);
        assert_eq!(envoy.inspect(), []);
    }

    #[test]
    fn two_configurations_that_both_see_requests_disagree() {
        let mut envoy = Envoy::new(1);
        envoy.add("3");
        let all = |envoy: &Envoy| envoy.workers.iter().for_each(|context| context.worker.on_stream(&*envoy.host));
        envoy.workers.iter().for_each(|context| {
            context.worker.count(0, Colour::Blue, [(ColourMetric::Requests, 1)]);
        });
        envoy.run(&[0, 1], 1);
        all(&envoy);
        envoy.run(&[0, 1], 1);
        assert_eq!(envoy.inspect(), [], "a new configuration takes a moment");
        envoy.run(&[0, 1], 10);
        envoy.workers[1].worker.on_stream(&*envoy.host);
        envoy.run(&[0, 1], 1);
        assert_eq!(envoy.inspect(), [], "the old one sees no new request");
        all(&envoy);
        envoy.run(&[0, 1], 1);
        assert_eq!(envoy.inspect(), [SetupProblem::WorkersDisagree]);
    }
}
