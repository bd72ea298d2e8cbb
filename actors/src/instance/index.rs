//! Finding records by a secondary key.

use chc_api::FlowKey;
use hashbrown::HashMap;
use std::collections::BTreeSet;

/// The connections with each secondary key. Where several have the same, the lowest is found: what is found
/// follows from the records there are, not from the order in which they came.
#[derive(Default)]
pub struct SecondaryIndex {
    found: HashMap<u64, FlowKey>,
    /// All connections of the keys that several have.
    shared: HashMap<u64, BTreeSet<FlowKey>>,
}

impl SecondaryIndex {
    /// The connection with a secondary key.
    #[must_use]
    pub fn get(&self, index: u64) -> Option<FlowKey> {
        self.found.get(&index).copied()
    }

    /// Adds a connection.
    pub fn insert(&mut self, index: u64, key: FlowKey) {
        let found = self.found.entry(index).or_insert(key);
        if *found != key {
            self.shared.entry(index).or_insert_with(|| BTreeSet::from([*found])).insert(key);
            *found = key.min(*found);
        }
    }

    /// Removes a connection.
    pub fn remove(&mut self, index: u64, key: &FlowKey) {
        if let Some(all) = self.shared.get_mut(&index) {
            all.remove(key);
            let lowest = all.first().copied();
            if all.len() <= 1 {
                self.shared.remove(&index);
            }
            if let Some(lowest) = lowest {
                self.found.insert(index, lowest);
            }
        } else if self.found.get(&index) == Some(key) {
            self.found.remove(&index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn the_lowest_connection_is_found(ops in proptest::collection::vec((0_u64..3, 0_u16..6, any::<bool>()), 1..200)) {
            let mut index = SecondaryIndex::default();
            let mut model: BTreeMap<u64, BTreeSet<FlowKey>> = BTreeMap::new();
            for (at, port, adds) in ops {
                let key = FlowKey::v4(6, 1, port, 2, 80).0;
                if adds {
                    index.insert(at, key);
                    model.entry(at).or_default().insert(key);
                } else {
                    index.remove(at, &key);
                    model.entry(at).or_default().remove(&key);
                }
                for at in 0..3 {
                    prop_assert_eq!(index.get(at), model.get(&at).and_then(|all| all.first().copied()));
                }
                let shared = model.values().filter(|all| all.len() > 1).count();
                prop_assert_eq!(index.shared.len(), shared);
            }
        }
    }
}
