//! The output that the audit log is written to: one line at a time, each with a deadline.
//!
//! A write to a full pipe blocks its thread until somebody reads. So at most one thread writes, and
//! everyone else leaves a line for it and waits, each until its own deadline. A line that was given
//! up before it was begun is never written. A line that was begun cannot be taken back: it is
//! completed, and the line after it withdraws it.
//!
//! To wake a thread costs more than to write a line. So the thread writes every line that was left
//! by then, and ends when there is none.

use std::{
    io::{self, Write},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    sync::{oneshot, watch},
    task::{spawn_blocking, yield_now},
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
    desk: Arc<Desk>,
    health: watch::Sender<Health>,
    clock: Clock,
}

/// Where lines are left for the thread that writes.
struct Desk(Mutex<Contents>);

struct Contents {
    waiting: Vec<Entry>,
    /// Not there while a thread writes.
    pen: Option<Pen>,
}

/// A line that waits until it is written.
struct Entry {
    line: String,
    /// For the line that withdraws this one. A line that is not about a decision needs none.
    withdrawal: Option<Withdrawal>,
    /// Told when the line is in the output. Closed if the line was given up.
    confirm: oneshot::Sender<io::Result<()>>,
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
        let contents = Contents { waiting: Vec::new(), pen: Some(Pen::new(Box::new(output))) };
        Self { desk: Arc::new(Desk(Mutex::new(contents))), health: watch::Sender::default(), clock }
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
        let mut confirmed = self.leave(line, Some(withdrawal));
        // Cancel-safe: if this call ends here, the thread finds that nobody waits.
        let confirmation = if let Ok(confirmation) = timeout_at(by, &mut confirmed).await {
            confirmation.ok()
        } else {
            // From here on, a confirmation cannot be sent. One that was sent just now counts.
            confirmed.close();
            confirmed.try_recv().ok()
        };
        confirmation.map_or(Err(WriteError::Late), |result| result.map_err(WriteError::Write))
    }

    /// Leaves a line to be written. The receiver is told when it is in the output; if the receiver
    /// is closed, the line is given up.
    fn leave(&self, line: String, withdrawal: Option<Withdrawal>) -> oneshot::Receiver<io::Result<()>> {
        let (confirm, confirmed) = oneshot::channel();
        if let Some(pen) = self.desk.add(Entry { line, withdrawal, confirm }) {
            let (desk, clock) = (Arc::clone(&self.desk), self.clock.clone());
            // Not awaited: it may outlive this call, but only one at a time has the pen.
            tokio::spawn(async move {
                // Every call that is ready now leaves its line first.
                yield_now().await;
                spawn_blocking(move || desk.write(pen, &clock));
            });
        }
        confirmed
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
    async fn probe(&self) -> io::Result<()> {
        let unrecorded = self.health.borrow().unrecorded;
        let probe = Probe { unrecorded }.line(self.clock.now());
        self.leave(probe, None).await.map_err(io::Error::other)??;
        self.health.send_modify(|health| {
            health.unrecorded -= unrecorded;
            if health.unrecorded == 0 {
                health.failure = None;
            }
        });
        Ok(())
    }
}

impl Desk {
    /// Adds a line. Returns the pen if no thread has it.
    fn add(&self, entry: Entry) -> Option<Pen> {
        let mut contents = self.contents();
        // While the output is blocked, lines must not pile up beyond the calls that wait.
        contents.waiting.retain(|entry| !entry.confirm.is_closed());
        contents.waiting.push(entry);
        contents.pen.take()
    }

    /// Writes lines until there are none, and puts the pen down.
    fn write(&self, mut pen: Pen, clock: &Clock) {
        loop {
            let mut contents = self.contents();
            if contents.waiting.is_empty() {
                contents.pen = Some(pen);
                return;
            }
            let entries = mem::take(&mut contents.waiting);
            drop(contents);
            for entry in entries {
                put(&mut pen, entry, clock);
            }
        }
    }

    /// No code that holds the lock can panic halfway through a change.
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a line and confirms it. If the line is in the output, whole or in part, and nobody was
/// told in time that it is, the next line withdraws it.
fn put(pen: &mut Pen, Entry { line, withdrawal, confirm }: Entry, clock: &Clock) {
    if confirm.is_closed() {
        return;
    }
    let is_on_record = match pen.write_line(&line) {
        Progress::Whole => confirm.send(Ok(())).is_ok(),
        Progress::Begun(error) => {
            let _ = confirm.send(Err(error));
            false
        }
        Progress::Nothing(error) => return drop(confirm.send(Err(error))),
    };
    if let (false, Some(withdrawal)) = (is_on_record, withdrawal) {
        pen.append(&withdrawal.line(clock.now()));
        // If this fails, it is written before the next line.
        let _ = pen.write_rest();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        io::{Read as _, pipe},
        sync::atomic::{AtomicBool, Ordering},
    };

    use futures_util::future::join_all;
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

    /// An output that is blocked in the middle of a line whose caller has left, and its reader.
    async fn blocked() -> (Output, impl std::io::Read + Send + 'static) {
        let (mut reader, writer) = pipe().unwrap();
        let output = Output::new(writer, Clock::System);
        let long = "x".repeat(1_000_000);
        let begun = spawn_blocking(move || {
            reader.read_exact(&mut [0]).unwrap();
            reader
        });
        let reader = tokio::select! {
            _ = write(&output, &long, PATIENCE) => panic!("no pipe holds that much"),
            reader = begun => reader.unwrap(),
        };
        (output, reader)
    }

    #[tokio::test]
    async fn a_caller_that_leaves_before_its_answer_has_its_line_withdrawn() {
        let (output, mut reader) = blocked().await;
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
    async fn lines_that_were_given_up_do_not_pile_up_behind_an_output_that_is_blocked() {
        let (output, _reader) = blocked().await;
        for _ in 0..3 {
            assert!(matches!(write(&output, "given up", Duration::ZERO).await, Err(WriteError::Late)));
        }
        assert_eq!(output.desk.contents().waiting.len(), 1);
    }

    /// An output that is full until somebody empties it, as a disk is.
    struct Disk(Arc<AtomicBool>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0.load(Ordering::Relaxed) { Ok(bytes.len()) } else { Err(io::ErrorKind::StorageFull.into()) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_probe_line_ends_a_failure() {
        let has_room = Arc::new(AtomicBool::new(false));
        let output = Output::new(Disk(Arc::clone(&has_room)), Clock::System);
        assert_eq!(
            write(&output, "lost", PATIENCE).await.unwrap_err().to_string(),
            "cannot write to the audit log: no storage space"
        );
        assert!(output.probe().await.is_err());
        assert!(output.failure().is_some());

        has_room.store(true, Ordering::Relaxed);
        output.probe().await.unwrap();
        assert_eq!(output.failure(), None);
    }

    #[tokio::test]
    async fn lines_of_many_calls_are_all_written_each_whole() {
        let (mut reader, writer) = pipe().unwrap();
        let output = Output::new(writer, Clock::System);
        let text = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        let line = |n: usize| format!("{n:05000}");
        let written = join_all((0..1000).map(|n| {
            let (output, line) = (&output, line(n));
            async move { write(output, &line, PATIENCE).await }
        }));
        assert!(written.await.into_iter().all(|written| written.is_ok()));
        drop(output);
        let text = text.join().unwrap();
        let lines: BTreeSet<&str> = text.lines().collect();
        assert_eq!(lines, (0..1000).map(line).collect::<Vec<_>>().iter().map(String::as_str).collect());
    }
}
