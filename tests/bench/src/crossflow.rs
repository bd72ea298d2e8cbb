//! Experiment `crossflow`: what an update of state that several instances may share costs (the paper's Figure 9).
//!
//! A portscan detector that blocks gets SYNs of 1,000 connections of 63 hosts, unanswered and sent again and again. Each
//! runs an operation on what is known of its host and needs the result; it writes nothing else. First one instance has all of the
//! traffic and holds those values itself; then a second one joins, and every one is an operation of the store; then that
//! one leaves again. The same packets go through a detector whose state is local, too. A value is fetched with the first
//! operation on it after the instance has become the only one.
//!
//! The figure is the median time from a packet's arrival at its instance to the moment its burst has left that, the
//! store's answer included where it waits for one, divided by the packets of the burst. Cores are called directly ([`crate::cores`]), instances and
//! shard on one thread: a round trip costs what both do for it, and no wire.

use crate::cores::Cores;
use crate::report::{Line, Samples};
use crate::setup::{Mode, plan_with};
use crate::traffic::{Traffic, TrafficOptions};
use anyhow::{Context as _, ensure};
use chc_actors::root::core::Arrival;
use chc_actors::root::reader::PacketSource;
use chc_actors::routing::Repartition;
use chc_api::packet::LinkType;
use chc_api::{Side, Time, VertexId};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const DETECTOR: VertexId = VertexId(0);
const FLOWS: usize = 1000;
/// Longest time that is told from longer ones, in nanoseconds.
const TIME_MAX: u64 = 60_000_000_000;
/// For how many stretches of a phase a median is told.
const STRETCHES: usize = 20;

/// Who updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Phase {
    /// A detector with local state.
    Local,
    /// The only instance.
    Alone,
    /// One of two.
    Shared,
    /// The only one again.
    AloneAgain,
}

impl Phase {
    /// Its name on the command line and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Local => "local",
            Phase::Alone => "alone",
            Phase::Shared => "shared",
            Phase::AloneAgain => "alone-again",
        }
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct CrossflowOptions {
    /// The phases that are told; all are run.
    pub phases: Vec<Phase>,
    /// Packets of each.
    pub packets: usize,
    /// Packets the root reads at once.
    pub burst: usize,
    /// How often everything is run.
    pub samples: usize,
}

/// Runs the experiment.
///
/// # Errors
/// If the chain cannot be built, or an instance does not join or leave.
pub fn measure(options: &CrossflowOptions) -> anyhow::Result<Vec<Line>> {
    let traffic = TrafficOptions { size: 64, flows: FLOWS, packets: 0, new_share: 0.0 };
    let traffic = Arc::new(Traffic::new(traffic));
    let mut found: Vec<(Phase, Samples, Vec<f64>)> = Vec::new();
    for phase in Phase::value_variants() {
        found.push((*phase, Samples::default(), Vec::new()));
    }
    for _ in 0..options.samples {
        let mut local = Detector::start(Mode::Traditional, options.burst, &traffic)?;
        let mut detector = Detector::start(Mode::Default, options.burst, &traffic)?;
        for (phase, samples, stretches) in &mut found {
            let subject = match phase {
                Phase::Local => &mut local,
                Phase::Alone => &mut detector,
                Phase::Shared => detector.scale(2)?,
                Phase::AloneAgain => detector.scale(1)?,
            };
            let times = subject.run(options.packets, options.burst)?;
            samples.push(median(&times)?);
            let stretch = times.len().div_ceil(STRETCHES).max(1);
            *stretches = times.chunks(stretch).map(median).collect::<anyhow::Result<_>>()?;
        }
    }
    let local = found.iter().find(|(phase, ..)| *phase == Phase::Local).map_or(0.0, |(_, s, _)| s.median());
    let asked = found.iter().filter(|(phase, ..)| options.phases.contains(phase));
    let line = |(phase, samples, stretches): &(Phase, Samples, Vec<f64>)| {
        Line::new("crossflow", "us")
            .key("phase", phase.name())
            .key("packets", options.packets)
            .samples(samples)
            .figure("to_local", samples.median() / local)
            .key("by_packet", stretches.clone())
    };
    Ok(asked.map(line).collect())
}

fn median(times: &[Duration]) -> anyhow::Result<f64> {
    let mut all = Histogram::<u64>::new_with_bounds(1, TIME_MAX, 3).context("no histogram")?;
    times.iter().for_each(|time| all.saturating_record(time.as_nanos() as u64));
    Ok(all.value_at_quantile(0.5) as f64 / 1e3)
}

/// The SYNs of the connections, over and over.
struct Syns {
    traffic: Arc<Traffic>,
    read: usize,
}

impl PacketSource for Syns {
    fn next(&mut self) -> Result<Option<Arrival<'_>>, String> {
        let frame = self.traffic.syn(self.read % FLOWS);
        self.read += 1;
        let time = Time(self.read as u64);
        Ok(Some(Arrival {
            time,
            side: Side::Inside,
            link: LinkType::ETHERNET,
            wire_len: frame.len() as u32,
            frame: frame.into(),
        }))
    }
}

/// A portscan detector, of two instances unless its state is local.
struct Detector {
    cores: Cores,
    syns: Syns,
}

impl Detector {
    fn start(mode: Mode, burst: usize, traffic: &Arc<Traffic>) -> anyhow::Result<Self> {
        let config = |_: &str| json!({ "action": "block" });
        let mut plan = plan_with(&["portscan".to_owned()], mode, burst as u16, config)?;
        if mode != Mode::Traditional {
            let route = &mut plan.vertices[0].route;
            route.instances = 2;
            route.owners.fill(0);
        }
        let mut detector =
            Self { cores: Cores::start(&plan)?, syns: Syns { traffic: traffic.clone(), read: 0 } };
        detector.run(2 * FLOWS, burst)?;
        Ok(detector)
    }

    /// How long the instances had each of the next packets.
    fn run(&mut self, packets: usize, burst: usize) -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(packets);
        while times.len() < packets {
            let taken = self.cores.burst(&mut self.syns, burst.min(packets - times.len()))?;
            let each = self.cores.handled_in().checked_div(taken as u32);
            times.extend(std::iter::repeat_n(each.unwrap_or_default(), taken));
            let (read, left) = (self.syns.read as u64, self.cores.left());
            ensure!(read == left, "{read} packets came in and {left} went out");
        }
        Ok(times)
    }

    fn scale(&mut self, instances: u16) -> anyhow::Result<&mut Self> {
        let turned = self.cores.repartition(DETECTOR, Repartition::Scale(instances))?;
        ensure!(turned == 2, "{turned} instances of two have lost or gained slots");
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_phase_gives_a_line() {
        let phases = Phase::value_variants().to_vec();
        let lines = measure(&CrossflowOptions { phases, packets: 400, burst: 4, samples: 2 }).unwrap();
        let lines: Vec<Value> = lines.iter().map(|l| serde_json::from_str(&l.show(true)).unwrap()).collect();
        let names: Vec<_> = lines.iter().map(|line| line["phase"].as_str().unwrap()).collect();
        assert_eq!(names, ["local", "alone", "shared", "alone-again"]);
        for line in &lines {
            assert!(line["median"].as_f64().unwrap() > 0.0);
            assert_eq!(line["by_packet"].as_array().unwrap().len(), STRETCHES);
        }
    }
}
