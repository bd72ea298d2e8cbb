//! Random schedules of several instances against a sequential model.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

// Random schedules: instances issue, batch, crash and run again; the shard must end like one that applied
// everything in position order.

const EPOCH: u64 = 8;

/// What one packet does. Ordered operations wait for their results.
#[derive(Clone, Debug)]
struct Packet {
    instance: usize,
    ops: Vec<OpItem>,
    /// A bit of the counter, or a pair of two.
    bit: bool,
}

/// Everything applied in position order: the results by name.
#[derive(Default)]
struct Model {
    list: VecDeque<u64>,
    free_from: [u64; MEMBERS as usize],
    owners: BTreeMap<u64, u64>,
    sum: i64,
    count: i64,
    results: BTreeMap<OpName, OpValue>,
}

impl Model {
    fn apply(&mut self, clock: u64, op: &Op) -> OpValue {
        match op {
            Op::Push(value) => self.list.push_back(*value),
            Op::Pop => return self.list.pop_front().map_or(OpValue::Empty, |v| OpValue::Int(v as i64)),
            Op::Increment(by) => self.sum += by,
            Op::Acquire(_) => {
                let free = |m: &u64| !self.owners.contains_key(m) && self.free_from[*m as usize] <= clock;
                let Some(member) = (0..MEMBERS).find(free) else { return OpValue::Empty };
                self.owners.insert(member, clock);
                return OpValue::Int(member as i64);
            }
            Op::Release { member, .. } => {
                self.owners.remove(member);
                self.free_from[*member as usize] = clock + WINDOW;
                return OpValue::Int(1);
            }
            _ => {}
        }
        OpValue::Empty
    }
}

/// Programs and what they do when they run one after the other.
fn program(packets: &[(usize, Vec<u8>, bool)], instances: usize) -> (Vec<Packet>, Model) {
    let mut model = Model::default();
    let all = packets.iter().zip(0u64..).map(|((at, kinds, bit), clock)| {
        model.count += if *bit { 1 } else { 2 };
        let mut ops = Vec::new();
        for kind in kinds {
            let index = ops.len() as u16;
            let mut item = match kind {
                0 | 1 => op(ORDERED, clock, index, Op::Push(clock * 8 + u64::from(index))),
                2 => op(ORDERED, clock, index, Op::Pop),
                3 => op(SERIAL, clock, index, Op::Increment(clock as i64)),
                // Gives back what was taken first, if anything is.
                4 => match model.owners.iter().map(|(m, o)| (*o, *m)).min() {
                    Some((owner, member)) => op(ORDERED_POOL, clock, index, Op::Release { member, owner }),
                    None => continue,
                },
                _ if ops.iter().any(|o: &OpItem| matches!(o.op, Op::Acquire(_))) => continue,
                _ => op(ORDERED_POOL, clock, index, Op::Acquire(None)),
            };
            item.answer = if item.object == SERIAL { Answer::Nothing } else { Answer::Result };
            let result = model.apply(clock, &item.op);
            model.results.insert(item.name, result);
            ops.push(item);
        }
        Packet { instance: at % instances, ops, bit: *bit }
    });
    let all = all.collect();
    (all, model)
}

/// One instance: how many operations of each of its packets it issued (one more when it is finished).
struct Issuer {
    generation: u32,
    done: Vec<usize>,
    batch: Batch,
    channel: VecDeque<Batch>,
    closed: u64,
}

struct World {
    packets: Vec<Packet>,
    issuers: Vec<Issuer>,
    shard: Shard,
    cut: u64,
    results: BTreeMap<OpName, OpValue>,
}

impl World {
    fn new(packets: Vec<Packet>, instances: usize) -> Self {
        let issuer = |index: usize| Issuer {
            generation: 1,
            done: vec![0; packets.len()],
            batch: from(index as u16, 1),
            channel: VecDeque::new(),
            closed: 0,
        };
        let issuers = (0..instances).map(issuer).collect();
        Self { issuers, packets, shard: shard(instances as u16), cut: 0, results: BTreeMap::new() }
    }

    /// Clocks of the packets the instance has to finish, as far as they were stamped.
    fn open(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        let done = &self.issuers[at].done;
        let stamped = self.packets.len().min((self.cut + WINDOW) as usize);
        (0..stamped)
            .filter(move |c| self.packets[*c].instance == at && done[*c] <= self.packets[*c].ops.len())
    }

    /// Issues the next operation of one of the first open packets.
    fn issue(&mut self, at: usize, pick: usize) {
        let open: Vec<usize> = self.open(at).take(3).collect();
        let Some(clock) = open.get(pick % open.len().max(1)).copied() else { return };
        let (packet, issuer) = (&self.packets[clock], &mut self.issuers[at]);
        if let Some(item) = packet.ops.get(issuer.done[clock]) {
            // What is given back was seen to be acquired.
            if let Op::Release { owner, .. } = item.op
                && !self
                    .results
                    .keys()
                    .any(|n| n.position.clock.0 == owner && self.packets[owner as usize].is_acquire(n))
            {
                return;
            }
            issuer.batch.ops.push(*item);
        } else {
            let epoch = Clock(clock as u64).floor(EPOCH);
            let bits = if packet.bit { vec![1 << (clock as u64 - epoch.0)] } else { Vec::new() };
            let pairs = if packet.bit { Vec::new() } else { vec![(name(clock as u64, 0), 2)] };
            issuer.batch.counts.push(CountItem {
                object: COUNTER,
                epoch,
                bits,
                pairs,
                ..CountItem::default()
            });
        }
        issuer.done[clock] += 1;
    }

    fn flush(&mut self, at: usize) {
        let stamped = self.packets.len().min((self.cut + WINDOW) as usize);
        let lowest = self.open(at).next().unwrap_or(stamped) as u64;
        let issuer = &mut self.issuers[at];
        let next = from(at as u16, issuer.generation);
        let mut batch = std::mem::replace(&mut issuer.batch, next);
        batch.frontier = until(lowest);
        if stamped > lowest as usize {
            let own = Position::packet(Clock(lowest), Path::FIRST);
            batch.frontier.iter_mut().for_each(|(_, position)| *position = own);
        }
        issuer.channel.push_back(batch);
    }

    fn deliver(&mut self, at: usize) {
        let Some(batch) = self.issuers[at].channel.pop_front() else { return };
        if batch.generation.0 == self.issuers[at].generation {
            self.issuers[at].closed = self.issuers[at].closed.max(batch.frontier[0].1.clock.0);
        }
        let effects = send(&mut self.shard, batch);
        self.take(effects);
    }

    fn take(&mut self, effects: Vec<ShardEffect>) {
        for effect in &effects {
            assert!(!matches!(effect, ShardEffect::Defect(_)), "{effect:?}");
        }
        for (name, value) in replies(&effects).flat_map(|r| &r.results) {
            let before = self.results.insert(*name, *value);
            assert!(before.is_none_or(|b| b == *value), "{name:?} was {before:?}, then {value:?}");
        }
    }

    /// Moves the cut; the shard need not be told, the window tells it.
    fn cut(&mut self, tell: bool) {
        let lowest = self.issuers.iter().map(|i| i.closed).min().unwrap_or(0);
        self.cut = self.cut.max(Clock(lowest).floor(EPOCH).0);
        if tell {
            let effects = cut(&mut self.shard, self.cut);
            self.take(effects);
        }
    }

    /// A new generation runs everything from the cut on again. What the old one sent may still come.
    fn restart(&mut self, at: usize) {
        let cut = self.cut;
        let issuer = &mut self.issuers[at];
        issuer.generation += 1;
        issuer.closed = cut;
        issuer.batch = from(at as u16, issuer.generation);
        issuer.done[cut as usize..].fill(0);
        loaded(&mut self.shard, at as u16, issuer.generation, cut);
    }
}

impl Packet {
    fn is_acquire(&self, name: &OpName) -> bool {
        matches!(self.ops[usize::from(name.index)].op, Op::Acquire(_))
    }
}

proptest! {
    #[test]
    fn any_schedule_ends_like_the_sequential_one(
        instances in 2usize..=3,
        packets in proptest::collection::vec((0usize..3, proptest::collection::vec(0u8..6, 0..4), any::<bool>()), 96),
        actions in proptest::collection::vec((0u8..40, 0usize..3, 0usize..3), 0..1500),
    ) {
        let (packets, model) = program(&packets, instances);
        let mut world = World::new(packets, instances);
        for (kind, at, pick) in actions {
            let at = at % instances;
            match kind {
                0..20 => world.issue(at, pick),
                20..28 => world.flush(at),
                28..37 => world.deliver(at),
                37..39 => world.cut(pick == 0),
                _ => world.restart(at),
            }
        }
        let mut rounds = 0;
        while world.cut < world.packets.len() as u64 {
            for at in 0..instances {
                (0..64).for_each(|_| world.issue(at, 0));
                world.flush(at);
                while !world.issuers[at].channel.is_empty() {
                    world.deliver(at);
                }
            }
            world.cut(true);
            rounds += 1;
            prop_assert!(rounds < 1000, "nothing moves any more");
        }
        let int = |value| Some(Shown::Int(value));
        prop_assert_eq!(shown(&world.shard, COUNTER), int(model.count));
        prop_assert_eq!(shown(&world.shard, SERIAL).unwrap_or(Shown::Int(0)), Shown::Int(model.sum));
        let list = shown(&world.shard, ORDERED).unwrap_or(Shown::List(Vec::new()));
        prop_assert_eq!(list, Shown::List(model.list.into_iter().collect()));
        let owned = shown(&world.shard, ORDERED_POOL).unwrap_or(Shown::Owned(Vec::new()));
        prop_assert_eq!(owned, Shown::Owned(model.owners.into_iter().collect()));
        for (name, value) in &world.results {
            prop_assert_eq!(model.results.get(name), Some(value), "{:?}", name);
        }
        let asked = world.packets.iter().flat_map(|p| &p.ops).filter(|o| o.answer.is_awaited());
        for item in asked {
            prop_assert!(world.results.contains_key(&item.name), "{:?} was never answered", item.name);
        }
    }
}
