//! `chc up` between two hosts in network namespaces, by each kind of packet I/O. Needs root and `ip`; skipped, visibly, without.

use chc_e2e::command::{Scratch, config};
use chc_e2e::hosts::Hosts;
use chc_runtime::io::af_xdp::Copies;
use chc_runtime::io::{Interface, Receive, Transmit as _, af_packet, af_xdp};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::process::Child;
use std::sync::Arc;

/// Bytes of a download.
const BYTES: usize = 32 << 20;
const CONNECTIONS: usize = 50;

fn hosts(tag: &str) -> Option<Hosts> {
    match Hosts::new(tag) {
        Ok(hosts) => Some(hosts),
        Err(error) => {
            eprintln!("skipped: no network namespaces here ({error})");
            None
        }
    }
}

/// So many bytes that tell their place.
fn content(len: usize) -> Vec<u8> {
    (0..len as u64 / 8).flat_map(|at| (at * 0x9e37_79b9).to_le_bytes()).collect()
}

/// A chain that is up, controlled over a socket of its own.
struct Up<'a> {
    scratch: &'a Scratch,
    chain: Child,
}

impl<'a> Up<'a> {
    /// Between two hosts.
    fn new(scratch: &'a Scratch, hosts: &Hosts, settings: &[&str]) -> Self {
        Self::between(scratch, [hosts.interface("a"), hosts.interface("b")], settings, &[])
    }

    /// Between two interfaces, with variables in its environment.
    fn between(
        scratch: &'a Scratch,
        [inside, outside]: [String; 2],
        settings: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let chain = config("gateway");
        let sides = [format!("io.inside={inside}"), format!("io.outside={outside}")];
        let mut arguments = vec!["up", chain.to_str().unwrap(), "--events", "eve.json"];
        // Nobody else's.
        let own = ["api.socket=control.sock", "api.listen=127.0.0.1:0"];
        for setting in sides.iter().map(String::as_str).chain(own).chain(settings.iter().copied()) {
            arguments.extend(["--set", setting]);
        }
        let mut up = Self { scratch, chain: scratch.spawn_with(&arguments, variables) };
        while !scratch.path("control.sock").exists() || up.status()["phase"] != "up" {
            assert_eq!(up.chain.try_wait().unwrap(), None, "it does not come up");
        }
        up
    }

    fn chc(&self, arguments: &[&str]) -> chc_e2e::command::Answer {
        self.scratch.chc(&[arguments, &["--socket", "control.sock"]].concat())
    }

    fn status(&self) -> Value {
        let answer = self.chc(&["status", "-o", "json"]);
        if answer.stdout.is_empty() { Value::Null } else { answer.json() }
    }

    fn down(mut self) -> Value {
        let status = self.status();
        let _ = self.chc(&["down"]).expect(0);
        assert!(self.chain.wait().unwrap().success());
        status
    }
}

/// Serves the content to everybody who connects, and echoes datagrams.
fn serve(address: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).expect("the host has this address");
    let datagrams = UdpSocket::bind(listener.local_addr().unwrap()).unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut wanted = [0; 8];
                stream.read_exact(&mut wanted).unwrap();
                let wanted = u64::from_le_bytes(wanted) as usize;
                stream.write_all(&content(wanted)).unwrap();
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
    std::thread::spawn(move || {
        let mut datagram = [0; 2000];
        while let Ok((len, from)) = datagrams.recv_from(&mut datagram) {
            // Who asked is told as whom it was seen.
            let told = format!("{from} {len}");
            datagrams.send_to(told.as_bytes(), from).unwrap();
        }
    });
    at
}

/// The same on a host.
fn serve_on(hosts: &Hosts, host: &str, address: impl Into<IpAddr>) -> SocketAddr {
    let address = address.into();
    hosts.on(host, move || serve(address)).join().expect("it serves")
}

fn download(from: SocketAddr, len: usize) -> Vec<u8> {
    let mut stream = TcpStream::connect(from).expect("the server is reached");
    stream.write_all(&(len as u64).to_le_bytes()).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).expect("the connection survives");
    got
}

/// Asks until there is an answer: datagrams may be lost while neighbours are looked for.
fn ask(server: SocketAddr) -> String {
    let local: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((local, 0)).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let mut answer = [0; 100];
    loop {
        socket.send_to(&[7; 1200], server).unwrap();
        if let Ok((len, _)) = socket.recv_from(&mut answer) {
            return String::from_utf8_lossy(&answer[..len]).into_owned();
        }
    }
}

/// Downloads over one connection, then over many at once, while `meanwhile` is done.
fn talk(hosts: &Hosts, server: SocketAddr, meanwhile: impl FnOnce()) {
    let client = hosts.on("a", move || {
        assert_eq!(download(server, BYTES).len(), BYTES);
        let many: Vec<_> = (0..CONNECTIONS)
            .map(|at| std::thread::spawn(move || (at, download(server, (at + 1) << 12))))
            .collect();
        let whole = download(server, BYTES);
        assert!(whole == content(BYTES), "no byte is wrong");
        for thread in many {
            let (at, got) = thread.join().unwrap();
            assert!(got == content((at + 1) << 12), "of connection {at}");
        }
    });
    meanwhile();
    client.join().expect("every connection survives");
}

#[test]
fn hosts_talk_through_a_translating_router_while_its_instances_die() {
    let Some(hosts) = hosts("chcr") else { return };
    for (host, address, other) in
        [("a", "192.168.77.10/24", "fd77::10/64"), ("b", "203.0.113.1/24", "2001:db8:77::1/64")]
    {
        hosts.configure(host, &format!("addr add {address} dev DEV"));
        hosts.configure(host, &format!("addr add {other} dev DEV nodad"));
    }
    hosts.configure("a", "route add default via 192.168.77.1");
    hosts.configure("a", "-6 route add default via fd77::1");
    hosts.configure("b", "addr add 198.51.100.7/32 dev lo");
    hosts.configure("b", "-6 route add fd77::/64 via 2001:db8:77::2");
    let scratch = Scratch::new();
    let up = Up::new(&scratch, &hosts, &[]);
    let v4 = serve_on(&hosts, "b", [198, 51, 100, 7]);
    let v6 = serve_on(&hosts, "b", "2001:db8:77::1".parse::<IpAddr>().unwrap());
    let seen = hosts.on("a", move || (ask(v4), ask(v6))).join().unwrap();
    assert!(seen.0.starts_with("203.0.113.2:") && seen.0.ends_with(" 1200"), "translated: {}", seen.0);
    assert!(seen.1.starts_with("[fd77::10]:"), "not translated: {}", seen.1);
    talk(&hosts, v4, || {
        for actor in ["nat/0", "nat/1", "portscan/0", "portscan/1", "nat/manager"] {
            let _ = up.chc(&["kill", actor]).expect(0);
        }
        let _ = up.chc(&["scale", "nat", "4"]).expect(0);
        let _ = up.chc(&["kill", "nat/0"]).expect(0);
        let _ = up.chc(&["move", "portscan", "--from", "0", "--to", "1", "--share", "0.5"]).expect(0);
        let _ = up.chc(&["drain", "nat/3"]).expect(0);
        let _ = up.chc(&["scale", "nat", "1"]).expect(0);
    });
    let status = up.down();
    let number = |value: &Value| value.as_u64().unwrap();
    assert_eq!((number(&status["recovered"]), number(&status["ingest_drops"])), (6, 0), "{status}");
    assert_eq!(status["interfaces"][1]["tx_lost"], serde_json::json!({}), "{status}");
    let events = String::from_utf8(scratch.read("eve.json")).unwrap();
    assert!(
        events.lines().filter(|line| line.contains("\"nat\"") && line.contains("open")).count() > CONNECTIONS
    );
}

#[test]
fn a_machine_reaches_the_world_through_a_chain_on_a_tap_interface_of_its_own() {
    let Some(hosts) = hosts("chcv") else { return };
    let outside = hosts.join();
    for address in ["203.0.113.1/24", "198.51.100.7/32"] {
        hosts.configure("b", &format!("addr add {address} dev {outside}"));
    }
    let server = serve_on(&hosts, "b", [198, 51, 100, 7]);
    // The chain runs on the first host, whose stack is on the wire that it makes.
    let status = hosts.on("a", move || {
        let scratch = Scratch::new();
        let up = Up::between(&scratch, ["tap0".into(), "chcva0".into()], &["io.backend=tap"], &[]);
        for arguments in ["addr add 192.168.77.10/24 dev tap0", "route add default via 192.168.77.1"] {
            let ip = std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap();
            assert!(ip.success(), "{arguments}");
        }
        assert!(ask(server).starts_with("203.0.113.2:"), "translated");
        assert!(download(server, BYTES) == content(BYTES), "no byte is wrong");
        up.down()
    });
    let status = status.join().expect("every byte arrives");
    assert_eq!(status["interfaces"][0]["name"], "tap0");
    assert!(status["interfaces"][0]["rx"].as_u64() > Some(100), "{status}");
}

#[test]
fn a_machine_reaches_the_world_through_a_chain_on_its_own_end_of_an_interface() {
    if !std::path::Path::new("/dev/netmap").exists() {
        return eprintln!("skipped: no /dev/netmap here");
    }
    let Some(hosts) = hosts("chch") else { return };
    let other = hosts.join();
    hosts.configure("a", "addr add 10.80.0.1/24 dev DEV");
    hosts.configure("b", &format!("addr add 10.80.0.2/24 dev {other}"));
    let server = serve_on(&hosts, "b", [10, 80, 0, 2]);
    let status = hosts.on("a", move || {
        let scratch = Scratch::new();
        let sides = ["chcha0^".to_owned(), "chcha0".to_owned()];
        let (chain, inside) = (config("gateway"), format!("io.inside={}", sides[0]));
        let refused = scratch.chc(&["up", chain.to_str().unwrap(), "--set", &inside]).expect(3);
        let switch_off = "ethtool -K chcha0 tx off";
        let _ = refused.says(&[&sides[0], switch_off]);
        let mut arguments = switch_off.split(' ');
        let mut ethtool = std::process::Command::new(arguments.next().unwrap());
        if ethtool.args(arguments).output().is_err() {
            eprintln!("skipped: no ethtool here");
            return None;
        }
        let up = Up::between(&scratch, sides, &BRIDGE, &[]);
        assert!(ask(server).starts_with("10.80.0.1:"), "not translated");
        assert!(download(server, BYTES) == content(BYTES), "no byte is wrong");
        Some(up.down())
    });
    if let Some(status) = status.join().expect("every byte arrives") {
        assert_eq!(status["interfaces"][0]["name"], "chcha0^");
        assert!(status["interfaces"][0]["rx"].as_u64() > Some(100), "{status}");
    }
}

#[test]
fn a_service_tells_its_manager_how_it_is_and_has_no_privilege_left_but_roots_over_files() {
    let Some(hosts) = hosts("chcs") else { return };
    let scratch = Scratch::new();
    // As when somebody runs it by sudo at home.
    std::os::unix::fs::chown(scratch.path("."), Some(65534), None).unwrap();
    let path = scratch.path("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    let variables = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "100000")];
    let sides = [hosts.interface("a"), hosts.interface("b")];
    let up = Up::between(&scratch, sides, &[], &variables);
    let told = || {
        let mut message = [0; 200];
        let len = manager.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..len]).trim().to_owned()
    };
    // A slow machine tells before it is ready that it is alive.
    let first: Vec<String> =
        std::iter::from_fn(|| Some(told())).skip_while(|m| m == "WATCHDOG=1").take(4).collect();
    assert_eq!(first, ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"]);
    let tasks = std::fs::read_dir(format!("/proc/{}/task", up.chain.id())).unwrap();
    let mut threads = 0;
    for task in tasks {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        for nothing in ["CapEff:\t0000000000000002", "CapPrm:\t0000000000000002", "NoNewPrivs:\t1"] {
            assert!(status.contains(nothing), "{nothing}: {status}");
        }
        threads += 1;
    }
    assert!(threads > 2);
    let _ = up.down();
    assert!(std::iter::from_fn(|| Some(told())).take(1000).any(|message| message == "STOPPING=1"));
}

/// A server that has two addresses and two ports, and answers by the socket that it is asked to, telling whom it saw.
fn serve_by_four(addresses: [IpAddr; 2]) {
    let at = |n: usize| (addresses[n / 2], 3478 + (n % 2) as u16);
    let sockets: Arc<Vec<UdpSocket>> = Arc::new((0..4).map(|n| UdpSocket::bind(at(n)).unwrap()).collect());
    for n in 0..sockets.len() {
        let sockets = Arc::clone(&sockets);
        std::thread::spawn(move || {
            let mut asked = [0];
            while let Ok((_, from)) = sockets[n].recv_from(&mut asked) {
                sockets[usize::from(asked[0])].send_to(from.to_string().as_bytes(), from).unwrap();
            }
        });
    }
}

/// Asks one of the server's sockets to answer by one of them; what that one saw.
fn ask_by(socket: &UdpSocket, addresses: [IpAddr; 2], (to, by): (usize, u8), tries: usize) -> Option<String> {
    let mut seen = [0; 100];
    (0..tries).find_map(|_| {
        socket.send_to(&[by], (addresses[to / 2], 3478 + (to % 2) as u16)).unwrap();
        let (len, _) = socket.recv_from(&mut seen).ok()?;
        Some(String::from_utf8_lossy(&seen[..len]).into_owned())
    })
}

#[test]
fn hosts_see_the_mapping_and_the_filter_that_are_configured() {
    let Some(hosts) = hosts("chcm") else { return };
    hosts.configure("a", "addr add 192.168.77.10/24 dev DEV");
    hosts.configure("a", "route add default via 192.168.77.1");
    let addresses: [IpAddr; 2] = [[198, 51, 100, 7].into(), [198, 51, 100, 8].into()];
    for address in ["203.0.113.1/24", "198.51.100.7/32", "198.51.100.8/32"] {
        hosts.configure("b", &format!("addr add {address} dev DEV"));
    }
    hosts.on("b", move || serve_by_four(addresses)).join().unwrap();
    // Whether one port serves all, and whether another address, or another port of the same, gets in. The first connection
    // of an endpoint keeps its port.
    for (mapping, filtering, expected) in [
        ("endpoint_independent", "endpoint_independent", (true, true, true)),
        ("endpoint_independent", "address_dependent", (true, false, true)),
        ("endpoint_independent", "address_and_port_dependent", (true, false, false)),
        ("address_and_port_dependent", "address_and_port_dependent", (false, false, false)),
    ] {
        let scratch = Scratch::new();
        let settings = [("mapping", mapping), ("filtering", filtering)]
            .map(|(k, v)| format!("vertex.nat.config.{k}={v}"));
        let up = Up::new(&scratch, &hosts, &settings.each_ref().map(String::as_str));
        let client = hosts.on("a", move || {
            let socket = || {
                let socket = UdpSocket::bind("192.168.77.10:0").unwrap();
                socket.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
                socket
            };
            let (first, second) = (socket(), socket());
            let seen = [0, 1, 2].map(|to| ask_by(&first, addresses, (to, to as u8), 100).expect("an answer"));
            ask_by(&second, addresses, (0, 0), 100).expect("an answer");
            let gets_in = |by| ask_by(&second, addresses, (0, by), 3).is_some();
            let own = first.local_addr().unwrap().port();
            assert!(seen[0].ends_with(&format!(":{own}")), "{seen:?}, from port {own}");
            (seen.iter().all(|one| *one == seen[0]), gets_in(3), gets_in(1))
        });
        assert_eq!(client.join().unwrap(), expected, "{mapping}, {filtering}");
        let _ = up.down();
    }
}

/// Makes the gateway a bridge that translates nobody.
const BRIDGE: [&str; 5] = [
    "io.mode=bridge",
    "vertex.nat.config.internal=[\"172.16.0.0/12\"]",
    "io.inside_addresses=[]",
    "io.outside_addresses=[]",
    "io.gateways=[]",
];

/// Brings a bridge up between two hosts of one network and has them talk.
fn talk_over_a_bridge(hosts: &Hosts, network: u8, asked: &str) {
    let scratch = Scratch::new();
    let backend = format!("io.backend={asked}");
    let up = Up::new(&scratch, hosts, &[&BRIDGE[..], &[backend.as_str()]].concat());
    let server = serve_on(hosts, "b", [10, network, 0, 2]);
    let seen = hosts.on("a", move || ask(server)).join().unwrap();
    assert!(seen.starts_with(&format!("10.{network}.0.1:")), "{seen}");
    talk(hosts, server, || drop(up.chc(&["kill", "portscan/0"]).expect(0)));
    let status = up.down();
    assert_eq!(status["recovered"], 1);
    for side in status["interfaces"].as_array().unwrap() {
        // A veth pair copies.
        let refused: Vec<&str> =
            side["refused"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        match (side["backend"].as_str(), refused.as_slice()) {
            (Some("af_xdp"), []) if asked == "af_xdp" => {}
            (Some("netmap"), []) if asked == "auto" => {}
            (Some("af_packet"), [netmap, af_xdp]) if asked == "auto" => {
                assert!(netmap.contains("/dev/netmap") && af_xdp.contains("AF_XDP"), "{refused:?}");
            }
            other => panic!("{asked}: {other:?}"),
        }
    }
    // What goes out is no longer than a wire takes, whatever came in.
    assert_eq!(status["interfaces"][0]["tx_lost"], serde_json::json!({}), "{status}");
}

#[test]
fn a_bridge_is_a_wire() {
    let Some(hosts) = hosts("chcb") else { return };
    hosts.configure("a", "addr add 10.77.0.1/24 dev DEV");
    hosts.configure("b", "addr add 10.77.0.2/24 dev DEV");
    talk_over_a_bridge(&hosts, 77, "auto");
}

#[test]
fn a_bridge_by_af_xdp_is_a_wire_too() {
    let Some(hosts) = hosts("chcx") else { return };
    hosts.configure("a", "addr add 10.79.0.1/24 dev DEV");
    hosts.configure("b", "addr add 10.79.0.2/24 dev DEV");
    let end = Interface::find(&hosts.interface("a")).unwrap();
    if let Err(error) = af_xdp::open(&end, Copies::IfNeeded) {
        return eprintln!("skipped: no AF_XDP here ({error})");
    }
    for _ in 0..20 {
        af_xdp::open(&end, Copies::IfNeeded).expect("a queue that was let go of can be had again at once");
    }
    talk_over_a_bridge(&hosts, 79, "af_xdp");
}

#[test]
fn an_interface_by_af_xdp_takes_frames_for_others_until_it_is_shut_and_is_an_error_when_it_is_gone() {
    let Some(hosts) = hosts("chcg") else { return };
    let is_promiscuous = || {
        let flags = std::fs::read_to_string("/sys/class/net/chcga1/flags").unwrap();
        u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap() & 0x100 != 0
    };
    assert!(!is_promiscuous());
    let [shut, gone] = ["a", "b"].map(|host| {
        let interface = Interface::find(&hosts.interface(host)).unwrap();
        af_xdp::open(&interface, Copies::IfNeeded)
    });
    let (Ok((mut shut, ..)), Ok((mut gone, ..))) = (shut, gone) else {
        return eprintln!("skipped: no AF_XDP here");
    };
    assert!(is_promiscuous(), "a card passes no others' frames to a host that does not ask");
    let sent = [0xff; 60];
    let send = move |end: &str| {
        let interface = Interface::find(end).unwrap();
        let mut transmitter = af_packet::Transmitter::open(&interface).unwrap();
        transmitter.send(&[&sent]);
        transmitter.flush();
    };
    let has_come =
        |receiver: &mut dyn Receive| (0..receiver.fill(64).unwrap()).any(|at| receiver.frame(at) == sent);
    hosts.on("a", move || send("chcga0")).join().unwrap();
    while !has_come(&mut shut) {}
    let end = Interface::find(&hosts.interface("a")).unwrap();
    let mut stack = af_packet::Receiver::open(&end).unwrap();
    shut.shut().expect("frames go to the stack again");
    hosts.on("a", move || send("chcga0")).join().unwrap();
    while !has_come(&mut stack) {}
    assert!(!has_come(&mut shut), "it was shut");
    hosts.configure("b", "link del DEV");
    gone.revive();
    let error = gone.fill(64).expect_err("it is gone").to_string();
    assert!(error.contains(&format!("interface {} is gone", hosts.interface("b"))), "{error}");
}

#[test]
fn a_bridge_keeps_tags() {
    let Some(hosts) = hosts("chct") else { return };
    for (host, address) in [("a", 1), ("b", 2)] {
        if let Err(error) = hosts.try_configure(host, "link add link DEV name tagged type vlan id 7") {
            return eprintln!("skipped: no tagged interfaces here ({error})");
        }
        hosts.configure(host, &format!("addr add 10.78.0.{address}/24 dev tagged"));
        hosts.configure(host, "link set tagged up");
    }
    talk_over_a_bridge(&hosts, 78, "auto");
}

#[test]
fn the_doctor_says_what_is_missing_and_what_to_do() {
    let scratch = Scratch::new();
    let chain = config("gateway");
    let chain = chain.to_str().unwrap();
    let doctor = |more: &[&str]| scratch.chc(&[&["doctor", chain, "--json"], more].concat());
    let findings = doctor(&["--set", "io.inside=no-such-if"]).expect(1).json();
    let checks = findings["checks"].as_array().unwrap();
    let inside = checks.iter().find(|check| check["what"] == "inside no-such-if").expect("it is looked at");
    assert_eq!((&findings["ready"], &inside["state"]), (&Value::Bool(false), &Value::from("bad")));
    assert!(inside["remedy"].as_str().unwrap().contains("io.inside"), "{inside}");
    assert!(checks.iter().any(|check| check["what"] == "capabilities"));
    let Some(hosts) = hosts("chcd") else { return };
    let sides = [("io.inside", "a"), ("io.outside", "b")]
        .map(|(key, host)| format!("{key}={}", hosts.interface(host)));
    let there = doctor(&["--set", &sides[0], "--set", &sides[1]]).expect(0).json();
    assert_eq!(there["ready"], true, "{there}");
    let made = doctor(&["--set", "io.inside=made0", "--set", "io.backend=tap", "--set", &sides[1]]);
    let made = made.expect(0).json();
    assert_eq!(made["ready"], true, "a TAP interface need not be there: {made}");
}

#[test]
fn what_cannot_be_brought_up_says_why() {
    let scratch = Scratch::new();
    let chain = config("gateway");
    let up = |settings: &[&str]| {
        let mut arguments = vec!["up", chain.to_str().unwrap()];
        settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
        scratch.chc(&arguments)
    };
    let _ = up(&["io.inside=no-such-if"]).expect(3).says(&["interface no-such-if", "there are", "lo"]);
    for name in ["lo", "lo^"] {
        let inside = format!("io.inside={name}");
        let _ = up(&[&inside]).expect(3).says(&["interface lo: it carries no Ethernet"]);
    }
    let has_netmap = std::path::Path::new("/dev/netmap").exists();
    if !has_netmap {
        for name in ["vale0:a", "p{1"] {
            let refused = up(&[&format!("io.inside={name}")]).expect(3);
            let _ = refused.says(&[name, "opening /dev/netmap (is netmap's module loaded?)"]);
        }
        let findings =
            scratch.chc(&["doctor", chain.to_str().unwrap(), "--json", "--set", "io.inside=vale0:a"]);
        let findings = findings.expect(1).json();
        let inside = findings["checks"].as_array().unwrap().iter().find(|c| c["what"] == "inside vale0:a");
        assert!(inside.unwrap()["remedy"].as_str().unwrap().contains("load netmap's module"), "{findings}");
    }
    if !has_netmap && let Some(hosts) = hosts("chcn") {
        let sides = [("io.inside", "a"), ("io.outside", "b")];
        let [inside, outside] = sides.map(|(key, host)| format!("{key}={}", hosts.interface(host)));
        let refused = up(&[&inside, &outside, "io.backend=netmap"]).expect(3);
        let _ = refused.says(&[&hosts.interface("a"), "opening /dev/netmap (is netmap's module loaded?)"]);
    }
    let nat = config("nat");
    let none = scratch.chc(&["up", nat.to_str().unwrap()]);
    let _ = none.expect(2).says(&["io.inside, io.outside: missing", "chc run"]);
    let lonely = scratch.chc(&["status", "--socket", "no.sock"]);
    let _ = lonely.expect(3).says(&["no.sock: no chain runs with this socket"]);
}
