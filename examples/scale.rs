//! `make scale`: what a guarded write costs in a large cluster, with and without the gate.
//!
//! etcd is filled before the API server starts, which reads objects in JSON as well. Then the same
//! dry runs are sent without the gate and with it: a release and a placement, which read the lists,
//! and a label, which the gate does not see. It fails if the memory of a replica grows by
//! more than 16 MiB, or if watching the Nodes takes more than that.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "what cannot be measured fails")]
#![allow(dead_code, reason = "the tests use more of the harness")]

#[path = "../tests/harness/mod.rs"]
mod harness;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use harness::{
    gate::{Gate, Replica},
    plane::{Plane, call},
};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Bytes,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use kube::Client;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// Objects in one transaction of etcd, whose limit is 128.
const BATCH: usize = 100;
/// How many bytes the gate's memory may grow by: 16 MiB.
const MOST_GROWTH: u64 = 16 << 20;
const LONG_AGO: &str = "2026-11-20T00:00:00Z";
const TAINT: &str = "node.kubernetes.io/out-of-service";

/// The size of the cluster, from the environment.
struct Size {
    nodes: usize,
    pods: usize,
    attachments: usize,
    rounds: usize,
}

impl Size {
    fn given() -> Self {
        let number = |name: &str, default: usize| {
            std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
        };
        Self {
            nodes: number("NODES", 5_000).max(3),
            pods: number("PODS", 150_000),
            attachments: number("ATTACHMENTS", 100_000),
            rounds: number("ROUNDS", 10).max(1),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let size = Size::given();
    let plane = Plane::filled(async |etcd| fill(etcd, &size).await).await;
    let admin = plane.client("admin");
    let bare = measured(&admin, size.rounds).await;

    let gate = Gate::guard_with(&plane, 2).await;
    gate.configure(&plane, "place: {maxNodes: 30%}").await;
    let leader = watching(&plane, &gate).await;
    let memory = || gate.replicas.iter().map(Replica::most_memory).collect::<Vec<_>>();
    let idle = memory();
    let guarded = measured(&admin, size.rounds).await;
    let growth = memory().iter().zip(&idle).map(|(most, idle)| most.saturating_sub(*idle)).max().unwrap();

    println!(
        "{} nodes, {} pods, {} VolumeAttachments; {} writes each",
        size.nodes, size.pods, size.attachments, size.rounds
    );
    println!("{:<12}{:>24}{:>24}", "", "without the gate", "with it");
    for ((name, bare), (_, guarded)) in bare.iter().zip(&guarded) {
        println!("{name:<12}{:>24}{:>24}", shown(bare), shown(guarded));
    }
    for webhook in ["mutate", "validate"] {
        for transition in ["Release", "Place"] {
            println!(
                "the gate's own time, {webhook:<9}{transition:<8}{}",
                shown(&own_times(&gate, webhook, transition))
            );
        }
    }
    let (watches, waits) = (idle[leader], idle[1 - leader]);
    let watching = watches.saturating_sub(waits);
    println!("a replica's memory: {} MiB before, {} MiB more at most", waits >> 20, growth >> 20);
    println!("the one that watches: {} MiB more", watching >> 20);
    if growth.max(watching) <= MOST_GROWTH { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Waits until one replica has listed the Nodes, and has looked at the one that is out of service.
/// Returns its number.
async fn watching(plane: &Plane, gate: &Gate) -> usize {
    let leader = async || {
        for (number, replica) in gate.replicas.iter().enumerate() {
            let metrics = replica.telemetry("/metrics").await;
            let mut counts = metrics.lines().filter(|line| line.starts_with("fencegate_out_of_service_nodes{"));
            if counts.any(|line| !line.ends_with(" 0")) {
                return Some(number);
            }
        }
        None
    };
    plane.until("one replica watches", async |_| leader().await.is_some()).await;
    leader().await.unwrap()
}

/// Puts the objects of a large cluster into etcd.
async fn fill(etcd: u16, size: &Size) {
    let start = Instant::now();
    let mut sender = connect(etcd).await;
    let mut batch = Vec::new();
    let nodes = (0..size.nodes).map(|number| (format!("minions/n{number}"), node(number)));
    let pods = (0..size.pods).map(|number| (format!("pods/default/p{number}"), pod(number, size.nodes)));
    let attachments =
        (0..size.attachments).map(|number| (format!("volumeattachments/csi-{number}"), attachment(number, size.nodes)));
    let mut filled = 0;
    for (key, value) in nodes.chain(pods).chain(attachments) {
        let (key, value) = (STANDARD.encode(format!("/registry/{key}")), STANDARD.encode(value.to_string()));
        batch.push(json!({"requestPut": {"key": key, "value": value}}));
        filled += 1;
        if batch.len() == BATCH {
            put(&mut sender, &std::mem::take(&mut batch)).await;
        }
    }
    put(&mut sender, &batch).await;
    println!("filled etcd with {filled} objects in {:.0?}", start.elapsed());
}

/// Connects to etcd, which was started a moment ago.
async fn connect(etcd: u16) -> SendRequest<Full<Bytes>> {
    let start = Instant::now();
    let stream = loop {
        match TcpStream::connect(("127.0.0.1", etcd)).await {
            Ok(stream) => break stream,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(30), "etcd: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn put(sender: &mut SendRequest<Full<Bytes>>, batch: &[Value]) {
    let body = json!({"success": batch}).to_string();
    let request = Request::post("/v3/kv/txn").header("host", "localhost").body(Full::from(body)).unwrap();
    sender.ready().await.unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status();
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&text));
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "uid": format!("uid-{name}"), "creationTimestamp": LONG_AGO})
}

/// A Node with 50 images, as the kubelet reports them. `n0` and `n1` are dead: `n0` is out of
/// service, and the fence of `n1` is recorded.
fn node(number: usize) -> Value {
    let conditions = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"].map(|kind| {
        let (status, reason) = if number < 2 { ("Unknown", "NodeStatusUnknown") } else { ("True", "KubeletReady") };
        json!({"type": kind, "status": status, "reason": reason, "message": "as the kubelet or the node controller says",
            "lastHeartbeatTime": LONG_AGO, "lastTransitionTime": LONG_AGO})
    });
    let image = |image: usize| {
        let name = format!("registry.example/team/service-{image}");
        json!({"names": [format!("{name}@sha256:{image:064}"), format!("{name}:v1")], "sizeBytes": 1000 + image})
    };
    let mut metadata = metadata(&format!("n{number}"));
    metadata["labels"] = (0..15).map(|label| (format!("example.com/label-{label}"), json!("v".repeat(20)))).collect();
    let mut annotations: serde_json::Map<String, Value> =
        (0..8).map(|key| (format!("example.com/annotation-{key}"), json!("v".repeat(60)))).collect();
    if number < 2 {
        let now = jiff::Timestamp::now().strftime("%FT%TZ").to_string();
        for (key, value) in [("method", "power-off"), ("fenced-at", &now), ("fenced-by", "alice")] {
            annotations.insert(format!("fencegate.dev/{key}"), json!(value));
        }
    }
    metadata["annotations"] = annotations.into();
    let taint = json!({"key": TAINT, "value": "nodeshutdown", "effect": "NoExecute"});
    let taints = if number == 0 { json!([taint]) } else { json!([]) };
    json!({
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": metadata,
        "spec": {"podCIDR": "10.0.0.0/24", "providerID": format!("aws:///z/i-{number:017}"), "taints": taints},
        "status": {
            "conditions": conditions,
            "addresses": [{"type": "InternalIP", "address": format!("10.{}.{}.{}", number >> 16, (number >> 8) & 255, number & 255)}],
            "images": (0..50).map(image).collect::<Vec<_>>(),
            "nodeInfo": {"bootID": format!("boot-{number}"), "machineID": "m", "systemUUID": "s", "kernelVersion": "6",
                "osImage": "x", "containerRuntimeVersion": "containerd://2", "kubeletVersion": "v1.37.2",
                "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64"},
        },
    })
}

/// A pod of a ReplicaSet, without a volume.
fn pod(number: usize, nodes: usize) -> Value {
    let mut metadata = metadata(&format!("p{number}"));
    metadata["namespace"] = json!("default");
    metadata["labels"] = json!({"app": "x", "pod-template-hash": "abc"});
    metadata["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": "u", "controller": true}]);
    let env = |name: usize| json!({"name": format!("E{name}"), "value": "v".repeat(30)});
    let container = json!({"name": "c", "image": "registry.example/team/service:v1", "env": (0..10).map(env).collect::<Vec<_>>(),
        "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent"});
    let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": LONG_AGO}));
    json!({
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": metadata,
        "spec": {"nodeName": format!("n{}", number % nodes), "containers": [container], "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "securityContext": {},
            "schedulerName": "default-scheduler"},
        "status": {"phase": "Running", "qosClass": "BestEffort", "conditions": conditions},
    })
}

/// A volume on a node other than `n0` and `n1`: a release there passes.
fn attachment(number: usize, nodes: usize) -> Value {
    let mut metadata = metadata(&format!("csi-{number}"));
    metadata["annotations"] = json!({"csi.alpha.kubernetes.io/node-id": format!("i-{number:017}")});
    metadata["finalizers"] = json!(["external-attacher/ebs-csi-aws-com"]);
    let node = 2 + number % (nodes - 2);
    json!({
        "kind": "VolumeAttachment",
        "apiVersion": "storage.k8s.io/v1",
        "metadata": metadata,
        "spec": {"attacher": "ebs.csi.aws.com", "nodeName": format!("n{node}"),
            "source": {"persistentVolumeName": format!("pvc-00000000-0000-0000-0000-{number:012}")}},
        "status": {"attached": true, "attachmentMetadata": {"devicePath": "/dev/xvdba"}},
    })
}

/// Sends each write some times, as a dry run. Returns how long each took.
async fn measured(client: &Client, rounds: usize) -> Vec<(&'static str, Vec<Duration>)> {
    let taint = json!({"key": TAINT, "value": "nodeshutdown", "effect": "NoExecute"});
    let writes = [
        ("release", "n0", json!({"spec": {"taints": null}})),
        ("place", "n1", json!({"spec": {"taints": [taint]}})),
        ("label", "n2", json!({"metadata": {"labels": {"a": "b"}}})),
    ];
    let mut all = Vec::new();
    for (name, node, patch) in writes {
        let mut times = Vec::new();
        for _ in 0..rounds {
            let start = Instant::now();
            let path = format!("/api/v1/nodes/{node}?dryRun=All");
            let answer = call(client, Method::PATCH, &path, Some(patch.clone())).await;
            times.push(start.elapsed());
            answer.unwrap_or_else(|error| panic!("{name}: {}", error.message));
        }
        all.push((name, times));
    }
    all
}

/// `latencyMs` of the audit lines.
fn own_times(gate: &Gate, webhook: &str, transition: &str) -> Vec<Duration> {
    let log = gate.audit_log();
    let lines = log.iter().filter(|line| line["webhook"] == webhook && line["transitions"] == json!([transition]));
    lines.map(|line| Duration::from_secs_f64(line["latencyMs"].as_f64().unwrap() / 1000.0)).collect()
}

/// The median and the longest.
fn shown(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort();
    match (sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(median), Some(longest)) => {
            format!("{:.1} ms (≤ {:.1})", median.as_secs_f64() * 1e3, longest.as_secs_f64() * 1e3)
        }
        _ => "-".to_owned(),
    }
}
