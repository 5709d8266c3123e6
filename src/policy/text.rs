//! Text for people: values that are safe to show, short lists, lengths of time.

use std::{borrow::Cow, fmt};

use jiff::SignedDuration;

/// Whether a character is safe to show: it is in none of the Unicode categories Cc, Cf, Co, Cs, Zl
/// and Zp (contract section 2). The others can reorder, join or hide the characters around them, or
/// end the line: with these, a record could look different from its content.
pub fn is_printable(character: char) -> bool {
    !matches!(character,
        // Cc
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        // Cf, as of Unicode 15 to 17
        | '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}' | '\u{891}' | '\u{8e2}'
        | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}'
        | '\u{2066}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}'
        | '\u{e0020}'..='\u{e007f}'
        // Zl, Zp
        | '\u{2028}' | '\u{2029}'
        // Co; a `char` is never Cs
        | '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..='\u{ffffd}' | '\u{100000}'..='\u{10fffd}')
}

/// A text on one line: characters that are not printable are written as `\u{a}`.
pub fn on_one_line(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_printable) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if is_printable(character) {
            line.push(character);
        } else {
            line.extend(character.escape_unicode());
        }
    }
    Cow::Owned(line)
}

/// Text that comes from outside: a name, an address, a condition, the text of an error. It enters a
/// message only through [`fmt::Display`], which shows one word as it is and puts everything else in
/// double quotes, with `"`, `\` and what is not printable escaped. So it never ends a line, and it
/// never looks like words of the gate.
///
/// At most 256 characters are shown, or as many as the precision says: `{value:.80}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Foreign(String);

impl Foreign {
    /// The most characters that are shown: a name in Kubernetes has at most 253.
    const SHOWN: usize = 256;
    /// Characters beside letters and digits that names, addresses and times are made of.
    const IN_WORDS: &[char] = &['-', '.', '_', '/', ':', '@', '%', '+', '='];

    /// The text itself, not escaped. It must not enter a message.
    pub fn raw(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for Foreign {
    /// Keeps as much of the text as can be shown, and one character more.
    fn from(text: T) -> Self {
        let mut text = text.into();
        if let Some((end, _)) = text.char_indices().nth(Self::SHOWN + 1) {
            text.truncate(end);
            text.shrink_to_fit();
        }
        Self(text)
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text) = self;
        let in_words = |character: char| character.is_ascii_alphanumeric() || Self::IN_WORDS.contains(&character);
        let most = formatter.precision().unwrap_or(Self::SHOWN).min(Self::SHOWN);
        if text.is_empty() || !text.chars().all(in_words) {
            return formatter.write_str(&in_quotes(text, most));
        }
        let (shown, cut) = cut(text, most);
        write!(formatter, "{shown}{cut}")
    }
}

/// A value in double quotes, on one line, at most 80 characters of it: safe to show on a terminal.
pub fn quoted(value: &str) -> String {
    /// Enough to recognise a value, and short enough to keep a message readable.
    const SHOWN: usize = 80;
    in_quotes(value, SHOWN)
}

fn in_quotes(text: &str, most: usize) -> String {
    let (shown, cut) = cut(text, most);
    format!("\"{}{cut}\"", on_one_line(&shown.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// The first characters of a text, and `…` if there are more.
fn cut(text: &str, most: usize) -> (&str, &'static str) {
    match text.char_indices().nth(most) {
        Some((end, _)) => (text.get(..end).unwrap_or_default(), "…"),
        None => (text, ""),
    }
}

/// The text, if it has at most `most` bytes; otherwise as many of its words as fit, and `…`.
pub fn shortened(text: String, most: usize) -> String {
    const CUT: &str = " …";
    if text.len() <= most {
        return text;
    }
    let end = text.floor_char_boundary(most.saturating_sub(CUT.len()));
    let shown = text.get(..end).unwrap_or_default();
    // A word is cut only if it is longer than half of what is shown.
    let words = shown.rsplit_once(' ').map_or(shown, |(words, _)| words);
    let shown = if words.len() * 2 > shown.len() { words } else { shown };
    format!("{}{CUT}", shown.trim_end())
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

/// How many pods, volumes or other objects a message names (contract section 9): more would hide
/// the other reasons of a denial.
pub const NAMED: usize = 5;

/// Shows the first five items, then the number of the others: `a, b, c, d, e and 2 more`.
pub struct FirstFive<'a, T>(pub &'a [T]);

impl<T: fmt::Display> fmt::Display for FirstFive<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    fn foreign_text_is_one_plain_word_or_in_quotes() {
        for (text, shown) in [
            ("prod/db-0", "prod/db-0"),
            ("10.0.0.7", "10.0.0.7"),
            ("", "\"\""),
            ("rados said no", "\"rados said no\""),
            ("10.0.0.7\nallowed", "\"10.0.0.7\\u{a}allowed\""),
            ("a\"b\\", "\"a\\\"b\\\\\""),
            ("evil\u{202e}txt", "\"evil\\u{202e}txt\""),
        ] {
            assert_eq!(Foreign::from(text).to_string(), shown);
        }
        let long = Foreign::from("x".repeat(10_000_000));
        assert_eq!(long.raw().len(), 257);
        assert_eq!(long.to_string().chars().count(), 257);
        assert_eq!(format!("{long:.3}"), "xxx…");
        assert_eq!(format!("{:.3}", Foreign::from("a b c d")), "\"a b…\"");
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_between_words() {
        for (text, most, short) in [
            ("all of it", 9, "all of it"),
            ("all of them", 10, "all of …"),
            ("all of them", 11, "all of them"),
            ("a xxxxxxxxxxxxxxxxxxx", 15, "a xxxxxxxxx …"),
            ("ééééé", 9, "éé …"),
            ("anything", 0, " …"),
        ] {
            let shown = shortened(text.to_owned(), most);
            assert_eq!(shown, short, "{text}");
        }
    }

    #[test]
    fn a_quoted_value_is_short_and_on_one_line() {
        assert_eq!(quoted("a\"b\n"), "\"a\\\"b\\u{a}\"");
        assert_eq!(quoted(&"x".repeat(5000)).chars().count(), 83);
    }

    #[test]
    fn a_shortened_text_ends_after_a_word_unless_that_hides_half_of_it() {
        let shown = |text: &str, most| shortened(text.to_owned(), most);
        assert_eq!(shown("abcdef ghijklmnop", 15), "abcdef …");
        assert_eq!(shown("abcde ghijklmnop", 15), "abcde ghijk …", "less than half would be left");
        assert_eq!(shown("ab cdefghijklmnop", 14), "ab cdefghi …");
        assert_eq!(shown("abcdef", 6), "abcdef");
    }

    #[test]
    fn what_happens_now_is_not_ahead_of_a_clock() {
        let ago = |seconds| Ago(SignedDuration::from_secs(seconds)).to_string();
        assert_eq!((ago(0).as_str(), ago(3).as_str()), ("0s ago", "3s ago"));
        assert_eq!(ago(-3), "3s ahead of the gate's clock");
    }
}
