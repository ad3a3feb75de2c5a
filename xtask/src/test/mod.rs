//! `cargo xtask test`: runs the suites of [`suites::SUITES`] and ends with a table and the totals.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use bluegreen_programs::Checkout;
use bluegreen_programs::envoy::{Choice, DEFAULT_VERSION, Envoy};
use clap::Args;
use clap::builder::PossibleValuesParser;

use self::report::Report;
use self::session::Session;
use self::suites::SUITES;
use crate::prepare;

mod programs;
mod report;
mod session;
mod suites;
mod totals;

/// Which tests to run, and in which Envoy.
#[derive(Args)]
pub struct TestOptions {
    /// Release of Envoy for the end-to-end tests, several with commas, or `all` supported ones; ENVOY=/path to a
    /// binary wins over it
    #[arg(long, env = "ENVOY_VERSION", default_value = DEFAULT_VERSION, value_delimiter = ',')]
    envoy: Vec<Choice>,
    /// Run only the tests whose name contains this
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Run only this suite (repeatable); it then fails where it would otherwise be skipped
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(SUITES.iter().map(|suite| suite.name)))]
    suite: Vec<String>,
    /// How long each fuzz target runs; 0 for its seeds alone. By default a minute when the suite is named, less among all
    #[arg(long, value_name = "SECONDS")]
    time: Option<u64>,
    /// Be over after so many minutes: a suite that may take longer than what is left is skipped
    #[arg(long, value_name = "MINUTES")]
    within: Option<u64>,
}

/// How long a fuzz target runs when its suite is named, and when all suites run, one of many.
const NAMED: Duration = Duration::from_secs(60);
const AMONG_ALL_SUITES: Duration = Duration::from_secs(20);

/// Runs the chosen suites; the very last line of the output is `N passed, N failed`.
pub fn run(checkout: &Checkout, options: &TestOptions) -> Result<ExitCode> {
    let began = Instant::now();
    let envoys = match Envoy::named_by_user()? {
        Some(named) => vec![named],
        None => options.envoy.iter().flat_map(Choice::versions).map(Envoy::Release).collect(),
    };
    let mut report = Report::new(!options.suite.is_empty());
    let suites = || SUITES.iter().filter(|suite| options.chooses(suite));
    let chosen = (!options.suite.is_empty()).then(|| suites().flat_map(|suite| suite.tests).copied().collect());
    let mut session = Session::new(checkout, options.filter.clone(), chosen, options.fuzz_time());
    session.ends = options.within.map(|minutes| began + Duration::from_secs(60 * minutes));
    // Only where all suites run: one that was named obtains what it needs, and nothing else.
    if options.chooses_all() {
        // The suites obtain by themselves what nobody has prepared.
        session.preparing = prepare::begin(checkout).inspect_err(|error| eprintln!("not prepared: {error:#}")).ok();
    }
    let mut built = false;
    for suite in suites() {
        if let Err(reason) = session.ensure_time_for(suite.longest) {
            report.tests(suite.name, || Err(reason));
            continue;
        }
        if !suite.tests.is_empty() && !built {
            report.check("build of the test programs", || session.programs()?.ensure_complete());
            built = true;
        }
        (suite.run)(&session, &envoys, &mut report);
    }
    Ok(report.conclude(options.filter.as_deref()))
}

// === impl TestOptions ===

impl TestOptions {
    fn fuzz_time(&self) -> Duration {
        let default = if self.suite.is_empty() { AMONG_ALL_SUITES } else { NAMED };
        self.time.map_or(default, Duration::from_secs)
    }

    fn chooses_all(&self) -> bool {
        self.suite.is_empty() && self.filter.is_none()
    }

    fn chooses(&self, suite: &suites::Suite) -> bool {
        if self.suite.is_empty() {
            // A suite without tests has none of that name.
            suite.has_tests || self.filter.is_none()
        } else {
            self.suite.iter().any(|name| name == suite.name)
        }
    }
}
