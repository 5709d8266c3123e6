//! The program as scripts use it: its exit code, its standard output and its standard error.

#![allow(dead_code, reason = "each test uses a part of this")]

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

pub fn fencegate(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fencegate"));
    // There is no cluster, on any machine that runs the tests.
    command.current_dir(folder).env_clear().env("HOME", folder);
    command
}

pub fn run(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = fencegate(folder)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Ignored: in some tests, the program exits before it reads its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
