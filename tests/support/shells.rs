//! Real shells, in which the commands of messages and documents run against stubs: whoever pastes a
//! command runs exactly the program with exactly the arguments that the text means.

#![allow(clippy::panic, clippy::unwrap_used, dead_code, reason = "each test uses a part of this")]

use std::{
    env, fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The programs that commands may call. They are the only ones on `PATH`, so nothing real runs.
pub const PROGRAMS: &[&str] = &["cargo", "curl", "fencegate", "git", "helm", "kubectl", "make"];

/// Writes its name and arguments to the file `$CALLS`, each with a NUL at its end, after their
/// number. It uses only what is built into the shell.
const STUB: &str = "#!/bin/sh\nprintf '%s\\0' \"$#\" \"${0##*/}\" \"$@\" >> \"$CALLS\"\n";

/// The shells that are installed, as a user has them at a prompt: with history expansion, and zsh
/// without comments. `sh` and `bash` must be there.
fn shells() -> Vec<(PathBuf, &'static [&'static str])> {
    let paths = env::var_os("PATH").unwrap();
    let find = |name: &str| env::split_paths(&paths).map(|folder| folder.join(name)).find(|path| path.exists());
    let mut shells: Vec<(PathBuf, &[&str])> = vec![
        (find("sh").unwrap(), &[]),
        (find("bash").unwrap(), &["--norc", "--noprofile", "-o", "history", "-o", "histexpand"]),
    ];
    match find("zsh") {
        Some(zsh) => shells.push((zsh, &["-f", "-i"])),
        None => println!("zsh is not installed: its quoting is not tested"),
    }
    shells
}

/// What happened when a script ran in one shell.
#[derive(Debug, PartialEq)]
pub struct Ran {
    /// The programs that were called, with their arguments.
    pub calls: Vec<Vec<String>>,
    /// The files that redirections created.
    pub files: Vec<String>,
}

/// Runs lines in every shell as if they were pasted at the prompt. All shells do the same.
pub fn paste(lines: &[String]) -> Ran {
    let script = lines.join("\n");
    let stubs = tempfile::tempdir().unwrap();
    for program in PROGRAMS {
        let path = stubs.path().join(program);
        fs::write(&path, STUB).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut ran = shells().into_iter().map(|(shell, options)| {
        let (ran, said) = paste_into(&shell, options, stubs.path(), &script);
        (shell, ran, said)
    });
    let (_, first, said) = ran.next().unwrap();
    for (shell, other, said) in ran {
        assert_eq!(first, other, "{} does something else:\n{script}\n{said}", shell.display());
    }
    assert!(!first.calls.is_empty(), "nothing was called:\n{script}\n{said}");
    first
}

fn paste_into(shell: &Path, options: &[&str], stubs: &Path, script: &str) -> (Ran, String) {
    let home = tempfile::tempdir().unwrap();
    let (calls, said) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let mut child = Command::new(shell)
        .args(options)
        .env_clear()
        .env("PATH", stubs)
        .env("HOME", home.path())
        .env("HISTFILE", "/dev/null")
        .env("CALLS", calls.path())
        .current_dir(home.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(said.reopen().unwrap())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(format!("{script}\n").as_bytes()).unwrap();
    child.wait().unwrap();
    let mut files: Vec<String> =
        fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let said = String::from_utf8_lossy(&fs::read(said.path()).unwrap()).into_owned();
    (Ran { calls: parse_calls(&fs::read(calls.path()).unwrap()), files }, said)
}

fn parse_calls(bytes: &[u8]) -> Vec<Vec<String>> {
    let text = std::str::from_utf8(bytes).unwrap();
    let mut words = text.split_terminator('\0').map(str::to_owned);
    let mut calls = Vec::new();
    while let Some(count) = words.next() {
        calls.push(words.by_ref().take(count.parse::<usize>().unwrap() + 1).collect());
    }
    calls
}
