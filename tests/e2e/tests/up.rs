//! A chain between live interfaces, whose wires are in memory: operated while it runs, drained when it ends.

use chc_actors::chain::compile::ChainPlan;
use chc_actors::chain::listing::Query;
use chc_actors::chain::run::RunOutcome;
use chc_actors::chain::sinks::{Failure, FileSink};
use chc_actors::chain::up::{UpOptions, up};
use chc_actors::config::PolicyConfig;
use chc_actors::control::Change;
use chc_actors::control::client::{AskError, change, get, state};
use chc_actors::control::feed::Events;
use chc_actors::control::server::Endpoints;
use chc_actors::control::view::{Interfaces, Status};
use chc_actors::gateway::router::{Router, RouterSide};
use chc_actors::gateway::{LiveSink, LiveSource, Ports};
use chc_e2e::chain::{assert_balanced, plan};
use chc_e2e::command::{Scratch, config};
use chc_e2e::wire::{Flood, Wires};
use chc_runtime::io::Mac;
use etherparse::{IpFragOffset, Ipv4Header, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SPARE: u16 = 4;
const TOKEN: &str = "a token of this test";

/// A chain that is up, and the hosts on both sides of it.
struct Up {
    directory: TempDir,
    inside: UnixDatagram,
    outside: UnixDatagram,
    http: SocketAddr,
    chain: JoinHandle<anyhow::Result<RunOutcome>>,
}

impl Up {
    /// The quickstart's chain, as a bridge.
    fn new() -> Self {
        Self::of("quickstart", &[])
    }

    /// A chain of the repository's, with keys overridden.
    fn of(name: &str, overrides: &[&str]) -> Self {
        Self::between(plan(name, overrides), None, Wires::sockets())
    }

    /// A chain with what routes in front of it, and what it lies between.
    fn between(mut plan: ChainPlan, router: Option<Router>, wires: Wires) -> Self {
        for vertex in &mut plan.vertices {
            // Nobody else changes it.
            vertex.policy = PolicyConfig::default();
            vertex.route.instances = SPARE;
        }
        let directory = tempfile::tempdir().unwrap();
        let Wires { receivers, transmitters, hosts: [inside, outside] } = wires;
        let ports = Ports::new(transmitters, router);
        let token_file = directory.path().join("token");
        fs::write(&token_file, TOKEN).unwrap();
        fs::set_permissions(&token_file, fs::Permissions::from_mode(0o600)).unwrap();
        // The system has chosen a port that is free.
        let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let sockets = vec![directory.path().join("run/control.sock")];
        let endpoints = Endpoints { sockets, listen: Some(http), token_file: Some(token_file) };
        let interfaces = Interfaces {
            names: ["in".into(), "out".into()],
            backends: ["a socket pair"; 2],
            refused: Default::default(),
            ports: ports.clone(),
        };
        let (alerts, feed): (_, Arc<_>) = (Arc::default(), Arc::default());
        let options = UpOptions {
            endpoints,
            keep_in: None,
            interfaces,
            alerts: Arc::clone(&alerts),
            feed: Arc::clone(&feed),
        };
        let names = plan.vertices.iter().map(|v| v.name.clone()).collect();
        let files = FileSink::new(None, None, names, alerts, Failure::default()).followed_by(feed);
        let sink = LiveSink::new(ports.clone(), files);
        let source = LiveSource::new(receivers, ports);
        let (tell, started) = std::sync::mpsc::channel();
        let run = move || {
            let report = |outcome: &RunOutcome| json!({ "packets_in": outcome.root.counts.packets });
            up(&plan, source, sink, options, move |_| tell.send(()).unwrap(), report)
        };
        let chain = std::thread::spawn(run);
        started.recv().expect("the chain comes up");
        Self { directory, inside, outside, http, chain }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("run/control.sock")
    }

    fn change(&self, wanted: &Change) -> Result<serde_json::Value, AskError> {
        change(&self.socket(), wanted)
    }

    /// Waits until something is so; it is, within seconds.
    #[track_caller]
    fn wait(&self, mut is_so: impl FnMut(&Self) -> bool) {
        let late = Instant::now() + Duration::from_secs(60);
        while !is_so(self) {
            assert!(Instant::now() < late, "{:?}", self.status());
        }
    }

    fn status(&self) -> Status {
        get(&self.socket(), "/v1/status").expect("it answers")
    }

    /// Ends it; what it did.
    fn down(self) -> RunOutcome {
        let told = self.change(&Change::Down {}).expect("it ends");
        let outcome = self.chain.join().expect("no panic").expect("no failure");
        assert_eq!(told["packets_in"], outcome.root.counts.packets);
        assert_balanced(&outcome);
        outcome
    }

    /// The status and body of what HTTP answers to this.
    fn http(&self, request: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.http).unwrap();
        // It may be cut off before all was sent.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        (status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.http(format!("GET {path} HTTP/1.1\r\nhost: chc\r\n\r\n").as_bytes())
    }

    fn post(&self, token: Option<&str>, body: &str) -> (u16, String) {
        let token = token.map_or(String::new(), |token| format!("authorization: Bearer {token}\r\n"));
        let head =
            format!("POST /v1/change HTTP/1.1\r\nhost: chc\r\n{token}content-length: {}\r\n\r\n", body.len());
        self.http((head + body).as_bytes())
    }
}

const FLOWS: u16 = 40;

/// Packet `number` of all; flows take turns.
fn frame(number: u32) -> Vec<u8> {
    let flow = (number % u32::from(FLOWS)) as u16;
    let ip = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let mut frame = Vec::new();
    let ip = ip.ipv4([10, 0, 0, (flow % 7) as u8 + 1], [198, 51, 100, 1], 64);
    ip.udp(2000 + flow, 53).write(&mut frame, &payload(number)).unwrap();
    frame
}

/// Its payload: every third is long.
fn payload(number: u32) -> Vec<u8> {
    let rest = if number % 3 == 2 { 600 } else { 0 };
    [&number.to_be_bytes()[..], &vec![number as u8; rest]].concat()
}

/// Reads what reaches a host.
struct Reader {
    host: UnixDatagram,
    thread: JoinHandle<Vec<(SocketAddrV4, u32)>>,
}

impl Reader {
    fn new(host: &UnixDatagram) -> Self {
        let (host, reads) = (host.try_clone().unwrap(), host.try_clone().unwrap());
        let thread = std::thread::spawn(move || {
            let mut all = Vec::new();
            let mut frame = [0; 2048];
            while let Ok(len @ 1..) = reads.recv(&mut frame) {
                let parsed = SlicedPacket::from_ethernet(&frame[..len]).expect("a packet");
                let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) =
                    (&parsed.net, &parsed.transport)
                else {
                    panic!("no UDP: {parsed:?}")
                };
                let number = udp.payload().first_chunk::<4>().expect("a number");
                let number = u32::from_be_bytes(*number);
                assert_eq!(udp.payload(), payload(number));
                let from = SocketAddrV4::new(ip.header().source_addr(), udp.source_port());
                all.push((from, number));
            }
            all
        });
        Self { host, thread }
    }

    /// Once nothing more comes: the numbers in the payloads of all that has, each with where it came from.
    fn end(self) -> Vec<(SocketAddrV4, u32)> {
        self.host.shutdown(Shutdown::Read).unwrap();
        self.thread.join().unwrap()
    }
}

#[test]
fn nothing_is_lost_or_reordered_while_a_chain_that_is_up_is_operated() {
    operate(Up::new(), |_| ());
}

#[test]
fn nor_with_several_roots() {
    operate(Up::of("quickstart", &["root.instances=2"]), |_| ());
}

#[test]
fn nor_where_packets_stay_in_the_buffers_they_came_in() {
    // So few that at times there is none, and packets are copied.
    let wires = Wires::rings(300);
    operate(Up::between(plan("quickstart", &[""; 0]), None, wires), |chain| {
        chain.wait(|chain| chain.status().interfaces[0].rx_zero_copy > 1000);
        chain.wait(|chain| chain.status().interfaces[1].tx_zero_copy > 1000);
    });
}

fn operate(chain: Up, check: impl FnOnce(&Up)) {
    const PACKETS: u32 = 20_000;
    let reader = Reader::new(&chain.outside);
    let instance = |name: &str| Change::Drain { instance: name.into() };
    let kill = |name: &str| Change::Kill { actor: name.into() };
    let scale = |vertex: &str, instances| Change::Scale { vertex: vertex.into(), instances };
    let share = Change::Move { vertex: "nat".into(), from: 0, to: 1, share: 0.5 };
    let changes = [
        kill("nat/0"),
        scale("nat", 4),
        kill("portscan/1"),
        share,
        kill("nat/1"),
        instance("nat/2"),
        scale("portscan", 1),
        kill("portscan/0"),
        kill("nat/manager"),
        scale("nat", 1),
    ];
    for number in 0..PACKETS {
        chain.inside.send(&frame(number)).unwrap();
        let at = number as usize / (PACKETS as usize / 10);
        if number % (PACKETS / 10) == PACKETS / 20 {
            let answer =
                chain.change(&changes[at]).unwrap_or_else(|error| panic!("{:?}: {error:?}", changes[at]));
            assert_eq!(
                answer.get("recovered").is_some(),
                matches!(changes[at], Change::Kill { .. }),
                "{answer}"
            );
        }
    }
    let status = chain.status();
    assert_eq!((status.phase.as_str(), status.recovered, status.recoveries.len()), ("up", 5, 5));
    assert!(status.handovers >= 4 && status.slots_moved > 64, "{status:?}");
    let instances = |name: &str| status.vertices.iter().find(|v| v.name == name).unwrap().instances.len();
    assert_eq!((instances("nat"), instances("portscan")), (1, 1));
    check(&chain);
    let outcome = chain.down();
    let received = reader.end();
    assert_eq!((outcome.root.counts.packets, received.len()), (u64::from(PACKETS), PACKETS as usize));
    let mut flows: BTreeMap<SocketAddrV4, Vec<u32>> = BTreeMap::new();
    for (from, number) in received {
        flows.entry(from).or_default().push(number);
    }
    assert_eq!(flows.len(), usize::from(FLOWS), "a flow keeps its port");
    for numbers in flows.values() {
        let first = numbers[0] % u32::from(FLOWS);
        let expected: Vec<u32> = (0..PACKETS).filter(|n| n % u32::from(FLOWS) == first).collect();
        assert_eq!(*numbers, expected, "in its order");
    }
}

#[test]
fn a_chain_that_is_ended_sends_on_all_it_has_accepted() {
    let chain = Up::new();
    let reader = Reader::new(&chain.outside);
    let host = chain.inside.try_clone().unwrap();
    let sender =
        std::thread::spawn(move || (0..u32::MAX).take_while(|n| host.send(&frame(*n)).is_ok()).count());
    chain.wait(|chain| chain.status().packets_in >= 1000);
    let outcome = chain.down();
    let (sent, received) = (sender.join().unwrap(), reader.end());
    assert!(sent >= 1000);
    assert_eq!((outcome.root.counts.packets, received.len()), (sent as u64, sent));
}

#[test]
fn a_quiet_chain_closes_what_is_in_flight_and_lets_time_pass() {
    let chain = Up::of("quickstart", &["vertex.nat.config.idle_s=1"]);
    let reader = Reader::new(&chain.outside);
    for number in 0..100 {
        chain.inside.send(&frame(number)).unwrap();
    }
    let query = Query { object: Some("mapping".into()), limit: 1000, ..Query::default() };
    let mappings = |chain: &Up| state(&chain.socket(), &query).expect("it answers").objects.len();
    chain.wait(|chain| chain.status().packets_in == 100 && chain.status().in_flight == 0);
    chain.wait(|chain| mappings(chain) == 0);
    let latency = chain.status().latency;
    assert!(latency.count() == 100 && latency.quantile_us(1.0).is_some(), "{latency:?}");
    let outcome = chain.down();
    assert_eq!((outcome.egress.packets, reader.end().len()), (100, 100));
}

#[test]
fn a_flood_of_frames_that_are_none_of_the_chains_starves_neither_it_nor_its_control() {
    let router = Router::new([1, 2].map(|net| RouterSide {
        mac: Mac([2, 0, 0, 0, 0, net]),
        mtu: 1500,
        addresses: vec![format!("192.168.{net}.1/24").parse().unwrap()],
        gateways: Vec::new(),
    }));
    let mut other = frame(0);
    other[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    let mut wires = Wires::sockets();
    let [inside, outside] = wires.receivers;
    wires.receivers = [Flood::new(inside, other), outside];
    let chain = Up::between(plan("quickstart", &[""; 0]), Some(router), wires);
    chain.change(&Change::Scale { vertex: "nat".into(), instances: 2 }).expect("it answers");
    // What comes on the other side goes on its way: it is asked who has the address.
    let mut packet = frame(1);
    packet[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    packet[30..34].copy_from_slice(&[192, 168, 1, 7]);
    chain.outside.send(&packet).unwrap();
    let mut asked = [0; 2048];
    let len = chain.inside.recv(&mut asked).unwrap();
    assert_eq!((&asked[12..14], &asked[38..42]), (&[8, 6][..], &[192, 168, 1, 7][..]), "{:?}", &asked[..len]);
    let outcome = chain.down();
    assert_eq!(outcome.root.counts.packets, 1);
}

#[test]
fn events_are_told_to_who_follows_them() {
    let chain = Up::new();
    let page = |from: u64| -> Events {
        get(&chain.socket(), &format!("/v1/events?from={from}")).expect("it answers")
    };
    let begun: Events = get(&chain.socket(), "/v1/events").expect("it answers");
    assert!(begun.events.is_empty());
    for number in 0..u32::from(FLOWS) {
        chain.inside.send(&frame(number)).unwrap();
    }
    let (mut next, mut told) = (begun.next, Vec::new());
    chain.wait(|_| {
        let page = page(next);
        next = page.next;
        told.extend(page.events);
        told.len() == usize::from(FLOWS)
    });
    assert!(
        told.iter().all(|event| event["event_type"] == "nat" && event["nat"]["action"] == "open"),
        "{told:?}"
    );
    assert_eq!(chain.get("/v1/events?from=x").0, 400);
    let _ = chain.down();
}

#[test]
fn what_a_function_answers_leaves_where_the_question_came_from() {
    let services = "[{ match = \"tcp/80\", backends = [\"198.18.0.1\"], connections_max = 1 }]";
    let services = format!("vertex.load_balancer.config.services={services}");
    let chain = Up::of("load_balancer", &[&services]);
    let syn = |port| {
        let ip = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut frame = Vec::new();
        let ip = ip.ipv4([10, 0, 0, 1], [198, 51, 100, 1], 64);
        ip.tcp(port, 80, 7, 1000).syn().write(&mut frame, &[]).unwrap();
        frame
    };
    let mut left = [0; 2048];
    chain.inside.send(&syn(2001)).unwrap();
    let len = chain.outside.recv(&mut left).unwrap();
    assert_eq!(left[30..34], [198, 18, 0, 1], "{:?}", &left[..len]);
    chain.inside.send(&syn(2002)).unwrap();
    let len = chain.inside.recv(&mut left).unwrap();
    let parsed = SlicedPacket::from_ethernet(&left[..len]).unwrap();
    let Some(TransportSlice::Tcp(reset)) = &parsed.transport else { panic!("no TCP: {parsed:?}") };
    assert!(reset.rst() && reset.destination_port() == 2002, "{parsed:?}");
    let outcome = chain.down();
    assert_eq!((outcome.egress.packets, outcome.egress.extra), (2, 1));
}

#[test]
fn a_datagram_in_fragments_gets_in_though_the_last_comes_first() {
    let chain = Up::new();
    let mut left = [0; 2048];
    chain.inside.send(&frame(0)).unwrap();
    let len = chain.outside.recv(&mut left).unwrap();
    let (mapped, port) = (left[26..30].try_into().unwrap(), u16::from_be_bytes([left[34], left[35]]));
    let whole = {
        let mut frame = Vec::new();
        let ip = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
        let ip = ip.ipv4([198, 51, 100, 1], mapped, 64);
        ip.udp(53, port).write(&mut frame, b"an answer in two").unwrap();
        assert_eq!(len, 46, "a number was asked");
        frame
    };
    let piece = |from: usize, to: usize| {
        let mut ip = Ipv4Header::from_slice(&whole[14..]).unwrap().0;
        (ip.total_len, ip.identification) = ((20 + to - from) as u16, 7);
        (ip.dont_fragment, ip.more_fragments) = (false, to < 24);
        ip.fragment_offset = IpFragOffset::try_new(from as u16 / 8).unwrap();
        let mut frame = whole[..14].to_vec();
        ip.write(&mut frame).unwrap();
        frame.extend(&whole[34 + from..34 + to]);
        frame
    };
    chain.inside.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    chain.outside.send(&piece(16, 24)).unwrap();
    chain.outside.send(&piece(0, 16)).unwrap();
    let mut received = Vec::new();
    for _ in 0..2 {
        let len = chain.inside.recv(&mut left).expect("both get in");
        let (ip, payload) = Ipv4Header::from_slice(&left[14..len]).unwrap();
        assert_eq!(ip.destination, [10, 0, 0, 1]);
        received.push((ip.fragment_offset.value(), payload.to_vec()));
    }
    assert_eq!([received[0].0, received[1].0], [0, 2]);
    assert_eq!([&received[0].1[8..], &received[1].1[..]].concat(), b"an answer in two");
    assert_eq!(chain.down().egress.packets, 3);
}

#[test]
fn who_gets_no_port_is_told_so() {
    let ports = ["vertex.nat.config.ports=2000-2063", "vertex.nat.config.external=[\"203.0.113.1\"]"];
    let chain = Up::of("nat", &[ports[0], ports[1], "vertex.nat.config.refuse_with_icmp=true"]);
    let datagram = |port: u16| {
        let mut frame = Vec::new();
        let ip = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        ip.ipv4([10, 0, 0, 1], [198, 51, 100, 1], 64).udp(port, 53).write(&mut frame, &[]).unwrap();
        frame
    };
    let sent: Vec<Vec<u8>> = (1000..1200).map(datagram).collect();
    for frame in &sent {
        chain.inside.send(frame).unwrap();
    }
    let mut told = BTreeSet::new();
    let mut left = [0; 2048];
    chain.inside.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // There are ports for 64 at most.
    while told.len() < 200 - 64 {
        let len = chain.inside.recv(&mut left).expect("all others are told");
        assert_eq!(
            (&left[26..34], &left[34..36]),
            ([203, 0, 113, 1, 10, 0, 0, 1].as_slice(), [3, 13].as_slice())
        );
        let quoted = sent.iter().position(|frame| frame[14..] == left[42..len]);
        assert!(told.insert(quoted.expect("it is what was sent")), "once each");
    }
    let outcome = chain.down();
    let exhausted = outcome.egress.drops["nat_ports_exhausted"];
    assert_eq!(
        (outcome.egress.extra, outcome.egress.packets),
        (exhausted, 200),
        "each is translated or answered"
    );
}

#[test]
fn http_tells_everybody_and_obeys_who_has_the_token() {
    let chain = Up::new();
    let mode = fs::metadata(chain.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    chain.wait(|chain| chain.get("/readyz").0 == 200);
    assert_eq!(chain.get("/livez"), (200, "alive\n".into()));
    let (status, metrics) = chain.get("/metrics");
    assert!(
        status == 200 && metrics.contains("chc_up 1\n") && metrics.contains("chc_rx_packets_total"),
        "{metrics}"
    );
    let (status, page) = chain.get("/v1/state?vertex=nat&limit=1");
    assert!(status == 200 && page.contains("\"objects\""), "{page}");
    assert_eq!((chain.get("/v1/state?limit=0").0, chain.get("/nothing").0), (400, 404));

    let scale = r#"{"scale":{"vertex":"nat","instances":3}}"#;
    assert_eq!((chain.post(None, scale).0, chain.post(Some("another"), scale).0), (401, 401));
    assert_eq!(chain.status().handovers, 0, "nothing has changed");
    assert_eq!(chain.post(Some(TOKEN), scale).0, 200);
    chain.wait(|chain| chain.status().handovers == 1);
    for (change, says) in [
        ("{", "this is no change"),
        (r#"{"scale":{"vertex":"nat","instances":3,"more":1}}"#, "this is no change"),
        (r#"{"scale":{"vertex":"nut","instances":3}}"#, "there is no vertex"),
        (r#"{"scale":{"vertex":"nat","instances":5}}"#, "give 1 to 4"),
        (r#"{"scale":{"vertex":"nat","instances":0}}"#, "give 1 to 4"),
        (r#"{"move":{"vertex":"nat","from":0,"to":9,"share":1}}"#, "there is no nat/9"),
        (r#"{"kill":{"actor":"root/0"}}"#, "cannot be recovered"),
        (r#"{"drain":{"instance":"nat"}}"#, "is no instance"),
        (r#"{"drain":{"instance":"nat/3"}}"#, "it has no traffic"),
    ] {
        let (status, body) = chain.post(Some(TOKEN), change);
        assert!(status == 400 && body.contains(says), "{change}: {status} {body}");
    }
    let _ = chain.down();
}

#[test]
fn requests_that_are_none_do_no_harm() {
    let chain = Up::new();
    assert_eq!(chain.http(b"\x16\x03\x01 this is no HTTP\r\n\r\n").0, 400);
    let long = format!("GET /{} HTTP/1.1\r\nhost: chc\r\n\r\n", "x".repeat(1 << 20));
    assert!(matches!(chain.http(long.as_bytes()).0, 0 | 400..=431), "too long a head");
    assert_eq!(chain.post(Some(TOKEN), &"x".repeat(1 << 20)).0, 413);
    assert_eq!(chain.http(b"DELETE / HTTP/1.1\r\nhost: chc\r\n\r\n").0, 405);
    // Connections that say nothing leave room for others, though not for all.
    let silent: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(chain.http).unwrap()).collect();
    assert_eq!(chain.get("/livez").0, 200);
    drop(silent);
    let outcome = chain.down();
    assert_eq!(outcome.root.counts.packets, 0);
}

#[test]
fn state_is_asked_of_the_chain_whose_file_is_given() {
    let (up, scratch) = (Up::new(), Scratch::new());
    let socket = format!("api.socket={}", up.socket().display());
    let state = |chain: &str| {
        let chain = config(chain);
        scratch.chc(&["state", chain.to_str().unwrap(), "--json", "--set", &socket])
    };
    assert!(state("quickstart").expect(0).json()["objects"].is_array());
    let _ = state("nat").expect(2).says(&["is \"quickstart\", not \"nat\"", "api.socket"]);
    let _ = up.down();
}
