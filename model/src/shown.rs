//! The model's objects as Kubernetes has them: what the gate is shown.

use fencegate::policy::object::{
    lease::{Lease, LeaseFields, LeaseMetadata, LeaseSpec, LeaseSpecFields, ManagedFields, Owned},
    node::{
        Condition, Node, NodeInfo, NodeMetadata, NodeSpec, NodeStatus, OUT_OF_SERVICE, OwnedCondition, OwnedConditions,
        OwnedFields, OwnedStatus, ReadyOwner, Taint,
    },
    pod::Pod,
    volume::{PersistentVolume, VolumeAttachment},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    gate::{NAME, boot_id, time},
    world::{self, Attachment, Owner, Ready, Seconds},
};

/// The name of the disk's PersistentVolume.
const VOLUME: &str = "pv-1";

pub fn node(node: &world::Node) -> Node {
    let since = Some(time(node.ready_since));
    let condition = |status: &str| Condition {
        kind: "Ready".to_owned(),
        status: status.to_owned(),
        last_heartbeat_time: since,
        last_transition_time: since,
    };
    let owner = |at: Option<Seconds>, status: Option<Owned>, heartbeat: Option<Owned>| ReadyOwner {
        time: at.map(time),
        fields_v1: OwnedFields {
            status: OwnedStatus { conditions: OwnedConditions { ready: Some(OwnedCondition { status, heartbeat }) } },
        },
    };
    let (conditions, owners) = match node.ready {
        Ready::True | Ready::False => {
            let status = if node.ready == Ready::True { "True" } else { "False" };
            (vec![condition(status)], vec![owner(Some(node.ready_since), Some(Owned {}), Some(Owned {}))])
        }
        Ready::Unknown => {
            let of_kubelet = owner(node.reported, None, Some(Owned {}));
            (vec![condition("Unknown")], vec![of_kubelet, owner(Some(node.ready_since), Some(Owned {}), None)])
        }
        Ready::Absent => (Vec::new(), Vec::new()),
    };
    let annotations = node.annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let taint = |effect: &world::Effect| Taint {
        key: OUT_OF_SERVICE.to_owned(),
        value: "nodeshutdown".to_owned(),
        effect: effect.name().to_owned(),
    };
    Node {
        metadata: NodeMetadata {
            name: NAME.to_owned(),
            creation_timestamp: Some(time(node.created)),
            managed_fields: Some(owners),
            annotations: Some(annotations),
            ..NodeMetadata::default()
        },
        spec: NodeSpec { taints: node.taint.iter().map(taint).collect(), ..NodeSpec::default() },
        status: NodeStatus {
            conditions,
            node_info: NodeInfo { boot_id: node.boot.map(boot_id).unwrap_or_default() },
            ..NodeStatus::default()
        },
    }
}

pub fn lease(lease: &world::Lease) -> Lease {
    let renewed = Some(time(lease.renewed));
    let renewal = ManagedFields {
        time: renewed,
        fields_v1: LeaseFields { spec: LeaseSpecFields { renew_time: Some(Owned {}) } },
    };
    let managed_fields = lease.managed.then(|| vec![renewal]);
    Lease {
        metadata: LeaseMetadata { managed_fields },
        spec: LeaseSpec { renew_time: renewed, lease_duration_seconds: Some(40) },
    }
}

/// The pod, with a claim.
pub fn pod(pod: world::Pod, owner: Owner) -> Option<Pod> {
    let (deleted, remaining) = match pod {
        world::Pod::Gone => return None,
        world::Pod::Bound => (Value::Null, Value::Null),
        world::Pod::Terminating => (json!("2026-11-22T10:00:00Z"), json!(30)),
    };
    let (kind, label) = match owner {
        Owner::StatefulSet => ("StatefulSet", "statefulset.kubernetes.io/pod-name"),
        Owner::Deployment => ("ReplicaSet", "pod-template-hash"),
    };
    let controller = json!({"apiVersion": "apps/v1", "kind": kind, "name": "db", "controller": true});
    parsed(json!({
        "metadata": {
            "namespace": "shop",
            "name": "db-0",
            "creationTimestamp": "2026-11-22T08:00:00Z",
            "deletionTimestamp": deleted,
            "deletionGracePeriodSeconds": remaining,
            "labels": {label: "db-0"},
            "ownerReferences": [controller],
        },
        "spec": {
            "nodeName": NAME,
            "terminationGracePeriodSeconds": 30,
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}],
        },
        "status": {"phase": "Running"},
    }))
}

/// The VolumeAttachment, with its attacher's finalizer.
pub fn attachment(attachment: Attachment) -> Option<VolumeAttachment> {
    let deleted = match attachment {
        Attachment::Gone => return None,
        Attachment::Attached => Value::Null,
        Attachment::Detaching => json!("2026-11-22T10:00:00Z"),
    };
    parsed(json!({
        "metadata": {
            "name": "csi-1",
            "deletionTimestamp": deleted,
            "finalizers": ["external-attacher/csi-example-com"],
        },
        "spec": {"attacher": "csi.example.com", "nodeName": NAME, "source": {"persistentVolumeName": VOLUME}},
        "status": {"attached": true},
    }))
}

/// The claim of the disk's PersistentVolume.
pub fn volume() -> Option<PersistentVolume> {
    parsed(json!({
        "metadata": {"name": VOLUME},
        "spec": {"claimRef": {"namespace": "shop", "name": "data-db-0"}},
    }))
}

pub fn remediation(remediation: &world::Remediation) -> Value {
    let at = |at: Seconds| time(at).to_string();
    let condition =
        |at_time| json!({"type": "FenceAgentActionSucceeded", "status": "True", "lastTransitionTime": at(at_time)});
    json!({
        "metadata": {"name": NAME, "namespace": "medik8s", "creationTimestamp": at(remediation.created)},
        "status": {"conditions": remediation.succeeded.map(condition).into_iter().collect::<Vec<_>>()},
    })
}

/// An object of the policy from its JSON. The model's own objects can always be parsed; a test
/// holds it.
fn parsed<T: DeserializeOwned>(object: Value) -> Option<T> {
    serde_json::from_value(object).ok()
}

#[cfg(test)]
mod tests {
    use fencegate::policy::facts::CustomKind;

    use super::*;

    #[test]
    fn the_policy_can_read_the_models_objects() {
        for owner in [Owner::StatefulSet, Owner::Deployment] {
            assert!(pod(world::Pod::Bound, owner).is_some());
            assert!(pod(world::Pod::Terminating, owner).is_some_and(|pod| pod.is_terminating()));
        }
        assert!(attachment(Attachment::Attached).is_some());
        assert!(attachment(Attachment::Detaching).is_some_and(|one| one.metadata.deletion_timestamp.is_some()));
        assert!(volume().is_some());
        let read = CustomKind::FenceAgentsRemediation.check(&remediation(&world::Remediation {
            created: 0,
            rebooted: true,
            succeeded: Some(30),
        }));
        assert!(read.is_ok());
    }
}
