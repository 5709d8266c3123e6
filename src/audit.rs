//! The audit log: one JSON line on standard output for each decision about a guarded write.
//!
//! A line contains the facts as they were read. With the line and the AdmissionReview,
//! `fencegate review --cluster LINE` makes the same decision again. The gate writes the line before
//! it answers: if standard output blocks, guarded writes wait. If the write fails, the program's
//! own log says so.

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

/// The line about one decision (contract section 12).
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

/// The evidence on the Node, verbatim. Longer values than the grammar allows are cut.
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
    /// Describes a decision of this webhook, which took `latency_ms` milliseconds.
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
    /// The evidence on the Node after the write. If none is left, the evidence before the write.
    fn of(request: &Request) -> Self {
        /// Characters: twice the limit for `proof`, the longest value that the grammar allows.
        const LONGEST: usize = 2048;
        let has_evidence = |node: &&Node| EVIDENCE.iter().any(|key| node.annotation(key).is_some());
        let Some(node) = request.write.after().filter(has_evidence).or(request.write.before()) else {
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

/// Where the audit log is written to.
#[derive(Clone, Debug)]
pub enum Audit {
    Stdout,
    /// Nowhere. `fencegate review` prints the answer instead.
    Discard,
    /// To a channel, one message for each line.
    Channel(mpsc::UnboundedSender<String>),
}

impl Audit {
    /// Writes one line. Returns when it is written.
    ///
    /// # Errors
    /// If the line cannot be serialised or written.
    pub async fn write(&self, line: &Line<'_>) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        match self {
            Self::Stdout => {
                text.push('\n');
                // A write to a full pipe blocks. It must not block the async runtime.
                let written = tokio::task::spawn_blocking(move || io::stdout().lock().write_all(text.as_bytes()));
                written.await.map_err(io::Error::other)?
            }
            Self::Discard => Ok(()),
            Self::Channel(sender) => sender.send(text).map_err(io::Error::other),
        }
    }
}
