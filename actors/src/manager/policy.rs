//! What an operator wants done about load: CEL expressions over doubles, or code.

use cel::{Context, Program, Value};
use std::fmt;
use std::sync::Arc;

/// What an expression can speak of, and what it means; in the order of [`Load`].
pub const VARIABLES: [(&str, &str); 9] = [
    ("instances", "instances that have slots of the vertex"),
    ("rate_pps", "packets per second that came to the vertex in the last period"),
    ("queue", "packets that wait in front of its instances"),
    ("p50_us", "median time from taking a burst to having sent what came of it, in microseconds"),
    ("p99_us", "99th percentile of the same"),
    ("cpu", "share of the period in which the busiest instance was busy, 0 to 1"),
    ("imbalance", "packets of the busiest instance over the mean of those that have slots"),
    ("drops_pps", "packets per second that the function dropped"),
    (
        "cache_hits",
        "share of the results packets needed of shared state that their instance knew, 0 to 1; 1 if none was",
    ),
];

/// Longest expression, in bytes.
const LEN_MAX: usize = 1024;
/// The parser descends once a nesting; an expression of [`LEN_MAX`] fits with room to spare.
const PARSER_STACK: usize = 32 << 20;

/// The values of [`VARIABLES`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Instances that have slots.
    pub instances: f64,
    /// Packets per second.
    pub rate_pps: f64,
    /// Packets that wait.
    pub queue: f64,
    /// In microseconds.
    pub p50_us: f64,
    /// In microseconds.
    pub p99_us: f64,
    /// From 0 to 1.
    pub cpu: f64,
    /// From 1.
    pub imbalance: f64,
    /// Packets per second.
    pub drops_pps: f64,
    /// From 0 to 1.
    pub cache_hits: f64,
}

impl Load {
    fn values(&self) -> [f64; VARIABLES.len()] {
        let Self { instances, rate_pps, queue, p50_us, p99_us, cpu, imbalance, drops_pps, cache_hits } =
            *self;
        [instances, rate_pps, queue, p50_us, p99_us, cpu, imbalance, drops_pps, cache_hits]
    }
}

/// A condition in code.
pub type Code = Arc<dyn Fn(&Load) -> bool + Send + Sync>;

/// Conditions in code, in place of expressions.
#[derive(Clone, Default)]
pub struct PolicyCode {
    /// When there is an instance more.
    pub scale_up: Option<Code>,
    /// When there is one less.
    pub scale_down: Option<Code>,
}

impl fmt::Debug for PolicyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (up, down) = (self.scale_up.is_some(), self.scale_down.is_some());
        f.debug_struct("PolicyCode").field("scale_up", &up).field("scale_down", &down).finish()
    }
}

impl PartialEq for PolicyCode {
    /// Whether they are the same code, not whether they do the same.
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Option<Code>, b: &Option<Code>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        same(&self.scale_up, &other.scale_up) && same(&self.scale_down, &other.scale_down)
    }
}

/// A condition.
pub enum Condition {
    /// An expression.
    Expression(Program),
    /// Code.
    Code(Code),
}

impl Condition {
    /// Compiles an expression and tries it on a sample.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn new(text: &str) -> Result<Self, (String, String)> {
        if text.len() > LEN_MAX {
            let problem = format!("an expression of {} bytes", text.len());
            return Err((problem, format!("use at most {LEN_MAX} bytes")));
        }
        let source = text.to_owned();
        let remedy = || "write a condition such as rate_pps > 1e6 * instances".to_owned();
        let parsed = std::thread::scope(|scope| {
            let parser = std::thread::Builder::new().stack_size(PARSER_STACK);
            let parse = move || Program::compile(&source).map_err(|errors| errors.to_string());
            parser.spawn_scoped(scope, parse).map(std::thread::ScopedJoinHandle::join)
        });
        let program = match parsed {
            Ok(Ok(Ok(program))) => program,
            Ok(Ok(Err(errors))) => {
                let first = errors.lines().next().unwrap_or_default().to_owned();
                return Err((format!("\"{text}\" does not parse: {first}"), remedy()));
            }
            _ => return Err((format!("\"{text}\" does not parse"), remedy())),
        };
        let names = VARIABLES.map(|(name, _)| name);
        let references = program.references();
        let unknown = references.variables().into_iter().find(|name| !names.contains(name));
        if let Some(unknown) = unknown {
            return Err((format!("there is no variable \"{unknown}\""), format!("use {}", names.join(", "))));
        }
        drop(references);
        match value(&program, &Load { instances: 1.0, imbalance: 1.0, cache_hits: 1.0, ..Load::default() }) {
            Ok(Value::Bool(_)) => Ok(Self::Expression(program)),
            Ok(other) => Err((format!("\"{text}\" is {:?}, no condition", other.type_of()), remedy())),
            Err(error) => {
                let remedy = "all variables are doubles: write 2.0 instead of 2".to_owned();
                Err((format!("\"{text}\" cannot be evaluated: {error}"), remedy))
            }
        }
    }

    /// Whether it holds; it does not where it cannot be evaluated, such as a division by zero.
    #[must_use]
    pub fn holds(&self, load: &Load) -> bool {
        match self {
            Condition::Expression(program) => matches!(value(program, load), Ok(Value::Bool(true))),
            Condition::Code(code) => code(load),
        }
    }
}

fn value(program: &Program, load: &Load) -> Result<Value, String> {
    let mut context = Context::default();
    for ((name, _), value) in VARIABLES.iter().zip(load.values()) {
        context.add_variable_from_value(*name, value);
    }
    program.execute(&context).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_one_over_the_load() {
        let condition = Condition::new("rate_pps > 1e6 * instances && instances < 8.0").unwrap();
        let load = |rate_pps, instances| Load { rate_pps, instances, ..Load::default() };
        assert!(condition.holds(&load(2.1e6, 2.0)));
        assert!(!condition.holds(&load(1.9e6, 2.0)));
        assert!(!condition.holds(&load(9e6, 8.0)));
    }

    #[test]
    fn every_variable_has_its_value() {
        let values: Vec<f64> = (1..=VARIABLES.len()).map(|n| n as f64).collect();
        let [instances, rate_pps, queue, p50_us, p99_us, cpu, imbalance, drops_pps, cache_hits] =
            *values.as_slice().as_array().unwrap();
        let load = Load { instances, rate_pps, queue, p50_us, p99_us, cpu, imbalance, drops_pps, cache_hits };
        for ((name, _), value) in VARIABLES.iter().zip(values) {
            assert!(Condition::new(&format!("{name} == {value:.1}")).unwrap().holds(&load), "{name}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused_with_the_reason() {
        let refused = |text: &str| Condition::new(text).err().map(|(problem, _)| problem).unwrap();
        assert!(refused("rate_pps >").contains("does not parse"));
        assert!(refused("rate > 1.0").contains("no variable \"rate\""));
        assert!(refused("rate_pps + 1.0").contains("no condition"));
        assert!(refused("rate_pps > 'fast'").contains("cannot be evaluated"));
        assert!(refused(&"(".repeat(1000)).contains("does not parse"));
        assert!(refused(&"1".repeat(2000)).contains("2000 bytes"));
    }
}
