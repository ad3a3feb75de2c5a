//! What a routed request costs Envoy in instructions, which a busy machine does not change: by valgrind's callgrind.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bluegreen_programs::Progress;
use bluegreen_testbed::Envoy;
use serde_json::json;
use tempfile::TempDir;

use crate::callgrind::{self, Callgrind};
use crate::lab::Lab;
use crate::open_loop::Connection;
use crate::overhead;
use crate::report::{BenchReport, Table};
use crate::rounds::Variant;

pub async fn run(lab: &Lab) -> Result<BenchReport> {
    callgrind::obtain()?;
    let folder = TempDir::with_prefix("bluegreen-bench-")?;
    let variants = overhead::for_instructions(lab, &folder)?;
    let mut table = Table::new("k instr", &["variant", "k"]);
    for variant in variants {
        let progress = Progress::start(variant.name.clone());
        let counted = measure(lab, &variant, &folder).await.with_context(|| variant.name.clone())?;
        progress.done(&format!("{}: {counted:?}", variant.name));
        table.row([variant.name.clone(), format!("{counted:.1?}")]);
    }
    Ok(BenchReport {
        title: "Instructions".to_owned(),
        tables: vec![table],
        measurements: json!({}),
        ..BenchReport::default()
    })
}

/// Requests of a load as fast as answers come, and of one that lasts as long: what a thread does all the time, such as a
/// tick of the filter, is in both.
const FAST: u32 = 600;
const SLOW: u32 = 60;

async fn measure(lab: &Lab, variant: &Variant, folder: &TempDir) -> Result<Vec<f64>> {
    let options = Envoy::with(variant.bootstrap.clone()).binary(&lab.binary).concurrency(1);
    let envoy = options.observed_by(&callgrind::observer(folder.path())).start().await?;
    let callgrind = Callgrind::of(envoy.id());
    load(&envoy, variant, 200, Duration::ZERO).await?;
    callgrind.count()?;
    load(&envoy, variant, 50, Duration::ZERO).await?;
    let mut counts = Vec::new();
    for _ in 0..2 {
        let before = callgrind.instructions()?;
        let lasting = load(&envoy, variant, FAST, Duration::ZERO).await?;
        let between = callgrind.instructions()?;
        load(&envoy, variant, SLOW, lasting / SLOW).await?;
        let after = callgrind.instructions()?;
        let (fast, slow) = ((between - before) as f64, (after - between) as f64);
        let each = (fast - slow) / f64::from(FAST - SLOW);
        let beside = (slow - each * f64::from(SLOW)) / lasting.as_secs_f64();
        counts.push(each / 1e3);
        eprintln!("{lasting:?}: {:.1} k a request, {:.0} k a second", each / 1e3, beside / 1e3);
    }
    eprintln!("upstream connections: {}", envoy.stat("cluster.blue.upstream_cx_total").await?);
    ensure!(!counts.is_empty());
    Ok(counts)
}

async fn load(envoy: &Envoy, variant: &Variant, requests: u32, apart: Duration) -> Result<Duration> {
    let named = |name: &str| variant.headers.iter().any(|(header, _)| header.eq_ignore_ascii_case(name));
    let mut text = format!("POST {} HTTP/1.1\r\ncontent-length: 2\r\n", variant.path);
    if !named("host") {
        text += "host: iris\r\n";
    }
    text += &variant.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<String>();
    text += "\r\n{}";
    let address = envoy.traffic()?;
    let send = move || {
        let start = Instant::now();
        let mut connection = Connection::open(address)?;
        for request in 0..requests {
            thread::sleep((start + apart * request).saturating_duration_since(Instant::now()));
            connection.exchange(text.as_bytes())?;
        }
        thread::sleep((start + apart * requests).saturating_duration_since(Instant::now()));
        Ok(start.elapsed())
    };
    tokio::task::spawn_blocking(send).await.context("the load panicked")?
}
