//! Where the parts of a packet are that a translator changes.

use crate::rewrite::{Address, AnyAddress, Places, mapped};
use chc_api::identity::Endpoint;
use chc_api::packet::{self, Ipv4Header, Ipv6Header, PacketKind, Parsed, icmp, protocol};
use chc_api::{Direction, FlowKey, Identity};
use core::net::IpAddr;

/// What a packet has that can be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// TCP, UDP or an ICMP echo.
    Whole,
    /// A fragment without ports.
    Later,
    /// An ICMP error with the packet it quotes.
    Error,
}

/// A packet that can be translated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) shape: Shape,
    pub(crate) places: Places,
    /// Offset of the transport header.
    pub(crate) l4: usize,
    /// The packet an ICMP error quotes.
    pub(crate) quoted: Option<Places>,
    pub(crate) tcp_flags: u8,
}

/// The protocols that are translated, numbered.
pub(crate) fn class(protocol: u8) -> Option<u64> {
    match protocol {
        protocol::TCP => Some(0),
        protocol::UDP => Some(1),
        protocol::ICMP => Some(2),
        _ => None,
    }
}

/// A whole IPv4 packet of TCP or UDP without tunnels, and whether it is TCP: what most packets are.
#[inline]
pub(crate) fn plain(parsed: &Parsed) -> Option<(Places, bool)> {
    plain_of(parsed, PacketKind::IPV4)
}

/// [`plain`] for either family.
#[inline]
pub(crate) fn plain_any(parsed: &Parsed) -> Option<(Places, bool)> {
    plain(parsed).or_else(|| plain_of(parsed, PacketKind::IPV6))
}

#[inline]
fn plain_of(parsed: &Parsed, family: PacketKind) -> Option<(Places, bool)> {
    let is_tcp = parsed.protocol == protocol::TCP;
    let is_plain =
        parsed.kind == family.with(PacketKind::HAS_L4) && (is_tcp || parsed.protocol == protocol::UDP);
    let (l3, l4, end) = (usize::from(parsed.l3), usize::from(parsed.l4), usize::from(parsed.end));
    is_plain.then_some((Places { l3, l4: Some(l4), end, protocol: parsed.protocol }, is_tcp))
}

/// Where the parts of an IPv4 packet are that could be translated, and its addresses; `None` when nothing
/// could.
#[inline]
pub(crate) fn locate(header: &[u8], parsed: &Parsed) -> Option<(Place, u32, u32)> {
    if !parsed.is(PacketKind::IPV4) || parsed.is(PacketKind::TUNNELLED) {
        return None;
    }
    let ip: &Ipv4Header = packet::view(header, usize::from(parsed.l3))?;
    Some((place(header, parsed, false)?, ip.src.get(), ip.dst.get()))
}

/// [`locate`] for either family, with the address a packet comes from, an IPv4 one as it is mapped into IPv6. Of IPv6
/// echoes are none that could be translated.
pub(crate) fn locate_any(header: &[u8], parsed: &Parsed) -> Option<(Place, u128)> {
    if let Some((place, from, _)) = locate(header, parsed) {
        return Some((place, mapped(from)));
    }
    if !parsed.is(PacketKind::IPV6) || parsed.is(PacketKind::TUNNELLED) {
        return None;
    }
    let ip: &Ipv6Header = packet::view(header, usize::from(parsed.l3))?;
    Some((place(header, parsed, true)?, ip.src.get()))
}

#[inline]
fn place(header: &[u8], parsed: &Parsed, v6: bool) -> Option<Place> {
    let (l3, l4, end) = (usize::from(parsed.l3), usize::from(parsed.l4), usize::from(parsed.end));
    let mut quoted = None;
    let shape = if parsed.is(PacketKind::ICMP_ERROR) {
        quoted = Some(locate_quoted(header, parsed, v6)?);
        Shape::Error
    } else if !is_translatable(header, parsed.protocol, l4, v6, parsed.is(PacketKind::LATER_FRAGMENT)) {
        return None;
    } else if parsed.is(PacketKind::LATER_FRAGMENT) {
        Shape::Later
    } else if !parsed.is(PacketKind::HAS_L4) {
        return None;
    } else {
        Shape::Whole
    };
    // The checksum of ICMP does not cover the addresses, that of ICMPv6 does.
    let transport = (shape == Shape::Whole || v6 && shape == Shape::Error).then_some(l4);
    let places = Places { l3, l4: transport, end, protocol: parsed.protocol };
    Some(Place { shape, places, l4, quoted, tcp_flags: parsed.tcp_flags })
}

fn locate_quoted(header: &[u8], parsed: &Parsed, v6: bool) -> Option<Places> {
    let quote = packet::icmp_quote(header, parsed.l4, v6)?;
    let (l3, l4, end) = (usize::from(quote.l3), usize::from(quote.l4), usize::from(quote.end));
    let is_translatable = quote.l4 != 0 && is_translatable(header, quote.protocol, l4, v6, false);
    is_translatable.then_some(Places { l3, l4: Some(l4), end, protocol: quote.protocol })
}

/// Whether a protocol is one whose ports can be translated; `later`: they are not in this packet.
#[inline]
fn is_translatable(header: &[u8], protocol: u8, l4: usize, v6: bool, later: bool) -> bool {
    match protocol {
        protocol::TCP | protocol::UDP => true,
        protocol::ICMP => !v6 && (later || is_echo(header, l4)),
        _ => false,
    }
}

fn is_echo(header: &[u8], l4: usize) -> bool {
    header.get(l4).is_some_and(|kind| icmp::is_echo(false, *kind))
}

/// Both endpoints of an IPv4 key, low one first.
#[inline]
pub(crate) fn ends(key: &FlowKey) -> Option<(Address, Address)> {
    let [head, addresses] = key.v4_words()?;
    let low = Address { ip: (addresses >> 32) as u32, port: (head >> 16) as u16 };
    Some((low, Address { ip: addresses as u32, port: head as u16 }))
}

/// Both endpoints of a key of either family, low one first.
#[inline]
pub(crate) fn any_ends(key: &FlowKey) -> Option<(AnyAddress, AnyAddress)> {
    if let Some((low, high)) = ends(key) {
        return Some((low.into(), high.into()));
    }
    let any = |Endpoint { addr, port }| match addr {
        IpAddr::V4(ip) => Address { ip: mapped(ip.to_bits()), port },
        IpAddr::V6(ip) => Address { ip: ip.to_bits(), port },
    };
    (key.family() == 6).then(|| (any(key.low()), any(key.high())))
}

/// Source and destination of an identity of either family.
#[inline]
pub(crate) fn any_travelling(identity: &Identity) -> Option<(AnyAddress, AnyAddress)> {
    let (low, high) = any_ends(&identity.key)?;
    Some(if identity.direction == Direction::LowToHigh { (low, high) } else { (high, low) })
}

/// Source and destination of an IPv4 identity.
#[inline]
pub(crate) fn travelling(identity: &Identity) -> Option<(Address, Address)> {
    let (low, high) = ends(&identity.key)?;
    Some(if identity.direction == Direction::LowToHigh { (low, high) } else { (high, low) })
}
