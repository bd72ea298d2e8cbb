//! The typed model of a chain, in the shape of the chain file.
//!
//! Serialised, a [`ChainConfig`] is the chain file again with every default written out: reading it back
//! gives an equal model. Reports carry it as the effective configuration.

use crate::gateway::Prefix;
use crate::manager::policy::PolicyCode;
use chc_api::matching::Match;
use chc_api::state::FIRST_OUTPUT;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::net::{IpAddr, SocketAddr};

/// A setting with a closed list of values.
pub(crate) trait Choice: Copy + 'static {
    /// The values that work, by name.
    const ACCEPTED: &'static [(&'static str, Self)];
    /// Names of values that others have and that are refused, and what is wrong with them.
    const REFUSED: &'static [(&'static str, &'static str)];
}

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }
     refused: [$(($other:literal, $why:literal)),* $(,)?]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)+ }

        impl $name {
            /// As it is written in a chain file.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl Choice for $name {
            const ACCEPTED: &'static [(&'static str, Self)] = &[$(($text, Self::$variant)),+];
            const REFUSED: &'static [(&'static str, &'static str)] = &[$(($other, $why)),*];
        }
    };
}

choice! {
    /// In which order packets leave a vertex.
    Order {
        /// Packets of one flow in that of the input.
        Flow = "flow",
        /// All packets in that of the input.
        Chain = "chain",
    }
    refused: []
}

choice! {
    /// Where the root logs packets in flight.
    RootLog {
        /// In its own memory.
        Local = "local",
        /// In the store as well: a packet goes on when it is there.
        Store = "store",
    }
    refused: []
}

choice! {
    /// Where state lives (section 7.1 of the paper).
    StoreMode {
        /// In the instances; no log, duplicate suppression or store. The ideal the others are compared with.
        Traditional = "traditional",
        /// In the store alone: a packet waits for its records, and leaves when the store has its updates.
        External = "external",
        /// In the store, per-flow records cached by instances: a packet leaves when the store has its updates of
        /// shared objects.
        ExternalCache = "external+cache",
        /// In the store, cached by instances, updates not waited for.
        ExternalCacheNoAckWait = "external+cache+no-ack-wait",
    }
    refused: []
}

impl StoreMode {
    /// Whether state outlives the instance that made it: there is a store, a log and duplicate suppression.
    #[must_use]
    pub fn is_stored(self) -> bool {
        self != Self::Traditional
    }

    /// Whether instances do without a cache of per-flow records.
    #[must_use]
    pub fn is_uncached(self) -> bool {
        self == Self::External
    }

    /// Whether what a packet did must be in the store before the packet is sent on.
    #[must_use]
    pub fn awaits_acknowledgement(self) -> bool {
        matches!(self, Self::External | Self::ExternalCache)
    }
}

choice! {
    /// How objects are spread over shards.
    Placement {
        /// By the hash of the slot or object, over all shards.
        Spread = "spread",
        /// All of a vertex on one shard, the vertices on all shards in turn.
        ByVertex = "by_vertex",
    }
    refused: []
}

choice! {
    /// Who tells the root that a packet has left the chain (section 7.2 of the paper).
    Delete {
        /// The egress, as its boundaries close.
        Egress = "egress",
    }
    refused: [
        ("sync", "loses a packet if its last function dies before it has left, and chc-bench delete alone has it"),
        ("async", "repeats a packet if its last function dies once it has left, and chc-bench delete alone has it"),
    ]
}

choice! {
    /// How packets get in and out.
    Backend {
        /// The best that works: netmap, AF_XDP where the driver does not copy, or packet sockets.
        Auto = "auto",
        /// A packet socket: every Ethernet interface of a stock Linux.
        AfPacket = "af_packet",
        /// AF_XDP: without a copy where the driver can.
        AfXdp = "af_xdp",
        /// netmap, where its kernel module is loaded.
        Netmap = "netmap",
        /// Interfaces that are not there are made, with the machine itself as the host on their wire.
        Tap = "tap",
    }
    refused: []
}

choice! {
    /// What a chain between two interfaces is to the hosts on both sides.
    IoMode {
        /// A wire.
        Bridge = "bridge",
        /// A router with addresses of its own.
        Routed = "routed",
    }
    refused: []
}

choice! {
    /// What a chain between interfaces does while nothing comes.
    Poll {
        /// It parks until something comes, which costs the first packet a wake-up.
        Adaptive = "adaptive",
        /// It looks again and again, for arbiters that have their cores for themselves.
        Busy = "busy",
    }
    refused: []
}

/// One edge of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Name of the vertex it leads to.
    pub to: String,
    /// Which packets take it; `None`: all that no edge before it took.
    pub matching: Option<Match>,
}

impl Edge {
    /// An edge that every packet takes.
    pub fn new(to: impl Into<String>) -> Self {
        Self { to: to.into(), matching: None }
    }
}

impl Serialize for Edge {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(matching) = &self.matching else { return serializer.serialize_str(&self.to) };
        let mut table = serializer.serialize_map(Some(2))?;
        table.serialize_entry("to", &self.to)?;
        table.serialize_entry("match", matching.as_str())?;
        table.end()
    }
}

/// Where packets go on, by name of the output they leave by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Next(pub Vec<(String, Vec<Edge>)>);

impl Next {
    /// The edges of an output, tried in this order; empty: packets leave by egress.
    #[must_use]
    pub fn on(&self, output: &str) -> &[Edge] {
        self.0.iter().find(|(name, _)| name == output).map_or(&[], |(_, edges)| edges)
    }

    /// Adds an edge to an output.
    pub fn push(&mut self, output: &str, edge: Edge) {
        match self.0.iter_mut().find(|(name, _)| name == output) {
            Some((_, edges)) => edges.push(edge),
            None => self.0.push((output.to_owned(), vec![edge])),
        }
    }

    /// All edges.
    pub fn edges(&self) -> impl Iterator<Item = &Edge> {
        self.0.iter().flat_map(|(_, edges)| edges)
    }
}

impl Serialize for Next {
    /// The first output alone is a list, several are a table of lists.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.iter().all(|(name, _)| name == FIRST_OUTPUT) {
            return self.on(FIRST_OUTPUT).serialize(serializer);
        }
        serializer.collect_map(self.0.iter().map(|(name, edges)| (name, edges)))
    }
}

/// `[vertex.X.policy]`: when a vertex gets an instance more or one less.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyConfig {
    /// How often the load is looked at, in milliseconds, 10 to 60,000.
    pub period_ms: u32,
    /// The condition on which there is an instance more, in CEL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_up: Option<String>,
    /// The condition on which there is one less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_down: Option<String>,
    /// How many times the mean the busiest instance may have to do before slots move, above 1 and at most 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imbalance: Option<f64>,
    /// Most instances, at least those at the start and at most `slots`.
    pub instances_max: u16,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self { period_ms: 100, scale_up: None, scale_down: None, imbalance: None, instances_max: 8 }
    }
}

/// A logical network function.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VertexConfig {
    /// Its name, the `X` of `[vertex.X]`; part of actor names such as `X/0`.
    #[serde(skip)]
    pub name: String,
    /// The network function, by its name in the catalog.
    pub nf: String,
    /// Running copies at the start, 1 to 64 and at most `slots`.
    pub instances: u16,
    /// Where its packets go; those that no edge takes leave by egress.
    pub next: Next,
    /// Who gets copies of what leaves it.
    pub copy: Vec<Edge>,
    /// Who gets copies of what enters it.
    pub copy_in: Vec<Edge>,
    /// In which order packets leave it.
    pub order: Order,
    /// Shares the traffic is cut into, the unit of ownership, 1 to 4096.
    pub slots: u16,
    /// When it gets an instance more or one less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyConfig>,
    /// Its conditions, where a program gives them in code.
    #[serde(skip)]
    pub policy_code: PolicyCode,
    /// The network function's own keys, an object, accepted by it.
    pub config: serde_json::Value,
}

impl VertexConfig {
    /// A vertex with the defaults: one instance, 64 slots, no next, an empty configuration.
    pub fn new(name: impl Into<String>, nf: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            nf: nf.into(),
            instances: 1,
            next: Next::default(),
            copy: Vec::new(),
            copy_in: Vec::new(),
            order: Order::Flow,
            slots: 64,
            policy: None,
            policy_code: PolicyCode::default(),
            config: serde_json::Value::Object(serde_json::Map::new()),
        }
    }
}

impl VertexConfig {
    /// All edges that lead on from it, of packets and of copies.
    pub fn edges(&self) -> impl Iterator<Item = &Edge> {
        self.next.edges().chain(&self.copy).chain(&self.copy_in)
    }
}

/// `[root]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RootConfig {
    /// How many roots there are, 1 to 16.
    pub instances: u16,
    /// The networks whose hosts' packets belong to each root, one list a root; what has no host of any belongs to the first.
    /// Without: by a hash of a packet's two addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<Vec<Prefix>>,
    /// Clocks that may be in flight above the chain's cut; a power of two, at least two epochs, at most 2^20.
    pub window: u32,
    /// Granularity of the time steps that reach every instance, in microseconds, up to a second; 0: every
    /// distinct arrival time.
    pub tick_us: u32,
    /// Clocks a root may stamp on one lease from the store, 1 to 10^9.
    pub clock_lease: u32,
    /// Where packets in flight are logged.
    pub log: RootLog,
}

impl Default for RootConfig {
    fn default() -> Self {
        Self {
            instances: 1,
            hosts: Vec::new(),
            window: 8192,
            tick_us: 1000,
            clock_lease: 100_000,
            log: RootLog::Local,
        }
    }
}

/// `[store]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreConfig {
    /// Shards, one thread of operations each, 1 to 64.
    pub shards: u16,
    /// Where state lives.
    pub mode: StoreMode,
    /// Clocks an epoch has at most; a power of two from 64 to 2^19, at most half the root's window.
    pub epoch: u32,
    /// How objects are spread over shards.
    pub placement: Placement,
    /// Directory in which the chain's state can be seen: through a socket while it runs, in a file when it has run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_dir: Option<String>,
    /// How long a shard may take to answer, in microseconds: then what it was sent is sent again.
    pub retransmit_us: u32,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            shards: 2,
            mode: StoreMode::ExternalCacheNoAckWait,
            epoch: 1024,
            placement: Placement::Spread,
            checkpoint_dir: None,
            retransmit_us: 100_000,
        }
    }
}

/// Most instances a vertex can have.
pub use chc_store::active::INSTANCES_MAX;

/// `[egress]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EgressConfig {
    /// Who tells the root that a packet has left.
    pub delete: Delete,
}

impl Default for EgressConfig {
    fn default() -> Self {
        Self { delete: Delete::Egress }
    }
}

/// `[io]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IoConfig {
    /// Path of the capture to read, unless the command names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Path of the capture to write, unless the command names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// The interface of the hosts that are protected or translated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inside: Option<String>,
    /// The interface of the rest of the world.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outside: Option<String>,
    /// What the chain is to both.
    pub mode: IoMode,
    /// A router's addresses inside.
    pub inside_addresses: Vec<Prefix>,
    /// A router's addresses outside, those a NAT translates to among them.
    pub outside_addresses: Vec<Prefix>,
    /// Where packets go on whose destination is on neither side's wire, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// How packets get in and out.
    pub backend: Backend,
}

impl Default for IoConfig {
    fn default() -> Self {
        Self {
            input: None,
            output: None,
            inside: None,
            outside: None,
            mode: IoMode::Bridge,
            inside_addresses: Vec::new(),
            outside_addresses: Vec::new(),
            gateways: Vec::new(),
            backend: Backend::Auto,
        }
    }
}

/// `[api]`: how a running chain is controlled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ApiConfig {
    /// Path of the socket for commands on this machine; without, the user's usual place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// Loopback address for HTTP, for who looks on and for scripts; without, there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// File with the token that HTTP requests need that change anything; without, none is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
}

/// `[runtime]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuntimeConfig {
    /// OS threads the actors share, 1 to 64.
    pub arbiters: u16,
    /// One CPU number for each arbiter, or empty: not pinned.
    pub pins: Vec<u16>,
    /// Packets a burst has at most, 1 to 256.
    pub burst: u16,
    /// How often one packet may panic its network function before it is dropped as `nf_panic`, 1 to 100.
    pub nf_panics_max: u16,
    /// What a chain between interfaces does while nothing comes.
    pub poll: Poll,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self { arbiters: 1, pins: Vec::new(), burst: 256, nf_panics_max: 3, poll: Poll::Adaptive }
    }
}

/// A whole chain. One that came from [`load`](super::load) or from a builder has passed every check.
#[derive(Clone, Debug, PartialEq)]
pub struct ChainConfig {
    /// The chain's name.
    pub name: String,
    /// First vertices after the root.
    pub entry: Vec<Edge>,
    /// The vertices in the order of the file: a vertex's index is its number.
    pub vertices: Vec<VertexConfig>,
    /// The root.
    pub root: RootConfig,
    /// The store.
    pub store: StoreConfig,
    /// The egress.
    pub egress: EgressConfig,
    /// Packet input and output.
    pub io: IoConfig,
    /// Control while it runs.
    pub api: ApiConfig,
    /// Threads and limits.
    pub runtime: RuntimeConfig,
}

impl ChainConfig {
    /// The number and the configuration of the vertex called `name`.
    pub fn vertex(&self, name: &str) -> Option<(usize, &VertexConfig)> {
        self.vertices.iter().enumerate().find(|(_, vertex)| vertex.name == name)
    }

    /// The effective configuration: the chain file as JSON, with every default written out.
    pub fn to_json(&self) -> serde_json::Value {
        // Serialising plain data with string keys has no way to fail.
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl Serialize for ChainConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Chain<'a> {
            name: &'a str,
            entry: &'a [Edge],
        }
        struct Vertices<'a>(&'a [VertexConfig]);
        impl Serialize for Vertices<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().map(|vertex| (&vertex.name, vertex)))
            }
        }
        let mut file = serializer.serialize_map(Some(8))?;
        file.serialize_entry("chain", &Chain { name: &self.name, entry: &self.entry })?;
        file.serialize_entry("vertex", &Vertices(&self.vertices))?;
        file.serialize_entry("root", &self.root)?;
        file.serialize_entry("store", &self.store)?;
        file.serialize_entry("egress", &self.egress)?;
        file.serialize_entry("io", &self.io)?;
        file.serialize_entry("api", &self.api)?;
        file.serialize_entry("runtime", &self.runtime)?;
        file.end()
    }
}
