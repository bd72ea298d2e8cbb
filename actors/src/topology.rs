//! The shape of a chain: which vertex's packets go where, and how each packet that comes of another one is
//! named.
//!
//! Vertices are numbered so that every edge leads to a higher number. A packet that leaves by an output
//! takes the first way that matches its connection; without one it leaves by egress (behind a vertex that
//! only copies reach, it ends there). Copies are taken of what leaves and of what enters a vertex.
//!
//! **Names.** The packet itself keeps its path. Every other packet that can come of it has a *tap*, a number
//! that is unique in the chain, which is appended to the path: so no two packets of a clock ever have the
//! same position, whatever way they take, and each comes after the one it was made of. Taps are given out
//! from the last vertex to the first, and at a vertex in the order in which packets leave it: so a vertex that
//! handles packets in the order of their positions sends packets in the order of their positions, for what it
//! makes of one comes before whatever was made of that one further up.

use chc_api::matching::Match;
use chc_api::{FlowKey, Output, Path, VertexId};
use std::collections::BTreeMap;

/// A way a packet may take.
#[derive(Clone, Debug)]
pub struct Way {
    /// Where it leads.
    pub to: VertexId,
    /// Which packets take it; `None`: all.
    pub matching: Option<Match>,
}

impl Way {
    /// Whether packets of a connection take it.
    #[inline]
    #[must_use]
    pub fn takes(&self, key: &FlowKey) -> bool {
        self.matching.as_ref().is_none_or(|m| m.takes(key))
    }
}

/// One vertex.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Where packets go on, by output.
    pub outputs: Vec<Vec<Way>>,
    /// Who gets copies of what leaves.
    pub copies: Vec<Way>,
    /// Who gets copies of what enters.
    pub copies_in: Vec<Way>,
    /// Most packets of its own it sends for one packet.
    pub extra_packets_max: u8,
    /// Whether what leaves it is taken in the order of the input, not of each flow alone.
    pub in_order: bool,
    /// Whether only copies reach it: what leaves it by no edge is discarded.
    pub off_path: bool,
    /// Those whose packets or copies come here, ascending; `None` is the root.
    pub upstream: Vec<Option<VertexId>>,
    /// The first of its taps; [`Topology::new`] gives them out.
    pub first_tap: u8,
}

impl Node {
    /// How many taps it needs.
    fn taps(&self) -> usize {
        let packets = usize::from(self.extra_packets_max) + 1;
        packets * self.copies.len() + usize::from(self.extra_packets_max) + self.copies_in.len()
    }

    /// Taps of one packet: its copies, and itself if it is one of the vertex's own.
    fn group(&self) -> usize {
        self.copies.len() + 1
    }

    /// Tap of the copy to `copies[at]` of the packet itself (`of` 0) or of the `of`-th packet of its own.
    #[must_use]
    pub fn copy_tap(&self, of: u8, at: usize) -> u8 {
        self.first_tap + (usize::from(of) * self.group() + at) as u8
    }

    /// Tap of the `of`-th packet of its own, from 1: before those of its copies.
    #[must_use]
    pub fn extra_tap(&self, of: u8) -> u8 {
        self.copy_tap(of, 0) - 1
    }

    /// Tap of the copy to `copies_in[at]` of what enters.
    #[must_use]
    pub fn copy_in_tap(&self, at: usize) -> u8 {
        self.copy_tap(self.extra_packets_max, self.copies.len() + at)
    }

    /// The way a packet of this connection takes from an output.
    #[must_use]
    pub fn way(&self, output: Output, key: &FlowKey) -> Option<&Way> {
        self.outputs.get(usize::from(output.number()))?.iter().find(|way| way.takes(key))
    }

    /// Whether packets may leave the chain here.
    fn is_exit(&self) -> bool {
        let leads_all_on = |ways: &Vec<Way>| ways.last().is_some_and(|last| last.matching.is_none());
        !self.off_path && !self.outputs.iter().all(leads_all_on)
    }

    /// All ways on, copies included.
    pub fn ways(&self) -> impl Iterator<Item = &Way> {
        self.outputs.iter().flatten().chain(&self.copies).chain(&self.copies_in)
    }
}

/// A chain's shape.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// How many roots packets enter by.
    pub roots: u16,
    /// Where packets from the root go.
    pub entry: Vec<Way>,
    /// The vertices.
    pub vertices: Vec<Node>,
}

/// Why a chain cannot have this shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// An edge leads to a vertex that does not come after its own.
    #[error("an edge of vertex {0} leads back to vertex {1}")]
    Backwards(u16, u16),
    /// More taps than a byte can number.
    #[error("packets can be multiplied in {0} ways; at most {TAPS_MAX} can be told apart")]
    Taps(usize),
    /// A packet may be multiplied more often on its way than a path has places for.
    #[error("behind vertex {0} a packet can have been multiplied more than {DEPTH_MAX} times on its way")]
    Depth(u16),
}

/// Most taps in a chain.
pub const TAPS_MAX: usize = 254;
/// How often a packet may be multiplied on its way.
pub const DEPTH_MAX: usize = Path::PLACES - 1;

impl Topology {
    /// Numbers the taps, finds who is upstream of whom and which vertices only copies reach.
    ///
    /// # Errors
    /// What cannot be kept.
    pub fn new(entry: Vec<Way>, vertices: Vec<Node>) -> Result<Self, ShapeError> {
        let mut shape = Self { roots: 1, entry, vertices };
        // 0 ends a path and 1 is the packet the root stamped.
        let mut next = 2;
        for node in shape.vertices.iter_mut().rev() {
            node.first_tap = next.min(usize::from(u8::MAX)) as u8;
            next += node.taps();
        }
        if next - 2 > TAPS_MAX {
            return Err(ShapeError::Taps(next - 2));
        }
        let count = shape.vertices.len();
        let mut on_path = vec![false; count];
        let mut upstream = vec![Vec::new(); count];
        let mut depth = vec![0; count];
        for way in &shape.entry {
            on_path[usize::from(way.to.0)] = true;
            upstream[usize::from(way.to.0)].push(None);
        }
        for (at, node) in shape.vertices.iter().enumerate() {
            for way in node.ways() {
                let to = usize::from(way.to.0);
                if to <= at {
                    return Err(ShapeError::Backwards(at as u16, way.to.0));
                }
                upstream[to].push(Some(VertexId(at as u16)));
            }
            let extra = usize::from(node.extra_packets_max > 0);
            for way in node.outputs.iter().flatten() {
                let to = usize::from(way.to.0);
                on_path[to] |= on_path[at];
                depth[to] = depth[to].max(depth[at] + extra);
            }
            for way in node.copies.iter().chain(&node.copies_in) {
                let to = usize::from(way.to.0);
                depth[to] = depth[to].max(depth[at] + 1);
            }
            if depth[at] + extra > DEPTH_MAX {
                return Err(ShapeError::Depth(at as u16));
            }
        }
        for (at, node) in shape.vertices.iter_mut().enumerate() {
            node.off_path = !on_path[at];
            node.upstream = std::mem::take(&mut upstream[at]);
            node.upstream.sort_unstable();
            node.upstream.dedup();
        }
        Ok(shape)
    }

    /// A chain of vertices one behind the other, with one output each.
    #[must_use]
    pub fn line(count: u16) -> Self {
        let to = |vertex| vec![Way { to: VertexId(vertex), matching: None }];
        let node = |at| Node {
            outputs: vec![if at + 1 < count { to(at + 1) } else { Vec::new() }],
            ..Node::default()
        };
        Self::new(to(0), (0..count).map(node).collect()).unwrap_or_default()
    }

    /// How many packets of one clock come to a vertex at most.
    #[must_use]
    pub fn per_clock(&self, vertex: VertexId) -> u64 {
        let leads =
            |ways: &[Way], to: usize| ways.iter().filter(|way| usize::from(way.to.0) == to).count() as u64;
        let mut most = vec![0_u64; self.vertices.len()];
        for to in 0..=usize::from(vertex.0) {
            most[to] = leads(&self.entry, to).min(1);
            for (node, here) in self.vertices[..to].iter().zip(most.clone()) {
                let extra = u64::from(node.extra_packets_max);
                // The packet itself takes one way, those of its own one each.
                let taken = node.outputs.iter().any(|ways| leads(ways, to) > 0);
                let copies = leads(&node.copies, to) * (1 + extra) + leads(&node.copies_in, to);
                let each = copies + if taken { 1 + extra } else { 0 };
                most[to] = most[to].saturating_add(here.saturating_mul(each));
            }
        }
        // What may be said of none may be said of one.
        most[usize::from(vertex.0)].clamp(1, u64::from(u32::MAX))
    }

    /// Whether packets are to be put into the order of the input where they reach a vertex: several edges bring those of
    /// one flow, or several roots, which may be of different minds about translated ones; or a vertex in front of it has its
    /// packets in order. `None` asks this of the egress.
    #[must_use]
    pub fn joins(&self, vertex: Option<VertexId>) -> bool {
        let leads_there = |node: &Node| match vertex {
            Some(vertex) => node.ways().any(|way| way.to == vertex),
            None => node.is_exit(),
        };
        let from_roots = match vertex {
            Some(vertex) => self.entry.iter().any(|way| way.to == vertex),
            None => self.entry.iter().all(|way| way.matching.is_some()),
        };
        self.roots > 1 && from_roots
            || self.vertices.iter().any(|node| node.in_order && leads_there(node))
            || self.flows_meet(vertex)
    }

    /// Whether packets are put into the order of the input anywhere.
    #[must_use]
    pub fn has_joins(&self) -> bool {
        let vertices = (0..self.vertices.len() as u16).map(|at| Some(VertexId(at)));
        vertices.chain([None]).any(|vertex| self.joins(vertex))
    }

    /// Whether packets of one flow may reach a vertex on several in-edges, so that their order there is not
    /// that of any one sender.
    fn flows_meet(&self, vertex: Option<VertexId>) -> bool {
        let mut routes = Routes { of: vec![Some(Vec::new()); self.vertices.len()], egress: Some(Vec::new()) };
        routes.add(None, &[(self.entry.as_slice(), 0)], &[Choices::new()], true);
        for (at, node) in self.vertices.iter().enumerate() {
            let outputs: Vec<(&[Way], usize)> =
                node.outputs.iter().enumerate().map(|(output, ways)| (ways.as_slice(), output)).collect();
            let Some(here) = routes.of[at].clone() else {
                // Too many to tell apart: so are those behind it.
                for way in node.ways() {
                    routes.of[usize::from(way.to.0)] = None;
                }
                if !node.off_path {
                    routes.egress = None;
                }
                continue;
            };
            let from = Some(VertexId(at as u16));
            let here: Vec<Choices> = here.into_iter().map(|route| route.choices).collect();
            routes.add(from, &outputs, &here, !node.off_path);
            for copy in node.copies.iter().chain(&node.copies_in) {
                routes.push(Some(copy.to), from, &here);
            }
        }
        let here = vertex.map_or(&routes.egress, |v| &routes.of[usize::from(v.0)]);
        here.as_ref().is_none_or(|here| {
            let pairs = here.iter().enumerate().flat_map(|(at, a)| here[..at].iter().map(move |b| (a, b)));
            pairs.filter(|(a, b)| a.edge != b.edge).any(|(a, b)| !apart(&a.choices, &b.choices))
        })
    }

    /// The way a packet of this connection takes from the root.
    #[must_use]
    pub fn entry_way(&self, key: &FlowKey) -> Option<&Way> {
        self.entry.iter().find(|way| way.takes(key))
    }
}

/// Which way (one more than there are: none) a flow took from each output it passed.
type Choices = BTreeMap<(Option<VertexId>, usize), usize>;

/// How a flow may come to a vertex.
#[derive(Clone)]
struct Route {
    edge: Option<VertexId>,
    choices: Choices,
}

/// Most routes to a vertex that are told apart.
const ROUTES_MAX: usize = 256;

/// The routes to each vertex; `None`: more than are told apart.
struct Routes {
    of: Vec<Option<Vec<Route>>>,
    egress: Option<Vec<Route>>,
}

impl Routes {
    fn push(&mut self, to: Option<VertexId>, edge: Option<VertexId>, choices: &[Choices]) {
        let there = match to {
            Some(to) => &mut self.of[usize::from(to.0)],
            None => &mut self.egress,
        };
        if let Some(routes) = there {
            routes.extend(choices.iter().map(|choices| Route { edge, choices: choices.clone() }));
            if routes.len() > ROUTES_MAX {
                *there = None;
            }
        }
    }

    /// Everything that leaves `from`, which packets reach by `here`.
    fn add(&mut self, from: Option<VertexId>, outputs: &[(&[Way], usize)], here: &[Choices], leaves: bool) {
        for (ways, output) in outputs {
            let chosen = |way: usize| -> Vec<Choices> {
                let choose = |choices: &Choices| {
                    let mut choices = choices.clone();
                    choices.insert((from, *output), way);
                    choices
                };
                here.iter().map(choose).collect()
            };
            for (at, way) in ways.iter().enumerate() {
                self.push(Some(way.to), from, &chosen(at));
            }
            if leaves && ways.iter().all(|way| way.matching.is_some()) {
                self.push(None, from, &chosen(ways.len()));
            }
        }
    }
}

/// Whether no flow comes both ways: somewhere it would have had to choose differently. Which way a flow
/// takes from an output depends on its identity alone, but by which output its packets leave does not.
fn apart(a: &Choices, b: &Choices) -> bool {
    a.iter().any(|(point, way)| b.get(point).is_some_and(|other| other != way))
}

#[cfg(test)]
mod tests {

    use super::*;

    fn to(vertex: u16) -> Vec<Way> {
        vec![Way { to: VertexId(vertex), matching: None }]
    }

    #[test]
    fn every_packet_that_can_come_of_another_has_a_tap_of_its_own() {
        let node = |copies: &[u16], copies_in: &[u16], extra| Node {
            outputs: vec![to(2)],
            copies: copies.iter().flat_map(|v| to(*v)).collect(),
            copies_in: copies_in.iter().flat_map(|v| to(*v)).collect(),
            extra_packets_max: extra,
            ..Node::default()
        };
        let last = Node { outputs: vec![Vec::new()], ..Node::default() };
        let mut first = node(&[2, 3], &[3], 2);
        first.outputs = vec![to(1)];
        let shape = Topology::new(to(0), vec![first, node(&[3], &[], 1), last.clone(), last]).unwrap();
        let taps = |node: &Node| {
            let mut taps = Vec::new();
            for of in 0..=node.extra_packets_max {
                taps.extend((of > 0).then(|| node.extra_tap(of)));
                taps.extend((0..node.copies.len()).map(|at| node.copy_tap(of, at)));
            }
            taps.extend((0..node.copies_in.len()).map(|at| node.copy_in_tap(at)));
            taps
        };
        let all: Vec<u8> = shape.vertices.iter().rev().flat_map(taps).collect();
        assert_eq!(all, (2..2 + all.len() as u8).collect::<Vec<_>>());
        assert_eq!(
            shape.vertices.iter().map(|n| n.off_path).collect::<Vec<_>>(),
            [false, false, false, true]
        );
        assert_eq!(shape.vertices[3].upstream, [Some(VertexId(0)), Some(VertexId(1))]);
        assert_eq!(shape.vertices[0].upstream, [None]);
        // The packet and its two own to 1, which makes one for each; 2 gets all of these and three copies of 0.
        let most = [0, 1, 2, 3].map(|vertex| shape.per_clock(VertexId(vertex)));
        assert_eq!(most, [1, 3, 3 * 2 + 3, 3 + 1 + 3 * 2]);
    }

    #[test]
    fn flows_that_branch_by_what_they_are_keep_their_order_where_they_meet() {
        let tcp = |vertex| Way { to: VertexId(vertex), matching: Some("tcp".parse().unwrap()) };
        let node = |outputs: Vec<Vec<Way>>, copies| Node { outputs, copies, ..Node::default() };
        let last = || node(vec![Vec::new()], Vec::new());
        // By protocol to 1 or 2, and both to 3; 3 also copies to 4, as do 1 and 2.
        let branch = vec![vec![tcp(1), to(2).remove(0)]];
        let shape = |first: Vec<Vec<Way>>, second: Vec<Way>| {
            let vertices = vec![
                node(first, Vec::new()),
                node(vec![to(3)], second.clone()),
                node(vec![to(3)], second),
                last(),
                last(),
            ];
            Topology::new(to(0), vertices).unwrap()
        };
        let by_match = shape(branch, to(4));
        assert!((0..5).all(|v| !by_match.joins(Some(VertexId(v)))) && !by_match.joins(None));
        let by_output = shape(vec![to(1), to(2)], to(4));
        assert!(by_output.joins(Some(VertexId(3))) && by_output.joins(Some(VertexId(4))));
        assert!(!by_output.joins(Some(VertexId(1))) && !by_output.joins(None));
        let to_both = shape(vec![to(1), Vec::new()], Vec::new());
        assert!(to_both.joins(None), "packets of a flow leave at 0 and at 3");
    }

    #[test]
    fn what_a_path_cannot_name_is_refused() {
        let node = |next: Option<u16>| Node {
            outputs: vec![next.map(to).unwrap_or_default()],
            extra_packets_max: 1,
            ..Node::default()
        };
        let line =
            |count: u16| (0..count).map(|at| node((at + 1 < count).then_some(at + 1))).collect::<Vec<_>>();
        assert!(Topology::new(to(0), line(3)).is_ok());
        assert_eq!(Topology::new(to(0), line(4)).unwrap_err(), ShapeError::Depth(3));
        let many = Node { outputs: vec![Vec::new()], extra_packets_max: 255, ..Node::default() };
        assert_eq!(Topology::new(to(0), vec![many]).unwrap_err(), ShapeError::Taps(255));
        assert_eq!(Topology::new(to(0), vec![node(Some(0))]).unwrap_err(), ShapeError::Backwards(0, 0));
    }

    #[test]
    fn what_several_roots_send_is_put_in_order_where_it_enters() {
        let mut shape = Topology { roots: 2, ..Topology::line(2) };
        let joins = |shape: &Topology| [Some(VertexId(0)), Some(VertexId(1)), None].map(|at| shape.joins(at));
        assert_eq!(joins(&shape), [true, false, false]);
        shape.entry[0].matching = "tcp".parse().ok();
        assert_eq!(joins(&shape), [true, false, true], "some packets leave at once");
        assert_eq!(joins(&Topology { roots: 1, ..shape }), [false; 3]);
    }

    #[test]
    fn whoever_gets_packets_of_a_vertex_in_order_puts_them_in_order() {
        let mut shape = Topology::line(3);
        assert_eq!([Some(VertexId(1)), Some(VertexId(2)), None].map(|at| shape.joins(at)), [false; 3]);
        shape.vertices[1].in_order = true;
        let joins = [Some(VertexId(1)), Some(VertexId(2)), None].map(|at| shape.joins(at));
        assert_eq!(joins, [false, true, false]);
        shape.vertices[2].in_order = true;
        assert!(shape.joins(None));
        shape.vertices[2].off_path = true;
        assert!(!shape.joins(None), "nothing leaves there");
    }
}
