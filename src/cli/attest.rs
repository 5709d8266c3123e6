//! `fencegate attest`: records that a node was fenced, after trying to refute it.

use std::{collections::BTreeMap, io::Read as _, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::{
    Args as ClapArgs,
    builder::{PossibleValuesParser, TypedValueParser},
};
use jiff::{SignedDuration, Timestamp};

use super::{
    desk::{Desk, DeskArgs, Row},
    duration, node_name,
    wait::Patience,
    write::{self, Change, Sent, WriteArgs, refuse},
};
use crate::cluster::Changes;
use crate::policy::{
    Decision,
    annotation::{BOOT_ID, FENCED_AT, FENCED_BY, METHOD, NOW, PROOF},
    evidence::{Method, parse_time},
    reason::{Code, Reason},
    request::{Request, Write},
    standing::Step,
    text::{Span, is_printable},
};

/// Record that a node was fenced, after trying to refute it.
///
/// Nothing is recorded while the node is Ready, or while its kubelet was heard within the duration
/// of its Lease: with --wait, the command waits for that. A kubelet that is heard meanwhile ends
/// the wait, because then it was another machine that was switched off.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  fencegate attest worker-2 --method power-off --wait
  fencegate attest worker-2 --method power-off --by 'alice, OPS-123' --proof 'Chassis Power is off'
  ipmitool -H bmc-7 chassis power status | fencegate attest worker-2 --method power-off --proof -

Exit codes: 0 recorded; 1 refuted or denied, nothing was recorded; 2 the command could not run.")]
pub struct Args {
    /// The name of the node
    #[arg(value_name = "NODE", value_parser = node_name)]
    node: String,
    /// How it was fenced: `power-off` and `instance-stop` for a machine that was switched off,
    /// `hardware-removal` for one that is gone, `network-isolation` and `storage-isolation` for one
    /// that was only cut off
    #[arg(long, value_name = "METHOD", value_parser = methods())]
    method: Method,
    /// Who fenced it, with a ticket perhaps [default: your user name]
    #[arg(long, value_name = "WHO")]
    by: Option<String>,
    /// What was observed; `-` is standard input
    #[arg(long, value_name = "TEXT|-")]
    proof: Option<String>,
    /// When the fence took effect: RFC 3339, or how long ago, as -5m [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = moment)]
    at: Option<Moment>,
    /// The boot that the fence ended [default: the one that the node reports]
    #[arg(long, value_name = "ID")]
    boot_id: Option<String>,
    /// Replace a record that is there
    #[arg(long)]
    overwrite: bool,
    /// Record it even if the node seems to live: the gate still judges the placement
    #[arg(long, conflicts_with = "wait")]
    force: bool,
    /// Wait until the machine has been silent for long enough
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

/// A moment, given by itself or by how long ago it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    At(Timestamp),
    Ago(SignedDuration),
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let desk = args.desk.open().await?;
    write::live(&desk, "attest")?;
    let proof = args.proof.as_deref().map(observed).transpose()?;
    let mut row = desk.node(&args.node).await?;
    if let Some(why) = args.recorded(&row) {
        eprintln!("{why}");
        return Ok(ExitCode::from(1));
    }
    let changes = args.changes(&row, &desk, proof);
    if args.force {
        let request = placing(&row, &desk, &changes);
        if refutes(&desk.judge_strictly(&request).await) {
            args.write.tell("Warning: something speaks against this fence, and it is recorded all the same");
        }
    } else {
        match args.silent(&desk, row, &changes).await? {
            Ok(silent) => row = silent,
            Err(code) => return Ok(code),
        }
    }
    let propose = |row: &Row| match args.recorded(row) {
        Some(why) => Err(why),
        None => Ok((attesting(row, &desk, &changes), Change::Patch(row.listed.patch_of_annotations(&changes)))),
    };
    match write::send(&desk, &args.write, row, propose).await? {
        Sent::Denied => Ok(ExitCode::from(1)),
        Sent::Stored(stored) => {
            let code = args.write.done(&args.node, "attested", stored.as_ref())?;
            args.write.tell(&super::next("place", &args.node));
            Ok(code)
        }
    }
}

impl Args {
    /// What is said about a record that is there already, if it may not be replaced. The gate says
    /// it about the record of a node that is out of service.
    fn recorded(&self, row: &Row) -> Option<String> {
        let node = &row.listed.node;
        (node.has_record() && !self.overwrite && !node.is_out_of_service()).then(|| {
            let record = super::status::record(node).join("\n  ");
            let name = &self.node;
            format!(
                "{name} has a record already, and nothing was changed:\n  {record}\n\
                 if it is about an earlier fence, or is wrong, --overwrite replaces it; if it is about this one, go on\n{}",
                super::next("place", name)
            )
        })
    }

    /// The record. A proof and a boot of an earlier record do not belong to it.
    fn changes(&self, row: &Row, desk: &Desk, proof: Option<String>) -> Changes {
        let at = match self.at {
            None => NOW.to_owned(),
            Some(Moment::At(at)) => at.to_string(),
            Some(Moment::Ago(ago)) => {
                row.facts.api_now().saturating_sub(ago).map_or(NOW.to_owned(), |at| at.strftime("%FT%TZ").to_string())
            }
        };
        // A record that comes late names no boot: the node may have booted since it was fenced.
        let node = &row.listed.node;
        let current = node.boot_id().filter(|_| !node.is_out_of_service()).map(str::to_owned);
        let boot_id = self.boot_id.clone().or(current);
        BTreeMap::from([
            (METHOD, Some(self.method.name().to_owned())),
            (FENCED_AT, Some(at)),
            (FENCED_BY, Some(self.by.clone().unwrap_or_else(|| desk.user.name.clone()))),
            (PROOF, proof),
            (BOOT_ID, boot_id),
        ])
    }

    /// Tries to refute the fence: asks what the gate would say to a placement by this record, and
    /// with `--wait` until it says nothing against the machine's silence any more.
    async fn silent(&self, desk: &Desk, mut row: Row, changes: &Changes) -> anyhow::Result<Result<Row, ExitCode>> {
        let heard_first = row.standing.sign_of_life;
        let mut patience = Patience::new(self.timeout);
        let mut has_told = false;
        loop {
            let request = placing(&row, desk, changes);
            let decision = desk.judge_strictly(&request).await;
            if !refutes(&decision) {
                if has_told {
                    self.write.tell(&format!("{} is silent", self.node));
                }
                return Ok(Ok(row));
            }
            let is_heard_again = row.standing.sign_of_life.map(|sign| sign.at) > heard_first.map(|sign| sign.at);
            if is_heard_again {
                let sign = row.standing.sign_of_life.map_or("was heard", |sign| sign.did());
                eprintln!("{} {sign} while you waited: its kubelet runs. Was another machine switched off?", self.node);
                eprintln!("  {}", super::status::machine(&row.listed.node));
                eprintln!("nothing was recorded");
                return Ok(Err(ExitCode::from(1)));
            }
            let lease_is_unread = row.facts.lease.value().is_err();
            if !self.wait || !may_pass(&decision) || lease_is_unread {
                refuse(&decision, &request);
                let is_a_matter_of_time = may_pass(&decision) && !lease_is_unread;
                let hint = if is_a_matter_of_time { ": --wait waits until the machine is silent" } else { "" };
                eprintln!("nothing was recorded{hint}");
                return Ok(Err(ExitCode::from(1)));
            }
            if !has_told {
                self.write.tell(&waiting(&self.node, &row));
                has_told = true;
            }
            row = match patience.next(desk, &self.node).await {
                Ok(row) => row,
                Err(timed_out) => {
                    refuse(&decision, &request);
                    eprintln!("{timed_out}: {} is not silent yet; nothing was recorded", self.node);
                    return Ok(Err(ExitCode::from(1)));
                }
            };
        }
    }
}

fn waiting(node: &str, row: &Row) -> String {
    let heard = row
        .facts
        .lease
        .value()
        .ok()
        .zip(row.standing.sign_of_life)
        .map(|(answer, sign)| format!("{node} {} {} ago", sign.did(), Span(answer.date.duration_since(sign.at))));
    format!(
        "{}: waiting until it has been silent for long enough",
        heard.unwrap_or_else(|| format!("{node} is not silent"))
    )
}

/// The request that records the fence.
fn attesting(row: &Row, desk: &Desk, changes: &Changes) -> Request {
    let old = row.listed.node.clone();
    let write = Write::Update { new: old.clone(), old };
    write::annotated(Request { node: row.name().to_owned(), user: desk.user.clone(), write }, changes)
}

/// The request that records it and places the taint at once: what would be said against it. If the
/// node is out of service, as if it were not.
fn placing(row: &Row, desk: &Desk, changes: &Changes) -> Request {
    write::annotated(Step::Place.request(&row.listed.node.in_service(), &desk.user), changes)
}

/// Whether something speaks against the fence itself, even if a break-glass waives it. A limit or a
/// right that is missing does not.
fn refutes(decision: &Decision) -> bool {
    let beside = [Code::TooManyOutOfService, Code::TooManyNotReady, Code::NotAuthorized, Code::PlacedWithoutEviction];
    decision.findings.iter().any(|finding| finding.is_enforced() && !beside.contains(&finding.reason.code()))
}

/// Whether everything that denies may pass if the machine is silent for long enough.
fn may_pass(decision: &Decision) -> bool {
    let denying = decision.findings.iter().filter(|finding| finding.denies());
    let mut against_the_fence = denying.filter(|finding| match &finding.reason {
        Reason::NodeStillReady { .. } | Reason::FactsUnavailable { .. } => false,
        Reason::LeaseStillRenewed { fenced_at, .. } => fenced_at.is_some(),
        _ => true,
    });
    against_the_fence.next().is_none()
}

/// A proof: from standard input, its first printable characters on one line.
fn observed(given: &str) -> anyhow::Result<String> {
    /// The longest proof (contract section 2).
    const LONGEST: usize = 1024;
    if given.trim().is_empty() {
        bail!("a proof says something");
    }
    if given != "-" {
        return Ok(given.to_owned());
    }
    let mut text = String::new();
    std::io::stdin().take(1 << 20).read_to_string(&mut text).context("cannot read standard input")?;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let proof: String = text.chars().filter(|character| is_printable(*character)).take(LONGEST).collect();
    if proof.is_empty() {
        bail!("standard input has no proof: did the command before it fail?");
    }
    Ok(proof)
}

/// Parses the name of a method.
fn methods() -> impl TypedValueParser<Value = Method> {
    PossibleValuesParser::new(Method::ALL.map(Method::name))
        .try_map(|name| Method::parse(&name).context("there is no such method"))
}

/// Parses an RFC 3339 time, or how long ago it was.
fn moment(text: &str) -> anyhow::Result<Moment> {
    match text.strip_prefix('-') {
        Some(ago) => Ok(Moment::Ago(SignedDuration::try_from(duration(ago)?)?)),
        None => parse_time(text).map(Moment::At).context("is neither an RFC 3339 time nor how long ago it was, as -5m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_how_long_ago_it_was() {
        let at = "2026-11-22T10:15:00Z";
        assert_eq!(moment(at).unwrap(), Moment::At(at.parse().unwrap()));
        assert_eq!(moment("-5m").unwrap(), Moment::Ago(SignedDuration::from_mins(5)));
        assert!(moment("5m").is_err() && moment("--5m").is_err() && moment("yesterday").is_err());
    }
}
