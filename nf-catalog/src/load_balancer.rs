//! Load balancer for TCP and UDP: sends each connection to a service to the backend with the fewest.
//!
//! **Ports.** One input. Output `out`: everything, with connections to a service sent on to their backend.
//! Output `reset`: a RST to a client for whom no backend was left. Everything else passes unchanged and is
//! counted, so do packets of a connection whose beginning was not seen. A packet from a server that has not
//! been translated (a capture taken in front of the load balancer) belongs to its connection and passes
//! unchanged, too.
//!
//! **Keys.** `services`: each with `match`, the ports (`"tcp/80,443"`), `backends`, the addresses of at most 16
//! servers, and `connections_max`, how many connections each of them takes (none: any number). A service is for
//! connections of the family of its backends, IPv4 or IPv6. `idle_s`: how long a connection may be idle. `linger_s`:
//! how long a closed TCP connection is remembered.
//!
//! **State** (the paper's Table 4).
//!
//! | object | scope | access | consistency |
//! |---|---|---|---|
//! | `load`: connections of each backend, a value for each service | global | write/read often | clock |
//! | `mapping`: backend of a connection | 5-tuple | write rarely, read mostly | clock |
//! | `connections`, `bytes`: of each backend, in the order of the keys | global | write mostly, read rarely | commutative |
//! | `passed_unchanged`, `passed_unknown` | global | write mostly, read rarely | commutative |
//!
//! **Theory.** A connection begins with a SYN (or any UDP packet) to a port of a service. The store picks the
//! backend with the fewest connections, the first among equals, adds one and answers; since that object is
//! ordered, the choice is the one an ideal load balancer would make. All packets of the connection go to that
//! backend: only the address changes. A packet from a backend is found by its client and gets the address it was
//! sent to back. The load goes down when the connection closes (a RST, or a FIN of each side) or idles out.
//! Slots are shares of clients, an address and port each: both the connection and its translated form have the
//! same, for only the server differs. A connection between two ports of services has no client and passes.
//! Connections from one client port to several servers of a service that get one backend look the same from
//! there: what that backend sends belongs to the one whose key is lowest.

use crate::answer;
use crate::closing::{self, CLOSED, FIN_IN, FIN_OUT, FROM_HIGH};
use crate::config::{ConfigProblem, Keys};
use crate::locate::{Place, Shape, any_ends, any_travelling, locate_any, plain_any};
use crate::rewrite::{self, Address, AnyAddress, End, mapped};
use chc_api::identity::hash_words;
use chc_api::matching::{MATCH_REMEDY, Match};
use chc_api::nf::FlowLookup;
use chc_api::packet::{protocol, tcp};
use chc_api::state::{FlowOptions, ValueBytes};
use chc_api::{
    Consistency, Context, Counter, CounterArray, CustomOp, Declarations, Direction, Event, EventKind, Flow,
    FlowKey, Identity, NetworkFunction, ObjectKey, Op, OpValue, Output, Passing, Resolution, Scope, Shared,
    Slot, StateError, Time, TimerEvent, Verdict,
};
use core::net::{IpAddr, Ipv6Addr};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const NO_BACKEND: Verdict = Verdict::Drop("lb_no_backend");
/// Most backends of a service: their loads are one value.
const BACKENDS_MAX: usize = 16;
const SERVICES_MAX: usize = 16;

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its ports.
    pub matching: Match,
    /// Whether it is for IPv6.
    is_v6: bool,
    /// Its servers, of IPv4 as they are mapped into IPv6.
    backends: Vec<u128>,
    /// Connections a server takes at most.
    pub connections_max: u32,
    /// Number of the first of its servers among all.
    first: u16,
}

/// The keys of the load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancerConfig {
    /// The services.
    pub services: Vec<Service>,
    /// How long a connection may be idle.
    pub idle: Duration,
    /// How long a closed one is remembered.
    pub linger: Duration,
}

impl LoadBalancerConfig {
    /// Reads the keys.
    ///
    /// # Errors
    /// Every problem found.
    pub fn read(config: &Value) -> Result<Self, Vec<ConfigProblem>> {
        let mut keys = Keys::new(config);
        let mut services = Vec::new();
        let listed = keys.tables("services");
        if listed.is_empty() {
            let remedy = r#"add services = [{ match = "tcp/80", backends = ["10.1.0.1"] }]"#;
            keys.problem("services", "there is no service", remedy);
        }
        if listed.len() > SERVICES_MAX {
            let problem = format!("{} services are more than {SERVICES_MAX}", listed.len());
            keys.problem("services", problem, "split them over several load balancers");
        }
        let mut first = 0;
        for (at, table) in listed.into_iter().enumerate().take(SERVICES_MAX) {
            let (service, problems) = service(table, first);
            for problem in problems {
                let dot = if problem.key.is_empty() { "" } else { "." };
                keys.problem(&format!("services[{at}]{dot}{}", problem.key), problem.problem, problem.remedy);
            }
            if let Some(service) = service {
                first += service.backends.len() as u16;
                services.push(service);
            }
        }
        let (idle, linger) = (keys.seconds("idle_s", 300.0), keys.seconds("linger_s", 30.0));
        let problems = keys.finish();
        if problems.is_empty() { Ok(Self { services, idle, linger }) } else { Err(problems) }
    }
}

fn service(table: &Value, first: u16) -> (Option<Service>, Vec<ConfigProblem>) {
    let mut keys = Keys::new(table);
    let matching = match keys.text("match").map(str::parse::<Match>) {
        Some(Ok(matching)) => Some(matching),
        Some(Err(error)) => {
            keys.problem("match", format!("it is no match: {error}"), MATCH_REMEDY);
            None
        }
        None => {
            keys.problem("match", "missing", MATCH_REMEDY);
            None
        }
    };
    let mut backends: Vec<u128> = Vec::new();
    let mut is_v6 = None;
    for (at, text) in keys.texts("backends").unwrap_or_default().into_iter().enumerate() {
        let key = format!("backends[{at}]");
        let Ok(address) = text.parse::<IpAddr>() else {
            let remedy = "write it as 10.1.0.1 or 2001:db8::1";
            keys.problem(&key, format!("\"{text}\" is no address"), remedy);
            continue;
        };
        let bits = match address {
            IpAddr::V4(address) => mapped(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        if backends.contains(&bits) {
            keys.problem(&key, format!("{address} is listed twice"), "list it once");
        } else if *is_v6.get_or_insert(address.is_ipv6()) == address.is_ipv6() {
            backends.push(bits);
        } else {
            let remedy = "make a service of the IPv4 backends and one of the IPv6 backends";
            keys.problem(&key, format!("{address} is not of the family of the backends before"), remedy);
        }
    }
    if !(1..=BACKENDS_MAX).contains(&backends.len()) {
        let problem = format!("a service has 1 to {BACKENDS_MAX} backends, this one {}", backends.len());
        keys.problem("backends", problem, "list as many, or split the service over several vertices");
    }
    let connections_max =
        keys.number("connections_max", f64::from(u32::MAX), 1.0..=f64::from(u32::MAX)) as u32;
    let is_v6 = is_v6.unwrap_or(false);
    let service = matching.map(|matching| Service { matching, is_v6, backends, connections_max, first });
    (service, keys.finish())
}

/// Connections of each backend of a service.
type Load = [u32; BACKENDS_MAX];

/// Argument of the custom operations.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Assignment {
    /// Of `assign`: how many backends there are. Of `release`: which one.
    backend: u32,
    connections_max: u32,
}

const ASSIGN: u8 = 0;
const RELEASE: u8 = 1;

/// The custom operations of a service. `assign` returns the backend, or nothing if none is left.
static LOAD_OPS: [CustomOp; 2] = [CustomOp::new("assign", assign), CustomOp::new("release", release)];

fn assign(value: &mut ValueBytes, argument: &ValueBytes) -> OpValue {
    let (Some(mut load), Some(by)) = (value.read::<Load>(), argument.read::<Assignment>()) else {
        return OpValue::Refused(StateError::WrongType);
    };
    let backends = load.iter_mut().take(by.backend as usize).enumerate();
    let free = backends.filter(|(_, load)| **load < by.connections_max);
    let Some((at, load_of)) = free.min_by_key(|(_, load)| **load) else { return OpValue::Empty };
    *load_of += 1;
    *value = ValueBytes::of(&load);
    OpValue::Int(at as i64)
}

fn release(value: &mut ValueBytes, argument: &ValueBytes) -> OpValue {
    let (Some(mut load), Some(by)) = (value.read::<Load>(), argument.read::<Assignment>()) else {
        return OpValue::Refused(StateError::WrongType);
    };
    if let Some(load) = load.get_mut(by.backend as usize) {
        *load = load.saturating_sub(1);
    }
    *value = ValueBytes::of(&load);
    OpValue::Empty
}

/// The backend of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Mapping {
    /// Its number among all backends.
    pub backend: u16,
    /// 1 and 2 after a FIN of client and server, 4 when closed; 8 if the client is the high end of the key.
    pub state: u16,
}

/// Secondary key of a mapping: the connection as its backend sees it.
fn index_of(key: &FlowKey, value: &[u8]) -> Option<u64> {
    let mapping = Mapping::read_from_bytes(value).ok()?;
    let (low, high) = any_ends(key)?;
    let (client, server) = if mapping.state & FROM_HIGH != 0 { (high, low) } else { (low, high) };
    Some(index(key.protocol(), client, (mapping.backend, server.port)))
}

/// What tells connections apart that a backend, by its number, and a port of it have.
fn index(protocol: u8, client: AnyAddress, (backend, port): (u16, u16)) -> u64 {
    let [high, low] = halves(client.ip);
    let server = u64::from(backend) << 16 | u64::from(port);
    hash_words(&[high, low, u64::from(client.port), server, u64::from(protocol)], 0)
}

fn halves(ip: u128) -> [u64; 2] {
    [(ip >> 64) as u64, ip as u64]
}

/// The load balancer.
#[derive(Clone)]
pub struct LoadBalancer {
    services: Arc<[Service]>,
    /// The address of each backend.
    addresses: Arc<[u128]>,
    slots: u16,
    seed: u64,
    idle: Duration,
    linger: Duration,
    mapping: Flow<Mapping>,
    load: Shared<Load>,
    connections: CounterArray,
    bytes: CounterArray,
    passed_unchanged: Counter,
    passed_unknown: Counter,
    reset: Output,
}

/// The only timer of a mapping: idle, or lingering after the close.
const IDLE: u8 = 0;

impl LoadBalancer {
    /// The load balancer of a vertex with this many slots and this hash seed, and its declarations.
    #[must_use]
    pub fn new(config: &LoadBalancerConfig, slots: u16, seed: u64, declarations: &mut Declarations) -> Self {
        let backends: usize = config.services.iter().map(|service| service.backends.len()).sum();
        let timeout_min = config.idle.min(config.linger);
        let (scope, clock) = (Scope::Global, Consistency::Clock);
        declarations.extra_packets(1);
        Self {
            services: config.services.clone().into(),
            addresses: config.services.iter().flat_map(|service| service.backends.iter().copied()).collect(),
            slots: slots.max(1),
            seed,
            idle: config.idle,
            linger: config.linger,
            mapping: declarations
                .flow("mapping", FlowOptions { timers: 1, timeout_min, index: Some(index_of) }),
            bytes: declarations.counters("bytes", backends as u16),
            connections: declarations.counters("connections", backends as u16),
            load: declarations.shared("load", scope, clock, [0; BACKENDS_MAX], &LOAD_OPS, (1, 1)),
            passed_unchanged: declarations.counter("passed_unchanged"),
            passed_unknown: declarations.counter("passed_unknown"),
            reset: declarations.output("reset"),
        }
    }

    /// Client and server of a connection, and which service it is to; the client first, and where it is.
    #[inline]
    fn parties(&self, key: &FlowKey) -> Option<(AnyAddress, AnyAddress, usize, Direction)> {
        let (low, high) = any_ends(key)?;
        let (protocol, is_v6) = (key.protocol(), key.family() == 6);
        let is_it = |s: &Service, port| s.is_v6 == is_v6 && s.matching.has_port(protocol, port);
        let service = |at: AnyAddress| self.services.iter().position(|s| is_it(s, at.port));
        match (service(low), service(high)) {
            (None, Some(service)) => Some((low, high, service, Direction::LowToHigh)),
            (Some(service), None) => Some((high, low, service, Direction::HighToLow)),
            _ => None,
        }
    }

    /// The service of a backend and its number there.
    fn service_of(&self, backend: u16) -> Option<(usize, u32)> {
        let service = self.services.iter().rposition(|service| service.first <= backend)?;
        Some((service, u32::from(backend - self.services[service].first)))
    }

    /// A whole packet of a connection that has a backend, under the addresses of that connection, that changes
    /// nothing; or one that is to no service.
    #[inline(always)]
    fn established<C: Passing>(&self, cx: &mut C) -> Option<Verdict> {
        let parsed = cx.parsed();
        let (places, _) = plain_any(parsed)?;
        let is_plain = parsed.tcp_flags & (tcp::SYN | tcp::FIN | tcp::RST) == 0;
        let known = if is_plain { cx.record(self.mapping, IDLE) } else { None };
        let Some((mapping, due)) = known else {
            if self.parties(&cx.parsed().key).is_some() {
                return None;
            }
            cx.count(self.passed_unchanged, 1);
            return Some(Verdict::Forward);
        };
        if mapping.state & CLOSED != 0 || self.moves(cx.now(), due) {
            return None;
        }
        let identity = cx.identity();
        let (from, server) = any_travelling(&identity)?;
        let from_high = mapping.state & FROM_HIGH != 0;
        let to_server = from_high == (identity.direction == Direction::HighToLow);
        if !to_server && self.addresses.contains(&from.ip) {
            // It may belong to another connection, to which this is the backend.
            return None;
        }
        cx.count(self.bytes.at(usize::from(mapping.backend)), u64::from(cx.wire_len()));
        if to_server {
            let by = Address { ip: self.address(mapping), ..server };
            cx.rewrite(|header| rewrite::replace_any_end(header, places, End::Destination, by));
        }
        Some(Verdict::Forward)
    }

    /// The address of a connection's backend.
    #[inline]
    fn address(&self, mapping: Mapping) -> u128 {
        self.addresses[usize::from(mapping.backend)]
    }

    /// Whether the idle timer must be moved: by more than 1/16 of its length, so ordinary packets write nothing.
    #[inline]
    fn moves(&self, now: Time, due: Option<Time>) -> bool {
        let deadline = now + self.idle;
        due.is_none_or(|due| deadline.0.saturating_sub(due.0) > self.idle.as_nanos() as u64 / 16)
    }

    /// Gives a connection a backend, the least loaded one.
    async fn open<C: Context>(&self, cx: &C, service: usize, client: Direction) -> Option<Mapping> {
        let of = &self.services[service];
        let (backend, connections_max) = (of.backends.len() as u32, of.connections_max);
        let key = ObjectKey::number(service as u64);
        let chosen = cx.custom(self.load, key, ASSIGN, Assignment { backend, connections_max }).await;
        let OpValue::Int(at) = chosen else { return None };
        let backend = of.first + at as u16;
        let state = if client == Direction::HighToLow { FROM_HIGH } else { 0 };
        let mapping = Mapping { backend, state };
        cx.put(self.mapping, mapping);
        cx.arm(self.mapping, IDLE, cx.now() + self.idle, false);
        cx.count(self.connections.at(usize::from(backend)), 1);
        self.report(cx, mapping, client, true);
        Some(mapping)
    }

    fn report<C: Context>(&self, cx: &C, mapping: Mapping, client: Direction, opened: bool) {
        let address = Ipv6Addr::from_bits(self.address(mapping));
        let is_v6 = cx.identity().key.family() == 6;
        let server = if is_v6 { IpAddr::V6(address) } else { address.to_canonical() };
        let kind = EventKind::Flow { opened, server };
        cx.event(Event { kind, key: cx.identity().key, direction: client });
    }

    /// Takes a connection off its backend's load.
    fn unload<C: Context>(&self, cx: &C, mapping: Mapping) {
        if let Some((service, backend)) = self.service_of(mapping.backend) {
            let by = ValueBytes::of(&Assignment { backend, connections_max: 0 });
            cx.submit(self.load.id(), ObjectKey::number(service as u64), Op::Custom(RELEASE, by));
        }
    }

    /// What a packet's flags and its mere arrival do to the mapping. `fin` tells whose it is.
    fn advance<C: Context>(&self, cx: &C, mapping: Mapping, tcp_flags: u8, fin: u16) {
        let state = closing::after(mapping.state, tcp_flags, fin);
        let (was_closed, is_closed) = (mapping.state & CLOSED != 0, state & CLOSED != 0);
        if state != mapping.state {
            cx.put(self.mapping, Mapping { state, ..mapping });
        }
        if is_closed && !was_closed {
            self.unload(cx, mapping);
            cx.arm(self.mapping, IDLE, cx.now() + self.linger, false);
        } else if !is_closed && self.moves(cx.now(), cx.armed(self.mapping, IDLE)) {
            cx.arm(self.mapping, IDLE, cx.now() + self.idle, false);
        }
    }

    /// A packet from the client.
    async fn to_server<C: Context>(&self, cx: &C, at: &Place, service: usize, client: Direction) -> Verdict {
        let known = cx.get(self.mapping);
        let begins = at.shape == Shape::Whole
            && (at.places.protocol != protocol::TCP
                || at.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN);
        let mapping = match known {
            Some(mapping) if !(begins && mapping.state & CLOSED != 0) => mapping,
            _ if begins => match self.open(cx, service, client).await {
                Some(mapping) => mapping,
                None => {
                    self.refuse(cx);
                    return NO_BACKEND;
                }
            },
            _ => {
                cx.count(self.passed_unknown, 1);
                return Verdict::Forward;
            }
        };
        cx.count(self.bytes.at(usize::from(mapping.backend)), u64::from(cx.wire_len()));
        let Some((_, server)) = any_travelling(&cx.identity()) else { return Verdict::Forward };
        let by = Address { ip: self.address(mapping), ..server };
        if let (Shape::Error, Some(quoted)) = (at.shape, at.quoted) {
            cx.rewrite(|header| {
                rewrite::replace_any(header, at.places, End::Destination, by);
                rewrite::replace_quoted(header, at.l4, quoted, End::Source, by);
            });
            return Verdict::Forward;
        }
        self.advance(cx, mapping, at.tcp_flags, FIN_OUT);
        cx.rewrite(|header| rewrite::replace_any_end(header, at.places, End::Destination, by));
        Verdict::Forward
    }

    /// A packet from the server, or about one to it; `from` is the address it comes from.
    fn to_client<C: Context>(&self, cx: &C, at: &Place, from: u128) -> Verdict {
        let Some(mapping) = cx.get(self.mapping) else {
            cx.count(self.passed_unknown, 1);
            return Verdict::Forward;
        };
        cx.count(self.bytes.at(usize::from(mapping.backend)), u64::from(cx.wire_len()));
        let Some((server, _)) = any_travelling(&cx.identity()) else { return Verdict::Forward };
        let is_translated = from == self.address(mapping);
        if let (Shape::Error, Some(quoted)) = (at.shape, at.quoted) {
            cx.rewrite(|header| {
                if is_translated {
                    rewrite::replace_any(header, at.places, End::Source, server);
                }
                rewrite::replace_quoted(header, at.l4, quoted, End::Destination, server);
            });
            return Verdict::Forward;
        }
        self.advance(cx, mapping, at.tcp_flags, FIN_IN);
        if is_translated {
            cx.rewrite(|header| rewrite::replace_any_end(header, at.places, End::Source, server));
        }
        Verdict::Forward
    }

    /// Answers a SYN for which no backend is left (RFC 9293, section 3.10.7.1).
    fn refuse<C: Context>(&self, cx: &C) {
        let parsed = cx.parsed();
        let answer = cx.header(|header| {
            let (l3, l4) = (usize::from(parsed.l3), usize::from(parsed.l4));
            (parsed.protocol == protocol::TCP).then(|| answer::reset(header, l3, l4)).flatten()
        });
        if let Some(frame) = answer {
            cx.emit(self.reset, cx.identity().direction.reverse(), &frame);
        }
    }
}

impl NetworkFunction for LoadBalancer {
    const TRANSLATES: bool = true;

    #[inline(always)]
    fn at_once<C: Passing>(&self, cx: &mut C) -> Option<Verdict> {
        self.established(cx)
    }

    async fn packet<C: Context>(&self, cx: C) -> Verdict {
        let parsed = cx.parsed();
        let identity = cx.identity();
        let located = cx.header(|header| locate_any(header, &parsed));
        let (Some((at, from)), Some((.., service, client))) = (located, self.parties(&identity.key)) else {
            cx.done(self.load.id());
            cx.count(self.passed_unchanged, 1);
            return Verdict::Forward;
        };
        if identity.direction == client {
            return self.to_server(&cx, &at, service, client).await;
        }
        self.to_client(&cx, &at, from)
    }

    async fn timer<C: Context>(&self, cx: C, _timer: TimerEvent) {
        let Some(mapping) = cx.get(self.mapping) else { return };
        if mapping.state & CLOSED == 0 {
            self.unload(&cx, mapping);
        }
        cx.remove(self.mapping);
        let from_high = mapping.state & FROM_HIGH != 0;
        self.report(&cx, mapping, if from_high { Direction::HighToLow } else { Direction::LowToHigh }, false);
    }

    fn connection_slot(&self, key: &FlowKey) -> Option<Slot> {
        let client = self.lane(key)?;
        Some(Slot(Scope::FiveTuple.slot(key, client, self.seed, self.slots)))
    }

    /// Whatever address it is under, a packet is of its client's connections.
    fn lane(&self, key: &FlowKey) -> Option<u64> {
        let (client, ..) = self.parties(key)?;
        let [high, low] = halves(client.ip);
        Some(hash_words(&[client.port.into(), low, high, 0, 0], self.seed))
    }

    fn resolve<L: FlowLookup>(&self, identity: &Identity, records: &L) -> Resolution {
        let Some((client, server, service, from_client)) = self.parties(&identity.key) else {
            return Resolution::Known;
        };
        if identity.direction == from_client {
            return Resolution::Known;
        }
        let of = &self.services[service];
        let Some(at) = of.backends.iter().position(|backend| *backend == server.ip) else {
            return Resolution::Known;
        };
        let backend = of.first + at as u16;
        match records.find(self.mapping, index(identity.key.protocol(), client, (backend, server.port))) {
            Some(key) if any_ends(&key).is_some_and(|(low, _)| low == client) => {
                Resolution::Translated(Identity { key, direction: Direction::HighToLow })
            }
            Some(key) if any_ends(&key).is_some_and(|(_, high)| high == client) => {
                Resolution::Translated(Identity { key, direction: Direction::LowToHigh })
            }
            _ => Resolution::Known,
        }
    }
}

#[cfg(test)]
#[path = "load_balancer_tests.rs"]
mod tests;
