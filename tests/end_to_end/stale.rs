//! Writers with a stale copy of a Node read a conflict, as without the gate, and try again.

use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{
        gate::Gate,
        plane::{ApiError, Plane, STRATEGIC},
    },
    world::{PLACE, REMOVE, accepts, attach, detach, is_tainted, kubectl, lone_node, of_node, plane_with_alice},
};

/// The taint that these writers add.
const PRESSURE: &str = "node.kubernetes.io/memory-pressure";

/// A way to write the whole list of taints of a copy, with [`PRESSURE`] added.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// The node controllers of kube-controller-manager (`k8s.io/kubernetes/pkg/controller`:
    /// `PatchNodeTaints`): a patch that names the version of the copy.
    Patch,
    /// Cluster autoscaler and remediation operators: client-go's Update.
    Update,
}

impl Way {
    /// Writes the taints of this copy, and names its version or none.
    async fn write(self, plane: &Plane, copy: &Value, names_version: bool) -> Result<Value, ApiError> {
        let path = format!("/api/v1/nodes/{}", copy["metadata"]["name"].as_str().unwrap());
        let mut taints = copy["spec"]["taints"].as_array().cloned().unwrap_or_default();
        taints.retain(|taint| taint["key"] != PRESSURE);
        taints.push(json!({"key": PRESSURE, "effect": "NoSchedule"}));
        let version = if names_version { copy["metadata"]["resourceVersion"].clone() } else { Value::Null };
        match self {
            Self::Patch => {
                let mut patch = json!({"spec": {"taints": taints}});
                if names_version {
                    patch["metadata"] = json!({"resourceVersion": version});
                }
                plane.patch("alice", STRATEGIC, &path, patch).await
            }
            Self::Update => {
                let mut object = copy.clone();
                object["spec"]["taints"] = json!(taints);
                object["metadata"]["resourceVersion"] = version;
                plane.api("alice", Method::PUT, &path, Some(object)).await
            }
        }
    }

    /// Reads the Node and writes it, until there is no conflict (client-go's `RetryOnConflict`).
    async fn retry(self, plane: &Plane, node: &str) -> Value {
        loop {
            match self.write(plane, &of_node(plane, node).await, true).await {
                Err(error) if error.code == 409 => {}
                result => return result.unwrap(),
            }
        }
    }

    /// Asserts that the stale copy gets a conflict and changes nothing, that the same content is
    /// denied if it names no version, and that the writer's next try passes.
    async fn ends_well(self, plane: &Plane, stale: &Value, reason: &str) {
        let node = stale["metadata"]["name"].as_str().unwrap();
        let was_tainted = is_tainted(&of_node(plane, node).await);
        assert_ne!(is_tainted(stale), was_tainted, "the copy is stale");
        let conflict = self.write(plane, stale, true).await.unwrap_err();
        assert!(conflict.code == 409 && conflict.message.contains("the object has been modified"), "{conflict:?}");
        let denied = self.write(plane, stale, false).await.unwrap_err();
        assert!(denied.code == 403 && denied.message.contains(reason), "{denied:?}");
        assert_eq!(is_tainted(&of_node(plane, node).await), was_tainted);
        let stored = self.retry(plane, node).await;
        assert!(is_tainted(&stored) == was_tainted && stored["spec"]["taints"].to_string().contains(PRESSURE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_with_a_stale_copy_reads_a_conflict_and_its_next_try_passes() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    for (way, name) in [(Way::Patch, "patched"), (Way::Update, "updated")] {
        lone_node(&plane, name, true).await;
        let before = of_node(&plane, name).await;
        accepts(kubectl(&plane, &["taint", "node", name, PLACE]));
        let mut during = of_node(&plane, name).await;
        attach(&plane, name, name).await;
        way.ends_well(&plane, &before, "VolumesAttached").await;

        detach(&plane, name).await;
        accepts(kubectl(&plane, &["taint", "node", name, REMOVE]));
        // With the whole record, the same content without a version would be another placement.
        during["metadata"]["annotations"] = json!({});
        way.ends_well(&plane, &during, "EvidenceMissing").await;
    }
    let denied = gate.audit_log().into_iter().filter(|line| line["decision"] == "deny").count();
    assert_eq!(denied, 4, "a stale write leaves no denial in the log");
}
