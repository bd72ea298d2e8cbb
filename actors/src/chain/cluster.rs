//! A chain's actors while they run: starts their supervision tree, and does to it what an operator asks for.
//!
//! ```text
//!  chain (one_for_one)
//!  ├─ store   shards                       not recoverable yet: a death ends the chain
//!  ├─ egress
//!  ├─ root    the roots                   likewise
//!  └─ VERTEX  its manager and instances    a restarted instance is NF failover
//! ```

use super::compile::{ChainPlan, VertexPlan};
use super::recoveries::ChildName;
use super::run::{RunOptions, RunOutcome, Shared, Turn};
use super::state;
use super::wire::{Addresses, Links, Notice, RootControl};
use crate::control::feed::Feed;
use crate::control::view::{Interfaces, View};
use crate::egress::actor::{EgressActor, EgressControl};
use crate::egress::core::{EgressCore, Sink};
use crate::instance::actor::InstanceActor;
use crate::instance::core::{InstanceConfig, InstanceCounts, Running};
use crate::instance::metrics::Metrics;
use crate::manager::actor::{ManagerActor, Watched};
use crate::messages::RootEvent;
use crate::root::actor::RootActor;
use crate::root::core::RootCore;
use crate::root::intake::Intake;
use crate::root::reader::{PacketSource, Reader, RootOptions};
use crate::shard::actor::{ShardActor, ShardControl};
use anyhow::{Context as _, anyhow};
use chc_api::{All, InstanceId, Position, ShardId};
use chc_runtime::actor::{ActorOptions, Birth};
use chc_runtime::arbiter::{Arbiter, Arbiters};
use chc_runtime::block::BlockPool;
use chc_runtime::mailbox::{Address, Handle};
use chc_runtime::supervision::{ChildSpec, Event, Strategy, Supervisor, SupervisorSpec, Tree};
use chc_store::engine::ShardEngine;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Restarts of a vertex's instances that are tolerated within [`RESTARTS_WITHIN`].
const RESTARTS_MAX: u32 = 100;
const RESTARTS_WITHIN: Duration = Duration::from_secs(10);
/// Longest wait for an actor that should answer at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// What survives the generations of one instance.
struct Lineage {
    /// Positions whose handling panicked, and how often.
    panics: BTreeMap<Position, u32>,
    poisoned: Vec<Position>,
    last: Option<Arc<Running>>,
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

/// The actors of a running chain.
pub(super) struct Cluster {
    arbiters: Arbiters,
    pub(super) tree: Tree,
    chain: Supervisor,
    pub(super) addresses: Arc<Addresses>,
    kept: Vec<Kept>,
    pub(super) news: flume::Receiver<Event>,
    pub(super) notices: flume::Receiver<Notice>,
}

/// What is kept of a vertex over the generations of its actors.
#[derive(Clone)]
pub(super) struct Kept {
    /// What its instances counted.
    totals: Arc<Mutex<InstanceCounts>>,
    /// The deepest mailbox seen.
    peak: Arc<AtomicU64>,
    /// What each instance tells of itself while it runs.
    pub(super) metrics: Vec<Arc<Metrics>>,
}

/// Starts a chain's actors.
pub(super) fn start<S: PacketSource, K: Sink + Send + 'static>(
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
        roots: (0..plan.shares.roots()).map(|_| Address::default()).collect(),
        instances: plan
            .vertices
            .iter()
            .map(|v| (0..v.route.instances).map(|_| Address::default()).collect())
            .collect(),
        shards: (0..plan.shards).map(|_| Address::default()).collect(),
        egress: Address::default(),
        next: plan.topology.vertices.iter().map(|node| node.ways().map(|way| way.to).collect()).collect(),
        off_path: plan.topology.vertices.iter().map(|node| node.off_path).collect(),
        awaits_progress: plan.topology.has_joins(),
        owners: plan.vertices.iter().map(|_| Arc::default()).collect(),
        notices: notify,
        offered: Arc::default(),
    });
    let home = arbiters.get(0).ok_or_else(|| anyhow!("a chain needs at least one arbiter"))?.clone();
    let pool = BlockPool::new();
    let kept = |vertex: &VertexPlan| {
        let metrics = || Arc::new(Metrics::new(vertex.route.owners.len()));
        let metrics = (0..vertex.route.instances).map(|_| metrics()).collect();
        Kept { totals: Arc::default(), peak: Arc::default(), metrics }
    };
    let kept: Vec<Kept> = plan.vertices.iter().map(kept).collect();

    let intake = Intake::new(plan.root(&pool), record);
    let reader = Reader::new(intake, source, root_options);
    let mut spec = SupervisorSpec::new("chain", Strategy::OneForOne).intensity(0, RESTARTS_WITHIN);
    spec = spec.child(store_child(plan, &arbiters, &home, &addresses, record));
    spec = spec.child(egress_child(plan, &home, &addresses, sink));
    // Each before those who register with it or ask it for a replay.
    spec = spec.child(root_child(plan, &arbiters, &home, &addresses, &pool, reader));
    for (at, kept) in kept.iter().enumerate() {
        spec = spec.child(vertex_child(plan, at, &arbiters, &home, &addresses, &pool, kept));
    }
    let chain = Supervisor::start(&home, spec, &tree).map_err(|e| anyhow!("{e}"))?;
    Ok(Cluster { arbiters, tree, chain, addresses, kept, news, notices })
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
    let (routes, hold) = (plan.routes(), plan.topology.joins(None));
    let links = addresses.clone();
    let sink = Mutex::new(Some(sink));
    ChildSpec::actor("egress", home, ActorOptions::default(), &addresses.egress, move |_: Birth<_, _>| {
        let core = EgressCore::new((epoch, window), &senders, &routes, suppress, hold);
        // A second generation would need the first one's files; its supervisor tolerates none.
        let sink = sink.lock().take().expect("the egress is built once");
        EgressActor::new(core, sink, Links::new(links.clone()))
    })
}

fn vertex_child(
    plan: &ChainPlan,
    at: usize,
    arbiters: &Arbiters,
    home: &Arbiter,
    addresses: &Arc<Addresses>,
    pool: &Arc<BlockPool>,
    kept: &Kept,
) -> ChildSpec {
    let vertex = plan.vertices[at].clone();
    let (plan, addresses, pool) = (plan.clone(), addresses.clone(), pool.clone());
    let (Kept { totals, peak, metrics }, of_manager) = (kept.clone(), home.clone());
    let homes: Vec<Arbiter> = arbiters.iter().cloned().collect();
    ChildSpec::supervisor(&plan.vertices[at].name.clone(), home, move |_| {
        let mut spec =
            SupervisorSpec::new(&vertex.name, Strategy::OneForOne).intensity(RESTARTS_MAX, RESTARTS_WITHIN);
        // Packets are counted by slot only where somebody wants to know.
        let is_sampled = vertex.policy.imbalance.is_some();
        for index in 0..vertex.route.instances {
            let id = InstanceId { vertex: vertex.route.vertex, index };
            let config = plan.instance(id, &pool);
            let (factory, links, totals) =
                (vertex.function.factory.clone(), addresses.clone(), totals.clone());
            let lineage = Mutex::new(Lineage { panics: BTreeMap::new(), poisoned: Vec::new(), last: None });
            let (panics_max, retransmit) = (plan.nf_panics_max, plan.retransmit);
            let metrics = metrics[usize::from(index)].clone();
            let address = &addresses.instances[at][usize::from(index)];
            // Those of one number share an arbiter: a packet goes from one to the next on one core as far as their vertices
            // split traffic alike, and more instances are more cores.
            let at = &homes[usize::from(index) % homes.len()];
            let child = ChildSpec::actor(
                &index.to_string(),
                at,
                ActorOptions::default(),
                address,
                move |birth: Birth<_, _>| {
                    let mut config = InstanceConfig { generation: birth.generation, ..config.clone() };
                    lineage.lock().begin(&mut config, panics_max);
                    let core = factory(config);
                    let links = Links::new(links.clone());
                    let kept = (totals.clone(), metrics.clone(), is_sampled);
                    InstanceActor::new(id, birth.generation, core, links, retransmit, kept)
                },
            );
            spec = spec.child(child.first_generation(chc_api::Generation(1)));
        }
        let fine = vertex.route.fine;
        let (links, peak, plan, vertex) =
            (addresses.clone(), peak.clone(), plan.clone(), vertex.route.vertex);
        let (manager, metrics) = (Address::default(), metrics.clone());
        spec.child(ChildSpec::actor(
            "manager",
            &of_manager,
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
    arbiters: &Arbiters,
    home: &Arbiter,
    addresses: &Arc<Addresses>,
    pool: &Arc<BlockPool>,
    reader: Reader<S>,
) -> ChildSpec {
    let (config, addresses) = (plan.root(pool), addresses.clone());
    let roots = config.shares.roots();
    let homes: Vec<Arbiter> = arbiters.iter().cloned().collect();
    // A source that ends has the roots busy anyway.
    let turns = ActorOptions { busy_poll: plan.is_busy && reader.is_live(), ..ActorOptions::default() };
    let reader = Arc::new(Mutex::new(reader));
    ChildSpec::supervisor("root", home, move |_| {
        // A second generation would need the first one's log: none is tolerated.
        let mut spec = SupervisorSpec::new("root", Strategy::OneForOne).intensity(0, RESTARTS_WITHIN);
        for root in 0..roots {
            let (config, reader, links) = (config.clone(), reader.clone(), addresses.clone());
            let at = &homes[usize::from(root) % homes.len()];
            let address = &addresses.roots[usize::from(root)];
            let build = move |_: Birth<_, _>| {
                let core = RootCore::new(&config, root);
                RootActor::new((root, roots), core, reader.clone(), Links::new(links.clone()))
            };
            spec = spec.child(ChildSpec::actor(&root.to_string(), at, turns, address, build));
        }
        spec
    })
}

impl Cluster {
    /// What can be seen of it from outside.
    pub(super) fn view(
        &self,
        plan: &ChainPlan,
        interfaces: Option<Interfaces>,
        alerts: Arc<Mutex<u64>>,
        feed: Arc<Mutex<Feed>>,
    ) -> Arc<View> {
        let metrics = self.kept.iter().map(|kept| kept.metrics.clone()).collect();
        Arc::new(View::new(Arc::new(plan.clone()), self.addresses.clone(), metrics, interfaces, alerts, feed))
    }
}

/// Has slots change hands.
pub(super) fn repartition(cluster: &Cluster, turns: impl Iterator<Item = Turn>) -> anyhow::Result<()> {
    let root = cluster.addresses.first_root().ok_or_else(|| anyhow!("the root has ended"))?;
    for turn in turns {
        let event = RootEvent::Repartition(turn.vertex, turn.how);
        root.send(RootControl::Event(event)).map_err(|lost| anyhow!("{lost}"))?;
    }
    Ok(())
}

/// Kills a child of a supervisor.
pub(super) fn kill(cluster: &Cluster, (path, name): &ChildName) -> anyhow::Result<()> {
    let supervisor = cluster.tree.supervisor(path).ok_or_else(|| anyhow!("{path} is not running"))?;
    supervisor.kill(name).map_err(|e| anyhow!("{e}"))
}

/// Ends a chain that has nothing left to do.
pub(super) fn shutdown(cluster: Cluster) -> anyhow::Result<()> {
    cluster.chain.shutdown();
    cluster.chain.ended().recv_timeout(ANSWER_WITHIN).context("the chain did not shut down")?;
    cluster.arbiters.join();
    Ok(())
}

/// What a chain that is done leaves to be reported.
pub(super) fn collect(
    plan: &ChainPlan,
    cluster: &Cluster,
    options: &RunOptions,
) -> anyhow::Result<RunOutcome> {
    let mut outcome = RunOutcome {
        instances: cluster.kept.iter().map(|kept| *kept.totals.lock()).collect(),
        shared: vec![Shared::default(); plan.vertices.len()],
        queue_peaks: cluster.kept.iter().map(|kept| kept.peak.load(Ordering::Relaxed)).collect(),
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
