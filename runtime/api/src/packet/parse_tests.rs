use core::net::IpAddr;

use etherparse::{Icmpv4Type, PacketBuilder, VlanId};
use proptest::prelude::*;

use super::*;
use crate::identity::Endpoint;
use crate::packet::testing::{
    PORTS, V4, V6, ethernet, gre, icmp_error_v4, ip_v4, ip_v6, tcp_v4, tcp_v6, udp_v4,
};

const ETH: LinkType = LinkType::ETHERNET;
const RAW: LinkType = LinkType::RAW;
const HAS_L4_V4: PacketKind = PacketKind::IPV4.with(PacketKind::HAS_L4);

fn endpoint(addr: impl Into<IpAddr>, port: u16) -> Endpoint {
    Endpoint { addr: addr.into(), port }
}

/// Identity of the test packets from `testing`.
fn identity_v4(protocol: u8) -> Identity {
    let (key, direction) = FlowKey::new(protocol, endpoint(V4.0, PORTS.0), endpoint(V4.1, PORTS.1));
    Identity { key, direction }
}

fn identity_v6(protocol: u8) -> Identity {
    let (key, direction) = FlowKey::new(protocol, endpoint(V6.0, PORTS.0), endpoint(V6.1, PORTS.1));
    Identity { key, direction }
}

/// Identity of what `ip_v4` builds, when its payload has no ports.
fn outer_v4(protocol: u8) -> Identity {
    let (key, direction) = FlowKey::new(protocol, endpoint([192, 0, 2, 1], 0), endpoint([192, 0, 2, 2], 0));
    Identity { key, direction }
}

fn offsets(parsed: &Parsed) -> [u16; 4] {
    [parsed.outer_l3, parsed.l3, parsed.l4, parsed.end]
}

// --- Links and tags ------------------------------------------------------------------------------------------

#[test]
fn plain_tcp_is_read() {
    let parsed = parse(ETH, &ethernet(0x800, &tcp_v4(b"hi")));
    assert_eq!(parsed.identity(), identity_v4(6));
    assert_eq!(parsed.direction, Direction::HighToLow);
    assert_eq!((parsed.kind, parsed.protocol, parsed.tcp_flags), (HAS_L4_V4, 6, 0x12));
    assert_eq!((offsets(&parsed), parsed.reason), ([14, 14, 34, 56], None));
}

#[test]
fn short_and_long_path_agree() {
    let mut fragment = tcp_v4(b"payload");
    fragment[7] = 3;
    for packet in [tcp_v4(b"payload"), udp_v4(b"a longer payload"), udp_v4(b""), fragment] {
        // Padding behind the packet, and captures cut at every length.
        let frame = [ethernet(0x800, &packet), vec![0; 20]].concat();
        for len in 0..=frame.len() {
            let cut = &frame[..len];
            assert_eq!(parse(ETH, cut), parse_layers(ETH, cut), "{len} bytes");
        }
    }
}

#[test]
fn every_link_type_leads_to_the_packet() {
    let ip = tcp_v4(b"");
    let cases: [(LinkType, Vec<u8>); 13] = [
        (LinkType::NULL, vec![2, 0, 0, 0]),
        (ETH, ethernet(0x800, &[])),
        (LinkType::PPP, vec![0xff, 3, 0, 0x21]),
        (LinkType::RAW_BSD, vec![]),
        (LinkType::RAW_OPENBSD, vec![]),
        (LinkType::PPP_HDLC, vec![0, 0x21]),
        (LinkType::PPPOE, vec![0x11, 0, 0, 1, 0, 42, 0, 0x21]),
        (RAW, vec![]),
        (LinkType::LOOP, vec![0, 0, 0, 2]),
        (LinkType::LINUX_SLL, [&[0; 14][..], &[8, 0]].concat()),
        (LinkType::IPV4, vec![]),
        (LinkType::IPV6, vec![]),
        (LinkType::LINUX_SLL2, [&[8, 0][..], &[0; 18]].concat()),
    ];
    for (link, header) in cases {
        let parsed = parse(link, &[&header[..], &ip].concat());
        assert_eq!(parsed.identity(), identity_v4(6), "{link}");
        assert_eq!(usize::from(parsed.l3), header.len(), "{link}");
    }
    let parsed = parse(LinkType(147), &ip);
    assert_eq!((parsed.key, parsed.reason), (FlowKey::NONE, Some(ParseReason::UnknownLink)));
}

#[test]
fn vlan_and_qinq_are_peeled() {
    let id = VlanId::try_new(7).expect("in range");
    let (mut single, mut double) = (Vec::new(), Vec::new());
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .single_vlan(id)
        .ipv4(V4.0, V4.1, 64)
        .udp(PORTS.0, PORTS.1)
        .write(&mut single, b"x")
        .expect("fits");
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .double_vlan(id, id)
        .ipv6(V6.0, V6.1, 64)
        .udp(PORTS.0, PORTS.1)
        .write(&mut double, b"x")
        .expect("fits");
    assert_eq!(parse(ETH, &single).identity(), identity_v4(17));
    assert_eq!(offsets(&parse(ETH, &single)), [18, 18, 38, 47]);
    assert_eq!(parse(ETH, &double).identity(), identity_v6(17));
    assert_eq!(offsets(&parse(ETH, &double)), [22, 22, 62, 71]);
}

#[test]
fn mpls_and_pppoe_are_peeled() {
    let mpls = ethernet(0x8847, &[&[0, 1, 0, 64, 0, 2, 1, 64][..], &tcp_v6(b"")].concat());
    assert_eq!(parse(ETH, &mpls).identity(), identity_v6(6));
    let pppoe = [&[0, 7, 0x88, 0x64, 0x11, 0, 0, 1, 0, 62, 0, 0x57][..], &tcp_v6(b"")].concat();
    let parsed = parse(ETH, &ethernet(0x8100, &pppoe));
    assert_eq!((parsed.identity(), parsed.l3), (identity_v6(6), 26));
    assert_eq!((parsed.tcp_flags, parsed.kind), (0x12, PacketKind::IPV6.with(PacketKind::HAS_L4)));
}

#[test]
fn what_is_not_ip_has_a_reason_and_no_key() {
    let cases = [
        (ethernet(0x806, &[0; 28]), ParseReason::NotIp),
        (ethernet(0x0026, &[0xaa; 38]), ParseReason::Llc),
        (ethernet(0x8100, &[0, 7]), ParseReason::Truncated),
        (vec![0; 13], ParseReason::Truncated),
        (ethernet(0x800, &[]), ParseReason::Truncated),
        (ethernet(0x800, &[0x75; 60]), ParseReason::BadIpHeader),
        (ethernet(0x800, &[0x44; 60]), ParseReason::BadIpHeader),
        (ethernet(0x86dd, &[0x60; 39]), ParseReason::Truncated),
    ];
    for (frame, reason) in cases {
        let parsed = parse(ETH, &frame);
        assert_eq!((parsed.key, parsed.reason), (FlowKey::NONE, Some(reason)));
    }
}

// --- IP ------------------------------------------------------------------------------------------------------

#[test]
fn ipv4_options_are_skipped() {
    let mut frame = tcp_v4(b"data");
    frame[0] = 0x47;
    frame[3] += 8;
    frame.splice(20..20, [1; 8]);
    let parsed = parse(ETH, &ethernet(0x800, &frame));
    assert_eq!((parsed.identity(), parsed.tcp_flags), (identity_v4(6), 0x12));
    assert_eq!(offsets(&parsed), [14, 14, 42, 66]);
}

#[test]
fn transport_beyond_the_total_length_is_not_read() {
    let mut frame = tcp_v4(b"");
    frame[3] = 33;
    let parsed = parse(ETH, &ethernet(0x800, &frame));
    assert_eq!(parsed.reason, Some(ParseReason::TruncatedTransport));
    assert_eq!((parsed.key.low().port, parsed.key.high().port), (0, 0));
    assert_eq!((parsed.l4, parsed.tcp_flags, parsed.kind), (0, 0, PacketKind::IPV4));
}

#[test]
fn tcp_needs_its_flags_and_udp_its_ports() {
    let reason = |packet: &[u8]| parse(RAW, packet).reason;
    assert_eq!(reason(&tcp_v4(b"")[..34]), None);
    assert_eq!(reason(&tcp_v4(b"")[..33]), Some(ParseReason::TruncatedTransport));
    assert_eq!(reason(&udp_v4(b"")[..24]), None);
    assert_eq!(reason(&udp_v4(b"")[..23]), Some(ParseReason::TruncatedTransport));
}

#[test]
fn sctp_dccp_and_udp_lite_have_ports_and_others_none() {
    for protocol in 0..=u8::MAX {
        if [1, 4, 6, 41, 47].contains(&protocol) {
            continue;
        }
        let parsed = parse(RAW, &ip_v4(protocol, &[0, 80, 1, 0, 0, 0, 0, 0]));
        let ports = (parsed.key.source(parsed.direction).port, parsed.key.destination(parsed.direction).port);
        let expected = if [17, 33, 132, 136].contains(&protocol) { (80, 256) } else { (0, 0) };
        assert_eq!((ports, parsed.reason), (expected, None), "protocol {protocol}");
        assert_eq!((parsed.protocol, parsed.key.protocol(), parsed.l4), (protocol, protocol, 20));
    }
}

#[test]
fn ipv6_extensions_are_skipped() {
    let tcp = &tcp_v6(b"")[40..];
    let frame = ip_v6(0, &[&[60, 0, 0, 0, 0, 0, 0, 0, 6, 1][..], &[0; 14], tcp].concat());
    let parsed = parse(RAW, &frame);
    assert_eq!((parsed.protocol, parsed.tcp_flags), (6, 0x12));
    assert_eq!((offsets(&parsed), parsed.reason), ([0, 0, 64, 84], None));
    // Cut within an extension: the addresses are known.
    let parsed = parse(RAW, &frame[..48]);
    assert_eq!(parsed.reason, Some(ParseReason::TruncatedExtension));
    assert_eq!((parsed.key.family(), parsed.kind, parsed.l4), (6, PacketKind::IPV6, 0));
}

#[test]
fn ipv4_fragments_share_an_id_and_only_the_first_has_ports() {
    let mut first = udp_v4(&[0; 32]);
    (first[4..8]).copy_from_slice(&[0x12, 0x34, 0x20, 0]);
    let mut later = first.clone();
    later[7] = 5;
    let (parsed_first, parsed_later) = (parse(RAW, &first), parse(RAW, &later));
    assert_eq!(parsed_first.identity(), identity_v4(17));
    assert_eq!(parsed_first.kind, HAS_L4_V4.with(PacketKind::FIRST_FRAGMENT));
    assert_eq!(parsed_later.kind, PacketKind::IPV4.with(PacketKind::LATER_FRAGMENT));
    assert_eq!((parsed_later.l4, parsed_later.reason), (0, None));
    let (key, _) = FlowKey::new(17, endpoint(V4.0, 0), endpoint(V4.1, 0));
    assert_eq!(parsed_later.key, key);
    assert!(parsed_later.payload(&later).is_empty());
    let id = FragmentId { src: V4.0.into(), dst: V4.1.into(), protocol: 17, ident: 0x1234 };
    assert_eq!(fragment_id(&first, &parsed_first), Some(id));
    assert_eq!(fragment_id(&later, &parsed_later), Some(id));
    let whole = udp_v4(b"");
    assert_eq!(fragment_id(&whole, &parse(RAW, &whole)), None);
}

#[test]
fn ipv6_fragments_share_an_id_whatever_follows_them() {
    let first = ip_v6(44, &[&[60, 0, 0, 1, 0, 0, 0, 7, 17, 0][..], &[0; 6], &[1; 16]].concat());
    let later = ip_v6(44, &[&[17, 0, 0, 8, 0, 0, 0, 7][..], &[1; 16]].concat());
    let (parsed_first, parsed_later) = (parse(RAW, &first), parse(RAW, &later));
    assert!(parsed_first.is(PacketKind::FIRST_FRAGMENT.with(PacketKind::HAS_L4)));
    assert_eq!((parsed_first.protocol, parsed_first.l4, parsed_first.key.low().port), (17, 56, 257));
    assert!(parsed_later.is(PacketKind::LATER_FRAGMENT) && !parsed_later.is(PacketKind::HAS_L4));
    assert_eq!(parsed_later.key.low().port, 0);
    let id = fragment_id(&first, &parsed_first);
    assert_eq!(id.map(|id| id.ident), Some(7));
    assert_eq!(id, fragment_id(&later, &parsed_later));
}

#[test]
fn fragments_of_a_tunnel_are_tied_to_the_inner_connection() {
    let mut first = ip_v4(4, &udp_v4(&[0; 20]));
    first[6] = 0x20;
    let parsed = parse(RAW, &first);
    assert_eq!(parsed.identity(), identity_v4(17));
    let mut later = first.clone();
    later[7] = 6;
    let parsed_later = parse(RAW, &later);
    assert_eq!(parsed_later.identity(), outer_v4(4));
    assert_eq!(fragment_id(&first, &parsed), fragment_id(&later, &parsed_later));
    assert!(fragment_id(&first, &parsed).is_some());
    // A later fragment inside: its own packet's id counts, and its key is not the connection's.
    first[27] = 5;
    let parsed = parse(RAW, &first);
    assert_eq!(parsed.kind, PacketKind::IPV4.with(PacketKind::LATER_FRAGMENT).with(PacketKind::TUNNELLED));
    assert_eq!(fragment_id(&first, &parsed).map(|id| id.src), Some(V4.0.into()));
}

// --- Tunnels -------------------------------------------------------------------------------------------------

#[test]
fn tunnels_give_the_inner_identity() {
    let (v4, v6) = (tcp_v4(b"in"), tcp_v6(b"in"));
    let cases = [
        ("ipip", 4, v4.clone(), identity_v4(6), 20),
        ("6in4", 41, v6.clone(), identity_v6(6), 20),
        ("gre", 47, gre(0, 0x800, &v4), identity_v4(6), 24),
        ("gre with all fields", 47, gre(0xb000, 0x86dd, &v6), identity_v6(6), 36),
    ];
    for (name, protocol, payload, identity, l3) in cases {
        let parsed = parse(ETH, &ethernet(0x800, &ip_v4(protocol, &payload)));
        assert_eq!((parsed.identity(), parsed.reason), (identity, None), "{name}");
        assert_eq!((parsed.outer_l3, parsed.l3), (14, 14 + l3), "{name}");
        assert!(parsed.is(PacketKind::TUNNELLED.with(PacketKind::HAS_L4)), "{name}");
        assert_eq!((parsed.tcp_flags, parsed.protocol), (0x12, 6), "{name}");
        // The outer header, too, may be IPv6.
        assert_eq!(parse(RAW, &ip_v6(protocol, &payload)).identity(), identity, "{name}");
    }
}

#[test]
fn four_tunnels_are_entered_and_a_fifth_is_payload() {
    let mut packet = tcp_v4(b"");
    for _ in 0..4 {
        packet = ip_v4(4, &packet);
    }
    assert_eq!(parse(RAW, &packet).identity(), identity_v4(6));
    let parsed = parse(RAW, &ip_v4(4, &packet));
    assert_eq!((parsed.identity(), parsed.l3, parsed.reason), (outer_v4(4), 80, None));
}

#[test]
fn tunnel_that_cannot_be_entered_keeps_the_outer_identity() {
    let cases = [
        ("version 1", ip_v4(47, &gre(1, 0x800, &tcp_v4(b""))), 47, None),
        ("routing", ip_v4(47, &gre(0x4000, 0x800, &tcp_v4(b""))), 47, None),
        ("other payload", ip_v4(47, &gre(0, 0x88be, &tcp_v4(b""))), 47, None),
        ("bridged frame", ip_v4(47, &gre(0, 0x6558, &ethernet(0x800, &tcp_v4(b"")))), 47, None),
        ("too short", ip_v4(4, &tcp_v4(b"")[..20]), 4, None),
        ("no version", ip_v4(4, &[0; 40]), 4, Some(ParseReason::BadIpHeader)),
        ("cut", ip_v4(41, &tcp_v6(b"")[..39]), 41, Some(ParseReason::Truncated)),
    ];
    for (name, packet, protocol, reason) in cases {
        let parsed = parse(RAW, &packet);
        assert_eq!((parsed.identity(), parsed.reason), (outer_v4(protocol), reason), "{name}");
        assert!(!parsed.is(PacketKind::TUNNELLED), "{name}");
    }
}

// --- ICMP ----------------------------------------------------------------------------------------------------

#[test]
fn echo_request_and_reply_share_a_key() {
    let build = |from, to, kind| {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(from, to, 64).icmpv4(kind).write(&mut bytes, b"ping").expect("fits");
        parse(RAW, &bytes)
    };
    let echo = etherparse::IcmpEchoHeader { id: 77, seq: 1 };
    let request = build(V4.0, V4.1, Icmpv4Type::EchoRequest(echo));
    let reply = build(V4.1, V4.0, Icmpv4Type::EchoReply(echo));
    assert_eq!((request.key.low().port, request.key.high().port), (77, 77));
    assert_eq!((request.key, request.direction), (reply.key, reply.direction.reverse()));
    let mut bytes = Vec::new();
    PacketBuilder::ipv6(V6.0, V6.1, 64).icmpv6_echo_request(78, 1).write(&mut bytes, b"").expect("fits");
    let parsed = parse(RAW, &bytes);
    assert_eq!(
        (parsed.key.low().port, parsed.key.protocol(), parsed.kind.contains(PacketKind::IPV6)),
        (78, 58, true)
    );
    assert_eq!(parse(RAW, &bytes[..45]).reason, Some(ParseReason::TruncatedTransport));
}

#[test]
fn other_icmp_has_no_ports() {
    for kind in [5u8, 9, 13, 17, 128] {
        let parsed = parse(RAW, &ip_v4(1, &[kind, 0, 0, 0, 1, 2, 3, 4]));
        let reason = (kind == 5).then_some(ParseReason::BadQuote);
        assert_eq!((parsed.identity(), parsed.reason), (outer_v4(1), reason), "type {kind}");
        assert!(!parsed.is(PacketKind::ICMP_ERROR));
    }
    // Each ICMP belongs to its IP version: elsewhere it is just another protocol.
    let parsed = parse(RAW, &ip_v6(1, &[128, 0, 0, 0, 0, 9, 0, 1]));
    assert_eq!((parsed.key.low().port, parsed.key.protocol(), parsed.reason), (0, 1, None));
    let error = [&[3, 0, 0, 0, 0, 0, 0, 0][..], &tcp_v4(b"")].concat();
    assert_eq!(parse(RAW, &ip_v4(58, &error)).identity(), outer_v4(58));
}

#[test]
fn icmp_error_belongs_to_the_quoted_connection_and_travels_against_it() {
    for kind in [3, 4, 5, 11, 12] {
        // Eight bytes of the quoted transport, as RFC 792 has it.
        let parsed = parse(RAW, &icmp_error_v4(kind, &tcp_v4(b"")[..28]));
        let quoted = identity_v4(6);
        assert_eq!((parsed.key, parsed.direction), (quoted.key, quoted.direction.reverse()));
        assert_eq!(parsed.kind, HAS_L4_V4.with(PacketKind::ICMP_ERROR));
        assert_eq!((parsed.protocol, parsed.tcp_flags, offsets(&parsed)), (1, 0, [0, 0, 20, 56]));
    }
    for kind in [1, 2, 3, 4] {
        let parsed = parse(RAW, &ip_v6(58, &[&[kind, 0, 0, 0, 0, 0, 0, 0][..], &tcp_v6(b"")].concat()));
        let quoted = identity_v6(6);
        assert_eq!((parsed.key, parsed.direction), (quoted.key, quoted.direction.reverse()));
        assert!(parsed.is(PacketKind::ICMP_ERROR.with(PacketKind::IPV6)));
    }
}

#[test]
fn quotation_needs_the_ports() {
    let parsed = parse(RAW, &icmp_error_v4(3, &udp_v4(b"")[..24]));
    assert_eq!((parsed.key, parsed.reason), (identity_v4(17).key, None));
    for bad in [&udp_v4(b"")[..23], &udp_v4(b"")[..19], &tcp_v6(b""), &[]] {
        let parsed = parse(RAW, &icmp_error_v4(3, bad));
        assert_eq!((parsed.identity(), parsed.reason), (outer_v4(1), Some(ParseReason::BadQuote)));
        assert!(!parsed.is(PacketKind::ICMP_ERROR) && parsed.is(PacketKind::HAS_L4));
    }
}

#[test]
fn quoted_echo_tunnel_and_error() {
    let echo = ip_v4(1, &[8, 0, 0, 0, 0, 9, 0, 1]);
    assert_eq!(parse(RAW, &icmp_error_v4(3, &echo)).key, parse(RAW, &echo).key);
    let parsed = parse(RAW, &icmp_error_v4(3, &ip_v4(4, &udp_v4(b""))));
    assert_eq!(parsed.key, identity_v4(17).key);
    assert!(parsed.is(PacketKind::TUNNELLED));
    // An error about an error is against the RFC; it is not followed.
    let parsed = parse(RAW, &icmp_error_v4(3, &icmp_error_v4(3, &udp_v4(b""))));
    assert_eq!((parsed.key, parsed.reason), (outer_v4(1).key, None));
}

// --- Payload -------------------------------------------------------------------------------------------------

#[test]
fn payload_is_behind_the_transport_header_and_within_the_packet() {
    for (packet, payload) in [
        (tcp_v4(b"hello"), &b"hello"[..]),
        (tcp_v6(b"hello"), b"hello"),
        (udp_v4(b"hello"), b"hello"),
        (ip_v4(4, &udp_v4(b"inner")), b"inner"),
        (ip_v4(1, b"\x08\0\0\0\0\0\0\0ping"), b"ping"),
        (ip_v4(99, b"all of it"), b"all of it"),
        (tcp_v4(b""), b""),
    ] {
        let padded = [&packet[..], &[0xff; 9]].concat();
        assert_eq!(parse(RAW, &padded).payload(&padded), payload);
    }
    let mut options = tcp_v4(b"0123");
    options[32] = 0x60;
    assert_eq!(parse(RAW, &options).payload(&options), b"");
    options[32] = 0xf0;
    assert_eq!(parse(RAW, &options).payload(&options), b"");
}

#[test]
fn offsets_fit_sixteen_bits_in_any_frame() {
    let mut frame = ethernet(0x86dd, &ip_v6(60, &[]));
    (frame[18], frame[19]) = (0, 0);
    frame.resize(200_000, 0xff);
    (0..40).for_each(|n| frame[54 + n * 2048] = 60);
    let parsed = parse(ETH, &frame);
    assert_eq!((parsed.end, parsed.key.family()), (u16::MAX, 6));
    assert_eq!(parsed.reason, Some(ParseReason::TooManyExtensions));
}

// --- Anything at all -----------------------------------------------------------------------------------------

fn link() -> impl Strategy<Value = LinkType> {
    prop_oneof![
        4 => prop::sample::select(&[0u16, 1, 9, 12, 14, 50, 51, 101, 108, 113, 228, 229, 276][..]),
        1 => any::<u16>()
    ]
    .prop_map(LinkType)
}

/// Something with the shape of a packet: nested headers, some with bytes changed, cut anywhere.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just(tcp_v4(b"payload")),
        Just(tcp_v6(b"payload")),
        Just(udp_v4(b"payload")),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(p, body)| ip_v4(p, &body)),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(p, body)| ip_v6(p, &body)),
    ];
    let nested = leaf.prop_recursive(5, 8, 1, |inner| {
        prop_oneof![
            inner.clone().prop_map(|p| ip_v4(if p[0] >> 4 == 4 { 4 } else { 41 }, &p)),
            (inner.clone(), any::<u16>()).prop_map(|(p, flags)| ip_v4(47, &gre(flags & 0xf000, 0x800, &p))),
            inner.clone().prop_map(|p| ip_v6(44, &[&[41, 0, 0, 1, 0, 0, 0, 5][..], &p].concat())),
            (inner.clone(), 0u8..13).prop_map(|(p, kind)| icmp_error_v4(kind, &p)),
            inner.prop_map(|p| ip_v6(58, &[&[1, 0, 0, 0, 0, 0, 0, 0][..], &p].concat())),
        ]
    });
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let headers = prop::sample::select(vec![
        vec![],
        vec![0; 4],
        ethernet(0x800, &[]),
        ethernet(0x8100, &[0, 7, 0x88, 0x47, 0, 0, 1, 64]),
        ethernet(0x8864, &[0x11, 0, 0, 1, 0, 42, 0, 0x21]),
    ]);
    (headers, nested, changes, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(header, packet, changes, cut, is_cut)| {
            let mut frame = [header, packet].concat();
            for (index, byte) in changes {
                let index = index.index(frame.len());
                frame[index] = byte;
            }
            if is_cut {
                frame.truncate(cut.index(frame.len()));
            }
            frame
        },
    )
}

/// What holds of every result.
fn check(link: LinkType, frame: &[u8]) {
    let parsed = parse(link, frame);
    assert_eq!(parsed, parse_layers(link, frame));
    assert!(usize::from(parsed.end) <= frame.len());
    assert!(parsed.outer_l3 <= parsed.l3);
    assert_eq!(parsed.is(PacketKind::HAS_L4), parsed.l4 != 0);
    assert!(parsed.l4 == 0 || (parsed.l3 < parsed.l4 && parsed.l4 <= parsed.end));
    assert_eq!(parsed.key.is_none(), parsed.kind == PacketKind::default());
    assert!(!parsed.key.is_none() || parsed.reason.is_some());
    assert!(parsed.payload(frame).len() <= frame.len());
    let is_fragment = parsed.is(PacketKind::FIRST_FRAGMENT) || parsed.is(PacketKind::LATER_FRAGMENT);
    assert_eq!(fragment_id(frame, &parsed).is_some(), is_fragment);
    if parsed.is(PacketKind::ICMP_ERROR) {
        let packet = &frame[..usize::from(parsed.end)];
        let quote = crate::packet::icmp_quote(packet, parsed.l4, parsed.is(PacketKind::IPV6));
        let quote = quote.expect("the error was understood by its quotation");
        assert!(parsed.l4 < quote.l3 && quote.end <= parsed.end);
        assert!(quote.l4 == 0 || (quote.l3 < quote.l4 && quote.l4 + 4 <= quote.end));
    }
}

/// Exchanges `a..a + len` and `b..b + len`.
fn exchange(frame: &mut [u8], a: usize, b: usize, len: usize) {
    (0..len).for_each(|n| frame.swap(a + n, b + n));
}

/// The packet that answers: addresses and ports of the innermost packet exchanged, or of what it quotes.
fn answer(frame: &[u8], parsed: &Parsed) -> Vec<u8> {
    let mut answer = frame.to_vec();
    let mut ip = IpPacket::read(frame, usize::from(parsed.l3), usize::from(parsed.end)).expect("was parsed");
    if parsed.is(PacketKind::ICMP_ERROR) {
        let quoted = icmp::quoted_packet(frame, ip.payload, ip.end, ip.v6).expect("was parsed");
        ip = innermost(frame, &quoted).ip;
    }
    if ip.v6 {
        exchange(&mut answer, ip.l3 + 8, ip.l3 + 24, 16);
    } else {
        exchange(&mut answer, ip.l3 + 12, ip.l3 + 16, 4);
    }
    if protocol::has_ports(ip.protocol) && ip.end - ip.payload >= 4 && ip.fragment != Fragment::Later {
        exchange(&mut answer, ip.payload, ip.payload + 2, 2);
    }
    answer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_never_panic(link in link(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check(link, &bytes);
    }

    #[test]
    fn damaged_packets_never_panic(link in link(), frame in frame()) {
        check(link, &frame);
        for link in [0, 1, 101] {
            check(LinkType(link), &frame);
        }
    }

    #[test]
    fn both_directions_share_a_key(frame in frame()) {
        for link in [LinkType::NULL, ETH, RAW] {
            let there = parse(link, &frame);
            if there.key.is_none() || there.reason == Some(ParseReason::TruncatedTransport) {
                continue;
            }
            let back = parse(link, &answer(&frame, &there));
            prop_assert_eq!(there.key, back.key);
            if there.key.low() != there.key.high() {
                prop_assert_eq!(there.direction, back.direction.reverse());
            }
        }
    }
}
