//! The world around the chain: internal hosts that open and close connections, servers that answer
//! what reaches them (late, sometimes after the translation is gone), scanners, and strays.

use crate::frame::{self, End, Kind, flag};
use crate::rng::Rng;
use chc_api::Time;
use chc_api::packet::link::LinkType;

/// How traffic looks, drawn by the seed.
#[derive(Clone, Debug)]
pub struct TrafficConfig {
    /// Packets until the input ends.
    pub packets: u64,
    /// Connections of internal hosts.
    pub flows: usize,
    /// Greatest gap between packets, in microseconds.
    pub gap_us: u64,
    /// Probability that the input pauses for a while.
    pub idle: f64,
    /// Longest pause, in microseconds.
    pub pause_us: u64,
    /// External addresses of a translator.
    pub external: Vec<u32>,
    /// First external port and how many there are.
    pub ports: (u16, u16),
    /// Link type of all frames.
    pub link: LinkType,
    /// Probability that a connection closes with a packet.
    pub closing: f64,
}

struct Connection {
    kind: Kind,
    from: End,
    to: End,
    isn: u32,
    open: bool,
}

/// The environment.
pub struct Traffic {
    config: TrafficConfig,
    rng: Rng,
    now_us: u64,
    sent: u64,
    connections: Vec<Connection>,
    /// Packets on their way to the chain: not before this many packets were sent, the packet.
    coming: Vec<(u64, Vec<u8>)>,
}

/// The internal network.
const INSIDE: u32 = 0x0a00_0000;
/// The servers' network.
const SERVERS: u32 = 0xc633_6400;
/// Packet time at which every run begins.
const START_US: u64 = 1_000_000;

fn is_inside(address: u32) -> bool {
    address >> 24 == INSIDE >> 24
}

fn is_server(address: u32) -> bool {
    address >> 8 == SERVERS >> 8
}

impl Traffic {
    /// An environment that has sent nothing.
    #[must_use]
    pub fn new(config: TrafficConfig, mut rng: Rng) -> Self {
        let connections = (0..config.flows).map(|_| Connection::draw(&mut rng)).collect();
        Self { config, rng, now_us: START_US, sent: 0, connections, coming: Vec::new() }
    }

    /// Whether the input has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.sent >= self.config.packets
    }

    /// Time passes without packets; `None` if the input does not pause now.
    pub fn pause(&mut self) -> Option<Time> {
        if !self.rng.chance(self.config.idle) {
            return None;
        }
        self.now_us += self.rng.between(1, self.config.pause_us);
        Some(self.time())
    }

    fn time(&self) -> Time {
        Time(self.now_us * 1_000)
    }

    /// The next packet: arrival time, bytes.
    pub fn next_packet(&mut self) -> (Time, Vec<u8>) {
        self.sent += 1;
        self.now_us += self.rng.below(self.config.gap_us + 1);
        let packet = self.draw();
        // Captures sometimes run backwards.
        let back = if self.rng.chance(0.02) { self.rng.below(2_000) } else { 0 };
        (Time(self.time().0.saturating_sub(back)), self.framed(packet))
    }

    fn framed(&self, packet: Vec<u8>) -> Vec<u8> {
        if self.config.link != LinkType::ETHERNET {
            return packet;
        }
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        if packet.first().is_some_and(|byte| byte >> 4 == 6) {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        }
        frame.extend_from_slice(&packet);
        frame
    }

    fn draw(&mut self) -> Vec<u8> {
        let ready: Vec<usize> = (0..self.coming.len()).filter(|at| self.coming[*at].0 <= self.sent).collect();
        if !ready.is_empty() && self.rng.chance(0.55) {
            let at = self.rng.pick(&ready);
            return self.coming.remove(at).1;
        }
        let id = self.rng.next() as u16;
        match self.rng.below(100) {
            0..8 => self.stray(id),
            8..18 => self.scan(id),
            18..21 => self.fragmented(id),
            21..24 => self.odd(id),
            24..28 => self.towards_inside(id),
            _ => self.converse(id),
        }
    }

    /// Unsolicited, to an address of the translator or to an internal host.
    fn stray(&mut self, id: u16) -> Vec<u8> {
        let Some(external) = self.external() else { return self.towards_inside(id) };
        let server = self.server();
        let kind = match self.rng.below(6) {
            0 => Kind::Tcp(flag::SYN, self.rng.next() as u32),
            1 => Kind::Tcp(flag::ACK, 1),
            2 => Kind::Tcp(flag::RST, 1),
            3 => Kind::Udp,
            4 => Kind::Echo(true),
            _ => {
                let cause = frame::packet(Kind::Udp, external, server, id, &[]);
                return frame::unreachable(server.0, external.0, id, &cause);
            }
        };
        frame::packet(kind, server, external, id, &[3; 8])
    }

    /// One more of a host's connection attempts.
    fn scan(&mut self, id: u16) -> Vec<u8> {
        let from = (INSIDE + 200 + self.rng.below(2) as u32, self.rng.between(2_000, 2_015) as u16);
        let to = (SERVERS + 64 + self.rng.below(60) as u32, self.rng.pick(&[22, 80]));
        frame::packet(Kind::Tcp(flag::SYN, self.rng.next() as u32), from, to, id, &[])
    }

    fn fragmented(&mut self, id: u16) -> Vec<u8> {
        let from = (INSIDE + 1 + self.rng.below(2) as u32, 700);
        let to = (SERVERS + 1, 7_000 + self.rng.below(2) as u16);
        let [mut first, mut second] = frame::fragments(from, to, id);
        if self.rng.chance(0.2) {
            std::mem::swap(&mut first, &mut second);
        }
        self.coming.push((self.sent + self.rng.below(4), second));
        first
    }

    /// What no function here looks into.
    fn odd(&mut self, id: u16) -> Vec<u8> {
        match self.rng.below(5) {
            0 => vec![0x45, 0, 0, 90, 1],
            1 => {
                let mut packet = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
                packet.extend_from_slice(&[0x20; 32]);
                packet.extend_from_slice(&[1, 0, 2, 0, 0, 8, 0, 0]);
                packet
            }
            2 => {
                let (from, to) = ((INSIDE + 1, 5_000), (INSIDE + 2, 6_000));
                frame::packet(Kind::Udp, from, to, id, &[])
            }
            3 => {
                // To another internal host by its external address, if somebody has it.
                let from = (INSIDE + 1 + self.rng.below(4) as u32, 1_000 + self.rng.below(3) as u16);
                let to = self.external().unwrap_or((SERVERS, 53));
                frame::packet(Kind::Udp, from, to, id, &[])
            }
            _ => {
                let mut packet = frame::packet(Kind::Udp, (INSIDE + 3, 0), (SERVERS, 0), id, &[]);
                packet[9] = 132;
                packet
            }
        }
    }

    /// A server's own attempt at an internal host, not translated.
    fn towards_inside(&mut self, id: u16) -> Vec<u8> {
        let (from, to) =
            ((SERVERS + 250, 4_000 + self.rng.below(4) as u16), (INSIDE + self.rng.below(8) as u32, 80));
        frame::packet(Kind::Tcp(flag::SYN, self.rng.next() as u32), from, to, id, &[])
    }

    /// The next packet of one of the connections.
    fn converse(&mut self, id: u16) -> Vec<u8> {
        let at = self.rng.index(self.connections.len());
        let closes = self.rng.chance(self.config.closing);
        let again = self.rng.chance(0.2);
        let isn = self.rng.next() as u32;
        let aborts = self.rng.chance(0.3);
        let connection = &mut self.connections[at];
        let kind = match connection.kind {
            Kind::Tcp(..) if !connection.open => {
                connection.open = true;
                connection.isn = isn;
                Kind::Tcp(flag::SYN, isn)
            }
            Kind::Tcp(..) if closes => {
                connection.open = false;
                if aborts { Kind::Tcp(flag::RST, 9) } else { Kind::Tcp(flag::FIN | flag::ACK, 9) }
            }
            Kind::Tcp(..) if again => Kind::Tcp(flag::SYN, connection.isn),
            Kind::Tcp(..) => Kind::Tcp(flag::ACK, 5),
            other => other,
        };
        let payload = vec![7; self.rng.index(40)];
        let (from, to) = (self.connections[at].from, self.connections[at].to);
        let packet = frame::packet(kind, from, to, id, &payload);
        if closes && !self.connections[at].open && self.rng.chance(0.4) {
            self.connections[at] = Connection::draw(&mut self.rng);
        }
        packet
    }

    fn external(&mut self) -> Option<End> {
        if self.config.external.is_empty() {
            return None;
        }
        let address = self.rng.pick(&self.config.external.clone());
        let (first, count) = self.config.ports;
        // Some lie beyond the range.
        Some((address, first + self.rng.below(u64::from(count) + 2) as u16))
    }

    fn server(&mut self) -> End {
        (SERVERS + 1 + self.rng.below(3) as u32, self.rng.pick(&[80, 53, 443]))
    }

    /// A packet left the chain: whoever it reaches may answer.
    pub fn observe(&mut self, frame: &[u8]) {
        let packet = if self.config.link == LinkType::ETHERNET { frame.get(14..) } else { Some(frame) };
        let Some(packet) = packet else { return };
        let Some(seen) = frame::read(packet) else { return };
        if self.config.external.contains(&seen.to.0) && self.config.external.contains(&seen.from.0) {
            // A router outside sends it back.
            return self.coming.push((self.sent, packet.to_vec()));
        }
        let answers = if is_server(seen.to.0) {
            0.6
        } else if is_inside(seen.to.0) {
            0.25
        } else {
            0.0
        };
        if !self.rng.chance(answers) {
            return;
        }
        let after = self.rng.pick(&[0, 0, 1, 3, 10, 40]);
        let id = self.rng.next() as u16;
        let refused = frame::unreachable(seen.to.0, seen.from.0, id, packet);
        let kind = match (seen.kind, self.rng.below(10)) {
            (Kind::Tcp(..) | Kind::Udp, 0) => {
                self.coming.push((self.sent + after, refused));
                return;
            }
            (Kind::Tcp(flags, _), n) if flags & (flag::SYN | flag::ACK) == flag::SYN => match n {
                1..4 => Kind::Tcp(flag::RST | flag::ACK, 0),
                _ => Kind::Tcp(flag::SYN | flag::ACK, 1),
            },
            (Kind::Tcp(flags, _), n) if flags & flag::FIN != 0 && n < 9 => {
                Kind::Tcp(flag::FIN | flag::ACK, 2)
            }
            (Kind::Tcp(flags, _), _) if flags & flag::RST != 0 => return,
            (Kind::Tcp(..), 9) => Kind::Tcp(flag::RST, 3),
            (Kind::Tcp(..), _) => Kind::Tcp(flag::ACK, 2),
            (Kind::Udp, _) => Kind::Udp,
            (Kind::Echo(true), _) => return,
            (Kind::Echo(false), _) => Kind::Echo(true),
        };
        self.coming.push((self.sent + after, frame::packet(kind, seen.to, seen.from, id, &[4; 4])));
    }
}

impl Connection {
    fn draw(rng: &mut Rng) -> Self {
        let kind = match rng.below(10) {
            0..7 => Kind::Tcp(0, 0),
            7..9 => Kind::Udp,
            _ => Kind::Echo(false),
        };
        // Many begin several at the same endpoint.
        let ports = rng.pick(&[3, 3_000]);
        let from = (INSIDE + 1 + rng.below(4) as u32, 1_000 + rng.below(ports) as u16);
        let port = match kind {
            Kind::Tcp(..) => rng.pick(&[80, 443]),
            Kind::Udp => 53,
            Kind::Echo(_) => from.1,
        };
        Self { kind, from, to: (SERVERS + 1 + rng.below(3) as u32, port), isn: 0, open: false }
    }
}
