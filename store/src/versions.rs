//! Boundary versions of per-flow records: what a shard keeps of each connection.
//!
//! A version is keyed by the clock of the last write it includes. A load at boundary `b` takes the
//! newest version written below `b`; trimming keeps the newest below the cut. So a record that does
//! not change costs one version, whatever the number of epochs.
//!
//! The newest version below the cut, of which there is one a record, lies in a [`FlowTable`]: one or two cache
//! lines a record and sixteen bytes of index. The records of a slot lie close together while they are few; later its tables
//! are split by hash, so that none grows by much at once. Newer versions, of which there are as many as the window has
//! writes, wait in order of their clocks until the cut passes them: most come in that order and go in it.

use crate::record::{Record, RecordShape};
use crate::table::{FlowTable, Hint, Written};
use chc_api::{Clock, FlowKey, ObjectId};
use std::collections::BTreeMap;

/// A version that lay above the cut when it came; without a record it is a removal.
struct Version {
    written: Clock,
    object: ObjectId,
    key: FlowKey,
    record: Option<Record>,
}

/// Tables of an object in a slot that has many records, a power of two.
const PARTS: usize = 16;
/// Records of an object in a slot that are one table's: few enough to be moved at once.
const WHOLE_MAX: usize = 1024;
/// Room for newer versions that a slot keeps while it has none.
const ROOM_KEPT: usize = 16;
/// Seed of the hash by which records are found.
const SEED: u64 = 0x2127_599b_f432_5c37;

/// All per-flow records of one slot.
#[derive(Default)]
pub struct SlotVersions {
    bases: Bases,
    /// In order of their clocks.
    newer: Vec<Version>,
}

/// The newest versions below the cut; an object's tables are there once it has one.
#[derive(Default)]
struct Bases(BTreeMap<ObjectId, Tables>);

/// The records of an object in a slot: one table, or [`PARTS`] by hash.
struct Tables(Vec<FlowTable>);

impl Tables {
    fn new(shape: RecordShape) -> Self {
        Self(vec![FlowTable::new(shape)])
    }

    /// The table a connection's record is in, or would be.
    fn of(&self, hash: u64) -> &FlowTable {
        &self.0[part(hash, self.0.len())]
    }

    fn of_mut(&mut self, hash: u64) -> &mut FlowTable {
        let at = part(hash, self.0.len());
        &mut self.0[at]
    }

    /// Makes room for a record of this shape.
    fn prepare(&mut self, shape: RecordShape) {
        let [whole] = self.0.as_slice() else { return };
        if whole.len() < WHOLE_MAX {
            return;
        }
        let mut parts: Vec<FlowTable> = (0..PARTS).map(|_| FlowTable::new(shape)).collect();
        for row in whole.rows() {
            let key = whole.key(row);
            let hash = key.hash(SEED);
            let table = &mut parts[part(hash, PARTS)];
            let new = table.insert(&key, hash);
            table.record_mut(new).copy_from_slice(whole.record(row));
            table.set_written(new, whole.written(row));
        }
        self.0 = parts;
    }
}

/// Which of so many tables a connection is in: the low bits of its hash find it within the table.
fn part(hash: u64, tables: usize) -> usize {
    (hash >> 60) as usize & (tables - 1)
}

/// A record of a connection, with the clock of its last write.
type Loaded = (ObjectId, FlowKey, Clock, Record);

impl SlotVersions {
    /// Stores a version. A version that is there already is replaced by its equal. Costs as much as there are versions
    /// of later clocks.
    pub fn store(&mut self, object: ObjectId, key: FlowKey, written: Clock, record: Option<Record>) {
        let version = Version { written, object, key, record };
        match self.newer_at(object, &key, written) {
            Ok(at) => self.newer[at] = version,
            Err(at) => self.newer.insert(at, version),
        }
    }

    /// Where the newer version of this clock is, or where it would be.
    fn newer_at(&self, object: ObjectId, key: &FlowKey, written: Clock) -> Result<usize, usize> {
        let end = self.newer.partition_point(|version| version.written <= written);
        let same = self.newer[..end].iter().rev().take_while(|version| version.written == written);
        let back = same.enumerate().find(|(_, version)| version.object == object && version.key == *key);
        back.map(|(back, _)| end - 1 - back).ok_or(end)
    }

    /// A record as of its write at this clock; `None` if there is no such version, or it is a removal.
    #[must_use]
    pub fn written_at(&self, object: ObjectId, key: &FlowKey, clock: Clock) -> Option<Record> {
        if let Ok(at) = self.newer_at(object, key, clock) {
            return self.newer[at].record.clone();
        }
        let hash = key.hash(SEED);
        let table = self.bases.0.get(&object)?.of(hash);
        let row = table.find(key, hash, Hint::NONE)?;
        (table.written(row).clock == clock).then(|| table.image(row))
    }

    /// The records as of boundary `below`, in key order.
    #[must_use]
    pub fn load(&self, below: Clock) -> Vec<Loaded> {
        let end = self.newer.partition_point(|version| version.written < below);
        let newer = self.newer[..end].iter().map(|version| ((version.object, version.key), version));
        // Of each connection the last one stays.
        let mut newest: BTreeMap<_, _> = newer.collect();
        let mut all: Vec<Loaded> = Vec::new();
        for (object, table) in self.bases.tables() {
            all.extend(table.rows().filter_map(|row| {
                let (key, written) = (table.key(row), table.written(row).clock);
                match newest.remove(&(object, key)).filter(|version| version.written > written) {
                    Some(version) => version.loaded(),
                    None => (written < below).then(|| (object, key, written, table.image(row))),
                }
            }));
        }
        all.extend(newest.into_values().filter_map(Version::loaded));
        all.sort_unstable_by_key(|(object, key, ..)| (*object, *key));
        all
    }

    /// Whether the cut has passed every version there is.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.newer.is_empty()
    }

    /// Forgets what lies below the newest version below `cut`.
    pub fn trim(&mut self, cut: Clock) {
        let end = self.newer.partition_point(|version| version.written < cut);
        for version in self.newer.drain(..end) {
            self.bases.set(&version);
        }
        if self.newer.is_empty() {
            self.newer.shrink_to(ROOM_KEPT);
        }
    }
}

impl Version {
    fn loaded(&self) -> Option<Loaded> {
        self.record.clone().map(|record| (self.object, self.key, self.written, record))
    }
}

impl Bases {
    fn tables(&self) -> impl Iterator<Item = (ObjectId, &FlowTable)> {
        self.0.iter().flat_map(|(object, tables)| tables.0.iter().map(|table| (*object, table)))
    }

    /// Takes the place of an older version.
    fn set(&mut self, version: &Version) {
        let Version { written, object, key, record } = version;
        let hash = key.hash(SEED);
        let Some(record) = record else {
            let table = self.0.get_mut(object).map(|tables| tables.of_mut(hash));
            if let Some(table) = table
                && let Some(row) = table.find(key, hash, Hint::NONE)
                && table.written(row).clock < *written
            {
                table.remove(row, hash);
            }
            return;
        };
        // All records of an object are of one length; what is value and what timers matters to nobody here.
        let shape = RecordShape { value_len: 8 * record.words().len(), timers: 0 };
        let tables = self.0.entry(*object).or_insert_with(|| Tables::new(shape));
        tables.prepare(shape);
        let table = tables.of_mut(hash);
        let row = match table.find(key, hash, Hint::NONE) {
            Some(row) if table.written(row).clock >= *written => return,
            Some(row) => row,
            None => table.insert(key, hash),
        };
        table.record_mut(row).copy_from_slice(record.words());
        table.set_written(row, Written { clock: *written, dirty: false, removed: false });
    }
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
    fn a_slot_that_gets_many_records_has_them_all_when_they_are_split_over_tables() {
        let mut slot = SlotVersions::default();
        let key = |n: u16| FlowKey::v4(6, 1, n, 2, 80).0;
        let many = WHOLE_MAX as u16 + 500;
        for n in 0..many {
            slot.store(ObjectId(0), key(n), Clock(u64::from(n)), record(u64::from(n)));
            if n % 100 == 0 {
                slot.trim(Clock(u64::from(n)));
            }
        }
        slot.trim(Clock(u64::from(many)));
        assert_eq!(slot.bases.0[&ObjectId(0)].0.len(), PARTS);
        let mut all = loaded(&slot, u64::from(many));
        all.sort_unstable();
        assert!(all.iter().copied().eq(0..u64::from(many)));
        for n in 0..many {
            let written = slot.written_at(ObjectId(0), &key(n), Clock(u64::from(n)));
            assert_eq!(written.map(|record| record.words().to_vec()), Some(vec![u64::from(n)]));
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
        assert_eq!(loaded(&slot, 100), Vec::<u64>::new());
    }
}
