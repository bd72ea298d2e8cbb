//! Finding records by a secondary key.

use chc_api::FlowKey;
use chc_store::table::Row;
use hashbrown::HashMap;
use std::collections::BTreeMap;

/// The records with each secondary key, as rows of their table. Where several have the same, that of the lowest
/// connection is found: what is found follows from the records there are, not from the order in which they came.
#[derive(Clone, Default)]
pub struct SecondaryIndex {
    /// By the two halves of the key: so an entry takes twelve bytes and not sixteen.
    found: HashMap<[u32; 2], Row>,
    /// All records of the keys that several have.
    shared: HashMap<u64, BTreeMap<FlowKey, Row>>,
}

impl SecondaryIndex {
    /// The record with a secondary key.
    #[must_use]
    pub fn get(&self, index: u64) -> Option<Row> {
        self.found.get(&halves(index)).copied()
    }

    /// Adds a connection's record; `key_of` says whose another row is.
    pub fn insert(&mut self, index: u64, key: FlowKey, row: Row, key_of: impl Fn(Row) -> FlowKey) {
        let found = self.found.entry(halves(index)).or_insert(row);
        if *found == row {
            return;
        }
        let other = (key_of(*found), *found);
        self.shared.entry(index).or_insert_with(|| BTreeMap::from([other])).insert(key, row);
        if key < other.0 {
            *found = row;
        }
    }

    /// Removes a connection's record.
    pub fn remove(&mut self, index: u64, key: &FlowKey, row: Row) {
        if let Some(all) = self.shared.get_mut(&index) {
            all.remove(key);
            let lowest = all.first_key_value().map(|(_, row)| *row);
            if all.len() <= 1 {
                self.shared.remove(&index);
            }
            if let Some(lowest) = lowest {
                self.found.insert(halves(index), lowest);
            }
        } else if self.found.get(&halves(index)) == Some(&row) {
            self.found.remove(&halves(index));
        }
    }
}

fn halves(index: u64) -> [u32; 2] {
    [(index >> 32) as u32, index as u32]
}

#[cfg(test)]
mod tests {
    use super::*;
    use chc_store::record::RecordShape;
    use chc_store::table::{FlowTable, Hint};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn the_lowest_connection_is_found(ops in proptest::collection::vec((0_u64..3, 0_u16..6, any::<bool>()), 1..200)) {
            let mut index = SecondaryIndex::default();
            let mut table = FlowTable::new(RecordShape { value_len: 8, timers: 0 });
            let mut model: BTreeMap<u64, BTreeSet<FlowKey>> = BTreeMap::new();
            for (at, port, adds) in ops {
                let key = FlowKey::v4(6, 1, port, 2, 80).0;
                let known = table.find(&key, key.hash(1), Hint::NONE);
                let row = known.unwrap_or_else(|| table.insert(&key, key.hash(1)));
                if adds {
                    index.insert(at, key, row, |row| table.key(row));
                    model.entry(at).or_default().insert(key);
                } else {
                    index.remove(at, &key, row);
                    model.entry(at).or_default().remove(&key);
                }
                for at in 0..3 {
                    let found = index.get(at).map(|row| table.key(row));
                    prop_assert_eq!(found, model.get(&at).and_then(|all| all.first().copied()));
                }
                let shared = model.values().filter(|all| all.len() > 1).count();
                prop_assert_eq!(index.shared.len(), shared);
            }
        }
    }
}
