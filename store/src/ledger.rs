//! The ledger of a vertex: which operations have been issued since the cut, and what they returned.
//!
//! An operation is looked up by its name. What it was is kept as a fingerprint, which tells whether a replay
//! issued the same. Entries lie in a slab and hang in a list of their clock, in which they are found and by which
//! they are forgotten; a clock with many of them, as when thousands of timers are due at once, has its further ones
//! found by hash.
//!
//! Cost: O(1) an operation, a hundred and fifty bytes each; the memory follows the operations between the cut
//! and the newest clock, and the lists take twelve bytes a clock of the window.

use crate::batch::{OpItem, OpName};
use chc_api::identity::hash_words;
use chc_api::{Clock, Generation, InstanceId, ObjectId, Op, OpValue, Position};
use hashbrown::HashTable;
use slab::Slab;

/// Who waits for a result.
pub type Waiter = (InstanceId, Generation);

const NONE: u32 = u32::MAX;
/// Operations of a clock that are found by going through them.
const SHORT_LEN_MAX: u32 = 8;

/// One operation that was issued.
pub struct Logged {
    name: OpName,
    /// The object it is on.
    pub object: ObjectId,
    /// What kind of operation it is.
    pub kind: OpKind,
    fingerprint: u64,
    /// What it returned, once it was applied.
    pub result: Option<OpValue>,
    /// Who waits for that.
    pub waiter: Option<Waiter>,
    /// The next of its clock.
    next: u32,
}

/// The kinds of operations that are told apart when they are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// Takes a member of a pool.
    Acquire,
    /// Gives one back.
    Release,
    /// Anything else.
    Other,
}

impl OpKind {
    fn of(op: &Op) -> Self {
        match op {
            Op::Acquire(_) => OpKind::Acquire,
            Op::Release { .. } => OpKind::Release,
            _ => OpKind::Other,
        }
    }
}

/// A place in a ledger, good until the cut passes it.
#[derive(Clone, Copy, Debug)]
pub struct Entry(u32);

/// What a ledger knows of an operation.
pub enum Known {
    /// It is new, and noted now.
    New(Entry),
    /// It was issued before.
    Before(Entry),
    /// Another one was issued under its name.
    Differs,
}

/// The operations of a vertex since the cut.
pub struct Ledger {
    entries: Slab<Logged>,
    /// By the clock's low bits.
    clocks: Vec<OfClock>,
    /// One bit for each of them: whether it has operations.
    used: Vec<u64>,
    /// Entries that are not in the short list of their clock.
    by_name: HashTable<u32>,
    floor: Clock,
    /// One above the highest clock that was noted.
    end: Clock,
}

/// The operations of one clock.
#[derive(Clone, Copy)]
struct OfClock {
    /// The list in which they are found.
    short: u32,
    short_len: u32,
    /// The list of all others.
    more: u32,
}

const EMPTY: OfClock = OfClock { short: NONE, short_len: 0, more: NONE };

impl Ledger {
    /// A ledger for clocks less than `window` above the cut.
    #[must_use]
    pub fn new(window: u64) -> Self {
        let clocks = window.next_power_of_two().max(64) as usize;
        Self {
            entries: Slab::new(),
            clocks: vec![EMPTY; clocks],
            used: vec![0; clocks / 64],
            by_name: HashTable::new(),
            floor: Clock(0),
            end: Clock(0),
        }
    }

    /// Notes an operation, whose key has this hash, unless it is there.
    #[inline]
    pub fn note(&mut self, item: &OpItem, key_hash: u64) -> Known {
        let fingerprint = fingerprint(item, key_hash);
        if let Some(entry) = self.find(&item.name) {
            let same = self.get(entry).fingerprint == fingerprint;
            return if same { Known::Before(entry) } else { Known::Differs };
        }
        let clock = item.name.position.clock;
        let place = self.place(clock);
        let of_clock = &mut self.clocks[place];
        let is_short = of_clock.short_len < SHORT_LEN_MAX;
        let list = if is_short { &mut of_clock.short } else { &mut of_clock.more };
        let at = self.entries.insert(Logged {
            name: item.name,
            object: item.object,
            kind: OpKind::of(&item.op),
            fingerprint,
            result: None,
            waiter: None,
            next: *list,
        }) as u32;
        *list = at;
        self.used[place / 64] |= 1 << (place % 64);
        self.end = self.end.max(Clock(clock.0 + 1));
        if is_short {
            of_clock.short_len += 1;
        } else {
            let entries = &self.entries;
            let hash = |at: &u32| hash_of(&entries[*at as usize].name);
            self.by_name.insert_unique(hash_of(&item.name), at, hash);
        }
        Known::New(Entry(at))
    }

    /// Finds an operation by name.
    #[inline]
    #[must_use]
    pub fn find(&self, name: &OpName) -> Option<Entry> {
        let of_clock = &self.clocks[self.place(name.position.clock)];
        let mut at = of_clock.short;
        while at != NONE {
            let logged = &self.entries[at as usize];
            if logged.name == *name {
                return Some(Entry(at));
            }
            at = logged.next;
        }
        if of_clock.more == NONE {
            return None;
        }
        self.by_name.find(hash_of(name), |at| self.entries[*at as usize].name == *name).map(|at| Entry(*at))
    }

    /// An operation that was noted.
    #[inline]
    #[must_use]
    pub fn get(&self, entry: Entry) -> &Logged {
        &self.entries[entry.0 as usize]
    }

    /// The same, to be changed.
    #[inline]
    pub fn get_mut(&mut self, entry: Entry) -> &mut Logged {
        &mut self.entries[entry.0 as usize]
    }

    /// What operations of a position on an object that acquire have returned.
    pub fn acquired(&self, position: &Position, object: ObjectId) -> Vec<u64> {
        let of_clock = &self.clocks[self.place(position.clock)];
        let mut acquired = Vec::new();
        for list in [of_clock.short, of_clock.more] {
            let mut at = list;
            while at != NONE {
                let logged = &self.entries[at as usize];
                at = logged.next;
                let is_it = logged.name.position == *position && logged.object == object;
                if is_it
                    && logged.kind == OpKind::Acquire
                    && let Some(OpValue::Int(member)) = logged.result
                {
                    acquired.push(member as u64);
                }
            }
        }
        acquired
    }

    /// Forgets everything below the cut.
    pub fn trim(&mut self, cut: Clock) {
        // Nothing lies above the end, however far the cut has jumped.
        let end = cut.0.min(self.end.0);
        let mut clock = self.floor.0;
        while clock < end {
            // The rest of a word at once: most clocks have no operation here.
            let place = self.place(Clock(clock));
            let len = (64 - clock % 64).min(end - clock);
            let word = &mut self.used[place / 64];
            let trimmed = *word & (u64::MAX >> (64 - len)) << (place % 64);
            *word ^= trimmed;
            clock += len;
            self.trim_word(place - place % 64, trimmed);
        }
        self.floor = self.floor.max(cut);
    }

    /// Forgets the operations of clocks: the first one's place, and a bit for each.
    fn trim_word(&mut self, first: usize, mut clocks: u64) {
        while clocks != 0 {
            let place = first + clocks.trailing_zeros() as usize;
            clocks &= clocks - 1;
            let OfClock { short, more, .. } = std::mem::replace(&mut self.clocks[place], EMPTY);
            let mut at = short;
            while at != NONE {
                at = self.entries.remove(at as usize).next;
            }
            let mut at = more;
            while at != NONE {
                let logged = self.entries.remove(at as usize);
                if let Ok(found) = self.by_name.find_entry(hash_of(&logged.name), |other| *other == at) {
                    found.remove();
                }
                at = logged.next;
            }
        }
    }

    /// How many operations there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The lowest and the highest clock of an operation.
    #[must_use]
    pub fn span(&self) -> Option<(Clock, Clock)> {
        let clocks = || self.entries.iter().map(|(_, logged)| logged.name.position.clock);
        Some((clocks().min()?, clocks().max()?))
    }

    fn place(&self, clock: Clock) -> usize {
        clock.0 as usize & (self.clocks.len() - 1)
    }
}

#[inline]
fn hash_of(name: &OpName) -> u64 {
    let position = &name.position;
    let path = u64::from(position.path.0) << 16 | u64::from(name.index);
    let [setter, origin] = position.origin.map_or([0; 2], |origin| {
        let timer = u64::from(origin.object.0) << 8 | u64::from(origin.index);
        [origin.setter.0, u64::from(origin.setter_path.0) << 32 | timer]
    });
    // Nobody outside chooses a name: no secret is needed.
    hash_words(&[position.clock.0, path, setter, origin, 0], 0)
}

/// What an operation is, in short: its object, key and argument.
#[inline]
fn fingerprint(item: &OpItem, key_hash: u64) -> u64 {
    let number = |kind: u64, a: u64, b: u64| [kind, a, b];
    let [kind, a, b] = match &item.op {
        Op::Increment(by) => number(1, *by as u64, 0),
        Op::Push(value) => number(2, *value, 0),
        Op::Pop => number(3, 0, 0),
        Op::CompareAndUpdate { expect, new } => number(4, *expect as u64, *new as u64),
        Op::Get => number(5, 0, 0),
        Op::Set(value) => number(6, value.fingerprint(), 0),
        Op::Acquire(near) => number(7, u64::from(near.is_some()), near.unwrap_or(0)),
        Op::Release { member, owner } => number(8, *member, *owner),
        Op::Disown => number(10, 0, 0),
        Op::Custom(which, argument) => number(9, u64::from(*which), argument.fingerprint()),
    };
    hash_words(&[kind << 16 | u64::from(item.object.0), a, b, key_hash, 0], 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Answer;
    use crate::object_table;
    use chc_api::{ObjectKey, Path};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn item(clock: u64, index: u16, op: Op) -> OpItem {
        let name = OpName { position: Position::packet(Clock(clock), Path::FIRST), index };
        OpItem {
            name,
            object: ObjectId(0),
            key: ObjectKey::GLOBAL,
            op,
            now: chc_api::Time(0),
            answer: Answer::Result,
        }
    }

    fn note(ledger: &mut Ledger, item: &OpItem) -> Known {
        ledger.note(item, object_table::hash_of(&item.key))
    }

    #[test]
    fn another_operation_under_a_known_name_is_found_out() {
        use chc_api::state::ValueBytes;
        let value = |bytes: &[u8]| Op::Set(ValueBytes::new(bytes));
        let ops = [
            Op::Get,
            Op::Pop,
            Op::Push(1),
            Op::Push(2),
            Op::Increment(1),
            Op::Increment(-1),
            Op::CompareAndUpdate { expect: 1, new: 2 },
            Op::CompareAndUpdate { expect: 2, new: 1 },
            value(&[0; 8]),
            value(&[0; 9]),
            value(&[1; 40]),
            Op::Custom(0, ValueBytes::new(&[1])),
            Op::Custom(1, ValueBytes::new(&[1])),
            Op::Release { member: 1, owner: 2 },
            Op::Acquire(None),
            Op::Acquire(Some(0)),
        ];
        for (at, first) in ops.iter().enumerate() {
            for (other_at, other) in ops.iter().enumerate() {
                let mut ledger = Ledger::new(8);
                assert!(matches!(note(&mut ledger, &item(1, 0, *first)), Known::New(_)));
                let again = note(&mut ledger, &item(1, 0, *other));
                assert_eq!(matches!(again, Known::Before(_)), at == other_at, "{first:?} then {other:?}");
            }
        }
        let mut ledger = Ledger::new(8);
        note(&mut ledger, &item(1, 0, Op::Get));
        let elsewhere = OpItem { key: ObjectKey::number(1), ..item(1, 0, Op::Get) };
        assert!(matches!(note(&mut ledger, &elsewhere), Known::Differs));
    }

    proptest! {
        #[test]
        fn a_ledger_is_a_map_whose_lower_end_is_cut_off(
            steps in proptest::collection::vec((0u64..64, 0u16..40, 0u64..3), 1..400),
        ) {
            let mut ledger = Ledger::new(64);
            let mut model: BTreeMap<(u64, u16), i64> = BTreeMap::new();
            let mut cut = 0;
            for (nth, (above, index, forward)) in steps.into_iter().enumerate() {
                let clock = cut + above;
                let known = note(&mut ledger, &item(clock, index, Op::Get));
                let (entry, before) = match known {
                    Known::New(entry) => (entry, None),
                    Known::Before(entry) => (entry, ledger.get(entry).result),
                    Known::Differs => unreachable!("the operation is always the same"),
                };
                prop_assert_eq!(before, model.get(&(clock, index)).map(|n| OpValue::Int(*n)));
                ledger.get_mut(entry).result = Some(OpValue::Int(nth as i64));
                model.insert((clock, index), nth as i64);
                // Sometimes it jumps over more than there is.
                cut += if forward == 2 { 100 * u64::from(nth % 50 == 0) } else { forward };
                ledger.trim(Clock(cut));
                model = model.split_off(&(cut, 0));
                prop_assert_eq!(ledger.len(), model.len());
                let lowest = model.first_key_value().map(|((clock, _), _)| Clock(*clock));
                prop_assert_eq!(ledger.span().map(|(low, _)| low), lowest);
            }
        }
    }
}
