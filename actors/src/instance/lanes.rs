//! Packets that wait behind another of their flow.
//!
//! A lane is what must run in order: a flow, or a slot of a function that translates addresses. Only
//! lanes in which something waits exist, so a lane costs nothing while nothing waits.

use chc_api::Position;
use hashbrown::HashMap;
use std::collections::BTreeMap;

/// Name of a lane: the hash of a connection, or a slot. Two flows whose hashes are equal share a lane;
/// they wait for each other, no more.
pub type LaneId = u64;

struct Lane<J> {
    /// Something of this lane is running and waits for a result.
    busy: bool,
    queue: BTreeMap<Position, J>,
}

/// The lanes in which something waits.
pub struct Lanes<J> {
    lanes: HashMap<LaneId, Lane<J>>,
    /// All positions that wait in a queue.
    waiting: BTreeMap<Position, LaneId>,
}

impl<J> Default for Lanes<J> {
    fn default() -> Self {
        Self { lanes: HashMap::new(), waiting: BTreeMap::new() }
    }
}

impl<J> Lanes<J> {
    /// Whether nothing waits anywhere.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Whether something of this lane is running.
    #[must_use]
    pub fn is_busy(&self, lane: LaneId) -> bool {
        self.lanes.get(&lane).is_some_and(|l| l.busy)
    }

    /// Whether a packet at this position has to wait: behind a running one, or behind a lower one.
    #[must_use]
    pub fn blocks(&self, lane: LaneId, position: &Position) -> bool {
        let Some(lane) = self.lanes.get(&lane) else { return false };
        lane.busy || lane.queue.first_key_value().is_some_and(|(head, _)| head < position)
    }

    /// Something of this lane now waits for a result.
    pub fn occupy(&mut self, lane: LaneId) {
        self.lanes.entry(lane).or_insert_with(|| Lane { busy: false, queue: BTreeMap::new() }).busy = true;
    }

    /// It is done.
    pub fn vacate(&mut self, lane: LaneId) {
        if let Some(l) = self.lanes.get_mut(&lane) {
            l.busy = false;
            if l.queue.is_empty() {
                self.lanes.remove(&lane);
            }
        }
    }

    /// Queues a packet.
    pub fn push(&mut self, lane: LaneId, position: Position, job: J) {
        let l = self.lanes.entry(lane).or_insert_with(|| Lane { busy: false, queue: BTreeMap::new() });
        l.queue.insert(position, job);
        self.waiting.insert(position, lane);
    }

    /// The next packet of a lane that is not busy.
    #[must_use]
    pub fn head(&self, lane: LaneId) -> Option<(&Position, &J)> {
        self.lanes.get(&lane).filter(|l| !l.busy)?.queue.first_key_value()
    }

    /// Takes the next packet of a lane that is not busy.
    pub fn pop(&mut self, lane: LaneId) -> Option<J> {
        let l = self.lanes.get_mut(&lane).filter(|l| !l.busy)?;
        let (position, job) = l.queue.pop_first()?;
        if l.queue.is_empty() {
            self.lanes.remove(&lane);
        }
        self.waiting.remove(&position);
        Some(job)
    }

    /// The lowest position that waits.
    #[must_use]
    pub fn lowest(&self) -> Option<Position> {
        self.waiting.first_key_value().map(|(p, _)| *p)
    }

    /// The lanes that are not busy though something waits there, that with the lowest head first.
    #[must_use]
    pub fn ready(&self) -> Vec<LaneId> {
        let heads = self.lanes.iter().filter(|(_, lane)| !lane.busy);
        let mut heads: Vec<(Position, LaneId)> =
            heads.filter_map(|(id, lane)| Some((*lane.queue.first_key_value()?.0, *id))).collect();
        heads.sort_unstable();
        heads.into_iter().map(|(_, id)| id).collect()
    }

    /// Packets that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}
