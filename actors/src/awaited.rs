//! Of whom something may still come: senders that own slots, and those that will.
//!
//! Every receiver waits for the progress of its senders, and every boundary for all who close it. An instance that owns
//! no slots has nothing to say, so it is taken to have come to where it gets some, by what is known of the routing
//! tables. That is enough: a change is known wherever anything at or above its boundary is, for it travels in front.

use crate::messages::Source;
use crate::routing::{Change, Route};
use chc_api::{Clock, InstanceId, Position, Protection, Protections};
use chc_store::active::{Active, InstanceSet};
use std::marker::PhantomData;

/// Who owns slots, by vertex.
#[derive(Clone)]
pub struct Awaited<P> {
    vertices: Vec<Active>,
    protections: PhantomData<P>,
}

impl<P: Protections> Awaited<P> {
    /// By the tables at the beginning.
    #[must_use]
    pub fn new(routes: &[Route]) -> Self {
        let vertices = routes.iter().map(|route| Active::new(InstanceSet::owners(&route.owners))).collect();
        Self { vertices, protections: PhantomData }
    }

    /// Takes in a change.
    pub fn change(&mut self, change: &Change) {
        for (vertex, table) in &change.tables {
            let Some(active) = self.vertices.get_mut(usize::from(vertex.0)) else { continue };
            active.change(change.boundary, InstanceSet::owners(table));
        }
    }

    /// Forgets what concerns clocks below the cut alone.
    pub fn trim(&mut self, cut: Clock) {
        self.vertices.iter_mut().for_each(|active| active.trim(cut));
    }

    /// The position below which nothing comes any more of an instance that has come to `progress`.
    #[inline]
    #[must_use]
    pub fn reach(&self, id: InstanceId, progress: Position) -> Position {
        self.vertices
            .get(usize::from(id.vertex.0))
            .map_or(progress, |active| active.reach(id.index, progress))
    }

    /// The same of a sender; a root is always waited for.
    #[inline]
    #[must_use]
    pub fn reach_of(&self, source: &Source, progress: Position) -> Position {
        match source {
            Source::Root(_) => progress,
            Source::Instance(id) if P::on(Protection::AwaitedSenders) => self.reach(*id, progress),
            Source::Instance(id) => self.at_cut(*id, progress),
        }
    }

    /// As far as the tables at the cut say.
    fn at_cut(&self, id: InstanceId, progress: Position) -> Position {
        let active = self.vertices.get(usize::from(id.vertex.0));
        active.map_or(progress, |active| Active::new(active.first()).reach(id.index, progress))
    }

    /// The position below which nothing comes any more of a sender to an instance: neither where the one owns no slots nor
    /// where the other owns none, so that neither hears of the other. Where nothing is known of slots to come, the
    /// instance stays where it is.
    #[inline]
    #[must_use]
    pub fn promise(&self, from: &Source, to: InstanceId, progress: Position) -> Position {
        let mut reached = progress;
        loop {
            let active = self.vertices.get(usize::from(to.vertex.0));
            let next = active.and_then(|active| active.next(to.index, reached)).unwrap_or(reached);
            let after = self.reach_of(from, next);
            if after == reached {
                return reached;
            }
            reached = after;
        }
    }

    /// Whether an instance owns slots at a clock or, as far as is known, at some later one.
    #[must_use]
    pub fn is_active_from(&self, id: InstanceId, clock: Clock) -> bool {
        let active = self.vertices.get(usize::from(id.vertex.0));
        active.is_none_or(|active| active.next(id.index, Position::before(clock)).is_some())
    }

    /// Whether others of its vertex than this instance own slots at some clock.
    #[must_use]
    pub fn others(&self, id: InstanceId) -> bool {
        self.vertices.get(usize::from(id.vertex.0)).is_some_and(|active| active.others(id.index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splitter::tests::route;
    use chc_api::{All, Scope, VertexId};

    #[test]
    fn who_is_idle_while_the_other_is_need_not_hear_of_it() {
        let id = |vertex, index| InstanceId { vertex: VertexId(vertex), index };
        let vertex = |v| Route { vertex: VertexId(v), instances: 2, ..route(Scope::FiveTuple, 1) };
        let mut awaited = Awaited::<All>::new(&[vertex(0), vertex(1)]);
        let mut change = |boundary, vertex, owners: &[u16]| {
            let tables = vec![(VertexId(vertex), owners.into())];
            awaited.change(&Change { boundary: Clock(boundary), tables });
        };
        // The receiver stopped first, then the sender, and now the receiver goes on.
        change(8, 1, &[1]);
        change(16, 0, &[1]);
        change(24, 1, &[0]);
        let (at, from) = (|clock| Position::before(Clock(clock)), Source::Instance(id(0, 0)));
        assert_eq!(awaited.promise(&from, id(1, 0), at(8)), at(u64::MAX), "it never went on to 16");
        assert_eq!(awaited.promise(&from, id(1, 0), at(7)), at(7));
        assert_eq!(awaited.promise(&from, id(1, 1), at(8)), at(8), "it was busy then");
        assert_eq!(awaited.promise(&Source::Root(0), id(1, 0), at(8)), at(24));
    }
}
