//! Experiment `io`: what a packet costs at the interfaces.
//!
//! Packet sockets: over a pair of virtual interfaces that is made for the run (needs root and the `ip` command), beside the
//! bare socket, called in the same batches. To receive is timed without the sender: frames wait in the sockets. To send is
//! timed with all that the kernel does until the other interface has dropped the frame.
//!
//! AF_XDP: the same over its sockets, which copy frames of such interfaces.
//!
//! netmap: over rings in memory. Its kernel module is not needed, and its part of the work is not in the figures but for the
//! swapping of buffers. On its way from ring to ring a frame is for a while in a block, as in a chain: in the buffer it came in,
//! or copied there and from there, as where there is no spare buffer.

use crate::report::{Line, Samples};
use crate::veth::Pair;
use anyhow::{Context as _, ensure};
use chc_api::packet::link::LinkType;
use chc_api::packet::parse::parse;
use chc_api::{Clock, Path, Time};
use chc_runtime::block::{BlockBuilder, BlockPool, Ingest, Meta};
use chc_runtime::io::af_packet::{PacketSocket, Receiver, Slot, Transmitter};
use chc_runtime::io::af_xdp::Copies;
use chc_runtime::io::netmap::memory::{Host, card, loopback};
use chc_runtime::io::{BATCH_MAX, Receive, Transmit, af_xdp};
use clap::ValueEnum;
use std::collections::VecDeque;
use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// Frames that wait in a socket at most.
const WAITING: usize = 2048;
/// Frames that wait in an AF_XDP socket: fewer than it has room for.
const WAITING_XDP: usize = 1024;
/// Slots of a ring in memory.
const SLOTS: u32 = 1024;
/// Spare buffers beside the rings in memory.
const SPARES: u32 = 4096;
/// Bytes of a frame that a block has a copy of in any case.
const HEAD_LEN: usize = 54;
/// Bursts that are kept: about what a chain has in flight of long frames.
const KEPT_BURSTS: usize = 4;
/// An EtherType for experiments: nobody answers.
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];

/// What to measure.
#[derive(Clone, Debug)]
pub struct IoOptions {
    /// The backends, in turn.
    pub backends: Vec<Backend>,
    /// The ways, in turn.
    pub directions: Vec<Direction>,
    /// Bytes of a frame.
    pub size: usize,
    /// Timed packets of a sample.
    pub packets: usize,
    /// Samples of each.
    pub samples: usize,
}

/// How frames get to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// Packet sockets.
    #[value(name = "af_packet")]
    AfPacket,
    /// AF_XDP.
    #[value(name = "af_xdp")]
    AfXdp,
    /// netmap, over rings in memory.
    Netmap,
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Backend::AfPacket => "af_packet",
            Backend::AfXdp => "af_xdp",
            Backend::Netmap => "netmap",
        }
    }
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    /// In.
    Receive,
    /// Out.
    Send,
    /// In, and out again from the block it was kept in (netmap alone).
    Forward,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Direction::Receive => "receive",
            Direction::Send => "send",
            Direction::Forward => "forward",
        }
    }
}

/// Runs the experiment. A backend that this machine does not let one measure is said so on stderr and left out.
///
/// # Errors
/// If frames are lost.
pub fn measure(options: &IoOptions) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for backend in &options.backends {
        for direction in &options.directions {
            match (backend, direction) {
                (Backend::Netmap, Direction::Forward) => {
                    for (what, spares) in [("copied", 0), ("backend", SPARES)] {
                        lines.push(line(options, *backend, *direction, what, &forward(options, spares)?));
                    }
                }
                (_, Direction::Forward) => {}
                (Backend::Netmap, _) => {
                    let figures = netmap(options, *direction)?;
                    lines.push(line(options, *backend, *direction, "backend", &figures));
                }
                (Backend::AfXdp, _) => match xdp(options, *direction) {
                    Err(error) => eprintln!("af_xdp is left out: {error:#}"),
                    Ok(figures) => lines.push(line(options, *backend, *direction, "backend", &figures)),
                },
                (Backend::AfPacket, _) => match Pair::new('a') {
                    Err(error) => eprintln!("af_packet is left out: {error:#}"),
                    Ok(pair) => {
                        let [bare, ours] = match direction {
                            Direction::Receive => receive(options, &pair)?,
                            _ => send(options, &pair)?,
                        };
                        lines.push(line(options, *backend, *direction, "bare", &bare));
                        lines.push(line(options, *backend, *direction, "backend", &ours));
                    }
                },
            }
        }
    }
    ensure!(!lines.is_empty(), "nothing could be measured: run as root, with the ip command there");
    Ok(lines)
}

fn line(options: &IoOptions, backend: Backend, direction: Direction, what: &str, figures: &Samples) -> Line {
    Line::new("io", "ns")
        .key("backend", backend.name())
        .key("direction", direction.name())
        .key("size", options.size)
        .key("what", what)
        .samples(figures)
}

fn frame(size: usize) -> Vec<u8> {
    let mut frame = vec![0x5a; size];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, ETHER_TYPE[0], ETHER_TYPE[1]]);
    frame
}

/// A frame with a UDP datagram: in memory there is no stack that would look at it.
fn datagram(size: usize) -> Vec<u8> {
    let mut frame = frame(size);
    let ip_len = (size - 14) as u16;
    frame[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    frame[16..18].copy_from_slice(&ip_len.to_be_bytes());
    frame[20..24].copy_from_slice(&[0, 0, 64, 17]);
    frame[38..40].copy_from_slice(&(ip_len - 20).to_be_bytes());
    frame
}

/// Time of the timed rounds of a sample, and their packets.
#[derive(Default)]
struct Spent {
    time: Duration,
    packets: usize,
}

impl Spent {
    fn time<T>(&mut self, packets: usize, run: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = run();
        self.time += began.elapsed();
        self.packets += packets;
        done
    }

    fn ns(&self) -> f64 {
        self.time.as_nanos() as f64 / self.packets.max(1) as f64
    }
}

/// Takes what waits; how many frames.
fn take(receiver: &mut dyn Receive) -> anyhow::Result<usize> {
    let mut taken = 0;
    loop {
        let count = receiver.fill(BATCH_MAX)?;
        if count == 0 {
            return Ok(taken);
        }
        for at in 0..count {
            black_box(receiver.frame(at).first());
        }
        taken += count;
    }
}

fn take_bare(socket: &PacketSocket, slots: &mut [Slot]) -> usize {
    let mut taken = 0;
    // An error is that nothing waits.
    while let Ok(count @ 1..) = socket.receive(slots) {
        for slot in &slots[..count] {
            black_box(slot.frame().first());
        }
        taken += count;
    }
    taken
}

fn receive(options: &IoOptions, pair: &Pair) -> anyhow::Result<[Samples; 2]> {
    let [to, from] = &pair.ends;
    let mut receiver = Receiver::open(to)?;
    let bare = PacketSocket::receiving(to)?;
    let mut slots: Vec<Slot> = (0..BATCH_MAX).map(|_| Slot::new()).collect();
    let mut feeder = Transmitter::open(from)?;
    let frame = frame(options.size);
    let mut all = [Samples::default(), Samples::default()];
    for _ in 0..options.samples {
        let mut spent = [Spent::default(), Spent::default()];
        for _ in 0..options.packets.div_ceil(WAITING) {
            (0..WAITING).for_each(|_| feeder.send(&[&frame]));
            feeder.flush();
            let by_bare = spent[0].time(WAITING, || take_bare(&bare, &mut slots));
            let by_us = spent[1].time(WAITING, || take(&mut receiver))?;
            ensure!(by_bare >= WAITING && by_us >= WAITING, "of {WAITING} frames {by_bare} and {by_us} came");
        }
        all.iter_mut().zip(&spent).for_each(|(samples, spent)| samples.push(spent.ns()));
    }
    Ok(all)
}

fn send(options: &IoOptions, pair: &Pair) -> anyhow::Result<[Samples; 2]> {
    let mut transmitter = Transmitter::open(&pair.ends[0])?;
    let bare = PacketSocket::sending(&pair.ends[0])?;
    let frame = frame(options.size);
    let mut all = [Samples::default(), Samples::default()];
    for _ in 0..options.samples {
        let mut spent = [Spent::default(), Spent::default()];
        for _ in 0..options.packets.div_ceil(WAITING) {
            spent[0].time(WAITING, || -> anyhow::Result<()> {
                let mut left = WAITING;
                while left > 0 {
                    left -= bare.send(std::iter::repeat_n(frame.as_slice(), left.min(BATCH_MAX)))?;
                }
                Ok(())
            })?;
            spent[1].time(WAITING, || {
                (0..WAITING).for_each(|_| transmitter.send(&[&frame]));
                transmitter.flush();
            });
        }
        all.iter_mut().zip(&spent).for_each(|(samples, spent)| samples.push(spent.ns()));
    }
    let counters = transmitter.counters();
    ensure!(counters.lost() == 0, "{} frames were not sent", counters.lost());
    Ok(all)
}

fn xdp(options: &IoOptions, direction: Direction) -> anyhow::Result<Samples> {
    let pair = Pair::new('a')?;
    let [to, from] = &pair.ends;
    let frame = frame(options.size);
    let mut all = Samples::default();
    match direction {
        Direction::Receive => {
            let (mut receiver, ..) = af_xdp::open(to, Copies::IfNeeded)?;
            let mut feeder = Transmitter::open(from)?;
            for _ in 0..options.samples {
                let mut spent = Spent::default();
                for _ in 0..options.packets.div_ceil(WAITING_XDP) {
                    (0..WAITING_XDP).for_each(|_| feeder.send(&[&frame]));
                    feeder.flush();
                    let taken = spent.time(WAITING_XDP, || take(&mut receiver))?;
                    ensure!(taken >= WAITING_XDP, "of {WAITING_XDP} frames {taken} came");
                }
                all.push(spent.ns());
            }
        }
        _ => {
            let (_, mut transmitter, _) = af_xdp::open(from, Copies::IfNeeded)?;
            for _ in 0..options.samples {
                let mut spent = Spent::default();
                for _ in 0..options.packets.div_ceil(WAITING_XDP) {
                    spent.time(WAITING_XDP, || {
                        for _ in 0..WAITING_XDP.div_ceil(BATCH_MAX) {
                            (0..BATCH_MAX).for_each(|_| transmitter.send(&[&frame]));
                            transmitter.flush();
                        }
                    });
                }
                all.push(spent.ns());
            }
            let counters = transmitter.counters();
            ensure!(counters.lost() == 0, "{} frames were not sent", counters.lost());
        }
    }
    Ok(all)
}

fn netmap(options: &IoOptions, direction: Direction) -> anyhow::Result<Samples> {
    let (mut receiver, mut transmitter) = loopback(SLOTS);
    let frame = datagram(options.size);
    let mut all = Samples::default();
    for _ in 0..options.samples {
        let (mut sending, mut receiving) = (Spent::default(), Spent::default());
        for _ in 0..options.packets.div_ceil(BATCH_MAX) {
            sending.time(BATCH_MAX, || {
                (0..BATCH_MAX).for_each(|_| transmitter.send(&[&frame]));
                transmitter.flush();
            });
            let taken = receiving.time(BATCH_MAX, || take(&mut receiver))?;
            ensure!(taken == BATCH_MAX, "of {BATCH_MAX} frames {taken} came");
        }
        all.push(if direction == Direction::Send { sending.ns() } else { receiving.ns() });
    }
    Ok(all)
}

/// A host that sends the same frame without end and does not look at what comes.
struct Flood(Vec<u8>);

impl Host for Flood {
    fn bring(&mut self, buffer: &mut [u8]) -> usize {
        let buffer = &mut buffer[..self.0.len()];
        // The wire's work is not the backend's: only a buffer that never had it gets the frame.
        if buffer[12..14] != self.0[12..14] {
            buffer.copy_from_slice(&self.0);
        }
        buffer.len()
    }

    fn take(&mut self, _: &[u8]) {}

    fn readiness(&self) -> std::io::Result<OwnedFd> {
        // Nobody waits for it.
        Ok(UnixDatagram::unbound()?.into())
    }
}

/// Takes bursts in, keeps them as a chain does, and sends them.
fn forward(options: &IoOptions, spares: u32) -> anyhow::Result<Samples> {
    let (mut receiver, mut transmitter) = card(SLOTS, spares, Flood(datagram(options.size)));
    let mut builder = BlockBuilder::new(BlockPool::new());
    let mut kept = VecDeque::new();
    let mut all = Samples::default();
    for _ in 0..options.samples {
        let mut spent = Spent::default();
        while spent.packets < options.packets {
            spent.packets += spent.time(0, || -> anyhow::Result<usize> {
                let count = receiver.fill(BATCH_MAX)?;
                for at in 0..count {
                    let mut frame = receiver.hand_over(at);
                    let (clock, path, wire_len) = (Clock(at as u64), Path::FIRST, frame.len() as u32);
                    let ingest = Ingest { clock, path, hash: 0, wire_len, bits: 0 };
                    let parsed = parse(LinkType::ETHERNET, &frame);
                    let meta = Meta::new(parsed, LinkType::ETHERNET, Time(0), Time(0), 0);
                    builder.ingest(&mut frame, HEAD_LEN, ingest, || meta);
                }
                if kept.len() == KEPT_BURSTS {
                    kept.pop_front();
                }
                kept.extend(builder.finish());
                let block = kept.back().context("nothing came")?;
                for desc in &block.descs {
                    transmitter.send(&[block.head(desc), block.tail(desc)]);
                }
                transmitter.flush();
                Ok(count)
            })?;
        }
        all.push(spent.ns());
    }
    let counters = transmitter.counters();
    ensure!(counters.lost() == 0, "{} frames were not sent", counters.lost());
    let expected = if spares > 0 && options.size >= HEAD_LEN + 256 { counters.packets } else { 0 };
    ensure!(counters.zero_copy == expected, "{} of {expected} frames were not copied", counters.zero_copy);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_in_memory_are_measured_both_ways_and_lose_nothing() {
        let options = IoOptions {
            backends: vec![Backend::Netmap],
            directions: Direction::value_variants().to_vec(),
            size: 64,
            packets: 10_000,
            samples: 3,
        };
        let lines = measure(&options).unwrap();
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.show(true).contains("\"backend\":\"netmap\"")));
    }
}
