//! The output that the audit log is written to: one line at a time, each with a deadline.
//!
//! A write to a full pipe blocks its thread until somebody reads. So at most one thread writes, and
//! everyone else waits for the pen until their own deadline. A line that was given up before it was
//! begun is never written. A line that was begun cannot be taken back: it is completed, and the
//! line after it withdraws it.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    sync::{Mutex, oneshot, watch},
    task::spawn_blocking,
    time::{Instant, sleep, timeout_at},
};

use super::{
    line::{Probe, Withdrawal},
    pen::{Pen, Progress},
};
use crate::clock::Clock;

/// Pause before each attempt to write a probe line (contract section 4).
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Why a line is not in the audit log.
#[derive(Debug, Error)]
pub enum WriteError {
    #[error("the line cannot be serialised: {0}")]
    Serialise(#[from] serde_json::Error),
    #[error("cannot write to the audit log: {0}")]
    Write(#[from] io::Error),
    #[error("the audit log did not take the line in time")]
    Late,
    #[error("nobody receives the audit log")]
    NoReceiver,
}

/// An output, for example standard output.
pub struct Output {
    pen: Arc<Mutex<Pen>>,
    health: Arc<watch::Sender<Health>>,
    clock: Clock,
}

/// Whether lines can be written, since the last probe line.
#[derive(Debug, Default)]
struct Health {
    /// The first failure.
    failure: Option<String>,
    /// How many lines could not be written in time.
    unrecorded: u64,
}

impl Output {
    pub(super) fn new(output: impl Write + Send + 'static, clock: Clock) -> Self {
        let pen = Arc::new(Mutex::new(Pen::new(Box::new(output))));
        Self { pen, health: Arc::new(watch::Sender::default()), clock }
    }

    /// Why decisions cannot be put on record; `None` if they can.
    pub(super) fn failure(&self) -> Option<String> {
        self.health.borrow().failure.clone()
    }

    /// Writes a line. Returns when all of it is in the output, or with an error at `by`.
    pub(super) async fn write(&self, line: String, withdrawal: Withdrawal, by: Instant) -> Result<(), WriteError> {
        let written = self.attempt(line, withdrawal, by).await;
        if let Err(error) = &written {
            self.health.send_modify(|health| {
                health.failure.get_or_insert_with(|| error.to_string());
                health.unrecorded += 1;
            });
        }
        written
    }

    async fn attempt(&self, line: String, withdrawal: Withdrawal, by: Instant) -> Result<(), WriteError> {
        let pen = Arc::clone(&self.pen).lock_owned();
        let mut pen = timeout_at(by, pen).await.map_err(|_| WriteError::Late)?;
        let (confirm, mut confirmed) = oneshot::channel();
        let clock = self.clock.clone();
        // Not awaited: it may outlive this call, but only one at a time has the pen.
        drop(spawn_blocking(move || put(&mut pen, &line, confirm, || withdrawal.line(clock.now()))));
        // Cancel-safe: if this call ends here, `put` finds that nobody waits for its confirmation.
        let confirmation = if let Ok(confirmation) = timeout_at(by, &mut confirmed).await {
            confirmation.ok()
        } else {
            // From here on, a confirmation cannot be sent. One that was sent just now counts.
            confirmed.close();
            confirmed.try_recv().ok()
        };
        confirmation.map_or(Err(WriteError::Late), |result| result.map_err(WriteError::Write))
    }

    /// Waits for failures, and after each one tries every second to write a probe line. Never
    /// returns.
    pub(super) async fn recover(&self) {
        let mut health = self.health.subscribe();
        while health.wait_for(|health| health.failure.is_some()).await.is_ok() {
            sleep(PROBE_INTERVAL).await;
            match self.probe().await {
                Ok(()) => tracing::info!("the audit log can be written again"),
                Err(error) => tracing::warn!(%error, "the audit log still cannot be written"),
            }
        }
    }

    /// Writes a probe line, however long that takes.
    async fn probe(&self) -> Result<(), WriteError> {
        let mut pen = Arc::clone(&self.pen).lock_owned().await;
        let (health, clock) = (Arc::clone(&self.health), self.clock.clone());
        let probe = spawn_blocking(move || {
            let unrecorded = health.borrow().unrecorded;
            match pen.write_line(&Probe { unrecorded }.line(clock.now())) {
                Progress::Whole => {
                    health.send_replace(Health::default());
                    Ok(())
                }
                Progress::Begun(error) | Progress::Nothing(error) => Err(error),
            }
        });
        Ok(probe.await.map_err(io::Error::other)??)
    }
}

/// Writes a line and confirms it. If the line is in the output, whole or in part, and nobody was
/// told in time that it is, the next line withdraws it.
fn put(pen: &mut Pen, line: &str, confirm: oneshot::Sender<io::Result<()>>, withdrawal: impl FnOnce() -> String) {
    if confirm.is_closed() {
        return;
    }
    let is_on_record = match pen.write_line(line) {
        Progress::Whole => confirm.send(Ok(())).is_ok(),
        Progress::Begun(error) => {
            let _ = confirm.send(Err(error));
            false
        }
        Progress::Nothing(error) => return drop(confirm.send(Err(error))),
    };
    if !is_on_record {
        pen.append(&withdrawal());
        // If this fails, it is written before the next line.
        let _ = pen.write_rest();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, pipe};

    use serde_json::Value;

    use super::*;

    /// Enough to do something, and short enough to wait for.
    const SOON: Duration = Duration::from_millis(50);
    const PATIENCE: Duration = Duration::from_secs(20);

    async fn write(output: &Output, line: &str, within: Duration) -> Result<(), WriteError> {
        let withdrawal = Withdrawal { uid: "u".into(), node: "n1".into(), webhook: "validate" };
        output.write(line.to_owned(), withdrawal, Instant::now() + within).await
    }

    #[tokio::test]
    async fn a_line_that_was_given_up_in_the_middle_is_completed_and_withdrawn() {
        let (mut reader, writer) = pipe().unwrap();
        let output = Output::new(writer, Clock::System);
        let long = "x".repeat(1_000_000);
        let begun = Duration::from_secs(2);
        assert!(matches!(write(&output, &long, begun).await, Err(WriteError::Late)), "no pipe holds that much");
        assert!(matches!(write(&output, "never begun", SOON).await, Err(WriteError::Late)));
        assert_eq!(output.failure().unwrap(), "the audit log did not take the line in time");

        let text = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        write(&output, "next", PATIENCE).await.unwrap();
        drop(output);
        let text = text.join().unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[0], lines[2]), (3, long.as_str(), "next"));
        let withdrawal: Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!((&withdrawal["event"], &withdrawal["uid"]), (&"withdrawn".into(), &"u".into()));
    }

    #[tokio::test]
    async fn a_caller_that_leaves_before_its_answer_has_its_line_withdrawn() {
        let (mut reader, writer) = pipe().unwrap();
        let output = Output::new(writer, Clock::System);
        let long = "x".repeat(1_000_000);
        let begun = spawn_blocking(move || {
            reader.read_exact(&mut [0]).unwrap();
            reader
        });
        let mut reader = tokio::select! {
            _ = write(&output, &long, PATIENCE) => panic!("no pipe holds that much"),
            reader = begun => reader.unwrap(),
        };
        let text = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        write(&output, "next", PATIENCE).await.unwrap();
        drop(output);
        let text = text.join().unwrap();
        let told: Vec<bool> = text.lines().map(|line| line.contains(r#""event":"withdrawn""#)).collect();
        assert_eq!(told, [false, true, false]);
    }

    #[tokio::test]
    async fn a_probe_line_ends_a_failure() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let output = Output::new(writer, Clock::System);
        assert!(write(&output, "lost", PATIENCE).await.unwrap_err().to_string().contains("Broken pipe"));
        assert!(output.probe().await.is_err());
        assert!(output.failure().is_some());

        let output = Output { pen: Arc::new(Mutex::new(Pen::new(Box::new(io::sink())))), ..output };
        output.probe().await.unwrap();
        assert_eq!(output.failure(), None);
    }
}
