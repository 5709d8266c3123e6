//! Many writers at once, and several replicas, one of which is lost.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{
        gate::Gate,
        plane::{Plane, call},
    },
    world::{TAINT, attach, is_tainted, lone_node, now, of_node, plane_with_alice},
};

/// Guarded writes to the Node `busy`, without a pause: valid evidence, which is allowed, and a
/// taint, which is denied.
pub struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    workers: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    /// Starts the workers. Each returns the errors of its calls.
    pub fn start(plane: &Plane) -> Self {
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
                            // A write that conflicts with another one is repeated.
                            let answer = loop {
                                let answer =
                                    call(&client, Method::PATCH, "/api/v1/nodes/busy", Some(patch.clone())).await;
                                calls.fetch_add(1, Ordering::Relaxed);
                                if !answer.as_ref().is_err_and(|error| error.code == 409) {
                                    break answer;
                                }
                            };
                            match answer {
                                Ok(_) if is_fine => {}
                                Err(error) if !is_fine && error.message.contains("EvidenceMissing") => {}
                                Ok(_) => failed.push("ADMITTED".to_owned()),
                                Err(error) => failed.push(error.message),
                            }
                        }
                    }
                    failed
                })
            })
            .collect();
        Self { stop, calls, workers }
    }

    /// The number of calls.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Waits until the workers have made this many more calls.
    pub async fn goes_on(&self, plane: &Plane, calls: usize) {
        let until = self.calls.load(Ordering::Relaxed) + calls;
        plane.until("the load goes on", async |_| self.calls.load(Ordering::Relaxed) >= until).await;
    }

    /// Stops the workers, and returns their errors.
    pub async fn ends(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failed = Vec::new();
        for worker in self.workers {
            failed.extend(worker.await.unwrap());
        }
        failed
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replica_allows_no_write_and_a_draining_one_fails_no_call() {
    let plane = plane_with_alice().await;
    let mut gate = Gate::guard_with(&plane, 3).await;
    lone_node(&plane, "busy", false).await;

    let load = Load::start(&plane);
    load.goes_on(&plane, 200).await;
    gate.replicas[0].kill();
    gate.remove_endpoint(0);
    load.goes_on(&plane, 400).await;
    let failed = load.ends().await;
    assert!(
        failed.iter().all(|why| why.contains("failed calling webhook")),
        "calls to it fail, and a retry succeeds: {failed:?}"
    );

    let load = Load::start(&plane);
    load.goes_on(&plane, 200).await;
    gate.replicas[1].terminate();
    plane.until("the replica is not ready", async |_| !gate.replicas[1].is_ready().await).await;
    // A Service needs a moment until it stops sending new connections.
    load.goes_on(&plane, 50).await;
    gate.remove_endpoint(1);
    plane.until("the replica is gone", async |_| !gate.replicas[1].is_alive().await).await;
    load.goes_on(&plane, 200).await;
    assert_eq!(load.ends().await, Vec::<String>::new(), "a draining replica fails no call");
    assert!(!is_tainted(&of_node(&plane, "busy").await));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_never_store_a_node_that_breaks_the_laws() {
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
                        // Each writer starts at another patch, so that all kinds of writes are
                        // concurrent.
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
    // From now on, a volume is attached: the taint may be placed, but not removed.
    attach(&plane, "va", "raced").await;
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
