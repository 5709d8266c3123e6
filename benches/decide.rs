//! Measures how long a review takes: parsing it, deciding about it and serialising the answer. The
//! facts come from memory, so the time that an API server needs for them is not included.
//!
//! Run it with `make bench`. Compare only rows of the same run: absolute times depend on the
//! machine.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a benchmark that cannot run fails")]

use divan::{Bencher, black_box};
use fencegate::{
    admission::review::{self, Answer},
    cluster::Snapshot,
    policy::{decide, facts::Facts, facts_needed, review::Webhook, settings::Settings},
};
use serde_json::{Value, json};

fn main() {
    divan::main();
}

/// A Node as in a busy cluster, with `images` images and as many entries of `managedFields`.
fn node(images: usize, tainted: bool) -> Value {
    let image =
        |n: usize| json!({"names": [format!("registry.example/team/service-{n}@sha256:{n:064}")], "sizeBytes": n});
    let field = |n: usize| json!({"manager": format!("m{n}"), "fieldsV1": {"f:metadata": {"f:labels": {"f:a": {}}}}});
    let taint = json!({"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"});
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": "worker-2",
            "annotations": {
                "fencegate.dev/method": "power-off",
                "fencegate.dev/fenced-at": "2026-11-22T10:11:00Z",
                "fencegate.dev/fenced-by": "alice",
            },
            "managedFields": (0..images).map(field).collect::<Vec<_>>(),
        },
        "spec": {"taints": if tainted { json!([taint]) } else { json!([]) }},
        "status": {
            "conditions": [{"type": "Ready", "status": "Unknown", "lastHeartbeatTime": "2026-11-22T10:09:58Z"}],
            "images": (0..images).map(image).collect::<Vec<_>>(),
            "nodeInfo": {"bootID": "2b9d4c11-83f0-4f57-a5b5-5b7c0e2f9d02"},
        },
    })
}

fn body(images: usize, before: bool, after: bool) -> Vec<u8> {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "operation": "UPDATE",
            "userInfo": {"username": "alice", "groups": ["system:authenticated"]},
            "oldObject": node(images, before),
            "object": node(images, after),
        },
    });
    review.to_string().into_bytes()
}

/// From the bytes of a review to the bytes of the answer.
fn answer(body: &[u8], snapshot: &Snapshot, settings: &Settings) -> Vec<u8> {
    let now = "2026-11-22T10:12:00Z".parse().unwrap();
    let review = review::read(body).unwrap();
    let request = review.request().unwrap();
    let query = facts_needed(request, settings);
    let facts = if query.is_empty() { Facts::at(now) } else { snapshot.read(request, &query, now) };
    serde_json::to_vec(&Answer::new(Webhook::Validate, &review, &decide(Webhook::Validate, request, &facts, settings)))
        .unwrap()
}

#[divan::bench(args = [0, 50, 500])]
fn place(bencher: Bencher, images: usize) {
    let (body, snapshot, settings) = (body(images, false, true), Snapshot::example().unwrap(), Settings::default());
    bencher.bench(|| answer(black_box(&body), &snapshot, &settings));
}

#[divan::bench(args = [0, 50, 500])]
fn release(bencher: Bencher, images: usize) {
    let (body, snapshot, settings) = (body(images, true, false), Snapshot::example().unwrap(), Settings::default());
    bencher.bench(|| answer(black_box(&body), &snapshot, &settings));
}

#[divan::bench(args = [0, 50, 500])]
fn nothing_guarded(bencher: Bencher, images: usize) {
    let (body, snapshot, settings) = (body(images, false, false), Snapshot::example().unwrap(), Settings::default());
    bencher.bench(|| answer(black_box(&body), &snapshot, &settings));
}

/// The same bytes, parsed completely. The difference is what the gate saves by skipping the fields
/// that it does not judge.
#[divan::bench(args = [0, 50, 500])]
fn parse_everything(bencher: Bencher, images: usize) {
    let body = body(images, false, true);
    bencher.bench(|| serde_json::from_slice::<Value>(black_box(&body)).unwrap());
}
