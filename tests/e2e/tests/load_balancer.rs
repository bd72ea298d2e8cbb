//! The load balancer, in an ideal chain of its own.

use chc_actors::chain::run::RunOptions;
use chc_actors::chain::verify::verify;
use chc_actors::ideal::StateValue;
use chc_api::EventKind;
use chc_api::packet::{LinkType, parse};
use chc_e2e::chain::{kill, plan};
use chc_e2e::command::Scratch;
use chc_e2e::driver::{
    ACK, Driver, FIN_ACK, Peer, RST, SYN, SYN_ACK, peers, tcp, udp, unreachable, unreachable_v6,
};
use chc_runtime::capture::{CaptureWriter, Format};
use serde_json::json;

const VIRTUAL: [u8; 4] = [203, 0, 113, 80];
const BACKENDS: [[u8; 4]; 3] = [[10, 1, 0, 1], [10, 1, 0, 2], [10, 1, 0, 3]];

fn balancer() -> Driver {
    let backends = ["10.1.0.1", "10.1.0.2", "10.1.0.3"];
    let services = [
        json!({"match": "tcp/80,443", "backends": backends, "connections_max": 3}),
        json!({"match": "udp/53", "backends": backends}),
    ];
    Driver::new(&[("load_balancer", json!({"services": services, "idle_s": 60, "linger_s": 5}))], 16, None)
}

fn client(number: u16) -> Peer {
    ([198, 51, 100, number as u8], 40_000 + number)
}

/// The backend a frame of a client leaves for.
fn backend(driver: &mut Driver, frame: &[u8]) -> [u8; 4] {
    peers(&driver.pass(frame)).1.0
}

fn open(driver: &mut Driver, number: u16) -> [u8; 4] {
    backend(driver, &tcp(client(number), (VIRTUAL, 80), SYN))
}

fn cells(driver: &Driver, counters: &str) -> Vec<i64> {
    let cell = |value| if let StateValue::Int(count) = value { count } else { panic!("{value:?}") };
    driver.values(counters).into_iter().map(cell).collect()
}

#[test]
fn every_connection_goes_to_the_backend_with_the_fewest_and_stays_there() {
    let mut driver = balancer();
    let mut load = [0; 3];
    let mut bytes = [0; 3];
    for number in 0..7 {
        let least = load.iter().min().unwrap();
        let want = load.iter().position(|of| of == least).unwrap();
        load[want] += 1;
        assert_eq!(open(&mut driver, number), BACKENDS[want]);
        for _ in 0..3 {
            let frame = tcp(client(number), (VIRTUAL, 80), ACK);
            assert_eq!(backend(&mut driver, &frame), BACKENDS[want]);
            bytes[want] += frame.len() as i64;
        }
        bytes[want] += tcp(client(number), (VIRTUAL, 80), SYN).len() as i64;
    }
    assert_eq!(cells(&driver, "connections"), load);
    assert_eq!(cells(&driver, "bytes"), bytes);
}

#[test]
fn what_a_backend_answers_comes_from_the_address_the_client_asked() {
    let mut driver = balancer();
    let at = open(&mut driver, 1);
    let back = driver.pass_whole(&tcp((at, 80), client(1), SYN_ACK));
    let want = tcp((VIRTUAL, 80), client(1), SYN_ACK);
    assert_eq!(back.frame, want);
    assert_eq!(back.identity, parse(LinkType::ETHERNET, &want).identity());
    let other = BACKENDS.into_iter().find(|backend| *backend != at).unwrap();
    let stray = tcp((other, 80), client(1), ACK);
    assert_eq!(driver.pass(&stray), stray, "another backend does not speak for the connection");
    let untranslated = tcp((VIRTUAL, 80), client(1), ACK);
    assert_eq!(driver.pass(&untranslated), untranslated);
}

#[test]
fn an_error_about_a_connection_is_translated_with_what_it_quotes() {
    let mut driver = balancer();
    let at = open(&mut driver, 1);
    let error = unreachable(at, client(1).0, &tcp(client(1), (at, 80), SYN), 28);
    let want = unreachable(VIRTUAL, client(1).0, &tcp(client(1), (VIRTUAL, 80), SYN), 28);
    let got = driver.pass(&error);
    assert_eq!(peers_of_quote(&got), peers_of_quote(&want));
    assert_eq!(got[26..30], VIRTUAL);
}

/// Addresses and ports in the packet an ICMP error quotes.
fn peers_of_quote(frame: &[u8]) -> &[u8] {
    &frame[14 + 20 + 8 + 12..][..12]
}

#[test]
fn closed_and_idle_connections_make_room() {
    let mut driver = balancer();
    for number in 0..9 {
        open(&mut driver, number);
    }
    // The second client's backend is the second; a RST, and a FIN of each side, end a connection.
    driver.pass(&tcp(client(1), (VIRTUAL, 80), RST));
    assert_eq!(open(&mut driver, 10), BACKENDS[1]);
    driver.pass(&tcp(client(2), (VIRTUAL, 80), FIN_ACK));
    driver.pass(&tcp((BACKENDS[2], 80), client(2), FIN_ACK));
    assert_eq!(open(&mut driver, 11), BACKENDS[2]);
    driver.wait_ms(61_000);
    assert_eq!(open(&mut driver, 12), BACKENDS[0], "all others have idled out");
    assert_eq!(cells(&driver, "connections"), [4, 4, 4]);
}

#[test]
fn services_count_for_themselves_and_what_is_of_none_passes() {
    let mut driver = balancer();
    assert_eq!(open(&mut driver, 1), BACKENDS[0]);
    assert_eq!(backend(&mut driver, &udp(client(2), (VIRTUAL, 53))), BACKENDS[0]);
    assert_eq!(backend(&mut driver, &udp(client(3), (VIRTUAL, 53))), BACKENDS[1]);
    let other = tcp(client(4), (VIRTUAL, 22), SYN);
    assert_eq!(driver.pass(&other), other);
    let middle = tcp(client(5), (VIRTUAL, 80), ACK);
    assert_eq!(driver.pass(&middle), middle, "its beginning was not seen");
    assert_eq!((driver.counter("passed_unchanged"), driver.counter("passed_unknown")), (1, 1));
}

const VIRTUAL_V6: [u8; 16] = address_v6(80);
const BACKENDS_V6: [[u8; 16]; 2] = [address_v6(1), address_v6(2)];

const fn address_v6(last: u8) -> [u8; 16] {
    [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

fn client_v6(number: u8) -> Peer<[u8; 16]> {
    (address_v6(100 + number), 40_000 + u16::from(number))
}

/// Port 80 by both families.
fn services_of_both() -> serde_json::Value {
    json!([
        {"match": "tcp/80", "backends": ["10.1.0.1"]},
        {"match": "tcp/80", "backends": ["2001:db8::1", "2001:db8::2"]},
        {"match": "udp/53", "backends": ["2001:db8::2"], "connections_max": 1},
    ])
}

fn balancer_of_both() -> Driver {
    let config = json!({ "services": services_of_both(), "idle_s": 60, "linger_s": 5 });
    Driver::new(&[("load_balancer", config)], 16, None)
}

/// Where an IPv6 frame goes.
fn destination_v6(frame: &[u8]) -> [u8; 16] {
    *frame[38..].first_chunk().unwrap()
}

#[test]
fn connections_go_to_backends_of_their_family() {
    let mut driver = balancer_of_both();
    assert_eq!(open(&mut driver, 1), BACKENDS[0]);
    for number in 0..4 {
        let backend = BACKENDS_V6[usize::from(number % 2)];
        let syn = tcp(client_v6(number), (VIRTUAL_V6, 80), SYN);
        assert_eq!(destination_v6(&driver.pass(&syn)), backend);
        let data = tcp(client_v6(number), (VIRTUAL_V6, 80), ACK);
        assert_eq!(driver.pass(&data), tcp(client_v6(number), (backend, 80), ACK));
        let back = driver.pass_whole(&tcp((backend, 80), client_v6(number), ACK));
        assert_eq!(back.frame, tcp((VIRTUAL_V6, 80), client_v6(number), ACK));
        assert_eq!(back.identity, parse(LinkType::ETHERNET, &back.frame).identity());
    }
    let question = |number| udp(client_v6(number), (VIRTUAL_V6, 53));
    assert_eq!(driver.pass(&question(1)), udp(client_v6(1), (BACKENDS_V6[1], 53)));
    assert_eq!(driver.drop_reason(&question(2)), "lb_no_backend");
    assert_eq!(cells(&driver, "connections"), [1, 2, 2, 1]);
    let servers = driver.events().into_iter().map(|record| match record.event.kind {
        EventKind::Flow { server, .. } => server.to_string(),
        other => panic!("{other:?}"),
    });
    let want = ["10.1.0.1", "2001:db8::1", "2001:db8::2", "2001:db8::1", "2001:db8::2", "2001:db8::2"];
    assert_eq!(servers.collect::<Vec<_>>(), want);
}

#[test]
fn an_error_by_ipv6_is_translated_with_what_it_quotes_and_its_checksum() {
    let mut driver = balancer_of_both();
    let backend = destination_v6(&driver.pass(&tcp(client_v6(1), (VIRTUAL_V6, 80), SYN)));
    for quoted_len in [48, 60, 64] {
        // From the backend to the client, then from a router on its way to the backend.
        let error = |of: [u8; 16], from: [u8; 16]| {
            unreachable_v6(from, client_v6(1).0, &tcp(client_v6(1), (of, 80), ACK), quoted_len)
        };
        assert_eq!(driver.pass(&error(backend, backend)), error(VIRTUAL_V6, VIRTUAL_V6), "{quoted_len}");
        let router = address_v6(77);
        assert_eq!(driver.pass(&error(backend, router)), error(VIRTUAL_V6, router), "{quoted_len}");
        // From the client to the backend, about what that has sent.
        let error =
            |of: [u8; 16]| unreachable_v6(client_v6(1).0, of, &tcp((of, 80), client_v6(1), ACK), quoted_len);
        assert_eq!(driver.pass(&error(VIRTUAL_V6)), error(backend), "{quoted_len}");
    }
}

/// What clients and servers of a service by IPv6 send. It depends on the backends that connections get, which an ideal chain
/// tells.
fn conversations_v6(backends: &[&str]) -> Vec<Vec<u8>> {
    let services = json!([{"match": "tcp/80", "backends": backends}]);
    let mut driver = Driver::new(&[("load_balancer", json!({ "services": services }))], 16, None);
    let mut frames = Vec::new();
    for (flags, answer) in [(SYN, SYN_ACK)].into_iter().chain([(ACK, ACK); 30]).chain([(FIN_ACK, FIN_ACK)]) {
        for number in 0..100 {
            let frame = tcp(client_v6(number), (VIRTUAL_V6, 80), flags);
            let backend = destination_v6(&driver.pass(&frame));
            let back = tcp((backend, 80), client_v6(number), answer);
            driver.pass(&back);
            frames.extend([frame, back]);
        }
    }
    frames
}

#[test]
fn instances_may_die_under_connections_by_ipv6() {
    let frames = conversations_v6(&["2001:db8::1", "2001:db8::2"]);
    let scratch = Scratch::new();
    let path = scratch.path("in.pcap");
    let mut writer = CaptureWriter::create(&path, Format::Pcap, LinkType::ETHERNET).unwrap();
    for (at, frame) in frames.iter().enumerate() {
        writer.write(at as u64 * 10_000, LinkType::ETHERNET, frame.len() as u32, &[frame]).unwrap();
    }
    writer.finish().unwrap();
    let services = r#"[{ match = "tcp/80", backends = ["2001:db8::1", "2001:db8::2"] }]"#;
    let plan = plan("load_balancer", &[format!("vertex.load_balancer.config.services={services}")]);
    let packets = frames.len() as u64;
    let kills = [kill("load_balancer/0", packets / 3), kill("load_balancer/1", packets / 2)];
    let options = RunOptions { kills: kills.to_vec(), record: true, ..RunOptions::default() };
    let (outcome, comparison) = verify(&plan, &path, &options, |_| {}).unwrap();
    assert_eq!(comparison.first_difference, None);
    assert_eq!(outcome.egress.packets, packets);
    assert!(comparison.events >= 100 && outcome.recoveries.len() == 2, "{comparison:?}");
}
