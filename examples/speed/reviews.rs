//! The reviews, of 11 kB each, and the cluster that they are about.

use serde_json::{Value, json};

const NODE: &str = "worker-2";
const LONG_AGO: &str = "2026-11-20T00:00:00Z";

fn now() -> String {
    jiff::Timestamp::now().strftime("%FT%TZ").to_string()
}

/// A Node as the kubelet of a small cluster keeps it, silent for long.
fn node(evidence: bool, taint: bool) -> Value {
    let image = |image: usize| {
        let name = format!("registry.example/team/service-{image}");
        json!({"names": [format!("{name}@sha256:{image:064}"), format!("{name}:v1")], "sizeBytes": 1000 + image})
    };
    let conditions = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"].map(|kind| {
        json!({"type": kind, "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status.",
            "lastHeartbeatTime": LONG_AGO, "lastTransitionTime": LONG_AGO})
    });
    let mut annotations = json!({"example.com/annotation": "v".repeat(60)});
    if evidence {
        annotations["fencegate.dev/method"] = json!("power-off");
        annotations["fencegate.dev/fenced-by"] = json!("alice");
        annotations["fencegate.dev/fenced-at"] = json!(now());
    }
    let taints = if taint {
        json!([{"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}])
    } else {
        json!([])
    };
    let labels: serde_json::Map<String, Value> =
        (0..10).map(|label| (format!("example.com/label-{label}"), json!("v".repeat(20)))).collect();
    json!({
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": NODE, "uid": "u", "creationTimestamp": LONG_AGO, "labels": labels, "annotations": annotations},
        "spec": {"podCIDR": "10.0.0.0/24", "providerID": "aws:///z/i-1", "taints": taints},
        "status": {
            "conditions": conditions,
            "addresses": [{"type": "InternalIP", "address": "10.0.0.2"}],
            "images": (0..20).map(image).collect::<Vec<_>>(),
            "nodeInfo": {"bootID": "boot-1", "machineID": "m", "systemUUID": "s", "kernelVersion": "6",
                "osImage": "x", "containerRuntimeVersion": "containerd://2", "kubeletVersion": "v1.37.2",
                "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64"},
        },
    })
}

fn lease() -> Value {
    json!({
        "kind": "Lease",
        "apiVersion": "coordination.k8s.io/v1",
        "metadata": {"name": NODE, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": NODE, "leaseDurationSeconds": 4, "renewTime": "2026-11-20T00:00:00.000000Z"},
    })
}

/// What the API server stores, each with the path to create it by.
pub fn objects() -> [(&'static str, Value); 2] {
    [("/api/v1/nodes", node(false, false)), ("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", lease())]
}

/// The same cluster as a file.
pub fn snapshot() -> String {
    let empty = ["Lease", "Pod", "VolumeAttachment", "Node"].map(|kind| json!({"kind": format!("{kind}List")}));
    let items = [&empty[..], &[node(false, false), lease()]].concat();
    json!({"kind": "List", "apiVersion": "v1", "items": items}).to_string()
}

fn review(old: &Value, new: &Value) -> Value {
    let kind = json!({"group": "", "version": "v1", "kind": "Node"});
    let resource = json!({"group": "", "version": "v1", "resource": "nodes"});
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": kind,
            "resource": resource,
            "requestKind": kind,
            "requestResource": resource,
            "name": NODE,
            "operation": "UPDATE",
            "userInfo": {"username": "alice", "groups": ["system:authenticated"]},
            "object": new,
            "oldObject": old,
            "dryRun": false,
            "options": {"kind": "UpdateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    })
}

/// Places the taint without evidence.
pub fn denial() -> Value {
    review(&node(false, false), &node(false, true))
}

/// Places the taint on a Node whose fence is recorded.
pub fn place() -> Value {
    let stamped = |mut node: Value| {
        node["metadata"]["annotations"]["fencegate.dev/recorded-at"] = json!(now());
        node["metadata"]["annotations"]["fencegate.dev/recorded-by"] = json!("alice");
        node["metadata"]["annotations"]["fencegate.dev/source"] = json!("annotations");
        node["metadata"]["annotations"]["fencegate.dev/boot-id"] = json!("boot-1");
        node
    };
    review(&stamped(node(true, false)), &stamped(node(true, true)))
}

/// Removes it again.
pub fn release() -> Value {
    review(&node(false, true), &node(false, false))
}
