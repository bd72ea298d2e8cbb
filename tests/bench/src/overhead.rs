//! Experiment `overhead`: one network function alone.
//!
//! A chain of that function only, its cores called directly on one thread ([`crate::cores`]), in bursts
//! of 32. The time an instance takes for a burst, with everything that is done for it (its flush,
//! acknowledgements, closing, trimming), is divided by 32; percentiles are over all bursts of a sample.
//! Nothing is subtracted for reading the clock, about 1 ns a packet. `mpps` and `gbps` are of the whole
//! thread, root, function, store shard and egress, by wall clock; `cpu_mpps` is by its time on a core.
//! With path `link` the shard is a process of its own, over loopback TCP: then the instance's time is also that of
//! packing, sending, receiving and unpacking, and of waiting until all packets of the burst have left.
//! `blocking_round_trips` is how often packets waited for the store, per packet.

use crate::cores::Cores;
use crate::remote::{ProcessShard, Served, Via};
use crate::report::{Line, Samples};
use crate::setup::{Mode, config, plan};
use crate::stamp::Stamp;
use crate::traffic::{Feed, Traffic, TrafficOptions};
use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use std::path::PathBuf;
use std::sync::Arc;

/// Packets of a burst.
const BURST: u16 = 32;
/// Percentiles that are reported.
const PERCENTILES: [(&str, f64); 5] =
    [("p5", 0.05), ("p25", 0.25), ("p50", 0.5), ("p75", 0.75), ("p95", 0.95)];
/// Longest time of a burst that is told from longer ones, in picoseconds a packet.
const PICOSECONDS_MAX: u64 = 1_000_000_000;

/// What to measure.
#[derive(Clone, Debug)]
pub struct OverheadOptions {
    /// The traffic; `packets` is of one sample.
    pub traffic: TrafficOptions,
    /// The functions, each alone.
    pub functions: Vec<String>,
    /// The modes, in turn.
    pub modes: Vec<Mode>,
    /// Samples of each.
    pub samples: usize,
    /// Where the store shard is.
    pub path: Via,
    /// This program, to start a shard's process with.
    pub program: PathBuf,
}

/// Runs the experiment.
///
/// # Errors
/// If a chain cannot be built or did not let every packet through, or a mode has no chain.
pub fn measure(options: &OverheadOptions) -> anyhow::Result<Vec<Line>> {
    ensure!(!options.modes.contains(&Mode::Bare), "mode bare has no functions; give another");
    let mut lines = Vec::new();
    for function in &options.functions {
        // All samples together are one run.
        let packets = options.traffic.packets * options.samples;
        let traffic = Arc::new(Traffic::new(TrafficOptions { packets, ..options.traffic }));
        let mut subjects = Vec::new();
        for mode in &options.modes {
            subjects.push(Subject::new(function, *mode, options, &traffic)?);
        }
        for _ in 0..options.samples {
            for subject in &mut subjects {
                subject.sample(options.traffic.packets)?;
            }
        }
        lines.extend(subjects.iter().map(|subject| subject.line(function, options)));
    }
    Ok(lines)
}

/// A function in a mode.
struct Subject {
    mode: Mode,
    cores: Cores,
    feed: Feed,
    percentiles: [Samples; PERCENTILES.len()],
    mpps: Samples,
    cpu_mpps: Samples,
    gbps: Samples,
    round_trips: Samples,
}

impl Subject {
    /// Builds the chain and warms it up.
    fn new(
        function: &str,
        mode: Mode,
        options: &OverheadOptions,
        traffic: &Arc<Traffic>,
    ) -> anyhow::Result<Self> {
        let plan = plan(&[function.to_owned()], mode, BURST, traffic)?;
        let cores = match options.path {
            Via::Memory => Cores::start(&plan)?,
            Via::Link => {
                let (function, config) = (function.to_owned(), config(function, traffic));
                let served = Served::Chain { function, mode, config };
                Cores::start_with(&plan, ProcessShard::start(&served, &options.program)?)?
            }
        };
        let mut subject = Self {
            mode,
            cores,
            feed: Feed::new(traffic.clone()),
            percentiles: Default::default(),
            mpps: Samples::default(),
            cpu_mpps: Samples::default(),
            gbps: Samples::default(),
            round_trips: Samples::default(),
        };
        let warm = traffic.timed().start;
        while subject.feed.read() < warm {
            let left = (warm - subject.feed.read()) as usize;
            subject.cores.burst(&mut subject.feed, left.min(usize::from(BURST)))?;
        }
        Ok(subject)
    }

    fn sample(&mut self, packets: usize) -> anyhow::Result<()> {
        let mut times = Histogram::<u64>::new_with_bounds(1, PICOSECONDS_MAX, 3).context("no histogram")?;
        self.cores.take_instance_time();
        let waited = self.cores.round_trips();
        let (bytes, begin) = (self.feed.bytes_read(), Stamp::now());
        let mut done = 0;
        while done < packets {
            let taken = self.cores.burst(&mut self.feed, usize::from(BURST).min(packets - done))?;
            let took = self.cores.take_instance_time();
            if taken > 0 {
                times.saturating_record(took.as_nanos() as u64 * 1000 / taken as u64);
            }
            done += taken;
        }
        let took = Stamp::now().since(begin);
        let seconds = took.wall.as_secs_f64();
        let (read, left) = (self.feed.read(), self.cores.left());
        ensure!(read == left, "{read} packets came in, {left} went out and {} ended", self.cores.dropped());
        for (samples, (_, share)) in self.percentiles.iter_mut().zip(PERCENTILES) {
            samples.push(times.value_at_quantile(share) as f64 / 1e3);
        }
        self.mpps.push(packets as f64 / seconds / 1e6);
        self.cpu_mpps.push(packets as f64 / took.cpu.as_secs_f64() / 1e6);
        self.gbps.push((self.feed.bytes_read() - bytes) as f64 * 8.0 / seconds / 1e9);
        self.round_trips.push((self.cores.round_trips() - waited) as f64 / packets as f64);
        Ok(())
    }

    fn line(&self, function: &str, options: &OverheadOptions) -> Line {
        let mut line = Line::new("overhead", "ns/packet")
            .key("nf", function)
            .key("mode", self.mode.name())
            .key("size", options.traffic.size)
            .key("path", options.path.name())
            .key("flows", options.traffic.flows)
            .key("new_share", options.traffic.new_share);
        for (samples, (name, share)) in self.percentiles.iter().zip(PERCENTILES) {
            line = line.figure(name, samples.median());
            if share == 0.5 {
                line = line.samples(samples);
            }
        }
        line.figure("mpps", self.mpps.median())
            .figure("cpu_mpps", self.cpu_mpps.median())
            .figure("gbps", self.gbps.median())
            .figure("blocking_round_trips", self.round_trips.median())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn packets_wait_for_the_store_when_connections_open_and_otherwise_never() {
        let measured = |new_share| {
            let options = OverheadOptions {
                traffic: TrafficOptions { size: 64, flows: 40, packets: 3000, new_share },
                functions: vec!["nat".into()],
                modes: vec![Mode::Traditional, Mode::Default, Mode::External, Mode::ExternalCache],
                samples: 2,
                path: Via::Memory,
                program: PathBuf::new(),
            };
            let lines = measure(&options).unwrap();
            lines.iter().map(|l| serde_json::from_str::<Value>(&l.show(true)).unwrap()).collect::<Vec<_>>()
        };
        let trips = |line: &Value| line["blocking_round_trips"].as_f64().unwrap();
        let [established, opening] = [0.0, 0.1].map(measured);
        let waits: Vec<f64> = established.iter().map(trips).collect();
        assert_eq!(waits[..2], [0.0, 0.0]);
        assert!((waits[2] - 2.0).abs() < 0.01, "its record and its counter");
        assert!((waits[3] - 1.0).abs() < 0.01, "its counter");
        assert_eq!(trips(&opening[0]), 0.0, "a function that keeps its state itself waits for nobody");
        assert!((trips(&opening[1]) - 0.05).abs() < 0.001, "a port is waited for, one a connection");
        for line in established.iter().chain(&opening) {
            let figures = PERCENTILES.map(|(name, _)| line[name].as_f64().unwrap());
            assert!(figures[0] > 0.0 && figures.is_sorted(), "{line}");
        }
    }
}
