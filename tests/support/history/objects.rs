//! The parts of stored objects and of audit lines that the laws are about.
//!
//! They are read by types of their own and not by those of the gate: if the gate reads a field
//! wrongly, the checker must not.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

pub const TAINT: &str = "node.kubernetes.io/out-of-service";
pub const SHUTDOWN: &str = "node.cloudprovider.kubernetes.io/shutdown";
const PREFIX: &str = "fencegate.dev/";

pub const REQUIRED: [&str; 3] = ["method", "fenced-at", "fenced-by"];
pub const EVIDENCE: [&str; 5] = ["method", "fenced-at", "fenced-by", "proof", "boot-id"];
pub const RECORD_STAMPS: [&str; 5] = ["recorded-by", "recorded-at", "placed-by", "placed-at", "source"];
pub const BREAK_GLASS_STAMPS: [&str; 2] = ["break-glass-by", "break-glass-at"];
pub const OVERRIDDEN_STAMPS: [&str; 3] = ["overridden", "overridden-by", "overridden-at"];
/// The annotations that are neither evidence nor stamps, and the stamp that stays after an outage.
const OTHERS: [&str; 3] = ["break-glass", "hold", "last-outage"];

/// All annotations that the gate knows.
pub fn known() -> impl Iterator<Item = &'static str> {
    let stamps = RECORD_STAMPS.into_iter().chain(BREAK_GLASS_STAMPS).chain(OVERRIDDEN_STAMPS);
    EVIDENCE.into_iter().chain(stamps).chain(OTHERS)
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Node {
    pub metadata: Metadata,
    pub spec: NodeSpec,
    pub status: NodeStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    pub creation_timestamp: Option<Timestamp>,
    pub deletion_timestamp: Option<String>,
    pub finalizers: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub owner_references: Vec<Owner>,
    managed_fields: Vec<ManagedFields>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Owner {
    pub kind: String,
    pub controller: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ManagedFields {
    time: Option<Timestamp>,
    fields_v1: OwnedFields,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct OwnedFields {
    #[serde(rename = "f:spec")]
    spec: OwnedSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct OwnedSpec {
    #[serde(rename = "f:renewTime")]
    renew_time: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    pub taints: Vec<Taint>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeStatus {
    pub conditions: Vec<Condition>,
    pub node_info: NodeInfo,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeInfo {
    #[serde(rename = "bootID")]
    pub boot_id: String,
}

impl Node {
    /// The annotation of the gate with this key, without its prefix.
    pub fn gate(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.get(&format!("{PREFIX}{key}")).map(String::as_str)
    }

    pub fn has_any(&self, keys: &[&str]) -> bool {
        keys.iter().any(|key| self.gate(key).is_some())
    }

    /// The entries of the taint.
    pub fn entries(&self) -> BTreeSet<&Taint> {
        self.spec.taints.iter().filter(|taint| taint.key == TAINT).collect()
    }

    /// What is said of those of the gate's annotations that are not there.
    pub fn lacks(&self, keys: &[&str]) -> Vec<String> {
        keys.iter().filter(|key| self.gate(key).is_none()).map(|key| format!("{key} is not on the object")).collect()
    }

    pub fn evicts(&self) -> bool {
        self.entries().iter().any(|taint| taint.effect == "NoExecute")
    }

    pub fn is_tainted(&self) -> bool {
        !self.entries().is_empty()
    }

    /// The statuses of all `Ready` conditions.
    pub fn ready(&self) -> impl Iterator<Item = &str> {
        self.status.conditions.iter().filter(|condition| condition.kind == "Ready").map(|ready| ready.status.as_str())
    }

    pub fn is_ready(&self) -> bool {
        self.ready().any(|status| status == "True")
    }

    /// Whether both have the same taints and the same annotations, as far as the gate judges them.
    pub fn is_judged_like(&self, other: &Self) -> bool {
        let shut_down = |node: &Self| node.spec.taints.iter().any(|taint| taint.key == SHUTDOWN);
        self.entries() == other.entries()
            && shut_down(self) == shut_down(other)
            && known().all(|key| self.gate(key) == other.gate(key))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Lease {
    metadata: Metadata,
    spec: LeaseSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LeaseSpec {
    renew_time: Option<Timestamp>,
    lease_duration_seconds: Option<i64>,
}

impl Lease {
    /// When the API server stored the last renewal, by its own clock.
    pub fn renewed_at(&self) -> Option<Timestamp> {
        self.spec.renew_time?;
        let entries = self.metadata.managed_fields.iter().filter(|entry| entry.fields_v1.spec.renew_time.is_some());
        entries.filter_map(|entry| entry.time).max()
    }

    /// The kubelet's default is 40 s; a longer one than 300 s counts as 300 s.
    pub fn duration(&self) -> SignedDuration {
        SignedDuration::from_secs(self.spec.lease_duration_seconds.unwrap_or(40).clamp(0, 300))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub metadata: Metadata,
    pub spec: PodSpec,
    pub status: PodStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    pub node_name: String,
    tolerations: Vec<Toleration>,
    volumes: Vec<Volume>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "Kubernetes' name")]
struct Toleration {
    key: String,
    operator: String,
    value: String,
    effect: String,
    toleration_seconds: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Volume {
    persistent_volume_claim: Option<BTreeMap<String, serde_json::Value>>,
    ephemeral: Option<BTreeMap<String, serde_json::Value>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PodStatus {
    phase: String,
}

impl Pod {
    fn is_finished(&self) -> bool {
        ["Succeeded", "Failed"].contains(&self.status.phase.as_str())
    }

    /// Whether the outage displaces the pod: it must not run twice.
    pub fn holds_the_taint(&self) -> bool {
        let owner = self.metadata.owner_references.iter().find(|owner| owner.controller);
        let has_claim = |volume: &Volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some();
        owner.is_some_and(|owner| owner.kind == "StatefulSet")
            || (!self.is_finished()
                && (self.metadata.labels.contains_key("statefulset.kubernetes.io/pod-name")
                    || self.spec.volumes.iter().any(has_claim)))
    }

    /// Whether nothing displaced the pod from this Node, so that it may stay when the taint goes.
    pub fn may_stay(&self, node: &Node) -> bool {
        let tolerates = |taint: &Taint| {
            self.spec.tolerations.iter().any(|toleration| {
                let value = toleration.operator == "Exists" || toleration.value == taint.value;
                (toleration.key == TAINT || (toleration.key.is_empty() && toleration.operator == "Exists"))
                    && (toleration.effect.is_empty() || toleration.effect == taint.effect)
                    && value
                    && toleration.toleration_seconds.is_none()
            })
        };
        let evicted_nothing = node.entries().iter().all(|taint| taint.effect == "NoSchedule")
            && node.is_ready()
            && node.ready().all(|status| status == "True");
        self.metadata.deletion_timestamp.is_none()
            && !self.is_finished()
            && (node.entries().into_iter().all(tolerates) || evicted_nothing)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Attachment {
    pub metadata: Metadata,
    pub spec: AttachmentSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AttachmentSpec {
    pub node_name: String,
}

/// One line of a replica's audit log about a decision.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    pub ts: Timestamp,
    pub uid: String,
    pub node: String,
    pub operation: String,
    pub webhook: String,
    pub decision: String,
    pub dry_run: bool,
    pub user: User,
    #[serde(default)]
    pub break_glass: Option<String>,
    pub latency_ms: f64,
    #[serde(default)]
    pub before: Option<Node>,
    #[serde(default)]
    pub after: Option<Node>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct User {
    pub name: String,
    #[serde(default)]
    pub groups: Vec<String>,
}
