//! What one VM keeps for one plugin configuration, shared by all its streams.
//!
//! A VM runs on one thread, so everything that changes is in a `Cell`: nothing can be borrowed twice.

use std::cell::{Cell, RefCell};

use bluegreen_core::admin::{Api, Backend};
use bluegreen_core::change::request::Wish;
use bluegreen_core::config::{Config, ConfigPush, Failover, Routing};
use bluegreen_core::controllers::failover::{self, Reach};
use bluegreen_core::controllers::rollout;
use bluegreen_core::controllers::{self, Adoption};
use bluegreen_core::deployment::DeploymentIndex;
use bluegreen_core::deployment::{Deployment, Deployments};
use bluegreen_core::etcd::Fleet;
use bluegreen_core::guard::{analysis, verdict};
use bluegreen_core::metrics::comparison::{self, Sample, period_of};
use bluegreen_core::metrics::counters::ColourCounts;
use bluegreen_core::model::colour::{Colour, PerColour};
use bluegreen_core::model::name::Version;
use bluegreen_core::model::percent::Percent;
use bluegreen_core::model::split::Split;
use bluegreen_core::model::time::Timestamp;
use bluegreen_core::readiness::probe;
use bluegreen_core::readiness::versions::versions;
use bluegreen_core::routing::decision::{Rotations, Router};
use bluegreen_core::state::Command;
use bluegreen_core::store::key::Duty;
use bluegreen_core::store::lease::{FOLLOWER_LEASE, Member, lease_key};
use bluegreen_core::store::{self, Applied, Effect, Found, Store};

use crate::host;
use crate::metrics::Metrics;
use crate::shared_data::SharedData;
use crate::waiting::Waiting;

/// A compiled configuration and this VM's memory of it.
pub struct Plugin {
    /// The deployments.
    pub router: Deployments,
    /// The decisions.
    pub matcher: Router,
    /// The headers that carry them.
    pub routing: Routing,
    /// The admin API, on listeners that have it.
    pub api: Option<Api>,
    /// This instance, among all in the process.
    pub member: Member,
    /// Admin calls that wait for something.
    pub waiting: RefCell<Waiting>,
    /// The fleet's record, when this Envoy belongs to one.
    pub fleet: Option<Fleet>,
    /// Changes to be made at the next tick, because only the root context can wait for their end.
    wanted: RefCell<Vec<Wish>>,
    /// The deployments whose pushed `initial` waits: held back by rules, or in a fleet for etcd.
    pub held: Vec<DeploymentIndex>,
    workings: Vec<Working>,
    lease: String,
    /// That of the fleet's follower.
    follower_lease: Option<String>,
    sampled: Cell<Option<u64>>,
}

/// What this VM remembers of one deployment.
struct Working {
    known: Cell<Option<Known>>,
    rotations: Cell<Rotations>,
    /// The versions that answers are marked with.
    versions: RefCell<PerColour<Version>>,
    metrics: Metrics,
    warned: Cell<bool>,
    /// The epoch at which there was nothing to conduct.
    rests_at: Cell<Option<u64>>,
}

/// A split, current for as long as the epoch stands still.
#[derive(Clone, Copy)]
struct Known {
    epoch: Option<u64>,
    split: Split,
}

// === impl Plugin ===

impl Plugin {
    /// Compiles a configuration and sees to it that its `initial` splits are applied, once in the process.
    pub fn new(config: &Config) -> Self {
        let router = Deployments::new(config);
        let working = |route: &Deployment| Working {
            known: Cell::new(None),
            rotations: Cell::default(),
            versions: RefCell::new(PerColour::from_fn(|colour| route.colours.get(colour).version.clone())),
            metrics: Metrics::new(route.name.clone()),
            warned: Cell::new(false),
            rests_at: Cell::new(None),
        };
        let mut plugin = Self {
            matcher: Router::new(config),
            workings: router.all().iter().map(working).collect(),
            router,
            routing: config.routing.clone(),
            api: config.admin.clone().map(Api::new),
            member: Member::enrol(&SharedData, Timestamp::from(host::now())),
            waiting: RefCell::default(),
            fleet: config.etcd.as_ref().map(Fleet::new),
            wanted: RefCell::default(),
            held: Vec::new(),
            lease: lease_key(config, Duty::Lead),
            follower_lease: config.etcd.as_ref().map(|etcd| lease_key(config, Duty::Follow(Fleet::new(etcd).id()))),
            sampled: Cell::new(None),
        };
        plugin.held = plugin.adopt_initials(config.config_push);
        plugin
    }

    /// Gives the deployments whose `initial` waits.
    fn adopt_initials(&self, push: ConfigPush) -> Vec<DeploymentIndex> {
        let now = Timestamp::from(host::now());
        let mut held = Vec::new();
        for (index, (route, working)) in self.router.all().iter().zip(&self.workings).enumerate() {
            let adopted = match self.fleet {
                Some(_) => controllers::announce_initial(&SharedData, route, now),
                None => controllers::adopt_initial(&SharedData, route, push, now),
            };
            match adopted {
                Ok(adoption) => {
                    let applied = match adoption {
                        Adoption::Done(applied) => applied,
                        Adoption::Held(applied) => {
                            held.push(index);
                            applied
                        }
                    };
                    if applied.effect != Effect::None {
                        // Where comparisons begin.
                        working.sample(route, now);
                    }
                    working.publish(route, &applied);
                }
                Err(error) => log::warn!("bluegreen: deployment={}: {error}: requests follow initial", route.name),
            }
        }
        held
    }

    /// The split in force for a deployment, and its rotations.
    pub fn in_force(&self, index: DeploymentIndex, route: &Deployment) -> Option<(Split, Rotations)> {
        let working = self.workings.get(index)?;
        Some((working.split(route), working.rotations.get()))
    }

    /// Keeps the rotations as a decision left them.
    pub fn keep(&self, index: DeploymentIndex, rotations: Rotations) {
        if let Some(working) = self.workings.get(index) {
            working.rotations.set(rotations);
        }
    }

    /// A deployment's metrics.
    pub fn metrics(&self, index: DeploymentIndex) -> Option<&Metrics> {
        self.workings.get(index).map(|working| &working.metrics)
    }

    /// Makes a write known: all workers, the gauges and the log. To be done before the write is answered.
    pub fn publish(&self, index: DeploymentIndex, applied: &Applied) {
        if let (Some(working), Some(route)) = (self.workings.get(index), self.router.get(index)) {
            working.publish(route, applied);
        }
    }

    /// Has all workers read what is kept about a deployment anew.
    pub fn refresh(&self, index: DeploymentIndex) {
        if let Some(working) = self.workings.get(index) {
            working.metrics.move_epoch();
        }
    }

    /// Calls `show` with the version that answers of `colour` are marked with.
    pub fn show_version(&self, index: DeploymentIndex, colour: Colour, show: impl FnOnce(&str)) {
        if let Some(working) = self.workings.get(index) {
            show(working.versions.borrow().get(colour).as_str());
        }
    }

    /// Whether this instance does what one does for all.
    pub fn leads(&self, now: Timestamp) -> bool {
        self.member.leads(&SharedData, &self.lease, now)
    }

    /// Whether this instance follows the fleet for all.
    pub fn follows(&self, now: Timestamp) -> bool {
        let lease = self.follower_lease.as_ref();
        lease.is_some_and(|lease| self.member.holds(&SharedData, lease, FOLLOWER_LEASE, now))
    }

    /// Whether the fleet's state of each deployment has come.
    pub fn is_in_step(&self) -> bool {
        self.router.all().iter().all(|route| {
            store::load(&SharedData, &route.name, route.initial, Timestamp::default())
                .is_ok_and(|loaded| loaded.origin.is_some())
        })
    }

    /// The changes that the root context has to make.
    pub fn wanted(&self) -> Vec<Wish> {
        self.wanted.take()
    }

    /// Takes the samples for comparisons, once in each period.
    pub fn sample(&self, now: Timestamp) {
        if self.sampled.replace(Some(period_of(now))) == Some(period_of(now)) {
            return;
        }
        for (route, working) in self.router.all().iter().zip(&self.workings) {
            working.sample(route, now);
            // Two writers at once may have set the gauges in the other order.
            if let Ok(loaded) = store::load(&SharedData, &route.name, route.initial, now) {
                working.metrics.show(&loaded.state);
            }
        }
    }
}

/// Rollouts and guards.
impl Plugin {
    /// Takes each rollout and guard one turn further, on the leader; these are their wishes.
    pub fn conduct(&self, now: Timestamp) -> Vec<Wish> {
        let routes = self.router.all().iter().zip(&self.workings).enumerate();
        routes.filter_map(|(index, (route, working))| working.conduct(index, route, now)).collect()
    }
}

/// Whether answers have to be followed to their end.
impl Plugin {
    /// Whether a guard compares the colours of a deployment now, as far as this worker knows.
    pub fn guards(&self, index: DeploymentIndex) -> bool {
        let guarded = self.router.get(index).is_some_and(|route| route.guard.is_some());
        let known = self.workings.get(index).and_then(|working| working.known.get());
        guarded && known.is_some_and(|known| known.split.canary_percent > Percent::ZERO)
    }
}

/// Going back by itself.
impl Plugin {
    /// Whether a failover watches over a deployment.
    pub fn watches(&self, index: DeploymentIndex) -> bool {
        self.router.get(index).is_some_and(|route| route.readiness.failover.is_some())
    }

    /// Takes note of whether a request to `colour` reached it, where a failover watches; `details` are Envoy's.
    pub fn note_reach(&self, index: DeploymentIndex, colour: Colour, reach: Reach, details: &str) {
        let (Some(working), Some(route)) = (self.workings.get(index), self.router.get(index)) else { return };
        let Some(failover) = route.readiness.failover else { return };
        if working.known.get().is_none_or(|known| known.split.active != colour) {
            return;
        }
        match reach {
            Reach::Reached => working.metrics.forget_unreached(),
            Reach::Unknown => {}
            Reach::Unreached => {
                let failures = working.metrics.count_unreached();
                if failures < u64::from(failover.after.get()) {
                    return;
                }
                if self.fleet.is_none() {
                    return working.fail_over(route, failover, colour, failures, details);
                }
                let mut wanted = self.wanted.borrow_mut();
                if !wanted.iter().any(|wish| wish.deployment == index) {
                    wanted.extend(working.wish_to_fail_over(index, route, failover, colour, failures, details));
                }
            }
        }
    }
}

impl Backend for Plugin {
    fn store(&self) -> &dyn Store {
        &SharedData
    }

    fn counts(&self, deployment: DeploymentIndex) -> PerColour<ColourCounts> {
        self.metrics(deployment).map(Metrics::counts).unwrap_or_default()
    }

    fn in_flight(&self, deployment: DeploymentIndex, colour: Colour) -> u64 {
        self.metrics(deployment).map(|metrics| metrics.in_flight(colour)).unwrap_or_default()
    }

    fn fleet(&self) -> Option<&Fleet> {
        self.fleet.as_ref()
    }
}

// === impl Working ===

impl Working {
    /// The split in force. One gauge is read per request, and shared data only after a write.
    fn split(&self, route: &Deployment) -> Split {
        let epoch = self.metrics.epoch();
        match self.known.get() {
            Some(known) if known.epoch == epoch && epoch.is_some() => known.split,
            last_good => self.read(route, epoch, last_good),
        }
    }

    /// Reads the state after the epoch moved. The epoch was read first, so what is read is at least as new as it says.
    fn read(&self, route: &Deployment, epoch: Option<u64>, last_good: Option<Known>) -> Split {
        let fallback = last_good.map_or(route.initial, |known| known.split);
        if route.mlflow.is_some() {
            self.versions.replace(versions(&SharedData, route));
        }
        match store::load(&SharedData, &route.name, route.initial, Timestamp::default()) {
            Ok(loaded) => {
                if loaded.found.is_overwritten() {
                    self.warn_once(
                        route,
                        "what is kept under its key is not a state; another plugin may share the vm_id",
                    );
                    self.metrics.count_fallback();
                }
                let split = if loaded.found == Found::Foreign { fallback } else { loaded.state.split };
                self.known.set(Some(Known { epoch, split }));
                split
            }
            Err(error) => {
                self.warn_once(route, &error.to_string());
                self.metrics.count_fallback();
                fallback
            }
        }
    }

    /// One turn of rollout and guard. A breach is logged when it is new.
    fn conduct(&self, index: DeploymentIndex, route: &Deployment, now: Timestamp) -> Option<Wish> {
        let epoch = self.metrics.epoch();
        if (route.guard.is_none() && route.rollout.is_none()) || (epoch.is_some() && self.rests_at.get() == epoch) {
            return None;
        }
        // While the store is out of reach nothing is concluded: the counters go on, and so does the next turn.
        let loaded = store::load(&SharedData, &route.name, route.initial, now).ok()?;
        let before = analysis::read(&SharedData, &route.name);
        let was_broken = before.as_ref().is_some_and(|watch| watch.breach.is_some());
        let turn = rollout::turn((index, route), &loaded.state, before, &self.metrics.counts(), now);
        if let Some(watch) = &turn.watch {
            if analysis::record(&SharedData, &route.name, watch).is_err() {
                self.warn_once(route, "the guard's evidence cannot be kept");
            }
            if let (Some((rule, _)), false, Some(guard)) = (watch.breach, was_broken, &route.guard) {
                let what = verdict::sentence(watch, guard);
                log::warn!("bluegreen: deployment={} guard rule={} broken: {what}", route.name, rule.as_str());
            }
        }
        self.rests_at.set(epoch.filter(|_| rollout::rests(&loaded.state, &turn)));
        turn.wish
    }

    /// Writes down what was counted up to now.
    fn sample(&self, route: &Deployment, now: Timestamp) {
        let sample = Sample { at: now, counts: self.metrics.counts() };
        if let Err(error) = comparison::record(&SharedData, &route.name, &sample) {
            self.warn_once(route, &error.to_string());
        }
    }

    /// In a fleet a failover is a change like any other: it goes through etcd, on the state that it was decided on.
    fn wish_to_fail_over(
        &self,
        deployment: DeploymentIndex,
        route: &Deployment,
        failover: Failover,
        from: Colour,
        failures: u64,
        last: &str,
    ) -> Option<Wish> {
        let now = Timestamp::from(host::now());
        let state = store::load(&SharedData, &route.name, route.initial, now).ok()?.state;
        let verdict = probe::verdicts(&SharedData, &route.name).get_mut(from.other()).take();
        let bake = route.readiness.bake;
        let author = failover::author(&state, failover, bake, verdict.as_ref(), failures, last, now)?;
        let on = Some(state.revision);
        (state.split.active == from).then_some(Wish {
            deployment,
            command: Command::RollBack,
            author,
            enforce: true,
            on,
        })
    }

    fn fail_over(&self, route: &Deployment, failover: Failover, from: Colour, failures: u64, last: &str) {
        let now = Timestamp::from(host::now());
        let bake = route.readiness.bake;
        let verdict = probe::verdicts(&SharedData, &route.name).get_mut(from.other()).take();
        let applied = store::update(&SharedData, &route.name, route.initial, now, |loaded| {
            let state = &loaded.state;
            // Another worker may have gone back already.
            if state.split.active != from {
                return Ok(None);
            }
            match failover::author(state, failover, bake, verdict.as_ref(), failures, last, now) {
                Some(author) => state.after(Command::RollBack, author, now),
                None => Ok(None),
            }
        });
        if let Ok(applied) = applied {
            self.publish(route, &applied);
        }
    }

    fn publish(&self, route: &Deployment, applied: &Applied) {
        if applied.effect != Effect::None {
            self.metrics.move_epoch();
        }
        if let (Effect::Changed, Some(change)) = (applied.effect, applied.state.history.newest()) {
            log::info!("bluegreen: {}", change.log_line(route.name.as_str()));
            if route.readiness.failover.is_some() {
                self.metrics.forget_unreached();
            }
        }
        self.metrics.show(&applied.state);
    }

    fn warn_once(&self, route: &Deployment, cause: &str) {
        if !self.warned.replace(true) {
            log::warn!("bluegreen: deployment={}: {cause}: going on with the last good state", route.name);
        }
    }
}
