//! Undoes what senders leave to the hardware: completes checksums and cuts long frames into segments.
//!
//! A frame that never saw a wire (it came over a veth pair, a TAP, from the machine's own stack, or was put together by the
//! receiving driver) may lack its checksum and be up to 64 KiB long. The driver says so in front of the frame, in the
//! structure of virtio (`virtio_net_hdr`; OASIS virtio 1.2, section 5.1.6). What a chain does to packets needs frames as
//! they are on a wire: so they are made that here, at ingest.

use chc_api::packet::checksum::Checksum;
use chc_api::packet::{LinkType, PacketKind, Parsed, parse, protocol};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// Flag: the checksum field has the sum of the pseudo-header alone.
const NEEDS_CHECKSUM: u8 = 1;
/// Kinds of long frames, but for the bit that tells of congestion marks.
const NOT_LONG: u8 = 0;
const TCP_V4: u8 = 1;
const TCP_V6: u8 = 4;
const UDP: u8 = 5;
const CONGESTION_MARKS: u8 = 0x80;
/// TCP flags that only the last segment has (FIN, PSH), and the one that only the first has (CWR).
const LAST_ONLY: u8 = 0x09;
const FIRST_ONLY: u8 = 0x80;
/// Headers of a long frame, and data of a segment, within which a sender stays: they bound what a frame is made into.
const HEADERS_MAX: usize = 512;
const SEGMENT_MIN: usize = 48;
/// An Ethernet header without a tag.
pub(super) const ETHERNET_LEN: usize = 14;
const TAG_LEN: usize = 4;

/// The checksum of a whole TCP or UDP frame that has the sum of its pseudo-header where that belongs, as senders leave it that
/// count on their hardware, and where it belongs: for where nobody says so. A checksum that is right by chance looks the same,
/// and is computed to what it was.
#[must_use]
#[inline]
pub fn unfinished(frame: &[u8]) -> Option<(usize, [u8; 2])> {
    if is_plain_and_finished(frame) { None } else { unfinished_of_any(frame) }
}

/// Whether a frame is of the plainest kind, which most are, and has another sum than that of its pseudo-header.
#[inline]
fn is_plain_and_finished(frame: &[u8]) -> bool {
    /// Behind the Ethernet header, an IPv4 header without options, and the TCP header's checksum.
    const CHECKSUM_END: usize = ETHERNET_LEN + 20 + 18;
    let Some(head) = frame.first_chunk::<CHECKSUM_END>() else { return false };
    let word = |at: usize| u32::from(u16::from_be_bytes([head[at], head[at + 1]]));
    let sum_at = match head[ETHERNET_LEN + 9] {
        protocol::TCP => ETHERNET_LEN + 20 + 16,
        protocol::UDP => ETHERNET_LEN + 20 + 6,
        _ => return false,
    };
    if word(ETHERNET_LEN - 2) != 0x0800 || head[ETHERNET_LEN] != 0x45 {
        return false;
    }
    let body_len = word(ETHERNET_LEN + 2).saturating_sub(20);
    let sum = (26..34).step_by(2).map(word).sum::<u32>() + u32::from(head[ETHERNET_LEN + 9]) + body_len;
    let folded = (sum & 0xffff) + (sum >> 16);
    (folded & 0xffff) + (folded >> 16) != word(sum_at)
}

fn unfinished_of_any(frame: &[u8]) -> Option<(usize, [u8; 2])> {
    let (parsed, offload) = Offload::unsaid(frame)?;
    let Offload { sum_from, sum_at, .. } = offload;
    let (ip, end) = (frame.get(usize::from(parsed.l3)..)?, usize::from(parsed.end));
    let body = frame.get(sum_from..end)?;
    let pseudo = pseudo_header(ip, parsed.is(PacketKind::IPV4), parsed.protocol, body.len())?;
    let has_it = body.get(sum_at..sum_at + 2) == Some(&(!pseudo.finish()).to_be_bytes());
    has_it.then(|| offload.checksum(&frame[..end]).ok()).flatten()
}

/// Completes the checksum of such a frame. Whether it was one.
pub fn complete_unfinished(frame: &mut [u8]) -> bool {
    let Some((at, sum)) = unfinished(frame) else { return false };
    frame[at..at + 2].copy_from_slice(&sum);
    true
}

/// What would be said of a frame that is longer than a wire of an MTU carries, and of TCP, or not complete: that its sender left it
/// to the hardware to cut it, or a driver put it together. Its segments are as long as the MTU allows, for theirs is not known;
/// datagrams cannot be cut without knowing, and are malformed then. A frame from a wire is never unfinished.
#[must_use]
pub fn longer_than(frame: &[u8], mtu: u32) -> Option<Offload> {
    let (parsed, offload) = Offload::unsaid(frame)?;
    let (network, is_tcp) = (usize::from(parsed.l3), parsed.protocol == protocol::TCP);
    let is_longer = usize::from(parsed.end).saturating_sub(network) > mtu as usize;
    if !is_longer || (!is_tcp && unfinished(frame).is_none()) {
        return None;
    }
    let kind = match (is_tcp, parsed.is(PacketKind::IPV4)) {
        (true, true) => TCP_V4,
        (true, false) => TCP_V6,
        (false, _) => UDP,
    };
    let header_len = usize::from(frame.get(offload.sum_from + 12)? >> 4) * 4;
    let headers = offload.sum_from + header_len - network;
    let segment_len = if is_tcp { (mtu as usize).saturating_sub(headers) } else { 0 };
    Some(Offload { kind, segment_len, ..offload })
}

/// The sum of the pseudo-header of so many bytes behind the header of an IP packet.
fn pseudo_header(ip: &[u8], is_v4: bool, protocol: u8, len: usize) -> Option<Checksum> {
    if is_v4 {
        let [from, to] = *ip.get(12..20)?.as_chunks::<4>().0.first_chunk()?;
        return Some(Checksum::pseudo_v4(from.into(), to.into(), protocol, u16::try_from(len).ok()?));
    }
    let [from, to] = *ip.get(8..40)?.as_chunks::<16>().0.first_chunk()?;
    Some(Checksum::pseudo_v6(from.into(), to.into(), protocol, u32::try_from(len).ok()?))
}

/// What the driver says of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Whether the checksum is to be completed.
    pub needs_checksum: bool,
    /// What kind of long frame it is; none if it is no longer than a wire takes.
    kind: u8,
    /// Bytes of data of a segment.
    pub segment_len: usize,
    /// Where what the checksum covers begins: the transport header.
    pub sum_from: usize,
    /// Where the checksum field is, from there.
    pub sum_at: usize,
}

/// The frame is not what the driver says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Offload {
    /// Reads the structure in front of a frame, of which `tag_len` bytes were put in since.
    #[must_use]
    pub fn read(bytes: &[u8; 10], tag_len: usize) -> Self {
        let field = |at: usize| usize::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
        Self {
            needs_checksum: bytes[0] & NEEDS_CHECKSUM != 0,
            kind: bytes[1] & !CONGESTION_MARKS,
            segment_len: field(4),
            sum_from: field(6) + tag_len,
            sum_at: field(8),
        }
    }

    /// Whether the frame is several.
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.kind != NOT_LONG
    }

    /// Where the checksum of a TCP or UDP frame is that carries nothing else, if it is one.
    fn unsaid(frame: &[u8]) -> Option<(Parsed, Self)> {
        let parsed = parse(LinkType::ETHERNET, frame);
        let sum_at = match parsed.protocol {
            protocol::TCP => 16,
            protocol::UDP => 6,
            _ => return None,
        };
        let is_plain = parsed.is(PacketKind::HAS_L4)
            && !parsed.is(PacketKind::TUNNELLED)
            && !parsed.is(PacketKind::FIRST_FRAGMENT);
        let offload =
            Self { needs_checksum: true, sum_from: usize::from(parsed.l4), sum_at, ..Self::default() };
        is_plain.then_some((parsed, offload))
    }

    /// The checksum of a frame that is not long, and where it belongs.
    fn checksum(&self, frame: &[u8]) -> Result<(usize, [u8; 2]), Malformed> {
        let at = self.sum_from + self.sum_at;
        if frame.len() < at + 2 {
            return Err(Malformed);
        }
        let sum = Checksum::of(&frame[self.sum_from..]);
        // Of the transport protocols only UDP has its field here, and must not have a zero in it; to the others all ones
        // are the same.
        let sum = if self.sum_at == 6 && sum == 0 { 0xffff } else { sum };
        Ok((at, sum.to_be_bytes()))
    }

    /// Completes the checksum of a frame that is not long.
    ///
    /// # Errors
    /// If the frame ends before its checksum field.
    pub fn complete(&self, frame: &mut [u8]) -> Result<(), Malformed> {
        let (at, sum) = self.checksum(frame)?;
        frame[at..at + 2].copy_from_slice(&sum);
        Ok(())
    }

    /// Cuts a long frame into frames, which are appended to `into` one after the other; `each` is told where each is.
    ///
    /// # Errors
    /// If the frame is not of the kind the driver says. Nothing was appended then.
    pub fn segment(
        &self,
        frame: &[u8],
        into: &mut Vec<u8>,
        mut each: impl FnMut(Range<usize>),
    ) -> Result<(), Malformed> {
        let network = network_offset(frame).ok_or(Malformed)?;
        let is_v4 = frame.get(network).ok_or(Malformed)? >> 4 == 4;
        let header_len = match (self.kind, is_v4) {
            (TCP_V4, true) | (TCP_V6, false) => {
                usize::from(frame.get(self.sum_from + 12).ok_or(Malformed)? >> 4) * 4
            }
            (UDP, _) => 8,
            _ => return Err(Malformed),
        };
        let data_at = self.sum_from + header_len;
        let least = network + if is_v4 { 20 } else { 40 };
        let is_odd = self.segment_len < SEGMENT_MIN || data_at > HEADERS_MAX;
        if is_odd
            || self.sum_from < least
            || header_len < if self.kind == UDP { 8 } else { 20 }
            || data_at >= frame.len()
        {
            return Err(Malformed);
        }
        let (headers, data) = frame.split_at(data_at);
        let count = data.len().div_ceil(self.segment_len);
        for (at, piece) in data.chunks(self.segment_len).enumerate() {
            let start = into.len();
            into.extend_from_slice(headers);
            into.extend_from_slice(piece);
            let transport = Transport {
                network,
                from: self.sum_from,
                is_v4,
                is_tcp: self.kind != UDP,
                place: (at, count),
                passed: (at * self.segment_len) as u32,
            };
            transport.adapt(&mut into[start..]);
            each(start..into.len());
        }
        Ok(())
    }
}

/// Where the network header begins, if there is one.
fn network_offset(frame: &[u8]) -> Option<usize> {
    let mut at = ETHERNET_LEN - 2;
    loop {
        match u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]) {
            0x8100 | 0x88a8 => at += TAG_LEN,
            0x0800 | 0x86dd => return Some(at + 2),
            _ => return None,
        }
    }
}

/// How the headers of one segment differ from those of the whole.
struct Transport {
    network: usize,
    from: usize,
    is_v4: bool,
    is_tcp: bool,
    /// Which segment of how many.
    place: (usize, usize),
    /// Bytes of data before it.
    passed: u32,
}

impl Transport {
    /// Gives a segment with the headers of the whole its own. All fields are within the headers, whose lengths were checked.
    fn adapt(&self, frame: &mut [u8]) {
        let (at, count) = self.place;
        let (ip, transport) = frame[self.network..].split_at_mut(self.from - self.network);
        let transport_len = transport.len();
        if self.is_v4 {
            let len = (ip.len() + transport_len) as u16;
            ip[2..4].copy_from_slice(&len.to_be_bytes());
            if self.is_tcp {
                let id = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(at as u16);
                ip[4..6].copy_from_slice(&id.to_be_bytes());
            }
            ip[10..12].fill(0);
            let header_len = (usize::from(ip[0] & 15) * 4).clamp(20, ip.len());
            let sum = Checksum::of(&ip[..header_len]);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            let len = (ip.len() - 40 + transport_len) as u16;
            ip[4..6].copy_from_slice(&len.to_be_bytes());
        }
        let sum_at = if self.is_tcp {
            let sequence = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
            transport[4..8].copy_from_slice(&sequence.wrapping_add(self.passed).to_be_bytes());
            let first_only = if at > 0 { FIRST_ONLY } else { 0 };
            let last_only = if at + 1 < count { LAST_ONLY } else { 0 };
            transport[13] &= !(first_only | last_only);
            16
        } else {
            transport[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
            6
        };
        transport[sum_at..sum_at + 2].fill(0);
        let protocol = if self.is_tcp { protocol::TCP } else { protocol::UDP };
        let pseudo = if self.is_v4 {
            let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
            Checksum::pseudo_v4(address(12), address(16), protocol, transport_len as u16)
        } else {
            let address = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&ip[at..at + 16]);
                Ipv6Addr::from(octets)
            };
            Checksum::pseudo_v6(address(8), address(24), protocol, transport_len as u32)
        };
        let sum = pseudo.bytes(transport);
        let sum = if self.is_tcp { sum.finish() } else { sum.finish_udp() };
        transport[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    fn offload(kind: u8, segment_len: u16, sum_from: u16, sum_at: u16) -> Offload {
        let mut bytes = [0; 10];
        bytes[0] = NEEDS_CHECKSUM;
        bytes[1] = kind;
        bytes[4..6].copy_from_slice(&segment_len.to_ne_bytes());
        bytes[6..8].copy_from_slice(&sum_from.to_ne_bytes());
        bytes[8..10].copy_from_slice(&sum_at.to_ne_bytes());
        Offload::read(&bytes, 0)
    }

    fn data(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 7 % 251) as u8).collect()
    }

    fn tcp(is_v4: bool, payload: &[u8]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if is_v4 {
            ethernet.ipv4([10, 0, 0, 1], [192, 0, 2, 9], 64)
        } else {
            ethernet.ipv6([1; 16], [2; 16], 64)
        };
        let mut frame = Vec::new();
        ip.tcp(1000, 80, u32::MAX - 100, 500).ack(7).psh().fin().write(&mut frame, payload).expect("it fits");
        frame
    }

    /// The segments of a frame.
    fn cut(offload: &Offload, frame: &[u8]) -> Vec<Vec<u8>> {
        let (mut bytes, mut places) = (vec![1, 2, 3], Vec::new());
        offload.segment(frame, &mut bytes, |place| places.push(place)).expect("it is what it is said to be");
        places.into_iter().map(|place| bytes[place].to_vec()).collect()
    }

    #[test]
    fn the_segments_of_a_long_tcp_frame_are_those_its_sender_would_have_sent() {
        for is_v4 in [true, false] {
            let payload = data(3001);
            let from = if is_v4 { 34 } else { 54 };
            let kind = if is_v4 { TCP_V4 } else { TCP_V6 };
            let segments = cut(&offload(kind | CONGESTION_MARKS, 1000, from, 16), &tcp(is_v4, &payload));
            assert_eq!(segments.len(), 4);
            let mut whole = Vec::new();
            for (at, segment) in segments.iter().enumerate() {
                let parsed = SlicedPacket::from_ethernet(segment).expect("headers are right");
                let Some(TransportSlice::Tcp(tcp)) = &parsed.transport else { panic!("no TCP: {parsed:?}") };
                let (header, piece) = (tcp.to_header(), tcp.payload());
                let sum = match parsed.net.as_ref().expect("there is a network header") {
                    etherparse::NetSlice::Ipv4(ip) => {
                        let header_sum = ip.header().to_header();
                        assert_eq!(header_sum.header_checksum, header_sum.calc_header_checksum());
                        assert_eq!(usize::from(header_sum.total_len), segment.len() - 14);
                        header.calc_checksum_ipv4(&header_sum, piece).expect("it fits")
                    }
                    etherparse::NetSlice::Ipv6(ip) => {
                        header.calc_checksum_ipv6(&ip.header().to_header(), piece).expect("it fits")
                    }
                    other => panic!("no IP: {other:?}"),
                };
                assert_eq!(header.checksum, sum, "of segment {at}");
                assert_eq!(header.sequence_number, (u32::MAX - 100).wrapping_add(whole.len() as u32));
                assert_eq!((header.fin, header.psh), (at == 3, at == 3), "of segment {at}");
                whole.extend_from_slice(piece);
            }
            assert_eq!(whole, payload);
        }
    }

    #[test]
    fn the_segments_of_a_long_udp_frame_are_datagrams() {
        let payload = data(2500);
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [192, 0, 2, 9], 64);
        builder.udp(1000, 53).write(&mut frame, &payload).expect("it fits");
        let segments = cut(&offload(UDP, 1000, 34, 6), &frame);
        let mut whole = Vec::new();
        for segment in &segments {
            let parsed = SlicedPacket::from_ethernet(segment).expect("headers are right");
            let (Some(TransportSlice::Udp(udp)), Some(etherparse::NetSlice::Ipv4(ip))) =
                (&parsed.transport, &parsed.net)
            else {
                panic!("no UDP: {parsed:?}")
            };
            let header = udp.to_header();
            let sum = header.calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).expect("it fits");
            assert_eq!((header.checksum, usize::from(header.length)), (sum, 8 + udp.payload().len()));
            whole.extend_from_slice(udp.payload());
        }
        assert_eq!((segments.len(), whole), (3, payload));
    }

    #[test]
    fn a_checksum_is_completed_from_that_of_the_pseudo_header() {
        let frame = tcp(true, &data(77));
        let mut partial = frame.clone();
        let pseudo = Checksum::pseudo_v4(
            Ipv4Addr::new(10, 0, 0, 1),
            Ipv4Addr::new(192, 0, 2, 9),
            6,
            (frame.len() - 34) as u16,
        );
        partial[50..52].copy_from_slice(&(!pseudo.finish()).to_be_bytes());
        assert_ne!(partial, frame);
        offload(NOT_LONG, 0, 34, 16).complete(&mut partial).expect("the field is there");
        assert_eq!(partial, frame);
    }

    #[test]
    fn what_the_driver_says_is_not_believed_beyond_the_frame() {
        let frame = tcp(true, &data(100));
        assert_eq!(offload(NOT_LONG, 0, 34, 16).complete(&mut frame[..51].to_vec()), Err(Malformed));
        let refused = |offload: Offload, frame: &[u8]| {
            let mut bytes = Vec::new();
            assert_eq!(offload.segment(frame, &mut bytes, |_| panic!("none")), Err(Malformed));
            assert!(bytes.is_empty());
        };
        refused(offload(TCP_V4, 47, 34, 16), &frame);
        refused(offload(TCP_V6, 50, 34, 16), &frame);
        refused(offload(TCP_V4, 50, 20, 16), &frame);
        refused(offload(TCP_V4, 50, 34, 16), &frame[..54]);
        refused(offload(3, 50, 34, 6), &frame);
        refused(offload(TCP_V4, 50, 34, 16), &frame[..13]);
    }

    proptest! {
        #[test]
        fn no_frame_and_no_offload_can_do_harm(header: [u8; 10], mut frame in prop::collection::vec(any::<u8>(), 0..200)) {
            let offload = Offload::read(&header, 0);
            let _ = offload.complete(&mut frame);
            let mut bytes = Vec::new();
            let _ = offload.segment(&frame, &mut bytes, |_| ());
            prop_assert!(bytes.len() <= frame.len() * (HEADERS_MAX + SEGMENT_MIN) / SEGMENT_MIN);
        }
    }

    /// A TCP segment and a UDP datagram, over both families.
    fn transports() -> [Vec<u8>; 4] {
        let link = || PacketBuilder::ethernet2([2; 6], [4; 6]);
        let v4 = || link().ipv4([10, 0, 0, 1], [198, 51, 100, 7], 64);
        let v6 = || link().ipv6([1; 16], [2; 16], 64);
        let mut all = [const { Vec::new() }; 4];
        v4().tcp(5000, 80, 7, 1000).ack(9).write(&mut all[0], b"hello there").unwrap();
        v4().udp(5000, 53).write(&mut all[1], b"question").unwrap();
        v6().tcp(5000, 80, 7, 1000).ack(9).write(&mut all[2], b"hello there").unwrap();
        v6().udp(5000, 53).write(&mut all[3], b"question").unwrap();
        all
    }

    #[test]
    fn a_checksum_that_was_left_to_the_hardware_is_completed_and_others_are_left_alone() {
        for (frame, is_v4) in transports().into_iter().zip([true, true, false, false]) {
            let parsed = parse(LinkType::ETHERNET, &frame);
            let (from, at) = (usize::from(parsed.l4), if parsed.protocol == protocol::TCP { 16 } else { 6 });
            let pseudo = pseudo_header(&frame[14..], is_v4, parsed.protocol, frame.len() - from).unwrap();
            let mut left = frame.clone();
            left[from + at..from + at + 2].copy_from_slice(&(!pseudo.finish()).to_be_bytes());
            // Short frames are padded.
            left.resize(frame.len() + 4, 0);
            assert_eq!(unfinished(&left), unfinished_of_any(&left));
            assert!(complete_unfinished(&mut left));
            assert_eq!(left[..frame.len()], frame);
            assert!(!complete_unfinished(&mut left), "it is right now");
            left[from + at] ^= 0x5a;
            let wrong = left.clone();
            assert!(!complete_unfinished(&mut left) && left == wrong, "a wrong one is the sender's");
        }
    }

    #[test]
    fn what_is_longer_than_a_wire_carries_is_cut_if_it_can_be() {
        let unfinish = |frame: &mut Vec<u8>, is_v4| {
            let parsed = parse(LinkType::ETHERNET, frame);
            let (_, offload) = Offload::unsaid(frame).unwrap();
            let len = frame.len() - offload.sum_from;
            let sum = pseudo_header(&frame[14..], is_v4, parsed.protocol, len).unwrap();
            let at = offload.sum_from + offload.sum_at;
            frame[at..at + 2].copy_from_slice(&(!sum.finish()).to_be_bytes());
        };
        for (is_v4, network_len) in [(true, 20), (false, 40)] {
            let payload = data(4000);
            let mut frame = tcp(is_v4, &payload);
            // One that a driver put together has its checksum, or one that is right for the first.
            for _ in 0..2 {
                assert_eq!(longer_than(&frame, 4000 + network_len + 20), None, "a wire carries it");
                let offload = longer_than(&frame, 1500).expect("it is too long");
                let segments = cut(&offload, &frame);
                let headers = 14 + network_len as usize + 20;
                assert_eq!(segments.iter().map(Vec::len).max(), Some(1514));
                let pieces = segments.iter().flat_map(|segment| &segment[headers..]);
                assert_eq!(pieces.copied().collect::<Vec<u8>>(), payload);
                unfinish(&mut frame, is_v4);
            }
        }
        let mut datagram = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [192, 0, 2, 9], 64);
        builder.udp(1000, 53).write(&mut datagram, &data(2500)).expect("it fits");
        assert_eq!(longer_than(&datagram, 1500), None, "it may have come from a wire that carries more");
        unfinish(&mut datagram, true);
        let offload = longer_than(&datagram, 1500).expect("it never saw a wire");
        assert_eq!(offload.segment(&datagram, &mut Vec::new(), drop), Err(Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_can_do_harm_where_nobody_says_what_they_are(
            at in 0usize..4,
            cut in 0usize..120,
            place in 12usize..60,
            bytes in prop::collection::vec(any::<u8>(), 0..8),
            mtu in 0u32..200,
        ) {
            let mut frame = transports()[at].clone();
            frame.iter_mut().skip(place).zip(&bytes).for_each(|(to, from)| *to = *from);
            frame.truncate(cut);
            let len = frame.len();
            prop_assert_eq!(unfinished(&frame), unfinished_of_any(&frame));
            complete_unfinished(&mut frame);
            prop_assert_eq!(frame.len(), len);
            if let Some(offload) = longer_than(&frame, mtu) {
                let _ = offload.segment(&frame, &mut Vec::new(), drop);
            }
        }
    }
}
