//! What the roots of a chain share: the sequence of clocks, packet time, and the packets that wait for their root.
//!
//! Whoever reads the input *draws* a clock for each packet, in the order in which packets come: so there is one order and one
//! time, that of the input, whatever root a packet belongs to and however late that root is. Packet time is the running
//! maximum of arrival times. A packet is drawn for only while less than a window of clocks (and a bounded number of bytes)
//! lies above the cut; this is the chain's only back-pressure. When input pauses, the next boundary is drawn, so that
//! everything in flight can be closed; skipped clocks are void.
//!
//! Clocks are leased: the store has on record up to where they may have been stamped, and the first root reserves more when
//! half a lease is left, so that it seldom waits.
//!
//! With several roots a packet waits, with its clock, in the queue of the one it belongs to. What a root may say of its
//! progress ends below the first that waits for it.
//!
//! Invariants: clocks and packet time never go back; no clock is drawn that is not reserved. Memory: the window, and the
//! bound on bytes. Paper: section 4.1 (several roots), 5 (clocks).

use super::core::RootConfig;
use crate::messages::RootEffect;
use crate::routing::Change;
use crate::steps::Steps;
use chc_api::packet::link::LinkType;
use chc_api::packet::parse::{Parsed, parse};
use chc_api::{Clock, Side, Step, Time};
use chc_runtime::io::Frame;
use std::collections::VecDeque;
use std::sync::Arc;

/// A packet as it arrives.
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
    pub frame: Frame<'a>,
}

/// What a packet is stamped with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Its clock.
    pub clock: Clock,
    /// Packet time.
    pub time: Time,
    /// Its number among the input packets, from 1.
    pub number: u64,
}

/// A clock that was given to a packet or carries time; the clocks between are void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Clock, packet time, number of the packet (0 for none).
    pub step: Step,
    /// Whether the chain's timers see this time.
    pub is_step: bool,
}

/// Packets that wait for their root, in the order of their clocks.
#[derive(Default)]
pub struct Queue {
    waiting: Vec<Waiting>,
    bytes: Vec<u8>,
}

/// One of them; its captured bytes follow those of the one before.
struct Waiting {
    ticket: Ticket,
    parsed: Parsed,
    time: Time,
    side: Side,
    link: LinkType,
    wire_len: u32,
    len: usize,
}

const _: () = assert!(size_of::<Waiting>() <= 144);

impl Queue {
    fn push(&mut self, ticket: Ticket, arrival: &Arrival<'_>, parsed: Parsed) {
        self.bytes.extend_from_slice(&arrival.frame);
        self.waiting.push(Waiting {
            ticket,
            parsed,
            time: arrival.time,
            side: arrival.side,
            link: arrival.link,
            wire_len: arrival.wire_len,
            len: arrival.frame.len(),
        });
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Hands every packet on; none is left.
    pub fn drain(&mut self, mut take: impl FnMut(&mut Arrival<'_>, Parsed, Ticket)) {
        let mut rest = self.bytes.as_slice();
        for waiting in self.waiting.drain(..) {
            let (frame, behind) = rest.split_at(waiting.len);
            rest = behind;
            let Waiting { time, side, link, wire_len, .. } = waiting;
            let mut arrival = Arrival { time, side, link, wire_len, frame: frame.into() };
            take(&mut arrival, waiting.parsed, waiting.ticket);
        }
        self.bytes.clear();
    }
}

/// The state machine.
pub struct Intake {
    config: RootConfig,
    next: Clock,
    /// Clocks below this may be drawn; and below this, once the store has answered.
    leased: Clock,
    asked: Clock,
    /// One above the last clock that is not void.
    drawn_end: Clock,
    cut: Clock,
    time: Time,
    stepped: Option<Time>,
    steps: Steps,
    number: u64,
    /// Bytes drawn for, by the clock of their last packet; summed up per flush.
    in_flight: VecDeque<(Clock, u64)>,
    in_flight_bytes: u64,
    unflushed_bytes: u64,
    /// Where the epoch begins that is open, and the bytes of bursts that ended in it.
    epoch_begun: Clock,
    epoch_bytes: u64,
    stamps: Vec<Stamp>,
    record_stamps: bool,
    ended: bool,
    /// Of each root; none of them is used by a chain with one.
    queues: Vec<Queue>,
}

impl Intake {
    /// Nothing has been drawn. With `record_stamps` every stamp is kept, for a proof of equivalence.
    #[must_use]
    pub fn new(config: RootConfig, record_stamps: bool) -> Self {
        Self {
            next: Clock(0),
            leased: Clock(if config.clock_lease.is_some() { 0 } else { u64::MAX }),
            asked: Clock(0),
            drawn_end: Clock(0),
            cut: Clock(0),
            time: Time(0),
            stepped: None,
            steps: Steps::default(),
            number: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            unflushed_bytes: 0,
            epoch_bytes: 0,
            epoch_begun: Clock(0),
            stamps: Vec::new(),
            record_stamps,
            ended: false,
            queues: (0..config.shares.roots()).map(|_| Queue::default()).collect(),
            config,
        }
    }

    /// Whether the clocks that were reserved are used up.
    #[must_use]
    pub fn awaits_lease(&self) -> bool {
        self.next >= self.leased
    }

    /// Whether there are clocks at all.
    #[must_use]
    pub fn has_lease(&self) -> bool {
        self.leased > Clock(0)
    }

    /// Whether another packet may be drawn for now. With nothing in flight there always is room, and clocks but for the
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

    /// Draws the clock of a packet. The caller has made sure that there is room.
    // Called for each packet from one place that matters: a call costs more than half of what it does.
    #[inline(always)]
    pub fn draw(&mut self, arrival: &Arrival<'_>) -> Ticket {
        let clock = self.next;
        self.next = Clock(clock.0 + 1);
        self.drawn_end = self.next;
        self.number += 1;
        self.time = self.time.max(arrival.time.min(Time::LAST));
        self.unflushed_bytes += arrival.frame.len() as u64;
        self.step(clock, self.time, self.number);
        Ticket { clock, time: self.time, number: self.number }
    }

    /// Draws the clock of a packet, which waits with it for its root. The caller has made sure that there is room.
    pub fn dispatch(&mut self, arrival: &Arrival<'_>) {
        let ticket = self.draw(arrival);
        let parsed = parse(arrival.link, &arrival.frame);
        let root = self.config.shares.root_of(&parsed.key);
        self.queues[usize::from(root)].push(ticket, arrival, parsed);
    }

    /// Takes what waits for a root; `into` is empty.
    pub fn take(&mut self, root: u16, into: &mut Queue) {
        std::mem::swap(&mut self.queues[usize::from(root)], into);
    }

    /// How far a root may say it is that has sent whatever it took: all its packets below this clock have been taken.
    #[must_use]
    pub fn taken(&self, root: u16) -> Clock {
        self.queues[usize::from(root)].waiting.first().map_or(self.next, |first| first.ticket.clock)
    }

    #[inline]
    fn step(&mut self, clock: Clock, time: Time, number: u64) {
        let due = self.stepped.is_none_or(|last| time.0 - last.0 >= self.config.tick_ns.max(1));
        if due {
            self.steps.extend(&[Step { clock, time, number }]);
            self.stepped = Some(time);
        }
        if self.record_stamps {
            self.stamps.push(Stamp { step: Step { clock, time, number }, is_step: due });
        }
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

    /// Draws a boundary at or above all that was drawn, for tables that change there.
    pub(super) fn change(&mut self, change: &Arc<Change>) {
        self.next = self.next.max(change.boundary);
        self.steps.change(change);
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
        self.steps.extend(&[end]);
        if self.record_stamps {
            self.stamps.push(Stamp { step: end, is_step: true });
        }
        self.pause();
    }

    /// Whether the input has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the input has ended and everything is finished and logged.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.ended && self.cut == self.next
    }

    /// Reserves clocks in time: none is drawn that a later root could draw again.
    pub(super) fn reserve(&mut self, out: &mut Vec<RootEffect>) {
        let Some(lease) = self.config.clock_lease else { return };
        if self.asked <= self.leased && self.next.0 + lease.div_ceil(2) >= self.leased.0 {
            self.asked = Clock(self.next.max(self.leased).0 + lease);
            out.push(RootEffect::Reserve(self.asked));
        }
    }

    /// The store has on record that clocks below this one may be drawn.
    pub(super) fn reserved(&mut self, until: Clock) {
        self.leased = self.leased.max(until);
    }

    /// A burst is over: sums its bytes up. An epoch that has enough of them ends, so that what is kept for the case of a
    /// failure stays small enough for a core's cache.
    pub(super) fn end_burst(&mut self) {
        if self.unflushed_bytes == 0 {
            return;
        }
        let bytes = std::mem::take(&mut self.unflushed_bytes);
        self.in_flight_bytes += bytes;
        self.in_flight.push_back((Clock(self.next.0 - 1), bytes));
        let begun = self.next.floor(self.config.epoch);
        if begun != self.epoch_begun {
            (self.epoch_begun, self.epoch_bytes) = (begun, 0);
        }
        self.epoch_bytes += bytes;
        if self.epoch_bytes >= self.config.epoch_bytes {
            self.epoch_bytes = 0;
            self.pause();
        }
    }

    /// The chain's cut moved.
    pub(super) fn trim(&mut self, cut: Clock) {
        self.cut = cut;
        // Steps are needed from the cut on, for replays.
        self.steps.trim(cut);
        while self.in_flight.front().is_some_and(|(last, _)| *last < cut) {
            if let Some((_, bytes)) = self.in_flight.pop_front() {
                self.in_flight_bytes -= bytes;
            }
        }
    }

    /// The time steps, and changes of routing tables.
    #[must_use]
    pub fn steps(&self) -> &Steps {
        &self.steps
    }

    /// The chain's cut.
    #[must_use]
    pub fn cut(&self) -> Clock {
        self.cut
    }

    /// The next clock to be drawn.
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

    /// Checks what must always hold.
    ///
    /// # Panics
    /// If an invariant is broken: a defect of this code.
    pub fn check_invariants(&self) {
        assert!(self.drawn_end <= self.leased, "every stamped clock is reserved");
        assert!(self.cut <= self.next, "the cut cannot pass what was stamped");
        assert!(
            self.next.0 - self.cut.0 <= self.config.window + self.config.epoch,
            "the window bounds what is in flight"
        );
        for queue in &self.queues {
            assert!(queue.waiting.is_sorted_by_key(|waiting| waiting.ticket.clock), "in the order of clocks");
        }
    }
}

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
