//! From a chain's configuration to its physical form: vertices with their instances, slots, routes,
//! and factories of their network functions.

use crate::config::{
    ChainConfig, Edge, Order, Placement as ObjectPlacement, PolicyConfig, Poll, RootLog, StoreMode,
    VertexConfig,
};
use crate::functions::{Function, NfRegistry};
use crate::instance::core::InstanceConfig;
use crate::manager::core::Policy;
use crate::manager::policy::{Code, Condition, PolicyCode};
use crate::messages::Source;
use crate::root::core::RootConfig;
use crate::root::shares::Shares;
use crate::routing::{Route, fine_slots};
use crate::splitter::Ways;
use crate::topology::{Node, ShapeError, Topology, Way};
use chc_api::{Declarations, Generation, InstanceId, Scope, ShardId, VertexId};
use chc_runtime::block::BlockPool;
use chc_store::client::Placement;
use chc_store::engine::{ShardConfig, VertexSpec};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

/// A vertex of the physical chain.
#[derive(Clone)]
pub struct VertexPlan {
    /// Its name in the chain file.
    pub name: String,
    /// Its network function.
    pub function: Function,
    /// How traffic to it is partitioned.
    pub route: Route,
    /// When it gets an instance more or one less.
    pub policy: PolicyConfig,
    /// Conditions of it in code.
    pub policy_code: PolicyCode,
}

/// A chain ready to run.
#[derive(Clone)]
pub struct ChainPlan {
    /// Its name.
    pub name: String,
    /// Its vertices, in an order in which every edge leads on.
    pub vertices: Vec<VertexPlan>,
    /// Its shape.
    pub topology: Topology,
    /// Clocks in an epoch.
    pub epoch: u64,
    /// The root's window, in clocks.
    pub window: u64,
    /// Least distance of time steps.
    pub tick_ns: u64,
    /// Which root a packet belongs to.
    pub shares: Shares,
    /// Clocks reserved at once.
    pub clock_lease: u64,
    /// Whether packets go on only when the store has them in its log.
    pub logs_to_store: bool,
    /// Store shards.
    pub shards: u16,
    /// Whether all objects of a vertex live on one of them.
    pub by_vertex: bool,
    /// Where state is.
    pub mode: StoreMode,
    /// How long a shard may take to answer.
    pub retransmit: Duration,
    /// Packets stamped at once.
    pub burst: usize,
    /// Threads.
    pub arbiters: usize,
    /// Their cores.
    pub pins: Vec<usize>,
    /// How often a packet may panic a function before it is dropped.
    pub nf_panics_max: u32,
    /// Whether the root of a chain between interfaces never parks.
    pub is_busy: bool,
}

/// Seed of all hashes of a chain. One value: runs are repeatable, and slots are the same everywhere.
pub const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
/// Packets of an instance that can wait for the store at once.
const PARKING: usize = 512;
/// Bytes of packets that may lie above the cut.
const BYTES_IN_FLIGHT_MAX: u64 = 64 << 20;
/// An epoch has so many bytes of packets, and what of a burst is above it: an epoch or two are in flight, and a core's
/// second-level cache has one or two MiB.
const EPOCH_BYTES: u64 = 256 << 10;

/// Compiles a configuration that was checked against the same registry.
///
/// # Errors
/// What a function says of its keys, which a checked configuration does not run into, or a shape in which
/// packets could not be told apart.
pub fn compile(config: &ChainConfig, registry: &dyn NfRegistry) -> anyhow::Result<ChainPlan> {
    let order = in_order(config);
    let mut vertices = Vec::new();
    for (at, vertex) in order.iter().enumerate() {
        let function = registry.function(&vertex.nf, &vertex.config, vertex.slots, SEED);
        let function =
            function.map_err(|problems| anyhow::anyhow!("vertex {}: {problems:?}", vertex.name))?;
        let policy = vertex.policy.clone().unwrap_or_default();
        let policy_code = vertex.policy_code.clone();
        let grows = policy.scale_up.is_some() || policy_code.scale_up.is_some();
        let instances = if grows { vertex.instances.max(policy.instances_max) } else { vertex.instances };
        let route = route(VertexId(at as u16), vertex, instances, &function);
        vertices.push(VertexPlan { name: vertex.name.clone(), function, route, policy, policy_code });
    }
    let declared: Vec<&Declarations> = vertices.iter().map(|v| &v.function.declarations).collect();
    let topology = topology(config, &order, &declared)?;
    Ok(ChainPlan {
        name: config.name.clone(),
        vertices,
        topology,
        epoch: u64::from(config.store.epoch),
        window: u64::from(config.root.window),
        tick_ns: u64::from(config.root.tick_us) * 1000,
        shares: shares(config),
        clock_lease: u64::from(config.root.clock_lease),
        logs_to_store: config.root.log == RootLog::Store,
        shards: config.store.shards,
        by_vertex: config.store.placement == ObjectPlacement::ByVertex,
        mode: config.store.mode,
        retransmit: Duration::from_micros(config.store.retransmit_us.into()),
        burst: usize::from(config.runtime.burst),
        arbiters: usize::from(config.runtime.arbiters),
        pins: config.runtime.pins.iter().map(|p| usize::from(*p)).collect(),
        nf_panics_max: u32::from(config.runtime.nf_panics_max),
        is_busy: config.runtime.poll == Poll::Busy,
    })
}

/// Which root a packet belongs to.
fn shares(config: &ChainConfig) -> Shares {
    match config.root.hosts.as_slice() {
        [] => Shares::by_addresses(config.root.instances, SEED),
        hosts => Shares::by_hosts(hosts),
    }
}

/// How traffic to a vertex is partitioned: by the coarsest scope, for what instances share then is least, and, where the
/// function has state of connections, too, within that by connection, for load that is uneven otherwise.
/// Functions that translate hand out addresses by connection, so their slots are connections'.
fn route(id: VertexId, vertex: &VertexConfig, instances: u16, function: &Function) -> Route {
    let scopes = function.declarations.scopes();
    let coarsest = scopes.last().copied().unwrap_or(Scope::FiveTuple);
    let scope = if function.translates { Scope::FiveTuple } else { coarsest };
    let is_split = scope > Scope::FiveTuple && scopes.contains(&Scope::FiveTuple);
    let fine = if is_split { fine_slots(vertex.slots, instances) } else { 1 };
    Route {
        vertex: id,
        scope,
        fine,
        seed: SEED,
        owners: (0..vertex.slots).map(|slot| slot / fine % vertex.instances).collect(),
        later: Vec::new(),
        instances,
        owner: function.owner.clone(),
        connection_slot: function.connection_slot.clone(),
    }
}

/// The vertices, each behind all that lead to it; otherwise in the order of the file.
pub fn in_order(config: &ChainConfig) -> Vec<&VertexConfig> {
    let leads_to = |vertex: &VertexConfig, name: &str| vertex.edges().any(|edge| edge.to == name);
    let mut left: Vec<&VertexConfig> = config.vertices.iter().collect();
    let mut order = Vec::new();
    // A checked chain has no cycle, so there is always one that nothing left leads to.
    while let Some(at) = left.iter().position(|v| !left.iter().any(|other| leads_to(other, &v.name))) {
        order.push(left.remove(at));
    }
    order
}

/// The shape of the chain, vertices numbered in `order`, by what their functions declare.
///
/// # Errors
/// If packets could not be told apart.
pub fn topology(
    config: &ChainConfig,
    order: &[&VertexConfig],
    declared: &[&Declarations],
) -> Result<Topology, ShapeError> {
    let way = |edge: &Edge| {
        let to = order.iter().position(|vertex| vertex.name == edge.to)?;
        Some(Way { to: VertexId(to as u16), matching: edge.matching.clone() })
    };
    let ways = |edges: &[Edge]| edges.iter().filter_map(way).collect::<Vec<_>>();
    let node = |(vertex, declared): (&&VertexConfig, &&Declarations)| Node {
        outputs: declared.outputs.iter().map(|output| ways(vertex.next.on(output))).collect(),
        copies: ways(&vertex.copy),
        copies_in: ways(&vertex.copy_in),
        extra_packets_max: declared.extra_packets_max,
        in_order: vertex.order == Order::Chain,
        ..Node::default()
    };
    let shape = Topology::new(ways(&config.entry), order.iter().zip(declared).map(node).collect())?;
    Ok(Topology { roots: config.root.instances, ..shape })
}

impl ChainPlan {
    /// All instances.
    #[must_use]
    pub fn instances(&self) -> Vec<InstanceId> {
        let of = |v: &VertexPlan| {
            let vertex = v.route.vertex;
            (0..v.route.instances).map(move |index| InstanceId { vertex, index }).collect::<Vec<_>>()
        };
        self.vertices.iter().flat_map(of).collect()
    }

    /// Where the objects of a vertex live.
    #[must_use]
    pub fn placement_of(&self, vertex: VertexId) -> Placement {
        let home = self.by_vertex.then_some(ShardId(vertex.0 % self.shards));
        Placement { shards: self.shards, seed: SEED, home }
    }

    /// How traffic to each vertex is partitioned at first.
    #[must_use]
    pub fn routes(&self) -> Arc<[Route]> {
        self.vertices.iter().map(|vertex| vertex.route.clone()).collect()
    }

    /// Who sends to the egress: every instance, if only events, and the roots if packets pass the chain by.
    #[must_use]
    pub fn egress_senders(&self) -> Vec<Source> {
        let passes_by = self.topology.entry.iter().all(|way| way.matching.is_some());
        let roots = if passes_by { self.shares.roots() } else { 0 };
        (0..roots).map(Source::Root).chain(self.instances().into_iter().map(Source::Instance)).collect()
    }

    /// What the manager of a vertex is to do, and how often.
    #[must_use]
    pub fn policy(&self, at: usize) -> (Policy, Duration) {
        let VertexPlan { policy: config, policy_code: code, .. } = &self.vertices[at];
        // Expressions have been tried when the chain was checked.
        let condition = |text: &Option<String>, code: &Option<Code>| match code {
            Some(code) => Some(Condition::Code(code.clone())),
            None => Condition::new(text.as_ref()?).ok(),
        };
        let policy = Policy {
            scale_up: condition(&config.scale_up, &code.scale_up),
            scale_down: condition(&config.scale_down, &code.scale_down),
            imbalance: config.imbalance,
            instances_max: config.instances_max,
        };
        (policy, Duration::from_millis(config.period_ms.into()))
    }

    /// The roots' part.
    #[must_use]
    pub fn root(&self, pool: &Arc<BlockPool>) -> RootConfig {
        RootConfig {
            epoch: self.epoch,
            window: self.window,
            bytes_max: BYTES_IN_FLIGHT_MAX,
            epoch_bytes: EPOCH_BYTES,
            tick_ns: self.tick_ns,
            shares: self.shares.clone(),
            ways: Ways::of_root(&self.topology, self.routes()),
            seed: SEED,
            instances: self.instances(),
            retain: self.mode.is_stored(),
            clock_lease: self.mode.is_stored().then_some(self.clock_lease),
            logs_to_store: self.logs_to_store,
            pool: pool.clone(),
        }
    }

    /// A shard's part.
    #[must_use]
    pub fn shard(&self, shard: chc_api::ShardId, record_choices: bool) -> ShardConfig {
        let spec = |v: &VertexPlan| VertexSpec {
            objects: v.function.declarations.objects.clone(),
            instances: v.route.instances,
            owners: v.route.owners.clone(),
            per_clock: self.topology.per_clock(v.route.vertex),
        };
        ShardConfig {
            shard,
            window: self.window,
            vertices: self.vertices.iter().map(spec).collect(),
            record_choices,
            seed: RandomState::new().hash_one(shard),
        }
    }

    /// An instance's part, of its first generation.
    #[must_use]
    pub fn instance(&self, id: InstanceId, pool: &Arc<BlockPool>) -> InstanceConfig {
        let at = usize::from(id.vertex.0);
        let node = &self.topology.vertices[at];
        let senders = |from: &Option<VertexId>| match from {
            None => (0..self.shares.roots()).map(Source::Root).collect(),
            Some(vertex) => {
                let instances = self.vertices[usize::from(vertex.0)].route.instances;
                (0..instances).map(|index| Source::Instance(InstanceId { vertex: *vertex, index })).collect()
            }
        };
        InstanceConfig {
            id,
            generation: Generation(1),
            epoch: self.epoch,
            window: self.window,
            specs: self.vertices[at].function.declarations.objects.clone(),
            own: self.vertices[at].route.clone(),
            ways: Ways { node: node.clone(), routes: self.routes() },
            upstream: node.upstream.iter().map(senders).collect(),
            joins: self.topology.joins(Some(id.vertex)),
            mode: self.mode,
            placement: self.placement_of(id.vertex),
            parking: PARKING,
            poisoned: Vec::new(),
            pool: pool.clone(),
            running: Arc::default(),
        }
    }
}
