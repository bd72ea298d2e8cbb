//! Boundary versions of per-flow records: what a shard keeps of each connection.
//!
//! A version is keyed by the clock of the last write it includes. A load at boundary `b` takes the
//! newest version written below `b`; trimming keeps the newest below the cut. So a record that does
//! not change costs one version, whatever the number of epochs.
//!
//! The newest version below the cut, of which there is one a record, lies in a [`FlowTable`]: one or two cache
//! lines a record and sixteen bytes of index. The tables of a slot are split by hash, so that none grows by much at
//! once. Newer versions, of which there are as many as the window has writes, lie apart until the cut passes them.

use crate::record::{Record, RecordShape};
use crate::table::{FlowTable, Hint, Written};
use chc_api::{Clock, FlowKey, ObjectId};
use std::collections::BTreeMap;

/// The versions of one record above the cut, oldest first; `None` is a removal.
type Versions = Vec<(Clock, Option<Record>)>;

/// Tables of an object in a slot, a power of two.
const PARTS: usize = 16;
/// Seed of the hash by which records are found.
const SEED: u64 = 0x2127_599b_f432_5c37;

/// All per-flow records of one slot.
#[derive(Default)]
pub struct SlotVersions {
    /// The newest versions below the cut; an object's tables are there once it has one.
    bases: BTreeMap<ObjectId, Vec<FlowTable>>,
    newer: BTreeMap<(ObjectId, FlowKey), Versions>,
}

/// A record of a connection, with the clock of its last write.
type Loaded = (ObjectId, FlowKey, Clock, Record);

impl SlotVersions {
    /// Stores a version. A version that is there already is replaced by its equal.
    pub fn store(&mut self, object: ObjectId, key: FlowKey, written: Clock, record: Option<Record>) {
        let versions = self.newer.entry((object, key)).or_default();
        match versions.binary_search_by_key(&written, |(clock, _)| *clock) {
            Ok(at) => versions[at].1 = record,
            Err(at) => versions.insert(at, (written, record)),
        }
    }

    /// A record as of its write at this clock; `None` if there is no such version, or it is a removal.
    #[must_use]
    pub fn written_at(&self, object: ObjectId, key: &FlowKey, clock: Clock) -> Option<Record> {
        if let Some(versions) = self.newer.get(&(object, *key))
            && let Ok(at) = versions.binary_search_by_key(&clock, |(clock, _)| *clock)
        {
            return versions[at].1;
        }
        let (hash, part) = place(key);
        let table = &self.bases.get(&object)?[part];
        let row = table.find(key, hash, Hint::NONE)?;
        (table.written(row).clock == clock).then(|| table.image(row))
    }

    /// The records as of boundary `below`, in key order.
    #[must_use]
    pub fn load(&self, below: Clock) -> Vec<Loaded> {
        let newest = |versions: &Versions| versions.iter().rev().find(|(clock, _)| *clock < below).copied();
        let mut all: Vec<Loaded> = Vec::new();
        for (object, table) in
            self.bases.iter().flat_map(|(object, tables)| tables.iter().map(|t| (*object, t)))
        {
            all.extend(table.rows().filter_map(|row| {
                let (key, written) = (table.key(row), table.written(row).clock);
                let newer =
                    self.newer.get(&(object, key)).and_then(newest).filter(|(clock, _)| *clock > written);
                match newer {
                    Some((clock, record)) => record.map(|record| (object, key, clock, record)),
                    None => (written < below).then(|| (object, key, written, table.image(row))),
                }
            }));
        }
        all.extend(self.newer.iter().filter_map(|((object, key), versions)| {
            let (clock, record) = newest(versions).filter(|_| !self.has_base(*object, key))?;
            record.map(|record| (*object, *key, clock, record))
        }));
        all.sort_unstable_by_key(|(object, key, ..)| (*object, *key));
        all
    }

    /// Forgets what lies below the newest version below `cut`.
    pub fn trim(&mut self, cut: Clock) {
        if self.newer.is_empty() {
            return;
        }
        let mut newer = std::mem::take(&mut self.newer);
        newer.retain(|(object, key), versions| {
            if let Some(at) = versions.iter().rposition(|(clock, _)| *clock < cut) {
                let (written, record) = versions[at];
                self.set_base(*object, key, written, record.as_ref());
                versions.drain(..=at);
            }
            !versions.is_empty()
        });
        self.newer = newer;
    }

    fn set_base(&mut self, object: ObjectId, key: &FlowKey, written: Clock, record: Option<&Record>) {
        let (hash, part) = place(key);
        let Some(record) = record else {
            let table = self.bases.get_mut(&object).map(|tables| &mut tables[part]);
            if let Some(table) = table
                && let Some(row) = table.find(key, hash, Hint::NONE)
                && table.written(row).clock < written
            {
                table.remove(row, hash);
            }
            return;
        };
        let tables = self.bases.entry(object).or_insert_with(|| {
            // All records of an object are of one length; what is value and what timers matters to nobody here.
            let shape = RecordShape { value_len: 8 * record.words().len(), timers: 0 };
            (0..PARTS).map(|_| FlowTable::new(shape)).collect()
        });
        let table = &mut tables[part];
        let row = match table.find(key, hash, Hint::NONE) {
            Some(row) if table.written(row).clock >= written => return,
            Some(row) => row,
            None => table.insert(key, hash),
        };
        table.record_mut(row).copy_from_slice(record.words());
        table.set_written(row, Written { clock: written, dirty: false, removed: false });
    }

    fn has_base(&self, object: ObjectId, key: &FlowKey) -> bool {
        let (hash, part) = place(key);
        self.bases.get(&object).is_some_and(|tables| tables[part].find(key, hash, Hint::NONE).is_some())
    }

    /// Whether no record is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.newer.is_empty() && self.bases.values().flatten().all(FlowTable::is_empty)
    }
}

/// The hash of a connection, and which of an object's tables it is in.
fn place(key: &FlowKey) -> (u64, usize) {
    let hash = key.hash(SEED);
    // The low bits find it within the table.
    (hash, (hash >> 60) as usize & (PARTS - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(n: u64) -> Option<Record> {
        Some(Record::new(&[n]))
    }

    fn loaded(slot: &SlotVersions, below: u64) -> Vec<u64> {
        slot.load(Clock(below)).iter().map(|(_, _, _, r)| r.words()[0]).collect()
    }

    #[test]
    fn a_load_sees_the_newest_version_below_its_boundary() {
        let mut slot = SlotVersions::default();
        for clock in [3, 9, 5] {
            slot.store(ObjectId(0), FlowKey::NONE, Clock(clock), record(clock));
        }
        assert_eq!(loaded(&slot, 3), Vec::<u64>::new());
        assert_eq!(loaded(&slot, 4), [3]);
        assert_eq!(loaded(&slot, 9), [5]);
        assert_eq!(loaded(&slot, 100), [9]);
    }

    proptest! {
        #[test]
        fn versions_are_a_map_from_clocks_to_records(
            steps in proptest::collection::vec((0u16..6, 0u64..30, any::<Option<u64>>(), any::<bool>()), 1..200),
        ) {
            let mut slot = SlotVersions::default();
            let mut model: BTreeMap<FlowKey, BTreeMap<u64, Option<u64>>> = BTreeMap::new();
            let mut cut = 0;
            for (nth, (port, above, value, trims)) in steps.into_iter().enumerate() {
                let key = FlowKey::v4(6, 1, port, 2, 80).0;
                // What is written lies above the cut: it waits for the version. A replay stores the same again.
                let written = cut + above;
                let known = model.get(&key).and_then(|versions| versions.get(&written)).copied();
                let value = known.unwrap_or(value);
                slot.store(ObjectId(0), key, Clock(written), value.and_then(record));
                model.entry(key).or_default().insert(written, value);
                if trims {
                    cut += nth as u64 % 5;
                    slot.trim(Clock(cut));
                }
                for below in cut..cut + 24 {
                    let newest = |versions: &BTreeMap<u64, Option<u64>>| {
                        versions.range(..below).next_back().and_then(|(_, value)| *value)
                    };
                    let want: Vec<u64> = model.values().filter_map(newest).collect();
                    prop_assert_eq!(loaded(&slot, below), want);
                }
            }
        }
    }

    #[test]
    fn trimming_keeps_what_a_load_at_the_cut_needs() {
        let mut slot = SlotVersions::default();
        for clock in [3, 5, 9] {
            slot.store(ObjectId(0), FlowKey::NONE, Clock(clock), record(clock));
        }
        slot.trim(Clock(8));
        assert_eq!(loaded(&slot, 8), [5]);
        assert_eq!(loaded(&slot, 4), Vec::<u64>::new(), "older versions are gone");
        slot.store(ObjectId(0), FlowKey::NONE, Clock(12), None);
        slot.trim(Clock(12));
        assert_eq!(loaded(&slot, 12), [9], "a removal at the cut or later is not one below it");
        slot.trim(Clock(13));
        assert!(slot.is_empty());
    }
}
