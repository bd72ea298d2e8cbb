//! Slots that change hands while packets flow: the paper's section 5.1 and Figure 4.
//!
//! ```text
//!  loses slots:  input reaches the boundary ──► everything below it closed ──► their records given away ──► on
//!  gains slots:  input reaches the boundary ──► closed ──► Granted (the losers have) ──► shards know ──► on
//! ```
//!
//! Records go from the old owner by the root to the new one as they are, whatever their number; where they got lost, with
//! an owner that died, the shards give the new one what they have. It is the same: what is closed is in the store.
//!
//! Until then the input of either goes no further than the boundary: packets from there on are held, and progress,
//! frontiers, timers and closing follow. Where a sender's vertex is concerned, packets are held in the order of the input
//! until all its instances have passed the boundary, so that the flows of a slot do not overtake themselves.

use super::{InstanceCore, Phase, Sender, Spawn};
use crate::instance::context::State;
use crate::instance::records::SlotRecords;
use crate::messages::{Data, InstanceEffect, Source};
use crate::routing::Change;
use chc_api::{Clock, NetworkFunction, Position, Protection, Protections, ShardId, Slot};
use chc_store::active::InstanceSet;
use chc_store::batch::{Load, Loaded};
use std::sync::Arc;

/// Slots this instance gains and loses at a boundary.
pub(super) struct Handover {
    pub(super) boundary: Clock,
    gains: Vec<Slot>,
    loses: Vec<Slot>,
    /// Records of gained slots that came along.
    records: Vec<(Slot, SlotRecords)>,
    /// The shards whose records have not come yet, once they are asked for.
    loads: Option<Vec<ShardId>>,
}

impl<N: NetworkFunction, P: Protections, S: Spawn<N, P>> InstanceCore<N, P, S> {
    /// Takes in the tables at the cut where a generation begins.
    pub(super) fn begin_with_tables(&mut self, tables: &Change) {
        self.config.own.change(tables);
        self.splitter.reroute(tables);
        if tables.boundary > Clock(0) {
            // Who told the shards may be gone.
            self.tell_shards(tables);
        }
        self.config.own.trim(tables.boundary);
        self.splitter.trim(tables.boundary);
        self.changes_from = Clock(tables.boundary.0 + 1);
    }

    /// The slots this instance owns at a clock.
    pub(super) fn slots_at(&self, clock: Clock) -> Vec<Slot> {
        let owners = self.config.own.owners_at(clock);
        let mine = (0..).zip(owners).filter(|(_, owner)| **owner == self.config.id.index);
        mine.map(|(slot, _)| Slot(slot)).collect()
    }

    /// Values of cross-flow objects are held from a boundary on if nobody else owns slots, until the next change.
    pub(super) fn begin_cache_term(&self, boundary: Clock) {
        let mut owners = self.config.own.owners_at(boundary).iter();
        let is_alone = owners.all(|owner| *owner == self.config.id.index);
        let end = self.handovers.front().map_or(Clock(u64::MAX), |next| next.boundary);
        if let Some(cache) = &mut self.env.inner().cache {
            cache.begin_term(if is_alone { boundary..end } else { boundary..boundary });
        }
    }

    /// Whether this instance owns no slots from where it is on, as far as it knows. What it hears of changes then may have
    /// gaps: the root tells it all of them when it gets slots.
    pub(super) fn is_asleep(&self) -> bool {
        !self.splitter.awaited().is_active_from(self.config.id, self.input.clock)
    }

    /// Whether a message says that this instance gets slots, which the root has not told it yet.
    pub(super) fn is_ahead(&self, data: &Data) -> bool {
        let me = self.config.id;
        let gains = |change: &Arc<Change>| {
            let table = change.table_of(me.vertex).filter(|_| change.boundary >= self.changes_from);
            table.is_some_and(|table| table.contains(&me.index))
        };
        data.changes.iter().any(gains) && self.is_asleep()
    }

    /// It gets slots: it is told the tables at the cut and the changes above.
    pub(super) fn on_awake(&mut self, changes: &[Arc<Change>]) {
        let [at_cut, later @ ..] = changes else { return };
        if at_cut.boundary >= self.changes_from {
            self.begin_with_tables(at_cut);
        }
        later.iter().for_each(|change| self.learn(change));
        if self.phase == Phase::Running {
            self.take_inbox();
        }
    }

    /// Learns of a change, in front of the first packet it concerns.
    pub(super) fn learn(&mut self, change: &Arc<Change>) {
        let boundary = change.boundary;
        if boundary < self.changes_from {
            return;
        }
        self.changes_from = Clock(boundary.0 + 1);
        let me = self.config.id;
        if let Some(after) = change.table_of(me.vertex) {
            let before = self.config.own.owners_last();
            let differs = |had: bool| {
                let pairs = (0..).zip(before.iter().zip(after.iter()));
                let mine =
                    pairs.filter(|(_, (old, new))| old != new && **(if had { old } else { new }) == me.index);
                mine.map(|(slot, _)| Slot(slot)).collect::<Vec<Slot>>()
            };
            let (gains, loses) = (differs(false), differs(true));
            if !(gains.is_empty() && loses.is_empty()) {
                let records = Vec::new();
                self.handovers.push_back(Handover { boundary, gains, loses, records, loads: None });
            }
            self.config.own.change(change);
            if let Some(cache) = &mut self.env.inner().cache {
                cache.end_term(boundary);
            }
        }
        let concerns = |source: &Source| match source {
            Source::Root(_) => false,
            Source::Instance(id) => change.table_of(id.vertex).is_some(),
        };
        if self.config.upstream.iter().flatten().any(concerns) && P::on(Protection::HeldDownstream) {
            self.barriers.push(boundary);
        }
        self.splitter.reroute(change);
        self.tell_shards(change);
        self.env.inner().steps.change(change);
    }

    /// Tells the shards who owns slots of this vertex, in front of all operations from the boundary on.
    fn tell_shards(&self, change: &Change) {
        if let Some(table) = change.table_of(self.config.id.vertex)
            && let State::Store(client) = &mut self.env.inner().state
        {
            client.active(change.boundary, InstanceSet::owners(table));
        }
    }

    /// How far the input may go.
    pub(super) fn input_max(&self) -> Option<Position> {
        let first = self.handovers.front()?;
        let waits = P::on(Protection::BufferedHandover) || first.gains.is_empty();
        waits.then(|| Position::before(first.boundary))
    }

    /// Whether packets are held because slots change hands.
    #[inline]
    pub(super) fn is_turning(&self) -> bool {
        !(self.handovers.is_empty() && self.barriers.is_empty())
    }

    /// What all senders have promised that may still send, with what one of them says `now`.
    pub(super) fn promised(&self, now: Option<(&Source, Position)>) -> Option<Position> {
        let awaited = self.splitter.awaited();
        let promise = |sender: &Sender| {
            let now = now.filter(|(from, _)| **from == sender.source);
            let progress = now.map_or(sender.progress, |(_, said)| sender.progress.max(said));
            awaited.promise(&sender.source, self.config.id, progress)
        };
        self.edges.iter().flat_map(|edge| &edge.senders).map(promise).min()
    }

    /// What all senders have promised, as far as it may be used.
    pub(super) fn open_input(&self) -> Option<Position> {
        let promised = self.promised(None)?;
        Some(self.input_max().map_or(promised, |max| max.min(promised)))
    }

    /// Goes on to what the senders have promised.
    pub(super) fn advance_input(&mut self) {
        let Some(input) = self.open_input() else { return };
        if !self.barriers.is_empty() {
            let promised = self.promised(None);
            self.barriers.retain(|boundary| promised.is_none_or(|p| p < Position::before(*boundary)));
        }
        if input > self.input {
            self.release(input, true);
            self.input = input;
            self.fire_due();
        }
        if !self.holds && !self.is_turning() && !self.order.is_empty() {
            // The rest is in the order of its senders.
            self.release(Position::before(Clock(u64::MAX)), false);
        }
    }

    /// The owners before have let go of slots this instance gains.
    pub(super) fn on_granted(&mut self, boundary: Clock, records: Vec<(Slot, SlotRecords)>) {
        if !self.granted.iter().any(|(known, _)| *known == boundary) {
            self.granted.push((boundary, records));
        }
    }

    /// Gives away the records of the slots that are another instance's from the boundary on that was just closed.
    pub(super) fn let_go(&mut self) -> Vec<(Slot, SlotRecords)> {
        let Some(first) = self.handovers.front_mut().filter(|h| h.boundary == self.closed) else {
            return Vec::new();
        };
        let lost = std::mem::take(&mut first.loses);
        let inner = &mut *self.env.inner();
        lost.into_iter().map(|slot| (slot, inner.records.take_slot(slot))).collect()
    }

    /// Records of gained slots have come.
    pub(super) fn on_gained(&mut self, loaded: &Loaded) {
        let Some(loads) = self.handovers.front_mut().filter(|h| h.boundary == loaded.boundary) else {
            return;
        };
        let Some(loads) = &mut loads.loads else { return };
        let Some(awaited) = loads.iter().position(|shard| *shard == loaded.shard) else { return };
        loads.swap_remove(awaited);
        self.install(loaded);
    }

    /// Asks again for what has not come.
    pub(super) fn load_gained(&self, out: &mut Vec<InstanceEffect>) {
        let Some(Handover { boundary, gains, records, loads: Some(shards), .. }) = self.handovers.front()
        else {
            return;
        };
        let held: Vec<Slot> = records.iter().map(|(slot, _)| *slot).collect();
        let (from, generation) = (self.config.id, self.config.generation);
        let load = |shard: &ShardId| {
            let (slots, held) = (gains.clone(), held.clone());
            let load = Load { from, generation, boundary: *boundary, slots, held, begins: false };
            InstanceEffect::Load(*shard, load)
        };
        out.extend(shards.iter().map(load));
    }

    /// Whether records of gained slots have not come yet.
    pub(super) fn awaits_gained(&self) -> bool {
        self.handovers.front().is_some_and(|h| h.loads.as_ref().is_some_and(|loads| !loads.is_empty()))
    }

    /// Does what can be done of the handovers there are. Returns whether the input may go on.
    pub(super) fn hand_over(&mut self, out: &mut Vec<InstanceEffect>) -> bool {
        let mut has_moved = false;
        while self.phase == Phase::Running {
            let Some(boundary) = self.handovers.front().map(|first| first.boundary) else { break };
            if self.closed < boundary && self.input_max().is_some() {
                break;
            }
            let Some(first) = self.handovers.front_mut() else { break };
            if !first.gains.is_empty() {
                if first.loads.is_none() {
                    let granted = self.granted.iter_mut().find(|(known, _)| *known == boundary);
                    match granted {
                        Some((_, records)) => first.records = std::mem::take(records),
                        None if P::on(Protection::BufferedHandover) => break,
                        None => {}
                    }
                    first.loads = Some((0..self.config.placement.shards).map(ShardId).collect());
                    self.load_gained(out);
                }
                if self.awaits_gained() {
                    break;
                }
            }
            let records = self.handovers.pop_front().map_or_else(Vec::new, |handover| handover.records);
            for (slot, records) in records {
                let inner = &mut *self.env.inner();
                inner.records.put_slot(slot, records, &inner.steps);
            }
            self.counts.handovers += 1;
            self.begin_cache_term(boundary);
            has_moved = true;
        }
        if has_moved {
            self.advance_input();
            self.run_waiting();
        }
        has_moved
    }
}
