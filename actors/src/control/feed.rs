//! The events of a running chain, for those who follow them. While nobody does, none are kept.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Most events that are kept: a follower who is slower misses some, and is told how many.
const KEPT_MAX: usize = 4096;
/// Most events of an answer.
const ANSWER_MAX: usize = 1000;
/// How long events are kept for somebody who does not ask again.
const FOLLOWED_FOR: Duration = Duration::from_secs(10);

/// The last events, numbered from 0 on.
#[derive(Default)]
pub struct Feed {
    kept: VecDeque<Value>,
    /// The number of the first that is kept.
    first: u64,
    asked: Option<Instant>,
}

/// Some of them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Events {
    /// What to ask for next.
    pub next: u64,
    /// Events that came since and are not kept any more.
    pub missed: u64,
    /// The events, in the manner of Suricata's eve.json.
    pub events: Vec<Value>,
}

impl Feed {
    /// Takes an event, if anybody follows.
    pub fn push(&mut self, event: impl FnOnce() -> Value) {
        if self.asked.is_none_or(|asked| asked.elapsed() > FOLLOWED_FOR) {
            self.asked = None;
            self.first += self.kept.len() as u64 + 1;
            self.kept = VecDeque::new();
            return;
        }
        if self.kept.len() == KEPT_MAX {
            self.kept.pop_front();
            self.first += 1;
        }
        self.kept.push_back(event());
    }

    /// The events from a number on; without one none, but the number of the next.
    pub fn since(&mut self, from: Option<u64>) -> Events {
        self.asked = Some(Instant::now());
        let end = self.first + self.kept.len() as u64;
        let wanted = from.unwrap_or(end).min(end);
        let start = wanted.max(self.first);
        let events: Vec<Value> =
            self.kept.iter().skip((start - self.first) as usize).take(ANSWER_MAX).cloned().collect();
        Events { next: start + events.len() as u64, missed: start - wanted, events }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_follower_gets_what_comes_after_it_began_once_and_in_order() {
        let mut feed = Feed::default();
        feed.push(|| unreachable!("nobody follows"));
        let begun = feed.since(None);
        assert_eq!((begun.next, begun.events.len()), (1, 0));
        (0..3).for_each(|n| feed.push(|| json!(n)));
        let page = feed.since(Some(begun.next));
        assert_eq!((page.next, page.missed, page.events), (4, 0, vec![json!(0), json!(1), json!(2)]));
        assert!(feed.since(Some(4)).events.is_empty() && feed.since(Some(99)).next == 4);
    }

    #[test]
    fn who_is_too_slow_is_told_what_it_missed_and_memory_is_bounded() {
        let mut feed = Feed::default();
        feed.since(None);
        (0..KEPT_MAX + 10).for_each(|n| feed.push(|| json!(n)));
        assert_eq!(feed.kept.len(), KEPT_MAX);
        let page = feed.since(Some(0));
        assert_eq!((page.missed, page.events.len(), &page.events[0]), (10, ANSWER_MAX, &json!(10)));
        assert_eq!(feed.since(Some(page.next)).events[0], json!(10 + ANSWER_MAX));
    }
}
