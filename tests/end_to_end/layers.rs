//! The three layers: the mutating webhook, the ValidatingAdmissionPolicy and the validating
//! webhook. Each of them alone denies every violation that it can see.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{
        gate::Gate,
        plane::{MERGE, Plane},
    },
    operators::fencegate,
    schema,
    world::{
        PLACE, REMOVE, TAINT, accepts, attach, dead_node, detach, is_tainted, kubectl, lone_node, of_node,
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
    lone_node(&plane, "stopped", true).await;
    gate.stop();
    for guarded in [["taint", "node", "stopped", PLACE], ["annotate", "node", "stopped", "fencegate.dev/proof=x"]] {
        let closed = kubectl(&plane, &guarded);
        assert!(!closed.status.success() && said(&closed).contains("failed calling webhook"), "{}", said(&closed));
    }
}

/// The lines of `fencegate check`: how each check ended, and what it found.
#[track_caller]
fn checked(plane: &Plane, user: &str, code: i32) -> BTreeMap<String, (String, String)> {
    let output = fencegate(plane, user, "check", &["-o", "json"]);
    assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema::accepts(&schema::published("check"), &list), "{list:#}");
    let lines = list["items"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    lines.iter().map(|line| (text(&line["check"]), (text(&line["result"]), text(&line["text"])))).collect()
}

/// Asserts which check failed, and that all others passed.
#[track_caller]
fn only_fails(lines: &BTreeMap<String, (String, String)>, check: &str, why: &str) {
    let failed: Vec<&String> =
        lines.iter().filter(|(_, (result, _))| result == "failed").map(|(check, _)| check).collect();
    assert_eq!(failed, [check], "{lines:#?}");
    assert!(lines[check].1.contains(why), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_which_layer_is_missing() {
    const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
    let plane = plane_with_alice().await;
    let mut gate = Gate::guard(&plane).await;
    let endpoint =
        |address: &str, node: &str| json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}});
    let slice = json!({
        "metadata": {"name": "fencegate-1", "labels": {"kubernetes.io/service-name": "fencegate"}},
        "addressType": "IPv4",
        "endpoints": [endpoint("10.0.0.1", "a"), endpoint("10.0.0.2", "b")],
        "ports": [{"name": "webhook", "port": 8443}],
    });
    let slices = "/apis/discovery.k8s.io/v1/namespaces/fencegate-system/endpointslices";
    plane.create(slices, slice).await;

    let all = checked(&plane, "admin", 0);
    assert!(all.values().all(|(result, _)| result == "passed" || result == "note"), "{all:#?}");
    assert_eq!(all["denial"].1, "a Node that is created with the taint is denied by the webhook");
    assert_eq!(all["replicas"].1, "2 are ready, on 2 nodes");
    let stored = plane.get("/api/v1/nodes").await.unwrap();
    assert_eq!(stored["items"], json!([]), "the check stores nothing");

    for (plural, check) in [
        ("validatingwebhookconfigurations", "validating webhook"),
        ("mutatingwebhookconfigurations", "mutating webhook"),
    ] {
        let configuration = delete_configuration(&plane, plural).await;
        only_fails(&checked(&plane, "admin", 1), check, "is not registered");
        restore_configuration(&plane, plural, configuration).await;
    }
    let binding = format!("{POLICIES}/fencegate");
    let bound = plane.get(&binding).await.unwrap();
    let only_warns = json!({"spec": {"validationActions": ["Warn", "Audit"]}});
    plane.patch("admin", MERGE, &binding, only_warns).await.unwrap();
    only_fails(&checked(&plane, "admin", 1), "policy", "denies nothing (validationActions: Warn, Audit)");
    plane.api("admin", Method::DELETE, &binding, None).await.unwrap();
    only_fails(&checked(&plane, "admin", 1), "policy", "has no binding");
    plane.create(POLICIES, json!({"metadata": {"name": "fencegate"}, "spec": bound["spec"]})).await;

    // Whoever lacks the rights to look is told so: nothing passes unseen.
    let stranger = checked(&plane, "tenant", 1);
    assert_eq!(stranger["validating webhook"].0, "unknown", "{stranger:#?}");
    assert!(stranger["denial"].1.starts_with("not tried, for want of a right: "), "{stranger:#?}");
    assert!(stranger["right to read"].1.contains("list nodes"), "{stranger:#?}");

    gate.stop();
    only_fails(&checked(&plane, "admin", 1), "denial", "failed calling webhook");
    let nowhere = fencegate(&plane, "admin", "check", &["--context", "nowhere"]);
    assert_eq!(nowhere.status.code(), Some(2), "{}", said(&nowhere));
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
