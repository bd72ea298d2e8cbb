//! A router around a chain: what makes packets that leave a chain go on, when hosts are to see it as a router and not as
//! a wire. A pure state machine.
//!
//! It has addresses on both sides, answers ARP requests and neighbour solicitations for them, and finds its neighbours the
//! same way. What comes in for the router itself ends there: an echo to an inside address is answered. Outside addresses
//! are the chain's (a NAT translates to them), so packets to them go through it; one that leaves the chain from inside for such
//! an address comes back as if it had come in outside, so that internal hosts reach each other there. Everything else goes through the chain,
//! then on by destination: to a network of one of its addresses, or to the gateway of a side.
//!
//! A packet whose time to live ends is answered where it came in (RFC 1812, 5.3.1; RFC 4443, 3.3). One that is too long for
//! the next link is answered from there, and so is one that has no way on or whose next host does not answer: the answer goes
//! through the chain as if a router behind it had sent it, so that a NAT translates it back; a long IPv4 packet that may be
//! fragmented is.
//!
//! Memory: the neighbours', and [`OWN_MAX`] packets of its own.

use super::neighbours::{Found, Neighbours};
use super::prefix::Prefix;
use chc_api::packet::checksum::Checksum;
use chc_api::packet::protocol;
use chc_api::{Side, Time};
use chc_runtime::io::Mac;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETHERNET: usize = 14;
const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const V4_LEN: usize = 20;
const V6_LEN: usize = 40;
const ICMP_LEN: usize = 8;
/// Most packets that wait for the chain without having come in.
const OWN_MAX: usize = 1024;
/// Answers about packets, at most so many in a tenth of a second.
const ERRORS_MAX: u32 = 100;
const ERRORS_NS: u64 = 100_000_000;
/// How much of a packet is quoted in an answer, so that the answer passes every link (RFC 1812, 4.3.2.3; RFC 4443, 2.4).
const QUOTE_V4: usize = 548;
const QUOTE_V6: usize = 1280 - V6_LEN - ICMP_LEN;
/// Hops an answer can go.
const HOPS: u8 = 64;

/// One side of a router.
#[derive(Clone, Debug)]
pub struct RouterSide {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Longest packet the link takes, in bytes.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<Prefix>,
    /// Where packets go on whose destination is in no network, at most one of each family.
    pub gateways: Vec<IpAddr>,
}

/// What a router counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouterCounts {
    /// Frames that were for other hosts on the wire, or for groups.
    pub not_for_it: u64,
    /// Packets that ended at the router: ARP, neighbour discovery, echoes, whatever else is addressed to it.
    pub own: u64,
    /// Frames that are neither IPv4 nor IPv6, or have tags.
    pub not_ip: u64,
    /// Packets cut short.
    pub malformed: u64,
    /// Packets whose time to live ended.
    pub ttl: u64,
    /// Packets without a way on.
    pub no_route: u64,
    /// Packets too long for the next link that may not be fragmented.
    pub too_long: u64,
    /// Packets whose next hop did not answer, or that found no room while it was asked for.
    pub unreachable: u64,
    /// Packets from inside for an outside address that found no room on their way back through the chain.
    pub turned_away: u64,
    /// Packets that were fragmented.
    pub fragmented: u64,
}

impl RouterCounts {
    /// What ended at the router, by reason.
    #[must_use]
    pub fn by_reason(&self) -> [(&'static str, u64); 9] {
        [
            ("not_for_it", self.not_for_it),
            ("own", self.own),
            ("not_ip", self.not_ip),
            ("malformed", self.malformed),
            ("ttl", self.ttl),
            ("no_route", self.no_route),
            ("too_long", self.too_long),
            ("unreachable", self.unreachable),
            ("turned_away", self.turned_away),
        ]
    }
}

/// Whose a frame is that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The chain's.
    Chain,
    /// The router's; nothing more is to be done.
    Done,
}

/// Sends a frame, given in pieces, by a side.
pub type Send<'a> = &'a mut dyn FnMut(Side, &[&[u8]]);

/// The state machine.
pub struct Router {
    sides: [RouterSide; 2],
    neighbours: Neighbours,
    own: VecDeque<(Side, Vec<u8>)>,
    /// Answers about packets since this time.
    errors: (Time, u32),
    /// Memory for one frame.
    scratch: Vec<u8>,
    counts: RouterCounts,
}

/// Why a packet is answered.
#[derive(Clone, Copy)]
enum Complaint {
    /// Its time to live has ended.
    Time,
    /// It is longer than this.
    TooLong(u32),
    /// There is no way to its destination.
    NoRoute,
    /// The next host does not answer.
    NoAnswer,
}

impl Router {
    /// A router that knows no neighbours.
    #[must_use]
    pub fn new(sides: [RouterSide; 2]) -> Self {
        Self {
            sides,
            neighbours: Neighbours::default(),
            own: VecDeque::new(),
            errors: (Time(0), 0),
            scratch: Vec::new(),
            counts: RouterCounts::default(),
        }
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> RouterCounts {
        RouterCounts { unreachable: self.neighbours.lost, ..self.counts }
    }

    fn side(&self, side: Side) -> &RouterSide {
        &self.sides[side as usize]
    }

    /// The address by which a side speaks of a family: with a neighbour of a link-local address, its own.
    fn own_address(&self, side: Side, to: IpAddr) -> Option<IpAddr> {
        if matches!(to, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            return Some(link_local(self.side(side).mac).into());
        }
        let mut own = self.side(side).addresses.iter().map(|prefix| prefix.address);
        own.find(|address| address.is_ipv4() == to.is_ipv4())
    }

    fn is_own(&self, side: Side, address: IpAddr) -> bool {
        let side = self.side(side);
        side.addresses.iter().any(|prefix| prefix.address == address) || address == link_local(side.mac)
    }

    /// Takes a frame that came in.
    pub fn admit(&mut self, now: Time, side: Side, frame: &[u8], send: Send<'_>) -> Admission {
        let is_chain = match frame.get(12..ETHERNET) {
            Some(kind) if *kind == ARP => self.on_arp(now, side, frame, send),
            Some(kind) if *kind == IPV4 => self.on_v4(now, side, frame, send),
            Some(kind) if *kind == IPV6 => self.on_v6(now, side, frame, send),
            _ => self.count(|counts| &mut counts.not_ip),
        };
        if is_chain { Admission::Chain } else { Admission::Done }
    }

    /// Counts what ends here.
    fn count(&mut self, what: fn(&mut RouterCounts) -> &mut u64) -> bool {
        *what(&mut self.counts) += 1;
        false
    }

    /// The same of what was to go on.
    fn lose(&mut self, what: fn(&mut RouterCounts) -> &mut u64) {
        self.count(what);
    }

    fn on_arp(&mut self, now: Time, side: Side, frame: &[u8], send: Send<'_>) -> bool {
        // Ethernet and IPv4: sender's addresses at 8 and 14, target's at 18 and 24 (RFC 826).
        let Some(body) = frame.get(ETHERNET..ETHERNET + 28) else {
            return self.count(|counts| &mut counts.malformed);
        };
        if body[..6] != [0, 1, 8, 0, 6, 4] {
            return self.count(|counts| &mut counts.malformed);
        }
        let (sender_mac, sender) = (mac_at(body, 8), v4_at(body, 14));
        let target = IpAddr::from(v4_at(body, 24));
        let is_request = body[6..8] == [0, 1];
        let for_us = self.side(side).addresses.iter().any(|prefix| prefix.address == target);
        if !sender.is_unspecified() && !sender_mac.is_multicast() && !self.is_own(side, sender.into()) {
            self.hear(now, (side, sender.into()), sender_mac, for_us, send);
        }
        if is_request && for_us {
            let own = self.side(side).mac;
            let mut reply = [0; ETHERNET + 28];
            ethernet(&mut reply, sender_mac, own, ARP);
            reply[ETHERNET..ETHERNET + 8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
            reply[ETHERNET + 8..ETHERNET + 14].copy_from_slice(&own.0);
            reply[ETHERNET + 14..ETHERNET + 18].copy_from_slice(&body[24..28]);
            reply[ETHERNET + 18..ETHERNET + 28].copy_from_slice(&body[8..18]);
            send(side, &[&reply]);
        }
        self.count(|counts| &mut counts.own)
    }

    fn hear(&mut self, now: Time, at: (Side, IpAddr), mac: Mac, anybody: bool, send: Send<'_>) {
        for mut frame in self.neighbours.hear(now, at, mac, anybody) {
            frame[..6].copy_from_slice(&mac.0);
            send(at.0, &[&frame]);
        }
    }

    fn on_v4(&mut self, now: Time, side: Side, frame: &[u8], send: Send<'_>) -> bool {
        let Some(ip) = frame.get(ETHERNET..).filter(|ip| is_v4(ip)) else {
            return self.count(|counts| &mut counts.malformed);
        };
        let to = v4_at(ip, 16);
        if mac_at(frame, 0) != self.side(side).mac || to.is_multicast() || to.is_broadcast() {
            return self.count(|counts| &mut counts.not_for_it);
        }
        if self.is_own(Side::Inside, to.into()) {
            self.echo_v4(side, frame, send);
            return self.count(|counts| &mut counts.own);
        }
        if ip[8] <= 1 {
            self.complain(now, side, frame, Complaint::Time, send);
            return self.count(|counts| &mut counts.ttl);
        }
        true
    }

    /// Answers an echo request to the router.
    fn echo_v4(&mut self, side: Side, frame: &[u8], send: Send<'_>) {
        let header_len = usize::from(frame[ETHERNET] & 15) * 4;
        let total = usize::from(u16_at(frame, ETHERNET + 2));
        let (icmp, end) = (ETHERNET + header_len, ETHERNET + total);
        let is_whole = u16_at(frame, ETHERNET + 6) & 0x3fff == 0;
        let is_echo = header_len >= V4_LEN && icmp + ICMP_LEN <= end && end <= frame.len();
        if !is_echo || !is_whole || frame[ETHERNET + 9] != protocol::ICMP || frame[icmp] != 8 {
            return;
        }
        let mut reply = frame[..end].to_vec();
        turn_ethernet(&mut reply, self.side(side).mac);
        let (from, to) = (v4_at(frame, ETHERNET + 12), v4_at(frame, ETHERNET + 16));
        reply[ETHERNET + 12..ETHERNET + 16].copy_from_slice(&to.octets());
        reply[ETHERNET + 16..ETHERNET + 20].copy_from_slice(&from.octets());
        reply[ETHERNET + 8] = HOPS;
        sum_v4(&mut reply[ETHERNET..icmp]);
        reply[icmp] = 0;
        reply[icmp + 2..icmp + 4].fill(0);
        let sum = Checksum::of(&reply[icmp..]);
        reply[icmp + 2..icmp + 4].copy_from_slice(&sum.to_be_bytes());
        send(side, &[&reply]);
    }

    fn on_v6(&mut self, now: Time, side: Side, frame: &[u8], send: Send<'_>) -> bool {
        let Some(ip) = frame.get(ETHERNET..).filter(|ip| is_v6(ip)) else {
            return self.count(|counts| &mut counts.malformed);
        };
        let (from, to) = (v6_at(ip, 8), v6_at(ip, 24));
        // Neighbour discovery is believed from the wire alone: nothing that was forwarded has all its hops left.
        let icmp = &ip[V6_LEN..];
        if ip[6] == protocol::ICMPV6 && ip[7] == 255 && icmp.len() >= 24 && matches!(icmp[0], 135 | 136) {
            self.on_discovery(now, side, frame, from, send);
            return self.count(|counts| &mut counts.own);
        }
        if mac_at(frame, 0) != self.side(side).mac || to.is_multicast() {
            return self.count(|counts| &mut counts.not_for_it);
        }
        let is_inside = self.is_own(Side::Inside, to.into());
        if is_inside || to.is_unicast_link_local() {
            self.echo_v6(side, frame, send);
            return self.count(|counts| &mut counts.own);
        }
        if ip[7] <= 1 {
            self.complain(now, side, frame, Complaint::Time, send);
            return self.count(|counts| &mut counts.ttl);
        }
        true
    }

    fn echo_v6(&mut self, side: Side, frame: &[u8], send: Send<'_>) {
        let end = ETHERNET + V6_LEN + usize::from(u16_at(frame, ETHERNET + 4));
        let icmp = ETHERNET + V6_LEN;
        let is_whole = end <= frame.len() && icmp + ICMP_LEN <= end;
        let (from, to) = (v6_at(frame, ETHERNET + 8), v6_at(frame, ETHERNET + 24));
        let is_ours = self.is_own(side, to.into()) || self.is_own(Side::Inside, to.into());
        if !is_whole || !is_ours || frame[ETHERNET + 6] != protocol::ICMPV6 || frame[icmp] != 128 {
            return;
        }
        let mut reply = frame[..end].to_vec();
        turn_ethernet(&mut reply, self.side(side).mac);
        reply[ETHERNET + 8..ETHERNET + 24].copy_from_slice(&to.octets());
        reply[ETHERNET + 24..ETHERNET + 40].copy_from_slice(&from.octets());
        reply[ETHERNET + 7] = HOPS;
        reply[icmp] = 129;
        sum_icmpv6(&mut reply[ETHERNET..]);
        send(side, &[&reply]);
    }

    /// A neighbour solicitation or advertisement (RFC 4861, 4.3 and 4.4).
    fn on_discovery(&mut self, now: Time, side: Side, frame: &[u8], from: Ipv6Addr, send: Send<'_>) {
        let ip = &frame[ETHERNET..];
        let icmp = &ip[V6_LEN..];
        let pseudo = Checksum::pseudo_v6(from, v6_at(ip, 24), protocol::ICMPV6, icmp.len() as u32);
        let is_whole = usize::from(u16_at(ip, 4)) == icmp.len();
        if !is_whole || pseudo.bytes(icmp).finish() != 0 {
            return;
        }
        let (is_question, target) = (icmp[0] == 135, v6_at(icmp, 8));
        // The link-layer address is an option of eight bytes: 1 of who asks, 2 of who answers.
        let wanted = if is_question { 1 } else { 2 };
        let option = icmp[24..].as_chunks::<8>().0.iter().find(|option| option[..2] == [wanted, 1]);
        let told = option.map(|option| mac_at(option, 2)).filter(|mac| !mac.is_multicast());
        let for_us = is_question && self.is_own(side, target.into());
        let who = if is_question { from } else { target };
        if let Some(mac) = told.filter(|_| !who.is_unspecified() && !self.is_own(side, who.into())) {
            self.hear(now, (side, who.into()), mac, for_us, send);
        }
        if !for_us {
            return;
        }
        let own = self.side(side).mac;
        // Who has no address yet is told with everybody.
        let (to, to_mac, flags) = if from.is_unspecified() {
            (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), Mac([0x33, 0x33, 0, 0, 0, 1]), 0xa0)
        } else {
            (from, told.unwrap_or(mac_at(frame, 6)), 0xe0)
        };
        let reply = discovery(own, to_mac, target, to, 136, flags, target);
        send(side, &[&reply]);
    }

    /// Asks the wire who has an address.
    fn ask(&mut self, side: Side, whom: IpAddr, send: Send<'_>) {
        let own = self.side(side).mac;
        match whom {
            IpAddr::V4(target) => {
                let Some(IpAddr::V4(from)) = self.own_address(side, whom) else { return };
                let mut frame = [0; ETHERNET + 28];
                ethernet(&mut frame, Mac::BROADCAST, own, ARP);
                let body = &mut frame[ETHERNET..];
                body[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
                body[8..14].copy_from_slice(&own.0);
                body[14..18].copy_from_slice(&from.octets());
                body[24..28].copy_from_slice(&target.octets());
                send(side, &[&frame]);
            }
            IpAddr::V6(target) => {
                let from = match self.own_address(side, whom) {
                    Some(IpAddr::V6(from)) => from,
                    _ => link_local(own),
                };
                let [.., a, b, c] = target.octets();
                let group = Ipv6Addr::from_bits(
                    0xff02_0000_0000_0000_0000_0001_ff00_0000 | u128::from(u32::from_be_bytes([0, a, b, c])),
                );
                let frame = discovery(own, Mac([0x33, 0x33, 0xff, a, b, c]), from, group, 135, 0, target);
                send(side, &[&frame]);
            }
        }
    }

    /// Sends a packet on that has left the chain, on its way from a side; its frame is as it came in, but for what the chain
    /// has changed.
    pub fn forward(&mut self, now: Time, from: Side, (head, tail): (&[u8], &[u8]), send: Send<'_>) {
        let ip = head.get(ETHERNET..).unwrap_or_default();
        let to: IpAddr = match head.get(12..ETHERNET) {
            Some(kind) if *kind == IPV4 && is_v4(ip) => v4_at(ip, 16).into(),
            Some(kind) if *kind == IPV6 && is_v6(ip) => v6_at(ip, 24).into(),
            _ => return self.lose(|counts| &mut counts.malformed),
        };
        let is_v4 = to.is_ipv4();
        let hops_at = ETHERNET + if is_v4 { 8 } else { 7 };
        if from == Side::Inside && self.is_own(Side::Outside, to) && head[hops_at] > 1 {
            return self.turn_back(head, tail);
        }
        if Side::BOTH.into_iter().any(|side| self.is_own(side, to)) {
            return self.lose(|counts| &mut counts.own);
        }
        let Some((side, hop)) = self.way(to) else {
            self.complain_behind(now, from.other(), &[head, tail].concat(), Complaint::NoRoute);
            return self.lose(|counts| &mut counts.no_route);
        };
        if head[hops_at] <= 1 {
            return self.lose(|counts| &mut counts.ttl);
        }
        let mtu = self.side(side).mtu as usize;
        // Short frames are padded: the packet says how long it is.
        let len = if is_v4 { u16_at(ip, 2).into() } else { V6_LEN + usize::from(u16_at(ip, 4)) };
        let mut frame = std::mem::take(&mut self.scratch);
        frame.clear();
        frame.extend_from_slice(head);
        if len > mtu {
            frame.extend_from_slice(tail);
            if is_v4 && ip[6] & 0x40 == 0 {
                self.hop(&mut frame);
                self.fragment(now, (side, hop), &frame, mtu, send);
            } else {
                self.counts.too_long += 1;
                self.complain_behind(now, side, &frame, Complaint::TooLong(mtu as u32));
            }
            self.scratch = frame;
            return;
        }
        self.hop(&mut frame);
        self.deliver(now, (side, hop), &mut frame, tail, send);
        self.scratch = frame;
    }

    /// Has a packet go through the chain again, from outside.
    fn turn_back(&mut self, head: &[u8], tail: &[u8]) {
        if self.own.len() >= OWN_MAX {
            return self.lose(|counts| &mut counts.turned_away);
        }
        let mut frame = [head, tail].concat();
        self.hop(&mut frame);
        self.own.push_back((Side::Outside, frame));
    }

    /// Takes a hop off what a packet has left.
    fn hop(&self, frame: &mut [u8]) {
        let ip = &mut frame[ETHERNET..];
        if ip[0] >> 4 == 4 {
            let (sum, word) = (u16_at(ip, 10), u16_at(ip, 8));
            ip[8] -= 1;
            let sum = Checksum::update_u16(sum, word, u16_at(ip, 8));
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            ip[7] -= 1;
        }
    }

    /// Sends a frame to a neighbour, once it is known.
    fn deliver(&mut self, now: Time, hop: (Side, IpAddr), frame: &mut [u8], tail: &[u8], send: Send<'_>) {
        frame[6..12].copy_from_slice(&self.side(hop.0).mac.0);
        let waits = || [&*frame, tail].concat();
        let found = self.neighbours.find(now, hop, waits);
        if matches!(found, Found::Ask | Found::AtAskAgain(_)) {
            self.ask(hop.0, hop.1, send);
        }
        if let Found::At(mac) | Found::AtAskAgain(mac) = found {
            frame[..6].copy_from_slice(&mac.0);
            send(hop.0, &[frame, tail]);
        }
    }

    /// Sends an IPv4 packet in fragments (RFC 791, 3.2).
    fn fragment(&mut self, now: Time, hop: (Side, IpAddr), frame: &[u8], mtu: usize, send: Send<'_>) {
        let header_len = usize::from(frame[ETHERNET] & 15) * 4;
        let end = (ETHERNET + usize::from(u16_at(frame, ETHERNET + 2))).min(frame.len());
        let data_at = ETHERNET + header_len;
        if header_len < V4_LEN || data_at >= end || mtu < header_len + 8 {
            return self.lose(|counts| &mut counts.malformed);
        }
        self.counts.fragmented += 1;
        let word = u16_at(frame, ETHERNET + 6);
        let (begin, more) = (word & 0x1fff, word & 0x2000);
        let room = (mtu - header_len) / 8 * 8;
        for (at, piece) in frame[data_at..end].chunks(room).enumerate() {
            let is_last = data_at + at * room + piece.len() == end;
            // Options that are not to be copied are left in: hosts ignore what they do not expect.
            let mut fragment = [&frame[..data_at], piece].concat();
            let ip = &mut fragment[ETHERNET..];
            let len = (header_len + piece.len()) as u16;
            ip[2..4].copy_from_slice(&len.to_be_bytes());
            let offset = begin + (at * room / 8) as u16;
            let more = if is_last { more } else { 0x2000 };
            ip[6..8].copy_from_slice(&(offset | more).to_be_bytes());
            sum_v4(&mut ip[..header_len]);
            self.deliver(now, hop, &mut fragment, &[], send);
        }
    }

    /// By which side a packet goes on, and who is next: the destination itself where it is on the wire.
    fn way(&self, to: IpAddr) -> Option<(Side, IpAddr)> {
        let on_wire = Side::BOTH.into_iter().flat_map(|side| {
            self.side(side).addresses.iter().filter(|prefix| prefix.contains(to)).map(move |p| (p.len, side))
        });
        if let Some((_, side)) = on_wire.max_by_key(|(len, _)| *len) {
            return Some((side, to));
        }
        let mut gateways = [Side::Outside, Side::Inside].into_iter().filter_map(|side| {
            let gateway = self.side(side).gateways.iter().find(|hop| hop.is_ipv4() == to.is_ipv4())?;
            Some((side, *gateway))
        });
        gateways.next()
    }

    /// Whether a packet may be answered: not if it is itself an answer, or a later fragment, or from nobody in particular.
    fn may_complain(&mut self, now: Time, frame: &[u8]) -> bool {
        let ip = &frame[ETHERNET..];
        let is_fit = if ip[0] >> 4 == 4 {
            let icmp = usize::from(ip[0] & 15) * 4;
            let is_error =
                ip[9] == protocol::ICMP && ip.get(icmp).is_none_or(|kind| !matches!(kind, 0 | 8 | 13 | 14));
            let from = v4_at(ip, 12);
            let is_anyone = from.is_unspecified() || from.is_multicast() || from.is_broadcast();
            !is_error && u16_at(ip, 6) & 0x1fff == 0 && !is_anyone
        } else {
            let is_error = ip[6] == protocol::ICMPV6 && ip.get(V6_LEN).is_none_or(|kind| *kind < 128);
            let from = v6_at(ip, 8);
            !is_error && !from.is_unspecified() && !from.is_multicast()
        };
        if now.0.saturating_sub(self.errors.0.0) >= ERRORS_NS {
            self.errors = (now, 0);
        }
        self.errors.1 += u32::from(is_fit);
        is_fit && self.errors.1 <= ERRORS_MAX
    }

    /// Answers whoever sent a frame that came in by a side.
    fn complain(&mut self, now: Time, side: Side, frame: &[u8], why: Complaint, send: Send<'_>) {
        let is_v4 = frame[ETHERNET] >> 4 == 4;
        let family = if is_v4 { IpAddr::from([0; 4]) } else { Ipv6Addr::UNSPECIFIED.into() };
        let Some(own) = self.own_address(side, family) else { return };
        if !self.may_complain(now, frame) {
            return;
        }
        if let Some(mut answer) = answer(own, frame, why) {
            let sender = mac_at(frame, 6);
            ethernet(&mut answer, sender, self.side(side).mac, if is_v4 { IPV4 } else { IPV6 });
            send(side, &[&answer]);
        }
    }

    /// Answers about a packet that left the chain, by way of the chain.
    fn complain_behind(&mut self, now: Time, side: Side, frame: &[u8], why: Complaint) {
        let is_v4 = frame[ETHERNET] >> 4 == 4;
        let family = if is_v4 { IpAddr::from([0; 4]) } else { Ipv6Addr::UNSPECIFIED.into() };
        let Some(own) = self.own_address(side, family) else { return };
        if self.own.len() >= OWN_MAX || !self.may_complain(now, frame) {
            return;
        }
        if let Some(mut answer) = answer(own, frame, why) {
            let mac = self.side(side).mac;
            ethernet(&mut answer, mac, mac, if is_v4 { IPV4 } else { IPV6 });
            self.own.push_back((side, answer));
        }
    }

    /// Whether anything waits for the chain.
    #[must_use]
    pub fn has_own(&self) -> bool {
        !self.own.is_empty()
    }

    /// A packet that goes through the chain as if it had come in by a side.
    pub fn take_own(&mut self) -> Option<(Side, Vec<u8>)> {
        self.own.pop_front()
    }

    /// Time passes: neighbours that did not answer are asked again, a few times; then it is said so.
    pub fn on_time(&mut self, now: Time, send: Send<'_>) {
        let mut given_up = Vec::new();
        for (side, whom) in self.neighbours.on_time(now, &mut given_up) {
            self.ask(side, whom, send);
        }
        for (side, frame) in given_up {
            self.complain_behind(now, side, &frame, Complaint::NoAnswer);
        }
    }
}

/// Whether an IPv4 header begins here.
fn is_v4(ip: &[u8]) -> bool {
    ip.len() >= V4_LEN && ip[0] >> 4 == 4
}

/// Whether an IPv6 header begins here.
fn is_v6(ip: &[u8]) -> bool {
    ip.len() >= V6_LEN && ip[0] >> 4 == 6
}

fn mac_at(bytes: &[u8], at: usize) -> Mac {
    let mut mac = [0; 6];
    mac.copy_from_slice(&bytes[at..at + 6]);
    Mac(mac)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn v4_at(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

fn v6_at(bytes: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    octets.into()
}

/// The link-local address that comes of an Ethernet address (RFC 4291, appendix A).
fn link_local(Mac([a, b, c, d, e, f]): Mac) -> Ipv6Addr {
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

fn ethernet(frame: &mut [u8], to: Mac, from: Mac, kind: [u8; 2]) {
    frame[..6].copy_from_slice(&to.0);
    frame[6..12].copy_from_slice(&from.0);
    frame[12..ETHERNET].copy_from_slice(&kind);
}

/// Sends a frame back to where it came from.
fn turn_ethernet(frame: &mut [u8], own: Mac) {
    let sender = mac_at(frame, 6);
    frame[..6].copy_from_slice(&sender.0);
    frame[6..12].copy_from_slice(&own.0);
}

fn sum_v4(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = Checksum::of(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Gives an IPv6 packet that is all ICMPv6 its checksum.
fn sum_icmpv6(ip: &mut [u8]) {
    let (from, to) = (v6_at(ip, 8), v6_at(ip, 24));
    let icmp = &mut ip[V6_LEN..];
    icmp[2..4].fill(0);
    let sum = Checksum::pseudo_v6(from, to, protocol::ICMPV6, icmp.len() as u32).bytes(icmp).finish();
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
}

/// A neighbour solicitation or advertisement with the sender's Ethernet address.
fn discovery(
    own: Mac,
    to_mac: Mac,
    from: Ipv6Addr,
    to: Ipv6Addr,
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET + V6_LEN + 32];
    ethernet(&mut frame, to_mac, own, IPV6);
    let ip = &mut frame[ETHERNET..];
    ip_v6(ip, from, to, 255);
    let icmp = &mut ip[V6_LEN..];
    (icmp[0], icmp[4]) = (kind, flags);
    icmp[8..24].copy_from_slice(&target.octets());
    icmp[24..26].copy_from_slice(&[if kind == 135 { 1 } else { 2 }, 1]);
    icmp[26..32].copy_from_slice(&own.0);
    sum_icmpv6(ip);
    frame
}

/// The header of an IPv6 packet that is all ICMPv6.
fn ip_v6(ip: &mut [u8], from: Ipv6Addr, to: Ipv6Addr, hops: u8) {
    let len = (ip.len() - V6_LEN) as u16;
    ip[0] = 0x60;
    ip[4..6].copy_from_slice(&len.to_be_bytes());
    (ip[6], ip[7]) = (protocol::ICMPV6, hops);
    ip[8..24].copy_from_slice(&from.octets());
    ip[24..40].copy_from_slice(&to.octets());
}

/// An answer about a packet to whoever sent it, but for the Ethernet header (RFC 792; RFC 4443).
fn answer(own: IpAddr, frame: &[u8], why: Complaint) -> Option<Vec<u8>> {
    let packet = &frame[ETHERNET..];
    match own {
        IpAddr::V4(own) => {
            let len = usize::from(u16_at(packet, 2)).min(packet.len());
            let quote = &packet[..len.min(QUOTE_V4)];
            let mut answer = vec![0; ETHERNET + V4_LEN + ICMP_LEN];
            answer.extend_from_slice(quote);
            let ip = &mut answer[ETHERNET..];
            let total = ip.len() as u16;
            (ip[0], ip[1]) = (0x45, 0xc0);
            ip[2..4].copy_from_slice(&total.to_be_bytes());
            (ip[8], ip[9]) = (HOPS, protocol::ICMP);
            ip[12..16].copy_from_slice(&own.octets());
            ip[16..20].copy_from_slice(&packet[12..16]);
            sum_v4(&mut ip[..V4_LEN]);
            let icmp = &mut ip[V4_LEN..];
            match why {
                Complaint::Time => icmp[0] = 11,
                Complaint::NoRoute => icmp[0] = 3,
                Complaint::NoAnswer => (icmp[0], icmp[1]) = (3, 1),
                Complaint::TooLong(mtu) => {
                    (icmp[0], icmp[1]) = (3, 4);
                    icmp[6..8].copy_from_slice(&u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes());
                }
            }
            let sum = Checksum::of(icmp);
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());
            Some(answer)
        }
        IpAddr::V6(own) => {
            let len = (V6_LEN + usize::from(u16_at(packet, 4))).min(packet.len());
            let quote = &packet[..len.min(QUOTE_V6)];
            let mut answer = vec![0; ETHERNET + V6_LEN + ICMP_LEN];
            answer.extend_from_slice(quote);
            let ip = &mut answer[ETHERNET..];
            ip_v6(ip, own, v6_at(packet, 8), HOPS);
            let icmp = &mut ip[V6_LEN..];
            match why {
                Complaint::Time => icmp[0] = 3,
                Complaint::NoRoute => icmp[0] = 1,
                Complaint::NoAnswer => (icmp[0], icmp[1]) = (1, 3),
                Complaint::TooLong(mtu) => {
                    icmp[0] = 2;
                    icmp[4..8].copy_from_slice(&mtu.to_be_bytes());
                }
            }
            sum_icmpv6(ip);
            Some(answer)
        }
    }
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
