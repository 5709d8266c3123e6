//! Many writers, several replicas, and the loss of one.

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

/// Guarded writes to the Node `busy`, again and again: evidence that is fine and a taint that is
/// not.
pub struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    workers: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    /// Starts workers that stop on demand and return what went wrong with their calls.
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
                            // A write that meets another one is the API server's to refuse, and to
                            // be tried again.
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

    /// How many there were.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Waits for that many more calls.
    pub async fn goes_on(&self, plane: &Plane, calls: usize) {
        let until = self.calls.load(Ordering::Relaxed) + calls;
        plane.until("the load goes on", async |_| self.calls.load(Ordering::Relaxed) >= until).await;
    }

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
