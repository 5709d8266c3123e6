//! What holds for every text that a user reads: a denial and a warning.

use fencegate::policy::reason::Code;

/// The most bytes of a denial, and the most characters of a warning (contract section 9).
const LONGEST_DENIAL: usize = 4096;
const LONGEST_WARNING: usize = 120;
/// What a line begins with if somebody else wrote it: the hostile texts of `world` have it after
/// everything that could end a line.
pub const FORGED: &str = "PWNED";

/// The lines of a denial are the gate's own: a headline, reasons, advice, and commands that a shell
/// reads as plain words.
pub fn check_denial(message: &str) {
    assert!(message.len() <= LONGEST_DENIAL, "{} bytes: {message}", message.len());
    for (index, line) in message.split('\n').enumerate() {
        check_characters(line);
        let is_code = |line: &str| Code::ALL.iter().any(|code| line.starts_with(&format!("{code}: ")));
        match line.strip_prefix("  ") {
            Some(command) if command.starts_with("kubectl ") => check_command(command),
            Some(reason) => assert!(is_code(reason), "{reason:?} in\n{message}"),
            None => assert!(index == 0 || line.starts_with(char::is_alphabetic), "{line:?} in\n{message}"),
        }
        assert!(!line.trim_start().trim_start_matches("kubectl ").starts_with(FORGED), "{line:?} in\n{message}");
    }
}

/// A warning is one short line.
pub fn check_warning(warning: &str) {
    assert!(warning.chars().count() <= LONGEST_WARNING, "{warning}");
    check_characters(warning);
}

/// No character that acts on a terminal, ends a line, or reorders or hides others.
fn check_characters(line: &str) {
    let is_hostile = |character: char| {
        character.is_control()
            || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            || matches!(character, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
            || matches!(character, '\u{e000}'..='\u{f8ff}')
    };
    assert!(!line.contains(is_hostile), "{line:?}");
}

fn check_command(command: &str) {
    let words = words(command).unwrap_or_else(|| panic!("a shell does more than pass on the words of {command}"));
    assert!(words.len() >= 3 && words.first().is_some_and(|program| program == "kubectl"), "{command}");
}

/// The words of a command as every POSIX shell reads them. `None` if a character outside of single
/// quotes means something to a shell, or if a quote has no end.
fn words(command: &str) -> Option<Vec<String>> {
    let mut words = vec![String::new()];
    let mut characters = command.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' => words.push(String::new()),
            '\'' => loop {
                match characters.next()? {
                    '\'' => break,
                    quoted => words.last_mut()?.push(quoted),
                }
            },
            // Only to quote a quote.
            '\\' => words.last_mut()?.push(characters.next().filter(|next| *next == '\'')?),
            // At the beginning of a word, zsh expands `=name`.
            '=' if words.last()?.is_empty() => return None,
            plain if plain.is_ascii_alphanumeric() || "-._/:@%+=,".contains(plain) => words.last_mut()?.push(plain),
            _ => return None,
        }
    }
    Some(words)
}
