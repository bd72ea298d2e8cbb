//! Experiment `delete`: how it becomes known that the chain is done with a packet.
//!
//! In the paper the last function asks the root to delete a packet from its log: before the packet is sent, and waits for
//! the answer (`sync`), or behind it (`async`). The product asks for nothing: the egress knows what has left above the cut
//! (`egress`). The chain's cores are called directly on one thread ([`crate::cores`]). For the paper's two modes, which are
//! emulated, the egress remembers nothing, and the packets of a burst are deleted by one message, through a mailbox's
//! queue, from a log that another thread keeps; nobody sleeps. The figure is what a mode adds to a chain that does neither,
//! a packet; a sample of each is taken in turn. `p50` is the same at the median burst, of a sample's.
//!
//! `lost` and `repeated` are what becomes of one packet when the last function dies between its two steps for it and what
//! is still in the log runs again ([`outcome`]).

use crate::cores::{Cores, Memory};
use crate::report::{Line, Samples};
use crate::setup::{Mode, plan};
use crate::traffic::{Feed, Traffic, TrafficOptions};
use anyhow::{Context as _, ensure};
use chc_actors::seen::SeenSet;
use chc_api::{Clock, Path};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

/// Longest time of a burst that is told from longer ones, in nanoseconds.
const BURST_MAX: u64 = 1_000_000_000;
/// Clocks a log has room for.
const WINDOW: u64 = 8192;

/// Who deletes, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Delete {
    /// The last function, before the packet leaves.
    Sync,
    /// The last function, at some time.
    Async,
    /// Nobody: the egress remembers what left.
    Egress,
}

impl Delete {
    /// Its name on the command line and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Delete::Sync => "sync",
            Delete::Async => "async",
            Delete::Egress => "egress",
        }
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct DeleteOptions {
    /// The traffic; `packets` is of one sample.
    pub traffic: TrafficOptions,
    /// The chain's functions, in order.
    pub vertices: Vec<String>,
    /// The modes, in turn.
    pub modes: Vec<Delete>,
    /// Samples of each.
    pub samples: usize,
    /// Packets of a burst.
    pub burst: u16,
}

/// Runs the experiment.
///
/// # Errors
/// If the chain cannot be built or did not let every packet through.
pub fn measure(options: &DeleteOptions) -> anyhow::Result<Vec<Line>> {
    // All samples together are one run.
    let packets = options.traffic.packets * options.samples;
    let traffic = Arc::new(Traffic::new(TrafficOptions { packets, ..options.traffic }));
    let mut without = Subject::new(None, options, &traffic)?;
    let mut subjects = Vec::new();
    for mode in &options.modes {
        subjects.push(Subject::new(Some(*mode), options, &traffic)?);
    }
    let mut added = vec![(Samples::default(), Samples::default()); subjects.len()];
    for _ in 0..options.samples {
        let base = without.sample(options.traffic.packets)?;
        for (subject, (means, medians)) in subjects.iter_mut().zip(&mut added) {
            let took = subject.sample(options.traffic.packets)?;
            means.push(took.mean - base.mean);
            medians.push(took.median - base.median);
        }
    }
    let line = |(mode, (means, medians)): (&Delete, &(Samples, Samples))| {
        let (lost, repeated) = outcome(*mode, true);
        Line::new("delete", "ns/packet")
            .key("delete", mode.name())
            .key("size", options.traffic.size)
            .key("flows", options.traffic.flows)
            .key("vertices", options.vertices.join(","))
            .key("burst", options.burst)
            .samples(means)
            .figure("p50", medians.median())
            .figure("lost", f64::from(lost))
            .figure("repeated", f64::from(repeated))
    };
    Ok(options.modes.iter().zip(&added).map(line).collect())
}

/// What becomes of a packet whose last function dies between what it does for it, or behind it: how often it is lost, how
/// often it leaves once too many. The function is rebuilt and gets what is not deleted.
#[must_use]
pub fn outcome(mode: Delete, dies_between: bool) -> (u32, u32) {
    let (mut log, mut left) = (VecDeque::from([Clock(0)]), 0);
    let mut seen = SeenSet::new(WINDOW);
    let mut send = |clock: Clock| {
        if mode != Delete::Egress || seen.insert(clock, Path::FIRST) {
            left += 1;
        }
    };
    for run in 0..2 {
        let Some(clock) = log.front().copied() else { break };
        let dies = run == 0 && dies_between;
        match mode {
            Delete::Sync => {
                log.pop_front();
                if !dies {
                    send(clock);
                }
            }
            Delete::Async => {
                send(clock);
                if !dies {
                    log.pop_front();
                }
            }
            // It goes when the boundary above it is closed, which takes longer than any death.
            Delete::Egress => send(clock),
        }
    }
    (u32::from(left == 0), u32::max(left, 1) - 1)
}

/// The time of a packet in nanoseconds.
struct Took {
    mean: f64,
    median: f64,
}

/// A chain, and who is told what has left it.
struct Subject {
    cores: Cores,
    feed: Feed,
    burst: usize,
    log: Option<Log>,
    clock: u64,
}

impl Subject {
    /// Builds the chain and warms it up.
    fn new(mode: Option<Delete>, options: &DeleteOptions, traffic: &Arc<Traffic>) -> anyhow::Result<Self> {
        let plan = plan(&options.vertices, Mode::Default, options.burst, traffic)?;
        let factories: Vec<_> = plan.vertices.iter().map(|v| v.function.factory.clone()).collect();
        let memory = Memory { root_log: true, egress_suppression: mode == Some(Delete::Egress) };
        let log = match mode {
            Some(Delete::Sync) => Some(Log::start(true)),
            Some(Delete::Async) => Some(Log::start(false)),
            _ => None,
        };
        let mut subject = Self {
            cores: Cores::with(&plan, &factories, memory, None)?,
            feed: Feed::new(traffic.clone()),
            burst: usize::from(options.burst),
            log,
            clock: 0,
        };
        subject.sample(traffic.timed().start as usize)?;
        Ok(subject)
    }

    fn sample(&mut self, packets: usize) -> anyhow::Result<Took> {
        let mut bursts = Histogram::<u64>::new_with_bounds(1, BURST_MAX, 3).context("no histogram")?;
        let (begin, mut done) = (Instant::now(), 0);
        while done < packets {
            let burst = Instant::now();
            let taken = self.cores.burst(&mut self.feed, self.burst.min(packets - done))?;
            if let Some(log) = &mut self.log {
                log.delete(self.clock, taken)?;
            }
            self.clock += taken as u64;
            if taken == self.burst {
                bursts.saturating_record(burst.elapsed().as_nanos() as u64);
            }
            done += taken;
        }
        let mean = begin.elapsed().as_nanos() as f64 / packets as f64;
        let (read, left) = (self.feed.read(), self.cores.left());
        ensure!(read == left, "{read} packets came in, {left} went out and {} ended", self.cores.dropped());
        Ok(Took { mean, median: bursts.value_at_quantile(0.5) as f64 / self.burst as f64 })
    }
}

/// A log that another thread keeps.
struct Log {
    deletes: Option<flume::Sender<Vec<u64>>>,
    /// Deleted clocks are answered, if anybody waits for that.
    answers: flume::Receiver<Vec<u64>>,
    waits: bool,
    thread: Option<JoinHandle<()>>,
}

impl Log {
    fn start(waits: bool) -> Self {
        let (deletes, inbox) = flume::unbounded::<Vec<u64>>();
        let (outbox, answers) = flume::unbounded();
        let run = move || {
            let mut logged = vec![false; WINDOW as usize];
            loop {
                match inbox.try_recv() {
                    Ok(clocks) => {
                        for clock in &clocks {
                            // What is deleted makes room for a packet a window later.
                            logged[(clock % WINDOW) as usize] ^= true;
                        }
                        // Whoever waits gets its memory back; it may have ended.
                        let _ = outbox.send(clocks);
                    }
                    Err(flume::TryRecvError::Empty) => std::thread::yield_now(),
                    Err(flume::TryRecvError::Disconnected) => return,
                }
            }
        };
        Self { deletes: Some(deletes), answers, waits, thread: Some(std::thread::spawn(run)) }
    }

    fn delete(&mut self, first: u64, packets: usize) -> anyhow::Result<()> {
        let mut clocks = match self.answers.try_recv() {
            Ok(used) if !self.waits => used,
            _ => Vec::with_capacity(packets),
        };
        clocks.clear();
        clocks.extend(first..first + packets as u64);
        let deletes = self.deletes.as_ref().context("the log has ended")?;
        deletes.send(clocks).ok().context("the log has ended")?;
        while self.waits && self.answers.try_recv().is_err() {
            std::thread::yield_now();
        }
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.deletes = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, who waited for it has said so.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn only_the_egress_neither_loses_nor_repeats() {
        let all = [Delete::Sync, Delete::Async, Delete::Egress];
        assert_eq!(all.map(|mode| outcome(mode, true)), [(1, 0), (0, 1), (0, 0)]);
        assert_eq!(all.map(|mode| outcome(mode, false)), [(0, 0); 3]);
    }

    #[test]
    fn every_mode_gives_a_line() {
        let options = DeleteOptions {
            traffic: TrafficOptions { size: 64, flows: 40, packets: 2000, new_share: 0.0 },
            vertices: vec!["nat".into()],
            modes: Delete::value_variants().to_vec(),
            samples: 2,
            burst: 32,
        };
        let lines = measure(&options).unwrap();
        let lines: Vec<Value> = lines.iter().map(|l| serde_json::from_str(&l.show(true)).unwrap()).collect();
        let modes: Vec<_> = lines.iter().map(|line| line["delete"].as_str()).collect();
        assert_eq!(modes, [Some("sync"), Some("async"), Some("egress")]);
        assert!(lines.iter().all(|line| line["p50"].is_number()));
    }
}
