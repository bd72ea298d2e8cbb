//! The wiring of the root: it reads its source while there is room, and stops for faults the operator
//! asked for at certain packets.

use super::core::{Arrival, RootCore, RootCounts, Stamp};
use crate::chain::wire::{InstanceControl, Links, Notice, RootControl};
use crate::messages::{InstanceEvent, RootEffect};
use crate::shard::actor::ShardControl;
use chc_api::{All, ShardId, Time};
use chc_runtime::actor::{Actor, Cx, Progress};
use chc_runtime::mailbox::Packets;
use std::time::{Duration, Instant};

/// Has the root look at its source again. It may be called from anywhere; `false`: the root has ended.
pub type Wake = Box<dyn Fn() -> bool + Send>;

/// Where input packets come from.
pub trait PacketSource: Send + 'static {
    /// The next packet; `None` if there is none now, which is for good if the source is not [open](Self::is_open).
    ///
    /// # Errors
    /// Why the source broke; everything before was given.
    fn next(&mut self) -> Result<Option<Arrival<'_>>, String>;

    /// Whether more may come when there is none. A capture has all there will be; an interface is open until it is
    /// [shut](Self::shut) and what it had accepted was taken.
    fn is_open(&self) -> bool {
        false
    }

    /// Called once, on the root's arbiter: `wake` is to be called whenever there may be packets again.
    ///
    /// # Errors
    /// Why the source cannot be watched.
    fn attach(&mut self, _wake: impl Fn() -> Wake) -> Result<(), String> {
        Ok(())
    }

    /// Accepts nothing more.
    fn shut(&mut self) {}

    /// The time that packets which came now would have; `None` where time passes with packets only.
    fn now(&self) -> Option<Time> {
        None
    }

    /// Packets that were lost before they could be read, so far.
    fn overruns(&mut self) -> u64 {
        0
    }
}

/// What a root did, when it is done.
#[derive(Debug)]
pub struct RootReport {
    /// What it counted.
    pub counts: RootCounts,
    /// Packets that found no room (with a given rate only).
    pub ingest_drops: u64,
    /// Why the input ended early.
    pub input_error: Option<String>,
    /// Every stamp, if they were recorded.
    pub stamps: Vec<Stamp>,
    /// The instance that owned each slot of each vertex at the end.
    pub owners: Vec<Vec<u16>>,
    /// From the first packet to the moment everything was finished and logged.
    pub elapsed: Duration,
    /// That moment.
    pub finished: Instant,
}

impl Default for RootReport {
    fn default() -> Self {
        Self {
            counts: RootCounts::default(),
            ingest_drops: 0,
            input_error: None,
            stamps: Vec::new(),
            owners: Vec::new(),
            elapsed: Duration::ZERO,
            finished: Instant::now(),
        }
    }
}

/// How a root reads its source.
#[derive(Clone, Debug)]
pub struct RootOptions {
    /// Packets stamped at once, at most.
    pub burst: usize,
    /// Packets per second; without, as fast as there is room.
    pub rate: Option<f64>,
    /// Numbers of input packets before which the root stops until told to go on, in order.
    pub stops: Vec<u64>,
}

/// The root reads nothing from a data mailbox.
pub enum NoData {}

impl Packets for NoData {
    fn packet_count(&self) -> usize {
        0
    }
}

/// How long the root sleeps between packets when a rate is given.
const RATE_PERIOD: Duration = Duration::from_millis(1);
/// How long nothing may come from an open source before what is in flight is closed.
const PAUSE_AFTER: Duration = Duration::from_millis(1);
/// How often time passes while nothing comes: how late timers may be then.
const MARK_PERIOD: Duration = Duration::from_millis(100);

/// What the root of a running chain has counted.
#[derive(Clone, Debug, Default)]
pub struct RootStatus {
    /// What its core has.
    pub counts: RootCounts,
    /// Packets lost before they could be read, or for want of room.
    pub ingest_drops: u64,
    /// Whether every instance has started, so that packets are taken.
    pub is_ready: bool,
    /// Clocks in flight: above the cut.
    pub in_flight: u64,
}

/// An open source from which nothing comes.
#[derive(Clone, Copy)]
struct Quiet {
    /// What is to be done next, and when.
    next: Instant,
    closed: bool,
}

/// The actor.
pub struct RootActor<S> {
    core: RootCore<All>,
    source: S,
    options: RootOptions,
    links: Links,
    effects: Vec<RootEffect>,
    started: Option<Instant>,
    offered: u64,
    ingest_drops: u64,
    /// Changes of routing tables whose outcome was published.
    published: Option<u64>,
    /// While an open source has nothing.
    quiet: Option<Quiet>,
    input_error: Option<String>,
    stopped: bool,
    exhausted: bool,
    reported: bool,
}

impl<S: PacketSource> RootActor<S> {
    /// A root that has read nothing.
    pub fn new(core: RootCore<All>, source: S, options: RootOptions, links: Links) -> Self {
        Self {
            core,
            source,
            options,
            links,
            effects: Vec::new(),
            started: None,
            offered: 0,
            ingest_drops: 0,
            published: None,
            quiet: None,
            input_error: None,
            stopped: false,
            exhausted: false,
            reported: false,
        }
    }

    fn execute(&mut self) {
        let changes = self.core.counts().handovers;
        if self.published != Some(changes) {
            self.published = Some(changes);
            self.links.publish_owners(self.core.owners());
        }
        for effect in self.effects.drain(..) {
            match effect {
                RootEffect::Data(to, data) => self.links.send(to, data),
                RootEffect::Grant(to, boundary, records) => {
                    let event = InstanceEvent::Granted { boundary, records };
                    self.links.tell_instance(to, None, InstanceControl::Event(event));
                }
                RootEffect::Go { to, generation, cut, stamped, generations, changes, granted } => {
                    let downstream = self.links.downstream(to, generations);
                    let event = InstanceEvent::Go { cut, stamped, downstream, changes, granted };
                    self.links.tell_instance(to, Some(generation), InstanceControl::Event(event));
                }
                RootEffect::Reserve(until) => self.links.tell_shard(ShardId(0), ShardControl::Reserve(until)),
                RootEffect::Log(batch) => self.links.tell_shard(ShardId(0), ShardControl::Log(batch)),
                RootEffect::Cut(cut) => {
                    self.links.tell_all(cut, || ShardControl::Cut(cut));
                }
            }
        }
    }

    /// How many packets may be offered now.
    fn allowance(&self, started: Instant) -> u64 {
        match self.options.rate {
            None => u64::MAX,
            Some(rate) => ((started.elapsed().as_secs_f64() * rate) as u64).saturating_sub(self.offered),
        }
    }

    /// Reads a burst. True if anything was read.
    fn read(&mut self) -> bool {
        let started = *self.started.get_or_insert_with(Instant::now);
        let allowed = self.allowance(started).min(self.options.burst as u64);
        let mut read = 0;
        while read < allowed && !self.exhausted {
            let room = self.core.has_room();
            if !room && self.options.rate.is_none() {
                break;
            }
            if self.options.stops.first().is_some_and(|stop| self.offered >= *stop) {
                self.options.stops.remove(0);
                self.stopped = true;
                self.links.notify(Notice::Stopped);
                break;
            }
            match self.source.next() {
                Ok(Some(arrival)) => {
                    self.offered += 1;
                    read += 1;
                    if room {
                        self.core.ingest(&arrival);
                    } else {
                        self.ingest_drops += 1;
                    }
                }
                Ok(None) => {
                    if self.source.is_open() {
                        let first = Quiet { next: Instant::now() + PAUSE_AFTER, closed: false };
                        self.quiet.get_or_insert(first);
                        break;
                    }
                    self.exhausted = true;
                }
                Err(error) => {
                    self.input_error = Some(error);
                    self.exhausted = true;
                }
            }
        }
        self.links.progress(self.offered);
        if read > 0 {
            self.quiet = None;
        }
        read > 0
    }

    /// Does what is due while nothing comes: lets everything in flight close, then lets time pass now and then.
    fn be_quiet(&mut self) {
        let now = Instant::now();
        let Some(quiet) = self.quiet.filter(|quiet| quiet.next <= now) else { return };
        if !quiet.closed {
            self.core.pause();
        } else if let Some(time) = self.source.now() {
            self.core.time_mark(time);
        }
        let after = if quiet.closed { PAUSE_AFTER } else { MARK_PERIOD };
        self.quiet = Some(Quiet { next: now + after, closed: !quiet.closed });
    }

    fn status(&mut self) -> RootStatus {
        RootStatus {
            counts: self.core.counts().clone(),
            ingest_drops: self.ingest_drops + self.source.overruns(),
            is_ready: self.core.is_ready(),
            in_flight: self.core.next_clock().0 - self.core.cut().0,
        }
    }

    fn finish_if_done(&mut self) {
        if self.exhausted && !self.stopped && self.core.has_room() {
            self.core.end();
        }
        if self.core.is_done() && !self.reported {
            self.reported = true;
            self.links.notify(Notice::Done(Box::new(RootReport {
                counts: self.core.counts().clone(),
                ingest_drops: self.ingest_drops + self.source.overruns(),
                input_error: self.input_error.take(),
                stamps: self.core.take_stamps(),
                owners: self.core.owners().map(<[u16]>::to_vec).collect(),
                elapsed: self.started.map_or(Duration::ZERO, |s| s.elapsed()),
                finished: Instant::now(),
            })));
        }
    }
}

impl<S: PacketSource> Actor for RootActor<S> {
    type Control = RootControl;
    type Data = NoData;

    fn started(&mut self, cx: &mut Cx) {
        let Some(own) = self.links.own_root() else { return };
        let wake = || -> Wake {
            let own = own.clone();
            Box::new(move || {
                own.wake();
                own.is_alive()
            })
        };
        if let Err(error) = self.source.attach(wake) {
            cx.fail(error);
        }
    }

    fn on_control(&mut self, message: RootControl, _cx: &mut Cx) {
        match message {
            RootControl::Event(event) => self.core.on_event(event, &mut self.effects),
            RootControl::Resume => self.stopped = false,
            RootControl::Shut => self.source.shut(),
            // Whoever asked may have given up.
            RootControl::Status(reply) => drop(reply.send(self.status())),
        }
        self.execute();
    }

    fn on_data(&mut self, message: NoData, _cx: &mut Cx) {
        match message {}
    }

    fn poll_work(&mut self, _cx: &mut Cx) -> Progress {
        if !self.core.is_ready() || self.stopped || self.reported {
            return Progress::Idle;
        }
        let read = !self.exhausted && self.read();
        if !read && !self.stopped && !self.core.awaits_lease() {
            if self.exhausted || !self.core.has_room() {
                // Nothing comes now: let everything in flight close.
                self.quiet = None;
                self.core.pause();
            } else {
                self.be_quiet();
            }
        }
        self.finish_if_done();
        self.core.flush(&mut self.effects);
        self.execute();
        if read { Progress::Worked } else { Progress::Idle }
    }

    fn next_deadline(&self) -> Option<Instant> {
        if self.exhausted || !self.core.is_ready() {
            return None;
        }
        let quiet = self.quiet.filter(|_| !self.core.awaits_lease()).map(|quiet| quiet.next);
        self.options.rate.map(|_| Instant::now() + RATE_PERIOD).or(quiet)
    }
}
