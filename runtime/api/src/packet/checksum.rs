//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! A rewrite updates checksums from what it changed and never reads the payload, so it works on packets whose
//! capture was cut, and a wrong checksum stays as wrong as it was. Numbers are in host order, as the views of the
//! headers give them; changed fields must lie at an even offset of the summed data, as those of IP, TCP, UDP and
//! ICMP do.

use core::net::{Ipv4Addr, Ipv6Addr};

/// A ones' complement sum in the making.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checksum {
    /// Sum of 16-bit words, not yet folded: 2^48 words would have to come for it to overflow.
    sum: u64,
}

impl Checksum {
    /// Sum of nothing.
    pub const fn new() -> Checksum {
        Checksum { sum: 0 }
    }

    /// Checksum of `bytes`, their checksum field being zero. Over data with its checksum in place the result is 0
    /// when that is right.
    pub fn of(bytes: &[u8]) -> u16 {
        Checksum::new().bytes(bytes).finish()
    }

    /// Sum of an IPv4 pseudo-header; `len` is that of transport header and payload, bytes.
    pub fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u16) -> Checksum {
        Checksum::new().u32(src.to_bits()).u32(dst.to_bits()).u16(u16::from(protocol)).u16(len)
    }

    /// Sum of an IPv6 pseudo-header; `len` is that of transport header and payload, bytes.
    pub fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, len: u32) -> Checksum {
        Checksum::new().bytes(&src.octets()).bytes(&dst.octets()).u32(len).u16(u16::from(protocol))
    }

    /// Adds a word.
    #[inline]
    #[must_use]
    pub const fn u16(self, word: u16) -> Checksum {
        Checksum { sum: self.sum + word as u64 }
    }

    /// Adds two words.
    #[inline]
    #[must_use]
    pub const fn u32(self, words: u32) -> Checksum {
        Checksum { sum: self.sum + (words >> 16) as u64 + (words & 0xffff) as u64 }
    }

    /// Adds `bytes` as network-order words. An odd last byte counts as followed by a zero, so only the last piece
    /// may be odd.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Checksum {
        let (words, rest) = bytes.as_chunks::<4>();
        let mut sum = words.iter().fold(self, |sum, four| sum.u32(u32::from_be_bytes(*four)));
        let (words, last) = rest.as_chunks::<2>();
        if let [word] = words {
            sum = sum.u16(u16::from_be_bytes(*word));
        }
        if let [byte] = last {
            sum = sum.u16(u16::from_be_bytes([*byte, 0]));
        }
        sum
    }

    /// The checksum field.
    #[inline]
    pub const fn finish(self) -> u16 {
        !fold(self.sum)
    }

    /// The checksum field of UDP, where 0 would mean "none": a computed 0 becomes 0xffff.
    #[inline]
    pub const fn finish_udp(self) -> u16 {
        match self.finish() {
            0 => 0xffff,
            checksum => checksum,
        }
    }

    /// Field `checksum` after one word of its data changed.
    #[inline]
    pub const fn update_u16(checksum: u16, old: u16, new: u16) -> u16 {
        ChecksumDelta::new().u16(old, new).apply(checksum)
    }

    /// Field `checksum` after two words of its data changed.
    #[inline]
    pub const fn update_u32(checksum: u16, old: u32, new: u32) -> u16 {
        ChecksumDelta::new().u32(old, new).apply(checksum)
    }
}

/// What a rewrite changed, to be applied to every checksum that covers it (RFC 1624, equation 3).
#[derive(Clone, Copy, Debug, Default)]
pub struct ChecksumDelta {
    /// Sum of the complements of the old words and of the new words.
    sum: u64,
}

impl ChecksumDelta {
    /// No change.
    pub const fn new() -> ChecksumDelta {
        ChecksumDelta { sum: 0 }
    }

    /// Adds a changed word: a port, or a checksum quoted in an ICMP error.
    #[inline]
    #[must_use]
    pub const fn u16(self, old: u16, new: u16) -> ChecksumDelta {
        ChecksumDelta { sum: self.sum + !old as u64 + new as u64 }
    }

    /// Adds two changed words: an IPv4 address.
    #[inline]
    #[must_use]
    pub const fn u32(self, old: u32, new: u32) -> ChecksumDelta {
        // A word of 32 bits counts as its halves do: 2^16 is 1 among sums whose carries are added again.
        ChecksumDelta { sum: self.sum + !old as u64 + new as u64 }
    }

    /// Adds eight changed words: an IPv6 address.
    #[must_use]
    pub const fn u128(self, old: u128, new: u128) -> ChecksumDelta {
        self.u32((old >> 96) as u32, (new >> 96) as u32)
            .u32((old >> 64) as u32, (new >> 64) as u32)
            .u32((old >> 32) as u32, (new >> 32) as u32)
            .u32(old as u32, new as u32)
    }

    /// Adds the changes of `other`.
    #[inline]
    #[must_use]
    pub const fn and(self, other: ChecksumDelta) -> ChecksumDelta {
        ChecksumDelta { sum: self.sum + other.sum }
    }

    /// The field after the change.
    #[inline]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(self.sum + !checksum as u64)
    }

    /// The field of UDP after the change: 0 (none) stays 0, a computed 0 becomes 0xffff.
    #[inline]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        match (checksum, self.apply(checksum)) {
            (0, _) => 0,
            (_, 0) => 0xffff,
            (_, updated) => updated,
        }
    }
}

/// Adds the carries until 16 bits are left.
#[inline]
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = ((sum >> 32) + (sum & 0xffff_ffff)) as u32;
    // Both halves in both orders: the upper one has the carry of the lower.
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 written plainly.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn example_of_rfc_1071() {
        assert_eq!(Checksum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn carries_are_added_until_there_are_none() {
        let steps = |mut sum: u64| {
            while sum > 0xffff {
                sum = (sum >> 16) + (sum & 0xffff);
            }
            sum as u16
        };
        let ends = [0, 1, 0xfffe, 0xffff];
        let words = ends.iter().flat_map(|a| ends.map(|b| a << 16 | b));
        for sum in words.clone().flat_map(|high| words.clone().map(move |low| high << 32 | low)) {
            assert_eq!(fold(sum), steps(sum), "{sum:#x}");
        }
    }

    /// Section 4: the old equation gives 0xffff here, the new one 0.
    #[test]
    fn example_of_rfc_1624() {
        assert_eq!(Checksum::update_u16(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn udp_without_a_checksum_stays_without() {
        assert_eq!(ChecksumDelta::new().u32(1, 2).apply_udp(0), 0);
    }

    #[test]
    fn udp_checksum_that_becomes_zero_is_all_ones() {
        assert_eq!(ChecksumDelta::new().u16(0x5555, 0x3285).apply_udp(0xdd2f), 0xffff);
        assert_eq!(Checksum::new().u16(0xffff).finish_udp(), 0xffff);
        assert_eq!(Checksum::new().u16(0xfffe).finish_udp(), 1);
    }

    #[test]
    fn pseudo_headers_agree_with_etherparse() {
        let payload = b"odd";
        let (src, dst) = ([10, 0, 0, 1], [192, 168, 7, 9]);
        let udp = etherparse::UdpHeader { source_port: 9, destination_port: 99, length: 11, checksum: 0 };
        let segment = [&udp.to_bytes()[..], payload].concat();
        let ours = Checksum::pseudo_v4(src.into(), dst.into(), 17, 11).bytes(&segment).finish_udp();
        assert_eq!(Ok(ours), udp.calc_checksum_ipv4_raw(src, dst, payload));
        let (src, dst) = ([0x21; 16], [0xfe; 16]);
        let ours = Checksum::pseudo_v6(src.into(), dst.into(), 17, 11).bytes(&segment).finish_udp();
        assert_eq!(Ok(ours), udp.calc_checksum_ipv6_raw(src, dst, payload));
    }

    proptest! {
        #[test]
        fn sum_of_bytes_is_the_plain_one(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Checksum::of(&bytes), plain(&bytes));
        }

        #[test]
        fn updated_is_recomputed(
            mut words in prop::collection::vec(prop_oneof![any::<u16>(), Just(0), Just(0xffff)], 11..40),
            new: u128, port in prop_oneof![any::<u16>(), Just(0), Just(0xffff)],
        ) {
            // A nonzero word that stays: IP has its version, transports the protocol in the pseudo-header.
            words[10] |= 1;
            let bytes = |words: &[u16]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<u8>>();
            let before = Checksum::of(&bytes(&words));
            let old = words[..8].iter().fold(0u128, |sum, w| sum << 16 | u128::from(*w));
            let old_port = words[9];
            (0..8).for_each(|i| words[i] = (new >> (112 - 16 * i)) as u16);
            words[9] = port;
            let after = Checksum::of(&bytes(&words));
            let delta = ChecksumDelta::new().u128(old, new).and(ChecksumDelta::new().u16(old_port, port));
            prop_assert_eq!(delta.apply(before), after);
            if before != 0 {
                prop_assert_eq!(delta.apply_udp(before), if after == 0 { 0xffff } else { after });
            }
            // UDP sends a computed 0 as 0xffff, which must update as the 0 it stands for.
            if before == 0 {
                prop_assert_eq!(delta.apply_udp(0xffff), if after == 0 { 0xffff } else { after });
            }
        }
    }
}
