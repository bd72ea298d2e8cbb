//! Boundary versions of per-flow records: what a shard keeps of each connection.
//!
//! A version is keyed by the clock of the last write it includes. A load at boundary `b` takes the
//! newest version written below `b`; trimming keeps the newest below the cut. So a record that does
//! not change costs one version, whatever the number of epochs.

use crate::record::Record;
use chc_api::{Clock, FlowKey, ObjectId};
use std::collections::BTreeMap;

/// The versions of one record, oldest first; `None` is a removal.
type Versions = Vec<(Clock, Option<Record>)>;

/// All per-flow records of one slot.
#[derive(Default)]
pub struct SlotVersions {
    records: BTreeMap<(ObjectId, FlowKey), Versions>,
    /// Records with more than one version or a removal: what trimming has to look at.
    touched: Vec<(ObjectId, FlowKey)>,
}

impl SlotVersions {
    /// Stores a version. A version that is there already is replaced by its equal.
    pub fn store(&mut self, object: ObjectId, key: FlowKey, written: Clock, record: Option<Record>) {
        let versions = self.records.entry((object, key)).or_default();
        match versions.binary_search_by_key(&written, |(clock, _)| *clock) {
            Ok(at) => versions[at].1 = record,
            Err(at) => versions.insert(at, (written, record)),
        }
        if versions.len() > 1 || record.is_none() {
            self.touched.push((object, key));
        }
    }

    /// The records as of boundary `below`, in key order.
    pub fn load(&self, below: Clock) -> impl Iterator<Item = (ObjectId, FlowKey, Clock, Record)> + '_ {
        self.records.iter().filter_map(move |((object, key), versions)| {
            let (written, record) = versions.iter().rev().find(|(clock, _)| *clock < below)?;
            record.map(|r| (*object, *key, *written, r))
        })
    }

    /// Forgets what lies below the newest version below `cut`.
    pub fn trim(&mut self, cut: Clock) {
        let mut again = Vec::new();
        for id in std::mem::take(&mut self.touched) {
            let Some(versions) = self.records.get_mut(&id) else { continue };
            let newest = versions.iter().rposition(|(clock, _)| *clock < cut);
            if let Some(at) = newest {
                versions.drain(..at);
                if versions[0].1.is_none() {
                    versions.remove(0);
                }
            }
            if versions.is_empty() {
                self.records.remove(&id);
            } else if versions.len() > 1 || versions[0].1.is_none() {
                again.push(id);
            }
        }
        again.sort_unstable();
        again.dedup();
        self.touched = again;
    }

    /// Records known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no record is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: u64) -> Option<Record> {
        Some(Record::new(&[n]))
    }

    fn loaded(slot: &SlotVersions, below: u64) -> Vec<u64> {
        slot.load(Clock(below)).map(|(_, _, _, r)| r.words()[0]).collect()
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
