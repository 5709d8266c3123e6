//! Waiting: for a while, and until somebody interrupts it.

use std::{fmt, io, process::ExitCode, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep},
};

/// How often the cluster is read while something is waited for.
const BEAT: Duration = Duration::from_secs(1);

/// The end of a wait that was in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    TimedOut(Duration),
    Interrupted,
}

impl Ended {
    /// 1, or what a shell expects of a program that was interrupted.
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::TimedOut(_) => ExitCode::from(1),
            Self::Interrupted => ExitCode::from(130),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut(after) => write!(formatter, "after {}s", after.as_secs()),
            Self::Interrupted => formatter.write_str("interrupted"),
        }
    }
}

/// A wait that ends after some time, or when it is interrupted.
pub struct Patience {
    timeout: Duration,
    end: Instant,
    interrupt: Signal,
}

impl Patience {
    /// A wait that begins now.
    ///
    /// # Errors
    /// If interrupts cannot be noticed.
    pub fn new(timeout: Duration) -> io::Result<Self> {
        Ok(Self { timeout, end: Instant::now() + timeout, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for a moment. Returns the end of the wait, if this is it.
    pub async fn beat(&mut self) -> Option<Ended> {
        if Instant::now() >= self.end {
            return Some(Ended::TimedOut(self.timeout));
        }
        tokio::select! {
            _ = self.interrupt.recv() => Some(Ended::Interrupted),
            () = sleep(BEAT) => None,
        }
    }
}
