//! Packets of established connections allocate nothing: whatever is allocated is for a burst, a
//! boundary or a time step, never for a packet.

use chc_bench::cores::Cores;
use chc_bench::setup::{Mode, plan};
use chc_bench::traffic::{Feed, Traffic, TrafficOptions};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Packets of a burst.
const BURST: usize = 256;
const BURSTS: usize = 500;
/// Allocations a burst: for each of the three hops that of the block's shared handle, and what boundaries
/// and time steps need, spread over bursts. One allocation in every 50 packets exceeds it.
const PER_BURST_MAX: usize = 8;

/// Allocations, growth included, while established connections' packets pass a chain in bursts.
fn allocations(mode: Mode) -> usize {
    let options = TrafficOptions { size: 368, flows: 500, packets: BURST * (BURSTS + 1), new_share: 0.0 };
    let traffic = Arc::new(Traffic::new(options));
    let functions = ["nat".to_owned(), "portscan".to_owned()];
    let plan = plan(&functions, mode, BURST as u16, &traffic).expect("a chain of the catalog's functions");
    let mut cores = Cores::start(&plan).expect("it starts");
    let mut feed = Feed::new(traffic.clone());
    while feed.read() < traffic.timed().start {
        cores.burst(&mut feed, BURST).expect("no defect");
    }
    let region = Region::new(ALLOCATOR);
    for _ in 0..BURSTS {
        assert_eq!(cores.burst(&mut feed, BURST).expect("no defect"), BURST, "there is room for every burst");
    }
    let change = region.change();
    assert_eq!((cores.left(), cores.dropped()), (feed.read(), 0), "every packet has left");
    change.allocations + change.reallocations
}

// One test, so that no other thread's allocations are counted.
#[test]
fn established_connections_allocate_by_the_burst_and_not_by_the_packet() {
    for mode in [Mode::Traditional, Mode::Default] {
        let made = allocations(mode);
        let most = BURSTS * PER_BURST_MAX;
        println!("{}: {made} allocations in {BURSTS} bursts of {BURST}", mode.name());
        assert!(
            made < most,
            "{}: {made} allocations in {BURSTS} bursts of {BURST}, at most {most}",
            mode.name()
        );
    }
}
