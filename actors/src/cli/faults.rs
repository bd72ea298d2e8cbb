//! The faults an operator can ask for on the command line.

use super::Exit;
use crate::chain::compile::ChainPlan;
use crate::chain::run::Kill;
use clap::Args;

/// Faults; PERCENT is of the input's packets.
#[derive(Args)]
pub struct FaultArgs {
    /// Kill an actor, e.g. nat/0@50, nat/1/splitter@25, nat/manager@10 (repeatable).
    #[arg(long, value_name = "ACTOR@PERCENT")]
    kill: Vec<String>,
    /// Change a vertex's instances, e.g. nat=3@50 (not available yet).
    #[arg(long, value_name = "VERTEX=N@PERCENT")]
    scale: Vec<String>,
    /// Move traffic between instances, e.g. nat:0>1:0.5@50 (not available yet).
    #[arg(long = "move", value_name = "VERTEX:I>J[:SHARE]@PERCENT")]
    moves: Vec<String>,
    /// Clone an instance (not available yet).
    #[arg(long, value_name = "INSTANCE@PERCENT")]
    clone: Vec<String>,
    /// Slow an instance down (not available yet).
    #[arg(long, value_name = "INSTANCE=US[-US]@PERCENT")]
    slow: Vec<String>,
}

impl FaultArgs {
    /// The kills asked for, in an input of `packets` packets; all mistakes at once.
    pub fn kills(&self, plan: &ChainPlan, packets: u64) -> Result<Vec<Kill>, Exit> {
        let later = [
            ("--scale", &self.scale),
            ("--move", &self.moves),
            ("--clone", &self.clone),
            ("--slow", &self.slow),
        ];
        let mut problems: Vec<String> = later
            .iter()
            .flat_map(|(flag, values)| {
                values.iter().map(move |v| format!("{flag} {v}: not available in this version"))
            })
            .collect();
        let mut kills = Vec::new();
        for text in &self.kill {
            match kill(plan, text, packets) {
                Ok(kill) => kills.push(kill),
                Err(problem) => problems.push(format!("--kill {text}: {problem}")),
            }
        }
        if problems.is_empty() { Ok(kills) } else { Err(Exit::Usage(problems.join("\n"))) }
    }
}

fn kill(plan: &ChainPlan, text: &str, packets: u64) -> Result<Kill, String> {
    let (actor, percent) = text.rsplit_once('@').ok_or("expected ACTOR@PERCENT, such as nat/0@50")?;
    let percent: f64 = percent.parse().map_err(|_| format!("\"{percent}\" is not a percentage"))?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(format!("{percent} is not between 0 and 100 percent"));
    }
    let after = (packets as f64 * percent / 100.0) as u64;
    let mut parts = actor.split('/');
    let (vertex, child, rest) = (parts.next().unwrap_or(""), parts.next(), parts.next());
    if ["root", "store", "egress", "node"].contains(&vertex) {
        return Err(format!("not available in this version: a death of {actor} cannot be recovered yet"));
    }
    let names = || plan.vertices.iter().map(|v| v.name.as_str()).collect::<Vec<_>>().join(", ");
    let Some(found) = plan.vertices.iter().find(|v| v.name == vertex) else {
        return Err(format!("there is no vertex \"{vertex}\"; the chain has {}", names()));
    };
    let child = child.ok_or_else(|| format!("say which of its actors: {vertex}/0 or {vertex}/manager"))?;
    if child == "manager" && rest.is_none() {
        return Ok(Kill { vertex: vertex.into(), child: child.into(), after });
    }
    let index: u16 =
        child.parse().map_err(|_| format!("\"{child}\" is neither an instance's number nor manager"))?;
    if index >= found.route.instances {
        return Err(format!(
            "{vertex} has {} instances, the last is {vertex}/{}",
            found.route.instances,
            found.route.instances - 1
        ));
    }
    match rest {
        // A splitter lives and dies with its instance.
        None | Some("splitter") => Ok(Kill { vertex: vertex.into(), child: index.to_string(), after }),
        Some(other) => Err(format!("an instance has a splitter, not \"{other}\"")),
    }
}
