//! The state machine of the root.
//!
//! Each packet gets the next clock; packet time is the running maximum of arrival times. A packet is
//! stamped only while less than a window of clocks (and a bounded number of bytes) lies above the cut;
//! this is the chain's only back-pressure. When input pauses the root skips to the next boundary, so
//! that everything in flight can be closed; skipped clocks are void.
//!
//! The cut is the lowest boundary that every instance and the egress have closed. A new generation's
//! report starts at the cut, so that the cut waits for it.
//!
//! Clocks are leased: the store has on record up to where they may have been stamped, and the root reserves more when
//! half a lease is left, so that it seldom waits.
//!
//! Packets in flight are logged by the root itself, as what its splitter retains, or in the store as well: then none goes on
//! before it is there.
//!
//! The root also changes routing tables: at the next boundary, above every stamped clock, announced in band. When those who
//! lose slots have closed that boundary, those who gain them may load what is known of them.
//!
//! Invariants: clocks and packet time never go back; no clock is stamped that is not reserved; the cut never goes back and never passes a report
//! of a current generation. Memory: the window. Paper: section 5 (clocks, logging), 5.3, 5.4.

use super::fragments::Fragments;
use super::logging::Logging;
use crate::instance::records::SlotRecords;
use crate::messages::{Data, Destination, RootEffect, RootEvent, Source};
use crate::routing::{Change, Repartition, Route};
use crate::splitter::{Splitter, Ways};
use crate::steps::Steps;
use chc_api::packet::ParseReason;
use chc_api::packet::link::LinkType;
use chc_api::packet::parse::{PacketKind, Parsed, parse};
use chc_api::{
    Clock, Generation, InstanceId, Output, Path, Position, Protection, Protections, Side, Slot, Step, Time,
    VertexId,
};
use chc_runtime::block::{BlockPool, Desc, Ingest, Meta};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What the root is told at its creation.
#[derive(Clone)]
pub struct RootConfig {
    /// Clocks in an epoch, a power of two.
    pub epoch: u64,
    /// Clocks that may lie above the cut; at least two epochs.
    pub window: u64,
    /// Bytes of packets that may lie above the cut.
    pub bytes_max: u64,
    /// Least distance of time steps; zero for a step at every distinct time.
    pub tick_ns: u64,
    /// Where packets enter the chain.
    pub ways: Ways,
    /// Seed of the identity hash.
    pub seed: u64,
    /// All instances of the chain.
    pub instances: Vec<InstanceId>,
    /// Whether what is in flight is retained for replay.
    pub retain: bool,
    /// Clocks that are reserved in the store at once; none if there is no store.
    pub clock_lease: Option<u64>,
    /// Whether packets go on only when the store has them in its log.
    pub logs_to_store: bool,
    /// Blocks for input packets.
    pub pool: Arc<BlockPool>,
}

/// A packet as it arrives.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Arrival time.
    pub time: Time,
    /// Where it comes from.
    pub side: Side,
    /// Link type of the frame.
    pub link: LinkType,
    /// Length on the wire, in bytes.
    pub wire_len: u32,
    /// The captured bytes.
    pub frame: &'a [u8],
}

/// A clock that was given to a packet or carries time; the clocks between are void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Clock, packet time, number of the packet (0 for none).
    pub step: Step,
    /// Whether the chain's timers see this time.
    pub is_step: bool,
}

/// What the root counts.
#[derive(Clone, Debug, Default)]
pub struct RootCounts {
    /// Packets stamped.
    pub packets: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// Packets that were not understood to their end, by [`ParseReason`].
    pub reasons: BTreeMap<&'static str, u64>,
    /// Changes of routing tables.
    pub handovers: u64,
    /// Slots that went to another instance.
    pub slots_moved: u64,
}

/// The state machine.
pub struct RootCore<P> {
    config: RootConfig,
    next: Clock,
    /// Clocks below this may be stamped; and below this, once the store has answered.
    leased: Clock,
    asked: Clock,
    /// One above the last clock that is not void.
    stamped_end: Clock,
    cut: Clock,
    time: Time,
    stepped: Option<Time>,
    steps: Steps,
    fragments: Fragments,
    number: u64,
    /// Bytes stamped, by the clock of their last packet; summed up per flush.
    in_flight: VecDeque<(Clock, u64)>,
    in_flight_bytes: u64,
    unflushed_bytes: u64,
    logging: Option<Logging>,
    splitter: Splitter<P>,
    reports: BTreeMap<InstanceId, (Generation, Clock)>,
    egress: Clock,
    stamps: Vec<Stamp>,
    record_stamps: bool,
    ended: bool,
    /// How traffic to each vertex is partitioned.
    routes: Vec<Route>,
    /// What is asked for and has not begun.
    asked_for: VecDeque<(VertexId, Repartition)>,
    handovers: Vec<Handover>,
    counts: RootCounts,
}

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

impl<P: Protections> RootCore<P> {
    /// A root that has stamped nothing. With `record_stamps` every stamp is kept, for a proof of
    /// equivalence.
    #[must_use]
    pub fn new(config: RootConfig, record_stamps: bool) -> Self {
        Self {
            next: Clock(0),
            leased: Clock(if config.clock_lease.is_some() { 0 } else { u64::MAX }),
            asked: Clock(0),
            stamped_end: Clock(0),
            cut: Clock(0),
            time: Time(0),
            stepped: None,
            steps: Steps::default(),
            fragments: Fragments::default(),
            number: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            unflushed_bytes: 0,
            logging: config.logs_to_store.then(Logging::default),
            splitter: Splitter::new(Source::Root, Generation(1), &config.ways, &config.pool, config.retain),
            reports: config.instances.iter().map(|i| (*i, (Generation(0), Clock(0)))).collect(),
            egress: Clock(0),
            stamps: Vec::new(),
            record_stamps,
            ended: false,
            routes: config.ways.routes.to_vec(),
            asked_for: VecDeque::new(),
            handovers: Vec::new(),
            counts: RootCounts::default(),
            config,
        }
    }

    /// Whether every instance has started and there are clocks to stamp.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.leased > Clock(0) && self.reports.values().all(|(generation, _)| *generation > Generation(0))
    }

    /// Whether the clocks that were reserved are used up.
    #[must_use]
    pub fn awaits_lease(&self) -> bool {
        self.next >= self.leased
    }

    /// Whether another packet may be stamped now. With nothing in flight there always is room, and clocks but for the
    /// moment until the store has answered.
    #[must_use]
    pub fn has_room(&self) -> bool {
        if self.awaits_lease() {
            return false;
        }
        let above = self.next.0 - self.cut.0;
        let bytes = self.in_flight_bytes + self.unflushed_bytes;
        above == 0 || (above < self.config.window && bytes < self.config.bytes_max)
    }

    /// Stamps a packet. The caller has made sure that there is room.
    #[inline]
    pub fn ingest(&mut self, arrival: &Arrival<'_>) {
        let parsed = parse(arrival.link, arrival.frame);
        let odd = parsed.reason.is_some()
            || parsed.is(PacketKind::FIRST_FRAGMENT)
            || parsed.is(PacketKind::LATER_FRAGMENT);
        if odd {
            return self.ingest_odd(arrival, parsed);
        }
        self.stamp(arrival, parsed);
    }

    /// A fragment, or a packet that was not understood to its end.
    #[cold]
    fn ingest_odd(&mut self, arrival: &Arrival<'_>, mut parsed: Parsed) {
        self.fragments.resolve(arrival.frame, &mut parsed);
        if let Some(reason) = parsed.reason {
            self.count_reason(reason);
        }
        self.stamp(arrival, parsed);
    }

    #[inline(always)]
    fn stamp(&mut self, arrival: &Arrival<'_>, parsed: Parsed) {
        let clock = self.next;
        self.next = Clock(clock.0 + 1);
        self.stamped_end = self.next;
        self.number += 1;
        self.time = self.time.max(arrival.time.min(Time::LAST));
        self.step(clock, self.time, self.number);
        self.counts.packets += 1;
        self.counts.bytes += u64::from(arrival.wire_len);
        self.unflushed_bytes += arrival.frame.len() as u64;
        if let Some(logging) = &mut self.logging {
            logging.add(clock, self.time, arrival);
        }

        let hash = parsed.key.hash(self.config.seed);
        let meta =
            Meta::new(parsed, arrival.link, self.time, arrival.time, self.number).from_side(arrival.side);
        let ingest = Ingest {
            clock,
            path: Path::FIRST,
            hash,
            wire_len: arrival.wire_len,
            bits: Desc::bits_of(&parsed, arrival.frame),
        };
        // Nothing is discarded at the entry: there is an edge.
        let edge = self.splitter.pick(Output::FIRST, hash, clock, || parsed.identity());
        if let Some(edge) = edge {
            self.splitter.builder(edge).ingest(arrival.frame, parsed.head_len(arrival.frame), ingest, meta);
        }
    }

    /// Reserves clocks in time: none is stamped that a later root could stamp again.
    fn reserve(&mut self, out: &mut Vec<RootEffect>) {
        let Some(lease) = self.config.clock_lease else { return };
        if self.asked <= self.leased && self.next.0 + lease.div_ceil(2) >= self.leased.0 {
            self.asked = Clock(self.next.max(self.leased).0 + lease);
            out.push(RootEffect::Reserve(self.asked));
        }
    }

    fn count_reason(&mut self, reason: ParseReason) {
        *self.counts.reasons.entry(reason.as_str()).or_default() += 1;
    }

    #[inline]
    fn step(&mut self, clock: Clock, time: Time, number: u64) {
        let due = self.stepped.is_none_or(|last| time.0 - last.0 >= self.config.tick_ns.max(1));
        if due {
            self.push_step(Step { clock, time, number });
            self.stepped = Some(time);
        }
        if self.record_stamps {
            self.stamps.push(Stamp { step: Step { clock, time, number }, is_step: due });
        }
    }

    fn push_step(&mut self, step: Step) {
        self.steps.extend(&[step]);
    }

    /// Time passes without packets: a void clock carries it.
    pub fn time_mark(&mut self, time: Time) {
        let time = time.min(Time::LAST);
        if time <= self.time || !self.has_room() || self.ended {
            return;
        }
        self.time = time;
        let clock = self.next;
        self.next = Clock(clock.0 + 1);
        self.step(clock, time, 0);
    }

    /// The input pauses: skips to the next boundary, so that everything in flight can be closed.
    pub fn pause(&mut self) {
        self.next = self.next.ceil(self.config.epoch);
    }

    /// The input has ended: a void clock carries the end of time. The caller has made sure that there
    /// is room.
    pub fn end(&mut self) {
        if self.ended {
            return;
        }
        self.ended = true;
        let clock = self.next;
        self.next = Clock(clock.0 + 1);
        let end = Step { clock, time: Time::end_after(self.time), number: 0 };
        self.push_step(end);
        if self.record_stamps {
            self.stamps.push(Stamp { step: end, is_step: true });
        }
        self.pause();
    }

    /// Whether the input has ended and everything is finished and logged.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.ended && self.cut == self.next
    }

    /// Begins what is asked for, at the next boundary. A boundary has one change.
    fn repartition(&mut self, out: &mut Vec<RootEffect>) {
        while !self.ended {
            // Above the cut: whoever began there knows the tables from there on. And above what has been closed:
            // records come along when a boundary is closed at which slots are let go.
            let closed = self.reports.values().map(|(_, closed)| *closed).max().unwrap_or(self.cut);
            let boundary = Clock(self.next.0.max(closed.0.max(self.cut.0) + 1)).ceil(self.config.epoch);
            let too_far = boundary.0 - self.cut.0 > self.config.window + self.config.epoch;
            if self.steps.next_change() > boundary || too_far {
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
            self.next = boundary;
            let owners: Arc<[u16]> = after.into();
            let change = Arc::new(Change { boundary, tables: vec![(vertex, owners.clone())] });
            route.change(&change);
            self.splitter.reroute(&change);
            self.steps.change(&change);
            let of = |pick: fn(&(u16, u16)) -> u16| {
                let mut all: Vec<u16> = moved.iter().map(pick).collect();
                all.sort_unstable();
                all.dedup();
                all.into_iter().map(|index| InstanceId { vertex, index }).collect()
            };
            let (losers, gainers) = (of(|(old, _)| *old), of(|(_, new)| *new));
            let records = Vec::new();
            self.handovers.push(Handover { boundary, losers, gainers, granted: false, owners, records });
            self.counts.handovers += 1;
            self.counts.slots_moved += moved.len() as u64;
            self.grant(out);
        }
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

    /// The instance that owns each slot of each vertex from the last boundary on.
    pub fn owners(&self) -> impl Iterator<Item = &[u16]> {
        self.routes.iter().map(Route::owners_last)
    }

    /// Sends what was stamped since the last call, and the progress.
    pub fn flush(&mut self, out: &mut Vec<RootEffect>) {
        self.repartition(out);
        if self.unflushed_bytes > 0 {
            let bytes = std::mem::take(&mut self.unflushed_bytes);
            self.in_flight_bytes += bytes;
            self.in_flight.push_back((Clock(self.next.0 - 1), bytes));
        }
        self.reserve(out);
        let progress = Position::before(self.next);
        self.send(out, |splitter, steps, send| splitter.flush(steps, progress, send));
    }

    /// Sends what the splitter sends, or holds it until the log has it.
    fn send(
        &mut self,
        out: &mut Vec<RootEffect>,
        send: impl FnOnce(&mut Splitter<P>, &Steps, &mut dyn FnMut(Destination, Data)),
    ) {
        let Some(logging) = &mut self.logging else {
            return send(&mut self.splitter, &self.steps, &mut |to, data| {
                out.push(RootEffect::Data(to, data))
            });
        };
        let mut sends = Vec::new();
        send(&mut self.splitter, &self.steps, &mut |to, data| sends.push(RootEffect::Data(to, data)));
        logging.hold(sends.into_iter(), out);
    }

    /// Takes an event.
    pub fn on_event(&mut self, event: RootEvent, out: &mut Vec<RootEffect>) {
        match event {
            RootEvent::Register(instance, generation) => self.register(instance, generation, out),
            RootEvent::Replay(to, generation, boundary) => {
                self.send(out, |splitter, steps, send| {
                    splitter.replay(to, generation, boundary, steps, send);
                });
            }
            RootEvent::Closed(instance, generation, boundary, records) => {
                let Some(report) = self.reports.get_mut(&instance) else { return };
                if generation < report.0 && P::on(Protection::PinnedCut) {
                    return;
                }
                report.1 = report.1.max(boundary);
                self.let_go(instance.vertex, boundary, records);
                self.grant(out);
                self.move_cut(out);
            }
            RootEvent::Repartition(vertex, how) => {
                self.asked_for.push_back((vertex, how));
                self.repartition(out);
            }
            RootEvent::Reserved(until) => self.leased = self.leased.max(until),
            RootEvent::Logged(number) => {
                if let Some(logging) = &mut self.logging {
                    logging.on_logged(number, out);
                }
            }
            RootEvent::EgressClosed(boundary) => {
                self.egress = self.egress.max(boundary);
                self.move_cut(out);
            }
        }
    }

    fn register(&mut self, instance: InstanceId, generation: Generation, out: &mut Vec<RootEffect>) {
        let Some(report) = self.reports.get_mut(&instance) else { return };
        if generation < report.0 {
            return;
        }
        report.0 = generation;
        if P::on(Protection::PinnedCut) {
            report.1 = self.cut;
        }
        self.reserve(out);
        let started = self.reports.iter().filter(|(_, (g, _))| *g > Generation(0));
        let tables = |route: &Route| (route.vertex, Arc::from(route.owners_at(self.cut)));
        let at_cut = Change { boundary: self.cut, tables: self.routes.iter().map(tables).collect() };
        let later = self.steps.changes_since(Clock(self.cut.0 + 1));
        let granted = self.handovers.iter().filter(|h| h.granted && h.gainers.contains(&instance));
        out.push(RootEffect::Go {
            to: instance,
            generation,
            cut: self.cut,
            stamped: self.next,
            generations: started.map(|(i, (g, _))| (*i, *g)).collect(),
            changes: std::iter::once(Arc::new(at_cut)).chain(later).collect(),
            granted: granted.map(|h| h.boundary).collect(),
        });
    }

    fn move_cut(&mut self, out: &mut Vec<RootEffect>) {
        let lowest = self.reports.values().map(|(_, closed)| *closed).min();
        let egress = if P::on(Protection::EgressClosing) { self.egress } else { self.next };
        let cut = lowest.map_or(egress, |lowest| lowest.min(egress));
        if cut <= self.cut {
            return;
        }
        self.cut = cut;
        self.splitter.trim(cut);
        // Steps are needed from the cut on, for replays.
        self.steps.trim(cut);
        self.routes.iter_mut().for_each(|route| route.trim(cut));
        self.handovers.retain(|handover| handover.boundary > cut || !handover.granted);
        while self.in_flight.front().is_some_and(|(last, _)| *last < cut) {
            if let Some((_, bytes)) = self.in_flight.pop_front() {
                self.in_flight_bytes -= bytes;
            }
        }
        out.push(RootEffect::Cut(cut));
    }

    /// The chain's cut.
    #[must_use]
    pub fn cut(&self) -> Clock {
        self.cut
    }

    /// The next clock to be stamped.
    #[must_use]
    pub fn next_clock(&self) -> Clock {
        self.next
    }

    /// Every stamp in clock order, if they are recorded.
    #[must_use]
    pub fn stamps(&self) -> &[Stamp] {
        &self.stamps
    }

    /// Every stamp; none are left.
    pub fn take_stamps(&mut self) -> Vec<Stamp> {
        std::mem::take(&mut self.stamps)
    }

    /// The packet time reached.
    #[must_use]
    pub fn time(&self) -> Time {
        self.time
    }

    /// What has been counted.
    #[must_use]
    pub fn counts(&self) -> &RootCounts {
        &self.counts
    }

    /// Checks what must always hold.
    ///
    /// # Panics
    /// If an invariant is broken: a defect of this code.
    pub fn check_invariants(&self) {
        assert!(self.stamped_end <= self.leased, "every stamped clock is reserved");
        assert!(self.cut <= self.next, "the cut cannot pass what was stamped");
        assert!(
            self.next.0 - self.cut.0 <= self.config.window + self.config.epoch,
            "the window bounds what is in flight"
        );
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "handover_tests.rs"]
mod handover_tests;
