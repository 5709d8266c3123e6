//! The fields of a Pod that the gate judges or tells: its owner, its phase, whether it is
//! terminating and what it waits for, its tolerations and its PersistentVolumeClaims.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    node::{Node, OUT_OF_SERVICE, Taint},
    volume::ClaimRef,
};
use crate::policy::{
    annotation::PLACED_AT,
    json::{kept_entries, kept_objects, null_is_default, object_or_null, objects_or_null, readable_time},
};

/// The label that the StatefulSet controller puts on its pods
/// (`k8s.io/api/apps/v1`: `StatefulSetPodNameLabel`). It stays if the StatefulSet is deleted with
/// `--cascade=orphan`.
const STATEFUL_SET_POD: &str = "statefulset.kubernetes.io/pod-name";

/// A Pod, with the fields that the gate judges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    #[serde(deserialize_with = "object_or_null")]
    pub metadata: PodMetadata,
    #[serde(deserialize_with = "object_or_null")]
    pub spec: PodSpec,
    #[serde(deserialize_with = "object_or_null")]
    pub status: PodStatus,
}

/// `metadata` of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodMetadata {
    #[serde(deserialize_with = "null_is_default")]
    pub namespace: String,
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    /// When the API server stored the Pod. A value that cannot be parsed counts as missing.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "readable_time")]
    pub creation_timestamp: Option<Timestamp>,
    /// Set while the Pod is being deleted: when its grace period ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_grace_period_seconds: Option<i64>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
    /// Only the label that every pod of a StatefulSet has.
    #[serde(deserialize_with = "only_judged_label", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "objects_or_null", skip_serializing_if = "Vec::is_empty")]
    pub owner_references: Vec<OwnerReference>,
}

/// `status` of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub phase: String,
}

/// One entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OwnerReference {
    #[serde(deserialize_with = "null_is_default")]
    pub api_version: String,
    #[serde(deserialize_with = "null_is_default")]
    pub kind: String,
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    #[serde(deserialize_with = "null_is_default")]
    pub controller: bool,
}

impl OwnerReference {
    /// The API group: empty for the core group.
    pub fn group(&self) -> &str {
        self.api_version.rsplit_once('/').map_or("", |(group, _)| group)
    }
}

/// `spec` of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    #[serde(deserialize_with = "null_is_default")]
    pub node_name: String,
    /// Only tolerations that could match the guarded key.
    #[serde(deserialize_with = "only_judged_tolerations", skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Only volumes that are not of the machine itself.
    #[serde(deserialize_with = "only_volumes_elsewhere", skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
}

/// One entry of `spec.tolerations`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Toleration {
    #[serde(deserialize_with = "null_is_default")]
    pub key: String,
    #[serde(deserialize_with = "null_is_default")]
    pub operator: String,
    #[serde(deserialize_with = "null_is_default")]
    pub value: String,
    #[serde(deserialize_with = "null_is_default")]
    pub effect: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

impl Toleration {
    /// Whether a pod with this toleration may stay on the node despite `taint`, without a time
    /// limit.
    ///
    /// Matches as Kubernetes does (`k8s.io/component-helpers/scheduling/corev1`: `ToleratesTaint`),
    /// with three exceptions that do not count: a toleration with `tolerationSeconds`, an operator
    /// other than `Exists` and `Equal`, and an empty key without `Exists`, which the API server
    /// does not accept.
    fn tolerates(&self, taint: &Taint) -> bool {
        let key = self.key == taint.key || (self.key.is_empty() && self.operator == "Exists");
        let effect = self.effect.is_empty() || self.effect == taint.effect;
        let value = match self.operator.as_str() {
            "Exists" => true,
            "" | "Equal" => self.value == taint.value,
            _ => false,
        };
        key && effect && value && self.toleration_seconds.is_none()
    }
}

/// One entry of `spec.volumes` whose data is not on the machine itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Volume {
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<Ephemeral>,
    /// The sources of a volume without a claim, for example `nfs`.
    #[serde(flatten)]
    pub inline: BTreeMap<String, Option<Present>>,
}

/// An object that is there, whatever it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {}

/// `persistentVolumeClaim` of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClaimSource {
    #[serde(deserialize_with = "null_is_default")]
    pub claim_name: String,
}

/// `ephemeral` of a volume: its claim is named after the pod and the volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ephemeral {}

impl Pod {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }

    /// Whether the pod is being deleted.
    pub fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Since when the pod is being deleted. `None` if it is not, or if the time cannot be read.
    pub fn terminating_since(&self) -> Option<Timestamp> {
        let end: Timestamp = self.metadata.deletion_timestamp.as_deref()?.parse().ok()?;
        let grace = SignedDuration::from_secs(self.metadata.deletion_grace_period_seconds.unwrap_or(0));
        end.checked_sub(grace).ok()
    }

    /// Whether all containers have ended for good: the kubelet has unmounted the pod's volumes, or
    /// never mounts them again. A pod with any other phase, or without one, may run.
    pub fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether the pod was made by a StatefulSet, even if that is gone.
    pub fn is_of_a_stateful_set(&self) -> bool {
        self.metadata.labels.contains_key(STATEFUL_SET_POD)
    }

    /// The owner with `controller: true`. The API server allows at most one.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.metadata.owner_references.iter().find(|owner| owner.controller)
    }

    /// Whether the pod tolerates every entry of the node's out-of-service taint, without a time
    /// limit.
    pub fn tolerates(&self, node: &Node) -> bool {
        let tolerates = |taint| self.spec.tolerations.iter().any(|toleration| toleration.tolerates(taint));
        node.out_of_service().all(tolerates)
    }

    /// Whether the pod may stay on `node` when its out-of-service taint is removed: nothing makes
    /// it leave. It is neither terminating nor finished, and either it tolerates the taint, or the
    /// taint evicted nothing and the node is back.
    pub fn may_stay(&self, node: &Node) -> bool {
        !self.is_terminating() && !self.is_finished() && (self.tolerates(node) || node.evicted_nothing())
    }

    /// Whether the volumes that the pod claims may stay attached with it: it may stay on `node`,
    /// and it is not a pod that was made later only to name the claim. It was there when the taint
    /// was placed, or the node is back and runs it.
    pub fn may_keep_volumes(&self, node: &Node) -> bool {
        let was_there = node.annotation(PLACED_AT).is_none_or(|placed_at| {
            let created_at = self.metadata.creation_timestamp;
            created_at.zip(placed_at.parse().ok()).is_some_and(|(created, placed): (_, Timestamp)| created < placed)
        });
        let runs = self.status.phase == "Running" && node.is_back();
        self.may_stay(node) && (was_there || runs)
    }

    /// The PersistentVolumeClaims that the pod uses.
    pub fn claimed(&self) -> impl Iterator<Item = ClaimRef> + '_ {
        self.claims().map(|name| ClaimRef { namespace: self.metadata.namespace.clone(), name })
    }

    /// The volumes that the pod uses without a claim and that are not of the machine itself: the
    /// name of each, with its source.
    pub fn inline_volumes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.spec
            .volumes
            .iter()
            .flat_map(|volume| volume.inline.keys().map(|source| (volume.name.as_str(), source.as_str())))
    }

    /// The names of the PersistentVolumeClaims that the pod uses. They are in the pod's namespace.
    pub fn claims(&self) -> impl Iterator<Item = String> + '_ {
        self.spec.volumes.iter().filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(Ephemeral {})) => Some(format!("{}-{}", self.metadata.name, volume.name)),
            (None, None) => None,
        })
    }
}

pub(super) fn only_judged_label<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(kept_entries(deserializer, usize::MAX, |key| key == STATEFUL_SET_POD)?.unwrap_or_default())
}

fn only_judged_tolerations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Toleration>, D::Error> {
    let is_judged = |toleration: &Toleration| toleration.key.is_empty() || toleration.key == OUT_OF_SERVICE;
    kept_objects(deserializer, usize::MAX, |toleration| Some(toleration).filter(is_judged))
}

/// The sources of volumes that nobody else can write to: what is on the machine itself, what the
/// kubelet writes, and `csi`, whose inline volumes live and die with their pod
/// (`k8s.io/api/core/v1`: `VolumeSource`, `CSIVolumeSource`).
const OF_THE_MACHINE: [&str; 9] =
    ["emptyDir", "hostPath", "configMap", "secret", "downwardAPI", "projected", "image", "gitRepo", "csi"];

fn only_volumes_elsewhere<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Volume>, D::Error> {
    kept_objects(deserializer, usize::MAX, |mut volume: Volume| {
        volume.inline.retain(|source, value| value.is_some() && !OF_THE_MACHINE.contains(&source.as_str()));
        let is_elsewhere =
            volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() || !volume.inline.is_empty();
        is_elsewhere.then_some(volume)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint() -> Taint {
        Taint { key: OUT_OF_SERVICE.into(), value: "nodeshutdown".into(), effect: "NoExecute".into() }
    }

    #[test]
    fn a_toleration_with_a_time_limit_does_not_count() {
        for (toleration, expected) in [
            (r#"{"operator":"Exists"}"#, true),
            (r#"{"key":"node.kubernetes.io/out-of-service","operator":"Exists"}"#, true),
            (r#"{"key":"node.kubernetes.io/out-of-service","operator":"Exists","effect":"NoExecute"}"#, true),
            (r#"{"key":"node.kubernetes.io/out-of-service","operator":"Exists","effect":"NoSchedule"}"#, false),
            (r#"{"key":"node.kubernetes.io/out-of-service","value":"nodeshutdown"}"#, true),
            (r#"{"key":"node.kubernetes.io/out-of-service","operator":"Equal","value":"nodeshutdown"}"#, true),
            (r#"{"key":"node.kubernetes.io/out-of-service","operator":"Equal","value":"other"}"#, false),
            (r#"{"key":"node.kubernetes.io/out-of-service","operator":"Exists","tolerationSeconds":300}"#, false),
            (r#"{"key":"node.kubernetes.io/out-of-service","operator":"Exists","tolerationSeconds":null}"#, true),
            (r#"{"key":"node.kubernetes.io/out-of-service","operator":"Gt","value":"nodeshutdown"}"#, false),
            (r#"{"key":"node.kubernetes.io/unreachable","operator":"Exists"}"#, false),
            (r#"{"operator":"Equal","value":"nodeshutdown"}"#, false),
        ] {
            let toleration: Toleration = serde_json::from_str(toleration).unwrap();
            assert_eq!(toleration.tolerates(&taint()), expected, "{toleration:?}");
        }
    }

    #[test]
    fn a_pod_is_terminating_since_the_deletion_and_not_since_the_end_of_its_grace_period() {
        let since = |metadata: &str| {
            let pod: Pod = serde_json::from_str(&format!(r#"{{"metadata":{metadata}}}"#)).unwrap();
            (pod.is_terminating(), pod.terminating_since().map(|at| at.to_string()))
        };
        let graceful = r#"{"deletionTimestamp":"2026-11-22T10:17:00Z","deletionGracePeriodSeconds":30}"#;
        assert_eq!(since(graceful), (true, Some("2026-11-22T10:16:30Z".to_owned())));
        assert_eq!(since(r#"{"deletionTimestamp":"yesterday"}"#), (true, None));
        assert_eq!(since("{}"), (false, None));
    }

    #[test]
    fn only_the_label_that_counts_is_kept() {
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{"labels":{"app":"db","statefulset.kubernetes.io/pod-name":"db-0"}},"status":{"phase":"Running"}}"#,
        )
        .unwrap();
        assert!(pod.is_of_a_stateful_set());
        assert_eq!(pod.metadata.labels.len(), 1);
        let kept = serde_json::to_string(&pod).unwrap();
        assert_eq!(serde_json::from_str::<Pod>(&kept).unwrap(), pod, "the audit line is read back");
    }

    #[test]
    fn ephemeral_volumes_have_claims_too() {
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{"namespace":"a","name":"p"},"spec":{"volumes":[
                {"name":"data","persistentVolumeClaim":{"claimName":"data-p"}},
                {"name":"scratch","ephemeral":{"volumeClaimTemplate":{"spec":{}}}},
                {"name":"cfg","configMap":{"name":"c"}}]}}"#,
        )
        .unwrap();
        assert_eq!(pod.claims().collect::<Vec<_>>(), ["data-p", "p-scratch"]);
        assert_eq!(pod.spec.volumes.len(), 2, "a volume of the machine itself is not kept");
    }

    #[test]
    fn volumes_elsewhere_without_a_claim_are_kept_by_their_source() {
        let pod = r#"{"spec":{"volumes":[{"name":"home","nfs":{"server":"10.0.0.1","path":"/home"}},
            {"name":"tmp","emptyDir":{}},{"name":"tls","csi":{"driver":"secrets-store.csi.k8s.io"}},
            {"name":"odd","iscsi":null,"aNewSource":{"x":[1]}}]}}"#;
        let pod: Pod = serde_json::from_str(pod).unwrap();
        assert_eq!(pod.inline_volumes().collect::<Vec<_>>(), [("home", "nfs"), ("odd", "aNewSource")]);
        let kept = serde_json::to_string(&pod.spec.volumes).unwrap();
        assert_eq!(kept, r#"[{"name":"home","nfs":{}},{"name":"odd","aNewSource":{}}]"#);
        assert_eq!(
            serde_json::from_str::<Vec<Volume>>(&kept).unwrap(),
            pod.spec.volumes,
            "the audit line is read back"
        );
    }

    #[test]
    fn an_owner_without_a_group_belongs_to_the_core_group() {
        let owner = |api_version: &str| OwnerReference { api_version: api_version.into(), ..OwnerReference::default() };
        assert_eq!(owner("apps/v1").group(), "apps");
        assert_eq!(owner("v1").group(), "");
    }
}
