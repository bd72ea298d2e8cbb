//! The protections the protocols rest on, as switches that are constant in production.
//!
//! Every protocol core takes a [`Protections`] type. The product knows one implementation, [`All`],
//! for which each switch is the constant `true` and compiles to nothing. A simulation can supply
//! another to show that a protection is needed: that taking it away makes a run go wrong.

/// One protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protection {
    /// A shard applies an operation of a given name once and returns its logged result afterwards.
    UpdateSuppression,
    /// A queue accepts a position once.
    OutputSuppression,
    /// A new generation loads the versions at the boundary, not the latest.
    BoundaryVersions,
    /// Progress sent to a recovering instance waits for the packets replayed to it.
    ReplayHoldsProgress,
    /// A vertex closes a boundary only when the shards have acknowledged what it wrote below it.
    AcknowledgedClosing,
    /// A new generation's closing report is reset to the cut, so that the cut waits for it.
    PinnedCut,
    /// An output that depends on an observed value waits until the observation is logged.
    ObservedValues,
    /// Armed timers are part of the record's version.
    TimersInVersion,
    /// Time steps travel in front of the packets they precede.
    StepsFirst,
    /// A released resource may be taken again only a window later.
    ReleaseQuarantine,
    /// Suppression goes by the whole position, not by the clock alone.
    PathPositions,
    /// The cut waits for the egress as it does for vertices.
    EgressClosing,
    /// A vertex off the path closes what it has finished, not what has reached it.
    OffPathProgress,
    /// A splitter keeps what it sent until the cut has passed it.
    RetainedOutputs,
    /// A shard applies the batches of a session in the order of their numbers, each once.
    BatchOrder,
    /// What came of a random number is logged, and the number not drawn again.
    LoggedDraws,
    /// A resource is given back by its owner alone.
    OwnedReleases,
    /// The new owner of a slot waits until the old one has closed the boundary and the records are loaded.
    BufferedHandover,
    /// Whoever gains a slot is told to go on when those who lost it have closed the boundary.
    FlushedRelease,
    /// Where the flows of a slot come from another sender, they are held until the old one has passed the boundary.
    HeldDownstream,
    /// Whoever gets its first slots is waited for from that boundary on by those it sends to.
    AwaitedSenders,
    /// And by the shards, which hear of it in front of the operations from there on.
    AwaitedIssuers,
    /// A packet goes by the routing table of its clock, not by the newest.
    RoutedByClock,
    /// What was written below a boundary is sent to the shards before the boundary is closed.
    FlushedState,
    /// A version is accepted from who owned the slot at its clock.
    TermFences,
    /// An operation on a `clock` object waits until every instance's progress has reached it.
    ClockParking,
    /// An instance caches cross-flow values only while it owns all slots of its vertex.
    CacheTerms,
    /// A cached cross-flow value is used only by operations below which none can come any more.
    CacheOrder,
    /// The instances have what was written to replicated values below a boundary before the boundary is closed.
    AcknowledgedChanges,
    /// A replicated value is read as it was a window ago, not as far as it is known.
    DelayedReads,
    /// A root's progress stays below what waits for it.
    WaitingProgress,
    /// Packets that may come by several ways, or of several roots, are taken in the order of the input.
    JoinedOrder,
}

/// Which protections are on.
pub trait Protections: 'static {
    /// Whether `protection` is on.
    fn on(protection: Protection) -> bool;
}

/// All of them: the product.
#[derive(Clone, Copy, Debug)]
pub struct All;

impl Protections for All {
    #[inline(always)]
    fn on(_: Protection) -> bool {
        true
    }
}
