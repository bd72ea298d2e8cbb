//! Which root a packet belongs to: a fixed partition of the input, the same for both directions of a connection.
//!
//! By the networks of hosts given to each root, or else by the two addresses. It decides where the work is done and nothing
//! else: first instances put what comes of several roots into the order of the input. Cost: one comparison a network.
//! Paper: section 4.1.

use crate::gateway::Prefix;
use chc_api::FlowKey;
use chc_api::identity::hash_words;
use std::sync::Arc;

/// The partition.
#[derive(Clone, Debug)]
pub struct Shares {
    roots: u16,
    hosts: Arc<[(Prefix, u16)]>,
    seed: u64,
}

impl Shares {
    /// One root has everything.
    #[must_use]
    pub fn sole() -> Self {
        Self::by_addresses(1, 0)
    }

    /// A seeded hash of its addresses decides where a packet belongs.
    #[must_use]
    pub fn by_addresses(roots: u16, seed: u64) -> Self {
        Self { roots, hosts: Arc::default(), seed }
    }

    /// Each root has the hosts of its networks, one list a root; whatever has no host of any belongs to the first. What two
    /// of them have a host of belongs to the lower one.
    #[must_use]
    pub fn by_hosts(hosts: &[Vec<Prefix>]) -> Self {
        let all = hosts.iter().zip(0..).flat_map(|(own, root)| own.iter().map(move |prefix| (*prefix, root)));
        Self { roots: hosts.len().max(1) as u16, hosts: all.collect(), seed: 0 }
    }

    /// How many roots there are.
    #[must_use]
    pub fn roots(&self) -> u16 {
        self.roots
    }

    /// The root of a connection's packets.
    #[must_use]
    pub fn root_of(&self, key: &FlowKey) -> u16 {
        if self.roots == 1 || key.is_none() {
            return 0;
        }
        let [first, addresses @ ..] = key.words;
        if self.hosts.is_empty() {
            // The family is all that counts of the first word: fragments have no ports.
            let [a, b, c, d] = addresses;
            let hash = hash_words(&[first >> 56, a, b, c, d], self.seed);
            return ((u128::from(hash) * u128::from(self.roots)) >> 64) as u16;
        }
        let (low, high) = (key.low().addr, key.high().addr);
        let is_of = |prefix: &Prefix| prefix.contains(low) || prefix.contains(high);
        self.hosts.iter().find(|(prefix, _)| is_of(prefix)).map_or(0, |(_, root)| *root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(from: [u8; 4], from_port: u16, to: [u8; 4], to_port: u16) -> FlowKey {
        let bits = |address: [u8; 4]| u32::from_be_bytes(address);
        FlowKey::v4(6, bits(from), from_port, bits(to), to_port).0
    }

    #[test]
    fn both_directions_and_all_ports_of_two_hosts_belong_to_one_root() {
        let shares = Shares::by_addresses(3, 7);
        let mut met = [false; 3];
        for host in 0..=255 {
            let (host, server) = ([10, 0, 0, host], [198, 51, 100, 1]);
            let root = shares.root_of(&key(host, 1234, server, 80));
            assert_eq!(shares.root_of(&key(server, 80, host, 1234)), root);
            assert_eq!(shares.root_of(&key(server, 0, host, 0)), root, "a later fragment");
            met[usize::from(root)] = true;
        }
        assert_eq!(met, [true; 3]);
        assert_eq!(shares.root_of(&FlowKey::NONE), 0);
    }

    #[test]
    fn networks_of_hosts_belong_to_the_root_they_are_given_to() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let shares = Shares::by_hosts(&[nets(&["10.0.0.0/9"]), nets(&["10.128.0.0/9", "fd00::/8"])]);
        assert_eq!(shares.roots(), 2);
        let server = [198, 51, 100, 1];
        assert_eq!(shares.root_of(&key([10, 1, 2, 3], 5, server, 80)), 0);
        assert_eq!(shares.root_of(&key([10, 200, 2, 3], 5, server, 80)), 1);
        assert_eq!(shares.root_of(&key(server, 80, [10, 200, 2, 3], 5)), 1);
        assert_eq!(shares.root_of(&key([10, 200, 2, 3], 5, [10, 1, 2, 3], 5)), 0, "a host of each");
        assert_eq!(shares.root_of(&key([192, 0, 2, 1], 5, server, 80)), 0, "nobody's");
        let (v6, _) = FlowKey::v6(6, 0xfd00 << 112 | 1, 5, 0x2001_0db8 << 96, 80);
        assert_eq!(shares.root_of(&v6), 1);
    }
}
