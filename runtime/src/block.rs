//! Packet blocks: how packets travel through a chain.
//!
//! A block holds up to 256 packets for one receiver: descriptors, and whatever bytes and metadata the
//! sender made for them. Bytes and metadata that came from upstream are not copied but referred to in
//! the block they lie in, a *parent*, which the block keeps alive. So a payload is copied once, at
//! ingest, or stays in the buffer of the interface it came by, which the block keeps; a function that rewrites headers copies only those; and forwarding unchanged copies a
//! descriptor of 48 bytes. A block that was sent is immutable: whoever retained it, holds what it saw.
//!
//! Reference counts, allocation and release are per block, not per packet. Blocks are recycled, so
//! after warm-up nothing is allocated for a packet. Memory: what the root's window and the retained
//! outputs hold, plus at most [`SPARE_BLOCKS`] spare blocks of each of two kinds; a new block has room for as
//! many packets as the one before it held, for an idle chain's have one.

use crate::io::Frame;
use crate::io::netmap::Loans;
use chc_api::packet::link::LinkType;
use chc_api::packet::parse::{PacketKind, Parsed};
use chc_api::packet::protocol;
use chc_api::state::ValueBytes;
use chc_api::{Clock, Event, Path, Position, Side, Slot, Time};
use parking_lot::Mutex;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use triomphe::UniqueArc;

/// Most packets in a block.
pub const BLOCK_PACKETS_MAX: usize = 256;
/// A block takes no further packet once it holds this many bytes of its own.
pub const BLOCK_BYTES_SOFT_MAX: usize = 256 * 1024;
/// A payload of at least this many bytes stays in its buffer, if it can: to copy fewer costs less than to change buffers.
const KEEP_BYTES_MIN: usize = 256;
/// Set in where a payload is when it stays in its buffer: then the rest is which of the block's loans it is.
const KEPT: u32 = 1 << 31;
/// Header regions up to this length are copied at a fixed length.
const HEAD_CHUNK: usize = 64;
/// Spare blocks that are kept for reuse.
const SPARE_BLOCKS: usize = 128;
/// Bytes a spare block may keep reserved: what a full block of ordinary packets needs, so that it need
/// not be mapped again for the next one.
const SPARE_BYTES_MAX: usize = BLOCK_BYTES_SOFT_MAX + 64 * 1024;
/// Blocks with this much room for bytes hold payloads; such that hold headers alone, need less.
const LARGE_BYTES_MIN: usize = BLOCK_PACKETS_MAX * 128;

/// What is known of a packet once it was parsed.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Its headers and identity.
    pub parsed: Parsed,
    /// Link type of the frame.
    pub link: LinkType,
    /// Packet time.
    pub time: Time,
    /// Arrival time as captured; differs from the packet time when captures run backwards.
    pub captured: Time,
    /// 1-based number of the input packet.
    pub number: u64,
    /// Where it comes from: it leaves by the other side, where sides are all there is to go by.
    pub side: Side,
    /// What is attached to the packet: 1 more than its place among the attachments of the block this lies in,
    /// 0 for nothing. Set by the builder.
    attachment: u16,
}

/// Something typed that a network function attached to a packet: its name and its bytes.
pub type Attached = (&'static str, ValueBytes);

impl Meta {
    /// Metadata of a packet that nothing is attached to.
    #[inline(always)]
    #[must_use]
    pub fn new(parsed: Parsed, link: LinkType, time: Time, captured: Time, number: u64) -> Self {
        Self { parsed, link, time, captured, number, side: Side::Inside, attachment: 0 }
    }

    /// The same of a packet that comes from a side.
    #[inline(always)]
    #[must_use]
    pub fn from_side(self, side: Side) -> Self {
        Self { side, ..self }
    }
}

/// A packet's descriptor. Sources are 0 for the block itself and `i + 1` for its parent `i`.
#[derive(Clone, Copy, Debug)]
pub struct Desc {
    /// The root's stamp.
    pub clock: Clock,
    /// Seeded hash of the identity.
    pub hash: u64,
    /// Which packet of that clock.
    pub path: Path,
    /// Length on the wire, in bytes.
    pub wire_len: u32,
    head_at: u32,
    tail_at: u32,
    tail_len: u32,
    head_len: u16,
    head_source: u16,
    tail_source: u16,
    meta_source: u16,
    meta_at: u16,
    /// TCP flags, 0 for other protocols.
    pub tcp_flags: u8,
    /// [`Desc::TCP`], [`Desc::ICMP_ERROR`], [`Desc::PAYLOAD`].
    pub bits: u8,
}

impl Desc {
    /// A TCP segment with flags.
    pub const TCP: u8 = 1;
    /// An ICMP error.
    pub const ICMP_ERROR: u8 = 2;
    /// Something follows the transport header.
    pub const PAYLOAD: u8 = 4;

    /// The bits of a packet that was parsed from this frame.
    #[inline]
    #[must_use]
    pub fn bits_of(parsed: &Parsed, frame: &[u8]) -> u8 {
        let tcp = parsed.protocol == protocol::TCP && parsed.is(PacketKind::HAS_L4);
        let error = parsed.is(PacketKind::ICMP_ERROR);
        let bit = |is: bool, bit: u8| if is { bit } else { 0 };
        let payload = !parsed.payload_range(frame).is_empty();
        bit(tcp, Self::TCP) | bit(error, Self::ICMP_ERROR) | bit(payload, Self::PAYLOAD)
    }

    /// The packet's position.
    #[must_use]
    pub fn position(&self) -> Position {
        Position::packet(self.clock, self.path)
    }
}

/// An event on its way to the egress.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EventRecord {
    /// What caused it.
    pub position: Position,
    /// Events of one position are numbered from 0.
    pub index: u16,
    /// Packet time.
    pub time: Time,
    /// 1-based number of the input packet that caused it, 0 if none did.
    pub number: u64,
    /// The event.
    pub event: Event,
}

/// A packet that ended at a vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropRecord {
    /// The packet.
    pub position: Position,
    /// Why.
    pub reason: &'static str,
}

/// Packets for one receiver.
#[derive(Default)]
pub struct Block {
    serial: u64,
    highest: Clock,
    /// The packets, in the order they were sent.
    pub descs: Vec<Desc>,
    /// Of each packet its slot at the receiver, where the sender had to know it to find the receiver.
    slots: Vec<Slot>,
    /// Events (for the egress only).
    pub events: Vec<EventRecord>,
    /// Packets that ended at the sender (for the egress only).
    pub drops: Vec<DropRecord>,
    metas: Vec<Meta>,
    attachments: Vec<Attached>,
    bytes: Vec<u8>,
    /// Payloads that are not in `bytes`.
    loans: Loans,
    parents: Vec<BlockRef>,
    /// Where it goes when it is not needed any more; none while it is there.
    home: Option<Arc<BlockPool>>,
}

impl Block {
    #[inline]
    fn source(&self, source: u16) -> &Block {
        match source.checked_sub(1) {
            None => self,
            Some(parent) => &self.parents[usize::from(parent)],
        }
    }

    /// The header region of a packet.
    #[inline]
    #[must_use]
    pub fn head(&self, desc: &Desc) -> &[u8] {
        let at = desc.head_at as usize;
        &self.source(desc.head_source).bytes[at..at + usize::from(desc.head_len)]
    }

    /// What follows the header region.
    #[must_use]
    pub fn tail(&self, desc: &Desc) -> &[u8] {
        let (source, at) = (self.source(desc.tail_source), desc.tail_at as usize);
        if desc.tail_at & KEPT != 0 {
            return source.loans.bytes((desc.tail_at & !KEPT) as usize);
        }
        &source.bytes[at..at + desc.tail_len as usize]
    }

    /// A packet's metadata.
    #[inline]
    #[must_use]
    pub fn meta(&self, desc: &Desc) -> &Meta {
        &self.source(desc.meta_source).metas[usize::from(desc.meta_at)]
    }

    /// What is attached to a packet.
    #[must_use]
    pub fn attached(&self, desc: &Desc) -> Option<Attached> {
        let source = self.source(desc.meta_source);
        let at = source.metas[usize::from(desc.meta_at)].attachment.checked_sub(1)?;
        source.attachments.get(usize::from(at)).copied()
    }

    /// The slot of a packet among those of its receiver's vertex, if the sender worked it out.
    #[inline]
    #[must_use]
    pub fn slot(&self, at: usize) -> Option<Slot> {
        self.slots.get(at).copied()
    }

    /// The highest clock in it, of packets, events and drops.
    #[must_use]
    pub fn highest(&self) -> Clock {
        self.highest
    }
}

/// A shared, immutable block. The last reference to go gives it back to its pool.
#[derive(Clone)]
pub struct BlockRef(Option<triomphe::Arc<Block>>);

impl Deref for BlockRef {
    type Target = Block;

    fn deref(&self) -> &Block {
        self.0.as_ref().expect("set until dropped")
    }
}

impl Drop for BlockRef {
    fn drop(&mut self) {
        // Of several that are dropped at once on several threads, none may find itself the last: then the block is
        // freed.
        let last = self.0.take().and_then(|block| triomphe::Arc::try_unique(block).ok());
        if let Some(mut block) = last
            && let Some(home) = block.home.take()
        {
            home.put(block);
        }
    }
}

impl std::fmt::Debug for BlockRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "block of {} packets", self.descs.len())
    }
}

/// Blocks for reuse. A chain has one pool: blocks of different pools must not meet in one builder, for
/// they are told apart by a number that is unique within a pool.
#[derive(Default)]
pub struct BlockPool {
    spare: Mutex<Spare>,
    serials: AtomicU64,
}

/// Spare blocks, the last to come back on top: its memory is most likely in a cache. Those with room for
/// payloads are apart, for otherwise each would serve for headers at times, and payloads were spread over the
/// memory of all.
#[derive(Default)]
struct Spare {
    small: Vec<UniqueArc<Block>>,
    large: Vec<UniqueArc<Block>>,
}

impl Spare {
    fn of(&mut self, large: bool) -> &mut Vec<UniqueArc<Block>> {
        if large { &mut self.large } else { &mut self.small }
    }
}

impl BlockPool {
    /// An empty pool.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A block with room for payloads or headers; a new one has room for so many packets.
    fn take(self: &Arc<Self>, large: bool, packets: usize) -> UniqueArc<Block> {
        let spare = self.spare.lock().of(large).pop();
        let mut block = spare.unwrap_or_else(|| {
            UniqueArc::new(Block { descs: Vec::with_capacity(packets), ..Block::default() })
        });
        block.serial = self.serials.fetch_add(1, Ordering::Relaxed);
        block.home = Some(self.clone());
        block
    }

    fn put(&self, mut block: UniqueArc<Block>) {
        block.highest = Clock(0);
        block.descs.clear();
        block.slots.clear();
        block.events.clear();
        block.drops.clear();
        block.metas.clear();
        block.attachments.clear();
        block.bytes.clear();
        block.bytes.shrink_to(SPARE_BYTES_MAX);
        block.loans.clear();
        // Parents go outside the lock: dropping them may give blocks back to this pool.
        block.parents.clear();
        let large = block.bytes.capacity() >= LARGE_BYTES_MIN;
        let mut spare = self.spare.lock();
        let spare = spare.of(large);
        if spare.len() < SPARE_BLOCKS {
            spare.push(block);
        }
    }
}

/// How packets of one source block refer to it in the block being built.
struct SourceMap {
    serial: u64,
    /// For each source of the source block: the source in the block being built, or `UNMAPPED`.
    sources: Vec<u16>,
}

const UNMAPPED: u16 = u16::MAX;

/// Builds a block. One builder serves a receiver for good; [`BlockBuilder::finish`] starts the next
/// block.
pub struct BlockBuilder {
    pool: Arc<BlockPool>,
    block: UniqueArc<Block>,
    maps: Vec<SourceMap>,
    maps_used: usize,
}

impl BlockBuilder {
    /// A builder that takes its blocks from `pool`.
    #[must_use]
    pub fn new(pool: Arc<BlockPool>) -> Self {
        Self { block: pool.take(false, 0), pool, maps: Vec::new(), maps_used: 0 }
    }

    /// Packets so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.block.descs.len()
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.block.descs.is_empty() && self.block.events.is_empty() && self.block.drops.is_empty()
    }

    /// Whether the block should be sent before anything else is added.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.block.descs.len() >= BLOCK_PACKETS_MAX
            || self.block.bytes.len() >= BLOCK_BYTES_SOFT_MAX
            || self.block.parents.len() >= usize::from(u16::MAX) - 4
    }

    /// Adds a packet as it came in. `head_len` bytes of `frame` become its header region, which is copied; a long payload stays
    /// where it is, if it can, and is taken out of `frame`.
    // Inlined so that what the root has just computed stays in registers: written to the stack in small
    // pieces and read back in large ones, it would stall every packet.
    #[inline(always)]
    pub fn ingest(
        &mut self,
        frame: &mut Frame<'_>,
        head_len: usize,
        desc: Ingest,
        meta: impl FnMut() -> Meta,
    ) {
        let block = &mut *self.block;
        let at = block.bytes.len();
        let head_len = head_len.min(frame.len()).min(usize::from(u16::MAX));
        let tail_len = frame.len() - head_len;
        let mut tail_at = (at + head_len) as u32;
        match frame {
            Frame::InRing(frame) if tail_len >= KEEP_BYTES_MIN => {
                let kept = KEPT | block.loans.len() as u32;
                block.bytes.extend_from_slice(&frame[..head_len]);
                if frame.keep(head_len, &mut block.loans) {
                    tail_at = kept;
                } else {
                    block.bytes.extend_from_slice(&frame[head_len..]);
                }
            }
            frame => block.bytes.extend_from_slice(frame),
        }
        block.highest = block.highest.max(desc.clock);
        // Made where it stays: copied there from the stack, it would be read back before its pieces have reached the cache.
        let meta_at = block.metas.len();
        block.metas.resize_with(meta_at + 1, meta);
        block.descs.push(Desc {
            clock: desc.clock,
            hash: desc.hash,
            path: desc.path,
            wire_len: desc.wire_len,
            head_at: at as u32,
            head_len: head_len as u16,
            head_source: 0,
            tail_at,
            tail_len: tail_len as u32,
            tail_source: 0,
            meta_source: 0,
            meta_at: meta_at as u16,
            tcp_flags: block.metas[meta_at].parsed.tcp_flags,
            bits: desc.bits,
        });
    }

    /// Adds packet `desc` of `from`, unchanged.
    #[inline(always)]
    pub fn forward(&mut self, from: &BlockRef, desc: &Desc) {
        let map = self.map(from);
        let head_source = self.source(map, from, desc.head_source);
        let meta_source = if desc.meta_source == desc.head_source {
            head_source
        } else {
            self.source(map, from, desc.meta_source)
        };
        let (tail_source, tail_at) = match desc.tail_len {
            0 => (head_source, 0),
            _ => (self.source(map, from, desc.tail_source), desc.tail_at),
        };
        let new = self.copy(desc);
        new.head_source = head_source;
        new.meta_source = meta_source;
        new.tail_source = tail_source;
        new.tail_at = tail_at;
    }

    /// Adds a copy of packet `desc` of `from`: the same under a name of its own, or with another header region of the same
    /// length.
    #[inline]
    pub fn forward_copy(&mut self, from: &BlockRef, desc: &Desc, path: Path, head: Option<&[u8]>) {
        match head {
            Some(head) => {
                let at = self.block.bytes.len() as u32;
                self.block.bytes.extend_from_slice(head);
                self.forward_rewritten(from, desc, at);
            }
            None => self.forward(from, desc),
        }
        if let Some(copy) = self.block.descs.last_mut() {
            copy.path = path;
        }
    }

    /// Adds a copy of a descriptor, to be changed in its place: put together first and then moved, it
    /// would be read back before its pieces have reached the cache, which stalls every packet.
    #[inline(always)]
    fn copy(&mut self, desc: &Desc) -> &mut Desc {
        let block = &mut *self.block;
        block.highest = block.highest.max(desc.clock);
        let at = block.descs.len();
        block.descs.push(*desc);
        &mut block.descs[at]
    }

    /// Adds packet `desc` of `from` under the name `path`, with what is changed of it.
    #[inline]
    pub fn forward_changed(&mut self, from: &BlockRef, desc: &Desc, path: Path, changed: &Changed<'_>) {
        let map = self.map(from);
        let head_source = match changed.head {
            Some(_) => 0,
            None => self.source(map, from, desc.head_source),
        };
        let (tail_source, tail_at) = match desc.tail_len {
            0 => (head_source, 0),
            _ => (self.source(map, from, desc.tail_source), desc.tail_at),
        };
        let meta_source = if changed.meta.is_some() { 0 } else { self.source(map, from, desc.meta_source) };
        let (head_at, meta_at) = (self.block.bytes.len() as u32, self.block.metas.len() as u16);
        if let Some(head) = changed.head {
            self.block.bytes.extend_from_slice(head);
        }
        if let Some((meta, attached, _)) = &changed.meta {
            let attachments = &mut self.block.attachments;
            attachments.extend(*attached);
            let attachment = if attached.is_some() { attachments.len() as u16 } else { 0 };
            self.block.metas.push(Meta { attachment, ..*meta });
        }
        let new = self.copy(desc);
        new.path = path;
        new.head_source = head_source;
        if let Some(head) = changed.head {
            new.head_at = head_at;
            new.head_len = head.len() as u16;
        }
        new.tail_source = tail_source;
        new.tail_at = tail_at;
        new.meta_source = meta_source;
        if let Some((_, _, hash)) = changed.meta {
            new.meta_at = meta_at;
            new.hash = hash;
        }
    }

    /// Begins a packet with a header region of its own, a copy of that of packet `desc` of `from` with what
    /// `change` makes of it. Returns where it begins, for [`Self::forward_rewritten`], which must follow, or
    /// [`Self::undo_rewrite`].
    #[inline(always)]
    pub fn rewrite(&mut self, from: &BlockRef, desc: &Desc, change: impl FnOnce(&mut [u8])) -> u32 {
        let (at, len) = (self.block.bytes.len(), usize::from(desc.head_len));
        let bytes = &from.source(desc.head_source).bytes[desc.head_at as usize..];
        // A copy of fixed length is a few instructions, one of any length a call.
        match bytes.first_chunk::<HEAD_CHUNK>().filter(|_| len <= HEAD_CHUNK) {
            Some(chunk) => {
                self.block.bytes.extend_from_slice(chunk);
                self.block.bytes.truncate(at + len);
            }
            None => self.block.bytes.extend_from_slice(&bytes[..len]),
        }
        change(&mut self.block.bytes[at..]);
        at as u32
    }

    /// Takes back the header region that begins at `at`.
    pub fn undo_rewrite(&mut self, at: u32) {
        self.block.bytes.truncate(at as usize);
    }

    /// The header region that was begun last.
    #[must_use]
    pub fn rewritten(&self, at: u32) -> &[u8] {
        &self.block.bytes[at as usize..]
    }

    /// Adds packet `desc` of `from` with the header region that begins at `at`.
    #[inline(always)]
    pub fn forward_rewritten(&mut self, from: &BlockRef, desc: &Desc, at: u32) {
        let map = self.map(from);
        let (tail_source, tail_at) = match desc.tail_len {
            0 => (0, 0),
            _ => (self.source(map, from, desc.tail_source), desc.tail_at),
        };
        let meta_source = self.source(map, from, desc.meta_source);
        let new = self.copy(desc);
        new.head_at = at;
        new.head_source = 0;
        new.tail_source = tail_source;
        new.tail_at = tail_at;
        new.meta_source = meta_source;
    }

    /// Notes the slot of the packet added last, among those of the receiver's vertex: of all packets of a block, or of
    /// none.
    #[inline(always)]
    pub fn slot(&mut self, slot: Option<Slot>) {
        if let Some(slot) = slot {
            self.block.slots.push(slot);
        }
    }

    /// Adds an event.
    pub fn event(&mut self, event: EventRecord) {
        self.block.highest = self.block.highest.max(event.position.clock);
        self.block.events.push(event);
    }

    /// Notes a packet that ended here.
    pub fn dropped(&mut self, record: DropRecord) {
        self.block.highest = self.block.highest.max(record.position.clock);
        self.block.drops.push(record);
    }

    /// The block, if anything was added; the next addition begins another.
    pub fn finish(&mut self) -> Option<BlockRef> {
        if self.is_empty() {
            return None;
        }
        debug_assert!([0, self.block.descs.len()].contains(&self.block.slots.len()), "one of each, or none");
        self.maps_used = 0;
        // What comes next will most likely be like what was last.
        let large = self.block.bytes.capacity() >= LARGE_BYTES_MIN;
        let packets = self.block.descs.len();
        let block = std::mem::replace(&mut self.block, self.pool.take(large, packets));
        Some(BlockRef(Some(block.shareable())))
    }

    /// Index of the source map of `from`.
    #[inline]
    fn map(&mut self, from: &BlockRef) -> usize {
        let used = self.maps_used;
        if used > 0 && self.maps[used - 1].serial == from.serial {
            return used - 1;
        }
        self.map_slow(from)
    }

    #[cold]
    fn map_slow(&mut self, from: &BlockRef) -> usize {
        if let Some(at) = self.maps[..self.maps_used].iter().position(|m| m.serial == from.serial) {
            return at;
        }
        let at = self.maps_used;
        if at == self.maps.len() {
            self.maps.push(SourceMap { serial: 0, sources: Vec::new() });
        }
        let map = &mut self.maps[at];
        map.serial = from.serial;
        map.sources.clear();
        map.sources.resize(from.parents.len() + 1, UNMAPPED);
        self.maps_used += 1;
        at
    }

    #[inline]
    fn source(&mut self, map: usize, from: &BlockRef, source: u16) -> u16 {
        let known = self.maps[map].sources[usize::from(source)];
        if known == UNMAPPED { self.adopt(map, from, source) } else { known }
    }

    #[cold]
    fn adopt(&mut self, map: usize, from: &BlockRef, source: u16) -> u16 {
        let parent = match source.checked_sub(1) {
            None => from.clone(),
            Some(at) => from.parents[usize::from(at)].clone(),
        };
        let block = &mut *self.block;
        // The same block may come as itself and as another block's parent: once is enough.
        let at = block.parents.iter().position(|p| p.serial == parent.serial).unwrap_or_else(|| {
            block.parents.push(parent);
            block.parents.len() - 1
        });
        let adopted = at as u16 + 1;
        self.maps[map].sources[usize::from(source)] = adopted;
        adopted
    }
}

/// What a network function changed of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changed<'a> {
    /// Its header region.
    pub head: Option<&'a [u8]>,
    /// Its metadata, what is attached to it, and the hash of its identity.
    pub meta: Option<(Meta, Option<Attached>, u64)>,
}

/// What the root decides of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Ingest {
    /// Its stamp.
    pub clock: Clock,
    /// Which packet of that clock.
    pub path: Path,
    /// Hash of its identity.
    pub hash: u64,
    /// Length on the wire, in bytes.
    pub wire_len: u32,
    /// [`Desc::TCP`] and the like.
    pub bits: u8,
}

#[cfg(test)]
mod tests {
    use super::*;
    use chc_api::packet::parse::parse;

    fn ingest(builder: &mut BlockBuilder, clock: u64, frame: &[u8], head_len: usize) {
        let parsed = parse(LinkType::ETHERNET, frame);
        let time = Time(clock);
        let meta = Meta::new(parsed, LinkType::ETHERNET, time, time, clock + 1);
        let wire_len = frame.len() as u32;
        let ingest = Ingest { clock: Clock(clock), path: Path::FIRST, hash: clock, wire_len, bits: 0 };
        builder.ingest(&mut frame.into(), head_len, ingest, || meta);
    }

    fn whole(block: &Block, at: usize) -> Vec<u8> {
        let desc = &block.descs[at];
        [block.head(desc), block.tail(desc)].concat()
    }

    #[test]
    fn blocks_of_one_packet_take_no_room_for_many() {
        let mut builder = BlockBuilder::new(BlockPool::new());
        let blocks: Vec<BlockRef> = (0..10)
            .map(|clock| {
                ingest(&mut builder, clock, &[0; 60], 20);
                builder.finish().unwrap()
            })
            .collect();
        assert!(blocks.iter().all(|block| block.descs.capacity() <= 8 && block.bytes.capacity() <= 512));
    }

    #[test]
    fn payloads_are_shared_and_headers_are_not() {
        let pool = BlockPool::new();
        let mut root = BlockBuilder::new(pool.clone());
        for clock in 0..3 {
            ingest(&mut root, clock, &[clock as u8; 40], 10);
        }
        let first = root.finish().unwrap();
        let mut nat = BlockBuilder::new(pool.clone());
        let changed = Changed { head: Some(&[9; 10]), meta: None };
        nat.forward_changed(&first, &first.descs[1], Path::FIRST, &changed);
        nat.forward(&first, &first.descs[2]);
        let second = nat.finish().unwrap();
        let mut next = BlockBuilder::new(pool);
        next.forward(&second, &second.descs[1]);
        next.forward(&second, &second.descs[0]);
        next.forward(&first, &first.descs[0]);
        let third = next.finish().unwrap();
        let expect = first.clone();
        drop((first, second));
        assert_eq!(whole(&third, 0), [2; 40]);
        assert_eq!(whole(&third, 1), [[9; 10].as_slice(), &[1; 30]].concat());
        assert_eq!(whole(&third, 2), [0; 40]);
        assert_eq!(whole(&expect, 1), [1; 40], "who retained the packet still holds what it saw");
        assert_eq!(third.meta(&third.descs[1]).number, 2);
        assert_eq!(third.parents.len(), 2, "each block is kept once");
    }

    #[test]
    fn a_block_returns_to_its_pool_when_the_last_reference_goes() {
        let pool = BlockPool::new();
        let mut builder = BlockBuilder::new(pool.clone());
        ingest(&mut builder, 0, &[1; 20], 20);
        let block = builder.finish().unwrap();
        let child = {
            let mut next = BlockBuilder::new(pool.clone());
            next.forward(&block, &block.descs[0]);
            next.finish().unwrap()
        };
        drop(block);
        assert_eq!(pool.spare.lock().small.len(), 0, "the child still needs it");
        drop(child);
        assert_eq!(pool.spare.lock().small.len(), 2);
    }
}
