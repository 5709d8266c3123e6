//! Break-glass and attest are rights of the requester, asked of the real RBAC.

use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{
        accounts::{bind, bind_role},
        gate::Gate,
        plane::{ANONYMOUS, Plane},
    },
    world::{
        PUT_ON, TAINT, TAKE_OFF, accepts, dead_node, evidence, is_tainted, of_node, plane_with_alice, record_on,
        rejects, said,
    },
};

/// Lets everyone, known or not, write Nodes: what is refused after this, the gate refuses.
async fn let_everyone_write_nodes(plane: &Plane) {
    let rules =
        json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "patch", "update", "delete"]}]);
    bind(plane, "everyone", rules, json!({"kind": "Group", "name": "system:authenticated"})).await;
    bind_role(plane, "everyone", json!({"kind": "Group", "name": "system:unauthenticated"})).await;
}

/// A role in one namespace, as a tenant has it.
async fn bind_in_namespace(plane: &Plane, role: &str, user: &str) {
    let binding = json!({"metadata": {"generateName": "test-"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "name": user}]});
    plane.create("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await;
}

async fn annotate(plane: &Plane, user: &str, node: &str, annotations: Value) -> Result<Value, String> {
    let patch = json!({"metadata": {"annotations": annotations}});
    let path = format!("/api/v1/nodes/{node}");
    plane.api(user, Method::PATCH, &path, Some(patch)).await.map_err(|refusal| refusal.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn break_glass_is_a_right_and_each_reason_works_once() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    let_everyone_write_nodes(&plane).await;
    bind_in_namespace(&plane, "fencegate-break-glass", "tenant").await;
    bind_in_namespace(&plane, "admin", "tenant").await;
    dead_node(&plane, "n1", json!({})).await;
    let taint = |user: &str, change: &str| plane.kubectl(user, &["taint", "node", "n1", change], "");

    annotate(&plane, "oncall", "n1", json!({"fencegate.dev/break-glass": "rack burnt down"})).await.unwrap();
    for user in ["oncall", "tenant"] {
        let output = taint(user, PUT_ON);
        assert!(said(&output).contains("ask to be bound to ClusterRole fencegate-break-glass"), "{}", said(&output));
        rejects(output, &["EvidenceMissing", "NotAuthorized"]);
    }
    let patch = json!({"spec": {"taints": [{"key": TAINT, "effect": "NoExecute"}]}});
    let anonymous = plane.api(ANONYMOUS, Method::PATCH, "/api/v1/nodes/n1", Some(patch)).await.unwrap_err();
    assert!(
        anonymous.message.contains("\"system:anonymous\" may not break-glass nodes.fencegate.dev/n1"),
        "{anonymous:?}"
    );
    let from_node = annotate(&plane, "node-n1", "n1", evidence()).await.unwrap_err();
    assert!(from_node.contains("SelfAttested"), "{from_node}");

    bind_role(&plane, "fencegate-break-glass", json!({"kind": "Group", "name": "oncall"})).await;
    plane
        .until("the right is known", async |plane| {
            // What the denial says to type.
            let list = said(&plane.kubectl("oncall", &["auth", "can-i", "--list"], ""));
            list.lines().any(|line| line.contains("nodes.fencegate.dev") && line.contains("[break-glass]"))
        })
        .await;
    let used = taint("oncall", PUT_ON);
    assert!(
        said(&used).contains("Warning: break-glass used, this is on record: \"rack burnt down\""),
        "{}",
        said(&used)
    );
    accepts(used);
    let record = record_on(&plane, "n1").await;
    assert_eq!((record["overridden"].as_str(), record["placed-by"].as_str()), ("rack burnt down", "oncall"));
    assert!(!record.contains_key("source"), "nobody vouched: {record:?}");

    // A release that needs no break-glass consumes it, and the record of the outage keeps it.
    accepts(taint("oncall", TAKE_OFF));
    let record = record_on(&plane, "n1").await;
    assert_eq!(record.keys().collect::<Vec<_>>(), ["last-outage"], "{record:?}");
    assert!(record["last-outage"].contains("rack burnt down"), "{record:?}");

    // A reason that is spent is not good again while its mark is there, and the mark stays while
    // the reason does.
    annotate(&plane, "oncall", "n1", json!({"fencegate.dev/break-glass": "again"})).await.unwrap();
    accepts(taint("oncall", PUT_ON));
    let spent = annotate(&plane, "oncall", "n1", json!({"fencegate.dev/overridden": null})).await.unwrap_err();
    assert!(spent.contains("EvidenceFrozen"), "{spent}");
    let frozen = annotate(&plane, "oncall", "n1", evidence()).await.unwrap_err();
    assert!(frozen.contains("EvidenceFrozen") && frozen.contains("this break-glass was used before"), "{frozen}");

    let lines = gate.record();
    let used: Vec<&Value> = lines.iter().filter(|line| line["breakGlass"] == "rack burnt down").collect();
    assert!(used.iter().any(|line| line["webhook"] == "validate" && line["level"] == "WARN"), "{used:?}");
    assert!(used[0]["reasons"].to_string().contains("waived"), "{used:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_attest_by_rbac_evidence_and_taint_are_for_attesters() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    gate.take_rules(&plane, "authorization: {attest: rbac}").await;
    let_everyone_write_nodes(&plane).await;
    bind_in_namespace(&plane, "fencegate-attester", "tenant").await;
    dead_node(&plane, "n1", json!({})).await;
    dead_node(&plane, "n2", json!({})).await;
    for user in ["oncall", "tenant", ANONYMOUS] {
        let refused = annotate(&plane, user, "n1", evidence()).await.unwrap_err();
        assert!(refused.contains("NotAuthorized"), "{user}: {refused}");
    }
    let refused = annotate(&plane, "node-n1", "n1", evidence()).await.unwrap_err();
    assert!(refused.contains("SelfAttested") && refused.contains("NotAuthorized"), "{refused}");
    // alice is cluster-admin.
    annotate(&plane, "alice", "n1", evidence()).await.unwrap();
    rejects(plane.kubectl("oncall", &["taint", "node", "n1", PUT_ON], ""), &["NotAuthorized"]);

    // One node of one name is enough for a role.
    let rules =
        json!([{"apiGroups": ["fencegate.dev"], "resources": ["nodes"], "resourceNames": ["n1"], "verbs": ["attest"]}]);
    bind(&plane, "attester-of-n1", rules, json!({"kind": "Group", "name": "oncall"})).await;
    plane
        .until("the right is known", async |plane| {
            let proof = json!({"fencegate.dev/proof": "seen by oncall"});
            annotate(plane, "oncall", "n1", proof).await.is_ok()
        })
        .await;
    assert_eq!(record_on(&plane, "n1").await["recorded-by"], "oncall");
    accepts(plane.kubectl("oncall", &["taint", "node", "n1", PUT_ON], ""));
    assert!(annotate(&plane, "oncall", "n2", evidence()).await.unwrap_err().contains("NotAuthorized"));

    // To release is no attestation, though the gate clears the record with it.
    accepts(plane.kubectl("tenant", &["taint", "node", "n1", TAKE_OFF], ""));
    assert!(!is_tainted(&of_node(&plane, "n1").await));
    assert_eq!(record_on(&plane, "n1").await.keys().collect::<Vec<_>>(), ["last-outage"]);
}
