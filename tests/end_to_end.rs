//! What fencegate promises, on a real API server with the real controllers, spoken to with real kubectl.
//!
//! Machines and disks are simulated (`harness::machine`), nothing else is.

#![allow(
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot run fails"
)]

mod harness;
mod support;

use std::{
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use harness::{
    gate::Gate,
    machine::{self, Machine, San, Tasks},
    plane::{Plane, call},
};
use http::Method;
use serde_json::{Value, json};

const TAINT: &str = "node.kubernetes.io/out-of-service";
const PUT_ON: &str = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
const TAKE_OFF: &str = "node.kubernetes.io/out-of-service-";

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// kubectl, as a person with all rights that RBAC can give.
fn kubectl(plane: &Plane, arguments: &[&str]) -> Output {
    plane.kubectl("alice", arguments, "")
}

#[track_caller]
fn accepts(output: Output) {
    assert!(output.status.success(), "{}", said(&output));
}

#[track_caller]
fn rejects(output: Output, reasons: &[&str]) {
    let text = said(&output);
    assert!(!output.status.success(), "was accepted: {text}");
    assert!(text.contains("out-of-service.fencegate.dev\" denied the request: node "), "{text}");
    for reason in reasons {
        assert!(text.contains(&format!("\n  {reason}: ")), "{reason} is not in {text}");
    }
}

/// A control plane with three machines and a StatefulSet `db` of one pod with one volume, running.
struct World {
    plane: Plane,
    machines: Vec<Machine>,
    san: Arc<San>,
    /// Where the database runs first.
    node: String,
    _tasks: Tasks,
}

impl World {
    async fn start() -> Self {
        let mut plane = plane_with_alice().await;
        let (machines, san, tasks) = machine::start(&mut plane);
        let mut world = Self { plane, machines, san, node: String::new(), _tasks: tasks };
        database(&world.plane).await;
        world.plane.until("the database runs", async |plane| runs_on(plane).await.is_some()).await;
        world.node = runs_on(&world.plane).await.unwrap();
        let node = world.node.clone();
        world
            .plane
            .until("its volume is in use", async |plane| {
                !of_node(plane, &node).await["status"]["volumesInUse"].is_null()
            })
            .await;
        world
    }

    fn machine(&self) -> &Machine {
        self.machines.iter().find(|machine| machine.name == self.node).unwrap()
    }

    async fn until_ready(&self, is_ready: bool) {
        let what = format!("{} is ready: {is_ready}", self.node);
        self.plane.until(&what, async |plane| ready(&of_node(plane, &self.node).await) == is_ready).await;
    }

    async fn until_moved(&self) {
        let moved = async |plane: &Plane| runs_on(plane).await.is_some_and(|node| node != self.node);
        self.plane.until("the database runs elsewhere", moved).await;
    }

    async fn attachments(&self) -> usize {
        let list = self.plane.get("/apis/storage.k8s.io/v1/volumeattachments").await.unwrap();
        let here = |attachment: &&Value| attachment["spec"]["nodeName"] == self.node.as_str();
        list["items"].as_array().unwrap().iter().filter(here).count()
    }
}

async fn database(plane: &Plane) {
    let driver = json!({"metadata": {"name": "san.test"}, "spec": {"attachRequired": true}});
    plane.create("/apis/storage.k8s.io/v1/csidrivers", driver).await;
    let class = json!({"metadata": {"name": "san"}, "provisioner": "kubernetes.io/no-provisioner"});
    plane.create("/apis/storage.k8s.io/v1/storageclasses", class).await;
    let storage = json!({"storage": "1Gi"});
    let volume = json!({"metadata": {"name": "pv-data-db-0"}, "spec": {
        "capacity": storage, "accessModes": ["ReadWriteOnce"], "storageClassName": "san",
        "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "default", "name": "data-db-0"},
        "csi": {"driver": "san.test", "volumeHandle": "data-db-0"}}});
    plane.create("/api/v1/persistentvolumes", volume).await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "san", "resources": {"requests": storage}}});
    let container = json!({"name": "c", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/d"}]});
    let pod = json!({"metadata": {"labels": {"app": "db"}}, "spec": {
        "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false, "containers": [container]}});
    let set = json!({"metadata": {"name": "db"}, "spec": {"serviceName": "db", "replicas": 1,
        "selector": {"matchLabels": {"app": "db"}}, "template": pod, "volumeClaimTemplates": [claim]}});
    plane.create("/apis/apps/v1/namespaces/default/statefulsets", set).await;
}

async fn of_node(plane: &Plane, name: &str) -> Value {
    plane.get(&format!("/api/v1/nodes/{name}")).await.unwrap_or_default()
}

fn ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn is_tainted(node: &Value) -> bool {
    node["spec"]["taints"].to_string().contains(TAINT)
}

/// The node that the database runs on, if it runs.
async fn runs_on(plane: &Plane) -> Option<String> {
    let pod = plane.get("/api/v1/namespaces/default/pods/db-0").await.ok()?;
    let runs = pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null();
    runs.then(|| pod["spec"]["nodeName"].as_str().unwrap().to_owned())
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%FT%TZ").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_from_a_dead_machine_to_its_return() {
    let world = World::start().await;
    let gate = Gate::guard(&world.plane).await;
    let (plane, node) = (&world.plane, world.node.as_str());
    let taint = || kubectl(plane, &["taint", "node", node, PUT_ON]);
    let untaint = || kubectl(plane, &["taint", "node", node, TAKE_OFF]);

    rejects(taint(), &["NodeStillReady", "EvidenceMissing"]);
    world.machine().power_off();
    let fenced_at = format!("fencegate.dev/fenced-at={}", now());
    world.until_ready(false).await;
    rejects(taint(), &["EvidenceMissing"]);
    let by = ["fencegate.dev/method=power-off", "fencegate.dev/fenced-by=alice"];
    accepts(kubectl(plane, &["annotate", "node", node, by[0], by[1], &fenced_at]));
    accepts(taint());

    rejects(untaint(), &["PodsRemain", "VolumesAttached"]);
    rejects(kubectl(plane, &["delete", "node", node]), &["PodsRemain", "VolumesAttached"]);
    world.until_moved().await;
    assert_eq!(world.attachments().await, 0);
    world.machine().boot();
    world.until_ready(true).await;
    accepts(untaint());
    assert!(!is_tainted(&of_node(plane, node).await));
    assert_eq!((world.san.corrupted(), world.san.disks()), (vec![], 1), "never two writers");

    let told: Vec<(String, String)> = gate
        .record()
        .iter()
        .filter(|line| line["user"]["name"] == "alice")
        .map(|line| {
            (line["transitions"][0].as_str().unwrap().to_owned(), line["decision"].as_str().unwrap().to_owned())
        })
        .collect();
    let expected = [
        ("Place", "deny"),
        ("Place", "deny"),
        ("Attest", "allow"),
        ("Place", "allow"),
        ("Release", "deny"),
        ("Delete", "deny"),
        ("Release", "allow"),
    ];
    assert_eq!(told, expected.map(|(transition, decision)| (transition.to_owned(), decision.to_owned())));

    let of_alice = |line: &&Value| line["user"]["username"] == "alice" && line["verb"] != "get";
    let codes: Vec<i64> = plane
        .audit_log()
        .iter()
        .filter(of_alice)
        .map(|line| line["responseStatus"]["code"].as_i64().unwrap())
        .collect();
    assert_eq!(codes, [403, 403, 200, 200, 403, 403, 200], "the API server's own log tells the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_gate_a_cut_off_machine_that_is_tainted_is_a_second_writer() {
    let world = World::start().await;
    world.machine().cut_off();
    world.until_ready(false).await;
    accepts(kubectl(&world.plane, &["taint", "node", &world.node, PUT_ON]));
    let start = Instant::now();
    world.plane.until("two writers on one disk", async |_| !world.san.corrupted().is_empty()).await;
    println!("two writers {:.1}s after the taint: {}", start.elapsed().as_secs_f64(), world.san.corrupted()[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_gate_a_cut_off_machine_keeps_the_only_writer() {
    let world = World::start().await;
    let _gate = Gate::guard(&world.plane).await;
    world.machine().cut_off();
    world.until_ready(false).await;
    rejects(kubectl(&world.plane, &["taint", "node", &world.node, PUT_ON]), &["EvidenceMissing"]);
    let early = format!("fencegate.dev/fenced-at={}", jiff::Timestamp::now() - jiff::SignedDuration::from_mins(5));
    let by = ["fencegate.dev/method=power-off", "fencegate.dev/fenced-by=hope"];
    accepts(kubectl(&world.plane, &["annotate", "node", &world.node, by[0], by[1], &early]));
    rejects(kubectl(&world.plane, &["taint", "node", &world.node, PUT_ON]), &["LeaseStillRenewed"]);
    assert!(!is_tainted(&of_node(&world.plane, &world.node).await));
    assert_eq!(world.san.corrupted(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_gate_a_live_machine_loses_its_volume_under_the_mount() {
    let world = World::start().await;
    world.machine().hang_unmounts();
    let start = Instant::now();
    accepts(kubectl(&world.plane, &["taint", "node", &world.node, PUT_ON]));
    world.plane.until("the volume is detached", async |_| world.attachments().await == 0).await;
    println!(
        "detached {:.1}s after the taint, still mounted: {:?}",
        start.elapsed().as_secs_f64(),
        world.machine().mounted()
    );
    assert_eq!(world.machine().mounted(), ["data-db-0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_machine_is_not_put_out_of_service_and_its_volume_waits_for_the_unmount() {
    let world = World::start().await;
    let _gate = Gate::guard(&world.plane).await;
    world.machine().hang_unmounts();
    let evidence = ["fencegate.dev/method=power-off", "fencegate.dev/fenced-by=alice"];
    let fenced_at = format!("fencegate.dev/fenced-at={}", now());
    accepts(kubectl(&world.plane, &["annotate", "node", &world.node, evidence[0], evidence[1], &fenced_at]));
    rejects(kubectl(&world.plane, &["taint", "node", &world.node, PUT_ON]), &["NodeStillReady"]);
    accepts(kubectl(&world.plane, &["delete", "pod", "db-0", "--wait=false"]));
    // Ten times as long as the detach takes with the taint.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((world.attachments().await, world.machine().mounted()), (1, vec!["data-db-0".to_owned()]));
}

/// A name, and how a person writes to the Node of that name.
type Way<'a> = (&'static str, Box<dyn Fn(&str) -> Output + 'a>);

/// A fence that took effect just now.
fn evidence() -> Value {
    json!({"fencegate.dev/method": "power-off", "fencegate.dev/fenced-at": now(), "fencegate.dev/fenced-by": "alice"})
}

/// A Node that nobody heartbeats, with complete evidence or none.
async fn lone_node(plane: &Plane, name: &str, has_evidence: bool) {
    let annotations = if has_evidence { evidence() } else { json!({}) };
    plane.create("/api/v1/nodes", json!({"metadata": {"name": name, "annotations": annotations}})).await;
}

/// A control plane where `alice` may do all that RBAC can give.
async fn plane_with_alice() -> Plane {
    let plane = Plane::start().await;
    let everything = json!({
        "metadata": {"name": "alice"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"}],
    });
    plane.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", everything).await;
    plane
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_write_the_taint_is_guarded() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    let merge = json!({"spec": {"taints": [{"key": TAINT, "effect": "NoExecute"}]}}).to_string();
    let by_json =
        json!([{"op": "add", "path": "/spec/taints", "value": [{"key": TAINT, "effect": "NoExecute"}]}]).to_string();
    let applied = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "spec": {"taints": [{"key": TAINT, "effect": "NoExecute"}]}})
        .to_string()
    };
    for (n, has_evidence) in [false, true].into_iter().enumerate() {
        let verdict =
            |output: Output| if has_evidence { accepts(output) } else { rejects(output, &["EvidenceMissing"]) };
        let ways: Vec<Way<'_>> = vec![
            ("taint", Box::new(|node| kubectl(&plane, &["taint", "node", node, PUT_ON]))),
            (
                "two",
                Box::new(|node| kubectl(&plane, &["taint", "node", node, PUT_ON, &format!("{TAINT}=x:NoSchedule")])),
            ),
            ("overwrite", Box::new(|node| kubectl(&plane, &["taint", "--overwrite", "node", node, PUT_ON]))),
            ("dry-run", Box::new(|node| kubectl(&plane, &["taint", "--dry-run=server", "node", node, PUT_ON]))),
            ("merge", Box::new(|node| kubectl(&plane, &["patch", "node", node, "--type=merge", "-p", &merge]))),
            ("strategic", Box::new(|node| kubectl(&plane, &["patch", "node", node, "-p", &merge]))),
            ("json", Box::new(|node| kubectl(&plane, &["patch", "node", node, "--type=json", "-p", &by_json]))),
            (
                "apply",
                Box::new(|node| {
                    plane.kubectl("alice", &["apply", "--server-side", "--force-conflicts", "-f", "-"], &applied(node))
                }),
            ),
            ("replace", Box::new(|node| replace(&plane, node, &[]))),
            ("force", Box::new(|node| replace(&plane, node, &["--force"]))),
            ("edit", Box::new(|node| edit(&plane, node))),
        ];
        for (way, write) in ways {
            let node = format!("{way}-{n}");
            lone_node(&plane, &node, has_evidence).await;
            verdict(without_conflict(|| write(&node)));
            let expected = has_evidence && way != "dry-run";
            assert_eq!(is_tainted(&of_node(&plane, &node).await), expected, "{way}");
        }
    }
    let create = |object: &str| plane.kubectl("alice", &["apply", "--server-side", "-f", "-"], object);
    rejects(create(&applied("created")), &["EvidenceMissing"]);
    let mut with_evidence: Value = serde_json::from_str(&applied("created")).unwrap();
    with_evidence["metadata"]["annotations"] = evidence();
    accepts(create(&with_evidence.to_string()));
    assert!(is_tainted(&of_node(&plane, "created").await));
    assert!(gate.record().iter().any(|line| line["dryRun"] == true));
}

/// Writes again while the node controller, which has its own taints to put on a new Node, comes between read and write.
fn without_conflict(write: impl Fn() -> Output) -> Output {
    loop {
        let output = write();
        if output.status.success() || !said(&output).contains("the object has been modified") {
            return output;
        }
    }
}

/// `kubectl replace` of the Node as it is, with the taint.
fn replace(plane: &Plane, node: &str, flags: &[&str]) -> Output {
    let read = kubectl(plane, &["get", "node", node, "-o", "json"]);
    let mut object: Value = serde_json::from_slice(&read.stdout).unwrap();
    object["spec"]["taints"] = json!([{"key": TAINT, "effect": "NoExecute"}]);
    if !flags.is_empty() {
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.remove("resourceVersion");
        metadata.remove("uid");
    }
    let arguments: Vec<&str> = ["replace", "-f", "-"].into_iter().chain(flags.iter().copied()).collect();
    plane.kubectl("alice", &arguments, &object.to_string())
}

/// `kubectl edit` with an editor that adds the taint to those that the node controller put there, if any.
fn edit(plane: &Plane, node: &str) -> Output {
    let editor = plane.folder.path().join("editor");
    let entry = format!("\\n  - key: {TAINT}\\n    effect: NoExecute");
    let script = format!(
        "#!/bin/sh\nif grep -q '^  taints:' \"$1\"; then sed -i 's|^  taints:|  taints:{entry}|' \"$1\"\n\
         else sed -i 's|^spec:.*|spec:\\n  taints:{entry}|' \"$1\"; fi\n"
    );
    std::fs::write(&editor, script).unwrap();
    std::fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    plane.kubectl_with("alice", &["edit", "node", node], "", &[("KUBE_EDITOR", editor.display().to_string())])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_take_the_taint_off_is_guarded() {
    let plane = plane_with_alice().await;
    let _gate = Gate::guard(&plane).await;
    let nothing = json!({"spec": {"taints": null}}).to_string();
    let ways: Vec<Way<'_>> = vec![
        ("untaint", Box::new(|node| kubectl(&plane, &["taint", "node", node, TAKE_OFF]))),
        ("patch", Box::new(|node| kubectl(&plane, &["patch", "node", node, "--type=merge", "-p", &nothing]))),
        ("delete", Box::new(|node| kubectl(&plane, &["delete", "node", node, "--wait=false"]))),
        (
            "selector",
            Box::new(|node| kubectl(&plane, &["delete", "node", "-l", &format!("name={node}"), "--wait=false"])),
        ),
    ];
    for (way, write) in ways {
        lone_node(&plane, way, true).await;
        accepts(kubectl(&plane, &["label", "node", way, &format!("name={way}")]));
        accepts(kubectl(&plane, &["taint", "node", way, PUT_ON]));
        let attachment = json!({"metadata": {"name": way}, "spec": {"attacher": "san.test", "nodeName": way,
            "source": {"persistentVolumeName": "pv"}}});
        plane.create("/apis/storage.k8s.io/v1/volumeattachments", attachment).await;
        rejects(write(way), &["VolumesAttached"]);
        assert!(is_tainted(&of_node(&plane, way).await), "{way}");
        plane
            .api("admin", Method::DELETE, &format!("/apis/storage.k8s.io/v1/volumeattachments/{way}"), None)
            .await
            .unwrap();
        accepts(write(way));
        assert!(!is_tainted(&of_node(&plane, way).await), "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_collection_stops_at_a_node_out_of_service() {
    let plane = plane_with_alice().await;
    let _gate = Gate::guard(&plane).await;
    lone_node(&plane, "held", true).await;
    accepts(kubectl(&plane, &["taint", "node", "held", PUT_ON]));
    let attachment = json!({"metadata": {"name": "va"}, "spec": {"attacher": "other.test", "nodeName": "held",
        "source": {"persistentVolumeName": "pv"}}});
    plane.create("/apis/storage.k8s.io/v1/volumeattachments", attachment).await;
    let refusal = plane.api("alice", Method::DELETE, "/api/v1/nodes", None).await.unwrap_err();
    assert!(refusal.code == 403 && refusal.message.contains("node \"held\" may not be deleted"), "{refusal:?}");
    plane.api("admin", Method::DELETE, "/apis/storage.k8s.io/v1/volumeattachments/va", None).await.unwrap();
    plane.api("alice", Method::DELETE, "/api/v1/nodes", None).await.unwrap();
    assert!(plane.get("/api/v1/nodes/held").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_finalizer_of_a_node_out_of_service_is_guarded() {
    let plane = plane_with_alice().await;
    let _gate = Gate::guard(&plane).await;
    lone_node(&plane, "held", true).await;
    accepts(kubectl(&plane, &["patch", "node", "held", "-p", r#"{"metadata":{"finalizers":["example.com/hold"]}}"#]));
    accepts(kubectl(&plane, &["taint", "node", "held", PUT_ON]));
    accepts(kubectl(&plane, &["delete", "node", "held", "--wait=false"]));
    let attachment = json!({"metadata": {"name": "va"}, "spec": {"attacher": "san.test", "nodeName": "held",
        "source": {"persistentVolumeName": "pv"}}});
    plane.create("/apis/storage.k8s.io/v1/volumeattachments", attachment).await;
    let letting_go = ["patch", "node", "held", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#];
    rejects(kubectl(&plane, &letting_go), &["VolumesAttached"]);
    let through_status: Vec<&str> = letting_go.into_iter().chain(["--subresource=status"]).collect();
    rejects(kubectl(&plane, &through_status), &["VolumesAttached"]);
    plane.api("admin", Method::DELETE, "/apis/storage.k8s.io/v1/volumeattachments/va", None).await.unwrap();
    accepts(kubectl(&plane, &letting_go));
    assert!(plane.get("/api/v1/nodes/held").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_cannot_vouch_for_its_node_by_any_path() {
    let plane = plane_with_alice().await;
    let _gate = Gate::guard(&plane).await;
    lone_node(&plane, "n1", false).await;
    let annotate = ["annotate", "node", "n1", "fencegate.dev/method=power-off"];
    rejects(plane.kubectl("node-n1", &annotate, ""), &["SelfAttested"]);
    let patch = json!({"metadata": {"annotations": {"fencegate.dev/method": "power-off"}}});
    let through_status = plane.api("node-n1", Method::PATCH, "/api/v1/nodes/n1/status", Some(patch)).await.unwrap_err();
    assert!(through_status.message.contains("SelfAttested"), "{through_status:?}");
    let registered = json!({"metadata": {"name": "n2", "annotations": {"fencegate.dev/method": "power-off"}}});
    let refusal = plane.api("node-n2", Method::POST, "/api/v1/nodes", Some(registered)).await.unwrap_err();
    assert!(refusal.code == 403 && refusal.message.contains("SelfAttested"), "{refusal:?}");
    let tainted = plane.kubectl("node-n1", &["taint", "node", "n1", PUT_ON], "");
    assert!(!tainted.status.success() && said(&tainted).contains("not allowed to modify taints"), "{}", said(&tainted));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_reaches_the_gate_or_waits_for_it() {
    let world = World::start().await;
    let mut gate = Gate::guard(&world.plane).await;
    let (plane, node) = (&world.plane, world.node.as_str());
    lone_node(plane, "out", true).await;
    accepts(kubectl(plane, &["taint", "node", "out", PUT_ON]));
    let before = gate.reviews().await;
    let elsewhere = |name: &str| {
        accepts(kubectl(plane, &["label", "--overwrite", "node", name, &format!("at={before}")]));
        accepts(kubectl(plane, &["annotate", "--overwrite", "node", name, "example.com/a=b"]));
        accepts(kubectl(plane, &["cordon", name]));
        accepts(kubectl(plane, &["uncordon", name]));
        accepts(kubectl(plane, &["taint", "--overwrite", "node", name, "example.com/mine=1:NoSchedule"]));
        accepts(kubectl(plane, &["taint", "node", name, "example.com/mine-"]));
    };
    for name in [node, "out"] {
        elsewhere(name);
    }
    let heartbeat = |node: Value| node["status"]["conditions"][0]["lastHeartbeatTime"].to_string();
    let last = heartbeat(of_node(plane, node).await);
    plane.until("the kubelet beats", async |plane| heartbeat(of_node(plane, node).await) != last).await;
    // The node controller taints a Node that dies, also one that is out of service.
    world.machine().cut_off();
    world.until_ready(false).await;
    for name in [node, "out"] {
        let taints = async |plane: &Plane| of_node(plane, name).await["spec"]["taints"].to_string();
        plane.until("the node controller taints", async |plane| taints(plane).await.contains("unreachable")).await;
    }
    assert_eq!(gate.reviews().await, before, "not one of these was sent to the gate");

    gate.stop();
    for name in [node, "out"] {
        elsewhere(name);
    }
    for guarded in [
        ["taint", "node", node, PUT_ON],
        ["taint", "node", "out", TAKE_OFF],
        ["annotate", "node", node, "fencegate.dev/proof=x"],
    ] {
        let output = kubectl(plane, &guarded);
        assert!(!output.status.success() && said(&output).contains("failed calling webhook"), "{}", said(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn match_conditions_fail_on_no_shape_of_a_node() {
    let plane = plane_with_alice().await;
    let gate = Gate::guard(&plane).await;
    let before = gate.reviews().await;
    let shapes = [
        json!({}),
        json!({"spec": {}}),
        json!({"spec": null, "status": null}),
        json!({"spec": {"taints": null}}),
        json!({"spec": {"taints": []}}),
        json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}),
        json!({"metadata": {"annotations": null, "finalizers": null, "labels": null}}),
        json!({"metadata": {"annotations": {}, "finalizers": []}}),
        json!({"metadata": {"annotations": {"example.com/a": "", "fencegate.de/v": "x"}}}),
        json!({"metadata": {"finalizers": ["example.com/hold"]}}),
    ];
    for (n, shape) in shapes.iter().enumerate() {
        let name = format!("shape-{n}");
        let mut node = shape.clone();
        node["metadata"]["name"] = json!(name);
        plane.create("/api/v1/nodes", node).await;
        let path = format!("/api/v1/nodes/{name}");
        for (m, other) in shapes.iter().enumerate() {
            let patched = plane.api("admin", Method::PATCH, &path, Some(other.clone())).await;
            assert!(patched.is_ok(), "{n} to {m}: {patched:?}");
            let beaten = plane.api("admin", Method::PATCH, &format!("{path}/status"), Some(other.clone())).await;
            assert!(beaten.is_ok(), "status of {n} to {m}: {beaten:?}");
        }
        let free = json!({"metadata": {"finalizers": null}});
        plane.api("admin", Method::DELETE, &path, None).await.unwrap();
        // Gone already, unless a finalizer held it.
        let _ = plane.api("admin", Method::PATCH, &path, Some(free)).await;
        assert!(plane.get(&path).await.is_err(), "{name} is still there");
    }
    assert_eq!(gate.reviews().await, before, "none of these is the gate's");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_gate_a_taint_removed_early_leaves_everything_hanging() {
    let world = World::start().await;
    let (plane, node) = (&world.plane, world.node.as_str());
    world.machine().power_off();
    world.until_ready(false).await;
    accepts(kubectl(plane, &["taint", "node", node, PUT_ON]));
    accepts(kubectl(plane, &["taint", "node", node, TAKE_OFF]));
    // Twice the 20 s in which pod GC would have come by.
    tokio::time::sleep(Duration::from_secs(40)).await;
    let pod = plane.get("/api/v1/namespaces/default/pods/db-0").await.unwrap();
    assert_eq!(pod["spec"]["nodeName"], *node, "the pod is still bound to the dead machine");
    assert_eq!(world.attachments().await, 1, "its volume is still attached there");
    println!("40s after the early removal db-0 still hangs on {node}");
    accepts(kubectl(plane, &["taint", "node", node, PUT_ON]));
    let start = Instant::now();
    world.until_moved().await;
    println!("with the taint left on it runs elsewhere after {:.1}s", start.elapsed().as_secs_f64());
}

/// Guarded writes to the Node `busy`, again and again: evidence that is fine and a taint that is not.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    workers: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    /// Starts workers that stop on demand and return what went wrong with their calls.
    fn start(plane: &Plane) -> Self {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let workers = (0..8)
            .map(|worker| {
                let (stop, calls, client) = (Arc::clone(&stop), Arc::clone(&calls), plane.client("alice"));
                tokio::spawn(async move {
                    let mut failed = Vec::new();
                    for n in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let proof =
                            json!({"metadata": {"annotations": {"fencegate.dev/proof": format!("{worker}-{n}")}}});
                        let taint = json!({"spec": {"taints": [{"key": TAINT, "effect": "NoExecute"}]}});
                        for (patch, is_fine) in [(proof, true), (taint, false)] {
                            // A write that meets another one is the API server's to refuse, and to be tried again.
                            let answer = loop {
                                let answer =
                                    call(&client, Method::PATCH, "/api/v1/nodes/busy", Some(patch.clone())).await;
                                calls.fetch_add(1, Ordering::Relaxed);
                                if !answer.as_ref().is_err_and(|refusal| refusal.code == 409) {
                                    break answer;
                                }
                            };
                            match answer {
                                Ok(_) if is_fine => {}
                                Err(refusal) if !is_fine && refusal.message.contains("EvidenceMissing") => {}
                                Ok(_) => failed.push("ADMITTED".to_owned()),
                                Err(refusal) => failed.push(refusal.message),
                            }
                        }
                    }
                    failed
                })
            })
            .collect();
        Self { stop, calls, workers }
    }

    /// Waits for that many more calls.
    async fn goes_on(&self, plane: &Plane, calls: usize) {
        let until = self.calls.load(Ordering::Relaxed) + calls;
        plane.until("the load goes on", async |_| self.calls.load(Ordering::Relaxed) >= until).await;
    }

    async fn ends(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failed = Vec::new();
        for worker in self.workers {
            failed.extend(worker.await.unwrap());
        }
        failed
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_killed_admits_nothing_and_one_that_drains_loses_no_call() {
    let plane = plane_with_alice().await;
    let mut gate = Gate::guard_with(&plane, 3).await;
    lone_node(&plane, "busy", false).await;

    let load = Load::start(&plane);
    load.goes_on(&plane, 200).await;
    gate.replicas[0].kill();
    gate.leave_out(0);
    load.goes_on(&plane, 400).await;
    let failed = load.ends().await;
    assert!(failed.iter().all(|why| why.contains("failed calling webhook")), "a retry mends it: {failed:?}");

    let load = Load::start(&plane);
    load.goes_on(&plane, 200).await;
    gate.replicas[1].terminate();
    plane.until("it is not ready", async |_| !gate.replicas[1].is_ready().await).await;
    // It takes a moment until everyone has noticed.
    load.goes_on(&plane, 50).await;
    gate.leave_out(1);
    plane.until("it is gone", async |_| !gate.replicas[1].is_alive().await).await;
    load.goes_on(&plane, 200).await;
    assert_eq!(load.ends().await, Vec::<String>::new(), "a replica that drains loses no call");
    assert!(!is_tainted(&of_node(&plane, "busy").await));
}

#[tokio::test(flavor = "multi_thread")]
async fn however_writers_race_every_stored_version_keeps_the_laws() {
    const EVIDENCE: [&str; 3] = ["fencegate.dev/method", "fencegate.dev/fenced-at", "fencegate.dev/fenced-by"];
    let plane = plane_with_alice().await;
    let _gate = Gate::guard(&plane).await;
    lone_node(&plane, "raced", false).await;
    let by_writer = |by: usize| {
        json!({"metadata": {"annotations":
        {EVIDENCE[0]: "power-off", EVIDENCE[1]: now(), EVIDENCE[2]: format!("writer {by}")}}})
    };
    let no_evidence = json!({"metadata": {"annotations": {EVIDENCE[0]: null, EVIDENCE[1]: null, EVIDENCE[2]: null}}});
    let race = async |rounds: usize| {
        let writers: Vec<_> = (0..50)
            .map(|writer| {
                let client = plane.client("alice");
                let patches = [
                    by_writer(writer),
                    json!({"spec": {"taints": [{"key": TAINT, "effect": "NoExecute", "value": format!("w{writer}")}]}}),
                    json!({"metadata": {"labels": {"writer": format!("w{writer}")}}}),
                    json!({"spec": {"taints": null}}),
                    no_evidence.clone(),
                ];
                tokio::spawn(async move {
                    for round in 0..rounds {
                        // Each starts elsewhere in the list, so that all kinds of writes meet.
                        let patch = patches[(writer + round) % patches.len()].clone();
                        let _ = call(&client, Method::PATCH, "/api/v1/nodes/raced", Some(patch)).await;
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    };
    race(10).await;
    // From here on a volume is attached: the taint may come, and never go.
    let attachment = json!({"metadata": {"name": "va"}, "spec": {"attacher": "san.test", "nodeName": "raced",
        "source": {"persistentVolumeName": "pv"}}});
    plane.create("/apis/storage.k8s.io/v1/volumeattachments", attachment).await;
    let attached_since = of_node(&plane, "raced").await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    race(10).await;

    let versions = plane.stored_versions("raced");
    let attached_since: u64 = attached_since.parse().unwrap();
    let mut placed = 0;
    for pair in versions.windows(2) {
        let (old, new) = (&pair[0], &pair[1]);
        let of = |node: &Value| EVIDENCE.map(|key| node["metadata"]["annotations"][key].clone());
        let version = new["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
        match (is_tainted(old), is_tainted(new)) {
            (false, true) => {
                placed += 1;
                assert!(of(new).iter().all(Value::is_string), "L1: no taint without a fence, version {version}");
            }
            (true, false) => assert!(version <= attached_since, "L2: released while attached, version {version}"),
            (true, true) => assert_eq!(of(old), of(new), "L3: evidence is frozen, version {version}"),
            (false, false) => {}
        }
    }
    assert!(versions.len() > 50 && placed > 0, "{} versions, placed {placed} times", versions.len());
    println!("{} versions were stored, the taint was placed {placed} times", versions.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_nodes_beats_without_the_gate_and_is_counted_by_it() {
    const CROWD: usize = 100;
    let mut plane = plane_with_alice().await;
    plane.start_crowd();
    let gate = Gate::guard(&plane).await;
    for n in 0..CROWD {
        let labels = json!({"crowd": "true"});
        plane.create("/api/v1/nodes", json!({"metadata": {"name": format!("c{n}"), "labels": labels}})).await;
    }
    let before = gate.reviews().await;
    let beats = async |plane: &Plane| {
        let list = plane.get("/api/v1/nodes?labelSelector=crowd%3Dtrue").await.unwrap();
        list["items"].as_array().unwrap().iter().filter(|node| ready(node)).count()
    };
    plane.until("all of them are ready", async |plane| beats(plane).await == CROWD).await;
    let version = of_node(&plane, "c0").await["metadata"]["resourceVersion"].clone();
    let moved = async |plane: &Plane| of_node(plane, "c0").await["metadata"]["resourceVersion"] != version;
    plane.until("they beat again", moved).await;
    assert_eq!(gate.reviews().await, before, "a heartbeat is nothing to the gate");

    // More attachments than one page of a list holds, one of them on the node.
    for n in 0..501 {
        let node = if n == 250 { "c0" } else { "elsewhere" };
        let attachment = json!({"metadata": {"name": format!("va-{n}")}, "spec": {"attacher": "other.test", "nodeName": node,
            "source": {"persistentVolumeName": format!("pv-{n}")}}});
        plane.create("/apis/storage.k8s.io/v1/volumeattachments", attachment).await;
    }
    rejects(kubectl(&plane, &["taint", "node", "c0", PUT_ON]), &["NodeStillReady", "EvidenceMissing"]);
    lone_node(&plane, "gone", true).await;
    accepts(kubectl(&plane, &["taint", "node", "gone", PUT_ON]));
    let last = json!({"metadata": {"name": "va-zzz"}, "spec": {"attacher": "other.test", "nodeName": "gone",
        "source": {"persistentVolumeName": "pv-zzz"}}});
    plane.create("/apis/storage.k8s.io/v1/volumeattachments", last).await;
    rejects(kubectl(&plane, &["taint", "node", "gone", TAKE_OFF]), &["VolumesAttached"]);
}
