//! The line about one decision (contract section 12).

use std::{borrow::Cow, collections::BTreeMap};

use jiff::Timestamp;
use serde::Serialize;

use crate::policy::{
    Decision, Finding,
    annotation::{BOOT_ID, EVIDENCE, FENCED_AT, FENCED_BY, METHOD, PROOF},
    door::Subject,
    facts::Facts,
    object::{
        node::Node,
        pod::{Pod, PodMetadata},
        volume::VolumeAttachment,
    },
    request::{Request, User, Write},
    review::{Content, Review, Webhook},
    source::Source,
    transition::Transition,
};

/// The value of `event` in the line about a decision.
pub(super) const DECISION: &str = "decision";

/// The line about one decision. It holds everything that the decision was made of, except the
/// configuration: [`Recorded`](super::Recorded) reads it back.
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
    break_glass: Option<&'a str>,
    latency_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    /// What the write is to, if it is not a Node: `pod` is force-deleted, or `attachment` is
    /// detached.
    #[serde(flatten)]
    subject: LoggedSubject<'a>,
    /// The Node before and after the write, with the fields that are judged. Neither is there if
    /// the review could not be understood, or if the Node could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<&'a Node>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<&'a Node>,
    facts: &'a Facts,
}

#[derive(Debug, Serialize)]
pub(super) struct LoggedReason {
    pub code: &'static str,
    pub mode: &'static str,
    message: String,
}

#[derive(Debug, Serialize)]
struct LoggedUser<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    groups: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: &'a BTreeMap<String, Vec<String>>,
}

/// What a write is to, if it is not a Node.
#[derive(Debug, Default, Serialize)]
struct LoggedSubject<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Cow<'a, Pod>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attachment: Option<&'a VolumeAttachment>,
}

impl<'a> LoggedSubject<'a> {
    fn of(content: &'a Content) -> Self {
        let of_pod = |pod| Self { pod: Some(pod), attachment: None };
        let of_attachment = |attachment| Self { pod: None, attachment: Some(attachment) };
        match content {
            Content::Node(request) => match &request.write {
                Write::ForceDelete { pod, .. } => of_pod(Cow::Borrowed(&**pod)),
                Write::Detach { attachment, .. } => of_attachment(attachment),
                Write::Create { .. } | Write::Update { .. } | Write::Delete { .. } => Self::default(),
            },
            Content::Door(door) => match &door.subject {
                Subject::Pod(pod) => of_pod(Cow::Borrowed(&**pod)),
                Subject::Attachment(attachment) => of_attachment(attachment),
                Subject::Eviction { namespace, name } => {
                    let (namespace, name) = (namespace.clone(), name.clone());
                    let metadata = PodMetadata { namespace, name, ..PodMetadata::default() };
                    of_pod(Cow::Owned(Pod { metadata, ..Pod::default() }))
                }
            },
            Content::Unrelated | Content::Malformed { .. } => Self::default(),
        }
    }
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
    /// Describes a decision of this webhook, which took `latency_ms` milliseconds. `trace_id` is
    /// the trace that the call belongs to.
    pub fn new(
        webhook: Webhook,
        review: &'a Review,
        decision: &'a Decision,
        facts: &'a Facts,
        trace_id: Option<&'a str>,
        latency_ms: f64,
    ) -> Self {
        let break_glass = decision.break_glass.used();
        let write = review.request().map(|request| &request.write);
        Self {
            ts: facts.now,
            level: if break_glass.is_some() { "WARN" } else { "INFO" },
            event: DECISION,
            uid: &review.uid,
            node: &decision.node,
            operation: &review.operation,
            subresource: &review.subresource,
            webhook: webhook.name(),
            transitions: decision.transitions.iter().map(Transition::name).collect(),
            decision: decision.verdict(),
            reasons: decision.findings.iter().map(LoggedReason::from).collect(),
            user: LoggedUser::from(&review.user),
            dry_run: review.dry_run,
            source: decision.source().map(Source::name),
            evidence: review.request().map(LoggedEvidence::of).unwrap_or_default(),
            break_glass,
            latency_ms,
            trace_id,
            subject: LoggedSubject::of(&review.content),
            before: write.and_then(Write::before),
            after: write.and_then(Write::after),
            facts,
        }
    }
}

impl Line<'_> {
    /// The line that withdraws this one.
    pub(super) fn withdrawal(&self) -> Withdrawal {
        Withdrawal { uid: self.uid.to_owned(), node: self.node.to_owned(), webhook: self.webhook }
    }
}

impl From<&Finding> for LoggedReason {
    fn from(finding: &Finding) -> Self {
        let mode = if finding.waived { "waived" } else { finding.mode.name() };
        Self { code: finding.reason.code().name(), mode, message: finding.reason.to_string() }
    }
}

impl<'a> From<&'a User> for LoggedUser<'a> {
    fn from(User { name, uid, groups, extra }: &'a User) -> Self {
        Self { name, uid, groups, extra }
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

/// What a line says that is not about a decision.
#[derive(Serialize)]
struct Notice<'a, T> {
    ts: Timestamp,
    level: &'static str,
    event: &'static str,
    message: &'static str,
    #[serde(flatten)]
    about: &'a T,
}

impl<T: Serialize> Notice<'_, T> {
    /// The line, which is empty if it cannot be serialised.
    fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Withdraws the line before it, which came too late.
#[derive(Debug, Serialize)]
pub(super) struct Withdrawal {
    pub uid: String,
    pub node: String,
    pub webhook: &'static str,
}

impl Withdrawal {
    pub fn line(&self, ts: Timestamp) -> String {
        let message = "the decision in the line before this one was not on record in time: its write was denied with \
                       RecordUnavailable, or the caller had left without an answer";
        Notice { ts, level: "ERROR", event: "withdrawn", message, about: self }.line()
    }
}

/// Shows that lines can be written again.
#[derive(Debug, Serialize)]
pub(super) struct Probe {
    /// How many decisions could not be put on record in time, since the log failed.
    pub unrecorded: u64,
}

impl Probe {
    pub fn line(&self, ts: Timestamp) -> String {
        let message = "the audit log can be written again: the decisions that could not be put on record were denials";
        Notice { ts, level: "WARN", event: "probe", message, about: self }.line()
    }
}
