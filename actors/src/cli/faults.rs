//! The faults an operator can ask for on the command line.

use super::Exit;
use crate::chain::changes;
use crate::chain::compile::ChainPlan;
use crate::chain::run::{Kill, Turn};
use crate::config::INSTANCES_MAX;
use crate::routing::{Repartition, Route};
use clap::Args;

/// Faults; PERCENT is of the input's packets.
#[derive(Args)]
pub struct FaultArgs {
    /// Kill an actor, e.g. nat/0@50, nat/1/splitter@25, nat/manager@10 (repeatable).
    #[arg(long, value_name = "ACTOR@PERCENT")]
    kill: Vec<String>,
    /// Spread a vertex's traffic over so many instances, e.g. nat=3@50 (repeatable).
    #[arg(long, value_name = "VERTEX=N@PERCENT")]
    scale: Vec<String>,
    /// Move a share of what one instance has to another, e.g. nat:0>1:0.5@50; without a share all (repeatable).
    #[arg(long = "move", value_name = "VERTEX:I>J[:SHARE]@PERCENT")]
    moves: Vec<String>,
    /// Clone an instance (not available yet).
    #[arg(long, value_name = "INSTANCE@PERCENT")]
    clone: Vec<String>,
    /// Slow an instance down (not available yet).
    #[arg(long, value_name = "INSTANCE=US[-US]@PERCENT")]
    slow: Vec<String>,
}

/// Faults and changes that were asked for.
pub struct Faults {
    /// Actors to kill.
    pub kills: Vec<Kill>,
    /// Slots to move.
    pub turns: Vec<Turn>,
}

impl FaultArgs {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        [&self.kill, &self.scale, &self.moves, &self.clone, &self.slow].into_iter().all(Vec::is_empty)
    }

    /// The faults asked for, in an input of `packets` packets; all mistakes at once. The plan gets the instances
    /// that vertices are scaled to.
    pub fn read(&self, plan: &mut ChainPlan, packets: u64) -> Result<Faults, Exit> {
        let later = [("--clone", &self.clone), ("--slow", &self.slow)];
        let mut problems: Vec<String> = later
            .iter()
            .flat_map(|(flag, values)| {
                values.iter().map(move |v| format!("{flag} {v}: not available in this version"))
            })
            .collect();
        let mut turns = Vec::new();
        for text in &self.scale {
            match scale(plan, text, packets) {
                Ok(turn) => turns.push(turn),
                Err(problem) => problems.push(format!("--scale {text}: {problem}")),
            }
        }
        // Then all instances are known.
        for text in &self.moves {
            match moves(plan, text, packets) {
                Ok(turn) => turns.push(turn),
                Err(problem) => problems.push(format!("--move {text}: {problem}")),
            }
        }
        let mut kills = Vec::new();
        for text in &self.kill {
            match kill(plan, &turns, text, packets) {
                Ok(kill) => kills.push(kill),
                Err(problem) => problems.push(format!("--kill {text}: {problem}")),
            }
        }
        if problems.is_empty() { Ok(Faults { kills, turns }) } else { Err(Exit::Usage(problems.join("\n"))) }
    }
}

/// What stands before the percentage, and after how many packets that is.
fn at(text: &str, packets: u64, expected: &str) -> Result<(String, u64), String> {
    let (what, percent) = text.rsplit_once('@').ok_or_else(|| format!("expected {expected}"))?;
    let percent: f64 = percent.parse().map_err(|_| format!("\"{percent}\" is not a percentage"))?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(format!("{percent} is not between 0 and 100 percent"));
    }
    Ok((what.to_owned(), (packets as f64 * percent / 100.0) as u64))
}

fn scale(plan: &mut ChainPlan, text: &str, packets: u64) -> Result<Turn, String> {
    let (what, after) = at(text, packets, "VERTEX=N@PERCENT, such as nat=3@50")?;
    let (name, instances) = what.split_once('=').ok_or("expected VERTEX=N@PERCENT, such as nat=3@50")?;
    let route = changes::route(plan, name)?;
    let (vertex, most) = (route.vertex, INSTANCES_MAX.min(route.owners.len() as u16));
    let instances: u16 =
        instances.parse().map_err(|_| format!("\"{instances}\" is no number of instances"))?;
    let how = changes::scale(instances, most)?;
    let route = &mut plan.vertices[usize::from(vertex.0)].route;
    route.instances = route.instances.max(instances);
    Ok(Turn { vertex, how, after })
}

fn moves(plan: &ChainPlan, text: &str, packets: u64) -> Result<Turn, String> {
    const EXPECTED: &str = "VERTEX:I>J[:SHARE]@PERCENT, such as nat:0>1:0.5@50";
    let (what, after) = at(text, packets, EXPECTED)?;
    let mut parts = what.split(':');
    let (name, instances) = (parts.next().unwrap_or(""), parts.next());
    let (from, to) = instances.and_then(|pair| pair.split_once('>')).ok_or(format!("expected {EXPECTED}"))?;
    let share = parts.next().unwrap_or("1");
    if parts.next().is_some() {
        return Err(format!("expected {EXPECTED}"));
    }
    let route = changes::route(plan, name)?;
    let instance =
        |text: &str| text.parse::<u16>().map_err(|_| format!("\"{text}\" is no number of an instance"));
    let (from, to) = (instance(from)?, instance(to)?);
    let share: f64 = share.parse().map_err(|_| format!("\"{share}\" is no share"))?;
    Ok(Turn { vertex: route.vertex, how: changes::moves(name, route, from, to, share)?, after })
}

/// How many instances of a vertex have slots at some time, as far as that is known.
fn instances_used(route: &Route, turns: &[Turn]) -> u16 {
    let at_first = route.owners.iter().map(|owner| owner + 1).max().unwrap_or(1);
    let later = turns.iter().filter(|turn| turn.vertex == route.vertex).map(|turn| match &turn.how {
        Repartition::Scale(instances) => *instances,
        Repartition::Move { to, .. } => to + 1,
        Repartition::Owners { to, .. } => to.iter().max().map_or(0, |most| most + 1),
    });
    later.fold(at_first, u16::max)
}

fn kill(plan: &ChainPlan, turns: &[Turn], text: &str, packets: u64) -> Result<Kill, String> {
    let (actor, after) = at(text, packets, "ACTOR@PERCENT, such as nat/0@50")?;
    let (vertex, child) = changes::victim(plan, &actor, |route| instances_used(route, turns))?;
    Ok(Kill { vertex, child, after })
}
