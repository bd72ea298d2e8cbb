//! Connection identity: who talks to whom, the same for both directions.
//!
//! The root gives every packet an [`Identity`]; scopes, slots and tables are keyed by its [`FlowKey`].
//! A key is five words in a fixed arithmetic encoding (not in memory order of any header), so that equality,
//! order and hash are the same on every machine:
//!
//! ```text
//! word 0   family (8) | protocol (8) | 0 (16) | low port (16) | high port (16)
//! word 1   IPv4: low address (32) | high address (32), words 2-4 zero
//! word 1-2 IPv6: low address, most significant half first; word 3-4: high address
//! ```
//!
//! Invariant of every key built here: the endpoint lower as (address, port) is the low one.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;
use std::hash::{Hash, Hasher};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::packet::protocol;

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Address.
    pub addr: IpAddr,
    /// Port; the identifier of an ICMP echo; 0 where the protocol has none.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr {
            IpAddr::V4(addr) => write!(f, "{addr}:{}", self.port),
            IpAddr::V6(addr) => write!(f, "[{addr}]:{}", self.port),
        }
    }
}

/// Which way a packet travels between the two endpoints of its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// From the low endpoint to the high one; also when both endpoints are equal.
    #[default]
    LowToHigh = 0,
    /// From the high endpoint to the low one.
    HighToLow = 1,
}

impl Direction {
    /// The other way.
    #[inline]
    pub const fn reverse(self) -> Direction {
        match self {
            Direction::LowToHigh => Direction::HighToLow,
            Direction::HighToLow => Direction::LowToHigh,
        }
    }
}

/// What names a connection: family, protocol and both endpoints, low one first (see the module for the layout).
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[repr(C)]
pub struct FlowKey {
    /// The encoding described by the module.
    pub words: [u64; 5],
}

/// A key and the way the packet travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The connection, [`FlowKey::NONE`] for a packet without addresses.
    pub key: FlowKey,
    /// The way of this packet.
    pub direction: Direction,
}

const FAMILY_V4: u64 = 4 << 56;
const FAMILY_V6: u64 = 6 << 56;

impl FlowKey {
    /// The key of what has no addresses (not IP, or unreadable): family 0, all words zero.
    pub const NONE: FlowKey = FlowKey { words: [0; 5] };

    /// Key of a packet from `a` to `b`, and its direction. When only one endpoint is IPv4 it counts as its
    /// IPv4-mapped IPv6 address.
    pub fn new(protocol: u8, a: Endpoint, b: Endpoint) -> (FlowKey, Direction) {
        match (a.addr, b.addr) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                FlowKey::v4(protocol, src.to_bits(), a.port, dst.to_bits(), b.port)
            }
            (src, dst) => FlowKey::v6(protocol, v6_bits(src), a.port, v6_bits(dst), b.port),
        }
    }

    /// Key of an IPv4 packet; addresses and ports are numbers in host order.
    #[inline]
    pub fn v4(protocol: u8, src: u32, src_port: u16, dst: u32, dst_port: u16) -> (FlowKey, Direction) {
        let from = u64::from(src) << 16 | u64::from(src_port);
        let to = u64::from(dst) << 16 | u64::from(dst_port);
        // No branch: which end is lower is a coin toss that no predictor learns.
        let (low, high) = (from.min(to), from.max(to));
        let direction = if from <= to { Direction::LowToHigh } else { Direction::HighToLow };
        let ports = (low & 0xffff) << 16 | (high & 0xffff);
        let first = FAMILY_V4 | u64::from(protocol) << 48 | ports;
        (FlowKey { words: [first, (low >> 16) << 32 | high >> 16, 0, 0, 0] }, direction)
    }

    /// Key of an IPv6 packet; addresses and ports are numbers in host order.
    #[inline]
    pub fn v6(protocol: u8, src: u128, src_port: u16, dst: u128, dst_port: u16) -> (FlowKey, Direction) {
        let (from, to) = ((src, src_port), (dst, dst_port));
        let (low, high, direction) =
            if from <= to { (from, to, Direction::LowToHigh) } else { (to, from, Direction::HighToLow) };
        let ports = u64::from(low.1) << 16 | u64::from(high.1);
        let first = FAMILY_V6 | u64::from(protocol) << 48 | ports;
        let (low, high) = (low.0, high.0);
        (
            FlowKey { words: [first, (low >> 64) as u64, low as u64, (high >> 64) as u64, high as u64] },
            direction,
        )
    }

    /// 4, 6, or 0 for [`FlowKey::NONE`].
    #[inline]
    pub const fn family(&self) -> u8 {
        (self.words[0] >> 56) as u8
    }

    /// IP protocol number.
    #[inline]
    pub const fn protocol(&self) -> u8 {
        (self.words[0] >> 48) as u8
    }

    /// True for [`FlowKey::NONE`].
    #[inline]
    pub const fn is_none(&self) -> bool {
        self.family() == 0
    }

    /// Ports of the lower and the higher endpoint.
    #[inline]
    pub const fn ports(&self) -> (u16, u16) {
        ((self.words[0] >> 16) as u16, self.words[0] as u16)
    }

    /// The lower endpoint; 0.0.0.0:0 without addresses.
    pub fn low(&self) -> Endpoint {
        let addr = match self.family() {
            6 => v6_addr(self.words[1], self.words[2]),
            _ => IpAddr::V4(Ipv4Addr::from_bits((self.words[1] >> 32) as u32)),
        };
        Endpoint { addr, port: (self.words[0] >> 16) as u16 }
    }

    /// The higher endpoint; 0.0.0.0:0 without addresses.
    pub fn high(&self) -> Endpoint {
        let addr = match self.family() {
            6 => v6_addr(self.words[3], self.words[4]),
            _ => IpAddr::V4(Ipv4Addr::from_bits(self.words[1] as u32)),
        };
        Endpoint { addr, port: self.words[0] as u16 }
    }

    /// Where a packet that travels in `direction` comes from.
    pub fn source(&self, direction: Direction) -> Endpoint {
        match direction {
            Direction::LowToHigh => self.low(),
            Direction::HighToLow => self.high(),
        }
    }

    /// Where a packet that travels in `direction` goes to.
    pub fn destination(&self, direction: Direction) -> Endpoint {
        self.source(direction.reverse())
    }

    /// The two words that are all of an IPv4 key, for tables with 16-byte keys.
    #[inline]
    pub const fn v4_words(&self) -> Option<[u64; 2]> {
        if self.family() == 4 { Some([self.words[0], self.words[1]]) } else { None }
    }

    /// Seeded 64-bit hash for slots and tables. All bits are good. It depends on the words and the seed only, so
    /// every process of a deployment agrees; keep the seed secret where a sender may choose addresses.
    #[inline]
    pub fn hash(&self, seed: u64) -> u64 {
        if self.family() != 4 {
            return hash_words(&self.words, seed);
        }
        let (seed_a, seed_b) = spread(seed);
        let hash = folded_multiply(self.words[0] ^ seed_a, self.words[1] ^ seed_b);
        folded_multiply(hash ^ seed_b, SALT[2])
    }
}

/// Seeded 64-bit hash of any five words, as good as that of a key.
#[inline]
pub fn hash_words(words: &[u64; 5], seed: u64) -> u64 {
    let (seed_a, seed_b) = spread(seed);
    let [head, a, b, c, d] = *words;
    let hash = folded_multiply(head ^ seed_a, a ^ seed_b);
    let hash = folded_multiply(hash ^ b ^ SALT[2], c ^ seed_b.rotate_left(17));
    let hash = folded_multiply(hash ^ d ^ SALT[3], seed_a.rotate_left(29) | 1);
    folded_multiply(hash ^ seed_b, SALT[2])
}

/// Masks for the two factors of a product. Both carry the seed: were one known, a sender could make that factor
/// zero and with it the product.
#[inline]
const fn spread(seed: u64) -> (u64, u64) {
    (seed ^ SALT[0], seed.rotate_left(32) ^ SALT[1])
}

/// Odd constants with no structure (digits of pi).
const SALT: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7345, 0xa409_3822_299f_31d1, 0x082e_fa98_ec4e_6c89];

/// The 128-bit product with its halves folded together: each output bit depends on all input bits.
#[inline]
fn folded_multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

fn v6_bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().to_bits(),
        IpAddr::V6(addr) => addr.to_bits(),
    }
}

fn v6_addr(high: u64, low: u64) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)))
}

impl Hash for FlowKey {
    /// For standard maps: no length prefix, and an IPv4 key costs two words.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.words[0]);
        state.write_u64(self.words[1]);
        if self.family() != 4 {
            self.words[2..].iter().for_each(|&word| state.write_u64(word));
        }
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str("no addresses");
        }
        match protocol::name(self.protocol()) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "protocol {}", self.protocol())?,
        }
        write!(f, " {} <> {}", self.low(), self.high())
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Identity {
    /// Where the packet comes from.
    pub fn source(&self) -> Endpoint {
        self.key.source(self.direction)
    }

    /// Where the packet goes to.
    pub fn destination(&self) -> Endpoint {
        self.key.destination(self.direction)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint(addr: &str, port: u16) -> Endpoint {
        Endpoint { addr: addr.parse().expect("address literal"), port }
    }

    fn addr() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
        ]
    }

    #[test]
    fn encoding_of_an_ipv4_key_is_fixed() {
        let (key, direction) = FlowKey::new(6, endpoint("10.0.0.2", 80), endpoint("10.0.0.1", 0x1234));
        assert_eq!(key.words, [0x0406_0000_1234_0050, 0x0a00_0001_0a00_0002, 0, 0, 0]);
        assert_eq!(direction, Direction::HighToLow);
        assert_eq!(key.v4_words(), Some([key.words[0], key.words[1]]));
        assert_eq!(key.as_bytes().len(), 40);
        assert_eq!(key.to_string(), "tcp 10.0.0.1:4660 <> 10.0.0.2:80");
    }

    #[test]
    fn encoding_of_an_ipv6_key_is_fixed() {
        let (key, direction) = FlowKey::new(17, endpoint("2001:db8::1", 5), endpoint("2001:db8::2", 6));
        let net = 0x2001_0db8_0000_0000;
        assert_eq!(key.words, [0x0611_0000_0005_0006, net, 1, net, 2]);
        assert_eq!(direction, Direction::LowToHigh);
        assert_eq!(key.v4_words(), None);
        assert_eq!(key.to_string(), "udp [2001:db8::1]:5 <> [2001:db8::2]:6");
    }

    #[test]
    fn ports_order_endpoints_of_one_address() {
        let (key, direction) = FlowKey::v4(6, 7, 90, 7, 80);
        assert_eq!((key.low().port, key.high().port, direction), (80, 90, Direction::HighToLow));
    }

    #[test]
    fn no_key_has_family_zero() {
        assert!(FlowKey::NONE.is_none());
        assert_eq!(FlowKey::NONE, FlowKey::default());
        assert_eq!(FlowKey::NONE.low(), endpoint("0.0.0.0", 0));
    }

    /// The hash places state; a change of it breaks stored placements.
    #[test]
    fn hash_is_pinned() {
        let (v4, _) = FlowKey::v4(6, 0x0a00_0001, 1, 0x0a00_0002, 2);
        let (v6, _) = FlowKey::v6(6, 1, 1, 2, 2);
        assert_eq!([v4.hash(0), v4.hash(1), v6.hash(0)], PINNED);
    }
    const PINNED: [u64; 3] = [2897273518630333519, 7031412807876931485, 13272943444627968437];

    /// One flipped input bit flips each output bit about half of the time.
    #[test]
    fn hash_avalanches() {
        let flips = |make: &dyn Fn(u64) -> FlowKey, words: usize| {
            for bit in 0..words * 64 {
                // Bits 56-63 of word 0 are the family, which decides the number of words.
                if (56..64).contains(&bit) {
                    continue;
                }
                let mut count = [0u32; 64];
                for n in 0..512 {
                    let key = make(n);
                    let mut other = key;
                    other.words[bit / 64] ^= 1 << (bit % 64);
                    let difference = key.hash(9) ^ other.hash(9);
                    (0..64).for_each(|out| count[out] += (difference >> out & 1) as u32);
                }
                assert!(count.iter().all(|c| (150..362).contains(c)), "input bit {bit}: {count:?}");
            }
        };
        flips(&|n| FlowKey::v4(6, 0x0a00_0000 + n as u32, 1000, 0x0a01_0000, 80).0, 2);
        flips(&|n| FlowKey::v6(6, u128::from(n), 1000, 1 << 100, 80).0, 5);
    }

    #[test]
    fn neighbouring_keys_spread_over_low_and_high_bits() {
        for shift in [0, 54] {
            let mut load = [0u32; 1024];
            for n in 0..65_536u32 {
                let (key, _) = FlowKey::v4(6, 0x0a00_0000 + (n >> 8), (n & 255) as u16, 0xc0a8_0001, 80);
                load[(key.hash(3) >> shift & 1023) as usize] += 1;
            }
            // Mean 64, deviation 8.
            assert!(load.iter().all(|&l| (16..=120).contains(&l)), "shift {shift}: {load:?}");
        }
    }

    proptest! {
        #[test]
        fn both_directions_share_a_key(a in addr(), b in addr(), ports in any::<(u16, u16)>(), proto: u8) {
            let (a, b) = (Endpoint { addr: a, port: ports.0 }, Endpoint { addr: b, port: ports.1 });
            let (key, there) = FlowKey::new(proto, a, b);
            let (same, back) = FlowKey::new(proto, b, a);
            prop_assert_eq!(key, same);
            prop_assert_eq!(there, if a == b { back } else { back.reverse() });
            prop_assert!(key.low() <= key.high());
            prop_assert_eq!(key.protocol(), proto);
            if a.addr.is_ipv4() == b.addr.is_ipv4() {
                prop_assert_eq!(key.source(there), a);
                prop_assert_eq!(key.destination(there), b);
            }
        }
    }
}
