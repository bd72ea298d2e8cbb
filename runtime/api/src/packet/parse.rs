//! From a frame to its identity and the places of its headers.
//!
//! Ethernet with IPv4 without options and TCP or UDP takes a short path; everything else walks, layer by layer:
//! link and tags, outer IP, tunnels, transport, the packet an ICMP error quotes. Lengths the headers state are
//! honoured where they make sense, and nothing behind the captured bytes is needed.
//!
//! Bounds: 12 tags, 4 tunnels, 16 extension headers each, 65,535 bytes (offsets are 16 bits; what lies behind is
//! not looked at).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::Range;

use super::ethernet::{ETHERNET_LEN, EtherType};
use super::icmp::{self, ECHO_IDENTIFIER, ECHO_NEEDED, ICMP_LEN, ICMP_NEEDED};
use super::ipv4::{self, IPV4_LEN};
use super::ipv6;
use super::link::{self, LinkType};
use super::tcp::{TCP_FLAGS, TCP_LEN, TCP_NEEDED};
use super::tunnel::{self, TUNNELS_MAX};
use super::udp::{PORTS_NEEDED, UDP_LEN};
use super::{Fragment, IpPacket, Ipv4Header, Ipv6Header, ParseReason, be16, protocol, view};
use crate::identity::{Direction, FlowKey, Identity};

/// What kind of packet a frame holds: a set of facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketKind(u8);

impl PacketKind {
    /// The innermost IP header is IPv4.
    pub const IPV4: PacketKind = PacketKind(0x01);
    /// The innermost IP header is IPv6.
    pub const IPV6: PacketKind = PacketKind(0x02);
    /// The identity comes from inside a tunnel, or from a tunnelled packet that an ICMP error quotes.
    pub const TUNNELLED: PacketKind = PacketKind(0x04);
    /// The packet, or a tunnel around it, is the fragment at offset 0: later ones have the same
    /// [`fragment_id`].
    pub const FIRST_FRAGMENT: PacketKind = PacketKind(0x08);
    /// A fragment without transport header: its key has ports 0.
    pub const LATER_FRAGMENT: PacketKind = PacketKind(0x10);
    /// An ICMP error: key and direction come from the packet it quotes.
    pub const ICMP_ERROR: PacketKind = PacketKind(0x20);
    /// The needed part of the transport header is there.
    pub const HAS_L4: PacketKind = PacketKind(0x40);

    /// True when all facts of `other` hold.
    #[inline]
    pub const fn contains(self, other: PacketKind) -> bool {
        self.0 & other.0 == other.0
    }

    /// The facts of both.
    #[inline]
    #[must_use]
    pub const fn with(self, other: PacketKind) -> PacketKind {
        PacketKind(self.0 | other.0)
    }

    #[inline]
    const fn with_if(self, condition: bool, other: PacketKind) -> PacketKind {
        if condition { self.with(other) } else { self }
    }
}

/// What [`parse`] found. Offsets are from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The connection, [`FlowKey::NONE`] without addresses. That of an ICMP error is the quoted packet's.
    pub key: FlowKey,
    /// The way of this packet between the endpoints of the key; that of an ICMP error is against the quoted packet.
    pub direction: Direction,
    /// Facts.
    pub kind: PacketKind,
    /// Protocol of the innermost IP packet (behind extension headers); of an ICMP error ICMP, unlike its key's.
    pub protocol: u8,
    /// TCP flags, 0 for other protocols.
    pub tcp_flags: u8,
    /// Offset of the innermost IP header; meaningful when the key has addresses.
    pub l3: u16,
    /// Offset of the outermost IP header, equal to `l3` without tunnels.
    pub outer_l3: u16,
    /// Offset of the transport header, 0 when there is none (a later fragment, or cut).
    pub l4: u16,
    /// Where the innermost IP packet ends: by its length field or because the capture does.
    pub end: u16,
    /// Why the packet was not understood to its end.
    pub reason: Option<ParseReason>,
}

impl Parsed {
    fn without_addresses(reason: ParseReason) -> Parsed {
        Parsed {
            key: FlowKey::NONE,
            direction: Direction::default(),
            kind: PacketKind::default(),
            protocol: 0,
            tcp_flags: 0,
            l3: 0,
            outer_l3: 0,
            l4: 0,
            end: 0,
            reason: Some(reason),
        }
    }

    /// Key and direction.
    #[inline]
    pub const fn identity(&self) -> Identity {
        Identity { key: self.key, direction: self.direction }
    }

    /// True when `fact` holds.
    #[inline]
    pub const fn is(&self, fact: PacketKind) -> bool {
        self.kind.contains(fact)
    }

    /// How much of a frame is its header region: to the end of the transport header, and of a quoted packet's
    /// headers; of what has none, a little more than the IP header.
    #[inline]
    pub fn head_len(&self, frame: &[u8]) -> usize {
        if self.l4 == 0 || self.is(PacketKind::ICMP_ERROR) {
            return usize::from(self.l4.max(self.l3)) + ICMP_LEN + 60 + 60 + TCP_LEN;
        }
        usize::from(self.l4) + self.transport_len(frame)
    }

    /// Length of the transport header, as it says itself; at least what every such header has.
    #[inline]
    fn transport_len(&self, frame: &[u8]) -> usize {
        match self.protocol {
            protocol::TCP => {
                let words = frame.get(usize::from(self.l4) + 12).map_or(0, |byte| byte >> 4);
                (usize::from(words) * 4).max(TCP_LEN)
            }
            protocol::ICMP | protocol::ICMPV6 => ICMP_LEN,
            other if protocol::has_ports(other) => UDP_LEN,
            _ => 0,
        }
    }

    /// The captured bytes behind the transport header of `frame`, from which this was parsed; empty without a
    /// transport header or when the header alone fills the packet. Of a protocol without a known header: all.
    pub fn payload<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        frame.get(self.payload_range(frame)).unwrap_or_default()
    }

    /// Where the payload lies in the frame; `frame` needs to hold it as far as the transport header only.
    pub fn payload_range(&self, frame: &[u8]) -> Range<usize> {
        let l4 = usize::from(self.l4);
        if self.l4 == 0 {
            return 0..0;
        }
        let end = usize::from(self.end);
        (l4 + self.transport_len(frame)).min(end)..end
    }
}

const FRAME_LEN_MAX: usize = u16::MAX as usize;
const PLAIN_L4: usize = ETHERNET_LEN + IPV4_LEN;
const PLAIN_LEN: usize = PLAIN_L4 + TCP_NEEDED;

/// Parses a frame of a capture with this link type. Never fails: what is not understood is a reason, and there is
/// a key as soon as the addresses of an IP packet are known.
#[inline(always)]
pub fn parse(link: LinkType, frame: &[u8]) -> Parsed {
    if link == LinkType::ETHERNET
        && let Some(head) = frame.first_chunk()
        && is_plain(head)
    {
        return parse_plain(head, frame.len());
    }
    parse_layers(link, frame)
}

const PLAIN_L3: usize = ETHERNET_LEN;

#[inline(always)]
fn word(head: &[u8; PLAIN_LEN], at: usize) -> u16 {
    u16::from_be_bytes([head[at], head[at + 1]])
}

/// True for Ethernet with IPv4 without options or fragments and TCP or UDP, as far as they are needed.
#[inline(always)]
fn is_plain(head: &[u8; PLAIN_LEN]) -> bool {
    let fragment = word(head, PLAIN_L3 + 6) & (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET);
    // A UDP packet too short for a TCP header is left to the long way.
    matches!(head[PLAIN_L3 + 9], protocol::TCP | protocol::UDP)
        && word(head, PLAIN_L3 - 2) == EtherType::IPV4.0
        && head[PLAIN_L3] == 0x45
        && fragment == 0
        && usize::from(word(head, PLAIN_L3 + 2)) >= IPV4_LEN + TCP_NEEDED
}

/// The short path.
#[inline(always)]
fn parse_plain(head: &[u8; PLAIN_LEN], frame_len: usize) -> Parsed {
    let address = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let protocol = head[PLAIN_L3 + 9];
    let (src, dst) = (address(PLAIN_L3 + 12), address(PLAIN_L3 + 16));
    let (key, direction) = FlowKey::v4(protocol, src, word(head, PLAIN_L4), dst, word(head, PLAIN_L4 + 2));
    let end = PLAIN_L3 + usize::from(word(head, PLAIN_L3 + 2));
    Parsed {
        key,
        direction,
        kind: PacketKind::IPV4.with(PacketKind::HAS_L4),
        protocol,
        tcp_flags: if protocol == protocol::TCP { head[PLAIN_L4 + TCP_FLAGS] } else { 0 },
        l3: PLAIN_L3 as u16,
        outer_l3: PLAIN_L3 as u16,
        l4: PLAIN_L4 as u16,
        end: end.min(frame_len).min(FRAME_LEN_MAX) as u16,
        reason: None,
    }
}

#[inline(never)]
fn parse_layers(link: LinkType, frame: &[u8]) -> Parsed {
    let frame = &frame[..frame.len().min(FRAME_LEN_MAX)];
    let outer = link::ip_offset(link, frame).and_then(|l3| IpPacket::read(frame, l3, frame.len()));
    match outer {
        Ok(outer) => describe(frame, &outer),
        Err(reason) => Parsed::without_addresses(reason),
    }
}

/// The end of a walk through tunnels.
struct Innermost {
    ip: IpPacket,
    tunnelled: bool,
    /// A packet on the way was a first fragment.
    first_fragment: bool,
    /// Why a tunnel could not be entered.
    reason: Option<ParseReason>,
}

fn innermost(frame: &[u8], outer: &IpPacket) -> Innermost {
    let mut walk = Innermost { ip: *outer, tunnelled: false, first_fragment: false, reason: None };
    for depth in 0..=TUNNELS_MAX {
        walk.first_fragment |= walk.ip.fragment == Fragment::First;
        let Some(l3) = tunnel::inner_ip(frame, &walk.ip).filter(|_| depth < TUNNELS_MAX) else { break };
        match IpPacket::read(frame, l3, walk.ip.end) {
            Ok(inner) => (walk.ip, walk.tunnelled) = (inner, true),
            Err(reason) => {
                walk.reason = Some(reason);
                break;
            }
        }
    }
    walk
}

/// What of a transport header goes into the result.
#[derive(Clone, Copy, Default)]
struct Transport {
    src_port: u16,
    dst_port: u16,
    tcp_flags: u8,
}

/// Reads the transport header of `ip`, `None` when there is none. A quoted header needs no more than its ports.
fn transport(frame: &[u8], ip: &IpPacket, is_quoted: bool) -> Result<Option<Transport>, ParseReason> {
    if let Some(reason) = ip.cut {
        return Err(reason);
    }
    if ip.fragment == Fragment::Later {
        return Ok(None);
    }
    let body = ip.body(frame);
    let is_icmp = ip.is_icmp();
    let is_echo = is_icmp && body.first().is_some_and(|&kind| icmp::is_echo(ip.v6, kind));
    let needed = match ip.protocol {
        protocol::TCP if !is_quoted => TCP_NEEDED,
        other if protocol::has_ports(other) => PORTS_NEEDED,
        _ if is_echo => ECHO_NEEDED,
        _ if is_icmp => ICMP_NEEDED,
        _ => 0,
    };
    if body.len() < needed {
        return Err(ParseReason::TruncatedTransport);
    }
    let ports = match ip.protocol {
        other if protocol::has_ports(other) => be16(body, 0).zip(be16(body, 2)),
        _ if is_echo => be16(body, ECHO_IDENTIFIER).map(|identifier| (identifier, identifier)),
        _ => None,
    };
    let (src_port, dst_port) = ports.unwrap_or_default();
    let flags = if ip.protocol == protocol::TCP { body.get(TCP_FLAGS).copied() } else { None };
    Ok(Some(Transport { src_port, dst_port, tcp_flags: flags.unwrap_or(0) }))
}

/// Key and direction from the addresses of `ip` and these ports; [`FlowKey::NONE`] cannot happen for a packet that
/// was read.
fn key_of(frame: &[u8], ip: &IpPacket, ports: Transport) -> (FlowKey, Direction) {
    let Transport { src_port, dst_port, .. } = ports;
    if ip.v6 {
        view::<Ipv6Header>(frame, ip.l3)
            .map(|h| FlowKey::v6(ip.protocol, h.src.get(), src_port, h.dst.get(), dst_port))
    } else {
        view::<Ipv4Header>(frame, ip.l3)
            .map(|h| FlowKey::v4(ip.protocol, h.src.get(), src_port, h.dst.get(), dst_port))
    }
    .unwrap_or_default()
}

/// Key of the packet an ICMP error at the payload of `ip` quotes, the direction of the error, and whether the key
/// comes from inside a quoted tunnel; `None` when the quotation does not say.
fn quoted_key(frame: &[u8], ip: &IpPacket) -> Option<(FlowKey, Direction, bool)> {
    let quoted = icmp::quoted_packet(frame, ip.payload, ip.end, ip.v6)?;
    let walk = innermost(frame, &quoted);
    let ports = transport(frame, &walk.ip, true).ok()?.unwrap_or_default();
    let (key, direction) = key_of(frame, &walk.ip, ports);
    Some((key, direction.reverse(), walk.tunnelled))
}

fn describe(frame: &[u8], outer: &IpPacket) -> Parsed {
    let Innermost { ip, mut tunnelled, first_fragment, mut reason } = innermost(frame, outer);
    let header = transport(frame, &ip, false).unwrap_or_else(|cut| {
        reason = Some(cut);
        None
    });
    let ports = header.unwrap_or_default();
    let (mut key, mut direction) = key_of(frame, &ip, ports);
    let is_later = ip.fragment == Fragment::Later;
    let mut kind = if ip.v6 { PacketKind::IPV6 } else { PacketKind::IPV4 }
        .with_if(header.is_some(), PacketKind::HAS_L4)
        .with_if(is_later, PacketKind::LATER_FRAGMENT)
        .with_if(first_fragment && !is_later, PacketKind::FIRST_FRAGMENT);
    if ip.is_icmp() && header.is_some() && icmp::is_error(ip.v6, frame[ip.payload]) {
        match quoted_key(frame, &ip) {
            Some((quoted, against, in_tunnel)) => {
                (key, direction) = (quoted, against);
                kind = kind.with(PacketKind::ICMP_ERROR);
                tunnelled |= in_tunnel;
            }
            None => reason = Some(ParseReason::BadQuote),
        }
    }
    Parsed {
        key,
        direction,
        kind: kind.with_if(tunnelled, PacketKind::TUNNELLED),
        protocol: ip.protocol,
        tcp_flags: ports.tcp_flags,
        l3: ip.l3 as u16,
        outer_l3: outer.l3 as u16,
        l4: if header.is_some() { ip.payload as u16 } else { 0 },
        end: ip.end as u16,
        reason,
    }
}

/// What the fragments of one packet have in common (RFC 791, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentId {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Protocol; of IPv6 always 44, as there the protocol is no part of the identification.
    pub protocol: u8,
    /// Identification.
    pub ident: u32,
}

/// Which packet a fragment belongs to: a first fragment gives the id under which its later fragments come. `None`
/// for packets that are no fragments.
pub fn fragment_id(frame: &[u8], parsed: &Parsed) -> Option<FragmentId> {
    let frame = &frame[..frame.len().min(FRAME_LEN_MAX)];
    let start = if parsed.is(PacketKind::LATER_FRAGMENT) {
        parsed.l3
    } else if parsed.is(PacketKind::FIRST_FRAGMENT) {
        parsed.outer_l3
    } else {
        return None;
    };
    // It may be a tunnel around the packet that is fragmented.
    let mut ip = IpPacket::read(frame, usize::from(start), frame.len()).ok()?;
    for _ in 0..TUNNELS_MAX {
        if ip.fragment != Fragment::Whole {
            break;
        }
        ip = IpPacket::read(frame, tunnel::inner_ip(frame, &ip)?, ip.end).ok()?;
    }
    if ip.v6 {
        let header: &Ipv6Header = view(frame, ip.l3)?;
        let (src, dst) = (Ipv6Addr::from_bits(header.src.get()), Ipv6Addr::from_bits(header.dst.get()));
        Some(FragmentId { src: src.into(), dst: dst.into(), protocol: ipv6::FRAGMENT, ident: ip.ident })
    } else {
        let header: &Ipv4Header = view(frame, ip.l3)?;
        let (src, dst) = (Ipv4Addr::from_bits(header.src.get()), Ipv4Addr::from_bits(header.dst.get()));
        Some(FragmentId { src: src.into(), dst: dst.into(), protocol: ip.protocol, ident: ip.ident })
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
