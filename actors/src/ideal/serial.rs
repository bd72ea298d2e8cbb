//! Whether what a real run returned from a `serial` integer can be explained by some order of its
//! operations.
//!
//! The order must be one in which every increment gives its own value, every read gives what some
//! increment left behind, and whatever lies a window below a packet, and so was settled before that
//! packet was stamped, comes before the packet. Integers that are decremented, or changed by
//! compare-and-update, are not judged: their values do not tell the order.

use chc_api::{ObjectId, ObjectKey, Op, OpValue, Position, VertexId};
use std::collections::BTreeMap;

/// One operation on a `serial` integer and what the real run returned.
pub(super) struct Use {
    pub vertex: VertexId,
    pub object: ObjectId,
    pub key: ObjectKey,
    pub position: Position,
    pub op: Op,
    pub value: OpValue,
}

/// What no order explains.
pub(super) fn violations(uses: &[Use], window: u64) -> Vec<String> {
    let mut by_value: BTreeMap<(VertexId, ObjectId, ObjectKey), Vec<&Use>> = BTreeMap::new();
    for of in uses {
        by_value.entry((of.vertex, of.object, of.key)).or_default().push(of);
    }
    let of = |((vertex, object, _), uses): (&(VertexId, ObjectId, ObjectKey), &Vec<&Use>)| {
        let problem = problem(uses, window)?;
        Some(format!("vertex {}, object {}: {problem}", vertex.0, object.0))
    };
    by_value.iter().filter_map(of).collect()
}

fn problem(uses: &[&Use], window: u64) -> Option<String> {
    let step = |u: &Use| match u.op {
        Op::Get => Some(0),
        Op::Increment(by) if by > 0 => Some(by),
        _ => None,
    };
    let value = |u: &Use| if let OpValue::Int(value) = u.value { Some(value) } else { None };
    let mut results: Vec<(Position, i64, i64)> = Vec::new();
    for of in uses {
        let by = step(of)?;
        let Some(value) = value(of) else {
            return Some(format!("{:?} returned {:?}", of.position, of.value));
        };
        results.push((of.position, by, value));
    }
    let mut reached: Vec<(i64, i64)> = results.iter().filter(|r| r.1 > 0).map(|r| (r.2, r.1)).collect();
    reached.sort_unstable();
    if let Some(pair) = reached.windows(2).find(|pair| pair[0].0 + pair[1].1 != pair[1].0) {
        return Some(format!("no order of increments gives {} and then {}", pair[0].0, pair[1].0));
    }
    let initial = reached.first().map(|(value, by)| value - by);
    results.sort_unstable();
    let (mut settled, mut oldest) = (initial, 0);
    for (position, by, value) in &results {
        let is_known = Some(*value) == initial || reached.iter().any(|(reached, _)| reached == value);
        if !is_known && initial.is_some() {
            return Some(format!("{position:?} read {value}, which it never was"));
        }
        while results[oldest].0.clock.0 + window <= position.clock.0 {
            settled = settled.max(Some(results[oldest].2));
            oldest += 1;
        }
        if settled.is_some_and(|settled| *value - by < settled) {
            return Some(format!(
                "{position:?} got {value} although what gave {settled:?} lies a window below"
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use chc_api::{Clock, Path};

    fn check(uses: &[(u64, Op, i64)]) -> Vec<String> {
        let make = |(clock, op, value): &(u64, Op, i64)| Use {
            vertex: VertexId(0),
            object: ObjectId(1),
            key: ObjectKey::GLOBAL,
            position: Position::packet(Clock(*clock), Path::FIRST),
            op: *op,
            value: OpValue::Int(*value),
        };
        violations(&uses.iter().map(make).collect::<Vec<_>>(), 8)
    }

    const ADD: Op = Op::Increment(1);

    #[test]
    fn any_order_within_a_window_is_one() {
        assert!(check(&[(1, ADD, 2), (2, ADD, 1), (3, Op::Get, 0), (4, Op::Get, 2), (9, ADD, 3)]).is_empty());
    }

    #[test]
    fn two_increments_never_give_the_same_value() {
        assert_eq!(check(&[(1, ADD, 1), (2, ADD, 1)]).len(), 1);
        assert_eq!(check(&[(1, ADD, 1), (2, ADD, 3)]).len(), 1, "nor is one left out");
    }

    #[test]
    fn a_read_gives_what_was_there() {
        assert_eq!(check(&[(1, ADD, 1), (2, Op::Get, 5)]).len(), 1);
        assert_eq!(check(&[(1, ADD, 1), (9, Op::Get, 0)]).len(), 1, "not what was there a window ago");
    }
}
