//! What a seed draws before anything happens: the chain, its sizes, the traffic.

use crate::probe::{EXTRA_MAX, Probe};
use crate::rng::Rng;
use crate::traffic::TrafficConfig;
use crate::weaken::Weakened;
use chc_actors::config::StoreMode;
use chc_actors::gateway::Prefix;
use chc_actors::instance::core::{Instance, InstanceConfig, build};
use chc_actors::root::shares::Shares;
use chc_actors::routing::{ConnectionSlotFn, OwnerFn, Route};
use chc_actors::topology::{Node, Topology, Way};
use chc_api::packet::link::LinkType;
use chc_api::{Consistency, Declarations, FlowKey, Identity, NetworkFunction, Scope, VertexId};
use chc_nf_catalog::Visitor;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The network function of a vertex.
#[derive(Clone, Debug)]
pub enum Function {
    /// One of the catalog's, with its configuration.
    Catalog(&'static str, Value),
    /// [`Probe`], with the shortest delay of its timers and the order of its acquisitions.
    Probe(Duration, Consistency),
}

/// One vertex.
#[derive(Clone, Debug)]
pub struct VertexSetup {
    /// What it runs.
    pub function: Function,
    /// How many instances.
    pub instances: u16,
    /// How many slots.
    pub slots: u16,
    /// Packets of an instance that can wait for the store at once.
    pub parking: usize,
}

/// Everything a run is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The vertices; every edge leads to a later one.
    pub vertices: Vec<VertexSetup>,
    /// The shape of the chain.
    pub topology: Topology,
    /// Store shards.
    pub shards: u16,
    /// Clocks in an epoch.
    pub epoch: u64,
    /// The root's window.
    pub window: u64,
    /// Least distance of time steps, in nanoseconds.
    pub tick_ns: u64,
    /// Seed of all hashes.
    pub hash_seed: u64,
    /// The traffic.
    pub traffic: TrafficConfig,
    /// Most packets the root stamps before it sends them.
    pub burst_max: u64,
}

const FIRST_PORT: u16 = 5_000;
/// The first external port where internal hosts have the same.
const KEPT_PORT: u16 = 1_000;

impl Setup {
    /// What a seed draws.
    #[must_use]
    pub fn draw(rng: &mut Rng) -> Self {
        let gap_us = rng.pick(&[100, 1_000, 3_000]);
        let chains: [&[char]; 11] = [
            &['b'],
            &['n', 's', 'b'],
            &['n', 's'],
            &['n', 's'],
            &['n'],
            &['s'],
            &['s', 'n'],
            &['n', 'p', 's'],
            &['p'],
            &['p', 'n'],
            &['s', 'n', 'p'],
        ];
        let mut chain = rng.pick(&chains).to_vec();
        let branches = rng.chance(0.6);
        if branches {
            chain = (0..rng.between(2, 4)).map(|_| rng.pick(&['p', 'p', 's', 'b'])).collect();
            if rng.chance(0.4) {
                let at = rng.index(chain.len());
                chain[at] = 'n';
            }
        }
        let (mut external, mut ports) = (Vec::new(), (FIRST_PORT, 0));
        let vertices: Vec<VertexSetup> = chain
            .iter()
            .map(|kind| {
                let slots = rng.pick(&[4, 8, 16]);
                let function = match kind {
                    'n' => {
                        external = (1..=rng.between(1, 2)).map(|n| 0xcb00_7100 + n as u32).collect();
                        ports.1 = slots * rng.pick(&[1, 1, 2, 4, 40]) + rng.pick(&[0, 0, 3]);
                        nat(rng, &external, ports, gap_us)
                    }
                    's' => portscan(rng, gap_us),
                    'b' => load_balancer(rng, gap_us),
                    _ => {
                        let delay = Duration::from_micros(gap_us * rng.pick(&[2, 6, 20]));
                        Function::Probe(delay, rng.pick(&[Consistency::Serial, Consistency::Clock]))
                    }
                };
                VertexSetup {
                    function,
                    instances: rng.pick(&[1, 2, 2, 2, 2, 3, 3]),
                    slots,
                    parking: rng.pick(&[2, 3, 6, 64]),
                }
            })
            .collect();
        let epoch = rng.pick(&[4, 8, 16, 32]);
        let topology = if branches { branching(rng, &chain) } else { line(rng, &chain) };
        let mut setup = Self {
            vertices,
            topology,
            shards: rng.between(1, 3) as u16,
            epoch,
            window: epoch * rng.pick(&[2, 2, 4, 8]),
            tick_ns: rng.pick(&[0, 0, gap_us * 1_500, gap_us * 10_000]),
            hash_seed: rng.next(),
            traffic: TrafficConfig {
                packets: rng.between(300, 420),
                flows: rng.pick(&[10, 14, 24]),
                gap_us,
                idle: rng.pick(&[0.02, 0.1, 0.3]),
                pause_us: gap_us * rng.pick(&[5, 40]),
                external,
                ports,
                link: rng.pick(&[LinkType::RAW, LinkType::ETHERNET]),
                closing: rng.pick(&[0.05, 0.2, 0.5]),
            },
            burst_max: rng.pick(&[1, 4, 16]),
        };
        setup.keep_ports();
        setup.topology.roots = setup.roots();
        setup
    }

    /// Where state lives: as a rule in the store with a cache that nobody waits for.
    #[must_use]
    pub fn mode(&self) -> StoreMode {
        match self.hash_seed / 8 % 8 {
            0 => StoreMode::External,
            1 => StoreMode::ExternalCache,
            _ => StoreMode::ExternalCacheNoAckWait,
        }
    }

    /// Now and then translators keep ports, which internal hosts then have in common with them, and tell who gets none, if a
    /// packet can be multiplied there.
    fn keep_ports(&mut self) {
        if self.hash_seed >> 24 & 3 != 0 {
            return;
        }
        let mut nodes = self.topology.vertices.clone();
        for (vertex, node) in self.vertices.iter().zip(&mut nodes) {
            if matches!(vertex.function, Function::Catalog("nat", _)) {
                node.extra_packets_max = 1;
                node.outputs.push(Vec::new());
            }
        }
        let refusing = Topology::new(self.topology.entry.clone(), nodes).ok();
        let (first, count) = (KEPT_PORT, self.traffic.ports.1);
        for vertex in &mut self.vertices {
            if let Function::Catalog("nat", config) = &mut vertex.function {
                config["port_preservation"] = json!(true);
                config["refuse_with_icmp"] = json!(refusing.is_some());
                config["ports"] = json!(format!("{first}-{}", first + count - 1));
                self.traffic.ports.0 = first;
            }
        }
        self.topology = refusing.unwrap_or_else(|| std::mem::take(&mut self.topology));
    }

    /// How many roots there are: as a rule one.
    #[must_use]
    pub fn roots(&self) -> u16 {
        match self.hash_seed >> 16 & 7 {
            0 => 2,
            1 => 3,
            _ => 1,
        }
    }

    /// Bytes of packets with which an epoch ends early: as a rule it does not.
    #[must_use]
    pub fn epoch_bytes(&self) -> u64 {
        match self.hash_seed >> 27 & 7 {
            0 => 100,
            1 => 500,
            _ => u64::MAX,
        }
    }

    /// Which root a packet belongs to: by its hosts, or by a hash.
    #[must_use]
    pub fn shares(&self) -> Shares {
        let prefix = |address: [u8; 4], len| Prefix { address: address.into(), len };
        match (self.roots(), self.hash_seed >> 19 & 1) {
            (2, 0) => Shares::by_hosts(&[vec![prefix([203, 0, 113, 0], 24)], vec![prefix([10, 0, 0, 0], 8)]]),
            (roots, _) => Shares::by_addresses(roots, self.hash_seed),
        }
    }

    /// The chain and its sizes in a line.
    #[must_use]
    pub fn describe(&self) -> String {
        let vertices = self.vertices.iter().map(|v| {
            let name = match &v.function {
                Function::Catalog(name, config) => format!("{name}{config}"),
                Function::Probe(delay, order) => format!("probe {delay:?} {order:?}"),
            };
            format!("{name} x{} (slots {}, parking {})", v.instances, v.slots, v.parking)
        });
        format!(
            "{}; {}; roots {}, {:?}, shards {}, epoch {} of {} bytes, window {}, tick {} ns",
            vertices.collect::<Vec<_>>().join(", "),
            shape(&self.topology),
            self.roots(),
            self.mode(),
            self.shards,
            self.epoch,
            self.epoch_bytes(),
            self.window,
            self.tick_ns
        )
    }

    /// Vertices, compiled.
    #[must_use]
    pub fn kits(&self) -> Vec<Kit> {
        let compile = |v: &VertexSetup| v.function.with(v.slots, self.hash_seed, MakeKit);
        self.vertices.iter().map(compile).collect()
    }

    /// The route to a vertex.
    #[must_use]
    pub fn route(&self, at: usize, kits: &[Kit]) -> Route {
        let vertex = &self.vertices[at];
        let scopes = kits[at].declarations.scopes();
        let coarsest = scopes.last().copied().unwrap_or(Scope::FiveTuple);
        let scope = if kits[at].owner.is_some() { Scope::FiveTuple } else { coarsest };
        // Slots of one group are dealt to several instances: their objects are shared.
        let is_split = scope > Scope::FiveTuple && self.hash_seed & 3 > 0;
        // Sometimes all but one have nothing to do at first.
        let active = if self.hash_seed >> 20 & 7 == 0 { 1 } else { vertex.instances };
        Route {
            vertex: VertexId(at as u16),
            scope,
            fine: if is_split && vertex.slots.is_multiple_of(4) { 4 } else { 1 },
            seed: self.hash_seed,
            owners: (0..vertex.slots).map(|slot| slot % active).collect(),
            later: Vec::new(),
            instances: vertex.instances,
            owner: kits[at].owner.clone(),
            connection_slot: kits[at].connection_slot.clone(),
        }
    }
}

/// Packets of its own a function of the simulation sends, and its outputs.
fn declared(kind: char) -> (u8, usize) {
    match kind {
        'p' => (EXTRA_MAX, 2),
        'b' => (1, 2),
        _ => (0, 1),
    }
}

/// One vertex behind the other; second outputs lead out of the chain.
fn line(rng: &mut Rng, chain: &[char]) -> Topology {
    let nodes = chain.iter().enumerate().map(|(at, kind)| {
        let (extra_packets_max, outputs) = declared(*kind);
        let in_order = rng.chance(0.1);
        let outputs = vec![Vec::new(); outputs];
        let mut node = Node { outputs, extra_packets_max, in_order, ..Node::default() };
        if at + 1 < chain.len() {
            node.outputs[0].push(Way { to: VertexId(at as u16 + 1), matching: None });
        }
        node
    });
    let entry = vec![Way { to: VertexId(0), matching: None }];
    Topology::new(entry, nodes.collect()).unwrap_or_default()
}

/// Edges at random, each to a later vertex, so that all are reached.
fn branching(rng: &mut Rng, chain: &[char]) -> Topology {
    loop {
        let mut reached = vec![false; chain.len()];
        let mut way = |rng: &mut Rng, from: usize, matches: bool| {
            let to = rng.between(from as u64, chain.len() as u64 - 1) as usize;
            reached[to] = true;
            let matching = matches.then(|| rng.pick(&["tcp", "udp", "tcp/443 udp/53", "icmp"]).parse().ok());
            Way { to: VertexId(to as u16), matching: matching.flatten() }
        };
        let mut ways = |rng: &mut Rng, from: usize, all: f64| {
            let mut ways = Vec::new();
            if from < chain.len() {
                if rng.chance(0.3) {
                    ways.push(way(rng, from, true));
                }
                if rng.chance(all) {
                    ways.push(way(rng, from, false));
                }
            }
            ways
        };
        let entry = ways(rng, 0, 0.95);
        let nodes: Vec<Node> = (chain.iter().enumerate())
            .map(|(at, kind)| {
                let (extra_packets_max, outputs) = declared(*kind);
                Node {
                    outputs: (0..outputs).map(|_| ways(rng, at + 1, 0.7)).collect(),
                    copies: ways(rng, at + 1, 0.2),
                    copies_in: ways(rng, at + 1, 0.1),
                    extra_packets_max,
                    in_order: rng.chance(0.1),
                    ..Node::default()
                }
            })
            .collect();
        if let (true, Ok(topology)) = (reached.iter().all(|r| *r), Topology::new(entry, nodes)) {
            return topology;
        }
    }
}

/// The shape of a chain: of each vertex where its outputs, copies (+) and copies of what enters (<) go.
fn shape(topology: &Topology) -> String {
    let ways = |ways: &[Way]| {
        let one = |way: &Way| {
            way.matching.as_ref().map_or(format!("{}", way.to.0), |m| format!("{} if {m}", way.to.0))
        };
        format!("[{}]", ways.iter().map(one).collect::<Vec<_>>().join(", "))
    };
    let node = |node: &Node| {
        let outputs: Vec<String> = node.outputs.iter().map(|on| ways(on)).collect();
        format!("{} +{} <{}", outputs.join(""), ways(&node.copies), ways(&node.copies_in))
    };
    let nodes: Vec<String> = topology.vertices.iter().map(node).collect();
    format!("shape {} | {}", ways(&topology.entry), nodes.join(" | "))
}

fn seconds(us: u64) -> f64 {
    // The catalog takes time-outs from a millisecond on.
    us.max(1_000) as f64 / 1e6
}

fn nat(rng: &mut Rng, external: &[u32], ports: (u16, u16), gap_us: u64) -> Function {
    let external: Vec<String> =
        external.iter().map(|a| std::net::Ipv4Addr::from_bits(*a).to_string()).collect();
    let own = "address_and_port_dependent";
    let (mapping, filtering) = rng.pick(&[
        (own, own),
        (own, own),
        ("endpoint_independent", own),
        ("endpoint_independent", "address_dependent"),
        ("endpoint_independent", "endpoint_independent"),
    ]);
    Function::Catalog(
        "nat",
        json!({
            "mapping": mapping,
            "filtering": filtering,
            "internal": ["10.0.0.0/8"],
            "external": external,
            "ports": format!("{}-{}", ports.0, ports.0 + ports.1 - 1),
            "idle_s": seconds(gap_us * rng.pick(&[10, 30, 100])),
            "linger_s": seconds(gap_us * rng.pick(&[3, 10])),
            "port_order": rng.pick(&["serial", "serial", "clock"]),
        }),
    )
}

fn portscan(rng: &mut Rng, gap_us: u64) -> Function {
    let timeout_us = gap_us * rng.pick(&[3, 10, 40]);
    Function::Catalog(
        "portscan",
        json!({
            "timeout_s": seconds(timeout_us),
            "idle_s": seconds(timeout_us * rng.pick(&[1, 2, 100])),
            "host_idle_s": seconds(gap_us * rng.pick(&[3, 10, 40, 10_000])),
            "pick": rng.pick(&["every", "every", "first_per_service", "first_per_host"]),
            "walk": rng.pick(&["floor", "plain", "absorb", "restart"]),
            "fail_pending_at_end": rng.chance(0.5),
            "action": rng.pick(&["alert", "block", "isolate"]),
        }),
    )
}

/// Backends are servers, too, so that packets come back from them, and there are few.
fn load_balancer(rng: &mut Rng, gap_us: u64) -> Function {
    let backends: Vec<String> = (1..=rng.between(1, 3)).map(|n| format!("198.51.100.{n}")).collect();
    let connections_max = rng.pick(&[1, 2, 4, 1_000]);
    Function::Catalog(
        "load_balancer",
        json!({
            "services": [
                { "match": "tcp/80,443", "backends": backends, "connections_max": connections_max },
                { "match": "udp/53", "backends": ["198.51.100.4", "198.51.100.5"] },
            ],
            "idle_s": seconds(gap_us * rng.pick(&[10, 30, 100])),
            "linger_s": seconds(gap_us * rng.pick(&[3, 10])),
        }),
    )
}

impl Function {
    /// Hands the function to a visitor.
    ///
    /// # Panics
    /// If the catalog refuses the configuration: a mistake here.
    pub fn with<V: Visitor>(&self, slots: u16, seed: u64, visitor: V) -> V::Out {
        match self {
            Function::Catalog(name, config) => match chc_nf_catalog::with(name, config, slots, seed, visitor)
            {
                Ok(out) => out,
                Err(problems) => panic!("{config}: {problems:?}"),
            },
            Function::Probe(delay, order) => Probe::with(*delay, *order, visitor),
        }
    }
}

/// A vertex's function, ready to be run by any number of instances.
pub struct Kit {
    /// Builds an instance: what a supervisor calls the factory.
    pub factory: Box<dyn Fn(InstanceConfig) -> Box<dyn Instance>>,
    /// The state it declares.
    pub declarations: Declarations,
    /// Whose slot an external address is, if it translates.
    pub owner: Option<OwnerFn>,
    /// The slot of a connection, if it does not go by its hash.
    pub connection_slot: Option<ConnectionSlotFn>,
}

struct MakeKit;

impl Visitor for MakeKit {
    type Out = Kit;

    fn visit<N: NetworkFunction>(
        self,
        make: impl Fn() -> N + Clone + Send + 'static,
        declarations: Declarations,
    ) -> Kit {
        let shared = Mutex::new(make.clone());
        let owner = move |identity: &Identity| shared.lock().ok()?().owner(identity);
        let shared = Mutex::new(make.clone());
        let connection_slot = move |key: &FlowKey| shared.lock().ok()?().connection_slot(key);
        Kit {
            connection_slot: N::TRANSLATES.then(|| Arc::new(connection_slot) as ConnectionSlotFn),
            owner: N::TRANSLATES.then(|| Arc::new(owner) as OwnerFn),
            factory: Box::new(move |config| build::<N, Weakened>(make(), config)),
            declarations,
        }
    }
}
