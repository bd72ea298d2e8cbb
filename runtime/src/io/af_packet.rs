//! AF_PACKET: works with every Ethernet interface of a stock Linux, needs no driver support and no hardware.
//!
//! Frames are taken and sent in batches by one system call each. Measured against io_uring over a veth pair: the same per
//! frame to receive, and a fifth less to send where the order must be kept; and it works where io_uring is switched off.
//! TPACKET_V3 was left out for its blocks: on an idle link a packet waits for a block to time out, a millisecond at least.
//!
//! The machine's own stack sees what comes in, too: the interfaces should have no addresses of the machine.

use super::offload::{ETHERNET_LEN, Offload};
pub use super::socket::{PacketSocket, Slot};
use super::socket::{SLOT_LEN, TAG_LEN};
use super::{BATCH_MAX, Interface, OpenError, Receive, RxCounters, Transmit, TxCounters};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::OwnedFd;

/// Bytes for segments that are kept from batch to batch.
const SEGMENTS_SPARE: usize = 1 << 20;
/// Errors of the system for an interface that is switched off or gone.
const AWAY: [i32; 3] = [libc::ENETDOWN, libc::ENXIO, libc::ENODEV];
/// How long the egress waits for room, in milliseconds, and how often, before frames are lost.
const ROOM_MILLIS: i32 = 1;
const ROOM_TRIES: u32 = 10;

/// The addresses in front of a frame, behind which a tag has its place.
const ADDRESSES_LEN: usize = 12;

/// Where a frame of the batch is.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// In a slot.
    Slot(usize, Range<usize>),
    /// Among the segments.
    Segment(Range<usize>),
}

/// The receiving end.
pub struct Receiver {
    socket: PacketSocket,
    name: String,
    index: u32,
    slots: Vec<Slot>,
    frames: Vec<Place>,
    segments: Vec<u8>,
    /// Frames asked for next: as many as came lately, so that little is asked for in vain.
    batch: usize,
    /// Whether the last batch was all there was; what came since has made the socket readable again.
    is_empty: bool,
    shut: bool,
    /// Whether the system has said that the interface is away.
    is_away: bool,
    counters: RxCounters,
}

/// Makes frames of a wire of what is in slot `at`.
fn unpack(
    at: usize,
    slot: &mut Slot,
    frames: &mut Vec<Place>,
    segments: &mut Vec<u8>,
    counters: &mut RxCounters,
) {
    if slot.is_cut || slot.len > SLOT_LEN || slot.len < ETHERNET_LEN {
        counters.malformed += 1;
        return;
    }
    let mut start = TAG_LEN;
    if let Some((tpid, tag)) = slot.vlan {
        slot.bytes.copy_within(TAG_LEN..TAG_LEN + ADDRESSES_LEN, 0);
        slot.bytes[ADDRESSES_LEN..ADDRESSES_LEN + 2].copy_from_slice(&tpid.to_be_bytes());
        slot.bytes[ADDRESSES_LEN + 2..ADDRESSES_LEN + 4].copy_from_slice(&tag.to_be_bytes());
        start = 0;
    }
    let range = start..TAG_LEN + slot.len;
    let offload = Offload::read(&slot.offload, TAG_LEN - start);
    let frame = &mut slot.bytes[range.clone()];
    let done = if offload.is_long() {
        counters.segmented += 1;
        offload.segment(frame, segments, |place| frames.push(Place::Segment(place)))
    } else {
        let completed = if offload.needs_checksum {
            counters.checksums += 1;
            offload.complete(frame)
        } else {
            Ok(())
        };
        completed.map(|()| frames.push(Place::Slot(at, range)))
    };
    counters.malformed += u64::from(done.is_err());
}

impl Receiver {
    /// Opens an interface.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn open(interface: &Interface) -> Result<Self, OpenError> {
        let socket = PacketSocket::receiving(interface)
            .map_err(|e| OpenError::of(&interface.name, "opening a packet socket to receive by", e))?;
        Ok(Self {
            socket,
            name: interface.name.clone(),
            index: interface.index,
            slots: (0..BATCH_MAX).map(|_| Slot::new()).collect(),
            frames: Vec::new(),
            segments: Vec::new(),
            batch: BATCH_MAX,
            is_empty: false,
            shut: false,
            is_away: !interface.is_up,
            counters: RxCounters::default(),
        })
    }

    /// Takes what waits into slots.
    fn receive(&mut self, wanted: usize) -> io::Result<usize> {
        match self.socket.receive(&mut self.slots[..wanted]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
            Err(error) if error.raw_os_error().is_some_and(|code| AWAY.contains(&code)) => {
                self.counters.downs += 1;
                self.is_away = true;
                tracing::warn!("interface {} is down", self.name);
                Ok(0)
            }
            other => other,
        }
    }

    fn count_overruns(&mut self) {
        // The system forgets what it has told.
        self.counters.overruns += self.socket.overruns().unwrap_or(0);
    }
}

impl Receive for Receiver {
    fn fill(&mut self, max: usize) -> io::Result<usize> {
        self.frames.clear();
        self.segments.clear();
        self.segments.shrink_to(SEGMENTS_SPARE);
        // Frames that were no frames of a wire are not the end of what waits.
        while self.frames.is_empty() && !std::mem::take(&mut self.is_empty) {
            let wanted = self.batch.clamp(1, BATCH_MAX).min(max.max(1));
            let taken = self.receive(wanted)?;
            for (at, slot) in self.slots[..taken].iter_mut().enumerate() {
                unpack(at, slot, &mut self.frames, &mut self.segments, &mut self.counters);
            }
            self.is_empty = taken < wanted;
            self.batch = if self.is_empty { (taken + 1).next_power_of_two() } else { wanted * 2 };
        }
        self.counters.packets += self.frames.len() as u64;
        self.counters.bytes += (0..self.frames.len()).map(|at| self.frame(at).len() as u64).sum::<u64>();
        Ok(self.frames.len())
    }

    fn frame(&self, at: usize) -> &[u8] {
        match &self.frames[at] {
            Place::Slot(slot, range) => &self.slots[*slot].bytes[range.clone()],
            Place::Segment(range) => &self.segments[range.clone()],
        }
    }

    fn readiness(&self) -> io::Result<Vec<OwnedFd>> {
        Ok(vec![self.socket.duplicate()?])
    }

    fn shut(&mut self) -> io::Result<()> {
        self.shut = true;
        match self.socket.bind_to_none(self.index) {
            // Nothing comes from an interface that is gone.
            Err(error) if error.raw_os_error().is_some_and(|code| AWAY.contains(&code)) => Ok(()),
            other => other,
        }
    }

    fn revive(&mut self) {
        if !self.is_away || self.shut {
            return;
        }
        let Ok(now) = Interface::find(&self.name) else { return };
        if now.index != self.index {
            let bound =
                self.socket.be_promiscuous(now.index).and_then(|()| self.socket.bind_to_all(now.index));
            if let Err(error) = bound {
                tracing::warn!("interface {} is there again and cannot be used: {error}", self.name);
                return;
            }
            self.index = now.index;
        }
        if now.is_up {
            self.is_away = false;
            tracing::info!("interface {} is up", self.name);
        }
    }

    fn counters(&mut self) -> RxCounters {
        self.count_overruns();
        self.counters
    }
}

/// The sending end.
pub struct Transmitter {
    socket: PacketSocket,
    name: String,
    index: u32,
    mtu: u32,
    bytes: Vec<u8>,
    frames: Vec<Range<usize>>,
    counters: TxCounters,
}

impl Transmitter {
    /// Opens an interface.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn open(interface: &Interface) -> Result<Self, OpenError> {
        let socket = PacketSocket::sending(interface)
            .map_err(|e| OpenError::of(&interface.name, "opening a packet socket to send by", e))?;
        Ok(Self {
            socket,
            name: interface.name.clone(),
            index: interface.index,
            mtu: interface.mtu,
            bytes: Vec::new(),
            frames: Vec::new(),
            counters: TxCounters::default(),
        })
    }

    /// What becomes of the first frame of those not sent yet. False if it is to be tried again.
    fn lose(&mut self, error: &io::Error, tries: &mut u32) -> bool {
        let is_full = error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS);
        if error.kind() == ErrorKind::Interrupted || (is_full && *tries < ROOM_TRIES) {
            *tries += 1;
            self.socket.await_room(ROOM_MILLIS);
            return false;
        }
        match error.raw_os_error() {
            _ if is_full => self.counters.overruns += 1,
            Some(libc::EMSGSIZE) => self.counters.too_long += 1,
            _ => {
                tracing::debug!("interface {}: a frame was refused: {error}", self.name);
                self.counters.refused += 1;
            }
        }
        true
    }
}

impl Transmit for Transmitter {
    fn send(&mut self, frame: &[&[u8]]) {
        let start = self.bytes.len();
        for piece in frame {
            self.bytes.extend_from_slice(piece);
        }
        self.frames.push(start..self.bytes.len());
        if self.frames.len() == BATCH_MAX {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let (mut sent, mut tries) = (0, 0);
        while sent < self.frames.len() {
            let frames = self.frames[sent..].iter().map(|place| &self.bytes[place.clone()]);
            match self.socket.send(frames) {
                Ok(count) => {
                    let done = &self.frames[sent..sent + count];
                    self.counters.packets += count as u64;
                    self.counters.bytes += done.iter().map(|place| place.len() as u64).sum::<u64>();
                    sent += count;
                }
                Err(error) => sent += usize::from(self.lose(&error, &mut tries)),
            }
        }
        self.frames.clear();
        self.bytes.clear();
    }

    fn counters(&self) -> TxCounters {
        self.counters
    }

    fn revive(&mut self) {
        if let Ok(now) = Interface::find(&self.name)
            && (now.index, now.mtu) != (self.index, self.mtu)
            && self.socket.bind_to_none(now.index).is_ok()
        {
            (self.index, self.mtu) = (now.index, now.mtu);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(frame: &[u8]) -> Slot {
        let mut slot = Slot::new();
        slot.bytes[TAG_LEN..TAG_LEN + frame.len()].copy_from_slice(frame);
        slot.len = frame.len();
        slot
    }

    fn unpacked(slot: &mut Slot) -> (Vec<Vec<u8>>, RxCounters) {
        let (mut frames, mut segments, mut counters) = (Vec::new(), Vec::new(), RxCounters::default());
        unpack(0, slot, &mut frames, &mut segments, &mut counters);
        let bytes = |place: &Place| match place {
            Place::Slot(0, range) => slot.bytes[range.clone()].to_vec(),
            Place::Slot(..) => panic!("another slot"),
            Place::Segment(range) => segments[range.clone()].to_vec(),
        };
        (frames.iter().map(bytes).collect(), counters)
    }

    #[test]
    fn a_tag_the_system_took_out_is_put_back() {
        let frame: Vec<u8> = (0..40).collect();
        assert_eq!(unpacked(&mut slot(&frame)).0, std::slice::from_ref(&frame));
        let mut tagged = slot(&frame);
        tagged.vlan = Some((0x88a8, 0x2007));
        let expected = [&frame[..12], &[0x88, 0xa8, 0x20, 0x07], &frame[12..]].concat();
        assert_eq!(unpacked(&mut tagged).0, [expected]);
    }

    #[test]
    fn the_checksum_of_a_tagged_frame_is_where_its_tag_has_moved_it() {
        let mut frame = vec![0; 40];
        (frame[20], frame[21]) = (0x12, 0x34);
        let mut tagged = slot(&frame);
        tagged.vlan = Some((0x8100, 7));
        tagged.offload[0] = 1;
        tagged.offload[6..8].copy_from_slice(&20u16.to_ne_bytes());
        tagged.offload[8..10].copy_from_slice(&4u16.to_ne_bytes());
        let (frames, counters) = unpacked(&mut tagged);
        assert_eq!((&frames[0][28..30], counters.checksums), (&[0xed, 0xcb][..], 1));
    }

    #[test]
    fn what_is_no_frame_is_counted() {
        let mut cut = slot(&[0; 40]);
        cut.is_cut = true;
        let mut odd = slot(&[0; 40]);
        odd.offload[1] = 77;
        for mut slot in [cut, slot(&[0; 13]), odd] {
            let (frames, counters) = unpacked(&mut slot);
            assert_eq!((frames.len(), counters.malformed), (0, 1));
        }
    }
}
