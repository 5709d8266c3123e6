//! What the commands that write have in common: how a write is sent, and what is said about it.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args as ClapArgs, ValueEnum};
use serde_json::Value;

use super::{
    Output,
    desk::{Desk, Row},
    print, to_attest, typed,
};
use crate::{
    cluster::{Changes, Live, Manner, WriteError},
    policy::{
        Decision,
        annotation::BREAK_GLASS,
        message::denial,
        reason::Code,
        request::{Request, Write},
        review::Content,
    },
};

/// How often a write is tried if somebody else's came first.
const TRIES: usize = 3;

/// How a write is sent.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "How to write")]
pub struct WriteArgs {
    /// Say what would be done: by the gate's rules as this program has them, or by the API server
    #[arg(long, value_enum, value_name = "none|client|server", default_value_t = DryRun::None, hide_possible_values = true)]
    dry_run: DryRun,
    /// The name under which the API server records who manages the fields
    #[arg(long, value_name = "NAME", default_value = "kubectl-fencegate")]
    field_manager: String,
    /// Say nothing but results and errors
    #[arg(short, long)]
    quiet: bool,
    /// Print the Node as it is stored then [default: a line]
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DryRun {
    None,
    Client,
    Server,
}

impl WriteArgs {
    /// Says something on standard error, unless that is not wanted.
    pub fn tell(&self, text: &str) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }

    /// Prints the result of a write: the Node as it is stored, if that is wanted and there is one.
    pub fn done(&self, node: &str, what: &str, stored: Option<&Value>) -> anyhow::Result<ExitCode> {
        if let Some(stored) = stored.filter(|_| self.output == Some(Output::Json)) {
            print(&format!("{}\n", serde_json::to_string_pretty(stored)?))?;
            return Ok(ExitCode::SUCCESS);
        }
        let how = match self.dry_run {
            DryRun::None => "",
            DryRun::Client => " (dry run)",
            DryRun::Server => " (server dry run)",
        };
        print(&format!("node/{node} {what}{how}\n"))?;
        Ok(ExitCode::SUCCESS)
    }

    fn manner(&self) -> Manner {
        Manner { dry_run: self.dry_run == DryRun::Server, field_manager: self.field_manager.clone() }
    }

    /// Whether anything is stored in the end.
    pub fn stores(&self) -> bool {
        self.dry_run == DryRun::None
    }
}

/// What became of a write.
pub enum Sent {
    /// The Node as it is stored. `None`: nothing was sent, or the Node was deleted.
    Stored(Option<Value>),
    /// It was denied, or is not wanted any more, and the user knows why.
    Denied,
}

/// The API server to write to.
///
/// # Errors
/// If facts come from a file.
pub fn live<'a>(desk: &'a Desk, command: &str) -> anyhow::Result<&'a Live> {
    desk.live().with_context(|| format!("a file cannot be written to: {command} needs a cluster"))
}

/// Says in the gate's words why a write is denied, and which command of this program helps.
pub fn refuse(decision: &Decision, request: &Request) {
    eprintln!("{}", denial(decision, &Content::Node(Box::new(request.clone()))));
    let is_deletion = matches!(request.write, Write::Delete { .. });
    if let Some(command) = helping(&decision.codes(), &request.node, is_deletion) {
        eprintln!("the command for this: {command}");
    }
}

/// The command that helps against these reasons.
fn helping(codes: &[Code], node: &str, is_deletion: bool) -> Option<String> {
    const OF_THE_RECORD: [Code; 4] =
        [Code::EvidenceMissing, Code::EvidenceMalformed, Code::EvidenceExpired, Code::EvidenceForOtherBoot];
    const OF_THE_MACHINE: [Code; 3] = [Code::NodeStillReady, Code::LeaseStillRenewed, Code::FactsUnavailable];
    const OF_WHAT_IS_LEFT: [Code; 3] = [Code::PodsRemain, Code::VolumesAttached, Code::NodeNotRebooted];
    let has = |some: &[Code]| codes.iter().any(|code| some.contains(code));
    let is_recorded = codes.contains(&Code::EvidenceExpired) || codes.contains(&Code::EvidenceForOtherBoot);
    if has(&OF_THE_RECORD) {
        to_attest(node, is_recorded)
    } else if has(&OF_THE_MACHINE) {
        typed(&["status", node])
    } else if has(&OF_WHAT_IS_LEFT) && is_deletion {
        typed(&["release", node, "--delete", "--wait"])
    } else if has(&OF_WHAT_IS_LEFT) {
        typed(&["release", node, "--wait"])
    } else {
        codes.first().and_then(|code| typed(&["explain", code.name()]))
    }
}

/// The change that a command makes to a Node.
pub enum Change {
    /// Merged into the Node.
    Patch(Value),
    Delete,
}

/// Sends the change that `propose` makes of a node, if the gate's rules allow it. If somebody else
/// wrote to the Node meanwhile, it is read and judged again.
///
/// # Errors
/// If the Node cannot be read or written, or is not the one that was meant any more.
pub async fn send(
    desk: &Desk,
    args: &WriteArgs,
    mut row: Row,
    propose: impl Fn(&Row) -> Result<(Request, Change), String>,
) -> anyhow::Result<Sent> {
    let live = live(desk, "this")?;
    let uid = row.listed.node.metadata.uid.clone();
    for _ in 0..TRIES {
        let (request, change) = match propose(&row) {
            Ok(proposed) => proposed,
            Err(why) => {
                eprintln!("{why}");
                return Ok(Sent::Denied);
            }
        };
        let decision = desk.judge(&request).await;
        if !decision.allowed {
            refuse(&decision, &request);
            return Ok(Sent::Denied);
        }
        for warning in &decision.warnings {
            args.tell(&format!("Warning: {warning}"));
        }
        if args.dry_run == DryRun::Client {
            return Ok(Sent::Stored(None));
        }
        let name = row.name().to_owned();
        let result = match change {
            Change::Patch(patch) => live.patch_node(&name, &patch, &args.manner()).await.map(Some),
            Change::Delete => {
                let version = &row.listed.node.metadata.resource_version;
                live.delete_node(&name, &uid, version, &args.manner()).await.map(|()| None)
            }
        };
        match result {
            Ok(stored) => return Ok(Sent::Stored(stored)),
            Err(WriteError::Denied(why)) => {
                eprintln!("{why}");
                return Ok(Sent::Denied);
            }
            Err(WriteError::Conflict) => row = desk.node(&name).await?,
            Err(WriteError::Failed(why)) => anyhow::bail!("{why}; if no answer came, it may be stored: see status"),
        }
        if row.listed.node.metadata.uid != uid {
            anyhow::bail!("{name} is another Node now: it was deleted and made again meanwhile");
        }
    }
    anyhow::bail!("{} was changed {TRIES} times meanwhile: try again", row.name())
}

/// The annotation of a break-glass, if there is one.
pub fn break_glass(why: Option<&str>) -> Changes {
    why.map(|why| (BREAK_GLASS, Some(why.to_owned()))).into_iter().collect()
}

/// The request with these annotations.
pub fn annotated(mut request: Request, changes: &Changes) -> Request {
    if let Write::Update { new, .. } = &mut request.write {
        new.annotate(changes);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_of_a_command_names_the_command_that_helps() {
        for (codes, command) in [
            (&[Code::NodeStillReady, Code::EvidenceMissing][..], "attest worker-2 --method power-off --wait"),
            (&[Code::EvidenceExpired], "attest worker-2 --method power-off --wait --overwrite"),
            (&[Code::LeaseStillRenewed], "status worker-2"),
            (&[Code::PodsRemain, Code::NodeNotRecovered], "release worker-2 --wait"),
            (&[Code::NotAuthorized], "explain NotAuthorized"),
        ] {
            assert_eq!(helping(codes, "worker-2", false), Some(format!("fencegate {command}")), "{codes:?}");
        }
        assert_eq!(helping(&[], "worker-2", false), None);
        let of_deletion = helping(&[Code::PodsRemain], "worker-2", true);
        assert_eq!(of_deletion.as_deref(), Some("fencegate release worker-2 --delete --wait"));
    }
}
