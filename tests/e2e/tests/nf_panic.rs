//! A packet that panics its network function again and again is dropped, and nothing else is touched.

use chc_actors::chain::compile::ChainPlan;
use chc_actors::chain::run::{Kill, RunOutcome};
use chc_actors::chain::sinks::Everything;
use chc_actors::ideal::StateValue;
use chc_actors::instance::core::build;
use chc_actors::root::core::Arrival;
use chc_actors::root::reader::PacketSource;
use chc_api::packet::LinkType;
use chc_api::state::{FlowOptions, ObjectKind};
use chc_api::{
    All, Consistency, Context, Counter, Declarations, Flow, NetworkFunction, ObjectId, ObjectKey, Op, Pool,
    Scope, Side, Time, TimerEvent, Verdict,
};
use chc_e2e::chain::{assert_balanced, keep, kill, plan};
use chc_e2e::driver::udp;
use std::sync::Arc;
use std::time::Duration;

const PACKETS: u64 = 3_000;
const FLOWS: u64 = 40;
/// What a packet to this port does to the function.
const PANICS: u16 = 1;
/// The same, after it waited for the store.
const PANICS_LATER: u16 = 2;
/// It arms a timer that panics.
const TIMER_PANICS: u16 = 3;
/// It acquires a desk and panics.
const PANICS_AT_A_DESK: u16 = 4;
/// It acquires a desk and is content, or goes away without.
const TAKES_A_DESK: u16 = 5;
const DESKS: u64 = 2;

/// Counts packets: all of them, and those of each flow. Panics on demand.
#[derive(Clone)]
struct Fragile {
    seen: Counter,
    packets: Flow<u64>,
    asked: ObjectId,
    desks: Pool,
}

impl Fragile {
    fn new(declarations: &mut Declarations) -> Self {
        let options = FlowOptions { timers: 1, timeout_min: Duration::from_millis(1), index: None };
        let int = ObjectKind::Int { initial: 0 };
        Self {
            seen: declarations.counter("seen"),
            packets: declarations.flow("packets", options),
            asked: declarations.basic("asked", Scope::Global, Consistency::Serial, int, (1, 0)),
            desks: declarations.pool("desks", Consistency::Serial, Arc::new(|_| 0..DESKS)),
        }
    }
}

impl NetworkFunction for Fragile {
    async fn packet<C: Context>(&self, cx: C) -> Verdict {
        let port = cx.identity().destination().port;
        cx.count(self.seen, 1);
        cx.put(self.packets, cx.get(self.packets).unwrap_or(0) + 1);
        assert!(port != PANICS, "as asked");
        if port == PANICS_LATER {
            cx.operate(self.asked, ObjectKey::number(0), Op::Increment(1)).await;
            panic!("as asked, later");
        }
        if port == PANICS_AT_A_DESK || port == TAKES_A_DESK {
            let desk = cx.acquire(self.desks, 0).await;
            assert!(port != PANICS_AT_A_DESK, "as asked, at desk {desk:?}");
            return desk.map_or(Verdict::Drop("no_desk"), |_| Verdict::Forward);
        }
        if port == TIMER_PANICS {
            cx.arm(self.packets, 0, cx.now(), false);
        }
        Verdict::Forward
    }

    async fn timer<C: Context>(&self, _cx: C, _timer: TimerEvent) {
        panic!("as asked, by a timer");
    }
}

/// One vertex of two instances of [`Fragile`].
fn fragile() -> ChainPlan {
    let mut plan = plan("portscan", &["vertex.portscan.instances=2"]);
    let mut declarations = Declarations::default();
    let nf = Fragile::new(&mut declarations);
    plan.vertices[0].function.declarations = declarations;
    plan.vertices[0].function.factory = Arc::new(move |config| build::<_, All>(nf.clone(), config));
    plan
}

/// Packets of [`FLOWS`] flows in turn, a millisecond apart; those with the given numbers (from 1) are
/// of flows of their own, to the given ports.
struct Traffic {
    odd: Vec<(u64, u16)>,
    number: u64,
    frame: Vec<u8>,
}

impl PacketSource for Traffic {
    fn next(&mut self) -> Result<Option<Arrival<'_>>, String> {
        self.number += 1;
        if self.number > PACKETS {
            return Ok(None);
        }
        let odd = self.odd.iter().find(|(number, _)| *number == self.number);
        let port = odd.map_or(443, |(_, port)| *port);
        let host = if odd.is_some() { 200 } else { (self.number % FLOWS) as u8 };
        self.frame = udp(([10, 0, 0, host], 5000), ([198, 51, 100, 1], port));
        Ok(Some(Arrival {
            time: Time(1_000_000_000 + self.number * 1_000_000),
            side: Side::Inside,
            link: LinkType::ETHERNET,
            wire_len: self.frame.len() as u32,
            frame: (&self.frame).into(),
        }))
    }
}

fn run(odd: &[(u64, u16)], kills: Vec<Kill>) -> (RunOutcome, Everything) {
    let source = Traffic { odd: odd.to_vec(), number: 0, frame: Vec::new() };
    let (outcome, everything) = keep(&fragile(), source, kills).unwrap();
    assert_balanced(&outcome);
    (outcome, everything)
}

fn panics(outcome: &RunOutcome) -> usize {
    outcome.recoveries.iter().filter(|recovery| recovery.kind == "panic").count()
}

/// Checks that the packets with these numbers were dropped as `nf_panic`, that all others left once, and
/// that the records of flows know nothing of the dropped ones.
fn assert_only_these_are_missing(outcome: &RunOutcome, everything: &Everything, missing: &[u64]) {
    let numbers = |clock| {
        let stamp = outcome.root.stamps.iter().find(|stamp| stamp.step.clock == clock);
        stamp.expect("every clock was stamped").step.number
    };
    let mut left: Vec<u64> = everything.packets.iter().map(|kept| numbers(kept.position.clock)).collect();
    left.sort_unstable();
    let expected: Vec<u64> = (1..=PACKETS).filter(|number| !missing.contains(number)).collect();
    assert_eq!(left, expected);
    let drops = everything.drops.iter().map(|(_, record)| (record.reason, numbers(record.position.clock)));
    let mut drops: Vec<_> = drops.collect();
    drops.sort_unstable();
    assert_eq!(drops, missing.iter().map(|number| ("nf_panic", *number)).collect::<Vec<_>>());

    let of_flows = outcome.state.iter().filter_map(|((_, object, _), value)| match (*object, value) {
        ("packets", StateValue::Record { value, .. }) => value.read::<u64>(),
        _ => None,
    });
    assert_eq!(of_flows.sum::<u64>() as usize, expected.len());
}

fn value(outcome: &RunOutcome, name: &str) -> Option<StateValue> {
    outcome.state.iter().find(|((_, object, _), _)| *object == name).map(|(_, value)| value.clone())
}

#[test]
fn a_packet_that_panics_its_function_three_times_is_dropped_and_the_chain_goes_on() {
    let (outcome, everything) = run(&[(1_500, PANICS)], Vec::new());
    assert_eq!(panics(&outcome), 3);
    assert_eq!(outcome.egress.drops.get("nf_panic"), Some(&1));
    assert_only_these_are_missing(&outcome, &everything, &[1_500]);
    assert_eq!(value(&outcome, "seen"), Some(StateValue::Int(PACKETS as i64 - 1)));
}

#[test]
fn the_first_and_the_last_packet_may_panic_and_several_in_a_row() {
    let odd = [1, 700, 701, 702, PACKETS];
    let (outcome, everything) = run(&odd.map(|number| (number, PANICS)), Vec::new());
    assert_eq!(panics(&outcome), 3 * odd.len());
    assert_only_these_are_missing(&outcome, &everything, &odd);
}

#[test]
fn a_packet_that_panics_after_it_waited_for_the_store_is_dropped_too() {
    let (outcome, everything) = run(&[(1_500, PANICS_LATER)], Vec::new());
    assert_eq!(panics(&outcome), 3);
    assert_only_these_are_missing(&outcome, &everything, &[1_500]);
    // What it asked of the store before it waited is not undone, nor done thrice.
    assert_eq!(value(&outcome, "asked"), Some(StateValue::Int(1)));
    // What it had counted was on its way or not.
    let Some(StateValue::Int(seen)) = value(&outcome, "seen") else { panic!("it is counted") };
    assert!([PACKETS - 1, PACKETS].contains(&(seen as u64)), "{seen}");
}

#[test]
fn a_timer_that_panics_three_times_is_skipped() {
    let (outcome, everything) = run(&[(1_500, TIMER_PANICS)], Vec::new());
    assert_eq!(panics(&outcome), 3);
    assert_only_these_are_missing(&outcome, &everything, &[]);
}

#[test]
fn kills_are_not_blamed_on_packets() {
    let kills = (1..=8).map(|n| kill("portscan/0", n * 300)).collect();
    let (outcome, everything) = run(&[(1_000, PANICS), (2_000, PANICS)], kills);
    let killed = outcome.recoveries.iter().filter(|recovery| recovery.kind == "kill").count();
    assert!(panics(&outcome) == 6 && killed >= 8, "{:?}", outcome.recoveries);
    assert_only_these_are_missing(&outcome, &everything, &[1_000, 2_000]);
}

#[test]
fn what_a_packet_had_acquired_that_is_dropped_is_given_back() {
    // More of them than there are desks.
    let panics = (1..=2 * DESKS + 1).map(|nth| (nth * 300, PANICS_AT_A_DESK));
    let content = [(2_900, TAKES_A_DESK), (2_950, TAKES_A_DESK), (2_990, TAKES_A_DESK)];
    let odd: Vec<(u64, u16)> = panics.chain(content).collect();
    let mut plan = fragile();
    // Desks rest for a window.
    (plan.window, plan.epoch) = (128, 64);
    let source = Traffic { odd: odd.clone(), number: 0, frame: Vec::new() };
    let (outcome, everything) =
        keep(&plan, source, vec![kill("portscan/0", 1_000), kill("portscan/1", 2_000)]).unwrap();
    let mut reasons: Vec<&str> = everything.drops.iter().map(|(_, record)| record.reason).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["nf_panic", "nf_panic", "nf_panic", "nf_panic", "nf_panic", "no_desk"]);
    let Some(StateValue::Taken(taken)) = value(&outcome, "desks") else { panic!("{:?}", outcome.state) };
    assert_eq!(taken.len() as u64, DESKS, "those of the packets that were content");
}
