//! From a chain's configuration to its physical form: vertices with their instances, slots, routes,
//! and factories of their network functions.

use crate::config::{ChainConfig, StoreMode};
use crate::instance::core::{Instance, InstanceConfig, Mode, build};
use crate::messages::Source;
use crate::root::core::RootConfig;
use crate::splitter::Route;
use chc_api::state::ObjectSpec;
use chc_api::{All, Declarations, Generation, InstanceId, NetworkFunction, Scope, VertexId};
use chc_nf_catalog::Visitor;
use chc_runtime::block::BlockPool;
use chc_store::client::Placement;
use chc_store::engine::{ShardConfig, VertexSpec};
use std::sync::Arc;

/// Makes an instance of a vertex's network function.
pub type InstanceFactory = Arc<dyn Fn(InstanceConfig) -> Box<dyn Instance> + Send + Sync>;

/// A vertex of the physical chain.
#[derive(Clone)]
pub struct VertexPlan {
    /// Its name in the chain file.
    pub name: String,
    /// The function's name in the catalog.
    pub nf: String,
    /// The function's keys.
    pub config: serde_json::Value,
    /// The function's declarations.
    pub specs: Vec<ObjectSpec>,
    /// How traffic to it is partitioned.
    pub route: Route,
    /// Makes its instances.
    pub factory: InstanceFactory,
}

/// A chain ready to run.
#[derive(Clone)]
pub struct ChainPlan {
    /// Its name.
    pub name: String,
    /// Its vertices in the order packets pass them.
    pub vertices: Vec<VertexPlan>,
    /// Clocks in an epoch.
    pub epoch: u64,
    /// The root's window, in clocks.
    pub window: u64,
    /// Least distance of time steps.
    pub tick_ns: u64,
    /// Store shards.
    pub shards: u16,
    /// Where state is.
    pub mode: Mode,
    /// Packets stamped at once.
    pub burst: usize,
    /// Threads.
    pub arbiters: usize,
    /// Their cores.
    pub pins: Vec<usize>,
    /// How often a packet may panic a function before it is dropped.
    pub nf_panics_max: u32,
}

/// Seed of all hashes of a chain. One value: runs are repeatable, and slots are the same everywhere.
pub const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
/// Packets of an instance that can wait for the store at once.
const PARKING: usize = 512;
/// Bytes of packets that may lie above the cut.
const BYTES_IN_FLIGHT_MAX: u64 = 64 << 20;

struct Compile<'a> {
    id: VertexId,
    name: &'a str,
    nf: &'a str,
    config: &'a serde_json::Value,
    instances: u16,
    slots: u16,
}

impl Visitor for Compile<'_> {
    type Out = VertexPlan;

    fn visit<N: NetworkFunction>(
        self,
        make: impl Fn() -> N + Clone + Send + Sync + 'static,
        declarations: Declarations,
    ) -> VertexPlan {
        // The coarsest scope: what instances share then is least.
        let scope = declarations.scopes().last().copied().unwrap_or(Scope::FiveTuple);
        let owner = N::TRANSLATES.then(|| {
            let nf = make();
            Arc::new(move |identity: &chc_api::Identity| nf.owner(identity)) as crate::splitter::OwnerFn
        });
        // Functions that translate hand out addresses by connection, so slots are connections' slots.
        let scope = if N::TRANSLATES { Scope::FiveTuple } else { scope };
        let route = Route {
            vertex: self.id,
            scope,
            seed: SEED,
            owners: (0..self.slots).map(|slot| slot % self.instances).collect(),
            instances: self.instances,
            owner,
        };
        VertexPlan {
            name: self.name.to_owned(),
            nf: self.nf.to_owned(),
            config: self.config.clone(),
            specs: declarations.objects,
            route,
            factory: Arc::new(move |config| build::<N, All>(make(), config)),
        }
    }
}

/// Compiles a checked configuration.
///
/// # Errors
/// What the catalog says of a vertex, which a checked configuration does not run into.
pub fn compile(config: &ChainConfig) -> anyhow::Result<ChainPlan> {
    let mut vertices = Vec::new();
    for (at, vertex) in in_order(config).into_iter().enumerate() {
        let visitor = Compile {
            id: VertexId(at as u16),
            name: &vertex.name,
            nf: &vertex.nf,
            config: &vertex.config,
            instances: vertex.instances,
            slots: vertex.slots,
        };
        let plan = chc_nf_catalog::with(&vertex.nf, &vertex.config, vertex.slots, SEED, visitor);
        vertices.push(plan.map_err(|problems| anyhow::anyhow!("vertex {}: {problems:?}", vertex.name))?);
    }
    Ok(ChainPlan {
        name: config.name.clone(),
        vertices,
        epoch: u64::from(config.store.epoch),
        window: u64::from(config.root.window),
        tick_ns: u64::from(config.root.tick_us) * 1000,
        shards: config.store.shards,
        mode: match config.store.mode {
            StoreMode::Traditional => Mode::Traditional,
            StoreMode::ExternalCacheNoAckWait => Mode::Store,
        },
        burst: usize::from(config.runtime.burst),
        arbiters: usize::from(config.runtime.arbiters),
        pins: config.runtime.pins.iter().map(|p| usize::from(*p)).collect(),
        nf_panics_max: u32::from(config.runtime.nf_panics_max),
    })
}

/// The vertices in the order packets pass them.
fn in_order(config: &ChainConfig) -> Vec<&crate::config::VertexConfig> {
    let mut order = Vec::new();
    let mut next = config.entry.first().map(|e| e.to.clone());
    while let Some((_, vertex)) = next.and_then(|name| config.vertex(&name)) {
        if order.len() > config.vertices.len() {
            break;
        }
        order.push(vertex);
        next = vertex.next.first().map(|e| e.to.clone());
    }
    order
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

    /// Where objects live.
    #[must_use]
    pub fn placement(&self) -> Placement {
        Placement { shards: self.shards, seed: SEED }
    }

    /// The vertex after one.
    #[must_use]
    pub fn next(&self, vertex: VertexId) -> Option<&VertexPlan> {
        self.vertices.get(usize::from(vertex.0) + 1)
    }

    /// The root's part.
    #[must_use]
    pub fn root(&self, pool: &Arc<BlockPool>) -> RootConfig {
        RootConfig {
            epoch: self.epoch,
            window: self.window,
            bytes_max: BYTES_IN_FLIGHT_MAX,
            tick_ns: self.tick_ns,
            route: self.vertices[0].route.clone(),
            instances: self.instances(),
            retain: self.mode == Mode::Store,
            pool: pool.clone(),
        }
    }

    /// A shard's part.
    #[must_use]
    pub fn shard(&self, shard: chc_api::ShardId, record_choices: bool) -> ShardConfig {
        let spec = |v: &VertexPlan| VertexSpec {
            objects: v.specs.clone(),
            instances: v.route.instances,
            owners: v.route.owners.clone(),
        };
        ShardConfig {
            shard,
            window: self.window,
            vertices: self.vertices.iter().map(spec).collect(),
            record_choices,
        }
    }

    /// An instance's part, of its first generation.
    #[must_use]
    pub fn instance(&self, id: InstanceId, pool: &Arc<BlockPool>) -> InstanceConfig {
        let at = usize::from(id.vertex.0);
        let upstream = match at.checked_sub(1).map(|up| &self.vertices[up].route) {
            None => vec![Source::Root],
            Some(up) => {
                let source = |index| Source::Instance(InstanceId { vertex: up.vertex, index });
                (0..up.instances).map(source).collect()
            }
        };
        InstanceConfig {
            id,
            generation: Generation(1),
            epoch: self.epoch,
            window: self.window,
            specs: self.vertices[at].specs.clone(),
            own: self.vertices[at].route.clone(),
            next: self.next(id.vertex).map(|v| v.route.clone()),
            upstream: vec![upstream],
            mode: self.mode,
            placement: self.placement(),
            parking: PARKING,
            poisoned: Vec::new(),
            pool: pool.clone(),
            running: Arc::default(),
        }
    }
}
