//! `fencegate place`: puts a fenced node out of service.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead as _, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Args as ClapArgs, ValueEnum};
use serde_json::Value;

use super::{
    desk::{Desk, DeskArgs, Row},
    duration, node_name,
    wait::Patience,
    write::{self, Change, Sent, WriteArgs},
};
use crate::policy::{
    facts::Fact,
    object::{
        node::{OUT_OF_SERVICE, Taint},
        pod::Pod,
    },
    request::{Request, Write},
    standing::{Standing, State},
    text::{NAMED, Span},
};

/// Put a fenced node out of service: its pods are force-deleted, and its volumes detached.
///
/// The write is judged by the gate's rules before it is sent, and by the gate itself.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  fencegate place worker-2 --wait
  fencegate place worker-2 --break-glass 'OPS-123: the rack burnt down'

Exit codes: 0 done, or out of service before; 1 denied, or not empty in time (--wait); 2 the command could not run.")]
pub struct Args {
    /// The name of the node
    #[arg(value_name = "NODE", value_parser = node_name)]
    node: String,
    /// The effects of the taint
    #[arg(long, value_enum, value_name = "EFFECT", default_value_t = Effect::NoExecute)]
    effect: Effect,
    /// The value of the taint
    #[arg(long, value_name = "TEXT", default_value = "nodeshutdown")]
    value: String,
    /// Overrule the gate, for this reason: it is on record
    #[arg(long, value_name = "WHY")]
    break_glass: Option<String>,
    /// Ask before anything is written
    #[arg(short, long)]
    interactive: bool,
    /// Wait until nothing is left on the node
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5m")]
    timeout: Duration,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    desk: DeskArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum Effect {
    /// Evicts the pods, as the procedure has it
    NoExecute,
    /// Keeps new pods away and evicts none
    NoSchedule,
    #[value(name = "both")]
    Both,
}

impl Effect {
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::NoExecute => &["NoExecute"],
            Self::NoSchedule => &["NoSchedule"],
            Self::Both => &["NoExecute", "NoSchedule"],
        }
    }
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let desk = args.desk.open().await?;
    write::live(&desk, "place")?;
    let row = desk.node(&args.node).await?;
    let has = |effect: &&str| row.listed.node.out_of_service().any(|taint| taint.effect == **effect);
    let is_placed = args.effect.names().iter().all(has);
    if is_placed {
        args.write.done(&args.node, "unchanged", None)?;
    } else {
        let request = args.request(&row, &desk);
        let decision = desk.judge(&request).await;
        if !decision.allowed {
            write::refuse(&decision, &request);
            return Ok(ExitCode::from(1));
        }
        if args.interactive {
            eprintln!("{}", args.announced(&row));
        } else {
            args.write.tell(&args.announced(&row));
        }
        if args.interactive && !confirmed()? {
            eprintln!("nothing was changed");
            return Ok(ExitCode::from(1));
        }
        let propose = |row: &Row| Ok((args.request(row, &desk), Change::Patch(args.patch(row))));
        match write::send(&desk, &args.write, row, propose).await? {
            Sent::Denied => return Ok(ExitCode::from(1)),
            Sent::Stored(stored) => args.write.done(&args.node, "out of service", stored.as_ref())?,
        };
    }
    if args.wait && args.write.stores() { watch(&desk, &args).await } else { Ok(ExitCode::SUCCESS) }
}

impl Args {
    /// The entries of the taint after the write: those that are there stay.
    fn entries(&self, row: &Row) -> Vec<Taint> {
        let mut entries: Vec<Taint> = row.listed.node.out_of_service().cloned().collect();
        for effect in self.effect.names() {
            if !entries.iter().any(|entry| entry.effect == *effect) {
                let [key, value, effect] = [OUT_OF_SERVICE, &self.value, effect].map(str::to_owned);
                entries.push(Taint { key, value, effect });
            }
        }
        entries
    }

    fn request(&self, row: &Row, desk: &Desk) -> Request {
        let old = row.listed.node.clone();
        let mut new = old.in_service();
        new.spec.taints.extend(self.entries(row));
        let request =
            Request { node: row.name().to_owned(), user: desk.user.clone(), write: Write::Update { old, new } };
        write::annotated(request, &write::break_glass(self.break_glass.as_deref()))
    }

    fn patch(&self, row: &Row) -> Value {
        row.listed.patch_of_taints(&self.entries(row), &write::break_glass(self.break_glass.as_deref()))
    }

    /// What will happen.
    fn announced(&self, row: &Row) -> String {
        let Standing { pods, volumes, unread, .. } = &row.standing;
        if let Some((fact, why)) = unread.iter().find(|(fact, _)| matches!(fact, Fact::Pods | Fact::VolumeAttachments))
        {
            return format!("what is on it could not be read ({}: {why})", fact.name());
        }
        if self.effect == Effect::NoSchedule {
            return "new pods are kept away; nothing is evicted".to_owned();
        }
        if row.standing.state == State::InService {
            let name = row.name();
            return format!("{name} is in service: every pod on it that does not tolerate the taint will be evicted");
        }
        if pods.is_empty() && volumes.is_empty() {
            return "nothing is on it that holds the taint".to_owned();
        }
        let names: Vec<String> = pods.iter().map(|pod| pod.name.to_string()).take(NAMED).collect();
        let names = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
        let counted = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        let (pods, volumes) = (counted(pods.len(), "pod"), counted(volumes.len(), "volume"));
        format!("{pods} will be force-deleted, {volumes} detached{names}")
    }
}

fn confirmed() -> io::Result<bool> {
    eprint!("go on? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Tells each pod and volume that leaves the node, until nothing is left.
async fn watch(desk: &Desk, args: &Args) -> anyhow::Result<ExitCode> {
    /// After how long without a change what holds the node is told.
    const STILL: Duration = Duration::from_mins(1);

    let mut patience = Patience::new(args.timeout);
    let start = Instant::now();
    let (mut left, mut changed_at, mut gone) = (BTreeMap::new(), Instant::now(), BTreeSet::new());
    let mut replaced = BTreeSet::new();
    let mut row = desk.node(&args.node).await?;
    let mut state = row.standing.state;
    loop {
        // What could not be read is not gone.
        if row.standing.unread.is_empty() {
            let now_left = leftover(&row);
            for (name, told) in left.iter().filter(|(name, _)| !now_left.contains_key(*name)) {
                args.write.tell(&format!("{}  {told}", row.time()));
                changed_at = Instant::now();
                gone.insert(String::clone(name));
            }
            left = now_left;
            replaced.extend(of_stateful_sets(&row));
        }
        match row.standing.state {
            now if !row.listed.node.is_out_of_service() => {
                eprintln!("{} is {now}: somebody removed the taint", args.node);
                return Ok(ExitCode::from(1));
            }
            State::Empty | State::Recovered | State::SameBoot => {
                let took = jiff::SignedDuration::try_from(start.elapsed()).unwrap_or_default();
                args.write.tell(&format!("{}  nothing is left after {}", row.time(), Span(took)));
                gone.retain(|pod| replaced.contains(pod));
                for runs in replacements(desk, &row, &gone, &mut patience).await {
                    args.write.tell(&format!("          {runs}"));
                }
                if super::status::raise_alarm(&row) {
                    return Ok(ExitCode::from(1));
                }
                args.write.tell("now repair the machine, and when it is back:");
                args.write.tell(&super::next("release", &args.node));
                return Ok(ExitCode::SUCCESS);
            }
            State::Alive if state != State::Alive => {
                eprintln!("{}  its machine lives: every detach is unsafe. Power it off", row.time());
            }
            _ => {}
        }
        state = row.standing.state;
        let next = patience.next(desk, &args.node).await;
        if next.is_err() || changed_at.elapsed() >= STILL {
            changed_at = Instant::now();
            for line in super::status::page(&row, desk).lines() {
                eprintln!("  {line}");
            }
        }
        row = match next {
            Ok(row) => row,
            Err(timed_out) => {
                eprintln!("{timed_out}: {} is {state}, and stays out of service", args.node);
                return Ok(ExitCode::from(1));
            }
        };
    }
}

/// What is left on the node, by name, with what is said once it has gone.
fn leftover(row: &Row) -> BTreeMap<String, String> {
    let pods = row.standing.pods.iter().map(|pod| (pod.name.to_string(), format!("{} gone", pod.name)));
    let volumes = row.standing.volumes.iter();
    let volumes = volumes.map(|volume| (volume.name().to_string(), format!("{} detached", volume.label())));
    pods.chain(volumes).collect()
}

/// The pods of StatefulSets on the node. Their replacements have their names.
fn of_stateful_sets(row: &Row) -> impl Iterator<Item = String> {
    let is_of_set = |pod: &&Pod| pod.controller().is_some_and(|owner| owner.kind == "StatefulSet");
    row.facts.pods.value().into_iter().flatten().filter(is_of_set).map(Pod::full_name)
}

/// Where the pods that went run now. A replacement is waited for, but not for long: it may need
/// what this cluster does not have.
async fn replacements(desk: &Desk, row: &Row, gone: &BTreeSet<String>, patience: &mut Patience) -> Vec<String> {
    const STARTS_WITHIN: Duration = Duration::from_secs(30);

    let Some(live) = desk.live() else { return Vec::new() };
    let (start, mut told) = (Instant::now(), Vec::new());
    for (pod, (namespace, name)) in gone.iter().filter_map(|pod| Some((pod, pod.split_once('/')?))).take(NAMED) {
        let runs = loop {
            match live.where_it_runs(namespace, name).await {
                Ok(Some(node)) if node != row.name() => break format!("{pod} is Running on {node}"),
                Ok(_) if start.elapsed() < STARTS_WITHIN && patience.beat().await.is_none() => {}
                Ok(_) => break format!("{pod} is not Running yet: see kubectl describe pod"),
                Err(why) => break format!("{pod} could not be read: {why}"),
            }
        };
        told.push(runs);
    }
    told
}
