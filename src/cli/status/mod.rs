//! `fencegate status`: where each node stands in the out-of-service procedure, and what comes next.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::{
    Args as ClapArgs, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use futures_util::{StreamExt as _, stream};

use super::{
    columns::word,
    desk::{Desk, DeskArgs, Row},
    duration, node_name, print,
    wait::{Patience, TimedOut},
};
use crate::{
    cluster::Wanted,
    policy::{
        message::denial,
        review::Content,
        standing::{Next, Note, Standing, State},
        text::{Foreign, Span},
    },
};

mod follow;
mod json;
mod long;
mod table;

pub use long::{machine, page, raise_alarm, record};
pub use table::table;

/// How many nodes are read at the same time.
const AT_ONCE: usize = 8;

/// Show where nodes stand in the out-of-service procedure, and what comes next.
///
/// Without names, a table of the nodes that are worth a look. With names, everything that is known
/// about each of them.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  fencegate status                                   the nodes that are worth a look
  fencegate status worker-2                          one node: what holds it, and what the gate would say
  fencegate status worker-2 --wait Empty,Recovered   wait until nothing is left on it
  fencegate status --watch                           the table, then a line for each change
  fencegate status --check                           for scripts: exit code 1 if something is to be done
  fencegate status --example                         the built-in example
  kubectl get nodes,leases,pods,volumeattachments,pv -A -o yaml | fencegate status -f -

Exit codes: 0 told; 1 something is to be done (--check), or the wait was in vain (--wait); 2 a fact could not be read.")]
#[expect(clippy::struct_excessive_bools, reason = "each is an option that is given or not")]
pub struct Args {
    /// Names of nodes
    #[arg(value_name = "NODE", value_parser = node_name)]
    nodes: Vec<String>,
    /// Show the nodes that are in service, too
    #[arg(long, conflicts_with = "nodes")]
    all: bool,
    /// Only nodes with these labels, as in `kubectl get -l`
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "nodes")]
    selector: Option<String>,
    /// After the table, print a line for each change
    #[arg(short, long, conflicts_with_all = ["check", "wait"])]
    watch: bool,
    /// End with exit code 1 if something is to be done about a node
    #[arg(long)]
    check: bool,
    /// Wait until each of the named nodes is in one of these states
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = states(), ignore_case = true, requires = "nodes")]
    wait: Vec<State>,
    /// How long to wait
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5m")]
    timeout: Duration,
    /// What to print [default: a table, or the long form for named nodes]
    #[arg(short, long, value_enum)]
    output: Option<Output>,
    /// Leave out the header of the table
    #[arg(long)]
    no_headers: bool,
    #[command(flatten)]
    desk: DeskArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table with more columns
    Wide,
    Json,
    Yaml,
    /// Only the names, as `node/NAME`
    Name,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let desk = args.desk.open().await?;
    if args.watch {
        if matches!(args.output, Some(Output::Name | Output::Yaml)) {
            bail!("--watch prints a table or JSON: see -o json and -o wide");
        }
        return follow::follow(&desk, &args).await;
    }
    let rows = if args.wait.is_empty() {
        read(&desk, &args).await?
    } else {
        match wait(&desk, &args).await? {
            Ok(rows) => rows,
            Err(_) => return Ok(ExitCode::from(1)),
        }
    };
    let total = rows.len();
    let mut rows: Vec<Row> = rows.into_iter().filter(|row| args.shows(row)).collect();
    if args.nodes.is_empty() {
        rows.sort_by(|one, other| urgency(one).cmp(&urgency(other)));
    }
    let text = match args.output {
        Some(Output::Json) => json::list(&rows, &desk).to_json()?,
        Some(Output::Yaml) => json::list(&rows, &desk).to_yaml()?,
        Some(Output::Name) => {
            rows.iter().flat_map(|row| ["node/".to_owned(), word(row.name()), "\n".to_owned()]).collect()
        }
        Some(Output::Wide) => table::table(&rows, true, !args.no_headers),
        None if args.nodes.is_empty() => table::table(&rows, false, !args.no_headers),
        None => rows.iter().map(|row| long::page(row, &desk)).collect::<Vec<_>>().join("\n"),
    };
    print(&text)?;
    if args.nodes.is_empty() && matches!(args.output, None | Some(Output::Wide)) {
        tell_the_rest(&rows, total, args.all);
    }
    Ok(exit_code(&rows, args.check))
}

impl Args {
    /// Whether this node is shown: by default, those in service are not.
    fn shows(&self, row: &Row) -> bool {
        self.all || !self.nodes.is_empty() || row.standing.state != State::InService
    }
}

/// The most urgent first, then by name. A silent node with nothing on it can wait.
fn urgency(row: &Row) -> (bool, State, &str) {
    let Standing { state, next, .. } = row.standing;
    (state == State::Silent && next == Next::Nothing, state, row.name())
}

/// 2 if a fact that decides could not be read, 1 if something is to be done and somebody checks.
fn exit_code(rows: &[Row], checks: bool) -> ExitCode {
    let is_unknown = rows.iter().any(|row| row.standing.state == State::Unknown);
    let is_due = rows.iter().any(|row| row.standing.next.is_due());
    ExitCode::from(if is_unknown { super::ERROR } else { u8::from(checks && is_due) })
}

/// What the table does not show, on standard error.
fn tell_the_rest(rows: &[Row], total: usize, shows_all: bool) {
    let in_service = if shows_all {
        rows.iter().filter(|row| row.standing.state == State::InService).count()
    } else {
        total - rows.len()
    };
    let worth_a_look = total - in_service;
    let hint = if shows_all || in_service == 0 { "" } else { " (--all)" };
    eprintln!("{worth_a_look} of {total} nodes are worth a look; {in_service} are in service{hint}");
    for row in rows.iter().filter(|row| row.standing.notes.contains(&Note::Forgotten)) {
        let since = row.listed.node.ready().and_then(|ready| ready.last_transition_time).max(row.out_since());
        let Some(age) = since.map(|since| row.facts.api_now().duration_since(since)) else { continue };
        eprintln!("{} has been Recovered for {}: is the taint forgotten?", Foreign::from(row.name()), Span(age));
    }
}

/// The nodes that were asked for, in the cluster's order.
async fn read(desk: &Desk, args: &Args) -> anyhow::Result<Vec<Row>> {
    let listed = desk.cluster.nodes(&wanted(args)).await?;
    let rows = stream::iter(listed).map(|listed| desk.look(listed)).buffered(AT_ONCE);
    Ok(rows.collect().await)
}

fn wanted(args: &Args) -> Wanted {
    match &args.selector {
        Some(labels) => Wanted::Labels(labels.clone()),
        None if args.nodes.is_empty() => Wanted::All,
        None => Wanted::Names(args.nodes.clone()),
    }
}

/// Waits until each named node is in one of the states, and says on standard error what changes.
async fn wait(desk: &Desk, args: &Args) -> anyhow::Result<Result<Vec<Row>, TimedOut>> {
    let mut patience = Patience::new(args.timeout);
    let mut told: Vec<State> = Vec::new();
    loop {
        let rows = read(desk, args).await?;
        let states: Vec<State> = rows.iter().map(|row| row.standing.state).collect();
        for (index, row) in rows.iter().enumerate() {
            if told.get(index) != states.get(index) {
                eprintln!("{}  {} is {}", row.time(), Foreign::from(row.name()), row.standing.state);
            }
        }
        told.clone_from(&states);
        if states.iter().all(|state| args.wait.contains(state)) {
            return Ok(Ok(rows));
        }
        desk.live().context("a file does not change: --wait needs a cluster")?;
        if let Some(ended) = patience.beat().await {
            let names: Vec<&str> = args.wait.iter().map(|state| state.name()).collect();
            eprintln!("{ended}: not {}", names.join(" or "));
            return Ok(Err(ended));
        }
    }
}

/// The gate's words about the next step, if it would deny it and somebody wants to take it. `None`
/// if nothing is to be done, or if a machine must be looked at first.
fn said(row: &Row, desk: &Desk) -> Option<String> {
    let Standing { state, next, .. } = row.standing;
    let is_wanted = next != Next::Nothing && !matches!(state, State::NotReady | State::Alive);
    let (step, decision) = row.standing.next_step().filter(|(_, decision)| is_wanted && !decision.allowed)?;
    Some(denial(decision, &Content::Node(Box::new(step.request(&row.listed.node, &desk.user)))))
}

/// Parses the name of a state.
fn states() -> impl TypedValueParser<Value = State> {
    let named = |name: String| State::ALL.into_iter().find(|state| state.name().eq_ignore_ascii_case(&name));
    PossibleValuesParser::new(State::ALL.map(State::name))
        .try_map(move |name| named(name).context("there is no such state"))
}
