//! Addresses with the length of their network's prefix, as `10.0.0.1/24`.

use serde::{Serialize, Serializer};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address and the network it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// Bits that all addresses of its network have in common.
    pub len: u8,
}

impl Prefix {
    /// Whether an address is in the network.
    #[must_use]
    pub fn contains(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(32 - u32::from(self.len)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(128 - u32::from(self.len)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Prefix {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, len) = text.split_once('/').ok_or("the length of the prefix is missing")?;
        let address: IpAddr = address.parse().map_err(|_| "this is no address")?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let len = len.parse().ok().filter(|len| *len <= most).ok_or("this is no length of a prefix")?;
        Ok(Self { address, len })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_what_shares_its_bits() {
        let contains = |prefix: &str, address: &str| {
            prefix.parse::<Prefix>().unwrap().contains(address.parse().unwrap())
        };
        assert!(contains("10.1.2.3/24", "10.1.2.255") && !contains("10.1.2.3/24", "10.1.3.3"));
        assert!(contains("10.1.2.3/32", "10.1.2.3") && !contains("10.1.2.3/32", "10.1.2.2"));
        assert!(contains("0.0.0.0/0", "255.0.0.1") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("fd00::1/64", "fd00::ffff") && !contains("fd00::1/64", "fd00:0:0:1::1"));
        assert!(contains("::/0", "fe80::1") && contains("::1/128", "::1"));
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in ["10.0.0.1", "10.0.0.1/33", "fd00::1/129", "host/24", "10.0.0.1/", "10.0.0.1/-1"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }
}
