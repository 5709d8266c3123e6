//! `fencegate __reference`: the page `docs/reference.md`, from the definitions of the commands.

use std::process::ExitCode;

use clap::Command;

use super::print;

/// Columns of the help in the page.
const WIDTH: usize = 110;

const HEAD: &str = "\
# All commands and options

`make reference` writes this page from the program's own help. [The commands for operators](commands.md) says how to use
them.
";

pub fn run(mut program: Command) -> anyhow::Result<ExitCode> {
    program.build();
    let mut page = HEAD.to_owned();
    for command in program.get_subcommands_mut().filter(|command| !command.is_hide_set()) {
        if command.get_name() == "help" {
            continue;
        }
        let help = command.clone().term_width(WIDTH).render_long_help().to_string();
        let help = help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        let section = ["\n## ", command.get_name(), "\n\n```text\n", help.trim_end(), "\n```\n"];
        page.extend(section);
    }
    print(&page)?;
    Ok(ExitCode::SUCCESS)
}
