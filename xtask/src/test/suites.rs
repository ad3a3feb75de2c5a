//! The table of suites. A new suite is a line here and a function that adds its rows to the report.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use bluegreen_programs::envoy::{ENVOY, Envoy};
use bluegreen_programs::mlflow::MLFLOW;
use bluegreen_programs::{etcd, packages, process};

use crate::compose;
use crate::deny;
use crate::dist;
use crate::lint;
use crate::toolchain::WasmToolchain;
use crate::wasm_bindgen;
use crate::workflows;

use super::report::Report;
use super::session::Session;

/// Tests that are chosen together.
pub struct Suite {
    /// The word for `--suite`.
    pub name: &'static str,
    /// Whether it runs tests that have names.
    pub has_tests: bool,
    pub run: fn(&Session<'_>, &[Envoy], &mut Report),
}

/// In the order of running: what fails soonest comes first.
pub const SUITES: &[Suite] = &[
    Suite { name: "lint", has_tests: false, run: lint },
    Suite { name: "dependencies", has_tests: false, run: dependencies },
    Suite { name: "core", has_tests: true, run: core },
    Suite { name: "filter", has_tests: true, run: filter },
    Suite { name: "tools", has_tests: true, run: tools },
    Suite { name: "wasm", has_tests: true, run: wasm },
    Suite { name: "e2e", has_tests: true, run: end_to_end },
    Suite { name: "mlflow", has_tests: true, run: mlflow },
    Suite { name: "image", has_tests: true, run: image },
    Suite { name: "compose", has_tests: true, run: docker_compose },
    Suite { name: "fleet", has_tests: true, run: fleet },
    Suite { name: "bench", has_tests: false, run: bench },
];

/// Names the folder with the CustomResourceDefinitions that manifests are checked against.
const DEFINITIONS: &str = "BLUEGREEN_CRDS";

/// What ships and has to be valid by itself.
const ENVOY_CONFIGURATIONS: &[&str] = &["envoy/envoy.yaml", "envoy/ecds/envoy.yaml", "envoy/mlflow/envoy.yaml"];

fn lint(session: &Session<'_>, _: &[Envoy], report: &mut Report) {
    report.check("lint, format", || lint::format(session.checkout));
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
    report.tests("core", || session.count_native(&mut session.native_tests(&["bluegreen-core"])));
}

/// The filter over a fake host.
fn filter(session: &Session<'_>, _: &[Envoy], report: &mut Report) {
    report.tests("filter", || session.count_native(&mut session.native_tests(&["bluegreen"])));
}

/// What is around the filter: the model servers, the testbed, these tasks.
fn tools(session: &Session<'_>, _: &[Envoy], report: &mut Report) {
    let packages = [
        "bluegreen-bench",
        "bluegreen-ci",
        "bluegreen-demo",
        "bluegreen-model-server",
        "bluegreen-programs",
        "bluegreen-testbed",
        "xtask",
    ];
    report.tests("tools", || session.count_native(&mut session.native_tests(&packages)));
}

/// The core as the wasm32 code it is in Envoy, executed by Node.
fn wasm(session: &Session<'_>, _: &[Envoy], report: &mut Report) {
    report.tests("core, wasm32", || {
        let mut cargo = core_on_wasm(session.toolchain()?);
        // After the toolchain: where that is missing, minutes of building the runner would be in vain.
        cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER", wasm_bindgen::obtain_runner(session.checkout)?);
        session.count(&mut cargo, &[])
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
    let definitions = definitions(session);
    if definitions.is_none() {
        let reason = format!("set {DEFINITIONS} to a folder with the CustomResourceDefinitions");
        report.skip("Kubernetes manifests against their schemas", &reason);
    }
    for envoy in envoys {
        let title = format!("end to end, {}", envoy.name());
        let binary = match envoy.obtain(session.checkout) {
            Ok(binary) => binary,
            Err(error) => {
                report.tests(&title, || Err(error));
                continue;
            }
        };
        for configuration in ENVOY_CONFIGURATIONS {
            report.check(&format!("{configuration}, {}", envoy.name()), || validate(&binary, configuration, session));
        }
        report.tests(&title, || {
            let mut cargo = session.native_tests(&["bluegreen-tests"]);
            cargo.env(ENVOY, &binary).envs(definitions.iter().map(|folder| (DEFINITIONS, folder)));
            session.count_native(&mut cargo)
        });
    }
}

/// The filter and a real MLflow, in the first Envoy that was asked for: here the registry is what is tested.
fn mlflow(session: &Session<'_>, envoys: &[Envoy], report: &mut Report) {
    let Some(envoy) = envoys.first() else { return };
    report.tests(&format!("mlflow, {}", envoy.name()), || {
        let environment = bluegreen_programs::mlflow::obtain(session.checkout)?;
        session.build_module()?;
        let mut cargo = session.native_tests(&["bluegreen-tests"]);
        cargo.args(["--features", "mlflow", "--test", "mlflow"]);
        cargo.env(MLFLOW, environment).env(ENVOY, envoy.obtain(session.checkout)?);
        session.count_native(&mut cargo)
    });
}

/// The folder with the schemas of Istio's and Envoy Gateway's resources: the user's, or the one beside the checkout.
fn definitions(session: &Session<'_>) -> Option<PathBuf> {
    let named = env::var_os(DEFINITIONS).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    named.or_else(|| Some(session.checkout.root().parent()?.join("shared/crds"))).filter(|folder| folder.is_dir())
}

/// The image that meshes fetch.
fn image(session: &Session<'_>, _: &[Envoy], report: &mut Report) {
    report.check("image: two clean clones give one digest", || dist::reproduce(session.checkout));
    report.tests("image", || {
        packages::provide(&[("skopeo", "skopeo"), ("docker-registry", "docker-registry")], "the tests of the image")?;
        dist::image(session.checkout)?;
        let mut cargo = session.native_tests(&["bluegreen-tests"]);
        session.count_native(cargo.args(["--features", "image", "--test", "image"]))
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
        let mut cargo = session.native_tests(&["bluegreen-tests"]);
        cargo.args(["--features", "compose", "--test", "compose"]).env(compose::PROGRAMS, programs);
        // One after the other: they build and take down images of the same names.
        cargo.env("RUST_TEST_THREADS", "1");
        session.count_native(&mut cargo)
    });
}

/// Four Envoys and three members of etcd.
fn fleet(session: &Session<'_>, envoys: &[Envoy], report: &mut Report) {
    let Some(envoy) = envoys.first() else { return };
    report.tests(&format!("fleet, {}", envoy.name()), || {
        etcd::obtain()?;
        session.build_module()?;
        let mut cargo = session.native_tests(&["bluegreen-tests"]);
        // One after the other: each has eleven processes, and a second is a promise that is checked.
        cargo.args(["--features", "fleet", "--test", "fleet", "--test", "fleet_rollout"]).env("RUST_TEST_THREADS", "1");
        session.count_native(cargo.env(ENVOY, envoy.obtain(session.checkout)?))
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

/// `envoy --mode validate` also loads the module and configures the filter; ports are not opened.
fn validate(binary: &Path, configuration: &str, session: &Session<'_>) -> Result<()> {
    let mut envoy = Command::new(binary);
    envoy.args(["--mode", "validate", "--log-level", "error", "-c", configuration]);
    process::show(envoy.current_dir(session.checkout.root()))
}
