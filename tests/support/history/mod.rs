//! Whether a recorded history keeps the laws (contract section 1): every stored version of every
//! Node against what was stored at the time in Leases, Pods and VolumeAttachments, and against the
//! audit lines of all replicas. Pure: no cluster, no clock.
//!
//! **When a write was judged.** The gate reads facts live, and the write is stored a moment later.
//! A pod that is bound in between is not the gate's to see. So a law is broken if *no* state that
//! the gate can have read justifies the write. These are the revisions
//!
//! - from the version of the Node that the write replaced: the API server stores a write only if
//!   the version that its admission saw is still the stored one;
//! - from the last revision that was surely stored before the decision began: its time, less its
//!   latency. A read that is answered from a cache finds an older state, and is noticed;
//! - until the first that was surely stored after the decision's time;
//! - until the write itself.
//!
//! Pods, attachments and the Lease are separate reads, so each may be justified by another of these
//! revisions. Revisions get their times from [`Tick`]s, which are a part of the history. The times
//! of a decision are by the replica's clock, and whoever gives the log says how far it is ahead.
//!
//! **What it does not see.** No history has PersistentVolumes, so nothing excuses an attachment. A
//! break-glass is a permitted exception only where the gate's own `overridden*` stamps on the
//! object say so; on a deletion, which leaves no object, where the audit line says so.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot run fails")]
#![allow(dead_code, reason = "each test uses a part of this")]

mod laws;
pub mod objects;
mod record;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use objects::{Attachment, Lease, Line, Node, Pod};

/// A law, as a violation names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Law {
    Fence,
    Release,
    Frozen,
    Honest,
    Logged,
}

impl fmt::Display for Law {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Fence => "L1 no taint without a fence",
            Self::Release => "L2 no release while bound",
            Self::Frozen => "L3 the record is frozen",
            Self::Honest => "L3 the record is honest",
            Self::Logged => "every decision is on record",
        })
    }
}

/// A stored version that breaks a law.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub law: Law,
    pub node: String,
    pub revision: u64,
    pub why: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { law, node, revision, why } = self;
        write!(formatter, "{law}: node {node}, revision {revision}: {why}")
    }
}

/// One version of an object; `None` is its deletion.
#[derive(Clone, Debug)]
struct Version<T> {
    revision: u64,
    object: Option<T>,
}

type Versions<T> = BTreeMap<String, Vec<Version<T>>>;

/// A write whose only purpose is to tell the time of its revision: it was stored after `sent`, and
/// before `answered`, which the next tick tells.
#[derive(Clone, Copy, Debug)]
struct Tick {
    revision: u64,
    sent: Timestamp,
    answered: Option<Timestamp>,
}

/// A line of an audit log, with its true times.
#[derive(Clone, Debug)]
struct Decision {
    line: Line,
    began: Timestamp,
    at: Timestamp,
}

/// Where a tick is stored: the ConfigMap's data has `sent`, and `answered` of the tick before it.
pub const TICKS: &str = "/registry/configmaps/default/ticks";

/// Everything that was stored and logged.
#[derive(Debug, Default)]
pub struct History {
    clock_skew: SignedDuration,
    nodes: Versions<Node>,
    leases: Versions<Lease>,
    pods: Versions<Pod>,
    attachments: Versions<Attachment>,
    ticks: Vec<Tick>,
    decisions: BTreeMap<String, Vec<Decision>>,
    /// How far the clocks of the replicas are ahead.
    clocks: BTreeSet<SignedDuration>,
}

/// What the stored versions of Nodes did, and which of them break a law.
#[derive(Debug, Default)]
pub struct Findings {
    pub violations: Vec<Violation>,
    /// How many stored versions did this.
    pub tally: BTreeMap<&'static str, usize>,
}

#[derive(Deserialize)]
struct TickMap {
    data: TickData,
}

#[derive(Deserialize)]
struct TickData {
    sent: Timestamp,
    answered: Option<Timestamp>,
}

impl History {
    /// Nothing was stored yet. `clock_skew`: the gate's `evidence.clockSkew`.
    pub fn new(clock_skew: SignedDuration) -> Self {
        Self { clock_skew, ..Self::default() }
    }

    /// Adds one version of an object from etcd: its key, its revision, and its JSON; `None` is the
    /// deletion. Keys of other kinds are ignored. Versions come in order.
    pub fn store(&mut self, key: &str, revision: u64, object: Option<&[u8]>) {
        fn add<T: for<'a> Deserialize<'a>>(to: &mut Versions<T>, name: &str, revision: u64, object: Option<&[u8]>) {
            let parse = |bytes| {
                serde_json::from_slice(bytes)
                    .unwrap_or_else(|error| panic!("{name}: {error} in {}", String::from_utf8_lossy(bytes)))
            };
            to.entry(name.to_owned()).or_default().push(Version { revision, object: object.map(parse) });
        }
        if let Some(name) = key.strip_prefix("/registry/minions/") {
            add(&mut self.nodes, name, revision, object);
        } else if let Some(name) = key.strip_prefix("/registry/leases/kube-node-lease/") {
            add(&mut self.leases, name, revision, object);
        } else if let Some(name) = key.strip_prefix("/registry/pods/") {
            add(&mut self.pods, name, revision, object);
        } else if let Some(name) = key.strip_prefix("/registry/volumeattachments/") {
            add(&mut self.attachments, name, revision, object);
        } else if let (TICKS, Some(object)) = (key, object) {
            let TickMap { data: TickData { sent, answered } } = serde_json::from_slice(object).unwrap();
            if let Some(last) = self.ticks.last_mut() {
                last.answered = answered;
            }
            self.ticks.push(Tick { revision, sent, answered: None });
        }
    }

    /// Adds the log of a replica whose clock is ahead by this much. A line that is withdrawn does
    /// not count, and a last line that is not complete is none.
    pub fn log(&mut self, text: &str, clock: SignedDuration) {
        self.clocks.insert(clock);
        let mut withdrawn = BTreeSet::new();
        let mut lines = Vec::new();
        for line in text.lines() {
            if line.contains(r#""event":"decision""#) {
                lines.extend(serde_json::from_str::<Line>(line).ok());
            } else if line.contains(r#""event":"withdrawn""#) {
                let line: Value = serde_json::from_str(line).unwrap();
                let text = |key: &str| line.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
                withdrawn.insert((text("uid"), text("webhook")));
            }
        }
        for line in lines {
            if withdrawn.contains(&(line.uid.clone(), line.webhook.clone())) {
                continue;
            }
            let at = line.ts - clock;
            // In whole milliseconds, rounded away from the decision.
            #[expect(clippy::cast_possible_truncation, reason = "a latency is short")]
            let began = at - SignedDuration::from_millis(line.latency_ms.ceil() as i64 + 1);
            self.decisions.entry(line.node.clone()).or_default().push(Decision { line, began, at });
        }
    }

    /// The number of stored versions of Nodes, and of audit lines.
    pub fn size(&self) -> (usize, usize) {
        (self.nodes.values().map(Vec::len).sum(), self.decisions.values().map(Vec::len).sum())
    }

    /// Judges every stored version of every Node.
    pub fn judge(&self) -> Findings {
        laws::judge(self)
    }

    /// The last revision that was surely stored before this time.
    fn surely_before(&self, time: Timestamp) -> u64 {
        // Ticks come one after another, so their answers do, too.
        let is_before = |tick: &Tick| tick.answered.is_some_and(|answered| answered <= time);
        self.ticks.iter().rev().find(|tick| is_before(tick)).map_or(0, |tick| tick.revision)
    }

    /// The last revision that was not surely stored after this time.
    fn maybe_before(&self, time: Timestamp) -> u64 {
        let after = self.ticks.partition_point(|tick| tick.sent < time);
        self.ticks.get(after).map_or(u64::MAX, |tick| tick.revision - 1)
    }

    /// What there is about a violation: the versions of the Node around it, everything that was on
    /// it, and the audit lines.
    pub fn around(&self, violation: &Violation) -> String {
        let mut text = format!("{violation}\n");
        let versions = self.nodes.get(&violation.node).map(Vec::as_slice).unwrap_or_default();
        let at = versions.iter().position(|version| version.revision == violation.revision).unwrap_or_default();
        let shown = at.saturating_sub(2)..(at + 2).min(versions.len());
        let from = versions.get(at.saturating_sub(1)).map_or(0, |version| version.revision);
        for version in versions.get(shown).unwrap_or_default() {
            let _ = writeln!(text, "  revision {}: {}", version.revision, Shown(version.object.as_ref()));
        }
        let during = from..=violation.revision;
        for lease in during_of(&self.leases, &during).filter(|(name, _)| **name == violation.node) {
            let _ = writeln!(text, "  Lease {lease:?}");
        }
        let is_here = |name: Option<&str>| name == Some(&violation.node);
        for (name, pod) in during_of(&self.pods, &during) {
            if is_here(pod.object.as_ref().map(|pod| pod.spec.node_name.as_str())) || pod.object.is_none() {
                let _ = writeln!(text, "  Pod {name} {pod:?}");
            }
        }
        for (name, attachment) in during_of(&self.attachments, &during) {
            let node = attachment.object.as_ref().map(|attachment| attachment.spec.node_name.as_str());
            if is_here(node) || attachment.object.is_none() {
                let _ = writeln!(text, "  VolumeAttachment {name} {attachment:?}");
            }
        }
        let replaced = from.to_string();
        for Decision { line, began, at } in self.decisions.get(&violation.node).into_iter().flatten() {
            if line.before.as_ref().is_some_and(|before| before.metadata.resource_version == replaced) {
                let Line { webhook, operation, decision, user, uid, .. } = line;
                let _ =
                    writeln!(text, "  {webhook} {operation} {decision} by {} from {began} to {at}, {uid}", user.name);
            }
        }
        text
    }
}

/// The versions that were in force at some time in this range of revisions.
fn during_of<'a, T>(
    all: &'a Versions<T>,
    range: &'a std::ops::RangeInclusive<u64>,
) -> impl Iterator<Item = (&'a String, &'a Version<T>)> {
    all.iter().flat_map(move |(name, versions)| in_force(versions, range).map(move |version| (name, version)))
}

/// The versions of one object that were in force at some time in this range of revisions.
fn in_force<'a, T>(
    versions: &'a [Version<T>],
    range: &std::ops::RangeInclusive<u64>,
) -> impl Iterator<Item = &'a Version<T>> + use<'a, T> {
    let first = versions.partition_point(|version| version.revision <= *range.start()).saturating_sub(1);
    let end = versions.partition_point(|version| version.revision <= *range.end());
    versions.get(first..end).unwrap_or_default().iter()
}

/// The judged part of a Node on one line.
struct Shown<'a>(Option<&'a Node>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(node) = self.0 else { return formatter.write_str("deleted") };
        let entries: Vec<String> =
            node.entries().iter().map(|taint| format!("{}={}", taint.effect, taint.value)).collect();
        let ready: Vec<&str> = node.ready().collect();
        let annotations: Vec<String> =
            objects::known().filter_map(|key| Some(format!("{key}={}", node.gate(key)?))).collect();
        let objects::Metadata { uid, finalizers, deletion_timestamp, .. } = &node.metadata;
        write!(formatter, "taint {entries:?}, ready {ready:?}, {annotations:?}, uid {uid}, finalizers {finalizers:?}")?;
        deletion_timestamp.as_ref().map_or(Ok(()), |at| write!(formatter, ", deleted at {at}"))
    }
}
