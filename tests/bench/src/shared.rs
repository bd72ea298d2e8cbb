//! Experiment `shared`: what strongly consistent updates of shared state cost a packet.
//!
//! Two NAT instances count every packet in the same counters. Updates are strongly consistent: all take effect in one order
//! that holds for everybody. Packets arrive at a share of the highest rate of the same system in the same run; the figure
//! is the median time from a packet's arrival at its instance to the moment it leaves it, what it waits for those before it
//! included.
//!
//! Ours is the product: the shard puts the updates of all instances in an order, packets do not wait for it. Cores are
//! called directly ([`crate::cores`]), each packet a burst of its own, shard and closing included: all of it on one thread,
//! so that what comes before and after a packet delays the next one. OpenNF is emulated: an instance sends each packet to the controller; that
//! sends it to every instance, waits until all have applied its updates and said so, and only then releases it and takes
//! the next one. Its instances take turns on one thread and look nothing up, they only count; the controller has a thread
//! of its own, as it is a process of its own there. Messages are in the codec of our links, by queues like our mailboxes'.
//! Nobody sleeps: who waits looks again, and lets others run.

use crate::cores::Cores;
use crate::report::{Line, Samples};
use crate::setup::{Mode, System, plan};
use crate::traffic::{Feed, Traffic, TrafficOptions};
use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use rkyv::util::AlignedVec;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const INSTANCES: usize = 2;
/// Longest time that is told from longer ones, in nanoseconds.
const TIME_MAX: u64 = 60_000_000_000;

/// What to measure.
#[derive(Clone, Debug)]
pub struct SharedOptions {
    /// The systems, in turn.
    pub systems: Vec<System>,
    /// The traffic; `packets` is of one sample.
    pub traffic: TrafficOptions,
    /// Share of the highest rate at which packets arrive, from 0 to 1.
    pub load: f64,
    /// Samples of each.
    pub samples: usize,
}

/// Runs the experiment.
///
/// # Errors
/// If the chain cannot be built, or a packet does not come through.
pub fn measure(options: &SharedOptions) -> anyhow::Result<Vec<Line>> {
    // Each sample takes the packets twice: to find the highest rate, and at a share of it.
    let packets = options.traffic.packets * options.samples * 2;
    let traffic = Arc::new(Traffic::new(TrafficOptions { packets, ..options.traffic }));
    let mut subjects: Vec<(System, Box<dyn Subject>, Samples)> = Vec::new();
    for system in &options.systems {
        let subject: Box<dyn Subject> = match system {
            System::Ours => Box::new(Ours::start(&traffic)?),
            System::Opennf => Box::new(Opennf::start(&traffic)),
        };
        subjects.push((*system, subject, Samples::default()));
    }
    for _ in 0..options.samples {
        for (_, subject, samples) in &mut subjects {
            samples.push(sample(subject.as_mut(), options.traffic.packets, options.load)?);
        }
    }
    let line = |(system, _, samples): &(System, Box<dyn Subject>, Samples)| {
        Line::new("shared", "us")
            .key("system", system.name())
            .key("load", options.load)
            .key("instances", INSTANCES)
            .samples(samples)
    };
    Ok(subjects.iter().map(line).collect())
}

/// What packets are given to.
trait Subject {
    /// Handles the next packet to the end; how long its instance had it.
    ///
    /// # Errors
    /// If that cannot be done.
    fn packet(&mut self) -> anyhow::Result<Duration>;
}

/// The median time of a packet at a share of the highest rate, in microseconds.
fn sample(subject: &mut dyn Subject, packets: usize, load: f64) -> anyhow::Result<f64> {
    let begin = Instant::now();
    for _ in 0..packets {
        subject.packet()?;
    }
    let gap = begin.elapsed().div_f64(packets as f64 * load);
    let mut times = Histogram::<u64>::new_with_bounds(1, TIME_MAX, 3).context("no histogram")?;
    let begin = Instant::now();
    let mut arrives = Duration::ZERO;
    for _ in 0..packets {
        while begin.elapsed() < arrives {
            std::hint::spin_loop();
        }
        let waited = begin.elapsed().saturating_sub(arrives);
        times.saturating_record((waited + subject.packet()?).as_nanos() as u64);
        arrives += gap;
    }
    Ok(times.value_at_quantile(0.5) as f64 / 1e3)
}

/// The product's cores.
struct Ours {
    cores: Cores,
    feed: Feed,
}

impl Ours {
    fn start(traffic: &Arc<Traffic>) -> anyhow::Result<Self> {
        let mut plan = plan(&["nat".to_owned()], Mode::Default, 1, traffic)?;
        let route = &mut plan.vertices[0].route;
        route.instances = INSTANCES as u16;
        let slots = 0..route.owners.len() as u16;
        route.owners = slots.map(|slot| slot % INSTANCES as u16).collect();
        let mut ours = Self { cores: Cores::start(&plan)?, feed: Feed::new(traffic.clone()) };
        for _ in 0..traffic.timed().start {
            ours.packet()?;
        }
        Ok(ours)
    }
}

impl Subject for Ours {
    fn packet(&mut self) -> anyhow::Result<Duration> {
        // With nothing in flight there is room but for the moment in which clocks are reserved.
        while self.cores.burst(&mut self.feed, 1)? == 0 {}
        let (read, left) = (self.feed.read(), self.cores.left());
        ensure!(read == left, "{read} packets came in and {left} went out");
        Ok(self.cores.handled_in())
    }
}

/// What OpenNF's parties say to each other, serialised.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Message {
    instance: u16,
    frame: Vec<u8>,
}

/// OpenNF's instances, and the queues to and from its controller.
struct Opennf {
    counters: [[u64; 2]; INSTANCES],
    feed: Feed,
    read: u64,
    packets: Option<flume::Sender<AlignedVec>>,
    /// Packets to apply and, once all have, to release.
    from_controller: flume::Receiver<(bool, AlignedVec)>,
    answers: flume::Sender<u16>,
    controller: Option<JoinHandle<()>>,
}

impl Opennf {
    fn start(traffic: &Arc<Traffic>) -> Self {
        let (packets, inbox) = flume::unbounded::<AlignedVec>();
        let (outbox, from_controller) = flume::unbounded();
        let (answers, answered) = flume::unbounded::<u16>();
        let control = move || {
            while let Some(packet) = next(&inbox) {
                for _ in 0..INSTANCES {
                    // They may have ended.
                    let _ = outbox.send((false, packet.clone()));
                }
                for _ in 0..INSTANCES {
                    if next(&answered).is_none() {
                        return;
                    }
                }
                let _ = outbox.send((true, packet));
            }
        };
        let controller = Some(std::thread::spawn(control));
        let (counters, feed) = ([[0; 2]; INSTANCES], Feed::new(traffic.clone()));
        Self { counters, feed, read: 0, packets: Some(packets), from_controller, answers, controller }
    }
}

/// The next message, looked for until it is there; none when the other side has ended.
fn next<T>(queue: &flume::Receiver<T>) -> Option<T> {
    loop {
        match queue.try_recv() {
            Ok(message) => return Some(message),
            Err(flume::TryRecvError::Empty) => std::thread::yield_now(),
            Err(flume::TryRecvError::Disconnected) => return None,
        }
    }
}

impl Subject for Opennf {
    fn packet(&mut self) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let arrival = self.feed.arrival().context("the traffic has ended")?;
        let instance = (self.read % INSTANCES as u64) as u16;
        self.read += 1;
        let message = Message { instance, frame: arrival.frame.to_vec() };
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&message)?;
        self.packets.as_ref().context("it runs")?.send(bytes)?;
        let mut at = 0;
        loop {
            let (is_released, bytes) = next(&self.from_controller).context("the controller has ended")?;
            let message = rkyv::from_bytes::<Message, rkyv::rancor::Error>(&bytes)?;
            if is_released {
                ensure!(message.instance == instance, "another packet was released");
                return Ok(begin.elapsed());
            }
            // Packets, and bytes.
            let [packets, sum] = &mut self.counters[at];
            (*packets, *sum) = (*packets + 1, *sum + message.frame.len() as u64);
            self.answers.send(at as u16)?;
            at += 1;
        }
    }
}

impl Drop for Opennf {
    fn drop(&mut self) {
        self.packets = None;
        if let Some(controller) = self.controller.take() {
            // If it panicked, its instances have said so.
            let _ = controller.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;
    use serde_json::Value;

    #[test]
    fn every_system_gives_a_line() {
        let traffic = TrafficOptions { size: 64, flows: 40, packets: 500, new_share: 0.0 };
        let systems = System::value_variants().to_vec();
        let lines = measure(&SharedOptions { systems, traffic, load: 0.5, samples: 2 }).unwrap();
        let lines: Vec<Value> = lines.iter().map(|l| serde_json::from_str(&l.show(true)).unwrap()).collect();
        assert_eq!(
            lines.iter().map(|l| l["system"].as_str().unwrap()).collect::<Vec<_>>(),
            ["ours", "opennf"]
        );
        assert!(lines.iter().all(|line| line["median"].as_f64().unwrap() > 0.0));
    }
}
