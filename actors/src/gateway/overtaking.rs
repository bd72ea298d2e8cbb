//! Fragments that come before the first of their packet.
//!
//! A later fragment has no ports: whose it is, only the first one says, and a function that goes by ports can do nothing with
//! what overtakes it. So it is kept until the first has come, and goes on right behind it; or until it is clear that none
//! comes (RFC 4787, REQ-14). What is fragmented within a tunnel passes as it comes.
//!
//! Memory: the names of packets that [`Firsts`] has, and [`HELD_MAX`] frames of [`HELD_BYTES_MAX`] together; the oldest goes first.
//! Cost: four bytes of the header are looked at of a packet that is no fragment.

use crate::root::fragments::Firsts;
use chc_api::packet::LinkType;
use chc_api::packet::parse::{FragmentId, PacketKind, fragment_id, parse};
use chc_api::{Side, Time};
use std::collections::VecDeque;

/// Fragments that wait, each of which a first fragment is compared with; and their bytes.
const HELD_MAX: usize = 256;
const HELD_BYTES_MAX: usize = 1 << 20;
/// How long a fragment waits for its first, in nanoseconds: links reorder by much less, and hosts give up after more.
const WAIT_NS: u64 = 500_000_000;

/// A fragment that waits.
struct Held {
    id: FragmentId,
    since: Time,
    side: Side,
    frame: Vec<u8>,
}

/// The fragments that wait for their first.
#[derive(Default)]
pub struct Overtaking {
    /// The first fragments that have come, as the root remembers them.
    firsts: Firsts<()>,
    /// In the order in which they came.
    held: VecDeque<Held>,
    held_bytes: usize,
    /// What goes on now.
    ready: VecDeque<(Side, Vec<u8>)>,
}

impl Overtaking {
    /// An Ethernet frame has come: whether it goes on now. Otherwise [`Self::next`] gives it at its time.
    pub fn admit(&mut self, now: Time, side: Side, frame: &[u8]) -> bool {
        if !may_be_fragment(frame) {
            return true;
        }
        let parsed = parse(LinkType::ETHERNET, frame);
        let Some(id) = fragment_id(frame, &parsed) else { return true };
        if parsed.is(PacketKind::FIRST_FRAGMENT) {
            self.firsts.insert(id, (), now);
            self.release(|held| held.id == id);
            return true;
        }
        if self.firsts.get(&id, now).is_some() || frame.len() > HELD_BYTES_MAX {
            return true;
        }
        self.held_bytes += frame.len();
        self.held.push_back(Held { id, since: now, side, frame: frame.to_vec() });
        while self.held.len() > HELD_MAX || self.held_bytes > HELD_BYTES_MAX {
            self.release_oldest();
        }
        false
    }

    /// A fragment that goes on now: behind its first, or without.
    pub fn next(&mut self, now: Time) -> Option<(Side, Vec<u8>)> {
        while self.held.front().is_some_and(|oldest| now.0.saturating_sub(oldest.since.0) >= WAIT_NS) {
            self.release_oldest();
        }
        self.ready.pop_front()
    }

    /// Whether there is nothing to go on, now or later.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.ready.is_empty()
    }

    /// Nothing more comes: what waits goes on.
    pub fn end(&mut self) {
        self.release(|_| true);
    }

    fn release(&mut self, which: impl Fn(&Held) -> bool) {
        for held in std::mem::take(&mut self.held) {
            if which(&held) {
                self.held_bytes -= held.frame.len();
                self.ready.push_back((held.side, held.frame));
            } else {
                self.held.push_back(held);
            }
        }
    }

    fn release_oldest(&mut self) {
        if let Some(oldest) = self.held.pop_front() {
            self.held_bytes -= oldest.frame.len();
            self.ready.push_back((oldest.side, oldest.frame));
        }
    }
}

/// Whether a frame has to be parsed to know: all but those that are plainly whole packets.
fn may_be_fragment(frame: &[u8]) -> bool {
    const FRAGMENT_BITS: u16 = 0x3fff;
    match frame.get(12..22) {
        // IPv4 without a tag: more fragments, or an offset.
        Some([0x08, 0x00, .., high, low]) => u16::from_be_bytes([*high, *low]) & FRAGMENT_BITS != 0,
        // IPv6 without a tag: what follows its header.
        Some([0x86, 0xdd, _, _, _, _, _, _, next, _]) => !matches!(next, 6 | 17 | 58),
        // ARP.
        Some([0x08, 0x06, ..]) | None => false,
        Some(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::fragments::{FRAGMENTS_MAX, LIFE_NS};
    use etherparse::{
        EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header,
    };

    /// A piece of 8 bytes of packet `ident`, the `nth`, under a number of VLAN tags.
    fn piece(ident: u16, nth: u16, tags: usize) -> Vec<u8> {
        let mut ip =
            Ipv4Header::new(8, 64, IpNumber::UDP, [192, 0, 2, 1], [203, 0, 113, 2]).expect("it is short");
        (ip.identification, ip.more_fragments) = (ident, nth < 2);
        ip.fragment_offset = IpFragOffset::try_new(nth).expect("it is small");
        let mut frame = vec![2; 12];
        (0..tags).for_each(|_| frame.extend([0x81, 0x00, 0, 7]));
        frame.extend([0x08, 0x00]);
        ip.write(&mut frame).expect("a vector takes everything");
        frame.extend([0x10 + nth as u8; 8]);
        frame
    }

    fn piece_v6(ident: u32, nth: u16) -> Vec<u8> {
        let mut frame = Vec::new();
        let header = Ethernet2Header { ether_type: EtherType::IPV6, ..Ethernet2Header::default() };
        header.write(&mut frame).expect("a vector takes everything");
        let ip = Ipv6Header {
            payload_length: 16,
            next_header: IpNumber::IPV6_FRAGMENTATION_HEADER,
            hop_limit: 64,
            source: [1; 16],
            destination: [2; 16],
            ..Ipv6Header::default()
        };
        ip.write(&mut frame).expect("a vector takes everything");
        let offset = IpFragOffset::try_new(nth).expect("it is small");
        let fragment = Ipv6FragmentHeader::new(IpNumber::UDP, offset, nth < 2, ident);
        fragment.write(&mut frame).expect("a vector takes everything");
        frame.extend([0x10 + nth as u8; 8]);
        frame
    }

    /// What goes on of frames that come a millisecond apart.
    fn order(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut overtaking = Overtaking::default();
        let mut out = Vec::new();
        for (nth, frame) in frames.iter().enumerate() {
            let now = Time(nth as u64 * 1_000_000);
            if overtaking.admit(now, Side::Outside, frame) {
                out.push(frame.clone());
            }
            out.extend(std::iter::from_fn(|| overtaking.next(now)).map(|(_, frame)| frame));
        }
        out
    }

    #[test]
    fn what_overtakes_its_first_fragment_goes_on_right_behind_it() {
        let (mine, other) = (|nth| piece(7, nth, 0), piece(8, 1, 0));
        let came = [mine(2), other, mine(1), mine(0), piece(9, 0, 0), piece(9, 2, 0)];
        assert_eq!(order(&came), [mine(0), mine(2), mine(1), piece(9, 0, 0), piece(9, 2, 0)]);
        assert_eq!(order(&[piece(7, 1, 2), piece(7, 0, 2)]), [piece(7, 0, 2), piece(7, 1, 2)], "under tags");
        assert_eq!(order(&[piece_v6(7, 1), piece_v6(7, 0)]), [piece_v6(7, 0), piece_v6(7, 1)]);
    }

    #[test]
    fn whole_packets_and_what_is_no_packet_go_on_at_once() {
        let whole = {
            let mut frame = Vec::new();
            let builder =
                etherparse::PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([1; 4], [2; 4], 9).udp(5, 6);
            builder.write(&mut frame, b"payload").expect("a vector takes everything");
            frame
        };
        let frames = [whole, vec![], vec![0; 13], vec![0x81; 60], piece(7, 2, 0)[..25].to_vec()];
        assert_eq!(order(&frames), frames);
    }

    #[test]
    fn a_fragment_whose_first_does_not_come_goes_on_after_a_while_or_at_the_end() {
        let mut overtaking = Overtaking::default();
        assert!(!overtaking.admit(Time(5), Side::Inside, &piece(7, 1, 0)));
        assert!(!overtaking.admit(Time(6), Side::Outside, &piece(8, 1, 0)));
        assert_eq!(overtaking.next(Time(5 + WAIT_NS - 1)), None);
        assert_eq!(overtaking.next(Time(5 + WAIT_NS)), Some((Side::Inside, piece(7, 1, 0))));
        assert_eq!(overtaking.next(Time(5 + WAIT_NS)), None);
        overtaking.end();
        assert_eq!(overtaking.next(Time(0)), Some((Side::Outside, piece(8, 1, 0))));
    }

    #[test]
    fn a_packet_that_is_numbered_like_an_old_one_has_a_first_fragment_of_its_own() {
        let mut overtaking = Overtaking::default();
        assert!(overtaking.admit(Time(1), Side::Outside, &piece(7, 0, 0)));
        assert!(overtaking.admit(Time(LIFE_NS), Side::Outside, &piece(7, 1, 0)));
        assert!(!overtaking.admit(Time(1 + LIFE_NS), Side::Outside, &piece(7, 1, 0)));
        assert!(overtaking.admit(Time(2 + LIFE_NS), Side::Outside, &piece(7, 0, 0)));
        assert_eq!(overtaking.next(Time(2 + LIFE_NS)), Some((Side::Outside, piece(7, 1, 0))));
        assert!(overtaking.admit(Time(3 + LIFE_NS), Side::Outside, &piece(7, 2, 0)));
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_lost() {
        let mut overtaking = Overtaking::default();
        let frame = |ident: u16| {
            let mut frame = piece(ident, 1, 0);
            // First many, then long ones.
            frame.resize(if usize::from(ident) < FRAGMENTS_MAX { 60 } else { 60_000 }, 0);
            frame
        };
        let mut out = 0;
        for ident in 0..2 * FRAGMENTS_MAX as u16 {
            let now = Time(0);
            out += usize::from(overtaking.admit(now, Side::Outside, &frame(ident)));
            overtaking.admit(now, Side::Inside, &piece(ident + 20_000, 0, 0));
            out += std::iter::from_fn(|| overtaking.next(now)).count();
            assert!(overtaking.held.len() <= HELD_MAX && overtaking.held_bytes <= HELD_BYTES_MAX);
        }
        overtaking.end();
        out += std::iter::from_fn(|| overtaking.next(Time(0))).count();
        assert_eq!(out, 2 * FRAGMENTS_MAX);
        assert_eq!(overtaking.held_bytes, 0);
    }
}
