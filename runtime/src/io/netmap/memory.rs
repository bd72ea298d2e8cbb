//! A port in ordinary memory whose wire leads back to it: what is sent is received. It shows what rings cost by themselves,
//! without netmap's kernel module.
#![allow(unsafe_code)]

use super::super::region::Region;
use super::ring::Ring;
use super::{Receiver, Rings, Syncs, Transmitter, ends};
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
/// Rings in the port's table: one to send by, the host's, one that receives.
const ENTRIES: usize = 3;

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

/// Both ends of a port with rings of so many slots, from 2 to 65,536.
#[must_use]
pub fn loopback(slots: u32) -> (Receiver, Transmitter) {
    let slots = slots.clamp(2, 1 << 16);
    let ring_len =
        (offset_of!(netmap_ring, slot) + slots as usize * size_of::<netmap_slot>()).next_multiple_of(256);
    let rings_at = (size_of::<netmap_if>() + ENTRIES * size_of::<isize>()).next_multiple_of(256);
    let pool_at = rings_at + 2 * ring_len;
    let buffers = (BUFFERS_RESERVED + 2 * slots) as usize;
    let region = Arc::new(Region::of_memory(pool_at + buffers * BUFFER_LEN));
    let (sending, receiving) = (rings_at, rings_at + ring_len);
    lay_out(&region, sending, slots, pool_at, BUFFERS_RESERVED);
    lay_out(&region, receiving, slots, pool_at, BUFFERS_RESERVED + slots);
    // SAFETY: header and table lie within the region.
    unsafe {
        let port = region.at(0).cast::<netmap_if>();
        (&raw mut (*port).ni_tx_rings).write(1);
        (&raw mut (*port).ni_rx_rings).write(1);
        let table = region.at(offset_of!(netmap_if, ring_ofs)).cast::<isize>();
        for (entry, at) in [sending, sending, receiving].into_iter().enumerate() {
            table.add(entry).write(at as isize);
        }
    }
    let ring = |at| Ring::open(region.clone(), at).expect("it was just laid out");
    let mut wire = Wire { sending: ring(sending), receiving: ring(receiving), sent: 0, received: 0 };
    wire.pass();
    let wire = Arc::new(Mutex::new(wire));
    ends(&region, 0, Rings::Hardware, || Box::new(wire.clone())).expect("it was just laid out")
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
