//! The table of per-flow records an instance caches.
//!
//! Rows are stable (a record keeps its row until it is removed) and lie on whole cache lines: key,
//! last-write word, value, timers. An open-addressed index of (tag, row) pairs finds them. Looking up
//! a burst first reads all index entries and then touches all rows, so the cache misses of a burst
//! overlap instead of adding up; with one look-up after the other, a table of 100,000 connections
//! costs several times as much a packet.
//!
//! Cost: 16 bytes of index a record (at most 3/4 full, doubling) and one or two lines of row, 64 bytes
//! each; look-up, insertion and removal are O(1).

use crate::record::{Record, RecordShape};
use chc_api::{Clock, FlowKey};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// A row of a [`FlowTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(u32);

/// The result of a burst look-up for one packet: a row to try first.
#[derive(Clone, Copy, Debug)]
pub struct Hint(u32);

impl Hint {
    /// Nothing is known: the look-up starts at the index.
    pub const NONE: Hint = Hint(u32::MAX);
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
struct Line([u64; 8]);

const KEY_WORDS: usize = 5;
const DIRTY: u64 = 1 << 63;
const REMOVED: u64 = 1 << 62;
const LISTED: u64 = 1 << 61;
const CLOCK_MASK: u64 = LISTED - 1;

/// Per-flow records of one object; IPv4 connections in short rows, all others in long ones.
#[derive(Clone)]
pub struct FlowTable {
    short: Half,
    long: Half,
}

const LONG: u32 = 1 << 31;

#[derive(Clone)]
struct Half {
    key_words: usize,
    words: usize,
    lines_per_row: usize,
    rows: Vec<Line>,
    index: Vec<u64>,
    free: Vec<u32>,
    len: usize,
}

impl Half {
    fn new(key_words: usize, shape: RecordShape) -> Self {
        let words = shape.words();
        let lines_per_row = (key_words + 1 + words).div_ceil(8);
        Self {
            key_words,
            words,
            lines_per_row,
            rows: Vec::new(),
            index: vec![0; 64],
            free: Vec::new(),
            len: 0,
        }
    }

    #[inline]
    fn row(&self, row: u32) -> &[u64] {
        let at = row as usize * self.lines_per_row;
        words(&self.rows[at..at + self.lines_per_row])
    }

    fn row_mut(&mut self, row: u32) -> &mut [u64] {
        let at = row as usize * self.lines_per_row;
        words_mut(&mut self.rows[at..at + self.lines_per_row])
    }

    #[inline]
    fn key_is(&self, row: u32, key: &FlowKey) -> bool {
        // Word by word: a comparison of slices is a call.
        let cells = self.row(row);
        cells[0] == key.words[0]
            && cells[1] == key.words[1]
            && (self.key_words == 2 || cells[2..KEY_WORDS] == key.words[2..KEY_WORDS])
    }

    fn mask(&self) -> usize {
        self.index.len() - 1
    }

    /// The first row whose tag matches; not verified.
    fn candidate(&self, hash: u64) -> u32 {
        let (tag, mask) = (hash as u32, self.mask());
        let mut at = tag as usize & mask;
        loop {
            let entry = self.index[at];
            if entry == 0 {
                return u32::MAX;
            }
            if (entry >> 32) as u32 == tag {
                return entry as u32 - 1;
            }
            at = (at + 1) & mask;
        }
    }

    fn find(&self, key: &FlowKey, hash: u64) -> Option<(u32, usize)> {
        let (tag, mask) = (hash as u32, self.mask());
        let mut at = tag as usize & mask;
        loop {
            let entry = self.index[at];
            if entry == 0 {
                return None;
            }
            if (entry >> 32) as u32 == tag && self.key_is(entry as u32 - 1, key) {
                return Some((entry as u32 - 1, at));
            }
            at = (at + 1) & mask;
        }
    }

    fn insert(&mut self, key: &FlowKey, hash: u64) -> u32 {
        if (self.len + 1) * 4 > self.index.len() * 3 {
            self.grow();
        }
        let row = self.free.pop().unwrap_or_else(|| {
            let row = self.rows.len() / self.lines_per_row;
            self.rows.resize(self.rows.len() + self.lines_per_row, Line([0; 8]));
            row as u32
        });
        let key_words = self.key_words;
        let cells = self.row_mut(row);
        cells.zero();
        cells[..key_words].copy_from_slice(&key.words[..key_words]);
        place(&mut self.index, hash as u32, row);
        self.len += 1;
        row
    }

    fn grow(&mut self) {
        let mut index = vec![0; self.index.len() * 2];
        for entry in self.index.iter().filter(|e| **e != 0) {
            place(&mut index, (entry >> 32) as u32, *entry as u32 - 1);
        }
        self.index = index;
    }

    fn remove(&mut self, row: u32, mut hole: usize) {
        // Backward shift: no tombstones, so probe sequences stay as short as the load allows.
        let mask = self.mask();
        self.index[hole] = 0;
        let mut at = (hole + 1) & mask;
        while self.index[at] != 0 {
            let home = (self.index[at] >> 32) as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.index[hole] = self.index[at];
                self.index[at] = 0;
                hole = at;
            }
            at = (at + 1) & mask;
        }
        self.free.push(row);
        self.len -= 1;
    }
}

fn place(index: &mut [u64], tag: u32, row: u32) {
    let mask = index.len() - 1;
    let mut at = tag as usize & mask;
    while index[at] != 0 {
        at = (at + 1) & mask;
    }
    index[at] = u64::from(tag) << 32 | u64::from(row + 1);
}

fn words(lines: &[Line]) -> &[u64] {
    <[u64]>::ref_from_bytes(lines.as_bytes()).expect("lines are whole words")
}

fn words_mut(lines: &mut [Line]) -> &mut [u64] {
    <[u64]>::mut_from_bytes(lines.as_mut_bytes()).expect("lines are whole words")
}

/// A record's last write and what the store knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Clock of the last write.
    pub clock: Clock,
    /// Not flushed since.
    pub dirty: bool,
    /// Removed; the row waits for its flush.
    pub removed: bool,
}

impl FlowTable {
    /// An empty table for records of the given shape.
    #[must_use]
    pub fn new(shape: RecordShape) -> Self {
        Self { short: Half::new(2, shape), long: Half::new(KEY_WORDS, shape) }
    }

    fn half(&self, key: &FlowKey) -> (&Half, u32) {
        if key.v4_words().is_some() { (&self.short, 0) } else { (&self.long, LONG) }
    }

    fn part(&self, row: Row) -> (&Half, u32) {
        if row.0 & LONG == 0 { (&self.short, row.0) } else { (&self.long, row.0 & !LONG) }
    }

    fn part_mut(&mut self, row: Row) -> (&mut Half, u32) {
        if row.0 & LONG == 0 { (&mut self.short, row.0) } else { (&mut self.long, row.0 & !LONG) }
    }

    /// Starts a look-up: for the hash of an IPv4 connection a row to try first. A row that does not fit is found out
    /// when it is used.
    #[inline]
    #[must_use]
    pub fn hint(&self, hash: u64) -> Hint {
        Hint(self.short.candidate(hash))
    }

    /// Reads a row that is to be tried, so that it is in the cache when it is.
    #[inline]
    #[must_use]
    pub fn touch(&self, hint: Hint) -> u64 {
        if hint.0 == u32::MAX { 0 } else { self.short.row(hint.0)[0] }
    }

    /// Finds a connection's row, removed or not.
    #[must_use]
    #[inline]
    pub fn find(&self, key: &FlowKey, hash: u64, hint: Hint) -> Option<Row> {
        let (half, bit) = self.half(key);
        if bit == 0 && hint.0 != u32::MAX && half.key_is(hint.0, key) {
            return Some(Row(hint.0));
        }
        half.find(key, hash).map(|(row, _)| Row(row | bit))
    }

    /// Finds a connection's record, unless it was removed.
    #[inline(always)]
    pub fn look(&self, key: &FlowKey, hash: u64, hint: Hint) -> Option<&[u64]> {
        let (half, bit) = self.half(key);
        if bit == 0 && hint.0 != u32::MAX {
            let cells = half.row(hint.0);
            if cells[0] == key.words[0] && cells[1] == key.words[1] {
                return (cells[2] & REMOVED == 0).then(|| &cells[3..3 + half.words]);
            }
        }
        let (row, _) = half.find(key, hash)?;
        let cells = half.row(row);
        let from = half.key_words + 1;
        (cells[from - 1] & REMOVED == 0).then(|| &cells[from..from + half.words])
    }

    /// Adds a row, all zero. The connection must not have one.
    pub fn insert(&mut self, key: &FlowKey, hash: u64) -> Row {
        let long = key.v4_words().is_none();
        let half = if long { &mut self.long } else { &mut self.short };
        Row(half.insert(key, hash) | if long { LONG } else { 0 })
    }

    /// Frees a row.
    pub fn remove(&mut self, row: Row, hash: u64) {
        let key = self.key(row);
        let (half, at) = self.part_mut(row);
        if let Some((_, hole)) = half.find(&key, hash) {
            half.remove(at, hole);
            // A freed row must not look like the connection to a stale hint.
            half.row_mut(at).zero();
        }
    }

    /// The connection of a row.
    #[must_use]
    pub fn key(&self, row: Row) -> FlowKey {
        let (half, at) = self.part(row);
        let mut words = [0; KEY_WORDS];
        words[..half.key_words].copy_from_slice(&half.row(at)[..half.key_words]);
        FlowKey { words }
    }

    /// The record in a row.
    #[must_use]
    pub fn record(&self, row: Row) -> &[u64] {
        let (half, at) = self.part(row);
        &half.row(at)[half.key_words + 1..half.key_words + 1 + half.words]
    }

    /// The record in a row, to be changed.
    pub fn record_mut(&mut self, row: Row) -> &mut [u64] {
        let (half, at) = self.part_mut(row);
        let (from, words) = (half.key_words + 1, half.words);
        &mut half.row_mut(at)[from..from + words]
    }

    /// A copy of the record in a row.
    #[must_use]
    pub fn image(&self, row: Row) -> Record {
        Record::new(self.record(row))
    }

    /// When the row was last written and whether the store knows.
    #[must_use]
    pub fn written(&self, row: Row) -> Written {
        let (half, at) = self.part(row);
        let word = half.row(at)[half.key_words];
        Written { clock: Clock(word & CLOCK_MASK), dirty: word & DIRTY != 0, removed: word & REMOVED != 0 }
    }

    /// Notes a write (or, with a clean value, that the store has it).
    pub fn set_written(&mut self, row: Row, written: Written) {
        let (half, at) = self.part_mut(row);
        let flag = |on: bool, bit: u64| if on { bit } else { 0 };
        let at_word = half.key_words;
        let listed = half.row(at)[at_word] & LISTED;
        half.row_mut(at)[at_word] = written.clock.0 & CLOCK_MASK
            | flag(written.dirty, DIRTY)
            | flag(written.removed, REMOVED)
            | listed;
    }

    /// Marks a row as being on the caller's list of rows to flush; true if it was not yet.
    pub fn enlist(&mut self, row: Row) -> bool {
        let (half, at) = self.part_mut(row);
        let at_word = half.key_words;
        let word = &mut half.row_mut(at)[at_word];
        let fresh = *word & LISTED == 0;
        *word |= LISTED;
        fresh
    }

    /// Takes a row off that list.
    pub fn delist(&mut self, row: Row) {
        let (half, at) = self.part_mut(row);
        let at_word = half.key_words;
        half.row_mut(at)[at_word] &= !LISTED;
    }

    /// Rows in use, removed ones that wait for their flush included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.short.len + self.long.len
    }

    /// Whether no row is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All rows in use, in no particular order.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        let rows = |half: &Half, bit: u32| -> Vec<Row> {
            half.index.iter().filter(|e| **e != 0).map(|e| Row((*e as u32 - 1) | bit)).collect()
        };
        rows(&self.short, 0).into_iter().chain(rows(&self.long, LONG))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chc_api::identity::Endpoint;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    fn key(n: u16, v6: bool) -> FlowKey {
        let host = |x: u16| -> IpAddr {
            if v6 {
                Ipv6Addr::new(1, 2, 3, 4, 5, 6, 7, x).into()
            } else {
                Ipv4Addr::new(10, 0, 0, x as u8).into()
            }
        };
        FlowKey::new(6, Endpoint { addr: host(1), port: n }, Endpoint { addr: host(2), port: 80 }).0
    }

    proptest! {
        #[test]
        fn a_table_is_a_map(ops in proptest::collection::vec((0u16..300, any::<bool>(), 0u8..4, any::<u64>()), 1..800)) {
            let shape = RecordShape { value_len: 8, timers: 1 };
            let mut table = FlowTable::new(shape);
            let mut model: BTreeMap<(u16, bool), u64> = BTreeMap::new();
            // A weak hash on purpose: clusters and equal tags must not confuse rows.
            let hash = |n: u16| u64::from(n % 61);
            for (n, v6, kind, value) in ops {
                let k = key(n, v6);
                let found = table.find(&k, hash(n), table.hint(hash(n)));
                prop_assert_eq!(found.map(|r| table.record(r)[0]), model.get(&(n, v6)).copied());
                match (kind, found) {
                    (0, Some(row)) => { table.remove(row, hash(n)); model.remove(&(n, v6)); }
                    (_, Some(row)) => { table.record_mut(row)[0] = value; model.insert((n, v6), value); }
                    (1.., None) => {
                        let row = table.insert(&k, hash(n));
                        table.record_mut(row)[0] = value;
                        prop_assert_eq!(table.key(row), k);
                        model.insert((n, v6), value);
                    }
                    _ => {}
                }
                prop_assert_eq!(table.len(), model.len());
            }
            let mut all: Vec<u64> = table.rows().map(|r| table.record(r)[0]).collect();
            let mut want: Vec<u64> = model.values().copied().collect();
            all.sort_unstable();
            want.sort_unstable();
            prop_assert_eq!(all, want);
        }
    }
}
