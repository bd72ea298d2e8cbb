//! Cross-flow objects and the operations on them, without any protocol: what a shard holds for a
//! vertex, and what an instance holds itself when state is local.

use crate::list::List;
use crate::object_table::{ObjectTable, Touch, hash_of};
use crate::pool::{Acquired, Pick, PoolState};
use crate::replicas::is_replicated;
use chc_api::state::{ObjectKind, ObjectSpec, Touched, ValueBytes};
use chc_api::{Clock, Consistency, CustomOp, ObjectId, ObjectKey, Op, OpValue, StateError, Time};
use hashbrown::HashMap;
use std::time::Duration;

/// The cross-flow objects of one vertex.
pub struct Objects {
    specs: Vec<ObjectSpec>,
    states: Vec<State>,
    window: u64,
    per_clock: u64,
    draws: Draws,
}

/// Random numbers (SplitMix64) for operations that need one.
#[derive(Default)]
struct Draws {
    state: u64,
    /// The number drawn since [`Objects::take_draw`] was called.
    last: Option<u64>,
}

impl Draws {
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *self.last.insert(z ^ (z >> 31))
    }
}

enum State {
    Counters(Vec<u64>),
    Flow,
    Values(ObjectTable<ValueBytes>),
    /// Values of at most [`SHORT_LEN_MAX`] bytes.
    ShortValues(ObjectTable<ShortValue>),
    Ints(ObjectTable<i64>),
    Lists(ObjectTable<List>),
    Pools(HashMap<u64, PoolState>),
}

impl State {
    /// Forgets a value, and others that come to hand, if they were not used for longer than `idle`.
    fn forget(&mut self, key: &ObjectKey, hash: u64, now: Touched, idle: Duration) {
        fn go<V>(table: &mut ObjectTable<V>, (key, hash): (&ObjectKey, u64), now: Touched, idle: Duration) {
            table.use_now(key, hash, now, idle);
            table.sweep(now, idle);
        }
        match self {
            State::Values(values) => go(values, (key, hash), now, idle),
            State::ShortValues(values) => go(values, (key, hash), now, idle),
            State::Ints(ints) => go(ints, (key, hash), now, idle),
            State::Lists(lists) => go(lists, (key, hash), now, idle),
            State::Counters(_) | State::Flow | State::Pools(_) => {}
        }
    }

    /// Notes that a value was used.
    fn used(&mut self, key: &ObjectKey, hash: u64, now: Touched) {
        match self {
            State::Values(values) => values.used(key, hash, now),
            State::ShortValues(values) => values.used(key, hash, now),
            State::Ints(ints) => ints.used(key, hash, now),
            State::Lists(lists) => lists.used(key, hash, now),
            State::Counters(_) | State::Flow | State::Pools(_) => {}
        }
    }
}

/// A value as it is shown and compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shown {
    /// A counter's or an integer's value.
    Int(i64),
    /// A plain value's bytes.
    Bytes(Vec<u8>),
    /// A list's elements.
    List(Vec<u64>),
    /// A pool's taken members with the clocks of their owners.
    Owned(Vec<(u64, u64)>),
}

/// Whether an object's operations must be applied in position order.
#[must_use]
pub fn is_ordered(spec: &ObjectSpec) -> bool {
    match spec.kind {
        ObjectKind::Counter { .. } | ObjectKind::Flow { .. } => false,
        // Whatever the order, "none left" depends on what came before.
        ObjectKind::Pool { .. } => true,
        _ => spec.consistency != Consistency::Serial,
    }
}

impl Objects {
    /// Objects in their initial state. `window` is how long released pool members rest, in clocks; `per_clock`
    /// how many packets of one clock come to the vertex at most; `seed` where random numbers begin.
    #[must_use]
    pub fn new(specs: Vec<ObjectSpec>, window: u64, per_clock: u64, seed: u64) -> Self {
        let states = specs
            .iter()
            .map(|spec| match spec.kind {
                ObjectKind::Counter { cells } => State::Counters(vec![0; usize::from(cells)]),
                ObjectKind::Flow { .. } => State::Flow,
                ObjectKind::Value { initial, .. } if initial.as_slice().len() <= SHORT_LEN_MAX => {
                    State::ShortValues(ObjectTable::default())
                }
                ObjectKind::Value { .. } => State::Values(ObjectTable::default()),
                ObjectKind::Int { .. } => State::Ints(ObjectTable::default()),
                ObjectKind::List { .. } => State::Lists(ObjectTable::default()),
                ObjectKind::Pool { .. } => State::Pools(HashMap::new()),
            })
            .collect();
        Self { specs, states, window, per_clock, draws: Draws { state: seed, last: None } }
    }

    /// The declarations.
    #[must_use]
    pub fn specs(&self) -> &[ObjectSpec] {
        &self.specs
    }

    /// Adds to a cell of a counter.
    pub fn count(&mut self, object: ObjectId, cell: u16, by: u64) {
        if let Some(State::Counters(cells)) = self.states.get_mut(usize::from(object.0))
            && let Some(total) = cells.get_mut(usize::from(cell))
        {
            *total = total.wrapping_add(by);
        }
    }

    /// Begins to look up a key: reads where it lies without waiting for it. The caller must use the result.
    #[inline(always)]
    #[must_use]
    pub fn touch(&self, object: ObjectId, hash: u64) -> u64 {
        match self.states.get(usize::from(object.0)) {
            Some(State::Values(values)) => values.touch(hash),
            Some(State::ShortValues(values)) => values.touch(hash),
            Some(State::Ints(ints)) => ints.touch(hash),
            Some(State::Lists(lists)) => lists.touch(hash),
            _ => 0,
        }
    }

    /// Continues a look-up that was begun, where the line it read says to.
    #[inline(always)]
    #[must_use]
    pub fn touch_further(&self, object: ObjectId, key: &ObjectKey, hash: u64) -> u64 {
        match self.states.get(usize::from(object.0)) {
            Some(State::Values(values)) => values.touch_further(key, hash),
            Some(State::ShortValues(values)) => values.touch_further(key, hash),
            Some(State::Ints(ints)) => ints.touch_further(key, hash),
            Some(State::Lists(lists)) => lists.touch_further(key, hash),
            _ => 0,
        }
    }

    /// Whether an object's operations take effect in any order.
    #[must_use]
    pub fn is_serial(&self, object: ObjectId) -> bool {
        self.specs.get(usize::from(object.0)).is_some_and(|spec| spec.consistency == Consistency::Serial)
    }

    /// Whether instances have copies of an object's values.
    #[must_use]
    pub fn is_replicated(&self, object: ObjectId) -> bool {
        self.specs.get(usize::from(object.0)).is_some_and(is_replicated)
    }

    /// Whether an operation needs a random number.
    #[must_use]
    pub fn is_drawn(&self, object: ObjectId, op: &Op) -> bool {
        let Op::Custom(number, _) = op else { return false };
        match self.specs.get(usize::from(object.0)).map(|spec| &spec.kind) {
            Some(ObjectKind::Value { ops, .. }) => {
                ops.get(usize::from(*number)).is_some_and(CustomOp::is_drawn)
            }
            _ => false,
        }
    }

    /// The random number the last operation needed, if it did.
    pub fn take_draw(&mut self) -> Option<u64> {
        self.draws.last.take()
    }

    /// What a key's value is, `None` if it is the initial one or no plain value.
    #[must_use]
    pub fn differing(&self, object: ObjectId, key: &ObjectKey) -> Option<ValueBytes> {
        let at_index = usize::from(object.0);
        let ObjectKind::Value { initial, .. } = &self.specs.get(at_index)?.kind else { return None };
        let hash = hash_of(key);
        let value = match &self.states[at_index] {
            State::Values(values) => values.get(key, hash)?.get(),
            State::ShortValues(values) => values.get(key, hash)?.get(),
            _ => return None,
        };
        (value != *initial).then_some(value)
    }

    /// Applies an operation of the packet with clock and time `at`. Acquires go through [`Self::acquire`].
    pub fn apply(&mut self, object: ObjectId, key: &ObjectKey, op: &Op, at: (Clock, Time)) -> OpValue {
        self.apply_hashed(object, key, hash_of(key), op, at)
    }

    /// The same, where the key's [`hash_of`] is known.
    #[inline(always)]
    pub fn apply_hashed(
        &mut self,
        object: ObjectId,
        key: &ObjectKey,
        hash: u64,
        op: &Op,
        (at, now): (Clock, Time),
    ) -> OpValue {
        let at_index = usize::from(object.0);
        let (Some(spec), Some(state)) = (self.specs.get(at_index), self.states.get_mut(at_index)) else {
            return OpValue::Refused(StateError::UnknownObject);
        };
        let forgets = spec.idle.map(|idle| (Touched::at(now), idle));
        if let Some((now, idle)) = forgets {
            state.forget(key, hash, now, idle);
        }
        let result = match (&mut *state, &spec.kind) {
            (State::Counters(cells), _) => match (op, cells.get(key.0[0] as usize)) {
                (Op::Get, Some(total)) => OpValue::Int(*total as i64),
                (Op::Get, None) => OpValue::Refused(StateError::UnknownObject),
                _ => OpValue::Refused(StateError::WrongType),
            },
            (State::Values(values), ObjectKind::Value { initial, ops }) => {
                let ops = (*ops, &mut self.draws);
                apply_limited(values, (key, hash), op, initial, ops, spec.keys_max)
            }
            (State::ShortValues(values), ObjectKind::Value { initial, ops }) => {
                let ops = (*ops, &mut self.draws);
                apply_limited(values, (key, hash), op, initial, ops, spec.keys_max)
            }
            (State::Ints(ints), ObjectKind::Int { initial }) => {
                apply_int(Keyed { table: ints, key, hash }, op, *initial)
            }
            (State::Lists(lists), ObjectKind::List { len_max }) => {
                apply_list(lists, (key, hash), op, *len_max)
            }
            (State::Pools(pools), _) => match op {
                Op::Release { member, owner } => {
                    let done = pools.get_mut(&key.0[0]).is_some_and(|p| p.release(*member, *owner, at));
                    OpValue::Int(i64::from(done))
                }
                _ => OpValue::Refused(StateError::WrongType),
            },
            _ => OpValue::Refused(StateError::WrongType),
        };
        if let Some((now, _)) = forgets {
            state.used(key, hash, now);
        }
        result
    }

    /// The owner of a pool's member, if it is taken.
    #[must_use]
    pub fn owner(&self, object: ObjectId, key: &ObjectKey, member: u64) -> Option<u64> {
        match self.states.get(usize::from(object.0)) {
            Some(State::Pools(pools)) => pools.get(&key.0[0])?.owner(member),
            _ => None,
        }
    }

    /// Acquires a pool member; see [`PoolState::acquire`].
    pub fn acquire(
        &mut self,
        object: ObjectId,
        (key, near): (u64, Option<u64>),
        at: Clock,
        settled: Clock,
        reached: bool,
    ) -> Acquired {
        let at_index = usize::from(object.0);
        let (Some(spec), Some(State::Pools(pools))) =
            (self.specs.get(at_index), self.states.get_mut(at_index))
        else {
            return Acquired::None;
        };
        let ObjectKind::Pool { members } = &spec.kind else { return Acquired::None };
        let pick = if spec.consistency == Consistency::Clock { Pick::LowestInOrder } else { Pick::Any };
        pools
            .entry(key)
            .or_insert_with(|| PoolState::new(members(key), self.window, self.per_clock, pick))
            .acquire(near, at, settled, reached)
    }

    /// Gives members back that `owner` acquired, of whatever pools of an object. O(pools of the object).
    pub fn disown(&mut self, object: ObjectId, members: &[u64], owner: Clock) {
        if let Some(State::Pools(pools)) = self.states.get_mut(usize::from(object.0)) {
            for pool in pools.values_mut() {
                for member in members {
                    pool.release(*member, owner.0, owner);
                }
            }
        }
    }

    /// The keys of values, integers and lists that are not in their initial state, or were not, in no particular order.
    pub fn keys(&self) -> impl Iterator<Item = (ObjectId, &ObjectKey)> {
        self.states.iter().enumerate().flat_map(|(object, state)| {
            let keys: Box<dyn Iterator<Item = &ObjectKey>> = match state {
                State::Values(values) => Box::new(values.iter().map(|(key, _)| key)),
                State::ShortValues(values) => Box::new(values.iter().map(|(key, _)| key)),
                State::Ints(ints) => Box::new(ints.iter().map(|(key, _)| key)),
                State::Lists(lists) => Box::new(lists.iter().map(|(key, _)| key)),
                State::Counters(_) | State::Flow | State::Pools(_) => Box::new(std::iter::empty()),
            };
            keys.map(move |key| (ObjectId(object as u16), key))
        })
    }

    /// Everything that is not in its initial state, in key order.
    #[must_use]
    pub fn show(&self) -> Vec<(ObjectId, ObjectKey, Shown)> {
        let mut all = Vec::new();
        for (i, state) in self.states.iter().enumerate() {
            let id = ObjectId(i as u16);
            match state {
                State::Flow => {}
                State::Counters(cells) => {
                    let cells = cells.iter().zip(0..);
                    all.extend(cells.map(|(n, cell)| (id, ObjectKey::number(cell), Shown::Int(*n as i64))));
                }
                State::Values(values) => {
                    all.extend(values.iter().map(|(k, v)| (id, *k, Shown::Bytes(v.as_slice().to_vec()))));
                }
                State::ShortValues(values) => {
                    let shown = |v: &ShortValue| Shown::Bytes(v.get().as_slice().to_vec());
                    all.extend(values.iter().map(|(k, v)| (id, *k, shown(v))));
                }
                State::Ints(ints) => all.extend(ints.iter().map(|(k, v)| (id, *k, Shown::Int(*v)))),
                State::Lists(lists) => {
                    all.extend(lists.iter().map(|(k, v)| (id, *k, Shown::List(v.iter().collect()))));
                }
                State::Pools(pools) => {
                    let owned = pools.iter().map(|(key, pool)| (key, pool.owners()));
                    let owned = owned.filter(|(_, owned)| !owned.is_empty());
                    all.extend(owned.map(|(key, owned)| (id, ObjectKey::number(*key), Shown::Owned(owned))));
                }
            }
        }
        all.sort();
        all
    }
}

/// The value of one key by itself: operations do to it what they do to one among [`Objects`].
pub struct Single {
    value: Held,
    touched: Touched,
}

enum Held {
    Int(i64),
    Value(ValueBytes),
}

impl Single {
    /// An integer's or a value's, last used at `now`; `None` for what is neither.
    #[must_use]
    pub fn new(value: &OpValue, now: Time) -> Option<Self> {
        let value = match value {
            OpValue::Int(n) => Held::Int(*n),
            OpValue::Bytes(bytes) => Held::Value(*bytes),
            OpValue::Empty | OpValue::Refused(_) => return None,
        };
        Some(Self { value, touched: Touched::at(now) })
    }

    /// Applies an operation at packet time `now`, which needs no random number. `spec` is of the value's object, which
    /// has no limit of keys.
    #[inline]
    pub fn apply(&mut self, spec: &ObjectSpec, op: &Op, now: Time) -> OpValue {
        if let Some(idle) = spec.idle {
            let now = Touched::at(now);
            if now.has_forgotten(self.touched, idle) {
                match (&mut self.value, &spec.kind) {
                    (Held::Int(n), ObjectKind::Int { initial }) => *n = *initial,
                    (Held::Value(value), ObjectKind::Value { initial, .. }) => *value = *initial,
                    _ => {}
                }
            }
            self.touched = now;
        }
        match (&mut self.value, &spec.kind) {
            (Held::Int(n), ObjectKind::Int { initial }) => apply_int(n, op, *initial),
            (Held::Value(value), ObjectKind::Value { initial, ops }) => {
                apply_value(value, op, initial, (*ops, &mut Draws::default()))
            }
            _ => OpValue::Refused(StateError::WrongType),
        }
    }
}

/// Where the value of a key is, if there is one.
trait Place<V> {
    fn find(&self) -> Option<&V>;
    fn find_or_insert_with(&mut self, initial: impl FnOnce() -> V) -> &mut V;
}

/// Among others.
struct Keyed<'a, V> {
    table: &'a mut ObjectTable<V>,
    key: &'a ObjectKey,
    hash: u64,
}

impl<V> Place<V> for Keyed<'_, V> {
    #[inline]
    fn find(&self) -> Option<&V> {
        self.table.get(self.key, self.hash)
    }

    #[inline]
    fn find_or_insert_with(&mut self, initial: impl FnOnce() -> V) -> &mut V {
        self.table.get_or_insert_with(self.key, self.hash, initial)
    }
}

/// By itself.
impl<V> Place<V> for &mut V {
    #[inline]
    fn find(&self) -> Option<&V> {
        Some(self)
    }

    #[inline]
    fn find_or_insert_with(&mut self, _initial: impl FnOnce() -> V) -> &mut V {
        self
    }
}

/// A value as it is kept: all values of an object have the length of its initial one.
trait Kept {
    fn of(value: &ValueBytes) -> Self;
    fn get(&self) -> ValueBytes;
}

impl Kept for ValueBytes {
    #[inline]
    fn of(value: &ValueBytes) -> Self {
        *value
    }

    #[inline]
    fn get(&self) -> ValueBytes {
        *self
    }
}

/// Longest value that is kept as a [`ShortValue`].
const SHORT_LEN_MAX: usize = 16;

/// A short value: with its key it lies on one cache line.
#[derive(Clone, Copy, Debug)]
pub struct ShortValue {
    len: u8,
    /// Zeros behind the value.
    bytes: [u8; SHORT_LEN_MAX],
}

impl Touch for ShortValue {}

impl Kept for ShortValue {
    #[inline]
    fn of(value: &ValueBytes) -> Self {
        Self { len: value.as_slice().len() as u8, bytes: *value.head() }
    }

    #[inline]
    fn get(&self) -> ValueBytes {
        ValueBytes::padded(self.bytes, self.len)
    }
}

/// The same as [`apply_value`], where at most so many keys may have another value than the initial one.
#[inline(always)]
fn apply_limited<V: Kept>(
    values: &mut ObjectTable<V>,
    (key, hash): (&ObjectKey, u64),
    op: &Op,
    initial: &ValueBytes,
    ops: (&[CustomOp], &mut Draws),
    keys_max: Option<usize>,
) -> OpValue {
    let is_full = keys_max.is_some_and(|max| values.len() >= max);
    if is_full && *op != Op::Get && values.get(key, hash).is_none() {
        return OpValue::Refused(StateError::OverLimit);
    }
    let result = apply_value(Keyed { table: values, key, hash }, op, initial, ops);
    if keys_max.is_some() && values.get(key, hash).is_some_and(|value| value.get() == *initial) {
        values.remove(key, hash);
    }
    result
}

// A result is long: handed from function to function it would be copied by each.
#[inline(always)]
fn apply_value<V: Kept>(
    mut place: impl Place<V>,
    op: &Op,
    initial: &ValueBytes,
    (ops, draws): (&[CustomOp], &mut Draws),
) -> OpValue {
    let fits = |value: &ValueBytes| value.as_slice().len() == initial.as_slice().len();
    match op {
        Op::Get => OpValue::Bytes(place.find().map_or(*initial, V::get)),
        Op::Set(new) if fits(new) => {
            *place.find_or_insert_with(|| V::of(new)) = V::of(new);
            OpValue::Empty
        }
        Op::Custom(number, argument) => {
            let Some(custom) = ops.get(usize::from(*number)) else {
                return OpValue::Refused(StateError::UnknownOperation);
            };
            let kept = place.find_or_insert_with(|| V::of(initial));
            let mut value = kept.get();
            let result = custom.apply(&mut value, argument, || draws.draw());
            if !fits(&value) {
                return OpValue::Refused(StateError::WrongType);
            }
            *kept = V::of(&value);
            result
        }
        _ => OpValue::Refused(StateError::WrongType),
    }
}

fn apply_int(mut place: impl Place<i64>, op: &Op, initial: i64) -> OpValue {
    match op {
        Op::Get => OpValue::Int(place.find().copied().unwrap_or(initial)),
        Op::Increment(by) => {
            let value = place.find_or_insert_with(|| initial);
            *value = value.wrapping_add(*by);
            OpValue::Int(*value)
        }
        Op::CompareAndUpdate { expect, new } => {
            if place.find().copied().unwrap_or(initial) != *expect {
                return OpValue::Int(0);
            }
            *place.find_or_insert_with(|| *new) = *new;
            OpValue::Int(1)
        }
        _ => OpValue::Refused(StateError::WrongType),
    }
}

fn apply_list(
    lists: &mut ObjectTable<List>,
    (key, hash): (&ObjectKey, u64),
    op: &Op,
    len_max: usize,
) -> OpValue {
    match op {
        Op::Push(value) => {
            let list = lists.get_or_insert_with(key, hash, List::default);
            if list.len() >= len_max {
                return OpValue::Refused(StateError::OverLimit);
            }
            list.push(*value);
            OpValue::Empty
        }
        Op::Pop => match lists.get_mut(key, hash).and_then(List::pop) {
            Some(value) => OpValue::Int(value as i64),
            None => OpValue::Empty,
        },
        _ => OpValue::Refused(StateError::WrongType),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chc_api::{Declarations, Scope};

    fn objects() -> Objects {
        let mut d = Declarations::default();
        d.basic("n", Scope::Global, Consistency::Serial, ObjectKind::Int { initial: 5 }, (1, 0));
        d.basic("l", Scope::Global, Consistency::Serial, ObjectKind::List { len_max: 2 }, (1, 0));
        Objects::new(d.objects, 0, 1, 0)
    }

    #[test]
    fn integers_start_at_their_initial_value_and_compare_before_they_change() {
        let mut o = objects();
        let mut go = |op| o.apply(ObjectId(0), &ObjectKey::GLOBAL, &op, (Clock(0), Time(0)));
        assert_eq!(go(Op::Get), OpValue::Int(5));
        assert_eq!(go(Op::Increment(-2)), OpValue::Int(3));
        assert_eq!(go(Op::CompareAndUpdate { expect: 5, new: 9 }), OpValue::Int(0));
        assert_eq!(go(Op::CompareAndUpdate { expect: 3, new: 9 }), OpValue::Int(1));
        assert_eq!(go(Op::Get), OpValue::Int(9));
    }

    #[test]
    fn lists_are_queues_with_a_limit() {
        let mut o = objects();
        let mut go = |op| o.apply(ObjectId(1), &ObjectKey::GLOBAL, &op, (Clock(0), Time(0)));
        assert_eq!(go(Op::Pop), OpValue::Empty);
        assert_eq!(go(Op::Push(7)), OpValue::Empty);
        assert_eq!(go(Op::Push(8)), OpValue::Empty);
        assert_eq!(go(Op::Push(9)), OpValue::Refused(StateError::OverLimit));
        assert_eq!(go(Op::Pop), OpValue::Int(7));
    }

    #[test]
    fn a_value_nobody_uses_is_forgotten_and_the_end_takes_no_time() {
        let mut d = Declarations::default();
        let n = d.basic("n", Scope::Global, Consistency::Clock, ObjectKind::Int { initial: 5 }, (1, 0));
        d.forget_after(n, Duration::from_secs(10));
        let mut o = Objects::new(d.objects, 0, 1, 0);
        let mut go = |now: Time| o.apply(n, &ObjectKey::GLOBAL, &Op::Increment(1), (Clock(0), now));
        let at = |seconds: u64| Time(seconds * 1_000_000_000);
        let counted = [1, 11, 20, 31].map(|seconds| go(at(seconds)));
        assert_eq!(
            counted,
            [6, 7, 8, 6].map(OpValue::Int),
            "only the last comes after more than ten seconds"
        );
        assert_eq!(go(Time::end_after(at(33))), OpValue::Int(7));
        assert_eq!(go(Time::end_after(at(99))), OpValue::Int(6));
    }

    #[test]
    fn a_value_by_itself_becomes_what_it_becomes_among_others() {
        fn append(value: &mut ValueBytes, argument: &ValueBytes) -> OpValue {
            let [a, b] = [value.as_slice()[0], argument.as_slice()[0]];
            // What is too long is refused.
            *value = if b == 7 {
                ValueBytes::new(&[b; 30])
            } else {
                ValueBytes::new(&[a.wrapping_mul(3) ^ b; 20])
            };
            OpValue::Int(a.into())
        }
        static OPS: &[CustomOp] = &[CustomOp::new("append", append)];
        let initial = ValueBytes::new(&[9; 20]);
        let mut d = Declarations::default();
        let n = d.basic("n", Scope::Global, Consistency::Clock, ObjectKind::Int { initial: 5 }, (1, 0));
        let kind = ObjectKind::Value { initial, ops: OPS };
        let v = d.basic("v", Scope::Global, Consistency::Clock, kind, (1, 0));
        d.forget_after(n, Duration::from_secs(10));
        d.forget_after(v, Duration::from_secs(10));
        let custom = |number, byte| Op::Custom(number, ValueBytes::new(&[byte]));
        let ops = [
            Op::Get,
            Op::Increment(4),
            Op::CompareAndUpdate { expect: 9, new: 12 },
            Op::CompareAndUpdate { expect: 9, new: 13 },
            Op::Set(ValueBytes::new(&[1; 20])),
            custom(0, 5),
            Op::Set(ValueBytes::new(&[1; 3])),
            custom(0, 7),
            custom(1, 5),
            Op::Pop,
        ];
        for (object, first) in [(n, OpValue::Int(5)), (v, OpValue::Bytes(initial))] {
            let mut among = Objects::new(d.objects.clone(), 0, 1, 0);
            let mut single = Single::new(&first, Time(0)).unwrap();
            // Each twice in a row; after a while, it was forgotten.
            let pauses = [1, 2, 30, 3, 4, 11, 5, 10, 1, 9, 12].into_iter().cycle();
            let mut now = 0;
            for (op, pause) in ops.iter().cycle().zip(pauses).take(ops.len() * 11) {
                now += pause * 1_000_000_000;
                for _ in 0..2 {
                    let result = among.apply(object, &ObjectKey::GLOBAL, op, (Clock(0), Time(now)));
                    let spec = &d.objects[usize::from(object.0)];
                    assert_eq!(single.apply(spec, op, Time(now)), result, "{op:?} at {now}");
                }
            }
        }
    }

    #[test]
    fn an_operation_of_the_wrong_type_changes_nothing() {
        let mut o = objects();
        assert_eq!(
            o.apply(ObjectId(0), &ObjectKey::GLOBAL, &Op::Pop, (Clock(0), Time(0))),
            OpValue::Refused(StateError::WrongType)
        );
        assert_eq!(
            o.apply(ObjectId(9), &ObjectKey::GLOBAL, &Op::Get, (Clock(0), Time(0))),
            OpValue::Refused(StateError::UnknownObject)
        );
        assert_eq!(o.apply(ObjectId(0), &ObjectKey::GLOBAL, &Op::Get, (Clock(0), Time(0))), OpValue::Int(5));
    }
}
