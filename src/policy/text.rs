//! Text for people: values that are safe to show, short lists, lengths of time.

use std::fmt;

use jiff::SignedDuration;

/// Whether a character is safe to show. Control characters are not, nor are characters that
/// reorder, join or hide the characters around them: with these, a record could look different from
/// its content.
pub fn is_printable(character: char) -> bool {
    !character.is_control()
        && !matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}' | '\u{e000}'..='\u{f8ff}'
            | '\u{e0000}'..='\u{e0fff}' | '\u{f0000}'..='\u{10ffff}')
}

/// A value in double quotes, on one line, at most 80 characters of it: safe to show on a terminal.
pub fn quoted(value: &str) -> String {
    /// Enough to recognise a value, and short enough to keep a message readable.
    const SHOWN: usize = 80;
    let mut shown: String = value
        .chars()
        .take(SHOWN)
        .flat_map(|character| {
            match character {
                '"' | '\\' => format!("\\{character}"),
                _ if is_printable(character) => character.to_string(),
                _ => character.escape_unicode().to_string(),
            }
            .chars()
            .collect::<Vec<_>>()
        })
        .collect();
    if value.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

/// Writes the items with a separator between them.
pub(super) fn write_joined<T: fmt::Display>(
    formatter: &mut fmt::Formatter<'_>,
    items: &[T],
    separator: &str,
) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            formatter.write_str(separator)?;
        }
        write!(formatter, "{item}")?;
    }
    Ok(())
}

/// Shows the first five names, then the number of the others: `a, b, c, d, e and 2 more`.
pub struct FirstFive<'a>(pub &'a [String]);

impl fmt::Display for FirstFive<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// The contract's number (section 9): more would hide the other reasons of a denial.
        const NAMED: usize = 5;
        let named = self.0.get(..NAMED).unwrap_or(self.0);
        if named.is_empty() {
            return formatter.write_str("none");
        }
        write_joined(formatter, named, ", ")?;
        match self.0.len() - named.len() {
            0 => Ok(()),
            more => write!(formatter, " and {more} more"),
        }
    }
}

/// Shows a length of time in its largest two units, without a sign: `4s`, `3m12s`, `25h`, `2d3h`.
pub struct Span(pub SignedDuration);

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        let seconds = self.0.as_secs().unsigned_abs();
        let (large, large_unit, rest, small_unit) = match seconds {
            0..MINUTE => (seconds, "s", 0, ""),
            MINUTE..HOUR => (seconds / MINUTE, "m", seconds % MINUTE, "s"),
            // Up to two days, shown in hours: users compare the value with limits like 24h.
            HOUR..172_800 => (seconds / HOUR, "h", seconds % HOUR / MINUTE, "m"),
            _ => (seconds / DAY, "d", seconds % DAY / HOUR, "h"),
        };
        write!(formatter, "{large}{large_unit}")?;
        if rest > 0 { write!(formatter, "{rest}{small_unit}") } else { Ok(()) }
    }
}

/// Shows how long ago something happened. If clocks disagree, the time may be ahead of the gate's
/// clock, and this is shown instead.
pub struct Ago(pub SignedDuration);

impl fmt::Display for Ago {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.as_secs() < 0 {
            write!(formatter, "{} ahead of the gate's clock", Span(self.0))
        } else {
            write!(formatter, "{} ago", Span(self.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_shown_in_its_largest_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (4, "4s"),
            (60, "1m"),
            (192, "3m12s"),
            (86_400, "24h"),
            (90_060, "25h1m"),
            (183_600, "2d3h"),
            (-7, "7s"),
        ] {
            assert_eq!(Span(SignedDuration::from_secs(seconds)).to_string(), text);
        }
        assert_eq!(Ago(SignedDuration::from_secs(-7)).to_string(), "7s ahead of the gate's clock");
    }

    #[test]
    fn at_most_five_names_are_listed() {
        let names: Vec<String> = (0..7).map(|n| format!("ns/p{n}")).collect();
        assert_eq!(FirstFive(&names).to_string(), "ns/p0, ns/p1, ns/p2, ns/p3, ns/p4 and 2 more");
        assert_eq!(FirstFive(&names[..5]).to_string(), "ns/p0, ns/p1, ns/p2, ns/p3, ns/p4");
    }

    #[test]
    fn a_quoted_value_is_short_and_on_one_line() {
        assert_eq!(quoted("a\"b\n"), "\"a\\\"b\\u{a}\"");
        assert_eq!(quoted(&"x".repeat(5000)).chars().count(), 83);
    }
}
