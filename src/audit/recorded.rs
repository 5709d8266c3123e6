//! Reads a line of the audit log back: the review, the webhook and the facts, from which the same
//! decision is made again.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;
use thiserror::Error;

use super::line::{DECISION, LoggedReason};
use crate::policy::{
    Decision,
    door::{Door, Subject},
    facts::Facts,
    json::{Object, null_is_default},
    object::{node::Node, pod::Pod, volume::VolumeAttachment},
    reason::{Code, Mode},
    request::{Request, User, Write},
    review::{Content, Review, Webhook},
};

/// A decision as its line in the audit log tells it. The line does not hold the configuration, and
/// of a review that could not be understood it holds only why.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    pub webhook: Webhook,
    pub review: Review,
    pub facts: Facts,
    pub outcome: Outcome,
}

/// What was decided, as a line tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `allow` or `deny`.
    pub verdict: String,
    /// The reasons, each with its mode: `NodeStillReady (warn)`; without one if it denies.
    pub reasons: Vec<String>,
    /// The source that vouched.
    pub source: Option<String>,
}

impl Outcome {
    /// What this decision decides.
    pub fn of(decision: &Decision) -> Self {
        let reasons = decision.findings.iter().map(LoggedReason::from);
        Self {
            verdict: decision.verdict().to_owned(),
            reasons: reasons.map(|reason| named(reason.code, reason.mode)).collect(),
            source: decision.source().map(|source| source.name().to_owned()),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.verdict)?;
        if !self.reasons.is_empty() {
            write!(formatter, ": {}", self.reasons.join(", "))?;
        }
        self.source.iter().try_for_each(|source| write!(formatter, "; vouched by {source}"))
    }
}

/// A reason, with its mode if it does not deny.
pub fn named(code: &str, mode: &str) -> String {
    if mode == Mode::Enforce.name() { code.to_owned() } else { format!("{code} ({mode})") }
}

/// Why a text is not the line of a decision that can be made again.
#[derive(Debug, Error)]
pub enum LineError {
    #[error("not a line of the audit log: {0}")]
    Parse(#[from] serde_json::Error),
    #[error("not the line of a decision: its event is {0:?}")]
    Event(String),
    #[error("there is no webhook {0:?}")]
    Webhook(String),
    #[error("the line holds neither the Node before the write nor the one after it: an older fencegate wrote it")]
    NoObjects,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLine {
    event: String,
    uid: String,
    node: String,
    operation: String,
    subresource: String,
    webhook: String,
    decision: String,
    reasons: Vec<RawReason>,
    #[serde(default)]
    source: Option<String>,
    user: RawUser,
    dry_run: bool,
    #[serde(default)]
    before: Option<Object<Node>>,
    #[serde(default)]
    after: Option<Object<Node>>,
    #[serde(default)]
    pod: Option<Object<Pod>>,
    #[serde(default)]
    attachment: Option<Object<VolumeAttachment>>,
    facts: Facts,
}

#[derive(Deserialize)]
struct RawReason {
    code: String,
    mode: String,
    message: String,
}

#[derive(Deserialize)]
struct RawUser {
    name: String,
    #[serde(default, deserialize_with = "null_is_default")]
    uid: String,
    groups: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    extra: BTreeMap<String, Vec<String>>,
}

impl Recorded {
    /// Parses one line.
    ///
    /// # Errors
    /// If it is not the line of a decision, or if it lacks what the decision was made of.
    pub fn parse(line: &str) -> Result<Self, LineError> {
        let line: RawLine = serde_json::from_str(line)?;
        if line.event != DECISION {
            return Err(LineError::Event(line.event));
        }
        let webhook = Webhook::ALL.into_iter().find(|webhook| webhook.name() == line.webhook);
        let webhook = webhook.ok_or(LineError::Webhook(line.webhook))?;
        let reasons = line.reasons.iter().map(|reason| named(&reason.code, &reason.mode)).collect();
        let outcome = Outcome { verdict: line.decision, reasons, source: line.source };
        let RawUser { name, uid, groups, extra } = line.user;
        let user = User { name, uid, groups, extra };
        let door = subject(line.pod, line.attachment).map(|subject| Door { user: user.clone(), subject });
        let (before, after) = (line.before.map(|Object(node)| node), line.after.map(|Object(node)| node));
        let malformed = line.reasons.into_iter().find(|reason| reason.code == Code::ReviewMalformed.name());
        let content = match (door, before) {
            (Some(door), None) => Content::Door(Box::new(door)),
            (Some(door), Some(node)) => Content::Node(Box::new(door.request(node).ok_or(LineError::NoObjects)?)),
            (None, before) => match (Write::between(before, after), malformed) {
                (Some(write), _) => Content::Node(Box::new(Request { node: line.node, user: user.clone(), write })),
                (None, Some(RawReason { message, .. })) => Content::Malformed { node: line.node, why: message },
                (None, None) => return Err(LineError::NoObjects),
            },
        };
        let review = Review {
            uid: line.uid,
            dry_run: line.dry_run,
            operation: line.operation,
            subresource: line.subresource,
            user,
            content,
        };
        Ok(Self { webhook, review, facts: line.facts, outcome })
    }
}

/// What the write is to, if it is not a Node. Of an eviction whose pod could not be read, a line
/// has the name alone.
fn subject(pod: Option<Object<Pod>>, attachment: Option<Object<VolumeAttachment>>) -> Option<Subject> {
    match (pod, attachment) {
        (Some(Object(pod)), _) if pod.spec.node_name.is_empty() => {
            Some(Subject::Eviction { namespace: pod.metadata.namespace, name: pod.metadata.name })
        }
        (Some(Object(pod)), _) => Some(Subject::Pod(Box::new(pod))),
        (None, attachment) => attachment.map(|Object(attachment)| Subject::Attachment(Box::new(attachment))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn line() -> Value {
        json!({
            "ts": "2026-11-22T10:20:00Z", "event": "decision", "uid": "u", "node": "n1", "operation": "UPDATE",
            "subresource": "", "webhook": "validate", "decision": "allow", "reasons": [], "user": {"name": "alice", "groups": ["dev"]},
            "dryRun": false, "before": {"metadata": {"name": "n1"}}, "after": {"metadata": {"name": "n1"}},
            "facts": {"now": "2026-11-22T10:20:00Z"},
        })
    }

    #[test]
    fn the_objects_in_a_line_say_what_was_written() {
        for (absent, write) in [
            ("", Write::Update { old: node(), new: node() }),
            ("before", Write::Create { new: node() }),
            ("after", Write::Delete { old: node() }),
        ] {
            let mut line = line();
            line.as_object_mut().unwrap().remove(absent);
            let recorded = Recorded::parse(&line.to_string()).unwrap();
            assert_eq!(recorded.review.request().unwrap().write, write, "without {absent:?}");
        }
    }

    fn node() -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap()
    }

    #[test]
    fn the_line_of_a_malformed_review_says_why_it_was_malformed() {
        let mut line = line();
        line["reasons"] = json!([{"code": "ReviewMalformed", "mode": "enforce", "message": "object is missing"}]);
        line.as_object_mut().unwrap().retain(|key, _| key != "before" && key != "after");
        let content = Recorded::parse(&line.to_string()).unwrap().review.content;
        assert_eq!(content, Content::Malformed { node: "n1".into(), why: "object is missing".into() });
    }

    #[test]
    fn a_line_that_lacks_something_is_an_error_that_says_what() {
        let without = |key: &str| {
            let mut line = line();
            line.as_object_mut().unwrap().remove(key);
            line
        };
        let mut old = without("before");
        old.as_object_mut().unwrap().remove("after");
        for (line, why) in [
            (json!("hello"), "not a line of the audit log"),
            (json!({"ts": "2026-11-22T10:20:00Z", "event": "log"}), "not a line of the audit log"),
            (
                {
                    let mut line = line();
                    line["event"] = json!("probe");
                    line
                },
                r#"its event is "probe""#,
            ),
            (
                {
                    let mut line = line();
                    line["webhook"] = json!("audit");
                    line
                },
                r#"no webhook "audit""#,
            ),
            (without("facts"), "missing field `facts`"),
            (old, "an older fencegate wrote it"),
        ] {
            let error = Recorded::parse(&line.to_string()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
