//! What the RFCs ask of a NAT, requirement by requirement: the tests that `nat-catalog/NAT.md` names, as far as they are not in
//! `nat.rs` with the rest of the translator.

use chc_actors::ideal::StateValue;
use chc_e2e::driver::{ACK, Driver, FIN_ACK, Peer, RST, SYN, SYN_ACK, echo, peers, tcp, udp, unreachable};
use serde_json::{Value, json};

const INNER: Peer = ([10, 0, 0, 5], 40_000);
const OTHER: Peer = ([10, 0, 0, 6], 50_000);
const REMOTE: Peer = ([198, 51, 100, 7], 80);
/// Another port of the same host, and another host.
const STRANGERS: [Peer; 2] = [([198, 51, 100, 7], 81), ([198, 51, 100, 8], 80)];

fn nat(more: Value) -> Driver {
    let mut config = json!({"external": ["203.0.113.1", "203.0.113.2"]});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Driver::new(&[("nat", config)], 64, None)
}

fn shared(filtering: &str) -> Driver {
    nat(json!({"mapping": "endpoint_independent", "filtering": filtering}))
}

/// The external end of what this packet becomes.
fn outer(driver: &mut Driver, frame: &[u8]) -> Peer {
    peers(&driver.pass(frame)).0
}

#[test]
fn all_connections_of_an_endpoint_have_one_external_address_and_port() {
    let mut driver = shared("endpoint_independent");
    let first = outer(&mut driver, &udp(INNER, REMOTE));
    for remote in STRANGERS {
        assert_eq!(outer(&mut driver, &udp(INNER, remote)), first);
    }
    let first = outer(&mut driver, &tcp(INNER, REMOTE, SYN));
    assert_eq!(outer(&mut driver, &tcp(INNER, STRANGERS[1], SYN)), first);
    assert_ne!(outer(&mut driver, &tcp((INNER.0, 40_001), REMOTE, SYN)), first);
    let identifier = |frame: Vec<u8>| frame[38..40].to_vec();
    let first = identifier(driver.pass(&echo(INNER.0, REMOTE.0, 7, true)));
    assert_eq!(identifier(driver.pass(&echo(INNER.0, STRANGERS[1].0, 7, true))), first);
    assert_eq!((driver.values("binding").len(), driver.values("mapping").len()), (4, 8));
}

#[test]
fn a_port_is_kept_while_it_is_free_and_else_stays_even_or_odd() {
    for mapping in ["endpoint_independent", "address_and_port_dependent"] {
        let mut driver = nat(json!({
            "external": ["203.0.113.1"], "mapping": mapping, "port_preservation": true, "linger_s": 1,
        }));
        for port in [1024, 40_000, 40_001, 65_535] {
            assert_eq!(outer(&mut driver, &udp((INNER.0, port), REMOTE)).1, port, "{mapping}");
            let other = outer(&mut driver, &udp((OTHER.0, port), REMOTE)).1;
            assert!(other != port && other % 2 == port % 2, "{mapping}: {port} became {other}");
        }
        // A well-known one is not in the range.
        let low = outer(&mut driver, &udp((INNER.0, 123), REMOTE)).1;
        assert!(low >= 1024 && low % 2 == 1, "{low}");
        // TCP has ports of its own; one that was given back is kept by the next when it has rested.
        assert_eq!(outer(&mut driver, &tcp(INNER, REMOTE, SYN)).1, INNER.1);
        driver.pass(&tcp(INNER, REMOTE, RST));
        driver.wait_ms(2_000);
        driver.pass_window();
        assert_eq!(outer(&mut driver, &tcp((OTHER.0, INNER.1), REMOTE, SYN)).1, INNER.1);
        let mut identifier = |host| {
            let frame = driver.pass(&echo(host, REMOTE.0, 4321, true));
            u16::from_be_bytes([frame[38], frame[39]])
        };
        assert_eq!(identifier(INNER.0), 4321);
        let other = identifier(OTHER.0);
        assert!(other != 4321 && other % 2 == 1, "{other}");
    }
}

#[test]
fn a_port_is_free_when_the_last_connection_of_its_endpoint_has_ended() {
    let mut driver = shared("address_dependent");
    driver.pass(&udp(INNER, REMOTE));
    driver.now_ms += 200_000;
    let outer = outer(&mut driver, &udp(INNER, STRANGERS[1]));
    driver.wait_ms(100_000);
    assert_eq!((driver.values("mapping").len(), driver.values("binding").len()), (1, 1));
    assert_eq!((driver.values("peer").len(), driver.values("free_ports").len()), (1, 1));
    // The address it no longer has a connection to is a stranger's.
    assert_eq!(driver.drop_reason(&udp(REMOTE, outer)), "nat_filtered");
    driver.wait_ms(200_000);
    for object in ["mapping", "binding", "peer", "free_ports"] {
        assert!(driver.values(object).is_empty(), "{object}");
    }
    assert_eq!(driver.drop_reason(&udp(STRANGERS[1], outer)), "nat_no_mapping");
}

#[test]
fn a_filter_lets_in_what_it_is_named_for() {
    for (filtering, gets_in) in [
        ("endpoint_independent", [true, true]),
        ("address_dependent", [true, false]),
        ("address_and_port_dependent", [false, false]),
    ] {
        let mut driver = shared(filtering);
        for (frame, answer) in [
            (udp(INNER, REMOTE), udp as fn(Peer, Peer) -> Vec<u8>),
            (tcp(INNER, REMOTE, SYN), |from, to| tcp(from, to, SYN)),
        ] {
            let outer = outer(&mut driver, &frame);
            assert_eq!(driver.pass(&answer(REMOTE, outer)), answer(REMOTE, INNER));
            let before = driver.values("mapping").len();
            for (stranger, gets_in) in STRANGERS.into_iter().zip(gets_in) {
                let knock = answer(stranger, outer);
                if gets_in {
                    assert_eq!(driver.pass(&knock), answer(stranger, INNER), "{filtering}");
                } else {
                    assert_eq!(driver.drop_reason(&knock), "nat_filtered", "{filtering}");
                }
            }
            assert_eq!(driver.values("mapping").len(), before, "strangers cost nothing");
            assert_eq!(driver.drop_reason(&answer(REMOTE, (outer.0, outer.1 ^ 1))), "nat_no_mapping");
        }
    }
}

#[test]
fn internal_hosts_reach_each_other_by_external_addresses() {
    let mut driver = shared("endpoint_independent");
    let (of_inner, of_other) =
        (outer(&mut driver, &udp(INNER, REMOTE)), outer(&mut driver, &udp(OTHER, REMOTE)));
    // It leaves from the external address, comes back, and so does the answer.
    let out = driver.pass(&udp(INNER, of_other));
    assert_eq!(out, udp(of_inner, of_other));
    assert_eq!(driver.pass(&out), udp(of_inner, OTHER));
    let answer = driver.pass(&udp(OTHER, of_inner));
    assert_eq!(answer, udp(of_other, of_inner));
    assert_eq!(driver.pass(&answer), udp(of_other, INNER));
    // An error about it as well (RFC 5508, REQ-7).
    let error = driver.pass(&unreachable(OTHER.0, of_inner.0, &udp(of_inner, OTHER), 28));
    assert_eq!(error, unreachable(of_other.0, of_inner.0, &udp(of_inner, of_other), 28));
    assert_eq!(driver.pass(&error), unreachable(of_other.0, INNER.0, &udp(INNER, of_other), 28));
}

#[test]
fn a_connection_that_was_answered_is_kept_for_hours_and_one_that_was_not_for_minutes() {
    let mut driver = nat(json!({}));
    driver.pass(&tcp(OTHER, REMOTE, SYN));
    let outer = outer(&mut driver, &tcp(INNER, REMOTE, SYN));
    driver.pass(&tcp(REMOTE, outer, SYN_ACK));
    driver.pass(&tcp(INNER, REMOTE, ACK));
    driver.wait_ms(239_999);
    assert_eq!(driver.values("mapping").len(), 2);
    driver.wait_ms(1);
    assert_eq!(driver.values("mapping").len(), 1);
    driver.wait_ms((2 * 60 * 60 + 4 * 60) * 1000 - 240_000 - 1);
    assert_eq!(driver.values("mapping").len(), 1);
    driver.wait_ms(1);
    assert!(driver.values("mapping").is_empty());
}

#[test]
fn udp_is_kept_five_minutes_by_either_sides_packets_and_an_echo_one() {
    let mut driver = nat(json!({}));
    let outer = outer(&mut driver, &udp(INNER, REMOTE));
    driver.pass(&echo(INNER.0, REMOTE.0, 7, true));
    driver.wait_ms(59_999);
    assert_eq!(driver.values("mapping").len(), 2);
    driver.wait_ms(1);
    assert_eq!(driver.values("mapping").len(), 1);
    for frame in [udp(INNER, REMOTE), udp(REMOTE, outer)] {
        driver.pass(&frame);
        driver.wait_ms(299_999);
        assert_eq!(driver.values("mapping").len(), 1);
    }
    driver.wait_ms(1);
    assert!(driver.values("mapping").is_empty());
}

#[test]
fn connections_that_both_sides_begin_at_once_and_half_closed_ones_are_translated() {
    let mut driver = nat(json!({}));
    let outer = outer(&mut driver, &tcp(INNER, REMOTE, SYN));
    for (out, back) in
        [(None, Some(SYN)), (Some(SYN_ACK), Some(SYN_ACK)), (Some(FIN_ACK), Some(ACK)), (None, Some(ACK))]
    {
        if let Some(flags) = back {
            assert_eq!(driver.pass(&tcp(REMOTE, outer, flags)), tcp(REMOTE, INNER, flags));
        }
        if let Some(flags) = out {
            assert_eq!(driver.pass(&tcp(INNER, REMOTE, flags)), tcp(outer, REMOTE, flags));
        }
        driver.wait_ms(60_000);
    }
    driver.pass(&tcp(REMOTE, outer, RST));
    driver.wait_ms(10_000);
    assert!(driver.values("mapping").is_empty());
}

#[test]
fn an_internal_hosts_error_about_what_a_stranger_sent_is_translated() {
    let mut driver = shared("endpoint_independent");
    let outer = outer(&mut driver, &udp(INNER, REMOTE));
    let knock = driver.pass(&udp(STRANGERS[1], outer));
    let error = driver.pass(&unreachable(INNER.0, STRANGERS[1].0, &knock, 28));
    assert_eq!(error, unreachable(outer.0, STRANGERS[1].0, &udp(STRANGERS[1], outer), 28));
    let StateValue::Record { timers, .. } = &driver.values("mapping")[0] else { panic!("a record") };
    assert_eq!(timers[&0].deadline.0 / 1_000_000, 301_000, "and keeps nothing alive");
}
