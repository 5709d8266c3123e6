//! The audit log: one JSON line on standard output for each decision about a guarded write, before
//! the write is answered.
//!
//! A line holds the request, both objects and the facts, each with the fields that are judged. So
//! the decision can be made again from the line and the configuration: [`Recorded`].

use std::{fs::File, io, os::fd::AsFd as _, sync::Arc};

use tokio::{sync::mpsc, time::Instant};

use crate::clock::Clock;

mod line;
mod output;
mod pen;
mod recorded;

pub use line::Line;
pub use output::{Output, WriteError};
pub use recorded::{LineError, Outcome, Recorded, named};

/// Where the audit log is written to.
#[derive(Clone)]
pub enum Audit {
    /// To an output that may fail, fill up, or be slow.
    Output(Arc<Output>),
    /// Nowhere. `fencegate review` prints the answer instead.
    Discard,
    /// To a channel, one message for each line.
    Channel(mpsc::UnboundedSender<String>),
}

impl Audit {
    /// To standard output. `clock` tells the time of the lines that are not about a decision.
    ///
    /// # Errors
    /// If standard output cannot be used.
    pub fn stdout(clock: Clock) -> io::Result<Self> {
        // Not `io::Stdout`: its buffer could keep a part of a line.
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self::Output(Arc::new(Output::new(file, clock))))
    }

    /// Writes one line. Returns when all of it is written, or with an error at `by`. A line that
    /// was given up is not written later. If a part of it was written by then, it is completed, and
    /// a line with `event: "withdrawn"` follows.
    ///
    /// # Errors
    /// If the line is not on record.
    pub async fn write(&self, line: &Line<'_>, by: Instant) -> Result<(), WriteError> {
        match self {
            Self::Output(output) => output.write(serde_json::to_string(line)?, line.withdrawal(), by).await,
            Self::Discard => Ok(()),
            Self::Channel(sender) => sender.send(serde_json::to_string(line)?).map_err(|_| WriteError::NoReceiver),
        }
    }

    /// Why decisions cannot be put on record; `None` if they can.
    pub fn failure(&self) -> Option<String> {
        match self {
            Self::Output(output) => output.failure(),
            Self::Discard | Self::Channel(_) => None,
        }
    }

    /// After a failure, tries every second to write a probe line, until one gets through. Returns
    /// only if the audit log cannot fail.
    pub async fn recover(&self) {
        if let Self::Output(output) = self {
            output.recover().await;
        }
    }
}
