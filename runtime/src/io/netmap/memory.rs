//! Ports in ordinary memory: one whose wire leads back to it, so that what is sent is received, and a card with a host at the
//! other end of its wire. They show what rings cost by themselves, without netmap's kernel module.
#![allow(unsafe_code)]

use super::super::region::Region;
use super::ring::Ring;
use super::{Port, Receiver, Rings, Syncs, Transmitter, ends};
use netmap_sys::netmap::{netmap_if, netmap_ring, netmap_slot};
use parking_lot::Mutex;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

const BUFFER_LEN: usize = 2048;
/// Buffers that are the kernel's own.
const BUFFERS_RESERVED: u32 = 2;

/// What the kernel does at a sync: frames change rings by changing buffers.
struct Wire {
    sending: Ring,
    receiving: Ring,
    /// The next slot to send, and the next to receive into.
    sent: u32,
    received: u32,
}

impl Wire {
    fn pass(&mut self) {
        while self.sent != self.sending.head() && self.receiving.next(self.received) != self.receiving.head()
        {
            let (from, to) = (self.sending.slot(self.sent), self.receiving.slot(self.received));
            // SAFETY: both slots lie within the region; they are the kernel's, which this is, until the tails move.
            unsafe {
                let (frame, free) = (from.read_volatile(), to.read_volatile());
                to.write_volatile(frame);
                from.write_volatile(free);
            }
            self.sent = self.sending.next(self.sent);
            self.received = self.receiving.next(self.received);
        }
        self.receiving.set_tail(self.received);
        self.sending.set_tail(self.sending.before(self.sent));
    }
}

impl Syncs for Arc<Mutex<Wire>> {
    fn receive(&self) -> io::Result<()> {
        self.lock().pass();
        Ok(())
    }

    fn transmit(&self) -> io::Result<()> {
        self.lock().pass();
        Ok(())
    }

    fn descriptor(&self) -> io::Result<OwnedFd> {
        // Nobody waits for this port; the descriptor never becomes readable.
        Ok(UnixDatagram::unbound()?.into())
    }
}

/// What is at the other end of a card's wire.
pub trait Host: Send {
    /// Puts the next frame into a buffer and says how long it is; 0: there is none now.
    fn bring(&mut self, buffer: &mut [u8]) -> usize;

    /// Takes a frame that was sent.
    fn take(&mut self, frame: &[u8]);

    /// Readable when there may be a frame to bring.
    ///
    /// # Errors
    /// If the system has no descriptor left.
    fn readiness(&self) -> io::Result<OwnedFd>;
}

/// A card: frames come into the buffers that slots have, and go from there; none changes its slot.
struct Card<H> {
    wire: Wire,
    host: H,
}

/// Where the buffer of a slot of a ring of this module's is.
fn buffer_of(ring: &Ring, slot: u32) -> *mut u8 {
    let (region, at, len, buffers) = ring.pool();
    let buffer = ring.buffer_of(slot);
    assert!(buffer >= BUFFERS_RESERVED && buffer < buffers, "slot {slot} has buffer {buffer} of {buffers}");
    region.at(at + buffer as usize * len as usize)
}

impl<H: Host> Card<H> {
    fn bring(&mut self) {
        let Wire { receiving, received, .. } = &mut self.wire;
        while receiving.next(*received) != receiving.head() {
            // SAFETY: the buffer lies within the region, and nobody refers to what a slot may receive into.
            let buffer =
                unsafe { std::slice::from_raw_parts_mut(buffer_of(receiving, *received), BUFFER_LEN) };
            let len = self.host.bring(buffer);
            if len == 0 {
                break;
            }
            // SAFETY: the slot lies within the region; it is the kernel's, which this is, until the tail moves.
            unsafe { (&raw mut (*receiving.slot(*received)).len).write_volatile(len as u16) };
            *received = receiving.next(*received);
        }
        receiving.set_tail(*received);
    }

    fn take(&mut self) {
        let Wire { sending, sent, .. } = &mut self.wire;
        while *sent != sending.head() {
            // SAFETY: as above; nobody writes to what is being sent, though a block may read it.
            let frame = unsafe {
                let len = usize::from((&raw const (*sending.slot(*sent)).len).read_volatile());
                std::slice::from_raw_parts(buffer_of(sending, *sent), len.min(BUFFER_LEN))
            };
            self.host.take(frame);
            *sent = sending.next(*sent);
        }
        sending.set_tail(sending.before(*sent));
    }
}

impl<H: Host> Syncs for Arc<Mutex<Card<H>>> {
    fn receive(&self) -> io::Result<()> {
        self.lock().bring();
        Ok(())
    }

    fn transmit(&self) -> io::Result<()> {
        self.lock().take();
        Ok(())
    }

    fn descriptor(&self) -> io::Result<OwnedFd> {
        self.lock().host.readiness()
    }
}

/// A port laid out in memory.
pub(super) struct Layout {
    pub(super) region: Arc<Region>,
    /// Where its rings are: those to send by, the host's last, and those that receive, the host's last.
    pub(super) rings: Vec<usize>,
    pool_at: usize,
}

impl Layout {
    /// A port with so many rings of a kind (to send, the host's to send, to receive, the host's to receive), of so many slots
    /// each, and extra buffers.
    pub(super) fn new(kinds: [u32; 4], slots: u32, extra: u32) -> Self {
        let count: u32 = kinds.iter().sum();
        let ring_len =
            (offset_of!(netmap_ring, slot) + slots as usize * size_of::<netmap_slot>()).next_multiple_of(256);
        let rings_at = (size_of::<netmap_if>() + count as usize * size_of::<isize>()).next_multiple_of(256);
        let pool_at = rings_at + count as usize * ring_len;
        let extra_from = BUFFERS_RESERVED + count * slots;
        let region = Arc::new(Region::of_memory(pool_at + (extra_from + extra) as usize * BUFFER_LEN));
        let rings: Vec<usize> = (0..count as usize).map(|at| rings_at + at * ring_len).collect();
        for (at, first_buffer) in rings.iter().zip((BUFFERS_RESERVED..).step_by(slots as usize)) {
            lay_out(&region, *at, slots, pool_at, first_buffer);
        }
        let layout = Self { region, rings, pool_at };
        let [tx, host_tx, rx, host_rx] = kinds;
        // SAFETY: header and table lie within the region.
        unsafe {
            let port = layout.region.at(0).cast::<netmap_if>();
            (&raw mut (*port).ni_tx_rings).write(tx);
            (&raw mut (*port).ni_rx_rings).write(rx);
            let host = (&raw mut (*port).ni_spare1).cast::<u32>();
            host.write(host_tx);
            host.add(1).write(host_rx);
            let table = layout.region.at(offset_of!(netmap_if, ring_ofs)).cast::<isize>();
            for (entry, at) in layout.rings.iter().enumerate() {
                table.add(entry).write(*at as isize);
            }
            let mut next = &raw mut (*port).ni_bufs_head;
            for buffer in extra_from..extra_from + extra {
                next.write_unaligned(buffer);
                next = layout.buffer(buffer).cast();
            }
            next.write_unaligned(0);
        }
        layout
    }

    /// Where a buffer is.
    pub(super) fn buffer(&self, number: u32) -> *mut u8 {
        self.region.at(self.pool_at + number as usize * BUFFER_LEN)
    }

    /// How many buffers there are, with the kernel's own.
    #[cfg(test)]
    pub(super) fn buffers(&self) -> u32 {
        ((self.region.len() - self.pool_at) / BUFFER_LEN) as u32
    }

    fn ring(&self, at: usize) -> Ring {
        Ring::open(self.region.clone(), self.rings[at]).expect("it was just laid out")
    }

    /// A wire between the first ring that sends and the first that receives.
    fn wire(&self) -> Wire {
        Wire { sending: self.ring(0), receiving: self.ring(2), sent: 0, received: 0 }
    }
}

/// Lays a ring out whose buffers begin with a number, in a pool at an offset.
fn lay_out(region: &Region, at: usize, slots: u32, pool_at: usize, first_buffer: u32) {
    // SAFETY: ring, slots and pool lie within the region, as whoever made it has computed.
    unsafe {
        let ring = region.at(at).cast::<netmap_ring>();
        (&raw mut (*ring).num_slots).write(slots);
        (&raw mut (*ring).nr_buf_size).write(BUFFER_LEN as u32);
        (&raw mut (*ring).buf_ofs).write((pool_at - at) as i64);
        let first = region.at(at + offset_of!(netmap_ring, slot)).cast::<netmap_slot>();
        for slot in 0..slots {
            (&raw mut (*first.add(slot as usize)).buf_idx).write(first_buffer + slot);
        }
    }
}

const SLOTS_MAX: u32 = 1 << 16;

/// Both ends of a port with rings of so many slots, from 2 to 65,536. Buffers change hands on its wire, so nothing is sent from
/// the buffers it came in.
#[must_use]
pub fn loopback(slots: u32) -> (Receiver, Transmitter) {
    let layout = Layout::new([1, 1, 1, 0], slots.clamp(2, SLOTS_MAX), 0);
    let mut wire = layout.wire();
    wire.pass();
    let wire = Arc::new(Mutex::new(wire));
    let port = Port { at: 0, rings: Rings::Hardware, spares: 0, lends: false, mtu: None };
    ends(&layout.region, None, &port, || Box::new(wire.clone())).expect("it was just laid out")
}

/// Both ends of a card with rings of so many slots, from 2 to 65,536, and so many spare buffers.
#[must_use]
pub fn card(slots: u32, spares: u32, host: impl Host + 'static) -> (Receiver, Transmitter) {
    let layout = Layout::new([1, 1, 1, 0], slots.clamp(2, SLOTS_MAX), spares);
    let port = Port { at: 0, rings: Rings::Hardware, spares, lends: true, mtu: None };
    let card = Arc::new(Mutex::new(Card { wire: layout.wire(), host }));
    ends(&layout.region, None, &port, || Box::new(card.clone())).expect("it was just laid out")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Receive as _, Transmit as _};

    #[test]
    fn what_is_sent_is_received_in_its_order_and_waits_while_the_ring_is_full() {
        let (mut receiver, mut transmitter) = loopback(8);
        let (mut sent, mut received) = (0u32, 0u32);
        while received < 1000 {
            let before = transmitter.counters().packets;
            transmitter.send(&[&sent.to_be_bytes(), &[7; 100]]);
            sent += (transmitter.counters().packets - before) as u32;
            if sent % 5 == 0 || transmitter.counters().packets == before {
                transmitter.flush();
                let count = receiver.fill(3).unwrap();
                for at in 0..count {
                    assert_eq!(receiver.frame(at), [&received.to_be_bytes()[..], &[7; 100]].concat());
                    received += 1;
                }
            }
        }
        assert!(sent - received <= 14, "{sent} of which {received}");
    }
}
