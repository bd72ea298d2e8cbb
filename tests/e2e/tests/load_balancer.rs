//! The load balancer, in an ideal chain of its own.

use chc_actors::ideal::StateValue;
use chc_api::packet::{LinkType, parse};
use chc_e2e::driver::{ACK, Driver, FIN_ACK, Peer, RST, SYN, SYN_ACK, peers, tcp, udp, unreachable};
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
