use super::*;
use etherparse::{
    IcmpEchoHeader, Icmpv4Slice, Icmpv6Slice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
};
use proptest::prelude::*;

const INSIDE: Mac = Mac([2, 0, 0, 0, 0, 1]);
const OUTSIDE: Mac = Mac([2, 0, 0, 0, 0, 2]);
const HOST: Mac = Mac([2, 0, 0, 0, 1, 1]);
const NEXT: Mac = Mac([2, 0, 0, 0, 2, 1]);
const HOST_V4: [u8; 4] = [192, 168, 77, 10];
const FAR_V4: [u8; 4] = [198, 51, 100, 7];
const NOW: Time = Time(1_000_000_000_000);

type Sent = Vec<(Side, Vec<u8>)>;

fn router(mtu: u32) -> Router {
    let side = |mac, mtu, addresses: [&str; 2], gateways: &[&str]| RouterSide {
        mac,
        mtu,
        addresses: addresses.map(|text| text.parse().unwrap()).to_vec(),
        gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
    };
    Router::new([
        side(INSIDE, 1500, ["192.168.77.1/24", "fd77::1/64"], &[]),
        side(OUTSIDE, mtu, ["203.0.113.2/24", "2001:db8::2/64"], &["203.0.113.1", "2001:db8::1"]),
    ])
}

fn admit(router: &mut Router, side: Side, frame: &[u8]) -> (Admission, Sent) {
    let mut sent = Sent::new();
    let admission = router.admit(NOW, side, frame, &mut |to, pieces| sent.push((to, pieces.concat())));
    (admission, sent)
}

/// Sends a frame on, cut where the root would cut it.
fn forward(router: &mut Router, frame: &[u8]) -> Sent {
    let mut sent = Sent::new();
    let (head, tail) = frame.split_at(frame.len().min(74));
    router.forward(NOW, Side::Inside, (head, tail), &mut |to, pieces| sent.push((to, pieces.concat())));
    sent
}

fn arp(kind: u8, sender: (Mac, [u8; 4]), target: (Mac, [u8; 4]), to: Mac) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET];
    ethernet(&mut frame, to, sender.0, ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, kind]);
    for (mac, address) in [sender, target] {
        frame.extend(mac.0);
        frame.extend(address);
    }
    frame
}

fn udp_v4(to_mac: Mac, to: [u8; 4], ttl: u8, len: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let payload: Vec<u8> = (0..len).map(|at| at as u8).collect();
    let ip = PacketBuilder::ethernet2(HOST.0, to_mac.0).ipv4(HOST_V4, to, ttl);
    ip.udp(4000, 53).write(&mut frame, &payload).unwrap();
    // It may be fragmented.
    frame[ETHERNET + 6] = 0;
    sum_v4(&mut frame[ETHERNET..ETHERNET + V4_LEN]);
    frame
}

fn udp_v6(to: &str, hops: u8, len: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let (from, to): (Ipv6Addr, Ipv6Addr) = ("fd77::10".parse().unwrap(), to.parse().unwrap());
    let ip = PacketBuilder::ethernet2(HOST.0, INSIDE.0).ipv6(from.octets(), to.octets(), hops);
    ip.udp(4000, 53).write(&mut frame, &vec![7; len]).unwrap();
    frame
}

/// A router that knows the next one, of both families.
fn acquainted(mtu: u32) -> Router {
    let mut router = router(mtu);
    for frame in [udp_v4(INSIDE, FAR_V4, 64, 1), udp_v6("2001:db8:99::7", 64, 1)] {
        forward(&mut router, &frame);
    }
    admit(
        &mut router,
        Side::Outside,
        &arp(2, (NEXT, [203, 0, 113, 1]), (OUTSIDE, [203, 0, 113, 2]), OUTSIDE),
    );
    let next: Ipv6Addr = "2001:db8::1".parse().unwrap();
    let answer = discovery(NEXT, OUTSIDE, next, "2001:db8::2".parse().unwrap(), 136, 0x60, next);
    let (_, sent) = admit(&mut router, Side::Outside, &answer);
    assert_eq!(sent.len(), 1, "what waited for it");
    router
}

/// The ICMP type, code and second word of an answer, whom it is for, and what it quotes.
fn complaint(frame: &[u8]) -> (u8, u8, u32, IpAddr, Vec<u8>) {
    let parsed = SlicedPacket::from_ethernet(frame).expect("it is a packet");
    let word = |bytes: [u8; 4]| u32::from_be_bytes(bytes);
    match (parsed.net.unwrap(), parsed.transport.unwrap()) {
        (NetSlice::Ipv4(ip), TransportSlice::Icmpv4(icmp)) => {
            assert!(sums_v4(&ip.header().to_header(), &icmp));
            let to = IpAddr::from(ip.header().destination());
            (icmp.type_u8(), icmp.code_u8(), word(icmp.bytes5to8()), to, icmp.payload().to_vec())
        }
        (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) => {
            assert!(sums_v6(&ip, &icmp));
            let to = IpAddr::from(ip.header().destination());
            (icmp.type_u8(), icmp.code_u8(), word(icmp.bytes5to8()), to, icmp.payload().to_vec())
        }
        other => panic!("no answer: {other:?}"),
    }
}

fn sums_v4(ip: &etherparse::Ipv4Header, icmp: &Icmpv4Slice<'_>) -> bool {
    ip.header_checksum == ip.calc_header_checksum() && Checksum::of(icmp.slice()) == 0
}

fn sums_v6(ip: &etherparse::Ipv6Slice<'_>, icmp: &Icmpv6Slice<'_>) -> bool {
    icmp.is_checksum_valid(ip.header().source(), ip.header().destination())
}

#[test]
fn it_answers_for_its_own_addresses_alone() {
    let mut router = router(1500);
    let ask = |target| arp(1, (HOST, HOST_V4), (Mac::default(), target), Mac::BROADCAST);
    let (admission, sent) = admit(&mut router, Side::Inside, &ask([192, 168, 77, 1]));
    let reply = arp(2, (INSIDE, [192, 168, 77, 1]), (HOST, HOST_V4), HOST);
    assert_eq!((admission, sent), (Admission::Done, vec![(Side::Inside, reply)]));
    for other in [[192, 168, 77, 2], [203, 0, 113, 2]] {
        assert_eq!(admit(&mut router, Side::Inside, &ask(other)), (Admission::Done, vec![]));
    }
    let (target, from): (Ipv6Addr, Ipv6Addr) = ("fd77::1".parse().unwrap(), "fd77::10".parse().unwrap());
    let group = "ff02::1:ff00:1".parse().unwrap();
    let question = discovery(HOST, Mac([0x33, 0x33, 0xff, 0, 0, 1]), from, group, 135, 0, target);
    let (_, sent) = admit(&mut router, Side::Inside, &question);
    let (kind, _, flags, to, body) = complaint(&sent[0].1);
    assert_eq!((kind, flags >> 24, to), (136, 0xe0, from.into()));
    assert_eq!((&body[..16], &body[16..]), (&target.octets()[..], &[2, 1, 2, 0, 0, 0, 0, 1][..]));
}

#[test]
fn packets_wait_for_their_next_hop_and_go_on_with_a_hop_less() {
    let mut router = router(1500);
    let frame = udp_v4(INSIDE, FAR_V4, 64, 100);
    assert_eq!(admit(&mut router, Side::Inside, &frame), (Admission::Chain, vec![]));
    let asked = arp(1, (OUTSIDE, [203, 0, 113, 2]), (Mac::default(), [203, 0, 113, 1]), Mac::BROADCAST);
    assert_eq!(forward(&mut router, &frame), [(Side::Outside, asked)]);
    let answer = arp(2, (NEXT, [203, 0, 113, 1]), (OUTSIDE, [203, 0, 113, 2]), OUTSIDE);
    let (_, sent) = admit(&mut router, Side::Outside, &answer);
    let mut expected = udp_v4(NEXT, FAR_V4, 63, 100);
    expected[6..12].copy_from_slice(&OUTSIDE.0);
    assert_eq!(sent, [(Side::Outside, expected.clone())]);
    assert_eq!(forward(&mut router, &frame), [(Side::Outside, expected)]);
}

#[test]
fn packets_go_by_their_destination() {
    let router = acquainted(1500);
    let way = |to: &str| router.way(to.parse().unwrap());
    let hop = |side, to: &str| Some((side, to.parse().unwrap()));
    assert_eq!(way("192.168.77.20"), hop(Side::Inside, "192.168.77.20"));
    assert_eq!(way("203.0.113.9"), hop(Side::Outside, "203.0.113.9"));
    assert_eq!(way("8.8.8.8"), hop(Side::Outside, "203.0.113.1"));
    assert_eq!(way("fd77::20"), hop(Side::Inside, "fd77::20"));
    assert_eq!(way("2606::1"), hop(Side::Outside, "2001:db8::1"));
}

#[test]
fn what_is_for_others_or_for_groups_is_left_alone() {
    let mut router = router(1500);
    let others =
        [udp_v4(HOST, FAR_V4, 64, 1), udp_v4(INSIDE, [224, 0, 0, 1], 64, 1), udp_v4(INSIDE, [255; 4], 64, 1)];
    for frame in others {
        assert_eq!(admit(&mut router, Side::Inside, &frame), (Admission::Done, vec![]));
    }
    assert_eq!(router.counts().not_for_it, 3);
    let mut tagged = udp_v4(INSIDE, FAR_V4, 64, 1);
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    assert_eq!(admit(&mut router, Side::Inside, &tagged), (Admission::Done, vec![]));
    assert_eq!(router.counts().not_ip, 1);
}

#[test]
fn an_echo_to_an_inside_address_is_answered_and_one_to_an_outside_address_is_the_chains() {
    let mut router = router(1500);
    let echo = |to: [u8; 4]| {
        let mut frame = Vec::new();
        let ip = PacketBuilder::ethernet2(HOST.0, INSIDE.0).ipv4(HOST_V4, to, 1);
        ip.icmpv4_echo_request(7, 3).write(&mut frame, b"hello").unwrap();
        frame
    };
    let (admission, sent) = admit(&mut router, Side::Inside, &echo([192, 168, 77, 1]));
    let (kind, code, word, to, payload) = complaint(&sent[0].1);
    let header = IcmpEchoHeader { id: 7, seq: 3 };
    assert_eq!((admission, kind, code, word.to_be_bytes()), (Admission::Done, 0, 0, header.to_bytes()));
    assert_eq!((to, payload.as_slice()), (HOST_V4.into(), &b"hello"[..]));
    let mut to_nat = echo([203, 0, 113, 2]);
    to_nat[22] = 64;
    assert_eq!(admit(&mut router, Side::Inside, &to_nat).0, Admission::Chain);
}

#[test]
fn who_sent_a_packet_whose_time_has_ended_is_told() {
    let mut router = router(1500);
    let frame = udp_v4(INSIDE, FAR_V4, 1, 20);
    let (admission, sent) = admit(&mut router, Side::Inside, &frame);
    let (kind, code, _, to, quote) = complaint(&sent[0].1);
    assert_eq!((admission, kind, code, to), (Admission::Done, 11, 0, HOST_V4.into()));
    assert_eq!((sent[0].0, mac_at(&sent[0].1, 0), quote), (Side::Inside, HOST, frame[ETHERNET..].to_vec()));
    let (_, sent) = admit(&mut router, Side::Inside, &udp_v6("2001:db8:99::7", 1, 20));
    assert_eq!(complaint(&sent[0].1).0, 3);
}

#[test]
fn answers_are_not_answered_and_not_without_bound() {
    let mut router = router(1500);
    let error = answer(IpAddr::from(HOST_V4), &udp_v4(INSIDE, FAR_V4, 9, 20), Complaint::Time);
    let mut error = error.expect("it is answered");
    ethernet(&mut error, INSIDE, HOST, IPV4);
    error[ETHERNET + 16..ETHERNET + 20].copy_from_slice(&FAR_V4);
    error[ETHERNET + 8] = 1;
    assert_eq!(admit(&mut router, Side::Inside, &error), (Admission::Done, vec![]));
    let frame = udp_v4(INSIDE, FAR_V4, 1, 20);
    let answers: usize = (0..500).map(|_| admit(&mut router, Side::Inside, &frame).1.len()).sum();
    assert_eq!(answers, ERRORS_MAX as usize);
}

#[test]
fn a_packet_too_long_for_the_next_link_is_answered_from_behind_the_chain() {
    let mut router = acquainted(1000);
    let mut frame = udp_v4(INSIDE, FAR_V4, 64, 1200);
    frame[ETHERNET + 6] |= 0x40;
    assert!(forward(&mut router, &frame).is_empty());
    let (side, own) = router.take_own().expect("an answer");
    let (kind, code, mtu, to, _) = complaint(&own);
    assert_eq!((side, kind, code, mtu, to), (Side::Outside, 3, 4, 1000, HOST_V4.into()));
    assert!(forward(&mut router, &udp_v6("2001:db8:99::7", 64, 1200)).is_empty());
    let (_, own) = router.take_own().expect("an answer");
    let (kind, _, mtu, ..) = complaint(&own);
    assert_eq!((kind, mtu, router.counts().too_long), (2, 1000, 2));
    for _ in 0..2 * OWN_MAX {
        forward(&mut router, &frame);
    }
    assert!(std::iter::from_fn(|| router.take_own()).count() <= OWN_MAX);
}

#[test]
fn a_packet_that_may_be_fragmented_is() {
    let mut router = acquainted(600);
    let sent = forward(&mut router, &udp_v4(INSIDE, FAR_V4, 64, 1200));
    let mut whole = Vec::new();
    for (at, (_, frame)) in sent.iter().enumerate() {
        let ip = &frame[ETHERNET..];
        assert!(ip.len() <= 600 && usize::from(u16_at(ip, 2)) == ip.len());
        assert_eq!(Checksum::of(&ip[..V4_LEN]), 0);
        assert_eq!(usize::from(u16_at(ip, 6) & 0x1fff) * 8, whole.len());
        assert_eq!(u16_at(ip, 6) & 0x2000 == 0, at + 1 == sent.len());
        whole.extend_from_slice(&ip[V4_LEN..]);
    }
    assert_eq!((sent.len(), whole[8..].to_vec()), (3, (0..1200).map(|at| at as u8).collect::<Vec<_>>()));
}

#[test]
fn what_has_no_way_is_counted() {
    let mut router = router(1500);
    router.sides[1].gateways.clear();
    assert!(forward(&mut router, &udp_v4(INSIDE, FAR_V4, 64, 1)).is_empty());
    assert!(forward(&mut router, &udp_v4(INSIDE, [192, 168, 77, 1], 64, 1)).is_empty());
    assert_eq!((router.counts().no_route, router.counts().own), (1, 1));
}

#[test]
fn who_sent_what_has_no_way_or_finds_no_answer_is_told_by_way_of_the_chain() {
    let mut router = router(1500);
    let (v4, v6) = (udp_v4(INSIDE, FAR_V4, 64, 100), udp_v6("2001:db8:99::7", 64, 100));
    for frame in [&v4, &v6] {
        forward(&mut router, frame);
    }
    assert!(router.take_own().is_none(), "it is asked for");
    (1..=4).for_each(|second| router.on_time(Time(NOW.0 + second * 1_000_000_000), &mut |_, _| {}));
    router.sides[1].gateways.clear();
    for frame in [&v4, &v6] {
        forward(&mut router, frame);
    }
    let told: Vec<_> = std::iter::from_fn(|| router.take_own()).collect();
    let said = |frame: &[u8]| (complaint(frame).0, complaint(frame).1);
    let all: Vec<_> = told.iter().map(|(side, frame)| (*side, said(frame))).collect();
    let kinds = [(3, 1), (1, 3), (3, 0), (1, 0)];
    assert_eq!(all, kinds.map(|kind| (Side::Outside, kind)));
    let v4_told: Vec<IpAddr> = told.iter().step_by(2).map(|(_, frame)| complaint(frame).3).collect();
    assert_eq!(v4_told, [IpAddr::from(HOST_V4); 2]);
    assert_eq!((router.counts().unreachable, router.counts().no_route), (2, 2));
}

#[test]
fn what_leaves_from_inside_for_an_outside_address_comes_back_through_the_chain() {
    let mut router = router(1500);
    let to_outside = udp_v4(INSIDE, [203, 0, 113, 2], 64, 100);
    assert!(forward(&mut router, &to_outside).is_empty());
    let (side, frame) = router.take_own().expect("it comes back");
    assert_eq!(
        (side, frame[ETHERNET + 8], Checksum::of(&frame[ETHERNET..ETHERNET + V4_LEN])),
        (Side::Outside, 63, 0)
    );
    assert_eq!(frame[ETHERNET + V4_LEN..], to_outside[ETHERNET + V4_LEN..]);
    // Not for ever.
    let mut sent = Sent::new();
    router.forward(NOW, Side::Outside, (&frame, &[]), &mut |to, pieces| sent.push((to, pieces.concat())));
    assert!(sent.is_empty() && router.take_own().is_none() && router.counts().own == 1);
    for _ in 0..=OWN_MAX {
        forward(&mut router, &to_outside);
    }
    assert_eq!(router.counts().turned_away, 1);
}

proptest! {
    #[test]
    fn no_frame_can_do_harm(
        kind in prop::sample::select(vec![ARP, IPV4, IPV6, [0x81, 0]]),
        first in prop::sample::select(vec![0x45, 0x46, 0x4f, 0x60, 0]),
        body in prop::collection::vec(any::<u8>(), 0..120),
        mtu in 0u32..100,
    ) {
        let mut frame = [&INSIDE.0[..], &HOST.0[..], &kind[..], &[first][..], &body[..]].concat();
        let mut router = router(mtu);
        admit(&mut router, Side::Inside, &frame);
        forward(&mut router, &frame);
        frame.truncate(20);
        admit(&mut router, Side::Outside, &frame);
        forward(&mut router, &frame);
    }
}
