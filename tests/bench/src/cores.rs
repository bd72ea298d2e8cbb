//! All cores of a chain on one thread, called directly: no actors, mailboxes or supervision.
//!
//! A burst goes in at the root; then every core in turn is given what waits for it and flushed, as its
//! actor would do, until nothing is left: outputs have left by the egress, batches are applied and
//! acknowledged, boundaries closed, everything below the new cut forgotten. So memory is steady, and the
//! time of one instance can be told from that of the rest.
//!
//! Protections are a type, so that what one of them costs can be measured: a run without it has no trace of it.

use crate::remote::ProcessShard;
use anyhow::{bail, ensure};
use chc_actors::chain::compile::ChainPlan;
use chc_actors::egress::core::{EgressCore, Sink};
use chc_actors::functions::InstanceFactory;
use chc_actors::instance::core::Instance;
use chc_actors::messages::{Data, Destination, InstanceEffect, InstanceEvent, RootEffect, RootEvent, Source};
use chc_actors::root::core::{RootConfig, RootCore};
use chc_actors::root::intake::Intake;
use chc_actors::root::reader::PacketSource;
use chc_actors::routing::Repartition;
use chc_actors::topology::Topology;
use chc_api::packet::parse::parse;
use chc_api::{All, Clock, Generation, InstanceId, Protections, ShardId, VertexId};
use chc_runtime::block::{Block, BlockPool, Desc, DropRecord, EventRecord};
use chc_store::batch::{Batch, Load};
use chc_store::engine::{ShardEffect, ShardEngine};
use chc_store::packet_log::LogBatch;
use chc_store::wire::{FromShard, ToShard};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Every instance is its first generation: nothing fails here.
const GENERATION: Generation = Generation(1);

/// What waits for a shard.
enum ShardEvent {
    Batch(Arc<Batch>),
    Load(Load),
    Cut(Clock),
    Reserve(Clock),
    Log(LogBatch),
}

/// What is remembered for the case of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The root retains what is in flight.
    pub root_log: bool,
    /// The egress remembers what has left.
    pub egress_suppression: bool,
}

/// The cores of a chain.
pub struct Cores<P = All> {
    root: RootCore<P>,
    intake: Intake,
    ids: Vec<InstanceId>,
    /// Where the instances of each vertex begin.
    first_of: Vec<usize>,
    instances: Vec<Box<dyn Instance>>,
    shards: Vec<ShardEngine<P>>,
    /// In place of these, one in another process.
    remote: Option<ProcessShard>,
    egress: EgressCore<P>,
    sink: Counted,
    to_root: Vec<RootEvent>,
    to_instances: Vec<Vec<InstanceEvent>>,
    to_shards: Vec<Vec<ShardEvent>>,
    to_egress: Vec<Data>,
    topology: Topology,
    /// Buffers that are used again.
    root_effects: Vec<RootEffect>,
    /// Packets that have come in.
    ingested: u64,
    instance_effects: Vec<InstanceEffect>,
    shard_effects: Vec<ShardEffect>,
    root_events: Vec<RootEvent>,
    instance_events: Vec<InstanceEvent>,
    shard_events: Vec<ShardEvent>,
    defect: Option<String>,
    in_instances: Duration,
    /// When packets last came to an instance, and how long it had those that last left it.
    arrived: Instant,
    handled_in: Duration,
}

impl Cores {
    /// Builds a chain's cores as they are in the product and starts them.
    ///
    /// # Errors
    /// If the chain does not start: a defect.
    pub fn start(plan: &ChainPlan) -> anyhow::Result<Self> {
        Self::as_in_the_product(plan, None)
    }

    /// The same, with the chain's only shard in another process. The time of instances is also what they take for talking
    /// to it and waiting for it.
    ///
    /// # Errors
    /// As [`Cores::start`], or if the process is gone.
    pub fn start_with(plan: &ChainPlan, shard: ProcessShard) -> anyhow::Result<Self> {
        Self::as_in_the_product(plan, Some(shard))
    }

    fn as_in_the_product(plan: &ChainPlan, remote: Option<ProcessShard>) -> anyhow::Result<Self> {
        let factories: Vec<_> = plan.vertices.iter().map(|v| v.function.factory.clone()).collect();
        let is_stored = plan.root(&BlockPool::new()).retain;
        let memory = Memory { root_log: is_stored, egress_suppression: is_stored };
        Self::with(plan, &factories, memory, remote)
    }
}

impl<P: Protections> Cores<P> {
    /// Builds a chain's cores with the given instances, by vertex, and starts them; with a shard in another process, if
    /// one is given, in place of the chain's own.
    ///
    /// # Errors
    /// As [`Cores::start`].
    pub fn with(
        plan: &ChainPlan,
        factories: &[InstanceFactory],
        memory: Memory,
        remote: Option<ProcessShard>,
    ) -> anyhow::Result<Self> {
        let ids = plan.instances();
        let pool = BlockPool::new();
        let root = RootConfig { retain: memory.root_log, ..plan.root(&pool) };
        let instance = |id: &InstanceId| factories[usize::from(id.vertex.0)](plan.instance(*id, &pool));
        let first_of = |vertex: usize| ids.iter().take_while(|id| usize::from(id.vertex.0) < vertex).count();
        ensure!(remote.is_none() || plan.shards == 1, "a chain with a shard elsewhere has that one only");
        let here = if remote.is_some() { 0 } else { plan.shards };
        let shards: Vec<ShardEngine<P>> =
            (0..here).map(|shard| ShardEngine::new(plan.shard(ShardId(shard), false))).collect();
        let mut cores = Self {
            root: RootCore::new(&root, 0),
            intake: Intake::new(root, false),
            first_of: (0..plan.vertices.len()).map(first_of).collect(),
            instances: ids.iter().map(instance).collect(),
            egress: EgressCore::new(
                (plan.epoch, plan.window),
                &plan.egress_senders(),
                &plan.routes(),
                memory.egress_suppression,
                plan.topology.joins(None),
            ),
            sink: Counted::default(),
            topology: plan.topology.clone(),
            to_root: Vec::new(),
            to_instances: ids.iter().map(|_| Vec::new()).collect(),
            ids,
            to_shards: (0..plan.shards).map(|_| Vec::new()).collect(),
            to_egress: Vec::new(),
            root_effects: Vec::new(),
            instance_effects: Vec::new(),
            shard_effects: Vec::new(),
            root_events: Vec::new(),
            instance_events: Vec::new(),
            shard_events: Vec::new(),
            shards,
            remote,
            ingested: 0,
            defect: None,
            in_instances: Duration::ZERO,
            arrived: Instant::now(),
            handled_in: Duration::ZERO,
        };
        for at in 0..cores.instances.len() {
            cores.run_instance(at);
        }
        cores.settle()?;
        while cores.remote.is_some() && cores.instances.iter().any(|instance| instance.awaits_store()) {
            cores.exchange()?;
        }
        ensure!(cores.root.is_ready(&cores.intake), "an instance has not registered");
        Ok(cores)
    }

    /// Takes up to `packets` packets in one burst and handles them to the end. Returns how many there
    /// were.
    ///
    /// # Errors
    /// A shard's complaint, or the feed's.
    pub fn burst(&mut self, feed: &mut impl PacketSource, packets: usize) -> anyhow::Result<usize> {
        let mut taken = 0;
        while taken < packets && self.intake.has_room() {
            let Some(mut arrival) = feed.next().map_err(anyhow::Error::msg)? else { break };
            let ticket = self.intake.draw(&arrival);
            let parsed = parse(arrival.link, &arrival.frame);
            self.root.ingest(&mut arrival, parsed, ticket);
            taken += 1;
        }
        self.ingested += taken as u64;
        if taken == 0 && !self.intake.awaits_lease() {
            // Nothing comes now: let everything in flight close.
            self.intake.pause();
        }
        self.root.flush(&mut self.intake, &mut self.root_effects);
        self.carry_root();
        self.settle()?;
        if self.remote.is_some() {
            let is_in_flight = |cores: &Self| cores.ingested > cores.left() + cores.dropped();
            while is_in_flight(self) || !self.intake.has_room() || self.intake.awaits_lease() {
                self.exchange()?;
            }
            if self.instances.iter().any(|instance| instance.awaits_store()) {
                self.exchange()?;
            }
        }
        Ok(taken)
    }

    /// Takes what the shard elsewhere has sent, and handles it to the end.
    fn exchange(&mut self) -> anyhow::Result<()> {
        let begin = Instant::now();
        let Some(shard) = &mut self.remote else { return Ok(()) };
        let effects = &mut self.shard_effects;
        let count = shard.take(|message| {
            effects.push(match message {
                FromShard::Reply(reply) => ShardEffect::Reply(reply),
                FromShard::Acknowledged(to, generation, number) => {
                    ShardEffect::Acknowledge { to, generation, number }
                }
                FromShard::Loaded(loaded) => ShardEffect::Loaded(loaded),
                FromShard::Changed(changes) => ShardEffect::Changed(changes),
                FromShard::Reserved(until) => ShardEffect::Reserved(until),
            });
        })?;
        if count == 0 {
            std::thread::yield_now();
        }
        self.in_instances += begin.elapsed();
        self.carry_shard(0);
        self.settle()
    }

    /// Partitions a vertex's traffic otherwise from the next boundary on, and handles that to the end. Returns how many
    /// instances have lost or gained slots.
    ///
    /// # Errors
    /// A shard's complaint.
    pub fn repartition(&mut self, vertex: VertexId, how: Repartition) -> anyhow::Result<u64> {
        let before = self.handovers();
        self.root.on_event(&mut self.intake, RootEvent::Repartition(vertex, how), &mut self.root_effects);
        self.root.flush(&mut self.intake, &mut self.root_effects);
        self.carry_root();
        self.settle()?;
        Ok(self.handovers() - before)
    }

    fn place(&self, id: InstanceId) -> usize {
        self.first_of[usize::from(id.vertex.0)] + usize::from(id.index)
    }

    fn handovers(&self) -> u64 {
        self.instances.iter().map(|instance| instance.counts().handovers).sum()
    }

    /// Packets that left by the egress.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.sink.packets
    }

    /// Packets that ended in the chain.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.sink.drops
    }

    /// The time instances took since this was last asked.
    pub fn take_instance_time(&mut self) -> Duration {
        std::mem::take(&mut self.in_instances)
    }

    /// How long the instance that last sent packets to the egress had them, the store's answers included.
    #[must_use]
    pub fn handled_in(&self) -> Duration {
        self.handled_in
    }

    /// How often packets and timers began to wait for the store.
    #[must_use]
    pub fn round_trips(&self) -> u64 {
        self.instances.iter().map(|instance| instance.counts().round_trips).sum()
    }

    /// Gives every core what waits for it until nothing is left.
    fn settle(&mut self) -> anyhow::Result<()> {
        loop {
            let mut is_quiet = true;
            for at in 0..self.instances.len() {
                if !self.to_instances[at].is_empty() {
                    is_quiet = false;
                    self.run_instance(at);
                }
            }
            for at in 0..self.to_shards.len() {
                is_quiet &= self.to_shards[at].is_empty();
                self.run_shard(at)?;
            }
            is_quiet &= self.to_egress.is_empty() && self.to_root.is_empty();
            self.run_egress();
            self.run_root();
            if let Some(defect) = self.defect.take() {
                bail!(defect);
            }
            if is_quiet {
                return Ok(());
            }
        }
    }

    fn run_instance(&mut self, at: usize) {
        std::mem::swap(&mut self.to_instances[at], &mut self.instance_events);
        let comes =
            |event: &InstanceEvent| matches!(event, InstanceEvent::Data(data) if data.block.is_some());
        let has_arrived = self.instance_events.iter().any(comes);
        let begin = Instant::now();
        if has_arrived {
            self.arrived = begin;
        }
        for event in self.instance_events.drain(..) {
            self.instances[at].on_event(event, &mut self.instance_effects);
        }
        self.instances[at].flush(&mut self.instance_effects);
        let took = begin.elapsed();
        self.in_instances += took;
        let sends = |effect: &InstanceEffect| match effect {
            InstanceEffect::Data(Destination::Egress, data) => data.block.is_some(),
            _ => false,
        };
        if self.instance_effects.iter().any(sends) {
            self.handled_in = begin + took - self.arrived;
        }
        let (id, first_of) = (self.ids[at], &self.first_of);
        let place = |id: InstanceId| first_of[usize::from(id.vertex.0)] + usize::from(id.index);
        for effect in self.instance_effects.drain(..) {
            match effect {
                InstanceEffect::Data(Destination::Egress, data) => self.to_egress.push(data),
                InstanceEffect::Data(Destination::Instance(to), data) => {
                    self.to_instances[place(to)].push(InstanceEvent::Data(data));
                }
                InstanceEffect::Batch(shard, batch) => {
                    self.to_shards[usize::from(shard.0)].push(ShardEvent::Batch(batch));
                }
                InstanceEffect::Load(shard, load) => {
                    self.to_shards[usize::from(shard.0)].push(ShardEvent::Load(load));
                }
                InstanceEffect::Replay(Source::Root(_), boundary) => {
                    self.to_root.push(RootEvent::Replay(id, GENERATION, boundary));
                }
                InstanceEffect::Replay(Source::Instance(upstream), boundary) => {
                    let event = InstanceEvent::Replay { to: id, generation: GENERATION, boundary };
                    self.to_instances[place(upstream)].push(event);
                }
                InstanceEffect::Register => self.to_root.push(RootEvent::Register(id, GENERATION)),
                InstanceEffect::Closed(boundary, records) => {
                    self.to_root.push(RootEvent::Closed(id, GENERATION, boundary, records));
                }
                // Time does not pass here.
                InstanceEffect::Pause(position, _) => {
                    self.to_instances[at].push(InstanceEvent::PauseOver(position));
                }
                InstanceEffect::Defect(defect) => self.defect = Some(defect),
                InstanceEffect::CaughtUp { .. } => {}
            }
        }
    }

    fn run_shard(&mut self, at: usize) -> anyhow::Result<()> {
        std::mem::swap(&mut self.to_shards[at], &mut self.shard_events);
        if let Some(shard) = &mut self.remote {
            let begin = Instant::now();
            for event in self.shard_events.drain(..) {
                shard.tell(&match event {
                    ShardEvent::Batch(batch) => ToShard::Batch(Arc::unwrap_or_clone(batch)),
                    ShardEvent::Load(load) => ToShard::Load(load),
                    ShardEvent::Cut(cut) => ToShard::Cut(cut),
                    ShardEvent::Reserve(until) => ToShard::Reserve(until),
                    ShardEvent::Log(_) => bail!("packets are logged in a shard of this process only"),
                })?;
            }
            self.in_instances += begin.elapsed();
            return Ok(());
        }
        for event in self.shard_events.drain(..) {
            let (shard, effects) = (&mut self.shards[at], &mut self.shard_effects);
            match event {
                ShardEvent::Batch(batch) => shard.on_batch(batch, effects),
                ShardEvent::Load(load) => shard.on_load(&load, effects),
                ShardEvent::Cut(cut) => shard.on_cut(cut, effects),
                ShardEvent::Reserve(until) => shard.on_reserve(until, effects),
                ShardEvent::Log(batch) => shard.on_log(batch, effects),
            }
        }
        self.carry_shard(at);
        Ok(())
    }

    fn carry_shard(&mut self, at: usize) {
        for effect in self.shard_effects.drain(..) {
            let (to, event) = match effect {
                ShardEffect::Reply(reply) => (reply.to, InstanceEvent::Reply(reply)),
                ShardEffect::Acknowledge { to, number, .. } => {
                    (to, InstanceEvent::Acknowledged { shard: ShardId(at as u16), number })
                }
                ShardEffect::Reserved(until) => {
                    self.to_root.push(RootEvent::Reserved(until));
                    continue;
                }
                ShardEffect::Logged { number, .. } => {
                    self.to_root.push(RootEvent::Logged(number));
                    continue;
                }
                ShardEffect::Loaded(loaded) => (loaded.to, InstanceEvent::Loaded(loaded)),
                ShardEffect::Changed(changes) => (changes.to, InstanceEvent::Changed(changes)),
                ShardEffect::Defect(reason) => {
                    self.defect = Some(reason);
                    continue;
                }
            };
            let place = self.first_of[usize::from(to.vertex.0)] + usize::from(to.index);
            self.to_instances[place].push(event);
        }
    }

    fn run_egress(&mut self) {
        for data in self.to_egress.drain(..) {
            self.egress.on_data(&data, &mut self.sink);
        }
        self.to_root.extend(self.egress.close().map(RootEvent::EgressClosed));
    }

    fn run_root(&mut self) {
        std::mem::swap(&mut self.to_root, &mut self.root_events);
        for event in self.root_events.drain(..) {
            self.root.on_event(&mut self.intake, event, &mut self.root_effects);
        }
        self.carry_root();
    }

    fn carry_root(&mut self) {
        let mut effects = std::mem::take(&mut self.root_effects);
        for effect in effects.drain(..) {
            match effect {
                RootEffect::Data(Destination::Egress, data) => self.to_egress.push(data),
                RootEffect::Data(Destination::Instance(to), data) => {
                    let place = self.place(to);
                    self.to_instances[place].push(InstanceEvent::Data(data));
                }
                RootEffect::Grant(to, boundary, records) => {
                    let place = self.place(to);
                    self.to_instances[place].push(InstanceEvent::Granted { boundary, records });
                }
                RootEffect::Awake(to, changes) => {
                    let place = self.place(to);
                    self.to_instances[place].push(InstanceEvent::Awake(changes));
                }
                RootEffect::Go { to, cut, stamped, generations, changes, granted, .. } => {
                    let ways = &self.topology.vertices[usize::from(to.vertex.0)];
                    let is_next = |id: &InstanceId| ways.ways().any(|way| way.to == id.vertex);
                    let downstream = generations.into_iter().filter(|(id, _)| is_next(id)).collect();
                    let event = InstanceEvent::Go { cut, stamped, downstream, changes, granted };
                    let place = self.place(to);
                    self.to_instances[place].push(event);
                }
                RootEffect::Log(batch) => self.to_shards[0].push(ShardEvent::Log(batch)),
                RootEffect::Reserve(until) => self.to_shards[0].push(ShardEvent::Reserve(until)),
                RootEffect::Cut(cut, instances) => {
                    for id in instances.iter() {
                        let place = self.place(*id);
                        self.to_instances[place].push(InstanceEvent::Cut(cut));
                    }
                    self.egress.trim(cut);
                    for waiting in &mut self.to_shards {
                        waiting.push(ShardEvent::Cut(cut));
                    }
                }
            }
        }
        self.root_effects = effects;
    }
}

/// The sink: counts.
#[derive(Default)]
struct Counted {
    packets: u64,
    drops: u64,
}

impl Sink for Counted {
    #[inline]
    fn packet(&mut self, _block: &Block, _desc: &Desc) {
        self.packets += 1;
    }

    fn event(&mut self, _from: InstanceId, _event: &EventRecord) {}

    fn dropped(&mut self, _from: InstanceId, _record: &DropRecord) {
        self.drops += 1;
    }
}
