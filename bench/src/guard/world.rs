//! What happens to requests: they come, chance shares them out, servers answer them or do not, clients wait or leave.
//!
//! Time is virtual, and goes on in ticks of a quarter of a second, as the leader's. Within a tick every request has its own
//! moment. What it comes to is settled when it begins; it is *told* to the workers' cohorts when it would have been seen.
//! The code that shares out and that counts is the filter's own.

use std::time::Duration;

use bluegreen_core::config::{ErrorRule, LatencyOf};
use bluegreen_core::deployment::Deployment;
use bluegreen_core::metrics::cohorts::{Cohorts, Draw, Ending, Host, Kind, SeenKeys, Ticket};
use bluegreen_core::metrics::counters::Class;
use bluegreen_core::metrics::latency::Bucket;
use bluegreen_core::model::colour::{Colour, PerColour};
use bluegreen_core::model::name::{DeploymentName, Version};
use bluegreen_core::model::percent::Percent;
use bluegreen_core::model::split::{Revision, Split};
use bluegreen_core::model::time::Timestamp;
use bluegreen_core::routing::rotation::{Rotation, Seed};
use bluegreen_core::routing::sticky::Buckets;
use bluegreen_core::store::lease::Instance;
use bluegreen_core::store::{CasToken, Store, StoreError, SwapError, Versioned};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Distribution, Exp1, StandardNormal};

use super::scenario::{Arrivals, Each, Episode, Latency, Meets, Model, Scenario, Sharing};

/// The length of a tick in seconds: the leader's, and that of an epoch.
pub const TICK: f64 = 0.25;
/// When all runs begin: at the beginning of an epoch.
pub const START: Timestamp = Timestamp::from_millis(1_795_446_000_000);
/// So far ahead ends are kept in a place of their own.
const WHEEL: usize = 512;

/// What all runs of a scenario have in common.
pub struct Cast {
    name: DeploymentName,
    /// The running sums of the users' parts of the traffic.
    users: Vec<f64>,
}

/// One run's world.
pub struct World<'s> {
    scenario: &'s Scenario,
    cast: &'s Cast,
    random: Xoshiro256PlusPlus,
    models: PerColour<Model>,
    /// What is known of requests: of all Envoys together, or of each.
    pub books: Vec<Cohorts>,
    workers: Vec<Worker>,
    /// How users are drawn, for which candidate.
    buckets: Option<((Colour, PerColour<usize>), Buckets)>,
    /// Makes users' keys this run's own.
    salt: u64,
    hosts: PerColour<Vec<Host>>,
    /// Requests that each colour, and each of its pods, has had.
    served: PerColour<(u64, Vec<u64>)>,
    episodes: Vec<Occurrences>,
    /// What ends in the next ticks.
    wheel: Vec<Vec<Flight>>,
    tick: usize,
    next_arrival: f64,
    /// What ended, by colour; green is the candidate of those who look on.
    pub ended: Option<Box<Ended>>,
    /// Requests that began, by colour.
    pub begun: PerColour<u64>,
    /// Whether the time to the first byte is what is timed.
    times_head: bool,
    /// What is noted as an error.
    rule: ErrorRule,
}

/// One worker thread of an Envoy.
struct Worker {
    book: usize,
    rotation: Rotation,
    seen: SeenKeys,
}

/// A request under way.
#[derive(Clone, Copy)]
struct Flight {
    book: usize,
    colour: Colour,
    ticket: Option<Ticket>,
    /// When the head comes, or when it is over if none comes.
    head: Option<(f64, Duration)>,
    end: f64,
    ending: Ending,
    is_baseline: bool,
}

/// What a request comes to.
struct Fate {
    /// Seconds to the head; none: there is none.
    head: Option<f64>,
    end: f64,
    class: Class,
    retries: u64,
    leaves: bool,
}

/// When an episode goes on: once for all, or for each pod of blue and of green.
struct Occurrences {
    episode: Episode,
    shared: Vec<(f64, f64)>,
    pods: PerColour<Vec<Vec<(f64, f64)>>>,
}

/// What ended in some time, as controllers see it in Prometheus.
#[derive(Clone)]
pub struct Ended {
    pub of: PerColour<Tally>,
    /// Of as many of the active colour's requests as the candidate has.
    pub baseline: Tally,
}

/// Answers.
#[derive(Clone)]
pub struct Tally {
    pub answers: u64,
    pub errors: u64,
    pub seconds: f64,
    pub buckets: [u32; Bucket::COUNT],
}

/// The store of an Envoy that nobody needs here.
struct Nowhere;

// === impl Nowhere ===

impl Store for Nowhere {
    fn read(&self, _: &str) -> Result<Versioned, StoreError> {
        Err(StoreError)
    }

    fn compare_and_swap(&self, _: &str, _: &[u8], _: CasToken) -> Result<(), SwapError> {
        Err(SwapError::Unavailable)
    }
}

// === impl Cast ===

impl Cast {
    pub fn new(scenario: &Scenario) -> Self {
        let mut users = Vec::new();
        if let Some(of) = &scenario.clients.users {
            let mut sum = 0.0;
            for rank in 1..=of.count {
                sum += (rank as f64).powf(-of.zipf);
                users.push(sum);
            }
            users.iter_mut().for_each(|up_to| *up_to /= sum);
        }
        Self { name: DeploymentName::new("model").expect("valid"), users }
    }
}

// === impl World ===

impl<'s> World<'s> {
    pub fn new(scenario: &'s Scenario, cast: &'s Cast, run: u64) -> Self {
        let mut random =
            Xoshiro256PlusPlus::seed_from_u64(scenario.seed << 32 ^ run.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let is_shared = scenario.fleet.evidence == Sharing::Shared;
        let books = if is_shared { 1 } else { scenario.fleet.envoys };
        let instance = Instance::register(&Nowhere, START);
        let mut workers = Vec::new();
        for envoy in 0..scenario.fleet.envoys {
            for _ in 0..scenario.fleet.workers {
                let rotation = Rotation::new(Seed::new(instance, random.next_u64(), &cast.name).of_use("canary"));
                workers.push(Worker { book: if is_shared { 0 } else { envoy }, rotation, seen: SeenKeys::default() });
            }
        }
        let models = scenario.colours.0.clone();
        let pods = |colour: Colour| models.get(colour).pods;
        let hosts = PerColour::from_fn(|colour| {
            (0..pods(colour)).map(|pod| Host::of(format!("10.0.{}.{pod}:8080", colour.as_str()).as_bytes())).collect()
        });
        let served = PerColour::from_fn(|colour| (0, vec![0; pods(colour)]));
        let pods = PerColour::from_fn(pods);
        let occurrences = |episode: &Episode| Occurrences::new(episode, scenario.duration.0, &pods, &mut random);
        let episodes = scenario.episodes.iter().map(occurrences).collect();
        Self {
            scenario,
            cast,
            models,
            books: (0..books).map(|_| Cohorts::default()).collect(),
            workers,
            buckets: None,
            salt: random.next_u64(),
            hosts,
            served,
            episodes,
            wheel: (0..WHEEL).map(|_| Vec::new()).collect(),
            tick: 0,
            next_arrival: 0.0,
            ended: None,
            begun: PerColour::default(),
            times_head: false,
            rule: ErrorRule::default(),
            random,
        }
    }

    /// Other servers behind green.
    pub fn replace_green(&mut self, model: Model) {
        self.hosts.green =
            (0..model.pods).map(|pod| Host::of(format!("10.1.{pod}:{}", self.begun.green).as_bytes())).collect();
        self.served.green = (0, vec![0; model.pods]);
        for occurrences in &mut self.episodes {
            occurrences.pods.green.resize(model.pods, Vec::new());
        }
        self.models.green = model;
    }

    /// The workers note what this configuration wants to know.
    pub fn configure(&mut self, deployment: &Deployment) {
        let guard = deployment.guard.unwrap_or_default();
        self.rule = guard.error;
        self.times_head = guard.slow.is_some_and(|rule| rule.of == LatencyOf::FirstByte);
    }

    /// Seconds since the beginning.
    pub fn seconds(&self) -> f64 {
        self.tick as f64 * TICK
    }

    /// The wall clock.
    pub fn now(&self) -> Timestamp {
        START.plus(Duration::from_millis(250 * self.tick as u64))
    }

    /// Lets a quarter of a second pass under this state; `versions` are what is behind the colours.
    pub fn pass(&mut self, split: Split, revision: Revision, versions: PerColour<usize>) {
        let (from, to) = (self.seconds(), self.seconds() + TICK);
        if self.scenario.clients.sticky
            && self.buckets.as_ref().is_none_or(|(known, _)| *known != (split.candidate(), versions))
        {
            let version = Version::new(versions.get(split.candidate()).to_string()).expect("valid");
            self.buckets = Some(((split.candidate(), versions), Buckets::new(&self.cast.name, &version, None)));
            self.workers.iter_mut().for_each(|worker| worker.seen.clear());
        }
        let busy = |occurrences: &Occurrences| if occurrences.is_on(from) { occurrences.episode.traffic } else { 1.0 };
        let times: f64 = self.episodes.iter().map(busy).product();
        let rate = self.scenario.traffic.per_second * self.scenario.traffic.times.at(from, 1.0) * times;
        if rate > 0.0 {
            if self.next_arrival < from {
                self.next_arrival = from + self.gap(rate);
            }
            while self.next_arrival < to {
                self.begin(self.next_arrival, split, revision);
                self.next_arrival += self.gap(rate);
            }
            // What comes next comes at the next tick's rate: a Poisson process has no memory.
            if self.scenario.traffic.arrivals == Arrivals::Poisson {
                self.next_arrival = f64::NEG_INFINITY;
            }
        }
        self.by_override(from);
        let mut due = std::mem::take(&mut self.wheel[self.tick % WHEEL]);
        for flight in due.drain(..) {
            self.land(flight);
        }
        self.wheel[self.tick % WHEEL] = due;
        self.tick += 1;
        let now = self.now();
        for book in &mut self.books {
            book.retire(now);
        }
    }

    fn gap(&mut self, rate: f64) -> f64 {
        match self.scenario.traffic.arrivals {
            Arrivals::Poisson => self.random.sample::<f64, _>(Exp1) / rate,
            Arrivals::Even => 1.0 / rate,
        }
    }

    fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.random::<f64>() < share
    }

    fn below(&mut self, limit: usize) -> usize {
        ((self.random.next_u64() >> 32) as usize * limit) >> 32
    }

    /// A request comes.
    fn begin(&mut self, at: f64, split: Split, revision: Revision) {
        let worker = self.below(self.workers.len());
        let share = split.canary_percent;
        let user = self.user();
        let hash = user.zip(self.buckets).map(|(user, (_, buckets))| {
            let lost = self.scenario.clients.keys_lost > 0.0 && self.chance(self.scenario.clients.keys_lost);
            let key = if lost { self.random.next_u64() } else { mixed(self.salt ^ user as u64) };
            buckets.hash(&key.to_be_bytes())
        });
        let chosen = match hash {
            Some(hash) => Buckets::choose(hash, share),
            None => share > Percent::ZERO && self.workers[worker].rotation.choose(share),
        };
        let colour = if chosen { split.candidate() } else { split.active };
        let count = self.begun.get_mut(colour);
        *count += 1;
        let pod = self.below(self.hosts.get(colour).len());
        let fate = self.fate(at, colour, pod, user);
        let host = self.hosts.get(colour)[pod];
        let now = START.plus(Duration::from_millis((at * 1_000.0) as u64));
        let book = self.workers[worker].book;
        let ticket = (share > Percent::ZERO).then(|| {
            let draw = hash.map_or(Draw::Request, Draw::Key);
            self.books[book].begin((now, revision, share), colour, draw, &mut self.workers[worker].seen)
        });
        let span = |seconds: f64| Duration::from_micros((seconds * 1e6) as u64);
        let ending = if fate.leaves {
            Ending::Left { host, after: span(fate.end) }
        } else {
            Ending::Answered { wrong: Kind::of(fate.class, fate.retries, &self.rule), host, latency: span(fate.end) }
        };
        let share = f64::from(share.hundredths()) / 10_000.0;
        let is_baseline =
            self.ended.is_some() && colour == split.active && self.chance((share / (1.0 - share)).clamp(0.0, 1.0));
        let head = fate.head.map(|head| (at + head, span(head)));
        self.land(Flight { book, colour, ticket, head, end: at + fate.end, ending, is_baseline });
    }

    /// Requests that choose green.
    fn by_override(&mut self, from: f64) {
        for place in 0..self.scenario.overrides.len() {
            let overrides = self.scenario.overrides[place];
            if !(overrides.at.0..overrides.at.0 + overrides.lasts.0).contains(&from) {
                continue;
            }
            let mean = overrides.per_second * TICK;
            let count = mean.floor() as u64 + u64::from(self.chance(mean.fract()));
            for _ in 0..count {
                let wrong = self.chance(overrides.errors).then_some(Kind::Failed);
                let ending = Ending::Answered { wrong, host: Host::default(), latency: Duration::from_millis(100) };
                let colour = Colour::Green;
                // No cohort: the filter counts them apart. Others do not tell them from the rest.
                let end = from + 0.1;
                self.land(Flight { book: 0, colour, ticket: None, head: None, end, ending, is_baseline: false });
            }
        }
    }

    /// What has come of a request by the end of this tick is told; the rest waits.
    fn land(&mut self, mut flight: Flight) {
        let now = self.tick;
        let tick_of = |at: f64| (at / TICK) as usize;
        if let Some((at, latency)) = flight.head.filter(|(at, _)| tick_of(*at) <= now) {
            if at <= flight.end
                && let Some(ticket) = &mut flight.ticket
            {
                self.books[flight.book].on_head(ticket, self.times_head.then_some(latency));
            }
            flight.head = None;
        }
        let next = tick_of(flight.head.map_or(flight.end, |(at, _)| at.min(flight.end)));
        if next > now {
            let place = next.min(now + WHEEL - 1);
            self.wheel[place % WHEEL].push(flight);
            return;
        }
        if let Some(ticket) = flight.ticket {
            let book = &mut self.books[flight.book];
            let ending = match flight.ending {
                // The filter looks up the host where it matters.
                Ending::Answered { wrong: Some(Kind::Retried), latency, .. } => {
                    Ending::Answered { wrong: Some(Kind::Retried), host: Host::default(), latency }
                }
                Ending::Answered { wrong: None, latency, .. } if !book.wants_host(&ticket) => {
                    Ending::Answered { wrong: None, host: Host::default(), latency }
                }
                ending => ending,
            };
            book.end(ticket, ending);
        }
        if let (Some(ended), Ending::Answered { wrong, latency, .. }) = (&mut self.ended, flight.ending) {
            let failed = wrong == Some(Kind::Failed);
            ended.of.get_mut(flight.colour).add(failed, latency);
            if flight.is_baseline {
                ended.baseline.add(failed, latency);
            }
        }
    }

    /// Whose request it is.
    fn user(&mut self) -> Option<usize> {
        let of = self.scenario.clients.users.as_ref()?;
        let draw: f64 = self.random.random();
        if let Some(heavy) = &of.heavy {
            if draw < heavy.share {
                return Some(of.count);
            }
            let rest = (draw - heavy.share) / (1.0 - heavy.share);
            return Some(self.cast.users.partition_point(|up_to| *up_to < rest).min(of.count - 1));
        }
        Some(self.cast.users.partition_point(|up_to| *up_to < draw).min(of.count - 1))
    }

    /// How many of a user's requests fail, on either colour.
    fn errors_of(&self, user: usize, colour: Colour) -> f64 {
        let Some(of) = &self.scenario.clients.users else { return 0.0 };
        if let Some(heavy) = of.heavy.as_ref().filter(|_| user == of.count) {
            return if heavy.on.includes(colour) { heavy.errors } else { 0.0 };
        }
        // Who fails is drawn for each run, and stays so.
        let mut place = (mixed(self.salt.wrapping_add(0x5bd1_e995) ^ user as u64) >> 11) as f64 / (1_u64 << 53) as f64;
        for failing in &of.failing {
            if place < failing.share {
                return failing.errors;
            }
            place -= failing.share;
        }
        0.0
    }

    fn fate(&mut self, at: f64, colour: Colour, pod: usize, user: Option<usize>) -> Fate {
        let scenario = self.scenario;
        let (mut well, mut answers) = (1.0, 1.0);
        let mut slower = 1.0;
        for occurrences in &self.episodes {
            let episode = &occurrences.episode;
            if episode.meets == Meets::Begin && occurrences.meets(at, colour, pod) {
                well *= 1.0 - episode.errors;
                answers *= 1.0 - episode.hangs;
                slower *= episode.slower;
            }
        }
        let served = self.served.get_mut(colour);
        served.0 += 1;
        served.1[pod] += 1;
        let model = self.models.get(colour);
        if let Some(cold) = &model.cold {
            let nth = if cold.each == Each::Pod { served.1[pod] } else { served.0 };
            if nth <= cold.requests {
                well *= 1.0 - cold.errors;
                slower *= cold.slower;
            }
        }
        slower *= model.slower.at(at, 1.0);
        let attempt_fails = 1.0 - well * (1.0 - model.errors.at(at, 0.0));
        let hangs = 1.0 - answers * (1.0 - model.hangs.at(at, 0.0));
        let (rejected, aborted) = (model.rejected.at(at, 0.0), model.aborted.at(at, 0.0));
        let (latency, body, hang_for) = (model.latency, model.body, model.hang_for.0);
        let error_latency = model.error_latency.unwrap_or(latency);

        let by_user = user.map_or(0.0, |user| self.errors_of(user, colour));
        let user_fails = self.chance(by_user);
        let (mut failed, mut retries, mut head) = (false, 0, 0.0);
        for attempt in 0..=scenario.route.retries {
            failed = user_fails || self.chance(attempt_fails);
            head += slower * self.sample(if failed { error_latency } else { latency });
            retries = u64::from(attempt);
            if !failed {
                break;
            }
        }
        let mut class = match failed {
            true => Class::Status(5),
            false if self.chance(rejected) => Class::Status(4),
            false => Class::Status(2),
        };
        let mut end = head;
        if !failed {
            end += if body.median > 0.0 { slower * self.sample(body) } else { 0.0 };
            if self.chance(aborted) {
                class = Class::Aborted;
            }
        }
        for place in 0..self.episodes.len() {
            let Episode { meets, errors, .. } = self.episodes[place].episode;
            if meets == Meets::End && self.episodes[place].meets(at + end, colour, pod) && self.chance(errors) {
                class = Class::Status(5);
            }
        }
        let mut head = Some(head);
        if self.chance(hangs) {
            let shift = hang_for.unwrap_or(f64::INFINITY);
            head = head.map(|head| head + shift);
            end += shift;
        }
        if let Some(timeout) = scenario.route.timeout.0.filter(|timeout| end > *timeout) {
            head = head.filter(|head| *head < timeout);
            (end, class) = (timeout, Class::Status(5));
        }
        let mut leaves = false;
        if let Some(patience) = scenario.clients.patience {
            let patience = self.sample(patience);
            if head.is_none_or(|head| head > patience) && end > patience {
                (head, end, leaves) = (None, patience, true);
            }
        }
        // A client that waits for ever is waited for to the end of the run.
        let end = if end.is_finite() { end } else { 1e7 };
        Fate { head: head.filter(|head| head.is_finite()), end, class, retries, leaves }
    }

    fn sample(&mut self, latency: Latency) -> f64 {
        let Latency { median, sigma, tail } = latency;
        let spread = if sigma > 0.0 {
            let normal: f64 = StandardNormal.sample(&mut self.random);
            (sigma * normal).exp()
        } else {
            1.0
        };
        let times = match tail {
            Some(tail) if self.chance(tail.share) => tail.times,
            _ => 1.0,
        };
        median * spread * times
    }
}

/// SplitMix64's output function.
fn mixed(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

// === impl Occurrences ===

impl Occurrences {
    fn new(episode: &Episode, duration: f64, pods: &PerColour<usize>, random: &mut Xoshiro256PlusPlus) -> Self {
        let mut draw = || occurrences(episode, duration, random);
        let pods = PerColour::from_fn(|colour| {
            let count = if episode.each_pod && episode.of.includes(colour) { *pods.get(colour) } else { 0 };
            (0..count).map(|_| draw()).collect()
        });
        let shared = if episode.each_pod { Vec::new() } else { draw() };
        Self { episode: episode.clone(), shared, pods }
    }

    /// Whether it goes on for all.
    fn is_on(&self, at: f64) -> bool {
        contains(&self.shared, at)
    }

    /// Whether it meets what a pod does at this moment.
    fn meets(&self, at: f64, colour: Colour, pod: usize) -> bool {
        if self.episode.each_pod {
            self.pods.get(colour).get(pod).is_some_and(|spans| contains(spans, at))
        } else {
            self.episode.of.includes(colour) && self.is_on(at)
        }
    }
}

fn occurrences(episode: &Episode, duration: f64, random: &mut Xoshiro256PlusPlus) -> Vec<(f64, f64)> {
    let to = episode.to.map_or(duration, |to| to.0);
    let mut spans = Vec::new();
    let mut exponential = |mean: f64| mean * random.sample::<f64, _>(Exp1);
    let mut at = match episode.every {
        Some(every) if !episode.regular => episode.from.0 + exponential(every.0),
        _ => episode.from.0,
    };
    while at < to {
        let lasts = if episode.varies { exponential(episode.lasts.0) } else { episode.lasts.0 };
        spans.push((at, at + lasts));
        match episode.every {
            Some(every) if episode.regular => at += every.0.max(lasts),
            Some(every) => at += lasts + exponential(every.0),
            None => break,
        }
    }
    spans
}

fn contains(spans: &[(f64, f64)], at: f64) -> bool {
    let place = spans.partition_point(|(_, end)| *end <= at);
    spans.get(place).is_some_and(|(begin, _)| *begin <= at)
}

// === impl Ended, Tally ===

impl Default for Ended {
    fn default() -> Self {
        Self { of: PerColour::from_fn(|_| Tally::default()), baseline: Tally::default() }
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self { answers: 0, errors: 0, seconds: 0.0, buckets: [0; Bucket::COUNT] }
    }
}

impl Tally {
    fn add(&mut self, failed: bool, latency: Duration) {
        self.answers += 1;
        self.errors += u64::from(failed);
        self.seconds += latency.as_secs_f64();
        self.buckets[Bucket::of(latency).index()] += 1;
    }

    pub fn merge(&mut self, other: &Self) {
        self.answers += other.answers;
        self.errors += other.errors;
        self.seconds += other.seconds;
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(sum, more)| *sum += more);
    }

    pub fn error_rate(&self) -> f64 {
        self.errors as f64 / self.answers.max(1) as f64
    }

    pub fn mean(&self) -> f64 {
        self.seconds / self.answers.max(1) as f64
    }

    /// The end of the bucket below which this share of the answers lies, in seconds, as `histogram_quantile` has it to within
    /// a bucket.
    pub fn quantile(&self, rank: f64) -> f64 {
        let wanted = (self.answers as f64 * rank).ceil() as u64;
        let mut up_to = 0;
        for bucket in Bucket::all() {
            up_to += u64::from(self.buckets[bucket.index()]);
            if up_to >= wanted {
                return bucket.end_micros().map_or(134.0, |end| end as f64 / 1e6);
            }
        }
        134.0
    }

    /// How many took longer than so many seconds, to within a bucket.
    pub fn above(&self, seconds: f64) -> u64 {
        let bound = Bucket::of(Duration::from_secs_f64(seconds)).index();
        self.buckets[bound + 1..].iter().map(|count| u64::from(*count)).sum()
    }
}
