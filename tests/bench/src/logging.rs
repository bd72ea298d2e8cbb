//! Experiment `logging`: what it costs to log the packets in flight.
//!
//! The chain's cores are called directly on one thread ([`crate::cores`]): with the log in the root's memory, with the log in
//! the store as well, where no packet goes on before it is there, and without one. The figure is the difference in time to
//! the last, a packet. A sample of each is taken in turn. The store is in the same thread: what is measured is the work, not
//! the way.

use crate::cores::{Cores, Memory};
use crate::report::{Line, Samples};
use crate::setup::{Mode, plan};
use crate::steady::Steady;
use crate::traffic::{Traffic, TrafficOptions};
use clap::ValueEnum;
use std::sync::Arc;

/// Where packets are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Where {
    /// In the root's memory.
    Root,
    /// In the store as well.
    Store,
}

impl Where {
    /// Its name on the command line and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Where::Root => "root",
            Where::Store => "store",
        }
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct LoggingOptions {
    /// The traffic; `packets` is of one sample.
    pub traffic: TrafficOptions,
    /// The chain's functions, in order.
    pub vertices: Vec<String>,
    /// Where packets are logged, in turn.
    pub places: Vec<Where>,
    /// Samples of each.
    pub samples: usize,
    /// Packets of a burst.
    pub burst: u16,
}

/// Runs the experiment.
///
/// # Errors
/// If the chain cannot be built or did not let every packet through.
pub fn measure(options: &LoggingOptions) -> anyhow::Result<Vec<Line>> {
    // All samples together are one run.
    let packets = options.traffic.packets * options.samples;
    let traffic = Arc::new(Traffic::new(TrafficOptions { packets, ..options.traffic }));
    let chain = |place: Option<Where>| {
        let mut plan = plan(&options.vertices, Mode::Default, options.burst, &traffic)?;
        plan.logs_to_store = place == Some(Where::Store);
        let factories: Vec<_> = plan.vertices.iter().map(|v| v.function.factory.clone()).collect();
        let memory = Memory { root_log: place.is_some(), egress_suppression: true };
        Steady::new(Cores::with(&plan, &factories, memory, None)?, &traffic, options.burst)
    };
    let mut without = chain(None)?;
    let mut logging =
        options.places.iter().map(|place| chain(Some(*place))).collect::<anyhow::Result<Vec<_>>>()?;
    let mut added = vec![Samples::default(); logging.len()];
    let sample = |chain: &mut Steady| -> anyhow::Result<f64> {
        let took = chain.sample(options.traffic.packets)?;
        Ok(took.wall.as_nanos() as f64 / options.traffic.packets as f64)
    };
    for _ in 0..options.samples {
        let base = sample(&mut without)?;
        for (chain, samples) in logging.iter_mut().zip(&mut added) {
            samples.push(sample(chain)? - base);
        }
    }
    let line = |(place, samples): (&Where, &Samples)| {
        Line::new("logging", "ns/packet")
            .key("where", place.name())
            .key("size", options.traffic.size)
            .key("flows", options.traffic.flows)
            .key("vertices", options.vertices.join(","))
            .key("burst", options.burst)
            .samples(samples)
    };
    Ok(options.places.iter().zip(&added).map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn both_places_give_a_line() {
        let options = LoggingOptions {
            traffic: TrafficOptions { size: 1434, flows: 40, packets: 4000, new_share: 0.0 },
            vertices: vec!["nat".into()],
            places: Where::value_variants().to_vec(),
            samples: 3,
            burst: 32,
        };
        let lines = measure(&options).unwrap();
        let lines: Vec<Value> = lines.iter().map(|l| serde_json::from_str(&l.show(true)).unwrap()).collect();
        assert_eq!(
            lines.iter().map(|line| line["where"].as_str()).collect::<Vec<_>>(),
            [Some("root"), Some("store")]
        );
        for line in &lines {
            assert!(["min", "median", "max"].map(|key| line[key].as_f64().unwrap()).is_sorted(), "{line}");
        }
    }
}
