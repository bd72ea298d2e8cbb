//! Frames for tests, built by etherparse where it can and by hand around that.

use etherparse::{IpNumber, Ipv6FlowLabel, PacketBuilder};

/// Addresses of all IPv4 test packets: source above destination, so that direction is seen.
pub const V4: ([u8; 4], [u8; 4]) = ([10, 0, 0, 9], [10, 0, 0, 1]);
/// Addresses of all IPv6 test packets.
pub const V6: ([u8; 16], [u8; 16]) = ([0x20, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9], [0x20; 16]);
/// Ports of all test packets.
pub const PORTS: (u16, u16) = (40_000, 443);

/// Raw IPv4 with UDP.
pub fn udp_v4(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ipv4(V4.0, V4.1, 64).udp(PORTS.0, PORTS.1);
    builder.write(&mut bytes, payload).expect("fits");
    bytes
}

/// Raw IPv4 with TCP, flags SYN and ACK.
pub fn tcp_v4(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ipv4(V4.0, V4.1, 64).tcp(PORTS.0, PORTS.1, 7, 512).syn().ack(8);
    builder.write(&mut bytes, payload).expect("fits");
    bytes
}

/// Raw IPv6 with TCP, flags SYN and ACK.
pub fn tcp_v6(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ipv6(V6.0, V6.1, 64).tcp(PORTS.0, PORTS.1, 7, 512).syn().ack(8);
    builder.write(&mut bytes, payload).expect("fits");
    bytes
}

/// Raw IPv4 from 192.0.2.1 to 192.0.2.2 with any payload.
pub fn ip_v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).expect("short");
    let header = etherparse::Ipv4Header::new(len, 9, IpNumber(protocol), [192, 0, 2, 1], [192, 0, 2, 2]);
    [&header.expect("fits").to_bytes()[..], payload].concat()
}

/// Raw IPv6 from fc09:: to fc01:: with any payload.
pub fn ip_v6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let address = |low| [0xfc, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let header = etherparse::Ipv6Header {
        traffic_class: 0,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: u16::try_from(payload.len()).expect("short"),
        next_header: IpNumber(next_header),
        hop_limit: 9,
        source: address(9),
        destination: address(1),
    };
    [&header.to_bytes()[..], payload].concat()
}

/// Ethernet header of this type, then `rest`.
pub fn ethernet(ether_type: u16, rest: &[u8]) -> Vec<u8> {
    [&[2; 12][..], &ether_type.to_be_bytes(), rest].concat()
}

/// Raw IPv4 with an ICMP message of type `kind` that quotes `quoted`.
pub fn icmp_error_v4(kind: u8, quoted: &[u8]) -> Vec<u8> {
    ip_v4(1, &[&[kind, 0, 0, 0, 0, 0, 0, 0][..], quoted].concat())
}

/// GRE with these flags and the optional fields they ask for.
pub fn gre(flags: u16, ether_type: u16, inner: &[u8]) -> Vec<u8> {
    let fields = (flags & 0xb000).count_ones() as usize * 4;
    [&flags.to_be_bytes()[..], &ether_type.to_be_bytes(), &vec![0xee; fields], inner].concat()
}
