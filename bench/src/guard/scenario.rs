//! The files that say what happens: `bench/guard/*.json`, read strictly. `bench/guard/README.md` describes them.

use std::fmt;
use std::fs;
use std::marker::PhantomData;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use bluegreen_core::config::Config;
use bluegreen_core::deployment::Deployments;
use bluegreen_core::model::colour::{Colour, PerColour};
use bluegreen_core::model::percent::Percent;

/// One kind of canary: the traffic, what the colours do with it, and what is decided about it when.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The file's name without its ending.
    #[serde(skip)]
    pub id: String,
    pub name: String,
    /// Why it is worth looking at, for readers.
    #[serde(default, rename = "about")]
    _about: String,
    pub promise: Promise,
    /// When the fault begins; what happens before is healthy.
    #[serde(default)]
    pub begins: Span,
    #[serde(default = "Span::hour")]
    pub duration: Span,
    /// How many times it is played, if the command line does not say.
    pub runs: Option<usize>,
    #[serde(default)]
    pub seed: u64,
    /// Whether the rules of others are asked too.
    #[serde(default)]
    pub peers: bool,
    #[serde(default)]
    pub traffic: Traffic,
    #[serde(default)]
    pub fleet: Fleet,
    #[serde(default)]
    pub route: Route,
    #[serde(default)]
    pub clients: Clients,
    #[serde(default)]
    pub colours: Colours,
    #[serde(default)]
    pub episodes: Vec<Episode>,
    /// The candidate's share from the beginning.
    pub canary: Option<Percent>,
    /// The candidate's share, as somebody sets it by hand.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// When somebody promotes the candidate by hand.
    pub promote_at: Option<Span>,
    /// The `rollout` section, as users write it; it is started at once.
    pub rollout: Option<Value>,
    /// The `guard` section, as users write it.
    #[serde(default = "no_members")]
    pub guard: Value,
    #[serde(default)]
    pub pushes: Vec<Push>,
    #[serde(default)]
    pub overrides: Vec<Overrides>,
    #[serde(default)]
    pub expect: Expect,
}

/// What is true of the candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// It is no worse than the active colour, so it should stay.
    Healthy,
    /// It is worse, so it should go.
    Faulty,
    /// It is no worse, but what happens is beyond what the guard promises.
    Unpromised,
}

/// How many requests come.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Traffic {
    pub per_second: f64,
    pub times: Course,
    pub arrivals: Arrivals,
}

/// How requests follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// Each by itself: a Poisson process.
    Poisson,
    /// One as long after the other.
    Even,
}

/// The Envoys.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fleet {
    pub envoys: usize,
    /// Worker threads of each.
    pub workers: usize,
    pub evidence: Sharing,
}

/// Whether Envoys tell each other what they have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    Shared,
    Alone,
}

/// What Envoy does with requests that fail or hang.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Route {
    /// After this time without an end of the answer the request fails; none: never.
    pub timeout: Limit,
    /// How many times an attempt that failed is repeated.
    pub retries: u32,
}

/// A time, or `"none"`.
#[derive(Clone, Copy, Debug)]
pub struct Limit(pub Option<f64>);

/// Who asks.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clients {
    /// How long they wait for the head of an answer; absent: as long as it takes.
    pub patience: Option<Latency>,
    /// Whether a user's requests stay with a colour.
    pub sticky: bool,
    /// The share of requests that come without their key.
    pub keys_lost: f64,
    pub users: Option<Users>,
}

/// Who they are, where that matters.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Users {
    pub count: usize,
    /// The busiest user has so many times the traffic of the nth as n to this power; 0: all have the same.
    #[serde(default)]
    pub zipf: f64,
    /// Users of whose requests more fail than of others'.
    #[serde(default)]
    pub failing: Vec<Failing>,
    /// One user with a share of the traffic.
    pub heavy: Option<Heavy>,
}

/// A part of the users.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failing {
    /// How many of all users, as a share.
    pub share: f64,
    /// How many of their requests fail.
    pub errors: f64,
}

/// One busy user.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heavy {
    /// Of the traffic.
    pub share: f64,
    /// How many of the requests fail.
    #[serde(default)]
    pub errors: f64,
    #[serde(default)]
    pub on: Of,
}

/// Which colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    #[default]
    Both,
    Blue,
    Green,
}

/// What the colours are like: `both`, with what `blue` and `green` say in addition.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "RawColours")]
pub struct Colours(pub PerColour<Model>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct RawColours {
    both: Model,
    blue: Option<Model>,
    green: Option<Model>,
}

/// What the servers of a colour do with requests.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// The share of attempts that fail.
    pub errors: Course,
    /// The share of requests answered with a 4xx.
    pub rejected: Course,
    /// The share of answers that are broken off after their head.
    pub aborted: Course,
    /// The share of requests that get no answer for `hang_for`.
    pub hangs: Course,
    pub hang_for: Limit,
    /// The time to the head of an answer.
    pub latency: Latency,
    /// The time from the head to the end.
    pub body: Latency,
    /// The time to an error; absent: as to an answer.
    pub error_latency: Option<Latency>,
    pub slower: Course,
    pub cold: Option<Cold>,
    pub pods: usize,
}

/// What the first requests get.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cold {
    pub requests: u64,
    #[serde(default)]
    pub each: Each,
    #[serde(default)]
    pub errors: f64,
    #[serde(default = "one")]
    pub slower: f64,
}

/// Of what the first requests are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Each {
    #[default]
    Colour,
    Pod,
}

/// Something that happens for a while, once or again and again.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Episode {
    #[serde(default)]
    pub of: Of,
    /// Whether each pod has its own.
    #[serde(default)]
    pub each_pod: bool,
    /// When the first may begin.
    #[serde(default)]
    pub from: Span,
    /// After which none begins.
    pub to: Option<Span>,
    /// On average so long after each other; absent: one, at `from`.
    pub every: Option<Span>,
    /// Whether they come at equal distances, and not at random.
    #[serde(default)]
    pub regular: bool,
    pub lasts: Span,
    /// Whether `lasts` is only the mean.
    #[serde(default)]
    pub varies: bool,
    /// The share of requests that fail, whatever else they would do.
    #[serde(default)]
    pub errors: f64,
    #[serde(default)]
    pub hangs: f64,
    /// So many times as long do answers take.
    #[serde(default = "one")]
    pub slower: f64,
    /// So many times as many requests come.
    #[serde(default = "one")]
    pub traffic: f64,
    /// Which requests it meets.
    #[serde(default)]
    pub meets: Meets,
}

/// Which requests an episode meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meets {
    /// Those that begin in it.
    #[default]
    Begin,
    /// Those that would end in it: what they need last is what is broken.
    End,
}

/// A share, set by hand.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub at: Span,
    pub percent: Percent,
}

/// A configuration that is pushed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    pub at: Span,
    /// Another `guard` section.
    pub guard: Option<Value>,
    /// Another version behind green, which does this.
    pub green: Option<Model>,
}

/// Requests that choose their colour.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overrides {
    pub at: Span,
    pub lasts: Span,
    pub per_second: f64,
    pub errors: f64,
}

/// What has to come out.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// The share of runs.
    pub rolled_back_at_most: Option<f64>,
    /// The share of runs in which the fault is found.
    pub found_at_least: Option<f64>,
    /// The median of the candidate's requests that began between the fault and the rollback.
    pub requests_at_most: Option<f64>,
    /// The median of the seconds between the fault and the rollback.
    pub seconds_at_most: Option<f64>,
    pub promoted_at_most: Option<f64>,
    pub promoted_at_least: Option<f64>,
}

/// A number that may change with time.
#[derive(Clone, Debug)]
pub enum Course {
    Constant(f64),
    /// The last part that covers a moment counts.
    Parts(Vec<Part>),
}

/// What a number is for a while.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    #[serde(default)]
    from: Span,
    to: Option<Span>,
    value: f64,
    /// It changes evenly, to this at `to`.
    until: Option<f64>,
    wave: Option<Wave>,
}

/// A rise and fall around a value.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wave {
    every: Span,
    /// How far up and down, as a part of the value.
    by: f64,
}

/// A span of time in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Span(pub f64);

/// Times that are lognormal, some of them longer.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub median: f64,
    pub sigma: f64,
    /// Such a share takes so many times as long.
    pub tail: Option<Tail>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLatency {
    median: Span,
    #[serde(default)]
    sigma: f64,
    tail: Option<Tail>,
}

/// The part of the answers that takes longer.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tail {
    pub share: f64,
    pub times: f64,
}

fn one() -> f64 {
    1.0
}

fn no_members() -> Value {
    json!({})
}

/// All scenarios of a folder, in the order of their files' names.
pub fn all(folder: &Path) -> Result<Vec<Scenario>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    paths.iter().map(|path| Scenario::read(path)).collect()
}

// === impl Scenario ===

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// The first field that is missing, unknown, of the wrong kind or out of range.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let scenario = Self::parse(&text).with_context(|| format!("{} is no scenario", path.display()))?;
        let id = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Self { id, ..scenario })
    }

    pub fn parse(text: &str) -> Result<Self> {
        let document: Value = serde_json::from_str(text).context("not JSON")?;
        let scenario: Self = serde_path_to_error::deserialize(&with_both(document)?)
            .map_err(|misfit| anyhow!("{}: {}", misfit.path(), misfit.inner()))?;
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<()> {
        let share = |what: &str, value: f64| {
            ensure!((0.0..=1.0).contains(&value), "{what}: {value} is not a share: use 0 to 1, such as 0.02 for 2 %");
            Ok(())
        };
        let at_least = |what: &str, value: f64, least: f64| {
            ensure!(value.is_finite() && value >= least, "{what}: {value} is too small: use {least} or more");
            Ok(())
        };
        let set = [self.canary.is_some(), !self.steps.is_empty(), self.rollout.is_some()];
        ensure!(
            set.iter().filter(|set| **set).count() == 1,
            "exactly one of `canary`, `steps` and `rollout` says which share the candidate gets"
        );
        at_least("duration", self.duration.0, 1.0)?;
        ensure!(self.duration.0 <= 7.0 * 86_400.0, "duration: {} s is more than a week", self.duration.0);
        at_least("traffic.per_second", self.traffic.per_second, 0.01)?;
        ensure!(self.traffic.per_second <= 1e5, "traffic.per_second: {} is above 100,000", self.traffic.per_second);
        for (what, count) in [("fleet.envoys", self.fleet.envoys), ("fleet.workers", self.fleet.workers)] {
            ensure!((1..=1_000).contains(&count), "{what}: {count} is not between 1 and 1,000");
        }
        ensure!(self.route.retries <= 10, "route.retries: {} is above 10", self.route.retries);
        for colour in Colour::ALL {
            self.colours.0.get(colour).check(&format!("colours.{}", colour.as_str()))?;
        }
        for (place, push) in self.pushes.iter().enumerate() {
            if let Some(green) = &push.green {
                green.check(&format!("pushes[{place}].green"))?;
            }
            let what = format!("pushes[{place}]");
            ensure!(
                push.guard.is_some() || push.green.is_some(),
                "{what}: neither `guard` nor `green`: nothing changes"
            );
        }
        share("clients.keys_lost", self.clients.keys_lost)?;
        ensure!(
            !self.clients.sticky || self.clients.users.is_some(),
            "clients.users: missing: with `sticky` it is users that are shared out"
        );
        if let Some(users) = &self.clients.users {
            ensure!(
                (1..=1_000_000).contains(&users.count),
                "clients.users.count: {} is not between 1 and 1,000,000",
                users.count
            );
            at_least("clients.users.zipf", users.zipf, 0.0)?;
            for (place, failing) in users.failing.iter().enumerate() {
                share(&format!("clients.users.failing[{place}].share"), failing.share)?;
                share(&format!("clients.users.failing[{place}].errors"), failing.errors)?;
            }
            if let Some(heavy) = &users.heavy {
                share("clients.users.heavy.share", heavy.share)?;
                share("clients.users.heavy.errors", heavy.errors)?;
            }
        }
        for (place, episode) in self.episodes.iter().enumerate() {
            let what = |member: &str| format!("episodes[{place}].{member}");
            share(&what("errors"), episode.errors)?;
            share(&what("hangs"), episode.hangs)?;
            at_least(&what("slower"), episode.slower, 0.0)?;
            at_least(&what("traffic"), episode.traffic, 0.0)?;
            at_least(&what("lasts"), episode.lasts.0, 0.001)?;
            if let Some(every) = episode.every {
                at_least(&what("every"), every.0, 0.001)?;
            }
            let fits = episode.traffic == 1.0 || (episode.of == Of::Both && !episode.each_pod);
            ensure!(fits, "{}: traffic comes to both colours: leave out `of` and `each_pod`", what("traffic"));
        }
        for (place, pair) in self.steps.windows(2).enumerate() {
            ensure!(pair[0].at < pair[1].at, "steps[{}].at: not later than the step before", place + 1);
        }
        for push in [&self.guard].into_iter().chain(self.pushes.iter().filter_map(|push| push.guard.as_ref())) {
            self.deployments(push, 2)?;
        }
        Ok(())
    }

    /// The deployment as a user would configure it, with this `guard` section and this version behind green.
    pub fn deployments(&self, guard: &Value, version: usize) -> Result<Deployments> {
        let mut deployment = json!({
            "colours": {"blue": {"cluster": "blue", "version": "1"}, "green": {"cluster": "green", "version": version.to_string()}},
            "guard": guard,
        });
        if let (Some(rollout), Some(members)) = (&self.rollout, deployment.as_object_mut()) {
            members.insert("rollout".to_owned(), rollout.clone());
        }
        let config = json!({"deployments": {"model": deployment}}).to_string();
        let config = Config::from_bytes(config.as_bytes())
            .map_err(|error| anyhow!("{}", error.to_string().replace("deployments.model.", "")))?;
        Ok(Deployments::new(&config))
    }
}

/// Writes what both colours have in common into each: so everything has one place, and errors their path.
fn with_both(mut document: Value) -> Result<Value> {
    let Some(colours) = document.get_mut("colours").and_then(Value::as_object_mut) else { return Ok(document) };
    let both = match colours.get("both") {
        Some(Value::Object(both)) => both.clone(),
        _ => return Ok(document),
    };
    for colour in ["blue", "green"] {
        let own = colours.entry(colour).or_insert_with(no_members);
        if let Some(own) = own.as_object_mut() {
            for (member, value) in &both {
                own.entry(member.clone()).or_insert_with(|| value.clone());
            }
        }
    }
    Ok(document)
}

// === impl Promise ===

impl Promise {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Faulty => "faulty",
            Self::Unpromised => "unpromised",
        }
    }
}

// === impl Colours ===

impl From<RawColours> for Colours {
    fn from(raw: RawColours) -> Self {
        let own = |own: Option<Model>| own.unwrap_or_else(|| raw.both.clone());
        Self(PerColour { blue: own(raw.blue.clone()), green: own(raw.green.clone()) })
    }
}

impl Default for Colours {
    fn default() -> Self {
        RawColours::default().into()
    }
}

// === impl Model ===

impl Model {
    fn check(&self, path: &str) -> Result<()> {
        let shares = [
            ("errors", &self.errors),
            ("rejected", &self.rejected),
            ("aborted", &self.aborted),
            ("hangs", &self.hangs),
        ];
        for (member, course) in shares {
            for value in course.values() {
                ensure!((0.0..=1.0).contains(&value), "{path}.{member}: {value} is not a share: use 0 to 1");
            }
        }
        for value in self.slower.values() {
            ensure!(value > 0.0, "{path}.slower: {value} is not above 0");
        }
        ensure!((1..=10_000).contains(&self.pods), "{path}.pods: {} is not between 1 and 10,000", self.pods);
        Ok(())
    }
}

impl Default for Model {
    fn default() -> Self {
        Self {
            errors: Course::Constant(0.01),
            rejected: Course::Constant(0.0),
            aborted: Course::Constant(0.0),
            hangs: Course::Constant(0.0),
            hang_for: Limit(None),
            latency: Latency { median: 0.1, sigma: 0.5, tail: None },
            body: Latency { median: 0.0, sigma: 0.0, tail: None },
            error_latency: None,
            slower: Course::Constant(1.0),
            cold: None,
            pods: 10,
        }
    }
}

// === impl Traffic, Fleet, Route ===

impl Default for Traffic {
    fn default() -> Self {
        Self { per_second: 100.0, times: Course::Constant(1.0), arrivals: Arrivals::Poisson }
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Self { envoys: 1, workers: 2, evidence: Sharing::Shared }
    }
}

impl Default for Route {
    fn default() -> Self {
        Self { timeout: Limit(Some(15.0)), retries: 0 }
    }
}

// === impl Of ===

impl Of {
    pub fn includes(self, colour: Colour) -> bool {
        self == Self::Both || self == if colour == Colour::Blue { Self::Blue } else { Self::Green }
    }
}

// === impl Course ===

impl Course {
    /// What it is at so many seconds; `otherwise` where nothing is said.
    pub fn at(&self, seconds: f64, otherwise: f64) -> f64 {
        match self {
            Self::Constant(value) => *value,
            Self::Parts(parts) => {
                let covers = |part: &&Part| part.from.0 <= seconds && part.to.is_none_or(|to| seconds < to.0);
                parts.iter().rev().find(covers).map_or(otherwise, |part| part.at(seconds))
            }
        }
    }

    /// What it is from a moment on, if it does not change any more.
    pub fn constant_from(&self, seconds: f64) -> Option<f64> {
        match self {
            Self::Constant(value) => Some(*value),
            Self::Parts(parts) => {
                let is_settled = |part: &&Part| part.from.0 <= seconds && part.to.is_none() && part.wave.is_none();
                let last = parts.last().filter(is_settled)?;
                Some(last.value)
            }
        }
    }

    /// The values that it is made of.
    fn values(&self) -> Vec<f64> {
        match self {
            Self::Constant(value) => vec![*value],
            Self::Parts(parts) => parts.iter().flat_map(Part::values).collect(),
        }
    }
}

impl<'de> Deserialize<'de> for Course {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts;
        impl<'de> Visitor<'de> for Parts {
            type Value = Course;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a list of parts such as {\"from\": \"20m\", \"value\": 0.05}")
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Course, E> {
                Ok(Course::Constant(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Course, E> {
                Ok(Course::Constant(value as f64))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Course, E> {
                Ok(Course::Constant(value as f64))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Course, A::Error> {
                let mut all = Vec::new();
                while let Some(part) = parts.next_element::<Part>()? {
                    all.push(part);
                }
                Ok(Course::Parts(all))
            }
        }
        deserializer.deserialize_any(Parts)
    }
}

// === impl Part ===

impl Part {
    fn at(&self, seconds: f64) -> f64 {
        let since = seconds - self.from.0;
        let value = match (self.until, self.to) {
            (Some(until), Some(to)) => self.value + (until - self.value) * since / (to.0 - self.from.0),
            _ => self.value,
        };
        let wave = self.wave.map_or(1.0, |wave| 1.0 + wave.by * (std::f64::consts::TAU * since / wave.every.0).sin());
        value * wave
    }

    /// The least and the most that it can be.
    fn values(&self) -> Vec<f64> {
        let by = self.wave.map_or(0.0, |wave| wave.by.abs());
        let ends = [Some(self.value), self.until].into_iter().flatten();
        ends.flat_map(|value| [value * (1.0 - by), value * (1.0 + by)]).collect()
    }
}

// === impl Span ===

impl Span {
    fn hour() -> Self {
        Self(3_600.0)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "0s" {
            return Ok(Self(0.0));
        }
        let span = humantime::parse_duration(&text)
            .map_err(|error| de::Error::custom(format!("{text:?} is not a time such as 500ms, 2s or 10m: {error}")))?;
        Ok(Self(span.as_secs_f64()))
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        Duration::from_secs_f64(span.0)
    }
}

// === impl Limit ===

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "none" {
            return Ok(Self(None));
        }
        Span::deserialize(de::value::StringDeserializer::<D::Error>::new(text)).map(|span| Self(Some(span.0)))
    }
}

// === impl Latency ===

impl From<RawLatency> for Latency {
    fn from(RawLatency { median, sigma, tail }: RawLatency) -> Self {
        Self { median: median.0, sigma, tail }
    }
}

impl<'de> Deserialize<'de> for Latency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Times(PhantomData<()>);
        impl<'de> Visitor<'de> for Times {
            type Value = Latency;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as \"100ms\", or {\"median\": \"100ms\", \"sigma\": 0.5}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Latency, E> {
                let median = Span::deserialize(de::value::StrDeserializer::<E>::new(text))?;
                Ok(Latency { median: median.0, sigma: 0.0, tail: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Latency, A::Error> {
                RawLatency::deserialize(MapAccessDeserializer::new(members)).map(Into::into)
            }
        }
        deserializer.deserialize_any(Times(PhantomData))
    }
}
