//! Experiment `scale`: how the time of a packet grows with connections, functions and instances.
//!
//! * `flows`: one NAT with `n` established connections, each packet of one drawn at random. Steps come from the
//!   caches the tables outgrow. `bytes_per_connection` is what the process has grown by since the traffic was made,
//!   everything in it: the instance's table, the versions the store keeps, the pools; it is left out below
//!   100,000 connections, where it would tell more of buffers.
//! * `length`: a NAT and as many port-scan detectors behind it as make `n` functions.
//! * `instances`: one NAT of `n` instances.
//!
//! The first two call the cores directly on one thread ([`crate::cores`]); the third is a run by the production
//! path with everything on one arbiter, as in `chain`, so more instances show what more actors cost and not what
//! more cores give.

use crate::chain::rate;
use crate::cores::Cores;
use crate::report::{Line, Samples};
use crate::setup::{Mode, plan};
use crate::steady::Steady;
use crate::traffic::{Traffic, TrafficOptions};
use anyhow::Context as _;
use clap::ValueEnum;
use std::sync::Arc;

/// Fewest connections of which memory is told.
const MEMORY_FROM: usize = 100_000;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Established connections.
    Flows,
    /// Functions in the chain.
    Length,
    /// Instances of a function.
    Instances,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Flows => "flows",
            What::Length => "length",
            What::Instances => "instances",
        }
    }

    /// How far it grows, without further word.
    #[must_use]
    pub fn steps(self) -> Vec<u32> {
        match self {
            What::Flows => vec![1_000, 10_000, 100_000, 1_000_000, 10_000_000],
            What::Length => vec![1, 2, 4, 8],
            What::Instances => vec![1, 4, 16, 64],
        }
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct ScaleOptions {
    /// The traffic; `packets` is of one sample, and `flows` of what does not vary them.
    pub traffic: TrafficOptions,
    /// What grows.
    pub what: Vec<What>,
    /// How far; without, [`What::steps`].
    pub n: Option<u32>,
    /// Samples of each.
    pub samples: usize,
    /// Packets of a burst.
    pub burst: u16,
}

/// Runs the experiment.
///
/// # Errors
/// If a chain cannot be built or did not let every packet through.
pub fn measure(options: &ScaleOptions) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for what in &options.what {
        for n in options.n.map_or_else(|| what.steps(), |n| vec![n]) {
            lines.push(step(options, *what, n)?);
        }
    }
    Ok(lines)
}

fn step(options: &ScaleOptions, what: What, n: u32) -> anyhow::Result<Line> {
    let mut traffic = options.traffic;
    let mut functions = vec!["nat".to_owned()];
    match what {
        What::Flows => traffic.flows = n as usize,
        What::Length => functions.resize(n as usize, "portscan".to_owned()),
        What::Instances => {}
    }
    let mut samples = Samples::default();
    let mut bytes = None;
    if what == What::Instances {
        let traffic = Arc::new(Traffic::new(traffic));
        let mut plan = plan(&functions, Mode::Default, options.burst, &traffic)?;
        for vertex in &mut plan.vertices {
            let instances = n as u16;
            vertex.route.instances = instances;
            vertex.route.owners =
                (0..vertex.route.owners.len() as u16).map(|slot| slot % instances).collect();
        }
        for _ in 0..options.samples {
            samples.push(ns(rate(&plan, &traffic)?, options.traffic.packets));
        }
    } else {
        // All samples together are one run.
        let packets = traffic.packets * options.samples;
        let traffic = Arc::new(Traffic::new(TrafficOptions { packets, ..traffic }));
        let plan = plan(&functions, Mode::Default, options.burst, &traffic)?;
        let before = resident()?;
        let mut chain = Steady::new(Cores::start(&plan)?, &traffic, options.burst)?;
        for _ in 0..options.samples {
            samples.push(ns(chain.sample(options.traffic.packets)?, options.traffic.packets));
        }
        let grown = resident()?.saturating_sub(before);
        bytes = (what == What::Flows && n as usize >= MEMORY_FROM).then(|| grown as f64 / f64::from(n));
    }
    let line = Line::new("scale", "ns/packet")
        .key("what", what.name())
        .key("n", n)
        .key("size", options.traffic.size)
        .key("flows", if what == What::Flows { n as usize } else { options.traffic.flows })
        .key("burst", options.burst)
        .samples(&samples);
    Ok(match bytes {
        Some(bytes) => line.figure("bytes_per_connection", bytes),
        None => line,
    })
}

fn ns(took: crate::stamp::Stamp, packets: usize) -> f64 {
    took.wall.as_nanos() as f64 / packets as f64
}

/// Bytes of this process that are in memory.
fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().context("VmRSS is no number")?;
    Ok(kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_step_gives_a_line() {
        let options = ScaleOptions {
            traffic: TrafficOptions { size: 64, flows: 40, packets: 2000, new_share: 0.0 },
            what: What::value_variants().to_vec(),
            n: Some(2),
            samples: 2,
            burst: 32,
        };
        let lines = measure(&options).unwrap();
        let lines: Vec<Value> = lines.iter().map(|l| serde_json::from_str(&l.show(true)).unwrap()).collect();
        let what: Vec<_> = lines.iter().map(|line| line["what"].as_str().unwrap()).collect();
        assert_eq!(what, ["flows", "length", "instances"]);
        assert!(lines.iter().all(|line| line["median"].as_f64().unwrap() > 0.0));
        assert!(lines[0]["bytes_per_connection"].is_null());
    }
}
