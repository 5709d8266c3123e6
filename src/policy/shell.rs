//! Commands that a user can paste into sh, bash and zsh as they are.
//!
//! A command is a list of words. It has no redirections, substitutions or placeholders, because
//! each word is quoted: the shell passes it on exactly as it is.

use std::fmt;

use super::text::is_printable;

/// A command: a program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Command(Vec<String>);

impl Command {
    /// The most bytes of a command that a message shows: enough for several names of 253
    /// characters. A longer command does not survive being copied from a terminal.
    const SHOWN: usize = 1_000;

    /// A command with these words, for example `Command::new("kubectl get nodes")`.
    pub fn new(words: &'static str) -> Self {
        Self(words.split(' ').map(str::to_owned).collect())
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.0.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = String>) -> Self {
        self.0.extend(arguments);
        self
    }

    /// The command as it is typed. `None` if it cannot be typed: it has a character that is not
    /// printable, or is too long. No command is better than another command.
    pub fn typed(&self) -> Option<String> {
        let typed = self.to_string();
        let can_be_typed = typed.len() <= Self::SHOWN && typed.chars().all(is_printable);
        can_be_typed.then_some(typed)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.0.iter().enumerate() {
            if index > 0 {
                formatter.write_str(" ")?;
            }
            write_word(formatter, word)?;
        }
        Ok(())
    }
}

/// Writes a word that the shell reads as exactly this word: in single quotes, in which no character
/// but the quote itself has a meaning, not even `!` at an interactive prompt.
fn write_word(formatter: &mut fmt::Formatter<'_>, word: &str) -> fmt::Result {
    /// Characters beside letters and digits that no shell gives a meaning within a word. At its
    /// beginning zsh expands `=name`.
    const PLAIN: &[char] = &['-', '.', '_', '/', ':', '@', '%', '+', '=', ','];
    let is_plain = |character: char| character.is_ascii_alphanumeric() || PLAIN.contains(&character);
    if !word.is_empty() && !word.starts_with('=') && word.chars().all(is_plain) {
        return formatter.write_str(word);
    }
    write!(formatter, "'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(word: &str) -> String {
        Command::new("kubectl").arg(word).to_string()
    }

    #[test]
    fn a_word_is_quoted_only_if_it_needs_to_be() {
        assert_eq!(
            word("node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"),
            "kubectl node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
        );
        for (argument, typed) in [
            ("", "''"),
            ("a b", "'a b'"),
            ("o'brien; rm -rf $HOME", "'o'\\''brien; rm -rf $HOME'"),
            ("<who>", "'<who>'"),
            ("$(id)", "'$(id)'"),
            ("=ls", "'=ls'"),
            ("~root", "'~root'"),
            ("a!b", "'a!b'"),
            ("{a,b}", "'{a,b}'"),
            ("佐藤", "'佐藤'"),
        ] {
            assert_eq!(word(argument), format!("kubectl {typed}"));
        }
    }

    #[test]
    fn a_command_that_cannot_be_typed_is_not_shown() {
        assert_eq!(Command::new("kubectl get nodes").typed().unwrap(), "kubectl get nodes");
        assert_eq!(Command::new("kubectl").arg("a\nb").typed(), None);
        assert_eq!(Command::new("kubectl").arg("a\u{202e}b").typed(), None);
        assert_eq!(Command::new("kubectl").arg("x".repeat(2000)).typed(), None);
    }
}
