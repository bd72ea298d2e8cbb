//! The state objects of one ideal vertex.

use chc_api::nf::FlowLookup;
use chc_api::state::{ArmedTimer, ObjectKind, Plain, Touched, ValueBytes};
use chc_api::{
    Clock, Consistency, Counter, Declarations, Flow, FlowKey, ObjectId, ObjectKey, Op, OpValue, Position,
    StateError, Time, TimerOrigin, VertexId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What an object's value is kept under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StateWord {
    /// A per-flow record.
    Flow(FlowKey),
    /// Anything else.
    Object(ObjectKey),
}

/// The name of one value: vertex, object, key.
pub type StateKey = (VertexId, &'static str, StateWord);

/// One value, for comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateValue {
    /// A counter or an integer.
    Int(i64),
    /// A cross-flow value.
    Bytes(ValueBytes),
    /// A list.
    List(Vec<u64>),
    /// The members of a pool that are taken, each with the clock of its owner.
    Taken(BTreeMap<u64, u64>),
    /// A per-flow record with its armed timers.
    Record {
        /// The value.
        value: ValueBytes,
        /// Timers by index.
        timers: BTreeMap<u8, ArmedTimer>,
    },
}

/// The members of one pool that are not taken, each with the clock it was released at, if it was ever
/// taken; and those that are, with the clock of their owner.
#[derive(Default)]
struct Members {
    free: BTreeMap<u64, Option<u64>>,
    taken: BTreeMap<u64, u64>,
}

struct Record {
    value: ValueBytes,
    timers: BTreeMap<u8, ArmedTimer>,
}

/// All objects of a vertex. The three last maps are derived from the records.
pub(super) struct State {
    declarations: Declarations,
    window: u64,
    ints: BTreeMap<(ObjectId, ObjectKey), i64>,
    values: BTreeMap<(ObjectId, ObjectKey), ValueBytes>,
    /// What replicated values were, by the clock they were written at, oldest first; and how many differ from their
    /// initial one.
    written: BTreeMap<(ObjectId, ObjectKey), Vec<(Clock, ValueBytes)>>,
    differing: BTreeMap<ObjectId, usize>,
    lists: BTreeMap<(ObjectId, ObjectKey), Vec<u64>>,
    pools: BTreeMap<(ObjectId, ObjectKey), Members>,
    records: BTreeMap<(ObjectId, FlowKey), Record>,
    /// When values were used last that are forgotten some time, and when any of their object was.
    touched: BTreeMap<(ObjectId, ObjectKey), Touched>,
    newest: BTreeMap<ObjectId, Touched>,
    /// The connections with each secondary key.
    by_index: BTreeSet<(ObjectId, u64, FlowKey)>,
    by_deadline: BTreeMap<(Time, TimerOrigin), FlowKey>,
    at_end: BTreeMap<TimerOrigin, FlowKey>,
}

impl State {
    pub(super) fn new(declarations: Declarations, window: u64) -> Self {
        Self {
            declarations,
            window,
            ints: BTreeMap::new(),
            values: BTreeMap::new(),
            written: BTreeMap::new(),
            differing: BTreeMap::new(),
            lists: BTreeMap::new(),
            pools: BTreeMap::new(),
            records: BTreeMap::new(),
            touched: BTreeMap::new(),
            newest: BTreeMap::new(),
            by_index: BTreeSet::new(),
            by_deadline: BTreeMap::new(),
            at_end: BTreeMap::new(),
        }
    }

    /// Whether the order of operations on an integer or a counter is a choice: its results are then taken from the
    /// record.
    pub(super) fn is_serial_int(&self, object: ObjectId) -> bool {
        let spec = self.declarations.objects.get(usize::from(object.0));
        spec.is_some_and(|s| {
            s.consistency == Consistency::Serial
                && matches!(s.kind, ObjectKind::Int { .. } | ObjectKind::Counter { .. })
        })
    }

    /// Whether an operation needs a random number.
    pub(super) fn is_drawn(&self, object: ObjectId, op: &Op) -> bool {
        let Op::Custom(number, _) = op else { return false };
        let spec = self.declarations.objects.get(usize::from(object.0));
        let ObjectKind::Value { ops, .. } = (match spec {
            Some(spec) => &spec.kind,
            None => return false,
        }) else {
            return false;
        };
        ops.get(usize::from(*number)).is_some_and(chc_api::CustomOp::is_drawn)
    }

    pub(super) fn count(&mut self, counter: Counter, by: u64) {
        let key = ObjectKey::number(u64::from(counter.cell()));
        *self.ints.entry((counter.id(), key)).or_default() += by as i64;
    }

    /// Forgets a value that was not used for as long as declared; it is used now.
    fn forget(&mut self, object: ObjectId, key: ObjectKey, now: Time) {
        let idle = self.declarations.objects.get(usize::from(object.0)).and_then(|spec| spec.idle);
        let (Some(idle), now, name) = (idle, Touched::at(now), (object, key)) else { return };
        let before = self.touched.insert(name, now);
        self.newest.insert(object, now);
        if before.is_some_and(|before| now.has_forgotten(before, idle)) {
            self.ints.remove(&name);
            self.values.remove(&name);
            self.lists.remove(&name);
        }
    }

    /// Adds the names of values that may be forgotten by now: they count as forgotten, whether anybody has looked at
    /// them or not.
    pub(super) fn forgotten(&self, vertex: VertexId, into: &mut BTreeSet<StateKey>) {
        for ((object, key), touched) in &self.touched {
            let spec = &self.declarations.objects[usize::from(object.0)];
            let now = self.newest.get(object).copied().unwrap_or_default();
            if spec.idle.is_some_and(|idle| now.has_forgotten(*touched, idle)) {
                into.insert((vertex, spec.name, StateWord::Object(*key)));
            }
        }
    }

    /// Applies an operation, with `draw` if it needs a random number; that of [`Op::Acquire`] is [`Self::acquire`].
    pub(super) fn apply(
        &mut self,
        object: ObjectId,
        key: ObjectKey,
        op: Op,
        (clock, now): (Clock, Time),
        draw: u64,
    ) -> OpValue {
        self.forget(object, key, now);
        let Some(spec) = self.declarations.objects.get(usize::from(object.0)) else {
            return OpValue::Refused(StateError::UnknownObject);
        };
        let name = (object, key);
        match (&spec.kind, op) {
            (ObjectKind::Int { initial }, op) => {
                let value = self.ints.entry(name).or_insert(*initial);
                match op {
                    Op::Get => {}
                    Op::Increment(by) => *value = value.wrapping_add(by),
                    Op::CompareAndUpdate { expect, new } => {
                        let done = *value == expect;
                        *value = if done { new } else { *value };
                        return OpValue::Int(i64::from(done));
                    }
                    _ => return OpValue::Refused(StateError::WrongType),
                }
                OpValue::Int(*value)
            }
            (ObjectKind::Counter { .. }, Op::Get) => {
                OpValue::Int(self.ints.get(&name).copied().unwrap_or_default())
            }
            (ObjectKind::Value { initial, ops }, op) => {
                let value = self.values.entry(name).or_insert(*initial);
                let before = *value;
                let differing = self.differing.entry(object).or_default();
                if op != Op::Get && before == *initial && spec.keys_max.is_some_and(|max| *differing >= max) {
                    return OpValue::Refused(StateError::OverLimit);
                }
                let result = match op {
                    Op::Get => OpValue::Bytes(*value),
                    Op::Set(new) => {
                        *value = new;
                        OpValue::Empty
                    }
                    Op::Custom(number, argument) => match ops.get(usize::from(number)) {
                        Some(custom) => custom.apply(value, &argument, || draw),
                        None => OpValue::Refused(StateError::UnknownOperation),
                    },
                    _ => OpValue::Refused(StateError::WrongType),
                };
                if spec.consistency == Consistency::Delayed && op != Op::Get {
                    *differing += usize::from(*value != *initial);
                    *differing -= usize::from(before != *initial);
                    self.written.entry(name).or_default().push((clock, *value));
                }
                result
            }
            (ObjectKind::List { len_max }, op) => {
                let list = self.lists.entry(name).or_default();
                match op {
                    Op::Push(_) if list.len() >= *len_max => OpValue::Refused(StateError::OverLimit),
                    Op::Push(element) => {
                        list.push(element);
                        OpValue::Empty
                    }
                    Op::Pop if list.is_empty() => OpValue::Empty,
                    Op::Pop => OpValue::Int(list.remove(0) as i64),
                    _ => OpValue::Refused(StateError::WrongType),
                }
            }
            (ObjectKind::Pool { .. }, Op::Release { member, owner }) => {
                let members = self.members(object, key);
                let owned = members.taken.get(&member) == Some(&owner);
                if owned {
                    members.taken.remove(&member);
                    members.free.insert(member, Some(clock.0));
                }
                OpValue::Int(i64::from(owned))
            }
            _ => OpValue::Refused(StateError::WrongType),
        }
    }

    /// A replicated value as it was a window before a clock, unless it was the initial one.
    pub(super) fn read(&self, object: ObjectId, key: &ObjectKey, clock: Clock) -> Option<ValueBytes> {
        let writes = self.written.get(&(object, *key))?;
        let (_, value) = writes.iter().rev().find(|(at, _)| at.0 + self.window <= clock.0)?;
        let ObjectKind::Value { initial, .. } = &self.declarations.objects[usize::from(object.0)].kind else {
            return None;
        };
        (value != initial).then_some(*value)
    }

    /// Takes the recorded member of a pool, or the lowest eligible one that is nearest to what is wished for. Says what is wrong with the
    /// record, if anything.
    pub(super) fn acquire(
        &mut self,
        object: ObjectId,
        (key, near): (ObjectKey, Option<u64>),
        clock: Clock,
        recorded: Option<Option<u64>>,
    ) -> (OpValue, Result<(), String>) {
        let declared = self.declarations.objects.get(usize::from(object.0));
        let Some(spec) = declared.filter(|spec| matches!(spec.kind, ObjectKind::Pool { .. })) else {
            return (OpValue::Refused(StateError::WrongType), Ok(()));
        };
        let (window, in_order) = (self.window, spec.consistency == Consistency::Clock);
        let members = self.members(object, key);
        let is_eligible = |released: &Option<u64>| released.is_none_or(|at| at + window <= clock.0);
        let mut eligible = members.free.iter().filter(|(_, released)| is_eligible(released)).map(|(m, _)| *m);
        let likeness = |member: u64| near.map(|near| (member != near, member % 2 != near % 2));
        let lowest = eligible.by_ref().min_by_key(|member| (likeness(*member), *member));
        let mut legal = Ok(());
        let member = match recorded {
            None => lowest,
            Some(None) => {
                if let Some(lowest) = lowest {
                    legal = Err(format!("nothing was acquired although {lowest} was free"));
                }
                lowest
            }
            Some(Some(member)) => match members.free.get(&member) {
                Some(released) if is_eligible(released) => {
                    if let Some(due) = lowest.filter(|due| in_order && *due != member) {
                        legal = Err(format!(
                            "{member} was acquired, but {due} was due in the order of the input"
                        ));
                    }
                    Some(member)
                }
                Some(released) => {
                    legal = Err(format!("{member} was acquired too soon after its release at {released:?}"));
                    lowest
                }
                None => {
                    let owner = members.taken.get(&member);
                    legal = Err(format!("{member} was acquired although it is not free (owner: {owner:?})"));
                    lowest
                }
            },
        };
        let Some(member) = member else { return (OpValue::Empty, legal) };
        members.free.remove(&member);
        members.taken.insert(member, clock.0);
        (OpValue::Int(member as i64), legal)
    }

    fn members(&mut self, object: ObjectId, key: ObjectKey) -> &mut Members {
        let kind = &self.declarations.objects[usize::from(object.0)].kind;
        self.pools.entry((object, key)).or_insert_with(|| {
            let range = if let ObjectKind::Pool { members } = kind { members(key.0[0]) } else { 0..0 };
            Members { free: range.map(|member| (member, None)).collect(), taken: BTreeMap::new() }
        })
    }

    pub(super) fn get(&self, object: ObjectId, key: &FlowKey) -> Option<ValueBytes> {
        self.records.get(&(object, *key)).map(|record| record.value)
    }

    pub(super) fn put(&mut self, object: ObjectId, key: &FlowKey, value: ValueBytes) {
        self.unindex(object, key);
        let empty = || Record { value, timers: BTreeMap::new() };
        self.records.entry((object, *key)).or_insert_with(empty).value = value;
        if let Some(index) = self.index_of(object, key) {
            self.by_index.insert((object, index, *key));
        }
    }

    pub(super) fn remove(&mut self, object: ObjectId, key: &FlowKey) {
        self.unindex(object, key);
        for index in 0..4 {
            self.disarm(object, key, index);
        }
        self.records.remove(&(object, *key));
    }

    fn index_of(&self, object: ObjectId, key: &FlowKey) -> Option<u64> {
        let ObjectKind::Flow { index: Some(index), .. } =
            &self.declarations.objects[usize::from(object.0)].kind
        else {
            return None;
        };
        index(key, self.records.get(&(object, *key))?.value.as_slice())
    }

    fn unindex(&mut self, object: ObjectId, key: &FlowKey) {
        if let Some(index) = self.index_of(object, key) {
            self.by_index.remove(&(object, index, *key));
        }
    }

    /// Arms a timer, at the earliest the declared minimum after `now`.
    ///
    /// # Panics
    /// If there is no record: a mistake of the network function.
    pub(super) fn arm(&mut self, object: ObjectId, key: &FlowKey, index: u8, timer: ArmedTimer, now: Time) {
        self.disarm(object, key, index);
        let min = match self.declarations.objects[usize::from(object.0)].kind {
            ObjectKind::Flow { timeout_min, .. } => timeout_min,
            _ => Duration::ZERO,
        };
        let timer = ArmedTimer { deadline: timer.deadline.max(now + min), ..timer };
        let record = self.records.get_mut(&(object, *key)).expect("a timer is armed on a record that exists");
        record.timers.insert(index, timer);
        let origin = origin(object, index, &timer);
        self.by_deadline.insert((timer.deadline, origin), *key);
        if timer.at_end {
            self.at_end.insert(origin, *key);
        }
    }

    pub(super) fn disarm(&mut self, object: ObjectId, key: &FlowKey, index: u8) {
        let Some(record) = self.records.get_mut(&(object, *key)) else { return };
        let Some(timer) = record.timers.remove(&index) else { return };
        let origin = origin(object, index, &timer);
        self.by_deadline.remove(&(timer.deadline, origin));
        self.at_end.remove(&origin);
    }

    pub(super) fn armed(&self, object: ObjectId, key: &FlowKey, index: u8) -> Option<ArmedTimer> {
        self.records.get(&(object, *key))?.timers.get(&index).copied()
    }

    /// The timers that are due when time reaches `now`, in the order of their positions.
    pub(super) fn due(&self, now: Time) -> BTreeMap<TimerOrigin, FlowKey> {
        if now.is_end() {
            return self.at_end.clone();
        }
        let is_due = self.by_deadline.iter().take_while(|((deadline, _), _)| *deadline <= now);
        is_due.map(|((_, origin), key)| (*origin, *key)).collect()
    }

    /// Adds every object that differs from its initial value.
    pub(super) fn dump(&self, vertex: VertexId, into: &mut BTreeMap<StateKey, StateValue>) {
        let spec = |object: ObjectId| &self.declarations.objects[usize::from(object.0)];
        let name = |(object, key): (ObjectId, ObjectKey)| (vertex, spec(object).name, StateWord::Object(key));
        for (at, value) in &self.ints {
            let initial = if let ObjectKind::Int { initial } = spec(at.0).kind { initial } else { 0 };
            if *value != initial {
                into.insert(name(*at), StateValue::Int(*value));
            }
        }
        for (at, value) in &self.values {
            if !matches!(&spec(at.0).kind, ObjectKind::Value { initial, .. } if initial == value) {
                into.insert(name(*at), StateValue::Bytes(*value));
            }
        }
        for (at, list) in self.lists.iter().filter(|(_, list)| !list.is_empty()) {
            into.insert(name(*at), StateValue::List(list.clone()));
        }
        for (at, members) in self.pools.iter().filter(|(_, members)| !members.taken.is_empty()) {
            into.insert(name(*at), StateValue::Taken(members.taken.clone()));
        }
        for ((object, key), record) in &self.records {
            let value = StateValue::Record { value: record.value, timers: record.timers.clone() };
            into.insert((vertex, spec(*object).name, StateWord::Flow(*key)), value);
        }
    }
}

fn origin(object: ObjectId, index: u8, timer: &ArmedTimer) -> TimerOrigin {
    let Position { clock, path, .. } = timer.setter;
    TimerOrigin { setter: clock, setter_path: path, object, index }
}

impl FlowLookup for State {
    fn find<T: Plain>(&self, object: Flow<T>, index: u64) -> Option<FlowKey> {
        let from = (object.id(), index, FlowKey::NONE);
        let lowest = self.by_index.range(from..).next().copied();
        lowest.filter(|(at, of, _)| (*at, *of) == (from.0, from.1)).map(|(_, _, key)| key)
    }
}
