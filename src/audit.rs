//! The product's record: one JSON line on standard output for each decision about something that
//! the gate guards.
//!
//! With it and the object, `fencegate review --cluster LINE --now T` reaches the same decision
//! again: the facts are in it as they were read. An answer is given only after its line was
//! written, so a stuck log holds guarded writes up rather than losing them.

use std::io::{self, Write as _};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::policy::{
    Decision,
    annotation::{BOOT_ID, EVIDENCE, FENCED_AT, FENCED_BY, METHOD, PROOF},
    facts::Facts,
    object::node::Node,
    request::Request,
    review::Review,
    source::Source,
    transition::Transition,
};

/// One decision (contract section 12).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line<'a> {
    ts: Timestamp,
    level: &'static str,
    event: &'static str,
    uid: &'a str,
    node: &'a str,
    operation: &'a str,
    subresource: &'a str,
    webhook: &'static str,
    transitions: Vec<&'static str>,
    decision: &'static str,
    reasons: Vec<LoggedReason>,
    user: LoggedUser<'a>,
    dry_run: bool,
    source: Option<&'static str>,
    evidence: LoggedEvidence,
    facts: &'a Facts,
    break_glass: Option<&'a str>,
    latency_ms: f64,
}

#[derive(Debug, Serialize)]
struct LoggedReason {
    code: &'static str,
    mode: &'static str,
    message: String,
}

#[derive(Debug, Serialize)]
struct LoggedUser<'a> {
    name: &'a str,
    groups: &'a [String],
}

/// Values as they stood on the Node, cut where they are longer than any that could be right.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct LoggedEvidence {
    method: Option<String>,
    fenced_at: Option<String>,
    fenced_by: Option<String>,
    proof: Option<String>,
    boot_id: Option<String>,
}

impl<'a> Line<'a> {
    /// Describes a decision of this webhook.
    pub fn new(
        webhook: &'static str,
        review: &'a Review,
        decision: &'a Decision,
        facts: &'a Facts,
        latency_ms: f64,
    ) -> Self {
        let break_glass = decision.break_glass.used();
        Self {
            ts: facts.now,
            level: if break_glass.is_some() { "WARN" } else { "INFO" },
            event: "decision",
            uid: &review.uid,
            node: &decision.node,
            operation: &review.operation,
            subresource: &review.subresource,
            webhook,
            transitions: decision.transitions.iter().map(Transition::name).collect(),
            decision: decision.verdict(),
            reasons: decision.findings.iter().map(LoggedReason::from).collect(),
            user: LoggedUser { name: &review.user.name, groups: &review.user.groups },
            dry_run: review.dry_run,
            source: decision.source().map(Source::name),
            evidence: review.request().map(LoggedEvidence::of).unwrap_or_default(),
            facts,
            break_glass,
            latency_ms,
        }
    }
}

impl From<&crate::policy::Finding> for LoggedReason {
    fn from(finding: &crate::policy::Finding) -> Self {
        let mode = if finding.waived { "waived" } else { finding.mode.name() };
        Self { code: finding.reason.code().name(), mode, message: finding.reason.to_string() }
    }
}

impl LoggedEvidence {
    /// What the Node carries after the write; what it carried before where nothing is left.
    fn of(request: &Request) -> Self {
        /// Twice what the longest value may have.
        const LONGEST: usize = 2048;
        let carries = |node: &&Node| EVIDENCE.iter().any(|key| node.annotation(key).is_some());
        let Some(node) = request.write.after().filter(carries).or(request.write.before()) else {
            return Self::default();
        };
        let text = |key| node.annotation(key).map(|value| value.chars().take(LONGEST).collect());
        Self {
            method: text(METHOD),
            fenced_at: text(FENCED_AT),
            fenced_by: text(FENCED_BY),
            proof: text(PROOF),
            boot_id: text(BOOT_ID),
        }
    }
}

/// Where the record goes.
#[derive(Clone, Debug)]
pub enum Audit {
    Stdout,
    /// Nowhere: the answer itself is what is asked for.
    Discard,
    /// To whoever holds the other end.
    Channel(mpsc::UnboundedSender<String>),
}

impl Audit {
    /// Writes one line, and returns when it is written.
    ///
    /// # Errors
    /// If the line cannot be made or written.
    pub async fn write(&self, line: &Line<'_>) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        match self {
            Self::Stdout => {
                text.push('\n');
                // A pipe that nobody empties blocks, and must not block the runtime.
                let written = tokio::task::spawn_blocking(move || io::stdout().lock().write_all(text.as_bytes()));
                written.await.map_err(io::Error::other)?
            }
            Self::Discard => Ok(()),
            Self::Channel(sender) => sender.send(text).map_err(io::Error::other),
        }
    }
}
