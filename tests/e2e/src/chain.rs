//! Runs the real chain in this process.

use chc_actors::chain::compile::{ChainPlan, compile};
use chc_actors::chain::run::{Kill, RunOptions, RunOutcome, run};
use chc_actors::chain::sinks::{CaptureSource, Everything, KeepingSink};
use chc_actors::config::load;
use chc_actors::functions::Catalog;
use chc_actors::root::reader::PacketSource;
use chc_actors::trace::{GenerateOptions, write};
use chc_runtime::capture::CaptureReader;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The chain of a configuration of the repository, with keys overridden.
///
/// # Panics
/// With every problem, if it is refused.
#[must_use]
pub fn plan(name: &str, overrides: &[impl ToString]) -> ChainPlan {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config = load(&crate::command::config(name), &overrides, &Catalog);
    let config = config.unwrap_or_else(|problems| panic!("{name} {overrides:?}: {problems}"));
    compile(&config, &Catalog).expect("a checked configuration compiles")
}

/// A generated capture in a directory of its own.
pub struct Mix {
    _directory: TempDir,
    /// The capture.
    pub path: PathBuf,
}

/// Generates a capture of the profile `mix`.
///
/// # Panics
/// If it cannot be written.
#[must_use]
pub fn mix(packets: u64, seed: u64) -> Mix {
    let directory = tempfile::tempdir().expect("the system has room for a directory");
    let path = directory.path().join("mix.pcap");
    let options = GenerateOptions { packets, connections: packets / 40, seed, ..GenerateOptions::default() };
    write(options, &path, |_| {}).expect("a capture can be written");
    Mix { _directory: directory, path }
}

/// A capture as a source of packets.
///
/// # Panics
/// If it cannot be opened.
#[must_use]
pub fn capture(path: &Path) -> CaptureSource {
    CaptureSource(CaptureReader::open(path).expect("the capture can be opened"))
}

/// The death of `VERTEX/CHILD` before packet `after` + 1.
///
/// # Panics
/// If the actor is not named like this.
#[must_use]
pub fn kill(actor: &str, after: u64) -> Kill {
    let (vertex, child) = actor.split_once('/').expect("an actor is VERTEX/CHILD");
    Kill { vertex: vertex.into(), child: child.into(), after }
}

/// Runs a chain and keeps all there is to know.
///
/// # Errors
/// If the chain did not come to its end.
pub fn keep<S: PacketSource>(
    plan: &ChainPlan,
    source: S,
    kills: Vec<Kill>,
) -> anyhow::Result<(RunOutcome, Everything)> {
    let sink = KeepingSink::default();
    let everything = sink.0.clone();
    let options = RunOptions { kills, record: true, ..RunOptions::default() };
    let outcome = run(plan, source, sink, &options, |_| {})?;
    let everything = std::mem::take(&mut *everything.lock());
    Ok((outcome, everything))
}

/// Checks that every packet left or has a reason why not.
///
/// # Panics
/// If not.
#[track_caller]
pub fn assert_balanced(outcome: &RunOutcome) {
    let drops: u64 = outcome.egress.drops.values().sum();
    let input = outcome.root.counts.packets + outcome.egress.extra;
    assert_eq!(input, outcome.egress.packets + drops, "{:?}", outcome.egress);
}
