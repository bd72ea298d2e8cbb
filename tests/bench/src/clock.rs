//! Experiment `clock`: what leasing clocks from the store costs.
//!
//! The chain's cores are called directly on one thread ([`crate::cores`]) with a lease for every `n` packets, and
//! with one that is never used up; the figure is the difference in time, a packet. A sample of each is taken in
//! turn. The root asks for the next lease when half of one is left; where that comes too late, it waits.

use crate::cores::Cores;
use crate::report::{Line, Samples};
use crate::setup::{Mode, plan};
use crate::steady::Steady;
use crate::traffic::{Traffic, TrafficOptions};
use std::sync::Arc;

/// A lease that is never used up.
const ENDLESS: u64 = 1 << 60;

/// What to measure.
#[derive(Clone, Debug)]
pub struct ClockOptions {
    /// The traffic; `packets` is of one sample.
    pub traffic: TrafficOptions,
    /// The chain's functions, in order.
    pub vertices: Vec<String>,
    /// Packets a lease.
    pub leases: Vec<u32>,
    /// Samples of each.
    pub samples: usize,
    /// Packets of a burst.
    pub burst: u16,
}

/// Runs the experiment.
///
/// # Errors
/// If the chain cannot be built or did not let every packet through.
pub fn measure(options: &ClockOptions) -> anyhow::Result<Vec<Line>> {
    // All samples together are one run.
    let packets = options.traffic.packets * options.samples;
    let traffic = Arc::new(Traffic::new(TrafficOptions { packets, ..options.traffic }));
    let chain = |clock_lease: u64| {
        let mut plan = plan(&options.vertices, Mode::Default, options.burst, &traffic)?;
        plan.clock_lease = clock_lease;
        Steady::new(Cores::start(&plan)?, &traffic, options.burst)
    };
    let mut endless = chain(ENDLESS)?;
    let mut leased =
        options.leases.iter().map(|n| chain(u64::from(*n))).collect::<anyhow::Result<Vec<_>>>()?;
    let mut added = vec![Samples::default(); leased.len()];
    let sample = |chain: &mut Steady| -> anyhow::Result<f64> {
        let took = chain.sample(options.traffic.packets)?;
        Ok(took.wall.as_nanos() as f64 / options.traffic.packets as f64)
    };
    for _ in 0..options.samples {
        let without = sample(&mut endless)?;
        for (chain, samples) in leased.iter_mut().zip(&mut added) {
            samples.push(sample(chain)? - without);
        }
    }
    let line = |(n, samples): (&u32, &Samples)| {
        Line::new("clock", "ns/packet")
            .key("n", *n)
            .key("size", options.traffic.size)
            .key("flows", options.traffic.flows)
            .key("vertices", options.vertices.join(","))
            .key("burst", options.burst)
            .samples(samples)
    };
    Ok(options.leases.iter().zip(&added).map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_lease_gives_a_line() {
        let options = ClockOptions {
            traffic: TrafficOptions { size: 64, flows: 40, packets: 4000, new_share: 0.1 },
            vertices: vec!["nat".into()],
            leases: vec![1, 100],
            samples: 2,
            burst: 32,
        };
        let lines = measure(&options).unwrap();
        let lines: Vec<Value> = lines.iter().map(|l| serde_json::from_str(&l.show(true)).unwrap()).collect();
        assert_eq!(lines.iter().map(|line| line["n"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(100)]);
        // A round trip a packet cannot be had for nothing.
        assert!(lines[0]["median"].as_f64().unwrap() > 0.0, "{}", lines[0]);
    }
}
