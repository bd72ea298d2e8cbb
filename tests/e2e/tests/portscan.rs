//! The portscan detector, in an ideal chain of its own and behind a translator.

use chc_actors::ideal::{EventRecord, StateValue};
use chc_api::EventKind;
use chc_e2e::driver::{ACK, Driver, Peer, RST, SYN, SYN_ACK, peers, tcp, tcp_seq, unreachable};
use chc_nf_catalog::portscan::Host;
use serde_json::{Value, json};

const SCANNER: Peer = ([10, 0, 0, 5], 40_000);

fn target(n: u8) -> Peer {
    ([198, 51, 100, n], 80)
}

fn detector(config: Value) -> Driver {
    Driver::new(&[("portscan", config)], 64, None)
}

/// The scanner's attempt at target `n`, refused.
fn refuse(driver: &mut Driver, n: u8) {
    driver.pass(&tcp(SCANNER, target(n), SYN));
    driver.pass(&tcp(target(n), SCANNER, RST));
}

fn scanner(driver: &Driver) -> Host {
    let values = driver.values("likelihood");
    let [StateValue::Bytes(value)] = values.as_slice() else { panic!("{values:?}") };
    value.read().unwrap()
}

/// Checks that there is one alert and that it names the scanner as source.
fn the_alert(driver: &mut Driver) -> EventRecord {
    let events = driver.events();
    let [alert] = events.as_slice() else { panic!("{events:?}") };
    assert!(matches!(alert.event.kind, EventKind::Alert { signature: "portscan", severity: 2, .. }));
    assert_eq!(alert.event.key.source(alert.event.direction).addr, std::net::IpAddr::from(SCANNER.0));
    *alert
}

#[test]
fn the_fourth_refusal_is_the_alert_and_the_only_one() {
    let mut driver = detector(json!({}));
    for n in 1..=6 {
        refuse(&mut driver, n);
    }
    assert_eq!(the_alert(&mut driver).number, Some(8));
    assert_eq!((scanner(&driver).attempts, scanner(&driver).outcomes), (6, [0, 6, 0, 0]));
}

#[test]
fn silence_is_a_failure_when_time_shows_it() {
    let mut driver = detector(json!({}));
    for n in 1..=4 {
        driver.pass(&tcp(SCANNER, target(n), SYN));
        driver.now_ms += 100;
    }
    driver.now_ms += 2_899;
    driver.pass(&tcp(target(9), target(8), ACK));
    assert_eq!(driver.events(), []);
    driver.now_ms += 1;
    driver.pass(&tcp(target(9), target(8), ACK));
    let alert = the_alert(&mut driver);
    assert_eq!((alert.number, alert.position.is_timer()), (Some(6), true));
}

#[test]
fn pending_attempts_fail_at_the_end_only_if_so_configured() {
    for at_end in [false, true] {
        let mut driver = detector(json!({"fail_pending_at_end": at_end}));
        for n in 1..=4 {
            driver.pass(&tcp(SCANNER, target(n), SYN));
        }
        driver.chain.end(chc_api::Clock(driver.clock));
        if at_end {
            assert_eq!(the_alert(&mut driver).number, None);
        } else {
            assert_eq!(driver.events(), []);
            assert_eq!(scanner(&driver).outcomes, [0; 4]);
        }
    }
}

#[test]
fn answers_count_once_and_late_retransmissions_not_at_all() {
    let mut driver = detector(json!({}));
    let (syn, answer) = (tcp(SCANNER, target(1), SYN), tcp(target(1), SCANNER, SYN_ACK));
    for frame in [&syn, &syn, &answer, &answer, &syn, &answer] {
        driver.pass(frame);
    }
    assert_eq!((scanner(&driver).attempts, scanner(&driver).outcomes), (1, [1, 0, 0, 0]));
    // Another initial sequence number is another attempt, as is the same one after a RST.
    driver.pass(&tcp_seq(SCANNER, target(1), SYN, 7));
    driver.pass(&answer);
    driver.pass(&tcp(target(1), SCANNER, RST));
    driver.pass(&tcp_seq(SCANNER, target(1), SYN, 7));
    assert_eq!((scanner(&driver).attempts, scanner(&driver).outcomes), (3, [2, 0, 0, 0]));
}

#[test]
fn a_settled_record_without_attempts_is_gone() {
    let mut driver = detector(json!({}));
    driver.pass(&tcp(SCANNER, target(1), SYN));
    driver.pass(&tcp(target(1), SCANNER, SYN_ACK));
    assert_eq!(driver.values("attempts").len(), 1);
    driver.pass(&tcp(SCANNER, target(1), RST));
    assert!(driver.values("attempts").is_empty());
}

#[test]
fn what_nothing_is_heard_of_is_forgotten() {
    let mut driver = detector(json!({ "idle_s": 10, "host_idle_s": 100 }));
    let syn = tcp(SCANNER, target(1), SYN);
    driver.pass(&syn);
    driver.pass(&tcp(target(1), SCANNER, SYN_ACK));
    driver.wait_ms(9_990);
    driver.pass(&syn);
    assert_eq!((scanner(&driver).attempts, driver.values("attempts").len()), (1, 1), "a retransmission");
    driver.wait_ms(10);
    assert!(driver.values("attempts").is_empty());
    driver.pass(&syn);
    assert_eq!(scanner(&driver).attempts, 2, "too late to be one");
    driver.wait_ms(101_000);
    refuse(&mut driver, 2);
    assert_eq!(
        (scanner(&driver).attempts, scanner(&driver).outcomes),
        (1, [0, 1, 0, 1]),
        "a new host, but for the time-out"
    );
}

#[test]
fn a_host_that_talks_to_itself_answers_itself() {
    let mut driver = detector(json!({}));
    driver.pass(&tcp(SCANNER, SCANNER, SYN));
    driver.pass(&tcp(SCANNER, SCANNER, SYN_ACK));
    assert_eq!(scanner(&driver).outcomes, [1, 0, 0, 0]);
}

#[test]
fn an_icmp_unreachable_to_the_sender_is_a_failure() {
    let mut driver = detector(json!({}));
    let syn = tcp(SCANNER, target(1), SYN);
    driver.pass(&syn);
    let router = [192, 0, 2, 1];
    driver.pass(&unreachable(router, [10, 0, 0, 77], &syn, 28));
    assert_eq!(scanner(&driver).outcomes, [0; 4]);
    driver.pass(&unreachable(router, SCANNER.0, &syn, 28));
    assert_eq!(scanner(&driver).outcomes, [0, 0, 1, 0]);
}

#[test]
fn only_first_contacts_are_observations_if_so_picked() {
    let flagged = |pick: &str, targets: &[Peer]| {
        let mut driver = detector(json!({"pick": pick}));
        for (target, isn) in targets.iter().zip(0..) {
            driver.pass(&tcp_seq(SCANNER, *target, SYN, isn));
            driver.pass(&tcp(*target, SCANNER, RST));
        }
        assert_eq!(scanner(&driver).attempts as usize, targets.len());
        scanner(&driver).is_flagged()
    };
    let one = [target(1); 4];
    let ports = [1, 2, 3, 4].map(|port| (target(1).0, port));
    let hosts = [1, 2, 3, 4].map(target);
    assert!(flagged("every", &one) && flagged("every", &ports) && flagged("every", &hosts));
    assert!(!flagged("first_per_service", &one) && flagged("first_per_service", &ports));
    assert!(!flagged("first_per_host", &ports) && flagged("first_per_host", &hosts));
}

#[test]
fn a_blocked_hosts_syns_are_dropped_and_no_attempts() {
    let mut driver = detector(json!({"action": "block", "pick": "first_per_host"}));
    driver.pass(&tcp(SCANNER, target(9), SYN));
    for n in 1..=4 {
        refuse(&mut driver, n);
    }
    the_alert(&mut driver);
    assert_eq!(driver.drop_reason(&tcp(SCANNER, target(5), SYN)), "portscan_blocked");
    assert_eq!(driver.drop_reason(&tcp(SCANNER, target(9), SYN)), "portscan_blocked");
    assert_eq!((scanner(&driver).attempts, driver.values("contacts").len()), (5, 5));
    // Others, and what the host has open, go on.
    driver.pass(&tcp(SCANNER, target(5), ACK));
    driver.pass(&tcp(target(5), SCANNER, SYN));
}

#[test]
fn a_window_after_it_was_flagged_nothing_is_taken_from_an_isolated_host() {
    let mut driver = detector(json!({"action": "isolate", "host_idle_s": 100}));
    for n in 1..=4 {
        refuse(&mut driver, n);
    }
    the_alert(&mut driver);
    assert_eq!(driver.drop_reason(&tcp(SCANNER, target(5), SYN)), "portscan_blocked");
    driver.pass(&tcp(SCANNER, target(5), ACK));
    driver.pass_window();
    assert_eq!(driver.drop_reason(&tcp(SCANNER, target(5), ACK)), "portscan_isolated");
    assert_eq!(driver.drop_reason(&tcp(SCANNER, target(5), RST)), "portscan_isolated");
    assert_eq!(driver.drop_reason(&tcp(SCANNER, target(5), SYN)), "portscan_blocked");
    driver.pass(&tcp(target(5), SCANNER, ACK));
    // It is taken back when it has been forgotten, as its next attempt finds out.
    driver.wait_ms(101_000);
    assert_eq!(driver.drop_reason(&tcp(SCANNER, target(5), ACK)), "portscan_isolated");
    driver.pass(&tcp(SCANNER, target(6), SYN));
    driver.pass_window();
    driver.pass(&tcp(SCANNER, target(5), ACK));
    assert_eq!(driver.values("isolated"), []);
}

#[test]
fn behind_a_translator_the_inner_host_is_the_scanner() {
    let nat = json!({"external": ["203.0.113.1"]});
    let mut driver = Driver::new(&[("nat", nat), ("portscan", json!({}))], 64, None);
    let mut refusals = 0;
    for n in 1..=4 {
        let (outer, _) = peers(&driver.pass(&tcp(SCANNER, target(n), SYN)));
        driver.pass(&tcp(target(n), outer, RST));
        refusals += 2;
    }
    let mut alerts = driver.events();
    alerts.retain(|record| matches!(record.event.kind, EventKind::Alert { .. }));
    assert_eq!(alerts.len(), 1);
    let event = alerts[0].event;
    assert_eq!(event.key.source(event.direction).addr, std::net::IpAddr::from(SCANNER.0));
    assert_eq!((alerts[0].number, alerts[0].vertex.0), (Some(refusals), 1));
}
