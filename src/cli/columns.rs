//! Tables, as kubectl prints them.

use std::io::Write as _;

use tabwriter::{Alignment, TabWriter};

use crate::policy::text::on_one_line;

/// What kubectl prints for a value that is not there.
pub const NONE: &str = "<none>";

/// Lines of cells, each column as wide as its widest cell.
pub fn aligned(mut lines: impl Iterator<Item = Vec<String>>) -> String {
    let mut writer = TabWriter::new(Vec::new()).minwidth(0).padding(3).alignment(Alignment::Left);
    // Nothing can fail: the writer is a buffer.
    let written = lines.try_for_each(|line| writeln!(writer, "{}", line.join("\t")));
    let text = written.ok().and_then(|()| writer.into_inner().ok()).unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}

/// A value without spaces, so that scripts can count columns.
pub fn word(value: &str) -> String {
    let value = on_one_line(value);
    if value.is_empty() { NONE.to_owned() } else { value.replace(char::is_whitespace, "_") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_no_spaces() {
        assert_eq!(word("alice, OPS-123"), "alice,_OPS-123");
        assert_eq!(word("a\tb\nc"), "a\\u{9}b\\u{a}c");
        assert_eq!(word(""), "<none>");
    }
}
