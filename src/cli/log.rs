//! The lines of an audit log, from a file or from `kubectl logs`.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use anyhow::Context as _;
use serde::Deserialize;

use super::name_of;

/// The lines of a file; `-` is standard input.
pub fn lines(path: &Path) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Line>>> {
    let name = name_of(path);
    let input: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).with_context(|| format!("cannot read {name}"))?))
    };
    let numbered = input.split(b'\n').zip(1..);
    Ok(numbered.map(move |(bytes, number)| {
        let bytes = bytes.with_context(|| format!("cannot read {name}"))?;
        Ok(Line::new(number, &String::from_utf8_lossy(&bytes)))
    }))
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    pub number: usize,
    /// Without what `kubectl logs` puts before it (`--prefix`, `--timestamps`).
    pub text: String,
    /// The value of `event`, if the line is a JSON object with one.
    pub event: Option<String>,
}

impl Line {
    fn new(number: usize, text: &str) -> Self {
        /// The only field that every line of the program has, whatever it is about.
        #[derive(Deserialize)]
        struct Event {
            event: String,
        }
        let text = text.find('{').and_then(|start| text.get(start..)).unwrap_or_default().trim_end();
        let event = serde_json::from_str::<Event>(text).ok().map(|Event { event }| event);
        Self { number, text: text.to_owned(), event }
    }

    /// Whether it is the line of a decision.
    pub fn is_decision(&self) -> bool {
        self.event.as_deref() == Some("decision")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubectl_puts_before_a_line_is_no_part_of_it() {
        for text in [
            r#"{"event":"decision"}"#,
            r#"[pod/fencegate-1/fencegate] {"event":"decision"}"#,
            "2026-11-22T10:12:00.1Z {\"event\":\"decision\"}\r",
        ] {
            let line = Line::new(1, text);
            assert!(line.is_decision() && line.text == r#"{"event":"decision"}"#, "{line:?}");
        }
        for text in ["", "hello", "{", "[1]", r#"{"event":5}"#] {
            assert_eq!(Line::new(1, text).event, None, "{text}");
        }
        assert!(!Line::new(1, r#"{"event":"log"}"#).is_decision());
    }
}
