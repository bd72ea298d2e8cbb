//! Packets that functions answer with: without options, back to who sent the packet that is answered.

use chc_api::packet::ipv6::IPV6_LEN;
use chc_api::packet::{Checksum, Ipv4Header, Ipv6Header, TcpHeader, protocol, tcp, view};
use core::net::{Ipv4Addr, Ipv6Addr};

const IP_LEN: usize = 20;
/// Hops an answer can go.
const HOPS: u8 = 64;

/// A RST that answers a SYN whose headers are these (RFC 9293, section 3.10.7.1).
pub(crate) fn reset(header: &[u8], l3: usize, l4: usize) -> Option<Vec<u8>> {
    const TCP_LEN: usize = 20;
    let segment = view::<TcpHeader>(header, l4)?;
    let mut answer = [0; TCP_LEN];
    answer[..2].copy_from_slice(&segment.dst_port.get().to_be_bytes());
    answer[2..4].copy_from_slice(&segment.src_port.get().to_be_bytes());
    answer[8..12].copy_from_slice(&segment.seq.get().wrapping_add(1).to_be_bytes());
    answer[12..14].copy_from_slice(&[0x50, tcp::RST | tcp::ACK]);
    let mut seal = |pseudo: Checksum| {
        let sum = pseudo.bytes(&answer).finish();
        answer[16..18].copy_from_slice(&sum.to_be_bytes());
    };
    if header.get(l3)? >> 4 == 6 {
        let ip = view::<Ipv6Header>(header, l3)?;
        let (from, to) = (Ipv6Addr::from_bits(ip.dst.get()), Ipv6Addr::from_bits(ip.src.get()));
        seal(Checksum::pseudo_v6(from, to, protocol::TCP, TCP_LEN as u32));
        return back_v6(header, l3, protocol::TCP, &answer);
    }
    let ip = view::<Ipv4Header>(header, l3)?;
    seal(Checksum::pseudo_v4(ip.dst_addr(), ip.src_addr(), protocol::TCP, TCP_LEN as u16));
    back(header, l3, ip.dst.get(), protocol::TCP, &answer)
}

/// An ICMP error from an address: communication is prohibited (RFC 1812, section 5.2.7.1). It quotes the IP header and eight
/// bytes behind it; what went to many hosts is not answered.
pub(crate) fn prohibited(header: &[u8], l3: usize, l4: usize, from: u32) -> Option<Vec<u8>> {
    const UNREACHABLE: u8 = 3;
    const PROHIBITED: u8 = 13;
    let to = Ipv4Addr::from_bits(view::<Ipv4Header>(header, l3)?.dst.get());
    if to.is_multicast() || to.is_broadcast() {
        return None;
    }
    let quoted = header.get(l3..l4.checked_add(8)?)?;
    let mut answer = vec![UNREACHABLE, PROHIBITED, 0, 0, 0, 0, 0, 0];
    answer.extend_from_slice(quoted);
    let sum = Checksum::of(&answer);
    answer[2..4].copy_from_slice(&sum.to_be_bytes());
    back(header, l3, from, protocol::ICMP, &answer)
}

/// What is in front of an IP header, with Ethernet's addresses exchanged.
fn link_back(header: &[u8], l3: usize) -> Option<Vec<u8>> {
    let mut frame = header.get(..l3)?.to_vec();
    let ether_type = header.get(12..14).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    if matches!((l3, ether_type), (14, Some(0x0800 | 0x86dd)) | (18.., Some(0x8100 | 0x88a8))) {
        let (to, rest) = frame.split_at_mut(6);
        to.swap_with_slice(&mut rest[..6]);
    }
    Some(frame)
}

/// A packet to the sender of one with these headers: what is in front of its IP header, an IP header, and what follows that.
fn back(header: &[u8], l3: usize, from: u32, protocol: u8, rest: &[u8]) -> Option<Vec<u8>> {
    let to = view::<Ipv4Header>(header, l3)?.src.get();
    let mut frame = link_back(header, l3)?;
    let mut ip = [0; IP_LEN];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&((IP_LEN + rest.len()) as u16).to_be_bytes());
    // Don't fragment.
    ip[6] = 0x40;
    ip[8..10].copy_from_slice(&[HOPS, protocol]);
    ip[12..16].copy_from_slice(&from.to_be_bytes());
    ip[16..20].copy_from_slice(&to.to_be_bytes());
    let sum = Checksum::of(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(&ip);
    frame.extend_from_slice(rest);
    Some(frame)
}

/// [`back`] for IPv6, from where the packet was sent to.
fn back_v6(header: &[u8], l3: usize, protocol: u8, rest: &[u8]) -> Option<Vec<u8>> {
    let asked = view::<Ipv6Header>(header, l3)?;
    let mut frame = link_back(header, l3)?;
    let mut ip = [0; IPV6_LEN];
    ip[0] = 0x60;
    ip[4..6].copy_from_slice(&(rest.len() as u16).to_be_bytes());
    ip[6..8].copy_from_slice(&[protocol, HOPS]);
    ip[8..24].copy_from_slice(&asked.dst.get().to_be_bytes());
    ip[24..40].copy_from_slice(&asked.src.get().to_be_bytes());
    frame.extend_from_slice(&ip);
    frame.extend_from_slice(rest);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chc_api::packet::LinkType;
    use chc_api::packet::parse::{PacketKind, parse};
    use etherparse::PacketBuilder;

    #[test]
    fn a_reset_answers_the_syn_with_right_checksums() {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [198, 51, 100, 7], 3)
            .tcp(40_000, 443, 0xffff_ffff, 1_000)
            .syn();
        let mut syn = Vec::new();
        builder.write(&mut syn, &[]).unwrap();
        let frame = reset(&syn, 14, 34).unwrap();
        let parsed = parse(LinkType::ETHERNET, &frame);
        assert_eq!((parsed.reason, parsed.tcp_flags, frame.len()), (None, tcp::RST | tcp::ACK, 54));
        assert_eq!(parsed.key, parse(LinkType::ETHERNET, &syn).key);
        assert_ne!(parsed.direction, parse(LinkType::ETHERNET, &syn).direction);
        assert_eq!((&frame[..6], &frame[6..12]), (&syn[6..12], &syn[..6]));
        let headers = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let Some(etherparse::TransportHeader::Tcp(segment)) = headers.transport else { panic!("TCP") };
        assert_eq!((segment.sequence_number, segment.acknowledgment_number), (0, 0));
        let Some(etherparse::NetHeaders::Ipv4(ip, _)) = headers.net else { panic!("IPv4") };
        assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
        assert_eq!(segment.calc_checksum_ipv4(&ip, &[]).unwrap(), segment.checksum);
        // Without Ethernet nothing is exchanged.
        assert_eq!(reset(&syn[14..], 0, 20).unwrap(), frame[14..]);
    }

    #[test]
    fn a_reset_by_ipv6_goes_back_where_the_syn_came_from_with_its_checksum() {
        let (client, server) = ([0x20; 16], [0x30; 16]);
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv6(client, server, 3)
            .tcp(40_000, 443, 7, 1_000)
            .syn();
        let mut syn = Vec::new();
        builder.write(&mut syn, &[]).unwrap();
        let frame = reset(&syn, 14, 54).unwrap();
        assert_eq!((&frame[..6], &frame[6..12]), (&syn[6..12], &syn[..6]));
        let headers = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let Some(etherparse::NetHeaders::Ipv6(ip, _)) = headers.net else { panic!("IPv6") };
        assert_eq!((ip.source, ip.destination, ip.payload_length), (server, client, 20));
        let Some(etherparse::TransportHeader::Tcp(segment)) = headers.transport else { panic!("TCP") };
        assert_eq!((segment.source_port, segment.destination_port), (443, 40_000));
        assert_eq!((segment.rst, segment.ack, segment.acknowledgment_number), (true, true, 8));
        assert_eq!(segment.calc_checksum_ipv6(&ip, &[]).unwrap(), segment.checksum);
    }

    #[test]
    fn who_is_refused_is_told_by_an_error_that_quotes_what_it_sent() {
        let datagram = |to: [u8; 4]| {
            let mut frame = Vec::new();
            let builder =
                PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4([10, 0, 0, 1], to, 3);
            builder.udp(40_000, 53).write(&mut frame, b"a question").unwrap();
            frame
        };
        let sent = datagram([198, 51, 100, 7]);
        let frame = prohibited(&sent, 14, 34, 0xcb00_7101).unwrap();
        let parsed = parse(LinkType::ETHERNET, &frame);
        assert!(parsed.is(PacketKind::ICMP_ERROR), "{parsed:?}");
        assert_eq!(parsed.key, parse(LinkType::ETHERNET, &sent).key, "it is of the connection it quotes");
        let headers = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let Some(etherparse::NetHeaders::Ipv4(ip, _)) = headers.net else { panic!("IPv4") };
        assert_eq!((ip.source, ip.destination), ([203, 0, 113, 1], [10, 0, 0, 1]));
        assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
        assert_eq!((&frame[34..36], Checksum::of(&frame[34..])), ([3, 13].as_slice(), 0));
        assert_eq!(frame[42..], sent[14..42]);
        assert_eq!(prohibited(&datagram([224, 0, 0, 1]), 14, 34, 1), None, "it went to many");
        assert_eq!(prohibited(&sent[..41], 14, 34, 1), None, "too little was captured to quote it");
    }
}
