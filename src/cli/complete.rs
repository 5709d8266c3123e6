//! `fencegate __complete`: what could come next on a command line. kubectl asks it through
//! `kubectl_complete-fencegate`, in the protocol of cobra: one candidate a line, with what it means
//! after a tab, then a directive.

use std::process::ExitCode;

use clap::{Arg, Args as ClapArgs, Command};

use super::{connect::ConnectArgs, print};
use crate::{
    cluster::{Cluster, Wanted},
    policy::text::on_one_line,
};

/// No file names.
const NO_FILES: &str = ":4\n";
/// File names, which the shell knows.
const FILES: &str = ":0\n";

/// Print what could come next on a command line.
#[derive(Debug, ClapArgs)]
#[command(disable_help_flag = true, after_help = "Example:\n  fencegate __complete place ''")]
pub struct Args {
    /// The words after the name of the program; the last one is not complete
    #[arg(value_name = "WORD", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

pub async fn run(args: Args, command: Command) -> anyhow::Result<ExitCode> {
    let (last, before) = args.words.split_last().map_or(("", [].as_slice()), |(last, before)| (last.as_str(), before));
    let wanted = wanted(&command, before, last);
    let text = match wanted {
        Candidates::Files => FILES.to_owned(),
        Candidates::Words(words) => lines(&words, last),
        Candidates::Nodes => {
            let names = node_names(before).await.into_iter().map(|name| (name, String::new())).collect::<Vec<_>>();
            lines(&names, last)
        }
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What could come next.
#[derive(Debug, PartialEq, Eq)]
enum Candidates {
    /// Words, each with what it means.
    Words(Vec<(String, String)>),
    Nodes,
    Files,
}

/// What could come after these words, instead of the last one.
fn wanted(program: &Command, before: &[String], last: &str) -> Candidates {
    let visible = |command: &&Command| !command.is_hide_set();
    let Some((name, rest)) = before.split_first() else {
        let commands = program.get_subcommands().filter(visible);
        return Candidates::Words(commands.map(|one| (one.get_name().to_owned(), about(one.get_about()))).collect());
    };
    let Some(command) = program.find_subcommand(name) else { return Candidates::Words(Vec::new()) };
    if let Some(option) =
        rest.last().and_then(|word| option(command, word)).filter(|option| option.get_action().takes_values())
    {
        return values(option);
    }
    if last.starts_with('-') {
        let options = command.get_arguments().filter(|option| !option.is_hide_set());
        let long = options.filter_map(|option| Some((format!("--{}", option.get_long()?), about(option.get_help()))));
        return Candidates::Words(long.collect());
    }
    command.get_positionals().next().map_or(Candidates::Words(Vec::new()), values)
}

/// The option that this word names.
fn option<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let is_named = |option: &&Arg| match word.strip_prefix("--") {
        Some(long) => option.get_long() == Some(long),
        None => option.get_short().is_some_and(|short| word.strip_prefix('-') == Some(short.encode_utf8(&mut [0; 4]))),
    };
    command.get_arguments().find(is_named)
}

/// The values of an argument.
fn values(argument: &Arg) -> Candidates {
    let possible = argument.get_possible_values();
    if !possible.is_empty() {
        let values = possible.iter().map(|value| (value.get_name().to_owned(), about(value.get_help())));
        return Candidates::Words(values.collect());
    }
    let is_named = |words: &[&str]| {
        argument.get_value_names().is_some_and(|names| names.iter().any(|name| words.contains(&name.as_str())))
    };
    if is_named(&["NODE"]) {
        Candidates::Nodes
    } else if is_named(&["FILE", "FILE|-", "LOG|-", "live|FILE", "DIR"]) {
        Candidates::Files
    } else {
        Candidates::Words(Vec::new())
    }
}

fn about(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(|text| on_one_line(text.to_string().lines().next().unwrap_or_default()).into_owned()).unwrap_or_default()
}

/// The candidates that begin with the last word, and the directive.
fn lines(candidates: &[(String, String)], last: &str) -> String {
    let fitting = candidates.iter().filter(|(word, _)| word.starts_with(last));
    let lines =
        fitting.map(|(word, about)| if about.is_empty() { format!("{word}\n") } else { format!("{word}\t{about}\n") });
    lines.chain([NO_FILES.to_owned()]).collect::<Vec<_>>().concat()
}

/// The names of the nodes of the cluster that these words name. Empty if they cannot be read: a
/// completion has nobody to tell.
async fn node_names(before: &[String]) -> Vec<String> {
    let Some(live) = ConnectArgs::of(before).quietly().await else { return Vec::new() };
    let nodes = Cluster::Live(live).nodes(&Wanted::All).await.unwrap_or_default();
    // A name that is not printable would be another word.
    let names = nodes.into_iter().map(|listed| listed.node.metadata.name);
    names.filter(|name| *on_one_line(name) == **name).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn words(line: &str) -> (Vec<String>, String) {
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let last = words.pop().unwrap();
        (words, last)
    }

    fn after(line: &str) -> Candidates {
        let (before, last) = words(line);
        wanted(&super::super::Args::command(), &before, &last)
    }

    fn names(line: &str) -> Vec<String> {
        match after(line) {
            Candidates::Words(words) => words.into_iter().map(|(word, _)| word).collect(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_command_a_node_an_option_and_a_value_are_completed() {
        assert!(names("").contains(&"status".to_owned()));
        assert!(!names("").contains(&"__complete".to_owned()));
        for line in ["status ", "place ", "release --wait ", "attest --method power-off ", "history wor"] {
            assert_eq!(after(line), Candidates::Nodes, "{line}");
        }
        for line in ["status -f ", "status --kubeconfig ", "replay -f ", "review "] {
            assert_eq!(after(line), Candidates::Files, "{line}");
        }
        assert!(names("place --").contains(&"--break-glass".to_owned()));
        assert!(names("attest worker-2 --method ").contains(&"power-off".to_owned()));
        assert!(names("explain ").contains(&"NodeStillReady".to_owned()));
        assert!(names("release --for ").contains(&"rebooted".to_owned()));
        assert_eq!(names("place --field-manager "), Vec::<String>::new());
        assert_eq!(names("nothing "), Vec::<String>::new());
    }

    #[test]
    fn candidates_begin_with_the_word_and_end_with_the_directive() {
        let both = [("place".to_owned(), "Put it out".to_owned()), ("release".to_owned(), String::new())];
        assert_eq!(lines(&both, ""), "place\tPut it out\nrelease\n:4\n");
        assert_eq!(lines(&both, "rel"), "release\n:4\n");
        assert_eq!(lines(&both, "x"), ":4\n");
    }
}
