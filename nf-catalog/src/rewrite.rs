//! Rewriting one end of a packet, with the checksums that cover it.
//!
//! Everything here goes by bytes that may be cut: what is not captured is left alone.

use chc_api::packet::icmp::ECHO_IDENTIFIER;
use chc_api::packet::{ChecksumDelta, Ipv4Header, Ipv6Header, protocol, view_mut};

const PORT_LEN: usize = 2;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const ICMP_CHECKSUM: usize = 2;

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Destination,
}

/// Where the headers of a packet (or of one that is quoted) are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the transport header, if it has to do with the addresses in front of it.
    pub l4: Option<usize>,
    /// Where the packet ends.
    pub end: usize,
    pub protocol: u8,
}

/// An address, of IPv4 if nothing else is said, and a port (the identifier of an ICMP echo).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address<Ip = u32> {
    pub ip: Ip,
    pub port: u16,
}

/// An address of either family: one of IPv4 as it is mapped into IPv6 (RFC 4291, section 2.5.5.2).
pub(crate) type AnyAddress = Address<u128>;

impl From<Address> for AnyAddress {
    #[inline]
    fn from(Address { ip, port }: Address) -> Self {
        Address { ip: mapped(ip), port }
    }
}

/// An IPv4 address as it is mapped into IPv6.
#[inline]
pub(crate) const fn mapped(ip: u32) -> u128 {
    0xffff << 32 | ip as u128
}

/// Replaces one end of a packet and updates its checksums.
#[inline]
pub(crate) fn replace_end(header: &mut [u8], at: Places, end: End, by: Address) {
    let done = match at.protocol {
        protocol::TCP => replace_whole::<{ TCP_CHECKSUM + 2 }>(header, at, end, by, TCP_CHECKSUM),
        protocol::UDP => replace_whole::<{ UDP_CHECKSUM + 2 }>(header, at, end, by, UDP_CHECKSUM),
        _ => None,
    };
    if done.is_none() {
        replace(header, at, end, by);
    }
}

/// [`replace`] for a transport header whose first `LEN` bytes, to the end of its checksum, are there.
#[inline]
fn replace_whole<const LEN: usize>(
    header: &mut [u8],
    at: Places,
    end: End,
    by: Address,
    checksum_at: usize,
) -> Option<()> {
    let l4 = at.l4.filter(|l4| l4 + LEN <= at.end)?;
    let (ip, transport) = header.get_mut(at.l3..)?.split_at_mut_checked(l4.checked_sub(at.l3)?)?;
    let (ip, transport) = (ip.first_chunk_mut::<20>()?, transport.first_chunk_mut::<LEN>()?);
    let (address_at, port_at) = if end == End::Source { (12, 0) } else { (16, PORT_LEN) };
    let old =
        u32::from_be_bytes([ip[address_at], ip[address_at + 1], ip[address_at + 2], ip[address_at + 3]]);
    let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let address = ChecksumDelta::new().u32(old, by.ip);
    let sum = address.apply(word(ip, 10));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip[address_at..address_at + 4].copy_from_slice(&by.ip.to_be_bytes());
    let delta = address.u16(word(transport, port_at), by.port);
    let old = word(transport, checksum_at);
    let sum = if at.protocol == protocol::UDP { delta.apply_udp(old) } else { delta.apply(old) };
    transport[port_at..port_at + 2].copy_from_slice(&by.port.to_be_bytes());
    transport[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// Replaces one end of a packet, as much of it as there is, and updates its checksums. Returns what all changed words, checksums
/// included, do to a checksum that covers the whole packet.
pub(crate) fn replace(header: &mut [u8], at: Places, end: End, by: Address) -> ChecksumDelta {
    let Some(ip) = view_mut::<Ipv4Header>(header, at.l3) else { return ChecksumDelta::new() };
    let field = if end == End::Source { &mut ip.src } else { &mut ip.dst };
    let address = ChecksumDelta::new().u32(field.get(), by.ip);
    field.set(by.ip);
    let (old, new) = (ip.checksum.get(), address.apply(ip.checksum.get()));
    ip.checksum.set(new);
    let whole = address.u16(old, new);
    whole.and(replace_transport(header, at, end, by.port, address))
}

/// [`replace`] for IPv6.
fn replace_v6(header: &mut [u8], at: Places, end: End, by: AnyAddress) -> ChecksumDelta {
    let Some(ip) = view_mut::<Ipv6Header>(header, at.l3) else { return ChecksumDelta::new() };
    let field = if end == End::Source { &mut ip.src } else { &mut ip.dst };
    let address = ChecksumDelta::new().u128(field.get(), by.ip);
    field.set(by.ip);
    address.and(replace_transport(header, at, end, by.port, address))
}

/// [`replace`] for a packet of either family, which the address is of.
pub(crate) fn replace_any(header: &mut [u8], at: Places, end: End, by: AnyAddress) -> ChecksumDelta {
    if is_v6(header, at.l3) {
        replace_v6(header, at, end, by)
    } else {
        replace(header, at, end, Address { ip: by.ip as u32, port: by.port })
    }
}

/// [`replace_end`] for a packet of either family, which the address is of.
#[inline]
pub(crate) fn replace_any_end(header: &mut [u8], at: Places, end: End, by: AnyAddress) {
    if is_v6(header, at.l3) {
        replace_v6(header, at, end, by);
    } else {
        replace_end(header, at, end, Address { ip: by.ip as u32, port: by.port });
    }
}

#[inline]
fn is_v6(header: &[u8], l3: usize) -> bool {
    header.get(l3).is_some_and(|first| first >> 4 == 6)
}

/// Replaces a port, as much of the transport header as there is, and updates its checksum for that and for what was
/// changed of the addresses. Returns what this does to a checksum that covers the transport header.
fn replace_transport(
    header: &mut [u8],
    at: Places,
    end: End,
    port: u16,
    address: ChecksumDelta,
) -> ChecksumDelta {
    let Some(l4) = at.l4 else { return ChecksumDelta::new() };
    let captured = at.end.min(header.len());
    let transport = header.get_mut(l4..captured).unwrap_or_default();
    let (port_at, checksum_at) = match (at.protocol, end) {
        (protocol::TCP, End::Source) => (0, TCP_CHECKSUM),
        (protocol::TCP, End::Destination) => (PORT_LEN, TCP_CHECKSUM),
        (protocol::UDP, End::Source) => (0, UDP_CHECKSUM),
        (protocol::UDP, End::Destination) => (PORT_LEN, UDP_CHECKSUM),
        (protocol::ICMP, _) => (ECHO_IDENTIFIER, ICMP_CHECKSUM),
        // An error: it has no port, but its checksum covers the addresses.
        (protocol::ICMPV6, _) => return update(transport, ICMP_CHECKSUM, |old| address.apply(old)),
        _ => return ChecksumDelta::new(),
    };
    let port = update(transport, port_at, |_| port);
    let checksum = update(transport, checksum_at, |old| match at.protocol {
        protocol::TCP => address.and(port).apply(old),
        protocol::UDP => address.and(port).apply_udp(old),
        // ICMP has no pseudo-header.
        _ => port.apply(old),
    });
    port.and(checksum)
}

/// Replaces one end of the packet that an ICMP error at `icmp` quotes, with its checksums, and updates
/// the checksum of the error.
pub(crate) fn replace_quoted(
    header: &mut [u8],
    icmp: usize,
    quoted: Places,
    end: End,
    by: impl Into<AnyAddress>,
) {
    let delta = replace_any(header, quoted, end, by.into());
    update(header.get_mut(icmp..).unwrap_or_default(), ICMP_CHECKSUM, |old| delta.apply(old));
}

/// Changes the word at `offset`, if it is there.
fn update(bytes: &mut [u8], offset: usize, change: impl FnOnce(u16) -> u16) -> ChecksumDelta {
    let Some(word) = bytes.get_mut(offset..).and_then(|rest| rest.first_chunk_mut::<2>()) else {
        return ChecksumDelta::new();
    };
    let old = u16::from_be_bytes(*word);
    let new = change(old);
    *word = new.to_be_bytes();
    ChecksumDelta::new().u16(old, new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chc_api::packet::Checksum;
    use etherparse::PacketBuilder;

    const NEW: Address = Address { ip: 0xcb00_7101, port: 40_001 };

    fn ipv4() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ipv4([10, 0, 0, 1], [198, 51, 100, 7], 64)
    }

    fn udp() -> Vec<u8> {
        let mut packet = Vec::new();
        ipv4().udp(5000, 53).write(&mut packet, b"question").unwrap();
        packet
    }

    fn places(packet: &[u8], protocol: u8) -> Places {
        Places { l3: 0, l4: Some(20), end: packet.len(), protocol }
    }

    /// Both checksums of a whole IPv4 packet as etherparse computes them are those in place.
    fn assert_checksums_hold(packet: &[u8]) {
        assert_eq!(Checksum::of(&packet[..20]), 0, "IP header");
        let source = [packet[12], packet[13], packet[14], packet[15]].into();
        let destination = [packet[16], packet[17], packet[18], packet[19]].into();
        let body = &packet[20..];
        let sum = match packet[9] {
            protocol::ICMP => Checksum::of(body),
            other => Checksum::pseudo_v4(source, destination, other, body.len() as u16).bytes(body).finish(),
        };
        assert_eq!(sum, 0, "protocol {}", packet[9]);
    }

    #[test]
    fn tcp_checksums_hold_at_both_ends() {
        let mut packet = Vec::new();
        ipv4().tcp(5000, 80, 7, 1000).write(&mut packet, b"hello").unwrap();
        let at = places(&packet, protocol::TCP);
        let mut other = packet.clone();
        replace(&mut other, at, End::Source, NEW);
        replace_end(&mut packet, at, End::Source, NEW);
        assert_eq!(packet, other, "both ways give the same bytes");
        assert_eq!((&packet[12..16], &packet[20..22]), (&[203, 0, 113, 1][..], &40_001u16.to_be_bytes()[..]));
        assert_checksums_hold(&packet);
        replace(&mut packet, at, End::Destination, Address { ip: 0x0a00_0009, port: 8080 });
        assert_eq!((&packet[16..20], &packet[22..24]), (&[10, 0, 0, 9][..], &8080u16.to_be_bytes()[..]));
        assert_checksums_hold(&packet);
    }

    #[test]
    fn udp_without_checksum_stays_without() {
        let mut packet = udp();
        packet[26..28].fill(0);
        let at = places(&packet, protocol::UDP);
        replace(&mut packet, at, End::Source, NEW);
        assert_eq!(packet[26..28], [0, 0]);
    }

    #[test]
    fn a_udp_checksum_never_becomes_none() {
        for port in 0..=u16::MAX {
            let mut packet = udp();
            let at = places(&packet, protocol::UDP);
            replace(&mut packet, at, End::Source, Address { port, ..NEW });
            assert_ne!(packet[26..28], [0, 0]);
        }
    }

    #[test]
    fn an_echos_identifier_is_its_port() {
        let mut packet = Vec::new();
        ipv4().icmpv4_echo_request(77, 1).write(&mut packet, b"ping").unwrap();
        let at = places(&packet, protocol::ICMP);
        replace(&mut packet, at, End::Source, NEW);
        assert_eq!(packet[24..26], 40_001u16.to_be_bytes());
        assert_checksums_hold(&packet);
    }

    #[test]
    fn a_fragment_without_ports_gets_its_address() {
        let mut packet = udp();
        let before = packet.clone();
        let at = Places { l4: None, ..places(&packet, protocol::UDP) };
        replace(&mut packet, at, End::Source, NEW);
        assert_eq!(Checksum::of(&packet[..20]), 0);
        assert_eq!(packet[20..], before[20..]);
    }

    #[test]
    fn what_is_not_captured_is_left_alone() {
        let whole = udp();
        for len in 0..whole.len() {
            let mut cut = whole[..len].to_vec();
            let at = Places { end: len, ..places(&cut, protocol::UDP) };
            replace(&mut cut, at, End::Source, NEW);
            assert_eq!(cut.len(), len);
        }
    }

    #[test]
    fn the_error_around_a_quotation_keeps_its_checksum() {
        for quoted_len in [20, 24, 26, 28, 36] {
            let kind = etherparse::Icmpv4Type::DestinationUnreachable(
                etherparse::icmpv4::DestUnreachableHeader::Port,
            );
            let mut packet = Vec::new();
            ipv4().icmpv4(kind).write(&mut packet, &udp()[..quoted_len]).unwrap();
            let quoted = Places { l3: 28, l4: Some(48), end: packet.len(), protocol: protocol::UDP };
            replace_quoted(&mut packet, 20, quoted, End::Source, NEW);
            assert_eq!(packet[40..44], [203, 0, 113, 1]);
            assert_eq!(Checksum::of(&packet[28..48]), 0, "quoted IP header");
            assert_checksums_hold(&packet);
        }
    }
}
