//! The network-function interface.
//!
//! A network function is plain `async` code that handles one packet or one timer at a time through a
//! [`Context`]. It never sees threads, sockets, the wall clock or another instance. An `.await`
//! suspends only that packet: packets of the same flow wait behind it in order, others go on. On the
//! hot path nothing suspends.
//!
//! Everything a function keeps must be in declared state objects; its own fields are configuration.
//! It must be deterministic: the same packet and the same state always give the same outputs, for a
//! recovered instance runs packets again.

use crate::event::Event;
use crate::identity::{Direction, FlowKey, Identity};
use crate::ids::{ObjectId, Slot};
use crate::packet::parse::Parsed;
use crate::position::Position;
use crate::state::{
    Counter, Flow, ObjectKey, Op, OpValue, Output, Plain, Pool, Replicated, Shared, ValueBytes,
};
use crate::time::Time;
use std::future::Future;
use std::time::Duration;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on by the vertex's first output.
    Forward,
    /// It goes on by one of the outputs the function declared.
    Send(Output),
    /// It is dropped, for a named reason that is counted.
    Drop(&'static str),
}

/// Something typed that a function attaches to a packet for functions further down the chain, at most
/// [`crate::state::VALUE_LEN_MAX`] bytes. A packet has one at a time; copies have it, too.
pub trait Attachment: Plain {
    /// Its name, unique in a chain: who asks for another type than was attached gets nothing.
    const NAME: &'static str;
}

/// A timer that became due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerEvent {
    /// The object whose record it belongs to.
    pub object: ObjectId,
    /// Which of the record's timers.
    pub index: u8,
}

/// Whose packet it is, asked before the packet runs, of functions that translate addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The identity it carries is right.
    Known,
    /// It belongs to this connection, found in the translation table.
    Translated(Identity),
    /// It is for the translator but nothing is translated to that address now.
    Unmapped,
}

/// Secondary look-ups in per-flow records of the instance.
pub trait FlowLookup {
    /// The connection whose record has this secondary key.
    fn find<T: Plain>(&self, object: Flow<T>, index: u64) -> Option<FlowKey>;
}

/// A network function. One value serves one instance; it holds configuration and handles only.
pub trait NetworkFunction: Sized + Send + Sync + 'static {
    /// Handles one packet.
    fn packet<C: Context>(&self, cx: C) -> impl Future<Output = Verdict>;

    /// Handles one packet without ever waiting, if it can: all of it, or nothing of it. With `None`
    /// nothing was done and [`Self::packet`] is called. What most packets need belongs here: it costs a
    /// call instead of a future. It is asked before [`Self::resolve`]: a function that translates must
    /// be sure that the packet belongs to the connection it seems to.
    fn at_once<C: Passing>(&self, cx: &mut C) -> Option<Verdict> {
        let _ = cx;
        None
    }

    /// Handles one timer of a per-flow record. The record and its identity are the context's.
    fn timer<C: Context>(&self, cx: C, timer: TimerEvent) -> impl Future<Output = ()> {
        let _ = (cx, timer);
        std::future::ready(())
    }

    /// Whether packets may arrive under an address this function gave out ([`Self::owner`],
    /// [`Self::resolve`]). Such a function handles the packets of one slot, or of one [`Self::lane`], in order.
    const TRANSLATES: bool = false;

    /// Whether most packets read a record of the first per-flow object: then the records of a burst are
    /// looked up together, which hides most of the cost of memory.
    const LOOKS_UP: bool = true;

    /// The slot that owns the external address a packet is sent to (or, for an ICMP error, quotes),
    /// when its header is not translated back yet.
    fn owner(&self, identity: &Identity) -> Option<Slot> {
        let _ = identity;
        None
    }

    /// The slot of a connection, and of what it was translated to, if it is not given by the hash of the whole
    /// connection: for functions that translate and have no say in how the translated connection hashes.
    fn connection_slot(&self, key: &FlowKey) -> Option<Slot> {
        let _ = key;
        None
    }

    /// What of a slot runs in order, in a function that translates: packets and timers of connections, and of what they
    /// were translated to, for which this is equal; `None`: all of the slot. [`Self::resolve`] finds, and handlers use,
    /// what is of the same lane alone.
    fn lane(&self, key: &FlowKey) -> Option<u64> {
        let _ = key;
        None
    }

    /// Whose packet this is; asked right before it runs.
    fn resolve<L: FlowLookup>(&self, identity: &Identity, records: &L) -> Resolution {
        let _ = (identity, records);
        Resolution::Known
    }

    /// Whether a packet can be forwarded without running [`Self::packet`]: a promise that it would
    /// touch no state and forward the packet unchanged. Asked of every packet, with what is at hand
    /// without touching it.
    fn passes(&self, hint: PacketHint) -> bool {
        let _ = hint;
        false
    }
}

/// What is known of a packet without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketHint {
    /// TCP flags of an unfragmented or first TCP segment, 0 otherwise.
    pub tcp_flags: u8,
    /// Whether it is a TCP segment that has flags.
    pub tcp: bool,
    /// Whether anything follows the transport header.
    pub payload: bool,
    /// Whether it is an ICMP error that quotes another packet.
    pub icmp_error: bool,
}

/// What a network function may do with a packet that it handles at once: read, count, and rewrite its
/// header. A function that has counted or rewritten has handled the packet.
pub trait Passing {
    /// Packet time.
    fn now(&self) -> Time;
    /// Identity of the packet's connection.
    fn identity(&self) -> Identity;
    /// What the parser found.
    fn parsed(&self) -> &Parsed;
    /// The header region; see [`Context::header`].
    fn header(&self) -> &[u8];
    /// What follows the transport header, as far as captured; `None` if it does not lie in one piece.
    fn payload(&self) -> Option<&[u8]>;
    /// Length of the packet on the wire, in bytes.
    fn wire_len(&self) -> u32;
    /// Reads this connection's record and when one of its timers is due.
    fn record<T: Plain>(&self, object: Flow<T>, timer: u8) -> Option<(T, Option<Time>)>;
    /// Reads a replicated value; see [`Context::read`].
    fn read<T: Plain>(&self, object: Replicated<T>, key: &ObjectKey) -> Option<T>;
    /// Adds to a counter, once for each counter.
    fn count(&mut self, counter: Counter, by: u64);
    /// Changes the header region, once. The packet gets a fresh one: whoever retained it keeps the old.
    fn rewrite(&mut self, change: impl FnOnce(&mut [u8]));
}

/// What a network function may do while it handles one packet or timer. Cheap to clone: a handle.
pub trait Context: Clone {
    /// Packet time.
    fn now(&self) -> Time;
    /// Position of this packet or timer.
    fn position(&self) -> Position;
    /// Identity of the packet's connection (of the record's, for a timer).
    fn identity(&self) -> Identity;
    /// What the parser found. All zero for a timer.
    fn parsed(&self) -> Parsed;

    /// Reads the header region: the first bytes of the frame, at least to the end of the innermost
    /// transport header and of a quoted packet, as far as captured.
    fn header<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R;
    /// Changes the header region. The packet gets a fresh one: whoever retained it keeps the old.
    fn rewrite<R>(&self, change: impl FnOnce(&mut [u8]) -> R) -> R;

    /// Reads up to `len_max` bytes of what follows the transport header, as far as captured; for an ICMP
    /// error or a packet without transport header nothing.
    fn payload<R>(&self, len_max: usize, read: impl FnOnce(&[u8]) -> R) -> R;
    /// Length of the packet on the wire, in bytes; 0 for a timer.
    fn wire_len(&self) -> u32;
    /// Sends a packet of the function's own: a whole frame with the same link type as the packet that is
    /// handled. It belongs to that packet's connection, travels in `direction` there, and follows it in the
    /// order. A function declares how many it sends at most
    /// ([`crate::state::Declarations::extra_packets`]). Timers send none.
    fn emit(&self, output: Output, direction: Direction, frame: &[u8]);
    /// Attaches something to the packet, in place of what was.
    fn attach<T: Attachment>(&self, value: T);
    /// What was attached to the packet, if it is of this type.
    fn attached<T: Attachment>(&self) -> Option<T>;
    /// Waits for as long on the wall clock: a slow function. It changes when packets are handled, nothing
    /// else; in the ideal chain it takes no time.
    fn pause(&self, duration: Duration) -> impl Future<Output = ()>;

    /// Reads this connection's record.
    fn get<T: Plain>(&self, object: Flow<T>) -> Option<T>;
    /// Writes this connection's record, creating it if need be.
    fn put<T: Plain>(&self, object: Flow<T>, value: T);
    /// Removes this connection's record with its timers.
    fn remove<T: Plain>(&self, object: Flow<T>);
    /// Reads the record of another key of the same slot and lane, such as what the connections of one endpoint have in common. Only
    /// for functions that handle those packets in order ([`NetworkFunction::TRANSLATES`]), with a key that
    /// [`NetworkFunction::connection_slot`] places there. Its timers are its own: none of this connection's.
    fn get_at<T: Plain>(&self, object: Flow<T>, key: &FlowKey) -> Option<T>;
    /// Writes the record of another key of the same slot; see [`Self::get_at`].
    fn put_at<T: Plain>(&self, object: Flow<T>, key: &FlowKey, value: T);
    /// Removes the record of another key of the same slot; see [`Self::get_at`].
    fn remove_at<T: Plain>(&self, object: Flow<T>, key: &FlowKey);
    /// Arms a timer of this connection's record, which must exist. A deadline that is not later than
    /// [`Self::now`] plus the declared minimum is moved there. With `at_end` the end of the input
    /// makes it due as well.
    fn arm<T: Plain>(&self, object: Flow<T>, index: u8, deadline: Time, at_end: bool);
    /// Disarms a timer of this connection's record.
    fn disarm<T: Plain>(&self, object: Flow<T>, index: u8);
    /// When a timer of this connection's record is due, if it is armed.
    fn armed<T: Plain>(&self, object: Flow<T>, index: u8) -> Option<Time>;

    /// Reads this connection's record and when one of its timers is due, in one look-up.
    fn get_with_timer<T: Plain>(&self, object: Flow<T>, index: u8) -> Option<(T, Option<Time>)> {
        self.get(object).map(|value| (value, self.armed(object, index)))
    }

    /// Reads a replicated value as it was a window of clocks ago, without waiting; `None` if it was the initial one.
    fn read<T: Plain>(&self, object: Replicated<T>, key: &ObjectKey) -> Option<T>;

    /// Adds to a counter; nobody waits.
    fn count(&self, counter: Counter, by: u64);
    /// Issues an operation on a cross-flow object and waits for its result.
    fn operate(&self, object: ObjectId, key: ObjectKey, op: Op) -> impl Future<Output = OpValue>;
    /// Issues an operation on a cross-flow object; nobody waits for it.
    fn submit(&self, object: ObjectId, key: ObjectKey, op: Op);
    /// Promises that this packet issues no further operation on the object.
    fn done(&self, object: ObjectId);

    /// Reports an event.
    fn event(&self, event: Event);

    /// Runs custom operation `op` of a cross-flow value and waits for its result.
    fn custom<T: Plain, A: Plain>(
        &self,
        object: Shared<T>,
        key: ObjectKey,
        op: u8,
        argument: A,
    ) -> impl Future<Output = OpValue> {
        self.operate(object.id(), key, Op::Custom(op, ValueBytes::of(&argument)))
    }

    /// Sets a replicated value, for packets from a window of clocks later on; nobody waits.
    fn replicate<T: Plain>(&self, object: Replicated<T>, key: ObjectKey, value: T) {
        self.submit(object.id(), key, Op::Set(ValueBytes::of(&value)));
    }

    /// Reads a counter: what packets added so far, in an order of the store's choice, this one's additions included.
    fn total(&self, counter: Counter) -> impl Future<Output = u64> {
        async move {
            let key = ObjectKey::number(u64::from(counter.cell()));
            match self.operate(counter.id(), key, Op::Get).await {
                OpValue::Int(total) => total as u64,
                _ => 0,
            }
        }
    }

    /// Takes a free member of pool `key`; `None` when none is free at this position.
    fn acquire(&self, pool: Pool, key: u64) -> impl Future<Output = Option<u64>> {
        self.acquire_near(pool, key, None)
    }

    /// Takes a free member of pool `key`, this one if it is free, else one that is even or odd like it, if there is one;
    /// `None` when none is free at this position.
    fn acquire_near(&self, pool: Pool, key: u64, near: Option<u64>) -> impl Future<Output = Option<u64>> {
        async move {
            match self.operate(pool.id(), ObjectKey::number(key), Op::Acquire(near)).await {
                OpValue::Int(member) => Some(member as u64),
                _ => None,
            }
        }
    }

    /// Gives a member back that the packet with clock `owner` acquired; nobody waits.
    fn release(&self, pool: Pool, key: u64, member: u64, owner: u64) {
        self.submit(pool.id(), ObjectKey::number(key), Op::Release { member, owner });
    }
}
