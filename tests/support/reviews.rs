//! An AdmissionReview of a write to a Node, and a cluster that has nothing but some objects.

#![allow(dead_code, reason = "each test uses a part of this")]

use fencegate::cluster::{Snapshot, file::SnapshotError};
use serde_json::{Value, json};

/// The review of one write to a Node. On CREATE there is no old Node, on DELETE no new one.
pub fn review(operation: &str, subresource: &str, user: &Value, old: &Value, new: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u",
            "operation": operation,
            "subResource": subresource,
            "resource": {"group": "", "version": "v1", "resource": "nodes"},
            "userInfo": user,
            "oldObject": if operation == "CREATE" { &Value::Null } else { old },
            "object": if operation == "DELETE" { &Value::Null } else { new },
        },
    })
}

/// The cluster. The empty lists tell that it has no more objects.
pub fn snapshot(objects: &[Value]) -> Result<Snapshot, SnapshotError> {
    let empty = ["Lease", "Pod", "VolumeAttachment", "Node"].map(|kind| json!({"kind": format!("{kind}List")}));
    let items = [&empty, objects].concat();
    Snapshot::parse(&json!({"kind": "List", "items": items}).to_string())
}
