//! Synthetic traffic: conversations of many kinds, interleaved in time, the same for the same seed.
//!
//! A generator keeps some hundred conversations alive; whichever is due next says its next packet, and a new one begins
//! when one ends. Lengths are steered so that the wanted number of packets holds the wanted number of connections.
//! Hosts are as seen inside a NAT: internal ones in 10.0.0.0/8 and 192.168.0.0/16, external ones in 198.18.0.0/15
//! and 198.51.100.0/24, a few in 2001:db8::/32.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::path::Path;

use chc_api::identity::Endpoint;
use chc_runtime::capture::{CaptureError, CaptureWriter, Format, LinkType};
use slab::Slab;

use super::conversation::{Answer, Conversation, Exchange, Fate, Fragments, Probe, Scan, Script, Tcp};
use super::frame::{v4_host, v6_host};
use super::rng::{Rng, mix};
use super::trojan::{TROJANS_MAX, Trojans};

/// 2020-09-13 12:26:40 UTC.
const START_NS: u64 = 1_600_000_000_000_000_000;
const MILLISECOND_NS: u64 = 1_000_000;
/// Segments of a connection that are not data: handshake and close.
const HANDSHAKE_AND_CLOSE: f64 = 6.0;
/// Planned beyond the packets wanted, in thousandths: the capture ends while connections are under way.
const OVERPLANNED: u64 = 30;
const PROGRESS_PACKETS: u64 = 4_096;

/// What to generate; the same options give the same packets, byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerateOptions {
    /// Packets, exactly.
    pub packets: u64,
    /// Connections (distinct identities), about; more than `packets` / 4 cannot be reached.
    pub connections: u64,
    /// Seed of everything random.
    pub seed: u64,
    /// Bytes of each packet that are kept; 0 keeps all.
    pub snaplen: u32,
    /// Hosts, of those there are otherwise none, that behave as a Trojan detector looks for.
    pub trojans: u64,
    /// What the traffic is like.
    pub profile: Profile,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { packets: 100_000, connections: 2_500, seed: 1, snaplen: 0, trojans: 0, profile: Profile::MIX }
    }
}

/// Why options cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// Connections need packets.
    #[error(
        "{connections} connections need at least {needed} packets, and there are {packets}: ask for fewer connections or more packets"
    )]
    Connections {
        /// Wanted.
        connections: u64,
        /// Wanted.
        packets: u64,
        /// At least.
        needed: u64,
    },
    /// Trojans need packets, too.
    #[error(
        "{trojans} Trojans need at least {needed} packets, and there are {packets}: ask for fewer Trojans or more packets"
    )]
    Trojans {
        /// Wanted.
        trojans: u64,
        /// Wanted.
        packets: u64,
        /// At least.
        needed: u64,
    },
    /// There are not as many addresses.
    #[error("{0} Trojans are more than {TROJANS_MAX}: ask for fewer")]
    TrojanHosts(u64),
}

impl GenerateOptions {
    /// Whether such a capture can be made.
    ///
    /// # Errors
    /// What cannot be kept.
    pub fn check(&self) -> Result<(), GenerateError> {
        let Self { packets, connections, trojans, .. } = *self;
        if packets < connections.saturating_mul(4) {
            let needed = connections.saturating_mul(4);
            return Err(GenerateError::Connections { connections, packets, needed });
        }
        if trojans > TROJANS_MAX {
            return Err(GenerateError::TrojanHosts(trojans));
        }
        let needed = trojans * Trojans::packets_each() * 2;
        if packets < needed {
            return Err(GenerateError::Trojans { trojans, packets, needed });
        }
        Ok(())
    }
}

/// Makeup of the traffic. Shares are in thousandths unless they are weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Weights of conversations: TCP, UDP, ICMP echo, fragmented UDP, scan, odd packet.
    pub kinds: [u32; 6],
    /// Weights of how TCP connections end: FIN by client, FIN by server, RST by client, RST by server, never,
    /// half-open, refused, unanswered, unreachable.
    pub fates: [u32; 9],
    /// Data segments of TCP: weight, shortest and longest payload in bytes (0: a bare acknowledgement).
    pub segments: [(u32, u64, u64); 4],
    /// Share of data segments that the server sends.
    pub from_server: u32,
    /// Share of data segments that repeat the one before.
    pub retransmitted: u32,
    /// Share of conversations an external host begins.
    pub inbound: u32,
    /// Share of IPv6 conversations.
    pub ipv6: u32,
    /// Share of VLAN-tagged conversations.
    pub vlan: u32,
    /// Share of TCP connections whose handshake was before the capture.
    pub midway: u32,
    /// Share of TCP connections whose ports are used a second time.
    pub reopened: u32,
    /// Internal hosts.
    pub internal_hosts: u64,
    /// External servers; few are popular.
    pub external_hosts: u64,
    /// Hosts of one scan: fewest and most.
    pub scan_targets: (u64, u64),
    /// Conversations alive at once, at most.
    pub active: u64,
    /// Mean length of a conversation in milliseconds.
    pub duration_ms: u64,
}

impl Profile {
    /// The profile `mix`: as many protocol situations as possible rather than a likeness of any one network.
    pub const MIX: Profile = Profile {
        kinds: [580, 300, 60, 10, 5, 20],
        fates: [400, 250, 40, 60, 80, 10, 60, 70, 30],
        segments: [(300, 0, 0), (300, 1, 200), (150, 200, 1_200), (250, 1_460, 1_460)],
        from_server: 600,
        retransmitted: 15,
        inbound: 100,
        ipv6: 60,
        vlan: 20,
        midway: 30,
        reopened: 30,
        internal_hosts: 250,
        external_hosts: 2_000,
        scan_targets: (10, 50),
        active: 300,
        duration_ms: 12_000,
    };

    /// What the profiles of an office's traffic have in common. Shares of protocols and of how TCP connections end
    /// are those of a real office's connection log (3,135 TCP and 5,306 UDP connections): 58 % of TCP connections end
    /// by FINs, 24 % by a RST of the client and 5 % by one of the server, 5 % are left open, 5 % unanswered and
    /// 2 % refused; UDP is exchanges of 3.4 packets.
    const OFFICE: Profile = Profile {
        kinds: [370, 620, 8, 0, 1, 1],
        fates: [390, 192, 242, 45, 48, 2, 21, 54, 0],
        inbound: 60,
        ipv6: 0,
        vlan: 0,
        midway: 10,
        reopened: 0,
        retransmitted: 8,
        active: 400,
        duration_ms: 24_000,
        ..Profile::MIX
    };

    /// Few connections, most of them long, and packets of all sizes: half of them below 368 bytes on the wire.
    pub const TRACE1: Profile = Profile {
        // A segment of 314 bytes is 368 on the wire: the median lies within these.
        segments: [(380, 0, 0), (90, 1, 313), (120, 314, 314), (410, 315, 1_460)],
        ..Profile::OFFICE
    };

    /// Many connections and mostly full segments: more than half of the packets are 1,434 bytes on the wire.
    pub const TRACE2: Profile = Profile {
        segments: [(300, 0, 0), (60, 1, 1_379), (640, 1_380, 1_380), (0, 0, 0)],
        ..Profile::OFFICE
    };
}

/// One packet; its bytes are in the buffer given to [`Generator::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneratedPacket {
    /// Nanoseconds since the epoch; never less than the packet's before.
    pub time_ns: u64,
    /// Bytes of the frame before the snaplen cut it.
    pub wire_len: u32,
}

/// Source of synthetic Ethernet frames.
pub struct Generator {
    options: GenerateOptions,
    profile: Profile,
    rng: Rng,
    /// Last client port used by each internal host.
    ports: Vec<u16>,
    conversations: Slab<Conversation>,
    /// Due time, order of scheduling, conversation.
    due: BinaryHeap<Reverse<(u64, u64, usize)>>,
    scheduled: u64,
    emitted: u64,
    /// Conversations begun, the connections they make, and the packets they are to have.
    begun: u64,
    connections: u64,
    planned: u64,
    now_ns: u64,
    scratch: Vec<u8>,
    trojans: Trojans,
}

/// Index into [`Profile::kinds`].
const TCP: usize = 0;
const UDP: usize = 1;
const ECHO: usize = 2;
const FRAGMENTS: usize = 3;
const SCAN: usize = 4;
const ODD: usize = 5;

impl Generator {
    /// Traffic as the options say.
    pub fn new(options: GenerateOptions) -> Self {
        let profile = options.profile;
        let mut rng = Rng::new(mix(options.seed ^ 0x6368_6320_7472_6163));
        let ports = (0..profile.internal_hosts.max(1)).map(|_| rng.between(1_024, 65_535) as u16).collect();
        let mut generator = Self {
            options,
            profile,
            rng,
            ports,
            conversations: Slab::new(),
            due: BinaryHeap::new(),
            scheduled: 0,
            emitted: 0,
            begun: 0,
            connections: 0,
            planned: 0,
            now_ns: START_NS,
            scratch: Vec::new(),
            trojans: Trojans::new(options.trojans, options.packets, options.seed),
        };
        let active = profile.active.min(options.connections / 8).max(4);
        for _ in 0..active {
            if !generator.all_begun() {
                let delay_ns = generator.rng.below(profile.duration_ms * MILLISECOND_NS);
                generator.begin(delay_ns);
            }
        }
        generator
    }

    /// Puts the next frame into `buf`, replacing what is there; `None` when all packets were given.
    pub fn next(&mut self, buf: &mut Vec<u8>) -> Option<GeneratedPacket> {
        if self.emitted == self.options.packets {
            return None;
        }
        if self.trojans.next(self.emitted, buf) {
            return Some(self.give(self.now_ns, buf));
        }
        if self.due.is_empty() {
            self.begin(MILLISECOND_NS);
        }
        let Reverse((time_ns, _, index)) = self.due.pop()?;
        self.now_ns = time_ns;
        let conversation = self.conversations.get_mut(index)?;
        match conversation.step(&self.profile, &mut self.rng, buf, &mut self.scratch) {
            Some(delay_ns) => self.schedule(delay_ns, index),
            None => {
                self.conversations.remove(index);
                if !self.all_begun() {
                    let delay_ns = self.rng.exponential(20.0 * MILLISECOND_NS as f64) as u64;
                    self.begin(delay_ns);
                }
            }
        }
        Some(self.give(time_ns, buf))
    }

    fn give(&mut self, time_ns: u64, buf: &mut Vec<u8>) -> GeneratedPacket {
        self.emitted += 1;
        let wire_len = buf.len() as u32;
        if self.options.snaplen > 0 {
            buf.truncate(self.options.snaplen as usize);
        }
        GeneratedPacket { time_ns, wire_len }
    }

    fn schedule(&mut self, delay_ns: u64, index: usize) {
        self.scheduled += 1;
        self.due.push(Reverse((self.now_ns + delay_ns.max(1_000), self.scheduled, index)));
    }

    /// Begins a conversation. The first ones go through all kinds, so that short captures have them too.
    fn begin(&mut self, delay_ns: u64) {
        const FIRST: [usize; 10] = [TCP, SCAN, UDP, TCP, FRAGMENTS, ECHO, TCP, ODD, SCAN, UDP];
        let kind = match FIRST.get(self.begun as usize) {
            Some(kind) if self.profile.kinds[*kind] > 0 => *kind,
            _ if self.all_begun() => TCP,
            _ => self.rng.weighted(&self.profile.kinds),
        };
        let inbound = match kind {
            SCAN => self.begun.is_multiple_of(2),
            _ => self.rng.chance(self.profile.inbound),
        };
        let v6 = matches!(kind, TCP | UDP | ECHO) && self.rng.chance(self.profile.ipv6);
        self.begun += 1;
        let (script, connections, packets) = match kind {
            TCP => self.tcp_script(),
            UDP | ECHO => self.exchange_script(kind == ECHO),
            FRAGMENTS => {
                let reversed = self.rng.chance(300);
                (Script::Fragments(Fragments { datagram: None, said: 0, reversed }), 1, 4)
            }
            SCAN => self.scan_script(inbound),
            _ => (Script::Odd, 1, 1),
        };
        let conversation = self.conversation(script, kind, inbound, v6, packets);
        self.connections += connections;
        self.planned += packets;
        let index = self.conversations.insert(conversation);
        self.schedule(delay_ns, index);
    }

    fn conversation(
        &mut self,
        script: Script,
        kind: usize,
        inbound: bool,
        v6: bool,
        packets: u64,
    ) -> Conversation {
        let rng = &mut self.rng;
        let host = rng.below(self.ports.len() as u64);
        // Cubing a uniform number makes low numbers, the popular servers, frequent.
        let uniform = rng.below(1 << 20) as f64 / f64::from(1 << 20);
        let server = (uniform.powi(3) * self.profile.external_hosts as f64) as u64;
        let (internal, external) = if v6 {
            (v6_host(1, host + 1), v6_host(2, server + 1))
        } else {
            (internal_host(host), external_host(server))
        };
        let scanner = v4_host([198, 51, 100, 0], rng.between(1, 254));
        let client = match (inbound, kind) {
            (true, SCAN) => scanner,
            (true, _) => external,
            (false, _) => internal,
        };
        let port = &mut self.ports[host as usize];
        *port = port.wrapping_add(rng.between(1, 3) as u16).max(1_024);
        let client_port = if inbound { rng.between(1_024, 65_535) as u16 } else { *port };
        let services: &[u16] = match (kind, inbound) {
            (UDP | FRAGMENTS, _) => &[53, 53, 53, 443, 443, 123, 161, 5_060],
            (_, true) => &[22, 25, 80, 443, 6_881, 8_080],
            (_, false) => &[443, 443, 443, 80, 80, 21, 22, 25, 993, 3_306, 8_080],
        };
        let service = if kind == ECHO { client_port } else { rng.pick(services) };
        let router = match (v6, inbound) {
            (true, _) => v6_host(if inbound { 1 } else { 2 }, 0xffff),
            (false, true) => v4_host([10, 0, 0, 0], 1),
            (false, false) => v4_host([198, 19, 255, 0], rng.between(1, 254)),
        };
        let duration_ns = rng.exponential((self.profile.duration_ms * MILLISECOND_NS) as f64);
        Conversation {
            client: Endpoint { addr: client, port: client_port },
            server: Endpoint { addr: if inbound { internal } else { external }, port: service },
            vlan: rng.chance(self.profile.vlan).then(|| rng.between(2, 4_094) as u16),
            rtt_ns: rng.between(MILLISECOND_NS / 5, 80 * MILLISECOND_NS),
            gap_ns: duration_ns / packets.max(1) as f64,
            router,
            script,
        }
    }

    /// A TCP connection, of a length that keeps packets and connections in step.
    fn tcp_script(&mut self) -> (Script, u64, u64) {
        const FATES: [Fate; 9] = [
            Fate::FinByClient,
            Fate::FinByServer,
            Fate::ResetByClient,
            Fate::ResetByServer,
            Fate::LeftOpen,
            Fate::HalfOpen,
            Fate::Refused,
            Fate::Unanswered,
            Fate::Unreachable,
        ];
        let fate = match self.all_begun() {
            true => Fate::LeftOpen,
            false => FATES[self.rng.weighted(&self.profile.fates)],
        };
        let failed = matches!(fate, Fate::HalfOpen | Fate::Refused | Fate::Unanswered | Fate::Unreachable);
        // No connection takes so much of what is left that the others would have no room.
        let shares = (self.options.connections.saturating_sub(self.connections) / 2).clamp(1, 8);
        let segments_max = (self.packets_left() / shares).max(1);
        let segments = match (failed, self.all_begun()) {
            (true, _) => 0,
            (false, false) => (self.rng.heavy_tailed(self.segments_mean()).round() as u64).min(segments_max),
            // All connections have begun and ended too early: one more makes up for the packets.
            (false, true) => self.options.packets - self.emitted,
        };
        let (midway, reopened) =
            (self.rng.chance(self.profile.midway), self.rng.chance(self.profile.reopened));
        let tcp = Tcp::new(&mut self.rng, fate, segments, midway, reopened);
        (Script::Tcp(tcp), 1, if failed { 2 } else { segments + HANDSHAKE_AND_CLOSE as u64 })
    }

    /// Data segments a connection must have on average for the plan to come out, the other kinds being short.
    fn segments_mean(&self) -> f64 {
        let weight = |weights: &[u32]| weights.iter().map(|weight| f64::from(*weight)).sum::<f64>();
        let kinds = self.profile.kinds.map(|weight| f64::from(weight) / self.profile_weight());
        let scan_targets = (self.profile.scan_targets.0 + self.profile.scan_targets.1) as f64 / 2.0;
        let connections_each = 1.0 + kinds[SCAN] * (scan_targets - 1.0);
        let succeeding = kinds[TCP] * weight(&self.profile.fates[..5]) / weight(&self.profile.fates).max(1.0);
        let packets_of_others = (kinds[TCP] - succeeding) * 2.0
            + (kinds[UDP] + kinds[ECHO] + kinds[FRAGMENTS]) * 4.0
            + kinds[SCAN] * scan_targets * 1.4
            + kinds[ODD];
        let left = self.options.connections.saturating_sub(self.connections).max(1) as f64;
        let packets_each = self.packets_left() as f64 * connections_each / left;
        let wanted = (packets_each - packets_of_others) / succeeding.max(0.01) - HANDSHAKE_AND_CLOSE;
        wanted.clamp(1.0, self.options.packets.max(1) as f64)
    }

    fn all_begun(&self) -> bool {
        self.connections >= self.options.connections
    }

    /// Packets no conversation begun so far is to have.
    fn packets_left(&self) -> u64 {
        let packets = self.options.packets + self.options.packets.saturating_mul(OVERPLANNED) / 1_000;
        packets.saturating_sub(self.planned)
    }

    fn profile_weight(&self) -> f64 {
        self.profile.kinds.iter().map(|weight| f64::from(*weight)).sum::<f64>().max(1.0)
    }

    fn exchange_script(&mut self, echo: bool) -> (Script, u64, u64) {
        let rng = &mut self.rng;
        let answer = match rng.weighted(&[850, 90, if echo { 0 } else { 60 }]) {
            0 => Answer::Answered,
            1 => Answer::Silence,
            _ => Answer::Unreachable,
        };
        let left = match answer {
            Answer::Answered => 2 * (1 + rng.exponential(0.8) as u64),
            _ => rng.between(1, 2),
        };
        let packets = left + u64::from(answer == Answer::Unreachable);
        let no_checksum = rng.chance(30);
        let exchange = Exchange { echo, answer, left, no_checksum, said: 0, rejected: None };
        (Script::Exchange(exchange), 1, packets)
    }

    fn scan_script(&mut self, inbound: bool) -> (Script, u64, u64) {
        let left = self.options.connections.saturating_sub(self.connections);
        let (fewest, most) = self.profile.scan_targets;
        let targets = self.rng.between(fewest, most).min((left / 8).max(5));
        let (third, fourth) = (self.rng.below(256) as u8, self.rng.below(2) as u8);
        let network = if inbound { [10, third, 7, 0] } else { [198, 18 + fourth, third, 0] };
        let scan = Scan {
            port: self.rng.pick(&[22, 23, 80, 139, 445, 1_433, 3_389, 5_900]),
            targets_left: targets,
            target: 1,
            network,
            state: Probe::Send,
        };
        (Script::Scan(scan), targets, targets + targets * 2 / 5)
    }
}

/// Three quarters of the internal hosts are in 10.0.0.0/8, the others in 192.168.0.0/16.
fn internal_host(number: u64) -> IpAddr {
    let place = mix(number + 1);
    match number % 4 {
        3 => v4_host([192, 168, 0, 0], place % 0xffff),
        _ => v4_host([10, 0, 0, 0], place % 0xff_ffff),
    }
}

fn external_host(number: u64) -> IpAddr {
    v4_host([198, 18, 0, 0], mix(number + 1) % 0x1_feff)
}

/// Writes a capture; `progress` is told now and then, and at the end, how many packets were
/// written.
pub fn write(
    options: GenerateOptions,
    path: impl AsRef<Path>,
    mut progress: impl FnMut(u64),
) -> Result<(), CaptureError> {
    let mut writer = CaptureWriter::create(path, Format::Pcap, LinkType::ETHERNET)?;
    let mut generator = Generator::new(options);
    let mut frame = Vec::new();
    let mut written = 0;
    while let Some(packet) = generator.next(&mut frame) {
        writer.write(packet.time_ns, LinkType::ETHERNET, packet.wire_len, &[&frame])?;
        written += 1;
        if written % PROGRESS_PACKETS == 0 {
            progress(written);
        }
    }
    writer.finish()?;
    progress(written);
    Ok(())
}
