//! What hosts say to each other: small state machines that give one packet a step.

use std::net::IpAddr;

use chc_api::identity::Endpoint;

use super::frame::{self, ACK, FIN, FRAGMENT_LEN, FRAME_LEN_MAX, PSH, Packet, RST, SYN, Transport};
use super::generate::Profile;
use super::rng::Rng;

const MILLISECOND_NS: u64 = 1_000_000;
const SECOND_NS: u64 = 1_000 * MILLISECOND_NS;
/// Ethernet, the longest tag and IP header here, and a TCP header.
const OVERHEAD_LEN_MAX: usize = 14 + 4 + 40 + 20;

/// One end of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client = 0,
    Server = 1,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// Who talks, how fast, and the state of what is said.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) client: Endpoint,
    pub(super) server: Endpoint,
    pub(super) vlan: Option<u16>,
    /// Between a packet and its answer.
    pub(super) rtt_ns: u64,
    /// Mean time between packets that do not answer each other.
    pub(super) gap_ns: f64,
    /// Sends the ICMP errors about packets to the server.
    pub(super) router: IpAddr,
    pub(super) script: Script,
}

#[derive(Debug)]
pub(super) enum Script {
    Tcp(Tcp),
    Exchange(Exchange),
    Fragments(Fragments),
    Scan(Scan),
    Odd,
}

/// How a TCP connection ends, or fails to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    FinByClient,
    FinByServer,
    ResetByClient,
    ResetByServer,
    /// Never closed.
    LeftOpen,
    /// SYN and SYN+ACK, then silence.
    HalfOpen,
    /// A RST answers the SYN.
    Refused,
    /// Nothing answers.
    Unanswered,
    /// An ICMP error answers.
    Unreachable,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Syn,
    SynAck,
    Ack,
    Data,
    Fin,
    FinBack,
    LastAck,
    Reset(Side),
    Unreachable,
}

#[derive(Debug)]
pub(super) struct Tcp {
    phase: Phase,
    fate: Fate,
    /// Next sequence number of each side.
    seq: [u32; 2],
    segments_left: u64,
    syns_repeated: u64,
    syns_to_repeat: u64,
    /// The same ports are used for a second connection.
    reopen: bool,
    last: Option<Packet>,
}

impl Tcp {
    /// A connection of so many segments between handshake and close; `midway`: the capture began after its handshake.
    pub(super) fn new(rng: &mut Rng, fate: Fate, segments: u64, midway: bool, reopen: bool) -> Self {
        let syns_to_repeat = match fate {
            Fate::Unanswered => rng.below(3),
            _ => u64::from(rng.chance(25)),
        };
        Self {
            phase: if midway && segments > 0 { Phase::Data } else { Phase::Syn },
            fate,
            seq: [rng.next() as u32, rng.next() as u32],
            segments_left: segments,
            syns_repeated: 0,
            syns_to_repeat,
            reopen,
            last: None,
        }
    }

    /// The phase behind the last data segment; `None`: nothing more is said.
    fn closing(&self) -> Option<Phase> {
        match self.fate {
            Fate::FinByClient | Fate::FinByServer => Some(Phase::Fin),
            Fate::ResetByClient => Some(Phase::Reset(Side::Client)),
            Fate::ResetByServer => Some(Phase::Reset(Side::Server)),
            _ => None,
        }
    }

    fn closer(&self) -> Side {
        if self.fate == Fate::FinByServer { Side::Server } else { Side::Client }
    }
}

/// What becomes of the requests of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Answered,
    Silence,
    /// An ICMP error answers the last request.
    Unreachable,
}

/// Requests and answers: UDP, or ICMP echo.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) echo: bool,
    pub(super) answer: Answer,
    /// Packets to come, the ICMP error not counted.
    pub(super) left: u64,
    /// UDP over IPv4 without checksums.
    pub(super) no_checksum: bool,
    /// Packets so far.
    pub(super) said: u64,
    /// Set when what is left to say is an ICMP error about this.
    pub(super) rejected: Option<Packet>,
}

/// One UDP datagram in three fragments, in order or last first, and a short answer.
#[derive(Debug)]
pub(super) struct Fragments {
    pub(super) datagram: Option<Packet>,
    pub(super) said: usize,
    pub(super) reversed: bool,
}

/// SYNs to one port of one host after another.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) port: u16,
    pub(super) targets_left: u64,
    /// Number of the target within `network`, or for an IPv6 scan within `site`.
    pub(super) target: u64,
    pub(super) network: [u8; 4],
    pub(super) state: Probe,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Probe {
    Send,
    Accept(Packet),
    Refuse(Packet),
    Reject(Packet),
    /// The scanner resets a connection that was accepted.
    Abandon(Packet),
}

impl Conversation {
    /// Writes the next packet into `frame`; returns the time until the one behind it, `None` if it was the last.
    pub(super) fn step(
        &mut self,
        profile: &Profile,
        rng: &mut Rng,
        frame: &mut Vec<u8>,
        scratch: &mut Vec<u8>,
    ) -> Option<u64> {
        // The script is taken out while it runs, as it also needs the conversation.
        let mut script = std::mem::replace(&mut self.script, Script::Odd);
        let delay_ns = match &mut script {
            Script::Tcp(tcp) => self.tcp(tcp, profile, rng, frame, scratch),
            Script::Exchange(exchange) => self.exchange(exchange, rng, frame, scratch),
            Script::Fragments(fragments) => self.fragments(fragments, rng, frame),
            Script::Scan(scan) => self.scan(scan, rng, frame, scratch),
            Script::Odd => self.odd(rng, frame),
        };
        self.script = script;
        delay_ns
    }

    fn packet(&self, side: Side, transport: Transport, payload_len: usize, rng: &mut Rng) -> Packet {
        let (src, dst) = match side {
            Side::Client => (self.client, self.server),
            Side::Server => (self.server, self.client),
        };
        Packet { src, dst, transport, payload_len, nonce: rng.next(), vlan: self.vlan }
    }

    fn gap(&self, rng: &mut Rng) -> u64 {
        rng.exponential(self.gap_ns) as u64
    }

    fn tcp(
        &self,
        tcp: &mut Tcp,
        profile: &Profile,
        rng: &mut Rng,
        frame: &mut Vec<u8>,
        scratch: &mut Vec<u8>,
    ) -> Option<u64> {
        match tcp.phase {
            Phase::Syn => return self.syn(tcp, rng, frame),
            Phase::SynAck => {
                self.segment(tcp, Side::Server, SYN | ACK, 0, rng, frame);
                tcp.phase = Phase::Ack;
                return (tcp.fate != Fate::HalfOpen).then_some(self.rtt_ns);
            }
            Phase::Ack => {
                self.segment(tcp, Side::Client, ACK, 0, rng, frame);
                tcp.phase = if tcp.segments_left > 0 { Phase::Data } else { tcp.closing()? };
            }
            Phase::Data => {
                tcp.segments_left -= 1;
                match tcp.last {
                    Some(last) if rng.chance(profile.retransmitted) => frame::write(frame, &last),
                    _ => self.data(tcp, profile, rng, frame),
                }
                if tcp.segments_left == 0 {
                    tcp.phase = tcp.closing()?;
                }
            }
            Phase::Fin => {
                self.segment(tcp, tcp.closer(), FIN | ACK, 0, rng, frame);
                tcp.phase = Phase::FinBack;
                return Some(self.rtt_ns);
            }
            Phase::FinBack => {
                self.segment(tcp, tcp.closer().other(), FIN | ACK, 0, rng, frame);
                tcp.phase = Phase::LastAck;
                return Some(self.rtt_ns);
            }
            Phase::LastAck => {
                self.segment(tcp, tcp.closer(), ACK, 0, rng, frame);
                if !tcp.reopen {
                    return None;
                }
                *tcp = Tcp::new(rng, Fate::FinByClient, 4, false, false);
                return Some(rng.between(2 * SECOND_NS, 10 * SECOND_NS));
            }
            Phase::Reset(side) => {
                self.segment(tcp, side, RST | ACK, 0, rng, frame);
                return None;
            }
            Phase::Unreachable => {
                let syn = tcp.last?;
                frame::write_unreachable(frame, scratch, self.router, &syn, false);
                return None;
            }
        }
        Some(self.gap(rng))
    }

    /// The first SYN or a retransmission of it, which has the same sequence number.
    fn syn(&self, tcp: &mut Tcp, rng: &mut Rng, frame: &mut Vec<u8>) -> Option<u64> {
        let syn = Transport::Tcp { seq: tcp.seq[0], ack: 0, flags: SYN };
        let packet = self.packet(Side::Client, syn, 0, rng);
        frame::write(frame, &packet);
        if tcp.syns_repeated < tcp.syns_to_repeat {
            tcp.syns_repeated += 1;
            return Some(tcp.syns_repeated * SECOND_NS);
        }
        tcp.seq[0] = tcp.seq[0].wrapping_add(1);
        tcp.phase = match tcp.fate {
            Fate::Unanswered => return None,
            Fate::Refused => Phase::Reset(Side::Server),
            Fate::Unreachable => Phase::Unreachable,
            _ => Phase::SynAck,
        };
        tcp.last = matches!(tcp.fate, Fate::Unreachable).then_some(packet);
        Some(self.rtt_ns)
    }

    /// A data segment or a bare acknowledgement, remembered for a retransmission.
    fn data(&self, tcp: &mut Tcp, profile: &Profile, rng: &mut Rng, frame: &mut Vec<u8>) {
        let side = if rng.chance(profile.from_server) { Side::Server } else { Side::Client };
        let weights = profile.segments.map(|(weight, ..)| weight);
        let (_, shortest, longest) = profile.segments[rng.weighted(&weights)];
        let payload_len = self.payload_limit(rng.between(shortest, longest) as usize);
        let flags = if payload_len > 0 { PSH | ACK } else { ACK };
        tcp.last = Some(self.segment(tcp, side, flags, payload_len, rng, frame));
    }

    /// `len`, or less if the frame would be too long.
    fn payload_limit(&self, len: usize) -> usize {
        let untagged_v4 = self.vlan.is_none() && self.client.addr.is_ipv4();
        len.min(FRAME_LEN_MAX - if untagged_v4 { 54 } else { OVERHEAD_LEN_MAX })
    }

    fn segment(
        &self,
        tcp: &mut Tcp,
        side: Side,
        flags: u8,
        payload_len: usize,
        rng: &mut Rng,
        frame: &mut Vec<u8>,
    ) -> Packet {
        let (seq, ack) = (tcp.seq[side as usize], tcp.seq[side.other() as usize]);
        let packet = self.packet(side, Transport::Tcp { seq, ack, flags }, payload_len, rng);
        let taken = payload_len as u32 + u32::from(flags & (SYN | FIN) != 0);
        tcp.seq[side as usize] = seq.wrapping_add(taken);
        frame::write(frame, &packet);
        packet
    }

    fn exchange(
        &self,
        exchange: &mut Exchange,
        rng: &mut Rng,
        frame: &mut Vec<u8>,
        scratch: &mut Vec<u8>,
    ) -> Option<u64> {
        if let Some(request) = exchange.rejected {
            let (reporter, port) =
                if rng.chance(500) { (self.server.addr, true) } else { (self.router, false) };
            frame::write_unreachable(frame, scratch, reporter, &request, port);
            return None;
        }
        let answered = exchange.answer == Answer::Answered;
        let side = if answered && exchange.said % 2 == 1 { Side::Server } else { Side::Client };
        let transport = if exchange.echo {
            let seq = if answered { exchange.said / 2 } else { exchange.said };
            Transport::Echo { reply: side == Side::Server, seq: seq as u16 }
        } else {
            Transport::Udp { checksum: !exchange.no_checksum }
        };
        let len = match (exchange.echo, side) {
            (true, _) => 56,
            (false, Side::Client) => rng.between(20, 300),
            (false, Side::Server) => rng.between(40, 1_400),
        };
        let packet = self.packet(side, transport, self.payload_limit(len as usize), rng);
        frame::write(frame, &packet);
        exchange.said += 1;
        exchange.left = exchange.left.saturating_sub(1);
        match (exchange.left, exchange.answer) {
            (0, Answer::Unreachable) => exchange.rejected = Some(packet),
            (0, _) => return None,
            _ => {}
        }
        Some(if side == Side::Client && answered { self.rtt_ns } else { self.gap(rng) })
    }

    fn fragments(&self, fragments: &mut Fragments, rng: &mut Rng, frame: &mut Vec<u8>) -> Option<u64> {
        const PIECES: usize = 3;
        if fragments.said == PIECES {
            let answer = self.packet(Side::Server, Transport::Udp { checksum: true }, 64, rng);
            frame::write(frame, &answer);
            return None;
        }
        let datagram = match fragments.datagram {
            Some(datagram) => datagram,
            None => {
                let len = (PIECES - 1) * FRAGMENT_LEN + rng.between(1, 600) as usize;
                *fragments.datagram.insert(self.packet(
                    Side::Client,
                    Transport::Udp { checksum: true },
                    len,
                    rng,
                ))
            }
        };
        let piece = if fragments.reversed { PIECES - 1 - fragments.said } else { fragments.said };
        frame::write_fragment(frame, &datagram, piece * FRAGMENT_LEN);
        fragments.said += 1;
        Some(if fragments.said == PIECES { self.rtt_ns } else { rng.between(10_000, MILLISECOND_NS) })
    }

    fn scan(
        &mut self,
        scan: &mut Scan,
        rng: &mut Rng,
        frame: &mut Vec<u8>,
        scratch: &mut Vec<u8>,
    ) -> Option<u64> {
        match scan.state {
            Probe::Send => {
                self.server = Endpoint { addr: frame::v4_host(scan.network, scan.target), port: scan.port };
                self.client.port = rng.between(32_768, 60_999) as u16;
                scan.target += 1;
                scan.targets_left = scan.targets_left.saturating_sub(1);
                let syn = Transport::Tcp { seq: rng.next() as u32, ack: 0, flags: SYN };
                let probe = self.packet(Side::Client, syn, 0, rng);
                frame::write(frame, &probe);
                scan.state = match rng.weighted(&[620, 280, 60, 40]) {
                    0 => Probe::Send,
                    1 => Probe::Refuse(probe),
                    2 => Probe::Reject(probe),
                    _ => Probe::Accept(probe),
                };
            }
            Probe::Refuse(probe) => {
                frame::write(frame, &answer_to(&probe, RST | ACK));
                scan.state = Probe::Send;
            }
            Probe::Accept(probe) => {
                let accepted = answer_to(&probe, SYN | ACK);
                frame::write(frame, &accepted);
                scan.state = Probe::Abandon(accepted);
            }
            Probe::Abandon(accepted) => {
                frame::write(frame, &answer_to(&accepted, RST));
                scan.state = Probe::Send;
            }
            Probe::Reject(probe) => {
                frame::write_unreachable(frame, scratch, self.router, &probe, false);
                scan.state = Probe::Send;
            }
        }
        match scan.state {
            Probe::Send if scan.targets_left == 0 => None,
            Probe::Send => Some(self.gap(rng)),
            _ => Some(self.rtt_ns),
        }
    }

    /// A packet that belongs to nothing: malformed, or well-formed but out of the blue.
    fn odd(&self, rng: &mut Rng, frame: &mut Vec<u8>) -> Option<u64> {
        let variant = rng.below(12);
        let flags = match variant {
            8 => SYN | ACK,
            9 => RST,
            10 => 0,
            11 => FIN | PSH | 0x20,
            _ => ACK,
        };
        let transport = Transport::Tcp { seq: rng.next() as u32, ack: rng.next() as u32, flags };
        let side = if rng.chance(500) { Side::Client } else { Side::Server };
        let packet = self.packet(side, transport, 0, rng);
        if variant < 8 {
            frame::write_malformed(frame, &packet, variant);
        } else {
            frame::write(frame, &packet);
        }
        None
    }
}

/// A segment back to the sender of `segment`, which took one sequence number.
fn answer_to(segment: &Packet, flags: u8) -> Packet {
    let (seq, ack) = match segment.transport {
        Transport::Tcp { seq, ack, .. } => (ack, seq.wrapping_add(1)),
        _ => (0, 0),
    };
    let nonce = segment.nonce.rotate_left(17);
    let transport = Transport::Tcp { seq, ack: if flags & ACK == 0 { 0 } else { ack }, flags };
    Packet { src: segment.dst, dst: segment.src, transport, payload_len: 0, nonce, vlan: segment.vlan }
}
