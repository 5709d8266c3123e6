//! The gate's clock: an argument, so that a decision can be made again as it was made then.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;

/// Tells the time.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's wall clock.
    #[default]
    System,
    /// Stands still at a time that can be set: for replaying decisions, and for stories.
    Set(Arc<ArcSwap<Timestamp>>),
}

impl Clock {
    /// A clock that stands at `now`.
    pub fn at(now: Timestamp) -> Self {
        Self::Set(Arc::new(ArcSwap::from_pointee(now)))
    }

    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            Self::Set(now) => **now.load(),
        }
    }
}
