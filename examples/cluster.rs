//! `make cluster`: starts a control plane with three simulated machines and the gate in front of
//! it, and keeps it running until Ctrl-C.

#![allow(dead_code, reason = "the tests use more of the harness")]

#[path = "../tests/harness/mod.rs"]
mod harness;
#[path = "../tests/support/mod.rs"]
mod support;

use harness::{gate::Gate, machine, plane::Plane};

#[tokio::main]
async fn main() {
    let mut plane = Plane::start().await;
    let (_machines, _san, _tasks) = machine::start(&mut plane);
    plane.until("three nodes exist", async |plane| nodes(plane).await == 3).await;
    let _gate = Gate::guard(&plane).await;
    println!("export KUBECONFIG={}", plane.kubeconfig("admin"));
    println!("# the kubectl of this version is {}; Ctrl-C stops everything", plane.tool("kubectl").display());
    // If waiting for the signal fails, the program stops at once.
    let _ = tokio::signal::ctrl_c().await;
}

async fn nodes(plane: &Plane) -> usize {
    let list = plane.get("/api/v1/nodes").await.unwrap_or_default();
    list.get("items").and_then(serde_json::Value::as_array).map_or(0, Vec::len)
}
