use super::super::memory::Layout;
use super::super::port::Rings;
use super::super::ring::Ring;
use super::super::tests::{Wire, ends_of, port};
use super::super::{Port, Receiver, Transmitter};
use crate::block::{Block, BlockBuilder, BlockPool, BlockRef, Ingest, Meta};
use crate::io::{Receive as _, Transmit as _};
use chc_api::packet::link::LinkType;
use chc_api::packet::parse::parse;
use chc_api::{Clock, Path, Time};
use netmap_sys::netmap::netmap_if;
use parking_lot::Mutex;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::mem::offset_of;
use std::sync::Arc;

const HEAD: usize = 54;

fn frame(number: u32, len: usize) -> Vec<u8> {
    (number as u8..=255).cycle().take(len).collect()
}

/// A port with a chain behind it that keeps blocks and sends their packets.
struct Bed {
    layout: Layout,
    receiver: Receiver,
    transmitter: Transmitter,
    wire: Arc<Mutex<Wire>>,
    builder: BlockBuilder,
}

impl Bed {
    fn new(spares: u32, lends: bool) -> Self {
        let layout = port(1, spares);
        let port = Port { at: 0, rings: Rings::Hardware, spares, lends, mtu: None };
        let (receiver, transmitter, wire) = ends_of(&layout, None, &port);
        Self { layout, receiver, transmitter, wire, builder: BlockBuilder::new(BlockPool::new()) }
    }

    fn arrive(&mut self, frames: impl IntoIterator<Item = Vec<u8>>) {
        self.wire.lock().arriving[0].extend(frames);
    }

    /// What has arrived, in a block.
    fn receive(&mut self) -> Option<BlockRef> {
        let count = self.receiver.fill(64).expect("it can be read");
        for at in 0..count {
            let mut frame = self.receiver.hand_over(at);
            let parsed = parse(LinkType::ETHERNET, &frame);
            let meta = Meta::new(parsed, LinkType::ETHERNET, Time(0), Time(0), 1);
            let wire_len = frame.len() as u32;
            let ingest = Ingest { clock: Clock(at as u64), path: Path::FIRST, hash: 0, wire_len, bits: 0 };
            self.builder.ingest(&mut frame, HEAD, ingest, || meta);
        }
        self.builder.finish()
    }

    fn flush(&mut self) -> Vec<Vec<u8>> {
        self.transmitter.flush();
        std::mem::take(&mut self.wire.lock().sent)
    }

    fn zero_copies(&mut self) -> (u64, u64) {
        (self.receiver.counters().zero_copy, self.transmitter.counters().zero_copy)
    }

    /// Closes the port and says where each buffer is then: in slots and in the list of extra ones.
    #[allow(unsafe_code)]
    fn places(self) -> BTreeMap<u32, Vec<&'static str>> {
        let Self { layout, receiver, transmitter, builder, wire: _ } = self;
        drop((receiver, transmitter, builder));
        let mut places: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
        for at in &layout.rings {
            let ring = Ring::open(layout.region.clone(), *at).expect("a ring");
            for slot in 0..ring.slots() {
                places.entry(ring.buffer_of(slot)).or_default().push("slot");
            }
        }
        // SAFETY: the header, and the buffers in the list, are within the region of the test.
        unsafe {
            let mut next = layout.region.at(offset_of!(netmap_if, ni_bufs_head)).cast::<u32>().read();
            while next != 0 && places.values().map(Vec::len).sum::<usize>() < 1000 {
                places.entry(next).or_default().push("list");
                next = layout.buffer(next).cast::<u32>().read_unaligned();
            }
        }
        places
    }
}

fn whole(block: &Block) -> Vec<Vec<u8>> {
    block.descs.iter().map(|desc| [block.head(desc), block.tail(desc)].concat()).collect()
}

#[test]
fn a_payload_stays_what_it_was_while_other_frames_come_into_its_slot() {
    let mut bed = Bed::new(16, true);
    let frames: Vec<Vec<u8>> = (0..7).map(|at| frame(at, 1400)).collect();
    bed.arrive(frames.clone());
    let kept = bed.receive().unwrap();
    for round in 1..20 {
        bed.arrive((0..7).map(|at| frame(round * 7 + at, 1400)));
        assert_eq!(bed.receive().unwrap().descs.len(), 7);
    }
    assert_eq!(whole(&kept), frames);
    assert_eq!(bed.zero_copies(), (140, 0));
}

#[test]
fn a_frame_is_sent_from_the_buffer_it_came_in_with_another_head_before_its_payload() {
    let mut bed = Bed::new(16, true);
    bed.arrive((0..3).map(|at| frame(at, 1400)));
    let block = bed.receive().unwrap();
    for (at, desc) in block.descs.iter().enumerate() {
        bed.transmitter.send(&[&[at as u8; 14], &[0xee; HEAD - 14], block.tail(desc)]);
    }
    let expected = |at: u8| {
        let payload = &frame(at.into(), 1400)[HEAD..];
        [&[at; 14][..], &[0xee; HEAD - 14], payload].concat()
    };
    assert_eq!(bed.flush(), [expected(0), expected(1), expected(2)]);
    assert_eq!(bed.zero_copies(), (3, 3));
    assert_eq!(whole(&block), [frame(0, 1400), frame(1, 1400), frame(2, 1400)], "and it may be sent again");
}

#[test]
fn frames_go_from_port_to_port_without_a_copy_if_it_is_known_that_their_buffers_are_the_same() {
    for is_known in [true, false] {
        let mut bed = Bed::new(16, true);
        let host = Port { at: 0, rings: Rings::Host, spares: 0, lends: true, mtu: None };
        let known = is_known.then(|| bed.receiver.buffers.clone());
        let (_, mut transmitter, wire) = ends_of(&bed.layout, known, &host);
        bed.arrive([frame(1, 1400), frame(2, 1400)]);
        let block = bed.receive().unwrap();
        for desc in &block.descs {
            transmitter.send(&[block.head(desc), block.tail(desc)]);
        }
        transmitter.flush();
        assert_eq!(wire.lock().sent, whole(&block));
        assert_eq!(transmitter.counters().zero_copy, if is_known { 2 } else { 0 });
    }
}

#[test]
fn short_payloads_are_copied() {
    let mut bed = Bed::new(16, true);
    bed.arrive([frame(1, 60), frame(2, HEAD), frame(3, HEAD + 255), frame(4, HEAD + 256)]);
    let block = bed.receive().unwrap();
    block.descs.iter().for_each(|desc| bed.transmitter.send(&[block.head(desc), block.tail(desc)]));
    assert_eq!(bed.flush(), whole(&block));
    assert_eq!(bed.zero_copies(), (1, 1));
}

#[test]
fn a_payload_that_goes_out_twice_at_once_has_the_right_head_each_time() {
    let mut bed = Bed::new(16, true);
    bed.arrive([frame(1, 1000)]);
    let block = bed.receive().unwrap();
    let payload = block.tail(&block.descs[0]);
    bed.transmitter.send(&[&[1; HEAD], payload]);
    bed.transmitter.send(&[&[2; HEAD], payload]);
    let expected = [1, 2].map(|head| [&[head; HEAD], payload].concat());
    assert_eq!(bed.flush(), expected);
    assert_eq!(bed.zero_copies(), (1, 1));
}

#[test]
fn what_has_no_room_before_its_payload_is_copied_and_nothing_is_written_over_that() {
    let mut bed = Bed::new(16, true);
    bed.arrive([frame(1, 1000)]);
    let block = bed.receive().unwrap();
    let payload = block.tail(&block.descs[0]);
    // A tag more, a tag less, a part of it.
    let cases = [(HEAD + 4, payload), (HEAD - 4, payload), (HEAD + 10, &payload[10..])];
    for (head, payload) in cases {
        bed.transmitter.send(&[&vec![0xee; head], payload]);
    }
    assert_eq!(bed.flush(), cases.map(|(head, payload)| [&vec![0xee; head], payload].concat()));
    assert_eq!((whole(&block), bed.zero_copies()), (vec![frame(1, 1000)], (1, 0)));
}

#[test]
fn a_buffer_that_is_given_again_while_it_is_kept_is_not_kept_twice() {
    let mut bed = Bed::new(16, true);
    let receiving = Ring::open(bed.layout.region.clone(), bed.layout.rings[2]).unwrap();
    let kept = receiving.buffer_of(0);
    bed.arrive([frame(1, 1000)]);
    let block = bed.receive().unwrap();
    assert_ne!(receiving.buffer_of(0), kept, "the slot has a spare one");
    receiving.exchange(3, kept);
    bed.arrive((0..6).map(|at| frame(at, 1000)));
    let others = bed.receive().unwrap();
    assert_eq!((others.descs.len(), bed.zero_copies()), (6, (6, 0)), "one of the six is copied");
    drop((block, others));
}

#[test]
fn what_a_slot_had_that_is_no_buffer_does_not_become_a_spare_one() {
    let mut bed = Bed::new(16, true);
    let sending = Ring::open(bed.layout.region.clone(), bed.layout.rings[0]).unwrap();
    bed.transmitter.flush();
    sending.exchange(0, u32::MAX);
    bed.arrive([frame(1, 1000)]);
    let block = bed.receive().unwrap();
    bed.transmitter.send(&[block.head(&block.descs[0]), block.tail(&block.descs[0])]);
    assert_eq!((bed.flush(), bed.zero_copies()), (vec![frame(1, 1000)], (1, 1)));
    drop(block);
    assert!(!bed.places().contains_key(&u32::MAX));
}

#[test]
fn without_a_spare_buffer_frames_are_copied() {
    let mut bed = Bed::new(3, true);
    let frames: Vec<Vec<u8>> = (0..5).map(|at| frame(at, 700)).collect();
    bed.arrive(frames.clone());
    let block = bed.receive().unwrap();
    assert_eq!((whole(&block), bed.zero_copies()), (frames.clone(), (3, 0)));
    block.descs.iter().for_each(|desc| bed.transmitter.send(&[block.head(desc), block.tail(desc)]));
    assert_eq!((bed.flush(), bed.zero_copies()), (frames, (3, 3)));
}

#[test]
fn what_leaves_for_another_process_is_copied_for_that_may_change_it() {
    let mut bed = Bed::new(16, false);
    bed.arrive([frame(1, 1400)]);
    let block = bed.receive().unwrap();
    bed.transmitter.send(&[block.head(&block.descs[0]), block.tail(&block.descs[0])]);
    assert_eq!(bed.flush(), [frame(1, 1400)]);
    assert_eq!(bed.zero_copies(), (1, 0));
}

#[test]
fn blocks_of_a_port_that_was_closed_still_have_their_payloads() {
    let mut bed = Bed::new(16, true);
    bed.arrive([frame(1, 1400)]);
    let block = bed.receive().unwrap();
    bed.transmitter.send(&[block.head(&block.descs[0]), block.tail(&block.descs[0])]);
    bed.flush();
    drop(bed);
    assert_eq!(whole(&block), [frame(1, 1400)]);
}

#[test]
#[allow(unsafe_code)]
fn a_list_of_spare_buffers_that_is_none_ends_where_it_goes_wrong() {
    let first = |layout: &Layout| layout.buffers() - 4;
    let spoiled = |next: &dyn Fn(&Layout) -> u32| {
        let layout = port(1, 4);
        // SAFETY: the first of the extra buffers is within the region of the test.
        unsafe { layout.buffer(first(&layout)).cast::<u32>().write_unaligned(next(&layout)) };
        let port = Port { at: 0, rings: Rings::Hardware, spares: 4, lends: true, mtu: None };
        let (receiver, ..) = ends_of(&layout, None, &port);
        let mut spares = Vec::new();
        receiver.buffers.fetch(&mut spares);
        (spares, first(&layout))
    };
    // Itself, the kernel's own, one beyond the last.
    for next in [first, |_: &Layout| 1, |layout: &Layout| layout.buffers()] {
        let (spares, first) = spoiled(&next);
        assert_eq!(spares, [first]);
    }
}

proptest! {
    #[test]
    fn whatever_is_kept_sent_and_let_go_when_frames_are_right_and_each_buffer_is_in_one_place(
        spares in 0u32..12,
        steps in prop::collection::vec((0u8..5, any::<prop::sample::Index>()), 0..120),
    ) {
        let mut bed = Bed::new(spares, true);
        let (mut blocks, mut number, mut expected) = (Vec::new(), 0, Vec::new());
        for (step, which) in steps {
            match step {
                0 => {
                    bed.arrive((0..3).map(|at| frame(number + at, 50 + 300 * at as usize)));
                    let frames: Vec<Vec<u8>> = (0..3).map(|at| frame(number + at, 50 + 300 * at as usize)).collect();
                    number += 3;
                    let block = bed.receive().expect("there is room for three");
                    blocks.push((block, frames));
                }
                1 if !blocks.is_empty() => {
                    drop(blocks.swap_remove(which.index(blocks.len())));
                }
                2 | 3 if !blocks.is_empty() => {
                    let (block, frames) = &blocks[which.index(blocks.len())];
                    for (desc, frame) in block.descs.iter().zip(frames) {
                        number += 1;
                        let head = vec![number as u8; block.head(desc).len()];
                        let before = bed.transmitter.counters();
                        bed.transmitter.send(&[&head, block.tail(desc)]);
                        if bed.transmitter.counters().packets > before.packets {
                            expected.push([&head, &frame[head.len()..]].concat());
                        }
                    }
                }
                _ => bed.transmitter.flush(),
            }
            for (block, frames) in &blocks {
                prop_assert_eq!(&whole(block), frames);
            }
        }
        prop_assert_eq!(bed.flush(), expected);
        drop(blocks);
        let buffers = 2..bed.layout.buffers();
        let places = bed.places();
        prop_assert!(places.keys().copied().eq(buffers), "{places:?}");
        prop_assert!(places.values().all(|places| places.len() == 1), "{places:?}");
    }
}
