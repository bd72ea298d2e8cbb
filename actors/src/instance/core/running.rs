//! How an instance runs what has arrived: at once, as a future, behind others of its lane, or by a timer.

use super::{InstanceCore, Spawn, Waiting};
use crate::instance::context::{Among, Cx, Inner, Job, waker};
use crate::instance::lanes::LaneId;
use crate::instance::passing::Passage;
use crate::instance::records::{Due, Records, Spot};
use crate::routing::Route;
use crate::splitter::Splitter;
use chc_api::nf::PacketHint;
use chc_api::packet::parse::parse;
use chc_api::{
    Clock, Direction, Identity, NetworkFunction, ObjectId, Output, Path, Position, Protections, Resolution,
    Time, TimerEvent, Verdict,
};
use chc_runtime::block::{BlockRef, Changed, Desc, DropRecord, EventRecord, Ingest, Meta};
use std::task::{Context as TaskContext, Poll};

/// So many due timers are looked at one by one.
const FEW_DUE: usize = 16;

impl<N: NetworkFunction, P: Protections, S: Spawn<N, P>> InstanceCore<N, P, S> {
    /// A packet that is new here, and that was `tried` at once already or was not.
    pub(super) fn accept(&mut self, block: &BlockRef, at: usize, spot: Option<Spot>, tried: bool) {
        let desc = &block.descs[at];
        if !self.lanes.is_empty() {
            let lane = self.lane_of_packet(block, at);
            if self.lanes.blocks(lane, &desc.position()) {
                return self.lanes.push(lane, desc.position(), Waiting { block: block.clone(), at });
            }
        }
        if !self.run_packet(block, at, spot, tried) {
            let lane = self.lane_of_packet(block, at);
            self.lanes.push(lane, desc.position(), Waiting { block: block.clone(), at });
        }
    }

    pub(super) fn lane(&self, identity: &Identity, hash: u64) -> LaneId {
        if N::TRANSLATES { lane(&*self.nf, &self.config.own, identity, hash) } else { hash }
    }

    fn lane_of_packet(&self, block: &BlockRef, at: usize) -> LaneId {
        let desc = &block.descs[at];
        if !N::TRANSLATES {
            return desc.hash;
        }
        let identity = block.meta(desc).parsed.identity();
        // A sole instance may get blocks as they came to the one before, with the slots there.
        let slot = block.slot(at).filter(|_| self.config.own.instances > 1);
        match slot {
            Some(slot) => self.nf.lane(&identity.key).unwrap_or(slot.0.into()),
            None => self.lane(&identity, desc.hash),
        }
    }

    /// Runs a packet that nothing of its lane is in front of. False if it must wait: for lower packets
    /// of the input, for a timer of its flow, or for a free slot.
    pub(super) fn run_packet(
        &mut self,
        block: &BlockRef,
        at: usize,
        spot: Option<Spot>,
        tried: bool,
    ) -> bool {
        let desc = &block.descs[at];
        let position = desc.position();
        let meta = block.meta(desc);
        let carried = meta.parsed.identity();

        while let Some(due) = self.due_before(block, at) {
            let is_busy = |core: &Self| core.lanes.is_busy(core.lane_of_packet(block, at));
            if !self.run_timer(&due) || !self.lanes.is_empty() && is_busy(self) {
                return false;
            }
        }
        let mut spot = spot.unwrap_or_else(|| spot_of(&self.env.inner().records, block, at));
        // What waits is of other lanes.
        let is_free = self.config.poisoned.is_empty() && !self.config.mode.awaits_acknowledgement();
        if is_free && !tried && self.run_at_once(block, at, Some(spot)) {
            self.begun += 1;
            return true;
        }
        let (mut identity, mut hash) = (carried, desc.hash);
        if N::TRANSLATES
            && let Resolution::Translated(to) = self.resolve(&carried, spot)
        {
            // It is of the same slot.
            (identity, hash, spot) = (to, to.key.hash(self.config.own.seed), Spot::of(spot.part));
        } else if self.nf.passes(packet_hint(desc)) && !self.config.poisoned.contains(&position) {
            self.begun += 1;
            self.splitter.forward(Output::FIRST, block, desc);
            self.splitter.enter(block, desc);
            return true;
        }
        let Some(slot) = self.take_slot(&position) else { return false };
        self.begin_packet(slot, (block, at), (identity, hash, spot), identity != carried);
        let lane = (&carried, desc.hash);
        self.run_future(slot, None, Some(block), lane, &position);
        true
    }

    /// Handles a packet without a future, if the function can.
    #[inline(always)]
    pub(super) fn run_at_once(&mut self, block: &BlockRef, at: usize, spot: Option<Spot>) -> bool {
        let desc = &block.descs[at];
        if self.nf.passes(packet_hint(desc)) {
            self.splitter.forward(Output::FIRST, block, desc);
            self.splitter.enter(block, desc);
            return true;
        }
        let inner = &mut *self.env.inner();
        let spot = spot.unwrap_or_else(|| spot_of(&inner.records, block, at));
        let state = (&inner.records, inner.replica.as_ref());
        let mut passage = Passage::new(state, &mut inner.state, &mut self.splitter, (block, at), spot);
        self.config.running.note(desc.clock, desc.path);
        let verdict = self.nf.at_once(&mut passage);
        self.config.running.returned();
        let Some(verdict) = verdict else { return false };
        passage.finish(verdict);
        true
    }

    #[inline(always)]
    pub(super) fn begin_packet(
        &mut self,
        slot: usize,
        (block, at): (&BlockRef, usize),
        (identity, hash, spot): (Identity, u64, Spot),
        renamed: bool,
    ) {
        let desc = &block.descs[at];
        let meta = block.meta(desc);
        let mut inner = self.env.inner();
        let job = &mut inner.jobs[slot];
        job.reset();
        job.is_timer = false;
        job.at = at;
        job.position = desc.position();
        job.now = meta.time;
        job.number = meta.number;
        job.identity = identity;
        job.hash = hash;
        job.spot = spot;
        job.renamed = renamed;
    }

    fn resolve(&self, carried: &Identity, spot: Spot) -> Resolution {
        let inner = self.env.inner();
        self.nf.resolve(carried, &Among { records: &inner.records, part: spot.part })
    }

    /// The first due timer that comes before a packet: of its flow, or of its slot where a slot's
    /// packets run in order.
    pub(super) fn due_before(&self, block: &BlockRef, at: usize) -> Option<Position> {
        let inner = self.env.inner();
        let due = inner.records.due();
        if due.is_empty() {
            return None;
        }
        let desc = &block.descs[at];
        let position = desc.position();
        if !N::TRANSLATES {
            // A few are seen through sooner than the connection's records are looked up.
            if due.len() <= FEW_DUE && !due.range(..position).any(|(_, due)| due.lane == desc.hash) {
                return None;
            }
            let key = &block.meta(desc).parsed.key;
            return inner.records.due_of(key, desc.hash, &position, &inner.steps);
        }
        let lane = self.lane_of_packet(block, at);
        due.range(..position).find(|(_, due)| due.lane == lane).map(|(due, _)| *due)
    }

    /// Fires a due timer. False if there is no slot for it.
    pub(super) fn run_timer(&mut self, position: &Position) -> bool {
        let Some(slot) = self.take_slot(position) else { return false };
        let Some(origin) = position.origin else { return false };
        let (key, hash, previous) = {
            let mut inner = self.env.inner();
            let Some(Due { key, .. }) = inner.records.take_due(position) else {
                self.free.push(slot);
                return true;
            };
            let hash = inner.hash(&key);
            let Inner { records, steps, .. } = &mut *inner;
            let spot = records.spot(&key, hash);
            records.disarm_due(position, &key, hash, steps);
            let step = inner.steps.at(position.clock);
            let job = &mut inner.jobs[slot];
            job.reset();
            job.is_timer = true;
            job.position = *position;
            job.now = step.map_or(Time::END, |s| s.time);
            job.number = step.map_or(0, |s| s.number);
            job.identity = Identity { key, direction: Direction::LowToHigh };
            job.hash = hash;
            job.spot = spot;
            (key, hash, inner.current.take())
        };
        self.counts.timers += 1;
        let event = TimerEvent { object: origin.object, index: origin.index };
        let lane = (&Identity { key, direction: Direction::LowToHigh }, hash);
        self.run_future(slot, Some(event), None, lane, position);
        self.env.inner().current = previous;
        true
    }

    #[inline]
    pub(super) fn run_future(
        &mut self,
        slot: usize,
        timer: Option<TimerEvent>,
        block: Option<&BlockRef>,
        (identity, hash): (&Identity, u64),
        position: &Position,
    ) {
        self.begun += 1;
        if !self.config.poisoned.is_empty() && self.config.poisoned.contains(&blamed(position)) {
            self.env.inner().disown(position);
            self.finish(slot, block, Verdict::Drop("nf_panic"));
            return self.free.push(slot);
        }
        self.config.running.note(position.clock, position.path);
        self.note_order(position);
        let future = self.spawn.spawn(self.nf.clone(), Cx::new(&self.env, slot), timer);
        self.futures[slot].as_mut().set(Some(future));
        match self.poll(slot) {
            Poll::Ready(verdict) => {
                self.finish(slot, block, verdict);
                self.free.push(slot);
            }
            Poll::Pending => {
                self.counts.parked += 1;
                self.env.inner().jobs[slot].block = block.cloned();
                let lane = self.lane(identity, hash);
                self.lane_of[slot] = lane;
                self.lanes.occupy(lane);
                self.parked.insert(*position, slot);
            }
        }
    }

    #[inline]
    pub(super) fn poll(&mut self, slot: usize) -> Poll<Verdict> {
        let mut task = TaskContext::from_waker(waker());
        let polled = match self.futures[slot].as_mut().as_pin_mut() {
            Some(future) => future.poll(&mut task),
            None => Poll::Pending,
        };
        self.config.running.returned();
        polled
    }

    /// A slot for a job at this position; the last one is kept for the lowest packet or due timer there
    /// is, so that those that wait for it in other slots cannot starve it.
    pub(super) fn take_slot(&mut self, position: &Position) -> Option<usize> {
        if self.free.len() == 1 {
            let lowest = self.parked.keys().next().is_none_or(|p| position < p)
                && self.lanes.lowest().is_none_or(|p| *position <= p)
                && self.env.inner().records.due().keys().next().is_none_or(|p| position <= p);
            if !lowest || *position > self.input {
                self.stalled = true;
                return None;
            }
        }
        let slot = self.free.pop();
        self.stalled |= slot.is_none();
        slot
    }

    /// A job has ended: its outputs go to the splitter.
    #[inline(always)]
    pub(super) fn finish(&mut self, slot: usize, block: Option<&BlockRef>, verdict: Verdict) {
        let inner = &mut *self.env.inner();
        if let Verdict::Send(output) = verdict {
            inner.check_output(slot, output);
        }
        let job = &mut inner.jobs[slot];
        for (index, event) in job.events.iter().enumerate() {
            self.splitter.event(EventRecord {
                position: job.position,
                index: index as u16,
                time: job.now,
                number: job.number,
                event: *event,
            });
        }
        // What a timer did is in its record and its events.
        let Some(block) = block.filter(|_| !job.is_timer) else { return };
        let desc = &block.descs[job.at];
        match verdict {
            Verdict::Drop(reason) => self.splitter.dropped(DropRecord { position: job.position, reason }),
            Verdict::Forward => send(&mut self.splitter, Output::FIRST, block, job),
            Verdict::Send(output) => send(&mut self.splitter, output, block, job),
        }
        if !job.extra.is_empty() {
            let meta = block.meta(desc);
            for (at, (output, direction, frame)) in job.extra.iter().enumerate() {
                let mut parsed = parse(meta.link, frame);
                (parsed.key, parsed.direction) = (job.identity.key, *direction);
                // What goes the other way than the packet that caused it leaves where that one came from.
                let side = if *direction == job.identity.direction { meta.side } else { meta.side.other() };
                let meta =
                    Meta::new(parsed, meta.link, meta.time, meta.captured, meta.number).from_side(side);
                let hash = job.hash;
                let (clock, wire_len, bits) = (desc.clock, frame.len() as u32, Desc::bits_of(&parsed, frame));
                let ingest = Ingest { clock, path: desc.path, hash, wire_len, bits };
                self.splitter.emit(at as u8 + 1, *output, frame, desc.path, ingest, meta);
            }
        }
        self.splitter.enter(block, desc);
    }

    /// The result a parked job waited for is there.
    pub(super) fn resume(&mut self, slot: usize) {
        let position = self.env.inner().jobs[slot].position;
        self.config.running.note(position.clock, position.path);
        self.note_order(&position);
        let Poll::Ready(verdict) = self.poll(slot) else { return };
        self.futures[slot].as_mut().set(None);
        let block = self.env.inner().jobs[slot].block.take();
        self.finish(slot, block.as_ref(), verdict);
        self.parked.remove(&position);
        self.free.push(slot);
        let lane = self.lane_of[slot];
        self.lanes.vacate(lane);
        self.advance(lane);
        self.env.inner().records.try_again_from(Position::before(Clock(0)));
    }

    /// Runs what waits in a lane until it is busy, empty, or its head must wait.
    pub(super) fn advance(&mut self, lane: LaneId) {
        while let Some((_, head)) = self.lanes.head(lane) {
            let (block, at) = (head.block.clone(), head.at);
            // It leaves the lane first: its own place in the queue is not a reason to wait.
            self.lanes.pop(lane);
            let previous = self.env.inner().current.replace(block.clone());
            let ran = self.run_packet(&block, at, None, false);
            self.env.inner().current = previous;
            if !ran {
                let position = block.descs[at].position();
                self.lanes.push(lane, position, Waiting { block, at });
                return;
            }
        }
    }

    /// Tries again what waited for progress or a slot, and fires due timers, until neither makes way for
    /// the other any more.
    pub(super) fn run_waiting(&mut self) {
        loop {
            let begun = self.begun;
            self.resume_stalled();
            self.fire_due();
            if !self.stalled || self.begun == begun {
                return;
            }
        }
    }

    /// Tries again what waited for progress or a slot.
    pub(super) fn resume_stalled(&mut self) {
        if !std::mem::take(&mut self.stalled) {
            return;
        }
        for (nth, lane) in self.lanes.ready().into_iter().enumerate() {
            if nth > 0 && self.free.len() <= 1 {
                // The last slot is for the lowest.
                self.stalled = true;
                break;
            }
            self.advance(lane);
        }
        self.env.inner().records.try_again_from(Position::before(Clock(0)));
    }

    /// Fires the timers the input progress has passed.
    pub(super) fn fire_due(&mut self) {
        let mut from = self.env.inner().records.begin_trying(self.input);
        while from < self.input {
            let next = {
                let inner = self.env.inner();
                let mut range = inner.records.due().range(from..self.input);
                range.next().map(|(position, due)| (*position, due.lane))
            };
            let Some((position, lane)) = next else { return };
            from = after(&position);
            if !self.lanes.is_empty() && self.lanes.blocks(lane, &position) {
                continue;
            }
            if !self.run_timer(&position) {
                return self.env.inner().records.try_again_from(position);
            }
        }
    }
}

/// The hash of a packet, and the part its records are in.
#[inline(always)]
pub(super) fn place<P: Protections>(records: &Records<P>, block: &BlockRef, at: usize) -> (u64, u32) {
    (block.descs[at].hash, records.part(block, at))
}

/// What a function that translates runs in order with a packet of this identity.
pub(super) fn lane<N: NetworkFunction>(nf: &N, own: &Route, identity: &Identity, hash: u64) -> LaneId {
    nf.lane(&identity.key).unwrap_or_else(|| own.slot(identity, hash).0.into())
}

/// Where a packet's records are.
#[inline(always)]
fn spot_of<P: Protections>(records: &Records<P>, block: &BlockRef, at: usize) -> Spot {
    Spot::of(records.part(block, at))
}

pub(super) fn packet_hint(desc: &Desc) -> PacketHint {
    PacketHint {
        tcp_flags: desc.tcp_flags,
        tcp: desc.bits & Desc::TCP != 0,
        payload: desc.bits & Desc::PAYLOAD != 0,
        icmp_error: desc.bits & Desc::ICMP_ERROR != 0,
    }
}

/// Sends on a packet its function has handled.
#[inline(always)]
fn send<P: Protections>(splitter: &mut Splitter<P>, output: Output, block: &BlockRef, job: &Job) {
    let desc = &block.descs[job.at];
    if !(job.rewritten || job.renamed || job.attached.is_some()) {
        return splitter.forward(output, block, desc);
    }
    let meta = (job.renamed || job.attached.is_some()).then(|| {
        let mut meta = *block.meta(desc);
        (meta.parsed.key, meta.parsed.direction) = (job.identity.key, job.identity.direction);
        (meta, job.attached.or_else(|| block.attached(desc)), job.hash)
    });
    let head = job.rewritten.then_some(job.head.as_slice());
    splitter.forward_changed(output, block, desc, &Changed { head, meta });
}

/// The least position above one.
fn after(position: &Position) -> Position {
    let mut next = *position;
    match &mut next.origin {
        Some(origin) if origin.index < u8::MAX => origin.index += 1,
        Some(origin) => {
            origin.index = 0;
            origin.object = ObjectId(origin.object.0.wrapping_add(1));
        }
        None => next.path = Path(next.path.0 + 1),
    }
    next
}

/// The position a panic is blamed on: timers by their clock alone.
fn blamed(position: &Position) -> Position {
    Position::packet(position.clock, position.path)
}
