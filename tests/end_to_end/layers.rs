//! The three layers: the mutating webhook, the ValidatingAdmissionPolicy and the validating
//! webhook. Each of them alone denies every violation that it can see.

use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{
        gate::{Gate, policy_alone},
        plane::{ApiError, MERGE, Plane, STRATEGIC},
    },
    world::{
        PLACE, REMOVE, TAINT, accepts, attach, dead_node, detach, evidence, is_tainted, kubectl, lone_node, of_node,
        plane_with_alice, record_on, rejects, renew, said,
    },
};

const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1";

/// Deletes a webhook configuration, and returns it.
async fn delete_configuration(plane: &Plane, plural: &str) -> Value {
    let path = format!("{CONFIGURATIONS}/{plural}/fencegate");
    let mut configuration = plane.get(&path).await.unwrap();
    plane.api("alice", Method::DELETE, &path, None).await.unwrap();
    let metadata = configuration["metadata"].as_object_mut().unwrap();
    metadata.retain(|field, _| field == "name");
    configuration
}

async fn restore_configuration(plane: &Plane, plural: &str, configuration: Value) {
    plane.create(&format!("{CONFIGURATIONS}/{plural}"), configuration).await;
}

/// Asserts that a placement without evidence is denied, even for system:masters, and returns what
/// kubectl prints.
async fn deny_without_evidence(plane: &Plane, node: &str) -> String {
    lone_node(plane, node, false).await;
    let [one, other] = ["alice", "admin"].map(|user| plane.kubectl(user, &["taint", "node", node, PLACE], ""));
    assert!(!one.status.success() && !other.status.success(), "{}{}", said(&one), said(&other));
    let by_alice = said(&other).replace("fenced-by=admin", "fenced-by=alice");
    assert_eq!(said(&one), by_alice, "the gate denies system:masters, too");
    assert!(said(&one).contains("(Forbidden)"), "{}", said(&one));
    assert!(
        said(&one).contains(&format!("kubectl annotate node {node} fencegate.dev/method=power-off")),
        "{}",
        said(&one)
    );
    assert!(!is_tainted(&of_node(plane, node).await));
    said(&one)
}

/// Asserts that a placement with evidence is allowed, and returns the keys of the record on the
/// Node.
async fn allow_with_evidence(plane: &Plane, node: &str) -> Vec<String> {
    lone_node(plane, node, true).await;
    accepts(kubectl(plane, &["taint", "node", node, PLACE]));
    assert!(is_tainted(&of_node(plane, node).await));
    record_on(plane, node).await.into_keys().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_layer_alone_denies_and_the_webhooks_message_is_shown_if_there_is_one() {
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

    let text = deny_without_evidence(&plane, "all").await;
    assert!(text.contains(OURS) && text.contains("\n  EvidenceMissing: annotations: "), "{text}");
    println!("all three layers:\n{text}");
    assert_eq!(allow_with_evidence(&plane, "all-honest").await, STAMPED);

    let validating = delete_configuration(&plane, VALIDATING).await;
    gate.until_called(&plane, &["mutate"]).await;
    let text = deny_without_evidence(&plane, "no-validating").await;
    assert!(text.contains(OURS), "{text}");
    assert_eq!(allow_with_evidence(&plane, "no-validating-honest").await, STAMPED);

    restore_configuration(&plane, VALIDATING, validating.clone()).await;
    let mutating = delete_configuration(&plane, MUTATING).await;
    gate.until_called(&plane, &["validate"]).await;
    let text = deny_without_evidence(&plane, "no-mutating").await;
    assert!(text.contains(POLICY), "the API server evaluates the policy before it calls a validating webhook: {text}");
    assert_eq!(allow_with_evidence(&plane, "no-mutating-honest").await, BARE);
    // The policy cannot see Leases. The validating webhook can.
    lone_node(&plane, "alive", true).await;
    renew(&plane, "alive", jiff::Timestamp::now()).await;
    rejects(kubectl(&plane, &["taint", "node", "alive", PLACE]), &["LeaseStillRenewed"]);

    delete_configuration(&plane, VALIDATING).await;
    gate.until_called(&plane, &[]).await;
    let text = deny_without_evidence(&plane, "none").await;
    assert!(text.contains(POLICY), "{text}");
    println!("both configurations deleted:\n{text}");
    assert_eq!(allow_with_evidence(&plane, "none-honest").await, BARE);

    restore_configuration(&plane, MUTATING, mutating).await;
    restore_configuration(&plane, VALIDATING, validating).await;
    gate.until_called(&plane, &["mutate", "validate"]).await;
    gate.stop();
    let text = deny_without_evidence(&plane, "stopped").await;
    assert!(text.contains(POLICY), "{text}");
    lone_node(&plane, "never", false).await;
    let closed = kubectl(&plane, &["annotate", "node", "never", "fencegate.dev/proof=x"]);
    assert!(!closed.status.success() && said(&closed).contains("failed calling webhook"), "{}", said(&closed));
}

/// The reason with which the policy denied a write, if it did.
fn denied_by_policy(written: Result<Value, ApiError>) -> Option<String> {
    let error = written.err()?;
    let (_, said) = error.message.split_once("denied request: ").unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!(error.code, 403, "{error:?}");
    Some(said.split(':').next().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_alone_denies_every_violation_that_it_can_see() {
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
        denied_by_policy(plane.patch(user, STRATEGIC, &format!("/api/v1/nodes/{name}"), patch).await)
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
    let created = json!({"metadata": {"name": "new", "annotations": evidence()}, "spec": {"taints": taints}});
    let created = plane.api("admin", Method::POST, "/api/v1/nodes", Some(created)).await;
    assert_eq!(denied_by_policy(created).as_deref(), Some("CreatedOutOfService"));
    // alice is cluster-admin, so she has the verb `break-glass`, too.
    assert_eq!(place("alice", json!({"fencegate.dev/break-glass": "drill"}), "True").await, None);
    assert_eq!(
        place("alice", json!({"fencegate.dev/break-glass": " "}), "True").await.as_deref(),
        Some("NodeStillReady")
    );

    // p1 is out of service, so its record is frozen. No kubelet may write a record.
    let write = async |user: &str, path: &str, annotations: Value| {
        let patch = json!({"metadata": {"annotations": annotations}});
        denied_by_policy(plane.api(user, Method::PATCH, path, Some(patch)).await)
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
    // The policy cannot see pods and volumes, so only the webhooks judge a release.
    accepts(kubectl(&plane, &["taint", "node", "p1", REMOVE]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_on_the_node_describes_the_outage_from_fence_to_release() {
    let plane = plane_with_alice().await;
    let _gate = Gate::guard(&plane).await;
    dead_node(&plane, "n7", json!({})).await;
    let by =
        ["fencegate.dev/method=power-off", "fencegate.dev/fenced-by=alice", "fencegate.dev/proof=Chassis Power is off"];
    let at = "fencegate.dev/fenced-at=now";
    accepts(plane.kubectl("alice", &["annotate", "node", "n7", by[0], by[1], by[2], at], ""));
    let recorded = record_on(&plane, "n7").await;
    assert_eq!((recorded["recorded-by"].as_str(), recorded.len()), ("alice", 7), "{recorded:?}");
    assert_eq!(recorded["boot-id"], "boot-7", "the gate adds the boot that the Node reports: {recorded:?}");
    let fenced_at = recorded["fenced-at"].clone();
    assert_eq!(fenced_at, recorded["recorded-at"], "now is the time of the write: {recorded:?}");
    // The mutating webhook overwrites the times that a writer sends with its own.
    let earlier = (jiff::Timestamp::now() - jiff::SignedDuration::from_mins(3)).strftime("%FT%TZ").to_string();
    let sent = json!({"fencegate.dev/proof": "Chassis Power is off", "fencegate.dev/recorded-at": earlier,
        "fencegate.dev/fenced-by": "alice, OPS-7"});
    plane.patch("alice", MERGE, "/api/v1/nodes/n7", json!({"metadata": {"annotations": sent}})).await.unwrap();
    assert!(record_on(&plane, "n7").await["recorded-at"] >= fenced_at);
    accepts(plane.kubectl("admin", &["taint", "node", "n7", PLACE], ""));
    let placed = record_on(&plane, "n7").await;
    assert_eq!((placed["placed-by"].as_str(), placed["source"].as_str()), ("admin", "annotations"), "{placed:?}");
    let taints = of_node(&plane, "n7").await["spec"]["taints"].clone();
    let as_kubectl_sent_it = json!({"key": TAINT, "value": "nodeshutdown", "effect": "NoExecute"});
    assert!(taints.as_array().unwrap().contains(&as_kubectl_sent_it), "the gate did not change the taint: {taints}");

    // A client writes a stale copy of the Node to nodes/status. This is neither a release nor a
    // placement.
    let mut stale = of_node(&plane, "n7").await;
    stale["spec"]["taints"] = json!([]);
    stale["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    plane.api("admin", Method::PUT, "/api/v1/nodes/n7/status", Some(stale)).await.unwrap();
    assert!(is_tainted(&of_node(&plane, "n7").await));
    assert_eq!(record_on(&plane, "n7").await, placed);

    attach(&plane, "va", "n7").await;
    rejects(kubectl(&plane, &["taint", "node", "n7", REMOVE]), &["VolumesAttached"]);
    assert_eq!(record_on(&plane, "n7").await, placed, "a denied write changes nothing");
    detach(&plane, "va").await;
    accepts(plane.kubectl("alice", &["taint", "node", "n7", REMOVE], ""));
    let mut after = record_on(&plane, "n7").await;
    let outage: Value = serde_json::from_str(&after.remove("last-outage").unwrap()).unwrap();
    assert!(after.is_empty(), "the release removed the rest: {after:?}");
    for (field, value) in [
        ("method", "power-off"),
        ("fencedAt", &fenced_at),
        ("fencedBy", "alice, OPS-7"),
        ("bootId", "boot-7"),
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
