//! Splits a list into its items while it arrives, so that no more than one of them is in memory.
//!
//! A list of the API server is one JSON object whose key `items` has an array of objects. Its items
//! are handed out one by one; everything else, the envelope, is kept and parsed at the end.

use memchr::{memchr, memchr2, memmem};
use thiserror::Error;

/// The most bytes of one item. etcd's limit for a request is 1.5 MiB, and JSON takes a small
/// multiple of what is stored.
const LONGEST_ITEM: usize = 8 * 1024 * 1024;
/// The most bytes of the envelope, which has a kind, a version and a token.
const LONGEST_ENVELOPE: usize = 64 * 1024;

/// Why bytes are not a list.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum SplitError {
    #[error("an item is not an object")]
    NotAnObject,
    #[error("the items are not separated by one comma each")]
    Comma,
    #[error("an item has more than {LONGEST_ITEM} bytes")]
    LongItem,
    #[error("there are more than {LONGEST_ENVELOPE} bytes around the items")]
    LongEnvelope,
}

/// Where in a list the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Outside the items.
    Envelope,
    /// Between the items.
    Between(Between),
    /// In an item.
    Item,
}

/// What may come next between items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    FirstOrEnd,
    CommaOrEnd,
    Next,
}

/// What was read of a list so far.
#[derive(Debug)]
pub(super) struct Splitter {
    place: Place,
    envelope: Vec<u8>,
    /// The beginning of an item whose end has not arrived yet.
    item: Vec<u8>,
    /// Open braces and brackets, of the envelope outside the items and of the item inside.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// Where in the envelope the last string at its top level begins.
    last_string: usize,
}

impl Splitter {
    pub(super) fn new() -> Self {
        Self {
            place: Place::Envelope,
            envelope: Vec::new(),
            item: Vec::new(),
            depth: 0,
            in_string: false,
            is_escaped: false,
            last_string: 0,
        }
    }

    /// Takes the next bytes, and hands out each item whose end is among them.
    pub(super) fn feed<E: From<SplitError>>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        // The first byte of this part of the item, or of the first one that begins here.
        let (mut start, mut index) = (0, 0);
        while let Some(&byte) = bytes.get(index) {
            match self.place {
                Place::Envelope => self.envelope(byte)?,
                Place::Between(expected) => {
                    self.between(byte, expected)?;
                    start = index;
                }
                Place::Item if self.in_string && !self.is_escaped && !matches!(byte, b'"' | b'\\') => {
                    // Most of a list is in strings.
                    let rest = bytes.get(index..).unwrap_or_default();
                    index += memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                    continue;
                }
                Place::Item => {
                    self.scan(byte);
                    if self.depth == 0 {
                        let part = bytes.get(start..=index).unwrap_or_default();
                        if self.item.is_empty() {
                            each(part)?;
                        } else {
                            self.extend(part)?;
                            each(&self.item)?;
                            self.item.clear();
                        }
                        self.place = Place::Between(Between::CommaOrEnd);
                    }
                }
            }
            index += 1;
        }
        if self.place == Place::Item {
            self.extend(bytes.get(start..).unwrap_or_default())?;
        }
        Ok(())
    }

    /// The list without its items, which must be parsed as well: it tells whether the list has come
    /// to its end.
    pub(super) fn envelope_without_items(&self) -> &[u8] {
        &self.envelope
    }

    fn extend(&mut self, part: &[u8]) -> Result<(), SplitError> {
        if self.item.len() + part.len() > LONGEST_ITEM {
            return Err(SplitError::LongItem);
        }
        self.item.extend_from_slice(part);
        Ok(())
    }

    fn envelope(&mut self, byte: u8) -> Result<(), SplitError> {
        if self.envelope.len() == LONGEST_ENVELOPE {
            return Err(SplitError::LongEnvelope);
        }
        if byte == b'"' && !self.in_string && self.depth == 1 {
            self.last_string = self.envelope.len();
        }
        let of_items = byte == b'[' && !self.in_string && self.depth == 1 && self.follows_items();
        self.envelope.push(byte);
        if of_items {
            self.place = Place::Between(Between::FirstOrEnd);
            self.depth = 0;
        } else {
            self.scan(byte);
        }
        Ok(())
    }

    /// Whether the envelope ends with the key `items` and a colon.
    fn follows_items(&self) -> bool {
        let end = self.envelope.get(self.last_string..).unwrap_or_default();
        let rest = end.strip_prefix(br#""items""#).unwrap_or_default();
        rest.iter().filter(|byte| !byte.is_ascii_whitespace()).eq([b':'].iter())
    }

    fn between(&mut self, byte: u8, expected: Between) -> Result<(), SplitError> {
        self.place = match (byte, expected) {
            (b' ' | b'\t' | b'\r' | b'\n', _) => self.place,
            (b'{', Between::FirstOrEnd | Between::Next) => {
                self.depth = 1;
                Place::Item
            }
            (b',', Between::CommaOrEnd) => Place::Between(Between::Next),
            (b']', Between::FirstOrEnd | Between::CommaOrEnd) => {
                self.envelope.push(byte);
                self.depth = 1;
                Place::Envelope
            }
            (b',' | b']', Between::Next) | (_, Between::CommaOrEnd) => return Err(SplitError::Comma),
            (_, Between::FirstOrEnd | Between::Next) => return Err(SplitError::NotAnObject),
        };
        Ok(())
    }

    /// Counts braces and brackets outside strings.
    fn scan(&mut self, byte: u8) {
        if self.in_string {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
        } else {
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }
}

/// Whether an item may have this text in a string. It is plain ASCII, so an item that has no escape
/// has it as it is, or not at all.
pub(super) fn may_have(item: &[u8], text: &str) -> bool {
    memmem::find(item, text.as_bytes()).is_some() || memchr(b'\\', item).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_that_has_neither_the_text_nor_an_escape_does_not_have_it() {
        for (item, expected) in [
            (r#"{"nodeName":"n1"}"#, true),
            (r#"{"nodeName":"\u006e1"}"#, true),
            (r#"{"nodeName":"n2"}"#, false),
            ("{}", false),
        ] {
            assert_eq!(may_have(item.as_bytes(), "n1"), expected, "{item}");
        }
    }

    /// The items and the envelope of a list that arrives in these parts.
    fn split<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Result<(Vec<String>, String), SplitError> {
        let (mut splitter, mut items) = (Splitter::new(), Vec::new());
        for part in parts {
            splitter.feed(part, |item| {
                items.push(String::from_utf8(item.to_vec()).unwrap());
                Ok::<_, SplitError>(())
            })?;
        }
        Ok((items, String::from_utf8(splitter.envelope_without_items().to_vec()).unwrap()))
    }

    fn whole(list: &str) -> Result<(Vec<String>, String), SplitError> {
        split([list.as_bytes()])
    }

    #[test]
    fn the_items_of_a_list_are_handed_out_wherever_its_bytes_are_cut() {
        let items = [
            r#"{"metadata":{"name":"a","labels":{"items":"[{]}"}},"spec":{"items":[{"a":[]},2]}}"#,
            r#"{ "text" : "a \" quote, a \\", "more":"\\\"}" }"#,
            "{}",
        ];
        let list = format!(
            "{{\"kind\":\"List\",\"metadata\":{{\"continue\":\"items\",\"items\":[1]}},\"items\" :\n [{}, {} ,\n{}] , \"x\":[\"items\",[]]}}\n",
            items[0], items[1], items[2]
        );
        let expected = (
            items.map(str::to_owned).to_vec(),
            "{\"kind\":\"List\",\"metadata\":{\"continue\":\"items\",\"items\":[1]},\"items\" :\n [] , \"x\":[\"items\",[]]}\n".to_owned(),
        );
        assert_eq!(whole(&list).unwrap(), expected);
        let bytes = list.as_bytes();
        for cut in 0..=bytes.len() {
            let (first, second) = bytes.split_at(cut);
            assert_eq!(split([first, second]).unwrap(), expected, "cut at {cut}");
        }
        assert_eq!(split(bytes.chunks(1)).unwrap(), expected);
    }

    #[test]
    fn what_has_no_items_is_all_envelope() {
        for list in [r#"{"items":null}"#, r#"{"items":[]}"#, r#"{"items":"[{}]"}"#, r#"["items",[{}]]"#, "", "nonsense"]
        {
            assert_eq!(whole(list).unwrap(), (vec![], list.to_owned()), "{list}");
        }
        // A value is no key.
        let list = r#"{"a":"items","b":[{}]}"#;
        assert_eq!(whole(list).unwrap(), (vec![], list.to_owned()));
    }

    #[test]
    fn a_list_that_is_cut_short_is_an_envelope_that_cannot_be_parsed() {
        let list = r#"{"items":[{"a":1},{"b":2}],"metadata":{}}"#;
        for end in 1..list.len() {
            let (_, envelope) = whole(list.get(..end).unwrap()).unwrap();
            assert!(serde_json::from_str::<serde_json::Value>(&envelope).is_err(), "{envelope}");
        }
    }

    #[test]
    fn what_is_between_the_items_is_one_comma() {
        for (items, error) in [
            ("1", SplitError::NotAnObject),
            ("null", SplitError::NotAnObject),
            ("[{}]", SplitError::NotAnObject),
            (",{}", SplitError::NotAnObject),
            ("{},1", SplitError::NotAnObject),
            ("{}{}", SplitError::Comma),
            ("{},,{}", SplitError::Comma),
            ("{},", SplitError::Comma),
            ("{}x", SplitError::Comma),
        ] {
            assert_eq!(whole(&format!("{{\"items\":[{items}]}}")), Err(error), "{items}");
        }
    }

    #[test]
    fn an_item_or_an_envelope_without_end_takes_no_more_memory_than_its_limit() {
        let endless = |beginning: &str, each: &[u8]| {
            let mut splitter = Splitter::new();
            let nothing = |_: &[u8]| Ok::<_, SplitError>(());
            splitter.feed(beginning.as_bytes(), nothing).unwrap();
            loop {
                if let Err(error) = splitter.feed(each, nothing) {
                    return (error, splitter.item.len().max(splitter.envelope.len()));
                }
            }
        };
        let (error, most) = endless(r#"{"items":[{"a":""#, &[b' '; 4096]);
        assert_eq!(error, SplitError::LongItem);
        assert!((LONGEST_ITEM - 4096..=LONGEST_ITEM).contains(&most), "{most}");
        assert_eq!(endless("{", b" "), (SplitError::LongEnvelope, LONGEST_ENVELOPE));
    }
}
