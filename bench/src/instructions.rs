//! What a routed request costs Envoy in instructions, which a busy machine does not change: counted by [`callgrind`].
//!
//! Envoy's clocks go on by a millisecond with each request ([`paced_clock`]). So what it does all the time, such as the filter's
//! ticks, has the share that it has at 1,000 requests a second, however slow valgrind makes it.
//!
//! [`callgrind`]: crate::callgrind
//! [`paced_clock`]: crate::paced_clock

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bluegreen_programs::{Progress, valgrind};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::TempDir;

use crate::callgrind::{Callgrind, Events, Profile, Simulation};
use crate::lab::Lab;
use crate::open_loop::Connection;
use crate::paced_clock::PacedClock;
use crate::report::{BenchReport, Table, Target};
use crate::rounds::Variant;
use crate::statistics::Spread;
use crate::variants::{self, EVERYTHING, LUA, NATIVE, PLAIN, SAME_CALLS, WITH_MATCH};

/// What a short run measures.
const QUICK: [&str; 7] = [NATIVE, LUA, "wasm: sets one header", SAME_CALLS, PLAIN, WITH_MATCH, EVERYTHING];

/// How far the measurements of one variant may lie apart, as a share of their median.
const LARGEST_SPREAD: f64 = 0.03;

/// Time between two requests, by Envoy's clocks.
const BETWEEN: Duration = Duration::from_millis(1);

/// Requests before anything is counted, in which V8 compiles its own glue, and before it is counted to the end.
const WARM_UP: [u32; 2] = [200, 50];

const BUDGETS: &str = include_str!("../budgets.json");

/// How thoroughly to measure.
#[derive(Clone, Copy, Debug, Serialize)]
struct Plan {
    /// Envoys of each variant, and measurements with each of them.
    envoys: usize,
    series: usize,
    /// Requests of a measurement: as many as there are between some ticks.
    requests: u32,
    #[serde(skip)]
    simulation: Simulation,
}

/// All measurements of one variant: thousand instructions of a request.
#[derive(Clone, Debug, Serialize)]
struct Counted {
    name: String,
    series: Vec<Profile>,
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
    let plan =
        Plan { envoys: lab.pick(1, 2), series: 2, requests: lab.pick(500, 1000), simulation: Simulation::Caches };
    report(plan, &count(lab, plan, |name| names.is_none_or(|names| names.contains(&name))).await?)
}

/// Measures what has a budget.
///
/// # Errors
/// One is exceeded.
pub async fn check_budgets(lab: &Lab) -> Result<()> {
    let Budgets { budgets } = serde_json::from_str(BUDGETS).context("bench/budgets.json")?;
    let plan = Plan { envoys: 1, series: 2, requests: 500, simulation: Simulation::Off };
    let is_wanted = |name: &str| name == NATIVE || budgets.iter().any(|budget| budget.variant == name);
    let counted = count(lab, plan, is_wanted).await?;
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
            let totals: Vec<_> = series.iter().map(|profile| format!("{:.1}", profile.total().instructions)).collect();
            eprintln!("{}: {} thousand instructions", variant.name, totals.join(", "));
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

async fn measure(lab: &Lab, variant: &Variant, plan: Plan) -> Result<Vec<Profile>> {
    let folder = TempDir::with_prefix("bluegreen-callgrind-")?;
    let clock = PacedClock::new(folder.path())?;
    let command = [clock.command.clone(), Callgrind::command(folder.path(), plan.simulation)].concat();
    let envoy = lab.start_observed(variant.bootstrap.clone(), &command).await?;
    let callgrind = Callgrind::of(envoy.id(), folder.path());
    let load = Load { address: envoy.traffic()?, request: request(variant), clock: Arc::new(Mutex::new(clock)) };
    load.send(WARM_UP[0]).await?;
    callgrind.start().await?;
    load.send(WARM_UP[1]).await?;
    callgrind.take().await?;
    let mut series = Vec::new();
    for _ in 0..plan.series {
        load.send(plan.requests).await?;
        series.push(callgrind.take().await?.per(f64::from(plan.requests) * 1e3));
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
    let native = of(NATIVE)?.total();
    let mut exceeded = Vec::new();
    for budget in budgets {
        let k = of(&budget.variant)?.total();
        println!(
            "{}: {k:.1} of {} thousand instructions, {:.3} of {} × native",
            budget.variant,
            budget.k,
            k / native,
            budget.times_native
        );
        if k > budget.k && k / native > budget.times_native {
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
    let mut table =
        Table::new("Thousand instructions of a request, in user space", &["variant", "k", "÷ native", "apart"]);
    let mut parts = Table::new("Whose they are", &["variant", "Envoy", "compiled by V8, and unknown", "C library"]);
    let mut waits = Table::new(
        "What the processor waits for, simulated",
        &[
            "variant",
            "L1 misses, instructions",
            "in what V8 compiled",
            "L1 misses, data",
            "L2 misses",
            "mispredicted branches",
        ],
    );
    for variant in counted {
        table.row([
            variant.name.clone(),
            format!("{:.1}", variant.total()),
            format!("{:.3}", variant.total() / native.total()),
            format!("{:.1} %", 100.0 * variant.apart()),
        ]);
        let shares = [
            variant.median(|profile| profile.envoy.instructions),
            variant.median(|profile| profile.compiled.instructions),
            variant.median(|profile| profile.libraries.instructions),
        ];
        parts.row([variant.name.clone()].into_iter().chain(shares.map(|k| format!("{k:.1}"))));
        let each = |figure: fn(&Events) -> f64| 1e3 * variant.median(|profile| figure(&profile.total()));
        let found = [
            each(|events| events.l1_instruction_misses),
            1e3 * variant.median(|profile| profile.compiled.l1_instruction_misses),
            each(|events| events.l1_data_misses),
            each(|events| events.l2_misses),
            each(|events| events.mispredicted_branches),
        ];
        waits.row([variant.name.clone()].into_iter().chain(found.map(|count| format!("{count:.0}"))));
    }
    let calls = of(SAME_CALLS)?.total();
    let own = of(WITH_MATCH)?.total() / calls;
    let why = format!(
        "a wasm filter that makes the same host calls and decides nothing takes {calls:.0} k already, {:.2} × native",
        calls / native.total()
    );
    Ok(BenchReport {
        title: "Instructions: what a routed request costs on any machine".to_owned(),
        method: vec![
            format!(
                "Envoy of one worker under valgrind's callgrind, one connection, `POST` with two bytes. {} Envoys of each variant, {} \
                 measurements of {} requests with each. By Envoy's clocks, which the bench moves, 1,000 requests come in a second: that \
                 is the share of ticks, probes and Envoy's own timers.",
                plan.envoys, plan.series, plan.requests
            ),
            format!(
                "\"Apart\" is how far the measurements of a variant lie apart; above {:.0} % the bench fails. Client and upstream are \
                 not under valgrind, and the kernel is not counted.",
                100.0 * LARGEST_SPREAD
            ),
        ],
        tables: vec![table, parts, waits],
        targets: vec![
            Target::at_most("bluegreen plain", 205.0, of(PLAIN)?.total(), "k", &why),
            Target::at_most("bluegreen with match", 218.0, of(WITH_MATCH)?.total(), "k", &why),
            Target::at_most("bluegreen with everything", 245.0, of(EVERYTHING)?.total(), "k", &why),
            Target::at_most("bluegreen with match ÷ the same host calls", 1.05, own, "×", "the filter's own code"),
        ],
        notes: vec![
            "Envoy's binary contains V8's runtime. What V8 compiles is the filter's code and the glue around its calls; callgrind \
             knows no name for it, nor for what stands in that column without a wasm filter."
                .to_owned(),
            "Misses are callgrind's, of a core with 32 KiB for instructions, 32 KiB for data and 512 KiB behind them, 8 ways and 64 \
             bytes a line, that one thread has to itself. A real processor fetches ahead and guesses better; address translation \
             is not simulated."
                .to_owned(),
        ],
        measurements: json!({"plan": plan, "variants": counted}),
    })
}

/// The one connection of a measurement.
struct Load {
    address: SocketAddr,
    request: Vec<u8>,
    clock: Arc<Mutex<PacedClock>>,
}

// === impl Load ===

impl Load {
    async fn send(&self, requests: u32) -> Result<()> {
        let (address, request, clock) = (self.address, self.request.clone(), Arc::clone(&self.clock));
        let send = move || {
            let mut clock = clock.lock().map_err(|_| anyhow!("the load panicked"))?;
            let mut connection = Connection::open(address)?;
            (0..requests).try_for_each(|_| {
                connection.exchange(&request)?;
                clock.pass(BETWEEN)
            })
        };
        tokio::task::spawn_blocking(send).await.context("the load panicked")?
    }
}

// === impl Counted ===

impl Counted {
    fn median(&self, figure: impl Fn(&Profile) -> f64) -> f64 {
        Spread::of(&self.series.iter().map(figure).collect::<Vec<_>>()).median
    }

    fn total(&self) -> f64 {
        self.median(|profile| profile.total().instructions)
    }

    /// How far the measurements lie apart, as a share of their median.
    fn apart(&self) -> f64 {
        let totals = self.series.iter().map(|profile| profile.total().instructions);
        let (least, most) = (totals.clone().fold(f64::INFINITY, f64::min), totals.fold(0.0, f64::max));
        (most - least) / self.total()
    }

    fn ensure_it_repeats(&self) -> Result<()> {
        if self.apart() > LARGEST_SPREAD {
            let totals: Vec<_> =
                self.series.iter().map(|series| format!("{:.1}", series.total().instructions)).collect();
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
        let of = |k: &f64| Events { instructions: *k, ..Events::default() };
        let series = k.iter().map(|k| Profile { envoy: of(k), ..Profile::default() });
        Counted { name: name.to_owned(), series: series.collect() }
    }

    fn budget(variant: &str, k: f64, times_native: f64) -> Budget {
        Budget { variant: variant.to_owned(), k, times_native, why: "measured".to_owned() }
    }

    #[test]
    fn a_budget_is_exceeded_when_both_of_its_figures_are() -> Result<()> {
        let budgets = [budget(PLAIN, 210.0, 1.3)];
        for (native, plain, expected) in [
            (160.0, 200.0, 0),
            (160.0, 212.0, 1),
            // A costlier Envoy.
            (169.0, 215.0, 0),
            // A cheaper one.
            (150.0, 209.0, 0),
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
        assert_eq!(names, [PLAIN, WITH_MATCH, EVERYTHING]);
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
