//! Typed access to one table of a chain file: every getter reports what is wrong with its key and goes on
//! with a default.

use super::diagnostic::{Place, Report, suggest};
use super::file::{Node, Value};
use super::model::{Choice, Edge};
use chc_api::matching::{MATCH_REMEDY, Match};
use chc_api::state::FIRST_OUTPUT;
use std::ops::RangeInclusive;

/// A table, the path that leads to it, and where its header is.
pub(crate) struct Section<'a> {
    pub(crate) path: String,
    pub(crate) place: Place,
    pub(crate) entries: &'a [(String, Node)],
    /// False when something else was written in its place, which has been reported.
    pub(crate) is_table: bool,
}

/// An edge as written.
#[derive(Clone, Debug)]
pub(crate) struct PlacedEdge {
    /// The output it leads from.
    pub(crate) output: String,
    pub(crate) edge: Edge,
    pub(crate) key: String,
    pub(crate) place: Place,
}

impl<'a> Section<'a> {
    /// The table `node`; absent, it is empty and stands at `place`.
    pub(crate) fn of(node: Option<&'a Node>, path: &str, place: Place, report: &mut Report) -> Self {
        let (place, entries, is_table): (_, &[_], _) = match node {
            None => (place, &[], true),
            Some(Node { place, value: Value::Table(entries) }) => (*place, entries, true),
            Some(node) => {
                wrong_type(node, path, "a table", &format!("write a table, [{path}]"), report);
                (node.place, &[], false)
            }
        };
        Self { path: path.to_owned(), place, entries, is_table }
    }

    /// The table `key` within this one.
    pub(crate) fn section(&self, key: &str, report: &mut Report) -> Section<'a> {
        Section::of(self.get(key), &self.key(key), self.place, report)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Node> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// The full path of `key`.
    pub(crate) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Where `key` was written; where the table is, if it was not.
    pub(crate) fn place_of(&self, key: &str) -> Place {
        self.get(key).map_or(self.place, |node| node.place)
    }

    pub(crate) fn text(&self, key: &str, report: &mut Report) -> Option<String> {
        let node = self.get(key)?;
        if let Value::Text(text) = &node.value {
            return Some(text.clone());
        }
        wrong_type(node, &self.key(key), "a string", "write a string in quotes", report);
        None
    }

    pub(crate) fn list(&self, key: &str, example: &str, report: &mut Report) -> &'a [Node] {
        match self.get(key) {
            None => &[],
            Some(Node { value: Value::List(items), .. }) => items,
            Some(node) => {
                wrong_type(node, &self.key(key), "a list", &format!("write a list, e.g. {example}"), report);
                &[]
            }
        }
    }

    pub(crate) fn integer<T: TryFrom<i128>>(
        &self,
        key: &str,
        range: RangeInclusive<i128>,
        default: T,
        report: &mut Report,
    ) -> T {
        self.get(key).and_then(|node| integer(node, &self.key(key), &range, report)).unwrap_or(default)
    }

    /// A number above 1 and at most `most`.
    pub(crate) fn ratio(&self, key: &str, most: f64, report: &mut Report) -> Option<f64> {
        let node = self.get(key)?;
        let remedy = format!("use a number above 1 and at most {most}");
        let value = match node.value {
            Value::Float(value) => value,
            Value::Int(value) => value as f64,
            _ => {
                wrong_type(node, &self.key(key), "a number", &remedy, report);
                return None;
            }
        };
        if value > 1.0 && value <= most {
            return Some(value);
        }
        report.push(node.place, self.key(key), format!("{value} is out of range"), remedy);
        None
    }

    /// A power of two in `range`; None if what was written is not.
    pub(crate) fn power_of_two(
        &self,
        key: &str,
        range: RangeInclusive<u32>,
        default: u32,
        report: &mut Report,
    ) -> Option<u32> {
        let Some(node) = self.get(key) else { return Some(default) };
        let value: u32 =
            integer(node, &self.key(key), &((*range.start()).into()..=(*range.end()).into()), report)?;
        if value.is_power_of_two() {
            return Some(value);
        }
        // The bounds are powers of two, so both neighbours are within them.
        let above = value.next_power_of_two();
        let remedy = format!("use {} or {above}", above / 2);
        report.push(node.place, self.key(key), format!("{value} is not a power of two"), remedy);
        None
    }

    pub(crate) fn choice<C: Choice>(&self, key: &str, default: C, report: &mut Report) -> C {
        let (Some(node), Some(text)) = (self.get(key), self.text(key, report)) else { return default };
        if let Some((_, choice)) = C::ACCEPTED.iter().find(|(name, _)| *name == text) {
            return *choice;
        }
        let accepted: Vec<&str> = C::ACCEPTED.iter().map(|(name, _)| *name).collect();
        let (problem, remedy) = match C::REFUSED.iter().find(|(name, _)| *name == text) {
            Some((_, why)) => (format!("\"{text}\" {why}"), format!("use \"{}\"", accepted.join("\" or \""))),
            None => (format!("unknown value \"{text}\""), suggest(&text, &accepted)),
        };
        report.push(node.place, self.key(key), problem, remedy);
        default
    }

    /// Refuses a key of the file format that does not work yet.
    pub(crate) fn refuse(&self, key: &str, remedy: &str, report: &mut Report) {
        if let Some(node) = self.get(key) {
            report.push(node.place, self.key(key), format!("\"{key}\" is not available yet"), remedy);
        }
    }

    /// Refuses every number but the one that works.
    pub(crate) fn only(&self, key: &str, accepted: u32, report: &mut Report) {
        let Some(node) = self.get(key) else { return };
        let key = self.key(key);
        let Some(value) = integer::<u32>(node, &key, &(1..=i128::from(u16::MAX)), report) else { return };
        if value != accepted {
            let problem = format!("{value} is not available yet");
            report.push(node.place, key, problem, format!("use {accepted}"));
        }
    }

    /// The edges of an `entry`, a `copy` or, with `outputs`, a `next`, which may be a table of outputs.
    pub(crate) fn edges(&self, key: &str, outputs: bool, report: &mut Report) -> Vec<PlacedEdge> {
        let mut edges = Vec::new();
        let Some(node) = self.get(key) else { return edges };
        let path = self.key(key);
        match &node.value {
            Value::List(items) => edge_list(items, &path, FIRST_OUTPUT, &mut edges, report),
            Value::Table(entries) if outputs && node.get("to").is_none() => {
                for (output, on) in entries {
                    let path = format!("{path}.{output}");
                    match &on.value {
                        Value::List(items) => edge_list(items, &path, output, &mut edges, report),
                        _ => {
                            wrong_type(on, &path, "a list", &format!("write {output} = [\"VERTEX\"]"), report)
                        }
                    }
                }
            }
            Value::Table(_) => edges.extend(edge(node, &path, FIRST_OUTPUT, report)),
            Value::Text(to) => {
                wrong_type(node, &path, "a list", &format!("write {key} = [{to:?}]"), report);
                // What it leads to is not to be reported as unreachable.
                let (output, edge) = (FIRST_OUTPUT.to_owned(), Edge::new(to));
                edges.push(PlacedEdge { output, edge, key: path, place: node.place });
            }
            _ => wrong_type(node, &path, "a list", &format!("write {key} = [\"VERTEX\"]"), report),
        }
        edges
    }
}

/// The edges of one output: the first that takes a packet has it, so none may follow one that takes all.
fn edge_list(items: &[Node], path: &str, output: &str, edges: &mut Vec<PlacedEdge>, report: &mut Report) {
    let first = edges.len();
    edges.extend(
        items.iter().enumerate().filter_map(|(i, item)| edge(item, &format!("{path}[{i}]"), output, report)),
    );
    let takes_all = |edge: &PlacedEdge| edge.edge.matching.is_none();
    let is_copy = path.ends_with(".copy") || path.ends_with(".copy_in");
    if let Some(at) = edges[first..].iter().position(takes_all).filter(|_| !is_copy)
        && let Some(edge) = edges.get(first + at + 1)
    {
        let problem =
            format!("no packet takes this edge: the one to \"{}\" takes all", edges[first + at].edge.to);
        report.push(
            edge.place,
            &edge.key,
            problem,
            "give the edges before it a match, or use copy for copies",
        );
    }
}

/// `"x"`, `{ to = "x" }` or `{ to = "x", match = "tcp/21" }`.
fn edge(node: &Node, key: &str, output: &str, report: &mut Report) -> Option<PlacedEdge> {
    let edge = match &node.value {
        Value::Text(to) => Edge::new(to),
        Value::Table(entries) => {
            let section = Section::of(Some(node), key, node.place, report);
            for (name, entry) in entries.iter().filter(|(name, _)| !["to", "match"].contains(&name.as_str()))
            {
                report.push(entry.place, section.key(name), "unknown key", suggest(name, &["to", "match"]));
            }
            if section.get("to").is_none() {
                report.push(node.place, section.key("to"), "missing", "add to = \"VERTEX\"");
            }
            let matching = section.text("match", report).and_then(|text| match text.parse::<Match>() {
                Ok(matching) => Some(matching),
                Err(error) => {
                    let problem = format!("\"{text}\" is no match: {error}");
                    report.push(section.place_of("match"), section.key("match"), problem, MATCH_REMEDY);
                    None
                }
            });
            Edge { to: section.text("to", report)?, matching }
        }
        _ => {
            wrong_type(node, key, "the name of a vertex", "write it in quotes", report);
            return None;
        }
    };
    Some(PlacedEdge { output: output.to_owned(), edge, key: key.to_owned(), place: node.place })
}

/// An integer within `range`.
pub(crate) fn integer<T: TryFrom<i128>>(
    node: &Node,
    key: &str,
    range: &RangeInclusive<i128>,
    report: &mut Report,
) -> Option<T> {
    let remedy = format!("use a whole number from {} to {}", range.start(), range.end());
    let Value::Int(value) = node.value else {
        wrong_type(node, key, "a whole number", &remedy, report);
        return None;
    };
    let fitting = range.contains(&value).then(|| T::try_from(value).ok()).flatten();
    if fitting.is_none() {
        report.push(node.place, key, format!("{value} is out of range"), remedy);
    }
    fitting
}

pub(crate) fn wrong_type(node: &Node, key: &str, expected: &str, remedy: &str, report: &mut Report) {
    report.push(node.place, key, format!("expected {expected}, found {}", node.value.describe()), remedy);
}
