//! `fencegate release`: returns a node to service, or deletes it, once nothing is left on it.

use std::{process::ExitCode, time::Duration};

use clap::{Args as ClapArgs, ValueEnum};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    desk::{Desk, DeskArgs, Row},
    duration, node_name,
    wait::Patience,
    write::{self, Change, Sent, WriteArgs},
};
use crate::policy::{
    evidence::parse_time,
    reason::Code,
    record::outage::Outage,
    request::Request,
    standing::{State, Step},
    text::{Foreign, Span},
};

/// Return a node to service, once nothing is left on it: removes every entry of the taint.
///
/// The write is judged by the gate's rules before it is sent, and by the gate itself.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  fencegate release worker-2 --wait                    when it is back and empty
  fencegate release worker-2 --for rebooted --wait     when it has also booted again
  fencegate release worker-2 --delete                  the machine is gone for good

Exit codes: 0 done, or in service before; 1 denied, or not so far yet; 2 the command could not run.")]
pub struct Args {
    /// The name of the node
    #[arg(value_name = "NODE", value_parser = node_name)]
    node: String,
    /// What must be true before the gate is asked [default: recovered]
    #[arg(long = "for", value_enum, value_name = "STATE")]
    goal: Option<Goal>,
    /// Overrule the gate, for this reason: it is on record
    #[arg(long, value_name = "WHY", conflicts_with = "delete")]
    break_glass: Option<String>,
    /// Delete the Node once it is empty: its machine does not come back
    #[arg(long, conflicts_with = "goal")]
    delete: bool,
    /// Wait until that is true, and until the gate lets the node return
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10m")]
    timeout: Duration,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    desk: DeskArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Goal {
    /// Nothing is left on it
    Empty,
    /// Nothing is left on it, and it is Ready
    Recovered,
    /// The same, in another boot than the one that was fenced
    Rebooted,
}

impl Goal {
    fn is_reached(self, row: &Row) -> bool {
        match (self, row.standing.state) {
            (Self::Empty, State::Empty | State::Recovered | State::SameBoot)
            | (Self::Recovered, State::Recovered | State::SameBoot) => true,
            (Self::Rebooted, State::Recovered) => row.standing.is_in_recorded_boot == Some(false),
            _ => false,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Recovered => "back (empty, and Ready)",
            Self::Rebooted => "back (empty, and Ready in another boot than the one that was fenced)",
        }
    }
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let desk = args.desk.open().await?;
    write::live(&desk, "release")?;
    let row = desk.node(&args.node).await?;
    if !row.listed.node.is_out_of_service() {
        let told = format!("{} is {}: it is not out of service", args.node, row.standing.state);
        if args.delete {
            eprintln!("{told}, and is not deleted");
            return Ok(ExitCode::from(1));
        }
        args.write.tell(&told);
        return args.write.done(&args.node, "unchanged", None);
    }
    // A break-glass is for what the cluster cannot know: nothing is waited for.
    let row = match &args.break_glass {
        Some(_) => row,
        None => match args.ready(&desk, row).await? {
            Ok(row) => row,
            Err(code) => return Ok(code),
        },
    };
    super::status::raise_alarm(&row);
    let propose = |row: &Row| {
        if args.break_glass.is_some() || args.is_reached(row) {
            Ok((args.request(row, &desk), args.change(row)))
        } else {
            Err(format!("{} is {} meanwhile, and nothing was changed", args.node, row.standing.state))
        }
    };
    match write::send(&desk, &args.write, row, propose).await? {
        Sent::Denied => Ok(ExitCode::from(1)),
        Sent::Stored(None) if args.delete => args.write.done(&args.node, "deleted", None),
        Sent::Stored(stored) => {
            let outage = stored.as_ref().map_or(String::new(), told);
            args.write.done(&args.node, &format!("back in service{outage}"), stored.as_ref())
        }
    }
}

impl Args {
    /// The node, once the goal is reached and the gate has nothing against the write. Without
    /// `--wait`, at once or not at all.
    async fn ready(&self, desk: &Desk, mut row: Row) -> anyhow::Result<Result<Row, ExitCode>> {
        let mut patience = Patience::new(self.timeout);
        let mut told: Option<(State, Vec<Code>)> = None;
        loop {
            let verdicts = &row.standing.verdicts;
            let Some(decision) = (if self.delete { &verdicts.delete } else { &verdicts.release }) else {
                eprintln!("{} is {}: somebody else removed the taint", self.node, row.standing.state);
                return Ok(Err(ExitCode::from(1)));
            };
            let is_reached = self.is_reached(&row);
            if is_reached && decision.allowed {
                return Ok(Ok(row));
            }
            if !self.wait {
                if !decision.allowed {
                    write::refuse(decision, &self.request(&row, desk));
                }
                if !is_reached {
                    let goal = self.goal();
                    let state = row.standing.state;
                    eprintln!("{} is {state}: not yet {goal}. --wait waits until it is", self.node);
                }
                return Ok(Err(ExitCode::from(1)));
            }
            let codes: Vec<Code> = decision.codes();
            let names: Vec<&str> = codes.iter().map(|code| code.name()).collect();
            let denied = if decision.allowed { String::new() } else { format!(" ({})", names.join(", ")) };
            let now = Some((row.standing.state, codes));
            if told != now {
                if told.is_none() {
                    let timeout = Span(self.timeout.try_into().unwrap_or_default());
                    self.write.tell(&format!("waiting for up to {timeout} until {} is {}", self.node, self.goal()));
                }
                self.write.tell(&format!("{}  {} is {}{denied}", row.time(), self.node, row.standing.state));
                told = now;
            }
            row = match patience.next(desk, &self.node).await {
                Ok(row) => row,
                Err(timed_out) => {
                    for line in super::status::page(&row, desk).lines() {
                        eprintln!("  {line}");
                    }
                    eprintln!("{timed_out}: {} is {}, and stays out of service", self.node, row.standing.state);
                    return Ok(Err(ExitCode::from(1)));
                }
            };
        }
    }

    /// A Node that is deleted must be dead: one that is Ready again is returned to service.
    fn is_reached(&self, row: &Row) -> bool {
        if self.delete {
            row.standing.state == State::Empty
        } else {
            self.goal.unwrap_or(Goal::Recovered).is_reached(row)
        }
    }

    /// What it waits for, in words.
    fn goal(&self) -> &'static str {
        if self.delete {
            "ready to be deleted (empty, and not Ready)"
        } else {
            self.goal.unwrap_or(Goal::Recovered).name()
        }
    }

    fn request(&self, row: &Row, desk: &Desk) -> Request {
        let step = if self.delete { Step::Delete } else { Step::Release };
        write::annotated(step.request(&row.listed.node, &desk.user), &write::break_glass(self.break_glass.as_deref()))
    }

    fn change(&self, row: &Row) -> Change {
        if self.delete {
            Change::Delete
        } else {
            Change::Patch(row.listed.patch_of_taints(&[], &write::break_glass(self.break_glass.as_deref())))
        }
    }
}

/// The outage that ended, in a line: `: out of service for 23m55s, fenced by alice (power-off), …`.
fn told(stored: &Value) -> String {
    let text = stored.pointer("/metadata/annotations/fencegate.dev~1last-outage").and_then(Value::as_str);
    let Some(outage) = text.and_then(|text| serde_json::from_str::<Outage>(text).ok()) else { return String::new() };
    let placed_at: Option<Timestamp> = outage.placed_at.as_deref().and_then(parse_time);
    let out_for = placed_at.map(|at| format!("out of service for {}", Span(outage.released_at.duration_since(at))));
    let by = |what: &str, who: &Option<String>| who.as_deref().map(|who| format!("{what} by {}", Foreign::from(who)));
    let method = outage.method.as_deref().map_or(String::new(), |method| format!(" ({})", Foreign::from(method)));
    let fenced = by("fenced", &outage.fenced_by).map(|fenced| format!("{fenced}{method}"));
    let released = Some(format!("released by {}", Foreign::from(outage.released_by.as_str())));
    let parts = [out_for, fenced, by("placed", &outage.placed_by), released];
    format!(": {}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}
