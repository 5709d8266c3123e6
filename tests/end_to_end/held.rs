//! What holds the taint, with the pods of operators, what a StatefulSet leaves behind, finished
//! Jobs, nodes that came back, and machines that were only isolated.

use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{
        gate::Gate,
        kinds::{STRIMZI_POD_SET, VIRTUAL_MACHINE_INSTANCE},
        plane::{MERGE, Plane},
    },
    world::{
        PLACE, REMOVE, TAINT, World, accepts, claim, is_tainted, kubectl, of_node, record_on, rejects, said,
        until_silent, volume,
    },
};

const PODS: &str = "/api/v1/namespaces/default/pods";
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";

/// Creates a pod on the node with its own claim, `data-<name>`, and waits until it runs.
async fn pod_with_claim(world: &World, name: &str, owner: Value, more: Value) {
    let (plane, of_pod) = (&world.plane, format!("data-{name}"));
    volume(plane, &of_pod).await;
    plane.create("/api/v1/namespaces/default/persistentvolumeclaims", claim(&of_pod)).await;
    let mut pod = json!({
        "metadata": {"name": name, "ownerReferences": owner},
        "spec": {
            "nodeName": world.node,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": of_pod}}],
        },
    });
    json_patch::merge(&mut pod, &more);
    plane.create(PODS, pod).await;
    until_phase(plane, name, "Running").await;
}

async fn until_phase(plane: &Plane, pod: &str, phase: &str) {
    let has_phase =
        async |plane: &Plane| plane.get(&format!("{PODS}/{pod}")).await.unwrap()["status"]["phase"] == phase;
    plane.until(&format!("{pod} is {phase}"), has_phase).await;
}

/// A Job whose pod tolerates every taint, mounts the database's claim, and has succeeded. Returns
/// the pod's name.
async fn finished_job(world: &World) -> String {
    let plane = &world.plane;
    let pod = json!({
        "nodeName": world.node,
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}],
    });
    let job = json!({"metadata": {"name": "backup"}, "spec": {"template": {"spec": pod}}});
    plane.create("/apis/batch/v1/namespaces/default/jobs", job).await;
    let of_job = format!("{PODS}?labelSelector=job-name%3Dbackup");
    let first = async |plane: &Plane| plane.get(&of_job).await.unwrap()["items"][0].clone();
    plane.until("the Job's pod runs", async |plane| first(plane).await["status"]["phase"] == "Running").await;
    let name = first(plane).await["metadata"]["name"].as_str().unwrap().to_owned();
    // A late write of the machine's may say that it runs.
    plane
        .until("the Job is complete", async |plane| {
            finish(plane, &name).await;
            let job = plane.get("/apis/batch/v1/namespaces/default/jobs/backup").await.unwrap();
            job["status"]["succeeded"] == 1
        })
        .await;
    name
}

async fn finish(plane: &Plane, pod: &str) {
    let succeeded = Some(json!({"status": {"phase": "Succeeded"}}));
    plane.api("admin", Method::PATCH, &format!("{PODS}/{pod}/status"), succeeded).await.unwrap();
}

/// Waits until pod GC has just passed: it comes every 20 s. It marks a terminating pod that is on
/// no node as failed.
async fn until_pod_gc_has_passed(plane: &Plane) {
    let beat = json!({"metadata": {"name": "beat", "finalizers": ["example.com/beat"]},
        "spec": {"schedulerName": "nobody", "containers": [{"name": "c", "image": "i"}]}});
    plane.create(PODS, beat).await;
    plane.api("admin", Method::DELETE, &format!("{PODS}/beat"), None).await.unwrap();
    until_phase(plane, "beat", "Failed").await;
    let no_finalizers = json!({"metadata": {"finalizers": null}});
    plane.patch("admin", MERGE, &format!("{PODS}/beat"), no_finalizers).await.unwrap();
}

/// Waits until the machine's kubelet has been silent for long enough, and records the fence.
async fn record_fence(world: &World, method: &str) {
    let (plane, node) = (&world.plane, world.node.as_str());
    world.until_ready(false).await;
    until_silent(plane, node).await;
    let method = format!("fencegate.dev/method={method}");
    let rest = ["fencegate.dev/fenced-at=now", "fencegate.dev/fenced-by=alice"];
    accepts(kubectl(plane, &["annotate", "node", node, &method, rest[0], rest[1]]));
    // Nobody has to look up which boot was fenced.
    let boot = of_node(plane, node).await["status"]["nodeInfo"]["bootID"].as_str().unwrap().to_owned();
    assert_eq!(record_on(plane, node).await["boot-id"], boot);
}

/// The attachment of this claim's volume.
async fn attachment_of(plane: &Plane, claim: &str) -> Option<Value> {
    let list = plane.get(ATTACHMENTS).await.unwrap();
    let of_claim = |attachment: &&Value| attachment["spec"]["source"]["persistentVolumeName"] == format!("pv-{claim}");
    list["items"].as_array().unwrap().iter().find(of_claim).cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_operators_and_orphans_hold_the_taint_and_a_finished_job_excuses_nothing() {
    let world = World::start().await;
    let _gate = Gate::guard(&world.plane).await;
    let (plane, node) = (&world.plane, world.node.as_str());
    let untaint = || kubectl(plane, &["taint", "node", node, REMOVE]);
    for (kind, owner, pod) in
        [(&STRIMZI_POD_SET, "kafka", "kafka-0"), (&VIRTUAL_MACHINE_INSTANCE, "vm-1", "virt-launcher-vm-1")]
    {
        kind.install(plane).await;
        kind.create(plane, "default", json!({"metadata": {"name": owner}})).await;
        let controller = kind.controller(plane, "default", owner).await;
        pod_with_claim(&world, pod, json!([controller]), json!({})).await;
    }
    let backup = finished_job(&world).await;
    accepts(kubectl(plane, &["delete", "statefulset", "db", "--cascade=orphan"]));

    world.machine().power_off();
    record_fence(&world, "power-off").await;
    // The machine is off: from now on, nobody says that the finished pod runs.
    finish(plane, &backup).await;
    // What the API server keeps until somebody looks after the driver.
    let attachment = attachment_of(plane, "data-db-0").await.unwrap();
    let path = format!("{ATTACHMENTS}/{}", attachment["metadata"]["name"].as_str().unwrap());
    let mut finalizers = attachment["metadata"]["finalizers"].as_array().unwrap().clone();
    finalizers.push(json!("example.com/hold"));
    plane.patch("admin", MERGE, &path, json!({"metadata": {"finalizers": finalizers}})).await.unwrap();
    until_pod_gc_has_passed(plane).await;
    accepts(kubectl(plane, &["taint", "node", node, PLACE]));

    let displaced = ["db-0", "kafka-0", "virt-launcher-vm-1"];
    for pod in displaced {
        let is_terminating = async |plane: &Plane| {
            !plane.get(&format!("{PODS}/{pod}")).await.unwrap()["metadata"]["deletionTimestamp"].is_null()
        };
        plane.until(&format!("{pod} is terminating"), is_terminating).await;
    }
    let refused = untaint();
    for pod in displaced {
        assert!(said(&refused).contains(&format!("default/{pod} (terminating")), "{}", said(&refused));
    }
    rejects(refused, &["PodsRemain", "VolumesAttached"]);

    let is_gone = async |plane: &Plane, pod: &str| plane.get(&format!("{PODS}/{pod}")).await.is_err();
    for pod in displaced {
        plane.until(&format!("{pod} is gone"), async |plane| is_gone(plane, pod).await).await;
    }
    plane.until("two volumes are detached", async |_| world.attachments().await == 1).await;
    plane
        .until("the third waits", async |plane| {
            let attachment = attachment_of(plane, "data-db-0").await.unwrap();
            attachment["metadata"]["finalizers"] == json!(["example.com/hold"])
        })
        .await;
    let refused = untaint();
    let told = said(&refused);
    rejects(refused, &["VolumesAttached"]);
    assert!(
        !told.contains("PodsRemain") && told.contains("default/data-db-0 (PersistentVolume pv-data-db-0, "),
        "{told}"
    );
    assert!(told.contains("waits for finalizer example.com/hold"), "{told}");
    plane.patch("admin", MERGE, &path, json!({"metadata": {"finalizers": null}})).await.unwrap();
    accepts(untaint());
    assert!(!is_tainted(&of_node(plane, node).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_was_not_evicted_stays_and_an_isolated_machine_must_reboot() {
    let world = World::start().await;
    let _gate = Gate::guard(&world.plane).await;
    let (plane, node) = (&world.plane, world.node.as_str());
    let untaint = || kubectl(plane, &["taint", "node", node, REMOVE]);
    // It outlives every outage of its node.
    let unreachable = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists"},
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]);
    pod_with_claim(&world, "home-0", Value::Null, json!({"spec": {"tolerations": unreachable}})).await;
    accepts(kubectl(plane, &["delete", "statefulset", "db"]));
    plane.until("the database is gone", async |_| world.attachments().await == 1).await;

    // NoSchedule alone, and the machine comes back.
    world.machine().power_off();
    record_fence(&world, "power-off").await;
    accepts(kubectl(plane, &["taint", "node", node, &format!("{TAINT}=nodeshutdown:NoSchedule")]));
    let refused = untaint();
    assert!(said(&refused).contains("default/home-0 (NoSchedule alone does not evict it)"), "{}", said(&refused));
    rejects(refused, &["PodsRemain", "VolumesAttached"]);
    let amend = ["taint", "node", node, &format!("{TAINT}=other:NoSchedule"), "--overwrite"];
    rejects(kubectl(plane, &amend), &["PodsRemain", "VolumesAttached"]);
    world.machine().boot();
    world.until_ready(true).await;
    rejects(kubectl(plane, &["delete", "node", node]), &["PodsRemain", "VolumesAttached"]);
    let released = untaint();
    let warning = "Warning: stays on the node (NoSchedule evicted nothing): default/home-0";
    assert!(said(&released).contains(warning), "{}", said(&released));
    accepts(released);
    assert_eq!(world.attachments().await, 1, "the pod keeps its volume");

    // Cut off from its storage, it comes back in the same boot.
    let boot = async || of_node(plane, node).await["status"]["nodeInfo"]["bootID"].clone();
    world.machine().cut_off();
    record_fence(&world, "storage-isolation").await;
    let isolated = boot().await;
    accepts(kubectl(plane, &["taint", "node", node, PLACE]));
    plane.until("nothing is attached", async |_| world.attachments().await == 0).await;
    world.machine().reconnect();
    world.until_ready(true).await;
    assert_eq!(boot().await, isolated);
    rejects(untaint(), &["NodeNotRebooted"]);
    assert!(is_tainted(&of_node(plane, node).await));
    world.machine().power_off();
    world.machine().boot();
    plane.until("the machine has rebooted", async |_| boot().await != isolated).await;
    world.until_ready(true).await;
    accepts(untaint());
}
