//! A day's connections in compressed time: what a chain keeps of them does not grow, and in the end nothing is left of them.
//!
//! A hundredth of a day's packets runs with the tests. The whole day takes minutes:
//! `CHC_DAY_PACKETS=100000000 cargo test --release -p chc-e2e --test day -- --nocapture`.

use chc_actors::chain::run::{RunOptions, run};
use chc_actors::egress::core::Sink;
use chc_actors::ideal::{StateValue, StateWord};
use chc_actors::root::core::Arrival;
use chc_actors::root::reader::PacketSource;
use chc_api::packet::LinkType;
use chc_api::{InstanceId, Side, Time};
use chc_e2e::chain::{assert_balanced, plan};
use chc_runtime::block::{Block, Desc, DropRecord, EventRecord};
use etherparse::PacketBuilder;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Packets of a connection, seconds between two of them, and seconds of a day.
const EACH: u64 = 10;
const PAUSE_S: u64 = 6;
const DAY_S: u64 = 86_400;
const SECOND: u64 = 1_000_000_000;
/// Hosts inside, as many as have a connection each before the first has its next.
const HOSTS: u64 = 5000;
/// What a run may need more at its end than at its half, in bytes: less than a word for each of a day's connections.
const GROWTH_MAX: u64 = 32 << 20;

/// Connections that begin at equal intervals all day, in the order of their packets.
struct Day {
    connections: u64,
    /// Nanoseconds from one connection's beginning to the next's, and connections that begin in a pause.
    interval: u64,
    per_pause: u64,
    /// The interval that is at hand, and the connection of those with a packet then.
    at: u64,
    nth: u64,
    frame: Vec<u8>,
    sent: u64,
    /// Memory of the process at half of the packets.
    half: Arc<AtomicU64>,
}

impl Day {
    fn new(packets: u64, half: Arc<AtomicU64>) -> Self {
        let connections = packets / EACH;
        let per_pause = (connections * PAUSE_S / DAY_S).max(1);
        let interval = PAUSE_S * SECOND / per_pause;
        Self { connections, interval, per_pause, at: 0, nth: 0, frame: Vec::new(), sent: 0, half }
    }

    /// Packet `number` of a connection. What comes back has not been translated on its way in.
    fn build(&mut self, connection: u64, number: u64) {
        let host = [10, 0, (connection % HOSTS / 250) as u8, (connection % 250) as u8 + 1];
        let port = 1024 + (connection / HOSTS % 60_000) as u16;
        let (server, is_back) = ([198, 51, 100, (connection % 7) as u8 + 1], number % 2 == 1);
        let (from, to) = if is_back { (server, host) } else { (host, server) };
        let packet = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from, to, 64);
        self.frame.clear();
        let ends = |service: u16| if is_back { (service, port) } else { (port, service) };
        let written = if connection % 16 == 5 {
            let echo = if is_back {
                packet.icmpv4_echo_reply(port, number as u16)
            } else {
                packet.icmpv4_echo_request(port, number as u16)
            };
            echo.write(&mut self.frame, b"ping")
        } else if connection % 4 == 1 {
            let (from, to) = ends(53);
            packet.udp(from, to).write(&mut self.frame, b"question or answer")
        } else {
            let (from, to) = ends(443);
            let segment = packet.tcp(from, to, number as u32, 1000);
            let segment = match number {
                0 => segment.syn(),
                1 => segment.syn().ack(1),
                8 | 9 => segment.fin().ack(1),
                _ => segment.ack(1),
            };
            segment.write(&mut self.frame, b"data")
        };
        written.expect("written to memory");
    }
}

impl PacketSource for Day {
    fn next(&mut self) -> Result<Option<Arrival<'_>>, String> {
        loop {
            if self.nth == EACH {
                (self.nth, self.at) = (0, self.at + 1);
            }
            let number = self.nth;
            self.nth += 1;
            if self.sent == self.connections * EACH {
                // Long after the last connection, so that all time-outs have passed.
                self.sent += 1;
                self.build(self.connections, 0);
                self.at += 3 * DAY_S * SECOND / self.interval;
                break;
            }
            if self.sent > self.connections * EACH {
                return Ok(None);
            }
            let Some(connection) = self.at.checked_sub(number * self.per_pause) else { continue };
            if connection >= self.connections {
                continue;
            }
            self.build(connection, number);
            self.sent += 1;
            if self.sent == self.connections * EACH / 2 {
                self.half.store(memory(), Ordering::Relaxed);
            }
            break;
        }
        Ok(Some(Arrival {
            time: Time(SECOND + self.at * self.interval),
            side: Side::Inside,
            link: LinkType::ETHERNET,
            wire_len: self.frame.len() as u32,
            frame: (&self.frame).into(),
        }))
    }
}

/// Bytes of memory this process has.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

struct Discard;

impl Sink for Discard {
    fn packet(&mut self, _block: &Block, _desc: &Desc) {}
    fn event(&mut self, _from: InstanceId, _event: &EventRecord) {}
    fn dropped(&mut self, _from: InstanceId, _record: &DropRecord) {}
    fn finish(&mut self) {}
}

#[test]
fn a_days_connections_leave_nothing_behind_and_memory_is_flat() {
    let packets: u64 =
        std::env::var("CHC_DAY_PACKETS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let overrides = [
        "vertex.nat.config.internal=[\"10.0.0.0/8\"]",
        "vertex.portscan.config.idle_s=600",
        "vertex.portscan.config.host_idle_s=3600",
    ];
    let plan = plan("quickstart", &overrides);
    let half = Arc::new(AtomicU64::new(0));
    let kept = tempfile::tempdir().unwrap();
    let options = RunOptions { keep_in: Some(kept.path().to_owned()), ..RunOptions::default() };
    let outcome = run(&plan, Day::new(packets, half.clone()), Discard, &options, |_| {}).expect("it ends");
    let (half, end) = (half.load(Ordering::Relaxed), memory());
    println!("{packets} packets in {:?}; {half} bytes at the half, {end} at the end", outcome.root.elapsed);
    assert_balanced(&outcome);
    assert_eq!(outcome.root.counts.packets, packets / EACH * EACH + 1);
    assert!(outcome.egress.drops.is_empty(), "{:?}", outcome.egress.drops);
    assert!(end < half + GROWTH_MAX, "{half} bytes at the half, {end} at the end");

    // Of the last packet's connection alone there is something, and of hosts, which a shard forgets as it hears of others.
    let mut left = BTreeMap::new();
    for ((vertex, object, word), value) in &outcome.state {
        match (value, word) {
            (StateValue::Int(count), StateWord::Object(_)) => {
                assert!(
                    *object != "packets_total" || *count as u64 == outcome.root.counts.packets,
                    "{vertex:?} counted {count}"
                );
            }
            _ => *left.entry(*object).or_insert(0) += 1,
        }
    }
    let hosts = left.remove("likelihood").unwrap_or(0);
    assert!(hosts <= HOSTS, "{hosts} hosts of {HOSTS}");
    assert_eq!(left, BTreeMap::from([("attempts", 1), ("free_ports", 1), ("mapping", 1)]));
}
