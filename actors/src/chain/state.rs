//! The state a chain leaves behind, in the form the ideal chain shows its own.

use super::compile::ChainPlan;
use crate::ideal::{StateKey, StateValue, StateWord};
use chc_api::state::{ObjectKind, ValueBytes};
use chc_api::{FlowKey, ObjectId, ObjectKey, VertexId};
use chc_store::objects::Shown;
use chc_store::record::{Record, RecordShape};
use std::collections::BTreeMap;

/// Every object that is not in its initial state.
pub type ChainState = BTreeMap<StateKey, StateValue>;

/// Adds cross-flow objects.
pub fn add_objects(
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
pub fn add_records(
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
