//! Ethernet frames from a short description, with valid lengths and checksums.
//!
//! A [`Packet`] is plain data and gives the same bytes whenever it is written, so that retransmissions, fragments and
//! the quotations of ICMP errors need no copy of what went before.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use chc_api::identity::Endpoint;
use chc_api::packet::{Checksum, protocol};

use super::rng::mix;

/// Shortest frame: Ethernet's minimum, counted as a switch would.
pub(super) const FRAME_LEN_MIN: usize = 64;
/// Longest frame: Ethernet's header and 1,500 bytes.
pub(super) const FRAME_LEN_MAX: usize = 1_514;
/// Bytes of a datagram in each of its fragments but the last; a multiple of 8.
pub(super) const FRAGMENT_LEN: usize = 1_400;

const ETHERNET_LEN: usize = 14;
const VLAN_LEN: usize = 4;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const MORE_FRAGMENTS: u16 = 0x2000;
const DO_NOT_FRAGMENT: u16 = 0x4000;

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;

/// What follows the IP header.
#[derive(Clone, Copy, Debug)]
pub(super) enum Transport {
    /// A segment; SYNs carry a maximum segment size.
    Tcp { seq: u32, ack: u32, flags: u8 },
    /// A datagram; over IPv4 the checksum may be left out.
    Udp { checksum: bool },
    /// An echo request or reply; the identifier is the source endpoint's port.
    Echo { reply: bool, seq: u16 },
}

/// One packet before it is bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) src: Endpoint,
    pub(super) dst: Endpoint,
    pub(super) transport: Transport,
    pub(super) payload_len: usize,
    /// Decides the payload's bytes and the IP identification.
    pub(super) nonce: u64,
    pub(super) vlan: Option<u16>,
}

/// Overwrites `frame` with the packet.
pub(super) fn write(frame: &mut Vec<u8>, packet: &Packet) {
    let l3 = write_link(frame, packet);
    write_ip(frame, packet);
    debug_assert!(frame.len() - l3 <= FRAME_LEN_MAX - ETHERNET_LEN);
    pad(frame);
}

/// Overwrites `frame` with the (IPv4, TCP) packet, whose payload is this text.
pub(super) fn write_text(frame: &mut Vec<u8>, packet: &Packet, text: &[u8]) {
    let l3 = write_link(frame, &Packet { payload_len: text.len(), ..*packet });
    write_ip(frame, &Packet { payload_len: text.len(), ..*packet });
    let (l4, payload) = (l3 + IPV4_LEN, frame.len() - text.len());
    frame[payload..].copy_from_slice(text);
    put16(frame, l4 + 16, 0);
    let checksum = pseudo(packet, protocol::TCP, frame.len() - l4).bytes(&frame[l4..]).finish();
    put16(frame, l4 + 16, checksum);
    pad(frame);
}

/// Overwrites `frame` with the fragment of the (IPv4) packet whose payload begins at `offset`.
pub(super) fn write_fragment(frame: &mut Vec<u8>, packet: &Packet, offset: usize) {
    let l3 = write_link(frame, packet);
    write_ip(frame, packet);
    let body = l3 + IPV4_LEN;
    let body_len = frame.len() - body;
    let offset = offset.min(body_len);
    let end = (offset + FRAGMENT_LEN).min(body_len);
    frame.copy_within(body + offset..body + end, body);
    frame.truncate(body + end - offset);
    let more = if end < body_len { MORE_FRAGMENTS } else { 0 };
    put16(frame, l3 + 2, (IPV4_LEN + end - offset) as u16);
    put16(frame, l3 + 6, more | (offset / 8) as u16);
    seal_ipv4(frame, l3);
    pad(frame);
}

/// Overwrites `frame` with a "port unreachable" (`port`) or "host unreachable" of `reporter`, which quotes `cause`.
pub(super) fn write_unreachable(
    frame: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
    reporter: IpAddr,
    cause: &Packet,
    port: bool,
) {
    let cause_l3 = write_link(scratch, cause);
    write_ip(scratch, cause);
    let ip_len = if cause.src.addr.is_ipv4() { IPV4_LEN } else { IPV6_LEN };
    // RFC 792: the header and the first 8 bytes. RFC 4443 quotes as much as fits 1,280 bytes.
    let quote_len = if cause.src.addr.is_ipv4() { ip_len + 8 } else { 1_232.min(scratch.len() - cause_l3) };
    let quote = scratch.get(cause_l3..cause_l3 + quote_len).unwrap_or_default();
    let error = Packet { src: Endpoint { addr: reporter, port: 0 }, dst: cause.src, ..*cause };
    let l3 = write_link(frame, &error);
    let (kind, number) = match (reporter, port) {
        (IpAddr::V4(_), true) => ([3, 3], protocol::ICMP),
        (IpAddr::V4(_), false) => ([3, 1], protocol::ICMP),
        (IpAddr::V6(_), true) => ([1, 4], protocol::ICMPV6),
        (IpAddr::V6(_), false) => ([1, 3], protocol::ICMPV6),
    };
    let l4 = begin_ip(frame, &error, number, 8 + quote.len());
    frame.extend_from_slice(&kind);
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(quote);
    seal_icmp(frame, l3, l4);
    pad(frame);
}

/// Overwrites `frame` with one that no parser should accept in full; `variant` chooses what is wrong with it. The
/// packet is IPv4.
pub(super) fn write_malformed(frame: &mut Vec<u8>, packet: &Packet, variant: u64) {
    let l3 = write_link(frame, packet);
    write_ip(frame, packet);
    let l4 = l3 + IPV4_LEN;
    match variant % 8 {
        // A header length below the shortest header.
        0 => frame[l3] = 0x43,
        // A version that does not exist.
        1 => frame[l3] = 0x75,
        // An IP header cut by the end of the frame.
        2 => frame.truncate(l3 + 12),
        // Ethernet's type says ARP.
        3 => put16(frame, l3 - 2, 0x0806),
        // An 802.3 length instead of a type.
        4 => put16(frame, l3 - 2, 46),
        // A transport header cut by IP's own length.
        5 => {
            put16(frame, l3 + 2, (IPV4_LEN + 3) as u16);
            seal_ipv4(frame, l3);
        }
        // A total length below the header's.
        6 => {
            put16(frame, l3 + 2, 12);
            seal_ipv4(frame, l3);
        }
        // A transport checksum that is wrong.
        _ => frame[l4 + 4] ^= 0x5a,
    }
    // The cut one stays cut; the others are padded as any frame.
    if variant % 8 != 2 {
        pad(frame);
    }
}

/// Link header; returns where the IP header goes.
fn write_link(frame: &mut Vec<u8>, packet: &Packet) -> usize {
    frame.clear();
    frame.extend_from_slice(&mac(packet.dst.addr));
    frame.extend_from_slice(&mac(packet.src.addr));
    if let Some(tag) = packet.vlan {
        frame.extend_from_slice(&0x8100u16.to_be_bytes());
        frame.extend_from_slice(&tag.to_be_bytes());
    }
    let kind: u16 = if packet.src.addr.is_ipv4() { 0x0800 } else { 0x86dd };
    frame.extend_from_slice(&kind.to_be_bytes());
    ETHERNET_LEN + if packet.vlan.is_some() { VLAN_LEN } else { 0 }
}

/// A locally administered address made from the host's.
fn mac(addr: IpAddr) -> [u8; 6] {
    let [.., a, b, c, d] = match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    };
    [2, 0, a, b, c, d]
}

/// Appends IP header, transport header and payload.
fn write_ip(frame: &mut Vec<u8>, packet: &Packet) {
    let l3 = frame.len();
    let v6 = packet.src.addr.is_ipv6();
    let (number, header_len) = match packet.transport {
        Transport::Tcp { flags, .. } => (protocol::TCP, if flags & SYN != 0 { 24 } else { 20 }),
        Transport::Udp { .. } => (protocol::UDP, 8),
        Transport::Echo { .. } => (if v6 { protocol::ICMPV6 } else { protocol::ICMP }, 8),
    };
    let len = header_len + packet.payload_len;
    let l4 = begin_ip(frame, packet, number, len);
    match packet.transport {
        Transport::Tcp { seq, ack, flags } => {
            push_ports(frame, packet);
            frame.extend_from_slice(&seq.to_be_bytes());
            frame.extend_from_slice(&ack.to_be_bytes());
            frame.extend_from_slice(&[(header_len as u8 / 4) << 4, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
            if flags & SYN != 0 {
                frame.extend_from_slice(&[2, 4, 0x05, 0xb4]);
            }
            fill(frame, packet);
            let checksum = pseudo(packet, number, len).bytes(&frame[l4..]).finish();
            put16(frame, l4 + 16, checksum);
        }
        Transport::Udp { checksum } => {
            push_ports(frame, packet);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
            frame.extend_from_slice(&[0, 0]);
            fill(frame, packet);
            if checksum || v6 {
                let checksum = pseudo(packet, number, len).bytes(&frame[l4..]).finish_udp();
                put16(frame, l4 + 6, checksum);
            }
        }
        Transport::Echo { reply, seq } => {
            let kind = match (v6, reply) {
                (false, false) => 8,
                (false, true) => 0,
                (true, false) => 128,
                (true, true) => 129,
            };
            frame.extend_from_slice(&[kind, 0, 0, 0]);
            frame.extend_from_slice(&packet.src.port.to_be_bytes());
            frame.extend_from_slice(&seq.to_be_bytes());
            fill(frame, packet);
            seal_icmp(frame, l3, l4);
        }
    }
}

/// Appends an IP header for `len` bytes of transport; returns where those begin.
fn begin_ip(frame: &mut Vec<u8>, packet: &Packet, number: u8, len: usize) -> usize {
    let l3 = frame.len();
    match (packet.src.addr, packet.dst.addr) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            frame.extend_from_slice(&[0x45, 0]);
            frame.extend_from_slice(&((IPV4_LEN + len) as u16).to_be_bytes());
            frame.extend_from_slice(&(packet.nonce as u16).to_be_bytes());
            frame.extend_from_slice(&DO_NOT_FRAGMENT.to_be_bytes());
            frame.extend_from_slice(&[64, number, 0, 0]);
            frame.extend_from_slice(&src.octets());
            frame.extend_from_slice(&dst.octets());
            seal_ipv4(frame, l3);
        }
        (src, dst) => {
            frame.extend_from_slice(&[0x60, 0, 0, 0]);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
            frame.extend_from_slice(&[number, 64]);
            frame.extend_from_slice(&v6(src).octets());
            frame.extend_from_slice(&v6(dst).octets());
        }
    }
    frame.len()
}

fn push_ports(frame: &mut Vec<u8>, packet: &Packet) {
    frame.extend_from_slice(&packet.src.port.to_be_bytes());
    frame.extend_from_slice(&packet.dst.port.to_be_bytes());
}

fn pseudo(packet: &Packet, number: u8, len: usize) -> Checksum {
    match (packet.src.addr, packet.dst.addr) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Checksum::pseudo_v4(src, dst, number, len as u16),
        (src, dst) => Checksum::pseudo_v6(v6(src), v6(dst), number, len as u32),
    }
}

fn v6(addr: IpAddr) -> Ipv6Addr {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped(),
        IpAddr::V6(addr) => addr,
    }
}

/// Appends the payload, which depends on the nonce alone.
fn fill(frame: &mut Vec<u8>, packet: &Packet) {
    let end = frame.len() + packet.payload_len;
    let mut word = packet.nonce;
    while frame.len() < end {
        word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bytes = mix(word).to_le_bytes();
        frame.extend_from_slice(&bytes[..(end - frame.len()).min(8)]);
    }
}

fn seal_ipv4(frame: &mut [u8], l3: usize) {
    put16(frame, l3 + 10, 0);
    let checksum = Checksum::of(&frame[l3..l3 + IPV4_LEN]);
    put16(frame, l3 + 10, checksum);
}

/// Checksum of the ICMP message at `l4`; ICMPv6 covers a pseudo-header too.
fn seal_icmp(frame: &mut [u8], l3: usize, l4: usize) {
    let start = if frame[l3] >> 4 == 4 {
        Checksum::new()
    } else {
        let address = |at: usize| -> Ipv6Addr {
            let mut octets = [0; 16];
            octets.copy_from_slice(&frame[at..at + 16]);
            octets.into()
        };
        Checksum::pseudo_v6(address(l3 + 8), address(l3 + 24), protocol::ICMPV6, (frame.len() - l4) as u32)
    };
    let checksum = start.bytes(&frame[l4..]).finish();
    put16(frame, l4 + 2, checksum);
}

fn put16(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn pad(frame: &mut Vec<u8>) {
    if frame.len() < FRAME_LEN_MIN {
        frame.resize(FRAME_LEN_MIN, 0);
    }
}

/// Address `number` of the IPv4 network that begins at `base`.
pub(super) fn v4_host(base: [u8; 4], number: u64) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(u32::from_be_bytes(base).wrapping_add(number as u32)))
}

/// Address `number` of 2001:db8:`site`::/64.
pub(super) fn v6_host(site: u16, number: u64) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, site, 0, 0, 0, (number >> 16) as u16, number as u16))
}
