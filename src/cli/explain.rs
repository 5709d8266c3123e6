//! `fencegate explain`: what a reason means and what to do about it, without a network.

use std::process::ExitCode;

use clap::{
    Args as ClapArgs,
    builder::{PossibleValuesParser, TypedValueParser},
};

use super::print;
use crate::policy::reason::{Code, Mode};

/// The page about all reasons. Its table "What to do" has a row for each.
const PAGE: &str = include_str!("../../docs/reasons.md");

/// Explain a reason of a denial: when it fails, and what to do.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  fencegate explain NodeStillReady
  fencegate explain                      list all reasons")]
pub struct Args {
    /// The reason, as a denial names it
    #[arg(value_name = "REASON", value_parser = codes(), ignore_case = true, hide_possible_values = true)]
    code: Option<Code>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let text = match args.code {
        Some(code) => explained(code),
        None => Code::ALL.iter().flat_map(|code| [code.name(), "\n"]).collect(),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn explained(code: Code) -> String {
    let mode = match (code.default_mode(), code.can_be_turned_off()) {
        (Mode::Enforce, false) => "always denies",
        (Mode::Enforce, true) => "denies by default",
        (Mode::Warn, _) => "warns by default",
        (Mode::Off, _) => "is off by default",
    };
    let advice = advice(code).map_or(String::new(), |advice| format!("\nWhat to do: {advice}\n"));
    format!("{code} {mode}.\n\nIt fails when: {}\n{advice}", plain(code.summary()))
}

/// What the page says to do about a reason.
fn advice(code: Code) -> Option<String> {
    let (_, rest) = PAGE.split_once("\n## What to do about a denial\n")?;
    let named = format!("`{code}`");
    let cells = rest.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let (_, advice) = cells.into_iter().find(|(reasons, _)| reasons.contains(&named))?;
    Some(plain(advice.trim_end_matches(" |")))
}

/// Markdown without its marks: no backquotes, and links as their text.
fn plain(markdown: &str) -> String {
    let mut text = markdown.replace('`', "").replace("\\|", "|");
    while let Some((before, linked)) = text.split_once('[') {
        let Some((words, rest)) = linked.split_once("](") else { break };
        let Some((_, after)) = rest.split_once(')') else { break };
        text = format!("{before}{words}{after}");
    }
    text
}

/// Parses the name of a reason.
fn codes() -> impl TypedValueParser<Value = Code> {
    PossibleValuesParser::new(Code::ALL.iter().map(|code| code.name())).try_map(|name| {
        Code::ALL.iter().copied().find(|code| code.name().eq_ignore_ascii_case(&name)).ok_or("there is no such reason")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_explained_with_what_to_do() {
        for code in Code::ALL {
            let text = explained(*code);
            assert!(text.starts_with(code.name()) && text.contains("\n\nIt fails when: "), "{text}");
            assert!(text.contains("\nWhat to do: "), "{text}");
            assert!(!text.contains(['`', '[', ']']), "{text}");
        }
    }
}
