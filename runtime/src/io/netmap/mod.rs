//! netmap: frames lie in rings of memory shared with the kernel, and a system call hands over all there are.
//!
//! A port is all hardware rings of an interface, or its host rings, or one of a switch or a pipe in the kernel ([`port`] has
//! their names). While its hardware rings are open, the machine's own stack gets nothing of an interface. Frames are read
//! where they lie and their slots given back when the next ones are asked for; what is sent goes by the first ring, so that its
//! order is kept. Long frames are not copied: their buffers go from ring to ring ([`buffers`]), if the ports' memory is the
//! same, as interfaces' is.
//!
//! Needs netmap's kernel module (`/dev/netmap`). Interfaces without a driver for it work through its emulation, which brings
//! frames as the system has them and says nothing of them: with the sum of the pseudo-header alone for a checksum, and in
//! several slots where they are as long as senders and drivers make them for each other. They are made what a wire would carry:
//! checksums completed, TCP cut into segments as long as the interface's MTU allows. What the machine's own stack sends to host
//! rings netmap drops, if it is not complete: such an interface is refused until its offload is switched off. Overruns are what the
//! card says it has missed; its emulation and its switches do not count theirs.

mod buffers;
pub mod memory;
pub mod port;
mod ring;

use super::offload::{ETHERNET_LEN, Malformed, Offload, complete_unfinished, longer_than, unfinished};
use super::region::Region;
use super::socket::index_of;
use super::{Frame, Held, Interface, OpenError, Receive, RxCounters, Transmit, TxCounters};
use buffers::Buffers;
pub(crate) use buffers::Loans;
use netmap_sys::netmap::{
    NIOCREGIF, NIOCRXSYNC, NIOCTXSYNC, NR_EXCLUSIVE, NR_REG_ALL_NIC, NR_REG_SW, netmap_if, nmreq,
};
use port::Rings;
use ring::{Part, Ring, RingError};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::{offset_of, size_of};
use std::ops::{Deref, Range};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;

/// Where netmap is.
pub const DEVICE: &str = "/dev/netmap";
/// The version of the interface between user and kernel: older ones are refused.
const VERSION: u32 = 14;
/// Most rings of a port.
const RINGS_MAX: u32 = 1024;
/// What a frame is longer than the packet in it: an Ethernet header with a VLAN's tag.
const HEADER_LEN: u32 = 18;
/// Longest frame: what the system takes for one before it is cut.
const FRAME_LEN_MAX: usize = 1 << 16;
/// Bytes for copies that are kept from call to call.
const COPIES_SPARE: usize = 1 << 20;
/// The MTU of hosts that have not been told another one.
const MTU: u32 = 1500;
/// Spare buffers asked for with each port: what is in flight at once between its rings, and some to come and go.
const SPARE_BUFFERS: u32 = 4096;

/// Has the kernel look at what was given back and give more.
trait Syncs: Send {
    fn receive(&self) -> io::Result<()>;
    fn transmit(&self) -> io::Result<()>;
    fn descriptor(&self) -> io::Result<OwnedFd>;
}

impl Syncs for Arc<File> {
    fn receive(&self) -> io::Result<()> {
        sync(self, NIOCRXSYNC as libc::c_ulong)
    }

    fn transmit(&self) -> io::Result<()> {
        sync(self, NIOCTXSYNC as libc::c_ulong)
    }

    fn descriptor(&self) -> io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }
}

#[allow(unsafe_code)]
fn sync(file: &File, what: libc::c_ulong) -> io::Result<()> {
    // SAFETY: a call without pointers; what it changes is in the region, which is read as shared memory.
    match unsafe { libc::ioctl(file.as_raw_fd(), what as _) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Registers rings of a port, in a memory (0: the one the kernel has for it), with extra buffers. Gives the request back, as the
/// kernel has filled it in.
#[allow(unsafe_code)]
fn register(file: &File, (name, rings): (&str, Rings), memory: u16) -> io::Result<nmreq> {
    // SAFETY: all zeros is a value of this structure.
    let mut request: nmreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.nr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name is too long for netmap"));
    }
    for (to, from) in request.nr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let which = match rings {
        Rings::Hardware => NR_REG_ALL_NIC,
        Rings::Host => NR_REG_SW,
    };
    (request.nr_version, request.nr_flags) = (VERSION, which | NR_EXCLUSIVE);
    (request.nr_arg2, request.nr_arg3) = (memory, SPARE_BUFFERS);
    // SAFETY: the structure is the one this request reads and writes, borrowed for the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), NIOCREGIF as _, &mut request) } {
        0 => Ok(request),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The offsets of a port's rings of one kind: those to send by, and those that receive.
#[allow(unsafe_code)]
fn rings_of(region: &Region, at: usize, which: Rings) -> Result<(Vec<usize>, Vec<usize>), RingError> {
    let table_at = offset_of!(netmap_if, ring_ofs);
    let outside = |slots| RingError::Outside { offset: at, slots, region: region.len() };
    if at.checked_add(table_at).is_none_or(|end| end > region.len()) || !at.is_multiple_of(8) {
        return Err(outside(0));
    }
    // SAFETY: the structure lies within the region, aligned; its fields are plain numbers.
    let (tx, rx, host_tx, host_rx) = unsafe {
        let port = region.at(at).cast::<netmap_if>();
        let field = |field: *const u32| field.read_volatile();
        // Later versions have the numbers of host rings in the first spare words; earlier ones have one of each, and zero
        // there.
        let host = (&raw const (*port).ni_spare1).cast::<u32>();
        let (host_tx, host_rx) = (field(host).max(1), field(host.add(1)).max(1));
        (field(&raw const (*port).ni_tx_rings), field(&raw const (*port).ni_rx_rings), host_tx, host_rx)
    };
    if [tx, rx, host_tx, host_rx].iter().any(|count| *count > RINGS_MAX) || tx == 0 || rx == 0 {
        return Err(outside(tx));
    }
    // The table has the rings to send by, the host's last, and those that receive, again the host's last.
    let (from_rx, host_rx_from) = (tx + host_tx, tx + host_tx + rx);
    let (sending, receiving) = match which {
        Rings::Hardware => (0..tx, from_rx..host_rx_from),
        Rings::Host => (tx..from_rx, host_rx_from..host_rx_from + host_rx),
    };
    let count = receiving.end as usize;
    if at + table_at + count * size_of::<isize>() > region.len() {
        return Err(outside(tx));
    }
    let offset = |index: u32| {
        let entry = region.at(at + table_at + index as usize * size_of::<isize>()).cast::<isize>();
        // SAFETY: the entry lies within the region, as was checked for all of them.
        let from_port = unsafe { entry.read_volatile() };
        at.checked_add_signed(from_port).filter(|ring| *ring < region.len()).ok_or_else(|| outside(index))
    };
    let all = |range: Range<u32>| range.map(offset).collect::<Result<Vec<_>, _>>();
    Ok((all(sending)?, all(receiving)?))
}

/// The memories that ports have been opened in, by netmap's numbers. Ports in the same one hand each other buffers.
#[derive(Default)]
pub struct Memories(Vec<(u16, Arc<Buffers>)>);

/// Opens a port: both its ends. It is in the memory of the ports before it, if the kernel agrees. `mtu` is that of the interface
/// it is of, if it is of one.
///
/// # Errors
/// If netmap is not there, or refuses the port.
pub fn open(
    name: &str,
    mtu: Option<u32>,
    memories: &mut Memories,
) -> Result<(Receiver, Transmitter), OpenError> {
    let failed = |what| move |error| OpenError::of(name, what, error);
    let file = OpenOptions::new().read(true).write(true).open(DEVICE);
    let file = file.map_err(failed("opening /dev/netmap (is netmap's module loaded?)"))?;
    let named = port::parse(name);
    if let Some(interface) = port::host_of(name)
        && Interface::leaves_checksums(interface)
    {
        return Err(OpenError::Unfinished { name: name.to_owned(), interface: interface.to_owned() });
    }
    let others = memories.0.first().map_or(0, |(memory, _)| *memory);
    let request = match register(&file, named, others) {
        Err(_) if others != 0 => register(&file, named, 0),
        registered => registered,
    };
    let request = request.map_err(failed("registering it with netmap"))?;
    let known = memories.0.iter().find(|(memory, _)| *memory == request.nr_arg2);
    let known = known.map(|(_, buffers)| buffers.clone());
    let region = match &known {
        Some(buffers) => buffers.region().clone(),
        None => {
            let region = Region::map(file.as_fd(), request.nr_memsize as usize, 0);
            Arc::new(region.map_err(failed("mapping netmap's memory"))?)
        }
    };
    let file = Arc::new(file);
    let port = Port {
        at: request.nr_offset as usize,
        rings: named.1,
        spares: request.nr_arg3.min(SPARE_BUFFERS),
        lends: !port::is_pipe(name),
        mtu,
    };
    let (mut receiver, transmitter) = ends(&region, known, &port, || Box::new(file.clone()))
        .map_err(|error| OpenError::of(name, "reading netmap's rings", io::Error::other(error)))?;
    receiver.buffers.hold_open(file);
    let card = Some(name).filter(|name| !port::is_netmaps_own(name)).and_then(index_of);
    receiver.held = card.map(|index| Held::new(name, index)).transpose()?;
    memories.0.push((request.nr_arg2, receiver.buffers.clone()));
    Ok((receiver, transmitter))
}

/// A port in a region.
struct Port {
    /// Where it is.
    at: usize,
    rings: Rings,
    /// Extra buffers it came with, at most.
    spares: u32,
    /// Whether what it sends may stay in the buffers it came in. Not where another process gets them: a block may be sent again.
    lends: bool,
    /// Longest packet of the interface it is of, if it is of one.
    mtu: Option<u32>,
}

/// Longest packet that a buffer has room for.
fn mtu_max(ring: &Ring) -> u32 {
    ring.buffer_len().saturating_sub(HEADER_LEN)
}

/// Both ends of a port, whose buffers may be known from another one.
fn ends(
    region: &Arc<Region>,
    known: Option<Arc<Buffers>>,
    port: &Port,
    syncs: impl Fn() -> Box<dyn Syncs>,
) -> Result<(Receiver, Transmitter), RingError> {
    let (tx, rx) = rings_of(region, port.at, port.rings)?;
    let rings = rx.into_iter().map(|at| Ring::open(region.clone(), at)).collect::<Result<Vec<_>, _>>()?;
    let ring = Ring::open(region.clone(), tx[0])?;
    let buffers = known.filter(|known| known.are_of(&ring)).unwrap_or_else(|| Buffers::of(&ring));
    if rings.iter().any(|ring| !buffers.are_of(ring)) {
        return Err(RingError::Pools);
    }
    buffers.take_extra(port.at, port.spares);
    let receiver = Receiver {
        begun: rings.iter().map(|_| None).collect(),
        rings,
        syncs: syncs(),
        buffers: buffers.clone(),
        mtu: port.mtu.unwrap_or_else(|| mtu_max(&ring).min(MTU)),
        spares: Vec::with_capacity(buffers::SPARES_AT_ONCE),
        frames: Vec::new(),
        copies: Vec::new(),
        is_shut: false,
        held: None,
        counters: RxCounters::default(),
    };
    let transmitter = Transmitter {
        lent: vec![None; ring.slots() as usize],
        ring,
        syncs: syncs(),
        buffers,
        lends: port.lends,
        counters: TxCounters::default(),
    };
    Ok((receiver, transmitter))
}

/// A frame in several slots, as far as it has come.
#[derive(Default)]
struct Begun {
    bytes: Vec<u8>,
    /// Whether a part of it was bad, or it is longer than any.
    is_bad: bool,
}

impl Begun {
    /// Adds a part. Whether it was the last one.
    fn add(&mut self, ring: &Ring, part: &Part) -> bool {
        match &part.range {
            Ok(range) if !self.is_bad && self.bytes.len() + range.len() <= FRAME_LEN_MAX => {
                self.bytes.extend_from_slice(ring.bytes(range));
            }
            _ => self.is_bad = true,
        }
        !part.goes_on
    }
}

/// Where a frame that was taken is.
enum Place {
    /// In a slot of a ring, within the region; nothing is left of one that has been kept.
    Ring { ring: usize, slot: u32, range: Range<usize> },
    /// Among the copies.
    Copy(Range<usize>),
}

/// The receiving end.
pub struct Receiver {
    rings: Vec<Ring>,
    /// By ring.
    begun: Vec<Option<Begun>>,
    syncs: Box<dyn Syncs>,
    buffers: Arc<Buffers>,
    /// Longest packet of its wire. What comes may never have seen it: where netmap has no driver, it takes frames from the system's,
    /// and passes them on through its switches.
    mtu: u32,
    /// Spare buffers, some at hand.
    spares: Vec<u32>,
    /// Frames that were taken.
    frames: Vec<Place>,
    /// Frames that came in several slots, or were cut.
    copies: Vec<u8>,
    is_shut: bool,
    /// The interface whose hardware rings it has, if it has.
    held: Option<Held>,
    counters: RxCounters,
}

/// A frame in a ring, whose buffer can be kept.
pub struct InRing<'a> {
    receiver: &'a mut Receiver,
    at: usize,
    range: Range<usize>,
}

impl Deref for InRing<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // Any of its rings has the region.
        self.receiver.rings[0].bytes(&self.range)
    }
}

impl InRing<'_> {
    /// Keeps the buffer as long as its payload, which begins at an offset, is among these. False if there is no spare buffer for
    /// the slot instead. Afterwards there is nothing in the frame.
    pub(crate) fn keep(&mut self, payload: usize, loans: &mut Loans) -> bool {
        let receiver = &mut *self.receiver;
        let Place::Ring { ring, slot, range } = &mut receiver.frames[self.at] else { return false };
        let ring = &receiver.rings[*ring];
        let (Ok(offset), true) = (u16::try_from(payload), payload <= self.range.len()) else { return false };
        if receiver.spares.is_empty() {
            receiver.buffers.fetch(&mut receiver.spares);
        }
        let Some(spare) = receiver.spares.last().copied() else { return false };
        let Some(buffer) = receiver.buffers.keep(&self.range, offset) else { return false };
        receiver.spares.pop();
        ring.exchange(*slot, spare);
        loans.add(&receiver.buffers, buffer, self.range.start + payload..self.range.end);
        *range = 0..0;
        self.range = 0..0;
        receiver.counters.zero_copy += 1;
        true
    }
}

impl Receiver {
    /// Takes frames that the rings have. Whether they had anything.
    fn take(&mut self, max: usize) -> bool {
        let mut took = false;
        for at in 0..self.rings.len() {
            while self.frames.len() < max {
                let Some(part) = self.rings[at].receive() else { break };
                took = true;
                match part {
                    Part { slot, range: Ok(range), goes_on: false } if self.begun[at].is_none() => {
                        self.take_whole(at, slot, range);
                    }
                    part => self.take_part(at, &part),
                }
            }
        }
        took
    }

    /// Takes a frame in one slot.
    fn take_whole(&mut self, at: usize, slot: u32, range: Range<usize>) {
        let ring = &self.rings[at];
        let frame = ring.bytes(&range);
        if frame.len() > self.mtu as usize + ETHERNET_LEN
            && let Some(offload) = longer_than(frame, self.mtu)
        {
            return cut(&offload, frame, (&mut self.copies, &mut self.frames), &mut self.counters);
        }
        if let Some((sum_at, sum)) = unfinished(frame) {
            ring.set(range.start + sum_at, sum);
            self.counters.checksums += 1;
        }
        self.counters.packets += 1;
        self.counters.bytes += range.len() as u64;
        self.frames.push(Place::Ring { ring: at, slot, range });
    }

    /// Takes a part of a frame in several slots, which is copied together.
    fn take_part(&mut self, at: usize, part: &Part) {
        let mut begun = self.begun[at].take().unwrap_or_default();
        if !begun.add(&self.rings[at], part) {
            self.begun[at] = Some(begun);
            return;
        }
        let Begun { mut bytes, is_bad } = begun;
        if is_bad {
            self.counters.malformed += 1;
            return;
        }
        if let Some(offload) = longer_than(&bytes, self.mtu) {
            return cut(&offload, &bytes, (&mut self.copies, &mut self.frames), &mut self.counters);
        }
        self.counters.checksums += u64::from(complete_unfinished(&mut bytes));
        self.counters.packets += 1;
        self.counters.bytes += bytes.len() as u64;
        let from = self.copies.len();
        self.copies.extend_from_slice(&bytes);
        self.frames.push(Place::Copy(from..self.copies.len()));
    }
}

/// Cuts a frame that is longer than a wire takes.
fn cut(
    offload: &Offload,
    frame: &[u8],
    (copies, frames): (&mut Vec<u8>, &mut Vec<Place>),
    counters: &mut RxCounters,
) {
    let done = offload.segment(frame, copies, |place| {
        counters.packets += 1;
        counters.bytes += place.len() as u64;
        frames.push(Place::Copy(place));
    });
    match done {
        Ok(()) => counters.segmented += 1,
        Err(Malformed) => counters.malformed += 1,
    }
}

impl Receive for Receiver {
    fn fill(&mut self, max: usize) -> io::Result<usize> {
        self.frames.clear();
        self.copies.clear();
        self.copies.shrink_to(COPIES_SPARE);
        self.rings.iter_mut().for_each(Ring::give_back);
        let _ = self.take(max);
        while self.frames.is_empty() && !self.is_shut {
            self.rings.iter_mut().for_each(Ring::give_back);
            if let Err(error) = self.syncs.receive() {
                self.revive();
                return self.held.as_ref().map_or(Ok(()), Held::check).and(Err(error));
            }
            // Slots without a frame of a wire are not the end of what waits.
            if !self.take(max) {
                break;
            }
        }
        Ok(self.frames.len())
    }

    fn frame(&self, at: usize) -> &[u8] {
        match &self.frames[at] {
            Place::Ring { ring, range, .. } => self.rings[*ring].bytes(range),
            Place::Copy(range) => &self.copies[range.clone()],
        }
    }

    fn hand_over(&mut self, at: usize) -> Frame<'_> {
        match &self.frames[at] {
            Place::Ring { range, .. } => {
                let range = range.clone();
                Frame::InRing(InRing { receiver: self, at, range })
            }
            Place::Copy(range) => Frame::Bytes(&self.copies[range.clone()]),
        }
    }

    fn readiness(&self) -> io::Result<Vec<OwnedFd>> {
        Ok(vec![self.syncs.descriptor()?])
    }

    fn shut(&mut self) -> io::Result<()> {
        // What the kernel has given is taken; no more is asked for.
        self.is_shut = true;
        Ok(())
    }

    fn revive(&mut self) {
        if let Some(held) = &mut self.held {
            held.look();
            self.counters.overruns = held.missed().unwrap_or(self.counters.overruns);
        }
    }

    fn counters(&mut self) -> RxCounters {
        self.counters
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.buffers.bring(self.spares.drain(..));
    }
}

/// A slot that sends from a buffer lent to it.
#[derive(Clone, Copy)]
struct Lent {
    buffer: u32,
    /// The slot's own, meanwhile.
    own: u32,
}

/// The sending end.
pub struct Transmitter {
    ring: Ring,
    syncs: Box<dyn Syncs>,
    buffers: Arc<Buffers>,
    lends: bool,
    /// By slot.
    lent: Vec<Option<Lent>>,
    counters: TxCounters,
}

impl Transmitter {
    /// Longest packet of the port, in bytes behind the Ethernet header, when its interface, if it is of one, says so much.
    #[must_use]
    pub fn mtu(&self, of_interface: Option<u32>) -> u32 {
        mtu_max(&self.ring).min(of_interface.unwrap_or(MTU))
    }

    fn put(&mut self, frame: &[&[u8]]) -> bool {
        let Some(slot) = self.ring.vacant() else { return false };
        self.settle(slot);
        if self.lends
            && let Some((buffer, len)) = self.buffers.lend(frame)
        {
            let own = self.ring.exchange(slot, buffer);
            self.lent[slot as usize] = Some(Lent { buffer, own });
            self.ring.fill_slot(len);
            self.counters.packets += 1;
            self.counters.bytes += u64::from(len);
            self.counters.zero_copy += 1;
            return true;
        }
        match self.ring.send(frame) {
            Ok(true) => {
                self.counters.packets += 1;
                self.counters.bytes += frame.iter().map(|piece| piece.len() as u64).sum::<u64>();
                true
            }
            Ok(false) => false,
            Err(_) => {
                self.counters.too_long += 1;
                true
            }
        }
    }

    /// The kernel is done with a slot: it gets its own buffer back.
    fn settle(&mut self, slot: u32) {
        if let Some(Lent { buffer, own }) = self.lent[slot as usize].take() {
            self.ring.exchange(slot, own);
            self.buffers.sent(buffer);
        }
    }
}

impl Drop for Transmitter {
    fn drop(&mut self) {
        // What is lent stays with its slots, and goes with them.
        self.buffers.bring(self.lent.iter().flatten().map(|lent| lent.own));
    }
}

impl Transmit for Transmitter {
    fn send(&mut self, frame: &[&[u8]]) {
        if self.put(frame) {
            return;
        }
        // The kernel may have sent some by now.
        self.flush();
        self.counters.overruns += u64::from(!self.put(frame));
    }

    fn flush(&mut self) {
        self.ring.give_back();
        if let Err(error) = self.syncs.transmit() {
            tracing::warn!("netmap does not send: {error}");
        }
    }

    fn counters(&self) -> TxCounters {
        self.counters
    }

    fn revive(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::memory::Layout;
    use super::ring::tests::Kernel;
    use super::*;
    use chc_api::packet::Checksum;
    use etherparse::PacketBuilder;
    use parking_lot::Mutex;
    use std::os::unix::net::UnixDatagram;

    pub(crate) const SLOTS: u32 = 8;
    const BUFFER_LEN: usize = 2048;

    /// The kernel's side of a port with two receiving rings.
    #[derive(Default)]
    pub(crate) struct Wire {
        /// Frames that arrive, by ring, at the next sync.
        pub(crate) arriving: [Vec<Vec<u8>>; 2],
        pub(crate) sent: Vec<Vec<u8>>,
    }

    struct Fake {
        wire: Arc<Mutex<Wire>>,
        kernels: Arc<Mutex<[Kernel; 3]>>,
    }

    impl Syncs for Fake {
        fn receive(&self) -> io::Result<()> {
            let (mut wire, mut kernels) = (self.wire.lock(), self.kernels.lock());
            for (frames, kernel) in wire.arriving.iter_mut().zip(&mut kernels[1..]) {
                while let Some(frame) = frames.first_mut() {
                    let part = frame.len().min(BUFFER_LEN);
                    if !kernel.deliver_part(&frame[..part], part < frame.len()) {
                        break;
                    }
                    drop(frame.drain(..part));
                    if frame.is_empty() {
                        drop(frames.remove(0));
                    }
                }
            }
            Ok(())
        }

        fn transmit(&self) -> io::Result<()> {
            let sent = self.kernels.lock()[0].drain();
            self.wire.lock().sent.extend(sent);
            self.kernels.lock()[0].give_all();
            Ok(())
        }

        fn descriptor(&self) -> io::Result<OwnedFd> {
            Ok(UnixDatagram::unbound()?.into())
        }
    }

    /// A port with one sending and two receiving rings, so many host rings to send by, and extra buffers.
    #[allow(unsafe_code)]
    pub(crate) fn port(host_rings: u32, extra: u32) -> Layout {
        let layout = Layout::new([1, host_rings.max(1), 2, 2], SLOTS, extra);
        // SAFETY: within the region of the test.
        unsafe {
            let port = layout.region.at(0).cast::<netmap_if>();
            (&raw mut (*port).ni_spare1).cast::<u32>().write(host_rings);
        }
        layout
    }

    pub(crate) fn ends_of(
        layout: &Layout,
        known: Option<Arc<Buffers>>,
        port: &Port,
    ) -> (Receiver, Transmitter, Arc<Mutex<Wire>>) {
        let host_rings = layout.rings.len() - 1 - 2 - 2;
        let receiving = 1 + host_rings;
        let (sends, receives) = match port.rings {
            Rings::Hardware => (0, receiving),
            Rings::Host => (1, receiving + 2),
        };
        let kernel = |at: usize| Kernel::at(&layout.region, layout.rings[at]);
        let kernels = Arc::new(Mutex::new([kernel(sends), kernel(receives), kernel(receives + 1)]));
        let wire = Arc::new(Mutex::new(Wire::default()));
        let syncs = || -> Box<dyn Syncs> { Box::new(Fake { wire: wire.clone(), kernels: kernels.clone() }) };
        let (receiver, transmitter) = ends(&layout.region, known, port, syncs).expect("a port");
        (receiver, transmitter, wire)
    }

    /// Frames that arrive at a port, as they are received.
    fn received(arriving: Vec<Vec<u8>>) -> (Vec<Vec<u8>>, RxCounters) {
        let port_of = Port { at: 0, rings: Rings::Hardware, spares: 0, lends: true, mtu: Some(1500) };
        let (mut receiver, _, wire) = ends_of(&port(1, 0), None, &port_of);
        wire.lock().arriving[0] = arriving;
        let mut all = Vec::new();
        // A frame that is longer than all slots is not there yet when they have been taken.
        while !wire.lock().arriving[0].is_empty() || all.is_empty() {
            for at in 0..receiver.fill(64).expect("it can be read") {
                all.push(receiver.hand_over(at).to_vec());
                assert_eq!(receiver.frame(at), all.last().unwrap());
            }
        }
        (all, receiver.counters())
    }

    #[test]
    fn frames_in_several_slots_are_one_however_long() {
        let frame = |len: usize, number: u8| (0..len).map(|at| at as u8 ^ number).collect::<Vec<u8>>();
        let lens = [60, 2048, 2049, 5000, 40_000, FRAME_LEN_MAX, 61];
        let mut frames: Vec<_> = lens.into_iter().zip(1..).map(|(len, at)| frame(len, at)).collect();
        let (all, counters) = received(frames.clone());
        assert!(all == frames, "{:?}", all.iter().map(Vec::len).collect::<Vec<_>>());
        assert_eq!((counters.packets, counters.bytes), (7, lens.iter().sum::<usize>() as u64));
        // One that is longer is none, and the next ones are.
        frames.insert(3, frame(FRAME_LEN_MAX + 1, 9));
        let (all, counters) = received(frames.clone());
        frames.remove(3);
        assert!(all == frames, "{:?}", all.iter().map(Vec::len).collect::<Vec<_>>());
        assert_eq!((counters.packets, counters.malformed), (7, 1));
    }

    #[test]
    fn what_never_saw_a_wire_is_made_what_a_wire_carries() {
        let ip = || PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [192, 0, 2, 9], 64);
        let (mut short, mut long, mut datagram) = (Vec::new(), Vec::new(), Vec::new());
        let data: Vec<u8> = (0..4000u32).map(|at| (at % 251) as u8).collect();
        ip().udp(5, 53).write(&mut short, b"question").unwrap();
        ip().tcp(5, 80, 7, 1000).write(&mut long, &data).unwrap();
        ip().udp(5, 443).write(&mut datagram, &data).unwrap();
        let whole = short.clone();
        // The sums of the pseudo-headers alone.
        let unfinish = |frame: &mut Vec<u8>, at: usize, protocol: u8| {
            let from = ([10, 0, 0, 1].into(), [192, 0, 2, 9].into());
            let sum = Checksum::pseudo_v4(from.0, from.1, protocol, (frame.len() - 34) as u16);
            frame[at..at + 2].copy_from_slice(&(!sum.finish()).to_be_bytes());
        };
        unfinish(&mut short, 40, 17);
        unfinish(&mut long, 50, 6);
        unfinish(&mut datagram, 40, 17);
        let (all, counters) = received(vec![short, long, datagram]);
        assert_eq!(all[0], whole);
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [50, 1514, 1514, 54 + 4000 - 2 * 1460]);
        assert_eq!(all[1..].iter().flat_map(|frame| &frame[54..]).copied().collect::<Vec<_>>(), data);
        assert_eq!((counters.checksums, counters.segmented, counters.malformed), (1, 1, 1));
    }

    fn opened(host_rings: u32, rings: Rings) -> (Receiver, Transmitter, Arc<Mutex<Wire>>) {
        ends_of(&port(host_rings, 0), None, &Port { at: 0, rings, spares: 0, lends: true, mtu: None })
    }

    #[test]
    fn frames_of_all_rings_of_a_kind_are_received_whatever_others_there_are() {
        let all = [0, 1, 3].map(|host_rings| [(host_rings, Rings::Hardware), (host_rings, Rings::Host)]);
        for (host_rings, which) in all.into_iter().flatten() {
            let (mut receiver, _, wire) = opened(host_rings, which);
            for ring in 0..2u8 {
                wire.lock().arriving[usize::from(ring)] = (0..20).map(|at| vec![ring, at]).collect();
            }
            let mut all = [Vec::new(), Vec::new()];
            loop {
                let count = receiver.fill(5).expect("it can be read");
                assert!(count <= 5);
                if count == 0 {
                    break;
                }
                for at in 0..count {
                    let [ring, number] = *receiver.frame(at) else { panic!("another frame") };
                    all[usize::from(ring)].push(number);
                }
            }
            assert_eq!(all, [(0..20).collect::<Vec<u8>>(), (0..20).collect::<Vec<u8>>()]);
            assert_eq!((receiver.counters().packets, receiver.counters().bytes), (40, 80));
        }
    }

    #[test]
    fn what_finds_no_room_is_counted_and_the_rest_keeps_its_order() {
        for which in [Rings::Hardware, Rings::Host] {
            let (_, mut transmitter, wire) = opened(1, which);
            // The first sync gives it slots.
            (0..20u8).for_each(|at| transmitter.send(&[&[at], &[7]]));
            transmitter.send(&[&[0; 3000]]);
            transmitter.flush();
            let expected: Vec<Vec<u8>> = (0..20).map(|at| vec![at, 7]).collect();
            assert_eq!(wire.lock().sent, expected);
            let counters = transmitter.counters();
            assert_eq!((counters.packets, counters.too_long, counters.overruns), (20, 1, 0));
            let mtus = [None, Some(1400), Some(9000)].map(|of_interface| transmitter.mtu(of_interface));
            assert_eq!(mtus, [1500, 1400, BUFFER_LEN as u32 - HEADER_LEN]);
        }
    }

    #[test]
    fn a_port_that_is_shut_gives_what_it_has_and_asks_for_no_more() {
        let (mut receiver, _, wire) = opened(1, Rings::Hardware);
        wire.lock().arriving[0] = (0..20).map(|at| vec![at]).collect();
        assert_eq!(receiver.fill(2).unwrap(), 2);
        receiver.shut().unwrap();
        let left: Vec<usize> =
            std::iter::from_fn(|| receiver.fill(2).ok().filter(|count| *count > 0)).collect();
        assert_eq!(left.iter().sum::<usize>(), SLOTS as usize - 1 - 2);
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_port_that_is_none_is_refused() {
        let region = port(1, 0).region;
        let rings_of = |region: &Region, at| rings_of(region, at, Rings::Hardware);
        assert!(rings_of(&region, region.len()).is_err() && rings_of(&region, 4).is_err());
        // SAFETY: within the region of the test.
        unsafe { (&raw mut (*region.at(0).cast::<netmap_if>()).ni_rx_rings).write(1 << 20) };
        assert!(rings_of(&region, 0).is_err());
        let region = port(1, 0).region;
        // SAFETY: as above.
        unsafe { region.at(offset_of!(netmap_if, ring_ofs)).cast::<isize>().write(-64) };
        assert!(rings_of(&region, 0).is_err());
    }

    /// Sends a million frames by one port and receives them, in their order, by another.
    fn a_million_frames_pass(from: &str, to: &str) {
        if !std::path::Path::new(DEVICE).exists() {
            return eprintln!("skipped: {DEVICE} is not there");
        }
        let mut memories = Memories::default();
        let (_, mut transmitter) = open(from, None, &mut memories).expect("netmap makes the port");
        let (mut receiver, _) = open(to, None, &mut memories).expect("netmap makes the port");
        let (mut sent, mut received) = (0u64, 0u64);
        while received < 1_000_000 {
            if sent < 1_000_000 {
                let before = transmitter.counters().packets;
                // To everybody: a switch passes it to all other ports.
                transmitter.send(&[&[0xff; 6], &[2, 0, 0, 0, 0, 1], &[0; 40], &sent.to_be_bytes()]);
                sent += transmitter.counters().packets - before;
            }
            if sent.is_multiple_of(64) || sent == 1_000_000 {
                transmitter.flush();
                let count = receiver.fill(64).expect("it can be read");
                for at in 0..count {
                    assert_eq!(receiver.frame(at)[52..60], received.to_be_bytes());
                    received += 1;
                }
            }
        }
    }

    #[test]
    fn a_million_frames_pass_a_pipe() {
        a_million_frames_pass("chctest{1", "chctest}1");
    }

    #[test]
    fn a_million_frames_pass_a_switch_in_the_kernel() {
        // It drops what a receiver has no room for: there are never more than 64 on their way.
        a_million_frames_pass("valechc:a", "valechc:b");
    }
}
