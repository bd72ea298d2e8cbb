//! Where the parts of a packet are that a translator changes.

use crate::rewrite::{Address, Places};
use chc_api::packet::{self, Ipv4Header, PacketKind, Parsed, icmp, protocol};
use chc_api::{Direction, FlowKey, Identity};

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

/// A whole TCP or UDP packet without tunnels, and whether it is TCP: what most packets are.
#[inline]
pub(crate) fn plain(parsed: &Parsed) -> Option<(Places, bool)> {
    let whole = PacketKind::IPV4.with(PacketKind::HAS_L4);
    let is_tcp = parsed.protocol == protocol::TCP;
    let plain = parsed.kind == whole && (is_tcp || parsed.protocol == protocol::UDP);
    let (l3, l4, end) = (usize::from(parsed.l3), usize::from(parsed.l4), usize::from(parsed.end));
    plain.then_some((Places { l3, l4: Some(l4), end, protocol: parsed.protocol }, is_tcp))
}

/// Where the parts of a packet are that could be translated, and its addresses; `None` when nothing
/// could.
#[inline]
pub(crate) fn locate(header: &[u8], parsed: &Parsed) -> Option<(Place, u32, u32)> {
    if !parsed.is(PacketKind::IPV4) || parsed.is(PacketKind::TUNNELLED) {
        return None;
    }
    class(parsed.protocol)?;
    let (l3, l4, end) = (usize::from(parsed.l3), usize::from(parsed.l4), usize::from(parsed.end));
    let ip: &Ipv4Header = packet::view(header, l3)?;
    let mut quoted = None;
    let shape = if parsed.is(PacketKind::ICMP_ERROR) {
        quoted = Some(locate_quoted(header, parsed)?);
        Shape::Error
    } else if parsed.is(PacketKind::LATER_FRAGMENT) {
        Shape::Later
    } else if !parsed.is(PacketKind::HAS_L4) || parsed.protocol == protocol::ICMP && !is_echo(header, l4) {
        return None;
    } else {
        Shape::Whole
    };
    let transport = (shape == Shape::Whole).then_some(l4);
    let places = Places { l3, l4: transport, end, protocol: parsed.protocol };
    let place = Place { shape, places, l4, quoted, tcp_flags: parsed.tcp_flags };
    Some((place, ip.src.get(), ip.dst.get()))
}

fn locate_quoted(header: &[u8], parsed: &Parsed) -> Option<Places> {
    let quote = packet::icmp_quote(header, parsed.l4, false)?;
    let (l3, l4, end) = (usize::from(quote.l3), usize::from(quote.l4), usize::from(quote.end));
    class(quote.protocol)?;
    if quote.l4 == 0 || quote.protocol == protocol::ICMP && !is_echo(header, l4) {
        return None;
    }
    Some(Places { l3, l4: Some(l4), end, protocol: quote.protocol })
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

/// Source and destination of an IPv4 identity.
#[inline]
pub(crate) fn travelling(identity: &Identity) -> Option<(Address, Address)> {
    let (low, high) = ends(&identity.key)?;
    Some(if identity.direction == Direction::LowToHigh { (low, high) } else { (high, low) })
}
