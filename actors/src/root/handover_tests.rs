//! Slots that change hands, by whatever order of events: what the root sends and grants, against a model that keeps every
//! table there ever was.

use super::tests::{Alone, config, on, root};
use super::*;
use crate::messages::{Data, Destination};
use crate::routing::{Repartition, Route};
use crate::splitter::tests::{SEED, clocks, frame, route, ways_to};
use chc_api::packet::link::LinkType;
use chc_api::packet::parse::parse;
use chc_api::{Scope, Side, Time, VertexId};
use proptest::prelude::*;
use std::collections::{BTreeSet, VecDeque};

const VERTEX: VertexId = VertexId(1);
const INSTANCES: u16 = 3;
const EPOCH: u64 = 8;

/// What happens.
#[derive(Clone, Debug)]
enum Happens {
    Packet(u16),
    Flush,
    Pause,
    Repartition(Repartition),
    /// An instance closes, of what it may close, about this share.
    Close(u16, f64),
    /// A report of a generation that was replaced comes late.
    LateReport(u16),
    Dies(u16),
    EgressCloses(f64),
}

fn happens() -> impl Strategy<Value = Happens> {
    let instance = 0..INSTANCES;
    prop_oneof![
        6 => (0u16..40).prop_map(Happens::Packet),
        4 => Just(Happens::Flush),
        1 => Just(Happens::Pause),
        1 => (1..=INSTANCES).prop_map(|n| Happens::Repartition(Repartition::Scale(n))),
        2 => (instance.clone(), instance.clone(), 0.0..1.0f64)
            .prop_map(|(from, to, share)| Happens::Repartition(Repartition::Move { from, to, share })),
        6 => (instance.clone(), 0.0..1.2f64).prop_map(|(index, share)| Happens::Close(index, share)),
        1 => instance.clone().prop_map(Happens::LateReport),
        1 => instance.prop_map(Happens::Dies),
        3 => (0.0..1.2f64).prop_map(Happens::EgressCloses),
    ]
}

fn id(index: u16) -> InstanceId {
    InstanceId { vertex: VERTEX, index }
}

/// The root, and what must be so.
struct Bed {
    root: Alone,
    route: Route,
    /// Every table, by the boundary it begins at.
    tables: BTreeMap<Clock, Vec<u16>>,
    /// The tables asked for that have not been announced.
    asked: VecDeque<Repartition>,
    /// The port of the packet of each clock.
    packets: BTreeMap<Clock, u16>,
    generations: Vec<u32>,
    closed: Vec<Clock>,
    egress: Clock,
    granted: BTreeSet<(Clock, u16)>,
    /// Of each instance: the boundaries announced to this generation of it, and the packets it got.
    announced: Vec<BTreeSet<Clock>>,
    got: Vec<BTreeSet<Clock>>,
}

impl Bed {
    fn new() -> Self {
        let route = route(Scope::FiveTuple, INSTANCES);
        let instances = (0..INSTANCES).map(id).collect();
        let root = root(RootConfig { ways: ways_to(route.clone()), instances, ..config() });
        let all = usize::from(INSTANCES);
        let mut bed = Self {
            root,
            tables: BTreeMap::from([(Clock(0), route.owners.clone())]),
            route,
            asked: VecDeque::new(),
            packets: BTreeMap::new(),
            generations: vec![0; all],
            closed: vec![Clock(0); all],
            egress: Clock(0),
            granted: BTreeSet::new(),
            announced: vec![BTreeSet::new(); all],
            got: vec![BTreeSet::new(); all],
        };
        (0..INSTANCES).for_each(|index| bed.begin(index));
        bed
    }

    fn table(&self, clock: Clock) -> &[u16] {
        self.tables.range(..=clock).next_back().map_or(&[], |(_, table)| table)
    }

    /// Those who have slots below a boundary and others from there on, or the other way round.
    fn turning(&self, boundary: Clock, gains: bool) -> BTreeSet<u16> {
        let (before, after) = (self.table(Clock(boundary.0 - 1)), self.table(boundary));
        let moved = before.iter().zip(after).filter(|(old, new)| old != new);
        moved.map(|(old, new)| if gains { *new } else { *old }).collect()
    }

    /// A generation begins at the cut.
    fn begin(&mut self, index: u16) {
        let at = usize::from(index);
        self.generations[at] += 1;
        let generation = Generation(self.generations[at]);
        self.closed[at] = self.root.cut();
        (self.announced[at], self.got[at]) = Default::default();
        for effect in on(&mut self.root, RootEvent::Register(id(index), generation)) {
            let RootEffect::Go { cut, changes, granted, .. } = effect else { continue };
            assert_eq!(cut, self.root.cut());
            assert_eq!(
                changes[0].table_of(VERTEX).unwrap().as_ref(),
                self.table(cut),
                "the table at the cut"
            );
            let later: Vec<Clock> = changes[1..].iter().map(|change| change.boundary).collect();
            let known: Vec<Clock> = self.tables.range(Clock(cut.0 + 1)..).map(|(at, _)| *at).collect();
            assert_eq!(later, known, "and all above it");
            let mine = self.granted.range((Clock(cut.0 + 1), 0)..).filter(|(_, to)| *to == index);
            let mine: Vec<Clock> = mine.map(|(boundary, _)| *boundary).collect();
            assert!(mine.iter().all(|boundary| granted.contains(boundary)), "what was granted stays so");
            self.announced[at] = later.into_iter().collect();
        }
        let cut = self.root.cut();
        let effects = on(&mut self.root, RootEvent::Replay(id(index), generation, cut));
        self.take(effects);
        let sent = self.packets.range(self.root.cut()..).filter(|(clock, _)| self.owner(**clock) == index);
        let missing: Vec<_> = sent.filter(|(clock, _)| !self.got[at].contains(clock)).collect();
        // What was not flushed yet comes with the next flush.
        assert!(missing.len() <= self.unflushed(index), "{missing:?}");
    }

    fn unflushed(&self, index: u16) -> usize {
        let flushed = self.got.iter().flatten().max().copied();
        let fresh = self.packets.keys().filter(|clock| flushed.is_none_or(|last| **clock > last));
        fresh.filter(|clock| self.owner(**clock) == index).count()
    }

    fn owner(&self, clock: Clock) -> u16 {
        let parsed = parse(LinkType::RAW, &frame(self.packets[&clock], ""));
        let slot = self.route.slot_of(&parsed.key, parsed.key.hash(SEED));
        self.table(clock)[usize::from(slot.0)]
    }

    /// Takes what the root did.
    fn take(&mut self, effects: Vec<RootEffect>) {
        for effect in effects {
            match effect {
                RootEffect::Data(Destination::Instance(to), data) => self.take_data(to.index, &data),
                RootEffect::Grant(to, boundary, _) => {
                    assert!(self.turning(boundary, true).contains(&to.index), "it gains slots there");
                    for loser in self.turning(boundary, false) {
                        let closed = self.closed[usize::from(loser)];
                        assert!(closed >= boundary, "{loser} has closed {closed:?} only, not {boundary:?}");
                    }
                    assert!(self.granted.insert((boundary, to.index)), "once");
                }
                _ => {}
            }
        }
    }

    fn take_data(&mut self, index: u16, data: &Data) {
        let at = usize::from(index);
        if data.to_generation.0 != self.generations[at] {
            return;
        }
        for change in &data.changes {
            let (boundary, table) = (change.boundary, change.table_of(VERTEX).unwrap());
            if !self.tables.contains_key(&boundary) {
                assert!(self.tables.keys().all(|known| *known < boundary), "boundaries rise");
                // One of the changes that are asked for; some change nothing.
                let mut wanted = self.table(boundary).to_vec();
                while wanted == self.table(boundary) {
                    wanted = self.asked.pop_front().unwrap().apply(&wanted, self.route.fine);
                }
                assert_eq!(table.as_ref(), wanted);
                self.tables.insert(boundary, wanted);
            }
            self.announced[at].insert(boundary);
        }
        for clock in clocks(data) {
            let clock = Clock(clock);
            let known =
                self.tables.keys().filter(|boundary| **boundary > self.root.cut() && **boundary <= clock);
            assert!(
                known.clone().all(|boundary| self.announced[at].contains(boundary)),
                "announced in front"
            );
            assert_eq!(self.owner(clock), index, "clock {clock:?} goes by its table");
            assert!(self.got[at].insert(clock), "once to a generation");
        }
    }

    /// How far an instance can have closed: its input stops at the first boundary where it waits for slots.
    fn may_close(&self, index: u16) -> Clock {
        let waits = |boundary: &Clock| {
            self.turning(*boundary, true).contains(&index) && !self.granted.contains(&(*boundary, index))
        };
        let known = self.announced[usize::from(index)].iter();
        let stop = known.filter(|boundary| **boundary > Clock(0)).find(|boundary| waits(boundary)).copied();
        let all = self.root.next_clock().floor(EPOCH);
        stop.map_or(all, |stop| stop.min(all))
    }

    fn close(&mut self, index: u16, share: f64) {
        let (at, most) = (usize::from(index), self.may_close(index));
        let span = most.0.saturating_sub(self.closed[at].0) as f64;
        let boundary = Clock(self.closed[at].0 + (span * share) as u64).floor(EPOCH).min(most);
        if boundary > self.closed[at] {
            self.closed[at] = boundary;
            let generation = Generation(self.generations[at]);
            let effects = on(&mut self.root, RootEvent::Closed(id(index), generation, boundary, Vec::new()));
            self.take(effects);
        }
    }

    fn flush(&mut self) {
        let mut out = Vec::new();
        self.root.flush(&mut out);
        self.take(out);
    }

    fn happen(&mut self, what: Happens) {
        match what {
            Happens::Packet(port) if self.root.has_room() => {
                self.packets.insert(self.root.next_clock(), port);
                let bytes = frame(port, "");
                let wire_len = bytes.len() as u32;
                self.root.ingest(Arrival {
                    time: Time(1),
                    side: Side::Inside,
                    link: LinkType::RAW,
                    wire_len,
                    frame: (&bytes).into(),
                });
            }
            Happens::Packet(_) => {}
            Happens::Flush => self.flush(),
            // What pauses has sent what it had.
            Happens::Pause => {
                self.flush();
                self.root.pause();
            }
            Happens::Repartition(how) => {
                self.flush();
                self.asked.push_back(how.clone());
                let effects = on(&mut self.root, RootEvent::Repartition(VERTEX, how));
                self.flush();
                self.take(effects);
            }
            Happens::Close(index, share) => {
                self.flush();
                self.close(index, share);
            }
            Happens::LateReport(index) => {
                let old = Generation(self.generations[usize::from(index)] - 1);
                let all = self.root.next_clock().floor(EPOCH);
                let effects = on(&mut self.root, RootEvent::Closed(id(index), old, all, Vec::new()));
                assert!(effects.is_empty(), "{effects:?}");
            }
            Happens::Dies(index) => {
                self.flush();
                self.begin(index);
            }
            Happens::EgressCloses(share) => {
                let most = self.closed.iter().min().copied().unwrap_or_default();
                let boundary = Clock((most.0 as f64 * share) as u64).min(most).floor(EPOCH);
                self.egress = self.egress.max(boundary);
                let effects = on(&mut self.root, RootEvent::EgressClosed(self.egress));
                self.take(effects);
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_slots_have_one_owner_a_clock_and_are_granted_when_let_go(
        all in proptest::collection::vec(happens(), 0..250),
    ) {
        let mut bed = Bed::new();
        all.into_iter().for_each(|what| bed.happen(what));
        // Everything ends well: what is asked for happens, and everybody gets on.
        for _ in 0..60 {
            bed.happen(Happens::Pause);
            bed.flush();
            (0..INSTANCES).for_each(|index| bed.close(index, 1.0));
            bed.happen(Happens::EgressCloses(1.0));
        }
        prop_assert_eq!(bed.root.cut(), bed.root.next_clock());
        let last = bed.tables.values().next_back().cloned().unwrap();
        let left = bed.asked.iter().fold(last.clone(), |table, how| how.clone().apply(&table, 1));
        prop_assert_eq!(left, last, "what is left of what was asked for changes nothing");
        for boundary in bed.tables.keys().skip(1) {
            for gainer in bed.turning(*boundary, true) {
                prop_assert!(bed.granted.contains(&(*boundary, gainer)), "{:?} {}", boundary, gainer);
            }
        }
    }
}
