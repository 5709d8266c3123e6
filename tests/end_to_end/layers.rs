//! Three layers, each enough on its own for what it can see: the mutating webhook, the policy, the
//! validating webhook.

use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{
        gate::{Gate, policy_alone},
        plane::{Plane, Refusal, STRATEGIC},
    },
    world::{
        PUT_ON, TAINT, TAKE_OFF, accepts, attach, dead_node, detach, evidence, is_tainted, kubectl, lone_node, of_node,
        plane_with_alice, record_on, rejects, renew_lease, said,
    },
};

const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1";

/// Takes a webhook configuration away, and returns it.
async fn take_away(plane: &Plane, plural: &str) -> Value {
    let path = format!("{CONFIGURATIONS}/{plural}/fencegate");
    let mut configuration = plane.get(&path).await.unwrap();
    plane.api("alice", Method::DELETE, &path, None).await.unwrap();
    let metadata = configuration["metadata"].as_object_mut().unwrap();
    metadata.retain(|field, _| field == "name");
    configuration
}

async fn put_back(plane: &Plane, plural: &str, configuration: Value) {
    plane.create(&format!("{CONFIGURATIONS}/{plural}"), configuration).await;
}

/// What kubectl prints about a placement without evidence, for someone whom RBAC binds and someone
/// whom it does not.
async fn refused(plane: &Plane, node: &str) -> String {
    lone_node(plane, node, false).await;
    let [one, other] = ["alice", "admin"].map(|user| plane.kubectl(user, &["taint", "node", node, PUT_ON], ""));
    assert!(!one.status.success() && !other.status.success(), "{}{}", said(&one), said(&other));
    assert_eq!(said(&one), said(&other), "system:masters are bound like everyone");
    assert!(said(&one).contains("(Forbidden)"), "{}", said(&one));
    assert!(
        said(&one).contains(&format!("kubectl annotate node {node} fencegate.dev/method=power-off")),
        "{}",
        said(&one)
    );
    assert!(!is_tainted(&of_node(plane, node).await));
    said(&one)
}

/// A placement with evidence goes through; the keys of the record on the Node.
async fn honest(plane: &Plane, node: &str) -> Vec<String> {
    lone_node(plane, node, true).await;
    accepts(kubectl(plane, &["taint", "node", node, PUT_ON]));
    assert!(is_tainted(&of_node(plane, node).await));
    record_on(plane, node).await.into_keys().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_three_layers_is_enough_and_ours_is_read_where_it_stands() {
    const MUTATING: &str = "mutatingwebhookconfigurations";
    const VALIDATING: &str = "validatingwebhookconfigurations";
    const BARE: [&str; 3] = ["fenced-at", "fenced-by", "method"];
    const STAMPED: [&str; 8] =
        ["fenced-at", "fenced-by", "method", "placed-at", "placed-by", "recorded-at", "recorded-by", "source"];
    const OURS: &str = "admission webhook \"out-of-service.fencegate.dev\" denied the request: node ";
    const POLICY: &str =
        "ValidatingAdmissionPolicy 'fencegate' with binding 'fencegate' denied request: EvidenceMissing: ";
    let plane = plane_with_alice().await;
    let mut gate = Gate::guard(&plane).await;

    let text = refused(&plane, "all").await;
    assert!(text.contains(OURS) && text.contains("\n  EvidenceMissing: annotations: "), "{text}");
    println!("all three layers:\n{text}");
    assert_eq!(honest(&plane, "all-honest").await, STAMPED);

    let validating = take_away(&plane, VALIDATING).await;
    gate.until_called(&plane, &["mutate"]).await;
    let text = refused(&plane, "no-validating").await;
    assert!(text.contains(OURS), "{text}");
    assert_eq!(honest(&plane, "no-validating-honest").await, STAMPED);

    put_back(&plane, VALIDATING, validating.clone()).await;
    let mutating = take_away(&plane, MUTATING).await;
    gate.until_called(&plane, &["validate"]).await;
    let text = refused(&plane, "no-mutating").await;
    assert!(text.contains(POLICY), "the policy speaks before a validating webhook: {text}");
    assert_eq!(honest(&plane, "no-mutating-honest").await, BARE);
    // What the policy does not see, the validating webhook does.
    lone_node(&plane, "alive", true).await;
    renew_lease(&plane, "alive", jiff::Timestamp::now() + jiff::SignedDuration::from_mins(1)).await;
    rejects(kubectl(&plane, &["taint", "node", "alive", PUT_ON]), &["LeaseStillRenewed"]);

    take_away(&plane, VALIDATING).await;
    gate.until_called(&plane, &[]).await;
    let text = refused(&plane, "none").await;
    assert!(text.contains(POLICY), "{text}");
    println!("both configurations deleted:\n{text}");
    assert_eq!(honest(&plane, "none-honest").await, BARE);

    put_back(&plane, MUTATING, mutating).await;
    put_back(&plane, VALIDATING, validating).await;
    gate.until_called(&plane, &["mutate", "validate"]).await;
    gate.stop();
    let text = refused(&plane, "stopped").await;
    assert!(text.contains(POLICY), "{text}");
    lone_node(&plane, "never", false).await;
    let closed = kubectl(&plane, &["annotate", "node", "never", "fencegate.dev/proof=x"]);
    assert!(!closed.status.success() && said(&closed).contains("failed calling webhook"), "{}", said(&closed));
}

/// What the policy says no with, if it does.
fn said_by_policy(written: Result<Value, Refusal>) -> Option<String> {
    let refusal = written.err()?;
    let (_, said) = refusal.message.split_once("denied request: ").unwrap_or_else(|| panic!("{refusal:?}"));
    assert_eq!(refusal.code, 403, "{refusal:?}");
    Some(said.split(':').next().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_alone_keeps_what_it_can_see() {
    let plane = plane_with_alice().await;
    policy_alone(&plane).await;
    let taints = json!([{"key": TAINT, "effect": "NoExecute"}]);
    let mut number = 0;
    let mut place = async |user: &str, annotations: Value, ready: &str| {
        number += 1;
        let conditions = json!([{"type": "Ready", "status": ready}]);
        let name = format!("p{number}");
        let node = json!({"metadata": {"name": name}, "status": {"conditions": conditions}});
        plane.create("/api/v1/nodes", node).await;
        let patch = json!({"metadata": {"annotations": annotations}, "spec": {"taints": taints}});
        said_by_policy(plane.patch(user, STRATEGIC, &format!("/api/v1/nodes/{name}"), patch).await)
    };
    let with = |key: &str, value: &str| {
        let mut annotations = evidence();
        annotations[format!("fencegate.dev/{key}")] = json!(value);
        annotations
    };
    for (annotations, ready, said) in [
        (evidence(), "Unknown", None),
        (evidence(), "True", Some("NodeStillReady")),
        (json!({}), "False", Some("EvidenceMissing")),
        (
            json!({"fencegate.dev/method": "power-off", "fencegate.dev/fenced-by": "a"}),
            "False",
            Some("EvidenceMissing"),
        ),
        (with("method", "unplugged"), "False", Some("EvidenceMalformed")),
        (with("fenced-at", "yesterday"), "False", Some("EvidenceMalformed")),
        (with("fenced-at", "2026-11-22T10:15:00"), "False", Some("EvidenceMalformed")),
        (with("fenced-at", "2026-11-22T10:15:00.25+01:00"), "False", None),
        (with("fenced-by", " "), "False", Some("EvidenceMalformed")),
        (with("fenced-by", "a\nb"), "False", Some("EvidenceMalformed")),
        (with("fenced-by", "Zo\u{eb} \u{4f50}\u{85e4}, OPS-123"), "False", None),
        (with("fenced-by", &"x".repeat(257)), "False", Some("EvidenceMalformed")),
        (with("boot-id", ""), "False", Some("EvidenceMalformed")),
        (with("proof", ""), "False", None),
        (with("proof", &"x".repeat(1025)), "False", Some("EvidenceMalformed")),
    ] {
        assert_eq!(place("admin", annotations.clone(), ready).await.as_deref(), said, "{annotations} {ready}");
    }
    // alice is cluster-admin, and so may break the glass; the verb is a right like any other.
    assert_eq!(place("alice", json!({"fencegate.dev/break-glass": "drill"}), "True").await, None);
    assert_eq!(
        place("alice", json!({"fencegate.dev/break-glass": " "}), "True").await.as_deref(),
        Some("NodeStillReady")
    );

    // p1 is out of service: its record is frozen, and no node writes one.
    let write = async |user: &str, path: &str, annotations: Value| {
        let patch = json!({"metadata": {"annotations": annotations}});
        said_by_policy(plane.api(user, Method::PATCH, path, Some(patch)).await)
    };
    let p1 = "/api/v1/nodes/p1";
    assert_eq!(write("admin", p1, json!({"fencegate.dev/proof": "late"})).await.as_deref(), Some("EvidenceFrozen"));
    assert_eq!(write("admin", p1, json!({"fencegate.dev/placed-by": "me"})).await.as_deref(), Some("EvidenceFrozen"));
    assert_eq!(write("admin", p1, json!({"example.com/a": "b", "fencegate.dev/break-glass": "why"})).await, None);
    assert_eq!(
        write("admin", &format!("{p1}/status"), json!({"fencegate.dev/method": null})).await,
        None,
        "with break-glass"
    );
    lone_node(&plane, "n1", false).await;
    for path in ["/api/v1/nodes/n1", "/api/v1/nodes/n1/status"] {
        let by_node = write("node-n1", path, json!({"fencegate.dev/method": "power-off"})).await;
        assert_eq!(by_node.as_deref(), Some("SelfAttested"), "{path}");
    }
    assert_eq!(write("node-n1", "/api/v1/nodes/n1", json!({"example.com/a": "b"})).await, None);
    // It cannot see pods and volumes: a release is the validating webhook's to judge.
    accepts(kubectl(&plane, &["taint", "node", "p1", TAKE_OFF]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_on_the_node_tells_the_outage_from_fence_to_release() {
    let plane = plane_with_alice().await;
    let _gate = Gate::guard(&plane).await;
    dead_node(&plane, "n7", json!({})).await;
    let by =
        ["fencegate.dev/method=power-off", "fencegate.dev/fenced-by=alice", "fencegate.dev/proof=Chassis Power is off"];
    let fenced_at = evidence()["fencegate.dev/fenced-at"].as_str().unwrap().to_owned();
    let at = format!("fencegate.dev/fenced-at={fenced_at}");
    accepts(plane.kubectl("alice", &["annotate", "node", "n7", by[0], by[1], by[2], &at], ""));
    let recorded = record_on(&plane, "n7").await;
    assert_eq!((recorded["recorded-by"].as_str(), recorded.len()), ("alice", 6), "{recorded:?}");
    accepts(plane.kubectl("admin", &["taint", "node", "n7", PUT_ON], ""));
    let placed = record_on(&plane, "n7").await;
    assert_eq!((placed["placed-by"].as_str(), placed["source"].as_str()), ("admin", "annotations"), "{placed:?}");
    let taints = of_node(&plane, "n7").await["spec"]["taints"].clone();
    let as_kubectl_sent_it = json!({"key": TAINT, "value": "nodeshutdown", "effect": "NoExecute"});
    assert!(taints.as_array().unwrap().contains(&as_kubectl_sent_it), "no time, nothing added: {taints}");

    // A client's stale copy of the Node, through nodes/status, is neither a release nor a
    // placement.
    let mut stale = of_node(&plane, "n7").await;
    stale["spec"]["taints"] = json!([]);
    stale["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    plane.api("admin", Method::PUT, "/api/v1/nodes/n7/status", Some(stale)).await.unwrap();
    assert!(is_tainted(&of_node(&plane, "n7").await));
    assert_eq!(record_on(&plane, "n7").await, placed);

    attach(&plane, "va", "n7").await;
    rejects(kubectl(&plane, &["taint", "node", "n7", TAKE_OFF]), &["VolumesAttached"]);
    assert_eq!(record_on(&plane, "n7").await, placed, "a denied write leaves no trace");
    detach(&plane, "va").await;
    accepts(plane.kubectl("alice", &["taint", "node", "n7", TAKE_OFF], ""));
    let mut after = record_on(&plane, "n7").await;
    let outage: Value = serde_json::from_str(&after.remove("last-outage").unwrap()).unwrap();
    assert!(after.is_empty(), "all is consumed: {after:?}");
    for (field, value) in [
        ("method", "power-off"),
        ("fencedAt", &fenced_at),
        ("fencedBy", "alice"),
        ("proof", "Chassis Power is off"),
        ("recordedBy", "alice"),
        ("source", "annotations"),
        ("placedBy", "admin"),
        ("releasedBy", "alice"),
    ] {
        assert_eq!(outage[field], value, "{field} of {outage}");
    }
    println!("{outage}");
}
