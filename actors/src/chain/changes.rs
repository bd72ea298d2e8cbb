//! What can be asked of a chain while it runs, checked: who may be killed, where slots may go.

use super::compile::ChainPlan;
use crate::routing::{Repartition, Route};

/// How traffic to a vertex is partitioned.
///
/// # Errors
/// If there is no such vertex, or state cannot change hands.
pub fn route<'a>(plan: &'a ChainPlan, name: &str) -> Result<&'a Route, String> {
    if !plan.mode.is_stored() {
        return Err("in mode traditional no state can change hands; use a mode with a store".into());
    }
    match plan.vertices.iter().find(|v| v.name == name) {
        Some(found) => Ok(&found.route),
        None => Err(unknown(plan, name)),
    }
}

fn unknown(plan: &ChainPlan, name: &str) -> String {
    let names = plan.vertices.iter().map(|v| v.name.as_str()).collect::<Vec<_>>().join(", ");
    format!("there is no vertex \"{name}\"; the chain has {names}")
}

/// Traffic goes to the first so many instances.
///
/// # Errors
/// If they are none, or more than `most`.
pub fn scale(instances: u16, most: u16) -> Result<Repartition, String> {
    if (1..=most).contains(&instances) {
        return Ok(Repartition::Scale(instances));
    }
    Err(format!("{instances} instances; give 1 to {most}"))
}

/// A share of what an instance has goes to another.
///
/// # Errors
/// If there are no two such instances, or it is no share.
pub fn moves(name: &str, route: &Route, from: u16, to: u16, share: f64) -> Result<Repartition, String> {
    let last = route.instances - 1;
    if let Some(index) = [from, to].into_iter().find(|index| *index > last) {
        return Err(format!("there is no {name}/{index}; the last is {name}/{last}"));
    }
    if from == to {
        return Err("both are the same instance; give two".into());
    }
    if !(share > 0.0 && share <= 1.0) {
        return Err(format!("a share of {share}; give more than 0 and at most 1"));
    }
    Ok(Repartition::Move { from, to, share })
}

/// All an instance has goes to the others that have something, in turn.
///
/// # Errors
/// If it has nothing, or the others have not.
pub fn drain(owners: &[u16], index: u16) -> Result<Repartition, String> {
    let mut others: Vec<u16> = owners.iter().copied().filter(|owner| *owner != index).collect();
    others.sort_unstable();
    others.dedup();
    if !owners.contains(&index) {
        return Err("it has no traffic".into());
    }
    if others.is_empty() {
        return Err("it is the only one with traffic; scale the vertex up first".into());
    }
    let mut next = others.iter().cycle().copied();
    let to = owners.iter().map(|owner| if *owner == index { next.next().unwrap_or(index) } else { *owner });
    Ok(Repartition::Owners { from: owners.to_vec(), to: to.collect() })
}

/// The vertex and the child of it that an actor's name means; `used` says how many instances of a vertex have, or had,
/// traffic.
///
/// # Errors
/// If there is no such actor, or its death cannot be recovered.
pub fn victim(
    plan: &ChainPlan,
    actor: &str,
    used: impl Fn(&Route) -> u16,
) -> Result<(String, String), String> {
    let mut parts = actor.split('/');
    let (vertex, child, rest) = (parts.next().unwrap_or(""), parts.next(), parts.next());
    if ["root", "store", "egress", "node"].contains(&vertex) {
        return Err(format!("not available in this version: a death of {actor} cannot be recovered yet"));
    }
    let Some(found) = plan.vertices.iter().find(|v| v.name == vertex) else {
        return Err(unknown(plan, vertex));
    };
    let child = child.ok_or_else(|| format!("say which of its actors: {vertex}/0 or {vertex}/manager"))?;
    if child == "manager" && rest.is_none() {
        return Ok((vertex.into(), child.into()));
    }
    let index: u16 =
        child.parse().map_err(|_| format!("\"{child}\" is neither an instance's number nor manager"))?;
    let instances = used(&found.route);
    if index >= instances {
        let last = instances - 1;
        return Err(format!("{vertex} has {instances} instances, the last is {vertex}/{last}"));
    }
    match rest {
        // A splitter lives and dies with its instance.
        None | Some("splitter") => Ok((vertex.into(), index.to_string())),
        Some(other) => Err(format!("an instance has a splitter, not \"{other}\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drained_instance_gives_all_to_the_others_in_turn() {
        let Ok(drained) = drain(&[0, 1, 2, 1, 1, 0], 1) else { panic!("it has something to give") };
        assert_eq!(drained.apply(&[0, 1, 2, 1, 1, 0], 1), [0, 0, 2, 2, 0, 0]);
        assert!(drain(&[0, 0], 0).is_err() && drain(&[0, 0], 1).is_err());
    }
}
