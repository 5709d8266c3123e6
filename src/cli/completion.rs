//! `fencegate completion`: completions for a shell.

use std::process::ExitCode;

use clap::{Args as ClapArgs, Command};
use clap_complete::{Shell, generate};

use super::print;

/// Print completions for a shell.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  fencegate completion bash                in ~/.bashrc: source what it prints
  fencegate completion fish                goes to ~/.config/fish/completions/fencegate.fish")]
pub struct Args {
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

pub fn run(args: &Args, mut command: Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    generate(args.shell, &mut command, "fencegate", &mut script);
    print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}
