//! `make cluster`: a control plane with three simulated machines, a database, and the gate in
//! front, left running for people.

#![allow(dead_code, reason = "the tests' harness has more than people need")]

#[path = "../tests/harness/mod.rs"]
mod harness;
#[path = "../tests/support/mod.rs"]
mod support;

use harness::{gate::Gate, machine, plane::Plane};

#[tokio::main]
async fn main() {
    let mut plane = Plane::start().await;
    let (_machines, _san, _tasks) = machine::start(&mut plane);
    plane.until("three nodes are there", async |plane| nodes(plane).await == 3).await;
    let _gate = Gate::guard(&plane).await;
    println!("export KUBECONFIG={}", plane.kubeconfig("admin"));
    println!("# {} is the kubectl that belongs to it; Ctrl-C ends it all", plane.kubectl_path().display());
    // Nothing to do if there is no such signal to wait for: it ends at once.
    let _ = tokio::signal::ctrl_c().await;
}

async fn nodes(plane: &Plane) -> usize {
    let list = plane.get("/api/v1/nodes").await.unwrap_or_default();
    list.get("items").and_then(serde_json::Value::as_array).map_or(0, Vec::len)
}
