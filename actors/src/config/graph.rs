//! What is wrong with the shape of a chain: edges to nowhere, cycles, vertices no packet reaches.

use super::diagnostic::{Place, Report, nearest, suggest};
use super::model::VertexConfig;
use super::section::PlacedEdge;
use chc_api::Declarations;

/// A vertex as the file gives it.
pub(crate) struct PlacedVertex {
    pub(crate) config: VertexConfig,
    /// Where its table is.
    pub(crate) place: Place,
    /// Its edges, those of copies included.
    pub(crate) edges: Vec<PlacedEdge>,
    /// What its function declares, if its configuration is right.
    pub(crate) declarations: Option<Declarations>,
}

/// The chain as a graph of vertex numbers.
struct Shape<'a> {
    names: Vec<&'a str>,
    places: Vec<Place>,
    /// For each vertex, the vertices its edges lead to and the edges.
    edges: Vec<Vec<(usize, &'a PlacedEdge)>>,
}

/// Checks the edges of the chain's `entry` and of every vertex.
pub(crate) fn check(vertices: &[PlacedVertex], entry: &[PlacedEdge], report: &mut Report) {
    let names: Vec<&str> = vertices.iter().map(|vertex| vertex.config.name.as_str()).collect();
    let entry = resolve(&names, entry, report);
    let edges = vertices.iter().map(|vertex| resolve(&names, &vertex.edges, report)).collect();
    let shape = Shape { names, places: vertices.iter().map(|vertex| vertex.place).collect(), edges };
    shape.cycles(report);
    // Without an entry nothing is reachable, and that is not the vertices' mistake.
    if !entry.is_empty() {
        shape.unreachable(&entry, report);
    }
    for vertex in vertices {
        outputs(vertex, report);
    }
}

/// Edges of outputs the function does not have.
fn outputs(vertex: &PlacedVertex, report: &mut Report) {
    let Some(declarations) = &vertex.declarations else { return };
    let mut reported = Vec::new();
    for edge in vertex.edges.iter().filter(|edge| !declarations.outputs.contains(&edge.output.as_str())) {
        if !reported.contains(&&edge.output) {
            reported.push(&edge.output);
            let problem = format!("\"{}\" has no output \"{}\"", vertex.config.nf, edge.output);
            report.push(edge.place, &edge.key, problem, suggest(&edge.output, &declarations.outputs));
        }
    }
}

/// The vertices the edges lead to. An edge to nowhere is reported; where a name is nearly right it is taken
/// for the one that was meant, so that one slip does not make the rest of the chain unreachable.
fn resolve<'a>(names: &[&str], edges: &'a [PlacedEdge], report: &mut Report) -> Vec<(usize, &'a PlacedEdge)> {
    let mut resolved = Vec::new();
    for edge in edges {
        let index_of = |to: &str| names.iter().position(|name| *name == to);
        if let Some(to) = index_of(&edge.edge.to) {
            resolved.push((to, edge));
            continue;
        }
        let problem = format!("there is no vertex \"{}\"", edge.edge.to);
        report.push(edge.place, &edge.key, problem, suggest(&edge.edge.to, names));
        if let Some(to) = nearest(&edge.edge.to, names.iter().copied()).and_then(index_of) {
            resolved.push((to, edge));
        }
    }
    resolved
}

impl Shape<'_> {
    /// Reports every edge that leads back to a vertex on the way to it. Depth first, without recursion: the
    /// file decides how deep it goes.
    fn cycles(&self, report: &mut Report) {
        let mut done = vec![false; self.names.len()];
        for start in 0..self.names.len() {
            let mut way: Vec<(usize, usize)> = if done[start] { Vec::new() } else { vec![(start, 0)] };
            while let Some((at, next)) = way.last_mut() {
                let Some(&(to, edge)) = self.edges[*at].get(*next) else {
                    done[*at] = true;
                    way.pop();
                    continue;
                };
                *next += 1;
                if let Some(first) = way.iter().position(|&(vertex, _)| vertex == to) {
                    let mut round: Vec<&str> =
                        way[first..].iter().map(|&(vertex, _)| self.names[vertex]).collect();
                    round.push(self.names[to]);
                    let problem = format!("{} is a cycle", round.join(" -> "));
                    report.push(
                        edge.place,
                        &edge.key,
                        problem,
                        "remove this edge; packets pass a vertex once",
                    );
                } else if !done[to] {
                    way.push((to, 0));
                }
            }
        }
    }

    fn unreachable(&self, entry: &[(usize, &PlacedEdge)], report: &mut Report) {
        let mut reached = vec![false; self.names.len()];
        let mut open: Vec<usize> = entry.iter().map(|&(vertex, _)| vertex).collect();
        while let Some(vertex) = open.pop() {
            if !std::mem::replace(&mut reached[vertex], true) {
                open.extend(self.edges[vertex].iter().map(|&(to, _)| to));
            }
        }
        for (vertex, name) in self.names.iter().enumerate().filter(|&(vertex, _)| !reached[vertex]) {
            let remedy =
                "name it in entry or in next, copy or copy_in of a vertex that is reached, or remove it";
            report.push(
                self.places[vertex],
                format!("vertex.{name}"),
                "no packet reaches this vertex",
                remedy,
            );
        }
    }
}
