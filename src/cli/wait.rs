//! Waiting for a node, for a while.

use std::{fmt, time::Duration};

use tokio::time::{Instant, sleep};

use super::desk::{Desk, Row};

/// How often the cluster is read while something is waited for.
pub const BEAT: Duration = Duration::from_secs(1);

/// The end of a wait that was in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut(Duration);

impl fmt::Display for TimedOut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "after {}s", self.0.as_secs())
    }
}

/// A wait that ends after some time.
pub struct Patience {
    timeout: Duration,
    end: Instant,
    /// The error of the last read, which was told.
    told: Option<String>,
}

impl Patience {
    /// A wait that begins now.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, end: Instant::now() + timeout, told: None }
    }

    /// Waits for a moment. Returns the end of the wait, if this is it.
    pub async fn beat(&mut self) -> Option<TimedOut> {
        if Instant::now() >= self.end {
            return Some(TimedOut(self.timeout));
        }
        sleep(BEAT).await;
        None
    }

    /// Waits for a moment, and reads a node. A read that fails is told, and tried again: an API
    /// server that is away for a moment ends no wait.
    pub async fn next(&mut self, desk: &Desk, name: &str) -> Result<Row, TimedOut> {
        loop {
            if let Some(timed_out) = self.beat().await {
                return Err(timed_out);
            }
            match desk.node(name).await {
                Ok(row) => return Ok(row),
                Err(error) => {
                    let why = format!("{error:#}");
                    if self.told.as_ref() != Some(&why) {
                        eprintln!("{why}; trying again");
                        self.told = Some(why);
                    }
                }
            }
        }
    }
}
