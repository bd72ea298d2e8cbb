//! Network address and port translator for IPv4 TCP, UDP and ICMP echo.
//!
//! **Ports.** One input, one output. Packets of internal hosts to the outside leave with an external
//! address and port; packets to an external address are translated back, or dropped
//! (`nat_no_mapping`) when nothing is translated to it, and (`nat_filtered`) when it may not be used from
//! there. What an internal host sends to an external address leaves translated, too, and comes back from
//! outside (hairpinning). Everything else passes unchanged: what stays inside or outside, other protocols,
//! tunnels, IPv6; it is counted. A packet that arrives for an internal host without having been translated
//! belongs to its connection and passes unchanged, too.
//!
//! **Keys.** `internal`: prefixes of internal hosts. `external`: addresses to translate to. `ports`:
//! range of external ports (and echo identifiers). `mapping`: whether every connection has a port of its
//! own (`address_and_port_dependent`) or all of an internal endpoint have one (`endpoint_independent`).
//! `port_preservation`: whether a port is kept while it is free. `filtering`: what may use a port from outside ([`Filtering`]). `idle_s`: how long a translation may be
//! idle; `tcp_idle_s`, `tcp_transitory_s` (nothing has come back yet), `udp_idle_s` and `icmp_idle_s` say
//! otherwise for some. `linger_s`: how long a closed TCP connection keeps its own. `port_order`: whether
//! ports are taken in the order of packets (`clock`) or in any serial order (`serial`). `refuse_with_icmp`: whether who
//! gets no port is told so, by an ICMP error that leaves by the output `refusal`.
//!
//! **State** (the paper's Table 4).
//!
//! | object | scope | access | consistency |
//! |---|---|---|---|
//! | `free_ports`: available ports | global | write/read often | `port_order` |
//! | `packets_total`, `packets_tcp`, `passed_ipv6`, `passed_unchanged` | global | write mostly, read rarely | commutative |
//! | `mapping`: port mapping of a connection | 5-tuple | write rarely, read mostly | clock |
//! | `binding`, `peer`: what the connections of an endpoint share | internal endpoint | write rarely, read rarely | clock |
//!
//! **Theory.** The external address of an internal host is always the same, given by a hash of the
//! host; only the port is a choice. Ports are drawn, per external address and protocol, from the share
//! of the slot the connection belongs to: the slot of a packet from outside follows from its port
//! alone. A mapping serves one connection (RFC 4787's address- and port-dependent mapping and
//! filtering), as in the paper, unless `mapping = "endpoint_independent"` (`nat/endpoints.rs`). A TCP
//! connection is closed by a RST, or by a FIN of each side; its port is given back after `linger_s`, that of
//! any connection when it was idle too long. With `port_preservation` the slot of an internal endpoint is that
//! whose share holds its port, so that no other can have given it away: it keeps its port if that is free, and
//! else gets one that is even or odd like it (RFC 4787, section 4.2). Ports outside `ports` are dealt to slots by hash. The idle timer moves only
//! when it would move by more than 1/16 of the idle time, so ordinary packets write nothing. ICMP
//! errors are translated with what they quote (RFC 5508), and neither refresh nor close a mapping
//! (its REQ-6). Fragments behind the first have no ports: only their address changes.

mod config;
mod endpoints;

pub use config::NatConfig;
pub use endpoints::Filtering;

use crate::answer;
use crate::closing::{self, CLOSED, FIN_IN, FIN_OUT};
use crate::config::Prefix;
use crate::locate::{Place, Shape, class, ends, locate, plain, travelling};
use crate::rewrite::{self, Address, End};
use chc_api::nf::FlowLookup;
use chc_api::packet::{Ipv4Header, PacketKind, protocol, tcp, view};
use chc_api::state::{FlowIndexFn, FlowOptions};
use chc_api::{
    Context, Counter, Declarations, Direction, Event, EventKind, Flow, FlowKey, Identity, NetworkFunction,
    ObjectKey, Output, Passing, Pool, Resolution, Scope, Slot, Time, TimerEvent, Verdict,
};
use endpoints::Endpoints;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const NO_MAPPING: Verdict = Verdict::Drop("nat_no_mapping");
const FILTERED: Verdict = Verdict::Drop("nat_filtered");
const PORTS_EXHAUSTED: Verdict = Verdict::Drop("nat_ports_exhausted");

/// The only timer of a mapping: idle, or lingering after the close.
const IDLE: u8 = 0;

/// A TCP segment has come from outside.
const ANSWERED: u16 = 16;

/// The translation of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Mapping {
    /// External IPv4 address.
    pub external: u32,
    /// External port or echo identifier.
    pub port: u16,
    /// TCP state: 1 and 2 after a FIN from inside and outside, 4 when closed, 16 when it was answered.
    pub state: u16,
    /// Clock of the packet that acquired the port.
    pub owner: u64,
}

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From an internal host to the outside.
    Out,
    /// To an external address.
    Back,
    /// To an internal host, untranslated.
    In,
    /// Neither.
    Other,
}

/// Secondary key of a mapping: what a packet from outside is addressed to.
fn index_of(key: &FlowKey, value: &[u8]) -> Option<u64> {
    let mapping = Mapping::read_from_bytes(value).ok()?;
    Some(index(mapping.external, class(key.protocol())?, mapping.port))
}

fn index(external: u32, class: u64, port: u16) -> u64 {
    u64::from(external) << 32 | class << 16 | u64::from(port)
}

/// Equal shares of the port range.
#[derive(Clone, Copy, Debug)]
struct Shares {
    first: u64,
    len: u64,
    slots: u64,
}

impl Shares {
    fn of_slot(self, slot: u64) -> Range<u64> {
        let start = |slot| self.first + slot * self.len / self.slots;
        start(slot)..start(slot + 1)
    }

    /// The slot whose share holds `port`.
    #[inline]
    fn slot_of(self, port: u16) -> Option<u64> {
        let offset = u64::from(port).checked_sub(self.first).filter(|offset| *offset < self.len)?;
        Some(((offset + 1) * self.slots - 1) / self.len)
    }
}

/// How long translations may be idle.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// TCP connections that were answered.
    pub tcp: Duration,
    /// TCP connections that were not.
    pub transitory: Duration,
    /// UDP.
    pub udp: Duration,
    /// ICMP echoes.
    pub icmp: Duration,
}

impl Idle {
    #[inline]
    fn of(&self, protocol: u8, state: u16) -> Duration {
        match protocol {
            protocol::TCP if state & ANSWERED != 0 => self.tcp,
            protocol::TCP => self.transitory,
            protocol::UDP => self.udp,
            _ => self.icmp,
        }
    }

    fn min(&self) -> Duration {
        self.tcp.min(self.transitory).min(self.udp).min(self.icmp)
    }
}

/// The translator.
#[derive(Clone)]
pub struct Nat {
    internal: Arc<[Prefix]>,
    /// In the order of the configuration: an index into it is part of a pool's key.
    external: Arc<[u32]>,
    shares: Shares,
    keeps_ports: bool,
    slots: u16,
    seed: u64,
    idle: Idle,
    linger: Duration,
    mapping: Flow<Mapping>,
    endpoints: Option<Endpoints>,
    free_ports: Pool,
    packets_total: Counter,
    packets_tcp: Counter,
    passed_ipv6: Counter,
    passed_unchanged: Counter,
    /// Where errors leave, if they are sent.
    refusal: Option<Output>,
}

impl Nat {
    /// The translator of a vertex with this many slots and this hash seed, and its declarations.
    #[must_use]
    pub fn new(config: &NatConfig, slots: u16, seed: u64, declarations: &mut Declarations) -> Self {
        let (low, high) = config.ports;
        let len = u64::from(high - low) + 1;
        let shares = Shares { first: u64::from(low), len, slots: u64::from(slots.max(1)) };
        let timeout_min = config.idle.min().min(config.linger);
        let internal: Arc<[Prefix]> = config.internal.clone().into();
        let is_shared = config.filtering.is_some();
        let refusal = config.refuse_with_icmp.then(|| {
            declarations.extra_packets(1);
            declarations.output("refusal")
        });
        let index = (!is_shared).then_some(index_of as FlowIndexFn);
        // The first object is that which most packets look at.
        let mapping = declarations.flow("mapping", FlowOptions { timers: 1, timeout_min, index });
        Self {
            endpoints: config
                .filtering
                .map(|filtering| Endpoints::new(Arc::clone(&internal), filtering, timeout_min, declarations)),
            internal,
            external: config.external.iter().map(|address| address.to_bits()).collect(),
            shares,
            keeps_ports: config.port_preservation,
            slots: slots.max(1),
            seed,
            idle: config.idle,
            linger: config.linger,
            mapping,
            free_ports: declarations.pool(
                "free_ports",
                config.port_order,
                Arc::new(move |key| shares.of_slot(key & 0xffff)),
            ),
            packets_total: declarations.counter("packets_total"),
            packets_tcp: declarations.counter("packets_tcp"),
            passed_ipv6: declarations.counter("passed_ipv6"),
            passed_unchanged: declarations.counter("passed_unchanged"),
            refusal,
        }
    }

    #[inline]
    fn is_internal(&self, address: u32) -> bool {
        self.internal.iter().any(|prefix| prefix.contains(address))
    }

    #[inline]
    fn is_external(&self, address: u32) -> bool {
        self.external.contains(&address)
    }

    /// Which way a packet with these addresses goes.
    #[inline(always)]
    fn way(&self, from: u32, to: u32) -> Way {
        match (self.is_internal(from), self.is_internal(to)) {
            (true, false) => Way::Out,
            _ if self.is_external(to) => Way::Back,
            (false, true) => Way::In,
            _ => Way::Other,
        }
    }

    /// Which external address an internal host has, as an index.
    fn external_of(&self, host: u32) -> usize {
        let hash = ObjectKey::host(core::net::Ipv4Addr::from_bits(host).into()).hash(self.seed);
        ((u128::from(hash) * self.external.len() as u128) >> 64) as usize
    }

    /// The pool that `slot` draws from.
    fn pool_key(external: usize, class: u64, slot: u64) -> u64 {
        (external as u64) << 32 | class << 16 | slot
    }

    /// The internal end of a connection, or of what is kept of an endpoint.
    fn inner(&self, key: &FlowKey) -> Option<Address> {
        let (low, high) = ends(key)?;
        // What is kept of an endpoint has 0.0.0.0 at the other end.
        [low, high].into_iter().find(|end| end.ip != 0 && self.is_internal(end.ip))
    }

    /// The slot of an internal endpoint that is to keep its port.
    fn slot_of_port(&self, key: &FlowKey) -> Option<Slot> {
        let inner = self.inner(key)?;
        class(key.protocol())?;
        let by_hash = || {
            let (endpoint, _) = FlowKey::v4(key.protocol(), inner.ip, inner.port, 0, 0);
            Scope::FiveTuple.slot(&endpoint, endpoint.hash(self.seed), self.seed, self.slots)
        };
        Some(Slot(self.shares.slot_of(inner.port).map_or_else(by_hash, |slot| slot as u16)))
    }

    /// The way of a connection's packets that come from inside.
    fn outwards(&self, key: &FlowKey) -> Direction {
        let low_is_internal = ends(key).is_some_and(|(low, _)| self.is_internal(low.ip));
        if low_is_internal { Direction::LowToHigh } else { Direction::HighToLow }
    }

    /// A whole TCP or UDP packet of a connection that has a mapping, under the addresses of that
    /// connection, that changes nothing: everything but first and last packets, translated return traffic and
    /// oddities.
    #[inline(always)]
    fn established<C: Passing>(&self, cx: &mut C) -> Option<Verdict> {
        let parsed = cx.parsed();
        let (place, is_tcp) = plain(parsed)?;
        if parsed.tcp_flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0 {
            return None;
        }
        let (mapping, due) = cx.record(self.mapping, IDLE)?;
        if mapping.state & CLOSED == 0
            && self.moves(cx.now(), due, self.idle.of(parsed.protocol, mapping.state))
        {
            return None;
        }
        // By the addresses it has now: another function may have changed them.
        let header = view::<Ipv4Header>(cx.header(), place.l3)?;
        let way = self.way(header.src.get(), header.dst.get());
        let changes_nothing = match way {
            Way::Out => true,
            Way::In => !is_tcp || mapping.state & ANSWERED != 0,
            Way::Back | Way::Other => false,
        };
        if !changes_nothing {
            return None;
        }
        cx.count(self.packets_total, 1);
        if is_tcp {
            cx.count(self.packets_tcp, 1);
        }
        if way == Way::Out {
            let by = Address { ip: mapping.external, port: mapping.port };
            cx.rewrite(|header| rewrite::replace_end(header, place, End::Source, by));
        }
        Some(Verdict::Forward)
    }

    /// Whether the idle timer must be moved: by more than 1/16 of its length, so ordinary packets write nothing.
    #[inline]
    fn moves(&self, now: Time, due: Option<Time>, idle: Duration) -> bool {
        let deadline = now + idle;
        due.is_none_or(|due| deadline.0.saturating_sub(due.0) > idle.as_nanos() as u64 / 16)
    }

    /// A packet from inside to outside.
    async fn outbound<C: Context>(&self, cx: &C, at: &Place, from: u32) -> Verdict {
        let known = cx.get_with_timer(self.mapping, IDLE);
        let due = known.and_then(|(_, due)| due);
        let mapping = match (known, at.shape) {
            (Some((mapping, _)), _) => mapping,
            (None, Shape::Whole) => match self.open(cx, from).await {
                Some(mapping) => mapping,
                None => {
                    self.refuse(cx, from);
                    return PORTS_EXHAUSTED;
                }
            },
            (None, Shape::Later) => {
                let by = Address { ip: self.external[self.external_of(from)], port: 0 };
                cx.rewrite(|header| rewrite::replace_end(header, at.places, End::Source, by));
                return Verdict::Forward;
            }
            // RFC 5508, REQ-5.
            (None, Shape::Error) => match self.bound(cx) {
                Some(mapping) => mapping,
                None => return NO_MAPPING,
            },
        };
        let by = Address { ip: mapping.external, port: mapping.port };
        if let (Shape::Error, Some(quoted)) = (at.shape, at.quoted) {
            cx.rewrite(|header| {
                rewrite::replace(header, at.places, End::Source, by);
                rewrite::replace_quoted(header, at.l4, quoted, End::Destination, by);
            });
        } else {
            let due = due.or_else(|| cx.armed(self.mapping, IDLE));
            self.advance(cx, mapping, due, at, FIN_OUT);
            cx.rewrite(|header| rewrite::replace_end(header, at.places, End::Source, by));
        }
        Verdict::Forward
    }

    /// A packet to an external address, whose identity is the internal host's connection if there is
    /// one.
    fn inbound<C: Context>(&self, cx: &C, at: &Place, to: u32) -> Verdict {
        let known = cx.get_with_timer(self.mapping, IDLE).filter(|(mapping, _)| mapping.external == to);
        let identity = cx.identity();
        if known.is_none() {
            let Some(endpoints) = &self.endpoints else { return NO_MAPPING };
            if self.bound(cx).is_none_or(|mapping| mapping.external != to) {
                return NO_MAPPING;
            }
            if !endpoints.admits(cx, &identity.key) {
                return FILTERED;
            }
        }
        let Some((_, inner)) = travelling(&identity) else { return NO_MAPPING };
        if let (Shape::Error, Some(quoted)) = (at.shape, at.quoted) {
            cx.rewrite(|header| {
                rewrite::replace(header, at.places, End::Destination, inner);
                rewrite::replace_quoted(header, at.l4, quoted, End::Source, inner);
            });
        } else {
            if let Some((mapping, due)) = known {
                self.advance(cx, mapping, due, at, FIN_IN);
            }
            cx.rewrite(|header| rewrite::replace_end(header, at.places, End::Destination, inner));
        }
        Verdict::Forward
    }

    /// What the internal endpoint of this packet's connection is mapped to, whatever the connection.
    fn bound<C: Context>(&self, cx: &C) -> Option<Mapping> {
        self.endpoints.as_ref()?.mapping(cx, &cx.identity().key)
    }

    /// Gives this connection of host `from` a port.
    async fn open<C: Context>(&self, cx: &C, from: u32) -> Option<Mapping> {
        let identity = cx.identity();
        let key = identity.key;
        let mapping = match self.bound(cx) {
            Some(mapping) => mapping,
            None => self.acquire(cx, from).await?,
        };
        if let Some(endpoints) = &self.endpoints {
            endpoints.join(cx, &key, mapping);
        }
        cx.put(self.mapping, mapping);
        cx.arm(self.mapping, IDLE, cx.now() + self.idle.of(key.protocol(), mapping.state), false);
        let kind = EventKind::Nat { opened: true, external: mapping.external, port: mapping.port };
        cx.event(Event { kind, key, direction: identity.direction });
        Some(mapping)
    }

    /// Tells an internal host that there is no port for it, if it is to be told (RFC 5508, REQ-8).
    fn refuse<C: Context>(&self, cx: &C, from: u32) {
        let Some(output) = self.refusal else { return };
        let (parsed, external) = (cx.parsed(), self.external[self.external_of(from)]);
        let (l3, l4) = (usize::from(parsed.l3), usize::from(parsed.l4));
        if let Some(frame) = cx.header(|header| answer::prohibited(header, l3, l4, external)) {
            cx.emit(output, cx.identity().direction.reverse(), &frame);
        }
    }

    /// Takes a port from the share of this connection's slot.
    async fn acquire<C: Context>(&self, cx: &C, from: u32) -> Option<Mapping> {
        let key = cx.identity().key;
        let by_hash = || Scope::FiveTuple.slot(&key, key.hash(self.seed), self.seed, self.slots);
        let slot = self.connection_slot(&key).map_or_else(by_hash, |slot| slot.0);
        let external = self.external_of(from);
        let pool = Self::pool_key(external, class(key.protocol())?, u64::from(slot));
        let near = self.inner(&key).filter(|_| self.keeps_ports).map(|inner| u64::from(inner.port));
        let port = cx.acquire_near(self.free_ports, pool, near).await?;
        let owner = cx.position().clock.0;
        Some(Mapping { external: self.external[external], port: port as u16, state: 0, owner })
    }

    /// What a packet's TCP flags and its mere arrival do to the mapping. `fin` tells the side it comes from.
    #[inline]
    fn advance<C: Context>(&self, cx: &C, mapping: Mapping, due: Option<Time>, at: &Place, fin: u16) {
        let mut state = closing::after(mapping.state, at.tcp_flags, fin);
        if at.places.protocol == protocol::TCP && fin == FIN_IN && state & CLOSED == 0 {
            state |= ANSWERED;
        }
        let was_closed = mapping.state & CLOSED != 0;
        let is_closed = state & CLOSED != 0;
        if state != mapping.state {
            cx.put(self.mapping, Mapping { state, ..mapping });
        }
        if is_closed {
            if !was_closed {
                cx.arm(self.mapping, IDLE, cx.now() + self.linger, false);
            }
            return;
        }
        let idle = self.idle.of(at.places.protocol, state);
        if state != mapping.state || self.moves(cx.now(), due, idle) {
            cx.arm(self.mapping, IDLE, cx.now() + idle, false);
        }
    }
}

impl NetworkFunction for Nat {
    const TRANSLATES: bool = true;

    #[inline(always)]
    fn at_once<C: Passing>(&self, cx: &mut C) -> Option<Verdict> {
        self.established(cx)
    }

    async fn packet<C: Context>(&self, cx: C) -> Verdict {
        let parsed = cx.parsed();
        cx.count(self.packets_total, 1);
        if parsed.protocol == protocol::TCP {
            cx.count(self.packets_tcp, 1);
        }
        if let Some((at, from, to)) = cx.header(|header| locate(header, &parsed)) {
            match self.way(from, to) {
                Way::Back => return self.inbound(&cx, &at, to),
                Way::Out => return self.outbound(&cx, &at, from).await,
                Way::In => {
                    let known = cx.get_with_timer(self.mapping, IDLE);
                    if let (Some((mapping, due)), true) = (known, at.shape != Shape::Error) {
                        self.advance(&cx, mapping, due, &at, FIN_IN);
                    }
                    return Verdict::Forward;
                }
                Way::Other => {}
            }
        }
        let passed = if parsed.is(PacketKind::IPV6) { self.passed_ipv6 } else { self.passed_unchanged };
        cx.count(passed, 1);
        Verdict::Forward
    }

    async fn timer<C: Context>(&self, cx: C, _timer: TimerEvent) {
        let Some(mapping) = cx.get(self.mapping) else { return };
        let key = cx.identity().key;
        let external = self.external.iter().position(|address| *address == mapping.external);
        let is_last = self.endpoints.as_ref().is_none_or(|endpoints| endpoints.leave(&cx, &key));
        if is_last
            && let (Some(external), Some(class), Some(slot)) =
                (external, class(key.protocol()), self.shares.slot_of(mapping.port))
        {
            let pool = Self::pool_key(external, class, slot);
            cx.release(self.free_ports, pool, u64::from(mapping.port), mapping.owner);
        }
        cx.remove(self.mapping);
        let kind = EventKind::Nat { opened: false, external: mapping.external, port: mapping.port };
        cx.event(Event { kind, key, direction: self.outwards(&key) });
    }

    fn owner(&self, identity: &Identity) -> Option<Slot> {
        let (source, destination) = travelling(identity)?;
        class(identity.key.protocol())?;
        if self.is_internal(source.ip) || self.is_internal(destination.ip) {
            return None;
        }
        let external = [destination, source].into_iter().find(|end| self.is_external(end.ip))?;
        self.shares.slot_of(external.port).map(|slot| Slot(slot as u16))
    }

    fn connection_slot(&self, key: &FlowKey) -> Option<Slot> {
        if self.keeps_ports {
            return self.slot_of_port(key);
        }
        let endpoint = self.endpoints.as_ref()?.key(key)?;
        Some(Slot(Scope::FiveTuple.slot(&endpoint, endpoint.hash(self.seed), self.seed, self.slots)))
    }

    fn resolve<L: FlowLookup>(&self, identity: &Identity, records: &L) -> Resolution {
        let Some((source, destination)) = travelling(identity) else { return Resolution::Known };
        if !self.is_external(destination.ip) || self.is_internal(source.ip) {
            return Resolution::Known;
        }
        let protocol = identity.key.protocol();
        let Some(class) = class(protocol) else { return Resolution::Known };
        let index = index(destination.ip, class, destination.port);
        if let Some(endpoints) = &self.endpoints {
            let Some(inner) = endpoints.find(records, index) else { return Resolution::Unmapped };
            let port = if protocol == protocol::ICMP { inner.port } else { source.port };
            let (key, direction) = FlowKey::v4(protocol, source.ip, port, inner.ip, inner.port);
            return Resolution::Translated(Identity { key, direction });
        }
        let found = records.find(self.mapping, index);
        let Some(key) = found else { return Resolution::Unmapped };
        let direction = self.outwards(&key).reverse();
        let remote = travelling(&Identity { key, direction }).map(|(remote, _)| remote);
        // An echo carries its identifier at both ends of the key: there the translated one is given.
        let is_remote = remote.is_some_and(|remote| {
            remote.ip == source.ip && (remote.port == source.port || protocol == protocol::ICMP)
        });
        if is_remote { Resolution::Translated(Identity { key, direction }) } else { Resolution::Unmapped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_disjoint_cover_the_range_and_tell_their_slot() {
        for (first, len, slots) in [(1024, 64_512, 64), (2000, 64, 64), (1, 65_535, 48), (5000, 101, 7)] {
            let shares = Shares { first, len, slots };
            let mut next = first;
            for slot in 0..slots {
                let share = shares.of_slot(slot);
                assert_eq!(share.start, next);
                assert!(!share.is_empty());
                for port in share.clone() {
                    assert_eq!(shares.slot_of(port as u16), Some(slot), "port {port}");
                }
                next = share.end;
            }
            assert_eq!(next, first + len);
            assert_eq!(shares.slot_of((first - 1) as u16), None);
            assert_eq!(u16::try_from(next).ok().and_then(|port| shares.slot_of(port)), None);
        }
    }

    fn nat(slots: u16) -> (Nat, Declarations) {
        let config = serde_json::json!({"external": ["203.0.113.1", "203.0.113.2"]});
        let mut declarations = Declarations::default();
        (Nat::new(&NatConfig::read(&config, slots).unwrap(), slots, 5, &mut declarations), declarations)
    }

    #[test]
    fn the_owner_of_a_packet_from_outside_is_the_slot_its_connection_draws_from() {
        let slots = 48;
        let (nat, declarations) = nat(slots);
        let spec = &declarations.objects[usize::from(nat.free_ports.id().0)];
        let chc_api::state::ObjectKind::Pool { members } = &spec.kind else {
            panic!("free ports are a pool")
        };
        for host in 0..2_000 {
            let (inner, remote) = (0x0a00_0000 + host, 0xc633_6407);
            let (key, _) = FlowKey::v4(protocol::UDP, inner, 4000, remote, 53);
            let slot = Scope::FiveTuple.slot(&key, key.hash(5), 5, slots);
            let external = nat.external_of(inner);
            for port in members(Nat::pool_key(external, 1, u64::from(slot))) {
                let (ip, port) = (nat.external[external], port as u16);
                let (key, direction) = FlowKey::v4(protocol::UDP, remote, 53, ip, port);
                assert_eq!(nat.owner(&Identity { key, direction }), Some(Slot(slot)));
                // An ICMP error goes by the packet it quotes, either way.
                let direction = direction.reverse();
                assert_eq!(nat.owner(&Identity { key, direction }), Some(Slot(slot)));
            }
        }
    }

    #[test]
    fn nobody_owns_what_is_not_for_an_external_port() {
        let (nat, _) = nat(64);
        let owner = |protocol, to, port| {
            let (key, direction) = FlowKey::v4(protocol, 0xc633_6407, 53, to, port);
            nat.owner(&Identity { key, direction })
        };
        assert_eq!(owner(protocol::UDP, 0x0a00_0001, 4000), None);
        assert_eq!(owner(protocol::UDP, 0xcb00_7101, 1023), None);
        assert_eq!(owner(protocol::GRE, 0xcb00_7101, 4000), None);
        assert!(owner(protocol::TCP, 0xcb00_7101, 4000).is_some());
        assert_eq!(nat.owner(&Identity::default()), None);
    }

    #[test]
    fn where_ports_are_kept_both_ends_of_a_translation_are_of_the_slot_that_has_the_port() {
        let config = serde_json::json!({"external": ["203.0.113.1"], "port_preservation": true});
        let config = NatConfig::read(&config, 48).unwrap();
        let nat = Nat::new(&config, 48, 5, &mut Declarations::default());
        let key = |port| FlowKey::v4(protocol::TCP, 0x0a00_0001, port, 0xc633_6407, 80).0;
        for port in (1024..=u16::MAX).step_by(7) {
            let (back, direction) = FlowKey::v4(protocol::TCP, 0xc633_6407, 80, 0xcb00_7101, port);
            let slot = nat.connection_slot(&key(port));
            assert!(slot.is_some() && slot == nat.owner(&Identity { key: back, direction }), "{port}");
            let (endpoint, _) = FlowKey::v4(protocol::TCP, 0x0a00_0001, port, 0, 0);
            assert_eq!(nat.connection_slot(&endpoint), slot);
        }
        let low: std::collections::BTreeSet<_> =
            (1..1024).map(|port| nat.connection_slot(&key(port))).collect();
        assert!(low.len() > 40 && !low.contains(&None), "ports out of the range go by hash");
        let outside = FlowKey::v4(protocol::TCP, 0xc633_6407, 80, 0xc633_6408, 81).0;
        assert_eq!(nat.connection_slot(&outside), None);
    }

    #[test]
    fn a_mapping_is_sixteen_bytes() {
        assert_eq!(size_of::<Mapping>(), 16);
    }
}
