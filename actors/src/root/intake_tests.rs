//! Several roots that share the clocks.

use super::*;
use crate::messages::{Data, RootEvent};
use crate::root::core::RootCore;
use crate::root::core::tests::config;
use crate::root::shares::Shares;
use crate::splitter::tests::clocks;
use chc_api::{All, Generation, InstanceId, Position, VertexId};
use proptest::prelude::*;

const FIRST: InstanceId = InstanceId { vertex: VertexId(1), index: 0 };
const ROOTS: u16 = 3;

fn shared() -> RootConfig {
    let hosts: Vec<_> = (0..ROOTS).map(|root| vec![format!("10.{root}.0.0/16").parse().unwrap()]).collect();
    RootConfig { shares: Shares::by_hosts(&hosts), window: 1 << 20, tick_ns: 1, ..config() }
}

/// A packet of a host of this root.
fn frame(root: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = etherparse::PacketBuilder::ipv4([10, root, 0, 1], [198, 51, 100, 1], 64).udp(7, 53);
    builder.write(&mut bytes, b"").expect("a vector takes everything");
    bytes
}

#[derive(Clone, Debug)]
enum Happens {
    /// A packet of this root comes.
    Packet(u8),
    /// A root takes what waits for it, and sends it at once or later.
    Take(u16),
    Flush(u16),
    Pause,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        5 => (0..ROOTS as u8).prop_map(Happens::Packet),
        2 => (0..ROOTS).prop_map(Happens::Take),
        3 => (0..ROOTS).prop_map(Happens::Flush),
        1 => Just(Happens::Pause),
    ]
}

fn data(out: Vec<RootEffect>) -> Vec<Data> {
    let data =
        out.into_iter().filter_map(|e| if let RootEffect::Data(_, data) = e { Some(data) } else { None });
    data.collect()
}

proptest! {
    #[test]
    fn each_root_sends_its_packets_in_the_order_of_the_input_and_its_progress_passes_none(
        happens in proptest::collection::vec(happens(), 1..200),
    ) {
        let mut intake = Intake::new(shared(), true);
        let mut roots: Vec<RootCore<All>> = (0..ROOTS).map(|root| RootCore::new(&shared(), root)).collect();
        for root in &mut roots {
            let replay = RootEvent::Replay(FIRST, Generation(1), Clock(0));
            root.on_event(&mut intake, replay, &mut Vec::new());
        }
        // What each root has yet to send, and how far it says that it is.
        let mut owed: Vec<VecDeque<u64>> = vec![VecDeque::new(); usize::from(ROOTS)];
        let mut progress = vec![Position::before(Clock(0)); usize::from(ROOTS)];
        let end = (0..ROOTS).flat_map(|root| [Happens::Take(root), Happens::Flush(root)]);
        for (time, happens) in happens.into_iter().chain(end).enumerate() {
            match happens {
                Happens::Packet(root) => {
                    owed[usize::from(root)].push_back(intake.next_clock().0);
                    let (frame, time) = (frame(root), Time(time as u64));
                    let (side, link) = (Side::Inside, LinkType::RAW);
                    intake.dispatch(&Arrival { time, side, link, wire_len: 28, frame: (&frame).into() });
                }
                Happens::Take(root) => {
                    let (core, mut queue) = (&mut roots[usize::from(root)], Queue::default());
                    core.take(&mut intake, &mut queue);
                    queue.drain(|arrival, parsed, ticket| core.ingest(arrival, parsed, ticket));
                    prop_assert!(queue.is_empty());
                }
                Happens::Flush(at) => {
                    let root = usize::from(at);
                    let mut out = Vec::new();
                    roots[root].flush(&mut intake, &mut out);
                    for data in data(out) {
                        prop_assert_eq!(data.from, crate::messages::Source::Root(at));
                        for clock in clocks(&data) {
                            prop_assert_eq!(Some(clock), owed[root].pop_front());
                            prop_assert!(Position::before(Clock(clock)) >= progress[root]);
                        }
                        let lowest = owed[root].front().map_or(intake.next_clock(), |owes| Clock(*owes));
                        prop_assert!(data.progress <= Position::before(lowest));
                        progress[root] = data.progress;
                    }
                }
                Happens::Pause => intake.pause(),
            }
            intake.check_invariants();
        }
        prop_assert!(owed.iter().all(VecDeque::is_empty));
        let numbers: Vec<u64> = intake.stamps().iter().map(|stamp| stamp.step.number).collect();
        prop_assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "in the order of the input");
    }
}

#[test]
fn every_root_tells_all_time_steps_and_changes_of_tables() {
    let mut intake = Intake::new(shared(), false);
    let mut roots: Vec<RootCore<All>> = (0..ROOTS).map(|root| RootCore::new(&shared(), root)).collect();
    for root in &mut roots {
        root.on_event(&mut intake, RootEvent::Replay(FIRST, Generation(1), Clock(0)), &mut Vec::new());
    }
    let frame = frame(1);
    let arrival = |time| Arrival {
        time: Time(time),
        side: Side::Inside,
        link: LinkType::RAW,
        wire_len: 28,
        frame: (&frame).into(),
    };
    intake.dispatch(&arrival(5));
    intake.dispatch(&arrival(9));
    let change = Change { boundary: Clock(8), tables: Vec::new() };
    intake.change(&Arc::new(change));
    for (at, root) in roots.iter_mut().enumerate() {
        let mut out = Vec::new();
        root.flush(&mut intake, &mut out);
        let sent = data(out);
        let [data] = sent.as_slice() else { panic!("{} messages", sent.len()) };
        let steps: Vec<_> = data.steps.iter().map(|step| (step.clock.0, step.time.0)).collect();
        assert_eq!(steps, [(0, 5), (1, 9)]);
        assert_eq!(data.changes.len(), 1);
        // The one whose packets wait has not taken them.
        let progress = if at == 1 { 0 } else { 8 };
        assert_eq!(data.progress, Position::before(Clock(progress)));
    }
}
