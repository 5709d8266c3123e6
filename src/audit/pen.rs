//! Writes whole lines to an output that may fail or fill up in the middle of one.

use std::{
    io::{self, ErrorKind, Write},
    thread,
    time::Duration,
};

/// Pause before the next attempt to write to an output that takes nothing now and does not block.
const PAUSE: Duration = Duration::from_millis(10);

/// The only writer of an output. Every line is complete and starts on a line of its own, whatever
/// the output does: the rest of a line that was begun is written before anything else.
pub(super) struct Pen {
    output: Box<dyn Write + Send>,
    /// What must be written before the next line.
    rest: Vec<u8>,
}

/// How far a line got.
#[derive(Debug)]
pub(super) enum Progress {
    /// All of it is in the output.
    Whole,
    /// The output failed in the middle of it. The rest is written before the next line.
    Begun(io::Error),
    /// Nothing of it is in the output.
    Nothing(io::Error),
}

impl Pen {
    pub fn new(output: Box<dyn Write + Send>) -> Self {
        Self { output, rest: Vec::new() }
    }

    /// Writes a line. Blocks as long as the output does.
    pub fn write_line(&mut self, line: &str) -> Progress {
        if let Err(error) = self.write_rest() {
            return Progress::Nothing(error);
        }
        self.append(line);
        let length = self.rest.len();
        match self.write_rest() {
            Ok(()) => Progress::Whole,
            Err(error) if self.rest.len() < length => Progress::Begun(error),
            Err(error) => {
                self.rest.clear();
                Progress::Nothing(error)
            }
        }
    }

    /// Adds a line that must come before the next one.
    pub fn append(&mut self, line: &str) {
        self.rest.extend_from_slice(line.as_bytes());
        self.rest.push(b'\n');
    }

    /// Writes what must come before the next line.
    pub fn write_rest(&mut self) -> io::Result<()> {
        while !self.rest.is_empty() {
            match self.output.write(&self.rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.rest.drain(..written);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another process made the pipe that it shares with this one non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Arc, Mutex},
    };

    use super::*;

    /// An output that takes as many bytes at a time as it is told, or fails; afterwards all.
    #[derive(Clone, Default)]
    struct Scripted {
        script: Arc<Mutex<VecDeque<Result<usize, ErrorKind>>>>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let most = self.script.lock().unwrap().pop_front().unwrap_or(Ok(usize::MAX))?;
            let taken = &bytes[..most.min(bytes.len())];
            self.taken.lock().unwrap().extend_from_slice(taken);
            Ok(taken.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Writes two lines to an output with this script. Returns how far each got, and the output.
    fn two_lines(script: &[Result<usize, ErrorKind>]) -> (&'static str, &'static str, String) {
        let output = Scripted::default();
        output.script.lock().unwrap().extend(script);
        let mut pen = Pen::new(Box::new(output.clone()));
        let mut write = |line| match pen.write_line(line) {
            Progress::Whole => "whole",
            Progress::Begun(_) => "begun",
            Progress::Nothing(_) => "nothing",
        };
        let (first, second) = (write("first"), write("second"));
        (first, second, String::from_utf8(output.taken.lock().unwrap().clone()).unwrap())
    }

    #[test]
    fn a_line_is_written_whole_or_not_at_all_and_its_rest_comes_before_the_next_one() {
        use ErrorKind::{BrokenPipe, Interrupted, StorageFull, WouldBlock};
        for (script, expected) in [
            (vec![], ("whole", "whole", "first\nsecond\n")),
            (vec![Ok(2), Ok(1)], ("whole", "whole", "first\nsecond\n")),
            (vec![Ok(2), Err(Interrupted), Err(WouldBlock)], ("whole", "whole", "first\nsecond\n")),
            (vec![Err(BrokenPipe)], ("nothing", "whole", "second\n")),
            (vec![Ok(0)], ("nothing", "whole", "second\n")),
            (vec![Ok(2), Err(StorageFull)], ("begun", "whole", "first\nsecond\n")),
            (vec![Ok(2), Err(StorageFull), Err(StorageFull)], ("begun", "nothing", "fi")),
            (vec![Ok(2), Err(StorageFull), Ok(4), Ok(1), Err(StorageFull)], ("begun", "begun", "first\ns")),
        ] {
            let (first, second, output) = two_lines(&script);
            assert_eq!((first, second, output.as_str()), expected, "{script:?}");
        }
    }
}
