//! Canaries to be judged: an hour of traffic each, and what is wrong with the candidate, if anything is.

use std::time::Duration;

use bluegreen_core::metrics::latency::Bucket;
use rand::RngExt;
use rand::rngs::StdRng;
use rand_distr::{Beta, Binomial, Distribution, Exp1, Normal, Poisson};

use super::TICKS_A_SECOND;

/// The candidate's share of the requests.
const SHARE: f64 = 0.1;
/// Requests a second, where the scenario does not say otherwise.
const RATE: f64 = 100.0;
/// Latency is lognormal: its median in milliseconds, and the deviation of its logarithm.
const MEDIAN_MS: f64 = 100.0;
const SIGMA: f64 = 0.5;

/// What goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Both colours fail with this rate.
    Healthy(f64),
    /// Traffic comes in waves of 20 and 400 requests a second, and so do errors: 0.2 %, and 20 % for some seconds.
    Bursty,
    /// Now and then everything fails for less than a tick.
    Blips,
    /// An hour with the shape of a day: traffic and errors rise and fall.
    Diurnal,
    /// For a minute nine in ten requests fail, to whichever colour, and most of the others are slow.
    Outage,
    /// Errors grow from 0.5 % to 5 % and slow answers to three times as many, in both colours.
    Drift,
    /// The active colour fails with the first rate, the candidate with the second.
    Errors(f64, f64),
    /// As [`Kind::Errors`], but the candidate fails like the active colour until so many seconds have passed.
    Late(f64, f64, u32),
    /// The candidate takes so many times as long.
    Slow(f64),
}

/// A scenario with its name.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub kind: Kind,
}

/// Nothing is wrong with the candidate that is not wrong with the active colour.
pub const HEALTHY: [Scenario; 8] = [
    Scenario::new("0.1 % errors", Kind::Healthy(0.001)),
    Scenario::new("1 % errors", Kind::Healthy(0.01)),
    Scenario::new("5 % errors", Kind::Healthy(0.05)),
    Scenario::new("bursts of traffic and errors", Kind::Bursty),
    Scenario::new("everything fails for 50 to 200 ms, again and again", Kind::Blips),
    Scenario::new("a day's rise and fall", Kind::Diurnal),
    Scenario::new("shared outage: 90 % errors for a minute", Kind::Outage),
    Scenario::new("slow drift: 0.5 to 5 % errors", Kind::Drift),
];

/// Something is wrong with the candidate.
pub const FAULTY: [Scenario; 9] = [
    Scenario::new("errors 1 → 1.5 %", Kind::Errors(0.01, 0.015)),
    Scenario::new("errors 1 → 2 %", Kind::Errors(0.01, 0.02)),
    Scenario::new("errors 1 → 3 %", Kind::Errors(0.01, 0.03)),
    Scenario::new("errors 1 → 5 %", Kind::Errors(0.01, 0.05)),
    Scenario::new("errors 1 → 20 %", Kind::Errors(0.01, 0.20)),
    Scenario::new("errors 0.1 → 1 %", Kind::Errors(0.001, 0.01)),
    Scenario::new("errors 1 → 5 % after 20 minutes", Kind::Late(0.01, 0.05, 1_200)),
    Scenario::new("latency × 1.2", Kind::Slow(1.2)),
    Scenario::new("latency × 2", Kind::Slow(2.0)),
];

/// What happened in one tick, to the active colour and to the candidate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tick {
    pub active: Counted,
    pub candidate: Counted,
}

/// Answers of one colour.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    pub answers: u64,
    pub errors: u64,
    pub slow: u64,
}

/// One hour of a scenario.
pub struct Hour {
    kind: Kind,
    random: StdRng,
    tick: u32,
    /// Shares of slow answers.
    slow: (f64, f64),
    wave: Switching,
    failing: Switching,
}

/// Something that is on and off for random times.
#[derive(Clone, Copy)]
struct Switching {
    on: bool,
    /// The mean lengths of off and on, in ticks.
    means: (f64, f64),
    left: f64,
}

// === impl Scenario ===

impl Scenario {
    const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind }
    }

    /// When the fault begins, in ticks.
    pub fn begins(&self) -> u32 {
        if let Kind::Late(_, _, seconds) = self.kind { seconds * TICKS_A_SECOND } else { 0 }
    }

    /// How many times as long as the active colour the candidate takes.
    pub fn slowdown(&self) -> f64 {
        if let Kind::Slow(times) = self.kind { times } else { 1.0 }
    }

    pub fn hour(&self, mut random: StdRng) -> Hour {
        // `over: auto`: the 190th of the active colour's first 200 answers, rounded up to a bucket's end.
        let rank: f64 = Beta::new(190.0, 11.0).expect("valid").sample(&mut random);
        let learned = MEDIAN_MS * (SIGMA * standard_quantile(rank)).exp();
        let bucket = Bucket::of(Duration::from_secs_f64(learned / 1_000.0));
        let bound = bucket.end_micros().expect("not the last") as f64 / 1_000.0;
        let share = |times: f64| 1.0 - standard_distribution((bound / (MEDIAN_MS * times)).ln() / SIGMA);
        let means = if self.kind == Kind::Blips { (40.0, 0.5) } else { (200.0, 12.0) };
        Hour {
            kind: self.kind,
            tick: 0,
            slow: (share(1.0), share(self.slowdown())),
            wave: Switching { on: false, means: (40.0, 40.0), left: 20.0 },
            failing: Switching { on: false, means, left: 40.0 },
            random,
        }
    }
}

// === impl Hour ===

impl Hour {
    /// The next tick.
    pub fn next(&mut self) -> Tick {
        let seconds = f64::from(self.tick) / f64::from(TICKS_A_SECOND);
        let hour = seconds / 3_600.0;
        let wave = 1.0 + 0.8 * (std::f64::consts::TAU * hour).sin();
        // Requests a second, the rates of errors, and how many times more answers are slow in both colours.
        let (rate, errors, slower) = match self.kind {
            Kind::Healthy(rate) => (RATE, (rate, rate), 1.0),
            Kind::Bursty => {
                let rate = if self.wave.step(&mut self.random) > 0.5 { 400.0 } else { 20.0 };
                let errors = 0.002 + 0.198 * self.failing.step(&mut self.random);
                (rate, (errors, errors), 1.0)
            }
            Kind::Blips => return self.blip(),
            Kind::Diurnal => (RATE * wave, (0.01 * wave, 0.01 * wave), wave),
            Kind::Outage if (1_200.0..1_260.0).contains(&seconds) => (RATE, (0.9, 0.9), 12.0),
            Kind::Outage => (RATE, (0.01, 0.01), 1.0),
            Kind::Drift => (RATE, (0.005 + 0.045 * hour, 0.005 + 0.045 * hour), 1.0 + 2.0 * hour),
            Kind::Errors(active, candidate) => (RATE, (active, candidate), 1.0),
            Kind::Late(active, candidate, from) => {
                (RATE, (active, if seconds >= f64::from(from) { candidate } else { active }), 1.0)
            }
            Kind::Slow(_) => (RATE, (0.01, 0.01), 1.0),
        };
        self.tick += 1;
        let slow = (self.slow.0 * slower, self.slow.1 * slower);
        Tick {
            active: self.colour(rate * (1.0 - SHARE), errors.0, slow.0),
            candidate: self.colour(rate * SHARE, errors.1, slow.1),
        }
    }

    /// A tick in a part of which everything fails: whose requests fall into that part is chance.
    fn blip(&mut self) -> Tick {
        self.tick += 1;
        let part = self.failing.step(&mut self.random);
        let mut tick = Tick {
            active: self.colour(RATE * (1.0 - SHARE), 0.005, self.slow.0),
            candidate: self.colour(RATE * SHARE, 0.005, self.slow.1),
        };
        for colour in [&mut tick.active, &mut tick.candidate] {
            colour.errors = colour.errors.max(binomial(&mut self.random, colour.answers, part));
        }
        tick
    }

    fn colour(&mut self, rate: f64, errors: f64, slow: f64) -> Counted {
        let mean = rate / f64::from(TICKS_A_SECOND);
        let answers =
            if mean > 0.0 { Poisson::new(mean).expect("positive").sample(&mut self.random) as u64 } else { 0 };
        Counted {
            answers,
            errors: binomial(&mut self.random, answers, errors),
            slow: binomial(&mut self.random, answers, slow),
        }
    }

    /// The mean latency of so many answers, in milliseconds.
    pub fn mean_latency(&mut self, answers: u64, times: f64) -> f64 {
        let mean = MEDIAN_MS * times * (SIGMA * SIGMA / 2.0).exp();
        let deviation = mean * ((SIGMA * SIGMA).exp() - 1.0).sqrt() / (answers.max(1) as f64).sqrt();
        Normal::new(mean, deviation).expect("finite").sample(&mut self.random)
    }
}

/// The 99th percentile of the latency of a colour that takes so many times as long, in milliseconds.
pub fn p99_ms(times: f64) -> f64 {
    MEDIAN_MS * times * (SIGMA * standard_quantile(0.99)).exp()
}

// === impl Switching ===

impl Switching {
    /// The part of the next tick in which it is on.
    fn step(&mut self, random: &mut StdRng) -> f64 {
        let (mut part, mut here) = (0.0, 0.0);
        while here < 1.0 {
            let length = self.left.min(1.0 - here);
            part += if self.on { length } else { 0.0 };
            here += length;
            self.left -= length;
            if self.left <= 0.0 {
                self.on = !self.on;
                let mean = if self.on { self.means.1 } else { self.means.0 };
                self.left = mean * random.sample::<f64, _>(Exp1);
            }
        }
        part.clamp(0.0, 1.0)
    }
}

fn binomial(random: &mut StdRng, trials: u64, rate: f64) -> u64 {
    if trials == 0 || rate <= 0.0 {
        return 0;
    }
    Binomial::new(trials, rate.min(1.0)).expect("a rate").sample(random)
}

/// The standard normal distribution.
pub fn standard_distribution(x: f64) -> f64 {
    0.5 * libm::erfc(-x / std::f64::consts::SQRT_2)
}

fn standard_quantile(rank: f64) -> f64 {
    let (mut low, mut high) = (-10.0, 10.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if standard_distribution(middle) < rank { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

// === tests ===

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn an_hour_has_the_rates_that_its_scenario_says() {
        let mut hour = Scenario::new("", Kind::Errors(0.01, 0.05)).hour(StdRng::seed_from_u64(1));
        let (mut active, mut candidate) = (Counted::default(), Counted::default());
        for _ in 0..3_600 * TICKS_A_SECOND {
            let tick = hour.next();
            for (sum, new) in [(&mut active, tick.active), (&mut candidate, tick.candidate)] {
                sum.answers += new.answers;
                sum.errors += new.errors;
                sum.slow += new.slow;
            }
        }
        let near = |seen: u64, of: u64, rate: f64| (seen as f64 / of as f64 - rate).abs() < 0.1 * rate;
        assert!(near(candidate.answers, 360_000, 0.1) && near(active.answers, 360_000, 0.9));
        assert!(near(active.errors, active.answers, 0.01) && near(candidate.errors, candidate.answers, 0.05));
        assert!(active.slow as f64 / (active.answers as f64) < 0.08);
    }

    #[test]
    fn the_normal_distribution_and_its_quantile_agree() {
        for rank in [0.01, 0.5, 0.95, 0.99] {
            assert!((standard_distribution(standard_quantile(rank)) - rank).abs() < 1e-12);
        }
    }
}
