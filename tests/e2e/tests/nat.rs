//! The translator, in an ideal chain of its own.

use chc_actors::ideal::{Outcome, StateValue};
use chc_api::packet::{Checksum, Ipv4Header, LinkType, PacketKind, Parsed, parse, protocol, view};
use chc_api::{Direction, EventKind, Identity};
use chc_e2e::driver::{ACK, Driver, FIN_ACK, Peer, RST, SYN, SYN_ACK, echo, peers, tcp, udp, unreachable};
use chc_e2e::trw::{Capture, captures, shared};
use chc_nf_catalog::nat::Mapping;
use serde_json::{Value, json};

const INNER: Peer = ([10, 0, 0, 5], 40_000);
const REMOTE: Peer = ([198, 51, 100, 7], 80);
const EXTERNAL: [u8; 4] = [203, 0, 113, 1];

fn config() -> Value {
    json!({"external": ["203.0.113.1"], "idle_s": 300, "linger_s": 10})
}

fn nat() -> Driver {
    Driver::new(&[("nat", config())], 64, None)
}

/// A translator that has one port for each protocol.
fn tiny() -> Driver {
    let config = json!({"external": ["203.0.113.1"], "ports": "2000-2000", "idle_s": 300, "linger_s": 10});
    Driver::new(&[("nat", config)], 1, None)
}

/// Whether each event says that a translation began.
fn openings(driver: &mut Driver) -> Vec<bool> {
    let opened = |kind| match kind {
        EventKind::Nat { opened, .. } => opened,
        other => panic!("{other:?}"),
    };
    driver.events().iter().map(|record| opened(record.event.kind)).collect()
}

/// The only mapping there is, and when its timer is due, milliseconds.
fn mapping(driver: &Driver) -> (Mapping, u64) {
    let values = driver.values("mapping");
    let [StateValue::Record { value, timers }] = values.as_slice() else { panic!("{values:?}") };
    (value.read().unwrap(), timers[&0].deadline.0 / 1_000_000)
}

#[test]
fn a_connection_keeps_its_port_and_answers_come_back() {
    let mut driver = nat();
    let out = driver.pass(&tcp(INNER, REMOTE, SYN));
    let (outer, remote) = peers(&out);
    assert_eq!((outer.0, remote), (EXTERNAL, REMOTE));
    assert!(outer.1 >= 1024);
    let back = driver.pass_whole(&tcp(REMOTE, outer, SYN_ACK));
    assert_eq!(back.frame, tcp(REMOTE, INNER, SYN_ACK));
    assert_eq!(back.identity, parse(LinkType::ETHERNET, &tcp(REMOTE, INNER, SYN_ACK)).identity());
    assert_eq!(driver.pass(&tcp(INNER, REMOTE, ACK)), tcp(outer, REMOTE, ACK));
    assert_eq!((driver.counter("packets_total"), driver.counter("packets_tcp")), (3, 3));
    let events = driver.events();
    assert_eq!(events.len(), 1);
    let (key, direction) = (back.identity.key, back.identity.direction.reverse());
    assert_eq!((events[0].event.key, events[0].event.direction, events[0].number), (key, direction, Some(1)));
}

#[test]
fn udp_and_echo_are_translated_each_from_ports_of_its_own() {
    let mut driver = tiny();
    let outer = (EXTERNAL, 2000);
    assert_eq!(driver.pass(&udp(INNER, REMOTE)), udp(outer, REMOTE));
    assert_eq!(driver.pass(&tcp(INNER, REMOTE, SYN)), tcp(outer, REMOTE, SYN));
    let request = driver.pass(&echo(INNER.0, REMOTE.0, 77, true));
    assert_eq!(request, echo(EXTERNAL, REMOTE.0, 2000, true));
    assert_eq!(driver.pass(&echo(REMOTE.0, EXTERNAL, 2000, false)), echo(REMOTE.0, INNER.0, 77, false));
    assert_eq!(driver.pass(&udp(REMOTE, outer)), udp(REMOTE, INNER));
    assert_eq!(driver.counter("packets_tcp"), 1);
}

#[test]
fn a_host_has_one_external_address_and_a_connection_one_port() {
    let external: Vec<String> = (1..=8).map(|n| format!("203.0.113.{n}")).collect();
    let mut driver = Driver::new(&[("nat", json!({"external": external}))], 64, None);
    let (mut used, mut addresses) = (Vec::new(), Vec::new());
    for host in 1..=40 {
        let of_host: Vec<Peer> =
            (0..10).map(|n| peers(&driver.pass(&udp(([10, 0, 0, host], 5000 + n), REMOTE))).0).collect();
        assert!(of_host.iter().all(|outer| outer.0 == of_host[0].0));
        addresses.push(of_host[0].0);
        used.extend(of_host);
    }
    let distinct = |mut of: Vec<_>| {
        of.sort();
        of.dedup();
        of.len()
    };
    assert_eq!(distinct(used), 400);
    assert_eq!(distinct(addresses.into_iter().map(|address| (address, 0)).collect()), 8);
}

#[test]
fn from_outside_only_the_remote_end_of_a_mapping_gets_in() {
    let mut driver = nat();
    let (outer, _) = peers(&driver.pass(&udp(INNER, REMOTE)));
    let internal = driver.pass(&udp(INNER, outer));
    assert_eq!(driver.drop_reason(&internal), "nat_no_mapping", "as it comes back");
    for stranger in [(REMOTE.0, 81), ([198, 51, 100, 8], 80)] {
        assert_eq!(driver.drop_reason(&udp(stranger, outer)), "nat_no_mapping");
    }
    assert_eq!(driver.drop_reason(&udp(REMOTE, (EXTERNAL, outer.1 ^ 1))), "nat_no_mapping");
    assert_eq!(driver.drop_reason(&tcp(REMOTE, outer, SYN)), "nat_no_mapping");
    assert_eq!(driver.chain.drops()["nat_no_mapping"], 5);
}

#[test]
fn an_exhausted_slot_drops_until_a_window_after_a_port_came_back() {
    let mut driver = tiny();
    driver.pass(&udp(INNER, REMOTE));
    let other = udp(([10, 0, 0, 6], 1), REMOTE);
    assert_eq!(driver.drop_reason(&other), "nat_ports_exhausted");
    driver.wait_ms(299_999);
    assert_eq!(driver.drop_reason(&other), "nat_ports_exhausted");
    driver.wait_ms(1);
    assert_eq!(openings(&mut driver), [true, false]);
    assert_eq!(driver.drop_reason(&other), "nat_ports_exhausted");
    driver.pass_window();
    assert_eq!(driver.pass(&other), udp((EXTERNAL, 2000), REMOTE));
    assert_eq!(driver.drop_reason(&udp(INNER, REMOTE)), "nat_ports_exhausted");
}

#[test]
fn fins_of_both_sides_close_and_one_does_not() {
    let mut driver = tiny();
    let outer = (EXTERNAL, 2000);
    driver.pass(&tcp(INNER, REMOTE, SYN));
    driver.pass(&tcp(INNER, REMOTE, FIN_ACK));
    driver.wait_ms(10_000);
    assert_eq!(openings(&mut driver), [true]);
    driver.pass(&tcp(REMOTE, outer, FIN_ACK));
    // The last acknowledgment still passes, and does not keep the mapping.
    driver.now_ms += 9_000;
    driver.pass(&tcp(INNER, REMOTE, ACK));
    driver.wait_ms(1_000);
    assert_eq!(openings(&mut driver), [false]);
    assert!(driver.values("mapping").is_empty() && driver.values("free_ports").is_empty());
    assert_eq!(driver.drop_reason(&tcp(REMOTE, outer, ACK)), "nat_no_mapping");
}

#[test]
fn a_reset_of_either_side_closes() {
    for from_outside in [false, true] {
        let mut driver = tiny();
        driver.pass(&tcp(INNER, REMOTE, SYN));
        driver.pass(&if from_outside { tcp(REMOTE, (EXTERNAL, 2000), RST) } else { tcp(INNER, REMOTE, RST) });
        driver.wait_ms(10_000);
        assert_eq!(openings(&mut driver), [true, false]);
    }
}

#[test]
fn a_new_syn_takes_a_closed_mapping_over() {
    let mut driver = tiny();
    driver.pass(&tcp(INNER, REMOTE, SYN));
    driver.pass(&tcp(INNER, REMOTE, RST));
    // Not one from outside, nor anything but a SYN.
    driver.pass(&tcp(REMOTE, (EXTERNAL, 2000), SYN));
    driver.pass(&tcp(INNER, REMOTE, SYN_ACK));
    assert_eq!(mapping(&driver), (Mapping { state: 4, ..mapping(&driver).0 }, 11_000));
    driver.now_ms += 1_000;
    assert_eq!(driver.pass(&tcp(INNER, REMOTE, SYN)), tcp((EXTERNAL, 2000), REMOTE, SYN));
    assert_eq!(mapping(&driver), (Mapping { state: 0, ..mapping(&driver).0 }, 302_000));
    driver.wait_ms(60_000);
    assert_eq!(openings(&mut driver), [true]);
}

#[test]
fn the_idle_timer_moves_only_by_more_than_a_sixteenth() {
    let mut driver = nat();
    driver.pass(&udp(INNER, REMOTE));
    let (of_first, due) = mapping(&driver);
    assert_eq!(due, 301_000);
    driver.now_ms += 18_750;
    driver.pass(&udp(INNER, REMOTE));
    assert_eq!(mapping(&driver), (of_first, 301_000));
    driver.now_ms += 1;
    driver.pass(&udp(REMOTE, (EXTERNAL, of_first.port)));
    assert_eq!(mapping(&driver), (of_first, 319_751));
}

#[test]
fn what_arrives_untranslated_for_an_internal_host_is_its_connections() {
    let mut driver = tiny();
    driver.pass(&tcp(REMOTE, INNER, SYN));
    assert!(driver.values("mapping").is_empty());
    driver.pass(&tcp(INNER, REMOTE, SYN));
    driver.now_ms += 100_000;
    let inbound = tcp(REMOTE, INNER, ACK);
    assert_eq!(driver.pass(&inbound), inbound);
    assert_eq!(mapping(&driver).1, 401_000);
    driver.pass(&tcp(INNER, REMOTE, FIN_ACK));
    driver.pass(&tcp(REMOTE, INNER, FIN_ACK));
    assert_eq!(mapping(&driver).0.state, 16 | 7);
    driver.wait_ms(10_000);
    assert_eq!(openings(&mut driver), [true, false]);
    assert_eq!(driver.counter("passed_unchanged"), 0);
}

#[test]
fn what_stays_on_one_side_or_is_not_understood_passes_unchanged_and_counted() {
    let mut driver = nat();
    let mut gre = udp(INNER, REMOTE);
    gre[23] = 47;
    let mut tunnel = udp(INNER, REMOTE);
    tunnel[23] = 4;
    let inner = udp(INNER, REMOTE);
    tunnel.truncate(34);
    tunnel.extend(&inner[14..]);
    tunnel[16..18].copy_from_slice(&56u16.to_be_bytes());
    let mut timestamp = echo(INNER.0, REMOTE.0, 1, true);
    timestamp[34] = 13;
    let frames = [
        udp(INNER, ([10, 9, 9, 9], 5)),
        udp(REMOTE, ([198, 51, 100, 8], 5)),
        gre,
        tunnel,
        timestamp,
        vec![0xff; 14],
        udp(INNER, REMOTE)[..36].to_vec(),
    ];
    for (frame, count) in frames.iter().zip(1..) {
        let Outcome::Forwarded(output) = driver.send(frame) else { panic!("frame {count} is dropped") };
        assert_eq!(output.frame, *frame);
        assert_eq!(driver.counter("passed_unchanged"), count, "{frame:02x?}");
    }
    let mut v6 = Vec::new();
    let step = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [2; 16], 9);
    step.tcp(1, 2, 3, 4).write(&mut v6, &[]).unwrap();
    assert_eq!(driver.pass(&v6), v6);
    assert_eq!((driver.counter("passed_ipv6"), driver.counter("packets_tcp")), (1, 1));
    assert_eq!(driver.counter("packets_total"), frames.len() as i64 + 1);
    assert!(driver.values("mapping").is_empty());
}

/// The later fragment of a datagram between two addresses.
fn later_fragment(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut frame = udp((from, 1), (to, 2));
    frame[20..22].copy_from_slice(&185u16.to_be_bytes());
    frame[24..26].fill(0);
    frame[34..].fill(7);
    let sum = Checksum::of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn of_a_later_fragment_only_the_address_changes() {
    let mut driver = nat();
    let expect_forwarded = |outcome| match outcome {
        Outcome::Forwarded(output) => output.frame,
        other => panic!("{other:?}"),
    };
    // Whatever became of its first: the address is the host's.
    let unmapped = expect_forwarded(driver.send(&later_fragment(INNER.0, REMOTE.0)));
    assert_eq!(unmapped, later_fragment(EXTERNAL, REMOTE.0));

    let (outer, _) = peers(&driver.pass(&udp(INNER, REMOTE)));
    let identity = parse(LinkType::ETHERNET, &udp(INNER, REMOTE)).identity();
    let out = expect_forwarded(driver.send_as(&later_fragment(INNER.0, REMOTE.0), identity));
    assert_eq!(out, later_fragment(EXTERNAL, REMOTE.0));
    let identity = parse(LinkType::ETHERNET, &udp(REMOTE, outer)).identity();
    let back = expect_forwarded(driver.send_as(&later_fragment(REMOTE.0, EXTERNAL), identity));
    assert_eq!(back, later_fragment(REMOTE.0, INNER.0));
    assert_eq!(driver.drop_reason(&later_fragment(REMOTE.0, EXTERNAL)), "nat_no_mapping");
}

#[test]
fn an_icmp_error_from_outside_is_translated_with_its_quotation() {
    let router = [192, 0, 2, 1];
    for inner in [tcp(INNER, REMOTE, SYN), udp(INNER, REMOTE), echo(INNER.0, REMOTE.0, 9, true)] {
        for quoted_len in [28, 36, 38, 60] {
            let mut driver = nat();
            let sent = driver.pass(&inner);
            let back = driver.pass(&unreachable(router, EXTERNAL, &sent, quoted_len));
            assert_eq!(back[26..34], [router, INNER.0].concat());
            assert_eq!(back, unreachable(router, INNER.0, &inner, quoted_len));
        }
    }
}

#[test]
fn an_icmp_error_from_inside_is_translated_with_its_quotation() {
    let mut driver = nat();
    let (outer, _) = peers(&driver.pass(&udp(INNER, REMOTE)));
    let delivered = driver.pass(&udp(REMOTE, outer));
    let out = driver.pass(&unreachable(INNER.0, REMOTE.0, &delivered, 28));
    assert_eq!(out, unreachable(EXTERNAL, REMOTE.0, &udp(REMOTE, outer), 28));
}

#[test]
fn an_icmp_error_without_a_mapping_is_dropped_and_none_refreshes_one() {
    let mut driver = nat();
    let stray = udp(REMOTE, INNER);
    assert_eq!(driver.drop_reason(&unreachable(INNER.0, REMOTE.0, &stray, 28)), "nat_no_mapping");
    let stray = udp((EXTERNAL, 4444), REMOTE);
    assert_eq!(driver.drop_reason(&unreachable(REMOTE.0, EXTERNAL, &stray, 28)), "nat_no_mapping");
    let sent = driver.pass(&tcp(INNER, REMOTE, RST));
    let before = mapping(&driver);
    driver.now_ms += 5_000;
    driver.pass(&unreachable(REMOTE.0, EXTERNAL, &sent, 40));
    assert_eq!(mapping(&driver), before);
}

#[test]
fn an_untranslated_icmp_error_for_an_internal_host_passes_unchanged() {
    let mut driver = nat();
    driver.pass(&udp(INNER, REMOTE));
    let error = unreachable(REMOTE.0, INNER.0, &udp(INNER, REMOTE), 28);
    let before = mapping(&driver);
    driver.now_ms += 60_000;
    assert_eq!(driver.pass(&error), error);
    assert_eq!(mapping(&driver), before);
}

#[test]
fn a_cut_capture_is_translated_as_far_as_it_goes() {
    let sent = udp((EXTERNAL, 4444), REMOTE);
    let whole = [tcp(INNER, REMOTE, SYN), udp(INNER, REMOTE), unreachable(REMOTE.0, EXTERNAL, &sent, 28)];
    for frame in whole {
        for len in 0..frame.len() {
            let mut driver = nat();
            if let Outcome::Forwarded(output) = driver.send(&frame[..len]) {
                assert_eq!(output.frame.len(), len);
                if output.frame != frame[..len] {
                    assert_eq!(output.frame[26..30], EXTERNAL);
                }
            }
        }
    }
}

#[test]
fn a_connection_is_named_by_its_inner_endpoints_in_its_events() {
    let mut driver = tiny();
    let identity = parse(LinkType::ETHERNET, &udp(INNER, REMOTE)).identity();
    driver.pass(&udp(INNER, REMOTE));
    driver.wait_ms(300_000);
    let named: Vec<Identity> = driver
        .events()
        .iter()
        .map(|record| Identity { key: record.event.key, direction: record.event.direction })
        .collect();
    assert_eq!(named, [identity, identity]);
    assert_eq!(identity.direction, Direction::LowToHigh);
}

/// By how much the checksums of the IP header and of what is behind it are wrong, modulo 2^16 - 1, as
/// far as captured.
fn errors(frame: &[u8], parsed: &Parsed) -> [u16; 2] {
    let (l3, l4, end) = (usize::from(parsed.l3), usize::from(parsed.l4), usize::from(parsed.end));
    let Some(ip) = view::<Ipv4Header>(frame, l3) else { return [0; 2] };
    let header = Checksum::of(&frame[l3..(l3 + ip.header_len()).min(end)]) % 0xffff;
    let body = if l4 == 0 { &[] } else { &frame[l4..end] };
    let pseudo = Checksum::pseudo_v4(ip.src_addr(), ip.dst_addr(), parsed.protocol, 0);
    let transport = match parsed.protocol {
        protocol::TCP if body.len() >= 18 => pseudo.bytes(body).finish(),
        protocol::UDP if body.len() >= 8 && body[6..8] != [0, 0] => pseudo.bytes(body).finish(),
        protocol::ICMP if body.len() >= 8 => Checksum::of(body),
        _ => 0,
    };
    [header, transport % 0xffff]
}

#[test]
fn no_real_packet_leaves_with_a_checksum_more_wrong_than_it_came() {
    let Some(shared) = shared() else {
        println!("skipped: ../shared/traces not present");
        return;
    };
    let (mut translated, mut dropped) = (0, 0);
    for path in captures(&shared.join("traces")).unwrap() {
        let capture = Capture::read(&path).unwrap();
        let mut driver = Driver::new(&[("nat", config()), ("portscan", json!({}))], 64, None);
        for (input, outcome) in capture.inputs().map(|input| (input, driver.chain.feed(&input))) {
            let [Outcome::Forwarded(output)] = outcome.as_slice() else {
                dropped += 1;
                continue;
            };
            if output.frame == input.frame {
                continue;
            }
            translated += 1;
            assert!(input.parsed.is(PacketKind::IPV4) && output.frame.len() == input.frame.len());
            let (before, after) = (errors(input.frame, &input.parsed), errors(&output.frame, &input.parsed));
            assert_eq!(before, after, "{} packet {}", path.display(), input.number);
        }
        assert_eq!(driver.counter("packets_total"), capture.len() as i64);
    }
    assert!(translated > 30_000 && dropped < translated / 10, "{translated} translated, {dropped} dropped");
}
