//! Drives an ideal chain packet by packet, and builds the packets.

use chc_actors::ideal::{Choices, EventRecord, IdealChain, Input, Outcome, Output, StateValue};
use chc_actors::topology::Topology;
use chc_api::packet::{Checksum, LinkType, PacketKind, parse, protocol};
use chc_api::{Clock, Identity, Time, VertexId};
use etherparse::PacketBuilder;
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::icmpv6::DestUnreachableCode;
use serde_json::Value;
use std::net::{Ipv4Addr, Ipv6Addr};

/// An address, of IPv4 if nothing else is said, and a port (the identifier of an echo).
pub type Peer<A = [u8; 4]> = (A, u16);

/// TCP flags.
pub const SYN: &str = "S";
/// See [`SYN`].
pub const SYN_ACK: &str = "SA";
/// See [`SYN`].
pub const ACK: &str = "A";
/// See [`SYN`].
pub const FIN_ACK: &str = "FA";
/// See [`SYN`].
pub const RST: &str = "R";

/// A linear ideal chain under a clock that a test sets.
pub struct Driver {
    /// The chain.
    pub chain: IdealChain,
    /// Window of its root, clocks.
    pub window: u64,
    /// Time of the next packet.
    pub now_ms: u64,
    /// Clock of the next packet.
    pub clock: u64,
}

impl Driver {
    /// A chain of functions with their configurations, each with this many slots.
    ///
    /// # Panics
    /// If a configuration is refused.
    #[must_use]
    pub fn new(vertices: &[(&str, Value)], slots: u16, choices: Option<Choices>) -> Self {
        let window = 16;
        let mut chain = IdealChain::new(window, Topology::line(vertices.len() as u16), choices);
        for ((nf, config), id) in vertices.iter().zip(0..) {
            let built = chc_nf_catalog::with(nf, config, slots, 42, chain.append(VertexId(id)));
            built.expect("the configuration is right");
        }
        Self { chain, window, now_ms: 1_000, clock: 0 }
    }

    /// Sends an Ethernet frame through the chain.
    pub fn send(&mut self, frame: &[u8]) -> Outcome {
        let identity = parse(LinkType::ETHERNET, frame).identity();
        self.send_as(frame, identity)
    }

    /// As [`Self::send`], as a packet of this connection.
    pub fn send_as(&mut self, frame: &[u8], identity: Identity) -> Outcome {
        let clock = Clock(self.clock);
        self.clock += 1;
        let mut outcomes = self.chain.feed(&Input {
            clock,
            time: Time(self.now_ms * 1_000_000),
            is_step: true,
            number: self.clock,
            link: LinkType::ETHERNET,
            wire_len: frame.len() as u32,
            frame,
            parsed: parse(LinkType::ETHERNET, frame),
            identity,
        });
        assert!(outcomes.len() <= 1, "functions in a line send no packets of their own: {outcomes:?}");
        outcomes.pop().expect("every packet ends")
    }

    /// The frame that leaves, with right checksums.
    ///
    /// # Panics
    /// If the frame is dropped or a checksum is wrong.
    pub fn pass(&mut self, frame: &[u8]) -> Vec<u8> {
        self.pass_whole(frame).frame
    }

    /// As [`Self::pass`], with everything else.
    ///
    /// # Panics
    /// If the frame is dropped or a checksum is wrong.
    pub fn pass_whole(&mut self, frame: &[u8]) -> Output {
        match self.send(frame) {
            Outcome::Forwarded(output) => {
                assert_checksums(&output.frame);
                output
            }
            Outcome::Dropped { reason, .. } => panic!("dropped: {reason}"),
        }
    }

    /// Why a frame is dropped.
    ///
    /// # Panics
    /// If it is not.
    pub fn drop_reason(&mut self, frame: &[u8]) -> &'static str {
        match self.send(frame) {
            Outcome::Dropped { reason, .. } => reason,
            Outcome::Forwarded(_) => panic!("not dropped"),
        }
    }

    /// Time goes on and reaches the chain.
    pub fn wait_ms(&mut self, ms: u64) {
        self.now_ms += ms;
        self.chain.time_step(Clock(self.clock), Time(self.now_ms * 1_000_000));
        self.clock += 1;
    }

    /// Void clocks, as many as the window: what was released before may be taken again.
    pub fn pass_window(&mut self) {
        self.clock += self.window;
    }

    /// The events since the last call.
    pub fn events(&mut self) -> Vec<EventRecord> {
        self.chain.take_events()
    }

    /// The values of an object, in the order of their keys.
    #[must_use]
    pub fn values(&self, object: &str) -> Vec<StateValue> {
        let state = self.chain.state().into_iter();
        state.filter(|((_, name, _), _)| *name == object).map(|(_, value)| value).collect()
    }

    /// A counter.
    ///
    /// # Panics
    /// If it is no counter.
    #[must_use]
    pub fn counter(&self, name: &str) -> i64 {
        match self.values(name).as_slice() {
            [] => 0,
            [StateValue::Int(count)] => *count,
            other => panic!("{name} is {other:?}"),
        }
    }
}

/// A packet that is being built.
pub type Step = etherparse::PacketBuilderStep<etherparse::IpHeaders>;

/// The addresses of a family.
pub trait Family: Copy {
    /// Begins a packet.
    fn ip(from: Self, to: Self) -> Step;
}

impl Family for [u8; 4] {
    fn ip(from: Self, to: Self) -> Step {
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from, to, 64)
    }
}

impl Family for [u8; 16] {
    fn ip(from: Self, to: Self) -> Step {
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(from, to, 64)
    }
}

/// A TCP segment with the flags of `flags` (letters S, A, F, R) and sequence number 1000.
#[must_use]
pub fn tcp<A: Family>(from: Peer<A>, to: Peer<A>, flags: &str) -> Vec<u8> {
    tcp_seq(from, to, flags, 1000)
}

/// A TCP segment.
///
/// # Panics
/// Never: a vector takes every byte.
#[must_use]
pub fn tcp_seq<A: Family>(from: Peer<A>, to: Peer<A>, flags: &str, seq: u32) -> Vec<u8> {
    let mut step = A::ip(from.0, to.0).tcp(from.1, to.1, seq, 500);
    for flag in flags.chars() {
        step = match flag {
            'S' => step.syn(),
            'A' => step.ack(7),
            'F' => step.fin(),
            'R' => step.rst(),
            _ => step,
        };
    }
    let mut frame = Vec::new();
    step.write(&mut frame, b"data").expect("written to memory");
    frame
}

/// A UDP datagram.
///
/// # Panics
/// Never: a vector takes every byte.
#[must_use]
pub fn udp<A: Family>(from: Peer<A>, to: Peer<A>) -> Vec<u8> {
    let mut frame = Vec::new();
    A::ip(from.0, to.0).udp(from.1, to.1).write(&mut frame, b"datagram").expect("written to memory");
    frame
}

/// An ICMP echo, request or reply.
///
/// # Panics
/// Never: a vector takes every byte.
#[must_use]
pub fn echo(from: [u8; 4], to: [u8; 4], identifier: u16, is_request: bool) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = Family::ip(from, to);
    if is_request {
        step.icmpv4_echo_request(identifier, 1).write(&mut frame, b"ping")
    } else {
        step.icmpv4_echo_reply(identifier, 1).write(&mut frame, b"ping")
    }
    .expect("written to memory");
    frame
}

/// An ICMPv6 "port unreachable" that quotes the first `quoted_len` bytes of the IP packet in `about`.
///
/// # Panics
/// Never: a vector takes every byte.
#[must_use]
pub fn unreachable_v6(from: [u8; 16], to: [u8; 16], about: &[u8], quoted_len: usize) -> Vec<u8> {
    let kind = etherparse::Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port);
    let quoted = &about[14..][..quoted_len.min(about.len() - 14)];
    let mut frame = Vec::new();
    Family::ip(from, to).icmpv6(kind).write(&mut frame, quoted).expect("written to memory");
    frame
}

/// An ICMP "port unreachable" that quotes the first `quoted_len` bytes of the IP packet in `about`.
///
/// # Panics
/// Never: a vector takes every byte.
#[must_use]
pub fn unreachable(from: [u8; 4], to: [u8; 4], about: &[u8], quoted_len: usize) -> Vec<u8> {
    let kind = etherparse::Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
    let quoted = &about[14..][..quoted_len.min(about.len() - 14)];
    let mut frame = Vec::new();
    Family::ip(from, to).icmpv4(kind).write(&mut frame, quoted).expect("written to memory");
    frame
}

/// Source and destination of the IPv4 TCP, UDP or echo packet in a frame.
#[must_use]
pub fn peers(frame: &[u8]) -> (Peer, Peer) {
    let identity = parse(LinkType::ETHERNET, frame).identity();
    let peer = |end: chc_api::identity::Endpoint| match end.addr {
        std::net::IpAddr::V4(addr) => (addr.octets(), end.port),
        std::net::IpAddr::V6(_) => ([0; 4], end.port),
    };
    (peer(identity.source()), peer(identity.destination()))
}

/// Checks the checksums of a whole packet, IPv6 without extension headers, in an Ethernet frame.
///
/// # Panics
/// If one is wrong.
pub fn assert_checksums(frame: &[u8]) {
    let parsed = parse(LinkType::ETHERNET, frame);
    if parsed.is(PacketKind::IPV6.with(PacketKind::HAS_L4)) && parsed.l4 == 54 {
        let address = |at: usize| Ipv6Addr::from(*frame[at..].first_chunk::<16>().expect("it is whole"));
        let body = &frame[54..];
        let pseudo = Checksum::pseudo_v6(address(22), address(38), parsed.protocol, body.len() as u32);
        assert_eq!(pseudo.bytes(body).finish(), 0, "{frame:02x?}");
    }
    if !parsed.is(PacketKind::IPV4) || parsed.is(PacketKind::TUNNELLED) {
        return;
    }
    assert_eq!(Checksum::of(&frame[14..34]), 0, "IP header of {frame:02x?}");
    if !parsed.is(PacketKind::HAS_L4) || parsed.is(PacketKind::FIRST_FRAGMENT) {
        return;
    }
    let body = &frame[34..];
    let address = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    let pseudo = Checksum::pseudo_v4(address(26), address(30), parsed.protocol, body.len() as u16);
    match parsed.protocol {
        protocol::TCP | protocol::UDP => assert_eq!(pseudo.bytes(body).finish(), 0, "{frame:02x?}"),
        protocol::ICMP => assert_eq!(Checksum::of(body), 0, "ICMP of {frame:02x?}"),
        _ => {}
    }
}
