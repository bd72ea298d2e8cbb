//! The command line: arguments in, exit codes out. Exit codes: 0 done and true; 1 ran, and the answer
//! is no; 2 bad arguments or configuration; 3 failed to run.

mod doctor;
mod faults;
mod operate;
mod report;
mod state;
mod top;
mod trace;
mod up;

use crate::chain::compile::{ChainPlan, compile};
use crate::chain::run::{RunOptions, RunOutcome, run};
use crate::chain::sinks::{CaptureSource, Failure, FileSink};
use crate::chain::verify::verify;
use crate::config::{ChainConfig, load};
use crate::functions::Catalog;
use crate::manager::policy::VARIABLES;
use chc_runtime::capture::{CaptureError, CaptureReader, CaptureWriter, scan};
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use std::fs::File;
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Why a command ended without its result.
pub enum Exit {
    /// Ran, and the answer is no.
    No,
    /// Bad arguments or configuration.
    Usage(String),
    /// Failed to run.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Exit {
    fn from(error: anyhow::Error) -> Self {
        Exit::Failed(error)
    }
}

impl From<CaptureError> for Exit {
    fn from(error: CaptureError) -> Self {
        // Its text has its causes already.
        Exit::Failed(anyhow::Error::msg(error.to_string()))
    }
}

/// Network-function chains that stay correct under failures.
#[derive(Parser)]
#[command(name = "chc", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Validate chain files: every problem at once, with file, line, key and remedy.
    Check {
        /// Chain files (TOML, YAML or JSON).
        #[arg(required_unless_present = "explain")]
        files: Vec<PathBuf>,
        /// Say what the conditions of a policy can speak of.
        #[arg(long)]
        explain: bool,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Run a chain over a capture; exits when the last packet has left.
    Run(RunArgs),
    /// Run a chain and the ideal chain on the same capture and compare everything.
    Verify(VerifyArgs),
    /// Put a chain between two live interfaces, until it is told to end.
    Up(up::UpArgs),
    /// Say what this machine offers to chc up, and what to do about what it does not.
    Doctor(doctor::DoctorArgs),
    /// Show a chain that is up.
    Status(operate::StatusArgs),
    /// Watch a chain that is up, in a terminal.
    Top(top::TopArgs),
    /// Print the events of a chain that is up, as they happen.
    Events(operate::EventsArgs),
    /// Spread a vertex's traffic over so many instances.
    Scale(operate::ScaleArgs),
    /// Move traffic from one instance to another.
    Move(operate::MoveArgs),
    /// Take all traffic away from an instance.
    Drain(operate::DrainArgs),
    /// Kill an actor, to see it recovered.
    Kill(operate::KillArgs),
    /// End a chain that is up, when all it has accepted has left.
    Down(operate::DownArgs),
    /// Show what the objects of a chain hold that runs or has run.
    State(state::StateArgs),
    /// Generate captures and describe them.
    #[command(subcommand)]
    Trace(trace::TraceCommand),
}

#[derive(Args)]
struct Overrides {
    /// Override one key of the chain file, e.g. vertex.portscan.config.pick=every (repeatable).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Args)]
struct RunArgs {
    /// The chain file.
    chain: PathBuf,
    /// The capture to read.
    #[arg(long)]
    input: PathBuf,
    /// The capture to write.
    #[arg(long)]
    output: Option<PathBuf>,
    /// The event file to write: one JSON object a line.
    #[arg(long)]
    events: Option<PathBuf>,
    /// Packets per second offered; what finds no room then is dropped and counted.
    #[arg(long, value_name = "PPS")]
    rate: Option<f64>,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct VerifyArgs {
    /// The chain file.
    chain: PathBuf,
    /// The capture to read.
    #[arg(long)]
    input: PathBuf,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Common {
    #[command(flatten)]
    faults: faults::FaultArgs,
    #[command(flatten)]
    overrides: Overrides,
    /// Print one JSON object instead of a summary.
    #[arg(long)]
    json: bool,
}

/// Runs the command the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    // A death is reported with its recovery.
    let usual = "warn,chc_runtime::supervision=error";
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| usual.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let result = match Cli::parse().command {
        Command::Check { files, explain, overrides } => check(&files, explain, &overrides.set),
        Command::Run(args) => run_command(&args),
        Command::Verify(args) => verify_command(&args),
        Command::Up(args) => up::execute(&args),
        Command::Doctor(args) => doctor::execute(&args),
        Command::Status(args) => operate::status(&args),
        Command::Events(args) => operate::events(&args),
        Command::Top(args) => top::top(&args),
        Command::Scale(args) => operate::scale(&args),
        Command::Move(args) => operate::moves(&args),
        Command::Drain(args) => operate::drain(&args),
        Command::Kill(args) => operate::kill(&args),
        Command::Down(args) => operate::down(&args),
        Command::State(args) => state::execute(args),
        Command::Trace(command) => trace::execute(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Exit::No) => ExitCode::from(1),
        Err(Exit::Usage(message)) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
        Err(Exit::Failed(error)) => {
            eprintln!("chc: {error:#}");
            ExitCode::from(3)
        }
    }
}

fn check(files: &[PathBuf], explain: bool, set: &[String]) -> Result<(), Exit> {
    let problems: Vec<String> =
        files.iter().filter_map(|f| load(f, set, &Catalog).err()).map(|d| d.to_string()).collect();
    if !problems.is_empty() {
        return Err(Exit::Usage(problems.join("\n")));
    }
    let lines: String = files.iter().map(|file| format!("{}: ok\n", file.display())).collect();
    let line = |(name, meaning): &(&str, &str)| format!("{name:<10} {meaning}\n");
    let variables: String = VARIABLES.iter().filter(|_| explain).map(line).collect();
    report::print_text(&(lines + &variables))
}

fn config(chain: &Path, set: &[String]) -> Result<ChainConfig, Exit> {
    load(chain, set, &Catalog).map_err(|d| Exit::Usage(d.to_string()))
}

/// What a chain file says, compiled, and where its state is to be kept.
fn plan(chain: &Path, set: &[String]) -> Result<(ChainPlan, Option<PathBuf>), Exit> {
    let config = config(chain, set)?;
    let keep_in = config.store.checkpoint_dir.as_ref().map(PathBuf::from);
    Ok((compile(&config, &Catalog)?, keep_in))
}

/// The packets of a capture, as far as it can be read; only if somebody goes by them, for it takes a pass over the file.
fn count_packets(input: &Path, faults: &faults::FaultArgs, json: bool) -> Result<u64, Exit> {
    let mut reader = CaptureReader::open(input)?;
    if faults.is_empty() && !shows_progress(json) {
        return Ok(0);
    }
    let mut packets = 0;
    while let Ok(Some(record)) = reader.next() {
        packets = record.number;
    }
    Ok(packets)
}

fn shows_progress(json: bool) -> bool {
    !json && std::io::stderr().is_terminal()
}

fn progress_bar(packets: u64, json: bool) -> ProgressBar {
    if !shows_progress(json) {
        return ProgressBar::hidden();
    }
    let style = "{bar:40} {human_pos}/{human_len} packets {per_sec} eta {eta}";
    ProgressBar::new(packets)
        .with_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// How many packets were read, where nobody knows of how many.
fn packet_count(json: bool) -> ProgressBar {
    if !shows_progress(json) {
        return ProgressBar::hidden();
    }
    let style = "{spinner} {human_pos} packets {per_sec}";
    ProgressBar::new_spinner()
        .with_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_spinner()))
}

/// Whether two paths lead to one regular file.
fn is_same_file(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| path.metadata().ok().filter(|m| m.is_file()).map(|m| (m.dev(), m.ino()));
    place(a).is_some_and(|file| place(b) == Some(file))
}

/// Refuses outputs that would destroy an input or each other.
fn check_outputs(args: &RunArgs) -> Result<(), Exit> {
    let outputs = [("--output", &args.output), ("--events", &args.events)];
    let mut problems = Vec::new();
    for (flag, path) in outputs.iter().filter_map(|(flag, path)| Some((flag, path.as_ref()?))) {
        for (what, input) in [("the input", &args.input), ("the chain file", &args.chain)] {
            if is_same_file(path, input) {
                problems.push(format!("{flag} {}: this is {what}; write to another file", path.display()));
            }
        }
    }
    if let (Some(output), Some(events)) = (&args.output, &args.events)
        && (is_same_file(output, events) || (output == events && !output.exists()))
    {
        problems.push(format!("--events {}: this is --output, too; write to another file", events.display()));
    }
    if problems.is_empty() { Ok(()) } else { Err(Exit::Usage(problems.join("\n"))) }
}

fn run_command(args: &RunArgs) -> Result<(), Exit> {
    check_outputs(args)?;
    let (mut plan, keep_in) = plan(&args.chain, &args.common.overrides.set)?;
    if args.rate.is_some_and(|r| !r.is_finite() || r <= 0.0) {
        return Err(Exit::Usage("--rate: must be above zero packets per second".into()));
    }
    let packets = count_packets(&args.input, &args.common.faults, args.common.json)?;
    let faults::Faults { kills, turns } = args.common.faults.read(&mut plan, packets)?;
    let summary = scan(&args.input)?;
    let link = summary.link.unwrap_or(chc_api::packet::LinkType::ETHERNET);
    let write = |path: &PathBuf| CaptureWriter::create(path, summary.format, link);
    let writer = args.output.as_ref().map(write).transpose()?;
    let create = |path: &PathBuf| {
        File::create(path).map_err(|e| Exit::Failed(anyhow::anyhow!("{}: {e}", path.display())))
    };
    let events = args.events.as_ref().map(create).transpose()?;
    let names = plan.vertices.iter().map(|v| v.name.clone()).collect();
    let alerts = Arc::new(Mutex::new(0));
    let failure = Failure::default();
    let sink = FileSink::new(writer, events, names, alerts.clone(), failure.clone());
    let source = CaptureSource(CaptureReader::open(&args.input)?);
    let bar = progress_bar(packets, args.common.json);
    let options = RunOptions { kills, turns, rate: args.rate, record: false, keep_in };
    let outcome = run(&plan, source, sink, &options, |n| bar.set_position(n))?;
    bar.finish_and_clear();
    let report = report::RunReport::new(&plan, &outcome, *alerts.lock());
    if let Some(path) = &args.events
        && let Err(error) = report.append_events(path)
    {
        failure.lock().get_or_insert_with(|| format!("the event file: {error}"));
    }
    report.print(args.common.json)?;
    if let Some(error) = failure.lock().take() {
        return Err(Exit::Failed(anyhow::anyhow!(error)));
    }
    input_error(&outcome)
}

fn input_error(outcome: &RunOutcome) -> Result<(), Exit> {
    match &outcome.root.input_error {
        Some(error) => Err(Exit::Failed(anyhow::anyhow!("everything readable was processed, but {error}"))),
        None => Ok(()),
    }
}

fn verify_command(args: &VerifyArgs) -> Result<(), Exit> {
    let (mut plan, _) = plan(&args.chain, &args.common.overrides.set)?;
    let packets = count_packets(&args.input, &args.common.faults, args.common.json)?;
    let faults::Faults { kills, turns } = args.common.faults.read(&mut plan, packets)?;
    let bar = progress_bar(packets, args.common.json);
    let options = RunOptions { kills, turns, rate: None, record: true, keep_in: None };
    let (outcome, comparison) = verify(&plan, &args.input, &options, |n| bar.set_position(n))?;
    bar.finish_and_clear();
    report::print_verify(&outcome, &comparison, args.common.json)?;
    if comparison.first_difference.is_some() {
        return Err(Exit::No);
    }
    input_error(&outcome)
}
