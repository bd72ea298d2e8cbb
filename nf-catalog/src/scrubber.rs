//! Scrubber: lets through what it is for, and takes its time.
//!
//! **Ports.** One input, one output. Packets that match pass unchanged; all others are dropped (`scrubbed`).
//!
//! **Keys.** `match`: what passes, protocols and ports (`"tcp/21"`); everything if it is missing. `delay_us`: how
//! long each packet takes, `"0"`, a number or a range (`"50-100"`) of microseconds of which each packet's share is
//! drawn by its position: the same in every run.
//!
//! **State.**
//!
//! | object | scope | access | consistency |
//! |---|---|---|---|
//! | `passed`, `scrubbed` | global | write mostly, read rarely | commutative |
//!
//! **Theory.** The scrubbers of the paper's Figure 2, one for each protocol that a network lets through, are where
//! the order of connections gets lost: one that is slow, or recovers, delays its packets behind those of others.
//! The delay is of that kind (section 7.3, R4): packets of a connection stay in order, those of different
//! connections are delayed side by side. It changes when packets leave and nothing else.

use crate::config::{ConfigProblem, Keys};
use chc_api::matching::{MATCH_REMEDY, Match};
use chc_api::{Context, Counter, Declarations, FlowKey, NetworkFunction, Passing, Verdict};
use serde_json::Value;
use std::time::Duration;

/// Longest delay of a packet, in microseconds.
const DELAY_US_MAX: u64 = 1_000_000;

/// The keys of the scrubber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubberConfig {
    /// What passes; `None`: everything.
    pub matching: Option<Match>,
    /// Shortest and longest delay of a packet, in microseconds.
    pub delay_us: (u64, u64),
}

impl ScrubberConfig {
    /// Reads the keys.
    ///
    /// # Errors
    /// Every problem found.
    pub fn read(config: &Value) -> Result<Self, Vec<ConfigProblem>> {
        let mut keys = Keys::new(config);
        let matching = keys.text("match").and_then(|text| match text.parse::<Match>() {
            Ok(matching) => Some(matching),
            Err(error) => {
                keys.problem("match", format!("it is no match: {error}"), MATCH_REMEDY);
                None
            }
        });
        let delay_us = keys.text("delay_us").map_or(Some((0, 0)), delay).unwrap_or_else(|| {
            let remedy = format!("write a number or a range up to {DELAY_US_MAX}, e.g. \"50-100\"");
            keys.problem("delay_us", "it is no delay", remedy);
            (0, 0)
        });
        let problems = keys.finish();
        if problems.is_empty() { Ok(Self { matching, delay_us }) } else { Err(problems) }
    }
}

fn delay(text: &str) -> Option<(u64, u64)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
    (low <= high && high <= DELAY_US_MAX).then_some((low, high))
}

/// The scrubber.
#[derive(Clone)]
pub struct Scrubber {
    config: ScrubberConfig,
    seed: u64,
    passed: Counter,
    scrubbed: Counter,
}

impl Scrubber {
    /// The scrubber and its declarations; delays are drawn by `seed`.
    #[must_use]
    pub fn new(config: &ScrubberConfig, seed: u64, declarations: &mut Declarations) -> Self {
        let (passed, scrubbed) = (declarations.counter("passed"), declarations.counter("scrubbed"));
        Self { config: config.clone(), seed, passed, scrubbed }
    }

    fn lets_through(&self, key: &FlowKey) -> bool {
        self.config.matching.as_ref().is_none_or(|matching| matching.takes(key))
    }

    /// How long the packet of a clock takes.
    fn delay(&self, clock: u64) -> Duration {
        let (low, high) = self.config.delay_us;
        let hash = chc_api::ObjectKey::number(clock).hash(self.seed);
        let drawn = ((u128::from(hash) * u128::from(high - low + 1)) >> 64) as u64;
        Duration::from_micros(low + drawn)
    }
}

impl NetworkFunction for Scrubber {
    const LOOKS_UP: bool = false;

    async fn packet<C: Context>(&self, cx: C) -> Verdict {
        if self.config.delay_us.1 > 0 {
            cx.pause(self.delay(cx.position().clock.0)).await;
        }
        if !self.lets_through(&cx.identity().key) {
            cx.count(self.scrubbed, 1);
            return Verdict::Drop("scrubbed");
        }
        cx.count(self.passed, 1);
        Verdict::Forward
    }

    fn at_once<C: Passing>(&self, cx: &mut C) -> Option<Verdict> {
        if self.config.delay_us.1 > 0 || !self.lets_through(&cx.identity().key) {
            return None;
        }
        cx.count(self.passed, 1);
        Some(Verdict::Forward)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_delay_is_a_number_or_a_range_of_microseconds() {
        let read = |delay: &str| ScrubberConfig::read(&json!({ "delay_us": delay })).map(|c| c.delay_us);
        assert_eq!([read("0"), read("7"), read("50-100")], [Ok((0, 0)), Ok((7, 7)), Ok((50, 100))]);
        for wrong in ["", "x", "5-", "9-3", "0-1000001"] {
            assert_eq!(read(wrong).unwrap_err()[0].key, "delay_us", "{wrong}");
        }
        assert_eq!(ScrubberConfig::read(&json!({ "match": "tcp/x" })).unwrap_err()[0].key, "match");
    }

    #[test]
    fn every_packet_has_its_own_delay_within_the_range() {
        let config = ScrubberConfig { matching: None, delay_us: (50, 53) };
        let scrubber = Scrubber::new(&config, 7, &mut Declarations::default());
        let mut drawn: Vec<u128> = (0..200).map(|clock| scrubber.delay(clock).as_micros()).collect();
        assert_eq!(scrubber.delay(5), scrubber.delay(5));
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn, [50, 51, 52, 53]);
    }
}
