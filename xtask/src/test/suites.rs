//! The table of suites. A new suite is a line here and a function that adds its rows to the report.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use bluegreen_programs::compose;
use bluegreen_programs::definitions::{self, DEFINITIONS};
use bluegreen_programs::envoy::{ENVOY, Envoy};
use bluegreen_programs::mlflow;
use bluegreen_programs::schemathesis;
use bluegreen_programs::toolchain::WasmToolchain;
use bluegreen_programs::wasm_bindgen;
use bluegreen_programs::{envoy_gateway, etcd, istiod, kubernetes, packages, process, valgrind};

use crate::deny;
use crate::dist;
use crate::fuzz::Targets;
use crate::imports;
use crate::last_release;
use crate::lint;
use crate::program;
use crate::workflows;

use super::programs::Tests;
use super::report::Report;
use super::session::Session;

/// Tests that are chosen together.
pub struct Suite {
    /// The word for `--suite`.
    pub name: &'static str,
    /// Whether it runs tests that have names.
    pub has_tests: bool,
    /// Minutes that it may take, for `--within`: an estimate from above, after a run on a slow machine that had built nothing
    /// yet (2026-11-29).
    pub longest: u64,
    /// Those of its tests that this machine runs itself.
    pub tests: &'static [Tests],
    pub run: fn(&Session<'_>, &[Envoy], &mut Report),
}

/// In the order of running: what fails soonest comes first.
pub const SUITES: &[Suite] = &[
    Suite { name: "lint", longest: 15, has_tests: false, tests: &[], run: lint },
    Suite { name: "dependencies", longest: 5, has_tests: false, tests: &[], run: dependencies },
    Suite { name: "core", longest: 10, has_tests: true, tests: CORE, run: core },
    Suite { name: "filter", longest: 5, has_tests: true, tests: FILTER, run: filter },
    Suite { name: "tools", longest: 15, has_tests: true, tests: TOOLS, run: tools },
    Suite { name: "fuzz", longest: 15, has_tests: false, tests: &[], run: fuzz },
    Suite { name: "wasm", longest: 20, has_tests: true, tests: &[], run: wasm },
    Suite { name: "e2e", longest: 30, has_tests: true, tests: END_TO_END, run: end_to_end },
    Suite { name: "openapi", longest: 6, has_tests: true, tests: OPENAPI, run: openapi },
    Suite { name: "demo", longest: 12, has_tests: false, tests: &[], run: demo },
    Suite { name: "mlflow", longest: 8, has_tests: true, tests: MLFLOW, run: mlflow },
    Suite { name: "observability", longest: 3, has_tests: true, tests: OBSERVABILITY, run: observability },
    Suite { name: "image", longest: 6, has_tests: true, tests: IMAGE, run: image },
    Suite { name: "compose", longest: 10, has_tests: true, tests: COMPOSE, run: docker_compose },
    Suite { name: "fleet", longest: 10, has_tests: true, tests: FLEET, run: fleet },
    Suite { name: "mesh", longest: LONGEST_OF_MESH, has_tests: true, tests: MESH, run: mesh },
    Suite { name: "upgrade", longest: 5, has_tests: true, tests: UPGRADE, run: upgrade },
    Suite { name: "endurance", longest: 5, has_tests: false, tests: &[], run: endurance },
    Suite { name: "budget", longest: 12, has_tests: false, tests: &[], run: budget },
    Suite { name: "bench", longest: 6, has_tests: false, tests: &[], run: bench },
];

const CORE: &[Tests] = &[Tests::Package("bluegreen-core")];
const FILTER: &[Tests] = &[Tests::Package("bluegreen")];
/// What is around the filter: the model servers, the testbed, these tasks.
const TOOLS: &[Tests] = &[
    Tests::Package("bluegreen-bench"),
    Tests::Package("bluegreen-ci"),
    Tests::Package("bluegreen-cli"),
    Tests::Package("bluegreen-demo"),
    Tests::Package("bluegreen-model-server"),
    Tests::Package("bluegreen-openapi"),
    Tests::Package("bluegreen-programs"),
    Tests::Package("bluegreen-testbed"),
    Tests::Package("xtask"),
];
const END_TO_END: &[Tests] = &[Tests::Program("e2e")];
const OPENAPI: &[Tests] = &[Tests::Program("openapi")];
const MLFLOW: &[Tests] = &[Tests::Program("mlflow")];
const OBSERVABILITY: &[Tests] = &[Tests::Program("observability")];
const IMAGE: &[Tests] = &[Tests::Program("image")];
const COMPOSE: &[Tests] = &[Tests::Program("compose")];
const FLEET: &[Tests] = &[Tests::Program("fleet")];
const MESH: &[Tests] = &[Tests::Program("mesh")];
const UPGRADE: &[Tests] = &[Tests::Program("upgrade")];

/// Once the control planes are built.
const LONGEST_OF_MESH: u64 = 12;

/// Names the command line to the tests of it.
const COMMAND_LINE: &str = "BLUEGREEN_CLI";

/// Names the module of the last release.
const LAST_RELEASE: &str = "BLUEGREEN_LAST_RELEASE";

/// How many fuzz targets run at the same time.
const AT_A_TIME: usize = 2;

/// How many tests of a program run at the same time.
const TEST_THREADS: &str = "RUST_TEST_THREADS";

fn lint(session: &Session<'_>, _: &[Envoy], report: &mut Report) {
    report.check("lint, format", || lint::format(session.checkout));
    report.check("lint, imports", || imports::check(session.checkout));
    report.check("lint, clippy for the host", || lint::clippy_for_host(session.checkout));
    report.check("lint, clippy for wasm32", || lint::clippy_for_wasm(session.toolchain()?));
    report.check("lint, workflows", || workflows::check(session.checkout));
}

/// What the project is built from.
fn dependencies(session: &Session<'_>, _: &[Envoy], report: &mut Report) {
    report.check("dependencies: licences, duplicates, sources", || deny::check(session.checkout));
    report.check("dependencies: advisories", || deny::advisories(session.checkout));
}

fn core(session: &Session<'_>, _: &[Envoy], report: &mut Report) {
    report.tests("core", || session.run(CORE, |_| ()));
}

/// The filter over a fake host.
fn filter(session: &Session<'_>, _: &[Envoy], report: &mut Report) {
    report.tests("filter", || session.run(FILTER, |_| ()));
}

fn tools(session: &Session<'_>, _: &[Envoy], report: &mut Report) {
    report.tests("tools", || session.run(TOOLS, |_| ()));
}

/// What comes from outside, made up: a row for each target.
fn fuzz(session: &Session<'_>, _: &[Envoy], report: &mut Report) {
    let mut targets = None;
    let built = report.check("build of the fuzz targets", || {
        targets = Some(Targets::build(session.checkout)?);
        Ok(())
    });
    let Some(targets) = targets.filter(|_| built) else {
        return report.skip("fuzz", "there is nothing to run");
    };
    let for_so_long = match session.fuzz_time.as_secs() {
        0 => "seeds".to_owned(),
        seconds => format!("{seconds} s"),
    };
    let names = targets.named(session.filter.as_deref());
    let rows: Vec<_> = names.iter().map(|name| (format!("fuzz {name}, {for_so_long}"), *name)).collect();
    let time = session.fuzz_time;
    report.tests_side_by_side(&rows, AT_A_TIME, |name| targets.run(name, time));
}

/// The core as the wasm32 code it is in Envoy, executed by Node.
fn wasm(session: &Session<'_>, _: &[Envoy], report: &mut Report) {
    report.tests("core, wasm32", || {
        let mut cargo = core_on_wasm(session.toolchain()?);
        // After the toolchain: where that is missing, minutes of building the runner would be in vain.
        cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER", wasm_bindgen::obtain_runner(session.checkout)?);
        session.count_cargo(&mut cargo)
    });
}

fn core_on_wasm(toolchain: &WasmToolchain<'_>) -> Command {
    let mut cargo = toolchain.cargo("test");
    // No documentation tests: they are the same ones that the native suite runs.
    cargo.args(["--package", "bluegreen-core", "--tests"]);
    // Lines of debug information would be nine tenths of the module, and the runner reads all of it.
    cargo.env("CARGO_PROFILE_DEV_DEBUG", "false");
    cargo
}

/// The module in a real Envoy, in each one that was asked for.
fn end_to_end(session: &Session<'_>, envoys: &[Envoy], report: &mut Report) {
    if !report.check("wasm module", || session.build_module()) {
        return report.skip("end to end", "there is no wasm module to load");
    }
    let command_line = match command_line(session) {
        Ok(path) => path,
        Err(error) => return report.tests("end to end", || Err(error)),
    };
    for envoy in envoys {
        let title = format!("end to end, {}", envoy.name());
        let binary = match envoy.obtain(session.checkout) {
            Ok(binary) => binary,
            Err(error) => {
                report.tests(&title, || Err(error));
                continue;
            }
        };
        report.tests(&title, || {
            session.run(END_TO_END, |program| {
                program.env(COMMAND_LINE, &command_line).env(ENVOY, &binary);
            })
        });
    }
}

/// The command line as it is released, unpacked where neither cargo nor a checkout is.
fn demo(session: &Session<'_>, envoys: &[Envoy], report: &mut Report) {
    let Some(envoy) = envoys.first() else { return };
    report.check(&format!("bluegreen demo --check, packed, {}", envoy.name()), || {
        session.build_module()?;
        program::try_out(session.checkout, dist::VERSION, &envoy.obtain(session.checkout)?)
    });
}

/// Builds `bluegreen`, the command line, and says where it is.
fn command_line(session: &Session<'_>) -> Result<PathBuf> {
    process::show(session.checkout.cargo("build").args(["--quiet", "--package", "bluegreen-cli"]))?;
    Ok(session.checkout.debug_binary("bluegreen"))
}

/// What fits the API's description and what does not, sent to a real Envoy, the first that was asked for.
fn openapi(session: &Session<'_>, envoys: &[Envoy], report: &mut Report) {
    let Some(envoy) = envoys.first() else { return };
    report.tests(&format!("openapi, {}", envoy.name()), || {
        let environment = schemathesis::obtain(session.checkout)?;
        session.build_module()?;
        let envoy = envoy.obtain(session.checkout)?;
        session.run(OPENAPI, |program| {
            program.env(schemathesis::SCHEMATHESIS, &environment).env(ENVOY, &envoy);
        })
    });
}

/// The filter and a real MLflow, in the first Envoy that was asked for: here the registry is what is tested.
fn mlflow(session: &Session<'_>, envoys: &[Envoy], report: &mut Report) {
    let Some(envoy) = envoys.first() else { return };
    report.tests(&format!("mlflow, {}", envoy.name()), || {
        let environment = bluegreen_programs::mlflow::obtain(session.checkout)?;
        session.build_module()?;
        let envoy = envoy.obtain(session.checkout)?;
        session.run(MLFLOW, |program| {
            program.env(mlflow::MLFLOW, &environment).env(ENVOY, &envoy);
        })
    });
}

/// A real Prometheus that scrapes a real Envoy.
fn observability(session: &Session<'_>, envoys: &[Envoy], report: &mut Report) {
    let Some(envoy) = envoys.first() else { return };
    report.tests(&format!("observability, {}", envoy.name()), || {
        packages::provide(&[("prometheus", "prometheus")], "the tests of metrics and alerts")?;
        session.build_module()?;
        let envoy = envoy.obtain(session.checkout)?;
        session.run(OBSERVABILITY, |program| {
            program.env(ENVOY, &envoy);
        })
    });
}

/// The image that meshes fetch.
fn image(session: &Session<'_>, _: &[Envoy], report: &mut Report) {
    report.check("image: two clean clones give one digest", || dist::reproduce(session.checkout));
    report.tests("image", || {
        packages::provide(&[("skopeo", "skopeo"), ("docker-registry", "docker-registry")], "the tests of the image")?;
        dist::image(session.checkout)?;
        session.run(IMAGE, |_| ())
    });
}

/// `docker-compose.yml`, where a Docker engine runs.
fn docker_compose(session: &Session<'_>, envoys: &[Envoy], report: &mut Report) {
    let Some(envoy) = envoys.first() else { return };
    report.tests("docker compose", || {
        compose::require()?;
        session.build_module()?;
        let programs = compose::programs(session.checkout)?;
        let _images = compose::BaseImages::obtain(session.checkout, &envoy.obtain(session.checkout)?)?;
        // One after the other: they build and take down images of the same names.
        session.run(COMPOSE, |program| {
            program.env(compose::PROGRAMS, &programs).env(TEST_THREADS, "1");
        })
    });
}

/// Four Envoys and three members of etcd.
fn fleet(session: &Session<'_>, envoys: &[Envoy], report: &mut Report) {
    let Some(envoy) = envoys.first() else { return };
    report.tests(&format!("fleet, {}", envoy.name()), || {
        etcd::obtain()?;
        session.build_module()?;
        let envoy = envoy.obtain(session.checkout)?;
        let command_line = command_line(session)?;
        // One after the other: each has eleven processes, and a second is a promise that is checked.
        session.run(FLEET, |program| {
            program.env(COMMAND_LINE, &command_line).env(ENVOY, &envoy).env(TEST_THREADS, "1");
        })
    });
}

/// From the last release to this one, and back.
fn upgrade(session: &Session<'_>, envoys: &[Envoy], report: &mut Report) {
    let Some(envoy) = envoys.first() else { return };
    report.tests(&format!("upgrade from the last release, {}", envoy.name()), || {
        etcd::obtain()?;
        let last = last_release::module(session.checkout)?;
        session.build_module()?;
        let envoy = envoy.obtain(session.checkout)?;
        session.run(UPGRADE, |program| {
            program.env(LAST_RELEASE, &last).env(ENVOY, &envoy).env(TEST_THREADS, "1");
        })
    });
}

/// Envoys under real control planes, built here from their sources.
fn mesh(session: &Session<'_>, envoys: &[Envoy], report: &mut Report) {
    let Some(envoy) = envoys.first() else { return };
    report.tests(&format!("mesh, {}", envoy.name()), || {
        etcd::obtain()?;
        packages::provide(&[("openssl", "openssl")], "an API server of Kubernetes")?;
        session.wait_until_prepared(LONGEST_OF_MESH)?;
        let programs = kubernetes::obtain(session.checkout)?;
        let istiod = istiod::obtain(session.checkout)?;
        let envoy_gateway = envoy_gateway::obtain(session.checkout)?;
        let definitions = env::join_paths(definitions::obtain(session.checkout)?)?;
        session.build_module()?;
        let envoy = envoy.obtain(session.checkout)?;
        let command_line = command_line(session)?;
        session.run(MESH, |program| {
            program.env(COMMAND_LINE, &command_line).env(ENVOY, &envoy).env(DEFINITIONS, &definitions);
            program.envs(programs.iter().map(|(variable, path)| (*variable, path)));
            program.env(istiod::PILOT_DISCOVERY, &istiod).env(envoy_gateway::ENVOY_GATEWAY, &envoy_gateway);
        })
    });
}

/// A few of the requests and faults that hold for hours: enough to see that they are counted and survived.
fn endurance(session: &Session<'_>, envoys: &[Envoy], report: &mut Report) {
    let Some(envoy) = envoys.first() else { return };
    for task in ["soak", "chaos"] {
        report.check(&format!("{task} --quick, {}", envoy.name()), || {
            let mut cargo = session.checkout.cargo("xtask");
            process::show(cargo.args([task, "--quick"]).env(ENVOY, envoy.obtain(session.checkout)?))
        });
    }
}

/// A request takes no more instructions than it may: those do not depend on what runs beside.
fn budget(session: &Session<'_>, envoys: &[Envoy], report: &mut Report) {
    let Some(envoy) = envoys.first() else { return };
    report.check(&format!("bench --within-budget, {}", envoy.name()), || {
        valgrind::obtain()?;
        let mut cargo = session.checkout.cargo("xtask");
        process::show(cargo.args(["bench", "--within-budget"]).env(ENVOY, envoy.obtain(session.checkout)?))
    });
}

/// The benches run at all; what they measure in so short a time, beside the tests, says nothing.
fn bench(session: &Session<'_>, envoys: &[Envoy], report: &mut Report) {
    let Some(envoy) = envoys.first() else { return };
    report.check(&format!("bench --quick, {}", envoy.name()), || {
        let mut cargo = session.checkout.cargo("xtask");
        cargo.args(["bench", "--quick", "switch", "split", "size"]);
        process::show(cargo.env(ENVOY, envoy.obtain(session.checkout)?))
    });
}
