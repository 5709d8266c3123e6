//! The verbs `break-glass` and `attest`, checked by the real RBAC.

use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{
        accounts::{bind, bind_role},
        gate::Gate,
        plane::{ANONYMOUS, MERGE, Plane},
    },
    world::{
        PLACE, REMOVE, TAINT, accepts, attach, dead_node, detach, evidence, is_tainted, now, of_node, plane_with_alice,
        record_on, rejects, said,
    },
};

/// Lets everyone write Nodes, even anonymous requesters. If a write is denied after this, the gate
/// denied it.
async fn let_everyone_write_nodes(plane: &Plane) {
    let rules =
        json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "patch", "update", "delete"]}]);
    bind(plane, "everyone", rules, json!({"kind": "Group", "name": "system:authenticated"})).await;
    bind_role(plane, "everyone", json!({"kind": "Group", "name": "system:unauthenticated"})).await;
}

/// Binds a user to a ClusterRole in one namespace only, as a tenant.
async fn bind_in_namespace(plane: &Plane, role: &str, user: &str) {
    let binding = json!({"metadata": {"generateName": "test-"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "name": user}]});
    plane.create("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await;
}

async fn annotate(plane: &Plane, user: &str, node: &str, annotations: Value) -> Result<Value, String> {
    let patch = json!({"metadata": {"annotations": annotations}});
    let path = format!("/api/v1/nodes/{node}");
    plane.api(user, Method::PATCH, &path, Some(patch)).await.map_err(|error| error.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_glass_belongs_to_whoever_has_its_verb_and_wrote_it() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    let_everyone_write_nodes(&plane).await;
    bind_in_namespace(&plane, "fencegate-break-glass", "tenant").await;
    bind_in_namespace(&plane, "admin", "tenant").await;
    dead_node(&plane, "n1", json!({})).await;
    let taint = |user: &str, change: &str| plane.kubectl(user, &["taint", "node", "n1", change], "");
    let break_glass = async |user: &str, reason: &str| {
        annotate(&plane, user, "n1", json!({"fencegate.dev/break-glass": reason})).await
    };

    // Nobody leaves one for somebody else.
    for user in ["oncall", "tenant", ANONYMOUS] {
        let denied = break_glass(user, "rack burnt down").await.unwrap_err();
        assert!(denied.contains("may not break-glass nodes.fencegate.dev/n1"), "{user}: {denied}");
        assert!(denied.contains("ask for the ClusterRole fencegate-break-glass"), "{user}: {denied}");
    }
    let from_node = annotate(&plane, "node-n1", "n1", evidence()).await.unwrap_err();
    assert!(from_node.contains("SelfAttested"), "{from_node}");

    bind_role(&plane, "fencegate-break-glass", json!({"kind": "Group", "name": "oncall"})).await;
    plane
        .until("RBAC has the new rule", async |plane| {
            // The command that the denial recommends.
            let list = said(&plane.kubectl("oncall", &["auth", "can-i", "--list"], ""));
            list.lines().any(|line| line.contains("nodes.fencegate.dev") && line.contains("[break-glass]"))
        })
        .await;
    break_glass("oncall", "rack burnt down").await.unwrap();
    let record = record_on(&plane, "n1").await;
    assert_eq!((record["break-glass-by"].as_str(), record.len()), ("oncall", 3), "{record:?}");

    // Not even a cluster admin uses it, though they have every right.
    let admins = taint("admin", PLACE);
    assert!(said(&admins).contains("counts only for whoever wrote it"), "{}", said(&admins));
    rejects(admins, &["EvidenceMissing"]);
    let used = taint("oncall", PLACE);
    assert!(
        said(&used).contains("Warning: break-glass used, this is on record: \"rack burnt down\""),
        "{}",
        said(&used)
    );
    accepts(used);
    let record = record_on(&plane, "n1").await;
    let overridden = (record["overridden"].as_str(), record["overridden-by"].as_str(), record["placed-by"].as_str());
    assert_eq!(overridden, ("rack burnt down", "oncall", "oncall"));
    assert!(!record.contains_key("source"), "no source vouched: {record:?}");
    assert!(!record.keys().any(|key| key.starts_with("break-glass")), "nothing is left to be used again: {record:?}");

    // What it was used for stays until the next placement.
    accepts(taint("oncall", REMOVE));
    let record = record_on(&plane, "n1").await;
    let left = ["last-outage", "overridden", "overridden-at", "overridden-by"];
    assert_eq!(record.keys().collect::<Vec<_>>(), left, "{record:?}");
    assert!(record["last-outage"].contains("rack burnt down"), "{record:?}");
    rejects(taint("oncall", PLACE), &["EvidenceMissing"]);

    // Stamps have whole seconds, and only a new time is a new use.
    plane.until("it is another second", async |_| now() != record["overridden-at"]).await;
    // One write may bring it and use it. A deletion cannot bring one, so it counts on the stored.
    let both = json!({"metadata": {"annotations": {"fencegate.dev/break-glass": "again"}},
        "spec": {"taints": [{"key": TAINT, "value": "nodeshutdown", "effect": "NoExecute"}]}});
    plane.patch("oncall", MERGE, "/api/v1/nodes/n1", both).await.unwrap();
    assert_eq!(record_on(&plane, "n1").await["overridden"], "again");
    attach(&plane, "va", "n1").await;
    let delete = |user: &str| plane.kubectl(user, &["delete", "node", "n1"], "");
    rejects(delete("oncall"), &["VolumesAttached"]);
    break_glass("oncall", "the array is gone").await.unwrap();
    rejects(delete("admin"), &["VolumesAttached"]);
    accepts(delete("oncall"));
    detach(&plane, "va").await;

    let lines = gate.audit_log();
    let used: Vec<&Value> = lines.iter().filter(|line| line["breakGlass"] == "rack burnt down").collect();
    assert!(used.iter().any(|line| line["webhook"] == "validate" && line["level"] == "WARN"), "{used:?}");
    assert!(used[0]["reasons"].to_string().contains("waived"), "{used:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_attest_rbac_evidence_and_taint_need_the_verb_attest() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    gate.configure(&plane, "authorization: {attest: rbac}").await;
    let_everyone_write_nodes(&plane).await;
    bind_in_namespace(&plane, "fencegate-attester", "tenant").await;
    dead_node(&plane, "n1", json!({})).await;
    dead_node(&plane, "n2", json!({})).await;
    for user in ["oncall", "tenant", ANONYMOUS] {
        let denied = annotate(&plane, user, "n1", evidence()).await.unwrap_err();
        assert!(denied.contains("NotAuthorized"), "{user}: {denied}");
    }
    let denied = annotate(&plane, "node-n1", "n1", evidence()).await.unwrap_err();
    assert!(denied.contains("SelfAttested") && denied.contains("NotAuthorized"), "{denied}");
    // alice is cluster-admin.
    annotate(&plane, "alice", "n1", evidence()).await.unwrap();
    rejects(plane.kubectl("oncall", &["taint", "node", "n1", PLACE], ""), &["NotAuthorized"]);

    // A role may be limited to one node by its name.
    let rules =
        json!([{"apiGroups": ["fencegate.dev"], "resources": ["nodes"], "resourceNames": ["n1"], "verbs": ["attest"]}]);
    bind(&plane, "attester-of-n1", rules, json!({"kind": "Group", "name": "oncall"})).await;
    plane
        .until("RBAC has the new rule", async |plane| {
            let proof = json!({"fencegate.dev/proof": "seen by oncall"});
            annotate(plane, "oncall", "n1", proof).await.is_ok()
        })
        .await;
    assert_eq!(record_on(&plane, "n1").await["recorded-by"], "oncall");
    accepts(plane.kubectl("oncall", &["taint", "node", "n1", PLACE], ""));
    assert!(annotate(&plane, "oncall", "n2", evidence()).await.unwrap_err().contains("NotAuthorized"));

    // A release needs no verb `attest`, although the gate removes the evidence with it.
    accepts(plane.kubectl("tenant", &["taint", "node", "n1", REMOVE], ""));
    assert!(!is_tainted(&of_node(&plane, "n1").await));
    assert_eq!(record_on(&plane, "n1").await.keys().collect::<Vec<_>>(), ["last-outage"]);
}
