//! Experiment `idle`: how long a round trip takes between two hosts that hardly talk, and so what is between them adds.
//!
//! ```text
//!  this thread ── veth ──┬── the kernel's bridge ──┬── veth ── a network namespace, whose kernel answers
//!                        ├── a bare forwarder    ──┤
//!                        └── the chain           ──┘
//! ```
//!
//! An echo request goes out each [`PERIOD`]: whatever is between has parked by then, and its memory has grown cold. The bare
//! forwarder hands frames from one packet socket to another and does nothing else: what it adds to the bridge, which needs
//! no thread to wake, is what the system takes of any program there. Both it and the chain are measured parked (until a
//! frame comes) and busy (asking all the time).

use crate::report::{Line, Samples};
use crate::setup::{self, Mode};
use crate::traffic::{Traffic, TrafficOptions};
use crate::veth::{Pair, ip, remove};
use anyhow::{Context as _, anyhow, ensure};
use chc_actors::chain::sinks::{Failure, FileSink};
use chc_actors::chain::up::{UpOptions, up};
use chc_actors::control::server::Endpoints;
use chc_actors::control::view::Interfaces;
use chc_actors::gateway::{LiveSink, LiveSource, Ports};
use chc_api::packet::checksum::Checksum;
use chc_runtime::io::af_packet::{PacketSocket, Receiver, Slot, Transmitter};
use chc_runtime::io::{Interface, Receive, Transmit};
use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// From one request to the next.
const PERIOD: Duration = Duration::from_millis(20);
/// Requests before those that are timed, of each sample.
const WARM_UP: u16 = 5;
/// An answer that takes longer is lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// How often the bare forwarder looks whether it is to end.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// Who asks, behind the chain's translator.
const ASKER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Who answers.
const ANSWERER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The asker's identifier in its requests, which a translator changes on the way and back.
const IDENTIFIER: u16 = 0x6863;
/// Packets the root reads at once.
const BURST: u16 = 256;
/// The chain: the functions of the paper.
const FUNCTIONS: [&str; 4] = ["nat", "portscan", "load_balancer", "trojan"];

/// What is between the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Between {
    /// The kernel's bridge.
    Bridge,
    /// A bare forwarder, parked.
    Bare,
    /// A bare forwarder that asks all the time.
    BareBusy,
    /// The chain, parked.
    Chain,
    /// The chain, polling.
    ChainBusy,
}

impl Between {
    fn name(self) -> &'static str {
        match self {
            Between::Bridge => "bridge",
            Between::Bare => "bare",
            Between::BareBusy => "bare-busy",
            Between::Chain => "chain",
            Between::ChainBusy => "chain-busy",
        }
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct IdleOptions {
    /// What is between the hosts, in turn.
    pub between: Vec<Between>,
    /// Timed requests of a sample.
    pub requests: u16,
    /// Samples of each.
    pub samples: usize,
}

/// Runs the experiment.
///
/// # Errors
/// If the hosts cannot be made, or an answer is lost.
pub fn measure(options: &IdleOptions) -> anyhow::Result<Vec<Line>> {
    let hosts = Hosts::new().context("two hosts cannot be made (this needs root)")?;
    let mut all: Vec<(Samples, Vec<Duration>)> = vec![Default::default(); options.between.len()];
    for _ in 0..options.samples {
        for (between, (medians, all)) in options.between.iter().zip(&mut all) {
            let end = begin(*between, &hosts)?;
            let times = hosts.ask(options.requests);
            end()?;
            let mut times = times.with_context(|| format!("between the hosts: {}", between.name()))?;
            medians.push(quantile(&mut times, 0.5));
            all.append(&mut times);
        }
    }
    let line = |(between, (medians, all)): (&Between, &mut (Samples, Vec<Duration>))| {
        let p99 = quantile(all, 0.99);
        Line::new("idle", "us").key("between", between.name()).key("p99", p99).samples(medians)
    };
    Ok(options.between.iter().zip(&mut all).map(line).collect())
}

/// The time that a share of them do not exceed, in microseconds.
fn quantile(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    times.get((times.len() as f64 * share) as usize).map_or(0.0, |time| time.as_nanos() as f64 / 1e3)
}

/// Two hosts, of which one is this thread, and the interfaces where what is between them begins.
struct Hosts {
    out: PacketSocket,
    back: PacketSocket,
    asking: Pair,
    answering: Pair,
    /// The last to go: one end of an interface is there.
    _namespace: Namespace,
}

/// A network namespace that is gone when this is.
struct Namespace(String);

impl Namespace {
    fn new() -> anyhow::Result<Self> {
        let name = format!("chc{}", std::process::id());
        ip(&["netns", "add", &name])?;
        Ok(Self(name))
    }

    fn ip(&self, arguments: &[&str]) -> anyhow::Result<()> {
        ip(&[&["-n", &self.0], arguments].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&["netns", "del", &self.0]);
    }
}

impl Hosts {
    fn new() -> anyhow::Result<Self> {
        let namespace = Namespace::new()?;
        let (asking, answering) = (Pair::new('a')?, Pair::new('b')?);
        let [out, back] = [PacketSocket::sending, PacketSocket::receiving].map(|open| open(&asking.ends[0]));
        let name = answering.names[0].as_str();
        ip(&["link", "set", name, "netns", &namespace.0])?;
        namespace.ip(&["link", "set", name, "up"])?;
        namespace.ip(&["addr", "add", &format!("{ANSWERER}/32"), "dev", name])?;
        namespace.ip(&["route", "add", "default", "dev", name])?;
        // Whatever the asker is translated to, it is there.
        let asker = asking.ends[0].mac.to_string();
        for address in [ASKER, setup::EXTERNAL].map(|address| address.to_string()) {
            namespace.ip(&["neigh", "add", &address, "lladdr", &asker, "dev", name, "nud", "permanent"])?;
        }
        Ok(Self { out: out?, back: back?, asking, answering, _namespace: namespace })
    }

    /// The interfaces to stand between.
    fn ports(&self) -> [&Interface; 2] {
        [&self.asking.ends[1], &self.answering.ends[1]]
    }

    /// Asks again and again; how long each answer took but for the first ones.
    fn ask(&self, requests: u16) -> anyhow::Result<Vec<Duration>> {
        let mut slots = [Slot::new()];
        let mut times = Vec::new();
        for number in 0..WARM_UP + requests {
            thread::sleep(PERIOD);
            let request = self.request(number);
            let began = Instant::now();
            self.out.send([request.as_slice()].into_iter())?;
            while !(self.back.receive(&mut slots).is_ok_and(|count| count > 0)
                && is_answer(slots[0].frame(), number))
            {
                ensure!(began.elapsed() < ANSWER_WITHIN, "request {number} was not answered");
                await_any([&self.back])?;
            }
            if number >= WARM_UP {
                times.push(began.elapsed());
            }
        }
        Ok(times)
    }

    /// An Ethernet frame with an echo request.
    fn request(&self, number: u16) -> Vec<u8> {
        let mut icmp =
            [&[8, 0, 0, 0][..], &IDENTIFIER.to_be_bytes(), &number.to_be_bytes(), &[0; 56]].concat();
        let sum = Checksum::of(&icmp);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let len = (20 + icmp.len()) as u16;
        let mut ip = [&[0x45, 0][..], &len.to_be_bytes(), &[0, 0, 0, 0, 64, 1, 0, 0]].concat();
        ip.extend(ASKER.octets());
        ip.extend(ANSWERER.octets());
        let sum = Checksum::of(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let [from, to] = [&self.asking, &self.answering].map(|pair| pair.ends[0].mac.0);
        [&to[..], &from, &[8, 0], &ip, &icmp].concat()
    }
}

fn is_answer(frame: &[u8], number: u16) -> bool {
    let [id, number] = [IDENTIFIER, number].map(u16::to_be_bytes);
    frame.get(34..36) == Some(&[0, 0]) && frame.get(38..42) == Some(&[id, number].concat()[..])
}

/// Waits until one of them can be read, or for a while.
fn await_any<const N: usize>(sockets: [&PacketSocket; N]) -> std::io::Result<()> {
    let mut polled = sockets.map(|socket| PollFd::new(socket, PollFlags::IN));
    poll(&mut polled, Some(&LOOK))?;
    Ok(())
}

/// Ends what stands between the hosts.
type End = Box<dyn FnOnce() -> anyhow::Result<()>>;

/// Puts something between the hosts.
fn begin(between: Between, hosts: &Hosts) -> anyhow::Result<End> {
    match between {
        Between::Bridge => bridge(hosts),
        Between::Bare => bare(hosts, false),
        Between::BareBusy => bare(hosts, true),
        Between::Chain => chain(hosts, false),
        Between::ChainBusy => chain(hosts, true),
    }
}

fn bridge(hosts: &Hosts) -> anyhow::Result<End> {
    let name = format!("chc{}", std::process::id());
    ip(&["link", "add", &name, "type", "bridge"])?;
    let end = {
        let name = name.clone();
        Box::new(move || ip(&["link", "del", &name]))
    };
    let join = |port: &Interface| ip(&["link", "set", &port.name, "master", &name]);
    match ip(&["link", "set", &name, "up"]).and_then(|()| hosts.ports().into_iter().try_for_each(join)) {
        Ok(()) => Ok(end),
        Err(error) => {
            end()?;
            Err(error)
        }
    }
}

fn bare(hosts: &Hosts, is_busy: bool) -> anyhow::Result<End> {
    let [from_a, from_b] = hosts.ports().map(PacketSocket::receiving);
    let [to_a, to_b] = hosts.ports().map(PacketSocket::sending);
    let (from, to) = ([from_a?, from_b?], [to_b?, to_a?]);
    let ends = Arc::new(AtomicBool::new(false));
    let forward = {
        let ends = Arc::clone(&ends);
        move || -> anyhow::Result<()> {
            let mut slots = [Slot::new()];
            while !ends.load(Ordering::Relaxed) {
                if !is_busy {
                    await_any(from.each_ref())?;
                }
                for (from, to) in from.iter().zip(&to) {
                    while from.receive(&mut slots).is_ok_and(|count| count > 0) {
                        to.send([slots[0].frame()].into_iter())?;
                    }
                }
            }
            Ok(())
        }
    };
    let thread = thread::spawn(forward);
    Ok(Box::new(move || {
        ends.store(true, Ordering::Relaxed);
        join(thread)
    }))
}

fn chain(hosts: &Hosts, is_busy: bool) -> anyhow::Result<End> {
    let no_traffic = Traffic::new(TrafficOptions { size: 64, flows: 1, packets: 1, new_share: 0.0 });
    let mut plan = setup::plan(&FUNCTIONS.map(str::to_owned), Mode::Default, BURST, &no_traffic)?;
    plan.is_busy = is_busy;
    let [inside, outside] = hosts.ports();
    let receivers: [Box<dyn Receive>; 2] =
        [Box::new(Receiver::open(inside)?), Box::new(Receiver::open(outside)?)];
    let transmitters: [Box<dyn Transmit>; 2] =
        [Box::new(Transmitter::open(inside)?), Box::new(Transmitter::open(outside)?)];
    let ports = Ports::new(transmitters, None);
    let options = UpOptions {
        endpoints: Endpoints { sockets: Vec::new(), listen: None, token_file: None },
        keep_in: None,
        interfaces: Interfaces {
            names: [inside, outside].map(|interface| interface.name.clone()),
            backends: ["af_packet"; 2],
            refused: [Vec::new(), Vec::new()],
            ports: Arc::clone(&ports),
        },
        alerts: Arc::default(),
        feed: Arc::default(),
    };
    let names = plan.vertices.iter().map(|vertex| vertex.name.clone()).collect();
    let files = FileSink::new(None, None, names, Arc::default(), Failure::default());
    let (source, sink) = (LiveSource::new(receivers, Arc::clone(&ports)), LiveSink::new(ports, files));
    let (tell, started) = flume::bounded(1);
    let run = move || -> anyhow::Result<()> {
        // Whoever waits has the error if there is nobody any more.
        let outcome =
            up(&plan, source, sink, options, |end| drop(tell.send(end)), |_| serde_json::Value::Null)?;
        let counts = &outcome.root.counts;
        ensure!(counts.packets > 0, "no packet went through the chain");
        Ok(())
    };
    let thread = thread::spawn(run);
    match started.recv() {
        Ok(end) => Ok(Box::new(move || {
            end();
            join(thread)
        })),
        Err(_) => Err(join(thread).err().unwrap_or_else(|| anyhow!("the chain has not come up"))),
    }
}

fn join(thread: JoinHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
    thread.join().map_err(|_| anyhow!("what was between the hosts panicked"))?
}
