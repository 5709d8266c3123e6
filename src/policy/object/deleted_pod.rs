//! A Pod in the review of its deletion. Anyone may send one, so it is kept small.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::pod::{OwnerReference, Pod, PodMetadata, PodSpec, PodStatus, Volume, only_judged_label};
use crate::policy::json::{first_objects, null_is_default, object_or_null};

/// A Pod with nothing but what a deletion of it is judged by, however much it has: of its owners
/// the controller, and of its volumes the first with a claim.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct DeletedPod {
    #[serde(deserialize_with = "object_or_null")]
    metadata: DeletedMetadata,
    #[serde(deserialize_with = "object_or_null")]
    spec: DeletedSpec,
    #[serde(deserialize_with = "object_or_null")]
    status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DeletedMetadata {
    #[serde(deserialize_with = "null_is_default")]
    namespace: String,
    #[serde(deserialize_with = "null_is_default")]
    name: String,
    deletion_timestamp: Option<String>,
    deletion_grace_period_seconds: Option<i64>,
    #[serde(deserialize_with = "only_judged_label")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "only_controller")]
    owner_references: Vec<OwnerReference>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DeletedSpec {
    #[serde(deserialize_with = "null_is_default")]
    node_name: String,
    termination_grace_period_seconds: Option<i64>,
    #[serde(deserialize_with = "only_first_claim")]
    volumes: Vec<Volume>,
}

impl DeletedPod {
    /// `spec.terminationGracePeriodSeconds`.
    pub fn own_grace(&self) -> Option<i64> {
        self.spec.termination_grace_period_seconds
    }

    /// The same as a Pod.
    pub fn pod(self) -> Pod {
        let Self { metadata, spec, status } = self;
        Pod {
            metadata: PodMetadata {
                namespace: metadata.namespace,
                name: metadata.name,
                deletion_timestamp: metadata.deletion_timestamp,
                deletion_grace_period_seconds: metadata.deletion_grace_period_seconds,
                labels: metadata.labels,
                owner_references: metadata.owner_references,
                ..PodMetadata::default()
            },
            spec: PodSpec { node_name: spec.node_name, volumes: spec.volumes, ..PodSpec::default() },
            status,
        }
    }
}

fn only_controller<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<OwnerReference>, D::Error> {
    first_objects(deserializer, 1, |owner: OwnerReference| Some(owner).filter(|owner| owner.controller))
}

fn only_first_claim<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Volume>, D::Error> {
    first_objects(deserializer, 1, |mut volume: Volume| {
        volume.inline.clear();
        (volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()).then_some(volume)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_judged_is_kept_and_none_of_it_is_lost() {
        let pod = r#"{"metadata":{"namespace":"prod","name":"db-0","deletionTimestamp":"2026-11-22T10:20:00Z",
            "deletionGracePeriodSeconds":30,"labels":{"app":"db","statefulset.kubernetes.io/pod-name":"db-0"},
            "ownerReferences":[{"kind":"Other","name":"o"},{"apiVersion":"apps/v1","kind":"StatefulSet","name":"db","controller":true}]},
            "spec":{"nodeName":"n1","terminationGracePeriodSeconds":7,"tolerations":[{"operator":"Exists"}],
            "volumes":[{"name":"c","configMap":{}},{"name":"a","ephemeral":{}},{"name":"b","persistentVolumeClaim":{"claimName":"b"}}]},
            "status":{"phase":"Running"}}"#;
        let deleted: DeletedPod = serde_json::from_str(pod).unwrap();
        assert_eq!(deleted.own_grace(), Some(7));
        let (kept, whole) = (deleted.pod(), serde_json::from_str::<Pod>(pod).unwrap());
        assert_eq!(kept.metadata.owner_references.as_slice(), whole.controller().map(std::slice::from_ref).unwrap());
        assert_eq!((kept.spec.volumes.len(), kept.claims().next()), (1, Some("db-0-a".to_owned())));
        let rest = |mut pod: Pod| {
            pod.metadata.owner_references.clear();
            (pod.spec.volumes, pod.spec.tolerations) = (Vec::new(), Vec::new());
            pod
        };
        assert_eq!(rest(kept), rest(whole));
    }
}
