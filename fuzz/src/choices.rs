//! Bytes as a sequence of choices: each choice takes one byte, and after the last byte the first
//! alternative is chosen. So every input is a world, and a changed byte changes one choice.

/// The choices that are left.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// One of two.
    pub fn flag(&mut self) -> bool {
        self.next() % 2 == 1
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.next()) % limit
    }

    /// One of several.
    pub fn of_these<T: Clone>(&mut self, alternatives: &[T]) -> T {
        let index = self.below(alternatives.len());
        alternatives[index].clone()
    }

    /// The next bytes, of which the first says how many, as a text.
    pub fn text(&mut self) -> String {
        let length = usize::from(self.next()).min(self.0.len());
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        String::from_utf8_lossy(text).into_owned()
    }
}
