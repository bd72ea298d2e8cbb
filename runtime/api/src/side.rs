//! The two sides of a chain.

/// One of the two interfaces a chain lies between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// Where the hosts are that are protected or translated; also that of packets from captures.
    #[default]
    Inside,
    /// Where the rest of the world is.
    Outside,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Inside, Self::Outside];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Inside => Self::Outside,
            Self::Outside => Self::Inside,
        }
    }

    /// Its name in files and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inside => "inside",
            Self::Outside => "outside",
        }
    }
}
