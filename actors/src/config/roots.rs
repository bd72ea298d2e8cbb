//! `[root]`: how many roots there are, and whose packets are whose.

use super::diagnostic::Report;
use super::file::{Node, Value};
use super::section::{Section, wrong_type};
use crate::gateway::Prefix;

/// Most roots of a chain.
const ROOTS_MAX: u16 = 16;
/// Most networks of hosts of all of them: each packet is compared with them.
const NETWORKS_MAX: usize = 256;
const HOSTS_EXAMPLE: &str = "[[\"10.0.0.0/9\"], [\"10.128.0.0/9\"]]";
const NETWORK: &str = "a network with the length of its prefix, such as 10.0.0.0/9";

/// A network of hosts as it was written.
struct Network<'a> {
    prefix: Prefix,
    root: usize,
    node: &'a Node,
    key: String,
}

/// How many roots, and the hosts of each, if they are told.
pub(super) fn roots(section: &Section<'_>, report: &mut Report) -> (u16, Vec<Vec<Prefix>>) {
    let instances = section.integer("instances", 1..=ROOTS_MAX.into(), 1, report);
    let lists = section.list("hosts", HOSTS_EXAMPLE, report);
    if lists.is_empty() {
        return (instances, Vec::new());
    }
    if lists.len() != usize::from(instances) {
        let problem = format!("{} list(s) of networks for {instances} root(s)", lists.len());
        let remedy = format!("give {instances} list(s), one for each of root.instances, or none");
        report.push(section.place_of("hosts"), section.key("hosts"), problem, remedy);
    }
    let mut networks: Vec<Network<'_>> = Vec::new();
    for (root, list) in lists.iter().enumerate() {
        let key = format!("{}[{root}]", section.key("hosts"));
        let Value::List(items) = &list.value else {
            wrong_type(
                list,
                &key,
                "a list",
                &format!("write a list of networks a root: {HOSTS_EXAMPLE}"),
                report,
            );
            continue;
        };
        for (at, node) in items.iter().enumerate() {
            let network = network(node, format!("{key}[{at}]"), root, report);
            networks.extend(network);
        }
    }
    overlaps(&networks, report);
    if networks.len() > NETWORKS_MAX {
        let problem = format!("{} networks are more than {NETWORKS_MAX}", networks.len());
        report.push(section.place_of("hosts"), section.key("hosts"), problem, "give fewer, larger ones");
    }
    let of = |root| networks.iter().filter(|n| n.root == root).map(|n| n.prefix).collect();
    (instances, (0..lists.len()).map(of).collect())
}

fn network<'a>(node: &'a Node, key: String, root: usize, report: &mut Report) -> Option<Network<'a>> {
    let Value::Text(text) = &node.value else {
        wrong_type(node, &key, "a string", &format!("write {NETWORK}, in quotes"), report);
        return None;
    };
    match text.parse() {
        Ok(prefix) => Some(Network { prefix, root, node, key }),
        Err(problem) => {
            report.push(node.place, key, format!("\"{text}\": {problem}"), format!("write {NETWORK}"));
            None
        }
    }
}

/// Roots share no host: each host's packets have one place.
fn overlaps(networks: &[Network<'_>], report: &mut Report) {
    for (at, network) in networks.iter().enumerate() {
        let overlaps = |other: &&Network<'_>| {
            other.root != network.root
                && (other.prefix.contains(network.prefix.address)
                    || network.prefix.contains(other.prefix.address))
        };
        if let Some(other) = networks[..at].iter().find(overlaps) {
            let problem = format!("{} overlaps {} of root {}", network.prefix, other.prefix, other.root);
            let remedy = "give every host to one root: no value of any part of the 5-tuple may belong to two";
            report.push(network.node.place, network.key.clone(), problem, remedy);
        }
    }
}
