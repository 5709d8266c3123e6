//! Log lines on their way to standard error.
//!
//! A write to a full pipe blocks its thread until somebody reads, and in a pod the same process
//! reads standard error and standard output. A decision must not wait for either. So one thread
//! writes, and a line that finds the queue full is dropped and counted.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

/// The most lines that wait: some hundred kilobytes.
const CAPACITY: usize = 1024;
/// How long the last lines may take at the end. A reader that is there needs much less.
const DRAIN: Duration = Duration::from_secs(1);

/// The way to an output. Each write is one line, and never waits.
#[derive(Clone)]
pub(super) struct Queue {
    waiting: SyncSender<Item>,
    /// How many lines found the queue full.
    dropped: Arc<AtomicU64>,
}

enum Item {
    Line(Vec<u8>),
    /// Everything before it is written.
    Done(SyncSender<()>),
}

impl Queue {
    /// Starts the thread that writes. It ends with the last of the queue's clones.
    pub fn start(output: impl Write + Send + 'static) -> Self {
        let (waiting, items) = sync_channel(CAPACITY);
        let dropped = Arc::new(AtomicU64::new(0));
        let queue = Self { waiting, dropped: Arc::clone(&dropped) };
        thread::spawn(move || write(items, output, &dropped));
        queue
    }

    /// Waits until the lines so far are written, but not for long.
    pub fn drain(&self) {
        let (done, written) = sync_channel(1);
        if self.waiting.try_send(Item::Done(done)).is_ok() {
            // If nobody reads the lines, nothing is left to do.
            let _ = written.recv_timeout(DRAIN);
        }
    }
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.waiting.try_send(Item::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(items: Receiver<Item>, mut output: impl Write, dropped: &AtomicU64) {
    let mut told = 0;
    for item in items {
        match item {
            // A line that cannot be written is lost: there is no other place for it.
            Item::Line(line) => drop(output.write_all(&line).and_then(|()| output.flush())),
            Item::Done(done) => drop(done.send(())),
        }
        let dropped = dropped.load(Ordering::Relaxed);
        if dropped > told {
            tracing::warn!(lines = dropped - told, "lines are missing from this log: nobody read it for a while");
            told = dropped;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, pipe};

    use super::*;

    #[test]
    fn lines_are_written_in_their_order_and_draining_waits_for_them() {
        let (reader, writer) = pipe().unwrap();
        let mut queue = Queue::start(writer);
        for number in 0..100 {
            queue.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        queue.drain();
        drop(queue);
        let lines: Vec<String> = BufReader::new(reader).lines().map(Result::unwrap).collect();
        assert_eq!(lines, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn a_reader_that_does_not_read_delays_no_line_and_gets_whole_lines_later() {
        let (reader, writer) = pipe().unwrap();
        let mut queue = Queue::start(writer);
        let line = format!("{}\n", "x".repeat(999));
        let all = 10 * CAPACITY;
        for _ in 0..all {
            queue.write_all(line.as_bytes()).unwrap();
        }
        let dropped = queue.dropped.load(Ordering::Relaxed);
        assert!(dropped > 0, "neither the pipe nor the queue holds that much");
        drop(queue);
        let lines = BufReader::new(reader).lines().map(Result::unwrap).inspect(|line| assert_eq!(line.len(), 999));
        assert_eq!(lines.count(), all - usize::try_from(dropped).unwrap());
    }
}
