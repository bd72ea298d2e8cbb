use super::*;
use crate::topology::Way;
use chc_api::nf::{Context, TimerEvent};
use chc_api::state::{FlowOptions, ObjectKey};
use chc_api::{
    Consistency, Direction, EventKind, Flow, FlowKey, Op, OpValue, Path, Pool, Position, TimerOrigin,
};
use std::sync::Arc;
use std::time::Duration;

const WINDOW: u64 = 4;
const SECOND: Duration = Duration::from_secs(1);

/// Takes a member of a pool of two for each connection, writes it into the frame's first byte, and
/// gives it back a second later, or at the end of the input.
#[derive(Clone)]
struct Lender {
    loans: Flow<[u64; 2]>,
    pool: Pool,
}

impl NetworkFunction for Lender {
    async fn packet<C: Context>(&self, cx: C) -> Verdict {
        if cx.get(self.loans).is_none() {
            let Some(member) = cx.acquire(self.pool, 0).await else { return Verdict::Drop("none_free") };
            assert!(cx.identity().key != key(99), "as asked");
            cx.put(self.loans, [member, cx.position().clock.0]);
            cx.arm(self.loans, 0, cx.now() + SECOND, true);
            cx.rewrite(|frame| frame[0] = member as u8);
        }
        Verdict::Forward
    }

    async fn timer<C: Context>(&self, cx: C, timer: TimerEvent) {
        let Some([member, owner]) = cx.get(self.loans) else { return };
        assert!(timer.index == 0 && cx.armed(self.loans, 0).is_none());
        cx.release(self.pool, 0, member, owner);
        cx.remove(self.loans);
        let kind = EventKind::Nat { opened: false, external: 0, port: member as u16 };
        cx.event(Event { kind, key: cx.identity().key, direction: Direction::default() });
    }
}

fn chain(choices: Option<Choices>) -> IdealChain {
    chain_of(Consistency::Serial, choices)
}

fn chain_of(order: Consistency, choices: Option<Choices>) -> IdealChain {
    let mut chain = IdealChain::new(WINDOW, Topology::line(1), choices);
    let mut declarations = Declarations::default();
    let options = FlowOptions { timers: 1, timeout_min: SECOND, index: None };
    let loans = declarations.flow("loans", options);
    let pool = declarations.pool("members", order, Arc::new(|_| 7..9));
    let nf = Lender { loans, pool };
    chain.append(VertexId(0)).visit(move || nf.clone(), declarations);
    chain
}

fn key(connection: u16) -> FlowKey {
    FlowKey::v4(17, 1, connection, 2, 53).0
}

/// Feeds a packet of a connection; returns what the frame says was acquired.
fn feed(chain: &mut IdealChain, clock: u64, ms: u64, connection: u16) -> Result<u8, &'static str> {
    let link = LinkType::RAW;
    let input = Input {
        clock: Clock(clock),
        time: Time(ms * 1_000_000),
        is_step: true,
        number: clock + 1,
        link,
        wire_len: 1,
        frame: &[0],
        parsed: chc_api::packet::parse(link, &[0]),
        identity: Identity { key: key(connection), direction: Direction::default() },
    };
    match chain.feed(&input).as_slice() {
        [Outcome::Forwarded(output)] => Ok(output.frame[0]),
        [Outcome::Dropped { reason, .. }] => Err(reason),
        other => panic!("{other:?}"),
    }
}

fn packet(clock: u64) -> Position {
    Position::packet(Clock(clock), Path::FIRST)
}

#[test]
fn the_lowest_eligible_member_is_taken_and_none_when_all_are() {
    let mut chain = chain(None);
    assert_eq!(feed(&mut chain, 0, 0, 1), Ok(7));
    assert_eq!(feed(&mut chain, 1, 1, 2), Ok(8));
    assert_eq!(feed(&mut chain, 2, 2, 3), Err("none_free"));
    assert_eq!(feed(&mut chain, 3, 3, 1), Ok(0));
    assert_eq!(chain.drops(), &BTreeMap::from([("none_free", 1)]));
    let pool = (VertexId(0), "members", StateWord::Object(ObjectKey::number(0)));
    assert_eq!(chain.state()[&pool], StateValue::Taken(BTreeMap::from([(7, 0), (8, 1)])));
}

#[test]
fn a_released_member_is_eligible_a_window_later() {
    let mut chain = chain(None);
    assert_eq!(feed(&mut chain, 0, 0, 1), Ok(7));
    chain.time_step(Clock(1), Time(999_999_999));
    assert_eq!(chain.take_events(), []);
    chain.time_step(Clock(2), Time(1_000_000_000));
    let origin =
        TimerOrigin { setter: Clock(0), setter_path: Path::FIRST, object: chc_api::ObjectId(0), index: 0 };
    let events = chain.take_events();
    assert_eq!(events[0].position, Position::timer(Clock(2), origin));
    assert_eq!((events[0].number, events[0].vertex, events.len()), (None, VertexId(0), 1));
    assert_eq!(feed(&mut chain, 3, 1_001, 2), Ok(8));
    assert_eq!(feed(&mut chain, 5, 1_002, 3), Err("none_free"));
    assert_eq!(feed(&mut chain, 2 + WINDOW, 1_003, 4), Ok(7));
}

#[test]
fn timers_run_in_the_order_of_their_setters_before_the_packet_of_their_clock() {
    let mut chain = chain(None);
    assert_eq!(feed(&mut chain, 0, 0, 9), Ok(7));
    assert_eq!(feed(&mut chain, 1, 1, 1), Ok(8));
    // Both are due at clock 8, whose packet then finds its own connection gone and members free.
    assert_eq!(feed(&mut chain, 8, 2_000, 9), Err("none_free"));
    let events = chain.take_events();
    let keys: Vec<FlowKey> = events.iter().map(|record| record.event.key).collect();
    assert_eq!(keys, [key(9), key(1)]);
    assert!(events.iter().all(|record| record.number == Some(9)));
    assert_eq!(feed(&mut chain, 12, 2_001, 9), Ok(7));
}

#[test]
fn a_clock_that_is_no_step_makes_nothing_due() {
    let mut chain = chain(None);
    assert_eq!(feed(&mut chain, 0, 0, 1), Ok(7));
    let parsed = chc_api::packet::parse(LinkType::RAW, &[0]);
    chain.feed(&Input {
        clock: Clock(1),
        time: Time(5_000_000_000),
        is_step: false,
        number: 2,
        link: LinkType::RAW,
        wire_len: 1,
        frame: &[0],
        parsed,
        identity: Identity { key: key(1), direction: Direction::default() },
    });
    assert_eq!(chain.take_events(), []);
}

#[test]
fn the_end_makes_due_what_is_armed_for_it() {
    let mut chain = chain(None);
    assert_eq!(feed(&mut chain, 0, 0, 1), Ok(7));
    chain.end(Clock(1));
    assert_eq!(chain.take_events().len(), 1);
    assert!(chain.state().is_empty());
}

#[test]
fn recorded_choices_are_followed() {
    let choices =
        Choices::from([((VertexId(0), packet(0), 0), Some(8)), ((VertexId(0), packet(1), 0), Some(7))]);
    let mut chain = chain(Some(choices));
    assert_eq!(feed(&mut chain, 0, 0, 1), Ok(8));
    assert_eq!(feed(&mut chain, 1, 1, 2), Ok(7));
    assert_eq!(chain.violations(), [""; 0]);
}

#[test]
fn where_members_are_taken_in_order_there_is_no_choice() {
    let choices = Choices::from([((VertexId(0), packet(0), 0), Some(8))]);
    let mut chain = chain_of(Consistency::Clock, Some(choices));
    assert_eq!(feed(&mut chain, 0, 0, 1), Ok(8));
    let violations = chain.violations();
    let [violation] = violations.as_slice() else { panic!("{violations:?}") };
    assert!(violation.contains("8 was acquired, but 7 was due"), "{violation}");
}

/// Connection 99 panics once it has a member.
#[test]
fn what_a_packet_acquired_that_panics_is_given_back() {
    let mut chain = chain(None);
    assert_eq!(feed(&mut chain, 0, 0, 99), Err("nf_panic"));
    assert!(chain.state().is_empty());
    assert_eq!(feed(&mut chain, 1, 1, 1), Ok(8), "7 rests for a window");
    assert_eq!(feed(&mut chain, 2, 2, 2), Err("none_free"));
    assert_eq!(feed(&mut chain, WINDOW, 3, 2), Ok(7));
}

#[test]
fn illegal_choices_are_reported_with_their_position() {
    let at = |clock| (VertexId(0), packet(clock), 0);
    let choices = Choices::from([
        (at(0), None),    // although 7 was free
        (at(1), Some(7)), // taken at clock 0 instead
        (at(6), Some(8)), // released at clock 5
        (at(9), Some(6)), // no member at all
    ]);
    let mut chain = chain(Some(choices));
    assert_eq!(feed(&mut chain, 0, 0, 1), Ok(7));
    assert_eq!(feed(&mut chain, 1, 1, 2), Ok(8));
    chain.time_step(Clock(5), Time(3_000_000_000));
    assert_eq!(feed(&mut chain, 6, 3_000, 3), Err("none_free"));
    assert_eq!(feed(&mut chain, 9, 3_000, 4), Ok(7));
    assert_eq!(feed(&mut chain, 10, 3_000, 5), Ok(8));
    let violations = chain.violations();
    let said = [
        "although 7 was free",
        "7 was acquired although",
        "8 was acquired too soon",
        "6 was acquired",
        "nothing is recorded",
    ];
    assert_eq!(violations.len(), said.len(), "{violations:?}");
    for ((violation, said), clock) in violations.iter().zip(said).zip([0, 1, 6, 9, 10]) {
        assert!(violation.contains(said) && violation.contains(&format!("position {clock}.")), "{violation}");
    }
}

#[test]
fn a_release_by_another_than_the_owner_does_nothing() {
    let mut declarations = Declarations::default();
    let pool = declarations.pool("members", Consistency::Clock, Arc::new(|_| 7..9)).id();
    let mut state = state::State::new(declarations, WINDOW);
    let number = ObjectKey::number(0);
    assert_eq!(state.acquire(pool, (number, None), Clock(5), None), (OpValue::Int(7), Ok(())));
    let release = |owner| Op::Release { member: 7, owner };
    assert_eq!(state.apply(pool, number, release(4), (Clock(6), Time(6)), 0), OpValue::Int(0));
    assert_eq!(state.apply(pool, number, release(5), (Clock(6), Time(6)), 0), OpValue::Int(1));
    assert_eq!(state.apply(pool, number, release(5), (Clock(6), Time(6)), 0), OpValue::Int(0));
}

/// Arms both timers of a connection. The first disarms the second where both are due, and arms itself
/// again once.
#[derive(Clone)]
struct Twice(Flow<u64>);

impl NetworkFunction for Twice {
    async fn packet<C: Context>(&self, cx: C) -> Verdict {
        cx.put(self.0, 0);
        cx.arm(self.0, 1, cx.now() + SECOND, false);
        cx.arm(self.0, 0, cx.now(), false);
        Verdict::Forward
    }

    async fn timer<C: Context>(&self, cx: C, timer: TimerEvent) {
        assert_eq!(timer.index, 0);
        let runs = cx.get(self.0).unwrap_or(9) + 1;
        cx.put(self.0, runs);
        cx.disarm(self.0, 1);
        if runs == 1 {
            cx.arm(self.0, 0, cx.now() + 2 * SECOND, false);
        }
    }
}

#[test]
fn a_timer_may_disarm_another_that_is_due_and_what_it_arms_keeps_its_first_setter() {
    let mut chain = IdealChain::new(WINDOW, Topology::line(1), None);
    let mut declarations = Declarations::default();
    let options = FlowOptions { timers: 2, timeout_min: SECOND, index: None };
    let nf = Twice(declarations.flow("runs", options));
    chain.append(VertexId(0)).visit(move || nf.clone(), declarations);
    assert_eq!(feed(&mut chain, 0, 0, 1), Ok(0));
    let record = (VertexId(0), "runs", StateWord::Flow(key(1)));
    let look = |chain: &IdealChain| {
        let StateValue::Record { value, timers } = chain.state()[&record].clone() else { panic!("a record") };
        let deadlines: Vec<_> =
            timers.into_iter().map(|(index, t)| (index, t.deadline.0, t.setter)).collect();
        (value.read::<u64>(), deadlines)
    };
    // Moved to the declared minimum.
    let second = 1_000_000_000;
    assert_eq!(look(&chain), (Some(0), vec![(0, second, packet(0)), (1, second, packet(0))]));
    chain.time_step(Clock(1), Time(second));
    assert_eq!(look(&chain), (Some(1), vec![(0, 3 * second, packet(0))]));
    chain.time_step(Clock(2), Time(3 * second));
    assert_eq!(look(&chain), (Some(2), vec![]));
}

/// Does what the first byte of the frame says: sends by the second output, sends two packets of its own, or
/// drops; and counts what comes, by what is attached.
#[derive(Clone)]
struct Switch {
    other: chc_api::Output,
    seen: chc_api::Counter,
    attached: chc_api::Counter,
    /// Otherwise it only counts.
    acts: bool,
}

#[derive(
    Clone, Copy, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
)]
#[repr(C)]
struct Note(u64);

impl chc_api::Attachment for Note {
    const NAME: &'static str = "note";
}

impl NetworkFunction for Switch {
    async fn packet<C: Context>(&self, cx: C) -> Verdict {
        cx.count(self.seen, 1);
        if cx.attached::<Note>().is_some() {
            cx.count(self.attached, 1);
        }
        match cx.header(|frame| frame[0]) {
            _ if !self.acts => Verdict::Forward,
            b'o' => Verdict::Send(self.other),
            b'e' => {
                cx.emit(chc_api::Output::FIRST, cx.identity().direction, b"x");
                cx.emit(self.other, cx.identity().direction.reverse(), b"y");
                cx.attach(Note(1));
                Verdict::Forward
            }
            b'd' => Verdict::Drop("asked"),
            _ => Verdict::Forward,
        }
    }
}

/// Vertex 0 sends by its second output to 1, and copies what leaves to 3 (off the path); 1 sends to 2, and copies what
/// enters to 3; by its first output 0 sends to 2.
fn branching() -> IdealChain {
    let way = |to: u16| vec![Way { to: VertexId(to), matching: None }];
    let nodes = vec![
        Node { outputs: vec![way(2), way(1)], copies: way(3), extra_packets_max: 2, ..Node::default() },
        Node { outputs: vec![way(2), Vec::new()], copies_in: way(3), ..Node::default() },
        Node { outputs: vec![Vec::new(), Vec::new()], ..Node::default() },
        Node { outputs: vec![Vec::new(), Vec::new()], ..Node::default() },
    ];
    let mut chain = IdealChain::new(WINDOW, Topology::new(way(0), nodes).unwrap(), None);
    for id in 0..4 {
        let mut declarations = Declarations::default();
        let nf = Switch {
            other: declarations.output("other"),
            seen: declarations.counter("seen"),
            attached: declarations.counter("attached"),
            acts: id == 0,
        };
        chain.append(VertexId(id)).visit(move || nf.clone(), declarations);
    }
    chain
}

/// What became of a frame: path and first byte of what left, or why it was dropped where.
fn course(chain: &mut IdealChain, clock: u64, frame: &[u8]) -> Vec<(u32, String)> {
    let link = LinkType::RAW;
    let parsed = chc_api::packet::parse(link, frame);
    let (clock, time, wire_len) = (Clock(clock), Time(clock), frame.len() as u32);
    let identity = Identity { key: key(1), direction: Direction::default() };
    let input = Input { clock, time, is_step: true, number: 1, link, wire_len, frame, parsed, identity };
    let show = |outcome| match outcome {
        Outcome::Forwarded(output) => {
            (output.position.path.0 >> 16, String::from_utf8_lossy(&output.frame).into_owned())
        }
        Outcome::Dropped { position, reason, vertex } => {
            (position.path.0 >> 16, format!("{reason} by {}", vertex.0))
        }
    };
    chain.feed(&input).into_iter().map(show).collect()
}

fn seen(chain: &IdealChain, vertex: u16, counter: &'static str) -> i64 {
    match chain.state().get(&(VertexId(vertex), counter, StateWord::Object(ObjectKey::GLOBAL))) {
        Some(StateValue::Int(seen)) => *seen,
        None => 0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn packets_branch_are_copied_and_make_others() {
    let mut chain = branching();
    assert_eq!(course(&mut chain, 0, b"f"), [(0x100, "f".to_owned())]);
    let counts = |chain: &IdealChain| [0, 1, 2, 3].map(|vertex| seen(chain, vertex, "seen"));
    assert_eq!(counts(&chain), [1, 0, 1, 1]);
    assert_eq!(course(&mut chain, 1, b"o"), [(0x100, "o".to_owned())]);
    assert_eq!(counts(&chain), [2, 1, 2, 3], "3 gets a copy from 0 and one from 1");
    assert_eq!(course(&mut chain, 2, b"d"), [(0x100, "asked by 0".to_owned())]);
    assert_eq!(counts(&chain), [3, 1, 2, 3], "what is dropped is not copied");
    // Vertex 1 has tap 2. Taps of 0: 3 a copy of the packet, 4 and 5 an extra one and its copy, 6 and 7.
    let all = course(&mut chain, 3, b"e");
    assert_eq!(all, [(0x100, "e".into()), (0x104, "x".into()), (0x106, "y".into())]);
    assert_eq!(counts(&chain), [4, 2, 5, 7]);
    // It and its copy, but not the packets made for it.
    assert_eq!([1, 2, 3].map(|vertex| seen(&chain, vertex, "attached")), [0, 1, 1]);
    assert_eq!(chain.drops().values().sum::<u64>(), 1);
}
