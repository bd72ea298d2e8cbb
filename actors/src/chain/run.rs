//! Runs a compiled chain: starts its supervision tree, injects the faults that were asked for, waits
//! until everything is finished and logged, and collects what is to be reported.
//!
//! ```text
//!  chain (one_for_one)
//!  ├─ store   shards                       not recoverable yet: a death ends the chain
//!  ├─ egress
//!  ├─ root
//!  └─ VERTEX  its manager and instances    a restarted instance is NF failover
//! ```

use super::compile::ChainPlan;
use super::control::{self, ControlServer};
use super::recoveries::{ChildName, Recoveries, Recovery};
use super::state::{self, ChainState};
use super::wire::{Addresses, Links, Notice, RootControl};
use crate::egress::actor::{EgressActor, EgressControl};
use crate::egress::core::{EgressCore, EgressCounts, Sink};
use crate::instance::actor::InstanceActor;
use crate::instance::core::{InstanceConfig, InstanceCounts, Running};
use crate::instance::metrics::Metrics;
use crate::manager::actor::{ManagerActor, Watched};
use crate::messages::RootEvent;
use crate::root::actor::{PacketSource, RootActor, RootOptions, RootReport};
use crate::root::core::RootCore;
use crate::routing::Repartition;
use crate::shard::actor::{ShardActor, ShardControl};
use anyhow::{Context as _, anyhow, bail};
use chc_api::{All, InstanceId, Position, ShardId, VertexId};
use chc_runtime::actor::{ActorOptions, Birth};
use chc_runtime::arbiter::{Arbiter, Arbiters};
use chc_runtime::block::BlockPool;
use chc_runtime::mailbox::{Address, Handle};
use chc_runtime::supervision::{ChildSpec, Event, Strategy, Supervisor, SupervisorSpec, Tree};
use chc_store::engine::{Choice, ShardCounts, ShardEngine};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Restarts of a vertex's instances that are tolerated within [`RESTARTS_WITHIN`].
const RESTARTS_MAX: u32 = 100;
const RESTARTS_WITHIN: Duration = Duration::from_secs(10);
/// Longest wait for an actor that should answer at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
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

/// What survives the generations of one instance.
struct Lineage {
    /// Positions whose handling panicked, and how often.
    panics: BTreeMap<Position, u32>,
    poisoned: Vec<Position>,
    last: Option<Arc<Running>>,
}

impl RunOutcome {
    /// Operations and additions to counters that a shard had applied before.
    #[must_use]
    pub fn updates_suppressed(&self) -> u64 {
        self.shards.iter().map(|shard| shard.suppressed).sum()
    }
}

impl Lineage {
    /// Blames the packet the last generation did not finish, then begins a new one.
    fn begin(&mut self, config: &mut InstanceConfig, panics_max: u32) {
        if let Some(position) = self.last.take().and_then(|running| running.unfinished()) {
            let panics = self.panics.entry(position).or_default();
            *panics += 1;
            if *panics >= panics_max {
                self.poisoned.push(position);
            }
        }
        config.poisoned.clone_from(&self.poisoned);
        config.running = Arc::default();
        self.last = Some(config.running.clone());
    }
}

struct Cluster {
    arbiters: Arbiters,
    tree: Tree,
    chain: Supervisor,
    addresses: Arc<Addresses>,
    totals: Vec<Arc<Mutex<InstanceCounts>>>,
    peaks: Vec<Arc<AtomicU64>>,
    news: flume::Receiver<Event>,
    notices: flume::Receiver<Notice>,
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
    let control = options.keep_in.as_deref().map(|dir| ControlServer::start(dir, plan, &cluster.addresses));
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
        control::keep(dir, plan, &outcome.state)?;
    }
    // From here on the file is there to answer.
    drop(control);
    outcome.root = report;
    outcome.recoveries = recoveries.finished;
    cluster.chain.shutdown();
    cluster.chain.ended().recv_timeout(ANSWER_WITHIN).context("the chain did not shut down")?;
    cluster.arbiters.join();
    Ok(outcome)
}

fn start<S: PacketSource, K: Sink + Send + 'static>(
    plan: &ChainPlan,
    source: S,
    sink: K,
    root_options: RootOptions,
    record: bool,
) -> anyhow::Result<Cluster> {
    let arbiters = Arbiters::start(plan.arbiters, &plan.pins)?;
    let tree = Tree::default();
    let news = tree.subscribe();
    let (notify, notices) = flume::unbounded();
    let addresses = Arc::new(Addresses {
        root: Address::default(),
        instances: plan
            .vertices
            .iter()
            .map(|v| (0..v.route.instances).map(|_| Address::default()).collect())
            .collect(),
        shards: (0..plan.shards).map(|_| Address::default()).collect(),
        egress: Address::default(),
        next: plan.topology.vertices.iter().map(|node| node.ways().map(|way| way.to).collect()).collect(),
        owners: plan.vertices.iter().map(|_| Arc::default()).collect(),
        notices: notify,
        offered: Arc::default(),
    });
    let home = arbiters.get(0).ok_or_else(|| anyhow!("a chain needs at least one arbiter"))?.clone();
    let pool = BlockPool::new();
    let totals: Vec<Arc<Mutex<InstanceCounts>>> = plan.vertices.iter().map(|_| Arc::default()).collect();
    let peaks: Vec<Arc<AtomicU64>> = plan.vertices.iter().map(|_| Arc::default()).collect();

    let mut spec = SupervisorSpec::new("chain", Strategy::OneForOne).intensity(0, RESTARTS_WITHIN);
    spec = spec.child(store_child(plan, &arbiters, &home, &addresses, record));
    spec = spec.child(egress_child(plan, &home, &addresses, sink));
    // Each before those who register with it or ask it for a replay.
    spec = spec.child(root_child(plan, &home, &addresses, &pool, source, root_options, record));
    for at in 0..plan.vertices.len() {
        let arbiter = arbiters.get(at % plan.arbiters).unwrap_or(&home).clone();
        spec = spec.child(vertex_child(plan, at, &arbiter, &addresses, &pool, &totals[at], &peaks[at]));
    }
    let chain = Supervisor::start(&home, spec, &tree).map_err(|e| anyhow!("{e}"))?;
    Ok(Cluster { arbiters, tree, chain, addresses, totals, peaks, news, notices })
}

fn store_child(
    plan: &ChainPlan,
    arbiters: &Arbiters,
    home: &Arbiter,
    addresses: &Arc<Addresses>,
    record: bool,
) -> ChildSpec {
    let (plan, addresses) = (plan.clone(), addresses.clone());
    let homes: Vec<Arbiter> = arbiters.iter().cloned().collect();
    ChildSpec::supervisor("store", home, move |_| {
        let mut spec = SupervisorSpec::new("store", Strategy::OneForOne).intensity(0, RESTARTS_WITHIN);
        for shard in 0..plan.shards {
            let config = plan.shard(ShardId(shard), record);
            let links = addresses.clone();
            let at = &homes[usize::from(shard) % homes.len()];
            let address = &addresses.shards[usize::from(shard)];
            spec = spec.child(ChildSpec::actor(
                &shard.to_string(),
                at,
                ActorOptions::default(),
                address,
                move |_: Birth<_, _>| {
                    let engine = ShardEngine::<All>::new(config.clone());
                    ShardActor::new(ShardId(shard), engine, Links::new(links.clone()))
                },
            ));
        }
        spec
    })
}

fn egress_child<K: Sink + Send + 'static>(
    plan: &ChainPlan,
    home: &Arbiter,
    addresses: &Arc<Addresses>,
    sink: K,
) -> ChildSpec {
    let (epoch, window) = (plan.epoch, plan.window);
    let (senders, suppress) = (plan.egress_senders(), plan.mode.is_stored());
    let hold = plan.topology.joins(None);
    let links = addresses.clone();
    let sink = Mutex::new(Some(sink));
    ChildSpec::actor("egress", home, ActorOptions::default(), &addresses.egress, move |_: Birth<_, _>| {
        let core = EgressCore::new(epoch, window, &senders, suppress, hold);
        // A second generation would need the first one's files; its supervisor tolerates none.
        let sink = sink.lock().take().expect("the egress is built once");
        EgressActor::new(core, sink, Links::new(links.clone()))
    })
}

fn vertex_child(
    plan: &ChainPlan,
    at: usize,
    home: &Arbiter,
    addresses: &Arc<Addresses>,
    pool: &Arc<BlockPool>,
    totals: &Arc<Mutex<InstanceCounts>>,
    peak: &Arc<AtomicU64>,
) -> ChildSpec {
    let vertex = plan.vertices[at].clone();
    let (plan, addresses, pool) = (plan.clone(), addresses.clone(), pool.clone());
    let (totals, peak, arbiter) = (totals.clone(), peak.clone(), home.clone());
    ChildSpec::supervisor(&plan.vertices[at].name.clone(), home, move |_| {
        let mut spec =
            SupervisorSpec::new(&vertex.name, Strategy::OneForOne).intensity(RESTARTS_MAX, RESTARTS_WITHIN);
        let slots = vertex.route.owners.len();
        let metrics = || Arc::new(Metrics::new(slots));
        let metrics: Vec<Arc<Metrics>> = (0..vertex.route.instances).map(|_| metrics()).collect();
        // Slots are told apart only where somebody wants to know.
        let sampled = vertex.policy.imbalance.is_some().then(|| vertex.route.clone());
        for index in 0..vertex.route.instances {
            let id = InstanceId { vertex: vertex.route.vertex, index };
            let config = plan.instance(id, &pool);
            let (factory, links, totals) =
                (vertex.function.factory.clone(), addresses.clone(), totals.clone());
            let lineage = Mutex::new(Lineage { panics: BTreeMap::new(), poisoned: Vec::new(), last: None });
            let (panics_max, retransmit) = (plan.nf_panics_max, plan.retransmit);
            let metrics = metrics[usize::from(index)].clone();
            let sampled = sampled.clone();
            let address = &addresses.instances[at][usize::from(index)];
            let child = ChildSpec::actor(
                &index.to_string(),
                &arbiter,
                ActorOptions::default(),
                address,
                move |birth: Birth<_, _>| {
                    let mut config = InstanceConfig { generation: birth.generation, ..config.clone() };
                    lineage.lock().begin(&mut config, panics_max);
                    let core = factory(config);
                    let links = Links::new(links.clone());
                    let kept = (totals.clone(), metrics.clone(), sampled.clone());
                    InstanceActor::new(id, birth.generation, core, links, retransmit, kept)
                },
            );
            spec = spec.child(child.first_generation(chc_api::Generation(1)));
        }
        let fine = vertex.route.fine;
        let (links, peak, plan, vertex) =
            (addresses.clone(), peak.clone(), plan.clone(), vertex.route.vertex);
        let manager = Address::default();
        spec.child(ChildSpec::actor(
            "manager",
            &arbiter,
            ActorOptions::default(),
            &manager,
            move |_: Birth<_, _>| {
                let (policy, period) = plan.policy(at);
                let watched = Watched {
                    vertex,
                    instances: links.instances[at].clone(),
                    metrics: metrics.clone(),
                    owners: links.owners[at].clone(),
                    fine,
                    peak: peak.clone(),
                };
                ManagerActor::new(policy, period, watched, Links::new(links.clone()))
            },
        ))
    })
}

fn root_child<S: PacketSource>(
    plan: &ChainPlan,
    home: &Arbiter,
    addresses: &Arc<Addresses>,
    pool: &Arc<BlockPool>,
    source: S,
    options: RootOptions,
    record: bool,
) -> ChildSpec {
    let (config, links) = (plan.root(pool), addresses.clone());
    let source = Mutex::new(Some(source));
    ChildSpec::actor("root", home, ActorOptions::default(), &addresses.root, move |_: Birth<_, _>| {
        // A second generation would need the first one's log; its supervisor tolerates none.
        let source = source.lock().take().expect("the root is built once");
        let core = RootCore::new(config.clone(), record);
        RootActor::new(core, source, options.clone(), Links::new(links.clone()))
    })
}

/// Has slots change hands.
fn repartition(cluster: &Cluster, turns: impl Iterator<Item = Turn>) -> anyhow::Result<()> {
    let root = cluster.addresses.root.current().ok_or_else(|| anyhow!("the root has ended"))?;
    for turn in turns {
        let event = RootEvent::Repartition(turn.vertex, turn.how);
        root.send(RootControl::Event(event)).map_err(|lost| anyhow!("{lost}"))?;
    }
    Ok(())
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
    let until = Instant::now() + ANSWER_WITHIN;
    loop {
        let mut waiting = Vec::new();
        for child in std::mem::take(&mut asked) {
            if recoveries.down.contains(&child) || recoveries.expected.contains_key(&child) {
                waiting.push(child);
                continue;
            }
            let (path, name) = &child;
            let supervisor = cluster.tree.supervisor(path).ok_or_else(|| anyhow!("{path} is not running"))?;
            supervisor.kill(name).map_err(|e| anyhow!("{e}"))?;
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
    let root = cluster.addresses.root.current().ok_or_else(|| anyhow!("the root has ended"))?;
    root.send(RootControl::Resume).map_err(|lost| anyhow!("{lost}"))
}

fn collect(plan: &ChainPlan, cluster: &Cluster, options: &RunOptions) -> anyhow::Result<RunOutcome> {
    let mut outcome = RunOutcome {
        instances: cluster.totals.iter().map(|t| *t.lock()).collect(),
        shared: vec![Shared::default(); plan.vertices.len()],
        queue_peaks: cluster.peaks.iter().map(|p| p.load(Ordering::Relaxed)).collect(),
        ..RunOutcome::default()
    };
    let egress: Handle<EgressControl, _> =
        cluster.addresses.egress.current().ok_or_else(|| anyhow!("the egress has ended"))?;
    let (tx, rx) = flume::bounded(1);
    egress.send(EgressControl::Finish(tx)).map_err(|lost| anyhow!("{lost}"))?;
    outcome.egress = rx.recv_timeout(ANSWER_WITHIN).context("the egress did not finish")?;
    for shard in &cluster.addresses.shards {
        let handle = shard.current().ok_or_else(|| anyhow!("a shard has ended"))?;
        let (tx, rx) = flume::bounded(1);
        let vertices: Vec<_> = plan
            .vertices
            .iter()
            .zip(&cluster.addresses.owners)
            .map(|(v, now)| (v.route.clone(), now.lock().clone(), v.function.declarations.objects.clone()))
            .collect();
        let look = Box::new(move |engine: &ShardEngine<All>| {
            let shared = vertices.iter().map(|(route, now, objects)| {
                let mut shared = Shared::default();
                for (object, key) in engine.keys(route.vertex) {
                    let scope = objects[usize::from(object.0)].scope;
                    shared.before += u64::from(route.is_shared(scope, key, &route.owners));
                    shared.after += u64::from(route.is_shared(scope, key, now));
                }
                shared
            });
            // Whoever asked may have given up.
            let _ = tx.send((engine.tally, engine.choices().to_vec(), shared.collect::<Vec<_>>()));
        });
        handle.send(ShardControl::Inspect(look)).map_err(|lost| anyhow!("{lost}"))?;
        let (tally, choices, shared) = rx.recv_timeout(ANSWER_WITHIN).context("a shard does not answer")?;
        for (sum, here) in outcome.shared.iter_mut().zip(shared) {
            (sum.before, sum.after) = (sum.before + here.before, sum.after + here.after);
        }
        outcome.shards.push(tally);
        outcome.choices.extend(choices);
    }
    if options.record || options.keep_in.is_some() {
        outcome.state = state::collect(plan, &cluster.addresses)?;
    }
    Ok(outcome)
}
