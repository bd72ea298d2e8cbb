//! Runs a compiled chain over a source that ends: injects the faults that were asked for, waits until everything is
//! finished and logged, and collects what is to be reported.

use super::cluster::{Cluster, collect, kill, repartition, shutdown, start};
use super::compile::ChainPlan;
use super::kept;
use super::recoveries::{ChildName, Recoveries, Recovery};
use super::state::ChainState;
use super::wire::{Notice, RootControl};
use crate::control::server::{self, Endpoints};
use crate::egress::core::{EgressCounts, Sink};
use crate::instance::core::InstanceCounts;
use crate::root::actor::RootReport;
use crate::root::reader::{PacketSource, RootOptions};
use crate::routing::Repartition;
use anyhow::{anyhow, bail};
use chc_api::VertexId;
use chc_store::engine::{Choice, ShardCounts};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Longest wait for the death of an actor that was killed.
const DEATH_WITHIN: Duration = Duration::from_secs(60);
/// How often the terminal is told of progress.
const PROGRESS_PERIOD: Duration = Duration::from_millis(50);

/// A fault to inject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// The vertex.
    pub vertex: String,
    /// Its child: an instance's number, or `manager`.
    pub child: String,
    /// Number of input packets before it happens.
    pub after: u64,
}

/// Slots to move while packets flow.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// The vertex.
    pub vertex: VertexId,
    /// How its traffic is partitioned then.
    pub how: Repartition,
    /// Number of input packets before it happens.
    pub after: u64,
}

/// How to run a chain.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Faults.
    pub kills: Vec<Kill>,
    /// Slots to move; in front of faults at the same packet.
    pub turns: Vec<Turn>,
    /// Packets per second offered; without, as fast as there is room.
    pub rate: Option<f64>,
    /// Keep stamps, choices and state for a proof of equivalence.
    pub record: bool,
    /// Directory in which the state can be seen while the chain runs, and is left.
    pub keep_in: Option<PathBuf>,
}

/// What came of a run.
#[derive(Default)]
pub struct RunOutcome {
    /// From the root.
    pub root: RootReport,
    /// From the egress.
    pub egress: EgressCounts,
    /// From each shard.
    pub shards: Vec<ShardCounts>,
    /// From the instances of each vertex, summed over generations.
    pub instances: Vec<InstanceCounts>,
    /// Deepest data mailbox seen at any instance of each vertex, in packets.
    pub queue_peaks: Vec<u64>,
    /// Cross-flow objects of each vertex that several instances operate on.
    pub shared: Vec<Shared>,
    /// Recoveries in the order they began.
    pub recoveries: Vec<Recovery>,
    /// Choices of `serial` objects, if recorded.
    pub choices: Vec<Choice>,
    /// The state left behind, if recorded or kept.
    pub state: ChainState,
}

/// How many of the objects there are at the end are shared, by the routing tables of the start and of the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Shared {
    /// By those of the start.
    pub before: u64,
    /// By those of the end.
    pub after: u64,
}

impl RunOutcome {
    /// Operations and additions to counters that a shard had applied before.
    #[must_use]
    pub fn updates_suppressed(&self) -> u64 {
        self.shards.iter().map(|shard| shard.suppressed).sum()
    }
}

/// Runs a chain over a source until everything is finished and logged. `progress` is told now and then
/// how many input packets were read.
///
/// # Errors
/// If the chain could not be started, or gave up: an actor failed that cannot be recovered, or an
/// instance failed too often.
pub fn run<S: PacketSource, K: Sink + Send + 'static>(
    plan: &ChainPlan,
    source: S,
    sink: K,
    options: &RunOptions,
    mut progress: impl FnMut(u64),
) -> anyhow::Result<RunOutcome> {
    let mut kills = options.kills.clone();
    kills.sort_by_key(|k| k.after);
    let mut turns = options.turns.clone();
    turns.sort_by_key(|t| t.after);
    let mut stops: Vec<u64> = kills.iter().map(|k| k.after).chain(turns.iter().map(|t| t.after)).collect();
    stops.sort_unstable();
    stops.dedup();
    let root_options = RootOptions { burst: plan.burst, rate: options.rate, stops: stops.clone() };
    let mut stops = stops.into_iter();
    let cluster = start(plan, source, sink, root_options, options.record)?;
    let control = options.keep_in.as_deref().map(|dir| {
        let view = cluster.view(plan, None, Arc::default(), Arc::default());
        let endpoints = Endpoints { sockets: vec![kept::socket_of(dir)], ..Endpoints::default() };
        server::start(&endpoints, view, None)
    });
    let control = control.transpose()?;
    let mut recoveries = Recoveries::default();
    let report = loop {
        progress(cluster.addresses.offered.load(Ordering::Relaxed));
        let notice = cluster.notices.recv_timeout(PROGRESS_PERIOD);
        // What failed before somebody caught up has been told by now.
        recoveries.hear(plan, &cluster.news)?;
        match notice {
            Ok(Notice::Stopped) => {
                let stop = stops.next().unwrap_or(u64::MAX);
                let now = turns.iter().take_while(|t| t.after == stop).count();
                repartition(&cluster, turns.drain(..now))?;
                let now: Vec<Kill> = kills.iter().take_while(|k| k.after == stop).cloned().collect();
                kills.drain(..now.len());
                inject(plan, &cluster, &now, &mut recoveries)?;
            }
            Ok(Notice::CaughtUp { instance, replayed, at, .. }) => {
                recoveries.caught_up(plan, instance, replayed, at);
            }
            Ok(Notice::Defect { instance, reason }) => {
                let vertex = &plan.vertices[usize::from(instance.vertex.0)].name;
                bail!("vertex {vertex} is stopped: {reason}")
            }
            Ok(Notice::Done(report)) => break *report,
            Err(flume::RecvTimeoutError::Timeout) => {}
            Err(flume::RecvTimeoutError::Disconnected) => bail!("the chain's actors have ended"),
        }
    };
    progress(cluster.addresses.offered.load(Ordering::Relaxed));
    recoveries.settle(plan, &cluster.news, &cluster.notices)?;
    let mut outcome = collect(plan, &cluster, options)?;
    if let Some(dir) = &options.keep_in {
        kept::keep(dir, plan, &outcome.state)?;
    }
    // From here on the file is there to answer.
    drop(control);
    outcome.root = report;
    outcome.recoveries = recoveries.finished;
    shutdown(cluster)?;
    Ok(outcome)
}

/// Injects faults that are due, and lets the root go on once they have happened. An actor that is down
/// already is killed when it is back.
fn inject(
    plan: &ChainPlan,
    cluster: &Cluster,
    kills: &[Kill],
    recoveries: &mut Recoveries,
) -> anyhow::Result<()> {
    let mut asked: Vec<ChildName> =
        kills.iter().map(|kill| (format!("chain/{}", kill.vertex), kill.child.clone())).collect();
    let until = Instant::now() + DEATH_WITHIN;
    loop {
        let mut waiting = Vec::new();
        for child in std::mem::take(&mut asked) {
            if recoveries.down.contains(&child) || recoveries.expected.contains_key(&child) {
                waiting.push(child);
                continue;
            }
            kill(cluster, &child)?;
            recoveries.expected.insert(child, Instant::now());
        }
        asked = waiting;
        if asked.is_empty() && recoveries.expected.is_empty() {
            break;
        }
        match cluster.news.recv_deadline(until) {
            Ok(event) => asked.extend(recoveries.event(plan, &event)?),
            Err(error) => bail!("no actor died of the faults injected: {error}"),
        }
    }
    let root = cluster.addresses.first_root().ok_or_else(|| anyhow!("the root has ended"))?;
    root.send(RootControl::Resume).map_err(|lost| anyhow!("{lost}"))
}
