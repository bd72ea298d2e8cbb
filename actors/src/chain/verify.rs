//! The proof that nothing changed: the ideal chain on the same input with the root's stamps, and the
//! comparison of outputs, events, drops and state.
//!
//! Where an object is `serial`, the real run's choices are given to the ideal chain, which checks that
//! each was legal at its position and then follows it; so everything can be compared byte for byte.

use super::compile::ChainPlan;
use super::run::{RunOptions, RunOutcome, run};
use super::sinks::{CaptureSource, Everything, KeepingSink};
use crate::ideal::{Choices, IdealChain, Input, Outcome, Output, StateKey};
use crate::root::core::Stamp;
use crate::root::fragments::Fragments;
use anyhow::Context as _;
use chc_api::packet::parse::parse;
use chc_api::state::ObjectKind;
use chc_api::{FlowKey, OpValue, Position};
use chc_runtime::capture::CaptureReader;
use std::collections::HashMap;
use std::path::Path;

/// What the comparison found.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Packets compared.
    pub outputs: u64,
    /// Events compared.
    pub events: u64,
    /// State objects compared.
    pub state_objects: u64,
    /// Relations that were checked because an object leaves a choice.
    pub relations: Vec<String>,
    /// What differs first, if anything does.
    pub first_difference: Option<String>,
}

impl Comparison {
    fn differ(&mut self, what: impl FnOnce() -> String) {
        self.first_difference.get_or_insert_with(what);
    }
}

/// Runs the real chain on a capture, then the ideal one, and compares.
///
/// # Errors
/// If the capture cannot be opened or the real chain did not come to its end.
pub fn verify(
    plan: &ChainPlan,
    input: &Path,
    options: &RunOptions,
    progress: impl FnMut(u64),
) -> anyhow::Result<(RunOutcome, Comparison)> {
    let sink = KeepingSink::default();
    let everything = sink.0.clone();
    let source = CaptureSource(CaptureReader::open(input)?);
    let options = RunOptions { record: true, ..options.clone() };
    let outcome = run(plan, source, sink, &options, progress)?;
    let everything = std::mem::take(&mut *everything.lock());
    let comparison = compare(plan, input, &outcome, &everything)?;
    Ok((outcome, comparison))
}

fn choices(outcome: &RunOutcome) -> Choices {
    let member = |value: &OpValue| match value {
        OpValue::Int(member) => Some(*member as u64),
        _ => None,
    };
    let all = outcome.choices.iter();
    all.map(|(vertex, name, value)| ((*vertex, name.position, u32::from(name.index)), member(value)))
        .collect()
}

/// Feeds the input to the ideal chain and compares what it gives with a recorded run of the real one,
/// as it goes.
///
/// # Errors
/// If the capture cannot be read again.
pub fn compare(
    plan: &ChainPlan,
    input: &Path,
    outcome: &RunOutcome,
    real: &Everything,
) -> anyhow::Result<Comparison> {
    let mut chain = IdealChain::new(plan.window, plan.topology.clone(), Some(choices(outcome)));
    for vertex in &plan.vertices {
        (vertex.function.ideal)(&mut chain, vertex.route.vertex);
    }
    let mut comparison = Comparison { relations: relations(plan), ..Comparison::default() };
    let mut outputs = RealOutputs::new(real, plan.topology.joins(None), &mut comparison);
    let mut events = Vec::new();
    let mut reader = CaptureReader::open(input).context("the input cannot be read again")?;
    let mut fragments = Fragments::default();
    for Stamp { step, is_step } in &outcome.root.stamps {
        if step.time.is_end() {
            chain.end(step.clock);
        } else if step.number == 0 {
            if *is_step {
                chain.time_step(step.clock, step.time);
            }
        } else {
            // Stamped in input order; what was not stamped found no room.
            let record = loop {
                match reader.next().ok().flatten() {
                    Some(record) if record.number < step.number => {}
                    other => break other,
                }
            };
            let Some(record) = record else { break };
            let mut parsed = parse(record.link, record.data);
            fragments.resolve(record.data, &mut parsed, step.time);
            let ideal = chain.feed(&Input {
                clock: step.clock,
                time: step.time,
                is_step: *is_step,
                number: step.number,
                link: record.link,
                wire_len: record.wire_len,
                frame: record.data,
                parsed,
                identity: parsed.identity(),
            });
            for outcome in &ideal {
                outputs.compare(outcome, &mut comparison);
            }
        }
        events.extend(chain.take_events());
    }
    outputs.finish(&mut comparison);
    compare_events(&events, real, &mut comparison);
    compare_state(&chain, outcome, &mut comparison);
    if let Some(violation) = chain.violations().into_iter().next() {
        comparison.differ(|| violation);
    }
    Ok(comparison)
}

fn relations(plan: &ChainPlan) -> Vec<String> {
    let pools =
        plan.vertices.iter().flat_map(|v| v.function.declarations.objects.iter().map(move |s| (v, s)));
    pools
        .filter(|(_, s)| matches!(s.kind, ObjectKind::Pool { .. }))
        .map(|(v, s)| format!("{}.{}: every member was free and rested when it was taken", v.name, s.name))
        .collect()
}

/// The packets and drops of the real run, by clock.
struct RealOutputs<'a> {
    real: &'a Everything,
    by_position: HashMap<Position, usize>,
    dropped: HashMap<Position, &'static str>,
}

impl<'a> RealOutputs<'a> {
    /// Looks at their order: that of each connection, or, where the chain keeps it, of the input.
    fn new(real: &'a Everything, in_order: bool, comparison: &mut Comparison) -> Self {
        let mut by_position = HashMap::with_capacity(real.packets.len());
        let mut last: HashMap<FlowKey, Position> = HashMap::new();
        for (at, kept) in real.packets.iter().enumerate() {
            if by_position.insert(kept.position, at).is_some() {
                comparison.differ(|| format!("packet {:?} left twice", kept.position));
            }
            let of = if in_order { FlowKey::NONE } else { kept.identity.key };
            let before = last.insert(of, kept.position);
            if before.is_some_and(|b| b > kept.position) && (in_order || !of.is_none()) {
                comparison.differ(|| {
                    format!("packet {:?} of {} left out of order", kept.position, kept.identity.key)
                });
            }
        }
        let mut dropped = HashMap::new();
        for (_, record) in &real.drops {
            if dropped.insert(record.position, record.reason).is_some() {
                comparison.differ(|| format!("packet {:?} was dropped twice", record.position));
            }
        }
        Self { real, by_position, dropped }
    }

    fn compare(&mut self, ideal: &Outcome, comparison: &mut Comparison) {
        comparison.outputs += 1;
        match ideal {
            Outcome::Forwarded(output) => self.compare_packet(output, comparison),
            Outcome::Dropped { position, reason, .. } => {
                let found = self.dropped.remove(position);
                if found != Some(reason) {
                    comparison.differ(|| {
                        format!(
                            "packet {position:?} is dropped as {reason} by the ideal chain, here {found:?}"
                        )
                    });
                }
            }
        }
    }

    fn compare_packet(&mut self, output: &Output, comparison: &mut Comparison) {
        let position = output.position;
        let Some(at) = self.by_position.remove(&position) else {
            let dropped = self.dropped.get(&position);
            return comparison.differ(|| {
                format!(
                    "packet {position:?} (number {}) did not leave; dropped as {dropped:?}",
                    output.number
                )
            });
        };
        let kept = &self.real.packets[at];
        let bytes = self.real.bytes(kept);
        if bytes != output.frame.as_slice() {
            let first = bytes.iter().zip(&output.frame).position(|(a, b)| a != b);
            comparison.differ(|| {
                format!(
                    "packet {position:?} (number {}) differs at byte {first:?}: {} bytes {:02x?}, ideally {} bytes \
                     {:02x?}",
                    output.number,
                    bytes.len(),
                    &bytes[..bytes.len().min(64)],
                    output.frame.len(),
                    &output.frame[..output.frame.len().min(64)],
                )
            });
        }
        if kept.identity != output.identity {
            comparison.differ(|| {
                format!(
                    "packet {position:?} belongs to {:?}, ideally to {:?}",
                    kept.identity, output.identity
                )
            });
        }
    }

    fn finish(self, comparison: &mut Comparison) {
        if let Some((position, _)) = self.by_position.into_iter().min() {
            comparison.differ(|| format!("packet {position:?} left, and should not have"));
        }
        if let Some((position, reason)) = self.dropped.into_iter().min() {
            comparison
                .differ(|| format!("packet {position:?} was dropped as {reason}, and should not have been"));
        }
    }
}

fn compare_events(ideal: &[crate::ideal::EventRecord], real: &Everything, comparison: &mut Comparison) {
    let mut left: HashMap<_, _> = HashMap::new();
    for (from, record) in &real.events {
        let name = (from.vertex, record.position, u32::from(record.index));
        if left.insert(name, record).is_some() {
            comparison.differ(|| format!("event {name:?} was reported twice"));
        }
    }
    for event in ideal {
        comparison.events += 1;
        let name = (event.vertex, event.position, event.index);
        match left.remove(&name) {
            None => comparison.differ(|| format!("event {name:?} is missing: {:?}", event.event)),
            Some(record) if record.event != event.event || record.number != event.number.unwrap_or(0) => {
                comparison.differ(|| {
                    format!("event {name:?} is {record:?}, ideally {:?} by {:?}", event.event, event.number)
                });
            }
            Some(_) => {}
        }
    }
    if let Some((name, record)) = left.into_iter().min_by_key(|(name, _)| *name) {
        comparison
            .differ(|| format!("event {name:?} was reported and should not have been: {:?}", record.event));
    }
}

fn compare_state(chain: &IdealChain, outcome: &RunOutcome, comparison: &mut Comparison) {
    let ideal = chain.state();
    for (key, value) in &ideal {
        comparison.state_objects += 1;
        let real = outcome.state.get(key);
        if real != Some(value) {
            comparison.differ(|| format!("state {key:?} is {real:?}, ideally {value:?}"));
        }
    }
    let forgotten = chain.forgotten();
    let is_known = |key: &StateKey| ideal.contains_key(key) || forgotten.contains(key);
    if let Some((key, value)) = outcome.state.iter().find(|(key, _)| !is_known(key)) {
        comparison.differ(|| format!("state {key:?} is {value:?}, ideally it does not exist"));
    }
}
