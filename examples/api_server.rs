//! `make bench-cluster`: what the API server and its users feel of the gate.
//!
//! The same writes are sent without the gate and with its three layers, in turn. It fails if the
//! gate is called for a write that it does not guard.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "what cannot be measured fails")]
#![allow(dead_code, reason = "the tests use more of the harness")]

#[path = "../tests/harness/mod.rs"]
mod harness;

use std::time::{Duration, Instant};

use harness::{
    gate::{Gate, rendered},
    plane::{Plane, call},
};
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const LONG_AGO: &str = "2026-11-20T00:00:00Z";
const PLACE: &str = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
/// A taint that nobody guards.
const OTHER: &str = "example.com/out-of-service=nodeshutdown:NoExecute";
/// Writers at once, each with a Node of its own.
const WRITERS: usize = 8;

/// How long writes of one kind took, without the gate and with it.
#[derive(Default)]
struct Times([Vec<Duration>; 2]);

impl Times {
    fn medians(&mut self) -> [f64; 2] {
        self.0.each_mut().map(|times| {
            times.sort();
            times[times.len() / 2].as_secs_f64() * 1e3
        })
    }
}

#[tokio::main]
async fn main() {
    let number = |name: &str, default: usize| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
    };
    let (rounds, writes) = (number("ROUNDS", 8), number("WRITES", 200));
    let plane = Plane::without_controllers().await;
    for name in 0..WRITERS {
        plane.create("/api/v1/nodes", node(&format!("n{name}"))).await;
    }
    let lease = json!({"metadata": {"name": "n0"}, "spec": {"holderIdentity": "n0", "leaseDurationSeconds": 4,
        "renewTime": "2026-11-20T00:00:00.000000Z"}});
    plane.create("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", lease).await;
    let gate = Gate::guard(&plane).await;
    let now = jiff::Timestamp::now().strftime("%FT%TZ").to_string();
    let evidence = json!({"fencegate.dev/method": "power-off", "fencegate.dev/fenced-at": now, "fencegate.dev/fenced-by": "alice"});
    plane
        .api("admin", Method::PATCH, "/api/v1/nodes/n0", Some(json!({"metadata": {"annotations": evidence}})))
        .await
        .unwrap();
    let taint = ["taint", "node", "n0", PLACE, "--dry-run=server"];
    plane.until("the Lease has run out", async |plane| plane.kubectl("admin", &taint, "").status.success()).await;
    let mut objects = rendered(&plane, "default");
    objects.retain(|object| {
        let kind = object["kind"].as_str().unwrap();
        kind.ends_with("WebhookConfiguration") || kind == "ValidatingAdmissionPolicyBinding"
    });
    let layers: Vec<Value> = objects.into_iter().map(|object| gate.within_reach(object)).collect();
    let layers = json!({"apiVersion": "v1", "kind": "List", "items": layers}).to_string();

    let [mut taint, mut other, mut label, mut heartbeat] = [(); 4].map(|()| Times::default());
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        // What changes from block to block must not count for one of the two.
        for with_gate in [round % 2 == 1, round % 2 == 0] {
            eprintln!("round {} of {rounds}, {} the gate", round + 1, if with_gate { "with" } else { "without" });
            let (verb, called): (&[&str], &[&str]) = if with_gate {
                (&["apply", "-f", "-"], &["mutate", "validate"])
            } else {
                (&["delete", "--ignore-not-found", "-f", "-"], &[])
            };
            let changed = plane.kubectl("admin", verb, &layers);
            assert!(changed.status.success(), "{}", String::from_utf8_lossy(&changed.stderr));
            gate.until_called(&plane, called).await;
            let mode = usize::from(with_gate);
            for _ in 0..writes / 20 {
                taint.0[mode].push(kubectl_taint(&plane, PLACE));
                other.0[mode].push(kubectl_taint(&plane, OTHER));
            }
            let before = gate.reviews().await;
            let client = plane.client("admin");
            for number in 0..writes {
                let patch = json!({"metadata": {"labels": {"n": format!("{round}-{mode}-{number}")}}});
                label.0[mode].push(write(&client, "/api/v1/nodes/n1", patch).await);
                let beat = jiff::Timestamp::now().strftime("%FT%TZ").to_string();
                let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": format!("KubeletReady{number}"),
                    "lastHeartbeatTime": beat}]}});
                heartbeat.0[mode].push(write(&client, "/api/v1/nodes/n1/status", patch).await);
            }
            rates[mode].push(rate(&plane, writes).await);
            assert_eq!(gate.reviews().await, before, "the gate was called for a write that it does not guard");
        }
    }

    println!("{:<44}{:>14}{:>14}{:>8}", "", "without", "with the gate", "ratio");
    for (name, times) in [
        ("kubectl taint, guarded", &mut taint),
        ("kubectl taint, another key", &mut other),
        ("label", &mut label),
        ("heartbeat", &mut heartbeat),
    ] {
        let [bare, guarded] = times.medians();
        println!("{name:<44}{bare:>11.2} ms{guarded:>11.2} ms{:>8.3}", guarded / bare);
    }
    let [bare, guarded] = rates.each_mut().map(|rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    println!("{:<44}{bare:>10.0} / s {guarded:>10.0} / s {:>8.3}", "updates of Nodes by 8 writers", guarded / bare);
    let ([_, taint], [_, other]) = (taint.medians(), other.medians());
    println!("kubectl taint, guarded ÷ another key, both with the gate: {:.2}", taint / other);
}

/// A Node that has been silent for long, with 50 images.
fn node(name: &str) -> Value {
    let image = |image: usize| {
        let name = format!("registry.example/team/service-{image}");
        json!({"names": [format!("{name}@sha256:{image:064}"), format!("{name}:v1")], "sizeBytes": 1000 + image})
    };
    json!({
        "metadata": {"name": name},
        "status": {
            "conditions": [{"type": "Ready", "status": "Unknown", "lastHeartbeatTime": LONG_AGO, "lastTransitionTime": LONG_AGO}],
            "images": (0..50).map(image).collect::<Vec<_>>(),
            "nodeInfo": {"bootID": "boot-1", "machineID": "m", "systemUUID": "s", "kernelVersion": "6",
                "osImage": "x", "containerRuntimeVersion": "containerd://2", "kubeletVersion": "v1.37.2",
                "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64"},
        },
    })
}

/// Adds a taint to `n0` with kubectl, as a dry run. Returns how long that took.
fn kubectl_taint(plane: &Plane, taint: &str) -> Duration {
    let start = Instant::now();
    let output = plane.kubectl("admin", &["taint", "node", "n0", taint, "--dry-run=server"], "");
    let took = start.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    took
}

async fn write(client: &kube::Client, path: &str, change: Value) -> Duration {
    let start = Instant::now();
    call(client, Method::PATCH, path, Some(change)).await.unwrap();
    start.elapsed()
}

/// Updates of Nodes a second.
async fn rate(plane: &Plane, writes: usize) -> f64 {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for writer in 0..WRITERS {
        let client = plane.client("admin");
        tasks.spawn(async move {
            for number in 0..writes {
                let patch = json!({"metadata": {"labels": {"rate": number.to_string()}}});
                write(&client, &format!("/api/v1/nodes/n{writer}"), patch).await;
            }
        });
    }
    tasks.join_all().await;
    f64::from(u32::try_from(WRITERS * writes).unwrap()) / start.elapsed().as_secs_f64()
}
