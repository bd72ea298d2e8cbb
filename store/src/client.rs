//! The store's client library: what an instance uses to talk to the shards.
//!
//! Gathers operations, coalesced counters and boundary versions into one batch per shard, numbers the
//! batches of its session and sends those again that are not acknowledged in time. Nothing here waits: updates
//! nobody waits for leave with the next batch, and closing asks [`Client::settled`].
//!
//! Cost a packet: a bit a counter, and eight bytes for an amount that is not 1. Memory: what was issued since the last
//! batch, and the batches that were not acknowledged yet, which the root's window bounds.

use crate::active::InstanceSet;
use crate::batch::{Batch, CountItem, FetchItem, OpItem, OpName, VersionItem};
use crate::replicas::is_replicated;
use chc_api::state::{ObjectSpec, counter_cells};
use chc_api::{
    Clock, Counter, FlowKey, Generation, InstanceId, ObjectId, ObjectKey, Op, Path, Position, ShardId, Slot,
};
use std::collections::VecDeque;
use std::sync::Arc;

/// Where the objects of a vertex live.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// How many shards there are.
    pub shards: u16,
    /// Seed of the key hash.
    pub seed: u64,
    /// The one shard that has them all, if they are not spread.
    pub home: Option<ShardId>,
}

impl Placement {
    /// The shard of a cross-flow value.
    #[inline]
    #[must_use]
    pub fn value(&self, object: ObjectId, key: &ObjectKey) -> ShardId {
        if let Some(home) = self.home {
            return home;
        }
        if self.shards == 1 {
            return ShardId(0);
        }
        let hash = key.hash(self.seed ^ u64::from(object.0));
        ShardId(((u128::from(hash) * u128::from(self.shards)) >> 64) as u16)
    }

    /// The shard of an object that is not spread: a counter, or replicated values.
    #[must_use]
    pub fn whole(&self, object: ObjectId) -> ShardId {
        self.home.unwrap_or(ShardId(object.0 % self.shards))
    }

    /// The shard of a slot's per-flow records.
    #[must_use]
    pub fn slot(&self, slot: Slot) -> ShardId {
        self.home.unwrap_or(ShardId(slot.0 % self.shards))
    }
}

/// Additions of packets of one path in one epoch.
struct Plane {
    path: Path,
    epoch: Clock,
    /// Clocks of the epoch up to which anything was added, in whole words: the other bits need not be looked at.
    open: u64,
    /// By the counters' numbers: a bit for each clock of the epoch.
    bits: Vec<u64>,
    /// By the counters' numbers: what is not 1.
    amounts: Vec<Vec<(u32, u32)>>,
}

/// So many batches' room for operations is kept for later ones, if it is for so many operations at most.
const SPARES_MAX: usize = 4;
const SPARE_OPS_MAX: usize = 4096;

struct Counting {
    object: ObjectId,
    cell: u16,
    pairs: Vec<(OpName, u64)>,
}

/// Whether packets of a path have bits of their own: those that were made of an input packet in one step, which
/// bounds the planes of a counter. It must depend on the path alone, for a replay must count the same way.
#[inline(always)]
fn has_plane(path: Path) -> bool {
    path.0 & 0xffff == 0
}

#[derive(Default)]
struct Pending {
    fetches: Vec<FetchItem>,
    ops: Vec<OpItem>,
    counts: Vec<CountItem>,
    versions: Vec<VersionItem>,
    issued: u64,
    acknowledged: u64,
    /// What was sent and not acknowledged yet.
    sent: VecDeque<Arc<Batch>>,
    /// Room for operations of batches that were acknowledged: memory that is in the cache, where new memory is not.
    spare: Vec<Vec<OpItem>>,
    /// The last batch issued when the last time-out began.
    overdue: u64,
    frontier: Vec<(ObjectId, Position)>,
    /// Who owns slots from a boundary on: what the shard has not been told.
    active: Vec<(Clock, InstanceSet)>,
    /// The last change of replicated values that is known, and that the shard was told of.
    changes_seen: u64,
    changes_told: u64,
}

impl Pending {
    /// What was counted, with room for as much in its place.
    fn take_counts(&mut self) -> Vec<CountItem> {
        if self.counts.is_empty() {
            return Vec::new();
        }
        let room = Vec::with_capacity(self.counts.len());
        std::mem::replace(&mut self.counts, room)
    }

    fn has_news(&self) -> bool {
        !(self.ops.is_empty()
            && self.counts.is_empty()
            && self.versions.is_empty()
            && self.fetches.is_empty()
            && self.active.is_empty())
    }
}

/// One session: an instance in one generation.
pub struct Client {
    from: InstanceId,
    generation: Generation,
    epoch: u64,
    placement: Placement,
    shards: Vec<Pending>,
    /// By the counters' numbers.
    counting: Vec<Counting>,
    planes: Vec<Plane>,
    /// The plane of the last addition.
    last: usize,
    /// Words of bits each counter has in a plane.
    words: usize,
    /// By object: whether its values are replicated.
    replicated: Vec<bool>,
}

impl Client {
    /// A new session of an instance of a vertex that declares `objects`.
    #[must_use]
    pub fn new(
        from: InstanceId,
        generation: Generation,
        epoch: u64,
        placement: Placement,
        objects: &[ObjectSpec],
    ) -> Self {
        let counting = counter_cells(objects)
            .map(|(object, cell)| Counting { object, cell, pairs: Vec::new() })
            .collect();
        let shards = (0..placement.shards).map(|_| Pending::default()).collect();
        let replicated = objects.iter().map(is_replicated).collect();
        let (planes, last, words) = (Vec::new(), 0, epoch.div_ceil(64) as usize);
        Self { from, generation, epoch, placement, shards, counting, planes, last, words, replicated }
    }

    /// Where objects live.
    #[must_use]
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Adds to a counter for the packet with this clock and path, as its first addition to that counter. False
    /// if it cannot travel as a bit: then nothing was added.
    #[inline(always)]
    pub fn count_first(&mut self, counter: Counter, clock: Clock, path: Path, by: u64) -> bool {
        let fits = |plane: &Plane| plane.path == path && clock.0.wrapping_sub(plane.epoch.0) < plane.open;
        if !self.planes.get(self.last).is_some_and(fits) && !self.turn(clock, path) {
            return false;
        }
        let plane = &mut self.planes[self.last];
        let (at, offset) = (usize::from(counter.number()), clock.0 - plane.epoch.0);
        if by != 1 {
            let Ok(by) = u32::try_from(by) else { return false };
            plane.amounts[at].push((offset as u32, by));
        }
        plane.bits[at * self.words + (offset >> 6) as usize] |= 1 << (offset & 63);
        true
    }

    /// Adds to a counter, whoever and how much.
    pub fn count(&mut self, counter: Counter, name: OpName, by: u64) {
        self.counting[usize::from(counter.number())].pairs.push((name, by));
    }

    /// Makes the plane of a path the last one and opens it up to a clock, whose epoch begins if need be. False if such packets
    /// have no plane.
    #[cold]
    fn turn(&mut self, clock: Clock, path: Path) -> bool {
        if !has_plane(path) {
            return false;
        }
        let epoch = clock.floor(self.epoch);
        self.last = self.planes.iter().position(|plane| plane.path == path).unwrap_or_else(|| {
            let bits = vec![0; self.counting.len() * self.words];
            let amounts = self.counting.iter().map(|_| Vec::new()).collect();
            self.planes.push(Plane { path, epoch, open: 0, bits, amounts });
            self.planes.len() - 1
        });
        if self.planes[self.last].epoch != epoch {
            (0..self.counting.len()).for_each(|at| self.gather_plane(at, self.last));
            self.planes[self.last].open = 0;
        }
        let plane = &mut self.planes[self.last];
        plane.epoch = epoch;
        plane.open = plane.open.max((clock.0 - epoch.0 + 1).next_multiple_of(64).min(self.epoch));
        true
    }

    /// Puts what a plane has of a counter into the next batch.
    fn gather_plane(&mut self, at: usize, plane: usize) {
        let plane = &mut self.planes[plane];
        let bits = &mut plane.bits[at * self.words..][..plane.open.div_ceil(64) as usize];
        // Most counters of many cells have nothing: all words at once, without a branch for each.
        if bits.iter().fold(0, |all, word| all | word) == 0 {
            return;
        }
        let last = bits.iter().rposition(|word| *word != 0).unwrap_or(0);
        // The next epoch will be like this one.
        let room = Vec::with_capacity(plane.amounts[at].len());
        let item = CountItem {
            object: self.counting[at].object,
            cell: self.counting[at].cell,
            epoch: plane.epoch,
            path: plane.path,
            bits: bits[..=last].to_vec(),
            amounts: std::mem::replace(&mut plane.amounts[at], room),
            pairs: Vec::new(),
        };
        bits[..=last].fill(0);
        let shard = self.placement.whole(item.object);
        self.shards[usize::from(shard.0)].counts.push(item);
    }

    fn gather(&mut self, at: usize) {
        for plane in 0..self.planes.len() {
            self.gather_plane(at, plane);
        }
        self.gather_pairs(at);
    }

    fn gather_pairs(&mut self, at: usize) {
        let Counting { object, cell, pairs, .. } = &mut self.counting[at];
        if !pairs.is_empty() {
            let pairs = std::mem::take(pairs);
            let item = CountItem { object: *object, cell: *cell, pairs, ..CountItem::default() };
            let shard = self.placement.whole(item.object);
            self.shards[usize::from(shard.0)].counts.push(item);
        }
    }

    /// Issues an operation.
    pub fn submit(&mut self, item: OpItem) {
        *self.issue(item.object, &item.key, &item.op) = item;
    }

    /// Issues an operation, and returns it where it is kept until it is sent: its name, its time and who waits are the
    /// caller's to fill in. A read of a counter takes along what was added to it.
    // An operation is long: one that is put together elsewhere and copied here at once stalls every packet.
    #[inline]
    pub fn issue(&mut self, object: ObjectId, key: &ObjectKey, op: &Op) -> &mut OpItem {
        let shard = match op {
            // A pool lives with the records of its slot: the low bits of its key.
            Op::Acquire(_) | Op::Release { .. } => self.placement.slot(Slot(key.0[0] as u16)),
            Op::Get if self.counting.iter().any(|c| c.object == object) => {
                for at in 0..self.counting.len() {
                    if self.counting[at].object == object {
                        self.gather(at);
                    }
                }
                self.placement.whole(object)
            }
            _ if self.replicated.get(usize::from(object.0)) == Some(&true) => self.placement.whole(object),
            _ => self.placement.value(object, key),
        };
        let ops = &mut self.shards[usize::from(shard.0)].ops;
        let at = ops.len();
        ops.push(OpItem::BLANK);
        let item = &mut ops[at];
        item.object = object;
        item.key = *key;
        item.op = *op;
        item
    }

    /// Has what a packet acquired of a pool given back, wherever it lies.
    pub fn disown(&mut self, item: OpItem) {
        self.shards.iter_mut().for_each(|shard| shard.ops.push(item));
    }

    /// Asks for the per-flow records of a connection.
    pub fn fetch(&mut self, item: FetchItem) {
        let shard = self.placement.slot(item.slot);
        self.shards[usize::from(shard.0)].fetches.push(item);
    }

    /// Queues a version of a per-flow record.
    pub fn version(
        &mut self,
        object: ObjectId,
        slot: Slot,
        key: FlowKey,
        written: Clock,
        record: Option<crate::record::Record>,
    ) {
        let shard = self.placement.slot(slot);
        let item = VersionItem { object, slot, key, written, record };
        self.shards[usize::from(shard.0)].versions.push(item);
    }

    /// Whether operations are waiting to be sent.
    #[must_use]
    pub fn has_ops(&self) -> bool {
        self.shards.iter().any(|s| !s.ops.is_empty())
    }

    /// Whether anything is waiting to be sent.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.shards.iter().any(Pending::has_news)
    }

    /// Puts the coalesced counters into the next batches.
    pub fn gather_counts(&mut self) {
        for plane in 0..self.planes.len() {
            (0..self.counting.len()).for_each(|at| self.gather_plane(at, plane));
            self.planes[plane].open = 0;
        }
        (0..self.counting.len()).for_each(|at| self.gather_pairs(at));
    }

    /// Takes the batches to send now: to each shard that has something for it, or whose knowledge of
    /// the frontier, if it matters now, is older.
    pub fn flush(
        &mut self,
        frontier: Option<&[(ObjectId, Position)]>,
        mut send: impl FnMut(ShardId, Arc<Batch>),
    ) {
        for (i, shard) in self.shards.iter_mut().enumerate() {
            let moved = frontier.is_some_and(|f| shard.frontier != f);
            if !shard.has_news() && !moved && shard.changes_told == shard.changes_seen {
                continue;
            }
            if moved {
                shard.frontier.clear();
                shard.frontier.extend_from_slice(frontier.unwrap_or_default());
            }
            shard.issued += 1;
            shard.changes_told = shard.changes_seen;
            let batch = Arc::new(Batch {
                from: self.from,
                generation: self.generation,
                number: shard.issued,
                fetches: std::mem::take(&mut shard.fetches),
                ops: std::mem::replace(&mut shard.ops, shard.spare.pop().unwrap_or_default()),
                counts: shard.take_counts(),
                versions: std::mem::take(&mut shard.versions),
                frontier: if moved { shard.frontier.clone() } else { Vec::new() },
                active: std::mem::take(&mut shard.active),
                changes_seen: shard.changes_seen,
            });
            shard.sent.push_back(batch.clone());
            send(ShardId(i as u16), batch);
        }
    }

    /// From a boundary on these instances of the vertex own slots. The shards hear of it in front of everything that is
    /// issued from now on.
    pub fn active(&mut self, boundary: Clock, set: InstanceSet) {
        self.shards.iter_mut().for_each(|shard| shard.active.push((boundary, set)));
    }

    /// This instance has the shard's changes of replicated values up to this number.
    pub fn changes_seen(&mut self, shard: ShardId, number: u64) {
        self.shards[usize::from(shard.0)].changes_seen = number;
    }

    /// A shard has everything up to this batch in its log.
    pub fn acknowledged(&mut self, shard: ShardId, number: u64) {
        let shard = &mut self.shards[usize::from(shard.0)];
        shard.acknowledged = shard.acknowledged.max(number);
        while shard.sent.front().is_some_and(|batch| batch.number <= shard.acknowledged) {
            let batch = shard.sent.pop_front().and_then(Arc::into_inner);
            if let Some(Batch { mut ops, .. }) = batch
                && (1..=SPARE_OPS_MAX).contains(&ops.capacity())
                && shard.spare.len() < SPARES_MAX
            {
                ops.clear();
                shard.spare.push(ops);
            }
        }
    }

    /// Whether something was sent that has not been acknowledged.
    #[must_use]
    pub fn awaits_acknowledgement(&self) -> bool {
        self.shards.iter().any(|shard| !shard.sent.is_empty())
    }

    /// A time-out is over: what was sent before it began and has not been acknowledged is sent again. Returns how
    /// many batches.
    pub fn retransmit(&mut self, mut send: impl FnMut(ShardId, Arc<Batch>)) -> u64 {
        let mut count = 0;
        for (i, shard) in self.shards.iter_mut().enumerate() {
            for batch in shard.sent.iter().take_while(|batch| batch.number <= shard.overdue) {
                send(ShardId(i as u16), batch.clone());
                count += 1;
            }
            shard.overdue = shard.issued;
        }
        count
    }

    /// The batches sent so far, by shard: what must be acknowledged before a boundary is closed.
    pub fn issued(&self, into: &mut Vec<u64>) {
        into.clear();
        into.extend(self.shards.iter().map(|s| s.issued));
    }

    /// Whether all those batches are acknowledged.
    #[must_use]
    pub fn settled(&self, issued: &[u64]) -> bool {
        self.shards.iter().zip(issued).all(|(s, n)| s.acknowledged >= *n)
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
