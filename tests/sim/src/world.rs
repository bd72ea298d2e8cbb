//! One run: the real cores of a whole chain on one thread, joined by links that deliver at random,
//! while instances die.
//!
//! Faults. A crash drops an instance's core; what was on its way to it is lost, and of each link from
//! it, by chance, the end. A zombie goes on working, sending and being sent to while its successor
//! starts, until it crashes. Any number may be dead at once, and a recovering instance may die again.
//! Messages are otherwise neither lost nor repeated; they may be late without bound.

use crate::left::Left;
use crate::links::{Actor, Links, Message, Unreliable};
use crate::rng::Rng;
use crate::setup::{Kit, Setup};
use crate::traffic::Traffic;
use crate::weaken::Weakened;
use chc_actors::egress::core::EgressCore;
use chc_actors::instance::core::{Instance, InstanceConfig, Running};
use chc_actors::messages::{InstanceEvent, RootEvent, Source};
use chc_actors::root::core::{Arrival, Queue, RootConfig, RootCore};
use chc_actors::root::intake::Intake;
use chc_actors::routing::{Repartition, Route};
use chc_actors::splitter::Ways;
use chc_actors::topology::Topology;
use chc_api::packet::parse::parse;
use chc_api::{EventKind, Generation, InstanceId, Path, Side, VertexId};
use chc_runtime::block::BlockPool;
use chc_store::client::Placement;
use chc_store::engine::{ShardConfig, ShardEngine, VertexSpec};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use wiring::{FIRST_ROOT, name};

mod wiring;

/// The slowest of some thousand runs takes a third of this, over links that lose half; most take a hundredth.
const STEPS_MAX: u64 = 20_000_000;
/// Steps between checks of every core's invariants.
const CHECK_EVERY: u64 = 61;

/// Which faults a run may inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Instances die.
    pub nf_crash: bool,
    /// Replaced instances live on for a while.
    pub zombie: bool,
    /// Some links are slow.
    pub delay: bool,
    /// Bursts are cut anywhere.
    pub burst_cut: bool,
    /// Messages between instances and shards are lost.
    pub loss: bool,
    /// They come twice.
    pub repeat: bool,
    /// They overtake each other.
    pub reorder: bool,
    /// Slots go to other instances.
    pub moves: bool,
}

impl Faults {
    /// Everything.
    pub const ALL: Faults = Faults {
        nf_crash: true,
        zombie: true,
        delay: true,
        burst_cut: true,
        loss: true,
        repeat: true,
        reorder: true,
        moves: true,
    };
    /// Everything that happens where links keep what is sent, and its order.
    pub const RELIABLE_LINKS: Faults = Faults { loss: false, repeat: false, reorder: false, ..Faults::ALL };
    /// Nothing.
    pub const NONE: Faults = Faults {
        nf_crash: false,
        zombie: false,
        delay: false,
        burst_cut: false,
        moves: false,
        ..Faults::RELIABLE_LINKS
    };
}

/// Faults injected, by kind.
pub type FaultCounts = BTreeMap<&'static str, u64>;

/// An input packet, as the ideal chain is to be fed.
pub struct InPacket {
    /// Length on the wire.
    pub wire_len: u32,
    /// The captured bytes.
    pub frame: Vec<u8>,
}

/// What is done with the messages that are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceMode {
    /// Nothing.
    Off,
    /// Each is printed.
    Print,
    /// All are hashed.
    Hash,
}

/// The world of one run.
pub struct World {
    /// What the seed drew.
    pub setup: Setup,
    /// Vertices, compiled.
    pub kits: Vec<Kit>,
    /// The clocks.
    pub intake: Intake,
    roots: Vec<RootCore<Weakened>>,
    /// The shards.
    pub shards: Vec<ShardEngine<Weakened>>,
    egress: EgressCore<Weakened>,
    /// What left.
    pub left: Left,
    answered: usize,
    /// What came in, by number from 1.
    pub input: Vec<InPacket>,
    instances: BTreeMap<(InstanceId, Generation), Box<dyn Instance>>,
    current: BTreeMap<InstanceId, Generation>,
    dead: Vec<InstanceId>,
    zombies: Vec<(InstanceId, Generation)>,
    links: Links,
    traffic: Traffic,
    /// The shape of the chain.
    pub topology: Topology,
    routes: Arc<[Route]>,
    rng: Rng,
    faults: Faults,
    crashes_left: u64,
    moves_left: u64,
    move_rate: f64,
    crash_rate: f64,
    restart_rate: f64,
    counts: FaultCounts,
    unflushed: u64,
    recovered: u64,
    /// Steps so far.
    pub steps: u64,
    pool: Arc<BlockPool>,
    trace: TraceMode,
    hash: Cell<u64>,
    /// A shard's complaint.
    pub defect: Option<String>,
}

impl World {
    /// The world of a seed.
    #[must_use]
    pub fn new(seed: u64, faults: Faults, trace: TraceMode) -> Self {
        let mut rng = Rng::new(seed);
        let setup = Setup::draw(&mut rng);
        Self::of(setup, rng, faults, trace)
    }

    /// The world of a given setup.
    #[must_use]
    pub fn of(setup: Setup, mut rng: Rng, faults: Faults, trace: TraceMode) -> Self {
        let kits = setup.kits();
        let topology = setup.topology.clone();
        let routes: Arc<[Route]> = (0..kits.len()).map(|at| setup.route(at, &kits)).collect();
        let pool = BlockPool::new();
        let ids: Vec<InstanceId> = (setup.vertices.iter().enumerate())
            .flat_map(|(v, s)| {
                (0..s.instances).map(move |index| InstanceId { vertex: VertexId(v as u16), index })
            })
            .collect();
        let root = RootConfig {
            epoch: setup.epoch,
            window: setup.window,
            bytes_max: 1 << 30,
            epoch_bytes: setup.epoch_bytes(),
            tick_ns: setup.tick_ns,
            shares: setup.shares(),
            ways: Ways::of_root(&topology, routes.clone()),
            seed: setup.hash_seed,
            instances: ids.clone(),
            retain: true,
            // Of short leases the root waits for the store now and then.
            clock_lease: Some([1, 8, 100, 1000][(setup.hash_seed % 4) as usize]),
            logs_to_store: setup.hash_seed >> 8 & 3 == 0,
            pool: pool.clone(),
        };
        let spec = |(at, kit): (usize, &Kit)| VertexSpec {
            objects: kit.declarations.objects.clone(),
            instances: setup.vertices[at].instances,
            owners: setup.route(at, &kits).owners,
            per_clock: topology.per_clock(VertexId(at as u16)),
        };
        let shard = |shard| ShardConfig {
            shard: chc_api::ShardId(shard),
            window: setup.window,
            vertices: kits.iter().enumerate().map(spec).collect(),
            record_choices: true,
            seed: setup.hash_seed ^ u64::from(shard),
        };
        let root_leaves = topology.entry.iter().all(|way| way.matching.is_some());
        let senders: Vec<Source> = (0..if root_leaves { setup.roots() } else { 0 })
            .map(Source::Root)
            .chain(ids.iter().copied().map(Source::Instance))
            .collect();
        let unreliable = Unreliable::draw(setup.hash_seed, [faults.loss, faults.repeat, faults.reorder]);
        let crashes = faults.nf_crash || faults.zombie;
        let mut world = Self {
            roots: (0..setup.roots()).map(|at| RootCore::new(&root, at)).collect(),
            intake: Intake::new(root, true),
            shards: (0..setup.shards).map(|s| ShardEngine::new(shard(s))).collect(),
            egress: EgressCore::new(
                (setup.epoch, setup.window),
                &senders,
                &routes,
                true,
                topology.joins(None),
            ),
            left: Left::default(),
            answered: 0,
            input: Vec::new(),
            instances: BTreeMap::new(),
            current: ids.iter().map(|id| (*id, Generation(0))).collect(),
            dead: ids,
            zombies: Vec::new(),
            links: Links::new(faults.delay, unreliable),
            traffic: Traffic::new(setup.traffic.clone(), Rng::new(rng.next())),
            crashes_left: if crashes { rng.below(9) } else { 0 },
            crash_rate: rng.pick(&[0.0003, 0.001, 0.004, 0.02]),
            restart_rate: rng.pick(&[0.3, 0.05, 0.01]),
            moves_left: if faults.moves { rng.below(8) } else { 0 },
            move_rate: rng.pick(&[0.0005, 0.002, 0.01]),
            counts: BTreeMap::from([
                ("move", 0),
                ("nf-crash", 0),
                ("zombie", 0),
                ("delay", 0),
                ("burst-cut", 0),
            ]),
            unflushed: 0,
            recovered: 0,
            steps: 0,
            hash: Cell::new(0xcbf2_9ce4_8422_2325),
            defect: None,
            setup,
            topology,
            routes,
            kits,
            rng,
            faults,
            pool,
            trace,
        };
        while let Some(id) = world.dead.pop() {
            world.build(id);
        }
        world
    }

    fn build(&mut self, id: InstanceId) {
        let at = usize::from(id.vertex.0);
        let generation = self.current[&id].next();
        self.current.insert(id, generation);
        let node = self.topology.vertices[at].clone();
        let senders = |from: &Option<VertexId>| match from {
            None => (0..self.setup.roots()).map(Source::Root).collect(),
            Some(vertex) => (0..self.setup.vertices[usize::from(vertex.0)].instances)
                .map(|index| Source::Instance(InstanceId { vertex: *vertex, index }))
                .collect(),
        };
        let config = InstanceConfig {
            id,
            generation,
            epoch: self.setup.epoch,
            window: self.setup.window,
            specs: self.kits[at].declarations.objects.clone(),
            own: self.routes[at].clone(),
            upstream: node.upstream.iter().map(senders).collect(),
            ways: Ways { node, routes: self.routes.clone() },
            joins: self.topology.joins(Some(id.vertex)),
            mode: self.setup.mode(),
            placement: Placement {
                shards: self.setup.shards,
                seed: self.setup.hash_seed,
                home: (self.setup.hash_seed % 8 < 2)
                    .then_some(chc_api::ShardId(id.vertex.0 % self.setup.shards)),
            },
            parking: self.setup.vertices[at].parking,
            poisoned: Vec::new(),
            pool: self.pool.clone(),
            running: Arc::new(Running::default()),
        };
        let instance = (self.kits[at].factory)(config);
        self.instances.insert((id, generation), instance);
        self.note(|| format!("built {id} generation {}", generation.0));
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// What went wrong while it ran; panics are assertions of the cores.
    pub fn run(&mut self) -> Result<(), String> {
        while !self.intake.is_done() {
            self.step();
            if let Some(defect) = self.defect.take() {
                return Err(defect);
            }
            if self.steps > STEPS_MAX {
                return Err(self.stuck());
            }
        }
        self.drain();
        self.check();
        self.defect.take().map_or(Ok(()), Err)
    }

    /// One random step.
    pub fn step(&mut self) {
        self.steps += 1;
        match self.rng.below(100) {
            0..52 => {
                self.deliver();
            }
            52..62 => self.input_step(),
            62..66 => self.root_step(),
            66..69 => self.egress_step(),
            _ => self.instance_step(),
        }
        self.fault_step();
        if self.steps.is_multiple_of(CHECK_EVERY) {
            self.check();
        }
    }

    fn input_step(&mut self) {
        if !self.intake.has_room() {
            return;
        }
        if self.traffic.is_over() {
            if self.rng.chance(0.02) {
                self.intake.end();
            }
            return;
        }
        if let Some(time) = self.traffic.pause() {
            self.intake.time_mark(time);
            return;
        }
        let (time, frame) = self.traffic.next_packet();
        let wire_len = frame.len() as u32 + self.rng.pick(&[0, 0, 0, 700]);
        let link = self.setup.traffic.link;
        self.note(|| format!("in {} at {}: {frame:02x?}", self.input.len() + 1, time.0));
        let mut arrival = Arrival { time, side: Side::Inside, link, wire_len, frame: (&frame).into() };
        match self.roots.as_mut_slice() {
            [root] => {
                let ticket = self.intake.draw(&arrival);
                root.ingest(&mut arrival, parse(link, &frame), ticket);
            }
            _ => self.intake.dispatch(&arrival),
        }
        self.input.push(InPacket { wire_len, frame });
        self.unflushed += 1;
        if self.unflushed >= self.setup.burst_max {
            self.flush_root();
        }
    }

    fn root_step(&mut self) {
        if self.rng.chance(0.05) {
            self.intake.pause();
        }
        if self.faults.burst_cut || self.traffic.is_over() || !self.intake.has_room() {
            let cuts = self.faults.burst_cut && self.unflushed > 0;
            *self.counts.entry("burst-cut").or_default() += u64::from(cuts);
            self.flush_root();
        }
    }

    fn flush_root(&mut self) {
        self.unflushed = 0;
        let mut at = 0;
        if self.roots.len() > 1 {
            at = self.rng.index(self.roots.len());
            // Another root may read in between, so what a root has taken is not all that waits for it.
            let (takes, flushes) = self.rng.pick(&[(true, true), (true, true), (true, false), (false, true)]);
            if takes {
                let (root, mut queue) = (&mut self.roots[at], Queue::default());
                root.take(&mut self.intake, &mut queue);
                queue.drain(|arrival, parsed, ticket| root.ingest(arrival, parsed, ticket));
            }
            if !flushes {
                return;
            }
        }
        let mut out = Vec::new();
        self.roots[at].flush(&mut self.intake, &mut out);
        self.root_effects(at as u16, out);
    }

    fn egress_step(&mut self) {
        if let Some(boundary) = self.egress.close() {
            self.send(Actor::Egress, FIRST_ROOT, Message::Root(RootEvent::EgressClosed(boundary)));
        }
    }

    fn instance_step(&mut self) {
        let at = self.rng.index(self.instances.len().max(1));
        let Some((&(id, generation), instance)) = self.instances.iter_mut().nth(at) else { return };
        let mut out = Vec::new();
        if self.links.is_overdue(Actor::Instance(id, generation)) {
            instance.on_event(InstanceEvent::Overdue, &mut out);
        }
        instance.flush(&mut out);
        self.instance_effects(id, generation, out);
    }

    fn fault_step(&mut self) {
        if self.crashes_left > 0 && self.rng.chance(self.crash_rate) {
            for _ in 0..self.rng.pick(&[1, 1, 2, 3]) {
                self.crashes_left = self.crashes_left.saturating_sub(1);
                let at = self.rng.index(self.current.len());
                if let Some((&id, &generation)) = self.current.iter().nth(at) {
                    self.fail(id, generation);
                }
            }
        }
        if self.moves_left > 0 && self.rng.chance(self.move_rate) {
            self.moves_left -= 1;
            self.repartition();
        }
        if !self.dead.is_empty() && self.rng.chance(self.restart_rate) {
            let at = self.rng.index(self.dead.len());
            let id = self.dead.swap_remove(at);
            self.build(id);
        }
        if !self.zombies.is_empty() && self.rng.chance(0.01) {
            let at = self.rng.index(self.zombies.len());
            let (id, generation) = self.zombies.swap_remove(at);
            self.kill(id, generation);
        }
    }

    /// Has slots of some vertex go to other instances.
    fn repartition(&mut self) {
        let at = self.rng.index(self.setup.vertices.len());
        let instances = u64::from(self.setup.vertices[at].instances);
        let how = if self.rng.chance(0.4) {
            Repartition::Scale(self.rng.between(1, instances) as u16)
        } else {
            let (from, to) = (self.rng.below(instances) as u16, self.rng.below(instances) as u16);
            Repartition::Move { from, to, share: self.rng.pick(&[0.01, 0.5, 1.0]) }
        };
        self.note(|| format!("vertex {at}: {how:?}"));
        let mut out = Vec::new();
        let how = RootEvent::Repartition(VertexId(at as u16), how);
        self.roots[0].on_event(&mut self.intake, how, &mut out);
        self.root_effects(0, out);
    }

    fn fail(&mut self, id: InstanceId, generation: Generation) {
        if self.dead.contains(&id) {
            return;
        }
        self.dead.push(id);
        let zombie = self.faults.zombie && (!self.faults.nf_crash || self.rng.chance(0.35));
        if zombie {
            *self.counts.entry("zombie").or_default() += 1;
            self.note(|| format!("{id} generation {} is given up but lives", generation.0));
            self.zombies.push((id, generation));
        } else {
            *self.counts.entry("nf-crash").or_default() += 1;
            self.kill(id, generation);
        }
    }

    fn kill(&mut self, id: InstanceId, generation: Generation) {
        self.note(|| format!("{id} generation {} dies", generation.0));
        self.instances.remove(&(id, generation));
        self.links.cut_off(Actor::Instance(id, generation), &mut self.rng);
    }

    /// What is left on the links when all is done: the last cut, and what must change nothing.
    fn drain(&mut self) {
        while !self.links.is_empty() {
            self.deliver();
        }
    }

    fn check(&self) {
        self.intake.check_invariants();
        self.shards.iter().for_each(ShardEngine::check_invariants);
        self.instances.values().for_each(|i| i.check_invariants());
    }

    /// Faults injected so far.
    #[must_use]
    pub fn fault_counts(&self) -> FaultCounts {
        let mut counts = self.counts.clone();
        counts.insert("move", self.roots[0].counts().handovers);
        counts.insert("delay", self.links.slowed);
        let kinds = ["link-loss", "link-repeat", "link-reorder"];
        counts.extend(kinds.into_iter().zip(self.links.unreliable.counts));
        counts
    }

    /// How often what is worth testing happened: drops by reason, events by kind, duplicates
    /// suppressed, messages fenced, recoveries.
    #[must_use]
    pub fn reached(&self) -> BTreeMap<String, u64> {
        let mut reached = BTreeMap::new();
        let mut add = |name: String, count: u64| *reached.entry(name).or_default() += count;
        for (_, drop) in &self.left.drops {
            add(format!("drop {}", drop.reason), 1);
        }
        for (_, record) in &self.left.events {
            let kind = match record.event.kind {
                EventKind::Nat { opened: true, .. } => "translation opened",
                EventKind::Nat { .. } => "translation closed",
                EventKind::Stage { name, .. } => name,
                EventKind::Flow { opened: true, .. } => "assigned",
                EventKind::Flow { .. } => "assignment ended",
                EventKind::Alert { signature, .. } => signature,
            };
            add(kind.into(), 1);
            add(
                if record.position.is_timer() {
                    "event of a timer".into()
                } else {
                    "event of a packet".into()
                },
                1,
            );
        }
        for shard in &self.shards {
            add("updates suppressed".into(), shard.tally.suppressed);
            add("fenced by shards".into(), shard.tally.fenced);
            add("batches early".into(), shard.tally.early);
            add("batches repeated".into(), shard.tally.repeated);
        }
        add("outputs suppressed".into(), self.egress.counts.duplicates);
        add("fenced by egress".into(), self.egress.counts.fenced);
        let copies = self.left.packets.iter().filter(|packet| packet.position.path != Path::FIRST);
        add("extra packet".into(), copies.count() as u64);
        let held = self.instances.values().map(|instance| instance.counts().held).sum();
        add("held at a join".into(), held);
        let off_path = |vertex: &VertexId| self.topology.vertices[usize::from(vertex.0)].off_path;
        let concluded = self.left.events.iter().filter(|(vertex, _)| off_path(vertex)).count();
        add("event off the path".into(), concluded as u64);
        add("recovered".into(), self.recovered);
        add(format!("mode {:?}", self.setup.mode()), 1);
        reached
    }

    /// Hash of all messages delivered.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.hash.get()
    }

    fn note(&self, line: impl FnOnce() -> String) {
        match self.trace {
            TraceMode::Off => {}
            TraceMode::Print => println!("{} {}", self.steps, line()),
            TraceMode::Hash => {
                let mut hash = self.hash.get();
                for byte in line().bytes().chain(self.steps.to_le_bytes()) {
                    hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
                }
                self.hash.set(hash);
            }
        }
    }

    fn stuck(&self) -> String {
        let mut dump = format!(
            "no end after {} steps: cut {} of {}, ended {}, dead {:?}, zombies {:?}",
            self.steps,
            self.intake.cut().0,
            self.intake.next_clock().0,
            self.traffic.is_over(),
            self.dead,
            self.zombies,
        );
        for ((id, generation), instance) in &self.instances {
            let _ = write!(dump, "\n  {id} generation {}: {:?}", generation.0, instance.counts());
            let _ = write!(dump, " idle {}", instance.is_idle());
        }
        for (at, shard) in self.shards.iter().enumerate() {
            let _ = write!(dump, "\n  shard {at}: {} operations wait, {:?}", shard.waiting(), shard.tally);
        }
        for ((from, to, _), len) in self.links.waiting() {
            let _ = write!(dump, "\n  {} > {}: {len} messages", name(from), name(to));
        }
        dump
    }
}
