//! The command line: one file for each subcommand. Results go to standard output, progress and
//! hints to standard error.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum, error::ErrorKind};
use jiff::Timestamp;
use kube::{Client, Config};
use serde::Serialize;
use serde_json::json;

use crate::{
    cluster::{Cluster, Live, Snapshot},
    config,
    policy::{evidence::parse_time, settings::Settings, shell::Command as Typed},
};

mod attest;
mod certs;
mod check;
mod check_config;
mod columns;
mod complete;
mod completion;
mod connect;
mod demo;
mod desk;
mod explain;
mod history;
mod log;
mod place;
mod reference;
mod release;
mod replay;
mod review;
mod serve;
mod status;
mod version;
mod wait;
mod write;

/// Guards the Kubernetes taint node.kubernetes.io/out-of-service.
///
/// The taint is allowed only with evidence that the node was fenced. Its removal is allowed only
/// when no pod that the outage displaced is bound to the node and no volume is attached to it.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 110,
    after_help = "Examples:
  fencegate status                                         where nodes stand, and what comes next
  fencegate attest worker-2 --method power-off --wait      record that a node was fenced
  fencegate place worker-2 --wait                          put it out of service
  fencegate release worker-2 --wait                        return it to service
  fencegate demo                                           show an outage, with all denials
  fencegate review review.json --cluster cluster.yaml      decide one AdmissionReview from a file
  fencegate serve --tls-cert tls.crt --tls-key tls.key     serve the webhook

Exit codes: 0 allowed or done, 1 denied, 2 error."
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(Box<status::Args>),
    Attest(Box<attest::Args>),
    Place(Box<place::Args>),
    Release(Box<release::Args>),
    Check(check::Args),
    CheckConfig(check_config::Args),
    Explain(explain::Args),
    History(history::Args),
    Replay(replay::Args),
    Serve(Box<serve::Args>),
    Review(review::Args),
    Certs(certs::Args),
    Demo(demo::Args),
    Completion(completion::Args),
    Version(version::Args),
    #[command(name = "__complete", hide = true)]
    Complete(complete::Args),
    /// Print the page about all commands
    #[command(name = "__reference", hide = true, after_help = "Example:\n  fencegate __reference")]
    Reference,
}

/// What `-o` may be where the only other output is text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Json,
}

/// The version of every output in JSON.
const API_VERSION: &str = "fencegate.dev/v1";

/// The exit code for an error, other than a denial. clap uses it, too, for invalid arguments.
const ERROR: u8 = 2;

/// The exit code of a program that was interrupted.
const INTERRUPTED: u8 = 130;

/// What is left of a command that writes: a write that was sent may have been stored.
const STAYS: &str = "what was stored before stays; see fencegate status";

/// Does work until it is interrupted, and says then what is left of it.
async fn interruptible(left: &str, work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::select! {
        result = work => result,
        interrupt = tokio::signal::ctrl_c() => {
            interrupt?;
            if !left.is_empty() {
                eprintln!("interrupted: {left}");
            }
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

/// A node's name, as people and kubectl write it: `worker-2` or `node/worker-2`.
fn node_name(text: &str) -> Result<String, &'static str> {
    let name = text.strip_prefix("node/").or_else(|| text.strip_prefix("nodes/")).unwrap_or(text);
    if name.is_empty() { Err("a node has a name") } else { Ok(name.to_owned()) }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let result = match arguments().command {
        Command::Status(args) => block_on(interruptible("", status::run(*args))),
        Command::Attest(args) => block_on(interruptible(STAYS, attest::run(*args))),
        Command::Place(args) => block_on(interruptible(STAYS, place::run(*args))),
        Command::Release(args) => block_on(interruptible(STAYS, release::run(*args))),
        Command::Check(args) => block_on(interruptible("", check::run(args))),
        Command::CheckConfig(args) => check_config::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::History(args) => block_on(history::run(args)),
        Command::Replay(args) => block_on(replay::run(args)),
        Command::Complete(args) => block_on(complete::run(args, program())),
        Command::Reference => reference::run(Args::command()),
        Command::Completion(args) => completion::run(&args, Args::command()),
        Command::Version(args) => block_on(version::run(args)),
        Command::Serve(args) => block_on(serve::run(*args)),
        Command::Review(args) => block_on(review::run(args)),
        Command::Certs(args) => certs::run(&args),
        Command::Demo(args) => block_on(demo::run(args)),
    };
    result.unwrap_or_else(|error| {
        if is_closed_pipe(&error) {
            return ExitCode::SUCCESS;
        }
        eprintln!("fencegate: {error:#}");
        ExitCode::from(ERROR)
    })
}

/// Whether nobody reads the output any more, as with `| head`.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.into_iter().any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Writes a result to standard output.
///
/// # Errors
/// If it cannot be written.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A list of this kind, as JSON. `docs/schema` describes each kind.
fn to_json(kind: &str, items: &impl Serialize) -> anyhow::Result<String> {
    let list = json!({"apiVersion": API_VERSION, "kind": kind, "items": items});
    Ok(format!("{}\n", serde_json::to_string_pretty(&list)?))
}

/// Parses the arguments.
fn arguments() -> Args {
    let matches = program().try_get_matches().unwrap_or_else(|error| {
        // kubectl has them. Nothing can fail: whoever closed the pipe does not read it.
        let is_template =
            ["jsonpath", "go-template", "custom-columns"].iter().any(|one| error.to_string().contains(one));
        let _ = error.print();
        if is_template && error.kind() == ErrorKind::InvalidValue {
            eprintln!("\nuse -o json, and jq on its output");
        }
        std::process::exit(error.exit_code())
    });
    Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// The program's commands and options. If it is called as `kubectl-fencegate`, its help shows what
/// kubectl's users type, and not what is for the gate itself.
fn program() -> clap::Command {
    const OF_THE_GATE: [&str; 3] = ["serve", "certs", "demo"];

    let command = Args::command();
    if !is_plugin() {
        return command;
    }
    let as_typed = |command: clap::Command| {
        let help = command.get_after_help().map(|help| help.to_string().replace(" fencegate ", " kubectl fencegate "));
        match help {
            Some(help) => command.after_help(help),
            None => command,
        }
    };
    let as_plugin = |command: clap::Command| {
        let is_hidden = command.is_hide_set() || OF_THE_GATE.contains(&command.get_name());
        as_typed(command).hide(is_hidden)
    };
    as_typed(command.bin_name(PLUGIN)).mut_subcommands(as_plugin)
}

/// How the program is called as a plugin.
const PLUGIN: &str = "kubectl fencegate";

fn is_plugin() -> bool {
    let called = std::env::args_os().next().map(PathBuf::from);
    called.is_some_and(|path| path.file_name().is_some_and(|name| name == "kubectl-fencegate"))
}

/// A command of this program, by the name by which it was called. `None` if it cannot be typed.
fn typed(words: &[&str]) -> Option<String> {
    let program = Typed::new(if is_plugin() { PLUGIN } else { "fencegate" });
    program.args(words.iter().map(|word| (*word).to_owned())).typed()
}

/// The command that records that a machine was switched off.
fn to_attest(node: &str, is_recorded: bool) -> Option<String> {
    let attest = ["attest", node, "--method", "power-off", "--wait"];
    typed(&[&attest[..], if is_recorded { &["--overwrite"] } else { &[] }].concat())
}

/// What to type next.
fn next(command: &str, node: &str) -> String {
    typed(&[command, node, "--wait"]).map(|typed| format!("next: {typed}")).unwrap_or_default()
}

fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")?;
    let result = runtime.block_on(work);
    // At this point, only a blocked read of standard input or a blocked write to standard output
    // can be left, and neither is worth a longer wait.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// The value of `--cluster`: where facts come from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ClusterArg {
    Live,
    File(PathBuf),
}

impl From<&str> for ClusterArg {
    fn from(text: &str) -> Self {
        if text == "live" { Self::Live } else { Self::File(text.into()) }
    }
}

impl ClusterArg {
    /// Opens it for a gate in this namespace, if that is known.
    async fn open(&self, namespace: Option<String>) -> anyhow::Result<Cluster> {
        match self {
            Self::Live => live(namespace).await,
            Self::File(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                let snapshot = Snapshot::parse(&text).with_context(|| path.display().to_string())?;
                Ok(Cluster::of(snapshot))
            }
        }
    }
}

/// The cluster of the kubeconfig, or the cluster that this program runs in.
async fn live(namespace: Option<String>) -> anyhow::Result<Cluster> {
    Ok(Cluster::Live(Live::new(client().await?).in_namespace(namespace)))
}

/// Whether somebody made a kubeconfig: `KUBECONFIG` names one, or there is one in the usual place.
fn has_kubeconfig() -> bool {
    let is_named = std::env::var_os("KUBECONFIG").is_some_and(|paths| !paths.is_empty());
    is_named || std::env::home_dir().is_some_and(|home| home.join(".kube/config").exists())
}

/// A client for this cluster.
async fn client() -> anyhow::Result<Client> {
    let config = Config::infer().await.context("no cluster: neither a kubeconfig nor a service account can be used")?;
    Client::try_from(config).context("cannot create a client for the cluster")
}

/// What a file is called; `-` is standard input.
fn name_of(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

/// Reads a configuration.
fn settings_of(path: &Path) -> anyhow::Result<Settings> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    config::parse(&bytes).with_context(|| path.display().to_string())
}

/// Parses a length of time in Kubernetes' notation: `15s`, `1m30s`.
fn duration(text: &str) -> anyhow::Result<Duration> {
    /// Longer than anybody waits, and short enough to be added to any time.
    const LONGEST: Duration = Duration::from_hours(24 * 365);
    let duration: jiff::SignedDuration = text.parse()?;
    let duration = Duration::try_from(duration).context("a length of time cannot be negative")?;
    if duration > LONGEST {
        anyhow::bail!("a length of time has at most 365 days")
    }
    Ok(duration)
}

/// Parses an RFC 3339 time.
fn time(text: &str) -> anyhow::Result<Timestamp> {
    parse_time(text).context("is not an RFC 3339 time with an offset, e.g. 2026-11-22T10:15:00Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_subcommand_shows_an_example() {
        for command in Args::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{} shows no example", command.get_name());
        }
    }

    #[test]
    fn a_length_of_time_is_in_kubernetes_notation() {
        assert_eq!(duration("1m30s").unwrap(), Duration::from_secs(90));
        assert!(duration("-1s").is_err());
        assert!(duration("soon").is_err());
    }
}
