//! The state a chain has or leaves behind, in the form the ideal chain shows its own.

use super::compile::ChainPlan;
use super::wire::{Addresses, InstanceControl};
use crate::ideal::{StateKey, StateValue, StateWord};
use crate::shard::actor::ShardControl;
use anyhow::{Context as _, anyhow};
use chc_api::state::{ObjectKind, ValueBytes};
use chc_api::{All, FlowKey, ObjectId, ObjectKey, VertexId};
use chc_store::engine::ShardEngine;
use chc_store::objects::Shown;
use chc_store::record::{Record, RecordShape};
use std::collections::BTreeMap;
use std::time::Duration;

/// Every object that is not in its initial state.
pub type ChainState = BTreeMap<StateKey, StateValue>;

/// Longest wait for an actor that should answer at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// The state there is now: that of the shards, or without a store that of the instances.
///
/// # Errors
/// If an actor has ended or does not answer.
pub fn collect(plan: &ChainPlan, addresses: &Addresses) -> anyhow::Result<ChainState> {
    let mut state = ChainState::new();
    if !plan.mode.is_stored() {
        collect_local(plan, addresses, &mut state)?;
        return Ok(state);
    }
    for shard in &addresses.shards {
        let handle = shard.current().ok_or_else(|| anyhow!("a shard has ended"))?;
        let (tx, rx) = flume::bounded(1);
        let look = Box::new(move |engine: &ShardEngine<All>| {
            let objects: Vec<_> = engine.show_objects().collect();
            let records: Vec<_> = engine.show_records().collect();
            // Whoever asked may have given up.
            let _ = tx.send((objects, records));
        });
        handle.send(ShardControl::Inspect(look)).map_err(|lost| anyhow!("{lost}"))?;
        let (objects, records) = rx.recv_timeout(ANSWER_WITHIN).context("a shard does not answer")?;
        add_objects(&mut state, plan, objects.into_iter());
        add_records(&mut state, plan, records.into_iter());
    }
    Ok(state)
}

/// The state instances hold themselves. Counters that several instances keep are added up.
fn collect_local(plan: &ChainPlan, addresses: &Addresses, state: &mut ChainState) -> anyhow::Result<()> {
    for (at, vertex) in addresses.instances.iter().enumerate() {
        let id = plan.vertices[at].route.vertex;
        for instance in vertex {
            let handle = instance.current().ok_or_else(|| anyhow!("an instance has ended"))?;
            let (tx, rx) = flume::bounded(1);
            handle.send(InstanceControl::Inspect(tx)).map_err(|lost| anyhow!("{lost}"))?;
            let local = rx.recv_timeout(ANSWER_WITHIN).context("an instance does not answer")?;
            let mut part = ChainState::new();
            add_objects(&mut part, plan, local.objects.into_iter().map(|(o, k, v)| (id, o, k, v)));
            add_records(&mut part, plan, local.records.into_iter().map(|(o, k, r)| (id, o, k, r)));
            for (key, value) in part {
                match (state.get_mut(&key), value) {
                    (Some(StateValue::Int(sum)), StateValue::Int(n)) => *sum += n,
                    (_, value) => {
                        state.insert(key, value);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Adds cross-flow objects.
fn add_objects(
    state: &mut ChainState,
    plan: &ChainPlan,
    objects: impl Iterator<Item = (VertexId, ObjectId, ObjectKey, Shown)>,
) {
    for (vertex, object, key, shown) in objects {
        let spec = &plan.vertices[usize::from(vertex.0)].function.declarations.objects[usize::from(object.0)];
        let value = match (shown, &spec.kind) {
            (Shown::Int(0), ObjectKind::Counter { .. }) => continue,
            (Shown::Int(n), ObjectKind::Int { initial }) if n == *initial => continue,
            (Shown::Bytes(b), ObjectKind::Value { initial, .. }) if b == initial.as_slice() => continue,
            (Shown::List(list), _) if list.is_empty() => continue,
            (Shown::Int(n), _) => StateValue::Int(n),
            (Shown::Bytes(bytes), _) => StateValue::Bytes(ValueBytes::new(&bytes)),
            (Shown::List(list), _) => StateValue::List(list),
            (Shown::Owned(owned), _) => StateValue::Taken(owned.into_iter().collect()),
        };
        state.insert((vertex, spec.name, StateWord::Object(key)), value);
    }
}

/// Adds per-flow records.
fn add_records(
    state: &mut ChainState,
    plan: &ChainPlan,
    records: impl Iterator<Item = (VertexId, ObjectId, FlowKey, Record)>,
) {
    for (vertex, object, key, record) in records {
        let spec = &plan.vertices[usize::from(vertex.0)].function.declarations.objects[usize::from(object.0)];
        let Some(shape) = RecordShape::of(&spec.kind) else { continue };
        let timers = (0..shape.timers).filter_map(|i| Some((i as u8, record.timer(shape, i)?))).collect();
        let value = StateValue::Record { value: record.value(shape), timers };
        state.insert((vertex, spec.name, StateWord::Flow(key)), value);
    }
}
