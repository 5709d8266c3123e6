//! Whom the doors leave alone: kubelets, controllers, evictions and drains never reach the gate,
//! and never wait for it.

use futures_util::{StreamExt as _, stream};
use http::Method;
use serde_json::{Value, json};

use super::{FORCE, follow, guard, refuses};
use crate::{
    harness::plane::Plane,
    world::{
        World, accepts, attachments_of, claim, kubectl, of_node, plane_with_alice, ready, running, runs_on, said,
        until_silent, volume,
    },
};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// The UID of the database's pod. `None` if it does not run.
async fn uid(plane: &Plane) -> Option<String> {
    Some(running(plane).await?["metadata"]["uid"].as_str().unwrap().to_owned())
}

/// Waits until another pod of the database runs than this one.
async fn until_replaced(plane: &Plane, known: &str) {
    let is_replaced = async |plane: &Plane| uid(plane).await.is_some_and(|now| now != known);
    plane.until("the StatefulSet controller replaces its pod", is_replaced).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelets_controllers_evictions_and_drains_never_reach_the_gate() {
    let world = World::start().await;
    let gate = guard(&world.plane).await;
    let plane = &world.plane;
    let before = gate.reviews().await;

    // The kubelet completes the deletion, and the StatefulSet controller makes another pod.
    let old = uid(plane).await.unwrap();
    accepts(kubectl(plane, &["delete", "pod", "db-0"]));
    until_replaced(plane, &old).await;
    // A drain evicts; the attach/detach controller and the attacher detach the volume.
    let drained = runs_on(plane).await.unwrap();
    let old = uid(plane).await.unwrap();
    accepts(kubectl(plane, &["drain", &drained, "--ignore-daemonsets", "--delete-emptydir-data", "--force"]));
    until_replaced(plane, &old).await;
    plane.until("nothing is attached there", async |plane| attachments_of(plane, &drained).await.is_empty()).await;
    assert_eq!(gate.reviews().await, before, "nothing has reached the gate");
    accepts(kubectl(plane, &["uncordon", &drained]));
    // Taint eviction.
    let old = uid(plane).await.unwrap();
    let tainted = runs_on(plane).await.unwrap();
    accepts(kubectl(plane, &["taint", "node", &tainted, "example.com/leave=now:NoExecute"]));
    until_replaced(plane, &old).await;
    accepts(kubectl(plane, &["taint", "node", &tainted, "example.com/leave-"]));
    // A Job and its pod, with a claim of its own.
    job(plane).await;
    accepts(kubectl(plane, &["delete", "job", "backup", "--cascade=foreground"]));
    let pods_of_job = format!("{PODS}?labelSelector=job-name%3Dbackup");
    let none = async |plane: &Plane, path: &str| plane.get(path).await.unwrap()["items"].as_array().unwrap().is_empty();
    plane.until("the Job's pods are gone", async |plane| none(plane, &pods_of_job).await).await;
    // A namespace with a pod in it.
    accepts(kubectl(plane, &["create", "namespace", "team"]));
    let pod = json!({"metadata": {"name": "own", "labels": {"statefulset.kubernetes.io/pod-name": "own"}}, "spec": {
        "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "i"}]}});
    let of_team = "/api/v1/namespaces/team/pods";
    let created = async |plane: &Plane| plane.api("admin", Method::POST, of_team, Some(pod.clone())).await.is_ok();
    plane.until("the namespace has its account", created).await;
    let runs =
        async |plane: &Plane| plane.get(&format!("{of_team}/own")).await.unwrap()["status"]["phase"] == "Running";
    plane.until("its pod runs", runs).await;
    accepts(kubectl(plane, &["delete", "namespace", "team"]));
    assert_eq!(gate.reviews().await, before, "none of these reached the gate");

    // Pod GC deletes the pods of a node that is out of service, at once. Whatever alice does on the
    // way there is judged, and nothing else.
    let node = runs_on(plane).await.unwrap();
    let old = uid(plane).await.unwrap();
    let machine = world.machines.iter().find(|machine| machine.name == node).unwrap();
    machine.power_off();
    plane.until("the node is not ready", async |plane| !ready(&of_node(plane, &node).await)).await;
    until_silent(plane, &node).await;
    let refused = kubectl(plane, &FORCE);
    refuses(&refused, "pods", "UnfencedForceDeletion");
    follow(plane, &refused, "annotate node");
    follow(plane, &refused, "taint node");
    until_replaced(plane, &old).await;
    let log = gate.audit_log();
    let others: Vec<&Value> =
        log.iter().filter(|line| ["alice", "admin"].iter().all(|who| line["user"]["name"] != *who)).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// A Job whose pod runs, with a claim of its own.
async fn job(plane: &Plane) {
    volume(plane, "dump").await;
    plane.create("/api/v1/namespaces/default/persistentvolumeclaims", claim("dump")).await;
    let pod = json!({"restartPolicy": "Never", "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "dump", "persistentVolumeClaim": {"claimName": "dump"}}]});
    let job = json!({"metadata": {"name": "backup"}, "spec": {"template": {"spec": pod}}});
    plane.create("/apis/batch/v1/namespaces/default/jobs", job).await;
    let runs = async |plane: &Plane| {
        let list = plane.get(&format!("{PODS}?labelSelector=job-name%3Dbackup")).await.unwrap();
        list["items"][0]["status"]["phase"] == "Running"
    };
    plane.until("the Job's pod runs", runs).await;
}

/// kwok stands for the kubelets, and deletes pods as they do.
#[tokio::test(flavor = "multi_thread")]
async fn with_the_gate_down_a_thousand_pods_come_and_go_and_only_what_is_guarded_waits() {
    const NODES: usize = 20;
    const CHURN: usize = 1_000;
    let mut plane = plane_with_alice().await;
    plane.start_crowd();
    let mut gate = guard(&plane).await;
    gate.stop();
    for n in 0..NODES {
        let labels = json!({"crowd": "true"});
        plane.create("/api/v1/nodes", json!({"metadata": {"name": format!("c{n}"), "labels": labels}})).await;
    }
    let pod = |n: usize| {
        json!({"metadata": {"name": format!("p-{n}"), "labels": {"statefulset.kubernetes.io/pod-name": format!("p-{n}")}},
            "spec": {"nodeName": format!("c{}", n % NODES), "automountServiceAccountToken": false,
                "tolerations": [{"operator": "Exists"}],
                "terminationGracePeriodSeconds": 30, "containers": [{"name": "c", "image": "i"}]}})
    };
    let phase = async |plane: &Plane, phase: &str| {
        let list = plane.get(&format!("{PODS}?fieldSelector=status.phase%3D{phase}")).await.unwrap();
        list["items"].as_array().unwrap().len()
    };
    plane
        .until("the namespace has its account", async |plane| {
            plane.get("/api/v1/namespaces/default/serviceaccounts/default").await.is_ok()
        })
        .await;
    let all = || stream::iter(0..CHURN);
    all().for_each_concurrent(32, async |n| _ = plane.create(PODS, pod(n)).await).await;
    plane.until("all of them run", async |plane| phase(plane, "Running").await == CHURN).await;
    // Evictions and deletions, one after the other, and many at once.
    let refused: Vec<String> = all()
        .map(async |n| {
            let path = format!("{PODS}/p-{n}");
            let eviction =
                json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": format!("p-{n}")}});
            let gone = match n % 2 {
                0 => plane.api("alice", Method::DELETE, &path, None).await,
                _ => plane.api("alice", Method::POST, &format!("{path}/eviction"), Some(eviction)).await,
            };
            gone.err().map(|error| format!("{path}: {error:?}"))
        })
        .buffer_unordered(32)
        .filter_map(async |error| error)
        .collect()
        .await;
    assert_eq!(refused, Vec::<String>::new());
    let is_empty = async |plane: &Plane| plane.get(PODS).await.unwrap()["items"].as_array().unwrap().is_empty();
    plane.until("their kubelets have ended all of them", is_empty).await;

    plane.create(PODS, pod(0)).await;
    let guarded = kubectl(&plane, &["delete", "pod", "p-0", "--force", "--grace-period=0"]);
    assert!(!guarded.status.success() && said(&guarded).contains("failed calling webhook"), "{}", said(&guarded));
    accepts(kubectl(&plane, &["delete", "pod", "p-0"]));
}
