//! A chain whose cores are called directly on one thread ([`crate::cores`]), warm and in a steady state.

use crate::cores::Cores;
use crate::stamp::Stamp;
use crate::traffic::{Feed, Traffic};
use anyhow::ensure;
use chc_api::{All, Protections};
use std::sync::Arc;

/// The chain and what it is fed.
pub struct Steady<P = All> {
    cores: Cores<P>,
    feed: Feed,
    burst: usize,
}

impl<P: Protections> Steady<P> {
    /// Feeds a chain, in bursts, what comes before the packets to be timed.
    ///
    /// # Errors
    /// A shard's complaint.
    pub fn new(cores: Cores<P>, traffic: &Arc<Traffic>, burst: u16) -> anyhow::Result<Self> {
        let mut steady = Self { cores, feed: Feed::new(traffic.clone()), burst: usize::from(burst) };
        steady.run(traffic.timed().start as usize)?;
        Ok(steady)
    }

    /// The time as many packets take.
    ///
    /// # Errors
    /// A shard's complaint, or that not all packets came through.
    pub fn sample(&mut self, packets: usize) -> anyhow::Result<Stamp> {
        let begin = Stamp::now();
        self.run(packets)?;
        let took = Stamp::now().since(begin);
        let (read, left) = (self.feed.read(), self.cores.left());
        ensure!(read == left, "{read} packets came in, {left} went out and {} ended", self.cores.dropped());
        Ok(took)
    }

    fn run(&mut self, packets: usize) -> anyhow::Result<()> {
        let mut done = 0;
        while done < packets {
            done += self.cores.burst(&mut self.feed, self.burst.min(packets - done))?;
        }
        Ok(())
    }
}
