//! What `chc run` and `chc verify` print.

use super::Exit;
use crate::chain::compile::ChainPlan;
use crate::chain::recoveries::Recovery;
use crate::chain::run::{RunOutcome, Shared};
use crate::chain::verify::Comparison;
use crate::routing::active;
use chc_store::engine::ShardCounts;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write as _};
use std::path::Path;

#[derive(Serialize)]
struct Suppressed {
    outputs: u64,
    updates: u64,
}

/// Slots that went to other instances.
#[derive(Serialize)]
struct Handovers {
    /// Changes of a routing table.
    changes: u64,
    /// Slots that changed hands in them.
    slots: u64,
}

/// What a shard did: one that did much more than the others is hot.
#[derive(Serialize)]
struct ShardReport {
    applied: u64,
    suppressed: u64,
    fenced: u64,
    batches_early: u64,
    batches_repeated: u64,
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
    shared_objects: BTreeMap<String, Shared>,
    store: Vec<ShardReport>,
    recoveries: Vec<Recovery>,
    handovers: Handovers,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_error: Option<String>,
}

fn shard_report(counts: &ShardCounts) -> ShardReport {
    ShardReport {
        applied: counts.applied,
        suppressed: counts.suppressed,
        fenced: counts.fenced,
        batches_early: counts.early,
        batches_repeated: counts.repeated,
    }
}

fn handovers(outcome: &RunOutcome) -> Handovers {
    let counts = &outcome.root.counts;
    Handovers { changes: counts.handovers, slots: counts.slots_moved }
}

fn suppressed(outcome: &RunOutcome) -> Suppressed {
    let at_queues: u64 = outcome.instances.iter().map(|i| i.duplicates).sum();
    Suppressed { outputs: at_queues + outcome.egress.duplicates, updates: outcome.updates_suppressed() }
}

impl RunReport {
    /// The report of a run.
    #[must_use]
    pub fn new(plan: &ChainPlan, outcome: &RunOutcome, alerts: u64) -> Self {
        let elapsed_s = outcome.root.elapsed.as_secs_f64().max(1e-9);
        let counts = &outcome.root.counts;
        let mut drops = outcome.egress.drops.clone();
        if !plan.mode.is_stored() {
            // What was at an instance when it died: nothing replays it.
            let ended = outcome.egress.packets + drops.values().sum::<u64>() - outcome.egress.extra;
            let lost = counts.packets.saturating_sub(ended);
            drops.extend((lost > 0).then_some(("lost_with_instance", lost)));
        }
        Self {
            // What was offered: ingest drops were packets, too.
            packets_in: counts.packets + outcome.root.ingest_drops,
            packets_out: outcome.egress.packets,
            packets_extra: outcome.egress.extra,
            drops,
            ingest_drops: outcome.root.ingest_drops,
            alerts,
            events: outcome.egress.events,
            duplicates_suppressed: suppressed(outcome),
            unparsed: counts.reasons.clone(),
            elapsed_s,
            mpps: counts.packets as f64 / elapsed_s / 1e6,
            gbps: counts.bytes as f64 * 8.0 / elapsed_s / 1e9,
            instances: plan
                .vertices
                .iter()
                .zip(&outcome.root.owners)
                .map(|(v, owners)| (v.name.clone(), active(owners)))
                .collect(),
            queue_peaks: plan
                .vertices
                .iter()
                .zip(&outcome.queue_peaks)
                .map(|(v, p)| (v.name.clone(), *p))
                .collect(),
            shared_objects: plan
                .vertices
                .iter()
                .zip(&outcome.shared)
                .map(|(v, shared)| (v.name.clone(), *shared))
                .collect(),
            store: outcome.shards.iter().map(shard_report).collect(),
            recoveries: outcome.recoveries.clone(),
            handovers: handovers(outcome),
            input_error: outcome.root.input_error.clone(),
        }
    }

    /// Prints it: one JSON object, or a summary.
    pub fn print(&self, json: bool) -> Result<(), Exit> {
        if json {
            return print_json(self);
        }
        let mut text = format!("packets in      {}\npackets out     {}\n", self.packets_in, self.packets_out);
        for (reason, packets) in &self.drops {
            text += &format!("  dropped       {packets} {reason}\n");
        }
        text += &format!("ingest drops    {}\n", self.ingest_drops);
        for (reason, packets) in &self.unparsed {
            text += &format!("  not parsed    {packets} {reason} (forwarded)\n");
        }
        text += &format!("alerts          {}\n", self.alerts);
        let s = &self.duplicates_suppressed;
        text += &format!("suppressed      {} outputs, {} updates\n", s.outputs, s.updates);
        let Self { elapsed_s, mpps, gbps, .. } = self;
        text += &format!("elapsed         {elapsed_s:.3} s, {mpps:.2} Mpps, {gbps:.2} Gbit/s\n");
        print_text(&(text + &handovers_text(&self.handovers) + &recoveries_text(&self.recoveries)))
    }
}

impl RunReport {
    /// Adds to the events of a run what is known at its end: a line a recovery, then its statistics.
    pub fn append_events(&self, path: &Path) -> std::io::Result<()> {
        let mut file = BufWriter::new(OpenOptions::new().append(true).open(path)?);
        for recovery in &self.recoveries {
            writeln!(file, "{}", json!({ "event_type": "recovery", "recovery": recovery }))?;
        }
        writeln!(file, "{}", json!({ "event_type": "stats", "stats": self }))?;
        file.flush()
    }
}

fn handovers_text(handovers: &Handovers) -> String {
    match handovers {
        Handovers { changes: 0, .. } => String::new(),
        Handovers { changes, slots } => format!("handovers       {changes} changes, {slots} slots moved\n"),
    }
}

fn recoveries_text(recoveries: &[Recovery]) -> String {
    let line = |r: &Recovery| {
        format!(
            "recovered       {} after {}: detected in {} us, caught up in {} us, {} packets ran again\n",
            r.actor, r.kind, r.detected_us, r.recovered_us, r.replayed
        )
    };
    recoveries.iter().map(line).collect()
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
    handovers: Handovers,
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
        handovers: handovers(outcome),
        first_difference: comparison.first_difference.as_deref(),
    };
    if json {
        return print_json(&report);
    }
    let mut text = String::from(if report.equivalent { "equivalent\n" } else { "NOT equivalent\n" });
    text += &format!(
        "compared        {} outputs, {} events, {} state objects\n",
        report.outputs_compared, report.alerts_compared, report.state_objects_compared
    );
    for relation in report.relations {
        text += &format!("relation        {relation}\n");
    }
    let s = &report.duplicates_suppressed;
    text += &format!("suppressed      {} outputs, {} updates\n", s.outputs, s.updates);
    text += &handovers_text(&report.handovers);
    text += &recoveries_text(&outcome.recoveries);
    if let Some(difference) = report.first_difference {
        text += &format!("first difference: {difference}\n");
    }
    print_text(&text)
}

/// Prints a result. A reader that went away, or a full disk, is a failure like any other.
pub fn print_text(text: &str) -> Result<(), Exit> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| Exit::Failed(anyhow::anyhow!("the result cannot be written: {error}")))
}

/// Prints a value as one JSON object.
pub fn print_json(value: &impl Serialize) -> Result<(), Exit> {
    let text = serde_json::to_string(value).map_err(|e| Exit::Failed(e.into()))?;
    print_text(&(text + "\n"))
}
