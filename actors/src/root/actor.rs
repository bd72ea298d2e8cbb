//! The wiring of a root: it takes the packets that are its own as they are read, and sends them into the chain.
//!
//! A chain's only root stamps packets where they lie. Of several, whichever is awake reads for all, and has the others look
//! for what waits for them: also when that is nothing, for the first instances wait for every root's progress.

use super::core::{Queue, RootCore, RootCounts, Stamp};
use super::reader::{PacketSource, Reader, Wake};
use crate::chain::wire::{InstanceControl, Links, Notice, RootControl};
use crate::messages::{InstanceEvent, RootEffect};
use crate::shard::actor::ShardControl;
use chc_api::packet::parse::parse;
use chc_api::{All, Clock, ShardId};
use chc_runtime::actor::{Actor, Cx, Progress};
use chc_runtime::mailbox::Packets;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the roots did, when they are done.
#[derive(Debug)]
pub struct RootReport {
    /// What they counted.
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

/// The root reads nothing from a data mailbox.
pub enum NoData {}

impl Packets for NoData {
    fn packet_count(&self) -> usize {
        0
    }
}

/// What the roots of a running chain have counted.
#[derive(Clone, Debug, Default)]
pub struct RootStatus {
    /// What their cores have.
    pub counts: RootCounts,
    /// Packets lost before they could be read, or for want of room.
    pub ingest_drops: u64,
    /// Whether every instance has started, so that packets are taken.
    pub is_ready: bool,
    /// Clocks in flight: above the cut.
    pub in_flight: u64,
}

/// The actor.
pub struct RootActor<S> {
    root: u16,
    /// Whether it is the chain's only one.
    is_sole: bool,
    core: RootCore<All>,
    reader: Arc<Mutex<Reader<S>>>,
    links: Links,
    effects: Vec<RootEffect>,
    /// What it has taken.
    queue: Queue,
    /// Up to where the other roots have been told of clocks.
    told: Clock,
    /// Changes of routing tables whose outcome was published.
    published: Option<u64>,
    /// Changes of routing tables so far.
    handovers: u64,
    reported: bool,
}

impl<S: PacketSource> RootActor<S> {
    /// The `root`-th of a number of roots, which has taken nothing.
    pub fn new(
        (root, roots): (u16, u16),
        core: RootCore<All>,
        reader: Arc<Mutex<Reader<S>>>,
        links: Links,
    ) -> Self {
        Self {
            root,
            is_sole: roots == 1,
            core,
            reader,
            links,
            effects: Vec::new(),
            queue: Queue::default(),
            told: Clock(0),
            published: None,
            handovers: 0,
            reported: false,
        }
    }

    fn is_first(&self) -> bool {
        self.root == 0
    }

    fn execute(&mut self) {
        if self.is_first() && self.published != Some(self.handovers) {
            self.published = Some(self.handovers);
            self.links.publish_owners(self.core.owners());
        }
        for effect in self.effects.drain(..) {
            match effect {
                RootEffect::Data(to, data) => self.links.send(to, data),
                RootEffect::Grant(to, boundary, records) => {
                    let event = InstanceEvent::Granted { boundary, records };
                    self.links.tell_instance(to, None, InstanceControl::Event(event));
                }
                RootEffect::Awake(to, changes) => {
                    let event = InstanceEvent::Awake(changes);
                    self.links.tell_instance(to, None, InstanceControl::Event(event));
                }
                RootEffect::Go { to, generation, cut, stamped, generations, changes, granted } => {
                    let downstream = self.links.downstream(to, generations);
                    let event = InstanceEvent::Go { cut, stamped, downstream, changes, granted };
                    self.links.tell_instance(to, Some(generation), InstanceControl::Event(event));
                }
                RootEffect::Reserve(until) => self.links.tell_shard(ShardId(0), ShardControl::Reserve(until)),
                RootEffect::Log(batch) => {
                    self.links.tell_shard(ShardId(0), ShardControl::Log(batch));
                }
                RootEffect::Cut(cut, instances) => {
                    self.links.tell_all(cut, &instances, || ShardControl::Cut(cut));
                }
            }
        }
    }

    /// Takes a burst of packets that are this root's own, reading if there are any to be read. True if there may be more.
    fn ingest(&mut self) -> bool {
        let (core, queue) = (&mut self.core, &mut self.queue);
        let mut reader = self.reader.lock();
        let burst = if self.is_sole {
            reader.read(|intake, arrival| {
                let ticket = intake.draw(arrival);
                let parsed = parse(arrival.link, &arrival.frame);
                core.ingest(arrival, parsed, ticket);
            })
        } else {
            let burst = reader.read(|intake, arrival| intake.dispatch(arrival));
            core.take(&mut reader.intake, queue);
            burst
        };
        self.links.progress(reader.offered());
        drop(reader);
        if burst.stopped {
            self.links.notify(Notice::Stopped);
        }
        let waited = !queue.is_empty();
        queue.drain(|arrival, parsed, ticket| core.ingest(arrival, parsed, ticket));
        burst.more || waited
    }

    /// Sends what was taken, and has the other roots tell their progress, too.
    fn flush(&mut self) {
        let reader = &mut *self.reader.lock();
        self.core.flush(&mut reader.intake, &mut self.effects);
        let counts = self.core.take_counts();
        self.handovers += counts.handovers;
        reader.count(counts);
        let next = reader.intake.next_clock();
        if !self.is_sole && next > self.told {
            self.told = next;
            self.links.wake_other_roots(self.root);
        }
    }

    fn status(&mut self) -> RootStatus {
        let reader = &mut *self.reader.lock();
        RootStatus {
            counts: reader.counts().clone(),
            ingest_drops: reader.ingest_drops(),
            is_ready: self.core.is_ready(&reader.intake),
            in_flight: reader.intake.next_clock().0 - reader.intake.cut().0,
        }
    }

    fn report_if_done(&mut self) {
        let reader = &mut *self.reader.lock();
        if !self.is_first() || !reader.intake.is_done() {
            return;
        }
        self.reported = true;
        self.links.notify(Notice::Done(Box::new(RootReport {
            counts: reader.counts().clone(),
            ingest_drops: reader.ingest_drops(),
            input_error: reader.take_error(),
            stamps: reader.intake.take_stamps(),
            owners: self.core.owners().map(<[u16]>::to_vec).collect(),
            elapsed: reader.elapsed(),
            finished: Instant::now(),
        })));
    }
}

impl<S: PacketSource> Actor for RootActor<S> {
    type Control = RootControl;
    type Data = NoData;

    fn started(&mut self, cx: &mut Cx) {
        let Some(own) = self.links.own_root(self.root) else { return };
        if !self.is_first() {
            return;
        }
        let wake = || -> Wake {
            let own = own.clone();
            Box::new(move || {
                own.wake();
                own.is_alive()
            })
        };
        if let Err(error) = self.reader.lock().attach(wake) {
            cx.fail(error);
        }
    }

    fn on_control(&mut self, message: RootControl, _cx: &mut Cx) {
        match message {
            RootControl::Event(event) => {
                let reader = &mut *self.reader.lock();
                self.core.on_event(&mut reader.intake, event, &mut self.effects);
            }
            RootControl::Resume => self.reader.lock().resume(),
            RootControl::Shut => self.reader.lock().shut(),
            // Whoever asked may have given up.
            RootControl::Status(reply) => drop(reply.send(self.status())),
        }
        self.execute();
    }

    fn on_data(&mut self, message: NoData, _cx: &mut Cx) {
        match message {}
    }

    fn poll_work(&mut self, _cx: &mut Cx) -> Progress {
        if self.reported {
            return Progress::Idle;
        }
        let is_open = {
            let reader = &mut *self.reader.lock();
            if self.is_first() && self.core.is_ready(&reader.intake) {
                reader.open();
            }
            reader.is_open()
        };
        if !is_open {
            return Progress::Idle;
        }
        let worked = self.ingest();
        self.flush();
        self.execute();
        self.report_if_done();
        if worked { Progress::Fed } else { Progress::Idle }
    }

    fn next_deadline(&self) -> Option<Instant> {
        // One root that looks again is enough: it wakes the others.
        if self.is_first() { self.reader.lock().next_deadline() } else { None }
    }
}
