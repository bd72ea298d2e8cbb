//! What `chc run` and `chc verify` print.

use super::Exit;
use crate::chain::compile::ChainPlan;
use crate::chain::run::{Recovery, RunOutcome};
use crate::chain::verify::Comparison;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
struct Suppressed {
    outputs: u64,
    updates: u64,
}

/// The result of a run.
#[derive(Serialize)]
pub struct RunReport {
    packets_in: u64,
    packets_out: u64,
    packets_extra: u64,
    drops: BTreeMap<&'static str, u64>,
    ingest_drops: u64,
    alerts: u64,
    events: u64,
    duplicates_suppressed: Suppressed,
    unparsed: BTreeMap<&'static str, u64>,
    elapsed_s: f64,
    mpps: f64,
    gbps: f64,
    instances: BTreeMap<String, u16>,
    queue_peaks: BTreeMap<String, u64>,
    recoveries: Vec<Recovery>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_error: Option<String>,
}

fn suppressed(outcome: &RunOutcome) -> Suppressed {
    let at_queues: u64 = outcome.instances.iter().map(|i| i.duplicates).sum();
    Suppressed { outputs: at_queues + outcome.egress.duplicates, updates: outcome.store.suppressed }
}

impl RunReport {
    /// The report of a run.
    #[must_use]
    pub fn new(plan: &ChainPlan, outcome: &RunOutcome, alerts: u64) -> Self {
        let elapsed_s = outcome.root.elapsed.as_secs_f64().max(1e-9);
        let counts = &outcome.root.counts;
        Self {
            // What was offered: ingest drops were packets, too.
            packets_in: counts.packets + outcome.root.ingest_drops,
            packets_out: outcome.egress.packets,
            packets_extra: 0,
            drops: outcome.egress.drops.clone(),
            ingest_drops: outcome.root.ingest_drops,
            alerts,
            events: outcome.egress.events,
            duplicates_suppressed: suppressed(outcome),
            unparsed: counts.reasons.clone(),
            elapsed_s,
            mpps: counts.packets as f64 / elapsed_s / 1e6,
            gbps: counts.bytes as f64 * 8.0 / elapsed_s / 1e9,
            instances: plan.vertices.iter().map(|v| (v.name.clone(), v.route.instances)).collect(),
            queue_peaks: plan
                .vertices
                .iter()
                .zip(&outcome.queue_peaks)
                .map(|(v, p)| (v.name.clone(), *p))
                .collect(),
            recoveries: outcome.recoveries.clone(),
            input_error: outcome.root.input_error.clone(),
        }
    }

    /// Prints it: one JSON object, or a summary.
    pub fn print(&self, json: bool) -> Result<(), Exit> {
        if json {
            return print_json(self);
        }
        println!("packets in      {}", self.packets_in);
        println!("packets out     {}", self.packets_out);
        for (reason, packets) in &self.drops {
            println!("  dropped       {packets} {reason}");
        }
        println!("ingest drops    {}", self.ingest_drops);
        for (reason, packets) in &self.unparsed {
            println!("  not parsed    {packets} {reason} (forwarded)");
        }
        println!("alerts          {}", self.alerts);
        let s = &self.duplicates_suppressed;
        println!("suppressed      {} outputs, {} updates", s.outputs, s.updates);
        println!("elapsed         {:.3} s, {:.2} Mpps, {:.2} Gbit/s", self.elapsed_s, self.mpps, self.gbps);
        print_recoveries(&self.recoveries);
        Ok(())
    }
}

fn print_recoveries(recoveries: &[Recovery]) {
    for r in recoveries {
        println!(
            "recovered       {} after {}: detected in {} us, caught up in {} us, {} packets ran again",
            r.actor, r.kind, r.detected_us, r.recovered_us, r.replayed
        );
    }
}

#[derive(Serialize)]
struct VerifyReport<'a> {
    equivalent: bool,
    outputs_compared: u64,
    alerts_compared: u64,
    state_objects_compared: u64,
    relations: &'a [String],
    duplicates_suppressed: Suppressed,
    recoveries: &'a [Recovery],
    first_difference: Option<&'a str>,
}

/// Prints the result of a comparison.
pub fn print_verify(outcome: &RunOutcome, comparison: &Comparison, json: bool) -> Result<(), Exit> {
    let report = VerifyReport {
        equivalent: comparison.first_difference.is_none(),
        outputs_compared: comparison.outputs,
        alerts_compared: comparison.events,
        state_objects_compared: comparison.state_objects,
        relations: &comparison.relations,
        duplicates_suppressed: suppressed(outcome),
        recoveries: &outcome.recoveries,
        first_difference: comparison.first_difference.as_deref(),
    };
    if json {
        return print_json(&report);
    }
    println!("{}", if report.equivalent { "equivalent" } else { "NOT equivalent" });
    println!(
        "compared        {} outputs, {} events, {} state objects",
        report.outputs_compared, report.alerts_compared, report.state_objects_compared
    );
    for relation in report.relations {
        println!("relation        {relation}");
    }
    let s = &report.duplicates_suppressed;
    println!("suppressed      {} outputs, {} updates", s.outputs, s.updates);
    print_recoveries(&outcome.recoveries);
    if let Some(difference) = report.first_difference {
        println!("first difference: {difference}");
    }
    Ok(())
}

/// Prints a value as one JSON object.
pub fn print_json(value: &impl Serialize) -> Result<(), Exit> {
    let text = serde_json::to_string(value).map_err(|e| Exit::Failed(e.into()))?;
    println!("{text}");
    Ok(())
}
