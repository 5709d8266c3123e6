//! The gate's clock. It is an argument, so that a decision can be repeated at the time when it was
//! made.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;

/// A source of the current time.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's wall clock.
    #[default]
    System,
    /// A fixed time that can be set. For repeated decisions, the demo and tests.
    Set(Arc<ArcSwap<Timestamp>>),
}

impl Clock {
    /// A clock that always shows `now`.
    pub fn at(now: Timestamp) -> Self {
        Self::Set(Arc::new(ArcSwap::from_pointee(now)))
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            Self::Set(now) => **now.load(),
        }
    }
}
