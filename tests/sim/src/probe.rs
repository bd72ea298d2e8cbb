//! A network function of the simulation alone: it exercises what those of the paper do not.
//!
//! What a packet does is drawn from its IPv4 identification and its clock: it reads or increments a
//! `serial` integer and writes what it observed into the packet, its record and an event; it
//! increments a `clock` integer, pushes to and pops from a `clock` list, runs a custom operation with
//! and without waiting and one that is not deterministic, reads and writes a replicated value, reads a counter, takes a member of a pool that all
//! instances share, gives it back, and once more when it is not its own any more, arms, moves and disarms timers (which arm themselves again), removes its record, pauses, notes what is attached to it
//! and attaches something, leaves by another output, has packets sent for it, and is dropped.

use chc_api::packet::PacketKind;
use chc_api::state::{FlowOptions, ObjectKind, ValueBytes};
use chc_api::{
    Attachment, Consistency, Context, Counter, CustomOp, Declarations, Event, EventKind, Flow,
    NetworkFunction, ObjectId, ObjectKey, Op, OpValue, Output, Pool, Replicated, Scope, Shared, TimerEvent,
    Verdict,
};
use chc_nf_catalog::Visitor;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Name of the second output.
const ASIDE: &str = "aside";
const QUEUE_LEN_MAX: usize = 5;
/// Members of each of the two pools, which all instances share.
const DESKS: u64 = 3;
/// Keys of replicated values, and how many of them may be set.
const NOTES: u64 = 3;
const NOTES_MAX: usize = 2;
/// Packets; turn; queue and timers; mix; observed values; the desk held and its group; its owner; the desk held before.
const RECORD_WORDS: usize = 8;
/// Packets the function sends for one packet at most.
pub const EXTRA_MAX: u8 = 2;
const DESK: usize = 5;
const OWNER: usize = 6;
const LEFT: usize = 7;

/// The function.
#[derive(Clone)]
pub struct Probe {
    delay: Duration,
    seen: Counter,
    strange: Counter,
    talk: Flow<[u64; RECORD_WORDS]>,
    ticket: ObjectId,
    turn: ObjectId,
    queue: ObjectId,
    mix: Shared<[u64; 2]>,
    desks: Pool,
    board: Replicated<u64>,
    aside: Output,
}

/// What probes attach to packets.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Tag(u64);

impl Attachment for Tag {
    const NAME: &'static str = "probe.tag";
}

static MIX_OPS: [CustomOp; 2] = [CustomOp::new("fold", fold), CustomOp::drawn("toss", toss)];

/// Not deterministic.
fn toss(value: &mut ValueBytes, argument: &ValueBytes, draw: u64) -> OpValue {
    let argument = argument.read::<u64>().unwrap_or_default();
    fold(value, &ValueBytes::of(&(argument ^ draw)))
}

/// Not commutative: whoever applies operations in another order is found out.
fn fold(value: &mut ValueBytes, argument: &ValueBytes) -> OpValue {
    let (Some([state, count]), Some(by)) = (value.read::<[u64; 2]>(), argument.read::<u64>()) else {
        return OpValue::Empty;
    };
    let state = (state ^ by).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(13);
    *value = ValueBytes::of(&[state, count + 1]);
    OpValue::Int((state >> 40) as i64)
}

impl Probe {
    /// The function and its declarations; `delay` is the shortest delay of its timers, `order` that of
    /// acquisitions.
    #[must_use]
    pub fn new(delay: Duration, order: Consistency, declarations: &mut Declarations) -> Self {
        let int = || ObjectKind::Int { initial: 0 };
        let (clock, serial) = (Consistency::Clock, Consistency::Serial);
        declarations.extra_packets(EXTRA_MAX);
        Self {
            delay,
            aside: declarations.output(ASIDE),
            seen: declarations.counter("seen"),
            talk: declarations.flow("talk", FlowOptions { timers: 2, timeout_min: delay, index: None }),
            ticket: declarations.basic("ticket", Scope::Global, serial, int(), (1, 1)),
            turn: declarations.basic("turn", Scope::Global, clock, int(), (1, 0)),
            queue: declarations.basic(
                "queue",
                Scope::Global,
                clock,
                ObjectKind::List { len_max: QUEUE_LEN_MAX },
                (1, 0),
            ),
            mix: declarations.shared("mix", Scope::Global, clock, [7, 0], &MIX_OPS, (1, 1)),
            strange: declarations.counter("strange"),
            board: declarations.replicated("board", Scope::Global, 0_u64, &[], NOTES_MAX, (1, 1)),
            desks: declarations.pool("desks", order, Arc::new(|group| group * 100..group * 100 + DESKS)),
        }
    }

    /// Hands it to a visitor as the catalog does with its own.
    pub fn with<V: Visitor>(delay: Duration, order: Consistency, visitor: V) -> V::Out {
        let mut declarations = Declarations::default();
        let nf = Probe::new(delay, order, &mut declarations);
        visitor.visit(move || nf.clone(), declarations)
    }

    async fn observe<C: Context>(&self, cx: &C, draw: u64) -> Option<u64> {
        let op = match draw & 7 {
            0 | 1 => Op::Get,
            2 => Op::Increment(1),
            3 => {
                cx.submit(self.ticket, ObjectKey::GLOBAL, Op::Increment(1));
                return None;
            }
            _ => return None,
        };
        number(cx.operate(self.ticket, ObjectKey::GLOBAL, op).await)
    }

    async fn ordered<C: Context>(&self, cx: &C, draw: u64, record: &mut [u64; RECORD_WORDS]) {
        let group = ObjectKey::number(draw >> 20 & 1);
        match draw >> 3 & 3 {
            0 => record[1] = number(cx.operate(self.turn, group, Op::Increment(1)).await).unwrap_or(99),
            _ => cx.done(self.turn),
        }
        match draw >> 5 & 7 {
            0 => record[2] = code(cx.operate(self.queue, group, Op::Push(cx.position().clock.0)).await),
            1 => record[2] = code(cx.operate(self.queue, group, Op::Pop).await),
            2 => cx.submit(self.queue, group, Op::Push(draw & 0xffff)),
            _ => cx.done(self.queue),
        }
        match draw >> 8 & 7 {
            0 => record[3] ^= code(cx.custom(self.mix, group, 0, draw).await),
            1 => cx.submit(self.mix.id(), group, Op::Custom(0, ValueBytes::of(&draw))),
            2 => record[3] ^= code(cx.custom(self.mix, group, 1, draw).await),
            _ => cx.done(self.mix.id()),
        }
    }

    /// Reads what others wrote on the board, and sometimes writes there or wipes it.
    async fn note<C: Context>(&self, cx: &C, draw: u64, record: &mut [u64; RECORD_WORDS]) {
        let key = ObjectKey::number((draw >> 33) % NOTES);
        record[4] = record[4].rotate_left(3) ^ cx.read(self.board, &key).unwrap_or(1);
        match draw >> 61 {
            0 => cx.replicate(self.board, key, draw & 0xffff),
            1 => cx.replicate(self.board, key, 0),
            2 => {
                let set = Op::Set(ValueBytes::of(&(draw & 0xff)));
                record[4] ^= code(cx.operate(self.board.id(), key, set).await);
            }
            _ => cx.done(self.board.id()),
        }
    }

    /// Takes a desk, keeps the one held, or gives it back.
    async fn sit<C: Context>(&self, cx: &C, draw: u64, record: &mut [u64; RECORD_WORDS]) {
        let group = draw >> 20 & 1;
        if record[LEFT] != 0 && draw >> 57 & 3 == 0 {
            // It is another's by now, or nobody's.
            cx.release(self.desks, record[LEFT] & 1, (record[LEFT] >> 1) - 1, record[OWNER]);
        }
        if record[DESK] != 0 || draw >> 36 & 3 != 0 {
            cx.done(self.desks.id());
            if draw >> 38 & 7 == 0 {
                self.leave(cx, record);
            }
            return;
        }
        record[LEFT] = 0;
        match cx.acquire(self.desks, group).await {
            Some(desk) => {
                record[DESK] = (desk + 1) << 1 | group;
                record[OWNER] = cx.position().clock.0;
            }
            None => record[OWNER] = 1 << 43,
        }
    }

    fn leave<C: Context>(&self, cx: &C, record: &mut [u64; RECORD_WORDS]) {
        if record[DESK] != 0 {
            cx.release(self.desks, record[DESK] & 1, (record[DESK] >> 1) - 1, record[OWNER]);
            record[LEFT] = std::mem::take(&mut record[DESK]);
        }
    }

    /// Sends packets of its own: the packet again, with another identification.
    fn multiply<C: Context>(&self, cx: &C, draw: u64, at: usize) {
        let most = match draw >> 41 & 15 {
            0 => 2,
            1 | 2 => 1,
            _ => 0,
        };
        for n in 0..most {
            let mut frame = cx.header(<[u8]>::to_vec);
            frame[at + 1] ^= 1 + n;
            let (output, direction) = (draw >> (45 + n) & 1 == 0, cx.identity().direction);
            let direction = if draw >> 55 & 1 == 0 { direction } else { direction.reverse() };
            cx.emit(if output { Output::FIRST } else { self.aside }, direction, &frame);
        }
    }

    fn timers<C: Context>(&self, cx: &C, draw: u64) {
        for index in 0..2 {
            let bits = draw >> (11 + 4 * index) & 15;
            match bits {
                0..4 => {
                    cx.arm(self.talk, index, cx.now() + self.delay * (1 + bits as u32), draw >> 24 & 1 == 0)
                }
                4 => cx.disarm(self.talk, index),
                _ => {}
            }
        }
    }

    fn report<C: Context>(&self, cx: &C, value: u64) {
        let identity = cx.identity();
        let kind = EventKind::Alert { signature: "probe", category: "observed", severity: value as u8 };
        cx.event(Event { kind, key: identity.key, direction: identity.direction });
    }
}

fn number(value: OpValue) -> Option<u64> {
    match value {
        OpValue::Int(value) => Some(value as u64),
        _ => None,
    }
}

fn code(value: OpValue) -> u64 {
    match value {
        OpValue::Int(value) => value as u64,
        OpValue::Empty => 1 << 40,
        OpValue::Bytes(_) => 1 << 41,
        OpValue::Refused(_) => 1 << 42,
    }
}

fn scramble(value: u64) -> u64 {
    let value = (value ^ (value >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
    value ^ (value >> 29)
}

impl NetworkFunction for Probe {
    async fn packet<C: Context>(&self, cx: C) -> Verdict {
        let parsed = cx.parsed();
        cx.count(self.seen, 1);
        let at = usize::from(parsed.outer_l3) + 4;
        let id = cx.header(|header| header.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]])));
        let (Some(id), true) = (id, parsed.is(PacketKind::IPV4)) else {
            cx.count(self.strange, 3);
            cx.count(self.strange, 1);
            return Verdict::Forward;
        };
        let draw = scramble(u64::from(id) << 20 | cx.position().clock.0 & 0xfffff);
        let mut record = cx.get(self.talk).unwrap_or_default();
        record[0] += 1;
        record[4] ^= cx.attached::<Tag>().map_or(0, |tag| tag.0);
        if draw >> 47 & 15 == 0 {
            cx.pause(Duration::from_micros(1 + draw % 100)).await;
        }
        let observed = self.observe(&cx, draw).await;
        if let Some(value) = observed {
            record[4] = record[4].rotate_left(5) ^ value;
        }
        self.ordered(&cx, draw, &mut record).await;
        self.note(&cx, draw, &mut record).await;
        self.sit(&cx, draw, &mut record).await;
        if draw >> 59 & 7 == 0 {
            record[4] ^= cx.total(self.seen).await << 7;
        }
        if draw >> 28 & 15 == 0 {
            self.leave(&cx, &mut record);
            cx.remove(self.talk);
            self.report(&cx, record[1]);
        } else {
            cx.put(self.talk, record);
            self.timers(&cx, draw);
        }
        if let Some(value) = observed {
            cx.rewrite(|header| header[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes()));
            self.report(&cx, value);
        }
        self.multiply(&cx, draw, at);
        if draw >> 51 & 7 == 0 {
            cx.attach(Tag(draw));
        }
        match draw >> 32 & 31 {
            0 => Verdict::Drop("probe"),
            1..8 => Verdict::Send(self.aside),
            _ => Verdict::Forward,
        }
    }

    async fn timer<C: Context>(&self, cx: C, timer: TimerEvent) {
        let Some(mut record) = cx.get(self.talk) else { return };
        let draw = scramble(cx.position().clock.0 ^ record[0] << 32 ^ u64::from(timer.index));
        let index = timer.index;
        if cx.armed(self.talk, index).is_some() {
            self.report(&cx, 200);
        }
        cx.count(self.seen, 1);
        if draw & 3 == 0 {
            let value = code(cx.operate(self.ticket, ObjectKey::GLOBAL, Op::Increment(1)).await);
            record[4] = record[4].rotate_left(5) ^ value;
        }
        let group = ObjectKey::number(draw >> 2 & 1);
        match draw >> 3 & 3 {
            0 | 1 => record[3] ^= code(cx.custom(self.mix, group, 0, draw).await),
            2 => cx.submit(self.mix.id(), group, Op::Custom(0, ValueBytes::of(&draw))),
            _ => cx.done(self.mix.id()),
        }
        self.note(&cx, draw, &mut record).await;
        record[2] = record[2].wrapping_add(1);
        if draw >> 13 & 1 == 0 || draw >> 5 & 7 == 0 {
            self.leave(&cx, &mut record);
        }
        if draw >> 5 & 7 == 0 {
            cx.remove(self.talk);
        } else {
            cx.put(self.talk, record);
            if draw >> 8 & 3 == 0 {
                cx.arm(self.talk, index, cx.now() + self.delay, true);
            }
            if draw >> 10 & 7 == 0 {
                cx.arm(self.talk, 1 - index, cx.now() + self.delay * 2, false);
            }
        }
        self.report(&cx, record[3]);
    }
}
