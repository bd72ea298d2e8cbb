//! A chain between two live interfaces: what the root reads and where the egress writes.
//!
//! ```text
//!   inside                                                        outside
//!  receiver ──┐                                             ┌── receiver
//!             ├──► LiveSource ──► root ... egress ──► LiveSink ──► transmitters
//!             └────── Ports: what both ends share ─────────────┘
//! ```
//!
//! As a **bridge** the chain is a wire: what comes in on one side leaves on the other as it is. As a **router**
//! ([`router`]) it has addresses of its own on both sides, answers for them, and finds out where a packet goes on.

mod neighbours;
mod overtaking;
mod prefix;
pub mod router;

use crate::chain::sinks::FileSink;
use crate::egress::core::Sink;
use crate::latency::Latencies;
use crate::root::core::Arrival;
use crate::root::reader::{PacketSource, Wake};
use chc_api::packet::LinkType;
use chc_api::{InstanceId, Side, Time};
use chc_runtime::block::{Block, Desc, DropRecord, EventRecord};
use chc_runtime::io::{Receive, RxCounters, Transmit, TxCounters, on_readable};
use overtaking::Overtaking;
use parking_lot::Mutex;
pub use prefix::Prefix;
use router::{Admission, Router, RouterCounts};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Frames taken from one side before the other has its turn.
const TURN: usize = 64;
/// So few packets are sent on at once: whether more have come is asked for when they have left. To ask the system takes as
/// long as one NF takes for a packet.
const FEW: u64 = 8;
/// Frames that are none of the chain's, before whoever shares the source's thread has its turn.
const OWN_TURN: usize = 256;
/// How often counters are published and interfaces that were away are looked at again.
const TICK: Duration = Duration::from_millis(100);

/// What the interfaces have counted, inside first.
#[derive(Clone, Copy, Debug, Default)]
pub struct PortCounts {
    /// What came in.
    pub rx: [RxCounters; 2],
    /// What went out.
    pub tx: [TxCounters; 2],
    /// What the router did, if there is one.
    pub router: RouterCounts,
}

/// What the two ends of a chain share.
pub struct Ports {
    transmitters: [Box<dyn Transmit>; 2],
    router: Option<Router>,
    rx: [RxCounters; 2],
    /// Has the source look for what the router has for the chain.
    wake: Option<Wake>,
    clock: SteadyClock,
    latencies: Latencies,
}

impl Ports {
    /// The ports of a bridge, or of a router.
    #[must_use]
    pub fn new(transmitters: [Box<dyn Transmit>; 2], router: Option<Router>) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            transmitters,
            router,
            rx: Default::default(),
            wake: None,
            clock: SteadyClock::begin(),
            latencies: Latencies::default(),
        }))
    }

    /// What was counted; what receivers count is as of their last tick.
    #[must_use]
    pub fn counts(&self) -> PortCounts {
        PortCounts {
            rx: self.rx,
            tx: [self.transmitters[0].counters(), self.transmitters[1].counters()],
            router: self.router.as_ref().map(Router::counts).unwrap_or_default(),
        }
    }

    /// How long packets that left were in the chain.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        self.latencies.clone()
    }

    /// Whether a frame is the chain's; what is the router's own is done with.
    fn admit(&mut self, now: Time, side: Side, frame: &[u8]) -> bool {
        let Some(router) = &mut self.router else { return true };
        let transmitters = &mut self.transmitters;
        let admission =
            router.admit(now, side, frame, &mut |to, frame| transmitters[to as usize].send(frame));
        admission == Admission::Chain
    }

    /// Sends what left the chain on, in which it came from a side at a time.
    fn leave(&mut self, (from, came): (Side, Time), head: &[u8], tail: &[u8]) {
        let now = self.clock.read();
        self.latencies.record(Duration::from_nanos(now.0.saturating_sub(came.0)));
        let transmitters = &mut self.transmitters;
        match &mut self.router {
            None => transmitters[from.other() as usize].send(&[head, tail]),
            Some(router) => {
                let had_own = router.has_own();
                router.forward(now, from, (head, tail), &mut |to, frame| {
                    transmitters[to as usize].send(frame);
                });
                self.tell_of_own(had_own);
            }
        }
    }

    /// Lets time pass.
    fn tick(&mut self, now: Time) {
        let transmitters = &mut self.transmitters;
        if let Some(router) = &mut self.router {
            let had_own = router.has_own();
            router.on_time(now, &mut |to, frame| transmitters[to as usize].send(frame));
            self.tell_of_own(had_own);
        }
        self.transmitters.iter_mut().for_each(|transmitter| transmitter.revive());
    }

    /// Has the source look, if the router has something for the chain that it had not.
    fn tell_of_own(&self, had_own: bool) {
        let has_own = self.router.as_ref().is_some_and(Router::has_own);
        if let (false, true, Some(wake)) = (had_own, has_own, &self.wake) {
            wake();
        }
    }

    /// A frame of the router's own that goes through the chain as if it had come in on a side.
    fn take_own(&mut self) -> Option<(Side, Vec<u8>)> {
        self.router.as_mut()?.take_own()
    }

    fn flush(&mut self) {
        self.transmitters.iter_mut().for_each(|transmitter| transmitter.flush());
    }
}

/// The time of arrivals: the wall clock's when it began, and steady from there.
#[derive(Clone, Copy)]
struct SteadyClock {
    began: Instant,
    at: Time,
}

impl SteadyClock {
    fn begin() -> Self {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { began: Instant::now(), at: Time(at.as_nanos() as u64) }
    }

    fn read(&self) -> Time {
        Time(self.at.0 + self.began.elapsed().as_nanos() as u64)
    }
}

/// What comes in on both sides.
pub struct LiveSource {
    receivers: [Box<dyn Receive>; 2],
    ports: Arc<Mutex<Ports>>,
    is_routed: bool,
    clock: SteadyClock,
    /// Whose frames are at hand, which of them is next, how many there are, when they were taken.
    side: Side,
    at: usize,
    taken: usize,
    arrived: Time,
    overtaking: Overtaking,
    /// A frame that is none of those: the router's own, or one that had to wait.
    aside: Vec<u8>,
    ticked: Instant,
    /// Has the source asked again.
    wake: Option<Wake>,
    is_shut: bool,
    is_drained: bool,
}

impl LiveSource {
    /// A source that reads both sides in turn.
    #[must_use]
    pub fn new(receivers: [Box<dyn Receive>; 2], ports: Arc<Mutex<Ports>>) -> Self {
        let (clock, is_routed) = {
            let ports = ports.lock();
            (ports.clock, ports.router.is_some())
        };
        Self {
            receivers,
            ports,
            is_routed,
            clock,
            side: Side::Outside,
            at: 0,
            taken: 0,
            arrived: clock.read(),
            overtaking: Overtaking::default(),
            aside: Vec::new(),
            ticked: clock.began,
            wake: None,
            is_shut: false,
            is_drained: false,
        }
    }

    /// Has frames at hand, if any wait; the side that was not read last is asked first.
    fn take(&mut self) -> Result<bool, String> {
        self.tick();
        for side in [self.side.other(), self.side] {
            let taken = self.receivers[side as usize].fill(TURN).map_err(|error| error.to_string())?;
            if taken > 0 {
                (self.side, self.at, self.taken, self.arrived) = (side, 0, taken, self.clock.read());
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn tick(&mut self) {
        if self.ticked.elapsed() < TICK {
            return;
        }
        self.ticked = Instant::now();
        self.receivers.iter_mut().for_each(|receiver| receiver.revive());
        let rx = [self.receivers[0].counters(), self.receivers[1].counters()];
        let mut ports = self.ports.lock();
        ports.rx = rx;
        ports.tick(self.clock.read());
    }

    /// The side of the next frame that is the chain's, which is set aside or the last of those at hand.
    fn find(&mut self) -> Result<Option<Side>, String> {
        for _ in 0..OWN_TURN {
            if !self.overtaking.is_empty() {
                let now = self.clock.read();
                if let Some((side, frame)) = self.overtaking.next(now) {
                    (self.arrived, self.aside) = (now, frame);
                    return Ok(Some(side));
                }
            }
            if self.is_routed
                && let Some((side, frame)) = self.ports.lock().take_own()
            {
                self.aside = frame;
                return Ok(Some(side));
            }
            if self.at == self.taken && !self.take()? {
                if self.is_shut && !self.overtaking.is_empty() {
                    self.overtaking.end();
                    continue;
                }
                self.is_drained = self.is_shut;
                self.flush_own();
                return Ok(None);
            }
            self.at += 1;
            let frame = self.receivers[self.side as usize].frame(self.at - 1);
            let is_the_chains = !self.is_routed || self.ports.lock().admit(self.arrived, self.side, frame);
            if is_the_chains && self.overtaking.admit(self.arrived, self.side, frame) {
                self.aside.clear();
                return Ok(Some(self.side));
            }
        }
        self.flush_own();
        if let Some(wake) = &self.wake {
            wake();
        }
        Ok(None)
    }

    /// Sends what the router has answered.
    fn flush_own(&self) {
        if self.is_routed {
            self.ports.lock().flush();
        }
    }
}

impl PacketSource for LiveSource {
    fn next(&mut self) -> Result<Option<Arrival<'_>>, String> {
        let Some(side) = self.find()? else { return Ok(None) };
        let frame = match self.aside.as_slice() {
            [] => self.receivers[self.side as usize].hand_over(self.at - 1),
            aside => aside.into(),
        };
        let wire_len = frame.len() as u32;
        Ok(Some(Arrival { time: self.arrived, side, link: LinkType::ETHERNET, wire_len, frame }))
    }

    fn is_open(&self) -> bool {
        !self.is_drained
    }

    fn is_burst(&self, packets: u64) -> bool {
        packets < FEW && self.at == self.taken
    }

    fn attach(&mut self, wake: impl Fn() -> Wake) -> Result<(), String> {
        for receiver in &self.receivers {
            let watch = |all: Vec<OwnedFd>| all.into_iter().try_for_each(|fd| on_readable(fd, wake()));
            let watched = receiver.readiness().and_then(watch);
            watched.map_err(|error| format!("the interfaces cannot be watched: {error}"))?;
        }
        self.wake = Some(wake());
        self.ports.lock().wake = Some(wake());
        Ok(())
    }

    fn shut(&mut self) {
        for receiver in &mut self.receivers {
            if let Err(error) = receiver.shut() {
                tracing::warn!("an interface cannot be shut: {error}");
            }
        }
        self.is_shut = true;
    }

    fn now(&self) -> Option<Time> {
        Some(self.clock.read())
    }

    fn overruns(&mut self) -> u64 {
        self.receivers.iter_mut().map(|receiver| receiver.counters().overruns).sum()
    }
}

/// What goes out: packets by the interfaces, events (and, if asked for, packets, too) into files.
pub struct LiveSink {
    ports: Arc<Mutex<Ports>>,
    files: FileSink,
}

impl LiveSink {
    /// A sink behind a chain.
    #[must_use]
    pub fn new(ports: Arc<Mutex<Ports>>, files: FileSink) -> Self {
        Self { ports, files }
    }
}

impl Sink for LiveSink {
    fn packet(&mut self, block: &Block, desc: &Desc) {
        let meta = block.meta(desc);
        self.ports.lock().leave((meta.side, meta.time), block.head(desc), block.tail(desc));
        self.files.packet(block, desc);
    }

    fn event(&mut self, from: InstanceId, event: &EventRecord) {
        self.files.event(from, event);
    }

    fn dropped(&mut self, from: InstanceId, record: &DropRecord) {
        self.files.dropped(from, record);
    }

    fn flush(&mut self) {
        self.ports.lock().flush();
        self.files.flush_events();
    }

    fn finish(&mut self) {
        self.ports.lock().flush();
        self.files.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::core::{RootConfig, tests::config};
    use crate::root::intake::Intake;
    use crate::root::reader::{Reader, RootOptions};
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// An interface where so many frames wait, which counts how often it is asked for some.
    struct Fake {
        waiting: usize,
        asked: Arc<AtomicUsize>,
    }

    impl Receive for Fake {
        fn fill(&mut self, max: usize) -> io::Result<usize> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let taken = self.waiting.min(max);
            self.waiting -= taken;
            Ok(taken)
        }

        fn frame(&self, _at: usize) -> &[u8] {
            &[0; 60]
        }

        fn readiness(&self) -> io::Result<Vec<OwnedFd>> {
            Ok(Vec::new())
        }

        fn shut(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn revive(&mut self) {}

        fn counters(&mut self) -> RxCounters {
            RxCounters::default()
        }
    }

    impl Transmit for Fake {
        fn send(&mut self, _frame: &[&[u8]]) {}

        fn flush(&mut self) {}

        fn counters(&self) -> TxCounters {
            TxCounters::default()
        }

        fn revive(&mut self) {}
    }

    /// Packets of each burst that is read, and how often the system had been asked by its end.
    fn bursts(waiting: [usize; 2]) -> Vec<(u64, usize)> {
        let asked = Arc::default();
        let fake = |waiting| Fake { waiting, asked: Arc::clone(&asked) };
        let ports = Ports::new([Box::new(fake(0)), Box::new(fake(0))], None);
        let source = LiveSource::new([Box::new(fake(waiting[0])), Box::new(fake(waiting[1]))], ports);
        let options = RootOptions { burst: 256, rate: None, stops: Vec::new() };
        let config = RootConfig { window: 1 << 20, ..config() };
        let mut reader = Reader::new(Intake::new(config, false), source, options);
        let mut bursts = Vec::new();
        loop {
            let before = reader.offered();
            let burst = reader.read(|intake, arrival| {
                intake.draw(arrival);
            });
            if !burst.read {
                return bursts;
            }
            bursts.push((reader.offered() - before, asked.load(Ordering::Relaxed)));
            assert!(burst.more || asked.load(Ordering::Relaxed) > 2, "nobody looks whether there are more");
        }
    }

    #[test]
    fn a_packet_that_comes_alone_is_sent_on_before_the_system_is_asked_for_more() {
        assert_eq!(bursts([1, 0]), [(1, 1)]);
        assert_eq!(bursts([0, 1]), [(1, 2)]);
        assert_eq!(bursts([1, 1]), [(1, 1), (1, 2)]);
    }

    #[test]
    fn under_load_a_burst_is_of_all_that_waits_on_both_sides() {
        let [(read, _)] = bursts([40, 3])[..] else { panic!("it is one burst") };
        assert_eq!(read, 43);
        assert_eq!(bursts([200, 100]).iter().map(|(read, _)| *read).collect::<Vec<_>>(), [256, 44]);
    }
}
