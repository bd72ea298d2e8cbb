//! Experiment `metadata`: what the memory for failures costs, part by part.
//!
//! The whole chain in default mode, its cores called directly on one thread ([`crate::cores`]), with all
//! parts, without one of them, and without any. A part that is off is not compiled into the run, so nothing
//! is left of it, not even a test of a switch. The parts:
//!
//! | part | what is off |
//! |---|---|
//! | `root-log` | the root does not retain what is in flight |
//! | `retained-outputs` | the splitters of instances do not retain what they sent |
//! | `duplicate-suppression` | queues, egress and store do not look up what they had before |
//! | `closing` | boundaries are closed without versions, counts and acknowledgements |
//! | `all` | all of these |
//!
//! For each part there is a line with it on and one with it off; `share` is the part of the rate it takes, the median
//! over samples taken one after the other. A chain is a percent or two slower or faster by where it comes among the
//! others, even if they are the same: so the one with all parts is there twice, first and last, and its samples are the
//! means of both.
//! Without closing there are no counts in the store and no versions: the outputs are the same.

use crate::cores::{Cores, Memory};
use crate::report::{Line, Samples};
use crate::setup::{Mode, config, function_of, plan};
use crate::steady::Steady;
use crate::traffic::{Traffic, TrafficOptions};
use chc_actors::chain::compile::{ChainPlan, SEED, VertexPlan};
use chc_actors::functions::InstanceFactory;
use chc_actors::instance::core::build;
use chc_api::{Declarations, NetworkFunction, Protection, Protections};
use chc_nf_catalog::Visitor;
use clap::ValueEnum;
use std::marker::PhantomData;
use std::sync::Arc;

/// What to measure.
#[derive(Clone, Debug)]
pub struct MetadataOptions {
    /// The traffic; `packets` is of one sample.
    pub traffic: TrafficOptions,
    /// The chain's functions, in order.
    pub vertices: Vec<String>,
    /// The parts.
    pub parts: Vec<Part>,
    /// Samples of each.
    pub samples: usize,
    /// Packets of a burst.
    pub burst: u16,
}

/// A part of what is kept for the case of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The root's log.
    RootLog,
    /// The outputs the splitters of instances retain.
    RetainedOutputs,
    /// The memory of what came before: in queues, egress and store.
    DuplicateSuppression,
    /// Versions, counts and acknowledgements before a boundary is closed.
    Closing,
    /// All of it.
    All,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::RootLog => "root-log",
            Part::RetainedOutputs => "retained-outputs",
            Part::DuplicateSuppression => "duplicate-suppression",
            Part::Closing => "closing",
            Part::All => "all",
        }
    }

    /// What is off without it, as bits: one a part, by its place.
    const fn bits(self) -> u8 {
        match self {
            Part::All => 0b1111,
            part => 1 << part as u8,
        }
    }

    const fn is_in(self, off: u8) -> bool {
        self.bits() & off != 0
    }
}

const NO_BITS: u8 = 0;

/// The protections of a run without some parts.
struct Without<const OFF: u8>;

impl<const OFF: u8> Protections for Without<OFF> {
    #[inline(always)]
    fn on(protection: Protection) -> bool {
        let part = match protection {
            Protection::RetainedOutputs => Part::RetainedOutputs,
            Protection::OutputSuppression | Protection::UpdateSuppression => Part::DuplicateSuppression,
            Protection::FlushedState | Protection::AcknowledgedClosing => Part::Closing,
            _ => return true,
        };
        !part.is_in(OFF)
    }
}

/// Runs the experiment.
///
/// # Errors
/// If the chain cannot be built or did not let every packet through.
pub fn measure(options: &MetadataOptions) -> anyhow::Result<Vec<Line>> {
    // All samples together are one run.
    let packets = options.traffic.packets * options.samples;
    let traffic = Arc::new(Traffic::new(TrafficOptions { packets, ..options.traffic }));
    let plan = plan(&options.vertices, Mode::Default, options.burst, &traffic)?;
    let mut first = Subject::<NO_BITS>::boxed(options, &plan, &traffic)?;
    let mut without = Vec::new();
    for part in &options.parts {
        const ROOT_LOG: u8 = Part::RootLog.bits();
        const RETAINED_OUTPUTS: u8 = Part::RetainedOutputs.bits();
        const DUPLICATE_SUPPRESSION: u8 = Part::DuplicateSuppression.bits();
        const CLOSING: u8 = Part::Closing.bits();
        const ALL: u8 = Part::All.bits();
        without.push(match part {
            Part::RootLog => Subject::<ROOT_LOG>::boxed(options, &plan, &traffic)?,
            Part::RetainedOutputs => Subject::<RETAINED_OUTPUTS>::boxed(options, &plan, &traffic)?,
            Part::DuplicateSuppression => Subject::<DUPLICATE_SUPPRESSION>::boxed(options, &plan, &traffic)?,
            Part::Closing => Subject::<CLOSING>::boxed(options, &plan, &traffic)?,
            Part::All => Subject::<ALL>::boxed(options, &plan, &traffic)?,
        });
    }
    let mut last = Subject::<NO_BITS>::boxed(options, &plan, &traffic)?;
    for _ in 0..options.samples {
        for subject in std::iter::once(&mut first).chain(&mut without).chain([&mut last]) {
            subject.sample(options.traffic.packets)?;
        }
    }
    let mut on = Samples::default();
    for (first, last) in first.mpps().all().iter().zip(last.mpps().all()) {
        on.push((first + last) / 2.0);
    }
    let lines = |(part, off): (&Part, &Samples)| {
        let line = |is_on: bool, samples| {
            Line::new("metadata", "Mpps")
                .key("part", part.name())
                .key("on", is_on)
                .key("size", options.traffic.size)
                .key("flows", options.traffic.flows)
                .key("vertices", options.vertices.join(","))
                .key("burst", options.burst)
                .samples(samples)
        };
        let share = 1.0 - on.ratio(off);
        [line(true, &on).figure("share", share), line(false, off)]
    };
    let off = without.iter().map(|subject| subject.mpps());
    Ok(options.parts.iter().zip(off).flat_map(lines).collect())
}

/// A chain that is measured.
trait Sampled {
    /// Takes a sample of as many packets.
    fn sample(&mut self, packets: usize) -> anyhow::Result<()>;
    /// The samples so far.
    fn mpps(&self) -> &Samples;
}

/// A chain without the parts in `OFF`.
struct Subject<const OFF: u8> {
    chain: Steady<Without<OFF>>,
    mpps: Samples,
}

impl<const OFF: u8> Subject<OFF> {
    /// Builds the chain and warms it up.
    fn boxed(
        options: &MetadataOptions,
        plan: &ChainPlan,
        traffic: &Arc<Traffic>,
    ) -> anyhow::Result<Box<dyn Sampled>> {
        let factory = |vertex: &VertexPlan| {
            let (nf, slots) = (function_of(vertex), vertex.route.owners.len() as u16);
            let factory = Factory::<Without<OFF>>(PhantomData);
            let made = chc_nf_catalog::with(nf, &config(nf, traffic), slots, SEED, factory);
            made.map_err(|problems| anyhow::anyhow!("{nf}: {problems:?}"))
        };
        let factories: Vec<_> = plan.vertices.iter().map(factory).collect::<anyhow::Result<_>>()?;
        let memory = Memory {
            root_log: !Part::RootLog.is_in(OFF),
            egress_suppression: !Part::DuplicateSuppression.is_in(OFF),
        };
        let cores = Cores::with(plan, &factories, memory, None)?;
        let chain = Steady::new(cores, traffic, options.burst)?;
        Ok(Box::new(Self { chain, mpps: Samples::default() }))
    }
}

impl<const OFF: u8> Sampled for Subject<OFF> {
    fn sample(&mut self, packets: usize) -> anyhow::Result<()> {
        let took = self.chain.sample(packets)?;
        self.mpps.push(packets as f64 / took.wall.as_secs_f64() / 1e6);
        Ok(())
    }

    fn mpps(&self) -> &Samples {
        &self.mpps
    }
}

/// Makes a function's instances with protections of choice.
struct Factory<P>(PhantomData<P>);

impl<P: Protections> Visitor for Factory<P> {
    type Out = InstanceFactory;

    fn visit<N: NetworkFunction>(
        self,
        make: impl Fn() -> N + Clone + Send + 'static,
        _declarations: Declarations,
    ) -> InstanceFactory {
        let make = std::sync::Mutex::new(make);
        Arc::new(move |config| {
            let nf = make.lock().unwrap_or_else(std::sync::PoisonError::into_inner)();
            build::<N, P>(nf, config)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_part_gives_a_line_with_it_and_one_without() {
        let options = MetadataOptions {
            traffic: TrafficOptions { size: 64, flows: 40, packets: 4000, new_share: 0.1 },
            vertices: vec!["nat".into(), "portscan".into(), "trojan".into()],
            parts: Part::value_variants().to_vec(),
            samples: 2,
            burst: 256,
        };
        let lines = measure(&options).unwrap();
        let lines: Vec<Value> = lines.iter().map(|l| serde_json::from_str(&l.show(true)).unwrap()).collect();
        let parts: Vec<_> = lines.iter().map(|l| (l["part"].as_str().unwrap(), l["on"] == true)).collect();
        let expected = ["root-log", "retained-outputs", "duplicate-suppression", "closing", "all"];
        assert_eq!(parts, expected.map(|part| [(part, true), (part, false)]).concat());
        for line in &lines {
            let figures = ["min", "median", "max"].map(|k| line[k].as_f64().unwrap());
            assert!(figures[0] > 0.0 && figures.is_sorted(), "{line}");
            assert_eq!(line["share"].is_number(), line["on"] == true);
        }
    }

    #[test]
    fn a_part_that_is_off_is_off_alone() {
        type Some = Without<{ Part::Closing.bits() | Part::RetainedOutputs.bits() }>;
        assert!(!Some::on(Protection::FlushedState) && !Some::on(Protection::RetainedOutputs));
        assert!(Some::on(Protection::OutputSuppression) && Some::on(Protection::StepsFirst));
        assert!(!Without::<{ Part::All.bits() }>::on(Protection::UpdateSuppression));
        assert!(Without::<NO_BITS>::on(Protection::FlushedState));
    }
}
