//! Experiment `chain`: a whole chain on one thread, packets in memory.
//!
//! Every sample is a run of its own by the production path, actors and mailboxes included, with
//! everything on one arbiter. The clock runs from the moment the source hands over the first timed
//! packet, when all connections are established and caches are warm, to the moment the last one leaves.
//! The figure is by wall clock; `cpu_median` counts the time the thread was on a core instead, which
//! tells how much of the difference between samples is due to others on the machine.
//!
//! Latency is taken in runs of their own, with bursts of 32: from the moment the source hands over a
//! packet to the moment it leaves, of every 32nd packet. The source gives as fast as there is room, so it
//! is latency at full load. Of the bare loop it is the time of a batch.

use crate::bare::Bare;
use crate::report::{Line, Samples};
use crate::setup::{Mode, plan};
use crate::stamp::Stamp;
use crate::traffic::{Feed, Traffic, TrafficOptions};
use anyhow::{Context as _, bail, ensure};
use chc_actors::chain::compile::ChainPlan;
use chc_actors::chain::run::{RunOptions, run};
use chc_actors::egress::core::Sink;
use chc_actors::root::core::Arrival;
use chc_actors::root::reader::PacketSource;
use chc_api::InstanceId;
use chc_runtime::block::{Block, Desc, DropRecord, EventRecord};
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Packets of a burst when latency is taken; every first of as many is timed.
const LATENCY_BURST: u16 = 32;
/// Timed packets whose departure is still awaited, at most: more than the root's window holds.
const AWAITED_MAX: usize = 1024;

/// What to measure.
#[derive(Clone, Debug)]
pub struct ChainOptions {
    /// The traffic.
    pub traffic: TrafficOptions,
    /// The chain's functions, in order.
    pub vertices: Vec<String>,
    /// The modes, in turn.
    pub modes: Vec<Mode>,
    /// Samples of each.
    pub samples: usize,
    /// Packets of a burst when the rate is taken.
    pub burst: u16,
}

/// Runs the experiment.
///
/// # Errors
/// If the chain cannot be built or run, or did not let every packet through.
pub fn measure(options: &ChainOptions) -> anyhow::Result<Vec<Line>> {
    let traffic = Arc::new(Traffic::new(options.traffic));
    let mut results: Vec<_> = options.modes.iter().map(|mode| (*mode, Figures::default())).collect();
    let mut bare = options.modes.contains(&Mode::Bare).then(|| Bare::new(traffic.clone()));
    for _ in 0..options.samples {
        for (mode, figures) in &mut results {
            match (*mode, &mut bare) {
                (Mode::Bare, Some(bare)) => sample_bare(bare, &traffic, figures)?,
                _ => sample_chain(options, *mode, &traffic, figures)?,
            }
        }
    }
    Ok(results.iter().flat_map(|(mode, figures)| figures.lines(options, *mode)).collect())
}

/// The figures of a mode, one a sample.
#[derive(Default)]
struct Figures {
    mpps: Samples,
    cpu_mpps: Samples,
    gbps: Samples,
    latency_ns: Samples,
    latency_p99_ns: Samples,
}

impl Figures {
    fn rate(&mut self, traffic: &Traffic, took: Stamp) {
        let packets = traffic.options().packets as f64;
        self.mpps.push(packets / took.wall.as_secs_f64() / 1e6);
        self.cpu_mpps.push(packets / took.cpu.as_secs_f64() / 1e6);
        self.gbps.push(traffic.timed_bytes() as f64 * 8.0 / took.wall.as_secs_f64() / 1e9);
    }

    fn latency(&mut self, histogram: &Histogram<u64>) {
        self.latency_ns.push(histogram.value_at_quantile(0.5) as f64);
        self.latency_p99_ns.push(histogram.value_at_quantile(0.99) as f64);
    }

    fn lines(&self, options: &ChainOptions, mode: Mode) -> [Line; 3] {
        let line = |unit, burst: u16| {
            Line::new("chain", unit)
                .key("mode", mode.name())
                .key("size", options.traffic.size)
                .key("flows", options.traffic.flows)
                .key("vertices", options.vertices.join(","))
                .key("burst", burst)
                .key("new_share", options.traffic.new_share)
        };
        [
            line("Mpps", options.burst).samples(&self.mpps).figure("cpu_median", self.cpu_mpps.median()),
            line("Gbps", options.burst).samples(&self.gbps),
            line("ns", LATENCY_BURST).samples(&self.latency_ns).figure("p99", self.latency_p99_ns.median()),
        ]
    }
}

fn sample_bare(bare: &mut Bare, traffic: &Traffic, figures: &mut Figures) -> anyhow::Result<()> {
    let packets = traffic.options().packets;
    bare.run(packets / 10, None)?;
    let begin = Stamp::now();
    bare.run(packets, None)?;
    figures.rate(traffic, Stamp::now().since(begin));
    let mut histogram = new_histogram()?;
    bare.run(packets / 10, Some(&mut histogram))?;
    figures.latency(&histogram);
    Ok(())
}

fn sample_chain(
    options: &ChainOptions,
    mode: Mode,
    traffic: &Arc<Traffic>,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let plan_for = |burst| plan(&options.vertices, mode, burst, traffic);
    figures.rate(traffic, rate(&plan_for(options.burst)?, traffic)?);
    let watch = Arc::new(Watch::new(traffic, true)?);
    run_once(&plan_for(LATENCY_BURST)?, traffic, &watch)?;
    figures.latency(&lock(&watch.ended).latency);
    Ok(())
}

/// The time the timed packets of one run take.
///
/// # Errors
/// If the chain cannot be run or did not let every packet through.
pub fn rate(plan: &ChainPlan, traffic: &Arc<Traffic>) -> anyhow::Result<Stamp> {
    let watch = Arc::new(Watch::new(traffic, false)?);
    run_once(plan, traffic, &watch)?;
    watch.took()
}

/// One run of the chain; every packet must come through.
fn run_once(plan: &ChainPlan, traffic: &Arc<Traffic>, watch: &Arc<Watch>) -> anyhow::Result<()> {
    let source = Watched { feed: Feed::new(traffic.clone()), watch: watch.clone() };
    let sink = Counting::new(watch.clone())?;
    let outcome = run(plan, source, sink, &RunOptions::default(), |_| ())?;
    let (read, left) = (traffic.timed().end, outcome.egress.packets);
    if read != left {
        bail!("{read} packets came in and {left} went out; drops: {:?}", outcome.egress.drops);
    }
    Ok(())
}

fn new_histogram() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).context("no histogram")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What source and sink of a run tell each other.
struct Watch {
    begin: u64,
    end: u64,
    began: Mutex<Option<Stamp>>,
    ended: Mutex<Ended>,
    /// When timed packets were handed over, in nanoseconds since the watch was made, by number; empty if
    /// latency is not asked for.
    handed_over: Vec<AtomicU64>,
    origin: Instant,
}

struct Ended {
    at: Option<Stamp>,
    latency: Histogram<u64>,
}

impl Watch {
    fn new(traffic: &Traffic, latency: bool) -> anyhow::Result<Self> {
        let timed = traffic.timed();
        let awaited = if latency { AWAITED_MAX } else { 0 };
        Ok(Self {
            begin: timed.start,
            end: timed.end,
            began: Mutex::new(None),
            ended: Mutex::new(Ended { at: None, latency: new_histogram()? }),
            handed_over: (0..awaited).map(|_| AtomicU64::new(0)).collect(),
            origin: Instant::now(),
        })
    }

    /// The place of packet `number`, from 0, if its latency is taken.
    #[inline]
    fn place(&self, number: u64) -> Option<&AtomicU64> {
        let every = u64::from(LATENCY_BURST);
        if self.handed_over.is_empty() || number < self.begin || !number.is_multiple_of(every) {
            return None;
        }
        self.handed_over.get((number / every) as usize % AWAITED_MAX)
    }

    fn elapsed_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    fn took(&self) -> anyhow::Result<Stamp> {
        let (began, ended) = (*lock(&self.began), lock(&self.ended).at);
        let (Some(began), Some(ended)) = (began, ended) else { bail!("the run has no timed packets") };
        ensure!(ended.wall > began.wall, "the run has too few packets to be timed");
        Ok(ended.since(began))
    }
}

/// The source: a feed that says when timing begins.
struct Watched {
    feed: Feed,
    watch: Arc<Watch>,
}

impl PacketSource for Watched {
    fn next(&mut self) -> Result<Option<Arrival<'_>>, String> {
        let number = self.feed.read();
        if number == self.watch.begin {
            *lock(&self.watch.began) = Some(Stamp::now());
        }
        if let Some(place) = self.watch.place(number) {
            place.store(self.watch.elapsed_ns(), Ordering::Relaxed);
        }
        Ok(self.feed.arrival())
    }
}

/// The sink: counts, and takes latencies.
struct Counting {
    watch: Arc<Watch>,
    seen: u64,
    latency: Histogram<u64>,
}

impl Counting {
    fn new(watch: Arc<Watch>) -> anyhow::Result<Self> {
        Ok(Self { watch, seen: 0, latency: new_histogram()? })
    }
}

impl Sink for Counting {
    #[inline]
    fn packet(&mut self, block: &Block, desc: &Desc) {
        self.seen += 1;
        if !self.watch.handed_over.is_empty()
            && let Some(place) = self.watch.place(block.meta(desc).number - 1)
        {
            let began = place.load(Ordering::Relaxed);
            self.latency.saturating_record(self.watch.elapsed_ns().saturating_sub(began));
        }
        if self.seen == self.watch.end {
            let mut ended = lock(&self.watch.ended);
            ended.at = Some(Stamp::now());
            std::mem::swap(&mut ended.latency, &mut self.latency);
        }
    }

    fn event(&mut self, _from: InstanceId, _event: &EventRecord) {}

    fn dropped(&mut self, _from: InstanceId, _record: &DropRecord) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_mode_gives_a_line_of_rate_of_volume_and_of_latency() {
        let options = ChainOptions {
            traffic: TrafficOptions { size: 64, flows: 40, packets: 4000, new_share: 0.1 },
            vertices: vec!["nat".into(), "portscan".into()],
            modes: vec![Mode::Bare, Mode::Traditional, Mode::Default],
            samples: 2,
            burst: 256,
        };
        let lines = measure(&options).unwrap();
        let lines: Vec<Value> = lines.iter().map(|l| serde_json::from_str(&l.show(true)).unwrap()).collect();
        let units: Vec<_> = lines.iter().map(|l| l["unit"].as_str().unwrap()).collect();
        assert_eq!(units, ["Mpps", "Gbps", "ns"].repeat(3));
        for line in &lines {
            let figures = ["min", "median", "max"].map(|k| line[k].as_f64().unwrap());
            assert!(figures[0] > 0.0 && figures.is_sorted(), "{line}");
            assert_eq!((line["samples"].as_u64(), line["flows"].as_u64()), (Some(2), Some(40)));
        }
    }
}
