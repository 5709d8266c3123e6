//! A control plane with machines and a database, and the functions that the tests share.

use std::{collections::BTreeMap, process::Output, sync::Arc};

use http::Method;
use kube::Client;
use serde_json::{Value, json};

use crate::harness::{
    machine::{self, Machine, San, Tasks},
    plane::{Plane, call},
};

pub const TAINT: &str = "node.kubernetes.io/out-of-service";
/// Arguments of `kubectl taint node`.
pub const PLACE: &str = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
pub const REMOVE: &str = "node.kubernetes.io/out-of-service-";

/// Everything that a command printed.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs kubectl as `alice`, who is cluster-admin.
pub fn kubectl(plane: &Plane, arguments: &[&str]) -> Output {
    plane.kubectl("alice", arguments, "")
}

/// Asserts that the write was allowed.
#[track_caller]
pub fn accepts(output: Output) {
    assert!(output.status.success(), "{}", said(&output));
}

/// Asserts that the gate denied the write with these reasons.
#[track_caller]
pub fn rejects(output: Output, reasons: &[&str]) {
    let text = said(&output);
    assert!(!output.status.success(), "the write was allowed: {text}");
    assert!(text.contains("out-of-service.fencegate.dev\" denied the request: node "), "{text}");
    for reason in reasons {
        assert!(text.contains(&format!("\n  {reason}: ")), "{reason} is not in {text}");
    }
}

/// A control plane with three machines and a StatefulSet `db` of one pod with one volume, running.
pub struct World {
    pub plane: Plane,
    pub machines: Vec<Machine>,
    pub san: Arc<San>,
    /// The node that the database runs on at the start.
    pub node: String,
    _tasks: Tasks,
}

impl World {
    pub async fn start() -> Self {
        let mut plane = plane_with_alice().await;
        let (machines, san, tasks) = machine::start(&mut plane);
        let mut world = Self { plane, machines, san, node: String::new(), _tasks: tasks };
        database(&world.plane).await;
        world.plane.until("the database runs", async |plane| runs_on(plane).await.is_some()).await;
        world.node = runs_on(&world.plane).await.unwrap();
        let node = world.node.clone();
        world
            .plane
            .until("the node uses its volume", async |plane| {
                !of_node(plane, &node).await["status"]["volumesInUse"].is_null()
            })
            .await;
        world
    }

    pub fn machine(&self) -> &Machine {
        self.machines.iter().find(|machine| machine.name == self.node).unwrap()
    }

    pub async fn until_ready(&self, is_ready: bool) {
        let what = format!("{} is ready: {is_ready}", self.node);
        self.plane.until(&what, async |plane| ready(&of_node(plane, &self.node).await) == is_ready).await;
    }

    pub async fn until_moved(&self) {
        let moved = async |plane: &Plane| runs_on(plane).await.is_some_and(|node| node != self.node);
        self.plane.until("the database runs on another node", moved).await;
    }

    pub async fn attachments(&self) -> usize {
        attachments_of(&self.plane, &self.node).await.len()
    }
}

/// The VolumeAttachments of a node.
pub async fn attachments_of(plane: &Plane, node: &str) -> Vec<Value> {
    let list = plane.get("/apis/storage.k8s.io/v1/volumeattachments").await.unwrap();
    let of_node = |attachment: &&Value| attachment["spec"]["nodeName"] == node;
    list["items"].as_array().unwrap().iter().filter(of_node).cloned().collect()
}

/// Creates the volume `pv-<claim>`, which only this claim can use.
pub async fn volume(plane: &Plane, claim: &str) {
    let volume = json!({"metadata": {"name": format!("pv-{claim}")}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "san",
        "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "default", "name": claim},
        "csi": {"driver": "san.test", "volumeHandle": claim}}});
    plane.create("/api/v1/persistentvolumes", volume).await;
}

/// A PersistentVolumeClaim with this name.
pub fn claim(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "san",
        "resources": {"requests": {"storage": "1Gi"}}}})
}

pub async fn database(plane: &Plane) {
    let driver = json!({"metadata": {"name": "san.test"}, "spec": {"attachRequired": true}});
    plane.create("/apis/storage.k8s.io/v1/csidrivers", driver).await;
    let class = json!({"metadata": {"name": "san"}, "provisioner": "kubernetes.io/no-provisioner"});
    plane.create("/apis/storage.k8s.io/v1/storageclasses", class).await;
    volume(plane, "data-db-0").await;
    let claim = claim("data");
    let container = json!({"name": "c", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/d"}]});
    let pod = json!({"metadata": {"labels": {"app": "db"}}, "spec": {
        "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false, "containers": [container]}});
    let set = json!({"metadata": {"name": "db"}, "spec": {"serviceName": "db", "replicas": 1,
        "selector": {"matchLabels": {"app": "db"}}, "template": pod, "volumeClaimTemplates": [claim]}});
    plane.create("/apis/apps/v1/namespaces/default/statefulsets", set).await;
}

pub async fn of_node(plane: &Plane, name: &str) -> Value {
    plane.get(&format!("/api/v1/nodes/{name}")).await.unwrap_or_default()
}

pub fn ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

pub fn is_tainted(node: &Value) -> bool {
    node["spec"]["taints"].to_string().contains(TAINT)
}

/// The pod of the database. `None` if it does not run.
pub async fn running(plane: &Plane) -> Option<Value> {
    let pod = plane.get("/api/v1/namespaces/default/pods/db-0").await.ok()?;
    let runs = pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null();
    runs.then_some(pod)
}

/// The node that the database runs on. `None` if it does not run.
pub async fn runs_on(plane: &Plane) -> Option<String> {
    Some(running(plane).await?["spec"]["nodeName"].as_str().unwrap().to_owned())
}

pub fn now() -> String {
    jiff::Timestamp::now().strftime("%FT%TZ").to_string()
}

/// Complete evidence of a fence that took effect just now.
pub fn evidence() -> Value {
    json!({"fencegate.dev/method": "power-off", "fencegate.dev/fenced-at": now(), "fencegate.dev/fenced-by": "alice"})
}

/// Creates a Node whose kubelet fell silent three minutes ago, with complete evidence or without
/// any.
pub async fn lone_node(plane: &Plane, name: &str, has_evidence: bool) {
    let annotations = if has_evidence { evidence() } else { json!({}) };
    renew_lease(plane, name, jiff::Timestamp::now() - jiff::SignedDuration::from_mins(3)).await;
    plane.create("/api/v1/nodes", json!({"metadata": {"name": name, "annotations": annotations}})).await;
}

/// Creates the Node of a dead machine: its kubelet's last heartbeat was three minutes ago.
pub async fn dead_node(plane: &Plane, name: &str, more: Value) {
    let long_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(3);
    let mut node = json!({"metadata": {"name": name}, "status": {
        "conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "",
            "lastHeartbeatTime": long_ago.strftime("%FT%TZ").to_string(),
            "lastTransitionTime": long_ago.strftime("%FT%TZ").to_string()}],
        "addresses": [{"type": "InternalIP", "address": "10.0.0.7"}, {"type": "InternalIP", "address": "fd00::7"}],
        "nodeInfo": {"bootID": "boot-7", "architecture": "", "containerRuntimeVersion": "", "kernelVersion": "",
            "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": ""}}});
    json_patch::merge(&mut node, &more);
    renew_lease(plane, name, long_ago).await;
    plane.create("/api/v1/nodes", node).await;
}

pub const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// Sets the Lease of a Node, with a duration of 4 s, as if the API server had stored its renewal at
/// this time. Whoever may write a Lease may also write the times of other clients' writes.
///
/// The Node must not exist yet. Since 1.37 (`NodeControllerLeaseCircuitBreaker`), the node
/// controller never gives up on a node whose Lease it knows and that was written without a newer
/// `renewTime` afterwards.
pub async fn renew_lease(plane: &Plane, node: &str, at: jiff::Timestamp) {
    renew(plane, node, at).await;
    let path = format!("{LEASES}/{node}");
    plane
        .until("the Lease has its time", async |plane| {
            let mut lease = plane.get(&path).await.unwrap();
            for entry in lease["metadata"]["managedFields"].as_array_mut().unwrap() {
                entry["time"] = json!(at.strftime("%FT%TZ").to_string());
            }
            lease["metadata"]["labels"] = json!({"renewed": at.as_second().to_string()});
            let put = format!("{path}?fieldManager=label");
            plane.api("admin", Method::PUT, &put, Some(lease)).await.is_ok()
        })
        .await;
}

/// Renews the Lease of a Node as its kubelet does: with this time of the machine's own clock.
pub async fn renew(plane: &Plane, node: &str, by_machine: jiff::Timestamp) {
    renew_with(&plane.client("admin"), node, by_machine).await;
}

/// The same, with this client.
pub async fn renew_with(client: &Client, node: &str, by_machine: jiff::Timestamp) {
    let time = by_machine.strftime("%FT%T.%6fZ").to_string();
    let spec = json!({"holderIdentity": node, "leaseDurationSeconds": 4, "renewTime": time});
    let lease = json!({"metadata": {"name": node}, "spec": spec});
    let path = format!("{LEASES}/{node}?fieldManager=kubelet");
    if call(client, Method::PATCH, &path, Some(lease.clone())).await.is_err() {
        call(client, Method::POST, &format!("{LEASES}?fieldManager=kubelet"), Some(lease)).await.unwrap();
    }
}

/// When the API server stored the last renewal: the newest time of an entry that owns
/// `spec.renewTime`.
pub fn stored_at(lease: &Value) -> jiff::Timestamp {
    let entries = lease["metadata"]["managedFields"].as_array().unwrap();
    let owning = entries.iter().filter(|entry| !entry["fieldsV1"]["f:spec"]["f:renewTime"].is_null());
    owning.map(|entry| entry["time"].as_str().unwrap().parse().unwrap()).max().unwrap()
}

/// Waits until the Lease of a Node was not renewed for its duration and the gate's `clockSkew`,
/// 10 s.
pub async fn until_silent(plane: &Plane, node: &str) {
    plane
        .until("the Lease has run out", async |plane| {
            let lease = plane.get(&format!("{LEASES}/{node}")).await.unwrap();
            let silence = lease["spec"]["leaseDurationSeconds"].as_i64().unwrap() + 10;
            // Both clocks have whole seconds.
            jiff::Timestamp::now().as_second() - stored_at(&lease).as_second() > silence
        })
        .await;
}

/// The gate's annotations of a Node, without their prefix.
pub async fn record_on(plane: &Plane, node: &str) -> BTreeMap<String, String> {
    let node = of_node(plane, node).await;
    let annotations = node["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    let of_the_gate = annotations
        .into_iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("fencegate.dev/")?.to_owned(), value.as_str()?.to_owned())));
    of_the_gate.collect()
}

/// Starts a control plane where `alice` is cluster-admin.
pub async fn plane_with_alice() -> Plane {
    let plane = Plane::start().await;
    let everything = json!({
        "metadata": {"name": "alice"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"}],
    });
    plane.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", everything).await;
    plane
}

/// Repeats a write that fails with a conflict: the node controller places its own taints on a new
/// Node at the same time.
pub fn without_conflict(write: impl Fn() -> Output) -> Output {
    loop {
        let output = write();
        if output.status.success() || !said(&output).contains("the object has been modified") {
            return output;
        }
    }
}

/// Attaches a volume to a node, until [`detach`].
pub async fn attach(plane: &Plane, name: &str, node: &str) {
    let attachment = json!({"metadata": {"name": name}, "spec": {"attacher": "other.test", "nodeName": node,
        "source": {"persistentVolumeName": format!("pv-{name}")}}});
    plane.create("/apis/storage.k8s.io/v1/volumeattachments", attachment).await;
}

pub async fn detach(plane: &Plane, name: &str) {
    let path = format!("/apis/storage.k8s.io/v1/volumeattachments/{name}");
    plane.api("admin", Method::DELETE, &path, None).await.unwrap();
}
