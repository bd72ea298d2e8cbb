//! Network address and port translator for IPv4 TCP, UDP and ICMP echo.
//!
//! **Ports.** One input, one output. Packets of internal hosts to the outside leave with an external
//! address and port; packets to an external address are translated back, or dropped
//! (`nat_no_mapping`) when nothing is translated to it. Everything else passes unchanged: what stays
//! inside or outside, other protocols, tunnels, IPv6; it is counted. A packet that arrives for an
//! internal host without having been translated belongs to its connection and passes unchanged, too.
//!
//! **Keys.** `internal`: prefixes of internal hosts. `external`: addresses to translate to. `ports`:
//! range of external ports (and echo identifiers). `idle_s`: how long a translation may be idle.
//! `linger_s`: how long a closed TCP connection keeps its own. `port_order`: whether ports are taken in
//! the order of packets (`clock`) or in any serial order (`serial`).
//!
//! **State** (the paper's Table 4).
//!
//! | object | scope | access | consistency |
//! |---|---|---|---|
//! | `free_ports`: available ports | global | write/read often | `port_order` |
//! | `packets_total`, `packets_tcp`, `passed_ipv6`, `passed_unchanged` | global | write mostly, read rarely | commutative |
//! | `mapping`: port mapping of a connection | 5-tuple | write rarely, read mostly | clock |
//!
//! **Theory.** The external address of an internal host is always the same, given by a hash of the
//! host; only the port is a choice. Ports are drawn, per external address and protocol, from the share
//! of the slot the connection belongs to: the slot of a packet from outside follows from its port
//! alone. A mapping serves one connection (RFC 4787's address- and port-dependent mapping and
//! filtering). A TCP connection is closed by a RST, or by a FIN of each side; its port is given back
//! after `linger_s`, that of any connection after `idle_s` without packets. The idle timer moves only
//! when it would move by more than 1/16 of the idle time, so ordinary packets write nothing. ICMP
//! errors are translated with what they quote (RFC 5508), and neither refresh nor close a mapping
//! (its REQ-6). Fragments behind the first have no ports: only their address changes.

mod config;

pub use config::NatConfig;

use crate::closing::{self, CLOSED, FIN_IN, FIN_OUT};
use crate::config::Prefix;
use crate::locate::{Place, Shape, class, ends, locate, plain, travelling};
use crate::rewrite::{self, Address, End};
use chc_api::nf::FlowLookup;
use chc_api::packet::{Ipv4Header, PacketKind, protocol, tcp, view};
use chc_api::state::FlowOptions;
use chc_api::{
    Context, Counter, Declarations, Direction, Event, EventKind, Flow, FlowKey, Identity, NetworkFunction,
    ObjectKey, Passing, Pool, Resolution, Scope, Slot, Time, TimerEvent, Verdict,
};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const NO_MAPPING: Verdict = Verdict::Drop("nat_no_mapping");
const PORTS_EXHAUSTED: Verdict = Verdict::Drop("nat_ports_exhausted");

/// The only timer of a mapping: idle, or lingering after the close.
const IDLE: u8 = 0;

/// The translation of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Mapping {
    /// External IPv4 address.
    pub external: u32,
    /// External port or echo identifier.
    pub port: u16,
    /// TCP state: 1 and 2 after a FIN from inside and outside, 4 when closed.
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

/// The translator.
#[derive(Clone)]
pub struct Nat {
    internal: Arc<[Prefix]>,
    /// In the order of the configuration: an index into it is part of a pool's key.
    external: Arc<[u32]>,
    shares: Shares,
    slots: u16,
    seed: u64,
    idle: Duration,
    linger: Duration,
    mapping: Flow<Mapping>,
    free_ports: Pool,
    packets_total: Counter,
    packets_tcp: Counter,
    passed_ipv6: Counter,
    passed_unchanged: Counter,
}

impl Nat {
    /// The translator of a vertex with this many slots and this hash seed, and its declarations.
    #[must_use]
    pub fn new(config: &NatConfig, slots: u16, seed: u64, declarations: &mut Declarations) -> Self {
        let (low, high) = config.ports;
        let len = u64::from(high - low) + 1;
        let shares = Shares { first: u64::from(low), len, slots: u64::from(slots.max(1)) };
        let timeout_min = config.idle.min(config.linger);
        Self {
            internal: config.internal.clone().into(),
            external: config.external.iter().map(|address| address.to_bits()).collect(),
            shares,
            slots: slots.max(1),
            seed,
            idle: config.idle,
            linger: config.linger,
            mapping: declarations
                .flow("mapping", FlowOptions { timers: 1, timeout_min, index: Some(index_of) }),
            free_ports: declarations.pool(
                "free_ports",
                config.port_order,
                Arc::new(move |key| shares.of_slot(key & 0xffff)),
            ),
            packets_total: declarations.counter("packets_total"),
            packets_tcp: declarations.counter("packets_tcp"),
            passed_ipv6: declarations.counter("passed_ipv6"),
            passed_unchanged: declarations.counter("passed_unchanged"),
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
            _ if self.is_external(to) => Way::Back,
            (true, false) => Way::Out,
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
        if mapping.state & CLOSED == 0 && self.moves(cx.now(), due) {
            return None;
        }
        // By the addresses it has now: another function may have changed them.
        let header = view::<Ipv4Header>(cx.header(), place.l3)?;
        let way = self.way(header.src.get(), header.dst.get());
        if !matches!(way, Way::Out | Way::In) {
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
    fn moves(&self, now: Time, due: Option<Time>) -> bool {
        let deadline = now + self.idle;
        due.is_none_or(|due| deadline.0.saturating_sub(due.0) > self.idle.as_nanos() as u64 / 16)
    }

    /// A packet from inside to outside.
    async fn outbound<C: Context>(&self, cx: &C, at: &Place, from: u32) -> Verdict {
        let known = cx.get_with_timer(self.mapping, IDLE);
        let due = known.and_then(|(_, due)| due);
        let mapping = match (known, at.shape) {
            (Some((mapping, _)), _) => mapping,
            (None, Shape::Whole) => match self.open(cx, from).await {
                Some(mapping) => mapping,
                None => return PORTS_EXHAUSTED,
            },
            (None, Shape::Later) => {
                let by = Address { ip: self.external[self.external_of(from)], port: 0 };
                cx.rewrite(|header| rewrite::replace_end(header, at.places, End::Source, by));
                return Verdict::Forward;
            }
            // RFC 5508, REQ-5.
            (None, Shape::Error) => return NO_MAPPING,
        };
        let by = Address { ip: mapping.external, port: mapping.port };
        if let (Shape::Error, Some(quoted)) = (at.shape, at.quoted) {
            cx.rewrite(|header| {
                rewrite::replace(header, at.places.without_l4(), End::Source, by);
                rewrite::replace_quoted(header, at.l4, quoted, End::Destination, by);
            });
        } else {
            let due = due.or_else(|| cx.armed(self.mapping, IDLE));
            self.advance(cx, mapping, due, at.tcp_flags, FIN_OUT);
            cx.rewrite(|header| rewrite::replace_end(header, at.places, End::Source, by));
        }
        Verdict::Forward
    }

    /// A packet to an external address, whose identity is the internal host's connection if there is
    /// one.
    fn inbound<C: Context>(&self, cx: &C, at: &Place, to: u32) -> Verdict {
        let known = cx.get_with_timer(self.mapping, IDLE);
        let Some((mapping, due)) = known.filter(|(mapping, _)| mapping.external == to) else {
            return NO_MAPPING;
        };
        let identity = cx.identity();
        let Some((_, inner)) = travelling(&identity) else { return NO_MAPPING };
        if let (Shape::Error, Some(quoted)) = (at.shape, at.quoted) {
            cx.rewrite(|header| {
                rewrite::replace(header, at.places.without_l4(), End::Destination, inner);
                rewrite::replace_quoted(header, at.l4, quoted, End::Source, inner);
            });
        } else {
            self.advance(cx, mapping, due, at.tcp_flags, FIN_IN);
            cx.rewrite(|header| rewrite::replace_end(header, at.places, End::Destination, inner));
        }
        Verdict::Forward
    }

    /// Gives this connection of host `from` a port.
    async fn open<C: Context>(&self, cx: &C, from: u32) -> Option<Mapping> {
        let identity = cx.identity();
        let key = identity.key;
        let slot = Scope::FiveTuple.slot(&key, key.hash(self.seed), self.seed, self.slots);
        let external = self.external_of(from);
        let pool = Self::pool_key(external, class(key.protocol())?, u64::from(slot));
        let port = cx.acquire(self.free_ports, pool).await?;
        let owner = cx.position().clock.0;
        let mapping = Mapping { external: self.external[external], port: port as u16, state: 0, owner };
        cx.put(self.mapping, mapping);
        cx.arm(self.mapping, IDLE, cx.now() + self.idle, false);
        let kind = EventKind::Nat { opened: true, external: mapping.external, port: mapping.port };
        cx.event(Event { kind, key, direction: identity.direction });
        Some(mapping)
    }

    /// What a packet's TCP flags (0 for other protocols) and its mere arrival do to the mapping.
    /// `fin` tells the side it comes from.
    #[inline]
    fn advance<C: Context>(&self, cx: &C, mapping: Mapping, due: Option<Time>, tcp_flags: u8, fin: u16) {
        let state = closing::after(mapping.state, tcp_flags, fin);
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
        if was_closed || self.moves(cx.now(), due) {
            cx.arm(self.mapping, IDLE, cx.now() + self.idle, false);
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
                        self.advance(&cx, mapping, due, at.tcp_flags, FIN_IN);
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
        if let (Some(external), Some(class), Some(slot)) =
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
        let external = [destination, source].into_iter().find(|end| self.is_external(end.ip))?;
        self.shares.slot_of(external.port).map(|slot| Slot(slot as u16))
    }

    fn resolve<L: FlowLookup>(&self, identity: &Identity, records: &L) -> Resolution {
        let Some((source, destination)) = travelling(identity) else { return Resolution::Known };
        if !self.is_external(destination.ip) {
            return Resolution::Known;
        }
        let protocol = identity.key.protocol();
        let Some(class) = class(protocol) else { return Resolution::Known };
        let found = records.find(self.mapping, index(destination.ip, class, destination.port));
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
    fn a_mapping_is_sixteen_bytes() {
        assert_eq!(size_of::<Mapping>(), 16);
    }
}
