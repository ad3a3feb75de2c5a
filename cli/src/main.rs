//! `bluegreen`, the command line: sees and moves the traffic between two versions of a model, and checks configurations.
//!
//! Each command is a function or a module with its own arguments. Those that ask Envoys use [`envoys`], which asks all of
//! them at once by [`api`]; [`validate`] and [`schema`] read files with the filter's own reader and ask nobody; [`demo`]
//! brings up all that there is to try.

mod style;

mod api;

mod contexts;

mod forward;

mod envoys;

mod disagreement;

mod show;

mod watch;

mod change;

mod rollout;

mod checks;

mod validate;

mod schema;

mod demo;
#[cfg(test)]
mod docs;

use std::panic;
use std::process::{self, ExitCode};
use std::time::Duration;

use anyhow::Result;
use bluegreen_core::model::colour::Colour;
use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use change::{Action, ChangeRequest, How};
use envoys::{Envoys, Outcome, Output};
use style::Style;

/// See and move the traffic between two versions of an ML model in Envoy
#[derive(Parser)]
#[command(
    name = "bluegreen",
    version = version(),
    styles = STYLES,
    after_help = AFTER_HELP,
    max_term_width = 110,
    subcommand_required = true
)]
struct Options {
    #[command(subcommand)]
    command: Command,
    /// A table and sentences, or the API's JSON
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORMAT",
        hide_possible_values = true
    )]
    output: Format,
    #[command(flatten)]
    envoys: contexts::Selection,
}

#[derive(Subcommand)]
enum Command {
    /// Show where the traffic goes: a line a deployment, or all about one
    Status {
        /// The deployment; all of them if left out
        name: Option<String>,
        /// Go on showing it, with bars and sparklines; q quits
        #[arg(long, short)]
        watch: bool,
        /// How often to look
        #[arg(long, default_value = "1s", value_parser = humantime::parse_duration, requires = "watch")]
        interval: Duration,
    },
    /// Give a colour all the traffic; repeated with --to it changes nothing
    Promote {
        /// The deployment
        name: String,
        /// The colour [default: the candidate]
        #[arg(long, value_parser = colour, value_name = "COLOUR")]
        to: Option<Colour>,
        #[command(flatten)]
        how: How,
    },
    /// Go back to the colour that was active before, or end a first canary
    Rollback {
        /// The deployment
        name: String,
        /// The colour; with it a repeated rollback changes nothing
        #[arg(long, value_parser = colour, value_name = "COLOUR")]
        to: Option<Colour>,
        #[command(flatten)]
        how: How,
    },
    /// Give the candidate a share of the traffic: 0 to 100 percent in steps of 0.01
    Canary {
        /// The deployment
        name: String,
        /// Such as 10, 12.5 or 0
        #[arg(value_parser = share)]
        percent: String,
        #[command(flatten)]
        how: How,
    },
    /// Send the candidate copies of a share of the requests; nobody sees its answers
    Shadow {
        /// The deployment
        name: String,
        /// Such as 5 or 0
        #[arg(value_parser = share)]
        percent: String,
        #[command(flatten)]
        how: How,
    },
    /// Raise the candidate's share in the configured steps
    Rollout {
        #[command(subcommand)]
        command: RolloutCommand,
    },
    /// Run the smoke test on the candidate; fails when it fails
    Test {
        /// The deployment
        name: String,
        /// The colour [default: the candidate]
        #[arg(long, value_parser = colour)]
        colour: Option<Colour>,
        /// Show each request, not only those that failed
        #[arg(long, short)]
        verbose: bool,
    },
    /// Compare both colours: requests, errors, latencies, answers to copied requests, and what the guard says
    Compare {
        /// The deployment
        name: String,
        /// Over so long
        #[arg(long, value_parser = ["1m", "5m", "15m"], default_value = "5m")]
        window: String,
    },
    /// Show the last inputs that the candidate answered differently
    Disagreements {
        /// The deployment
        name: String,
    },
    /// Wait until a colour's model server may be stopped; fails when something needs it
    Drain {
        /// The deployment
        name: String,
        /// The colour to stop
        #[arg(value_parser = colour)]
        colour: Colour,
        /// How long to wait, at most 4m
        #[arg(long, default_value = "30s")]
        timeout: String,
    },
    /// Show who changed what, when and why
    History {
        /// The deployment
        name: String,
        /// How many changes
        #[arg(long, default_value_t = 10)]
        limit: usize,
    },
    /// Show what is wrong around the filter, and what to do
    Setup {
        /// The deployment; all of them if left out
        name: Option<String>,
    },
    /// Manage contexts: names for Envoys and their tokens
    Context {
        #[command(subcommand)]
        command: contexts::Command,
    },
    /// Check configurations offline: plugin configurations, whole Envoy files, manifests of meshes
    Validate(validate::Arguments),
    /// Print the JSON Schema of the configuration
    Schema,
    /// Try it: two model servers, an Envoy with the filter, and live traffic
    Demo(demo::Arguments),
    /// Print a completion script: `source <(bluegreen completions bash)`
    Completions {
        /// For this shell
        shell: Shell,
    },
}

#[derive(Subcommand)]
enum RolloutCommand {
    /// Begin with the first step
    Start(Steered),
    /// Stay at this step
    Pause(Controlled),
    /// Go on; the step begins again
    Resume(Steered),
    /// Take the next step without waiting; after the last one, promote
    Skip(Steered),
    /// End it: the candidate gets nothing
    Abort(Controlled),
    /// Show each step of the running rollout to its end; fails when it is taken back
    Follow {
        /// The deployment
        name: String,
    },
}

#[derive(clap::Args)]
struct Controlled {
    /// The deployment
    name: String,
    #[command(flatten)]
    how: How,
}

#[derive(clap::Args)]
struct Steered {
    #[command(flatten)]
    controlled: Controlled,
    /// Show each step to the end; fails when it is taken back
    #[arg(long, short)]
    follow: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default());

const AFTER_HELP: &str = "\
Exit codes:
  0  done, also when it was so already
  1  refused, failed, or taken back by the guard
  2  wrong usage
  3  done, but a worker of an Envoy has not confirmed it";

/// Wrong usage.
const USAGE: u8 = 2;

/// For bug reports: the version, and for what it was built.
fn version() -> String {
    format!("{} ({} {})", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, std::env::consts::OS)
}

fn colour(text: &str) -> Result<Colour, String> {
    Colour::from_header(text.as_bytes()).ok_or_else(|| "give blue or green".to_owned())
}

/// A share as the API takes it; a percent sign is what people write.
fn share(text: &str) -> Result<String, String> {
    let figure = text.trim_end_matches('%').trim();
    match figure.parse::<f64>() {
        Ok(share) if (0.0..=100.0).contains(&share) => Ok(figure.to_owned()),
        _ => Err("give 0 to 100, in steps of 0.01".to_owned()),
    }
}

/// `bluegreen history iris | head -1` is no failure: who printed ends as other programs do when nobody reads on.
fn end_when_nobody_reads() {
    const AS_BY_SIGPIPE: i32 = 141;
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to stdout") && text.contains("Broken pipe") {
            process::exit(AS_BY_SIGPIPE);
        }
        report(info);
    }));
}

fn main() -> ExitCode {
    end_when_nobody_reads();
    let options = Options::parse();
    match run(&options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bluegreen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    match &options.command {
        Command::Validate(arguments) => validate::run(arguments, options.output == Format::Json),
        Command::Schema => schema::run(),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Context { command } => contexts::run(command, &options.envoys, Style::of_stdout()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Options::command(), "bluegreen", &mut script);
            print!("{}", String::from_utf8_lossy(&script));
            Ok(ExitCode::SUCCESS)
        }
        command => {
            // What is wrong before anybody was asked is wrong usage.
            let targets = match contexts::Environment::of_process().targets(&options.envoys) {
                Ok(targets) => targets,
                Err(error) => {
                    eprintln!("bluegreen: {error:#}");
                    return Ok(ExitCode::from(USAGE));
                }
            };
            let output = Output { is_json: options.output == Format::Json, style: Style::of_stdout() };
            ask(command, &Envoys::connect(&targets)?, output).map(ExitCode::from)
        }
    }
}

/// The commands that ask Envoys.
fn ask(command: &Command, envoys: &Envoys, output: Output) -> Result<Outcome> {
    let submit = |name: &str, request: &ChangeRequest, how: &How| change::submit(envoys, name, request, how, output);
    Ok(match command {
        Command::Status { name, watch: true, interval } => watch::watch(envoys, name.as_deref(), *interval, output)?,
        Command::Status { name, .. } => show::status(envoys, name.as_deref(), output),
        Command::Promote { name, to, how } => submit(name, &ChangeRequest::Promote(*to), how),
        Command::Rollback { name, to, how } => submit(name, &ChangeRequest::RollBack(*to), how),
        Command::Canary { name, percent, how } => submit(name, &ChangeRequest::Canary(percent.clone()), how),
        Command::Shadow { name, percent, how } => submit(name, &ChangeRequest::Shadow(percent.clone()), how),
        Command::Rollout { command } => {
            let (action, Controlled { name, how }, is_followed) = match command {
                RolloutCommand::Follow { name } => return Ok(rollout::follow(envoys, name, output)),
                RolloutCommand::Start(it) => (Action::Start, &it.controlled, it.follow),
                RolloutCommand::Resume(it) => (Action::Resume, &it.controlled, it.follow),
                RolloutCommand::Skip(it) => (Action::Skip, &it.controlled, it.follow),
                RolloutCommand::Pause(it) => (Action::Pause, it, false),
                RolloutCommand::Abort(it) => (Action::Abort, it, false),
            };
            let outcome = submit(name, &ChangeRequest::Rollout(action), how);
            if is_followed && outcome != Outcome::Failed { rollout::follow(envoys, name, output) } else { outcome }
        }
        Command::Test { name, colour, verbose } => checks::test(envoys, name, *colour, *verbose, output),
        Command::Compare { name, window } => show::compare(envoys, name, window, output),
        Command::Disagreements { name } => disagreement::list(envoys, name, output),
        Command::Drain { name, colour, timeout } => checks::drain(envoys, name, *colour, timeout, output),
        Command::History { name, limit } => show::history(envoys, name, *limit, output),
        Command::Setup { name } => show::setup(envoys, name.as_deref(), output),
        Command::Context { .. }
        | Command::Validate(_)
        | Command::Schema
        | Command::Demo(_)
        | Command::Completions { .. } => Outcome::Done,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn shares_are_taken_as_people_write_them() {
        let cases = [
            ("10", Some("10")),
            ("12.5%", Some("12.5")),
            ("0", Some("0")),
            ("101", None),
            ("-1", None),
            ("ten", None),
            ("NaN", None),
        ];
        for (text, expected) in cases {
            assert_eq!(share(text).ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn the_documentation_has_every_command_and_no_other() {
        let docs = include_str!("../../docs/cli.md");
        let command = Options::command();
        for name in command.get_subcommands().map(clap::Command::get_name).filter(|name| *name != "help") {
            assert!(
                docs.contains(&format!("`{name}")) || docs.contains(&format!("bluegreen {name}")),
                "{name} is not in docs/cli.md"
            );
        }
        let shown = docs.lines().filter_map(|line| {
            let line = line.strip_prefix("$ ").unwrap_or(line);
            line.starts_with("bluegreen ").then(|| line.split(['&', '|']).next().unwrap_or(line))
        });
        let mut number = 0;
        for line in shown {
            number += 1;
            let words = line.replace("\"$CI_COMMIT\"", "x").replace('"', "");
            let parsed = Options::try_parse_from(words.split_whitespace());
            assert!(parsed.is_ok(), "{line}: {}", parsed.err().map(|error| error.to_string()).unwrap_or_default());
        }
        assert!(number > 10, "only {number} commands are shown");
    }

    #[test]
    fn a_worker_that_has_not_confirmed_has_an_exit_code_of_its_own() {
        let codes = [Outcome::Done, Outcome::Failed, Outcome::Unconfirmed].map(ExitCode::from);
        assert_eq!(
            codes.map(|code| format!("{code:?}")),
            [0, 1, 3].map(|code: u8| format!("{:?}", ExitCode::from(code)))
        );
    }
}
