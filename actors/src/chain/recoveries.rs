//! Keeps account of failures and recoveries while a chain runs: who was killed on demand, who is down,
//! who has caught up.
//!
//! Supervisors tell of failures and restarts (events), instances of having caught up (notices); the two
//! come by different ways, so events are heard before a notice is judged.

use super::compile::ChainPlan;
use super::wire::Notice;
use anyhow::bail;
use chc_api::InstanceId;
use chc_runtime::actor::Cause;
use chc_runtime::supervision::{Event, EventKind};
use flume::Receiver;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Longest wait for recoveries that are under way when a run has ended.
const SETTLE_WITHIN: Duration = Duration::from_secs(60);
/// How often events are looked for in the meantime.
const SETTLE_PERIOD: Duration = Duration::from_millis(5);

/// A recovery, as reported.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recovery {
    /// The actor that failed.
    pub actor: String,
    /// `kill` or `panic`.
    pub kind: Cow<'static, str>,
    /// From the failure to its detection, in microseconds.
    pub detected_us: u64,
    /// From the failure until its successor had caught up, in microseconds.
    pub recovered_us: u64,
    /// Packets that ran again.
    pub replayed: u64,
}

/// A supervisor's path and its child's name.
pub(super) type ChildName = (String, String);

/// A failure nobody has recovered from yet.
struct Open {
    actor: String,
    kind: &'static str,
    failed: Instant,
    detected_us: u64,
}

/// What is known of failures and recoveries.
#[derive(Default)]
pub(super) struct Recoveries {
    /// Kills that were asked for and not seen yet, and when they were.
    pub(super) expected: BTreeMap<ChildName, Instant>,
    /// Those that failed and have not started again.
    pub(super) down: BTreeSet<ChildName>,
    open: Vec<Open>,
    /// Recoveries that are over, in the order they ended.
    pub(super) finished: Vec<Recovery>,
}

impl Recoveries {
    /// Those that are over and were not taken yet.
    pub(super) fn take_finished(&mut self) -> Vec<Recovery> {
        std::mem::take(&mut self.finished)
    }

    /// Takes the events there are.
    pub(super) fn hear(&mut self, plan: &ChainPlan, news: &Receiver<Event>) -> anyhow::Result<()> {
        while let Ok(event) = news.try_recv() {
            self.event(plan, &event)?;
        }
        Ok(())
    }

    /// Waits, at the end of a run, for what recoveries still have to tell.
    pub(super) fn settle(
        &mut self,
        plan: &ChainPlan,
        news: &Receiver<Event>,
        notices: &Receiver<Notice>,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + SETTLE_WITHIN;
        self.hear(plan, news)?;
        while let Some(open) = self.open.first() {
            if Instant::now() > until {
                bail!("{} did not report its recovery", open.actor);
            }
            if let Ok(Notice::CaughtUp { instance, replayed, at, .. }) = notices.recv_timeout(SETTLE_PERIOD) {
                self.caught_up(plan, instance, replayed, at);
            }
            self.hear(plan, news)?;
        }
        Ok(())
    }

    /// Takes an event. Gives the child back that failed on its own when it was to be killed.
    pub(super) fn event(&mut self, plan: &ChainPlan, event: &Event) -> anyhow::Result<Option<ChildName>> {
        let name = (event.supervisor.to_string(), event.child.to_string());
        let (supervisor, child) = &name;
        let vertex = supervisor.strip_prefix("chain/").unwrap_or(supervisor);
        match &event.kind {
            EventKind::ChildFailed(cause) => {
                if !plan.vertices.iter().any(|v| v.name == vertex) {
                    bail!("{supervisor}/{child} {cause}: this version cannot recover it");
                }
                tracing::info!("{vertex}/{child} {cause}");
                let killed = matches!(cause, Cause::Killed);
                let asked = self.expected.remove(&name);
                let failed = asked.filter(|_| killed).unwrap_or(event.at);
                let kind = if killed { "kill" } else { "panic" };
                let detected_us = event.at.saturating_duration_since(failed).as_micros() as u64;
                self.open.push(Open { actor: format!("{vertex}/{child}"), kind, failed, detected_us });
                self.down.insert(name.clone());
                return Ok((asked.is_some() && !killed).then_some(name));
            }
            EventKind::ChildStarted => {
                self.down.remove(&name);
            }
            EventKind::ChildRestarted { .. } if child == "manager" => {
                self.close(&format!("{vertex}/{child}"), 0, event.at);
            }
            EventKind::Escalated(cause) => bail!("{supervisor} gave up: {child} {cause}"),
            _ => {}
        }
        Ok(None)
    }

    /// An instance has caught up.
    pub(super) fn caught_up(&mut self, plan: &ChainPlan, instance: InstanceId, replayed: u64, at: Instant) {
        let vertex = &plan.vertices[usize::from(instance.vertex.0)].name;
        self.close(&format!("{vertex}/{}", instance.index), replayed, at);
    }

    fn close(&mut self, actor: &str, replayed: u64, at: Instant) {
        // A generation that died before it caught up is recovered when its successor has.
        while let Some(found) = self.open.iter().position(|o| o.actor == actor) {
            let open = self.open.remove(found);
            self.finished.push(Recovery {
                actor: open.actor,
                kind: open.kind.into(),
                detected_us: open.detected_us,
                recovered_us: at.saturating_duration_since(open.failed).as_micros() as u64,
                replayed,
            });
        }
    }
}
