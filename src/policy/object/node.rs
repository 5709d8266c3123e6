//! The fields of a Node that the gate judges. Parsing skips all other fields and never holds them
//! in memory.
//!
//! The types have Kubernetes' own JSON shape, so the same code parses a Node in an AdmissionReview,
//! in a `kubectl get` file and in an audit line. A missing field, `null` and the field's zero value
//! mean the same.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use super::lease::Owned;
use crate::policy::{
    annotation,
    json::{
        first_texts, kept_entries, kept_objects, kept_objects_if_any, null_is_default, object_or_null, readable_time,
    },
};

/// The key of the taint that the gate guards. Pod GC and the attach/detach controller check only
/// the key, not the value or effect.
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// The key of the taint that a cloud's node lifecycle controller places when the instance behind
/// the node is stopped.
pub const CLOUD_SHUTDOWN: &str = "node.cloudprovider.kubernetes.io/shutdown";
/// How the names of attached volumes start if a CSI driver attaches them
/// (`k8s.io/kubernetes/pkg/volume/util`: `GetUniqueVolumeName`). These have VolumeAttachments.
const CSI_VOLUME: &str = "kubernetes.io/csi/";
/// The most entries of one list that may count. Nothing writes so many: a taint is unique by key
/// and effect, and of everything else a machine has a few, or some hundred volumes. A Node with
/// more is not judged, so that a review cannot take many times its length in memory.
const MOST_ENTRIES: usize = 1000;
/// The most bytes of all annotations together that the API server stores
/// (`k8s.io/apimachinery/pkg/api/validation`: `TotalAnnotationSizeLimitB`).
const MOST_ANNOTATIONS: usize = 256 * 1024;
/// How many finalizers are kept: only whether there are any counts.
const FIRST_FINALIZERS: usize = 5;

/// A Node, with the fields that the gate judges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    #[serde(deserialize_with = "object_or_null")]
    pub metadata: NodeMetadata,
    #[serde(deserialize_with = "object_or_null")]
    pub spec: NodeSpec,
    #[serde(deserialize_with = "object_or_null")]
    pub status: NodeStatus,
}

/// `metadata` of a Node: only annotations that the gate reads are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeMetadata {
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    /// Tells the Node from another one that gets its name later. Never judged.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub uid: String,
    /// The version of the stored Node, or the one that a write replaces. Empty if a write names
    /// none.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub resource_version: String,
    /// When the API server stored the Node. A value that cannot be parsed counts as missing.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "readable_time")]
    pub creation_timestamp: Option<Timestamp>,
    /// Set while the Node is being deleted and waits for its finalizers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
    #[serde(deserialize_with = "first_finalizers", skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
    /// Only entries that own the status or the heartbeat of the `Ready` condition. `None` if the
    /// object has no managed fields at all, as kubectl prints it.
    #[serde(deserialize_with = "only_of_ready", skip_serializing_if = "Option::is_none")]
    pub managed_fields: Option<Vec<ReadyOwner>>,
    /// The annotations under the gate's prefix, and [`annotation::APPLIED_BY`]. `None` if the Node
    /// has no annotations at all.
    #[serde(deserialize_with = "only_read_annotations", skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// One entry of `metadata.managedFields`: when a client wrote the `Ready` condition, by the API
/// server's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ReadyOwner {
    #[serde(deserialize_with = "readable_time")]
    pub time: Option<Timestamp>,
    #[serde(deserialize_with = "object_or_null")]
    pub fields_v1: OwnedFields,
}

/// The fields of a Node that an entry owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnedFields {
    #[serde(rename = "f:status", deserialize_with = "object_or_null")]
    pub status: OwnedStatus,
}

/// The fields of `status` that an entry owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnedStatus {
    #[serde(rename = "f:conditions", deserialize_with = "object_or_null")]
    pub conditions: OwnedConditions,
}

/// The conditions that an entry owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnedConditions {
    #[serde(rename = r#"k:{"type":"Ready"}"#)]
    pub ready: Option<OwnedCondition>,
}

/// The fields of a condition that an entry owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnedCondition {
    #[serde(rename = "f:status", skip_serializing_if = "Option::is_none")]
    pub status: Option<Owned>,
    #[serde(rename = "f:lastHeartbeatTime", skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Owned>,
}

/// `spec` of a Node: only taints with a key that the gate judges are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    #[serde(deserialize_with = "only_judged_taints", skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    /// The infrastructure provider's ID of the machine.
    #[serde(rename = "providerID", deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub provider_id: String,
}

/// `status` of a Node: only the `Ready` condition, the internal addresses, the boot ID and the
/// volumes that no VolumeAttachment tells of are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeStatus {
    #[serde(deserialize_with = "only_ready_condition", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    #[serde(deserialize_with = "only_internal_addresses", skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<NodeAddress>,
    #[serde(deserialize_with = "object_or_null")]
    pub node_info: NodeInfo,
    /// Only volumes of plugins that have no VolumeAttachments, such as in-tree iSCSI and Fibre
    /// Channel, and FlexVolume.
    #[serde(deserialize_with = "only_volumes_without_attachments", skip_serializing_if = "Vec::is_empty")]
    pub volumes_attached: Vec<AttachedVolume>,
}

/// One entry of `status.volumesAttached`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachedVolume {
    /// `<plugin>/<what the plugin names the volume>`.
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
}

/// One entry of `status.addresses`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    #[serde(rename = "type", deserialize_with = "null_is_default")]
    pub kind: String,
    #[serde(deserialize_with = "null_is_default")]
    pub address: String,
}

/// `status.nodeInfo` of a Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeInfo {
    /// Changes with every boot of the machine. Empty if the kubelet never reported one.
    #[serde(rename = "bootID", deserialize_with = "null_is_default")]
    pub boot_id: String,
}

/// One entry of `spec.taints`. Its `timeAdded` is not read: whoever writes the taint may write any
/// time.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Taint {
    #[serde(deserialize_with = "null_is_default")]
    pub key: String,
    #[serde(deserialize_with = "null_is_default")]
    pub value: String,
    #[serde(deserialize_with = "null_is_default")]
    pub effect: String,
}

/// One entry of `status.conditions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type", deserialize_with = "null_is_default")]
    pub kind: String,
    #[serde(deserialize_with = "null_is_default")]
    pub status: String,
    /// Shown in messages, never compared. A value that cannot be parsed counts as missing.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "readable_time")]
    pub last_heartbeat_time: Option<Timestamp>,
    /// Since when the condition has this status. A value that cannot be parsed counts as missing.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "readable_time")]
    pub last_transition_time: Option<Timestamp>,
}

impl ReadyOwner {
    fn ready(&self) -> Option<&OwnedCondition> {
        self.fields_v1.status.conditions.ready.as_ref()
    }
}

impl Node {
    /// The taints with the guarded key, with any value and effect.
    pub fn out_of_service(&self) -> impl Iterator<Item = &Taint> {
        self.spec.taints.iter().filter(|taint| taint.key == OUT_OF_SERVICE)
    }

    /// Whether any taint has the guarded key.
    pub fn is_out_of_service(&self) -> bool {
        self.out_of_service().next().is_some()
    }

    /// Whether the node has the cloud's taint for a stopped instance.
    pub fn is_shut_down(&self) -> bool {
        self.spec.taints.iter().any(|taint| taint.key == CLOUD_SHUTDOWN)
    }

    /// Whether the out-of-service taint evicts the pods that do not tolerate it.
    pub fn evicts(&self) -> bool {
        self.out_of_service().any(|taint| taint.effect == "NoExecute")
    }

    /// Whether the out-of-service taint is there and evicts no pod: every entry has the effect
    /// `NoSchedule`.
    pub fn evicts_nothing(&self) -> bool {
        self.is_out_of_service() && self.out_of_service().all(|taint| taint.effect == "NoSchedule")
    }

    /// Whether the out-of-service taint evicted no pod, and the node is back.
    pub fn evicted_nothing(&self) -> bool {
        self.evicts_nothing() && self.is_back()
    }

    /// The value of an annotation that the gate reads.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// Whether the record of a fence is complete. What it says is another matter.
    pub fn has_record(&self) -> bool {
        annotation::REQUIRED_EVIDENCE.iter().all(|key| self.annotation(key).is_some())
    }

    /// Sets these annotations, by key; `None` removes one.
    pub fn annotate(&mut self, changes: &BTreeMap<&'static str, Option<String>>) {
        let annotations = self.metadata.annotations.get_or_insert_default();
        for (key, value) in changes {
            match value {
                Some(value) => annotations.insert((*key).to_owned(), value.clone()),
                None => annotations.remove(*key),
            };
        }
    }

    /// The Node without the out-of-service taint.
    #[must_use]
    pub fn in_service(&self) -> Self {
        let mut node = self.clone();
        node.spec.taints.retain(|taint| taint.key != OUT_OF_SERVICE);
        node
    }

    /// The annotations under the gate's prefix, by key.
    pub fn gate_annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.metadata.annotations.iter().flatten();
        all.filter(|(key, _)| key.starts_with(annotation::PREFIX)).map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The `Ready` condition if its status is `True`. If a Node has several `Ready` conditions, one
    /// `True` is enough.
    pub fn ready(&self) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.status == "True")
    }

    /// Whether the node is ready, and nothing says otherwise: every `Ready` condition is `True`.
    pub fn is_back(&self) -> bool {
        self.ready().is_some() && self.status.conditions.iter().all(|condition| condition.status == "True")
    }

    /// The status of the `Ready` condition. `Unknown` if the node reports none, as in
    /// `kubectl get nodes`.
    pub fn ready_status(&self) -> &str {
        match (self.ready(), self.status.conditions.first()) {
            (Some(condition), _) | (None, Some(condition)) => &condition.status,
            (None, None) => "Unknown",
        }
    }

    /// Whether the API server stored the status of `Ready`, as it is, before this time. A time in
    /// the condition itself is the word of whoever wrote it. A kubelet that has reported its boot
    /// has reported `Ready`, too: if it is gone, somebody removed it. True if the object has no
    /// managed fields, as kubectl prints it.
    pub fn is_ready_status_older_than(&self, time: Timestamp) -> bool {
        let Some(entries) = &self.metadata.managed_fields else { return true };
        let was_removed = self.status.conditions.is_empty() && self.boot_id().is_some();
        let mut of_status = entries.iter().filter(|entry| entry.ready().is_some_and(|ready| ready.status.is_some()));
        !was_removed && of_status.all(|entry| entry.time.is_some_and(|stored_at| stored_at < time))
    }

    /// When the API server last stored a heartbeat of the kubelet, by its own clock. The node
    /// controller, which sets `Ready` to `Unknown`, leaves the heartbeat alone
    /// (`pkg/controller/nodelifecycle`). `None` if the Node does not tell.
    pub fn reported_at(&self) -> Option<Timestamp> {
        let entries = self.metadata.managed_fields.iter().flatten();
        let of_heartbeat = entries.filter(|entry| entry.ready().is_some_and(|ready| ready.heartbeat.is_some()));
        of_heartbeat.filter_map(|entry| entry.time).max()
    }

    /// The ID of the current boot, if the kubelet ever reported one.
    pub fn boot_id(&self) -> Option<&str> {
        Some(self.status.node_info.boot_id.as_str()).filter(|id| !id.is_empty())
    }
}

fn first_finalizers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    first_texts(deserializer, FIRST_FINALIZERS)
}

fn only_of_ready<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<ReadyOwner>>, D::Error> {
    kept_objects_if_any(deserializer, MOST_ENTRIES, |entry: ReadyOwner| {
        let owns = entry.ready().is_some_and(|ready| ready.status.is_some() || ready.heartbeat.is_some());
        owns.then_some(entry)
    })
}

fn only_judged_taints<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Taint>, D::Error> {
    let is_judged = |taint: &Taint| taint.key == OUT_OF_SERVICE || taint.key == CLOUD_SHUTDOWN;
    kept_objects(deserializer, MOST_ENTRIES, |taint| Some(taint).filter(is_judged))
}

fn only_ready_condition<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Condition>, D::Error> {
    let is_ready = |condition: &Condition| condition.kind == "Ready";
    kept_objects(deserializer, MOST_ENTRIES, |condition| Some(condition).filter(is_ready))
}

fn only_internal_addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NodeAddress>, D::Error> {
    let is_internal = |address: &NodeAddress| address.kind == "InternalIP";
    kept_objects(deserializer, MOST_ENTRIES, |address| Some(address).filter(is_internal))
}

fn only_read_annotations<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    kept_entries(deserializer, MOST_ANNOTATIONS, |key| {
        key.starts_with(annotation::PREFIX) || key == annotation::APPLIED_BY
    })
}

fn only_volumes_without_attachments<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<AttachedVolume>, D::Error> {
    let is_told_here_only = |volume: &AttachedVolume| !volume.name.starts_with(CSI_VOLUME);
    kept_objects(deserializer, MOST_ENTRIES, |volume| Some(volume).filter(is_told_here_only))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_not_judged_are_skipped() {
        let node: Node = serde_json::from_str(
            r#"{"metadata":{"name":"n","managedFields":[{"manager":"x"}],
                "annotations":{"other/key":{"not":"even a string"},"fencegate.dev/proof":"p"}},
                "spec":{"podCIDR":"10.0.0.0/24","taints":[{"key":"other"},{"key":"node.kubernetes.io/out-of-service"}]},
                "status":{"images":[{"names":["a"]}],"conditions":[{"type":"DiskPressure","status":"True"}],
                    "volumesAttached":[{"name":"kubernetes.io/csi/d^v"},{"name":"kubernetes.io/iscsi/a","devicePath":""}]}}"#,
        )
        .unwrap();
        assert_eq!(node.gate_annotations().collect::<Vec<_>>(), [("fencegate.dev/proof", "p")]);
        assert_eq!(node.metadata.annotations.as_ref().unwrap().len(), 1);
        assert_eq!(node.spec.taints.len(), 1);
        assert!(node.ready().is_none());
        assert_eq!(node.status.volumes_attached, [AttachedVolume { name: "kubernetes.io/iscsi/a".into() }]);
    }

    #[test]
    fn null_and_missing_are_the_same() {
        let nulls = r#"{"metadata":{"name":"n","annotations":null,"finalizers":null,"deletionTimestamp":null},
            "spec":{"taints":null},"status":{"conditions":null,"nodeInfo":null,"volumesAttached":null}}"#;
        let missing = r#"{"metadata":{"name":"n"}}"#;
        let (nulls, missing): (Node, Node) =
            (serde_json::from_str(nulls).unwrap(), serde_json::from_str(missing).unwrap());
        assert_eq!(nulls, missing);
        assert_eq!(
            serde_json::from_str::<Node>(r#"{"metadata":{"name":"n"},"spec":null,"status":null}"#).unwrap(),
            missing
        );
    }

    #[test]
    fn a_duplicate_annotation_is_an_error() {
        let twice = r#"{"metadata":{"annotations":{"fencegate.dev/method":"power-off","fencegate.dev/method":"x"}}}"#;
        assert!(serde_json::from_str::<Node>(twice).unwrap_err().to_string().contains("there twice"));
    }
}
