//! `place.maxNodes` and placements at the same time, with two replicas.

use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{
        gate::Gate,
        plane::{ApiError, Plane},
    },
    world::{TAINT, is_tainted, lone_node, of_node, plane_with_alice, said},
};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/fencegate-system/leases";

async fn place(plane: &Plane, node: &str, parameters: &str) -> Result<Value, ApiError> {
    let patch = json!({"spec": {"taints": [{"key": TAINT, "effect": "NoExecute"}]}});
    plane.api("alice", Method::PATCH, &format!("/api/v1/nodes/{node}{parameters}"), Some(patch)).await
}

async fn lease(plane: &Plane) -> Value {
    plane.get(&format!("{LEASES}/fencegate-budget")).await.unwrap_or_default()
}

/// The nodes that are entered in the Lease.
fn entered(lease: &Value) -> Vec<String> {
    let text = lease["metadata"]["annotations"]["fencegate.dev/admitted"].as_str().unwrap();
    serde_json::from_str::<Value>(text).unwrap().as_object().unwrap().keys().cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn placements_that_race_never_pass_max_nodes_together() {
    const MOST: usize = 4;
    let plane = plane_with_alice().await;
    let gate = Gate::guard_with(&plane, 2).await;
    gate.configure(&plane, &format!("place: {{maxNodes: {MOST}}}")).await;
    let names: Vec<String> = (0..20).map(|number| format!("race-{number}")).collect();
    for name in &names {
        lone_node(&plane, name, true).await;
    }
    place(&plane, "race-0", "?dryRun=All").await.unwrap();
    assert!(lease(&plane).await.is_null(), "a dry run writes nothing");

    let answers = join_all(names.iter().map(|name| place(&plane, name, ""))).await;
    let mut out = Vec::new();
    for name in &names {
        out.extend(is_tainted(&of_node(&plane, name).await).then(|| name.clone()));
    }
    out.sort();
    assert_eq!(out.len(), MOST, "{out:?}: {answers:?}");
    assert_eq!(entered(&lease(&plane).await), out);
    for error in answers.into_iter().filter_map(Result::err) {
        assert!(error.code == 403 && error.message.contains("\n  TooManyOutOfService: "), "{error:?}");
    }
    let judged: Vec<Value> = gate.audit_log().into_iter().filter(|line| line["webhook"] == "validate").collect();
    let lost = judged.iter().filter(|line| line["decision"] == "deny").count();
    assert!(lost > 0, "the placements did not race: the mutating webhook denied all that were too many");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_write_the_lease_a_placement_is_denied_and_says_so() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    gate.configure(&plane, "place: {maxNodes: 100%}").await;
    for name in ["first", "second"] {
        lone_node(&plane, name, true).await;
    }
    place(&plane, "first", "").await.unwrap();
    let version = lease(&plane).await["metadata"]["resourceVersion"].clone();
    assert!(version.is_string());

    let binding = "/apis/rbac.authorization.k8s.io/v1/namespaces/fencegate-system/rolebindings/fencegate-budget";
    plane.api("admin", Method::DELETE, binding, None).await.unwrap();
    let may_write = ["auth", "can-i", "update", "leases/fencegate-budget", "--namespace=fencegate-system"];
    plane
        .until("RBAC has lost the rule", async |plane| said(&plane.kubectl("gate", &may_write, "")).starts_with("no"))
        .await;
    let denied = place(&plane, "second", "").await.unwrap_err();
    let reason = "\n  FactsUnavailable: Lease fencegate-budget could not be used: forbidden: ";
    assert!(denied.message.contains(reason) && denied.message.contains("cannot update"), "{denied:?}");
    assert_eq!(lease(&plane).await["metadata"]["resourceVersion"], version);
    assert!(!is_tainted(&of_node(&plane, "second").await));
}
