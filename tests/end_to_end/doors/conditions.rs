//! The match conditions of the other doors: what they send to the gate, and that they can be
//! evaluated for every shape of an object. Nothing answers here, so a write that is sent fails.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{
    gate::{apply, is_webhook, rendered},
    plane::{ApiError, MERGE, Plane},
};

/// Only the other doors are registered.
async fn registered() -> Plane {
    let plane = Plane::without_controllers().await;
    let mut objects = rendered(&plane, "doors");
    objects.retain(|object| is_webhook(object) && object["kind"] == "ValidatingWebhookConfiguration");
    for entry in objects[0]["webhooks"].as_array_mut().unwrap() {
        entry["clientConfig"] = json!({"url": "https://localhost:1/"});
    }
    objects[0]["webhooks"].as_array_mut().unwrap().remove(0);
    apply(&plane, &objects);
    node(&plane, "probe", json!({})).await;
    let is_sent = async |plane: &Plane| sent(delete(plane, "/api/v1/nodes/probe?dryRun=All", json!({})).await);
    plane.until("the doors are registered", is_sent).await;
    plane
}

/// Whether the API server called the gate for a write. Every other write must succeed.
#[track_caller]
fn sent(written: Result<Value, ApiError>) -> bool {
    match written {
        Ok(_) => false,
        Err(error) if error.message.contains("failed calling webhook") => true,
        Err(error) => panic!("{error:?}"),
    }
}

async fn delete(plane: &Plane, path: &str, options: Value) -> Result<Value, ApiError> {
    plane.api("admin", Method::DELETE, path, Some(options)).await
}

fn named(name: &str, more: Value) -> Value {
    let mut object = json!({"metadata": {"name": name}});
    json_patch::merge(&mut object, &more);
    object
}

async fn node(plane: &Plane, name: &str, more: Value) {
    plane.create("/api/v1/nodes", named(name, more)).await;
}

/// Creates a pod on a node with more of this, and what its status becomes.
async fn pod(plane: &Plane, name: &str, more: Value) {
    let container = json!({"name": "c", "image": "i"});
    let spec = json!({"spec": {"nodeName": "n1", "automountServiceAccountToken": false, "containers": [container]}});
    let mut object = named(name, spec);
    json_patch::merge(&mut object, &more);
    plane.create("/api/v1/namespaces/default/pods", object.clone()).await;
    if object["status"].is_object() {
        let path = format!("/api/v1/namespaces/default/pods/{name}/status");
        let status = json!({"status": object["status"]});
        plane.patch("admin", MERGE, &path, status).await.unwrap();
    }
}

fn at(seconds: i64) -> Value {
    json!({"gracePeriodSeconds": seconds})
}

fn claim() -> Value {
    json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}})
}

fn controller(group_version: &str, kind: &str) -> Value {
    let owner = json!({"apiVersion": group_version, "kind": kind, "name": "o", "uid": "u", "controller": true});
    json!({"metadata": {"ownerReferences": [owner]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_deletion_of_a_node_without_the_taint_is_sent() {
    let plane = registered().await;
    let taint = json!({"spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]}});
    let other = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    let finalizer = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    let nothing = json!({"spec": null, "metadata": {"annotations": null, "finalizers": null, "labels": null}});
    let shapes = [("bare", json!({})), ("null", nothing), ("empty", json!({"spec": {"taints": []}})), ("other", other)];
    for (name, shape) in &shapes {
        node(&plane, name, shape.clone()).await;
        for (_, change) in &shapes {
            for path in [format!("/api/v1/nodes/{name}"), format!("/api/v1/nodes/{name}/status")] {
                let written = plane.api("admin", Method::PATCH, &path, Some(change.clone())).await;
                assert!(!sent(written), "{path}: {change}");
            }
        }
        assert!(sent(delete(&plane, &format!("/api/v1/nodes/{name}"), json!({})).await), "{name}");
    }
    node(&plane, "out", taint.clone()).await;
    assert!(!sent(delete(&plane, "/api/v1/nodes/out", json!({})).await), "the taint's own entry is called");
    // While there are finalizers, nothing is gone. The last one is what counts.
    for (name, more, is_sent) in [("held", json!({}), true), ("held-out", taint, false)] {
        node(&plane, name, more).await;
        let path = format!("/api/v1/nodes/{name}");
        let patch = async |change: &Value| plane.api("admin", Method::PATCH, &path, Some(change.clone())).await;
        let free = json!({"metadata": {"finalizers": null}});
        assert!(!sent(patch(&finalizer).await) && !sent(patch(&free).await) && !sent(patch(&finalizer).await));
        assert!(!sent(delete(&plane, &path, json!({})).await));
        assert!(!sent(patch(&json!({"metadata": {"labels": {"a": "b"}}})).await));
        assert_eq!(sent(patch(&free).await), is_sent, "{name}");
    }
    let through_status = json!({"metadata": {"finalizers": null}});
    let written = plane.api("admin", Method::PATCH, "/api/v1/nodes/held/status", Some(through_status)).await;
    assert!(sent(written), "nodes/status takes finalizers as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pods_that_may_hold_the_taint_and_go_at_once_are_sent() {
    let plane = registered().await;
    plane.create("/api/v1/namespaces/default/serviceaccounts", named("default", json!({}))).await;
    let mut unbound = claim();
    unbound["spec"]["nodeName"] = Value::Null;
    let mut patient = claim();
    patient["spec"]["terminationGracePeriodSeconds"] = json!(0);
    let ephemeral = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let ephemeral = json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": ephemeral}}});
    let finished = |phase: &str| {
        let mut pod = claim();
        pod["status"] = json!({"phase": phase});
        pod
    };
    let label = json!({"metadata": {"labels": {"statefulset.kubernetes.io/pod-name": ""}}});
    let mut owner = controller("apps/v1", "StatefulSet");
    owner["metadata"]["ownerReferences"][0]["controller"] = json!(false);
    let none = json!({});
    // The pod, the options of its deletion, and whether it is sent.
    let cases = [
        ("bare", json!({}), at(0), false),
        (
            "null",
            json!({"metadata": {"labels": null, "ownerReferences": null}, "spec": {"volumes": null}}),
            at(0),
            false,
        ),
        ("other-volume", json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}), at(0), false),
        ("replica-set", controller("apps/v1", "ReplicaSet"), at(0), false),
        ("other-group", controller("apps.example.com/v1", "StatefulSet"), at(0), false),
        ("core", controller("v1", "StatefulSet"), at(0), false),
        ("no-controller", owner, at(0), false),
        ("claim", claim(), at(0), true),
        ("ephemeral", json!({"spec": {"volumes": [ephemeral]}}), at(0), true),
        ("label", label, at(0), true),
        ("controller", controller("apps/v1", "StatefulSet"), at(0), true),
        ("other-version", controller("apps/v1beta1", "StatefulSet"), at(0), true),
        ("succeeded", finished("Succeeded"), at(0), false),
        ("failed", finished("Failed"), at(0), false),
        ("running", finished("Running"), at(0), true),
        ("unbound", unbound, at(0), false),
        ("one-second", claim(), at(1), false),
        ("by-default", claim(), none.clone(), false),
        ("at-once", patient.clone(), none.clone(), true),
        ("not-at-once", patient, at(5), false),
    ];
    for (name, shape, options, is_sent) in cases {
        pod(&plane, name, shape).await;
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        assert_eq!(sent(delete(&plane, &path, options.clone()).await), is_sent, "{name}");
        // The options may be in the query, too.
        if let Some(seconds) = options["gracePeriodSeconds"].as_i64().filter(|_| is_sent) {
            let path = format!("{path}?gracePeriodSeconds={seconds}");
            assert!(sent(plane.api("admin", Method::DELETE, &path, None).await), "{name}, by the query");
        }
    }
    // A pod that is on its way, and is to go at once now.
    let path = "/api/v1/namespaces/default/pods/by-default";
    assert!(!sent(delete(&plane, path, none.clone()).await), "again");
    assert!(sent(delete(&plane, path, at(0)).await), "the wait is given up");
    assert!(sent(delete(&plane, "/api/v1/namespaces/default/pods?gracePeriodSeconds=0", none).await), "a collection");
}

#[tokio::test(flavor = "multi_thread")]
async fn evictions_at_once_are_sent_and_neither_kubelets_nor_the_garbage_collector_are() {
    let plane = registered().await;
    plane.create("/api/v1/namespaces/default/serviceaccounts", named("default", json!({}))).await;
    for (name, options, is_sent) in
        [("e0", at(0), true), ("e1", at(1), false), ("e2", json!({}), false), ("e3", Value::Null, false)]
    {
        pod(&plane, name, claim()).await;
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": name, "namespace": "default"}, "deleteOptions": options});
        let path = format!("/api/v1/namespaces/default/pods/{name}/eviction");
        assert_eq!(sent(plane.api("admin", Method::POST, &path, Some(eviction)).await), is_sent, "{name}");
    }
    for (number, (user, groups, is_sent)) in [
        ("system:node:n1", &["system:nodes"][..], false),
        ("system:serviceaccount:kube-system:pod-garbage-collector", &[], false),
        ("system:kube-controller-manager", &[], false),
        ("system:serviceaccount:kube-system:node-controller", &[], true),
        ("system:node:n1", &[], true),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("p{number}");
        pod(&plane, &name, claim()).await;
        let groups = groups.iter().chain(&["system:masters"]).map(|group| format!("--as-group={group}"));
        let (user, name) = (format!("--as={user}"), name.as_str());
        let flags: Vec<String> = groups.chain([user.clone()]).collect();
        let mut arguments = vec!["delete", "pod", name, "--grace-period=0", "--force", "--wait=false"];
        arguments.extend(flags.iter().map(String::as_str));
        let output = plane.kubectl("admin", &arguments, "");
        assert_eq!(!output.status.success(), is_sent, "{user}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_attachment_is_sent_if_it_is_deleted_by_hand_or_loses_its_last_finalizer_while_attached() {
    const GROUP: &str = "/apis/storage.k8s.io/v1/volumeattachments";
    let plane = registered().await;
    let spec = json!({"attacher": "d", "nodeName": "n1", "source": {"persistentVolumeName": "pv"}});
    let finalizers = json!(["example.com/hold"]);
    for (name, finalizers, attached, is_sent) in [
        ("plain", Value::Null, None, false),
        ("held", finalizers.clone(), None, false),
        ("detached", finalizers.clone(), Some(false), false),
        ("attached", finalizers, Some(true), true),
    ] {
        plane.create(GROUP, json!({"metadata": {"name": name, "finalizers": finalizers}, "spec": spec})).await;
        let path = format!("{GROUP}/{name}");
        if let Some(attached) = attached {
            let status = json!({"status": {"attached": attached}});
            plane.patch("admin", MERGE, &format!("{path}/status"), status).await.unwrap();
        }
        let patch = async |path: &str, change: Value| plane.patch("admin", MERGE, path, change).await;
        assert!(!sent(patch(&path, json!({"metadata": {"labels": {"a": "b"}}})).await));
        // The status does not take finalizers.
        let free = json!({"metadata": {"finalizers": null}});
        assert!(!sent(patch(&format!("{path}/status"), free.clone()).await));
        assert_eq!(sent(patch(&path, free).await), is_sent, "{name}");
        assert!(sent(delete(&plane, &path, json!({})).await), "{name}");
        let controller = "--as=system:serviceaccount:kube-system:attachdetach-controller";
        let arguments = ["delete", "volumeattachment", name, "--wait=false", controller, "--as-group=system:masters"];
        assert!(plane.kubectl("admin", &arguments, "").status.success(), "{name}");
    }
    // The attacher removes the finalizer of what is being deleted before it reports it as detached.
    let free = ["patch", "volumeattachment", "attached", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#];
    let by_person = plane.kubectl("admin", &free, "");
    assert!(String::from_utf8_lossy(&by_person.stderr).contains("failed calling webhook"), "{by_person:?}");
    let attacher = ["--as=system:serviceaccount:csi:attacher", "--as-group=system:masters"];
    assert!(plane.kubectl("admin", &[&free[..], &attacher].concat(), "").status.success());
}

/// As many owners and volumes as the API server stores: whoever writes a pod delays no deletion of
/// it, and makes none fail.
#[tokio::test(flavor = "multi_thread")]
async fn the_fullest_pod_can_be_judged() {
    let plane = registered().await;
    plane.create("/api/v1/namespaces/default/serviceaccounts", named("default", json!({}))).await;
    let owner = |n: usize| json!({"apiVersion": "a/b", "kind": "c", "name": "d", "uid": n.to_string()});
    let owners: Vec<Value> = (0..40_000).map(owner).collect();
    let volumes: Vec<Value> = (0..10_000).map(|n| json!({"name": format!("v{n}"), "emptyDir": {}})).collect();
    let full = |volumes: &[Value]| json!({"metadata": {"ownerReferences": owners}, "spec": {"volumes": volumes}});
    pod(&plane, "full", full(&volumes)).await;
    let mut guarded = volumes.clone();
    guarded.push(claim()["spec"]["volumes"][0].clone());
    pod(&plane, "guarded", full(&guarded)).await;
    let path = |name: &str| format!("/api/v1/namespaces/default/pods/{name}");
    assert!(sent(delete(&plane, &path("guarded"), at(0)).await));
    let began = std::time::Instant::now();
    assert!(!sent(delete(&plane, &path("full"), at(0)).await));
    println!("the fullest pod was deleted in {:?}", began.elapsed());
}
