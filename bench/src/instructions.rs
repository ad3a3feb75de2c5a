//! What a routed request costs Envoy in instructions, which a busy machine does not change: counted by [`callgrind`].
//!
//! Two loads follow each other for as long as each other: one as fast as answers come, and one of a quarter of the requests.
//! What Envoy does all the time, such as the filter's ticks, is in both; the difference is what requests cost.
//! [`callgrind`]: crate::callgrind

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bluegreen_programs::{Progress, valgrind};
use bluegreen_testbed::Envoy;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::TempDir;

use crate::callgrind::{Callgrind, Profile};
use crate::lab::Lab;
use crate::open_loop::Connection;
use crate::report::{BenchReport, Table, Target};
use crate::rounds::Variant;
use crate::statistics::Spread;
use crate::variants::{self, EVERYTHING, LUA, NATIVE, PLAIN, SAME_CALLS, WITH_MATCH};

/// What a short run measures.
const QUICK: [&str; 7] = [NATIVE, LUA, "wasm: sets one header", SAME_CALLS, PLAIN, WITH_MATCH, EVERYTHING];

/// How far the measurements of one variant may lie apart, as a share of their median.
const LARGEST_SPREAD: f64 = 0.03;

/// The rate at which the work beside requests is shared out.
const REQUESTS_PER_SECOND: f64 = 1000.0;

/// How many times fewer requests the slow load has. Still some of them come before each tick, so that a tick has the same to
/// do as in the fast one.
const SLOWER: u32 = 4;

/// Requests before anything is counted, which V8 needs to compile its own glue, and before it is counted to the end.
const WARM_UP: [u32; 2] = [200, 50];

const BUDGETS: &str = include_str!("../budgets.json");

/// How thoroughly to measure.
#[derive(Clone, Copy, Debug, Serialize)]
struct Plan {
    /// Envoys of each variant, and measurements with each of them.
    envoys: usize,
    series: usize,
    /// Requests of the fast load.
    requests: u32,
}

/// One measurement: thousand instructions.
#[derive(Clone, Copy, Debug, Serialize)]
struct Series {
    request: Profile,
    /// In a second, beside requests.
    beside: f64,
    lasted: f64,
}

/// All measurements of one variant.
#[derive(Clone, Debug, Serialize)]
struct Counted {
    name: String,
    series: Vec<Series>,
}

/// What the file of budgets says.
#[derive(Deserialize)]
struct Budgets {
    budgets: Vec<Budget>,
}

/// What a variant may cost.
#[derive(Clone, Debug, Deserialize)]
struct Budget {
    variant: String,
    k: f64,
    times_native: f64,
    why: String,
}

/// Measures and compares with what was wanted.
pub async fn run(lab: &Lab) -> Result<BenchReport> {
    let names = lab.quick.then_some(&QUICK[..]);
    let plan = Plan { envoys: lab.pick(1, 2), series: lab.pick(2, 2), requests: lab.pick(400, 1200) };
    report(plan, &count(lab, plan, |name| names.is_none_or(|names| names.contains(&name))).await?)
}

/// Measures what has a budget.
///
/// # Errors
/// One is exceeded.
pub async fn check_budgets(lab: &Lab) -> Result<()> {
    let Budgets { budgets } = serde_json::from_str(BUDGETS).context("bench/budgets.json")?;
    let plan = Plan { envoys: 1, series: 2, requests: 400 };
    let counted = count(lab, plan, |name| budgets.iter().any(|budget| budget.variant == name)).await?;
    let exceeded = exceeded(&budgets, &counted)?;
    ensure!(exceeded.is_empty(), "requests cost more than bench/budgets.json allows:\n{}", exceeded.join("\n"));
    Ok(())
}

async fn count(lab: &Lab, plan: Plan, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<Counted>> {
    valgrind::obtain()?;
    let folder = TempDir::with_prefix("bluegreen-bench-")?;
    let variants: Vec<Variant> = variants::all(lab, &folder)?
        .into_iter()
        // The processor's own work is in another process.
        .filter(|variant| !variant.external_processor && is_wanted(&variant.name))
        .collect();
    let title = format!("{} variants, {} Envoys of each under valgrind", variants.len(), plan.envoys);
    let progress = Progress::start(title.clone());
    let next = AtomicUsize::new(0);
    // Instructions do not depend on what runs beside.
    let some = || async {
        let mut counted = Vec::new();
        loop {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            let Some(variant) = variants.get(turn % variants.len()).filter(|_| turn < variants.len() * plan.envoys)
            else {
                return anyhow::Ok(counted);
            };
            progress.detail(&variant.name);
            let series = measure(lab, variant, plan).await.with_context(|| variant.name.clone())?;
            counted.push((turn % variants.len(), series));
        }
    };
    let (mut counted, more) = tokio::try_join!(some(), some())?;
    counted.extend(more);
    progress.done(&title);
    let counted = variants.iter().enumerate().map(|(index, variant)| {
        let series = counted.iter().filter(|(of, _)| *of == index).flat_map(|(_, series)| series.clone());
        Counted { name: variant.name.clone(), series: series.collect() }
    });
    let counted: Vec<Counted> = counted.collect();
    counted.iter().try_for_each(Counted::ensure_it_repeats)?;
    Ok(counted)
}

async fn measure(lab: &Lab, variant: &Variant, plan: Plan) -> Result<Vec<Series>> {
    let folder = TempDir::with_prefix("bluegreen-callgrind-")?;
    let envoy = lab.start_observed(variant.bootstrap.clone(), &Callgrind::command(folder.path())).await?;
    let callgrind = Callgrind::of(envoy.id(), folder.path());
    let load = Load { envoy: &envoy, request: request(variant) };
    load.send(WARM_UP[0], Duration::ZERO).await?;
    callgrind.start().await?;
    load.send(WARM_UP[1], Duration::ZERO).await?;
    let mut series = Vec::new();
    for _ in 0..plan.series {
        callgrind.take().await?;
        let lasted = load.send(plan.requests, Duration::ZERO).await?;
        let fast = callgrind.take().await?;
        let few = plan.requests / SLOWER;
        load.send(few, lasted / few).await?;
        let slow = callgrind.take().await?;
        series.push(Series::between(&fast, &slow, (plan.requests, few), lasted));
    }
    Ok(series)
}

fn request(variant: &Variant) -> Vec<u8> {
    let named = |name: &str| variant.headers.iter().any(|(header, _)| header.eq_ignore_ascii_case(name));
    let mut text = format!("POST {} HTTP/1.1\r\ncontent-length: 2\r\n", variant.path);
    if !named("host") {
        text += "host: iris\r\n";
    }
    text += &variant.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<String>();
    (text + "\r\n{}").into_bytes()
}

/// Those that are exceeded, in a sentence each.
fn exceeded(budgets: &[Budget], counted: &[Counted]) -> Result<Vec<String>> {
    let of =
        |name: &str| counted.iter().find(|counted| counted.name == name).with_context(|| format!("no variant {name}"));
    let native = of(NATIVE)?.at_a_rate();
    let mut exceeded = Vec::new();
    for budget in budgets {
        let k = of(&budget.variant)?.at_a_rate();
        println!(
            "{}: {k:.1} of {} thousand instructions, {:.3} of {} × native",
            budget.variant,
            budget.k,
            k / native,
            budget.times_native
        );
        if k > budget.k && (k / native > budget.times_native || budget.variant == NATIVE) {
            exceeded.push(format!(
                "{}: {k:.1} thousand instructions, {:.3} × native; allowed: {} or {} × ({})",
                budget.variant,
                k / native,
                budget.k,
                budget.times_native,
                budget.why
            ));
        }
    }
    Ok(exceeded)
}

fn report(plan: Plan, counted: &[Counted]) -> Result<BenchReport> {
    let of =
        |name: &str| counted.iter().find(|counted| counted.name == name).with_context(|| format!("no variant {name}"));
    let native = of(NATIVE)?;
    let mut table = Table::new(
        "Thousand instructions of a request, in user space",
        &["variant", "k", "apart", "beside requests, in a second", "k at 1,000 requests a second", "÷ native"],
    );
    let mut parts = Table::new("Whose they are", &["variant", "Envoy", "compiled by V8", "C library"]);
    for variant in counted {
        let request = variant.request();
        table.row([
            variant.name.clone(),
            format!("{:.1}", request.total()),
            format!("{:.1} %", 100.0 * variant.apart()),
            format!("{:.0}", variant.beside()),
            format!("{:.1}", variant.at_a_rate()),
            format!("{:.3}", variant.at_a_rate() / native.at_a_rate()),
        ]);
        parts.row(
            [variant.name.clone()]
                .into_iter()
                .chain([request.envoy, request.compiled, request.libraries].map(|k| format!("{k:.1}"))),
        );
    }
    let calls = of(SAME_CALLS)?.at_a_rate();
    let own = of(WITH_MATCH)?.at_a_rate() / calls;
    let why = format!(
        "a wasm filter that makes the same host calls and decides nothing takes {calls:.0} k already, {:.2} × native",
        calls / native.at_a_rate()
    );
    Ok(BenchReport {
        title: "Instructions: what a routed request costs on any machine".to_owned(),
        method: vec![
            format!(
                "Envoy of one worker under valgrind's callgrind, one connection, `POST` with two bytes. {} Envoys of each variant, \
                 {} measurements of each Envoy: {} requests as fast as answers come, then a quarter of them in the same time; the \
                 difference is what requests cost, and the rest is beside them (ticks, probes, Envoy's own timers).",
                plan.envoys, plan.series, plan.requests
            ),
            format!(
                "\"Apart\" is how far the measurements of a variant lie apart; above {:.0} % the bench fails. Client and upstream are \
                 not under valgrind, and the kernel is not counted.",
                100.0 * LARGEST_SPREAD
            ),
        ],
        tables: vec![table, parts],
        targets: vec![
            Target::at_most("bluegreen plain", 205.0, of(PLAIN)?.at_a_rate(), "k", &why),
            Target::at_most("bluegreen with match", 218.0, of(WITH_MATCH)?.at_a_rate(), "k", &why),
            Target::at_most("bluegreen with everything", 245.0, of(EVERYTHING)?.at_a_rate(), "k", &why),
            Target::at_most("bluegreen with match ÷ the same host calls", 1.05, own, "×", "the filter's own code"),
        ],
        notes: vec!["Envoy's binary contains V8's runtime; what V8 compiles is the filter's code and the glue around its calls.".to_owned()],
        measurements: json!({"plan": plan, "variants": counted}),
    })
}

/// The one connection of a measurement.
struct Load<'a> {
    envoy: &'a Envoy,
    request: Vec<u8>,
}

// === impl Load ===

impl Load<'_> {
    /// Sends so many requests so far apart, and returns how long that took.
    async fn send(&self, requests: u32, apart: Duration) -> Result<Duration> {
        let (address, request) = (self.envoy.traffic()?, self.request.clone());
        let send = move || {
            let start = Instant::now();
            let until = |count: u32| thread::sleep((start + apart * count).saturating_duration_since(Instant::now()));
            let mut connection = Connection::open(address)?;
            for count in 0..requests {
                until(count);
                connection.exchange(&request)?;
            }
            until(requests);
            Ok(start.elapsed())
        };
        tokio::task::spawn_blocking(send).await.context("the load panicked")?
    }
}

// === impl Series ===

impl Series {
    fn between(fast: &Profile, slow: &Profile, (many, few): (u32, u32), lasted: Duration) -> Self {
        let request = fast.with(slow, |fast, slow| (fast - slow) / f64::from(many - few) / 1e3);
        let beside = (slow.total() / 1e3 - request.total() * f64::from(few)) / lasted.as_secs_f64();
        Self { request, beside, lasted: lasted.as_secs_f64() }
    }
}

// === impl Counted ===

impl Counted {
    fn median(&self, figure: impl Fn(&Series) -> f64) -> f64 {
        Spread::of(&self.series.iter().map(figure).collect::<Vec<_>>()).median
    }

    fn request(&self) -> Profile {
        Profile {
            envoy: self.median(|series| series.request.envoy),
            compiled: self.median(|series| series.request.compiled),
            libraries: self.median(|series| series.request.libraries),
        }
    }

    fn beside(&self) -> f64 {
        self.median(|series| series.beside)
    }

    /// A request's thousand instructions with its share of what is done beside requests.
    fn at_a_rate(&self) -> f64 {
        self.median(|series| series.request.total() + series.beside / REQUESTS_PER_SECOND)
    }

    /// How far the measurements lie apart, as a share of their median.
    fn apart(&self) -> f64 {
        let totals = self.series.iter().map(|series| series.request.total());
        let (least, most) = (totals.clone().fold(f64::INFINITY, f64::min), totals.fold(0.0, f64::max));
        (most - least) / self.median(|series| series.request.total())
    }

    fn ensure_it_repeats(&self) -> Result<()> {
        if self.apart() > LARGEST_SPREAD {
            let totals: Vec<_> = self.series.iter().map(|series| format!("{:.1}", series.request.total())).collect();
            bail!(
                "{}: measurements of {} thousand instructions lie {:.1} % apart, and more than {:.0} % says nothing: run it again \
                 when the machine is less busy",
                self.name,
                totals.join(", "),
                100.0 * self.apart(),
                100.0 * LARGEST_SPREAD
            );
        }
        Ok(())
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(name: &str, k: &[f64]) -> Counted {
        let series = k.iter().map(|k| {
            let request = Profile { envoy: *k, ..Profile::default() };
            Series { request, beside: 0.0, lasted: 1.0 }
        });
        Counted { name: name.to_owned(), series: series.collect() }
    }

    fn budget(variant: &str, k: f64, times_native: f64) -> Budget {
        Budget { variant: variant.to_owned(), k, times_native, why: "measured".to_owned() }
    }

    #[test]
    fn what_goes_on_all_the_time_is_not_counted_as_a_request() {
        let profile = |envoy: f64| Profile { envoy, ..Profile::default() };
        // 200 k a request, and 3 million a second.
        let (fast, slow) = (profile(400.0 * 200e3 + 4.0 * 3e6), profile(100.0 * 200e3 + 4.0 * 3e6));
        let series = Series::between(&fast, &slow, (400, 100), Duration::from_secs(4));
        assert_eq!((series.request.total(), series.beside), (200.0, 3000.0));
    }

    #[test]
    fn a_budget_is_exceeded_when_both_of_its_figures_are() -> Result<()> {
        let budgets = [budget(NATIVE, 170.0, 1.0), budget(PLAIN, 210.0, 1.3)];
        for (native, plain, expected) in [
            (160.0, 200.0, 0),
            (160.0, 212.0, 1),
            // A costlier Envoy.
            (169.0, 215.0, 0),
            // A cheaper one.
            (150.0, 209.0, 0),
            // What is compared with has changed.
            (171.0, 171.0, 1),
        ] {
            let found = exceeded(&budgets, &[counted(NATIVE, &[native]), counted(PLAIN, &[plain])])?;
            assert_eq!(found.len(), expected, "{native} {plain}: {found:?}");
        }
        assert!(exceeded(&budgets, &[counted(NATIVE, &[160.0])]).is_err(), "a variant is missing");
        Ok(())
    }

    #[test]
    fn budgets_are_of_variants_that_exist_and_give_their_reason() -> Result<()> {
        let Budgets { budgets } = serde_json::from_str(BUDGETS)?;
        let names: Vec<_> = budgets.iter().map(|budget| budget.variant.as_str()).collect();
        assert_eq!(names, [NATIVE, PLAIN, WITH_MATCH, EVERYTHING]);
        assert!(budgets.iter().all(|budget| !budget.why.is_empty() && budget.k > 0.0 && budget.times_native >= 1.0));
        Ok(())
    }

    #[test]
    fn measurements_that_lie_too_far_apart_are_an_error() {
        assert!(counted(PLAIN, &[200.0, 205.0]).ensure_it_repeats().is_ok());
        let error = counted(PLAIN, &[200.0, 207.0]).ensure_it_repeats().unwrap_err();
        assert!(error.to_string().contains("200.0, 207.0 thousand instructions lie 3.4 % apart"), "{error}");
    }
}
