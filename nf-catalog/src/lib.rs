//! Network functions, one module each.
//!
//! A function is chosen by name and configured by a table of keys: [`with`] says everything that is wrong
//! with them, or builds it and hands it, with the declarations of its state, to a [`Visitor`], so that
//! whoever runs it is compiled for the concrete type. Nothing here knows where packets come from or
//! where state lives.

mod answer;
mod closing;
pub mod config;
pub mod load_balancer;
mod locate;
pub mod nat;
pub mod portscan;
mod rewrite;
pub mod scrubber;
pub mod trojan;

pub use config::ConfigProblem;

use chc_api::{Declarations, NetworkFunction};
use serde_json::Value;

/// What a caller does with a network function whose type it does not know.
pub trait Visitor {
    /// What it makes of it.
    type Out;

    /// `make` gives one value for each instance; all share `declarations`.
    fn visit<N: NetworkFunction>(
        self,
        make: impl Fn() -> N + Clone + Send + Sync + 'static,
        declarations: Declarations,
    ) -> Self::Out;
}

/// The names of the functions in this catalog.
#[must_use]
pub fn names() -> &'static [&'static str] {
    &["nat", "portscan", "trojan", "load_balancer", "scrubber"]
}

/// Builds function `nf` and hands it to the visitor. `slots` and `seed` are the vertex's: they say
/// which slot a connection belongs to.
///
/// # Errors
/// Everything that is wrong with the configuration.
pub fn with<V: Visitor>(
    nf: &str,
    config: &Value,
    slots: u16,
    seed: u64,
    visitor: V,
) -> Result<V::Out, Vec<ConfigProblem>> {
    let mut declarations = Declarations::default();
    match nf {
        "nat" => {
            let config = nat::NatConfig::read(config, slots)?;
            let nf = nat::Nat::new(&config, slots, seed, &mut declarations);
            Ok(visitor.visit(move || nf.clone(), declarations))
        }
        "portscan" => {
            let config = portscan::PortscanConfig::read(config)?;
            let nf = portscan::Portscan::new(&config, &mut declarations);
            Ok(visitor.visit(move || nf.clone(), declarations))
        }
        "trojan" => {
            let config = trojan::TrojanConfig::read(config)?;
            let nf = trojan::Trojan::new(&config, &mut declarations);
            Ok(visitor.visit(move || nf.clone(), declarations))
        }
        "load_balancer" => {
            let config = load_balancer::LoadBalancerConfig::read(config)?;
            let nf = load_balancer::LoadBalancer::new(&config, slots, seed, &mut declarations);
            Ok(visitor.visit(move || nf.clone(), declarations))
        }
        "scrubber" => {
            let config = scrubber::ScrubberConfig::read(config)?;
            let nf = scrubber::Scrubber::new(&config, seed, &mut declarations);
            Ok(visitor.visit(move || nf.clone(), declarations))
        }
        _ => Err(vec![unknown(nf)]),
    }
}

fn unknown(nf: &str) -> ConfigProblem {
    ConfigProblem {
        key: "nf".into(),
        problem: format!("there is no network function \"{nf}\""),
        remedy: format!("the catalog has {}", names().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct ObjectNames;

    impl Visitor for ObjectNames {
        type Out = Vec<&'static str>;

        fn visit<N: NetworkFunction>(
            self,
            _make: impl Fn() -> N + Clone + Send + Sync + 'static,
            declarations: Declarations,
        ) -> Self::Out {
            declarations.objects.iter().map(|object| object.name).collect()
        }
    }

    #[test]
    fn every_name_is_built_from_a_minimal_configuration() {
        for nf in names() {
            let config = match *nf {
                "nat" => json!({"external": ["203.0.113.1"]}),
                "load_balancer" => json!({"services": [{"match": "tcp/80", "backends": ["10.1.0.1"]}]}),
                _ => json!({}),
            };
            assert!(with(nf, &config, 64, 1, ObjectNames).is_ok(), "{nf}");
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let problems = with("nta", &Value::Null, 64, 1, ObjectNames).unwrap_err();
        assert_eq!(problems[0].remedy, "the catalog has nat, portscan, trojan, load_balancer, scrubber");
    }

    #[test]
    fn the_declared_objects_are_those_of_table_4_and_the_contacts_only_if_needed() {
        let objects = |nf, config| with(nf, &config, 64, 1, ObjectNames).unwrap();
        assert_eq!(objects("portscan", json!({})), ["attempts", "likelihood"]);
        let first = json!({"pick": "first_per_host"});
        assert_eq!(objects("portscan", first), ["attempts", "likelihood", "contacts"]);
        let nat = objects("nat", json!({"external": ["203.0.113.1"]}));
        for object in ["packets_total", "packets_tcp", "free_ports", "mapping"] {
            assert!(nat.contains(&object), "{object}");
        }
    }
}
