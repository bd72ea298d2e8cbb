//! What the first of a chain's roots does besides: it knows how far everyone is, moves the cut, and changes routing tables.
//!
//! The cut is the lowest boundary that every instance and the egress have closed. A new generation's
//! report starts at the cut, so that the cut waits for it.
//!
//! Routing tables change at the next boundary, above every clock drawn, announced in band. When those who
//! lose slots have closed that boundary, those who gain them may load what is known of them.
//!
//! Invariants: the cut never goes back and never passes a report of a current generation. Memory: an entry an instance; the
//! records of slots that change hands, until they are granted. Paper: section 5.1, 5.4.

use super::core::RootCounts;
use super::intake::Intake;
use crate::awaited::Awaited;
use crate::instance::records::SlotRecords;
use crate::messages::RootEffect;
use crate::routing::{Change, Repartition, Route};
use chc_api::{Clock, Generation, InstanceId, Position, Protection, Protections, Slot, VertexId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Slots change hands at a boundary.
struct Handover {
    boundary: Clock,
    losers: Vec<InstanceId>,
    gainers: Vec<InstanceId>,
    granted: bool,
    /// The new table, and the records of slots that were let go.
    owners: Arc<[u16]>,
    records: Vec<(Slot, SlotRecords)>,
}

/// How far everyone is, and how traffic is partitioned.
pub(super) struct Lead<P> {
    epoch: u64,
    window: u64,
    reports: BTreeMap<InstanceId, (Generation, Clock)>,
    egress: Clock,
    /// How traffic to each vertex is partitioned.
    routes: Vec<Route>,
    awaited: Awaited<P>,
    /// The last cut everyone heard of.
    told: Clock,
    /// What is asked for and has not begun.
    asked_for: VecDeque<(VertexId, Repartition)>,
    handovers: Vec<Handover>,
}

impl<P: Protections> Lead<P> {
    /// Nobody has started.
    pub(super) fn new(epoch: u64, window: u64, instances: &[InstanceId], routes: &[Route]) -> Self {
        Self {
            epoch,
            window,
            reports: instances.iter().map(|i| (*i, (Generation(0), Clock(0)))).collect(),
            egress: Clock(0),
            routes: routes.to_vec(),
            awaited: Awaited::new(routes),
            told: Clock(0),
            asked_for: VecDeque::new(),
            handovers: Vec::new(),
        }
    }

    /// Whether every instance has started.
    pub(super) fn all_started(&self) -> bool {
        self.reports.values().all(|(generation, _)| *generation > Generation(0))
    }

    /// Traffic to a vertex is to be partitioned otherwise.
    pub(super) fn ask(&mut self, vertex: VertexId, how: Repartition) {
        self.asked_for.push_back((vertex, how));
    }

    /// The instance that owns each slot of each vertex from the last boundary on.
    pub(super) fn owners(&self) -> impl Iterator<Item = &[u16]> {
        self.routes.iter().map(Route::owners_last)
    }

    /// The egress closed a boundary.
    pub(super) fn egress_closed(&mut self, boundary: Clock) {
        self.egress = self.egress.max(boundary);
    }

    /// Begins what is asked for, at the next boundary. A boundary has one change.
    pub(super) fn repartition(
        &mut self,
        intake: &mut Intake,
        counts: &mut RootCounts,
        out: &mut Vec<RootEffect>,
    ) {
        while !intake.has_ended() {
            // Above what was promised to anyone: whoever comes to the boundary, or closes it, knows of the change, so that
            // records come along when slots are let go, and the cut comes there when everyone concerned knows.
            let boundary = Clock(intake.next_clock().0 + 1).ceil(self.epoch);
            let too_far = boundary.0 - intake.cut().0 > self.window + self.epoch;
            // An idle chain goes on when it has come to the change before.
            let closed = self.reports.values().map(|(_, closed)| closed.0 + 1).max().unwrap_or(0);
            if intake.steps().next_change().0 > intake.next_clock().0.max(closed) || too_far {
                return;
            }
            let Some((vertex, how)) = self.asked_for.pop_front() else { return };
            let Some(route) = self.routes.get_mut(usize::from(vertex.0)) else { continue };
            let before = route.owners_last().to_vec();
            let after = how.apply(&before, route.fine);
            let moved: Vec<(u16, u16)> =
                before.iter().copied().zip(after.iter().copied()).filter(|(old, new)| old != new).collect();
            if moved.is_empty() {
                continue;
            }
            let owners: Arc<[u16]> = after.into();
            let change = Arc::new(Change { boundary, tables: vec![(vertex, owners.clone())] });
            route.change(&change);
            self.awaited.change(&change);
            intake.change(&change);
            let of = |pick: fn(&(u16, u16)) -> u16| {
                let mut all: Vec<u16> = moved.iter().map(pick).collect();
                all.sort_unstable();
                all.dedup();
                all.into_iter().map(|index| InstanceId { vertex, index }).collect()
            };
            let (losers, gainers): (Vec<InstanceId>, Vec<InstanceId>) =
                (of(|(old, _)| *old), of(|(_, new)| *new));
            let records = Vec::new();
            // They may not have heard of what has changed while they owned none.
            let new = gainers.iter().filter(|id| !before.contains(&id.index));
            out.extend(new.map(|id| RootEffect::Awake(*id, self.tables(intake))));
            self.handovers.push(Handover { boundary, losers, gainers, granted: false, owners, records });
            counts.handovers += 1;
            counts.slots_moved += moved.len() as u64;
            self.grant(out);
        }
    }

    /// The tables at the cut, then the changes above it.
    fn tables(&self, intake: &Intake) -> Vec<Arc<Change>> {
        let cut = intake.cut();
        let table = |route: &Route| (route.vertex, Arc::from(route.owners_at(cut)));
        let at_cut = Change { boundary: cut, tables: self.routes.iter().map(table).collect() };
        let later = intake.steps().changes_since(Clock(cut.0 + 1));
        std::iter::once(Arc::new(at_cut)).chain(later).collect()
    }

    /// Keeps the records of slots that were let go until they are granted.
    fn let_go(&mut self, vertex: VertexId, boundary: Clock, records: Vec<(Slot, SlotRecords)>) {
        let of = |h: &&mut Handover| {
            h.boundary == boundary && h.gainers.iter().all(|id| id.vertex == vertex) && !h.granted
        };
        let Some(handover) = self.handovers.iter_mut().find(of) else { return };
        for (slot, _) in &records {
            // A later generation has let go of it again.
            handover.records.retain(|(known, _)| known != slot);
        }
        handover.records.extend(records);
    }

    /// Tells those who gain slots, once those who lose them have closed the boundary.
    fn grant(&mut self, out: &mut Vec<RootEffect>) {
        for handover in self.handovers.iter_mut().filter(|handover| !handover.granted) {
            let has_closed = |id: &InstanceId| self.reports.get(id).is_some_and(|r| r.1 >= handover.boundary);
            if handover.losers.iter().all(has_closed) || !P::on(Protection::FlushedRelease) {
                handover.granted = true;
                let mut records = std::mem::take(&mut handover.records);
                for id in &handover.gainers {
                    let is_theirs = |slot: &Slot| handover.owners.get(usize::from(slot.0)) == Some(&id.index);
                    let theirs = records.extract_if(.., |(slot, _)| is_theirs(slot)).collect();
                    out.push(RootEffect::Grant(*id, handover.boundary, theirs));
                }
            }
        }
    }

    /// An instance closed a boundary, at which it lets go of slots with these records. False: it was replaced.
    pub(super) fn closed(
        &mut self,
        (instance, generation): (InstanceId, Generation),
        boundary: Clock,
        records: Vec<(Slot, SlotRecords)>,
        out: &mut Vec<RootEffect>,
    ) -> bool {
        let Some(report) = self.reports.get_mut(&instance) else { return false };
        if generation < report.0 && P::on(Protection::PinnedCut) {
            return false;
        }
        report.1 = report.1.max(boundary);
        self.let_go(instance.vertex, boundary, records);
        self.grant(out);
        true
    }

    /// A new generation of an instance starts.
    pub(super) fn register(
        &mut self,
        instance: InstanceId,
        generation: Generation,
        intake: &Intake,
        out: &mut Vec<RootEffect>,
    ) {
        let Some(report) = self.reports.get_mut(&instance) else { return };
        if generation < report.0 {
            return;
        }
        report.0 = generation;
        if P::on(Protection::PinnedCut) {
            report.1 = intake.cut();
        }
        let started = self.reports.iter().filter(|(_, (g, _))| *g > Generation(0));
        let granted = self.handovers.iter().filter(|h| h.granted && h.gainers.contains(&instance));
        out.push(RootEffect::Go {
            to: instance,
            generation,
            cut: intake.cut(),
            stamped: intake.next_clock(),
            generations: started.map(|(i, (g, _))| (*i, *g)).collect(),
            changes: self.tables(intake),
            granted: granted.map(|h| h.boundary).collect(),
        });
    }

    /// How far everyone is, if that is above the cut, and which instances are to hear of it.
    pub(super) fn move_cut(&mut self, intake: &Intake) -> Option<(Clock, Arc<[InstanceId]>)> {
        let reach = |(id, (_, closed)): (&InstanceId, &(Generation, Clock))| {
            self.awaited.reach(*id, Position::before(*closed)).clock
        };
        let lowest = self.reports.iter().map(reach).min();
        let egress = if P::on(Protection::EgressClosing) { self.egress } else { intake.next_clock() };
        let cut = lowest.map_or(egress, |lowest| lowest.min(egress));
        if cut <= intake.cut() {
            return None;
        }
        let instances = self.listeners(intake.cut(), cut);
        self.routes.iter_mut().for_each(|route| route.trim(cut));
        self.awaited.trim(cut);
        self.handovers.retain(|handover| handover.boundary > cut || !handover.granted);
        Some((cut, instances))
    }

    /// Those that have something to forget now that the cut moves: who owned slots above it, and twice a window everyone.
    fn listeners(&mut self, before: Clock, cut: Clock) -> Arc<[InstanceId]> {
        let everyone = cut.0 >= self.told.0 + self.window / 2;
        if everyone {
            self.told = cut;
        }
        let listens = |id: &&InstanceId| everyone || self.awaited.is_active_from(**id, before);
        self.reports.keys().filter(listens).copied().collect()
    }
}
