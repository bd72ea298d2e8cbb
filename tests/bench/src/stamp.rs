//! Time by wall clock and by the time a thread was on a core.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A moment of a thread, or the time between two. Where others use the machine, the time on a core
/// tells how much of a difference is due to them.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// By wall clock.
    pub wall: Duration,
    /// On a core; by wall clock where the system does not tell.
    pub cpu: Duration,
}

impl Stamp {
    /// Now, for the calling thread.
    #[must_use]
    pub fn now() -> Self {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        let origin = *ORIGIN.get_or_init(Instant::now);
        // The kernel adds up the time of a running thread when it gives way, and shows it here.
        std::thread::yield_now();
        let shown = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let ns = shown.split_ascii_whitespace().next().and_then(|ns| ns.parse().ok());
        let wall = origin.elapsed();
        Self { wall, cpu: ns.map_or(wall, Duration::from_nanos) }
    }

    /// The time since an earlier moment of the same thread.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { wall: self.wall.saturating_sub(earlier.wall), cpu: self.cpu.saturating_sub(earlier.cpu) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_works_is_on_a_core_no_longer_than_the_clock_says() {
        let begin = Stamp::now();
        let mut sum = 0_u64;
        while Stamp::now().since(begin).cpu < Duration::from_millis(2) {
            sum = std::hint::black_box(sum + 1);
        }
        let took = Stamp::now().since(begin);
        // The two are read one after the other.
        assert!(took.cpu <= took.wall + Duration::from_millis(2), "{took:?}");
    }
}
