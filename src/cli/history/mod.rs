//! `fencegate history`: who did what to a node, from the audit log or from the Node's own record.

use std::{path::PathBuf, process::ExitCode};

use anyhow::bail;
use clap::Args as ClapArgs;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    Output,
    columns::{aligned, word},
    connect::ConnectArgs,
    log, node_name, print, to_json,
};
use crate::{
    audit::named,
    cluster::{Cluster, Wanted},
    policy::{
        annotation::{LAST_OUTAGE, OVERRIDDEN, PLACED_AT, PLACED_BY, RECORDED_AT, RECORDED_BY},
        evidence::parse_time,
        json::null_is_default,
        object::node::Node,
        reason::Code,
        record::outage::Outage,
        review::Webhook,
        transition::Transition,
    },
};

mod events;

/// Show who did what to a node, and what the gate said.
///
/// Without a log, it shows what the Node itself has on record, this outage and the last one, and
/// the denials of the last hour, from Events.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  fencegate history worker-2
  kubectl logs -n fencegate-system -l app.kubernetes.io/name=fencegate --tail=-1 | fencegate history -f - worker-2

Exit codes: 0 told; 2 the log or the Node could not be read.")]
pub struct Args {
    /// The name of the node; without it, all nodes in the log
    #[arg(value_name = "NODE", value_parser = node_name, required_unless_present = "filename")]
    node: Option<String>,
    /// The audit log of one or more replicas; `-` is standard input
    #[arg(short, long, value_name = "LOG|-", conflicts_with_all = ["kubeconfig", "context", "user", "as_user"])]
    filename: Option<PathBuf>,
    /// What to print [default: a table]
    #[arg(short, long, value_enum)]
    output: Option<Output>,
    /// Leave out the header of the table
    #[arg(long)]
    no_headers: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// One write, and what the gate said to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    time: Timestamp,
    node: String,
    user: String,
    /// What the write does: the names of transitions.
    does: Vec<String>,
    decision: String,
    reasons: Vec<String>,
    dry_run: bool,
    #[serde(skip)]
    webhook: String,
}

/// A line about a decision. Older versions write fewer fields.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    ts: Timestamp,
    uid: String,
    node: String,
    webhook: String,
    transitions: Vec<String>,
    decision: String,
    reasons: Vec<ToldReason>,
    user: ToldUser,
    #[serde(default, deserialize_with = "null_is_default")]
    dry_run: bool,
}

#[derive(Deserialize)]
struct ToldReason {
    code: String,
    mode: String,
}

#[derive(Deserialize)]
struct ToldUser {
    name: String,
}

/// A line that withdraws the one of the same review: its decision was not on record in time.
#[derive(Deserialize)]
struct Withdrawn {
    uid: String,
    webhook: String,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let entries = match &args.filename {
        Some(log) => logged(log, args.node.as_deref())?,
        None => args.recorded().await?,
    };
    let text = match args.output {
        Some(Output::Json) => to_json("DecisionList", &entries)?,
        None => table(&entries, args.node.is_none(), !args.no_headers),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// What the Node has on record.
    async fn recorded(&self) -> anyhow::Result<Vec<Entry>> {
        let Some(name) = &self.node else { bail!("which node?") };
        let connection = self.connect.open("-f FILE reads an audit log").await?;
        let live = connection.live;
        let nodes = Cluster::Live(live.clone()).nodes(&Wanted::Names(vec![name.clone()])).await?;
        let mut entries: Vec<Entry> = nodes.iter().flat_map(|listed| on_record(&listed.node)).collect();
        for listed in &nodes {
            match live.events_about(&listed.node.metadata.uid).await {
                Ok(told) => entries.extend(told.iter().filter_map(|event| events::entry(name, event))),
                Err(why) => eprintln!("Events could not be read, so denials are missing: {why}"),
            }
        }
        entries.sort_by_key(|entry| entry.time);
        if entries.is_empty() {
            eprintln!("{name} has no outage on record; the audit log may have more: see history --help");
        }
        Ok(entries)
    }
}

/// What a log has about a node, or about all, in the order of time.
fn logged(log: &std::path::Path, node: Option<&str>) -> anyhow::Result<Vec<Entry>> {
    let (mut entries, mut unreadable) = (Vec::new(), 0_usize);
    for line in log::lines(log)? {
        let line = line?;
        match line.event.as_deref() {
            Some("decision") => match serde_json::from_str::<Told>(&line.text) {
                Ok(told) => entries.push((told.uid.clone(), Entry::from(told))),
                Err(_) => unreadable += 1,
            },
            Some("withdrawn") => {
                let Ok(withdrawn) = serde_json::from_str::<Withdrawn>(&line.text) else { continue };
                let is_it = |uid: &str, entry: &Entry| *uid == withdrawn.uid && entry.webhook == withdrawn.webhook;
                if let Some((_, entry)) = entries.iter_mut().rev().find(|(uid, entry)| is_it(uid, entry)) {
                    "deny".clone_into(&mut entry.decision);
                    entry.reasons.push(Code::RecordUnavailable.name().to_owned());
                }
            }
            _ => {}
        }
    }
    if entries.is_empty() && unreadable == 0 {
        bail!("{}: there is no decision in it", log.display());
    }
    if unreadable > 0 {
        eprintln!("{unreadable} lines about decisions could not be read: another version wrote them");
    }
    let mut entries: Vec<Entry> = entries.into_iter().map(|(_, entry)| entry).collect();
    entries.retain(|entry| node.is_none_or(|node| entry.node == node));
    Ok(folded(entries))
}

/// One entry for a write that both webhooks decided about: the decision of the validating one.
fn folded(entries: Vec<Entry>) -> Vec<Entry> {
    /// A write passes both within the API server's own limit of a request. The clocks of two
    /// replicas may differ by as much.
    const ONE_WRITE: SignedDuration = SignedDuration::from_secs(60);

    let is_first_half = |entry: &Entry| entry.webhook == Webhook::Mutate.name() && entry.decision == "allow";
    let (first, mut rows): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(is_first_half);
    let mut has_first_half = vec![false; rows.len()];
    let mut alone = Vec::new();
    for mut entry in first {
        let is_of_same_write = |row: &Entry| {
            row.webhook == Webhook::Validate.name()
                && (&row.node, &row.user, &row.does, row.dry_run)
                    == (&entry.node, &entry.user, &entry.does, entry.dry_run)
                && entry.time.duration_since(row.time).abs() <= ONE_WRITE
        };
        let second = rows.iter().zip(&mut has_first_half).find(|(row, taken)| !**taken && is_of_same_write(row));
        if let Some((_, taken)) = second {
            *taken = true;
        } else {
            // Something else refused it between the two webhooks.
            "not-stored".clone_into(&mut entry.decision);
            alone.push(entry);
        }
    }
    rows.append(&mut alone);
    rows.sort_by_key(|row| row.time);
    rows
}

impl From<Told> for Entry {
    fn from(told: Told) -> Self {
        Self {
            time: told.ts,
            node: told.node,
            user: told.user.name,
            does: told.transitions,
            decision: told.decision,
            reasons: told.reasons.iter().map(|reason| named(&reason.code, &reason.mode)).collect(),
            dry_run: told.dry_run,
            webhook: told.webhook,
        }
    }
}

/// The last outage and this one, as the Node's annotations tell them.
fn on_record(node: &Node) -> Vec<Entry> {
    let value = |key: &str| node.annotation(key).map(str::to_owned);
    let outage = node.annotation(LAST_OUTAGE).and_then(|text| serde_json::from_str::<Outage>(text).ok());
    let (was, is) = (outage.as_ref(), node);
    let last = |part: fn(&Outage) -> &Option<String>| was.and_then(|outage| part(outage).clone());
    let steps = [
        (last(|was| &was.recorded_at), last(|was| &was.recorded_by), Transition::Attest, None),
        (last(|was| &was.placed_at), last(|was| &was.placed_by), Transition::Place, last(|was| &was.overridden)),
        (was.map(|was| was.released_at.to_string()), was.map(|was| was.released_by.clone()), Transition::Release, None),
        (value(RECORDED_AT), value(RECORDED_BY), Transition::Attest, None),
        (value(PLACED_AT), value(PLACED_BY), Transition::Place, value(OVERRIDDEN)),
    ];
    let entry = |(at, by, does, overridden): (Option<String>, Option<String>, Transition, Option<String>)| {
        Some(Entry {
            time: parse_time(&at?)?,
            node: is.metadata.name.clone(),
            user: by?,
            does: vec![does.name().to_owned()],
            decision: "allow".to_owned(),
            reasons: overridden.iter().map(|_| "overridden".to_owned()).collect(),
            dry_run: false,
            webhook: String::new(),
        })
    };
    steps.into_iter().filter_map(entry).collect()
}

fn table(entries: &[Entry], has_nodes: bool, has_header: bool) -> String {
    let header = ["TIME", "NODE", "USER", "DOES", "DECISION", "REASONS"];
    let shown = |column: &usize| has_nodes || *column != 1;
    let header = has_header.then(|| header.map(str::to_owned));
    let rows = entries.iter().map(|entry| {
        let dry_run = if entry.dry_run { "(dry-run)" } else { "" };
        let joined = |names: &[String]| word(&names.join(",").replace(" (", "("));
        [
            format!("{:.0}", entry.time),
            word(&entry.node),
            word(&entry.user),
            joined(&entry.does),
            word(&format!("{}{dry_run}", entry.decision)),
            joined(&entry.reasons),
        ]
    });
    let lines = header.into_iter().chain(rows);
    let lines = lines.map(|cells| {
        let shown = cells.into_iter().enumerate().filter(|(column, _)| shown(column));
        shown.map(|(_, cell)| cell).collect::<Vec<_>>()
    });
    if entries.is_empty() { String::new() } else { aligned(lines) }
}
