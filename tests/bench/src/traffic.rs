//! The traffic of the experiments: packets in memory, made before anything is timed.
//!
//! A run has four parts. Each connection opens with a SYN, all connections one after the other; then
//! each is answered with a SYN+ACK; then data packets warm everything up; then come the packets that
//! are timed. Data packets lie in a ring that is read over and over: TCP segments of internal hosts to
//! external servers, each of a connection drawn at random, all equally likely. The SYN+ACKs carry the
//! internal address, as behind a translator that has translated them back, for only the translator
//! knows the external one; for every function they belong to the connection.
//!
//! With a share of new connections some timed packets are instead the SYN and SYN+ACK of a connection
//! that was not there before; the same hosts open them, in turn.
//!
//! Packet time advances 100 ns a packet. Memory: one frame a packet of the ring, which has as many as
//! there are connections and at least 8,192, plus 64 bytes an opening packet.

use chc_actors::root::core::Arrival;
use chc_actors::root::reader::PacketSource;
use chc_api::packet::link::LinkType;
use chc_api::packet::{Checksum, protocol, tcp};
use chc_api::{Side, Time};
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Arc;

/// Packet time between packets, in nanoseconds: the tick of 1 ms gives a step every 10,000 packets.
const GAP_NS: u64 = 100;
/// When the first packet arrives, in nanoseconds since the Unix epoch.
const BEGIN_NS: u64 = 1_700_000_000_000_000_000;
/// Fewest packets in the ring.
const RING_LEN_MIN: usize = 8192;
/// Fewest data packets before the timed ones.
const WARM_LEN_MIN: usize = 32_768;
/// Connections of one internal host.
const FLOWS_PER_HOST: usize = 16;
/// Ports of established connections begin here, those of new ones above all of them.
const FIRST_PORT: u16 = 20_000;
const FIRST_FRESH_PORT: u16 = 50_000;
/// Most connections: internal hosts are those of 10.0.0.0/8.
pub const FLOWS_MAX: usize = (1 << 24) * FLOWS_PER_HOST / 2;
/// Shortest frame, in bytes.
pub const FRAME_LEN_MIN: usize = 64;
/// Longest frame: Ethernet's header and 1,500 bytes.
pub const FRAME_LEN_MAX: usize = 1514;

const IP_AT: usize = 14;
const TCP_AT: usize = IP_AT + 20;

/// What traffic to make.
#[derive(Clone, Copy, Debug)]
pub struct TrafficOptions {
    /// Bytes of a data packet's frame.
    pub size: usize,
    /// Established connections.
    pub flows: usize,
    /// Packets that are timed, in one run.
    pub packets: usize,
    /// Which share of them opens connections, from 0 to 1; counted in millionths.
    pub new_share: f64,
}

impl TrafficOptions {
    /// The share in millionths.
    fn new_ppm(&self) -> u64 {
        (self.new_share * 1e6).round() as u64
    }

    /// How many timed packets open connections.
    fn fresh(&self) -> u64 {
        fresh(self.packets as u64, self.new_ppm())
    }
}

/// How many of the first `timed` timed packets open connections.
#[inline]
fn fresh(timed: u64, new_ppm: u64) -> u64 {
    if new_ppm == 0 { 0 } else { timed * new_ppm / 1_000_000 }
}

/// Frames of one length, back to back.
struct Frames {
    bytes: Vec<u8>,
    len: usize,
    count: usize,
}

impl Frames {
    fn of(len: usize, packets: impl ExactSizeIterator<Item = Segment>) -> Self {
        let count = packets.len();
        let mut bytes = vec![0; len * count];
        for (frame, packet) in bytes.chunks_exact_mut(len).zip(packets) {
            packet.write(frame);
        }
        Self { bytes, len, count }
    }

    #[inline]
    fn get(&self, at: usize) -> &[u8] {
        &self.bytes[at * self.len..(at + 1) * self.len]
    }
}

/// The packets of one experiment; runs share them.
pub struct Traffic {
    options: TrafficOptions,
    openings: Frames,
    ring: Frames,
    /// SYN and SYN+ACK of each new connection, in turn.
    fresh: Frames,
}

impl Traffic {
    /// Makes the packets.
    #[must_use]
    pub fn new(options: TrafficOptions) -> Self {
        let TrafficOptions { size, flows, .. } = options;
        let opening = |first: usize, count: usize| {
            (0..2 * count).map(move |at| {
                let connection = Connection::established(first + at % count);
                if at < count { connection.syn() } else { connection.syn_ack() }
            })
        };
        let mut random = 0x5eed;
        let ring = (0..flows.max(RING_LEN_MIN)).map(|at| {
            let flow = ((u128::from(next_random(&mut random)) * flows as u128) >> 64) as usize;
            Connection::established(flow).data(at)
        });
        let new = options.fresh().div_ceil(2) as usize;
        let hosts = flows.div_ceil(FLOWS_PER_HOST);
        let pair = |at: usize| {
            let connection = Connection::fresh(at / 2, hosts);
            if at.is_multiple_of(2) { connection.syn() } else { connection.syn_ack() }
        };
        Self {
            openings: Frames::of(FRAME_LEN_MIN, opening(0, flows)),
            ring: Frames::of(size, ring.collect::<Vec<_>>().into_iter()),
            fresh: Frames::of(FRAME_LEN_MIN, (0..2 * new).map(pair)),
            options,
        }
    }

    /// What was asked for.
    #[must_use]
    pub fn options(&self) -> &TrafficOptions {
        &self.options
    }

    /// Connections opened in a run, new ones included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.options.flows + self.fresh.count / 2
    }

    /// The numbers, from 0, of the packets of a run that are timed; those before them warm it up.
    #[must_use]
    pub fn timed(&self) -> Range<u64> {
        let begin = self.openings.count + self.options.flows.max(WARM_LEN_MIN);
        begin as u64..(begin + self.options.packets) as u64
    }

    /// One frame of each established connection.
    pub fn first_frames(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.options.flows).map(|at| self.syn(at))
    }

    /// The SYN of an established connection.
    #[must_use]
    pub fn syn(&self, flow: usize) -> &[u8] {
        self.openings.get(flow)
    }

    /// The data packets, over and over.
    pub fn data(&self) -> impl Iterator<Item = &[u8]> {
        self.ring.bytes.chunks_exact(self.ring.len).cycle()
    }

    /// Bytes of the timed packets.
    #[must_use]
    pub fn timed_bytes(&self) -> u64 {
        let fresh = self.options.fresh();
        (self.options.packets as u64 - fresh) * self.options.size as u64 + fresh * FRAME_LEN_MIN as u64
    }
}

/// Reads a run's packets in order. It ends with the last timed packet.
pub struct Feed {
    traffic: Arc<Traffic>,
    at: u64,
    /// Opening packets end here, timed packets begin there, and all end.
    openings: u64,
    timed: u64,
    end: u64,
    new_ppm: u64,
    ring_at: usize,
    fresh_at: usize,
    bytes: u64,
}

impl Feed {
    /// A feed at the first packet.
    #[must_use]
    pub fn new(traffic: Arc<Traffic>) -> Self {
        let (openings, timed) = (traffic.openings.count as u64, traffic.timed());
        let new_ppm = traffic.options.new_ppm();
        Self {
            traffic,
            at: 0,
            openings,
            timed: timed.start,
            end: timed.end,
            new_ppm,
            ring_at: 0,
            fresh_at: 0,
            bytes: 0,
        }
    }

    /// Packets read.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.at
    }

    /// Bytes of their frames.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes
    }

    /// The next packet.
    #[inline]
    pub fn arrival(&mut self) -> Option<Arrival<'_>> {
        if self.at == self.end {
            return None;
        }
        let time = Time(BEGIN_NS + self.at * GAP_NS);
        let frame = if self.at < self.openings {
            self.traffic.openings.get(self.at as usize)
        } else {
            let due = fresh((self.at + 1).saturating_sub(self.timed), self.new_ppm) as usize;
            if self.fresh_at < due {
                self.fresh_at += 1;
                self.traffic.fresh.get(self.fresh_at - 1)
            } else {
                let at = self.ring_at;
                self.ring_at = if at + 1 == self.traffic.ring.count { 0 } else { at + 1 };
                self.traffic.ring.get(at)
            }
        };
        self.at += 1;
        self.bytes += frame.len() as u64;
        Some(Arrival {
            time,
            side: Side::Inside,
            link: LinkType::ETHERNET,
            wire_len: frame.len() as u32,
            frame: frame.into(),
        })
    }
}

impl PacketSource for Feed {
    fn next(&mut self) -> Result<Option<Arrival<'_>>, String> {
        Ok(self.arrival())
    }
}

/// A TCP segment.
struct Segment {
    src: (Ipv4Addr, u16),
    dst: (Ipv4Addr, u16),
    seq: u32,
    ack: u32,
    flags: u8,
}

/// A connection: its internal and external end, and the number its opening begins with. No two have equal ends.
struct Connection {
    host: (Ipv4Addr, u16),
    server: (Ipv4Addr, u16),
    isn: u32,
}

impl Connection {
    /// One of those that are there from the start.
    fn established(flow: usize) -> Self {
        Self::of(flow, flow / FLOWS_PER_HOST, FIRST_PORT + (flow % FLOWS_PER_HOST) as u16 * 1_999)
    }

    /// One that is opened later, by one of the first so many hosts.
    fn fresh(nth: usize, hosts: usize) -> Self {
        let port = FIRST_FRESH_PORT + (nth / hosts % usize::from(u16::MAX - FIRST_FRESH_PORT)) as u16;
        Self::of(!nth, nth % hosts, port)
    }

    fn of(number: usize, host: usize, port: u16) -> Self {
        let mut mixed = number as u64;
        let mixed = next_random(&mut mixed) as u32;
        // 198.18.0.0/15 is for benchmarks (RFC 2544).
        let server = Ipv4Addr::from_bits(0xc612_0000 | mixed & 0xffff);
        Self {
            host: (Ipv4Addr::from_bits(0x0a00_0001 + host as u32), port),
            server: (server, if mixed & 1 << 20 == 0 { 443 } else { 80 }),
            isn: (number as u32).wrapping_mul(0x9e37_79b1),
        }
    }

    fn syn(&self) -> Segment {
        Segment { src: self.host, dst: self.server, seq: self.isn, ack: 0, flags: tcp::SYN }
    }

    fn syn_ack(&self) -> Segment {
        let ack = self.isn.wrapping_add(1);
        Segment { src: self.server, dst: self.host, seq: !self.isn, ack, flags: tcp::SYN | tcp::ACK }
    }

    fn data(&self, at: usize) -> Segment {
        let flags = if at.is_multiple_of(2) { tcp::ACK } else { tcp::PSH | tcp::ACK };
        let (seq, ack) = (self.isn.wrapping_add(1), (!self.isn).wrapping_add(1));
        Segment { src: self.host, dst: self.server, seq, ack, flags }
    }
}

impl Segment {
    /// Fills a frame, zero so far and long enough for the headers.
    fn write(&self, frame: &mut [u8]) {
        let ip_len = (frame.len() - IP_AT) as u16;
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
        frame[12] = 8;
        let (ip, segment) = frame[IP_AT..].split_at_mut(TCP_AT - IP_AT);
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
        ip[6] = 0x40;
        ip[8..10].copy_from_slice(&[64, protocol::TCP]);
        ip[12..16].copy_from_slice(&self.src.0.octets());
        ip[16..20].copy_from_slice(&self.dst.0.octets());
        let sum = Checksum::of(ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        segment[..2].copy_from_slice(&self.src.1.to_be_bytes());
        segment[2..4].copy_from_slice(&self.dst.1.to_be_bytes());
        segment[4..8].copy_from_slice(&self.seq.to_be_bytes());
        segment[8..12].copy_from_slice(&self.ack.to_be_bytes());
        segment[12..14].copy_from_slice(&[0x50, self.flags]);
        segment[14..16].copy_from_slice(&[0x20, 0]);
        let pseudo = Checksum::pseudo_v4(self.src.0, self.dst.0, protocol::TCP, segment.len() as u16);
        let sum = pseudo.bytes(segment).finish();
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The next number of a sequence (splitmix64).
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use chc_api::packet::parse::parse;
    use std::collections::HashSet;

    fn run(options: TrafficOptions) -> Vec<(Vec<u8>, Time)> {
        let mut feed = Feed::new(Arc::new(Traffic::new(options)));
        std::iter::from_fn(|| feed.arrival().map(|a| (a.frame.to_vec(), a.time))).collect()
    }

    const OPTIONS: TrafficOptions = TrafficOptions { size: 368, flows: 100, packets: 5000, new_share: 0.1 };

    #[test]
    fn every_frame_is_a_whole_segment_with_right_checksums() {
        for (frame, _) in run(OPTIONS) {
            let parsed = parse(LinkType::ETHERNET, &frame);
            assert_eq!((parsed.reason, usize::from(parsed.end)), (None, frame.len()));
            assert_eq!(Checksum::of(&frame[IP_AT..TCP_AT]), 0);
            let address = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
            let segment = &frame[TCP_AT..];
            let pseudo = Checksum::pseudo_v4(address(26), address(30), protocol::TCP, segment.len() as u16);
            assert_eq!(pseudo.bytes(segment).finish(), 0);
        }
    }

    #[test]
    fn data_belongs_to_connections_that_were_opened_and_answered() {
        let packets = run(OPTIONS);
        let (mut opened, mut answered) = (HashSet::new(), HashSet::new());
        for (frame, _) in &packets {
            let parsed = parse(LinkType::ETHERNET, frame);
            match parsed.tcp_flags {
                tcp::SYN => assert!(opened.insert(parsed.key), "a connection is new once"),
                flags if flags == tcp::SYN | tcp::ACK => assert!(answered.insert(parsed.key)),
                _ => assert!(opened.contains(&parsed.key) && answered.contains(&parsed.key)),
            }
        }
        assert_eq!(opened.len(), 100 + 250);
        assert!(opened == answered);
    }

    #[test]
    fn the_share_of_new_connections_and_the_sizes_are_those_asked_for() {
        let traffic = Traffic::new(OPTIONS);
        let timed = traffic.timed();
        let packets = run(OPTIONS);
        assert_eq!(packets.len() as u64, timed.end);
        let timed = &packets[timed.start as usize..];
        assert_eq!(timed.iter().filter(|(frame, _)| frame.len() == FRAME_LEN_MIN).count(), 500);
        assert_eq!(timed.iter().map(|(frame, _)| frame.len() as u64).sum::<u64>(), traffic.timed_bytes());
        assert!(packets.windows(2).all(|w| w[1].1.0 - w[0].1.0 == GAP_NS));
    }
}
