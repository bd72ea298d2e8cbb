//! Reads the source of a chain's packets, for all its roots, while there is room; and stops for faults the operator asked for
//! at certain packets.
//!
//! Several roots share it behind a lock, and whichever has nothing to do reads for all: a burst at a time.

use super::core::RootCounts;
use super::intake::{Arrival, Intake};
use chc_api::Time;
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

    /// Whether the burst at hand, of so many packets, is better sent on before more are looked for; they are then.
    fn is_burst(&self, _packets: u64) -> bool {
        false
    }

    /// Called once, on the first root's arbiter: `wake` is to be called whenever there may be packets again.
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

/// How a source is read.
#[derive(Clone, Debug)]
pub struct RootOptions {
    /// Packets read at once, at most.
    pub burst: usize,
    /// Packets per second; without, as fast as there is room.
    pub rate: Option<f64>,
    /// Numbers of input packets before which reading stops until told to go on, in order.
    pub stops: Vec<u64>,
}

/// How long the reader waits between packets when a rate is given.
const RATE_PERIOD: Duration = Duration::from_millis(1);
/// How long nothing may come from an open source before what is in flight is closed.
const PAUSE_AFTER: Duration = Duration::from_millis(1);
/// How often time passes while nothing comes: how late timers may be then.
const MARK_PERIOD: Duration = Duration::from_millis(100);

/// An open source from which nothing comes.
#[derive(Clone, Copy)]
struct Quiet {
    /// What is to be done next, and when.
    next: Instant,
    closed: bool,
}

/// What came of reading a burst.
#[derive(Clone, Copy, Debug, Default)]
pub struct Burst {
    /// Whether anything was read.
    pub read: bool,
    /// Whether there may be more at once.
    pub more: bool,
    /// Whether reading has just stopped.
    pub stopped: bool,
}

/// The reader.
pub struct Reader<S> {
    /// The clocks.
    pub intake: Intake,
    source: S,
    options: RootOptions,
    /// Whether every instance has started.
    is_open: bool,
    started: Option<Instant>,
    offered: u64,
    ingest_drops: u64,
    /// While an open source has nothing.
    quiet: Option<Quiet>,
    input_error: Option<String>,
    stopped: bool,
    exhausted: bool,
    /// What the roots have counted.
    counts: RootCounts,
}

impl<S: PacketSource> Reader<S> {
    /// A reader that has read nothing.
    pub fn new(intake: Intake, source: S, options: RootOptions) -> Self {
        Self {
            intake,
            source,
            options,
            is_open: false,
            started: None,
            offered: 0,
            ingest_drops: 0,
            quiet: None,
            input_error: None,
            stopped: false,
            exhausted: false,
            counts: RootCounts::default(),
        }
    }

    /// Has the source watched.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn attach(&mut self, wake: impl Fn() -> Wake) -> Result<(), String> {
        self.source.attach(wake)
    }

    /// Every instance has started: packets are read from now on.
    pub fn open(&mut self) {
        self.is_open = true;
    }

    /// Whether packets are read.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether the source is one that more may come from.
    pub fn is_live(&self) -> bool {
        self.source.is_open()
    }

    /// Goes on after a stop.
    pub fn resume(&mut self) {
        self.stopped = false;
    }

    /// Accepts nothing more.
    pub fn shut(&mut self) {
        self.source.shut();
    }

    /// How many packets may be offered now.
    fn allowance(&self, started: Instant) -> u64 {
        match self.options.rate {
            None => u64::MAX,
            Some(rate) => ((started.elapsed().as_secs_f64() * rate) as u64).saturating_sub(self.offered),
        }
    }

    /// Reads a burst; `take` draws for each packet that is let in. If none comes now, lets everything in flight close, and
    /// time pass.
    pub fn read(&mut self, take: impl FnMut(&mut Intake, &mut Arrival<'_>)) -> Burst {
        let mut burst = Burst::default();
        if !self.stopped && !self.exhausted {
            burst = self.read_burst(take);
        }
        if !burst.read && !self.stopped && !self.intake.awaits_lease() {
            if self.exhausted || !self.intake.has_room() {
                // Nothing comes now: let everything in flight close.
                self.quiet = None;
                self.intake.pause();
            } else {
                self.be_quiet();
            }
        }
        if self.exhausted && !self.stopped && self.intake.has_room() {
            self.intake.end();
        }
        burst
    }

    fn read_burst(&mut self, mut take: impl FnMut(&mut Intake, &mut Arrival<'_>)) -> Burst {
        let started = *self.started.get_or_insert_with(Instant::now);
        let allowed = self.allowance(started).min(self.options.burst as u64);
        let (mut read, mut is_empty) = (0, false);
        while read < allowed && !self.exhausted {
            let room = self.intake.has_room();
            if !room && self.options.rate.is_none() {
                break;
            }
            if read > 0 && self.source.is_burst(read) {
                break;
            }
            if self.options.stops.first().is_some_and(|stop| self.offered >= *stop) {
                self.options.stops.remove(0);
                self.stopped = true;
                break;
            }
            // Where it is: moved, it would be read back before its pieces have reached the cache, which stalls every packet.
            match &mut self.source.next() {
                Ok(Some(arrival)) => {
                    self.offered += 1;
                    read += 1;
                    if room {
                        take(&mut self.intake, arrival);
                    } else {
                        self.ingest_drops += 1;
                    }
                }
                Ok(None) => {
                    self.exhausted = !self.source.is_open();
                    is_empty = true;
                    break;
                }
                Err(error) => {
                    self.input_error = Some(std::mem::take(error));
                    self.exhausted = true;
                }
            }
        }
        if read > 0 {
            self.quiet = None;
        }
        if is_empty && !self.exhausted {
            let first = Quiet { next: Instant::now() + PAUSE_AFTER, closed: false };
            self.quiet.get_or_insert(first);
        }
        // An open source wakes its reader when something comes.
        Burst { read: read > 0, more: read > 0 && (!is_empty || self.exhausted), stopped: self.stopped }
    }

    /// Does what is due while nothing comes: lets everything in flight close, then lets time pass now and then.
    fn be_quiet(&mut self) {
        let now = Instant::now();
        let Some(quiet) = self.quiet.filter(|quiet| quiet.next <= now) else { return };
        if !quiet.closed {
            self.intake.pause();
        } else if let Some(time) = self.source.now() {
            self.intake.time_mark(time);
        }
        let after = if quiet.closed { PAUSE_AFTER } else { MARK_PERIOD };
        self.quiet = Some(Quiet { next: now + after, closed: !quiet.closed });
    }

    /// When it is to be read again though nobody asks for that.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.exhausted || !self.is_open {
            return None;
        }
        let quiet = self.quiet.filter(|_| !self.intake.awaits_lease()).map(|quiet| quiet.next);
        self.options.rate.map(|_| Instant::now() + RATE_PERIOD).or(quiet)
    }

    /// Packets read.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Packets lost before they could be read, or for want of room.
    pub fn ingest_drops(&mut self) -> u64 {
        self.ingest_drops + self.source.overruns()
    }

    /// Why the input ended early, if it did; told once.
    pub fn take_error(&mut self) -> Option<String> {
        self.input_error.take()
    }

    /// How long packets have been read.
    pub fn elapsed(&self) -> Duration {
        self.started.map_or(Duration::ZERO, |started| started.elapsed())
    }

    /// Adds what a root counted.
    pub fn count(&mut self, counts: RootCounts) {
        self.counts.add(counts);
    }

    /// What the roots have counted.
    pub fn counts(&self) -> &RootCounts {
        &self.counts
    }
}
