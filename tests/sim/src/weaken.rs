//! Protections that can be switched off, to show that each is needed.
//!
//! The product knows [`chc_api::All`] alone. A run happens on one thread, so what is switched off is a
//! property of the thread.

use chc_api::{Protection, Protections};
use std::cell::Cell;

thread_local! {
    static OFF: Cell<Option<Protection>> = const { Cell::new(None) };
}

/// All protections but the one switched off on this thread.
#[derive(Clone, Copy, Debug)]
pub struct Weakened;

impl Protections for Weakened {
    fn on(protection: Protection) -> bool {
        OFF.with(|off| off.get() != Some(protection))
    }
}

/// Switches a protection off on this thread until the guard is dropped; `None` leaves all on.
#[must_use]
pub fn switch_off(protection: Option<Protection>) -> SwitchedOff {
    OFF.with(|off| off.set(protection));
    SwitchedOff(())
}

/// Switches everything on again when it is dropped.
#[derive(Debug)]
pub struct SwitchedOff(());

impl Drop for SwitchedOff {
    fn drop(&mut self) {
        OFF.with(|off| off.set(None));
    }
}

/// Every weakening: its name, the protection it switches off, what then happens.
pub const WEAKENINGS: [(&str, Protection, &str); 32] = [
    (
        "update-suppression",
        Protection::UpdateSuppression,
        "a shard applies an operation again whenever it is issued again, and logs no results",
    ),
    (
        "output-suppression",
        Protection::OutputSuppression,
        "a queue and the egress accept a position as often as it comes",
    ),
    (
        "boundary-versions",
        Protection::BoundaryVersions,
        "a new generation loads the newest version of each record instead of the one at its boundary",
    ),
    (
        "replay-holds-progress",
        Protection::ReplayHoldsProgress,
        "a recovering instance is told its sender's progress before the packets are replayed to it",
    ),
    (
        "acknowledged-closing",
        Protection::AcknowledgedClosing,
        "a boundary is closed before the shards have acknowledged what was written below it",
    ),
    (
        "pinned-cut",
        Protection::PinnedCut,
        "a new generation's closing report is not reset to the cut, and reports of old ones count",
    ),
    (
        "observed-values",
        Protection::ObservedValues,
        "a read of a serial object returns what was last seen instead of waiting for the logged value",
    ),
    ("timers-in-version", Protection::TimersInVersion, "versions of records do not hold their armed timers"),
    (
        "steps-first",
        Protection::StepsFirst,
        "time steps travel with the next mark, behind the packets they precede",
    ),
    (
        "release-quarantine",
        Protection::ReleaseQuarantine,
        "a released resource can be acquired at once instead of a window later",
    ),
    (
        "path-positions",
        Protection::PathPositions,
        "a queue and the egress accept one packet of a clock, whatever its path",
    ),
    (
        "egress-closing",
        Protection::EgressClosing,
        "the cut does not wait for what the egress has not got yet",
    ),
    (
        "off-path-progress",
        Protection::OffPathProgress,
        "a vertex off the path closes what has reached it, finished or not",
    ),
    (
        "retained-outputs",
        Protection::RetainedOutputs,
        "an instance's splitter forgets what it has sent, so that there is nothing to replay",
    ),
    (
        "batch-order",
        Protection::BatchOrder,
        "a shard applies batches as they come: late, repeatedly, and without those that were lost",
    ),
    (
        "logged-draws",
        Protection::LoggedDraws,
        "an operation that needs a random number is performed with another one when it is issued again",
    ),
    (
        "owned-releases",
        Protection::OwnedReleases,
        "a resource is given back by whoever releases it, its owner or not",
    ),
    (
        "buffered-handover",
        Protection::BufferedHandover,
        "the new owner of a slot runs its packets before the old one has let go of it and the records have come",
    ),
    (
        "flushed-release",
        Protection::FlushedRelease,
        "the new owner of a slot is told to go on before the old one has closed the boundary",
    ),
    (
        "held-downstream",
        Protection::HeldDownstream,
        "what the new owner of a slot sends is taken before the old one has passed the boundary",
    ),
    (
        "awaited-senders",
        Protection::AwaitedSenders,
        "an instance that gets its first slots is not waited for by those it sends to",
    ),
    (
        "awaited-issuers",
        Protection::AwaitedIssuers,
        "an instance that gets its first slots is not waited for by the shards",
    ),
    (
        "routed-by-clock",
        Protection::RoutedByClock,
        "packets go by the newest routing table, whatever their clock",
    ),
    (
        "flushed-state",
        Protection::FlushedState,
        "a boundary is closed without versions of the records and counts written below it",
    ),
    (
        "term-fences",
        Protection::TermFences,
        "a shard accepts versions of records from whoever sends them, owner of the slot or not",
    ),
    ("clock-parking", Protection::ClockParking, "a shard applies operations on clock objects as they come"),
    (
        "cache-terms",
        Protection::CacheTerms,
        "an instance goes on using cross-flow values it holds when others operate on them, too",
    ),
    (
        "cache-order",
        Protection::CacheOrder,
        "an operation on a cross-flow value an instance holds is applied though lower ones may come",
    ),
    (
        "acknowledged-changes",
        Protection::AcknowledgedChanges,
        "a boundary is closed before all instances have what was written to replicated values below it",
    ),
    (
        "delayed-reads",
        Protection::DelayedReads,
        "a replicated value is read as far as the instance knows it, not as it was a window ago",
    ),
    ("waiting-progress", Protection::WaitingProgress, "a root says that it has sent what still waits for it"),
    ("joined-order", Protection::JoinedOrder, "packets of several roots or ways are taken as they come"),
];

/// The protection a weakening of this name switches off.
#[must_use]
pub fn by_name(name: &str) -> Option<Protection> {
    WEAKENINGS.iter().find(|(known, ..)| *known == name).map(|(_, protection, _)| *protection)
}
